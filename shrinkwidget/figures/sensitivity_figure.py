"""The figure of sensitivity: what pruning or rounding one layer at a time costs, as lines, or a heat map of many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

from ..argument_checks import meant
from ..errors import FigureError, quoted
from ..evaluation.evaluate_and_metrics import Score
from ..evaluation.sensitivity import LayerScores, Sensitivity
from .canvas import INK, MASK, MUTED, PAPER
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .line_chart import LOOKS, SMALL, LineChart, line_chart, named_lines, room_for, with_headroom, write_names
from .numbers_and_recipes_as_text import direction_text, percent_text, tick_text, value_text
from .page_size_and_style import Page, PageOptions
from .scatter_scales_and_pareto_front import value_domain
from .ticks_and_size_marks import linear_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES: Final = 20
_TOLD_APART: Final = 0.02
"""Part of the axis by which a line leaves the dense one before it gets a name."""
_ROW: Final = 15.0
_SHADES_WIDE: Final = 90.0
_SHADES: Final = ("#5e1c0a", "#a83a12", "#d5703a", "#e9aa80", "#f3d5c0", "#f7f4f1")
"""From all lost to nothing lost: the lightness alone tells them apart, so it holds in grey."""


@figure_kind
def sensitivity(
    found: Sensitivity,
    *,
    by: str | None = None,
    ax: Axes | None = None,
    **page: Unpack[PageOptions],
) -> Figure:
    """Draw the score of a model of which one layer is pruned or quantized, all others dense.

    >>> import shrinkwidget as sw
    >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), sparsity=(0.5, 0.9), layers=["stem", "head"])
    >>> figure = sw.figures.sensitivity(found, width="nature-single")

    Args:
        found: what `sw.sensitivity` returned.
        by: ``"lines"``, one for each layer, of which the most sensitive are named, eight at most, or ``"heat_map"``, a
            row for each layer; by default lines up to 20 layers.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for what is no sensitivity, or has no layer.
    """
    if not isinstance(found, Sensitivity):
        raise FigureError(f"cannot draw the sensitivity of a {type(found).__name__}: give what sw.sensitivity returned")
    if not found.layers:
        raise FigureError("there is nothing to draw in 'sensitivity': no layer has been measured")
    how = (
        ("lines" if len(found.layers) <= MOST_LINES else "heat_map") if by is None else meant(by, ("lines", "heat_map"))
    )
    if how is None:
        raise FigureError(f"by={quoted(by)} must be 'lines' or 'heat_map'")
    return drawn(SensitivityLines(found) if how == "lines" else SensitivityMap(found), ax, page)


@dataclass(frozen=True, eq=False)
class _OfSensitivity(Chart):
    """What lines and heat map have in common."""

    kind: ClassVar[str] = "sensitivity"
    found: Sensitivity

    def _amount(self, amount: float) -> str:
        return percent_text(amount) if self.found.kind == "sparsity" else f"{amount:g}"

    @property
    def _across(self) -> str:
        return "sparsity of the layer" if self.found.kind == "sparsity" else "bits of the layer"

    def caption(self) -> str:
        """Say what was varied, and on what the scores rest."""
        found, dense = self.found, self.found.dense
        what = "pruned" if found.kind == "sparsity" else "quantized"
        return (
            f"{dense.metric[:1].upper()}{dense.metric[1:]} of the model with one layer {what} at a time and all others "
            f"dense; {self._shown()} Dense: {value_text(dense.value, dense.percent)}. {dense.provenance[:1].upper()}"
            f"{dense.provenance[1:]}, {found.examples}."
        )

    def _shown(self) -> str:
        raise NotImplementedError

    def table(self) -> Table:
        """Return a row for each layer, the most sensitive first."""
        found = self.found
        rows = []
        for layer in found.ranked:
            row: dict[str, tuple[Any, str]] = {"layer": (layer.label, layer.label)}
            for amount, score in zip(found.amounts, layer.scores, strict=False):
                row[self._amount(amount)] = (score.value, value_text(score.value, score.percent))
            rows.append(row)
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return what was varied, and on what the scores rest."""
        found = self.found
        return {
            "varied": found.kind,
            "amounts": list(found.amounts),
            "recipe": found.recipe.to_json(),
            "metric": found.dense.metric,
            "n": [found.dense.n],
            "examples": found.examples,
            "baseline": found.dense.value,
            "provenance": [found.dense.provenance],
            "checksum": found.dense.checksum or None,
        }


