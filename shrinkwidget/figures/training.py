"""The still of a monitor: the curves of a training, and a sentence, for where no widget can be shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..measure.bins import Floats
from .pen import ACCURACY, FAINT, INK, LINE, MUTED, OUTLINE, Pen
from .ticks import linear_ticks
from .words import bytes_text, compared_size_text, direction_text, share_text, value_text

Shown = Mapping[str, Any]
"""What a monitor shows: title, method, metric, state, progress, curves, points, baseline, all plain values."""

_WIDTH: Final = 800.0
_MARGIN: Final = 22.0
_AXIS: Final = 46.0
_SCORE, _LOSS = 190.0, 120.0
_TOP: Final = 78.0
_ROOM: Final = 18.0


def training_still(shown: Shown) -> bytes:
    """Return a PNG, 800 CSS pixels wide at double density, of what a monitor shows. Safe in any thread: no pyplot."""
    pen = Pen(_WIDTH, _TOP + _SCORE + _LOSS + 52)
    _title(pen, shown)
    epochs = _epochs(shown)
    score = _Plot(pen, _TOP, _SCORE, epochs, _score_domain(shown))
    metric = shown["metric"]
    direction = direction_text(metric["percent"], metric["higher"])
    title = ", ".join(filter(None, [metric["name"], direction]))
    score.frame(title, lambda value: value_text(value, metric["percent"]))
    curves = shown["curves"]
    score.line(curves["at"], curves["train"], ACCURACY, 0.9, alpha=0.5)
    score.line(curves["at"], curves["test"], ACCURACY, 1.6)
    if shown["baseline"] is not None:
        score.level(shown["baseline"]["value"], "as it came")
    loss = _Plot(pen, _TOP + _SCORE + 24, _LOSS, epochs, _loss_domain(shown))
    loss.frame("loss, training", lambda value: f"{value:g}")
    loss.line(curves["at"], curves["loss"], OUTLINE, 1.4)
    loss.epochs()
    return pen.png()


def describe_training(shown: Shown) -> str:
    """Return one sentence for where no picture can be shown: what is trained, how far it is, and its last score."""
    now, metric = shown["progress"], shown["metric"]
    sentence = f"{shown['title']}, {shown['method']}: {shown['state']}"
    if now is not None:
        done = len(shown["curves"]["at"])
        sentence += f" after {done} of {now['rounds'] * now['epochs']} epochs, {share_text(now['sparsity'])} pruned"
        if now["test"] is not None:
            value = value_text(now["test"]["value"], metric["percent"])
            sentence += f", {metric['name']} {value} on {now['test']['n']:,} test examples"
    return sentence + "."


def _title(pen: Pen, shown: Shown) -> None:
    width = pen.text(_MARGIN, 26, pen.fitted(shown["title"], 0.4 * _WIDTH, size=19), size=19, bold=True)
    room = _WIDTH - 3 * _MARGIN - width - 60
    pen.text(_MARGIN + width + 14, 27, pen.fitted(shown["method"], room, size=12), size=12, colour=MUTED)
    pen.text(_WIDTH - _MARGIN, 27, shown["state"], size=12, colour=MUTED, align="right")
    pen.text(_MARGIN, 51, " · ".join(_figures(shown)), size=13, colour=INK)
    pen.line(_MARGIN, 64, _WIDTH - _MARGIN, 64, LINE)


def _figures(shown: Shown) -> list[str]:
    now, metric = shown["progress"], shown["metric"]
    if now is None:
        return ["not begun"]
    words = [f"{len(shown['curves']['at'])} of {now['rounds'] * now['epochs']} epochs"]
    words.append(f"{share_text(now['sparsity'])} pruned")
    if now["nbytes"]:
        words.append(f"{bytes_text(now['nbytes'])}, {compared_size_text(now['ratio'])}")
    if now["test"] is not None:
        value = value_text(now["test"]["value"], metric["percent"])
        words.append(f"{metric['name']} {value} on {now['test']['n']:,} examples")
    return words


def _epochs(shown: Shown) -> int:
    now = shown["progress"]
    return max(1, now["rounds"] * now["epochs"]) if now is not None else 1


def _score_domain(shown: Shown) -> tuple[float, float]:
    curves, baseline = shown["curves"], shown["baseline"]
    values = _known([*curves["test"], *curves["train"], baseline and baseline["value"]])
    if not values:
        return 0.0, 1.0
    room = 0.12 * (max(values) - min(values)) or 0.05 * abs(max(values)) or 1.0
    top = max(values) + room
    return min(values) - room, min(1.0, top) if shown["metric"]["percent"] else top


def _loss_domain(shown: Shown) -> tuple[float, float]:
    return 0.0, 1.08 * max([*_known(shown["curves"]["loss"]), 1e-3])


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


@dataclass(frozen=True, slots=True)
class _Plot:
    """A chart over all epochs, `height` pixels high, its values between `domain`."""

    pen: Pen
    top: float
    height: float
    last: int
    domain: tuple[float, float]

    def frame(self, title: str, words: Any) -> None:
        """Draw the title, the grid and the ticks' values."""
        self.pen.text(_MARGIN, self.top - 2, title, size=10.5, bold=True, colour=MUTED)
        for tick in linear_ticks(*self.domain, max(2, round(self.height / 40))):
            y = float(self._y(np.array([tick]))[0])
            self.pen.line(_MARGIN + _AXIS, y, _WIDTH - _MARGIN, y, FAINT)
            self.pen.text(_MARGIN + _AXIS - 6, y, words(tick), size=10, colour=MUTED, align="right")

    def epochs(self) -> None:
        """Write the ticks of the common axis under this chart."""
        y = self.top + 16 + self.height - 16 + 12
        self.pen.text(_MARGIN + _AXIS, y, "epoch", size=10, colour=MUTED, align="center")
        for tick in linear_ticks(0, self.last, 8)[1:]:
            if tick == round(tick):
                self.pen.text(
                    float(self._x(np.array([tick]))[0]), y, f"{tick:g}", size=10, colour=MUTED, align="center"
                )

    def line(
        self, at: Sequence[float], values: Sequence[float | None], colour: str, width: float, alpha: float = 1.0
    ) -> None:
        """Draw a line through what is known of the values."""
        known = [(x, y) for x, y in zip(at, values, strict=True) if y is not None and math.isfinite(y)]
        if known:
            x, y = np.array(known, dtype=float).T
            self.pen.lines([np.stack([self._x(x), self._y(y)], axis=1)], colour, width, alpha=alpha)
            if len(known) < 40 and alpha == 1.0:
                self.pen.dots(self._x(x), self._y(y), colour, 4)

    def level(self, value: float, text: str) -> None:
        """Draw a dashed line at a value, and say what it is."""
        y = float(self._y(np.array([value]))[0])
        self.pen.line(_MARGIN + _AXIS, y, _WIDTH - _MARGIN, y, ACCURACY, dashes=(0, (3, 2)))
        below = y < self.top + 16 + _ROOM  # or it would run into the topmost line of the grid
        self.pen.text(_MARGIN + _AXIS + 4, y + 9 if below else y - 8, text, size=10, colour=MUTED)

    def _x(self, epochs: Floats) -> Floats:
        return _MARGIN + _AXIS + epochs / self.last * (_WIDTH - 2 * _MARGIN - _AXIS)

    def _y(self, values: Floats) -> Floats:
        low, high = self.domain
        return self.top + 16 + (high - values) / (high - low) * (self.height - 16)
