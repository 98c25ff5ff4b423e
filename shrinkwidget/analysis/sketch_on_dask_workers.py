"""Sketch a checkpoint on the workers of a Dask cluster, tensor by tensor: the very sketch that one process makes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from torch import nn

from ..errors import FileError, ModelError, a_type, quoted
from .open_model_tensors_and_channel_axes import ModelTensors, Source, Stated, TensorEntry, open_model
from .run_items_on_dask_workers import Shared, WorkerDied, connected, each_on_workers, require_dask
from .sketch import LayerSketch, Sketch, assembled, sketch_layer
from .tensor_ops_threads_and_cpu_kernel import Watch, check

_TOGETHER: Final = 32_000_000
"""Bytes of neighbouring tensors that are one task: as long as reading them takes, Dask's 5 ms do not count."""


def sketch_on_workers(source: Source, layout: Stated, client: object) -> Sketch:
    """Return the sketch of a checkpoint on disk, which every worker reads for itself, at the same path.

    Args:
        source: the path of a checkpoint, as ``sw.sketch`` takes it.
        layout: see ``sw.sketch``.
        client: a `distributed.Client`, or ``"local"``.

    Raises:
        ModelError: for what is no path, and as ``sw.sketch`` does.
        FileError: if the checkpoint cannot be read, here or by a worker, or a worker finds another one there.
        ShrinkError: as `connected` and `each_on_workers` do.
    """
    if not isinstance(source, str | os.PathLike):
        what = "a module" if isinstance(source, nn.Module) else a_type(source)
        raise ModelError(
            f"sketch(client=…) has workers read a checkpoint, and this is {what}: give its path, or no client"
        )
    require_dask("sketch")
    weights = open_model(source, layout=layout)
    groups = _neighbours(weights.layers)
    shared = Shared.of(_Opened, {"path": str(Path(source).absolute()), "layout": layout})
    found: dict[str, LayerSketch] = {}
    with (
        connected(client, "sketch") as connection,
        closing(
            each_on_workers(connection, _sketch_group, shared, [[_told(entry) for entry in group] for group in groups])
        ) as done,
    ):
        for _, layers in done:
            if isinstance(layers, WorkerDied):
                raise layers
            found |= {layer.name: layer for layer in layers}
    return assembled(weights, tuple(found[entry.name] for entry in weights.layers))


def _neighbours(entries: Sequence[TensorEntry]) -> list[list[TensorEntry]]:
    """Return the tensors in order, small ones together."""
    groups: list[list[TensorEntry]] = []
    room = 0
    for entry in entries:
        if entry.nbytes > room:
            groups.append([])
            room = _TOGETHER
        groups[-1].append(entry)
        room -= entry.nbytes
    return groups


_Told = tuple[str, tuple[int, ...], str]


def _told(entry: TensorEntry) -> _Told:
    return entry.name, entry.shape, str(entry.dtype)


class _Opened:
    """The checkpoint as a worker finds it: its headers are read once."""

    def __init__(self, path: str, layout: Stated) -> None:
        self.path = path
        self.weights: ModelTensors = open_model(path, layout=layout)
        self.entries = {entry.name: entry for entry in self.weights.layers}


def _sketch_group(opened: _Opened, group: list[_Told], cancelled: Watch) -> list[LayerSketch]:
    found = []
    for told in group:
        check(cancelled)
        entry = opened.entries.get(told[0])
        if entry is None or _told(entry) != told:
            raise FileError(
                f"a worker finds another checkpoint at {quoted(opened.path)}, in which {quoted(told[0])} is missing or "
                f"has another shape: put the same one where every worker reads it"
            )
        found.append(sketch_layer(entry))
    return found
