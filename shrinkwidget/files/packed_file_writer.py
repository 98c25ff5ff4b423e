"""A model as a packed file holds it: coded layers and kept tensors, and the bytes they become (docs/format.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..analysis.file_size import SECTIONS, count_width, header_bytes, header_text, rounded, structure_text
from ..analysis.model_tensors import ModelTensors
from ..compression.encoded_tensor import EncodedTensor, decode, dense_codes
from ..errors import FileError, quoted
from ..recipe import Recipe
from .atomic_write import write_whole
from .bit_packing import Bytes
from .encodings import EntropyEncoding, PlainEncoding, believable
from .header import file_crc
from .scale_bytes import pack_scales, scale_pieces
from .tensor_records import TensorRecord, read_records


@dataclass(frozen=True, slots=True, eq=False)
class PackedModel:
    """Everything a packed file says: the recipe, and each saved tensor's place and content.

    `stored` holds, beside each record, the layer's codes or the kept tensor in the dtype it is stored in.
    """

    recipe: Recipe
    structure: str
    records: tuple[TensorRecord, ...]
    stored: tuple[EncodedTensor | Tensor, ...]

    @property
    def kept(self) -> list[int]:
        """How many weights each tensor keeps: all, where it is not coded."""
        return [item.kept if isinstance(item, EncodedTensor) else record.numel for record, item in self.items()]

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
            parts = _parts(self, EntropyEncoding())
            size, plain = sum(len(part) for part in parts), self.nbytes
            if size < plain and believable(unfolded_bytes(self.records, self.kept), size):
                return parts
        return _parts(self, PlainEncoding())


def pack(weights: ModelTensors, recipe: Recipe, encoded: Mapping[str, EncodedTensor]) -> PackedModel:
    """Return the packed model, given the codes of every compressible layer that is not under `Keep`, by name.

    Raises:
        FileError: for a tensor that no packed file can hold.
    """
    structure = structure_text(weights)
    try:
        records = read_records(structure, recipe)
    except FileError as error:
        raise FileError(f"no packed file can hold this model: {error}") from error
    saved = {entry.name: entry for entry in weights.entries if entry.saved}
    stored = (
        encoded[s.name] if s.encoded else rounded(_strided(s, saved[s.name].load()), s.stored_dtype) for s in records
    )
    return PackedModel(recipe, structure, records, tuple(stored))


def _strided(record: TensorRecord, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided:
        raise FileError(
            f"cannot save {quoted(record.name)}: it is stored as {tensor.layout}; make it dense with .to_dense()"
        )
    return tensor


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


def raw_bytes(tensor: Tensor) -> Bytes:
    """Return the tensor's own little-endian bytes."""
    found: Bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _parts(packed: PackedModel, form: PlainEncoding) -> list[bytes | Bytes]:
    sections = _sections(packed, form)
    body = [piece for name in SECTIONS for piece in sections[name]]
    lengths = {name: sum(len(piece) for piece in sections[name]) for name in SECTIONS}
    recipe = packed.recipe.to_json()
    crc = file_crc(recipe, packed.structure, *body)
    header = header_text(recipe, packed.structure, lengths, crc, form.format)
    return [len(header).to_bytes(8, "little"), header, *body]


def _sections(packed: PackedModel, form: PlainEncoding) -> dict[str, list[Bytes]]:
    """Return the pieces of every section, counts as they are and the others wrapped as the form wants them."""
    encoded = [(record, item) for record, item in packed.items() if isinstance(item, EncodedTensor)]
    counts = [np.frombuffer(c.kept.to_bytes(count_width(s.numel), "little"), np.uint8) for s, c in encoded]
    masked = [c.keep.cpu().numpy() for s, c in encoded if c.keep is not None and not s.nbytes(c.kept).dense]
    scales = [
        form.numbers(piece, width)
        for record, layer in encoded
        for piece, (_, width) in zip(pack_scales(layer), scale_pieces(record), strict=True)
    ]
    kept = [
        form.numbers(raw_bytes(item), item.dtype.itemsize)
        for item in packed.stored
        if not isinstance(item, EncodedTensor)
    ]
    codes = [_codes(record, layer, form) for record, layer in encoded]
    wrapped = {"codes": codes, "mask": form.masks(masked), "scales": scales, "rest": kept}
    return {"counts": counts, **{name: form.wrap(pieces) for name, pieces in wrapped.items()}}


def _codes(record: TensorRecord, encoded: EncodedTensor, form: PlainEncoding) -> Bytes:
    codes = dense_codes(encoded) if record.nbytes(encoded.kept).dense else encoded.codes
    if encoded.plan.bits > 8:
        return form.numbers(raw_bytes(codes), record.stored_dtype.itemsize)
    return form.codes(raw_bytes(codes), encoded.plan.bits)
