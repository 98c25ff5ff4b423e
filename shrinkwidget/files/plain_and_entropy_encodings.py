"""How numbers become the bytes of a packed file, and back (docs/format.md).

First the two forms of a file: plain, its size known from counts alone, and entropy-coded, the smaller download. Then
what they are made of: bits, runs and byte planes. Then the scales, zero points and codebook of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Final, TypeAlias

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from ..analysis.estimate_class_and_packed_file_header import (
    ENTROPY,
    FORMAT,
    ceil_div,
    group_count,
    has_16_bit_scales,
    has_zero_bytes,
)
from ..compression.encode_layers_and_packed_model import (
    EncodedTensor,
    scale_dtype,
    scale_words,
    scales_of_words,
    split_words,
    with_zero_points,
)
from ..errors import FileError, quoted
from ..recipe_and_method_registry import Plan

Bytes: TypeAlias = NDArray[np.uint8]

# Codes are noise except for their histogram: levels 1 and 3 come as close to its entropy as level 19, in a hundredth of
# the time. Level 19 gains where something repeats, as n:m masks do, and is tried where it costs no noticeable time.
_LEVELS: Final = (1, 3)
_LEVELS_IF_SMALL: Final = (1, 3, 19)
_SMALL: Final = 1 << 20
_WINDOW_LOG: Final = 23  # 8 MiB, more than these levels ask for: no file makes a reader reserve more memory
# A zstd block may unfold to this many times its length: four bytes say that one byte is repeated 2**17 times.
_MOST_UNFOLDED: Final = 1 << 15
_SLACK: Final = 1 << 20  # what a reader unfolds at once at least, or it would go byte by byte towards the end


class PlainEncoding:
    """Codes and masks packed bit by bit."""

    format: ClassVar[str] = FORMAT

    def codes_length(self, count: int, bits: int) -> int:
        """Return the bytes of `count` codes of 1…8 bits."""
        return ceil_div(count * bits, 8)

    def codes(self, codes: Bytes, bits: int) -> Bytes:
        """Return codes of 1…8 bits as bytes."""
        return pack_codes(codes, bits)

    def uncodes(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """Undo `codes`.

        Raises:
            FileError: if bits follow the last code.
        """
        # One content has one file: bits after the last code could hold anything, and no reader would notice.
        _refuse_spare_bits(packed, count * bits % 8, "codes")
        return unpack_codes(packed, bits, count)

    def numbers(self, packed: Bytes, width: int) -> Bytes:
        """Return the bytes of little-endian numbers of `width` bytes, in the order that suits this form."""
        del width
        return packed

    def unnumbers(self, packed: Bytes, width: int) -> Bytes:
        """Undo `numbers`."""
        del width
        return packed

    def masks(self, masks: Sequence[tuple[Bytes, int]]) -> list[Bytes]:
        """Return the mask section of these layers, each given as bits and how many they are."""
        return [bits for bits, _ in masks]

    def masks_length(self, sizes: Sequence[int], kept: int) -> tuple[int, int]:
        """Return the least and the largest length of the mask section of layers that keep `kept` weights in all."""
        del kept
        length = sum(ceil_div(n, 8) for n in sizes)
        return length, length

    def unmasks(self, packed: Bytes, sizes: Sequence[int], kept: int) -> list[NDArray[np.bool_]]:
        """Undo `masks`.

        Raises:
            FileError: if the section says of no set of weights that it is kept.
        """
        del kept
        # Every mask begins at a byte of its own.
        ends = np.cumsum([0, *(ceil_div(n, 8) for n in sizes)])
        masks = [packed[begin:end] for begin, end in pairwise(ends)]
        for mask, n in zip(masks, sizes, strict=True):
            _refuse_spare_bits(mask, n % 8, "masks")
        return [unpack_mask(mask, n) for mask, n in zip(masks, sizes, strict=True)]

    def wrap(self, pieces: list[Bytes]) -> list[Bytes]:
        """Return a whole section as it is written."""
        return pieces

    def unwrap(self, section: memoryview, largest: int) -> Bytes:
        """Undo `wrap`, unfolding to no more than one byte beyond the `largest` length that can be right.

        Raises:
            FileError: if the section cannot be unfolded.
        """
        del largest
        return np.frombuffer(section, np.uint8)


class EntropyEncoding(PlainEncoding):
    """Whole codes per byte, numbers by byte planes, sparse masks as runs; each section but counts is one zstd frame.

    Huffman coding gets closest to the entropy of what it is given whole symbols of, and at over 87.5 % sparsity a run
    of zeros is a better symbol than eight bits of a mask, most of which would be zero.
    """

    format: ClassVar[str] = ENTROPY

    def codes_length(self, count: int, bits: int) -> int:
        """Return the bytes of `count` codes: as many whole ones per byte as fit."""
        return ceil_div(count, 8 // bits)

    def codes(self, codes: Bytes, bits: int) -> Bytes:
        """Return whole codes, as many per byte as fit."""
        return pack_whole_codes(codes, bits)

    def uncodes(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """Undo `codes`; a byte with bits too many gives a code beyond its range, for the caller to refuse."""
        _refuse_spare_bits(packed, count % (8 // bits) * bits, "codes")
        return unpack_whole_codes(packed, bits, count)

    def numbers(self, packed: Bytes, width: int) -> Bytes:
        """Return first bytes, then second bytes, …"""
        return to_byte_planes(packed, width)

    def unnumbers(self, packed: Bytes, width: int) -> Bytes:
        """Undo `numbers`."""
        return from_byte_planes(packed, width)

    def masks(self, masks: Sequence[tuple[Bytes, int]]) -> list[Bytes]:
        """Return the masks, one after the other, as runs where they are sparse in all, else as bits."""
        # All masks of a file take one form, decided by their counts alone; those are in a section of their own, so a
        # reader knows the form before it has read a mask.
        keeps = [unpack_mask(bits, n) for bits, n in masks]
        kept = sum(int(np.count_nonzero(keep)) for keep in keeps)
        if not _as_runs([len(keep) for keep in keeps], kept):
            return super().masks(masks)
        return [pack_runs(np.concatenate(keeps))] if keeps else []

    def masks_length(self, sizes: Sequence[int], kept: int) -> tuple[int, int]:
        """Return the least and the largest length: a byte per run, and one more for every 255 zeros in it."""
        if not _as_runs(sizes, kept):
            return super().masks_length(sizes, kept)
        return kept, kept + sum(sizes) // _ESCAPE

    def unmasks(self, packed: Bytes, sizes: Sequence[int], kept: int) -> list[NDArray[np.bool_]]:
        """Undo `masks`."""
        if not _as_runs(sizes, kept):
            return super().unmasks(packed, sizes, kept)
        keep = unpack_runs(packed, sum(sizes))
        if keep is None:
            raise FileError("its masks reach beyond the weights")
        return np.split(keep, np.cumsum(sizes)[:-1]) if sizes else []

    def wrap(self, pieces: list[Bytes]) -> list[Bytes]:
        """Return the pieces as one zstd frame, or nothing for nothing."""
        raw = b"".join(piece.data for piece in pieces)
        if not raw:
            return []
        frames = []
        for level in _LEVELS_IF_SMALL if len(raw) <= _SMALL else _LEVELS:
            # Which level wins depends on the noise: all are tried, and the shortest frame is kept. Nothing in the file
            # says which.
            parameters = zstandard.ZstdCompressionParameters.from_level(
                level,
                source_size=len(raw),
                # without magic number, length and checksum: the header of the file has them all
                format=zstandard.FORMAT_ZSTD1_MAGICLESS,
                write_content_size=False,
                write_checksum=False,
                # short matches in noise are chance, and cost more than the Huffman codes of what they replace
                min_match=7 if level == _LEVELS_IF_SMALL[-1] else 0,
            )
            frames.append(zstandard.ZstdCompressor(compression_params=parameters).compress(raw))
        return [np.frombuffer(min(frames, key=len), np.uint8)]

    def unwrap(self, section: memoryview, largest: int) -> Bytes:
        """Unfold one zstd frame, never beyond `largest` bytes and one, whatever it says of its own size."""
        if not len(section):
            return np.empty(0, np.uint8)
        unfold = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        frame = unfold.decompressobj()
        found: list[bytes] = []
        size = at = 0
        try:
            while at < len(section) and size <= largest and not frame.eof:
                # So little at a time that what it may unfold to is never far beyond what is wanted.
                piece = section[at : at + (largest - size + _SLACK) // _MOST_UNFOLDED]
                found.append(frame.decompress(piece))
                size, at = size + len(found[-1]), at + len(piece)
        except zstandard.ZstdError as error:
            raise FileError(f"one of its sections cannot be unfolded ({error})") from error
        if size <= largest and (not frame.eof or frame.unused_data or at < len(section)):
            raise FileError("one of its sections is not one whole zstd frame: it is cut short, or bytes follow")
        return np.frombuffer(b"".join(found)[: largest + 1], np.uint8)


def _refuse_spare_bits(packed: Bytes, used: int, what: str) -> None:
    """Refuse a last byte of which only the lowest `used` bits mean something (0: all) and others are set."""
    if used and packed[-1] >> used:
        raise FileError(f"its {what} end in bits that stand for no weight")


def _as_runs(sizes: Sequence[int], kept: int) -> bool:
    # a run costs a byte, a bit of a mask an eighth of one; and both sides know these numbers before they see a mask
    return 8 * kept <= sum(sizes)


def believable(unfolded: int, stored: int) -> bool:
    """Tell whether a file of `stored` bytes may unfold to so many in memory: no zip bombs.

    Real models stay far below: 99 % sparsity at 4 bits is a ratio of about 270. What goes beyond it is written plain.
    """
    return unfolded <= (64 << 20) + 2000 * stored


_ESCAPE: Final = 255  # in a mask written as runs: "255 zeros, and the run goes on in the next byte"
_BLOCK: Final = 1 << 20  # codes packed at once: their 64-bit words stay in the cache


def pack_codes(codes: Bytes, bits: int) -> Bytes:
    """Return `bits`-bit codes (uint8, each below ``2**bits``) as one stream, least significant bit first.

    Eight codes make `bits` whole bytes. They meet in one uint64: neighbours first, then pairs, then fours.
    """
    if bits == 8:
        return codes
    packed = np.empty((-(-len(codes) // 8), bits), np.uint8)
    for begin in range(0, len(codes), _BLOCK):  # a block at a time stays in the cache
        words = _whole(codes[begin : begin + _BLOCK], 8).view("<u8")
        for low, high, shift in reversed(_halves(bits)):
            # Each step halves the gaps: 8 codes in 8 bytes, of which only `bits` bits each are used, become 4 pairs of
            # adjacent codes, then 2 runs of four, then one run of eight in the lowest 8·bits bits.
            upper = words & high
            upper >>= shift
            words = words & low
            words |= upper
        if 8 % bits == 0:  # a whole number of 1, 2 or 4 bytes, which numpy narrows several times as fast
            used = words.astype(f"<u{bits}").view(np.uint8).reshape(-1, bits)
        else:
            used = words.view(np.uint8).reshape(-1, 8)[:, :bits]
        packed[begin // 8 : begin // 8 + len(words)] = used
    return packed.reshape(-1)[: -(-len(codes) * bits // 8)]


def unpack_codes(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undo `pack_codes` for `count` codes."""
    if bits == 8:
        return packed.copy()
    codes = np.empty(-(-count // 8), "<u8")
    for begin in range(0, len(codes), _BLOCK // 8):
        used = _whole(packed[begin * bits : (begin + _BLOCK // 8) * bits], bits)
        if 8 % bits == 0:
            words = used.view(f"<u{bits}").astype("<u8")
        else:
            wide = np.zeros((len(used) // bits, 8), np.uint8)
            wide[:, :bits] = used.reshape(-1, bits)
            words = wide.view("<u8")[:, 0]
        for low, high, shift in _halves(bits):
            upper = words << shift
            upper &= high
            words = words & low
            words |= upper
        codes[begin : begin + len(words)] = words
    return codes.view(np.uint8)[:count]


@cache
def _halves(bits: int) -> list[tuple[np.uint64, np.uint64, np.uint64]]:
    """Return the steps from 8 codes in the lowest bits of a word to a code in each of its bytes.

    Each step pulls the halves of every run of 8, 4, then 2 codes apart: what is `low` stays, and what is to become
    `high` moves up by `shift` bits.
    """
    steps = []
    for half in (4, 2, 1):
        low = sum(((1 << half * bits) - 1) << at for at in range(0, 64, 16 * half))
        steps.append((np.uint64(low), np.uint64(low << 8 * half), np.uint64(half * (8 - bits))))
    return steps


def unpack_mask(packed: Bytes, count: int) -> NDArray[np.bool_]:
    """Return the truth values of a mask of `count` bits, least significant first."""
    return np.unpackbits(packed, count=count, bitorder="little").view(np.bool_)


def pack_whole_codes(codes: Bytes, bits: int) -> Bytes:
    """Return as many whole codes per byte as fit, so that an entropy coder's symbols are whole codes."""
    per = 8 // bits
    if per == 1:
        return codes
    rows = _whole(codes, per).reshape(-1, per)
    out = rows[:, 0].copy()
    for i in range(1, per):
        out |= rows[:, i] << np.uint8(bits * i)
    return out


def unpack_whole_codes(packed: Bytes, bits: int, count: int) -> Bytes:
    """Undo `pack_whole_codes` for `count` codes; a byte's bits beyond its last code stay in it: callers refuse them."""
    per = 8 // bits
    if per == 1:
        return packed.copy()
    codes = np.empty((len(packed), per), np.uint8)
    for i in range(per):
        codes[:, i] = packed >> np.uint8(bits * i)
        if i < per - 1:
            codes[:, i] &= np.uint8(2**bits - 1)
    return codes.reshape(-1)[:count]


def pack_runs(keep: NDArray[np.bool_]) -> Bytes:
    """Return a mask as the runs of zeros before each one: a byte below 255 each, with 255 for "255 more zeros"."""
    # Before each kept weight: as many 255s as fit into its run of zeros, then the rest. What follows the last kept
    # weight is not written, since the number of weights is known.
    runs = np.diff(np.flatnonzero(keep), prepend=-1) - 1
    escapes = runs // _ESCAPE
    out = np.full(len(runs) + int(escapes.sum()), _ESCAPE, np.uint8)
    out[np.cumsum(escapes + 1) - 1] = runs % _ESCAPE
    return out


def unpack_runs(packed: Bytes, count: int) -> NDArray[np.bool_] | None:
    """Undo `pack_runs` for `count` weights; None if the runs reach beyond them."""
    # A byte below 255 ends a run with a kept weight, so it moves by its value and one more; a 255 moves by 255.
    ends = packed != _ESCAPE
    places = np.cumsum(packed.astype(np.int64) + ends)[ends] - 1
    if len(places) and places[-1] >= count:
        return None
    keep = np.zeros(count, np.bool_)
    keep[places] = True
    return keep


def to_byte_planes(packed: Bytes, width: int) -> Bytes:
    """Return the bytes of `width`-byte numbers plane by plane: all first bytes, all second bytes, …"""
    return packed if width == 1 else np.ascontiguousarray(packed.reshape(-1, width).T).reshape(-1)


def from_byte_planes(packed: Bytes, width: int) -> Bytes:
    """Undo `to_byte_planes`."""
    return packed if width == 1 else np.ascontiguousarray(packed.reshape(width, -1).T).reshape(-1)


def _whole(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Return the values with zeros at the end, so that `size` divides their number."""
    short = -len(values) % size
    return np.concatenate([values, np.zeros(short, values.dtype)]) if short else values


def raw_bytes(tensor: Tensor) -> Bytes:
    """Return the tensor's own little-endian bytes."""
    found: Bytes = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return found


def from_raw_bytes(raw: Bytes, dtype: torch.dtype) -> Tensor:
    """Undo `raw_bytes`: return a flat tensor in memory of its own."""
    return torch.from_numpy(np.array(raw)).view(dtype) if len(raw) else torch.empty(0, dtype=dtype)


def scale_pieces(plan: Plan, matrix: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the pieces that a layer's scales consist of, each as (numbers, bytes per number), in the file's order."""
    if plan.bits > 8:  # plain floats
        return []
    codebook = [(1 << plan.bits, 4)] * plan.coder.has_codebook
    if not plan.coder.has_scales:
        return codebook
    groups = group_count(plan.granularity, matrix)
    top = groups == 1 or not has_16_bit_scales(plan)
    return codebook + [(1, 4)] * top + [(groups, 2)] * (groups > 1) + [(groups, 1)] * has_zero_bytes(plan, groups)


def pack_scales(encoded: EncodedTensor) -> list[Bytes]:
    """Return the bytes of the pieces `scale_pieces` lists.

    Raises:
        FileError: if the scales are not those that the largest of them and 16-bit words reproduce.
    """
    codebook = [] if encoded.codebook is None else [raw_bytes(encoded.codebook)]
    if encoded.scales is None:
        return codebook
    pieces, groups = [raw_bytes(encoded.scales)], encoded.scales.numel()
    if groups > 1 and has_16_bit_scales(encoded.plan):
        words = encoded.scales.to(scale_dtype(encoded.plan))
        if not torch.equal(words.float(), encoded.scales):
            raise FileError(
                f"cannot save {quoted(encoded.name)}: its scales are no {encoded.plan.coder.scale_dtype} numbers"
            )
        pieces = [raw_bytes(words)]
    elif groups > 1:
        scales = encoded.scales.cpu()
        words = scale_words(scales, top := scales.max(), encoded.plan)
        # what is loaded must be what was measured and trained through, to the bit
        if not torch.equal(scales_of_words(words, top, encoded.plan), scales):
            raise FileError(f"cannot save {quoted(encoded.name)}: 16-bit words do not reproduce its scales")
        zeros = None if encoded.zeros is None else encoded.zeros.cpu()
        pieces = [raw_bytes(top), raw_bytes(with_zero_points(words, zeros, encoded.plan).to(torch.int16))]
    if encoded.zeros is not None and has_zero_bytes(encoded.plan, groups):
        pieces.append(raw_bytes(encoded.zeros))
    return codebook + pieces


def unpack_scales(
    name: str, plan: Plan, matrix: tuple[int, int], pieces: Sequence[Bytes]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return scales, zero points and codebook of the layer `name` from the bytes of the pieces.

    Raises:
        FileError: for a number that no layer has: not finite, negative, beyond the grid.
    """

    def check(what: str, good: Tensor | bool) -> None:
        if not good:
            raise FileError(
                f"the {what} of {quoted(name)} hold what cannot be: negative, not finite, too large or out of order"
            )

    scales = zeros = codebook = None
    left = list(pieces)
    if left and plan.coder.has_codebook:
        codebook = from_raw_bytes(left.pop(0), torch.float32)
        check("codebook", codebook.isfinite().all() and (codebook[1:] >= codebook[:-1]).all())
    if not left:
        return None, None, codebook
    groups = group_count(plan.granularity, matrix)
    # The layout of `scale_pieces`, read back: a codebook, the largest scale, words of 16 bits, zero points.
    own = has_16_bit_scales(plan)
    scales = from_raw_bytes(left[0], scale_dtype(plan) if own and groups > 1 else torch.float32).float()
    if own and groups == 1:
        check("scales", torch.equal(scales.to(scale_dtype(plan)).float(), scales))
    # a negative zero would be another file of the same weights
    check("scales", scales.isfinite().all() and ((scales >= 0) & ~scales.signbit()).all())
    if groups > 1 and not own:
        top = scales[0]
        # torch has no uint16 that its CPU kernels compute with: the words are read as int16 and widened.
        words, zeros = split_words(from_raw_bytes(left[1], torch.int16).int() & 0xFFFF, plan)
        largest = scale_words(scales, top, plan)  # what the largest is in its own unit
        check("scales", (words <= largest).all() and words.max() == largest)
        scales = scales_of_words(words, top, plan)
    if has_zero_bytes(plan, groups):
        zeros = from_raw_bytes(left[-1], torch.uint8)
    if zeros is not None:
        check("zero points", int(zeros.max()) < 2**plan.bits and not zeros[scales == 0].any())
    return scales, zeros, codebook
