"""The ridge of a still: a row for each layer, original outlined, effective weights filled, the pruned band hatched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..measure.bins import Floats
from ..measure.estimate import Estimate, LayerEstimate
from ..measure.pruned import survivals
from ..measure.sketch import LayerSketch, Sketch
from ..recipe import Plan
from .pen import FAINT, GRID, HATCH, INK, KEPT, LINE, MUTED, OUTLINE, Pen
from .picture import Picture, picture_of, shared_span
from .ticks import mirrored_ticks
from .words import bytes_text, share_text, weight_text

MOST_ROWS: Final = 24
_LEVEL_PIXELS: Final = 4.0
_COLUMNS: Final = (("weights", 72), ("pruned", 52), ("bits", 34), ("size", 62))
_NUMBERS: Final = sum(width for _, width in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the ridge stands: left, top and width in pixels, and the height of a row."""

    left: float
    top: float
    width: float
    row: float


@dataclass(frozen=True, slots=True)
class Row:
    """One drawn layer: what is known of it, what the recipe asks, what comes out, and its picture."""

    layer: LayerSketch
    plan: Plan
    figures: LayerEstimate
    picture: Picture


def chosen_layers(sketch: Sketch) -> list[int]:
    """Return the indices of the layers that are drawn, in their order: all, or the largest if there are too many."""
    sizes = [-layer.n for layer in sketch.layers]
    return sorted(sorted(range(len(sizes)), key=sizes.__getitem__)[:MOST_ROWS])


def draw_ridge(pen: Pen, frame: Frame, sketch: Sketch, estimate: Estimate) -> None:
    """Draw the chosen layers with their figures, an axis below them and a title above."""
    chosen = chosen_layers(sketch)
    names = [sketch.layers[i].label for i in chosen]
    label = min(max(pen.measure(name) for name in names) + 14, 0.3 * frame.width)
    plot = Frame(frame.left + label, frame.top + 40, frame.width - label - _NUMBERS, frame.row)
    span = shared_span(sketch.layers)
    rows = _rows(sketch, estimate, chosen, span, plot.width)
    _title(pen, frame, sketch, len(rows))
    _axis(pen, plot, span, len(rows))
    for i, row in enumerate(rows):
        _numbers(pen, frame, plot, i, row, label)
    _distributions(pen, plot, [row.picture for row in rows])
    _threshold(pen, plot, rows)


def _rows(sketch: Sketch, estimate: Estimate, chosen: Sequence[int], span: float, pixels: float) -> list[Row]:
    plans = sketch.plans(estimate.recipe)
    fates = survivals(sketch.layers, plans, estimate.recipe)
    rows = []
    for i in chosen:
        layer, plan, figures = sketch.layers[i], plans[i], estimate.layers[i]
        rows.append(Row(layer, plan, figures, picture_of(layer, plan, fates[i], figures, span, pixels)))
    return rows


def _title(pen: Pen, frame: Frame, sketch: Sketch, rows: int) -> None:
    number = f"THE {rows} LARGEST OF {len(sketch.layers)} LAYERS" if rows < len(sketch.layers) else "LAYERS"
    width = pen.text(frame.left, frame.top + 6, number, size=10.5, bold=True, colour=MUTED)
    legend = "original outlined · effective weights filled · pruned hatched"
    pen.text(frame.left + width + 10, frame.top + 6, legend, size=10.5, colour=MUTED)
    right = frame.left + frame.width - _NUMBERS
    for heading, width in _COLUMNS:
        right += width
        pen.text(right, frame.top + 28, heading, size=10, colour=MUTED, align="right")


def _axis(pen: Pen, plot: Frame, span: float, rows: int) -> None:
    """Draw fine guides, the rows' base lines, and the values under the last."""
    bottom = plot.top + rows * plot.row
    ticks = mirrored_ticks(span, 3)
    places = [plot.left + plot.width * (tick / span + 1) / 2 for tick in ticks]
    pen.lines([np.array([[x, plot.top], [x, bottom]]) for x in places], FAINT)
    right = plot.left + plot.width
    bases = [np.array([[plot.left, y], [right, y]]) for y in plot.top + plot.row * np.arange(1, rows + 1)]
    pen.lines(bases, LINE)
    for x, tick in zip(places, ticks, strict=True):
        pen.text(x, bottom + 14, weight_text(tick), size=10, colour=MUTED, align="center")


def _numbers(pen: Pen, frame: Frame, plot: Frame, index: int, row: Row, label: float) -> None:
    y = plot.top + (index + 0.64) * plot.row
    pen.text(frame.left, y, pen.fitted(row.layer.label, label - 14))
    pruned = "kept" if row.plan.keep else share_text(row.figures.sparsity)
    bits = "–" if row.plan.keep else str(row.plan.bits)
    right = frame.left + frame.width - _NUMBERS
    for (heading, width), text in zip(
        _COLUMNS, (f"{row.layer.n:,}", pruned, bits, bytes_text(row.figures.nbytes)), strict=True
    ):
        right += width
        pen.text(right, y, text, colour=MUTED if heading == "weights" else INK, align="right")


