"""The figure of everything on one page: distributions, size, outline, trade-off, and what else is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..recipe_and_method_registry import Recipe
from .canvas import INK, MUTED
from .distributions_figure import Distributions, layer_table
from .figure_base_and_registry import TITLE, Area, Chart, charts_of, drawn, kind_named, model_figure_kind
from .figure_tables import Table
from .fit_and_place_labels import wrap
from .model_figure_inputs import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .page_size_and_style import MM, TEXT, Page, page_of
from .silhouette_figure import Silhouette
from .size_figure import SizeByPart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP: Final = 26.0
_WIDE: Final = 560.0
"""Pixels from which the charts stand in two columns."""
_COLUMNS: Final = 680.0
"""Pixels that two columns would like to have; no text gets smaller than `_SMALLEST` points for them."""
_SMALLEST: Final = 6.0
_LINE: Final = 15.0
_STRETCH: Final = 0.7
"""Part of their height that distributions may grow by."""


@model_figure_kind
def summary(
    model: ModelLike,
    recipe: Recipe | float | None = None,
    *,
    estimate: Estimate | None = None,
    order: Sequence[int] = (),
    tradeoff: object = None,
    sensitivity: object = None,
    training: object = None,
    classes: object = None,
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw one page of all: the weights of the layers, the size, the outline, and the charts of what else is given.

    >>> import shrinkwidget as sw
    >>> model, valid = sw.demo.model(), sw.demo.data("valid")
    >>> small = sw.compress(model, sparsity=0.8, bits=4)
    >>> found = sw.compare_predictions(model, small, valid)
    >>> figure = sw.figures.summary(model, estimate=small.estimate, classes=found, width="a4-thesis")

    Args:
        model: a `Sketch`, an explorer, or what a sketch is made of.
        recipe: a `Recipe`, or a number: the sparsity.
        estimate: exact figures, where they are known; by default those of the sketch.
        order: the layers' indices in the order of the forward pass.
        tradeoff, sensitivity, training, classes: what the figures of these names take first; an explorer brings the
            trade-off of its history.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.
    """
    subject = subject_of(model, recipe, given, estimate, order)
    if tradeoff is None and len(getattr(model, "history", ())) > 1:
        tradeoff = model
    more = {"tradeoff": tradeoff, "sensitivity": sensitivity, "training": training, "classes": classes}
    charts: list[Chart] = [
        Distributions(subject, tuple(subject.chosen(None)), numbers=None),
        SizeByPart(subject.estimate, subject),
        Silhouette(subject),
    ]
    for kind, data in more.items():
        if data is not None:
            charts += charts_of(kind_named(kind)(data))
    options = page_options(given)
    if "size" not in options:  # two columns want smaller text than one
        page = page_of(options)
        options["size"] = max(min(page.size, page.width * MM / _COLUMNS * TEXT), min(page.size, _SMALLEST))
    return drawn(Summary(subject, tuple(charts)), ax, options)


@dataclass(frozen=True, eq=False)
class Summary(Chart):
    """Charts on one page."""

    kind: ClassVar[str] = "summary"
    subject: Subject
    charts: tuple[Chart, ...]

    def height(self, page: Page) -> float:
        """Return the height of the higher column."""
        return self._head(page, page.pixels - 8) + max(self._column_heights(page, page.pixels - 8)) + 8

    def least(self, page: Page) -> float:
        """Return the height: no chart gives way to another."""
        return self.height(page)

    def _columns(self, width: float) -> tuple[float, list[list[Chart]]]:
        """Return the width of a column, and which charts stand in each: the distributions left, all else right."""
        if width < _WIDE:
            return width, [list(self.charts)]
        return (width - _GAP) / 2, [[self.charts[0]], list(self.charts[1:])]

    def _column_heights(self, page: Page, width: float) -> list[float]:
        column, columns = self._placed(page, width)
        return [sum(self._height(chart, page, column) + _GAP + TITLE for chart in charts) - _GAP for charts in columns]

    def _placed(self, page: Page, width: float) -> tuple[float, list[list[Chart]]]:
        """Return the columns with the last charts of the longer one moved to the other while that evens them out."""
        column, columns = self._columns(width)
        if len(columns) == 1:
            return column, columns
        left, right = columns

        def high(charts: Sequence[Chart]) -> float:
            return sum(self._height(chart, page, column) + _GAP + TITLE for chart in charts)

        while len(right) > 1 and max(high([*left, right[-1]]), high(right[:-1])) < max(high(left), high(right)):
            left.append(right.pop())
        return column, [left, right]

    @staticmethod
    def _height(chart: Chart, page: Page, width: float) -> float:
        return chart.height(page.narrowed(width))

    def _head(self, page: Page, width: float) -> float:
        return 24 + _LINE * len(self._sentence(page, width)) + 10

    def _sentence(self, page: Page, width: float) -> list[str]:
        return wrap(self.subject.sentence().split(", "), width, page.measure, between=", ")

    def draw(self, area: Area) -> None:
        """Draw the model's name, what the recipe makes of it, and the charts with their titles."""
        page, head = area.page, self._head(area.page, area.width)
        canvas = area.canvas(0, 0, area.width, head)
        canvas.text(
            0, 8, page.fitted(page.shown(self.subject.sketch.title), area.width, 15, bold=True), size=15, bold=True
        )
        for i, line in enumerate(self._sentence(page, area.width)):
            canvas.text(0, 28 + _LINE * i, line, color=MUTED)
        column, columns = self._placed(page, area.width)
        whole = max(self._column_heights(page, area.width))
        # a greater height of the user's is shared out in proportion
        scale = max(1.0, (area.height - head) / whole)
        for i, charts in enumerate(columns):
            x, y = i * (column + _GAP), head
            # the rows of distributions take what their column leaves free, up to a limit
            free = (whole - self._column_heights(page, area.width)[i]) * scale
            for chart in charts:
                high = self._height(chart, page, column) * scale
                if isinstance(chart, Distributions):
                    high += min(free, _STRETCH * high)
                sheet = area.canvas(x, y, column, TITLE)
                sheet.text(0, 7, chart.kind.capitalize(), bold=True, color=INK)
                chart.draw(area.part(x, y + TITLE, column, high))
                y += TITLE + high + _GAP * scale

    def caption(self) -> str:
        """Say what the page is of."""
        shown = ", ".join(chart.kind for chart in self.charts)
        return f"{self.subject.sketch.title} under one recipe: {shown}. {self.subject.sentence()}."

    def table(self) -> Table:
        """Return a row for every layer."""
        return layer_table(self.subject, self.subject.order)

    def facts(self) -> dict[str, Any]:
        """Return the model and the recipe, and what the parts say."""
        parts = [{"kind": chart.kind, **chart.facts()} for chart in self.charts[3:]]
        return {**self.subject.facts(), "parts": parts}
