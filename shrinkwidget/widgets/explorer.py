"""The explorer: drag sparsity and bit-width over a model and see layers, size and accuracy follow."""

from __future__ import annotations

import logging
import math
import os
import time
from base64 import b64decode
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

import traitlets as t
from IPython.core.getipython import get_ipython
from IPython.display import display
from torch import nn

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.sketch import Sketch
from ..analysis.tensor_ops_threads_and_cpu_kernel import in_forked_children, never
from ..argument_checks import meant, plain
from ..compressed_model import CompressedModel
from ..errors import (
    ArgumentError,
    Cancelled,
    DataError,
    ModelError,
    ShrinkError,
    TrainingError,
    a_type,
    quoted,
    sentence,
)
from ..evaluation.compare_predictions import PredictionComparison
from ..evaluation.evaluate_and_metrics import Score, model_checksum
from ..evaluation.recalibrate_batchnorm import EXAMPLES
from ..evaluation.sensitivity import Kind, Sensitivity, checked_amounts, layers_to_measure
from ..exports import Exported
from ..figures.numbers_and_recipes_as_text import recipe_sentence
from ..live_page import explorer_page, glossary_address, in_frame, write_page
from ..performance.race import Race, RaceRun
from ..planning.budgets import parse_budget
from ..recipe_and_method_registry import Recipe, checked_recipe, schema
from ..sweeps.run_sweep_point import SweepPoint
from ..training.methods_schedule_options_and_progress import Method, Progress, check_whole
from ..training.retrain_and_training_run import TrainingRun
from .base_widget_and_snapshot import BaseWidget, alt_text, built, kernel_owned
from .budget_frontier import BudgetFrontier
from .by_class_json_and_thumbnails import by_class_dict
from .explorer_backend import DENSE, CancelCheck, ExplorerSession, Stale
from .export_button import export_targets, export_to, exported_dict
from .figure_button import save_figure
from .keep_and_save import PLAIN, Exists, alike, keep_in_notebook, keeps, save_to
from .monitor import Monitor
from .worker_thread import Pace, Worker

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("shrinkwidget")

_WORKER: Final = Worker()
in_forked_children(_WORKER.forget_all)
VIEWS: Final = ("full", "simple")
_SCORE_SECONDS: Final = 0.1
_SILENT_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.005
_SNAPSHOT_SECONDS: Final = 5.0
_SENSITIVITY_SECONDS: Final = 0.3
_RACE_SECONDS: Final = 0.5
_RECOVERY_SECONDS: Final = 0.2
_SKETCH_SECONDS: Final = 0.1
_SKETCH_GROWTH: Final = 1.5
_MIRRORS: Final = ("sparsity", "bits", "channels", "multiple")
"""The fields of the recipe that are traits of their own."""
_METRIC_FIELDS: Final = {"metric": "name", "percent": "percent", "higher": "higher"}
_OF_THE_PAGE: Final = ("result",)
"""What the history holds for the page alone: a provenance says as much."""
_NOT_ON_PAGE: Final = frozenset(
    {"sketch", "unsketched", "exact", "score", "by_class", "status", "monitor", "keeps", "figure", "recovery", "export"}
)
"""What a page that stands alone has no use for: its buttons' words, or what it is given by recipe."""


class _Recipe(t.Instance[Recipe]):
    """A recipe, or what stands for one, such as a plan."""

    def validate(self, obj: Any, value: Any) -> Recipe | None:
        return super().validate(obj, checked_recipe(value))


class _Float(t.Float[float, Any]):
    """A float; numpy's are numbers, too."""

    def validate(self, obj: Any, value: Any) -> float:
        try:
            return super().validate(obj, plain(value))
        except t.TraitError:
            raise t.TraitError(f"{self.name}={quoted(value)} must be a number, such as 0.5") from None


class _Int(t.Int[int, Any]):
    """A whole number; numpy's are numbers, too, and 4.0 is one, as `Recipe` takes it."""

    def validate(self, obj: Any, value: Any) -> int:
        number = plain(value)
        try:
            return super().validate(obj, int(number) if isinstance(number, float) and number.is_integer() else number)
        except t.TraitError:
            raise t.TraitError(f"{self.name}={quoted(value)} must be a whole number, such as 4") from None


class _Recalibrate(t.Bool[bool, Any]):
    """A switch that cannot be on where there is no batch norm to recalibrate, or nothing to do it on."""

    def validate(self, obj: Any, value: Any) -> bool:
        on = super().validate(obj, value)
        if on and (why := obj._open().why_not_recalibrated):
            raise ModelError(f"batch norm cannot be recalibrated: {why}")
        return on


class _Budget(t.Int[Any, Any]):
    """Bytes that the file may have, or None; given as `sw.plan` takes it, such as "64 kB"."""

    def validate(self, obj: Any, value: Any) -> int | None:
        return None if value is None else obj._checked_budget(plain(value))


class _View(t.Unicode[str, Any]):
    """Which controls the page shows."""

    def validate(self, obj: Any, value: Any) -> str:
        found = meant(super().validate(obj, value), VIEWS)
        if found is None:
            raise ArgumentError(f"view={quoted(value)} must be {' or '.join(map(repr, VIEWS))}")
        return found


class _Predictions(t.List):  # type: ignore[type-arg]  # of dicts
    """What was predicted of recipes: the first of each counts, as it is not changed once the score is known."""

    def validate(self, obj: Any, value: Any) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = []
        for one in super().validate(obj, value) or []:
            recipe, recalibrated = Recipe.from_json(one.get("recipe")).to_json(), one.get("recalibrated") is True
            predicted = one.get("predicted")
            if isinstance(predicted, bool) or not isinstance(predicted, int | float) or not math.isfinite(predicted):
                raise ArgumentError(f"a prediction must be a number, not {quoted(predicted)}")
            if obj._open().metric.percent and not 0 <= predicted <= 1:
                raise ArgumentError(f"a prediction must be a share from 0 to 1, such as 0.8, not {quoted(predicted)}")
            if not any(_names(earlier, recipe, recalibrated) for earlier in kept):
                kept.append({"recipe": recipe, "recalibrated": recalibrated, "predicted": float(predicted)})
        return kept


