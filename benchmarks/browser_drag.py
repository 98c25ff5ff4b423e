"""The explorer in a real JupyterLab in real Chromium: what a drag costs, and what the home-made way costs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Locator, Page, sync_playwright

from tests.widget import find_or_install_chromium as chromium
from tests.widget import jupyterlab_server, notebook_page
from tests.widget.explorer_page import ExplorerPage
from tests.widget.notebook_page import Notebook

from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import ROOT, Figure, Row

PROBE = (Path(__file__).parent / "browser_paint_times.js").read_text()
LONG = 180_000
MOVES, BURST = 300, 30
RELEASES = 15
FRAME, FAST_FRAME = 16.7, 8.3  # ms at 60 and at 120 Hz

EXPLORE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
import shrinkwidget as sw
from benchmarks.benchmark_models import deep, resnet50
ex = sw.explore({{model}}(), example=torch.zeros({{shape}}))
ex
"""
IMAGE, VECTOR = "1, 3, 64, 64", "1, 288"

HOMEMADE = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import copy
import ipywidgets
import matplotlib.pyplot as plt
from torch.nn.utils import prune
from benchmarks.benchmark_models import compressible, resnet50
model = resnet50()

def show(sparsity=0.5):
    pruned = copy.deepcopy(model)
    parameters = [(module, "weight") for module, _ in compressible(pruned)]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=sparsity)
    figure, axes = plt.subplots(9, 6, figsize=(14, 14))
    for axis, (module, _) in zip(axes.flat, parameters):
        axis.hist(module.weight.detach().numpy().ravel(), bins=100)
    plt.show()

ipywidgets.interact(show, sparsity=(0.0, 0.99, 0.01));
"""
HOMEMADE_MOVES = 3
NEXT_PICTURE = """(cell) => new Promise((done) => {
    const start = performance.now();
    const before = cell.querySelector("img")?.src;
    const look = () => {
        const image = cell.querySelector("img");
        if (!image || image.src === before) return;
        watch.disconnect();
        image.decode().then(() => requestAnimationFrame(() => setTimeout(() => done(performance.now() - start), 0)));
    };
    const watch = new MutationObserver(look);
    watch.observe(cell, {attributes: true, childList: true, subtree: true});
})"""


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    with lab_and_browser() as (running, browser):
        homemade = _homemade(_open(running, browser, "homemade", HOMEMADE), calm)
        page = _explorer(_open(running, browser, "resnet50", EXPLORE.format(model="resnet50", shape=IMAGE)))
        yield _drag_row("54 layers, 25.5 M weights", page, calm, FAST_FRAME, homemade)
        yield _release_row(page, calm)
        yield _channel_row("54 layers, 37 widths", page, calm)
        page.book.shut_down()
        page = _explorer(_open(running, browser, "deep", EXPLORE.format(model="deep", shape=VECTOR)))
        yield _drag_row("300 layers, 22 M weights", page, calm, FRAME)
        yield _channel_row("300 layers, 299 widths", page, calm)
        page.book.shut_down()


@contextmanager
def lab_and_browser() -> Iterator[tuple[jupyterlab_server.Lab, Browser]]:
    """Start a JupyterLab and a Chromium of our own."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        running = jupyterlab_server.start(Path(folder))
        try:
            path = chromium.find_or_get()
            browser = playwright.chromium.launch(executable_path=path, headless=True, args=list(chromium.FLAGS))
            yield running, browser
            browser.close()
        finally:
            running.stop()


def _open(running: jupyterlab_server.Lab, browser: Browser, name: str, cell: str) -> Notebook:
    notebook_page.write(running.folder / f"{name}.ipynb", [cell])
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(LONG)
    book = Notebook(page, address=running.address(f"{name}.ipynb"))
    book.load()
    book.run_all()
    return book


def _explorer(book: Notebook) -> ExplorerPage:
    page = ExplorerPage.first(book)
    page.choose("bits", 4)
    page.settled_bytes()
    page.view.evaluate(PROBE)
    return page


