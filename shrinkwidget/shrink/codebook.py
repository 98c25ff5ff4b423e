"""The codebook of a tensor: k-means in one dimension, exact and deterministic (Deep Compression, arXiv 1510.00149)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from ..measure.grids import Moments, Parts, reach, signed
from ..measure.sketch import bucket_edges
from .grid import midpoints
from .numeric import ascending

ITERATIONS: Final = 300
"""Most iterations of Lloyd's algorithm; few bits converge long before."""


def codebook_of(weights: Tensor, bits: int) -> Tensor:
    """Return the 2^bits values, ascending float32, that Lloyd's algorithm settles on for these weights.

    The weights are sorted, so that a cell is a range of them and its mean a difference of two running sums. It starts
    from Panter and Dite's quantiles (1951), as the estimate does; an empty cell keeps its value. Weights that have no
    more than 2^bits different values are these values (the largest stands for the rest), so that a layer that was
    coded before, or trained on a codebook, stays what it is.
    """
    if not len(weights):
        return torch.zeros(2**bits, device=weights.device)
    ordered = ascending(weights.float())
    if (own := _few(ordered, 2**bits)) is not None:
        return own
    sums = torch.cumsum(ordered, 0, dtype=torch.float64)
    sums = torch.cat([sums.new_zeros(1), sums])
    values, cells = _start(ordered, bits), None
    for _ in range(ITERATIONS):
        bounds = torch.searchsorted(ordered, midpoints(values), right=True)
        if cells is not None and torch.equal(bounds, cells):
            break
        cells, values = bounds, _means(bounds, sums, values)
    return values


def _few(ordered: Tensor, most: int) -> Tensor | None:
    """Return the different values of ascending weights, the last repeated up to `most`; None if there are more."""
    steps = ordered[1:] != ordered[:-1]
    if int(steps.sum()) >= most:
        return None
    values = torch.cat([ordered[:1], ordered[1:][steps]])
    return torch.cat([values, values[-1:].expand(most - len(values))])


def _means(bounds: Tensor, sums: Tensor, values: Tensor) -> Tensor:
    """Return the means of the cells that end at `bounds`, and the old values of empty ones."""
    ends = torch.cat([bounds.new_zeros(1), bounds, bounds.new_full((1,), len(sums) - 1)])
    count, total = ends.diff(), sums[ends].diff()
    return torch.where(count > 0, (total / count.clamp(min=1)).float(), values)


def _start(ordered: Tensor, bits: int) -> Tensor:
    """Return where the iteration starts: quantiles of the buckets' mass count^(1/3)·reach^(2/3)."""
    patterns = (ordered.view(torch.int32) >> 16) & 0xFFFF
    ids, counts = (x.cpu().numpy() for x in torch.unique_consecutive(patterns, return_counts=True))
    low, high = signed(*bucket_edges(ids & 0x7FFF), ids >= 0x8000)
    moments = Moments(Parts(low, high, counts.astype(np.float64), reach(low, high)))
    return torch.from_numpy(moments.companded(2**bits)).float().to(ordered.device)