class Explorer(BaseWidget):
    """An instrument over one model. Make it with `explore`; read and set `recipe`, `sparsity` and `bits`.

    `recipe` (a `Recipe`), `sparsity`, `bits`, `channels` and `multiple` are traits: observe them, link them, set them.
    `value` mirrors `recipe`, so that ``interactive_output`` works; `recalibrate_batchnorm` is the switch that
    re-estimates batch norm before every score, and `predict_first` the one that covers every score until it is
    predicted. `budget`, bytes or ``"64 kB"``, takes the best recipe of so many bytes, layer by layer, as `sw.plan`,
    around what the recipe says of single layers; it is None again once the recipe is another. `view` is ``"full"``, or
    ``"simple"``: sparsity, bits, budget, channels, size, accuracy and the layers alone. All work runs on one worker
    thread; nothing here blocks. Channels can be removed once it is known which: that is found out while the model runs
    on `example`, or on the first example of `eval_data`.

    Example:
        >>> import shrinkwidget as sw
        >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"))
        >>> ex.sparsity, ex.bits = 0.9, 4  # as if dragged
        >>> ex.recipe
        Recipe(sparsity=0.9, bits=4)
        >>> ex.wait()  # for exact figures and the accuracy
        True
        >>> ex.estimate.exact, ex.score.n
        (True, 287)
        >>> ex.close()
    """

    _esm = built("explorer.js")
    _css = built("explorer.css")

    recipe = _Recipe(Recipe, args=())
    value = _Recipe(Recipe, args=())
    sparsity = _Float(0.0).tag(sync=True)
    bits = _Int(32).tag(sync=True)
    channels = _Float(0.0).tag(sync=True)
    multiple = _Int(1).tag(sync=True)
    recalibrate_batchnorm = _Recalibrate(False).tag(sync=True)
    predict_first = t.Bool(False).tag(sync=True)
    budget = _Budget(None, allow_none=True).tag(sync=True)
    view = _View("full").tag(sync=True)

    _recipe = t.Unicode(DENSE.to_json()).tag(sync=True)
    _dragging = t.Bool(False).tag(sync=True)
    _predictions = _Predictions().tag(sync=True)
    _page = t.Dict().tag(sync=True)  # what the page remembers of itself: the kernel only keeps it
    _sketch = kernel_owned(t.Bytes())
    _exact = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _score = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _baseline = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _history = kernel_owned(t.List())
    _order = kernel_owned(t.List())
    _macs = kernel_owned(t.List())
    _memory = kernel_owned(t.Dict())
    _metric = kernel_owned(t.Dict())
    _monitor = kernel_owned(t.Unicode())
    _status = kernel_owned(t.Dict())
    _glossary = kernel_owned(t.Unicode())
    _keeps = kernel_owned(t.Dict())
    _kinds = kernel_owned(t.Dict())
    _result = kernel_owned(t.Unicode())
    _stale = kernel_owned(t.Unicode())
    _unsketched = kernel_owned(t.Unicode())  # why layers that are missing cannot be looked at
    _figure = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _recalibration = kernel_owned(t.Dict())
    _by_class = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _sensitivity = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _race = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _recovery = kernel_owned(t.Dict())
    _frontier = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _export = kernel_owned(t.Dict())

    _from_page = (
        "_recipe",
        *_MIRRORS,
        "recalibrate_batchnorm",
        "predict_first",
        "budget",
        "view",
        "_predictions",
        "_dragging",
        "_page",
    )

    def __init__(
        self,
        session: ExplorerSession,
        recipe: Recipe,
        recalibrate_batchnorm: bool = False,
        predict_first: bool = False,
        view: str = "full",
    ) -> None:
        self._session: ExplorerSession | None = session
        self._frontiers = BudgetFrontier(lambda: self._open().sketch)
        self._pictured: Recipe | None = None
        self._logged: set[str] = set()
        self._run: TrainingRun[CompressedModel] | None = None
        self._watching: Monitor | None = None
        self._results: dict[str, _Result] = {}
        self._measured: Sensitivity | None = None
        self._racing: RaceRun | None = None
        self._recovering = ""
        self._export_stopped = False
        self._channels_told = session.channels is not None
        self._layers_told = session.sketched
        self._race_stopped = False
        self._raced: dict[tuple[str, str, bool], Race] = {}
        super().__init__(
            # all of the recipe's mirrors at once: a page that hears of them later takes that for a step to undo
            recipe=recipe,
            value=recipe,
            **{name: getattr(recipe, name) for name in _MIRRORS},
            _recipe=recipe.to_json(),
            recalibrate_batchnorm=recalibrate_batchnorm,
            predict_first=predict_first,
            view=view,
            _title=session.weights.title,
            _sketch=session.encode_sketch(),
            _memory={"weights": session.memory(), "activations": None},
            _metric=session.metric.to_dict()
            | {"has_data": session.eval_data is not None, "has_train": session.train_data is not None},
            _status=_status_dict("idle", "", ""),
            _kinds=schema(session.unavailable),
            _recalibration={"why": session.why_not_recalibrated},
            _export=_export_dict("idle"),
            _recovery=_NO_RECOVERY | {"why": session.why_not_recovered},
            _glossary=glossary_address(),
        )
        self._show_result("")
        self._mirror()
        self.observe(self._on_recipe, "recipe")
        self.observe(self._on_mirror, ["_recipe", "value", *_MIRRORS])
        self.observe(self._on_recalibrate, "recalibrate_batchnorm")
        self.observe(self._on_budget, "budget")
        self.observe(lambda _change: self._settle_soon(), ["predict_first", "_predictions"])  # the picture shows them
        self.on_msg(self._on_command)
        self._settle_soon()

    def explores(self, model: object) -> bool:
        """Whether it looks at this very model, and not at a copy.

        Example:
            >>> import shrinkwidget as sw
            >>> model = sw.demo.model()
            >>> ex = sw.explore(model)
            >>> ex.explores(model), ex.explores(sw.demo.model())
            (True, False)
            >>> ex.close()
        """
        return self._session is not None and self._session.source is model

    # what Python reads

    @property
    def sketch(self) -> Sketch:
        """The model's sketch; of a large model it waits until all layers were looked at."""
        return self._open().sketch

    @property
    def estimate(self) -> Estimate:
        """What the current recipe makes of the model: exact once counted, else estimated."""
        session, shown = self._open(), self._shown_result
        return session.estimate(self.recipe) if shown is None else shown.estimate

    @property
    def score(self) -> Score | None:
        """The final score of the current recipe, or of the retrained or recovered result that is shown.

        It is None while there is none, or while it is covered (`predict_first`).
        """
        if self._is_covered():
            return None
        session, shown = self._open(), self._shown_result
        return session.known_score(self.recipe, self.recalibrate_batchnorm) if shown is None else shown.score

    @property
    def comparison(self) -> PredictionComparison | None:
        """What the current recipe, or the result that is shown, gets wrong that the dense model got right.

        It is None while one of the two is not evaluated or is covered, and for the dense model itself. Its images are
        small pictures: bytes H×W×C, at most 48 pixels a side.
        """
        if self._is_covered():
            return None
        session, shown = self._open(), self._shown_result
        return session.comparison(self.recipe, self.recalibrate_batchnorm) if shown is None else shown.comparison

    @property
    def sensitivity(self) -> Sensitivity | None:
        """What `start_sensitivity`, or the button "Sensitivity", has measured last, as far as it is.

        It is None before, and, with `predict_first`, beside a recipe whose score nobody has predicted.
        """
        return None if self.predict_first and self._prediction(self._recipe) is None else self._measured

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every recipe evaluated so far: dicts of recipe (a `Recipe`), nbytes, value, low, high, n, provenance.

        Beside them `ratio` (dense bytes / bytes), `sparsity`, `sqnr` in dB, `macs` (None while they are not known),
        `recalibrated` (whether batch norm was), `recovered` (whether it is a result of "Recover"), `seed` (of a
        retraining), `metric`, `percent`, `higher` of the value, `predicted` (what `predict` or the page said it would
        be, None if nothing was said), and `checksum` of the weights and buffers scored. Recipes whose score is covered
        (`predict_first`) are left out.
        """
        visits = [
            {**point, "recipe": Recipe.from_json(point["recipe"]), **self._about(point)}
            for point in self._uncovered_history()
        ]
        return [{name: value for name, value in visit.items() if name not in _OF_THE_PAGE} for visit in visits]

    def add_to_history(self, point: SweepPoint) -> None:
        """Show a point of a sweep of the same model among those evaluated here: ``on_result=ex.add_to_history``.

        A click on it goes to its recipe. What was retrained or recovered there is told by its provenance; the sweep has
        kept no model of it to be shown or saved. One that failed, or is there already, is left out.

        Raises:
            ArgumentError: for a point of another model, or scored by another metric.

        Example:
            >>> import shrinkwidget as sw
            >>> model, valid = sw.demo.model(), sw.demo.data("valid")
            >>> ex = sw.explore(model)
            >>> found = sw.sweep(model, [0.5, 0.9], valid, on_result=ex.add_to_history)
            >>> sorted(point["recipe"].sparsity for point in ex.history)  # as they were done, several at a time
            [0.5, 0.9]
            >>> ex.close()
        """
        session = self._open()
        if not isinstance(point, SweepPoint):
            raise ArgumentError(f"add_to_history() takes a SweepPoint, not {a_type(point)}")
        if not isinstance(session.source, nn.Module) or model_checksum(session.source) != point.model_checksum:
            raise ArgumentError("this point is of another model, or of other weights, than the explorer's")
        if point.metric != session.metric.name:
            raise ArgumentError(f"this point's score is {point.metric}, and the explorer's is {session.metric.name}")
        if not point.error:
            recovered = point.provenance.startswith("recovered")
            self._add_visit(point.recipe, point.nbytes, point.to_dict(), recovered=recovered)

    def _about(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a report needs to know of a point of the history."""
        session, result = self._open(), self._results.get(point["result"] or "")
        recipe = Recipe.from_json(point["recipe"])
        found = session.estimate(recipe) if result is None else result.estimate
        macs = None
        if len(self._macs) == len(found.layers):
            layers = zip(self._macs, session.sketch.layers, found.layers, strict=True)
            macs = round(sum(n * e.kept / look.n for n, look, e in layers))
        return {
            "ratio": found.original_nbytes / point["nbytes"],
            "sparsity": found.sparsity,
            "sqnr": found.sqnr,
            "macs": macs,
            "recalibrated": point["recalibrated"] or (result is not None and result.recalibrated),
            "recovered": point["recovered"],
            "seed": None if result is None else result.seed,
            **{name: session.metric.to_dict()[key] for name, key in _METRIC_FIELDS.items()},
        }

    @property
    def predictions(self) -> list[dict[str, Any]]:
        """What was predicted, the first first: dicts of recipe (a `Recipe`), recalibrated, predicted, value, off.

        `value` is the score that came of it, None while it is not measured, and `off` is value − predicted. Shares are
        0…1, as in `history`.
        """
        found = []
        for one in self._predictions:
            points = [p for p in self._history if p["result"] is None and _names(one, p["recipe"], p["recalibrated"])]
            value = points[-1]["value"] if points else None
            off = None if value is None else value - one["predicted"]
            found.append({**one, "recipe": Recipe.from_json(one["recipe"]), "value": value, "off": off})
        return found

    def predict(self, value: float) -> None:
        """Say what the score of the current recipe will be, as the page does; from then on it is shown.

        Args:
            value: in the metric's own unit; an accuracy is a share, such as 0.8.

        Raises:
            DataError: in an explorer without `eval_data`.
            ArgumentError: for what is no number, or no share where the metric is one.
            ShrinkError: if the score is not covered: without `predict_first`, of the dense model, of a retrained or
                recovered one, or where it was predicted already.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, bits=4, predict_first=True)
            >>> ex.wait(), ex.score
            (True, None)
            >>> ex.predict(0.8)
            >>> ex.score.value == ex.predictions[0]["value"]
            True
            >>> ex.close()
        """
        with self._lock:
            if self._open().eval_data is None:
                raise DataError("there is no score to predict: open the explorer with sw.explore(model, eval_data)")
            if not self._is_covered():
                raise ShrinkError("the score of what is shown is not covered, so there is nothing to predict")
            about = {"recipe": self._recipe, "recalibrated": self.recalibrate_batchnorm}
            self._predictions = [*self._predictions, {**about, "predicted": plain(value)}]

    def _prediction(self, recipe: str, recalibrated: bool | None = None) -> float | None:
        """Return what was predicted of a recipe, with batch norm as it is set unless that is given."""
        recalibrated = self.recalibrate_batchnorm if recalibrated is None else recalibrated
        found = (one["predicted"] for one in self._predictions if _names(one, recipe, recalibrated))
        return next(found, None)

    def _is_covered(self, point: Mapping[str, Any] | None = None) -> bool:
        """Return whether a score waits to be predicted: of a point of the history, or of what is shown.

        The page's rule (``#isCovered`` of ``js/explorer/explorer-state.ts``): neither the dense model's score is
        covered, from which predictions start, nor a retrained or recovered model's, which comes after a prediction.
        """
        shown = {"recipe": self._recipe, "recalibrated": self.recalibrate_batchnorm, "result": self._result}
        recipe, recalibrated, result = ((point or shown)[name] for name in ("recipe", "recalibrated", "result"))
        if not self.predict_first or result or (recipe == DENSE.to_json() and not recalibrated):
            return False
        return self._prediction(recipe, recalibrated) is None

    def _uncovered_history(self) -> list[dict[str, Any]]:
        """Return the points of the history whose score may be told, with what was predicted of them."""
        return [
            {**p, "predicted": None if p["result"] else self._prediction(p["recipe"], p["recalibrated"])}
            for p in self._history
            if not self._is_covered(p)
        ]

    @property
    def baseline(self) -> Score | None:
        """The score of the dense model; None while there is none."""
        return None if self._baseline is None else Score.from_dict(self._baseline)

    def figure(self, kind: str = "summary", **options: Any) -> Figure:
        """Draw a figure of what is shown; see `sw.figures`.

        Of the present recipe: ``"distributions"``, ``"layer"`` (with ``name="conv1"``), ``"size"``, ``"silhouette"``,
        ``"classes"``. ``"tradeoff"`` of the history, ``"sensitivity"`` and ``"training"`` of what its buttons have
        measured and trained, and ``"summary"``, one page of all.

        Raises:
            FigureError: for an unknown kind, or where there is nothing yet to show.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.8, bits=4)
            >>> ex.wait()
            True
            >>> path = sw.figures.save(ex.figure("size", width="nature-single"), "size.pdf")
            >>> ex.close()
        """
        from ..figures.figures_of_explorers_runs_and_sweeps import figure_of_explorer

        return figure_of_explorer(self, kind, options)

    @property
    def run(self) -> TrainingRun[CompressedModel] | None:
        """The training "Retrain…" started last, or None: ``ex.run.result`` is the retrained model."""
        return self._run

    def compress(self) -> CompressedModel:
        """Return a new model compressed by the current recipe, or the result that is shown; yours is untouched.

        A result is what "Retrain…" or "Recover" made of the recipe.

        With `recalibrate_batchnorm`, its batch norm is recalibrated, as the score says.

        Raises:
            ModelError: if your model has changed since the explorer looked at it.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sparsity=0.9, bits=4)
            >>> small = ex.compress()
            >>> small.recipe == ex.recipe
            True
            >>> ex.close()
        """
        return self._compressed(self.recipe, self._result, self.recalibrate_batchnorm)

    def recover(self, data: object = None, *, examples: int = EXAMPLES) -> CompressedModel:
        """Compress by the current recipe and win accuracy back without retraining, as the button "Recover" does.

        It waits for the worker thread; the page's "stop" and interrupting end it. The result is a point of `history`,
        and is shown if the recipe is still the same: then `compress`, and the page's buttons, keep it. The bytes of
        its file are those of the recipe. `sw.recover` takes other methods.

        Args:
            data: unlabelled examples, never those of `eval_data`; the button uses them from then on, too. By default
                the explorer's `calibration`, or else its `train_data`.
            examples: so many are drawn from the data.

        Returns:
            The compressed model. Layers whose errors could not be compensated are among its `warnings`.

        Raises:
            DataError: for no data, or data that are those of the score, hold NaN, or do not fit the model.
            TrainingError: if it was stopped, or for a number of examples that cannot be.
            ModelError: without a module to run, or if it has changed since the explorer looked at it.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, bits=4)
            >>> small = ex.recover(sw.demo.data("train"))
            >>> small.nbytes == sw.compress(sw.demo.model(), ex.recipe).nbytes
            True
            >>> ex.wait(), ex.score.value > 0.98, ex.history[-1]["recovered"]
            (True, True, True)
            >>> ex.close()
        """
        check_whole(examples, "recover", "examples")
        session = self._open()
        if data is not None:
            session.recover_from(data)
        found = self._recover_soon(self.recipe, examples)
        try:
            with _let_go(self._lock):
                _WORKER.wait(self._recovery_key)
        except KeyboardInterrupt:
            self.stop_recovery()
            raise
        if not found.done():
            raise TrainingError("the recovery was stopped")
        return found.result()

    def stop_recovery(self) -> None:
        """Stop a recovery that is under way before its next batch; it has no result.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model())
            >>> ex.stop_recovery()  # there is none
            >>> ex.close()
        """
        _WORKER.forget(self._recovery_key)
        if self._recovery.get("state") == "running":  # it may not have had its turn yet
            self._tell_recovery("stopped")

    def start_sensitivity(
        self,
        *,
        sparsity: float | Iterable[float] | None = None,
        bits: int | Iterable[int] | None = None,
        layers: str | Iterable[str] | None = None,
    ) -> None:
        """Measure how sensitive the model is to each layer, as the button does, and show it in the rows of the ridge.

        It returns at once, and makes room for all other work; a measurement that is under way is replaced. Layers are
        ranked and rounded as the present recipe says; those it has under `Keep` are left out. `sw.sensitivity` takes
        other data, or more of it.

        Args:
            sparsity: the fractions to prune each layer to, or one; by default 50 % … 99 %.
            bits: instead, the bits to quantize each layer to, such as ``(8, 6, 4, 3, 2)``.
            layers: names or wildcards of the layers to measure; by default all.

        Raises:
            DataError: in an explorer without `eval_data`.
            ArgumentError: for both sparsity and bits, or for none of the layers.
            RecipeError: for a sparsity or bits that are out of range.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"))
            >>> ex.start_sensitivity(bits=(4, 2), layers=["stem", "head"])
            >>> ex.wait(sensitivity=True)
            True
            >>> ex.sensitivity.ranked[0].label
            'stem'
            >>> ex.close()
        """
        kind, amounts = checked_amounts(sparsity, bits)
        self._measure_soon(kind, amounts, self.recipe, layers)

    def start_race(self) -> None:
        """Race the dense model against what is shown, as the button does: in a process of its own, at batch 1 and 32.

        It returns at once; `race` has the result once it is there. `sw.race` takes other inputs, threads and runtimes.

        Raises:
            DataError: in an explorer without `eval_data`.
            ShrinkError: if a race is under way.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, bits=4)
            >>> ex.start_race()
            >>> ex.stop_race()
            >>> ex.close()
        """
        about = self._recipe, self._result, self.recalibrate_batchnorm
        if told := self._start_race(about, self.compress):
            raise ShrinkError(told)

    def stop_race(self) -> None:
        """End a race that is under way; it has no result.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model())
            >>> ex.stop_race()  # there is none
            >>> ex.close()
        """
        self._race_stopped = True
        if self._racing is not None:
            self._racing.stop()

    @property
    def race(self) -> Race | None:
        """The race of the dense model against what is shown, None while there is none."""
        return self._raced.get((self._recipe, self._result, self.recalibrate_batchnorm))

    def stop_sensitivity(self) -> None:
        """Stop measuring before the next batch; `sensitivity` has the layers measured until then.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"))
            >>> ex.start_sensitivity()
            >>> ex.stop_sensitivity()
            >>> ex.wait(sensitivity=True)
            True
            >>> ex.close()
        """
        _WORKER.forget(self._sensitivity_key)

    def wait(self, timeout: float | None = None, *, sensitivity: bool = False) -> bool:
        """Block until the work for the current recipe is done; return False after `timeout` seconds.

        It also returns False where a layer of a large model cannot be looked at, as one with a weight that is NaN: no
        figures can follow, and `estimate` raises why. What else fails, such as an evaluation, is done, and the page and
        the log tell of it. With `sensitivity`, block until that is measured, too; it may take minutes.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model())
            >>> ex.bits = 4
            >>> ex.wait()
            True
            >>> ex.estimate.exact
            True
            >>> ex.close()
        """
        end = time.monotonic() + (timeout or 0)
        with _let_go(self._lock):
            if sensitivity and not _WORKER.wait(self._sensitivity_key, timeout):
                return False
            done = _WORKER.wait(id(self), None if timeout is None else max(0.0, end - time.monotonic()))
        return done and not self._unsketched

    def to_html(self, path: str | os.PathLike[str], *, title: str | None = None, history: bool = True) -> int:
        """Write the explorer as one HTML file that needs no kernel and no network, and return its bytes.

        Sliders, layers, size, overrides and undo work as they do here, and so does the way back to what was tried. The
        figures of the recipes in `history` and of the present one are exact and have their accuracy, as far as the
        kernel has got: `wait` for it first. All others are estimates, marked with ≈, and not evaluated.

        A link opens the page with another recipe: ``"page.html#recipe=" + urllib.parse.quote(recipe.to_json())``.

        Args:
            path: where to write; its name ends in ".html". The file appears whole or not at all.
            title: what the page is called; by default the class or the file of the model.
            history: whether the recipes tried so far go with it.

        Raises:
            FileError: if the path cannot be written or is no HTML file's, or the page would be larger than 25 MB; what
                was there before is unchanged.
            ShrinkError: if the explorer is closed.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, bits=4)
            >>> ex.wait()
            True
            >>> ex.to_html("digits.html") < 500_000
            True
            >>> ex.close()
        """
        return write_page(path, self._page_html(title, history))

    def embed(self, *, title: str | None = None, history: bool = True) -> None:
        """Show the explorer, as it is now, as a page in the output of this cell, which stays alive without a kernel.

        It is for notebooks that are published: ``nbconvert --to html`` keeps it alive. Where no page can be shown, as
        on GitHub or in a PDF, a picture is. It is the page that `to_html` writes, and does not follow `recipe`.

        Raises:
            FileError: if the page would be larger than 25 MB.
            ShrinkError: if the explorer is closed, or there is no notebook.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model(), sparsity=0.9, bits=4)
            >>> ex.embed()  # doctest: +SKIP
            >>> ex.close()
        """
        page = in_frame(self._page_html(title, history), f"Compress {title or self._title}")
        if get_ipython() is None:
            raise ShrinkError("there is no notebook to embed a page in: write one to a file with ex.to_html(path)")
        picture = self._snapshot()
        display({"text/html": page, "text/plain": self._caption}, raw=True)
        display(picture, metadata=alt_text(picture), raw=True)

    def _page_html(self, title: str | None, history: bool) -> str:
        session = self._open()
        with self._lock:
            # all at one moment: between two of them the worker may bring the figures of another recipe
            values = {name[1:]: getattr(self, name) for name in self.traits(echo_update=False)}
            made = dict(self._results)
        values = {name: value for name, value in values.items() if name not in _NOT_ON_PAGE}
        values["recalibrate"] = self.recalibrate_batchnorm
        if values["race"] is not None:  # one that is under way has no end on a page without a kernel
            values["race"] = {**values["race"], "state": "done", "text": ""}
        values |= {"predict_first": self.predict_first, "predictions": self._predictions, "view": self.view}
        values |= {"budget": self.budget, "frontier": self._frontiers.to_dict(self.recipe)}
        values["title"] = title or session.sketch.title
        if not history:
            values["history"] = [point for point in values["history"] if point["recipe"] == self._recipe]
        tried = {self.recipe, *(Recipe.from_json(point["recipe"]) for point in values["history"])}
        known = {recipe: session.known(recipe, images=recipe == self.recipe) for recipe in tried}
        kept = {point["result"] for point in values["history"]} | {self._result}
        results = {key: result.to_dict(key) for key, result in made.items() if key in kept}
        return explorer_page(session.sketch, self.recipe, values, known, results)

    def close(self) -> None:
        """Stop all work, leave the page, and let go of the model.

        Example:
            >>> import shrinkwidget as sw
            >>> ex = sw.explore(sw.demo.model())
            >>> ex.close()
            >>> ex
            Explorer(closed)
        """
        _WORKER.forget(id(self))
        _WORKER.forget(self._sensitivity_key)
        _WORKER.forget(self._recovery_key)
        # the worker may be drawing, for which it needs the lock that an observer has who closes this
        with _let_go(self._lock), self._drawing:
            if self._pictured != self.recipe:
                self._refresh_snapshot()
            self._session = None
        self.stop_race()
        if self._watching is not None:
            self._watching.close()
        self._run = self._watching = self._measured = self._racing = None  # anywidget keeps the widget itself
        self._results.clear()
        super().close()

    def _open(self) -> ExplorerSession:
        if self._session is None:
            raise ShrinkError("this explorer is closed: make a new one with sw.explore(model)")
        return self._session

    # the recipe and its mirrors

    @t.validate("recipe")
    def _check_recipe(self, proposal: Mapping[str, Any]) -> Recipe:
        recipe: Recipe = proposal["value"]
        self._open().check(recipe)
        return recipe

    def _on_recipe(self, _change: object) -> None:
        with self._lock:
            shown = self._shown_result
            if shown is not None and shown.compressed.recipe != self.recipe:
                self._show_result("")
            if self.budget is not None and self.recipe != self._frontiers.recipe(self.budget, self.recipe):
                self.budget = None  # something else than a budget has decided
            self._mirror()
            self._settle_soon()

    def _checked_budget(self, given: Any) -> int:
        """Return the bytes that a budget of the file means; raises as `sw.plan` does for one that cannot be."""
        session, wanted = self._open(), parse_budget(given, where="budget={}")
        if wanted.measure != "file":
            raise ArgumentError(f"budget={quoted(given)} must be bytes of the file: 64_000, '64 kB', '10x' or '10 %'")
        nbytes = wanted.of(session.sketch.original_nbytes)
        self._frontiers.recipe(nbytes, self.recipe)
        return nbytes

    def _on_budget(self, _change: object) -> None:
        """Take the best recipe of so many bytes; where the page dragged the budget, it has that already."""
        with self._lock:
            if self.budget is not None:
                self.recipe = self._frontiers.recipe(self.budget, self.recipe)

    def _mirror(self) -> None:
        """Bring every mirror of the recipe in step; those that already are stay silent."""
        with self.hold_sync():
            recipe = self.recipe
            if self._session is not None:
                self._kinds = schema(self._session.unavailable)  # one may have been registered since
            self._recipe, self.value = recipe.to_json(), recipe
            for name in _MIRRORS:
                setattr(self, name, getattr(recipe, name))

    def _on_mirror(self, change: Mapping[str, Any]) -> None:
        """Take the recipe from the mirror somebody changed: the browser, a linked slider, or Python."""
        with self._lock:
            try:
                self.recipe = _from_mirror(self.recipe, change["name"], change["new"])
            except ShrinkError as error:
                self._mirror()
                self._say("failed", "recipe", str(error))
                if change["name"] != "_recipe":
                    raise

    def _on_recalibrate(self, _change: object) -> None:
        """Show what the recipe makes of the model as it came, with batch norm recalibrated or not."""
        with self._lock:
            self._show_result("")
            self._settle_soon()

    def _plan_soon(self, recipe: Recipe) -> None:
        """Tell the page the best recipe for every budget, so that it can follow one that is dragged by itself."""

        def tell(_cancelled: CancelCheck) -> None:
            try:
                self._tell(_frontier=self._frontiers.to_dict(recipe))
            except BaseException as error:  # noqa: BLE001  # as in `_settle`
                self._failed("plan", error)

        _WORKER.urgent(id(self), tell)

    # work, on the worker's thread

    def _settle_soon(self) -> None:
        if self._session is not None:
            _WORKER.latest(id(self), self._settle)

    def _settle(self, cancelled: CancelCheck) -> None:
        """Count the exact figures of the current recipe, then evaluate it, then see how small a download it makes."""
        self._rest(cancelled)
        session, recipe, key = self._session, self.recipe, self._result
        shown = self._results.get(key)
        if session is None:  # closed while it rested
            return
        try:
            self._finish_sketch(session, cancelled)
            if shown is not None and shown.compressed.recipe == recipe:
                self._tell_result(key, shown, session.memory_of(shown.compressed, cancelled))
                self._compare_result(session, key, cancelled)
                return
            self._refuse_changed(session)
            self._count(session.exact, recipe, cancelled)
            if recipe.removes_channels:
                session.measure_memory(recipe, cancelled)
                self._count(session.exact, recipe, cancelled)  # counted already, and told with the memory
            if session.eval_data is not None:
                self._evaluate(session, recipe, cancelled)
            else:
                self._find_channels(session, cancelled)
            self._count(session.nbytes_entropy_coded, recipe, cancelled)
        except Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever fails is told in the widget, and logged
            if session is self._session:  # else it was closed or looked again, and nobody waits for this
                self._failed("estimate", error)
        finally:
            self._refresh_snapshot()

    def _finish_sketch(self, session: ExplorerSession, cancelled: CancelCheck) -> None:
        """Look at the layers of a large model, and let the page draw those that are there."""
        if session.is_sketched and self._layers_told == session.sketched:
            return
        pace = Pace(_SKETCH_SECONDS)

        def tell(layers: int) -> None:
            # only when there is half as much again: three times the bytes of the whole in all, and not hundreds
            if layers < _SKETCH_GROWTH * self._layers_told or session is not self._session:
                return
            # whoever holds the lock may wait for this very sketch: the page then hears of it later
            if self._lock.acquire(blocking=False):
                try:
                    if pace.due():
                        self._tell(_sketch=session.encode_sketch())
                        self._layers_told = layers
                finally:
                    self._lock.release()

        try:
            session.finish_sketch(cancelled, tell)
        except Cancelled:
            raise
        except BaseException as error:
            if session is self._session:
                self._tell(_unsketched=sentence(error), **({"_stale": str(error)} if isinstance(error, Stale) else {}))
            raise
        if session is self._session:
            self._layers_told = session.sketched
            self._tell(_sketch=session.encode_sketch(), _unsketched="")

    def _find_channels(self, session: ExplorerSession, cancelled: CancelCheck) -> None:
        """See which channels can be removed, once, and tell the page: its slider appears then."""
        if self._channels_told:
            return
        session.why_no_channels(cancelled)
        if session is self._session:
            self._channels_told = True
            if session.channels is not None:
                self._tell(_sketch=session.encode_sketch())

    def _rest(self, cancelled: CancelCheck) -> None:
        """Leave the cores to the browser while a drag moves; it tells when it rests, unless the page is gone."""
        silent = time.monotonic() + _SILENT_SECONDS
        while self._dragging and time.monotonic() < silent:
            if cancelled():
                raise Cancelled
            time.sleep(_LOOK_SECONDS)

    def _count(
        self, figures_of: Callable[[Recipe, CancelCheck], Estimate], recipe: Recipe, cancelled: CancelCheck
    ) -> None:
        """Show exact figures, and how long it took until the first of them were there."""
        start = time.perf_counter()
        figures = figures_of(recipe, cancelled).to_dict() | self._open().known_memory(recipe)
        before = self._exact or {}
        counted = before.get("recipe") == figures["recipe"] and not before.get("result")
        known = before["seconds"] if counted else time.perf_counter() - start
        self._tell(_exact={**figures, "seconds": known})

    def _evaluate(self, session: ExplorerSession, recipe: Recipe, cancelled: CancelCheck) -> None:
        """Score the recipe first, so that its score counts up at once, then what is not there yet: MACs, baseline."""
        recalibrated = self.recalibrate_batchnorm
        about = {"recipe": recipe.to_json(), "recalibrated": recalibrated}
        try:
            self._run_scores(session, recipe, cancelled, "_score", recalibrated)
            self._visit(session, recipe, recalibrated)
            if self._baseline is None and not self._macs:
                order, macs, peak = session.forward(cancelled)
                self._tell(_order=order, _macs=macs, _memory={"weights": session.memory(), "activations": peak})
            self._find_channels(session, cancelled)  # once the data are known to give batches, and before all of them
            if self._baseline is None:
                self._run_scores(session, DENSE, cancelled, "_baseline")
            comparison = session.comparison(recipe, recalibrated)
            self._tell(_by_class=None if comparison is None else {**by_class_dict(comparison), **about})
        except Cancelled:
            raise
        except Stale:
            raise
        except BaseException as error:  # noqa: BLE001  # as above
            self._log("evaluation", error)
            self._tell(_score={**about, "state": "failed", "text": sentence(error)}, _by_class=None)

    def _run_scores(
        self, session: ExplorerSession, recipe: Recipe, cancelled: CancelCheck, trait: str, recalibrated: bool = False
    ) -> None:
        """Show a recipe's running score in a trait; the baseline's only when it is whole."""
        pace, lasting = Pace(_SCORE_SECONDS), Pace(_SNAPSHOT_SECONDS, at_once=False)
        about = {"recipe": recipe.to_json(), "recalibrated": recalibrated}
        for score in session.scores(recipe, cancelled, recalibrated):
            if score.done or (trait == "_score" and pace.due()):
                state = "done" if score.done else "running"
                self._tell(**{trait: {**score.to_dict(), **about, "state": state}})
            if lasting.due():
                self._refresh_snapshot()

    def _visit(self, session: ExplorerSession, recipe: Recipe, recalibrated: bool) -> None:
        """Add the recipe to history, once."""
        score = session.known_score(recipe, recalibrated)
        if score is not None:
            self._add_visit(recipe, session.estimate(recipe).nbytes, score.to_dict(), recalibrated=recalibrated)

    def _add_visit(
        self,
        recipe: Recipe,
        nbytes: int,
        score: Mapping[str, Any],
        result: str | None = None,
        recalibrated: bool = False,
        recovered: bool = False,
    ) -> None:
        """Add a score to history, unless it is there; `result` is the key of what was retrained or recovered."""
        point = {"recipe": recipe.to_json(), "nbytes": nbytes, "result": result}
        point |= {"recalibrated": recalibrated, "recovered": recovered}
        point |= {k: score[k] for k in ("value", "low", "high", "n", "provenance", "checksum")}
        with self._lock:
            if point not in self._history:
                self._tell(_history=[*self._history, point])

    # retraining: offered in a monitor below the explorer, trained on a thread of its own

    def _offer_retraining(self, recipe: Recipe) -> str:
        session = self._open()
        if session.train_data is None:
            raise DataError(
                "there is nothing to train on: open the explorer with sw.explore(model, eval_data, train_data=…)"
            )
        if self._run is not None and not self._run.over:
            return "a training is under way: it is shown below, stop it before you begin another"
        if self._watching is not None:
            self._watching.close()
        self._watching = watching = Monitor(session.weights.title, session.metric)
        result = self._result
        watching.offer(recipe_sentence(recipe), lambda method: self._retrain_soon(recipe, method, result))
        self._tell(_monitor=watching.model_id or "")
        return ""

    def _retrain_soon(self, recipe: Recipe, method: Method, result: str) -> None:
        _WORKER.urgent(id(self), lambda _cancelled: self._do("retrain", lambda: self._retrain(recipe, method, result)))

    def _retrain(self, recipe: Recipe, method: Method, result: str = "") -> str:
        watching = self._watching
        try:
            if self._run is not None and not self._run.over:
                raise TrainingError("a training is under way: stop it before you begin another")
            self._run = run = self._open().retrain(self._compressed(recipe, result), method)
            run.observe(self._on_run)
            if watching is not None:
                watching.watch(run)
            run.start()
        except BaseException as error:
            if watching is not None:
                watching.fail(sentence(error))
            raise
        return ""

    def _on_run(self, run: TrainingRun[CompressedModel]) -> None:
        """Add what a run has come to, once it is over, to history."""
        score = run.score
        if run.state in ("done", "stopped") and self._session is not None and score is not None:
            self._add_result(_Result(run.result, score, seed=run.spec.options.seed, recalibrated=not run.spec.trains))

    def _add_result(self, found: _Result) -> str:
        """Keep a result and add it to history, unless the very same is there; return the key it is found by."""
        with self._lock:
            # a recovery has no randomness: done once more it is the same point
            same = (
                key
                for key, known in self._results.items()
                if found.recovered and known.recovered and alike(found.compressed, known.compressed)
            )
            key = next(same, str(len(self._results) + 1))
            self._results[key] = found
            if found.score is not None:
                compressed, score = found.compressed, found.score.to_dict()
                self._add_visit(compressed.recipe, compressed.nbytes, score, key, recovered=found.recovered)
        return key

    # recovery without retraining, on the worker's thread: it makes room for all that answers the page at once

    @property
    def _recovery_key(self) -> tuple[int, str]:
        return id(self), "recovery"

    def _recover_soon(self, recipe: Recipe, examples: int = EXAMPLES) -> Future[CompressedModel]:
        """Recover once there is nothing else to do; what is returned stays open if that is stopped."""
        session, found = self._open(), Future[CompressedModel]()
        self._recovering = recipe.to_json()

        def recover(cancelled: CancelCheck) -> None:
            def stopped() -> bool:
                self._rest(cancelled)
                return cancelled()

            try:
                found.set_result(self._recover(session, recipe, examples, stopped))
            except Cancelled:
                self._tell_recovery("stopped")
            except BaseException as error:  # noqa: BLE001  # as above
                self._log("recovery", error)
                if isinstance(error, Stale):
                    self._tell(_stale=str(error))
                self._tell_recovery("failed", sentence(error))
                found.set_exception(error)

        self._tell_recovery("running", "waiting for its turn")
        _WORKER.background(self._recovery_key, recover)
        return found

    def _recover(
        self, session: ExplorerSession, recipe: Recipe, examples: int, stopped: CancelCheck
    ) -> CompressedModel:
        """Recover, score, and show the result where the recipe is still what it was asked for."""
        pace, asked_beside = Pace(_RECOVERY_SECONDS), self._result
        work = session.recovery(recipe, stopped, examples)
        for now in work.steps_until_stopped():
            if pace.due():
                self._tell_recovery("running", _recovery_words(now), now.step / now.steps if now.steps else 0.0)
        small = work.best()
        session.refuse_changed()
        recalibrated = "recalibrate_batchnorm" in work.spec.methods
        result = _Result(small, None, recalibrated=recalibrated, recovered=True)
        if session.eval_data is not None:
            for score, comparison in session.evaluated(small, stopped):
                result = replace(result, score=score, comparison=comparison)
                if pace.due():
                    self._tell_recovery("running", "evaluating", 1.0)
        with self._lock:
            if session is not self._session:
                raise Cancelled("the model was looked at again")
            key = self._add_result(result)
            self._tell_recovery("done")
            if self.recipe == recipe and self._result == asked_beside:
                self._go_to(key)
        return small

    def _tell_recovery(self, state: str, text: str = "", done: float = 0.0) -> None:
        why = "" if self._session is None else self._session.why_not_recovered
        self._tell(_recovery={"state": state, "recipe": self._recovering, "text": text, "done": done, "why": why})

    # what was retrained or recovered, shown again

    @property
    def _shown_result(self) -> _Result | None:
        return self._results.get(self._result)

    def _go_to(self, key: object) -> None:
        """Show a result, its recipe with it; or, for None, what the recipe makes of the model as it came."""
        if key is not None and key not in self._results:
            raise ShrinkError(f"there is no retrained or recovered result {quoted(key)} in this explorer")
        with self._lock:
            if key is not None:
                self.recipe = self._results[str(key)].compressed.recipe
            self._show_result("" if key is None else str(key))
            self._settle_soon()

    def _show_result(self, key: str) -> None:
        shown = self._results.get(key)
        if shown is not None:
            kind = "recovered" if shown.recovered else "retrained"
            kept = keeps(self._title, shown.compressed.provenance, kind)
        elif self.recalibrate_batchnorm:
            kept = keeps(self._title, "batch norm recalibrated", "recalibrated")
        else:
            kept = keeps(self._title, PLAIN)
        self._tell(_result=key, _keeps=kept)

    def _tell_result(self, key: str, shown: _Result, memory: Mapping[str, Any]) -> None:
        """Tell the figures and the score of a result; it needs no work but the size of its download."""
        news = shown.to_dict(key)
        self._tell(_exact={**news["exact"], **memory}, _score=news["score"])

    def _compare_result(self, session: ExplorerSession, key: str, cancelled: CancelCheck) -> None:
        """Tell what a result gets wrong; one that was retrained is run for that, as its training recorded nothing."""
        shown = self._results.get(key)
        if shown is None or session.eval_data is None:
            return
        if shown.comparison is None:
            shown = replace(shown, comparison=session.compare(shown.compressed, cancelled))
            with self._lock:
                self._results[key] = shown
        if shown.comparison is not None:
            self._tell(_by_class=shown.to_dict(key)["by_class"])

    def _compressed(self, recipe: Recipe, result: str, recalibrated: bool = False) -> CompressedModel:
        """Return what a recipe makes of the model, or what was retrained or recovered."""
        session = self._open()
        if result in self._results:
            return self._results[result].compressed
        try:
            return session.compress(recipe, recalibrated)
        except Stale as error:
            self._tell(_stale=str(error))
            raise

    # a model that changed since it was looked at

    def _refuse_changed(self, session: ExplorerSession) -> None:
        """Tell whether the model is still the one that was looked at; raises a `Stale` if it is not."""
        try:
            session.refuse_changed()
        except Stale as error:
            self._tell(_stale=str(error))
            raise
        if self._stale:
            self._tell(_stale="")  # it was changed back

    def _look_again(self) -> str:
        """Start over with the model as it is now: of all that was told, only results of their own still hold."""
        # looks at every weight, and so before the lock is taken
        session = self._open().reopened()
        try:
            session.check(self.recipe)
            recipe = self.recipe
        except ShrinkError:
            recipe = DENSE
        with self._lock:
            self._open()  # or it was closed meanwhile
            self._session = session
            self._channels_told = session.channels is not None
            self._layers_told = session.sketched
            self._tell(
                _title=session.weights.title,
                _sketch=session.encode_sketch(),
                _exact=None,
                _score=None,
                _baseline=None,
                _order=[],
                _macs=[],
                _history=[point for point in self._history if point["result"] is not None],
                _by_class=None,
                _sensitivity=None,
                _race=None,
                _predictions=[],
                _stale="",
                _unsketched="",
                _frontier=None,
            )
            self.budget, self._frontiers = None, BudgetFrontier(lambda: self._open().sketch)
            _WORKER.forget(self._sensitivity_key)
            self.stop_recovery()
            self.stop_race()
            self._raced.clear()
            self._measured = None
            self._results = {key: replace(result, comparison=None) for key, result in self._results.items()}
            self.recipe = recipe
            self._settle_soon()
        return ""

    # sensitivity, measured on the worker's thread whenever it has nothing else to do

    @property
    def _sensitivity_key(self) -> tuple[int, str]:
        return id(self), "sensitivity"

    def _measure_as_asked(self, kind: object, recipe: Recipe) -> None:
        if kind not in ("sparsity", "bits"):
            raise ShrinkError(f"the page asked for the sensitivity to {quoted(kind)}: it is 'sparsity' or 'bits'")
        asked: Kind = "bits" if kind == "bits" else "sparsity"
        self._measure_soon(asked, self._open().usual_amounts(asked, recipe), recipe)

    def _measure_soon(
        self, kind: Kind, amounts: tuple[float, ...], recipe: Recipe, layers: str | Iterable[str] | None = None
    ) -> None:
        session = self._open()
        if session.eval_data is None:
            raise DataError("sensitivity needs data: open the explorer with sw.explore(model, eval_data)")
        names = layers_to_measure(session.sketch, recipe, layers)

        def measure(cancelled: CancelCheck) -> None:
            def stopped() -> bool:
                self._rest(cancelled)
                return cancelled()

            self._measure(session, kind, session.sensitivity(kind, amounts, recipe, names, stopped))

        _WORKER.background(self._sensitivity_key, measure)

    def _measure(self, session: ExplorerSession, kind: Kind, steps: Iterator[Sensitivity]) -> None:
        """Show the sensitivity of the layers as they are measured; what is known stays when it is stopped."""
        found, pace = None, Pace(_SENSITIVITY_SECONDS)
        self._tell(_sensitivity=_NOTHING_MEASURED | {"kind": kind, "state": "running"})
        try:
            for found in steps:
                self._measured = found
                if pace.due():
                    self._tell(_sensitivity=_NOTHING_MEASURED | _sensitivity_dict(found, session.sketch))
            state, text = "done", ""
        except Cancelled:
            state, text = "stopped", ""
        except BaseException as error:  # noqa: BLE001  # as above
            self._log("sensitivity", error)
            state, text = "failed", sentence(error)
        if session is self._session:
            # of a model that was looked at again in the meantime nobody wants to know
            known = {"kind": kind} if found is None else _sensitivity_dict(found, session.sketch)
            self._tell(_sensitivity=_NOTHING_MEASURED | known | {"state": state, "text": text})

    # a race, in a process of its own: it competes with the worker for the cores, as with any other program

    def _start_race(self, about: tuple[str, str, bool], kept: Callable[[], CompressedModel]) -> str:
        if self._racing is not None and not self._racing.over:
            return "a race is under way: stop it before you begin another"
        # the compressed model has to be made first, which may take seconds: Stop may come before there is a race to
        # stop
        self._racing, self._race_stopped = None, False
        self._tell_race("running", about)
        try:
            self._racing = run = self._open().race(kept(), never)
        except BaseException as error:
            self._tell_race("failed", about, sentence(error))
            raise
        pace = Pace(_RACE_SECONDS)
        run.observe(lambda run: self._on_race(run, about, pace))
        if self._race_stopped:  # while it was being made
            run.stop()
        self._on_race(run, about, pace)  # it may be over already
        return ""

    def _on_race(self, run: RaceRun, about: tuple[str, str, bool], pace: Pace) -> None:
        if self._session is None or run is not self._racing:
            return
        if not run.over:
            if pace.due() and run.progress is not None:
                self._tell_race("running", about, run.progress.text, run.progress.done)
            return
        if run.state == "done":
            self._raced[about] = run.result
        self._tell_race(run.state, about, "" if run.error is None else sentence(run.error))

    def _tell_race(self, state: str, about: tuple[str, str, bool], text: str = "", done: float = 0.0) -> None:
        """Tell the page of the race under way, and of all that were run, with the recipes they were run for."""
        found = [
            {"recipe": recipe, "result": result or None, "recalibrated": recalibrated, **_race_dict(race)}
            for (recipe, result, recalibrated), race in self._raced.items()
        ]
        recipe, result, recalibrated = about
        running = {"recipe": recipe, "result": result or None, "recalibrated": recalibrated}
        self._tell(_race={**running, "state": state, "text": text, "done": done, "found": found})

    # what the buttons ask for

    def _should_send_property(self, key: str, value: object) -> bool:
        """Tell the page the recipe alone, of which it makes the mirrors itself.

        A mirror that came before its recipe would be taken for a slider that is linked to it, and answered.
        """
        return key not in _MIRRORS and bool(super()._should_send_property(key, value))

    def _on_command(self, _widget: object, content: Any, _buffers: object) -> None:
        """Record what a button asks for and return: this may run on any thread, while a cell runs."""
        asked = content if isinstance(content, Mapping) else {}
        what, again = asked.get("do"), bool(asked.get("replace"))
        try:
            # a command that is sent again is about what was shown when it was sent first
            recipe = Recipe.from_json(asked["recipe"]) if "recipe" in asked else self.recipe
            result = str(asked.get("result", self._result))
            recalibrated = bool(asked.get("recalibrated", self.recalibrate_batchnorm))

            def kept() -> CompressedModel:
                return self._compressed(recipe, result, recalibrated)

            jobs: dict[object, Callable[[], str]] = {
                "compress": lambda: keep_in_notebook(asked.get("name"), kept(), again),
                "save": lambda: save_to(asked.get("path"), kept(), bool(asked.get("entropy")), again),
                "retrain": lambda: self._offer_retraining(recipe),
                "look": self._look_again,
                "figure": lambda: self._save_figure(asked, again),
                "export": lambda: self._export_to(asked, kept, again),
                "race": lambda: self._start_race((recipe.to_json(), result, recalibrated), kept),
            }
            stops = {
                "stop_sensitivity": self.stop_sensitivity,
                "stop_race": self.stop_race,
                "stop_recovery": self.stop_recovery,
                "stop_export": self._stop_export,
            }
            if what == "evaluate":
                self._open().forget_score(recipe)
                self._settle_soon()
            elif what == "goto":
                self._go_to(asked.get("result"))
            elif what == "sensitivity":
                self._measure_as_asked(asked.get("kind"), recipe)
            elif what == "recover":
                self._recover_soon(recipe)
            elif what == "plan":
                self._plan_soon(recipe)
            elif isinstance(what, str) and what in stops:
                stops[what]()
            elif isinstance(what, str) and what in jobs:
                command = {**asked, "replace": True, "recipe": recipe.to_json(), "result": result}
                command["recalibrated"] = recalibrated
                _WORKER.urgent(id(self), lambda _cancelled: self._do(what, jobs[what], command))
            else:
                raise ShrinkError(f"the page asked for {quoted(what)}, which this explorer cannot do")
        except ShrinkError as error:
            self._failed("", error)

    def _stop_export(self) -> None:
        self._export_stopped = True

    def _export_to(self, asked: Mapping[str, Any], kept: Callable[[], CompressedModel], replace: bool) -> str:
        """Write the model for another runtime; the page may stop it between its steps and batches."""
        self._export_stopped = False
        pace, session = Pace(_SCORE_SECONDS), self._open()

        def stopped() -> bool:
            return self._export_stopped or self._session is None

        def tell(what: str, share: float) -> None:
            if pace.due() or share == 0:
                self._tell(_export=_export_dict("running", what, share))

        def write(path: Path) -> Exported:
            tell("compressing", 0.0)
            return session.export(kept(), path, str(asked.get("target") or "") or None, tell, stopped)

        try:
            exported = export_to(asked.get("path"), write, replace)
        except Cancelled:
            self._tell(_export=_export_dict("stopped"))
            return "the export was stopped: no file was written"
        except BaseException:
            self._tell(_export=_export_dict("failed"))
            raise
        self._tell(_export=_export_dict("done", exported=exported))
        return f"exported {exported.path.resolve()}, {exported.nbytes:,} bytes, {exported.exact}"

    def _save_figure(self, asked: Mapping[str, Any], replace: bool) -> str:
        text, shown = save_figure(self, self.figure, asked, "ex", replace)
        self._tell(_figure=shown)
        return text

    def _do(self, what: str, spec: Callable[[], str], command: Mapping[str, Any] | None = None) -> None:
        self._say("busy", what, "")
        try:
            self._say("done", what, spec())
        except Exists as found:
            self._tell(_status={**_status_dict("exists", what, str(found)), "again": command})
        except BaseException as error:  # noqa: BLE001  # as above
            self._failed(what, error)

    def _failed(self, what: str, error: BaseException) -> None:
        self._log(what, error)
        self._say("failed", what, sentence(error))

    def _log(self, what: str, error: BaseException) -> None:
        """Log a failure once, not for every recipe tried: with the traceback of what failed, unless a sentence is all.

        What is ours is a sentence already; a traceback helps with what it came from, such as the user's own metric.
        """
        told = sentence(error)
        # while a slider moves, one metric that fails would fill the log
        level = logging.DEBUG if told in self._logged else logging.WARNING
        self._logged.add(told)
        cause = error.__cause__ if isinstance(error, ShrinkError) else error
        log.log(level, "%s failed: %s", what, told, exc_info=cause)

    def _refuse(self, text: str) -> None:
        self._say("failed", "", text)

    def _say(self, state: str, what: str, text: str) -> None:
        self._tell(_status=_status_dict(state, what, text))

    # display

    @property
    def _alive(self) -> bool:
        return self._session is not None

    def _snapshot(self) -> dict[str, Any]:
        from ..figures.explorer_snapshot_png import describe, explorer_snapshot

        if not self._open().is_sketched:  # the picture comes with the sketch, and nobody waits for it
            return {"image/png": _NO_PICTURE, "text/plain": f"the layers of {self._title} are being looked at"}
        self._pictured = self.recipe
        figures = self.estimate
        with self._lock:
            score = self._score
            if score is not None and score.get("result", "") != self._result:
                score = None  # of what was shown before
            if self._is_covered():
                score = {"recipe": self._recipe, "state": "covered"}
            elif score is not None and self._result == "" and score["recipe"] == self._recipe:
                score = {**score, "predicted": self._prediction(self._recipe)}
            known = (score, self._baseline, self._uncovered_history())
            shown = self._result
        picture = explorer_snapshot(self.sketch, figures, *known, order=self._order, metric=self._metric, result=shown)
        return {"image/png": picture, "text/plain": describe(figures, score)}

    def __repr__(self) -> str:
        return "Explorer(closed)" if self._session is None else f"Explorer({self._title}, {self.recipe!r})"


