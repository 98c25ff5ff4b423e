"""From the bytes of a packed file to the model it holds: nothing that it says is believed before it is checked.

A file is read in the order in which it can be checked: the header, the structure (which tensors there are), the counts,
then the sections, whose right lengths follow from those. Whatever a file says that our own writer would not have said,
is refused with a sentence, also where nothing would go wrong: there is one valid file for one content.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..analysis.checkpoint_folders_headers_and_refused_formats import (
    file_identity,
    header_object,
    open_plain_file,
    read_exactly,
    read_header_text,
    refuse_other_formats,
)
from ..analysis.estimate_class_and_packed_file_header import (
    BFLOAT16,
    COMPRESSIBLE,
    ENTROPY,
    FORMAT,
    SECTIONS,
    VERSION,
    count_width,
    header_text,
    impossible_shape,
    unfold_structure,
)
from ..analysis.open_model_tensors_and_channel_axes import (
    COMPRESSIBLE_DTYPES,
    FIRST,
    Layout,
    View,
    computed_by,
    dtype_name,
    expanded,
    overlapping,
    plain_weights,
    unsupported_class,
)
from ..analysis.read_tensors_and_serialize_safetensors import DTYPES, read_bytes
from ..analysis.tensor_ops_threads_and_cpu_kernel import packed_bits, selected
from ..compression.encode_layers_and_packed_model import (
    EncodedTensor,
    PackedModel,
    TensorRecord,
    decode,
    section_lengths,
    unfolded_bytes,
    values_of,
    zero_codes,
)
from ..compression.narrow_modules import narrow_to
from ..errors import FileError, ModelError, RecipeError, quoted
from ..recipe_and_method_registry import Plan, Recipe
from .plain_and_entropy_encodings import (
    Bytes,
    EntropyEncoding,
    PlainEncoding,
    believable,
    from_raw_bytes,
    scale_pieces,
    unpack_scales,
)
from .write_packed_file import file_crc


def read(path: str | os.PathLike[str], into: nn.Module | None = None) -> PackedModel:
    """Return the packed model in a file, plain or entropy-coded; with `into`, fill that model with its weights.

    Before a weight is unpacked, `into` is held against the file: every saved parameter and buffer must be there, with
    the same shape and dtype, and nothing else. Where channels were removed, `into` may be the dense model: its tensors
    are cut to the file's shapes. Weights it computes (weight norm, masks, parametrizations) become plain parameters.
    Which of them are tied may differ as long as nothing is tied that the file holds two values for. A model on another
    device is filled there.

    Raises:
        FileError: if there is no such file, if it is not a packed model, damaged, or newer than this version, or if
            the model does not match it, naming the first differences; the model is then unchanged.
        ModelError: if `into` is no module.
    """
    if not isinstance(into, nn.Module | None):
        raise ModelError(f"into={type(into).__name__} is no model: give an nn.Module, or nothing for a state dict")
    with open_plain_file(path) as file:
        refuse_other_formats(path, file)
        size = os.fstat(file.fileno()).st_size
        # Until everything has been checked, `into` must be as it was: what narrowing changed is undone on any refusal.
        undo: list[Callable[[], None]] = []
        try:
            header = read_header(file, size)
            records = read_records(header.structure, header.recipe)
            if into is not None:
                # (Parametrized weights first become plain ones, as their parts could not be cut.)
                if header.recipe.removes_channels:  # the file is of a narrower model: a dense one is cut to its shapes
                    plain_weights(into)
                    undo = narrow_to(into, {name: r.shape_of(name) for r in records for name in r.names})
                # before a weight is unpacked: a wrong model is told at once, and left as it was
                _match(records, into)
            packed = _unpack(header, records, size)
        except FileError as error:
            for step in undo:
                step()
            raise FileError(f"cannot load {quoted(path)}: {error}") from error
    if into is not None:
        plain_weights(into)
        tensors = _tensors(into)  # again: weights that were computed have become parameters
        with torch.no_grad():
            for record, values in packed.tensors():
                for name in record.names:
                    if name in tensors:
                        tensors[name].copy_(record.seen_as(name, values))
    return packed


# ---- the header ----


@dataclass(frozen=True, slots=True)
class Header:
    """What a packed file says of itself; `sections` are its bytes, still packed."""

    entropy: bool
    recipe: Recipe
    structure: str
    sections: dict[str, memoryview]


def read_header(file: BinaryIO, size: int) -> Header:
    """Return the checked header of a packed file of `size` bytes, opened at its start, and its sections.

    The header is judged before anything else is read, so that refusing a large file costs its header. Checked are: the
    lengths, the JSON (no key twice, nothing missing or extra), format and version, that the sections follow each other
    and fill the file, the CRC-32, and the recipe. At the end the header must be, byte for byte, the one that would be
    written: there is one valid file for one content.

    Raises:
        FileError: with a sentence that goes on from "cannot load 'path': ".
    """
    # the cheap first: a large file of another kind, or of a newer version, is told by its first kilobytes
    text = read_header_text(file, size)
    header = header_object(text)
    about = _metadata(header)
    length = size - 8 - len(text)
    lengths = _section_lengths(header, length)
    try:
        body = memoryview(bytearray(length))
    except MemoryError as error:
        raise FileError(f"there is not enough memory for its {length:,} bytes") from error
    read_exactly(file, body)
    body = body.toreadonly()
    crc = file_crc(about["recipe"], about["structure"], [body])
    if about["crc32"] != f"{crc:08x}":
        raise FileError("its checksum does not match: the file was damaged or changed after it was written")
    # Rebuilding the header is the strictest check there is: spaces, key order, escapes and padding are all covered.
    if text != header_text(about["recipe"], about["structure"], lengths, crc, about["format"]):
        raise FileError("its header is not written as shrinkwidget writes it: another program has changed the file")
    try:
        recipe = Recipe.from_json(about["recipe"])
    except RecipeError as error:
        raise FileError(f"its recipe cannot be read: {error}") from error
    if recipe.to_json() != about["recipe"]:
        raise FileError("its recipe is not written as shrinkwidget writes it: another program has changed the file")
    # views of one buffer: no section is copied
    ends = list(accumulate(lengths.values(), initial=0))
    sections = {name: body[begin:end] for name, (begin, end) in zip(SECTIONS, pairwise(ends), strict=True)}
    return Header(about["format"] == ENTROPY, recipe, about["structure"], sections)


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a file in our format and of a version we can read."""
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise FileError("the metadata in its header is not an object of texts")
    if about.get("format") not in (FORMAT, ENTROPY):
        raise FileError(
            "it is a safetensors file, but not a packed model of shrinkwidget: read it with safetensors.torch.load_file"
        )
    version = about.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise FileError(f"its format version is {quoted(version)}; expected {VERSION}")
    if int(version) < VERSION:
        raise FileError(f"its format version is {version}, from before the first release: compress the model again")
    if int(version) > VERSION:
        raise FileError(f"its format version is {version}, newer than {VERSION}: upgrade shrinkwidget to read it")
    keys = ("format", "version", "crc32", "recipe", "structure")
    if missing := [key for key in keys if key not in about]:
        raise FileError(f"the metadata in its header lacks {', '.join(missing)}")
    if extra := [key for key in about if key not in keys]:
        raise FileError(f"the metadata in its header has the unknown key {quoted(extra[0])}")
    return about


