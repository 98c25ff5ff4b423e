"""What a user calls to train, `retrain` and `prune_and_retrain`, and the run they start: on a thread, or displayed.

At most one training of a model runs at a time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Unpack, cast, overload

from torch import nn
from tqdm import tqdm

from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, in_forked_children, never
from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import MethodError, ModelError, TrainingError, a_type
from ..evaluation.evaluate_and_metrics import Score
from ..evaluation.run_in_background import PATIENCE_SECONDS, BackgroundRun, Result
from ..recipe_and_method_registry import Recipe, recipe_from
from .methods_schedule_options_and_progress import (
    METHODS,
    OF_METHOD,
    FineTune,
    GradualPruning,
    Method,
    MethodName,
    Progress,
    RecalibrateBatchNorm,
    Schedule,
    TrainingFields,
    TrainingOptions,
    TrainingSpec,
    named,
    options_from,
)
from .recalibrate_batchnorm_method import BatchNormRecalibration
from .training_loop_losses_and_weight_constraints import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..recovery.recover import RecoverySession, RecoverySpec
    from ..transfer_learning.transfer import TransferSession, TransferSpec
from .methods_schedule_options_and_progress import ProgressLines, _check_gradual, iterative_recipes

_SPARSITY: Final = 0.9  # what `prune_and_retrain` arrives at where nothing is said

# Fields of methods and schedules, which may be taken for keywords, and how they are written.
_ELSEWHERE: Final = {kind: f"method={kind.__name__}({{}}=…)" for kind in METHODS.values()} | {
    Schedule: f"method={FineTune.__name__}(schedule={Schedule.__name__}({{}}=…))",
}


@overload
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel: ...
@overload
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[CompressedModel]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE | {Recipe: "retrain(compress(model, {}=…), …)"})
def retrain(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    method: Method | MethodName = "finetune",
    *,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel | TrainingRun[CompressedModel]:
    """Return a compressed model trained further; the one given is untouched.

    >>> import shrinkwidget as sw
    >>> small = sw.compress(sw.demo.model(), sparsity=0.9)
    >>> sw.retrain(small, sw.demo.few(per_class=8), epochs=1, lr=0.01, batch_size=16).provenance
    'fine-tuned 1 epoch'

    Args:
        model: a `CompressedModel`, whose pruned weights stay zero and through whose grid or codebook is trained, so
            that the result is exactly what was trained; or a module, which is trained as it is (the dense control).
        train_data: a pair of tensors (inputs, targets), a dataset, a DataLoader, or an iterable of batches.
        eval_data: as `train_data`; scored after every epoch.
        method: how: ``"finetune"``, ``"learning_rate_rewinding"``, ``"recalibrate_batchnorm"`` (it wants no labels), or
            an object of `shrinkwidget.methods` with settings of its own, such as ``WeightRewinding(schedule, early)``.
        options: all else that can be said of a training: loss, batches, seed, checkpoint.
        resume: the checkpoint of an interrupted training, asked for just so, to go on from; it goes on being written.
            True for that of the options, if it has been written yet.
        background: True for a `TrainingRun` on a thread of its own, already started, instead of the result; `monitor`
            shows it.
        progress: while it blocks, a notebook shows its monitor, a terminal a bar, and any other stderr a line now and
            then; False for nothing of these.
        fields: `epochs`, `lr` and `optimizer` change the method, all others the options.

    Raises:
        FileError: for a checkpoint that is not one of this training, or cannot be written.
        ModelError, DataError, TrainingError: for arguments that do not fit each other, and for a training that cannot
            go on; the error's `best` then holds the best weights.
        ArgumentError: for an unknown keyword.
    """
    by = named(method, METHODS, "method", _of_method(fields))
    if isinstance(by, GradualPruning):
        raise TrainingError(
            "GradualPruning prunes as it trains: give it to prune_and_retrain, with the recipe to reach"
        )
    spec = TrainingSpec(model, train_data, eval_data, by, options_from(options, fields), resume=resume)
    return _done(spec, background, progress)


@overload
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    channels: float | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel: ...
@overload
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    channels: float | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[CompressedModel]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE | {Recipe: f"recipe={Recipe.__name__}({{}}=…)"})
def prune_and_retrain(
    model: nn.Module,
    train_data: object,
    eval_data: object = None,
    recipe: Recipe | float | None = None,
    method: Method | MethodName = "learning_rate_rewinding",
    *,
    sparsity: float | None = None,
    bits: int | None = None,
    channels: float | None = None,
    rounds: int | None = None,
    options: TrainingOptions | None = None,
    resume: str | os.PathLike[str] | bool | None = None,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> CompressedModel | TrainingRun[CompressedModel]:
    """Return a trained model pruned and retrained in turns until it is what a recipe says; the one given is untouched.

    This is the procedure of Renda, Frankle, Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning",
    arXiv 2003.02389: prune the 20 % smallest of the weights that remain, retrain, and again.

    >>> import shrinkwidget as sw
    >>> small = sw.prune_and_retrain(sw.demo.model(), sw.demo.few(per_class=8), sparsity=0.5, rounds=2, epochs=1)
    >>> small.provenance
    'retrained 2 rounds of 1 epoch, learning rate rewound'

    Args:
        model: trained to completion.
        train_data, eval_data: see `retrain`.
        recipe: to arrive at, or a sparsity, by default 0.9. Its bits count in the last round, which trains through
            them. Its channels go round by round; which of them go together is seen on the first training example.
        method: how each round retrains; the paper's own is ``"learning_rate_rewinding"``, best with the schedule of the
            training, `LearningRateRewinding(Schedule(…))`. ``"gradual_pruning"`` prunes during a single one instead.
        sparsity, bits, channels: of the recipe; beside one they change it. All else a recipe may say is said in a
            `Recipe`.
        rounds: how many; by default 20 % of what remains are pruned in each; 1 is one-shot.
        options, resume, background, progress, fields: see `retrain`. `seed` is that of the training.

    Raises:
        as `retrain`, and RecipeError for what is no recipe or sparsity, MethodError for an importance that needs
            calibration data.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot prune {a_type(model)}: give the dense nn.Module")
    by = named(method, METHODS, "method", _of_method(fields))
    # someone who asks for channels alone wants no weights pruned beside them
    usual = _SPARSITY if recipe is None and sparsity is None and channels is None else recipe
    target = recipe_from(usual, {"sparsity": sparsity, "bits": bits, "channels": channels})
    if target.importance.calibrated:
        raise MethodError(
            f"importance {target.importance.kind!r} needs calibration data, and prune_and_retrain ranks by weights "
            f"alone: take sw.compress(model, recipe, calibration=train_data) first, then sw.retrain"
        )
    # One round, unless something else was asked for, and is refused below: gradual pruning has its own way there.
    recipes = iterative_recipes(target, 1 if isinstance(by, GradualPruning) and rounds is None else rounds)
    spec = TrainingSpec(model, train_data, eval_data, by, options_from(options, fields), recipes, resume)
    if isinstance(spec.training_method, GradualPruning):
        _check_gradual(recipes)
    return _done(spec, background, progress)


