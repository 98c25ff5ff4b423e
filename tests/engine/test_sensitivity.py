"""Sensitivity is what compressing one layer by hand and evaluating it gives, for every layer and every amount."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import counted
from shrinkwidget.errors import ArgumentError, Cancelled, DataError, RecipeError, ShrinkError
from shrinkwidget.evaluation.data_subset import draw_subset
from shrinkwidget.evaluation.sensitivity import sensitivity_steps

VALID = demo.data("valid")
LAYERS = ["stem", "stage1.0.conv1", "head"]


def by_hand(model: nn.Module, data: object, layer: str, **fields: Any) -> float:
    override = {name: value for name, value in fields.items() if name != "importance"}
    how = {name: value for name, value in fields.items() if name == "importance"}
    return sw.evaluate(sw.compress(model, layers={layer: override}, **how), data).value


def test_every_score_is_that_of_the_layer_compressed_by_hand() -> None:
    model = demo.model()
    pruned = sw.sensitivity(model, VALID, sparsity=(0.9, 0.5, 0.99), layers=LAYERS)
    rounded = sw.sensitivity(model, VALID, bits=(2, 1), layers=LAYERS)
    assert list(pruned.amounts) == [0.5, 0.9, 0.99]
    assert list(rounded.amounts) == [2, 1]
    assert [layer.label for layer in pruned.layers] == LAYERS
    for label in LAYERS:
        found = [score.value for score in pruned.layer(label).scores]
        assert found == [by_hand(model, VALID, label, sparsity=s) for s in pruned.amounts]
        found = [score.value for score in rounded.layer(label).scores]
        assert found == [by_hand(model, VALID, label, bits=b) for b in rounded.amounts]
    assert pruned.dense.value == sw.evaluate(model, VALID).value
    assert {score.n for layer in pruned.layers for score in layer.scores} == {287}
    assert len({score.value for layer in pruned.layers for score in layer.scores}) > 4


def test_a_layer_is_dense_again_when_the_next_is_measured() -> None:
    one = sw.sensitivity(demo.model(), VALID, sparsity=0.99, layers="head")
    after_another = sw.sensitivity(demo.model(), VALID, sparsity=0.99, layers=["stem", "head"])
    assert one.layer("head") == after_another.layer("head")
    assert after_another.layer("stem").scores[0] < after_another.layer("head").scores[0]


def test_the_recipe_says_how_layers_are_ranked_and_rounded_and_which_are_left_out() -> None:
    model = demo.model()
    recipe = sw.Recipe(sparsity=0.3, bits=3, importance="random", quantizer="kmeans", layers={"stage*": sw.Keep})
    pruned = sw.sensitivity(model, VALID, sparsity=0.5, recipe=recipe)
    assert [layer.label for layer in pruned.layers] == ["stem", "head"]
    assert pruned.layer("stem").scores[0].value == by_hand(model, VALID, "stem", sparsity=0.5, importance="random")
    rounded = sw.sensitivity(model, VALID, bits=1, recipe=recipe, layers="stem")
    assert rounded.layer("stem").scores[0].value == by_hand(model, VALID, "stem", bits=1, quantizer="kmeans")
    assert rounded.layer("stem").scores[0].value != by_hand(model, VALID, "stem", bits=1)


def test_an_importance_that_needs_calibration_gets_it() -> None:
    model, calibration = demo.model(), demo.data("train")
    recipe = sw.Recipe(importance="wanda")
    found = sw.sensitivity(model, VALID, sparsity=0.9, recipe=recipe, layers="stem", calibration=calibration)
    small = sw.compress(model, recipe, layers={"stem": dict(sparsity=0.9)}, calibration=calibration)
    assert found.layer("stem").scores[0].value == sw.evaluate(small, VALID).value


def test_the_model_and_the_generators_stay_as_they_are() -> None:
    model = demo.model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    drawn = random.getstate()
    sw.sensitivity(model, VALID, sparsity=0.9, layers="stem", samples=100)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.rand(3), expected)
    assert random.getstate() == drawn


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(64, 64, bias=False)
        self.second = nn.Linear(64, 64, bias=False)
        self.second.weight = self.first.weight
        self.head = weight_norm(nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(self.first(x.flatten(1)).relu()).relu())
        return out


def test_tied_weights_count_once_and_computed_weights_are_measured() -> None:
    model = Tied()
    found = sw.sensitivity(model, VALID, sparsity=0.9)
    assert [layer.label for layer in found.layers] == ["first", "head"]
    for label in ("first", "head"):
        assert found.layer(label).scores[0].value == by_hand(model, VALID, label, sparsity=0.9)


def test_layers_are_sorted_by_what_they_cost_and_rows_make_a_table() -> None:
    found = sw.sensitivity(demo.model(), VALID, sparsity=(0.5, 0.9), layers=LAYERS)
    drops = [found.drop(layer.name) for layer in found.ranked]
    assert drops == sorted(drops, reverse=True)
    assert drops[0] > 0.05
    worst = found.ranked[0]
    assert found.drop(worst.label) == pytest.approx(
        np.mean([found.dense.value - score.value for score in worst.scores])
    )
    rows = found.to_rows()
    assert [row["layer"] for row in rows] == [x.label for x in found.ranked for _ in (0.5, 0.9)]
    assert rows[1]["sparsity"] == 0.9
    assert rows[1]["drop"] == found.dense.value - rows[1]["value"]
    assert rows[1]["low"] < rows[1]["value"] < rows[1]["high"]
    assert repr(found).splitlines()[3].split()[0] == worst.label


def test_of_a_metric_that_is_better_when_lower_more_is_a_drop() -> None:
    found = sw.sensitivity(demo.model(), VALID, sparsity=0.95, layers="stem", metric="perplexity")
    score = found.layer("stem").scores[0]
    assert found.drop("stem") == score.value - found.dense.value > 0


def test_it_survives_json() -> None:
    found = sw.sensitivity(demo.model(), VALID, sparsity=(0.5, 0.9), layers="head", recipe=sw.Recipe(scope="channel"))
    again = sw.results.Sensitivity.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_rows() == found.to_rows()
    assert again.recipe == found.recipe
    assert repr(again) == repr(found)


# A subset


def test_a_subset_is_drawn_by_the_seed_and_said() -> None:
    first = sw.sensitivity(demo.model(), VALID, sparsity=0.9, layers="stem", samples=100)
    again = sw.sensitivity(demo.model(), VALID, sparsity=0.9, layers="stem", samples=100)
    other = sw.sensitivity(demo.model(), VALID, sparsity=0.9, layers="stem", samples=100, seed=1)
    assert first.examples == "100 of 287 examples, drawn with seed 0"
    assert first.layer("stem") == again.layer("stem")
    assert first.layer("stem").scores[0].by_class != other.layer("stem").scores[0].by_class
    assert first.layer("stem").scores[0].n == first.dense.n == 100


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(*VALID, strict=True))


@pytest.mark.parametrize(
    ("data", "n", "text"),
    [
        (VALID, 50, "50 of 287 examples, drawn with seed 3"),
        (TensorDataset(*VALID), 50, "50 of 287 examples, drawn with seed 3"),
        (DataLoader(TensorDataset(*VALID), batch_size=20, shuffle=True), 50, "50 of 287 examples, drawn with seed 3"),
        (list(zip(VALID[0].split(20), VALID[1].split(20), strict=True)), 60, "60 of 287 examples, drawn with seed 3"),
        (DataLoader(Stream(), batch_size=20), 60, "the first 60 examples"),
        (iter(zip(VALID[0].split(20), VALID[1].split(20), strict=True)), 60, "the first 60 examples"),
    ],
    ids=["pair", "dataset", "loader", "batches", "stream", "iterator"],
)
def test_of_any_data_a_subset_is_drawn(data: object, n: int, text: str) -> None:
    subset = draw_subset(data, 50, seed=3)
    assert subset.text == text
    assert sw.evaluate(demo.model(), subset.data).n == n
    assert sw.evaluate(demo.model(), subset.data).n == n  # as often as one likes


def test_a_loader_gives_the_drawn_examples_and_its_sampler_stays_as_it_was() -> None:
    loader = DataLoader(TensorDataset(*VALID), batch_size=20)
    pair, same = draw_subset(VALID, 50, seed=3).data, draw_subset(loader, 50, seed=3).data
    assert isinstance(pair, tuple)
    assert isinstance(same, list)
    assert torch.equal(torch.cat([labels for _, labels in same]), pair[1])
    assert [len(labels) for _, labels in same] == [20, 20, 10]
    assert sum(len(labels) for _, labels in loader) == 287


class Counted(TensorDataset):
    reads = 0

    def __getitem__(self, index: Any) -> Any:
        Counted.reads += 1
        return super().__getitem__(index)


def test_data_is_read_once_however_many_scores_are_taken() -> None:
    Counted.reads = 0
    found = sw.sensitivity(demo.model(), Counted(*VALID), sparsity=(0.5, 0.9), layers=LAYERS, samples=None)
    assert Counted.reads == 287
    assert found.examples == "all 287 examples"


# Stopped and refused


def test_it_stops_between_two_batches_and_what_was_measured_is_there() -> None:
    model = demo.model()
    weights = open_model(model)
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 9  # three batches each: dense, two amounts of the first layer, and into the second

    steps = sensitivity_steps(
        model, weights, counted(weights), draw_subset(VALID, None), "sparsity", (0.5, 0.9), sw.Recipe(),
        ["stem.weight", "head.weight"], cancelled=stop,
    )  # fmt: skip
    found = [next(steps), next(steps)]
    with pytest.raises(Cancelled):
        next(steps)
    assert [(len(step.layers), step.pending) for step in found] == [(0, 2), (1, 1)]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (dict(sparsity=0.5, bits=4), ArgumentError, "sparsity or bits, not both"),
        (dict(sparsity=()), ArgumentError, "is empty"),
        (dict(sparsity=1.5), RecipeError, "sparsity"),
        (dict(bits=9), RecipeError, "bits"),
        (dict(layers="stm"), ArgumentError, "'stm' matches no layer; did you mean 'stem'"),
        (dict(recipe=sw.Recipe(layers={"*": sw.Keep})), ArgumentError, "Keep"),
        (dict(recipe=[0.5]), RecipeError, "expected a Recipe"),
        (dict(samples=0), ArgumentError, "samples=0"),
        (dict(sample=5), ArgumentError, "did you mean 'samples'"),
        (dict(metric="acuracy"), DataError, "did you mean 'accuracy'"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=None) as told:
        sw.sensitivity(demo.model(), VALID, **given)
    assert text in str(told.value)


# In the background


class Gate:
    """Batches of the data, the first of which come only when they are let through."""

    def __init__(self, fails: bool = False) -> None:
        self.open = threading.Event()
        self.fails = fails

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        assert self.open.wait(60)
        if self.fails:
            raise OSError("the disk is gone")
        yield VALID


def test_in_the_background_it_gives_the_same_of_the_model_as_it_was() -> None:
    model = demo.model()
    data = Gate()
    run = sw.sensitivity(model, data, sparsity=(0.5, 0.9), layers=LAYERS, background=True)
    assert (run.state, run.progress) == ("running", None)
    assert repr(run) == "SensitivityRun(DigitNet, running)"
    with pytest.raises(ShrinkError, match=r"this run is running: \.wait\(\) for its result, or take \.progress"):
        _ = run.result
    told: list[tuple[int, int]] = []
    run.observe(lambda run: told.append((len(run.progress.layers), run.progress.pending)) if run.progress else None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()  # as if it were trained on meanwhile
    data.open.set()
    assert run.wait(60)
    assert (run.state, run.over, run.error) == ("done", True, None)
    assert told == [(0, 3), (1, 2), (2, 1), (3, 0), (3, 0)]  # the last one tells that it is done
    by_hand = sw.sensitivity(demo.model(), VALID, sparsity=(0.5, 0.9), layers=LAYERS)
    assert run.result.to_rows() == by_hand.to_rows()
    assert run.result is run.progress
    with pytest.raises(ShrinkError, match="this run is done, and cannot be started again"):
        run.start()


def test_a_run_rests_after_a_layer_and_a_stop_keeps_what_was_measured() -> None:
    run = sw.sensitivity(demo.model(), VALID, sparsity=0.9, background=True)
    resting = threading.Event()

    def pause_after_two(run: sw.results.SensitivityRun) -> None:
        if run.progress is not None and len(run.progress.layers) == 2 and not resting.is_set():
            run.pause()
            resting.set()

    run.observe(pause_after_two)
    assert resting.wait(60)
    assert not run.wait(0.3)
    assert repr(run) == "SensitivityRun(DigitNet, paused, 2 of 14 layers)"
    run.stop()
    assert run.wait(60)
    assert run.state == "stopped"
    found = run.result
    assert (len(found.layers), found.pending) == (2, 12)
    assert "2 layers, 12 not measured" in repr(found)


def test_a_run_is_stopped_while_its_data_blocks_and_then_has_nothing() -> None:
    data = Gate()
    run = sw.sensitivity(demo.model(), data, background=True)
    run.stop()
    assert run.wait(60)
    assert run.state == "stopped"
    with pytest.raises(ShrinkError, match="stopped before the dense model was scored: nothing was measured"):
        _ = run.result
    data.open.set()


def test_what_fails_in_a_run_is_told_by_its_result() -> None:
    data = Gate(fails=True)
    data.open.set()
    run = sw.sensitivity(demo.model(), data, background=True)
    assert run.wait(60)
    assert run.state == "failed"
    with pytest.raises(DataError, match="the disk is gone"):
        _ = run.result
    with pytest.raises(DataError, match="did you mean 'accuracy'"):  # what can be told at once is
        sw.sensitivity(demo.model(), VALID, metric="acuracy", background=True)
