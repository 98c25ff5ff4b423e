"""Work on many items on the workers of a Dask cluster, of this machine or of many: a function, what it shares, items.

Dask is imported where it is used: the extra ``[dask]`` brings it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pickle
import pkgutil
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from torch import nn

from ..errors import ArgumentError, MissingPackageError, ModelError, ShrinkError, a_type, quoted, reason
from .tensor_ops_threads_and_cpu_kernel import Watch, check, single_threaded, usable_cores

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

_VERSION: Final = f"{__name__.partition('.')[0]}:__version__"
MEGABYTES: Final = 28
"""What the extra takes, once it is installed."""

_LOOK_SECONDS: Final = 0.1  # how long Stop may go unnoticed
_WORKERS_SECONDS: Final = 60.0  # how long a cluster without workers is waited for
_SCATTERS: Final = 5
"""How often what is shared is sent again, where all workers that held it died."""

# https://github.com/dask/distributed/issues/3898: the nanny has glibc return memory to the system from 64 kB on, which
# also ends its habit of keeping large blocks. Every activation of a network is then mapped anew, page by page: scoring
# a ResNet-20 took 3.5 times the CPU time.
_M_TRIM_THRESHOLD: Final = (-1, 1 << 30)
_M_MMAP_THRESHOLD: Final = (-3, 1 << 25)


class WorkerDied(ShrinkError):
    """A worker that ended while it worked on an item, more often than the cluster allows."""


class SchedulerLost(ShrinkError):
    """A cluster whose scheduler went away."""


def require_dask(what: str) -> None:
    """Raise a `MissingPackageError`, which says what to install, if Dask is not there."""
    if find_spec("distributed") is None:
        raise MissingPackageError(
            f'sw.{what}(client=…) needs Dask: pip install "shrinkwidget[dask]" (about {MEGABYTES} MB)'
        )


@contextmanager
def connected(client: object, what: str, workers: int | None = None) -> Iterator[Client]:
    """Yield the client to work with; ``"local"`` is a cluster of processes on this machine, which ends with the block.

    Args:
        client: a `distributed.Client`, or ``"local"``.
        what: who asks, for messages: ``"sweep"``.
        workers: processes of ``"local"``; by default one per core.

    Raises:
        MissingPackageError: if Dask is not installed.
        ArgumentError: for what is no client.
        ShrinkError: for a cluster without workers, or with workers that have another version of this package.
    """
    require_dask(what)
    import distributed

    if isinstance(client, distributed.Client):
        if client.asynchronous:
            raise ArgumentError(
                f"{what}(client=…) cannot await an asynchronous client: make it with asynchronous=False"
            )
        _check_workers(client, what)
        yield client
        return
    if client != "local":
        found, give = a_type(client), "give a Client"
        if isinstance(client, str):  # a scheduler's address, as `Client` itself takes it
            found, give = quoted(client), f"make a Client of it, Client({quoted(client)})"
        raise ArgumentError(f"{what}(client=…) must be a distributed.Client or 'local', not {found}: {give}")
    with _local_cluster(workers or usable_cores(), what) as cluster, distributed.Client(cluster) as own:
        yield own


def _local_cluster(workers: int, what: str) -> LocalCluster:
    from distributed import LocalCluster

    try:
        # any free port for the dashboard, as the usual one may be taken; no word of workers that are slow to end
        return LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR)
    except RuntimeError as error:
        raise ShrinkError(
            f"the processes of {what}(client='local') could not start ({reason(error)}): they import your script, so "
            f'its call must stand under if __name__ == "__main__":'
        ) from error


def _version() -> str:
    return str(pkgutil.resolve_name(_VERSION))


def _check_workers(client: Client, what: str) -> None:
    """Refuse a cluster without workers, or one whose workers would compute something else."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=_WORKERS_SECONDS)
    # by a function of Python's own: one of ours would fail where the package is missing before it could tell
    found = client.run(pkgutil.resolve_name, _VERSION, on_error="return")
    if not found:
        raise ShrinkError(f"{what}(client=…): the cluster at {client.scheduler.address} has no workers: start some")
    for worker, told in found.items():
        if isinstance(told, BaseException):
            raise ShrinkError(
                f"worker {worker} cannot import shrinkwidget ({reason(told)}): install {_version()} there"
            )
        if told != _version():
            raise ShrinkError(_other_version(worker, told))


