"""The models that are measured: one with the shapes of ResNet-50, and one of 300 layers. Random weights, seeded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048))
WEIGHTS, PARAMETERS = 54, 25_557_032
DEEP_LAYERS, DEEP_SHAPE = 300, (256, 288)


class ResNet50(nn.Module):
    """ResNet-50 (He et al. 2016, arXiv 1512.03385), with the names of torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        before = 64
        for number, (blocks, width, out) in enumerate(STAGES, 1):
            strides = [2 if number > 1 else 1] + [1] * (blocks - 1)
            stage = [Bottleneck(before if i == 0 else out, width, out, stride) for i, stride in enumerate(strides)]
            self.add_module(f"layer{number}", nn.Sequential(*stage))
            before = out
        self.fc = nn.Linear(before, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×3×H×W to N×1000."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        found: Tensor = self.fc(x.mean((2, 3)))
        return found


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a shortcut."""

    def __init__(self, before: int, width: int, out: int, stride: int) -> None:
        super().__init__()
        for i, (a, b, size) in enumerate([(before, width, 1), (width, width, 3), (width, out, 1)], 1):
            step, pad = (stride, 1) if size == 3 else (1, 0)
            self.add_module(f"conv{i}", nn.Conv2d(a, b, size, step, pad, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.downsample: nn.Module = nn.Identity()
        if before != out:
            self.downsample = nn.Sequential(nn.Conv2d(before, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = x
        for i in (1, 2, 3):
            y = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(y))
            y = F.relu(y) if i < 3 else y
        return F.relu(y + self.downsample(x))


class Deep(nn.Module):
    """Linear layers one after the other; each is also given the first inputs, which make up its width."""

    def __init__(self) -> None:
        super().__init__()
        out, into = DEEP_SHAPE
        for block in range(DEEP_LAYERS // 10):
            layers = nn.Sequential(*(nn.Linear(into, out, bias=False) for _ in range(10)))
            self.add_module(f"block{block}", layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×288 to N×256."""
        out, into = DEEP_SHAPE
        given, y = x[:, : into - out], x
        for block in self.children():
            for layer in block.children():
                y = F.relu(layer(y if y is x else torch.cat([y, given], 1)))
        return y


def resnet50(seed: int = 0) -> nn.Module:
    """Return ResNet-50, in eval mode: 54 weights, 25,557,032 parameters.

    They are normal with the spread of a fresh network, times a factor per layer between 1/2 and 2, as training leaves
    them.
    """
    return _filled(ResNet50(), seed).eval()


def deep(seed: int = 0) -> nn.Module:
    """Return a model of 300 linear layers of 73,728 weights each, in 30 blocks of 10."""
    return _filled(Deep(), seed)


def _filled(model: nn.Module, seed: int) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weight in compressible(model):
            factor = 2 ** (2 * torch.rand(1, generator=generator).item() - 1)
            weight.normal_(0, factor * math.sqrt(2 / weight[0].numel()), generator=generator)
    return model


def compressible(model: nn.Module) -> Iterator[tuple[nn.Module, torch.Tensor]]:
    """Yield every module with a weight of two dimensions or more, and that weight."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim > 1:
            yield module, weight
