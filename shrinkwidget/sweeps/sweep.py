"""What a user calls: `sweep`, many recipes on one model, the same call here, on threads, or on a Dask cluster."""

from __future__ import annotations

import copy
import os
import random
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, cast, overload

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..analysis.estimate_class_and_packed_file_header import safetensors_bytes
from ..analysis.open_model_tensors_and_channel_axes import copied, open_model
from ..analysis.run_items_on_dask_workers import (
    SchedulerLost,
    Shared,
    WorkerDied,
    connected,
    each_on_workers,
    require_dask,
)
from ..analysis.run_model_seeded_macs_and_memory import (
    alone_in_memory,
    device_of,
    fork_rng,
    moved,
    spare_normal_kept,
)
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, check, never, single_threaded, usable_cores
from ..argument_checks import meant, plain, public
from ..compressed_model import CompressedModel
from ..errors import ArgumentError, MethodError, ModelError, TrainingError, a_type, quoted
from ..evaluation.batches_predictions_and_labels import LabelRules, as_pair, first_example, prepared, refuse_no_data
from ..evaluation.data_subset import draw_subset
from ..evaluation.evaluate_and_metrics import MetricLike, Score, model_checksum, resolve
from ..evaluation.recalibrate_batchnorm import unlabelled
from ..evaluation.run_in_background import PATIENCE_SECONDS, GrowingRun
from ..recipe_and_method_registry import Kind, Recipe, recipe_from, register
from ..recovery.recover import checked_methods
from ..training.methods_schedule_options_and_progress import (
    METHODS,
    GradualPruning,
    Method,
    MethodName,
    RecalibrateBatchNorm,
    TrainingOptions,
    named,
    options_from,
)
from .results_file import ResultsFile
from .run_sweep_point import RECOVER, SweepJob, SweepPoint, Task, failed_point, run_point

if TYPE_CHECKING:
    from distributed import Client
    from matplotlib.figure import Figure

# An endless iterable, such as draws from a distribution, is noticed at this many recipes; nobody means more.
_MOST_POINTS: Final = 10_000
# as `tensor_ops_threads_and_cpu_kernel.each` has it: beyond four, threads wait for Python's lock and for memory
_THREADS: Final = 4
_LOOK_SECONDS: Final = 0.1  # how long Stop may go unnoticed
_ROWS: Final = 24
"""Points that a `repr` shows."""