def _of_method(fields: TrainingFields) -> dict[str, Any]:
    """Return the keywords that change the method."""
    return {name: fields.get(name) for name in OF_METHOD}


def _done(spec: TrainingSpec, background: bool, progress: bool) -> CompressedModel | TrainingRun[CompressedModel]:
    if background:
        return TrainingRun[CompressedModel](spec).start()
    done: CompressedModel = run_displayed(spec, progress)
    return done


_LOCK = threading.Lock()
_CLAIMED: Final[set[int]] = set()  # ids of the models that are being trained: their trainings hold on to them

AnySpec: TypeAlias = "TrainingSpec | TransferSpec | RecoverySpec"
"""What a run can be given."""

AnyTrainer: TypeAlias = "Trainer | BatchNormRecalibration | TransferSession | RecoverySession"
"""What does it, advanced step by step by a `TrainingRun` or by a progress bar."""

Show: TypeAlias = "Callable[[TrainingRun[Any]], object]"
"""Puts a run before the user's eyes, and returns."""

_displays: Final[list[Callable[[], Show | None]]] = []


def _forget() -> None:
    """Forget the claims in a forked child: the trainings go on in its parent."""
    global _LOCK
    _LOCK = threading.Lock()  # anew: it may have been held at the fork, by a thread that the child does not have
    _CLAIMED.clear()


in_forked_children(_forget)


