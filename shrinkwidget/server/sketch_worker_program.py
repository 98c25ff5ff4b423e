"""Looks at the weights of one checkpoint for one page: ``python -P -m …sketch_worker_program ROOT CACHE MEMORY PATH``.

With another checkpoint after PATH it compares the two instead. A process of its own, which ends with the page's tab:
whatever a file costs, it costs this process and not Jupyter's server. On its output are frames: 4 bytes of length, 1 of
kind (`TEXT`: JSON, `LAYER`: the sketch of one layer as `Sketch.encode` writes it), and the content. On its input are
lines of JSON, see `_follow`; at its end the process ends.

It answers from the cache at once, and else says ``{"state": "ready"}`` and waits for a line before it loads torch, so
that only a few processes at a time take memory and cores.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from .. import __version__
from ..analysis.checkpoint_folders_headers_and_refused_formats import read_checkpoint_headers
from ..analysis.estimate_class_and_packed_file_header import FILE_DTYPES
from ..analysis.gguf_header import is_gguf, read_gguf_header
from ..errors import FileError, ModelError, ShrinkError, quoted
from . import sketch_cache
from .checkpoint_table import refuse_links_out

if TYPE_CHECKING:
    from ..analysis.compare_checkpoints import TensorChange
    from ..analysis.open_model_tensors_and_channel_axes import TensorEntry

TEXT: Final = 0
LAYER: Final = 1
_IN_FLIGHT: Final = 128 * 2**20
"""Bytes of layers looked at together, unless a single one is larger."""
_MAX_LAYERS: Final = 20_000  # some 20 kB each in the page's memory
_THREADS: Final = 4
_LIMIT: Final = "the limit of your settings or of the server"


class Frames:
    """The process's output."""

    def __init__(self, file: BinaryIO, root: str) -> None:
        self._file = file
        self._root = root
        self.entry: sketch_cache.Entry | None = None

    def send(self, kind: int, content: bytes) -> None:
        """Write a frame, also to the cache's entry once there is one."""
        frame = len(content).to_bytes(4, "little") + bytes([kind]) + content
        if self.entry is not None:
            self.entry.write(frame)
        self.copy(frame)

    def say(self, **message: Any) -> None:
        """Write a frame of JSON; a ``message`` names files as the page does."""
        if "message" in message:
            message["message"] = message["message"].replace(f"{self._root}{os.sep}", "")
        self.send(TEXT, json.dumps(message, separators=(",", ":"), allow_nan=False).encode())

    def copy(self, frames: bytes) -> None:
        """Write frames as they are."""
        try:
            self._file.write(frames)
            self._file.flush()
        except OSError:  # nobody listens any more
            os._exit(0)


class LayerQueue:
    """The layers that are still to be looked at; those that the page shows come first."""

    def __init__(self, entries: tuple[TensorEntry, ...]) -> None:
        self._left = {entry.name: entry for entry in entries}
        self._first: list[str] = []
        self._paused = False
        self._changed = threading.Condition()

    def first(self, names: list[str]) -> None:
        """Look at these before all others, in this order."""
        with self._changed:
            self._first = names

    def pause(self, paused: bool) -> None:
        """Begin with no other layer, or go on."""
        with self._changed:
            self._paused = paused
            self._changed.notify_all()

    def take(self, busy: int) -> TensorEntry | None:
        """Return the next layer; None if there is none, or, with `busy` bytes in work, none for now."""
        with self._changed:
            # With layers in work there is something else to wait for: their end. Without, a pause is waited out here.
            self._changed.wait_for(lambda: busy or not self._paused)
            name = next((name for name in self._first if name in self._left), next(iter(self._left), None))
            if name is None or self._paused or (busy and busy + self._left[name].nbytes > _IN_FLIGHT):
                return None
            return self._left.pop(name)


