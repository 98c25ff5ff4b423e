"""The browser tests' fixtures: one JupyterLab and one Chromium for all of them, a notebook for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from . import chromium, lab, notebook
from .notebook import Notebook

Open = Callable[..., Notebook]
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lab.Lab]:
    """Start one JupyterLab for all browser tests."""
    running = lab.start(tmp_path_factory.mktemp("jupyterlab"))
    yield running
    running.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start one Chromium for all browser tests; where there is none they fail, they are never skipped."""
    path = chromium.find()
    if not path:
        pytest.fail(chromium.MISSING)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, headless=True, args=list(chromium.FLAGS))
        yield running
        running.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open an empty browser profile."""
    opened = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def open_notebook(jupyterlab: lab.Lab, context: BrowserContext, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that writes cells into a notebook and opens it; the test fails if the page complained."""
    opened: list[Notebook] = []

    def open_(*cells: str) -> Notebook:
        name = re.sub(r"\W+", "-", request.node.name).strip("-") + f"-{len(opened)}.ipynb"
        notebook.write(jupyterlab.folder / name, cells)
        book = Notebook(context.new_page())
        book.listen()
        book.open(jupyterlab.address(name))
        opened.append(book)
        return book

    yield open_
    for book in opened:
        book.shut_down()
    assert [line for book in opened for line in book.complaints] == []


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Return the folder for the pictures CI keeps."""
    folder = Path(__file__).parents[2] / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
