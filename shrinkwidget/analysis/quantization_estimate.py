"""What rounding costs, as far as a sketch can tell: relative errors of bins, clipping, codebooks (docs/estimate.md)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from ..recipe_and_method_registry import Granularity, Plan
from .pruning_estimate import NO_CUT, PruningOutcome, shares
from .quantization_group_histograms import ATOM, BINS, HIGH, LOW, MIDDLE, RATIOS, Floats, Table, bin_of
from .sketch import LayerSketch, bucket_edges

CLIPS: Final = 1.0, 0.75, 0.5, 0.25
"""Ranges tried first for the least squared error, in units of a group's absmax."""
CLIP_STEPS: Final = 1 / 8, 1 / 16
"""How far on either side of the best range so far the next two are tried. All sixteenths gain 0.05 dB at most."""
FEW_BITS: Final = 3
"""Bits up to which a clipped asymmetric grid is estimated to end on a level; above, where the range is cut."""
EVEN: Final = 0.999
"""From this share on of groups on one side of zero, or equally far to both, a layer may be quantized already."""
GRAIN: Final = 256
"""Extents are rounded to 1/256 of the range, except for percentiles, so that layers share their tables of errors."""
LLOYD: Final = 4
"""Iterations of Lloyd's algorithm an estimate can afford; from a good start they come within 0.3 dB of all."""


@dataclass(frozen=True, slots=True)
class UniformPlan:
    """How a layer is quantized to evenly spaced values, 2 to 8 bits: what exact fits and estimates of it have to know.

    `clipping` is what the recipe asks for: ``"auto"``, ``"absmax"``, ``"mse"``, or a percentile; `span` what the values
    therefore span, one of the same.
    """

    bits: int
    granularity: Granularity
    symmetric: bool
    clipping: str | float
    span: str | float


def rounding_noise(
    layers: Sequence[LayerSketch], plan: Plan, survivals: Sequence[PruningOutcome]
) -> list[float | None]:
    """Return the energy of the rounding errors of the survivors of layers under one plan.

    It is never more than the survivors' own: zero, or a mean, is among the values of every quantizer. None if a sketch
    cannot tell.
    """
    found: list[float | None] = [0.0] * len(layers)
    if plan.keep or plan.bits == 32:
        return found
    survivors = [layer.energy - each.pruned_energy for layer, each in zip(layers, survivals, strict=True)]
    places = [
        i for i, energy in enumerate(survivors) if energy > 0 and not (plan.bits == 16 and layers[i].itemsize == 2)
    ]
    some, outcomes = [layers[i] for i in places], [survivals[i] for i in places]
    energies = [survivors[i] for i in places]
    noises: Sequence[float | None] = (
        list(map(half_noise, some, outcomes)) if plan.bits == 16 else plan.coder.noises(some, plan, outcomes, energies)
    )
    for i, noise, energy in zip(places, noises, energies, strict=True):
        found[i] = None if noise is None else min(noise, energy)
    return found


def nearest_table(layer: LayerSketch, granularity: Granularity) -> Table:
    """Return the table of a granularity, or the nearest a sketch has of a group size it has none of."""
    # also of a group size it has: rows are shorter where channels are gone
    if isinstance(granularity, int) and granularity >= layer.matrix[1]:
        return layer.tables["channel"]
    if granularity in layer.tables:
        return layer.tables[granularity]
    wanted = int(granularity)
    sizes = [g for g in layer.tables if isinstance(g, int)]
    # in log g: ranges grow slowly with the number of weights that they are the largest of
    nearest: int = min(sizes, key=lambda size: abs(math.log(size / wanted)))
    return layer.tables[nearest]


@dataclass(frozen=True, slots=True)
class LinearGrid:
    """A linear grid in units of a group's range: its step, and where it ends on either side of zero.

    `far`: on the side of the group's outermost weight; `near`: on the other one.
    """

    step: float
    far: float
    near: float