def main(root: str, cache: str, memory: str, path: str, other: str = "") -> int:
    """Send what is known of the layers of a checkpoint, or how another differs from it, or what is wrong with them.

    Both are given relative to a root folder; `memory` is how many bytes of addresses this process may have.
    """
    os.chdir(root)
    _limit_memory(int(memory))
    out = Frames(os.fdopen(os.dup(1), "wb"), root)
    os.dup2(2, 1)  # what libraries print is no frame
    try:
        # with the memory: what was too large for less of it is not for more
        key = sketch_cache.key_of([memory, *(_identities(each) for each in (path, other) if each)], __version__)
        frames = sketch_cache.read(Path(cache), key)
        if frames is not None:
            for piece in frames:
                out.copy(piece)
            return 0
        out.say(state="ready")
        if not sys.stdin.buffer.readline():
            return 0
        with suppress(AttributeError, OSError):  # there is no nice on Windows
            os.nice(10)  # the server, the kernels and the browser go first
        out.entry = sketch_cache.Entry(Path(cache), key)
        if other:
            _compare(path, other, int(memory), out)
        else:
            _sketch(path, int(memory), out)
        if out.entry is not None:
            out.entry.keep()
        return 0
    except ShrinkError as error:
        message = str(error)
    except MemoryError:
        message = f"looking at {quoted(path)} takes more than {int(memory):,} bytes of memory, {_LIMIT}"
    if out.entry is not None:
        out.entry.drop()
        out.entry = None
    out.say(state="failed", message=message)
    return 1


def _identities(path: str) -> list[tuple[object, ...]]:
    """Return what tells the files of a checkpoint from all others, and from what they are once they change."""
    if is_gguf(path):
        header = read_gguf_header(path)
        return [(os.fspath(header.path.resolve()), *header.identity)]
    checkpoint = read_checkpoint_headers(path)
    refuse_links_out(checkpoint, Path.cwd().resolve())
    return [(path, os.fspath(file.path.resolve()), *file.identity) for file in checkpoint.files]


def _sketch(path: str, memory: int, out: Frames) -> None:
    import torch

    from ..analysis.open_and_dequantize_checkpoint import open_to_look
    from ..analysis.open_model_tensors_and_channel_axes import (
        nothing_compressible,
        structure_length,
        uncompressed_tensor,
    )
    from ..analysis.sketch import layer_header, sketch_layer, without_layers

    torch.set_num_threads(1)  # layers share the cores, as `tensor_ops_threads_and_cpu_kernel.each` has it
    opened = open_to_look(path)
    layers = (*opened.weights.layers, *opened.dequantized)
    if not layers:
        raise ModelError(nothing_compressible(opened.weights))
    if len(layers) > _MAX_LAYERS:
        raise FileError(f"{quoted(path)} has {len(layers):,} weight matrices, more than the {_MAX_LAYERS:,} looked at")
    about = without_layers(opened.weights)
    nbytes = {entry.name: entry.nbytes for entry in opened.weights.entries}
    described = [
        layer_header(entry) | {"nbytes": nbytes[entry.name], "stored": opened.stored.get(entry.name, "")}
        for entry in layers
    ]
    out.say(state="model", model=about.about(), layers=described)

    peaks: dict[str, float] = {}
    failed: dict[str, str] = {}
    # a message for each layer as it is done: the page draws what is there, and asks for what is on its screen first
    for entry, work in _each(LayerQueue(layers), lambda entry: sketch_layer(_checked(entry, memory))):
        try:
            layer = work.result()
        except ModelError as error:  # NaN, say: the others are worth seeing all the same
            failed[entry.name] = str(error)
            tensor = uncompressed_tensor(replace(entry, why=str(error)))
            out.say(state="layer_failed", name=entry.name, message=str(error), tensor=asdict(tensor))
        else:
            peaks[entry.name] = layer.absmax
            out.send(LAYER, replace(about, layers=(layer,), uncompressed=(), warnings=()).encode())
    # a layer of which no sketch could be made is kept as it is, and described so in the structure
    entries = tuple(replace(e, why=failed.get(e.name, e.why)) for e in opened.weights.entries)
    out.say(state="done", structure=structure_length(replace(opened.weights, entries=entries), peaks))


