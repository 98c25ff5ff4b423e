"""A run in the background is watched, paused, resumed and stopped, ends before the program, and tells how it ended."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import DataError, TrainingError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    FineTune,
    LearningRateRewinding,
    Schedule,
    TrainingOptions,
    TrainingSpec,
)
from shrinkwidget.training.retrain_and_training_run import TrainingRun, prune_and_retrain, retrain

from .packed_file_helpers import same
from .training_helpers import mlp, points, slowly, told, trainer

TEST = points(30, seed=1)
SLOW = TrainingOptions(batch_size=16, augment=slowly)


def until(happens: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def background(epochs: int = 50, eval_data: object = None, options: TrainingOptions = SLOW) -> TrainingRun:
    return retrain(mlp(), points(), eval_data, FineTune(epochs, lr=0.01), options=options, background=True)


def test_a_run_gives_the_result_of_the_blocking_call() -> None:
    small = compress(mlp(), Recipe(sparsity=0.5, bits=4))
    run = retrain(small, points(), TEST, FineTune(2, lr=0.05), background=True)
    assert run.wait(30)
    assert run.state == "done"
    assert same(run.result.state_dict(), retrain(small, points(), TEST, FineTune(2, lr=0.05)).state_dict())
    assert [e["epoch"] for e in run.history] == [1, 2]
    assert run.baseline is not None
    assert run.baseline.n == 30
    assert len(run.points) == 1
    assert run.points[0]["nbytes"] == run.result.nbytes
    assert run.progress is not None
    assert repr(run) == "TrainingRun(Sequential, done, round 1 of 1, epoch 2 of 2)"


def test_a_paused_run_rests_and_goes_on_to_the_same_weights() -> None:
    run = background(3)
    until(lambda: run.progress is not None and run.progress.step > 1)
    run.pause()
    assert run.state == "paused"
    time.sleep(0.1)
    before = run.progress
    time.sleep(0.1)
    assert run.progress is before
    run.resume()
    assert run.wait(30)
    assert same(
        run.result.state_dict(), retrain(mlp(), points(), None, FineTune(3, lr=0.01), options=SLOW).state_dict()
    )


@pytest.mark.parametrize("pause", [False, True])
def test_a_stop_is_acknowledged_at_once_and_keeps_the_best_epoch(pause: bool) -> None:
    run = background(eval_data=TEST)
    until(lambda: len(run.history) > 1)
    if pause:
        run.pause()
    run.stop()
    assert run.state in ("stopping", "stopped")
    assert run.wait(30)
    assert run.state == "stopped"
    values = [e["test"]["value"] for e in run.history]
    best = len(values) - values[::-1].index(max(values))
    assert run.result.provenance == f"fine-tuned {best} of 50 epochs"
    assert run.error is None


def test_a_stop_in_the_middle_of_the_test_does_not_wait_for_its_end() -> None:
    reached = threading.Event()

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            reached.set()
            time.sleep(0.005)
            yield TEST

    class Test:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            return endless()

    model = mlp()
    run = retrain(model, points(), Test(), background=True)
    reached.wait(10)
    run.stop()
    assert run.wait(10)
    assert run.result.provenance == "no retraining"
    assert torch.equal(run.result.state_dict()["0.weight"], model.get_parameter("0.weight"))


def test_stopped_in_a_later_round_it_returns_that_round_or_the_one_before() -> None:
    run = prune_and_retrain(
        mlp(), points(), TEST, 0.8, LearningRateRewinding(Schedule(epochs=2, lr=0.05)), rounds=30, options=SLOW,
        background=True,
    )  # fmt: skip
    until(lambda: run.points and run.progress is not None and run.progress.round == 2)
    run.stop()
    assert run.wait(30)
    assert run.result.provenance in (
        "retrained 1 of 30 rounds of 2 epochs, learning rate rewound",
        "retrained 1 of 2 epochs in round 2 of 30, learning rate rewound",
    )
    assert run.result.estimate is not None
    assert 0 < run.result.estimate.sparsity < 0.2


def test_two_trainings_of_one_model_are_refused() -> None:
    model = mlp()
    small = compress(mlp(), Recipe(sparsity=0.5))
    for source in (model, small):
        run = retrain(source, points(), method=FineTune(50), options=SLOW, background=True)
        for again in (True, False):
            with pytest.raises(TrainingError, match=r"this Sequential is being trained already: wait\(\) for that run"):
                retrain(source, points(), background=again)
        run.stop()
        assert run.wait(30)
        retrain(source, points(), method=FineTune(1))


def test_what_fails_in_a_run_is_told_by_its_result_and_the_best_weights_stay() -> None:
    class Failing:
        epochs = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.epochs += 1
            yield points()
            if self.epochs > 2:
                raise OSError("the disk is gone")

    run = retrain(mlp(), Failing(), method=FineTune(5, lr=0.05), background=True)
    assert run.wait(30)
    assert run.state == "failed"
    with pytest.raises(DataError, match="epoch 3, step 2: the data failed to give batch 2: OSError: the disk is gone"):
        _ = run.result
    assert run.best.provenance == "fine-tuned 2 of 5 epochs"
    assert isinstance(run.error, DataError)


def test_observers_are_told_of_every_change_and_cannot_harm(caplog: pytest.LogCaptureFixture) -> None:
    told: list[tuple[str, Any]] = []

    def failing(_: TrainingRun) -> None:
        raise ValueError("a broken chart")

    run: TrainingRun[Any] = TrainingRun(
        TrainingSpec(mlp(), points(), TEST, FineTune(2, lr=0.05), TrainingOptions(batch_size=32))
    )
    assert run.state == "ready"
    stop = run.observe(lambda run: told.append((run.state, run.progress)))
    run.observe(lambda _: told.append(("more", None)))
    run.observe(failing)

    with caplog.at_level(logging.ERROR, "shrinkwidget"):
        run.start()
        assert run.wait(30)
        until(lambda: told[-2][0] == "done")
    assert sum(p is not None and p.phase == "train" and s == "running" for s, p in told) >= 6
    assert "what observes the training failed" in caplog.text
    for end in (stop, stop):
        end()
    with pytest.raises(TrainingError, match="this run is done, and cannot be started again"):
        run.start()


def test_a_run_that_is_not_over_has_no_result_yet_but_a_best() -> None:
    run = background(eval_data=TEST)
    with pytest.raises(TrainingError, match=r"this run is running: \.wait\(\) for its result, or take \.best"):
        _ = run.result
    assert not run.wait(0.01)
    assert run.best.provenance in ("no retraining", *(f"fine-tuned {n} of 50 epochs" for n in range(1, 50)))
    run.stop()
    assert run.wait(30)


def test_stopped_before_it_began() -> None:
    run: TrainingRun[Any] = TrainingRun(TrainingSpec(mlp(), points(), None, FineTune(), TrainingOptions()))
    run.stop()
    assert run.state == "stopped"
    assert run.wait(0)


def test_a_program_ends_while_a_run_is_under_way() -> None:
    code = """
