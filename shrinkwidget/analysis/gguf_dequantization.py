"""The values of tensors that a GGUF file holds in blocks, each with its scales, to the bit as ggml computes them.

The blocks are those of ggml-quants.h. What is not here, the types with codebooks (IQ…, MXFP4 and the like), is refused
by name: a close guess would draw a distribution that the file does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FileError
from .gguf_header import GGML_TYPES

Bytes: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float32]

PLAIN_TYPES: Final = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
"""ggml's types that torch has, too."""
_AT_ONCE: Final = 1 << 13
"""Blocks taken together: few enough for a CPU's cache."""


def dequantized(data: Tensor, dtype: str, shape: tuple[int, ...]) -> Tensor:
    """Return the values of a tensor as float32.

    Args:
        data: its bytes in the file, of a little-endian one.
        dtype: the name of its type, one of `DEQUANTIZE`.
        shape: of the tensor, the last axis last.

    Raises:
        FileError: if there is not enough memory for the values.
    """
    block, nbytes = {name: sizes for name, *sizes in GGML_TYPES.values()}[dtype]
    try:
        values = torch.empty(len(data) // nbytes * block, dtype=torch.float32)
    except (MemoryError, RuntimeError) as error:
        raise FileError(f"there is not enough memory for {len(data) // nbytes * block:,} dequantized values") from error
    blocks, into = data.numpy().reshape(-1, nbytes), values.numpy().reshape(-1, block)
    with np.errstate(all="ignore"):  # scales may be NaN or infinite; whoever looks at the values says so
        for start in range(0, len(blocks), _AT_ONCE):
            some = blocks[start : start + _AT_ONCE]
            into[start : start + _AT_ONCE] = DEQUANTIZE[dtype](some).reshape(len(some), block)
    return values.reshape(shape)


def _half(blocks: Bytes, at: int) -> Values:
    """Return the float16 that lies at a byte of each block, ``[blocks, 1]``."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _fields(codes: Bytes, run: int, bits: int) -> Bytes:
    """Return fields of 1, 2 or 4 bits, run by run of bytes: the lowest field of all bytes of a run, then the next.

    Its shape is ``[blocks, runs, 8 / bits, run]``.
    """
    # ggml packs for SIMD: one shift of a whole run of bytes gives a run of neighbouring weights. So the low nibbles of
    # 16 bytes are weights 0–15, and the high ones 16–31.
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return (codes.reshape(len(codes), -1, 1, run) >> shifts) & np.uint8((1 << bits) - 1)


def _nibbles(codes: Bytes) -> Bytes:
    return _fields(codes, 16, 4).reshape(len(codes), 32)


def _fifth_bits(blocks: Bytes, at: int) -> Bytes:
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << np.uint8(4)


def _signed(codes: Bytes, middle: int) -> Values:
    return (codes.astype(np.int8) - np.int8(middle)).astype(np.float32)


# Type 0 blocks: a scale d and codes around a middle, d·(q − 8). Type 1: a scale and the least value m, d·q + m. Fields
# of a block, in bytes: Q4_0 d 0–1, codes 2–17; Q4_1 d 0–1, m 2–3, codes 4–19; Q5 has the fifth bits of its 32 codes as
# 4 bytes between them.
def _q4_0(blocks: Bytes) -> Values:
    return _half(blocks, 0) * _signed(_nibbles(blocks[:, 2:]), 8)


def _q4_1(blocks: Bytes) -> Values:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).astype(np.float32) + _half(blocks, 2)


def _q5_0(blocks: Bytes) -> Values:
    return _half(blocks, 0) * _signed(_nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2), 16)


def _q5_1(blocks: Bytes) -> Values:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return _half(blocks, 0) * codes.astype(np.float32) + _half(blocks, 2)


def _q8_0(blocks: Bytes) -> Values:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


# The K types have blocks of 256 in 8 or 16 groups, and scales of scales.


def _q2_k(blocks: Bytes) -> Values:
    # 16 groups of 16. A byte for each: the scale in its low half, the least value in its high one; both times a
    # float16.
    scales, codes = blocks[:, :16], _fields(blocks[:, 16:80], 32, 2).reshape(-1, 16, 16)
    scale = _half(blocks, 80) * (scales & 15).astype(np.float32)
    least = _half(blocks, 82) * (scales >> 4).astype(np.float32)
    return scale[..., None] * codes.astype(np.float32) - least[..., None]


def _q3_k(blocks: Bytes) -> Values:
    # Codes of −4…3: two low bits, and a third in a mask of its own, where 0 means "subtract 4".
    low = _fields(blocks[:, 32:96], 32, 2).reshape(-1, 16, 16)
    missing = _fields(blocks[:, :32], 32, 1).reshape(-1, 16, 16) ^ 1  # of the third bit
    codes = (low.astype(np.int8) - (missing << np.uint8(2)).astype(np.int8)).astype(np.float32)
    # 16 scales of 6 bits in 12 bytes: the low four bits of all, then the high two.
    packed = blocks[:, 96:108]
    scales = _fields(packed[:, :8], 8, 4).reshape(-1, 16) | _fields(packed[:, 8:], 4, 2).reshape(-1, 16) << np.uint8(4)
    return (_half(blocks, 108) * _signed(scales, 32))[..., None] * codes


def _scales_and_least(blocks: Bytes) -> tuple[Values, Values]:
    """Return the scales and the least values of the 8 groups, ``[blocks, 8, 1]``; 12 bytes hold 6 bits of each."""
    # The first four of each are the low 6 bits of a byte. The last four have their low 4 bits in `rest`, and their top
    # 2 in the spare top bits of the first four (`>> 2 & 48` moves those to bits 4 and 5). ggml's get_scale_min_k4.
    low, high, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = np.concatenate([low & 63, (rest & 15) | ((low >> 2) & 48)], 1)
    least = np.concatenate([high & 63, (rest >> 4) | ((high >> 2) & 48)], 1)
    return (
        (_half(blocks, 0) * scales.astype(np.float32))[..., None],
        (_half(blocks, 2) * least.astype(np.float32))[..., None],
    )


def _q4_k(blocks: Bytes) -> Values:
    scale, least = _scales_and_least(blocks)
    return scale * _fields(blocks[:, 16:], 32, 4).reshape(-1, 8, 32).astype(np.float32) - least


def _q5_k(blocks: Bytes) -> Values:
    scale, least = _scales_and_least(blocks)
    codes = _fields(blocks[:, 48:], 32, 4).reshape(-1, 8, 32)
    fifth = _fields(blocks[:, 16:48], 32, 1).reshape(-1, 8, 32) << np.uint8(4)
    return scale * (codes | fifth).astype(np.float32) - least


def _q6_k(blocks: Bytes) -> Values:
    # Four low bits and two high ones, with 16 signed bytes as scales.
    low = _fields(blocks[:, :128], 64, 4).reshape(-1, 16, 16)
    high = _fields(blocks[:, 128:192], 32, 2).reshape(-1, 16, 16) << np.uint8(4)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return scale[..., None] * _signed(low | high, 32)


DEQUANTIZE: Final[dict[str, Callable[[Bytes], Values]]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q2_K": _q2_k, "Q3_K": _q3_k,
    "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
"""What makes values of blocks, ``[blocks, bytes of one]``, by the name of the type."""