def uniform_noise(
    layers: Sequence[LayerSketch],
    plan: UniformPlan,
    survivals: Sequence[PruningOutcome],
    survivors: Sequence[float],
) -> list[float]:
    """Return the squared errors of rounding the survivors of layers, of these energies, to evenly spaced values."""
    # A drag of the sparsity asks thirty times a second. Only a cut or a curve of its own moves with it; of all weights,
    # and of those an n:m pattern keeps, what was found once holds.
    relative = np.zeros(len(layers))
    moving: list[int] = []
    settled: list[tuple[int, dict[tuple[UniformPlan, str], float], str]] = []
    for i, (layer, survival) in enumerate(zip(layers, survivals, strict=True)):
        pattern = "" if survival.curve is None else _pattern(layer, survival.curve)
        if pattern is None or survival.cut != NO_CUT:
            moving.append(i)
            continue
        known = _SETTLED.setdefault(layer, {})
        if (plan, pattern) not in known:
            moving.append(i)
            settled.append((i, known, pattern))
        else:
            relative[i] = known[plan, pattern]
    if moving:
        relative[moving] = _relative_noise([layers[i] for i in moving], plan, [survivals[i] for i in moving])
    for i, known, pattern in settled:
        if len(known) >= MOST_SETTLED:
            known.clear()
        known[plan, pattern] = float(relative[i])
    return [energy * noise for energy, noise in zip(survivors, relative.tolist(), strict=True)]


def _pattern(layer: LayerSketch, curve: Floats) -> str | None:
    return next((name for name, known in layer.survival.items() if known is curve), None)


_SETTLED: WeakKeyDictionary[LayerSketch, dict[tuple[UniformPlan, str], float]] = WeakKeyDictionary()
MOST_SETTLED: Final = 256


def _relative_noise(layers: Sequence[LayerSketch], plan: UniformPlan, survivals: Sequence[PruningOutcome]) -> Floats:
    """Return the squared errors of rounding over the energies of what is rounded, shape (layers,)."""
    found = survivors_in_bins(layers, plan.granularity, survivals)
    _, noise = chosen_grids(layers, plan, survivals, found)
    if plan.clipping == "auto" and not plan.symmetric:
        # as many levels on either side: exact where weights are on such a grid
        even = _dots(found.energy, _grid_errors(_even_grid(plan.bits, 1.0)).error)
        quantized = (plan.bits == 2) | (found.ratios[:, 0] + found.ratios[:, -1] > EVEN)
        noise = np.where(quantized, np.minimum(noise, even), noise)
    total = found.energy.sum(1)  # 0 of weights whose squares float32, in which tables are sent, cannot hold
    return np.asarray(np.divide(noise, total, out=np.zeros(len(layers)), where=total > 0))


@dataclass(frozen=True, slots=True, eq=False)
class SurvivorsInBins:
    """What survives of layers, in their tables of a granularity.

    `table`: theirs, with an axis for layers before all others. `energy`: of the survivors per bin, shape (layers, 162).
    `ratios`: of the survivors' groups, shape (layers, 9).
    """

    table: Table
    energy: Floats
    ratios: Floats


def survivors_in_bins(
    layers: Sequence[LayerSketch], granularity: Granularity, survivals: Sequence[PruningOutcome]
) -> SurvivorsInBins:
    """Return what survives of layers, in the table of a granularity."""
    # a planner asks for all bits of one sparsity in turn, and only how they round differs between them
    asked = granularity, [each.cut for each in survivals]
    curved = any(each.curve is not None for each in survivals)
    known = None if curved else _LAST_SURVIVORS.get(layers[0])
    if known is not None and known[0] == asked and _are(known[1], layers):
        return known[2]
    table = _stacked(layers, granularity)
    # rounding errors of a bin are proportional to its energy, whatever the group's range
    energy = table.energy * shares(layers, survivals, table.values, table.range_energy)
    nothing = energy.sum(1) <= 0  # in any group of the table, which is of a sample
    energy[nothing] = table.energy[nothing]
    found = SurvivorsInBins(table, energy, _surviving_ratios(table, survivals))
    if not curved:
        _LAST_SURVIVORS[layers[0]] = asked, [ref(layer) for layer in layers], found
    return found