@dataclass(frozen=True, slots=True, repr=False)
class Sweep:
    """What came of all recipes of a sweep; what `sweep` returns.

    Args:
        title: the model's class.
        points: a `SweepPoint` for every recipe and seed, in the order in which they were asked for.
        dense: the score of the model as it is, on the same examples.
        examples: which examples, in words.
        original_nbytes: bytes of the dense model's plain ``.safetensors`` file.
        pending: how many points are still to come: 0 unless it was stopped.

    Example:
        >>> import itertools
        >>> import shrinkwidget as sw
        >>> recipes = [sw.Recipe(s, bits=b) for s, b in itertools.product((0.5, 0.8), (8, 4))]
        >>> found = sw.sweep(sw.demo.model(), recipes, sw.demo.data("valid"))
        >>> [point.nbytes for point in found.points], found.dense.n
        ([117165, 73640, 65790, 48163], 287)
        >>> figure = found.figure(width="nature-single")  # score against size
    """

    title: str
    points: tuple[SweepPoint, ...]
    dense: Score
    examples: str
    original_nbytes: int
    pending: int = 0

    @property
    def failed(self) -> tuple[SweepPoint, ...]:
        """The points that came to nothing; their `error` says why."""
        return tuple(point for point in self.points if point.error)

    def best(self, nbytes: int | None = None) -> SweepPoint:
        """Return the point with the best score, of several the smallest; with `nbytes`, among files as small as that.

        Raises:
            ArgumentError: if no file is, saying the smallest.

        Example:
            >>> import shrinkwidget as sw
            >>> recipes = [sw.Recipe(bits=b) for b in (8, 4, 2)]
            >>> found = sw.sweep(sw.demo.model(), recipes, sw.demo.data("valid"))
            >>> found.best(nbytes=100_000).recipe
            Recipe(bits=4)
        """
        done = [point for point in self.points if not point.error]
        small = [point for point in done if nbytes is None or point.nbytes <= nbytes]
        if not small:
            least = f"; the smallest has {min(point.nbytes for point in done):,}" if done else ""
            raise ArgumentError(f"no point of this sweep has at most {nbytes or 0:,} bytes{least}")
        sign = 1 if self.dense.higher else -1
        return max(small, key=lambda point: (sign * point.value, -point.nbytes))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every point, in order: rows of a table, ``pandas.DataFrame(found.to_rows())``.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sweep(sw.demo.model(), [0.5, 0.9], sw.demo.data("valid"))
            >>> [row["recipe.sparsity"] for row in found.to_rows()]
            [0.5, 0.9]
        """
        return [point.to_dict() for point in self.points]

    def figure(self, kind: str = "tradeoff", **options: Any) -> Figure:
        """Draw its points; see `sw.figures.tradeoff`.

        Raises:
            FigureError: for another kind, or if no point has a score.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sweep(sw.demo.model(), [0.5, 0.7, 0.8], sw.demo.data("valid"))
            >>> figure = found.figure(annotate=True)
        """
        from ..figures.figures_of_explorers_runs_and_sweeps import (
            figure_of_sweep,  # what draws sweeps knows of them, not they of it
        )

        return figure_of_sweep(self, kind, options)

    def __repr__(self) -> str:
        dense, unit = self.dense, " in %" if self.dense.percent else ""
        rows = [("bytes", "ratio", dense.metric + unit, "recipe")]
        for point in self.points[:_ROWS]:
            recipe = repr(point.recipe) if point.seed is None else f"{point.recipe!r}, seed {point.seed}"
            if point.error:
                rows.append(("–", "–", "–", f"{recipe}: {point.error}"))
                continue
            value = f"{100 * point.value:.1f}" if point.percent else f"{point.value:.4g}"
            rows.append((f"{point.nbytes:,}", f"{point.ratio:.1f}×", value, recipe))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = ["  ".join([*(c.rjust(w) for c, w in zip(row, widths, strict=False)), row[3]]) for row in rows]
        if len(self.points) > _ROWS:
            lines.append(f"… {len(self.points) - _ROWS} more points: see .to_rows()")
        left = f", {self.pending} not computed" if self.pending else ""
        told = f"{len(self.points)} point{'s' * (len(self.points) != 1)}{left}"
        dense_told = f"dense {dense.text}, {self.original_nbytes:,} bytes"
        return "\n".join(
            [f"Sweep of {self.title}: {told}, on {self.examples}; {dense_told}", *(f"  {x}" for x in lines)]
        )


class SweepRun(GrowingRun[Sweep]):
    """A sweep that `sweep` starts with ``background=True``; its `progress` is what is known so far.

    Every method may be called from any thread. Looping over it gives the points as they are done. `stop` takes effect
    before the next batch; the result then has the points computed so far.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.sweep(sw.demo.model(), [0.5, 0.9], sw.demo.data("valid"), background=True)
        >>> sorted(point.recipe.sparsity for point in run)  # as they come
        [0.5, 0.9]
        >>> run.wait(), run
        (True, SweepRun(DigitNet, done, 2 of 2 points))
        >>> len(run.result.points)
        2
    """

    _what = "the sweep"
    _from_outside = "its data, model, metric or on_result"

    def __init__(
        self, title: str, of: int, steps: Callable[[Watch], Iterator[tuple[Sweep, SweepPoint | None]]]
    ) -> None:
        super().__init__(title, lambda stopped: self._collected(steps(stopped)))
        self._of = of
        self._came: list[SweepPoint] = []

    def _collected(self, steps: Iterator[tuple[Sweep, SweepPoint | None]]) -> Iterator[Sweep]:
        for known, point in steps:
            if point is not None:
                with self._changed:
                    self._came.append(point)
                    self._changed.notify_all()
            yield known

    def __iter__(self) -> Iterator[SweepPoint]:
        seen = 0

        def more() -> bool:
            return len(self._came) > seen or self.over

        while True:
            with self._changed:
                self._changed.wait_for(more)
                new = self._came[seen:]
            if not new:
                break
            # without the lock: whoever loops may take its time
            yield from new
            seen += len(new)
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        done = 0 if self.progress is None else len(self.progress.points)
        return f"SweepRun({self._title}, {self.state}, {done} of {self._of} points)"


@overload
def sweep(
    model: nn.Module,
    recipes: Iterable[Recipe | float],
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    method: Method | MethodName | Literal["recover"] | None = None,
    train_data: object = None,
    options: TrainingOptions | None = None,
    seeds: int | Iterable[int] | None = None,
    client: Client | Literal["local"] | None = None,
    workers: int | None = None,
    results: str | os.PathLike[str] | None = None,
    on_result: Callable[[SweepPoint], object] | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: Literal[False] = False,
    progress: bool = True,
) -> Sweep: ...
@overload
def sweep(
    model: nn.Module,
    recipes: Iterable[Recipe | float],
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    method: Method | MethodName | Literal["recover"] | None = None,
    train_data: object = None,
    options: TrainingOptions | None = None,
    seeds: int | Iterable[int] | None = None,
    client: Client | Literal["local"] | None = None,
    workers: int | None = None,
    results: str | os.PathLike[str] | None = None,
    on_result: Callable[[SweepPoint], object] | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: Literal[True],
    progress: bool = True,
) -> SweepRun: ...
@public()
def sweep(
    model: nn.Module,
    recipes: Iterable[Recipe | float],
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    method: Method | MethodName | Literal["recover"] | None = None,
    train_data: object = None,
    options: TrainingOptions | None = None,
    seeds: int | Iterable[int] | None = None,
    client: Client | Literal["local"] | None = None,
    workers: int | None = None,
    results: str | os.PathLike[str] | None = None,
    on_result: Callable[[SweepPoint], object] | None = None,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: bool = False,
    progress: bool = True,
) -> Sweep | SweepRun:
    """Try many recipes on one model, and return what each comes to: bytes and a score, not the model.

    Points are computed here, several at a time where that helps, or on the workers of a Dask cluster. Each runs on one
    thread, and comes to the same numbers, bit for bit, wherever it is computed, in whatever order, beside however many
    others.

    >>> import shrinkwidget as sw
    >>> recipes = [sw.Recipe(sparsity, bits=4) for sparsity in (0.5, 0.7, 0.9)]
    >>> sw.sweep(sw.demo.model(), recipes, sw.demo.data("valid"))
    Sweep of DigitNet: 3 points, on all 287 examples; dense 100.0 %, 699,328 bytes
       bytes  ratio  accuracy in %  recipe
      73,640   9.5×          100.0  Recipe(sparsity=0.5, bits=4)
      56,715  12.3×          100.0  Recipe(sparsity=0.7, bits=4)
      39,621  17.7×           58.2  Recipe(sparsity=0.9, bits=4)

    Args:
        model: the dense module; it is never changed.
        recipes: `Recipe` objects, or sparsities; each is tried once. Any finite iterable, such as one made of
            ``itertools.product``, or of draws from a distribution.
        eval_data, metric, batch_size, ignore_index, next_token: see `evaluate`. Up to 1 GiB of data is read once, and
            held, so that every point is scored on the very same examples.
        method: what is done to a compressed model before it is scored: nothing; ``"recover"`` (see `recover`); or a
            method of `retrain`, such as ``"recalibrate_batchnorm"`` or ``sw.methods.FineTune(epochs=5)``. Nothing is
            chosen by the data it is scored on: of a training the last weights count.
        train_data: for that; see `retrain` and `recover`.
        options: of a training, its loss, batch size, augmentation and so on; see `retrain`.
        seeds: of trainings: one, by default that of the options, or several; every recipe then has a point for each.
        client: a ``distributed.Client``, whose cluster may have one worker or hundreds; or ``"local"``, for processes
            on this machine, which end with the call. The model and the data are sent to each worker once.
        workers: processes of ``"local"``, by default one per core; without a client, threads, by default one per core,
            four at most. On a GPU, in a training, and where random numbers are drawn, there is one thread.
        results: a file to which every point is appended as it is done, a line of JSON each. Called again with the same
            file, `sweep` takes from it what is done and goes on; recipes may have been added.
        on_result: called with each `SweepPoint` as it is done, those of the file first:
            ``on_result=explorer.add_to_history``.
        calibration: examples for an importance that needs them, ``"wanda"`` or ``"taylor"``; see `sketch`.
        background: True for a `SweepRun` on a thread of its own, already started, instead of the result. It works on a
            copy of the model as it is now.
        progress: whether to show a bar, in a terminal or a notebook, while it blocks.

    Returns:
        A `Sweep`, whose points are in the order of the recipes. A point that fails, or whose worker died more often
        than the cluster allows, has an `error`, and ends nothing else; with a results file it is tried again next time.

    Raises:
        RecipeError, MethodError: for what is no recipe, does not fit the model, or needs calibration data.
        ModelError, DataError: as `evaluate` does; on a cluster, also for a model, data or metric that cannot be sent to
            another process, naming the attribute.
        TrainingError: for a method or options that do not fit each other.
        MissingPackageError: for a client where Dask is not installed.
        FileError: for a results file of another sweep, saying in what it differs, or one that is damaged.
        ShrinkError: for a cluster that has another version of shrinkwidget, or whose scheduler goes away.
        ArgumentError: for an unknown keyword, or arguments that contradict each other.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        dense = " it was made of" if isinstance(given, CompressedModel) else ""
        raise ModelError(f"cannot sweep {a_type(given)}: give the dense nn.Module{dense}")
    chosen = _checked_recipes(recipes, model)
    by = _checked_method(method, train_data)
    settings = options_from(options, {})
    if settings.checkpoint is not None:
        raise ArgumentError(
            "sweep() trains many models, and a checkpoint is of one: leave checkpoint out of the options"
        )
    for recipe in chosen:
        if recipe.importance.calibrated and calibration is None and by != RECOVER:
            raise MethodError(
                f"importance {recipe.importance.kind!r} needs calibration data: sw.sweep(…, calibration=train_data)"
            )
    trains = isinstance(by, Method) and not isinstance(by, RecalibrateBatchNorm)
    tasks = [Task(recipe.to_json(), seed) for recipe in chosen for seed in _checked_seeds(seeds, trains, settings.seed)]
    _check_workers(workers, client)
    rules = LabelRules(ignore_index, next_token)
    resolve(metric)  # a wrong name is refused here, not on the run's thread
    if background:
        model = copied(model)
    job = SweepJob(
        model=model,
        checksum=model_checksum(model),
        eval_data=eval_data,
        metric=resolve(metric),
        rules=rules,
        batch_size=batch_size,
        method=by,
        train_data=_without_processes(train_data),
        options=replace(settings, metric=metric, ignore_index=ignore_index, next_token=next_token),
        recovery=checked_methods(None, model) if by == RECOVER else (),
        calibration=calibration,
        kinds=_own_kinds(chosen),
    )
    plan = _Plan(job, tasks, client, workers, results, on_result)
    if background:
        return SweepRun(type(model).__name__, len(tasks), lambda stopped: plan.steps(stopped, PATIENCE_SECONDS)).start()
    # a notebook is no terminal, but shows the bar of one
    hidden = not progress or (None if "ipykernel" not in sys.modules else False)
    with (
        closing(plan.steps()) as steps,
        tqdm(total=len(tasks), unit="point", desc="sweep", disable=hidden, leave=False) as bar,
    ):
        for known, _ in steps:
            bar.update(len(known.points) - bar.n)
    return known


