"""Training in a real JupyterLab: started from the explorer, watched, paused, resumed, stopped, kept."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import Locator, expect

import shrinkwidget as sw

from .conftest import Open
from .explorer_page import ExplorerPage
from .jupyterlab_server import Lab
from .notebook_page import Notebook

LONG = 60_000
DIRTY = "window.jupyterapp.shell.currentWidget.context.model.dirty"
EXPLORE = """
import os
import shrinkwidget as sw
model = sw.demo.model()
recipe = sw.Recipe(sparsity=0.93, bits=4)
ex = sw.explore(model, sw.demo.data(), recipe, train_data=sw.demo.data("train"))
ex
"""
SHARED = (EXPLORE,)
BLOCK = """
small = sw.retrain(sw.compress(model, recipe), sw.demo.data("train"), sw.demo.data(), sw.methods.FineTune(epochs=500))
"""
TRANSFER = """
strategy = sw.methods.GradualUnfreezing(epochs=3000, first=sw.methods.LinearProbe(epochs=10))
found = sw.transfer(model, sw.demo.few(3), sw.demo.data("valid"), strategy=strategy)
"""
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"


def part(monitor: Locator, name: str) -> Locator:
    return monitor.get_by_test_id(name)


def setup(book: Notebook, epochs: int) -> Locator:
    """Start a training from the explorer, and return its monitor once an epoch is complete."""
    page = ExplorerPage.first(book)
    page.score()
    page.press("retrain")
    monitor = book.page.get_by_test_id("monitor")
    part(monitor, "epochs").fill(str(epochs))
    part(monitor, "start").click()
    # a short training may be over before anybody looks
    complete = re.compile(rf"epoch (?!1 )\d+ of {epochs}|{epochs} of {epochs} epochs")
    expect(part(monitor, "place")).to_contain_text(complete, timeout=LONG)
    return monitor


def test_a_training_is_started_from_the_explorer_and_its_result_comes_back(book: Notebook) -> None:
    monitor = setup(book, 4)
    expect(part(monitor, "run-state")).to_have_text("done", timeout=LONG)
    book.until("len(ex.history) == 2")
    plain, retrained = book.python("[(point['provenance'], point['value'], point['nbytes']) for point in ex.history]")
    assert (plain[0], retrained[0]) == ("no retraining", "fine-tuned 4 epochs, quantization-aware")
    assert plain[2] == retrained[2]
    assert retrained[1] > 0.95 > plain[1]
    shown = float(part(monitor, "test").get_attribute("data-value") or 0)
    assert shown == book.python("ex.run.history[-1]['test']['value']")
    assert part(monitor, "nbytes").inner_text() == ExplorerPage.first(book).part("size-now").inner_text()
    points = ExplorerPage.first(book).part("scatter").locator("[role=button]")
    expect(points).to_have_count(2)
    labels = [points.nth(i).get_attribute("aria-label") or "" for i in range(2)]
    assert sum("fine-tuned 4 epochs" in label for label in labels) == 1
    came = book.python("ex.run.baseline.value")
    assert came == plain[1]
    assert f"before {100 * came:.1f}" in part(monitor, "legend").text_content().replace("\u00a0", " ")  # type: ignore[union-attr]
    dots = monitor.locator(".sw-line-dots circle")
    expect(dots).to_have_count(5)  # the start, and four epochs
    assert (part(monitor, "band").get_attribute("d") or "").count("L") == 9
    low, high = book.python("[ex.run.history[-1]['test'][end] for end in ('low', 'high')]")
    assert part(monitor, "interval").inner_text().replace("\u00a0", " ") == f"{100 * low:.1f}–{100 * high:.1f} %"
    expect(ExplorerPage.first(book).part("shapes")).to_contain_text("retrained")
    SHOTS.mkdir(parents=True, exist_ok=True)
    monitor.screenshot(path=SHOTS / "monitor-light.png")


WATCH_FRAMES = """() => {
    window.framesSeen = [];
    const explorer = document.querySelector("[data-testid=budget]");
    const at = (name) => Number(document.querySelector(`[data-testid=${name}]`).dataset.bytes);
    const look = () => {
        if (!explorer.isConnected) return;  // the cell runs again, for the next test
        window.framesSeen.push([at("budget"), at("size-now")]);
        if (window.framesSeen.length < 3000) requestAnimationFrame(look);
    };
    look();
}"""


def test_a_budget_is_dragged_and_what_it_costs_is_recovered_without_training(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.score()
    budget = page.part("budget")
    expect(budget).to_have_attribute("data-ready", "true", timeout=LONG)
    page.press("layers-table")
    layers = page.part("layer-tables").locator("table").first.locator("tbody tr")
    assert {row.split("\t")[4] for row in layers.all_inner_texts()} == {"4"}
    book.page.evaluate(WATCH_FRAMES)
    page.drag_to(0.5, slider="budget")
    page.drag_to(0.03, steps=40, slider="budget")
    asked, nbytes = int(budget.get_attribute("data-bytes") or 0), page.settled_bytes()
    frames = [tuple(pair) for pair in book.page.evaluate("window.framesSeen")]
    assert len({size for _, size in frames}) > 8
    assert all(size <= most for most, size in frames)
    assert book.python("(ex.budget, ex.estimate.nbytes, ex.compress().nbytes)") == (asked, nbytes, nbytes)
    assert book.python("ex.recipe == sw.plan(model, ex.budget).recipe")
    bits = book.python("[str(plan.bits) for plan in ex.recipe.resolve([x.name for x in ex.sketch.layers])]")
    expect(layers.locator(":scope > :nth-child(5)")).to_have_text(bits)  # the table rests a moment before it follows
    assert len(set(bits)) > 1
    before = page.score()
    page.press("recover")
    expect(page.part("provenance")).to_contain_text("recovered on 512 training examples", timeout=LONG)
    assert page.score() > before
    assert page.settled_bytes() == nbytes
    assert book.python("ex.compress().provenance").endswith("error compensation, batch norm recalibrated")
    expect(page.part("shapes")).to_contain_text("recovered")
    plain = page.part("scatter").locator(".sw-points path:not([data-result])").first
    plain.click()
    expect(page.part("provenance")).to_have_text("no retraining")
    assert page.score() == before
    page.part("scatter").locator("[aria-label*='Go back to this recovered model']").click()
    expect(page.part("provenance")).to_contain_text("recovered on 512")
    page.press("undo")
    page.press("undo")
    book.until("ex.recipe == recipe and ex.budget is None")
    expect(page.part("provenance")).to_have_text("no retraining")


def test_a_training_is_paused_resumed_and_stopped(book: Notebook) -> None:
    monitor = setup(book, 500)
    part(monitor, "pause").click()
    expect(part(monitor, "run-state")).to_have_text("paused")
    where = "(ex.run.progress.epoch, ex.run.progress.step, ex.run.progress.phase)"
    book.page.wait_for_timeout(1000)  # it rests after the step that is being taken
    before = book.python(where)
    book.page.wait_for_timeout(1000)
    assert book.python(where) == before
    assert part(monitor, "sparsity").inner_text().replace("\u00a0", " ") == "93.0 %"
    assert book.page.evaluate(DIRTY) is True
    part(monitor, "resume").focus()
    book.page.keyboard.press("Control+s")
    book.page.wait_for_function(f"() => {DIRTY} === false")
    part(monitor, "resume").focus()
    book.page.keyboard.press("Escape")
    assert book.page.evaluate("document.activeElement.closest('.sw-explorer, .jp-Cell').matches('.jp-Cell')")
    part(monitor, "resume").click()
    book.until(f"{where} != {before}")
    part(monitor, "stop").click()
    expect(part(monitor, "run-state")).to_have_text("stopped early", timeout=LONG)
    assert re.fullmatch(r"fine-tuned \d+ of 500 epochs, quantization-aware", book.python("ex.run.result.provenance"))
    weights = "(p for p in ex.run.result.model.parameters() if p.ndim > 1)"
    nonzero = book.python(f"sum(p.count_nonzero().item() for p in {weights})")
    assert nonzero <= book.python("sum(layer.kept for layer in ex.estimate.layers)")


def test_what_was_trained_is_kept_in_a_variable_and_in_a_file(book: Notebook, jupyterlab: Lab) -> None:
    monitor = setup(book, 2)
    expect(part(monitor, "run-state")).to_have_text("done", timeout=LONG)
    part(monitor, "keep").click()
    part(monitor, "keep-input").fill("kept")
    part(monitor, "keep-go").click()
    expect(part(monitor, "kept")).to_contain_text("kept is the compressed model")
    assert book.python("kept is ex.run.result")
    part(monitor, "save").click()
    part(monitor, "save-input").fill("trained.safetensors")
    part(monitor, "save-go").click()
    expect(part(monitor, "kept")).to_contain_text("saved")
    assert (jupyterlab.folder / "trained.safetensors").stat().st_size == book.python("kept.nbytes")


def test_a_figure_of_the_training_is_saved_and_its_line_makes_it_again(book: Notebook, jupyterlab: Lab) -> None:
    monitor = setup(book, 2)
    expect(part(monitor, "run-state")).to_have_text("done", timeout=LONG)
    part(monitor, "figure").click()
    assert part(monitor, "figure-kind").locator("option").all_inner_texts() == ["training"]  # there is but one round
    part(monitor, "figure-width").select_option("ieee-double")
    part(monitor, "figure-format").select_option("svg")
    expect(part(monitor, "figure-input")).to_have_value("digitnet-training.svg")
    part(monitor, "figure-go").click()
    expect(part(monitor, "kept")).to_contain_text("saved")
    saved = jupyterlab.folder / "digitnet-training.svg"
    (chart,) = sw.figures.read(saved)["charts"]
    assert (chart["kind"], chart["n"]) == ("training", [360])
    thumbnail = part(monitor, "saved-figure").locator("img")
    expect(thumbnail).to_be_visible()
    assert thumbnail.evaluate("async (img) => (await img.decode(), img.naturalWidth)") == 480
    code = part(monitor, "saved-figure").locator("input").input_value()
    assert code == "sw.figures.save(ex.run.figure('training', width='ieee-double'), 'digitnet-training.svg')"
    drawn = saved.read_bytes()
    saved.unlink()
    assert book.python(f"str({code})") == saved.name
    assert saved.read_bytes() == drawn

    part(monitor, "figure").click()
    part(monitor, "figure-input").fill("missing/training.pdf")
    part(monitor, "figure-go").click()
    expect(part(monitor, "kept")).to_have_attribute("data-kind", "failed")
    expect(part(monitor, "kept")).to_contain_text("there is no folder")


def test_a_training_that_blocks_its_cell_is_paused_and_stopped_from_its_monitor(open_notebook: Open) -> None:
    book = open_notebook("\n".join(EXPLORE.splitlines()[:-2]), BLOCK)
    book.run(0)
    book.start(1)
    monitor = book.cell(1).get_by_test_id("monitor")
    expect(part(monitor, "place")).to_contain_text(re.compile("epoch (?!1 )[0-9]+ of 500"), timeout=LONG)
    part(monitor, "pause").click()
    expect(part(monitor, "run-state")).to_have_text("paused")
    assert book.running(1)
    part(monitor, "stop").click()
    expect(part(monitor, "run-state")).to_have_text("stopped early", timeout=LONG)
    book.until("'small' in globals() and small.provenance.endswith('of 500 epochs, quantization-aware')")


def test_a_transfer_is_watched_through_its_stages_stopped_and_saved(open_notebook: Open) -> None:
    book = open_notebook("\n".join(EXPLORE.splitlines()[:-2]), TRANSFER)
    book.run(0)
    book.start(1)
    monitor = book.cell(1).get_by_test_id("monitor")
    expect(part(monitor, "place")).to_contain_text(re.compile(r"stage 2 of 3 · epoch \d+ of 3,?000"), timeout=LONG)
    expect(monitor).to_have_count(1)  # not one a stage
    rounds = monitor.locator(".sw-rounds").first.get_attribute("d") or ""
    assert rounds.count("M") == 2
    expect(part(monitor, "trade-off")).to_have_count(0)  # its stages are no rounds of pruning
    assert float(monitor.get_by_role("progressbar").get_attribute("aria-valuemax") or 0) == 6010
    SHOTS.mkdir(parents=True, exist_ok=True)
    monitor.screenshot(path=SHOTS / "monitor-transfer.png")
    part(monitor, "stop").click()
    expect(part(monitor, "run-state")).to_have_text("stopped early", timeout=LONG)
    book.until("found.score is not None")
    assert re.fullmatch(r"transferred, unfrozen in 3 stages, \d+ epochs", book.python("found.provenance"))
    expect(part(monitor, "keep")).to_have_text("Keep transferred model in a variable")
    part(monitor, "save").click()
    part(monitor, "save-go").click()
    expect(part(monitor, "kept")).to_contain_text(f"{book.python('found.nbytes'):,} bytes")


def test_what_cannot_begin_says_why(open_notebook: Open) -> None:
    broken = EXPLORE.replace('sw.demo.data("train")', "(sw.demo.data()[0], sw.demo.data()[1] + 50)")
    book = open_notebook(broken)
    book.run(0)
    page = ExplorerPage.first(book)
    page.score()
    page.press("retrain")
    monitor = book.page.get_by_test_id("monitor")
    epochs = part(monitor, "epochs").input_value()
    part(monitor, "epochs").fill("0")
    expect(part(monitor, "start")).to_be_disabled()
    expect(part(monitor, "start-hint")).to_have_text("epochs is a whole number from 1")
    part(monitor, "epochs").fill(epochs)
    expect(part(monitor, "start-hint")).to_have_count(0)
    part(monitor, "start").click()
    expect(part(monitor, "place")).to_contain_text("out of range", timeout=LONG)
    expect(part(monitor, "run-state")).to_have_text("failed")
    page.slide_to(50)
    page.settled_bytes()


def test_a_kernel_that_goes_in_the_middle_of_a_training_is_told_at_once(book: Notebook) -> None:
    monitor = setup(book, 500)
    expect(part(monitor, "run-state")).to_have_text("running")
    book.restart_kernel()
    expect(part(monitor, "run-state")).to_have_text("kernel disconnected", timeout=10_000)
    expect(part(monitor, "pause")).to_be_disabled()
    expect(part(monitor, "place")).to_contain_text("training stopped")
    expect(monitor).not_to_contain_text("left")
