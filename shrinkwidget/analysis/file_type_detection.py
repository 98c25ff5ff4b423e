"""What a path leads to: a plain file that may be a safetensors file, or something else, named with what to do."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import FileError, quoted

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
        raise FileError(f"there is no file {quoted(path)}{_hub_hint(place)}") from error
    except OSError as error:
        raise FileError(f"cannot read {quoted(path)}: {error.strerror or error}") from error


def checked_path(path: object) -> Path:
    """Return what was given as a path.

    Raises:
        FileError: for anything but a text or a `pathlib.Path`, and for an empty text.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise FileError(f"expected the path of a file, as text or a pathlib.Path, got a {type(path).__name__}")
    if not text:
        raise FileError("the path is empty: give the path of a file")
    return Path(text)


def _hub_hint(path: Path) -> str:
    """Return what to do with what looks like the name of a model on a hub, "owner/model"."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) or path.suffix == ".safetensors" or path.parent.is_dir():
        return ""
    return "; a model of a hub is downloaded first (huggingface_hub.snapshot_download), and its folder given"


def refuse_other_formats(path: object, file: BinaryIO) -> None:
    """Refuse a file in a format known not to be safetensors; the file is opened at its start, and left there.

    Raises:
        FileError: naming the format and what to do.
    """
    head = file.read(128)
    file.seek(0)
    if kind := _other_format(head, checked_path(path).suffix.lower()):
        raise FileError(f"{quoted(path)} is {kind}")


def _other_format(head: bytes, suffix: str) -> str:
    """Return the format of a file by its first bytes, or, where these say nothing, by the end of its name."""
    if head[4:9] == b"\0\0\0\0{":  # a safetensors file: it begins with the length of its header, then a brace follows,
        return ""  # and the low bytes of the length may be those of anything
    for start, kind in _BY_START.items():
        if head.startswith(start):
            return kind
    if head[:2] == b"PK":
        return _zip_format(head, suffix)
    if len(head) > 8 and head[:1] == b"\x80" and head[1:2] <= b"\x05":
        return _PICKLE
    return _BY_SUFFIX.get(suffix, "")


def _zip_format(head: bytes, suffix: str) -> str:
    """Tell the zip files of torch.save, Keras and NumPy by the name of the first file in them."""
    first = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if first.endswith(b".npy"):
        return _BY_SUFFIX[".npz"]
    if suffix == ".keras" or first in (b"metadata.json", b"config.json", b"model.weights.h5"):
        return _KERAS
    return _PICKLE
