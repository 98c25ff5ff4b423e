"""Every tensor of a model, in order, with its status: compressible, or kept and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import ModelError, quoted
from .array_conversion import as_tensor, is_array
from .channel_layout import FIRST, Layout, Stated, guesses, layouts
from .checkpoint_files import open_checkpoint
from .parametrizations import computed_by
from .quantized_checkpoint import quantization_parts
from .safetensors_file import SafetensorsFile, impossible_shape
from .tied_weights import View, expanded, overlapping, places, same_memory, view_of
from .unsupported_tensors import nbytes_of, others_in, plain_tensors, unsupported_class

Source: TypeAlias = nn.Module | Mapping[str, Any] | str | os.PathLike[str]
Role: TypeAlias = Literal["parameter", "buffer", "tensor", "part", "other"]

COMPRESSIBLE_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True, eq=False)
class TensorEntry:
    """One tensor of a model.

    `why` is empty for a compressible tensor and says why another is kept. `aliases` are the other names of tied
    weights, which count once; where one looks at them transposed or in another shape, `views` says how. `saved` is
    False for buffers that are not part of the state dict. `layout` says which axes index output channels. `refused`
    says why no recipe can be applied to a model that has it: a tensor quantized already, something that is no tensor
    (role "other"), memory shared in part. `kind` names its class where it is no plain tensor, and `stored` are the
    bytes it then takes. `shared` of its elements are in memory that is counted already. `parts` are the names of what a
    module computes it from, whose entries have the role "part" and say so in `part_of`.
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
    views: Mapping[str, View] = field(default_factory=dict)
    refused: str = ""
    kind: str = ""
    stored: int | None = None
    shared: int = 0
    parts: tuple[str, ...] = ()
    part_of: str = ""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return int(torch.Size(self.shape).numel())

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor, in its own dtype, or of what it is stored as."""
        return (self.numel - self.shared) * self.dtype.itemsize if self.stored is None else self.stored

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
class ModelTensors:
    """A model opened for looking: its title and its entries, in the order the module (or the file) defines them.

    `warnings` say in a sentence each what was taken for granted.
    """

    title: str
    entries: tuple[TensorEntry, ...]
    warnings: tuple[str, ...] = ()

    @cached_property
    def layers(self) -> tuple[TensorEntry, ...]:
        """The compressible entries, in order."""
        return tuple(e for e in self.entries if e.compressible)

    @cached_property
    def uncompressed(self) -> tuple[TensorEntry, ...]:
        """The entries no recipe changes, as far as they are saved."""
        return tuple(e for e in self.entries if not e.compressible and e.saved)


def open_model(source: Source, *, layout: Stated = None, only_to_look: bool = False) -> ModelTensors:
    """List every parameter and buffer of a module, a state dict, or a checkpoint on disk (see `open_checkpoint`).

    `layout` says which axes of a state dict's or a file's tensors are output channels, where nothing tells.

    Raises:
        ModelError: for anything else, for tensors on the meta device, and, unless `only_to_look`, where nothing is
            compressible or something is `refused`.
        FileError: for a path that does not exist, is not safetensors, or leads to several models.
    """
    if isinstance(source, nn.Module):
        weights = ModelTensors(type(source).__name__, tuple(_module_entries(source)))
    elif isinstance(source, Mapping):
        weights = ModelTensors("state dict", tuple(_state_entries(source)))
    elif isinstance(source, str | os.PathLike):
        checkpoint = open_checkpoint(source)
        weights = ModelTensors(checkpoint.title, tuple(_file_entries(checkpoint.files)))
    else:
        raise ModelError(_no_model(source))
    for entry in weights.entries:
        _refuse_unwritable(entry)
    if layout is not None and isinstance(source, nn.Module):
        raise ModelError(
            f"layout={quoted(layout)} is for state dicts and files, where no class tells: give it model.state_dict()"
        )
    entries = _laid_out(_with_reasons(weights.entries), source, layout)
    read = ((entry.name, entry.shape, entry.layout) for entry in entries if entry.compressible)
    weights = ModelTensors(weights.title, entries, guesses(read, answerable=not isinstance(source, nn.Module)))
    if not only_to_look:
        check_refused(weights)
        if not weights.layers:
            raise ModelError(_nothing_compressible(weights))
    return weights


def _refuse_unwritable(entry: TensorEntry) -> None:
    if problem := impossible_shape(entry.shape):
        raise ModelError(f"{quoted(entry.name)} has {problem}")
    if any("\ud800" <= letter <= "\udfff" for name in (entry.name, *entry.aliases) for letter in name):
        raise ModelError(
            f"the name {quoted(entry.name)} has half of a surrogate pair, which no file can hold: rename it"
        )


def _with_reasons(entries: tuple[TensorEntry, ...]) -> tuple[TensorEntry, ...]:
    """Return the entries with the scales, zero points and indices of quantized weights kept, and named as such."""
    parts = quantization_parts([(e.name, e.shape, e.dtype) for e in entries if not e.kind])
    return tuple(
        replace(e, why=f"part of the quantized weights {quoted(parts[e.name])} (scales, zero points, indices)")
        if e.name in parts
        else e
        for e in entries
    )


def check_refused(weights: ModelTensors) -> None:
    """Raise a `ModelError` that names the first saved tensor no recipe can be applied to."""
    for entry in weights.entries:
        if entry.refused and entry.saved:
            raise ModelError(entry.refused)


def _laid_out(entries: tuple[TensorEntry, ...], source: Source, stated: Stated) -> tuple[TensorEntry, ...]:
    modules = dict(source.named_modules()) if isinstance(source, nn.Module) else {}
    found = layouts({entry.name: entry.shape for entry in entries}, modules, stated)
    return tuple(replace(entry, layout=found.get(entry.name, FIRST)) for entry in entries)


def _no_model(found: object) -> str:
    compressed = hasattr(found, "model") and hasattr(found, "state_dict")
    usual = "an nn.Module, a state dict, or the path of a .safetensors file"
    give = "its .model, or its .state_dict()" if compressed else usual
    if isinstance(found, type) and issubclass(found, nn.Module):
        return f"cannot look at the class {found.__name__}: give a model made of it, {found.__name__}(…)"
    if isinstance(found, Tensor) or is_array(found):
        give = 'a state dict with its name, {"weight": …}'
    return f"cannot look at a {type(found).__name__}: give {give}"


def _nothing_compressible(weights: ModelTensors) -> str:
    wide = [e for e in weights.entries if len(e.shape) >= 2]
    found = (
        f"{quoted(wide[0].name)} is kept: {wide[0].why}"
        if wide
        else f"its {len(weights.entries)} tensors have fewer than two dimensions"
        if weights.entries
        else "it has no tensors"
    )
    return f"nothing to compress in {weights.title}: no float parameter with two or more dimensions ({found})"


_Found: TypeAlias = tuple[str, Tensor, Role, bool]


def _module_entries(module: nn.Module) -> Iterator[TensorEntry]:
    computed = {
        (f"{prefix}." if prefix else "") + weight.name: ((f"{prefix}." if prefix else ""), weight)
        for prefix, child in module.named_modules()
        for weight in computed_by(child)
    }
    part_of = {dot + part: name for name, (dot, weight) in computed.items() for part in weight.parts}
    found = list(_module_tensors(module))
    for entry in _tie(found, in_module=True):
        whole = part_of.get(entry.name)
        if entry.name in computed:
            dot, weight = computed[entry.name]
            yield replace(entry, parts=tuple(dot + part for part in weight.parts))
        elif whole is not None:
            why = f"a part of {whole!r}, which is computed from it and saved whole"
            yield replace(entry, role="part", why=why, saved=False, refused="", part_of=whole)
        else:
            yield entry
    names = {name for name, *_ in found}
    for name, value, refused in others_in(module, names, {same_memory(tensor) for _, tensor, *_ in found}):
        yield _other(name, value, refused)


def _other(name: str, value: object, refused: str) -> TensorEntry:
    """Return the entry of what is no parameter, no buffer, and perhaps no tensor."""
    nbytes, kind = nbytes_of(value), type(value).__name__
    why = "neither a parameter nor a buffer"
    load = partial(_no_tensor, name)
    return TensorEntry(name, (nbytes,), torch.uint8, "other", why, (), True, load, refused=refused, kind=kind)


def _no_tensor(name: str) -> Tensor:
    raise ModelError(f"{quoted(name)} is no tensor of its own")


def _module_tensors(module: nn.Module) -> Iterator[_Found]:
    """Yield parameters and buffers module by module, so that a layer's bias follows its weight."""
    for prefix, child in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for computed in computed_by(child):
            with torch.no_grad():
                yield dot + computed.name, computed.value(), "parameter", True
        for name, parameter in child._parameters.items():
            if parameter is not None:
                yield dot + name, _initialised(dot + name, parameter), "parameter", True
        for name, buffer in child._buffers.items():
            if buffer is not None:
                yield dot + name, buffer, "buffer", name not in child._non_persistent_buffers_set