def _compare(path: str, other: str, memory: int, out: Frames) -> None:
    import torch

    from ..analysis.compare_checkpoints import compare_tensors, differences
    from ..analysis.open_and_dequantize_checkpoint import open_to_look
    from ..analysis.open_model_tensors_and_channel_axes import dtype_name

    torch.set_num_threads(1)
    a, b = open_to_look(path), open_to_look(other)
    found = differences(a, b)
    stored = [{entry.name: entry for entry in opened.weights.entries} for opened in (a, b)]
    values = [
        known | {entry.name: entry for entry in opened.dequantized}
        for known, opened in zip(stored, (a, b), strict=True)
    ]
    tensors = [
        {
            "name": name, "shape": stored[0][name].shape, "nbytes": sum(known[name].nbytes for known in stored),
            "dtypes": [known[name].kind or FILE_DTYPES[dtype_name(known[name].dtype)] for known in stored],
        }
        for name in found.both
    ]  # fmt: skip
    titles = [opened.weights.title for opened in (a, b)]
    reshaped = [[name, *shapes] for name, shapes in found.reshaped.items()]
    out.say(state="comparison", titles=titles, tensors=tensors, only=found.only, reshaped=reshaped)

    def work(entry: TensorEntry) -> TensorChange:
        one, two = (_checked(known[entry.name], memory).load() for known in values)
        return compare_tensors(entry.name, one, two)

    for entry, compared in _each(LayerQueue(tuple(values[0][name] for name in found.both)), work):
        try:
            change = compared.result()
        except ModelError as error:
            out.say(state="tensor_failed", name=entry.name, message=str(error))
        else:
            # JSON has no infinity, which is how much a tensor of zeros has changed
            finite = math.isfinite(change.change)
            out.say(state="tensor", **asdict(change) | {"change": change.change if finite else str(change.change)})
    out.say(state="done")


_Result = TypeVar("_Result")


def _each(
    queue: LayerQueue, function: Callable[[TensorEntry], _Result]
) -> Iterator[tuple[TensorEntry, Future[_Result]]]:
    """Yield layers with what a function makes of them, in whatever order it is done; the page may change the order."""
    from ..analysis.tensor_ops_threads_and_cpu_kernel import usable_cores

    threading.Thread(target=_follow, args=(queue,), daemon=True).start()
    running: dict[Future[_Result], TensorEntry] = {}
    threads = min(_THREADS, usable_cores())
    with ThreadPoolExecutor(threads) as pool:
        while True:
            while len(running) < threads and (entry := queue.take(sum(e.nbytes for e in running.values()))):
                running[pool.submit(function, entry)] = entry
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future


def _checked(entry: TensorEntry, memory: int) -> TensorEntry:
    """Return the entry of a layer, or in place of one that is too large one that says so when it is loaded."""
    # its bytes in the file, its values, and a transposed copy of them; the rest is torch's, and other layers'
    need, most = entry.nbytes + 2 * entry.numel * entry.dtype.itemsize, memory // 2
    if need <= most:
        return entry

    def load() -> Any:
        raise ModelError(
            f"looking at {quoted(entry.name)} takes {need:,} bytes of memory, more than {most:,}: {_LIMIT}"
        )

    return replace(entry, load=load)


def _follow(queue: LayerQueue) -> None:
    """Do what the page asks: ``{"first": [name, …]}``, ``{"pause": true}``, ``{"pause": false}``."""
    for line in sys.stdin.buffer:
        with suppress(ValueError):
            asked = json.loads(line)
            if isinstance(asked, dict) and isinstance(asked.get("pause"), bool):
                queue.pause(asked["pause"])
            if isinstance(asked, dict) and isinstance(asked.get("first"), list):
                queue.first([name for name in asked["first"] if isinstance(name, str)])
    os._exit(0)  # the tab is closed, or the server has ended


def _limit_memory(memory: int) -> None:
    try:
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):
        pass


if __name__ == "__main__":
    # at once: the thread that waits for what the page asks would hold up the end
    os._exit(main(*sys.argv[1:]))
