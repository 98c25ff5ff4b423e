"""The Sketch: one pass over the weights, a few kilobytes per tensor, all that charts and estimates ever need."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load
from torch import Tensor

from ..argument_checks import public
from ..errors import FileError, ModelError, layer_label, quoted, reason
from ..recipe_and_method_registry import Granularity, Plan, Recipe, Statistics
from .channel_families_and_counts import Channels
from .open_model_tensors_and_channel_axes import (
    ModelOverview,
    ModelTensors,
    Source,
    Stated,
    TensorEntry,
    UncompressedTensor,
    dtype_name,
    needs_bfloat16,
    not_finite,
    open_model,
    overview,
    plans_of,
    structure_length,
    where_float64_is,
)
from .quantization_group_histograms import (
    CHUNK,
    GRANULARITIES,
    Floats,
    Table,
    as_sent,
    relative_tables,
    survival_curves,
    tensor_table,
    unit_groups,
)
from .read_tensors_and_serialize_safetensors import serialized
from .tensor_ops_threads_and_cpu_kernel import NM_PATTERNS, Groups, Zeros, chunk_size, count_zeros, each, kernel_for

_FORMAT: Final = "shrinkwidget-sketch"
# of the tables and of what stands for a model in the header; the browser's `js/core/sketch-decoder.ts` asks for it too
_VERSION: Final = "2"
_LAYER_FIELDS: Final = (
    "name", "label", "shape", "rows", "width", "n", "dtype", "itemsize", "lossless", "half", "aliases", "zeros",
    "negative_zeros",
)  # fmt: skip
_TABLES: Final = ("bin_count", "bin_energy", "range_value", "range_energy", "range_count", "ratios", "captured")


_Number = TypeVar("_Number", float, Floats)


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
    counts: NDArray[Any]
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


@dataclass(frozen=True, eq=False)
class Sketch(ModelOverview):
    """What is known of a model: its layers in order, the tensors kept as they are, and its dense size in bytes.

    See `ModelOverview` for what it knows besides its layers. `calibration` is where importances find statistics of
    calibration data; it stays in this process. `channels` are the families of channels that may be removed, if it was
    made with an example.

    Example:
        >>> import shrinkwidget as sw
        >>> sketch = sw.sketch(sw.demo.model())
        >>> sketch.title, len(sketch.layers), sketch.layer("stem").n
        ('DigitNet', 14, 144)
    """

    layers: tuple[LayerSketch, ...]
    calibration: Statistics | None = None
    channels: Channels | None = None

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
        return plans_of(recipe, self.layers, self.uncompressed)

    def encode(self, pending: Sequence[TensorEntry] = ()) -> bytes:
        """Return the sketch as one self-contained blob (a safetensors file), the form in which charts receive it.

        Its tables have axes for granularities and n:m patterns, layers, 162 bins, 64 runs: see ``docs/estimate.md``.
        `pending` are the layers that follow and are not sketched yet.

        Example:
            >>> import shrinkwidget as sw
            >>> sketch = sw.sketch(sw.demo.model())
            >>> from shrinkwidget.analysis.sketch import Sketch
            >>> Sketch.decode(sketch.encode()).title
            'DigitNet'
        """
        layers = self.layers
        counts = np.concatenate([np.zeros(0, np.int64), *(layer.counts for layer in layers)])

        def by_granularity(part: Callable[[Table], Floats | float]) -> NDArray[np.float32]:
            return np.array([[part(layer.tables[g]) for layer in layers] for g in GRANULARITIES], dtype=np.float32)

        tensors: dict[str, NDArray[Any]] = {
            "value_buckets": np.concatenate([np.zeros(0, np.uint16), *(layer.buckets for layer in layers)]),
            # numbers as a browser reads them: no 64-bit integers, and floats hold all counts below 2**53
            "value_counts": counts.astype(np.uint32 if counts.max(initial=0) < 2**32 else np.float64),
            "value_starts": np.cumsum([0, *(len(layer.buckets) for layer in layers)], dtype=np.uint32),
            "bin_count": by_granularity(lambda t: t.count),
            "bin_energy": by_granularity(lambda t: t.energy),
            "range_value": by_granularity(lambda t: t.values),
            "range_energy": by_granularity(lambda t: t.range_energy),
            "range_count": by_granularity(lambda t: t.range_count),
            "ratios": by_granularity(lambda t: t.ratios),
            "captured": by_granularity(lambda t: t.captured),
            "absmax": np.array([layer.absmax for layer in layers], dtype=np.float32),
            "survival": np.array([[layer.survival[p] for layer in layers] for p in NM_PATTERNS], dtype=np.float32),
        }
        fields = []
        for layer in layers:
            blocks = {"blocks": [layer.blocks[p] for p in NM_PATTERNS]}
            fields.append({field: getattr(layer, field) for field in _LAYER_FIELDS} | blocks)
        if self.channels is not None and self.channels.families:
            tensors["channel_scores"] = np.concatenate([family.scores for family in self.channels.families])
        rest = {"pending": [layer_header(entry) for entry in pending]} if pending else {}
        text = json.dumps(self.about() | {"layers": fields} | rest, ensure_ascii=False)
        return serialized(tensors, {"format": _FORMAT, "version": _VERSION, "model": text})

    def about(self) -> dict[str, Any]:
        """Return all but the layers as JSON, as `encode` writes it.

        Example:
            >>> import shrinkwidget as sw
            >>> about = sw.sketch(sw.demo.model()).about()
            >>> about["title"], about["layers"], about["patterns"]
            ('DigitNet', [], ['2:4', '1:4', '4:8'])
        """
        channels = {} if self.channels is None else {"channels": self.channels.to_dict()}
        return channels | {
            "title": self.title,
            "parameters": self.parameters,
            "original_nbytes": self.original_nbytes,
            "structure": self.structure,
            "layers": [],
            "uncompressed": [asdict(tensor) for tensor in self.uncompressed],
            "warnings": list(self.warnings),
            "granularities": list(GRANULARITIES),
            "patterns": list(NM_PATTERNS),
        }

    @classmethod
    def decode(cls, blob: bytes) -> Sketch:
        """Read what `encode` wrote.

        Raises:
            FileError: if the blob is not a sketch of this version.

        Example:
            >>> import shrinkwidget as sw
            >>> from shrinkwidget.analysis.sketch import Sketch
            >>> sketch = Sketch.decode(sw.sketch(sw.demo.model()).encode())
            >>> sw.estimate(sketch, bits=4) == sw.estimate(sw.demo.model(), bits=4)
            True
        """
        try:
            tensors = load(blob)
            # `safetensors.numpy.load` returns tensors alone: the metadata is read here, from the JSON text after its
            # own length
            header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]
            if header.get("format") != _FORMAT or header.get("version") != _VERSION:
                raise FileError(
                    f"this is not a shrinkwidget sketch of version {_VERSION}; make a new one with sw.sketch(model)"
                )
            model = json.loads(header["model"])
            if "pending" in model:
                raise FileError("this sketch is not complete; make a new one with sw.sketch(model)")
            return cls(
                title=model["title"],
                parameters=model["parameters"],
                original_nbytes=model["original_nbytes"],
                structure=model["structure"],
                layers=tuple(_decoded_layer(i, layer, tensors) for i, layer in enumerate(model["layers"])),
                uncompressed=tuple(
                    UncompressedTensor(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in model["uncompressed"]
                ),
                warnings=tuple(model["warnings"]),
                channels=_decoded_channels(model, tensors),
            )
        except (SafetensorError, KeyError, TypeError, IndexError, ValueError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"this sketch is damaged ({error}); make a new one with sw.sketch(model)") from error


@public()
def sketch(source: Source | ModelTensors, *, layout: Stated = None) -> Sketch:
    """Look at every weight of a module, a state dict or a checkpoint on disk once.

    A checkpoint is a ``.safetensors`` file, the ``….safetensors.index.json`` of a sharded one, or a model's folder.

    This is ``sw.sketch`` without its `calibration`, which has to run the model and stands in
    `evaluation/sketch_and_calibration_data.py`.

    Args:
        source: the model.
        layout: see ``sw.sketch``.

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
    return assembled(weights, tuple(each(sketch_layer, weights.layers, on_gpu=weights.on_gpu)))


