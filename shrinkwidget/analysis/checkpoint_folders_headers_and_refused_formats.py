"""The headers of checkpoints on disk: safetensors files, sharded ones, and folders; other formats are refused by name.

No weight is read here, and torch is not needed.
"""

from __future__ import annotations

import math
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, Final, NamedTuple, TypeGuard

from .. import strict_json
from ..errors import FileError, a_type, quoted
from .estimate_class_and_packed_file_header import impossible_shape

INDEX: Final = ".safetensors.index.json"
# What a reader believes at most before anything is allocated: the largest checkpoints have some hundred shards.
_MAX_INDEX: Final = 100_000_000
_MAX_SHARDS: Final = 10_000
_MAX_HEADER: Final = 100_000_000  # the limit of the safetensors library

DTYPE_BITS: Final = {
    "U64": 64, "I64": 64, "F64": 64, "C64": 64, "F32": 32, "U32": 32, "I32": 32, "BF16": 16, "F16": 16, "U16": 16,
    "I16": 16, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F8_E8M0": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8,
    "BOOL": 8, "F6_E3M2": 6, "F6_E2M3": 6, "F4": 4,
}  # fmt: skip
"""The dtypes a .safetensors file can hold, by their names there, and how many bits a number of each takes."""


class TensorHeader(NamedTuple):
    """What the header says of one tensor: its bytes lie at `begin` to `end` of the file; `dtype` is of `DTYPE_BITS`."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class SafetensorsHeader:
    """The header of one file: `metadata`, and `tensors` by name in the order in which they lie in the file.

    `identity` tells the file from any other, and from what it is once it has been changed.
    """

    path: Path
    metadata: dict[str, str]
    tensors: dict[str, TensorHeader]
    nbytes: int
    identity: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointHeaders:
    """The headers of the files of one checkpoint, in the order of their names; `title` is how the model is called.

    `opened` is the file that led to them: the only one, or their index.
    """

    title: str
    files: tuple[SafetensorsHeader, ...]
    opened: Path


def read_checkpoint_headers(path: str | os.PathLike[str]) -> CheckpointHeaders:
    """Return the headers of all files of a checkpoint.

    A folder is opened by its ``model.safetensors``, its one ``….safetensors.index.json``, or its one safetensors file.
    An index and its shards must agree: each tensor it names lies in the shard it says, and in no other.

    Raises:
        FileError: for a path with no checkpoint, or several; a file in another format, damaged, or missing.
    """
    found = checked_path(path)
    title = found.name
    try:
        in_folder = found.is_dir()
    except OSError:  # what is wrong is told when it is opened
        in_folder = False
    if in_folder:
        title = found.resolve().name
        found = _in_folder(found)
    elif title.endswith(INDEX):
        title = title.removesuffix(INDEX)
    else:
        title = found.stem
    files = _shards(found) if found.name.endswith(".json") else (read_safetensors_header(found),)
    # a file's name may be bytes that are no text: no page and no header could show it
    return CheckpointHeaders(title.encode(errors="replace").decode(), files, found)


def _in_folder(folder: Path) -> Path:
    """Return the one file in a folder that leads to its checkpoint."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise FileError(f"cannot read the folder {quoted(folder)}: {error.strerror or error}") from error
    whole = [name for name in names if name.endswith(".safetensors")]
    indices = [name for name in names if name.endswith(INDEX)]
    # beside the model there may be adapters and the like: these are Hugging Face's names for the whole of it
    candidates = [name for name in whole if name == "model.safetensors"] + indices or whole

    def some(names: list[str]) -> str:
        return ", ".join(map(quoted, names[:4])) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")

    # One model.safetensors or one index is the model; several of them are not for us to choose among.
    if len(candidates) == 1:
        return folder / candidates[0]
    if candidates:
        raise FileError(f"the folder {quoted(folder)} holds several models, {some(candidates)}: give the path of one")
    found = f"; it holds {some(names)}" if names else "; it is empty"
    raise FileError(f"the folder {quoted(folder)} holds no .safetensors file{found}")


def _shards(index: Path) -> tuple[SafetensorsHeader, ...]:
    """Return the files an index names, in the order of their names."""
    weight_map = _weight_map(index)
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MAX_SHARDS:
        raise FileError(f"{quoted(index)} names {len(shards):,} files; a checkpoint has at most {_MAX_SHARDS:,}")
    # Every name is checked before any file is opened, so that a hostile index touches nothing.
    for shard in shards:
        # an index is downloaded, and not trusted: it may name nothing outside its own folder
        path = PureWindowsPath(shard)  # takes both / and \\ for separators, and knows drives
        if not path.name or path.anchor or ".." in path.parts or "\\" in shard or not shard.isprintable():
            raise FileError(f"{quoted(index)} names the file {quoted(shard)}, which is not in its own folder")
    files = {}
    for shard in shards:
        try:
            files[shard] = read_safetensors_header(index.parent / shard)
        except FileError as error:
            raise FileError(f"{quoted(index.name)} cannot be opened whole: {error}") from error
    _refuse_disagreement(index, weight_map, files)
    return tuple(files.values())


