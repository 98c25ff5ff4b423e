"""From clothes to hands, Fashion-MNIST to sign digits, beside training from scratch.

`python -m benchmarks.transfer_sign_digits` writes transfer_sign_digits.json. The images are read from a folder that the
project does not carry. The strategies are those of benchmarks.transfer_printed_to_handwritten, training from scratch
has the schedule of `baseline=True`; nothing was tuned on these images.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import Strategy

from .machine_info_and_wait_for_calm import hardware

RESULTS: Final = Path(__file__).with_suffix(".json")
SEEDS: Final = (0, 1, 2)
PER_CLASS: Final = (5, 10, 20)
SOURCE_IMAGES: Final = 10_000
STRATEGIES: Final[dict[str, Strategy]] = {
    "LinearProbe": sw.methods.LinearProbe(),
    "FullFineTune": sw.methods.FullFineTune(60),
}


def network() -> nn.Module:
    """Return a conv net for N×1×32×32: five 3×3 convolutions with batch norm, each halving the image."""
    widths = (1, 16, 32, 64, 64, 64)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1], 10))


def clothes(folder: Path) -> tuple[Tensor, Tensor]:
    """Return the first training images of Fashion-MNIST, N×1×32×32, 0…1, and their labels."""
    images, labels = _read(folder / "fashion-mnist" / "train.npz")
    return F.pad(images[:SOURCE_IMAGES, None], (2, 2, 2, 2)), labels[:SOURCE_IMAGES]


def signs(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Return sign digits in grey, N×1×32×32, 0…1, and their labels."""
    images, labels = _read(folder / "signdigits32" / f"{split}.npz")
    return images.mean(-1)[:, None], labels


def _read(path: Path) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        return torch.from_numpy(file["images"]).float() / 255, torch.from_numpy(file["labels"])


def few(data: tuple[Tensor, Tensor], per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return so many images of each class, drawn by a seed."""
    images, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[labels[order] == label][:per_class] for label in labels.unique()])
    return images[chosen], labels[chosen]


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the accuracy on the test signs: mean and standard deviation over the seeds."""
    train, test = signs(folder, "train"), signs(folder, "test")
    before = [_pretrained(folder, seed) for seed in SEEDS]
    for per_class in PER_CLASS:
        found: dict[str, list[sw.results.TransferResult]] = {"from scratch": [], **{name: [] for name in STRATEGIES}}
        for seed, model in zip(SEEDS, before, strict=True):
            examples, options = few(train, per_class, seed), sw.methods.TrainingOptions(seed=seed)
            for name, strategy in STRATEGIES.items():
                beside = name == "LinearProbe"
                done = sw.transfer(model, examples, test, strategy=strategy, options=options, baseline=beside)
                found[name].append(done)
                if done.baseline is not None:
                    found["from scratch"].append(done.baseline)
        for name, done_all in found.items():
            yield {"what": name, "per class": per_class, **_row(done_all)}


def _pretrained(folder: Path, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    schedule = sw.methods.Schedule(epochs=6, lr=0.1, decay="cosine", warmup=1)
    method, options = sw.methods.LearningRateRewinding(schedule), sw.methods.TrainingOptions(seed=seed, batch_size=100)
    trained = sw.retrain(network(), clothes(folder), method=method, options=options).model
    if trained is None:
        raise RuntimeError("a module came in, and none came out")
    return trained


def _row(done: list[sw.results.TransferResult]) -> dict[str, Any]:
    percent = [round(100 * d.score.value, 2) for d in done if d.score is not None]
    return {
        "mean": round(float(np.mean(percent)), 1),
        "deviation": round(float(np.std(percent, ddof=1)), 1),
        "each": percent,
        "steps": done[0].cost.steps,
        "macs": done[0].cost.macs,
        "s": round(float(np.median([d.cost.seconds for d in done])), 2),
    }


def main() -> None:
    """Measure, and write it down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer_sign_digits", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="the folder of the data sets")
    torch.set_num_threads(1)
    began, found = time.perf_counter(), []
    for row in rows(parser.parse_args().data):
        found.append(row)
        print(row, flush=True)
    about = {**hardware("torch"), "torch threads": 1, "seconds": round(time.perf_counter() - began)}
    text = json.dumps({"machine": about, "seeds": SEEDS, "rows": found}, indent=2)
    RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
