"""What a planner can give each layer, and what it costs: bytes and error of every choice, from a sketch alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..analysis.estimate_class_and_packed_file_header import Ints, code_and_mask_bytes, scale_bytes
from ..analysis.pruning_estimate import NO_CUT
from ..analysis.quantization_estimate import rounding_noise
from ..analysis.sketch import LayerSketch
from ..errors import ArgumentError, NoEstimateError, quoted
from ..recipe_and_method_registry import Granularity, Importance, Plan, Quantizer, Structure

Floats: TypeAlias = NDArray[np.float64]

# What is left shrinks by about an eighth from one to the next: finer steps change a layer's error by less than the
# estimate is off.
SPARSITIES: Final = (
    0.0, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.74, 0.78, 0.81, 0.84, 0.86, 0.88, 0.9, 0.92, 0.93, 0.94, 0.95,
    0.96, 0.97, 0.98,
)  # fmt: skip
BITS: Final = (2, 3, 4, 5, 6, 8, 16, 32)

# The relative rounding error of the survivors moves slowly with the sparsity: taken at these and interpolated, the
# error of a layer is within 0.8 dB of the estimate's, which is itself off by as much.
_KNOTS: Final = (0.0, 0.4, 0.7, 0.86, 0.94, 0.98)


@dataclass(frozen=True)
class Choices:
    """What may be chosen for a layer: sparsities (ascending), bits, granularities and quantizers, combined freely.

    Codes of 16 and 32 bits are floats, and have neither granularity nor quantizer. Weights are ranked by `importance`,
    and a `structure` that fixes the sparsity leaves none to choose.
    """

    importance: Importance
    structure: Structure
    granularities: tuple[Granularity, ...]
    quantizers: tuple[Quantizer, ...]
    sparsities: tuple[float, ...] = SPARSITIES
    bits: tuple[int, ...] = BITS

    def restricted(self, override: Mapping[str, Any]) -> Choices:
        """Return the choices that agree with what a recipe says of a layer."""
        fields = {"sparsity": "sparsities", "bits": "bits", "granularity": "granularities", "quantizer": "quantizers"}
        own: dict[str, Any] = {several: (override[name],) for name, several in fields.items() if name in override}
        structure = override.get("structure", self.structure)
        if structure.sparsity is not None:
            own["sparsities"] = (structure.sparsity,)
        return replace(self, structure=structure, **own)

    def limited(self, limits: Mapping[str, tuple[float, float]]) -> Choices:
        """Return the choices within limits, such as ``{"bits": (4, 8), "sparsity": (0, 0.5)}``."""
        (low, high), (least, most) = limits.get("bits", (1, 32)), limits.get("sparsity", (0, 1))
        return replace(
            self,
            bits=tuple(b for b in self.bits if low <= b <= high),
            sparsities=tuple(s for s in self.sparsities if least <= s <= most),
        )

    @cached_property
    def plans(self) -> list[Plan]:
        """What each way to quantize asks of a layer; the sparsity is not that of a choice."""
        found: dict[Any, Plan] = {}
        if not self.sparsities:
            return []
        for bits in self.bits:
            for quantizer in self.quantizers:
                for granularity in self.granularities:
                    if bits <= 8 and bits not in quantizer.widths:
                        continue
                    plan = Plan(False, "layer", self.sparsities[0], bits, self.structure, granularity, quantizer)
                    floats, scaled = bits > 8, bits <= 8 and plan.coder.has_scales
                    # floats have neither, and a codebook is one for all of a layer
                    found.setdefault((bits, None if floats else quantizer, granularity if scaled else None), plan)
        return list(found.values())

    def __len__(self) -> int:
        return len(self.plans) * len(self.sparsities)

    def fields(self, choice: int) -> dict[str, Any]:
        """Return what an override has to say of a choice."""
        plan = self.plans[choice // len(self.sparsities)]
        found: dict[str, Any] = {"sparsity": self.sparsities[choice % len(self.sparsities)], "bits": plan.bits}
        if plan.bits <= 8:
            found |= {"quantizer": plan.quantizer}
            found |= {"granularity": plan.granularity} if plan.coder.has_scales else {}
        return found


@dataclass(frozen=True, eq=False)
class LayerOptions:
    """What every choice makes of one layer: its bytes in the packed file, and its relative error.

    Arrays have an entry for each of the `choices`: the bytes of `codes`, `mask` and `scales` and the weights `kept`,
    exactly, and `error` = Σ (w − effective w)² / Σ w², estimated, 0…1.
    """

    layer: LayerSketch
    choices: Choices
    codes: Ints
    mask: Ints
    scales: Ints
    kept: Ints
    error: Floats

    @property
    def nbytes(self) -> Ints:
        """The bytes of the layer, without its share of the header."""
        return self.codes + self.mask + self.scales


def layer_options(layers: Sequence[LayerSketch], choices: Choices) -> list[LayerOptions]:
    """Return what every choice makes of each of some layers.

    Raises:
        ArgumentError: if there is nothing to choose from.
        NoEstimateError: for an importance, a structure or a quantizer of which a sketch cannot tell the error.
    """
    if not len(choices):
        raise ArgumentError(
            f"nothing is left to choose for {quoted(layers[0].label)}: its limits, its override and what there is to "
            f"choose from contradict each other"
        )
    knots, asked = _knots(choices)
    lost, noise = _errors_at_knots(layers, choices, knots, asked)
    return [_options(layer, choices, knots, asked, lost[i], noise[i]) for i, layer in enumerate(layers)]


def _options(
    layer: LayerSketch, choices: Choices, knots: Floats, asked: NDArray[np.bool_], lost: Floats, noise: Floats
) -> LayerOptions:
    """Return what every choice makes of a layer, from the errors of some; see `_errors_at_knots`."""
    pruned, plans = np.array(choices.sparsities), choices.plans
    cut = np.rint(pruned * layer.n)
    kept = _kept(layer, choices, cut)
    # by magnitude the value table tells the energy below any cut, and no knots are needed
    if choices.importance.of_magnitude and choices.structure.sparsity is None:
        m = layer.magnitudes
        share = np.interp(cut, m.before, m.energy)
    else:
        share = np.interp(pruned, knots, lost)
    share = share / layer.energy if layer.energy > 0 else np.zeros(len(pruned))
    codes, mask, scales, error = [], [], [], []
    for row, plan in enumerate(plans):
        some, bits = code_and_mask_bytes(layer.n, kept[row], plan, layer.itemsize)
        codes.append(some)
        mask.append(bits)
        scales.append(np.full(len(pruned), scale_bytes(layer.matrix, plan)))
        wrong = share + (1 - share) * np.interp(pruned, knots[asked[row]], noise[row, asked[row]])
        # where all weights have codes, pruning saves no byte, and nothing is nearer than what rounds to nearest
        error.append(np.where(bits == 0, np.maximum(wrong, wrong[0]), wrong))
    return LayerOptions(
        layer,
        choices,
        codes=np.concatenate(codes).astype(np.int64),
        mask=np.concatenate(mask).astype(np.int64),
        scales=np.concatenate(scales).astype(np.int64),
        kept=kept.reshape(-1),
        error=np.clip(np.concatenate(error), 0.0, 1.0),
    )


def _knots(choices: Choices) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the sparsities at which errors are looked up, (n,), and of which plans they are, (plans, n).

    Those of all others are interpolated: few are enough, and each costs time.
    """
    pruned = np.array(choices.sparsities)
    knots = np.array([s for s in _KNOTS if pruned[0] < s < pruned[-1]])
    knots = np.unique(np.concatenate([pruned[:1], knots, pruned[-1:]]))
    # beside what is pruned, errors of many bits are small, and those of floats next to nothing
    return knots, np.array([_rarely(len(knots), plan.bits) for plan in choices.plans])


