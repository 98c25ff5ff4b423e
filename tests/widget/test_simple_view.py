"""The simple view: a few controls to begin with, all of them one click away, and nothing lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

import shrinkwidget as sw
from shrinkwidget.widgets.explorer import Explorer

from .live_page import LivePage
from .standalone_page import BarePage
from .test_accessibility import AXE

RECIPE = sw.Recipe(sparsity=0.8, bits=4, scope="layer", granularity="tensor", layers={"stem": sw.Keep})
SHOWN = ("sparsity", "bits", "ridge", "size-now", "accuracy", "all-controls", "compress", "copy", "status", "undo")
HIDDEN = ("options", "scatter", "silhouette", "classes", "sqnr", "flash", "part-codes", "sensitivity", "axis", "log")


@pytest.fixture(scope="module")
def ex() -> Iterator[Explorer]:
    made = sw.explore(sw.demo.model(), sw.demo.data("valid"), RECIPE, train_data=sw.demo.data("train"), view="simple")
    assert made.wait(120)
    yield made
    made.close()


def test_another_view_is_refused(ex: Explorer) -> None:
    with pytest.raises(sw.errors.ArgumentError, match="view='plain' must be 'full' or 'simple'"):
        ex.view = "plain"
    ex.set_state({"view": "none"})
    assert ex.view == "simple"


def test_all_controls_are_a_click_away_and_nothing_is_lost(context: BrowserContext, ex: Explorer) -> None:
    page = BarePage.open(context.new_page(), ex)
    for name in SHOWN:
        expect(page.part(name)).to_be_visible()
    for name in (*HIDDEN, "retrain", "recalibrate"):
        expect(page.part(name)).to_have_count(0)
    assert page.words("not-shown") == "+ 3 settings not shown"
    before = page.words("size-now")
    page.part("ridge").focus()
    for key in ("Home", "Enter"):
        page.page.keyboard.press(key)
    expect(page.part("large")).to_be_visible()
    expect(page.part("way")).to_have_count(0)

    page.part("all-controls").focus()
    page.page.keyboard.press("Enter")
    page.settle()
    assert ex.view == "full"
    expect(page.part("options")).to_be_focused()
    for name in HIDDEN:
        expect(page.part(name)).to_be_visible()
    expect(page.part("way").locator("input[value=keep]")).to_be_checked()
    assert ex.recipe == RECIPE
    assert page.words("size-now") == before

    page.part("axis").locator("label:has(input[value=own])").click()
    page.part("layers-table").click()
    page.part("recalibrate").check()
    page.part("simple-view").click()
    page.settle()
    assert ex.view == "simple"
    expect(page.part("all-controls")).to_be_focused()
    assert page.words("not-shown") == "+ 4 settings not shown"
    expect(page.part("ridge")).to_be_visible()
    page.part("all-controls").click()
    expect(page.part("layer-tables")).to_be_visible()
    page.part("recalibrate").uncheck()
    page.part("simple-view").click()
    page.settle()
    again = BarePage.open(context.new_page(), ex)
    expect(again.part("all-controls")).to_be_visible()
    assert page.complaints == again.complaints == []


@pytest.mark.parametrize("width", [320, 700, 1400])
def test_it_fits_and_is_accessible(context: BrowserContext, ex: Explorer, width: int) -> None:
    page = BarePage.open(context.new_page(), ex, width=width)
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    page.page.evaluate(AXE.read_text())
    found: Any = page.page.evaluate("axe.run('.sw-explorer')")
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []


def test_a_page_without_a_kernel_begins_as_it_was(browser: Browser, ex: Explorer, tmp_path: Path) -> None:
    ex.to_html(tmp_path / "page.html")
    page = LivePage.open(browser, tmp_path / "page.html")
    expect(page.part("options")).to_have_count(0)
    page.part("all-controls").click()
    expect(page.part("options")).to_be_visible()
    page.close()
