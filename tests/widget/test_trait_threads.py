"""The explorer's traits are set from several threads at once: the browser's, the worker's, the notebook's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import shrinkwidget as sw
from shrinkwidget.widgets.explorer import Explorer

SECONDS = 60


@pytest.fixture
def ex() -> Iterator[Explorer]:
    explorer = sw.explore(sw.demo.model())
    assert explorer.wait(SECONDS)
    yield explorer
    explorer.close()


def test_an_observer_may_wait_for_the_figures_of_what_the_browser_asks(ex: Explorer) -> None:
    waited: list[bool] = []
    ex.observe(lambda _: waited.append(ex.wait(SECONDS) and ex.estimate.exact), "recipe")
    ex.set_state({"_recipe": sw.Recipe(sparsity=0.5).to_json(), "sparsity": 0.5})
    assert waited == [True]


def test_what_the_worker_tells_does_not_get_into_a_message_being_taken(ex: Explorer) -> None:
    telling = threading.Thread(target=ex._say, args=("done", "save", "told"))

    def observer(_change: object) -> None:
        telling.start()
        telling.join(0.05)
        assert telling.is_alive()

    ex.observe(observer, "recipe")
    ex.set_state({"sparsity": 0.5})
    telling.join(SECONDS)
    assert ex._status["text"] == "told"
