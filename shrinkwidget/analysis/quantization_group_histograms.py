"""Histograms of weights relative to the range of their group: all that estimates of rounding and n:m pruning need."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..recipe import Granularity
from .parallel import chunk_size

Floats = NDArray[np.float64]

GRANULARITIES: Final[tuple[Granularity, ...]] = ("tensor", "channel", 32, 64, 128)
NM_PATTERNS: Final = {"2:4": (2, 4), "1:4": (1, 4), "4:8": (4, 8)}
"""n:m patterns, which keep n of every m neighbours."""
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


def bin_index(u: Tensor) -> Tensor:
    """Return the bin of each relative magnitude, float32 in [0, 1], as int32 of the same shape."""
    index = (u.view(torch.int32) >> _SHIFT) - (_FIRST - 1)
    # 1.0 is the first pattern after the last interval, which is just where the atom's bin stands
    return index.clamp_(0, ATOM)


def bin_of(u: Floats) -> NDArray[np.intp]:
    """Return the bin of each relative magnitude, rounded to float32 first, anything above 1 in the atom."""
    index = (u.astype(np.float32).view(np.int32) >> _SHIFT) - (_FIRST - 1)
    return np.asarray(np.clip(index, 0, ATOM), dtype=np.intp)


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
    per run of groups, shape (64,). `ratios`: how lopsided the groups are, shape (9,), see `ratio_shares`.
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


@dataclass(frozen=True, slots=True)
class _Groups:
    """Statistics of groups of `size` neighbours along rows of `length` weights, each of shape (rows, groups per row).

    The minimum `low` and the maximum `high` include zero; `total` is the sum of magnitudes.
    """

    low: Tensor
    high: Tensor
    total: Tensor
    size: int
    length: int

    def merged(self, factor: int) -> _Groups:
        """Return the statistics of groups `factor` times as long."""
        pad = (0, -self.low.shape[1] % factor)
        low, high, total = (
            torch.nn.functional.pad(x, pad).reshape(len(x), -1, factor) for x in (self.low, self.high, self.total)
        )
        return _Groups(low.amin(2), high.amax(2), total.sum(2), min(self.size * factor, self.length), self.length)

    @property
    def absmax(self) -> Tensor:
        return torch.maximum(-self.low, self.high)

    @property
    def counts(self) -> Tensor:
        """Weights in each group of a row; the last may be shorter."""
        ends = torch.arange(1, self.low.shape[1] + 1, device=self.low.device) * self.size
        return self.size - (ends - self.length).clamp_(min=0)

    @classmethod
    def of(cls, rows: Tensor) -> _Groups:
        """Return the statistics of runs of 32 weights along each row, a bounded number of rows at a time."""
        length = rows.shape[1]
        whole = length // _UNIT * _UNIT
        low, high, total = [], [], []
        for chunk in torch.split(rows, max(1, chunk_size(rows.device, CHUNK) // length)):
            values = chunk.float()
            parts = [values[:, :whole].reshape(len(values), -1, _UNIT)] if whole else []
            if whole < length:  # the last run of a row is shorter
                parts.append(values[:, whole:].unsqueeze(1))
            low.append(torch.cat([part.amin(2) for part in parts], 1).clamp_max_(0))
            high.append(torch.cat([part.amax(2) for part in parts], 1).clamp_min_(0))
            total.append(torch.cat([part.abs().sum(2) for part in parts], 1))
        return cls(torch.cat(low), torch.cat(high), torch.cat(total), min(_UNIT, length), length)


def relative_tables(rows: Tensor, energy: float) -> dict[Granularity, Table]:
    """Return the tables of the granularities below "tensor" for a matrix (channels × the flattened rest)."""
    units = _Groups.of(rows)
    grouped: dict[Granularity, tuple[_Groups, int]] = {
        "channel": (units.merged(units.low.shape[1]), rows.shape[1]),
        32: (units, 32),
        64: (units.merged(2), 64),
        128: (units.merged(4), 128),
    }
    return {key: _table(rows, groups, size, energy) for key, (groups, size) in grouped.items()}


def _table(rows: Tensor, groups: _Groups, size: int, energy: float) -> Table:
    count, squares = _histogram(rows, groups.absmax, size)
    if count.sum() < rows.numel():  # of a sample: scaled up to all weights, whose energy is known
        # the atom needs no sample: in every group its range is the magnitude of one weight
        count[ATOM] = float((groups.absmax > 0).sum())
        squares[ATOM] = sum_of_squares(groups.absmax)
        count[:ATOM] *= (rows.numel() - count[ATOM]) / max(count[:ATOM].sum(), 1.0)
        if (rest := squares[:ATOM].sum()) > 0:
            squares[:ATOM] *= max(0.0, energy - squares[ATOM]) / rest
    return Table(
        count,
        _shares(squares),
        *range_runs(groups.absmax.flatten()),
        ratios=ratio_shares(groups.low.flatten(), groups.high.flatten()),
        captured=sum_of_squares(groups.total / groups.counts.sqrt()) / energy if energy > 0 else 1.0,
    )


def _shares(parts: Floats) -> Floats:
    """Return parts of their sum: unlike the squares of weights, float32, in which tables are sent, holds these."""
    total = parts.sum()
    return np.asarray(parts / total if total > 0 else parts)


def ratio_shares(low: Tensor, high: Tensor) -> Floats:
    """Return how Σa² is shared out among the ratios of the groups' smaller to their larger end, shape (9,).

    `low` ≤ 0 and `high` ≥ 0 are the ends, the larger of which is a; a ratio between two of the `RATIOS` is shared
    between them, in linear proportion. Of more than `SAMPLE` groups an evenly spaced subset is taken.
    """
    step = coprime_step(math.ceil(len(low) / SAMPLE), len(low))
    below, above = (-low[::step]).double().cpu().numpy(), high[::step].double().cpu().numpy()
    far, near = np.maximum(below, above), np.minimum(below, above)
    place = near / np.where(far > 0, far, 1.0) * (len(RATIOS) - 1)
    node = np.minimum(place.astype(np.intp), len(RATIOS) - 2)
    upper, squares = place - node, far**2
    shares = np.bincount(node, (1 - upper) * squares, len(RATIOS))
    shares += np.bincount(node + 1, upper * squares, len(RATIOS))
    total = squares.sum()
    return np.asarray(shares / total) if total > 0 else np.eye(1, len(RATIOS))[0]


def sum_of_squares(values: Tensor) -> float:
    """Return Σ x², summed in float64, which holds the squares of all float32 numbers."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


