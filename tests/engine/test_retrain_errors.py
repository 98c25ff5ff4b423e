"""Whatever is wrong with a training is told in one sentence that says where, and the best weights are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from shrinkwidget.compressed_model import CompressedModel, compress
from shrinkwidget.errors import DataError, ModelError, ShrinkError, TrainingError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    Distillation,
    FineTune,
    LearningRateRewinding,
    Schedule,
    TrainingOptions,
    WeightRewinding,
)
from shrinkwidget.training.retrain_and_training_run import retrain

from .packed_file_helpers import same
from .training_helpers import mlp, points

X, Y = points()


def failing_with(kind: type[ShrinkError], match: str, *args: Any, **options: Any) -> ShrinkError:
    with pytest.raises(kind, match=match) as caught:
        retrain(*args, options=TrainingOptions(**options))
    assert "\n" not in str(caught.value)
    return caught.value


class Broken(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        if index == 50:
            raise KeyError("no such image")
        return X[index], Y[index]


def batches(*more: Any) -> list[Any]:
    return [(X, Y), *more]


@pytest.mark.parametrize(
    "train, message",
    [
        ((X, Y + 1), r"epoch 1, step \d: label 3 is out of range: the model tells 3 classes apart, 0 to 2"),
        ((X, Y.float() + 0.5), r"epoch 1, step 1: labels are .* float32; expected whole class numbers"),
        (Broken(), r"epoch 1, step \d: the data failed to give batch \d: KeyError: 'no such image'"),
        (batches((X[:, :7], Y)), r"epoch 1, step 2: the model cannot run input 96×7 float32: RuntimeError"),
        (batches((X, Y[:5])), r"epoch 1, step 2: outputs are 96×3 float32, labels 5 int64; expected logits"),
        (batches((X, X, Y)), r"epoch 1, step 2: batch 2: a batch is a tuple of 3; .*; several inputs go as \(\(a, b\)"),
        (batches(X), r"epoch 1, step 2: batch 2: a batch is a Tensor; expected \(inputs, targets\) or a dict"),
        ([((X, X), Y)], r"epoch 1, step 1: the model cannot run input .*, input .*: TypeError"),
        ([], r"epoch 1, step 1: the data is empty: there is no batch to train on"),
        ((X[:0], Y[:0]), r"epoch 1, step 1: the data is empty"),
        ((X, Y[:7]), r"inputs .* and targets .* must have the same number of rows"),
        (iter([(X, Y)]), r"epoch 2, step 1: the data gave no batch: an iterator can be read only once"),
        (None, r"cannot train on nothing: give a DataLoader"),
        ("digits", r"cannot train on data of type str"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_data_that_does_not_fit_is_told_with_its_place(train: Any, message: str) -> None:
    failing_with(DataError, message, mlp(), train, None, FineTune(2, lr=0.1), batch_size=16)


def test_evaluation_data_that_fails_is_told_with_its_place() -> None:
    failing_with(DataError, "eval_data: batch 2: label 9 is out of", mlp(), (X, Y), [(X, Y), (X, Y * 0 + 9)])
    failing_with(DataError, "cannot evaluate on data of type int", mlp(), (X, Y), 7)

    class Later:
        reads = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.reads += 1
            yield X, Y
            if self.reads > 2:
                raise OSError("gone")

    error = failing_with(
        DataError, "epoch 2: eval_data: the data failed to give batch 2: OSError: gone", mlp(), (X, Y), Later()
    )
    assert error.best.provenance == "fine-tuned 1 of 10 epochs"


def test_a_loss_that_is_not_finite_stops_at_once_and_keeps_the_best_weights() -> None:
    poisoned = X.clone()

    class Later:
        reads = 0

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.reads += 1
            yield X[:48], Y[:48]
            yield (poisoned if self.reads < 3 else poisoned * torch.nan)[48:], Y[48:]

    small = compress(mlp(), Recipe(sparsity=0.5))
    whole: list[CompressedModel] = []
    error = failing_with(
        DataError,
        "epoch 3, step 2: its inputs or targets are NaN or infinite: clean them first; the best weights so far",
        small, Later(), None, FineTune(5, lr=0.05),
    )  # fmt: skip
    whole.append(error.best)
    expected = retrain(small, [(X[:48], Y[:48]), (X[48:], Y[48:])], method=FineTune(2, lr=0.05))
    assert same(error.best.state_dict(), expected.state_dict())
    assert error.best.provenance == "fine-tuned 2 of 5 epochs"


def test_a_rate_that_is_far_too_high_is_told_as_such() -> None:
    model = nn.Sequential(nn.Linear(8, 3))
    failing_with(TrainingError, r"epoch \d, step \d: the (loss is|outputs are) (nan|inf|NaN)", model, (X * 1e30, Y),
                 None, FineTune(5, lr=1e30))  # fmt: skip


@pytest.mark.parametrize(
    "loss, message",
    [
        (lambda outputs, _: outputs, r"the loss '<lambda>' returned 96×3 float32; expected one number: take its mean"),
        (lambda *_: 3.0, r"returned float; expected one number"),
        (lambda outputs, _: outputs.detach().mean(), r"returned a number without a gradient"),
        (lambda outputs, targets: (outputs - targets).mean(), r"the loss '<lambda>' failed: RuntimeError: The size of"),
        (lambda outputs, _: outputs.mean() * torch.nan, r"epoch 1, step 1: the loss is nan"),
    ],
)
def test_a_loss_that_is_none_is_told(loss: Callable[..., Any], message: str) -> None:
    failing_with(ShrinkError, message, mlp(), [(X, Y)], loss=loss)


def test_what_can_be_told_before_the_first_step_is() -> None:
    failing_with(ModelError, "cannot train a dict: give an nn.Module or a CompressedModel", {}, points())
    failing_with(TrainingError, "got 'finetun'; did you mean 'finetune'", mlp(), points(), None, "finetun")
    failing_with(TrainingError, "method=3 must be one such as FineTune", mlp(), points(), None, 3)
    failing_with(TrainingError, r"eval_data=FineTune\(.*\) is a method: write method=", mlp(), points(), FineTune(1))
    frozen = mlp().requires_grad_(False)
    failing_with(TrainingError, "nothing to train in this Sequential: no parameter requires", frozen, points())
    early = {"0.weight": torch.zeros(3, 8)}
    failing_with(TrainingError,
                 r"state_dict=…\) holds '0\.weight' of shape \[3, 8\], but in this Sequential its shape is",
                 mlp(), points(), None, WeightRewinding(Schedule(), early))  # fmt: skip
    with pytest.raises(TrainingError, match=r"options must be sw\.methods\.TrainingOptions\(…\), got a dict"):
        retrain(mlp(), points(), options={})  # type: ignore[call-overload]
    small = compress(mlp().state_dict(), Recipe(sparsity=0.5))
    failing_with(ModelError, r"only weights: load the file with load\(path, into=model\)", small, points())
    failing_with(DataError, r"augment=…\) failed: ZeroDivisionError", mlp(), points(), augment=lambda x: x / (1 // 0))
    failing_with(DataError, "augment=…\\) returned None: return the inputs", mlp(), points(), augment=lambda _: None)
    failing_with(DataError, "augment=.* the model's only input", mlp(), [{"input": X, "y": Y}], augment=lambda x: x)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"seed": "a"}, "seed='a'\\) must be a whole number"),
        ({"seed": True}, "seed=True\\) must be a whole number"),
        ({"channels_last": "maybe"}, "channels_last='maybe'\\) must be True or False"),
        ({"overwrite": 1}, "overwrite=1\\) must be True or False"),
        ({"augment": 3}, "augment=…\\) must be a function of inputs, got an int"),
        ({"distillation": nn.Linear(8, 3)}, "is a Linear: give sw.methods.Distillation\\(teacher\\)"),
        ({"checkpoint": 3}, "checkpoint=3 must be the path of a file"),
    ],
)
def test_options_of_another_kind_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        retrain(mlp(), points(), **wrong)


def test_a_training_that_comes_to_no_number_says_what_may_be_the_cause() -> None:
    broken = X.clone()
    broken[70] = torch.nan
    failing_with(DataError, "epoch 1, step 2: its inputs or targets are NaN or infinite: clean them first",
                 mlp(), [(broken[:64], Y[:64]), (broken[64:], Y[64:])])  # fmt: skip
    half = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).half()
    failing_with(TrainingError, "float16 weights are easily too large or too small in training: train model.float",
                 half, (X.half(), Y), None, FineTune(3, schedule=Schedule(optimizer="adam"), lr=1e-3))  # fmt: skip
    two = nn.Sequential(nn.Linear(8, 2))
    failing_with(DataError, "the teacher's outputs do not fit the labels: label 2 is out of range",
                 mlp(), points(), distillation=Distillation(two))  # fmt: skip


def test_weights_that_are_nan_before_the_first_step_are_told_by_name() -> None:
    small = compress(mlp(), Recipe(sparsity=0.5, bits=4))
    assert small.model is not None
    small.model.get_parameter("0.weight").data[0, 0] = torch.nan
    failing_with(ModelError, "layer '0.weight' has 1 weight that is NaN or infinite: repair", small, points())


def closure_wanted(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: FineTune(0), r"FineTune\(epochs=0\) must be a whole number from 1"),
        (lambda: FineTune(lr=-1), r"FineTune\(lr=-1\) must be a number above 0"),
        (lambda: Schedule(epochs=cast(Any, 2.5)), r"Schedule\(epochs=2\.5\) must be a whole number"),
        (lambda: Schedule(optimizer="adma"), r"Schedule\(optimizer=…\) must be .*got 'adma'; did you mean 'adam'"),
        (lambda: Schedule(decay=cast(Any, "cosin")), r"got 'cosin'; did you mean 'cosine'"),
        (lambda: Schedule(warmup=30), r"Schedule\(warmup=30\) must be at least 0 and less than the 30 epochs"),
        (
            lambda: LearningRateRewinding(epoch=30),
            r"LearningRateRewinding\(epoch=30\) must be an epoch of the schedule, 0 to 29",
        ),
        (
            lambda: WeightRewinding(Schedule(), cast(Any, {"a": 3})),
            r"state_dict=…\) must be the state dict of an earlier epoch",
        ),
        (lambda: TrainingOptions(loss="cross_entrop"), r"got 'cross_entrop'; did you mean 'cross_entropy'"),
        (lambda: TrainingOptions(batch_size=0), r"TrainingOptions\(batch_size=0\) must be a whole number from 1"),
        (lambda: TrainingOptions(autocast=torch.float16), r"float16 would underflow without loss scaling"),
    ],
)
def test_options_out_of_range_are_told_when_they_are_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()


def test_optimizers_that_cannot_be_used_say_so() -> None:
    def method(optimizer: Any) -> FineTune:
        return FineTune(1, schedule=Schedule(optimizer=optimizer))

    failing_with(TrainingError, "returned an int; expected an optimizer", mlp(), points(), None, method(lambda _: 3))
    failing_with(TrainingError, r"optimizer=…\) failed: ZeroDiv", mlp(), points(), None, method(lambda _: 1 // 0))
    failing_with(TrainingError, "epoch 1, step 1: LBFGS failed to take a step: TypeError", mlp(), points(), None,
                 method(closure_wanted))  # fmt: skip