def counted(weights: ModelTensors) -> Sketch:
    """Return a sketch of value tables and zeros alone, all that exact masks and bytes need, in a tenth of the time.

    Nothing can be estimated from it, and it is never handed out.
    """
    return assembled(weights, tuple(each(partial(sketch_layer, tables=False), weights.layers, on_gpu=weights.on_gpu)))


def assembled(weights: ModelTensors, layers: tuple[LayerSketch, ...]) -> Sketch:
    """Return the sketch of a model whose layers are sketched, in order."""
    peaks = {layer.name: layer.absmax for layer in layers}
    return replace(without_layers(weights), structure=structure_length(weights, peaks), layers=layers)


def without_layers(weights: ModelTensors) -> Sketch:
    """Return what a sketch says before any weight is read: all but its layers and the length of its structure."""
    return Sketch(**vars(overview(weights, 0)), layers=())


def layer_header(entry: TensorEntry) -> dict[str, Any]:
    """Return what is known of a layer before its weights are read, as `Sketch.encode` writes it."""
    return {
        "name": entry.name,
        "label": layer_label(entry.name),
        "shape": entry.shape,
        "rows": entry.matrix[0],
        "width": entry.layout.width(entry.shape),
        "n": entry.numel,
        "dtype": dtype_name(entry.dtype),
        "itemsize": entry.dtype.itemsize,
        "lossless": entry.dtype is torch.bfloat16,
        "aliases": entry.aliases,
    }