def _channel_row(words: str, page: ExplorerPage, calm: Calm) -> Row:
    """Drag the share of channels, with no weight pruned: every width, and what every layer is drawn of, changes."""
    page.part("channels").wait_for(timeout=LONG)
    page.slide_to(0)
    return _drag_row(words, page, calm, FRAME, slider="channels")


def _drag_row(
    words: str,
    page: ExplorerPage,
    calm: Calm,
    limit: float,
    homemade: Figure | None = None,
    slider: str = "sparsity",
) -> Row:
    # what is first is slower: code is compiled, caches are filled
    sweep(page.book.page, page.part(slider), 0.1, 0.9, MOVES // 10)
    take(page.book.page, "moves")
    session = page.book.page.context.new_cdp_session(page.book.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    moves, spent = [], 0.0
    for burst in range(MOVES // BURST):
        page.settled_bytes()
        calm()
        before = _main_thread_ms(session)
        sweep(page.book.page, page.part(slider), *((0.1, 0.9) if burst % 2 else (0.9, 0.1)), BURST)
        spent += _main_thread_ms(session) - before
        moves += take(page.book.page, "moves")
    parts = {name: Figure(tuple(move[name] for move in moves)) for name in ("total", "frame", "queued")}
    return Row(
        f"{slider} slider event to charts painted, {words}",
        parts["total"],
        "ms",
        "p95",
        limit,
        "interact + torch prune + matplotlib, per move" if homemade else "",
        homemade,
        faster=300 if homemade else None,
        note="the kernel counting at the same time; from frame to paint, and from the mouse on: see the JSON",
        more={
            "script and paint, ms": parts["frame"].to_dict(),
            "from the mouse's own time stamp, ms": parts["queued"].to_dict(),
            "CPU time of the page's main thread per move, JupyterLab's part in it, ms": round(spent / len(moves), 2),
        },
    )


def sweep(page: Page, slider: Locator, start: float, end: float, steps: int) -> None:
    """Take a slider with the mouse and drag it from one share of its track to another."""
    box = slider.bounding_box()
    if box is None:
        raise RuntimeError("the slider is not on the page")
    x, width, y = box["x"], box["width"], box["y"] + box["height"] / 2
    mouse = page.mouse
    mouse.move(x + width * start, y)
    mouse.down()
    mouse.move(x + width * end, y, steps=steps)
    mouse.up()


def _main_thread_ms(session: CDPSession) -> float:
    """Return the CPU time of the page's main thread so far: what a move costs, however busy the machine is."""
    metrics = {metric["name"]: metric["value"] for metric in session.send("Performance.getMetrics")["metrics"]}
    return 1e3 * float(metrics["TaskDuration"])


def take(page: Page, what: str) -> list[Any]:
    """Return what the probe noted since last asked."""
    page.wait_for_timeout(200)
    found: list[Any] = page.evaluate(f"() => window.probe.{what}.splice(0)")
    return found


def _release_row(page: ExplorerPage, calm: Calm) -> Row:
    """Drag to about 90 % again and again, never to a recipe that was counted before."""
    page.settled_bytes()
    take(page.book.page, "settled")
    for turn in range(RELEASES):
        calm()
        sweep(page.book.page, page.slider, 0.6, 0.885 + 0.002 * turn, 20)
        page.settled_bytes()
        page.book.page.wait_for_timeout(300)
    settled = Figure(tuple(ms / 1e3 for ms in take(page.book.page, "settled")))
    return Row("exact size and error on screen after release, 90 % and 4 bits", settled, "s", "median", 0.3)


def _homemade(book: Notebook, calm: Calm) -> Figure:
    """Return the seconds, as ms, from a move of interact's slider until the new picture is on screen."""
    cell = book.cell(0)
    cell.locator("img").first.wait_for()
    times = []
    for _ in range(HOMEMADE_MOVES):
        book.page.wait_for_timeout(1000)
        calm()
        times.append(_one_move(book.page, cell.element_handle()))
    book.shut_down()
    return Figure(tuple(times))


def _one_move(page: Page, cell: Any) -> float:
    page.evaluate(f"(cell) => {{ window.shown = ({NEXT_PICTURE})(cell); }}", cell)
    cell.query_selector(".noUi-handle").press("ArrowRight")
    shown: float = page.evaluate("() => window.shown")
    return shown
