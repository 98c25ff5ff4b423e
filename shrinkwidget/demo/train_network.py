"""Trains the demo's network from scratch: SGD, a one-cycle rate, Nesterov's momentum."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .digit_net import DigitNet

log = logging.getLogger(__name__)


def fit(
    images: Tensor,
    labels: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
    augment: Callable[[Tensor], Tensor] | None = None,
    smoothing: float = 0.0,
) -> DigitNet:
    """Return a network, in eval mode, that has learnt images (N×1×8×8) and their labels (N).

    `smoothing` is that of the labels (arXiv 1512.00567). Chance comes from the seed alone, and the caller's is left as
    it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = DigitNet()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        steps = epochs * (len(images) // batch_size)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
        for epoch in range(epochs):
            order = torch.randperm(len(images))[: len(images) // batch_size * batch_size]
            for chosen in order.view(-1, batch_size).unbind():
                seen = images[chosen] if augment is None else augment(images[chosen])
                loss = F.cross_entropy(network(seen), labels[chosen], label_smoothing=smoothing)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                rate.step()
            log.info("epoch %d of %d: loss %.3f", epoch + 1, epochs, loss.item())
    return network.eval()
