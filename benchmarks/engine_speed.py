"""The engine on ResNet-50's shapes: the exact mask against torch's own pruning, the sketch, and the packed file."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import shrinkwidget as sw
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, open_model
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import cpu_kernel
from shrinkwidget.compression.encode_layers_and_packed_model import decoded_state, encode_layers
from shrinkwidget.compression.importance_scores_and_pruning_masks import keep_masks

from .benchmark_models import compressible, resnet50
from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import Figure, Row, seconds, side_by_side, timed

SPARSITY = 0.9
LARGE, SMALL, SMALL_LAYERS = (4096, 4096), (256, 256), 1500
RUNS, THEIR_RUNS = 9, 3
TORCH = "torch.nn.utils.prune.global_unstructured"


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    model = resnet50()
    yield from _mask_rows(model, calm)
    yield from _figure_rows(model, calm)
    yield from _file_rows(model, calm)


def _mask_rows(model: nn.Module, calm: Calm) -> Iterator[Row]:
    weights, recipe, known = open_model(model), sw.Recipe(sparsity=SPARSITY), sw.sketch(model)
    with_sketch = partial(keep_masks, weights, recipe, known)
    without = partial(keep_masks, weights, recipe)
    with_sketch()
    ours, alone, theirs = [], [], []
    for turn in range(RUNS):
        calm()
        ours.append(seconds(with_sketch))
        alone.append(seconds(without))
        if turn < THEIR_RUNS:
            victim = copy.deepcopy(model)
            theirs.append(seconds(partial(torch_prune, victim)))
    other = Figure(tuple(1e3 * t for t in theirs))
    kept = _same_kept_set([mask for mask in with_sketch() if mask is not None], victim)
    yield Row(
        f"exact global mask at {SPARSITY:.0%}, sketch at hand",
        Figure(tuple(1e3 * t for t in ours)),
        "ms",
        against=TORCH,
        theirs=other,
        faster=100,
        note=f"the same {kept:,} weights kept",
    )
    yield Row(
        f"exact global mask at {SPARSITY:.0%}, making the sketch too",
        Figure(tuple(1e3 * t for t in alone)),
        "ms",
        against=TORCH,
        theirs=other,
    )


def torch_prune(model: nn.Module) -> None:
    """Prune a model globally as torch's documentation says."""
    parameters = [(module, "weight") for module, _ in compressible(model)]
    prune.global_unstructured(parameters, pruning_method=prune.L1Unstructured, amount=SPARSITY)


def _same_kept_set(masks: list[Tensor], pruned: nn.Module) -> int:
    """Return how many weights both keep; they may differ only among weights of the threshold's magnitude."""
    theirs = [
        (_of(module, "weight_orig").abs(), _of(module, "weight_mask").bool()) for module, _ in compressible(pruned)
    ]
    edge = max(float(weight[~mask].max()) for weight, mask in theirs)
    for ours, (weight, mask) in zip(masks, theirs, strict=True):
        if not bool((weight[ours != mask] == edge).all()):
            raise RuntimeError("shrinkwidget and torch keep different weights")
    counts = [sum(int(m.sum()) for m in kept) for kept in (masks, [mask for _, mask in theirs])]
    if counts[0] != counts[1]:
        raise RuntimeError(f"shrinkwidget keeps {counts[0]:,} weights, torch {counts[1]:,}")
    return counts[0]


def _of(module: nn.Module, name: str) -> Tensor:
    """Return what torch's pruning left in a module, by name."""
    found: Tensor = getattr(module, name)
    return found.detach()


def _figure_rows(model: nn.Module, calm: Calm) -> Iterator[Row]:
    yield from _sketch_rows(model, calm)
    weights, known = open_model(model), sw.sketch(model)
    for words, recipe in {
        "90 % and 4 bits per channel": sw.Recipe(sparsity=SPARSITY, bits=4),
        "4 bits in groups of 32": sw.Recipe(bits=4, granularity=32),
        "a codebook of 4 bits": sw.Recipe(bits=4, quantizer="kmeans"),
    }.items():
        counted = timed(partial(encode_layers, weights, recipe, known), RUNS, "ms", calm)
        yield Row(f"exact size and error, {words}", counted, "ms")
        settled = timed(partial(_settle, weights, recipe, known), RUNS, "ms", calm)
        yield Row(f"a settled recipe, {words}: figures, and the weights to score", settled, "ms")


def _sketch_rows(model: nn.Module, calm: Calm) -> Iterator[Row]:
    """Yield what sketches take beside the sum of the same weights, on as many cores."""
    torch.manual_seed(0)
    large = {f"layers.{i}.weight": torch.randn(LARGE) * 0.02 for i in range(4)}
    small = {f"layers.{i}.weight": torch.randn(SMALL) * 0.02 for i in range(SMALL_LAYERS)}
    states = [
        ("25.5 M weights in 54 layers", {name: t.detach() for name, t in model.state_dict().items()}, 8, None),
        (f"{len(large)} layers of {math.prod(LARGE) / 1e6:.0f} M weights", large, 4, None),
        (f"{SMALL_LAYERS:,} layers of {math.prod(SMALL):,} weights", small, None, 1.5 * SMALL_LAYERS),
    ]
    for words, state, sums, limit in states:
        weights = [tensor for tensor in state.values() if tensor.ndim > 1]
        sw.sketch(state)
        ours, theirs = side_by_side(
            [partial(sw.sketch, state), partial(_sum, weights)], RUNS if limit is None else THEIR_RUNS, "ms", calm
        )
        yield Row(
            f"sw.sketch, {words}", ours, "ms", limit=limit, against="w.sum() of each", theirs=theirs,
            faster=sums and 1 / sums, note=f"with{'' if cpu_kernel() else 'out'} the compiled kernel",
        )  # fmt: skip


def _sum(weights: list[Tensor]) -> None:
    for weight in weights:
        weight.sum()


def _settle(weights: ModelTensors, recipe: sw.Recipe, known: Sketch) -> None:
    """Do what the explorer does once a slider rests, except for running the network."""
    encoded, _ = encode_layers(weights, recipe, known)
    for _ in decoded_state(weights, recipe, encoded):
        pass


def _file_rows(model: nn.Module, calm: Calm) -> Iterator[Row]:
    recipe = sw.Recipe(bits=4, granularity=32)
    small = sw.compress(model, recipe)
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "small.safetensors", Path(folder) / "model.pt"
        yield Row(
            "compress at 4 bits in groups of 32, and save",
            timed(lambda: sw.compress(model, recipe).save(path), 5, "ms", calm),
            "ms",
            more={"file MB": round(small.nbytes / 1e6, 3), "dense MB": round(small.original_nbytes / 1e6, 3)},
        )
        torch.save(model.state_dict(), plain)
        fresh = copy.deepcopy(model)
        ours, theirs = side_by_side(
            [lambda: sw.load(path, into=fresh), lambda: fresh.load_state_dict(torch.load(plain, weights_only=True))],
            RUNS,
            "ms",
            calm,
        )
        yield Row("load that file into a model", ours, "ms", against="torch.load of the dense model", theirs=theirs)
