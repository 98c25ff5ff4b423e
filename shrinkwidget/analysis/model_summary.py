"""What a model weighs: parameters, bytes, depth and width, the sizes of its plain files, and the table of it all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast, overload

import torch
from torch import nn

from ..argument_checks import public
from ..errors import ModelError
from .estimate_class_and_packed_file_header import safetensors_bytes
from .open_model_tensors_and_channel_axes import (
    PYTORCH_NAME,
    Role,
    Source,
    Stated,
    TensorEntry,
    bias_names,
    dtype_name,
    is_estimator,
    leaf_of,
    open_model,
)
from .run_model_seeded_macs_and_memory import ForwardProfile, preserve_rng_state, profile_forward

if TYPE_CHECKING:
    from .estimator_summary import EstimatorSummary

Status: TypeAlias = Literal["compressible", "uncompressed", "part", "not saved"]


class Estimator(Protocol):
    """A fitted estimator of scikit-learn, as far as its type is asked for."""

    def get_params(self, deep: bool = True) -> Any:
        """Return its settings."""


@overload
def summary(source: Source, example: object = None, *, layout: Stated = None) -> ModelSummary: ...
@overload
def summary(source: Estimator) -> EstimatorSummary: ...
@public()
def summary(
    source: Source | Estimator, example: object = None, *, layout: Stated = None
) -> ModelSummary | EstimatorSummary:
    """Weigh a module, a state dict, a checkpoint on disk (see `sketch`), or an estimator; nothing of it is changed.

    Args:
        source: the model. A state dict or a file does not tell the classes of its layers; which axis is the width is
            then decided by names and shapes. Of a fitted scikit-learn estimator, or a pipeline, the arrays are weighed.
        example: for a module, one input to run it on once (a tensor, a tuple of positional or a dict of keyword
            arguments), moved to the model's device: adds multiply-accumulates, activation bytes and the order
            of layers. Its batch counts: give a batch of one to have them per example.
        layout: see `sketch`.

    Raises:
        ModelError: for what is no model, for tensors without values, an example without a module, or a layout with one.
        DataError: if the model cannot run the example.
        FileError: for a path that cannot be read.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> found = sw.summary(sw.demo.model(), torch.zeros(1, 1, 8, 8))
        >>> found.parameters, found.depth, found.macs
        (172218, 14, 1631872)
    """
    if is_estimator(source):
        from .estimator_summary import summarize_estimator  # which writes its tables with this module's functions

        if example is not None or layout is not None:
            raise ModelError("an example and a layout are for networks: leave them out for a scikit-learn estimator")
        return summarize_estimator(source)
    source = cast(Source, source)
    weights = open_model(source, layout=layout, only_to_look=True)
    forward = None
    if example is not None:
        if not isinstance(source, nn.Module):
            raise ModelError("an example can only be run on an nn.Module: leave it out for a state dict or a file")
        with preserve_rng_state():
            forward = profile_forward(source, weights.entries, example)
    try:
        plain = safetensors_bytes(weights.saved)
    except ModelError:  # a dtype that no such file can hold
        plain = None
    return ModelSummary(
        title=weights.title,
        layers=layer_sizes(source, weights.entries, forward),
        torch_save=_torch_save_bytes(source, weights.entries),
        safetensors=plain,
        peak_activation=None if forward is None else forward.peak,
        warnings=weights.warnings,
    )


@dataclass(frozen=True, repr=False)
class ModelSummary:
    """What a model weighs, tensor by tensor and in all.

    Attributes:
        title: the model's class, or the file's name.
        layers: its layers, in the order of their first call if an example was given, else as the model defines them.
        torch_save: bytes that ``torch.save`` of the state dict writes into a buffer; into a file it is a little more or
            less, as the file's name is part of the format.
        safetensors: bytes of a plain ``.safetensors`` file, tied tensors written once; None for a model with a dtype
            that no such file can hold (complex128).
        peak_activation: with an example, the most bytes of inputs and results alive at one moment of the forward
            pass in eval mode, without weights, buffers and the scratch memory inside kernels; else None.
        warnings: what was taken for granted, in a sentence each: which axis is the width where nothing tells.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.summary(sw.demo.model())
        >>> found.nbytes, found.parameters, found.width
        (692688, 172218, (10, 64))
    """

    title: str
    layers: tuple[LayerSize, ...]
    torch_save: int
    safetensors: int | None
    peak_activation: int | None
    warnings: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[TensorSize, ...]:
        """Every parameter and buffer."""
        return tuple(t for layer in self.layers for t in layer.tensors)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied weights once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def buffers(self) -> int:
        """Number of elements in buffers."""
        return sum(layer.buffers for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers in memory."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def dtypes(self) -> dict[str, int]:
        """Bytes of each dtype, the largest first."""
        sizes: Counter[str] = Counter()
        # a weight that is computed is not in memory: the tensors it is computed from are counted in its place
        for tensor in (t for t in self.tensors if not t.parts):
            sizes[tensor.dtype] += tensor.nbytes
        return dict(sizes.most_common())

    @property
    def depth(self) -> int:
        """Number of layers with a weight of two or more dimensions; those on side branches count as well."""
        return sum(layer.weighted for layer in self.layers)

    @property
    def width(self) -> tuple[int, int]:
        """Fewest and most output channels of such a layer; (0, 0) if there is none."""
        channels = [layer.channels for layer in self.layers if layer.channels is not None]
        return (min(channels), max(channels)) if channels else (0, 0)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one forward pass of the example as it was given, None without one."""
        # a layer without a count did not run; only where an example ran at all is the sum of the others one
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if self.peak_activation is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: the totals, and the layers with their tensors.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.summary(sw.demo.model()).to_dict()["nbytes"]
            692688
        """
        names = ("title", "parameters", "buffers", "nbytes", "dtypes", "depth", "width", "torch_save", "safetensors")
        totals = {name: getattr(self, name) for name in (*names, "macs", "peak_activation")}
        lists = {"width": list(self.width), "warnings": list(self.warnings)}
        return totals | lists | {"layers": [layer.to_dict() for layer in self.layers]}

    def __repr__(self) -> str:
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One parameter or buffer: what it weighs, and what a recipe may do with it.

    `why` says why a tensor is kept; `aliases` are the other names of tied weights; `macs` are the multiply-accumulates
    of the example that used it, None without an example. `parts` are the tensors a weight is computed from, where it
    is: they are what is in memory, and the weight is what counts as parameters.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    numel: int
    nbytes: int
    status: Status
    why: str
    aliases: tuple[str, ...]
    macs: int | None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerSize:
    """A module that holds tensors or multiplies: its class (empty if unknown), and what it weighs and does.

    `channels` is its output width if it has weights; `tied` names the weights it shares with an earlier layer, which
    count there. With an example: `macs`, and the bytes of its output (None if it was not called as a module).
    """

    name: str
    kind: str
    tensors: tuple[TensorSize, ...]
    tied: tuple[str, ...]
    channels: int | None
    macs: int | None
    output_bytes: int | None

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones at their first layer only."""
        return sum(t.numel for t in self.tensors if t.role in ("parameter", "tensor"))

    @property
    def buffers(self) -> int:
        """Number of elements in buffers."""
        return sum(t.numel for t in self.tensors if t.role == "buffer")

    @property
    def nbytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(t.nbytes for t in self.tensors if not t.parts)

    @property
    def weighted(self) -> bool:
        """Whether the layer has a parameter of two or more dimensions, its own or tied."""
        return self.channels is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, tensors included."""
        totals = {"parameters": self.parameters, "buffers": self.buffers, "nbytes": self.nbytes}
        lists = ("shape", "aliases", "parts")
        tensors = [asdict(t) | {name: list(getattr(t, name)) for name in lists} for t in self.tensors]
        return asdict(self) | totals | {"tied": list(self.tied), "tensors": tensors}


def layer_sizes(
    source: Source, entries: Iterable[TensorEntry], forward: ForwardProfile | None
) -> tuple[LayerSize, ...]:
    """Group the tensors by the module they belong to, in the order of the forward pass if there was one."""
    modules = dict(source.named_modules()) if isinstance(source, nn.Module) else {}
    own: dict[str, list[TensorEntry]] = {}
    tied: dict[str, list[TensorEntry]] = {}
    entries = tuple(entries)
    # A module says itself which tensors make a layer; names alone have to tell for a file.
    paired = {} if modules else _layers_in_one_place({entry.name: entry.shape for entry in entries})
    for entry in entries:
        name = entry.part_of or entry.name
        own.setdefault(paired.get(name, _owner(name)), []).append(entry)
        for alias in entry.aliases:
            tied.setdefault(_owner(alias), []).append(entry)
    names = _in_order({**own, **tied}, modules, forward)
    return tuple(_layer(name, modules.get(name), own.get(name, []), tied.get(name, []), forward) for name in names)


def _owner(name: str) -> str:
    """Return the name of the layer a tensor belongs to; JAX and Keras write paths with slashes."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def _layers_in_one_place(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the layers of tensors whose names have no path to tell them apart, such as W1, b1, W2, b2.

    Each weight is a layer there, with the bias and the norms that share its name. Names that PyTorch's own layers use
    (weight_ih_l0 and its like) are the parts of one layer, and stay together.
    """
    places = {_owner(name) for name in shapes}
    here = [name for name in shapes if not _owner(name) or len(places) == 1]
    weights = [name for name in here if len(shapes[name]) > 1 and not PYTORCH_NAME.search(leaf_of(name))]
    if len(weights) < 2:
        return {}
    # a name such as W1 goes with b1, dense_kernel with dense_bias and dense_scale: the layer is what they share
    found: dict[str, str] = {}
    for name in weights:
        layer = re.sub(r"_(kernel|weights?|w)$", "", name, flags=re.IGNORECASE)
        found[name] = layer
        beside = [other for other in here if len(shapes[other]) < 2 and other.startswith(f"{layer}_")]
        found |= dict.fromkeys([bias for bias in bias_names(name) if bias in shapes] + beside, layer)
    return found


def _in_order(held: Iterable[str], modules: Mapping[str, object], forward: ForwardProfile | None) -> list[str]:
    """Return the names of the layers in forward order; those that never ran as a module stay beside their parent."""
    order = {name: i for i, name in enumerate(modules)}
    defined = sorted(held, key=lambda name: order.get(name, 0))
    if forward is None:
        return defined
    rank = {name: i for i, name in enumerate(forward.order)}

    def place(name: str) -> int:
        # a layer whose forward was never called (its parent uses its weight) ran when the nearest parent did
        while name not in rank and name:
            name = _owner(name)
        return rank.get(name, 0)

    loose = [name for name in forward.loose if name not in defined]
    return sorted([*defined, *loose], key=place)


def _layer(
    name: str, module: nn.Module | None, own: list[TensorEntry], tied: list[TensorEntry], forward: ForwardProfile | None
) -> LayerSize:
    tensors = tuple(_tensor(entry, forward) for entry in own)
    weights = [e for e in own + tied if e.role in ("parameter", "tensor") and len(e.shape) >= 2]
    channels = None
    if weights:
        # what the layer states comes first: an attention's first weight, for instance, has three times its width
        names = ("out_channels", "out_features", "embedding_dim", "embed_dim", "hidden_size", "nf")
        stated = [width for name in names if isinstance(width := getattr(module, name, None), int)]
        channels = stated[0] if stated else weights[0].layout.width(weights[0].shape)
    return LayerSize(
        name=name,
        kind="" if module is None else type(module).__name__,
        tensors=tensors,
        tied=tuple(entry.name for entry in tied),
        channels=channels,
        macs=None if forward is None else sum(t.macs or 0 for t in tensors) + forward.loose.get(name, 0),
        output_bytes=None if forward is None else forward.outputs.get(name),
    )


def _tensor(entry: TensorEntry, forward: ForwardProfile | None) -> TensorSize:
    status: Status = "compressible"
    if not entry.compressible:
        status = "uncompressed" if entry.saved else "part" if entry.part_of else "not saved"
    return TensorSize(
        name=entry.name,
        shape=entry.shape,
        dtype=entry.kind or dtype_name(entry.dtype),
        role=entry.role,
        numel=entry.numel - entry.shared,
        nbytes=entry.nbytes,
        status=status,
        why=entry.why,
        aliases=entry.aliases,
        macs=None if forward is None else forward.macs.get(entry.name, 0),
        parts=entry.parts,
    )


class CountedFile:
    """A file that counts what is written to it and keeps nothing."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, data: bytes | PickleBuffer) -> int:
        """Count some bytes."""
        nbytes = memoryview(data).nbytes
        self.nbytes += nbytes
        return nbytes

    def flush(self) -> None:
        """Nothing waits to be written."""


