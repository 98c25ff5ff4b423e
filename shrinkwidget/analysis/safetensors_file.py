"""A `.safetensors` file: its header read once and checked, its tensors read one at a time, in ranges of the file.

A memory map would be no faster and less safe: a file that another program truncates in place (``cp``, ``wget -O``,
``rsync --inplace``) ends the whole process with SIGBUS as soon as a mapped page of it is touched
(https://github.com/NVIDIA/TensorRT-LLM/issues/17368). A short read is an error that can be told.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import strict_json
from ..errors import FileError, quoted
from .file_type_detection import checked_path, open_plain_file, refuse_other_formats

FILE_DTYPES: Final = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64", "float32": "F32", "uint32": "U32",
    "int32": "I32", "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""The dtypes a .safetensors file can hold, in the order its header lists their tensors, and their names there."""
DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in FILE_DTYPES if hasattr(torch, name)}
"""Those that this torch knows, by name."""
_BY_CODE: Final = {FILE_DTYPES[name]: dtype for name, dtype in DTYPES.items()}

_MAX_DIMENSIONS: Final = 64  # of numpy, and more than any model has
_MAX_ELEMENTS: Final = 2**60  # beyond any memory; products of sizes stay far from 2**63
_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What the header says of one tensor; its bytes lie at `begin` to `end` of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An opened file: `metadata`, and `tensors` by name in the order in which they lie in the file.

    Nothing stays open: every read opens the file, and refuses it if it is no longer the one whose header was read.

    Raises:
        FileError: for a path that is no plain file, cannot be read, is in another format, or breaks a rule of this one.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = checked_path(path).absolute()
        with open_plain_file(path) as file:
            refuse_other_formats(path, file)
            status = os.fstat(file.fileno())
            try:
                text = read_header_text(file, status.st_size)
                header = header_object(text)
                self.metadata = _metadata(header.pop("__metadata__", {}))
                self.tensors = _tensors(header, 8 + len(text), status.st_size)
            except FileError as error:
                raise FileError(f"{quoted(path)} is not a readable safetensors file: {error}") from error
        self._identity = _identity(status)

    def read(self, name: str) -> Tensor:
        """Return a tensor, in memory of its own.

        Raises:
            FileError: if the file is gone, cannot be read, or has been changed since it was opened.
        """
        info = self.tensors[name]
        try:
            data = _new_bytes(info.end - info.begin)
            with open_plain_file(self.path) as file:
                self._refuse_changed(file)
                file.seek(info.begin)
                read_exactly(file, data.numpy().data)
                self._refuse_changed(file)
        except FileError as error:
            raise FileError(f"{quoted(name)} can no longer be read from {quoted(self.path)}: {error}") from error
        return data.view(info.dtype).reshape(info.shape)

    def _refuse_changed(self, file: BinaryIO) -> None:
        if _identity(os.fstat(file.fileno())) != self._identity:
            raise FileError("the file has been changed since it was opened; open it again")


def _new_bytes(count: int) -> Tensor:
    try:
        return torch.empty(count, dtype=torch.uint8)
    except (MemoryError, RuntimeError) as error:
        raise FileError(f"there is not enough memory for its {count:,} bytes") from error


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def read_header_text(file: BinaryIO, size: int) -> bytes:
    """Return the JSON header of a safetensors file of `size` bytes, which is opened at its start; nothing else is read.

    Raises:
        FileError: with a sentence about "it", for a length that cannot be that of a header.
    """
    if size < 8:
        raise FileError(f"it is only {size} bytes long, too short for a safetensors file")
    start = bytearray(8)
    read_exactly(file, memoryview(start))
    length = int.from_bytes(start, "little")
    if length > size - 8:
        raise FileError(
            f"its header should be {length:,} bytes long, but only {size - 8:,} follow: "
            f"the file is cut short, or not a safetensors file"
        )
    if length > _MAX_HEADER:
        raise FileError(f"its header is {length:,} bytes long; a safetensors file has at most {_MAX_HEADER:,}")
    text = bytearray(length)
    read_exactly(file, memoryview(text))
    return bytes(text)


