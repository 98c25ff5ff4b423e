"""Tell whether a model is still the one that was looked at: a checksum of every weight and buffer, in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import ShrinkError, quoted
from .model_tensors import Source, TensorEntry, dtype_name, open_model

_WORDS: Final = 1 << 15  # of 8 bytes, in a CPU's cache together with what they are multiplied by


@dataclass(frozen=True, slots=True, eq=False)
class ModelChecksum:
    """What a model was when it was looked at: `of` a source, compared later by `difference`."""

    tensors: Mapping[str, Any]
    files: Mapping[str, Any]

    @classmethod
    def of(cls, source: Source) -> ModelChecksum:
        """Look at every tensor of a module or a state dict, or at the state of a file; raises as `open_model`."""
        if isinstance(source, nn.Module | Mapping):
            entries = open_model(source, only_to_look=True).entries
            return cls({entry.name: _about(entry) for entry in entries}, {})
        return cls({}, _states(Path(source)))

    def difference(self, source: Source) -> str:
        """Return in a sentence what has changed since, nothing if nothing has.

        A counter of changes (`Tensor._version`) would be quicker, but what is written through ``.data`` does not count.
        """
        try:
            now = ModelChecksum.of(source)
        except (ShrinkError, OSError) as error:
            return f"the model can no longer be read ({error})"
        files = [name for name in {**self.files, **now.files} if self.files.get(name) != now.files.get(name)]
        if files:
            return f"the file {quoted(files[0])} has changed since it was looked at"
        names = [name for name in {**self.tensors, **now.tensors} if self.tensors.get(name) != now.tensors.get(name)]
        if not names:
            return ""
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        before, after = (about and about[:2] for about in (self.tensors.get(names[0]), now.tensors.get(names[0])))
        how = (
            "" if before == after or not before or not after else f" (it was {_shown(before)}, and is {_shown(after)})"
        )
        return f"the model has changed since it was looked at: {quoted(names[0])}{more}{how}"


def _shown(about: tuple[Any, ...]) -> str:
    return f"{'×'.join(map(str, about[0]))} {about[1]}"


def _about(entry: TensorEntry) -> tuple[Any, ...]:
    return tuple(entry.shape), dtype_name(entry.dtype), checksum(entry.load())


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return 64 bits that depend on every bit of a tensor and its place.

    Eight bytes at a time are one word; each is multiplied by an odd number of its place, and all are added, modulo
    2⁶⁴. So any change of one word changes the sum, and others do except in one case in 2⁶⁴. For a tensor that has no
    bytes of its own (a quantized or wrapped one) its counter of changes stands.
    """
    try:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    except (RuntimeError, NotImplementedError, TypeError):
        return hash((id(tensor), tensor._version))
    if raw.device.type not in ("cpu", "cuda"):
        raw = raw.cpu()
    whole = len(raw) // 8 * 8
    words = raw[:whole]
    if words.storage_offset() % 8 or words.data_ptr() % 8:
        words = words.clone()
    factors = _factors(str(raw.device))
    product, total = torch.empty_like(factors), 0
    for number, piece in enumerate(torch.split(words.view(torch.int64), _WORDS)):
        part = torch.mul(piece, factors[: len(piece)], out=product[: len(piece)])
        total += int(part.sum()) * (2 * number + 1)
    tail = int.from_bytes(bytes(raw[whole:].tolist()), "little")
    return (total * 31 + tail) & 0xFFFF_FFFF_FFFF_FFFF


@cache
def _factors(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(-(1 << 62), 1 << 62, (_WORDS,), generator=generator) * 2 + 1).to(device)


def _states(path: Path) -> dict[str, Any]:
    """Return which files a path leads to, and what the system says of each: a new file differs, one touched as well."""
    folder = path if path.is_dir() else path.parent
    shards = sorted(folder.glob("*.safetensors*")) if path.is_dir() or path.suffix == ".json" else []
    return {str(file): _state(file) for file in (path, *shards)}


def _state(path: Path) -> tuple[int, ...]:
    found = os.stat(path)  # noqa: PTH116  # of a link, what it leads to
    return found.st_dev, found.st_ino, 0 if path.is_dir() else found.st_size, 0 if path.is_dir() else found.st_mtime_ns
