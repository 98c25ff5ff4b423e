"""Run a training: on a background thread (observe, pause, resume, stop), or blocking, shown while it lasts.

At most one training of a model runs at a time.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar, cast

from torch import nn
from tqdm import tqdm

from ..analysis.parallel import Watch, before_exit, in_forked_children, never
from ..analysis.run_without_side_effects import reason
from ..errors import ShrinkError, TrainingError
from ..evaluation.batches import wait_for_readers
from ..evaluation.evaluate import Score
from .batchnorm_recalibration import BatchNormRecalibration
from .progress import Progress, ProgressLines
from .schedules_and_methods import RecalibrateBatchNorm
from .training_loop import Trainer
from .training_options import TrainingSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..transfer_learning.transfer import TransferSession, TransferSpec

log = logging.getLogger("shrinkwidget")

_LOCK = threading.Lock()
_CLAIMED: Final[set[int]] = set()  # ids of the models that are being trained: their trainings hold on to them

_STOP_SECONDS: Final = 30.0  # how long the end of the program waits for a step to end
_READ_SECONDS: Final = 5.0  # and for data that blocks

# A training whose data gives no batch for so long is over: as long as torch's process groups wait for each other.
_PATIENCE_SECONDS: Final = 600.0

Result = TypeVar("Result")
"""What a run comes to: a `CompressedModel`, or what a transfer returns."""

AnySpec: TypeAlias = "TrainingSpec | TransferSpec"
"""What a run can be given."""

AnyTrainer: TypeAlias = "Trainer | BatchNormRecalibration | TransferSession"
"""What does it, advanced step by step by a `TrainingRun` or by a progress bar."""

State: TypeAlias = Literal["ready", "running", "paused", "stopping", "done", "stopped", "failed"]
_OVER: Final = ("done", "stopped", "failed")

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


class TrainingRun(Generic[Result]):
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

    def __init__(self, spec: AnySpec) -> None:
        self.spec = spec
        self._process = os.getpid()  # a forked child has a copy of all this, but not the thread
        self._trainer = make_trainer(spec, self._is_stopping, _PATIENCE_SECONDS)
        self._changed = threading.Condition()
        self._state: State = "ready"
        self._progress: Progress | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._observers: list[Callable[[TrainingRun[Any]], object]] = []
        self._thread = threading.Thread(target=self._run, name="shrinkwidget-run", daemon=True)

    def start(self) -> TrainingRun[Result]:
        """Begin, and return the run.

        Raises:
            TrainingError: if it was started before, or if another training of the same model is under way.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> run.wait(), run.state
            (True, 'done')
            >>> run.start()  # retrain started it already
            Traceback (most recent call last):
            ...
            shrinkwidget.errors.TrainingError: this run is done, and cannot be started again: ask for a new one
        """
        with self._changed:
            if self._state != "ready":
                raise TrainingError(f"this run is {self._state}, and cannot be started again: ask for a new one")
            lock_model(self.spec.model)
            self._state = "running"
        try:
            _LIVE.add(self)
            _end_runs_before_exit()
            self._thread.start()
        except BaseException:  # Ctrl-C, or no more threads: `_run`, which lets go of the model, will not run
            unlock_model(self.spec.model)
            self._become("failed")
            raise
        return self

    def pause(self) -> None:
        """Rest after the step that is being taken, until `resume` or `stop`.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1000, background=True)
            >>> run.pause()
            >>> run.state
            'paused'
            >>> run.stop()
            >>> run.wait()
            True
        """
        self._become("paused", "running")

    def resume(self) -> None:
        """Go on after a pause.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> run.pause()
            >>> run.resume()
            >>> run.wait(), run.state
            (True, 'done')
        """
        self._become("running", "paused")

    def stop(self) -> None:
        """End early, with the best weights so far; one that was never started has none.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1000, background=True)
            >>> run.stop()
            >>> run.wait(), run.state
            (True, 'stopped')
        """
        self._become("stopped", "ready")  # its thread never began: nothing else would end it
        self._become("stopping", "running", "paused")

    def wait(self, timeout: float | None = None) -> bool:
        """Block until it is over, paused or not; return False if `timeout` seconds pass first.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1000, background=True)
            >>> run.wait(timeout=0.1)
            False
            >>> run.stop()
            >>> run.wait()
            True
        """
        with self._changed:
            return self._changed.wait_for(lambda: self.over, timeout)

    def observe(self, callback: Callable[[TrainingRun[Any]], object]) -> Callable[[], None]:
        """Call back with the run whenever its progress or its state has changed; return a function that ends this.

        It is called on the run's thread, or on that which pauses or stops it. One that fails is logged, and called
        again: it harms no training.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1000, background=True)
            >>> forget = run.observe(lambda run: run.stop() if len(run.history) == 2 else None)
            >>> run.wait(), run.state
            (True, 'stopped')
        """

        def forget() -> None:
            with self._changed:
                if callback in self._observers:
                    self._observers.remove(callback)

        with self._changed:
            self._observers.append(callback)
        return forget

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
        from ..figures.figures_of import figure_of_run  # what draws trainings knows of them, not they of it

        return figure_of_run(self, kind, options)

    @property
    def state(self) -> State:
        """Where it is: ready, running, paused, stopping, and in the end done, stopped or failed."""
        return self._state

    @property
    def over(self) -> bool:
        """Whether it is done, stopped or failed."""
        return self._state in _OVER

    @property
    def progress(self) -> Progress | None:
        """What it last told; None before the first step."""
        return self._progress

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for every epoch, of plain values: round, epoch, loss, train, test, lr, sparsity, seconds, seed.

        Its `step` and `examples` are how many steps it took, and how many examples it saw.
        """
        return [{**row, "seed": self.spec.options.seed} for row in self._trainer.log.history]

    @property
    def points(self) -> list[dict[str, Any]]:
        """An entry for every round: round, nbytes, ratio, sparsity, test, seed; plain values."""
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
    def error(self) -> Exception | None:
        """What it failed with, if it did."""
        return self._error

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

    def _run(self) -> None:
        steps = self._trainer.steps()
        over: State = "failed"
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._state != "paused")
                self._progress = next(steps)
                self._tell()
        except StopIteration as end:
            self._result = end.value
            over = "stopped" if self._is_stopping() else "done"
        except BaseException as error:
            if isinstance(error, Exception):
                self._error = error
            else:  # of the user's code, such as SystemExit: raised again by `result`, it would end the user's program
                self._error = TrainingError(
                    f"{reason(error)}, raised by its data, model, loss or metric, ended the training"
                )
                self._error.__cause__ = error
            if not isinstance(error, ShrinkError):
                log.exception("a training failed")
        finally:
            unlock_model(self.spec.model)
            self._become(over)

    def _become(self, state: State, *only_from: State) -> None:
        with self._changed:
            if only_from and self._state not in only_from:
                return
            self._state = state
            self._changed.notify_all()
        self._tell()  # outside of the lock: an observer may pause or stop the run, or wait for what does

    def _is_stopping(self) -> bool:
        return self._state == "stopping"

    def _tell(self) -> None:
        if os.getpid() != self._process:
            return  # a forked child has a copy of the run, and of what observes it, but the training is not in it
        for callback in list(self._observers):  # a copy: one may end its own observing
            try:
                callback(self)
            except BaseException as error:
                if not isinstance(error, Exception) and threading.current_thread() is not self._thread:
                    raise  # Ctrl-C, of somebody who pauses or stops it
                log.exception("what observes a training failed")


_LIVE: Final[weakref.WeakSet[TrainingRun[Any]]] = weakref.WeakSet()


@cache
def _end_runs_before_exit() -> None:
    """Let the program end all runs before it ends itself: torch must not be caught at work."""

    def end() -> None:
        for run in list(_LIVE):
            run.stop()
            run._thread.join(_STOP_SECONDS)
            wait_for_readers(_READ_SECONDS)

    before_exit(end)


# A training that blocks, and where it is shown


def run_displayed(spec: AnySpec, progress: bool = True) -> Any:
    """Do a spec, and return its result; interrupting it ends it before the next step.

    It is shown by the notebook it runs in, where it can be paused and stopped, else by a bar or lines on stderr; by
    nothing at all without `progress`.
    """
    show = find_display() if progress else None
    if show is None or not spec.trains:
        # what does not train is over in one pass: lines about epochs would only clutter a notebook
        return run_with_progress_bar(make_trainer(spec), progress and show is None)
    run: TrainingRun[Any] = TrainingRun(spec)
    show(run)
    run.start()
    try:
        run.wait()
    except KeyboardInterrupt:
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


def find_display() -> Show | None:
    """Return how to show a run here, or None outside a notebook."""
    return next((show for ask in _displays if (show := ask()) is not None), None)
