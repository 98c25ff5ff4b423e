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
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, a_type, quoted
from .channel_layout import FIRST, Layout, Stated, guesses, layouts
from .file_structure_and_size import impossible_shape
from .safetensors_checkpoint import SafetensorsFile, open_checkpoint
from .tied_and_parametrized_weights import View, computed_by, expanded, overlapping, places, same_memory, view_of

Source: TypeAlias = nn.Module | Mapping[str, Any] | str | os.PathLike[str]
Role: TypeAlias = Literal["parameter", "buffer", "tensor", "part", "other"]

COMPRESSIBLE_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


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

    `warnings` say in a sentence each what was taken for granted; `paths` are the files it was opened from.
    """

    title: str
    entries: tuple[TensorEntry, ...]
    warnings: tuple[str, ...] = ()
    paths: tuple[Path, ...] = ()

    @cached_property
    def layers(self) -> tuple[TensorEntry, ...]:
        """The compressible entries, in order."""
        return tuple(e for e in self.entries if e.compressible)

    @cached_property
    def on_gpu(self) -> bool:
        """Whether operations on the compressible entries are queued on a GPU, rather than done by the caller."""
        return any(entry.load().device.type == "cuda" for entry in self.layers)

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
    module = source if isinstance(source, nn.Module) else None
    paths: tuple[Path, ...] = ()
    if module is not None:
        title, entries = type(module).__name__, tuple(_module_entries(module))
    elif isinstance(source, Mapping):
        title, entries = "state dict", tuple(_state_entries(source))
    elif isinstance(source, str | os.PathLike):
        checkpoint = open_checkpoint(source)
        title, entries, paths = checkpoint.title, tuple(_file_entries(checkpoint.files)), checkpoint.paths
    else:
        raise ModelError(_no_model(source))
    # At once, rather than when the work is done and is to be saved.
    for entry in entries:
        if problem := impossible_shape(entry.shape):
            raise ModelError(f"{quoted(entry.name)} has {problem}")
        if any("\ud800" <= letter <= "\udfff" for name in entry.names for letter in name):
            raise ModelError(
                f"the name {quoted(entry.name)} has half of a surrogate pair, which no file can hold: rename it"
            )
    if layout is not None and module is not None:
        raise ModelError(
            f"layout={quoted(layout)} is for state dicts and files, where no class tells: give it model.state_dict()"
        )
    shapes = {entry.name: entry.shape for entry in entries}
    laid_out = layouts(shapes, dict(module.named_modules()) if module is not None else {}, layout)
    # scales and zero points are known by what stands beside them, so only once all entries are there
    parts = quantization_parts([(e.name, e.shape, e.dtype) for e in entries if not e.kind])
    parts_why = {
        name: f"part of the quantized weights {quoted(of)} (scales, zero points, indices)" for name, of in parts.items()
    }
    entries = tuple(replace(e, layout=laid_out.get(e.name, FIRST), why=parts_why.get(e.name, e.why)) for e in entries)
    read = ((entry.name, entry.shape, entry.layout) for entry in entries if entry.compressible)
    weights = ModelTensors(title, entries, guesses(read, answerable=module is None), paths)
    if not only_to_look:
        check_refused(weights)
        if not weights.layers:
            raise ModelError(nothing_compressible(weights))
    return weights


def check_refused(weights: ModelTensors) -> None:
    """Raise a `ModelError` that names the first saved tensor no recipe can be applied to."""
    for entry in weights.saved:
        if entry.refused:
            raise ModelError(entry.refused)


def _no_model(found: object) -> str:
    if isinstance(found, type) and issubclass(found, nn.Module):
        return f"cannot look at the class {found.__name__}: give a model made of it, {found.__name__}(…)"
    if isinstance(found, Tensor) or is_array(found):
        give = 'a state dict with its name, {"weight": …}'
    elif is_estimator(found):
        give = "sw.from_sklearn(estimator), a module with the same predictions; sw.summary weighs the estimator itself"
    elif hasattr(found, "model") and hasattr(found, "state_dict"):  # what compress, retrain and others return
        give = "its .model, or its .state_dict()"
    else:
        give = "an nn.Module, a state dict, or the path of a .safetensors file"
    return f"cannot look at {a_type(found)}: give {give}"


def nothing_compressible(weights: ModelTensors) -> str:
    """Return why a model without compressible tensors has none."""
    wide = [e for e in weights.entries if len(e.shape) >= 2]
    found = "it has no tensors"
    if wide:
        found = f"{quoted(wide[0].name)} is kept: {wide[0].why}"
    elif weights.entries:
        found = f"its {len(weights.entries)} tensors have fewer than two dimensions"
    return f"nothing to compress in {weights.title}: no float parameter with two or more dimensions ({found})"


class _Found(NamedTuple):
    """A tensor and a name it has. `parts`: names of what it is computed from."""

    name: str
    tensor: Tensor
    role: Role
    saved: bool = True
    parts: tuple[str, ...] = ()


def _module_entries(module: nn.Module) -> Iterator[TensorEntry]:
    found = list(_module_tensors(module))
    part_of = {part: whole.name for whole in found for part in whole.parts}
    # What the parts of a parametrized weight take is counted, but what is saved and compressed is the weight.
    for entry in _tie(found, in_module=True):
        if whole := part_of.get(entry.name):
            why = f"a part of {whole!r}, which is computed from it and saved whole"
            yield replace(entry, role="part", why=why, saved=False, refused="", part_of=whole)
        else:
            yield entry
    names = {item.name for item in found}
    for name, value, refused in others_in(module, names, {same_memory(item.tensor) for item in found}):
        yield _other(name, value, refused)


def _module_tensors(module: nn.Module) -> Iterator[_Found]:
    """Yield parameters and buffers module by module, so that a layer's bias follows its weight."""
    for prefix, child in module.named_modules():
        dot = f"{prefix}." if prefix else ""
        for weight in computed_by(child):
            with torch.no_grad():
                yield _Found(
                    dot + weight.name, weight.value(), "parameter", parts=tuple(dot + part for part in weight.parts)
                )
        # not named_parameters, which leaves out all names of a tied weight but one
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if nn.parameter.is_lazy(parameter):
                raise ModelError(
                    f"{quoted(dot + name)} has no weights yet (a lazy module): run one batch through the model first"
                )
            yield _Found(dot + name, parameter, "parameter")
        for name, buffer in child._buffers.items():
            if buffer is not None:
                yield _Found(dot + name, buffer, "buffer", name not in child._non_persistent_buffers_set)


