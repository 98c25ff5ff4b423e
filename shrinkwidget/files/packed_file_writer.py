"""A model as a packed file holds it: encoded layers, uncompressed tensors, and their bytes (docs/format.md)."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain
from types import MappingProxyType
from typing import Any, BinaryIO, Final

import numpy as np
import torch
from torch import Tensor

from ..analysis.file_structure_and_size import (
    SECTIONS,
    LayerBytes,
    count_width,
    describe,
    fold_structure,
    header_bytes,
    header_text,
    layer_bytes,
    stored_bits,
)
from ..analysis.model_tensors import (
    FIRST,
    ModelTensors,
    TensorEntry,
    TensorSpec,
    dtype_name,
    half_is_bfloat16,
    rounded,
    stored_dtype,
)
from ..analysis.safetensors_checkpoint import DTYPES
from ..compression.encode_and_decode_layer import EncodedTensor, decode, dense_codes
from ..errors import FileError, quoted
from ..recipe_and_method_registry import Plan, Recipe
from .atomic_write import write_whole
from .encodings import Bytes, EntropyEncoding, PlainEncoding, believable, pack_scales, raw_bytes, scale_pieces

_READ: Final = 1 << 20  # bytes of a file that are looked at together


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TensorRecord(TensorSpec):
    """The place of one tensor in a packed file: what it is, and what the recipe asked of it (None: uncompressed).

    `bfloat16` tells whether its 16-bit form is bfloat16. Of what is uncompressed the `layout` is not stored.
    """

    bfloat16: bool
    plan: Plan | None
    uncompressed_bits: int

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


@dataclass(frozen=True, slots=True, eq=False)
class PackedModel:
    """Everything a packed file says: the recipe, and each saved tensor's place and content.

    `stored` holds, beside each record, the layer's codes or the uncompressed tensor in the dtype it is stored in;
    `kept` how many weights each tensor keeps: all, where it is not coded. `structure` is the text that describes all
    records.
    """

    recipe: Recipe
    structure: str
    records: tuple[TensorRecord, ...]
    kept: tuple[int, ...]
    stored: Sequence[EncodedTensor | Tensor]

    @property
    def nbytes(self) -> int:
        """The bytes of the file `save` writes, to the byte, from counts alone."""
        lengths = section_lengths(self.records, self.kept)
        body = sum(lengths.values()) - lengths["counts"]
        return header_bytes(self.recipe.to_json(), len(self.structure), lengths) + body

    @property
    def nbytes_entropy_coded(self) -> int:
        """The bytes of the file ``save(path, entropy=True)`` writes, to the byte: it is coded to find out."""
        return sum(len(part) for part in self.parts(entropy=True))

    def items(self) -> Iterator[tuple[TensorRecord, EncodedTensor | Tensor]]:
        """Yield each tensor's record and content, in model order."""
        return zip(self.records, self.stored, strict=True)

    def tensors(self) -> Iterator[tuple[TensorRecord, Tensor]]:
        """Yield each tensor's record and effective values, in the model's own dtype, one at a time."""
        for record, item in self.items():
            yield record, decode(item) if isinstance(item, EncodedTensor) else item.to(record.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name; the names of tied weights share one tensor, as each looks at it."""
        return {name: record.seen_as(name, tensor) for record, tensor in self.tensors() for name in record.names}

    def uncoded(self) -> dict[str, Tensor]:
        """Return those of `state_dict` that are not coded."""
        plain = [
            (record, item.to(record.dtype)) for record, item in self.items() if not isinstance(item, EncodedTensor)
        ]
        return {name: record.seen_as(name, tensor) for record, tensor in plain for name in record.names}

    def save(self, path: str | os.PathLike[str], entropy: bool = False) -> int:
        """Write the file, whole or not at all, and return its bytes; see `write_whole` for what can go wrong."""
        return write_whole(path, self.parts(entropy))

    def parts(self, entropy: bool = False) -> list[bytes | Bytes]:
        """Return the file as buffers to be written one after the other.

        The entropy-coded form gives way to the plain one where it is not smaller, or so much smaller that a reader
        could not tell it from a zip bomb.
        """
        if entropy:
            # there is no telling how small it gets but to do it
            parts = self._parts(EntropyEncoding())
            size, plain = sum(len(part) for part in parts), self.nbytes
            if size < plain and believable(unfolded_bytes(self.records, self.kept), size):
                return parts
        return self._parts(PlainEncoding())

    def _parts(self, form: PlainEncoding) -> list[bytes | Bytes]:
        """Return the length of the header, the header, and the pieces of the five sections."""
        sections: dict[str, list[Bytes]] = {name: [] for name in SECTIONS}
        masks = []
        for record, item in self.items():
            own = _pieces(record, item, form)
            masks += own.pop("mask")
            for name, pieces in own.items():
                sections[name] += pieces
        sections["mask"] = form.masks(masks)  # all at once: as runs they are one stream
        for name in SECTIONS[1:]:  # the counts stay as they are: a reader needs them to know how long the others may be
            sections[name] = form.wrap(sections[name])
        body = [piece for name in SECTIONS for piece in sections[name]]
        lengths = {name: sum(len(piece) for piece in sections[name]) for name in SECTIONS}
        recipe = self.recipe.to_json()
        # of all that is not determined by the rest: a reader rebuilds the header and compares
        crc = file_crc(recipe, self.structure, body)
        header = header_text(recipe, self.structure, lengths, crc, form.format)
        return [len(header).to_bytes(8, "little"), header, *body]


def _pieces(record: TensorRecord, item: EncodedTensor | Tensor, form: PlainEncoding) -> dict[str, list[Any]]:
    """Return what one tensor adds to each section: pieces of bytes, and its mask as bits and how many they are."""
    if not isinstance(item, EncodedTensor):
        return {"mask": [], "rest": [form.numbers(raw_bytes(item), item.dtype.itemsize)]}
    # the arithmetic of sizes decides about mask or dense codes, so that a reader need not be told
    dense = record.nbytes(item.kept).dense
    bits = None if dense else item.keep_bits
    count = item.kept.to_bytes(count_width(record.numel), "little")
    codes = raw_bytes(dense_codes(item) if dense else item.codes)
    plain = item.plan.bits > 8
    widths = (width for _, width in scale_pieces(item.plan, record.matrix))
    return {
        "counts": [np.frombuffer(count, np.uint8)],
        "codes": [
            form.numbers(codes, record.stored_dtype.itemsize) if plain else form.codes(codes, item.plan.bits)
        ],
        "mask": [] if bits is None else [(bits.cpu().numpy(), item.n)],
        "scales": [form.numbers(*piece) for piece in zip(pack_scales(item), widths, strict=True)],
    }  # fmt: skip


def pack(weights: ModelTensors, recipe: Recipe, encoded: Mapping[str, EncodedTensor]) -> PackedModel:
    """Return the packed model, given the codes of every compressible layer that is not under `Keep`, by name.

    Raises:
        FileError: for a tensor that no packed file can hold.
        RecipeError: if an override matches no layer.
    """
    records = records_of(weights, recipe)
    kept = tuple(encoded[record.name].kept if record.encoded else record.numel for record in records)
    stored = tuple(
        encoded[record.name] if record.encoded else as_stored_whole(entry, record)
        for record, entry in zip(records, weights.saved, strict=True)
    )
    return PackedModel(recipe, structure_of(records), records, kept, stored)


def records_of(
    weights: ModelTensors, recipe: Recipe, peaks: Mapping[str, float] = MappingProxyType({})
) -> tuple[TensorRecord, ...]:
    """Return the places of all saved tensors of a model; `peaks` are largest magnitudes, by name, where known.

    Raises:
        FileError: for a tensor that no packed file can hold.
        RecipeError: if an override matches no layer.
    """
    # the same order everywhere, that of the model: records, plans, codes and sections are told apart by nothing else
    plans = iter(recipe.resolve(entry.name for entry in weights.saved if entry.compressible))
    records = []
    for entry in weights.saved:
        if dtype_name(entry.dtype) not in DTYPES:
            raise FileError(
                f"no packed file can hold this model: {quoted(entry.name)} is {dtype_name(entry.dtype)}; convert it to "
                f"a float type"
            )
        records.append(
            TensorRecord(
                entry.name,
                entry.shape,
                entry.dtype,
                entry.layout if entry.compressible else FIRST,
                entry.aliases,
                entry.views,
                bfloat16=half_is_bfloat16(entry, peaks.get(entry.name)),
                plan=next(plans) if entry.compressible else None,
                uncompressed_bits=recipe.uncompressed_bits,
            )
        )
    return tuple(records)


def structure_of(records: Iterable[TensorRecord]) -> str:
    """Return the text that describes all records."""
    return fold_structure([describe(record, record.plan is not None, record.bfloat16) for record in records])


def as_stored_whole(entry: TensorEntry, record: TensorRecord) -> Tensor:
    """Return a tensor that is not coded in the dtype it is stored in.

    Raises:
        FileError: for a sparse one.
    """
    tensor = entry.load()
    if tensor.layout != torch.strided:
        raise FileError(
            f"cannot save {quoted(entry.name)}: it is stored as {tensor.layout}; make it dense with .to_dense()"
        )
    return rounded(tensor, record.stored_dtype)


def write_layer_by_layer(
    path: str | os.PathLike[str],
    recipe: Recipe,
    records: Sequence[TensorRecord],
    kept: Sequence[int],
    stored: Iterable[EncodedTensor | Tensor],
) -> int:
    """Write the plain file that `PackedModel.save` writes, one tensor after the other, and return its bytes.

    `kept` says how many weights each tensor keeps, and so how long every section is, before the first is there. Of
    `stored` one is held at a time.
    """
    structure, text = structure_of(records), recipe.to_json()
    lengths = section_lengths(records, kept)
    start = 8 + len(header_text(text, structure, lengths))

    def write(file: BinaryIO) -> None:
        places = dict(zip(SECTIONS, accumulate(lengths.values(), initial=start), strict=False))
        form = PlainEncoding()
        for record, item in zip(records, stored, strict=True):
            pieces = _pieces(record, item, form)
            for name, own in (pieces | {"mask": form.masks(pieces["mask"])}).items():
                file.seek(places[name])
                file.writelines(own)
                places[name] = file.tell()
        # the checksum is of the sections one after the other, and they were written side by side
        file.seek(start)
        crc = file_crc(text, structure, iter(partial(file.read, _READ), b""))
        header = header_text(text, structure, lengths, crc)
        file.seek(0)
        file.writelines([len(header).to_bytes(8, "little"), header])

    return write_whole(path, write)


def section_lengths(records: Sequence[TensorRecord], kept: Sequence[int]) -> dict[str, int]:
    """Return the bytes of the five sections of a plain file."""
    lengths = dict.fromkeys(SECTIONS, 0)
    for record, k in zip(records, kept, strict=True):
        layer = record.nbytes(k)
        lengths["counts"] += count_width(record.numel) if record.encoded else 0
        lengths["codes"] += layer.codes
        lengths["mask"] += layer.mask
        lengths["scales"] += layer.scales
        lengths["rest"] += layer.as_is
    return lengths


def unfolded_bytes(records: Sequence[TensorRecord], kept: Sequence[int]) -> int:
    """Return the bytes a reader of the file needs, about: the plain sections and the dense tensors."""
    return sum(section_lengths(records, kept).values()) + sum(s.numel * s.dtype.itemsize for s in records)


def file_crc(recipe: str, structure: str, data: Iterable[Any]) -> int:
    """Return the CRC-32 of a file's recipe text, structure text and data, one buffer after the other."""
    # Text and data in one checksum, so that a recipe of another file cannot stand beside these codes.
    crc = 0
    for part in chain((recipe.encode(), structure.encode()), data):
        crc = zlib.crc32(part, crc)
    return crc
