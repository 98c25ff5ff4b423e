"""The loop anyone would write: what dense networks are trained by here, and what ours is timed against."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw


def train(
    network: nn.Module,
    data: tuple[Tensor, Tensor],
    schedule: sw.methods.Schedule,
    batch: int,
    seed: int,
    after_epoch: Callable[[int], object] = lambda _: None,
) -> None:
    """Train a network in place by a schedule; `after_epoch` is called with how many epochs are over."""
    inputs, targets = data
    optimizer = schedule.optimizer_of(list(network.parameters()))
    generator = torch.Generator().manual_seed(seed)
    network.train()
    for epoch in range(schedule.epochs):
        order = torch.randperm(len(targets), generator=generator).split(batch)
        for step, chosen in enumerate(order):
            for group in optimizer.param_groups:
                group["lr"] = schedule.lr_at(epoch + step / len(order))
            loss = F.cross_entropy(network(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        after_epoch(epoch + 1)
    network.eval()