def _state_entries(state: Mapping[str, Any]) -> Iterator[TensorEntry]:
    tensors: list[_Found] = []
    for name, value in state.items():
        if not isinstance(name, str):
            raise ModelError(f"the state dict has the key {quoted(name)}; expected names of tensors")
        if isinstance(value, Mapping):
            raise ModelError(
                f"the state dict holds {a_type(value)} at {quoted(name)}; expected tensors only; "
                f"is the state dict one level down?"
            )
        if isinstance(value, Tensor) or is_array(value):
            tensor = value if isinstance(value, Tensor) else as_tensor(name, value)
            tensors.append(_Found(name, tensor, _role(name)))
    yield from _tie(tensors)
    names = {item.name for item in tensors}
    for name, value in state.items():
        if name not in names:
            cure = "convert it with np.array(…)" if isinstance(value, list | tuple) else "leave it out"
            kind = type(value).__name__
            yield _other(
                name, value, f"the state dict holds {quoted(name)}, of type {kind}; expected tensors only: {cure}"
            )


def _file_entries(files: Iterable[SafetensorsFile]) -> Iterator[TensorEntry]:
    """Yield the entries of safetensors files without reading a weight; `load` reads one tensor."""
    for file in files:
        for name, info in file.tensors.items():
            role = _role(name)
            why = why_kept(info.shape, info.dtype, role)
            yield TensorEntry(name, info.shape, info.dtype, role=role, why=why, load=partial(file.read, name))


