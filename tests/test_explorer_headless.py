"""The explorer without a page: what it shows when it is closed, and what a page may not change."""

from __future__ import annotations

import json
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import shrinkwidget as sw
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import TensorEntry
from shrinkwidget.analysis.sketch import LayerSketch, sketch_layer
from shrinkwidget.widgets import explorer as worker
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


def test_a_widget_brings_its_own_script_and_style_sheet() -> None:
    # JupyterLab has the styles from the extension for checkpoints as well; Notebook 7, VS Code and Colab do not
    explorer = sw.explore(sw.demo.model())
    run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=1), epochs=1, background=True)
    assert run.wait(60)
    monitor = sw.monitor(run)
    for widget, root in ((explorer, ".sw-explorer"), (monitor, ".sw-monitor")):
        assert root in str(widget._css)
        assert "export" in str(widget._esm)
        widget.close()


def test_who_holds_the_lock_can_close_an_explorer_whose_picture_is_being_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    # an observer of a trait holds it, and whoever draws needs it
    explorer = sw.explore(sw.demo.model())
    assert explorer.wait(SECONDS)
    explorer._shown = Silent()
    drawing, held = threading.Event(), threading.Event()

    def snapshot() -> dict[str, Any]:
        drawing.set()
        assert held.wait(SECONDS)
        with explorer._lock:
            return {"image/png": b"", "text/plain": ""}

    def close() -> None:
        assert drawing.wait(SECONDS)
        with explorer._lock:
            held.set()
            explorer.close()

    monkeypatch.setattr(explorer, "_snapshot", snapshot)
    threads = [threading.Thread(target=work, daemon=True) for work in (explorer._refresh_snapshot, close)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads)


class Silent:
    """A display that shows nothing."""

    def update(self, *_: object, **__: object) -> None:
        pass


def test_the_kernel_tells_the_recipe_and_leaves_its_mirrors_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = sw.explore(sw.demo.model())
    assert explorer.wait(SECONDS)
    told: list[str] = []
    monkeypatch.setattr(explorer, "send_state", lambda key=None: told.extend([key] if isinstance(key, str) else key))
    explorer.sparsity, explorer.bits = 0.9, 4
    explorer.recipe = sw.Recipe(bits=2)
    assert told.count("_recipe") == 3
    assert not {"sparsity", "bits", "channels", "multiple"} & set(told)
    assert (explorer.sparsity, explorer.bits) == (0.0, 2)
    monkeypatch.undo()
    explorer.close()


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


class Gate:
    """Lets so many layers be sketched, one at a time, and counts them; each waits until it is let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looked: list[str] = []
        self._free = threading.Semaphore(0)
        # whatever takes any time counts as a large model
        monkeypatch.setattr(explorer_session, "_AT_ONCE_SECONDS", 0.0)
        monkeypatch.setattr(explorer_session, "sketch_layer", self._pass)

    def _pass(self, entry: TensorEntry) -> LayerSketch:
        assert self._free.acquire(timeout=SECONDS)
        self.looked.append(entry.name)
        return sketch_layer(entry)

    def open(self, layers: int) -> None:
        self._free.release(layers)


def told(explorer: Any) -> dict[str, Any]:
    """Return what the sketch on the page says of the model: its `layers`, and those that are `pending`."""
    blob = bytes(explorer._sketch)
    header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"]["model"])
    return found


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_large_model_is_sketched_while_the_explorer_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model = sw.demo.model()
    names = [layer.name for layer in sw.sketch(model).layers]
    explorer = sw.explore(model, sparsity=0.5, layers={"head": {"bits": 8}})
    assert [layer["name"] for layer in told(explorer)["pending"]] == names
    gate.open(4)
    until(lambda: told(explorer)["layers"])
    found = told(explorer)
    assert [layer["name"] for layer in (*found["layers"], *found["pending"])] == names
    # the recipe can be set meanwhile, by a layer's name too, and one that fits no layer is refused as ever
    explorer.recipe = sw.Recipe(0.9, bits=4, layers={"stage3.*": {"bits": 3}})
    with pytest.raises(sw.errors.RecipeError, match="matches no layer"):
        explorer.recipe = sw.Recipe(0.9, layers={"stage9.*": {"bits": 3}})
    with capture_output():
        assert "being looked at" in explorer._snapshot()["text/plain"]
    gate.open(2 * len(names))  # some of a sketch that a new recipe stopped are looked at again
    assert explorer.estimate.layers == sw.estimate(model, explorer.recipe).layers
    assert explorer.wait(SECONDS)
    assert bytes(explorer._sketch) == sw.sketch(model).encode() == explorer.sketch.encode()
    assert explorer._exact["nbytes_entropy_coded"]
    assert len(gate.looked) <= len(names) + 4  # what a thread had in hand, and no more
    explorer.close()


def test_whoever_needs_the_sketch_of_a_large_model_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model = sw.demo.model()
    explorer = sw.explore(model)
    gate.open(100)
    with explorer._lock:  # as where the recipe is set: telling the page must not wait for who waits for the sketch
        assert explorer.sketch.encode() == sw.sketch(model).encode()
    assert sorted(gate.looked) == sorted(layer.name for layer in explorer.sketch.layers)
    explorer.close()


def test_a_layer_of_a_large_model_that_cannot_be_sketched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model = sw.demo.model()
    with torch.no_grad():
        model.head.weight[0, 0] = torch.nan
    explorer = sw.explore(model)
    gate.open(100)
    assert not explorer.wait(SECONDS)
    assert "'head.weight' has 1 weight that is NaN or infinite" in explorer._unsketched
    assert explorer._status["state"] == "failed"
    assert "'head.weight' has 1 weight that is NaN or infinite" in explorer._status["text"]
    assert [layer["name"] for layer in told(explorer)["pending"]][-1] == "head.weight"
    with pytest.raises(sw.errors.ModelError, match=r"'head\.weight' has 1 weight that is NaN"):
        _ = explorer.estimate
    explorer.close()


def test_a_large_model_that_changes_while_it_is_sketched_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    model = sw.demo.model()
    explorer = sw.explore(model)
    gate.open(3)
    until(lambda: len(gate.looked) == 3)
    with torch.no_grad():
        model.stem.weight.mul_(2)
    gate.open(100)
    assert not explorer.wait(SECONDS)
    assert "the model has changed since it was looked at: 'stem.weight'" in explorer._stale
    assert explorer._unsketched.startswith(explorer._stale)
    with pytest.raises(sw.errors.ModelError, match="look again"):
        _ = explorer.estimate
    explorer._on_command(explorer, {"do": "look"}, [])
    assert explorer.wait(SECONDS)
    assert explorer._stale == explorer._unsketched == ""
    assert explorer.sketch.encode() == sw.sketch(model).encode()
    explorer.close()


@pytest.mark.parametrize("sketched", [3, 100])
def test_an_explorer_closed_while_it_fills_in_says_nothing(
    sketched: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(monkeypatch)
    counted = explorer_session.ExplorerSession.exact

    def count_and_close(session: Any, *about: Any) -> Any:
        found = counted(session, *about)
        explorer.close()  # as from the notebook's thread, when nobody asks any more whether to stop
        return found

    monkeypatch.setattr(explorer_session.ExplorerSession, "exact", count_and_close)
    explorer = sw.explore(sw.demo.model())
    gate.open(sketched)
    if sketched < 100:
        until(lambda: len(gate.looked) == sketched)
        explorer.close()
        gate.open(100)
    assert worker._WORKER.wait(id(explorer), SECONDS)
    assert repr(explorer) == "Explorer(closed)"
    assert caplog.text == ""
