"""Measured speed: models raced in a process of their own, with an interval and an A/A control beside each ratio."""

from __future__ import annotations

import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from ..analysis.model_summary import STYLE, fixed, html_rows
from ..analysis.open_model_tensors_and_channel_axes import copied
from ..analysis.run_model_seeded_macs_and_memory import as_inputs, device_of, moved
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import meant, plain, public
from ..errors import ArgumentError, DataError, FileError, ModelError, ShrinkError, a_type, quoted, reason
from ..evaluation.evaluate_and_metrics import CompressedLike, runnable
from ..evaluation.run_in_background import BackgroundRun
from .race_and_memory_worker import LEAST_ROUNDS, RaceJob, Source
from .run_in_worker_process import NotImportable, pickled, run_job
from .runtimes import RUNTIMES, Inputs

ROUNDS: Final = 200
SECONDS: Final = 20.0
_RESAMPLES: Final = 2000
_TOO_WIDE: Final = 0.1
"""A control whose interval is wider than this to either side tells nothing of a ratio."""
_NEAR_ENOUGH: Final = 0.01
"""So far from 1 a control's interval may lie: one in twenty misses 1 by chance, and by less than anybody cares for."""

Contestant: TypeAlias = "nn.Module | CompressedLike | str | os.PathLike[str]"


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times faster than the first contestant: its median over the rounds, and a 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """The same in words: "2.5× (2.4–2.9)"."""
        digits = 2 if max(self.value, self.high) < 2 else 1
        value, low, high = (fixed(x, digits) for x in (self.value, self.low, self.high))
        return f"{value}× ({low}–{high})"


@dataclass(frozen=True, slots=True)
class RaceTime:
    """What one contestant took at one batch size.

    Args:
        name: of the contestant.
        cpu_seconds, wall_seconds: of one run, medians over the rounds; the CPU's are those of all threads together.
        cpu, wall: how many times faster than the first contestant it is, by either clock; None of the first itself.
        difference: the largest difference of its outputs from the first's, relative to the largest of them; None where
            they have another shape.
        joules: of one run, by the whole machine, where a counter of it moves; else None.
    """

    name: str
    cpu_seconds: float
    wall_seconds: float
    cpu: Ratio | None = None
    wall: Ratio | None = None
    difference: float | None = None
    joules: float | None = None


@dataclass(frozen=True, slots=True)
class RaceAtBatch:
    """A race at one batch size.

    Args:
        batch: the batch size; None for inputs as they were given.
        rounds: how often everyone was timed.
        times: of the contestants, in the order they were given.
        control_cpu, control_wall: a copy of the first contestant against the first: 1 but for noise.
        load: the system's load average afterwards, where it tells.
    """

    batch: int | None
    rounds: int
    times: tuple[RaceTime, ...]
    control_cpu: Ratio
    control_wall: Ratio
    load: float | None = None

    @property
    def label(self) -> str:
        """The batch size in words."""
        return "as given" if self.batch is None else f"batch {self.batch}"