def _role(name: str) -> Role:
    """Return what a name says where no module does: batch norm's statistics are buffers."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return "buffer" if name.rpartition(".")[2] in statistics else "tensor"


def _other(name: str, value: object, refused: str) -> TensorEntry:
    """Return the entry of what is no parameter, no buffer, and perhaps no tensor."""

    def load() -> Tensor:
        raise ModelError(f"{quoted(name)} is no tensor of its own")

    nbytes, why = nbytes_of(value), "neither a parameter nor a buffer"
    kind = type(value).__name__
    return TensorEntry(
        name, (nbytes,), torch.uint8, kind=kind, stored=nbytes, role="other", why=why, load=load, refused=refused
    )


def _tie(found: Iterable[_Found], in_module: bool = False) -> Iterator[TensorEntry]:
    """Turn tensors into entries, giving those that share one memory a single entry with aliases.

    A parameter's name comes before that of a buffer in the same memory. Of a module, parameters that share a part of
    their memory are refused: a recipe would change one through the other.
    """
    # Most models have thousands of tensors and few ties: grouping by memory first keeps the pairwise look to those few.
    groups: dict[object, list[list[_Found]]] = {}
    in_order: list[list[_Found]] = []
    for item in found:
        # of one memory, and yet not tied: views of which none shows the other, such as two orders of the same numbers
        places = groups.setdefault(same_memory(item.tensor), [])
        group = next((g for g in places if g[0].tensor is item.tensor or view_of(g[0].tensor, item.tensor)), None)
        if group is None:
            places.append(group := [])
            in_order.append(group)
        group.append(item)
    # A sort keeps the order of equals: the first parameter gives the name, as torch's own named_parameters does.
    tied = [sorted(group, key=lambda item: item.role == "buffer") for group in in_order]
    entries = {group[0].name: _entry(group, in_module) for group in tied}
    if in_module:
        for one, other, shared in overlapping((group[0].name, group[0].tensor) for group in tied):
            # Buffers may overlap as they like: it matters only where a recipe would change one through the other.
            refused = entries[other].refused
            if any(entries[name].compressible and entries[name].saved for name in (one, other)):
                refused = (
                    f"{quoted(other)} and {quoted(one)} share a part of their memory, so that a change to one changes "
                    f"the other: give one its own, as in {_own_memory(other)}"
                )
            entries[other] = replace(entries[other], shared=shared, refused=refused)
    yield from entries.values()


def _own_memory(name: str) -> str:
    return f"model.{name} = nn.Parameter(model.{name}.detach().clone())"


def _entry(group: list[_Found], in_module: bool) -> TensorEntry:
    """Return the entry of a tensor and its aliases, the first of which gives it its name."""
    name, tensor, role, _, parts = group[0]
    if tensor.device.type == "meta":
        raise ModelError(f"{quoted(name)} is on the meta device and has no values: load the model's weights first")
    kind, refused = unsupported_class(name, tensor)
    if tensor.layout != torch.strided and not kind:
        layout = str(tensor.layout).removeprefix("torch.")
        raise ModelError(f"{quoted(name)} is stored as {layout}: make it dense with .to_dense() first")
    tensor = tensor.detach()
    why = f"quantized already ({kind})" if kind else why_kept(tensor.shape, tensor.dtype, role)
    if in_module and not why and expanded(tensor):
        refused = (
            f"several weights of {quoted(name)} are one place in memory (it is expanded): give each its own, as in "
            f"{_own_memory(name)}"
        )
    views = {item.name: view_of(tensor, item.tensor.detach()) for item in group[1:]} if not kind else {}

    def load() -> Tensor:
        # a negation or conjugation may only be noted (of z.conj().imag): others would see the values without it
        return tensor.resolve_conj().resolve_neg() if tensor.is_conj() or tensor.is_neg() else tensor

    return TensorEntry(
        name,
        tuple(tensor.shape),
        tensor.dtype,
        aliases=tuple(item.name for item in group[1:]),
        views={other: view for other, view in views.items() if view is not None and not view.plain(tensor.shape)},
        kind=kind,
        stored=sum(plain.nbytes for plain in plain_tensors(tensor)) if kind else 0,
        role=role,
        why=why,
        load=load,
        saved=any(item.saved for item in group),
        refused=refused,
        shared=0 if kind else tensor.numel() - places(tensor),
        parts=parts,
    )


def why_kept(shape: tuple[int, ...], dtype: torch.dtype, role: Role) -> str:
    """Return why a tensor is not compressed, "" if it is."""
    if role == "buffer":
        return "a buffer, not a parameter"
    if dtype not in COMPRESSIBLE_DTYPES:
        return f"{dtype_name(dtype)}: only float16, bfloat16, float32 and float64 can be compressed"
    if len(shape) < 2:
        return "fewer than two dimensions (a bias, a norm, a scalar)"
    return "" if math.prod(shape) else "empty"


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name: ``"float32"``."""
    return str(dtype).removeprefix("torch.")