class SensitivityLines(_OfSensitivity):
    """A line for each layer; the most sensitive are named."""

    def height(self, page: Page) -> float:
        """Return the height of a chart that has room for the names."""
        names = [page.label(layer.name) for layer in self._named]
        above = named_lines(page, names, page.pixels - 8, 330, shorten=True).top - 8
        return min(max(0.62 * page.pixels, 200.0), 330.0) + above

    @property
    def _named(self) -> list[LayerScores]:
        """The most sensitive layers, as far as their lines can be told from the dense model's; one at least."""
        dense, ranked = self.found.dense, self.found.ranked
        values = [score.value for layer in ranked for score in layer.scores]
        low, high = value_domain(values, dense.value, dense.percent)
        # A line that hardly leaves the dense model's cannot be told from others like it: it gets no color and no name.
        apart = [
            layer
            for layer in ranked[: len(LOOKS)]
            if max(abs(score.value - dense.value) for score in layer.scores) > _TOLD_APART * (high - low)
        ]
        return apart or list(ranked[:1])

    def _shown(self) -> str:
        named, many = len(self._named), len(self.found.layers)
        if named == many:
            return "a line for each layer."
        if many - named == 1:
            return "grey: the other layer, which changes less."
        return f"grey: the other {many - named} of {many} layers, which change less."

    def draw(self, area: Area) -> None:
        """Draw the lines, those of the less sensitive layers in grey behind the others."""
        found, page, dense = self.found, area.page, self.found.dense
        named_layers = self._named
        others = [layer for layer in found.ranked if layer not in named_layers]
        looks = LOOKS[: len(named_layers)]
        values = [score.value for layer in found.layers for score in layer.scores]
        low, high = value_domain(values, dense.value, dense.percent)
        names = named_lines(
            page, [page.label(layer.name) for layer in named_layers], area.width, area.height, shorten=True
        )
        ticks = linear_ticks(low, high, max(2, math.floor((area.height - 42 - names.top) / 34)))
        left = room_for(page, [tick_text(tick, dense.percent) for tick in ticks])
        chart = line_chart(area, left=left, right=names.right, top=names.top)
        ys = with_headroom((low, high), dense.value, chart.height, not dense.higher)
        places = list(range(len(found.amounts)))
        pad = 0.25 if len(places) > 1 else 0.5
        chart.ax.set(xlim=(-pad, len(places) - 1 + pad), ylim=ys)
        chart.ticks("x", places, [self._amount(amount) for amount in found.amounts])
        chart.ticks("y", ticks, [tick_text(tick, dense.percent) for tick in ticks], grid=True)
        direction = direction_text(dense.percent, dense.higher)
        chart.names(self._across, f"{dense.metric}{f' ({direction})' if direction else ''}", left)
        for layer in others:
            chart.ax.plot(
                places[: len(layer.scores)],
                [s.value for s in layer.scores],
                color=MASK,
                linewidth=0.9 * page.unit,
                zorder=2,
            )
        for layer, look in reversed(list(zip(named_layers, looks, strict=True))):
            chart.line(places[: len(layer.scores)], [s.value for s in layer.scores], look)
        chart.level(dense.value, f"dense {value_text(dense.value, dense.percent)}", below=not dense.higher)
        write_names(chart, names, looks, [layer.scores[-1].value for layer in named_layers])


