"""Text that has to fit: shortened names, lines that wrap, labels that stay off points, lines and edges.

`fit_text`, `place_label` and `thin` are the twins of ``js/charts/fit-and-place-labels.ts``; ``tests/vectors/charts``
holds them together.
"""

from __future__ import annotations

import re
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
    """Return a text shortened in its middle until it fits.

    Names of layers differ at both ends, and in their numbers, which stay where they can.
    """
    if measure(text) <= width:
        return text
    for numbers in (True, False):
        for keep in range(len(text) - 1, 0, -1):
            shorter = _cut(text, keep, numbers)
            if len(shorter) < len(text) and measure(shorter) <= width:
                return shorter
    return _cut(text, 1, False)


def _cut(text: str, keep: int, numbers: bool) -> str:
    """Return the text without its middle; with `numbers` those in there stay, and none is cut in two."""
    # A third of what is kept at the front, the rest at the end, which says more: "layer3.0.…downsample.0.weight".
    start, end = keep // 3, len(text) - (keep - keep // 3)
    if not numbers:
        return f"{text[:start]}…{text[end:]}"
    while start > 0 and _is_digit(text[start - 1 : start + 1]):
        start -= 1
    while end < len(text) and _is_digit(text[end - 1 : end + 1]):
        end += 1
    return "…".join([text[:start], *re.findall(r"[0-9]+", text[start:end]), text[end:]])


def _is_digit(pair: str) -> bool:
    return re.fullmatch("[0-9]{2}", pair) is not None


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
        # Every place is checked by brute force: there are ten places, and at most some hundred points.
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