@dataclass(frozen=True, slots=True, repr=False)
class Race:
    """How fast models are on this machine; what `race` returns.

    Args:
        runtime, version: what ran them.
        threads: how many threads it had.
        batches: a race at each batch size.
        machine: the processor's name.
        time: when it ended, in local time, ISO 8601.
        exported: whether modules were raced as graphs of ``torch.export``, as their classes cannot be imported.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.results.Race.example()
        >>> found.runtime, found.threads, found.batches[0].rounds
        ('onnxruntime', 1, 200)
        >>> sw.results.Race.from_dict(found.to_dict()) == found
        True
    """

    runtime: str
    version: str
    threads: int
    batches: tuple[RaceAtBatch, ...]
    machine: str
    time: str
    exported: bool = False

    @property
    def clock(self) -> Literal["cpu", "wall"]:
        """What ratios are taken by: CPU time on one thread, which other programs disturb least; else wall time."""
        return "cpu" if self.threads == 1 else "wall"

    def ratio(self, name: str, batch: int | None = None) -> Ratio:
        """Return how many times faster a contestant is than the first, at a batch size, or at the only one.

        Raises:
            KeyError: for an unknown name, the first contestant, or a batch size that was not raced.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.results.Race.example()
            >>> found.ratio("small", 32)
            Ratio(value=3.725, low=3.585, high=3.887)
        """
        for at in self.batches:
            if at.batch == batch or (batch is None and len(self.batches) == 1):
                for entry in at.times:
                    ratio: Ratio | None = getattr(entry, self.clock)
                    if entry.name == name and ratio is not None:
                        return ratio
        raise KeyError(name)

    @classmethod
    def example(cls) -> Race:
        """Return a race that was run once, to try tables and figures on without running one.

        It is the demo network against one of a quarter of its channels, both untrained, in ONNX Runtime.

        Example:
            >>> import shrinkwidget as sw
            >>> print(repr(sw.results.Race.example()).splitlines()[0])
            Speed against dense, by CPU time: onnxruntime 1.32.0, 1 thread, this machine, 07:12
        """
        batches = (
            RaceAtBatch(
                batch=1,
                rounds=200,
                times=(
                    RaceTime("dense", 7.446e-05, 7.669e-05, difference=0.0),
                    RaceTime(
                        "small",
                        3.874e-05,
                        4.003e-05,
                        Ratio(1.92, 1.852, 2.022),
                        Ratio(1.892, 1.766, 2.046),
                        2.205,
                    ),
                ),
                control_cpu=Ratio(0.9916, 0.9267, 1.025),
                control_wall=Ratio(0.9855, 0.8715, 1.074),
                load=13.95,
            ),
            RaceAtBatch(
                batch=32,
                rounds=200,
                times=(
                    RaceTime("dense", 0.001217, 0.001276, difference=0.0),
                    RaceTime(
                        "small",
                        0.0003217,
                        0.0003498,
                        Ratio(3.725, 3.585, 3.887),
                        Ratio(3.845, 3.622, 4.216),
                        2.205,
                    ),
                ),
                control_cpu=Ratio(0.9987, 0.9757, 1.035),
                control_wall=Ratio(1.031, 0.9619, 1.128),
                load=13.71,
            ),
        )
        return cls("onnxruntime", "1.32.0", 1, batches, "AMD EPYC", "2026-11-27T07:12:29+00:00")

    def control(self, at: RaceAtBatch) -> Ratio:
        """Return the control of one batch size by the clock that counts.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.results.Race.example()
            >>> found.control(found.batches[0]) == found.batches[0].control_cpu
            True
        """
        return at.control_cpu if self.clock == "cpu" else at.control_wall

    @property
    def warnings(self) -> tuple[str, ...]:
        """Where this machine was too busy to tell, a sentence each."""
        found = []
        for at in self.batches:
            control = self.control(at)
            # The control compares a model with itself: an interval that does not hold 1, or is wide, is the machine's
            # doing.
            off = max(control.low - 1, 1 - control.high)
            wide = max(control.high - control.value, control.value - control.low)
            if off > _NEAR_ENOUGH or wide > _TOO_WIDE:
                load = "" if at.load is None else f", load {at.load:.1f}"
                found.append(
                    f"this machine is too busy to tell at {at.label}: {at.times[0].name} against a copy of itself "
                    f"came to {control.text}{load}; close other programs, or give more rounds"
                )
        return tuple(found)

    @property
    def conditions(self) -> str:
        """What a ratio must never be told without: "torch 2.13.0, 1 thread, this machine, 16:04"."""
        what = f"{self.runtime} {self.version}{', exported graphs' if self.exported else ''}"
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{what}, {threads}, this machine, {self.time[11:16]}"

    def text(self, name: str, batch: int | None = None) -> str:
        """Return a ratio with all it depends on.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.results.Race.example()
            >>> found.text("small", 32)
            '3.7× (3.6–3.9), onnxruntime 1.32.0, 1 thread, batch 32, this machine, 07:12'
        """
        at = next(at for at in self.batches if at.batch == batch or (batch is None and len(self.batches) == 1))
        # the batch size is told before the machine, with what else it ran under
        before, machine = self.conditions.rsplit(", this machine", 1)
        return f"{self.ratio(name, batch).text}, {before}, {at.label}, this machine{machine}"

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every contestant at every batch size: rows of a table, or of a DataFrame.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.results.Race.example()
            >>> [row["contestant"] for row in found.to_rows()]
            ['dense', 'small', 'dense, a copy', 'dense', 'small', 'dense, a copy']
        """
        rows = []
        for at in self.batches:
            copy = RaceTime(f"{at.times[0].name}, a copy", float("nan"), float("nan"), at.control_cpu, at.control_wall)
            for entry in (*at.times, copy):
                row: dict[str, Any] = {"batch": at.batch, "contestant": entry.name}
                for clock in ("cpu", "wall"):
                    ratio: Ratio | None = getattr(entry, clock)
                    row[f"{clock}_seconds"] = None if entry is copy else getattr(entry, f"{clock}_seconds")
                    row |= {f"{clock}_{end}": ratio and getattr(ratio, end) for end in ("value", "low", "high")}
                rows.append(row | {"difference": entry.difference, "joules": entry.joules, "rounds": at.rounds})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, which `from_dict` reads.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.results.Race.example().to_dict()["threads"]
            1
        """
        # `asdict` leaves tuples of what it has turned to dicts, and JSON has lists
        return asdict(self) | {
            "batches": [asdict(at) | {"times": [asdict(t) for t in at.times]} for at in self.batches]
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Race:
        """Return what `to_dict` told.

        Example:
            >>> import shrinkwidget as sw
            >>> told = sw.results.Race.example().to_dict()
            >>> sw.results.Race.from_dict(told).batches[0].times[1].name
            'small'
        """

        def ratio(told: Mapping[str, float] | None) -> Ratio | None:
            return None if told is None else Ratio(**told)

        batches = tuple(
            RaceAtBatch(
                **{
                    **at,
                    "times": tuple(
                        RaceTime(**{**t, "cpu": ratio(t["cpu"]), "wall": ratio(t["wall"])}) for t in at["times"]
                    ),
                    "control_cpu": Ratio(**at["control_cpu"]),
                    "control_wall": Ratio(**at["control_wall"]),
                }
            )
            for at in found["batches"]
        )
        return cls(**{**found, "batches": batches})

    def __repr__(self) -> str:
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *rows)
        ]
        return "\n".join(
            [self._headline(), *(f"  ! {told}" for told in self.warnings), *(f"  {x}".rstrip() for x in lines)]
        )

    def _repr_html_(self) -> str:
        warned = "".join(f"<p>{escape(told)}</p>" for told in self.warnings)
        return (
            f'<div class="shrinkwidget-size">{STYLE}<strong>{escape(self._headline())}</strong>{warned}'
            f'<div class="layers">{html_rows(*self._table())}</div><p>{escape(self.machine)}</p></div>'
        )

    def _headline(self) -> str:
        return f"Speed against {self.batches[0].times[0].name}, by {_CLOCKS[self.clock]}: {self.conditions}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = [
            "batch",
            "",
            "CPU time",
            "wall time",
            f"faster, by {self.clock.replace('cpu', 'CPU')}",
            "outputs differ by",
        ]
        joules = any(entry.joules is not None for at in self.batches for entry in at.times)
        rows = []
        for at in self.batches:
            for i, entry in enumerate(at.times):
                ratio: Ratio | None = getattr(entry, self.clock)
                differ = "" if i == 0 else "other shapes" if entry.difference is None else _share(entry.difference)
                rows.append(
                    [
                        at.label if i == 0 else "",
                        entry.name,
                        seconds_text(entry.cpu_seconds),
                        seconds_text(entry.wall_seconds),
                        "1" if ratio is None else ratio.text,
                        differ,
                        *([] if not joules else ["" if entry.joules is None else f"{1e3 * entry.joules:.3g} mJ"]),
                    ]
                )
            control = ["", f"{at.times[0].name}, a copy", "", "", self.control(at).text, "", *([""] if joules else [])]
            rows.append(control)
        return [*head, *(["energy of the machine"] if joules else [])], rows


