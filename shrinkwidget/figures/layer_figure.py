"""The figure of one layer, large: before, after, threshold and levels, and its error against bits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.estimate_from_sketch import estimate as estimate_of
from ..errors import FigureError, ShrinkError, nearest, quoted
from ..recipe_and_method_registry import Recipe
from .canvas import FAINT, GRID, LINE, MUTED, Canvas
from .distributions_figure import draw_key, key_words, layer_table
from .figure_base_and_registry import Area, Chart, drawn, model_figure_kind
from .figure_tables import Table
from .legend import LEGEND_LINE, legend_height
from .line_chart import LineChart, line_chart, look_of, room_for
from .model_figure_inputs import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .numbers_and_recipes_as_text import (
    bytes_text,
    decibels_text,
    estimated_decibels_text,
    estimated_text,
    recipe_sentence,
    share_text,
    weight_text,
)
from .page_size_and_style import Page
from .ridge_plot import Frame, draw_distributions, gone_word, layer_rows
from .ticks_and_size_marks import axis_ticks, linear_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS: Final = (1, 2, 3, 4, 5, 6, 7, 8)
_HIGH: Final = 190.0
_ERROR: Final = 150.0
_TOP, _BOTTOM = 30.0, 40.0
_SHARE: Final = 0.62
"""Of the width, where the errors stand beside the distribution."""


@model_figure_kind
def layer(
    model: ModelLike,
    name: str,
    recipe: Recipe | float | None = None,
    *,
    estimate: Estimate | None = None,
    errors: bool = True,
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw one layer large: its weights before and after, the threshold, the levels, and its error against bits.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.layer(sw.demo.model(), "stage3.1.conv2", sparsity=0.5, bits=3, granularity="tensor")

    Args:
        model: a `Sketch`, an explorer, or what a sketch is made of.
        name: of the layer, with or without its ``.weight``.
        recipe: a `Recipe`, or a number: the sparsity.
        estimate: exact figures, where they are known; by default those of the sketch.
        errors: whether to draw the layer's error at 1 to 8 bits beside or below.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.

    Raises:
        FigureError: for a layer that there is not.
    """
    subject = subject_of(model, recipe, given, estimate)
    labels = [look.label for look in subject.sketch.layers]
    places = [i for i, look in enumerate(subject.sketch.layers) if name in (look.name, look.label)]
    if not places:
        hint = nearest(str(name), labels)
        raise FigureError(f"there is no layer {quoted(name)}{hint or '; sw.summary(model) lists them'}")
    found = _errors(subject, places[0]) if errors else ()
    return drawn(Layer(subject, places[0], found), ax, page_options(given))


