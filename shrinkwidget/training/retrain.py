"""What a user calls: retrain a model, or prune and retrain it round by round."""

from __future__ import annotations

import os
from typing import Any, Final, Literal, Unpack, overload

from torch import nn

from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import ModelError, TrainingError
from ..recipe import Recipe, recipe_from
from .background_run import TrainingRun
from .input_validation import TrainingSpec
from .iterative_pruning import check_gradual, iterative_recipes
from .options import OF_METHOD, TrainingFields, TrainingOptions, options_from
from .progress_display import run_displayed
from .retraining_methods import METHODS, FineTune, GradualPruning, Method, MethodName, named
from .training_schedule import Schedule

_SPARSITY: Final = 0.9
"""What `prune_and_retrain` arrives at where nothing is said."""

_ELSEWHERE: Final = {kind: f"method={kind.__name__}({{}}=…)" for kind in METHODS.values()} | {
    Schedule: f"method={FineTune.__name__}(schedule={Schedule.__name__}({{}}=…))",
}
"""Fields of methods and schedules, which may be taken for keywords, and how they are written."""


@overload
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel: ...
@overload
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[CompressedModel]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE | {Recipe: "retrain(compress(model, {}=…), …)"})
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel | TrainingRun[CompressedModel]:
    """Return a compressed model trained further; the one given is untouched.

    >>> import shrinkwidget as sw
    >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
    >>> sw.retrain(small, sw.demo.few(per_class=8), epochs=1, lr=0.01, batch_size=16).provenance
    'fine-tuned 1 epoch'

    Args:
        model: a `CompressedModel`, whose pruned weights stay zero and through whose grid or codebook is trained, so
            that the result is exactly what was trained; or a module, which is trained as it is (the dense control).
        train_data: a pair of tensors (inputs, targets), a dataset, a DataLoader, or an iterable of batches.
        eval_data: as `train_data`; scored after every epoch.
        method: how: ``"finetune"``, ``"learning_rate_rewinding"``, ``"recalibrate_batchnorm"`` (it wants no labels), or
            an object of `shrinkwidget.methods` with settings of its own, such as ``WeightRewinding(schedule, early)``.
        options: all else that can be said of a training: loss, batches, seed, checkpoint.
        resume: the checkpoint of an interrupted training, asked for just so, to go on from; it goes on being written.
            True for that of the options, if it has been written yet.
        background: True for a `TrainingRun` on a thread of its own, already started, instead of the result; `monitor`
            shows it.
        progress: while it blocks, a notebook shows its monitor, a terminal a bar, and any other stderr a line now and
            then; False for nothing of these.
        fields: `epochs`, `lr` and `optimizer` change the method, all others the options.

    Raises:
        FileError: for a checkpoint that is not one of this training, or cannot be written.
        ModelError, DataError, TrainingError: for arguments that do not fit each other, and for a training that cannot
            go on; the error's `best` then holds the best weights.
        ArgumentError: for an unknown keyword.
    """
    by = named(method, METHODS, "method", _of_method(fields))
    if isinstance(by, GradualPruning):
        raise TrainingError(
            "GradualPruning prunes as it trains: give it to prune_and_retrain, with the recipe to reach"
        )
    spec = TrainingSpec(model, train_data, eval_data, by, options_from(options, fields), resume=resume)
    return _done(spec, background, progress)


@overload
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel: ...
@overload
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[CompressedModel]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE | {Recipe: f"recipe={Recipe.__name__}({{}}=…)"})
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel | TrainingRun[CompressedModel]:
    """Return a trained model pruned and retrained in turns until it is what a recipe says; the one given is untouched.

    This is the procedure of Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning",
    arXiv 2003.02389: prune the 20 % smallest of the weights that remain, retrain, and again.

    >>> import shrinkwidget as sw
    >>> small = sw.prune_and_retrain(sw.demo.model(), sw.demo.few(per_class=8), sparsity=0.5, rounds=2, epochs=1)
    >>> small.provenance
    'retrained 2 rounds of 1 epoch, learning rate rewound'

    Args:
        model: trained to completion.
        train_data, eval_data: see `retrain`.
        recipe: to arrive at, or a sparsity, by default 0.9. Its bits count in the last round, which trains through
            them.
        method: how each round retrains; the paper's own is ``"learning_rate_rewinding"``, best with the schedule of the
            training, `LearningRateRewinding(Schedule(…))`. ``"gradual_pruning"`` prunes during a single one instead.
        sparsity, bits: of the recipe; beside one they change it. All else a recipe may say is said in a `Recipe`.
        rounds: how many; by default 20 % of what remains are pruned in each; 1 is one-shot.
        options, resume, background, progress, fields: see `retrain`. `seed` is that of the training.

    Raises:
        as `retrain`, and RecipeError for what is no recipe or sparsity.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot prune a {type(model).__name__}: give the dense nn.Module")
    by = named(method, METHODS, "method", _of_method(fields))
    usual = _SPARSITY if recipe is None and sparsity is None else recipe
    target = recipe_from(usual, {"sparsity": sparsity, "bits": bits})
    recipes = iterative_recipes(target, 1 if isinstance(by, GradualPruning) and rounds is None else rounds)
    spec = TrainingSpec(model, train_data, eval_data, by, options_from(options, fields), recipes, resume)
    if isinstance(spec.training_method, GradualPruning):
        check_gradual(recipes)
    return _done(spec, background, progress)


def _of_method(fields: TrainingFields) -> dict[str, Any]:
    """Return the keywords that change the method."""
    return {name: fields.get(name) for name in OF_METHOD}


def _done(spec: TrainingSpec, background: bool, progress: bool) -> CompressedModel | TrainingRun[CompressedModel]:
    if background:
        return TrainingRun[CompressedModel](spec).start()
    done: CompressedModel = run_displayed(spec, progress)
    return done
