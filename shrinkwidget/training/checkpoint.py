"""Checkpoints: after every epoch one safetensors file, whole or not at all, from which a training goes on exactly."""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import Optimizer

from ..analysis.model_tensors import dtype_name
from ..analysis.safetensors_checkpoint import FILE_DTYPES, SafetensorsFile, open_plain_file, read_header_text
from ..errors import FileError, TrainingError, quoted
from ..files.atomic_write import write_whole
from ..files.encodings import raw_bytes
from .input_validation import TrainingSpec
from .progress import TrainingLog
from .resume_fingerprint import digest, fingerprint, tensors_crc

FORMAT: Final = "shrinkwidget-checkpoint"
VERSION: Final = 2
_START: Final = f'{{"__metadata__":{{"format":"{FORMAT}","version":"{VERSION}","crc32":"'.encode()
_KEYS: Final = ("format", "version", "crc32", "asked", "log")
_PARTS: Final = {
    "model": "of another model (its class, or the names, shapes or dtypes of its tensors)",
    "weights": "of a training that began with other weights",
    "recipes": "of another recipe, or another number of rounds",
    "method": "of another method",
    "options": "of a training with other options",
    "train_data": "of a training on other data",
    "eval_data": "of a training that was evaluated on other data",
}


@dataclass(frozen=True, slots=True, eq=False)
class LoadedCheckpoint:
    """What a checkpoint holds: the weights as they are trained, what the optimizer remembers, and the log."""

    now: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    log: TrainingLog


