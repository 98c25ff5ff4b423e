"""The grid of one layer, the values its codes can stand for, and the rounding of weights to it (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..analysis.channel_layout import Layout
from ..analysis.file_size import needs_bfloat16, peak, rounded, stored_dtype
from ..analysis.model_tensors import TensorEntry, where_float64_is
from ..analysis.parallel import CHUNK
from ..recipe import Plan
from .encoded_tensor import Groups, finite, groups_of
from .fast_cpu_ops import selected, zeroed
from .scale_rounding import as_stored


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
class LayerWeights:
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

    def grid(self, scales: Tensor | None = None, zeros: Tensor | None = None, codebook: Tensor | None = None) -> Grid:
        """Return the grid a quantizer fits, its scales rounded as the file stores them; see `Grid`."""
        return Grid(self.plan, None if scales is None else as_stored(scales.float(), self.plan), zeros, codebook)

    @property
    def stored(self) -> torch.dtype:
        """The dtype of this layer's weights as plain floats of 16 or 32 bits."""
        wide = self.plan.bits == 16 and self.flat.dtype in (torch.float32, torch.float64)
        return stored_dtype(self.flat.dtype, self.plan.bits, wide and needs_bfloat16(self.flat.dtype, peak(self.flat)))


def layer_of(entry: TensorEntry, keep: Tensor | None, plan: Plan) -> LayerWeights:
    """Return a tensor and its survivors (bool, row by row, None for all), ready for rounding."""
    flat = where_float64_is(entry.rows()).reshape(-1)
    if keep is not None:
        keep = keep.reshape(-1).to(flat.device)
    alone = plan.bits > 8 or not plan.coder.has_scales
    groups = groups_of(entry.matrix, "tensor" if alone else plan.granularity)
    return LayerWeights(entry.name, entry.shape, entry.layout, plan, flat, keep, groups)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The values one layer's codes can stand for, as its quantizer fitted them.

    `scales`: float32 ``[groups]``, exactly as the file reproduces them. `zeros`: the code of zero, uint8 ``[groups]``.
    `codebook`: float32 ``[2^bits]``, ascending. `floats`: the dtype of plain floats of 16 or 32 bits, which have none
    of these.
    """

    plan: Plan
    scales: Tensor | None = None
    zeros: Tensor | None = None
    codebook: Tensor | None = None
    floats: torch.dtype | None = None

    def codes(self, piece: Piece) -> Tensor:
        """Return the codes of a piece with 8 bits at most, uint8 of the piece's shape."""
        return self.plan.coder.encode(piece, self)

    def effective(self, piece: Piece, layer: LayerWeights) -> Tensor:
        """Return the effective weights of a piece of the layer, flat, in the layer's own dtype."""
        if self.floats is not None:
            original = layer.flat[piece.weights]
            values = rounded(original, self.floats).to(original.dtype)
            return values if piece.keep is None else values.masked_fill(~piece.keep.view(-1), 0)
        coder = self.plan.coder
        values = coder.rounded(piece, self)
        if piece.keep is not None and not coder.has_zero(self.plan.bits):
            values = values.masked_fill_(~piece.keep, 0)
        scales = None if self.scales is None else self.scales[piece.groups]
        return layer.groups.flat(finite(values, scales, self.plan, layer.flat.dtype))

    def scale(self, piece: Piece) -> Tensor:
        """Return the scales of a piece's groups, float32 ``[groups, 1]``."""
        if self.scales is None:
            raise ValueError(f"{self.plan.quantizer!r} was fitted without scales")
        return column(self.scales, piece)

    def zero(self, piece: Piece) -> Tensor | None:
        """Return the codes of zero of a piece's groups, float32 ``[groups, 1]``; None if they store none."""
        return None if self.zeros is None else column(self.zeros, piece)


def column(per_group: Tensor, piece: Piece) -> Tensor:
    """Return a piece's share of something known per group, float32 ``[groups, 1]``."""
    return per_group[piece.groups, None].float()
