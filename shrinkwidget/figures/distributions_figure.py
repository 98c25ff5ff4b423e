"""The figure of weight distributions: a row for each layer, before, after, the threshold, the levels of the grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..analysis.estimate import Estimate
from ..recipe import Recipe
from .canvas import FAINT, GRID, HATCH, INK, KEPT, LINE, MUTED, OUTLINE, PRUNED, Canvas
from .chart import Area, Chart, drawn, model_figure_kind
from .distribution_plot import shared_span
from .formatting import bytes_text, decibels_text, estimated_text, share_text, weight_text
from .label_placement import thin
from .model_and_recipe import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .page import Page
from .ridge_plot import TICKED, Frame, Row, draw_distributions, draw_thresholds, global_threshold, layer_rows
from .tables import Table
from .ticks import axis_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 26.0
_COLUMNS: Final = (("pruned", 54.0), ("bits", 32.0), ("size", 66.0))
_ABOVE, _BELOW = 30.0, 38.0
"""Pixels above the rows, for the key and the headings, and below them, for the axis."""


@model_figure_kind
def distributions(
    model: ModelLike,
    recipe: Recipe | float | None = None,
    *,
    show: Sequence[str] | int | None = None,
    estimate: Estimate | None = None,
    order: Sequence[int] = (),
    numbers: bool | None = None,
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw how the weights of layers are distributed, and what a recipe makes of them.

    Every row has the same axis and a height of its own, so that its shape can be seen.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.distributions(sw.demo.model(), sparsity=0.9, bits=4, show=["stem", "stage1.*"])

    Args:
        model: a `Sketch`, an explorer, or what a sketch is made of.
        recipe: a `Recipe`, or a number: the sparsity.
        show: names of layers or wildcards, or how many of the largest; by default at most 24.
        estimate: exact figures, where they are known; by default those of the sketch.
        order: the layers' indices in the order of the forward pass.
        numbers: whether what is pruned, bits and bytes stand beside the rows; by default where there is room.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.

    Raises:
        FigureError: for a layer that there is not.
    """
    subject = subject_of(model, recipe, given, estimate, order)
    return drawn(Distributions(subject, tuple(subject.chosen(show)), numbers), ax, page_options(given))


