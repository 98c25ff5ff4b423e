"""Batch norm folded into the layer before it: the same outputs, fewer tensors, and weights as they really act."""

from __future__ import annotations

import copy
import math
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ..analysis.open_model_tensors_and_channel_axes import FIRST, copied, layout_by_class
from ..analysis.run_model_seeded_macs_and_memory import (
    Inputs,
    as_inputs,
    device_of,
    eval_mode,
    moved,
    preserve_rng_state,
    run,
    tensors_in,
)
from ..argument_checks import public
from ..errors import ModelError, a_type, reason
from .module_graph import ModuleCalls, seen, traced

_Layer: TypeAlias = (
    nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)
_DIMENSIONS: Final[dict[type[nn.Module], int]] = {
    nn.Linear: 2,
    nn.Conv1d: 3,
    nn.Conv2d: 4,
    nn.Conv3d: 5,
    nn.ConvTranspose1d: 3,
    nn.ConvTranspose2d: 4,
    nn.ConvTranspose3d: 5,
}
"""Dimensions of what goes through a layer, the batch among them."""
_TOLERANCE: Final = 1e-9
"""Largest difference of outputs computed in float64, as a share of the largest output."""
_ROUNDINGS: Final = 1000
"""By how many roundings of its weights' dtype a whole model's outputs may change: they add up through its layers."""


@dataclass(frozen=True, slots=True)
class _Fold:
    """A layer with the weight and bias it gets, the name of the norm after it, and what stays in the norm's place."""

    layer: _Layer
    weight: Tensor
    bias: Tensor
    name: str
    rest: nn.Module


class _NotFoldedError(Exception):
    """Why a norm stays: the end of a sentence that begins with its name."""


