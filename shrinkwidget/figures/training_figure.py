"""The figure of a training: score, loss and learning rate over the epochs; of several seeds their mean and a band."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

from ..argument_checks import meant
from ..errors import FigureError, nearest, quoted
from ..training.retrain_and_training_run import TrainingRun
from ..transfer_learning.transfer_result_and_training_cost import TransferResult
from .canvas import LINE, MUTED
from .figure_base_and_registry import Area, Chart, drawn, figure_kind, finite
from .figure_tables import Table
from .line_chart import LineChart, Look, Named, line_chart, look_of, named_lines, room_for, write_names
from .line_scales import LineScales, loss_domain, rate_domain, score_domain
from .monitor_snapshot_png import curves, round_ends
from .numbers_and_recipes_as_text import direction_text, significant, tick_text, value_text, weight_text
from .page_size_and_style import Page, PageOptions
from .scatter_scales_and_pareto_front import Frame
from .snapshot_size_score_history import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS: Final = ("score", "loss", "rate")
_HEIGHTS: Final = {"score": 170.0, "loss": 110.0, "rate": 80.0}
_AXIS: Final = 34.0
_GAP: Final = 14.0
_BESIDE, _BETWEEN = 440.0, 22.0
"""Pixels of a page wide enough for two columns of panels, and between these."""


@figure_kind
def training(
    runs: object,
    *,
    show: Sequence[str] | str = PANELS,
    ax: Axes | None = None,
    **page: Unpack[PageOptions],
) -> Figure:
    """Draw how a training went: its score before the first step and after every epoch, its loss, its learning rate.

    >>> import shrinkwidget as sw
    >>> train, valid = sw.demo.few(per_class=20), sw.demo.data("valid")
    >>> run = sw.retrain(sw.compress(sw.demo.model(), 0.9), train, valid, epochs=3, background=True)
    >>> run.wait()
    True
    >>> figure = sw.figures.training(run, show=["score", "loss"])

    Args:
        runs: a `TrainingRun` or a `TransferResult`, a list of them, one for each seed, or a dict of these by name.
        show: which of "score", "loss" and "rate".
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for a training without a complete epoch, or an unknown panel.
    """
    panels = _panels(show)
    named = runs if isinstance(runs, Mapping) else {"": runs}
    lines = [_line(str(name), own if isinstance(own, list | tuple) else [own]) for name, own in named.items()]
    if not lines:
        raise FigureError("there is nothing to draw in 'training': no run is given")
    return drawn(Training(tuple(lines), panels), ax, page)


def _panels(show: Sequence[str] | str) -> tuple[str, ...]:
    asked = [show] if isinstance(show, str) else list(show)
    found = []
    for name in asked:
        panel = meant(name, PANELS)
        if panel is None:
            hint = nearest(str(name), PANELS)
            raise FigureError(f"training has no panel {quoted(name)}{hint or '.'} Its panels: {', '.join(PANELS)}")
        found.append(panel)
    if not found:
        raise FigureError(f"show=… is empty: take some of {', '.join(PANELS)}")
    return tuple(name for name in PANELS if name in found)


@dataclass(frozen=True, eq=False)
class TrainingLine:
    """One training, or the mean of several that differ in their seed; NaN where nothing is known.

    Columns have one entry an epoch, `at` counts epochs through all rounds, and 0 is before the first. `low` and `high`
    are the 95 % interval of a single training, the mean ± the standard deviation of several.
    """

    name: str
    at: list[float]
    test: list[float]
    low: list[float]
    high: list[float]
    train: list[float]
    loss: list[float]
    rate: list[float]
    ends: tuple[int, ...]
    seeds: int
    metric: Metric
    n: int | None
    words: str
    title: str
    checksums: tuple[str | None, str | None] = (None, None)
    """Of the model before the first step and after the last epoch, None where it is not known."""


def _line(name: str, runs: Sequence[Any]) -> TrainingLine:
    lines = [_single(name, run) for run in runs]
    if not lines:
        raise FigureError(f"there is nothing to draw in 'training': {quoted(name)} has no run")
    if len(lines) == 1:
        return lines[0]
    # the mean goes as far as the shortest of them
    short = min(len(line.at) for line in lines)

    def mean(column: str) -> list[float]:
        return [fmean(getattr(line, column)[i] for line in lines) for i in range(short)]

    spread = [stdev(line.test[i] for line in lines) for i in range(short)]
    test = mean("test")
    first = lines[0]
    return TrainingLine(
        name, first.at[:short], test, [t - s for t, s in zip(test, spread, strict=True)],
        [t + s for t, s in zip(test, spread, strict=True)], mean("train"), mean("loss"), mean("rate"),
        first.ends, len(lines), first.metric, first.n, first.words, first.title,
    )  # fmt: skip


def _single(name: str, run: Any) -> TrainingLine:
    if isinstance(run, TrainingRun):
        history, baseline = run.history, None if run.baseline is None else run.baseline.to_dict()
        ends = round_ends(run.progress.to_dict()) if run.progress is not None else []
        words, title = run.spec.words, type(run.spec.model).__name__
    elif isinstance(run, TransferResult):
        history, baseline, ends = run.history, None, []
        words, title = run.provenance, type(run.model).__name__
    else:
        raise FigureError(
            f"cannot draw the training of a {type(run).__name__}: give a TrainingRun, which background=True returns"
        )
    if not history:
        ended = not isinstance(run, TrainingRun) or run.over
        why = "it ended before an epoch was complete" if ended else "no epoch is complete yet, wait() for one"
        raise FigureError(f"there is nothing to draw in 'training': {why}")
    columns = {key: list(finite(values)) for key, values in curves(history).items()}
    scores = [row["test"] for row in history if row["test"] is not None]
    told = next(iter(scores), baseline)
    metric = Metric("accuracy", True, True) if told is None else Metric(told["metric"], told["percent"], told["higher"])
    if baseline is not None:
        start = {"at": 0.0, "test": baseline["value"], "low": baseline["low"], "high": baseline["high"]}
        columns = {key: [*finite([start.get(key)]), *values] for key, values in columns.items()}
    return TrainingLine(
        name, columns["at"], columns["test"], columns["low"], columns["high"], columns["train"], columns["loss"],
        columns["lr"], tuple(ends[:-1]), 1, metric, told["n"] if told else None, words, title,
        ((baseline or {}).get("checksum") or None, (history[-1]["test"] or {}).get("checksum") or None),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Training(Chart):
    """Panels over one axis of epochs."""

    kind: ClassVar[str] = "training"
    lines: tuple[TrainingLine, ...]
    panels: tuple[str, ...]

    def height(self, page: Page) -> float:
        """Return the height of all panels, and of the names above them."""
        # names stand above, in whatever height: only of those beside a line it is asked
        names = named_lines(page, self._names(page), page.pixels - 8, 1000, beside=False)
        return sum(_HEIGHTS[panel] for panel in self.panels) + _GAP * (len(self.panels) - 1) + _AXIS + names.top + 8

    def _names(self, page: Page) -> list[str]:
        if len(self.lines) == 1:
            return ["validation", "training"] if self._trained and "score" in self.panels else [""]
        return [page.label(line.name) for line in self.lines]

    @property
    def _trained(self) -> bool:
        return any(math.isfinite(value) for value in self.lines[0].train)

    def draw(self, area: Area) -> None:
        """Draw the panels one below the other, or, on a page too low for that, the first beside the others."""
        names = self._names(area.page)
        named = named_lines(area.page, names, area.width, 1000, beside=False)
        free = area.height - named.top - _AXIS
        crowded = free - _GAP * (len(self.panels) - 1) < 0.8 * sum(_HEIGHTS[panel] for panel in self.panels)
        if crowded and len(self.panels) > 1 and area.width >= _BESIDE:
            left = 0.58 * (area.width - _BETWEEN)
            self._column(area, self.panels[:1], named, 0, left, legend=True)
            self._column(area, self.panels[1:], named, left + _BETWEEN, area.width - left - _BETWEEN, legend=False)
        else:
            self._column(area, self.panels, named, 0, area.width, legend=True)

    def _column(self, area: Area, panels: Sequence[str], named: Named, x: float, width: float, *, legend: bool) -> None:
        """Draw panels one below the other, with one axis of epochs at the bottom."""
        free = area.height - _AXIS - named.top - _GAP * (len(panels) - 1)
        unit = free / sum(_HEIGHTS[panel] for panel in panels)
        heights = {panel: _HEIGHTS[panel] * unit for panel in panels}
        scales = {panel: self._scales(panel, width, heights[panel]) for panel in panels}
        left = max(room_for(area.page, [self._text(p, tick) for tick in scales[p].y_ticks]) for p in panels)
        top = named.top
        for panel in panels:
            last = panel == panels[-1]
            part = area.part(x, top, width, heights[panel] + (_AXIS if last else 0))
            chart = line_chart(part, left=left, right=10, top=0, bottom=_AXIS if last else 0)
            self._panel(chart, panel, scales[panel], left, last)
            if legend and panel == panels[0]:
                number, single = len(named.names), len(self.lines) == 1
                # nothing stands beside a line's end here, and so its last value is not asked for
                write_names(chart, named, self._looks()[:number], [math.nan] * number, dots=self._dots or not single)
            top += heights[panel] + _GAP

    def _looks(self) -> list[Look]:
        if len(self.lines) == 1:
            plain = look_of(0)
            return [plain, Look(plain.color, "", (2.2, 2.0), False)]
        return [look_of(i) for i in range(len(self.lines))]

    @property
    def _dots(self) -> bool:
        return max(len(line.at) for line in self.lines) <= 30

    def _panel(self, chart: LineChart, panel: str, scales: LineScales, left: float, last: bool) -> None:
        metric = self.lines[0].metric
        if panel == "rate":
            chart.ax.set_yscale("log")
        low, high = scales.ys
        # a rate of a whole decade would lie on the axis itself
        chart.ax.set(xlim=scales.xs, ylim=(low / 1.25, high * 1.25) if panel == "rate" else scales.ys)
        chart.ticks("y", scales.y_ticks, [self._text(panel, tick) for tick in scales.y_ticks], grid=True)
        chart.ticks(
            "x", scales.x_ticks, [f"{tick:g}" for tick in scales.x_ticks] if last else [""] * len(scales.x_ticks)
        )
        direction = direction_text(metric.percent, metric.higher)
        titles = {
            "score": f"{metric.name}{f' ({direction})' if direction else ''}",
            "loss": "loss",
            "rate": "learning rate",
        }
        chart.names("epoch" if last else "", titles[panel], left)
        for end in self.lines[0].ends:
            chart.ax.axvline(end, color=LINE, linewidth=0.8 * chart.page.unit, zorder=1)
        for i, (line, look) in enumerate(zip(self.lines, self._looks(), strict=False)):
            self._one(chart, panel, line, look, i)

    def _one(self, chart: LineChart, panel: str, line: TrainingLine, look: Look, index: int) -> None:
        single = len(self.lines) == 1
        if panel == "score":
            chart.band(line.at, line.low, line.high, look)
            if single:
                chart.line(line.at, line.train, self._looks()[1], dots=False, width=0.9)
                if math.isfinite(line.test[0]) and line.at[0] == 0:
                    chart.level(line.test[0], f"before {value_text(line.test[0], line.metric.percent)}", right=True)
            chart.line(line.at, line.test, look, dots=self._dots)
        elif panel == "loss":
            plain = Look(MUTED, "o", (), True) if single else look
            chart.line(line.at, line.loss, plain, dots=self._dots and not single, width=1.3)
        else:
            plain = Look(MUTED, "o", (), True) if single else look
            # a rate holds for the whole epoch
            chart.ax.step(
                line.at,
                line.rate,
                where="pre",
                color=plain.color,
                linewidth=1.3 * chart.page.unit,
                linestyle=(0, plain.dashes) if plain.dashes else "solid",
                zorder=3 - index / 100,
            )

    def _scales(self, panel: str, width: float, height: float) -> LineScales:
        frame = Frame(width, height, 0, 0, 0, 0)
        epochs = (0.0, max(line.at[-1] for line in self.lines) * 1.0)
        if panel == "loss":
            return LineScales(frame, epochs, loss_domain([loss for line in self.lines for loss in line.loss]))
        if panel == "rate":
            return LineScales(frame, epochs, rate_domain([rate for line in self.lines for rate in line.rate]), log=True)
        scores = [
            (value, None, None)
            for line in self.lines
            for column in (line.test, line.train, line.low, line.high)
            for value in column
        ]
        n = max([line.n or 0 for line in self.lines])
        low, high = score_domain(scores, n, self.lines[0].metric.percent)
        return LineScales(frame, epochs, (low, high + 0.02 * (high - low) if self.lines[0].metric.percent else high))

    def _text(self, panel: str, tick: float) -> str:
        if panel == "score":
            return tick_text(tick, self.lines[0].metric.percent)
        return weight_text(tick) if panel == "rate" else significant(tick, 12)

    def caption(self) -> str:
        """Say what was trained, how, and on what the scores rest."""
        first = self.lines[0]
        n = f" on {first.n:,} validation examples" if first.n else ""
        seeds = max(line.seeds for line in self.lines)
        band = f"mean and standard deviation of {seeds} seeds" if seeds > 1 else "95 % interval, one seed"
        how = "; ".join(f"{line.name}: {line.words}" if line.name else line.words for line in self.lines)
        score = (
            f" {first.metric.name[:1].upper()}{first.metric.name[1:]}{n}, shaded: {band}."
            if "score" in self.panels
            else ""
        )
        rounds = " Vertical lines end a round." if first.ends else ""
        return f"Training of {first.title} ({how}).{score}{rounds} Epoch 0 is the model before the first step."

    def table(self) -> Table:
        """Return a row for every epoch."""
        return Table.of([row for line in self.lines for row in _rows(line)])

    def facts(self) -> dict[str, Any]:
        """Return what was trained, how, and on what the scores rest."""
        first = self.lines[0]
        return {
            "model": first.title,
            "provenance": [line.words for line in self.lines],
            "metric": first.metric.name,
            "n": [first.n] if first.n else [],
            "runs": max(line.seeds for line in self.lines),
            "epochs": [line.at[-1] for line in self.lines],
            "checksum": first.checksums[0],
            "checksums": [line.checksums[1] for line in self.lines],
        }


def _rows(line: TrainingLine) -> list[dict[str, tuple[Any, str]]]:
    columns: dict[str, tuple[list[float], Callable[[float], str]]] = {
        line.metric.name: (line.test, lambda value: value_text(value, line.metric.percent)),
        "training": (line.train, lambda value: value_text(value, line.metric.percent)),
        "loss": (line.loss, lambda value: significant(value, 4)),
        "learning rate": (line.rate, weight_text),
    }
    rows = []
    for i, at in enumerate(line.at):
        row: dict[str, tuple[Any, str]] = {"run": (line.name or None, line.name), "epoch": (int(at), f"{at:g}")}
        for name, (values, text) in columns.items():
            row[name] = (values[i], text(values[i])) if math.isfinite(values[i]) else (None, "–")
        rows.append(row)
    return rows
