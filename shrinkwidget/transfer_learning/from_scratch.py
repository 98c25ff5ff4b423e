"""Training from scratch: what a transfer is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from ..compression.apply_recipe import copied
from ..training.retraining_methods import Stage
from ..training.schedule import Schedule
from ..training.training_batches import TrainingBatches
from .layer_groups import LayerGroups
from .strategies import TransferStage
from .transfer_task import TransferTask

_EPOCHS: Final = 30
_STEPS: Final = 300


@dataclass(frozen=True, slots=True)
class FromScratch:
    """Train everything by one schedule."""

    schedule: Schedule

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return its only training."""
        return [
            TransferStage(Stage(self.schedule.epochs, self.schedule.lr_at, self.schedule, relative=layers.all_at(1.0)))
        ]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"trained from scratch {epochs}"


def default_schedule(task: TransferTask) -> Schedule:
    """Return a schedule by which most networks learn: 30 epochs, or 300 steps where the data is small."""
    steps = TrainingBatches(task.train_data, task.options).steps
    epochs = max(_EPOCHS, math.ceil(_STEPS / steps)) if steps else _EPOCHS
    return Schedule(epochs, lr=0.05, decay="cosine", warmup=epochs / 10)


def reinitialized(network: nn.Module) -> nn.Module:
    """Return a copy of a network that has learnt nothing.

    Every module is initialised by its own ``reset_parameters``. The parameters of one that has none are drawn from a
    normal distribution with the mean and the deviation they have; buffers stay.
    """
    new = copied(network)
    for module in new.modules():
        reset: Callable[[], object] | None = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if callable(reset):
            reset()
        else:
            for parameter in module.parameters(recurse=False):
                _redraw(parameter)
    return new


@torch.no_grad()
def _redraw(parameter: Tensor) -> None:
    mean, deviation = parameter.mean(), parameter.std(correction=0)
    parameter.copy_(torch.randn_like(parameter) * deviation + mean)
