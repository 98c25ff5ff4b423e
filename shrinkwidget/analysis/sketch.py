"""The Sketch: one pass over the weights, a few kilobytes per tensor, all that charts and estimates ever need."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from ..argument_checks import public
from ..errors import FileError, ModelError, quoted
from ..method_registry import Statistics
from ..recipe import Granularity, Plan, Recipe, layer_label
from .channel_layout import Stated
from .file_size import needs_bfloat16, safetensors_bytes, structure_text
from .model_tensors import (
    COMPRESSIBLE_DTYPES,
    ModelTensors,
    Source,
    TensorEntry,
    dtype_name,
    open_model,
    where_float64_is,
)
from .parallel import each
from .quantization_group_histograms import (
    CHUNK,
    GRANULARITIES,
    NM_PATTERNS,
    Floats,
    Table,
    as_sent,
    block_counts,
    ratio_shares,
    relative_tables,
    survival_curves,
    tensor_table,
)
from .run_without_side_effects import reason
from .safetensors_checkpoint import serialized

_NOT_FINITE: Final = 0x7F80  # magnitude buckets from here on hold infinities and NaNs
_PATTERNS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers as wide as a float


@dataclass(frozen=True, slots=True, eq=False)
class Magnitudes:
    """The value table with both signs together, ascending: float64 arrays of one entry per bucket.

    `low`, `high`: edges of the bucket. `square`: mean square of its weights. `before`: weights below it, and `energy`
    their Σ w², both with one entry more for all weights.
    """

    low: Floats
    high: Floats
    count: Floats
    square: Floats
    before: Floats
    energy: Floats


@dataclass(frozen=True, eq=False)
class LayerSketch:
    """What is known of one compressible tensor of n weights.

    Recipes see it as a matrix of `rows` output channels × the rest; `width` are its output channels, of a stack of
    matrices those of one. `buckets` (uint16) and `counts` (int64) are the value table in ascending order of value;
    `tables` the relative tables by granularity; `survival` the kept fractions by n:m pattern, and `blocks` how many
    weights that are not zero each pattern keeps. `zeros` of the weights are exactly zero already, `negative_zeros` of
    them -0.0.
    """

    name: str
    shape: tuple[int, ...]
    rows: int
    width: int
    dtype: str
    lossless: bool
    half: str
    aliases: tuple[str, ...]
    buckets: NDArray[np.uint16]
    counts: NDArray[np.int64]
    absmax: float
    tables: Mapping[Granularity, Table]
    survival: Mapping[str, Floats]
    blocks: Mapping[str, int]
    zeros: int
    negative_zeros: int

    @cached_property
    def n(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns of the tensor as recipes see it."""
        return self.rows, self.n // self.rows

    @property
    def label(self) -> str:
        """The name without its ``.weight``."""
        return layer_label(self.name)

    @cached_property
    def itemsize(self) -> int:
        """Bytes of one dense weight."""
        return int(getattr(torch, self.dtype).itemsize)

    @cached_property
    def magnitudes(self) -> Magnitudes:
        """The value table with both signs together."""
        return _magnitudes(self.buckets, self.counts, self.lossless)

    @cached_property
    def energy(self) -> float:
        """Σ w², from the value table."""
        return float(self.magnitudes.energy[-1])


