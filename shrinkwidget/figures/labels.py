"""Text that has to fit: shortened names, lines that wrap, labels that stay off points, lines and edges.

`fit_text`, `place_label` and `thin` are the twins of ``js/charts/labels.ts``; ``tests/vectors/charts`` holds them
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

Measure = Callable[[str], float]


class Box(NamedTuple):
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def fit_text(text: str, width: float, measure: Measure) -> str:
    """Return a text shortened in its middle until it fits: names of layers differ at both ends."""
    if measure(text) <= width:
        return text
    low, high = 1, len(text) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if measure(_cut(text, middle)) <= width:
            low = middle
        else:
            high = middle - 1
    return _cut(text, low)


def _cut(text: str, keep: int) -> str:
    return f"{text[: keep // 3]}…{text[len(text) - (keep - keep // 3) :]}"


def wrap(phrases: Sequence[str], width: float, measure: Measure, between: str = " · ") -> list[str]:
    """Return lines of phrases joined by `between`, each as long as `width` allows; what is longer breaks at spaces."""
    lines: list[str] = []
    for phrase in phrases:
        for i, word in enumerate([phrase] if measure(phrase) <= width else phrase.split(" ")):
            joined = f"{lines[-1]}{' ' if i else between}{word}" if lines else word
            if lines and measure(joined) <= width:
                lines[-1] = joined
            else:
                lines.append(fit_text(word, width, measure))
    return lines


def place_label(
    point: tuple[float, float],
    size: tuple[float, float],
    bounds: Box,
    points: Sequence[tuple[float, float]],
    levels: Sequence[float] = (),
    gap: float = 9,
) -> Box | None:
    """Return a place for a label of `size` beside a point, inside `bounds`, that covers no point and no level line.

    None if every place is taken: no label is better than one on top of what it explains.
    """
    for x, y in _around(*point, *size, gap):
        box = Box(x, y, *size)
        clear = not any(_covers(box, *p) for p in points) and not any(y < level < y + box.height for level in levels)
        if _inside(box, bounds) and clear:
            return box
    return None


def _around(x: float, y: float, width: float, height: float, gap: float) -> Iterator[tuple[float, float]]:
    """Yield the places around a point where a label may go, best first."""
    right, left, middle = x + gap, x - gap - width, x - width / 2
    below, above = y + gap, y - gap - height
    yield from ((right, y - height / 2), (left, y - height / 2), (right, below), (left, below), (middle, below))
    yield from ((middle, above), (right, above), (left, above))
    yield from ((middle, y + 2.4 * gap), (middle, y - 2.4 * gap - height))


def _inside(box: Box, bounds: Box) -> bool:
    across = bounds.x <= box.x and box.x + box.width <= bounds.x + bounds.width
    return across and bounds.y <= box.y and box.y + box.height <= bounds.y + bounds.height


def _covers(box: Box, x: float, y: float, margin: float = 5) -> bool:
    return box.x - margin < x < box.x + box.width + margin and box.y - margin < y < box.y + box.height + margin


def thin(labels: Sequence[tuple[float, float]], gap: float = 8) -> list[int]:
    """Return which of a row's labels, (centre, width) from left to right, touch none before them; the first stays."""
    kept: list[int] = []
    end = float("-inf")
    for i, (x, width) in enumerate(labels):
        if not kept or x - width / 2 >= end + gap:
            kept.append(i)
            end = x + width / 2
    return kept