def _are(known: Sequence[ref[LayerSketch]], layers: Sequence[LayerSketch]) -> bool:
    return len(known) == len(layers) and all(one() is layer for one, layer in zip(known, layers, strict=True))


_LAST_SURVIVORS: WeakKeyDictionary[LayerSketch, tuple[Any, list[ref[LayerSketch]], SurvivorsInBins]] = (
    WeakKeyDictionary()
)
"""What was found last of layers, by the first of them."""


def _stacked(layers: Sequence[LayerSketch], granularity: Granularity) -> Table:
    """Return the tables of layers as one, whose arrays have an axis for layers before their own."""
    known = _STACKED.get(layers[0])
    if known is not None and known[0] == granularity and _are(known[1], layers):
        return known[2]
    tables = [nearest_table(layer, granularity) for layer in layers]
    columns = {
        field.name: np.stack([getattr(table, field.name) for table in tables])
        for field in fields(Table)
        if field.name != "captured"
    }
    found = Table(**columns, captured=math.nan)  # which is one number, and of no use to evenly spaced values
    _STACKED[layers[0]] = granularity, [ref(layer) for layer in layers], found
    return found


_STACKED: WeakKeyDictionary[LayerSketch, tuple[Granularity, list[ref[LayerSketch]], Table]] = WeakKeyDictionary()
"""The tables stacked last, by the first of their layers: while a slider moves, they are those of the same layers."""


def _surviving_ratios(table: Table, survivals: Sequence[PruningOutcome]) -> Floats:
    """Return the shares of Σa² by ratio, as `Table.ratios`, of the survivors: an end below the threshold is pruned."""
    threshold = np.array([0.0 if each.curve is not None else each.cut.threshold for each in survivals])[:, None]
    alive = ((table.values > threshold) * table.range_energy).sum(1)
    moved = np.flatnonzero((threshold[:, 0] > 0) & (alive > 0))
    found: Floats = table.ratios.copy()
    if len(moved):
        reaches = table.values[moved, None] * RATIOS[1:, None] > threshold[moved, None]
        both = np.matmul(reaches, table.range_energy[moved, :, None])[:, :, 0] / alive[moved, None]
        # groups that lose one end have all survivors on one side of zero
        found[moved] *= np.pad(both, ((0, 0), (1, 0)))
        found[moved, 0] = 1 - found[moved].sum(1)
    return found


def _dots(one: Floats, other: Floats) -> Floats:
    """Return the sums of products along the last axis, of each layer by itself."""
    # by matmul, which sums up a layer among others as it does one alone
    return np.asarray(np.matmul(one[:, None, :], other[..., :, None])[:, 0, 0])


def chosen_grids(
    layers: Sequence[LayerSketch], plan: UniformPlan, survivals: Sequence[PruningOutcome], found: SurvivorsInBins
) -> tuple[list[LinearGrid], Floats]:
    """Return the typical grid of each layer's groups, and Σ ρ·energy over the bins; ρ is the relative error on it."""
    clips = [1.0] * len(layers)
    if isinstance(plan.span, (int, float)):
        clips = _percentiles(layers, float(plan.span) / 100, survivals, found.table)
    extents = _extents(plan, found.ratios, np.array(clips))
    energy, near = found.energy, np.zeros_like(found.energy)
    outermost = np.zeros(len(layers))
    if not plan.symmetric:
        near = energy * _near_shares(plan, found.ratios)
        outermost = energy[:, ATOM] * _open_ends(plan, found.ratios)
    if plan.span == "mse":
        # all sixteen clips at once, from a table that layers of the same extent share
        noises = np.empty((len(layers), 16))
        for extent in np.unique(extents):
            some = extents == extent
            tables = _clip_errors(plan, float(extent))
            sums = np.matmul(tables.error, energy[some, :, None]) + np.matmul(tables.more, near[some, :, None])
            noises[some] = sums[:, :, 0] + tables.open_end * outermost[some, None]
        clips = [_least_error_clip(each) for each in noises]
        grids = [_linear_grid(plan, clip * extent, clip) for clip, extent in zip(clips, extents.tolist(), strict=True)]
        return grids, noises[np.arange(len(layers)), [round(16 * clip) - 1 for clip in clips]]
    # layers of the same extent share their grid, and its errors
    keys = list(zip(extents.tolist(), clips, strict=True))
    different = {key: _linear_grid(plan, *key) for key in dict.fromkeys(keys)}
    errors = [_grid_errors(grid) for grid in different.values()]
    places = {key: place for place, key in enumerate(different)}
    at = [places[key] for key in keys]
    noise = _dots(energy, np.array([each.error for each in errors])[at])
    noise += outermost * np.array([float(each.open_end) for each in errors])[at]
    noise += _dots(near, np.array([each.more for each in errors])[at])
    return [different[key] for key in keys], noise