def _torch_save_bytes(source: Source, entries: Iterable[TensorEntry]) -> int:
    """Count what ``torch.save`` writes; of a file on disk by tensors of the same shapes, so that it is not read."""
    if isinstance(source, nn.Module):
        state: Any = source.state_dict()
    elif isinstance(source, Mapping):
        state = source
    else:
        state = {entry.name: torch.empty(entry.shape, dtype=entry.dtype) for entry in entries}
    # written, as the size of its zip file depends on names, alignment and torch's version; nothing reaches the disk
    counted = CountedFile()
    torch.save(state, counted)  # type: ignore[arg-type]  # torch asks for a whole file object and uses these two
    return counted.nbytes


# ---- the summary as text and as HTML ----


TEXT_ROWS: Final = 32  # fits a screen
HTML_ROWS: Final = 400  # of a notebook, which is saved with them


def bytes_text(nbytes: int) -> str:
    """Return a byte count to three digits: ``"17 B"``, ``"68.1 kB"``, ``"1.08 MB"`` (kB = 1000 B)."""
    return f"{nbytes} B" if nbytes < 1000 else f"{_scaled(nbytes)}B"


def count_text(n: int) -> str:
    """Return a count to three digits: ``"640"``, ``"1.72 M"``."""
    return str(n) if n < 1000 else _scaled(n)


