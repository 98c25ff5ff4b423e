"""The snapshot of a monitor: the curves of a training, and a sentence, for where no widget can be shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, Final

import numpy as np

from ..analysis.model_summary import fixed
from ..analysis.quantization_group_histograms import Floats
from ..errors import sentence
from ..training.retrain_and_training_run import TrainingRun
from .canvas import ACCURACY, FAINT, INK, LINE, MUTED, OUTLINE, Canvas, Snapshot
from .fit_and_place_labels import Box, place_label, wrap
from .line_scales import Column, LineScales, Scored, loss_domain, rate_domain, score_domain
from .numbers_and_recipes_as_text import (
    bytes_text,
    compared_size_text,
    direction_text,
    holds_up,
    interval_text,
    percent_digit_text,
    significant,
    tick_text,
    times_text,
    value_text,
    weight_text,
)
from .scatter_scales_and_pareto_front import Frame, Scales, value_domain

Shown = Mapping[str, Any]
"""A monitor's plain values: title, method, offer, metric, state, progress, curves, points, baseline, error."""

STATE_WORDS: Final = {"ready": "not started", "stopping": "stopping…", "stopped": "stopped early"}
_WIDTH: Final = 920.0
_MARGIN: Final = 22.0
_TOP: Final = 78.0
_CURVES, _SIDE = 556.0, 290.0
"""Widths of the two columns."""
_SCORE, _LOSS, _RATE, _TRADE_OFF = 232.0, 156.0, 116.0, 190.0
"""Heights of the charts, as on the page."""
_FIGURES: Final = 170.0
_BAND: Final = "#cfe9e1"
"""The color of an accuracy on paper, at a fifth."""
_DASHES: Final = (0, (3, 2))


_COLUMNS: Final = ("loss", "train", "lr", "sparsity")
_SCORES: Final = {"test": "value", "low": "low", "high": "high"}


def values_of(run: TrainingRun[Any]) -> dict[str, Any]:
    """Return what a monitor shows of how far a training is, as plain values."""
    return {
        "progress": None if run.progress is None else run.progress.to_dict(),
        "baseline": None if run.baseline is None else run.baseline.to_dict(),
        "points": run.points,
        "error": "" if run.error is None else sentence(run.error),
        "state": run.state,
        "curves": curves(run.history),
    }


def curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return a run's history by columns; "at" counts epochs through all rounds, from 1."""
    columns: dict[str, list[Any]] = {"at": list(range(1, len(history) + 1))}
    for name in _COLUMNS:
        columns[name] = [row[name] for row in history]
    for name, part in _SCORES.items():
        columns[name] = [row["test"] and row["test"][part] for row in history]
    return columns


def monitor_snapshot(shown: Shown) -> bytes:
    """Return a PNG, 920 CSS pixels wide at double density, of what a monitor shows. Safe in any thread: no pyplot."""
    now = shown["progress"]
    points = [point for point in shown["points"] if point["test"] is not None]
    # a transfer has stages in the place of rounds, and its file does not get smaller
    trades = (
        now is not None and now["rounds"] > 1 and not now.get("stage") and (points or shown["baseline"] is not None)
    )
    side = _FIGURES + (_TRADE_OFF + 36 if trades else 0) + _RATE
    canvas = Snapshot(_WIDTH, _TOP + max(_SCORE + 6 + _LOSS, side) + _MARGIN)
    _title(canvas, shown)
    curves = shown_curves(shown)
    _score_chart(canvas, _MARGIN, _TOP, curves, shown)
    _loss_chart(canvas, _MARGIN, _TOP + _SCORE + 6, curves, shown)
    x, y = _WIDTH - _MARGIN - _SIDE, _TOP
    _figures(canvas, x, y, shown)
    y += _FIGURES
    if trades:
        _trade_off(canvas, x, y, points, shown)
        y += _TRADE_OFF + 36
    _rate_chart(canvas, x, y, curves, shown)
    return canvas.png()


def describe_monitor(shown: Shown) -> str:
    """Return one sentence for where no picture can be shown: what is trained, how far it is, and its last score."""
    now, metric = shown["progress"], shown["metric"]
    sentence = f"{shown['title']}, {_method_text(shown)}: {shown['state']}"
    if now is not None:
        done = len(shown["curves"]["at"])
        sentence += f" after {done} of {round_ends(now)[-1]} epochs, "
        sentence += f"{percent_digit_text(now['sparsity'])} pruned"
        if now["test"] is not None:
            value = value_text(now["test"]["value"], metric["percent"])
            sentence += f", {metric['name']} {value} on {now['test']['n']:,} validation examples"
    return sentence + "."


