"""The exact grid of a layer, fitted to its survivors, and the layer coded with it (docs/format.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..measure.bytes import rounded
from ..measure.grids import CLIPS
from ..measure.layers import Entry
from ..recipe import Plan
from .codebook import codebook_of
from .coded import Coded, offset_of
from .grid import Grid, Layer, Piece, column, layer_of, steps


def quantize(entry: Entry, keep: Tensor | None, plan: Plan) -> Coded:
    """Return one tensor coded as its plan asks; `keep` is true where a weight survives, row by row,
    None if all do.

    Ranges, means and codebooks are those of the survivors alone, and scales are rounded as the file stores them
    before anything is rounded to them.
    """
    return code(layer_of(entry, keep, plan))


def code(layer: Layer) -> Coded:
    """Return a layer in codes; see `quantize`."""
    grid = fit(layer)
    if grid.floats is not None:
        codes = rounded(layer.survivors(), grid.floats)
        codes = codes.clone() if codes is layer.flat else codes  # the model's own memory may change later
    else:
        codes = torch.cat([_kept_codes(grid.codes(piece), piece, layer) for piece in layer.pieces()])
    return Coded(
        layer.name,
        layer.shape,
        layer.flat.dtype,
        layer.plan,
        layer.keep,
        codes,
        grid.scales,
        grid.zeros,
        grid.codebook,
        layer.layout,
    )


def _kept_codes(codes: Tensor, piece: Piece, layer: Layer) -> Tensor:
    flat = layer.groups.flat(codes)
    return flat if layer.keep is None else flat[layer.keep[piece.weights]]


def fit(layer: Layer) -> Grid:
    """Return the grid of a layer: plain floats, a codebook, or scales (and zero points) per group."""
    plan = layer.plan
    if plan.bits > 8:
        return Grid(plan, floats=layer.stored)
    if plan.grid == "codebook":
        return Grid(plan, codebook=codebook_of(layer.survivors(), plan.bits))
    if plan.bits == 1:
        return Grid(plan, scales=as_stored(_mean_magnitudes(layer)))
    low, high = _spanned(layer)
    scales = as_stored(step_sizes(low, high, plan))
    return Grid(plan, scales, None if plan.symmetric else zero_points(low, scales, plan).to(torch.uint8))


def as_stored(scales: Tensor) -> Tensor:
    """Return scales as a file reproduces them: one as it is; of more, float16 fractions of the largest."""
    scales = scales + 0.0  # no -0.0, whose sign would show in the zeros it scales
    if len(scales) == 1:
        return scales
    top = scales.amax()
    fractions = (scales / torch.where(top > 0, top, 1.0)).to(torch.float16)
    return fractions.float().mul_(top)


def step_sizes(low: Tensor, high: Tensor, plan: Plan) -> Tensor:
    """Return the step of a linear grid of 2 bits or more over each group's [low, high], before rounding for storage."""
    if plan.symmetric:
        return torch.maximum(-low, high) / high.new_tensor(offset_of(plan))  # by a number, a GPU would be an ulp off
    levels = high.new_tensor(2**plan.bits - 1)
    return torch.sub(high / levels, low / levels)  # divided first: the difference alone could overflow


def zero_points(low: Tensor, scales: Tensor, plan: Plan) -> Tensor:
    """Return the codes of zero of an asymmetric grid, as floats: low is 0 at most, so that zero is on the grid."""
    return (-low / torch.where(scales > 0, scales, math.inf)).round_().clamp_(0, 2**plan.bits - 1)


