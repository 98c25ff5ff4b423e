"""Many layers and many weights: estimates, explorers, compression with its memory, large checkpoints, training steps.

Times are those of the processor, of all threads together: what else runs on the machine then moves ratios little.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file

import shrinkwidget as sw

from .benchmark_models import DEEP_LAYERS, compressible, deep, resnet50
from .engine_speed import SPARSITY, TORCH, torch_prune
from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import ROOT, Figure, Row, seconds, side_by_side
from .retraining import overhead

RUNS, FEW = 5, 3
LAYERS, SHAPE = 1500, (256, 256)
DENSE: Final = 16  # layers of 4096 × 4096
SHARDS, TENSORS, LARGE = 4, 15, (4096, 4096)
GIGABYTE: Final = 1000  # in MB
LAYER: Final = 4 * LARGE[0] * LARGE[1] / 1e6  # of float32, in MB

cpu: Final = time.process_time


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # torch's threads spin while they wait for each other, and that would count, too
    try:
        yield from _estimate_rows(calm)
        yield from _explorer_rows(calm)
        yield from _compress_rows(calm)
        yield from _memory_rows(calm)
        yield from _checkpoint_rows(calm)
        yield from _training_rows()
    finally:
        torch.set_num_threads(threads)


def _estimate_rows(calm: Calm) -> Iterator[Row]:
    torch.manual_seed(0)
    # each layer has a spread of its own, as in a network: equal ones would share their tables of errors
    state = {f"layers.{i}.weight": torch.randn(SHAPE) * 0.02 * (1 + i % 17 / 10) for i in range(LAYERS)}
    first: list[float] = []
    following: list[float] = []
    for run in range(RUNS):
        calm()
        known = sw.sketch(state)
        for turn, figures in enumerate((first, following, following)):
            recipe = sw.Recipe(0.9 - run / 100 - turn / 1000, 4)
            figures.append(1e3 * seconds(partial(sw.estimate, known, recipe), cpu))
    yield Row(f"estimate of {LAYERS:,} layers, the first of a sketch", Figure(tuple(first)), "ms", limit=100)
    yield Row(f"estimate of {LAYERS:,} layers, the next recipe", Figure(tuple(following)), "ms", limit=20)


def _explorer_rows(calm: Calm) -> Iterator[Row]:
    model = deep()
    sw.explore(model).close()
    returned, sketched = [], []
    for _ in range(RUNS):
        calm()
        start = cpu()
        explorer = sw.explore(model)
        returned.append(cpu() - start)
        explorer.estimate.nbytes  # noqa: B018  # waits for all layers
        sketched.append(cpu() - start)
        explorer.wait()
        explorer.close()
    yield Row(f"sw.explore of {DEEP_LAYERS} layers returns", Figure(tuple(returned)), "s", limit=0.5)
    yield Row(f"sw.explore of {DEEP_LAYERS} layers, until all are sketched", Figure(tuple(sketched)), "s")


def _compress_rows(calm: Calm) -> Iterator[Row]:
    model = resnet50()
    weights = [weight.detach() for _, weight in compressible(model)]

    def total() -> None:
        for weight in weights:
            weight.sum()

    works: list[Callable[[], object]] = [
        partial(sw.compress, model, SPARSITY),
        partial(sw.compress, model, SPARSITY, bits=4),
        total,
    ]
    for work in works:
        work()
    pruned, rounded, summed = side_by_side(works, RUNS, "ms", calm, cpu)
    theirs = [1e3 * seconds(partial(torch_prune, deepcopy(model)), cpu) for _ in range(2)]
    yield Row(
        f"sw.compress({SPARSITY}), 25.5 M weights", pruned, "ms", against=TORCH, theirs=Figure(tuple(theirs)), faster=20
    )
    yield Row(
        f"sw.compress({SPARSITY}, bits=4), 25.5 M weights", rounded, "ms", against="w.sum() of each", theirs=summed,
        smaller=60,
    )  # fmt: skip


# In a process of its own: prints the processor's seconds and the MB that some lines took above what was there before.
ALONE: Final = """
import gc, json, sys, time
from pathlib import Path
import numpy as np
import torch
import shrinkwidget as sw
from shrinkwidget.performance.race_and_memory_worker import resident

def layers(count):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4096, 4096, bias=False) for _ in range(count)))
    with torch.no_grad():
        model[0].weight.normal_(0, 0.02)
        for layer in model[1:]:
            layer.weight.copy_(model[0].weight)
    return model

