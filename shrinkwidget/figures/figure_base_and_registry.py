"""What a kind of figure is: data gathered once, then drawn, captioned or tabulated; and the register of all kinds."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

import numpy as np

from ..argument_checks import meant, public
from ..errors import FigureError, nearest, quoted
from ..recipe_and_method_registry import RecipeFields, every_setting
from .canvas import INK, Canvas
from .figure_tables import Table
from .page_size_and_style import MM, Page, PageOptions, page_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE: Final = 24.0
"""Pixels that a title takes above a figure."""


class Chart(ABC):
    """Data of one figure, checked and gathered, and what to make of it."""

    kind: ClassVar[str]

    @abstractmethod
    def height(self, page: Page) -> float:
        """Return the pixels the content takes on a page, where nobody says."""

    def least(self, page: Page) -> float:
        """Return the pixels below which the content does not fit."""
        return 0.5 * self.height(page)

    def narrowest(self, page: Page) -> float:  # noqa: ARG002
        """Return the pixels of width below which the content does not fit."""
        return 120.0

    @abstractmethod
    def draw(self, area: Area) -> None:
        """Draw it into an area."""

    @abstractmethod
    def caption(self) -> str:
        """Return what to write below it: what is shown, and on what the numbers rest."""

    @abstractmethod
    def table(self) -> Table:
        """Return the numbers that it shows."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what its file says of where it comes from: recipe, model, metric, examples, seeds; JSON-able."""


class Area:
    """Where a chart is drawn: a rectangle of a figure in pixels of its page, or the Axes a user gave."""

    def __init__(self, page: Page, figure: Figure, box: tuple[float, float, float, float], ax: Axes | None) -> None:
        self.page, self.figure, self.ax = page, figure, ax
        self._left, self._top, self.width, self.height = box

    def axes(self, left: float = 0, top: float = 0, right: float = 0, bottom: float = 0) -> Axes:
        """Return Axes inside these margins, in pixels; of a user's Axes, which have their own margins, a part."""
        width, height = self.width - left - right, self.height - top - bottom
        if self.ax is not None:
            if not (left or top or right or bottom):
                return self.ax
            return self.ax.inset_axes(
                (left / self.width, bottom / self.height, width / self.width, height / self.height)
            )
        wide, high = (float(inches) * 72 / self.page.unit for inches in self.figure.get_size_inches())
        x, y = self._left + left, high - (self._top + self.height - bottom)
        return self.figure.add_axes((x / wide, y / high, width / wide, height / high))

    def canvas(
        self, left: float = 0, top: float = 0, width: float | None = None, height: float | None = None
    ) -> Canvas:
        """Return a canvas on a part of the area, by its corner and size in pixels."""
        width = self.width - left if width is None else width
        height = self.height - top if height is None else height
        axes = self.axes(left, top, self.width - left - width, self.height - top - height)
        return Canvas(axes, width, height, self.page)

    def part(self, left: float, top: float, width: float, height: float) -> Area:
        """Return a part of the area, by its corner and size in pixels."""
        box = (self._left + left, self._top + top, width, height)
        if self.ax is None:
            return Area(self.page, self.figure, box, None)
        inside = self.axes(left, top, self.width - left - width, self.height - top - height)
        inside.set_axis_off()
        return Area(self.page, self.figure, (0, 0, width, height), inside)


Kind = TypeVar("Kind", bound=Callable[..., Any])
_KINDS: Final[dict[str, Callable[..., Any]]] = {}


def figure_kind(function: Kind) -> Kind:
    """Register a public function that draws a kind of figure, under its name; it takes the options of a page."""
    return _registered(public(fields_of=[PageOptions])(function))


def model_figure_kind(function: Kind) -> Kind:
    """Register one that takes the fields of a recipe as well."""
    return _registered(public(fields_of=[PageOptions, RecipeFields], also=every_setting)(function))


def _registered(function: Kind) -> Kind:
    _KINDS[function.__name__] = function
    return function


def kinds() -> tuple[str, ...]:
    """Return the names of all kinds of figures."""
    return tuple(_KINDS)