def read_exactly(file: BinaryIO, into: memoryview) -> None:
    """Fill a buffer from where the file stands.

    Raises:
        FileError: if the file ends before, or cannot be read.
    """
    at = 0
    while at < len(into):
        try:
            count = file.readinto(into[at:])  # type: ignore[attr-defined]  # an unbuffered file has it
        except OSError as error:
            raise FileError(error.strerror or str(error)) from error
        if not count:
            raise FileError(f"the file ends {len(into) - at:,} bytes too early; it is being written, or was cut short")
        at += count


def header_object(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a header is.

    Raises:
        FileError: with a sentence about "its header".
    """
    try:
        found = strict_json.parse(text)
    except ValueError as error:
        raise FileError(f"its header is not JSON as safetensors files have it: {error}") from error
    if not isinstance(found, dict):
        raise FileError("its header is not a JSON object, so it is not a safetensors file")
    return found


def _metadata(found: Any) -> dict[str, str]:
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise FileError("the metadata in its header is not an object of texts")
    return found


def _tensors(header: dict[str, Any], start: int, size: int) -> dict[str, TensorInfo]:
    """Return what the header says of its tensors, which must fill the file from `start` to its end without a gap."""
    found = sorted(((name, _checked(name, entry, start)) for name, entry in header.items()), key=_place)
    at = start
    for name, info in found:
        if info.begin != at:
            raise FileError(
                f"{quoted(name)} begins at byte {info.begin - start:,} of the data, but should at {at - start:,}"
            )
        at = info.end
    if at > size:
        raise FileError(f"it is cut short: {at - size:,} bytes are missing at the end")
    if at < size:
        raise FileError(f"{size - at:,} bytes follow after its last tensor")
    return dict(found)


def _place(item: tuple[str, TensorInfo]) -> tuple[int, int]:
    return item[1].begin, item[1].end


def _checked(name: str, entry: Any, start: int) -> TensorInfo:
    described = entry if isinstance(entry, dict) and len(entry) == 3 else {}
    code, shape, offsets = described.get("dtype"), described.get("shape"), described.get("data_offsets")
    if not isinstance(code, str) or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise FileError(f"its header describes {quoted(name)} as {quoted(entry)}; expected dtype, shape, data_offsets")
    if code not in _BY_CODE:
        raise FileError(f"it holds {quoted(name)} as {quoted(code)}, a type this version cannot read")
    if problem := impossible_shape(shape):
        raise FileError(f"its header gives {quoted(name)} {problem}")
    nbytes = math.prod(shape) * _BY_CODE[code].itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise FileError(
            f"{quoted(name)} of shape {shape} has {offsets[1] - offsets[0]:,} bytes in the file, but needs {nbytes:,}"
        )
    return TensorInfo(_BY_CODE[code], tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(n) is int and n >= 0 for n in found)


def impossible_shape(shape: Sequence[int]) -> str:
    """Return what is wrong with a shape that no tensor in memory has, as "the shape …", or ""."""
    if len(shape) > _MAX_DIMENSIONS:
        return f"the shape of {len(shape):,} dimensions, more than the {_MAX_DIMENSIONS} that can be read"
    if math.prod(max(n, 1) for n in shape) >= _MAX_ELEMENTS:
        return f"the shape {quoted(list(shape))}, more than any memory holds"
    return ""


def serialized(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """Return the bytes of a safetensors file, the same for the same content.

    The library writes metadata in an order that differs from call to call. Wide dtypes come first, so that every tensor
    is aligned.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        start, end = end, end + tensor.nbytes
        code = FILE_DTYPES[tensor.dtype.name]
        header[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
        parts.append(np.ascontiguousarray(tensor).tobytes())
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
