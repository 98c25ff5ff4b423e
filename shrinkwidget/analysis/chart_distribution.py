"""Distributions for pictures: weights per bin of an axis, as they were, as pruning leaves them, and as rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ..recipe_and_method_registry import Plan
from .pruning_estimate import NO_CUT, PruningOutcome
from .quantization_estimate import (
    FEW_BITS,
    LinearGrid,
    Moments,
    UniformPlan,
    chosen_grids,
    codebook,
    nearest_table,
    surviving,
    survivors_in_bins,
)
from .quantization_group_histograms import ATOM, BINS, HIGH, LOW, MIDDLE, Floats, Table, bin_of
from .sketch import LayerSketch, bucket_edges

_EVERYONE: Final = PruningOutcome(0, 0.0, NO_CUT, None)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """Weights by signed value: ascending disjoint stretches [low, high], each evenly filled; zero is a single point."""

    low: Floats
    high: Floats
    before: Floats

    def below(self, x: Floats) -> Floats:
        """Return how many weights lie below each x."""
        # `before[i]` are the weights of all stretches that end below x; of the one x lies in, its share. A stretch of
        # width 0 (a point) counts as above its own place: a value on an edge is in the bin above.
        i = np.searchsorted(self.high, x, side="left")
        j = np.minimum(i, len(self.low) - 1)
        low, width = self.low[j], self.high[j] - self.low[j]
        inside = (np.clip(x, low, self.high[j]) - low) / np.where(width > 0, width, 1.0)
        return self.before[i] + np.where(i < len(self.low), inside * np.diff(self.before)[j], 0.0)

    @property
    def total(self) -> float:
        """All weights."""
        return float(self.before[-1])


def original(layer: LayerSketch, edges: Floats) -> Floats:
    """Return the weights between neighbouring `edges`, ascending ``[bins + 1]``, before anything is done.

    What lies outside the axis is left out.
    """
    return np.diff(_parts(layer, _EVERYONE).below(edges))


def survivors(layer: LayerSketch, survival: PruningOutcome | None, kept: int, edges: Floats) -> Floats:
    """Return the weights per bin after pruning and before rounding; in all, on and off the axis, `kept` of them.

    All of them where it is not known which survive.
    """
    if survival is None:
        return original(layer, edges)
    parts = _parts(layer, survival)
    return np.diff(parts.below(edges)) * _factor(kept, parts.total)


def effective(layer: LayerSketch, plan: Plan, survival: PruningOutcome | None, kept: int, edges: Floats) -> Floats:
    """Return the weights per bin after pruning and rounding: what the network computes with, without what is pruned.

    In all, on and off the axis, there are `kept` of them; a value on an edge is in the bin above (docs/estimate.md).
    """
    if survival is not None and (plan.keep or plan.bits >= 16):
        return survivors(layer, survival, kept, edges)
    bars: tuple[Floats, Floats] | None = None
    if survival is not None:
        bars = plan.coder.bars(layer, plan, survival, kept)
    if bars is None:  # a sketch cannot tell: nothing is drawn
        return np.zeros(len(edges) - 1)
    values, counts = bars
    # counts are spread over all values first, so that what lies off the axis does not make the bars on it taller
    on_axis = (values >= edges[0]) & (values <= edges[-1])
    bins = np.minimum(np.searchsorted(edges, values[on_axis], side="right") - 1, len(edges) - 2)
    per_bin = np.bincount(bins, weights=counts[on_axis], minlength=len(edges) - 1)
    return per_bin.astype(np.float64) * _factor(kept, float(counts.sum()))


def levels(layer: LayerSketch, plan: Plan, survival: PruningOutcome | None) -> Floats:
    """Return the values weights may take, ascending: a codebook's, or the levels of the grid.

    With a scale per channel or group they are those of a typical one, whose range is the root mean square of all.
    Empty for 16 and 32 bits, and for a codebook of nothing.
    """
    if plan.keep or plan.bits >= 16 or survival is None:
        return np.zeros(0)
    found: Floats | None = plan.coder.levels(layer, plan, survival)
    return np.zeros(0) if found is None else found


def _parts(layer: LayerSketch, survival: PruningOutcome) -> _Parts:
    # a picture spreads the buckets of bfloat16 weights, too: as points they would beat against the bins of its axis
    parts = surviving(replace(layer, lossless=False), survival)
    if not len(parts.low):
        return _Parts(np.zeros(1), np.zeros(1), np.zeros(2))
    return _Parts(parts.low, parts.high, np.concatenate([[0.0], np.cumsum(parts.count)]))


def _factor(kept: int, total: float) -> float:
    """Return by what to multiply bars so that they add up to the weights kept, which are known exactly."""
    return kept / total if total > 0 else 1.0


def codebook_bars(layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> tuple[Floats, Floats]:
    """Return the values of a layer's codebook and how many weights each stands for; none where no weight survives."""
    parts = surviving(layer, survival)
    if not len(parts.low):
        return np.zeros(0), np.zeros(0)
    moments = Moments(parts)
    values = codebook(moments, plan.bits)
    return values, moments.cells(values)[0]


