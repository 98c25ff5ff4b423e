"""What no packed file can carry: tensors of quantized classes, packed weights, extra state, and what is no tensor."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Collection, Iterator
from typing import Any, Final

from torch import Tensor, nn

from .tied_weights import same_memory

_QUANTIZED: Final = ("quant_state", "quant_type", "bnb_quantized")
"""Attributes by which bitsandbytes, GGUF and others mark a parameter that holds packed codes."""


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold a tensor's values: itself, or what a subclass (torchao's, DTensor) keeps inside."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def unsupported_class(name: str, tensor: Tensor) -> tuple[str, str]:
    """Return the class of a tensor that is not a plain one, and why no recipe can be applied; empty for plain ones.

    Subclasses that keep their values in the tensor itself, as many libraries have them, are plain.
    """
    kind = type(tensor).__name__
    if kind == "DTensor":
        return kind, f"{name!r} is a DTensor, spread over processes: gather it first, with .full_tensor()"
    if tensor.is_quantized:
        kind = str(tensor.dtype).removeprefix("torch.")
    elif not (hasattr(tensor, "__tensor_flatten__") or any(hasattr(tensor, mark) for mark in _QUANTIZED)):
        return "", ""
    return kind, (
        f"{name!r} is a quantized tensor already ({kind}): give the model as it was before it was quantized; a recipe "
        f"quantizes it"
    )


def others_in(module: nn.Module, known: Collection[str], memory: Collection[object]) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, value, why it is refused) of what a state dict holds besides parameters and buffers.

    `known` are the names of those, `memory` what identifies theirs (`same_memory`): hooks may list them twice.
    """
    try:
        state = module.state_dict()
    except Exception:  # noqa: BLE001  # a module's own hooks may raise anything; then there is no state dict to lose
        return
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, value in state.items():
        twice = isinstance(value, Tensor) and same_memory(value.detach()) in memory
        if name not in known and not twice and not _nothing(value):
            # torch keeps a quantized Linear's weights in a holder of that name inside the layer
            layer, inside, _ = name.partition("._packed_params")
            layer = layer if inside else name.rpartition(".")[0]
            yield name, value, _why_refused(name, layer, modules.get(layer, module))


def _why_refused(name: str, layer: str, owner: nn.Module) -> str:
    kind, library = type(owner).__name__, type(owner).__module__
    if "quantized" in library:
        return (
            f"{layer!r} is quantized already (a {kind} of {library}), and no packed file can hold {name!r}: give the "
            f"model as it was before it was quantized; a recipe quantizes it"
        )
    if name.endswith("_extra_state"):
        return (
            f"{name!r} is what {kind}.get_extra_state adds to the state dict, and no packed file can hold it: register "
            f"it as a buffer, or remove get_extra_state"
        )
    return (
        f"{name!r} is in the state dict of this {kind}, but neither a parameter nor a buffer, and no packed file can "
        f"hold it: register it as a buffer, or take it out"
    )


def _nothing(value: Any) -> bool:
    """Tell whether there is nothing in it to lose."""
    if isinstance(value, Tensor):
        return value.numel() == 0
    return value is None or (isinstance(value, bytes | str | tuple | list | dict) and not value)


def nbytes_of(value: object) -> int:
    """Return about how many bytes something takes: its tensors', or those of its pickle."""
    if isinstance(value, Tensor):
        return sum(plain.nbytes for plain in plain_tensors(value))
    if isinstance(value, tuple | list):
        return sum(map(nbytes_of, value))
    try:
        return len(pickle.dumps(value))
    except Exception:  # noqa: BLE001  # an object of others may raise anything
        return sys.getsizeof(value)