def _errors(subject: Subject, index: int) -> tuple[tuple[int, float], ...]:
    """Return the layer's signal-to-noise ratio at each of the bits its quantizer has, all else as in the recipe."""
    recipe, look = subject.estimate.recipe, subject.sketch.layers[index]
    plan = subject.sketch.plans(recipe)[index]
    found = []
    for bits in (b for b in BITS if b in plan.quantizer.widths):
        own: dict[str, Any] = {"bits": bits}
        # the sparsity that it has now, wherever that comes from: under a global one it is not the recipe's
        if not plan.keep and plan.structure.sparsity is None:
            own["sparsity"] = subject.estimate.layers[index].sparsity
        there = recipe.layers.get(look.name)
        change = {**there, **own} if isinstance(there, dict) else own
        try:
            at = estimate_of(subject.sketch, recipe.with_(layers={**recipe.layers, look.name: change}))
        except ShrinkError:  # of a kind that a sketch cannot tell about: there is no curve
            return ()
        found.append((bits, at.layers[index].sqnr))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Layer(Chart):
    """One layer's distribution, and its errors, (bits, dB)."""

    kind: ClassVar[str] = "layer"
    subject: Subject
    index: int
    errors: tuple[tuple[int, float], ...]

    def height(self, page: Page) -> float:
        """Return the height of the distribution, and of the errors where they stand below it."""
        beside = self._beside(page.pixels - 8)
        above = (
            _TOP
            - LEGEND_LINE
            + legend_height(page, key_words(self.subject.estimate), (_SHARE if beside else 1) * (page.pixels - 8))
        )
        return above + _HIGH + _BOTTOM + (0 if beside or not self.errors else _ERROR + 14)

    @staticmethod
    def _beside(width: float) -> bool:
        return width >= 472

    def draw(self, area: Area) -> None:
        """Draw the distribution, and the errors beside or below it."""
        errors = bool(self.errors)
        beside = errors and self._beside(area.width)
        width = _SHARE * area.width if beside else area.width
        below = 0.42 * (area.height - 14) if errors and not beside else 0.0
        self._distribution(area.canvas(0, 0, width, area.height - (below + 14 if below else 0)))
        if beside:
            self._errors(area.part(width + 18, 12, area.width - width - 18, area.height - 12))
        elif errors:
            self._errors(area.part(0, area.height - below, width, below))

    def _distribution(self, canvas: Canvas) -> None:
        subject = self.subject
        top = _TOP - LEGEND_LINE + legend_height(canvas.page, key_words(subject.estimate), canvas.width)
        plot = Frame(2, top, canvas.width - 4, canvas.height - top - _BOTTOM)
        (row,) = layer_rows(subject.sketch, subject.estimate, [self.index], None, plot.width)
        bottom, span = plot.top + plot.row, row.picture.span
        ticks = axis_ticks(span, plot.width)
        places = [plot.left + plot.width * (tick / span + 1) / 2 for tick in ticks]
        if canvas.page.style.grid:
            canvas.lines([np.array([[x, plot.top], [x, bottom]]) for x in places], FAINT)
        draw_distributions(canvas, [plot], [row.picture])
        canvas.line(plot.left, bottom, plot.left + plot.width, bottom, LINE)
        axis = bottom + 6  # below the ticks of the levels
        canvas.line(plot.left, axis, plot.left + plot.width, axis, MUTED, width=0.8)
        canvas.lines([np.array([[x, axis], [x, axis + 3]]) for x in places], MUTED, 0.8)
        for x, tick in zip(places, ticks, strict=True):
            canvas.text(x, axis + 11, weight_text(tick), size=10, align="center")
        name = canvas.page.label(row.layer.name)
        canvas.text(
            plot.left + plot.width / 2, bottom + 32, canvas.fitted(f"weights of {name}", plot.width), align="center"
        )
        draw_key(canvas, 8, [row.picture], subject.estimate, ticked=True)
        threshold = row.picture.threshold
        if 0 < threshold <= span:
            x = plot.left + plot.width * (threshold / span + 1) / 2
            text = f"±{weight_text(threshold)}"
            room = x + 4 + canvas.measure(text, size=10) < canvas.width
            canvas.text(x + (4 if room else -4), plot.top + 6, text, size=10, align="left" if room else "right")

    def _errors(self, area: Area) -> None:
        """Draw the error at every number of bits, that of the recipe marked."""
        known = [(bits, value) for bits, value in self.errors if math.isfinite(value)]
        if not known:
            return
        low, high = min(0.0, *(v for _, v in known)), max(v for _, v in known) * 1.08 + 1
        ticks = linear_ticks(low, high, max(2, math.floor((area.height - 42) / 34)))
        left = room_for(area.page, [f"{tick:g}" for tick in ticks])
        chart: LineChart = line_chart(area, left=left)
        chart.ax.set(xlim=(known[0][0] - 0.4, known[-1][0] + 0.4), ylim=(low, high))
        chart.ticks("x", [bits for bits, _ in known], [str(bits) for bits, _ in known])
        chart.ticks("y", ticks, [f"{tick:g}" for tick in ticks], grid=True)
        chart.names("bits", "SQNR (dB)", left)
        look = look_of(1)
        chart.line([bits for bits, _ in known], [value for _, value in known], look)
        now = self.subject.sketch.plans(self.subject.estimate.recipe)[self.index]
        here = [(bits, value) for bits, value in known if bits == now.bits and not now.keep]
        if here:
            chart.dots([here[0][0]], [here[0][1]], look._replace(color=GRID, filled=True), zorder=4)
            chart.text(here[0][0], here[0][1], decibels_text(here[0][1]), dx=6, dy=-3, va="top")

    def caption(self) -> str:
        """Say what became of the layer."""
        subject, e = self.subject, self.subject.estimate.layers[self.index]
        look, exact = subject.sketch.layers[self.index], subject.estimate.exact
        curve = " Beside it, the layer's SQNR at 1 to 8 bits, estimated." if self.errors else ""
        pruned, now = estimated_text(exact, share_text(e.sparsity)), estimated_text(exact, bytes_text(e.nbytes))
        return (
            f"{e.n:,} weights of {look.label} ({subject.sketch.title}): outlined as they were, filled as the network "
            f"computes with them, shaded what is {gone_word(subject.estimate)}. "
            f"{recipe_sentence(subject.estimate.recipe)}: {pruned} of them "
            f"pruned, {now} of {bytes_text(e.n * look.itemsize)}, SQNR {estimated_decibels_text(exact, e.sqnr)}."
            f"{curve}"
        )

    def table(self) -> Table:
        """Return the numbers of the layer, or its error for every number of bits."""
        if not self.errors:
            return layer_table(self.subject, [self.index])
        return Table.of(
            [
                {"bits": (bits, str(bits)), "SQNR": (value if math.isfinite(value) else None, decibels_text(value))}
                for bits, value in self.errors
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Return the model, the recipe, and the layer."""
        return {**self.subject.facts(), "layers": [self.subject.sketch.layers[self.index].name]}
