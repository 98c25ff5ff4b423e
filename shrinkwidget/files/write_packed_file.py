"""A model as a packed file holds it: encoded layers, uncompressed tensors, and their bytes (docs/format.md)."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import accumulate, chain
from typing import Any, BinaryIO, Final

import numpy as np
from torch import Tensor

from ..analysis.estimate_class_and_packed_file_header import SECTIONS, count_width, header_text
from ..compression.encode_layers_and_packed_model import (
    EncodedTensor,
    PackedModel,
    TensorRecord,
    dense_codes,
    section_lengths,
    structure_of,
    unfolded_bytes,
)
from ..recipe_and_method_registry import Recipe
from .atomic_write import write_whole
from .plain_and_entropy_encodings import (
    Bytes,
    EntropyEncoding,
    PlainEncoding,
    believable,
    pack_scales,
    raw_bytes,
    scale_pieces,
)

_READ: Final = 1 << 20  # bytes of a file that are looked at together


def save(packed: PackedModel, path: str | os.PathLike[str], entropy: bool = False) -> int:
    """Write a packed model to a file, whole or not at all, and return its bytes; raises as `write_whole`."""
    return write_whole(path, file_parts(packed, entropy))


def entropy_coded_bytes(packed: PackedModel) -> int:
    """Return the bytes of the file that ``save(packed, path, entropy=True)`` writes: it is coded to find out."""
    return sum(len(part) for part in file_parts(packed, entropy=True))


def file_parts(packed: PackedModel, entropy: bool = False) -> list[bytes | Bytes]:
    """Return a packed model's file as buffers to be written one after the other.

    The entropy-coded form gives way to the plain one where it is not smaller, or so much smaller that a reader
    could not tell it from a zip bomb.
    """
    if entropy:
        # there is no telling how small it gets but to do it
        parts = _parts(packed, EntropyEncoding())
        size, plain = sum(len(part) for part in parts), packed.nbytes
        if size < plain and believable(unfolded_bytes(packed.records, packed.kept), size):
            return parts
    return _parts(packed, PlainEncoding())


def _parts(packed: PackedModel, form: PlainEncoding) -> list[bytes | Bytes]:
    """Return the length of the header, the header, and the pieces of the five sections."""
    sections: dict[str, list[Bytes]] = {name: [] for name in SECTIONS}
    masks = []
    for record, item in packed.items():
        own = _pieces(record, item, form)
        masks += own.pop("mask")
        for name, pieces in own.items():
            sections[name] += pieces
    sections["mask"] = form.masks(masks)  # all at once: as runs they are one stream
    for name in SECTIONS[1:]:  # the counts stay as they are: a reader needs them to know how long the others may be
        sections[name] = form.wrap(sections[name])
    body = [piece for name in SECTIONS for piece in sections[name]]
    lengths = {name: sum(len(piece) for piece in sections[name]) for name in SECTIONS}
    recipe = packed.recipe.to_json()
    # of all that is not determined by the rest: a reader rebuilds the header and compares
    crc = file_crc(recipe, packed.structure, body)
    header = header_text(recipe, packed.structure, lengths, crc, form.format)
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


def file_crc(recipe: str, structure: str, data: Iterable[Any]) -> int:
    """Return the CRC-32 of a file's recipe text, structure text and data, one buffer after the other."""
    # Text and data in one checksum, so that a recipe of another file cannot stand beside these codes.
    crc = 0
    for part in chain((recipe.encode(), structure.encode()), data):
        crc = zlib.crc32(part, crc)
    return crc