def _histogram(rows: Tensor, absmax: Tensor, size: int) -> tuple[Floats, Floats]:
    """Return counts and energies per bin over an evenly spaced subset of the groups (of the columns, for channels)."""
    length = rows.shape[1]
    if size >= length:
        across = coprime_step(math.ceil(rows.numel() / SAMPLE), length)
        down = max(1, math.ceil(rows.numel() / across / SAMPLE))
        sampled = [(rows[::down, ::across], absmax[::down])]
    else:
        step = max(1, math.ceil(rows.numel() / SAMPLE))
        whole, rest = divmod(length, size)
        sampled = [(some_runs(rows, size, step), some_runs(absmax[:, :whole], 1, step))]
        if rest:
            sampled.append((some_runs(rows[:, -rest:], rest, step), some_runs(absmax[:, whole:], 1, step)))
    count, energy = np.zeros(BINS), np.zeros(BINS)
    for values, ranges in sampled:
        # so few that on a GPU the calls would cost more than the work
        values, ranges = values.cpu(), ranges.cpu()
        magnitudes = values.float().abs()
        index = bin_index(torch.where(ranges > 0, magnitudes / ranges, 0)).flatten()
        squares = magnitudes.double().square_().flatten()
        count += torch.bincount(index, minlength=BINS).numpy()
        energy += torch.bincount(index, weights=squares, minlength=BINS).numpy()
    return count, energy


