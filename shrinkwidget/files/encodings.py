"""The two forms of a packed file: plain, its size known from counts alone, and entropy-coded, the smaller download."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Final

import numpy as np
import zstandard
from numpy.typing import NDArray

from ..analysis.file_size import ENTROPY, FORMAT, ceil_div
from ..errors import FileError
from . import bit_packing as bit
from .bit_packing import Bytes

_LEVELS: Final = (1, 3)
_LEVELS_IF_SMALL: Final = (1, 3, 19)
_SMALL: Final = 1 << 20
_WINDOW_LOG: Final = 23
_MOST_UNFOLDED: Final = (
    1 << 15
)  # times its length, of a zstd block: four bytes say that one byte is repeated 2**17 times
_SLACK: Final = 1 << 20


class PlainEncoding:
    """Codes and masks packed bit by bit."""

    format: ClassVar[str] = FORMAT

    def codes_length(self, count: int, bits: int) -> int:
        """Return the bytes of `count` codes of 1…8 bits."""
        return ceil_div(count * bits, 8)

    def codes(self, codes: Bytes, bits: int) -> Bytes:
        """Return codes of 1…8 bits as bytes."""
        return bit.pack_codes(codes, bits)

    def uncodes(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """Undo `codes`.

        Raises:
            FileError: if bits follow the last code.
        """
        _refuse_spare_bits(packed, count * bits % 8, "codes")
        return bit.unpack_codes(packed, bits, count)

    def numbers(self, packed: Bytes, width: int) -> Bytes:
        """Return the bytes of little-endian numbers of `width` bytes, in the order that suits this form."""
        del width
        return packed

    def unnumbers(self, packed: Bytes, width: int) -> Bytes:
        """Undo `numbers`."""
        del width
        return packed

    def masks(self, keeps: Sequence[NDArray[np.bool_]]) -> list[Bytes]:
        """Return the mask section of these layers."""
        return [bit.pack_mask(keep) for keep in keeps]

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
        ends = np.cumsum([0, *(ceil_div(n, 8) for n in sizes)])
        masks = [packed[begin:end] for begin, end in pairwise(ends)]
        for mask, n in zip(masks, sizes, strict=True):
            _refuse_spare_bits(mask, n % 8, "masks")
        return [bit.unpack_mask(mask, n) for mask, n in zip(masks, sizes, strict=True)]

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
        return bit.tuples(codes, bits)

    def uncodes(self, packed: Bytes, bits: int, count: int) -> Bytes:
        """Undo `codes`; a byte with bits too many gives a code beyond its range, for the caller to refuse."""
        _refuse_spare_bits(packed, count % (8 // bits) * bits, "codes")
        return bit.untuples(packed, bits, count)

    def numbers(self, packed: Bytes, width: int) -> Bytes:
        """Return first bytes, then second bytes, …"""
        return bit.planes(packed, width)

    def unnumbers(self, packed: Bytes, width: int) -> Bytes:
        """Undo `numbers`."""
        return bit.unplanes(packed, width)

    def masks(self, keeps: Sequence[NDArray[np.bool_]]) -> list[Bytes]:
        """Return the masks, one after the other, as runs where they are sparse in all, else as bits."""
        kept = sum(int(np.count_nonzero(keep)) for keep in keeps)
        if not _as_runs([len(keep) for keep in keeps], kept):
            return super().masks(keeps)
        return [bit.gaps(np.concatenate(keeps))] if keeps else []

    def masks_length(self, sizes: Sequence[int], kept: int) -> tuple[int, int]:
        """Return the least and the largest length: a byte per run, and one more for every 255 zeros in it."""
        if not _as_runs(sizes, kept):
            return super().masks_length(sizes, kept)
        return kept, kept + sum(sizes) // bit.ESCAPE

    def unmasks(self, packed: Bytes, sizes: Sequence[int], kept: int) -> list[NDArray[np.bool_]]:
        """Undo `masks`."""
        if not _as_runs(sizes, kept):
            return super().unmasks(packed, sizes, kept)
        keep = bit.ungaps(packed, sum(sizes))
        if keep is None:
            raise FileError("its masks reach beyond the weights")
        return np.split(keep, np.cumsum(sizes)[:-1]) if sizes else []

    def wrap(self, pieces: list[Bytes]) -> list[Bytes]:
        """Return the pieces as one zstd frame, or nothing for nothing."""
        raw = b"".join(piece.data for piece in pieces)
        levels = _LEVELS_IF_SMALL if len(raw) <= _SMALL else _LEVELS
        return [np.frombuffer(min((_compress(raw, level) for level in levels), key=len), np.uint8)] if raw else []

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
    return 8 * kept <= sum(sizes)


def _compress(raw: bytes, level: int) -> bytes:
    """Return a zstd frame without magic number, length and checksum: the header of the file has them all."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(raw),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        min_match=7 if level == _LEVELS_IF_SMALL[-1] else 0,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(raw)


_FREE: Final = 1 << 26
_RATIO: Final = 2000


def believable(unfolded: int, stored: int) -> bool:
    """Tell whether a file of `stored` bytes may unfold to so many in memory: no zip bombs.

    Real models stay far below: 99 % sparsity at 4 bits is a ratio of about 270. What goes beyond it is written plain.
    """
    return unfolded <= _FREE + _RATIO * stored