def lock_model(model: nn.Module) -> None:
    """Claim a model for a training.

    Raises:
        TrainingError: if it is claimed already.
    """
    with _LOCK:
        if id(model) in _CLAIMED:
            raise TrainingError(
                f"this {type(model).__name__} is being trained already: wait() for that run, stop() it, or give a copy"
            )
        _CLAIMED.add(id(model))


def unlock_model(model: nn.Module) -> None:
    """Release a model that `lock_model` claimed."""
    with _LOCK:
        _CLAIMED.discard(id(model))


@contextmanager
def locked_model(model: nn.Module) -> Iterator[None]:
    """Claim a model for as long as the context lasts; raises as `lock_model`."""
    lock_model(model)
    try:
        yield
    finally:
        unlock_model(model)


def make_trainer(spec: AnySpec, stopped: Watch = never, patience: float | None = None) -> AnyTrainer:
    """Return the trainer of a spec; `stopped` is polled between its steps; `patience` as in `read_in_thread`."""
    if not isinstance(spec, TrainingSpec):
        return spec.trainer(stopped, patience)  # of a folder above this one, which cannot be imported here
    if isinstance(spec.method, RecalibrateBatchNorm):
        return BatchNormRecalibration(spec, spec.method, stopped, patience)
    return Trainer(spec, stopped, patience)


