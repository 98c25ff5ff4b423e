"""A user's DataLoader is theirs: it is read by a copy of our own, and goes on as if nobody else had."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import shrinkwidget as sw
from shrinkwidget.evaluation.batches_predictions_and_labels import own_loader, raw_batches
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate

from .training_helpers import mlp, points

DATA = TensorDataset(*points(64))


def seen(loader: Any) -> list[list[float]]:
    return [x[:, 0].tolist() for x, _ in loader]


def everything(loader: Any) -> list[float]:
    return sorted(value for batch in seen(loader) for value in batch)


class Doubling(DataLoader[Any]):
    """A loader of its own kind: each batch twice."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        for batch in super().__iter__():
            yield batch
            yield batch


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(*DATA.tensors, strict=True)


def theirs() -> torch.Generator:
    return torch.Generator().manual_seed(7)


LOADERS: dict[str, Any] = {
    "in order": lambda: DataLoader(DATA, batch_size=10, drop_last=True),
    "shuffled": lambda: DataLoader(DATA, batch_size=10, shuffle=True),
    "shuffled, by their generator": lambda: DataLoader(DATA, batch_size=10, shuffle=True, generator=theirs()),
    "random sampler": lambda: DataLoader(DATA, batch_size=10, sampler=RandomSampler(DATA, generator=theirs())),
    "batch sampler": lambda: DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 10, drop_last=False)),
    "list of batches": lambda: DataLoader(DATA, batch_sampler=[[0, 1, 2], [3, 4]]),
    "unbatched": lambda: DataLoader(DATA, batch_size=None, sampler=BatchSampler(range(64), 8, drop_last=False)),
    "stream": lambda: DataLoader(Stream(), batch_size=10),
    "subclass": lambda: Doubling(DATA, batch_size=10),
    "weighted": lambda: DataLoader(
        DATA, batch_size=10, sampler=WeightedRandomSampler([1.0] * 64, 64, replacement=False, generator=theirs())
    ),
}


@pytest.mark.parametrize("make", LOADERS.values(), ids=LOADERS.keys())
def test_a_copy_gives_the_same_batches_and_draws_from_nothing_of_theirs(make: Any) -> None:
    loader, untouched = make(), make()
    state = torch.random.get_rng_state()
    found = everything(own_loader(loader, seed=0))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    order = seen(loader)
    torch.manual_seed(1)
    assert order == seen(untouched)
    assert found == everything(loader)


def test_the_order_of_a_copy_follows_from_the_seed() -> None:
    loader = DataLoader(DATA, batch_size=10, shuffle=True)
    first, again, other = (seen(raw_batches(loader, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_a_shuffled_loader_trains_in_another_order_every_epoch_and_alike_every_time() -> None:
    orders: list[list[float]] = []

    def note(x: Tensor) -> Tensor:
        orders.append(x[:, 0].tolist())
        return x

    loader = DataLoader(DATA, batch_size=32, shuffle=True)
    for _ in range(2):
        sw.retrain(
            mlp(), loader, method=sw.methods.FineTune(2, lr=0.1), options=sw.methods.TrainingOptions(augment=note)
        )
    assert orders[:4] == orders[4:]
    assert orders[:2] != orders[2:4]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_persistent_workers_serve_their_owner_alone() -> None:
    """While an explorer and a training read the same loader, the user's own loop sees every example."""
    loader = DataLoader(DATA, batch_size=8, num_workers=1, persistent_workers=True)
    wanted = everything(DataLoader(DATA, batch_size=8))
    alone = evaluate(mlp(), loader)
    assert alone.n == 64
    reading = threading.Event()
    scores: list[Any] = []

    def beside() -> None:
        for _ in range(4):
            scores.append(evaluate(mlp(), loader))
            reading.set()

    thread = threading.Thread(target=beside)
    mine = iter(loader)
    first = next(mine)
    thread.start()
    assert reading.wait(60)
    assert sorted([*first[0][:, 0].tolist(), *(v for x, _ in mine for v in x[:, 0].tolist())]) == wanted
    thread.join()
    assert {(score.n, score.value) for score in scores} == {(64, alone.value)}
    assert everything(loader) == wanted


def test_a_batch_size_of_their_dataset_is_kept() -> None:
    class Counting(Dataset[Any]):
        asked = 0

        def __len__(self) -> int:
            return 64

        def __getitem__(self, i: int) -> Any:
            Counting.asked += 1
            return DATA[i]

    assert evaluate(mlp(), DataLoader(Counting(), batch_size=7)).n == 64
    assert Counting.asked == 64
