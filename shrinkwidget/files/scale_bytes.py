"""Scales, zero points and codebooks of a layer as bytes, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..analysis.file_size import group_count, has_zero_bytes
from ..compression.encoded_tensor import EncodedTensor, packed, split, unpacked, with_zero_points
from ..errors import FileError, quoted
from .bit_packing import Bytes
from .tensor_records import TensorRecord


def scale_pieces(record: TensorRecord) -> list[tuple[int, int]]:
    """Return the pieces a layer's scales consist of, each as (numbers, bytes per number)."""
    plan = record.encoded
    if plan is None or plan.bits > 8:
        return []
    codebook = [(1 << plan.bits, 4)] * plan.coder.has_codebook
    if not plan.coder.has_scales:
        return codebook
    groups = group_count(plan.granularity, record.matrix)
    return codebook + [(1, 4)] + [(groups, 2)] * (groups > 1) + [(groups, 1)] * has_zero_bytes(plan, groups)


def pack_scales(encoded: EncodedTensor) -> list[Bytes]:
    """Return the bytes of the pieces `scale_pieces` lists.

    Raises:
        FileError: if the scales are not those that the largest of them and 16-bit words reproduce.
    """
    codebook = [] if encoded.codebook is None else [_bytes(encoded.codebook)]
    if encoded.scales is None:
        return codebook
    pieces, groups = [_bytes(encoded.scales)], encoded.scales.numel()
    if groups > 1:
        scales = encoded.scales.cpu()
        words = packed(scales, top := scales.max(), encoded.plan)
        if not torch.equal(unpacked(words, top, encoded.plan), scales):
            raise FileError(f"cannot save {quoted(encoded.name)}: 16-bit words do not reproduce its scales")
        zeros = None if encoded.zeros is None else encoded.zeros.cpu()
        pieces = [_bytes(top), _bytes(with_zero_points(words, zeros, encoded.plan).to(torch.int16))]
    if encoded.zeros is not None and has_zero_bytes(encoded.plan, groups):
        pieces.append(_bytes(encoded.zeros))
    return codebook + pieces


def unpack_scales(record: TensorRecord, pieces: list[Bytes]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return scales, zero points and codebook from the bytes of the pieces.

    Raises:
        FileError: for a number that no layer has: not finite, negative, beyond the grid.
    """
    plan = record.encoded
    if plan is None or not pieces:
        return None, None, None
    codebook = None
    if plan.coder.has_codebook:
        codebook = _numbers(pieces[0], torch.float32)
        good = bool(codebook.isfinite().all() and (codebook[1:] >= codebook[:-1]).all())
        _check(record, "codebook", codebook, good)
        pieces = pieces[1:]
    if not plan.coder.has_scales:
        return None, None, codebook
    first = _numbers(pieces[0], torch.float32)
    scales, zeros = _check(record, "scales", first, bool(first.isfinite().all()) and _no_negative(first)), None
    groups = group_count(plan.granularity, record.matrix)
    if groups > 1:
        words, zeros = split(_numbers(pieces[1], torch.int16).int() & 0xFFFF, plan)
        largest = packed(first, first[0], plan)  # what the largest is in its own unit
        _check(record, "scales", words, bool((words <= largest).all() and words.max() == largest))
        scales = unpacked(words, first[0], plan)
    if has_zero_bytes(plan, groups):
        zeros = _numbers(pieces[-1], torch.uint8)
    if zeros is not None:
        good = int(zeros.max()) < 2**plan.bits and not bool(zeros[scales == 0].any())
        _check(record, "zero points", zeros, good)
    return scales, zeros, codebook


def _check(record: TensorRecord, what: str, values: Tensor, good: bool) -> Tensor:
    if not good:
        raise FileError(
            f"the {what} of {quoted(record.name)} hold what cannot be: negative, not finite, too large or out of order"
        )
    return values


def _no_negative(values: Tensor) -> bool:
    """Tell whether no value is negative, NaN, or a negative zero, which would be another file of the same weights."""
    return bool(((values >= 0) & ~values.signbit()).all())


def _bytes(values: Tensor) -> Bytes:
    found: Bytes = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _numbers(piece: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(piece)).view(dtype)