@torch.no_grad()
def sketch_layer(entry: TensorEntry, tables: bool = True) -> LayerSketch:
    """Return the sketch of one tensor; see `sketch`, and `counted` for one without tables."""
    where = ""
    try:  # weights are touched here first, so that here is where a device that no longer works is noticed
        tensor = entry.load()
        where = f" from {tensor.device}"
        rows = where_float64_is(entry.layout.rows(tensor))
        kernel = kernel_for(rows)
        # one look at every weight for all three: memory is what a sketch waits for
        buckets, counts, groups = kernel.scan(rows) if kernel is not None else (*_value_table(rows), None)
        if tables and groups is None:
            groups = unit_groups(rows)
    except (RuntimeError, OSError) as error:
        raise ModelError(
            f"the weights of {quoted(entry.name)} cannot be read{where} ({reason(error)}): "
            f"load the model again, on a device that works"
        ) from error
    magnitudes = buckets & 0x7FFF
    if bad := int(counts[magnitudes >= 0x7F80].sum()):  # the exponent of infinities and NaNs
        raise not_finite(entry, bad)
    lossless = entry.dtype is torch.bfloat16  # a bucket is one number of this type
    # exact, as grids end there; a bucket would be off by up to 0.8 %
    if groups is not None and rows.dtype != torch.float64:
        ends = sorted([-float(groups.low.min()), float(groups.high.max())])
    else:
        least, most = torch.aminmax(rows)
        ends = sorted([max(-float(least), 0.0), max(float(most), 0.0)])
    absmax = ends[1]
    # bucket 0 holds the smallest denormals as well: the zeros in it are counted
    whole = {pattern: block_count((len(rows), rows.shape[1]), *nm) for pattern, nm in NM_PATTERNS.items()}
    zeros = Zeros(0, 0, whole) if magnitudes.all() else count_zeros(rows)
    relative: dict[Granularity, Table] = {}
    both_signs = None
    if tables and groups is not None:
        both_signs = _magnitudes(buckets, counts, lossless)
        relative = _tables(rows, groups, both_signs, lossless, ends)
    found = LayerSketch(
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
        tables=relative,
        survival={p: as_sent(curve) for p, curve in survival_curves(rows, absmax).items()} if tables else {},
        blocks=zeros.blocks,
        zeros=zeros.zeros,
        negative_zeros=zeros.negative,
    )
    if both_signs is not None:
        vars(found)["magnitudes"] = both_signs  # the first estimate need not make them again
    return found


