"""The figure of weight distributions: before, after, threshold, levels, as a ridge or as small multiples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.quantization_group_histograms import Floats
from ..argument_checks import meant
from ..errors import FigureError, quoted
from ..recipe_and_method_registry import Recipe
from .canvas import FAINT, GRID, HATCH, INK, KEPT, LINE, MUTED, OUTLINE, PRUNED, Canvas
from .distribution_geometry import DistributionPlot, shared_span
from .figure_base_and_registry import Area, Chart, drawn, model_figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .legend import LEGEND_LINE, draw_legend, legend_height
from .model_figure_inputs import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .numbers_and_recipes_as_text import bytes_text, estimated_decibels_text, estimated_text, share_text, weight_text
from .page_size_and_style import Page
from .ridge_plot import TICKED, Frame, Row, draw_distributions, global_threshold, gone_word, layer_rows
from .ticks_and_size_marks import axis_ticks, mirrored_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 26.0
_COLUMNS: Final = (("pruned", 54.0), ("bits", 32.0), ("size", 66.0))
_ABOVE, _BELOW = 30.0, 38.0
"""Pixels above the rows, for the key and the headings, and below them, for the axis."""

ARRANGEMENTS: Final = ("ridge", "small_multiples")
_CELL, _CELL_HIGH = 118.0, 74.0
"""Pixels that a small multiple would like to have, with its name above it."""
_CELL_GAP: Final = 14.0
_WIDE_CELL: Final = 1.9
"""How many times as wide as high one is that has to be smaller than that."""
_NAME: Final = 16.0
_NAMED_FROM: Final = 34.0
"""Pixels of the narrowest small multiple over which a name still says something."""
_AXES: Final = 35.0
"""Pixels below all small multiples, for the axis they share."""
_OWN_AXIS: Final = 18.0
"""Pixels below each of them, for an axis of its own."""


@model_figure_kind
def distributions(
    model: ModelLike,
    recipe: Recipe | float | None = None,
    *,
    show: Sequence[str] | int | None = None,
    arrangement: str = "ridge",
    sharex: bool = True,
    estimate: Estimate | None = None,
    order: Sequence[int] = (),
    numbers: bool | None = None,
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw how the weights of layers are distributed, and what a recipe makes of them.

    Every layer has a height of its own, so that its shape can be seen.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.distributions(sw.demo.model(), sparsity=0.9, bits=4, show=["stem", "stage1.*"])
    >>> figure = sw.figures.distributions(sw.demo.model(), 0.9, show=6, arrangement="small_multiples", sharex=False)

    Args:
        model: a `Sketch`, an explorer, or what a sketch is made of.
        recipe: a `Recipe`, or a number: the sparsity.
        show: names of layers or wildcards, or how many of the largest; by default at most 24.
        arrangement: ``"ridge"``, a row for each layer, or ``"small_multiples"``, a small chart for each.
        sharex: whether small multiples have the same axis, as the rows of a ridge do, or each its own.
        estimate: exact figures, where they are known; by default those of the sketch.
        order: the layers' indices in the order of the forward pass.
        numbers: whether what is pruned, bits and bytes stand beside the rows, or what is pruned beside the name of a
            small multiple; by default where there is room.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.

    Raises:
        FigureError: for a layer that there is not, an unknown arrangement, or a ridge with an axis for each layer.
    """
    how = meant(arrangement, ARRANGEMENTS)
    if how is None:
        raise FigureError(f"arrangement={quoted(arrangement)} must be 'ridge' or 'small_multiples'")
    if how == "ridge" and not sharex:
        raise FigureError("the rows of a ridge share their axis: for an axis each give arrangement='small_multiples'")
    subject = subject_of(model, recipe, given, estimate, order)
    chosen = tuple(subject.chosen(show))
    chart = (
        Distributions(subject, chosen, numbers)
        if how == "ridge"
        else SmallMultiples(subject, chosen, numbers, bool(sharex))
    )
    return drawn(chart, ax, page_options(given))


