"""The exact grid of a layer, fitted to its survivors, and the layer coded with it (docs/format.md)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..measure.bytes import rounded
from ..measure.grids import CLIP_STEPS, CLIPS
from ..measure.layers import Entry
from ..recipe import Plan
from .codebook import codebook_of
from .coded import Coded, offset_of
from .grid import Grid, Layer, Piece, column, layer_of, steps
from .numeric import count_true, selected
from .scales import as_stored


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
    return flat if layer.keep is None else selected(flat, layer.keep[piece.weights])


def fit(layer: Layer) -> Grid:
    """Return the grid of a layer: plain floats, a codebook, or scales (and zero points) per group."""
    plan = layer.plan
    if plan.bits > 8:
        return Grid(plan, floats=layer.stored)
    if plan.grid == "codebook":
        return Grid(plan, codebook=codebook_of(layer.survivors(), plan.bits))
    if plan.bits == 1:
        return Grid(plan, scales=as_stored(_mean_magnitudes(layer), plan))
    low, high = _spanned(layer)
    if plan.range == "auto" and not plan.symmetric:
        return _auto(layer, low, high)
    step = step_sizes(low, high, plan)
    if plan.symmetric:
        return Grid(plan, as_stored(step, plan))
    scales = as_stored(step, plan, torch.ones_like(step, dtype=torch.bool))
    return Grid(plan, scales, zero_points(low, scales, plan).to(torch.uint8))


def _auto(layer: Layer, low: Tensor, high: Tensor) -> Grid:
    """Return, of three asymmetric grids, the one with the smallest squared error in each group.

    * Spread: from `low` to `high`, which at 2 bits are clipped already.
    * Full range: that of a signed integer, as in ONNX Runtime's MatMulNBits and GGUF's Q4_0. The largest magnitude is
      −2^(b−1) steps; on the other side of zero, which has one level less, the rest is clipped.
    * Even: as many levels on either side.

    Errors of the first two are foretold: rounding costs step²/12 a weight, clipping excess² for the outermost. They are
    measured at 2 bits, and where weights reach equally far to both sides: such layers are binary, ternary or on a grid
    already, and the even one may be exact.
    """
    plan, half = layer.plan, 2.0 ** (layer.plan.bits - 1)
    least, most = (low, high) if plan.bits > 2 else _extent(layer)
    far = torch.maximum(-least, most)
    full = far / half, torch.where(-least >= most, half, half - 1)
    even = far / (half - 1), torch.full_like(far, half)
    step = step_sizes(low, high, plan)
    zero = torch.full_like(step, torch.nan)  # of a spread grid: found once its step is rounded for storage
    if plan.bits > 2:
        better = _full_range_is_better(low, high, _survivors_per_group(layer), plan)
        step, zero = torch.where(better, full[0], step), torch.where(better, full[1], zero)
    if plan.bits == 2 or bool(((low == -high) & (high > 0)).any()):
        error = _squared_errors(layer, step, torch.where(zero.isnan(), zero_points(low, step, plan), zero))
        for other in (full, even):
            tried = _squared_errors(layer, *other)
            better, error = tried < error, torch.minimum(tried, error)
            step, zero = torch.where(better, other[0], step), torch.where(better, other[1], zero)
    scales = as_stored(step, plan, zero.isnan())
    zero = torch.where(zero.isnan(), zero_points(low, scales, plan), zero)
    return Grid(plan, scales, zero.to(torch.uint8))


def _full_range_is_better(low: Tensor, high: Tensor, survivors: float, plan: Plan) -> Tensor:
    """Tell where the full range of a signed integer promises less error than the spread from `low` to `high`."""
    far, near = torch.maximum(-low, high), torch.minimum(-low, high)
    ratio, full = near / torch.where(far > 0, far, 1.0), 0.5 ** (plan.bits - 1)  # all in units of `far`
    spread, excess = (1 + ratio) / (2**plan.bits - 1), ratio - (1 - full)
    clipping = torch.where(excess > full / 2, excess.square() - full**2 / 12, 0)
    better: Tensor = (spread.square() - full**2) / 12 * survivors > clipping - 1e-6 * full**2  # equal ones are full
    return better


def _survivors_per_group(layer: Layer) -> float:
    """Return how many weights of a group survive, on the average of the layer, one at least."""
    density = 1.0 if layer.keep is None else count_true(layer.keep) / len(layer.flat)
    return max(1.0, layer.groups.size * density)


def _squared_errors(layer: Layer, step: Tensor, zero: Tensor | None) -> Tensor:
    """Return the squared error of each group on a linear grid of 2 bits or more, float64 ``[groups]``."""
    errors = torch.zeros(len(step), dtype=torch.float64, device=step.device)
    for piece in layer.pieces():
        scale = column(step, piece)
        error = steps(piece.x, scale, None if zero is None else column(zero, piece), layer.plan).mul_(scale)
        errors[piece.groups] += error.sub_(piece.x).square_().sum(1, dtype=torch.float64)
    return errors


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
    if layer.plan.span in ("absmax", "auto"):
        return torch.ones_like(high)
    if layer.plan.span == "mse":
        return _least_error_clips(layer, low, high)
    return _percentile_clips(layer, torch.maximum(-low, high), float(layer.plan.range) / 100)


def _least_error_clips(layer: Layer, low: Tensor, high: Tensor) -> Tensor:
    """Return the clip with the least squared error of each group: the best of the `CLIPS`, refined by `CLIP_STEPS`.

    The error has one valley but for the noise of single weights, and of equally good clips the first tried is taken.
    """
    best = torch.ones_like(low)
    least = torch.full(low.shape, math.inf, dtype=torch.float64, device=low.device)

    def attempt(clip: Tensor) -> None:
        nonlocal best, least
        a, b = low * clip, high * clip
        step = step_sizes(a, b, layer.plan)
        error = _squared_errors(layer, step, None if layer.plan.symmetric else zero_points(a, step, layer.plan))
        best, least = torch.where(error < least, clip, best), torch.minimum(error, least)

    for clip in CLIPS:
        attempt(torch.full_like(low, clip))
    for width in CLIP_STEPS:
        above, below = (best + width).clamp_(max=1), best - width
        attempt(above)
        attempt(below)
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
