"""The schedule of a training, given once, so that rewinding can replay it: optimizer, rates, epochs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args

from torch import nn, optim
from torch.optim import Optimizer

from ..argument_checks import checked_fields, meant
from ..errors import TrainingError, nearest, quoted

Decay: TypeAlias = Literal["step", "cosine", "constant"]
Trained: TypeAlias = list[nn.Parameter] | list[dict[str, Any]]
"""The parameters an optimizer is made of; in groups, as torch has them, where some have a rate of their own."""
OptimizerFactory: TypeAlias = Callable[[Any], Optimizer]
OptimizerLike: TypeAlias = str | type[Optimizer] | OptimizerFactory


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
        object.__setattr__(self, "milestones", tuple(map(float, self.milestones)))
        check_whole(self.epochs, "Schedule", "epochs")
        check_rate(self.lr, "Schedule")
        found = _name_of(self.optimizer)
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
        if self.decay == "cosine":
            share = min(1.0, (progress - self.warmup) / (self.epochs - self.warmup))
            return self.lr * (1 + math.cos(math.pi * share)) / 2
        if self.decay == "step":
            epochs = (m * self.epochs if m < 1 else m for m in self.milestones)
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
            return _NAMED[self.optimizer](self, parameters)
        try:
            make: Callable[..., Optimizer] = self.optimizer
            made = make(parameters, lr=self.lr) if isinstance(make, type) else make(parameters)
        except Exception as error:
            raise TrainingError(f"Schedule(optimizer=…) failed: {type(error).__name__}: {error}") from error
        if not isinstance(made, Optimizer):
            raise TrainingError(f"Schedule(optimizer=…) returned a {type(made).__name__}; expected an optimizer")
        return made


def _sgd(schedule: Schedule, parameters: Trained) -> Optimizer:
    return optim.SGD(
        parameters,
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.nesterov and schedule.momentum > 0,
    )


def _adam(schedule: Schedule, parameters: Trained) -> Optimizer:
    return optim.Adam(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)


def _adamw(schedule: Schedule, parameters: Trained) -> Optimizer:
    return optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)


def _rmsprop(schedule: Schedule, parameters: Trained) -> Optimizer:
    return optim.RMSprop(parameters, lr=schedule.lr, momentum=schedule.momentum, weight_decay=schedule.weight_decay)


_CLASSES: Final = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW, "rmsprop": optim.RMSprop}
_NAMED: Final[dict[str, Callable[[Schedule, Trained], Optimizer]]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adamw,
    "rmsprop": _rmsprop,
}


def check_whole(found: Any, where: str, name: str) -> None:
    """Raise a `TrainingError` unless it is a whole number from 1."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise TrainingError(f"{where}({name}={found!r}) must be a whole number from 1")


def check_rate(lr: Any, where: str, name: str = "lr") -> None:
    """Raise a `TrainingError` unless it is a finite number above zero."""
    if not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise TrainingError(f"{where}({name}={lr!r}) must be a number above 0")


def _name_of(optimizer: object) -> object:
    """Return the name of an optimizer's class if it has one, all else as it is; refuse one that is made already."""
    if isinstance(optimizer, Optimizer):
        kind = type(optimizer).__name__
        raise TrainingError(
            f"Schedule(optimizer=…) is a {kind} of your own parameters, and a copy of the model is trained: give the "
            f"class, optimizer=torch.optim.{kind}, or a function, optimizer=lambda p: torch.optim.{kind}(p, lr=0.1)"
        )
    return next((name for name, torch_class in _CLASSES.items() if optimizer is torch_class), optimizer)


def checked_choice(found: Any, choices: tuple[str, ...], where: str, otherwise: str = "") -> str:
    """Return the choice that is meant, in whatever case it is written; raise a `TrainingError` naming the nearest."""
    if (choice := meant(found, choices)) is None:
        names = ", ".join(map(repr, choices)) + (f", {otherwise}" if otherwise else "")
        raise TrainingError(f"{where} must be {names}, got {quoted(found)}{nearest(str(found), choices)}")
    return choice
