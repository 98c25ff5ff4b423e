"""The explorer removes channels: found out on an example, exact while dragged, scored and kept as what is left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import copied
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.figures.figures_of_explorers_runs_and_sweeps import _devices_of
from shrinkwidget.figures.ridge_plot import gone_word
from shrinkwidget.widgets.explorer import Explorer, _Result
from shrinkwidget.widgets.export_button import export_targets

EXAMPLE = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), train_data=sw.demo.few(per_class=8))
    assert ex.wait(120)
    yield ex
    ex.close()


def test_which_channels_can_go_is_found_on_the_data_and_told_to_the_page(explorer: Explorer) -> None:
    assert explorer.sketch.channels is not None
    told = Sketch.decode(explorer._sketch).channels
    assert told is not None
    assert [f.channels for f in told.families] == [f.channels for f in explorer.sketch.channels.families]
    assert [(w.layers, w.reason) for w in told.fixed] == [(("head",), "the model's output has it")]


def test_figures_score_and_model_are_those_of_what_compress_leaves(explorer: Explorer) -> None:
    explorer.recipe = sw.Recipe(channels=0.5, bits=8)
    assert explorer.wait(120)
    small = sw.compress(sw.demo.model(), explorer.recipe, example=EXAMPLE)
    assert isinstance(small.model, nn.Module)
    assert explorer.estimate == small.estimate or explorer.estimate.to_dict()["layers"] == (
        small.estimate.to_dict()["layers"] if small.estimate else None
    )
    assert (explorer.estimate.exact, explorer.estimate.nbytes) == (True, small.nbytes)
    assert explorer.estimate.widths == small.widths
    assert explorer.estimate.ratio == pytest.approx(699_328 / small.nbytes)
    score = sw.evaluate(small.model, sw.demo.data("valid"))
    assert explorer.score is not None
    assert (explorer.score.value, explorer.score.n) == (score.value, score.n)
    assert score.value < 0.5, "without retraining it collapses, and that is what is shown"
    kept = explorer.compress()
    assert kept.nbytes == small.nbytes
    assert isinstance(kept.model, nn.Module)
    assert kept.model.get_submodule("stem").out_channels == 8
    assert explorer._exact is not None
    assert explorer._exact["widths"] == [now for _, now in small.widths.values()]
    assert explorer.history[-1]["nbytes"] == small.nbytes
    macs = explorer.history[-1]["macs"]
    assert small.macs is not None
    assert macs == pytest.approx(small.macs, rel=0.01)


def test_memory_and_devices_are_those_of_what_is_left(explorer: Explorer) -> None:
    explorer.recipe = sw.Recipe(channels=0.5, bits=8)
    assert explorer.wait(120)
    small = explorer.compress()
    assert isinstance(small.model, nn.Module)
    fit = sw.fits(small, EXAMPLE)
    assert explorer._exact is not None
    assert explorer._exact["memory"] == {"weights": fit.weight_bytes, "activations": fit.activation_bytes}
    drawn = _devices_of(explorer)
    assert (drawn.weight_bytes, drawn.activation_bytes) == (fit.weight_bytes, fit.activation_bytes)
    assert [row.fits for row in drawn.rows] == [row.fits for row in fit.rows]
    assert explorer._open().known(explorer.recipe)["exact"]["memory"] == explorer._exact["memory"]
    retrained = small.with_uncompressed_from(copied(small.model))  # as a result of "Retrain…", shown by its key
    assert isinstance(retrained.model, nn.Module)
    score = sw.evaluate(retrained.model, sw.demo.data("valid"))
    explorer._on_command(explorer, {"do": "goto", "result": explorer._add_result(_Result(retrained, score))}, [])
    assert explorer.wait(120)
    assert explorer._result != ""
    assert explorer._exact["memory"]["activations"] == fit.activation_bytes
    explorer.recipe = sw.Recipe(bits=8)
    assert explorer.wait(120)
    assert "memory" not in explorer._exact, "with all channels it is the dense network's"
    assert _devices_of(explorer).activation_bytes == explorer._memory["activations"] == 24_832


def test_its_fields_are_traits_in_step_with_the_recipe(explorer: Explorer) -> None:
    explorer.recipe = sw.Recipe(bits=8)
    explorer.channels, explorer.multiple = 0.25, 8
    assert explorer.recipe == sw.Recipe(bits=8, channels=0.25, multiple=8)
    explorer.recipe = explorer.recipe.with_(channels=0.5, multiple=1)
    assert (explorer.channels, explorer.multiple) == (0.5, 1)
    explorer.set_state({"channels": 0.75})
    assert explorer.recipe.channels == 0.75
    with pytest.raises(sw.errors.RecipeError, match="channels=1"):
        explorer.channels = 1
    assert explorer.channels == 0.75


def test_norms_are_re_estimated_in_what_is_left_and_bring_accuracy_back(explorer: Explorer) -> None:
    explorer.recipe = sw.Recipe(channels=0.25)
    assert explorer.wait(120)
    assert explorer.score is not None
    before = explorer.score.value
    explorer.recalibrate_batchnorm = True
    assert explorer.wait(120)
    assert explorer.score.value > before
    kept = explorer.compress()
    assert isinstance(kept.model, nn.Module)
    assert sw.evaluate(kept.model, sw.demo.data("valid")).value == explorer.score.value
    explorer.recalibrate_batchnorm = False


def test_pictures_show_what_is_left(explorer: Explorer, tmp_path: Path) -> None:
    explorer.recipe = sw.Recipe(channels=0.5, bits=4)
    assert explorer.wait(120)
    assert "50\u202f% of the channels removed" in explorer._snapshot()["text/plain"]
    saved = sw.figures.save(explorer.figure("silhouette", width="nature-single"), tmp_path / "silhouette.svg")
    assert "without the channels that went" in saved.read_text()
    assert explorer.estimate is not None
    assert gone_word(explorer.estimate) == "pruned, or gone with channels"
    assert gone_word(sw.estimate(explorer.sketch, 0.5)) == "pruned"
    assert explorer.to_html(tmp_path / "page.html") < 700_000


def test_a_recipe_to_begin_with_finds_its_channels_at_once() -> None:
    ex = sw.explore(sw.demo.model(), channels=0.5, example=EXAMPLE)
    assert Sketch.decode(ex._sketch).channels is not None
    assert ex.wait(120)
    assert ex.estimate.nbytes == sw.compress(sw.demo.model(), channels=0.5, example=EXAMPLE).nbytes
    ex.close()


@pytest.mark.parametrize(
    "model, given, words",
    [
        (sw.demo.model(), {}, "it takes an example to run: open the explorer with sw.explore(model, example=…)"),
        (sw.demo.model().state_dict(), {}, "it takes a module that can run"),
        (sw.demo.model(), {"example": torch.zeros(1, 3, 8, 8)}, "expected input"),
        (nn.Linear(3, 2), {"example": torch.zeros(1, 3)}, "every width has to stay (the model's output has it)"),
    ],
)
def test_where_no_channels_can_go_it_says_why(model: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(sw.errors.RecipeError, match="no channels can be removed here") as raised:
        sw.explore(model, channels=0.5, **given)
    assert words in str(raised.value)
    ex = sw.explore(model, bits=4, **given)
    assert ex.wait(120)
    found = Sketch.decode(ex._sketch).channels
    assert found is None or not found.families
    ex.set_state({"channels": 0.5})
    assert ex.recipe == sw.Recipe(bits=4)
    assert words in ex._status["text"]
    ex.close()


def test_the_page_exports_what_is_shown_and_can_stop_it(explorer: Explorer, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    explorer.recipe = sw.Recipe(channels=0.5, bits=8)
    targets = {one["target"]: one for one in explorer._export["targets"]}
    assert (targets["onnx"]["suffix"], targets["onnx"]["missing"]) == (".onnx", "")
    path = tmp_path / "digits.onnx"
    command = {"do": "export", "path": str(path), "target": "onnx"}
    explorer._on_command(explorer, command, [])
    assert explorer.wait(120)
    told = explorer._export
    assert told["state"] == "done", explorer._status
    assert told["exported"]["exact"] == "14 of 14 tensors exactly"
    assert told["exported"]["nbytes"] == path.stat().st_size
    assert explorer.score is not None
    assert told["exported"]["score"]["value"] == explorer.score.value
    explorer._on_command(explorer, command, [])
    assert explorer.wait(120)
    assert (explorer._status["state"], explorer._status["again"]["replace"]) == ("exists", True)
    before = path.read_bytes()
    explorer.observe(
        lambda change: setattr(explorer, "_export_stopped", change["new"]["state"] == "running"), "_export"
    )
    explorer._on_command(explorer, {**command, "replace": True}, [])
    assert explorer.wait(120)
    explorer.unobserve_all("_export")
    assert explorer._export["state"] == "stopped"
    assert path.read_bytes() == before
    explorer._on_command(explorer, {**command, "path": " "}, [])
    assert explorer.wait(120)
    assert explorer._status["text"] == "there is no file name: type one, such as model.onnx"


def test_what_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shrinkwidget.exports.exporter.find_spec", lambda _name: None)
    assert [one["target"] for one in export_targets()] == ["onnx", "openvino", "executorch", "gguf"]
    for one in export_targets():
        words = rf'an export to {one["target"]} needs \w+: pip install "shrinkwidget\[\w+\]"'
        assert re.match(words, one["missing"])