def _initialised(name: str, parameter: Tensor) -> Tensor:
    if nn.parameter.is_lazy(parameter):
        raise ModelError(f"{quoted(name)} has no weights yet (a lazy module): run one batch through the model first")
    return parameter


def _state_entries(state: Mapping[str, Any]) -> Iterator[TensorEntry]:
    tensors: list[_Found] = []
    for name, value in state.items():
        if not isinstance(name, str):
            raise ModelError(f"the state dict has the key {quoted(name)}; expected names of tensors")
        if isinstance(value, Mapping):
            raise ModelError(
                f"the state dict holds a {type(value).__name__} at {quoted(name)}; expected tensors only; "
                f"is the state dict one level down?"
            )
        if isinstance(value, Tensor):
            tensors.append((name, value, _role(name), True))
        elif is_array(value):
            tensors.append((name, as_tensor(name, value), _role(name), True))
    yield from _tie(tensors)
    names = {name for name, *_ in tensors}
    for name, value in state.items():
        if name not in names:
            kind = type(value).__name__
            cure = "convert it with np.array(…)" if isinstance(value, list | tuple) else "leave it out"
            told = f"the state dict holds {quoted(name)}, of type {kind}; expected tensors only: {cure}"
            yield _other(name, value, told)


def _role(name: str) -> Role:
    """Return what a state dict's key says of its tensor: batch norm's statistics are buffers."""
    return "buffer" if name.rpartition(".")[2] in _STATISTICS else "tensor"


