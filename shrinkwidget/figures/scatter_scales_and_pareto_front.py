"""Places the points of a scatter of score against bytes: domains, ticks, and the front.

The twin of ``js/charts/scatter-scales-and-pareto-front.ts``; ``tests/vectors/charts`` holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from .ticks_and_size_marks import linear_ticks, log_ticks

Domain = tuple[float, float]
SHARE_STARTS: Final = (0.95, 0.9, 0.75, 0.5, 0.25)
"""Where an axis of shares may begin: coarse steps, so that it rarely moves."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A chart of `width` × `height` pixels whose corner is at (x, y), and the margins around its plot."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: float = 0.0
    y: float = 0.0

    @property
    def plot(self) -> tuple[float, float, float, float]:
        """Left, top, width and height of what the axes enclose."""
        wide, tall = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.x + self.left, self.y + self.top, wide, tall


@dataclass(frozen=True, slots=True)
class Scales:
    """A logarithmic axis across and a linear one upwards, with their ticks."""

    frame: Frame
    xs: Domain
    ys: Domain

    def x(self, nbytes: float) -> float:
        """Return the pixel of a number of bytes."""
        left, _, width, _ = self.frame.plot
        low, high = map(math.log, self.xs)
        return left + (math.log(nbytes) - low) / (high - low) * width

    def y(self, value: float) -> float:
        """Return the pixel of a value."""
        _, top, _, height = self.frame.plot
        return top + (self.ys[1] - value) / (self.ys[1] - self.ys[0]) * height

    @property
    def x_ticks(self) -> list[float]:
        """As many as have room."""
        return log_ticks(*self.xs, math.floor(self.frame.plot[2] / 62))

    @property
    def y_ticks(self) -> list[float]:
        """As many as have room."""
        return linear_ticks(*self.ys, max(2, math.floor(self.frame.plot[3] / 34)))


def byte_domain(nbytes: Sequence[float], dense: float) -> Domain:
    """Return the bytes an axis covers: from well below the smallest trial to the dense size, thirtyfold at least."""
    # Half decades, and always thirtyfold: the axis keeps still while a slider adds points.
    least = min([dense / 30, *nbytes])
    return 10 ** (math.floor(2 * math.log10(least / 1.15)) / 2), max([dense, *nbytes]) * 1.18


def value_domain(values: Iterable[float], baseline: float | None, is_share: bool) -> Domain:
    """Return the values an axis covers: of shares up to 1 from a round value below all, else a little more than all."""
    known = [value for value in (*values, *([] if baseline is None else [baseline])) if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    if is_share:
        return next((start for start in SHARE_STARTS if start < min(known) - 0.03), 0.0), 1.0
    return padded(min(known), max(known))


def padded(low: float, high: float) -> Domain:
    """Return a domain with a little room beyond the lowest and the highest value."""
    margin = 0.08 * (high - low or abs(high) or 1)
    return low - margin, high + margin


def pareto_front(trials: Sequence[tuple[float, float]], higher: bool) -> list[int]:
    """Return which trials, (bytes, value), no other beats in both size and score, from small to large."""
    sign = 1.0 if higher else -1.0
    best, found = -math.inf, []
    for i in sorted(range(len(trials)), key=lambda i: (trials[i][0], -sign * trials[i][1])):
        if sign * trials[i][1] > best:
            best = sign * trials[i][1]
            found.append(i)
    return found
