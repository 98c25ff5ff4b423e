"""What a user calls: retrain a model, or prune and retrain it round by round."""

from __future__ import annotations

import os
from typing import Literal, overload

from torch import nn

from ..compressed import Compressed
from ..errors import ModelError, TrainingError
from ..recipe import Recipe
from .job import Job
from .methods import FineTune, GradualPruning, Method, RewindLearningRate
from .options import Training
from .rounds import check_gradual, recipes_to
from .run import Run
from .watched import watched


@overload
def retrain(
    model: Compressed | nn.Module,
    train: object,
    test: object = None,
    method: Method = FineTune(),
    *,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
) -> Compressed: ...
@overload
def retrain(
    model: Compressed | nn.Module,
    train: object,
    test: object = None,
    method: Method = FineTune(),
    *,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
) -> Run: ...
def retrain(
    model: Compressed | nn.Module,
    train: object,
    test: object = None,
    method: Method = FineTune(),
    *,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
) -> Compressed | Run:
    """Return a compressed model trained further; the one given is untouched.

    Args:
        model: a `Compressed`, whose pruned weights stay zero and through whose grid or codebook is trained, so that the
            result is exactly what was trained; or a module, which is trained as it is (the dense control).
        train: a pair of tensors (inputs, targets), a dataset, a DataLoader, or an iterable of batches.
        test: as `train`; scored after every epoch.
        method: how: `FineTune`, `RewindLearningRate`, `RewindWeights`, or `ReestimateNorms`, which wants no labels.
        options: all else: loss, batches, seed, checkpoint.
        resume: the checkpoint of an interrupted training, asked for just so, to go on from; it goes on being written.
            True for that of the options, if it has been written yet.
        background: True for a `Run` on a thread of its own, already started, instead of the result.

    Raises:
        FileError: for a checkpoint that is not one of this training, or cannot be written.
        ModelError, DataError, TrainingError: for arguments that do not fit each other, and for a training that cannot
            go on; the error's `best` then holds the best weights.
    """
    if isinstance(method, GradualPruning):
        raise TrainingError(
            "GradualPruning prunes as it trains: give it to prune_and_retrain, with the recipe to reach"
        )
    return _done(Job(model, train, test, method, options, resume=resume), background)


@overload
def prune_and_retrain(
    model: nn.Module,
    train: object,
    test: object = None,
    to: Recipe | float = 0.9,
    method: Method = RewindLearningRate(),
    *,
    rounds: int | None = None,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
) -> Compressed: ...
@overload
def prune_and_retrain(
    model: nn.Module,
    train: object,
    test: object = None,
    to: Recipe | float = 0.9,
    method: Method = RewindLearningRate(),
    *,
    rounds: int | None = None,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
) -> Run: ...
def prune_and_retrain(
    model: nn.Module,
    train: object,
    test: object = None,
    to: Recipe | float = 0.9,
    method: Method = RewindLearningRate(),
    *,
    rounds: int | None = None,
    options: Training = Training(),
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
) -> Compressed | Run:
    """Return a trained model pruned and retrained in turns until it is what a recipe says; the one given is untouched.

    This is the procedure of Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning",
    arXiv 2003.02389: prune the 20 % smallest of the weights that remain, retrain, and again.

    Args:
        model: trained to completion.
        train, test: see `retrain`.
        to: the recipe to arrive at, or a sparsity. Its bits count in the last round, which trains through them.
        method: how each round retrains; the paper's own is `RewindLearningRate` with the schedule of the training.
            `GradualPruning` prunes during a single one instead.
        rounds: how many; by default 20 % of what remains are pruned in each; 1 is one-shot.
        options, resume, background: see `retrain`.

    Raises:
        as `retrain`, and RecipeError for what is no recipe or sparsity.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot prune a {type(model).__name__}: give the dense nn.Module")
    recipes = recipes_to(to, 1 if isinstance(method, GradualPruning) and rounds is None else rounds)
    job = Job(model, train, test, method, options, recipes, resume)
    if isinstance(job.training_method, GradualPruning):
        check_gradual(recipes)
    return _done(job, background)


def _done(job: Job, background: bool) -> Compressed | Run:
    return Run(job).start() if background else watched(job)
