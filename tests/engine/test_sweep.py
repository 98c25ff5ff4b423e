"""Sweeps: many recipes on one model, here and on threads, with a file to go on from."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import shrinkwidget as sw
from shrinkwidget.errors import (
    ArgumentError,
    DataError,
    FileError,
    MethodError,
    MissingPackageError,
    ModelError,
    RecipeError,
    ShrinkError,
    TrainingError,
)
from shrinkwidget.results import Sweep, SweepPoint

from .training_helpers import mlp, points

MODEL = mlp()
VALID = points(300, seed=1)
TRAIN = points(96)
RECIPES = [sw.Recipe(s, bits=b) for s, b in itertools.product((0.3, 0.6, 0.9), (8, 3))]


def without_seconds(found: Sweep) -> list[SweepPoint]:
    return [replace(point, seconds=0.0) for point in found.points]


def test_a_point_is_what_compress_and_evaluate_say() -> None:
    found = sw.sweep(MODEL, RECIPES, VALID)
    assert [point.recipe for point in found.points] == RECIPES
    for point in found.points:
        small = sw.compress(MODEL, point.recipe)
        score = sw.evaluate(small, VALID)
        assert small.estimate is not None
        assert (point.nbytes, point.sparsity, point.sqnr) == (
            small.nbytes,
            small.estimate.sparsity,
            small.estimate.sqnr,
        )
        assert (point.value, point.low, point.high, point.checksum) == (
            score.value,
            score.low,
            score.high,
            score.checksum,
        )
        assert point.ratio == small.original_nbytes / small.nbytes
    assert found.dense == sw.evaluate(MODEL, VALID)
    assert found.best() == max(found.points, key=lambda point: (point.value, -point.nbytes))
    small_ones = [point for point in found.points if point.nbytes <= found.points[3].nbytes]
    assert found.best(found.points[3].nbytes).value == max(point.value for point in small_ones)
    with pytest.raises(
        ArgumentError, match=f"at most 10 bytes; the smallest has {min(p.nbytes for p in found.points):,}"
    ):
        found.best(nbytes=10)


def test_a_smaller_loss_is_the_better_one() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")

    found = sw.sweep(MODEL, [0.2, 0.95], VALID, sw.methods.Metric.of(loss, higher=False))
    assert found.best().value == min(point.value for point in found.points)


@pytest.mark.parametrize("method", [None, "recover", "recalibrate_batchnorm"])
def test_threads_change_nothing(method: Any) -> None:
    data: dict[str, Any] = {} if method is None else {"train_data": TRAIN}
    one, three = (sw.sweep(MODEL, RECIPES, VALID, method=method, workers=n, **data) for n in (1, 3))
    assert without_seconds(one) == without_seconds(three)
    if method == "recover":
        small = sw.recover(MODEL, TRAIN, RECIPES[1])
        assert (one.points[1].provenance, one.points[1].nbytes) == (small.provenance, small.nbytes)
        assert one.points[1].checksum == sw.evaluate(small, VALID).checksum


def test_a_training_is_that_of_retrain_for_each_seed() -> None:
    method = sw.methods.FineTune(epochs=2, lr=0.05)
    found = sw.sweep(MODEL, RECIPES[:2], VALID, method=method, train_data=TRAIN, seeds=(3, 4))
    assert [(point.recipe, point.seed) for point in found.points] == list(itertools.product(RECIPES[:2], (3, 4)))
    small = sw.retrain(sw.compress(MODEL, RECIPES[1]), TRAIN, method=method, seed=4)
    assert found.points[3].checksum == sw.evaluate(small, VALID).checksum
    assert found.points[3].provenance == small.provenance
    # the seeds of a recipe are one point of the figure, with their deviation
    table = sw.figures.table(found.figure())
    assert [row["seeds"] for row in table.rows] == [2, 2]


def test_random_numbers_depend_on_what_is_asked_not_on_when() -> None:
    def noisy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float() + random.random() + torch.rand(len(targets))

    forth, back = (sw.sweep(MODEL, order, VALID, noisy, workers=3) for order in (RECIPES, RECIPES[::-1]))
    assert without_seconds(forth) == without_seconds(back)[::-1]
    assert len({point.value for point in forth.points}) == len(RECIPES)


def test_what_is_held_and_drawn_of_a_loader_is_the_same_for_all() -> None:
    """Two workers of the loader's own would draw otherwise than none; and the model is as it was."""
    data = TensorDataset(*VALID)
    before, mode = {name: x.clone() for name, x in MODEL.state_dict().items()}, MODEL.training
    loader, alone = (DataLoader(data, 50, shuffle=True, num_workers=n) for n in (2, 0))
    one, two = (sw.sweep(MODEL, RECIPES[:2], given) for given in (loader, alone))
    assert without_seconds(one) == without_seconds(two)
    assert loader.num_workers == 2
    assert MODEL.training == mode
    assert all(torch.equal(x, MODEL.state_dict()[name]) for name, x in before.items())


