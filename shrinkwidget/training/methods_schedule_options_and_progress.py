"""What a training is asked to do, its method, schedule and options, and what it tells: its progress and its log."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypedDict, get_args, runtime_checkable

import torch
from torch import Tensor, nn, optim
from torch.optim import Optimizer
from tqdm import tqdm

from ..argument_checks import checked_fields, meant
from ..compressed_model import CompressedModel
from ..errors import FileError, ModelError, TrainingError, a_type, nearest, quoted
from ..evaluation.batches_predictions_and_labels import LabelRules, as_pair, refuse_no_data
from ..evaluation.evaluate_and_metrics import Metric, MetricLike, Score, resolve
from ..recipe_and_method_registry import Recipe, checked_recipe

Decay: TypeAlias = Literal["step", "cosine", "constant"]
Trained: TypeAlias = list[nn.Parameter] | list[dict[str, Any]]
"""The parameters an optimizer is made of; in groups, as torch has them, where some have a rate of their own."""
OptimizerFactory: TypeAlias = Callable[[Any], Optimizer]
OptimizerLike: TypeAlias = str | type[Optimizer] | OptimizerFactory

_NAMED: Final[dict[str, Any]] = {
    "sgd": optim.SGD,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "rmsprop": optim.RMSprop,
}


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class Schedule:
    """How a network is trained from beginning to end.

    Args:
        epochs: passes over the training data.
        lr: the learning rate at its highest.
        optimizer: ``"sgd"``, ``"adam"``, ``"adamw"``, ``"rmsprop"``, a class such as ``torch.optim.NAdam``, or a
            function that makes an optimizer of a list of parameters; its groups keep their rates relative to each
            other.
        momentum, nesterov: of ``"sgd"``; momentum also of ``"rmsprop"``.
        weight_decay: of the optimizers with a name.
        decay: ``"step"`` multiplies the rate by `gamma` at every milestone, ``"cosine"`` lets it fall to zero along
            half a cosine (arXiv 1608.03983), ``"constant"`` leaves it.
        milestones: of ``"step"``; below 1 as a fraction of the epochs, from 1 on as an epoch.
        gamma: of ``"step"``.
        warmup: epochs in which the rate rises from zero in a straight line (arXiv 1706.02677).

    Raises:
        TrainingError: for a value out of range or an unknown name.

    Example:
        >>> import shrinkwidget as sw
        >>> schedule = sw.methods.Schedule(epochs=30, lr=0.1, milestones=(0.5, 0.75))
        >>> [round(schedule.lr_at(epoch), 4) for epoch in (0, 15, 29)]
        [0.1, 0.01, 0.001]
    """

    epochs: int = 30
    lr: float = 0.1
    optimizer: OptimizerLike = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True
    decay: Decay = "step"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0

    def __post_init__(self) -> None:
        # Floats in a tuple, whatever was given, so that equal schedules compare equal, and hash.
        object.__setattr__(self, "milestones", tuple(map(float, self.milestones)))
        check_whole(self.epochs, "Schedule", "epochs")
        check_rate(self.lr, "Schedule")
        given: object = self.optimizer
        if isinstance(given, Optimizer):
            kind = type(given).__name__
            raise TrainingError(
                f"Schedule(optimizer=…) is a {kind} of your own parameters, and a copy of the model is trained: give "
                f"the class, optimizer=torch.optim.{kind}, or a function, optimizer=lambda p: torch.optim.{kind}(p, "
                f"lr=0.1)"
            )
        # A class that has a name is taken for the name: momentum and weight decay of the schedule are to count for it.
        found = next((name for name, torch_class in _NAMED.items() if given is torch_class), given)
        if not callable(found):
            others = "a class of torch.optim, or a function of the parameters"
            object.__setattr__(self, "optimizer", checked_choice(found, tuple(_NAMED), "Schedule(optimizer=…)", others))
        object.__setattr__(self, "decay", checked_choice(self.decay, get_args(Decay), "Schedule(decay=…)"))
        if not 0 <= self.warmup < self.epochs:
            raise TrainingError(
                f"Schedule(warmup={self.warmup!r}) must be at least 0 and less than the {self.epochs} epochs"
            )

    def lr_at(self, progress: float) -> float:
        """Return the learning rate when `progress` epochs of the schedule are over: nothing but this sets the rate.

        Example:
            >>> import shrinkwidget as sw
            >>> schedule = sw.methods.Schedule(epochs=10, lr=0.1, decay="cosine")
            >>> schedule.lr_at(5)
            0.05
        """
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        # A function of the progress alone, without the counter of torch's schedulers: rewinding asks for an earlier
        # place, a resumed training for the one it was at.
        if self.decay == "cosine":
            share = min(1.0, (progress - self.warmup) / (self.epochs - self.warmup))
            return self.lr * (1 + math.cos(math.pi * share)) / 2
        if self.decay == "step":
            epochs = (m * self.epochs if m < 1 else m for m in self.milestones)
            # Milestones below 1 are fractions of the training, others epochs.
            return self.lr * self.gamma ** sum(progress >= m for m in epochs)
        return self.lr

    @property
    def last_lr(self) -> float:
        """The rate it ends with, or, where that is zero, the one its last epoch begins with."""
        return self.lr_at(self.epochs) or self.lr_at(self.epochs - 1)

    def optimizer_of(self, parameters: Trained) -> Optimizer:
        """Return a new optimizer of these parameters, its rate that of the schedule at its highest.

        Raises:
            TrainingError: if the function given as `optimizer` fails, or returns something else.

        Example:
            >>> import shrinkwidget as sw
            >>> schedule = sw.methods.Schedule(optimizer="adam", lr=0.001)
            >>> type(schedule.optimizer_of(sw.demo.model().parameters())).__name__
            'Adam'
        """
        if not callable(self.optimizer):
            settings: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
            if self.optimizer in ("sgd", "rmsprop"):
                settings["momentum"] = self.momentum
            if self.optimizer == "sgd":
                settings["nesterov"] = self.nesterov and self.momentum > 0  # torch refuses the one without the other
            made: Optimizer = _NAMED[self.optimizer](parameters, **settings)
            return made
        try:
            make: Callable[..., Optimizer] = self.optimizer
            # A class is given the rate; a function has chosen its own, which `TrainStep` scales as the schedule does.
            made = make(parameters, lr=self.lr) if isinstance(make, type) else make(parameters)
        except Exception as error:
            raise TrainingError(f"Schedule(optimizer=…) failed: {type(error).__name__}: {error}") from error
        if not isinstance(made, Optimizer):
            raise TrainingError(f"Schedule(optimizer=…) returned {a_type(made)}; expected an optimizer")
        return made


@dataclass(frozen=True, slots=True)
class Stage:
    """One training, from its first step to its last.

    `rate` gives the learning rate after so many epochs of the stage. `state_dict` are the weights it starts from, None
    for those there are. `share` gives the share of the recipe's sparsity that is pruned by then, None for all of it.
    `relative` says by what the rate is multiplied for the parameters that a module itself owns, by the module's name; 0
    freezes it, in eval mode, so that batch norm's statistics stay as they are, too.
    """

    epochs: int
    rate: Callable[[float], float]
    schedule: Schedule
    state_dict: Mapping[str, Tensor] | None = None
    share: Callable[[float], float] | None = None
    relative: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class TrainingMethod(Protocol):
    """What every method that trains is to the loop."""

    def stage(self) -> Stage:
        """Return its training."""

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class FineTune:
    """Keep training at a small rate: the usual way, and the baseline of the others.

    Args:
        epochs: for how long.
        lr: the rate; by default the last one of the schedule.
        schedule: of the original training, for its optimizer and its last rate.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> method = sw.methods.FineTune(epochs=2, lr=0.01)
        >>> sw.retrain(small, sw.demo.few(per_class=8), method=method).provenance
        'fine-tuned 2 epochs'
    """

    epochs: int = 10
    lr: float | None = None
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        check_whole(self.epochs, "FineTune", "epochs")
        if self.lr is not None:
            check_rate(self.lr, "FineTune")

    def stage(self) -> Stage:
        """Return its training."""
        # The last rate: the weights have settled, and a larger one would shake them as the training began to.
        rate = self.schedule.last_lr if self.lr is None else self.lr
        return Stage(self.epochs, lambda _: rate, self.schedule)

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"fine-tuned {epochs}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class LearningRateRewinding:
    """Keep the weights, turn the learning rate back to `epoch` of the schedule, and train to its end again.

    As in Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", arXiv 2003.02389,
    which rewinds to the start.

    Example:
        >>> import shrinkwidget as sw
        >>> schedule = sw.methods.Schedule(epochs=2, lr=0.05)  # that of the original training
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> method = sw.methods.LearningRateRewinding(schedule)
        >>> sw.retrain(small, sw.demo.few(per_class=8), method=method).provenance
        'retrained 2 epochs, learning rate rewound'
    """

    schedule: Schedule = field(default_factory=Schedule)
    epoch: int = 0

    def __post_init__(self) -> None:
        _check_epoch(self.epoch, self.schedule, "LearningRateRewinding")

    def stage(self) -> Stage:
        """Return its training."""
        return _from(self.schedule, self.epoch)

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"retrained {epochs}, learning rate rewound"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True, eq=False)
class WeightRewinding:
    """Turn the learning rate and the surviving weights back to `epoch` of the schedule, and train to its end again.

    As in Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", arXiv 1912.05671.

    Args:
        schedule: of the original training.
        state_dict: the state dict of that epoch; what it does not name keeps its value.
        epoch: the epoch to rewind to.

    Example:
        >>> import shrinkwidget as sw
        >>> schedule = sw.methods.Schedule(epochs=2, lr=0.05)
        >>> early = sw.demo.DigitNet().state_dict()  # as saved early in the original training
        >>> method = sw.methods.WeightRewinding(schedule, early)
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> sw.retrain(small, sw.demo.few(per_class=8), method=method).provenance
        'retrained 2 epochs, weights rewound to epoch 0'
    """

    schedule: Schedule
    state_dict: Mapping[str, Tensor]
    epoch: int = 0

    def __post_init__(self) -> None:
        _check_epoch(self.epoch, self.schedule, "WeightRewinding")
        if not isinstance(self.state_dict, Mapping) or not all(isinstance(x, Tensor) for x in self.state_dict.values()):
            raise TrainingError("WeightRewinding(state_dict=…) must be the state dict of an earlier epoch")

    def stage(self) -> Stage:
        """Return its training."""
        return _from(self.schedule, self.epoch, self.state_dict)

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"retrained {epochs}, weights rewound to epoch {self.epoch}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class GradualPruning:
    """Prune while training, along a cubic from nothing to the recipe's sparsity (Zhu, Gupta, arXiv 1710.01878).

    Args:
        schedule: of the whole training, from the dense model.
        begin, end: start and end of pruning, as fractions of the training; what remains recovers after the end.
        every: epochs between two prunings.

    Example:
        >>> import shrinkwidget as sw
        >>> method = sw.methods.GradualPruning(sw.methods.Schedule(epochs=2, lr=0.05))
        >>> small = sw.prune_and_retrain(sw.demo.model(), sw.demo.few(per_class=8), sparsity=0.9, method=method)
        >>> small.provenance, round(small.estimate.sparsity, 3)
        ('pruned gradually over 2 epochs', 0.9)
    """

    schedule: Schedule = field(default_factory=Schedule)
    begin: float = 0.0
    end: float = 0.75
    every: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1 or not self.every > 0:
            raise TrainingError(
                f"GradualPruning(begin={self.begin!r}, end={self.end!r}, every={self.every!r}): "
                f"it must be 0 <= begin < end <= 1, and every above 0"
            )

    def stage(self) -> Stage:
        """Return its training."""
        return Stage(self.schedule.epochs, self.schedule.lr_at, self.schedule, share=self.share_at)

    def share_at(self, progress: float) -> float:
        """Return which share of the final sparsity is pruned after `progress` epochs: equation 1 of the paper.

        Example:
            >>> import shrinkwidget as sw
            >>> method = sw.methods.GradualPruning(sw.methods.Schedule(epochs=10), end=1.0)
            >>> [round(method.share_at(epoch), 3) for epoch in (0, 5, 10)]
            [0.0, 0.875, 1.0]
        """
        # The share grows in stairs: ranking all weights at every step would cost more than the step.
        last = progress // self.every * self.every / self.schedule.epochs
        past = min(1.0, max(0.0, (last - self.begin) / (self.end - self.begin)))
        return 1 - (1 - past) ** 3

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"pruned gradually over {epochs}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class RecalibrateBatchNorm:
    """Recompute BatchNorm running statistics for the current weights; needs no labels and no gradient.

    Args:
        batches: at most so many are run; None for all.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
        >>> sw.retrain(small, sw.demo.data("train"), method=sw.methods.RecalibrateBatchNorm(batches=4)).provenance
        'batch norm recalibrated'
    """

    batches: int | None = None

    def __post_init__(self) -> None:
        if self.batches is not None:
            check_whole(self.batches, "RecalibrateBatchNorm", "batches")


Method: TypeAlias = TrainingMethod | RecalibrateBatchNorm
MethodName: TypeAlias = Literal["finetune", "learning_rate_rewinding", "gradual_pruning", "recalibrate_batchnorm"]

METHODS: Final[Mapping[str, type[Any]]] = {
    "finetune": FineTune,
    "learning_rate_rewinding": LearningRateRewinding,
    "weight_rewinding": WeightRewinding,
    "gradual_pruning": GradualPruning,
    "recalibrate_batchnorm": RecalibrateBatchNorm,
}
"""The methods by the names under which they have their defaults."""


def named(found: Any, classes: Mapping[str, type[Any]], argument: str, changes: Mapping[str, Any]) -> Any:
    """Return the method, or strategy, that a name, a class or an object means, with some of its settings changed.

    What it has no field for itself (`optimizer`, of a `FineTune`) is changed in its schedule. An object that is none of
    these classes is returned as it is.

    >>> named("Fine-Tune", METHODS, "method", {"epochs": 3, "lr": 0.1, "optimizer": "adam"}).schedule.optimizer
    'adam'

    Raises:
        TrainingError: for an unknown name, one whose class needs more than a name, or a setting it does not have.
    """
    if isinstance(found, str):
        name = checked_choice(found, tuple(classes), f"{argument}=…", "or an object such as those in sw.methods")
        found = classes[name]
    if isinstance(found, type) and found in classes.values():
        # WeightRewinding, say, cannot be meant by its name alone: nobody else has the weights of the early epoch.
        needed = [f.name for f in fields(found) if f.default is MISSING and f.default_factory is MISSING]
        if needed:
            example = f"{found.__name__}({', '.join(f'{name}=…' for name in needed)})"
            raise TrainingError(f"{argument}: {found.__name__} needs more than its name, write {argument}={example}")
        found = found()
    changes = {name: value for name, value in changes.items() if value is not None}  # None: not given
    if not changes:
        return found
    # An object of the user's own may be anything: nothing is changed in it.
    own = [f.name for f in fields(found)] if type(found) in classes.values() else []
    of_schedule = {name: value for name, value in changes.items() if name not in own}
    of_itself = {name: value for name, value in changes.items() if name in own}
    if of_schedule and "schedule" not in own:
        name = next(iter(of_schedule))
        raise TrainingError(f"{type(found).__name__} does not take {name}=…: leave it out, or take another {argument}")
    if of_schedule:
        of_itself["schedule"] = replace(found.schedule, **of_schedule)
    return replace(found, **of_itself)


def _from(schedule: Schedule, to: int, state_dict: Mapping[str, Tensor] | None = None) -> Stage:
    return Stage(schedule.epochs - to, lambda progress: schedule.lr_at(to + progress), schedule, state_dict)


def _check_epoch(to: int, schedule: Schedule, where: str) -> None:
    if not isinstance(to, int) or not 0 <= to < schedule.epochs:
        raise TrainingError(f"{where}(epoch={to!r}) must be an epoch of the schedule, 0 to {schedule.epochs - 1}")


def check_whole(found: Any, where: str, name: str) -> None:
    """Raise a `TrainingError` unless it is a whole number from 1."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise TrainingError(f"{where}({name}={found!r}) must be a whole number from 1")


