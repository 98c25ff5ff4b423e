"""Sensitivity, changes by class and recalibrated batch norm in the explorer's kernel: equal to doing it by hand."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.errors import ArgumentError, DataError, ModelError
from shrinkwidget.performance.device_fit import known_devices
from shrinkwidget.widgets import explorer_backend
from shrinkwidget.widgets.by_class_json_and_thumbnails import small_picture
from shrinkwidget.widgets.explorer import _WORKER, Explorer
from shrinkwidget.widgets.worker_thread import Worker

VALID, TRAIN = demo.data("valid"), demo.data("train")
SECONDS = 60


@pytest.fixture
def ex() -> Iterator[Explorer]:
    explorer = sw.explore(demo.model(), VALID, train_data=TRAIN, sparsity=0.85, bits=4)
    assert explorer.wait(SECONDS)
    yield explorer
    explorer.close()


def press(explorer: Explorer, **command: Any) -> None:
    explorer._on_command(explorer, command, [])


def measured(explorer: Explorer) -> dict[str, Any]:
    assert _WORKER.wait(explorer._sensitivity_key, SECONDS)
    assert explorer._sensitivity is not None
    told: dict[str, Any] = json.loads(json.dumps(explorer._sensitivity))  # as a page that stands alone takes it
    return told


# Sensitivity


@pytest.mark.parametrize("kind", ["sparsity", "bits"])
def test_the_button_measures_what_sensitivity_does(ex: Explorer, kind: str) -> None:
    ex.recipe = ex.recipe.with_layer("stage[23]*", sw.Keep)
    press(ex, do="sensitivity", kind=kind)
    told = measured(ex)
    amounts: dict[str, Any] = {"sparsity": None} if kind == "sparsity" else {"bits": (8, 6, 4, 3, 2)}
    by_hand = sw.sensitivity(demo.model(), VALID, **amounts, layers=["stem", "stage1*", "head"])
    assert (told["state"], told["pending"], told["kind"]) == ("done", 0, kind)
    assert (told["n"], told["examples"]) == (287, "all 287 examples")
    assert told["amounts"] == list(by_hand.amounts)
    assert told["dense"] == by_hand.dense.value
    kept = [None] * 8  # layers under Keep are left out
    values = [[score.value for score in layer.scores] for layer in by_hand.layers]
    assert told["layers"] == [*values[:5], *kept, values[5]]
    assert ex.sensitivity is not None
    assert ex.sensitivity.to_rows() == by_hand.to_rows()


def test_python_starts_it_with_amounts_and_layers_of_its_own_and_waits(ex: Explorer) -> None:
    ex.start_sensitivity(bits=(2, 6), layers=["stem", "head"])
    assert ex.wait(SECONDS, sensitivity=True)
    told = measured(ex)
    by_hand = sw.sensitivity(demo.model(), VALID, bits=(6, 2), layers=["stem", "head"])
    assert ex.sensitivity is not None
    assert ex.sensitivity.to_rows() == by_hand.to_rows()
    assert (told["state"], told["kind"], told["amounts"]) == ("done", "bits", [6, 2])
    assert [i for i, values in enumerate(told["layers"]) if values is not None] == [0, 13]
    figure = ex.figure("sensitivity")
    assert {row["layer"] for row in sw.figures.table(figure).rows} == {"stem", "head"}

    ex.start_sensitivity()
    assert ex.wait(sensitivity=False)
    assert not ex.wait(0.01, sensitivity=True)
    ex.stop_sensitivity()
    assert ex.wait(SECONDS, sensitivity=True)
    assert measured(ex)["state"] == "stopped"


def test_what_python_cannot_have_measured_is_refused_at_once(ex: Explorer) -> None:
    with pytest.raises(ArgumentError, match="sparsity or bits, not both"):
        ex.start_sensitivity(sparsity=0.5, bits=4)
    with pytest.raises(ArgumentError, match="'stm' matches no layer; did you mean 'stem'"):
        ex.start_sensitivity(layers="stm")
    assert ex._sensitivity is None
    without = sw.explore(demo.model())
    with pytest.raises(DataError, match="sensitivity needs data"):
        without.start_sensitivity()
    without.close()


class Gate(nn.Module):
    """Waits before it answers, as often as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 32)
        self.second = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.005)
        out: Tensor = self.second(self.first(x.flatten(1)).relu())
        return out


