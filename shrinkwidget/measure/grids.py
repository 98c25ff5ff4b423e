"""What rounding costs, as far as a sketch can tell: relative errors of bins, clipping, codebooks (docs/estimate.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..recipe import Granularity, Plan
from .bins import ATOM, BINS, HIGH, LOW, Floats, bin_of
from .pruned import Survival
from .sketch import LayerSketch, bucket_edges
from .tables import Table

CLIPS: Final = tuple(round(1 - 0.05 * i, 2) for i in range(17))
"""Ranges tried by least squared error, in units of a group's absmax."""
LLOYD: Final = 4
"""Iterations of Lloyd's algorithm an estimate can afford; from a good start they come within 0.3 dB of all."""


def rounding_noise(layer: LayerSketch, plan: Plan, survival: Survival, survivors: float) -> float:
    """Return the energy of the rounding errors of a layer's survivors, whose own energy is `survivors`."""
    if plan.keep or survivors <= 0 or plan.bits == 32:
        return 0.0
    if plan.bits == 16:
        return 0.0 if layer.itemsize == 2 else half_noise(layer, survival)
    if plan.grid == "codebook":
        return codebook_noise(layer, survival, plan.bits)
    if plan.bits == 1:
        return survivors * (1 - _one_bit_capture(layer, plan, survival, survivors))
    return _grid_noise(layer, plan, survival, survivors)


def nearest_table(layer: LayerSketch, granularity: Granularity) -> Table:
    """Return the table of a granularity, or the nearest a sketch has of a group size it has none of."""
    if granularity in layer.tables:
        return layer.tables[granularity]
    wanted = int(granularity)
    if wanted >= layer.matrix[1]:
        return layer.tables["channel"]
    sizes = [g for g in layer.tables if isinstance(g, int)]
    nearest: int = min(sizes, key=lambda size: abs(math.log(size / wanted)))
    return layer.tables[nearest]


def _grid_noise(layer: LayerSketch, plan: Plan, survival: Survival, survivors: float) -> float:
    table = nearest_table(layer, plan.granularity)
    energy = table.energy * survival.shares(table.values, table.range_energy, layer.absmax)
    if energy.sum() <= 0:
        energy = table.energy
    clip = chosen_clip(layer, plan, survival, table, energy)
    total = float(energy.sum())  # 0 of weights whose squares float32, in which tables are sent, cannot hold
    errors = float((relative_error(*step_and_levels(plan, table, clip)) * energy).sum())
    return errors * survivors / total if total > 0 else 0.0


def step_and_levels(plan: Plan, table: Table, clip: float) -> tuple[float, int]:
    """Return (Δ, levels on one side) of a linear grid that spans `clip`, in units of a group's absmax."""
    if plan.symmetric:
        levels = 2 ** (plan.bits - 1) - 1
        return clip / levels, levels
    step = clip * table.stretch / (2**plan.bits - 1)
    return step, math.floor(clip / step + 0.5)


def chosen_clip(layer: LayerSketch, plan: Plan, survival: Survival, table: Table, energy: Floats) -> float:
    """Return the range a plan's grid spans, in units of a group's absmax; `energy`: the survivors' per bin."""
    if plan.range == "absmax":
        return 1.0
    if plan.range == "mse":
        costs = [float((relative_error(*step_and_levels(plan, table, c)) * energy).sum()) for c in CLIPS]
        return CLIPS[int(np.argmin(costs))]
    counts = table.count * survival.shares(table.values, table.range_count, layer.absmax)
    if survival.curve is None and survival.cut.threshold == 0:  # only weights that were zero before are pruned
        counts[0] = max(0.0, counts[0] - (layer.n - survival.kept))
    return _percentile(counts if counts.sum() > 0 else table.count, float(plan.range) / 100)


def _percentile(counts: Floats, share: float) -> float:
    total = np.cumsum(counts)
    wanted = share * total[-1]
    i = int(np.searchsorted(total, wanted, side="left"))
    if i >= ATOM:
        return 1.0
    before = total[i - 1] if i else 0.0
    return float(LOW[i] + (HIGH[i] - LOW[i]) * (wanted - before) / counts[i])


