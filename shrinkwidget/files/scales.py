"""Scales, zero points and codebooks of a layer as bytes, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError, quoted
from ..measure.bytes import group_count, has_zero_bytes
from ..shrink.coded import Coded
from ..shrink.scales import packed, split, unpacked, with_zero_points
from .bits import Bytes
from .structure import Slot


def scale_pieces(slot: Slot) -> list[tuple[int, int]]:
    """Return the pieces a layer's scales consist of, each as (numbers, bytes per number)."""
    plan = slot.coded
    if plan is None or plan.bits > 8:
        return []
    codebook = [(1 << plan.bits, 4)] * plan.coder.has_codebook
    if not plan.coder.has_scales:
        return codebook
    groups = group_count(plan.granularity, slot.matrix)
    return codebook + [(1, 4)] + [(groups, 2)] * (groups > 1) + [(groups, 1)] * has_zero_bytes(plan, groups)


def pack_scales(coded: Coded) -> list[Bytes]:
    """Return the bytes of the pieces `scale_pieces` lists.

    Raises:
        FileError: if the scales are not those that the largest of them and 16-bit words reproduce.
    """
    codebook = [] if coded.codebook is None else [_bytes(coded.codebook)]
    if coded.scales is None:
        return codebook
    pieces, groups = [_bytes(coded.scales)], coded.scales.numel()
    if groups > 1:
        scales = coded.scales.cpu()
        words = packed(scales, top := scales.max(), coded.plan)
        if not torch.equal(unpacked(words, top, coded.plan), scales):
            raise FileError(f"cannot save {quoted(coded.name)}: 16-bit words do not reproduce its scales")
        zeros = None if coded.zeros is None else coded.zeros.cpu()
        pieces = [_bytes(top), _bytes(with_zero_points(words, zeros, coded.plan).to(torch.int16))]
    if coded.zeros is not None and has_zero_bytes(coded.plan, groups):
        pieces.append(_bytes(coded.zeros))
    return codebook + pieces


def unpack_scales(slot: Slot, pieces: list[Bytes]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return scales, zero points and codebook from the bytes of the pieces.

    Raises:
        FileError: for a number that no layer has: not finite, negative, beyond the grid.
    """
    plan = slot.coded
    if plan is None or not pieces:
        return None, None, None
    codebook = None
    if plan.coder.has_codebook:
        codebook = _numbers(pieces[0], torch.float32)
        good = bool(codebook.isfinite().all() and (codebook[1:] >= codebook[:-1]).all())
        _check(slot, "codebook", codebook, good)
        pieces = pieces[1:]
    if not plan.coder.has_scales:
        return None, None, codebook
    first = _numbers(pieces[0], torch.float32)
    scales, zeros = _check(slot, "scales", first, bool(first.isfinite().all()) and _no_negative(first)), None
    groups = group_count(plan.granularity, slot.matrix)
    if groups > 1:
        words, zeros = split(_numbers(pieces[1], torch.int16).int() & 0xFFFF, plan)
        largest = packed(first, first[0], plan)  # what the largest is in its own unit
        _check(slot, "scales", words, bool((words <= largest).all() and words.max() == largest))
        scales = unpacked(words, first[0], plan)
    if has_zero_bytes(plan, groups):
        zeros = _numbers(pieces[-1], torch.uint8)
    if zeros is not None:
        good = int(zeros.max()) < 2**plan.bits and not bool(zeros[scales == 0].any())
        _check(slot, "zero points", zeros, good)
    return scales, zeros, codebook


def _check(slot: Slot, what: str, values: Tensor, good: bool) -> Tensor:
    if not good:
        raise FileError(
            f"the {what} of {quoted(slot.name)} hold what cannot be: negative, not finite, too large or out of order"
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