def test_stopped_it_keeps_what_it_has_and_a_recipe_gets_its_score_meanwhile() -> None:
    explorer = sw.explore(Gate(), VALID)
    assert explorer.wait(SECONDS)
    press(explorer, do="sensitivity", kind="sparsity")
    until(lambda: (explorer._sensitivity or {}).get("dense") is not None)
    explorer.sparsity = 0.5
    assert explorer.wait(SECONDS)
    assert explorer.score is not None  # while the other work waits
    assert explorer.score.value == sw.evaluate(explorer.compress(), VALID).value
    assert explorer._sensitivity is not None
    assert explorer._sensitivity["state"] == "running"
    press(explorer, do="stop_sensitivity")
    told = measured(explorer)
    assert told["state"] == "stopped"
    assert told["pending"] >= 1
    explorer.close()


def test_a_failure_is_told_and_it_can_be_asked_for_again() -> None:
    broken = [True]

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if broken[0] and threading.current_thread().name == "shrinkwidget":
            raise RuntimeError("a bug of mine")
        return (outputs.argmax(1) == targets).float()

    explorer = sw.explore(demo.model(), VALID, metric=metric)
    press(explorer, do="sensitivity", kind="sparsity")
    told = measured(explorer)
    assert (told["state"], told["layers"]) == ("failed", [])
    assert "a bug of mine" in told["text"]
    broken[0] = False
    press(explorer, do="sensitivity", kind="bits")
    assert measured(explorer)["state"] == "done"
    explorer.close()


def test_what_cannot_be_measured_is_refused() -> None:
    explorer = sw.explore(demo.model())
    press(explorer, do="sensitivity", kind="sparsity")
    assert "sensitivity needs data" in explorer._status["text"]
    press(explorer, do="sensitivity", kind="magnitude")
    assert "it is 'sparsity' or 'bits'" in explorer._status["text"]
    explorer.close()


def test_background_work_waits_for_all_other_and_makes_room_for_it() -> None:
    worker, ran = Worker(), list[str]()
    gate, began = threading.Event(), threading.Event()

    def long(cancelled: Callable[[], bool]) -> None:
        ran.append("long begins")
        began.set()
        while not cancelled():
            time.sleep(0.001)
            if "settled" in ran:
                break
        ran.append("long ends")

    def button(_cancelled: Callable[[], bool]) -> None:
        gate.wait(10)

    worker.urgent("button", button)
    worker.background("sensitivity", long)
    worker.latest("recipe", lambda _: ran.append("first"))
    gate.set()
    assert began.wait(10)
    worker.latest("recipe", lambda _: ran.append("settled"))
    assert worker.wait("sensitivity", 10)
    assert ran == ["first", "long begins", "settled", "long ends"]
    worker.stop()


# By class


def test_what_a_recipe_gets_wrong_is_what_compare_predictions_tells(ex: Explorer) -> None:
    by_hand = sw.compare_predictions(demo.model(), ex.compress(), VALID)
    told = ex._by_class
    assert told is not None
    json.dumps(told)
    assert (told["recipe"], told["recalibrated"]) == (ex.recipe.to_json(), False)
    assert told["classes"] == [
        [old.labels, old.correct, new.correct, old.predicted, new.predicted]
        for old, new in zip(by_hand.before.by_class, by_hand.after.by_class, strict=True)
    ]
    assert (told["misread"], told["fixed"]) == (len(by_hand.misread), by_hand.fixed)
    assert told["misread"] > 20
    assert told["confusions"] == [list(pair) for pair in by_hand.confusions if pair.after][:24]
    assert ex.comparison is not None
    assert ex.comparison.misread == by_hand.misread


def test_it_is_the_same_whether_the_dense_model_was_scored_before_or_after(ex: Explorer) -> None:
    first = ex._by_class
    other = sw.explore(demo.model(), VALID)
    assert other.wait(SECONDS)
    assert other.comparison is None  # the dense model itself
    other.recipe = ex.recipe
    assert other.wait(SECONDS)
    assert other._by_class == first
    other.sparsity = 0.5
    assert other.wait(SECONDS)
    assert other._by_class is not None
    assert other._by_class["misread"] < 20
    other.recipe = ex.recipe  # it is remembered
    assert other.wait(SECONDS)
    assert other._by_class == first
    other.close()


