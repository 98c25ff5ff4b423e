"""Every tensor of a model, in order, with its status: compressible, or kept and why."""

from __future__ import annotations

import math
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, quoted
from .channel_layout import FIRST, Layout, Stated, guesses, layouts
from .safetensors_checkpoint import SafetensorsFile, impossible_shape, open_checkpoint
from .tied_and_parametrized_weights import View, computed_by, expanded, overlapping, places, same_memory, view_of

Source: TypeAlias = nn.Module | Mapping[str, Any] | str | os.PathLike[str]
Role: TypeAlias = Literal["parameter", "buffer", "tensor", "part", "other"]

COMPRESSIBLE_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True, eq=False)
class TensorSpec:
    """What a tensor is, in a model as in a packed file.

    `layout` says which axes index output channels. `aliases` are the other names of tied weights, which count once;
    where one looks at them transposed or in another shape, `views` says how. `kind` names its class where it is no
    plain tensor, and `stored` are the bytes it then takes.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout = FIRST
    aliases: tuple[str, ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    kind: str = ""
    stored: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and those of its aliases."""
        return self.name, *self.aliases

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows (output channels) and columns of the tensor as recipes see it, and as codes and scales are stored."""
        return self.layout.matrix(self.shape)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape it has under one of its names."""
        return self.views[name].shape if name in self.views else self.shape

    def seen_as(self, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor as one of its names shows it: an alias may look at it transposed."""
        return self.views[name].of(tensor) if name in self.views else tensor


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TensorEntry(TensorSpec):
    """One tensor of a model that was opened, and how to load it.

    `why` is empty for a compressible tensor and says why another is kept. `saved` is False for buffers that are not
    part of the state dict. `refused` says why no recipe can be applied to a model that has it: a tensor quantized
    already, something that is no tensor (role "other"), memory shared in part. `shared` of its elements are in memory
    that is counted already. `parts` are the names of what a module computes it from, whose entries have the role "part"
    and say so in `part_of`.
    """

    role: Role
    why: str
    load: Callable[[], Tensor]
    saved: bool = True
    refused: str = ""
    shared: int = 0
    parts: tuple[str, ...] = ()
    part_of: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of the dense tensor, in its own dtype, or of what it is stored as."""
        return self.stored if self.kind else (self.numel - self.shared) * self.dtype.itemsize

    @property
    def compressible(self) -> bool:
        """Whether a recipe may change this tensor."""
        return not self.why

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
    def saved(self) -> tuple[TensorEntry, ...]:
        """The entries that are part of the state dict, in order."""
        return tuple(e for e in self.entries if e.saved)

    @cached_property
    def uncompressed(self) -> tuple[TensorEntry, ...]:
        """The entries no recipe changes, as far as they are saved."""
        return tuple(e for e in self.saved if not e.compressible)


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
    return TensorEntry(
        name, (nbytes,), torch.uint8, kind=kind, stored=nbytes, role="other", why=why, load=load, refused=refused
    )


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
        stored=sum(plain.nbytes for plain in plain_tensors(tensor)) if kind else 0,
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
            yield TensorEntry(name, info.shape, info.dtype, role=role, why=why, load=partial(file.read, name))


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


_STORED_AS: Final = tuple(
    getattr(torch, name)
    for name in (
        *("int8", "uint8", "int16", "uint16", "int32", "uint32", "float4_e2m1fn_x2"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
)
"""The dtypes of quantized weights. Not int64 and bool: those are indices and masks, of ordinary models too."""

_PART: Final = re.compile(
    r"(^|_)(q?scales?|scale_?(inv|\d|max)|q?zeros?|zero_?points?|g_idx|absmax|quant_?(map|state)|scb|codebooks?"
    r"|lookup_table|centroids|shape)$",
    re.IGNORECASE,
)
_NO_WEIGHTS: Final = re.compile(r"ind(ex|ices)|idx|ids|position|mask|bias|bucket|coord|len|step|batches", re.IGNORECASE)
_FEWER: Final = 4  # times fewer numbers than quantized weights has what decodes them, if only its place says so
_BOUNDARIES: Final = 6  # of a name that are tried as the end of another's: "weight.quant_state.bitsandbytes__nf4"

Described: TypeAlias = tuple[str, tuple[int, ...], torch.dtype]


def quantization_parts(tensors: Collection[Described]) -> dict[str, str]:
    """Return the names of all scales, zero points and indices, each with the name of the tensor it belongs to.

    Args:
        tensors: (name, shape, dtype) of every tensor of a model.
    """
    sizes = {name: math.prod(shape) for name, shape, _ in tensors}
    stored = {name: shape for name, shape, dtype in tensors if dtype in _STORED_AS and sizes[name] > 1}
    siblings: dict[str, list[str]] = {}
    for name in stored:
        siblings.setdefault(_split(name)[0], []).append(name)
    weights = {owner: _weights(names, stored, sizes) for owner, names in siblings.items()}
    parts = {}
    for name, shape, _ in tensors:
        owner, leaf = _split(name)
        above, last = _split(owner)
        beside = weights.get(owner, "")
        of = _stem(name, stored) or _stem_of_floats(name, leaf, sizes)
        if not of and beside and _PART.search(leaf) and (owner or (len(shape) >= 2 and sizes[name] > 1)):
            of = beside
        if not of and _PART.search(last):  # "centroids.weight", "weight_quantizer.scale"
            of = weights.get(above, "")
        if not of and owner and _is_weights(beside) and name not in stored and leaf != "bias":
            of = beside if _FEWER * sizes[name] <= sizes[beside] else ""  # whatever it is called
        if of and of != name:
            parts[name] = of
    return parts


def _split(name: str) -> tuple[str, str]:
    """Return what a tensor's name says of its module, and its own name there."""
    at = max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at >= 0 else ("", name)


def _weights(names: list[str], stored: dict[str, tuple[int, ...]], sizes: dict[str, int]) -> str:
    """Return the quantized weights among the integer tensors of one module: the largest, if possible no part itself."""
    wide = [n for n in names if len(stored[n]) >= 2]
    return max([n for n in wide if _is_weights(n)] or wide, key=sizes.__getitem__, default="")


def _is_weights(name: str) -> bool:
    """Tell whether a name may be that of quantized weights, and not of indices, masks, or parts of others."""
    leaf = _split(name)[1]
    return bool(leaf) and not _NO_WEIGHTS.search(leaf) and not _PART.search(leaf)


def _stem(name: str, stored: dict[str, tuple[int, ...]]) -> str:
    """Return the quantized weights that the name goes on from: "weight" of "weight_scale" and "weight.absmax"."""
    end = len(name)
    for _ in range(_BOUNDARIES):
        end = max(name.rfind(".", 0, end), name.rfind("_", 0, end))
        if end <= 0:
            break
        stem = name[:end]
        if stem in stored and len(stored[stem]) >= 2 and _is_weights(stem):
            return stem
    return ""


def _stem_of_floats(name: str, leaf: str, sizes: dict[str, int]) -> str:
    """Return the float weights that a name says it is the scale of, as fake-quantized checkpoints have them."""
    found = re.fullmatch(r"(.*[^_])_(scales?|scale_inv|zero_?points?)", leaf)
    stem = name[: len(name) - len(leaf)] + found[1] if found else ""
    return stem if found and sizes.get(stem, 0) > sizes[name] else ""


def is_array(value: object) -> bool:
    """Tell whether something is an array, but no tensor."""
    return not isinstance(value, Tensor) and hasattr(value, "__array__") and hasattr(value, "dtype")


def as_tensor(name: str, value: Any) -> Tensor:
    """Return an array as a tensor, without a copy where torch can use its memory.

    Raises:
        ModelError: for numbers torch has no type for, naming the array.
    """
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # of ml_dtypes: numpy has none of its own
        return as_tensor(name, array.view(np.uint16)).view(torch.bfloat16)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if min(array.strides, default=0) < 0:
        array = array.copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that cannot be written to: nobody does
            return torch.from_numpy(array)
    except TypeError as error:
        cure = "convert it with .astype('float64')" if array.dtype.kind == "f" else "leave it out"
        raise ModelError(f"{name!r} is an array of {array.dtype}, for which torch has no type: {cure}") from error
