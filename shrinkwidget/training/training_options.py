"""What one training is asked to do: its options (loss, batches, seed, checkpoint), and all of it, checked before."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import torch
from torch import Tensor, nn

from ..argument_checks import checked_fields, meant
from ..compressed_model import CompressedModel
from ..errors import ModelError, TrainingError, a_type, quoted
from ..evaluation.batches import as_pair, refuse_no_data
from ..evaluation.evaluate import MetricLike
from ..evaluation.metrics import resolve
from ..evaluation.predictions_and_labels import LabelRules
from ..recipe_and_method_registry import Recipe
from .schedules_and_methods import (
    METHODS,
    Method,
    OptimizerLike,
    RecalibrateBatchNorm,
    Stage,
    TrainingMethod,
    check_whole,
    checked_choice,
)

Loss: TypeAlias = str | Callable[[Any, Tensor], Tensor]


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True, eq=False)
class Distillation:
    """Knowledge distillation from a teacher (Hinton, Vinyals, Dean, arXiv 1503.02531).

    The loss is weight · T² · KL(teacher's softmax(z/T) ‖ student's) + (1 − weight) · the loss of the labels.
    With weight 1 labels do not count, and `augment` may show what has none, such as two images laid over each other
    (mixup, arXiv 1710.09412): a small network trained for long learns most that way (arXiv 2106.05237).

    Args:
        teacher: the dense model, usually; it is copied, and runs in eval mode.
        temperature: T, above 0.
        weight: 0…1.

    Example:
        >>> import shrinkwidget as sw
        >>> dense = sw.demo.model()
        >>> distillation = sw.methods.Distillation(dense, temperature=2)
        >>> small = sw.compress(dense, sparsity=0.95)
        >>> sw.retrain(small, sw.demo.few(per_class=8), epochs=1, distillation=distillation).provenance
        'fine-tuned 1 epoch, distilled'
    """

    teacher: nn.Module
    temperature: float = 4.0
    weight: float = 0.9

    def __post_init__(self) -> None:
        if not isinstance(self.teacher, nn.Module):
            raise TrainingError(f"Distillation(teacher=…) must be an nn.Module, got {a_type(self.teacher)}")
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise TrainingError(
                f"Distillation(temperature={self.temperature!r}, weight={self.weight!r}): "
                f"the temperature must be above 0, the weight from 0 to 1"
            )


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True, eq=False)
class TrainingOptions:
    """How any method trains.

    Args:
        loss: ``"cross_entropy"``, ``"mse"``, or a function of (outputs, targets) that gives one number, the mean over
            the batch.
        metric: what is measured on training batches and on `eval_data`, see `evaluate`; by default what goes with the
            loss, ``"mse"`` or ``"accuracy"``.
        batch_size: examples per step, where the data is a pair of tensors or a dataset; loaders bring their own.
        augment: a function of a batch of inputs, applied in training only.
        distillation: a teacher to learn from.
        seed: for shuffling, dropout and augmentation. Same seed, same result on the CPU.
        checkpoint: the file that is written after every epoch, from which ``resume`` goes on. A file that is there
            already is replaced only if it is an earlier checkpoint of the same training, or with `overwrite`.
        overwrite: replace whatever stands at `checkpoint`.
        autocast: ``torch.bfloat16``, for mixed precision where the device has it.
        channels_last: lay images out channels last in training, which convolutions on GPUs prefer.
        ignore_index, next_token: how labels are read, by the loss and the metric; see `evaluate`.

    Raises:
        TrainingError: for a value out of range or an unknown name.
        DataError: for an unknown metric, or an ignore_index or next_token that cannot be.

    Example:
        >>> import shrinkwidget as sw
        >>> options = sw.methods.TrainingOptions(batch_size=16, seed=1, checkpoint="training.safetensors")
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> sw.retrain(small, sw.demo.few(per_class=8), epochs=1, options=options).provenance
        'fine-tuned 1 epoch'
    """

    loss: Loss = "cross_entropy"
    metric: MetricLike | None = None
    batch_size: int = 64
    augment: Callable[[Any], Any] | None = None
    distillation: Distillation | None = None
    seed: int = 0
    checkpoint: str | os.PathLike[str] | None = None
    overwrite: bool = False
    autocast: torch.dtype | None = None
    channels_last: bool = False
    ignore_index: int | None = None
    next_token: bool | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss, type):
            kind = self.loss.__name__
            raise TrainingError(f"TrainingOptions(loss={kind}) is a class: give an object of it, loss={kind}()")
        if not callable(self.loss):
            names, function = ("cross_entropy", "mse"), "or a function of (outputs, targets)"
            object.__setattr__(self, "loss", checked_choice(self.loss, names, "TrainingOptions(loss=…)", function))
        resolve(self.measured)  # an unknown metric or rule is refused now, not at the first batch
        _ = self.rules
        check_whole(self.batch_size, "TrainingOptions", "batch_size")
        # float16 needs a loss scaler, which skips steps at will: a step would no longer follow from its number alone.
        if self.autocast not in (None, torch.bfloat16):
            raise TrainingError(
                f"TrainingOptions(autocast={self.autocast!r}) must be torch.bfloat16 or None: "
                f"float16 would underflow without loss scaling"
            )

    @property
    def rules(self) -> LabelRules:
        """How labels are read."""
        return LabelRules(self.ignore_index, self.next_token)

    @property
    def measured(self) -> MetricLike:
        """The metric that was asked for, or the one that goes with the loss."""
        return self.metric or ("mse" if self.loss == "mse" else "accuracy")


class TrainingFields(TypedDict, total=False):
    """The keywords of everything that trains: three of its method, and the fields of `TrainingOptions`."""

    epochs: int
    lr: float
    optimizer: OptimizerLike
    loss: Loss
    metric: MetricLike | None
    batch_size: int
    augment: Callable[[Any], Any] | None
    distillation: Distillation | None
    seed: int
    checkpoint: str | os.PathLike[str] | None
    overwrite: bool
    autocast: torch.dtype | None
    channels_last: bool
    ignore_index: int | None
    next_token: bool | None


# The keywords that change the method; all others change the options.
OF_METHOD = ("epochs", "lr", "optimizer")


def options_from(options: TrainingOptions | None, given: Mapping[str, Any]) -> TrainingOptions:
    """Return the options that an argument and keywords mean together: keywords beside options change them.

    Raises:
        TrainingError: for what are no options, and for values that cannot be.
    """
    changes = {name: value for name, value in given.items() if name not in OF_METHOD}
    if options is None:
        return TrainingOptions(**changes)
    if not isinstance(options, TrainingOptions):
        raise TrainingError(f"options must be TrainingOptions(…), got {a_type(options)}")
    return replace(options, **changes) if changes else options


@dataclass(frozen=True, eq=False)
class TrainingSpec:
    """What is to be trained on what, how, and to which recipes, one for every round.

    Raises:
        ModelError, DataError, TrainingError: for an argument that is not what it should be.
    """

    source: CompressedModel | nn.Module
    train_data: object
    eval_data: object
    method: Method
    options: TrainingOptions
    recipes: tuple[Recipe, ...] = ()
    resume: str | os.PathLike[str] | bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.method, Method) or isinstance(self.method, type):
            raise TrainingError(
                f"method={self.method!r} must be one such as FineTune(epochs=10) or LearningRateRewinding()"
            )
        # retrain(model, data, "finetune") puts the method in the place of the data: a natural first guess.
        if isinstance(self.eval_data, Method) or meant(self.eval_data, METHODS):
            raise TrainingError(
                f"eval_data={quoted(self.eval_data)} is a method: write method=…, or give the data to evaluate on first"
            )
        if self.eval_data is not None and as_pair(self.eval_data) is None:
            refuse_no_data(self.eval_data)
        if not self.recipes:  # one round, at the recipe that it is compressed by
            object.__setattr__(self, "recipes", (self._own_recipe(),))
        if self.resume is True and self.options.checkpoint is None:
            raise TrainingError(
                "resume=True goes on from the checkpoint of the options: give TrainingOptions(checkpoint=…)"
            )

    def _own_recipe(self) -> Recipe:
        """Return the recipe that `source` is compressed by already: a plain retraining is one round at it."""
        source: object = self.source
        if isinstance(source, CompressedModel):
            return source.recipe
        if isinstance(source, nn.Module):
            return Recipe()
        give = "what its .compress() returns" if hasattr(source, "compress") else "an nn.Module or a CompressedModel"
        raise ModelError(f"cannot train {a_type(source)}: give {give}")

    @cached_property
    def model(self) -> nn.Module:
        """The module that is trained a copy of."""
        if isinstance(self.source, nn.Module):
            return self.source
        if self.source.model is None:
            raise ModelError("there is no model to train, only weights: load the file with load(path, into=model)")
        return self.source.model

    @property
    def stage(self) -> Stage:
        """The training of each round."""
        return self.training_method.stage()

    @property
    def trains(self) -> bool:
        """Whether its method trains, epoch by epoch."""
        return not isinstance(self.method, RecalibrateBatchNorm)

    @property
    def training_method(self) -> TrainingMethod:
        """The method, if it trains."""
        if isinstance(self.method, RecalibrateBatchNorm):
            raise TrainingError("RecalibrateBatchNorm() does not train: give it to retrain, not to prune_and_retrain")
        return self.method

    @property
    def resumes_from(self) -> str | os.PathLike[str] | None:
        """The checkpoint to go on from, if any."""
        if not isinstance(self.resume, bool):
            return self.resume
        # True in a script that is started again and again: the first time there is nothing to go on from.
        path = self.options.checkpoint
        return path if self.resume and path is not None and Path(path).exists() else None

    @property
    def checkpoint(self) -> str | os.PathLike[str] | None:
        """The file that is written after every epoch, if any: that of the options, or the one resumed from."""
        if self.options.checkpoint is not None or isinstance(self.resume, bool):
            return self.options.checkpoint
        return self.resume

    def provenance(self, number: int, epochs: int) -> str:
        """Return how weights were obtained that `epochs` epochs of round `number` (from 0) have trained."""
        rounds, whole = len(self.recipes), self.stage.epochs
        if epochs < whole:
            text = f"{epochs} of {_epochs(whole)}" + (f" in round {number + 1} of {rounds}" if rounds > 1 else "")
        elif rounds == 1:
            text = _epochs(whole)
        else:
            text = f"{rounds if number + 1 == rounds else f'{number + 1} of {rounds}'} rounds of {_epochs(whole)}"
        aware = ", quantization-aware" if quantizes(self.recipes[number]) else ""
        words = self.training_method.words(text) + aware + (", distilled" if self.options.distillation else "")
        return words if self.source_provenance == "no retraining" else f"{self.source_provenance}, then {words}"

    @property
    def kind(self) -> str:
        """What it makes of a model, in a word."""
        return "retrained"

    @property
    def words(self) -> str:
        """The provenance of the result."""
        return self.provenance(len(self.recipes) - 1, self.stage.epochs) if self.trains else "batch norm recalibrated"

    @property
    def source_provenance(self) -> str:
        """How the weights were obtained that it begins with."""
        return self.source.provenance if isinstance(self.source, CompressedModel) else "no retraining"


def _epochs(n: int) -> str:
    return f"{n} epoch{'' if n == 1 else 's'}"


def quantizes(recipe: Recipe) -> bool:
    """Tell whether a recipe rounds any layer to fewer than 32 bits."""
    own = [override.get("bits", 32) for override in recipe.layers.values() if isinstance(override, Mapping)]
    return any(bits < 32 for bits in (recipe.bits, *own))
