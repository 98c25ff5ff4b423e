"""Work on all layers at once in pieces that fit a CPU's cache, and stop when told to."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from typing import Final, TypeAlias, TypeVar

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from ..errors import Cancelled

CHUNK: Final = 1 << 18
"""Weights looked at together: few enough for a CPU's cache, enough that Python's part of the work does not count."""
_CHUNK_ON_GPU: Final = 1 << 24
"""A GPU has no such cache, and every call costs the same: few calls, whose temporaries are 128 MB at most."""

_THREADS: Final = 4

Watch: TypeAlias = Callable[[], bool]
"""Polled between layers; true means stop."""


def never() -> bool:
    """Watch for nothing."""
    return False


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check(cancelled: Watch | None) -> None:
    """Raise `Cancelled` if there is something newer to do."""
    if cancelled is not None and cancelled():
        raise Cancelled("cancelled: something newer was asked for")


def each(
    function: Callable[[_Item], _Result], items: Sequence[_Item], cancelled: Watch | None = None, on_gpu: bool = False
) -> Iterator[_Result]:
    """Yield what a function makes of each item, in order, computed by a thread per core (four at most).

    Layers share the cores, not only the operations on each: torch's own threads wait for each other after every
    operation, and where a browser wants the same cores every wait is a time slice (docs/compression.md). For the same
    reason even a single item is not computed on the caller's thread. At most two results a thread wait to be taken.

    Work on a GPU is queued by the caller alone: several threads that queue small operations wait for each other, and
    took 1.7 times as long as one (`python -m benchmarks.gpu engine`, ResNet-50's shapes), with the temporaries of each.
    Nor are there threads under `single_threaded`.

    Raises:
        Cancelled: as soon as `cancelled` says so, which is asked before every item.
    """

    def one(item: _Item) -> _Result:
        check(cancelled)
        return function(item)

    if on_gpu or getattr(_HERE, "single", False):
        yield from map(one, items)
        return
    threads = min(_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads, initializer=_work_alone) as pool:
        # results are whole layers: as many more as may wait to be taken are held in memory
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _work_alone() -> None:
    """Let torch use no threads beside this one, without a word to any other thread.

    `torch.set_num_threads` would do it for threads of the user's, too, that start in the meantime. OpenMP has a count
    for each thread, but torch sets that of a new thread when it first asks for it: so it is asked before.
    """
    torch.get_num_threads()
    _thread_pools().limit(limits=1, user_api="openmp")


_HERE: Final = threading.local()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Work on this thread alone: neither torch nor `each` uses others beside it.

    For one of many pieces of work that run side by side, such as the points of a sweep: those are the parallelism, and
    a piece is computed in the same way however many run at a time. Other threads are not affected.
    """
    torch.get_num_threads()  # see `_work_alone`
    before, _HERE.single = getattr(_HERE, "single", False), True
    try:
        with _thread_pools().limit(limits=1, user_api="openmp"):
            yield
    finally:
        _HERE.single = before


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the libraries that are loaded, which takes a few ms


def before_exit(stop: Callable[[], None]) -> None:
    """Call this when the program ends, while thread pools still take work; plain atexit comes after they are closed.

    Only in this process: a forked child, such as a DataLoader's worker, inherits the hooks, but not the threads that
    they stop. Where such a thread forked it, the child even takes itself for that thread, and cannot join itself.

    Ctrl-C does not cut `stop` short. Python ends the threads that are left as soon as they ask for its lock again, and
    one that is inside torch then takes the process down with SIGABRT.
    """
    process = os.getpid()

    def stop_here() -> None:
        while os.getpid() == process:
            with suppress(KeyboardInterrupt), _interrupts_ignored():
                stop()
                return

    # private, but what concurrent.futures itself uses; without it plain atexit, after the pools are closed
    getattr(threading, "_register_atexit", atexit.register)(stop_here)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C; to catch it would not do: a `Thread.join` that it ends takes the thread for ended, too."""
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def in_forked_children(forget: Callable[[], None]) -> None:
    """Call this in every process that is forked from this one: locks that other threads held would stay locked."""
    if hasattr(os, "register_at_fork"):  # Windows never forks
        os.register_at_fork(after_in_child=forget)


def uninterrupted(put_back: Callable[[], None]) -> None:
    """Do what has to be done whole, again if Ctrl-C falls into it, and only then let the interrupt through."""
    interrupt = None
    while True:
        try:
            put_back()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def chunk_size(device: torch.device, on_cpu: int = CHUNK) -> int:
    """Return how many weights are looked at together on a device."""
    return on_cpu if device.type == "cpu" else _CHUNK_ON_GPU


def chunks(flat: Tensor) -> list[Tensor]:
    """Return a flat tensor in pieces of `chunk_size`."""
    size = chunk_size(flat.device)
    return [flat[start : start + size] for start in range(0, len(flat), size)]