@contextmanager
def _let_go(lock: RLock) -> Iterator[None]:
    """Give a lock free for a while, however often this thread has taken it: an observer may wait for the worker."""
    taken = 0
    # an RLock does not say how often it is taken: it is released until it refuses
    with suppress(RuntimeError):  # it is no longer ours
        while True:
            lock.release()
            taken += 1
    try:
        yield
    finally:
        for _ in range(taken):
            lock.acquire()


@dataclass(frozen=True)
class _Result:
    """A result of "Retrain…" or "Recover", its score if there is data, and what it gets wrong, once that is known."""

    compressed: CompressedModel
    score: Score | None
    comparison: PredictionComparison | None = None
    seed: int | None = None
    recalibrated: bool = False
    """Whether batch norm was measured anew, and nothing trained."""
    recovered: bool = False

    @property
    def estimate(self) -> Estimate:
        found = self.compressed.estimate
        assert found is not None  # only a file that is loaded has none
        return found

    def to_dict(self, key: str) -> dict[str, Any]:
        """Return what the page shows of it under its key: its recipe, exact figures, and score."""
        recipe = self.compressed.recipe.to_json()
        figures = replace(self.estimate, nbytes_entropy_coded=self.compressed.nbytes_entropy_coded).to_dict()
        about = {"recipe": recipe, "recalibrated": False, "result": key}
        compared = {} if self.comparison is None else {"by_class": {**by_class_dict(self.comparison), **about}}
        score = None
        if self.score is not None:  # what was not done is said where scores are
            warnings = [*self.score.warnings, *self.compressed.notes]
            score = {**self.score.to_dict(), **about, "warnings": warnings, "state": "done"}
        return {"recipe": recipe, "exact": {**figures, "seconds": 0.0, "result": key}, "score": score, **compared}


