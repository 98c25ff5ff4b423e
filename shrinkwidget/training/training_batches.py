"""Training data, batch by batch: shuffled by a seed, augmented, on the model's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..analysis.parallel import Watch, never
from ..analysis.run_without_side_effects import device_of, reason
from ..errors import DataError
from ..evaluation.batches import Batch, as_pair, prepared, raw_batches, read_in_thread, refuse_no_data
from .options import TrainingOptions


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatches:
    """The batches a model is trained on, epoch by epoch.

    Raises:
        DataError: for what gives no batches.
    """

    data: object
    options: TrainingOptions

    def __post_init__(self) -> None:
        if as_pair(self.data) is None:
            refuse_no_data(self.data, "train")

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, None where only reading them would tell."""
        if (pair := as_pair(self.data)) is not None:
            return ceil(len(pair[1]) / self.options.batch_size)
        if (dataset := _mapped(self.data)) is not None:
            return ceil(len(dataset) / self.options.batch_size)
        return _length(self.data)

    def epoch(
        self, model: nn.Module, seed: int, stopped: Watch = never, patience: float | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch, ready to run; the order of a pair or a dataset follows from the seed.

        With `patience`, see `read_in_thread`.

        Raises:
            Cancelled: when `stopped` says so while a batch is waited for.
            DataError: for data that fails, or a batch that does not fit the model, naming the batch.
        """
        device = device_of(model)
        number = 0
        for number, raw in enumerate(read_in_thread(self._raw(seed), self.data, stopped, patience), start=1):
            try:
                yield self._laid_out(self._augmented(prepared(raw, model, device)))
            except DataError as error:
                raise DataError(f"batch {number}: {error}") from error.__cause__
        if not number:
            raise DataError(_empty(self.data))

    def _raw(self, seed: int) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(seed)
        if (pair := as_pair(self.data)) is not None:
            return _chosen(*pair, _shuffled(len(pair[1]), self.options.batch_size, generator))
        if (dataset := _mapped(self.data)) is not None:
            order = _shuffled(len(dataset), self.options.batch_size, generator)
            return raw_batches(DataLoader(dataset, batch_sampler=[places.tolist() for places in order]), seed)
        return raw_batches(self.data, seed)

    def _augmented(self, batch: Batch) -> Batch:
        if self.options.augment is None:
            return batch
        if len(batch.args) != 1 or batch.kwargs:
            raise DataError(
                "TrainingOptions(augment=…) takes the model's only input, but the batch has several or named ones"
            )
        try:
            return replace(batch, args=(self.options.augment(batch.args[0]),))
        except Exception as error:
            raise DataError(f"TrainingOptions(augment=…) failed: {reason(error)}") from error

    def _laid_out(self, batch: Batch) -> Batch:
        if not self.options.channels_last:
            return batch
        return replace(batch, args=tuple(map(channels_last, batch.args)))


def unlabelled(data: object) -> Iterator[Any]:
    """Yield the batches of data in any form, also of inputs alone: a tensor, or an iterable of tensors.

    Targets that are missing are zeros, at which nobody looks. A list of two tensors is a pair of inputs and targets.
    """
    batches = raw_batches((data, torch.zeros(len(data))) if isinstance(data, Tensor) and data.ndim else data)
    for raw in batches:
        yield (raw, torch.zeros(len(raw))) if isinstance(raw, Tensor) and raw.ndim else raw


def channels_last(value: Any) -> Any:
    """Return a batch of images (N×C×H×W) laid out with the channels last, anything else as it is."""
    if isinstance(value, Tensor) and value.ndim == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value


def _shuffled(n: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the indices of n examples in batches of nearly equal size: a single example cannot be normalized over."""
    return torch.randperm(n, generator=generator).tensor_split(ceil(n / batch)) if n else ()


def _chosen(inputs: Tensor, targets: Tensor, batches: Iterable[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    for places in batches:
        yield inputs[places.to(inputs.device)], targets[places.to(targets.device)]


def _mapped(data: object) -> Any:
    """Return a dataset that can be shuffled and counted, None for all other data."""
    mapped = isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__")
    return data if mapped else None


def _length(data: object) -> int | None:
    try:
        return len(data) if isinstance(data, Sized) else None
    except TypeError:  # a loader of an iterable dataset has the method, and no answer
        return None


def _empty(data: object) -> str:
    if isinstance(data, Iterator):
        return "the data gave no batch: an iterator can be read only once; pass a list of batches or a DataLoader"
    return "the data is empty: there is no batch to train on"