def shown_curves(shown: Shown) -> dict[str, list[Any]]:
    """Return the columns that are drawn: the score before the first step, the complete epochs, the one under way.

    The twin of ``withStart`` and ``withNow`` of ``js/monitor/monitor-state.ts``.
    """
    curves = {name: list(column) for name, column in shown["curves"].items()}
    baseline, now = shown["baseline"], shown["progress"]
    if baseline is not None and curves["at"][:1] != [0]:
        start = {"at": 0, "test": baseline["value"], "low": baseline["low"], "high": baseline["high"]}
        curves = {name: [start.get(name), *column] for name, column in curves.items()}
    at = epochs_done(now)
    if now is not None and now["phase"] == "train" and now["loss"] is not None and at > max([0, *curves["at"][-1:]]):
        more = {"at": at, **{name: now[name] for name in ("loss", "train", "lr", "sparsity")}}
        curves = {name: [*column, more.get(name)] for name, column in curves.items()}
    return curves


def epochs_done(now: Mapping[str, Any] | None) -> float:
    """Return how many epochs of all rounds are behind a training, with the part of the one it is in."""
    if now is None:
        return 0.0
    before = [0, *round_ends(now)][now["round"] - 1]
    if now["phase"] == "prune" or now["epoch"] == 0:
        return float(before + now["epoch"])
    # Of a stream nobody knows how many steps an epoch has: half of it, so that the point moves at all.
    part = 1.0 if now["phase"] != "train" else now["step"] / now["steps"] if now["steps"] else 0.5
    return float(before + now["epoch"] - 1 + part)


def round_ends(now: Mapping[str, Any]) -> list[int]:
    """Return the epoch, counted through all rounds, with which each of them ends."""
    return list(accumulate(now.get("epochs_by_round") or [now["epochs"]] * now["rounds"]))


def _method_text(shown: Shown) -> str:
    """Return how it goes about it, as its result will say; before it is one, that is only the plan."""
    said: str = shown["method"]
    return said if shown.get("offer") or shown["state"] == "done" else f"planned: {said}"


def _title(canvas: Canvas, shown: Shown) -> None:
    state = STATE_WORDS.get(str(shown["state"]), str(shown["state"]))
    room = _WIDTH - 2 * _MARGIN - canvas.measure(state, size=12) - 14
    title = canvas.fitted(shown["title"], 0.5 * room, size=19, bold=True)
    width = canvas.text(_MARGIN, 26, title, size=19, bold=True)
    canvas.text(
        _MARGIN + width + 14, 27, canvas.fitted(_method_text(shown), room - width - 14, size=12), size=12, color=MUTED
    )
    canvas.text(_WIDTH - _MARGIN, 27, state, size=12, color=MUTED, align="right")
    now = shown["progress"]
    where = "not begun" if now is None else f"{len(shown['curves']['at'])} of {round_ends(now)[-1]} epochs"
    place = canvas.fitted(shown.get("error") or where, _WIDTH - 2 * _MARGIN, size=13)
    canvas.text(_MARGIN, 51, place, size=13, color=INK)
    canvas.line(_MARGIN, 64, _WIDTH - _MARGIN, 64, LINE)


def _figures(canvas: Canvas, x: float, y: float, shown: Shown) -> None:
    """Write the figures of the moment: score, loss, rate, sparsity, size; 134 pixels high."""
    now, metric, baseline = shown["progress"] or {}, shown["metric"], shown["baseline"]
    test = now.get("test")
    if test or baseline:
        at = x + canvas.text(x, y + 6, f"{_value(baseline, metric)} → ", size=17, color=MUTED)
        worst = baseline and baseline["low" if metric["higher"] else "high"]
        # the accuracy's color is praise: earned only where the dense score's interval is not left for the worse
        held = test and holds_up(metric["higher"], test["value"], worst, baseline and baseline["value"])
        at += canvas.text(at, y + 6, _value(test, metric), size=19, bold=True, color=ACCURACY if held else INK)
        interval = interval_text(test["low"], test["high"], metric["percent"]) if test else ""
        basis = [f"{metric['name']} on {(test or baseline)['n']:,} validation examples"]
        beside = at + 8 + canvas.measure(interval, size=12) <= x + _SIDE
        if beside:
            canvas.text(at + 8, y + 7, interval, size=12, color=MUTED)
        basis.append(f"95\N{NARROW NO-BREAK SPACE}% interval{'' if beside else f' {interval}'}")
        basis += filter(None, [direction_text(metric["percent"], metric["higher"])])
        for i, line in enumerate(wrap(basis, _SIDE, partial(canvas.measure, size=11))[:2]):
            canvas.text(x, y + 30 + 15 * i, line, size=11, color=MUTED)
    for i, (term, text) in enumerate(_stats(now, metric)):
        left, top = x + i % 2 * _SIDE / 2, y + 68 + i // 2 * 30
        canvas.text(left, top, canvas.fitted(term, _SIDE / 2 - 6, size=10), size=10, color=MUTED)
        canvas.text(left, top + 13, canvas.fitted(text, _SIDE / 2 - 6, size=11.5), size=11.5)


