"""Run a training: on a background thread (observe, pause, resume, stop), or blocking, shown while it lasts.

At most one training of a model runs at a time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from torch import nn
from tqdm import tqdm

from ..analysis.parallel_tensor_ops import Watch, in_forked_children, never
from ..errors import TrainingError
from ..evaluation.evaluate import Score
from ..evaluation.run_in_background import PATIENCE_SECONDS, BackgroundRun, Result
from .batchnorm_recalibration import BatchNormRecalibration
from .progress import Progress, ProgressLines
from .schedules_and_methods import RecalibrateBatchNorm
from .training_loop import Trainer
from .training_options import TrainingSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..recovery.recover import RecoverySession, RecoverySpec
    from ..transfer_learning.transfer import TransferSession, TransferSpec

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
        from ..figures.figures_of import figure_of_run  # what draws trainings knows of them, not they of it

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


def find_display() -> Show | None:
    """Return how to show a run here, or None outside a notebook."""
    return next((show for ask in _displays if (show := ask()) is not None), None)