def _section_lengths(header: dict[str, Any], available: int) -> dict[str, int]:
    """Return the lengths of the sections, which must follow each other and fill the `available` bytes."""
    found = tuple(key for key in header if key != "__metadata__")
    if found != SECTIONS:
        names = quoted(", ".join(found))[1:-1] or "none"
        raise FileError(f"its sections are {names}; expected {', '.join(SECTIONS)}, in that order")
    lengths, end = {}, 0
    for name in SECTIONS:
        section = header[name]
        offsets = section.get("data_offsets") if isinstance(section, dict) else None
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)):
            raise FileError(f"its section {quoted(name)} has no data_offsets of two whole numbers")
        length = int(offsets[1] - offsets[0])
        if offsets[0] != end or length < 0:
            raise FileError(
                f"its section {quoted(name)} lies at bytes {offsets[0]} to {offsets[1]}; it should begin at {end}"
            )
        if section.get("dtype") != "U8" or section.get("shape") != [length]:
            raise FileError(f"its section {quoted(name)} is not of dtype U8 and shape [{length}]")
        lengths[name] = length
        end += length
    if end > available:
        raise FileError(f"it is cut short: {end - available:,} bytes are missing at the end")
    if end < available:
        raise FileError(f"{available - end:,} bytes follow after its last section")
    return lengths