def _checked_recipes(recipes: object, model: nn.Module) -> tuple[Recipe, ...]:
    """Return the recipes, each once, in order; all fit the model."""
    if isinstance(recipes, Recipe | Mapping | str | bytes) or not isinstance(recipes, Iterable):
        raise ArgumentError(f"sweep(recipes=…) must be several recipes, not {a_type(recipes)}: give a list of them")
    listed = list(islice(recipes, _MOST_POINTS + 1))
    if len(listed) > _MOST_POINTS:
        raise ArgumentError(
            f"sweep(recipes=…) gives more than {_MOST_POINTS:,} recipes: cut it, with itertools.islice(recipes, n)"
        )
    if not listed:
        raise ArgumentError("sweep(recipes=…) is empty: give at least one recipe")
    found = tuple(dict.fromkeys(recipe_from(one, {}) for one in listed))
    names = [entry.name for entry in open_model(model).layers]
    for recipe in found:
        recipe.resolve(names)
    return found


def _checked_method(method: object, train_data: object) -> Method | str | None:
    """Return what is done to every compressed model."""
    if method is None:
        if train_data is not None:
            raise ArgumentError("sweep(train_data=…) is for a method: give method='recover', or one that trains")
        return None
    by = RECOVER if meant(method, [RECOVER]) else named(cast(Any, method), METHODS, "method", {})
    if isinstance(by, GradualPruning):
        raise TrainingError("GradualPruning prunes as it trains, and a sweep prunes first: take another method")
    if train_data is None:
        raise ArgumentError(f"sweep(method={method!r}) needs data to work on: give train_data=…")
    refuse_no_data([] if isinstance(train_data, torch.Tensor) else train_data, "train")
    return by


