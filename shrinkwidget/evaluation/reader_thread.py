"""Read a user's data on a thread of its own, so that data which blocks can be given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, TypeAlias

from ..errors import Cancelled, DataError
from .batches import as_pair

_LOOK_SECONDS: Final = 0.05
_CLOSE_SECONDS: Final = 1.0
_Answer: TypeAlias = tuple[Literal["batch", "end", "error"], Any]

_LIVE: Final[set[_Reader]] = set()
"""The readers whose threads have not ended, the blocked ones that were given up among them."""


def read_in_thread(
    batches: Iterator[Any], data: object, stopped: Callable[[], bool], patience: float | None
) -> Iterator[Any]:
    """Return the batches of `data`, read one at a time on another thread, until `stopped` says so.

    No thread can be ended from outside. So where a loader waits for ever, for a lock, a socket, a worker that died, its
    reader is left to wait, and the thread that works is free again. As long as it waits, the same data is not read
    anew: a second reader would only be the second to wait. Tensors do not block; nor is there another thread without
    `patience`: on the main thread Ctrl-C ends the wait.

    Raises:
        Cancelled: as soon as `stopped` says so, also while a batch is waited for.
        DataError: for data that gives no batch for `patience` seconds.
    """
    if patience is None or as_pair(data) is not None:
        return batches
    return _unblocked(batches, data, stopped, patience)


def _unblocked(batches: Iterator[Any], data: object, stopped: Callable[[], bool], patience: float) -> Iterator[Any]:
    _wait_for_earlier(data, stopped, patience)
    reader = _Reader(batches, data)
    number = 0
    try:
        while True:
            number += 1
            kind, value = reader.next(number, stopped, patience)
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            del value  # or two batches would be held while the next is read
    finally:
        reader.leave()


def wait_for_readers(seconds: float) -> None:
    """Wait for readers that were given up, once, and so long at most: none should be caught in torch at the end."""
    end = time.monotonic() + seconds
    for reader in list(_LIVE):
        reader.thread.join(max(0.0, end - time.monotonic()))
        _LIVE.discard(reader)


class _Reader:
    """A thread that takes one batch from an iterator each time it is asked to."""

    def __init__(self, batches: Iterator[Any], data: object) -> None:
        self.data = data
        self.left = False
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._given: SimpleQueue[_Answer] = SimpleQueue()
        self._waiting = False
        self.thread = threading.Thread(target=self._read, args=(batches,), name="shrinkwidget-reader", daemon=True)
        _LIVE.add(self)
        self.thread.start()

    def next(self, number: int, stopped: Callable[[], bool], patience: float) -> _Answer:
        """Ask for the batch of this number and return what came."""
        self._waiting = True
        self._asked.put(True)
        end = time.monotonic() + patience
        while True:
            try:
                answer = self._given.get(timeout=_LOOK_SECONDS)
            except Empty:
                if stopped():
                    raise Cancelled(f"cancelled while batch {number} was waited for") from None
                if time.monotonic() > end:
                    raise DataError(_blocked(f"has given no batch {number}", patience)) from None
            else:
                self._waiting = False
                return answer

    def leave(self) -> None:
        """Let the thread close the iterator and end, as soon as it is not blocked."""
        self.left = True
        self._asked.put(False)
        if not self._waiting:
            self.thread.join(_CLOSE_SECONDS)  # a loader's workers end before somebody reads it anew

    def _read(self, batches: Iterator[Any]) -> None:
        try:
            while self._asked.get():
                try:
                    self._given.put(("batch", next(batches)))
                except StopIteration:
                    break
            close = getattr(batches, "close", None)
            if close is not None:
                close()
            del batches
            self._given.put(("end", None))
        except BaseException as error:  # noqa: BLE001  # told on the thread that asked
            self._given.put(("error", error))
        finally:
            _LIVE.discard(self)


def _wait_for_earlier(data: object, stopped: Callable[[], bool], patience: float) -> None:
    """Wait until nobody who was given up reads this data any more."""
    end = time.monotonic() + patience
    while any(reader.left and reader.data is data for reader in list(_LIVE)):
        if stopped():
            raise Cancelled("cancelled while the data was blocked")
        if time.monotonic() > end:
            raise DataError(_blocked("is still blocked: it has given nothing", patience))
        time.sleep(_LOOK_SECONDS)


def _blocked(what: str, patience: float) -> str:
    return (
        f"the data {what} for {patience:g} s: it waits for something that does not come, or is very slow; "
        f"look for a lock, a download or a worker that has died"
    )
