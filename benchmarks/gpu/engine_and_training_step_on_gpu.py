"""The engine on a GPU: what it takes beside torch's own pruning and a sum of all weights, with the same bits as on a
CPU."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import shrinkwidget as sw

from ..benchmark_models import compressible, resnet50
from ..engine_speed import SPARSITY, torch_prune
from ..retraining import overhead, plain_loop
from .resnet20_fashion_mnist import resnet20

RUNS = 5


def rows(device: torch.device, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield what was measured, a row each; `ratio` is what ours takes over what it is measured against."""
    # two of its stages are enough to see that everything runs
    model = resnet50() if not quick else nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 64))
    moved = copy.deepcopy(model).to(device)
    for recipe in (sw.Recipe(SPARSITY), sw.Recipe(SPARSITY, 4), sw.Recipe(0.5, 3, quantizer="kmeans")):
        # the reference is a CPU's: nothing may depend on where weights lie
        wrong = differing(sw.compress(model, recipe), sw.compress(moved, recipe))
        yield {"what": f"weights that differ from those of a CPU, {recipe!r}", "value": wrong, "unit": "weights"}

    def pruned() -> nn.Module:
        victim = copy.deepcopy(moved)
        torch_prune(victim)
        return victim

    def total() -> float:
        return float(torch.stack([weight.detach().sum().float() for _, weight in compressible(moved)]).sum())

    ours: dict[str, Callable[[], object]] = {
        "sw.compress(sparsity=0.9)": partial(sw.compress, moved, sparsity=SPARSITY),
        "sw.compress(sparsity=0.9, bits=4)": partial(sw.compress, moved, sparsity=SPARSITY, bits=4),
        "sw.sketch": partial(sw.sketch, moved),
    }
    theirs = {"copy and torch.nn.utils.prune.global_unstructured": pruned, "a sum of all weights": total}
    took = in_turn({**ours, **theirs}, device, RUNS)
    for name, against in zip(ours, [*theirs, list(theirs)[1]], strict=False):
        yield row(f"{name}, 25.6 M weights", took[name], against, took[against])
    yield from _large(device, 4 if quick else 15, 256 if quick else 8192)
    yield from _training(device, 32 if quick else 12_800)


def _large(device: torch.device, layers: int, width: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model of a billion weights."""
    large = nn.Sequential(
        *(nn.Linear(width, width, bias=False, dtype=torch.bfloat16, device=device) for _ in range(layers))
    )
    count = layers * width**2
    recipe = sw.Recipe(0.5, 4, granularity=128)

    def total() -> float:
        return float(torch.stack([p.detach().sum().float() for p in large.parameters()]).sum())

    took = in_turn({"sketch": lambda: sw.sketch(large), "sum": total}, device, 2)
    yield row(f"sw.sketch, {count:,} weights of bfloat16", took["sketch"], "a sum of all weights", took["sum"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    took = in_turn({"compress": lambda: sw.compress(large, recipe)}, device, 1)
    yield row(f"sw.compress, {count:,} weights of bfloat16, {recipe!r}", took["compress"])
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() - 2 * count
        yield {"what": "its peak of GPU memory above the model", "value": round(peak / 2**30, 2), "unit": "GiB"}


def _training(device: torch.device, images: int) -> Iterator[dict[str, Any]]:
    """Yield what a step of training takes beside one of a plain loop, ResNet-20 on random images in batches of 128."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(images, 1, 28, 28, generator=generator).to(device)
    targets = torch.randint(10, (images,), generator=generator).to(device)
    network, schedule = resnet20().to(device), sw.methods.Schedule(1, 0.01)
    method, options = sw.methods.LearningRateRewinding(schedule), sw.methods.TrainingOptions(batch_size=128)
    works: dict[str, Callable[[], object]] = {
        "a plain loop": lambda: plain_loop.train(copy.deepcopy(network), (inputs, targets), schedule, 128, 0)
    }
    for way, recipe in overhead.RECIPES.items():
        small = sw.compress(network, recipe)
        works[way] = partial(sw.retrain, small, (inputs, targets), None, method, options=options, progress=False)
    took, steps = in_turn(works, device, 3), math.ceil(images / 128)
    for way in overhead.RECIPES:
        yield row(f"training ResNet-20, steps: {steps}, {way}", took[way], "a plain loop", took["a plain loop"])


def in_turn(works: dict[str, Callable[[], object]], device: torch.device, turns: int) -> dict[str, list[float]]:
    """Return the wall seconds of each work, all in turn; a first turn does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(turns + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def row(what: str, took: list[float], against: str = "", theirs: list[float] | None = None) -> dict[str, Any]:
    """Return a row: the median in ms, and the ratio to the other median."""
    found: dict[str, Any] = {"what": what, "value": round(1e3 * statistics.median(took), 2), "unit": "ms"}
    if theirs is not None:
        found |= {"against": against, "theirs": round(1e3 * statistics.median(theirs), 3)}
        found["ratio"] = round(statistics.median(took) / statistics.median(theirs), 2)
    return found


def differing(one: sw.results.CompressedModel, other: sw.results.CompressedModel) -> int:
    """Return how many values of two compressed models differ, in their modules and in their files."""
    pairs: list[tuple[Tensor, Tensor]] = [
        *zip(one.state_dict().values(), other.state_dict().values(), strict=True),
        *((a.codes, b.codes) for a, b in zip(one.encoded.values(), other.encoded.values(), strict=True)),
    ]
    assert one.nbytes == other.nbytes
    return sum(int((a.cpu() != b.cpu()).sum()) for a, b in pairs)
