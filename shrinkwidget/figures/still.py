"""The still of an explorer: a picture and a sentence for where no widget can be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..measure.estimate import Estimate
from ..measure.sketch import Sketch
from .panels import draw_been, draw_score, draw_size, heading, metric_of, sample_words, value_of
from .pen import INK, LINE, MUTED, Pen
from .ridge import Frame, chosen_layers, draw_ridge
from .silhouette import draw_silhouette
from .words import bytes_text, compared_size_text, recipe_words, share_text, value_text

Score = Mapping[str, Any]

_WIDTH: Final = 1000.0
_MARGIN: Final = 22.0
_SIDE: Final = 320.0
_TOP: Final = 74.0
_GAP: Final = 26.0
_AROUND: Final = 62.0  # pixels of the ridge above and below its rows
_SIZE, _SILHOUETTE, _SCORE, _BEEN = 226.0, 140.0, 92.0, 180.0
"""Pixels that the sections of the right side take with the gap below them."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """What is known of accuracy: of this recipe, of the dense model, of the recipes tried so far."""

    now: Score | None
    baseline: Score | None
    points: Sequence[Score]

    @property
    def height(self) -> float:
        """Pixels of the right side; without scores the silhouette takes their place."""
        return _SIZE + (_SCORE if self else _SILHOUETTE) + (_BEEN if len(self.points) > 1 else 0)

    def __bool__(self) -> bool:
        return bool(self.now or self.baseline or self.points)


def still(
    sketch: Sketch, estimate: Estimate, score: Score | None, baseline: Score | None, history: Sequence[Score]
) -> bytes:
    """Return a PNG, 1000 CSS pixels wide at double density, of what an explorer shows.

    `score`, `baseline` and `history` are the explorer's: dicts with "recipe" (JSON), "value", "low", "high", "n",
    "total", "state", "metric", "percent", "higher", "regime"; of each past recipe also "nbytes". Safe in any thread: no
    pyplot.
    """
    points = [point for point in history if value_of(point) is not None]
    scores = _Scores(present_score(estimate, score, history), baseline, points)
    rows = len(chosen_layers(sketch))
    row = min(30.0, max(22.0, (scores.height - _AROUND) / rows))
    body = max(scores.height, rows * row + _AROUND)
    pen = Pen(_WIDTH, _TOP + body + _MARGIN)
    _title(pen, sketch, estimate)
    draw_ridge(pen, Frame(_MARGIN, _TOP, _WIDTH - 2 * _MARGIN - _SIDE - _GAP, row), sketch, estimate)
    _side(pen, sketch, estimate, scores, body)
    return pen.png()


def _side(pen: Pen, sketch: Sketch, estimate: Estimate, scores: _Scores, body: float) -> None:
    """Draw the sections of the right side, the silhouette where there is room for it."""
    x, y, free = _WIDTH - _MARGIN - _SIDE, _TOP, body - scores.height
    draw_size(pen, x, y, _SIDE, estimate)
    y += _SIZE
    if not scores or free >= _SILHOUETTE:
        height = _SILHOUETTE if scores else _SILHOUETTE + min(0.6 * _SILHOUETTE, free)
        heading(pen, x, y + 6, "DEPTH × WIDTH", "area is bytes")
        draw_silhouette(pen, x, y + 24, _SIDE, height - 24 - _GAP, sketch, estimate)
        y += height
    if scores:
        draw_score(pen, x, y, scores.now, scores.baseline)
        y += _SCORE
    if len(scores.points) > 1:
        height = min(1.4 * _BEEN, _TOP + body - y)
        draw_been(pen, x, y, _SIDE, height, scores.points, estimate.recipe.to_json(), scores.baseline)


def describe(estimate: Estimate, score: Score | None) -> str:
    """Return one sentence for where no picture can be shown: recipe, size, and accuracy where it is known."""
    about = "" if estimate.exact else "about "
    size = f"{about}{bytes_text(estimate.nbytes)} instead of {bytes_text(estimate.dense)}"
    sentence = f"{recipe_words(estimate.recipe)}: {size} ({compared_size_text(estimate.ratio)}), "
    sentence += f"{share_text(estimate.sparsity)} of the weights pruned"
    score = present_score(estimate, score, [])
    value = value_of(score)
    if score is not None and value is not None:
        name, percent, _ = metric_of(score)
        sentence += f", {name} {value_text(value, percent)} ({sample_words(score)})"
    return f"{sentence}."


def present_score(estimate: Estimate, score: Score | None, history: Sequence[Score]) -> Score | None:
    """Return the score of this very recipe, now or from before, or its failure; None if there is none."""
    recipe = estimate.recipe.to_json()
    own = [s for s in (score, *reversed(history)) if s and s.get("recipe") == recipe]
    return next((s for s in own if value_of(s) is not None), own[0] if own else None)


def _title(pen: Pen, sketch: Sketch, estimate: Estimate) -> None:
    title = pen.fitted(sketch.title, 0.6 * _WIDTH, size=19)
    width = pen.text(_MARGIN, 26, title, size=19, bold=True)
    depth = f"{len(sketch.layers)} layers"
    pen.text(_MARGIN + width + 14, 27, f"{sketch.parameters:,} parameters · {depth}", size=12, colour=MUTED)
    pen.text(_MARGIN, 51, recipe_words(estimate.recipe), size=13, colour=INK)
    known = "exact" if estimate.exact else "≈ preview"
    pen.text(_WIDTH - _MARGIN, 27, known, size=12, colour=MUTED, align="right")
    pen.line(_MARGIN, 65, _WIDTH - _MARGIN, 65, LINE)
