"""Sensitivity, changes by class and recalibrated batch norm on the page: every number is Python's."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, expect
from torch import nn

import shrinkwidget as sw
from shrinkwidget.performance.device_fit import known_devices
from shrinkwidget.widgets.explorer import _WORKER, Explorer

from .conftest import Open
from .explorer_page import ExplorerPage
from .live_page import LivePage
from .standalone_page import BarePage, plain

VALID, TRAIN = sw.demo.data("valid"), sw.demo.data("train")
RECALIBRATED = "batch norm recalibrated on 512 training examples"
PIXELS = "canvas => [...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    made = sw.explore(sw.demo.model(), VALID, train_data=TRAIN, sparsity=0.85, bits=4)
    assert made.wait(120)
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(browser: Browser, explorer: Explorer) -> Iterator[BarePage]:
    context = browser.new_context()
    context.set_default_timeout(10_000)
    opened = BarePage.open(context.new_page(), explorer)
    yield opened
    assert opened.complaints == []
    context.close()


def deliver(page: BarePage, explorer: Explorer) -> None:
    """Let the kernel hear what the buttons have sent, and the page what it says once all work is done."""
    for command in page.page.evaluate("window.heard.then(() => model.sent.splice(0))"):
        explorer._on_command(explorer, command, [])
    assert _WORKER.wait(explorer._sensitivity_key, 120)
    page.settle()


def one_decimal(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_the_button_brings_a_sparkline_into_every_row_and_its_numbers_into_tips_table_and_words(
    page: BarePage, explorer: Explorer
) -> None:
    assert "sensitivity" not in [text["text"] for text in page.canvas("ridge-canvas")["texts"]]
    page.part("sensitivity").click()
    deliver(page, explorer)
    found = explorer.sensitivity
    assert found is not None
    assert "all 287 examples" in page.words("sensitivity-line")
    assert "one layer at a time pruned to 50 % … 99 %" in page.words("sensitivity-line")

    title = next(text for text in page.canvas("ridge-canvas")["texts"] if text["text"] == "sensitivity")
    first = explorer.sketch.layers[0].label
    page.part("ridge-canvas").hover(position={"x": title["x"] - 30, "y": 40})
    tip = plain(page.view.locator(".sw-tip").inner_text())
    expected = [
        f"{100 * s:g} %: {one_decimal(x.value)}" for s, x in zip(found.amounts, found.layers[0].scores, strict=True)
    ]
    assert all(text in tip for text in [first, f"{one_decimal(found.dense.value)} dense", *expected])
    page.page.mouse.move(0, 0)

    page.part("ridge").focus()
    row = plain(page.part("ridge").locator("[role=treeitem]").inner_text())
    assert expected[-1] in row

    page.part("layers-table").click()
    rows = page.table("layer-tables")
    drops = {row[0]: row[-1] for row in rows if len(row) == 10}
    assert drops == {layer.label: one_decimal(found.drop(layer.name)).replace("-0.0", "0.0") for layer in found.layers}
    page.part("layers-table").click()


def test_every_sparkline_has_the_height_of_its_scores_on_one_scale(page: BarePage, explorer: Explorer) -> None:
    if explorer.sensitivity is None:
        page.part("sensitivity").click()
        deliver(page, explorer)
    found = explorer.sensitivity
    assert found is not None
    green = page.view.evaluate("root => getComputedStyle(root).getPropertyValue('--sw-accuracy').trim()")
    lines = [line["path"] for line in page.canvas("ridge-canvas")["solid"] if line["color"] == green]
    assert len(lines) == len(found.layers) == 14
    values = [[score.value for score in layer.scores] for layer in found.layers]
    high = max(found.dense.value, *(value for scores in values for value in scores))
    low = min(found.dense.value, high - 0.1, *(value for scores in values for value in scores))
    deepest = max((max(y for _, y in line) - min(y for _, y in line), i) for i, line in enumerate(lines))[1]
    drop = max(values[deepest]) - min(values[deepest])
    scale = (max(y for _, y in lines[deepest]) - min(y for _, y in lines[deepest])) / drop
    for line, scores in zip(lines, values, strict=True):
        steps = [b[0] - a[0] for a, b in pairwise(line)]
        assert steps == pytest.approx([steps[0]] * len(steps))
        assert [y - line[0][1] for _, y in line] == pytest.approx([scale * (scores[0] - s) for s in scores], abs=0.01)
    assert 8 < scale * (high - low) < 40, "the scale spans all scores of all rows"


def test_a_row_marks_where_it_stands_and_the_switch_hides_the_lines(page: BarePage, explorer: Explorer) -> None:
    if explorer.sensitivity is None:
        page.part("sensitivity").click()
        deliver(page, explorer)
    green = """canvas => {
      const [r, g, b] = getComputedStyle(document.querySelector('.sw-explorer')).getPropertyValue('--sw-accuracy')
        .match(/[0-9a-f]{2}/g).map((x) => parseInt(x, 16));
      const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
      let n = 0;
      for (let i = 0; i < data.length; i += 4) n += data[i] === r && data[i + 1] === g && data[i + 2] === b;
      return n;
    }"""
    assert page.part("ridge-canvas").evaluate(green) > 14 * 20
    page.part("sensitivity").click()
    page.painted()
    assert page.part("ridge-canvas").evaluate(green) == 0
    assert page.part("sensitivity-line").count() == 0
    assert page.part("sensitivity").get_attribute("aria-pressed") == "false"
    page.part("sensitivity").click()
    # it is known: nothing is measured again
    assert page.page.evaluate("window.heard.then(() => model.sent.length)") == 0


def test_bits_are_asked_for_and_stop_stops(page: BarePage, explorer: Explorer) -> None:
    page.part("sensitivity-kind").locator("label:has(input[value='bits'])").click()
    assert page.page.evaluate("window.heard.then(() => model.sent)") == [{"do": "sensitivity", "kind": "bits"}]
    deliver(page, explorer)
    assert explorer.sensitivity is not None
    assert explorer.sensitivity.kind == "bits"
    assert "one layer at a time quantized to 8 bits … 2 bits" in page.words("sensitivity-line")
    told = dict(explorer._sensitivity or {})
    page.tell({"_sensitivity": {**told, "state": "running", "pending": 3}})
    page.part("sensitivity-stop").click()
    assert page.page.evaluate("window.heard.then(() => model.sent.splice(0))") == [{"do": "stop_sensitivity"}]
    page.tell({"_sensitivity": {**told, "state": "failed", "text": "the data failed to give batch 2"}})
    assert page.words("sensitivity-line").startswith("the data failed to give batch 2")
    page.part("sensitivity-again").click()
    assert page.page.evaluate("window.heard.then(() => model.sent.splice(0))") == [
        {"do": "sensitivity", "kind": "bits"}
    ]
    page.tell()


def test_by_class_tells_what_suffers_and_unfolds_into_changes_confusions_and_images(
    page: BarePage, explorer: Explorer
) -> None:
    changes = sw.compare_predictions(sw.demo.model(), explorer.compress(), VALID)
    lost = [c for c in changes.by_class if c.after <= 0.1]
    assert lost
    assert f"lost: class {lost[0].label}" in page.words("classes-summary")
    assert f"{len(changes.misread)} misread that were right" in page.words("classes-summary")
    expect(page.part("classes-body")).to_be_hidden()
    page.part("classes").click()
    for label, _, before, after in changes.by_class:
        row = page.part(f"class-{label}")
        assert plain(row.inner_text()).split("\n")[-1].startswith(f"{label} {100 * before:.0f} → {100 * after:.0f} %")
        assert (row.get_attribute("data-lost") == "true") == (label in [c.label for c in lost])
        track = row.locator(".sw-class-track").evaluate("""track => {
            const [bar, mark] = ["i", "b"].map((tag) => track.querySelector(tag).getBoundingClientRect());
            const {left, width} = track.getBoundingClientRect();
            return [bar.width / width, (mark.left + mark.width / 2 - left) / width];
        }""")
        assert track == pytest.approx([after, before], abs=0.04)
    shown = [plain(text) for text in page.part("confusions").locator("li").all_inner_texts()]
    expected = [
        f"{c.label} → {c.predicted} {c.after}×" + (f" {c.before}× before" if c.before else "")
        for c in changes.confusions[:10]
        if c.after
    ]
    assert shown == expected

    images = explorer._by_class["images"] if explorer._by_class else []
    pictures = page.part("misread").locator("li")
    assert pictures.count() == len(images) == 24
    for i in (0, 11, 23):
        grey = base64.b64decode(images[i]["pixels"])
        assert pictures.nth(i).locator("canvas").evaluate(PIXELS) == [x for g in grey for x in (g, g, g, 255)]
        assert plain(pictures.nth(i).inner_text()) == f"{images[i]['label']} → {images[i]['predicted']}"
        example = changes.misread[[m.example for m in changes.misread].index(images[i]["example"])]
        assert (example.label, example.predicted) == (images[i]["label"], images[i]["predicted"])

    page.part("classes-table").click()
    assert page.table("class-rows") == [
        [
            str(i),
            str(old.labels),
            *map(one_decimal, (old.accuracy, new.accuracy)),
            str(old.predicted),
            str(new.predicted),
        ]
        for i, (old, new) in enumerate(zip(changes.before.by_class, changes.after.by_class, strict=True))
    ]
    page.part("classes-table").click()


def test_the_switch_recalibrates_and_the_badge_the_buttons_and_the_history_say_so(
    page: BarePage, explorer: Explorer
) -> None:
    plain_score = explorer.score
    page.part("recalibrate").check()
    assert page.part("classes-summary").inner_text() == "follows with the score"
    page.settle()
    by_hand = sw.evaluate(sw.compress(sw.demo.model(), explorer.recipe), VALID, recalibrate_batchnorm=TRAIN)
    assert float(page.part("accuracy").get_attribute("data-value") or "nan") == by_hand.value
    assert page.words("provenance") == RECALIBRATED
    assert page.words("compress") == "Keep recalibrated model in a variable"
    assert page.words("save") == "Save recalibrated file"
    assert "no class does worse" in page.words("classes-summary")
    assert page.part("shapes").locator("text").all_text_contents() == ["not retrained", "recalibrated"]
    points = page.part("scatter").locator(".sw-points path")
    assert points.count() == 2
    plain_point = points.filter(has_not=page.page.locator(".sw-current")).and_(
        page.page.locator("[aria-label*='no retraining']")
    )
    plain_point.click()  # the way back is with the switch off
    page.settle()
    expect(page.part("recalibrate")).not_to_be_checked()
    assert plain_score is not None
    assert float(page.part("accuracy").get_attribute("data-value") or "nan") == plain_score.value
    assert page.words("provenance") == "no retraining"
    assert explorer.recalibrate_batchnorm is False


def test_a_switch_that_cannot_be_on_says_why(context: BrowserContext) -> None:
    without = sw.explore(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), VALID, train_data=TRAIN)
    assert without.wait(60)
    page = BarePage.open(context.new_page(), without)
    expect(page.part("recalibrate")).to_be_disabled()
    assert page.words("recalibrate-why") == "there is no batch norm with running statistics in this Sequential"
    without.close()


def test_nothing_of_classes_is_shown_where_there_are_none(context: BrowserContext) -> None:
    torch.manual_seed(0)
    regression = sw.explore(nn.Linear(8, 2), (torch.randn(40, 8), torch.randn(40, 2)), 0.5, metric="mse")
    assert regression.wait(60)
    page = BarePage.open(context.new_page(), regression)
    assert page.part("classes-summary").count() == 0
    page.part("sensitivity").click()
    deliver(page, regression)
    assert "mse, one layer at a time pruned" in page.words("sensitivity-line")
    regression.close()


@pytest.mark.parametrize("width", [320, 420, 700, 1000])
def test_on_narrow_pages_nothing_sticks_out(context: BrowserContext, explorer: Explorer, width: int) -> None:
    page = BarePage.open(context.new_page(), explorer, width=width)
    if page.part("classes").get_attribute("aria-expanded") == "false":
        page.part("classes").click()
    page.painted()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    root = page.box(".sw-frame")
    for selector in (".sw-classes", ".sw-sensitivity", ".sw-misread", ".sw-confusions", ".sw-switches"):
        box = page.box(selector)
        assert box["x"] >= root["x"]
        assert box["x"] + box["width"] <= root["x"] + root["width"] + 0.5


def test_a_page_without_a_kernel_shows_what_was_found_out(browser: Browser, explorer: Explorer, tmp_path: Path) -> None:
    explorer.to_html(tmp_path / "page.html")
    page = LivePage.open(browser, tmp_path / "page.html")
    assert "all 287 examples" in page.words("sensitivity-line")
    assert page.part("sensitivity-kind").count() == page.part("sensitivity-again").count() == 0
    assert "lost: class" in page.words("classes-summary")
    page.part("classes").click()
    assert page.part("misread").locator("li").count() == 24
    page.part("recalibrate").check()
    assert page.words("provenance") == RECALIBRATED
    page.drag_to(0.3)
    assert page.words("classes-summary") == "not evaluated: needs the kernel"
    page.close()


NOTEBOOK = """
import time, shrinkwidget as sw
model, valid, train = sw.demo.model(), sw.demo.data("valid"), sw.demo.data("train")
def slowly(module, inputs):
    time.sleep(0.03)
