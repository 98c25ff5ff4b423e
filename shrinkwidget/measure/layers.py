"""Every tensor of a model, in order, with its status: compressible, or kept and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import ModelError, quoted
from .checkpoint_files import open_checkpoint
from .layout import FIRST, Layout, layouts
from .quantized_checkpoint import quantization_parts
from .safetensors_file import SafetensorsFile

Source: TypeAlias = nn.Module | Mapping[str, Tensor] | str | os.PathLike[str]
Role: TypeAlias = Literal["parameter", "buffer", "tensor"]

COMPRESSIBLE_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One tensor of a model.

    `why` is empty for a compressible tensor and says why another is kept. `aliases` are the other names of tied
    weights, which count once. `saved` is False for buffers that are not part of the state dict. `layout` says which
    axes index output channels.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    role: Role
    why: str
    aliases: tuple[str, ...]
    saved: bool
    load: Callable[[], Tensor]
    layout: Layout = FIRST

    @property
    def numel(self) -> int:
        """Number of elements."""
        return int(torch.Size(self.shape).numel())

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor, in its own dtype."""
        return self.numel * self.dtype.itemsize

    @property
    def compressible(self) -> bool:
        """Whether a recipe may change this tensor."""
        return not self.why

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows (output channels) and columns of the tensor as recipes see it."""
        return self.layout.matrix(self.shape)

    def rows(self) -> Tensor:
        """Return the tensor as its matrix, contiguous ``[rows, columns]``; a view of it where memory allows one."""
        return self.layout.rows(self.load())


@dataclass(frozen=True, eq=False)
class Weights:
    """A model opened for looking: its title and its entries, in the order the module (or the file) defines them."""

    title: str
    entries: tuple[Entry, ...]

    @cached_property
    def layers(self) -> tuple[Entry, ...]:
        """The compressible entries, in order."""
        return tuple(e for e in self.entries if e.compressible)

    @cached_property
    def kept(self) -> tuple[Entry, ...]:
        """The entries no recipe changes, as far as they are saved."""
        return tuple(e for e in self.entries if not e.compressible and e.saved)


def open_weights(source: Source, *, only_to_look: bool = False) -> Weights:
    """List every parameter and buffer of a module, a state dict, or a checkpoint on disk (see `open_checkpoint`).

    Raises:
        ModelError: for anything else, for tensors on the meta device, and, unless `only_to_look`, where nothing is
            compressible.
        FileError: for a path that does not exist, is not safetensors, or leads to several models.
    """
    if isinstance(source, nn.Module):
        weights = Weights(type(source).__name__, tuple(_tie(_module_tensors(source))))
    elif isinstance(source, Mapping):
        weights = Weights("state dict", tuple(_tie(_state_tensors(source))))
    elif isinstance(source, str | os.PathLike):
        checkpoint = open_checkpoint(source)
        weights = Weights(checkpoint.title, tuple(_file_entries(checkpoint.files)))
    else:
        raise ModelError(_no_model(source))
    weights = Weights(weights.title, _laid_out(_with_reasons(weights.entries), source))
    if not weights.layers and not only_to_look:
        raise ModelError(_nothing_compressible(weights))
    return weights


def _with_reasons(entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """Return the entries with the scales, zero points and indices of quantized weights kept, and named as such."""
    parts = quantization_parts([(e.name, e.shape, e.dtype) for e in entries])
    return tuple(
        replace(e, why=f"part of the quantized weights {quoted(parts[e.name])} (scales, zero points, indices)")
        if e.name in parts
        else e
        for e in entries
    )


def _laid_out(entries: tuple[Entry, ...], source: Source) -> tuple[Entry, ...]:
    modules = dict(source.named_modules()) if isinstance(source, nn.Module) else {}
    found = layouts({entry.name: entry.shape for entry in entries}, modules)
    return tuple(replace(entry, layout=found.get(entry.name, FIRST)) for entry in entries)


def _no_model(found: object) -> str:
    compressed = hasattr(found, "model") and hasattr(found, "state_dict")
    usual = "an nn.Module, a state dict, or the path of a .safetensors file"
    give = "its .model, or its .state_dict()" if compressed else usual
    return f"cannot look at a {type(found).__name__}: give {give}"


def _nothing_compressible(weights: Weights) -> str:
    wide = [e for e in weights.entries if len(e.shape) >= 2]
    found = (
        f"{wide[0].name!r} is kept: {wide[0].why}"
        if wide
        else f"its {len(weights.entries)} tensors have fewer than two dimensions"
        if weights.entries
        else "it has no tensors"
    )
    return f"nothing to compress in {weights.title}: no float parameter with two or more dimensions ({found})"


_Found: TypeAlias = tuple[str, Tensor, Role, bool]


def _module_tensors(module: nn.Module) -> Iterator[_Found]:
    """Yield parameters and buffers module by module, so that a layer's bias follows its weight."""
    for prefix, child in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, parameter in child._parameters.items():
            if parameter is not None:
                yield dot + name, _initialised(dot + name, parameter), "parameter", True
        for name, buffer in child._buffers.items():
            if buffer is not None:
                yield dot + name, buffer, "buffer", name not in child._non_persistent_buffers_set