def _open_ends(plan: UniformPlan, ratios: Floats) -> Floats:
    """Return the shares of the groups whose outermost weight may lie anywhere between two levels, shape (layers,).

    So it does on a grid that is spread from one end of a group to the other, zero being one of its levels; of a group
    on one side of zero, and in the full range of an integer, the ends are levels.
    """
    most = full_range_near(plan) if plan.span == "auto" else 2.0
    return _dots(ratios[:, 1:], (RATIOS[1:] < most).astype(np.float64))


_NEAR: Final = np.clip((RATIOS - MIDDLE[:, None]) * (len(RATIOS) - 1) + 0.5, 0, 1) / 2
"""Half of the weights of a bin that are within reach of groups at each of the ratios, shape (162, 9)."""


def _near_shares(plan: UniformPlan, ratios: Floats) -> Floats:
    """Return, per bin, the share of the weights on the near side of zero, shape (layers, 162), in groups that clip.

    It is half of them as far out as the group reaches on that side.
    """
    clipped = ratios * (full_range_near(plan) < RATIOS) if plan.span == "auto" else ratios
    return np.asarray(np.matmul(_NEAR, clipped[:, :, None])[:, :, 0])


def full_range_near(plan: UniformPlan) -> float:
    """Return where the full range of a signed integer ends on the near side, its far end being 1."""
    return 1 - 0.5 ** (plan.bits - 1)


def _extents(plan: UniformPlan, ratios: Floats, clips: Floats) -> Floats:
    """Return how far the typical asymmetric grid of each layer reaches from end to end, its far side spanning a clip.

    Groups differ in their ratios, and the steps of a grid with them; what counts is their mean square.
    """
    if plan.symmetric:
        return np.zeros(len(clips))
    near = np.minimum(RATIOS, full_range_near(plan) if plan.span == "auto" else clips[:, None])
    # rounding errors go with the square of the step, and the step with the extent
    extents = np.sqrt(_dots(ratios, (clips[:, None] + near) ** 2))
    return np.asarray(extents if isinstance(plan.span, (int, float)) else np.floor(extents * GRAIN + 0.5) / GRAIN)


def _linear_grid(plan: UniformPlan, extent: float, clip: float) -> LinearGrid:
    """Return the typical linear grid that spans `clip` and has this extent, in units of a group's range."""
    if plan.symmetric:
        return _even_grid(plan.bits, clip)
    steps = 2**plan.bits - 1
    step = extent / steps
    if plan.span == "auto" and plan.bits <= FEW_BITS + 2:
        return LinearGrid(step, 2.0, full_range_near(plan))
    if plan.span in ("auto", "absmax"):
        return LinearGrid(step, 2.0, 2.0)
    if plan.bits > FEW_BITS:  # of a tensor's one group the ratio is known
        return LinearGrid(step, clip, extent - clip if plan.granularity == "tensor" else clip)
    # with few levels a grid ends on one of them at either end: those that the far side does not use go to the near side
    levels = min(math.floor(clip / step + 0.5), steps)
    return LinearGrid(step, levels * step, (steps - levels) * step)


def _even_grid(bits: int, clip: float) -> LinearGrid:
    """Return the grid with as many levels on either side of zero."""
    return LinearGrid(clip / (2 ** (bits - 1) - 1), clip, clip)


