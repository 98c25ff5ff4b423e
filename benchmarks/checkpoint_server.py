"""What the part in Jupyter's server takes: a checkpoint's table, its sketch, a comparison, 100,000 damaged headers."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file

from shrinkwidget.errors import FileError
from shrinkwidget.server.checkpoint_table import checkpoint_table
from shrinkwidget.server.resource_limits import ShrinkwidgetLimits
from tests.engine.test_gguf_header import damaged, write_gguf
from tests.running_jupyter_server import Server, start, stop

from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import ROOT, Figure, Row, seconds, timed

TENSORS, SHAPE = 300, (1024, 1664)
MANY: Final = 100_000
DAMAGED: Final = 100_000
RUNS: Final = 5
WORDS: Final = f"2 GB, {TENSORS} float32 tensors"


@dataclass(frozen=True)
class Looked:
    """What one worker took: seconds in all, seconds after the header was told, and bytes it had resident at most."""

    whole: float
    work: float
    resident: int


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    with tempfile.TemporaryDirectory() as home:
        server = start(Path(home))
        try:
            yield from _on_files(server, Path(home), calm)
        finally:
            stop(server)


def _on_files(server: Server, home: Path, calm: Calm) -> Iterator[Row]:
    large, tuned, many = (server.folder / f"{name}.safetensors" for name in ("large", "tuned", "many"))
    write_large(large)
    write_large(tuned, pruned=True)
    write_many(many)
    for path, words, limit in ((large, WORDS, 0.5), (many, f"{MANY:,} tensors", 1.0)):
        figure = timed(partial(_table, server, path), RUNS, "s", calm)
        yield Row(f"the server's table of a checkpoint, {words}", figure, "s", limit=limit, note="without drawing it")

    looked, read = [], []
    for run in range(RUNS):
        calm()
        read.append(seconds(partial(_read, large)))
        looked.append(_look(server.folder, home / f"cache {run}", large))
    yield Row(
        f"sketch of a checkpoint, {WORDS}", Figure(tuple(one.work for one in looked)), "s",
        against="reading the file from the page cache", theirs=Figure(tuple(read)), faster=0.5,
        note="after torch is loaded",
    )  # fmt: skip
    resident = Figure(tuple(one.resident / 1e6 for one in looked))
    yield Row(f"resident memory of that, {WORDS}", resident, "MB", limit=500)
    again = [_look(server.folder, home / "cache 0", large).whole for _ in range(RUNS)]
    yield Row(f"the same again, from the cache, {WORDS}", Figure(tuple(again)), "s", limit=0.5)

    calm()
    compared = _look(server.folder, home / "cache", large, tuned)
    yield Row("comparing two checkpoints of 2 GB, in one pass", Figure((compared.work,)), "s")
    yield Row("resident memory of that", Figure((compared.resident / 1e6,)), "MB", limit=500)
    yield _damaged_headers(home)


def write_large(path: Path, pruned: bool = False) -> None:
    """Write a checkpoint of 2 GB."""
    torch.manual_seed(0)
    state = {f"layers.{i}.weight": torch.randn(SHAPE) * 0.02 for i in range(TENSORS)}
    if pruned:
        for tensor in state.values():
            tensor[tensor.abs() < 0.01] = 0
    save_file(state, path)


def write_many(path: Path) -> None:
    """Write a checkpoint of as many tensors as anybody has, of one byte each."""
    header = {f"layers.{i}.weight": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(MANY)}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(MANY))


def _table(server: Server, path: Path) -> None:
    query = urllib.parse.urlencode({"path": path.name, "token": server.token})
    with urllib.request.urlopen(f"{server.url}shrinkwidget/api/checkpoint?{query}", timeout=60) as answer:
        json.load(answer)


def _read(path: Path) -> None:
    """Read a file tensor by tensor, each into memory of its own, as the worker does."""
    size = int(np.prod(SHAPE)) * 4
    with path.open("rb", buffering=0) as file:
        while file.readinto(np.empty(size, dtype=np.uint8).data):
            pass


def _look(folder: Path, cache: Path, *paths: Path) -> Looked:
    """Run a worker as the server does, and take what it says."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "shrinkwidget.server.sketch_worker_program",
        os.fspath(folder),
        os.fspath(cache),
    ]
    command.append(str(ShrinkwidgetLimits().memory))
    env = os.environ | {"PYTHONPATH": os.fspath(ROOT)}
    begun = told = time.perf_counter()
    process = subprocess.Popen(
        [*command, *(path.name for path in paths)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = {}
    resident = 0
    while len(start := process.stdout.read(5)) == 5:
        content = process.stdout.read(int.from_bytes(start[:4], "little"))
        resident = max(resident, _resident(process.pid))
        if start[4] == 0:
            said = json.loads(content)
        if said["state"] == "ready":
            process.stdin.write(b"{}\n")
            process.stdin.flush()
        elif said["state"] in ("model", "comparison") and start[4] == 0:
            told = time.perf_counter()
    ended = time.perf_counter()
    process.wait()
    if said.get("state") != "done":
        raise RuntimeError(f"the worker ended with {said}")
    return Looked(ended - begun, ended - told, resident)


def _resident(pid: int) -> int:
    """Return the most bytes a process had resident so far; what wait4 tells begins with those of its parent."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
    return 1024 * int(found[0]) if found else 0


def _damaged_headers(home: Path) -> Row:
    """Open files whose headers were damaged at random: each must be read, or refused with a `FileError`."""
    rng = random.Random(0)
    safetensors, gguf = home / "some.safetensors", home / "some.gguf"
    save_file({f"layers.{i}.weight": torch.zeros(4, 2) for i in range(5)}, safetensors, {"format": "pt"})
    write_gguf(gguf)
    wholes = [path.read_bytes() for path in (safetensors, gguf)]
    length = 8 + int.from_bytes(wholes[0][:8], "little")
    start = wholes[1].index(b"token_embd.weight")  # what follows the long vocabulary
    places = [[(0, 16), (0, length)], [(0, 300), (start - 8, start + 500)]]
    times, refused = [], 0
    bad = home / "damaged"
    for i in range(DAMAGED):
        bad.write_bytes(damaged(wholes[i % 2], rng, places[i % 2]))
        begun = time.perf_counter()
        try:
            checkpoint_table(bad)
        except FileError:  # and nothing else
            refused += 1
        times.append(time.perf_counter() - begun)
    return Row(
        f"the longest of {DAMAGED:,} damaged headers, half safetensors, half GGUF", Figure((1000 * max(times),)), "ms",
        limit=1000, note=f"{refused:,} refused in a sentence, the others read",
    )  # fmt: skip
