"""Long work on a thread of its own: observe, pause, resume, stop, wait; it ends before the program does."""

from __future__ import annotations

import logging
import os
import sys
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator
from functools import cache
from typing import Any, ClassVar, Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar

from tqdm import tqdm

from ..analysis.run_model_seeded_macs_and_memory import preserve_rng_state
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, before_exit
from ..errors import Cancelled, ShrinkError, reason
from .batches_predictions_and_labels import wait_for_readers

log = logging.getLogger("shrinkwidget")

PATIENCE_SECONDS: Final = 600.0
"""Data that gives no batch for so long ends a run: as long as torch's process groups wait for each other."""

_STOP_SECONDS: Final = 30.0  # how long the end of the program waits for a step to end
_READ_SECONDS: Final = 5.0  # and for data that blocks

Result = TypeVar("Result")
"""What a run comes to."""
Now = TypeVar("Now")
"""What it tells after a step."""

State: TypeAlias = Literal["ready", "running", "paused", "stopping", "done", "stopped", "failed"]
_OVER: Final = ("done", "stopped", "failed")


class BackgroundRun(ABC, Generic[Result, Now]):
    """A generator that is advanced on a thread of its own, and whose return value is the result.

    Every method may be called from any thread. Whatever the generator raises ends the run, with state "failed". One
    that takes long between two steps polls `_is_stopping`; then it returns what it has, or raises `Cancelled`.
    """

    _refusal: ClassVar[type[ShrinkError]] = ShrinkError
    """What is raised where something is asked for that cannot be."""
    _what: ClassVar[str]
    """What it is, in words: "the training"."""
    _from_outside: ClassVar[str] = "its data, model or metric"
    """The user's code that it runs."""

    def __init__(self) -> None:
        self._process = os.getpid()  # a forked child has a copy of all this, but not the thread
        self._changed = threading.Condition()
        self._state: State = "ready"
        self._progress: Now | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._observers: list[Callable[[Any], object]] = []  # of `Self`, which no attribute can be
        self._thread = threading.Thread(target=self._run, name="shrinkwidget-run", daemon=True)

    @abstractmethod
    def _steps(self) -> Generator[Now, None, Result]:
        """Do the work, and yield how far it is."""

    def _claim(self) -> None:
        """Claim what must not be used twice at a time, or raise."""

    def _release(self) -> None:
        """Give it back."""

    def start(self) -> Self:
        """Begin, and return the run.

        Raises:
            ShrinkError: if it was started before; of a training, also if another of the same model is under way.

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
                raise self._refusal(f"this run is {self._state}, and cannot be started again: ask for a new one")
            # Under the lock, or two calls of `start` could both find it ready.
            self._claim()
            self._state = "running"
        try:
            _LIVE.add(self)
            _end_all_before_exit()
            self._thread.start()
        except BaseException:  # Ctrl-C, or no more threads: `_run`, which releases the claim, will not run
            self._release()
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

    def observe(self, callback: Callable[[Self], object]) -> Callable[[], None]:
        """Call back with the run whenever its progress or its state has changed; return a function that ends this.

        It is called on the run's thread, or on that which pauses or stops it. One that fails is logged, and called
        again: it harms nothing.

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

    @property
    def state(self) -> State:
        """Where it is: ready, running, paused, stopping, and in the end done, stopped or failed."""
        return self._state

    @property
    def over(self) -> bool:
        """Whether it is done, stopped or failed."""
        return self._state in _OVER

    @property
    def progress(self) -> Now | None:
        """What it last told; None before the first step."""
        return self._progress

    @property
    def error(self) -> Exception | None:
        """What it failed with, if it did."""
        return self._error

    def _run(self) -> None:
        steps = self._steps()
        over: State = "failed"
        try:
            while True:
                with self._changed:
                    # Between two steps only: a generator cannot be stopped inside one, and the model is whole between
                    # them.
                    self._changed.wait_for(lambda: self._state != "paused")
                self._progress = next(steps)
                self._tell()
        except StopIteration as end:
            self._result = end.value
            over = "stopped" if self._is_stopping() else "done"
        except Cancelled:
            over = "stopped"
        except BaseException as error:
            if isinstance(error, Exception):
                self._error = error
            else:  # of the user's code, such as SystemExit: raised again by `result`, it would end the user's program
                self._error = self._refusal(f"{reason(error)}, raised by {self._from_outside}, ended {self._what}")
                self._error.__cause__ = error
            if not isinstance(error, ShrinkError):
                log.exception("%s failed", self._what)
        finally:
            self._release()
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
            return  # a forked child has a copy of the run, and of what observes it, but its thread is not in it
        for callback in list(self._observers):  # a copy: one may end its own observing
            try:
                callback(self)
            except BaseException as error:
                if not isinstance(error, Exception) and threading.current_thread() is not self._thread:
                    raise  # Ctrl-C, of somebody who pauses or stops it
                log.exception("what observes %s failed", self._what)


class GrowingRun(BackgroundRun[Result, Result]):
    """A run whose progress is its result so far: one that is stopped keeps what it has.

    Args:
        title: what is worked on, in words: the model's class.
        compute: yields what is known, and more each time, until it is all; it is given what to poll for a stop.
    """

    _done: ClassVar[str] = "computed"
    """What it does, in a word."""
    _first: ClassVar[str] = "the dense model was scored"
    """Its first step, without which there is no result."""

    def __init__(self, title: str, compute: Callable[[Watch], Iterator[Result]]) -> None:
        super().__init__()
        self._title, self._compute = title, compute

    def _steps(self) -> Generator[Result, None, Result]:
        known: Result | None = None
        try:
            for known in self._compute(self._is_stopping):
                yield known
        except Cancelled:
            if known is None:
                raise
        assert known is not None
        return known

    @property
    def result(self) -> Result:
        """What the call would have returned; of a run that was stopped, what was known until then.

        Raises:
            ShrinkError: while it is not over, if it was stopped before there was any result, or what it failed with, if
                it did.
        """
        if self._error is not None:
            raise self._error
        if self._result is None:
            if self.over:
                raise ShrinkError(f"this run was stopped before {self._first}: nothing was {self._done}")
            raise ShrinkError(f"this run is {self.state}: .wait() for its result, or take .progress")
        return self._result


class Growing(Protocol):
    """A result that says how much of it is still to come."""

    @property
    def pending(self) -> int:
        """The number of pieces that are still to come."""


Grown = TypeVar("Grown", bound=Growing)


def computed(steps: Iterator[Grown], desc: str, unit: str, progress: bool) -> Grown:
    """Return the last of what a computation yields, on the caller's thread, with a bar if `progress` says so.

    The generators of random numbers are then where they were. On another thread that would undo what the caller has
    drawn meanwhile, so that a `GrowingRun` leaves them alone.
    """
    # a notebook is no terminal, but shows the bar of one
    hidden = not progress or (None if "ipykernel" not in sys.modules else False)
    with preserve_rng_state():
        found = next(steps)  # how many pieces there are is known with the first result
        total = found.pending
        with tqdm(total=total, unit=unit, desc=desc, disable=hidden, leave=False) as bar:
            for found in steps:
                bar.update(total - found.pending - bar.n)
    return found


_LIVE: Final[weakref.WeakSet[BackgroundRun[Any, Any]]] = weakref.WeakSet()


@cache
def _end_all_before_exit() -> None:
    """Let the program end all runs before it ends itself: torch must not be caught at work."""

    def end() -> None:
        for run in list(_LIVE):
            run.stop()
            run._thread.join(_STOP_SECONDS)
            wait_for_readers(_READ_SECONDS)

    before_exit(end)
