"""Every figure of the monitor's page is the run's: texts, curves, rounds and the table are read back."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Locator

import shrinkwidget as sw
from shrinkwidget.figures.numbers_and_recipes_as_text import bytes_text, times_text, weight_text
from shrinkwidget.widgets.monitor import Monitor

from .standalone_page import BarePage, plain

WAIT_SECONDS = 180
HALF_PIXEL = 0.06


@pytest.fixture(scope="module")
def monitor() -> Iterator[Monitor]:
    """Return the monitor of a real training in three rounds."""
    images, labels = sw.demo.data("train")
    run = sw.prune_and_retrain(
        sw.demo.model(),
        (images[:192], labels[:192]),
        sw.demo.data(),
        sw.Recipe(sparsity=0.9, bits=4),
        sw.methods.FineTune(epochs=2),
        rounds=3,
        background=True,
    )
    made = sw.monitor(run)
    assert run.wait(WAIT_SECONDS)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, monitor: Monitor) -> Iterator[BarePage]:
    """Open the monitor on a page of its own; the test fails if the page complained."""
    bare = BarePage.open(context.new_page(), monitor, "monitor")
    bare.painted()
    yield bare
    assert bare.complaints == []


def run_of(monitor: Monitor) -> sw.results.TrainingRun:
    assert monitor.run is not None
    return monitor.run


def places(path: str) -> list[tuple[float, float]]:
    """Return the points of a path of straight lines, horizontal and vertical ones among them."""
    points: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MLHV])([-\d. ]+)", path):
        values = [float(n) for n in numbers.split()]
        if command == "H":
            points.append((values[0], points[-1][1]))
        elif command == "V":
            points.append((points[-1][0], values[0]))
        else:
            points.append((values[0], values[1]))
    return points


class Axes:
    """A chart and its axes, read off their ticks."""

    def __init__(self, chart: Locator, log: bool = False, log_across: bool = False) -> None:
        self.chart = chart
        script = """(texts) => texts.map((t) => ({
          text: t.textContent, x: t.getAttribute("x"), anchor: t.getAttribute("text-anchor"),
          y: t.parentElement.getAttribute("transform")?.match(/translate\\(0 ([\\d.]+)\\)/)?.[1] }))"""
        texts = chart.locator(".sw-axis-text text").evaluate_all(script)
        number = re.compile(r"-?[\d.]+(e-?\d+)?")
        self.log, self.log_across = log, log_across
        self.up = [
            (float(t["y"]), float(number.match(plain(t["text"]))[0]) / (100 if "%" in t["text"] else 1))  # type: ignore[index]
            for t in texts
            if t["y"]
        ]
        self.across = [
            (float(t["x"]), float(number.match(plain(t["text"]))[0]))  # type: ignore[index]
            for t in texts
            if not t["y"] and t["anchor"] == "middle" and number.match(t["text"])
        ]
        assert min(len(self.up), len(self.across) or 2) >= 2

    def value(self, y: float) -> float:
        return _between(y, sorted(self.up), self.log)

    def epoch(self, x: float) -> float:
        return _between(x, sorted(self.across), self.log_across)


def _between(at: float, ticks: list[tuple[float, float]], log: bool) -> float:
    (a, low), (b, high) = ticks[0], ticks[-1]
    if not log:
        return low + (high - low) * (at - a) / (b - a)
    return 10 ** (math.log10(low) + (math.log10(high) - math.log10(low)) * (at - a) / (b - a))


def chart(page: BarePage, name: str) -> Locator:
    return page.page.locator(f"svg[aria-label='{name} over the epochs']")


def test_the_curves_are_the_history(page: BarePage, monitor: Monitor) -> None:
    run = run_of(monitor)
    baseline, history = run.baseline, run.history
    assert baseline is not None
    scores = [baseline.to_dict(), *(row["test"] for row in history)]
    losses = Axes(chart(page, "loss, training"))
    assert [value for _, value in losses.across] == [1, 2, 3, 4, 5, 6]
    line = places(losses.chart.locator(".sw-line-loss").get_attribute("d") or "")
    assert [losses.epoch(x) for x, _ in line] == pytest.approx(range(1, 7), abs=0.01)
    assert [losses.value(y) for _, y in line] == pytest.approx([row["loss"] for row in history], abs=0.01)
    axes = Axes(chart(page, "accuracy"))
    line = places(axes.chart.locator(".sw-line-test").get_attribute("d") or "")
    assert [losses.epoch(x) for x, _ in line] == pytest.approx(range(7), abs=0.01)
    assert [axes.value(y) for _, y in line] == pytest.approx([score["value"] for score in scores], abs=0.002)
    band = places((page.part("band").get_attribute("d") or "").rstrip("Z"))
    assert [axes.value(y) for _, y in band[:7]] == pytest.approx([score["high"] for score in scores], abs=0.002)
    assert [axes.value(y) for _, y in band[:6:-1]] == pytest.approx([score["low"] for score in scores], abs=0.002)
    trained = places(axes.chart.locator(".sw-line-train").get_attribute("d") or "")
    assert [axes.value(y) for _, y in trained] == pytest.approx([row["train"] for row in history], abs=0.002)
    came = float(axes.chart.locator(".sw-as-it-came").get_attribute("y1") or 0)
    assert axes.value(came) == pytest.approx(baseline.value, abs=0.002)
    rounds = places(axes.chart.locator(".sw-rounds").get_attribute("d") or "")
    assert [losses.epoch(x) for x, _ in rounds[::2]] == pytest.approx([2, 4], abs=0.01)
    rates = Axes(chart(page, "learning rate"), log=True)
    steps = places(rates.chart.locator(".sw-line-rate").get_attribute("d") or "")
    assert rates.value(steps[-1][1]) == pytest.approx(history[-1]["lr"], rel=0.03)


def test_the_legend_names_each_line(page: BarePage, monitor: Monitor) -> None:
    keys = {
        name: plain(page.page.locator(f".sw-key-{name}").text_content() or "") for name in ("came", "test", "train")
    }
    baseline = run_of(monitor).baseline
    assert baseline is not None
    assert keys == {
        "came": f"┄ before {100 * baseline.value:.1f} %",
        "test": "● validation, 95 % interval",
        "train": "╌ training",
    }


def test_the_figures_are_those_of_the_last_step(page: BarePage, monitor: Monitor) -> None:
    run = run_of(monitor)
    now = run.progress
    assert now is not None
    assert now.test is not None
    assert page.words("test") == f"{100 * now.test.value:.1f} %"
    assert page.words("interval") == f"{100 * now.test.low:.1f}–{100 * now.test.high:.1f} %"
    assert page.words("train") == f"{100 * (now.train or 0):.1f} %"
    assert float(page.words("loss")) == pytest.approx(now.loss, abs=0.0006)
    assert float(page.words("lr")) == pytest.approx(now.lr, rel=0.01)
    assert page.words("sparsity") == f"{100 * now.sparsity:.1f} %"
    assert page.words("nbytes") == plain(bytes_text(now.nbytes or 0))
    assert page.words("ratio") == f"{times_text(now.ratio or 0)} smaller"
    assert page.words("place") == "6 of 6 epochs"
    assert page.words("run-state") == "done"


@pytest.mark.parametrize(("eta", "words"), [(125.0, "2 min 5 s left"), (48.2, "48 s left"), (4320, "1 h 12 min left")])
def test_the_time_left_is_what_python_expects(page: BarePage, monitor: Monitor, eta: float, words: str) -> None:
    progress = {**monitor._progress, "eta": eta, "rate": 3410.4, "phase": "train", "round": 2, "epoch": 1}
    progress |= {"step": 5, "steps": 23}
    page.tell({"_state": "running", "_progress": progress})
    assert page.words("place") == "round 2 of 3 · epoch 1 of 2 · step 5 of 23"
    assert plain(page.page.locator(".sw-run-place .sw-caption").inner_text()) == f"3,410 examples a second · {words}"
    bar = page.page.get_by_role("progressbar", name="epochs done")
    assert float(bar.get_attribute("aria-valuenow") or 0) == pytest.approx(2 + 5 / 23, abs=0.06)
    assert bar.get_attribute("aria-valuemax") == "6"


def test_each_round_is_a_point_of_score_against_size(page: BarePage, monitor: Monitor) -> None:
    points = run_of(monitor).points
    axes = Axes(page.part("trade-off"), log_across=True)
    script = "(all) => all.map((c) => [c.getAttribute('cx'), c.getAttribute('cy'), c.getAttribute('class')])"
    found = axes.chart.locator(".sw-points circle").evaluate_all(script)
    assert [axes.epoch(float(x)) for x, _, _ in found] == pytest.approx([p["ratio"] for p in points], rel=0.02)
    assert [axes.value(float(y)) for _, y, _ in found] == pytest.approx([p["test"]["value"] for p in points], abs=0.002)
    assert [bool(name) for *_, name in found] == [False, False, True]
    assert plain(axes.chart.locator(".sw-point-label").text_content() or "") == times_text(points[-1]["ratio"])
    ends = "(all) => all.map((l) => [l.getAttribute('y2'), l.getAttribute('y1')])"
    for (high, low), point in zip(axes.chart.locator(".sw-interval").evaluate_all(ends), points, strict=True):
        assert axes.value(float(high)) == pytest.approx(point["test"]["high"], abs=0.002)
        assert axes.value(float(low)) == pytest.approx(point["test"]["low"], abs=0.002)


def test_the_table_has_a_row_for_every_epoch(page: BarePage, monitor: Monitor) -> None:
    page.part("epochs-table").click()
    page.painted()
    script = "(rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText))"
    rows = page.page.locator(".sw-run table tbody tr").evaluate_all(script)
    history = run_of(monitor).history
    assert [row[0] for row in rows] == ["6", "5", "4", "3", "2", "1", "before"]
    for row, epoch in zip(rows, reversed(history), strict=False):
        test = epoch["test"]
        assert [plain(cell) for cell in row[1:]] == [
            f"{epoch['loss']:.4f}",
            f"{100 * epoch['train']:.1f} %",
            f"{100 * test['value']:.1f} %",
            f"{100 * test['low']:.1f}–{100 * test['high']:.1f} %",
            plain(weight_text(epoch["lr"])),
            f"{100 * epoch['sparsity']:.1f} %",
        ]
