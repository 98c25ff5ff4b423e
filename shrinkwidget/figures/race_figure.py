"""The figure of a race: how many times faster each model is, with its interval, and the A/A control below it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..errors import FigureError, a_type
from ..performance.race import Race, Ratio, seconds_text
from .canvas import FAINT, INK, KEPT, LINE, MUTED, OUTLINE
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .numbers_and_recipes_as_text import significant
from .page_size_and_style import Page, PageOptions
from .ticks_and_size_marks import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 18.0
_HEAD: Final = 18.0
_AXIS: Final = 36.0
_PLOT: Final = 90.0
"""Pixels that the plot takes at least."""


@figure_kind
def race(found: Race, *, ax: Axes | None = None, **page: Unpack[PageOptions]) -> Figure:
    """Draw how many times faster models are than the first, with 95 % intervals and the A/A controls.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.race(sw.results.Race.example(), width="nature-single")

    Args:
        found: what `sw.race` returned.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for what `sw.race` did not return.
    """
    if not isinstance(found, Race):
        raise FigureError(f"cannot draw the race of {a_type(found)}: give what sw.race returned")
    return drawn(RaceRatios(found), ax, page)


@dataclass(frozen=True, eq=False)
class RaceRatios(Chart):
    """A row for each contestant but the first, and for the control, under the title of each batch size."""

    kind: ClassVar[str] = "race"
    found: Race

    def _rows(self) -> list[tuple[str, list[tuple[str, Ratio, bool]]]]:
        """Return by batch size names, ratios, and whether a row is the control."""
        found = self.found
        return [
            (
                at.label,
                [
                    *((t.name, ratio, False) for t in at.times if (ratio := getattr(t, found.clock)) is not None),
                    (f"{at.times[0].name}, a copy", found.control(at), True),
                ],
            )
            for at in found.batches
        ]

    def height(self, page: Page) -> float:  # noqa: ARG002
        """Return the height of all rows and the axis."""
        return sum(_HEAD + _ROW * len(rows) for _, rows in self._rows()) + _AXIS

    def narrowest(self, page: Page) -> float:
        """Return the width of short names, a plot, and the numbers beside it."""
        return 60 + _PLOT + self._numbers(page)

    def _numbers(self, page: Page) -> float:
        return max(page.measure(ratio.text, 10) for _, rows in self._rows() for _, ratio, _ in rows) + 12

    def draw(self, area: Area) -> None:
        """Draw an interval and its median in each row, a line at 1, and the numbers at the right."""
        page, canvas, groups = area.page, area.canvas(), self._rows()
        right = canvas.width - self._numbers(page)
        names = [page.label(name) for _, rows in groups for name, _, _ in rows]
        left = min(max(map(page.measure, names)) + 22, right - _PLOT)
        ends = [end for _, rows in groups for _, ratio, _ in rows for end in (ratio.low, ratio.high)]
        low, high = math.log(min(*ends, 1)) - 0.06, math.log(max(*ends, 1)) + 0.06
        spare = (canvas.height - self.height(page)) / sum(len(rows) for _, rows in groups)
        row = _ROW + spare
        bottom = canvas.height - _AXIS

        def place(value: float) -> float:
            return left + (math.log(value) - low) / (high - low) * (right - left)

        y = 0.0
        for label, rows in groups:
            canvas.text(0, y + _HEAD / 2, label, bold=True, color=INK)
            y += _HEAD
            for name, ratio, control in rows:
                middle, color = y + row / 2, OUTLINE if control else KEPT
                canvas.line(left, middle, right, middle, FAINT, width=0.6)
                canvas.text(10, middle, canvas.fitted(page.label(name), left - 18), color=MUTED if control else INK)
                canvas.line(place(ratio.low), middle, place(ratio.high), middle, color, width=1.4)
                for end in (ratio.low, ratio.high):
                    canvas.line(place(end), middle - 3, place(end), middle + 3, color, width=1.2)
                dot = np.array([place(ratio.value)]), np.array([middle])
                canvas.dots(*dot, color, size=6.5, marker="D" if control else "o")
                canvas.text(canvas.width, middle, ratio.text, size=10, color=MUTED if control else INK, align="right")
                y += row
        canvas.line(place(1), 0, place(1), bottom, MUTED, width=1.0, dashes=(0, (3, 2)))
        canvas.line(left, bottom, right, bottom, LINE, width=0.8)
        ticks = [tick for tick in log_ticks(math.exp(low), math.exp(high), 6) if low <= math.log(tick) <= high]
        texts = {tick: f"{significant(tick, 3)}×" for tick in sorted({1.0, *ticks})}
        wide = {tick: canvas.measure(text, size=9) for tick, text in texts.items()}
        # the 1 is always written, as it is what all are read against
        clear = [t for t in texts if t == 1 or abs(place(t) - place(1)) >= (wide[t] + wide[1]) / 2 + 4]
        for n in thin([(place(tick), wide[tick]) for tick in clear], gap=4):
            x, text = place(clear[n]), texts[clear[n]]
            canvas.line(x, bottom, x, bottom + 3, MUTED, width=0.8)
            canvas.text(x, bottom + 11, text, size=9, color=MUTED, align="center")
        words = f"times faster than {page.shown(self.found.batches[0].times[0].name)}"
        canvas.text((left + right) / 2, bottom + 27, canvas.fitted(words, canvas.width), align="center")

    def caption(self) -> str:
        """Say what the ratios depend on, and where this machine was too busy to tell."""
        found = self.found
        rounds = sorted({at.rounds for at in found.batches})
        clock = "CPU time" if found.clock == "cpu" else "wall time"
        warned = "".join(f" {told[0].upper()}{told[1:]}." for told in found.warnings)
        return (
            f"Measured speed against {found.batches[0].times[0].name}, by {clock}: medians of "
            f"{'–'.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} rounds with 95 % bootstrap intervals, and a "
            f"copy of the first against itself as a control; {found.conditions} ({found.machine}).{warned}"
        )

    def table(self) -> Table:
        """Return a row for every contestant at every batch size."""
        rows = []
        for at in self.found.batches:
            for entry in at.times:
                ratio: Ratio | None = getattr(entry, self.found.clock)
                rows.append(
                    {
                        "batch": (at.batch, at.label),
                        "contestant": (entry.name, entry.name),
                        "CPU seconds": (entry.cpu_seconds, seconds_text(entry.cpu_seconds)),
                        "wall seconds": (entry.wall_seconds, seconds_text(entry.wall_seconds)),
                        "faster": (ratio and ratio.value, "1" if ratio is None else ratio.text),
                        "low": (ratio and ratio.low, "" if ratio is None else f"{ratio.low:.3g}"),
                        "high": (ratio and ratio.high, "" if ratio is None else f"{ratio.high:.3g}"),
                    }
                )
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return the whole race."""
        return {"race": self.found.to_dict(), "checksum": None}
