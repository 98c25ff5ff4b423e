"""A checkpoint's tab in a real JupyterLab in real Chromium: from double click to table, from drag to paint."""

from __future__ import annotations

from collections.abc import Iterator

from playwright.sync_api import Locator

from tests.widget.lab_page import LabPage
from tests.widget.notebook_page import LONG

from .browser_drag import FRAME, PROBE, lab_and_browser, sweep, take
from .checkpoint_server import MANY, TENSORS, WORDS, write_large, write_many
from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import Figure, Row

OPENINGS, BURSTS, BURST = 8, 10, 30

# From the double click until the rows that are in sight have been painted.
TIME_THE_TABLE = """() => {
  window.shown = new Promise((done) => {
    addEventListener("dblclick", (event) => {
      const look = () => {
        const views = [...document.querySelectorAll(".jp-shrinkwidget-checkpoint")];
        const view = views.find((view) => view.checkVisibility());
        if (!view?.querySelector("[data-testid='checkpoint-row']")) return requestAnimationFrame(look);
        const channel = new MessageChannel();  // its task runs when this frame is painted
        channel.port1.onmessage = () => done((performance.now() - event.timeStamp) / 1e3);
        channel.port2.postMessage(null);
      };
      look();
    }, { capture: true, once: true });
  });
}"""


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    with lab_and_browser() as (running, browser):
        folder = running.folder / "models"  # Jupyter cannot list one that is called checkpoints
        folder.mkdir()
        write_large(folder / "large.safetensors")
        write_many(folder / "many.safetensors")
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(LONG)
        lab = LabPage.load(running, page)
        lab.open_folder("models")
        yield _table_row(f"double click to table, {WORDS}", lab, "large.safetensors", 0.5, calm)
        yield _table_row(f"double click to table, {MANY:,} tensors", lab, "many.safetensors", 1.0, calm)
        yield _drag_row(lab, "large.safetensors", calm)


def _table_row(words: str, lab: LabPage, name: str, limit: float, calm: Calm) -> Row:
    times = []
    for opening in range(OPENINGS + 1):
        calm()
        lab.page.evaluate(TIME_THE_TABLE)
        viewer = lab.double_click(name)
        shown = float(lab.page.evaluate("() => window.shown"))
        lab.close(viewer)
        if opening:  # the first loads the extension's code
            times.append(shown)
    return Row(words, Figure(tuple(times)), "s", limit=limit)


def _drag_row(lab: LabPage, name: str, calm: Calm) -> Row:
    viewer = lab.double_click(name)
    viewer.locator("[data-testid='weights'][data-phase='done']").wait_for()
    viewer.evaluate(PROBE)
    slider = viewer.get_by_test_id("sparsity")
    slider.scroll_into_view_if_needed()
    _burst(lab, slider, 0)
    moves = []
    for turn in range(BURSTS):
        calm()
        moves += _burst(lab, slider, turn)
    figure = Figure(tuple(move["total"] for move in moves))
    return Row(f"slider event to charts painted in a checkpoint's tab, {TENSORS} layers", figure, "ms", "p95", FRAME)


def _burst(lab: LabPage, slider: Locator, turn: int) -> list[dict[str, float]]:
    sweep(lab.page, slider, *((0.1, 0.9) if turn % 2 else (0.9, 0.1)), BURST)
    return take(lab.page, "moves")
