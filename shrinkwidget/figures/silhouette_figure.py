"""The figure of a model's outline: depth across, width up, area in proportion to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..recipe_and_method_registry import Recipe
from .canvas import KEPT, MUTED, OUTLINE, PAPER
from .distributions_figure import layer_table
from .figure_base_and_registry import Area, Chart, drawn, model_figure_kind
from .figure_tables import Table
from .legend import LEGEND_LINE, draw_legend, legend_height
from .model_figure_inputs import ModelFigureOptions, ModelLike, Subject, page_options, subject_of
from .model_silhouette import draw_silhouette
from .numbers_and_recipes_as_text import bytes_text, estimated_text
from .page_size_and_style import Page
from .snapshot_size_score_history import fill_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@model_figure_kind
def silhouette(
    model: ModelLike,
    recipe: Recipe | float | None = None,
    *,
    estimate: Estimate | None = None,
    order: Sequence[int] = (),
    ax: Axes | None = None,
    **given: Unpack[ModelFigureOptions],
) -> Figure:
    """Draw every layer as a box, as high as it has output channels, and in it what is left of its bytes.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.silhouette(sw.demo.model(), sparsity=0.9, bits=4, width="nature-single")

    Args:
        model: a `Sketch`, an explorer, or what a sketch is made of.
        recipe: a `Recipe`, or a number: the sparsity.
        estimate: exact figures, where they are known; by default those of the sketch.
        order: the layers' indices in the order of the forward pass.
        ax: Axes to draw into, instead of a figure of its own.
        given: fields of a recipe, and width, height, font, size, style of the page; see `PageOptions`.
    """
    return drawn(Silhouette(subject_of(model, recipe, given, estimate, order)), ax, page_options(given))


@dataclass(frozen=True, eq=False)
class Silhouette(Chart):
    """A model's outline under a recipe."""

    kind: ClassVar[str] = "silhouette"
    subject: Subject

    def height(self, page: Page) -> float:
        """Return the height of an outline wider than high."""
        return min(max(0.42 * page.pixels, 130.0), 240.0) + self._key_height(page, page.pixels - 8) - LEGEND_LINE

    def _key_words(self) -> tuple[str, str]:
        e = self.subject.estimate
        return f"dense {bytes_text(e.original_nbytes)}", f"now {estimated_text(e.exact, bytes_text(e.nbytes))}"

    def _key_height(self, page: Page, width: float) -> float:
        return legend_height(page, self._key_words(), width)

    def draw(self, area: Area) -> None:
        """Draw the outline, the names of its stages, and a key."""
        canvas, e = area.canvas(), self.subject.estimate
        dense, now = self._key_words()

        def box(x: float, y: float) -> None:
            fill_bar(canvas, x, y - 4, 13, 8, OUTLINE)
            fill_bar(canvas, x + 1, y - 3, 11, 6, PAPER)

        draw_legend(
            canvas, 8, canvas.width, [(dense, box), (now, lambda x, y: fill_bar(canvas, x, y - 4, 13, 8, KEPT))]
        )
        top = 5 + self._key_height(area.page, canvas.width)
        high = canvas.height - top - 16
        draw_silhouette(canvas, 0, top, canvas.width, high, self.subject.sketch, e, self.subject.order)
        canvas.text(canvas.width / 2, canvas.height - 6, "depth", align="center", color=MUTED)

    def caption(self) -> str:
        """Say what area and height mean, and what the recipe comes to."""
        return (
            f"{self.subject.sketch.title}, layer by layer: a box is as high as the layer has output channels, and its "
            f"area is its dense bytes; filled is what is left of them{self._tinted()}. {self.subject.sentence()}."
        )

    def _tinted(self) -> str:
        widths = self.subject.estimate.widths or {}
        return ", in the tint of a layer without the channels that went" * any(n < was for was, n in widths.values())

    def table(self) -> Table:
        """Return a row for every layer."""
        return layer_table(self.subject, self.subject.order)

    def facts(self) -> dict[str, Any]:
        """Return the model and the recipe."""
        return self.subject.facts()
