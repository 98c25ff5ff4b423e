"""Codes of a layer, from what its quantizer fits to the survivors (docs/format.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..measure.bytes import rounded
from ..measure.layers import Entry
from ..recipe import Plan
from .coded import Coded
from .grid import Grid, Layer, Piece, layer_of
from .numeric import selected


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
    """Return the grid of a layer: plain floats, or what its quantizer fits.

    Raises:
        MethodError: for a quantizer that fails, or fits what no file can hold.
    """
    plan = layer.plan
    if plan.bits > 8:
        return Grid(plan, floats=layer.stored)
    return plan.coder.fit(layer)
