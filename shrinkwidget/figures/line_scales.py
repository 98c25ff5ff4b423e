"""Places the lines of a training: values over epochs, on axes that stay put while a line grows.

The twin of ``js/charts/line-scales-paths-and-domains.ts``; ``tests/vectors/charts`` holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .scatter_scales_and_pareto_front import SHARE_STARTS, Domain, Frame, padded
from .ticks_and_size_marks import linear_ticks, nice_below, whole_ticks

Column = Sequence[float | None]
Scored = tuple[float, float | None, float | None]
"""A value, and the ends of its interval."""

_FEWEST: Final = 10
"""Fewer examples than this an axis of shares never tells apart: between two of its ends there is room for chance."""


@dataclass(frozen=True, slots=True)
class LineScales:
    """An axis of epochs across, and one of values upwards, in whole decades if `log`."""

    frame: Frame
    xs: Domain
    ys: Domain
    log: bool = False

    def x(self, epoch: float) -> float:
        """Return the pixel of an epoch."""
        left, _, width, _ = self.frame.plot
        return left + (epoch - self.xs[0]) / (self.xs[1] - self.xs[0] or 1) * width

    def y(self, value: float) -> float:
        """Return the pixel of a value; NaN for one that has no place on a logarithmic axis, such as a rate of zero."""
        if self.log and value <= 0:
            return math.nan
        _, top, _, height = self.frame.plot
        low, high, at = (math.log10(v) if self.log else v for v in (*self.ys, value))
        return top + (high - at) / (high - low or 1) * height

    @property
    def x_ticks(self) -> list[float]:
        """Whole epochs."""
        return whole_ticks(*self.xs, max(2, math.floor(self.frame.plot[2] / 70)))

    @property
    def y_ticks(self) -> list[float]:
        """Round values, or decades."""
        if not self.log:
            return linear_ticks(*self.ys, max(2, math.floor(self.frame.plot[3] / 32)))
        low, high = map(math.log10, self.ys)
        return [10.0**n for n in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def score_domain(scores: Sequence[Scored], n: int, is_share: bool) -> Domain:
    """Return an axis for scores: it holds every value with its interval, and is never finer than a few examples.

    `n` is how many examples were scored; shares end at 1.
    """
    known = [score for score in scores if math.isfinite(score[0])]
    if not known:
        return 0.0, 1.0
    values = [value for value, _, _ in known]
    low = min(values + [low for _, low, _ in known if low is not None])
    high = max(values + [high for _, _, high in known if high is not None])
    if not is_share:
        return padded(low, high)
    # The finest axis that holds all, unless its whole length is less than ten examples: then two neighbouring scores
    # would stand far apart by chance.
    for start in SHARE_STARTS:
        if start <= low and start < min(values) - 0.03 and 1 - start >= _FEWEST / max(1, n):
            return start, 1.0
    return 0.0, 1.0


def loss_domain(losses: Column) -> Domain:
    """Return an axis for losses: from zero to a round number above all of them, so that it seldom changes."""
    most = max([0.0, *_finite(losses)])
    step = nice_below(most / 2)
    return 0.0, step * math.ceil(most / step - 1e-9) if most > 0 else 1.0


def rate_domain(rates: Column) -> Domain:
    """Return an axis for rates, in whole decades."""
    found = [math.log10(rate) for rate in _finite(rates) if rate > 0]
    if not found:
        return 0.001, 1.0
    low = math.floor(min(found) + 1e-9)
    return 10.0**low, 10.0 ** max(low + 1, math.ceil(max(found) - 1e-9))


def _finite(values: Column) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
