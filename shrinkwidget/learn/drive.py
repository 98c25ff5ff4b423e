"""Who does a job: the one that trains, the one that measures batch norm's statistics, or the job's own."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ..measure.parallel import Watch, never
from .job import Job
from .log import Log
from .loop import Trainer
from .methods import ReestimateNorms
from .norms import NormTrainer
from .options import Training
from .progress import Progress


class AnyJob(Protocol):
    """What a run may be asked to do: a `Job`, or a transfer."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained a copy of."""

    @property
    def options(self) -> Training:
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
    """A job that brings its own trainer."""

    def trainer(self, stopped: Watch, patience: float | None) -> AnyTrainer:
        """Return it."""


class AnyTrainer(Protocol):
    """What is driven step by step, by a `Run` or by `finished`."""

    @property
    def job(self) -> AnyJob:
        """What was asked for."""

    @property
    def log(self) -> Log:
        """What it has done so far."""

    def steps(self) -> Generator[Progress, None, Any]:
        """Train, and return the result."""

    def best(self) -> Any:
        """Return the best result so far."""


def trainer_of(job: AnyJob, stopped: Watch = never, patience: float | None = None) -> AnyTrainer:
    """Return the trainer of a job; `stopped` is polled between its steps; `patience` as in `unblocked`."""
    if isinstance(job, OwnTrainer):
        return job.trainer(stopped, patience)
    assert isinstance(job, Job)
    if isinstance(job.method, ReestimateNorms):
        return NormTrainer(job, job.method, stopped, patience)
    return Trainer(job, stopped, patience)
