"""What each importance keeps at equal sparsity or channels, and each quantizer at equal bits, without retraining.

``python -m benchmarks.methods_compared [--data ../shared/data]`` prints rows and writes ``methods_compared.json``: of
the embedded network, and of the ResNet-20 for CIFAR-10 where the folder has it. Calibration data are training images,
scores those of test images. With ``--part channels`` only these rows are measured again, the others stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.recipe_and_method_registry import Scope

FILE: Final = Path(__file__).with_suffix(".json")
SPARSITIES: Final = (0.5, 0.7, 0.8)
IMPORTANCES: Final[tuple[tuple[str, Scope], ...]] = (
    ("random", "global"), ("magnitude", "global"), ("wanda", "global"), ("taylor", "global"),
    ("magnitude", "channel"), ("wanda", "channel"), ("taylor", "channel"),
)  # fmt: skip
CHANNELS: Final = (0.1, 0.2, 0.3)
CHANNEL_IMPORTANCES: Final = ("magnitude", "batchnorm_scale", "wanda", "taylor", "random")
QUANTIZERS: Final = (
    {"quantizer": "uniform"},
    {"quantizer": "uniform", "symmetric": True},
    {"quantizer": "nf4"},
    {"quantizer": "kmeans"},
)
GRANULARITIES: Final = ("channel", 64)
CALIBRATION, TEST = 512, 1000
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained network with images to calibrate and to test on."""

    name: str
    network: nn.Module
    calibration: Pair
    test: Pair


class ResNet20(nn.Module):
    """The ResNet-20 of He et al. (arXiv 1512.03385, 4.2), whose shortcuts drop pixels and add empty channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            blocks = [Block(widths[stage - (i == 0)], widths[stage], 1 + (i == 0 < stage - 1)) for i in range(3)]
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.more = (outputs - inputs) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more, self.more))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


def subjects(data: Path) -> Iterator[Subject]:
    """Yield the embedded network, and ResNet-20 where its weights and images are."""
    images, labels = sw.demo.data("train")
    train = images[:CALIBRATION], labels[:CALIBRATION]
    yield Subject("embedded network", sw.demo.model(), train, sw.demo.data("test"))
    if (weights := data / "resnet20-cifar10.safetensors").exists():
        network = ResNet20()
        network.load_state_dict(load_file(weights), strict=False)
        folder = data / "cifar10-jpeg"
        yield Subject(
            "ResNet-20, CIFAR-10 as JPEG",
            network.eval(),
            pictures(folder / "train.npz", CALIBRATION),
            pictures(folder / "test.npz", TEST),
        )


def pictures(path: Path, count: int) -> Pair:
    """Return the first images of a file, normalized as the network was trained, and their labels."""
    with np.load(path) as found:
        images, labels = torch.from_numpy(found["images"][:count]), torch.from_numpy(found["labels"][:count])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((images.float() / 255 - mean) / deviation).permute(0, 3, 1, 2).contiguous(), labels


def importances(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the accuracy under every importance and scope at every sparsity, and with batch norm recalibrated."""
    look = sw.sketch(subject.network, calibration=subject.calibration)
    for importance, scope in IMPORTANCES:
        for sparsity in SPARSITIES:
            small = sw.compress(subject.network, sparsity, importance=importance, scope=scope, sketch=look)
            row = {"network": subject.name, "importance": importance, "scope": scope, "sparsity": sparsity}
            row |= {"nbytes": small.nbytes, "accuracy": accuracy(small, subject)}
            again = sw.retrain(small, subject.calibration, method="recalibrate_batchnorm")
            yield row | {"recalibrated": accuracy(again, subject)}


def channels(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the accuracy without channels, ranked by every importance, and with batch norm recalibrated."""
    look = sw.sketch(subject.network, calibration=subject.calibration)
    found = sw.channels(subject.network, subject.test[0][:1])
    for scope in ("width", "global"):
        for fraction in CHANNELS:
            for importance in CHANNEL_IMPORTANCES:
                recipe = sw.Recipe(channels=fraction, channel_scope=scope, importance=importance)
                small = sw.compress(subject.network, recipe, example=found, sketch=look)
                row = {"network": subject.name, "importance": importance, "channel_scope": scope, "channels": fraction}
                row |= {"macs": round((small.macs or 0) / (small.original_macs or 1), 3)}
                again = sw.retrain(small, subject.calibration, method="recalibrate_batchnorm")
                yield row | {"accuracy": accuracy(small, subject), "recalibrated": accuracy(again, subject)}


def quantizers(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield error and accuracy of every quantizer at 4 bits."""
    for fields in QUANTIZERS:
        for granularity in GRANULARITIES:
            small = sw.compress(subject.network, bits=4, granularity=granularity, **fields)
            row = {"network": subject.name, **fields, "granularity": granularity, "nbytes": small.nbytes}
            sqnr = small.estimate.sqnr if small.estimate else 0.0
            yield row | {"sqnr": round(sqnr, 2), "accuracy": accuracy(small, subject)}


def accuracy(small: sw.CompressedModel, subject: Subject) -> float:
    """Return the share of test images that are right."""
    return round(sw.evaluate(small, subject.test).value, 4)


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="the folder of ResNet-20 and its images"
    )
    parts = {"importances": importances, "channels": channels, "quantizers": quantizers}
    parser.add_argument("--part", choices=[*parts], help="measure this part alone")
    given = parser.parse_args()
    rows: dict[str, list[dict[str, Any]]] = json.loads(FILE.read_text()) if given.part else {}
    rows |= {part: [] for part in ("dense", given.part)} if given.part else {part: [] for part in ("dense", *parts)}
    for subject in subjects(given.data):
        dense = round(sw.evaluate(subject.network, subject.test).value, 4)
        rows["dense"].append({"network": subject.name, "accuracy": dense, "n": len(subject.test[1])})
        for part in [given.part] if given.part else parts:
            for row in parts[part](subject):
                rows[part].append(row)
                print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    FILE.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
