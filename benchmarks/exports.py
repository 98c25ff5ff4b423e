"""How many tensors exported files hold to the bit, how large they are, what they score, and how fast .pte files are.

Beside ours stands `gguf.quantize`, given the same effective weights. Targets that are not installed are left out.
Writes exports.json.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

import shrinkwidget as sw
from benchmarks.machine_info_and_wait_for_calm import hardware
from shrinkwidget.compression.encode_layers_and_packed_model import EncodedTensor
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
        "ExecuTorch, int8 activations": ("m.pte", dict(activations=8)),
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
    x = torch.rand(2, 512)
    recipes: dict[str, dict[str, Any]] = {
        "8 bits, symmetric": dict(bits=8),
        "4 bits, symmetric": dict(bits=4),
        "4 bits, groups of 32, bfloat16": dict(bits=4, granularity=32, scales="bfloat16"),
    }
    for recipe, fields in recipes.items():
        small = sw.compress(mlp, symmetric=True, **fields)
        for target, settings in (("ExecuTorch", {}), ("ExecuTorch, int8 activations", dict(activations=8))):
            row = {"network": "MLP 512-1024-1024-512", "recipe": recipe, "packed": small.nbytes, "target": target}
            found.append(row | exported(small, "m.pte", example=x, **settings))
    return found


def races() -> dict[str, list[str]]:
    """Return how many times faster .pte files are than plain floats in ExecuTorch, at batch 1 and 32."""
    folded = sw.fold_batchnorm(sw.demo.model())
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 512)).eval()
    image, vector = sw.demo.data("test")[0][:1], torch.rand(1, 512)
    narrow = sw.compress(folded, channels=0.75, bits=8, symmetric=True, example=image)
    demo8 = sw.compress(folded, bits=8, symmetric=True)
    mlp8, mlp4 = sw.compress(mlp, bits=8, symmetric=True), sw.compress(mlp, bits=4, symmetric=True)
    blocks = sw.compress(mlp, bits=4, symmetric=True, granularity=32, scales="bfloat16")
    contests: list[tuple[torch.Tensor, dict[str, tuple[sw.CompressedModel, dict[str, Any]]]]] = [
        (
            image,
            {
                "demo, floats": (demo8, dict(weights="float")),
                "demo, int8 activations": (demo8, dict(activations=8)),
                "demo, a quarter of the channels": (narrow, dict(weights="float")),
                "demo, a quarter of the channels, int8 activations": (narrow, dict(activations=8)),
            },
        ),
        (
            vector,
            {
                "MLP, floats": (mlp8, dict(weights="float")),
                "MLP, 8 bits": (mlp8, {}),
                "MLP, 4 bits": (mlp4, {}),
                "MLP, 8 bits, int8 activations": (mlp8, dict(activations=8)),
                "MLP, 4 bits, int8 activations": (mlp4, dict(activations=8)),
                "MLP, 4 bits in groups of 32, int8 activations": (blocks, dict(activations=8)),
            },
        ),
    ]
    told: dict[str, list[str]] = {}
    for x, models in contests:
        with tempfile.TemporaryDirectory() as folder:
            files = {name: str(Path(folder) / f"{i}.pte") for i, name in enumerate(models)}
            for name, (small, settings) in models.items():
                small.export(files[name], example=x, **settings)
            found = sw.race(files, x, batch=(1, 32), rounds=64)
            told |= {name: [found.text(name, batch) for batch in (1, 32)] for name in list(files)[1:]}
    return told


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
    raced = {}
    with suppress(MissingPackageError):
        raced = races()
    for name, texts in raced.items():
        print(f"{name:52} {'; '.join(texts)}")
    report = {"machine": hardware("torch"), "seed": 0, "rows": found, "races of .pte files": raced}
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
