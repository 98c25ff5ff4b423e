"""The explorer without a page: what it shows when it is closed, and what a page may not change."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import shrinkwidget as sw
from shrinkwidget.widgets import explorer_backend as explorer_session

SECONDS = 60


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


def test_pickling_an_explorer_says_what_can_be_kept() -> None:
    explorer = sw.explore(sw.demo.model())
    with pytest.raises(TypeError, match=r"cannot pickle this Explorer, .*: keep its recipe"):
        pickle.dumps(explorer)
    explorer.close()


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


def few() -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = sw.demo.data()
    return images[:16], labels[:16]


def once(ending: BaseException) -> Callable[..., Any]:
    """Return a metric that ends its thread the first time, as argparse in a user's code does, and then counts."""
    calls: list[int] = []

    def metric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise ending
        return (outputs.argmax(1) == targets).float()

    return metric


@pytest.mark.parametrize(
    "ending", [SystemExit(2), KeyboardInterrupt(), GeneratorExit()], ids=lambda e: type(e).__name__
)
def test_a_metric_that_ends_its_thread_is_told_and_the_next_recipe_is_scored(ending: BaseException) -> None:
    explorer = sw.explore(sw.demo.model(), few(), metric=once(ending))
    assert explorer.wait(SECONDS)
    assert explorer._score is not None
    assert explorer._score["state"] == "failed"
    assert type(ending).__name__ in explorer._score["text"]
    assert "your data, model or metric" in explorer._score["text"]
    explorer.sparsity = 0.5
    assert explorer.wait(SECONDS)
    assert explorer.score is not None
    explorer.close()


class Dataset(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, _place: int) -> Any:
        sys.exit(2)


def test_a_dataset_that_ends_its_thread_is_told() -> None:
    explorer = sw.explore(sw.demo.model(), Dataset())
    assert explorer.wait(SECONDS)
    assert explorer._score is not None
    assert "SystemExit: 2" in explorer._score["text"]
    assert explorer.estimate.exact
    explorer.close()


def test_data_that_blocks_is_given_up_told_and_read_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer_session, "_PATIENCE_SECONDS", 0.3)
    let_on = threading.Event()

    class Blocked:
        def __iter__(self) -> Iterator[Any]:
            let_on.wait(SECONDS)
            yield few()

    explorer = sw.explore(sw.demo.model(), Blocked())
    assert explorer.wait(SECONDS)
    threads = threading.active_count()
    assert explorer._score is not None
    assert (explorer._score["state"], explorer.score) == ("failed", None)
    assert "the data has given no batch 1" in explorer._score["text"]
    for sparsity in (0.25, 0.5):
        explorer.sparsity = sparsity
        assert explorer.wait(SECONDS)
        assert explorer.estimate.exact
        assert explorer.compress().nbytes == explorer.estimate.nbytes
    assert threading.active_count() == threads
    let_on.set()
    explorer._on_command(explorer, {"do": "evaluate"}, [])
    assert explorer.wait(SECONDS)
    assert explorer.score is not None
    assert explorer.score.n == 16
    explorer.close()


def test_points_of_a_sweep_join_the_history_of_the_same_model() -> None:
    model, valid = sw.demo.model(), sw.demo.data("valid")
    recipes = [sw.Recipe(0.5, bits=4), sw.Recipe(0.8, bits=4)]
    explorer = sw.explore(model, valid, recipes[0])
    assert explorer.wait(60)
    found = sw.sweep(model, recipes, valid, on_result=explorer.add_to_history)
    # the one that was evaluated here is the same point
    assert [(point["recipe"], point["value"], point["nbytes"]) for point in explorer.history] == [
        (point.recipe, point.value, point.nbytes) for point in found.points
    ]
    others = sw.sweep(sw.fold_batchnorm(model), recipes[:1], valid)
    with pytest.raises(sw.errors.ArgumentError, match="of another model"):
        explorer.add_to_history(others.points[0])
    loss = sw.sweep(model, recipes[:1], valid, "perplexity")
    with pytest.raises(sw.errors.ArgumentError, match="score is perplexity, and the explorer's is accuracy"):
        explorer.add_to_history(loss.points[0])
    with pytest.raises(sw.errors.ArgumentError, match="takes a SweepPoint, not a Recipe"):
        explorer.add_to_history(recipes[0])  # type: ignore[arg-type]
    explorer.close()
