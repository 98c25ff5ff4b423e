"""Finds the classifier a network ends with, and puts a new one in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ..errors import ModelError, nearest

Classifier: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_COUNTS: Final = ("num_labels", "num_classes", "n_classes")
_SOME: Final = 6


def find_head(model: nn.Module, order: Sequence[str], named: str | None = None) -> str:
    """Return the name of a network's head: a Linear layer or a 1×1 convolution.

    Args:
        model: the network.
        order: names of its modules in the order of their first call.
        named: the head, or a module whose last one it is; by default it is the last layer with weights to run.

    Raises:
        ModelError: if there is none; the candidates are listed.
    """
    modules = dict(model.named_modules())
    fitting = [name for name in order if name and is_classifier(modules[name])]
    if named is not None:
        return _named(named, modules, fitting)
    last = next((name for name in reversed(order) if _weighted(modules[name])), "")
    if last in fitting:
        return last
    found = (
        f"its last layer to run, {last!r}, is a {type(modules[last]).__name__}"
        if last
        else "no module in it has weights"
    )
    raise ModelError(f"found no head in this {type(model).__name__}: {found}; {_candidates(modules, fitting)}")


def is_classifier(module: nn.Module) -> bool:
    """Tell whether a module may be a head."""
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1 and set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear)


def _named(name: str, modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    inside = [found for found in fitting if found == name or found.startswith(f"{name}.")]
    if inside:
        return inside[-1]
    wrong = f"that is a {type(modules[name]).__name__}" if name in modules else f"there is none{nearest(name, modules)}"
    raise ModelError(f"head={name!r}: {wrong}; {_candidates(modules, fitting)}")


def _candidates(modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    if not fitting:
        return "no Linear layer or 1×1 convolution runs in it that could be one"
    known = [f"{name!r} ({_width(modules[name])})" for name in reversed(fitting)]
    more = f" and {len(known) - _SOME} more" if len(known) > _SOME else ""
    return f"name one with head=…: {', '.join(known[:_SOME])}{more}"


def _width(module: nn.Module) -> str:
    before, after = outputs_of(module, "in"), outputs_of(module)
    return f"{before} → {after}"


def outputs_of(module: nn.Module, side: str = "out") -> int:
    """Return how many outputs a head has, or, with ``"in"``, inputs."""
    kind = "channels" if isinstance(module, _CONVOLUTIONS) else "features"
    return int(getattr(module, f"{side}_{kind}"))


def _weighted(module: nn.Module) -> bool:
    return any(parameter.ndim >= 2 for parameter in module.parameters(recurse=False))


def replace_head(model: nn.Module, name: str, outputs: int) -> None:
    """Give a model a new head, initialised as torch does, on the device, of the dtype and in the mode of the old.

    What the model, or its ``config``, calls its number of classes follows: Hugging Face's compute their loss by it.
    """
    old = model.get_submodule(name)
    parent, _, own = name.rpartition(".")
    model.get_submodule(parent).add_module(own, _like(old, outputs).train(old.training))
    for owner in (model, getattr(model, "config", None)):
        for count in _COUNTS:
            if getattr(owner, count, None) == outputs_of(old):
                setattr(owner, count, outputs)


def _like(old: nn.Module, outputs: int) -> nn.Module:
    placed: dict[str, Any] = {"bias": getattr(old, "bias", None) is not None}
    weight = old.get_parameter("weight")
    placed |= {"device": weight.device, "dtype": weight.dtype}
    with torch.inference_mode(False):
        for kind in _CONVOLUTIONS:
            if isinstance(old, kind):
                return kind(old.in_channels, outputs, 1, **placed)
        return nn.Linear(outputs_of(old, "in"), outputs, **placed)
