"""Who does a spec: the one that trains, the one that measures batch norm's statistics, or the spec's own."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..analysis.parallel import Watch, never
from .batchnorm import BatchNormRecalibration
from .options import TrainingOptions
from .progress import Progress
from .retraining_methods import RecalibrateBatchNorm
from .trainer import Trainer
from .training_log import TrainingLog
from .training_spec import TrainingSpec


class AnyJob(Protocol):
    """What a run may be asked to do: a `TrainingSpec`, or a transfer."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained a copy of."""

    @property
    def options(self) -> TrainingOptions:
        """How it is trained."""

    @property
    def trains(self) -> bool:
        """Whether it trains, epoch by epoch."""

    @property
    def kind(self) -> str:
        """What it makes of a model, in a word."""

    @property
    def words(self) -> str:
        """What will have been done to the weights in the end."""


@runtime_checkable
class OwnTrainer(Protocol):
    """A spec that brings its own trainer."""

    def trainer(self, stopped: Watch, patience: float | None) -> AnyTrainer:
        """Return it."""


class AnyTrainer(Protocol):
    """What is driven step by step, by a `TrainingRun` or by `finished`."""

    @property
    def spec(self) -> AnyJob:
        """What was asked for."""

    @property
    def log(self) -> TrainingLog:
        """What it has done so far."""

    def steps(self) -> Generator[Progress, None, Any]:
        """Train, and return the result."""

    def best(self) -> Any:
        """Return the best result so far."""


def make_trainer(spec: AnyJob, stopped: Watch = never, patience: float | None = None) -> AnyTrainer:
    """Return the trainer of a spec; `stopped` is polled between its steps; `patience` as in `unblocked`."""
    if isinstance(spec, OwnTrainer):
        return spec.trainer(stopped, patience)
    assert isinstance(spec, TrainingSpec)
    if isinstance(spec.method, RecalibrateBatchNorm):
        return BatchNormRecalibration(spec, spec.method, stopped, patience)
    return Trainer(spec, stopped, patience)