def _checked_seeds(seeds: object, trains: bool, usual: int) -> tuple[int | None, ...]:
    if not trains:
        if seeds is not None:
            raise ArgumentError("sweep(seeds=…) is for a method that trains, and nothing is drawn here: leave it out")
        return (None,)
    wanted = [usual] if seeds is None else [seeds] if not isinstance(seeds, Iterable) else [plain(one) for one in seeds]
    if not wanted or any(type(one) is not int for one in wanted):
        raise ArgumentError(f"sweep(seeds={seeds!r}) must be a whole number, or several")
    return tuple(dict.fromkeys(cast("list[int]", wanted)))


def _check_workers(workers: object, client: object) -> None:
    if client is not None:
        require_dask("sweep")
    if workers is None:
        return
    if type(workers) is not int or workers < 1:
        raise ArgumentError(f"sweep(workers={workers!r}) must be a whole number from 1")
    if client not in (None, "local"):
        raise ArgumentError("sweep(workers=…) is for threads and client='local': a cluster has its own, leave it out")


def _own_kinds(recipes: Iterable[Recipe]) -> tuple[type[Kind], ...]:
    """Return the classes of kinds that another process does not know from importing this package."""
    overrides = [own for recipe in recipes for own in recipe.layers.values() if isinstance(own, Mapping)]
    used = [value for own in overrides for value in own.values()]
    used += [kind for recipe in recipes for kind in (recipe.importance, recipe.structure, recipe.quantizer)]
    kinds = dict.fromkeys(type(value) for value in used if isinstance(value, Kind))
    return tuple(kind for kind in kinds if not kind.__module__.startswith(f"{__name__.partition('.')[0]}."))