def _extent(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest of each group's survivors and zero, float32 ``[groups]`` each."""
    low = torch.zeros(layer.groups.count, device=layer.flat.device)
    high = torch.zeros_like(low)
    for piece in layer.pieces():
        low[piece.groups] = torch.minimum(low[piece.groups], piece.x.amin(1))
        high[piece.groups] = torch.maximum(high[piece.groups], piece.x.amax(1))
    return low, high


def _spanned(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return the ends of each group's grid, float32 ``[groups]`` each: the extent of its survivors and zero, clipped.

    The least error is found by moving both ends in proportion. A percentile of the magnitudes is a limit to either
    end: of a lopsided group it cuts off the long side alone, and never more than its share of the weights.
    """
    low, high = _extent(layer)
    clip = _clips(layer, low, high)
    if not isinstance(layer.plan.range, float):
        return low * clip, high * clip
    limit = torch.maximum(-low, high) * clip
    return torch.maximum(low, -limit), torch.minimum(high, limit)


def _clips(layer: Layer, low: Tensor, high: Tensor) -> Tensor:
    """Return by what each group's range is multiplied, float32 ``[groups]``: its own share of its largest magnitude."""
    if layer.plan.range == "absmax":
        return torch.ones_like(high)
    if layer.plan.range == "mse":
        return _least_error_clips(layer, low, high)
    return _percentile_clips(layer, torch.maximum(-low, high), float(layer.plan.range) / 100)


def _least_error_clips(layer: Layer, low: Tensor, high: Tensor) -> Tensor:
    """Return, of the `CLIPS`, the one with the least squared error of each group, the largest of equally good ones."""
    errors = torch.zeros((len(CLIPS), len(low)), dtype=torch.float64, device=low.device)
    for piece in layer.pieces():
        for clip, total in zip(CLIPS, errors, strict=True):
            a, b = column(low * clip, piece), column(high * clip, piece)
            step = step_sizes(a, b, layer.plan)
            zero = None if layer.plan.symmetric else zero_points(a, step, layer.plan)
            error = steps(piece.x, step, zero, layer.plan).mul_(step).sub_(piece.x)
            total[piece.groups] += error.square_().sum(1, dtype=torch.float64)
    best, least = torch.ones_like(low), errors[0].clone()
    for clip, total in zip(CLIPS, errors, strict=True):
        best[total < least] = clip
        least = torch.minimum(least, total)
    return best


def _percentile_clips(layer: Layer, reach: Tensor, share: float) -> Tensor:
    """Return a percentile of each group's surviving magnitudes as a share of the largest, `reach`.

    Of K magnitudes it is the ⌈share·K⌉-th smallest: groups of fewer than 1/(1 − share) are not clipped. Where it is
    zero, and the grid would be a point, the whole range is taken.
    """
    clips = torch.ones_like(reach)
    if layer.groups.count == 1:
        pieces = [Piece(slice(0, 0), slice(0, 1), layer.survivors().float()[None], None)]
    else:
        pieces = list(layer.pieces())
    for piece in pieces:
        value = _percentiles(piece.x.abs(), _counts(layer, piece), share)
        clip = (value / reach[piece.groups].double()).float()
        clips[piece.groups] = torch.where(value > 0, clip, 1.0)
    return clips


def _percentiles(magnitudes: Tensor, counts: Tensor, share: float) -> Tensor:
    """Return the ⌈share·count⌉-th smallest of the `counts` largest magnitudes of each row; 0 of none."""
    size = magnitudes.shape[1]
    if not size:
        return counts.double()
    rank = (counts.double() * share).ceil().long().clamp(min=1)
    top = magnitudes.topk(size - math.ceil(size * share) + 1, dim=1).values.double()
    return torch.where(counts > 0, top.gather(1, (counts - rank).clamp(min=0)[:, None])[:, 0], 0.0)


def _counts(layer: Layer, piece: Piece) -> Tensor:
    """Return how many weights of each group of a piece survive, int64 ``[groups]``."""
    if piece.keep is not None:
        return piece.keep.sum(1)
    counts = torch.full((len(piece.x),), piece.x.shape[1], device=piece.x.device)
    if layer.groups.padding:
        counts[layer.groups.per_row - 1 :: layer.groups.per_row] -= layer.groups.padding
    return counts


def _mean_magnitudes(layer: Layer) -> Tensor:
    """Return the mean magnitude of each group's survivors, float32 ``[groups]``; 0 where there are none."""
    sums = torch.zeros(layer.groups.count, dtype=torch.float64, device=layer.flat.device)
    counts = torch.zeros_like(sums)
    for piece in layer.pieces():
        sums[piece.groups] += piece.x.abs().sum(1, dtype=torch.float64)
        counts[piece.groups] += _counts(layer, piece)
    return (sums / counts.clamp(min=1)).float()