def _stats(now: Mapping[str, Any], metric: Mapping[str, Any]) -> list[tuple[str, str]]:
    def told(name: str, text: Callable[[float], str]) -> str:
        return "–" if now.get(name) is None else text(now[name])

    return [
        (f"{metric['name']}, training", told("train", lambda value: value_text(value, metric["percent"]))),
        ("loss", told("loss", lambda loss: fixed(loss, 3))),
        ("pruned", told("sparsity", percent_digit_text)),
        ("learning rate", told("lr", weight_text)),
        ("size", told("nbytes", bytes_text)),
        ("against dense", told("ratio", compared_size_text)),
    ]


def _value(score: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> str:
    return "…" if score is None else value_text(score["value"], metric["percent"])


def _scores(curves: Mapping[str, Column]) -> list[Scored]:
    """Return every score there is, those on the training data without an interval."""
    tested = list(zip(curves["test"], curves["low"], curves["high"], strict=True))
    return [
        (value, low, high)
        for value, low, high in (*tested, *((v, None, None) for v in curves["train"]))
        if value is not None
    ]


def _score_chart(canvas: Canvas, x: float, y: float, curves: Mapping[str, Any], shown: Shown) -> None:
    metric, baseline, now = shown["metric"], shown["baseline"], shown["progress"]
    scored = next((score for score in (now and now["test"], baseline) if score), None)
    domain = score_domain(_scores(curves), scored["n"] if scored else 0, metric["percent"])
    chart = _Chart(canvas, LineScales(Frame(_CURVES, _SCORE, 50, 14, 28, 8, x, y), _epochs(shown), domain))
    chart.axes(metric["name"], lambda value: tick_text(value, metric["percent"]), shown)
    chart.band(curves["at"], curves["low"], curves["high"])
    if baseline is not None:
        chart.level(baseline["value"])
    chart.line(curves["at"], curves["train"], ACCURACY, 0.9, dashes=(0, (2, 2)))
    chart.line(curves["at"], curves["test"], ACCURACY, 1.6, dots=len(curves["at"]) < 60)
    chart.legend(None if baseline is None else value_text(baseline["value"], metric["percent"]))


def _loss_chart(canvas: Canvas, x: float, y: float, curves: Mapping[str, Any], shown: Shown) -> None:
    chart = _Chart(
        canvas, LineScales(Frame(_CURVES, _LOSS, 50, 14, 28, 20, x, y), _epochs(shown), loss_domain(curves["loss"]))
    )
    chart.axes("loss, training", lambda value: significant(value, 12), shown, epochs=True)
    chart.line(curves["at"], curves["loss"], OUTLINE, 1.4)


def _rate_chart(canvas: Canvas, x: float, y: float, curves: Mapping[str, Any], shown: Shown) -> None:
    frame = Frame(_SIDE, _RATE, 50, 14, 28, 20, x, y)
    chart = _Chart(canvas, LineScales(frame, _epochs(shown), rate_domain(curves["lr"]), log=True))
    chart.axes("learning rate", weight_text, shown, epochs=True)
    chart.line(curves["at"], curves["lr"], OUTLINE, 1.4, steps=True)


def _trade_off(canvas: Canvas, x: float, y: float, points: Sequence[Mapping[str, Any]], shown: Shown) -> None:
    """Draw a point for every round: score against how many times smaller the file is (log)."""
    metric, baseline = shown["metric"], shown["baseline"]
    canvas.text(
        x,
        y + 6,
        canvas.fitted(f"{metric['name']} against size", _SIDE, size=10.5, bold=True),
        size=10.5,
        bold=True,
        color=MUTED,
    )
    frame = Frame(_SIDE, _TRADE_OFF, 50, 14, 14, 20, x, y + 16)
    dense = baseline and baseline["value"]
    values = value_domain([point["test"]["value"] for point in points], dense, metric["percent"])
    # to 10× at least: or the first rounds would seem to have come far
    scales = Scales(frame, (1.0, max([10.0, *(1.3 * point["ratio"] for point in points)])), values)
    left, top, width, height = frame.plot
    for tick in scales.y_ticks:
        at = scales.y(tick)
        canvas.line(left, at, left + width, at, FAINT)
        canvas.text(left - 7, at, tick_text(tick, metric["percent"]), size=10, color=MUTED, align="right")
    for tick in scales.x_ticks:
        canvas.text(scales.x(tick), top + height + 13, f"{tick:g}×", size=10, color=MUTED, align="center")
    if dense is not None:
        at = scales.y(dense)
        canvas.line(left, at, left + width, at, ACCURACY, dashes=_DASHES)
        canvas.text(left + 3, at - 8, "dense", size=10, color=MUTED)
    places = [(scales.x(point["ratio"]), scales.y(point["test"]["value"])) for point in points]
    canvas.lines([np.array(places)] if len(places) > 1 else [], ACCURACY, 1.6)
    for (px, py), point in zip(places, points, strict=True):
        low, high = point["test"]["low"], point["test"]["high"]
        if low is not None and high is not None:
            canvas.line(px, scales.y(low), px, scales.y(high), ACCURACY)
        canvas.dots(np.array([px]), np.array([py]), ACCURACY, 11 if point is points[-1] else 8)
    if places:
        text = times_text(points[-1]["ratio"])
        bounds = Box(left, frame.y, width, frame.height - frame.bottom)
        size, levels = (canvas.measure(text, size=10.5) + 4, 15.0), [] if dense is None else [scales.y(dense)]
        if (box := place_label(places[-1], size, bounds, places, levels, 10)) is not None:
            canvas.text(box.x + 2, box.y + 7.5, text, size=10.5)


def _epochs(shown: Shown) -> tuple[float, float]:
    now = shown["progress"]
    return 0.0, float(max(1, round_ends(now)[-1])) if now is not None else 1.0


@dataclass(frozen=True, slots=True)
class _Chart:
    """A chart over all epochs."""

    canvas: Canvas
    scales: LineScales

    def axes(self, title: str, words: Callable[[float], str], shown: Shown, epochs: bool = False) -> None:
        """Draw the title, the grid, the ticks' values and the boundaries of rounds."""
        canvas, frame = self.canvas, self.scales.frame
        left, top, width, height = frame.plot
        room = width - _LEGEND_ROOM if not epochs else width
        canvas.text(
            frame.x, frame.y + 6, canvas.fitted(title, room, size=10.5, bold=True), size=10.5, bold=True, color=MUTED
        )
        for tick in self.scales.y_ticks:
            y = self.scales.y(tick)
            canvas.line(left, y, left + width, y, FAINT)
            canvas.text(left - 7, y, words(tick), size=10, color=MUTED, align="right")
        for tick in self.scales.x_ticks if epochs else ():
            text = "epoch" if tick == 0 else f"{tick:g}"
            canvas.text(self.scales.x(tick), top + height + 12, text, size=10, color=MUTED, align="center")
        now = shown["progress"]
        for end in round_ends(now)[:-1] if now is not None else ():
            x = self.scales.x(end)
            canvas.line(x, top, x, top + height, LINE)

    def band(self, at: Sequence[float], low: Column, high: Column) -> None:
        """Fill between the ends of the intervals, where both are known; a single interval is a line."""
        known = [(x, a, b) for x, a, b in zip(at, low, high, strict=True) if a is not None and b is not None]
        upper = [(self.scales.x(x), self.scales.y(b)) for x, _, b in known]
        lower = [(self.scales.x(x), self.scales.y(a)) for x, a, _ in known]
        if len(known) == 1:
            self.canvas.lines([np.array([*upper, *lower])], _BAND, 3)
        elif known:
            self.canvas.fill([np.array([*upper, *lower[::-1]])], _BAND)

    def line(
        self,
        at: Sequence[float],
        values: Column,
        color: str,
        width: float,
        *,
        dots: bool = False,
        steps: bool = False,
        dashes: Any = "solid",
    ) -> None:
        """Draw a line through the values, with gaps where one is missing; in `steps` each holds from the one before."""
        runs: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(at, values, strict=True):
            place = self.scales.x(x), math.nan if y is None else self.scales.y(y)
            if not math.isfinite(place[1]):
                runs.append([])
                continue
            if steps and runs[-1]:
                runs[-1].append((runs[-1][-1][0], place[1]))
            runs[-1].append(place)
        self.canvas.lines([np.array(run) for run in runs if len(run) > 1], color, width, dashes=dashes)
        places: Floats = np.array([place for run in runs for place in run]).reshape(-1, 2)
        if dots and len(places):
            self.canvas.dots(places[:, 0], places[:, 1], color, 4.4)

    def level(self, value: float) -> None:
        """Draw a dashed line at a value."""
        left, _, width, _ = self.scales.frame.plot
        y = self.scales.y(value)
        self.canvas.line(left, y, left + width, y, MUTED, dashes=_DASHES)

    def legend(self, came: str | None) -> None:
        """Name the lines at the right end of the title's line, where none of them runs."""
        frame = self.scales.frame
        right, y = frame.x + frame.width - frame.right, frame.y + 6
        lines = [("╌ training", ACCURACY)]
        if came is not None:
            lines += [
                ("● validation, 95\N{NARROW NO-BREAK SPACE}% interval", ACCURACY),
                (f"┄ before {came}", MUTED),
            ]
        for text, color in lines:
            right -= self.canvas.text(right, y, text, size=10, color=color, align="right") + 10


_LEGEND_ROOM: Final = 345.0
