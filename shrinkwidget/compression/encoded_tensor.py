"""An encoded tensor: the mask, codes and scales of one layer in a packed file, and the weights they decode to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..analysis.file_size import has_zero_bytes, has_zero_points
from ..analysis.model_tensors import TensorSpec
from ..analysis.parallel import CHUNK
from ..analysis.run_without_side_effects import describe
from ..errors import MethodError, quoted
from ..method_registry import doing
from ..recipe import Granularity, Plan, layer_label
from .fast_cpu_ops import scatter_


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EncodedTensor(TensorSpec):
    """One layer as the packed file holds it (``docs/format.md``).

    Its spec is that of the dense tensor: `layout` gives the order of everything here, row by row; n is its size.

    Args:
        plan: what the recipe asked of it.
        keep: bool ``[n]``, true where a weight is kept; None if all are. K of them are.
        codes: uint8 ``[K]`` for up to 8 bits, else the kept weights themselves, as float16, bfloat16 or float32.
        scales: float32 ``[groups]``, exactly as the file reproduces them; None for a codebook and for plain floats.
        zeros: uint8 ``[groups]``, the code of zero; None except for asymmetric grids.
        codebook: float32 ``[2^bits]``, ascending; None except for codebooks.
    """

    plan: Plan
    keep: Tensor | None
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
    def mask(self) -> Tensor | None:
        """Which weights are kept, bool of the tensor's own shape; None if all are."""
        return None if self.keep is None else self.layout.restored(self.keep, self.shape)


def spread(encoded: EncodedTensor, codes: Tensor, fill: Tensor | float = 0) -> Tensor:
    """Return `codes` of the kept weights in their places among all n, flat; `fill` (a number or ``[n]``) elsewhere."""
    if encoded.keep is None:
        return codes
    full = torch.empty(encoded.n, dtype=codes.dtype, device=codes.device)
    full.copy_(torch.as_tensor(fill))
    return scatter_(full, encoded.keep, codes)


def dense_codes(encoded: EncodedTensor) -> Tensor:
    """Return the codes of all n weights, flat; a pruned weight has the code of zero.

    Only a quantizer that has zero has such a code (`Quantizer.has_zero`), and plain floats.
    """
    if encoded.keep is None or encoded.plan.bits > 8:
        return spread(encoded, encoded.codes)
    return spread(encoded, encoded.codes, zero_codes(encoded.plan, encoded.matrix, encoded.zeros))


def zero_codes(plan: Plan, matrix: tuple[int, int], zeros: Tensor | None) -> Tensor | int:
    """Return the code of zero: one for all weights of a layer with codes of up to 8 bits, or one for each, ``[n]``."""
    if zeros is None:
        code = plan.coder.zero_code(plan.bits)
        if code is None:
            raise ValueError(f"{plan.quantizer!r} has no code for zero at {plan.bits} bits")
        return code
    groups = groups_of(matrix, plan.granularity)
    return groups.flat(zeros[:, None].expand(-1, groups.size).contiguous())


def decode(encoded: EncodedTensor) -> Tensor:
    """Return the effective weights: a new tensor of the layer's shape and dtype, computed in float32, then rounded."""
    if encoded.plan.bits > 8:
        values = spread(encoded, encoded.codes).to(encoded.dtype, copy=encoded.keep is None)
        return encoded.layout.restored(values, encoded.shape)
    plan, coder, groups = encoded.plan, encoded.plan.coder, _groups(encoded)
    has_zero = coder.has_zero(plan.bits)  # the code of zero, of a pruned weight, then gives the value zero
    # pruned weights take part with any code where none is zero, and are set to zero afterwards
    codes = dense_codes(encoded) if has_zero else spread(encoded, encoded.codes)
    flat = torch.empty(encoded.n, dtype=encoded.dtype, device=codes.device)
    for weights, some in groups.pieces(CHUNK if codes.device.type == "cpu" else encoded.n):
        scales = None if encoded.scales is None else encoded.scales[some]
        zeros = None if encoded.zeros is None else encoded.zeros[some]
        blocks = groups.blocks(codes[weights])
        values = groups.flat(decode_blocks(blocks, scales, zeros, encoded.codebook, plan, encoded.name))
        if encoded.keep is not None and not has_zero:
            values = values.masked_fill_(~encoded.keep[weights], 0)
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


def _groups(encoded: EncodedTensor) -> Groups:
    """Return how a coded layer's weights share scales: all of them share a codebook alone."""
    granularity = encoded.plan.granularity if encoded.plan.coder.has_scales else "tensor"
    return groups_of(encoded.matrix, granularity)


