"""What a notebook calls, `explore` and `monitor`: the first call imports Jupyter, and the engine runs without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, Unpack

from .analysis.open_model_tensors_and_channel_axes import Source, Stated
from .argument_checks import public
from .errors import MissingPackageError
from .evaluation.batches_predictions_and_labels import LabelRules
from .evaluation.evaluate_and_metrics import MetricLike
from .recipe_and_method_registry import Recipe, RecipeFields, every_setting, recipe_from
from .training.retrain_and_training_run import Show, TrainingRun, register_display

if TYPE_CHECKING:
    from .widgets.explorer import Explorer
    from .widgets.monitor import Monitor

_JUPYTER: Final = {"IPython", "anywidget", "comm", "ipywidgets", "psygnal", "traitlets"}


@public(fields_of=[RecipeFields], also=every_setting)
def explore(
    model: Source,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    *,
    train_data: object = None,
    metric: MetricLike = "accuracy",
    ignore_index: int | None = None,
    next_token: bool | None = None,
    layout: Stated = None,
    calibration: object = None,
    example: object = None,
    recalibrate_batchnorm: bool = False,
    predict_first: bool = False,
    view: Literal["full", "simple"] = "full",
    **fields: Unpack[RecipeFields],
) -> Explorer:
    """Open the explorer on a model.

    >>> import shrinkwidget as sw
    >>> ex = sw.explore(sw.demo.model(), sparsity=0.9, bits=4)
    >>> ex.recipe
    Recipe(sparsity=0.9, bits=4)
    >>> ex.close()

    Of a large model (hundreds of layers, or tens of millions of weights) the layers are looked at in the background:
    the explorer is there at once, its charts fill in, and what needs all layers, such as ``ex.estimate``, waits for
    them.

    Args:
        model: an ``nn.Module``, a state dict, or the path of a checkpoint (see `sketch`). It is never changed.
        eval_data: what to evaluate on, see `evaluate`; without it there is no accuracy. Needs a module.
        recipe: where to start: a `Recipe`, or a number: the sparsity. By default nothing is pruned or quantized.
        train_data: what "Retrain…" trains on, see `retrain`, and what batch norm is recalibrated on; what "Recover"
            looks at, see `recover`, where there is no `calibration`.
        metric: see `evaluate`.
        ignore_index, next_token: how labels are read; see `evaluate`.
        layout: which axis of a state dict's or a file's tensors is the output channels; see `sketch`.
        calibration: examples for an importance that needs them, ``"wanda"`` or ``"taylor"``, see `sketch`, and for
            "Recover".
        example: what the model runs on, for recipes that remove channels: a tensor, a tuple of positional or a dict of
            keyword arguments, or what ``sw.channels`` found on one. Left out, the first of `eval_data`.
        recalibrate_batchnorm: whether the switch is on that re-estimates batch norm's statistics on 512 examples of
            `train_data`, without their labels, before every score; what is then kept or saved has them, too.
        predict_first: whether every score is covered until somebody has predicted it, on the page or with
            `Explorer.predict`: the number, the changes by class, the points of the history, and the sensitivity. The
            dense model's is shown.
        view: ``"simple"`` shows sparsity, bits, channels, size, accuracy and the layers to begin with, and the button
            "All controls"; ``"full"`` everything at once. Nothing but what is shown differs.
        fields: of a `Recipe`; beside a recipe they change it.

    Raises:
        ModelError: for a model that cannot be looked at (NaN weights, meta tensors, nothing to compress), a `layout`
            that is none, or no batch norm, or no `train_data`, to recalibrate. NaN in a large model is told on the
            page, and raised by ``ex.estimate``.
        FileError: for a path that is not a safetensors file.
        DataError: for an unknown metric, or data that is none or can be read only once.
        RecipeError: for what is no recipe, or does not fit the model.
        ArgumentError: for an unknown keyword, or another `view`.
        MissingPackageError: where Jupyter's widgets are not installed; the message says how to install them.
    """
    start = recipe_from(recipe, fields, default=Recipe())
    rules = LabelRules(ignore_index, next_token)
    with _needing_jupyter("explore"):
        from .widgets.close_widgets_on_cell_rerun import replace_in_cell
        from .widgets.explorer import Explorer
        from .widgets.explorer_backend import ExplorerSession
    session = ExplorerSession(model, eval_data, metric, train_data, rules, layout, calibration, example)
    session.check(start)  # it may find out which channels can be removed: the sketch that is sent has them then
    return replace_in_cell(Explorer(session, start, recalibrate_batchnorm, predict_first, view))


@public()
def monitor(run: TrainingRun[Any]) -> Monitor:
    """Watch a training in the notebook: put the result last in a cell.

    Raises:
        TrainingError: for what is no `TrainingRun`, or one that does not train.
        MissingPackageError: where Jupyter's widgets are not installed; the message says how to install them.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
        >>> sw.monitor(run)  # last in a cell of a notebook it is a live chart
        Monitor(TrainingRun(DigitNet, ...))
        >>> run.wait()
        True
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


def _notebook() -> Show | None:
    """Return how to show a run in a notebook, or None in one without widgets."""
    try:
        from .widgets.monitor import display_run
    except ModuleNotFoundError:
        return None
    return display_run


register_display(_notebook)