def _without_processes(data: object) -> object:
    """Return a loader that reads in the process that asks: points are computed side by side already.

    What a data set draws would be other numbers with other workers, and a worker of Dask may have none of its own.
    """
    if not isinstance(data, DataLoader) or not data.num_workers:
        return data
    own = copy.copy(data)
    alone = {"num_workers": 0, "prefetch_factor": None, "persistent_workers": False, "_iterator": None}
    vars(own).update(alone, _DataLoader__multiprocessing_context=None)  # DataLoader refuses to have them set
    return own


@dataclass(frozen=True, eq=False)
class _Plan:
    """A sweep that was asked for: what its points share, what is asked of each, who computes them, where they go."""

    job: SweepJob
    tasks: list[Task]
    client: object
    workers: int | None
    results: str | os.PathLike[str] | None
    on_result: Callable[[SweepPoint], object] | None

    def steps(
        self, stopped: Watch = never, patience: float | None = None
    ) -> Generator[tuple[Sweep, SweepPoint | None], None, None]:
        """Yield what is known after the dense score, and then after every point, with that point.

        Raises:
            Cancelled: when `stopped` says so.
        """
        job, examples, held = self._with_data(stopped, patience)
        with ExitStack() as stack:
            file = None if self.results is None else ResultsFile(self.results, job)
            if file is not None:
                stack.callback(file.close)
            if file is None or file.dense is None:
                dense, draws = _dense_score(job, stopped)
                if file is not None:
                    file.begin(dense, draws)
            else:
                dense, draws = file.dense, file.draws
            job = replace(job, draws=draws)
            known = {task: point for task in self.tasks if file and (point := file.points.get(task))}
            left = [task for task in self.tasks if task not in known]
            nbytes = safetensors_bytes(open_model(job.model).saved)

            def so_far() -> Sweep:
                points = tuple(known[task] for task in self.tasks if task in known)
                title = type(job.model).__name__
                return Sweep(title, points, dense, examples, nbytes, pending=len(self.tasks) - len(points))

            yield so_far(), None
            for point in list(known.values()):
                self._tell(point)
                yield so_far(), point
            computed = stack.enter_context(closing(self._computed(job, left, held, stopped)))
            try:
                for task, point in computed:
                    known[task] = point
                    if file is not None:
                        file.add(point)
                    self._tell(point)
                    yield so_far(), point
            except SchedulerLost as error:
                done = f"{len(known)} of {len(self.tasks)} points are done"
                where = f", and in {quoted(self.results)}" if self.results is not None else ""
                raise SchedulerLost(
                    f"{error}; {done}{where}: call sweep again, with a client that is connected"
                ) from error

    def _tell(self, point: SweepPoint) -> None:
        if self.on_result is not None:
            self.on_result(point)

    def _with_data(self, stopped: Watch, patience: float | None) -> tuple[SweepJob, str, bool]:
        """Return the job with its data read, in words which, and whether all of it is held."""
        job, data = self.job, _without_processes(self.job.eval_data)
        # what a data set draws as it is read (an augmentation) is the same in a sweep that goes on tomorrow
        with spare_normal_kept(), fork_rng(None, 0):
            subset = draw_subset(data, None, batch_size=job.batch_size, cancelled=stopped, patience=patience)
            held = subset.data is not data or as_pair(data) is not None
            first = first_example(prepared(next(unlabelled(subset.data)), job.model, device_of(job.model)))
        return replace(job, eval_data=subset.data, example=first), subset.text, held

    def _computed(
        self, job: SweepJob, tasks: list[Task], held: bool, stopped: Watch
    ) -> Generator[tuple[Task, SweepPoint], None, None]:
        """Yield each task with its point, in the order in which they are done."""
        if not tasks:
            return
        if self.client is not None:
            yield from _on_workers(job, tasks, self.client, self.workers, stopped)
            return
        threads = min(len(tasks), self.workers or min(_THREADS, usable_cores()))
        device = device_of(job.model)
        # What would differ beside others, or gain nothing by it: random numbers come from one state for all threads,
        # trainings draw them, data that is not held can be read by one at a time, and a GPU works off one queue.
        if job.draws or isinstance(job.method, Method) or not held or (device is not None and device.type != "cpu"):
            threads = 1
        if threads > 1:
            yield from _on_threads(job, tasks, threads, stopped)
            return
        for task in tasks:
            check(stopped)
            yield task, _alone(job, task, stopped)


