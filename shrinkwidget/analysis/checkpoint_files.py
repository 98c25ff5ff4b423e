"""A checkpoint on disk: one `.safetensors` file, the index of a sharded one, or the folder that holds either."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Final

from .. import strict_json
from ..errors import FileError, quoted
from .file_type_detection import checked_path, open_plain_file
from .safetensors_file import SafetensorsFile, read_exactly

INDEX: Final = ".safetensors.index.json"
_PACKED: Final = ("shrinkwidget", "shrinkwidget-z")
_MAX_INDEX: Final = 100_000_000
_MAX_SHARDS: Final = 10_000
_SOME: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class CheckpointFiles:
    """The safetensors files of one checkpoint, in the order of their names; `title` is how the model is called."""

    title: str
    files: tuple[SafetensorsFile, ...]


def open_checkpoint(path: str | os.PathLike[str]) -> CheckpointFiles:
    """Open a checkpoint, reading the headers of its files and no weight.

    A folder is opened by its ``model.safetensors``, its one ``….safetensors.index.json``, or its one safetensors file.
    An index and its shards must agree: each tensor it names lies in the shard it says, and in no other.

    Raises:
        FileError: for a path with no checkpoint, or several; a file in another format, damaged, or missing; a packed
            model of this project, which `load` reads.
    """
    found = checked_path(path)
    title = found.name
    if _is_folder(found):
        title = found.resolve().name
        found = _in_folder(found)
    elif title.endswith(INDEX):
        title = title.removesuffix(INDEX)
    else:
        title = found.stem
    files = _shards(found) if found.name.endswith(".json") else (SafetensorsFile(found),)
    for file in files:
        if file.metadata.get("format") in _PACKED:
            raise FileError(f"{quoted(file.path)} is a packed model of shrinkwidget: read it with shrinkwidget.load")
    return CheckpointFiles(title.encode(errors="replace").decode(), files)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # what is wrong is told when it is opened
        return False


def _in_folder(folder: Path) -> Path:
    """Return the one file in a folder that leads to its checkpoint."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise FileError(f"cannot read the folder {quoted(folder)}: {error.strerror or error}") from error
    whole = [name for name in names if name.endswith(".safetensors")]
    indices = [name for name in names if name.endswith(INDEX)]
    usual = [name for name in whole if name == "model.safetensors"]
    candidates = usual + indices or whole
    if len(candidates) == 1:
        return folder / candidates[0]
    if candidates:
        raise FileError(f"the folder {quoted(folder)} holds several models, {_some(candidates)}: give the path of one")
    found = f"; it holds {_some(names)}" if names else "; it is empty"
    raise FileError(f"the folder {quoted(folder)} holds no .safetensors file{found}")


def _some(names: list[str]) -> str:
    return ", ".join(map(quoted, names[:_SOME])) + (f" and {len(names) - _SOME:,} more" if len(names) > _SOME else "")


def _shards(index: Path) -> tuple[SafetensorsFile, ...]:
    """Return the files an index names, in the order of their names."""
    weight_map = _weight_map(index)
    named: dict[str, set[str]] = {}
    for tensor, shard in weight_map.items():
        named.setdefault(shard, set()).add(tensor)
    if len(named) > _MAX_SHARDS:
        raise FileError(f"{quoted(index)} names {len(named):,} files; a checkpoint has at most {_MAX_SHARDS:,}")
    for shard in named:
        _refuse_path_outside(index, shard)
    files = {}
    for shard in sorted(named):
        try:
            files[shard] = SafetensorsFile(index.parent / shard)
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


def _refuse_path_outside(index: Path, shard: str) -> None:
    """Refuse a name that leads anywhere but into the index's own folder: an index is downloaded, and not trusted."""
    path = PureWindowsPath(shard)  # takes both / and \\ for separators, and knows drives
    if not path.name or path.anchor or ".." in path.parts or "\\" in shard or not shard.isprintable():
        raise FileError(f"{quoted(index)} names the file {quoted(shard)}, which is not in its own folder")


def _refuse_disagreement(index: Path, weight_map: dict[str, str], files: dict[str, SafetensorsFile]) -> None:
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
