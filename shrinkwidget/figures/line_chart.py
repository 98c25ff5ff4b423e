"""A chart with lines: ticks and formats as on the page, lines that are told apart without color, their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from .canvas import ACCURACY, FAINT, GRID, INK, KEPT, MUTED, OUTLINE, PAPER, SCALES
from .figure_base_and_registry import Area
from .fit_and_place_labels import thin, wrap
from .glyph_outlines import MIDDLE
from .legend import legend_rows
from .page_size_and_style import Page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALL: Final = 10.0
"""Pixels of the text at ticks, as on the page."""
_KEY: Final = 26.0
"""Pixels of the piece of a line that stands before its name."""
_ROW: Final = 15.0
_TICK: Final = 3.0


class Look(NamedTuple):
    """How a line looks: marker, whether that is filled, and dashes tell it from others as well as its color."""

    color: str
    marker: str
    dashes: tuple[float, ...]
    filled: bool


LOOKS: Final = (
    Look(ACCURACY, "o", (), True),
    Look(KEPT, "s", (5, 1.6), False),
    Look(GRID, "^", (1.4, 1.2), True),
    Look(SCALES, "D", (6, 1.4, 1.2, 1.4), False),
    Look(OUTLINE, "v", (9, 2), True),
    Look("#b07d00", "P", (3, 1, 3, 2.6), False),
    Look("#2b6f9e", "X", (1, 2.2), True),
    Look(INK, "*", (8, 1.4, 1.2, 1.4, 1.2, 1.4), False),
)
"""Of eight lines no two share a marker or dashes. The first is the color of accuracy everywhere."""


def look_of(index: int) -> Look:
    """Return the look of a line by its place; after eight they start again."""
    return LOOKS[index % len(LOOKS)]


@dataclass
class LineChart:
    """Axes of a chart in an area, `width` × `height` pixels inside its margins."""

    page: Page
    ax: Axes
    width: float
    height: float
    own: bool
    """Whether the Axes are ours, with margins for names beside them."""
    left: float = 0.0
    right: float = 0.0
    """Pixels of the margins at their left and right."""

    def line(
        self, x: Sequence[float], y: Sequence[float], look: Look, *, dots: bool = True, width: float = 1.5, **more: Any
    ) -> None:
        """Draw a line through points, with a gap where one is NaN."""
        unit = self.page.unit
        face = look.color if look.filled else PAPER
        (drawn,) = self.ax.plot(
            x,
            y,
            color=look.color,
            linewidth=width * unit,
            linestyle=dashes_of(look),
            marker=look.marker if dots else "",
            markersize=marker_size(look) * unit,
            markerfacecolor=face,
            markeredgecolor=look.color,
            markeredgewidth=1.1 * unit,
            **{"zorder": 3, "clip_on": False, **more},
        )
        drawn.set_dash_capstyle("butt")

    def dots(self, x: Sequence[float], y: Sequence[float], look: Look, **more: Any) -> None:
        """Draw points without a line."""
        self.line(x, y, look, width=0, **more)

    def bars(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], look: Look) -> None:
        """Draw intervals as bars with caps."""
        unit = self.page.unit
        known = [(a, b, c) for a, b, c in zip(x, low, high, strict=True) if math.isfinite(b) and math.isfinite(c)]
        if not known:
            return
        at, lows, highs = zip(*known, strict=True)
        style: dict[str, Any] = {"color": look.color, "linewidth": 0.9 * unit, "zorder": 2.5}
        self.ax.vlines(at, lows, highs, **style)
        for ends in (lows, highs):
            self.ax.plot(
                at,
                ends,
                linestyle="none",
                marker="_",
                markersize=5 * unit,
                markeredgewidth=0.9 * unit,
                color=look.color,
                zorder=2.5,
            )

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], look: Look) -> None:
        """Fill between the ends of intervals."""
        self.ax.fill_between(x, low, high, color=look.color, alpha=0.16, linewidth=0, zorder=1.5)

    def level(self, value: float, text: str, *, right: bool = False, below: bool = False) -> None:
        """Draw a dashed line at a value, with its name above it (or below) at its left or right end."""
        unit = self.page.unit
        self.ax.axhline(value, color=MUTED, linewidth=1.0 * unit, linestyle=(0, (3, 2)), zorder=2)
        x, dx, ha = (1, -3, "right") if right else (0, 3, "left")
        dy, va = (-4, "top") if below else (4, "bottom")
        self.text(x, value, text, across="axes", dx=dx, dy=dy, ha=ha, va=va)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        across: str = "data",
        upwards: str = "data",
        dx: float = 0,
        dy: float = 0,
        size: float = SMALL,
        **more: Any,
    ) -> None:
        """Write a text at a place of the data or of the Axes, `dx`, `dy` pixels from it."""
        unit = self.page.unit
        transforms = {
            ("data", "data"): self.ax.transData,
            ("axes", "data"): self.ax.get_yaxis_transform(),
            ("data", "axes"): self.ax.get_xaxis_transform(),
            ("axes", "axes"): self.ax.transAxes,
        }
        self.ax.annotate(
            text,
            (x, y),
            (dx * unit, dy * unit),
            xycoords=transforms[across, upwards],
            textcoords="offset points",
            fontsize=size * unit,
            family=list(self.page.families),
            parse_math=False,
            annotation_clip=False,
            **{"color": MUTED, "va": "bottom", "ha": "left", "zorder": 5, **more},
        )

    def ticks(self, axis: Literal["x", "y"], places: Sequence[float], texts: Sequence[str], grid: bool = False) -> None:
        """Put ticks at places of an axis and write a text at each; of an axis across, those that touch none before."""
        unit = self.page.unit
        own = self.ax.xaxis if axis == "x" else self.ax.yaxis
        if axis == "x" and len(places):
            # where the ticks stand, 0…1 of the width, on a logarithmic axis too: the figure is not drawn yet, so
            # nothing else tells
            across = (self.ax.transScale + self.ax.transLimits).transform([(place, 0.5) for place in places])[:, 0]
            written = thin(
                [(x * self.width, self.page.measure(text, SMALL)) for x, text in zip(across, texts, strict=True)], gap=4
            )
            texts = [text if i in written else "" for i, text in enumerate(texts)]
        own.set_ticks(list(places), labels=list(texts))
        # a logarithmic axis brings its own
        self.ax.minorticks_off()
        self.ax.tick_params(
            axis,
            length=_TICK * unit,
            width=0.8 * unit,
            pad=3 * unit,
            labelsize=SMALL * unit,
            color=MUTED,
            labelcolor=INK,
        )
        for label in own.get_ticklabels():
            # names are plain text: one with a dollar or two would be set as a formula
            label.set(family=list(self.page.families), parse_math=False)
        if grid and self.page.style.grid:
            self.ax.grid(axis=axis, color=FAINT, linewidth=0.8 * unit)
            self.ax.set_axisbelow(True)

    def names(self, x: str, y: str, left: float) -> None:
        """Name the axes; `left` is the room that the ticks of the vertical one take, in pixels."""
        unit = self.page.unit
        middle = 0.5
        if self.own:  # labels on Axes of the user's may run as far as theirs do
            x = self.page.fitted(x, self.width + self.left)
            middle = min(middle, (self.width + self.right - self.page.measure(x) / 2) / self.width)
            y = self.page.fitted(y, max(self.height + 20, 60.0))
        style: dict[str, Any] = {
            "fontsize": 11 * unit,
            "family": list(self.page.families),
            "color": INK,
            "parse_math": False,
        }
        if x:
            self.ax.set_xlabel(x, **style)
            self.ax.xaxis.set_label_coords(middle, -(_TICK + 3 + SMALL + 7) / self.height)
        if y:
            self.ax.set_ylabel(y, **style)
            self.ax.yaxis.set_label_coords(-(left - 14) / self.width, 0.5)


def dashes_of(look: Look) -> Any:
    """Return matplotlib's line style of a look."""
    return (0, look.dashes) if look.dashes else "solid"