def _weight_map(index: Path) -> dict[str, str]:
    """Return which file each tensor lies in, as the index says."""
    with open_plain_file(index) as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MAX_INDEX:
            raise FileError(f"{quoted(index)} is {size:,} bytes long; an index has at most {_MAX_INDEX:,}")
        text = bytearray(size)
        try:
            read_exactly(file, memoryview(text))
            found = strict_json.parse(bytes(text))
        except ValueError as error:
            raise FileError(f"{quoted(index)} is not a readable index: {error}") from error
    weight_map = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise FileError(f'{quoted(index)} is not the index of a checkpoint: it has no "weight_map" of file names')
    if not weight_map:
        raise FileError(f"{quoted(index)} names no tensor")
    return weight_map


def _refuse_disagreement(index: Path, weight_map: dict[str, str], files: dict[str, SafetensorsHeader]) -> None:
    """Refuse shards that hold a tensor twice, or other tensors than the index says: they are not of one model."""
    where: dict[str, str] = {}
    for shard, file in files.items():
        for tensor in file.tensors:
            if tensor in where:
                raise FileError(f"{quoted(tensor)} is in two files, {quoted(where[tensor])} and {quoted(shard)}")
            where[tensor] = shard
    for tensor, shard in weight_map.items():
        if where.get(tensor) != shard:
            place = f"it is in {quoted(where[tensor])}" if tensor in where else "which does not hold it"
            raise FileError(f"{quoted(index)} says that {quoted(tensor)} is in {quoted(shard)}, {place}")
    for tensor in where:
        if tensor not in weight_map:
            raise FileError(f"{quoted(where[tensor])} holds {quoted(tensor)}, which {quoted(index)} does not name")


# ---- one safetensors file ----


def read_safetensors_header(path: str | os.PathLike[str]) -> SafetensorsHeader:
    """Return the header of a safetensors file.

    Raises:
        FileError: for a path that is no plain file, cannot be read, is in another format, or breaks a rule of this one.
    """
    with open_plain_file(path) as file:
        refuse_other_formats(path, file)
        status = os.fstat(file.fileno())
        try:
            text = read_header_text(file, status.st_size)
            header = header_object(text)
            metadata = header.pop("__metadata__", {})
            if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
                raise FileError("the metadata in its header is not an object of texts")
            tensors = _tensor_headers(header, 8 + len(text), status.st_size)
        except FileError as error:
            raise FileError(f"{quoted(path)} is not a readable safetensors file: {error}") from error
    return SafetensorsHeader(checked_path(path).absolute(), metadata, tensors, status.st_size, file_identity(status))


def file_identity(status: os.stat_result) -> tuple[int, ...]:
    """Return what tells a file from any other, and from what it is once it has been changed."""
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


def _tensor_headers(header: dict[str, Any], start: int, size: int) -> dict[str, TensorHeader]:
    """Return what the header says of its tensors, which must fill the file from `start` to its end without a gap."""
    infos = {name: _tensor_header(name, entry, start) for name, entry in header.items()}
    # The library refuses gaps and overlaps, too: bytes that no tensor claims could be another file (a polyglot).
    found = sorted(infos.items(), key=lambda item: (item[1].begin, item[1].end))
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


def _tensor_header(name: str, entry: Any, start: int) -> TensorHeader:
    # Exactly the three keys: what else it might say, nobody here would honor.
    described = entry if isinstance(entry, dict) and len(entry) == 3 else {}
    code, shape, offsets = described.get("dtype"), described.get("shape"), described.get("data_offsets")
    if not isinstance(code, str) or not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise FileError(f"its header describes {quoted(name)} as {quoted(entry)}; expected dtype, shape, data_offsets")
    if code not in DTYPE_BITS:
        raise FileError(f"it holds {quoted(name)} as {quoted(code)}, a type this version cannot read")
    if problem := impossible_shape(shape):
        raise FileError(f"its header gives {quoted(name)} {problem}")
    # In bits, as F4 and the F6 types put several numbers into a byte.
    nbytes, odd = divmod(math.prod(shape) * DTYPE_BITS[code], 8)
    if odd:
        raise FileError(f"{quoted(name)} of shape {shape} and dtype {code} does not fill whole bytes")
    if offsets[1] - offsets[0] != nbytes:
        raise FileError(
            f"{quoted(name)} of shape {shape} has {offsets[1] - offsets[0]:,} bytes in the file, but needs {nbytes:,}"
        )
    return TensorHeader(code, tuple(shape), start + offsets[0], start + offsets[1])


def _sizes(found: Any) -> TypeGuard[list[int]]:
    # a loop, as these lists are short: all() or a set of types take four times as long, for 100,000 tensors
    if not isinstance(found, list):
        return False
    for size in found:  # noqa: SIM110
        if type(size) is not int or size < 0:
            return False
    return True


