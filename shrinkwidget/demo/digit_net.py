"""The demo's network: a residual conv net with batch norm, small enough to read in one sitting."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two 3×3 convolutions around a shortcut that has no weights (He et al. 2016, arXiv 1512.03385, option A)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.stride = 1 if before == after else 2
        self.conv1 = nn.Conv2d(before, after, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×before×H×W to N×after×H/stride×W/stride."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        missing = y.shape[1] - x.shape[1]
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, missing))
        return F.relu(y + shortcut)


class DigitNet(nn.Module):
    """A ResNet-14 for 8×8 digits: a stem, three stages 16, 32 and 64 channels wide, a head; 172,218 parameters.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> untrained = sw.demo.DigitNet()
        >>> untrained(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.stage1 = nn.Sequential(Block(16, 16), Block(16, 16))
        self.stage2 = nn.Sequential(Block(16, 32), Block(32, 32))
        self.stage3 = nn.Sequential(Block(32, 64), Block(64, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map images N×1×8×8, scaled to 0…1, to logits N×10."""
        x = F.relu(self.bn(self.stem(images)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits
