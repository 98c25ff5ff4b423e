"""Codes of a layer, from what its quantizer fits to the survivors (docs/format.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..analysis.file_size import rounded
from ..analysis.model_tensors import TensorEntry, dtype_name
from ..analysis.run_without_side_effects import describe
from ..errors import MethodError, quoted
from ..method_registry import Quantizer, doing
from ..recipe import Plan, layer_label
from .encoded_tensor import EncodedTensor
from .fast_cpu_ops import selected
from .quantization_levels import Grid, LayerWeights, Piece, layer_of


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
        codes = torch.cat([_kept_codes(grid, piece, layer) for piece in layer.pieces()])
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


def _kept_codes(grid: Grid, piece: Piece, layer: LayerWeights) -> Tensor:
    plan = layer.plan
    with doing(plan.coder, layer.name):
        codes = grid.codes(piece)
    if codes.shape != piece.x.shape or codes.dtype != torch.uint8:
        wanted = f"{describe(piece.x).split()[0]} uint8"
        raise _failed(plan.coder, layer, f"encoded {wanted} weights as {describe(codes)}")
    largest = plan.coder.largest_code(plan.bits)
    if largest < 255 and int(codes.max()) > largest:
        raise _failed(plan.coder, layer, f"has the code {int(codes.max())}, beyond its largest, {largest}")
    flat = layer.groups.flat(codes)
    return flat if layer.keep is None else selected(flat, layer.keep[piece.weights])


def fit(layer: LayerWeights) -> Grid:
    """Return the grid of a layer: plain floats, or what its quantizer fits.

    Raises:
        MethodError: for a quantizer that fails, or fits what no file can hold.
    """
    plan, coder = layer.plan, layer.plan.coder
    if plan.bits > 8:
        return Grid(plan, floats=layer.stored)
    with doing(coder, layer.name):
        grid = coder.fit(layer)
    expected = {
        "scales": (torch.float32, layer.groups.count if coder.has_scales else None),
        "zeros": (torch.uint8, layer.groups.count if coder.has_zero_points(plan.bits) else None),
        "codebook": (torch.float32, 2**plan.bits if coder.has_codebook else None),
    }
    for name, (dtype, length) in expected.items():
        found = getattr(grid, name, None)
        if length is None and found is None:
            continue
        if length is None or not isinstance(found, Tensor) or found.shape != (length,) or found.dtype != dtype:
            wanted = "none" if length is None else f"{length} {dtype_name(dtype)}"
            raise _failed(coder, layer, f"fitted {describe(found)} as {name}, expected {wanted}")
        # weights that a diverging training left are no fault of the quantizer, and told by whoever sketches them
        if name != "zeros" and not bool(found.isfinite().all()) and bool(layer.flat.isfinite().all()):
            raise _failed(coder, layer, f"fitted {name} that are NaN or infinite")
    return grid


def _failed(coder: Quantizer, layer: LayerWeights, what: str) -> MethodError:
    return MethodError(f"quantizer {coder.kind!r} failed on {quoted(layer_label(layer.name))}: it {what}")
