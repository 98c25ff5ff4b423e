"""Estimate from a sketch which weights survive pruning: ranks, thresholds, survival curves (docs/estimate.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary, ref

import numpy as np

from ..recipe import Plan, Recipe
from .file_structure_and_size import zeros_dropped
from .quantization_group_histograms import ATOM, BINS, HIGH, LOW, MIDDLE, NM_PATTERNS, Floats, bin_of
from .sketch import LayerSketch, Magnitudes, block_count, bucket_edges, mean_square

_ABOUT: Final = 1e-6
"""Counts of a layer without some channels are no whole numbers: sums in another order differ by less than this."""


@dataclass(frozen=True, slots=True)
class BucketCut:
    """Where a magnitude ranking is cut: `fraction` of the bucket [low, high) is pruned and all below it."""

    low: float
    high: float
    fraction: float

    @property
    def threshold(self) -> float:
        """The magnitude below which weights are pruned."""
        return self.low + (self.high - self.low) * self.fraction


NO_CUT = BucketCut(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class PruningOutcome:
    """Pruning outcome of one layer: kept count, pruned energy, survival curve.

    `cut` for magnitude pruning; otherwise `curve`, the kept fraction per bin of the tensor's relative magnitude.
    """

    kept: int
    pruned_energy: float
    cut: BucketCut
    curve: Floats | None

    def shares(self, u_range: Floats, weight: Floats, absmax: float) -> Floats:
        """Return, per relative bin, the share of the groups with ranges `u_range` in which its weights survive.

        `weight`: the share of each run of groups, shape (64,).
        """
        used = u_range > 0
        ranges, weight = u_range[used], weight[used]
        if self.curve is not None:
            return np.asarray(weight @ self.curve[bin_of(np.outer(ranges, MIDDLE) / absmax)])
        if self.cut.threshold == 0:
            return np.full(len(LOW), weight.sum())
        # A threshold t prunes magnitudes relative to a range r below t / r. Each run of groups has its own r, so that
        # the runs cut the bins at different places: whole bins above are counted by a running sum, the cut one in part.
        above = ranges > self.cut.threshold
        start, weight = self.cut.threshold / ranges[above], weight[above]
        bins = np.minimum(np.searchsorted(HIGH, start, side="right"), ATOM - 1)
        part = weight * np.maximum(HIGH[bins] - start, 0.0) / (HIGH[bins] - LOW[bins])
        whole = np.bincount(bins + 1, weight, BINS).cumsum()
        return np.asarray(np.bincount(bins, part, BINS) + whole)


def survivals(layers: Sequence[LayerSketch], plans: Sequence[Plan], recipe: Recipe) -> list[PruningOutcome | None]:
    """Return what becomes of each layer under its plan; None where the importance cannot be estimated."""
    magnitude = recipe.importance.of_magnitude
    ranked = [layer for layer, plan in zip(layers, plans, strict=True) if plan.scope == "global"] if magnitude else []
    shared = NO_CUT
    if k := round(recipe.sparsity * sum(layer.n for layer in ranked)):
        counts, before = _counts_of_all(ranked)
        i = min(int(np.searchsorted(before, k - _ABOUT, side="left")), len(before) - 1)
        low, high = bucket_edges(np.array([i]))
        shared = BucketCut(float(low[0]), float(high[0]), min(1.0, float(1 - (before[i] - k) / counts[i])))
    return [
        untouched(layer) if plan.keep else recipe.importance.survival(layer, plan, shared)
        for layer, plan in zip(layers, plans, strict=True)
    ]


def _counts_of_all(layers: Sequence[LayerSketch]) -> tuple[Floats, Floats]:
    """Return how many weights of all layers are in each bucket of magnitude, and how many up to it."""
    known = _SUMMED.get(layers[0])
    if known is not None and [layer() for layer in known[0]] == list(layers):
        return known[1:]
    # buckets are the same in each layer, so their counts add up; layer by layer, as all at once would fill large arrays
    counts = np.zeros(0x8000)
    for layer in layers:
        negative = int(np.count_nonzero(layer.buckets & 0x8000))  # they come first
        counts[layer.buckets[:negative] & 0x7FFF] += layer.counts[:negative]
        counts[layer.buckets[negative:]] += layer.counts[negative:]
    counts = np.trim_zeros(counts, "b")  # up to the largest magnitude there is
    found = counts, np.cumsum(counts)
    _SUMMED[layers[0]] = [ref(layer) for layer in layers], *found
    return found


_SUMMED: WeakKeyDictionary[LayerSketch, tuple[list[ref[LayerSketch]], Floats, Floats]] = WeakKeyDictionary()
"""What `_counts_of_all` found, by the first of the layers: it recurs while a slider moves."""


def untouched(layer: LayerSketch) -> PruningOutcome:
    """Return the survival of a layer of which all is kept."""
    return PruningOutcome(layer.n, 0.0, NO_CUT, None)


def by_magnitude(layer: LayerSketch, plan: Plan, shared: BucketCut) -> PruningOutcome | None:
    """Return the survival of the largest magnitudes; `shared` is the cut of all layers that are ranked together."""
    if plan.structure.sparsity is not None:
        curve = layer.survival.get(plan.structure.kind)
        if curve is None:
            return None
        # `energy` of a table are shares of the whole
        pruned = float(((1 - curve) * layer.tables["tensor"].energy).sum()) * layer.energy
        return PruningOutcome(layer.blocks[plan.structure.kind], pruned, NO_CUT, curve)
    if plan.scope == "global":
        return _nothing_asked(layer, plan) if shared == NO_CUT else _below(layer, shared)
    k = round(plan.sparsity * layer.n)
    if plan.scope == "channel" and round(plan.sparsity * layer.matrix[1]):
        return None  # the tables do not say which weights share a channel
    return _below(layer, cut_at(layer.magnitudes, k), layer.n - k) if k else _nothing_asked(layer, plan)


def at_random(layer: LayerSketch, plan: Plan) -> PruningOutcome | None:
    """Return the survival by chance; how many of the zeros that were there it takes is an expectation."""
    if plan.structure.sparsity is not None:
        if plan.structure.kind not in layer.survival:
            return None
        left = block_count(layer.matrix, *NM_PATTERNS[plan.structure.kind])
    elif plan.scope == "channel":
        return None
    else:
        left = layer.n - round(plan.sparsity * layer.n)
    # chance takes of every magnitude the same share
    density = left / layer.n
    # a zero that chance spares is stored as a pruned weight all the same
    kept = _nothing_asked(layer, plan).kept if left == layer.n else round(left * (layer.n - layer.zeros) / layer.n)
    return PruningOutcome(kept, (1 - density) * layer.energy, NO_CUT, np.full(len(LOW), density))


def _nothing_asked(layer: LayerSketch, plan: Plan) -> PruningOutcome:
    """Return the survival where the recipe prunes nothing: zeros that are there may count as pruned."""
    return _but_zeros(layer, zeros_dropped(layer.n, layer.zeros, layer.negative_zeros, plan, layer.itemsize))


def _but_zeros(layer: LayerSketch, zeros: int) -> PruningOutcome:
    if not zeros:
        return untouched(layer)
    # a cut at zero that takes a part of the lowest bucket: the zeros in it, and not the smallest numbers beside them
    part = min(1.0, zeros / float(layer.magnitudes.count[0]))  # zeros are rounded where channels are gone
    return PruningOutcome(layer.n - zeros, 0.0, BucketCut(0.0, 0.0, part), None)


def _below(layer: LayerSketch, cut: BucketCut, kept: int | None = None) -> PruningOutcome:
    """Return the survival of the weights at or above a cut; zeros are always below it."""
    m = layer.magnitudes
    if cut.low == 0 and layer.zeros and cut.fraction * m.count[0] <= layer.zeros:
        return _but_zeros(layer, layer.zeros)
    i = int(np.searchsorted(m.low, cut.low))  # of a global cut, this layer may have no such bucket
    count, energy = float(m.before[i]), float(m.energy[i])
    if i < len(m.low) and m.low[i] == cut.low:
        part = m.count[i] * cut.fraction  # weights are spread evenly over a bucket, as far as anybody knows
        square = m.low[i] ** 2 if layer.lossless else float(mean_square(m.low[i : i + 1], np.array([cut.threshold]))[0])
        count, energy = count + part, energy + part * square
    return PruningOutcome(layer.n - round(round(count, 6)) if kept is None else kept, energy, cut, None)


def cut_at(m: Magnitudes, k: int) -> BucketCut:
    """Return the cut that prunes the k smallest magnitudes."""
    if k <= 0:
        return NO_CUT
    # the bucket that holds rank k; inside it the threshold follows by linear interpolation
    i = min(int(np.searchsorted(m.before, k - _ABOUT, side="left")), len(m.count)) - 1
    return BucketCut(float(m.low[i]), float(m.high[i]), min(1.0, float((k - m.before[i]) / m.count[i])))
