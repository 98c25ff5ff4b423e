"""The process that a race, or a measurement of memory, runs in: it reads one job, and tells line by line what it finds.

`run_in_worker_process.run_job` starts it, and nobody else: the job comes on standard input from the very process that
started this one, so nothing from anywhere else is ever unpickled.
"""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from .rapl_energy_counter import EnergyCounter
from .runtimes import RUNTIMES, Array, Forward, Inputs

_TIMING_SECONDS: Final = 0.001
"""So long is one timing at least, for which a fast model is run several times. Many short timings have a steadier
median than few long ones: another program's time slice falls on fewer of them."""
LOADS: Final = 8
"""So often everyone is loaded anew."""
_WARM_SECONDS: Final = 0.15
_WARM_RUNS: Final = 3
_MOST_REPEATS: Final = 1000
LEAST_ROUNDS: Final = 8
"""So many rounds a race has, however slow the models are."""

Tell: TypeAlias = Callable[..., None]
Source: TypeAlias = str | dict[int | None, tuple[str, bytes]]
"""The path of a file, or by batch size what `TorchRuntime` loads."""


@dataclass(frozen=True, slots=True)
class RaceJob:
    """What to race: models by name, the first of which is the measure; inputs by batch size."""

    runtime: str
    threads: int
    models: dict[str, Source]
    inputs: dict[int | None, Inputs]
    imports: tuple[str, ...]
    rounds: int
    seconds: float
    seed: int

    def run(self, before: int | None, tell: Tell) -> None:  # noqa: ARG002
        """Time the models and a copy of the first, round by round, each round in another order."""
        rng = random.Random(self.seed)
        for done, (batch, inputs) in enumerate(self.inputs.items()):
            cpu: list[list[list[float]]] = []
            wall: list[list[list[float]]] = []
            repeats: list[int] = []
            started = time.perf_counter()
            spent, rounds = 0.0, 0
            # Where a model lies in memory is worth a few per cent, for better or worse, for as long as it is loaded
            # (Mytkowicz et al. 2009, "Producing wrong data without doing anything obviously wrong"): so all are loaded
            # again and again, and that luck is part of the interval.
            # At least LEAST_ROUNDS, or the interval would be of too few; then until the rounds or the seconds run out.
            while rounds < self.rounds and (spent < 1 or rounds < LEAST_ROUNDS):
                runs, outputs = self._load(batch, inputs)
                if not repeats:
                    repeats = [_warm_up(run) for run in runs]
                    started = time.perf_counter()
                cpu.append([])
                wall.append([])
                for _ in range(min(math.ceil(self.rounds / LOADS), self.rounds - rounds)):
                    seconds = _timed(runs, repeats, rng)
                    cpu[-1].append(seconds[0])
                    wall[-1].append(seconds[1])
                    rounds += 1
                    spent = (time.perf_counter() - started) / self.seconds
                    tell(state="timed", batch=batch, done=done + min(1.0, max(rounds / self.rounds, spent)))
                    if spent >= 1 and rounds >= LEAST_ROUNDS:
                        break
            counter = EnergyCounter()
            tell(
                state="batch",
                batch=batch,
                cpu=cpu,
                wall=wall,
                load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                differences=[largest_difference(outputs[0], found) for found in outputs[:-1]],
                joules=[counter.per_run(run) for run in runs[:-1]],
            )

    def _load(self, batch: int | None, inputs: Inputs) -> tuple[list[Forward], list[list[Array]]]:
        """Load everyone, and the first once more as the control; return what runs them, and their outputs."""
        runs, outputs = [], []
        # The control is loaded last and anew: an A/A ratio must have all that differs between two contestants but the
        # model.
        for name in [*self.models, next(iter(self.models))]:
            with _named(name):
                runtime, forward = _loaded(self, self.models[name], batch, inputs)
                for _ in range(_WARM_RUNS):
                    given = forward()
                outputs.append(runtime.arrays(given))
            runs.append(forward)
        return runs, outputs


@dataclass(frozen=True, slots=True)
class MemoryJob:
    """One model, whose memory is looked at before it is loaded, after it, and after some runs."""

    runtime: str
    threads: int
    models: dict[str, Source]
    inputs: dict[int | None, Inputs]
    imports: tuple[str, ...]
    runs: int

    def run(self, before: int | None, tell: Tell) -> None:
        """Tell the resident bytes after each step, and the most there were while the model ran."""
        (name, source), (batch, inputs) = next(iter(self.models.items())), next(iter(self.inputs.items()))
        with _named(name):
            _, forward = _loaded(self, source, batch, inputs)
            self.models.clear()  # what the model came in
            del source
            gc.collect()
            loaded = resident("VmRSS")
            # Linux counts the most there is from now on; where it cannot, the peak is that of the whole process
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
            for _ in range(self.runs):
                forward()
        tell(state="memory", imported=before, loaded=loaded, ran=resident("VmRSS"), peak=resident("VmHWM"))


