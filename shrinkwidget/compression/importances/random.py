"""Prune any weights: the baseline that every comparison needs."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...analysis.pruning_estimate import PruningOutcome, at_random
from ...analysis.sketch import LayerSketch
from ...recipe_and_method_registry import Importance, Number, Plan, register, setting


@register
@dataclass(frozen=True, repr=False)
class Random(Importance):
    """A random number for each weight, from the seed and the layer's name.

    Drawn on the CPU: every device, and every process, prunes the same weights.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(sparsity=0.9, importance="random", seed=3)
        Recipe(sparsity=0.9, importance=Random(seed=3))
    """

    kind: ClassVar[str] = "random"
    label: ClassVar[str] = "random"
    title: ClassVar[str] = "the baseline every comparison needs"

    seed: int = setting(0, Number("seed", "another seed prunes other weights"))

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return random numbers in [0, 1)."""
        del statistic
        # Python's hash of a text differs between processes. By name and not by place, so a layer keeps its numbers when
        # others are added.
        own = (self.seed << 10 ^ zlib.crc32(name.encode())) % 2**63
        return torch.rand(rows.numel(), generator=torch.Generator().manual_seed(own)).view(rows.shape)

    def survival(self, layer: LayerSketch, plan: Plan, shared: Any) -> PruningOutcome | None:
        """Return what becomes of a layer: all magnitudes alike."""
        del shared
        return at_random(layer, plan)
