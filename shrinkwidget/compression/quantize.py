"""Codes of a layer, from what its quantizer fits to the survivors (docs/format.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..analysis.model_tensors import TensorEntry
from ..analysis.packed_file_size import rounded
from ..recipe import Plan
from .encoded_tensor import EncodedTensor
from .numpy_kernels import selected
from .quantization_grid import Grid, LayerWeights, Piece, layer_of


def quantize(entry: TensorEntry, keep: Tensor | None, plan: Plan) -> EncodedTensor:
    """Return one tensor coded as its plan asks; `keep` is true where a weight survives, row by row,
    None if all do.

    Ranges, means and codebooks are those of the survivors alone, and scales are rounded as the file stores them
    before anything is rounded to them.
    """
    return code(layer_of(entry, keep, plan))


def code(layer: LayerWeights) -> EncodedTensor:
    """Return a layer in codes; see `quantize`."""
    grid = fit(layer)
    if grid.floats is not None:
        codes = rounded(layer.survivors(), grid.floats)
        codes = codes.clone() if codes is layer.flat else codes  # the model's own memory may change later
    else:
        codes = torch.cat([_kept_codes(grid.codes(piece), piece, layer) for piece in layer.pieces()])
    return EncodedTensor(
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


def _kept_codes(codes: Tensor, piece: Piece, layer: LayerWeights) -> Tensor:
    flat = layer.groups.flat(codes)
    return flat if layer.keep is None else selected(flat, layer.keep[piece.weights])


def fit(layer: LayerWeights) -> Grid:
    """Return the grid of a layer: plain floats, or what its quantizer fits.

    Raises:
        MethodError: for a quantizer that fails, or fits what no file can hold.
    """
    plan = layer.plan
    if plan.bits > 8:
        return Grid(plan, floats=layer.stored)
    return plan.coder.fit(layer)