def _distributions(pen: Pen, plot: Frame, pictures: Sequence[Picture]) -> None:
    placed = [_Placed(plot, i, picture) for i, picture in enumerate(pictures)]
    pen.hatch([shape for p in placed for shape in p.pruned()], HATCH)
    left, top, wide, base = (np.concatenate(x) for x in zip(*(p.bars() for p in placed), strict=True))
    pen.rectangles(left, top, wide, base, KEPT)
    pen.lines([p.outline() for p in placed], OUTLINE, 0.9)
    pen.lines([tick for p in placed for tick in p.ticks()], GRID, 1.0)


def _threshold(pen: Pen, plot: Frame, rows: Sequence[Row]) -> None:
    """Draw the ends of the pruned bands; of one threshold for all layers say the value."""
    dashes = []
    for i, row in enumerate(rows):
        reach = row.picture.threshold / row.picture.span
        if 0 < reach < 1:
            top = plot.top + i * plot.row
            middle = plot.left + plot.width / 2
            half = reach * plot.width / 2
            dashes += [np.array([[x, top], [x, top + plot.row]]) for x in (middle - half, middle + half)]
    pen.lines(dashes, GRID, 1.1, (0, (1.6, 2.0)))
    ranked = [row.picture for row in rows if row.plan.ranked and row.picture.threshold > 0]
    if ranked and ranked[0].threshold < ranked[0].span:
        text = f"pruned within ±{weight_text(ranked[0].threshold)}"
        pen.text(plot.left + plot.width / 2, plot.top - 12, text, size=10, colour=GRID, align="center")


class _Placed:
    """A picture in its row: from weights and counts to pixels."""

    def __init__(self, plot: Frame, index: int, picture: Picture) -> None:
        self.picture = picture
        self.base = plot.top + (index + 1) * plot.row
        self._height = plot.row - 2
        self._middle = plot.left + plot.width / 2
        self._unit = plot.width / 2 / picture.span

    def x(self, value: Floats) -> Floats:
        return self._middle + value * self._unit

    def y(self, count: Floats) -> Floats:
        return self.base - np.minimum(count / self.picture.top, 1.0) * self._height

    def outline(self) -> Floats:
        return self._trace(self.picture.outline)

    def _trace(self, counts: Floats) -> Floats:
        edges = self.picture.edges
        x = np.concatenate([edges[:1], (edges[:-1] + edges[1:]) / 2, edges[-1:]])
        return np.stack([self.x(x), self.y(np.concatenate([counts[:1], counts, counts[-1:]]))], axis=1)

    def pruned(self) -> list[Floats]:
        """Return the shape between what was and what is left, or the whole band within the threshold."""
        t, trace = self.picture.threshold, self.outline()
        if t <= 0:
            gone = (self.picture.outline - self.picture.left).sum() > 1e-6 * self.picture.outline.sum()
            return [np.concatenate([trace, self._trace(self.picture.left)[::-1]])] if gone else []
        left, right = self.x(np.array([-t, t]))
        x = np.concatenate([[left], trace[(trace[:, 0] > left) & (trace[:, 0] < right), 0], [right]])
        x = np.clip(x, trace[0, 0], trace[-1, 0])
        top = np.stack([x, np.interp(x, trace[:, 0], trace[:, 1])], axis=1)
        return [np.concatenate([[[x[0], self.base]], top, [[x[-1], self.base]]])]

    def bars(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return left, top, width and bottom of the bars that are not empty; levels far apart are drawn thin."""
        bars = self.picture.bars
        left, right = self.x(bars.edges[:-1]), self.x(bars.edges[1:])
        if len(bars.levels):
            apart = right - left > _LEVEL_PIXELS
            half = np.clip(0.15 * (right - left), 1.0, 3.0)
            left = np.where(apart, self.x(bars.levels) - half, left)
            right = np.where(apart, self.x(bars.levels) + half, right)
        left, right = (np.clip(x, *self.x(self.picture.span * np.array([-1, 1]))) for x in (left, right))
        seen = (bars.height > 0) & (right > left)
        top = np.minimum(self.y(bars.height), self.base - 0.7)
        return left[seen], top[seen], (right - left)[seen], np.full(int(seen.sum()), self.base)

    def ticks(self) -> list[Floats]:
        """Return short lines under the base for grid levels, left out where they would run into each other."""
        levels = self.picture.bars.levels
        x = self.x(levels[np.abs(levels) <= self.picture.span])
        if len(x) > 1 and np.diff(x).min() < 2.5:
            return []
        return [np.array([[at, self.base], [at, self.base + 3]]) for at in x]
