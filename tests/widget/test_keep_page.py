"""Nobody's work is lost: two models have two names, nothing is replaced unasked, a retrained point comes back."""

from __future__ import annotations

from playwright.sync_api import expect

from .conftest import Open
from .explorer_page import ExplorerPage
from .lab import Lab
from .test_monitor_page import EXPLORE, LONG, begun, part


def test_what_was_retrained_is_neither_overwritten_nor_lost(open_notebook: Open, jupyterlab: Lab) -> None:
    book = open_notebook(EXPLORE)
    book.run(0)
    monitor = begun(book, 2)
    page = ExplorerPage.first(book)
    expect(part(monitor, "run-state")).to_have_text("done", timeout=LONG)
    book.until("len(ex.history) == 2")

    # two buttons, two names
    assert part(monitor, "save").inner_text() == "Save retrained file"
    part(monitor, "save").click()
    retrained = part(monitor, "save-input").input_value()
    part(monitor, "save-go").click()
    expect(part(monitor, "kept")).to_contain_text("saved")
    page.press("save")
    plain = page.part("save-input").input_value()
    page.press("save-go")
    expect(page.part("status")).to_contain_text("saved")
    assert plain != retrained
    trained = (jupyterlab.folder / retrained).read_bytes()
    score = "sw.evaluate(sw.load({!r}, into=sw.demo.model()).model, sw.demo.data()).value"
    assert book.python(score.format(retrained)) == book.python("ex.run.score['value']") > 0.9
    assert book.python(score.format(plain)) == book.python("ex.score.value") < 0.5

    # nothing is replaced unasked
    page.ask("save", retrained)
    expect(page.part("exists")).to_contain_text(retrained)
    book.page.wait_for_function("document.activeElement.dataset.testid === 'cancel-replace'")
    page.press("cancel-replace")
    expect(page.part("save")).to_be_focused()
    assert (jupyterlab.folder / retrained).read_bytes() == trained
    page.ask("save", plain)  # the same content again is no question
    expect(page.part("status")).to_contain_text("saved")
    page.slide_to(50)
    page.settled_bytes()
    page.ask("save", plain)
    page.press("replace")
    expect(page.part("status")).to_contain_text("saved")
    assert (jupyterlab.folder / plain).stat().st_size == book.python("ex.estimate.nbytes")
    part(monitor, "keep").click()
    part(monitor, "keep-input").fill("kept")
    part(monitor, "keep-go").click()
    expect(part(monitor, "kept")).to_contain_text("kept")
    page.ask("compress", "kept")
    expect(page.part("exists")).to_contain_text("kept")
    page.press("cancel-replace")
    assert book.python("kept is ex.run.result")

    # a retrained point comes back as it was trained
    point = page.part("scatter").locator("[data-result]")
    expect(point).to_have_count(1)
    point.focus()
    book.page.keyboard.press("Enter")
    expect(page.part("regime")).to_contain_text("fine-tuned 2 epochs")
    assert page.score() == book.python("ex.run.score['value']")
    assert page.settled_bytes() == book.python("ex.run.result.nbytes")
    expect(page.part("save")).to_have_text("Save retrained file")
    page.ask("compress", "again")
    expect(page.part("status")).to_contain_text("again")
    assert book.python("again.regime.startswith('fine-tuned')")
    page.slide_to(90)
    expect(page.part("regime")).to_have_text("no retraining")
    expect(page.part("save")).to_have_text("Save compressed file")


def test_retrain_during_a_training_shows_the_one_that_runs(open_notebook: Open) -> None:
    book = open_notebook(EXPLORE)
    book.run(0)
    monitor = begun(book, 500)
    running = book.python("id(ex.run)")
    page = ExplorerPage.first(book)
    page.press("retrain")
    expect(page.part("status")).to_contain_text("under way")
    expect(monitor).to_have_count(1)
    expect(part(monitor, "run-state")).to_have_text("running")
    expect(monitor).to_be_in_viewport()
    assert book.python("id(ex.run)") == running
    part(monitor, "stop").click()
    expect(part(monitor, "run-state")).to_have_text("stopped early", timeout=LONG)