_NO_PICTURE: Final = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
"""One pixel as a PNG: an output that is to be brought up to date with a picture has to be one from the start."""

_NO_RECOVERY: Final[dict[str, Any]] = {"state": "idle", "recipe": "", "text": "", "done": 0.0, "why": ""}
"""What the page is told of a recovery before there is one; `why` there can be none."""

_NOTHING_MEASURED: Final[dict[str, Any]] = {
    "state": "running",
    "text": "",
    "amounts": [],
    "dense": None,
    "n": 0,
    "examples": "",
    "layers": [],
    "pending": None,
}
"""What the page is told of a sensitivity before there is a number."""


def _export_dict(state: str, text: str = "", done: float = 0.0, exported: Exported | None = None) -> dict[str, Any]:
    """Return what the page is told of an export, and of the runtimes that there are."""
    found = None if exported is None else exported_dict(exported)
    return {"state": state, "text": text, "done": done, "exported": found, "targets": export_targets()}


def _recovery_words(now: Progress) -> str:
    """Return how far a recovery is, in words."""
    if now.phase == "compensate":
        return f"layer {now.step:,} of {now.steps:,}"
    return "batch norm" if now.phase == "norms" else "reading examples"


def _race_dict(race: Race) -> dict[str, Any]:
    """Return what a page is told of a race: by batch size the ratio in words, what it depends on, and warnings."""
    ratios = [{"batch": at.batch, "text": race.ratio("now", at.batch).text} for at in race.batches]
    return {"ratios": ratios, "conditions": race.conditions, "warnings": list(race.warnings)}