def _tie(found: Iterable[_Found], in_module: bool = False) -> Iterator[TensorEntry]:
    """Turn tensors into entries, giving those that share one memory a single entry with aliases.

    A parameter's name comes before that of a buffer in the same memory. Of a module, parameters that share a part of
    their memory are refused: a recipe would change one through the other.
    """
    groups: dict[object, list[list[_Found]]] = {}
    in_order: list[list[_Found]] = []
    for item in found:
        places = groups.setdefault(same_memory(item[1]), [])
        group = next((g for g in places if g[0][1] is item[1] or view_of(g[0][1], item[1]) is not None), None)
        if group is None:
            places.append(group := [])
            in_order.append(group)
        group.append(item)
    tied = [sorted(group, key=lambda item: item[2] == "buffer") for group in in_order]
    entries = {group[0][0]: _entry(group, in_module) for group in tied}
    if in_module:
        for one, other, shared in overlapping((group[0][0], group[0][1]) for group in tied):
            entries[other] = replace(entries[other], shared=shared)
            if any(entries[name].compressible and entries[name].saved for name in (one, other)):
                entries[other] = replace(entries[other], refused=_shares(one, other))
    yield from entries.values()


def _shares(one: str, other: str) -> str:
    return (
        f"{quoted(other)} and {quoted(one)} share a part of their memory, so that a change to one changes the other: "
        f"give one its own, as in {_own_memory(other)}"
    )


def _own_memory(name: str) -> str:
    return f"model.{name} = nn.Parameter(model.{name}.detach().clone())"


def _entry(group: list[_Found], in_module: bool) -> TensorEntry:
    name, tensor, role, _ = group[0]
    if tensor.device.type == "meta":
        raise ModelError(f"{quoted(name)} is on the meta device and has no values: load the model's weights first")
    kind, refused = unsupported_class(name, tensor)
    if tensor.layout != torch.strided and not kind:
        layout = str(tensor.layout).removeprefix("torch.")
        raise ModelError(f"{quoted(name)} is stored as {layout}: make it dense with .to_dense() first")
    tensor = tensor.detach()
    why = f"quantized already ({kind})" if kind else _why_kept(tensor.shape, tensor.dtype, role)
    if in_module and not kind and expanded(tensor) and not why:
        refused = (
            f"several weights of {quoted(name)} are one place in memory (it is expanded): give each its own, as in "
            f"{_own_memory(name)}"
        )
    views = {other: view_of(tensor, t.detach()) for other, t, *_ in group[1:]} if not kind else {}
    return TensorEntry(
        name=name,
        shape=tuple(tensor.shape),
        dtype=tensor.dtype,
        role=role,
        why=why,
        aliases=tuple(other[0] for other in group[1:]),
        saved=any(item[3] for item in group),
        load=partial(_same, tensor),
        views={other: view for other, view in views.items() if view is not None and not view.plain(tensor.shape)},
        refused=refused,
        kind=kind,
        stored=sum(plain.nbytes for plain in plain_tensors(tensor)) if kind else None,
        shared=0 if kind else tensor.numel() - places(tensor),
    )


def _same(tensor: Tensor) -> Tensor:
    """Return the tensor, with a negation or conjugation that is only noted (of ``z.conj().imag``) carried out."""
    return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor


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


def _file_entries(files: Iterable[SafetensorsFile]) -> Iterator[TensorEntry]:
    """Yield the entries of safetensors files without reading a weight; `load` reads one tensor."""
    for file in files:
        for name, info in file.tensors.items():
            role = _role(name)
            why = _why_kept(info.shape, info.dtype, role)
            yield TensorEntry(name, info.shape, info.dtype, role, why, (), True, partial(file.read, name))