@dataclass(frozen=True, slots=True)
class UncompressedTensor:
    """A saved tensor no recipe compresses, and why."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    itemsize: int
    floating: bool
    role: str
    why: str


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is known of a model: its layers in order, the tensors kept as they are, and its dense size in bytes.

    `dense` is the size of a plain ``.safetensors`` file; `structure` the length of the packed file's structure text.
    `warnings` say in a sentence each what was taken for granted: which axis is the output channels where nothing tells.
    `calibration` is where importances find statistics of calibration data; it stays in this process.

    Example:
        >>> import shrinkwidget as sw
        >>> sketch = sw.sketch(sw.demo.model())
        >>> sketch.title, len(sketch.layers), sketch.layer("stem").n
        ('DigitNet', 14, 144)
    """

    title: str
    parameters: int
    original_nbytes: int
    structure: int
    layers: tuple[LayerSketch, ...]
    uncompressed: tuple[UncompressedTensor, ...]
    warnings: tuple[str, ...] = ()
    calibration: Statistics | None = None

    def __repr__(self) -> str:
        buckets = sum(len(layer.buckets) for layer in self.layers)
        layers = f"{len(self.layers)} layer{'s' * (len(self.layers) != 1)}"
        zero = self.zeros / sum(layer.n for layer in self.layers)
        already = f"; {zero:.1%} are zero already" if zero >= 0.0005 else ""
        about = f"{self.title}: {layers}, {self.parameters:,} parameters in {buckets:,} buckets{already}"
        return f"Sketch({'; '.join([about, *self.warnings])})"

    @property
    def zeros(self) -> int:
        """Number of compressible weights that are exactly zero already."""
        return sum(layer.zeros for layer in self.layers)

    def layer(self, name: str) -> LayerSketch:
        """Return the layer of this name, with or without its ``.weight``.

        Raises:
            KeyError: if there is none.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.sketch(sw.demo.model()).layer("stem").shape
            (16, 1, 3, 3)
        """
        for layer in self.layers:
            if name in (layer.name, layer.label):
                return layer
        raise KeyError(name)

    def plans(self, recipe: Recipe) -> list[Plan]:
        """Return what a recipe asks of each layer.

        Raises:
            RecipeError: if an override matches no layer, saying why where it names a tied or a kept tensor.

        Example:
            >>> import shrinkwidget as sw
            >>> sketch = sw.sketch(sw.demo.model())
            >>> plans = sketch.plans(sw.Recipe(bits=4, layers={"stem": sw.Keep}))
            >>> [plan.keep for plan in plans][:3]
            [True, False, False]
        """
        tied = {other: f"is tied to {layer.label!r}: name that" for layer in self.layers for other in layer.aliases}
        kept = {tensor.name: f"is never compressed anyway ({tensor.why})" for tensor in self.uncompressed}
        return recipe.resolve([layer.name for layer in self.layers], tied | kept)

    def encode(self) -> bytes:
        """Return the sketch as one self-contained blob (a safetensors file), the form in which charts receive it.

        Example:
            >>> import shrinkwidget as sw
            >>> sketch = sw.sketch(sw.demo.model())
            >>> from shrinkwidget.analysis.sketch import Sketch
            >>> Sketch.decode(sketch.encode()).title
            'DigitNet'
        """
        return encode(self)

    @classmethod
    def decode(cls, blob: bytes) -> Sketch:
        """Read what `encode` wrote.

        Example:
            >>> import shrinkwidget as sw
            >>> from shrinkwidget.analysis.sketch import Sketch
            >>> sketch = Sketch.decode(sw.sketch(sw.demo.model()).encode())
            >>> sw.estimate(sketch, bits=4) == sw.estimate(sw.demo.model(), bits=4)
            True
        """
        return decode(blob)


@public()
def sketch(source: Source | ModelTensors, *, layout: Stated = None) -> Sketch:
    """Look at every weight of a module, a state dict or a checkpoint on disk once.

    A checkpoint is a ``.safetensors`` file, the ``….safetensors.index.json`` of a sharded one, or a model's folder.

    Args:
        source: the model.
        layout: of a state dict or a checkpoint, which axis of a tensor is its output channels, where neither names nor
            biases nor the tensors beside it tell: ``"out_in"``, the first, as PyTorch has them, or ``"in_out"``, the
            last, as Keras and JAX have them. A dict of these by name or wildcard, ``{"W*": "in_out"}``, holds for the
            tensors it names, whatever else tells. Where nothing tells and nothing is said, the first axis is taken, and
            `warnings` say so.

    Raises:
        ModelError: for NaN or infinite weights (naming the layer), meta tensors, nothing to compress, or a `layout`
            that is none or names no tensor.
        FileError: for a path that is not a safetensors file.

    Example:
        >>> import shrinkwidget as sw
        >>> sketch = sw.sketch(sw.demo.model())
        >>> len(sketch.layers)
        14
        >>> sw.estimate(sketch, sw.Recipe(bits=4)).nbytes  # touches no weight any more
        95268
    """
    weights = source if isinstance(source, ModelTensors) else open_model(source, layout=layout)
    return _assembled(weights, tuple(each(sketch_layer, weights.layers)))


