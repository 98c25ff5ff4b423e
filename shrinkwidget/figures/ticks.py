"""Where axes put their ticks, and which sizes are worth a mark (as js/charts/ticks.ts)."""

from __future__ import annotations

import math
from typing import Final

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


def nice_step(least: float) -> float:
    """Return the least of 1, 2, 2.5, 5 × 10ⁿ that is at least `least` > 0."""
    power = float(10.0 ** math.floor(math.log10(least)))
    return next(step * power for step in _NICE if step * power >= least * (1 - 1e-9))


def mirrored_ticks(span: float, per_side: int) -> list[float]:
    """Return ticks of an axis from −span to span, zero among them, `per_side` to a side at most."""
    step = nice_step(span / (per_side + 0.8))
    sides = math.floor(span / step + 1e-9)
    return [i * step for i in range(-sides, sides + 1)]


def linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    """Return ticks between two values, low < high, at a round step, about `wanted` of them."""
    step = nice_step((high - low) / wanted)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """Return ticks of a logarithmic axis: 1, 2 and 5 of every decade if there are few enough, else fewer."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) <= most:
            return ticks
    return ticks[:: math.ceil(len(ticks) / most)]


def size_marks(dense: float) -> list[tuple[float, str]]:
    """Return the sizes people know that lie well inside a bar of `dense` bytes: the largest two, smallest first."""
    return [mark for mark in _MARKS if 0.02 * dense <= mark[0] <= 0.97 * dense][-2:]