def test_misread_images_are_small_pictures_of_the_examples(ex: Explorer) -> None:
    assert ex._by_class is not None
    images = ex._by_class["images"]
    assert len(images) == 24
    misread = {m.example: m for m in ex.comparison.misread} if ex.comparison else {}
    for shown in images:
        found = misread[shown["example"]]
        assert (shown["label"], shown["predicted"]) == (found.label, found.predicted)
        pixels = np.frombuffer(base64.b64decode(shown["pixels"]), np.uint8)
        image = VALID[0][found.example, 0]
        expected = ((image - image.min()) / (image.max() - image.min()) * 255).round()
        assert (shown["width"], shown["height"], shown["channels"]) == (8, 8, 1)
        assert pixels.tolist() == expected.flatten().tolist()


@pytest.mark.parametrize(
    ("shape", "expected"), [((3, 224, 112), (48, 24, 3)), ((28, 28), (28, 28, 1)), ((1, 1000, 2), (48, 1, 1))]
)
def test_a_small_picture_is_at_most_48_pixels_and_spans_all_greys(
    shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    picture = small_picture(torch.linspace(-3, 5, torch.Size(shape).numel()).view(shape))
    assert (tuple(picture.shape), int(picture.min()), int(picture.max())) == (expected, 0, 255)
    assert small_picture(torch.ones(shape)).max() == 0


def test_pixels_and_tokens_have_no_examples_but_their_classes() -> None:
    class Paint(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.conv(x)
            return out

    explorer = sw.explore(Paint(), (VALID[0][:20], (VALID[0][:20, 0] > 0.5).long()), sparsity=0.9)
    assert explorer.wait(SECONDS)
    told = explorer._by_class
    assert told is not None
    assert len(told["classes"]) == 2
    assert (told["misread"], told["images"]) == (0, [])
    assert "labels 20×8×8" in told["only_classes"]
    explorer.close()


def test_a_retrained_result_is_compared_too(ex: Explorer) -> None:
    press(ex, do="retrain")
    assert ex.wait(SECONDS)
    ex._retrain(ex.recipe, sw.methods.FineTune(epochs=1))
    assert ex.run is not None
    assert ex.run.wait(SECONDS)
    press(ex, do="goto", result="1")
    assert ex.wait(SECONDS)
    by_hand = sw.compare_predictions(demo.model(), ex.run.result, VALID)
    assert ex.comparison is not None
    assert ex.comparison.misread == by_hand.misread
    assert ex._by_class is not None
    assert ex._by_class["misread"] == len(by_hand.misread)


# Batch norm recalibrated


def test_the_switch_scores_what_evaluate_recalibrates_and_history_tells_both(ex: Explorer) -> None:
    plain = ex.score
    ex.recalibrate_batchnorm = True
    assert ex.wait(SECONDS)
    small = sw.compress(demo.model(), ex.recipe)
    by_hand = sw.evaluate(small, VALID, recalibrate_batchnorm=TRAIN)
    assert ex.score == by_hand
    assert plain is not None
    assert ex.score is not None
    assert ex.score.value > plain.value + 0.1
    assert ex._score is not None
    assert ex._score["recalibrated"] is True
    assert ex._by_class is not None
    assert ex._by_class["recalibrated"] is True
    assert [visit["provenance"] for visit in ex.history] == [
        "no retraining",
        "batch norm recalibrated on 512 training examples",
    ]
    ex.recalibrate_batchnorm = False
    assert ex.wait(SECONDS)
    assert ex.score == plain
    assert len(ex.history) == 2


def test_what_is_kept_is_what_the_score_says(ex: Explorer, tmp_path: Path) -> None:
    ex.recalibrate_batchnorm = True
    assert ex.wait(SECONDS)
    assert ex._keeps["variable"] == "recalibrated"
    small = ex.compress()
    assert small.provenance == "batch norm recalibrated on 512 training examples"
    assert sw.evaluate(small, VALID).value == (ex.score.value if ex.score else None)
    press(ex, do="save", path=str(tmp_path / "small.safetensors"))
    assert ex.wait(SECONDS)
    assert "saved" in ex._status["text"]
    again = sw.load(tmp_path / "small.safetensors", into=demo.model())
    assert torch.equal(again.state_dict()["bn.running_mean"], small.state_dict()["bn.running_mean"])
    assert (tmp_path / "small.safetensors").stat().st_size == ex.estimate.nbytes
    ex.recalibrate_batchnorm = False
    assert ex.compress().provenance == "no retraining"


def test_the_model_that_is_scored_next_has_its_own_statistics_again(ex: Explorer) -> None:
    ex.recalibrate_batchnorm = True
    assert ex.wait(SECONDS)
    ex.recalibrate_batchnorm = False
    ex.sparsity = 0.8
    assert ex.wait(SECONDS)
    assert ex.score is not None
    assert ex.score.value == sw.evaluate(sw.compress(demo.model(), ex.recipe), VALID).value


def test_a_switch_that_cannot_be_on_says_why() -> None:
    without_data = sw.explore(demo.model(), VALID)
    assert "it needs training data" in without_data._recalibration["why"]
    with pytest.raises(ModelError, match="it needs training data"):
        without_data.recalibrate_batchnorm = True
    without_norm = sw.explore(Gate(), VALID, train_data=TRAIN)
    assert without_norm._recalibration["why"] == "there is no batch norm with running statistics in this Gate"
    with pytest.raises(ModelError, match="no batch norm"):
        sw.explore(Gate(), VALID, train_data=TRAIN, recalibrate_batchnorm=True)
    without_norm.set_state({"recalibrate_batchnorm": True})  # as a page of another model might
    assert without_norm.recalibrate_batchnorm is False
    for explorer in (without_data, without_norm):
        explorer.close()


def test_explore_opens_with_the_switch_on() -> None:
    explorer = sw.explore(demo.model(), VALID, 0.9, train_data=TRAIN, recalibrate_batchnorm=True)
    assert explorer.wait(SECONDS)
    assert explorer.score is not None
    assert explorer.score.provenance == "batch norm recalibrated on 512 training examples"
    explorer.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


def test_the_dense_model_is_raced_against_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer_backend, "race", partial(sw.race, rounds=8))
    explorer = sw.explore(sw.demo.model(), VALID, sparsity=0.9, bits=4)
    assert explorer.wait(SECONDS)

    def raced() -> sw.results.Race | None:
        return explorer.race

    assert (raced(), explorer._race) == (None, None)
    with pytest.raises(sw.errors.FigureError, match="press Race first"):
        explorer.figure("race")
    press(explorer, do="race")
    until(lambda: raced() is not None and (explorer._race or {}).get("state") == "done")
    race, told = raced(), dict(explorer._race or {})
    assert race is not None
    assert told["recipe"] == explorer._recipe
    assert [at.batch for at in race.batches] == [1, 32]
    (found,) = told["found"]
    assert [r["text"] for r in found["ratios"]] == [race.ratio("now", batch).text for batch in (1, 32)]
    assert found["warnings"] == list(race.warnings)
    assert explorer.figure("race").axes
    explorer.bits = 8
    assert raced() is None  # of another recipe, which keeps its own
    explorer.bits = 4
    assert raced() is race
    devices = sw.figures.table(explorer.figure("devices")).rows
    assert [row["RAM"] for row in devices] == [device.ram for device in known_devices()]
    monkeypatch.setattr(explorer_backend, "race", partial(sw.race, rounds=100_000, seconds=1e6))
    press(explorer, do="race")
    until(lambda: (explorer._race or {}).get("state") == "running")
    press(explorer, do="stop_race")  # it may not have begun: it is stopped all the same
    until(lambda: (explorer._race or {}).get("state") == "stopped")
    assert raced() is race
    explorer.close()


def test_a_race_needs_data() -> None:
    explorer = sw.explore(sw.demo.model())
    with pytest.raises(sw.errors.DataError, match="a race needs a model and data"):
        explorer.start_race()
    assert explorer._race is not None
    assert explorer._race["state"] == "failed"
    explorer.close()