@dataclass(frozen=True, eq=False)
class Distributions(Chart):
    """Rows of distributions."""

    kind: ClassVar[str] = "distributions"
    subject: Subject
    chosen: tuple[int, ...]
    numbers: bool | None

    def height(self, page: Page) -> float:
        """Return the height of all rows, which get lower where they would not fit on a page."""
        return self._above(page, page.pixels - 8) + _BELOW + _ROW * len(self.chosen) + 8

    def least(self, page: Page) -> float:
        """Return the height of rows that can just be told apart."""
        return self._above(page, page.pixels - 8) + _BELOW + 2 * len(self.chosen) + 8

    def _above(self, page: Page, width: float) -> float:
        return _ABOVE - LEGEND_LINE + legend_height(page, key_words(self.subject.estimate), width)

    def draw(self, area: Area) -> None:
        """Draw the key, the rows with their names and numbers, and the axis below them."""
        canvas, sketch, estimate = area.canvas(), self.subject.sketch, self.subject.estimate
        names = [area.page.label(sketch.layers[i].name) for i in self.chosen]
        # names take 30 % of the width at most, and are cut beyond it
        label = min(max(canvas.measure(name) for name in names) + 10, max(0.3 * canvas.width, 60.0))
        columns = sum(width for _, width in _COLUMNS)
        beside = self.numbers if self.numbers is not None else canvas.width - label - columns > 0.5 * canvas.width
        right = columns if beside else 4.0
        above = self._above(area.page, canvas.width)
        row = (canvas.height - above - _BELOW) / len(self.chosen)
        plot = Frame(label, above, canvas.width - label - right, row)
        rows = layer_rows(sketch, estimate, self.chosen, shared_span(sketch.layers), plot.width)
        self._axis(canvas, plot, rows)
        draw_distributions(canvas, plot.rows(len(rows)), [one.picture for one in rows])
        size = min(11.0, max(8.0, 0.8 * row))
        named = thin([(plot.top + (i + 0.5) * row, size) for i in range(len(rows))], gap=1.5)
        for i in named:
            y = plot.top + (i + 0.5) * row + min(0.16 * row, 5)
            canvas.text(0, y, canvas.fitted(names[i], label - 8, size=size), size=size, color=INK)
            if beside:
                self._numbers(canvas, plot, y, rows[i], min(size, 10.5))
        at = plot.left + plot.width
        for heading, width in _COLUMNS if beside else ():
            at += width
            canvas.text(at, plot.top - 6, heading, size=10, color=MUTED, align="right")
        draw_key(canvas, 8, [one.picture for one in rows], estimate, ticked=row >= TICKED)

    def _axis(self, canvas: Canvas, plot: Frame, rows: Sequence[Row]) -> None:
        bottom, right = plot.top + plot.row * len(rows), plot.left + plot.width
        span = rows[0].picture.span
        ticks = axis_ticks(span, plot.width)
        places = [plot.left + plot.width * (tick / span + 1) / 2 for tick in ticks]
        if canvas.page.style.grid:
            canvas.lines([np.array([[x, plot.top], [x, bottom]]) for x in places], FAINT)
        bases = plot.top + plot.row * np.arange(1, len(rows) + 1)
        canvas.lines([np.array([[plot.left, y], [right, y]]) for y in bases], LINE, min(1.0, plot.row / 8))
        axis = bottom + 5  # below the ticks of the last row's levels
        canvas.line(plot.left, axis, right, axis, MUTED, width=0.8)
        canvas.lines([np.array([[x, axis], [x, axis + 3]]) for x in places], MUTED, 0.8)
        for x, tick in zip(places, ticks, strict=True):
            canvas.text(x, axis + 11, weight_text(tick), size=10, align="center")
        canvas.text(plot.left + plot.width / 2, axis + 25, "weight value", align="center")

    def _numbers(self, canvas: Canvas, plot: Frame, y: float, row: Row, high: float) -> None:
        keep, exact = row.plan.keep, self.subject.estimate.exact
        pruned = "keep" if keep else estimated_text(exact, share_text(row.figures.sparsity))
        size = estimated_text(exact or keep, bytes_text(row.figures.nbytes))
        right = plot.left + plot.width
        bits = "–" if keep else str(min(row.plan.bits, 8 * row.layer.itemsize))  # half precision has no 32 to hold
        for (_, width), text in zip(_COLUMNS, (pruned, bits, size), strict=True):
            right += width
            canvas.text(right, y, text, size=high, align="right")

    def caption(self) -> str:
        """Say what is drawn, and what the recipe comes to."""
        subject = self.subject
        number = len(subject.sketch.layers)
        of = f"the {len(self.chosen)} largest" if len(self.chosen) < number else f"all {number}"
        threshold = global_threshold(subject.sketch, subject.estimate)
        gone = gone_word(subject.estimate)
        cut = f" Dotted: the threshold, ±{weight_text(threshold)}." if threshold > 0 else ""
        return (
            f"Weights of {subject.sketch.title}, {of} of {number} layers: outlined as they were, filled as the network "
            f"computes with them, shaded what is {gone}; {self._axes_words()}.{cut} {subject.sentence()}."
        ).replace(f"all {number} of {number}", f"all {number}")

    def _axes_words(self) -> str:
        return "each row has a height of its own"

    def table(self) -> Table:
        """Return a row for every layer drawn."""
        return layer_table(self.subject, self.chosen)

    def facts(self) -> dict[str, Any]:
        """Return the model, the recipe, and the layers."""
        return {**self.subject.facts(), "layers": [self.subject.sketch.layers[i].name for i in self.chosen]}


