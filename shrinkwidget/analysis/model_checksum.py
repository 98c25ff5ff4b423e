"""Tell whether a model is still the one that was looked at: a checksum of every weight and buffer, in milliseconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import ShrinkError, quoted
from .model_tensors import Source, dtype_name, open_model

_WITH_SIGNED_ZERO: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SMALL: Final = 1 << 18
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
            return cls({e.name: (e.shape, dtype_name(e.dtype), checksum(e.load())) for e in entries}, {})
        path = Path(source)
        folder = path if path.is_dir() else path.parent
        shards = sorted(folder.glob("*.safetensors*")) if path.is_dir() or path.suffix == ".json" else []
        return cls({}, {str(file): _state(file) for file in (path, *shards)})

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
        how = ""
        if names[0] in self.tensors and names[0] in now.tensors:
            was, now_is = (
                f"{'×'.join(map(str, shape))} {dtype}"
                for shape, dtype, _ in (self.tensors[names[0]], now.tensors[names[0]])
            )
            how = f" (it was {was}, and is {now_is})" if was != now_is else ""
        return f"the model has changed since it was looked at: {quoted(names[0])}{more}{how}"


@torch.no_grad()
def model_checksum(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that tell a model by its weights and buffers, the same in every process.

    It takes 25 ms for 25 million weights. "" for a model with a tensor that has no bytes of its own, such as a
    quantized one, or none yet.
    """
    told = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda named: named[0]):
        # A pruned weight is -0 while a mask is multiplied in, and 0 in the file: the same weight.
        unsigned = tensor + 0.0 if tensor.dtype in _WITH_SIGNED_ZERO else tensor
        if (raw := _bytes_of(unsigned)) is None:
            return ""
        told.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        # SHA-256 reads a small tensor in less time than the calls take that multiply its words
        told.update(raw.cpu().numpy().tobytes() if len(raw) <= _SMALL else str(_checksum(raw)).encode())
    return told.hexdigest()[:16]


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return 64 bits that depend on every bit of a tensor and its place.

    Eight bytes at a time are one word; each is multiplied by an odd number of its place, and all are added, modulo
    2⁶⁴. So any change of one word changes the sum, and others do except in one case in 2⁶⁴. For a tensor that has no
    bytes of its own (a quantized or wrapped one) its counter of changes stands.
    """
    raw = _bytes_of(tensor)
    return hash((id(tensor), tensor._version)) if raw is None else _checksum(raw)


@torch.no_grad()
def _bytes_of(tensor: Tensor) -> Tensor | None:
    """Return a tensor's bytes, None for one that has none of its own."""
    try:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        return raw if raw.device.type in ("cpu", "cuda") else raw.cpu()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


@torch.no_grad()
def _checksum(raw: Tensor) -> int:
    """Return the checksum of bytes."""
    # A sum of words would miss those that change places, so each has a factor. The factors repeat after a block, whose
    # sum therefore has one of its own; being odd, all can be undone modulo 2**64, and no change is multiplied away.
    whole = len(raw) // 8 * 8
    words = raw[:whole]
    # A tensor may begin anywhere in a larger buffer, such as a file that was mapped.
    if words.storage_offset() % 8 or words.data_ptr() % 8:  # int64 has to lie at a multiple of 8
        words = words.clone()
    factors = _factors(str(raw.device))
    product, total = torch.empty_like(factors), 0
    for number, piece in enumerate(torch.split(words.view(torch.int64), _WORDS)):
        part = torch.mul(piece, factors[: len(piece)], out=product[: len(piece)])
        # torch's int64 wraps around, which is arithmetic modulo 2⁶⁴; Python's integers are cut to it at the end.
        total += int(part.sum()) * (2 * number + 1)
    tail = int.from_bytes(bytes(raw[whole:].tolist()), "little")
    return (total * 31 + tail) & 0xFFFF_FFFF_FFFF_FFFF


@cache
def _factors(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(-(1 << 62), 1 << 62, (_WORDS,), generator=generator) * 2 + 1).to(device)


def _state(path: Path) -> tuple[int, ...]:
    """Return what the system says of a file: a new one differs, one touched as well. Of a folder, which one it is."""
    found = os.stat(path)  # noqa: PTH116  # of a link, what it leads to
    return found.st_dev, found.st_ino, 0 if path.is_dir() else found.st_size, 0 if path.is_dir() else found.st_mtime_ns