def main() -> None:
    """Import a runtime, which is the only argument, and do the job on standard input."""
    # a model that prints must not be taken for the worker: what it prints goes where errors go
    # From here on file descriptor 1 is stderr, for C++ code that prints, too; the real stdout is kept apart.
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**facts: Any) -> None:
        stream.write(json.dumps(facts) + "\n")
        stream.flush()

    try:
        import_module(RUNTIMES[sys.argv[1]].package)
        # what comes is from the process that started this one; the modules of the models' classes are no part of a
        # model's memory, so they come first
        for module in pickle.load(sys.stdin.buffer):  # noqa: S301
            import_module(module)
        before = resident("VmRSS")
        job = pickle.load(sys.stdin.buffer)  # noqa: S301
        with _without_gradients(job.runtime):
            job.run(before, tell)
        tell(state="done")
    except Exception as error:  # noqa: BLE001  # whatever a model raises is told there
        lines = str(error).strip().splitlines()
        tell(state="failed", error=type(error).__name__, message=lines[0] if lines else "no message")


def _without_gradients(runtime: str) -> AbstractContextManager[object]:
    if runtime != "torch":
        return nullcontext()
    import torch

    torch.set_num_interop_threads(1)
    return torch.inference_mode()


def _loaded(job: RaceJob | MemoryJob, source: Source, batch: int | None, inputs: Inputs) -> tuple[Any, Forward]:
    """Return a runtime, and one more copy of a model, bound to a copy of the inputs."""
    runtime = RUNTIMES[job.runtime]()
    bind = runtime.load(source if isinstance(source, str) else source[batch], job.threads)
    return runtime, bind(pickle.loads(pickle.dumps(inputs)))  # noqa: S301  # a copy


def _timed(runs: Sequence[Forward], repeats: Sequence[int], rng: random.Random) -> tuple[list[float], list[float]]:
    """Return the CPU and the wall seconds of one run of everyone, who are timed in a random order."""
    order = rng.sample(range(len(runs)), len(runs))
    cpu, wall = [0.0] * len(runs), [0.0] * len(runs)
    gc.collect(0)
    gc.disable()  # a collection would fall on whoever is timed just then
    try:
        for k in order:
            run, times = runs[k], range(repeats[k])
            run()  # what is in the caches now is its own
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            for _ in times:
                run()
            cpu_end, wall_end = time.process_time(), time.perf_counter()
            cpu[k], wall[k] = (cpu_end - cpu_start) / repeats[k], (wall_end - wall_start) / repeats[k]
    finally:
        gc.enable()
    return cpu, wall


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Name the model in whatever it raises."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines()
        told = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise RuntimeError(f"{model!r} cannot be run: {told}") from error


def _warm_up(run: Forward) -> int:
    """Run until caches and memory pools are as they stay, and return how many runs make one timing."""
    start = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < _WARM_RUNS or (time.perf_counter() - start < _WARM_SECONDS and len(seconds) < _MOST_REPEATS):
        before = time.process_time()
        run()
        seconds.append(time.process_time() - before)
    # CPU time, as another program's slices would lengthen wall time; its clock may stand still for a fast model.
    typical = max(sorted(seconds)[len(seconds) // 2], 1e-6)
    return min(_MOST_REPEATS, math.ceil(_TIMING_SECONDS / typical))


def largest_difference(first: Sequence[Array], other: Sequence[Array]) -> float | None:
    """Return the largest difference of two models' outputs, relative to the largest value; None of other shapes."""
    if not first or [a.shape for a in first] != [b.shape for b in other]:
        return None
    largest = max(float(np.abs(a).max(initial=0)) for a in first)
    gaps = [
        np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0) for a, b in zip(first, other, strict=True)
    ]
    return float(max(gaps)) / largest if largest else float(max(gaps))


def resident(field: str) -> int | None:
    """Return the bytes in RAM now (``VmRSS``), or the most there were (``VmHWM``); None where Linux does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return 1024 * int(line.split()[1])
    return None


if __name__ == "__main__":
    main()
