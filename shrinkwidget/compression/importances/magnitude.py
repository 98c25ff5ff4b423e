"""Prune the smallest weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ...analysis.pruning_estimate import PruningOutcome, by_magnitude
from ...analysis.sketch import LayerSketch
from ...analysis.tensor_ops_threads_and_cpu_kernel import magnitude
from ...recipe_and_method_registry import Importance, Plan, register


@register
@dataclass(frozen=True, repr=False)
class Magnitude(Importance):
    """The magnitude of a weight.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(sparsity=0.9, importance=sw.methods.Magnitude())  # the default
        Recipe(sparsity=0.9)
    """

    kind: ClassVar[str] = "magnitude"
    label: ClassVar[str] = "magnitude"
    title: ClassVar[str] = "the smallest go first"
    of_magnitude: ClassVar[bool] = True

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return |w|."""
        del name, statistic
        return magnitude(rows)

    def survival(self, layer: LayerSketch, plan: Plan, shared: Any) -> PruningOutcome | None:
        """Return what becomes of a layer, from its value table alone."""
        return by_magnitude(layer, plan, shared)
