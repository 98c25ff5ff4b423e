"""Checkpoints: after every epoch one safetensors file, whole or not at all, from which a training goes on exactly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import FileError, TrainingError
from ..files.header import file_crc
from ..files.packed import raw_bytes
from ..files.write import write_whole
from ..measure.file_kinds import open_plain_file, refuse_other_formats
from ..measure.layers import dtype_name
from .job import Job
from .log import Log

FORMAT: Final = "shrinkwidget-checkpoint"
VERSION: Final = 1
_PARTS: Final = {
    "model": "of another model (its class, or the names, shapes or dtypes of its tensors)",
    "weights": "of a training that began with other weights",
    "recipes": "of another recipe, or another number of rounds",
    "method": "of another method",
    "options": "of a training with other options",
}


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """What a checkpoint holds: the weights as they are trained, what the optimizer remembers, and the log."""

    now: dict[str, Tensor]
    optimizer: dict[int, dict[str, Any]]
    log: Log


class Checkpoint:
    """The checkpoint file of one training: `original` is a copy of the model it begins with."""

    def __init__(self, job: Job, original: nn.Module) -> None:
        self._asked = {
            "model": [type(original).__name__, *([n, list(t.shape), dtype_name(t.dtype)] for n, t in _named(original))],
            "weights": _crc(dict(_named(original))),
            "recipes": [recipe.to_json() for recipe in job.recipes],
            "method": _described(job.method),
            "options": {name: value for name, value in _described(job.options).items() if name != "checkpoint"},
        }

    def write(self, path: str | os.PathLike[str], now: Mapping[str, Tensor], optimizer: Optimizer, log: Log) -> None:
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
        asked, log_text = json.dumps(self._asked), json.dumps({"log": log.to_dict(), "scalars": scalars})
        about = {"format": FORMAT, "version": str(VERSION), "asked": asked, "log": log_text}
        write_whole(path, [save(tensors, about | {"crc32": _file_crc(about, tensors)})])

    def read(self, path: str | os.PathLike[str]) -> Saved:
        """Return what a checkpoint of this very training holds.

        Raises:
            FileError: for a file that is missing, damaged, newer than this version, a pickle, or no checkpoint; or a
                checkpoint of another model, recipe, method, or other options, naming which.
        """
        try:
            about, tensors = _contents(Path(path))
            self._compare(json.loads(about["asked"]))
        except FileError as error:
            raise FileError(f"cannot resume from {str(path)!r}: {error}") from error
        found = json.loads(about["log"])
        now = _under("now/", tensors)
        log = Log.from_dict(found["log"], _under("best/", tensors) or now)
        return Saved(now, _by_parameter(_under("optimizer/", tensors | found["scalars"])), log)

    def _compare(self, found: dict[str, Any]) -> None:
        for part, words in _PARTS.items():
            if found.get(part) != json.loads(json.dumps(self._asked[part])):
                raise FileError(f"it is {words}: ask for the same again, or begin anew without resume")


def _contents(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with open_plain_file(path) as found:
        refuse_other_formats(path, found)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise FileError("it is a safetensors file, but no checkpoint of a training")
            if int(about.get("version", 0)) > VERSION:
                raise FileError(f"its version is {about['version']}, newer than {VERSION}: upgrade shrinkwidget")
            tensors = {name: file.get_tensor(name).clone() for name in file.offset_keys()}
    except (SafetensorError, OSError) as error:
        raise FileError(f"it is damaged, or not a safetensors file ({error})") from error
    if about.get("crc32") != _file_crc(about, tensors):
        raise FileError("its checksum does not match: the file was damaged or changed after it was written")
    return about, tensors


def _file_crc(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    return f"{file_crc(about['asked'], about['log'], *(raw_bytes(tensors[name]) for name in sorted(tensors))):08x}"


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
        found.setdefault(int(number), {})[name] = value
    return found


def _under(prefix: str, items: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(prefix): item for name, item in items.items() if name.startswith(prefix)}


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _crc(tensors: Mapping[str, Tensor]) -> int:
    return file_crc("", "", *(raw_bytes(tensor) for tensor in tensors.values()))


def _described(value: Any) -> Any:
    """Return plain JSON-able values that tell one method or option from another: functions by name, weights by sum."""
    if is_dataclass(value):
        kind = type(value).__name__
        return {"kind": kind} | {f.name: _described(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, nn.Module):
        return [type(value).__name__, _crc(dict(_named(value)))]
    if isinstance(value, Mapping):
        return _crc(value)
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, tuple):
        return [_described(part) for part in value]
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
