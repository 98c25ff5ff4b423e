"""Weights that a module computes from other tensors before it uses them: weight norm, masks, any parametrization.

What the network multiplies with is the computed weight, so that is what is counted, pruned and saved. A recipe cannot
be applied to the parts: a row of v pruned whole makes v/|v| of weight norm 0/0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


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
    if parametrize.is_parametrized(module):
        chains = dict(cast(nn.ModuleDict, module.parametrizations).items())
        if not any(getattr(part, "merged_later", False) for chain in chains.values() for part in chain.children()):
            for name, chain in chains.items():
                tensors = [*chain.named_parameters(), *chain.named_buffers()]
                parts = tuple(f"parametrizations.{name}.{part}" for part, _ in tensors)
                value = partial(_parametrized, module, name, chain)
                yield ParametrizedWeight(module, name, parts, value, partial(_unparametrize, module))
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
        with torch.no_grad():
            values = [computed.value().detach().clone(memory_format=torch.contiguous_format) for computed in found]
        learn = [any(module.get_parameter(p).requires_grad for p in c.parts if _is_parameter(module, p)) for c in found]
        for computed in found:
            computed.remove()
        for computed, value, learns in zip(found, values, learn, strict=True):
            module._parameters.pop(computed.name, None)
            # recurrent layers keep a list of their weights, which setting an attribute renews
            setattr(module, computed.name, nn.Parameter(value, requires_grad=learns))
        if found:  # weights come first, as torch's own layers have them
            first = {computed.name: module._parameters[computed.name] for computed in found}
            others = {name: parameter for name, parameter in module._parameters.items() if name not in first}
            module._parameters.clear()
            module._parameters.update(first | others)


def _is_parameter(module: nn.Module, name: str) -> bool:
    owner, _, own = name.rpartition(".")
    return own in module.get_submodule(owner)._parameters
