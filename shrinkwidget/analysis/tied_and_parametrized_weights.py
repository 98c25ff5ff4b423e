"""Weights that have no memory of their own: tied or overlapping ones, and those that a parametrization computes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor looks at the one it is tied to: its axes in this order, then in this shape."""

    axes: tuple[int, ...]
    shape: tuple[int, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """Return the tensor as the view shows it."""
        return tensor.permute(self.axes).reshape(self.shape)

    def plain(self, shape: Sequence[int]) -> bool:
        """Tell whether it shows a tensor of this shape as it is."""
        wide = [axis for axis in self.axes if shape[axis] > 1]
        return self.shape == tuple(shape) and wide == sorted(wide)


def same_memory(tensor: Tensor) -> object:
    """Return what tensors have in common that hold the same numbers in the same memory, in whatever order."""
    if not _has_memory(tensor):
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.numel()


def view_of(base: Tensor, other: Tensor) -> View | None:
    """Return how `other`, of the same memory as `base`, looks at it; None if it is no view of all of it.

    That is: transposed or permuted, with axes of size 1 more or less, or in another shape.
    """
    # Two views of one memory are the same numbers in another order if both fill it without a gap. Then either the axes
    # are permuted (told by their strides), or the numbers are merely regrouped (both are contiguous in one order).
    order = _memory_order(base)
    # both must fill their memory without a gap, or they could be different parts of it
    if not (base.permute(order).is_contiguous() and other.permute(_memory_order(other)).is_contiguous()):
        return None
    # an axis is known by its stride, but those of size 1, which may have any
    place = {stride: axis for axis, stride in enumerate(base.stride()) if base.shape[axis] > 1}
    wide = [place.get(stride) for size, stride in zip(other.shape, other.stride(), strict=True) if size > 1]
    shape = tuple(other.shape)
    if [base.shape[a] for a in wide if a is not None] == [size for size in shape if size > 1]:
        narrow = [axis for axis, size in enumerate(base.shape) if size == 1]
        return View((*narrow, *(axis for axis in wide if axis is not None)), shape)
    return View(order, shape) if other.is_contiguous() else None


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    """Return the axes from the one with the longest stride to the one with the shortest."""
    strides = tensor.stride()
    return tuple(sorted(range(tensor.ndim), key=lambda axis: -strides[axis] if tensor.shape[axis] > 1 else 1))


def overlapping(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str, int]]:
    """Yield the names of tensors that share a part of their memory, and how many elements of the second are in others'.

    An element in an earlier tensor's memory and those of the same place in an expanded tensor count.
    """
    for cluster in clusters(tensors):
        # a plan of the memory: which tensor each element of it belongs to, entered through the tensors' own strides
        first, last = min(start for start, *_ in cluster), max(stop for _, stop, *_ in cluster)
        # Exact where ranges of addresses are not: the two halves of a fused matrix split by columns interleave without
        # sharing a single element.
        owner = torch.full((last - first,), -1, dtype=torch.int32)
        for number, (start, _, _, tensor) in enumerate(cluster):
            # without axes of stride 0, whose elements are one place: as_strided would fill it many times
            own = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
            place = owner.as_strided([n for n, _ in own], [stride for _, stride in own], start - first)
            taken = place[place >= 0]
            for other in np.unique(taken.numpy()) if len(taken) else ():
                yield cluster[other][2], cluster[number][2], tensor.numel() - (place.numel() - len(taken))
            place.fill_(number)


_Placed = tuple[int, int, str, Tensor]


