"""The figure of size: the dense file against the file now, by part, by layer, or step by step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.estimate_from_sketch import estimate as estimate_of
from ..analysis.sketch import Sketch
from ..argument_checks import meant
from ..compressed_model import CompressedModel
from ..errors import FigureError, layer_label, quoted
from ..evaluation.evaluate_and_metrics import Score
from ..recipe_and_method_registry import Recipe
from .canvas import DENSE, INK, KEPT, MUTED, OUTLINE, Canvas
from .figure_base_and_registry import Area, Chart, drawn, model_figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .legend import LEGEND_LINE, draw_legend, legend_height
from .line_chart import spread_apart
from .model_figure_inputs import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .numbers_and_recipes_as_text import (
    bytes_text,
    compared_size_text,
    estimated_text,
    recipe_sentence,
    share_text,
    times_text,
    value_text,
)
from .page_size_and_style import Page
from .snapshot_size_score_history import PARTS, SIZE_BARS, fill_bar, size_bars, size_legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 17.0
_STEP: Final = 24.0
_HEAD: Final = 24.0
_LINE: Final = 16.0
_SHORTEST: Final = 60.0
"""Pixels of a name in which it can still be told from others."""
_LEGEND_BELOW: Final = 300.0
"""Pixels below which the parts' names stand in a list and not below their bars."""


