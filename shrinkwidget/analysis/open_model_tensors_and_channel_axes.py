"""Every tensor of a model, in order, with its status: compressible, or kept and why.

From top to bottom: what a tensor and an opened model are, and how modules, state dicts and files are opened
(`open_model`). Then what that has to know: dtypes in files, what no file can carry, checkpoints that are quantized
already, arrays of other libraries, which axes are output channels, weights in shared memory, weights that modules
compute. Last, copies of a model.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ..errors import ModelError, a_type, layer_label, nearest, quoted, reason
from ..recipe_and_method_registry import Plan, Recipe, layer_matches
from .estimate_class_and_packed_file_header import fold_structure, impossible_shape, safetensors_bytes, structure_item
from .read_tensors_and_serialize_safetensors import SafetensorsFile, open_checkpoint

Source: TypeAlias = nn.Module | Mapping[str, Any] | str | os.PathLike[str]
Role: TypeAlias = Literal["parameter", "buffer", "tensor", "part", "other"]

COMPRESSIBLE_DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

Shape: TypeAlias = tuple[int, ...]
Stated: TypeAlias = str | Mapping[str, str] | None
"""What a user says of a state dict or a file: ``"out_in"`` or ``"in_out"``, for all tensors or by name."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is read as a matrix of output channels × everything else, the order all recipes work in.

    Args:
        channels: the axes that index output channels, the slowest first; the others follow in their own order.
        groups: if more than 1, the first axis is split in two before `channels` count: (groups, the rest of it).
            Transposed convolutions with groups are stored so.
        guessed: whether nothing tells, and these axes are only the usual ones.
    """

    channels: tuple[int, ...] = (0,)
    groups: int = 1
    guessed: bool = field(default=False, compare=False)

    def matrix(self, shape: Shape) -> tuple[int, int]:
        """Return (rows, columns) of a tensor of this shape."""
        split = self._split(shape)
        rows = math.prod(split[axis] for axis in self.channels)
        return rows, math.prod(shape) // max(1, rows)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor as its matrix ``[rows, columns]``, contiguous: a view wherever memory allows one."""
        if self.channels == (0,):  # as nearly always: no axis moves
            return tensor.reshape(self.matrix(tensor.shape)).contiguous()
        split = self._split(tensor.shape)
        return tensor.reshape(split).permute(self._order(split)).reshape(self.matrix(tensor.shape)).contiguous()

    def restored(self, rows: Tensor, shape: Shape) -> Tensor:
        """Undo `rows`: return what was given row by row in the tensor's own shape, contiguous."""
        if self.channels == (0,):
            return rows.reshape(shape).contiguous()
        ordered, back = self.unfolding(shape)
        return rows.reshape(ordered).permute(back).reshape(shape).contiguous()

    def unfolding(self, shape: Shape) -> tuple[Shape, list[int]]:
        """Return how rows become a tensor of this shape: first reshaped to this, then its axes permuted so."""
        split = self._split(shape)
        order = self._order(split)
        return tuple(split[axis] for axis in order), [order.index(axis) for axis in range(len(split))]

    def width(self, shape: Shape) -> int:
        """Return the output channels of a tensor of this shape; of a stack of matrices, those of one."""
        stacked = self.groups == 1 and len(self.channels) > 1 and self.channels[0] == 0
        return self.matrix(shape)[0] // (shape[0] if stacked else 1)

    def _split(self, shape: Shape) -> Shape:
        return tuple(shape) if self.groups == 1 else (self.groups, shape[0] // self.groups, *shape[1:])

    def _order(self, split: Shape) -> list[int]:
        return [*self.channels, *(axis for axis in range(len(split)) if axis not in self.channels)]


FIRST: Final = Layout()
"""Output channels first: Linear, convolutions, embeddings, and whatever says nothing else."""
_STACK: Final = Layout((0, 1))
_STACK_IN_OUT: Final = Layout((0, 2))


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

    def plans(self, recipe: Recipe) -> list[Plan]:
        """Return what a recipe asks of each layer.

        Raises:
            RecipeError: if an override matches no layer, saying why where it names a tied or a kept tensor.
        """
        return plans_of(recipe, self.layers, self.uncompressed)


class _Named(Protocol):
    """A layer, sketched or not."""

    @property
    def name(self) -> str:
        """The name of its tensor."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names of the same tensor."""


def plans_of(
    recipe: Recipe, layers: Sequence[_Named], uncompressed: Sequence[UncompressedTensor | TensorEntry]
) -> list[Plan]:
    """Return what a recipe asks of each layer; see `ModelTensors.plans`."""
    tied = {other: f"is tied to {layer_label(layer.name)!r}: name that" for layer in layers for other in layer.aliases}
    kept = {tensor.name: f"is never compressed anyway ({tensor.why})" for tensor in uncompressed}
    return recipe.resolve([layer.name for layer in layers], tied | kept)


@dataclass(frozen=True, slots=True)
class UncompressedTensor:
    """A saved tensor no recipe compresses, and why."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    itemsize: int
    floating: bool
    role: str
    why: str


def uncompressed_tensor(entry: TensorEntry) -> UncompressedTensor:
    """Return what is told of a tensor that no recipe compresses."""
    return UncompressedTensor(
        name=entry.name,
        shape=entry.shape,
        dtype=dtype_name(entry.dtype),
        nbytes=entry.nbytes,
        itemsize=entry.dtype.itemsize,
        floating=entry.dtype in COMPRESSIBLE_DTYPES,
        role=entry.role,
        why=entry.why,
    )


@dataclass(frozen=True, eq=False)
class ModelOverview:
    """What is known of a model besides its layers' weights: all that sizes need of it.

    `original_nbytes` is the size of a plain ``.safetensors`` file, `structure` the length of a packed one's structure
    text. `warnings` say in a sentence each what was taken for granted: which axis is the output channels where nothing
    tells.
    """

    title: str
    parameters: int
    original_nbytes: int
    structure: int
    uncompressed: tuple[UncompressedTensor, ...]
    warnings: tuple[str, ...]


def overview(weights: ModelTensors, structure: int) -> ModelOverview:
    """Return the overview of an opened model; see `structure_length`."""
    return ModelOverview(
        title=weights.title,
        parameters=sum(e.numel for e in weights.entries if e.role in ("parameter", "tensor")),
        original_nbytes=safetensors_bytes(weights.saved),
        structure=structure,
        uncompressed=tuple(map(uncompressed_tensor, weights.uncompressed)),
        warnings=weights.warnings,
    )


def structure_length(weights: ModelTensors, peaks: Mapping[str, float] = MappingProxyType({})) -> int:
    """Return how long the structure text of a packed file is; see `structure_items`."""
    # the header of a packed file describes the tensors the same way under every recipe: only its length counts here
    return len(fold_structure(structure_items(weights, peaks)))


def structure_items(weights: ModelTensors, peaks: Mapping[str, float] = MappingProxyType({})) -> list[list[object]]:
    """Return the descriptions of all saved tensors; `peaks` are largest magnitudes, by name, where known."""
    return [structure_item(e, e.compressible, half_is_bfloat16(e, peaks.get(e.name))) for e in weights.saved]


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
        n = len(weights.entries)
        found = f"its {n} tensors have fewer than two dimensions" if n > 1 else "its only tensor has fewer than two"
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


def count_not_finite(entry: TensorEntry) -> int:
    """Return how many weights of a layer are NaN or infinite; as float32, which float64 is looked at as."""
    return entry.numel - int(where_float64_is(entry.load()).float().isfinite().count_nonzero())


def not_finite(entry: TensorEntry, bad: int) -> ModelError:
    """Return the error for a layer with so many weights that are no numbers to compress."""
    return ModelError(
        f"layer {quoted(entry.name)} has {bad:,} weight{'s that are' if bad > 1 else ' that is'} NaN or infinite"
        f"{' as float32' if entry.dtype is torch.float64 else ''}: repair or retrain it before compressing"
    )


def refuse_not_finite_weights(weights: ModelTensors) -> None:
    """Raise a `ModelError` that names the first layer with weights that are NaN or infinite."""
    for entry in weights.layers:
        if bad := count_not_finite(entry):
            raise not_finite(entry, bad)


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


# ---- which axes are output channels ----

_STATED: Final = ("out_in", "in_out")
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNELS_FIRST: Final = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.EmbeddingBag, nn.RNNBase,
    nn.MultiheadAttention,
)  # fmt: skip
PYTORCH_NAME: Final = re.compile(r"(^|_)weight(_|$)")
"""Last parts of names that PyTorch's own layers have: weight, in_proj_weight, weight_hh_l0."""
_TABLE_NAME: Final = re.compile(r"(embed(s|dings?)?|emb|wte|wpe|table|tokens?|codebook|bias(es)?)$", re.IGNORECASE)
"""What holds one vector in each row, such as the biases of experts."""
_LONGEST_FILTER: Final = 32
"""A last axis up to this long is that of a filter in one dimension, if only a name like "…weight" is known: filters are
odd and short, and the matrices that experts are stacked of are larger."""


def layouts(shapes: Mapping[str, Shape], modules: Mapping[str, nn.Module], stated: Stated = None) -> dict[str, Layout]:
    """Return the layout of every tensor of two or more dimensions, by name.

    The class of the module that owns it decides, if that is known; else its name, the bias beside it, whose length is
    the number of output channels, and the tensors beside it. Square matrices whose bias could belong to either axis
    go with the matrices of the same class, or of the same state dict, that are decided. Where nothing decides, what is
    `stated` does, and else what PyTorch does; of names that are not PyTorch's the layout is then `guessed`. What is
    stated of a tensor by its name comes before all else.

    Raises:
        ModelError: for what cannot be stated, or is stated of no tensor.
    """
    found: dict[str, Layout] = {}
    undecided: dict[str, type | None] = {}
    in_out: dict[type | None, bool] = {}  # whether all matrices that their bias decides are stored as in × out
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        # a parametrized weight belongs to the module that it is a weight of, not to the chain that computes it
        computed = ".parametrizations." in name
        owner = modules.get(name.partition(".parametrizations.")[0] if computed else name.rpartition(".")[0])
        kind = type(owner) if owner is not None else None
        # From the surest to the vaguest: what the class says, then the name, then the length of the bias, then the
        # neighbours.
        layout = layout_by_class(owner, shape) or _by_name(name, shape, shapes)
        if layout is None and (layout := _by_bias(name, shape, shapes)) and len(shape) == 2:
            # One matrix of a class that is out × in refutes in × out for all of it, whatever order they come in.
            in_out[kind] = layout != FIRST and in_out.get(kind, True)
        layout = layout or _by_neighbours(name, shape, shapes, owner)
        if layout is None:
            undecided[name] = kind
        # nothing tells: as PyTorch has it, three dimensions are a stack of matrices or the filters of a Conv1d
        stacked = len(shape) == 3 and not _is_filter(name, shape, owner)
        found[name] = layout or (_STACK if stacked else FIRST)
    by_name, of_the_rest = _stated(stated, list(found))
    # last, as it takes all that is decided: square matrices go with their like
    for name, kind in undecided.items():
        shape, bias = shapes[name], _bias(name, shapes)
        if len(shape) == 2 and bias and kind in in_out:
            found[name] = Layout((1,)) if in_out[kind] else FIRST
        elif of_the_rest is not None:
            found[name] = _as_stated(of_the_rest, found[name], shape)
        elif not (PYTORCH_NAME.search(leaf_of(name)) or (len(shape) == 2 and 1 in shape)):  # vectors have no layout
            found[name] = replace(found[name], guessed=True)
    return found | {name: _as_stated(axes, found[name], shapes[name]) for name, axes in by_name.items()}


def _stated(stated: Stated, names: list[str]) -> tuple[dict[str, str], str | None]:
    """Return what a user says of tensors by name, and of all that nothing tells."""
    if stated is None or isinstance(stated, str):
        return {}, None if stated is None else _checked(stated)
    if not isinstance(stated, Mapping):
        raise ModelError(f"layout={quoted(stated)} must be 'out_in', 'in_out', or a dict of these by tensor name")
    found: dict[str, str] = {}
    for pattern, axes in stated.items():
        matched = [name for name in names if layer_matches(pattern, name)] if isinstance(pattern, str) else []
        if not matched:
            near = nearest(pattern, names) if isinstance(pattern, str) else ""
            raise ModelError(f"layout={{{quoted(pattern)}: …}} matches no tensor of two or more dimensions{near}")
        found |= dict.fromkeys(matched, _checked(axes))
    return found, None


def _checked(axes: object) -> str:
    if not isinstance(axes, str) or axes not in _STATED:
        near = nearest(axes, _STATED) if isinstance(axes, str) else ""
        raise ModelError(
            f"layout={quoted(axes)} must be 'out_in' (output channels first, as in PyTorch) or 'in_out' (last, as in "
            f"Keras and JAX){near}"
        )
    return axes


def _as_stated(axes: str, usual: Layout, shape: Shape) -> Layout:
    """Return the layout of a tensor with output channels first or last; of a stack, of each of its matrices."""
    stacked = usual.channels[:1] == (0,) and len(usual.channels) == 2
    if axes == "out_in":
        return _STACK if stacked else FIRST
    return Layout((0, len(shape) - 1)) if stacked else Layout((len(shape) - 1,))


def guesses(found: Iterable[tuple[str, Shape, Layout]], answerable: bool) -> tuple[str, ...]:
    """Return in a sentence each which tensors are read in the usual way because nothing tells, and what to do."""
    guessed = [item for item in found if item[2].guessed]
    warnings = []
    for stacked, order in ((False, "output channels first (out × in)"), (True, "a stack of out × in")):
        alike = [(name, shape) for name, shape, layout in guessed if (len(layout.channels) > 1) == stacked]
        if not alike:
            continue
        name, shape = alike[0]
        which = f"{quoted(name)} ({'×'.join(map(str, shape))})"
        several = f"{which} and {len(alike) - 1:,} more are" if len(alike) > 1 else f"{which} is"
        cure = "give layout='in_out'" if answerable else "give model.state_dict() and layout='in_out'"
        warnings.append(f"{several} read as {order}, and nothing says so: if it is in × out, {cure}")
    return tuple(warnings)


def bias_names(name: str) -> Iterator[str]:
    """Yield what the bias of a weight of this name may be called."""
    path, last = _parent(name), leaf_of(name)
    for weight, bias in (
        ("weights", "biases"), ("weight", "bias"), ("kernel", "bias"), ("coefs", "intercepts"), ("coef", "intercept"),
        ("W", "b"), ("w", "b"),
    ):  # fmt: skip
        if weight in last:
            yield path + bias.join(last.rsplit(weight, 1))
    yield f"{name}_bias"
    if last == "0":  # Keras numbers the variables of a layer
        yield f"{path}1"


def _bias(name: str, shapes: Mapping[str, Shape]) -> Shape:
    """Return the shape of the bias beside a weight, () if there is none."""
    return next((shapes[bias] for bias in bias_names(name) if bias != name and bias in shapes), ())


def _parent(name: str) -> str:
    return name[: len(name) - len(leaf_of(name))]


def leaf_of(name: str) -> str:
    """Return the last part of a name; JAX and Keras write paths with slashes."""
    return re.split(r"[./]", name)[-1]


def layout_by_class(owner: Any, shape: Shape) -> Layout | None:
    """Return what the owner's class says of a parameter, None if it says nothing."""
    if isinstance(owner, _TRANSPOSED):  # in × (out / groups) × filter
        split = owner.groups > 1 and shape[0] % owner.groups == 0
        return Layout((0, 2), owner.groups) if split else Layout((1,))
    if isinstance(owner, _CHANNELS_FIRST) or type(owner).__name__ == "KernelMachine":  # ours, of from_sklearn
        return FIRST
    if type(owner).__name__ == "Conv1D" and hasattr(owner, "nf"):  # Hugging Face's, of GPT-2: inputs × outputs
        return Layout((1,))
    if len(shape) == 3 and isinstance(stored := getattr(owner, "is_transposed", None), bool):  # its experts
        return _STACK_IN_OUT if stored else _STACK
    return None


def _by_name(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a kernel of Keras, flax, haiku or TensorFlow, None for any other name."""
    last = leaf_of(name).removesuffix(":0")  # of TensorFlow's names
    foreign = "/" in name and (last in ("w", "weights") or re.search(r"/vars/0$", name))
    if not (last.endswith("kernel") or foreign):
        return None
    if "embedding" in _parent(name).rstrip("/").rpartition("/")[2]:  # a table, with a vector in each row
        return FIRST
    axes, bias = len(shape), _bias(name, shapes)
    if last == "depthwise_kernel":
        return Layout((axes - 2, axes - 1))
    if axes > 2 and re.search(r"conv\dd_transpose", name):  # Keras: filter × outputs × inputs
        return Layout((axes - 2,))
    if len(bias) == 2 and bias == (shape[0], shape[-1]) and bias != shape[-2:]:  # layers stacked by a scan
        return Layout((0, axes - 1))
    for several in range(1, axes):  # attention has heads × features, depthwise filters channels × 1
        if bias and math.prod(shape[-several:]) == math.prod(bias):
            return Layout(tuple(range(axes - several, axes)))
    return Layout((axes - 1,))


def _by_bias(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a tensor with a bias of one dimension that fits one place only."""
    bias = _bias(name, shapes)
    if len(bias) != 1:
        return None
    (outputs,) = bias
    if len(shape) == 2 or "weight" not in leaf_of(name):
        # Square, or the bias fits neither axis: it tells nothing.
        if (shape[0] == outputs) == (shape[-1] == outputs):
            return None
        return FIRST if shape[0] == outputs else Layout((len(shape) - 1,))
    # "weight" with more axes is a convolution's: out × in × filter, or in × out × filter if it is transposed
    square = shape[0] == shape[1]
    if outputs == shape[0] and not (square and re.search("transpose|deconv", name, re.IGNORECASE)):
        return FIRST
    if outputs == shape[1]:
        return Layout((1,))
    if len(shape) > 3 and outputs == shape[-1] != shape[-2]:  # filter × in × out, as TensorFlow has it
        return Layout((len(shape) - 1,))
    groups, rest = divmod(outputs, shape[1])  # transposed, with groups: in × (out / groups) × filter
    return Layout((0, 2), groups) if groups and not rest and shape[0] % groups == 0 else None


def _by_neighbours(name: str, shape: Shape, shapes: Mapping[str, Shape], owner: nn.Module | None) -> Layout | None:
    """Return the layout of a table of vectors, or of a stack that the stacks beside it explain."""
    last = leaf_of(name)
    holder = leaf_of(_parent(name)[:-1]) if last == "weight" else last
    table = _TABLE_NAME.search(holder) and len(shape) < 4
    if table and len(shape) == 2:
        return FIRST
    if len(shape) == 2:
        return None
    if shape[0] == 1 and (table or "weight" not in last):  # position embeddings 1 × N × D: a row for each position
        return Layout((next((axis for axis, size in enumerate(shape) if size > 1), 0),))
    if table:
        return _STACK
    return None if len(shape) > 3 or _is_filter(name, shape, owner) else _stack(name, shape, shapes)


def _is_filter(name: str, shape: Shape, owner: nn.Module | None) -> bool:
    """Tell whether a tensor of three dimensions is a convolution's, by what it is called and how long it is."""
    short = shape[1] == 1 or shape[2] <= _LONGEST_FILTER
    return "weight" in leaf_of(name) and owner is None and short and not re.search("expert|moe", name, re.IGNORECASE)


def _stack(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a stack of matrices, such as the experts of a layer, None if nothing tells.

    Their bias tells; or a stack beside it, if one of both holds two matrices in one (gates and values, 2·I × H beside
    H × I): the sizes then fit only one way.
    """
    # Gates and values in one matrix: its outputs are twice the inputs of the one that comes after, 2·I × H and H × I.
    experts, a, b = shape
    bias = _bias(name, shapes)
    if bias in ((experts, a), (experts, b)) and a != b:
        return _STACK if bias == (experts, a) else _STACK_IN_OUT
    for other, beside in shapes.items():
        if other != name and len(beside) == 3 and beside[0] == experts and _parent(other) == _parent(name):
            _, c, d = beside
            if (a, b) == (2 * d, c) or (c, d) == (2 * b, a):
                return _STACK
            if (a, b) == (d, 2 * c) or (c, d) == (b, 2 * a):
                return _STACK_IN_OUT
    return None


# ---- weights that share memory ----


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


# ---- copies of a model ----


Write: TypeAlias = Callable[[str, Tensor], None]
"""Takes a tensor's name and its values."""


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of a model: its class, hooks, ties, devices, dtypes and training modes, but no gradients.

    What the model holds besides its parameters and buffers is copied as well, computed tensors without their history.
    Weights that modules compute (masks, weight norm, parametrizations) are plain parameters of the copy.

    Raises:
        ModelError: if it cannot be copied.
    """
    return copied_without(model, ())[0]


def copied_without(model: nn.Module, names: Iterable[str]) -> tuple[nn.Module, Write]:
    """Return a copy of a model (see `copied`) whose parameters of these names are still to be given, and what does so.

    A tensor that is given becomes the parameter itself, without a copy, where it fits and shares no memory: whoever
    gives it must not use it any more.
    """
    try:
        with torch.inference_mode(False), torch.no_grad():
            # deepcopy refuses these: weights that a hook makes again before each call, activations that are remembered
            memo = {id(tensor): tensor.detach().clone() for tensor in _computed(model)}
            shared, places = _sharing(model), dict(model.named_parameters(remove_duplicate=False))
            # memory that nobody has touched costs nothing, and to be given it takes longer than to fill it
            blank = {
                name: nn.Parameter(torch.empty_like(places[name]), places[name].requires_grad)
                for name in names
                if name in places and type(places[name]) is nn.Parameter and id(places[name]) not in shared
            }
            new = copy.deepcopy(model, memo | shared | {id(places[name]): own for name, own in blank.items()})
    except Exception as error:
        raise ModelError(
            f"this {type(model).__name__} cannot be copied ({reason(error)}), and your own model is "
            f"never changed: remove what copy.deepcopy does not accept, or compress model.state_dict() instead"
        ) from error
    for parameter, original in zip(new.parameters(), model.parameters(), strict=True):
        parameter.grad = None
        if original.requires_grad and not parameter.requires_grad:  # a scripted module's copy forgets it
            parameter.requires_grad_()
    plain_weights(new)
    now, write = dict(new.named_parameters(remove_duplicate=False)), writer(new)

    def give(name: str, tensor: Tensor) -> None:
        place = blank.get(name)
        # a scripted module's copy has parameters of its own
        if place is None or now[name] is not place or not _interchangeable(place, tensor):
            write(name, tensor)
        else:
            place.data = tensor

    return new, give


def _interchangeable(place: Tensor, tensor: Tensor) -> bool:
    """Tell whether a tensor can take the place of a parameter's: in its memory's order, and open to gradients."""
    alike = (place.device, place.dtype, place.stride()) == (tensor.device, tensor.dtype, tensor.stride())
    return alike and not tensor.is_inference()


def _sharing(model: nn.Module) -> dict[int, Tensor]:
    """Return copies, by the id of the original, of all parameters and buffers that look at memory of each other.

    They look at one another's memory in the same way; deepcopy gives a parameter that is a view memory of its own.
    """
    named = chain(model.named_parameters(), model.named_buffers())
    copies: dict[int, Tensor] = {}
    for cluster in clusters((name, tensor) for name, tensor in named if type(tensor) in (Tensor, nn.Parameter)):
        # one copy of the memory that the cluster spans, and on it the same views, strides and all
        first, last = min(start for start, *_ in cluster), max(stop for _, stop, *_ in cluster)
        memory = cluster[0][3].detach().as_strided((last - first,), (1,), first).clone()
        for start, _, _, tensor in cluster:
            view = memory.as_strided(tensor.shape, tensor.stride(), start - first)
            own = nn.Parameter(view, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else view
            own.__dict__.update(vars(tensor))
            copies[id(tensor)] = own
    return copies


def _computed(model: nn.Module) -> Iterator[Tensor]:
    """Yield the tensors with a history that a model's modules hold, in lists and dicts too."""
    held: list[Any] = [vars(module) for module in model.modules()]
    seen: set[int] = set()
    while held:
        value = held.pop()
        if isinstance(value, Tensor) and not value.is_leaf:
            yield value
        elif isinstance(value, list | tuple | dict) and id(value) not in seen:  # they may hold each other
            seen.add(id(value))
            held.extend(value.values() if isinstance(value, dict) else value)


def writer(model: nn.Module) -> Write:
    """Return what writes tensors over a model's parameters and buffers, by name; on another device they are moved."""
    # with every name of a tied tensor: which of them a state dict uses is the caller's business
    places = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))

    def write(name: str, tensor: Tensor) -> None:
        with torch.inference_mode(False), torch.no_grad():
            places[name].copy_(tensor)

    return write


def fill(model: nn.Module, state: Iterable[tuple[str, Tensor]]) -> None:
    """Write tensors over a model's parameters and buffers; see `writer`."""
    write = writer(model)
    for name, tensor in state:
        write(name, tensor)
