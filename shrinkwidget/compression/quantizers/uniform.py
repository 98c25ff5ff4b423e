"""Evenly spaced values: a scale for each group of weights, and a zero point unless they are symmetric about zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Final

import torch
from torch import Tensor

from ...analysis.chart_distribution import sign_bars, sign_levels, uniform_bars, uniform_levels
from ...analysis.pruning_estimate import PruningOutcome
from ...analysis.quantization_estimate import CLIP_STEPS, CLIPS, UniformPlan, one_bit_capture, uniform_noise
from ...analysis.sketch import LayerSketch
from ...analysis.tensor_ops_threads_and_cpu_kernel import codes_of, count_true, round_half_even_
from ...recipe_and_method_registry import Choice, Number, Plan, Quantizer, register, setting
from ..encode_layers_and_packed_model import Grid, LayerWeights, Piece, as_stored, column

_SEVERAL: Final = (2, 3, 4, 5, 6, 7, 8)
_SIGN: Final = "1 bit is a sign: it has no range"


@register
@dataclass(frozen=True, repr=False)
class Uniform(Quantizer):
    """2^bits evenly spaced values, zero among them; one bit is a sign times a scale (``docs/compression.md``).

    Args:
        symmetric: False: values lie where the weights of each group do. True: as many below zero as above, of which
            there are 2^bits − 1.
        clipping: what the values span: ``"absmax"`` (all weights), ``"mse"`` (least squared error), a number p for the
            p-th percentile of the magnitudes, 50 < p ≤ 100, or ``"auto"``: the least squared error at 2 bits; above,
            all weights or the full range of a signed integer, whichever promises the smaller error.
        scales: ``"float16"`` or ``"bfloat16"`` for scales that are such numbers, as GGUF and ExecuTorch keep them: an
            export then holds the same weights. ``"float32"``: 16-bit fractions of the layer's largest scale.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(bits=4, clipping="mse")  # a setting of the quantizer may stand beside it
        Recipe(bits=4, quantizer=Uniform(clipping='mse'))
    """

    kind: ClassVar[str] = "uniform"
    label: ClassVar[str] = "uniform"
    title: ClassVar[str] = "evenly spaced values"

    symmetric: bool = setting(
        False,
        Choice(
            "zero point",
            (
                (False, "asymmetric", "levels where the weights of the group are"),
                (True, "symmetric", "as many levels below zero as above"),
            ),
            bits=_SEVERAL,
            idle=_SIGN,
        ),
    )
    clipping: str | float = setting(
        "auto",
        Choice(
            "clipping",
            (
                ("auto", "auto", "the least squared error at 2 bits; above, what promises the smaller error"),
                ("absmax", "largest", "the largest magnitude of the group"),
                ("mse", "least error", "the end with the least squared error"),
            ),
            Number(
                "percentile", "a percentile of the magnitudes", min=50, exclusive=True, max=100, step=0.1,
                default=99.9, unit="%", want="a percentile above 50 and up to 100",
            ),
            bits=_SEVERAL,
            idle=_SIGN,
        ),
    )  # fmt: skip

    scales: str = setting(
        "float32",
        Choice(
            "scales",
            (
                ("float32", "float32", "16-bit fractions of the largest scale of the layer"),
                ("float16", "float16", "as GGUF keeps them"),
                ("bfloat16", "bfloat16", "as ExecuTorch keeps them in groups"),
            ),
            bits=_SEVERAL,
            idle="1 bit is a sign: its scale is a float32",
        ),
    )

    @property
    def scale_dtype(self) -> str:  # type: ignore[override]  # of this one
        """In what scales are kept."""
        return self.scales

    def acting(self, bits: int) -> Quantizer:
        """Return what codes at so many bits: one bit is a sign."""
        return _SIGN_OF_ALL if bits == 1 else self

    def has_zero_points(self, bits: int) -> bool:
        """Tell whether each group stores the code of zero."""
        del bits
        return not self.symmetric

    def zero_code(self, bits: int) -> int | None:
        """Return the code of zero of a symmetric grid."""
        return offset(bits) if self.symmetric else None

    def largest_code(self, bits: int) -> int:
        """Return the largest code: a symmetric grid has one less than fits."""
        return int(2**bits - (2 if self.symmetric else 1))

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the scales of a layer, and its zero points."""
        plan = self._plan(layer.plan)
        low, high = _spanned(layer, plan)
        if self.clipping == "auto" and not self.symmetric:
            return _auto(layer, plan, low, high)
        step = step_sizes(low, high, plan)
        if self.symmetric:
            return Grid(layer.plan, as_stored(step, layer.plan))
        scales = as_stored(step, layer.plan, torch.ones_like(step, dtype=torch.bool))
        return Grid(layer.plan, scales, zero_points(low, scales, plan).to(torch.uint8))

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return how many steps from the least value each weight is, rounded half to even."""
        zero = grid.zero(piece)
        q = steps(piece.x, grid.scale(piece), zero, grid.plan.bits)
        return codes_of(q.add_(offset(grid.plan.bits) if zero is None else zero))

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return (code − code of zero) · scale."""
        del codebook
        if scales is None:
            raise ValueError("a uniform quantizer without scales")
        return codes.to(scales.dtype).sub_(offset(bits) if zeros is None else zeros).mul_(scales)

    def rounded(self, piece: Piece, grid: Grid) -> Tensor:
        """Return what `decode` makes of `encode`, without a code in between: faster, and the same to the bit."""
        scale = grid.scale(piece)
        # adding zero turns -0.0 into the 0.0 that decoding gives
        return steps(piece.x, scale, grid.zero(piece), grid.plan.bits).mul_(scale).add_(0.0)

    def beyond(self, piece: Piece, grid: Grid) -> Tensor | None:
        """Return which weights of a piece a clipped range cuts off, bool of its shape; None where none is clipped."""
        if self._plan(grid.plan).span in ("absmax", "auto"):
            return None
        # Rounding alone is off by half a step at most; the rest allows for the rounding of the scale itself.
        return (piece.x - self.rounded(piece, grid)).abs() > 0.5001 * grid.scale(piece)

    def noise(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, energy: float) -> float:
        """Return the squared error of rounding the survivors, from a sketch alone."""
        return self.noises([layer], plan, [survival], [energy])[0]

    def noises(
        self,
        layers: Sequence[LayerSketch],
        plan: Plan,
        survivals: Sequence[PruningOutcome],
        energies: Sequence[float],
    ) -> list[float]:
        """Return the squared errors of rounding the survivors of layers under one plan."""
        return uniform_noise(layers, self._plan(plan), survivals, energies)

    def bars(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, kept: int) -> tuple[Any, Any]:
        """Return the values survivors are rounded to, and how many to each."""
        return uniform_bars(layer, self._plan(plan), survival, kept)

    def levels(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> Any:
        """Return the values of a typical group, ascending."""
        return uniform_levels(layer, self._plan(plan), survival)

    def _plan(self, plan: Plan) -> UniformPlan:
        # The least squared error gains 2 to 5 dB at 2 bits. Above, it would gain less, and cost accuracy: it shrinks
        # the large weights of a network that is not retrained (ResNet-20, 80 % sparse, 3 bits: 18 % against 32 %).
        span = "mse" if self.clipping == "auto" and plan.bits == 2 else self.clipping
        return UniformPlan(plan.bits, plan.granularity, self.symmetric, self.clipping, span)


@dataclass(frozen=True, repr=False)
class Sign(Quantizer):
    """One bit a weight: its sign, times the mean magnitude of its group. What `Uniform` is at one bit."""

    kind: ClassVar[str] = "sign"
    label: ClassVar[str] = "sign"
    widths: ClassVar[tuple[int, ...]] = (1,)

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the mean magnitude of each group's survivors."""
        return Grid(layer.plan, as_stored(_mean_magnitudes(layer), layer.plan))

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return 0 for a negative weight, 1 for any other."""
        del grid
        return (piece.x >= 0).to(torch.uint8)

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return the scale with the sign of the code."""
        del zeros, codebook, bits
        if scales is None:
            raise ValueError("signs without scales")
        return torch.where(codes > 0, scales, -scales)

    def noise(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, energy: float) -> float:
        """Return the squared error of rounding the survivors, from a sketch alone."""
        return energy * (1 - one_bit_capture(layer, plan, survival, energy))

    def bars(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, kept: int) -> tuple[Any, Any]:
        """Return the values survivors are rounded to, and how many to each."""
        return sign_bars(layer, plan, survival, kept)

    def levels(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> Any:
        """Return the two values of a typical group."""
        return sign_levels(layer, plan, survival)


_SIGN_OF_ALL: Final = Sign()


def offset(bits: int) -> int:
    """Return the code of zero on a symmetric grid, which is also the largest integer of the grid."""
    return int(2 ** (bits - 1) - 1)


def steps(x: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> Tensor:
    """Return x / scale rounded half to even and limited to the grid, as steps from zero in float32.

    `x`: ``[groups, size]``; `scale` and `zero`, the code of zero (None if symmetric): ``[groups, 1]``. A group with
    scale 0 is all zero.
    """
    q = round_half_even_(torch.div(x, torch.where(scale > 0, scale, math.inf)))
    if zero is None:
        return q.clamp_(-offset(bits), offset(bits))
    return q.add_(zero).clamp_(0, 2**bits - 1).sub_(zero)


def _auto(layer: LayerWeights, plan: UniformPlan, low: Tensor, high: Tensor) -> Grid:
    """Return, of three asymmetric grids, the one with the smallest squared error in each group.

    * Spread: from `low` to `high`, which at 2 bits are clipped already.
    * Full range: that of a signed integer, as in ONNX Runtime's MatMulNBits and GGUF's Q4_0. The largest magnitude is
      −2^(b−1) steps; on the other side of zero, which has one level less, the rest is clipped.
    * Even: as many levels on either side.

    Errors of the first two are foretold: rounding costs step²/12 a weight, clipping excess² for the outermost. They are
    measured at 2 bits, and where weights reach equally far to both sides: such layers are binary, ternary or on a grid
    already, and the even one may be exact.
    """
    # Each candidate is a pair (step, code of zero); where the code is NaN it follows from the step as it will be
    # stored.
    half = 2.0 ** (plan.bits - 1)
    least, most = (low, high) if plan.bits > 2 else _extent(layer)
    far = torch.maximum(-least, most)
    full = far / half, torch.where(-least >= most, half, half - 1)
    even = far / (half - 1), torch.full_like(far, half)
    step = step_sizes(low, high, plan)
    # no sync with a GPU in here: every choice is a `where`, and only whether to measure at all is asked of the host
    zero = torch.full_like(step, torch.nan)  # of a spread grid: found once its step is rounded for storage
    if plan.bits > 2:
        density = 1.0 if layer.keep is None else count_true(layer.keep) / len(layer.flat)
        # Only survivors are rounded, and so many a group has on average: a group with few has little to lose by
        # clipping.
        better = _full_range_is_better(low, high, max(1.0, layer.groups.size * density), plan)
        step, zero = torch.where(better, full[0], step), torch.where(better, full[1], zero)
    if plan.bits == 2 or bool(((low == -high) & (high > 0)).any()):
        error = _squared_errors(layer, plan, step, torch.where(zero.isnan(), zero_points(low, step, plan), zero))
        for other in (full, even):
            tried = _squared_errors(layer, plan, *other)
            better, error = tried < error, torch.minimum(tried, error)
            step, zero = torch.where(better, other[0], step), torch.where(better, other[1], zero)
    scales = as_stored(step, layer.plan, zero.isnan())
    zero = torch.where(zero.isnan(), zero_points(low, scales, plan), zero)
    return Grid(layer.plan, scales, zero.to(torch.uint8))


def _full_range_is_better(low: Tensor, high: Tensor, survivors: float, plan: UniformPlan) -> Tensor:
    """Tell where the full range of a signed integer promises less error than the spread from `low` to `high`.

    `survivors`: weights of a group that survive, on the average of the layer.
    """
    far, near = torch.maximum(-low, high), torch.minimum(-low, high)
    # Spread: step (1 + ratio)/(2^b − 1). Full range: step 2^(1−b), which spends a level on −2^(b−1) but clips what lies
    # beyond 1 − step on the near side; how much that costs is taken for one weight, the outermost.
    ratio, full = near / torch.where(far > 0, far, 1.0), 0.5 ** (plan.bits - 1)  # all in units of `far`
    spread, excess = (1 + ratio) / (2**plan.bits - 1), ratio - (1 - full)
    clipping = torch.where(excess > full / 2, excess.square() - full**2 / 12, 0)
    better: Tensor = (spread.square() - full**2) / 12 * survivors > clipping - 1e-6 * full**2  # equal ones are full
    return better


def _squared_errors(layer: LayerWeights, plan: UniformPlan, step: Tensor, zero: Tensor | None) -> Tensor:
    """Return the squared error of each group on a linear grid of 2 bits or more, float64 ``[groups]``."""
    errors = torch.zeros(len(step), dtype=torch.float64, device=step.device)
    for piece in layer.pieces():
        scale = column(step, piece)
        error = steps(piece.x, scale, None if zero is None else column(zero, piece), plan.bits).mul_(scale)
        errors[piece.groups] += error.sub_(piece.x).square_().sum(1, dtype=torch.float64)
    return errors


def step_sizes(low: Tensor, high: Tensor, plan: UniformPlan) -> Tensor:
    """Return the step of a linear grid of 2 bits or more over each group's [low, high], before rounding for storage."""
    if plan.symmetric:
        return torch.maximum(-low, high) / _number(offset(plan.bits), high.device)
    levels = _number(2**plan.bits - 1, high.device)
    return torch.sub(high / levels, low / levels)  # divided first: the difference alone could overflow


@cache
def _number(value: int, device: torch.device) -> Tensor:
    """Return a number as a tensor: divided by a Python number, a GPU would be an ulp off."""
    with torch.inference_mode(False):  # it outlives the mode in which it is first asked for
        return torch.tensor(float(value), dtype=torch.float32, device=device)


def zero_points(low: Tensor, scales: Tensor, plan: UniformPlan) -> Tensor:
    """Return the codes of zero of an asymmetric grid, as floats: low is 0 at most, so that zero is on the grid."""
    return (-low / torch.where(scales > 0, scales, math.inf)).round_().clamp_(0, 2**plan.bits - 1)


def _extent(layer: LayerWeights) -> tuple[Tensor, Tensor]:
    """Return the smallest and the largest of each group's survivors and zero, float32 ``[groups]`` each."""
    cuts = list(layer.cuts())
    if len(cuts) == 1:  # most layers are small, and of those every call counts, at each step of a training
        x = layer.piece(*cuts[0]).x
        return x.amin(1).clamp_(max=0), x.amax(1).clamp_(min=0)
    low = torch.zeros(layer.groups.count, device=layer.flat.device)
    high = torch.zeros_like(low)
    for piece in layer.pieces():
        low[piece.groups] = torch.minimum(low[piece.groups], piece.x.amin(1))
        high[piece.groups] = torch.maximum(high[piece.groups], piece.x.amax(1))
    return low, high


def _spanned(layer: LayerWeights, plan: UniformPlan) -> tuple[Tensor, Tensor]:
    """Return the ends of each group's grid, float32 ``[groups]`` each: the extent of its survivors and zero, clipped.

    The least error is found by moving both ends in proportion. A percentile of the magnitudes is a limit to either
    end: of a lopsided group it cuts off the long side alone, and never more than its share of the weights.
    """
    low, high = _extent(layer)
    if plan.span in ("absmax", "auto"):
        return low, high
    if plan.span == "mse":
        clip = _least_error_clips(layer, plan, low, high)
        return low * clip, high * clip
    reach = torch.maximum(-low, high)
    limit = reach * _percentile_clips(layer, reach, float(plan.clipping) / 100)
    return torch.maximum(low, -limit), torch.minimum(high, limit)


def _least_error_clips(layer: LayerWeights, plan: UniformPlan, low: Tensor, high: Tensor) -> Tensor:
    """Return the clip with the least squared error of each group: the best of the `CLIPS`, refined by `CLIP_STEPS`.

    The error has one valley except for the noise of single weights, and of equally good clips the first tried is taken.
    """
    best = torch.ones_like(low)
    least = torch.full(low.shape, math.inf, dtype=torch.float64, device=low.device)

    def attempt(clip: Tensor) -> None:
        nonlocal best, least
        a, b = low * clip, high * clip
        step = step_sizes(a, b, plan)
        error = _squared_errors(layer, plan, step, None if plan.symmetric else zero_points(a, step, plan))
        best, least = torch.where(error < least, clip, best), torch.minimum(error, least)

    for clip in CLIPS:  # first coarsely, then beside the best so far, ever nearer
        attempt(torch.full_like(low, clip))
    for width in CLIP_STEPS:
        above, below = (best + width).clamp_(max=1), best - width
        attempt(above)
        attempt(below)
    return best


def _percentile_clips(layer: LayerWeights, reach: Tensor, share: float) -> Tensor:
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
    # Pruned weights are zeros among the smallest, so the percentile of the survivors is found from the top; only the
    # few above it are ordered.
    top = magnitudes.topk(size - math.ceil(size * share) + 1, dim=1).values.double()
    return torch.where(counts > 0, top.gather(1, (counts - rank).clamp(min=0)[:, None])[:, 0], 0.0)


def _counts(layer: LayerWeights, piece: Piece) -> Tensor:
    """Return how many weights of each group of a piece survive, int64 ``[groups]``."""
    if piece.keep is not None:
        return piece.keep.sum(1)
    counts = torch.full((len(piece.x),), piece.x.shape[1], device=piece.x.device)
    if layer.groups.padding:
        counts[layer.groups.per_row - 1 :: layer.groups.per_row] -= layer.groups.padding
    return counts


def _mean_magnitudes(layer: LayerWeights) -> Tensor:
    """Return the mean magnitude of each group's survivors, float32 ``[groups]``; 0 where there are none."""
    sums = torch.zeros(layer.groups.count, dtype=torch.float64, device=layer.flat.device)
    counts = torch.zeros_like(sums)
    for piece in layer.pieces():
        sums[piece.groups] += piece.x.abs().sum(1, dtype=torch.float64)
        counts[piece.groups] += _counts(layer, piece)
    return (sums / counts.clamp(min=1)).float()
