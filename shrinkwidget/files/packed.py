"""A model as a packed file holds it: coded layers and kept tensors, and the bytes they become (docs/format.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError, quoted
from ..measure.bytes import SECTIONS, count_width, header_bytes, header_text, rounded, structure_text
from ..measure.layers import Weights
from ..recipe import Recipe
from ..shrink.coded import Coded, decode, dense_codes
from .bits import Bytes
from .forms import Entropy, Plain, believable
from .header import file_crc
from .scales import pack_scales, scale_pieces
from .structure import Slot, read_slots
from .write import write_whole


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Everything a packed file says: the recipe, and each saved tensor's place and content.

    `stored` holds, beside each slot, the layer's codes or the kept tensor in the dtype it is stored in.
    """

    recipe: Recipe
    structure: str
    slots: tuple[Slot, ...]
    stored: tuple[Coded | Tensor, ...]

    @property
    def kept(self) -> list[int]:
        """How many weights each tensor keeps: all, where it is not coded."""
        return [item.kept if isinstance(item, Coded) else slot.numel for slot, item in self.items()]

    @property
    def nbytes(self) -> int:
        """The bytes of the file `save` writes, to the byte, from counts alone."""
        lengths = section_lengths(self.slots, self.kept)
        body = sum(lengths.values()) - lengths["counts"]
        return header_bytes(self.recipe.to_json(), len(self.structure), lengths) + body

    @property
    def download(self) -> int:
        """The bytes of the file ``save(path, entropy=True)`` writes, to the byte: it is coded to find out."""
        return sum(len(part) for part in self.parts(entropy=True))

    def items(self) -> Iterator[tuple[Slot, Coded | Tensor]]:
        """Yield each tensor's slot and content, in model order."""
        return zip(self.slots, self.stored, strict=True)

    def tensors(self) -> Iterator[tuple[Slot, Tensor]]:
        """Yield each tensor's slot and effective values, in the model's own dtype, one at a time."""
        for slot, item in self.items():
            yield slot, decode(item) if isinstance(item, Coded) else item.to(slot.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name; the names of tied weights share one tensor, as each looks at it."""
        return {name: slot.seen_as(name, tensor) for slot, tensor in self.tensors() for name in slot.names}

    def uncoded(self) -> dict[str, Tensor]:
        """Return those of `state_dict` that are not coded."""
        plain = [(slot, item.to(slot.dtype)) for slot, item in self.items() if not isinstance(item, Coded)]
        return {name: slot.seen_as(name, tensor) for slot, tensor in plain for name in slot.names}

    def save(self, path: str | os.PathLike[str], entropy: bool = False) -> int:
        """Write the file, whole or not at all, and return its bytes; see `write_whole` for what can go wrong."""
        return write_whole(path, self.parts(entropy))

    def parts(self, entropy: bool = False) -> list[bytes | Bytes]:
        """Return the file as buffers to be written one after the other.

        The entropy-coded form gives way to the plain one where it is not smaller, or so much smaller that a reader
        could not tell it from a zip bomb.
        """
        if entropy:
            parts = _parts(self, Entropy())
            size, plain = sum(len(part) for part in parts), self.nbytes
            if size < plain and believable(unfolded_bytes(self.slots, self.kept), size):
                return parts
        return _parts(self, Plain())


def pack(weights: Weights, recipe: Recipe, coded: Mapping[str, Coded]) -> Packed:
    """Return the packed model, given the codes of every compressible layer that is not under `Keep`, by name.

    Raises:
        FileError: for a tensor that no packed file can hold.
    """
    structure = structure_text(weights)
    try:
        slots = read_slots(structure, recipe)
    except FileError as error:
        raise FileError(f"no packed file can hold this model: {error}") from error
    saved = {entry.name: entry for entry in weights.entries if entry.saved}
    stored = (coded[s.name] if s.coded else rounded(_strided(s, saved[s.name].load()), s.stored_dtype) for s in slots)
    return Packed(recipe, structure, slots, tuple(stored))


def _strided(slot: Slot, tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided:
        raise FileError(
            f"cannot save {quoted(slot.name)}: it is stored as {tensor.layout}; make it dense with .to_dense()"
        )
    return tensor


def section_lengths(slots: Sequence[Slot], kept: Sequence[int]) -> dict[str, int]:
    """Return the bytes of the five sections of a plain file."""
    lengths = dict.fromkeys(SECTIONS, 0)
    for slot, k in zip(slots, kept, strict=True):
        layer = slot.nbytes(k)
        lengths["counts"] += count_width(slot.numel) if slot.coded else 0
        lengths["codes"] += layer.codes
        lengths["mask"] += layer.mask
        lengths["scales"] += layer.scales
        lengths["kept"] += layer.as_is
    return lengths


def unfolded_bytes(slots: Sequence[Slot], kept: Sequence[int]) -> int:
    """Return the bytes a reader of the file needs, about: the plain sections and the dense tensors."""
    return sum(section_lengths(slots, kept).values()) + sum(s.numel * s.dtype.itemsize for s in slots)


def raw_bytes(tensor: Tensor) -> Bytes:
    """Return the tensor's own little-endian bytes."""
    found: Bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _parts(packed: Packed, form: Plain) -> list[bytes | Bytes]:
    sections = _sections(packed, form)
    body = [piece for name in SECTIONS for piece in sections[name]]
    lengths = {name: sum(len(piece) for piece in sections[name]) for name in SECTIONS}
    recipe = packed.recipe.to_json()
    crc = file_crc(recipe, packed.structure, *body)
    header = header_text(recipe, packed.structure, lengths, crc, form.format)
    return [len(header).to_bytes(8, "little"), header, *body]


def _sections(packed: Packed, form: Plain) -> dict[str, list[Bytes]]:
    """Return the pieces of every section, counts as they are and the others wrapped as the form wants them."""
    coded = [(slot, item) for slot, item in packed.items() if isinstance(item, Coded)]
    counts = [np.frombuffer(c.kept.to_bytes(count_width(s.numel), "little"), np.uint8) for s, c in coded]
    masked = [c.keep.cpu().numpy() for s, c in coded if c.keep is not None and not s.nbytes(c.kept).dense]
    scales = [
        form.numbers(piece, width)
        for slot, layer in coded
        for piece, (_, width) in zip(pack_scales(layer), scale_pieces(slot), strict=True)
    ]
    kept = [form.numbers(raw_bytes(item), item.dtype.itemsize) for item in packed.stored if not isinstance(item, Coded)]
    codes = [_codes(slot, layer, form) for slot, layer in coded]
    wrapped = {"codes": codes, "mask": form.masks(masked), "scales": scales, "kept": kept}
    return {"counts": counts, **{name: form.wrap(pieces) for name, pieces in wrapped.items()}}


def _codes(slot: Slot, coded: Coded, form: Plain) -> Bytes:
    codes = dense_codes(coded) if slot.nbytes(coded.kept).dense else coded.codes
    if coded.plan.bits > 8:
        return form.numbers(raw_bytes(codes), slot.stored_dtype.itemsize)
    return form.codes(raw_bytes(codes), coded.plan.bits)