def check_rate(lr: Any, where: str, name: str = "lr") -> None:
    """Raise a `TrainingError` unless it is a finite number above zero."""
    if not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise TrainingError(f"{where}({name}={lr!r}) must be a number above 0")


def checked_choice(found: Any, choices: tuple[str, ...], where: str, otherwise: str = "") -> str:
    """Return the choice that is meant, in whatever case it is written; raise a `TrainingError` naming the nearest."""
    if (choice := meant(found, choices)) is None:
        names = ", ".join(map(repr, choices)) + (f", {otherwise}" if otherwise else "")
        raise TrainingError(f"{where} must be {names}, got {quoted(found)}{nearest(str(found), choices)}")
    return choice


# ---- the recipes of iterative pruning, one for every round ----

REMAINING: Final = 0.8
"""The density of a round divided by that of the one before (Renda, Frankle, Carbin, arXiv 2003.02389)."""


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


# ---- options, and the whole request ----


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
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise TrainingError(f"TrainingOptions(seed={self.seed!r}) must be a whole number")
        for name in ("overwrite", "channels_last"):
            if not isinstance(getattr(self, name), bool):
                raise TrainingError(f"TrainingOptions({name}={getattr(self, name)!r}) must be True or False")
        if self.augment is not None and not callable(self.augment):
            raise TrainingError(f"TrainingOptions(augment=…) must be a function of inputs, got {a_type(self.augment)}")
        teacher: object = self.distillation
        if teacher is not None and not isinstance(teacher, Distillation):
            raise TrainingError(
                f"TrainingOptions(distillation=…) is {a_type(teacher)}: give sw.methods.Distillation(teacher)"
            )
        if self.checkpoint is not None and not isinstance(self.checkpoint, str | os.PathLike):
            raise TrainingError(f"checkpoint={self.checkpoint!r} must be the path of a file")
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
        raise TrainingError(f"options must be sw.methods.TrainingOptions(…), got {a_type(options)}")
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
                "resume=True goes on from the training's own checkpoint, and none is named: give checkpoint=…"
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


