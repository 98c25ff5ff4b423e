"""What tells one function, dataset or option from another: equal in another process, different where it matters."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from shrinkwidget.training import checkpoint_and_fingerprint as module
from shrinkwidget.training.checkpoint_and_fingerprint import digest, fingerprint

from .training_helpers import points

X, Y = points()
FACTOR = 2.0


def scaled(x: Any, k: float = 1.0) -> Any:
    return x * k


def by_factor(x: Any) -> Any:
    return scaled(x, FACTOR)


def closing_over(k: Any) -> Callable[[Any], Any]:
    def function(x: Any) -> Any:
        return x * k

    return function


class Scale:
    def __init__(self, k: float) -> None:
        self.k = k
        self._calls = 0

    def __call__(self, x: Any) -> Any:
        self._calls += 1
        return self.scale(x)

    def scale(self, x: Any) -> Any:
        return x * self.k


class Slotted:
    __slots__ = ("k",)

    def __init__(self, k: float) -> None:
        self.k = k


class Points(Dataset[Any]):
    def __init__(self, n: int, offset: float = 0.0) -> None:
        self.n, self.offset = n, offset

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, place: int) -> Any:
        return X[place] + self.offset, Y[place]


def loader(n: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=n, **options)


MAKERS: dict[str, Callable[[], list[Any]]] = {
    "functions": lambda: [scaled, by_factor, torch.relu, np.abs, len],
    "lambdas": lambda: [lambda x: x * 2, lambda x: x * 3, lambda x: x + 2, lambda x, k=2: x * k, lambda x, k=3: x * k],
    "partials": lambda: [scaled, partial(scaled, k=1), partial(scaled, k=100), partial(scaled, 1), partial(by_factor)],
    "closures": lambda: [closing_over(1), closing_over(2), closing_over(X), closing_over(X * 0), closing_over(scaled)],
    "bound methods": lambda: [Scale(1).scale, Scale(2).scale, Scale(1).__call__],
    "objects": lambda: [Scale(1), Scale(2), Slotted(1), Slotted(2), Scale, Slotted, {"k": 1}, {"k": 2}, [1], (1,)],
    "modules": lambda: [nn.Dropout(0.1), nn.Dropout(0.2), nn.ReLU(), nn.Sequential(nn.Dropout(0.1)), nn.Flatten()],
    "plain": lambda: [None, 0, 0.5, float("nan"), "a", b"a", 1j, np.float32(1), torch.float32, Path("a"), {1}, {2}],
    "tensors": lambda: [X, X * 0, X.double(), X[:10], X.T, X.numpy(), X.numpy() * 2, torch.tensor(1), torch.zeros(0)],
    "pairs and lists": lambda: [(X, Y), (X, Y * 0), (X * 0, Y), [(X, Y)], [(X, Y)] * 2, [(X, Y)] * 200, [(X, Y)] * 201],
    "datasets": lambda: [Points(10), Points(11), Points(10, 1), TensorDataset(X, Y), TensorDataset(X, Y * 0),
                         Subset(Points(10), [1, 2]), Subset(Points(10), [1, 3])],
    "loaders": lambda: [loader(), loader(5), loader(drop_last=True), loader(shuffle=True), loader(collate_fn=tuple),
                        DataLoader(Points(10), batch_size=4)],
}  # fmt: skip


@pytest.mark.parametrize("make", MAKERS.values(), ids=list(MAKERS))
def test_values_made_alike_are_equal_and_others_differ(make: Callable[[], list[Any]]) -> None:
    found = [digest(fingerprint(value)) for value in make()]
    assert found == [digest(fingerprint(value)) for value in make()]
    assert len(set(found)) == len(found)


def test_in_another_process_they_are_the_same() -> None:
    code = (
        "import json\nfrom tests.engine.test_fingerprint_of_code_and_data import MAKERS\n"
        "from shrinkwidget.training.checkpoint_and_fingerprint import digest, fingerprint\n"
        "print(json.dumps([[digest(fingerprint(v)) for v in make()] for make in MAKERS.values()]))"
    )
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "PYTHONHASHSEED": "7",
    }
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True).stdout
    assert json.loads(told) == [[digest(fingerprint(value)) for value in make()] for make in MAKERS.values()]


def test_the_code_a_function_calls_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(fingerprint(by_factor))
    monkeypatch.setitem(by_factor.__globals__, "FACTOR", 3.0)
    assert digest(fingerprint(by_factor)) != before
    monkeypatch.setitem(by_factor.__globals__, "FACTOR", 2.0)
    monkeypatch.setattr(scaled, "__code__", (lambda x, k=1.0: x / k).__code__)
    assert digest(fingerprint(by_factor)) != before


def test_what_use_itself_changes_does_not_count() -> None:
    scale, chance, dropout = Scale(2), random.Random(3), nn.Dropout()
    before = [digest(fingerprint(value)) for value in (scale, scale.scale, chance, dropout, iter([1, 2]))]
    scale(1.0)
    chance.random()
    dropout.eval()
    after = [digest(fingerprint(value)) for value in (scale, scale.scale, chance, dropout, iter([3, 4, 5]))]
    assert after == before


def test_what_holds_itself_or_very_much_comes_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    nested: Any = []
    for _ in range(200):
        nested = [nested, nested]
    assert digest(fingerprint(ring)) != digest(fingerprint([1, [1]]))
    assert digest(fingerprint(nested)) == digest(fingerprint(nested))
    monkeypatch.setattr(module, "_MOST_OBJECTS", 10)
    assert "…" in json.dumps(fingerprint([[i] for i in range(20)]), ensure_ascii=False)


def test_of_large_tensors_a_sample_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(module, "_SAMPLED", 10)
    large = torch.arange(10_000.0)
    other: Tensor = large.clone()
    other[1:9999] += 1
    assert digest(fingerprint(large)) == digest(fingerprint(large.clone()))
    assert digest(fingerprint(large)) != digest(fingerprint(other))
    assert digest(fingerprint(large.numpy())) != digest(fingerprint(other.numpy()))