def clusters(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[list[_Placed]]:
    """Yield groups of tensors whose extents in one storage meet, each as (start, stop, name, tensor), in elements.

    They need not overlap: two halves of a matrix, cut across its rows, lie interleaved.
    """
    storages: dict[tuple[int, torch.dtype], dict[int, _Placed]] = defaultdict(dict)
    for name, tensor in tensors:
        if _has_memory(tensor):
            address = tensor.untyped_storage().data_ptr()
            storages[address, tensor.dtype].setdefault(id(tensor), (*extent(tensor), name, tensor))
    # a sweep along each storage: what begins before the end of all so far is in the same cluster
    for placed in storages.values():
        cluster: list[_Placed] = []
        end = 0
        for item in sorted(placed.values(), key=lambda item: item[0]):
            if cluster and item[0] >= end:
                if len(cluster) > 1:
                    yield cluster
                cluster = []
            cluster.append(item)
            end = max(end, item[1]) if len(cluster) > 1 else item[1]
        if len(cluster) > 1:
            yield cluster


def extent(tensor: Tensor) -> tuple[int, int]:
    """Return where in its storage a tensor begins and ends, in elements, whatever its strides."""
    start = int(tensor.storage_offset())
    return start, start + 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def expanded(tensor: Tensor) -> bool:
    """Tell whether several elements of a tensor are one place in memory."""
    return any(step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def places(tensor: Tensor) -> int:
    """Return how many places in memory a tensor's elements are, fewer than those where it is expanded."""
    return math.prod(size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step or not size)


def _has_memory(tensor: Tensor) -> bool:
    return (
        not nn.parameter.is_lazy(tensor)
        and tensor.layout == torch.strided
        and not tensor.is_meta
        and tensor.numel() > 0
        and not hasattr(tensor, "__tensor_flatten__")
        and not tensor.is_quantized
    )


# ---- weight norm, masks, any parametrization ----
#
# What the network multiplies with is the computed weight, so that is what is counted, pruned and saved. A recipe cannot
# be applied to the parts: a row of v pruned whole makes v/|v| of weight norm 0/0.


@dataclass(frozen=True, slots=True, eq=False)
class ParametrizedWeight:
    """A weight that a module computes.

    Args:
        module: that has it, under `name`.
        parts: names of the tensors it is computed from, seen from the module.
        value: computes it, as in eval mode.
        remove: makes the module have it as a parameter, and forget the parts.
    """

    module: nn.Module
    name: str
    parts: tuple[str, ...]
    value: Callable[[], Tensor]
    remove: Callable[[], object]


def computed_by(module: nn.Module) -> Iterator[ParametrizedWeight]:
    """Yield the weights that a module itself computes.

    Parametrizations that say ``merged_later`` (the low-rank updates of a transfer) are what is being trained; a module
    with such is left alone.
    """
    ends: tuple[str, ...]
    apart: Callable[[nn.Module, str], object]
    if parametrize.is_parametrized(module):  # torch.nn.utils.parametrizations
        chains = dict(cast(nn.ModuleDict, module.parametrizations).items())
        if not any(getattr(part, "merged_later", False) for chain in chains.values() for part in chain.children()):
            for name, chain in chains.items():
                tensors = [*chain.named_parameters(), *chain.named_buffers()]
                parts = tuple(f"parametrizations.{name}.{part}" for part, _ in tensors)
                value = partial(_parametrized, module, name, chain)
                yield ParametrizedWeight(module, name, parts, value, partial(_unparametrize, module))
    # the older ones of torch.nn.utils, which compute the weight in a hook before each forward
    # torch names their parts weight_orig, weight_g, … beside the weight, which itself is then a plain attribute.
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            name, ends, apart = hook._tensor_name, ("orig", "mask"), prune.remove
            value = partial(hook.apply_mask, module)
        elif isinstance(hook, WeightNorm):
            name, ends, apart = hook.name, ("g", "v"), remove_weight_norm
            value = partial(hook.compute_weight, module)
        elif isinstance(hook, SpectralNorm):
            name, ends, apart = hook.name, ("orig", "u", "v"), remove_spectral_norm
            value = partial(hook.compute_weight, module, do_power_iteration=False)
        else:
            continue
        yield ParametrizedWeight(
            module, name, tuple(f"{name}_{end}" for end in ends), value, partial(apart, module, name)
        )


def _parametrized(module: nn.Module, name: str, chain: nn.Module) -> Tensor:
    """Return a weight as in eval mode: spectral norm takes a step of its power iteration in training mode."""
    modes = [(part, part.training) for part in chain.modules()]
    try:
        chain.eval()
        value: Tensor = getattr(module, name)
        return value
    finally:
        for part, training in modes:
            part.training = training


def _unparametrize(module: nn.Module) -> None:
    """Give a module back the class it had, and forget its parametrizations.

    torch.nn.utils.parametrize.remove_parametrizations also deletes the property from the class, which copies share.
    """
    if parametrize.is_parametrized(module):
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]


def plain_weights(model: nn.Module) -> None:
    """Make every weight that a model's modules compute a parameter of its own, with the value it has now."""
    for module in list(model.modules()):
        found = list(computed_by(module))
        if not found:
            continue
        with torch.no_grad():
            values = [computed.value().detach().clone(memory_format=torch.contiguous_format) for computed in found]
        parameters = dict(module.named_parameters(remove_duplicate=False))
        learn = [any(parameters[part].requires_grad for part in c.parts if part in parameters) for c in found]
        for computed in found:  # all, before any is set: those of torch.nn.utils.parametrize go together
            computed.remove()
        for computed, value, learns in zip(found, values, learn, strict=True):
            module._parameters.pop(computed.name, None)
            # recurrent layers keep a list of their weights, which setting an attribute renews
            setattr(module, computed.name, nn.Parameter(value, requires_grad=learns))
        # weights come first, as torch's own layers have them
        first = {computed.name: module._parameters[computed.name] for computed in found}
        others = {name: parameter for name, parameter in module._parameters.items() if name not in first}
        module._parameters.clear()
        module._parameters.update(first | others)
