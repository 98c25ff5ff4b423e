"""How many tensors exported files hold to the bit, how large they are, and what they score.

Beside ours stands `gguf.quantize`, given the same effective weights. Targets that are not installed are left out.
Writes exports.json.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

import shrinkwidget as sw
from benchmarks.machine_info import hardware
from shrinkwidget.compression.encode_and_decode_layer import EncodedTensor
from shrinkwidget.errors import MissingPackageError, ModelError

RESULTS: Final = Path(__file__).with_suffix(".json")
RECIPES: Final[dict[str, dict[str, Any]]] = {
    "8 bits": dict(bits=8),
    "8 bits, symmetric": dict(bits=8, symmetric=True),
    "4 bits": dict(bits=4),
    "4 bits, groups of 32": dict(bits=4, granularity=32),
    "90 % sparse, 4 bits": dict(sparsity=0.9, bits=4),
    "3-bit k-means": dict(quantizer="kmeans", bits=3),
    "half precision": dict(bits=16),
}


def rows() -> list[dict[str, Any]]:
    """Return a row for each target and recipe."""
    found = []
    folded = sw.fold_batchnorm(sw.demo.model())
    test, train = sw.demo.data("test"), sw.demo.data("train")
    integers = dict(activations=8, calibrate=train)
    targets: dict[str, tuple[str, dict[str, Any]]] = {
        "ONNX, packed": ("m.onnx", dict(weights="packed")),
        "ONNX, dequantize": ("m.onnx", dict(weights="dequantize")),
        "ONNX, int8 activations": ("m.onnx", integers),
        "OpenVINO": ("m.xml", {}),
        "ExecuTorch": ("m.pte", {}),
    }
    for recipe, fields in RECIPES.items():
        small = sw.compress(folded, **fields)
        for target, (name, settings) in targets.items():
            row: dict[str, Any] = {"network": "demo", "target": target, "recipe": recipe, "packed": small.nbytes}
            found.append(row | exported(small, name, eval_data=test, **settings))
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval()
    for bits, kind in ((4, "Q4_0"), (5, "Q5_0"), (8, "Q8_0")):
        small = sw.compress(mlp, bits=bits, granularity=32, symmetric=True, scales="float16")
        row = {
            "network": "MLP 512-1024-1024-512",
            "recipe": f"{bits} bits, groups of 32, float16",
            "packed": small.nbytes,
        }
        found.append(row | {"target": "GGUF"} | exported(small, "m.gguf"))
        found.append(row | {"target": "gguf alone"} | gguf_alone(small, kind))
    return found


def exported(small: sw.CompressedModel, name: str, **given: Any) -> dict[str, Any]:
    """Return what one export came to, or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = small.export(Path(folder) / name, **given)
        except MissingPackageError as error:
            return {"left out": str(error)}
        except ModelError as error:
            return {"refused": str(error)}
    more = {"bytes": done.nbytes, "more": round(done.nbytes / small.nbytes - 1, 4), "exact": done.exact}
    if done.score is None or done.torch_score is None:
        return more
    return more | {
        "difference": float(f"{done.difference:.2g}"),
        "score": done.score.to_dict(),
        "torch score": done.torch_score.to_dict(),
        "notes": list(done.notes),
    }


def gguf_alone(small: sw.CompressedModel, kind: str) -> dict[str, Any]:
    """Return how many tensors, and what share of the values, gguf's own quantizer keeps."""
    import gguf

    tensors = values = total = 0
    for name, item in small.encoded.items():
        assert isinstance(item, EncodedTensor)
        wanted = small.state_dict()[name].numpy()
        quantized = gguf.quantize(wanted, gguf.GGMLQuantizationType[kind])
        same = gguf.dequantize(quantized, gguf.GGMLQuantizationType[kind]) == wanted
        tensors, values, total = tensors + bool(same.all()), values + int(same.sum()), total + same.size
    return {"exact": f"{tensors} of {len(small.encoded)} tensors exactly", "values kept": round(values / total, 4)}


def main() -> None:
    """Measure, print a table, and write the results."""
    warnings.simplefilter("ignore")
    found = rows()
    for row in found:
        what = row.get("refused") or row.get("left out") or row["exact"]
        score = f"{row['score']['value']:.2%} / {row['torch score']['value']:.2%}" if "score" in row else ""
        size = f"{row['bytes']:>9,} {row['more']:+8.1%}" if "bytes" in row else " " * 18
        print(f"{row['target']:24} {row['recipe']:32} {size}  {what[:60]:60} {score}")
    RESULTS.write_text(json.dumps({"machine": hardware("torch"), "seed": 0, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
