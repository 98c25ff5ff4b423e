"""Tell whether a model is still the one that was looked at: a checksum of every weight and buffer, in milliseconds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ShrinkError, quoted
from .open_model_tensors_and_channel_axes import Source, dtype_name, open_model
from .tensor_ops_threads_and_cpu_kernel import checksum


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


def _state(path: Path) -> tuple[int, ...]:
    """Return what the system says of a file: a new one differs, one touched as well. Of a folder, which one it is."""
    found = os.stat(path)  # noqa: PTH116  # of a link, what it leads to
    return found.st_dev, found.st_ino, 0 if path.is_dir() else found.st_size, 0 if path.is_dir() else found.st_mtime_ns
