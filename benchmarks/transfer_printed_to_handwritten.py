"""From printed to handwritten digits, beside training from scratch.

`python -m benchmarks.transfer_printed_to_handwritten` writes transfer_printed_digits.json.

The strategies' epochs and rates were chosen by a look at seed 0; training from scratch has the schedule of
`baseline=True`, which was not tuned. So differences of a point or two between them say nothing.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import Strategy, default_schedule
from shrinkwidget.transfer_learning.transfer_task_and_classifier_head import TransferTask

RESULTS: Final = Path(__file__).with_suffix(".json")
SEEDS: Final = (0, 1, 2)
PER_CLASS: Final = (5, 10, 20)
STRATEGIES: Final[dict[str, Strategy]] = {
    "LinearProbe": sw.methods.LinearProbe(),
    "FullFineTune": sw.methods.FullFineTune(60),
    "GradualUnfreezing": sw.methods.GradualUnfreezing(2, epochs=40, lr=0.05),
    "LoRA": sw.methods.LoRA(epochs=40),
}


def main() -> None:
    """Measure everything and write it down."""
    began, rows = time.perf_counter(), []
    for row in chain(speed(), accuracies()):
        rows.append(row)
        print(row, flush=True)
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "load average at end": [round(load, 2) for load in os.getloadavg()],
        "seconds": round(time.perf_counter() - began),
    }
    text = json.dumps({"machine": about, "seeds": SEEDS, "rows": rows}, indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def speed() -> Iterator[dict[str, Any]]:
    """Compare an epoch of LinearProbe() after the first with the loop that computes the features in every epoch."""
    images, labels = data = demo.data("train")
    network = demo.pretrained(2000, 1)
    for batch in (256, 64):
        strategies = [sw.methods.LinearProbe(epochs, least=batch) for epochs in (2, 102)]
        ours, theirs = [], []
        for _ in range(5):
            theirs.append(_seconds(partial(_plain_epoch, network, images, labels, batch)))
            short, long = (_seconds(partial(sw.transfer, network, data, strategy=s)) for s in strategies)
            ours.append((long - short) / 100)
        mine, plain = float(np.median(ours)), float(np.median(theirs))
        what = f"LinearProbe(): an epoch of {len(images):,} digits, {batch} a step"
        yield {"what": what, "s": round(mine, 5), "plain loop, s": round(plain, 5), "times": round(plain / mine, 1)}


def _plain_epoch(network: nn.Module, images: Tensor, labels: Tensor, batch: int) -> None:
    """Train a head for an epoch as most tutorials do: the whole network runs, and only the head has gradients."""
    head = network.get_submodule("head")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.01)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for parameter in head.parameters():
        parameter.requires_grad_(True)
    for chosen in torch.randperm(len(labels)).split(batch):
        loss = F.cross_entropy(network(images[chosen]), labels[chosen])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def accuracies() -> Iterator[dict[str, Any]]:
    """Yield the accuracy on all handwritten digits not learnt from: mean and standard deviation over the seeds."""
    before = [_pretrained(seed) for seed in SEEDS]
    yield {"what": "pre-trained on printed digits", **_spread([_held_out(n, None) for n, _ in before])}
    for per_class in PER_CLASS:
        few = [demo.few(per_class, seed) for seed in SEEDS]
        runs = {"from scratch": [_scratch(train, seed) for train, seed in zip(few, SEEDS, strict=True)]}
        for name, strategy in STRATEGIES.items():
            runs[name] = [
                _taught(network, train, strategy, seed)
                for (network, _), train, seed in zip(before, few, SEEDS, strict=True)
            ]
        for name in ("LinearProbe", "FullFineTune"):
            runs[f"{name}, sparse 90 %, 4 bits"] = [
                _taught(small, train, STRATEGIES[name], seed)
                for (_, small), train, seed in zip(before, few, SEEDS, strict=True)
            ]
        for name, done in runs.items():
            yield {"what": name, "per class": per_class, **_row(done, few)}


def _pretrained(seed: int) -> tuple[nn.Module, sw.CompressedModel]:
    """Return a network that has learnt printed digits, and the same with a tenth of its weights, at 4 bits."""
    network = demo.pretrained(seed=seed)
    small = sw.compress(network, sw.Recipe(sparsity=0.9, bits=4))
    method = sw.methods.LearningRateRewinding(sw.methods.Schedule(2, lr=0.1, decay="cosine"))
    return network, sw.retrain(
        small, demo.printed_digits(10_000, seed + 100), method=method, options=sw.methods.TrainingOptions(seed=seed)
    )


def _taught(model: Any, train: tuple[Tensor, Tensor], strategy: Strategy, seed: int) -> sw.results.TransferResult:
    return sw.transfer(model, train, strategy=strategy, options=sw.methods.TrainingOptions(seed=seed))


def _scratch(train: tuple[Tensor, Tensor], seed: int) -> sw.results.TransferResult:
    """Train from scratch as `baseline=True` does."""
    task = TransferTask.of(train, None, None, None, sw.methods.TrainingOptions(seed=seed))
    return sw.transfer(
        demo.DigitNet(),
        train,
        strategy=sw.methods.LinearProbe(1),
        options=task.options,
        baseline=default_schedule(task),
    ).baseline  # type: ignore[return-value]


def _held_out(model: nn.Module, learnt: tuple[Tensor, Tensor] | None) -> float:
    """Return the accuracy on all handwritten digits but those learnt from."""
    splits = demo.data("valid"), demo.data("train"), demo.data("test")
    images, labels = (torch.cat(parts) for parts in zip(*splits, strict=True))
    if learnt is not None:
        seen = (torch.cdist(images.flatten(1), learnt[0].flatten(1)) == 0).any(1)
        images, labels = images[~seen], labels[~seen]
    return sw.evaluate(model, (images, labels)).value


def _row(done: list[sw.results.TransferResult], few: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    scores = [_held_out(d.model, train) for d, train in zip(done, few, strict=True)]
    spent = [d.cost for d in done]
    figures = {
        "steps": spent[0].steps,
        "macs": spent[0].macs,
        "s": round(float(np.median([s.seconds for s in spent])), 2),
    }
    packed = done[0].compressed
    return _spread(scores) | figures | ({} if packed is None else {"bytes": packed.nbytes})


def _spread(scores: list[float]) -> dict[str, Any]:
    percent = [round(100 * score, 2) for score in scores]
    return {
        "mean": round(float(np.mean(percent)), 1),
        "deviation": round(float(np.std(percent, ddof=1)), 1),
        "each": percent,
    }


if __name__ == "__main__":
    main()