@lru_cache(maxsize=4096)
def relative_error(step: float, levels: int) -> Floats:
    """Return, per bin, the mean squared rounding error over the mean square, on a grid of `levels` steps to a side."""
    end = levels * step
    error = _error_integral(HIGH, step, end) - _error_integral(LOW, step, end)
    ratio = np.ones(BINS)
    ratio[1:ATOM] = 3 * error[1:ATOM] / (HIGH[1:ATOM] ** 3 - LOW[1:ATOM] ** 3)
    ratio[ATOM] = (1 - min(levels, round(1 / step)) * step) ** 2
    return ratio


def _error_integral(x: Floats, step: float, end: float) -> Floats:
    """Return ∫₀ˣ (y − q(y))² dy."""
    inside = np.minimum(x, end)
    k = np.rint(inside / step)
    return k * step**3 / 12 + (inside - k * step) ** 3 / 3 + np.maximum(x - end, 0.0) ** 3 / 3


def _one_bit_capture(layer: LayerSketch, plan: Plan, survival: Survival, survivors: float) -> float:
    """Return the share of the survivors' energy that sign × mean magnitude captures."""
    everyone = _mean_capture(layer, Survival(layer.n, 0.0, survival.cut, np.ones(BINS)), layer.energy)
    captured = _mean_capture(layer, survival, survivors)
    if plan.granularity == "tensor" or everyone >= 1:
        return captured
    finer = min(max((nearest_table(layer, plan.granularity).captured - everyone) / (1 - everyone), 0.0), 1.0)
    return captured + (1 - captured) * finer


def _mean_capture(layer: LayerSketch, survival: Survival, energy: float) -> float:
    low, high, count = surviving_parts(layer, survival)
    total = float((count * np.abs(low + high) / 2).sum())
    return min(max(total**2 / (float(count.sum()) * energy), 0.0), 1.0) if energy > 0 else 1.0


def half_noise(layer: LayerSketch, survival: Survival) -> float:
    """Return the squared error of rounding the survivors to 16 bits: ulp²/12 for each."""
    low, high, count = surviving_parts(layer, survival)
    exponent = np.frexp(np.minimum(np.abs(low), np.abs(high)))[1] - 1.0  # of the bucket's leading bit
    digits, least = (7, -126) if layer.half == "bfloat16" else (10, -14)
    ulp = 2.0 ** (np.maximum(exponent, least) - digits)
    return float((count * ulp * ulp / 12)[(low != 0) | (high != 0)].sum())


@dataclass(frozen=True, slots=True)
class Parts:
    """What is left of each bucket of a value table, ascending in value, signs kept: edges, count, and `reach`.

    `reach` is the width a part stands for: half the distance between the middles of its neighbours.
    """

    low: Floats
    high: Floats
    count: Floats
    reach: Floats


def surviving_parts(layer: LayerSketch, survival: Survival) -> tuple[Floats, Floats, Floats]:
    """Return (low, high, count) of what is left of each bucket of the value table, ascending in value, signs kept."""
    parts = surviving(layer, survival)
    return parts.low, parts.high, parts.count


def surviving(layer: LayerSketch, survival: Survival) -> Parts:
    """Return what a layer's survival leaves of its value table."""
    magnitudes = layer.buckets & 0x7FFF
    low, high = bucket_edges(magnitudes)
    high = low if layer.lossless else high
    negative = layer.buckets >= 0x8000
    wide = reach(*signed(low, high, negative))
    count, share = layer.counts.astype(np.float64), np.ones(len(low))
    if survival.curve is not None:
        middle = np.add(*bucket_edges(magnitudes)) / 2
        count = count * survival.curve[bin_of(middle / layer.absmax if layer.absmax > 0 else middle)]
    elif survival.cut.threshold > 0 or survival.cut.fraction > 0:
        inside = low == survival.cut.low
        share = np.where(low < survival.cut.low, 0.0, np.where(inside, 1 - survival.cut.fraction, 1.0))
        low = low if layer.lossless else np.where(inside, survival.cut.threshold, low)
    count = count * share
    low, high = signed(low, high, negative)
    alive = count > 0
    return Parts(low[alive], high[alive], count[alive], (wide * share)[alive])