def _tables(
    rows: Tensor, groups: Groups, m: Magnitudes, lossless: bool, ends: Sequence[float]
) -> dict[Granularity, Table]:
    """Return the relative tables of all granularities."""
    energies = m.count * m.square
    total = float((m.count * (m.low if lossless else (m.low + m.high) / 2)).sum())
    whole = tensor_table(m.low, m.high, m.count, energies, (ends[0], ends[1]), total)
    tables: dict[Granularity, Table] = {"tensor": whole, **relative_tables(rows, groups, float(energies.sum()))}
    return {granularity: table.as_sent() for granularity, table in tables.items()}


def block_count(matrix: tuple[int, int], n: int, m: int) -> int:
    """Return how many weights n:m keeps: n of every m along a row, min(n, rest) of a shorter block at its end."""
    rows, width = matrix
    return rows * (width // m * n + min(n, width % m))


def _value_table(rows: Tensor) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Return the buckets in ascending order of value, and their counts.

    A bucket is the upper 16 bits of the float32 pattern: sign, exponent and 7 bits of mantissa are bins on a
    logarithmic scale for the cost of a shift, 128 to an octave.
    """
    histogram = torch.zeros(1 << 16, dtype=torch.int64, device=rows.device)
    for chunk in torch.split(rows.reshape(-1), chunk_size(rows.device, CHUNK)):
        pattern = chunk.float().view(torch.int32)
        # the shift copies the sign into the upper half
        histogram += torch.bincount((pattern >> 16).bitwise_and_(0xFFFF), minlength=1 << 16)
    counts: NDArray[np.int64] = histogram.cpu().numpy()
    buckets = np.flatnonzero(counts).astype(np.uint16)
    # negative buckets from the largest magnitude down, then positive ones
    buckets = np.concatenate([buckets[buckets >= 0x8000][::-1], buckets[buckets < 0x8000]])
    return buckets, counts[buckets.astype(np.intp)]


def bucket_edges(magnitudes: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Return (low, high) of magnitude buckets, in float64; bucket 0 is the point zero."""
    # A bucket's number is the upper half of a float32 pattern: with zeros below it stands for the lower edge. The next
    # number's lower edge ends it, except that after the largest there is only infinity.
    patterns = magnitudes.astype(np.uint32)
    low = (patterns << np.uint32(16)).view(np.float32).astype(np.float64)
    high = ((patterns + np.uint32(1)) << np.uint32(16)).view(np.float32).astype(np.float64)
    return low, np.where(patterns == 0, 0.0, np.minimum(high, np.finfo(np.float32).max))


def _magnitudes(buckets: NDArray[np.uint16], counts: NDArray[np.int64], lossless: bool) -> Magnitudes:
    # without the sign bit, buckets of either sign have the same number
    magnitudes = buckets & 0x7FFF
    least = int(magnitudes.min())
    # counted from the smallest on: those of weights about 0.01 begin at 15,000, and what is below would be zeros to sum
    totals = np.bincount(magnitudes - least, weights=counts)
    ids = np.flatnonzero(totals) + least
    count: Floats = totals[ids - least].astype(np.float64)
    low, high = bucket_edges(ids)
    square = low * low if lossless else mean_square(low, high)
    before, energy = (np.append(0.0, np.cumsum(each)) for each in (count, count * square))
    return Magnitudes(low, high, count, square, before, energy)


def mean_square(low: _Number, high: _Number) -> _Number:
    """Return the mean of x² over [low, high], x uniform."""
    return (low * low + low * high + high * high) / 3


def _decoded_channels(model: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Channels | None:
    if "channels" not in model:
        return None
    scores = tensors.get("channel_scores", np.zeros(0, np.float32))
    if len(scores) != sum(family["channels"] for family in model["channels"]["families"]):
        raise ValueError("its scores are not one for each channel")
    return Channels.from_dict(model["title"], model["channels"], scores)


def narrowed_to(look: Sketch, left: Sequence[int]) -> Sketch:
    """Return the sketch of what is left of a model when so many channels of each of its families are.

    The number of parameters and the dense bytes stay those of the whole model: that is what ratios are about.
    """
    found = look.channels
    if found is None or list(left) == [family.channels for family in found.families]:
        return look
    shapes = found.shapes_after(left)
    layers = tuple(
        narrowed_layer(layer, shapes[layer.name], found.layout(layer.name).matrix(shapes[layer.name]))
        for layer in look.layers
    )
    uncompressed = tuple(
        replace(t, shape=shapes[t.name], nbytes=math.prod(shapes[t.name]) * t.itemsize) for t in look.uncompressed
    )
    return replace(look, layers=layers, uncompressed=uncompressed, structure=found.structure_after(left))


def narrowed_layer(layer: LayerSketch, shape: tuple[int, ...], matrix: tuple[int, int]) -> LayerSketch:
    """Return the sketch of a layer without some of its channels: what is left is taken to be like the whole.

    Its shape is exact. Its counts are those of the layer, scaled down, and no longer whole numbers.
    """
    if shape == layer.shape:
        return layer
    # which channels go is not in a sketch of weights: those that stay are taken to be distributed like all
    share = math.prod(shape) / layer.n
    tables = {granularity: replace(table, count=table.count * share) for granularity, table in layer.tables.items()}
    blocks = {
        pattern: round(layer.blocks[pattern] * share) if layer.zeros else block_count(matrix, *nm)
        for pattern, nm in NM_PATTERNS.items()
    }
    return replace(
        layer,
        shape=shape,
        rows=matrix[0],
        width=round(layer.width * matrix[0] / layer.rows),
        counts=np.asarray(layer.counts * share),
        tables=tables,
        blocks=blocks,
        zeros=round(layer.zeros * share),
        negative_zeros=round(layer.negative_zeros * share),
    )


def _decoded_layer(i: int, layer: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> LayerSketch:
    start, end = (int(x) for x in tensors["value_starts"][i : i + 2])
    counts = tensors["value_counts"][start:end].astype(np.int64)
    # a blob may come from anywhere: figures of such a layer would be nonsense, and look like others
    if int(counts.sum()) != math.prod(layer["shape"]):
        raise ValueError(f"the counts of {quoted(layer['name'])} do not add up to its size")
    tables: dict[Granularity, Table] = {}
    for gi, granularity in enumerate(GRANULARITIES):
        row = {name: tensors[name][gi, i].astype(np.float64) for name in _TABLES}
        tables[granularity] = Table(
            count=row["bin_count"],
            energy=row["bin_energy"],
            values=row["range_value"],
            range_energy=row["range_energy"],
            range_count=row["range_count"],
            ratios=row["ratios"],
            captured=float(row["captured"]),
        )
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
        tables=tables,
        survival={p: tensors["survival"][pi, i].astype(np.float64) for pi, p in enumerate(NM_PATTERNS)},
        blocks=dict(zip(NM_PATTERNS, layer["blocks"], strict=True)),
        zeros=layer["zeros"],
        negative_zeros=layer["negative_zeros"],
    )
