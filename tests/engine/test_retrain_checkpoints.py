"""A training that was killed goes on from its checkpoint as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import FileError, TrainingError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training import checkpoint_and_fingerprint as checkpoint_module
from shrinkwidget.training.checkpoint_and_fingerprint import Checkpoint
from shrinkwidget.training.methods_schedule_options_and_progress import (
    Distillation,
    FineTune,
    LearningRateRewinding,
    Method,
    Schedule,
    TrainingOptions,
    TrainingSpec,
    WeightRewinding,
    iterative_recipes,
)
from shrinkwidget.training.retrain_and_training_run import prune_and_retrain, retrain

from .packed_file_helpers import same
from .training_helpers import mlp, points, result, slowly, told, trainer

TEST = points(30, seed=1)
CASES: dict[str, dict[str, Any]] = {
    "fine-tuned": dict(model=lambda: compress(mlp(), Recipe(sparsity=0.5)), method=FineTune(3, lr=0.05)),
    "adam": dict(
        model=mlp,
        method=LearningRateRewinding(Schedule(epochs=2, lr=0.01, optimizer="adam")),
        recipes=iterative_recipes(Recipe(sparsity=0.7, bits=4), 2),
    ),
    "rewound weights": dict(
        model=mlp,
        method=WeightRewinding(Schedule(epochs=2, lr=0.05), mlp(seed=3).state_dict()),
        recipes=iterative_recipes(Recipe(sparsity=0.7, bits=2, quantizer="kmeans"), 2),
    ),
    "distilled": dict(
        model=lambda: compress(mlp(), Recipe(bits=1)),
        method=FineTune(3, lr=0.05),
        distillation=Distillation(mlp(seed=4)),
    ),
}


@pytest.mark.parametrize("case", list(CASES.values()), ids=list(CASES))
def test_resumed_after_any_epoch_the_weights_are_those_of_an_uninterrupted_training(
    case: dict[str, Any], tmp_path: Path
) -> None:
    asked: dict[str, Any] = dict(eval_data=TEST, batch_size=32) | {k: v for k, v in case.items() if k != "model"}
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
    options = TrainingOptions(checkpoint=path)
    done = retrain(compress(mlp(), Recipe(sparsity=0.5)), points(), TEST, FineTune(2, lr=0.05), options=options)
    again = retrain(compress(mlp(), Recipe(sparsity=0.5)), points(), TEST, FineTune(2, lr=0.05), resume=path)
    assert same(done.state_dict(), again.state_dict())
    assert done.provenance == again.provenance == "fine-tuned 2 epochs"


KILLED: dict[str, Any] = dict(
    recipe=Recipe(sparsity=0.6, bits=4), method=LearningRateRewinding(Schedule(epochs=3, lr=0.05)), rounds=3
)
SCRIPT = """
import sys
from shrinkwidget.training import checkpoint_and_fingerprint as checkpoint_module
from shrinkwidget.training.retrain_and_training_run import prune_and_retrain
from shrinkwidget.training.methods_schedule_options_and_progress import TrainingOptions
from tests.engine.test_retrain_checkpoints import KILLED
from tests.engine.training_helpers import mlp, points, slowly

prune_and_retrain(mlp(), points(), **KILLED,
                  options=TrainingOptions(batch_size=32, checkpoint=sys.argv[1], augment=slowly))
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
    expected = prune_and_retrain(mlp(), points(), **KILLED, options=TrainingOptions(batch_size=32))
    options = TrainingOptions(batch_size=32, augment=slowly)
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
    assert "of another method" in refused(checkpoint, method=LearningRateRewinding(Schedule(epochs=2, lr=0.05)))
    assert "other options" in refused(checkpoint, seed=1)
    assert "other options" in refused(checkpoint, distillation=Distillation(mlp()))


def test_a_file_that_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    assert "there is no file" in refused(tmp_path / "nothing")
    torch.save(mlp().state_dict(), tmp_path / "weights.pt")
    assert "is a pickle" in refused(tmp_path / "weights.pt")
    save_file(mlp().state_dict(), tmp_path / "weights.safetensors")
    assert "no checkpoint of a training" in refused(tmp_path / "weights.safetensors")
    good = checkpoint.read_bytes()
    checkpoint.write_bytes(good[:-10])
    assert "cut short: 10 bytes are missing" in refused(checkpoint)
    checkpoint.write_bytes(good[:-10] + bytes(10))
    assert "checksum" in refused(checkpoint)
    checkpoint.write_bytes(good.replace(b'"version":"2"', b'"version":"9"'))
    assert "version is 9, newer than 2" in refused(checkpoint)


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
        retrain(
            mlp(), points(), method=FineTune(3, lr=0.05), options=TrainingOptions(checkpoint=checkpoint, overwrite=True)
        )
    assert checkpoint.read_bytes() == before
    assert caught.value.best.provenance == "fine-tuned 1 of 3 epochs"
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


