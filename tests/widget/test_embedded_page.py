"""A notebook that is published: its embedded pages stay alive in HTML, and everywhere else there are pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbconvert import HTMLExporter, LatexExporter
from playwright.sync_api import Browser, expect

from .conftest import Open
from .jupyterlab_server import Lab
from .live_page import LivePage
from .notebook_page import LONG

CELLS = (
    "import shrinkwidget as sw\nfirst = sw.explore(sw.demo.model(), sparsity=0.5)\nfirst",
    "second = sw.explore(sw.demo.model(), bits=8)\nsecond",
    "third = sw.explore(sw.demo.model(), sparsity=0.8, bits=4)\nthird.wait()\nthird.embed()",
    "third.bits = 3\nthird.wait()\nthird.embed()",
)


def pictures(cell: dict[str, Any]) -> list[str]:
    """Return what the pictures in the outputs of a saved cell say."""
    return [output["data"]["text/plain"] for output in cell["outputs"] if "image/png" in output.get("data", {})]


def check_alive(page: LivePage) -> None:
    """Assert that an embedded page answers."""
    before = page.nbytes
    page.part("bits").locator("label:has(input[value='2'])").click()
    assert page.nbytes < before
    assert not page.exact


def test_a_published_notebook_stays_alive_and_every_cell_keeps_its_own_picture(
    open_notebook: Open, jupyterlab: Lab, browser: Browser, tmp_path: Path, screenshots: Path
) -> None:
    book = open_notebook(*CELLS)
    for number in range(len(CELLS)):
        book.run(number)
    book.python("[setattr(first, 'sparsity', 0.75), setattr(second, 'bits', 2), first.wait(), second.wait()]")
    frames = book.page.locator("iframe.shrinkwidget-page")
    expect(frames).to_have_count(2)
    for number, bits in ((0, 4), (1, 3)):
        frame = frames.nth(number)
        expect(frame).to_have_attribute("data-alive", "")
        inside = LivePage(book.page, frame.element_handle().content_frame())  # type: ignore[arg-type]  # it is one
        assert inside.recipe.bits == bits
        check_alive(inside)
        assert frame.evaluate("frame => frame.clientHeight") > 500
    seen = ".jp-OutputArea-output img >> visible=true"
    expect(book.page.locator(seen)).to_have_count(0)
    said = [book.python(f"{name}._snapshot()['text/plain']") for name in ("first", "second")]
    assert len({*said}) == 2
    book.save()
    saved = nbformat.read(next(jupyterlab.folder.glob("test_a_published*.ipynb")), as_version=4)
    assert [pictures(cell) for cell in saved.cells[:2]] == [[text] for text in said]
    embedded = [pictures(cell) for cell in saved.cells[2:]]
    assert [len(found) for found in embedded] == [1, 1]
    assert embedded[0] != embedded[1]
    published, resources = HTMLExporter().from_notebook_node(saved)
    (tmp_path / "published.html").write_text(published)
    check_published(browser, tmp_path / "published.html", screenshots)
    latex, resources = LatexExporter().from_notebook_node(saved)
    assert latex.count(r"\adjustimage") == 4
    assert sorted(Path(name).suffix for name in resources["outputs"]) == [".png"] * 4
    # who did not run it does not trust it: JupyterLab takes frames and scripts away
    nbformat.write(nbformat.v4.new_notebook(cells=saved.cells[2:]), jupyterlab.folder / "downloaded.ipynb")
    page = book.page.context.new_page()
    page.goto(jupyterlab.address("downloaded.ipynb"))
    expect(page.locator(seen)).to_have_count(2, timeout=LONG)
    expect(page.locator("iframe.shrinkwidget-page")).to_have_count(0)
    page.close()


def check_published(browser: Browser, path: Path, screenshots: Path) -> None:
    """Assert that the pages in what nbconvert wrote answer, without a network, and stand in for their pictures."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    expect(page.locator("iframe.shrinkwidget-page[data-alive]")).to_have_count(2)
    page.wait_for_function("[...document.querySelectorAll('iframe')].every((frame) => frame.clientHeight > 500)")
    page.screenshot(path=screenshots / "published.png", full_page=True)
    for frame in page.frames[1:]:
        check_alive(LivePage(page, frame))
    pictures = page.locator("img >> visible=true")
    expect(pictures).to_have_count(2)  # of the explorers, which have no kernel here
    for picture in pictures.all():
        assert picture.evaluate("image => image.naturalWidth") > 300
    context.close()
