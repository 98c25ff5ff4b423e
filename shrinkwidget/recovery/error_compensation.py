"""Codes of a layer that are chosen for what it computes, not for how near each is to its weight.

Among the weights on its mask and its grid, those are looked for whose outputs on the calibration inputs come near the
dense ones: Σ‖(W − Ŵ)x‖², which is the trace of (W − Ŵ) H (W − Ŵ)ᵀ with H = Σ x xᵀ. Mask and grid are the recipe's own,
so the file has the bytes it would have had.

1. Pruned: a least-squares problem for every row on its own mask, by conjugate gradients. (SparseGPT, Frantar, Alistarh,
   arXiv 2301.00774, passes each pruned column's error on to later columns only; of ResNet-20 on CIFAR-10 at 80 % and 4
   bits that leaves 64 % accuracy, and this 70.)
2. Rounded: column by column, each column's error passed on to the columns after it by H⁻¹: the update of Optimal Brain
   Surgeon in the order and with the Cholesky factor of GPTQ (Frantar et al., arXiv 2210.17323).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from ..analysis.open_model_tensors_and_channel_axes import rounded
from ..compression.encode_layers_and_packed_model import EncodedTensor, LayerWeights, Levels, encoded_as, fit

_BLOCK: Final = 128
"""Columns whose errors are passed on one by one; to the columns after them they go in one product (GPTQ, section 3)."""

_TRIES: Final = 4
"""How often damping is made ten times as strong for moments that cannot be inverted, before the layer is given up."""

_ITERATIONS: Final = 100
_CONVERGED: Final = 1e-6
"""When conjugate gradients end: after so many steps, or with the squared residual at this fraction of the first."""


class SingularMomentsError(ValueError):
    """The second moments of a layer's inputs cannot be inverted, however much they are damped."""


def compensate(layer: LayerWeights, second: Tensor, damping: float) -> EncodedTensor:
    """Return the codes of a layer, on its mask and a grid of its plan.

    The grid is fitted to the weights that remain once they have made good for the pruned ones.

    Args:
        layer: the dense weights, with the survivors marked.
        second: Σ x xᵀ of its inputs, float32 ``[groups, columns, columns]``; the layer's rows are as many for each.
        damping: what is added to the diagonal of H, as a fraction of its mean.

    Raises:
        SingularMomentsError: for moments that cannot be inverted.
        MethodError: for a quantizer that fails.
    """
    diagonals = second.diagonal(dim1=1, dim2=2)
    h = second + torch.diag_embed((damping * diagonals.mean(1, keepdim=True)).expand_as(diagonals))
    wanted = layer.flat.float().view(len(second), -1, second.shape[-1])
    keep = None if layer.keep is None else layer.keep.view(wanted.shape)
    if keep is not None:
        parts = zip(wanted, keep, h, strict=True)
        wanted = torch.stack([_least_squares(*part) for part in parts])
        layer = replace(layer, flat=wanted.reshape(-1).to(layer.flat.dtype))
    grid = fit(layer)
    if grid.floats is not None:
        return encoded_as(layer, grid, rounded(layer.flat, grid.floats))
    choice = _NearestLevel(layer, Levels.of(layer, grid))
    rows = wanted.shape[1]
    for number, part in enumerate(wanted):
        kept = None if keep is None else keep[number]
        _round_columns(part, kept, h[number], choice, slice(number * rows, (number + 1) * rows), damping)
    return encoded_as(layer, grid, choice.codes.view(-1))