def some_runs(rows: Tensor, size: int, step: int) -> Tensor:
    """Return about every `step`-th whole run of `size` weights along the rows, ``[runs, size]``, copying no others."""
    per_row = rows.shape[1] // size
    runs = len(rows) * per_row
    step = coprime_step(step, runs)
    if rows.is_contiguous() and per_row * size == rows.shape[1]:
        return rows.view(runs, size)[::step]
    chosen = torch.arange(0, runs, step, device=rows.device)
    return rows[:, : per_row * size].view(len(rows), per_row, size)[chosen // per_row, chosen % per_row]


def coprime_step(step: int, length: int) -> int:
    """Return the least number ≥ `step` that shares no factor with `length`, so that no kernel position is favoured.

    Every ninth weight of 3 × 3 kernels would be the same corner of all of them.

    Never more than `length`.
    """
    while step < length and math.gcd(step, length) > 1:
        step += 1
    return min(step, max(1, length))


def range_runs(absmax: Tensor) -> tuple[Floats, Floats, Floats]:
    """Return (values, shares of Σa², shares of groups) of the sorted ranges cut into 64 runs of equal length."""
    # numpy sorts several times as fast as torch does on a CPU; a GPU is faster than both
    ordered = np.sort(absmax.numpy()) if absmax.device.type == "cpu" else absmax.sort().values.cpu().numpy()
    ordered = ordered.astype(np.float64)
    edges = np.arange(min(RANGES, len(ordered)) + 1) * len(ordered) // min(RANGES, len(ordered))
    squares = np.add.reduceat(ordered**2, edges[:-1])
    lengths = np.diff(edges).astype(np.float64)
    total = squares.sum()
    runs = (np.sqrt(squares / lengths), squares / total if total > 0 else squares, lengths / len(ordered))
    values, energies, counts = (np.pad(x, (0, RANGES - len(x))) for x in runs)
    return values, energies, counts


def tensor_table(
    low: Floats, high: Floats, count: Floats, squares: Floats, absmax: float, total: float, ratios: Floats
) -> Table:
    """Return the table of one group for the whole tensor, rebinned from its buckets of magnitude.

    `low`, `high`, `count`, `squares`: per bucket, ascending, squares being the energy inside. `total` is Σ|w|.
    """
    energy = squares.sum()
    captured = total**2 / (count.sum() * energy) if energy > 0 else 1.0
    one = np.zeros(RANGES)
    one[0] = 1.0
    if absmax == 0:
        none = np.zeros(BINS)
        none[0] = count.sum()
        return Table(none, np.zeros(BINS), np.zeros(RANGES), np.zeros(RANGES), one, ratios, captured)
    edges = np.concatenate([[0.0], HIGH[:ATOM]]) * absmax
    edges[-1] = np.inf  # the top bucket reaches beyond the largest weight; nothing lies there
    binned = [np.diff(_cumulative(edges, low, high, x)) for x in (count, squares)]
    counts, energies = (np.append(x, 0.0) for x in binned)
    # the top bucket stands in the atom: the largest weight, and in layers of few values all that are as large
    counts[ATOM], energies[ATOM] = count[-1], squares[-1]
    counts[ATOM - 1] = max(0.0, counts[ATOM - 1] - counts[ATOM])
    energies[ATOM - 1] = max(0.0, energies[ATOM - 1] - energies[ATOM])
    return Table(counts, _shares(energies), one * absmax, one, one, ratios, captured)


def _cumulative(x: Floats, low: Floats, high: Floats, mass: Floats) -> Floats:
    """Return the mass below each x, linear inside a bucket."""
    before = np.concatenate([[0.0], np.cumsum(mass)])
    i = np.clip(np.searchsorted(low, x, side="right") - 1, 0, len(low) - 1)
    inside = np.clip((np.minimum(x, high[i]) - low[i]) / np.maximum(high[i] - low[i], 1e-300), 0.0, 1.0)
    return np.where(x < low[0], 0.0, before[i] + mass[i] * inside)


def survival_curve(rows: Tensor, absmax: float, n: int, m: int) -> Floats:
    """Return the fraction of weights that n:m keeps in each bin of magnitude relative to the tensor's."""
    if absmax == 0:
        return np.ones(BINS)
    step, rest = math.ceil(rows.numel() / _BLOCK_SAMPLE), rows.shape[1] % m
    count, survivors = np.zeros(BINS), np.zeros(BINS)
    for part, size in ((rows, m), (rows[:, rows.shape[1] - rest :], rest)):
        if 0 < size <= part.shape[1]:
            sample = some_runs(part, size, step).cpu().float().abs()
            index = bin_index(sample.flatten() / absmax)
            largest = (times_beaten(list(sample.t().contiguous())) < n).t().float().flatten()
            count += torch.bincount(index, minlength=BINS).numpy()
            survivors += torch.bincount(index, weights=largest, minlength=BINS).numpy()
    for total in (count, survivors):  # in the value table one bucket covers both
        total[ATOM - 1 :] = total[ATOM - 1 :].sum()
    # an empty bin has the fraction of the nearest one below that is not
    nearest = np.maximum.accumulate(np.where(count > 0, np.arange(BINS), -1))
    ratio = survivors / np.maximum(count, 1.0)
    return np.where(nearest >= 0, ratio[np.maximum(nearest, 0)], 0.0)


def times_beaten(columns: list[Tensor]) -> Tensor:
    """Return how many others of its block are larger than each magnitude (of equal ones the later counts as larger).

    Column i holds the i-th magnitude of every block. Comparing whole columns is several times as fast as sorting
    millions of blocks of four.
    """
    beaten = torch.zeros((len(columns), len(columns[0])), dtype=torch.uint8, device=columns[0].device)
    for j, later in enumerate(columns):
        for i in range(j):
            lost = columns[i] <= later
            beaten[i] += lost
            beaten[j] += ~lost
    return beaten
