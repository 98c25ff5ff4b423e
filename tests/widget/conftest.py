"""The browser tests' fixtures: one JupyterLab, one Chromium and two pages for all of them, a notebook for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from . import find_or_install_chromium as chromium
from . import jupyterlab_server, notebook_page
from .lab_page import VIEWPORT, LabPage
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
    opened = browser.new_context(viewport=VIEWPORT)
    opened.set_default_timeout(PATIENCE)
    yield opened
    opened.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open an empty browser profile."""
    with new_context(browser) as opened:
        yield opened


@pytest.fixture(scope="session")
def lab_page(jupyterlab: jupyterlab_server.Lab, browser: Browser) -> Iterator[LabPage]:
    """Load JupyterLab once for the tests that have a notebook of their own, or none."""
    with new_context(browser) as context:
        yield LabPage.load(jupyterlab, context.new_page())


@pytest.fixture(scope="session")
def second_lab_page(jupyterlab: jupyterlab_server.Lab, browser: Browser) -> Iterator[LabPage]:
    """Load JupyterLab in another page, for notebooks that stay open through all tests of a module."""
    with new_context(browser) as context:
        yield LabPage.load(jupyterlab, context.new_page())


def write_and_open(lab_page: LabPage, title: str, cells: Sequence[str]) -> Notebook:
    """Write cells into a notebook that is named after a test, and open it."""
    name = re.sub(r"\W+", "-", title).strip("-") + ".ipynb"
    notebook_page.write(lab_page.lab.folder / name, cells)
    return lab_page.open_notebook(name)


@pytest.fixture
def open_notebook(lab_page: LabPage, request: pytest.FixtureRequest) -> Iterator[Open]:
    """Return a function that writes cells into a notebook and opens it; the test fails if the page complained."""
    yield lambda *cells: write_and_open(lab_page, request.node.name, cells)
    complaints = [*lab_page.complaints]
    lab_page.tidy_up()
    assert complaints == []


@pytest.fixture
def lab(lab_page: LabPage) -> Iterator[LabPage]:
    """Give JupyterLab to a test of the extension, which fails if an error of the page came from the extension."""
    yield lab_page
    errors = lab_page.our_errors()
    lab_page.tidy_up()
    assert errors == []


@pytest.fixture(scope="module")
def shared_notebook(second_lab_page: LabPage, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """Open the `SHARED` cells of a test module in one notebook for all its tests: a kernel takes seconds to start."""
    yield write_and_open(second_lab_page, request.node.name, request.module.SHARED)
    complaints = [*second_lab_page.complaints]
    second_lab_page.tidy_up()
    assert complaints == []


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
