"""Batch norm folded into the layer before it: the same outputs, fewer tensors, and weights as they really act."""

from __future__ import annotations

import copy
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from ..errors import ModelError
from ..measure.call import evaluating, reason
from ..measure.layout import FIRST, layout_by_class
from .compress import copied

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


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which every batch norm that follows a convolution or a dense layer is part of it.

    The layer gets a bias; of the norm an ``nn.Identity`` stays, or what else it did, such as the activation in timm's.
    In eval mode the outputs are the same up to rounding, and pruned weights stay zero.

    Which norms follow which layers is found by tracing (``torch.fx``), and every pair is run before and after, on
    random numbers: where outputs would change it is left as it is. So it is if the layer's output or weights are used
    elsewhere, too, if one of the two is called twice or hooked, if the layer is tied or parametrized, or if the norm
    takes its statistics from the batch.

    A norm in one dimension is folded for N×C after a dense layer and N×C×L after a convolution. It would see channels
    in other places of other inputs, such as sequences N×L×C: these the folded model refuses.

    Raises:
        ModelError: for a model that cannot be traced, or in which there is nothing to fold, with the reason.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot fold a {type(model).__name__}: give {_inside(model)}")
    new = copied(model)
    folds, left = [], []
    with evaluating(new):
        graph = _traced(new)
        for name, norm in _norms(new, graph):
            try:
                folds.append(_fold(name, norm, _layer_before(name, new, graph)))
            except _NotFoldedError as found:
                left.append(f"{name!r} {found}")
    if not folds:
        why = left[0] if left else "no batch norm is the only user of a convolution or a dense layer"
        more = f" (and {len(left) - 1} more are left)" if len(left) > 1 else ""
        raise ModelError(f"there is nothing to fold in this {type(model).__name__}: {why}{more}")
    for fold in folds:
        _replace(new, fold)
    return new


def _inside(found: object) -> str:
    return "its .model" if isinstance(getattr(found, "model", None), nn.Module) else "an nn.Module"


class _Tracer(fx.Tracer):
    """Sees layers and norms as wholes, also those of other libraries."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether a module is not looked into."""
        return isinstance(m, _Layer) or _is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _traced(model: nn.Module) -> fx.Graph:
    try:
        return _Tracer().trace(model)
    except Exception as error:
        raise ModelError(
            f"cannot fold this {type(model).__name__}: torch.fx cannot follow its forward ({reason(error)}); "
            f"put what depends on the data into a module of its own, or fold its parts"
        ) from error


def _is_norm(module: nn.Module) -> bool:
    """Tell a batch norm, or one of the frozen kind, which has its four tensors but not its class."""
    if isinstance(module, _BatchNorm):
        return True
    tensors = [getattr(module, name, None) for name in ("weight", "bias", "running_mean", "running_var")]
    return "BatchNorm" in type(module).__name__ and all(isinstance(x, Tensor) and x.ndim == 1 for x in tensors)


def _norms(model: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, nn.Module]]:
    """Yield the norms that are called, by the name of their first call."""
    called = {id(norm): (name, norm) for name, norm in reversed(list(_called(model, graph).values())) if _is_norm(norm)}
    yield from reversed(called.values())


def _called(model: nn.Module, graph: fx.Graph) -> dict[fx.Node, tuple[str, nn.Module]]:
    calls = [node for node in graph.nodes if node.op == "call_module"]
    return {node: (str(node.target), model.get_submodule(str(node.target))) for node in calls}


def _layer_before(name: str, model: nn.Module, graph: fx.Graph) -> _Layer:
    """Return the layer whose output goes to this norm alone, once, if nothing else has a part in it.

    Raises:
        _NotFoldedError: for any other norm.
    """
    called = _called(model, graph)
    norm = model.get_submodule(name)
    times = Counter(id(module) for _, module in called.values())
    node = next(node for node, (_, module) in called.items() if module is norm)
    before = node.args[0] if node.args else None
    path, layer = called.get(before, ("", None)) if isinstance(before, fx.Node) else ("", None)
    if times[id(norm)] > 1:
        raise _NotFoldedError("is called more than once")
    if not isinstance(layer, _Layer) or not isinstance(before, fx.Node):
        raise _NotFoldedError("does not follow a convolution or a dense layer directly")
    if len(before.users) > 1 or times[id(layer)] > 1:
        raise _NotFoldedError(f"follows {path!r}, whose output or weights are used elsewhere, too")
    if any(node.op == "get_attr" and str(node.target).startswith(f"{path}.") for node in graph.nodes):
        raise _NotFoldedError(f"follows {path!r}, whose weights are used elsewhere, too")
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    weight = layer._parameters.get("weight")
    if weight is None or owners[id(weight)] > 1 or is_parametrized(layer):
        raise _NotFoldedError(f"follows {path!r}, whose weight is tied, or computed from others")
    if _hooked(layer) or _hooked(norm):
        raise _NotFoldedError(f"or {path!r} before it is hooked: remove the hook first")
    return layer


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def _fold(name: str, norm: nn.Module, layer: _Layer) -> _Fold:
    """Return what becomes of a layer and the norm after it.

    Raises:
        _NotFoldedError: if they would not do the same afterwards, on random numbers.
    """
    if getattr(norm, "running_mean", None) is None or norm.training:
        raise _NotFoldedError("takes its statistics from the batch, in eval mode too")
    exact, exact_norm = copy.deepcopy(layer).cpu().double(), copy.deepcopy(norm).cpu().double()
    inputs = _inputs(exact)
    try:
        expected = exact_norm(exact(inputs))
        _set(exact, *_with_norm(exact, exact_norm))
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


def _inputs(layer: _Layer) -> Tensor:
    """Return random numbers a layer can run on, a little larger than its filter and its padding."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(layer, nn.Linear):
        return torch.randn(8, layer.in_features, generator=generator, dtype=torch.float64)
    reach = [dilation * (size - 1) + 4 for size, dilation in zip(layer.kernel_size, layer.dilation, strict=True)]
    return torch.randn(2, layer.in_channels, *reach, generator=generator, dtype=torch.float64)


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
