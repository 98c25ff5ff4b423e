"""The models that are measured: one with the shapes of ResNet-50, and one of 300 layers. Random weights, seeded."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

STAGES = ((3, 64, 256), (4, 128, 512), (6, 256, 1024), (3, 512, 2048))
WEIGHTS, PARAMETERS = 54, 25_557_032
DEEP_LAYERS, DEEP_SHAPE = 300, (256, 288)


def resnet50(seed: int = 0) -> nn.Module:
    """Return a model with the names, shapes and order of ResNet-50's tensors: 54 weights, 25,557,032 parameters.

    Only its weights matter here, so it cannot run. They are normal with the spread of a fresh network, times a factor
    per layer between 1/2 and 2, as training leaves them.
    """
    model = nn.Module()
    model.add_module("conv1", nn.Conv2d(3, 64, 7, bias=False))
    model.add_module("bn1", nn.BatchNorm2d(64))
    before = 64
    for number, (blocks, width, out) in enumerate(STAGES, 1):
        stage = nn.Sequential(*(_bottleneck(before if i == 0 else out, width, out, i == 0) for i in range(blocks)))
        model.add_module(f"layer{number}", stage)
        before = out
    model.add_module("fc", nn.Linear(before, 1000))
    return _filled(model, seed)


def _bottleneck(before: int, width: int, out: int, first: bool) -> nn.Module:
    block = nn.Module()
    for i, (a, b, size) in enumerate([(before, width, 1), (width, width, 3), (width, out, 1)], 1):
        block.add_module(f"conv{i}", nn.Conv2d(a, b, size, bias=False))
        block.add_module(f"bn{i}", nn.BatchNorm2d(b))
    if first:
        shortcut = nn.Sequential(nn.Conv2d(before, out, 1, bias=False), nn.BatchNorm2d(out))
        block.add_module("downsample", shortcut)
    return block


def deep(seed: int = 0) -> nn.Module:
    """Return a model of 300 linear layers of 73,728 weights each, in 30 blocks of 10."""
    model = nn.Module()
    out, into = DEEP_SHAPE
    for block in range(DEEP_LAYERS // 10):
        layers = nn.Sequential(*(nn.Linear(into, out, bias=False) for _ in range(10)))
        model.add_module(f"block{block}", layers)
    return _filled(model, seed)


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
