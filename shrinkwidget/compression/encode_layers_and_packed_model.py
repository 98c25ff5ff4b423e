"""Weights to codes and back: of one layer, of all layers of a model by a recipe, and as a packed file holds them.

From top to bottom: groups that share a scale; a layer's weights, grid and codes (`encode_layer`, `decode`), and scales
in 16 bits; all layers of a model (`encode_layers`); the record of each tensor and the whole (`pack`), whose bytes
`files/` writes and reads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..analysis.estimate_class_and_packed_file_header import (
    SECTIONS,
    Estimate,
    LayerBytes,
    LayerEstimate,
    assembled,
    count_width,
    fold_structure,
    has_16_bit_scales,
    has_zero_bytes,
    has_zero_points,
    header_bytes,
    layer_bytes,
    layer_estimate,
    stored_bits,
    structure_item,
)
from ..analysis.open_model_tensors_and_channel_axes import (
    FIRST,
    ModelTensors,
    TensorEntry,
    TensorSpec,
    Write,
    count_not_finite,
    dtype_name,
    half_is_bfloat16,
    needs_bfloat16,
    not_finite,
    overview,
    peak,
    rounded,
    stored_dtype,
    structure_length,
    where_float64_is,
)
from ..analysis.read_tensors_and_serialize_safetensors import DTYPES
from ..analysis.run_model_seeded_macs_and_memory import describe
from ..analysis.sketch import Sketch, counted
from ..analysis.tensor_ops_threads_and_cpu_kernel import (
    Watch,
    chunk_size,
    chunks,
    count_true,
    each,
    energy,
    packed_bits,
    scatter_,
    selected,
    unpacked_bits,
    working,
    zeroed,
)
from ..errors import FileError, MethodError, ModelError, layer_label, quoted
from ..recipe_and_method_registry import Granularity, Plan, Quantizer, Recipe, doing
from .importance_scores_and_pruning_masks import Selection, changed, selections


@dataclass(frozen=True, slots=True)
class Groups:
    """How the weights of a tensor share scales: `per_row` groups in each of `rows` rows of `width` weights.

    A group holds `size` neighbours along its row; the last of a row may be shorter.
    """

    rows: int
    width: int
    size: int

    @property
    def per_row(self) -> int:
        """Groups in a row."""
        return -(-self.width // self.size)

    @property
    def count(self) -> int:
        """Groups in the tensor, row by row."""
        return self.rows * self.per_row

    @property
    def padding(self) -> int:
        """Weights a row lacks for its last group to be whole."""
        return self.per_row * self.size - self.width

    def blocks(self, flat: Tensor) -> Tensor:
        """Return whole groups, given flat, as ``[groups, size]``: a view, or a copy whose short groups end in zeros.

        If the last group of a row is short, pass whole rows; if there is only one group, pass any part of it.
        """
        if not self.padding:
            return flat.view(1, -1) if self.count == 1 else flat.view(-1, self.size)
        return pad(flat.view(-1, self.width), (0, self.padding)).view(-1, self.size)

    def pieces(self, at_most: int) -> Iterator[tuple[slice, slice]]:
        """Cut the tensor into (weights, groups) that `blocks` can take, of about `at_most` weights each."""
        if self.count == 1:
            for start in range(0, self.width, at_most):
                yield slice(start, min(start + at_most, self.width)), slice(0, 1)
            return
        # what must not be cut: a group, or, where rows end in a short one, a whole row, at whose end the padding goes
        step, groups = (self.width, self.per_row) if self.padding else (self.size, 1)
        for start in range(0, self.rows * self.width, at_once := step * max(1, at_most // step)):
            stop = min(start + at_once, self.rows * self.width)
            yield slice(start, stop), slice(start // step * groups, stop // step * groups)

    def flat(self, blocks: Tensor) -> Tensor:
        """Undo `blocks`: return the weights row by row."""
        if not self.padding:
            return blocks.reshape(-1)
        return blocks.view(-1, self.per_row * self.size)[:, : self.width].reshape(-1)


def groups_of(matrix: tuple[int, int], granularity: Granularity) -> Groups:
    """Return how a matrix of so many rows and columns is cut into groups that share a scale."""
    rows, width = matrix
    if granularity == "tensor":
        return Groups(1, rows * width, rows * width)
    return Groups(rows, width, width if granularity == "channel" else min(int(granularity), width))


# ---- a layer as weights, and as codes ----


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
    _latest: list[Piece] = field(default_factory=list, init=False, repr=False)

    def pieces(self) -> Iterator[Piece]:
        """Yield the layer in pieces of about `chunk_size`."""
        for weights, groups in self.cuts():
            yield self.piece(weights, groups)

    def cuts(self) -> Iterator[tuple[slice, slice]]:
        """Yield which weights and which groups make each of the `pieces`."""
        return self.groups.pieces(chunk_size(self.flat.device))

    def piece(self, weights: slice, groups: slice) -> Piece:
        """Return one of the `pieces`."""
        # most layers are a single one, which is looked at several times: to fit a grid, and to round to it
        if self._latest and self._latest[0].weights == weights:
            return self._latest[0]
        x, keep = self.flat[weights].float(), None if self.keep is None else self.keep[weights]
        if keep is not None:
            # zeros change no range that includes zero, no sum of magnitudes, and no error
            x, keep = zeroed(x, keep), self.groups.blocks(keep)
        self._latest[:] = [Piece(weights, groups, self.groups.blocks(x), keep)]
        return self._latest[0]

    def survivors(self) -> Tensor:
        """Return the kept weights row by row, of the tensor's own dtype."""
        return self.flat if self.keep is None else selected(self.flat, self.keep)

    def grid(self, scales: Tensor | None = None, zeros: Tensor | None = None, codebook: Tensor | None = None) -> Grid:
        """Return the grid a quantizer fits, its scales rounded as the file stores them; see `Grid`."""
        return Grid(self.plan, None if scales is None else as_stored(scales.float(), self.plan), zeros, codebook)

    @property
    def float_dtype(self) -> torch.dtype:
        """The dtype of this layer's weights as plain floats of 16 or 32 bits."""
        # only what is narrowed to 16 bits has a choice; the peak tells whether float16 holds it
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
            return values if piece.keep is None else zeroed(values, piece.keep.view(-1))
        coder = self.plan.coder
        values = coder.rounded(piece, self)
        if piece.keep is not None and not coder.has_zero(self.plan.bits):
            values = zeroed(values, piece.keep)
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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedTensor(TensorSpec):
    """One layer as the packed file holds it (``docs/format.md``).

    Its spec is that of the dense tensor: `layout` gives the order of everything here, row by row; n is its size.

    Args:
        plan: what the recipe asked of it.
        keep_bits: uint8 ``[⌈n/8⌉]``, a bit for each weight, the lowest of a byte first, 1 where it is kept; None if all
            are. K of them are.
        codes: uint8 ``[K]`` for up to 8 bits, else the kept weights themselves, as float16, bfloat16 or float32.
        scales: float32 ``[groups]``, exactly as the file reproduces them; None for a codebook and for plain floats.
        zeros: uint8 ``[groups]``, the code of zero; None except for asymmetric grids.
        codebook: float32 ``[2^bits]``, ascending; None except for codebooks.
    """

    plan: Plan
    keep_bits: Tensor | None
    codes: Tensor
    scales: Tensor | None = None
    zeros: Tensor | None = None
    codebook: Tensor | None = None

    @property
    def n(self) -> int:
        """Number of weights."""
        return self.numel

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return self.codes.numel()

    @property
    def keep(self) -> Tensor | None:
        """Which weights are kept, bool ``[n]``, made anew each time; None if all are."""
        return None if self.keep_bits is None else unpacked_bits(self.keep_bits, self.numel)

    @property
    def mask(self) -> Tensor | None:
        """Which weights are kept, bool of the tensor's own shape; None if all are."""
        keep = self.keep
        return None if keep is None else self.layout.restored(keep, self.shape)

    @property
    def groups(self) -> Groups:
        """How its weights share scales; a codebook is shared by all of them."""
        return groups_of(self.matrix, self.plan.granularity if self.plan.coder.has_scales else "tensor")


