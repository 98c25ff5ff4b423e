"""The sketch as one blob of bytes, a safetensors file of a dozen tables: how sketches travel to charts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from ..errors import FileError, quoted
from .log_histogram_bins import GRANULARITIES, NM_PATTERNS, Floats
from .quantization_group_histograms import Table
from .safetensors_file import serialized
from .sketch import LayerSketch, Sketch, UncompressedTensor

FORMAT = "shrinkwidget-sketch"
VERSION = "2"


def encode(sketch: Sketch) -> bytes:
    """Return the blob; layers L, granularities G, patterns P, 162 bins, 64 runs: see docs/estimate.md."""
    layers = sketch.layers
    counts = np.concatenate([layer.counts for layer in layers])
    tensors: dict[str, NDArray[Any]] = {
        "value_buckets": np.concatenate([layer.buckets for layer in layers]),
        "value_counts": counts.astype(np.uint32 if counts.max() < 2**32 else np.float64),
        "value_starts": np.cumsum([0, *(len(layer.buckets) for layer in layers)], dtype=np.uint32),
        "bin_count": _stacked(sketch, lambda t: t.count),
        "bin_energy": _stacked(sketch, lambda t: t.energy),
        "range_value": _stacked(sketch, lambda t: t.values),
        "range_energy": _stacked(sketch, lambda t: t.range_energy),
        "range_count": _stacked(sketch, lambda t: t.range_count),
        "ratios": _stacked(sketch, lambda t: t.ratios),
        "captured": _stacked(sketch, lambda t: t.captured),
        "absmax": np.array([layer.absmax for layer in layers], dtype=np.float32),
        "survival": np.array([[layer.survival[p] for layer in layers] for p in NM_PATTERNS], dtype=np.float32),
    }
    return serialized(
        tensors, {"format": FORMAT, "version": VERSION, "model": json.dumps(_model(sketch), ensure_ascii=False)}
    )


def _stacked(sketch: Sketch, part: Callable[[Table], Floats | float]) -> NDArray[np.float32]:
    return np.array([[part(layer.tables[g]) for layer in sketch.layers] for g in GRANULARITIES], dtype=np.float32)


def _model(sketch: Sketch) -> dict[str, Any]:
    return {
        "title": sketch.title,
        "parameters": sketch.parameters,
        "original_nbytes": sketch.original_nbytes,
        "structure": sketch.structure,
        "layers": [_layer(layer) for layer in sketch.layers],
        "uncompressed": [asdict(tensor) for tensor in sketch.uncompressed],
        "warnings": list(sketch.warnings),
        "granularities": list(GRANULARITIES),
        "patterns": list(NM_PATTERNS),
    }


_LAYER_FIELDS = (
    "name", "label", "shape", "rows", "width", "n", "dtype", "itemsize", "lossless", "half", "aliases", "zeros",
    "negative_zeros",
)  # fmt: skip


def _layer(layer: LayerSketch) -> dict[str, Any]:
    fields = {field: getattr(layer, field) for field in _LAYER_FIELDS}
    return {**fields, "blocks": [layer.blocks[p] for p in NM_PATTERNS]}


def decode(blob: bytes) -> Sketch:
    """Read what `encode` wrote.

    Raises:
        FileError: if the blob is not a sketch of this version.
    """
    try:
        tensors = load(blob)
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
        if header.get("format") != FORMAT or header.get("version") != VERSION:
            raise FileError(
                f"this is not a shrinkwidget sketch of version {VERSION}; make a new one with sw.sketch(model)"
            )
        return _assembled(json.loads(header["model"]), tensors)
    except (SafetensorError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"this sketch is damaged ({error}); make a new one with sw.sketch(model)") from error


def _assembled(model: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Sketch:
    layers = tuple(_layer_sketch(i, layer, tensors) for i, layer in enumerate(model["layers"]))
    kept = tuple(UncompressedTensor(**{**tensor, "shape": tuple(tensor["shape"])}) for tensor in model["uncompressed"])
    warnings = tuple(model["warnings"])
    return Sketch(
        model["title"], model["parameters"], model["original_nbytes"], model["structure"], layers, kept, warnings
    )


def _layer_sketch(i: int, layer: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> LayerSketch:
    start, end = (int(x) for x in tensors["value_starts"][i : i + 2])
    counts = tensors["value_counts"][start:end].astype(np.int64)
    if int(counts.sum()) != math.prod(layer["shape"]):
        raise ValueError(f"the counts of {quoted(layer['name'])} do not add up to its size")
    return LayerSketch(
        name=layer["name"],
        shape=tuple(layer["shape"]),
        rows=layer["rows"],
        width=layer["width"],
        dtype=layer["dtype"],
        lossless=layer["lossless"],
        half=layer["half"],
        aliases=tuple(layer["aliases"]),
        buckets=tensors["value_buckets"][start:end],
        counts=counts,
        absmax=float(tensors["absmax"][i]),
        tables={g: _table(gi, i, tensors) for gi, g in enumerate(GRANULARITIES)},
        survival={p: tensors["survival"][pi, i].astype(np.float64) for pi, p in enumerate(NM_PATTERNS)},
        blocks=dict(zip(NM_PATTERNS, layer["blocks"], strict=True)),
        zeros=layer["zeros"],
        negative_zeros=layer["negative_zeros"],
    )


def _table(g: int, i: int, tensors: dict[str, NDArray[Any]]) -> Table:
    def row(name: str) -> Floats:
        return np.asarray(tensors[name][g, i], dtype=np.float64)

    return Table(
        row("bin_count"),
        row("bin_energy"),
        row("range_value"),
        row("range_energy"),
        row("range_count"),
        row("ratios"),
        float(tensors["captured"][g, i]),
    )