# ---- any file: plain, and in no other format ----

_AS_STATE_DICT: Final = "pass its weights as a dict of tensors by name"
_ONNX: Final = f"an ONNX model: read it with onnx.load, and {_AS_STATE_DICT} (onnx.numpy_helper.to_array)"
_KERAS: Final = f"a Keras model: load it with Keras, and {_AS_STATE_DICT}"
_PICKLE: Final = (
    "a pickle (a torch.save file): pickles can run code when they are read, so shrinkwidget never opens them; load it "
    "yourself with torch.load(weights_only=True) and pass the state dict"
)
_BY_START: Final[dict[bytes, str]] = {
    b"\x89HDF\r\n\x1a\n": f"an HDF5 file, as Keras writes: load the model with Keras, and {_AS_STATE_DICT}",
    b"GGUF": "a GGUF file, whose weights are quantized already: take the .safetensors checkpoint it was made from",
    b"\x93NUMPY": f"a NumPy array: read it with numpy.load, and {_AS_STATE_DICT}",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch that with git lfs pull",
}
_BY_SUFFIX: Final[dict[str, str]] = {
    ".onnx": _ONNX,
    ".keras": _KERAS,
    ".h5": _BY_START[b"\x89HDF\r\n\x1a\n"],
    ".hdf5": _BY_START[b"\x89HDF\r\n\x1a\n"],
    ".gguf": _BY_START[b"GGUF"],
    ".npy": _BY_START[b"\x93NUMPY"],
    ".npz": f"an archive of NumPy arrays: read it with numpy.load, and {_AS_STATE_DICT}",
    ".tflite": f"a TensorFlow Lite model: load the model it was made from, and {_AS_STATE_DICT}",
    ".msgpack": f"a Flax checkpoint: read it with flax.serialization, and {_AS_STATE_DICT}",
    ".pb": f"a TensorFlow model: load it with TensorFlow, and {_AS_STATE_DICT}",
}


def open_plain_file(path: object) -> BinaryIO:
    """Open a file for reading, unbuffered.

    Raises:
        FileError: for what is no path, a missing file, a folder, a pipe or a device (which would block, or never end),
            or a file that may not be read.
    """
    place = checked_path(path)
    try:
        status = place.stat()
        if stat.S_ISDIR(status.st_mode):
            raise FileError(f"there is no file {quoted(path)}; it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise FileError(f"{quoted(path)} is not a plain file, but a pipe, a socket or a device")
        return place.open("rb", buffering=0)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a path with a null character
        if isinstance(error, FileError):
            raise
        # What looks like "owner/model" is the name of a model on a hub, unless there is a folder of the owner's name.
        hub = re.fullmatch(r"[\w.-]+/[\w.-]+", str(place)) and place.suffix != ".safetensors"
        hint = "; a model of a hub is downloaded first (huggingface_hub.snapshot_download), and its folder given"
        more = hint if hub and not place.parent.is_dir() else ""
        raise FileError(f"there is no file {quoted(path)}{more}") from error
    except OSError as error:
        raise FileError(f"cannot read {quoted(path)}: {error.strerror or error}") from error


def checked_path(path: object) -> Path:
    """Return what was given as a path.

    Raises:
        FileError: for anything but a text or a `pathlib.Path`, and for an empty text.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise FileError(f"expected the path of a file, as text or a pathlib.Path, got {a_type(path)}")
    if not text:
        raise FileError("the path is empty: give the path of a file")
    return Path(text)


def refuse_other_formats(path: object, file: BinaryIO) -> None:
    """Refuse a file in a format known not to be safetensors; the file is opened at its start, and left there.

    A format is told by the first bytes, or, where these say nothing, by the end of the name.

    Raises:
        FileError: naming the format and what to do.
    """
    # 128 bytes reach the name of the first file in a zip archive (30 bytes of header before it), and any magic number.
    head, suffix = file.read(128), checked_path(path).suffix.lower()
    file.seek(0)
    # A safetensors file begins with the length of its header, 8 bytes, and then a brace. That comes first, as the low
    # bytes of the length may be those of anything.
    if head[4:9] == b"\0\0\0\0{":
        return
    kind = next((kind for start, kind in _BY_START.items() if head.startswith(start)), "")
    if not kind and head[:2] == b"PK":
        # torch.save, Keras and NumPy all write zip files: the first file inside tells which
        first = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # a local header: its name's length, its name
        keras = suffix == ".keras" or first in (b"metadata.json", b"config.json", b"model.weights.h5")
        kind = _BY_SUFFIX[".npz"] if first.endswith(b".npy") else _KERAS if keras else _PICKLE
    elif not kind and len(head) > 8 and head[:1] == b"\x80" and head[1:2] <= b"\x05":  # a pickle and its protocol
        kind = _PICKLE
    if kind := kind or _BY_SUFFIX.get(suffix, ""):
        raise FileError(f"{quoted(path)} is {kind}")