# ---- weights to codes ----


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
    for weights, groups in layer.cuts():
        original = flat[weights]
        kept = None if layer.keep is None else layer.keep[weights]
        if grid.floats is not None:
            codes = rounded(original, grid.floats)
            values = codes.to(flat.dtype) if kept is None else zeroed(codes.to(flat.dtype), kept)
        else:
            blocks = _codes(grid, layer.piece(weights, groups), layer)
            codes = layer.groups.flat(blocks)
            scales, zeros = (None if array is None else array[groups] for array in (grid.scales, grid.zeros))
            values = layer.groups.flat(decode_blocks(blocks, scales, zeros, grid.codebook, plan, layer.name))
            values = finite(values if kept is None else zeroed(values, kept), scales, plan, flat.dtype)
        if kept is not None:
            codes = selected(codes, kept)
        stored.append(codes)
        if effective is not None:
            effective[weights] = values
        signal += energy(working(original))
        noise += energy(working(values) - working(original))
    encoded = _encoded(
        layer, grid, torch.cat(stored)
    )  # a copy, even of plain floats: the model's memory may change later
    if effective is not None:
        effective = layer.layout.restored(effective, layer.shape)
    return EncodedLayer(encoded, effective, signal, noise)


def _encoded(layer: LayerWeights, grid: Grid, codes: Tensor) -> EncodedTensor:
    return EncodedTensor(
        layer.name,
        layer.shape,
        layer.dtype,
        layer.layout,
        plan=layer.plan,
        keep_bits=None if layer.keep is None else packed_bits(layer.keep),
        codes=codes,
        scales=grid.scales,
        zeros=grid.zeros,
        codebook=grid.codebook,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Every value that the weights of a layer may have, for whoever chooses among them by more than the nearest.

    `values`: effective weights, float32 ``[groups, levels]``, ascending in each group; `codes`: theirs, uint8.
    """

    values: Tensor
    codes: Tensor

    @classmethod
    def of(cls, layer: LayerWeights, grid: Grid) -> Levels:
        """Return the levels of a layer whose plan has codes, of up to 8 bits."""
        plan, groups = layer.plan, layer.groups if layer.plan.coder.has_scales else groups_of(layer.matrix, "tensor")
        all_codes = torch.arange(plan.coder.largest_code(plan.bits) + 1, dtype=torch.uint8, device=layer.flat.device)
        codes = all_codes.expand(groups.count, -1).contiguous()
        decoded = decode_blocks(codes, grid.scales, grid.zeros, grid.codebook, plan, layer.name)
        # codes of a user's quantizer need not ascend with what they stand for
        values, order = finite(decoded, grid.scales, plan, layer.flat.dtype).float().sort(dim=1)
        return cls(values, codes.gather(1, order))


def encoded_as(layer: LayerWeights, grid: Grid, codes: Tensor) -> EncodedTensor:
    """Return a layer with codes of somebody's choice, ``[n]`` row by row; those of pruned weights are left out."""
    return _encoded(layer, grid, codes.clone() if layer.keep is None else selected(codes, layer.keep))


def encoded_already(layer: LayerWeights, encoded: EncodedTensor) -> EncodedLayer:
    """Return what codes of somebody's choice make of a layer."""
    effective = decode(encoded)
    rows = layer.layout.rows(effective).reshape(-1)
    signal = noise = 0.0
    for piece in layer.pieces():
        original = working(layer.flat[piece.weights])
        signal += energy(original)
        noise += energy(working(rows[piece.weights]) - original)
    return EncodedLayer(encoded, effective, signal, noise)


def quantize(entry: TensorEntry, keep: Tensor | None, plan: Plan) -> EncodedTensor:
    """Return one tensor coded as its plan asks; `keep` is true where a weight survives, row by row, None if all do."""
    return encode_layer(layer_of(entry, keep, plan), want_effective=False).encoded


def on_grid(layer: LayerWeights, grid: Grid) -> Tensor:
    """Return a layer's effective weights, rounded to its grid: a new tensor of its shape and dtype.

    What `encode_layer` gives, without codes: training does this at every step.
    """
    cuts = list(layer.cuts())
    if len(cuts) == 1 and grid.floats is None:  # of most layers; of plain floats it may be the layer's own memory
        return layer.layout.restored(grid.effective(layer.piece(*cuts[0]), layer), layer.shape)
    out = torch.empty_like(layer.flat)
    for cut in cuts:
        out[cut[0]] = grid.effective(layer.piece(*cut), layer)
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
    for name, (dtype, length) in expected.items():  # a quantizer may be anybody's, and its grid goes into a file
        found = getattr(grid, name, None)
        if length is None and found is None:
            continue
        if length is None or not isinstance(found, Tensor) or found.shape != (length,) or found.dtype != dtype:
            wanted = "none" if length is None else f"{length} {dtype_name(dtype)}"
            raise _failed(coder, layer, f"fitted {describe(found)} as {name}, expected {wanted}")
        # weights that a diverging training left are no fault of the quantizer, and told by whoever sketches them
        # (a sum takes half as long as a look at each number, and is finite where these are, but for the largest ones)
        if name == "zeros" or math.isfinite(float(found.sum())):
            continue
        if not bool(found.isfinite().all()) and bool(layer.flat.isfinite().all()):
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
    # of 8 bits every uint8 is a code, and the pass over all of them is saved
    if largest < 255 and int(codes.max()) > largest:
        raise _failed(coder, layer, f"has the code {int(codes.max())}, beyond its largest, {largest}")
    return codes


def _failed(coder: Quantizer, layer: LayerWeights, what: str) -> MethodError:
    return MethodError(f"quantizer {coder.kind!r} failed on {quoted(layer_label(layer.name))}: it {what}")


# ---- codes to weights ----


def decode(encoded: EncodedTensor) -> Tensor:
    """Return the effective weights: a new tensor of the layer's shape and dtype, computed in float32, then rounded."""
    if encoded.plan.bits > 8:
        values = spread(encoded, encoded.codes).to(encoded.dtype, copy=encoded.keep_bits is None)
        return encoded.layout.restored(values, encoded.shape)
    plan, coder, groups = encoded.plan, encoded.plan.coder, encoded.groups
    has_zero = coder.has_zero(plan.bits)  # the code of zero, of a pruned weight, then gives the value zero
    # pruned weights take part with any code where none is zero, and are set to zero afterwards
    codes = dense_codes(encoded) if has_zero else spread(encoded, encoded.codes)
    keep = None if has_zero else encoded.keep
    flat = torch.empty(encoded.n, dtype=encoded.dtype, device=codes.device)
    for weights, some in groups.pieces(chunk_size(codes.device)):
        scales = None if encoded.scales is None else encoded.scales[some]
        zeros = None if encoded.zeros is None else encoded.zeros[some]
        blocks = groups.blocks(codes[weights])
        values = groups.flat(decode_blocks(blocks, scales, zeros, encoded.codebook, plan, encoded.name))
        if keep is not None:
            values = zeroed(values, keep[weights])
        flat[weights] = finite(values, scales, plan, encoded.dtype)
    return encoded.layout.restored(flat, encoded.shape)


def decode_blocks(
    codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, plan: Plan, name: str
) -> Tensor:
    """Return what the codes of some groups of a layer stand for, a new tensor of their shape, ``[groups, size]``.

    `scales`, `zeros`: of these groups, ``[groups]``, None if they store none.
    """
    coder = plan.coder
    scales = None if scales is None else scales[:, None]
    zeros = None if zeros is None else zeros[:, None].to(torch.float32)
    with doing(coder, name):
        values = coder.decode(codes, scales, zeros, codebook, plan.bits)
    if values.shape != codes.shape:
        raise MethodError(
            f"quantizer {coder.kind!r} failed on {quoted(layer_label(name))}: it decoded codes of "
            f"{describe(codes)} as {describe(values)}"
        )
    return values


def finite(values: Tensor, scales: Tensor | None, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Return effective weights in their own dtype, what lies beyond its range as its largest number.

    The outermost level of a grid may lie up to half a step beyond the outermost weight. `scales`: those of these
    weights, None where their values are weights or means of weights; `values` may be changed.
    """
    # of float64 as well: values are computed in float32
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    # most layers are far from it, and a pass over all values to find that out is saved
    if scales is not None and float(scales.max()) * 2**plan.bits > limit:
        values = values.clamp_(-limit, limit)
    return values.to(dtype)


def values_of(encoded: EncodedTensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what the codes stand for, flat, computed in `dtype`; anything where a weight is pruned."""
    plan, groups = encoded.plan, encoded.groups
    scales = None if encoded.scales is None else encoded.scales[:, None].to(dtype)
    zeros = None if encoded.zeros is None else encoded.zeros[:, None].to(dtype)
    codes = groups.blocks(spread(encoded, encoded.codes))
    return groups.flat(plan.coder.decode(codes, scales, zeros, encoded.codebook, plan.bits))


def spread(encoded: EncodedTensor, codes: Tensor, fill: Tensor | float = 0) -> Tensor:
    """Return `codes` of the kept weights in their places among all n, flat; `fill` (a number or ``[n]``) elsewhere."""
    keep = encoded.keep
    if keep is None:
        return codes
    full = torch.empty(encoded.n, dtype=codes.dtype, device=codes.device)
    full.copy_(torch.as_tensor(fill))
    return scatter_(full, keep, codes)


def dense_codes(encoded: EncodedTensor) -> Tensor:
    """Return the codes of all n weights, flat; a pruned weight has the code of zero.

    Only a quantizer that has zero has such a code (`Quantizer.has_zero`), and plain floats.
    """
    if encoded.keep_bits is None or encoded.plan.bits > 8:
        return spread(encoded, encoded.codes)
    return spread(encoded, encoded.codes, zero_codes(encoded.plan, encoded.matrix, encoded.zeros))


def zero_codes(plan: Plan, matrix: tuple[int, int], zeros: Tensor | None) -> Tensor | int:
    """Return the code of zero: one for all weights of a layer with codes of up to 8 bits, or one for each, ``[n]``."""
    if zeros is None:
        # without zero points one code is zero in every group
        code = plan.coder.zero_code(plan.bits)
        if code is None:
            raise ValueError(f"{plan.quantizer!r} has no code for zero at {plan.bits} bits")
        return code
    groups = groups_of(matrix, plan.granularity)
    return groups.flat(zeros[:, None].expand(-1, groups.size).contiguous())


# ---- scales as a file holds them ----


def scale_dtype(plan: Plan) -> torch.dtype:
    """Return the dtype of which the scales of a plan are numbers."""
    found: torch.dtype = getattr(torch, plan.coder.scale_dtype)
    return found


UNIT: Final = 2.0**15
"""What the largest scale is stored as. Fractions of 1 would leave half of float16's exponents unused, and make groups
that are 10⁷ times smaller than the largest fade away; these reach down to 2⁻³⁹ of it."""


def as_stored(scales: Tensor, plan: Plan, short: Tensor | None = None) -> Tensor:
    """Return scales, float32 ``[groups]``, as a file reproduces them: a single one as it is, of more the words'.

    `short`: bool ``[groups]``, whether a scale may be shortened to 13 bits if it is the largest; None: none may.
    """
    scales = scales + 0.0  # no -0.0, whose sign would show in the zeros it scales
    if has_16_bit_scales(plan):
        # one that is not zero stays so: or a group of small weights would be all zero
        dtype = scale_dtype(plan)
        least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least subnormal number
        return torch.where(scales > 0, rounded(scales.clamp(min=least), dtype).float(), scales)
    top = scales.amax()
    # Below the smallest normal number a float has too few bits for fractions of it to be read back: of a layer that
    # small, as one that died under weight decay, every group takes the largest step.
    subnormal = top < torch.finfo(torch.float32).smallest_normal
    scales = torch.where(subnormal & (scales > 0), top, scales)
    if short is not None:
        short = short & ~subnormal
        # 13 bits, rounded down unless all but the last bits say the next number. Products of such a scale with words
        # and codes lose next to nothing to rounding, so that the step found in effective weights is, to the bit, the
        # step they were rounded to.
        nudged = (top * (1 + 2.0**-20)).clamp(max=torch.finfo(torch.float32).max)
        top = torch.where(short[scales.argmax()], (nudged.view(torch.int32) & ~0x7FF).view(torch.float32), top)
    if len(scales) == 1:
        return top[None]
    if not has_zero_points(plan):  # a word is then a whole float16 number, and need not be made to read it
        return _floats(_wanted(scales, top).to(torch.float16), top)
    return scales_of_words(scale_words(scales, top, plan), top, plan)


def scale_words(scales: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Return scales in units of `top`, the largest, as the integers that a file holds, int32 ``[groups]``.

    They are the bit patterns of float16 numbers, whose sign is never set; for a zero point in the same word the last
    bits of the mantissa are left out. Steps of an asymmetric grid are rounded down: then the outermost weights take the
    first and the last of its codes, and effective weights, compressed once more, stay what they are.
    """
    wanted = _wanted(scales, top)
    halves = wanted.to(torch.float16)
    # positive halves: the sign bit is free, and int16 as good as uint16, of which torch can do little
    patterns = halves.view(torch.int16).int()
    if has_zero_points(plan):
        patterns -= (halves.float() > wanted * (1 + 2.0**-18)).int()  # but what is one, to the last bits, is not
    return patterns >> _spare_bits(plan)


def scales_of_words(words: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Undo `scale_words`, except for what it rounded."""
    return _floats((words << _spare_bits(plan)).to(torch.int16).view(torch.float16), top)


def _wanted(scales: Tensor, top: Tensor) -> Tensor:
    """Return scales in units in which the largest is `UNIT`."""
    return scales / torch.where(top > 0, top, 1.0) * UNIT


def _floats(halves: Tensor, top: Tensor) -> Tensor:
    """Return scales from their float16 numbers."""
    return halves.float().div_(UNIT).mul_(top)


def with_zero_points(words: Tensor, zeros: Tensor | None, plan: Plan) -> Tensor:
    """Return words that hold the zero points in their lowest bits, where they have no bytes of their own."""
    if zeros is None or has_zero_bytes(plan, len(words)):
        return words
    return words << plan.bits | zeros.int()


def split_words(words: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Undo `with_zero_points`: return the words of the scales alone, and the zero points, uint8, if they were there."""
    if not has_zero_points(plan) or has_zero_bytes(plan, len(words)):
        return words, None
    return words >> plan.bits, (words & (1 << plan.bits) - 1).to(torch.uint8)


def _spare_bits(plan: Plan) -> int:
    """Return how many bits of a float16 pattern, beside its sign, give way to a zero point in the same word."""
    return plan.bits - 1 if has_zero_points(plan) and not has_zero_bytes(plan, 2) else 0


# ---- all layers of a model, by a recipe ----


@dataclass(frozen=True, slots=True, eq=False)
class SelectedLayer:
    """One layer with its plan, and which of its weights survive."""

    entry: TensorEntry
    plan: Plan
    selection: Selection

    def weights(self) -> LayerWeights:
        """Return the weights with their survivors marked, ready for rounding.

        Raises:
            ModelError: if not as many weights survive as the sketch says.
        """
        keep = self.selection.mask(self.entry.rows()) if self.selection.kept < self.entry.numel else None
        if keep is not None and count_true(keep) != self.selection.kept:
            raise _unlike_sketched(self.entry)
        return layer_of(self.entry, keep, self.plan)


def _unlike_sketched(entry: TensorEntry) -> ModelError:
    """Return the error for weights that are not what was counted: NaN, which no sketch has, or others than then."""
    bad = count_not_finite(entry)
    return not_finite(entry, bad) if bad else changed(entry.name)


def select_layers(
    weights: ModelTensors,
    recipe: Recipe,
    known: Sketch | None = None,
    cancelled: Watch | None = None,
    pruned: bool = False,
) -> list[SelectedLayer]:
    """Return every compressible layer with its plan and survivors; see `selections`."""
    chosen = selections(weights, recipe, known, cancelled, pruned)
    return [SelectedLayer(*item) for item in zip(weights.layers, weights.plans(recipe), chosen, strict=True)]


def encode_layers(
    weights: ModelTensors,
    recipe: Recipe,
    known: Sketch | None = None,
    cancelled: Watch | None = None,
    write: Write | None = None,
    pruned: bool = False,
    given: Mapping[str, EncodedTensor] = MappingProxyType({}),
) -> tuple[dict[str, EncodedTensor], Estimate]:
    """Return the codes of every compressible layer that is not under Keep, by name, and the exact figures.

    Nothing in the codes shares memory with the model. The effective weights, decoded for the figures, are given to
    `write` under the layer's name, from any thread. `pruned`: see `selections`. `given`: layers, by name, whose codes
    were chosen already, for the same masks.

    Raises:
        Cancelled: as soon as `cancelled`, polled between layers, says so.
        RecipeError: if an override matches no layer.
        ModelError: for NaN or infinite weights, and for weights that changed since they were sketched.
    """
    if known is None and not pruned:
        known = counted(weights)
    chosen = select_layers(weights, recipe, known, cancelled, pruned)
    encoded, figures = {}, []
    for codes, figure in encode_one_by_one(weights, chosen, cancelled, write, given):
        if codes is not None:
            encoded[codes.name] = codes
        figures.append(figure)
    about = known or overview(weights, structure_length(weights))
    return encoded, assembled(about, recipe, [layer.plan for layer in chosen], figures, exact=True)


def encode_one_by_one(
    weights: ModelTensors,
    chosen: Sequence[SelectedLayer],
    cancelled: Watch | None = None,
    write: Write | None = None,
    given: Mapping[str, EncodedTensor] = MappingProxyType({}),
) -> Iterator[tuple[EncodedTensor | None, LayerEstimate]]:
    """Yield the codes of every selected layer, None under Keep, and its exact figures; see `encode_layers`.

    A few layers are encoded ahead of the one that is taken.
    """

    def one(layer: SelectedLayer) -> tuple[EncodedTensor | None, float, float]:
        if layer.plan.keep:
            flat = where_float64_is(layer.entry.load()).reshape(-1)
            return None, sum(energy(working(piece)) for piece in chunks(flat)), 0.0
        if layer.entry.name in given:
            done = encoded_already(layer.weights(), given[layer.entry.name])
        else:
            done = encode_layer(layer.weights(), want_effective=write is not None)
        if write is not None and done.effective is not None:
            write(layer.entry.name, done.effective)
        return done.encoded, done.signal, done.noise

    for layer, (codes, signal, noise) in zip(chosen, each(one, chosen, cancelled, weights.on_gpu), strict=True):
        entry, kept = layer.entry, layer.selection.kept
        if not math.isfinite(signal):
            raise _unlike_sketched(entry)
        size = layer_bytes(entry.matrix, kept, layer.plan, entry.dtype.itemsize)
        yield codes, layer_estimate(entry.name, entry.numel, kept, size, layer.selection.threshold, signal, noise)


def decoded_state(
    weights: ModelTensors, recipe: Recipe, encoded: Mapping[str, EncodedTensor], cancelled: Watch | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every saved tensor as the file would load it, from the codes of `encode_layers`. One of its names.

    Raises:
        Cancelled: as soon as `cancelled` says so.
    """
    items = list(encoded.values())
    yield from zip(encoded, each(decode, items, cancelled, weights.on_gpu), strict=True)
    for entry in weights.layers:
        if entry.name not in encoded:
            yield entry.name, entry.load()
    for entry in weights.uncompressed:
        yield entry.name, uncompressed_value(entry, recipe.uncompressed_bits)


def uncompressed_value(entry: TensorEntry, bits: int) -> Tensor:
    """Return a tensor that is not compressed as `bits` bits leave it, in its own dtype."""
    tensor = entry.load()
    wide = tensor.dtype in (torch.float32, torch.float64)
    halved = wide and bits == 16 and needs_bfloat16(tensor.dtype, peak(tensor))
    return rounded(tensor, stored_dtype(tensor.dtype, bits, halved)).to(tensor.dtype)


# ---- what a packed file holds ----


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TensorRecord(TensorSpec):
    """The place of one tensor in a packed file: what it is, and what the recipe asked of it (None: uncompressed).

    `bfloat16` tells whether its 16-bit form is bfloat16. Of what is uncompressed the `layout` is not stored.
    """

    bfloat16: bool
    plan: Plan | None
    uncompressed_bits: int

    @property
    def encoded(self) -> Plan | None:
        """The plan, where the tensor is stored as codes; None where it is stored as it is."""
        return None if self.plan is None or self.plan.keep else self.plan

    @property
    def stored_dtype(self) -> torch.dtype:
        """The dtype of its stored values: of plain codes (16 and 32 bits), or of the tensor left uncompressed."""
        if self.plan is None:
            return stored_dtype(self.dtype, self.uncompressed_bits, self.bfloat16)
        return self.dtype if self.plan.keep else stored_dtype(self.dtype, self.plan.bits, self.bfloat16)

    @property
    def bits(self) -> int:
        """Bits per code of a coded tensor."""
        return stored_bits(self.plan.bits, self.dtype.itemsize) if self.plan else 8 * self.stored_dtype.itemsize

    def nbytes(self, kept: int) -> LayerBytes:
        """Return the bytes of the tensor in a plain packed file, `kept` of its weights being kept."""
        if self.plan is None:
            return LayerBytes(0, 0, 0, as_is=self.numel * self.stored_dtype.itemsize, dense=True)
        return layer_bytes(self.matrix, kept, self.plan, self.dtype.itemsize)


@dataclass(frozen=True, slots=True, eq=False)
class PackedModel:
    """Everything a packed file says: the recipe, and each saved tensor's place and content.

    `stored` holds, beside each record, the layer's codes or the uncompressed tensor in the dtype it is stored in;
    `kept` how many weights each tensor keeps: all, where it is not coded. `structure` is the text that describes all
    records.
    """

    recipe: Recipe
    structure: str
    records: tuple[TensorRecord, ...]
    kept: tuple[int, ...]
    stored: Sequence[EncodedTensor | Tensor]

    @property
    def nbytes(self) -> int:
        """The bytes of its file, to the byte, from counts alone."""
        lengths = section_lengths(self.records, self.kept)
        body = sum(lengths.values()) - lengths["counts"]
        return header_bytes(self.recipe.to_json(), len(self.structure), lengths) + body

    def items(self) -> Iterator[tuple[TensorRecord, EncodedTensor | Tensor]]:
        """Yield each tensor's record and content, in model order."""
        return zip(self.records, self.stored, strict=True)

    def tensors(self) -> Iterator[tuple[TensorRecord, Tensor]]:
        """Yield each tensor's record and effective values, in the model's own dtype, one at a time."""
        for record, item in self.items():
            yield record, decode(item) if isinstance(item, EncodedTensor) else item.to(record.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors by name; the names of tied weights share one tensor, as each looks at it."""
        return {name: record.seen_as(name, tensor) for record, tensor in self.tensors() for name in record.names}

    def uncoded(self) -> dict[str, Tensor]:
        """Return those of `state_dict` that are not coded."""
        plain = [
            (record, item.to(record.dtype)) for record, item in self.items() if not isinstance(item, EncodedTensor)
        ]
        return {name: record.seen_as(name, tensor) for record, tensor in plain for name in record.names}


def pack(weights: ModelTensors, recipe: Recipe, encoded: Mapping[str, EncodedTensor]) -> PackedModel:
    """Return the packed model, given the codes of every compressible layer that is not under `Keep`, by name.

    Raises:
        FileError: for a tensor that no packed file can hold.
        RecipeError: if an override matches no layer.
    """
    records = records_of(weights, recipe)
    kept = tuple(encoded[record.name].kept if record.encoded else record.numel for record in records)
    stored = tuple(
        encoded[record.name] if record.encoded else as_stored_whole(entry, record)
        for record, entry in zip(records, weights.saved, strict=True)
    )
    return PackedModel(recipe, structure_of(records), records, kept, stored)


def records_of(
    weights: ModelTensors, recipe: Recipe, peaks: Mapping[str, float] = MappingProxyType({})
) -> tuple[TensorRecord, ...]:
    """Return the places of all saved tensors of a model; `peaks` are largest magnitudes, by name, where known.

    Raises:
        FileError: for a tensor that no packed file can hold.
        RecipeError: if an override matches no layer.
    """
    # the same order everywhere, that of the model: records, plans, codes and sections are told apart by nothing else
    plans = iter(recipe.resolve(entry.name for entry in weights.saved if entry.compressible))
    records = []
    for entry in weights.saved:
        if dtype_name(entry.dtype) not in DTYPES:
            raise FileError(
                f"no packed file can hold this model: {quoted(entry.name)} is {dtype_name(entry.dtype)}; convert it to "
                f"a float type"
            )
        records.append(
            TensorRecord(
                entry.name,
                entry.shape,
                entry.dtype,
                entry.layout if entry.compressible else FIRST,
                entry.aliases,
                entry.views,
                bfloat16=half_is_bfloat16(entry, peaks.get(entry.name)),
                plan=next(plans) if entry.compressible else None,
                uncompressed_bits=recipe.uncompressed_bits,
            )
        )
    return tuple(records)


def packed_bytes(weights: ModelTensors, recipe: Recipe) -> int:
    """Return the bytes of the file of a network that was trained under the masks of a recipe, from counts alone.

    Raises:
        FileError: for a tensor that no packed file can hold.
    """
    records = records_of(weights, recipe)
    kept = {layer.entry.name: layer.selection.kept for layer in select_layers(weights, recipe, pruned=True)}
    for entry, record in zip(weights.saved, records, strict=True):
        if not record.encoded:
            as_stored_whole(entry, record)  # made to be refused here, and not after a training
    counts = tuple(kept[record.name] if record.encoded else record.numel for record in records)
    return PackedModel(recipe, structure_of(records), records, counts, ()).nbytes


def structure_of(records: Iterable[TensorRecord]) -> str:
    """Return the text that describes all records."""
    return fold_structure([structure_item(record, record.plan is not None, record.bfloat16) for record in records])


def as_stored_whole(entry: TensorEntry, record: TensorRecord) -> Tensor:
    """Return a tensor that is not coded in the dtype it is stored in.

    Raises:
        FileError: for a sparse one.
    """
    tensor = entry.load()
    if tensor.layout != torch.strided:
        raise FileError(
            f"cannot save {quoted(entry.name)}: it is stored as {tensor.layout}; make it dense with .to_dense()"
        )
    return rounded(tensor, record.stored_dtype)


def section_lengths(records: Sequence[TensorRecord], kept: Sequence[int]) -> dict[str, int]:
    """Return the bytes of the five sections of a plain file."""
    lengths = dict.fromkeys(SECTIONS, 0)
    for record, k in zip(records, kept, strict=True):
        layer = record.nbytes(k)
        lengths["counts"] += count_width(record.numel) if record.encoded else 0
        lengths["codes"] += layer.codes
        lengths["mask"] += layer.mask
        lengths["scales"] += layer.scales
        lengths["rest"] += layer.as_is
    return lengths


def unfolded_bytes(records: Sequence[TensorRecord], kept: Sequence[int]) -> int:
    """Return the bytes a reader of the file needs, about: the plain sections and the dense tensors."""
    return sum(section_lengths(records, kept).values()) + sum(s.numel * s.dtype.itemsize for s in records)
