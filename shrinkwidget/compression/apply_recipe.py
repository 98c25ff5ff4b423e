"""A recipe carried out on a whole model: every layer in codes, exact figures, and the weights of the new model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..analysis.estimate import Estimate, LayerEstimate, assembled, layer_estimate
from ..analysis.model_tensors import (
    ModelTensors,
    TensorEntry,
    needs_bfloat16,
    peak,
    rounded,
    stored_dtype,
    where_float64_is,
)
from ..analysis.parallel_tensor_ops import Watch, chunks, count_true, each, energy, working
from ..analysis.run_without_side_effects import reason
from ..analysis.sketch import Sketch, counted
from ..analysis.tied_and_parametrized_weights import clusters, plain_weights
from ..errors import ModelError
from ..recipe import Plan, Recipe
from .encode_and_decode_layer import EncodedTensor, LayerWeights, decode, encode_layer, encoded_already, layer_of
from .pruning_masks import Selection, changed, selections

Write: TypeAlias = Callable[[str, Tensor], None]
"""Takes a tensor's name and its values."""


@dataclass(frozen=True, slots=True, eq=False)
class SelectedLayer:
    """One layer with its plan, and which of its weights survive."""

    entry: TensorEntry
    plan: Plan
    selection: Selection

    def weights(self) -> LayerWeights:
        """Return the weights with their survivors marked, ready for rounding.

        Raises:
            ModelError: if not as many weights survive as the sketch says.
        """
        keep = self.selection.mask(self.entry.rows()) if self.selection.kept < self.entry.numel else None
        if keep is not None and count_true(keep) != self.selection.kept:
            raise changed(self.entry.name)
        return layer_of(self.entry, keep, self.plan)


def select_layers(
    weights: ModelTensors, recipe: Recipe, known: Sketch, cancelled: Watch | None = None, pruned: bool = False
) -> list[SelectedLayer]:
    """Return every compressible layer with its plan and survivors; see `selections`."""
    chosen = selections(weights, recipe, known, cancelled, pruned)
    return [SelectedLayer(*item) for item in zip(weights.layers, known.plans(recipe), chosen, strict=True)]


def encode_layers(
    weights: ModelTensors,
    recipe: Recipe,
    known: Sketch | None = None,
    cancelled: Watch | None = None,
    write: Write | None = None,
    pruned: bool = False,
    given: Mapping[str, EncodedTensor] = MappingProxyType({}),
) -> tuple[dict[str, EncodedTensor], Estimate]:
    """Return the codes of every compressible layer that is not under Keep, by name, and the exact figures.

    Nothing in the codes shares memory with the model. The effective weights, decoded for the figures, are given to
    `write` under the layer's name, from any thread. `pruned`: see `selections`. `given`: layers, by name, whose codes
    were chosen already, for the same masks.

    Raises:
        Cancelled: as soon as `cancelled`, polled between layers, says so.
        RecipeError: if an override matches no layer.
        ModelError: for NaN or infinite weights, and for weights that changed since they were sketched.
    """
    known = known or counted(weights)
    chosen = select_layers(weights, recipe, known, cancelled, pruned)
    encoded, figures = {}, []
    for codes, figure in encode_one_by_one(weights, known, chosen, cancelled, write, given):
        if codes is not None:
            encoded[codes.name] = codes
        figures.append(figure)
    return encoded, assembled(known, recipe, [layer.plan for layer in chosen], figures, exact=True)


def encode_one_by_one(
    weights: ModelTensors,
    known: Sketch,
    chosen: Sequence[SelectedLayer],
    cancelled: Watch | None = None,
    write: Write | None = None,
    given: Mapping[str, EncodedTensor] = MappingProxyType({}),
) -> Iterator[tuple[EncodedTensor | None, LayerEstimate]]:
    """Yield the codes of every selected layer, None under Keep, and its exact figures; see `encode_layers`.

    A few layers are encoded ahead of the one that is taken.
    """

    def one(layer: SelectedLayer) -> tuple[EncodedTensor | None, float, float]:
        if layer.plan.keep:
            flat = where_float64_is(layer.entry.load()).reshape(-1)
            return None, sum(energy(working(piece)) for piece in chunks(flat)), 0.0
        if layer.entry.name in given:
            done = encoded_already(layer.weights(), given[layer.entry.name])
        else:
            done = encode_layer(layer.weights(), want_effective=write is not None)
        if write is not None and done.effective is not None:
            write(layer.entry.name, done.effective)
        return done.encoded, done.signal, done.noise

    for look, layer, (codes, signal, noise) in zip(
        known.layers, chosen, each(one, chosen, cancelled, weights.on_gpu), strict=True
    ):
        if not math.isfinite(signal):  # those of a sketch are: they have changed since
            raise changed(layer.entry.name)
        kept, threshold = layer.selection.kept, layer.selection.threshold
        yield codes, layer_estimate(look, layer.plan, kept, threshold, signal, noise)


