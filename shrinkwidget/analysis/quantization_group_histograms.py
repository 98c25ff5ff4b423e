"""Histograms of weights relative to the range of their group: all that estimates of rounding and n:m pruning need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..recipe_and_method_registry import Granularity
from .tensor_ops_threads_and_cpu_kernel import NM_PATTERNS, Groups, GroupSums, Runs, chunk_size, cpu_kernel, kernel_for

Floats = NDArray[np.float64]

GRANULARITIES: Final[tuple[Granularity, ...]] = ("tensor", "channel", 32, 64, 128)
BINS: Final = 162
"""Bins of a weight's magnitude relative to its group's range: 0 to 2**-10, ten octaves of 16 bins, and 1 itself."""
ATOM: Final = BINS - 1
"""The bin of 1: the largest weight of every group, which no grid rounds like the others."""
RANGES: Final = 64
"""Runs that the groups, sorted by range, are cut into."""
RATIOS: Final = np.arange(9) / 8
"""Nodes of the ratio between the two ends of a group: its outermost weight on the one side of zero over the other."""

# The bits of a float32 are its logarithm, nearly: the upper ones are bins, without a logarithm being taken.
_SHIFT: Final = 19  # leaves sign, exponent and 4 bits of mantissa: 16 bins to an octave
_FIRST: Final = int(np.float32(2.0**-10).view(np.int32)) >> _SHIFT

_STARTS: Final = (np.arange(_FIRST, _FIRST + ATOM, dtype=np.int32) << _SHIFT).view(np.float32).astype(np.float64)
LOW: Final[Floats] = np.concatenate([[0.0], _STARTS[:-1], [1.0]])
"""Lower edge of each bin, in units of the group's range; the last bin is the single point 1."""
HIGH: Final[Floats] = np.concatenate([_STARTS, [1.0]])
"""Upper edge of each bin."""
MIDDLE: Final[Floats] = (LOW + HIGH) / 2


