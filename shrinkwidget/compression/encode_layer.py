"""One layer from weights to codes: its quantizer fits a grid to the survivors, and rounds them (docs/format.md)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..analysis.file_size import needs_bfloat16, peak, rounded, stored_dtype
from ..analysis.model_tensors import TensorEntry, TensorSpec, dtype_name, where_float64_is
from ..analysis.parallel import CHUNK
from ..analysis.run_without_side_effects import describe
from ..errors import MethodError, quoted
from ..method_registry import Quantizer, doing
from ..recipe import Plan, layer_label
from .encoded_tensor import EncodedTensor, Groups, as_stored, decode_blocks, finite, groups_of
from .fast_cpu_ops import energy, selected, working, zeroed, zeroed_


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Some groups of a layer: which weights and groups they are, and the weights with the pruned ones at zero.

    `x`: float32 ``[groups, size]``, not to be written to. `keep`: bool of the same shape, None if all are kept.
    """

    weights: slice
    groups: slice
    x: Tensor
    keep: Tensor | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerWeights(TensorSpec):
    """One tensor with its survivors chosen, about to be rounded: weights `flat` and `keep` (None: all), row by row."""

    plan: Plan
    flat: Tensor
    keep: Tensor | None
    groups: Groups

    def pieces(self) -> Iterator[Piece]:
        """Yield the layer in pieces that fit a CPU's cache, whole on other devices."""
        for weights, groups in self.groups.pieces(CHUNK if self.flat.device.type == "cpu" else len(self.flat)):
            x, keep = self.flat[weights].float(), None if self.keep is None else self.keep[weights]
            if keep is not None:
                # zeros change no range that includes zero, no sum of magnitudes, and no error
                x, keep = zeroed(x, keep), self.groups.blocks(keep)
            yield Piece(weights, groups, self.groups.blocks(x), keep)

    def survivors(self) -> Tensor:
        """Return the kept weights row by row, of the tensor's own dtype."""
        return self.flat if self.keep is None else selected(self.flat, self.keep)

    def grid(self, scales: Tensor | None = None, zeros: Tensor | None = None, codebook: Tensor | None = None) -> Grid:
        """Return the grid a quantizer fits, its scales rounded as the file stores them; see `Grid`."""
        return Grid(self.plan, None if scales is None else as_stored(scales.float(), self.plan), zeros, codebook)

    @property
    def float_dtype(self) -> torch.dtype:
        """The dtype of this layer's weights as plain floats of 16 or 32 bits."""
        wide = self.plan.bits == 16 and self.flat.dtype in (torch.float32, torch.float64)
        return stored_dtype(self.flat.dtype, self.plan.bits, wide and needs_bfloat16(self.flat.dtype, peak(self.flat)))


def layer_of(entry: TensorEntry, keep: Tensor | None, plan: Plan) -> LayerWeights:
    """Return a tensor and its survivors (bool, row by row, None for all), ready for rounding."""
    flat = where_float64_is(entry.rows()).reshape(-1)
    if keep is not None:
        keep = keep.reshape(-1).to(flat.device)
    # without scales there is nothing to share in groups, and any piece of the layer will do
    alone = plan.bits > 8 or not plan.coder.has_scales
    groups = groups_of(entry.matrix, "tensor" if alone else plan.granularity)
    spec = entry.name, entry.shape, entry.dtype, entry.layout
    return LayerWeights(*spec, plan=plan, flat=flat, keep=keep, groups=groups)


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


@dataclass(frozen=True, slots=True, eq=False)
class EncodedLayer:
    """What came out for one layer: its codes, its effective weights, and what pruning and rounding did to it.

    `effective`: of the layer's shape and dtype, None if nobody wanted them. `signal`, `noise`: Σ w² and
    Σ (w − effective w)², summed in float64.
    """

    encoded: EncodedTensor
    effective: Tensor | None
    signal: float
    noise: float


