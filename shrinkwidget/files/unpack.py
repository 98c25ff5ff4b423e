"""From the bytes of a packed file to the model it holds, no number believed before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FileError, quoted
from ..measure.bytes import count_width
from ..recipe import Plan
from ..shrink.coded import Coded, decode, values_of, zero_codes
from ..shrink.numeric import selected
from .bits import Bytes
from .forms import Entropy, Plain, believable
from .header import Header
from .packed import Packed, section_lengths, unfolded_bytes
from .scales import scale_pieces, unpack_scales
from .structure import Slot


class _Cursor:
    """A section, taken piece by piece."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> Bytes:
        self._at += length
        return self._data[self._at - length : self._at]


def unpack(header: Header, slots: Sequence[Slot], size: int) -> Packed:
    """Return the packed model whose header and slots have been read from a file of `size` bytes.

    Raises:
        FileError: for a section of the wrong length, a count, mask, code or scale that no model has.
    """
    form = Entropy() if header.entropy else Plain()
    kept = _counts(header.sections["counts"], slots)
    if header.entropy and not believable(unfolded_bytes(slots, kept), size):
        raise FileError(f"its {size:,} bytes unfold to more than any model's would: this is a zip bomb")
    sections = {name: _Cursor(data) for name, data in _unwrapped(header, slots, kept, form).items()}
    masked = [(slot.numel, k) for slot, k in zip(slots, kept, strict=True) if _masked(slot, k)]
    sizes, total = [n for n, _ in masked], sum(k for _, k in masked)
    masks = iter(form.unmasks(sections["mask"].take(form.masks_length(sizes, total)[1]), sizes, total))
    stored = [
        _coded(slot, slot.coded, k, next(masks) if _masked(slot, k) else None, sections, form)
        if slot.coded
        else _kept(slot, sections["kept"], form)
        for slot, k in zip(slots, kept, strict=True)
    ]
    return Packed(header.recipe, header.structure, tuple(slots), tuple(stored))


def _masked(slot: Slot, kept: int) -> bool:
    return slot.coded is not None and not slot.nbytes(kept).dense


def _counts(section: memoryview, slots: Sequence[Slot]) -> list[int]:
    """Return how many weights each tensor keeps."""
    widths = [count_width(slot.numel) if slot.coded else 0 for slot in slots]
    if sum(widths) != len(section):
        raise FileError(f"its section 'counts' has {len(section):,} bytes; its structure needs {sum(widths):,}")
    ends = np.cumsum([0, *widths]).tolist()
    kept = [
        int.from_bytes(section[begin:end], "little") if slot.coded else slot.numel
        for slot, (begin, end) in zip(slots, pairwise(ends), strict=True)
    ]
    for slot, k in zip(slots, kept, strict=True):
        if k > slot.numel:
            raise FileError(f"it says that {quoted(slot.name)} keeps {k:,} of its {slot.numel:,} weights")
    return kept


def _unwrapped(header: Header, slots: Sequence[Slot], kept: Sequence[int], form: Plain) -> dict[str, Bytes]:
    """Return the sections with codes, masks, scales and kept tensors, each of exactly the length it must have."""
    found = {}
    for name, (least, largest) in _expected(slots, kept, form).items():
        found[name] = form.unwrap(header.sections[name], largest)
        if not least <= len(found[name]) <= largest:
            than = f"fewer than the {least:,}" if len(found[name]) < least else f"more than the {largest:,}"
            raise FileError(f"its section {quoted(name)} holds {than} bytes that its structure and counts need")
    return found


def _expected(slots: Sequence[Slot], kept: Sequence[int], form: Plain) -> dict[str, tuple[int, int]]:
    """Return the least and largest right length of each of these sections, unwrapped."""
    plain = section_lengths(slots, kept)
    pairs = [(slot, k) for slot, k in zip(slots, kept, strict=True) if slot.coded]
    masked = [(slot.numel, k) for slot, k in pairs if _masked(slot, k)]
    codes = sum(_codes_length(slot, k, form) for slot, k in pairs)
    return {
        "codes": (codes, codes),
        "mask": form.masks_length([n for n, _ in masked], sum(k for _, k in masked)),
        "scales": (plain["scales"], plain["scales"]),
        "kept": (plain["kept"], plain["kept"]),
    }


def _codes_length(slot: Slot, kept: int, form: Plain) -> int:
    layer = slot.nbytes(kept)
    return layer.codes if slot.bits > 8 else form.codes_length(slot.numel if layer.dense else kept, slot.bits)


