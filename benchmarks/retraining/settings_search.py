"""The settings that were tried for the headline, judged by images that none of its test folds holds.

Two networks are trained on the training part of a fold of the headline's, without the demo's 287 validation images, and
judged by these: as they are, and by 20 augmented copies of each, since of the images themselves any network gets only
one to six wrong.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import nn

from shrinkwidget import demo
from shrinkwidget.demo.write_weights import augmented

from . import headline_cross_validation
from .headline_cross_validation import DENSE_EPOCHS, LEARNING, NONE, QUICK
from .resumable_tasks_and_results import Cell, Task

NETWORKS: Final = ((0, 0), (1, 1))
"""Seed and fold of the networks that were tried on."""
COPIES: Final = 20
MIXED: Final[dict[str, Any]] = {"distillation": [2.0, 1.0], "mixed": 0.5}
MIXED_HOT: Final[dict[str, Any]] = {**MIXED, "distillation": [4.0, 1.0], "weight decay": 2e-4}
TRIED: Final[tuple[tuple[int, int, str, dict[str, Any], tuple[tuple[int, int, float], ...]], ...]] = (
    (3, 15, "", {}, ((4, 30, 0.02),)),
    (3, 40, "", {}, ()),
    (3, 40, ", weight decay 1e-4", {"weight decay": 1e-4}, ()),
    (3, 40, ", T 2, weight 0.5", {"distillation": [2.0, 0.5]}, ()),
    (3, 40, ", T 8, weight 1", {"distillation": [8.0, 1.0]}, ()),
    (3, 40, ", T 2, weight 1, mixed", MIXED, ()),
    (1, 120, "", {}, ()),
    (1, 120, ", T 4, weight 1, mixed, weight decay 2e-4", MIXED_HOT, ((4, 40, 0.005),)),
    (
        1,
        120,
        ", T 2, weight 1, mixed",
        MIXED,
        (
            (4, 60, 0.02),
            (5, 60, 0.02),
            (5, 40, 0.005),
            (4, 40, 0.005),
            (6, 30, 0.003),
            (5, 40, 0.003),
            (4, 60, 0.003),
        ),
    ),
    (1, 240, ", T 2, weight 1, mixed", MIXED, ((5, 40, 0.005), (6, 40, 0.003), (5, 40, 0.003), (4, 60, 0.003))),
)
"""Rounds and epochs in which 75 % of the channels go, how they are trained, and the grids after that: bits, epochs and
learning rate."""
CANDIDATES: Final[dict[str, dict[str, Any]]] = {
    f"{rounds} × {epochs} epochs{words}" + (f"; {grid[0]} bits, {grid[1]} at {grid[2]}" if grid else ""): {
        **learning,
        "channels": [0.75, rounds, epochs],
        "sparsity": NONE,
        "bits": list(grid[:2]) if grid else [32, 0],
        **({"quantized lr": grid[2]} if grid else {}),
    }
    for rounds, epochs, words, learning, grids in TRIED
    for grid in (None, *grids)
}


def settings(quick: bool) -> dict[str, Any]:
    return {
        "dense": {"epochs": 1 if quick else DENSE_EPOCHS},
        "candidates": {name: {**LEARNING, **found, **(QUICK if quick else {})} for name, found in CANDIDATES.items()},
    }


def tasks(asked: Mapping[str, Any], methods: Sequence[str] = ()) -> Iterator[Task]:
    """Yield a task for every network and candidate."""
    for seed, fold in NETWORKS:
        for name in methods or asked["candidates"]:
            yield Task(cells, (dict(asked), seed, fold, name), ({"method": name, "seed": seed, "fold": fold},))


def cells(asked: Mapping[str, Any], seed: int, fold: int, name: str) -> list[Cell]:
    """Return how well a candidate does on the validation images, and the dense network it came from."""
    valid = demo.data("valid")
    everything, _, _ = headline_cross_validation.split(seed, fold)
    train = everything[0][: -len(valid[1])], everything[1][: -len(valid[1])]
    network = headline_cross_validation.dense(train, asked["dense"]["epochs"], seed)
    how, start = asked["candidates"][name], time.process_time()
    small: nn.Module = headline_cross_validation.without_channels_and_weights(network, train, how, seed)
    nbytes = None
    if how["bits"][1]:
        packed = headline_cross_validation.through_the_grid(small, network, train, how, seed)
        assert packed.model is not None
        small, nbytes = packed.model, packed.nbytes_entropy_coded
    seconds = round(time.process_time() - start, 1)
    place = {"method": name, "seed": seed, "fold": fold}
    return [{**place, **judged(small), "dense": judged(network), "bytes": nbytes, "cpu seconds": seconds}]


def judged(network: nn.Module) -> dict[str, Any]:
    """Return how many validation images a network gets wrong, how many of their copies, and both cross-entropies."""
    images, labels = demo.data("valid")
    with torch.random.fork_rng():
        torch.manual_seed(99)
        copies = torch.cat([augmented(images) for _ in range(COPIES)])
    network.eval()
    with torch.inference_mode():
        found = {"": (network(images), labels), "copies ": (network(copies), labels.repeat(COPIES))}
    return {
        name: value
        for kind, (logits, wanted) in found.items()
        for name, value in (
            (f"{kind}wrong", int((logits.argmax(1) != wanted).sum())),
            (f"{kind}cross-entropy", round(float(F.cross_entropy(logits, wanted)), 5)),
        )
    }


def summary(found: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return for every candidate its means over the networks it was tried on."""
    rows = []
    for method in dict.fromkeys(cell["method"] for cell in found):
        mine = [cell for cell in found if cell["method"] == method]
        mean = {
            name: round(sum(cell[name] for cell in mine) / len(mine), 5)
            for name in ("wrong", "cross-entropy", "copies wrong", "copies cross-entropy")
        }
        rows.append({"method": method, "networks": len(mine), **mean})
    return rows
