"""Estimate from a sketch which weights survive pruning: ranks, thresholds, survival curves (docs/estimate.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from weakref import WeakKeyDictionary, ref

import numpy as np

from ..recipe_and_method_registry import Plan, Recipe
from .estimate_class_and_packed_file_header import zeros_dropped
from .quantization_group_histograms import ATOM, BINS, HIGH, LOW, MIDDLE, Floats, bin_of
from .sketch import LayerSketch, Magnitudes, block_count, bucket_edges, mean_square
from .tensor_ops_threads_and_cpu_kernel import NM_PATTERNS

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


def shares(layers: Sequence[LayerSketch], outcomes: Sequence[PruningOutcome], ranges: Floats, weight: Floats) -> Floats:
    """Return, per relative bin, the share of the groups in which its weights survive, shape (layers, 162).

    `ranges` are those of the groups in runs, `weight` the share of each run, shape (layers, 64).
    """
    thresholds = np.array([0.0 if each.curve is not None else each.cut.threshold for each in outcomes])
    found = np.empty((len(layers), BINS))
    for i in np.flatnonzero(thresholds == 0).tolist():
        used, curve = ranges[i] > 0, outcomes[i].curve
        if curve is None:
            found[i] = weight[i, used].sum()
        else:
            found[i] = weight[i, used] @ curve[bin_of(np.outer(ranges[i, used], MIDDLE) / layers[i].absmax)]
    cut = np.flatnonzero(thresholds)
    if not len(cut):
        return found
    # A threshold t prunes magnitudes relative to a range r below t / r. Each run of groups has its own r, so that
    # the runs cut the bins at different places: whole bins above are counted by a running sum, the cut one in part.
    threshold, ranges, weight = thresholds[cut, None], ranges[cut], weight[cut]
    above = ranges > threshold
    start = np.divide(threshold, ranges, out=np.zeros_like(ranges), where=above)
    weight = np.where(above, weight, 0.0)
    bins = np.minimum(np.searchsorted(HIGH, start, side="right"), ATOM - 1)
    high = HIGH[bins]
    part = weight * np.maximum(high - start, 0.0) / (high - LOW[bins])
    # the bins of all layers one after the other
    place = (bins + BINS * np.arange(len(cut))[:, None]).ravel()
    whole = np.bincount(place + 1, weight.ravel(), BINS * len(cut)).reshape(-1, BINS).cumsum(1)
    found[cut] = np.bincount(place, part.ravel(), BINS * len(cut)).reshape(-1, BINS) + whole
    return found


def alike(plans: Sequence[Plan]) -> list[tuple[Plan, list[int]]]:
    """Return the different plans there are, with the places of each: layers under one plan are estimated at once."""
    found: dict[Plan, list[int]] = {}
    same = {id(plan): found.setdefault(plan, []) for plan in {id(plan): plan for plan in plans}.values()}
    for i, plan in enumerate(plans):
        same[id(plan)].append(i)
    return list(found.items())


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
        m = layer.magnitudes
        counts[m.low.astype(np.float32).view(np.int32) >> 16] += m.count  # as `bucket_edges` has them
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
    m, low = layer.magnitudes, cut.low
    if low == 0 and layer.zeros and cut.fraction * m.count[0] <= layer.zeros:
        return _but_zeros(layer, layer.zeros)
    i = int(m.low.searchsorted(low))  # of a global cut, this layer may have no such bucket
    # plain floats, in which Python adds up single numbers several times as fast as in numpy's
    count, energy = m.before.item(i), m.energy.item(i)
    if i < len(m.low) and m.low.item(i) == low:
        part = m.count.item(i) * cut.fraction  # weights are spread evenly over a bucket, as far as anybody knows
        square = low * low if layer.lossless else mean_square(low, cut.threshold)
        count, energy = count + part, energy + part * square
    return PruningOutcome(layer.n - round(round(count, 6)) if kept is None else kept, energy, cut, None)


def cut_at(m: Magnitudes, k: int) -> BucketCut:
    """Return the cut that prunes the k smallest magnitudes."""
    if k <= 0:
        return NO_CUT
    # the bucket that holds rank k; inside it the threshold follows by linear interpolation
    i = min(int(np.searchsorted(m.before, k - _ABOUT, side="left")), len(m.count)) - 1
    return BucketCut(float(m.low[i]), float(m.high[i]), min(1.0, float((k - m.before[i]) / m.count[i])))