def _kept(slot: Slot, section: _Cursor, form: Plain) -> Tensor:
    width = slot.stored_dtype.itemsize
    raw = form.unnumbers(section.take(slot.numel * width), width)
    if slot.stored_dtype == torch.bool and raw.max(initial=0) > 1:
        raise FileError(f"it holds {quoted(slot.name)}, of truth values, with a byte that is neither 0 nor 1")
    return _tensor(raw, slot.stored_dtype).reshape(slot.shape)


def _tensor(raw: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(raw)).view(dtype) if len(raw) else torch.empty(0, dtype=dtype)


def _coded(
    slot: Slot, plan: Plan, kept: int, mask: NDArray[np.bool_] | None, sections: dict[str, _Cursor], form: Plain
) -> Coded:
    pieces = [form.unnumbers(sections["scales"].take(n * width), width) for n, width in scale_pieces(slot)]
    scales, zeros, codebook = unpack_scales(slot, pieces)
    count = kept if mask is not None else slot.numel
    codes = _read_codes(slot, plan, count, sections["codes"].take(_codes_length(slot, kept, form)), form)
    if mask is not None and np.count_nonzero(mask) != kept:
        raise FileError(
            f"the mask of {quoted(slot.name)} keeps {np.count_nonzero(mask):,} weights, its count says {kept:,}"
        )
    keep = None if mask is None else torch.from_numpy(mask)
    if keep is None and kept < slot.numel:
        keep = _kept_of_dense(slot, kept, codes, _zero_codes(slot, plan, zeros))
        codes = selected(codes, keep)
    coded = Coded(slot.name, slot.shape, slot.dtype, plan, keep, codes, scales, zeros, codebook, slot.layout)
    _refuse_infinite(coded)
    return coded


def _refuse_infinite(coded: Coded) -> None:
    """Refuse scales and codebooks that are finite, but not what they make; where that cannot be, nothing is decoded.

    The outermost level of an asymmetric grid may lie half a step beyond the outermost weight; decoding limits it.
    """
    limit = min(torch.finfo(coded.dtype).max, torch.finfo(torch.float32).max)
    beyond = 1.5 if coded.zeros is not None else 1.001  # scales are rounded
    if coded.scales is not None and float(coded.scales.max()) * 2**coded.plan.bits > limit:
        values = values_of(coded, torch.float64)
        _refuse_not_finite(coded.name, values.where(values.abs() <= beyond * limit, torch.inf))
    elif coded.codebook is not None and float(coded.codebook.abs().max()) > 0.99 * limit:
        _refuse_not_finite(coded.name, decode(coded))


def _refuse_not_finite(name: str, values: Tensor) -> None:
    if bad := values.numel() - int(values.isfinite().count_nonzero()):
        has = f"{bad:,} weight{'s that are' if bad > 1 else ' that is'}"
        raise FileError(f"{quoted(name)} has {has} NaN or infinite, which no compressed layer has")


def _read_codes(slot: Slot, plan: Plan, count: int, packed: Bytes, form: Plain) -> Tensor:
    if slot.bits > 8:
        values = _tensor(form.unnumbers(packed, slot.bits // 8), slot.stored_dtype)
        _refuse_not_finite(slot.name, values)
        return values
    codes = form.uncodes(packed, slot.bits, count)
    largest = plan.coder.largest_code(slot.bits)
    if codes.max(initial=0) > largest:
        raise FileError(f"{quoted(slot.name)} has the code {codes.max()}, beyond the largest of its grid, {largest}")
    return torch.from_numpy(codes)


def _kept_of_dense(slot: Slot, kept: int, codes: Tensor, zero: Tensor | int) -> Tensor:
    """Return which weights of a layer without a mask count as kept: those that are not zero, and the first that are.

    Which of the zeros were pruned and which rounded to zero is not stored: it makes no difference to any weight.
    """
    keep = _bit_patterns(codes) != zero
    missing = kept - int(keep.count_nonzero())
    if missing < 0:
        raise FileError(
            f"{quoted(slot.name)} has {kept - missing:,} weights that are not zero, its count says {kept:,} kept"
        )
    keep[(~keep).nonzero()[:missing, 0]] = True
    return keep


def _bit_patterns(codes: Tensor) -> Tensor:
    """Return codes as integers, so that a plain -0.0 is not taken for the zero of a pruned weight."""
    return codes if codes.dtype == torch.uint8 else codes.view({2: torch.int16, 4: torch.int32}[codes.dtype.itemsize])


def _zero_codes(slot: Slot, plan: Plan, zeros: Tensor | None) -> Tensor | int:
    if slot.bits > 8:
        return 0
    return zero_codes(plan, slot.matrix, zeros)
