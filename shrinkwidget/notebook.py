"""What a notebook calls, `explore` and `monitor`: the first call imports Jupyter, and the engine runs without it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from .errors import MissingPackageError
from .learn.run import Run, Show, host_with
from .measure.layers import Source
from .measure.layout import Stated
from .recipe import Recipe, checked_recipe
from .train.evaluate import MetricLike
from .train.labels import LabelRules

if TYPE_CHECKING:
    from .widgets.explorer import Explorer
    from .widgets.monitor import Monitor

_JUPYTER: Final = {"IPython", "anywidget", "comm", "ipywidgets", "psygnal", "traitlets"}


def explore(
    model: Source,
    data: object = None,
    recipe: Recipe | None = None,
    metric: MetricLike = "accuracy",
    train: object = None,
    *,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    layout: Stated = None,
) -> Explorer:
    """Open the explorer on a model.

    Args:
        model: an ``nn.Module``, a state dict, or the path of a ``.safetensors`` file. It is never changed.
        data: what to evaluate on, see `evaluate`; without it there is no accuracy. Needs a module.
        recipe: where to start; by default nothing is pruned or quantized.
        metric: see `evaluate`.
        train: what "Retrain…" trains on; see `retrain`.
        ignore_index, next_token: how labels are read; see `evaluate`.
        layout: which axis of a state dict's or a file's tensors is the output channels; see `sketch`.

    Raises:
        ModelError: for a model that cannot be looked at (NaN weights, meta tensors, nothing to compress), or a `layout`
            that is none.
        FileError: for a path that is not a safetensors file.
        DataError: for an unknown metric, or data that is none or can be read only once.
        RecipeError: for what is no recipe, or does not fit the model.
        MissingPackageError: where Jupyter's widgets are not installed; the message says how to install them.
    """
    start = Recipe() if recipe is None else checked_recipe(recipe)
    rules = LabelRules(ignore_index, next_token)
    with _needing_jupyter("explore"):
        from .widgets.bench import Bench
        from .widgets.cells import replace_in_cell
        from .widgets.explorer import Explorer
    return replace_in_cell(Explorer(Bench(model, data, metric, train, rules, layout), start))


def monitor(run: Run) -> Monitor:
    """Watch a training in the notebook: put the result last in a cell.

    Raises:
        TrainingError: for what is no `Run`, or one that does not train.
        MissingPackageError: where Jupyter's widgets are not installed; the message says how to install them.
    """
    with _needing_jupyter("monitor"):
        from .widgets.monitor import monitor_of
    return monitor_of(run)


@contextmanager
def _needing_jupyter(what: str) -> Iterator[None]:
    """Say which extra brings the widgets, if importing them fails because they are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in _JUPYTER:
            raise
        raise MissingPackageError(
            f'sw.{what} needs Jupyter\'s widgets ({error.name} is not installed): pip install "shrinkwidget[jupyter]"'
        ) from error


def widget_class(name: str) -> type[Explorer] | type[Monitor]:
    """Return the class of a widget, "Explorer" or "Monitor".

    Raises:
        MissingPackageError: where Jupyter's widgets are not installed.
    """
    with _needing_jupyter(name):
        from .widgets.explorer import Explorer
        from .widgets.monitor import Monitor
    return {"Explorer": Explorer, "Monitor": Monitor}[name]


def _notebook() -> Show | None:
    """Return how to show a run in the notebook there is, or None where there is none, or one without widgets."""
    ipython = sys.modules.get("IPython")  # a kernel has loaded it; elsewhere it is not worth its 50 ms
    if ipython is None or getattr(ipython.get_ipython(), "kernel", None) is None:
        return None
    try:
        from .widgets.monitor import display_run
    except ModuleNotFoundError:
        return None
    return display_run


host_with(_notebook)
