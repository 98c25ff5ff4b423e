"""Batch norm's statistics measured anew for the weights there are now: the cheapest recovery, without a label."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..analysis.parallel import Watch, never
from ..analysis.run_without_side_effects import call, device_of
from ..compressed_model import CompressedModel, compress
from ..compression.apply_recipe import copied
from ..errors import DataError, ModelError
from ..evaluation.batches import prepared, raw_batches, read_in_thread
from ..recipe import Recipe
from .progress import Progress, TrainingLog
from .schedules_and_methods import RecalibrateBatchNorm
from .training_options import TrainingSpec

_Norm: TypeAlias = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm


class BatchNormRecalibration:
    """Measures the statistics of every batch norm: the mean over all batches, each weighing the same.

    It is driven as a `Trainer` is. Codes, masks and scales stay what they are; only buffers change.
    """

    def __init__(
        self, spec: TrainingSpec, method: RecalibrateBatchNorm, stopped: Watch = never, patience: float | None = None
    ) -> None:
        self.spec = spec
        self.log = TrainingLog()
        self._stopped, self._patience = stopped, patience
        self._most = method.batches
        self._source = spec.source if isinstance(spec.source, CompressedModel) else compress(spec.source, Recipe())
        self._result = self._source
        if spec.options.checkpoint is not None or spec.resume:
            raise DataError("RecalibrateBatchNorm takes no checkpoint: it is over in one pass")
        if not _norms(spec.model):
            raise ModelError(f"there is no batch norm with running statistics in this {type(spec.model).__name__}")

    def best(self) -> CompressedModel:
        """Return the model with its new statistics, or, before all are measured, as it came."""
        return self._result

    def steps(self) -> Generator[Progress, None, CompressedModel]:
        """Measure, and return the result.

        Raises:
            DataError: for batches that do not fit the model, or none.
        """
        network = copied(self.spec.model)
        device, number = device_of(network), 0
        with recalibrating(network):
            data = self.spec.train_data
            batches = read_in_thread(_unlabelled(data), data, self._stopped, self._patience)
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
        provenance = "batch norm recalibrated"
        if self._source.provenance != "no retraining":
            provenance = f"{self._source.provenance}, then {provenance}"
        self._result = replace(self._source.with_uncompressed_from(network), provenance=provenance)
        return self._result


@contextmanager
def recalibrating(network: nn.Module) -> Iterator[None]:
    """Let every batch norm forget its statistics and take the plain mean over what it sees, all else in eval mode."""
    modes = [(module, module.training) for module in network.modules()]
    norms = [(norm, norm.momentum) for norm in _norms(network)]
    network.eval()
    for norm, _ in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's sign for the plain mean: a moving average would forget the first batches
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


def _unlabelled(data: object) -> Iterator[Any]:
    """Yield the batches of data in any form, also of inputs alone: a tensor, or an iterable of tensors.

    Targets that are missing are zeros, at which nobody looks. A list of two tensors is a pair of inputs and targets.
    """
    batches = raw_batches((data, torch.zeros(len(data))) if isinstance(data, Tensor) and data.ndim else data)
    for raw in batches:
        yield (raw, torch.zeros(len(raw))) if isinstance(raw, Tensor) and raw.ndim else raw
