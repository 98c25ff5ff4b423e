"""The explorer without a page: what it shows when it is closed, and what a page may not change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import shrinkwidget as sw


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_a_closed_explorer_shows_that_it_is_closed(shell: InteractiveShell) -> None:
    explorer = sw.explore(sw.demo.model())
    explorer.close()
    assert shell is not None
    with capture_output() as shown:
        explorer._ipython_display_()
    assert [output.data for output in shown.outputs] == [{"text/plain": "Explorer(closed)"}]


def test_a_page_cannot_change_what_the_kernel_tells() -> None:
    explorer = sw.explore(sw.demo.model())
    assert explorer.wait(60)
    told = explorer._exact
    explorer.set_state({"_exact": {"nbytes": 1}, "_history": [{}], "unknown": 1})
    assert explorer._exact == told
    assert explorer.history == []
    explorer.set_state({"sparsity": 0.5})
    assert explorer.recipe == sw.Recipe(sparsity=0.5)
    explorer.close()