def encode_layer(layer: LayerWeights, want_effective: bool = True) -> EncodedLayer:
    """Round the survivors of one layer to codes, and measure what these decode to.

    Ranges, means and codebooks are those of the survivors alone, and scales are rounded as the file stores them
    before anything is rounded to them.

    Raises:
        MethodError: for a quantizer that fails, or gives what no file can hold.
    """
    grid, plan, flat = fit(layer), layer.plan, layer.flat
    effective = torch.empty_like(flat) if want_effective else None
    stored, signal, noise = [], 0.0, 0.0
    # codes, values and errors piece by piece, while the weights are in the CPU's cache: on a large layer one more pass
    # over memory costs as much as the arithmetic
    for piece in layer.pieces():
        original = flat[piece.weights]
        kept = None if layer.keep is None else layer.keep[piece.weights]
        if grid.floats is not None:
            codes = rounded(original, grid.floats)
            values = codes.to(flat.dtype) if kept is None else codes.to(flat.dtype).masked_fill(~kept, 0)
        else:
            blocks = _codes(grid, piece, layer)
            codes = layer.groups.flat(blocks)
            scales, zeros = (None if array is None else array[piece.groups] for array in (grid.scales, grid.zeros))
            values = layer.groups.flat(decode_blocks(blocks, scales, zeros, grid.codebook, plan, layer.name))
            values = finite(values if kept is None else zeroed_(values, kept), scales, plan, flat.dtype)
        if kept is not None:
            codes = selected(codes, kept)
        stored.append(codes)
        if effective is not None:
            effective[piece.weights] = values
        signal += energy(working(original))
        noise += energy(working(values) - working(original))
    encoded = EncodedTensor(
        layer.name,
        layer.shape,
        layer.dtype,
        layer.layout,
        plan=plan,
        keep=layer.keep,
        codes=torch.cat(stored),  # a copy, even of plain floats: the model's own memory may change later
        scales=grid.scales,
        zeros=grid.zeros,
        codebook=grid.codebook,
    )
    if effective is not None:
        effective = layer.layout.restored(effective, layer.shape)
    return EncodedLayer(encoded, effective, signal, noise)


def quantize(entry: TensorEntry, keep: Tensor | None, plan: Plan) -> EncodedTensor:
    """Return one tensor coded as its plan asks; `keep` is true where a weight survives, row by row, None if all do."""
    return encode_layer(layer_of(entry, keep, plan), want_effective=False).encoded


def on_grid(layer: LayerWeights, grid: Grid) -> Tensor:
    """Return a layer's effective weights, rounded to its grid: a new tensor of its shape and dtype.

    What `encode_layer` gives, without codes: training does this at every step.
    """
    out = torch.empty_like(layer.flat)
    for piece in layer.pieces():
        out[piece.weights] = grid.effective(piece, layer)
    return layer.layout.restored(out, layer.shape)


def fit(layer: LayerWeights) -> Grid:
    """Return the grid of a layer: plain floats, or what its quantizer fits.

    Raises:
        MethodError: for a quantizer that fails, or fits what no file can hold.
    """
    plan, coder = layer.plan, layer.plan.coder
    if plan.bits > 8:
        return Grid(plan, floats=layer.float_dtype)
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


def _codes(grid: Grid, piece: Piece, layer: LayerWeights) -> Tensor:
    """Return the codes of a piece, uint8 of its shape, checked: a quantizer may be anybody's."""
    coder, bits = layer.plan.coder, layer.plan.bits
    with doing(coder, layer.name):
        codes = coder.encode(piece, grid)
    if codes.shape != piece.x.shape or codes.dtype != torch.uint8:
        wanted = f"{describe(piece.x).split()[0]} uint8"
        raise _failed(coder, layer, f"encoded {wanted} weights as {describe(codes)}")
    largest = coder.largest_code(bits)
    if largest < 255 and int(codes.max()) > largest:
        raise _failed(coder, layer, f"has the code {int(codes.max())}, beyond its largest, {largest}")
    return codes


def _failed(coder: Quantizer, layer: LayerWeights, what: str) -> MethodError:
    return MethodError(f"quantizer {coder.kind!r} failed on {quoted(layer_label(layer.name))}: it {what}")
