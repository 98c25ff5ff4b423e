"""Scales and zero points as a packed file stores them: 16-bit words in units of the largest scale (docs/format.md)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from ..analysis.file_size import has_zero_bytes, has_zero_points
from ..recipe import Plan

UNIT: Final = 2.0**15
"""What the largest scale is stored as. Fractions of 1 would leave half of float16's exponents unused, and make groups
that are 10⁷ times smaller than the largest fade away; these reach down to 2⁻³⁹ of it."""


def as_stored(scales: Tensor, plan: Plan, short: Tensor | None = None) -> Tensor:
    """Return scales, float32 ``[groups]``, as a file reproduces them: a single one as it is, of more the words'.

    `short`: bool ``[groups]``, whether a scale may be shortened (see `_short`) if it is the largest; None for no.
    """
    scales = scales + 0.0  # no -0.0, whose sign would show in the zeros it scales
    top = scales.amax()
    if short is not None:
        top = torch.where(short[scales.argmax()], _short(top), top)
    if len(scales) == 1:
        return top[None]
    return unpacked(packed(scales, top, plan), top, plan)


def packed(scales: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Return scales in units of `top`, the largest, as the integers that a file holds, int32 ``[groups]``.

    They are the bit patterns of float16 numbers, whose sign is never set; for a zero point in the same word the last
    bits of the mantissa are left out. Steps of an asymmetric grid are rounded down: then the outermost weights take the
    first and the last of its codes, and effective weights, compressed once more, stay what they are.
    """
    wanted = scales / torch.where(top > 0, top, 1.0) * UNIT
    halves = wanted.to(torch.float16)
    patterns = halves.view(torch.int16).int()
    if has_zero_points(plan):
        patterns -= (halves.float() > wanted * (1 + 2.0**-18)).int()  # but what is one, to the last bits, is not
    return patterns >> _spare_bits(plan)


def unpacked(words: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Undo `packed`, but for what it rounded."""
    return (words << _spare_bits(plan)).to(torch.int16).view(torch.float16).float().div_(UNIT).mul_(top)


def with_zero_points(words: Tensor, zeros: Tensor | None, plan: Plan) -> Tensor:
    """Return words that hold the zero points in their lowest bits, where they have no bytes of their own."""
    if zeros is None or has_zero_bytes(plan, len(words)):
        return words
    return words << plan.bits | zeros.int()


def split(words: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Undo `with_zero_points`: return the words of the scales alone, and the zero points, uint8, if they were there."""
    if not has_zero_points(plan) or has_zero_bytes(plan, len(words)):
        return words, None
    return words >> plan.bits, (words & (1 << plan.bits) - 1).to(torch.uint8)


def _short(top: Tensor) -> Tensor:
    """Return a float32 number rounded down to 13 bits, unless all but its last bits say the next one.

    Products of such a number with words and codes lose next to nothing to rounding, so that the step found in effective
    weights is, to the bit, the step they were rounded to.
    """
    nudged = (top * (1 + 2.0**-20)).clamp(max=torch.finfo(torch.float32).max)
    return (nudged.view(torch.int32) & ~0x7FF).view(torch.float32)


def _spare_bits(plan: Plan) -> int:
    """Return how many bits of a float16 pattern, beside its sign, give way to a zero point in the same word."""
    return plan.bits - 1 if has_zero_points(plan) and not has_zero_bytes(plan, 2) else 0
