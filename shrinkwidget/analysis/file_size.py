"""How many bytes files take: every part of a packed one (docs/format.md as arithmetic), and a plain .safetensors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import ModelError, quoted
from ..recipe import Granularity, Plan
from .model_tensors import TensorEntry, TensorSpec, dtype_name
from .packed_file_structure import SECTIONS, header_text
from .safetensors_header import FILE_DTYPES

Ints: TypeAlias = NDArray[np.int64]

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
    codes, mask = code_and_mask_bytes(n, kept, plan, itemsize)
    return LayerBytes(codes, mask, scale_bytes(matrix, plan), as_is=0, dense=not mask)


def code_and_mask_bytes(n: int, kept: Any, plan: Plan, itemsize: int) -> tuple[Any, Any]:
    """Return the bytes of the codes and of the mask of a layer of n weights, `kept` of which survive.

    `kept` is a number or an array of them, and so are the bytes.
    """
    bits = stored_bits(plan.bits, itemsize)
    # Either all n weights have a code, pruned ones that of zero, or only the kept ones, beside a mask, a bit a weight:
    # whatever is smaller. Both sides of the inequality are in bits, so that no rounding to bytes decides.
    dense = (kept == n) | (zero_on_grid(plan, bits) & (n * bits <= n + kept * bits))
    coded = kept + (n - kept) * dense
    return ceil_div(coded * bits, 8), ceil_div(n, 8) * (1 - dense)


def scale_bytes(matrix: tuple[int, int], plan: Plan) -> int:
    """Return the bytes of the scales of a layer of rows × columns weights, codebooks and zero points with them."""
    if plan.bits > 8:
        return 0
    scales = 4 << plan.bits if plan.coder.has_codebook else 0
    if plan.coder.has_scales:
        groups = group_count(plan.granularity, matrix)
        # the largest scale as a float32; where there are several, all of them as 16-bit fractions of it
        scales += 4 if groups == 1 else (0 if has_16_bit_scales(plan) else 4) + 2 * groups
        scales += groups if has_zero_bytes(plan, groups) else 0
    return scales


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


T = TypeVar("T", int, Ints)


def ceil_div(a: T, b: int) -> T:
    """Return a / b rounded up, exactly; of a number, or of an array of whole ones."""
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


def headers_bytes(recipe_bytes: Ints, structure_length: int, lengths: Mapping[str, Ints]) -> Ints:
    """Return `header_bytes` of many files at once, from how long their recipes are in a header (`escaped_bytes`).

    `lengths` are those of the `SECTIONS`, with an entry for each file.
    """
    # in this header each number is a zero of one digit, and only their digits and the recipe differ between files
    bare = len(header_text("", "A" * structure_length, dict.fromkeys(SECTIONS, 0)).rstrip())
    text, end = bare + recipe_bytes, np.zeros_like(recipe_bytes)
    for section in SECTIONS:
        begin, end = end, end + lengths[section]
        text = text + sum(_digits(number) - 1 for number in (end - begin, begin, end))
    return 8 + 8 * ceil_div(text, 8) + lengths["counts"]


def escaped_bytes(text: str) -> int:
    """Return the bytes of a text inside a string of JSON, as the header of a packed file holds a recipe."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _digits(numbers: Ints) -> Ints:
    digits: Ints = np.searchsorted(10 ** np.arange(1, 19), numbers, side="right") + 1
    return digits


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
