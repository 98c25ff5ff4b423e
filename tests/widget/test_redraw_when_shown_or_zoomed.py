"""The built bundle, on a page without Jupyter: mounted out of sight, moved to another screen, zoomed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext

import shrinkwidget as sw
from shrinkwidget.widgets.explorer import Explorer

from .standalone_page import BarePage

OUT_OF_SIGHT = {
    "not displayed": "display: none",
    "no height": "height: 0; overflow: hidden",
    "no width": "width: 0; overflow: hidden",
    "skipped": "content-visibility: hidden",
    "off screen": "position: absolute; left: -5000px; width: 1400px",
}
PIXELS = "canvas => canvas.toDataURL()"


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Make an explorer of the demo network, without data."""
    made = sw.explore(sw.demo.model())
    made.wait(60)
    yield made
    made.close()


def set_recipe(page: BarePage, sparsity: float, bits: int) -> None:
    """Set the recipe as a linked widget would, whether the page is in sight or not."""
    page.page.evaluate("([s, b]) => { model.set('sparsity', s); model.set('bits', b); }", [sparsity, bits])
    page.painted()


def picture(page: BarePage, canvas: str = "ridge-canvas") -> tuple[list[object], str]:
    """Return the texts of a canvas, with their places in whole pixels, and the pixels of all else."""
    page.painted()
    texts = [(text["text"], round(text["x"]), round(text["y"])) for text in page.canvas(canvas)["texts"]]
    return [*texts], str(page.part(canvas).evaluate(PIXELS))


@pytest.fixture(scope="module")
def shown(browser: Browser, explorer: Explorer) -> list[tuple[list[object], str]]:
    """Return what the ridge looks like at two recipes where it was in sight all along."""
    context = browser.new_context()
    page = BarePage.open(context.new_page(), explorer, text=False)
    pictures = []
    for sparsity in (0.9, 0.6):
        set_recipe(page, sparsity, 3)
        pictures.append(picture(page))
    context.close()
    assert pictures[0][1] != pictures[1][1]
    return pictures


@pytest.mark.parametrize("how", OUT_OF_SIGHT)
def test_what_was_mounted_out_of_sight_follows_the_recipe_once_it_is_shown(
    context: BrowserContext, explorer: Explorer, shown: list[tuple[list[object], str]], how: str
) -> None:
    page = BarePage.open(context.new_page(), explorer, hidden=OUT_OF_SIGHT[how], text=False)
    page.page.wait_for_timeout(50)  # the first drawing is over
    set_recipe(page, 0.9, 3)
    page.page.evaluate("document.getElementById('here').style.cssText = ''")
    page.view.wait_for()
    assert picture(page) == shown[0]
    set_recipe(page, 0.6, 3)
    assert picture(page) == shown[1]


@pytest.mark.parametrize("ratio", [2, 0.75])
def test_on_another_screen_the_ridge_is_as_large_and_as_sharp_as_if_opened_there(
    context: BrowserContext, explorer: Explorer, ratio: float
) -> None:
    def on_screen(page: BarePage, ratio: float) -> None:
        metrics = {"width": 1400, "height": 1000, "deviceScaleFactor": ratio, "mobile": False}
        context.new_cdp_session(page.page).send("Emulation.setDeviceMetricsOverride", metrics)
        page.page.wait_for_function(f"devicePixelRatio === {ratio}")

    moved, there = (BarePage.open(context.new_page(), explorer, text=False) for _ in range(2))
    on_screen(there, ratio)
    for page in (moved, there):
        page.part("ridge").click(position={"x": 40, "y": 200})
        page.page.mouse.move(0, 0)
    on_screen(moved, ratio)
    for page in (moved, there):
        set_recipe(page, 0.7, 4)
    for canvas in ("ridge-canvas", "large"):
        css, backing = moved.part(canvas).evaluate("c => [c.clientWidth, c.width]")
        assert abs(backing - css * ratio) <= 0.5
        assert picture(moved, canvas) == picture(there, canvas)
    for page in (moved, there):
        page.part("ridge").click(position={"x": 40, "y": 30})
    assert moved.part("detail").get_attribute("aria-label") == there.part("detail").get_attribute("aria-label")
