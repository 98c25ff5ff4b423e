"""How many bytes files take: every part of a packed one (docs/format.md as arithmetic), and a plain .safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ..errors import ModelError, quoted
from ..recipe import Granularity, Plan
from .model_tensors import TensorEntry, TensorSpec, dtype_name
from .packed_file_structure import header_text
from .safetensors_header import FILE_DTYPES

WORD_ZERO_BITS: Final = 5
"""Zero points of up to so many bits share the 16-bit word of their scale; larger ones would blur it."""
HALF_MAX: Final = 65504.0
"""The largest finite float16; a tensor with magnitudes beyond it has bfloat16 as its 16-bit form."""

_WIDE: Final = (torch.float32, torch.float64)


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """What one compressible tensor takes in a packed file, in bytes, and whether its codes cover all its weights."""

    codes: int
    mask: int
    scales: int
    as_is: int
    dense: bool


def layer_bytes(matrix: tuple[int, int], kept: int, plan: Plan, itemsize: int) -> LayerBytes:
    """Return the bytes of a layer of rows × columns weights of `itemsize` bytes, `kept` of which survive."""
    n = math.prod(matrix)
    if plan.keep:
        return LayerBytes(codes=0, mask=0, scales=0, as_is=n * itemsize, dense=True)
    bits = stored_bits(plan.bits, itemsize)
    # Either all n weights have a code, pruned ones that of zero, or only the kept ones, beside a mask, a bit a weight:
    # whatever is smaller. Both sides of the inequality are in bits, so that no rounding to bytes decides.
    dense = kept == n or (zero_on_grid(plan, bits) and n * bits <= n + kept * bits)
    scales = 0
    if plan.bits <= 8:
        if plan.coder.has_codebook:
            scales += 4 << plan.bits
        if plan.coder.has_scales:
            groups = group_count(plan.granularity, matrix)
            # the largest scale as a float32; where there are several, all of them as 16-bit fractions of it
            scales += 4 if groups == 1 else (0 if has_16_bit_scales(plan) else 4) + 2 * groups
            scales += groups if has_zero_bytes(plan, groups) else 0
    return LayerBytes(
        codes=ceil_div((n if dense else kept) * bits, 8),
        mask=0 if dense else ceil_div(n, 8),
        scales=scales,
        as_is=0,
        dense=dense,
    )


def stored_bits(bits: int, itemsize: int) -> int:
    """Return the bits of one code: those asked for, but plain floats (16, 32) are never wider than the tensor."""
    return min(bits, 8 * itemsize)


def zero_on_grid(plan: Plan, bits: int) -> bool:
    """Tell whether codes of so many bits can say zero: plain floats can, and those of most quantizers."""
    return bits >= 16 or plan.coder.has_zero(bits)  # of sign × mean, and of most codebooks, no code is zero


def zeros_dropped(n: int, zeros: int, negative: int, plan: Plan, itemsize: int) -> int:
    """Return how many of the zeros a layer came with count as pruned under a plan that prunes nothing itself.

    They do wherever that changes no value: a file of them holds a mask and the other weights. Two cases ask for more:
    a grid without zero needs the mask for them alone, which pays where most of them are zero; and plain floats keep
    the sign of a zero as long as they need no mask.

    Args:
        n: weights of the layer.
        zeros: how many of them are zero, of either sign.
        negative: how many of those are -0.0.
        plan: what the recipe asks.
        itemsize: bytes of one weight.
    """
    if plan.keep:
        return 0
    bits = stored_bits(plan.bits, itemsize)
    # One bit beside a mask is never smaller than one bit alone. Taken for two bits, it makes a layer ternary that is
    # mostly zero, which signs alone would ruin.
    width = max(bits, 2)
    masked = n + (n - zeros) * width < n * width
    if masked or (bits < 16 and zero_on_grid(plan, bits)):
        return zeros
    return zeros - negative if bits >= 16 else 0


def has_zero_points(plan: Plan) -> bool:
    """Tell whether each group of a layer has a zero point beside its scale."""
    return plan.bits <= 8 and plan.coder.has_zero_points(plan.bits)


def has_16_bit_scales(plan: Plan) -> bool:
    """Tell whether scales are numbers of 16 bits themselves, rather than fractions of the largest."""
    return plan.bits <= 8 and plan.coder.scale_dtype != "float32"


def has_zero_bytes(plan: Plan, groups: int) -> bool:
    """Tell whether the zero points have bytes of their own.

    Those of a single scale, of more than `WORD_ZERO_BITS`, and beside 16-bit scales, which have no bits to spare.
    """
    return has_zero_points(plan) and (groups == 1 or plan.bits > WORD_ZERO_BITS or has_16_bit_scales(plan))


def group_count(granularity: Granularity, matrix: tuple[int, int]) -> int:
    """Return how many scales a non-empty matrix has: one, one a row, or ⌈columns/g⌉ a row."""
    rows, columns = matrix
    if granularity == "tensor":
        return 1
    if granularity == "channel":
        return rows
    return rows * ceil_div(columns, int(granularity))


def ceil_div(a: int, b: int) -> int:
    """Return a / b rounded up, exactly."""
    return -(-a // b)


def stored_dtype(dtype: torch.dtype, bits: int, bfloat16: bool) -> torch.dtype:
    """Return the dtype in which a tensor is stored that may take `bits` = 16 or 32 bits per element."""
    if dtype not in _WIDE or dtype.itemsize <= bits // 8:
        return dtype
    return torch.float32 if bits == 32 else torch.bfloat16 if bfloat16 else torch.float16


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the tensor in a narrower dtype; a finite value beyond its range becomes its largest one, not infinite."""
    if dtype == tensor.dtype:
        return tensor
    narrow, limit = tensor.to(dtype), torch.finfo(dtype).max
    # looked for first, as hardly any tensor has such values: clamping all of them would be another pass
    overflown = torch.isinf(narrow) & torch.isfinite(tensor)
    return torch.where(overflown, tensor.clamp(-limit, limit).to(dtype), narrow) if bool(overflown.any()) else narrow