# ---- the structure ----


def read_records(structure: str, recipe: Recipe) -> tuple[TensorRecord, ...]:
    """Return the tensors a structure text describes, in model order, each with its plan.

    Raises:
        FileError: unless the text is what `fold_structure` writes, for a model this recipe fits.
    """
    described = [_described(item, recipe.uncompressed_bits) for item in unfold_structure(structure)]
    # aliases count as names: two tensors of one name would be written over each other
    names = Counter(name for record, _ in described for name in record.names)
    if twice := [name for name, times in names.items() if times > 1]:
        raise FileError(f"its structure names the tensor {quoted(twice[0])} twice")
    try:
        plans = iter(recipe.resolve(record.name for record, compressible in described if compressible))
    except RecipeError as error:
        raise FileError(f"its recipe does not fit its tensors: {error}") from error
    return tuple(replace(record, plan=next(plans)) if compressible else record for record, compressible in described)


def _described(item: Any, uncompressed_bits: int) -> tuple[TensorRecord, bool]:
    """Return the record of a tensor, still without a plan, and whether it is compressible.

    It is described as ``[name, shape, dtype, flags, layout, alias…]``, most have no layout; see `structure_item`.
    """
    parts = item if isinstance(item, list) else []
    # a layout begins with a number, an alias that is a list with its name
    own = [part for part in parts[4:5] if isinstance(part, list) and not (part and isinstance(part[0], str))]
    tied = parts[4 + len(own) :]
    aliases = [a[0] if isinstance(a, list) and len(a) == 3 else a for a in tied]
    if len(parts) < 4 or not all(isinstance(n, str) for n in (parts[0], *aliases)):
        raise FileError(f"its structure describes a tensor as {quoted(item)}; expected [name, shape, dtype, flags, …]")
    name, shape, dtype, flags = parts[:4]
    if not isinstance(shape, list) or not all(type(d) is int and d >= 0 for d in shape):
        raise FileError(f"its structure gives {quoted(name)} the shape {quoted(shape)}; expected a list of sizes")
    if problem := impossible_shape(shape):
        raise FileError(f"its structure gives {quoted(name)} {problem}")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FileError(f"its structure gives {quoted(name)} the dtype {quoted(dtype)}, which this version cannot read")
    _check_flags(name, shape, DTYPES[dtype], flags)
    record = TensorRecord(
        name,
        tuple(shape),
        DTYPES[dtype],
        _layout(name, shape, flags, own[0]) if own else FIRST,
        tuple(aliases),
        {a[0]: _view(name, shape, a) for a in tied if isinstance(a, list)},
        bfloat16=bool(flags & BFLOAT16),
        plan=None,
        uncompressed_bits=uncompressed_bits,
    )
    return record, bool(flags & COMPRESSIBLE)


