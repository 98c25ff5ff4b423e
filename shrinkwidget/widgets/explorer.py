"""The explorer: drag sparsity and bit-width over a model and see layers, size and accuracy follow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import RLock
from typing import Any, Final

import traitlets as t

from ..compressed import Compressed
from ..errors import Cancelled, DataError, ShrinkError
from ..figures.words import recipe_words
from ..learn.methods import Method
from ..learn.run import Run
from ..measure.estimate import Estimate
from ..measure.layers import Source
from ..measure.parallel import in_forked_children
from ..measure.sketch import Sketch
from ..recipe import Recipe, checked_recipe
from ..train.evaluate import MetricLike, Score
from ..train.labels import LabelRules
from .bench import DENSE, Bench, CancelCheck
from .commands import keep_in_notebook, save_to
from .hosted import Hosted, built, kernel_owned, metric_dict, sentence
from .monitor import Monitor
from .worker import Pace, Worker

log = logging.getLogger("shrinkwidget")

_WORKER: Final = Worker()
in_forked_children(_WORKER.forget_all)
_SCORE_SECONDS: Final = 0.1
_SILENT_SECONDS: Final = 3.0
_LOOK_SECONDS: Final = 0.005
_STILL_SECONDS: Final = 5.0


class Explorer(Hosted):
    """An instrument over one model. Make it with `explore`; read and set `recipe`, `sparsity` and `bits`.

    `recipe` (a `Recipe`), `sparsity` and `bits` are traits: observe them, link them, set them. `value` mirrors
    `recipe`, so that ``interactive_output`` works. All work runs on one worker thread; nothing here blocks.
    """

    _esm = built("explorer.js")
    _css = built("explorer.css")

    recipe = t.Instance(Recipe, args=())
    value = t.Instance(Recipe, args=())
    sparsity = t.Float(0.0).tag(sync=True)
    bits = t.Int(32).tag(sync=True)

    _recipe = t.Unicode(DENSE.to_json()).tag(sync=True)
    _dragging = t.Bool(False).tag(sync=True)
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

    def __init__(self, bench: Bench, recipe: Recipe) -> None:
        self._bench: Bench | None = bench
        self._pictured: Recipe | None = None
        self._logged: set[str] = set()
        self._run: Run | None = None
        self._watching: Monitor | None = None
        super().__init__(
            # all of the recipe's mirrors at once: a page that hears of them later takes that for a step to undo
            recipe=recipe,
            value=recipe,
            sparsity=recipe.sparsity,
            bits=recipe.bits,
            _recipe=recipe.to_json(),
            _title=bench.sketch.title,
            _sketch=bench.sketch.encode(),
            _memory={"weights": bench.memory(), "activations": None},
            _metric=metric_dict(bench.metric)
            | {"has_data": bench.data is not None, "has_train": bench.train is not None},
            _status=_status_dict("idle", "", ""),
        )
        self._mirror()
        self.observe(self._on_recipe, "recipe")
        self.observe(self._on_mirror, ["_recipe", "value", "sparsity", "bits"])
        self.on_msg(self._on_command)
        self._settle_soon()

    # what Python reads

    @property
    def sketch(self) -> Sketch:
        """The model's sketch."""
        return self._open().sketch

    @property
    def estimate(self) -> Estimate:
        """What the current recipe makes of the model: exact once counted, else estimated."""
        return self._open().estimate(self.recipe)

    @property
    def score(self) -> Score | None:
        """The final score of the current recipe, or None while there is none."""
        return self._open().known_score(self.recipe)

    @property
    def history(self) -> list[dict[str, Any]]:
        """Every recipe evaluated so far: dicts of recipe (a `Recipe`), nbytes, value, low, high, n, regime."""
        return [{**point, "recipe": Recipe.from_json(point["recipe"])} for point in self._history]

    @property
    def run(self) -> Run | None:
        """The training "Retrain…" started last, or None: ``ex.run.result`` is the retrained model."""
        return self._run

    def compress(self) -> Compressed:
        """Return a new model compressed by the current recipe; yours is untouched."""
        return self._open().compress(self.recipe)

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all figures of the current recipe are there; return False after `timeout` seconds."""
        with _let_go(self._lock):
            return _WORKER.wait(id(self), timeout)

    def close(self) -> None:
        """Stop all work, leave the page, and let go of the model."""
        _WORKER.forget(id(self))
        if self._pictured != self.recipe:
            self._refresh_still()
        self._bench = None
        if self._watching is not None:
            self._watching.close()
        self._run = self._watching = None  # anywidget keeps the widget itself
        super().close()

    def _open(self) -> Bench:
        if self._bench is None:
            raise ShrinkError("this explorer is closed: make a new one with sw.explore(model)")
        return self._bench

    # the recipe and its mirrors

    @t.validate("recipe")
    def _check_recipe(self, proposal: Mapping[str, Any]) -> Recipe:
        recipe: Recipe = proposal["value"]
        self._open().check(recipe)
        return recipe

    def _on_recipe(self, _change: object) -> None:
        with self._lock:
            self._mirror()
            self._settle_soon()

    def _mirror(self) -> None:
        """Bring every mirror of the recipe in step; those that already are stay silent."""
        with self.hold_sync():
            recipe = self.recipe
            self._recipe, self.value, self.sparsity, self.bits = recipe.to_json(), recipe, recipe.sparsity, recipe.bits

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

    # work, on the worker's thread

    def _settle_soon(self) -> None:
        if self._bench is not None:
            _WORKER.latest(id(self), self._settle)

    def _settle(self, cancelled: CancelCheck) -> None:
        """Count the exact figures of the current recipe, then evaluate it, then see how small a download it makes."""
        self._rest(cancelled)
        bench, recipe = self._open(), self.recipe
        try:
            self._count(bench.exact, recipe, cancelled)
            if bench.data is not None:
                self._evaluate(bench, recipe, cancelled)
            self._count(bench.download, recipe, cancelled)
        except Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001  # whatever fails is told in the widget, and logged
            self._failed("estimate", error)
        self._refresh_still()

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
        figures = figures_of(recipe, cancelled).to_dict()
        before = self._exact or {}
        known = before["seconds"] if before.get("recipe") == figures["recipe"] else time.perf_counter() - start
        self._tell(_exact={**figures, "seconds": known})

    def _evaluate(self, bench: Bench, recipe: Recipe, cancelled: CancelCheck) -> None:
        """Score the recipe first, so that its score counts up at once, then what is not there yet: MACs, baseline."""
        try:
            self._run_scores(bench, recipe, cancelled, "_score")
            self._visit(bench, recipe)
            if self._baseline is None and not self._macs:
                order, macs, peak = bench.forward(cancelled)
                self._tell(_order=order, _macs=macs, _memory={"weights": bench.memory(), "activations": peak})
            if self._baseline is None:
                self._run_scores(bench, DENSE, cancelled, "_baseline")
        except Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001  # as above
            self._log("evaluation", error)
            self._tell(_score={"recipe": recipe.to_json(), "state": "failed", "text": sentence(error)})

    def _run_scores(self, bench: Bench, recipe: Recipe, cancelled: CancelCheck, trait: str) -> None:
        """Show a recipe's running score in a trait; the baseline's only when it is whole."""
        pace, lasting = Pace(_SCORE_SECONDS), Pace(_STILL_SECONDS, at_once=False)
        for score in bench.scores(recipe, cancelled):
            if score.done or (trait == "_score" and pace.due()):
                state = "done" if score.done else "running"
                self._tell(**{trait: {**score.to_dict(), "recipe": recipe.to_json(), "state": state}})
            if lasting.due():
                self._refresh_still()

    def _visit(self, bench: Bench, recipe: Recipe) -> None:
        """Add the recipe to where you have been, once."""
        score = bench.known_score(recipe)
        if score is not None:
            self._add_visit(recipe, bench.estimate(recipe).nbytes, score.to_dict())

    def _add_visit(self, recipe: Recipe, nbytes: int, score: Mapping[str, Any]) -> None:
        """Add a score to where you have been, unless it is there."""
        point = {"recipe": recipe.to_json(), "nbytes": nbytes}
        point |= {k: score[k] for k in ("value", "low", "high", "n", "regime")}
        with self._lock:
            if point not in self._history:
                self._tell(_history=[*self._history, point])

    # retraining: offered in a monitor below the explorer, trained on a thread of its own

    def _offer_retraining(self, recipe: Recipe) -> str:
        bench = self._open()
        if bench.train is None:
            raise DataError("there is nothing to train on: open the explorer with sw.explore(model, data, train=…)")
        if self._watching is not None:
            self._watching.close()
        self._watching = watching = Monitor(bench.sketch.title, bench.metric)
        watching.offer(recipe_words(recipe), lambda method: self._retrain_soon(recipe, method))
        self._tell(_monitor=watching.model_id or "")
        return ""

    def _retrain_soon(self, recipe: Recipe, method: Method) -> None:
        _WORKER.urgent(id(self), lambda _cancelled: self._do("retrain", lambda: self._retrain(recipe, method)))

    def _retrain(self, recipe: Recipe, method: Method) -> str:
        watching = self._watching
        try:
            self._run = run = self._open().retrain(recipe, method)
            run.observe(self._on_run)
            if watching is not None:
                watching.watch(run)
            run.start()
        except BaseException as error:
            if watching is not None:
                watching.fail(sentence(error))
            raise
        return ""

    def _on_run(self, run: Run) -> None:
        """Add what a run has come to, once it is over, to where you have been."""
        if run.state in ("done", "stopped") and self._bench is not None and run.score is not None:
            self._add_visit(run.result.recipe, run.result.nbytes, run.score)

    # what the buttons ask for

    def _on_command(self, _widget: object, content: Any, _buffers: object) -> None:
        """Record what a button asks for and return: this may run on any thread, while a cell runs."""
        recipe = self.recipe
        jobs: dict[str, Callable[[], str]] = {
            "compress": lambda: keep_in_notebook(content.get("name"), self._open().compress(recipe)),
            "save": lambda: save_to(content.get("path"), self._open().compress(recipe), bool(content.get("entropy"))),
            "retrain": lambda: self._offer_retraining(recipe),
        }
        what = content.get("do") if isinstance(content, Mapping) else None
        if what == "evaluate":
            self._open().forget_score(recipe)
            self._settle_soon()
        elif what in jobs:
            _WORKER.urgent(id(self), lambda _cancelled: self._do(what, jobs[what]))

    def _do(self, what: str, job: Callable[[], str]) -> None:
        self._say("busy", what, "")
        try:
            self._say("done", what, job())
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
        level = logging.DEBUG if told in self._logged else logging.WARNING
        self._logged.add(told)
        cause = error.__cause__ if isinstance(error, ShrinkError) else error
        log.log(level, "%s failed: %s", what, told, exc_info=cause)

    def _say(self, state: str, what: str, text: str) -> None:
        self._tell(_status=_status_dict(state, what, text))

    # display

    @property
    def _alive(self) -> bool:
        return self._bench is not None

    def _still(self) -> dict[str, Any]:
        from ..figures.still import describe, still

        self._pictured = self.recipe
        figures = self.estimate
        picture = still(self.sketch, figures, self._score, self._baseline, self._history)
        return {"image/png": picture, "text/plain": describe(figures, self._score)}

    def __repr__(self) -> str:
        return "Explorer(closed)" if self._bench is None else f"Explorer({self._title}, {self.recipe!r})"


@contextmanager
def _let_go(lock: RLock) -> Iterator[None]:
    """Give a lock free for a while, however often this thread has taken it: an observer may wait for the worker."""
    taken = 0
    with suppress(RuntimeError):  # it is no longer ours
        while True:
            lock.release()
            taken += 1
    try:
        yield
    finally:
        for _ in range(taken):
            lock.acquire()


def _from_mirror(recipe: Recipe, name: str, new: Any) -> Recipe:
    if name == "_recipe":
        return Recipe.from_json(new)
    if name == "value":
        return new if isinstance(new, Recipe) else recipe
    if name == "bits" or new == recipe.sparsity:
        return recipe.with_(**{name: new})
    return recipe.with_(pattern="unstructured", sparsity=new)


def _status_dict(state: str, what: str, text: str) -> dict[str, Any]:
    return {"state": state, "what": what, "text": text, "id": time.monotonic_ns() // 1_000_000}


def explore(
    model: Source,
    data: object = None,
    recipe: Recipe | None = None,
    metric: MetricLike = "accuracy",
    train: object = None,
    *,
    ignore_index: int | None = None,
    next_token: bool | None = None,
) -> Explorer:
    """Open the explorer on a model.

    Args:
        model: an ``nn.Module``, a state dict, or the path of a ``.safetensors`` file. It is never changed.
        data: what to evaluate on, see `evaluate`; without it there is no accuracy. Needs a module.
        recipe: where to start; by default nothing is pruned or quantized.
        metric: see `evaluate`.
        train: what "Retrain…" trains on; see `retrain`.
        ignore_index, next_token: how labels are read; see `evaluate`.

    Raises:
        ModelError: for a model that cannot be looked at: NaN weights, meta tensors, nothing to compress.
        FileError: for a path that is not a safetensors file.
        DataError: for an unknown metric, or data that is none or can be read only once.
        RecipeError: for what is no recipe, or does not fit the model.
    """
    from .cells import replace_in_cell

    start = DENSE if recipe is None else checked_recipe(recipe)
    rules = LabelRules(ignore_index, next_token)
    return replace_in_cell(Explorer(Bench(model, data, metric, train, rules), start))
