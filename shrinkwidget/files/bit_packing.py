"""Bits into bytes and back, many million at a time: b-bit codes, masks, runs of zeros, byte planes."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]

ESCAPE: Final = 255
_BLOCK: Final = 1 << 20


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Return `bits`-bit codes (uint8, each below ``2**bits``) as one stream, least significant bit first.

    Eight codes make `bits` whole bytes, so they meet in one uint64; a block at a time keeps that in the cache.
    """
    if bits == 8:
        return codes
    packed = np.empty((-(-len(codes) // 8), bits), np.uint8)
    for begin in range(0, len(codes), _BLOCK):
        block = _whole(codes[begin : begin + _BLOCK], 8).reshape(-1, 8)
        words = np.zeros(len(block), "<u8")
        for i in range(8):
            words |= block[:, i].astype("<u8") << np.uint64(bits * i)
        packed[begin // 8 : begin // 8 + len(block)] = words.view(np.uint8).reshape(-1, 8)[:, :bits]
    return packed.reshape(-1)[: -(-len(codes) * bits // 8)]


def unpack_codes(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undo `pack_codes` for `count` codes."""
    if bits == 8:
        return packed.copy()
    codes = np.empty((-(-count // 8), 8), np.uint8)
    for begin in range(0, len(codes), _BLOCK // 8):
        rows = _whole(packed[begin * bits : (begin + _BLOCK // 8) * bits], bits).reshape(-1, bits)
        words = np.zeros((len(rows), 8), np.uint8)
        words[:, :bits] = rows
        word = words.view("<u8")[:, 0]
        for i in range(8):
            codes[begin : begin + len(rows), i] = (word >> np.uint64(bits * i)) & np.uint64(2**bits - 1)
    return codes.reshape(-1)[:count]


def pack_mask(keep: NDArray[np.bool_]) -> Bytes:
    """Return a mask as bits, least significant first."""
    return np.packbits(keep, bitorder="little")


def unpack_mask(packed: Bytes, count: int) -> NDArray[np.bool_]:
    """Undo `pack_mask` for `count` weights."""
    return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)


def tuples(codes: Bytes, bits: int) -> Bytes:
    """Return as many whole codes per byte as fit, so that an entropy coder's symbols are whole codes."""
    per = 8 // bits
    if per == 1:
        return codes
    rows = _whole(codes, per).reshape(-1, per)
    out = rows[:, 0].copy()
    for i in range(1, per):
        out |= rows[:, i] << np.uint8(bits * i)
    return out


def untuples(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undo `tuples` for `count` codes; a byte's bits beyond its last code stay in it, for the caller to refuse."""
    per = 8 // bits
    if per == 1:
        return packed.copy()
    codes = np.empty((len(packed), per), np.uint8)
    for i in range(per):
        codes[:, i] = packed >> np.uint8(bits * i)
        if i < per - 1:
            codes[:, i] &= np.uint8(2**bits - 1)
    return codes.reshape(-1)[:count]


def gaps(keep: NDArray[np.bool_]) -> Bytes:
    """Return a mask as the runs of zeros before each one: a byte below 255 each, with 255 for "255 more zeros"."""
    runs = np.diff(np.flatnonzero(keep), prepend=-1) - 1
    escapes = runs // ESCAPE
    out = np.full(len(runs) + int(escapes.sum()), ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = runs % ESCAPE
    return out


def ungaps(packed: Bytes, count: int) -> NDArray[np.bool_] | None:
    """Undo `gaps` for `count` weights; None if the runs reach beyond them."""
    ends = packed != ESCAPE
    places = np.cumsum(packed.astype(np.int64) + ends)[ends] - 1
    if len(places) and places[-1] >= count:
        return None
    keep = np.zeros(count, np.bool_)
    keep[places] = True
    return keep


def planes(packed: Bytes, width: int) -> Bytes:
    """Return the bytes of `width`-byte numbers plane by plane: all first bytes, all second bytes, …"""
    return packed if width == 1 else np.ascontiguousarray(packed.reshape(-1, width).T).reshape(-1)


def unplanes(packed: Bytes, width: int) -> Bytes:
    """Undo `planes`."""
    return packed if width == 1 else np.ascontiguousarray(packed.reshape(width, -1).T).reshape(-1)


def _whole(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the values with zeros at the end, so that `size` divides their number."""
    short = -len(values) % size
    return np.concatenate([values, np.zeros(short, values.dtype)]) if short else values