# What a checkpoint says of itself, and what it replaces


def test_every_bit_that_flips_is_refused(checkpoint: Path) -> None:
    good = checkpoint.read_bytes()
    reader = Checkpoint(TrainingSpec(mlp(), points(), None, FineTune(2, lr=0.05), TrainingOptions()), mlp())
    assert reader.read(checkpoint).log.history
    header = 8 + int.from_bytes(good[:8], "little")
    bits = [*range(0, 8 * header, 11), *range(8 * header, 8 * len(good), 1013)]
    for bit in bits:
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        checkpoint.write_bytes(bad)
        with pytest.raises(FileError, match="cannot resume from"):
            reader.read(checkpoint)


@dataclass
class Forged:
    """What a checkpoint holds, to be changed."""

    log: dict[str, Any]
    tensors: dict[str, Tensor]
    scalars: Any


def forge(path: Path, change: Callable[[Forged], object], log: str = "") -> Path:
    """Change what a checkpoint holds, and give it a checksum that is right; or give it another log altogether."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    held = json.loads(metadata["log"])
    content = Forged(held["log"], load_file(path), held["scalars"])
    change(content)
    text = {"log": content.log, "scalars": content.scalars, "tensors": sorted(content.tensors)}
    parts = checkpoint_module._file(content.tensors, {"asked": metadata["asked"], "log": log or json.dumps(text)})
    path.write_bytes(b"".join(map(bytes, parts)))
    return path


def set_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Forged], object]:
    return lambda c: c.tensors.update({name: change(c.tensors["now/0.bias"])})


NOT_OF_THIS = "its log is not one of 1 round of 2 epochs"
FORGED: dict[str, tuple[Callable[[Forged], object], str]] = {
    "a weight under another name": (lambda c: c.tensors.update(x=c.tensors.pop("now/0.bias")), "belong to no part"),
    "a weight too many": (set_tensor("now/more", torch.clone), "not those of the model, such as 'more'"),
    "a weight missing": (lambda c: c.tensors.pop("now/0.weight"), r"such as '0\.weight'"),
    "a weight of another dtype": (set_tensor("now/0.bias", Tensor.half), r"such as '0\.bias'"),
    "a weight of another shape": (set_tensor("now/0.bias", lambda t: t[:3]), r"such as '0\.bias'"),
    "a best weight alone": (set_tensor("best/0.bias", torch.clone), "not those of the model"),
    "memory without use": (set_tensor("optimizer/0/m", torch.clone), "has no use"),
    "memory of nobody": (set_tensor("optimizer/x/m", torch.clone), "which no parameter has"),
    "scalars that are none": (lambda c: setattr(c, "scalars", [1]), "no log of a training"),
    "round 99": (lambda c: c.log.update(round=99), NOT_OF_THIS),
    "a round before the first": (lambda c: c.log.update(round=-1), NOT_OF_THIS),
    "a round that is a text": (lambda c: c.log.update(round="1"), NOT_OF_THIS),
    "an epoch too many": (lambda c: c.log.update(epoch=1), NOT_OF_THIS),
    "no history": (lambda c: c.log.update(history=[]), NOT_OF_THIS),
    "a history of texts": (lambda c: c.log["history"][0].update(loss="low"), NOT_OF_THIS),
    "a test that is no score": (lambda c: c.log["history"][0].update(test={}), NOT_OF_THIS),
    "no points": (lambda c: c.log.update(points=None), NOT_OF_THIS),
    "a best of nowhere": (lambda c: c.log.update(best=[4, 4, None]), NOT_OF_THIS),
    "no best": (lambda c: c.log.update(best=None), NOT_OF_THIS),
    "a log that is a list": (lambda c: setattr(c, "log", []), "its log is not that of a training"),
    "a field more": (lambda c: c.log.update(more=1), "its log is not that of a training"),
}


@pytest.mark.parametrize("change, sentence", FORGED.values(), ids=list(FORGED))
def test_a_forged_checkpoint_is_refused_with_a_sentence(change: Any, sentence: str, checkpoint: Path) -> None:
    assert re.search(sentence, refused(forge(checkpoint, change)))


@pytest.mark.parametrize("text", ["no", "[]", "{}", "null", "[" * 100_000])
def test_a_checkpoint_without_a_log_is_refused(text: str, checkpoint: Path) -> None:
    assert refused(forge(checkpoint, id, log=text))


@pytest.mark.parametrize("version", ["0", "-1", "x", "", "1"])
def test_a_version_that_is_none_or_gone_is_refused(version: str, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    old, new = b'"version":"2"', f'"version":"{version}"'.encode()
    length = int.from_bytes(content[:8], "little") + len(new) - len(old)
    checkpoint.write_bytes(length.to_bytes(8, "little") + content[8:].replace(old, new))
    assert "version is" in refused(checkpoint)


def test_memory_of_the_wrong_shape_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    asked: dict[str, Any] = dict(model=mlp(), method=FineTune(2, lr=0.05))
    next(p for p in told(trainer(**asked, checkpoint=path)) if path.exists() and p.phase == "train")
    forge(path, lambda c: c.tensors.update({"optimizer/0/momentum_buffer": torch.zeros(5)}))
    with pytest.raises(TrainingError, match=r"SGD failed to take a step"):
        result(trainer(**asked, resume=path))


def times(x: Tensor, k: float) -> Tensor:
    return x * k


@pytest.mark.parametrize(
    "before, after",
    [
        (partial(times, k=1.0), partial(times, k=2.0)),
        (lambda x: x * 1.0, lambda x: x * 2.0),
        (slowly, partial(times, k=1.0)),
        (None, slowly),
    ],
)
def test_another_augmentation_is_another_training(before: Any, after: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    result(trainer(mlp(), FineTune(1, lr=0.05), checkpoint=path, augment=before))
    result(trainer(mlp(), FineTune(1, lr=0.05), resume=path, augment=before))
    assert "with other options (augment)" in refused(path, method=FineTune(1, lr=0.05), augment=after)


def test_other_data_is_another_training(checkpoint: Path) -> None:
    inputs, labels = points()
    for other in ((inputs * 0, labels), (inputs[:90], labels[:90]), [(inputs, labels)]):
        assert "of a training on other data" in refused(checkpoint, train_data=other)
    assert "evaluated on other data" in refused(checkpoint, eval_data=points(30))


def test_what_differs_is_named(checkpoint: Path) -> None:
    assert "another method (epochs=2, not 3)" in refused(checkpoint, method=FineTune(3, lr=0.05))
    assert "another method ('FineTune', not 'LearningRateRewinding')" in refused(
        checkpoint, method=LearningRateRewinding(Schedule(epochs=2, lr=0.05))
    )
    assert "other options (batch_size=64, not 32, seed=0, not 1)" in refused(checkpoint, batch_size=32, seed=1)


@pytest.mark.parametrize("kind", ["thesis", "weights", "another training", "nothing at all"])
def test_a_training_begun_anew_replaces_nothing_of_others(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    if kind == "thesis":
        path.write_text("years of work")
    elif kind == "weights":
        save_file(mlp().state_dict(), path)
    elif kind == "another training":
        result(trainer(mlp(), FineTune(2, lr=0.05), checkpoint=path))
    else:
        path.touch()
    before = path.read_bytes()
    options = TrainingOptions(checkpoint=path)
    with pytest.raises(FileError, match=r"the checkpoint would replace .*: choose another path, or say") as caught:
        retrain(mlp(), points(), method=FineTune(1, lr=0.05), options=options)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert caught.value.best is None  # not a step was taken
    retrain(mlp(), points(), method=FineTune(1, lr=0.05), options=replace(options, overwrite=True))
    assert path.read_bytes() != before
    retrain(mlp(), points(), method=FineTune(1, lr=0.05), options=options)  # its own earlier checkpoint


def test_a_checkpoint_that_cannot_be_written_is_told_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        trainer(mlp(), checkpoint=tmp_path / "nowhere" / "file")


def test_resume_may_be_true_from_the_start(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    first = retrain(mlp(), points(), TEST, FineTune(2, lr=0.05), options=TrainingOptions(checkpoint=path), resume=True)
    steps: list[Any] = []
    resumed = trainer(mlp(), FineTune(2, lr=0.05), eval_data=TEST, checkpoint=path, resume=True)  # type: ignore[arg-type]
    steps += told(resumed)
    assert not steps
    assert same(resumed.best().state_dict(), first.state_dict())
    with pytest.raises(TrainingError, match="give checkpoint=…"):
        retrain(mlp(), points(), resume=True)