def _least_error_clip(noises: Floats) -> float:
    """Return the least noisy range of 1/16, 2/16, …, as `compression/quantizers/uniform.py` finds a group's."""
    best, least = 1.0, math.inf
    for width in (None, *CLIP_STEPS):
        for clip in CLIPS if width is None else (min(1.0, best + width), best - width):
            if (noise := float(noises[round(16 * clip) - 1])) < least:
                best, least = clip, noise
    return best


def _percentiles(
    layers: Sequence[LayerSketch], share: float, survivals: Sequence[PruningOutcome], table: Table
) -> list[float]:
    """Return the relative magnitudes below which this share of the survivors of each layer lies."""
    counts = table.count * shares(layers, survivals, table.values, table.range_count)
    for i, (layer, survival) in enumerate(zip(layers, survivals, strict=True)):
        if survival.curve is None and survival.cut.threshold == 0:  # only weights that were zero before are pruned
            counts[i, 0] = max(0.0, counts[i, 0] - (layer.n - survival.kept))
    return [_percentile(each if each.sum() > 0 else table.count[i], share) for i, each in enumerate(counts)]


def _percentile(counts: Floats, share: float) -> float:
    """Return the relative magnitude below which this share of the weights lies."""
    total = np.cumsum(counts)
    wanted = share * total[-1]
    i = int(np.searchsorted(total, wanted, side="left"))
    if i >= ATOM:
        return 1.0
    before = total[i - 1] if i else 0.0
    return float(LOW[i] + (HIGH[i] - LOW[i]) * (wanted - before) / counts[i])


@dataclass(frozen=True, slots=True)
class GridErrors:
    """The relative errors of the bins on a grid, or on several, one to a row.

    `error`: on the far side. `more`: by how much more the near side is wrong. `open_end`: of a group's outermost weight
    that lies anywhere between two levels, beside `error`.
    """

    error: Floats
    more: Floats
    open_end: Floats


@lru_cache(maxsize=4096)
def _grid_errors(grid: LinearGrid) -> GridErrors:
    errors = _errors_of([grid])
    return GridErrors(errors.error[0], errors.more[0], errors.open_end[0])


@lru_cache(maxsize=512)
def _clip_errors(plan: UniformPlan, extent: float) -> GridErrors:
    """Return the errors of the grids that span 1/16, 2/16, … of the range, and as much of its extent."""
    return _errors_of([_linear_grid(plan, clip * extent, clip) for clip in np.arange(1, 17) / 16])


def _errors_of(grids: Sequence[LinearGrid]) -> GridErrors:
    """Return the errors of several grids: those of 16 clips cost little more than those of one."""
    step, far, near = (np.array([getattr(grid, name) for grid in grids])[:, None] for name in ("step", "far", "near"))
    error = _relative_error(step, far)
    more = np.zeros_like(error) if np.array_equal(near, far) else _relative_error(step, near) - error
    return GridErrors(error, more, np.where(far > 1, step**2 / 12, 0.0)[:, 0])


_CUBES: Final = np.diff(np.append(0.0, HIGH[:ATOM]) ** 3)


def _relative_error(step: Floats, end: Floats) -> Floats:
    """Return, per grid and bin, the mean squared rounding error over the mean square; `step`, `end`: shape (n, 1)."""
    # 1 in the lowest bin, where everything rounds to zero; the atom is a point and not an interval
    ratio = np.ones((len(step), BINS))
    # ∫(y − q(y))² dy over the bin, divided by ∫y² dy, which is a third of the difference of the cubes
    ratio[:, 1:ATOM] = 3 * np.diff(_error_integral(HIGH[:ATOM], step, end), axis=1) / _CUBES[1:]
    outermost = np.minimum(1.0, end)
    # on a grid that reaches beyond 1 the outermost weight is counted by `open_end`; else it is clipped, then rounded
    ratio[:, ATOM:] = np.where(
        end > 1, 0.0, (1 - outermost + np.abs(outermost - np.rint(outermost / step) * step)) ** 2
    )
    return ratio


