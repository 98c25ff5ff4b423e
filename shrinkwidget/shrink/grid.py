"""The grid of one layer, the values its codes can stand for, and the rounding of weights to it (docs/format.md)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..measure.bytes import needs_bfloat16, peak, rounded, stored_dtype
from ..measure.layers import Entry, where_float64_is
from ..measure.layout import Layout
from ..measure.parallel import CHUNK
from ..recipe import Plan
from .coded import Groups, finite, groups_of, offset_of
from .numeric import places_among, round_half_even_, selected, zeroed


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some groups of a layer: which weights and groups they are, and the weights with the pruned ones at zero.

    `x`: float32 ``[groups, size]``, not to be written to. `keep`: bool of the same shape, None if all are kept.
    """

    weights: slice
    groups: slice
    x: Tensor
    keep: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One tensor with its survivors chosen, about to be rounded: weights `flat` and `keep` (None: all), row by row."""

    name: str
    shape: tuple[int, ...]
    layout: Layout
    plan: Plan
    flat: Tensor
    keep: Tensor | None
    groups: Groups

    def pieces(self) -> Iterator[Piece]:
        """Yield the layer in pieces that fit a CPU's cache, whole on other devices."""
        for weights, groups in self.groups.pieces(CHUNK if self.flat.device.type == "cpu" else len(self.flat)):
            x, keep = self.flat[weights].float(), None if self.keep is None else self.keep[weights]
            if keep is not None:
                x, keep = zeroed(x, keep), self.groups.blocks(keep)
            yield Piece(weights, groups, self.groups.blocks(x), keep)

    def survivors(self) -> Tensor:
        """Return the kept weights row by row, of the tensor's own dtype."""
        return self.flat if self.keep is None else selected(self.flat, self.keep)

    @property
    def stored(self) -> torch.dtype:
        """The dtype of this layer's weights as plain floats of 16 or 32 bits."""
        wide = self.plan.bits == 16 and self.flat.dtype in (torch.float32, torch.float64)
        return stored_dtype(self.flat.dtype, self.plan.bits, wide and needs_bfloat16(self.flat.dtype, peak(self.flat)))


def layer_of(entry: Entry, keep: Tensor | None, plan: Plan) -> Layer:
    """Return a tensor and its survivors (bool, row by row, None for all), ready for rounding."""
    flat = where_float64_is(entry.rows()).reshape(-1)
    if keep is not None:
        keep = keep.reshape(-1).to(flat.device)
    groups = groups_of(entry.matrix, "tensor" if plan.grid == "codebook" or plan.bits > 8 else plan.granularity)
    return Layer(entry.name, entry.shape, entry.layout, plan, flat, keep, groups)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values one layer's codes can stand for; exactly one of `scales`, `codebook` and `floats` is not None.

    `scales`: float32 ``[groups]``, with `zeros`, uint8 ``[groups]``, if asymmetric. `codebook`: float32 ``[2^bits]``.
    `floats`: the dtype of plain floats.
    """

    plan: Plan
    scales: Tensor | None = None
    zeros: Tensor | None = None
    codebook: Tensor | None = None
    floats: torch.dtype | None = None

    def codes(self, piece: Piece) -> Tensor:
        """Return the codes of a piece with 8 bits at most, uint8 of the piece's shape."""
        if self.codebook is not None:
            return nearest(piece.x, self.codebook)
        if self.plan.bits == 1:
            return (piece.x >= 0).to(torch.uint8)
        zero = offset_of(self.plan) if self.zeros is None else column(self.zeros, piece)
        return (self._steps(piece) + zero).to(torch.uint8)

    def effective(self, piece: Piece, layer: Layer) -> Tensor:
        """Return the effective weights of a piece of the layer, flat, in the layer's own dtype."""
        if self.floats is not None:
            original = layer.flat[piece.weights]
            values = rounded(original, self.floats).to(original.dtype)
            return values if piece.keep is None else values.masked_fill(~piece.keep.view(-1), 0)
        values = self._values(piece)
        if piece.keep is not None and (self.codebook is not None or self.plan.bits == 1):
            values = values.masked_fill_(~piece.keep, 0)
        scales = None if self.scales is None else self.scales[piece.groups]
        return layer.groups.flat(finite(values, scales, self.plan, layer.flat.dtype))

    def beyond(self, piece: Piece) -> Tensor:
        """Return which weights of a piece lie outside of a linear grid of 2 bits or more, bool of the piece's shape."""
        if self.scales is None:
            raise ValueError("a linear grid without scales")
        return (piece.x - self._values(piece)).abs() > 0.5001 * column(self.scales, piece)

    def _values(self, piece: Piece) -> Tensor:
        if self.codebook is not None:
            return self.codebook[nearest(piece.x, self.codebook).int()]
        if self.scales is None:
            raise ValueError("a linear grid without scales")
        scale = column(self.scales, piece)
        if self.plan.bits == 1:
            return torch.where(piece.x >= 0, scale, -scale)
        return self._steps(piece).mul_(scale).add_(0.0)  # adding zero turns -0.0 into the 0.0 that decoding gives

    def _steps(self, piece: Piece) -> Tensor:
        if self.scales is None:
            raise ValueError("a linear grid without scales")
        zeros = None if self.zeros is None else column(self.zeros, piece)
        return steps(piece.x, column(self.scales, piece), zeros, self.plan)


def column(per_group: Tensor, piece: Piece) -> Tensor:
    """Return a piece's share of something known per group, float32 ``[groups, 1]``."""
    return per_group[piece.groups, None].float()


def steps(x: Tensor, scale: Tensor, zero: Tensor | None, plan: Plan) -> Tensor:
    """Return x / scale rounded half to even and limited to the grid, as steps from zero in float32.

    `x`: ``[groups, size]``; `scale` and `zero`, the code of zero (None if symmetric): ``[groups, 1]``. A group with
    scale 0 is all zero.
    """
    q = round_half_even_(torch.div(x, torch.where(scale > 0, scale, math.inf)))
    if zero is None:
        return q.clamp_(-offset_of(plan), offset_of(plan))
    return q.add_(zero).clamp_(0, 2**plan.bits - 1).sub_(zero)


def nearest(x: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the value nearest to each weight, uint8: the lower one halfway between two."""
    return places_among(x, midpoints(codebook))


def midpoints(values: Tensor) -> Tensor:
    """Return the float32 numbers halfway between neighbouring values."""
    return values[:-1] / 2 + values[1:] / 2
