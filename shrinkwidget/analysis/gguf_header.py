"""The header of a GGUF file, as llama.cpp reads and writes it: metadata, and where each tensor lies. No weight is read.

The format is described in ggml's docs/gguf.md. Nothing that the file says is believed before it is checked: every count
is held against the bytes that are left, so that what is allocated is bounded by what was read.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from ..errors import FileError, quoted
from .checkpoint_folders_headers_and_refused_formats import checked_path, file_identity, open_plain_file
from .estimate_class_and_packed_file_header import impossible_shape

MAGIC: Final = b"GGUF"
_VERSIONS: Final = (2, 3)  # version 1 had 32-bit counts, and was in use for a few weeks of 2023
_MAX_HEADER: Final = 256 * 2**20  # vocabularies make headers of some 20 MB
_MAX_TENSORS: Final = 2_000_000
_MAX_TEXT: Final = 2**24
_MAX_NESTING: Final = 4
_CHUNK: Final = 2**18
ARRAY_SAMPLE: Final = 8
"""How many items of an array are kept; a vocabulary has a quarter of a million."""

GGML_TYPES: Final[dict[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""ggml's types by their number in files: the name, how many numbers make a block, and the bytes of one."""

_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_TYPE_NAMES: Final = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", _BOOL: "bool",
    _STRING: "string", _ARRAY: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """What the header says of one tensor; its bytes lie at `begin` to `end` of the file.

    `shape` has the last axis last, as in torch; the file has it first.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class GGUFArray:
    """An array of the metadata: what it holds, how many of them, and the first few."""

    dtype: str
    length: int
    first: tuple[Any, ...]


@dataclass(frozen=True, slots=True, eq=False)
class GGUFHeader:
    """The header of one file: `metadata` by key, and `tensors` by name in the order of the header.

    `identity` tells the file from any other, and from what it is once it has been changed; `big_endian` whether its
    numbers have their high bytes first.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]
    nbytes: int
    identity: tuple[int, ...]
    big_endian: bool


