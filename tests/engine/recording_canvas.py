"""A canvas that writes down what a snapshot draws, so that tests read it back: texts, lines, boxes and dots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from shrinkwidget.figures.canvas import Snapshot

SPACES = dict.fromkeys(("\N{NARROW NO-BREAK SPACE}", "\N{NO-BREAK SPACE}"), " ")


@dataclass(frozen=True)
class Text:
    """A text and where it stands, in pixels."""

    words: str
    left: float
    right: float
    y: float
    color: str

    @property
    def middle(self) -> float:
        """Its centre across."""
        return (self.left + self.right) / 2


@dataclass
class Drawn:
    """All that was drawn on one sheet."""

    width: float
    height: float
    texts: list[Text] = field(default_factory=list)
    lines: list[tuple[np.ndarray, str, bool]] = field(default_factory=list)
    """Points ``[n, 2]``, color, whether dashed."""
    boxes: list[tuple[float, float, float, float, str]] = field(default_factory=list)
    """Left, top, right, bottom, color."""
    dots: list[tuple[float, float, float, str]] = field(default_factory=list)
    """x, y, size, marker."""
    shapes: list[tuple[np.ndarray, str]] = field(default_factory=list)

    def text(self, words: str) -> Text:
        """Return the only text that reads like this."""
        (found,) = [text for text in self.texts if text.words == words]
        return found

    def row(self, y: float, slack: float = 1.0) -> list[Text]:
        """Return the texts on one line, from left to right."""
        return sorted((text for text in self.texts if abs(text.y - y) <= slack), key=lambda text: text.left)

    def within(self, left: float, right: float, top: float = 0, bottom: float = 1e9) -> list[Text]:
        """Return the texts that begin inside a rectangle, from top to bottom."""
        inside = [text for text in self.texts if left <= text.left < right and top <= text.y < bottom]
        return sorted(inside, key=lambda text: (text.y, text.left))

    def all_words(self) -> str:
        """Return every text, one a line."""
        return "\n".join(text.words for text in self.texts)


def plain(text: str) -> str:
    """Return a text with every space plain and every minus a hyphen."""
    for space, other in SPACES.items():
        text = text.replace(space, other)
    return text.replace("\N{MINUS SIGN}", "-")


def drawn_by(monkeypatch: pytest.MonkeyPatch, module: str, draw: Callable[[], object]) -> Drawn:
    """Return what a function draws with the `Snapshot` of a module."""
    sheets: list[Drawn] = []

    class Recorder(Snapshot):
        def __init__(self, width: float, height: float) -> None:
            super().__init__(width, height)
            self.sheet = Drawn(width, height)
            sheets.append(self.sheet)

        def text(self, x: float, y: float, text: str, **style: Any) -> float:
            width = super().text(x, y, text, **style)
            left = x - width * {"left": 0.0, "center": 0.5, "right": 1.0}[style.get("align", "left")]
            self.sheet.texts.append(Text(plain(text), left, left + width, y, style.get("color", "")))
            return width

        def lines(self, lines: Any, color: str, width: float = 1.0, dashes: Any = "solid", **more: Any) -> None:  # noqa: ARG002
            self.sheet.lines += [(np.asarray(line), color, dashes != "solid") for line in lines]

        def rectangles(self, left: Any, top: Any, width: Any, bottom: Any, color: str) -> None:
            every = np.broadcast_arrays(left, top, left + width, bottom)
            self.sheet.boxes += [
                (float(a), float(b), float(c), float(d), color) for a, b, c, d in zip(*every, strict=True)
            ]

        def fill(self, shapes: Any, color: str, **more: Any) -> None:  # noqa: ARG002
            self.sheet.shapes += [(np.asarray(shape), color) for shape in shapes]

        def dots(self, x: Any, y: Any, color: str, size: float = 7.0, marker: str = "o") -> None:  # noqa: ARG002
            self.sheet.dots += [(float(a), float(b), size, marker) for a, b in zip(x, y, strict=True)]

        def png(self) -> bytes:
            return b"drawn"

    monkeypatch.setattr(f"{module}.Snapshot", Recorder)
    draw()
    (sheet,) = sheets
    return sheet


def value_at(place: float, ticks: Sequence[tuple[float, float]]) -> float:
    """Return the value at a place on the line through the first and the last of (place, value)."""
    (a, low), (b, high) = ticks[0], ticks[-1]
    return low + (high - low) * (place - a) / (b - a)