def counted(weights: ModelTensors) -> Sketch:
    """Return a sketch of value tables and zeros alone, all that exact masks and bytes need, in a tenth of the time.

    Nothing can be estimated from it, and it is never handed out.
    """
    return _assembled(weights, tuple(each(partial(sketch_layer, tables=False), weights.layers)))


def _assembled(weights: ModelTensors, layers: tuple[LayerSketch, ...]) -> Sketch:
    structure = structure_text(weights, {layer.name: layer.absmax for layer in layers})
    return Sketch(
        title=weights.title,
        parameters=sum(e.numel for e in weights.entries if e.role in ("parameter", "tensor")),
        original_nbytes=safetensors_bytes(weights.saved),
        structure=len(structure),
        layers=layers,
        uncompressed=tuple(_uncompressed(e) for e in weights.uncompressed),
        warnings=weights.warnings,
    )


def _uncompressed(e: TensorEntry) -> UncompressedTensor:
    floating = e.dtype in COMPRESSIBLE_DTYPES
    return UncompressedTensor(e.name, e.shape, dtype_name(e.dtype), e.nbytes, e.dtype.itemsize, floating, e.role, e.why)


@torch.no_grad()
def sketch_layer(entry: TensorEntry, tables: bool = True) -> LayerSketch:
    """Return the sketch of one tensor; see `sketch`, and `counted` for one without tables."""
    rows, histogram = _read(entry)
    buckets = _by_value(np.flatnonzero(histogram).astype(np.uint16))
    counts = histogram[buckets.astype(np.intp)]
    lossless = entry.dtype is torch.bfloat16
    least, most = torch.aminmax(rows)
    absmax = max(float(most), -float(least))
    zeros, negative = _zeros(rows) if not (buckets & 0x7FFF).all() else (0, 0)
    return LayerSketch(
        name=entry.name,
        shape=entry.shape,
        rows=len(rows),
        width=entry.layout.width(entry.shape),
        dtype=dtype_name(entry.dtype),
        lossless=lossless,
        half="bfloat16" if needs_bfloat16(entry.dtype, absmax) else "float16",
        aliases=entry.aliases,
        buckets=buckets,
        counts=counts,
        absmax=absmax,
        tables=_tables(rows, _magnitudes(buckets, counts, lossless), lossless, least, most) if tables else {},
        survival={p: as_sent(curve) for p, curve in survival_curves(rows, absmax).items()} if tables else {},
        blocks=block_counts(rows, some_zero=zeros > 0),
        zeros=zeros,
        negative_zeros=negative,
    )


def _tables(rows: Tensor, m: Magnitudes, lossless: bool, least: Tensor, most: Tensor) -> dict[Granularity, Table]:
    """Return the relative tables of all granularities."""
    energies = m.count * m.square
    ratios = ratio_shares(least.clamp(max=0)[None], most.clamp(min=0)[None])
    total = float((m.count * (m.low if lossless else (m.low + m.high) / 2)).sum())
    whole = tensor_table(m.low, m.high, m.count, energies, max(float(most), -float(least)), total, ratios)
    tables: dict[Granularity, Table] = {"tensor": whole, **relative_tables(rows, float(energies.sum()))}
    return {granularity: table.as_sent() for granularity, table in tables.items()}


def _zeros(tensor: Tensor) -> tuple[int, int]:
    """Return how many weights are zero, and how many of those -0.0. Bucket 0 holds the smallest denormals as well."""
    zeros = positive = 0
    for piece in torch.split(tensor.reshape(-1), CHUNK):
        zeros += piece.numel() - int(torch.count_nonzero(piece))
        positive += piece.numel() - int(torch.count_nonzero(piece.view(_PATTERNS[piece.dtype.itemsize])))
    return zeros, zeros - positive


def _read(entry: TensorEntry) -> tuple[Tensor, NDArray[np.int64]]:
    """Return the weights as a matrix, and the counts of their buckets: here they are touched first."""
    where = ""
    try:
        tensor = entry.load()
        where = f" from {tensor.device}"
        rows = where_float64_is(entry.layout.rows(tensor))
        return rows, _bucket_histogram(rows, entry)
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"the weights of {quoted(entry.name)} cannot be read{where} ({reason(error)}): "
            f"load the model anew, on a device that works"
        ) from error