@model_figure_kind
def size(
    model: ModelLike | Estimate | CompressedModel,
    recipe: Recipe | float | None = None,
    *,
    by: str = "part",
    steps: Mapping[str, Any] | bool = False,
    estimate: Estimate | None = None,
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw the bytes of the dense model against those of the file now.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.size(sw.demo.model(), sparsity=0.9, bits=4, by="layer")
    >>> figure = sw.figures.size(sw.demo.model(), sparsity=0.9, bits=4, steps=True, width="nature-single")

    Args:
        model: an `Estimate`, a `CompressedModel`, a `Sketch`, an explorer, or what a sketch is made of.
        recipe: a `Recipe`, or a number: the sparsity; for what is neither an estimate nor compressed.
        by: ``"part"`` of the file (codes, mask, scales, …), or ``"layer"``.
        steps: True for a bar after each step, prune → quantize → entropy-code; or a dict of your own steps by name, the
            first of them dense: bytes, an `Estimate`, a `CompressedModel`, or one of these with its score,
            ``(small, sw.evaluate(small, test))``.
        estimate: exact figures, where they are known; by default those of the sketch.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.

    Raises:
        FigureError: for a model loaded from a file, of which the layers' sizes are no longer known, or an unknown `by`.
    """
    page = page_options(given)
    if isinstance(steps, Mapping):
        return drawn(SizeSteps(tuple(_own_step(name, found) for name, found in steps.items()), ""), ax, page)
    subject: Subject | None = None
    if isinstance(model, Estimate | CompressedModel):
        estimate, look = model if isinstance(model, Estimate) else model.estimate, None
        if estimate is None:
            raise FigureError("a model loaded from a file no longer knows what it was: give what sw.compress returned")
    else:
        subject = subject_of(model, recipe, given, estimate)
        estimate, look = subject.estimate, subject.sketch
    how = meant(by, ("part", "layer"))
    if how is None:
        raise FigureError(f"by={quoted(by)} must be 'part' or 'layer'")
    if how == "part" and not steps:
        return drawn(SizeByPart(estimate, subject), ax, page)
    if look is None:
        what = "steps=True" if steps else "by='layer'"
        raise FigureError(f"{what} needs the dense model: give it or its sketch, and estimate=… beside it")
    if steps:
        return drawn(SizeSteps(_steps_of(look, estimate), look.title, estimate.recipe, subject), ax, page)
    return drawn(SizeByLayer(estimate, subject, tuple(layer.n * layer.itemsize for layer in look.layers)), ax, page)


def _model_facts(subject: Subject | None) -> dict[str, Any]:
    return {"model": None, "checksum": None} if subject is None else subject.model_facts()


@dataclass(frozen=True, eq=False)
class _OfEstimate(Chart):
    """What all figures of a size have in common; `subject`: the dense model, where it is known."""

    kind: ClassVar[str] = "size"
    estimate: Estimate
    subject: Subject | None

    def caption(self) -> str:
        """Say what the recipe comes to."""
        e = self.estimate
        now, dense = estimated_text(e.exact, bytes_text(e.nbytes)), bytes_text(e.original_nbytes)
        comes_to = f"{recipe_sentence(e.recipe)}: {now} of {dense} ({compared_size_text(e.ratio)})"
        return f"Bytes of the dense file and of the file now, {self._how()}. {comes_to}."

    def _how(self) -> str:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return the recipe and what it comes to."""
        e = self.estimate
        return {
            **_model_facts(self.subject),
            "recipe": e.recipe.to_json(),
            "nbytes": e.nbytes,
            "dense_nbytes": e.original_nbytes,
            "ratio": e.ratio,
            "exact": e.exact,
        }

    def _head(self, page: Page, width: float) -> float:
        """Return the pixels of the headline: one line, or two where the ratio has no room beside the bytes."""
        dense, now, ratio = self._head_words()
        one = page.measure(dense) + page.measure(now, bold=True) + 8 + page.measure(ratio) <= width
        return _HEAD if one else _HEAD + _LINE

    def _head_words(self) -> tuple[str, str, str]:
        e = self.estimate
        now, ratio = bytes_text(e.nbytes), compared_size_text(e.ratio)
        return f"{bytes_text(e.original_nbytes)} → ", estimated_text(e.exact, now), estimated_text(e.exact, ratio)

    def _headline(self, canvas: Canvas) -> float:
        """Write dense bytes, bytes now, and the ratio, and return the pixels that takes."""
        dense, now, ratio = self._head_words()
        head = self._head(canvas.page, canvas.width)
        at = canvas.text(0, 7, dense, color=MUTED)
        at += canvas.text(at, 7, now, bold=True)
        canvas.text(at + 8 if head == _HEAD else 0, 7 + head - _HEAD, ratio, color=INK)
        return head


class SizeByPart(_OfEstimate):
    """Dense bytes, bytes now, and the parts of the file."""

    def height(self, page: Page) -> float:
        """Return the height of the bars and the names of the parts."""
        names = 56 if page.pixels >= _LEGEND_BELOW else 24 + 18 * math.ceil(len(PARTS) / self._columns(page.pixels))
        return self._head(page, page.pixels - 8) + SIZE_BARS + names

    @staticmethod
    def _columns(width: float) -> int:
        return 2 if width >= 260 else 1

    def least(self, page: Page) -> float:
        """Return the height: the bars are as high as on the page."""
        return self.height(page)

    def draw(self, area: Area) -> None:
        """Draw the bars of the page's size panel, and below them the parts by name."""
        canvas, e = area.canvas(), self.estimate
        head = self._headline(canvas)
        size_bars(canvas, 0, head, canvas.width, e)
        parts = {name: nbytes for name, nbytes in e.parts().items() if nbytes}
        ends = np.concatenate([[0.0], np.cumsum(list(parts.values()))]) / e.nbytes * canvas.width
        texts = {
            part: estimated_text(e.exact or part in ("uncompressed", "header"), bytes_text(nbytes))
            for part, nbytes in parts.items()
        }
        widest = (
            max(max(canvas.measure(part, size=10), canvas.measure(text, size=10)) for part, text in texts.items()) + 8
        )
        middles = ((ends[1:] + ends[:-1]) / 2).tolist()
        # Parts may be slivers: names stand below, as near as they fit, with a line up to the part they mean.
        places = spread_apart(middles, widest, widest / 2, canvas.width - widest / 2)
        base = head + SIZE_BARS
        # too narrow for names beside each other, however they are moved
        if places is None:
            size_legend(canvas, 0, base + 13, canvas.width, e, self._columns(canvas.width))
            return
        for x, at, (part, text) in zip(middles, places, texts.items(), strict=True):
            canvas.lines([np.array([[x, base + 1], [x, base + 4], [at, base + 11], [at, base + 14]])], MUTED, 0.7)
            canvas.text(at, base + 21, part, size=10, color=MUTED, align="center")
            canvas.text(at, base + 34, text, size=10, align="center")

    def _how(self) -> str:
        return "and what it consists of"

    def table(self) -> Table:
        """Return the bytes of every part."""
        e = self.estimate
        sure = ("uncompressed", "header")
        return Table.of(
            [
                {"part": (part, part), "bytes": (nbytes, estimated_text(e.exact or part in sure, bytes_text(nbytes)))}
                for part, nbytes in e.parts().items()
            ]
        )


@dataclass(frozen=True, eq=False)
class SizeByLayer(_OfEstimate):
    """A bar for each layer: dense, and in it what is left; `dense` are the layers' dense bytes."""

    dense: tuple[int, ...]

    def height(self, page: Page) -> float:
        """Return the height of all rows, lower where they would not fit on a page."""
        return self._around(page) + _ROW * len(self.estimate.layers)

    def least(self, page: Page) -> float:
        """Return the height of rows that can just be told apart."""
        return self._around(page) + 2 * len(self.estimate.layers)

    def _around(self, page: Page) -> float:
        words = [word for word, _ in self._key()]
        return self._head(page, page.pixels - 8) + 15 + legend_height(page, words, page.pixels - 8)

    def draw(self, area: Area) -> None:
        """Draw a row for every layer, with its name and its bytes."""
        canvas, e = area.canvas(), self.estimate
        head, key = self._headline(canvas), self._key()
        below = legend_height(area.page, [word for word, _ in key], canvas.width)
        dense = self.dense
        names = [area.page.label(layer.name) for layer in e.layers]
        label = min(max(canvas.measure(name) for name in names) + 10, max(0.32 * canvas.width, _SHORTEST))
        numbers = [
            f"{bytes_text(before)} → {estimated_text(e.exact, bytes_text(layer.nbytes))}"
            for before, layer in zip(dense, e.layers, strict=True)
        ]
        right = max(canvas.measure(text, size=10) for text in numbers) + 8
        scale = (canvas.width - label - right) / max(*dense, *(layer.nbytes for layer in e.layers))
        row = (canvas.height - head - below - 11) / len(e.layers)
        # a gap between the bars for as long as rows are high enough to show one
        bar = min(0.72 * row, row - 0.6) if row > 3 else row
        size = min(11.0, max(8.0, 0.8 * row))
        written = set(thin([(head + (i + 0.5) * row, size) for i in range(len(names))], gap=1.5))
        for i, layer in enumerate(e.layers):
            y = head + i * row
            fill_bar(canvas, label, y, dense[i] * scale, bar, DENSE)
            x = label
            # of a layer under Keep all is `as_is`, which the file counts among what is not compressed: hence that color
            for part, color in (*PARTS[:3], ("as_is", PARTS[3][1])):
                nbytes = getattr(layer, part)
                if nbytes:
                    fill_bar(canvas, x, y, nbytes * scale, bar, color)
                x += nbytes * scale
            if i in written:
                canvas.text(0, y + bar / 2, canvas.fitted(names[i], label - 8, size=size), size=size)
                canvas.text(canvas.width, y + bar / 2, numbers[i], size=min(size, 10.0), align="right")

        def mark(color: str) -> Callable[[float, float], None]:
            return lambda x, y: fill_bar(canvas, x, y - 4, 13, 8, color)

        draw_legend(
            canvas, canvas.height - below + LEGEND_LINE / 2, canvas.width, [(word, mark(color)) for word, color in key]
        )

    def _key(self) -> list[tuple[str, str]]:
        """Return the words of the key and their colors, of what there is."""
        used = {
            part: any(getattr(layer, part) for layer in self.estimate.layers) for part in ("codes", "mask", "scales")
        }
        shown = [("dense", DENSE), *((part, color) for part, color in PARTS if used.get(part))]
        if any(layer.as_is for layer in self.estimate.layers):
            shown.append(("uncompressed", PARTS[3][1]))
        return shown

    def _how(self) -> str:
        return "layer by layer"

    def table(self) -> Table:
        """Return the bytes of every layer."""
        e = self.estimate
        rows = []
        for layer, before in zip(e.layers, self.dense, strict=True):
            rows.append(
                {
                    "layer": (layer_label(layer.name), layer_label(layer.name)),
                    "weights": (layer.n, f"{layer.n:,}"),
                    "dense bytes": (before, bytes_text(before)),
                    "bytes": (layer.nbytes, estimated_text(e.exact, bytes_text(layer.nbytes))),
                    "pruned": (layer.sparsity, estimated_text(e.exact, share_text(layer.sparsity))),
                }
            )
        return Table.of(rows)


@dataclass(frozen=True)
class Step:
    """One step: what the file takes after it, and the score of the model, where it is known."""

    name: str
    nbytes: int
    exact: bool = True
    score: Score | None = None


def _steps_of(look: Sketch, e: Estimate) -> tuple[Step, ...]:
    """Return dense, pruned, quantized and, where it is known, entropy-coded."""
    steps = [Step("dense", e.original_nbytes)]
    recipe = e.recipe
    # a layer's override may round where the recipe does not
    rounds = recipe.bits < 32 or any(plan.bits < 32 for plan in look.plans(recipe))
    if e.sparsity > 0:
        pruning = {
            name: {f: own[f] for f in ("sparsity", "structure") if f in own} if isinstance(own, Mapping) else own
            for name, own in recipe.layers.items()
        }
        # The same recipe without its rounding says what pruning alone saves; of overrides only what they say of
        # pruning.
        only = recipe.with_(bits=32, quantizer="uniform", granularity="channel", uncompressed_bits=32, layers=pruning)
        pruned = estimate_of(look, only) if rounds else e
        steps.append(Step("pruned", pruned.nbytes, pruned.exact))
    if rounds:
        steps.append(Step("quantized", e.nbytes, e.exact))
    if e.nbytes_entropy_coded is not None:
        steps.append(Step("entropy-coded", e.nbytes_entropy_coded))
    return tuple(steps)


def _own_step(name: str, found: Any) -> Step:
    model, score = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if isinstance(model, Estimate):
        nbytes, exact = model.nbytes, model.exact
    elif isinstance(model, CompressedModel):
        nbytes, exact = model.nbytes, True
    elif isinstance(model, int) and not isinstance(model, bool) and model > 0:
        nbytes, exact = model, True
    else:
        raise FigureError(
            f"steps[{quoted(name)}] is {quoted(model)}: give bytes, an Estimate, a CompressedModel, or one of these "
            f"with its score, (small, score)"
        )
    if score is not None and not isinstance(score, Score):
        raise FigureError(f"steps[{quoted(name)}] has the score {quoted(score)}: give what sw.evaluate returned")
    return Step(str(name), nbytes, exact, score)


@dataclass(frozen=True, eq=False)
class SizeSteps(Chart):
    """A waterfall: a bar after each step, and beside it what the step saved."""

    kind: ClassVar[str] = "size"
    steps: tuple[Step, ...]
    model: str = ""
    recipe: Recipe | None = None
    subject: Subject | None = None

    def __post_init__(self) -> None:
        if len(self.steps) < 2:
            raise FigureError("there is nothing to draw in 'size': steps=… needs two steps at least")

    def height(self, page: Page) -> float:  # noqa: ARG002
        """Return the height of all steps."""
        return _STEP * len(self.steps) + (20 if self._scored else 4)

    def narrowest(self, page: Page) -> float:
        """Return the width with bars that can be compared between the names and the numbers."""
        return _SHORTEST + 60 + sum(self._number_widths(page))

    def _number_widths(self, page: Page) -> list[float]:
        """Return the widths of the columns of bytes, ratios and scores."""
        texts = (self._sizes(), self._ratios(), [self._score(step) for step in self.steps] if self._scored else [])
        return [max(map(page.measure, column)) + 12 if column else 0.0 for column in texts]

    def _sizes(self) -> list[str]:
        return [estimated_text(step.exact, bytes_text(step.nbytes)) for step in self.steps]

    def _ratios(self) -> list[str]:
        return [times_text(self.steps[0].nbytes / step.nbytes) for step in self.steps]

    @property
    def _scored(self) -> bool:
        return any(step.score is not None for step in self.steps)

    def draw(self, area: Area) -> None:
        """Draw a bar for each step, what it saved in a paler color, and the numbers at the right."""
        canvas, sizes, ratios = area.canvas(), self._sizes(), self._ratios()
        names = [area.page.label(step.name) for step in self.steps]
        scores, widths = [self._score(step) for step in self.steps], self._number_widths(area.page)
        most = min(0.4 * canvas.width, canvas.width - sum(widths) - 60)
        label = min(max(canvas.measure(name) for name in names) + 10, max(most, _SHORTEST))
        scale = (canvas.width - label - sum(widths)) / max(step.nbytes for step in self.steps)
        top = 16.0 if self._scored else 0.0
        row = (canvas.height - top) / len(self.steps)
        bar = 0.62 * row
        right = canvas.width
        if self._scored:
            metric = next(step.score.metric for step in self.steps if step.score is not None)
            canvas.text(right, 7, metric, size=10, color=MUTED, align="right")
        for i, step in enumerate(self.steps):
            y = top + i * row + (row - bar) / 2
            before = self.steps[i - 1].nbytes if i else step.nbytes
            if before > step.nbytes:
                fill_bar(canvas, label + step.nbytes * scale, y, (before - step.nbytes) * scale, bar, DENSE)
            fill_bar(canvas, label, y, step.nbytes * scale, bar, KEPT)
            if i:
                canvas.line(label + before * scale, y - (row - bar), label + before * scale, y, OUTLINE, width=0.8)
            middle = y + bar / 2
            canvas.text(0, middle, canvas.fitted(names[i], label - 8))
            # columns of numbers from the right edge to the left
            at = right
            for texts, width in ((scores, widths[2]), (ratios, widths[1]), (sizes, widths[0])):
                if width:
                    canvas.text(at, middle, texts[i], align="right", bold=texts is sizes and i == len(self.steps) - 1)
                at -= width

    @staticmethod
    def _score(step: Step) -> str:
        return "–" if step.score is None else value_text(step.score.value, step.score.percent)

    def caption(self) -> str:
        """Say what every step came to."""
        first, last = self.steps[0], self.steps[-1]
        of = f" of {self.model}" if self.model else ""
        recipe = f" {recipe_sentence(self.recipe)}." if self.recipe is not None else ""
        scores = [step.score for step in self.steps if step.score is not None]
        rests = f" {scores[0].metric} on {scores[0].n:,} examples." if scores else ""
        small = estimated_text(last.exact, bytes_text(last.nbytes))
        return (
            f"Bytes of the file{of} after each step, from {bytes_text(first.nbytes)} to {small}, "
            f"{times_text(first.nbytes / last.nbytes)} in all; pale is what a step saved.{recipe}{rests}"
        )

    def table(self) -> Table:
        """Return a row for every step."""
        rows: list[dict[str, tuple[Any, str]]] = []
        for step in self.steps:
            ratio = self.steps[0].nbytes / step.nbytes
            row: dict[str, tuple[Any, str]] = {
                "step": (step.name, step.name),
                "bytes": (step.nbytes, estimated_text(step.exact, bytes_text(step.nbytes))),
                "ratio": (ratio, times_text(ratio)),
            }
            if step.score is not None:
                row[step.score.metric] = (step.score.value, self._score(step))
                row["n"] = (step.score.n, f"{step.score.n:,}")
            rows.append(row)
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return the recipe, and the bytes after every step."""
        scores = [step.score for step in self.steps if step.score is not None]
        about = _model_facts(self.subject) | {"steps": {step.name: step.nbytes for step in self.steps}}
        about |= {} if self.recipe is None else {"recipe": self.recipe.to_json()}
        told = (
            {
                "metric": scores[0].metric,
                "n": scores[0].n,
                "provenance": [s.provenance for s in scores],
                "checksums": [step.score.checksum or None if step.score else None for step in self.steps],
            }
            if scores
            else {}
        )
        return {**about, **told}
