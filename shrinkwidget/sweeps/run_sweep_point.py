"""One point of a sweep: compress by a recipe, recover or retrain if that is asked for, score, and keep the numbers."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

from torch import nn

from ..analysis.channel_families_and_counts import Channels
from ..analysis.open_model_tensors_and_channel_axes import open_model
from ..analysis.run_model_seeded_macs_and_memory import device_of, fork_rng, spare_normal_kept
from ..analysis.sketch import Sketch, counted
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, check
from ..compressed_model import CompressedModel, compress
from ..compression.find_and_prune_channels import channels
from ..errors import Cancelled, ShrinkError, sentence
from ..evaluation.batches_predictions_and_labels import LabelRules
from ..evaluation.evaluate_and_metrics import Metric, Score, scores
from ..evaluation.sketch_and_calibration_data import calibrated
from ..recipe_and_method_registry import Recipe
from ..recovery.recover import RecoverySpec
from ..training.methods_schedule_options_and_progress import Method, TrainingOptions, TrainingSpec
from ..training.retrain_and_training_run import make_trainer

RECOVER = "recover"


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked of one point: its recipe, as text, since a worker has to know a recipe's kinds before it reads it.

    `seed` is that of the training, None where nothing is trained.
    """

    recipe: str
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """What came of one recipe: numbers, not a model.

    Args:
        recipe: what the model was compressed by.
        seed: of the training, None where nothing was trained.
        nbytes: bytes of the packed file; `ratio` is that of the dense file's to it.
        sparsity: the share of the compressible weights that is pruned.
        sqnr: in dB, of the weights before and after; infinite where nothing is lost.
        metric, percent, higher: of the score, as a `Score` has them.
        value, low, high, n: the score, the ends of its 95 % interval, and the examples scored.
        provenance: how the weights were obtained.
        checksum: of the weights and buffers scored; `model_checksum` is that of the dense model.
        seconds: how long it took, on one thread of the machine that did it.
        error: why there is no result, "" if there is one; its numbers are then NaN or 0.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.sweep(sw.demo.model(), [sw.Recipe(bits=4)], sw.demo.data("valid"))
        >>> point = found.points[0]
        >>> point.recipe, point.nbytes, point.n, point.error
        (Recipe(bits=4), 95268, 287, '')
        >>> point.value == sw.evaluate(sw.compress(sw.demo.model(), bits=4), sw.demo.data("valid")).value
        True
    """

    recipe: Recipe
    seed: int | None
    nbytes: int
    ratio: float
    sparsity: float
    sqnr: float
    metric: str
    percent: bool
    higher: bool
    value: float
    low: float
    high: float
    n: int
    provenance: str
    checksum: str
    model_checksum: str
    seconds: float
    error: str = ""

    @property
    def task(self) -> Task:
        """What was asked."""
        return Task(self.recipe.to_json(), self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return a row of plain JSON-able values; what is not finite is None.

        The recipe is its JSON text, beside its sparsity and bits as columns of their own.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sweep(sw.demo.model(), [sw.Recipe(0.9, bits=4)], sw.demo.data("valid"))
            >>> row = found.points[0].to_dict()
            >>> row["recipe.sparsity"], row["recipe.bits"], row["nbytes"], row["metric"]
            (0.9, 4, 39621, 'accuracy')
        """
        recipe = self.recipe
        own = {"recipe": recipe.to_json(), "recipe.sparsity": recipe.sparsity, "recipe.bits": recipe.bits}
        row = own | {f.name: getattr(self, f.name) for f in fields(self) if f.name != "recipe"}
        return {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in row.items()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> SweepPoint:
        """Return the point of a row that `to_dict` made; more keys are left out.

        Example:
            >>> import shrinkwidget as sw
            >>> point = sw.sweep(sw.demo.model(), [sw.Recipe(bits=4)], sw.demo.data("valid")).points[0]
            >>> sw.results.SweepPoint.from_dict(point.to_dict()) == point
            True
        """
        found = {f.name: row[f.name] for f in fields(cls)}
        unknown = {"value": math.nan, "low": math.nan, "high": math.nan, "ratio": math.nan, "sparsity": math.nan}
        unknown["sqnr"] = math.inf if row["nbytes"] else math.nan  # without a loss
        found |= {name: value for name, value in unknown.items() if found[name] is None}
        return cls(**found | {"recipe": Recipe.from_json(row["recipe"])})


@dataclass(frozen=True, eq=False)
class SweepJob:
    """What all points of a sweep have in common.

    Args:
        model: the dense module; `checksum` is its own.
        eval_data: as `evaluate` takes it, and can read as often as it is asked for.
        method: what is done to a compressed model before it is scored: nothing (None), ``"recover"``, or a method of
            `retrain`, with `options`.
        train_data: for that.
        calibration: for importances that need it; `example` for recipes that remove channels.
        draws: whether something in it draws random numbers, so that points cannot be computed side by side.
    """

    model: nn.Module
    checksum: str
    eval_data: object
    metric: Metric
    rules: LabelRules
    batch_size: int | None
    method: Method | str | None
    train_data: object
    options: TrainingOptions
    recovery: tuple[str, ...]
    calibration: object
    example: object = None
    draws: bool = False
    kinds: tuple[type, ...] = field(default=())

    @cached_property
    def known(self) -> Sketch:
        """What exact masks need to know of the dense weights, which every point asks for."""
        known = counted(open_model(self.model))
        return (
            known if self.calibration is None else replace(known, calibration=calibrated(self.model, self.calibration))
        )

    @cached_property
    def channels(self) -> Channels:
        """The model's channels, looked for once."""
        return channels(self.model, self.example)

    def score(self, model: nn.Module, stopped: Watch) -> Score:
        """Return a model's score; raises as `scores` does."""
        *_, last = scores(model, self.eval_data, self.metric, self.rules, stopped, batch_size=self.batch_size)
        return last

    def compressed(self, recipe: Recipe, seed: int | None, stopped: Watch) -> CompressedModel:
        """Return the model under a recipe, recovered or retrained where that is asked for."""
        if self.method == RECOVER:
            return _finished(RecoverySpec(self.model, self.train_data, recipe, self.recovery), stopped)
        if recipe.removes_channels:
            small = compress(self.model, recipe, calibration=self.calibration, example=self.channels)
        else:
            small = compress(self.model, recipe, sketch=self.known)
        if isinstance(self.method, Method):
            options = self.options if seed is None else replace(self.options, seed=seed)
            # nothing is chosen by the data it is scored on: no evaluation data, so the last weights count
            return _finished(TrainingSpec(small, self.train_data, None, self.method, options), stopped)
        return small


def _finished(spec: RecoverySpec | TrainingSpec, stopped: Watch) -> CompressedModel:
    """Return what a training or a recovery comes to; one that is stopped raises `Cancelled`.

    Without the lock that `retrain` has on the user's model: here all that is trained is a copy.
    """
    steps = make_trainer(spec, stopped).steps()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            check(stopped)
            small: CompressedModel = end.value
            return small


def run_point(job: SweepJob, task: Task, stopped: Watch) -> SweepPoint:
    """Return what comes of one recipe; what is wrong with it is told in the point, and ends nothing else.

    Raises:
        Cancelled: when `stopped` says so.
    """
    start = time.perf_counter()
    recipe = Recipe.from_json(task.recipe)
    # by what is asked, not by when: the order of points, and who computes them, is chance
    place = (task.seed or 0, zlib.crc32(task.recipe.encode()))
    try:
        with ExitStack() as stack:
            if job.draws:
                stack.enter_context(spare_normal_kept())
                stack.enter_context(fork_rng(device_of(job.model), *place))
            small = job.compressed(recipe, task.seed, stopped)
            assert small.model is not None  # of a module, compress makes a module
            score = job.score(small.model, stopped)
    except Cancelled:
        raise
    # what a user's recipe or data can be blamed for; a bug of ours ends the sweep, and is seen
    except ShrinkError as error:
        return failed_point(job, task, sentence(error), time.perf_counter() - start)
    figures = small.estimate
    return SweepPoint(
        recipe=recipe,
        seed=task.seed,
        nbytes=small.nbytes,
        ratio=small.original_nbytes / small.nbytes,
        sparsity=math.nan if figures is None else figures.sparsity,
        sqnr=math.nan if figures is None else figures.sqnr,
        **_of_metric(job.metric),
        value=score.value,
        low=score.low,
        high=score.high,
        n=score.n,
        provenance=small.provenance,
        checksum=score.checksum,
        model_checksum=job.checksum,
        seconds=round(time.perf_counter() - start, 3),
    )


def failed_point(job: SweepJob, task: Task, why: str, seconds: float = math.nan) -> SweepPoint:
    """Return the point of a recipe that came to nothing."""
    nan = math.nan
    return SweepPoint(
        recipe=Recipe.from_json(task.recipe),
        seed=task.seed,
        nbytes=0,
        ratio=nan,
        sparsity=nan,
        sqnr=nan,
        **_of_metric(job.metric),
        value=nan,
        low=nan,
        high=nan,
        n=0,
        provenance="",
        checksum="",
        model_checksum=job.checksum,
        seconds=round(seconds, 3),
        error=why,
    )


def _of_metric(metric: Metric) -> dict[str, Any]:
    return {"metric": metric.name, "percent": metric.percent, "higher": metric.higher}
