"""What the explorer looks like: screenshots light and dark, wide and narrow, kept by CI; and nothing sticks out."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from .explorer_page import EXPLORE, ExplorerPage
from .notebook_page import Notebook

SHARED = (EXPLORE,)
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [700, 1400])
def test_it_fits_its_page(book: Notebook, screenshots: Path, theme: str, width: int) -> None:
    book.page.set_viewport_size({"width": width, "height": 1400 if width > 1000 else 2000})
    book.theme(THEMES[theme])
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    for percent in (50, 70, 90, 80):
        page.slide_to(percent)
        page.settled_bytes()
        page.score()
    expect(page.part("status")).to_have_attribute("data-kind", "exact")
    page.view.scroll_into_view_if_needed()
    book.page.mouse.move(0, 0)
    page.view.screenshot(path=screenshots / f"explorer-{theme}-{width}.png", animations="disabled")
    book.page.screenshot(path=screenshots / f"jupyterlab-{theme}-{width}.png", animations="disabled")
    assert page.view.evaluate("root => root.scrollWidth <= root.clientWidth")
    page.open_layer(2)
    page.view.screenshot(path=screenshots / f"layer-{theme}-{width}.png", animations="disabled")
    assert page.view.evaluate("root => root.scrollWidth <= root.clientWidth")
