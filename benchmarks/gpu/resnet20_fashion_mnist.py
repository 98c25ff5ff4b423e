"""ResNet-20 on Fashion-MNIST, pruned to 9.3 times fewer weights and retrained: rewinding beside fine-tuning and a dense
control (arXiv 2003.02389, its schedule shortened)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

import shrinkwidget as sw

from ..retraining import plain_loop
from ..retraining.resumable_tasks_and_results import Cell, Task, mean_and_sd
from ..retraining.train_accuracy_against_compression import images

DENSE: Final = "dense"
METHODS: Final = (
    DENSE,
    "learning-rate rewinding, iterative",
    "dense, trained again",
    "learning-rate rewinding, one shot",
    "fine-tuning, one shot",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """How the networks are trained: SGD with Nesterov momentum, the rate in two steps to a hundredth.

    `rounds`: of iterative pruning, each followed by all `epochs`. `images`: of the training part, from the first.
    `methods`: the first is `DENSE`.
    """

    epochs: int = 10
    lr: float = 0.1
    batch_size: int = 256
    sparsity: float = 0.893
    rounds: int = 3
    images: int = 60_000
    methods: tuple[str, ...] = METHODS


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut without weights (option A of arXiv 1512.03385)."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - before

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, N×width×H/stride×W/stride."""
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(shortcut, (0, 0, 0, 0, self.more // 2, self.more // 2)))


def resnet20() -> nn.Module:
    """Return ResNet-20 for one channel: 269,434 parameters."""
    layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    before = 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(3):
            layers.append(Block(before, width, stride if number == 0 else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def setup_of(quick: bool, methods: Sequence[str] = ()) -> Setup:
    chosen = tuple(name for name in METHODS if name == DENSE or name in methods) if methods else METHODS
    return Setup(epochs=1, rounds=2, images=512, methods=chosen) if quick else Setup(methods=chosen)


def settings(setup: Setup) -> dict[str, Any]:
    about = {name: value for name, value in asdict(setup).items() if name != "methods"}
    return {"network": "ResNet-20", "data": "fashion-mnist", **about}


def tasks(setup: Setup, data: Path, seeds: int, device: torch.device) -> Iterator[Task]:
    for seed in range(seeds):
        keys = tuple({"method": method, "seed": seed} for method in setup.methods)
        yield Task(cells, (setup, data, seed, device), keys)


def cells(setup: Setup, data: Path, seed: int, device: torch.device) -> list[Cell]:
    """Train one seed's networks, and test each of them once, after its last epoch."""
    inputs, labels = (part[: setup.images].to(device) for part in images(data / "fashion-mnist", "train"))
    train, test = (inputs, labels), tuple(part.to(device) for part in images(data / "fashion-mnist", "test"))
    schedule = sw.methods.Schedule(setup.epochs, setup.lr)
    options = sw.methods.TrainingOptions(batch_size=setup.batch_size, seed=seed)
    torch.manual_seed(seed)
    dense = resnet20().to(device)
    plain_loop.train(dense, train, schedule, setup.batch_size, seed)
    rewinding = sw.methods.LearningRateRewinding(schedule)

    fine_tuning = sw.methods.FineTune(setup.epochs, schedule=schedule)

    def pruned(method: Any, rounds: int) -> sw.results.CompressedModel:
        return sw.prune_and_retrain(dense, train, None, setup.sparsity, method, rounds=rounds, options=options)

    again: dict[str, Callable[[], sw.results.CompressedModel]] = {
        "learning-rate rewinding, iterative": lambda: pruned(rewinding, setup.rounds),
        "dense, trained again": lambda: sw.retrain(dense, train, None, rewinding, options=options),
        "learning-rate rewinding, one shot": lambda: pruned(rewinding, 1),
        "fine-tuning, one shot": lambda: pruned(fine_tuning, 1),
    }
    found = []
    for method in setup.methods:
        start = time.perf_counter()
        network = dense if method == DENSE else again[method]().model
        assert network is not None
        network.eval()
        weights = [p for p in network.parameters() if p.ndim > 1]
        zeros = sum(int((p == 0).sum()) for p in weights) / sum(p.numel() for p in weights)
        score = sw.evaluate(network, test)
        cell = {"accuracy": round(score.value, 4), "sparsity": round(zeros, 4)}
        found.append({"method": method, "seed": seed, **cell, "seconds": round(time.perf_counter() - start, 1)})
        print(found[-1], flush=True)
    return found


def summary(found: Sequence[Cell]) -> list[Cell]:
    """Return means and standard deviations over the seeds, and over the seeds the difference to the dense network."""
    dense = {cell["seed"]: cell["accuracy"] for cell in found if cell["method"] == "dense"}
    rows = []
    for method in METHODS:
        mine = [cell for cell in found if cell["method"] == method]
        if mine:
            row = {name: mean_and_sd([cell[name] for cell in mine]) for name in ("accuracy", "sparsity", "seconds")}
            row["beyond dense"] = mean_and_sd([cell["accuracy"] - dense[cell["seed"]] for cell in mine])
            rows.append({"method": method, "seeds": len(mine), **row})
    return rows
