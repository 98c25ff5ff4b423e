"""What a training cost: examples, steps, multiply-accumulates, seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..analysis.forward_profile import ForwardProfile, profile_forward
from ..analysis.model_tensors import open_model
from ..evaluation.batches import Batch

_WITH_BACKWARD = 3
"""A layer that trains multiplies once forward, once for its inputs' gradients and once for its weights'."""


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What a training cost.

    Args:
        examples: labelled examples the optimizer learned from, each counted as often as it was seen.
        steps: of the optimizer.
        macs: multiply-accumulates of training, tests left out; a pass backward counts as two forward, and a frozen
            layer has none.
        seconds: from beginning to end, tests among them.

    Example:
        >>> import shrinkwidget as sw
        >>> cost = sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), epochs=2).cost
        >>> cost.steps, cost.examples
        (2, 100)
    """

    examples: int
    steps: int
    macs: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values.

        Example:
            >>> import shrinkwidget as sw
            >>> cost = sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), epochs=2).cost
            >>> sorted(cost.to_dict())
            ['examples', 'macs', 'seconds', 'steps']
        """
        return {"examples": self.examples, "steps": self.steps, "macs": self.macs, "seconds": self.seconds}

    def __repr__(self) -> str:
        return f"{self.examples:,} examples seen in {self.steps:,} steps, {giga(self.macs)} MACs, {self.seconds:.1f} s"


def giga(macs: int) -> str:
    """Return a count as people say it: ``"1.2 G"``."""
    for size, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M")):
        if macs >= size:
            return f"{macs / size:.3g}{unit}"
    return f"{macs:,}"


@dataclass(frozen=True, slots=True)
class CostModel:
    """Multiply-accumulates of one forward pass per example, by the module that does them."""

    by_module: Mapping[str, float]

    @classmethod
    def of(cls, forward: ForwardProfile, rows: int) -> CostModel:
        """Take them from a forward pass of so many examples."""
        found: dict[str, float] = {}
        for name, macs in (*((n.rpartition(".")[0], m) for n, m in forward.macs.items()), *forward.loose.items()):
            found[name] = found.get(name, 0.0) + macs / rows
        return cls(found)

    def training(self, relative: Mapping[str, float]) -> float:
        """Return what one example costs where these relative rates train the network."""
        return sum(m * (_WITH_BACKWARD if relative.get(name, 1.0) else 1) for name, m in self.by_module.items())

    def head(self, name: str) -> float:
        """Return what one example costs where only the head is run, and trains."""
        return self.by_module.get(name, 0.0) * _WITH_BACKWARD

    def below(self, head: str) -> float:
        """Return what one example costs on its way to the head."""
        return sum(macs for name, macs in self.by_module.items() if name != head)


def profile_cost(network: nn.Module, batch: Batch) -> ForwardProfile:
    """Run a network once on a batch, and return what it did."""
    return profile_forward(network, open_model(network, only_to_look=True).entries, batch.kwargs or batch.args)