def test_rows_are_plain_and_come_back() -> None:
    found = sw.sweep(MODEL, [sw.Recipe(0.5), sw.Recipe()], VALID)
    rows = json.loads(json.dumps(found.to_rows()))
    assert rows[1]["sqnr"] is None  # infinite: nothing is lost
    assert [sw.results.SweepPoint.from_dict(row) for row in rows] == list(found.points)
    assert (rows[0]["recipe.sparsity"], rows[0]["recipe.bits"]) == (0.5, 32)
    assert sw.Recipe.from_json(rows[0]["recipe"]) == sw.Recipe(0.5)


def test_recipes_that_remove_channels_find_their_example_in_the_data() -> None:
    model, valid = sw.demo.model(), sw.demo.data("valid")
    found = sw.sweep(model, [sw.Recipe(channels=0.5)], valid)
    small = sw.compress(model, channels=0.5, example=valid[0][:1])
    assert (found.points[0].nbytes, found.points[0].ratio) == (small.nbytes, small.original_nbytes / small.nbytes)


def test_a_recipe_that_fails_ends_nothing_else() -> None:
    wanda = sw.Recipe(0.5, importance="wanda")

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.used(x)
            return found

    found = sw.sweep(Two(), [wanda, sw.Recipe(0.5)], VALID, calibration=TRAIN[0])
    assert "unused" in found.points[0].error
    assert found.failed == found.points[:1]
    assert found.points[1].error == ""
    assert "unused" in repr(found)
    assert found.best() == found.points[1]
    assert len(sw.figures.table(found.figure()).rows) == 1


# In the background


def test_points_stream_as_they_are_done() -> None:
    run = sw.sweep(MODEL, RECIPES, VALID, background=True)
    assert {point.recipe for point in run} == set(RECIPES)
    assert run.wait(60)
    assert run.state == "done"
    assert without_seconds(run.result) == without_seconds(sw.sweep(MODEL, RECIPES, VALID))


def test_one_that_is_stopped_has_what_was_computed() -> None:
    second = Event()

    def stop(_: SweepPoint) -> None:
        if second.is_set():
            run.stop()
        second.set()

    started = Event()

    def waiting(outputs: Tensor, targets: Tensor) -> Tensor:
        started.wait(60)
        return (outputs.argmax(1) == targets).float()

    run = sw.sweep(MODEL, RECIPES, VALID, waiting, workers=1, background=True, on_result=stop)
    started.set()
    assert run.wait(60)
    assert run.state == "stopped"
    assert (len(run.result.points), run.result.pending) == (2, len(RECIPES) - 2)
    assert "4 not computed" in repr(run.result)


def test_what_on_result_raises_ends_it() -> None:
    def refuse(point: SweepPoint) -> None:
        raise KeyError(point.nbytes)

    run = sw.sweep(MODEL, RECIPES, VALID, on_result=refuse, background=True)
    with pytest.raises(KeyError):
        list(run)
    with pytest.raises(KeyError):
        sw.sweep(MODEL, RECIPES, VALID, on_result=refuse)


# The results file


