"""The right side of a still: size, accuracy, and where you have been."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ..measure.bins import Floats
from ..measure.estimate import Estimate
from ..recipe import Recipe
from .pen import ACCURACY, AS_IS, DENSE, FAINT, KEPT, LENS, LINE, MASK, MUTED, SCALES, Pen
from .ticks import linear_ticks, log_ticks, size_marks
from .words import (
    bytes_text,
    compared_size_text,
    decibels_text,
    direction_text,
    interval_text,
    round_bytes_text,
    share_text,
    short_words,
    value_text,
)

Score = Mapping[str, Any]
PARTS: Final = (("codes", KEPT), ("mask", MASK), ("scales", SCALES), ("kept", AS_IS), ("header", LINE))
_DENSE_LABEL: Final = 52.0


def value_of(score: Score | None) -> float | None:
    """Return the value of a score, or None if there is none that can be drawn (nothing yet, failed, not finite)."""
    value = score.get("value") if score is not None else None
    return float(value) if value is not None and math.isfinite(value) else None


def metric_of(*scores: Score | None) -> tuple[str, bool, bool]:
    """Return the metric of the first score that tells: its name, whether in per cent, whether higher is better."""
    told: Score = next((score for score in scores if score is not None and "metric" in score), {})
    return str(told.get("metric", "score")), bool(told.get("percent", False)), bool(told.get("higher", True))


def heading(pen: Pen, x: float, y: float, text: str, note: str = "") -> None:
    """Write the title of a section, and a quieter note beside it."""
    width = pen.text(x, y, text, size=10.5, bold=True, colour=MUTED)
    pen.text(x + width + 10, y, note, size=10.5, colour=MUTED)


def draw_size(pen: Pen, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Draw dense bytes against bytes now and the parts of the file, 200 pixels high."""
    heading(pen, x, y + 6, "SIZE")
    about = "" if estimate.exact else "≈\N{NARROW NO-BREAK SPACE}"
    at = x + pen.text(x, y + 32, f"{bytes_text(estimate.dense)} → ", size=17, colour=MUTED)
    at += pen.text(at, y + 32, f"{about}{bytes_text(estimate.nbytes)}", size=19, bold=True)
    pen.text(at + 10, y + 33, f"{about}{compared_size_text(estimate.ratio)}", size=12, colour=MUTED)
    _bars(pen, x, y + 54, width, estimate)
    below = [f"SQNR {about}{decibels_text(estimate.sqnr)}", f"{about}{share_text(estimate.sparsity)} of weights pruned"]
    if estimate.download is not None:
        below.insert(0, f"{bytes_text(estimate.download)} to download")
    pen.text(x, y + 186, " · ".join(below), size=11, colour=MUTED)


def _bars(pen: Pen, x: float, y: float, width: float, estimate: Estimate) -> None:
    scale = width / max(estimate.dense, estimate.nbytes)
    _bar(pen, x, y, estimate.dense * scale, 16, DENSE)
    pen.text(x + 7, y + 8.5, "dense", size=10.5)
    _segments(pen, x, y + 20, scale, 14, estimate)
    _marks(pen, x, y, width, estimate)
    now = estimate.nbytes * scale
    lens = np.array([[x, y + 36], [x + now, y + 36], [x + width, y + 58], [x, y + 58]])
    pen.fill([lens], LENS)
    _segments(pen, x, y + 60, width / estimate.nbytes, 16, estimate)
    _legend(pen, x, y + 92, width, estimate)


def _bar(pen: Pen, x: float, y: float, width: float, height: float, colour: str) -> None:
    pen.rectangles(np.array([x]), np.array([y]), width, y + height, colour)


def _segments(pen: Pen, x: float, y: float, scale: float, height: float, estimate: Estimate) -> None:
    sizes = estimate.parts()
    for part, colour in PARTS:
        if sizes[part]:
            _bar(pen, x, y, sizes[part] * scale, height, colour)
        x += sizes[part] * scale