# ---- progress, and the log of epochs and rounds ----


Phase: TypeAlias = Literal["prune", "features", "train", "test", "checkpoint", "norms", "compensate"]


_WITHOUT_EPOCHS: Final[dict[Phase, str]] = {"norms": "batch norm", "compensate": "error compensation"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Args:
        phase: what it is doing.
        round, rounds: from 1; a plain retraining is one round.
        epoch, epochs: of the round, from 1; 0 before the first.
        step, steps: of the epoch, from 1; `steps` is None where the data does not say.
        examples: seen in the epoch so far.
        loss: mean over the epoch so far; None before the first step.
        train: the metric on the training batches of the epoch so far; None before there is a label to score.
        test: the score of `eval_data`, so far while the phase is "test"; None without it.
        lr: the learning rate of the last step.
        sparsity: fraction of the compressible weights that is pruned.
        nbytes, ratio: of the file `save` would write, and by how much that is smaller than the dense one.
        rate: examples per second, in training.
        eta: seconds to the end of all rounds; None while nobody can tell.
        stage: what the round is called, where it is a stage of a transfer; "" else.
        epochs_by_round: of every round, where they differ; () where all have as many as this one.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
        >>> run.wait(), run.progress.epoch, run.progress.steps
        (True, 1, 2)
    """

    phase: Phase
    round: int
    rounds: int
    epochs: int
    epoch: int = 0
    step: int = 0
    steps: int | None = None
    examples: int = 0
    loss: float | None = None
    train: float | None = None
    test: Score | None = None
    lr: float | None = None
    sparsity: float = 0.0
    nbytes: int | None = None
    ratio: float | None = None
    rate: float | None = None
    eta: float | None = None
    stage: str = ""
    epochs_by_round: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """Where it is: ``"round 2/12, epoch 3/30"``."""
        if self.phase in _WITHOUT_EPOCHS:
            return _WITHOUT_EPOCHS[self.phase]
        rounds = f"{self.stage}, " if self.stage else f"round {self.round}/{self.rounds}, " if self.rounds > 1 else ""
        return f"{rounds}epoch {self.epoch}/{self.epochs}"

    @property
    def plan(self) -> str:
        """What the whole training takes: ``"12 rounds × 30 epochs × 45 steps = 16,200 steps"``."""
        if len(set(self.epochs_by_round)) > 1:
            return f"{self.rounds} stages of {' + '.join(map(str, self.epochs_by_round))} epochs"
        counts = [(self.rounds, "stage" if self.stage else "round"), (self.epochs, "epoch"), (self.steps, "step")]
        factors = [f"{n:,} {what}{'s' * (n != 1)}" for n, what in counts if n and (n > 1 or what != "round")]
        steps = self.rounds * self.epochs * (self.steps or 0)
        total = f" = {steps:,} step{'s' * (steps != 1)}" if self.steps and len(factors) > 1 else ""
        return " × ".join(factors) + total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> run.wait(), run.progress.to_dict()["epoch"]
            (True, 1)
        """
        return asdict(replace(self, test=None)) | {"test": self.test and self.test.to_dict()}


def duration(seconds: float) -> str:
    """Return a time as people say it: ``"48 s"``, ``"2 min"``, ``"1 h 12 min"``, ``"2 d 13 h"``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


class StepTimer:
    """Counts the seconds a training works, without those it is paused, and what it does in them."""

    def __init__(self) -> None:
        self._busy = 0.0
        self._since: float | None = None
        self._steps = 0
        self._first = 0.0

    def go(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def rest(self) -> None:
        """Stop counting."""
        self._busy, self._since = self.seconds, None

    def stepped(self) -> None:
        """Count one step of training."""
        self._steps += 1
        if self._steps == 1:
            self._first = self.seconds

    @property
    def seconds(self) -> float:
        """Seconds at work."""
        return self._busy + (0.0 if self._since is None else time.perf_counter() - self._since)

    def eta(self, steps_left: int | None) -> float | None:
        """Return the seconds that so many more steps will take, with the tests among them; None before the second."""
        if steps_left is None or self._steps < 2:
            return None
        # All the time at work, not that of the steps alone: so what tests and checkpoints take is in the mean. The
        # first step is not: it allocates memory or compiles kernels, and may take a hundred times as long as another.
        return (self.seconds - self._first) / (self._steps - 1) * steps_left


@dataclass(frozen=True, slots=True, eq=False)
class BestWeights:
    """The weights `stop` returns: the best epoch of the current round, or the end of the round before.

    `state` holds every parameter and buffer by name, as they are trained: not yet rounded to their grid. They have
    trained `epoch` epochs of round `round` (from 0); `value` is their score, None without `eval_data`.
    """

    state: dict[str, Tensor]
    round: int
    epoch: int
    value: float | None

    def beats(self, other: BestWeights | None, metric: Metric) -> bool:
        """Tell whether this is to be kept instead of another; of two equally good epochs of a round, the later."""
        # Weights of an earlier round are of another recipe, less sparse, and no measure for these.
        if other is None or other.round != self.round or self.value is None or other.value is None:
            return True
        # "≥": of two equally good epochs the later has seen more data.
        return self.value >= other.value if metric.higher else self.value <= other.value


@dataclass(slots=True)
class TrainingLog:
    """What a training has done: `epoch` epochs of round `round` (from 0) are complete.

    `history` has an entry for every epoch, `points` one for every round, plain and JSON-able both; `baseline` is the
    score before training.
    """

    round: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] | None = None
    best: BestWeights | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: all but the best weights themselves."""
        best = None if self.best is None else [self.best.round, self.best.epoch, self.best.value]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"best": best}

    @classmethod
    def from_dict(cls, found: Any, best: dict[str, Tensor], rounds: int, epochs: int) -> TrainingLog:
        """Read what `to_dict` wrote, given the best weights, for a training of so many rounds of so many epochs.

        Raises:
            FileError: for a log that no such training has written.
        """
        if not isinstance(found, dict) or set(found) != {f.name for f in fields(cls)}:
            raise FileError("its log is not that of a training")
        round_, epoch, history, points = (found[name] for name in ("round", "epoch", "history", "points"))
        # A file may be forged or cut by hand: a log is taken only if it is what so many epochs would have written.
        places = [(r + 1, e + 1) for r in range(rounds) for e in range(epochs)]
        done = type(round_) is int and type(epoch) is int and round_ * epochs + epoch
        if not (
            0 <= done <= len(places)
            and 0 <= epoch < epochs
            and _rows(history, HISTORY_ROW, places[:done])
            and _rows(points, POINT_ROW, [(r + 1,) for r in range(round_)])
            and (found["baseline"] is None or _is_score(found["baseline"]))
            and _is_best(found["best"], places[:done])
        ):
            raise FileError(f"its log is not one of {rounds} round{'s' * (rounds != 1)} of {epochs} epochs")
        return cls(**found | {"best": found["best"] and BestWeights(best, *found["best"])})