def test_it_goes_on_from_its_file_and_can_be_extended(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    came: list[SweepPoint] = []

    def interrupt(point: SweepPoint) -> None:
        came.append(point)
        if len(came) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sw.sweep(MODEL, RECIPES[:4], VALID, results=path, workers=1, on_result=interrupt)
    assert len(path.read_text().splitlines()) == 3
    with path.open("a") as file:  # as it ends where the program was killed in the middle of a line
        file.write('{"recipe": "{\\"form')
    again: list[SweepPoint] = []
    found = sw.sweep(MODEL, RECIPES, VALID, results=path, on_result=again.append)
    assert again[:2] == came  # from the file, to the second: nothing was computed again
    assert without_seconds(found) == without_seconds(sw.sweep(MODEL, RECIPES, VALID))
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + len(RECIPES)
    assert [json.loads(line)["value"] for line in lines[1:3]] == [point.value for point in came]
    sw.sweep(MODEL, RECIPES, VALID, results=path)
    assert path.read_text().splitlines() == lines


def test_a_program_killed_in_its_first_line_leaves_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    path.write_text('{"format": "shrinkwidget-sweep", "ver')
    assert not sw.sweep(MODEL, RECIPES[:1], VALID, results=path).failed
    assert len(path.read_text().splitlines()) == 2


def other_metric(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) != targets).float()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: {"model": mlp(1)}, "of another model, or other weights"),
        (lambda: {"eval_data": points(300, seed=2)}, "of other evaluation data"),
        (lambda: {"metric": other_metric}, "of another metric"),
        (lambda: {"ignore_index": 2}, "of another ignore_index"),
        (lambda: {"method": "recover", "train_data": TRAIN}, "of another method and other training data"),
        (lambda: {"calibration": TRAIN[0]}, "of other calibration data"),
    ],
)
def test_the_file_of_another_sweep_is_refused(change: Callable[[], dict[str, Any]], said: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    asked: dict[str, Any] = {"model": MODEL, "recipes": RECIPES[:1], "eval_data": VALID, "results": path}
    sw.sweep(**asked)
    before = path.read_bytes()
    with pytest.raises(FileError, match=f"holds results of another sweep, {said}.*: choose another path"):
        sw.sweep(**asked | change())
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "it is not valid JSON"),
        ("[]", "list indices"),
        ('{"recipe": "{}", "seed": null}', "it has no 'nbytes'"),
    ],
)
def test_a_damaged_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    sw.sweep(MODEL, RECIPES[:2], VALID, results=path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[2], ""]))
    with pytest.raises(FileError, match=f"line 2 of '.*sweep.jsonl' is damaged \\({said}.*: delete it, and its point"):
        sw.sweep(MODEL, RECIPES[:2], VALID, results=path)
    path.write_text("\n".join([lines[0], lines[2], ""]))
    assert len(sw.sweep(MODEL, RECIPES[:2], VALID, results=path).points) == 2


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes\n")
    with pytest.raises(FileError, match=r"is no results file of a sweep .*: choose another path"):
        sw.sweep(MODEL, RECIPES, VALID, results=notes)
    assert notes.read_text() == "my notes\n"
    with pytest.raises(FileError, match="there is no folder"):
        sw.sweep(MODEL, RECIPES, VALID, results=tmp_path / "missing" / "sweep.jsonl")
    with pytest.raises(FileError, match="give a path"):
        sw.sweep(MODEL, RECIPES, VALID, results=3)  # type: ignore[call-overload]

    def again(_: SweepPoint) -> None:
        sw.sweep(MODEL, RECIPES, VALID, results=tmp_path / "sweep.jsonl")

    with pytest.raises(FileError, match="another sweep is writing to"):
        sw.sweep(MODEL, RECIPES, VALID, results=tmp_path / "sweep.jsonl", on_result=again)


# Bad input


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"model": None}, ModelError, "cannot sweep a NoneType: give the dense nn.Module"),
        ({"model": sw.compress(MODEL, 0.5)}, ModelError, "give the dense nn.Module it was made of"),
        ({"recipes": sw.Recipe(0.5)}, ArgumentError, "must be several recipes, not a Recipe: give a list"),
        ({"recipes": []}, ArgumentError, "is empty"),
        (
            {"recipes": itertools.repeat(0.5)},
            ArgumentError,
            r"more than 10,000 recipes: cut it, with itertools\.islice",
        ),
        ({"recipes": [{"bits": 4}]}, RecipeError, r"write Recipe\(\*\*fields\)"),
        ({"recipes": [sw.Recipe(layers={"nowhere": sw.Keep})]}, RecipeError, "nowhere"),
        ({"metric": "acuracy"}, DataError, "did you mean 'accuracy'"),
        ({"method": "recvoer", "train_data": TRAIN}, TrainingError, "recvoer"),
        ({"method": "gradual_pruning", "train_data": TRAIN}, TrainingError, "GradualPruning"),
        ({"method": "recover"}, ArgumentError, r"give train_data=…"),
        ({"train_data": TRAIN}, ArgumentError, r"give method='recover'"),
        ({"seeds": 3}, ArgumentError, "nothing is drawn here"),
        ({"method": "finetune", "train_data": TRAIN, "seeds": "one"}, ArgumentError, "whole number"),
        (
            {"method": "finetune", "train_data": TRAIN, "options": 3},
            TrainingError,
            "options must be",
        ),
        ({"options": sw.methods.TrainingOptions(checkpoint="c")}, ArgumentError, "leave checkpoint out"),
        ({"recipes": [sw.Recipe(0.5, importance="wanda")]}, MethodError, r"sw\.sweep\(…, calibration=train_data\)"),
        ({"workers": 0}, ArgumentError, "whole number from 1"),
        ({"data": 3}, ArgumentError, "did you mean 'eval_data'"),
        ({"eval_data": torch.zeros(3)}, DataError, "cannot evaluate on"),
        ({"eval_data": (torch.zeros(4, 5), torch.zeros(4).long())}, DataError, "the model cannot run"),
    ],
)
def test_bad_input_is_one_sentence(given: dict[str, Any], error: type[ShrinkError], said: str) -> None:
    asked: dict[str, Any] = {"model": MODEL, "recipes": RECIPES, "eval_data": VALID}
    with pytest.raises(error, match=said):
        sw.sweep(**asked | given)


def test_without_dask_a_client_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shrinkwidget.analysis.run_items_on_dask_workers.find_spec", lambda _: None)
    for call in (lambda: sw.sweep(MODEL, RECIPES, VALID, client="local"), lambda: sw.sketch("x", client="local")):
        with pytest.raises(MissingPackageError, match=r"shrinkwidget\[dask\].*28 MB"):
            call()
