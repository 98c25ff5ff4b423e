"""The first minute with an explorer in JupyterLab: it is in sight, the wheel scrolls, the notebook hears its keys."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from .conftest import Open
from .explorer_page import EXPLORE, ExplorerPage
from .notebook_page import Notebook

LOADED = "import shrinkwidget as sw\nsw.summary(sw.demo.model())"
SHARED = ("times = globals().get('times', 0) + 1" + EXPLORE, *["1 + 1"] * 30)
SCROLLER = ".jp-WindowedPanel-outer"
ACTIVE = "window.jupyterapp.shell.currentWidget.content.activeCellIndex"
DIRTY = "window.jupyterapp.shell.currentWidget.context.model.dirty"
TABS = """
import ipywidgets as w, shrinkwidget as sw
ex = sw.explore(sw.demo.model())
w.Tab([w.HTML("notes"), ex], titles=["notes", "explorer"])
"""


def on_screen(book: Notebook, part: Locator) -> bool:
    """Tell whether all of an element is inside the notebook's window."""
    window, box = book.page.locator(SCROLLER).first.bounding_box(), part.bounding_box()
    assert window is not None
    assert box is not None
    return window["y"] - 1 <= box["y"] and box["y"] + box["height"] <= window["y"] + window["height"] + 1


def scrolled(book: Notebook) -> float:
    """Return how far the notebook is scrolled, once it rests."""
    last = -1.0
    while (now := float(book.page.locator(SCROLLER).first.evaluate("e => e.scrollTop"))) != last:
        last = now
        book.page.wait_for_timeout(150)
    return now


@pytest.mark.parametrize("size", [(1400, 900), (1366, 768)])
def test_after_shift_enter_sliders_size_and_accuracy_are_on_screen(open_notebook: Open, size: tuple[int, int]) -> None:
    book = open_notebook(LOADED, EXPLORE, "1 + 1", "2 + 2")
    book.page.set_viewport_size({"width": size[0], "height": size[1]})
    book.page.evaluate("window.jupyterapp.shell.expandLeft()")
    for cell in (0, 1):
        book.select(cell)
        book.cell(cell).locator(".cm-content").click()
        book.page.keyboard.press("Shift+Enter")
    page = ExplorerPage.first(book)
    expect(page.part("accuracy")).to_have_attribute("data-state", "done", timeout=60_000)
    book.page.wait_for_timeout(1500)
    for part in ("sparsity", "bits", "size-now", "accuracy"):
        assert on_screen(book, page.part(part)), part


def test_a_reload_leaves_the_notebook_where_it_is_and_the_options_as_they_were(shared_notebook: Notebook) -> None:
    book = shared_notebook
    book.run(0)
    page = ExplorerPage.first(book)
    assert page.part("scope").count() == 0
    page.press("options")
    expect(page.part("scope")).to_be_visible()
    book.until("ex._page.get('options') is True")
    book.save()
    book.load()
    page = ExplorerPage.first(book)
    expect(page.part("scope")).to_be_visible()
    assert scrolled(book) == 0


def test_in_a_tab_that_is_not_open_the_rows_follow_all_the_same(open_notebook: Open) -> None:
    book = open_notebook(TABS)
    book.run_all()
    book.page.wait_for_timeout(500)
    book.python("setattr(ex, 'sparsity', 0.9)")
    book.page.locator(".lm-TabBar-tab", has_text="explorer").last.click()
    page = ExplorerPage.first(book)
    page.settled_bytes()
    pixels = "canvas => canvas.toDataURL()"
    before = page.part("ridge-canvas").evaluate(pixels)
    expect(page.view.locator("[role=treeitem]").first).to_contain_text("pruned")
    page.drag_to(0.4)
    page.settled_bytes()
    assert page.part("ridge-canvas").evaluate(pixels) != before


def test_the_wheel_over_the_layers_scrolls_the_notebook(shared_notebook: Notebook) -> None:
    book = shared_notebook
    book.page.set_viewport_size({"width": 1400, "height": 700})
    book.run(0)
    page = ExplorerPage.first(book)
    page.score()
    before = scrolled(book)
    page.part("ridge").hover()
    for _ in range(4):
        book.page.mouse.wheel(0, 120)
    book.page.wait_for_function(f"(least) => document.querySelector('{SCROLLER}').scrollTop > least", arg=before + 200)


def test_keys_of_the_notebook_work_inside_the_explorer_and_escape_leaves_it(shared_notebook: Notebook) -> None:
    book = shared_notebook
    book.run(0)
    page = ExplorerPage.first(book)
    page.slide_to(50)
    page.slider.focus()
    book.page.keyboard.press("ArrowRight")
    page.settled_bytes()
    page.score()
    assert book.python("ex.wait(30)")
    book.page.wait_for_timeout(1000)  # the picture in the output follows the score; what changes meanwhile is not saved
    assert book.page.evaluate(DIRTY) is True
    page.slider.focus()
    book.page.keyboard.press("Control+s")
    book.page.wait_for_function(f"() => {DIRTY} === false")
    assert book.page.evaluate(ACTIVE) == 0
    page.slider.focus()
    book.page.keyboard.press("Escape")
    assert book.page.evaluate(
        "!document.activeElement.closest('.sw-explorer') && !!document.activeElement.closest('.jp-Cell')"
    )
    book.page.keyboard.press("ArrowDown")  # to the notebook again, in command mode
    assert book.page.evaluate(ACTIVE) == 1
    for key in ("Control+Enter", "Shift+Enter"):
        runs = book.python("times")
        page = ExplorerPage.first(book)
        page.slider.click()
        book.page.keyboard.press(key)
        book.until(f"times == {runs + 1}")
    assert book.page.evaluate(ACTIVE) == 1
