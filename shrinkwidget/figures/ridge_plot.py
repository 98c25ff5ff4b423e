"""The ridge of snapshots and figures: a row for each layer, original outlined, effective filled, the pruned hatched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate, LayerEstimate
from ..analysis.pruning_estimate import survivals
from ..analysis.quantization_group_histograms import Floats
from ..analysis.sketch import LayerSketch, Sketch, narrowed_to
from ..recipe_and_method_registry import Plan
from .canvas import FAINT, GRID, HATCH, INK, KEPT, LINE, MUTED, OUTLINE, PAPER, PRUNED, Canvas
from .distribution_geometry import DistributionPlot, distribution_plot, shared_span
from .numbers_and_recipes_as_text import bytes_text, estimated_text, share_text, weight_text
from .ticks_and_size_marks import axis_ticks

MOST_ROWS: Final = 24
_TICK_GAP: Final = 2.5
"""Least distance of grid levels that get a tick each, in pixels."""
TICKED: Final = 10.0
"""Pixels of the lowest rows under which the ticks of levels do not run into the next row."""
_COLUMNS: Final = (("weights", 72), ("pruned", 62), ("bits", 36), ("size", 72))
_NUMBERS: Final = sum(width for _, width in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the ridge stands: left, top and width in pixels, and the height of a row."""

    left: float
    top: float
    width: float
    row: float

    def rows(self, number: int) -> list[Frame]:
        """Return so many rows, one below the other, each as a frame of one."""
        return [replace(self, top=self.top + i * self.row) for i in range(number)]


@dataclass(frozen=True, slots=True)
class Row:
    """One drawn layer: what is known of it, what the recipe asks, what comes out, and its picture."""

    layer: LayerSketch
    plan: Plan
    figures: LayerEstimate
    picture: DistributionPlot


def chosen_layers(sketch: Sketch, order: Sequence[int]) -> list[int]:
    """Return the indices of the layers that are drawn, in this order: all, or the largest if there are too many."""
    # More than 24 rows are too low to read; the largest layers are where the bytes are.
    largest = sorted(order, key=lambda i: -sketch.layers[i].n)[:MOST_ROWS]
    return [i for i in order if i in largest]


def draw_ridge(canvas: Canvas, frame: Frame, sketch: Sketch, estimate: Estimate, order: Sequence[int]) -> None:
    """Draw the chosen layers with their figures, an axis below them and a title above."""
    chosen = chosen_layers(sketch, order)
    names = [sketch.layers[i].label for i in chosen]
    label = min(max(canvas.measure(name) for name in names) + 14, 0.3 * frame.width)
    plot = Frame(frame.left + label, frame.top + 40, frame.width - label - _NUMBERS, frame.row)
    span = shared_span(sketch.layers)
    rows = layer_rows(sketch, estimate, chosen, span, plot.width)
    _title(canvas, frame, sketch, len(rows), gone_word(estimate))
    _axis(canvas, plot, span, len(rows))
    for i, row in enumerate(rows):
        _numbers(canvas, frame, plot, i, row, label, estimate.exact)
    draw_distributions(canvas, plot.rows(len(rows)), [row.picture for row in rows])
    if (ranked := global_threshold(sketch, estimate)) > 0:
        text = f"pruned within ±{weight_text(ranked)}"
        canvas.text(plot.left + plot.width / 2, plot.top - 12, text, size=10, color=GRID, align="center")


def layer_rows(
    sketch: Sketch, estimate: Estimate, chosen: Sequence[int], span: float | None, pixels: float
) -> list[Row]:
    """Return the chosen layers as rows on an axis from −span to span, `pixels` wide; None: each on its own."""
    plans = sketch.plans(estimate.recipe)
    now = narrowed_to(sketch, [left for _, left in estimate.widths.values()]) if estimate.widths else sketch
    fates = survivals(now.layers, plans, estimate.recipe)
    rows = []
    for i in chosen:
        layer, figures = sketch.layers[i], estimate.layers[i]
        own = shared_span([layer]) if span is None else span
        picture = distribution_plot(layer, plans[i], fates[i], figures, own, pixels, now.layers[i])
        rows.append(Row(now.layers[i], plans[i], figures, picture))
    return rows


def gone_word(estimate: Estimate) -> str:
    """Return what the hatched part of a histogram is: what goes with a channel is missing from it, too."""
    return "pruned, or gone with channels" if estimate.recipe.removes_channels else "pruned"


def global_threshold(sketch: Sketch, estimate: Estimate) -> float:
    """Return the threshold below which the weights of all layers ranked together are pruned; 0 if there is none."""
    plans = sketch.plans(estimate.recipe)
    return next((e.threshold for e, p in zip(estimate.layers, plans, strict=True) if p.scope == "global"), 0.0)


def _title(canvas: Canvas, frame: Frame, sketch: Sketch, rows: int, gone: str) -> None:
    number = f"THE {rows} LARGEST OF {len(sketch.layers)} LAYERS" if rows < len(sketch.layers) else "LAYERS"
    width = canvas.text(frame.left, frame.top + 6, number, size=10.5, bold=True, color=MUTED)
    hatched = f"{gone}, hatched" if "," in gone else f"{gone} hatched"
    legend = f"original outlined · effective weights filled · {hatched}"
    legend = canvas.fitted(legend, frame.width - width - 10, size=10.5)
    canvas.text(frame.left + width + 10, frame.top + 6, legend, size=10.5, color=MUTED)
    right = frame.left + frame.width - _NUMBERS
    for heading, width in _COLUMNS:
        right += width
        canvas.text(right, frame.top + 28, heading, size=10, color=MUTED, align="right")