def decoded_state(
    weights: ModelTensors, recipe: Recipe, encoded: Mapping[str, EncodedTensor], cancelled: Watch | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every saved tensor as the file would load it, from the codes of `encode_layers`. One of its names.

    Raises:
        Cancelled: as soon as `cancelled` says so.
    """
    items = list(encoded.values())
    yield from zip(encoded, each(decode, items, cancelled, weights.on_gpu), strict=True)
    for entry in weights.layers:
        if entry.name not in encoded:
            yield entry.name, entry.load()
    for entry in weights.uncompressed:
        yield entry.name, uncompressed_value(entry, recipe.uncompressed_bits)


def uncompressed_value(entry: TensorEntry, bits: int) -> Tensor:
    """Return a tensor that is not compressed as `bits` bits leave it, in its own dtype."""
    tensor = entry.load()
    wide = tensor.dtype in (torch.float32, torch.float64)
    halved = wide and bits == 16 and needs_bfloat16(tensor.dtype, peak(tensor))
    return rounded(tensor, stored_dtype(tensor.dtype, bits, halved)).to(tensor.dtype)


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model: its class, hooks, ties, devices, dtypes and training modes, but no gradients.

    What the model holds besides its parameters and buffers is copied as well, computed tensors without their history.
    Weights that modules compute (masks, weight norm, parametrizations) are plain parameters of the copy.

    Raises:
        ModelError: if it cannot be copied.
    """
    return copied_without(model, ())[0]


def copied_without(model: nn.Module, names: Iterable[str]) -> tuple[nn.Module, Write]:
    """Return a copy of a model (see `copied`) whose parameters of these names are still to be given, and what does so.

    A tensor that is given becomes the parameter itself, without a copy, where it fits and shares no memory: whoever
    gives it must not use it any more.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            # deepcopy refuses these: weights that a hook makes again before each call, activations that are remembered
            memo = {id(tensor): tensor.detach().clone() for tensor in _computed(model)}
            shared, places = _sharing(model), dict(model.named_parameters(remove_duplicate=False))
            # memory that nobody has touched costs nothing, and to be given it takes longer than to fill it
            blank = {
                name: nn.Parameter(torch.empty_like(places[name]), places[name].requires_grad)
                for name in names
                if name in places and type(places[name]) is nn.Parameter and id(places[name]) not in shared
            }
            new = copy.deepcopy(model, memo | shared | {id(places[name]): own for name, own in blank.items()})
    except Exception as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be copied ({reason(error)}), and your own model is "
            f"never changed: remove what copy.deepcopy does not accept, or compress model.state_dict() instead"
        ) from error
    for parameter, original in zip(new.parameters(), model.parameters(), strict=True):
        parameter.grad = None
        if original.requires_grad and not parameter.requires_grad:  # a scripted module's copy forgets it
            parameter.requires_grad_()
    plain_weights(new)
    now, write = dict(new.named_parameters(remove_duplicate=False)), writer(new)

    def give(name: str, tensor: Tensor) -> None:
        place = blank.get(name)
        # a scripted module's copy has parameters of its own
        if place is None or now[name] is not place or not _interchangeable(place, tensor):
            write(name, tensor)
        else:
            place.data = tensor

    return new, give


def _interchangeable(place: Tensor, tensor: Tensor) -> bool:
    """Tell whether a tensor can take the place of a parameter's: in its memory's order, and open to gradients."""
    alike = (place.device, place.dtype, place.stride()) == (tensor.device, tensor.dtype, tensor.stride())
    return alike and not tensor.is_inference()


def _sharing(model: nn.Module) -> dict[int, Tensor]:
    """Return copies, by the id of the original, of all parameters and buffers that look at memory of each other.

    They look at one another's memory in the same way; deepcopy gives a parameter that is a view memory of its own.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    copies: dict[int, Tensor] = {}
    for cluster in clusters((name, tensor) for name, tensor in named if type(tensor) in (Tensor, nn.Parameter)):
        # one copy of the memory that the cluster spans, and on it the same views, strides and all
        first, last = min(start for start, *_ in cluster), max(stop for _, stop, *_ in cluster)
        memory = cluster[0][3].detach().as_strided((last - first,), (1,), first).clone()
        for start, _, _, tensor in cluster:
            view = memory.as_strided(tensor.shape, tensor.stride(), start - first)
            own = nn.Parameter(view, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else view
            own.__dict__.update(vars(tensor))
            copies[id(tensor)] = own
    return copies


def _computed(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors with a history that a model's modules hold, in lists and dicts too."""
    held: list[Any] = [vars(module) for module in model.modules()]
    seen: set[int] = set()
    while held:
        value = held.pop()
        if isinstance(value, Tensor) and not value.is_leaf:
            yield value
        elif isinstance(value, list | tuple | dict) and id(value) not in seen:  # they may hold each other
            seen.add(id(value))
            held.extend(value.values() if isinstance(value, dict) else value)


def writer(model: nn.Module) -> Write:
    """Return what writes tensors over a model's parameters and buffers, by name; on another device they are moved."""
    # with every name of a tied tensor: which of them a state dict uses is the caller's business
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))

    def write(name: str, tensor: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            places[name].copy_(tensor)

    return write


def fill(model: nn.Module, state: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors over a model's parameters and buffers; see `writer`."""
    write = writer(model)
    for name, tensor in state:
        write(name, tensor)
