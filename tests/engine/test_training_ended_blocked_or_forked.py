"""Whatever user code does to end a thread or to block it: the run ends, says why, and gives back what it took."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from shrinkwidget.analysis.run_model_seeded_macs_and_memory import eval_mode, fork_rng
from shrinkwidget.errors import DataError, TrainingError
from shrinkwidget.evaluation.batches_predictions_and_labels import read_in_thread
from shrinkwidget.evaluation.evaluate_and_metrics import scores
from shrinkwidget.training import retrain_and_training_run as run_module
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune, RecalibrateBatchNorm, TrainingOptions
from shrinkwidget.training.retrain_and_training_run import TrainingRun, retrain

from .training_helpers import mlp, points

SECONDS = 30
ENDINGS: list[BaseException] = [SystemExit(2), KeyboardInterrupt(), GeneratorExit()]


class Raising(Dataset[Any]):
    """A dataset that ends the thread that reads it, as argparse in a worker does."""

    def __init__(self, ending: BaseException) -> None:
        self.ending = ending

    def __len__(self) -> int:
        return 8

    def __getitem__(self, _place: int) -> Any:
        raise self.ending


def raising(ending: BaseException) -> Callable[..., Any]:
    def function(*_: Any) -> Any:
        raise ending

    return function


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["augment", "loss", "metric", "data", "test data"])
def test_what_ends_a_thread_ends_the_run_and_frees_its_model(where: str, ending: BaseException) -> None:
    model, train, test, options = mlp(), points(), points(12), TrainingOptions()
    if where == "data":
        train = Raising(ending)  # type: ignore[assignment]
    elif where == "test data":
        test = Raising(ending)  # type: ignore[assignment]
    else:
        options = replace(options, **{where: raising(ending)})  # type: ignore[arg-type]
    chance = random.getstate(), torch.get_rng_state()
    run = retrain(model, train, test, FineTune(2), options=options, background=True)
    assert run.wait(SECONDS)
    assert run.state == "failed"
    with pytest.raises(TrainingError, match=f"{type(ending).__name__}.*ended the training"):
        _ = run.result
    assert run.best.provenance == "no retraining"
    assert retrain(model, points(), None, FineTune(1)).provenance == "fine-tuned 1 epoch"
    assert random.getstate() == chance[0]
    assert torch.equal(torch.get_rng_state(), chance[1])


def test_an_observer_that_would_end_the_thread_harms_no_training(caplog: pytest.LogCaptureFixture) -> None:
    run = retrain(mlp(), points(), None, FineTune(2), background=True)
    run.observe(raising(SystemExit(1)))
    assert run.wait(SECONDS)
    assert run.state == "done"
    assert caplog is not None


class Blocked:
    """Gives one batch, then nothing until it is let on."""

    def __init__(self) -> None:
        self.let_on = threading.Event()
        self.setup = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.setup += 1
        yield points(12)
        self.let_on.wait(SECONDS)
        yield points(12)


@pytest.mark.parametrize("where", ["train", "test"])
def test_a_run_that_waits_for_data_is_stopped_at_once(where: str) -> None:
    model, blocked = mlp(), Blocked()
    train, test = (blocked, None) if where == "train" else (points(), blocked)
    run = retrain(model, train, test, FineTune(2), background=True)
    while run.progress is None or not blocked.setup:
        time.sleep(0.01)
    run.stop()
    assert run.wait(5)
    assert run.state == "stopped"
    assert run.result.provenance == "no retraining"
    retrain(model, points(), None, FineTune(1))
    blocked.let_on.set()


def test_data_that_gives_nothing_for_long_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "PATIENCE_SECONDS", 0.2)
    blocked = Blocked()
    for method in (FineTune(2), RecalibrateBatchNorm()):
        run = retrain(mlp(), blocked, None, method, background=True)
        assert run.wait(SECONDS)
        assert run.state == "failed"
        with pytest.raises(DataError, match=r"the data (has given no batch 2|is still blocked).* for 0\.2 s"):
            _ = run.result
    assert blocked.setup == 1  # a second reader would only be the second to wait
    blocked.let_on.set()


def test_data_that_blocks_is_read_again_once_it_has_come() -> None:
    blocked = Blocked()

    def evaluated() -> Any:
        return list(scores(mlp(), blocked, "accuracy", patience=0.2))

    with pytest.raises(DataError, match="no batch 2"):
        evaluated()
    blocked.let_on.set()
    assert evaluated()[-1].n == 24


def test_batches_read_on_another_thread_come_in_order_and_leave_no_thread_behind() -> None:
    before = threading.active_count()
    batches = read_in_thread(iter(range(50)), "data", lambda: False, patience=5)
    assert [next(batches), *batches] == list(range(50))
    for fails in (False, True):
        end = raising(OSError("gone")) if fails else (lambda: None)
        closed = threading.Event()

        def some(end: Callable[[], Any] = end, closed: threading.Event = closed) -> Iterator[int]:
            try:
                yield 1
                end()
                yield 2
            finally:
                closed.set()

        batches = read_in_thread(some(), "data", lambda: False, patience=5)
        assert next(batches) == 1
        with pytest.raises(OSError, match="gone") if fails else nullcontext():
            next(batches)
        del batches
        assert closed.wait(5)
    end_of = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end_of:
        time.sleep(0.01)
    assert threading.active_count() == before


# Ctrl-C where it hurts


def test_an_interrupt_while_modes_are_put_back_leaves_none_mixed() -> None:
    class Slow(nn.Linear):
        interrupted = False

        def __setattr__(self, name: str, value: Any) -> None:
            if name == "training" and value and not self.interrupted and "bias" in self.__dict__.get("_parameters", {}):
                Slow.interrupted = True
                raise KeyboardInterrupt
            super().__setattr__(name, value)

    model = nn.Sequential(nn.Linear(2, 2), Slow(2, 2), nn.Dropout(), nn.Linear(2, 2))
    with pytest.raises(KeyboardInterrupt), eval_mode(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_an_interrupt_while_chance_is_put_back_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before, original = torch.get_rng_state(), random.setstate
    calls = [0]

    def interrupted(state: Any) -> None:
        calls[0] += 1
        if calls[0] == 1:
            raise KeyboardInterrupt
        original(state)

    monkeypatch.setattr(random, "setstate", interrupted)
    with pytest.raises(KeyboardInterrupt), fork_rng(None, 1):
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_within_a_step_of_another_leaves_its_generators_alone() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002

    with fork_rng(None, 1):
        alone = drawn(), drawn()
    with fork_rng(None, 1):
        first = drawn()
        with fork_rng(None, 2):
            within = drawn()
        assert (first, drawn()) == alone
    assert within not in alone


AT_THE_END = """
import os, signal, threading, time
from shrinkwidget import explore
from shrinkwidget.training.retrain_and_training_run import retrain
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune
from shrinkwidget.training.methods_schedule_options_and_progress import TrainingOptions
from tests.engine.training_helpers import mlp, points
many = points(30_000)
run = retrain(mlp(), many, method=FineTune(1000), options=TrainingOptions(batch_size=30_000), background=True)
explorer = explore(mlp(), [many] * 1000)
time.sleep(0.2)

