"""The table of a checkpoint as JSON, from its header alone: ``python -P -m …server.checkpoint_table ROOT PATH``.

A program of its own, run for one file: whatever a damaged or hostile file costs, in memory or time, it costs this
process and not Jupyter's server. It prints the table, or what is wrong as ``{"message": …}``, and then exits with 1.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeGuard

from ..analysis.checkpoint_folders_headers_and_refused_formats import (
    DTYPE_BITS,
    CheckpointHeaders,
    SafetensorsHeader,
    read_checkpoint_headers,
)
from ..analysis.estimate_class_and_packed_file_header import ENTROPY, FILE_DTYPES, FORMAT, unfold_structure
from ..analysis.gguf_header import GGUFArray, is_gguf, read_gguf_header
from ..errors import FileError, quoted

_MAX_MEMORY: Final = 4 * 2**30  # a header of 100 MB, the most that is read, takes up to some 2 GB as objects of Python
_MAX_VALUE: Final = 10_000
"""Letters of a metadata value that the page gets; what is longer, such as a chat template, is cut there."""
_PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt", ".pkl")


def checkpoint_table(path: str | os.PathLike[str], root: Path | None = None) -> dict[str, Any]:
    """Return the table of a safetensors file, a sharded checkpoint, a folder of one, a packed model or a GGUF file.

    With `root`, no file outside that folder is told of, such as a shard that is a symbolic link.

    Returns:
        ``title`` and ``format``; ``files``, each with its name and bytes; ``tensors`` as columns (``name``, ``shape``,
        ``dtype``, ``bytes``, and ``file``, an index of ``files``); ``dtypes``, for each how many tensors and
        parameters, and bytes; ``tied``, pairs of a name and that of the tensor it shares; ``metadata``; ``packed``, the
        recipe and the bytes of the sections of a packed model, else None.

    Raises:
        FileError: with a sentence about the path.
    """
    if is_gguf(path):
        header = read_gguf_header(path)
        rows = [(name, t.shape, t.dtype, t.end - t.begin, 0) for name, t in header.tensors.items()]
        return _table(header.path.stem, "gguf", [(header.path.name, header.nbytes)], rows, [], header.metadata)
    try:
        checkpoint = read_checkpoint_headers(path)
    except FileError as error:
        suffix = Path(path).suffix.lower()
        if suffix not in _PICKLES or not Path(path).is_file():
            raise
        raise FileError(
            f"{quoted(Path(path).name)} is not opened, as {suffix} files are pickles, and reading a pickle can run any "
            f"code in it: if you trust it, convert it with safetensors.torch.save_file(torch.load({quoted(path)}, "
            f"weights_only=True), {quoted(Path(path).with_suffix('.safetensors').name)})"
        ) from error
    if root is not None:
        refuse_links_out(checkpoint, root)
    file = checkpoint.files[0]
    if len(checkpoint.files) == 1 and file.metadata.get("format") in (FORMAT, ENTROPY):
        return _packed_table(checkpoint.title, file)
    return _safetensors_table(checkpoint)


def refuse_links_out(checkpoint: CheckpointHeaders, root: Path) -> None:
    """Raise a `FileError` if a file of a checkpoint, such as a shard, lies outside a folder."""
    for file in checkpoint.files:
        if not file.path.resolve().is_relative_to(root):
            raise FileError(f"{quoted(file.path.name)} is a symbolic link that leads out of the folder of this server")


def _safetensors_table(checkpoint: CheckpointHeaders) -> dict[str, Any]:
    rows = [
        (name, tensor.shape, tensor.dtype, tensor.end - tensor.begin, at)
        for at, file in enumerate(checkpoint.files)
        for name, tensor in file.tensors.items()
    ]
    names = {row[0] for row in rows}
    metadata = {key: value for file in checkpoint.files for key, value in file.metadata.items()}
    # safetensors.torch.save_model leaves out all but one of the names of a tensor, and notes the others here
    tied = [(key, value) for key, value in metadata.items() if value in names and key not in names]
    left = {key: value for key, value in metadata.items() if (key, value) not in tied}
    files = [(file.path.name, file.nbytes) for file in checkpoint.files]
    return _table(checkpoint.title, "safetensors", files, rows, tied, left)


def _packed_table(title: str, file: SafetensorsHeader) -> dict[str, Any]:
    """Return the table of a packed model: its tensors with the bytes they take once they are unpacked."""
    rows, tied = [], []
    for item in unfold_structure(file.metadata.get("structure", "")):
        name, shape, dtype = item[:3] if isinstance(item, list) and len(item) >= 4 else ("", None, None)
        if not isinstance(name, str) or not _is_shape(shape) or not isinstance(dtype, str) or dtype not in FILE_DTYPES:
            raise FileError(f"the structure in {quoted(file.path.name)} describes a tensor as {quoted(item)}")
        code = FILE_DTYPES[dtype]
        rows.append((name, tuple(shape), code, math.prod(shape) * DTYPE_BITS[code] // 8, 0))
        for alias in item[4:]:
            other = alias[0] if isinstance(alias, list) and alias else alias
            if isinstance(other, str):  # a layout, too, is a list, but of numbers
                tied.append((other, name))
    table = _table(title, FORMAT, [(file.path.name, file.nbytes)], rows, tied, {})
    sections = {name: section.end - section.begin for name, section in file.tensors.items()}
    table["packed"] = {
        "recipe": file.metadata.get("recipe", ""),
        "entropy": file.metadata["format"] == ENTROPY,
        "sections": sections,
    }
    return table


def _is_shape(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and len(found) <= 64 and all(type(n) is int and 0 <= n < 2**60 for n in found)


def _table(
    title: str,
    kind: str,
    files: list[tuple[str, int]],
    rows: list[tuple[str, tuple[int, ...], str, int, int]],
    tied: list[tuple[str, str]],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    totals: dict[str, list[int]] = {}
    for _, shape, dtype, nbytes, _ in rows:
        total = totals.setdefault(dtype, [0, 0, 0])
        total[0] += 1
        total[1] += math.prod(shape)
        total[2] += nbytes
    return {
        "title": title,
        "format": kind,
        "files": [{"name": name, "bytes": nbytes} for name, nbytes in files],
        "tensors": {
            key: [row[at] for row in rows] for at, key in enumerate(("name", "shape", "dtype", "bytes", "file"))
        },
        "dtypes": [
            dict(zip(("dtype", "tensors", "parameters", "bytes"), (dtype, *total), strict=True))
            for dtype, total in sorted(totals.items(), key=lambda item: -item[1][2])
        ],
        "tied": tied,
        "metadata": {key: _plain(value) for key, value in metadata.items()},
        "packed": None,
    }


def _plain(value: Any) -> Any:
    """Return a metadata value as JSON that a page reads to the digit: no NaN, and large whole numbers as text."""
    if isinstance(value, GGUFArray):
        return {"array": value.dtype, "length": value.length, "first": [_plain(item) for item in value.first]}
    if isinstance(value, str):
        return value if len(value) <= _MAX_VALUE else f"{value[:_MAX_VALUE]} … ({len(value):,} characters)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # JavaScript's JSON.parse makes a double of it, which holds whole numbers exactly up to there.
    if isinstance(value, int) and abs(value) > 2**53:
        return str(value)
    return value


def main(root: str, path: str) -> int:
    """Print the table of a file, given relative to a root folder, or what is wrong with it."""
    os.chdir(root)  # so that messages name the file as the page does
    gc.disable()  # it would look through a header's objects again and again, and all of them are needed to the end
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):
        pass
    try:
        found = checkpoint_table(path, Path.cwd().resolve())
        text = json.dumps(found, separators=(",", ":"), allow_nan=False).encode()
    except FileError as error:
        found, text = {}, _message(str(error))
    except MemoryError:
        found, text = {}, _message(f"the header of {quoted(path)} takes more than {_MAX_MEMORY:,} bytes of memory")
    sys.stdout.buffer.write(text)
    return 0 if found else 1


def _message(text: str) -> bytes:
    return json.dumps({"message": text}).encode()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
