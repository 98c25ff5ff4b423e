"""Find a network's classification head, and replace it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from ..errors import ModelError, nearest

Classifier: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Heads: TypeAlias = tuple[str, ...]
"""The names of the heads of a network, nearly always one."""
_USUAL: Final = ("head", "fc", "classifier")
_COUNTS: Final = ("num_labels", "num_classes", "n_classes")
_SOME: Final = 6


def find_heads(model: nn.Module, order: Sequence[str], named: str | Sequence[str] | None = None) -> list[Heads]:
    """Return the names of what may be a network's head, Linear layers or 1×1 convolutions, in the order to try them in.

    Most have one. Some, such as LeViT and distilled DeiT, add the outputs of two: so after the last one alone, all that
    have as many outputs as it are tried.

    Args:
        model: the network.
        order: names of its modules in the order of their first call.
        named: the head, or a module whose last one it is, or several; by default it is the last layer with weights to
            run, if nothing that learns runs after it and the model does not say that it has no head.

    Raises:
        ModelError: if there is none; the candidates are listed.
    """
    modules = dict(model.named_modules())
    fitting = [name for name in order if name and is_classifier(modules[name])]
    if named is not None:
        given = [named] if isinstance(named, str) else list(named)
        return [tuple(dict.fromkeys(_named(name, modules, fitting) for name in given))]
    last = next((name for name in reversed(order) if list(modules[name].parameters(recurse=False)) and name), "")
    if found := _no_head(model, last, modules, fitting):
        raise no_head(model, found, order)
    alike = [name for name in fitting if outputs_of(modules[name]) == outputs_of(modules[last])]
    tried: list[Heads] = [(last,)] if len(alike) < 2 else [(last,), tuple(alike)]
    # the old outputs of another head, if they are one each, can be added to any number of new ones: all at once first
    return tried[::-1] if outputs_of(modules[last]) == 1 else tried


def _no_head(model: nn.Module, last: str, modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    """Return why the last layer to run is no head, "" if it is one as far as its place tells."""
    if not last:
        return "no module in it has weights"
    if last not in fitting:
        return f"its last layer to run, {last!r}, is a {type(modules[last]).__name__}"
    empty = [name for name, module in modules.items() if _leaf(name) in _USUAL and isinstance(module, nn.Identity)]
    if empty:
        return f"where it usually is, at {empty[0]!r}, nothing is computed"
    outputs, said = outputs_of(modules[last]), [getattr(model, count, None) for count in _COUNTS]
    if any(isinstance(count, int) and count != outputs for count in said):
        count = next(count for count in said if isinstance(count, int) and count != outputs)
        return f"its last layer to run, {last!r}, has {outputs} outputs, and the model says {count}"
    return ""


def no_head(model: nn.Module, why: str, order: Sequence[str]) -> ModelError:
    """Return the error for a network in which no head is found, with the candidates."""
    modules = dict(model.named_modules())
    fitting = [name for name in order if name and is_classifier(modules[name])]
    return ModelError(f"found no head in this {type(model).__name__}: {why}; {_candidates(modules, fitting)}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


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


def put_heads(model: nn.Module, heads: Heads, outputs: int) -> list[nn.Module]:
    """Give a model new heads, initialised as torch does, on the device, of the dtype and in the mode of the old.

    Returns the old ones.
    """
    old = [model.get_submodule(name) for name in heads]
    for name, module in zip(heads, old, strict=True):
        put_module(model, name, _like(module, outputs).train(module.training))
    return old


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, own = name.rpartition(".")
    model.get_submodule(parent).add_module(own, module)


def count_outputs(model: nn.Module, before: int, outputs: int) -> None:
    """Let what the model or its ``config`` calls its number of classes follow: Hugging Face computes losses by it."""
    for owner in (model, getattr(model, "config", None)):
        for count in _COUNTS:
            if getattr(owner, count, None) == before:
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