def _axis(canvas: Canvas, plot: Frame, span: float, rows: int) -> None:
    """Draw fine guides, the rows' base lines, and the values under the last."""
    bottom = plot.top + rows * plot.row
    ticks = axis_ticks(span, plot.width)
    places = [plot.left + plot.width * (tick / span + 1) / 2 for tick in ticks]
    canvas.lines([np.array([[x, plot.top], [x, bottom]]) for x in places], FAINT)
    right = plot.left + plot.width
    bases = [np.array([[plot.left, y], [right, y]]) for y in plot.top + plot.row * np.arange(1, rows + 1)]
    canvas.lines(bases, LINE)
    for x, tick in zip(places, ticks, strict=True):
        canvas.text(x, bottom + 14, weight_text(tick), size=10, color=MUTED, align="center")
    canvas.text(right + _NUMBERS, bottom + 14, "weight value", size=10, color=MUTED, align="right")


def _numbers(canvas: Canvas, frame: Frame, plot: Frame, index: int, row: Row, label: float, exact: bool) -> None:
    y = plot.top + (index + 0.64) * plot.row
    canvas.text(frame.left, y, canvas.fitted(row.layer.label, label - 14))
    keep = row.plan.keep
    pruned = "keep" if keep else estimated_text(exact, share_text(row.figures.sparsity))
    size = estimated_text(exact or keep, bytes_text(row.figures.nbytes))
    right = frame.left + frame.width - _NUMBERS
    bits = "–" if keep else str(min(row.plan.bits, 8 * row.layer.itemsize))  # half precision has no 32 to hold
    for (heading, width), text in zip(_COLUMNS, (f"{row.layer.n:,}", pruned, bits, size), strict=True):
        right += width
        canvas.text(right, y, text, color=MUTED if heading == "weights" else INK, align="right")


def draw_distributions(canvas: Canvas, frames: Sequence[Frame], pictures: Sequence[DistributionPlot]) -> None:
    """Draw pictures, each into its frame: pruned band, bars of effective weights, outline, levels, threshold."""
    # Kind by kind over all rows, not row by row: each kind is then one matplotlib artist, which is what drawing time
    # depends on.
    placed = [_Placed(frame, picture) for frame, picture in zip(frames, pictures, strict=True)]
    pruned = [shape for p in placed for shape in p.pruned()]
    if canvas.page.style.hatch:
        canvas.hatch(pruned, HATCH)
    else:
        canvas.fill(pruned, PRUNED)
    left, top, wide, base = (np.concatenate(x) for x in zip(*(p.bars() for p in placed), strict=True))
    canvas.rectangles(left, top, wide, base, KEPT)
    canvas.lines([p.outline() for p in placed], OUTLINE, 0.9)
    if min(frame.row for frame in frames) >= TICKED:
        canvas.lines([cut for p in placed for cut in p.clipped()], PAPER, 1.5)
        canvas.lines([tick for p in placed for tick in p.ticks()], GRID, 1.0)
    canvas.lines([end for p in placed for end in p.threshold()], GRID, 1.1, (0, (1.6, 2.0)))


class _Placed:
    """A picture in its frame: from weights and counts to pixels."""

    def __init__(self, frame: Frame, picture: DistributionPlot) -> None:
        self.picture = picture
        self.base = frame.top + frame.row
        self._height = frame.row - 2
        self._middle = frame.left + frame.width / 2
        self._half = frame.width / 2
        self._unit = self._half / picture.span

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
        """Return left, top, width and bottom of the bars that are not empty."""
        bars = self.picture.bars
        pixels = bars.width * self._unit
        width = max(2.0 if bars.one_level_each else 1.0, pixels - 1 if pixels > 3 else pixels)
        middle, (start, end) = self.x(bars.at), self.x(self.picture.span * np.array([-1, 1]))
        left, right = np.clip(middle - width / 2, start, end), np.clip(middle + width / 2, start, end)
        seen = (bars.height > 0) & (right > left)
        top = np.minimum(self.y(bars.height), self.base - 0.75)
        return left[seen], top[seen], (right - left)[seen], np.full(int(seen.sum()), self.base)

    def threshold(self) -> list[Floats]:
        """Return the ends of the pruned band, upright, where a threshold decides and lies on the axis."""
        t = self.picture.threshold
        if not 0 < t <= self.picture.span:
            return []
        return [np.array([[x, self.base - self._height - 2], [x, self.base]]) for x in self.x(np.array([-t, t]))]

    def clipped(self) -> list[Floats]:
        """Return small gaps near the top, which say that a spike goes on above."""
        picture, top = self.picture, self.base - self._height
        edges = picture.edges
        bins = ((edges[:-1] + edges[1:]) / 2)[picture.outline > picture.top]
        at = self.x(np.concatenate([bins, picture.bars.at[picture.bars.height > picture.top]]))
        return [np.array([[x - 4, top + 6], [x + 4, top + 3]]) for x in at if abs(x - self._middle) <= self._half]

    def ticks(self) -> list[Floats]:
        """Return short lines under the base for grid levels, left out where they would run into each other."""
        levels, last, kept = self.picture.levels, -np.inf, []
        for at in self.x(levels[np.abs(levels) <= self.picture.span]):
            if at - last >= _TICK_GAP:
                kept.append(np.array([[at, self.base], [at, self.base + 3]]))
                last = at
        return kept