@dataclass(frozen=True, eq=False)
class Distributions(Chart):
    """Rows of distributions."""

    kind: ClassVar[str] = "distributions"
    subject: Subject
    chosen: tuple[int, ...]
    numbers: bool | None

    def height(self, page: Page) -> float:  # noqa: ARG002
        """Return the height of all rows, which get lower where they would not fit on a page."""
        return _ABOVE + _BELOW + _ROW * len(self.chosen) + 8

    def least(self, page: Page) -> float:  # noqa: ARG002
        """Return the height of rows that can just be told apart."""
        return _ABOVE + _BELOW + 2 * len(self.chosen) + 8

    def draw(self, area: Area) -> None:
        """Draw the key, the rows with their names and numbers, and the axis below them."""
        canvas, sketch, estimate = area.canvas(), self.subject.sketch, self.subject.estimate
        names = [area.page.label(sketch.layers[i].name) for i in self.chosen]
        label = min(max(canvas.measure(name) for name in names) + 10, 0.3 * canvas.width)
        columns = sum(width for _, width in _COLUMNS)
        beside = self.numbers if self.numbers is not None else canvas.width - label - columns > 0.5 * canvas.width
        right = columns if beside else 4.0
        row = (canvas.height - _ABOVE - _BELOW) / len(self.chosen)
        plot = Frame(label, _ABOVE, canvas.width - label - right, row)
        rows = layer_rows(sketch, estimate, self.chosen, shared_span(sketch.layers), plot.width)
        self._axis(canvas, plot, rows)
        draw_distributions(canvas, plot, [one.picture for one in rows])
        draw_thresholds(canvas, plot, [one.picture for one in rows])
        named = thin([(plot.top + (i + 0.5) * row, 10.0) for i in range(len(rows))], gap=1.0)
        for i in named:
            y = plot.top + (i + 0.5) * row + min(0.16 * row, 5)
            canvas.text(0, y, canvas.fitted(names[i], label - 8), color=INK)
            if beside:
                self._numbers(canvas, plot, y, rows[i])
        if beside:
            self._headings(canvas, plot)
        draw_key(
            canvas,
            0,
            8,
            canvas.width,
            pruned=estimate.sparsity > 0,
            levels=row >= TICKED and any(len(r.picture.levels) for r in rows),
        )

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

    @staticmethod
    def _headings(canvas: Canvas, plot: Frame) -> None:
        right = plot.left + plot.width
        for heading, width in _COLUMNS:
            right += width
            canvas.text(right, plot.top - 6, heading, size=10, color=MUTED, align="right")

    def _numbers(self, canvas: Canvas, plot: Frame, y: float, row: Row) -> None:
        keep, exact = row.plan.keep, self.subject.estimate.exact
        pruned = "keep" if keep else estimated_text(exact, share_text(row.figures.sparsity))
        size = estimated_text(exact or keep, bytes_text(row.figures.nbytes))
        right = plot.left + plot.width
        for (_, width), text in zip(_COLUMNS, (pruned, "–" if keep else str(row.plan.bits), size), strict=True):
            right += width
            canvas.text(right, y, text, size=10.5, align="right")

    def caption(self) -> str:
        """Say what is drawn, and what the recipe comes to."""
        subject = self.subject
        number = len(subject.sketch.layers)
        of = f"the {len(self.chosen)} largest" if len(self.chosen) < number else f"all {number}"
        threshold = global_threshold(subject.sketch, subject.estimate)
        cut = f" Dotted: the threshold, ±{weight_text(threshold)}." if threshold > 0 else ""
        return (
            f"Weights of {subject.sketch.title}, {of} of {number} layers: outlined as they were, filled as the network "
            f"computes with them, shaded what is pruned; each row has a height of its own.{cut} {subject.sentence()}."
        ).replace(f"all {number} of {number}", f"all {number}")

    def table(self) -> Table:
        """Return a row for every layer drawn."""
        return layer_table(self.subject, self.chosen)

    def facts(self) -> dict[str, Any]:
        """Return the model, the recipe, and the layers."""
        return {**self.subject.facts(), "layers": [self.subject.sketch.layers[i].name for i in self.chosen]}


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
                "SQNR": (e.sqnr if math.isfinite(e.sqnr) else None, estimated_text(exact, decibels_text(e.sqnr))),
            }
        )
    return Table.of(rows)


def draw_key(canvas: Canvas, x: float, y: float, room: float, *, pruned: bool, levels: bool) -> None:
    """Say what outline, fill, shade and ticks mean, in one line."""
    entries = [("original", "outline"), ("effective", "fill")]
    entries += [("pruned", "pruned")] if pruned else []
    entries += [("levels", "levels")] if levels else []
    for text, mark in entries:
        wide = canvas.measure(text, size=10)
        if x + 19 + wide > room:
            return
        box = np.array([[x, y - 4], [x + 13, y - 4], [x + 13, y + 4], [x, y + 4]])
        if mark == "outline":
            bump = np.array([[x, y + 4], [x + 3, y + 3], [x + 6.5, y - 4.5], [x + 10, y + 3], [x + 13, y + 4]])
            canvas.lines([bump], OUTLINE, 0.9)
        elif mark == "fill":
            canvas.fill([box], KEPT)
        elif mark == "pruned" and canvas.page.style.hatch:
            canvas.hatch([box], HATCH)
        elif mark == "pruned":
            canvas.fill([box], PRUNED)
        else:
            canvas.lines([np.array([[at, y - 3], [at, y + 3]]) for at in (x + 2, x + 6.5, x + 11)], GRID, 1.0)
        x += 18 + canvas.text(x + 18, y, text, size=10) + 14
