"""What arithmetic and memory traffic would take by a published table: a ratio of models, and theory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ..analysis.open_model_tensors_and_channel_axes import open_model
from ..analysis.run_model_seeded_macs_and_memory import preserve_rng_state, profile_forward
from ..argument_checks import public
from ..errors import DataError
from ..evaluation.evaluate_and_metrics import runnable
from .race import Contestant, checked_contestants

SOURCE: Final = "arithmetic and traffic, 45 nm table (Horowitz 2014), theory"
_MAC_PICOJOULES: Final = 3.7 + 0.9
"""A multiplication and an addition of float32."""
_DRAM_PICOJOULES: Final = (1300.0, 2600.0)
"""64 bits from DRAM, the ends of the table's range."""


@dataclass(frozen=True, slots=True, repr=False)
class EnergyRatio:
    """How many times less a model would take than the first, by a table of 45 nm; no measurement, and no joules.

    Args:
        name, first: the two models.
        low, high: the ratio at the two ends of what a read from DRAM takes.
        macs: multiply-accumulates of both, the first's first. Dense kernels multiply zeros, too.
        traffic: bytes read once from DRAM: the weights as they run.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.results.EnergyRatio("small", "dense", 2.0, 2.5, (100, 50), (4000, 1600))
        small: 2.00–2.50× less than dense (arithmetic and traffic, 45 nm table (Horowitz 2014), theory)
    """

    name: str
    first: str
    low: float
    high: float
    macs: tuple[int, int]
    traffic: tuple[int, int]

    def __repr__(self) -> str:
        ends = f"{self.low:.2f}" if round(self.low, 2) == round(self.high, 2) else f"{self.low:.2f}–{self.high:.2f}"
        return f"{self.name}: {ends}× less than {self.first} ({SOURCE})"


@public()
def energy_in_theory(models: Mapping[str, Contestant], x: object) -> tuple[EnergyRatio, ...]:
    """Return how many times less energy models would take than the first, by Horowitz's table of 45 nm.

    Only a ratio: measured joules per multiply-accumulate differ from the table by a factor of a thousand and more, so
    neither joules nor a battery's life follow from it. `race` measures joules where a counter moves. Counted are a
    multiplication and an addition in float32 for each multiply-accumulate, and one read from DRAM of each weight as it
    runs; activations, caches, the system and idle time are not (Horowitz 2014, ISSCC, "Computing's energy problem").

    >>> import torch, shrinkwidget as sw
    >>> model = sw.demo.model()
    >>> small = sw.compress(model, sparsity=0.9, bits=4)  # which computes with all its weights, zeros included
    >>> sw.performance.energy_in_theory({"dense": model, "small": small}, torch.rand(1, 1, 8, 8))
    (small: 1.00× less than dense (arithmetic and traffic, 45 nm table (Horowitz 2014), theory),)

    Args:
        models: modules, or what `compress` returns, by name, the first of which is the measure.
        x: one input, as `summary` takes it.

    Raises:
        ArgumentError: for fewer than two models.
        ModelError, DataError: for what is no module, or cannot run the input.
    """
    checked_contestants("energy_in_theory", models, 2)
    counted: dict[str, tuple[int, int]] = {}
    for name, model in models.items():
        module, _ = runnable(model)
        entries = open_model(module, only_to_look=True).entries
        with preserve_rng_state():
            profile = profile_forward(module, entries, x)
        macs = sum(profile.macs.values()) + sum(profile.loose.values())
        if macs == 0:
            raise DataError(f"{name!r} multiplies nothing, so there is no ratio of energy")
        counted[name] = macs, sum(entry.nbytes for entry in entries)
    first, *others = counted
    return tuple(_ratio(first, name, counted) for name in others)


def _ratio(first: str, name: str, counted: Mapping[str, tuple[int, int]]) -> EnergyRatio:
    (macs, traffic), (own_macs, own_traffic) = counted[first], counted[name]
    ends = sorted(
        (macs * _MAC_PICOJOULES + traffic / 8 * dram) / (own_macs * _MAC_PICOJOULES + own_traffic / 8 * dram)
        for dram in _DRAM_PICOJOULES
    )
    return EnergyRatio(name, first, ends[0], ends[1], (macs, own_macs), (traffic, own_traffic))
