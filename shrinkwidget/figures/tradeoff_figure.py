"""The figure of a trade-off: score against how many times smaller, or bytes, with the dense model as control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from ..argument_checks import meant
from ..errors import FigureError, quoted
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .fit_and_place_labels import Box, place_label
from .line_chart import LineChart, line_chart, look_of, named_lines, room_for, with_headroom, write_names
from .numbers_and_recipes_as_text import (
    bytes_text,
    bytes_tick_text,
    decibels_text,
    direction_text,
    interval_text,
    recipe_label,
    share_text,
    tick_text,
    times_text,
    value_text,
)
from .page_size_and_style import Page, PageOptions
from .result_series_and_seed_means import Basis, Point, Results, read_results
from .scatter_scales_and_pareto_front import Frame, Scales, byte_domain, pareto_front, value_domain
from .snapshot_size_score_history import PLAIN
from .ticks_and_size_marks import log_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SPREADS = {"interval": "95 % intervals over the examples", "sd": "mean ± standard deviation over seeds", "none": ""}


@figure_kind
def tradeoff(
    results: object,
    *,
    x: str = "ratio",
    spread: str | None = None,
    baseline: object = None,
    front: bool = True,
    annotate: bool = False,
    ax: Axes | None = None,
    **page: Unpack[PageOptions],
) -> Figure:
    """Draw what a model scores against how small it is.

    >>> import shrinkwidget as sw
    >>> model, valid = sw.demo.model(), sw.demo.data("valid")
    >>> cuts = [sw.compress(model, sparsity=s, bits=4) for s in (0.5, 0.7, 0.8, 0.85)]
    >>> points = [(cut, sw.evaluate(cut, valid)) for cut in cuts]
    >>> figure = sw.figures.tradeoff(points, baseline=sw.evaluate(model, valid), width="nature-single")

    Args:
        results: an explorer or its `history`, a `Sweep`, a `TrainingRun` of several rounds, or a list of
            ``(model, score)``, where a model is a `CompressedModel`, an `Estimate`, or bytes. A list of several of
            these has one for each seed: what is drawn is their mean. A dict has one line for each name.
        x: ``"ratio"``, how many times smaller than the dense file, or ``"nbytes"``, the bytes of the file; both on a
            logarithmic axis.
        spread: what the bars are: ``"interval"``, the 95 % interval over the examples, ``"sd"``, the standard deviation
            over seeds, or ``"none"``. By default the deviation where there are seeds, else the interval.
        baseline: the score of the dense model, drawn as a dashed line; an explorer and a run bring it.
        front: of a history, connect the points that no other beats in both size and score.
        annotate: write the recipes of these points beside them, where there is room.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for results without a point, or an unknown option.
    """
    across = meant(x, ("ratio", "nbytes"))
    if across is None:
        raise FigureError(f"x={quoted(x)} must be 'ratio' or 'nbytes'")
    found = read_results(results, baseline)
    bars = (
        meant(spread, SPREADS) if spread is not None else "sd" if any(p.runs > 1 for p in found.points) else "interval"
    )
    if bars is None:
        raise FigureError(f"spread={quoted(spread)} must be 'interval', 'sd' or 'none'")
    return drawn(TradeOff(found, across, bars, front, annotate), ax, page)


@dataclass(frozen=True)
class TradeOff(Chart):
    """Series of points, score against size."""

    kind: ClassVar[str] = "tradeoff"
    results: Results
    across: str
    spread: str
    front: bool
    annotate: bool

    def height(self, page: Page) -> float:
        """Return the height of a chart that is a little wider than high, and of the names above it."""
        high = min(max(0.62 * page.pixels, 190.0), 330.0)
        names = [page.label(one.name) for one in self.results.series]
        beside = all(one.connected for one in self.results.series)
        return high + named_lines(page, names, page.pixels - 8, high, beside=beside).top - 8

    def draw(self, area: Area) -> None:
        """Draw the dense line, the intervals, the points and their front, and the names of the series."""
        page, results, dense = area.page, self.results, self.results.baseline
        # In this order: points, then the room that names and ticks take, and only then the scales, which need both.
        series = [(one, look_of(i)) for i, one in enumerate(results.series)]
        placed = [[(x, p) for p in one.points if (x := self._x(p)) is not None] for one, _ in series]
        if not any(placed):
            missing, other = ("ratio", "nbytes") if self.across == "ratio" else ("nbytes", "ratio")
            raise FigureError(f"there is nothing to draw in 'tradeoff': no point has a {missing}; give x={other!r}")
        ys = self._domain()
        names = [page.label(one.name) for one, _ in series]
        named = named_lines(page, names, area.width, area.height, beside=all(one.connected for one, _ in series))
        ticks = Scales(Frame(area.width, area.height, 0, 0, 0, 34 + named.top), self._xs(placed), ys)
        left = room_for(page, [tick_text(tick, results.metric.percent) for tick in ticks.y_ticks])
        chart = line_chart(area, left=left, right=named.right, top=named.top)
        ys = with_headroom(ys, None if dense is None else dense.value, chart.height, results.metric.higher is False)
        scales = Scales(Frame(chart.width, chart.height, 0, 0, 0, 0), ticks.xs, ys)
        self._axes(chart, scales, left)
        for (one, look), points in zip(series, placed, strict=True):
            points.sort(key=lambda at: at[0])
            at, values = [x for x, _ in points], [p.value for _, p in points]
            bars = [self._bar(p) for _, p in points]
            chart.bars(at, [low for low, _ in bars], [high for _, high in bars], look)
            if one.connected:
                chart.line(at, values, look)
                continue
            # A history: every point, and a line through those that no other beats.
            chart.dots(at, values, look)
            higher = self.results.metric.higher
            if self.front and higher is not None and len(points) > 1:
                best = self._best(points, higher)
                chart.line([at[i] for i in best], [values[i] for i in best], look, dots=False, width=1.1)
        ends = [points[-1][1].value if points else math.nan for points in placed]
        write_names(
            chart,
            named,
            [look for _, look in series],
            ends,
            lines=self.front or any(one.connected for one, _ in series),
        )
        if self.annotate:
            self._annotate(chart, scales, [point for points in placed for point in points])

    def _best(self, points: Sequence[tuple[float, Point]], higher: bool) -> list[int]:
        sign = 1 if self.across == "nbytes" else -1
        return pareto_front([(sign * x, p.value) for x, p in points], higher)

    def _axes(self, chart: LineChart, scales: Scales, left: float) -> None:
        metric, dense = self.results.metric, self.results.baseline
        ax = chart.ax
        ax.set_xscale("log")
        ax.set(xlim=scales.xs, ylim=scales.ys)
        across = log_ticks(*scales.xs, max(2, math.floor(chart.width / 62)))
        if self.across == "ratio":
            chart.ticks("x", across, [f"{tick:g}×" for tick in across])
        else:
            chart.ticks("x", across, [bytes_tick_text(tick) for tick in across])
        upward = [tick for tick in scales.y_ticks if not metric.percent or 0 <= tick <= 1]
        chart.ticks("y", upward, [tick_text(tick, metric.percent) for tick in upward], grid=True)
        direction = direction_text(metric.percent, metric.higher)
        upwards = f"{metric.name}{f' ({direction})' if direction else ''}"
        chart.names("compression ratio" if self.across == "ratio" else "size of the file", upwards, left)
        if dense is not None and math.isfinite(dense.value):
            text = f"dense {value_text(dense.value, metric.percent)}"
            chart.level(dense.value, text, below=metric.higher is False)

    def _annotate(self, chart: LineChart, scales: Scales, points: Sequence[tuple[float, Point]]) -> None:
        """Write the recipe of every point on the front beside it, where that covers nothing."""
        higher = self.results.metric.higher is not False
        places = [(scales.x(x), scales.y(p.value)) for x, p in points]
        taken = list(places)
        dense = self.results.baseline
        levels = [] if dense is None else [scales.y(dense.value)]
        for i in self._best(points, higher):
            recipe = points[i][1].recipe
            if recipe is None:
                continue
            text = chart.page.fitted(recipe_label(recipe), 0.4 * chart.width, 10)
            size = (chart.page.measure(text, 10) + 4, 14.0)
            others = [place for j, place in enumerate(taken) if j != i]
            box = place_label(places[i], size, Box(0, 0, chart.width, chart.height), others, levels, 8)
            if box is not None:
                chart.text(
                    (box.x + 2) / chart.width,
                    1 - (box.y + box.height / 2) / chart.height,
                    text,
                    across="axes",
                    upwards="axes",
                    va="center",
                )
                steps = range(0, int(box.width) + 1, 8)
                # place_label avoids points, so a label that stands is entered as a row of them.
                taken += [(box.x + step, box.y + up) for step in steps for up in (2.0, box.height - 2)]

    def _x(self, point: Point) -> float | None:
        dense = self.results.dense_nbytes
        if self.across == "ratio":
            return point.ratio or (dense / point.nbytes if dense and point.nbytes else None)
        return point.nbytes or (dense / point.ratio if dense and point.ratio else None)

    def _xs(self, placed: Sequence[Sequence[tuple[float, Point]]]) -> tuple[float, float]:
        found = [x for points in placed for x, _ in points]
        if self.across == "nbytes":
            return byte_domain(found, self.results.dense_nbytes or max(found))
        least = min(found)
        # the dense model is at 1×; where all points are far from it, the axis begins nearer to them
        low = least / 1.5 if least > 4 else min(1.0, 0.9 * least)
        return low, max(4 * low, 1.2 * max(found))

    def _bar(self, point: Point) -> tuple[float, float]:
        if self.spread == "sd":
            return point.value - point.spread, point.value + point.spread
        return (point.low, point.high) if self.spread == "interval" else (math.nan, math.nan)

    def _domain(self) -> tuple[float, float]:
        """Return an axis that holds every value with its bar."""
        metric, dense = self.results.metric, self.results.baseline
        ends = [end for p in self.results.points for end in (p.value, *self._bar(p))]
        low, high = value_domain(ends, None if dense is None else dense.value, metric.percent)
        return low, high

    def caption(self) -> str:
        """Return the caption with ShrinkBench's checklist: ratio, MACs, raw scores, control, samples, seeds."""
        results, metric = self.results, self.results.metric
        basis = Basis.of(results)
        points = results.points
        ratios = [
            x
            for p in points
            if (x := p.ratio or (results.dense_nbytes / p.nbytes if results.dense_nbytes and p.nbytes else None))
        ]
        of = f" of {results.model}" if results.model else ""
        against = "compression ratio" if self.across == "ratio" else "bytes of the file"
        words = [f"{metric.name[:1].upper()}{metric.name[1:]}{of} against {against}"]
        if ratios:
            least, most = times_text(min(ratios)), times_text(max(ratios))
            span = f"{least} to {most}" if least != most else least
            words[0] += f", {span} (bytes of the dense file / bytes of the file)"
        told = [". ".join(words)]
        if results.baseline is not None:
            interval = interval_text(results.baseline.low, results.baseline.high, metric.percent)
            value = value_text(results.baseline.value, metric.percent)
            told.append(f"Dashed: the dense model, {value}{f' ({interval})' if interval else ''}")
        told.append(self._samples(basis))
        if len(basis.provenance) == 1 and basis.provenance[0] != PLAIN:
            told.append(f"Models: {basis.provenance[0]}")
        elif basis.provenance == (PLAIN,):
            told.append("No model was retrained")
        macs = [p.macs for p in points if p.macs]
        if macs:
            told.append(
                f"Multiply-accumulates of a forward pass, pruned weights left out: {min(macs):,.0f} to {max(macs):,.0f}"
            )
        if self.front and not all(one.connected for one in results.series):
            told.append("Lines connect the points that no other beats in both size and score")
        return f"{'. '.join(text for text in told if text)}."

    def _samples(self, basis: Basis) -> str:
        n = f"{' to '.join(f'{n:,}' for n in sorted({basis.n[0], basis.n[-1]}))} examples" if basis.n else ""
        many = (
            f"{basis.runs} seeds" + (f" ({', '.join(map(str, basis.seeds))})" if basis.seeds else "")
            if basis.runs > 1
            else ""
        )
        how = SPREADS[self.spread] if any(math.isfinite(self._bar(p)[0]) for p in self.results.points) else ""
        single = "one seed" if basis.runs == 1 else many
        return ", ".join(filter(None, [f"Bars: {how}" if how else "", n, single]))

    def table(self) -> Table:
        """Return a row for every point."""
        rows = []
        metric, results = self.results.metric, self.results
        for one in results.series:
            for p in one.points:
                ratio = p.ratio or (results.dense_nbytes / p.nbytes if results.dense_nbytes and p.nbytes else None)
                rows.append(
                    {
                        "series": (one.name or None, one.name),
                        "recipe": (p.recipe and recipe_label(p.recipe), recipe_label(p.recipe) if p.recipe else "–"),
                        "bytes": _cell(p.nbytes, bytes_text),
                        "ratio": _cell(ratio, times_text),
                        "sparsity": _cell(p.sparsity, share_text),
                        "MACs": _cell(p.macs, lambda macs: f"{macs:,.0f}"),
                        "SQNR": _cell(p.sqnr, decibels_text),
                        metric.name: _cell(p.value, lambda value: value_text(value, metric.percent)),
                        "low": _cell(p.low, lambda value: value_text(value, metric.percent)),
                        "high": _cell(p.high, lambda value: value_text(value, metric.percent)),
                        "sd": _cell(p.spread, lambda value: value_text(value, metric.percent)),
                        "seeds": (p.runs if p.runs > 1 else None, str(p.runs)),
                        "n": _cell(p.n, lambda n: f"{n:,.0f}"),
                    }
                )
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return where the points come from."""
        recipes = [p.recipe.to_json() for p in self.results.points if p.recipe is not None]
        dense = self.results.baseline
        about = {
            "baseline": None if dense is None else dense.value,
            "checksum": None if dense is None else dense.checksum or None,
            "dense_nbytes": self.results.dense_nbytes,
        }
        return {
            "model": self.results.model,
            "recipes": list(dict.fromkeys(recipes))[:64],
            **Basis.of(self.results).facts(),
            **about,
        }


def _cell(value: float | None, text: Any) -> tuple[float | None, str]:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None, "–"
    whole = int(value) if isinstance(value, float) and value.is_integer() and abs(value) > 1 else value
    return whole, text(value)
