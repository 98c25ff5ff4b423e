"""Work on all layers at once in pieces that fit a CPU's cache, and stop when told to."""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeAlias, TypeVar

from torch import Tensor

from ..errors import Cancelled

CHUNK: Final = 1 << 18
"""Weights looked at together: few enough for a CPU's cache, enough that Python's part of the work does not count."""

_THREADS: Final = 4

Watch: TypeAlias = Callable[[], bool]
"""Polled between layers; true means stop."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check(cancelled: Watch | None) -> None:
    """Raise `Cancelled` if there is something newer to do."""
    if cancelled is not None and cancelled():
        raise Cancelled("cancelled: something newer was asked for")


def each(
    function: Callable[[_Item], _Result], items: Sequence[_Item], cancelled: Watch | None = None
) -> Iterator[_Result]:
    """Yield what a function makes of each item, in order, computed by a thread per core (four at most).

    Layers share the cores, not only the operations on each: torch's own threads wait for each other after every
    operation, and where a browser wants the same cores every wait is a time slice (docs/shrink.md). For the same
    reason even a single item is not computed on the caller's thread. At most two results a thread wait to be taken.

    Raises:
        Cancelled: as soon as `cancelled` says so, which is asked before every item.
    """

    def one(item: _Item) -> _Result:
        check(cancelled)
        return function(item)

    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def before_exit(stop: Callable[[], None]) -> None:
    """Call this when the program ends, while thread pools still take work; plain atexit comes after they are closed."""
    getattr(threading, "_register_atexit", atexit.register)(stop)


def chunks(flat: Tensor) -> list[Tensor]:
    """Return a flat tensor in pieces of `CHUNK`; whole on other devices than the CPU, where a call costs more."""
    size = CHUNK if flat.device.type == "cpu" else max(1, len(flat))
    return [flat[start : start + size] for start in range(0, len(flat), size)]