_CLOCKS: Final = {"cpu": "CPU time", "wall": "wall time"}


def seconds_text(seconds: float) -> str:
    """Return a duration to three digits: "1.25 ms"."""
    for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * scale >= 1 or unit == "µs":
            value = seconds * scale
            return f"{fixed(value, 2 if value < 9.995 else 1 if value < 99.95 else 0)} {unit}"
    raise AssertionError


def _share(difference: float) -> str:
    if difference == 0:
        return "nothing"
    if difference < 1e-4:
        return f"{difference:.0e}"
    return f"{100 * difference:.0f} %" if difference >= 0.1 else f"{100 * difference:.2g} %"


@dataclass(frozen=True, slots=True)
class RaceProgress:
    """How far a race is: the share of it that is done, and what it does, in words."""

    done: float
    text: str


class RaceRun(BackgroundRun[Race, RaceProgress]):
    """A race that `race` starts with ``background=True``.

    It runs in a process of its own, which `stop` ends at once, without a result. `pause` only holds what is told.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> model, x = sw.demo.model(), torch.rand(1, 1, 8, 8)
        >>> run = sw.race({"dense": model, "same": model}, x, rounds=8, background=True)
        >>> run.wait(), run.state
        (True, 'done')
        >>> run.result.batches[0].times[1].name
        'same'
    """

    _what = "the race"
    _from_outside = "a contestant"

    def __init__(self, steps: Callable[[Watch], Generator[RaceProgress, None, Race]]) -> None:
        super().__init__()
        self._race = steps

    def _steps(self) -> Generator[RaceProgress, None, Race]:
        return (yield from self._race(self._is_stopping))

    @property
    def result(self) -> Race:
        """What `race` would have returned.

        Raises:
            ShrinkError: while it is not over, if it was stopped, or what it failed with.
        """
        if self._error is not None:
            raise self._error
        if self._result is None:
            how = "was stopped: it has no result" if self.over else f"is {self.state}: .wait() for its result"
            raise ShrinkError(f"this race {how}")
        return self._result

    def __repr__(self) -> str:
        now = self.progress
        return f"RaceRun({self.state}{'' if now is None else f', {100 * now.done:.0f} %'})"


