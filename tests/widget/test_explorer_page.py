"""The explorer in a real JupyterLab: what the page shows is what Python computes."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import expect

import shrinkwidget as sw

from .conftest import Open
from .explorer_page import EXPLORE, ExplorerPage
from .jupyterlab_server import Lab
from .notebook_page import Notebook

SKETCHED_SLOWLY = """
import threading
import shrinkwidget as sw
from shrinkwidget.widgets import explorer_backend

model, look, turns = {path!r}, explorer_backend.sketch_layer, threading.Semaphore(2)

def wait_and_look(entry):
    turns.acquire()
    return look(entry)

# as large as a model that takes minutes: so it is looked at layer by layer, as far as the test lets it
explorer_backend.sketch_layer, explorer_backend._AT_ONCE_SECONDS = wait_and_look, 0
ex = sw.explore(model)
ex
"""
SHARED = (EXPLORE,)
COMPRESSED = "sw.compress(model, ex.recipe).nbytes"
WRITTEN = "(sw.compress(model, ex.recipe).save('check.safetensors'), os.path.getsize('check.safetensors'))[1]"


def test_a_drag_ends_at_the_bytes_python_computes_and_writes(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    for share in (0.85, 0.4, 0.97):
        page.drag_to(share)
        shown = page.settled_bytes()
        assert shown == book.python(COMPRESSED)
        assert shown == book.python(WRITTEN)
        assert book.python("ex.sparsity") == pytest.approx(page.sparsity_percent() / 100, abs=1e-9)
    assert book.python("ex.recipe == sw.Recipe(sparsity=ex.sparsity, bits=4)")


def test_every_choice_reaches_python_and_its_bytes_the_page(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.slide_to(70)
    for setting, value in (
        ("bits", 3),
        ("granularity", 64),
        ("scope", "layer"),
        ("quantizer", "kmeans"),
        ("structure", "2:4"),
    ):
        page.choose(setting, value)
        assert page.settled_bytes() == book.python(COMPRESSED)
        assert book.python(f"ex.recipe == ex.recipe.with_({setting}={value!r})")


def test_a_drag_on_the_trained_resnet_shows_the_bytes_of_its_file(open_notebook: Open, resnet20: Path) -> None:
    book = open_notebook(SKETCHED_SLOWLY.format(path=str(resnet20)))
    book.run_all()
    page = ExplorerPage.first(book)
    # two of its layers are there, and can be pruned; nothing is said of the file
    for part in ("sketching", "status"):
        expect(page.part(part)).to_have_text(re.compile("sketched [12] of 20 layers"))
    page.drag_to(0.9)
    expect(page.part("ridge").get_by_role("treeitem")).to_contain_text(re.compile(r"≈\s[89]\d\s% pruned"))
    page.part("ridge").focus()
    book.page.keyboard.press("End")
    expect(page.part("ridge").get_by_role("treeitem")).to_contain_text("not sketched yet")
    for part in ("size-now", "pruned", "flash"):
        expect(page.part(part)).to_have_count(0)
    page.choose("bits", 5)
    book.until("ex.recipe.bits == 5")
    book.python("turns.release(1000)")
    assert page.settled_bytes() == book.python(COMPRESSED)
    assert book.python("ex.sketch.encode() == sw.sketch(model).encode() == bytes(ex._sketch)")
    expect(page.part("sketching")).to_have_count(0)


def test_the_accuracy_on_the_page_is_the_accuracy_python_measures(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.slide_to(80)
    page.settled_bytes()
    assert page.score() == book.python("sw.evaluate(sw.compress(model, ex.recipe).model, data).value")
    expect(page.part("provenance")).to_have_text("no retraining")
    assert book.python("[point['recipe'] == ex.recipe for point in ex.history][-1]")


def test_the_slider_works_while_a_cell_is_running(open_notebook: Open) -> None:
    book = open_notebook(EXPLORE, "while ex.sparsity < 0.9: time.sleep(0.01)\nseen = ex.sparsity")
    book.run(0)
    page = ExplorerPage.first(book)
    book.start(1)
    page.drag_to(0.5)
    shown = page.settled_bytes()
    assert book.running(1), "the cell had ended before the figures came: they prove nothing"
    assert page.score() >= 0
    page.slide_to(95)
    expect(book.cell(1).locator(".jp-InputPrompt")).to_have_text("[2]:")
    assert book.python("seen") == 0.95
    page.press("undo")
    book.until("ex.sparsity < 0.9")
    assert page.settled_bytes() == shown == book.python(COMPRESSED)


def test_the_slider_works_while_the_cells_after_it_run(open_notebook: Open) -> None:
    explore = EXPLORE.replace("\nex\n", "\nex.sparsity, ex.bits = 0.3, 6\nex\n")
    waits = "while ex.recipe.sparsity < 0.9: time.sleep(0.01)\nseen = ex.recipe.sparsity, ex.recipe.bits"
    book = open_notebook(explore, waits)
    book.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page = ExplorerPage.first(book)
    expect(page.slider).to_have_value("30")
    expect(page.part("bits").locator("input[value='6']")).to_be_checked()
    page.slide_to(50)
    page.settled_bytes()
    expect(page.part("budget")).to_have_attribute("data-ready", "true")
    assert book.running(1), "the cell had ended before the figures came: they prove nothing"
    page.slide_to(95)
    expect(book.cell(1).locator(".jp-InputPrompt")).to_have_text("[2]:")
    assert book.python("seen") == (0.95, 6)


def test_undo_redo_and_reset_go_through_the_recipes(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    dense = page.settled_bytes()
    page.drag_to(0.6)
    first = page.settled_bytes()
    page.choose("bits", 4)
    second = page.settled_bytes()
    assert dense > first > second
    for key, expected in (
        ("Control+z", first),
        ("Control+z", dense),
        ("Control+Shift+z", first),
        ("Control+y", second),
    ):
        page.slider.focus()
        book.page.keyboard.press(key)
        assert page.settled_bytes() == expected == book.python(COMPRESSED)
    page.press("reset")
    assert page.settled_bytes() == dense
    page.press("undo")
    assert page.settled_bytes() == second


def test_the_arrow_keys_move_the_slider_and_not_the_notebook(open_notebook: Open) -> None:
    book = open_notebook(EXPLORE, "1 + 1")
    book.run(0)
    page = ExplorerPage.first(book)
    page.slide_to(50)
    active = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
    before = book.page.evaluate(active)
    page.slider.focus()
    for key in ("ArrowRight", "ArrowUp", "ArrowRight", "ArrowLeft"):
        book.page.keyboard.press(key)
    page.settled_bytes()
    assert page.sparsity_percent() == 50.2
    assert book.python("ex.sparsity") == 0.502
    for key in ("End", "j", "a", "x"):
        book.page.keyboard.press(key)
    assert page.settled_bytes() == book.python(COMPRESSED)
    assert book.page.evaluate(active) == before
    assert book.page.locator(".jp-Notebook .jp-CodeCell").count() == 2


def test_a_layer_is_opened_and_overridden(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.slide_to(50)
    detail = page.open_layer(1)
    name = detail.locator("h4").inner_text()
    page.choose("way", "keep")
    assert page.settled_bytes() == book.python(COMPRESSED)
    assert book.python(f"ex.recipe.layers[{name!r}] is sw.Keep")
    page.choose("way", "own")
    page.part("own-sparsity").fill("90")
    page.choose("own-bits", 2)
    assert page.settled_bytes() == book.python(COMPRESSED)
    assert book.python(f"dict(ex.recipe.layers[{name!r}])") == {"sparsity": 0.9, "bits": 2}
    page.choose("way", "global")
    page.settled_bytes()
    assert book.python("ex.recipe == sw.Recipe(sparsity=0.5)")


def test_python_moves_the_page(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    assert book.python("setattr(ex, 'recipe', sw.Recipe(sparsity=0.75, bits=6))") is None
    expect(page.slider).to_have_value("75")
    expect(page.part("bits").locator("input[value='6']")).to_be_checked()
    assert page.settled_bytes() == book.python(COMPRESSED) == book.python("ex.estimate.nbytes")


def test_two_views_of_one_explorer_stay_in_step(open_notebook: Open) -> None:
    book = open_notebook(EXPLORE, "ex")
    book.run_all()
    first, second = ExplorerPage.first(book), ExplorerPage.first(book, 1)
    first.slide_to(88)
    expect(second.slider).to_have_value("88")
    second.choose("bits", 8)
    expect(first.part("bits").locator("input[value='8']")).to_be_checked()
    assert first.settled_bytes() == second.settled_bytes() == book.python(COMPRESSED)


def test_linked_widgets_follow_and_lead(open_notebook: Open) -> None:
    linked = """