def uniform_bars(layer: LayerSketch, plan: UniformPlan, survival: PruningOutcome, kept: int) -> tuple[Floats, Floats]:
    """Return the evenly spaced values that survivors round to, and how many to each."""
    table = nearest_table(layer, plan.granularity)
    grid = _linear_grid(layer, plan, survival)
    step, steps = grid.step, _levels_beside(grid)
    if plan.granularity == "tensor":  # one scale: the cells of its levels, cut out of the value table
        unit = step * layer.absmax
        below, above = _sides(grid, plan, _reach(layer, survival))
        j = np.arange(-below, above + 1, dtype=np.float64)
        parts = _parts(layer, survival)
        ends = np.append(parts.below((j[:-1] + 0.5) * unit), parts.total)
        return j * unit, np.diff(ends, prepend=0.0)
    # many scales: the levels of each run of ranges, weighted by the groups it stands for
    per_bin = _run_counts(layer, table, survival, kept, table.values)
    counts = table.range_count[:, None] * _per_level(per_bin, step, steps)
    magnitudes = np.arange(steps + 1) * (step * table.values[:, None])
    # tables know magnitudes alone: signs are shared out as the whole tensor has them at that magnitude
    positive = _positive_shares(layer)[bin_of(magnitudes / layer.absmax if layer.absmax > 0 else magnitudes)]
    values = np.concatenate([-magnitudes, magnitudes])
    return values.ravel(), np.concatenate([counts * (1 - positive), counts * positive]).ravel()


def uniform_levels(layer: LayerSketch, plan: UniformPlan, survival: PruningOutcome) -> Floats:
    """Return the evenly spaced values of a typical group, whose range is the root mean square of all."""
    table = nearest_table(layer, plan.granularity)
    grid = _linear_grid(layer, plan, survival)
    below, above = _sides(grid, plan, _reach(layer, survival))
    return np.arange(-below, above + 1, dtype=np.float64) * (grid.step * typical_range(table))


def _reach(layer: LayerSketch, survival: PruningOutcome) -> tuple[float, float]:
    """Return how far the survivors reach below and above zero, in units of the layer's largest weight."""
    _, ends = bucket_edges(layer.buckets & 0x7FFF)
    negative = layer.buckets >= 0x8000
    sides = (float(ends[side].max(initial=0.0)) for side in (negative, ~negative))
    below, above = (
        0.0 if layer.absmax == 0 or end < survival.cut.threshold else min(1.0, end / layer.absmax) for end in sides
    )
    return below, above


def _sides(grid: LinearGrid, plan: UniformPlan, reach: tuple[float, float]) -> tuple[int, int]:
    """Return how many levels a grid has below and above zero, in a layer whose weights reach so far.

    An asymmetric grid has levels where the weights are, and at few bits as many as its range leaves over.
    """
    far = _levels_beside(grid)
    if plan.symmetric:
        return far, far
    counted = plan.bits <= FEW_BITS and plan.span not in ("auto", "absmax")
    near = min(far, math.floor((grid.near if counted else min(grid.near, *reach)) / grid.step + 0.5))
    return (far, near) if reach[0] > reach[1] else (near, far)