@overload
def race(
    contestants: Mapping[str, Contestant],
    x: object,
    *,
    batch: int | Iterable[int] | None = None,
    runtime: str | None = None,
    threads: int = 1,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    seed: int = 0,
    background: Literal[False] = False,
    progress: bool = True,
) -> Race: ...
@overload
def race(
    contestants: Mapping[str, Contestant],
    x: object,
    *,
    batch: int | Iterable[int] | None = None,
    runtime: str | None = None,
    threads: int = 1,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    seed: int = 0,
    background: Literal[True],
    progress: bool = True,
) -> RaceRun: ...
@public()
def race(
    contestants: Mapping[str, Contestant],
    x: object,
    *,
    batch: int | Iterable[int] | None = None,
    runtime: str | None = None,
    threads: int = 1,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    seed: int = 0,
    background: bool = False,
    progress: bool = True,
) -> Race | RaceRun:
    """Measure how many times faster models are than the first, on this machine, with an interval and a control.

    All run in one fresh process, in rounds: in each, everyone is timed once, in a random order, so that whatever else
    the machine does meets all alike. A ratio is the median of the rounds' ratios, its interval a bootstrap of the
    rounds. A copy of the first contestant runs along: what it comes to against the first, an A/A control, is 1 but for
    noise, and where it is not, the result says that the machine is too busy to tell.

    Fewer multiply-accumulates are not speed: nothing here is computed from them. Ratios of different races, runtimes,
    threads or machines must not be multiplied.

    >>> import torch, shrinkwidget as sw
    >>> model = sw.demo.model()
    >>> small = sw.compress(model, sparsity=0.9, bits=4)
    >>> sw.race({"dense": model, "small": small}, torch.rand(1, 1, 8, 8), batch=(1, 32), rounds=8)
    Speed against dense, by CPU time: torch ..., 1 thread, this machine, ...

    Args:
        contestants: models by name, the first of which is the measure: modules, what `compress` returns, or paths of
            files that were exported for a runtime.
        x: inputs, as `summary` takes them; the first axis of every tensor is the batch.
        batch: batch sizes to race at, for which the examples of `x` are repeated or cut; by default `x` as it is.
        runtime: ``"torch"`` for modules, ``"onnxruntime"`` (.onnx), ``"openvino"`` (.xml) or ``"executorch"`` (.pte);
            by default what the contestants are for.
        threads: how many threads a run has. On one, CPU time decides; on several, wall time.
        rounds, seconds: a race at one batch size ends after so many rounds, or after so many seconds and 8 rounds.
        seed: of the order in each round, and of the bootstrap.
        background: True for a `RaceRun` on a thread of its own, already started, instead of the result.
        progress: whether to show a bar, in a terminal or a notebook, while it blocks.

    A module is sent to the process by its class, which must be importable there. If one is defined in a notebook or a
    script, all are raced as graphs of ``torch.export`` instead, and the result says so.

    Raises:
        ArgumentError: for fewer than two contestants, or for what cannot be raced in one runtime.
        ModelError: for a module on a GPU, or one that can be sent neither way.
        DataError: if a contestant cannot run the inputs.
        FileError: for a path that leads nowhere.
        MissingPackageError: where the runtime is not installed; the message names the extra.
    """
    checked_contestants("race", contestants, 2, threads=threads, rounds=rounds, seed=seed)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ArgumentError(f"race(seconds={quoted(seconds)}) must be a number above 0")
    sent = made_ready("race", contestants, runtime, x, _batch_sizes(batch))
    job = RaceJob(sent.runtime, threads, sent.models, sent.inputs, sent.imports, rounds, float(seconds), seed)

    def steps(cancelled: Watch) -> Generator[RaceProgress, None, Race]:
        return _race_steps(job, sent, cancelled)

    if background:
        return RaceRun(steps).start()
    # a notebook is no terminal, but shows the bar of one
    hidden = not progress or (None if "ipykernel" not in sys.modules else False)
    running = steps(never)
    with tqdm(total=100, unit="%", desc="race", disable=hidden, leave=False) as bar:
        while True:
            try:
                now = next(running)
            except StopIteration as end:
                return cast(Race, end.value)
            bar.update(round(100 * now.done) - bar.n)


