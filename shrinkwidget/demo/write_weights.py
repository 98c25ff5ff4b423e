"""Trains the demo network and writes the weights the wheel carries: ``python -m shrinkwidget.demo.write_weights``."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from . import WEIGHTS, data
from .digit_net import DigitNet
from .train_network import fit

log = logging.getLogger(__name__)


def augmented(images: Tensor) -> Tensor:
    """Return the images (N×1×8×8) turned by up to 12°, zoomed by 10 %, moved by 0.7 pixels, and a little noisy."""
    n = len(images)
    turn, zoom = _uniform(n, 0.21), 1 + _uniform(n, 0.1)
    slant = _uniform(n, 0.15)
    rows = torch.stack([turn.cos() * zoom, slant - turn.sin() * zoom, _uniform(n, 0.18)], 1)
    columns = torch.stack([turn.sin() * zoom, turn.cos() * zoom, _uniform(n, 0.18)], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), [n, 1, 8, 8], align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    return (moved + 0.03 * torch.randn_like(moved)).clamp(0, 1)


def _uniform(n: int, reach: float) -> Tensor:
    return (torch.rand(n) * 2 - 1) * reach


def train(epochs: int, batch_size: int = 64, seed: int = 0) -> DigitNet:
    """Return a network trained from scratch on the train split, augmented, its labels smoothed."""
    return fit(*data("train"), epochs, batch_size, seed, augmented, smoothing=0.05)


def accuracy(network: DigitNet) -> float:
    """Return the share of held-out digits the network names correctly."""
    images, labels = data("test")
    with torch.inference_mode():
        return float((network(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Train, report the held-out accuracy, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--to", type=Path, default=WEIGHTS, help="the .safetensors file to write")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    network = train(asked.epochs)
    log.info("held-out accuracy %.2f %%", 100 * accuracy(network))
    save_file(network.state_dict(), asked.to)


if __name__ == "__main__":
    main()
