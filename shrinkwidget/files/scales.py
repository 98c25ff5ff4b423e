"""Scales, zero points and codebooks of a layer as bytes, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import FileError, quoted
from ..measure.bytes import group_count, has_zero_points
from ..shrink.coded import Coded
from .bits import Bytes
from .structure import Slot


def scale_pieces(slot: Slot) -> list[tuple[int, int]]:
    """Return the pieces a layer's scales consist of, each as (numbers, bytes per number)."""
    plan = slot.coded
    if plan is None or plan.bits > 8:
        return []
    if plan.grid == "codebook":
        return [(1 << plan.bits, 4)]
    groups = group_count(plan.granularity, slot.matrix)
    return [(1, 4)] + [(groups, 2)] * (groups > 1) + [(groups, 1)] * has_zero_points(plan)


def pack_scales(coded: Coded) -> list[Bytes]:
    """Return the bytes of the pieces `scale_pieces` lists.

    Raises:
        FileError: if the scales are not those that the largest of them and float16 fractions reproduce.
    """
    if coded.codebook is not None:
        return [_bytes(coded.codebook)]
    if coded.scales is None:
        return []
    pieces = [_bytes(coded.scales)]
    if coded.scales.numel() > 1:
        top, fractions = _fractions(coded.scales)
        if not torch.equal(fractions.float() * top, coded.scales.cpu()):
            raise FileError(f"cannot save {quoted(coded.name)}: its scales are not float16 fractions of the largest")
        pieces = [_bytes(top), _bytes(fractions)]
    return pieces + ([] if coded.zeros is None else [_bytes(coded.zeros)])


def unpack_scales(slot: Slot, pieces: list[Bytes]) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return scales, zero points and codebook from the bytes of the pieces.

    Raises:
        FileError: for a number that no layer has: not finite, negative, beyond the grid.
    """
    plan = slot.coded
    if plan is None or not pieces:
        return None, None, None
    first = _numbers(pieces[0], torch.float32)
    if plan.grid == "codebook":
        good = bool(first.isfinite().all() and (first[1:] >= first[:-1]).all())
        return None, None, _check(slot, "codebook", first, good)
    scales = _check(slot, "scales", first, bool(first.isfinite().all()) and _no_negative(first))
    if group_count(plan.granularity, slot.matrix) > 1:
        fractions = _numbers(pieces[1], torch.float16)
        largest = 1.0 if first.item() > 0 else 0.0
        good = _no_negative(fractions) and fractions.max().item() == largest
        _check(slot, "scales", fractions, good)
        scales = fractions.float() * scales
    zeros = _numbers(pieces[-1], torch.uint8) if has_zero_points(plan) else None
    if zeros is not None:
        _check(slot, "zero points", zeros, int(zeros.max()) < 2**plan.bits)
    return scales, zeros, None


def _check(slot: Slot, what: str, values: Tensor, good: bool) -> Tensor:
    if not good:
        raise FileError(
            f"the {what} of {quoted(slot.name)} hold what cannot be: negative, not finite, too large or out of order"
        )
    return values


def _no_negative(values: Tensor) -> bool:
    """Tell whether no value is negative, NaN, or a negative zero, which would be another file of the same weights."""
    return bool(((values >= 0) & ~values.signbit()).all())


def _fractions(scales: Tensor) -> tuple[Tensor, Tensor]:
    top = scales.cpu().max()
    return top, (scales.cpu() / top if top > 0 else torch.zeros(scales.numel())).to(torch.float16)


def _bytes(values: Tensor) -> Bytes:
    found: Bytes = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def _numbers(piece: Bytes, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(np.array(piece)).view(dtype)
