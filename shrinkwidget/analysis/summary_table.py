"""The size of a model as a table, in text and in HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .layer_sizes import LayerSize, TensorSize
    from .model_summary import ModelSummary

TEXT_ROWS: Final = 32
HTML_ROWS: Final = 400


def bytes_text(nbytes: int) -> str:
    """Return a byte count to three digits: ``"17 B"``, ``"68.1 kB"``, ``"1.08 MB"`` (kB = 1000 B)."""
    return f"{nbytes} B" if nbytes < 1000 else f"{_scaled(nbytes)}B"


def count_text(n: int) -> str:
    """Return a count to three digits: ``"640"``, ``"1.72 M"``."""
    return str(n) if n < 1000 else _scaled(n)


def _scaled(n: int) -> str:
    value = float(n)
    for prefix in ("", "k", "M", "G", "T"):
        digits = fixed(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)
        if float(digits) < 1000:
            return f"{digits} {prefix}"
        value /= 1000
    return f"{value:.0f} P"


def fixed(value: float, digits: int) -> str:
    """Return a finite number with so many digits after the point, halves away from zero: 12.5 is "13", as on the page.

    Python's own formatting rounds halves to even.
    """
    return f"{Decimal(value).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"


def text_table(size: ModelSummary, rows: int = TEXT_ROWS) -> str:
    """Return totals and one line per layer; of many layers the first and the last, `rows` in all."""
    head, body = _table(size)
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    lines = [_aligned(row, widths) for row in body]
    if len(lines) > rows:
        last = rows // 3
        left_out = f"  … {len(lines) - rows + 1} more layers: see .layers …"
        lines = [*lines[: rows - last - 1], left_out, *lines[-last:]]
    totals = [f"  {name:<12} {value}" for name, value in _totals(size)]
    warnings = [f"  ! {warning}" for warning in size.warnings]
    return "\n".join([_title(size), *totals, *warnings, "", _aligned(head, widths), *lines])


_LEFT: Final = 3
"""The first columns hold words and stand left; the others hold numbers and stand right."""


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [c.ljust(w) if i < _LEFT else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
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
        ("torch.save", _exactly(size.torch_save)),
        (".safetensors", _exactly(size.safetensors) if size.safetensors is not None else "cannot hold its dtypes"),
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


def _exactly(nbytes: int) -> str:
    return f"{bytes_text(nbytes)} ({nbytes:,} bytes)"


def _table(size: ModelSummary) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and the cells of every layer; columns without anything to say are left out."""
    ran = size.macs is not None
    typed = any(layer.kind for layer in size.layers)
    columns = ["layer", "type", "weight", "parameters", "bytes", "share"] + ["MACs", "output"] * ran
    rows = [_cells(layer, size.nbytes) + _activity(layer) * ran for layer in size.layers]
    if not typed:
        columns[1], rows = "", [[row[0], "", *row[2:]] for row in rows]
    return columns, rows


def _cells(layer: LayerSize, whole: int) -> list[str]:
    weight = max((t for t in layer.tensors if t.role in ("parameter", "tensor")), key=lambda t: t.numel, default=None)
    shape = "×".join(map(str, weight.shape)) if weight else ""
    if layer.tied:
        shape = f"{shape} tied to {', '.join(layer.tied)}".strip()
    share = f"{layer.nbytes / max(1, whole):.1%}".replace("%", " %")
    return [layer.name or "(model)", layer.kind, shape, f"{layer.parameters:,}", bytes_text(layer.nbytes), share]


def _activity(layer: LayerSize) -> list[str]:
    macs = count_text(layer.macs) if layer.macs else "–"
    return [macs, "–" if layer.output_bytes is None else bytes_text(layer.output_bytes)]


_STYLE: Final = """<style>
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
    head, body = _table(size)
    totals = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _totals(size))
    return (
        f'<div class="shrinkwidget-size">{_STYLE}<strong>{escape(_title(size))}</strong>'
        f"<table><tbody>{totals}</tbody></table>{''.join(f'<p>{escape(text)}</p>' for text in size.warnings)}"
        f'<div class="layers">{_html(head, body)}</div>'
        f"<details><summary>every tensor and its status</summary>"
        f'<div class="layers">{_html(_TENSOR_HEAD, map(_tensor_cells, size.tensors))}</div></details></div>'
    )


_TENSOR_HEAD: Final = ["tensor", "status", "shape", "dtype", "bytes"]


def _tensor_cells(tensor: TensorSize) -> list[str]:
    status = f"{tensor.status}: {tensor.why}" if tensor.why else tensor.status
    name = " = ".join((tensor.name, *tensor.aliases))
    return [name, status, "×".join(map(str, tensor.shape)) or "scalar", tensor.dtype, bytes_text(tensor.nbytes)]


def _html(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rows = list(rows)
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows[:HTML_ROWS]]
    if len(rows) > HTML_ROWS:
        cells.append(f'<td colspan="{len(head)}">… {len(rows) - HTML_ROWS:,} more</td>')
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(f'<tr>{c}</tr>' for c in cells)}</tbody></table>"