def _least_squares(dense: Tensor, keep: Tensor, h: Tensor) -> Tensor:
    """Return the weights on a mask, ``[rows, columns]``, whose outputs are nearest to those of the dense ones.

    All rows at once, preconditioned by H's diagonal: each has a mask of its own, and would need a factor of its own to
    be solved directly (Meng et al., ALPS, arXiv 2406.07831, section 3.3).
    """
    tiny = torch.finfo(h.dtype).tiny  # what divides by zero divides zero: a row is solved, or a column saw no input
    scale = h.diagonal().clamp(min=tiny).reciprocal()
    # it starts at the dense weights on the mask, from which the solution is not far
    found = torch.where(keep, dense, 0.0)
    residual = torch.where(keep, (dense - found) @ h, 0.0)
    step = residual * scale
    left = (residual * step).sum(1, keepdim=True)
    enough = _CONVERGED * float(left.sum())
    for _ in range(_ITERATIONS):
        if float(left.sum()) <= enough:
            break
        ahead = torch.where(keep, step @ h, 0.0)
        length = left / (step * ahead).sum(1, keepdim=True).clamp(min=tiny)
        found += length * step
        residual -= length * ahead
        scaled = residual * scale
        before, left = left, (residual * scaled).sum(1, keepdim=True)
        step = scaled + left / before.clamp(min=tiny) * step
    return found


def _round_columns(
    wanted: Tensor, keep: Tensor | None, h: Tensor, choice: _NearestLevel, rows: slice, damping: float
) -> None:
    """Choose a level for every weight of some rows, ``[rows, columns]``, column by column."""
    # the largest inputs first, whose errors then find the most columns to make them good (GPTQ's "act-order")
    order = h.diagonal().argsort(descending=True, stable=True)
    factor = _inverse_factor(h[order][:, order].double(), damping).float()
    wanted = wanted[:, order]  # a copy
    kept = None if keep is None else keep[:, order]
    count = wanted.shape[1]
    # Rounding a column makes an error. The columns still to come can make good for most of it, by what the factor's row
    # of that column says; inside a block at once, behind it in one product for the whole block.
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        errors = torch.empty_like(wanted[:, start:stop])
        for at in range(start, stop):
            value = choice.take(wanted[:, at], rows, int(order[at]))
            if kept is not None:
                value = torch.where(kept[:, at], value, 0.0)
            error = (wanted[:, at] - value) / factor[at, at]
            wanted[:, at + 1 : stop] -= error[:, None] * factor[at, at + 1 : stop]
            errors[:, at - start] = error
        wanted[:, stop:] -= errors @ factor[start:stop, stop:]


def _inverse_factor(h: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of H⁻¹.

    Raises:
        SingularMomentsError: if there is none, however much is added to the diagonal.
    """
    more = damping * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype, device=h.device)
    for power in range(_TRIES):
        lower: Tensor
        upper: Tensor
        lower, failed = torch.linalg.cholesky_ex(h + (10**power - 1) * more)  # H is damped once already
        if not int(failed):
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not int(failed) and bool(upper.isfinite().all()):
                return upper
    raise SingularMomentsError


class _NearestLevel:
    """Takes the nearest level for each weight, and notes its code."""

    def __init__(self, layer: LayerWeights, levels: Levels) -> None:
        self._levels = levels
        self._between = (levels.values[:, 1:] + levels.values[:, :-1]) / 2
        self._groups = layer.groups
        self.codes = torch.empty(layer.matrix, dtype=torch.uint8, device=layer.flat.device)

    def take(self, wanted: Tensor, rows: slice, column: int) -> Tensor:
        """Return the levels nearest to some rows of a column, ``[rows]``."""
        groups, level = self._groups, self._levels
        if len(level.values) == 1:  # one scale, or one codebook, for all
            group = slice(0, 1)
        else:  # those that the column passes through
            first = column // groups.size
            group = slice(rows.start * groups.per_row + first, rows.stop * groups.per_row, groups.per_row)
        many = (len(wanted), -1)
        # searchsorted copies what is not contiguous itself, but with a warning each time
        place = torch.searchsorted(self._between[group].expand(many).contiguous(), wanted[:, None].contiguous())
        self.codes[rows, column] = level.codes[group].expand(many).gather(1, place)[:, 0]
        return level.values[group].expand(many).gather(1, place)[:, 0]