@dataclass(frozen=True, eq=False)
class SmallMultiples(Distributions):
    """A small chart for each layer, in the model's order, line by line."""

    shared: bool = True

    def height(self, page: Page) -> float:
        """Return the height of all lines, in which the charts get smaller where they would not fit on a page."""
        columns = self._natural_columns(page.pixels - 8)
        lines = math.ceil(len(self.chosen) / columns)
        return (
            self._above(page, page.pixels - 8)
            + lines * (_CELL_HIGH + self._below)
            + (lines - 1) * _CELL_GAP / 2
            + self._last
            + 8
        )

    def least(self, page: Page) -> float:
        """Return the height in which every chart can just be seen."""
        columns = max(1, math.floor((page.pixels - 8) / 12))
        return self._above(page, page.pixels - 8) + 8 * math.ceil(len(self.chosen) / columns) + self._last + 8

    @property
    def _below(self) -> float:
        return 0.0 if self.shared else _OWN_AXIS

    @property
    def _last(self) -> float:
        return _AXES if self.shared else 20.0

    def _natural_columns(self, width: float) -> int:
        # as many as fit to a line, then as few as give the same number of lines, so that the last one is not left short
        most = max(1, math.floor((width + _CELL_GAP) / (_CELL + _CELL_GAP)))
        lines = math.ceil(len(self.chosen) / most)
        return math.ceil(len(self.chosen) / lines)

    def _columns(self, width: float, height: float) -> int:
        """Return how many charts stand beside each other: where they have to get smaller they keep their shape."""
        number, natural = len(self.chosen), self._natural_columns(width)
        lines = math.ceil(number / natural)
        if lines * (0.75 * _CELL_HIGH + self._below) <= height:
            return natural

        def shape(columns: int) -> float:
            return width / columns / (height / math.ceil(number / columns))

        # Ratios compare by their logarithms: twice as wide is as bad as half as wide.
        ideal = math.log(_WIDE_CELL)
        return min(range(natural, number + 1), key=lambda columns: abs(math.log(shape(columns)) - ideal))

    def draw(self, area: Area) -> None:
        """Draw the key, and the charts with their names and axes as far as there is room for them."""
        canvas, sketch = area.canvas(), self.subject.sketch
        top = self._above(area.page, canvas.width)
        free = canvas.height - top - self._last
        columns = self._columns(canvas.width, free)
        lines = math.ceil(len(self.chosen) / columns)
        gap = min(_CELL_GAP, 0.15 * canvas.width / columns)
        wide, high = (canvas.width - gap * (columns - 1)) / columns, free / lines
        named = wide >= _NAMED_FROM and high >= 30
        own_axes = not self.shared and wide >= 60 and high >= 54
        above, below = min(_NAME, 0.36 * high) if named else 2.0, _OWN_AXIS if own_axes else 0.0
        body = high - above - below - min(gap, 0.15 * high) / 2
        frames = [
            Frame(i % columns * (wide + gap), top - 8 + i // columns * high + above, wide, body)
            for i in range(len(self.chosen))
        ]
        span = shared_span(sketch.layers) if self.shared else None
        rows = layer_rows(sketch, self.subject.estimate, self.chosen, span, wide)
        bases = [np.array([[f.left, f.top + f.row], [f.left + wide, f.top + f.row]]) for f in frames]
        canvas.lines(bases, LINE, min(1.0, body / 8))
        draw_distributions(canvas, frames, [row.picture for row in rows])
        if named:
            self._names(canvas, frames, rows, above)
        # a shared axis stands below the lowest chart of every column
        below_these = frames if own_axes else frames[-columns:] if self.shared else []
        for frame, row in list(zip(frames, rows, strict=True))[len(frames) - len(below_these) :]:
            self._axis_below(canvas, frame, row.picture.span, gap / 2 - 2)
        draw_key(canvas, 8, [row.picture for row in rows], self.subject.estimate, ticked=body >= TICKED)
        if below_these:
            canvas.text(canvas.width / 2, canvas.height - 7, "weight value", align="center")

    def _names(self, canvas: Canvas, frames: Sequence[Frame], rows: Sequence[Row], above: float) -> None:
        """Write the layers' names over their charts, and what is pruned beside them where all have room for it."""
        size, wide = max(8.0, min(11.0, frames[0].width / 9, above - 2)), frames[0].width
        names, exact = [canvas.page.label(row.layer.name) for row in rows], self.subject.estimate.exact
        pruned = ["keep" if row.plan.keep else estimated_text(exact, share_text(row.figures.sparsity)) for row in rows]
        longest = max(map(partial(canvas.measure, size=size - 1), pruned)) + 8
        fits = max(map(partial(canvas.measure, size=size), names)) <= wide - longest
        beside = self.subject.estimate.sparsity > 0 and (fits if self.numbers is None else self.numbers)
        for frame, name, number in zip(frames, names, pruned, strict=True):
            y = frame.top - above / 2
            canvas.text(frame.left, y, canvas.fitted(name, wide - longest if beside else wide, size=size), size=size)
            if beside:
                canvas.text(frame.left + wide, y, number, size=size - 1, color=MUTED, align="right")

    @staticmethod
    def _axis_below(canvas: Canvas, frame: Frame, span: float, beside: float) -> None:
        """Draw an axis with as many values as have room below a chart, and `beside` pixels on either side of it."""
        y, size = frame.top + frame.row + 5, min(10.0, max(8.0, frame.width / 10))
        for per_side in (3, 2, 1, 0):
            ticks = mirrored_ticks(span, per_side) if per_side else [0.0]
            widths = [canvas.measure(weight_text(tick), size=size) for tick in ticks]
            places = [frame.left + frame.width * (tick / span + 1) / 2 for tick in ticks]
            first, last = max(frame.left - beside, 0.0), min(frame.left + frame.width + beside, canvas.width)
            at = [min(max(x, first + w / 2), last - w / 2) for x, w in zip(places, widths, strict=True)]
            if all(at[i] + widths[i] / 2 + 4 <= at[i + 1] - widths[i + 1] / 2 for i in range(len(at) - 1)):
                break
        canvas.line(frame.left, y, frame.left + frame.width, y, MUTED, width=0.8)
        canvas.lines([np.array([[x, y], [x, y + 3]]) for x in places], MUTED, 0.8)
        for x, tick in zip(at, ticks, strict=True):
            canvas.text(x, y + 10, weight_text(tick), size=size, align="center")

    def _axes_words(self) -> str:
        axes = "all have the same axis, and each a height of its own" if self.shared else "each has axes of its own"
        return f"in the model's order, line by line; {axes}"


def layer_table(subject: Subject, chosen: Sequence[int]) -> Table:
    """Return the numbers of layers."""
    exact, plans = subject.estimate.exact, subject.sketch.plans(subject.estimate.recipe)
    rows = []
    for i in chosen:
        e, plan = subject.estimate.layers[i], plans[i]
        rows.append(
            {
                "layer": (subject.sketch.layers[i].label, subject.sketch.layers[i].label),
                "weights": (e.n, f"{e.n:,}"),
                "kept": (e.kept, estimated_text(exact, f"{e.kept:,}")),
                "pruned": (e.sparsity, "keep" if plan.keep else estimated_text(exact, share_text(e.sparsity))),
                "bits": (None if plan.keep else plan.bits, "–" if plan.keep else str(plan.bits)),
                "bytes": (e.nbytes, estimated_text(exact or plan.keep, bytes_text(e.nbytes))),
                "SQNR": (e.sqnr if math.isfinite(e.sqnr) else None, estimated_decibels_text(exact, e.sqnr)),
            }
        )
    return Table.of(rows)


def key_words(estimate: Estimate) -> tuple[str, ...]:
    """Return what outline, fill, shade, dots and ticks are called."""
    return ("original", "effective", gone_word(estimate), "threshold", "levels")


def draw_key(
    canvas: Canvas, y: float, pictures: Sequence[DistributionPlot], estimate: Estimate, *, ticked: bool
) -> None:
    """Say what outline, fill, shade, dots and ticks mean, of what there is in the pictures."""

    def outline(x: float, y: float) -> None:
        bump = [[x, y + 4], [x + 3, y + 3], [x + 6.5, y - 4.5], [x + 10, y + 3], [x + 13, y + 4]]
        canvas.lines([np.array(bump)], OUTLINE, 0.9)

    def pruned(x: float, y: float) -> None:
        if canvas.page.style.hatch:
            canvas.hatch([_box(x, y)], HATCH)
        else:
            canvas.fill([_box(x, y)], PRUNED)

    def threshold(x: float, y: float) -> None:
        canvas.line(x + 6.5, y - 5, x + 6.5, y + 5, GRID, width=1.1, dashes=(0, (1.6, 2.0)))

    def levels(x: float, y: float) -> None:
        canvas.lines([np.array([[at, y - 3], [at, y + 3]]) for at in (x + 2, x + 6.5, x + 11)], GRID, 1.0)

    shown: list[tuple[bool, Callable[[float, float], None]]] = [
        (True, outline),
        (True, lambda x, y: canvas.fill([_box(x, y)], KEPT)),
        (any((p.outline - p.left).sum() > 1e-6 * p.outline.sum() for p in pictures), pruned),
        (any(0 < p.threshold <= p.span for p in pictures), threshold),
        (ticked and any(len(p.levels) for p in pictures), levels),
    ]
    entries = [(word, mark) for word, (there, mark) in zip(key_words(estimate), shown, strict=True) if there]
    draw_legend(canvas, y, canvas.width, entries)


def _box(x: float, y: float) -> Floats:
    return np.array([[x, y - 4], [x + 13, y - 4], [x + 13, y + 4], [x, y + 4]])