def where_float64_is(tensor: Tensor) -> Tensor:
    """Return a tensor where sums can be taken in float64: Metal has none, but shares the CPU's memory."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


# ---- the dtype of a tensor in a file that stores 16 or 32 bits an element ----

HALF_MAX: Final = 65504.0
"""The largest finite float16; a tensor with magnitudes beyond it has bfloat16 as its 16-bit form."""
_WIDE: Final = (torch.float32, torch.float64)


def stored_dtype(dtype: torch.dtype, bits: int, bfloat16: bool) -> torch.dtype:
    """Return the dtype in which a tensor is stored that may take `bits` = 16 or 32 bits per element."""
    if dtype not in _WIDE or dtype.itemsize <= bits // 8:
        return dtype
    return torch.float32 if bits == 32 else torch.bfloat16 if bfloat16 else torch.float16


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in a narrower dtype; a finite value beyond its range becomes its largest one, not infinite."""
    if dtype == tensor.dtype:
        return tensor
    narrow, limit = tensor.to(dtype), torch.finfo(dtype).max
    # looked for first, as hardly any tensor has such values: clamping all of them would be another pass
    overflown = torch.isinf(narrow) & torch.isfinite(tensor)
    return torch.where(overflown, tensor.clamp(-limit, limit).to(dtype), narrow) if bool(overflown.any()) else narrow


def needs_bfloat16(dtype: torch.dtype, peak: float) -> bool:
    """Tell whether a tensor's 16-bit form is bfloat16, `peak` being its largest finite magnitude."""
    return dtype == torch.bfloat16 or (dtype in _WIDE and peak > HALF_MAX)


def peak(tensor: Tensor) -> float:
    """Return the largest finite magnitude of a float tensor, 0 if there is none."""
    if not tensor.numel():
        return 0.0
    # one pass where all is finite, as nearly always: aminmax hands on NaN and infinities
    low, high = (float(x) for x in torch.aminmax(tensor))
    if math.isfinite(low) and math.isfinite(high):
        return max(-low, high)
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def half_is_bfloat16(entry: TensorEntry, known_peak: float | None = None) -> bool:
    """Tell whether the 16-bit form of a tensor is bfloat16; its largest magnitude is looked up if it is not known.

    It is part of the description, and so it is found out for all tensors, also where no recipe makes them 16 bits wide.
    """
    if entry.dtype in _WIDE and known_peak is None:
        known_peak = peak(entry.load())
    return needs_bfloat16(entry.dtype, known_peak or 0.0)


# ---- what no packed file can carry: tensors of quantized classes, packed weights, extra state, what is no tensor ----