path = sys.argv[1]
{given}
sw.compress(sw.demo.model(), 0.5, bits=4)  # what is imported on the way is there already
gc.collect()
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on
before, start = resident("VmRSS"), time.process_time()
{work}
print(json.dumps([time.process_time() - start, (resident("VmHWM") - before) / 1e6]))
"""
READ: Final = """
for shard in sorted(Path(path).parent.glob("*.safetensors")):
    with shard.open("rb", buffering=0) as file:
        while file.readinto(np.empty(2 * 4096 * 4096, dtype=np.uint8).data):
            pass
"""


def _alone(work: str, path: Path | str = "", given: str = "") -> tuple[float, float]:
    """Return the seconds of the processor that some lines take, and by how many MB memory grows meanwhile."""
    code = ALONE.format(given=given, work=work)
    done = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.fspath(ROOT)},
    )  # fmt: skip
    taken, grown = json.loads(done.stdout)
    return taken, grown


def _memory_rows(calm: Calm) -> Iterator[Row]:
    calm()
    for bits in (32, 4):
        weights = DENSE * LARGE[0] * LARGE[1]
        words = f"{weights / 1e6:.0f} M weights, {SPARSITY:.0%} and {bits} bits"
        with tempfile.TemporaryDirectory() as folder:
            for to, which in (("", "compress"), (", to=path", "compress to a file")):
                work = f"found = sw.compress(model, {SPARSITY}, bits={bits}{to})"
                _, grown = _alone(work, Path(folder) / "small.safetensors", given=f"model = layers({DENSE})")
                module = "" if to else ", 4 of which are the new module's"
                yield Row(
                    f"memory of {which} above the model, {words}", Figure((grown,)), "MB", limit=GIGABYTE + LAYER,
                    note=f"{1e6 * grown / weights:.1f} bytes a weight{module}",
                )  # fmt: skip


def _checkpoint_rows(calm: Calm) -> Iterator[Row]:
    words = f"{SHARDS * TENSORS * LARGE[0] * LARGE[1] / 1e9:.1f} billion weights of bfloat16 in {SHARDS} shards"
    with tempfile.TemporaryDirectory() as folder:
        index = _sharded(Path(folder))
        ours, theirs, grown = [], [], []
        for _ in range(FEW):
            calm()
            theirs.append(_alone(READ, index)[0])
            taken, memory = _alone("sw.sketch(path)", index)
            ours.append(taken)
            grown.append(memory)
        yield Row(
            f"sketch of a checkpoint, {words}", Figure(tuple(ours)), "s",
            against="reading it from the page cache", theirs=Figure(tuple(theirs)), faster=0.5,
        )  # fmt: skip
        yield Row(f"memory of that, {words}", Figure(tuple(grown)), "MB", limit=GIGABYTE)
        for to, which in (("", "compress"), (", to=path + '.small'", "compress to a file")):
            _, memory = _alone(f"found = sw.compress(path, 0.5, bits=4, granularity=128{to})", index)
            yield Row(
                f"memory of {which}, {words}, 50 % and 4 bits", Figure((memory,)), "MB", limit=GIGABYTE + LAYER / 2
            )


def _sharded(folder: Path) -> Path:
    """Write a checkpoint of a billion weights of bfloat16 in shards, and return its index."""
    torch.manual_seed(0)
    weights = torch.randn(LARGE) * 0.02
    places: dict[str, str] = {}
    for shard in range(SHARDS):
        name = f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        names = [f"layers.{shard * TENSORS + i}.weight" for i in range(TENSORS)]
        # each with a spread of its own
        save_file({n: (weights * (1 + i / TENSORS)).bfloat16() for i, n in enumerate(names)}, folder / name)
        places |= dict.fromkeys(names, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


def _training_rows() -> Iterator[Row]:
    """Yield what a step of training takes beside one of a plain loop, on a network that needs no download."""
    network = "DigitNet on digits, batches of 64"
    found = {str(cell["way"]): cell for cell in overhead.cells(network, Path(), turns=FEW)}
    plain = Figure((float(found["plain loop"]["ms a step"]),))
    for way, limit in (("nothing", 1.05), ("masks", 1.05), ("masks and 4 bits", 1.4)):
        yield Row(
            f"a step of training, {way}: {network}", Figure((float(found[way]["ms a step"]),)), "ms",
            against="a plain loop", theirs=plain, smaller=limit,
        )  # fmt: skip