model.register_forward_pre_hook(slowly)  # or it is measured before Stop can be pressed
ex = sw.explore(model, valid, 0.85, bits=4, train_data=train)
ex
"""


def test_in_jupyterlab_a_recipe_is_scored_while_sensitivity_is_measured_and_stop_keeps_what_there_is(
    open_notebook: Open,
) -> None:
    book = open_notebook(NOTEBOOK)
    book.run(0)
    page = ExplorerPage.first(book)
    page.score()
    page.press("sensitivity")
    page.part("sensitivity-stop").wait_for()
    page.slide_to(80)
    page.settled_bytes()
    assert page.score() == book.python("ex.score.value")  # the sensitivity makes room
    assert page.part("sensitivity-line").get_attribute("data-state") == "running"
    book.until("ex.sensitivity is not None and len(ex.sensitivity.layers) >= 1")
    page.press("sensitivity-stop")
    expect(page.part("sensitivity-line")).to_have_attribute("data-state", "stopped")
    assert plain(page.part("sensitivity-line").inner_text()).split("examples")[1].startswith(", stopped")
    measured, pending = book.python("(len(ex.sensitivity.layers), ex.sensitivity.pending)")
    assert f"{measured} of {measured + pending} layers" in plain(page.part("sensitivity-line").inner_text())

    page.part("recalibrate").check()
    expect(page.part("provenance")).to_have_text(RECALIBRATED)
    by_hand = "sw.evaluate(sw.compress(model, ex.recipe), valid, recalibrate_batchnorm=train).value"
    assert page.score() == book.python(by_hand)
    page.ask("compress", "small")
    expect(page.part("status")).to_contain_text("small is the compressed model")
    assert book.python("small.provenance") == RECALIBRATED
    assert book.python("sw.evaluate(small, valid).value") == page.score()


def test_a_race_is_grey_until_it_is_run_and_stays_with_its_recipe(page: BarePage, explorer: Explorer) -> None:
    row = page.part("race")
    assert row.get_attribute("data-state") == "not-raced"
    assert "speed is not known until it is raced" in page.words("race")
    page.part("start-race").click()
    assert page.page.evaluate("window.heard.then(() => model.sent.splice(0))") == [{"do": "race"}]
    about = explorer._recipe, "", False
    explorer._tell_race("running", about, "timing at batch 1", 0.426)
    page.tell({"_race": explorer._race})
    assert plain(page.words("race-progress")) == "timing at batch 1, 42 % stop"
    assert page.part("start-race").is_disabled()
    page.part("stop-race").click()
    assert page.page.evaluate("window.heard.then(() => model.sent.splice(0))") == [{"do": "stop_race"}]

    told = json.loads(json.dumps(sw.results.Race.example().to_dict()).replace('"small"', '"now"'))
    race = sw.results.Race.from_dict(told)
    explorer._raced[about] = race
    explorer._tell_race("done", about)
    page.tell({"_race": explorer._race})
    assert row.get_attribute("data-state") == "raced"
    for batch in (1, 32):
        assert f"{race.ratio('now', batch).text} batch {batch}" in page.words("raced")
    assert race.conditions in page.words("raced")
    assert page.part("race-warning").count() == 0

    for at in told["batches"]:
        at["control_cpu"] = {"value": 1.2, "low": 0.9, "high": 1.4}
    explorer._raced[about] = sw.results.Race.from_dict(told)
    explorer._tell_race("done", about)
    page.tell({"_race": explorer._race})
    assert "this machine is too busy to tell at batch 1" in plain(page.part("race-warning").first.inner_text())

    other = explorer.recipe.with_(bits=7).to_json(), "", False
    explorer._raced = {other: race}
    explorer._tell_race("failed", about, "'now' cannot be run: ValueError")
    page.tell({"_race": explorer._race})
    assert row.get_attribute("data-state") == "not-raced"
    assert f"7 bits was {race.ratio('now', 1).text} at batch 1" in page.words("race-old")
    assert "'now' cannot be run" in page.words("race")
    explorer._raced.clear()


def test_devices_are_those_that_fit_and_are_pinned_as_a_table(page: BarePage, explorer: Explorer) -> None:
    memory = explorer._memory
    found = sw.results.DeviceFit(
        "model", explorer.estimate.nbytes, True, memory["weights"], memory["activations"], known_devices()
    )
    fitting = [str(row.fits).lower() for row in found.rows]
    assert plain(page.words("devices")) == f"fits {fitting.count('true')} of 12 devices"
    marks = page.part("devices").locator(".sw-fit-marks i")
    assert [mark.get_attribute("data-fits") for mark in marks.all()] == fitting
    page.part("devices").locator("button").hover()
    tip = plain(page.page.locator(".sw-tip").inner_text())
    assert f"✕ Arduino Uno R3: flash {found.rows[0].flash.text}" in tip
    page.part("devices").locator("button").focus()
    page.page.keyboard.press("Enter")
    rows = [[plain(cell) for cell in row] for row in page.table("devices-table")]
    assert rows == [[row.device.name, row.flash.text, row.ram.text] for row in found.rows]
    page.part("devices").locator("button").click()
    assert page.part("devices-table").count() == 0