_QUANTIZED: Final = ("quant_state", "quant_type", "bnb_quantized")
"""Attributes with which bitsandbytes, GGUF and others mark a parameter that holds packed codes."""


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
        if isinstance(value, Tensor):
            # A state-dict hook may list a parameter under a second name: its memory is saved already.
            lost = value.numel() > 0 and same_memory(value.detach()) not in memory
        else:
            lost = value is not None and not (isinstance(value, bytes | str | tuple | list | dict) and not value)
        if lost and name not in known:
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


# ---- checkpoints of weights that are quantized already: what in them decodes the weights ----

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
"""Last parts of names that GPTQ, AWQ, bitsandbytes, compressed-tensors, DeepSeek's and others give to scales, zero
points, group indices and codebooks."""
_NO_WEIGHTS: Final = re.compile(r"ind(ex|ices)|idx|ids|position|mask|bias|bucket|coord|len|step|batches", re.IGNORECASE)
"""Integer tensors of ordinary models."""

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
    # the weights among the integer tensors of one module: the largest, if possible one whose name is not that of a part
    # GPTQ's layer, for example: qweight (int32, the largest), qzeros and scales, g_idx.
    weights: dict[str, str] = {}
    for owner, names in siblings.items():
        wide = [name for name in names if len(stored[name]) >= 2]
        weights[owner] = max([n for n in wide if _is_weights(n)] or wide, key=sizes.__getitem__, default="")
    parts = {}
    for name, shape, _ in tensors:
        owner, leaf = _split(name)
        above, last = _split(owner)
        beside = weights.get(owner, "")
        # From the surest clue to the weakest: the name goes on from the weights' own; it is what parts are called,
        # beside weights; it lies a level below; it is small, and stands beside them.
        of = _stem(name, stored) or _stem_of_floats(name, leaf, sizes)
        if not of and beside and _PART.search(leaf) and (owner or (len(shape) >= 2 and sizes[name] > 1)):
            of = beside
        if not of and _PART.search(last):  # "centroids.weight", "weight_quantizer.scale"
            of = weights.get(above, "")
        if not of and owner and _is_weights(beside) and name not in stored and leaf != "bias":
            # whatever it is called: what stands beside quantized weights and has far fewer numbers decodes them
            of = beside if 4 * sizes[name] <= sizes[beside] else ""
        if of and of != name:
            parts[name] = of
    return parts


def _split(name: str) -> tuple[str, str]:
    """Return what a tensor's name says of its module, and its own name there."""
    at = max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at >= 0 else ("", name)


def _is_weights(name: str) -> bool:
    """Tell whether a name may be that of quantized weights, and not of indices, masks, or parts of others."""
    leaf = _split(name)[1]
    return bool(leaf) and not _NO_WEIGHTS.search(leaf) and not _PART.search(leaf)


def _stem(name: str, stored: dict[str, tuple[int, ...]]) -> str:
    """Return the quantized weights that the name goes on from: "weight" of "weight_scale" and "weight.absmax"."""
    end = len(name)
    for _ in range(6):  # "weight.quant_state.bitsandbytes__nf4" has five ends to try
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


# ---- estimators of scikit-learn ----


def is_estimator(value: object) -> bool:
    """Tell whether something is an estimator of scikit-learn, which is not imported to find out."""
    return any(f"{kind.__module__}.{kind.__name__}" == "sklearn.base.BaseEstimator" for kind in type(value).__mro__)


def sklearn_class(value: object) -> str:
    """Return the name of scikit-learn's class that an object is of, or whose subclass; "" if there is none."""
    ours = (kind.__name__ for kind in type(value).__mro__ if kind.__module__.startswith("sklearn."))
    return next(ours, "")


# ---- arrays of numpy, JAX and TensorFlow ----


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
    # torch has no big-endian tensors, and none with negative strides (a[::-1]).
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
