"""From the bytes of a packed file to the model it holds, no number believed before it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..analysis.file_size import count_width
from ..compression.encoded_tensor import EncodedTensor, decode, values_of, zero_codes
from ..compression.fast_cpu_ops import selected
from ..errors import FileError, quoted
from ..recipe import Plan
from .bit_packing import Bytes
from .encodings import EntropyEncoding, PlainEncoding, believable
from .header import Header
from .packed_file_writer import PackedModel, section_lengths, unfolded_bytes
from .scale_bytes import scale_pieces, unpack_scales
from .tensor_records import TensorRecord


class _Cursor:
    """A section, taken piece by piece."""

    def __init__(self, data: Bytes) -> None:
        self._data, self._at = data, 0

    def take(self, length: int) -> Bytes:
        self._at += length
        return self._data[self._at - length : self._at]


def unpack(header: Header, records: Sequence[TensorRecord], size: int) -> PackedModel:
    """Return the packed model whose header and records have been read from a file of `size` bytes.

    Raises:
        FileError: for a section of the wrong length, a count, mask, code or scale that no model has.
    """
    form = EntropyEncoding() if header.entropy else PlainEncoding()
    kept = _counts(header.sections["counts"], records)
    if header.entropy and not believable(unfolded_bytes(records, kept), size):
        raise FileError(f"its {size:,} bytes unfold to more than any model's would: this is a zip bomb")
    sections = {name: _Cursor(data) for name, data in _unwrapped(header, records, kept, form).items()}
    masked = [(record.numel, k) for record, k in zip(records, kept, strict=True) if _masked(record, k)]
    sizes, total = [n for n, _ in masked], sum(k for _, k in masked)
    masks = iter(form.unmasks(sections["mask"].take(form.masks_length(sizes, total)[1]), sizes, total))
    stored = [
        _coded(record, record.encoded, k, next(masks) if _masked(record, k) else None, sections, form)
        if record.encoded
        else _uncompressed(record, sections["rest"], form)
        for record, k in zip(records, kept, strict=True)
    ]
    return PackedModel(header.recipe, header.structure, tuple(records), tuple(stored))


def _masked(record: TensorRecord, kept: int) -> bool:
    return record.encoded is not None and not record.nbytes(kept).dense


def _counts(section: memoryview, records: Sequence[TensorRecord]) -> list[int]:
    """Return how many weights each tensor keeps."""
    widths = [count_width(record.numel) if record.encoded else 0 for record in records]
    if sum(widths) != len(section):
        raise FileError(f"its section 'counts' has {len(section):,} bytes; its structure needs {sum(widths):,}")
    ends = np.cumsum([0, *widths]).tolist()
    kept = [
        int.from_bytes(section[begin:end], "little") if record.encoded else record.numel
        for record, (begin, end) in zip(records, pairwise(ends), strict=True)
    ]
    for record, k in zip(records, kept, strict=True):
        if k > record.numel:
            raise FileError(f"it says that {quoted(record.name)} keeps {k:,} of its {record.numel:,} weights")
    return kept


def _unwrapped(
    header: Header, records: Sequence[TensorRecord], kept: Sequence[int], form: PlainEncoding
) -> dict[str, Bytes]:
    """Return the sections with codes, masks, scales and kept tensors, each of exactly the length it must have."""
    found = {}
    for name, (least, largest) in _expected(records, kept, form).items():
        found[name] = form.unwrap(header.sections[name], largest)
        if not least <= len(found[name]) <= largest:
            than = f"fewer than the {least:,}" if len(found[name]) < least else f"more than the {largest:,}"
            raise FileError(f"its section {quoted(name)} holds {than} bytes that its structure and counts need")
    return found


def _expected(records: Sequence[TensorRecord], kept: Sequence[int], form: PlainEncoding) -> dict[str, tuple[int, int]]:
    """Return the least and largest right length of each of these sections, unwrapped."""
    plain = section_lengths(records, kept)
    pairs = [(record, k) for record, k in zip(records, kept, strict=True) if record.encoded]
    masked = [(record.numel, k) for record, k in pairs if _masked(record, k)]
    codes = sum(_codes_length(record, k, form) for record, k in pairs)
    return {
        "codes": (codes, codes),
        "mask": form.masks_length([n for n, _ in masked], sum(k for _, k in masked)),
        "scales": (plain["scales"], plain["scales"]),
        "rest": (plain["rest"], plain["rest"]),
    }


def _codes_length(record: TensorRecord, kept: int, form: PlainEncoding) -> int:
    layer = record.nbytes(kept)
    return layer.codes if record.bits > 8 else form.codes_length(record.numel if layer.dense else kept, record.bits)


def _uncompressed(record: TensorRecord, section: _Cursor, form: PlainEncoding) -> Tensor:
    width = record.stored_dtype.itemsize
    raw = form.unnumbers(section.take(record.numel * width), width)
    if record.stored_dtype == torch.bool and raw.max(initial=0) > 1:
        raise FileError(f"it holds {quoted(record.name)}, of truth values, with a byte that is neither 0 nor 1")
    return _tensor(raw, record.stored_dtype).reshape(record.shape)


def _tensor(raw: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(raw)).view(dtype) if len(raw) else torch.empty(0, dtype=dtype)


def _coded(
    record: TensorRecord,
    plan: Plan,
    kept: int,
    mask: NDArray[np.bool_] | None,
    sections: dict[str, _Cursor],
    form: PlainEncoding,
) -> EncodedTensor:
    pieces = [form.unnumbers(sections["scales"].take(n * width), width) for n, width in scale_pieces(record)]
    scales, zeros, codebook = unpack_scales(record, pieces)
    count = kept if mask is not None else record.numel
    codes = _read_codes(record, plan, count, sections["codes"].take(_codes_length(record, kept, form)), form)
    if mask is not None and np.count_nonzero(mask) != kept:
        raise FileError(
            f"the mask of {quoted(record.name)} keeps {np.count_nonzero(mask):,} weights, its count says {kept:,}"
        )
    keep = None if mask is None else torch.from_numpy(mask)
    if keep is None and kept < record.numel:
        keep = _kept_of_dense(record, kept, codes, _zero_codes(record, plan, zeros))
        codes = selected(codes, keep)
    encoded = EncodedTensor(
        record.name, record.shape, record.dtype, plan, keep, codes, scales, zeros, codebook, record.layout
    )
    _refuse_infinite(encoded)
    return encoded


def _refuse_infinite(encoded: EncodedTensor) -> None:
    """Refuse scales and codebooks that are finite, but not what they make; where that cannot be, nothing is decoded.

    The outermost level of an asymmetric grid may lie half a step beyond the outermost weight; decoding limits it.
    """
    limit = min(torch.finfo(encoded.dtype).max, torch.finfo(torch.float32).max)
    beyond = 1.5 if encoded.zeros is not None else 1.001  # scales are rounded
    if encoded.scales is not None and float(encoded.scales.max()) * 2**encoded.plan.bits > limit:
        values = values_of(encoded, torch.float64)
        _refuse_not_finite(encoded.name, values.where(values.abs() <= beyond * limit, torch.inf))
    elif encoded.codebook is not None and float(encoded.codebook.abs().max()) > 0.99 * limit:
        _refuse_not_finite(encoded.name, decode(encoded))


def _refuse_not_finite(name: str, values: Tensor) -> None:
    if bad := values.numel() - int(values.isfinite().count_nonzero()):
        has = f"{bad:,} weight{'s that are' if bad > 1 else ' that is'}"
        raise FileError(f"{quoted(name)} has {has} NaN or infinite, which no compressed layer has")


def _read_codes(record: TensorRecord, plan: Plan, count: int, packed: Bytes, form: PlainEncoding) -> Tensor:
    if record.bits > 8:
        values = _tensor(form.unnumbers(packed, record.bits // 8), record.stored_dtype)
        _refuse_not_finite(record.name, values)
        return values
    codes = form.uncodes(packed, record.bits, count)
    largest = plan.coder.largest_code(record.bits)
    if codes.max(initial=0) > largest:
        raise FileError(f"{quoted(record.name)} has the code {codes.max()}, beyond the largest of its grid, {largest}")
    return torch.from_numpy(codes)


def _kept_of_dense(record: TensorRecord, kept: int, codes: Tensor, zero: Tensor | int) -> Tensor:
    """Return which weights of a layer without a mask count as kept: those that are not zero, and the first that are.

    Which of the zeros were pruned and which rounded to zero is not stored: it makes no difference to any weight.
    """
    keep = _bit_patterns(codes) != zero
    missing = kept - int(keep.count_nonzero())
    if missing < 0:
        raise FileError(
            f"{quoted(record.name)} has {kept - missing:,} weights that are not zero, its count says {kept:,} kept"
        )
    keep[(~keep).nonzero()[:missing, 0]] = True
    return keep


def _bit_patterns(codes: Tensor) -> Tensor:
    """Return codes as integers, so that a plain -0.0 is not taken for the zero of a pruned weight."""
    return codes if codes.dtype == torch.uint8 else codes.view({2: torch.int16, 4: torch.int32}[codes.dtype.itemsize])


def _zero_codes(record: TensorRecord, plan: Plan, zeros: Tensor | None) -> Tensor | int:
    if record.bits > 8:
        return 0
    return zero_codes(plan, record.matrix, zeros)
