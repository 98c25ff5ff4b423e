"""Batch norm folded into the layer before it: the same outputs, fewer tensors, and weights as they really act."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from ..errors import ModelError
from ..measure.call import evaluating, reason
from .compress import copied

_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
_Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer and the batch norm that alone uses what it gives, and the norm's name."""

    layer: _Conv | nn.Linear
    norm: _Norm
    name: str


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which every batch norm that follows a convolution or a dense layer is part of it.

    The layer gets a bias, the norm becomes an ``nn.Identity``; in eval mode the outputs are the same up to rounding,
    and pruned weights stay zero. Which norms follow which layers is found by tracing (``torch.fx``). A pair is left as
    it is if the layer's output goes elsewhere, too, if one of them is called twice or hooked, or if the layer's weights
    are tied or parametrized. After a dense layer the norm is taken to see rows N×C, not sequences N×L×C.

    Raises:
        ModelError: for a model that cannot be traced, or in which there is nothing to fold.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot fold a {type(model).__name__}: give {_inside(model)}")
    new = copied(model)
    pairs = list(_pairs(new, _traced(new)))
    if not pairs:
        raise ModelError(
            f"there is nothing to fold in this {type(model).__name__}: no batch norm is the only user of a convolution "
            f"or a dense layer"
        )
    for pair in pairs:
        _fold(pair)
        parent, _, name = pair.name.rpartition(".")
        new.get_submodule(parent).register_module(name, nn.Identity().train(pair.norm.training))
    return new


def _inside(found: object) -> str:
    return "its .model" if isinstance(getattr(found, "model", None), nn.Module) else "an nn.Module"


def _traced(model: nn.Module) -> fx.Graph:
    try:
        with evaluating(model):
            return fx.Tracer().trace(model)
    except Exception as error:
        raise ModelError(
            f"cannot fold this {type(model).__name__}: torch.fx cannot follow its forward ({reason(error)}); "
            f"put what depends on the data into a module of its own, or fold its parts"
        ) from error


def _pairs(model: nn.Module, graph: fx.Graph) -> Iterator[_Pair]:
    called = {node: model.get_submodule(str(node.target)) for node in graph.nodes if node.op == "call_module"}
    times = Counter(id(module) for module in called.values())
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    for node, norm in called.items():
        before = node.args[0] if node.args else None
        layer = called.get(before) if isinstance(before, fx.Node) else None
        if (
            isinstance(norm, _Norm)
            and isinstance(layer, _Conv | nn.Linear)
            and isinstance(before, fx.Node)
            and len(before.users) == times[id(layer)] == times[id(norm)] == 1
            and norm.running_mean is not None
            and _plain(layer, owners)
            and not _hooked(norm)
        ):
            yield _Pair(layer, norm, str(node.target))


def _plain(layer: nn.Module, owners: Counter[int]) -> bool:
    """Tell whether a layer's weights are its own and are nothing but parameters."""
    weight = layer._parameters.get("weight")
    return weight is not None and owners[id(weight)] == 1 and not _hooked(layer)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@torch.no_grad()
def _fold(pair: _Pair) -> None:
    layer, norm = pair.layer, pair.norm
    statistics = (cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var), norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        weight, bias = fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)
    else:
        transposed = isinstance(layer, _TRANSPOSED)
        weight, bias = fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transpose=transposed)
    layer.weight.copy_(weight)
    layer.bias = nn.Parameter(bias.detach(), layer.weight.requires_grad)