def bin_of(u: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the bin of each relative magnitude, rounded to float32 first, anything above 1 in the atom."""
    # bit patterns of positive floats ascend with their values, so that the upper bits alone are a bin on a log scale
    index = u.astype(np.float32, copy=False).view(np.int32) >> _SHIFT
    # 1.0 is the first pattern after the last interval, which is just where the atom's bin stands
    return np.asarray(np.clip(index, _FIRST - 1, _FIRST - 1 + ATOM).astype(np.intp) - (_FIRST - 1))


CHUNK: Final = 1 << 17
"""Weights looked at together. Beside them a layer needs memory for its groups of 32 alone, never a copy of itself."""
SAMPLE: Final = 1 << 16
"""Weights a relative table is taken from, at most (about: whole columns and groups are taken)."""
_BLOCK_SAMPLE: Final = 1 << 15  # for survival curves, which are smooth
_UNIT: Final = 32  # the smallest group; all others are made of whole ones


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """One relative table: what grids of one granularity see of a tensor.

    `count`: weights per bin, shape (162,). `energy`: the share of Σw² per bin. `values`, `range_energy`, `range_count`:
    per run of groups, shape (64,). `ratios`: how lopsided the groups are, shape (9,), see `ratio_parts`.
    """

    count: Floats
    energy: Floats
    values: Floats
    range_energy: Floats
    range_count: Floats
    ratios: Floats
    captured: float

    def as_sent(self) -> Table:
        """Return the table rounded to float32, so that an estimate here equals one made from the encoded sketch."""
        return Table(
            as_sent(self.count),
            as_sent(self.energy),
            as_sent(self.values),
            as_sent(self.range_energy),
            as_sent(self.range_count),
            as_sent(self.ratios),
            float(np.float32(self.captured)),
        )


def as_sent(values: Floats) -> Floats:
    """Return float64 values rounded to float32."""
    return values.astype(np.float32).astype(np.float64)


def unit_groups(rows: Tensor) -> Groups:
    """Return the statistics of runs of 32 weights along each row, a bounded number of rows at a time."""
    length = rows.shape[1]
    low, high, total = [], [], []
    for chunk in torch.split(rows, max(1, chunk_size(rows.device, CHUNK) // length)):
        values = chunk.float()
        if rest := -length % _UNIT:  # zeros change none of the three
            values = torch.nn.functional.pad(values, (0, rest))
        runs = values.view(len(values), -1, _UNIT)
        low.append(runs.amin(2).clamp_max_(0))
        high.append(runs.amax(2).clamp_min_(0))
        sums = runs.abs()
        for half in (16, 8, 4, 2, 1):  # the order of `sum_by_halves`, on any device
            sums = sums[..., :half] + sums[..., half:]
        total.append(sums.squeeze(2))
    low_, high_, total_ = (torch.cat(parts).cpu().numpy() for parts in (low, high, total))
    return Groups(low_, high_, total_, length)


def sum_by_halves(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums along the last axis, whose second half is added to its first until one is left.

    An order that `cpu_kernel.c` follows too, so that float32 gives the same bits.
    """
    values = values.copy()
    while (length := values.shape[-1]) > 1:
        half = (length + 1) // 2
        with np.errstate(over="ignore"):  # of weights near the largest float32, as everywhere else
            values[..., : length - half] += values[..., half:]
        values = values[..., :half]
    return values[..., 0]


def relative_tables(rows: Tensor, units: Groups, energy: float) -> dict[Granularity, Table]:
    """Return the tables of the granularities below "tensor" for a matrix (channels × the flattened rest).

    `units` are its groups of 32, `energy` its Σw².
    """
    kernel = cpu_kernel()
    factors: dict[Granularity, int] = {"channel": units.low.shape[1], 32: 1, 64: 2, 128: 4}
    found = []
    for factor in factors.values():
        number = len(units.low) * -(-units.low.shape[1] // factor)
        step = coprime_step(math.ceil(number / SAMPLE), number)  # ratios are those of an evenly spaced subset
        found.append(_group_sums(units, factor, step) if kernel is None else kernel.group_sums(units, factor, step))
    counts, energies = _histograms(rows, [ranges for ranges, _ in found], [*factors.values()])
    return {
        granularity: _table(*found[i], counts[i], energies[i], rows.numel(), energy)
        for i, granularity in enumerate(factors)
    }


def _table(
    ranges: NDArray[np.float32], sums: GroupSums, count: Floats, squares: Floats, n: int, energy: float
) -> Table:
    """Return the table of groups from what was counted of all n weights, or of a sample of them."""
    if count.sum() < n:  # scaled up to all weights, whose energy is known
        # the atom needs no sample: in every group its range is the magnitude of one weight
        count[ATOM] = np.count_nonzero(ranges)
        squares[ATOM] = sums.squares.sum()
        count[:ATOM] *= (n - count[ATOM]) / max(count[:ATOM].sum(), 1.0)
        if (rest := squares[:ATOM].sum()) > 0:
            squares[:ATOM] *= max(0.0, energy - squares[ATOM]) / rest
    lengths, by_run = _runs(ranges, sums)
    return Table(
        count,
        _shares(squares),
        values=np.sqrt(by_run / np.maximum(lengths, 1)),
        range_energy=_shares(by_run),
        range_count=lengths / ranges.size,
        ratios=_ratio_shares(sums.ratios),
        captured=sums.captured / energy if energy > 0 else 1.0,
    )


def _runs(ranges: NDArray[np.float32], sums: GroupSums) -> tuple[Floats, Floats]:
    """Return how many groups each run of ranges in ascending order has, and its Σa²; see docs/estimate.md."""
    groups = ranges.size
    lengths, squares = np.zeros(RANGES), np.zeros(RANGES)
    if groups <= RANGES:  # a run for each
        lengths[:groups] = 1
        squares[:groups] = np.sort(ranges, axis=None).astype(np.float64) ** 2
        return lengths, squares
    # Runs are not cut out of sorted ranges but out of the buckets they fall into: those of a bucket differ by less than
    # 0.8 %, so one that is cut is shared out in proportion. Sorting takes longer than all the rest of a large layer.
    cuts = np.arange(RANGES + 1) * groups // RANGES
    before = np.concatenate([[0], np.cumsum(sums.counts)])
    starts = np.union1d(before, cuts)
    bucket, run = (np.searchsorted(ends, starts[:-1], side="right") - 1 for ends in (before, cuts))
    parts = sums.squares[bucket] / sums.counts[bucket] * np.diff(starts)
    return np.diff(cuts).astype(np.float64), np.asarray(np.bincount(run, parts, RANGES), np.float64)


def _group_sums(units: Groups, factor: int, step: int) -> tuple[NDArray[np.float32], GroupSums]:
    """Return what `CpuKernel.group_sums` does, to the bit: sums by bincount and cumsum go from first to last."""
    rows, many = units.low.shape
    low, high, total = units.low, units.high, units.total
    if factor > 1:
        parts = np.zeros((3, rows, many + -many % factor), np.float32)
        parts[:, :, :many] = low, high, total
        low, high, total = parts.reshape(3, rows, -1, factor)
        low, high, total = low.min(2), high.max(2), sum_by_halves(total)
    ranges = np.maximum(-low, high)
    ends = np.arange(1, ranges.shape[1] + 1) * factor * _UNIT
    # the last group of a row is as short as the row leaves it
    weights = factor * _UNIT - np.maximum(ends - units.length, 0)
    # (Σ|w|)² / n is n·(mean |w|)², what sign × mean captures of a group
    roots = (total / np.sqrt(weights, dtype=np.float32)).reshape(-1).astype(np.float64)
    flat = ranges.reshape(-1)
    buckets = (flat.view(np.int32) >> 16) & 0x7FFF
    counts, squares = np.bincount(buckets), np.bincount(buckets, np.square(flat, dtype=np.float64)).astype(np.float64)
    some = counts > 0
    below, above = (-low).reshape(-1)[::step].astype(np.float64), high.reshape(-1)[::step].astype(np.float64)
    ratios = ratio_parts(np.minimum(below, above), np.maximum(below, above))
    return ranges, GroupSums(counts[some], squares[some], ratios, float(np.cumsum(np.square(roots))[-1]))


def ratio_parts(near: Floats, far: Floats) -> Floats:
    """Return how Σa² is shared out among the ratios of the groups' smaller to their larger end a, shape (9,).

    A ratio between two of the `RATIOS` is shared between them, in linear proportion.
    """
    # a group of zeros has no ratio; its square, which is what is shared out, is zero as well
    place = near / np.where(far > 0, far, 1.0) * (len(RATIOS) - 1)
    node = np.minimum(place.astype(np.intp), len(RATIOS) - 2)
    upper, squares = place - node, far**2
    lower = np.bincount(node, (1 - upper) * squares, len(RATIOS))
    return np.asarray(lower + np.bincount(node + 1, upper * squares, len(RATIOS)))


def _ratio_shares(parts: Floats) -> Floats:
    total = parts.sum()
    return np.asarray(parts / total) if total > 0 else np.eye(1, len(RATIOS))[0]


def _shares(parts: Floats) -> Floats:
    """Return parts of their sum: unlike the squares of weights, float32, in which tables are sent, holds these."""
    total = parts.sum()
    return np.asarray(parts / total if total > 0 else parts)


def _histograms(rows: Tensor, ranges: Sequence[NDArray[np.float32]], factors: Sequence[int]) -> tuple[Floats, Floats]:
    """Return counts and energies per bin, ``[granularities, 162]``, over an evenly spaced subset of the groups of 32.

    `ranges` are those of each granularity's groups, made of `factors` groups of 32.
    """
    height, length = rows.shape
    units = -(-length // _UNIT)
    step = coprime_step(math.ceil(rows.numel() / SAMPLE), height * units)
    if (kernel := kernel_for(rows)) is not None:
        count, energy = kernel.bins(rows, ranges, factors, step)
        return count.astype(np.float64), energy
    # the same groups of 32 for all granularities, as the kernel takes them: tables differ in the divisors alone
    row, unit = np.divmod(np.arange(0, height * units, step), units)
    lengths = np.minimum(_UNIT, length - unit * _UNIT)  # the last of a row is shorter
    sample = rows.reshape(-1)
    if step > 1:  # so few that on a GPU the calls would cost more than the work
        places = (row * length + unit * _UNIT)[:, None] + np.arange(_UNIT)
        places = places[np.arange(_UNIT) < lengths[:, None]]
        sample = sample[torch.from_numpy(places).to(rows.device)]
    magnitudes = sample.cpu().float().abs().numpy()
    squares = np.square(magnitudes, dtype=np.float64)
    found = np.empty((2, len(ranges), BINS))
    for i, (of_groups, factor) in enumerate(zip(ranges, factors, strict=True)):
        divisors = np.where(of_groups > 0, of_groups, np.float32(1))[row, unit // factor]
        index = bin_of(magnitudes / np.repeat(divisors, _UNIT if length % _UNIT == 0 else lengths))
        found[0, i] = np.bincount(index, minlength=BINS)
        found[1, i] = np.bincount(index, squares, BINS)
    return found[0], found[1]


def some_runs(height: int, length: int, size: int, step: int) -> list[Runs]:
    """Return about every `step`-th of the runs of `size` weights along rows, and of the shorter ones that end them."""
    per_row, rest = divmod(length, size)
    found = []
    for column, many, each in ((0, per_row, size), (length - rest, 1, rest)):
        if many and each:
            apart = coprime_step(step, height * many)
            found.append(Runs(length=length, column=column, per_row=many, size=each, step=apart))
    return found


def taken(rows: Tensor, runs: Runs) -> Tensor:
    """Return the weights of runs, ``[runs, weights of each]``, copying no others."""
    size, per_row = int(runs.size), int(runs.per_row)
    part = rows[:, runs.column : runs.column + per_row * size]
    if part.is_contiguous():
        return part.view(-1, size)[:: runs.step]
    chosen = torch.arange(0, len(rows) * per_row, runs.step, device=rows.device)
    return part.view(len(rows), per_row, size)[chosen // per_row, chosen % per_row]


def coprime_step(step: int, length: int) -> int:
    """Return the least number ≥ `step` that shares no factor with `length`, so that no kernel position is favoured.

    Every ninth weight of 3 × 3 kernels would be the same corner of all of them.

    Never more than `length`.
    """
    while step < length and math.gcd(step, length) > 1:
        step += 1
    return min(step, max(1, length))


def tensor_table(
    low: Floats, high: Floats, count: Floats, squares: Floats, ends: tuple[float, float], total: float
) -> Table:
    """Return the table of one group for the whole tensor, rebinned from its buckets of magnitude.

    `low`, `high`, `count`, `squares`: per bucket, ascending, squares being the energy inside. `ends`: the magnitudes of
    its smaller and its larger end, `total`: Σ|w|.
    """
    energy = squares.sum()
    captured = total**2 / (count.sum() * energy) if energy > 0 else 1.0
    absmax = ends[1]
    ratios = _ratio_shares(ratio_parts(*np.array(ends)[:, None]))
    one = np.zeros(RANGES)
    one[0] = 1.0
    if absmax == 0:
        none = np.zeros(BINS)
        none[0] = count.sum()
        return Table(none, np.zeros(BINS), np.zeros(RANGES), np.zeros(RANGES), one, ratios, captured)
    # the mass below each edge, linear inside a bucket; above the last one nothing lies but the rest of the top bucket
    edges = LOW[:ATOM] * absmax
    at = np.maximum(np.searchsorted(low, edges, side="right") - 1, 0)
    inside = np.clip((np.minimum(edges, high[at]) - low[at]) / np.maximum(high[at] - low[at], 1e-300), 0.0, 1.0)
    binned = np.zeros((2, BINS))
    for mass, bins_ in zip((count, squares), binned, strict=True):
        before = np.concatenate([[0.0], np.cumsum(mass)])
        below = np.append(before[at] + mass[at] * inside, before[-1])
        bins_[:ATOM] = np.diff(below)
        # the top bucket stands in the atom: the largest weight, and in layers of few values all that are as large
        bins_[ATOM] = mass[-1]
        bins_[ATOM - 1] = max(0.0, bins_[ATOM - 1] - mass[-1])
    return Table(binned[0], _shares(binned[1]), one * absmax, one, one, ratios, captured)


def survival_curves(rows: Tensor, absmax: float) -> dict[str, Floats]:
    """Return the fraction of weights that each n:m pattern keeps, by bin of magnitude relative to the tensor's."""
    # divided in float32, as the kernel does: in float64 some weights would fall into the next bin
    largest = np.float32(absmax)
    if largest == 0:
        return {pattern: np.ones(BINS) for pattern in NM_PATTERNS}
    kernel = kernel_for(rows)
    step = math.ceil(rows.numel() / _BLOCK_SAMPLE)
    curves: dict[str, Floats] = {}
    for m in sorted({m for _, m in NM_PATTERNS.values()}):
        patterns = {pattern: n for pattern, (n, of) in NM_PATTERNS.items() if of == m}
        keep = (min(patterns.values()), max(patterns.values()))
        counts = np.zeros((3, BINS))  # all, and those that are among the few and the many largest of their block
        for runs in some_runs(len(rows), rows.shape[1], m, step):
            if kernel is not None:
                counts += kernel.survivors(rows, runs, float(largest), keep)
                continue
            sample = taken(rows, runs).cpu().float().abs()
            index = bin_of(sample.numpy() / largest)
            beaten = times_beaten(list(sample.t().contiguous())).t().numpy()
            for total, chosen in zip(counts, (index.reshape(-1), *(index[beaten < n] for n in keep)), strict=True):
                total += np.bincount(chosen, minlength=BINS)
        curves |= {pattern: _curve(counts[0], counts[1 + keep.index(n)]) for pattern, n in patterns.items()}
    return curves


def _curve(count: Floats, kept: Floats) -> Floats:
    count, kept = count.copy(), kept.copy()
    for total in (count, kept):  # in the value table one bucket covers both
        total[ATOM - 1 :] = total[ATOM - 1 :].sum()
    # an empty bin has the fraction of the nearest one below that is not
    nearest = np.maximum.accumulate(np.where(count > 0, np.arange(BINS), -1))
    ratio = kept / np.maximum(count, 1.0)
    return np.where(nearest >= 0, ratio[np.maximum(nearest, 0)], 0.0)


def times_beaten(columns: list[Tensor]) -> Tensor:
    """Return how many others of its block are larger than each magnitude (of equal ones the later counts as larger).

    Column i holds the i-th magnitude of every block. Comparing whole columns is several times as fast as sorting
    millions of blocks of four.
    """
    beaten = torch.zeros((len(columns), len(columns[0])), dtype=torch.uint8, device=columns[0].device)
    # each pair once: whoever does not lose wins, so that ranks 0 … m − 1 are given out once even among equal magnitudes
    for j, later in enumerate(columns):
        for i in range(j):
            lost = columns[i] <= later
            beaten[i] += lost
            beaten[j] += ~lost
    return beaten