def _initialised(name: str, parameter: Tensor) -> Tensor:
    if nn.parameter.is_lazy(parameter):
        raise ModelError(f"{name!r} has no weights yet (a lazy module): run one batch through the model first")
    return parameter


def _state_tensors(state: Mapping[str, Any]) -> Iterator[_Found]:
    for name, tensor in state.items():
        if not isinstance(name, str):
            raise ModelError(f"the state dict has the key {name!r}; expected names of tensors")
        if not isinstance(tensor, Tensor):
            raise ModelError(
                f"the state dict holds a {type(tensor).__name__} at {name!r}; expected tensors only"
                + ("; is the state dict one level down?" if isinstance(tensor, Mapping) else "")
            )
        yield name, tensor, _role(name), True


def _role(name: str) -> Role:
    """Return what a state dict's key says of its tensor: batch norm's statistics are buffers."""
    return "buffer" if name.rpartition(".")[2] in _STATISTICS else "tensor"


def _tie(found: Iterator[_Found]) -> Iterator[Entry]:
    """Turn tensors into entries, giving those that share one memory a single entry with aliases."""
    groups: dict[object, list[_Found]] = {}
    for item in found:
        groups.setdefault(_identity(item[1]), []).append(item)
    for group in groups.values():
        name, tensor, role, _ = group[0]
        if tensor.device.type == "meta":
            raise ModelError(f"{name!r} is on the meta device and has no values: load the model's weights first")
        if tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise ModelError(f"{name!r} is stored as {layout}: make it dense with .to_dense() first")
        tensor = tensor.detach()
        yield Entry(
            name=name,
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            role=role,
            why=_why_kept(tensor.shape, tensor.dtype, role),
            aliases=tuple(other[0] for other in group[1:]),
            saved=any(item[3] for item in group),
            load=partial(_same, tensor),
        )


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _identity(tensor: Tensor) -> object:
    """Return what two tied tensors have in common: memory, place in it, shape and strides."""
    if tensor.device.type == "meta" or tensor.numel() == 0 or tensor.layout != torch.strided:
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def plain_tensors(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold a tensor's values: itself, or what a subclass (torchao's, DTensor) keeps inside."""
    if type(tensor) in (Tensor, nn.Parameter) or not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from plain_tensors(getattr(tensor, name))


def where_float64_is(tensor: Tensor) -> Tensor:
    """Return a tensor where sums can be taken in float64: Metal has none, but shares the CPU's memory."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def _why_kept(shape: tuple[int, ...], dtype: torch.dtype, role: Role) -> str:
    if role == "buffer":
        return "a buffer, not a parameter"
    if dtype not in COMPRESSIBLE_DTYPES:
        return f"{dtype_name(dtype)}: only float16, bfloat16, float32 and float64 can be compressed"
    if len(shape) < 2:
        return "fewer than two dimensions (a bias, a norm, a scalar)"
    return "" if torch.Size(shape).numel() else "empty"


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name: ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def _file_entries(files: Iterable[SafetensorsFile]) -> Iterator[Entry]:
    """Yield the entries of safetensors files without reading a weight; `load` reads one tensor."""
    for file in files:
        for name, info in file.tensors.items():
            role = _role(name)
            why = _why_kept(info.shape, info.dtype, role)
            yield Entry(name, info.shape, info.dtype, role, why, (), True, partial(file.read, name))
