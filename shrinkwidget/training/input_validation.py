"""Everything one training was asked to do (model, data, method, options, recipes), checked before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from ..argument_checks import meant
from ..compressed_model import CompressedModel
from ..errors import ModelError, TrainingError, quoted
from ..evaluation.batches import as_pair, refuse_no_data
from ..recipe import Recipe
from .options import TrainingOptions
from .retraining_methods import METHODS, Method, RecalibrateBatchNorm, Stage, TrainingMethod
from .training_batches import TrainingBatches


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
        if isinstance(self.eval_data, Method) or meant(self.eval_data, METHODS):
            raise TrainingError(
                f"eval_data={quoted(self.eval_data)} is a method: write method=…, or give the data to evaluate on first"
            )
        if self.eval_data is not None and as_pair(self.eval_data) is None:
            refuse_no_data(self.eval_data)
        object.__setattr__(self, "recipes", self.recipes or (_recipe_of(self.source),))
        if self.resume is True and self.options.checkpoint is None:
            raise TrainingError(
                "resume=True goes on from the checkpoint of the options: give TrainingOptions(checkpoint=…)"
            )

    @cached_property
    def feed(self) -> TrainingBatches:
        """The training data, batch by batch."""
        return TrainingBatches(self.train_data, self.options)

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


def _recipe_of(source: object) -> Recipe:
    if isinstance(source, CompressedModel):
        return source.recipe
    if isinstance(source, nn.Module):
        return Recipe()
    give = "what its .compress() returns" if hasattr(source, "compress") else "an nn.Module or a CompressedModel"
    raise ModelError(f"cannot train a {type(source).__name__}: give {give}")
