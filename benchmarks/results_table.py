"""The rows as one table for a terminal or a README."""

from __future__ import annotations

from collections.abc import Sequence

from .result_rows_and_timing import Figure, Row

HEAD = ("what", "measured", "target", "against", "ratio", "met")
WORDS = {True: "yes", False: "missed", None: "–"}


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table, its columns aligned."""
    cells = [HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    against = f"{row.against}: {_one(row.theirs.median, row.unit)}" if row.theirs else "–"
    return row.what, _figure(row.ours, row.unit), _target(row), against, _ratio(row), WORDS[row.met]


def _one(value: float, unit: str) -> str:
    if unit == "ms" and value >= 1000:
        value, unit = value / 1000, "s"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"


def _figure(figure: Figure, unit: str) -> str:
    if len(figure.values) == 1:
        return _one(figure.values[0], unit)
    return f"{_one(figure.median, unit)} (p95 {_one(figure.p95, unit)})"


def _target(row: Row) -> str:
    parts = []
    if row.limit is not None:
        which = "p95 " if row.judged == "p95" else ""
        parts.append(f"{which}≤ {row.limit:g} {row.unit}")
    if row.faster is not None:
        parts.append(f"≥ {row.faster:g}× faster")
    if row.smaller is not None:
        parts.append(f"≤ {row.smaller:g}×")
    return ", ".join(parts) or "–"


def _ratio(row: Row) -> str:
    if row.ratio is None:
        return "–"
    return f"{row.ratio:,.0f}×" if row.ratio >= 20 else f"{row.ratio:.2f}×"
