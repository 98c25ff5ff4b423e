"""Who does a job: the one that trains, or the one that measures batch norm's statistics."""

from __future__ import annotations

from typing import TypeAlias

from ..measure.parallel import Watch, never
from .job import Job
from .loop import Trainer
from .methods import ReestimateNorms
from .norms import NormTrainer

AnyTrainer: TypeAlias = Trainer | NormTrainer


def trainer_of(job: Job, stopped: Watch = never, patience: float | None = None) -> AnyTrainer:
    """Return the trainer of a job; `stopped` is polled between its steps; `patience` as in `unblocked`."""
    if isinstance(job.method, ReestimateNorms):
        return NormTrainer(job, job.method, stopped, patience)
    return Trainer(job, stopped, patience)
