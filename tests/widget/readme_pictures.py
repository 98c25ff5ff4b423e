"""Takes the README's pictures: the explorer and a monitor in a real JupyterLab, light and dark (make pictures)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Locator, expect, sync_playwright

from . import chromium, jupyterlab_server, notebook_page
from .explorer_page import ExplorerPage
from .notebook_page import Notebook

IMAGES = Path(__file__).parents[2] / "docs" / "images"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
CELLS = (
    """
import shrinkwidget as sw
model, data = sw.demo.model(), sw.demo.data("valid")
ex = sw.explore(model, data, train_data=sw.demo.data("train"))
ex
""",
    """
run = sw.prune_and_retrain(model, sw.demo.data("train"), data, 0.985, rounds=8, epochs=6, background=True)
monitor = sw.monitor(run)
monitor
""",
)
MINUTES = 600


def take(book: Notebook, view: Locator, name: str) -> None:
    """Photograph a widget in both themes, with the mouse out of the way."""
    for theme, title in THEMES.items():
        book.theme(title)
        view.scroll_into_view_if_needed()
        book.page.mouse.move(0, 0)
        view.screenshot(path=IMAGES / f"{name}-{theme}.png", animations="disabled")
        print(f"docs/images/{name}-{theme}.png")


def explorer(book: Notebook) -> None:
    """Try a few recipes as a person would, then show one with its options folded."""
    book.run(0)
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    for percent in (50, 70, 90, 80):
        page.slide_to(percent)
        page.settled_bytes()
        page.score()
    if page.part("options").get_attribute("aria-expanded") == "true":
        page.press("options")
    expect(page.part("status")).to_have_attribute("data-kind", "exact")
    take(book, page.view, "explorer")


def monitor(book: Notebook) -> None:
    """Pause a training in its seventh round: a picture takes its time, and the next should show the same."""
    book.run(1)
    book.until("run.progress is not None and (run.progress.round, run.progress.epoch) >= (7, 3)", MINUTES)
    book.page.evaluate("window.scrollTo(0, 0)")
    book.python("run.pause()")
    view = book.page.get_by_test_id("monitor")
    expect(view.get_by_test_id("run-state")).to_have_text("paused")
    take(book, view, "monitor")
    book.python("run.stop()")


def main() -> None:
    """Start a JupyterLab and a browser, and take all pictures."""
    path = chromium.find()
    if not path:
        raise SystemExit(chromium.MISSING)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = jupyterlab_server.start(Path(folder))
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(chromium.FLAGS))
        try:
            notebook_page.write(server.folder / "pictures.ipynb", CELLS)
            book = Notebook(browser.new_page(viewport={"width": 1500, "height": 1400}))
            book.page.set_default_timeout(60_000)
            book.open(server.address("pictures.ipynb"))
            explorer(book)
            monitor(book)
            book.shut_down()
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
