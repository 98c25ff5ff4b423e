"""How a network is trained: the schedule (optimizer, learning rate, epochs), and the methods of retraining it by one.

A method says for how long, at what rate, and from which weights a pruned network is retrained. The schedule is that of
the original training, given once, so that rewinding can replay it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, Final, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from torch import Tensor, nn, optim
from torch.optim import Optimizer

from ..argument_checks import checked_fields, meant
from ..errors import TrainingError, a_type, nearest, quoted

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
