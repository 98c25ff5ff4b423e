"""Nothing is lost or passed off as something else: what is replaced, gone back to, changed since, or closed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from ipywidgets import Layout
from safetensors.torch import save_file
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import checksum
from shrinkwidget.errors import ModelError
from shrinkwidget.widgets.explorer import Explorer
from shrinkwidget.widgets.keep_and_save import is_packed

SECONDS = 120


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


@pytest.fixture
def model() -> nn.Module:
    return sw.demo.model()


@pytest.fixture
def ex(model: nn.Module) -> Iterator[Explorer]:
    images, labels = sw.demo.data("train")
    test = tuple(part[:64] for part in sw.demo.data())
    explorer = sw.explore(model, test, sw.Recipe(sparsity=0.9, bits=4), train_data=(images[:256], labels[:256]))
    assert explorer.wait(SECONDS)
    yield explorer
    explorer.close()


def ask(widget: Any, **command: Any) -> dict[str, Any]:
    """Send a command as the page does, and return what is answered."""
    widget._on_command(widget, command, [])
    if isinstance(widget, Explorer):
        assert widget.wait(SECONDS)
        return dict(widget._status)
    return dict(widget._kept)


def retrain(ex: Explorer) -> sw.results.TrainingRun:
    ex._retrain(ex.recipe, sw.methods.FineTune(epochs=1, lr=0.01))
    assert ex.run is not None
    assert ex.run.wait(SECONDS)
    assert ex.wait(SECONDS)
    return ex.run


# what is replaced


def test_the_retrained_and_the_plain_model_have_names_of_their_own(ex: Explorer) -> None:
    assert ex._keeps == {"provenance": "no retraining", "variable": "small", "file": "digitnet-small.safetensors"}
    monitor = sw.monitor(retrain(ex))
    assert (monitor._keeps["variable"], monitor._keeps["file"]) == ("retrained", "digitnet-retrained.safetensors")
    monitor.close()


def test_a_file_of_ours_is_replaced_only_when_that_is_said(ex: Explorer, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    monitor = sw.monitor(retrain(ex))
    assert not ask(monitor, do="save", path=str(path))["failed"]
    trained = path.read_bytes()
    found = ask(ex, do="save", path=str(path), entropy=False)
    assert found["state"] == "exists"
    assert "model.safetensors exists already" in found["text"]
    assert "4 bits" in found["text"]
    assert path.read_bytes() == trained
    asked = ex.recipe
    ex.recipe = sw.Recipe()  # the question was about another recipe
    assert ask(ex, **found["again"])["state"] == "done"
    assert path.stat().st_size == sw.compress(sw.demo.model(), asked).nbytes
    assert path.read_bytes() != trained
    again = ask(monitor, do="save", path=str(path))
    assert (again["failed"], again["again"]["replace"]) == (False, True)
    assert ask(monitor, **again["again"])["again"] is None
    assert path.read_bytes() == trained
    assert not ask(monitor, do="save", path=str(path))["again"]  # just this is in it already
    monitor.close()


def test_a_variable_is_replaced_only_when_that_is_said(ex: Explorer, shell: InteractiveShell) -> None:
    monitor = sw.monitor(retrain(ex))
    ask(monitor, do="keep", name="small")
    found = ask(ex, do="compress", name="small")
    assert found["state"] == "exists"
    assert "fine-tuned 1 epoch" in found["text"]
    assert shell.user_ns["small"] is monitor.run.result  # type: ignore[union-attr]
    assert ask(ex, **found["again"])["state"] == "done"
    assert shell.user_ns["small"].provenance == "no retraining"
    assert ask(ex, do="compress", name="small")["state"] == "done"  # the same once more
    assert "again" in ask(monitor, do="keep", name="small")
    monitor.close()


@pytest.mark.parametrize("replace", [False, True])
def test_what_is_not_ours_is_never_replaced(
    replace: bool, ex: Explorer, shell: InteractiveShell, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint"
    images, labels = sw.demo.data("train")
    sw.retrain(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), (images[:64], labels[:64]), None, sw.methods.FineTune(1),
               options=sw.methods.TrainingOptions(checkpoint=path))  # fmt: skip
    assert not is_packed(path)  # although its format begins with the same word
    before = path.read_bytes()
    shell.user_ns["mine"] = [1]
    assert ask(ex, do="save", path=str(path), replace=replace)["state"] == "failed"
    assert ask(ex, do="save", path="a\0b", replace=replace)["state"] == "failed"
    assert ask(ex, do="compress", name="mine", replace=replace)["state"] == "failed"
    assert (path.read_bytes(), shell.user_ns["mine"]) == (before, [1])


# what is gone back to


def test_a_retrained_point_brings_its_result_and_any_other_recipe_leaves_it(ex: Explorer, tmp_path: Path) -> None:
    run = retrain(ex)
    plain, asked = ex.score, ex.recipe
    (visit,) = [point for point in ex._history if point["result"]]
    assert "result" not in ex.history[0]
    ex.recipe = sw.Recipe(bits=2)
    ask(ex, do="goto", result=visit["result"])
    assert (ex.recipe, ex._result) == (asked, visit["result"])
    assert ex.compress() is run.result
    assert ex.estimate.nbytes == run.result.nbytes
    assert ex._exact["nbytes_entropy_coded"] == run.result.nbytes_entropy_coded
    assert ex._score["value"] == ex.score.value == run.score.value  # type: ignore[union-attr]
    assert ex._score["provenance"] == ex._keeps["provenance"] == run.result.provenance
    assert ex._exact["result"] == ex._score["result"] == visit["result"], "the page tells them from those of the recipe"
    assert f"accuracy {100 * ex.score.value:.1f}" in ex._snapshot()["text/plain"]  # type: ignore[union-attr]
    ask(ex, do="save", path=str(tmp_path / "x"))
    assert (tmp_path / "x").stat().st_size == run.result.nbytes
    ask(ex, do="goto", result=None)
    assert (ex._result, ex.score, ex._keeps["variable"]) == ("", plain, "small")
    assert "result" not in ex._exact
    assert "result" not in ex._score
    ask(ex, do="goto", result=visit["result"])
    ex.sparsity = 0.5
    assert ex.wait(SECONDS)
    assert (ex._result, ex._score["provenance"]) == ("", "no retraining")
    assert "no retrained or recovered result '9'" in ask(ex, do="goto", result="9")["text"]


def test_retrain_during_a_training_shows_the_running_one(ex: Explorer) -> None:
    ask(ex, do="retrain")
    ex._retrain(ex.recipe, sw.methods.FineTune(epochs=500, lr=0.001))
    run, monitor = ex.run, ex._monitor
    assert run is not None
    told = ask(ex, do="retrain")
    assert "a training is under way" in told["text"]
    assert (ex._monitor, ex.run) == (monitor, run)
    with pytest.raises(sw.errors.TrainingError, match="under way"):
        ex._retrain(ex.recipe, sw.methods.FineTune(epochs=1))
    assert ex.run is run
    run.stop()
    assert run.wait(SECONDS)
    ask(ex, do="retrain")
    assert ex._monitor != monitor


# a model that changed since it was looked at

CHANGES: dict[str, Callable[[nn.Module], object]] = {
    "trained": lambda m: [p.data.add_(0.01) for p in m.parameters()],
    "one weight, through .data": lambda m: m.get_parameter("stem.weight").data[0, 0, 0].neg_(),
    "channels in another order": lambda m: setattr(
        m.get_parameter("stem.weight"), "data", m.get_parameter("stem.weight").data.flip(0)
    ),
    "half": lambda m: m.half(),
    "other weights": lambda m: m.load_state_dict({k: v * 2 for k, v in m.state_dict().items()}, assign=True),
    "NaN": lambda m: m.get_parameter("stem.weight").data[0].fill_(float("nan")),
    "statistics of batch norm": lambda m: next(b for n, b in m.named_buffers() if "running_mean" in n).add_(1),
}
RECIPES = [sw.Recipe(), sw.Recipe(bits=4), sw.Recipe(structure="2:4"), sw.Recipe(sparsity=0.5, importance="random")]


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_a_change_is_noticed_before_anything_is_kept_or_scored(
    change: Callable[[nn.Module], object], ex: Explorer, model: nn.Module, tmp_path: Path
) -> None:
    seen, baseline = list(ex._history), ex._baseline
    change(model)
    for recipe in RECIPES:
        ex.recipe = recipe
        assert ex.wait(SECONDS)
        assert "has changed since it was looked at" in ex._stale
        with pytest.raises(ModelError, match=r"has changed since it was looked at.*look again"):
            ex.compress()
        told = ask(ex, do="save", path=str(tmp_path / "x"))
        assert told["state"] == "failed"
        assert told["text"] == ex._stale
    assert not (tmp_path / "x").exists()
    assert (ex._history, ex._baseline) == (seen, baseline)


def test_looking_again_begins_anew_with_the_model_as_it_is(ex: Explorer, model: nn.Module) -> None:
    run = retrain(ex)
    before = ex.score
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand_like(parameter))
    ask(ex, do="save", path="nowhere")
    assert ex._stale
    ask(ex, do="look")
    assert ex._stale == ""
    assert ex._baseline["value"] == sw.evaluate(model, tuple(part[:64] for part in sw.demo.data())).value
    assert ex.score != before
    assert [point["provenance"] for point in ex._history] == [run.result.provenance, "no retraining"]
    assert ex.compress().nbytes == ex.estimate.nbytes
    model.get_parameter("stem.weight").data.fill_(float("inf"))
    told = ask(ex, do="look")
    assert (told["state"], "NaN or infinite" in told["text"]) == ("failed", True)


def test_a_model_that_is_changed_back_is_no_longer_stale(ex: Explorer, model: nn.Module) -> None:
    model.get_parameter("stem.weight").data.neg_()
    ask(ex, do="evaluate")
    assert ex._stale
    model.get_parameter("stem.weight").data.neg_()
    ask(ex, do="evaluate")
    assert not ex._stale
    assert ex.score is not None


def test_a_file_replaced_by_another_of_equal_shapes_is_noticed(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    explorer = sw.explore(path)
    assert explorer.wait(SECONDS)
    save_file({name: tensor * 2 for name, tensor in model.state_dict().items()}, path)
    explorer.recipe = sw.Recipe(bits=4)
    assert explorer.wait(SECONDS)
    assert "the file" in explorer._stale
    assert ask(explorer, do="look")["state"] != "failed"
    assert explorer.compress().nbytes == explorer.estimate.nbytes
    explorer.close()


def test_weights_that_became_nan_never_pass_compress(model: nn.Module) -> None:
    known = sw.sketch(model)
    model.get_parameter("stem.weight").data[0, 0, 0, 0] = float("nan")
    for recipe in RECIPES:
        with pytest.raises(ModelError, match=r"stem\.weight"):
            sw.compress(model, recipe, sketch=known)


def test_a_checksum_depends_on_every_bit_and_its_place() -> None:
    torch.manual_seed(0)
    for tensor in (torch.randn(1000), torch.randn(7).half(), torch.arange(3, dtype=torch.uint8), torch.tensor(1.0)):
        before, raw = checksum(tensor), tensor.view(-1).view(torch.uint8)
        for place in range(0, len(raw), max(1, len(raw) // 40)):
            raw[place] ^= 1 << place % 8
            assert checksum(tensor) != before
            raw[place] ^= 1 << place % 8
        assert checksum(tensor) == before == checksum(tensor.clone())
    large = torch.randn(100_000)
    assert checksum(large) != checksum(large.flip(0))
    assert checksum(large.view(100, 1000).t()) != checksum(large)
    assert checksum(torch.cat([torch.zeros(1), large])[1:]) == checksum(large)


# what is closed, and what a page cannot do


def test_a_closed_explorer_holds_nothing(model: nn.Module) -> None:
    explorer = sw.explore(model)
    assert explorer.wait(SECONDS)
    explorer.close()
    gc.collect()
    held = sum(len(str(getattr(explorer, name))) for name in explorer.trait_names(echo_update=False))
    assert held < 1000
    assert explorer.layout.comm is None
    assert repr(explorer) == "Explorer(closed)"


UNREADABLE: list[dict[str, Any]] = [
    {},
    {"method": "update"},
    {"method": "update", "state": 5},
    {"method": "update", "state": {"bits": "x"}},
    {"method": "update", "state": {"_recipe": 5}},
    {"method": "update", "state": {"sparsity": []}},
    {"method": "update", "state": {}, "buffer_paths": [["a"]]},
    {"method": "custom"},
    {"method": "custom", "content": None},
    {"method": "custom", "content": {"do": ["save"]}},
    {"method": "custom", "content": {"do": "save", "path": 5}},
    {"method": "custom", "content": {"do": "save", "recipe": "{", "path": "x"}},
    {"method": "nonsense"},
]


@pytest.mark.parametrize("data", UNREADABLE, ids=repr)
def test_a_message_that_makes_no_sense_is_answered_with_a_sentence(
    data: dict[str, Any], ex: Explorer, capsys: pytest.CaptureFixture[str], shell: InteractiveShell
) -> None:
    before = ex.recipe
    ex._handle_msg({"content": {"data": data}, "buffers": []})
    assert ex.wait(SECONDS)
    assert (ex.recipe, ex.bits, ex.sparsity) == (before, before.bits, before.sparsity)
    assert ex._status["state"] == "failed"
    assert "\n" not in ex._status["text"]
    assert "Traceback" not in "".join(capsys.readouterr())
    assert shell is not None


def test_a_page_sets_the_recipe_and_nothing_else(ex: Explorer) -> None:
    before = {name: getattr(ex, name) for name in ("_esm", "_css", "layout", "_stale", "_keeps")}
    ex.set_state({"_esm": " ", "_css": " ", "layout": "IPY_MODEL_" + Layout().model_id, "_stale": "x", "_keeps": {}})
    assert {name: getattr(ex, name) for name in before} == before
    monitor = sw.monitor(retrain(ex))
    script = monitor._esm
    monitor.set_state({"_esm": " ", "_state": "ready", "_kept": {}})
    assert (monitor._esm, monitor._state) == (script, "done")
    assert ask(monitor, do="fly")["failed"]
    monitor.close()