def _check_flags(name: str, shape: list[int], dtype: torch.dtype, flags: Any) -> None:
    possible = type(flags) is int and 0 <= flags <= COMPRESSIBLE + BFLOAT16
    if possible and flags & COMPRESSIBLE:
        possible = len(shape) >= 2 and math.prod(shape) > 0 and dtype in COMPRESSIBLE_DTYPES
    if possible and dtype not in (torch.float32, torch.float64):  # only of these the values decide
        possible = bool(flags & BFLOAT16) == (dtype == torch.bfloat16)
    if not possible:
        raise FileError(
            f"its structure gives {quoted(name)} the flags {quoted(flags)}, which a {dtype} {shape} cannot have"
        )


def _layout(name: str, shape: list[int], flags: int, found: list[Any]) -> Layout:
    """Return a layout that is not the usual one, given as ``[groups, axis…]``."""
    possible = len(found) > 1 and all(type(number) is int for number in found) and bool(flags & COMPRESSIBLE)
    if possible:
        groups, *axes = found
        last = len(shape) if groups > 1 else len(shape) - 1  # groups split the first axis in two
        possible = groups >= 1 and shape[0] % groups == 0 and len(set(axes)) == len(axes) and found != [1, 0]
        possible = possible and all(0 <= axis <= last for axis in axes)
    if not possible:
        raise FileError(
            f"its structure gives {quoted(name)} the layout {quoted(found)}, which a tensor {shape} cannot have"
        )
    return Layout(tuple(axes), groups)


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


# ---- the sections ----


class _Cursor:
    """A section, taken piece by piece."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> Bytes:
        self._at += length
        return self._data[self._at - length : self._at]


def _unpack(header: Header, records: Sequence[TensorRecord], size: int) -> PackedModel:
    """Return the packed model whose header and records have been read from a file of `size` bytes.

    Raises:
        FileError: for a section of the wrong length, a count, mask, code or scale that no model has.
    """
    form = EntropyEncoding() if header.entropy else PlainEncoding()
    kept = _counts(header.sections["counts"], records)
    if header.entropy and not believable(unfolded_bytes(records, kept), size):
        raise FileError(f"its {size:,} bytes unfold to more than any model's would: this is a zip bomb")
    both = list(zip(records, kept, strict=True))
    # The same arithmetic as the writer's says which layers have a mask; no flag in the file could contradict it.
    masked = [record.encoded is not None and not record.nbytes(k).dense for record, k in both]
    sizes = [record.numel for record, has in zip(records, masked, strict=True) if has]
    total = sum(k for k, has in zip(kept, masked, strict=True) if has)

    # Records and counts say how long each section is, unwrapped, except for a mask that is written as runs.
    plain = section_lengths(records, kept)
    codes = [_codes_length(record, k, form) if record.encoded else 0 for record, k in both]
    expected = {
        "codes": (sum(codes), sum(codes)),
        "mask": form.masks_length(sizes, total),
        "scales": (plain["scales"], plain["scales"]),
        "rest": (plain["rest"], plain["rest"]),
    }
    unwrapped = {}
    for name, (least, largest) in expected.items():
        found = form.unwrap(header.sections[name], largest)
        if not least <= len(found) <= largest:
            than = f"fewer than the {least:,}" if len(found) < least else f"more than the {largest:,}"
            raise FileError(f"its section {quoted(name)} holds {than} bytes that its structure and counts need")
        unwrapped[name] = found

    # as runs all masks are one stream, so they are read before the layers they belong to
    masks = iter(form.unmasks(unwrapped["mask"], sizes, total))
    cursors = {name: _Cursor(data) for name, data in unwrapped.items()}
    stored: list[EncodedTensor | Tensor] = []
    for record, k, has_mask, length in zip(records, kept, masked, codes, strict=True):
        if record.encoded is None:
            stored.append(_uncompressed(record, cursors["rest"], form))
        else:
            mask = next(masks) if has_mask else None
            packed_codes = cursors["codes"].take(length)
            stored.append(_encoded(record, record.encoded, k, mask, packed_codes, cursors["scales"], form))
    return PackedModel(header.recipe, header.structure, tuple(records), tuple(kept), tuple(stored))


class StoredInFile(Sequence[EncodedTensor | Tensor]):
    """What `PackedModel.stored` is where it stays in a plain file: a tensor is read whenever it is asked for.

    For a file that was just written here: nothing but what a single tensor tells is checked, and that the file is still
    the one it was.
    """

    def __init__(self, path: str | os.PathLike[str], records: Sequence[TensorRecord], kept: Sequence[int]) -> None:
        self._path, self._records, self._kept = Path(path).absolute(), records, kept
        status = self._path.stat()
        self._identity = file_identity(status)
        lengths = [section_lengths([record], [k]) for record, k in zip(records, kept, strict=True)]
        # where in the file each tensor's part of each section begins: the sections fill its end, in order
        at = status.st_size - sum(sum(own.values()) for own in lengths)
        self._places: dict[str, list[int]] = {}
        for name in SECTIONS:
            self._places[name] = list(accumulate((own[name] for own in lengths), initial=at))
            at = self._places[name][-1]

    def is_at(self, path: Path) -> bool:
        """Return whether a path leads to this file."""
        return path.exists() and self._path.exists() and self._path.samefile(path)

    def reopen(self) -> None:
        """Read on from a file of the very same bytes that has just taken this one's place."""
        self._identity = file_identity(self._path.stat())

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> EncodedTensor | Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[EncodedTensor | Tensor]: ...
    def __getitem__(self, index: int | slice) -> EncodedTensor | Tensor | Sequence[EncodedTensor | Tensor]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        record, kept = self._records[index], self._kept[index]
        index %= len(self)

        def section(name: str) -> Bytes:
            begin, end = self._places[name][index : index + 2]
            return read_bytes(self._path, begin, end, self._identity).numpy()

        form = PlainEncoding()
        try:
            if record.encoded is None:
                return _uncompressed(record, _Cursor(section("rest")), form)
            mask = None
            if not record.nbytes(kept).dense:
                (mask,) = form.unmasks(section("mask"), [record.numel], kept)
            return _encoded(record, record.encoded, kept, mask, section("codes"), _Cursor(section("scales")), form)
        except FileError as error:
            raise FileError(
                f"{quoted(record.name)} can no longer be read from {quoted(self._path)}: {error}"
            ) from error


