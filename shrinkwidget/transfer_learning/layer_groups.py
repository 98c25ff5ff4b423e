"""The modules of a network from the first to run to the head, and which of them a stage trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from .lora import LowRankUpdate


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """Every module of a network, by name.

    Args:
        heads: the new ones, nearly always one.
        below: all others with parameters of their own, the first to run first; one that is never called itself counts
            as running with the module it is in.
        position: of every module, when it first runs.
        containers: modules without parameters of their own that have others in them.
        updates: the low-rank updates among them.
    """

    heads: tuple[str, ...]
    below: tuple[str, ...]
    position: Mapping[str, int]
    containers: frozenset[str]
    updates: frozenset[str]

    @classmethod
    def of(cls, network: nn.Module, order: Sequence[str], heads: tuple[str, ...]) -> LayerGroups:
        """List the modules of a network, given the order of their first calls."""
        modules = dict(network.named_modules())
        called = {name: place for place, name in enumerate(order)}
        position = {name: _position(name, called) for name in modules}
        owners = [
            name for name, module in modules.items() if list(module.parameters(recurse=False)) and name not in heads
        ]
        containers = {name for name in modules if name not in owners and list(modules[name].children())}
        updates = {name for name, module in modules.items() if isinstance(module, LowRankUpdate)}
        below = tuple(sorted(owners, key=position.__getitem__))
        return cls(heads, below, position, frozenset(containers), frozenset(updates))

    def only(self, *trained: str) -> dict[str, float]:
        """Return the relative rates that freeze all but some modules."""
        return {name: float(name in trained) for name in self.position}

    def all_at(self, share: float) -> dict[str, float]:
        """Return the relative rates that give all but the head a share of its rate."""
        return {name: 1.0 if name in self.heads else share for name in self.position}

    def top(self, count: int, share: float) -> dict[str, float]:
        """Return the relative rates that train the head, and the last `count` layers below it at a share of its rate.

        What has no parameters (dropout, norms without any) trains with what runs before it.
        """
        if not count:
            return self.only(*self.heads)
        active = set(self.below[-count:])
        cut = self.position[self.below[-count]]

        def trains(name: str) -> bool:
            if name in self.below:
                return name in active
            if name in self.containers:
                return any(_inside(layer, name) for layer in active)
            return self.position[name] >= cut

        return {name: share * trains(name) for name in self.position} | dict.fromkeys(self.heads, 1.0)

    def alone(self, relative: Mapping[str, float]) -> bool:
        """Tell whether nothing but the head trains."""
        return relative == self.only(*self.heads)


def _position(name: str, called: Mapping[str, int]) -> int:
    while name and name not in called:
        name = name.rpartition(".")[0]
    return called.get(name, 0)


def _inside(layer: str, container: str) -> bool:
    return not container or layer.startswith(f"{container}.")
