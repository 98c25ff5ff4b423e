"""A training in a script says beforehand what it takes, then how far it is: once each, and nothing if that is asked."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from torch import Tensor

import shrinkwidget as sw
from shrinkwidget.training.methods_schedule_options_and_progress import (
    FineTune,
    Progress,
    RecalibrateBatchNorm,
    duration,
)
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import GradualUnfreezing, LinearProbe

from .training_helpers import TEST, TRAIN, mlp, points, slowly

POINTS = points(96)


def lines(capfd: pytest.CaptureFixture[str]) -> list[str]:
    told = capfd.readouterr()
    assert told.out == ""
    return told.err.splitlines()


def test_a_training_says_what_it_takes_and_what_came_of_it(capfd: pytest.CaptureFixture[str]) -> None:
    sw.retrain(mlp(), POINTS, points(48), FineTune(3), batch_size=16, augment=slowly)
    plan, end = lines(capfd)
    assert re.fullmatch(r"training Sequential: 3 epochs × 6 steps = 18 steps, about \d+ s", plan)
    assert re.fullmatch(r"epoch 3/3: 0\.0% sparse, loss [\d.]+, validation accuracy [\d.]+ %, done in \d+ s", end)


def test_rounds_are_counted_in_and_the_time_is_about_right(capfd: pytest.CaptureFixture[str]) -> None:
    import time

    def slow(x: Tensor) -> Tensor:
        time.sleep(0.05)
        return x

    sw.prune_and_retrain(mlp(), POINTS, None, 0.5, FineTune(2), rounds=3, batch_size=8, augment=slow)
    plan, end = lines(capfd)
    found = re.fullmatch(r"training Sequential: 3 rounds × 2 epochs × 12 steps = 72 steps, about (\d+) s", plan)
    assert found
    assert 2 <= int(found[1]) <= 15  # 3.6 s of sleep in 72 steps
    assert end.startswith("round 3/3, epoch 2/2: 50.0% sparse, loss ")


def test_complete_epochs_are_told_now_and_then_and_none_twice(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shrinkwidget.training.methods_schedule_options_and_progress._LINE_SECONDS", 0.0)
    sw.retrain(mlp(), POINTS, points(48), FineTune(4), batch_size=16)
    plan, *told = lines(capfd)
    assert plan.startswith("training Sequential: 4 epochs")
    assert [line.split(":")[0] for line in told] == ["epoch 1/4", "epoch 2/4", "epoch 3/4", "epoch 4/4"]
    assert all("validation accuracy" in line for line in told)
    assert all(" left" in line for line in told[:3])


def test_a_transfer_tells_its_stages(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("shrinkwidget.training.methods_schedule_options_and_progress._LINE_SECONDS", 0.0)
    strategy = GradualUnfreezing(epochs=1, first=LinearProbe(epochs=2))
    sw.transfer(sw.demo.model(), sw.demo.few(2), TEST, strategy=strategy)
    plan, *told = lines(capfd)
    assert plan == "training DigitNet: 3 stages of 2 + 1 + 1 epochs"
    places = [line.split(":")[0] for line in told]
    assert places == [
        "stage 1 of 3, epoch 1/2",
        "stage 1 of 3, epoch 2/2",
        "stage 2 of 3, epoch 1/1",
        "stage 3 of 3, epoch 1/1",
    ]


@pytest.mark.parametrize("ask", ["retrain", "prune_and_retrain", "transfer"])
def test_nothing_is_told_if_that_is_asked(ask: str, capfd: pytest.CaptureFixture[str]) -> None:
    calls: dict[str, Any] = {
        "retrain": lambda: sw.retrain(mlp(), POINTS, epochs=1, progress=False),
        "prune_and_retrain": lambda: sw.prune_and_retrain(mlp(), POINTS, rounds=1, epochs=1, progress=False),
        "transfer": lambda: sw.transfer(sw.demo.model(), sw.demo.few(1), epochs=1, progress=False),
    }
    calls[ask]()
    assert lines(capfd) == []


def test_without_progress_a_notebook_shows_no_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[sw.results.TrainingRun[Any]] = []
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run._displays", [lambda: shown.append])
    sw.retrain(mlp(), POINTS, epochs=1, progress=False)
    assert not shown
    sw.retrain(mlp(), POINTS, epochs=1)
    assert len(shown) == 1


def test_in_a_terminal_the_plan_stands_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    sw.retrain(mlp(), TRAIN and POINTS, None, FineTune(2), batch_size=16)
    told = capfd.readouterr().err
    assert told.count("2 epochs × 6 steps = 12 steps") == 1
    assert "epoch 1/2: " in told
    assert "done in" not in told


def test_measuring_batch_norm_has_no_plan(capfd: pytest.CaptureFixture[str]) -> None:
    sw.retrain(mlp(), POINTS, None, RecalibrateBatchNorm())
    (line,) = lines(capfd)
    assert re.fullmatch(r"batch norm: statistics of 1 batch, done in \d+ s", line)
    sw.retrain(mlp(), list(zip(*(x.split(32) for x in POINTS), strict=True)), None, RecalibrateBatchNorm())
    (line,) = lines(capfd)
    assert re.fullmatch(r"batch norm: statistics of 3 batches, done in \d+ s", line)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (61, "1 min"),
        (150, "2 min"),
        (3599, "1 h 0 min"),
        (5000, "1 h 23 min"),
        (86_340, "23 h 59 min"),
        (86_400, "1 d 0 h"),
        (220_320, "2 d 13 h"),
    ],
)
def test_times_are_written_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_plan_names_what_is_known() -> None:
    assert Progress("train", 1, 1, 1, steps=7).plan == "1 epoch × 7 steps = 7 steps"
    assert Progress("train", 1, 12, 30, steps=45).plan == "12 rounds × 30 epochs × 45 steps = 16,200 steps"
    assert Progress("train", 1, 12, 30).plan == "12 rounds × 30 epochs"
