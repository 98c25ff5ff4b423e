"""What the header of a packed file says of the model's tensors, read back and believed only after every check."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from .. import strict_json
from ..analysis.channel_layout import FIRST, Layout
from ..analysis.file_size import (
    BFLOAT16,
    COMPRESSIBLE,
    LayerBytes,
    layer_bytes,
    stored_bits,
    stored_dtype,
    structure_json,
)
from ..analysis.model_tensors import COMPRESSIBLE_DTYPES
from ..analysis.safetensors_checkpoint import DTYPES, impossible_shape
from ..analysis.tied_and_parametrized_weights import View
from ..errors import FileError, RecipeError, quoted
from ..recipe import Plan, Recipe

# What zlib may unfold to beyond a megabyte: names repeat, but not like this.
_FREE: Final = 1 << 20
_RATIO: Final = 200


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """The place of one tensor in a packed file: what it is, and what the recipe asked of it (None: kept)."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    bfloat16: bool
    layout: Layout
    aliases: tuple[str, ...]
    plan: Plan | None
    uncompressed_bits: int
    views: Mapping[str, View]

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and those of its aliases."""
        return self.name, *self.aliases

    def seen_as(self, name: str, tensor: Tensor) -> Tensor:
        """Return the tensor as one of its names shows it: an alias may look at it transposed."""
        return self.views[name].of(tensor) if name in self.views else tensor

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape it has under one of its names."""
        return self.views[name].shape if name in self.views else self.shape

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the tensor, as its codes and scales follow each other."""
        return self.layout.matrix(self.shape)

    @property
    def encoded(self) -> Plan | None:
        """The plan, where the tensor is stored as codes; None where it is stored as it is."""
        return None if self.plan is None or self.plan.keep else self.plan

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of its stored values: of plain codes (16 and 32 bits), or of the tensor left uncompressed."""
        if self.plan is None:
            return stored_dtype(self.dtype, self.uncompressed_bits, self.bfloat16)
        return self.dtype if self.plan.keep else stored_dtype(self.dtype, self.plan.bits, self.bfloat16)

    @property
    def bits(self) -> int:
        """Bits per code of a coded tensor."""
        return stored_bits(self.plan.bits, self.dtype.itemsize) if self.plan else 8 * self.stored_dtype.itemsize

    def nbytes(self, kept: int) -> LayerBytes:
        """Return the bytes of the tensor in a plain packed file, `kept` of its weights being kept."""
        if self.plan is None:
            return LayerBytes(0, 0, 0, as_is=self.numel * self.stored_dtype.itemsize, dense=True)
        return layer_bytes(self.matrix, kept, self.plan, self.dtype.itemsize)


def read_records(structure: str, recipe: Recipe) -> tuple[TensorRecord, ...]:
    """Return the tensors a structure text describes, in model order, each with its plan.

    Raises:
        FileError: unless the text is what `structure_text` writes, for a model this recipe fits.
    """
    described = [_checked(item) for item in _json(structure)]
    if twice := [n for n, times in Counter(n for d in described for n in (d[0], *d[5])).items() if times > 1]:
        raise FileError(f"its structure names the tensor {quoted(twice[0])} twice")
    try:
        plans = iter(recipe.resolve(d[0] for d in described if d[3] & COMPRESSIBLE))
    except RecipeError as error:
        raise FileError(f"its recipe does not fit its tensors: {error}") from error
    return tuple(
        TensorRecord(
            name,
            shape,
            dtype,
            bool(flags & BFLOAT16),
            layout,
            aliases,
            _next(plans, flags),
            recipe.uncompressed_bits,
            views,
        )
        for name, shape, dtype, flags, layout, aliases, views in described
    )


def _next(plans: Iterator[Plan], flags: int) -> Plan | None:
    return next(plans) if flags & COMPRESSIBLE else None


