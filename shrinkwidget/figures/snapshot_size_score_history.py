"""The right side of a snapshot: size, score, and history."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..errors import layer_label
from ..recipe_and_method_registry import Recipe
from .canvas import ACCURACY, AS_IS, DENSE, FAINT, INK, KEPT, LENS, LINE, MASK, MUTED, PAPER, SCALES, Canvas, measure
from .fit_and_place_labels import Box, place_label, wrap
from .numbers_and_recipes_as_text import (
    bytes_text,
    bytes_tick_text,
    compared_size_text,
    dead_text,
    decibels_text,
    direction_text,
    estimated_text,
    holds_up,
    interval_text,
    prediction_text,
    recipe_label,
    share_text,
    tick_text,
    value_text,
)
from .scatter_scales_and_pareto_front import Frame, Scales, byte_domain, pareto_front, value_domain
from .ticks_and_size_marks import size_marks

Score = Mapping[str, Any]
PLAIN: Final = "no retraining"
"""The provenance of weights as they came."""
PARTS: Final = (("codes", KEPT), ("mask", MASK), ("scales", SCALES), ("uncompressed", AS_IS), ("header", LINE))
LINE_HEIGHT: Final = 16.0
_DENSE_LABEL: Final = 52.0
_SMALL: Final = 11.0


@dataclass(frozen=True, slots=True)
class Metric:
    """What a score is in: its name, whether in per cent, whether higher is better (None: nobody has said)."""

    name: str
    percent: bool
    higher: bool | None


def value_of(score: Score | None) -> float | None:
    """Return the value of a score, or None if there is none that can be drawn (nothing yet, failed, not finite)."""
    value = score.get("value") if score is not None else None
    return float(value) if value is not None and math.isfinite(value) else None


def metric_of(*told: Score | None) -> Metric:
    """Return the metric of the first score, or dict of a metric, that tells."""
    found: Score = next((one for one in told if one and ("metric" in one or "name" in one)), {})
    name = found.get("metric", found.get("name", "score"))
    return Metric(str(name), bool(found.get("percent", False)), found.get("higher", True))


def heading(canvas: Canvas, x: float, y: float, room: float, text: str, note: str = "") -> None:
    """Write the title of a section and a quieter note beside it, in `room` pixels."""
    width = canvas.text(x, y, canvas.fitted(text, room, size=10.5, bold=True), size=10.5, bold=True, color=MUTED)
    if note and (left := room - width - 10) > 40:
        canvas.text(x + width + 10, y, canvas.fitted(note, left, size=10.5), size=10.5, color=MUTED)


def draw_size(canvas: Canvas, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Draw dense bytes against bytes now and the parts of the file, 210 pixels high."""
    heading(canvas, x, y + 6, width, "SIZE")
    about = partial(estimated_text, estimate.exact)
    at = x + canvas.text(x, y + 32, f"{bytes_text(estimate.original_nbytes)} → ", size=17, color=MUTED)
    at += canvas.text(at, y + 32, about(bytes_text(estimate.nbytes)), size=19, bold=True)
    canvas.text(at + 10, y + 33, about(compared_size_text(estimate.ratio)), size=12, color=MUTED)
    size_bars(canvas, x, y + 54, width, estimate)
    size_legend(canvas, x, y + 54 + SIZE_BARS + 16, width, estimate, 3)
    below = [f"SQNR {about(decibels_text(estimate.sqnr))}", f"{about(share_text(estimate.sparsity))} of weights pruned"]
    if estimate.nbytes_entropy_coded is not None:
        below.insert(0, f"{bytes_text(estimate.nbytes_entropy_coded)} to download")
    for i, line in enumerate(wrap(below, width, partial(canvas.measure, size=_SMALL))):
        canvas.text(x, y + 186 + i * LINE_HEIGHT, line, size=_SMALL, color=MUTED)


SIZE_BARS: Final = 76.0
"""Pixels that `size_bars` takes."""