def kind_named(found: object) -> Callable[..., Figure]:
    """Return the function that draws a kind.

    Raises:
        FigureError: for an unknown kind.
    """
    name = meant(found, _KINDS)
    if name is None:
        hint = nearest(str(found), _KINDS)
        raise FigureError(f"there is no figure {quoted(found)}{hint or '.'} The kinds: {', '.join(_KINDS)}")
    return _KINDS[name]


def drawn(chart: Chart, ax: Any, options: Mapping[str, Any]) -> Figure:
    """Return a figure with a chart: a new one, or that of the Axes the user gave."""
    page = page_of(options)
    with our_settings():
        if ax is None:
            return _new_figure(chart, page)
        from matplotlib.axes import Axes

        if not isinstance(ax, Axes):
            raise FigureError(f"ax={quoted(ax)} must be Axes of matplotlib, such as figure.add_subplot()")
        figure = ax.get_figure(root=True)
        assert figure is not None
        width, height = ax.bbox.width / figure.dpi * 72 / page.unit, ax.bbox.height / figure.dpi * 72 / page.unit
        chart.draw(Area(page, figure, (0, 0, width, height), ax))
        note(figure, chart)
        return figure


def _new_figure(chart: Chart, page: Page) -> Figure:
    from .figure_shown_in_notebooks import DrawnFigure

    above = TITLE if page.title else 0.0
    height, least = page.pixels_high(chart.height(page) + above), chart.least(page) + above
    if page.height is None:
        height = max(height, least)
    elif height < least:
        raise FigureError(
            f"height={page.height:g} is too low for {chart.kind!r} with text of {page.size:g} points: it needs "
            f"{math.ceil(least * page.unit / MM)} mm; or give a smaller size="
        )
    figure = DrawnFigure(figsize=(page.width * MM / 72, height * page.unit / 72), facecolor="white")
    margin = 4.0
    box = (margin, margin + above, page.pixels - 2 * margin, height - above - 2 * margin)
    if box[2] < (narrowest := chart.narrowest(page)):
        raise FigureError(
            f"there is no room for {chart.kind!r}: {page.width:g} mm are too narrow for text of {page.size:g} points; "
            f"give width={math.ceil((narrowest + 2 * margin) * page.unit / MM)} or more, or a smaller size="
        )
    area = Area(page, figure, box, None)
    chart.draw(area)
    if page.title:
        sheet = Area(page, figure, (margin, margin, box[2], above), None).canvas()
        sheet.text(0, 8, page.fitted(page.shown(page.title), box[2], 13, bold=True), size=13, bold=True, color=INK)
    note(figure, chart)
    return figure


_CHARTS: Final = "_shrinkwidget_charts"


def note(figure: Figure, chart: Chart) -> None:
    """Note on a figure what one of its charts shows."""
    vars(figure).setdefault(_CHARTS, []).append(chart)


def charts_of(figure: Figure) -> list[Chart]:
    """Return the charts that were drawn on a figure, none of one of the user's own."""
    return list(vars(figure).get(_CHARTS, []))


_LOCK: Final = threading.RLock()
_NOT_OURS: Final = (
    "backend",
    "interactive",
    "toolbar",
    "timezone",
    "date.",
    "tk.",
    "webagg.",
    "docstring.",
    "figure.hooks",
)


@contextmanager
def our_settings() -> Iterator[None]:
    """Draw and save by matplotlib's default settings and ours, whatever the user's are, which are back afterwards.

    matplotlib's settings are the process's own; the lock keeps figures of several threads from taking turns at them.
    """
    import matplotlib as mpl

    defaults: dict[Any, Any] = dict(mpl.rcParamsDefault)
    # fonttype 42 embeds TrueType fonts, which journals ask for (type 3 is refused by IEEE). A fixed hash salt gives ids
    # in an SVG that do not change from save to save.
    settings = {name: value for name, value in defaults.items() if not name.startswith(_NOT_OURS)}
    settings |= {"pdf.fonttype": 42, "svg.hashsalt": "shrinkwidget", "svg.fonttype": "none", "text.hinting": "none"}
    with _LOCK, mpl.rc_context(settings):
        yield


def finite(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return values as floats, None as NaN."""
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)