def _json(structure: str) -> list[Any]:
    try:
        unfold = zlib.decompressobj()
        packed = base64.b64decode(structure, validate=True)
        text = unfold.decompress(packed, _FREE + _RATIO * len(structure))
        if not unfold.eof or unfold.unused_data:
            raise FileError("its structure is cut short, or unfolds to far more than its length allows")
        found = strict_json.parse(text)
        if structure_json(found) != text or base64.b64encode(packed).decode() != structure:
            raise FileError("its structure is not written as shrinkwidget writes it: another program has changed it")
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"its structure is not base64 of zlib of JSON ({error})") from error
    if not isinstance(found, list):
        raise FileError("its structure is not a list of tensors")
    return found


_Described: TypeAlias = tuple[
    str, tuple[int, ...], torch.dtype, int, Layout, tuple[str, ...], Mapping[str, View]
]  # fmt: skip


def _checked(item: Any) -> _Described:
    own = item[4:5] if isinstance(item, list) and item[4:5] and _is_layout(item[4]) else []
    aliases = item[4 + len(own) :] if isinstance(item, list) else []
    aliases = [a[0] if isinstance(a, list) and len(a) == 3 else a for a in aliases]
    if not isinstance(item, list) or len(item) < 4 or not all(isinstance(n, str) for n in (item[0], *aliases)):
        raise FileError(f"its structure describes a tensor as {quoted(item)}; expected [name, shape, dtype, flags, …]")
    name, shape, dtype, flags, *rest = item
    if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
        raise FileError(f"its structure gives {quoted(name)} the shape {quoted(shape)}; expected a list of sizes")
    if problem := impossible_shape(shape):
        raise FileError(f"its structure gives {quoted(name)} {problem}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(f"its structure gives {quoted(name)} the dtype {quoted(dtype)}, which this version cannot read")
    _check_flags(name, shape, DTYPES[dtype], flags)
    layout = _layout(name, shape, flags, own[0]) if own else FIRST
    views = {a[0]: _view(name, shape, a) for a in rest[len(own) :] if isinstance(a, list)}
    return name, tuple(shape), DTYPES[dtype], flags, layout, tuple(aliases), views


def _is_layout(found: object) -> bool:
    return isinstance(found, list) and not (found and isinstance(found[0], str))


def _view(name: str, shape: list[int], found: list[Any]) -> View:
    """Return how an alias, given as ``[name, axes, shape]``, looks at its tensor."""
    alias, axes, own = found
    possible = all(isinstance(x, list) and len(x) <= 64 and all(type(n) is int for n in x) for x in (axes, own))
    possible = possible and sorted(axes) == list(range(len(shape))) and min(own, default=0) >= 0
    if not possible or math.prod(own) != math.prod(shape) or View(tuple(axes), tuple(own)).plain(shape):
        raise FileError(
            f"its structure ties {quoted(alias)} to {quoted(name)} by the view {quoted(found[1:])}, which is none of it"
        )
    return View(tuple(axes), tuple(own))


def _layout(name: str, shape: list[int], flags: int, found: list[Any]) -> Layout:
    """Return a layout that is not the usual one, given as ``[groups, axis…]``."""
    possible = len(found) > 1 and all(type(number) is int for number in found) and bool(flags & COMPRESSIBLE)
    if possible:
        groups, *axes = found
        last = len(shape) if groups > 1 else len(shape) - 1
        possible = groups >= 1 and shape[0] % groups == 0 and len(set(axes)) == len(axes) and found != [1, 0]
        possible = possible and all(0 <= axis <= last for axis in axes)
    if not possible:
        raise FileError(
            f"its structure gives {quoted(name)} the layout {quoted(found)}, which a tensor {shape} cannot have"
        )
    return Layout(tuple(axes), groups)


def _check_flags(name: str, shape: list[int], dtype: torch.dtype, flags: Any) -> None:
    possible = type(flags) is int and 0 <= flags <= COMPRESSIBLE + BFLOAT16
    if possible and flags & COMPRESSIBLE:
        possible = len(shape) >= 2 and math.prod(shape) > 0 and dtype in COMPRESSIBLE_DTYPES
    if possible and dtype not in (torch.float32, torch.float64):
        possible = bool(flags & BFLOAT16) == (dtype == torch.bfloat16)
    if not possible:
        raise FileError(
            f"its structure gives {quoted(name)} the flags {quoted(flags)}, which a {dtype} {shape} cannot have"
        )