from shrinkwidget.training.retrain_and_training_run import retrain
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune
from tests.engine.training_helpers import mlp, points
import time
run = retrain(mlp(), points(), method=FineTune(100000), background=True)
time.sleep(0.3)
print(run.state)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "running\n", "")


def test_the_time_left_is_that_of_the_steps_since_the_first_for_those_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=100.0)
    clock.perf_counter = lambda: clock.now
    monkeypatch.setattr("shrinkwidget.training.methods_schedule_options_and_progress.time", clock)

    def half_a_second(x: Tensor) -> Tensor:
        clock.now += 0.5 if clock.now > 100 else 20  # the first step allocates memory, or compiles
        return x

    recipes = tuple(Recipe(sparsity=sparsity) for sparsity in (0.4, 0.6, 0.8))
    steps = trainer(mlp(), FineTune(2, lr=0.01), recipes=recipes, batch_size=16, augment=half_a_second)
    per_epoch = 96 // 16
    known = [now for now in told(steps) if now.phase == "train" and now.step]
    assert len(known) >= 3 * 2
    assert known[0].eta is None
    for now in known[1:]:
        done = ((now.round - 1) * 2 + now.epoch - 1) * per_epoch + now.step
        assert now.eta == pytest.approx(0.5 * (3 * 2 * per_epoch - done), abs=1e-9)
