"""Where axes put their ticks, and which sizes are worth a mark: the same as on the page.

The twin of ``js/charts/ticks-and-size-marks.ts``; ``tests/vectors/charts`` holds the two together.
"""

from __future__ import annotations

import math
from typing import Final

from .numbers_and_recipes_as_text import weight_text

_NICE: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_MARKS: Final = (
    (32e3, "32 kB flash"),
    (256e3, "256 kB flash"),
    (1e6, "1 MB flash"),
    (10e6, "10 MB download"),
    (100e6, "100 MB app"),
    (1e9, "1 GB download"),
    (8e9, "8 GB card"),
    (32e9, "32 GB card"),
    (128e9, "128 GB disk"),
)
_LETTER: Final = 6
"""Pixels that a letter of a tick's label takes, about."""


def nice_below(value: float) -> float:
    """Return the largest of 1, 2, 2.5, 5 × 10ⁿ that is at most `value`; 1 where that is not above zero."""
    if not value > 0:
        return 1.0
    power = _power(value)
    # 1e-9, since 3 · 0.1 is 0.30000000000000004: a step that is only above by rounding still counts.
    return max(step * power for step in _NICE if step * power <= value * (1 + 1e-9))


def mirrored_ticks(span: float, per_side: int) -> list[float]:
    """Return ticks of an axis from −span to span, zero among them, `per_side` to a side at most."""
    if not span > 0:
        return [0.0]
    step = nice_below(span / per_side)
    while math.floor(span / step + 1e-9) > per_side:
        step = _next_nice(step)
    sides = math.floor(span / step + 1e-9)
    return [_tidy(i * step) for i in range(-sides, sides + 1)]


def axis_ticks(span: float, width: float) -> list[float]:
    """Return ticks of an axis from −span to span in `width` pixels: as many as have room for their labels."""
    for per_side in (3, 2, 1):
        ticks = mirrored_ticks(span, per_side)
        longest = max(len(weight_text(tick)) for tick in ticks)
        if len(ticks) > 1 and _LETTER * longest + 6 <= (ticks[1] - ticks[0]) * width / 2 / span:
            return ticks
    return [0.0]


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return ticks between two values at a round step, about `wanted` of them."""
    if not high > low:
        return [low]
    step = nice_below((high - low) / max(1, wanted))
    while math.floor(high / step) - math.ceil(low / step) + 1 > wanted + 1:
        step = _next_nice(step)
    return [_tidy(i * step) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def whole_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return whole ticks, two more than wanted at most: a label that reads 2.5 epochs would say nothing."""
    step = 1.0
    while math.floor(high / step) - math.ceil(low / step) + 1 > max(1, wanted) + 2:
        # 2.5 is nice but not whole: it is skipped.
        step = _next_nice(step) if _next_nice(step) % 1 == 0 else _next_nice(_next_nice(step))
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return ticks of a logarithmic axis, 0 < low < high, two at least.

    They are 1, 2, 5 of every decade if at most `most`, else 1 and 3, else 1; of many decades only some.
    """
    choices = [_decade_ticks(low, high, digits) for digits in ((1, 2, 5), (1, 3), (1,))]
    for ticks in choices:
        if 2 <= len(ticks) <= most:
            return ticks
    decades = choices[-1]
    if len(decades) > 2:
        return decades[:: math.ceil(len(decades) / max(2, most))]
    fewest = next((ticks for ticks in reversed(choices) if len(ticks) >= 2), [])
    return [fewest[0], fewest[-1]] if fewest else linear_ticks(low, high, most)


def size_marks(dense: float) -> list[tuple[float, str]]:
    """Return the sizes people know that lie well inside a bar of `dense` bytes: the largest two, smallest first."""
    return [mark for mark in _MARKS if 0.09 * dense <= mark[0] <= 0.97 * dense][-2:]


def _decade_ticks(low: float, high: float, digits: tuple[int, ...]) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [digit * 10.0**n for n in decades for digit in digits if low <= digit * 10.0**n <= high]


def _power(value: float) -> float:
    return float(10.0 ** math.floor(math.log10(value) + 1e-9))


def _next_nice(step: float) -> float:
    power = _power(step)
    return next(nice * power for nice in (*_NICE, 20.0) if nice * power > step * (1 + 1e-9))


def _tidy(value: float) -> float:
    return float(f"{value:.12g}") + 0.0  # no "0.30000000000000004", no "-0"
