"""Runs a job in a fresh Python process: what it tells comes line by line, and it ends when it is no longer wanted."""

from __future__ import annotations

import io
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from torch import nn

from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, check
from ..errors import DataError, ModelError, ShrinkError, reason
from .race_and_memory_worker import MemoryJob, RaceJob

_POLL_SECONDS: Final = 0.1
_TOLD: Final = 400
"""So many letters of what a process said before it died are repeated."""


def run_job(job: RaceJob | MemoryJob, cancelled: Watch) -> Iterator[dict[str, Any]]:
    """Yield what the process tells until it is done; it is killed when this generator is closed.

    It imports what this process could, as its ``sys.path`` is the same, and has the threads that the job says.

    Raises:
        Cancelled: when `cancelled` says so, which is asked ten times a second.
        DataError: if a model cannot run the inputs.
        ShrinkError: if the process dies.
    """
    # set before any library is imported, as OpenMP and MKL read it then
    threads = {name: str(job.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    # "" in sys.path is the current folder, which -P (no unsafe path) leaves out in the child.
    path = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    environment = os.environ | threads | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-P", "-m", "shrinkwidget.performance.race_and_memory_worker", job.runtime]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said)
        lines: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=_talk, args=(process, job, lines), name="shrinkwidget-worker", daemon=True).start()
        try:
            while True:
                check(cancelled)
                try:
                    # A queue and a thread, since a read from a pipe cannot be given up when `cancelled` says so.
                    line = lines.get(timeout=_POLL_SECONDS)
                except queue.Empty:
                    continue
                if line is None:
                    raise ShrinkError(_why_it_died(process, said))
                told = json.loads(line)
                if told["state"] == "done":
                    return
                if told["state"] == "failed":
                    raise (DataError if told["error"] == "RuntimeError" else ShrinkError)(told["message"])
                yield told
        finally:
            process.kill()
            process.wait()


def _talk(process: subprocess.Popen[bytes], job: RaceJob | MemoryJob, lines: queue.Queue[bytes | None]) -> None:
    """Hand the job over, and pass on what the process says; None is its end."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin:
            pickle.dump(job.imports, process.stdin, protocol=5)
            pickle.dump(job, process.stdin, protocol=5)
    except OSError:  # it died before it had read all of it
        pass
    for line in process.stdout:
        lines.put(line)
    process.stdout.close()
    lines.put(None)


def _why_it_died(process: subprocess.Popen[bytes], said: Any) -> str:
    process.wait()
    code = process.returncode
    how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    how += ", most often for lack of memory" if code == -signal.SIGKILL else ""
    said.seek(0)
    last = said.read().decode(errors="replace").strip().splitlines()[-1:]
    return f"the process that ran the models ended early ({how}){': ' + last[0][-_TOLD:] if last else ''}"


class NotImportable(ModelError):
    """A model whose class another process cannot import."""


class _Pickler(pickle.Pickler):
    """Refuses what another process could not import: classes and functions of a notebook or a script.

    `homes` are the modules it has met.
    """

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=5)
        self.homes: dict[str, None] = {}

    def reducer_override(self, thing: Any) -> Any:
        """Look at classes and functions, and leave everything to pickle."""
        # Refused here, with the name of the class: in the other process all that could be said is that pickle failed.
        home = getattr(thing, "__module__", None)
        if isinstance(home, str) and (isinstance(thing, type) or callable(thing)) and hasattr(thing, "__qualname__"):
            found = None if home == "__main__" else _importable(home)
            if found is None:
                raise NotImportable(f"{thing.__qualname__} is defined in {home}, which another process cannot import")
            self.homes.setdefault(found)
        return NotImplemented


def _importable(module: str) -> str | None:
    """Return what another process imports to have a module; None where it cannot."""
    if _found(module):
        return module
    # a part of a compiled module, as torch._C._nn is, which has torch's gelu: it comes with its package
    package = module.partition(".")[0]
    compiled = module in sys.modules and getattr(sys.modules[module], "__file__", None) is None
    return package if compiled and package != module and _found(package) else None


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # a module that was made by hand has no spec
        return False


def pickled(module: nn.Module) -> tuple[bytes, tuple[str, ...]]:
    """Return a module's pickle, and the modules that its classes are imported from.

    Raises:
        NotImportable: if its class, or anything in it, is defined where another process cannot import it, or cannot be
            pickled at all.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(module)
    except NotImportable:
        raise
    except Exception as error:
        raise NotImportable(f"it cannot be pickled ({reason(error)})") from error
    return stream.getvalue(), tuple(pickler.homes)