def sign_levels(layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> Floats:
    """Return the two values of a typical group of one bit: its mean magnitude with either sign."""
    table = nearest_table(layer, plan.granularity)
    typical = typical_range(table)
    # the mean of a group of that range, all its weights kept
    mean = typical * float(_mean(_run_counts(layer, table, survival, layer.n, np.array([typical])))[0])
    return np.array([-mean, mean])


def typical_range(table: Table) -> float:
    """Return the root mean square of the groups' ranges."""
    return float(np.sqrt((table.range_count * table.values**2).sum()))


def _linear_grid(layer: LayerSketch, plan: UniformPlan, survival: PruningOutcome) -> LinearGrid:
    """Return the typical grid of a plan in units of a group's range."""
    found = survivors_in_bins([layer], plan.granularity, [survival])
    grids, _ = chosen_grids([layer], plan, [survival], found)
    return grids[0]


def _levels_beside(grid: LinearGrid) -> int:
    """Return how many levels a picture of a grid has on the far side of zero."""
    return math.floor(min(grid.far, 1.0) / grid.step + 0.5)


def sign_bars(layer: LayerSketch, plan: Plan, survival: PruningOutcome, kept: int) -> tuple[Floats, Floats]:
    """One bit: the survivors' mean magnitude of each run of ranges, with either sign."""
    table = nearest_table(layer, plan.granularity)
    per_bin = _run_counts(layer, table, survival, kept, table.values)
    means = table.values * _mean(per_bin)
    counts = table.range_count * per_bin.sum(1)
    negative = float(layer.counts[layer.buckets >= 0x8000].sum()) / layer.n
    return np.concatenate([-means, means]), np.concatenate([counts * negative, counts * (1 - negative)])


def _run_counts(layer: LayerSketch, table: Table, survival: PruningOutcome, kept: int, ranges: Floats) -> Floats:
    """Return the table's surviving counts per bin in groups of these ranges, shape (ranges, 162)."""
    if survival.curve is not None:
        relative = np.outer(ranges, MIDDLE) / layer.absmax if layer.absmax > 0 else np.zeros((len(ranges), BINS))
        return np.asarray(table.count * survival.curve[bin_of(relative)])
    alive = np.ones((len(ranges), BINS))
    threshold = survival.cut.threshold
    if threshold > 0:
        # The threshold is a magnitude; in a group of range r it is threshold / r of the axis. The bin it cuts is evenly
        # filled.
        start = np.divide(threshold, ranges, out=np.full(len(ranges), np.inf), where=ranges > 0)[:, None]
        alive[:, :ATOM] = np.clip((HIGH[:ATOM] - start) / (HIGH[:ATOM] - LOW[:ATOM]), 0.0, 1.0)
        alive[:, ATOM:] = start < 1
    elif kept < layer.n and table.count[0] > 0:  # only weights that were zero before are pruned
        alive[:, 0] = max(0.0, 1 - (layer.n - kept) / table.count[0])
        alive[ranges == 0] = 0
    return table.count * alive


def _mean(per_bin: Floats) -> Floats:
    """Return the mean relative magnitude of counts per bin, shape (…, 162) to (…); 0 of none."""
    total = per_bin.sum(-1)
    return np.asarray(np.divide(per_bin @ MIDDLE, total, out=np.zeros(total.shape), where=total > 0))


def _per_level(per_bin: Floats, step: float, steps: int) -> Floats:
    """Return how many of the counts per bin, shape (…, 162), round to the levels 0…`steps`, shape (…, steps + 1)."""
    ends = (np.arange(steps) + 0.5) * step
    # a bin that a rounding boundary cuts is evenly filled; the atom is at 1, and rounds as a whole
    i = np.clip(np.searchsorted(HIGH[:ATOM], ends, side="right"), 0, ATOM - 1)
    inside = np.clip((ends - LOW[i]) / (HIGH[i] - LOW[i]), 0.0, 1.0)
    upto = np.cumsum(per_bin[..., :ATOM], axis=-1)
    below = upto[..., i] - (1 - inside) * per_bin[..., i]
    below += per_bin[..., ATOM:] * (np.arange(steps) >= math.floor(1 / step + 0.5))
    return np.diff(below, axis=-1, prepend=0.0, append=upto[..., -1:] + per_bin[..., ATOM:])


def _positive_shares(layer: LayerSketch) -> Floats:
    """Return, per bin of magnitude relative to the tensor's largest, the share of positive weights.

    An empty bin has the share of the next lower one that is not, and if there is none that of the whole tensor.
    """
    parts = _parts(layer, _EVERYONE)
    low, high = LOW * layer.absmax, HIGH * layer.absmax
    # Bins are relative to the group's largest, buckets to nothing: a small bin may hold no bucket at all.
    high[ATOM - 1 :] = np.inf  # the last two bins are one bucket of the value table
    plus, minus = parts.below(high) - parts.below(low), parts.below(-low) - parts.below(-high)
    filled = plus + minus > 0
    nearest: NDArray[np.intp] = np.maximum.accumulate(np.where(filled, np.arange(BINS), -1))
    shares = np.divide(plus, plus + minus, out=np.zeros(BINS), where=filled)
    overall = 1 - float(layer.counts[layer.buckets >= 0x8000].sum()) / layer.n
    return np.asarray(np.where(nearest >= 0, shares[np.maximum(nearest, 0)], overall))