def _bucket_histogram(tensor: Tensor, entry: TensorEntry) -> NDArray[np.int64]:
    """Return the counts of all 65,536 buckets (upper 16 bits of the float32 pattern)."""
    histogram = torch.zeros(1 << 16, dtype=torch.int64, device=tensor.device)
    for chunk in torch.split(tensor.reshape(-1), CHUNK):
        pattern = chunk.float().view(torch.int32)
        histogram += torch.bincount((pattern >> 16).bitwise_and_(0xFFFF), minlength=1 << 16)
    counts: NDArray[np.int64] = histogram.cpu().numpy()
    bad = int(counts[_NOT_FINITE:0x8000].sum() + counts[0x8000 + _NOT_FINITE :].sum())
    if bad:
        raise ModelError(
            f"layer {quoted(entry.name)} has {bad:,} weight{'s that are' if bad > 1 else ' that is'} NaN or infinite"
            f"{' as float32' if entry.dtype is torch.float64 else ''}: repair or retrain it before compressing"
        )
    return counts


def _by_value(buckets: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Return bucket ids in ascending order of value: negative ones from the largest magnitude down, then positive."""
    negative = buckets[buckets >= 0x8000]
    return np.concatenate([negative[::-1], buckets[buckets < 0x8000]])


def bucket_edges(magnitudes: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Return (low, high) of magnitude buckets, in float64; bucket 0 is the point zero."""
    patterns = magnitudes.astype(np.uint32)
    low = (patterns << np.uint32(16)).view(np.float32).astype(np.float64)
    high = ((patterns + np.uint32(1)) << np.uint32(16)).view(np.float32).astype(np.float64)
    return low, np.where(patterns == 0, 0.0, np.minimum(high, np.finfo(np.float32).max))


def _magnitudes(buckets: NDArray[np.uint16], counts: NDArray[np.int64], lossless: bool) -> Magnitudes:
    ids, where = np.unique(buckets & 0x7FFF, return_inverse=True)
    count: Floats = np.bincount(where, weights=counts.astype(np.float64)).astype(np.float64)
    low, high = bucket_edges(ids)
    square = low * low if lossless else mean_square(low, high)
    before, energy = (np.append(0.0, np.cumsum(each)) for each in (count, count * square))
    return Magnitudes(low, high, count, square, before, energy)


def mean_square(low: Floats, high: Floats) -> Floats:
    """Return the mean of x² over [low, high], x uniform."""
    return (low * low + low * high + high * high) / 3


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
        tensors, {"format": FORMAT, "version": VERSION, "model": json.dumps(_model_fields(sketch), ensure_ascii=False)}
    )


def _stacked(sketch: Sketch, part: Callable[[Table], Floats | float]) -> NDArray[np.float32]:
    return np.array([[part(layer.tables[g]) for layer in sketch.layers] for g in GRANULARITIES], dtype=np.float32)


def _model_fields(sketch: Sketch) -> dict[str, Any]:
    return {
        "title": sketch.title,
        "parameters": sketch.parameters,
        "original_nbytes": sketch.original_nbytes,
        "structure": sketch.structure,
        "layers": [_layer_fields(layer) for layer in sketch.layers],
        "uncompressed": [asdict(tensor) for tensor in sketch.uncompressed],
        "warnings": list(sketch.warnings),
        "granularities": list(GRANULARITIES),
        "patterns": list(NM_PATTERNS),
    }


_LAYER_FIELDS = (
    "name", "label", "shape", "rows", "width", "n", "dtype", "itemsize", "lossless", "half", "aliases", "zeros",
    "negative_zeros",
)  # fmt: skip


def _layer_fields(layer: LayerSketch) -> dict[str, Any]:
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
        return _decoded(json.loads(header["model"]), tensors)
    except (SafetensorError, KeyError, TypeError, IndexError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"this sketch is damaged ({error}); make a new one with sw.sketch(model)") from error


def _decoded(model: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Sketch:
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
        tables={g: _decoded_table(gi, i, tensors) for gi, g in enumerate(GRANULARITIES)},
        survival={p: tensors["survival"][pi, i].astype(np.float64) for pi, p in enumerate(NM_PATTERNS)},
        blocks=dict(zip(NM_PATTERNS, layer["blocks"], strict=True)),
        zeros=layer["zeros"],
        negative_zeros=layer["negative_zeros"],
    )


def _decoded_table(g: int, i: int, tensors: dict[str, NDArray[Any]]) -> Table:
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