def _counts(section: memoryview, records: Sequence[TensorRecord]) -> list[int]:
    """Return how many weights each tensor keeps."""
    widths = [count_width(record.numel) if record.encoded else 0 for record in records]
    if sum(widths) != len(section):
        raise FileError(f"its section 'counts' has {len(section):,} bytes; its structure needs {sum(widths):,}")
    kept, at = [], 0
    for record, width in zip(records, widths, strict=True):
        k = int.from_bytes(section[at : at + width], "little") if record.encoded else record.numel
        if k > record.numel:
            raise FileError(f"it says that {quoted(record.name)} keeps {k:,} of its {record.numel:,} weights")
        kept.append(k)
        at += width
    return kept


def _codes_length(record: TensorRecord, kept: int, form: PlainEncoding) -> int:
    layer = record.nbytes(kept)
    return layer.codes if record.bits > 8 else form.codes_length(record.numel if layer.dense else kept, record.bits)


def _uncompressed(record: TensorRecord, section: _Cursor, form: PlainEncoding) -> Tensor:
    width = record.stored_dtype.itemsize
    raw = form.unnumbers(section.take(record.numel * width), width)
    if record.stored_dtype == torch.bool and raw.max(initial=0) > 1:  # undefined behaviour for torch
        raise FileError(f"it holds {quoted(record.name)}, of truth values, with a byte that is neither 0 nor 1")
    return from_raw_bytes(raw, record.stored_dtype).reshape(record.shape)


