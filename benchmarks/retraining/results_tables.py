"""The summaries as Markdown, for a terminal or a README."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Rows = Sequence[dict[str, Any]]


def markdown(part: str, summary: Rows) -> str:
    """Return the table of a part."""
    tables = {"headline": _headline, "settings_search": _search, "overhead": _overhead}
    return tables.get(part, _curves)(summary)


def _headline(summary: Rows) -> str:
    head = ("method", "dense", "compressed", "difference (95 %), points", "file", "smaller", "median time")
    return _table(head, [_headline_row(row) for row in summary])


def _headline_row(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = (f"{100 * end:+.2f}" for end in row["difference, 95 % over images"])
    return (
        row["method"],
        _percent(row["dense"]),
        _percent(row["compressed"]),
        f"{100 * row['difference']['mean']:+.2f} ({low} … {high})",
        f"{row['bytes']['mean']:,.0f} bytes",
        f"{row['ratio']['mean']:.0f}× (least {row['ratio']['least']:.0f}×)",
        f"{row['seconds']['median']:.0f} s",
    )


def _search(summary: Rows) -> str:
    head = ("settings", "networks", "wrong of 287", "cross-entropy", "copies wrong", "cross-entropy of copies")
    figures = ("networks", "wrong", "cross-entropy", "copies wrong", "copies cross-entropy")
    return _table(head, [(row["method"], *(f"{row[name]:g}" for name in figures)) for row in summary])


def _overhead(summary: Rows) -> str:
    rows = [(row["network"], row["way"], f"{row['ms a step']:.2f} ms", f"{row['overhead']:+.1%}") for row in summary]
    return _table(("network", "way", "a step", "overhead"), rows)


def _curves(summary: Rows) -> str:
    ratios = sorted({row["ratio"] for row in summary} - {1})
    lines = []
    for method in dict.fromkeys(row["method"] for row in summary):
        mine = {row["ratio"]: row for row in summary if row["method"] == method}
        cells = [_percent(mine[ratio]["accuracy"]) if ratio in mine else "–" for ratio in ratios]
        lines.append((method, _percent(mine[1]["accuracy"]) if 1 in mine else "–", *cells))
    return _table(("method", "1×", *(f"{ratio}×" for ratio in ratios)), lines)


def _percent(found: dict[str, Any]) -> str:
    spread = "" if found["sd"] is None else f" ± {100 * found['sd']:.2f}"
    return f"{100 * found['mean']:.2f}{spread}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))