def _errors_at_knots(
    layers: Sequence[LayerSketch], choices: Choices, knots: Floats, asked: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return the energy that is pruned of each layer at each knot, (layers, n), and the relative rounding error.

    That is the error of what is left, of every plan, (layers, plans, n); zero where nobody asks for it.
    """
    plans = choices.plans
    noise, lost = np.zeros((len(layers), len(plans), len(knots))), np.zeros((len(layers), len(knots)))
    energy = np.array([layer.energy for layer in layers])
    for place, knot in enumerate(knots):
        at = replace(plans[0], sparsity=float(knot))
        outcomes = []
        for layer in layers:
            outcome = choices.importance.survival(layer, at, NO_CUT)
            if outcome is None:
                raise _no_estimate(choices.structure if choices.structure.sparsity else choices.importance, layer)
            outcomes.append(outcome)
        lost[:, place] = [outcome.pruned_energy for outcome in outcomes]
        survivors = energy - lost[:, place]
        for row in np.flatnonzero(asked[:, place]):
            found = rounding_noise(layers, plans[row], outcomes)
            if None in found:
                raise _no_estimate(plans[row].quantizer, layers[found.index(None)])
            errors = np.array(found, dtype=np.float64)
            noise[:, row, place] = np.divide(errors, survivors, out=np.zeros(len(layers)), where=survivors > 0)
    return lost, noise


def _kept(layer: LayerSketch, choices: Choices, cut: Floats) -> Ints:
    """Return how many weights are left of every plan where so many are cut, exactly: (plans, sparsities)."""
    # zeros that are there count as pruned
    left = layer.n - np.maximum(cut, layer.zeros).astype(np.int64)
    kept = np.tile(left, (len(choices.plans), 1))
    # a structure keeps a number of its own; and where nothing is cut, zeros go only of a plan that can leave them out
    if choices.structure.sparsity is not None or (layer.zeros and not cut[0]):
        for row, plan in enumerate(choices.plans):
            first = choices.importance.survival(layer, plan, NO_CUT)
            kept[row, 0] = layer.n if first is None else first.kept
    return kept


def _rarely(knots: int, bits: int) -> NDArray[np.bool_]:
    """Return at which of the knots the rounding error of so many bits is looked up: the fewer, the less it counts."""
    places = np.arange(knots)
    every: NDArray[np.bool_] = places % (1 if bits <= 3 else 2 if bits == 4 else 3 if bits <= 8 else knots) == 0
    return every


def _no_estimate(kind: Importance | Structure | Quantizer, layer: LayerSketch) -> NoEstimateError:
    return NoEstimateError(
        f"{kind.role} {kind.kind!r} has no estimate from a sketch (layer {quoted(layer.label)}), so that there is "
        f"nothing to plan by: plan with another one, and change the recipe afterwards"
    )
