"""Accuracy against compression, by ShrinkBench's rules (arXiv 2003.03033): ratios over all parameters, dense control,
random and layer-wise baselines, several seeds, one test at the end of each training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

import shrinkwidget as sw

from . import plain_loop
from .resumable_tasks_and_results import Cell, Task, mean_and_sd

Pair = tuple[Tensor, Tensor]

RATIOS: Final = (2, 4, 8, 16, 32)
ONE_SHOT: Final = (
    "fine-tuning",
    "learning-rate rewinding",
    "weight rewinding",
    "learning-rate rewinding, layer-wise magnitude",
    "learning-rate rewinding, random",
)
ITERATIVE: Final = "learning-rate rewinding, iterative"
EARLY: Final = 1
"""The epoch that weights are rewound to."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A network, its data, and how it is trained.

    Args:
        network: makes one, freshly initialized.
        data: the folder of its images, below that of all data.
        images: how many training images are used, from the first.
        epochs, lr, batch_size: of the training, SGD with Nesterov momentum, the rate in two steps to a hundredth.
    """

    network: Callable[[], nn.Module]
    data: str
    images: int
    epochs: int
    lr: float = 0.1
    batch_size: int = 128

    def schedule(self) -> sw.methods.Schedule:
        """Return the schedule of the training."""
        return sw.methods.Schedule(self.epochs, self.lr)


def lenet() -> nn.Module:
    """Return LeNet-300-100 for 28×28 pixels: 266,610 parameters."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def convolutional() -> nn.Module:
    """Return four 3×3 convolutions with batch norm for 28×28 pixels: 55,870 parameters."""
    widths = (1, 12, 24, 48, 96)
    layers = (layer for before, after in pairwise(widths) for layer in _convolution(before, after))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()


SETUPS: Final = {
    "lenet": Setup(lenet, "mnist", 20_000, 6, batch_size=128),
    "fashion": Setup(convolutional, "fashion-mnist", 10_000, 6, batch_size=100),
}


def setup_of(part: str, quick: bool) -> Setup:
    found = SETUPS[part]
    return replace(found, images=2000, epochs=2) if quick else found


def settings(setup: Setup) -> dict[str, Any]:
    return {
        "network": setup.network.__name__,
        "parameters": sum(p.numel() for p in setup.network().parameters()),
        "data": setup.data,
        "training images": setup.images,
        "schedule": asdict(setup.schedule()),
        "batch": setup.batch_size,
        "fine-tuning": f"as many epochs at {setup.schedule().last_lr:.3g}",
        "weights rewound to epoch": EARLY,
        "ratios": RATIOS,
        "iterative": "halves what remains each round, one schedule a round",
    }


def tasks(setup: Setup, data: Path, seeds: int, quick: bool) -> Iterator[Task]:
    """Yield the tasks: the dense control, one for each method and ratio, and one for each iterative chain."""
    for seed in range(seeds):
        dense = {"method": "dense", "ratio": 1, "seed": seed}
        again = {"method": "dense, trained again", "ratio": 1, "seed": seed}
        yield Task(control, (setup, data, seed), (dense, again))
        for ratio in RATIOS[-1:] if quick else RATIOS:
            for method in ONE_SHOT:
                key = {"method": method, "ratio": ratio, "seed": seed}
                yield Task(one_shot, (setup, data, seed, method, ratio), (key,))
        keys = tuple({"method": ITERATIVE, "ratio": ratio, "seed": seed} for ratio in RATIOS)
        yield Task(chain, (setup, data, seed), keys)


def control(setup: Setup, data: Path, seed: int) -> list[Cell]:
    """Return the dense network, and the same trained once more, as long as the pruned ones are."""
    start = time.perf_counter()
    network = trained(setup, data, seed)[1]
    first = _cell(setup, data, network, time.perf_counter() - start)
    start = time.perf_counter()
    rewind = sw.methods.LearningRateRewinding(setup.schedule())
    again = sw.retrain(network, _training(setup, data), None, rewind, options=_options(setup, seed))
    assert again.model is not None
    second = _cell(setup, data, again.model, time.perf_counter() - start)
    return [
        {"method": "dense", "ratio": 1, "seed": seed, **first},
        {"method": "dense, trained again", "ratio": 1, "seed": seed, **second},
    ]


def one_shot(setup: Setup, data: Path, seed: int, method: str, ratio: float) -> list[Cell]:
    """Return a network pruned once and retrained."""
    early, network = trained(setup, data, seed)
    start = time.perf_counter()
    small = _pruned(setup, data, seed, network, _retraining(setup, method, early), recipe(network, method, ratio, seed))
    cell = _cell(setup, data, small, time.perf_counter() - start)
    return [{"method": method, "ratio": ratio, "seed": seed, **cell}]