def _marks(pen: Pen, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Mark sizes people know, the largest first, each with its name if there is room for it beside the bar of now."""
    scale = width / max(estimate.dense, estimate.nbytes)
    free, end = x + estimate.nbytes * scale + 6, x + width
    for size, label in reversed([mark for mark in size_marks(estimate.dense) if mark[0] * scale > _DENSE_LABEL]):
        at, wide = x + size * scale, pen.measure(label, size=10)
        pen.line(at, y - 3, at, y + 37, MUTED, width=0.9, dashes=(0, (1.5, 2.0)))
        if max(at, free - 6) + 6 + wide <= end and at + 6 >= free:
            pen.text(at + 6, y + 28, label, size=10, colour=MUTED)
        elif at - 6 - wide >= free and at <= end:
            pen.text(at - 6, y + 28, label, size=10, colour=MUTED, align="right")
        end = at - 6


def _legend(pen: Pen, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Name the parts, three to a line."""
    sizes = estimate.parts()
    for i, (part, colour) in enumerate(PARTS):
        left, top = x + i % 3 * width / 3, y + i // 3 * 18
        _bar(pen, left, top - 4.5, 9, 9, colour)
        at = left + 14 + pen.text(left + 14, top, part, size=10.5, colour=MUTED) + 5
        pen.text(at, top, bytes_text(sizes[part]) if sizes[part] else "–", size=10.5)


def draw_score(pen: Pen, x: float, y: float, score: Score | None, baseline: Score | None) -> None:
    """Draw a score with its interval, samples and regime, 66 pixels high."""
    value, before = value_of(score), value_of(baseline)
    name, percent, higher = metric_of(score, baseline)
    heading(pen, x, y + 6, name.upper(), direction_text(percent, higher))
    dense = "" if before is None else f"{value_text(before, percent)} → "
    at = x + pen.text(x, y + 32, dense, size=17, colour=MUTED)
    if score is None or value is None:
        failed = score is not None and score.get("state") == "failed"
        pen.text(at, y + 32, "evaluation failed" if failed else "not evaluated yet", size=13, colour=MUTED)
        return
    at += pen.text(at, y + 32, value_text(value, percent), size=19, bold=True, colour=ACCURACY)
    interval = interval_text(score.get("low"), score.get("high"), percent)
    pen.text(at + 8, y + 33, interval, size=12, colour=MUTED)
    pen.text(x, y + 56, sample_words(score), size=11, colour=MUTED)


def sample_words(score: Score) -> str:
    """Return on what a score rests: "no retraining · 6,144 of 10,000 examples, still counting"."""
    n, total = score.get("n"), score.get("total")
    words = [str(score.get("regime") or "no retraining")]
    if n:
        of = f" of {total:,}" if total and total != n else ""
        more = ", still counting" if score.get("state") == "running" else ""
        words.append(f"{n:,}{of} examples{more}")
    return " · ".join(words)


def draw_been(
    pen: Pen, x: float, y: float, width: float, height: float, points: Sequence[Score], now: str, dense: Score | None
) -> None:
    """Draw every evaluated recipe as a point, value against bytes (log); `now` is the JSON of the present one."""
    name, percent, higher = metric_of(dense)
    heading(pen, x, y + 6, "WHERE YOU HAVE BEEN", f"{name} against bytes")
    plot = _Plot(x + 44, y + 26, width - 52, height - 50, points, dense)
    plot.axes(pen, percent)
    sizes, values = plot.places(points)
    best = _frontier(points, higher)
    pen.lines([np.stack([sizes[best], values[best]], axis=1)] if len(best) > 1 else [], ACCURACY, 1.1)
    others = np.setdiff1d(np.arange(len(points)), best)
    pen.dots(sizes[others], values[others], ACCURACY, 6, filled=False)
    pen.dots(sizes[best], values[best], ACCURACY, 6)
    for i, point in enumerate(points):
        if point["recipe"] == now:
            pen.dots(sizes[i : i + 1], values[i : i + 1], ACCURACY, 10)
            plot.label(pen, float(sizes[i]), float(values[i]), short_words(Recipe.from_json(now)))


def _frontier(points: Sequence[Score], higher: bool) -> list[int]:
    """Return the points no other is smaller and better than, by size."""
    sign = 1.0 if higher else -1.0
    best, found = -math.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i]["nbytes"], -sign * points[i]["value"])):
        if sign * points[i]["value"] > best:
            best = sign * points[i]["value"]
            found.append(i)
    return found


class _Plot:
    """A small chart: bytes across on a logarithmic axis, values up."""

    def __init__(
        self, x: float, y: float, width: float, height: float, points: Sequence[Score], dense: Score | None
    ) -> None:
        self.x, self.y, self.width, self.height = x, y, width, height
        sizes = [point["nbytes"] for point in points]
        self.dense = value_of(dense)
        values = [point["value"] for point in points] + ([self.dense] if self.dense is not None else [])
        self.left, self.right = math.log(min(sizes) / 1.25), math.log(max(sizes) * 1.25)
        room = 0.12 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
        self.low, self.high = min(values) - room, max(values) + room

    def places(self, points: Sequence[Score]) -> tuple[Any, Any]:
        """Return where the points are, in pixels."""
        sizes = np.log([point["nbytes"] for point in points])
        values = np.array([point["value"] for point in points])
        return self.x + (sizes - self.left) / (self.right - self.left) * self.width, self._up(values)

    def _up(self, values: Any) -> Any:
        return self.y + (self.high - values) / (self.high - self.low) * self.height

    def axes(self, pen: Pen, percent: bool) -> None:
        """Draw the grid, the ticks' values and the line of the dense model."""
        right, bottom = self.x + self.width, self.y + self.height
        for tick in linear_ticks(self.low, self.high, 4):
            y = float(self._up(tick))
            pen.line(self.x, y, right, y, FAINT)
            text = share_text(tick) if percent and 0 <= tick <= 1 else f"{tick:.4g}"
            pen.text(self.x - 6, y, text, size=10, colour=MUTED, align="right")
        pen.line(self.x, bottom, right, bottom, LINE)
        for tick in log_ticks(math.exp(self.left), math.exp(self.right), 5):
            x = self.x + (math.log(tick) - self.left) / (self.right - self.left) * self.width
            pen.text(x, bottom + 13, round_bytes_text(tick), size=10, colour=MUTED, align="center")
        if self.dense is not None:
            y = float(self._up(self.dense))
            pen.line(self.x, y, right, y, ACCURACY, dashes=(0, (3, 2)))
            wide = pen.measure("dense", size=10)
            pen.fill([_box(right - wide - 3, y - 14, wide + 3, 12)], "white")
            pen.text(right, y - 8, "dense", size=10, colour=MUTED, align="right")

    def label(self, pen: Pen, x: float, y: float, text: str) -> None:
        """Write beside a point, on the side where there is room."""
        fits = x + 10 + pen.measure(text, size=10.5) < self.x + self.width
        below = y + 14 < self.y + self.height
        side = (x + 9, "left") if fits else (x - 9, "right")
        pen.text(side[0], y + (12 if below else -12), text, size=10.5, align=side[1])


def _box(x: float, y: float, width: float, height: float) -> Floats:
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])