def needs_bfloat16(dtype: torch.dtype, peak: float) -> bool:
    """Tell whether a tensor's 16-bit form is bfloat16, `peak` being its largest finite magnitude."""
    return dtype == torch.bfloat16 or (dtype in _WIDE and peak > HALF_MAX)


def peak(tensor: Tensor) -> float:
    """Return the largest finite magnitude of a float tensor, 0 if there is none."""
    if not tensor.numel():
        return 0.0
    # one pass where all is finite, as nearly always: aminmax hands on NaN and infinities
    low, high = (float(x) for x in torch.aminmax(tensor))
    if math.isfinite(low) and math.isfinite(high):
        return max(-low, high)
    finite = tensor[torch.isfinite(tensor)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def half_is_bfloat16(entry: TensorEntry, known_peak: float | None = None) -> bool:
    """Tell whether the 16-bit form of a tensor is bfloat16; its largest magnitude is looked up if it is not known.

    It is part of the description, and so it is found out for all tensors, also where no recipe makes them 16 bits wide.
    """
    if entry.dtype in _WIDE and known_peak is None:
        known_peak = peak(entry.load())
    return needs_bfloat16(entry.dtype, known_peak or 0.0)


def header_bytes(recipe_json: str, structure_length: int, lengths: Mapping[str, int]) -> int:
    """Return the bytes of a packed file that are not codes, mask, scales or uncompressed tensors, exactly.

    That is the length field (8), the JSON header, and the section of kept counts. `lengths` are the bytes of the five
    `SECTIONS` by name.
    """
    # only the length of the structure matters, and neither base64 nor a checksum has letters that JSON escapes
    return 8 + len(header_text(recipe_json, "A" * structure_length, lengths)) + lengths["counts"]


def count_width(n: int) -> int:
    """Return the bytes of the kept count of a layer of n weights."""
    return 4 if n < 2**32 else 8


_RANKS: Final = {name: rank for rank, name in enumerate(FILE_DTYPES)}


def safetensors_bytes(tensors: Iterable[TensorSpec]) -> int:
    """Return the bytes of a plain ``.safetensors`` file of these tensors, tied ones written once, without metadata.

    Equal to ``len(safetensors.torch.save({t.name: …}))``, computed without reading a weight: 8 bytes, a JSON header
    padded to a multiple of 8, and the tensors' own bytes. What is no plain tensor counts as the bytes it is stored in.

    Raises:
        ModelError: for a dtype that no safetensors file can hold.
    """

    def rank(tensor: TensorSpec) -> int:
        dtype = "uint8" if tensor.kind else dtype_name(tensor.dtype)
        if dtype not in _RANKS:
            raise ModelError(
                f"{quoted(tensor.name)} is {dtype}, which a .safetensors file cannot hold: convert it to a float type"
            )
        return _RANKS[dtype]

    header: dict[str, object] = {}
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (rank(tensor), tensor.name.encode())):  # as the library does
        start, end = end, end + (tensor.stored if tensor.kind else tensor.numel * tensor.dtype.itemsize)
        code = "U8" if tensor.kind else FILE_DTYPES[dtype_name(tensor.dtype)]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + 8 * ceil_div(len(text), 8) + end
