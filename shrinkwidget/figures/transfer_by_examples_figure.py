"""The figure of a transfer: score against labelled examples, from scratch beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Unpack

from ..errors import FigureError, quoted
from ..evaluation.evaluate_and_metrics import Score
from ..transfer_learning.transfer_result_and_training_cost import TransferResult
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .line_chart import line_chart, look_of, named_lines, room_for, write_names
from .numbers_and_recipes_as_text import direction_text, tick_text, value_text
from .page_size_and_style import Page, PageOptions
from .scatter_scales_and_pareto_front import Frame, Scales, value_domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@figure_kind
def transfer(
    results: Mapping[Any, Any],
    *,
    per: str = "labelled examples",
    ax: Axes | None = None,
    **page: Unpack[PageOptions],
) -> Figure:
    """Draw what a score comes to with so many labelled examples.

    >>> import shrinkwidget as sw
    >>> valid, old = sw.demo.data("valid"), sw.demo.model()
    >>> found = {n: sw.transfer(old, sw.demo.few(n), valid, epochs=2) for n in (2, 5)}
    >>> figure = sw.figures.transfer(found, per="labelled images of each digit")

    Args:
        results: by the number of examples, what `sw.transfer` returned, with its `baseline` beside it, or scores; a
            list has one for each seed. Or a dict of these by name: a line for each.
        per: what the number counts, below the axis.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for results without a score.
    """
    if not isinstance(results, Mapping) or not results:
        raise FigureError("there is nothing to draw in 'transfer': give a dict of scores by the number of examples")
    by_name = results if all(isinstance(own, Mapping) for own in results.values()) else _split(results)
    lines = [
        Learned(str(name), tuple(_amount(n, found) for n, found in sorted(own.items())))
        for name, own in by_name.items()
    ]
    lines = [line for line in lines if line.points]
    if not any(math.isfinite(point.value) for line in lines for point in line.points):
        raise FigureError("there is nothing to draw in 'transfer': no result has a score, give eval_data")
    return drawn(Transfer(tuple(lines), per), ax, page)


class Amount(NamedTuple):
    """A score with so many examples; of several seeds the mean, and its standard deviation either way."""

    n: float
    value: float
    low: float
    high: float
    seeds: int
    score: Score


@dataclass(frozen=True)
class Learned:
    """Scores of one way to learn, by the number of examples."""

    name: str
    points: tuple[Amount, ...]


def _split(results: Mapping[Any, Any]) -> dict[str, dict[Any, Any]]:
    """Return the results of transfers, and, where they have them, those from scratch."""
    lines: dict[str, dict[Any, Any]] = {"transferred": dict(results)}
    scratch = {
        n: [r.baseline for r in _listed(found) if isinstance(r, TransferResult) and r.baseline is not None]
        for n, found in results.items()
    }
    if any(scratch.values()):
        lines["from scratch"] = {n: found for n, found in scratch.items() if found}
    return lines


def _listed(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]


def _amount(n: Any, found: Any) -> Amount:
    if isinstance(n, bool) or not isinstance(n, int | float) or not n > 0:
        raise FigureError(f"{quoted(n)} is no number of examples: give a dict of scores by the number of examples")
    given = [one.score if isinstance(one, TransferResult) else one for one in _listed(found)]
    scores = [score for score in given if isinstance(score, Score)]
    if not scores or len(scores) < len(given):
        raise FigureError(
            f"the result for {n:g} examples has no score: give eval_data to sw.transfer, or what sw.evaluate returned"
        )
    if len(scores) == 1:
        return Amount(n, scores[0].value, scores[0].low, scores[0].high, 1, scores[0])
    values = [score.value for score in scores]
    mean, spread = fmean(values), stdev(values)
    return Amount(n, mean, mean - spread, mean + spread, len(scores), scores[0])


@dataclass(frozen=True, eq=False)
class Transfer(Chart):
    """Lines of scores over numbers of examples."""

    kind: ClassVar[str] = "transfer"
    lines: tuple[Learned, ...]
    per: str

    def height(self, page: Page) -> float:
        """Return the height of a chart that is a little wider than high, and of the names above it."""
        high = min(max(0.62 * page.pixels, 190.0), 320.0)
        return high + named_lines(page, [page.label(line.name) for line in self.lines], page.pixels - 8, high).top - 8

    @property
    def _score(self) -> Score:
        return self.lines[0].points[0].score

    def draw(self, area: Area) -> None:
        """Draw the lines, their intervals a little apart, so that none hides another."""
        page, score = area.page, self._score
        counts = sorted({point.n for line in self.lines for point in line.points})
        ends = [end for line in self.lines for point in line.points for end in (point.value, point.low, point.high)]
        low, high = value_domain(ends, None, score.percent)
        # a little room above 100 %, or the line that runs there would lie on the edge
        ys = (low, high + 0.02 * (high - low)) if score.percent else (low, high)
        named = named_lines(page, [page.label(line.name) for line in self.lines], area.width, area.height)
        ticks = Scales(Frame(area.width, area.height, 0, 0, 0, 34 + named.top), (1, 10), (low, high)).y_ticks
        left = room_for(page, [tick_text(tick, score.percent) for tick in ticks])
        chart = line_chart(area, left=left, right=named.right, top=named.top)
        chart.ax.set_xscale("log")
        chart.ax.set(xlim=(counts[0] / 1.25, counts[-1] * 1.25), ylim=ys)
        chart.ticks("x", counts, [f"{n:,g}" for n in counts])
        chart.ticks("y", ticks, [tick_text(tick, score.percent) for tick in ticks], grid=True)
        direction = direction_text(score.percent, score.higher)
        chart.names(page.shown(self.per), f"{score.metric}{f' ({direction})' if direction else ''}", left)
        looks = [look_of(i) for i in range(len(self.lines))]
        # six pixels from one line's bars to the next
        step = (counts[-1] * 1.5625 / counts[0]) ** (6 / chart.width)
        for i, (line, look) in enumerate(zip(self.lines, looks, strict=True)):
            x = [point.n * step ** (i - (len(self.lines) - 1) / 2) for point in line.points]
            chart.bars(x, [p.low for p in line.points], [p.high for p in line.points], look)
            chart.line(x, [p.value for p in line.points], look)
        write_names(chart, named, looks, [line.points[-1].value for line in self.lines])

    def caption(self) -> str:
        """Say what the scores rest on."""
        score = self._score
        seeds = max(point.seeds for line in self.lines for point in line.points)
        bars = (
            f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "95 % intervals over the examples, one seed"
        )
        return (
            f"{score.metric[:1].upper()}{score.metric[1:]} on {score.n:,} examples against {self.per}: "
            f"{', '.join(line.name for line in self.lines)}. Bars: {bars}."
        )

    def table(self) -> Table:
        """Return a row for every number of examples of every line."""
        rows = []
        for line in self.lines:
            for p in line.points:
                ends = {
                    name: (end, value_text(end, p.score.percent)) for name, end in (("low", p.low), ("high", p.high))
                }
                rows.append(
                    {
                        "series": (line.name, line.name),
                        self.per: (p.n, f"{p.n:,g}"),
                        p.score.metric: (p.value, value_text(p.value, p.score.percent)),
                        **{name: end for name, end in ends.items() if math.isfinite(end[0])},
                        "seeds": (p.seeds if p.seeds > 1 else None, str(p.seeds)),
                        "n": (p.score.n, f"{p.score.n:,}"),
                    }
                )
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return on what the scores rest."""
        points = [point for line in self.lines for point in line.points]
        return {
            "metric": self._score.metric,
            "n": sorted({point.score.n for point in points}),
            "runs": max(point.seeds for point in points),
            "provenance": list(dict.fromkeys(point.score.provenance for point in points)),
            "checksum": None,  # of the model it began with: a result does not know it
            "checksums": [point.score.checksum or None if point.seeds == 1 else None for point in points],
            "counts": {line.name: [point.n for point in line.points] for line in self.lines},
        }
