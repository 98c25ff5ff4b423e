"""Small networks and data for the tests of retraining, and ways to watch every step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shrinkwidget import demo
from shrinkwidget.compressed_model import CompressedModel
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    FineTune,
    Method,
    Progress,
    TrainingOptions,
    TrainingSpec,
)
from shrinkwidget.training.training_loop_losses_and_weight_constraints import Trainer

TRAIN = tuple(x[:320] for x in demo.data("train"))
TEST = tuple(x[:128] for x in demo.data("test"))


def mlp(seed: int = 0) -> nn.Sequential:
    """Return a network for points in the plane, 8·16 + 16·3 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def points(n: int = 96, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return three clouds of points in eight dimensions, and which cloud each is of."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    centres = torch.eye(3, 8) * 2
    return centres[labels] + torch.randn(n, 8, generator=generator) * 0.7, labels


def trainer(
    model: CompressedModel | nn.Module,
    method: Method = FineTune(3, lr=0.05),
    train_data: Any = None,
    eval_data: Any = None,
    recipes: tuple[Recipe, ...] = (),
    resume: Path | None = None,
    **options: Any,
) -> Trainer:
    """Return a trainer of a model for points in the plane."""
    data = points() if train_data is None else train_data
    return Trainer(TrainingSpec(model, data, eval_data, method, TrainingOptions(**options), recipes, resume))


def result(steps: Trainer) -> CompressedModel:
    """Train to the end and return the result."""
    generator = steps.steps()
    while True:
        try:
            next(generator)
        except StopIteration as end:
            found: CompressedModel = end.value
            return found


def told(steps: Trainer) -> Iterator[Progress]:
    """Train to the end and yield all that is told on the way."""
    yield from steps.steps()


def slowly(x: Tensor) -> Tensor:
    """Augment nothing, but take time: a training that is to be killed, stopped or paused must last a while."""
    time.sleep(0.02)
    return x