def _encoded(
    record: TensorRecord,
    plan: Plan,
    kept: int,
    mask: NDArray[np.bool_] | None,
    packed_codes: Bytes,
    scale_section: _Cursor,
    form: PlainEncoding,
) -> EncodedTensor:
    """Return the mask, codes and scales of one layer."""
    pieces = [
        form.unnumbers(scale_section.take(number * width), width) for number, width in scale_pieces(plan, record.matrix)
    ]
    scales, zeros, codebook = unpack_scales(record.name, plan, record.matrix, pieces)
    codes = _codes(record, plan, kept if mask is not None else record.numel, packed_codes, form)
    if mask is not None and np.count_nonzero(mask) != kept:
        raise FileError(
            f"the mask of {quoted(record.name)} keeps {np.count_nonzero(mask):,} weights, its count says {kept:,}"
        )
    keep = None if mask is None else torch.from_numpy(mask)
    if keep is None and kept < record.numel:
        zero = 0 if record.bits > 8 else zero_codes(plan, record.matrix, zeros)
        keep = _kept_of_dense(record, kept, codes, zero)
        codes = selected(codes, keep)
    encoded = EncodedTensor(
        record.name,
        record.shape,
        record.dtype,
        record.layout,
        plan=plan,
        keep_bits=None if keep is None else packed_bits(keep),
        codes=codes,
        scales=scales,
        zeros=zeros,
        codebook=codebook,
    )

    # Finite scales and codebooks may still make infinite weights. Where they cannot, nothing is decoded to find out.
    limit = min(torch.finfo(record.dtype).max, torch.finfo(torch.float32).max)
    # the outermost level of an asymmetric grid may lie half a step beyond the outermost weight: decoding limits it
    beyond = 1.5 if zeros is not None else 1.001  # scales are rounded
    if scales is not None and float(scales.max()) * 2**plan.bits > limit:
        values = values_of(encoded, torch.float64)
        _refuse_not_finite(record.name, values.where(values.abs() <= beyond * limit, torch.inf))
    elif codebook is not None and float(codebook.abs().max()) > 0.99 * limit:
        _refuse_not_finite(record.name, decode(encoded))
    return encoded