def marker_size(look: Look) -> float:
    """Return the pixels of a marker that looks as large as a disc of five."""
    return {"o": 5.6, "s": 5.0, "^": 6.2, "v": 6.2, "D": 4.8, "P": 6.6, "X": 6.2, "*": 8.4}.get(look.marker, 5.6)


def line_chart(area: Area, *, left: float, bottom: float = 34.0, top: float = 8.0, right: float = 10.0) -> LineChart:
    """Return a chart in an area, with margins in pixels."""
    ax = area.axes() if area.ax is not None else area.axes(left, top, right, bottom)
    own = area.ax is None
    unit = area.page.unit
    for side, spine in ax.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set(linewidth=0.8 * unit, color=MUTED)
    width, height = (area.width - left - right, area.height - top - bottom) if own else (area.width, area.height)
    return LineChart(area.page, ax, width, height, own, left if own else 0.0, right if own else 0.0)


def with_headroom(ys: tuple[float, float], value: float | None, height: float, below: bool) -> tuple[float, float]:
    """Return an axis with room for the name of a level beyond it, where no better score can be expected.

    `height`: of the axis in pixels. `below`: the name goes below the level, as the lower scores are the better ones.
    """
    low, high = ys
    pad = (high - low) * 0.02
    if value is None or not math.isfinite(value):
        return low, high + pad
    # The height of a line of text in units of the axis.
    name = (high - low) * (SMALL + 6) / max(height, 40)
    return (min(low, value - name), high + pad) if below else (low, max(high + pad, value + name))


