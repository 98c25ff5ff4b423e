"""The snapshot of an explorer: a picture and a sentence for where no widget can be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.sketch import Sketch
from .canvas import INK, LINE, MUTED, Canvas, Snapshot, measure
from .fit_and_place_labels import wrap
from .model_silhouette import draw_silhouette
from .numbers_and_recipes_as_text import (
    bytes_text,
    compared_size_text,
    estimated_text,
    recipe_sentence,
    share_text,
    value_text,
)
from .ridge_plot import Frame, chosen_layers, draw_ridge
from .snapshot_size_score_history import (
    LINE_HEIGHT,
    PLAIN,
    HistoryPanel,
    Metric,
    ScorePanel,
    dead_words,
    draw_size,
    heading,
    latest,
    metric_of,
    prediction_words,
    sample_words,
    value_of,
    warning_lines,
)

Score = Mapping[str, Any]

_WIDTH: Final = 1000.0
MARGIN: Final = 22.0
_SIDE: Final = 320.0
_LINE_TOP: Final = 65.0
_GAP: Final = 26.0
_AROUND: Final = 62.0  # pixels of the ridge above and below its rows
_SIZE, _SILHOUETTE, _HISTORY = 226.0, 140.0, 196.0
"""Pixels that the sections of the right side take with the gap below them."""


@dataclass(frozen=True, slots=True)
class _Side:
    """The right side: size, what it hides, the score of this recipe, the recipes tried so far."""

    metric: Metric
    score: ScorePanel | None
    history: HistoryPanel | None
    warnings: Sequence[str]
    """Lines, where there is no score to say them beside."""

    @property
    def height(self) -> float:
        """Pixels of all of it; without scores the silhouette takes their place."""
        score = self.score.height + _GAP if self.score else _SILHOUETTE
        warnings = LINE_HEIGHT * len(self.warnings) + 10 if self.warnings else 0
        return _SIZE + warnings + score + (_HISTORY if self.history else 0)


def explorer_snapshot(
    sketch: Sketch,
    estimate: Estimate,
    score: Score | None,
    baseline: Score | None,
    history: Sequence[Score],
    *,
    order: Sequence[int] = (),
    metric: Mapping[str, Any] | None = None,
    result: str = "",
) -> bytes:
    """Return a PNG, 1000 CSS pixels wide at double density, of what an explorer shows. Safe in any thread: no pyplot.

    `score`, `baseline` and `history` are the explorer's: dicts with "recipe" (JSON), "value", "low", "high", "n",
    "total", "state", "metric", "percent", "higher", "provenance", "warnings"; of each past recipe also "nbytes" and
    "result". `order`: the layers' indices in the order of the forward pass, if that is known. `metric`: "name",
    "percent" and "higher" of the scores, if that is known before the first. `result`: which retrained or recovered
    model is shown, none for the weights as they came.
    """
    # An order that does not name each layer once (of a forward pass that shares layers) is of no use for rows.
    order = order if sorted(order) == list(range(len(sketch.layers))) else range(len(sketch.layers))
    rows = len(chosen_layers(sketch, order))
    side = _side_of(estimate, score, baseline, history, metric, result)
    title = wrap(recipe_sentence(estimate.recipe).split(" · "), _WIDTH - 2 * MARGIN, partial(measure, size=13))
    top = _LINE_TOP + LINE_HEIGHT * (len(title) - 1) + 9
    # Rows fill the height of the right side where they can; below 22 pixels names would touch.
    row = min(30.0, max(22.0, (side.height - _AROUND) / rows))
    body = max(side.height, rows * row + _AROUND)
    canvas = Snapshot(_WIDTH, top + body + MARGIN)
    _title(canvas, sketch, estimate, title)
    draw_ridge(canvas, Frame(MARGIN, top, _WIDTH - 2 * MARGIN - _SIDE - _GAP, row), sketch, estimate, order)
    _draw_side(canvas, top, body, sketch, estimate, order, side)
    return canvas.png()


def _side_of(
    estimate: Estimate,
    score: Score | None,
    baseline: Score | None,
    history: Sequence[Score],
    told: Score | None,
    result: str,
) -> _Side:
    visits, now = latest(history), present_score(estimate, score, history, result)
    metric = metric_of(told, score, baseline, *history)
    dead = [text for text in (dead_words(estimate),) if text]
    scores = ScorePanel(now, baseline, metric, estimate.recipe.to_json(), dead, _SIDE)
    provenance = str((now or {}).get("provenance") or PLAIN)
    shown = bool(now or baseline or visits)
    return _Side(
        metric,
        scores if shown else None,
        HistoryPanel(visits, metric, estimate, baseline, provenance) if len(visits) > 1 else None,
        [] if shown else warning_lines(dead, _SIDE),
    )


def _draw_side(
    canvas: Canvas, top: float, body: float, sketch: Sketch, estimate: Estimate, order: Sequence[int], side: _Side
) -> None:
    """Draw the sections of the right side, the silhouette where there is room for it."""
    x, y, free = _WIDTH - MARGIN - _SIDE, top, body - side.height
    draw_size(canvas, x, y, _SIDE, estimate)
    y += _SIZE
    for line in side.warnings:
        canvas.text(x, y, line, size=11, color=INK)
        y += LINE_HEIGHT
    y += 10 if side.warnings else 0
    if side.score is None or free >= _SILHOUETTE:
        height = _SILHOUETTE if side.score else _SILHOUETTE + min(0.6 * _SILHOUETTE, free)
        heading(canvas, x, y + 6, _SIDE, "DEPTH × WIDTH", "area is bytes")
        draw_silhouette(canvas, x, y + 24, _SIDE, height - 24 - _GAP, sketch, estimate, order)
        y += height
    if side.score is not None:
        side.score.draw(canvas, x, y)
        y += side.score.height + _GAP
    if side.history is not None:
        side.history.draw(canvas, x, y, _SIDE, min(1.4 * _HISTORY, top + body - y))


def describe(estimate: Estimate, score: Score | None) -> str:
    """Return one sentence for where no picture can be shown: recipe, size, and accuracy where it is known."""
    about = "" if estimate.exact else "about "
    size = f"{about}{bytes_text(estimate.nbytes)} instead of {bytes_text(estimate.original_nbytes)}"
    sentence = f"{recipe_sentence(estimate.recipe)}: {size} ({compared_size_text(estimate.ratio)}), "
    sentence += f"{share_text(estimate.sparsity)} of the weights pruned"
    score = present_score(estimate, score, [], (score or {}).get("result") or "")
    value = value_of(score)
    if score is not None and value is not None:
        metric = metric_of(score)
        sentence += f", {metric.name} {value_text(value, metric.percent)} ({sample_words(score)})"
        told = (*filter(None, [prediction_words(score, metric.percent)]), *(score.get("warnings") or ()))
    else:
        told = ()
    return "; ".join([sentence, *told, *filter(None, [dead_words(estimate)])]) + "."


def present_score(estimate: Estimate, score: Score | None, history: Sequence[Score], result: str = "") -> Score | None:
    """Return the score of this very recipe and `result`, now or from before, or its failure; None if there is none."""
    shown = (estimate.recipe.to_json(), result)
    own = [s for s in (score, *reversed(history)) if s and (s.get("recipe"), s.get("result") or "") == shown]
    return next((s for s in own if value_of(s) is not None), own[0] if own else None)


def _title(canvas: Canvas, sketch: Sketch, estimate: Estimate, recipe: Sequence[str]) -> None:
    title = canvas.fitted(sketch.title, 0.6 * _WIDTH, size=19, bold=True)
    width = canvas.text(MARGIN, 26, title, size=19, bold=True)
    depth = f"{len(sketch.layers)} layers"
    canvas.text(MARGIN + width + 14, 27, f"{sketch.parameters:,} parameters · {depth}", size=12, color=MUTED)
    for i, line in enumerate(recipe):
        canvas.text(MARGIN, 51 + i * LINE_HEIGHT, line, size=13, color=INK)
    known = "exact" if estimate.exact else estimated_text(False, "preview")
    canvas.text(_WIDTH - MARGIN, 27, known, size=12, color=MUTED, align="right")
    rule = _LINE_TOP + LINE_HEIGHT * (len(recipe) - 1)
    canvas.line(MARGIN, rule, _WIDTH - MARGIN, rule, LINE)