def _other_version(worker: str, version: str) -> str:
    return (
        f"worker {worker} has shrinkwidget {version}, and here it is {_version()}: install the same version on every "
        f"worker"
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """What all items of one job have in common, as it is sent to workers, once each: pickled, with a name of its own.

    It is sent as bytes, which a worker unpickles when its first item comes: so what fails then is that item's error.
    """

    name: str
    blob: bytes

    @classmethod
    def of(cls, make: Callable[..., Any], parts: Mapping[str, object]) -> Shared:
        """Pickle what a worker makes ``make(**parts)`` of, with the classes and functions of a notebook in it.

        Raises:
            ModelError: if something cannot be pickled, naming its attribute.
        """
        import cloudpickle

        name = f"shrinkwidget-{os.urandom(8).hex()}"
        try:
            return cls(name, cloudpickle.dumps((make, dict(parts)), protocol=5))
        except Exception as error:  # whatever the user's __reduce__ raises
            where, why = next(_unpicklable(parts), ("", reason(error)))
            raise ModelError(
                f"{where or 'this'} cannot be sent to another process ({why}): leave it out, or make it where it is "
                f"used, as in __setstate__"
            ) from error


def _unpicklable(parts: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield the innermost attribute that cannot be pickled, by its path, and why, of the first part that cannot."""
    import cloudpickle

    met: set[int] = set()

    def why_not(value: object) -> str:
        try:
            cloudpickle.dumps(value, protocol=5)
        except Exception as error:  # noqa: BLE001  # as above
            return reason(error)
        return ""

    def look(path: str, value: object, why: str) -> tuple[str, str]:
        met.add(id(value))
        for name, inner in _inner(path, value):
            if id(inner) not in met and (deeper := why_not(inner)):
                return look(name, inner, deeper)
        return path, why

    for name, value in parts.items():
        if why := why_not(value):
            yield look(name, value, why)


def _inner(path: str, value: Any) -> Iterator[tuple[str, object]]:
    """Yield what a value holds, by its path."""
    if isinstance(value, Mapping):
        yield from ((f"{path}[{key!r}]", inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"{path}[{i}]", inner) for i, inner in enumerate(value))
    elif isinstance(value, partial):
        yield from ((path, inner) for inner in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, FunctionType):
        named = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((f"{name!r}, which {path} uses,", cell.cell_contents) for name, cell in named)
    elif isinstance(value, nn.Module):
        yield from ((f"{path}.{name}", inner) for name, inner in value.named_children())
        torchs = ("_parameters", "_buffers", "_modules")
        yield from ((f"{path}.{name}", inner) for name, inner in vars(value).items() if name not in torchs)
    else:
        slots = (name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()) if type(name) is str)
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)} | getattr(value, "__dict__", {})
        yield from ((f"{path}.{name}", inner) for name, inner in held.items())


def each_on_workers(
    client: Client,
    function: Callable[[Any, Any, Watch], Any],
    shared: Shared,
    items: Sequence[Any],
    cancelled: Watch | None = None,
) -> Generator[tuple[int, Any], None, None]:
    """Yield the place of an item and ``function(shared, item, cancelled)`` for all items, in the order they are done.

    On a worker `shared` is what was made of it there, the same object for all items, and an item is worked on by one
    thread. What is under way is told to stop when this generator is closed, or its program ends.
    An item whose worker dies is done by another; if that happens too often, its result is a `WorkerDied`.

    Raises:
        Cancelled: when `cancelled` says so, which is asked ten times a second.
        SchedulerLost: when the scheduler is gone.
        Exception: what the function raised.
    """
    done: SimpleQueue[Future] = SimpleQueue()
    waiting: dict[str, tuple[int, int]] = {}
    futures: dict[str, Future] = {}
    sent: list[Future] = []
    address = str(client.scheduler.address)

    def send() -> None:
        # broadcast: where only one worker had it, all would be lost with it
        sent.append(client.scatter(shared.blob, broadcast=True, hash=False))

    def submit(place: int) -> None:
        key = f"{shared.name}-{place}-{len(sent)}"
        future = client.submit(
            _on_worker, function, shared.name, sent[-1], items[place], _version(), key=key, pure=False
        )
        waiting[key], futures[key] = (place, len(sent)), future
        future.add_done_callback(done.put)

    try:
        send()
        for place in range(len(items)):
            submit(place)
        while waiting:
            check(cancelled)
            try:
                future = done.get(timeout=_LOOK_SECONDS)
            except Empty:
                _refuse_lost(client, address)
                continue
            place, sending = waiting.pop(str(future.key))
            del futures[str(future.key)]
            if future.status == "finished":
                yield place, future.result()
            elif future.status == "error":
                yield place, _failure(future)
            else:  # cancelled: by nobody here, so its cluster is gone, or all workers that held what is shared
                _refuse_lost(client, address)
                if len(sent) > _SCATTERS:
                    yield place, WorkerDied("all workers of the cluster died, again and again, most often for memory")
                    continue
                if sending == len(sent):
                    send()
                submit(place)
    except (OSError, TimeoutError) as error:
        raise _lost(address) from error
    finally:
        if client.status == "running":
            with suppress(Exception):  # it may be lost in this moment
                client.cancel([*futures.values(), *sent], force=True)


def _refuse_lost(client: Client, address: str) -> None:
    if client.status != "running":
        raise _lost(address)


def _lost(address: str) -> SchedulerLost:
    return SchedulerLost(f"the Dask scheduler at {address} went away")


def _failure(future: Future) -> WorkerDied:
    """Return that a worker died, or raise what the function raised."""
    from distributed.scheduler import KilledWorker

    error = future.exception()
    if isinstance(error, KilledWorker):
        return WorkerDied(
            f"{error.allowed_failures + 1} workers died while they worked on it, the last at "
            f"{error.last_worker.address}, most often for lack of memory"
        )
    assert isinstance(error, BaseException)
    raise error


# ---- on a worker ----

_LOADING: Final = threading.Lock()
_SHARED: Final[dict[str, Any]] = {}
"""What the jobs share that this worker has items of: the last one alone, as it may be large."""


def _on_worker(function: Callable[[Any, Any, Watch], Any], name: str, blob: bytes, item: object, version: str) -> Any:
    from distributed import get_worker

    worker = get_worker()
    if version != _version():  # one that has joined since all were asked
        raise ShrinkError(_other_version(worker.address, _version()))
    _keep_memory()
    with _LOADING:
        if name not in _SHARED:
            _SHARED.clear()
            _SHARED[name] = _loaded(blob, worker.address)
        shared = _SHARED[name]
    key = worker.get_current_task()

    def cancelled() -> bool:
        # Dask cannot end a task that runs, but notes that nobody waits for it: cancelled, or its client is gone
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    with single_threaded():
        return function(shared, item, cancelled)


def _loaded(blob: bytes, address: str) -> Any:
    try:
        make, parts = pickle.loads(blob)  # noqa: S301  # sent by the client, which may run anything here
        return make(**parts)
    except ImportError as error:
        cure = "install it there, or send it with client.upload_file"
        raise ShrinkError(f"worker {address} cannot import what was sent to it ({reason(error)}): {cure}") from error
    except ShrinkError:
        raise
    except Exception as error:  # of the user's own __setstate__, or of a GPU that is not there
        raise ShrinkError(f"worker {address} cannot load what was sent to it: {reason(error)}") from error


@cache
def _keep_memory() -> None:
    """Let glibc keep freed memory, once in a process, whatever Dask's nanny has told it."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
                mallopt(*option)