import ipywidgets as w
slider = w.FloatSlider(max=0.99, step=0.01)
link = w.jslink((slider, "value"), (ex, "sparsity"))
out = w.interactive_output(lambda recipe: print("recipe:", recipe), {"recipe": ex})
w.VBox([slider, out])
"""
    book = open_notebook(EXPLORE, linked)
    book.run_all()
    page = ExplorerPage.first(book)
    page.slide_to(33)
    expect(book.cell(1).locator(".widget-readout")).to_have_text("0.33")
    expect(book.cell(1)).to_contain_text("recipe: Recipe(sparsity=0.33)")
    book.python("setattr(slider, 'value', 0.66)")
    expect(page.slider).to_have_value("66")
    assert page.settled_bytes() == book.python(COMPRESSED)


def test_running_the_cell_again_leaves_one_explorer(book: Notebook) -> None:
    ExplorerPage.first(book)
    alive = "sum(isinstance(w, type(ex)) for w in __import__('ipywidgets').Widget.widgets.values())"
    for _ in range(2):
        book.run(0)
        ExplorerPage.first(book)
    assert book.python(alive) == 1
    expect(book.page.get_by_test_id("explorer")).to_have_count(1)


def test_the_save_button_writes_the_file_of_the_size_shown(book: Notebook, jupyterlab: Lab) -> None:
    page = ExplorerPage.first(book)
    page.choose("bits", 3)
    page.slide_to(90)
    shown = page.settled_bytes()
    page.ask("save", "kept.safetensors")
    expect(page.part("status")).to_contain_text("saved")
    saved = jupyterlab.folder / "kept.safetensors"
    assert saved.stat().st_size == shown
    loaded = "sw.load('kept.safetensors', into=sw.demo.model()).model"
    same = f"all((a == b).all().item() for a, b in zip({loaded}.parameters(), ex.compress().model.parameters()))"
    assert book.python(same)


def test_the_figure_button_saves_a_figure_and_shows_the_line_that_makes_it_again(
    book: Notebook, jupyterlab: Lab
) -> None:
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    page.settled_bytes()
    for width in ("nature-single", "ieee-single"):
        page.press("figure")
        page.part("figure-kind").select_option("size")
        page.part("figure-width").select_option(width)
        page.part("figure-format").select_option("svg")
        expect(page.part("figure-input")).to_have_value("digitnet-size.svg")
        page.press("figure-go")
        if width == "ieee-single":  # another figure has that name
            expect(page.part("exists")).to_contain_text("digitnet-size.svg exists already")
            page.press("replace")
        expect(page.part("status")).to_contain_text("saved")
    expect(page.part("saved-figure").locator("img")).to_be_visible()
    code = page.part("saved-figure").locator("input").input_value()
    assert code == "sw.figures.save(ex.figure('size', width='ieee-single'), 'digitnet-size.svg')"
    written = (jupyterlab.folder / "digitnet-size.svg").read_bytes()
    assert book.python(f"{code}.read_bytes().decode()").encode() == written
    assert sw.figures.read(jupyterlab.folder / "digitnet-size.svg")["charts"][0]["kind"] == "size"


def test_the_compress_button_leaves_a_variable(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.slide_to(60)
    shown = page.settled_bytes()
    page.ask("compress", "tiny")
    expect(page.part("status")).to_contain_text("tiny")
    assert book.python("tiny.nbytes") == shown
    assert book.python("tiny.recipe == ex.recipe")
    assert book.python("type(tiny.model) is type(model)")


def test_a_failure_is_one_sentence_and_the_explorer_goes_on(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.ask("save", "/no/such/folder/kept.safetensors")
    expect(page.part("status")).to_have_attribute("data-kind", "failed")
    sentence = page.part("status").inner_text()
    assert "/no/such/folder" in sentence
    assert "\n" not in sentence.strip()
    page.ask("compress", "model")
    expect(page.part("status")).to_contain_text("model")
    assert book.python("type(model).__module__").startswith("shrinkwidget")
    page.slide_to(40)
    assert page.settled_bytes() == book.python(COMPRESSED)


def test_a_metric_that_raises_is_said_where_the_accuracy_would_be(open_notebook: Open) -> None:
    metric = "def metric(outputs, targets):\n    raise RuntimeError('the metric broke')"
    book = open_notebook(metric, EXPLORE.replace("explore(model, data)", "explore(model, data, metric=metric)"))
    book.run_all()
    page = ExplorerPage.first(book)
    expect(page.part("accuracy")).to_have_attribute("data-state", "failed")
    expect(page.view).to_contain_text("the metric broke")
    page.slide_to(40)
    assert page.settled_bytes() == book.python(COMPRESSED)


def test_without_data_it_says_how_to_add_it(open_notebook: Open) -> None:
    book = open_notebook(EXPLORE.replace("explore(model, data)", "explore(model)"))
    book.run_all()
    expect(ExplorerPage.first(book).part("accuracy")).to_contain_text("sw.explore(model, eval_data")


def test_the_first_example_runs_in_the_browser(open_notebook: Open) -> None:
    example = nbformat.read(Path(__file__).parents[2] / "examples" / "01-explore.ipynb", as_version=4)
    book = open_notebook(*[cell.source for cell in example.cells if cell.cell_type == "code"])
    book.run_all()
    page = ExplorerPage.first(book)
    page.slide_to(50)
    page.settled_bytes()
    expect(
        book.page.locator("[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText .ansi-red-fg")
    ).to_have_count(0)


def test_when_the_kernel_goes_the_preview_stays_and_says_so(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    before = page.settled_bytes()
    book.restart_kernel()
    page.slide_to(90)
    expect(page.part("status")).to_contain_text("preview only")
    expect(page.part("size-now")).to_have_attribute("data-exact", "false")
    assert 0 < int(page.part("size-now").get_attribute("data-bytes") or 0) < before


def test_without_a_kernel_there_is_a_picture_and_no_broken_widget(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.slide_to(80)
    page.settled_bytes()
    page.score()
    book.save()
    book.restart_kernel()
    book.load()
    picture = book.page.locator(".jp-OutputArea-output img").first
    expect(picture).to_be_visible(timeout=60_000)
    assert picture.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 300
