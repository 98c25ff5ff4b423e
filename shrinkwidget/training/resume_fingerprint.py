"""Tell one function, dataset or option from another, across processes: plain values that are equal if they are."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..analysis.model_tensors import dtype_name

_WHOLE_BYTES: Final = 1 << 26
_SAMPLED: Final = 1 << 16
_MOST_ITEMS: Final = 64
_MOST_OBJECTS: Final = 20_000
_HOLDS_MORE: Final = object()
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
        cells = [cell.cell_contents if _is_set(cell) else None for cell in function.__closure__ or ()]
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
    constants = [_code(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    return [zlib.crc32(code.co_code), list(code.co_names), constants]


def _constant(value: Any) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)


def _is_set(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except Exception:  # noqa: BLE001  # of the user's own class, or none
        return None


def _is_others(module: str | None) -> bool:
    return (module or "builtins").partition(".")[0] in _OTHERS


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