def spread_apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float] | None:
    """Return places as near as can be to those wanted, at least `gap` apart, between two ends; None without room.

    Neighbours that collide are moved together, as blocks about the mean of what they wanted.
    """
    if (len(wanted) - 1) * gap > high - low:
        return None
    # Pool adjacent violators: walk upwards, and merge a place with the block below as long as they would overlap. Each
    # block sits where the sum of its squared moves is least, at the mean.
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[int]] = []

    def start(block: list[int]) -> float:
        middle = sum(wanted[i] - n * gap for n, i in enumerate(block)) / len(block)
        return min(max(middle, low), high - (len(block) - 1) * gap)

    for i in order:
        blocks.append([i])
        while len(blocks) > 1 and start(blocks[-2]) + len(blocks[-2]) * gap > start(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    found = [0.0] * len(wanted)
    for block in blocks:
        for n, i in enumerate(block):
            found[i] = start(block) + n * gap
    return found


@dataclass(frozen=True)
class Named:
    """The names of a chart's lines: beside their ends where there is room, else in rows above."""

    page: Page
    names: Sequence[str]
    beside: bool
    rows: list[list[int]]

    @property
    def right(self) -> float:
        """Pixels at the right of the chart."""
        return _KEY + 8 + max(self.page.measure(name) for name in self.names) if self.beside else 10.0

    @property
    def top(self) -> float:
        """Pixels above the chart."""
        return 8.0 if self.beside or not self.rows else _ROW * len(self.rows) + 9


def named_lines(
    page: Page, names: Sequence[str], width: float, height: float, *, beside: bool = True, shorten: bool = False
) -> Named:
    """Return where the names of lines go in a figure of `width` × `height` pixels; a single line needs none.

    They go beside the lines' ends where they take a third of the width at most; with `shorten` they are made to.
    """
    fitted = [page.fitted(name, min(0.9 * width - _KEY, 0.34 * max(width, 500))) for name in names]
    if len(fitted) < 2:
        return Named(page, fitted, False, [])
    room = 0.36 * width - _KEY - 8
    if shorten and room > 70:  # of the name of a layer less says nothing
        fitted = [page.fitted(name, room) for name in fitted]
    if beside and max(map(page.measure, fitted)) <= room and len(fitted) * _ROW <= height - 60:
        return Named(page, fitted, True, [])
    return Named(page, fitted, False, legend_rows([_KEY + 5 + page.measure(name) for name in fitted], width))


def write_names(
    chart: LineChart,
    named: Named,
    looks: Sequence[Look],
    ends: Sequence[float],
    *,
    dots: bool = True,
    lines: bool = True,
) -> None:
    """Write the names of lines whose last values are `ends`, each with a piece of its line."""
    if len(named.names) < 2:
        return
    if not chart.own:
        _matplotlib_legend(chart, named.names, looks, dots, lines)
        return
    low, high = chart.ax.get_ylim()
    if named.beside:
        wanted = [chart.height * (value - low) / (high - low or 1) if math.isfinite(value) else 0.0 for value in ends]
        places = spread_apart(wanted, _ROW, 0, chart.height) or wanted
        for name, look, y in zip(named.names, looks, places, strict=True):
            _key(chart, chart.width + 8, y, look, dots, lines)
            _name(chart, chart.width + 8 + _KEY, y, name)
        return
    entries = [_KEY + 5 + chart.page.measure(name) for name in named.names]
    longest = max(sum(entries[i] + 14 for i in row) - 14 for row in named.rows)
    start = 0.0 if longest <= chart.width else -chart.left  # under the ticks' values, too, where that gives room
    for n, row in enumerate(named.rows):
        x, y = start, chart.height + 9 + _ROW * (len(named.rows) - 1 - n) + _ROW / 2 - 4
        for i in row:
            _key(chart, x, y, looks[i], dots, lines)
            _name(chart, x + _KEY, y, named.names[i])
            x += entries[i] + 14


def _name(chart: LineChart, x: float, y: float, name: str) -> None:
    chart.text(
        x / chart.width,
        y / chart.height,
        name,
        across="axes",
        upwards="axes",
        dy=-MIDDLE * 11,
        size=11,
        color=INK,
        va="baseline",
    )


def _key(chart: LineChart, x: float, y: float, look: Look, dots: bool, lines: bool) -> None:
    places = [x / chart.width, (x + _KEY - 6) / chart.width]
    middle = [sum(places) / 2]
    style: dict[str, Any] = {"transform": chart.ax.transAxes, "zorder": 4}
    if lines:
        chart.line(places, [y / chart.height] * 2, look, dots=False, **style)
    if dots:
        chart.dots(middle, [y / chart.height], look, **style)


def _matplotlib_legend(chart: LineChart, names: Sequence[str], looks: Sequence[Look], dots: bool, lines: bool) -> None:
    """Name lines on Axes of the user's, which have no margin of ours."""
    from matplotlib.lines import Line2D

    unit = chart.page.unit
    handles = [
        Line2D(
            [], [], color=look.color, linestyle=dashes_of(look) if lines else "none", linewidth=1.5 * unit,
            marker=look.marker if dots else "", markersize=marker_size(look) * unit,
            markerfacecolor=look.color if look.filled else PAPER, markeredgewidth=1.1 * unit,
        )
        for look in looks
    ]  # fmt: skip
    legend = chart.ax.legend(
        handles, names, frameon=False, prop={"family": list(chart.page.families), "size": 11 * unit}
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def room_for(page: Page, texts: Sequence[str], name: bool = True) -> float:
    """Return the pixels left of a chart that the texts of its ticks take, with the axis's name."""
    longest = max((page.measure(text, SMALL) for text in texts), default=0.0)
    return longest + _TICK + 5 + (17 if name else 0)


def note_lines(
    page: Page, phrases: Sequence[str], width: float, measure: Callable[[str], float] | None = None
) -> list[str]:
    """Return small print below a figure as lines."""
    return wrap([p for p in phrases if p], width, measure or (lambda text: page.measure(text, SMALL)))
