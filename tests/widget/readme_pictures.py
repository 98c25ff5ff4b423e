"""Takes the pictures of the README and the tour in a real JupyterLab, light and dark (make pictures)."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from playwright.sync_api import Locator, Page, expect, sync_playwright
from safetensors.torch import save_file

from . import find_or_install_chromium as chromium
from . import jupyterlab_server, notebook_page
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


def parts(book: Notebook) -> None:
    """Unfold what the explorer of the first picture has folded: a layer, the options, sensitivity, changes by class."""
    page = ExplorerPage.first(book)
    take(book, page.open_layer(12), "layer")
    page.press("close-detail")
    page.press("options")
    take(book, page.view.locator(".sw-controls"), "options")
    page.press("options")
    page.press("sensitivity")
    expect(page.part("sensitivity-line")).to_contain_text("examples", timeout=120_000)
    book.python("ex.wait(sensitivity=True)")
    take(book, page.view.locator(".sw-layers"), "sensitivity")
    page.press("sensitivity")
    page.press("classes")
    take(book, page.view.locator(".sw-classes"), "classes")
    page.press("classes")


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


def checkpoint(page: Page, server: jupyterlab_server.Lab) -> None:
    """Open a small model of a large one's shape from the file browser."""
    hidden, layers = 64, 24
    blocks = {
        f"model.layers.{i}.{name}.weight": shape
        for i in range(layers)
        for name, shape in {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, 4 * hidden),
            "mlp.gate_proj": (4 * hidden, hidden),
            "mlp.up_proj": (4 * hidden, hidden),
            "self_attn.k_proj": (hidden // 4, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (hidden // 4, hidden),
        }.items()
    }
    torch.manual_seed(0)
    state = {name: torch.randn(shape).bfloat16() for name, shape in blocks.items()}
    state |= {
        "model.embed_tokens.weight": torch.randn(8000, hidden).bfloat16(),
        "model.norm.weight": torch.ones(hidden),
    }
    folder = server.folder / "models"
    folder.mkdir()
    save_file(state, folder / "llama.safetensors", {"format": "pt"})
    page.set_default_timeout(60_000)
    page.goto(f"{server.url}lab/workspaces/pictures/tree/models?token={server.token}")
    page.locator(".jp-DirListing-item", has_text="llama").dblclick()
    viewer = page.locator(".jp-shrinkwidget-checkpoint:visible")
    for name in ("layers", "0…23", "mlp", "self_attn"):
        viewer.locator("th bdi").get_by_text(name, exact=True).click()
    expect(viewer.get_by_test_id("checkpoint-row")).to_have_count(15)
    book = Notebook(page)
    for theme, title in THEMES.items():
        book.theme(title)
        page.screenshot(path=IMAGES / f"checkpoint-{theme}.png", animations="disabled")
        print(f"docs/images/checkpoint-{theme}.png")


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
            page = browser.new_page(viewport={"width": 1500, "height": 1400})
            page.set_default_timeout(60_000)
            book = Notebook(page, address=server.address("pictures.ipynb"))
            book.load()
            explorer(book)
            parts(book)
            monitor(book)
            checkpoint(browser.new_page(viewport={"width": 1200, "height": 720}), server)
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
