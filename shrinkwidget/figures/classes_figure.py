"""The figure of what a smaller model gets wrong: change by class, confusions, and misread images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..errors import FigureError, quoted
from ..evaluation.compare_predictions import PredictionComparison
from .canvas import ACCURACY, FAINT, INK, LINE, MUTED, OUTLINE, PAPER, Canvas
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .numbers_and_recipes_as_text import interval_text, percent_digit_text, tick_text, value_text
from .page_size_and_style import Page, PageOptions
from .ticks_and_size_marks import linear_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 17.0
_HEAD: Final = 24.0
_IMAGE: Final = 46.0
_WORDS: Final = 15.0
_CONFUSIONS: Final = 6


@figure_kind
def classes(
    found: PredictionComparison,
    *,
    names: Sequence[str] | None = None,
    images: int = 8,
    ax: Axes | None = None,
    **page: Unpack[PageOptions],
) -> Figure:
    """Draw what an accuracy hides: how each class fares, which are taken for which, and misread images.

    >>> import shrinkwidget as sw
    >>> model, valid = sw.demo.model(), sw.demo.data("valid")
    >>> found = sw.compare_predictions(model, sw.compress(model, sparsity=0.85, bits=4), valid)
    >>> figure = sw.figures.classes(found, width="nature-double")

    Args:
        found: what `sw.compare_predictions` returned.
        names: of the classes, by their number.
        images: how many of the misread images to show, at most.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for what is no comparison, or names that are fewer than the classes.
    """
    if not isinstance(found, PredictionComparison):
        raise FigureError(
            f"cannot draw the classes of a {type(found).__name__}: give what sw.compare_predictions returned"
        )
    if not any(change.n for change in found.by_class):
        raise FigureError("there is nothing to draw in 'classes': no class has an example")
    if names is not None and len(names) < len(found.by_class):
        raise FigureError(f"names={quoted(list(names))} are {len(names)}, and there are {len(found.by_class)} classes")
    told = tuple(str(name) for name in names) if names is not None else tuple(str(c.label) for c in found.by_class)
    return drawn(Classes(found, told, max(0, int(images))), ax, page)


@dataclass(frozen=True, eq=False)
class Classes(Chart):
    """A row for each class, the confusions that grew most, and misread images."""

    kind: ClassVar[str] = "classes"
    found: PredictionComparison
    names: tuple[str, ...]
    most_images: int

    @property
    def _shown(self) -> list[int]:
        return [change.label for change in self.found.by_class if change.n]

    def height(self, page: Page) -> float:
        """Return the height of the classes, and, in a narrow column, of the images below them."""
        rows = _HEAD + 34 + min(_ROW * len(self._shown), 600)
        beside, below = self._sides(page.pixels - 8)
        right = self._right_height(beside) if beside else 0.0
        return max(rows, right) + (12 + self._right_height(below) if below else 0) + 8

    def least(self, page: Page) -> float:
        """Return the height: images and confusions take what they take."""
        return self.height(page) if self._sides(page.pixels - 8)[1] else 0.6 * self.height(page)

    def _sides(self, width: float) -> tuple[float, float]:
        """Return the width of what stands beside the classes and of what stands below them; one of them is 0."""
        if not self._misread and not self._confused:
            return 0.0, 0.0
        return (0.46 * width, 0.0) if width >= 460 else (0.0, width)

    @property
    def _misread(self) -> list[int]:
        return [m.example for m in self.found.misread if m.example in self.found.images][: self.most_images]

    @property
    def _confused(self) -> list[Any]:
        return [c for c in self.found.confusions if c.after > c.before][:_CONFUSIONS]

    def _right_height(self, width: float) -> float:
        rows = math.ceil(len(self._misread) / max(1, self._columns(width)))
        images = _HEAD + rows * (_IMAGE + _WORDS + 6) if rows else 0.0
        return images + (_HEAD + 15 * len(self._confused) if self._confused else 0.0)

    def _columns(self, width: float) -> int:
        most = max(1, math.floor((width + 8) / (max(_IMAGE, self._word_width) + 8)))
        # lines are filled evenly, rather than all but the last
        rows = math.ceil(len(self._misread) / most)
        return math.ceil(len(self._misread) / rows) if rows else most

    @property
    def _word_width(self) -> float:
        # about: letters of this size are 5.6 pixels wide, and the page's fonts are not at hand here
        longest = max((len(self.names[m.label]) + len(self.names[m.predicted]) for m in self.found.misread), default=2)
        return min(5.6 * (longest + 3), 2 * _IMAGE)

    def draw(self, area: Area) -> None:
        """Draw the classes, and beside or below them the confusions and the images."""
        beside, below = self._sides(area.width)
        under = 12 + self._right_height(below) if below else 0.0
        left = area.width - (beside + 22 if beside else 0)
        self._classes(area.canvas(0, 0, left, area.height - under))
        if beside or below:
            x, y, width = (left + 22, 0.0, beside) if beside else (0.0, area.height - under + 12, below)
            canvas = area.canvas(x, y, width, area.height - y)
            top = self._confusions(canvas, width)
            self._images(area.part(x, y + top, width, area.height - y - top), canvas, top)

    def _classes(self, canvas: Canvas) -> None:
        """Draw a line for each class from what was right before to what is right after."""
        page, shown = canvas.page, self._shown
        names = [page.shown(str(page.labels.get(self.names[label], self.names[label]))) for label in shown]
        label = min(
            max([canvas.measure(name) for name in names] + [canvas.measure("class", size=10)]) + 12, 0.35 * canvas.width
        )
        left, right, top = label, canvas.width - canvas.measure(tick_text(1, percent=True), size=10) / 2, _HEAD
        row = (canvas.height - _HEAD - 34) / len(shown)
        bottom = top + row * len(shown)

        def x(share: float) -> float:
            return left + share * (right - left)

        ticks = linear_ticks(0.0, 1.0, 4 if right - left > 150 else 2)
        for tick in ticks:
            if page.style.grid or tick in (0, 1):
                canvas.line(x(tick), top, x(tick), bottom, FAINT if 0 < tick < 1 else LINE)
            canvas.line(x(tick), bottom, x(tick), bottom + 3, MUTED, width=0.8)
            canvas.text(x(tick), bottom + 11, tick_text(tick, percent=True), size=10, align="center")
        canvas.text((left + right) / 2, bottom + 25, "right answers", align="center")
        canvas.text(0, 8, "class", size=10, color=MUTED)
        written = set(thin([(top + (i + 0.5) * row, 10.0) for i in range(len(shown))], gap=1.0))
        size = min(7.0, max(2.0, 0.6 * row))
        for i, index in enumerate(shown):
            change, y = self.found.by_class[index], top + (i + 0.5) * row
            canvas.line(x(change.before), y, x(change.after), y, ACCURACY, width=min(2.0, 0.3 * row))
            canvas.dots(np.array([x(change.before)]), np.array([y]), OUTLINE, size)
            # a disc of paper on the one of ink: a ring, with the class's line not seen through it
            canvas.dots(np.array([x(change.before)]), np.array([y]), PAPER, max(size - 2.4, 0.5))
            canvas.dots(np.array([x(change.after)]), np.array([y]), ACCURACY, size, "D")
            if i in written:
                canvas.text(0, y, canvas.fitted(names[i], label - 8))
        at = left
        for marker, color, text in (("o", OUTLINE, "before"), ("D", ACCURACY, "after")):
            canvas.dots(np.array([at + 4]), np.array([8.0]), color, 7, marker)
            if marker == "o":
                canvas.dots(np.array([at + 4]), np.array([8.0]), PAPER, 4.6, marker)
            at += 13 + canvas.text(at + 13, 8, text, size=10) + 12

    def _confusions(self, canvas: Canvas, width: float) -> float:
        """Write which classes are taken for which more often than before, and return the height that takes."""
        if not self._confused:
            return 0.0
        canvas.text(0, 8, canvas.fitted("taken for another, before → after", width, size=10), size=10, color=MUTED)
        width = min(width, 230.0)  # numbers far from their names are read in the wrong row
        for i, c in enumerate(self._confused):
            y = _HEAD + 15 * i
            numbers = f"{c.before:,} → {c.after:,}"
            room = width - canvas.measure(numbers) - 10
            canvas.text(
                0, y, canvas.fitted(canvas.page.shown(f"{self.names[c.label]} as {self.names[c.predicted]}"), room)
            )
            canvas.text(width, y, numbers, align="right")
        return _HEAD + 15.0 * len(self._confused)

    def _images(self, area: Area, canvas: Canvas, top: float) -> None:
        """Draw misread images, each with what it is and what it is taken for."""
        examples = {m.example: m for m in self.found.misread}
        if not self._misread or area.height < _HEAD + _IMAGE:
            return
        canvas.text(0, top + 8, "misread", size=10, color=MUTED)
        columns = self._columns(area.width)
        step = area.width / columns
        for i, example in enumerate(self._misread):
            x, y = (i % columns + 0.5) * step - _IMAGE / 2, _HEAD + (i // columns) * (_IMAGE + _WORDS + 6)
            if y + _IMAGE + _WORDS > area.height + 1:
                return
            axes = area.axes(x, y, area.width - x - _IMAGE, area.height - y - _IMAGE)
            axes.set_axis_off()
            pixels = _pixels(self.found.images[example])
            axes.imshow(pixels, cmap="gray_r" if pixels.ndim == 2 else None, interpolation="none", aspect="equal")
            told = examples[example]
            text = f"{self.names[told.label]} as {self.names[told.predicted]}"
            canvas.text(
                x + _IMAGE / 2,
                top + y + _IMAGE + 8,
                canvas.fitted(canvas.page.shown(text), step - 4, size=10),
                size=10,
                align="center",
                color=INK,
            )

    def caption(self) -> str:
        """Say what the accuracies are, how many examples were lost, and how many are shown."""
        before, after = self.found.before, self.found.after
        scores = " → ".join(
            f"{value_text(s.value, s.percent)} ({interval_text(s.low, s.high, s.percent)})" for s in (before, after)
        )
        shown = len(self._misread)
        images = (
            f" {shown} of the {len(self.found.misread):,} misread examples that were right before are shown."
            if shown
            else ""
        )
        return (
            f"Right answers by class before and after: {before.metric} {scores} of {before.n:,} examples; "
            f"{len(self.found.misread):,} are misread that were right, {self.found.fixed:,} right that were wrong."
            f"{images} {after.provenance[:1].upper()}{after.provenance[1:]}."
        )

    def table(self) -> Table:
        """Return a row for each class."""
        return Table.of(
            [
                {
                    "class": (self.names[c.label], self.names[c.label]),
                    "n": (c.n, f"{c.n:,}"),
                    "before": (c.before, percent_digit_text(c.before)),
                    "after": (c.after, percent_digit_text(c.after)),
                    "change": (c.after - c.before, f"{100 * (c.after - c.before):+.1f}".replace("-", "\N{MINUS SIGN}")),
                }
                for c in self.found.by_class
                if c.n
            ]
        )

    def facts(self) -> dict[str, Any]:
        """Return on what the numbers rest."""
        return {
            "metric": self.found.before.metric,
            "n": [self.found.before.n],
            "before": self.found.before.value,
            "after": self.found.after.value,
            "provenance": [self.found.after.provenance],
            "misread": len(self.found.misread),
            "checksum": self.found.before.checksum or None,
            "checksums": [self.found.after.checksum or None],
        }


def _pixels(image: Any) -> np.ndarray[Any, Any]:
    """Return an image's pixels from 0 to 1, H×W or H×W×3, whatever range its values had."""
    values = np.asarray(image.detach().cpu().float() if hasattr(image, "detach") else image, dtype=np.float64)
    if values.ndim == 3 and values.shape[-1] in (1, 3) and values.shape[0] not in (1, 3):
        values = np.moveaxis(values, -1, 0)  # an explorer keeps small pictures, H×W×C
    if values.ndim == 3:
        values = values[0] if values.shape[0] == 1 else np.moveaxis(values, 0, -1)
    low, high = np.nanmin(values), np.nanmax(values)
    return (np.nan_to_num(values) - low) / (high - low or 1.0)