HISTORY_ROW: Final = ("round", "epoch", "step", "examples", "loss", "train", "test", "lr", "sparsity", "seconds")
"""The columns of the history, one row per epoch."""
POINT_ROW: Final = ("round", "nbytes", "ratio", "sparsity", "sqnr", "macs", "test")
"""The columns of the points, one row per round."""


def _rows(found: Any, names: tuple[str, ...], places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether rows are of these places, in order, and hold numbers, or a score for a test."""
    if not isinstance(found, list) or len(found) != len(places):
        return False
    for row, place in zip(found, places, strict=True):
        if not isinstance(row, dict) or set(row) != set(names):
            return False
        if tuple(row[name] for name in names[: len(place)]) != place:
            return False
        if not all(_is_number(x) or (name == "test" and _is_score(x)) for name, x in row.items()):
            return False
    return True


def _is_number(found: Any) -> bool:
    return found is None or (isinstance(found, int | float) and not isinstance(found, bool))


def _is_score(found: Any) -> bool:
    if not isinstance(found, dict) or {f.name for f in fields(Score)} - {"by_class"} != set(found):
        return False
    numbers = all(_is_number(found[name]) for name in ("value", "low", "high", "n", "total"))
    texts = all(isinstance(found[name], str) for name in ("metric", "provenance", "checksum"))
    flags = all(isinstance(found[name], bool) for name in ("done", "percent", "higher"))
    warnings = found["warnings"]
    return (
        numbers and texts and flags and isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)
    )


def _is_best(found: Any, places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether the best weights are of one of the epochs that were trained, as they must be once there is one."""
    if not places:
        return found is None
    if not isinstance(found, list) or len(found) != 3 or not _is_number(found[2]):
        return False
    return type(found[0]) is int and (found[0] + 1, found[1]) in places


# ---- what a terminal shows: a bar, or lines where stderr is no terminal ----

_LINE_SECONDS: Final = 10.0  # between two lines about complete epochs


_LONG_SECONDS: Final = 60.0  # after so long within an epoch a line tells that it goes on


# After so many seconds or steps the time that a training takes is known well enough to say it: the first steps are
# slower than the rest, by a factor of ten where memory is allocated or kernels are compiled.
_PLAN_SECONDS: Final = 1.0


_PLAN_STEPS: Final = 20


class ProgressLines:
    """Says once what a training takes, then how far it is: in a bar, or in lines where there is no terminal."""

    def __init__(self, title: str, bar: tqdm[None]) -> None:
        self._title, self._bar = title, bar
        self._began = self._told = time.monotonic()
        self._first_step: float | None = None
        self._steps = 0
        self._planned = False
        self._last: Progress | None = None

    def tell(self, now: Progress) -> None:
        """Take note of progress, and tell what is due."""
        last, self._last = self._last, now
        if now.phase == "train":
            self._steps += 1
            self._first_step = self._first_step or time.monotonic()
            known = self._steps >= _PLAN_STEPS or time.monotonic() - self._first_step >= _PLAN_SECONDS
            if not self._planned and (known or now.step == now.steps):
                self._planned = True
                about = "" if now.eta is None else f", about {duration(now.eta)}"
                tqdm.write(f"training {self._title}: {now.plan}{about}", file=sys.stderr)
        if not self._bar.disable:
            # Stages of a transfer differ in their steps, and nobody knows yet how many the later ones have.
            known = now.steps is not None and len(set(now.epochs_by_round)) < 2
            self._bar.total = now.rounds * now.epochs * (now.steps or 0) if known else None
            if now.phase == "train":
                self._bar.update()
            elif now.phase == "compensate":
                self._bar.n = now.step
            self._bar.set_description(now.place, refresh=False)
            self._bar.set_postfix_str(", ".join(_figures(now)), refresh=False)
        elif last is not None and last.epoch and (last.round, last.epoch) != (now.round, now.epoch):
            self._line(last, _LINE_SECONDS)
        else:
            self._line(now, _LONG_SECONDS)

    def end(self) -> None:
        """Tell what came of it."""
        if self._bar.disable and self._last is not None:
            seconds = duration(time.monotonic() - self._began)
            sys.stderr.write(f"{self._last.place}: {', '.join(_figures(self._last))}, done in {seconds}\n")

    def _line(self, now: Progress, after: float) -> None:
        if time.monotonic() - self._told >= after:
            self._told = time.monotonic()
            left = "" if not now.eta else f", about {duration(now.eta)} left"
            sys.stderr.write(f"{now.place}: {', '.join(_figures(now))}{left}\n")


def _figures(now: Progress) -> list[str]:
    if now.phase == "compensate":
        return [f"layer {now.step:,} of {now.steps:,}"]
    if now.phase == "norms":  # nothing is pruned or trained meanwhile
        return [f"statistics of {now.step:,} batch{'es' * (now.step != 1)}"]
    figures = [f"{now.sparsity:.1%} sparse"]
    if now.loss is not None:
        figures.append(f"loss {now.loss:.3f}")
    if now.test is not None:
        figures.append(f"validation {now.test.metric} {now.test.text}")
    return figures