@public()
def fold_batchnorm(model: nn.Module, example: object = None) -> nn.Module:
    """Return a copy of a model in which every batch norm that follows a convolution or a dense layer is part of it.

    The layer gets a bias; of the norm an ``nn.Identity`` stays, or what else it did, such as the activation in timm's.
    In eval mode the outputs are the same up to rounding, and pruned weights stay zero.

    Which norms follow which layers is found by tracing (``torch.fx``), and every pair is run before and after, on
    random numbers: where outputs would change it is left as it is. So it is if the layer's output or weights are used
    elsewhere, too, if one of the two is called twice or hooked, if the layer is tied or parametrized, or if the norm
    takes its statistics from the batch.

    A norm in one dimension is folded for N×C after a dense layer and N×C×L after a convolution. It would see channels
    in other places of other inputs, such as sequences N×L×C: these the folded model refuses.

    Args:
        model: the model; it is untouched.
        example: for a model that tracing cannot follow, as most of Hugging Face's, one input to run it on (a tensor, a
            tuple of positional or a dict of keyword arguments). What is called is then what the example calls, and the
            outputs of the whole model on it are compared as well.

    Raises:
        ModelError: for a model that cannot be traced where there is no example, or in which there is nothing to fold,
            with the reason; or if the example's outputs would change.
        DataError: if the model cannot run the example.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> model = sw.demo.model()
        >>> folded = sw.fold_batchnorm(model)
        >>> sw.summary(folded).parameters < sw.summary(model).parameters
        True
        >>> images, _ = sw.demo.data("valid")
        >>> torch.allclose(folded(images), model(images), atol=1e-4)
        True
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"cannot fold {a_type(model)}: give "
            + ("its .model" if isinstance(getattr(model, "model", None), nn.Module) else "an nn.Module")
        )
    new = copied(model)
    inputs = None if example is None else moved(as_inputs(example), device_of(new))
    folds, left = [], []
    with eval_mode(new), preserve_rng_state():
        calls = _calls(new, inputs)
        for norm, name in [(norm, name) for norm, name in calls.names.items() if _is_norm(norm)]:
            try:
                folds.append(_fold(name, norm, _layer_before(norm, new, calls)))
            except _NotFoldedError as found:
                left.append(f"{name!r} {found}")
    if not folds:
        why = left[0] if left else "no batch norm is the only user of a convolution or a dense layer"
        more = f" (and {len(left) - 1} more are left)" if len(left) > 1 else ""
        raise ModelError(f"there is nothing to fold in this {type(model).__name__}: {why}{more}")
    for fold in folds:
        _replace(new, fold)
    if inputs is not None:
        _refuse_other_outputs(model, new, inputs)
    return new


def _calls(model: nn.Module, inputs: Inputs | None) -> ModuleCalls:
    """Return what a model calls: of every forward pass if torch.fx can follow it, else of that of an example."""
    try:
        return traced(model, _is_whole)
    except Exception as error:
        if inputs is not None:
            return seen(model, inputs, _is_whole)
        raise ModelError(
            f"cannot fold this {type(model).__name__}: torch.fx cannot follow its forward ({reason(error)}); "
            f"give an example input, fold_batchnorm(model, example), and it is run to see what follows what"
        ) from error


def _is_whole(module: nn.Module) -> bool:
    """Tell layers and norms, also those of other libraries."""
    return isinstance(module, _Layer) or _is_norm(module)


def _is_norm(module: nn.Module) -> bool:
    """Tell a batch norm, or one of the frozen kind, which has its four tensors but not its class."""
    if isinstance(module, _BatchNorm):
        return True
    tensors = [getattr(module, name, None) for name in ("weight", "bias", "running_mean", "running_var")]
    return "BatchNorm" in type(module).__name__ and all(isinstance(x, Tensor) and x.ndim == 1 for x in tensors)


def _layer_before(norm: nn.Module, model: nn.Module, calls: ModuleCalls) -> _Layer:
    """Return the layer whose output goes to this norm alone, once, if nothing else has a part in it.

    Raises:
        _NotFoldedError: for any other norm.
    """
    layer = calls.before.get(norm)
    if calls.times[norm] > 1:
        raise _NotFoldedError("is called more than once")
    if norm in calls.weights_used:
        raise _NotFoldedError("has weights or statistics that are used elsewhere, too")
    if not isinstance(layer, _Layer):
        raise _NotFoldedError("does not follow a convolution or a dense layer directly")
    path = calls.names[layer]
    if layer in calls.outputs_used or calls.times[layer] > 1:
        raise _NotFoldedError(f"follows {path!r}, whose output or weights are used elsewhere, too")
    if layer in calls.weights_used:
        raise _NotFoldedError(f"follows {path!r}, whose weights are used elsewhere, too")
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    weight = layer._parameters.get("weight")
    if weight is None or owners[id(weight)] > 1 or is_parametrized(layer):
        raise _NotFoldedError(f"follows {path!r}, whose weight is tied, or computed from others")
    # A hook sees, and may change, what goes between the two; folded, there is no such place.
    if any(module._forward_hooks or module._forward_pre_hooks for module in (layer, norm)):
        raise _NotFoldedError(f"or {path!r} before it is hooked: remove the hook first")
    return layer


@torch.no_grad()
def _fold(name: str, norm: nn.Module, layer: _Layer) -> _Fold:
    """Return what becomes of a layer and the norm after it.

    Raises:
        _NotFoldedError: if they would not do the same afterwards, on random numbers.
    """
    if getattr(norm, "running_mean", None) is None or norm.training:
        raise _NotFoldedError("takes its statistics from the batch, in eval mode too")
    # Tried rather than derived: subclasses of Linear and of BatchNorm may compute anything. In float64 on random
    # inputs, an affine map that is the same on these is the same everywhere.
    exact, exact_norm = copy.deepcopy(layer).cpu().double(), copy.deepcopy(norm).cpu().double()
    generator = torch.Generator().manual_seed(0)
    if isinstance(exact, nn.Linear):
        inputs = torch.randn(8, exact.in_features, generator=generator, dtype=torch.float64)
    else:  # a little larger than the filter, so that there are several positions, and padding at some of them
        reach = [dilation * (size - 1) + 4 for size, dilation in zip(exact.kernel_size, exact.dilation, strict=True)]
        inputs = torch.randn(2, exact.in_channels, *reach, generator=generator, dtype=torch.float64)
    try:
        expected = exact_norm(exact(inputs))
        _set(exact, *_with_norm(exact, exact_norm))  # in float64, so that what is left of a difference is no rounding
        rest = _rest(norm, layer)
        found = copy.deepcopy(rest).cpu().double()(exact(inputs))
        change = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
    except Exception as error:
        raise _NotFoldedError(f"cannot be tried with the layer before it ({reason(error)})") from error
    if not math.isfinite(change):
        raise _NotFoldedError("gives outputs that are not finite")
    if change > _TOLERANCE:
        raise _NotFoldedError(
            f"would change the outputs by {change:.1%}: it or the layer before it does something else"
        )
    # A channel whose variance is nearly 0 is scaled by up to 1/√ε ≈ 316, which float16 may not hold.
    weight, bias = exact.weight.to(layer.weight), cast(Tensor, exact.bias).to(layer.weight)
    if not bool(weight.isfinite().all() and bias.isfinite().all()):
        raise _NotFoldedError("would make weights of the layer before it larger than their dtype can hold")
    return _Fold(layer, weight, bias, name, rest)


def _with_norm(layer: _Layer, norm: Any) -> tuple[Tensor, Tensor]:
    """Return a layer's weight and bias with the norm's affine map of each output channel in them."""
    deviation = (norm.running_var + getattr(norm, "eps", 1e-5)).sqrt()  # where it is fixed, it is what torch's is
    scale = (1.0 if norm.weight is None else norm.weight) / deviation
    bias = 0.0 if layer.bias is None else layer.bias
    shift = (bias - norm.running_mean) * scale + (0.0 if norm.bias is None else norm.bias)
    layout, shape = layout_by_class(layer, tuple(layer.weight.shape)) or FIRST, tuple(layer.weight.shape)
    return layout.restored(layout.rows(layer.weight) * scale[:, None], shape), shift


class _Was1d(nn.Identity):
    """In the place of a folded norm of one dimension: refuses what it would not have normalized by channel.

    `torch._assert` is followed by torch.fx, export and script, where an ``if`` is not.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # as nn.Identity has it
        """Return the input."""
        torch._assert(  # type: ignore[no-untyped-call]
            input.ndim == self.dimensions,
            "a batch norm was folded for inputs with channels in dimension 1: use the unfolded model for others",
        )
        return input


