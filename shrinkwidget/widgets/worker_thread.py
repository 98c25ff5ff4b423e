"""One worker thread for all explorers of a kernel: the latest request wins, and commands come first."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from ..analysis.tensor_ops_threads_and_cpu_kernel import before_exit
from ..errors import Cancelled
from ..evaluation.batches_predictions_and_labels import wait_for_readers

log = logging.getLogger("shrinkwidget")

CancelCheck: TypeAlias = Callable[[], bool]
Work: TypeAlias = Callable[[CancelCheck], None]
_STOP_SECONDS: Final = 30.0
_READ_SECONDS: Final = 5.0


@dataclass(eq=False)
class _Job:
    key: Hashable
    work: Work
    background: bool = False
    cancel: threading.Event = field(default_factory=threading.Event)


class Worker:
    """Runs work on one thread, started when first needed.

    A comm handler only records what it wants and returns, because widget messages can arrive on any thread while a
    cell runs. `latest` work of one key replaces what was asked before under that key, running or waiting; `urgent`
    work runs in order, before all else; `background` work runs when there is nothing else to do, and makes room for all
    else. Work polls the cancel check it is given between layers and batches and raises `Cancelled`; while it polls,
    work that comes first gets its turn, so that a button does not wait for a long evaluation.
    """

    def __init__(self) -> None:
        self.forget_all()

    def forget_all(self) -> None:
        """Start over, as a forked process has to: its parent's thread and the work for it stay with the parent."""
        self._changed = threading.Condition()
        self._urgent: deque[_Job] = deque()
        self._latest: dict[Hashable, _Job] = {}
        self._background: dict[Hashable, _Job] = {}
        self._running: list[_Job] = []
        self._thread: threading.Thread | None = None
        self._stopping = False

    def latest(self, key: Hashable, work: Work) -> None:
        """Run this work instead of whatever was asked for before under the same key."""
        with self._changed:
            self._cancel(key)
            self._latest[key] = _Job(key, work)
            self._wake()

    def urgent(self, key: Hashable, work: Work) -> None:
        """Run this work before all that `latest` asked for, after earlier urgent work."""
        with self._changed:
            self._urgent.append(_Job(key, work))
            self._wake()

    def background(self, key: Hashable, work: Work) -> None:
        """Run this work once there is none of the other two, instead of what was asked for under the same key."""
        with self._changed:
            self._cancel(key)
            self._background[key] = _Job(key, work, background=True)
            self._wake()

    def forget(self, key: Hashable) -> None:
        """Cancel everything asked for under this key."""
        with self._changed:
            self._cancel(key)
            self._urgent = deque(job for job in self._urgent if job.key != key)
            self._changed.notify_all()

    def wait(self, key: Hashable, timeout: float | None = None) -> bool:
        """Block until nothing of this key waits or runs; return False if `timeout` seconds pass first."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy_with(key), timeout)

    def stop(self) -> None:
        """Cancel everything and end the thread: at the end of a program, torch must not be caught at work."""
        with self._changed:
            self._stopping = True
            for job in self._running:
                job.cancel.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            wait_for_readers(_READ_SECONDS)
            # a kernel's stream waits here until all that was said is sent: what still waits when zmq's own atexit has
            # run is cut off in the middle of a message
            sys.stdout.flush()

    def _busy_with(self, key: Hashable) -> bool:
        waiting = (*self._urgent, *self._latest.values(), *self._background.values())
        return any(job.key == key for job in (*waiting, *self._running))

    def _cancel(self, key: Hashable) -> None:
        self._latest.pop(key, None)
        self._background.pop(key, None)
        for job in self._running:
            if job.key == key:
                job.cancel.set()

    def _wake(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="shrinkwidget", daemon=True)
            self._thread.start()
            before_exit(self.stop)
        self._changed.notify_all()

    def _next(self) -> _Job | None:
        """Wait for work and return it, marked as running; None when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._urgent or self._latest or self._background or self._stopping))
            if self._stopping:
                return None
            return self._taken() or self._taken_from(self._background)

    def _next_before(self, running: _Job) -> _Job | None:
        """Return work that comes before a job that runs: urgent work, and before background work all other."""
        with self._changed:
            return None if self._stopping else self._taken(only_urgent=not running.background)

    def _taken(self, only_urgent: bool = False) -> _Job | None:
        if self._urgent:
            self._running.append(self._urgent.popleft())
            return self._running[-1]
        return None if only_urgent else self._taken_from(self._latest)

    def _taken_from(self, waiting: dict[Hashable, _Job]) -> _Job | None:
        if not waiting:
            return None
        self._running.append(waiting.pop(next(iter(waiting))))
        return self._running[-1]

    def _run(self) -> None:
        while (job := self._next()) is not None:
            self._do(job)
            del job  # or an idle worker would hold the last explorer's model

    def _do(self, job: _Job) -> None:
        try:
            job.work(lambda: self._poll(job))
        except Cancelled:
            log.debug("work for an explorer was cancelled")
        except BaseException:  # the thread must outlive one job's failure, even a SystemExit; jobs tell the user
            log.exception("work for an explorer failed")
        finally:
            with self._changed:
                self._running.remove(job)
                self._changed.notify_all()

    def _poll(self, job: _Job) -> bool:
        """Give work that comes first its turn, unless asked from a thread that only helps; tell whether to stop."""
        # Nested: urgent work runs inside the poll of what it interrupts, on the same thread, so that torch is never
        # entered twice. A helper thread that polls must not do that.
        if threading.current_thread() is self._thread:
            while (other := self._next_before(job)) is not None:
                self._do(other)
        return job.cancel.is_set()


class Pace:
    """Tells when enough time has passed to speak again: running results reach the browser a few times a second.

    The first time is at once, or only after `seconds` too.
    """

    def __init__(self, seconds: float, at_once: bool = True) -> None:
        self._seconds = seconds
        self._last = 0.0 if at_once else time.monotonic()

    def due(self) -> bool:
        """Tell whether `seconds` have passed since this last said yes."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