def interrupt():
    for _ in range(3):
        time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

threading._register_atexit(lambda: threading.Thread(target=interrupt, daemon=True).start())
"""


def test_ctrl_c_while_the_program_ends_does_not_abort_it() -> None:
    ended = subprocess.run([sys.executable, "-c", AT_THE_END], capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode != -signal.SIGABRT, ended.stderr
    assert "shrinkwidget" not in ended.stderr  # an interrupt that ended the wait


# forked children


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_by_the_runs_own_thread_ends_well_and_nobody_hears_of_it(tmp_path: Path) -> None:
    codes: list[int | None] = []
    heard = tmp_path / "heard"

    def fork(x: Tensor) -> Tensor:
        child = multiprocessing.get_context("fork").Process(target=lambda: None)
        child.start()
        child.join(SECONDS)
        codes.append(child.exitcode)
        return x

    def observe(_: TrainingRun) -> None:
        with heard.open("a") as file:
            file.write(f"{os.getpid()}\n")

    run = retrain(mlp(), points(12), None, FineTune(3), options=TrainingOptions(augment=fork), background=True)
    run.observe(observe)
    assert run.wait(SECONDS)
    assert codes == [0, 0, 0]
    assert {int(line) for line in heard.read_text().split()} == {os.getpid()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_forked_in_the_middle_of_a_step_can_train_itself() -> None:
    forked, go_on = threading.Event(), threading.Event()

    def wait(x: Tensor) -> Tensor:
        forked.set()
        go_on.wait(SECONDS)
        return x

    model = mlp()
    run = retrain(model, points(12), None, FineTune(1), options=TrainingOptions(augment=wait), background=True)
    assert forked.wait(SECONDS)  # a lock is held now, and the model is claimed
    child = multiprocessing.get_context("fork").Process(target=retrain, args=(model, points(12), None, FineTune(1)))
    child.start()
    child.join(SECONDS)
    code = child.exitcode
    child.kill()
    go_on.set()
    assert run.wait(SECONDS)
    assert code == 0


def test_the_users_own_loop_over_workers_is_whole_beside_a_background_run() -> None:
    class Points(Dataset[Any]):
        def __len__(self) -> int:
            return 64

        def __getitem__(self, place: int) -> Any:
            inputs, labels = points(64)
            return inputs[place], labels[place]

    theirs = DataLoader(Points(), batch_size=32, num_workers=2)
    mine = DataLoader(Points(), batch_size=16, num_workers=2)
    run = retrain(mlp(), theirs, theirs, FineTune(50, lr=0.001), background=True)
    seen = [sum(len(labels) for _, labels in mine) for _ in range(3)]
    run.stop()
    assert run.wait(SECONDS)
    assert seen == [64] * 3