def chain(setup: Setup, data: Path, seed: int) -> list[Cell]:
    """Return a network pruned to half of its weights and retrained, again and again."""
    network, found = trained(setup, data, seed)[1], []
    for ratio in RATIOS:
        start = time.perf_counter()
        how = recipe(network, ITERATIVE, ratio, seed)
        network = _pruned(setup, data, seed, network, _retraining(setup, ITERATIVE, {}), how)
        cell = _cell(setup, data, network, time.perf_counter() - start)
        found.append({"method": ITERATIVE, "ratio": ratio, "seed": seed, **cell})
    return found


@cache
def trained(setup: Setup, data: Path, seed: int) -> tuple[Mapping[str, Tensor], nn.Module]:
    """Return the weights after the epoch that is rewound to, and the dense network trained to the end."""
    torch.manual_seed(seed)
    network, early = setup.network(), {}

    def keep(epochs: int) -> None:
        if epochs == EARLY:
            early.update({name: tensor.clone() for name, tensor in network.state_dict().items()})

    plain_loop.train(network, _training(setup, data), setup.schedule(), setup.batch_size, seed, keep)
    return early, network


def recipe(network: nn.Module, method: str, ratio: float, seed: int) -> sw.Recipe:
    """Return what leaves one of `ratio` parameters, biases and norms counted, which all remain."""
    weights = sum(p.numel() for p in network.parameters() if p.ndim > 1)
    others = sum(p.numel() for p in network.parameters() if p.ndim <= 1)
    return sw.Recipe(
        1 - ((weights + others) / ratio - others) / weights,
        scope="layer" if method.endswith("layer-wise magnitude") else "global",
        importance=sw.methods.Random(seed) if method.endswith("random") else "magnitude",
    )


def _retraining(
    setup: Setup, method: str, early: Mapping[str, Tensor]
) -> sw.methods.FineTune | sw.methods.LearningRateRewinding | sw.methods.WeightRewinding:
    schedule = setup.schedule()
    if method == "fine-tuning":
        return sw.methods.FineTune(setup.epochs, schedule=schedule)
    if method == "weight rewinding":
        return sw.methods.WeightRewinding(schedule, early, EARLY)
    return sw.methods.LearningRateRewinding(schedule)


def _pruned(
    setup: Setup,
    data: Path,
    seed: int,
    network: nn.Module,
    method: sw.methods.FineTune | sw.methods.LearningRateRewinding | sw.methods.WeightRewinding,
    how: sw.Recipe,
) -> nn.Module:
    options = _options(setup, seed)
    small = sw.prune_and_retrain(network, _training(setup, data), None, how, method, rounds=1, options=options)
    assert small.model is not None
    return small.model


def _options(setup: Setup, seed: int) -> sw.methods.TrainingOptions:
    return sw.methods.TrainingOptions(batch_size=setup.batch_size, seed=seed)


def _training(setup: Setup, data: Path) -> Pair:
    inputs, targets = images(data / setup.data, "train")
    return inputs[: setup.images], targets[: setup.images]


@cache
def images(folder: Path, part: str) -> Pair:
    """Return the images of a folder, N×1×28×28, of mean 0 and variance 1 over the training part, and their labels."""
    with np.load(folder / f"{part}.npz") as found:
        pixels, labels = torch.from_numpy(found["images"]), torch.from_numpy(found["labels"]).long()
    with np.load(folder / "train.npz") as found:
        mean, spread = float(found["images"].mean()), float(found["images"].std())
    return pixels.float().sub(mean).div(spread).unsqueeze(1), labels


def _cell(setup: Setup, data: Path, network: nn.Module, seconds: float) -> Cell:
    """Return what is known of a network: its accuracy, its parameters and multiply-accumulates that are not zero."""
    test = images(data / setup.data, "test")
    network.eval()
    score = sw.evaluate(network, test)
    parts = sw.summary(network, test[0][:1]).tensors
    tensors = network.state_dict()
    density = {part.name: float((tensors[part.name] != 0).float().mean()) for part in parts}
    macs = {part.name: part.macs or 0 for part in parts}
    parameters = list(network.parameters())
    return {
        "accuracy": round(score.value, 5),
        "compression": round(sum(p.numel() for p in parameters) / sum(int(p.count_nonzero()) for p in parameters), 3),
        "speed-up by MACs": round(sum(macs.values()) / sum(macs[name] * density[name] for name in macs), 3),
        "seconds": round(seconds, 1),
    }


def summary(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return means and standard deviations over the seeds, a row for every method and ratio."""
    groups: dict[tuple[str, float], list[Cell]] = {}
    for cell in found:
        groups.setdefault((cell["method"], cell["ratio"]), []).append(cell)
    return [
        {
            "method": method,
            "ratio": ratio,
            "seeds": len(mine),
            **{name: mean_and_sd([cell[name] for cell in mine]) for name in _FIGURES},
        }
        for (method, ratio), mine in groups.items()
    ]


_FIGURES: Final = ("accuracy", "compression", "speed-up by MACs", "seconds")
