"""Batch norm's statistics measured anew for the weights there are now: the cheapest recovery, without a label."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import TypeAlias

import torch
from torch import nn

from ..compressed import Compressed, compress
from ..errors import DataError, ModelError
from ..measure.call import call, device_of
from ..measure.parallel import Watch, never
from ..recipe import Recipe
from ..shrink.compress import copied
from ..train.batches import prepared
from ..train.reader import unblocked
from .feed import unlabelled
from .job import Job
from .log import Log
from .methods import ReestimateNorms
from .progress import Progress

_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


class NormTrainer:
    """Measures the statistics of every batch norm: the mean over all batches, each weighing the same.

    It is driven as a `Trainer` is. Codes, masks and scales stay what they are; only buffers change.
    """

    def __init__(
        self, job: Job, method: ReestimateNorms, stopped: Watch = never, patience: float | None = None
    ) -> None:
        self.job = job
        self.log = Log()
        self._stopped, self._patience = stopped, patience
        self._most = method.batches
        self._source = job.source if isinstance(job.source, Compressed) else compress(job.source, Recipe())
        self._result = self._source
        if job.options.checkpoint is not None or job.resume:
            raise DataError("ReestimateNorms takes no checkpoint: it is over in one pass")
        if not _norms(job.model):
            raise ModelError(f"there is no batch norm with running statistics in this {type(job.model).__name__}")

    def best(self) -> Compressed:
        """Return the model with its new statistics, or, before all are measured, as it came."""
        return self._result

    def steps(self) -> Generator[Progress, None, Compressed]:
        """Measure, and return the result.

        Raises:
            DataError: for batches that do not fit the model, or none.
        """
        network = copied(self.job.model)
        device, number = device_of(network), 0
        with measuring(network):
            data = self.job.train_data
            batches = unblocked(unlabelled(data), data, self._stopped, self._patience)
            for number, raw in enumerate(islice(batches, self._most), start=1):
                if self._stopped():
                    return self.best()
                try:
                    batch = prepared(raw, network, device)
                    with torch.no_grad():
                        call(network, batch.args, batch.kwargs)
                except DataError as error:
                    raise DataError(f"batch {number}: {error}") from error.__cause__
                yield Progress("norms", 1, 1, 1, 1, number)
        if not number:
            raise DataError("the data is empty: there is no batch to measure")
        regime = "batch norm re-estimated"
        if self._source.regime != "no retraining":
            regime = f"{self._source.regime}, then {regime}"
        self._result = replace(self._source.with_kept_of(network), regime=regime)
        return self._result


@contextmanager
def measuring(network: nn.Module) -> Iterator[None]:
    """Let every batch norm forget its statistics and take the plain mean over what it sees, all else in eval mode."""
    modes = [(module, module.training) for module in network.modules()]
    norms = [(norm, norm.momentum) for norm in _norms(network)]
    network.eval()
    for norm, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        for module, training in modes:
            module.training = training


def _norms(network: nn.Module) -> list[_Norm]:
    """Return every batch norm that has running statistics."""
    return [norm for norm in network.modules() if isinstance(norm, _Norm) and norm.running_mean is not None]
