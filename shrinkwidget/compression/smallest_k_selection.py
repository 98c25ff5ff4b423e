"""Exact selection of the k smallest magnitudes of many tensors, without sorting them: one digit of a radix select."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..analysis.parallel import Watch, chunks, each
from ..errors import ModelError, quoted
from .fast_cpu_ops import mark_above, places_of

_BUCKETS: Final = 1 << 15
_UPPER: Final = 0x7FFF0000  # without the sign, the upper half of a float32 pattern is the magnitude's bucket


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The magnitudes of one tensor as a ranking needs them.

    Args:
        name: of the tensor, for errors.
        n: how many.
        load: returns them, in any shape, of a float dtype; signs do not matter.
        buckets, counts: the non-empty magnitude buckets (upper 16 bits of the float32 pattern without its sign).
        lossless: every magnitude of a bucket is exactly its lower edge (bfloat16).
    """

    name: str
    n: int
    load: Callable[[], Tensor]
    buckets: NDArray[np.int64]
    counts: NDArray[np.int64]
    lossless: bool


@dataclass(frozen=True, slots=True)
class ExactCut:
    """A magnitude cut: below `threshold` everything is pruned, and at it what comes before the flat index `first`."""

    n: int
    kept: int
    threshold: float
    first: int

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row."""
        flat = rows.reshape(-1)
        mask = torch.empty(self.n, dtype=torch.bool, device=flat.device)
        for start, stop, limit in self._spans(flat.dtype):
            for piece, out in zip(chunks(flat[start:stop]), chunks(mask[start:stop]), strict=True):
                mark_above(magnitude(piece), limit, out)
        return mask

    def _spans(self, dtype: torch.dtype) -> Iterator[tuple[int, int, float]]:
        """Yield (start, stop, limit): between start and stop exactly the magnitudes above the limit are kept."""
        exact = np.float64 if dtype == torch.float64 else np.float32
        nearest = exact(self.threshold)
        limit, below = float(nearest), float(np.nextafter(nearest, exact(-np.inf)))
        if limit != self.threshold:  # of another layer's wider dtype: nothing here can equal it
            yield 0, self.n, limit if limit < self.threshold else below
            return
        if self.first > 0:
            yield 0, self.first, limit
        if self.first < self.n:
            yield self.first, self.n, below


def changed(name: str) -> ModelError:
    """Return the error for a tensor that no longer is what its sketch says."""
    return ModelError(
        f"the weights of {quoted(name)} changed since their sketch was made: make a new sketch or explorer"
    )


def working(piece: Tensor) -> Tensor:
    """Return the values in the dtype magnitudes are compared in: float64 as it is, everything else as float32."""
    return piece if piece.dtype == torch.float64 else piece.float()


def magnitude(piece: Tensor) -> Tensor:
    """Return the magnitudes in the dtype they are compared in."""
    return working(piece).abs()


def prune_smallest(ranked: Sequence[Ranked], k: int, cancelled: Watch | None = None) -> list[ExactCut]:
    """Return the cuts that prune exactly the k smallest of all magnitudes; of equal ones, those that come first.

    The tables say which bucket holds rank k; one pass collects that bucket's few members, and only those are
    partitioned. Magnitudes of different dtypes are compared as float64.
    """
    if k == 0:
        return [ExactCut(r.n, r.n, 0.0, 0) for r in ranked]
    total = np.zeros(_BUCKETS, np.int64)
    for r in ranked:
        total[r.buckets] += r.counts
    bucket = int(np.searchsorted(np.cumsum(total), k))
    rank = k - int(total[:bucket].sum())
    members = list(each(partial(_members, bucket=bucket), ranked, cancelled))
    edge = float(np.uint32(bucket << 16).view(np.float32))
    threshold = _smallest(np.concatenate([m.others for m in members]), edge, sum(m.at_edge for m in members), rank)
    spare = rank - sum(m.below(threshold, edge) for m in members)
    cuts = []
    for r, m in zip(ranked, members, strict=True):
        ties = m.equal(threshold, edge)
        taken = min(ties, spare)
        spare -= taken
        pruned = int(r.counts[r.buckets < bucket].sum()) + m.below(threshold, edge) + taken
        cuts.append(ExactCut(r.n, r.n - pruned, threshold, _first_kept_tie(r, threshold, taken, ties)))
    return cuts


@dataclass(frozen=True, slots=True)
class _Members:
    """The magnitudes of one bucket: how many are exactly its lower edge, if that is known, and the others."""

    at_edge: int
    others: NDArray[np.float64]

    def below(self, threshold: float, edge: float) -> int:
        return int((self.others < threshold).sum()) + (self.at_edge if edge < threshold else 0)

    def equal(self, threshold: float, edge: float) -> int:
        return int((self.others == threshold).sum()) + (self.at_edge if edge == threshold else 0)


def _members(ranked: Ranked, bucket: int) -> _Members:
    """Collect a bucket's members; where nearly all are zeros, or all are the same, only those that differ."""
    count = int(ranked.counts[ranked.buckets == bucket].sum())
    if not count or ranked.lossless:
        return _Members(count, np.empty(0))
    found = [_in_bucket(piece, bucket) for piece in chunks(ranked.load().reshape(-1))]
    others = np.concatenate(found)
    if len(others) > count or (bucket and len(others) < count):
        raise changed(ranked.name)
    return _Members(count - len(others), others)


def _in_bucket(piece: Tensor, bucket: int) -> NDArray[np.float64]:
    patterns = piece.float().view(torch.int32) & _UPPER
    if bucket == 0:
        patterns[piece == 0] = -1  # nearly all there are: counted, not collected
    values: NDArray[np.float64] = piece[places_of(patterns, bucket << 16)].cpu().double().abs().numpy()
    return values


def _smallest(others: NDArray[np.float64], edge: float, at_edge: int, rank: int) -> float:
    """Return the rank-th smallest (from 1) of `others` and of `at_edge` more values that are all `edge`."""
    below = int((others < edge).sum()) if at_edge else 0
    if at_edge and below < rank <= below + int((others == edge).sum()) + at_edge:
        return edge
    place = rank - 1 if rank <= below or not at_edge else rank - 1 - at_edge
    return float(np.partition(others, place)[place])


def _first_kept_tie(ranked: Ranked, threshold: float, taken: int, ties: int) -> int:
    """Return the flat index before which `taken` of the `ties` magnitudes equal to the threshold lie."""
    if taken in (0, ties):
        return ranked.n if taken else 0
    start = 0
    for piece in chunks(ranked.load().reshape(-1)):
        places = places_of(magnitude(piece), threshold)
        if len(places) >= taken:
            return start + int(places[taken - 1]) + 1
        taken -= len(places)
        start += len(piece)
    raise changed(ranked.name)
