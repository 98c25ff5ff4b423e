"""A reproducible subset of a data set, held in memory so that many evaluations read it only once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from ..analysis.tensor_ops_threads_and_cpu_kernel import never
from ..errors import ArgumentError
from .batches_predictions_and_labels import as_pair, count, own_loader, raw_batches, read_in_thread

_MOST_HELD: Final = 1 << 30
"""Bytes of batches that are held when all of the data is asked for; of more, every evaluation reads the data again."""


@dataclass(frozen=True, slots=True, eq=False)
class DataSubset:
    """Some examples of a data set, in a form that `evaluate` takes as often as it likes.

    `text` says which: ``"all 287 examples"``, ``"1,000 of 50,000 examples, drawn with seed 0"``. `n` is their number,
    None where the data is too large to be held, and tells none.
    """

    data: object
    text: str
    n: int | None


def checked_samples(samples: object, where: str) -> int | None:
    """Return how many examples to draw, None for all.

    Raises:
        ArgumentError: for what is not a whole number from 1.
    """
    if samples is not None and (type(samples) is not int or samples < 1):
        raise ArgumentError(f"{where}(samples={samples!r}) must be a whole number from 1, or None for all of the data")
    return samples


def draw_subset(
    data: object,
    samples: int | None,
    seed: int = 0,
    batch_size: int | None = None,
    cancelled: Callable[[], bool] = never,
    patience: float | None = None,
) -> DataSubset:
    """Return `samples` examples of the data, drawn by a seed, or all of it.

    Of a pair of tensors, a map-style dataset and a loader over one, any examples are drawn; of a list of batches, whole
    batches. Other iterables tell nothing before they are read, so their first batches are taken. `patience` and
    `cancelled`: see `read_in_thread`.

    Raises:
        Cancelled: when `cancelled` says so.
        DataError: for data that is none, or that fails while it gives a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    total = count(data)
    some = samples is not None and (total is None or samples < total)
    if (pair := as_pair(data)) is not None:
        if not some:
            return DataSubset(data, _all(total), total)
        places = _drawn(len(pair[1]), samples, generator)
        chosen = tuple(part[places.to(part.device)] for part in pair)
        return DataSubset(chosen, _some(len(places), total, seed), len(places))
    reduced = _reduced(data, samples, seed, generator) if some else None
    read = data if reduced is None else reduced
    # held, so that every score is of the very same examples, and none is read twice
    held, examples, nbytes = list[Any](), 0, 0
    for raw in read_in_thread(raw_batches(read, batch_size=batch_size), data, cancelled, patience):
        held.append(raw)
        # A batch has as many examples as its first tensor has rows; one without tensors counts as one.
        examples += next((len(tensor) for tensor in _tensors(raw) if tensor.ndim), 1)
        nbytes += sum(tensor.nbytes for tensor in _tensors(raw))
        if some and samples is not None and examples >= samples:
            break
        # all of it is too much to hold: then it is read again for every score, unless it can be read only once
        if samples is None and nbytes > _MOST_HELD and not isinstance(data, Iterator):
            return DataSubset(data, _all(total), total)
    if not some or (total is not None and examples >= total):
        return DataSubset(held, _all(examples), examples)
    drawn = _some(examples, total, seed) if reduced is not None else f"the first {examples:,} examples"
    return DataSubset(held, drawn, examples)


def _all(n: int | None) -> str:
    return "all examples" if n is None else f"all {n:,} examples"


def _some(n: int, total: int | None, seed: int) -> str:
    of = "" if total is None else f" of {total:,}"
    return f"{n:,}{of} examples, drawn with seed {seed}"


def _drawn(n: int, samples: int | None, generator: torch.Generator) -> Tensor:
    """Return the places of so many examples of n, in order: batches then hold neighbours, as files like it."""
    return torch.randperm(n, generator=generator)[:samples].sort().values


def _reduced(data: object, samples: int | None, seed: int, generator: torch.Generator) -> object | None:
    """Return data that gives only the examples drawn, None where they cannot be chosen before they are read."""
    if isinstance(data, DataLoader):
        if isinstance(data.dataset, IterableDataset) or data.batch_size is None or count(data) is None:
            return None
        own = own_loader(data, seed)
        # The sampler is asked once, so that places are drawn among what this loader would give, shuffled or weighted as
        # it is.
        order = list(own.sampler)
        places = [order[i] for i in _drawn(len(order), samples, generator).tolist()]
        rows = data.batch_size
        vars(own).update(batch_sampler=[places[start : start + rows] for start in range(0, len(places), rows)])
        return own
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset) and (n := count(data)) is not None:
        return Subset(data, _drawn(n, samples, generator).tolist())
    if isinstance(data, list | tuple):
        # Whole batches in a drawn order: the loop that reads them stops when it has enough examples.
        return [data[i] for i in torch.randperm(len(data), generator=generator).tolist()]
    return None


def _tensors(value: object) -> Iterator[Tensor | np.ndarray[Any, Any]]:
    if isinstance(value, Tensor | np.ndarray):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
