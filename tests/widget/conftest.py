"""The browser tests' fixtures: one JupyterLab and one Chromium for all of them, a notebook for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from . import chromium, jupyterlab_server, notebook_page
from .notebook_page import Notebook

Open = Callable[..., Notebook]
PATIENCE = 30_000
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[jupyterlab_server.Lab]:
    """Start one JupyterLab for all browser tests."""
    running = jupyterlab_server.start(tmp_path_factory.mktemp("jupyterlab"))
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


@contextmanager
def new_context(browser: Browser) -> Iterator[BrowserContext]:
    """Open an empty browser profile, and close it in the end."""
    opened = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@contextmanager
def notebooks(jupyterlab: jupyterlab_server.Lab, context: BrowserContext, title: str) -> Iterator[Open]:
    """Give a function that writes cells into a notebook and opens it; in the end no page may have complained."""
    opened: list[Notebook] = []

    def open_(*cells: str) -> Notebook:
        name = re.sub(r"\W+", "-", title).strip("-") + f"-{len(opened)}.ipynb"
        notebook_page.write(jupyterlab.folder / name, cells)
        book = Notebook(context.new_page())
        book.listen()
        book.open(jupyterlab.address(name))
        opened.append(book)
        return book

    yield open_
    for book in opened:
        book.shut_down()
    assert [line for book in opened for line in book.complaints] == []


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open an empty browser profile."""
    with new_context(browser) as opened:
        yield opened


@pytest.fixture
def open_notebook(
    jupyterlab: jupyterlab_server.Lab, context: BrowserContext, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Return a function that writes cells into a notebook and opens it; the test fails if the page complained."""
    with notebooks(jupyterlab, context, request.node.name) as open_:
        yield open_


@pytest.fixture(scope="module")
def shared_notebook(
    jupyterlab: jupyterlab_server.Lab, browser: Browser, request: pytest.FixtureRequest
) -> Iterator[Notebook]:
    """Open the `SHARED` cells of a test module in one notebook for all its tests: a kernel takes seconds to start."""
    with new_context(browser) as context, notebooks(jupyterlab, context, request.node.name) as open_:
        yield open_(*request.module.SHARED)


@pytest.fixture
def book(shared_notebook: Notebook) -> Iterator[Notebook]:
    """Run the module's notebook again: a new explorer, of which nothing is known of the last one."""
    shared_notebook.run_all()
    yield shared_notebook
    complaints = [*shared_notebook.complaints]
    shared_notebook.complaints.clear()
    assert complaints == []


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Return the folder for the pictures CI keeps."""
    folder = Path(__file__).parents[2] / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
