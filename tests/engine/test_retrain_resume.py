"""A training that was killed goes on from its checkpoint as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shrinkwidget.compressed import compress
from shrinkwidget.errors import FileError, TrainingError
from shrinkwidget.learn.api import prune_and_retrain, retrain
from shrinkwidget.learn.methods import FineTune, Method, RewindLearningRate, RewindWeights
from shrinkwidget.learn.options import Distil, Training
from shrinkwidget.learn.rounds import recipes_to
from shrinkwidget.learn.schedule import Schedule
from shrinkwidget.recipe import Recipe

from .packing import same
from .training import mlp, points, result, slowly, told, trainer

TEST = points(30, seed=1)
CASES: dict[str, dict[str, Any]] = {
    "fine-tuned": dict(model=lambda: compress(mlp(), Recipe(sparsity=0.5)), method=FineTune(3, lr=0.05)),
    "adam": dict(
        model=mlp,
        method=RewindLearningRate(Schedule(epochs=2, lr=0.01, optimizer="adam")),
        recipes=recipes_to(Recipe(sparsity=0.7, bits=4), 2),
    ),
    "rewound weights": dict(
        model=mlp,
        method=RewindWeights(Schedule(epochs=2, lr=0.05), mlp(seed=3).state_dict()),
        recipes=recipes_to(Recipe(sparsity=0.7, bits=2, grid="codebook"), 2),
    ),
    "distilled": dict(
        model=lambda: compress(mlp(), Recipe(bits=1)), method=FineTune(3, lr=0.05), distil=Distil(mlp(seed=4))
    ),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_resumed_after_any_epoch_the_weights_are_those_of_an_uninterrupted_training(
    case: dict[str, Any], tmp_path: Path
) -> None:
    asked: dict[str, Any] = dict(test=TEST, batch=32) | {k: v for k, v in case.items() if k != "model"}
    whole = trainer(case["model"](), **asked)
    expected = result(whole)
    path = tmp_path / "checkpoint.safetensors"
    contents = []
    for _ in told(trainer(case["model"](), **asked, checkpoint=path)):
        if path.exists() and path.read_bytes() not in contents:
            contents.append(path.read_bytes())
    assert len(contents) == len(whole.log.history) - 1  # the last is written after all is told
    for content in contents:
        path.write_bytes(content)
        resumed = trainer(case["model"](), **asked, resume=path)
        assert same(result(resumed).state_dict(), expected.state_dict())
        assert resumed.log.points == whole.log.points
        assert [e | {"seconds": 0} for e in resumed.log.history] == [e | {"seconds": 0} for e in whole.log.history]


def test_a_completed_training_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    options = Training(checkpoint=path)
    done = retrain(compress(mlp(), Recipe(sparsity=0.5)), points(), TEST, FineTune(2, lr=0.05), options=options)
    again = retrain(compress(mlp(), Recipe(sparsity=0.5)), points(), TEST, FineTune(2, lr=0.05), resume=path)
    assert same(done.state_dict(), again.state_dict())
    assert done.regime == again.regime == "fine-tuned 2 epochs"


KILLED: dict[str, Any] = dict(
    to=Recipe(sparsity=0.6, bits=4), method=RewindLearningRate(Schedule(epochs=3, lr=0.05)), rounds=3
)
SCRIPT = """
import sys
from shrinkwidget.learn.api import prune_and_retrain
from shrinkwidget.learn.options import Training
from tests.engine.test_retrain_resume import KILLED
from tests.engine.training import mlp, points, slowly

prune_and_retrain(mlp(), points(), **KILLED, options=Training(batch=32, checkpoint=sys.argv[1], augment=slowly))
"""


def test_killed_in_the_middle_it_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    (tmp_path / "train.py").write_text(SCRIPT)
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    with subprocess.Popen([sys.executable, str(tmp_path / "train.py"), str(path)], env=env) as process:
        while not path.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.2)
        assert process.poll() is None, "it was over before it could be killed"
        process.send_signal(signal.SIGKILL)
    expected = prune_and_retrain(mlp(), points(), **KILLED, options=Training(batch=32))
    options = Training(batch=32, augment=slowly)
    resumed = prune_and_retrain(mlp(), points(), **KILLED, options=options, resume=path)
    assert same(resumed.state_dict(), expected.state_dict())


# What it refuses


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.safetensors"
    result(trainer(mlp(), FineTune(2, lr=0.05), checkpoint=path))
    return path


def refused(path: Path, model: nn.Module | None = None, method: Method = FineTune(2, lr=0.05), **more: Any) -> str:
    with pytest.raises(FileError) as caught:
        trainer(model or mlp(), method, **more, resume=path)
    message = str(caught.value)
    assert message.startswith(f"cannot resume from {str(path)!r}: ")
    assert "\n" not in message
    return message.partition("': ")[2]


def test_a_checkpoint_of_something_else_is_refused_with_what_differs(checkpoint: Path) -> None:
    assert "of another model" in refused(checkpoint, nn.Sequential(nn.Linear(8, 3)))
    assert "began with other weights" in refused(checkpoint, mlp(seed=1))
    assert "of another recipe" in refused(checkpoint, recipes=(Recipe(sparsity=0.5),))
    assert "of another method" in refused(checkpoint, method=FineTune(3, lr=0.05))
    assert "of another method" in refused(checkpoint, method=RewindLearningRate(Schedule(epochs=2, lr=0.05)))
    assert "other options" in refused(checkpoint, seed=1)
    assert "other options" in refused(checkpoint, distil=Distil(mlp()))


def test_a_file_that_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "nothing")
    torch.save(mlp().state_dict(), tmp_path / "weights.pt")
    assert "is a pickle" in refused(tmp_path / "weights.pt")
    save_file(mlp().state_dict(), tmp_path / "weights.safetensors")
    assert "no checkpoint of a training" in refused(tmp_path / "weights.safetensors")
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[:-10])
    assert "damaged" in refused(checkpoint)
    checkpoint.write_bytes(good[:-10] + bytes(10))
    assert "checksum" in refused(checkpoint)
    checkpoint.write_bytes(good.replace(b'"version":"1"', b'"version":"9"'))
    assert "version is 9, newer than 1" in refused(checkpoint)


@contextmanager
def small_disk() -> Iterator[None]:
    """The system's own limit on the size of a file stands for the end of the disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_training_and_leaves_the_old_checkpoint_and_the_best_weights(checkpoint: Path) -> None:
    before = checkpoint.read_bytes()
    unwritten = pytest.raises(FileError, match=r"cannot write .*; the file there is unchanged")
    with small_disk(), unwritten as caught:
        retrain(mlp(), points(), method=FineTune(3, lr=0.05), options=Training(checkpoint=checkpoint))
    assert checkpoint.read_bytes() == before
    assert caught.value.best.regime == "fine-tuned 1 of 3 epochs"
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_an_optimizer_whose_memory_no_file_can_hold_says_so(tmp_path: Path) -> None:
    class Odd(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["history"] = []

    schedule = Schedule(optimizer=lambda parameters: Odd(parameters, lr=0.1))
    with pytest.raises(TrainingError, match=r"Odd remembers a list \('history'\), which no checkpoint can hold"):
        result(trainer(mlp(), FineTune(2, schedule=schedule), checkpoint=tmp_path / "x"))


def test_checkpoints_are_plain_safetensors(checkpoint: Path) -> None:
    assert {name.partition("/")[0] for name in load_file(checkpoint)} == {"now"}
