"""What masks, grids and codebooks cost in training, against the plain loop, in turn in one run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget import demo

from . import plain_loop
from .resumable_tasks_and_results import Cell, Task
from .train_accuracy_against_compression import Pair, images, lenet

RECIPES: Final = {
    "nothing": sw.Recipe(),
    "masks": sw.Recipe(0.9),
    "masks and 4 bits": sw.Recipe(0.9, 4, symmetric=True, clipping="absmax"),  # as overhead.json was measured
    "masks and codebooks of 8 values": sw.Recipe(0.9, 3, quantizer="kmeans"),
}
EPOCHS: Final = 10
TURNS: Final = 5


def settings(quick: bool) -> dict[str, Any]:
    return {
        "epochs a turn": EPOCHS,
        "turns": 1 if quick else TURNS,
        "threads": 1,
        "ways": {name: recipe.to_dict() for name, recipe in RECIPES.items()},
        "ours": "sw.retrain without test data; it also scores every training batch, seeds every step, and compresses",
    }


def tasks(data: Path, turns: int) -> Iterator[Task]:
    for network in ("DigitNet on digits, batches of 64", "LeNet-300-100 on 6,000 images of MNIST, batches of 128"):
        keys = tuple({"network": network, "way": way} for way in ("plain loop", *RECIPES))
        yield Task(cells, (network, data, turns), keys)


def cells(network: str, data: Path, turns: int, epochs: int = EPOCHS) -> list[Cell]:
    """Return the milliseconds a step takes each way, all of them in turn, so that a slow minute hits all."""
    model, train, batch = _given(network, data)
    steps = epochs * -(-len(train[1]) // batch)
    schedule = sw.methods.Schedule(epochs, 0.01)
    works: dict[str, Callable[[], object]] = {
        "plain loop": lambda: plain_loop.train(deepcopy(model), train, schedule, batch, 0)
    }
    for name, recipe in RECIPES.items():
        small = sw.compress(model, recipe)
        method, options = sw.methods.LearningRateRewinding(schedule), sw.methods.TrainingOptions(batch_size=batch)
        works[name] = partial(sw.retrain, small, train, None, method, options=options)
    times = in_turn(works, turns)
    reference = np.array(times["plain loop"])
    return [
        {
            "network": network,
            "way": way,
            "turns": turns,
            "ms a step": round(1e3 * float(np.median(found)) / steps, 3),
            "overhead": round(float(np.median(np.array(found) / reference)) - 1, 4),
            "overheads by turn": [round(float(x), 4) for x in np.array(found) / reference - 1],
        }
        for way, found in times.items()
    ]


def in_turn(works: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Return the processor seconds of each work; a first turn does not count.

    Of one thread that waits for nothing they are the wall seconds it would take on a core of its own.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                times[name].append(time.process_time() - start)
    return times


def _given(network: str, data: Path) -> tuple[nn.Module, Pair, int]:
    if network.startswith("DigitNet"):
        return demo.model(), demo.data("train"), 64
    torch.manual_seed(0)
    inputs, targets = images(data / "mnist", "train")
    return lenet(), (inputs[:6000], targets[:6000]), 128


def summary(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return the cells without their turns."""
    return [{name: value for name, value in cell.items() if not isinstance(value, list)} for cell in found]
