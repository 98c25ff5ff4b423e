"""Checkpoints: after every epoch one safetensors file, whole or not at all, from which a training goes on exactly.

Below stands how a request is told from another, so that no training goes on from the checkpoint of another one:
`fingerprint` makes plain values of functions, datasets and options, which are equal across processes if these are.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..analysis.checkpoint_folders_headers_and_refused_formats import open_plain_file, read_header_text
from ..analysis.estimate_class_and_packed_file_header import FILE_DTYPES
from ..analysis.open_model_tensors_and_channel_axes import dtype_name
from ..analysis.read_tensors_and_serialize_safetensors import SafetensorsFile
from ..errors import FileError, TrainingError, a_type, quoted
from ..files.atomic_write import write_whole
from ..files.plain_and_entropy_encodings import raw_bytes
from .methods_schedule_options_and_progress import TrainingLog, TrainingSpec

FORMAT: Final = "shrinkwidget-checkpoint"
VERSION: Final = 2

# A header begins just so, down to the byte, so that the place of the checksum is known before anything is parsed.
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
            "method": described(spec.method),
            "options": described(spec.options, "checkpoint", "overwrite"),
            "train_data": digest(fingerprint(spec.train_data)),
            "eval_data": digest(fingerprint(spec.eval_data)),
            # Not compared, but told where functions differ: each version compiles the same function otherwise.
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
        # Right after an epoch that was the best so far.
        if log.best is not None and log.best.state is not now:  # else they are these, and would be in it twice
            tensors |= {f"best/{name}": tensor for name, tensor in log.best.state.items()}
        for number, state in optimizer.state_dict()["state"].items() if log.epoch else ():
            for name, value in state.items():
                key = f"optimizer/{number}/{name}"
                if isinstance(value, Tensor):
                    tensors[key] = value.detach().contiguous()
                elif isinstance(value, int | float | bool | None):
                    scalars[key] = value
                else:
                    raise TrainingError(
                        f"{type(optimizer).__name__} remembers {a_type(value)} ({name!r}), which no "
                        f"checkpoint can hold: train without one"
                    )
        text = json.dumps({"log": log.to_dict(), "scalars": scalars, "tensors": sorted(tensors)})
        write_whole(path, _file(tensors, {"asked": json.dumps(self._asked), "log": text}))

    def read(self, path: str | os.PathLike[str]) -> LoadedCheckpoint:
        """Return what a checkpoint of this very training holds.

        Raises:
            FileError: for a file that is missing, damaged, of another version, a pickle, or no checkpoint; or a
                checkpoint of another model, recipe, method, other options or data, naming which.
        """
        try:
            file, header = _opened(path)
            # Everything is read before anything is believed: the checksum covers all of it.
            tensors = {name: file.read(name) for name in file.tensors}
            if file.metadata["crc32"] != f"{_crc(header, map(raw_bytes, tensors.values())):08x}":
                raise FileError("its checksum does not match: the file was damaged or changed after it was written")
            found, asked = _json_object(file.metadata["log"]), _json_object(file.metadata["asked"])
            if differs := self._difference(asked):
                raise FileError(f"it is {differs}: ask for the same again, or start over without resume")
            return self._saved(found, tensors)
        except FileError as error:
            why = str(error).replace(quoted(path), "it", 1)  # which is named once
            raise FileError(f"cannot resume from {quoted(path)}: {why}") from error

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
        cure = "choose another path, or say overwrite=True"
        try:
            file, _ = _opened(path)  # its header alone tells what was asked for
            differs = self._difference(_json_object(file.metadata["asked"]))
        except FileError as error:
            raise FileError(f"the checkpoint would replace {quoted(path)}, which is none ({error}): {cure}") from error
        if differs:
            raise FileError(f"the checkpoint would replace {quoted(path)}, which is {differs}: {cure}")

    def _difference(self, found: Mapping[str, Any]) -> str:
        """Return in words in what the training of a checkpoint differs from this one, nothing if it does not."""
        for part, words in _PARTS.items():
            asked = json.loads(json.dumps(self._asked[part]))  # as it would come back: tuples are lists, and so on
            if (there := found.get(part)) == asked:
                continue
            names = _differing(there, asked)
            other = found.get("python")
            compiled = part in ("method", "options", "train_data", "eval_data") and other != self._asked["python"]
            why = f"; it was written by Python {quoted(other)}, which compiles functions otherwise" if compiled else ""
            named = f" ({', '.join(names)})" if names else ""
            return f"{words}{named}{why}"
        return ""

    def _saved(self, found: dict[str, Any], tensors: dict[str, Tensor]) -> LoadedCheckpoint:
        """Return what a file holds, after a look whether it can be of this training: a CRC does not tell a forger."""
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
    header += b" " * (-len(header) % 8)  # the format aligns its data
    body = [raw_bytes(tensor) for _, tensor in ordered]
    # Filled in last: the checksum has a fixed place and length, so that it does not move what it covers.
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
        age, cure = ("newer", "upgrade shrinkwidget") if int(version) > VERSION else ("older", "start over")
        raise FileError(f"its version is {version}, {age} than {VERSION}: {cure}")
    with open_plain_file(path) as raw:
        header = read_header_text(raw, os.fstat(raw.fileno()).st_size)
    if tuple(about) != _KEYS or not header.startswith(_START):
        raise FileError("its header is not written as shrinkwidget writes it: another program has changed the file")
    return file, header


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
    different = [(name, there.get(name), asked[name]) for name in asked if there.get(name) != asked[name]]
    return [
        f"{name}={was}, not {now}" if all(isinstance(x, int | float | None) for x in (was, now)) else name
        for name, was, now in different
    ]


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


def described(value: Any, *without: str) -> dict[str, Any]:
    """Return what tells one method or one set of options from another, field by field: what is long by its digest."""
    if not is_dataclass(value):  # a method of the user's own
        return {"kind": type(value).__name__, "state": digest(fingerprint(value))}
    found = {f.name: fingerprint(getattr(value, f.name)) for f in fields(value) if f.name not in without}
    kept = {name: v if isinstance(v, str | int | float | None) else digest(v) for name, v in found.items()}
    return {"kind": type(value).__name__} | kept


# How one request is told from another

_WHOLE_BYTES: Final = 1 << 26  # tensors up to this size are compared in full: 64 MB take about 0.1 s
_SAMPLED: Final = 1 << 16  # values of a larger one
_MOST_ITEMS: Final = 64  # entries of a list or dict: a list of a million batches is told apart by few
_MOST_OBJECTS: Final = 20_000  # then the walk ends: a user's object may hold anything, such as all of a program

_HOLDS_MORE: Final = object()

# Code of these is not compared: it changes with their versions, and its names say what it does.
_OTHERS: Final = ("builtins", "torch", "numpy", "abc", "typing", "functools")
_LOADER: Final = ("dataset", "batch_size", "drop_last", "collate_fn", "sampler", "batch_sampler")


def fingerprint(value: Any) -> Any:
    """Return JSON-able values that are equal for equal values: small ones as they are, all else by what it is made of.

    Compared are

    * functions: their code, defaults, what they close over, the arguments of a `functools.partial`, the object of a
      bound method, and the module's functions and plain values that the code names;
    * objects: their class with the code of its methods, and their attributes, those of datasets among them;
    * tensors and arrays: shape, dtype, and content, in full up to 64 MB, beyond that 65,536 values spread over them;
    * lists and dicts: their length, and 64 entries spread over them where there are more; loaders: their dataset,
      batches and sampler; modules: their class, attributes and all of their weights.

    Not compared are: what is read from files, the state of generators of random numbers and of iterators, private
    attributes that are numbers or dicts (counters and caches), compiled functions, of which the name counts, and what
    is left after the first 20,000 objects.
    """
    return _Fingerprint().of(value)


def digest(described: Any) -> str:
    """Return 16 hexadecimal digits of what `fingerprint` returned."""
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def tensors_crc(tensors: Mapping[str, Tensor]) -> int:
    """Return a CRC-32 of all names, shapes, dtypes and bytes."""
    crc = 0
    for name, tensor in tensors.items():
        crc = zlib.crc32(repr((name, _tensor(tensor, whole=True))).encode(), crc)
    return crc


class _Fingerprint:
    """One walk over whatever a value holds; what is met again is told by when it was met first."""

    def __init__(self) -> None:
        self._met: dict[int, tuple[int, Any]] = {}

    def of(self, value: Any) -> Any:
        """Return what tells a value from another."""
        plain = _plain(value)
        if plain is not _HOLDS_MORE:
            return plain
        if id(value) in self._met:
            return ["met", self._met[id(value)][0]]
        if len(self._met) >= _MOST_OBJECTS:
            return "…"
        self._met[id(value)] = len(self._met), value  # which also keeps it alive, and its id its own
        return self._code_of(value) or self._content_of(value)

    def _code_of(self, value: Any) -> Any:
        """Return what tells a function or a class from another, None for anything else."""
        if isinstance(value, partial):
            return ["partial", *map(self.of, (value.func, value.args, value.keywords))]
        if isinstance(value, MethodType):
            return ["method", self.of(value.__func__), self.of(value.__self__)]
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return ["class", *self._class(value)]
        if isinstance(value, BuiltinFunctionType):
            return ["function", value.__module__ or "", value.__qualname__]
        return None

    def _content_of(self, value: Any) -> Any:
        name = _name(type(value))
        if isinstance(value, Mapping):
            return [name, len(value), [[self.of(key), self.of(value[key])] for key in _spread(list(value))]]
        if isinstance(value, Set):
            return [name, len(value), sorted(json.dumps(self.of(item)) for item in value)[:_MOST_ITEMS]]
        if isinstance(value, list | tuple):
            return [name, len(value), [self.of(item) for item in _spread(value)]]
        if isinstance(value, DataLoader):
            return [name, *(self.of(getattr(value, part, None)) for part in _LOADER)]
        if is_dataclass(value):
            return {"kind": name} | {f.name: self.of(getattr(value, f.name)) for f in fields(value)}
        if isinstance(known := getattr(value, "_fingerprint", None), str):
            return [name, known]  # a dataset of Hugging Face: its content has a fingerprint already
        if isinstance(value, nn.Module):
            state = {**dict(value.named_parameters()), **dict(value.named_buffers())}
            inner = {path: self._attributes(module) for path, module in value.named_modules()}
            return [*self._class(type(value)), tensors_crc(state), inner]
        return [*self._class(type(value)), _length(value), self._attributes(value)]

    def _function(self, function: FunctionType) -> Any:
        about = [function.__module__, function.__qualname__]
        if _is_others(function.__module__):
            return about
        cells = []
        for cell in function.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not set yet, such as that of a function that is defined later on
                cells.append(None)
        held = (function.__defaults__, function.__kwdefaults__, cells, _named_in(function))
        return [*about, _code(function.__code__), *map(self.of, held)]

    def _class(self, kind: type) -> list[Any]:
        """Return a class by its name and, unless it is of a library, its methods and plain attributes."""
        own = [base for base in kind.__mro__ if not _is_others(base.__module__)]
        members = [item for base in own for item in sorted(vars(base).items())]
        code = [[name, _code(item.__code__)] for name, item in members if isinstance(item, FunctionType)]
        plain = [[n, self.of(x)] for n, x in members if n[0] != "_" and isinstance(x, int | float | str | tuple)]
        return [_name(kind), digest(code), plain]

    def _attributes(self, value: Any) -> Any:
        records = {name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if type(name) is str}
        held = {name: getattr(value, name) for name in records if hasattr(value, name)} | getattr(value, "__dict__", {})
        return {name: self.of(held[name]) for name in sorted(held) if not _may_change(value, name, held[name])}


def _plain(value: Any) -> Any:
    """Return what tells a value that holds no other from another, `_HOLDS_MORE` for one that does."""
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, Tensor):
        return ["tensor", *_tensor(value)]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return ["array", list(value.shape), str(value.dtype), _array_crc(value)]
    if isinstance(value, np.generic | complex | torch.dtype | torch.device | os.PathLike | range | slice):
        return repr(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return ["bytes", len(value), zlib.crc32(value)]
    if isinstance(value, ModuleType):
        return ["module", value.__name__]
    # numpy imports np.random when it is first asked for: here, not when this module is imported
    if isinstance(value, (random.Random, torch.Generator, np.random.Generator, np.random.RandomState, Iterator)):
        return [_name(type(value))]
    return _HOLDS_MORE


def _may_change(value: Any, name: str, item: Any) -> bool:
    """Tell what a training itself may change: private counters and caches, and whether a module is in training mode."""
    if isinstance(value, nn.Module) and name == "training":
        return True
    return name.startswith("_") and (item is None or isinstance(item, int | float | Mapping))


def _tensor(tensor: Tensor, whole: bool = False) -> list[Any]:
    about = [list(tensor.shape), dtype_name(tensor.dtype)]
    ordinary = type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_quantized
    if not ordinary or tensor.device.type == "meta":
        return [*about, str(tensor.layout), type(tensor).__name__]
    flat = tensor.detach().reshape(-1)
    if not whole and tensor.nbytes > _WHOLE_BYTES:
        flat = flat[torch.linspace(0, len(flat) - 1, _SAMPLED, dtype=torch.float64).long().to(flat.device)]
    return [*about, zlib.crc32(flat.contiguous().cpu().view(torch.uint8).numpy().data)]


def _array_crc(array: np.ndarray[Any, Any]) -> int:
    flat = array.reshape(-1)
    if array.nbytes > _WHOLE_BYTES:
        flat = flat[np.linspace(0, len(flat) - 1, _SAMPLED).astype(np.int64)]
    return zlib.crc32(np.ascontiguousarray(flat).view(np.uint8).data) if flat.size else 0


def _spread(items: Any) -> list[Any]:
    """Return all items, or 64 spread over them."""
    if len(items) <= _MOST_ITEMS:
        return list(items)
    return [items[round(i * (len(items) - 1) / (_MOST_ITEMS - 1))] for i in range(_MOST_ITEMS)]


def _named_in(function: FunctionType) -> dict[str, Any]:
    """Return the functions and plain values of its module that a function names."""
    found = {}
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name)
        plain = isinstance(value, int | float | str | bool | tuple | Tensor | partial)
        if plain or (isinstance(value, FunctionType) and value.__module__ == function.__module__):
            found[name] = value
    return found


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


def _code(code: CodeType) -> list[Any]:
    """Return what a compiled function does, whatever line it stands on; other versions of Python compile otherwise."""

    def constant(value: Any) -> Any:
        if isinstance(value, CodeType):
            return _code(value)
        # A set's order depends on the hash seed of the process.
        return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)

    return [zlib.crc32(code.co_code), list(code.co_names), [constant(value) for value in code.co_consts]]


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:  # noqa: BLE001  # of the user's own class, or none
        return None


def _is_others(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _OTHERS


def _name(kind: type) -> str:
    """Return a class's full name; of one of ours without its module: moving a file must not end every training."""
    own = __name__.partition(".")[0]
    module = own if kind.__module__.partition(".")[0] == own else kind.__module__
    return f"{module}.{kind.__qualname__}"
