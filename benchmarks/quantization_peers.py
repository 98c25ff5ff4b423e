"""The default grid beside those of ONNX Runtime, GGUF and torchao, at the same bits and groups.

``python -m benchmarks.quantization_peers [resnet20.safetensors]`` prints dB, and writes
``quantization_peers.json``.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import torch
from torch import Tensor
from torchao.quantization import quant_primitives as torchao

import shrinkwidget as sw

FILE = Path(__file__).with_suffix(".json")
BITS = (2, 3, 4, 5, 6, 8)


def weights() -> dict[str, Tensor]:
    """Return what is rounded: symmetric, heavy-tailed and lopsided distributions, and a trained layer where given."""
    torch.manual_seed(0)
    shape = (256, 1024)
    found = {
        "Gaussian": torch.randn(shape),
        "Laplace": torch.distributions.Laplace(0.0, 1.0).sample(shape),
        "Student-t, 4 degrees": torch.distributions.StudentT(4.0).sample(shape),
        "one-sided (|Gaussian|)": torch.randn(shape).abs(),
        "skewed (exponential - 0.5)": torch.distributions.Exponential(1.0).sample(shape) - 0.5,
    }
    if len(sys.argv) > 1:
        from safetensors.torch import load_file

        found["ResNet-20, layer3.2.conv2"] = load_file(sys.argv[1])["layer3.2.conv2.weight"].flatten(1)
    return found


def groups(w: Tensor, granularity: str | int) -> Tensor:
    """Return the weights with one group to a row."""
    return w.reshape({"tensor": (1, -1), "channel": w.shape}.get(str(granularity), (-1, 32)))


def full_range(blocks: Tensor, bits: int) -> Tensor:
    """Round as ONNX Runtime's symmetric MatMulNBits and GGUF's Q4_0: the largest magnitude is -2^(bits - 1) steps."""
    half = 2 ** (bits - 1)
    step = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -half
    rounded: Tensor = (blocks / step).round().clamp(-half, half - 1) * step
    return rounded


def by_torchao(blocks: Tensor, bits: int, mapping: str) -> Tensor:
    """Round as torchao does, also ONNX Runtime's asymmetric grid, which is the same."""
    low, high = (0, 2**bits - 1) if mapping == "ASYMMETRIC" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    size, kind = [1, blocks.shape[1]], torchao.MappingType[mapping]
    scale, zero = torchao.choose_qparams_affine(blocks, kind, size, torch.int32, low, high)
    codes = torchao.quantize_affine(blocks, size, scale, zero, torch.int32, low, high)
    rounded: Tensor = torchao.dequantize_affine(codes, size, scale, zero, torch.int32, low, high)
    return rounded


def decibels(before: Tensor, after: Tensor) -> float:
    """Return signal over noise."""
    return 10 * math.log10(float(before.double().square().sum() / (after.double() - before).square().sum()))


def main() -> None:
    """Print the table and write the file."""
    rows: list[dict[str, object]] = []
    behind = 0.0
    for name, w in weights().items():
        for granularity in (32, "channel", "tensor"):
            blocks = groups(w, granularity)
            for bits in BITS:
                recipe = sw.Recipe(bits=bits, granularity=granularity)
                after = sw.compress({"w": w}, recipe).state_dict()["w"]
                ours = decibels(w, after)
                peers = {
                    "full range (ONNX Runtime, GGUF)": decibels(blocks, full_range(blocks, bits)),
                    "torchao symmetric": decibels(blocks, by_torchao(blocks, bits, "SYMMETRIC")),
                    "torchao asymmetric": decibels(blocks, by_torchao(blocks, bits, "ASYMMETRIC")),
                }
                behind = max(behind, *(theirs - ours for theirs in peers.values()))
                figures = {"shrinkwidget": ours, **peers}
                row: dict[str, object] = {"weights": name, "granularity": granularity, "bits": bits}
                rows.append(row | {key: round(value, 2) for key, value in figures.items()})
                print(*row.values(), *(f"{key} {value:.2f}" for key, value in figures.items()), sep=" | ")
    FILE.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"at worst {behind:.2f} dB behind the best peer")


if __name__ == "__main__":
    main()