class Checkpoint:
    """The checkpoint file of one training: `original` is a copy of the model it begins with.

    The file is one of safetensors with a header of our own: its metadata begin with a CRC-32 of the whole file, header
    and all, computed with eight zeros in its place.
    """

    def __init__(self, spec: TrainingSpec, original: nn.Module) -> None:
        self._job = spec
        self._shapes = {name: (tuple(t.shape), t.dtype) for name, t in _named(original)}
        self._asked = {
            "model": [type(original).__name__, *([n, list(t.shape), dtype_name(t.dtype)] for n, t in _named(original))],
            "weights": tensors_crc(dict(_named(original))),
            "recipes": [recipe.to_json() for recipe in spec.recipes],
            "method": _described(spec.method),
            "options": _described(spec.options, "checkpoint", "overwrite"),
            "train_data": digest(fingerprint(spec.train_data)),
            "eval_data": digest(fingerprint(spec.eval_data)),
            "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        }

    def write(
        self, path: str | os.PathLike[str], now: Mapping[str, Tensor], optimizer: Optimizer, log: TrainingLog
    ) -> None:
        """Write where a training is; `now` are its weights. At a round's end there is no optimizer to go on with.

        Raises:
            FileError: if the file cannot be written; the one that was there is unchanged.
            TrainingError: if the optimizer remembers something that no file can hold.
        """
        tensors = {f"now/{name}": tensor for name, tensor in now.items()}
        scalars: dict[str, Any] = {}
        if log.best is not None and log.best.state is not now:
            tensors |= {f"best/{name}": tensor for name, tensor in log.best.state.items()}
        for name, value in _remembered(optimizer) if log.epoch else ():
            (tensors if isinstance(value, Tensor) else scalars)[f"optimizer/{name}"] = value
        text = json.dumps({"log": log.to_dict(), "scalars": scalars, "tensors": sorted(tensors)})
        write_whole(path, _file(tensors, {"asked": json.dumps(self._asked), "log": text}))

    def read(self, path: str | os.PathLike[str]) -> LoadedCheckpoint:
        """Return what a checkpoint of this very training holds.

        Raises:
            FileError: for a file that is missing, damaged, of another version, a pickle, or no checkpoint; or a
                checkpoint of another model, recipe, method, other options or data, naming which.
        """
        try:
            asked, text, tensors = _contents(path)
            if differs := self._difference(asked):
                raise FileError(f"it is {differs}: ask for the same again, or begin anew without resume")
            return self._saved(text, tensors)
        except FileError as error:
            raise FileError(f"cannot resume from {quoted(path)}: {error}") from error

    def refuse_to_replace(self, path: str | os.PathLike[str]) -> None:
        """Refuse to write over what is not an earlier checkpoint of this very training, before its first step.

        Raises:
            FileError: for such a file, or a folder that is not there.
        """
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise FileError(f"cannot write the checkpoint {quoted(path)}: there is no folder {quoted(target.parent)}")
        if not target.exists():
            return
        cure = "choose another path, or say TrainingOptions(overwrite=True)"
        try:
            differs = self._difference(_asked_in(path))
        except FileError as error:
            raise FileError(f"the checkpoint would replace {quoted(path)}, which is none ({error}): {cure}") from error
        if differs:
            raise FileError(f"the checkpoint would replace {quoted(path)}, which is {differs}: {cure}")

    def _difference(self, found: Mapping[str, Any]) -> str:
        """Return in words in what the training of a checkpoint differs from this one, nothing if it does not."""
        for part, words in _PARTS.items():
            asked = json.loads(json.dumps(self._asked[part]))
            if (there := found.get(part)) == asked:
                continue
            names = _differing(there, asked)
            other = found.get("python")
            compiled = part in ("method", "options", "train_data", "eval_data") and other != self._asked["python"]
            why = f"; it was written by Python {quoted(other)}, which compiles functions otherwise" if compiled else ""
            named = f" ({', '.join(names)})" if names else ""
            return f"{words}{named}{why}"
        return ""

    def _saved(self, text: str, tensors: dict[str, Tensor]) -> LoadedCheckpoint:
        """Return what a file holds, after a look whether it can be of this training: a CRC does not tell a forger."""
        found = json.loads(text)
        if set(found) != {"log", "scalars", "tensors"} or not isinstance(found["scalars"], dict):
            raise FileError("it holds no log of a training")
        if found["tensors"] != sorted(tensors):
            raise FileError("its tensors are not those that its log lists")
        now, best = _under("now/", tensors), _under("best/", tensors)
        optimizer = _by_parameter(_under("optimizer/", tensors | found["scalars"]))
        if len(now) + len(best) + len(_under("optimizer/", tensors)) != len(tensors):
            raise FileError("it holds tensors that belong to no part of a training")
        self._refuse_other_tensors(now)
        log = TrainingLog.from_dict(found["log"], best or now, len(self._job.recipes), self._job.stage.epochs)
        if best:
            self._refuse_other_tensors(best)
        if (best and log.best is None) or (optimizer and not log.epoch):
            raise FileError("it holds tensors for which its log has no use")
        return LoadedCheckpoint(now, optimizer, log)

    def _refuse_other_tensors(self, found: Mapping[str, Tensor]) -> None:
        there = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in found.items()}
        if there != self._shapes:
            names = [name for name in {**self._shapes, **there} if there.get(name) != self._shapes.get(name)]
            raise FileError(f"its weights are not those of the model, such as {quoted(names[0])}")


