"""How a pruned network is retrained: each method says for how long, at what rate, and from which weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from ..argument_checks import checked_fields
from ..errors import TrainingError
from .training_schedule import Schedule, check_rate, check_whole, checked_choice


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
        needed = [f.name for f in fields(found) if f.default is MISSING and f.default_factory is MISSING]
        if needed:
            example = f"{found.__name__}({', '.join(f'{name}=…' for name in needed)})"
            raise TrainingError(f"{argument}: {found.__name__} needs more than its name, write {argument}={example}")
        found = found()
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return found
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