def finite(values: Tensor, scales: Tensor | None, plan: Plan, dtype: torch.dtype) -> Tensor:
    """Return effective weights in their own dtype, what lies beyond its range as its largest number.

    The outermost level of a grid may lie up to half a step beyond the outermost weight. `scales`: those of these
    weights, None where their values are weights or means of weights; `values` may be changed.
    """
    limit = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    # most layers are far from it, and a pass over all values to find that out is saved
    if scales is not None and float(scales.max()) * 2**plan.bits > limit:
        values = values.clamp_(-limit, limit)
    return values.to(dtype)


def values_of(encoded: EncodedTensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return what the codes stand for, flat, computed in `dtype`; anything where a weight is pruned."""
    plan, groups = encoded.plan, _groups(encoded)
    scales = None if encoded.scales is None else encoded.scales[:, None].to(dtype)
    zeros = None if encoded.zeros is None else encoded.zeros[:, None].to(dtype)
    codes = groups.blocks(spread(encoded, encoded.codes))
    return groups.flat(plan.coder.decode(codes, scales, zeros, encoded.codebook, plan.bits))


UNIT: Final = 2.0**15
"""What the largest scale is stored as. Fractions of 1 would leave half of float16's exponents unused, and make groups
that are 10⁷ times smaller than the largest fade away; these reach down to 2⁻³⁹ of it."""


def as_stored(scales: Tensor, plan: Plan, short: Tensor | None = None) -> Tensor:
    """Return scales, float32 ``[groups]``, as a file reproduces them: a single one as it is, of more the words'.

    `short`: bool ``[groups]``, whether a scale may be shortened (see `_short`) if it is the largest; None for no.
    """
    scales = scales + 0.0  # no -0.0, whose sign would show in the zeros it scales
    top = scales.amax()
    if short is not None:
        top = torch.where(short[scales.argmax()], _short(top), top)
    if len(scales) == 1:
        return top[None]
    return unpacked(packed(scales, top, plan), top, plan)


def packed(scales: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Return scales in units of `top`, the largest, as the integers that a file holds, int32 ``[groups]``.

    They are the bit patterns of float16 numbers, whose sign is never set; for a zero point in the same word the last
    bits of the mantissa are left out. Steps of an asymmetric grid are rounded down: then the outermost weights take the
    first and the last of its codes, and effective weights, compressed once more, stay what they are.
    """
    wanted = scales / torch.where(top > 0, top, 1.0) * UNIT
    halves = wanted.to(torch.float16)
    patterns = halves.view(torch.int16).int()
    if has_zero_points(plan):
        patterns -= (halves.float() > wanted * (1 + 2.0**-18)).int()  # but what is one, to the last bits, is not
    return patterns >> _spare_bits(plan)


def unpacked(words: Tensor, top: Tensor, plan: Plan) -> Tensor:
    """Undo `packed`, except for what it rounded."""
    return (words << _spare_bits(plan)).to(torch.int16).view(torch.float16).float().div_(UNIT).mul_(top)


def with_zero_points(words: Tensor, zeros: Tensor | None, plan: Plan) -> Tensor:
    """Return words that hold the zero points in their lowest bits, where they have no bytes of their own."""
    if zeros is None or has_zero_bytes(plan, len(words)):
        return words
    return words << plan.bits | zeros.int()


def split(words: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """Undo `with_zero_points`: return the words of the scales alone, and the zero points, uint8, if they were there."""
    if not has_zero_points(plan) or has_zero_bytes(plan, len(words)):
        return words, None
    return words >> plan.bits, (words & (1 << plan.bits) - 1).to(torch.uint8)


def _short(top: Tensor) -> Tensor:
    """Return a float32 number rounded down to 13 bits, unless all but its last bits say the next one.

    Products of such a number with words and codes lose next to nothing to rounding, so that the step found in effective
    weights is, to the bit, the step they were rounded to.
    """
    nudged = (top * (1 + 2.0**-20)).clamp(max=torch.finfo(torch.float32).max)
    return (nudged.view(torch.int32) & ~0x7FF).view(torch.float32)


def _spare_bits(plan: Plan) -> int:
    """Return how many bits of a float16 pattern, beside its sign, give way to a zero point in the same word."""
    return plan.bits - 1 if has_zero_points(plan) and not has_zero_bytes(plan, 2) else 0