def _file(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> list[Any]:
    """Return the parts of a file: the length of its header, the header, the tensors, the widest dtypes first."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    entries, at = [], 0
    for name, tensor in ordered:
        code = FILE_DTYPES.get(dtype_name(tensor.dtype))
        if code is None:
            raise TrainingError(f"no checkpoint can hold {name!r} as {dtype_name(tensor.dtype)}: train without one")
        end = at + tensor.nbytes
        entry = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [at, end]}
        entries.append(f"{json.dumps(name)}:{json.dumps(entry)}")
        at = end
    rest = f'",{json.dumps(dict(about))[1:]}' + "".join(f",{entry}" for entry in entries) + "}"
    header = bytearray(_START + b"00000000" + rest.encode())
    header += b" " * (-len(header) % 8)
    body = [raw_bytes(tensor) for _, tensor in ordered]
    header[len(_START) : len(_START) + 8] = f"{_crc(header, body):08x}".encode()
    return [len(header).to_bytes(8, "little"), bytes(header), *body]


def _crc(header: bytes | bytearray, body: Any) -> int:
    """Return the CRC-32 of a file, computed with zeros in its own place."""
    crc = zlib.crc32(_START + b"00000000" + header[len(_START) + 8 :])
    for piece in body:
        crc = zlib.crc32(piece, crc)
    return crc


def _opened(path: str | os.PathLike[str]) -> tuple[SafetensorsFile, bytes]:
    """Open a checkpoint of this version and return it with the bytes of its header."""
    file = SafetensorsFile(path)
    about = file.metadata
    if about.get("format") != FORMAT:
        raise FileError("it is a safetensors file, but no checkpoint of a training")
    if not re.fullmatch("[1-9][0-9]{0,8}", version := about.get("version", "")):
        raise FileError(f"its version is {quoted(version)}; expected {VERSION}")
    if int(version) != VERSION:
        age, cure = ("newer", "upgrade shrinkwidget") if int(version) > VERSION else ("older", "begin anew")
        raise FileError(f"its version is {version}, {age} than {VERSION}: {cure}")
    with open_plain_file(path) as raw:
        header = read_header_text(raw, os.fstat(raw.fileno()).st_size)
    if tuple(about) != _KEYS or not header.startswith(_START):
        raise FileError("its header is not written as shrinkwidget writes it: another program has changed the file")
    return file, header


def _asked_in(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what the training of a checkpoint was asked for, by its header alone."""
    file, _ = _opened(path)
    return _json_object(file.metadata["asked"])


def _contents(path: str | os.PathLike[str]) -> tuple[dict[str, Any], str, dict[str, Tensor]]:
    file, header = _opened(path)
    tensors = {name: file.read(name) for name in file.tensors}
    if file.metadata["crc32"] != f"{_crc(header, map(raw_bytes, tensors.values())):08x}":
        raise FileError("its checksum does not match: the file was damaged or changed after it was written")
    _json_object(file.metadata["log"])
    return _json_object(file.metadata["asked"]), file.metadata["log"], tensors


def _json_object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileError(f"its header holds a text that is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise FileError("its header holds a text that is no JSON object")
    return found


def _differing(there: Any, asked: Any) -> list[str]:
    """Return which fields of a method or of options differ, with their values where these are short."""
    if not isinstance(there, dict) or not isinstance(asked, dict):
        return []
    if there.get("kind") != asked.get("kind"):
        return [f"{quoted(there.get('kind'))}, not {quoted(asked.get('kind'))}"]
    names = [name for name in asked if there.get(name) != asked[name]]
    return [_told(name, there.get(name), asked[name]) for name in names]


def _told(name: str, there: Any, asked: Any) -> str:
    short = all(isinstance(value, int | float | None) for value in (there, asked))
    return f"{name}={there}, not {asked}" if short else name


def _remembered(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """Yield everything an optimizer remembers, by the number of the parameter and a name."""
    for number, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if not isinstance(value, Tensor | int | float | bool | None):
                raise TrainingError(
                    f"{type(optimizer).__name__} remembers a {type(value).__name__} ({name!r}), which no checkpoint "
                    f"can hold: train without one"
                )
            yield f"{number}/{name}", value.detach().contiguous() if isinstance(value, Tensor) else value


def _by_parameter(flat: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for key, value in flat.items():
        number, _, name = key.partition("/")
        if not re.fullmatch("[0-9]{1,9}", number) or not isinstance(value, Tensor | int | float | bool | None):
            raise FileError(f"it holds {quoted(key)} as the memory of an optimizer, which no parameter has")
        found.setdefault(int(number), {})[name] = value
    return found


def _under(prefix: str, items: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): item for name, item in items.items() if name.startswith(prefix)}


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _described(value: Any, *without: str) -> dict[str, Any]:
    """Return what tells one method or one set of options from another, field by field: what is long by its digest."""
    if not is_dataclass(value):  # a method of the user's own
        return {"kind": type(value).__name__, "state": digest(fingerprint(value))}
    found = {f.name: fingerprint(getattr(value, f.name)) for f in fields(value) if f.name not in without}
    kept = {name: v if isinstance(v, str | int | float | None) else digest(v) for name, v in found.items()}
    return {"kind": type(value).__name__} | kept
