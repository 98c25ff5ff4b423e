"""The explorer by axe-core's rules: names, roles, contrast, order, in both themes and with its tables open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from .explorer_page import EXPLORE, ExplorerPage
from .notebook_page import Notebook
from .test_screenshots import THEMES

SHARED = (EXPLORE,)
AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"


def violations(page: ExplorerPage) -> list[str]:
    """Return what axe-core finds wrong inside the explorer, a line for each element."""
    page.book.page.add_script_tag(path=AXE)
    result: dict[str, Any] = page.view.evaluate("root => axe.run(root)")
    assert len(result["passes"]) > 20, "axe-core has hardly looked at anything"
    return [f"{rule['help']}: {node['html']}" for rule in result["violations"] for node in rule["nodes"]]


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_wrong(book: Notebook, theme: str) -> None:
    book.page.set_viewport_size({"width": 1400, "height": 1400})
    book.theme(THEMES[theme])
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    page.slide_to(80)
    page.settled_bytes()
    page.score()
    page.open_layer(2)
    expect(page.view.locator("[data-stale='true']")).to_have_count(0)  # what is of an older recipe is faint
    assert violations(page) == []
    for table in ("layers-table", "size-table", "history-table"):
        page.press(table)
    assert violations(page) == []
