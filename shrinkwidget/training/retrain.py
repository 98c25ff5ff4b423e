"""What a user calls: `retrain` a model, or `prune_and_retrain` it round by round (iterative pruning)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, Final, Literal, Unpack, overload

from torch import nn

from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import MethodError, ModelError, TrainingError, a_type
from ..recipe_and_method_registry import Recipe, checked_recipe, recipe_from
from .background_run import TrainingRun, run_displayed
from .schedules_and_methods import METHODS, FineTune, GradualPruning, Method, MethodName, Schedule, named
from .training_options import OF_METHOD, TrainingFields, TrainingOptions, TrainingSpec, options_from

REMAINING: Final = 0.8
"""The density of a round divided by that of the one before (Renda, Frankle, Carbin, arXiv 2003.02389)."""

_SPARSITY: Final = 0.9  # what `prune_and_retrain` arrives at where nothing is said

# Fields of methods and schedules, which may be taken for keywords, and how they are written.
_ELSEWHERE: Final = {kind: f"method={kind.__name__}({{}}=…)" for kind in METHODS.values()} | {
    Schedule: f"method={FineTune.__name__}(schedule={Schedule.__name__}({{}}=…))",
}


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
    channels: float | None = None,
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
    channels: float | None = None,
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
    channels: float | None = None,
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
            them. Its channels go round by round; which of them go together is seen on the first training example.
        method: how each round retrains; the paper's own is ``"learning_rate_rewinding"``, best with the schedule of the
            training, `LearningRateRewinding(Schedule(…))`. ``"gradual_pruning"`` prunes during a single one instead.
        sparsity, bits, channels: of the recipe; beside one they change it. All else a recipe may say is said in a
            `Recipe`.
        rounds: how many; by default 20 % of what remains are pruned in each; 1 is one-shot.
        options, resume, background, progress, fields: see `retrain`. `seed` is that of the training.

    Raises:
        as `retrain`, and RecipeError for what is no recipe or sparsity, MethodError for an importance that needs
            calibration data.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot prune {a_type(model)}: give the dense nn.Module")
    by = named(method, METHODS, "method", _of_method(fields))
    # someone who asks for channels alone wants no weights pruned beside them
    usual = _SPARSITY if recipe is None and sparsity is None and channels is None else recipe
    target = recipe_from(usual, {"sparsity": sparsity, "bits": bits, "channels": channels})
    if target.importance.calibrated:
        raise MethodError(
            f"importance {target.importance.kind!r} needs calibration data, and prune_and_retrain ranks by weights "
            f"alone: take sw.compress(model, recipe, calibration=train_data) first, then sw.retrain"
        )
    # One round, unless something else was asked for, and is refused below: gradual pruning has its own way there.
    recipes = iterative_recipes(target, 1 if isinstance(by, GradualPruning) and rounds is None else rounds)
    spec = TrainingSpec(model, train_data, eval_data, by, options_from(options, fields), recipes, resume)
    if isinstance(spec.training_method, GradualPruning):
        _check_gradual(recipes)
    return _done(spec, background, progress)


def _of_method(fields: TrainingFields) -> dict[str, Any]:
    """Return the keywords that change the method."""
    return {name: fields.get(name) for name in OF_METHOD}


def _done(spec: TrainingSpec, background: bool, progress: bool) -> CompressedModel | TrainingRun[CompressedModel]:
    if background:
        return TrainingRun[CompressedModel](spec).start()
    done: CompressedModel = run_displayed(spec, progress)
    return done


# The recipes of iterative pruning, one for every round


def iterative_recipes(target: Recipe | float, rounds: int | None = None) -> tuple[Recipe, ...]:
    """Return the recipes of the rounds that lead to a recipe, or to a sparsity; the last is the recipe itself.

    By default each round prunes 20 % of the weights, or of the channels, that remain, and the last what is missing. A
    given number of rounds prunes the same fraction in each; 1 is one-shot. Layers with a sparsity of their own follow
    at the same pace.
    Rounds before the last stay at 32 bits: weights are rounded once it is known which remain.

    Raises:
        RecipeError: for what is neither a recipe nor a sparsity.
        TrainingError: for a number of rounds that cannot be.
    """
    target = checked_recipe(target)
    if rounds is not None and (not isinstance(rounds, int) or rounds < 1):
        raise TrainingError(f"rounds={rounds!r} must be a whole number from 1, or None to prune a fifth in each")
    own = [
        override.get(field, 0.0)
        for override in target.layers.values()
        if isinstance(override, Mapping)
        for field in ("sparsity", "channels")
    ]
    density = 1 - max([target.sparsity, target.channels, *own])
    if density == 1 or _has_pattern(target):
        if rounds is not None and rounds > 1:
            why = "prunes nothing" if density == 1 else "has an n:m pattern, which is all or nothing"
            raise TrainingError(f"rounds={rounds}: {target!r} {why}: take rounds=1")
        return (target,)
    # How far each round but the last has come, from 0 to 1, counted in logarithms of the density, since that falls by
    # the same factor in every round.
    if rounds is None:
        step = math.log(REMAINING) / math.log(density)
        last = math.ceil(1 / step - 1e-9)  # a last round for a rounding error would be a training for nothing
        shares = [r * step for r in range(1, last)]
    else:
        shares = [r / rounds for r in range(1, rounds)]
    return (*(_on_the_way(target, share) for share in shares), target)


def _on_the_way(target: Recipe, share: float) -> Recipe:
    """Return the recipe of a round that has come so far to another."""

    def part(sparsity: float) -> float:
        return float(1 - (1 - sparsity) ** share)

    layers: dict[str, Any] = {}
    for name, override in target.layers.items():
        if isinstance(override, Mapping):
            override = {field: value for field, value in override.items() if field != "bits"}
            for field in ("sparsity", "channels"):
                if field in override:
                    override[field] = part(override[field])
        layers[name] = override
    sparsity, channels = part(target.sparsity), part(target.channels)
    return target.with_(sparsity=sparsity, channels=channels, bits=32, uncompressed_bits=32, layers=layers)


def _check_gradual(recipes: tuple[Recipe, ...]) -> None:
    """Raise a `TrainingError` for what cannot be pruned gradually: several rounds, n:m patterns, codebooks."""
    own = [o["quantizer"] for o in recipes[-1].layers.values() if isinstance(o, Mapping) and "quantizer" in o]
    if len(recipes) > 1:
        raise TrainingError(f"GradualPruning prunes in one round, not in {len(recipes)}: leave rounds out")
    if recipes[-1].removes_channels:
        raise TrainingError("GradualPruning removes no channels: take a method that retrains in rounds")
    if _has_pattern(recipes[-1]) or any(quantizer.shares_values for quantizer in (recipes[-1].quantizer, *own)):
        raise TrainingError(
            "GradualPruning can do neither n:m patterns nor codebooks: compress to them first, then retrain"
        )


def _has_pattern(recipe: Recipe) -> bool:
    """Tell whether a recipe has an n:m pattern anywhere."""
    own = [o["structure"] for o in recipe.layers.values() if isinstance(o, Mapping) and "structure" in o]
    return any(structure.sparsity is not None for structure in (recipe.structure, *own))
