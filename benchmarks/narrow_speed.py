"""What half of ResNet-50's channels are worth in ONNX Runtime: measured speed and memory, not multiply-accumulates.

`python -m benchmarks.narrow_speed` races the dense network against one with half of its channels, at widths that are
multiples of 32, in float32 and as a static int8 network, and writes benchmarks/narrow_speed.json. Weights are random:
speed does not depend on them, and no accuracy is measured here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import shrinkwidget as sw

from .machine_info_and_wait_for_calm import hardware

RESULTS: Final = Path(__file__).with_name("narrow_speed.json")
CHANNELS: Final = 0.5
MULTIPLE: Final = 32
TARGETS: Final = {"float32": 3.2, "int8": 8.0, "memory": 7.0}


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al. 2016, arXiv 1512.03385), its stride in the 3×3 convolution."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNet50(nn.Sequential):
    """25,557,032 parameters, batch norms between convolutions and ReLUs as usual."""

    def __init__(self) -> None:
        blocks, inputs = [], 64
        for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for number in range(count):
                blocks.append(Bottleneck(inputs, width, stride if number == 0 else 1))
                inputs = 4 * width
        stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def main() -> None:
    """Export, race, weigh, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--image", type=int, default=64)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, x = ResNet50().eval(), torch.randn(8, 3, given.image, given.image)
    dense = sw.compress(model, bits=32)
    narrow = sw.compress(model, channels=CHANNELS, multiple=MULTIPLE, bits=32, example=x[:1])
    assert narrow.model is not None
    # a batch norm between an int8 convolution and its ReLU would be computed in floats
    small = sw.compress(sw.fold_batchnorm(narrow.model), bits=8)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f"{name}.onnx") for name in ("dense", "float32", "int8")}
        exported = {
            "dense": dense.export(files["dense"], example=x[:1]),
            "float32": narrow.export(files["float32"], example=x[:1]),
            "int8": small.export(files["int8"], example=x[:1], calibrate=x, activations=8),
        }
        race = sw.race(files, x[:1], batch=(1, 8), rounds=given.rounds, seconds=120, progress=False)
        memory = sw.performance.memory(files, x[:1])
    assert narrow.macs is not None
    assert narrow.original_macs is not None
    added = {one.name: one.added for one in memory.models}
    found: dict[str, Any] = {
        "machine": hardware("torch", "onnxruntime"),
        "channels": CHANNELS,
        "multiple": MULTIPLE,
        "image": given.image,
        "fewer multiply-accumulates": round(narrow.original_macs / narrow.macs, 2),
        "file bytes": {name: file.nbytes for name, file in exported.items()},
        "bytes added to the runtime's": added,
        "targets": TARGETS,
        "race": race.to_dict(),
    }
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(race)
    print(memory)


if __name__ == "__main__":
    main()