def _race_steps(job: RaceJob, sent: Sent, cancelled: Watch) -> Generator[RaceProgress, None, Race]:
    batches: list[RaceAtBatch] = []
    yield RaceProgress(0.0, f"starting {job.runtime}")
    for told in run_job(job, cancelled):
        if told["state"] == "batch":
            batches.append(_race_at(told, list(job.models), job.seed))
        else:
            where = "" if told["batch"] is None else f" at batch {told['batch']}"
            yield RaceProgress(told["done"] / len(job.inputs), f"timing{where}")
    return Race(
        runtime=job.runtime,
        version=sent.version,
        threads=job.threads,
        batches=tuple(batches),
        machine=processor_name(),
        time=datetime.now().astimezone().isoformat(timespec="seconds"),
        exported=sent.exported,
    )


def _race_at(told: Mapping[str, Any], names: list[str], seed: int) -> RaceAtBatch:
    """Return the figures of one batch size, of seconds by load, round and contestant, the last being the control."""
    seconds = {clock: [np.asarray(rounds, dtype=np.float64) for rounds in told[clock]] for clock in ("cpu", "wall")}
    # over the rounds of all loads: one load may have found a good place in memory for one contestant
    medians = {clock: np.median(np.concatenate(taken), axis=0) for clock, taken in seconds.items()}
    ratios = {
        clock: [None, *(faster([t[:, 0] / t[:, k] for t in taken], seed) for k in range(1, len(names) + 1))]
        for clock, taken in seconds.items()
    }
    times = tuple(
        RaceTime(
            name=name,
            cpu_seconds=float(medians["cpu"][k]),
            wall_seconds=float(medians["wall"][k]),
            cpu=ratios["cpu"][k],
            wall=ratios["wall"][k],
            difference=told["differences"][k],
            joules=told["joules"][k],
        )
        for k, name in enumerate(names)
    )
    controls = cast(Ratio, ratios["cpu"][-1]), cast(Ratio, ratios["wall"][-1])
    return RaceAtBatch(told["batch"], sum(map(len, seconds["cpu"])), times, *controls, load=told["load"])