class TrainingRun(BackgroundRun[Result, Progress]):
    """A training that `retrain`, `prune_and_retrain` and `transfer` start with ``background=True``.

    Every method may be called from any thread. `stop` returns at once and takes effect before the next step or the next
    batch of the evaluation data; the result is then the best weights so far. A run ends before the program does.

    Whatever its data, model, loss or metric raise ends it, with state "failed", and frees the model; data that gives no
    batch for ten minutes does, too.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=2, background=True)
        >>> run.wait()
        True
        >>> run
        TrainingRun(DigitNet, done, round 1 of 1, epoch 2 of 2)
        >>> run.result.provenance
        'fine-tuned 2 epochs'
    """

    _refusal = TrainingError
    _what = "the training"
    _from_outside = "its data, model, loss or metric"

    def __init__(self, spec: AnySpec) -> None:
        super().__init__()
        self.spec = spec
        self._trainer = make_trainer(spec, self._is_stopping, PATIENCE_SECONDS)

    def _steps(self) -> Generator[Progress, None, Result]:
        return cast("Generator[Progress, None, Result]", self._trainer.steps())  # `Result`: see `best`

    def _claim(self) -> None:
        lock_model(self.spec.model)

    def _release(self) -> None:
        unlock_model(self.spec.model)

    def to_html(self, path: str | os.PathLike[str]) -> int:
        """Write its curves, rounds and table as one HTML file that needs no kernel and no network; return its bytes.

        Of a training that goes on, the page shows how far it has come.

        Raises:
            FileError: if the path cannot be written or does not end in ".html"; what was there before is unchanged.
            TrainingError: if no epoch is complete yet, or it is one that does not train.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> run.wait()
            True
            >>> run.to_html("training.html") < 200_000
            True
        """
        from ..live_page import run_page, write_page  # what shows a training knows of trainings, not they of it

        return write_page(path, run_page(self))

    def figure(self, kind: str = "training", **options: Any) -> Figure:
        """Draw a figure of it: ``"training"``, or ``"tradeoff"``, a point for every round; see `sw.figures`.

        Raises:
            FigureError: for an unknown kind, or while there is nothing to show.

        Example:
            >>> import shrinkwidget as sw
            >>> valid = sw.demo.data("valid")
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), valid, epochs=2, background=True)
            >>> run.wait()
            True
            >>> figure = run.figure(width="nature-single")
        """
        from ..figures.figures_of_explorers_runs_and_sweeps import (
            figure_of_run,  # what draws trainings knows of them, not they of it
        )

        return figure_of_run(self, kind, options)

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for every epoch, of plain values: round, epoch, loss, train, test, lr, sparsity, seconds, seed.

        Its `step` and `examples` are how many steps it took, and how many examples it saw.
        """
        return [{**row, "seed": self.spec.options.seed} for row in self._trainer.log.history]

    @property
    def points(self) -> list[dict[str, Any]]:
        """An entry for every round, of plain values: round, nbytes, ratio, sparsity, sqnr, macs, test, seed.

        `sqnr` is in dB, of the trained weights against what the file holds of them, None where nothing is lost; `macs`
        are multiply-accumulates of one forward pass, pruned weights left out, None where they cannot be counted.
        """
        return [{**row, "seed": self.spec.options.seed} for row in self._trainer.log.points]

    @property
    def baseline(self) -> Score | None:
        """The score before training; None without evaluation data."""
        found = self._trainer.log.baseline
        return None if found is None else Score.from_dict(found)

    @property
    def score(self) -> Score | None:
        """The score of the best weights so far; None without evaluation data or a complete epoch."""
        best = self._trainer.log.best
        if best is None:
            return None
        # a row's round counts from 1, the best weights' from 0
        scores = (row["test"] for row in self.history if (row["round"], row["epoch"]) == (best.round + 1, best.epoch))
        found = next(scores, None)
        return None if found is None else Score.from_dict(found)

    @property
    def best(self) -> Result:
        """The best weights so far; at any time, also after a failure."""
        return cast(Result, self._trainer.best())  # `Result` follows from the kind of spec, which no type can say here

    @property
    def result(self) -> Result:
        """What `retrain`, `prune_and_retrain` or `transfer` would have returned.

        Raises:
            TrainingError: while it is not over.
            ShrinkError: what it failed with, if it did.
        """
        if self._error is not None:
            raise self._error  # the very error, with its `best`, as the call that blocks would have raised it
        if self._result is None:
            raise TrainingError(f"this run is {self._state}: .wait() for its result, or take .best")
        return self._result

    def __repr__(self) -> str:
        now = self._progress
        where = (
            ""
            if now is None
            else f", {now.stage or f'round {now.round} of {now.rounds}'}, epoch {now.epoch} of {now.epochs}"
        )
        return f"TrainingRun({type(self.spec.model).__name__}, {self._state}{where})"

    def _ipython_display_(self) -> None:
        """Show its monitor where it is last in a cell of a notebook; elsewhere IPython goes on to its `repr`."""
        show = find_display()
        if show is None:
            raise NotImplementedError
        show(self)


# ---- a training that blocks, and where it is shown ----


def run_displayed(spec: AnySpec, progress: bool = True) -> Any:
    """Do a spec, and return its result; interrupting it ends it before the next step.

    It is shown by the notebook it runs in, where it can be paused and stopped, else by a bar or lines on stderr; by
    nothing at all without `progress`.
    """
    show = find_display() if progress else None
    if show is None or not spec.trains:
        # what does not train is over in one pass: lines about epochs would only clutter a notebook
        return run_with_progress_bar(make_trainer(spec), progress and show is None)
    # shown before it starts, so that the page has the first step, too
    run: TrainingRun[Any] = TrainingRun(spec)
    show(run)
    run.start()
    try:
        run.wait()
    except KeyboardInterrupt:
        # on its thread a step may be under way: it ends first, and nothing of the run is left behind in a notebook
        run.stop()
        run.wait()
        raise
    return run.result


def run_with_progress_bar(trainer: AnyTrainer, progress: bool = True) -> Any:
    """Train to the end and return the result; with `progress`, tell on stderr what it takes and how far it is."""
    # closed at once when it is interrupted: the traceback would keep it as it is, in the middle of something
    with (
        locked_model(trainer.spec.model),
        closing(trainer.steps()) as steps,
        tqdm(total=0, unit="step", disable=None if progress else True, leave=False, dynamic_ncols=True) as bar,
    ):
        lines = ProgressLines(type(trainer.spec.model).__name__, bar) if progress else None
        while True:
            try:
                now = next(steps)
            except StopIteration as end:
                if lines is not None:
                    lines.end()
                return end.value
            if lines is not None:
                lines.tell(now)


def register_display(find: Callable[[], Show | None]) -> None:
    """Register a function that tells how to show a blocking training here, or returns None where it cannot.

    The notebook registers itself this way, so the engine can be watched in one without importing it.
    """
    _displays.append(find)


def in_notebook() -> bool:
    """Tell whether this runs in a kernel."""
    ipython = sys.modules.get("IPython")  # a kernel has loaded it; elsewhere it is not worth its 50 ms
    return ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None


def find_display() -> Show | None:
    """Return how to show a run here, or None outside a notebook."""
    return next((show for ask in _displays if (show := ask()) is not None), None) if in_notebook() else None
