"""The tensors of a checkpoint on disk, read one at a time, and the bytes of a file of our own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import FileError, quoted
from .checkpoint_folders_headers_and_refused_formats import (
    SafetensorsHeader,
    file_identity,
    open_plain_file,
    read_checkpoint_headers,
    read_exactly,
    read_safetensors_header,
)
from .estimate_class_and_packed_file_header import ENTROPY, FILE_DTYPES, FORMAT

# Older releases of torch lack some of the float8 types.
DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in FILE_DTYPES if hasattr(torch, name)}
"""The dtypes a .safetensors file can hold and this torch knows, by name."""
_BY_CODE: Final = {FILE_DTYPES[name]: dtype for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointFiles:
    """The safetensors files of one checkpoint, in the order of their names; `title` is how the model is called.

    `paths` are all that it lies in: theirs, and that of their index.
    """

    title: str
    files: tuple[SafetensorsFile, ...]
    paths: tuple[Path, ...]


def open_checkpoint(path: str | os.PathLike[str]) -> CheckpointFiles:
    """Open a checkpoint as `read_checkpoint_headers` does, reading the headers of its files and no weight.

    Raises:
        FileError: for a path with no checkpoint, or several; a file in another format, damaged, or missing; a packed
            model of this project, which `load` reads.
    """
    found = read_checkpoint_headers(path)
    for file in found.files:
        if file.metadata.get("format") in (FORMAT, ENTROPY):
            raise FileError(f"{quoted(file.path)} is a packed model of shrinkwidget: read it with shrinkwidget.load")
    paths = {found.opened, *(file.path for file in found.files)}
    return CheckpointFiles(found.title, tuple(map(SafetensorsFile, found.files)), tuple(paths))


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
        FileError: for a path that is no plain file, cannot be read, is in another format, or breaks a rule of this one,
            and for a dtype that this torch has not.
    """

    def __init__(self, source: str | os.PathLike[str] | SafetensorsHeader) -> None:
        header = source if isinstance(source, SafetensorsHeader) else read_safetensors_header(source)
        self.path, self.metadata, self._identity = header.path, header.metadata, header.identity
        self.tensors: dict[str, TensorInfo] = {}
        for name, found in header.tensors.items():
            if found.dtype not in _BY_CODE:
                raise FileError(
                    f"{quoted(self.path)} is not a readable safetensors file: it holds {quoted(name)} as "
                    f"{quoted(found.dtype)}, a type this version cannot read"
                )
            self.tensors[name] = TensorInfo(_BY_CODE[found.dtype], found.shape, found.begin, found.end)

    def read(self, name: str) -> Tensor:
        """Return a tensor, in memory of its own.

        Raises:
            FileError: if the file is gone, cannot be read, or has been changed since it was opened.
        """
        info = self.tensors[name]
        try:
            data = read_bytes(self.path, info.begin, info.end, self._identity)
        except FileError as error:
            raise FileError(f"{quoted(name)} can no longer be read from {quoted(self.path)}: {error}") from error
        return data.view(info.dtype).reshape(info.shape)


def read_bytes(path: Path, begin: int, end: int, identity: tuple[int, ...]) -> Tensor:
    """Return the bytes of a file from `begin` to `end` as uint8, in memory of their own.

    They are read, never mapped: a mapped file that is cut short takes the process down with it.

    Raises:
        FileError: if the file is gone, cannot be read, or is not the one of that `file_identity` any more.
    """

    def refuse_changed() -> None:
        # before reading and after it: a file that is written meanwhile would give half of each
        if file_identity(os.fstat(file.fileno())) != identity:
            raise FileError("the file has been changed since it was opened; open it again")

    try:
        # numpy asks the system for huge pages, and torch does not: with small ones, being given fresh memory takes four
        # times as long as reading a file into it. A storage may be viewed as a wider dtype from its beginning.
        data = torch.from_numpy(np.empty(max(1, end - begin), np.uint8))[: end - begin]  # 0 would have no stride
    except (MemoryError, RuntimeError) as error:
        raise FileError(f"there is not enough memory for its {end - begin:,} bytes") from error
    with open_plain_file(path) as file:
        refuse_changed()
        file.seek(begin)
        read_exactly(file, data.numpy().data)
        refuse_changed()
    return data


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