def faster(ratios: Sequence[NDArray[np.float64]], seed: int) -> Ratio:
    """Return how many times faster a contestant is: the median of the rounds' ratios, and a 95 % interval.

    `ratios` are the first's seconds by the other's, round by round, for each time they were loaded. Two timings of one
    round are paired, as they met the same machine. The interval is a percentile bootstrap (Efron 1979) in two stages:
    loads are drawn, and in each of them rounds, as rounds of one load have their places in memory in common.
    """
    # All resamples at once: draw loads with replacement, then in each of them rounds with replacement. Loads have
    # nearly as many rounds each, so drawing the mean number of each stands for the number of each.
    lengths = np.array([len(rounds) for rounds in ratios])
    everyone, starts = np.concatenate(ratios), np.cumsum(lengths) - lengths
    rng = np.random.default_rng(seed)
    loads = rng.integers(0, len(lengths), (_RESAMPLES, len(lengths), 1))
    within = rng.random((_RESAMPLES, len(lengths), math.ceil(lengths.mean()))) * lengths[loads]
    drawn = everyone[starts[loads] + within.astype(np.int64)]
    low, high = np.quantile(np.median(drawn.reshape(_RESAMPLES, -1), axis=1), (0.025, 0.975))
    return Ratio(float(np.median(everyone)), float(low), float(high))


