"""Channel pruning beside torch-pruning, network by network: what is left, and whether a mask previews it.

``pip install --no-deps torch-pruning`` into a folder of its own, then
``PYTHONPATH=.:FOLDER python -m benchmarks.channels_beside_torch_pruning`` prints a line for each network, and writes
``channels.json``. Without torch-pruning only ours is measured. Each peer runs in a process of its own, which is ended
after a minute: one of them never ends on some models.
"""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import queue
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.analysis.run_model_seeded_macs_and_memory import tensors_in
from shrinkwidget.compression.find_and_prune_channels import cuts_of, narrower
from shrinkwidget.compression.narrow_modules import masked

from . import machine_info_and_wait_for_calm
from .channel_benchmark_networks import ZOO, randomized

FILE: Final = Path(__file__).with_suffix(".json")
FRACTIONS: Final = (0.3, 0.5, 0.7)
PATIENCE: Final = 60
TURNS: Final = 3  # of what is timed


def main() -> None:
    """Measure the networks named, or all; all of them write the results."""
    torch.set_num_threads(1)
    for library in ("timm", "transformers", "torch_pruning"):  # once, before processes part
        with suppress(ImportError):
            importlib.import_module(library)
    rows = []
    for name in sys.argv[1:] or ZOO:
        row: dict[str, Any] = {"network": name}
        for peer, measure in {"shrinkwidget": ours, "torch-pruning": theirs}.items():
            row[peer] = _apart(measure, name)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if not sys.argv[1:]:
        found = {"machine": machine_info_and_wait_for_calm.describe(), "fractions": FRACTIONS, "rows": rows}
        FILE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _apart(measure: Callable[[str], dict[str, Any]], name: str) -> dict[str, Any]:
    """Return what a measurement returns, in a process of its own, or how it failed."""
    context = multiprocessing.get_context("fork")  # what is imported already need not be again
    answers: Any = context.Queue()
    process = context.Process(target=_answer, args=(measure, name, answers))
    process.start()
    try:
        found: dict[str, Any] = answers.get(timeout=PATIENCE)
    except queue.Empty:
        found = {"failed": f"no end after {PATIENCE} s" if process.is_alive() else "the process died"}
    process.kill()
    process.join()
    return found


def _answer(measure: Callable[[str], dict[str, Any]], name: str, answers: Any) -> None:
    torch.set_num_threads(1)
    try:
        answers.put(measure(name))
    except Exception as error:  # noqa: BLE001  # what a peer raises is the result
        answers.put({"failed": f"{type(error).__name__}: {error}"[:120]})


def _network(name: str) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    make, example = ZOO[name]
    return randomized(make()), example()


def _run(model: nn.Module, example: Any) -> Tensor:
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(example)
    return next(iter(tensors_in(out)))


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def ours(name: str) -> dict[str, Any]:
    """Return what is left of a network, how far its mask is off, and the CPU seconds of finding and of removing.

    `off` is the largest difference as a fraction of the largest output, in float32; `off_float64` the same where all is
    computed in float64, which tells rounding from a channel too many; `rounding` how far the mask's outputs in float32
    are off those in float64.
    """
    model, example = _network(name)
    _run(model, example)  # imports and first allocations are nobody's
    found, graph = _median(partial(sw.channels, model, example))
    result: dict[str, Any] = {
        "families": len(found.families),
        "left": [],
        "macs": [],
        "off": [],
        "off_float64": [],
        "rounding": [],
    }
    full = [family.channels for family in found.families]
    for fraction in FRACTIONS:
        small, removal = _median(partial(narrower, model, sw.Recipe(channels=fraction), found))
        cuts = cuts_of(found.families, small.kept, model)
        with masked(model, cuts):
            expected = _run(model, example)
        real = _run(small.model.eval(), example)
        exact = copy.deepcopy(model).double()
        with masked(exact, cuts):
            exactly = _run(exact, _doubled(example))
        result["left"].append(round(_parameters(small.model) / _parameters(model), 3))
        result["macs"].append(round(found.macs_after(small.left) / found.macs_after(full), 3))
        result["off"].append(_off(real, expected))
        result["off_float64"].append(_off(_run(small.model.double(), _doubled(example)), exactly))
        result["rounding"].append(_off(expected, exactly))
    reasons = sorted({width.reason.partition(" (")[0] for width in found.fixed})
    return result | {"seconds": round(graph + removal, 2), "fixed": reasons}


def _median(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return what some work returns, and the median of the processor's seconds that it takes."""
    taken = []
    for _ in range(TURNS):
        began = time.process_time()
        found = work()
        taken.append(time.process_time() - began)
    return found, statistics.median(taken)


def _doubled(example: Any) -> Any:
    """Return an example whose floats are float64; tokens stay as they are."""
    return example.double() if isinstance(example, Tensor) and example.is_floating_point() else example


def _off(one: Tensor, other: Tensor) -> float:
    """Return the largest difference as a fraction of the largest output, to two digits."""
    return float(f"{(one - other).abs().max() / other.abs().max():.1e}")


def _last_layer(model: nn.Module, example: Any) -> nn.Module:
    """Return the layer that runs last, whose outputs have to stay."""
    order: list[nn.Module] = []
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(lambda layer, *_: order.append(layer)) for layer in layers]
    _run(model, example)
    for hook in hooks:
        hook.remove()
    return order[-1]


def theirs(name: str) -> dict[str, Any]:
    """Return the same of torch-pruning, by magnitude, and how far its network is off one with the channels at zero."""
    tp: Any = importlib.import_module("torch_pruning")
    result: dict[str, Any] = {"left": []}
    for fraction in FRACTIONS:
        model, example = _network(name)
        before, dense = _parameters(model), copy.deepcopy(model)
        last = _last_layer(model, example)
        began = time.process_time()
        pruner = tp.pruner.MetaPruner(
            model,
            example_inputs=example,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=fraction,
            ignored_layers=[last],
        )
        pruner.step()
        seconds = time.process_time() - began
        shape = _run(model, example).shape
        if shape != _run(dense, example).shape:
            return {"failed": f"its output has the shape {list(shape)}"}
        result["left"].append(round(_parameters(model) / before, 3))
    return result | {"seconds": round(seconds, 2)}


if __name__ == "__main__":
    main()