def _scaled(n: int) -> str:
    value = float(n)
    for prefix in ("", "k", "M", "G", "T"):
        digits = fixed(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)  # three, once they are rounded
        if float(digits) < 1000:
            return f"{digits} {prefix}"
        value /= 1000
    return f"{value:.0f} P"


def fixed(value: float, digits: int) -> str:
    """Return a finite number with so many digits after the point, halves away from zero: 12.5 is "13", as on the page.

    Python's own formatting rounds halves to even.
    """
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def share_of(part: int, whole: int) -> str:
    """Return a share in per cent: ``"12.5 %"``."""
    return f"{part / max(1, whole):.1%}".replace("%", " %")


def text_table(size: ModelSummary, rows: int = TEXT_ROWS) -> str:
    """Return totals and one line per layer; of many layers the first and the last, `rows` in all."""
    head, body = _table(size)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [aligned(row, widths) for row in body]
    if len(lines) > rows:
        last = rows // 3
        left_out = f"  … {len(lines) - rows + 1} more layers: see .layers …"
        lines = [*lines[: rows - last - 1], left_out, *lines[-last:]]
    totals = [f"  {name:<12} {value}" for name, value in _totals(size)]
    warnings = [f"  ! {warning}" for warning in size.warnings]
    return "\n".join([_title(size), *totals, *warnings, "", aligned(head, widths), *lines])


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Return a line of a table in plain text."""
    # the first three columns hold words and stand left; the others hold numbers and stand right
    cells = [c.ljust(w) if i < 3 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
    return "  " + "  ".join(cells).rstrip()


def _title(size: ModelSummary) -> str:
    low, high = size.width
    channels = f"{low}" if low == high else f"{low}–{high}"
    deep = f"{size.depth} layer{'s' * (size.depth != 1)} deep"
    shape = f"{deep}, {channels} channel{'s' * (high != 1)} wide" if size.depth else "no layer with a weight"
    return f"{size.title}: {size.parameters:,} parameters, {shape}"


def _totals(size: ModelSummary) -> list[tuple[str, str]]:
    """Return name and value of what there is to say about the whole model."""
    buffers = f", {bytes_text(sum(t.nbytes for t in size.tensors if t.role == 'buffer'))} of it buffers"
    dtypes = " + ".join(f"{bytes_text(n)} {name}" for name, n in size.dtypes.items())
    small = [t for t in size.tensors if t.status == "compressible"]
    tensors = [t for t in size.tensors if t.status != "part"]
    totals = [
        ("in memory", bytes_text(size.nbytes) + (buffers if size.buffers else "")),
        ("compressible", f"{bytes_text(sum(t.nbytes for t in small))} in {len(small)} of {len(tensors)} tensors"),
        ("dtypes", dtypes),
        ("torch.save", exactly(size.torch_save)),
        (".safetensors", exactly(size.safetensors) if size.safetensors is not None else "cannot hold its dtypes"),
    ]
    if others := [t for t in size.tensors if t.role == "other"]:
        names = f"{others[0].name}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
        nbytes = bytes_text(sum(t.nbytes for t in others))
        totals.insert(1, ("besides", f"{nbytes} neither in parameters nor in buffers: {names}"))
    if size.macs is not None and size.peak_activation is not None:
        totals.append(
            ("one forward", f"{count_text(size.macs)} MACs, {bytes_text(size.peak_activation)} of activations")
        )
    return totals


def exactly(nbytes: int) -> str:
    """Return a byte count to three digits, and in full."""
    return f"{bytes_text(nbytes)} ({nbytes:,} bytes)"


def _table(size: ModelSummary) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and the cells of every layer; columns without anything to say are left out."""
    ran = size.macs is not None
    typed = any(layer.kind for layer in size.layers)
    columns = ["layer", "type" if typed else "", "weight", "parameters", "bytes", "share"] + ["MACs", "output"] * ran
    rows = []
    for layer in size.layers:
        parameters = [t for t in layer.tensors if t.role in ("parameter", "tensor")]
        weight = max(parameters, key=lambda t: t.numel, default=None)
        shape = "×".join(map(str, weight.shape)) if weight else ""
        if layer.tied:
            shape = f"{shape} tied to {', '.join(layer.tied)}".strip()
        share = share_of(layer.nbytes, size.nbytes)
        row = [layer.name or "(model)", layer.kind, shape, f"{layer.parameters:,}", bytes_text(layer.nbytes), share]
        if ran:
            row.append(count_text(layer.macs) if layer.macs else "–")
            row.append("–" if layer.output_bytes is None else bytes_text(layer.output_bytes))
        rows.append(row)
    return columns, rows


