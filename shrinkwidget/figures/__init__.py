"""Figures for reports: the widget's charts and more, for print, slides and the web, drawn by matplotlib.

Each function takes data, returns a `matplotlib.figure.Figure`, and imports matplotlib when it is called. A kind is one
module, with its `Chart` and its function, which ``@figure_kind`` registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .classes_figure import classes
from .devices_figure import devices
from .distributions_figure import distributions
from .figure_base_and_registry import charts_of, kind_named
from .figure_file import read, save
from .figure_tables import Table
from .layer_figure import layer
from .race_figure import race
from .sensitivity_figure import sensitivity
from .silhouette_figure import silhouette
from .size_figure import size
from .summary_figure import summary
from .tradeoff_figure import tradeoff
from .training_figure import training
from .transfer_by_examples_figure import transfer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "caption",
    "classes",
    "devices",
    "distributions",
    "draw",
    "layer",
    "race",
    "read",
    "save",
    "sensitivity",
    "silhouette",
    "size",
    "summary",
    "table",
    "tradeoff",
    "training",
    "transfer",
]


def draw(kind: str, *data: Any, ax: Any = None, **options: Any) -> Figure:
    """Draw a figure of any kind, by its name: ``draw("tradeoff", …)`` is ``tradeoff(…)``.

    Raises:
        FigureError: for an unknown kind, or as the function of that name.

    Example:
        >>> import shrinkwidget as sw
        >>> figure = sw.figures.draw("distributions", sw.demo.model(), sparsity=0.9, bits=4)
    """
    return kind_named(kind)(*data, ax=ax, **options)


def caption(figure: Figure | str, *data: Any, **options: Any) -> str:
    """Return the caption of a figure, or of the kind and the data one would be drawn of.

    It names what ShrinkBench (arXiv 2003.03033) asks of every paper on pruning, where it is known: the compression
    ratio, multiply-accumulates, raw scores, the control, the examples and the seeds.

    Example:
        >>> import shrinkwidget as sw
        >>> model, valid = sw.demo.model(), sw.demo.data("valid")
        >>> small = sw.compress(model, sparsity=0.8, bits=4)
        >>> sw.figures.caption("tradeoff", [(small, sw.evaluate(small, valid))], baseline=sw.evaluate(model, valid))
        'Accuracy against compression ratio, ...'
    """
    shown = draw(figure, *data, **options) if isinstance(figure, str) else figure
    return " ".join(chart.caption() for chart in charts_of(shown))


def table(figure: Figure | str, *data: Any, **options: Any) -> Table:
    """Return the numbers of a figure, or of the kind and the data one would be drawn of.

    Its `rows` are dicts; `markdown()`, `csv()` and `latex()` write them.

    Example:
        >>> import shrinkwidget as sw
        >>> model, valid = sw.demo.model(), sw.demo.data("valid")
        >>> small = sw.compress(model, sparsity=0.8, bits=4)
        >>> sw.figures.table("tradeoff", [(small, sw.evaluate(small, valid))]).columns
        ('recipe', 'bytes', 'ratio', 'sparsity', 'SQNR', 'accuracy', 'low', 'high', 'n')
    """
    shown = draw(figure, *data, **options) if isinstance(figure, str) else figure
    return next((chart.table() for chart in charts_of(shown)), Table((), [], []))