def _rest(norm: nn.Module, layer: _Layer) -> nn.Module:
    """Return what a norm does besides: its children, one after the other, such as timm's dropout and activation."""
    dimensions = next(count for kind, count in _DIMENSIONS.items() if isinstance(layer, kind))
    children = OrderedDict((name, copy.deepcopy(child)) for name, child in norm.named_children())
    identity = _Was1d(dimensions) if dimensions < 4 else nn.Identity()
    if all(isinstance(child, nn.Identity) for child in children.values()):
        return identity
    return nn.Sequential(children if dimensions >= 4 else OrderedDict(norm=identity, **children))


def _set(layer: _Layer, weight: Tensor, bias: Tensor) -> None:
    """Give a layer another weight and bias, in the memory order and as trainable as before."""
    trains = layer.weight.requires_grad
    new = torch.empty_like(layer.weight)
    layer.weight = nn.Parameter(new.copy_(weight), trains)
    layer.bias = nn.Parameter(bias.clone(), trains)


@torch.no_grad()
def _replace(model: nn.Module, fold: _Fold) -> None:
    norm = model.get_submodule(fold.name)
    _set(fold.layer, fold.weight, fold.bias)
    parent, _, name = fold.name.rpartition(".")
    model.get_submodule(parent).register_module(name, fold.rest.train(norm.training))


@torch.no_grad()
def _refuse_other_outputs(model: nn.Module, folded: nn.Module, inputs: Inputs) -> None:
    """Compare all that two models return, computed in float64 where they can.

    Raises:
        ModelError: if it is not the same up to the rounding of the folded weights to their dtype.
    """
    try:
        change = _difference(copied(model).double(), copied(folded).double(), _double(inputs))
    except Exception:  # noqa: BLE001  # a model may insist on its own dtype, or its device have no float64
        change = _difference(model, folded, inputs)
    coarsest = max(torch.finfo(p.dtype).eps for p in folded.parameters() if p.is_floating_point())
    # Of bfloat16 a thousand roundings are more than the outputs themselves: a tenth of them is the most. NaN is
    # refused.
    if not change <= min(_ROUNDINGS * coarsest, 0.1):
        raise ModelError(
            f"cannot fold this {type(model).__name__}: its outputs on the example would change by {change:.2%}, so it "
            f"does more with its layers than the example's run shows; fold its parts"
        )


def _difference(model: nn.Module, other: nn.Module, inputs: Inputs) -> float:
    """Return the largest difference of two models' outputs, as a share of the largest output of its tensor."""
    with preserve_rng_state():
        expected = list(tensors_in(run(model, *inputs)))
    with preserve_rng_state():
        found = list(tensors_in(run(other, *inputs)))
    return max(
        (
            float((b - a).abs().max() / a.abs().max().clamp(min=torch.finfo(a.dtype).tiny))
            for a, b in zip(expected, found, strict=True)
            if a.is_floating_point() and a.numel()
        ),
        default=0.0,
    )


def _double(value: Any) -> Any:
    """Return inputs with every tensor of floats in float64."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple | list):
        return type(value)(_double(part) for part in value)
    return {name: _double(part) for name, part in value.items()} if isinstance(value, dict) else value