def signed(low: Floats, high: Floats, negative: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the edges of buckets of magnitude as edges of values."""
    return np.where(negative, -high, low), np.where(negative, -low, high)


def reach(low: Floats, high: Floats) -> Floats:
    """Return the width each part stands for, its own at least: in a sparse tail the gaps belong to the parts."""
    middle = (low + high) / 2
    if len(middle) < 2:
        return high - low
    gaps = np.diff(middle)
    around = np.concatenate([[2 * gaps[0]], gaps[1:] + gaps[:-1], [2 * gaps[-1]]]) / 2
    return np.maximum(around, high - low)


def codebook_noise(layer: LayerSketch, survival: Survival, bits: int) -> float:
    """Return the squared error of the survivors about the nearest of 2^bits k-means values."""
    moments = Moments(surviving(layer, survival))
    return moments.noise(codebook(moments, bits))


def codebook(moments: Moments, bits: int) -> Floats:
    """Return 2^bits ascending values: Panter and Dite's quantiles (1951), then Lloyd's algorithm."""
    values = moments.companded(2**bits)
    for _ in range(LLOYD):
        count, total, _squares = moments.cells(values)
        values = np.where(count > 0, total / np.maximum(count, 1e-300), values)
    return values


class Moments:
    """Running counts, sums and sums of squares of parts of buckets, each uniform between its edges."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        low, high, count = parts.low, parts.high, parts.count
        total, squares = count * (low + high) / 2, count * (low * low + low * high + high * high) / 3
        self._before = [np.concatenate([[0.0], np.cumsum(x)]) for x in (count, total, squares)]

    def companded(self, levels: int) -> Floats:
        """Return ascending values at the quantiles (i + ½)/levels of the mass count^(1/3)·reach^(2/3)."""
        parts = self.parts
        mass = np.cbrt(parts.count) * np.cbrt(parts.reach) ** 2
        after = np.cumsum(mass)
        wanted = (np.arange(levels) + 0.5) / levels * after[-1]
        i = np.minimum(np.searchsorted(after, wanted, side="left"), len(mass) - 1)
        inside = np.clip((wanted - (after[i] - mass[i])) / np.where(mass[i] > 0, mass[i], 1.0), 0.0, 1.0)
        # neighbours that reach over each other can be out of order
        return np.sort((parts.low[i] + parts.high[i]) / 2 + (inside - 0.5) * parts.reach[i])

    def cells(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (count, Σx, Σx²) of the weights nearest to each value."""
        n, s, q = self._below((values[1:] + values[:-1]) / 2)
        ends = [x[-1] for x in self._before]
        n, s, q = (np.diff(np.concatenate([[0.0], x, [end]])) for x, end in zip((n, s, q), ends, strict=True))
        return n, s, q

    def noise(self, values: Floats) -> float:
        """Return Σ (x − nearest value)²."""
        count, total, squares = self.cells(values)
        return max(0.0, float((squares - 2 * values * total + values * values * count).sum()))

    def _below(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        parts = self.parts
        i = np.searchsorted(parts.high, x, side="left")
        j = np.minimum(i, len(parts.low) - 1)
        low, width = parts.low[j], parts.high[j] - parts.low[j]
        at = np.clip(x, low, parts.high[j])
        inside = np.where(width > 0, (at - low) / np.where(width > 0, width, 1.0), x > low)
        part = np.where(i < len(parts.low), parts.count[j] * inside, 0.0)
        n, s, q = (before[i] for before in self._before)
        return n + part, s + part * (low + at) / 2, q + part * (low * low + low * at + at * at) / 3