class SensitivityMap(_OfSensitivity):
    """A row for each layer in the model's order, a column for each amount; the darker, the more is lost."""

    def height(self, page: Page) -> float:
        """Return the height of all rows; they get lower where they would not fit on a page."""
        return _ROW * len(self.found.layers) + 34 + self._top(page, page.pixels - 8)

    def least(self, page: Page) -> float:
        """Return the height of rows that can just be told apart."""
        return 2 * len(self.found.layers) + 34 + self._top(page, page.pixels - 8)

    def _top(self, page: Page, width: float) -> float:
        """Return the pixels above the cells: one line for the metric and its shades, or a line for each."""
        dense = self.found.dense
        ends = [value_text(value, dense.percent) for value in (dense.value, self._worst())]
        texts = sum(page.measure(text, SMALL) for text in (f"{dense.metric}  ", *ends))
        return 26.0 if texts + _SHADES_WIDE + 12 <= width else 41.0

    def _shown(self) -> str:
        return "the darker, the more is lost."

    def draw(self, area: Area) -> None:
        """Draw the cells, their values where there is room, and the layers' names as far as they do not touch."""
        found, page, dense = self.found, area.page, self.found.dense
        names = [page.label(layer.name) for layer in found.layers]
        room = min(max(map(page.measure, names)) + 8, max(0.34 * area.width, 60.0))
        chart = line_chart(area, left=room, top=self._top(page, area.width), bottom=34, right=2)
        rows, columns = len(found.layers), len(found.amounts)
        chart.ax.set(xlim=(0, columns), ylim=(rows, 0))
        for spine in chart.ax.spines.values():
            spine.set_visible(False)
        worst = self._worst()
        self._cells(chart, worst)
        chart.ticks("x", [i + 0.5 for i in range(columns)], [self._amount(amount) for amount in found.amounts])
        high = chart.height / rows
        kept = thin([((i + 0.5) * high, 9.5) for i in range(rows)], gap=0.5)
        size = min(11.0, max(7.0, high - 1)) if len(kept) == rows else SMALL
        chart.ticks("y", [i + 0.5 for i in kept], [page.fitted(names[i], room - 8, size) for i in kept])
        chart.ax.tick_params(length=0)
        chart.ax.tick_params("y", labelsize=size * page.unit)
        for label in chart.ax.get_yticklabels():
            label.set_verticalalignment("center_baseline")  # a name with a descender stands on the line of the others
        chart.names(self._across, "", room)
        self._scale(chart, worst)
        if high >= 11 and chart.width / columns > page.measure("100.0 %", 9) + 4:
            for i, layer in enumerate(found.layers):
                for j, score in enumerate(layer.scores):
                    color = PAPER if self._lost(score, worst) > 0.45 else INK
                    text = value_text(score.value, dense.percent)
                    chart.text(j + 0.5, i + 0.5, text, size=9, ha="center", va="center_baseline", color=color)

    def _worst(self) -> float:
        """Return the score that is all lost: the worst there is, at least a tenth below the dense one."""
        dense = self.found.dense
        values = [score.value for layer in self.found.layers for score in layer.scores]
        # Or, where nothing is lost anywhere, differences of a tenth of a per cent would fill the scale.
        least = 0.1 * abs(dense.value)
        return min(*values, dense.value - least) if dense.higher else max(*values, dense.value + least)

    def _lost(self, score: Score, worst: float) -> float:
        dense = self.found.dense.value
        return min(1.0, max(0.0, (dense - score.value) / (dense - worst or 1)))

    def _cells(self, chart: LineChart, worst: float) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("lost", _SHADES[::-1])
        columns = len(self.found.amounts)
        lost = [
            [*(self._lost(s, worst) for s in layer.scores), *[math.nan] * (columns - len(layer.scores))]
            for layer in self.found.layers
        ]
        edges = range(columns + 1), range(len(lost) + 1)
        # each cell is edged in its own color, or viewers of PDF show seams between them
        chart.ax.pcolormesh(
            *edges, lost, cmap=shades, vmin=0, vmax=1, edgecolors="face", linewidth=0.3 * chart.page.unit
        )

    def _scale(self, chart: LineChart, worst: float) -> None:
        """Draw which shade means which score, above the cells."""
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.patches import Rectangle

        dense, page = self.found.dense, chart.page
        shades = LinearSegmentedColormap.from_list("lost", _SHADES[::-1])
        wide, steps = _SHADES_WIDE, 24
        texts = value_text(dense.value, dense.percent), value_text(worst, dense.percent)
        apart = self._top(page, chart.width + chart.left) > 26
        if apart:
            wide = min(wide, chart.width + chart.left - sum(page.measure(text, SMALL) for text in texts) - 12)
        right = 1 - page.measure(texts[1], SMALL) / chart.width - 5 / chart.width
        start = right - wide / chart.width
        y, tall = 1 + 8 / chart.height, 9 / chart.height
        step = (right - start) / steps
        patch: dict[str, Any] = {"linewidth": 0, "transform": chart.ax.transAxes, "clip_on": False}
        for i in range(steps):
            # a little wider than its step: viewers of PDF show seams where two only touch
            corner = start + i * step, y
            chart.ax.add_patch(Rectangle(corner, 1.04 * step, tall, color=shades(i / (steps - 1)), **patch))
        style: dict[str, Any] = {"across": "axes", "upwards": "axes", "va": "center", "color": MUTED}
        chart.text(
            start, y + tall / 2, texts[0] if apart else f"{dense.metric}  {texts[0]}", dx=-5, ha="right", **style
        )
        if apart:
            name = page.fitted(dense.metric, chart.width + chart.left, SMALL)
            chart.text(1, y + tall / 2, name, dy=15, ha="right", **style)
        chart.text(right, y + tall / 2, texts[1], dx=5, **style)