def _sensitivity_dict(found: Sensitivity, sketch: Sketch) -> dict[str, Any]:
    """Return what the page shows of a sensitivity: for every layer of the sketch its values, None while unknown."""
    values = {layer.name: [score.value for score in layer.scores] for layer in found.layers}
    return {
        "kind": found.kind,
        "amounts": list(found.amounts),
        "dense": found.dense.value,
        "n": found.dense.n,
        "examples": found.examples,
        "layers": [values.get(look.name) for look in sketch.layers],
        "pending": found.pending,
    }


def _from_mirror(recipe: Recipe, name: str, new: Any) -> Recipe:
    if name == "_recipe":
        return Recipe.from_json(new)
    if name == "value":
        return new if isinstance(new, Recipe) else recipe
    if name != "sparsity" or new == recipe.sparsity:
        return recipe.with_(**{name: new})
    return recipe.with_(structure="unstructured", sparsity=new)


def _names(prediction: Mapping[str, Any], recipe: str, recalibrated: bool) -> bool:
    """Return whether a prediction is of a recipe, with batch norm recalibrated or not."""
    return bool(prediction["recipe"] == recipe and prediction["recalibrated"] == recalibrated)


def _status_dict(state: str, what: str, text: str) -> dict[str, Any]:
    return {"state": state, "what": what, "text": text, "id": time.monotonic_ns() // 1_000_000}