def is_gguf(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is a GGUF file, by how it begins.

    Raises:
        FileError: for a path that is neither a plain file nor a folder, or cannot be read.
    """
    if Path(path).is_dir():
        return False
    with open_plain_file(path) as file:
        return file.read(len(MAGIC)) == MAGIC


def read_gguf_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """Return the header of a GGUF file of version 2 or 3, of either byte order.

    Raises:
        FileError: for a path that is no plain file, cannot be read, is in another format, or breaks a rule of this one.
    """
    with open_plain_file(path) as file:
        status = os.fstat(file.fileno())
        try:
            cursor = _Cursor(file, status.st_size)
            counts = _begin(cursor)
            metadata = _metadata(cursor, counts[1])
            alignment = metadata.get("general.alignment", 32)  # ggml's GGUF_DEFAULT_ALIGNMENT
            if type(alignment) is not int or alignment <= 0 or alignment % 8 or alignment > 2**20:
                raise FileError(f"its general.alignment is {quoted(alignment)}; expected a multiple of 8")
            tensors = _tensors(cursor, counts[0], alignment)
        except FileError as error:
            raise FileError(f"{quoted(path)} is not a readable GGUF file: {error}") from error
    return GGUFHeader(
        checked_path(path).absolute(), metadata, tensors, status.st_size, file_identity(status), cursor.order == ">"
    )


class _Cursor:
    """The file from its start, taken piece by piece; no more of it is read than is asked for, and a chunk."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.order = "<"
        self.size = size
        self._file = file
        self._data = bytearray()
        self._at = 0

    @property
    def position(self) -> int:
        return self._at

    def need(self, nbytes: int) -> None:
        """Read on until so many bytes lie ahead."""
        end = self._at + nbytes
        if end > self.size:
            raise FileError(f"it is cut short: its header should go on for {end - self.size:,} bytes and more")
        if end > _MAX_HEADER:
            raise FileError(f"its header is longer than {_MAX_HEADER:,} bytes, more than any model has")
        while len(self._data) < end:
            try:
                piece = self._file.read(max(_CHUNK, end - len(self._data)))
            except OSError as error:
                raise FileError(error.strerror or str(error)) from error
            if not piece:
                raise FileError("the file ends too early; it is being written, or was cut short")
            self._data += piece

    def take(self, nbytes: int) -> bytes:
        self.need(nbytes)
        self._at += nbytes
        return bytes(self._data[self._at - nbytes : self._at])

    def skip(self, nbytes: int) -> None:
        self.need(nbytes)
        self._at += nbytes

    def numbers(self, code: str) -> tuple[Any, ...]:
        layout = self.order + code
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def text(self, what: str, most: int = _MAX_TEXT) -> bytes:
        length = self.numbers("Q")[0]
        if length > most:
            raise FileError(f"{what} is {length:,} bytes long, more than the {most:,} that can be")
        return self.take(length)

    def skip_texts(self, count: int) -> None:
        """Pass over so many texts: a loop over all tokens of a vocabulary, so without a call for each."""
        unpack = struct.Struct(self.order + "Q").unpack_from
        for _ in range(count):
            if len(self._data) < self._at + 8:
                self.need(8)
            length = unpack(self._data, self._at)[0]
            if len(self._data) < self._at + 8 + length:
                self.need(8 + length)
            self._at += 8 + length


def _begin(cursor: _Cursor) -> tuple[int, int]:
    """Return how many tensors and how many keys there are."""
    if cursor.size < 24:
        raise FileError(f"it is only {cursor.size} bytes long, too short for a GGUF file")
    if (start := cursor.take(4)) != MAGIC:
        raise FileError(f"it begins with {quoted(start)}, not with {quoted(MAGIC)}")
    # The magic is the same in both byte orders; the version, a small number, tells them apart.
    version = cursor.take(4)
    if version[:2] == b"\0\0":  # small numbers only have their high bytes first in a big-endian file
        cursor.order = ">"
    number = struct.unpack(cursor.order + "I", version)[0]
    if number not in _VERSIONS:
        cure = "convert the model again" if number < _VERSIONS[0] else "it may need a newer shrinkwidget"
        raise FileError(f"its format version is {number:,}; versions 2 and 3 can be read: {cure}")
    tensors, keys = cursor.numbers("QQ")
    # a tensor is described by at least 24 bytes, a key by 13: a count that cannot be is told before anything is read
    if tensors > min(_MAX_TENSORS, cursor.size // 24) or keys > cursor.size // 13:
        raise FileError(
            f"it should hold {tensors:,} tensors and {keys:,} keys, more than its {cursor.size:,} bytes can"
        )
    return tensors, keys


def _metadata(cursor: _Cursor, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(count):
        key = _name(cursor.text("a key of its metadata", 2**16 - 1), "a key of its metadata")
        if not key:
            raise FileError("a key of its metadata is empty")
        if key in found:
            raise FileError(f"its metadata has the key {quoted(key)} twice")
        found[key] = _value(cursor, cursor.numbers("I")[0], key)
    return found


def _name(text: bytes, what: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise FileError(f"{what}, {quoted(text)}, is not UTF-8") from error


def _value(cursor: _Cursor, kind: int, key: str, depth: int = 0) -> Any:
    if kind in _SCALARS:
        value = cursor.numbers(_SCALARS[kind])[0]
        if kind == _BOOL:
            if value > 1:
                raise FileError(f"its key {quoted(key)} is a bool of the value {value}")
            return bool(value)
        return value
    if kind == _STRING:
        return cursor.text(f"the text of its key {quoted(key)}").decode(errors="replace")
    if kind != _ARRAY:
        raise FileError(f"its key {quoted(key)} has the unknown type {kind}")
    if depth == _MAX_NESTING:
        raise FileError(f"its key {quoted(key)} nests arrays more than {_MAX_NESTING} deep")
    # Before anything is read or allocated: an item takes at least so many bytes, of a text its length, of an array its
    # type and length.
    inner, length = cursor.numbers("IQ")
    if inner not in _TYPE_NAMES:
        raise FileError(f"its key {quoted(key)} is an array of the unknown type {inner}")
    least = struct.calcsize(_SCALARS[inner]) if inner in _SCALARS else 8 if inner == _STRING else 12
    if length > (cursor.size - cursor.position) // least:
        raise FileError(f"its key {quoted(key)} should have {length:,} items, more than its {cursor.size:,} bytes hold")
    first = tuple(_value(cursor, inner, key, depth + 1) for _ in range(min(length, ARRAY_SAMPLE)))
    # What is not kept is still walked over, as only that tells where the next key begins.
    rest = length - len(first)
    if inner in _SCALARS:
        cursor.skip(rest * least)
    elif inner == _STRING:
        cursor.skip_texts(rest)
    else:
        for _ in range(rest):
            _value(cursor, inner, key, depth + 1)
    return GGUFArray(_TYPE_NAMES[inner], length, first)


def _tensors(cursor: _Cursor, count: int, alignment: int) -> dict[str, GGUFTensor]:
    described: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(count):
        name = _name(cursor.text("the name of a tensor", 2**16 - 1), "the name of a tensor")
        if name in described:
            raise FileError(f"it holds the tensor {quoted(name)} twice")
        # Dimensions come fastest first, the reverse of torch's order.
        axes = cursor.numbers("I")[0]
        if axes > 8:  # ggml has at most 4
            raise FileError(f"its header gives {quoted(name)} {axes:,} dimensions, more than the 8 that can be read")
        shape = cursor.numbers(f"{axes}Q")[::-1]
        kind, offset = cursor.numbers("IQ")
        if kind not in GGML_TYPES:
            raise FileError(f"it holds {quoted(name)} as type {kind:,} of ggml, which this version cannot read")
        if problem := impossible_shape(shape):
            raise FileError(f"its header gives {quoted(name)} {problem}")
        dtype, block, block_bytes = GGML_TYPES[kind]
        if (shape[-1] if shape else 1) % block:
            raise FileError(f"{quoted(name)} of shape {list(shape)} has rows that are no multiple of {dtype}'s {block}")
        if offset % alignment:
            raise FileError(f"{quoted(name)} lies at byte {offset:,} of the data, which is no multiple of {alignment}")
        described[name] = dtype, shape, offset, math.prod(shape) // block * block_bytes
    # The data begin at the next multiple after the header, and offsets count from there.
    start = -(-cursor.position // alignment) * alignment
    found = {
        name: GGUFTensor(dtype, shape, start + offset, start + offset + nbytes)
        for name, (dtype, shape, offset, nbytes) in described.items()
    }
    before, end = "", 0
    # Gaps are padding here, unlike in safetensors; an overlap is damage.
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin < end:
            raise FileError(f"{quoted(name)} and {quoted(before)} share {end - tensor.begin:,} bytes of the file")
        before, end = name, tensor.end
    if end > cursor.size:
        raise FileError(f"it is cut short: {end - cursor.size:,} bytes are missing at the end")
    return found