def _error_integral(x: Floats, step: Floats | float, end: Floats | float) -> Floats:
    """Return ∫₀ˣ (y − q(y))² dy: k whole steps of step³/12 each, the part of one, and what lies beyond the end."""
    # beyond the end of the grid everything is rounded to it, and the error grows with the distance
    inside = np.minimum(x, end)
    k = np.rint(inside / step)
    return np.asarray(k * step**3 / 12 + (inside - k * step) ** 3 / 3 + np.maximum(x - end, 0.0) ** 3 / 3)


def one_bit_capture(layer: LayerSketch, plan: Plan, survival: PruningOutcome, survivors: float) -> float:
    """Return the share of the survivors' energy that sign × mean magnitude captures."""
    # a curve of ones keeps all, whatever the cut says
    everyone = _mean_capture(layer, PruningOutcome(layer.n, 0.0, survival.cut, np.ones(BINS)), layer.energy)
    # of all weights that one scale would capture; smaller groups, whose means differ, capture more
    captured = _mean_capture(layer, survival, survivors)
    if plan.granularity == "tensor" or everyone >= 1:
        return captured
    # how much more is known of all weights, and taken for the survivors in the same proportion
    finer = min(max((nearest_table(layer, plan.granularity).captured - everyone) / (1 - everyone), 0.0), 1.0)
    return captured + (1 - captured) * finer


def _mean_capture(layer: LayerSketch, survival: PruningOutcome, energy: float) -> float:
    parts = surviving(layer, survival)
    # n weights that all become ± their mean magnitude keep n·mean² of Σw²
    total, count = float((parts.count * np.abs(parts.low + parts.high) / 2).sum()), float(parts.count.sum())
    return min(total**2 / (count * energy), 1.0) if count > 0 and energy > 0 else 1.0


def half_noise(layer: LayerSketch, survival: PruningOutcome) -> float:
    """Return the squared error of rounding the survivors to 16 bits."""
    count, _ = _surviving_counts(layer, survival)
    errors = _HALF_ERRORS.get(layer)
    if errors is None:
        errors = _HALF_ERRORS[layer] = half_errors(*bucket_edges(layer.buckets & 0x7FFF), layer.half)
    return float(count @ errors)


_HALF_ERRORS: WeakKeyDictionary[LayerSketch, Floats] = WeakKeyDictionary()
"""The errors of each bucket of the layers whose 16 bits were estimated already: they recur while a slider moves."""


def half_errors(low: Floats, high: Floats, half: str) -> Floats:
    """Return the mean squared error of rounding magnitudes, uniform in [low, high), to float16 or bfloat16.

    Where a bucket holds many of its numbers that is ulp²/12. Below float16's normal numbers its steps are wider than
    buckets; what is less than half of the smallest becomes zero.
    """
    digits, least = (7, -126) if half == "bfloat16" else (10, -14)
    ulp = 2.0 ** (np.maximum(np.frexp(low)[1] - 1.0, least) - digits)  # of the bucket's leading bit
    end = np.full(len(low), np.inf)
    # a float's own grid has no end here: what overflows was refused, or is kept as bfloat16
    error = _error_integral(high, ulp, end) - _error_integral(low, ulp, end)
    return np.where(high - low > ulp, ulp * ulp / 12, error / np.where(high > low, high - low, 1.0))


@dataclass(frozen=True, slots=True)
class Parts:
    """What is left of each bucket of a value table, ascending in value, signs kept: edges, count, and `reach`.

    `reach` is the width a part stands for: half the distance between the middles of its neighbours.
    """

    low: Floats
    high: Floats
    count: Floats
    reach: Floats


def surviving(layer: LayerSketch, survival: PruningOutcome) -> Parts:
    """Return what a layer's survival leaves of its value table."""
    low, high = bucket_edges(layer.buckets & 0x7FFF)
    high = low if layer.lossless else high  # a bucket of bfloat16 is one number
    negative = layer.buckets >= 0x8000
    # the reach is that of all weights, or the gap that pruning leaves around zero would count as the survivors'
    wide = reach(*signed(low, high, negative))
    count, share = _surviving_counts(layer, survival)
    if not layer.lossless and survival.curve is None and survival.cut.threshold > 0:
        # the bucket that the threshold cuts begins there
        low = np.where(low == survival.cut.low, survival.cut.threshold, low)
    low, high = signed(low, high, negative)
    alive = count > 0
    return Parts(low[alive], high[alive], count[alive], (wide * share)[alive])