def processor_name() -> str:
    """Return what the processor is called."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# ---- what is asked for, checked, and made ready to be sent ----


def checked_contestants(function: str, contestants: object, least: int, **numbers: object) -> None:
    """Raise an `ArgumentError` for what are not models by name, or for numbers that are none."""
    if not isinstance(contestants, Mapping) or len(contestants) < least:
        many = "two contestants" if least == 2 else "a model"
        raise ArgumentError(
            f'{function}() needs {many} at least, by name: {function}({{"dense": model, "small": small}}, x)'
        )
    if any(not isinstance(name, str) or not name for name in contestants):
        raise ArgumentError(f"{function}() needs a name for every model, a text that is not empty")
    for what, found in numbers.items():
        lowest = {"rounds": LEAST_ROUNDS, "seed": 0}.get(what, 1)
        if isinstance(found, bool) or not isinstance(found, int) or found < lowest:
            raise ArgumentError(f"{function}({what}={quoted(found)}) must be a whole number, {lowest} at least")


@dataclass(frozen=True, slots=True)
class Sent:
    """What travels to another process: models by name, inputs by batch size, and what is known of the runtime."""

    runtime: str
    version: str
    models: dict[str, Source]
    inputs: dict[int | None, Inputs]
    imports: tuple[str, ...]
    exported: bool


def made_ready(
    function: str, contestants: Mapping[str, object], runtime: object, x: object, sizes: Iterable[int | None]
) -> Sent:
    """Return models and inputs as they are sent."""
    chosen, files, modules = _runtime_of(function, contestants, runtime)
    version = RUNTIMES[chosen].version()
    inputs = {size: _batched(function, x, size, for_torch=chosen == "torch") for size in sizes}
    sources: Mapping[str, Source] = files
    imports: tuple[str, ...] = ()
    exported = False
    if modules:
        sources, imports, exported = _sendable(modules, inputs)
    return Sent(chosen, version, {name: sources[name] for name in contestants}, inputs, imports, exported)


def _runtime_of(
    function: str, contestants: Mapping[str, object], asked: object
) -> tuple[str, dict[str, str], dict[str, nn.Module]]:
    """Return the one runtime of all models, the files and the modules among them."""
    files: dict[str, str] = {}
    modules: dict[str, nn.Module] = {}
    runs_in: dict[str, str] = {}
    for name, found in contestants.items():
        if isinstance(found, str | os.PathLike):
            path = Path(found).expanduser()
            ending = path.suffix.lower()
            kind = next((kind for kind in RUNTIMES.values() if kind.ending and kind.ending == ending), None)
            if kind is None:
                endings = ", ".join(kind.ending for kind in RUNTIMES.values() if kind.ending)
                raise ArgumentError(f"{function}(): {quoted(name)} is a file of no runtime: files end in {endings}")
            if not path.is_file():
                raise FileError(f"there is no file {quoted(found)}, which {quoted(name)} stands for")
            files[name], runs_in[name] = str(path.resolve()), kind.name
        else:
            modules[name], _ = runnable(found)
            runs_in[name] = "torch"
            if (device := device_of(modules[name])) is not None and device.type != "cpu":
                raise ModelError(f"{quoted(name)} is on {device}: {function}() runs on the CPU, give it as model.cpu()")
    chosen = next(iter(runs_in.values())) if asked is None else meant(asked, RUNTIMES)
    if chosen is None:
        raise ArgumentError(f"there is no runtime {quoted(asked)}: take one of {', '.join(map(quoted, RUNTIMES))}")
    for name, own in runs_in.items():
        if own != chosen:
            instead = f"the path of a file that ends in {RUNTIMES[chosen].ending}" if chosen != "torch" else "a module"
            raise ArgumentError(
                f"{quoted(name)} runs in {own}, and the others in {chosen}: give {instead}; between two runtimes a "
                f"ratio says nothing of the models"
            )
    return chosen, files, modules


def _batch_sizes(batch: object) -> list[int | None]:
    if batch is None:
        return [None]
    sizes = [plain(size) for size in batch] if isinstance(batch, Iterable) else [plain(batch)]
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ArgumentError(f"race(batch={quoted(batch)}) must be a whole number above 0, or several")
    if not sizes:
        raise ArgumentError("race(batch=…) is empty: give at least one batch size, or leave it out")
    return list(dict.fromkeys(sizes))


def _batched(function: str, x: object, size: int | None, for_torch: bool) -> Inputs:
    """Return inputs on the CPU with so many examples: repeated from the first on, or cut."""
    args, kwargs = moved(as_inputs(x), torch.device("cpu"))
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors:
        raise DataError(
            f"{function}() cannot run models on {a_type(x)}: give a tensor, a tuple of tensors, or a dict of them"
        )
    lengths = {len(value) if value.ndim else None for value in tensors}
    if size is not None and (len(lengths) != 1 or None in lengths or 0 in lengths):
        shapes = ", ".join("×".join(map(str, value.shape)) or "scalar" for value in tensors)
        raise DataError(f"batch={size} needs inputs whose first axis is the batch, and theirs are {shapes}")

    def cut(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach()
        if size is not None:
            # Repeated from the first on: random numbers as inputs may take other paths than examples do (zeros after a
            # ReLU).
            value = value[torch.arange(size) % len(value)]
        value = value.contiguous().clone()  # without the rest of a larger storage, which would travel with it
        return value if for_torch else value.numpy()

    return tuple(map(cut, args)), {name: cut(value) for name, value in kwargs.items()}


def _sendable(
    modules: Mapping[str, nn.Module], inputs: Mapping[int | None, Inputs]
) -> tuple[dict[str, Source], tuple[str, ...], bool]:
    """Return modules as they are sent, what to import for them, and whether as exported graphs.

    All are exported as soon as one has to be.
    """
    try:
        sent: dict[str, Source] = {}
        homes: dict[str, None] = {}
        for name, module in modules.items():
            # a copy: without gradients, and weights that are computed are plain ones
            data, found = pickled(copied(module).eval())
            sent[name] = dict.fromkeys(inputs, ("module", data))
            homes |= dict.fromkeys(found)
        return sent, tuple(homes), False
    except NotImportable as why:
        return {name: _exported(name, module, inputs, why) for name, module in modules.items()}, (), True


def _exported(
    name: str, module: nn.Module, inputs: Mapping[int | None, Inputs], why: NotImportable
) -> dict[int | None, tuple[str, bytes]]:
    programs: dict[int | None, tuple[str, bytes]] = {}
    module = copied(module).eval()
    for size, (args, kwargs) in inputs.items():
        stream = BytesIO()
        try:
            module(*args, **kwargs)
        except Exception as error:
            raise DataError(f"{quoted(name)} cannot be run: {reason(error)}") from error
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.export.save(torch.export.export(module, args, kwargs, strict=False), stream)
        except Exception as error:
            raise ModelError(
                f"{quoted(name)} cannot be sent to a process of its own: {why}, and torch.export cannot trace it "
                f"({reason(error)}); put its class into a module that can be imported"
            ) from error
        programs[size] = ("exported", stream.getvalue())
    return programs