def size_bars(canvas: Canvas, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Draw the dense bytes, the file's on the same scale, and, as through a lens, the parts of the file."""
    scale = width / max(estimate.original_nbytes, estimate.nbytes)
    fill_bar(canvas, x, y, estimate.original_nbytes * scale, 16, DENSE)
    canvas.text(x + 7, y + 8.5, "dense", size=10.5)
    _segments(canvas, x, y + 20, scale, 14, estimate)
    _marks(canvas, x, y, width, estimate)
    now = estimate.nbytes * scale
    lens = np.array([[x, y + 36], [x + now, y + 36], [x + width, y + 58], [x, y + 58]])
    canvas.fill([lens], LENS)
    _segments(canvas, x, y + 60, width / estimate.nbytes, 16, estimate)


def fill_bar(canvas: Canvas, x: float, y: float, width: float, height: float, color: str) -> None:
    """Fill a bar by its upper left corner and size."""
    canvas.rectangles(np.array([x]), np.array([y]), width, y + height, color)


def _segments(canvas: Canvas, x: float, y: float, scale: float, height: float, estimate: Estimate) -> None:
    sizes = estimate.parts()
    for part, color in PARTS:
        if sizes[part]:
            fill_bar(canvas, x, y, sizes[part] * scale, height, color)
        x += sizes[part] * scale


def _marks(canvas: Canvas, x: float, y: float, width: float, estimate: Estimate) -> None:
    """Mark sizes people know, the largest first, those whose name has room beside it on the bar of the dense model."""
    scale = width / max(estimate.original_nbytes, estimate.nbytes)
    start, end = x + _DENSE_LABEL, x + width
    # from the right: `end` is where the mark before leaves off
    for size, label in reversed(size_marks(estimate.original_nbytes)):
        at, wide = x + size * scale, canvas.measure(label, size=10)
        right = at + 6 + wide <= end
        if at < start or not (right or at - 6 - wide >= start):
            continue
        canvas.line(at, y - 3, at, y + 37, MUTED, width=0.9, dashes=(0, (1.5, 2.0)))
        canvas.text(at + (6 if right else -6), y + 8.5, label, size=10, color=INK, align="left" if right else "right")
        end = at - 6 - (0 if right else wide + 6)


def size_legend(canvas: Canvas, x: float, y: float, width: float, estimate: Estimate, columns: int) -> None:
    """Name the parts, so many to a line of 18 pixels; one that takes more than its column moves the next."""
    sizes = estimate.parts()
    end = x
    for i, (part, color) in enumerate(PARTS):
        column = x + i % columns * width / columns
        left, top = max(column, end + 14 if i % columns else x), y + i // columns * 18
        fill_bar(canvas, left, top - 4.5, 9, 9, color)
        at = left + 14 + canvas.text(left + 14, top, part, size=10.5, color=MUTED) + 5
        text = estimated_text(estimate.exact or part == "uncompressed", bytes_text(sizes[part])) if sizes[part] else "–"
        end = at + canvas.text(at, top, text, size=10.5)


@dataclass(frozen=True, slots=True)
class ScorePanel:
    """A score beside that of the dense model, on what it rests, and what it hides, in `width` pixels."""

    score: Score | None
    baseline: Score | None
    metric: Metric
    recipe: str
    """The canonical JSON of the recipe whose score it is."""
    warnings: Sequence[str]
    width: float

    @property
    def height(self) -> float:
        """Pixels from the title to the last line."""
        return 50 + LINE_HEIGHT * (len(self._basis()) + len(self._warnings()))

    def draw(self, canvas: Canvas, x: float, y: float) -> None:
        """Draw it with its upper left corner at (x, y)."""
        metric, value, before = self.metric, value_of(self.score), value_of(self.baseline)
        heading(canvas, x, y + 6, self.width, metric.name.upper(), direction_text(metric.percent, metric.higher))
        dense = "" if before is None else f"{value_text(before, metric.percent)} → "
        at = x + canvas.text(x, y + 32, dense, size=17, color=MUTED)
        if value is None:
            why = {"failed": "evaluation failed", "covered": "covered until you predict"}
            text = why.get(str((self.score or {}).get("state")), "not evaluated yet")
            canvas.text(at, y + 32, text, size=13, color=MUTED)
        else:
            color = ACCURACY if self._is_earned(value) else INK
            at += canvas.text(at, y + 32, value_text(value, metric.percent), size=19, bold=True, color=color)
            if not self._wraps():
                canvas.text(at + 8, y + 33, self._interval(), size=12, color=MUTED)
        for line in self._basis():
            canvas.text(x, y + 56, line, size=_SMALL, color=MUTED)
            y += LINE_HEIGHT
        for line in self._warnings():
            canvas.text(x, y + 56, line, size=_SMALL, color=INK)
            y += LINE_HEIGHT

    def _is_earned(self, value: float) -> bool:
        """Return whether a score deserves praise: something was done, and for all one can tell it does as well.

        The page's rule (``isEarned`` of ``js/explorer/accuracy-panel-and-stats.tsx``).
        """
        score, baseline = self.score or {}, self.baseline or {}
        untouched = baseline.get("recipe") == self.recipe and score.get("provenance", PLAIN) == PLAIN
        worst = baseline.get("low" if self.metric.higher else "high"), value_of(self.baseline)
        return not untouched and not score.get("warnings") and holds_up(self.metric.higher, value, *worst)

    def _interval(self) -> str:
        score = self.score or {}
        return interval_text(score.get("low"), score.get("high"), self.metric.percent)

    def _wraps(self) -> bool:
        """Return whether the interval has no room beside the value."""
        value, before = value_of(self.score), value_of(self.baseline)
        dense = "" if before is None else f"{value_text(before, self.metric.percent)} → "
        now = "" if value is None else value_text(value, self.metric.percent)
        used = measure(dense, size=17) + measure(now, size=19, bold=True) + 8
        return used + measure(self._interval(), size=12) > self.width

    def _basis(self) -> list[str]:
        if self.score is None or value_of(self.score) is None:
            return []
        words = sample_words(self.score).split(" · ")
        if interval := self._interval():
            words.append(f"95\N{NARROW NO-BREAK SPACE}% interval{f' {interval}' if self._wraps() else ''}")
        words += filter(None, [prediction_words(self.score, self.metric.percent)])
        return wrap(words, self.width, partial(measure, size=_SMALL))

    def _warnings(self) -> list[str]:
        told = (self.score or {}).get("warnings") or () if value_of(self.score) is not None else ()
        return warning_lines((*told, *self.warnings), self.width)


def warning_lines(sentences: Iterable[str], width: float) -> list[str]:
    """Return warnings as lines of a width."""
    small = partial(measure, size=_SMALL)
    return [line for text in sentences for line in wrap([f"! {text}"], width, small)]


def dead_words(estimate: Estimate) -> str:
    """Return what is to say of layers of which nothing is left, or nothing."""
    return dead_text(layer_label(layer.name) for layer in estimate.layers if layer.n > 0 and layer.kept < 0.5)


def sample_words(score: Score) -> str:
    """Return on what a score rests: "no retraining · 6,144 of 10,000 examples, still counting"."""
    n, total = score.get("n"), score.get("total")
    words = [str(score.get("provenance") or PLAIN)]
    if n:
        of = f" of {total:,}" if total and total != n else ""
        more = {"running": ", still counting", "cancelled": ", stopped"}.get(str(score.get("state")), "")
        words.append(f"{n:,}{of} examples{more}")
    return " · ".join(words)


def prediction_words(score: Score, percent: bool) -> str:
    """Return a score's prediction held against it, "" if nobody has predicted it."""
    if score.get("predicted") is None:
        return ""
    running = score.get("state") == "running"
    return prediction_text(score["predicted"], value_of(score), score.get("low"), score.get("high"), percent, running)


_SHAPES: Final = {"o": "not retrained", "^": "recalibrated", "s": "recovered", "D": "retrained"}
"""The marker of a visited point, and what it says of its weights."""


def shape_of(visit: Score) -> str:
    """Return the marker of a visited point: weights as they came, recalibrated, recovered, or retrained."""
    if visit.get("recovered"):
        return "s"
    if visit.get("recalibrated"):
        return "^"
    return "D" if visit.get("result") or visit.get("provenance", PLAIN) != PLAIN else "o"


def latest(history: Sequence[Score]) -> list[Score]:
    """Return one visit for each recipe and each retrained or recovered model: the latest, if it came to a value."""
    # A dict keeps the last of equal keys, in the place of the first: the order of the visits stays.
    visits = {(v.get("result") or "", v.get("provenance", PLAIN), v["recipe"]): v for v in history}
    return [visit for visit in visits.values() if value_of(visit) is not None]


@dataclass(frozen=True, slots=True)
class HistoryPanel:
    """History: every evaluated recipe as a point, value against bytes (log)."""

    visits: Sequence[Score]
    metric: Metric
    estimate: Estimate
    baseline: Score | None
    provenance: str
    """How the model of now was obtained."""

    def draw(self, canvas: Canvas, x: float, y: float, width: float, height: float) -> None:
        """Draw it with its upper left corner at (x, y)."""
        heading(canvas, x, y + 6, width, "HISTORY", f"{self.metric.name} against bytes")
        above = 26.0 if self._note(canvas, x, y + 22, width) else 8.0
        # The ticks' values need room at the left, and which ticks there are depends on the height alone.
        bare = Frame(width, height - above, 0, 10, 16, 20, x, y + above)
        ticks = [tick_text(tick, self.metric.percent) for tick in self._scales(bare).y_ticks]
        left = max(44.0, max(canvas.measure(text, size=10) for text in ticks) + 9)
        scales = self._scales(replace(bare, left=left))
        dense = value_of(self.baseline)
        self._axes(canvas, scales, dense)
        sizes = np.array([scales.x(visit["nbytes"]) for visit in self.visits])
        values = np.array([scales.y(visit["value"]) for visit in self.visits])
        if self.metric.higher is not None:
            # Two fronts: with recalibrated statistics the same recipes score better, and one line through both would
            # jump.
            for recalibrated in (False, True):
                some = [i for i, visit in enumerate(self.visits) if bool(visit.get("recalibrated")) is recalibrated]
                pairs = [(self.visits[i]["nbytes"], self.visits[i]["value"]) for i in some]
                best = [some[i] for i in pareto_front(pairs, self.metric.higher)]
                canvas.lines([np.stack([sizes[best], values[best]], axis=1)] if len(best) > 1 else [], ACCURACY, 1.1)
        for visit in self._predicted():  # what was said, and a line from it to the point it was meant for
            x, said = scales.x(visit["nbytes"]), scales.y(visit["predicted"])
            canvas.line(x, said, x, scales.y(visit["value"]), MUTED)
            canvas.dots(np.array([x]), np.array([said]), MUTED, 7, "X")
        current = self._current()
        for i, visit in enumerate(self.visits):
            size = 12.0 if i == current else 8.0
            canvas.dots(sizes[i : i + 1], values[i : i + 1], ACCURACY, size, shape_of(visit))
        if current is not None:
            self._label(canvas, scales, sizes, values, current, dense)

    def _note(self, canvas: Canvas, x: float, y: float, width: float) -> bool:
        """Say below the title what needs saying: which way is better, and what the shapes of the points mean."""
        direction = direction_text(self.metric.percent, self.metric.higher)
        at = x + (canvas.text(x, y, direction, size=10, color=MUTED) + 12 if direction else 0)
        there = {shape_of(visit) for visit in self.visits}
        shapes = there != {"o"}
        for marker, text in _SHAPES.items():
            if not shapes or marker not in there:
                continue
            if at + 12 + canvas.measure(text, size=10) > x + width:
                break
            canvas.dots(np.array([at + 4]), np.array([y]), ACCURACY, 7, marker)
            at += 12 + canvas.text(at + 12, y, text, size=10, color=MUTED) + 12
        return bool(direction) or shapes

    def _predicted(self) -> list[Score]:
        return [visit for visit in self.visits if visit.get("predicted") is not None]

    def _scales(self, frame: Frame) -> Scales:
        nbytes = [visit["nbytes"] for visit in self.visits]
        drawn = [v["value"] for v in self.visits] + [v["predicted"] for v in self._predicted()]
        values = value_domain(drawn, value_of(self.baseline), self.metric.percent)
        return Scales(frame, byte_domain(nbytes, self.estimate.original_nbytes), values)

    def _axes(self, canvas: Canvas, scales: Scales, dense: float | None) -> None:
        """Draw the grid, the ticks' values, and the lines of the dense model and of the size of now."""
        left, top, width, height = scales.frame.plot
        right, bottom = left + width, top + height
        for tick in scales.y_ticks:
            y = scales.y(tick)
            canvas.line(left, y, right, y, FAINT)
            canvas.text(left - 7, y, tick_text(tick, self.metric.percent), size=10, color=MUTED, align="right")
        for tick in scales.x_ticks:
            text = bytes_tick_text(tick)
            half = canvas.measure(text, size=10) / 2
            x = min(scales.x(tick), right + scales.frame.right - half)
            canvas.text(x, bottom + 13, text, size=10, color=MUTED, align="center")
        now = min(max(scales.x(self.estimate.nbytes), left), right)
        canvas.line(now, top, now, bottom, LINE, dashes=(0, (2, 2)))
        if dense is not None:
            y = scales.y(dense)
            canvas.line(left, y, right, y, ACCURACY, dashes=(0, (3, 2)))
            wide = canvas.measure("dense", size=10)
            canvas.fill(
                [np.array([[left, y - 14], [left + wide + 4, y - 14], [left + wide + 4, y - 2], [left, y - 2]])], PAPER
            )
            canvas.text(left + 2, y - 8, "dense", size=10, color=MUTED)

    def _current(self) -> int | None:
        """Return which visit is the model of now: the same recipe, obtained in the same way."""
        recipe = self.estimate.recipe.to_json()
        own = [i for i, visit in enumerate(self.visits) if visit["recipe"] == recipe]
        same = [i for i in own if self.visits[i].get("provenance", PLAIN) == self.provenance]
        return next(reversed(same or own), None)

    def _label(
        self, canvas: Canvas, scales: Scales, sizes: Any, values: Any, current: int, dense: float | None
    ) -> None:
        """Name the current recipe beside its point, on a side where there is room."""
        left, _, width, _ = scales.frame.plot
        frame = scales.frame
        bounds = Box(left, frame.y, width, frame.height - frame.bottom)
        text = canvas.fitted(recipe_label(Recipe.from_json(self.visits[current]["recipe"])), 0.8 * width, size=10.5)
        size = (canvas.measure(text, size=10.5) + 4, 15.0)
        points = list(zip(sizes.tolist(), values.tolist(), strict=True))
        box = place_label(points[current], size, bounds, points, [] if dense is None else [scales.y(dense)], 10)
        if box is not None:
            canvas.text(box.x + 2, box.y + 7.5, text, size=10.5)