STYLE: Final = """<style>
.shrinkwidget-size table {color: inherit; font: inherit; border-collapse: collapse;
  font-variant-numeric: tabular-nums; margin: 0.5em 0}
.shrinkwidget-size :is(th, td) {padding: 0.15em 0.8em; text-align: right; white-space: nowrap}
.shrinkwidget-size :is(th, td):nth-child(-n+3) {text-align: left}
.shrinkwidget-size tbody tr {border-top: 1px solid rgba(128, 128, 128, 0.3); background: none}
.shrinkwidget-size th {font-weight: 600}
.shrinkwidget-size .layers {width: max-content; max-width: 100%; max-height: 30em; overflow: auto;
  scrollbar-gutter: stable}
@media print {.shrinkwidget-size .layers {max-height: none}}
</style>"""


def html_table(size: ModelSummary) -> str:
    """Return the same as a fragment of HTML in the colors of the page, with every tensor's status to unfold."""
    totals = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _totals(size))
    tensors = [
        [
            " = ".join((tensor.name, *tensor.aliases)),
            f"{tensor.status}: {tensor.why}" if tensor.why else tensor.status,
            "×".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            bytes_text(tensor.nbytes),
        ]
        for tensor in size.tensors
    ]
    return (
        f'<div class="shrinkwidget-size">{STYLE}<strong>{escape(_title(size))}</strong>'
        f"<table><tbody>{totals}</tbody></table>{''.join(f'<p>{escape(text)}</p>' for text in size.warnings)}"
        f'<div class="layers">{html_rows(*_table(size))}</div>'
        f"<details><summary>every tensor and its status</summary>"
        f'<div class="layers">{html_rows(["tensor", "status", "shape", "dtype", "bytes"], tensors)}</div>'
        f"</details></div>"
    )


def html_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML; of very many rows the first."""
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows[:HTML_ROWS]]
    if len(rows) > HTML_ROWS:
        cells.append(f'<td colspan="{len(head)}">… {len(rows) - HTML_ROWS:,} more</td>')
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(f'<tr>{c}</tr>' for c in cells)}</tbody></table>"
