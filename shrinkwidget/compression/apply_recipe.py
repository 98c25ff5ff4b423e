"""A recipe carried out on a whole model: every layer in codes, exact figures, and the weights of the new model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from ..analysis.estimate import Estimate, LayerEstimate, assembled, layer_estimate
from ..analysis.model_tensors import (
    ModelTensors,
    TensorEntry,
    Write,
    needs_bfloat16,
    peak,
    rounded,
    stored_dtype,
    where_float64_is,
)
from ..analysis.parallel_tensor_ops import Watch, chunks, count_true, each, energy, working
from ..analysis.sketch import Sketch, counted
from ..recipe_and_method_registry import Plan, Recipe
from .encode_and_decode_layer import EncodedTensor, LayerWeights, decode, encode_layer, encoded_already, layer_of
from .pruning_masks import Selection, changed, selections


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