def _codes(record: TensorRecord, plan: Plan, count: int, packed: Bytes, form: PlainEncoding) -> Tensor:
    if record.bits > 8:
        values = from_raw_bytes(form.unnumbers(packed, record.bits // 8), record.stored_dtype)
        _refuse_not_finite(record.name, values)
        return values
    codes = form.uncodes(packed, record.bits, count)
    largest = plan.coder.largest_code(record.bits)
    # A symmetric grid leaves one code unused, and a table need not be a power of two.
    if codes.max(initial=0) > largest:
        raise FileError(f"{quoted(record.name)} has the code {codes.max()}, beyond the largest of its grid, {largest}")
    return torch.from_numpy(codes)


def _refuse_not_finite(name: str, values: Tensor) -> None:
    if bad := values.numel() - int(values.isfinite().count_nonzero()):
        has = f"{bad:,} weight{'s that are' if bad > 1 else ' that is'}"
        raise FileError(f"{quoted(name)} has {has} NaN or infinite, which no compressed layer has")


def _kept_of_dense(record: TensorRecord, kept: int, codes: Tensor, zero: Tensor | int) -> Tensor:
    """Return which weights of a layer without a mask count as kept: those that are not zero, and the first that are.

    Which of the zeros were pruned and which rounded to zero is not stored: it makes no difference to any weight.
    """
    # floats are compared as the integers they are stored as, or a -0.0 would be taken for the zero of a pruned weight
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[codes.dtype.itemsize]
    keep = codes.view(integers) != zero
    missing = kept - int(keep.count_nonzero())
    if missing < 0:
        raise FileError(
            f"{quoted(record.name)} has {kept - missing:,} weights that are not zero, its count says {kept:,} kept"
        )
    # Any choice of zeros gives the same weights; the first ones give the same file again.
    keep[(~keep).nonzero()[:missing, 0]] = True
    return keep


# ---- the model to fill ----


def _match(records: Sequence[TensorRecord], model: nn.Module) -> None:
    """Raise a `FileError` that names the first three differences, if a file's tensors are not those of a model."""
    tensors = _tensors(model)
    differences = list(_differences(records, tensors, model))
    if differences:
        more = f" (and {len(differences) - 3:,} more)" if len(differences) > 3 else ""
        in_file, in_model = {name for record in records for name in record.names}, set(tensors) - _passing(model)
        hint = ""
        if _are_folded(in_file, of=in_model):
            hint = ": its batch norm was folded, load into=fold_batchnorm(model)"
        elif _are_folded(in_model, of=in_file):
            hint = ": its batch norm was not folded, load into the model as it was"
        raise FileError(f"this {type(model).__name__} is another model: {'; '.join(differences[:3])}{more}{hint}")


def _are_folded(names: set[str], of: set[str]) -> bool:
    """Return whether names are those `of` a model whose batch norms were folded, and differ in nothing else."""
    norms = tuple(name.removesuffix("running_var") for name in of if name.endswith("running_var"))
    gone, new = of - names, names - of
    # the layer before a norm gets the norm's shift as its bias, if it had none
    biases = {name.removesuffix("weight") + "bias" for name in of & names if name.endswith("weight")}
    return (
        bool(gone)
        and all(name.startswith(norms) for name in gone)
        and all(name in biases or name.startswith(norms) for name in new)
        and not any(name.endswith("running_var") for name in names)
    )


def _passing(model: nn.Module) -> set[str]:
    """Return the names of the buffers that are not saved."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by all their names, with weights that are computed in place of their parts."""
    # every name of a tied weight is filled: a file may have been saved from a model that does not tie them
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for computed in computed_by(module):
            for part in computed.parts:
                found.pop(dot + part, None)
            with torch.no_grad():
                found[dot + computed.name] = computed.value()
    return found


def _differences(records: Sequence[TensorRecord], tensors: dict[str, Tensor], model: nn.Module) -> Iterator[str]:
    """Yield in a clause each why a model with these tensors is not the one whose records these are."""
    names = {name: record for record in records for name in record.names}
    filled: dict[int, TensorRecord] = {}
    for name, record in names.items():
        if name not in tensors:
            yield f"it has no {quoted(name)}, which the file holds"
        elif difference := _difference(record, record.shape_of(name), tensors[name]):
            yield f"{quoted(name)} {difference}"
        elif filled.setdefault(id(tensors[name]), record) is not record:
            other = quoted(filled[id(tensors[name])].name)
            yield f"it ties {quoted(name)} to {other}, for which the file holds another tensor"
    for name in sorted(set(tensors) - _passing(model) - set(names)):
        if id(tensors[name]) not in filled:
            yield f"the file holds no {quoted(name)}, which it has"
    # a model may tie what the file holds once, but must not share memory between two tensors of the file
    for one, other, _ in overlapping((name, tensors[name]) for name in names if name in tensors):
        if names[one] is not names[other] and (names[one].encoded or names[other].encoded):
            yield f"{quoted(other)} shares memory with {quoted(one)}, for which the file holds another tensor"


def _difference(record: TensorRecord, shape: tuple[int, ...], tensor: Tensor) -> str:
    """Return why a tensor cannot be filled with that of a record, or ""."""
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: run one batch through the model first"
    if tensor.is_meta:
        return "is on the meta device: call .to_empty(device='cpu') first"
    if tuple(tensor.shape) != shape:
        return f"has the shape {list(tensor.shape)}, in the file {list(shape)}"
    if tensor.dtype != record.dtype:
        return f"is {dtype_name(tensor.dtype)}, in the file {dtype_name(record.dtype)}"
    if unsupported_class("", tensor)[0]:
        return f"is a quantized tensor already ({type(tensor).__name__}): make the model without quantizing it"
    if expanded(tensor):
        return "is an expanded view that cannot be filled"
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return "was made under torch.inference_mode(), and cannot be filled outside it"
    return ""