def _surviving_counts(layer: LayerSketch, survival: PruningOutcome) -> tuple[Floats, Floats]:
    """Return how many weights survive of each bucket of the value table, and the share of it that a cut leaves."""
    magnitudes = layer.buckets & 0x7FFF
    low, high = bucket_edges(magnitudes)
    count, share = layer.counts.astype(np.float64), np.ones(len(low))
    if survival.curve is not None:
        middle = (low + high) / 2
        count = count * survival.curve[bin_of(middle / layer.absmax if layer.absmax > 0 else middle)]
    elif survival.cut.threshold > 0 or survival.cut.fraction > 0:
        inside = low == survival.cut.low
        share = np.where(low < survival.cut.low, 0.0, np.where(inside, 1 - survival.cut.fraction, 1.0))
    return count * share, share


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


def codebook_noise(layer: LayerSketch, survival: PruningOutcome, bits: int) -> float:
    """Return the squared error of the survivors about the nearest of 2^bits k-means values."""
    parts = surviving(layer, survival)
    if survival.kept <= 2**bits or (layer.lossless and len(parts.count) <= 2**bits) or not len(parts.count):
        return 0.0  # every weight has a value of its own
    moments = Moments(parts)
    return moments.noise(codebook(moments, bits))


def codebook(moments: Moments, bits: int) -> Floats:
    """Return 2^bits ascending values: Panter and Dite's quantiles (1951), then Lloyd's algorithm."""
    # the start decides about up to 8 dB (ResNet-20, 6 bits): Lloyd's algorithm never moves enough values into the tails
    values = moments.companded(2**bits)
    for _ in range(LLOYD):
        count, total, _squares = moments.cells(values)
        # an empty cell keeps its value
        values = np.where(count > 0, total / np.maximum(count, 1e-300), values)
    return values


class Moments:
    """Running counts, sums and sums of squares of parts of buckets, each uniform between its edges."""

    def __init__(self, parts: Parts) -> None:
        # running sums make a cell's moments two look-ups, whatever number of buckets it spans
        self.parts = parts
        low, high, count = parts.low, parts.high, parts.count
        total, squares = count * (low + high) / 2, count * (low * low + low * high + high * high) / 3
        self._before = [np.concatenate([[0.0], np.cumsum(x)]) for x in (count, total, squares)]

    def companded(self, levels: int) -> Floats:
        """Return ascending values at the quantiles (i + ½)/levels of the mass count^(1/3)·reach^(2/3)."""
        parts = self.parts
        if not len(parts.count):
            return np.zeros(levels)
        # Panter and Dite: the best values lie as dense as the cube root of the density count / reach, over the width
        # reach
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
        # Σ(x − v)² = Σx² − 2vΣx + nv²; cancellation may leave a little below zero
        count, total, squares = self.cells(values)
        return max(0.0, float((squares - 2 * values * total + values * values * count).sum()))

    def _below(self, x: Floats) -> tuple[Floats, Floats, Floats]:
        parts = self.parts
        if not len(parts.count):
            return np.zeros(len(x)), np.zeros(len(x)), np.zeros(len(x))
        # of the bucket that x falls into, the part below it: evenly filled, it has its mean in the middle
        i = np.searchsorted(parts.high, x, side="left")
        j = np.minimum(i, len(parts.low) - 1)
        low, width = parts.low[j], parts.high[j] - parts.low[j]
        at = np.clip(x, low, parts.high[j])
        inside = np.where(width > 0, (at - low) / np.where(width > 0, width, 1.0), x > low)
        part = np.where(i < len(parts.low), parts.count[j] * inside, 0.0)
        n, s, q = (before[i] for before in self._before)
        return n + part, s + part * (low + at) / 2, q + part * (low * low + low * at + at * at) / 3
