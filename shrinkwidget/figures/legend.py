"""What the marks of a figure mean: a key above or below it, on as many lines as its width asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from .canvas import Canvas
from .page_size_and_style import Page

Entry = tuple[str, Callable[[float, float], None]]
"""A word, and what draws its mark, 13 pixels wide, at a left end and on a middle line."""

LEGEND_LINE: Final = 15.0
_TEXT: Final = 10.0
_MARK: Final = 18.0
_GAP: Final = 14.0


def legend_rows(widths: Sequence[float], room: float, gap: float = _GAP) -> list[list[int]]:
    """Return which entries of so many pixels stand on each line of `room` pixels.

    Example:
        >>> legend_rows([40, 40, 40], 100)
        [[0, 1], [2]]
    """
    rows: list[list[int]] = []
    used = 0.0
    for i, width in enumerate(widths):
        if not rows or used + gap + width > room:
            rows.append([])
            used = -gap
        rows[-1].append(i)
        used += gap + width
    return rows


def legend_height(page: Page, words: Sequence[str], room: float) -> float:
    """Return the pixels that a key of these words takes."""
    return LEGEND_LINE * len(legend_rows([_MARK + page.measure(word, _TEXT) for word in words], room))


def draw_legend(canvas: Canvas, y: float, room: float, entries: Sequence[Entry]) -> None:
    """Draw a key at the left edge, the middle of its first line at y."""
    rows = legend_rows([_MARK + canvas.measure(word, size=_TEXT) for word, _ in entries], room)
    for n, row in enumerate(rows):
        x, middle = 0.0, y + LEGEND_LINE * n
        for word, mark in (entries[i] for i in row):
            mark(x, middle)
            x += (
                _MARK + canvas.text(x + _MARK, middle, canvas.fitted(word, room - _MARK, size=_TEXT), size=_TEXT) + _GAP
            )