def _dense_score(job: SweepJob, stopped: Watch) -> tuple[Score, bool]:
    """Return the score of the dense model, and whether anything drew random numbers meanwhile."""
    with single_threaded(), spare_normal_kept(), fork_rng(device_of(job.model), 0):
        # one scoring tells: what draws in it would draw in every point
        before = _random_state()
        score = job.score(job.model, stopped)
        return score, _random_state() != before


def _random_state() -> tuple[object, ...]:
    numpy: Any = np.random.get_state()  # noqa: NPY002  # what users' metrics draw from
    return random.getstate(), numpy[1].tobytes(), numpy[2:], torch.default_generator.get_state().tolist()


def _alone(job: SweepJob, task: Task, stopped: Watch) -> SweepPoint:
    with single_threaded():
        return run_point(job, task, stopped)


def _on_threads(
    job: SweepJob, tasks: list[Task], threads: int, stopped: Watch
) -> Generator[tuple[Task, SweepPoint], None, None]:
    closed = threading.Event()

    def stop() -> bool:
        return closed.is_set() or stopped()

    _ = job.known  # by one thread, for all
    with ThreadPoolExecutor(threads, thread_name_prefix="shrinkwidget-sweep") as pool:
        futures = {pool.submit(_alone, job, task, stop): task for task in tasks}
        left = set(futures)
        try:
            while left:
                check(stopped)
                done, left = wait(left, timeout=_LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    # in the order in which they end, so that a results file has them all the earlier
                    yield futures[future], future.result()
        finally:
            # points at work end at their next look at `stop`; nobody waits for that
            closed.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _on_workers(
    job: SweepJob, tasks: list[Task], client: object, workers: int | None, stopped: Watch
) -> Generator[tuple[Task, SweepPoint], None, None]:
    """Yield each task with its point, as the workers of a cluster have done them."""
    parts = {part.name: getattr(job, part.name) for part in fields(job)}
    parts["metric"] = job.options.metric  # as it was given: what cannot be sent is then told by a name the user knows
    # a tensor that is a part of a larger one would be sent with all of it, and a worker may have no GPU for the data
    for part in ("eval_data", "train_data", "calibration", "example"):
        parts[part] = alone_in_memory(moved(parts[part], torch.device("cpu")))
    shared = Shared.of(_job_on_worker, parts)
    with connected(client, "sweep", min(len(tasks), workers or usable_cores())) as connection:
        done = each_on_workers(connection, run_point, shared, tasks, stopped)
        with closing(done):
            for place, found in done:
                task = tasks[place]
                yield task, failed_point(job, task, str(found)) if isinstance(found, WorkerDied) else found


def _job_on_worker(**parts: Any) -> SweepJob:
    """Return the job on a worker, where nobody has registered the kinds that a notebook defines."""
    for kind in parts["kinds"]:
        register(kind)
    return SweepJob(**parts | {"metric": resolve(parts["metric"])})
