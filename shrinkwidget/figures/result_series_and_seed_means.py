"""Results as they come (a history, a run, models with their scores, several seeds), read as series of points."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..compressed_model import CompressedModel
from ..errors import FigureError, a_type, quoted
from ..evaluation.evaluate_and_metrics import Score
from ..recipe_and_method_registry import Recipe
from ..sweeps.sweep import Sweep
from ..training.retrain_and_training_run import TrainingRun
from .snapshot_size_score_history import PLAIN, Metric


@dataclass(frozen=True)
class Point:
    """One model: how large it is and what it scores; of several seeds the means, and `spread`, their deviation.

    `value` with its 95 % interval `low` to `high`, NaN where there is none. `nbytes` and `ratio` (dense bytes / bytes):
    one of them may be unknown, None. `macs`: multiply-accumulates of one forward pass, pruned weights left out.
    `recalibrated`: whether batch norm was, and nothing trained. `recovered`: whether it is a result of "Recover".
    `checksum`: of the model, "" where it is not known.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    nbytes: float | None = None
    ratio: float | None = None
    n: int | None = None
    recipe: Recipe | None = None
    provenance: str = PLAIN
    sparsity: float | None = None
    macs: float | None = None
    sqnr: float | None = None
    seeds: tuple[int, ...] = ()
    runs: int = 1
    spread: float = math.nan
    recalibrated: bool = False
    recovered: bool = False
    checksum: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one name. A run's are `connected`: one after the other; those of a history are a cloud with a front."""

    name: str
    points: tuple[Point, ...]
    connected: bool


@dataclass(frozen=True)
class Results:
    """Series, the metric of their scores, and that of the dense model, where it is known."""

    series: tuple[Series, ...]
    metric: Metric
    baseline: Point | None = None
    dense_nbytes: float | None = None
    model: str = ""

    @property
    def points(self) -> list[Point]:
        """The points of all series."""
        return [point for one in self.series for point in one.points]


def read_results(found: object, baseline: object = None, what: str = "tradeoff") -> Results:
    """Return results as series.

    `found` may be an explorer or its history, a `TrainingRun`, a `Sweep`, a list of ``(model, score)``, where a model
    is a `CompressedModel`, an `Estimate` or a number of bytes, a list of several of these, one for each seed, or a dict
    of all these by name.

    Raises:
        FigureError: for what is none of these, or holds no point with a finite value.
    """
    reader = _Reader(what)
    series = reader.named(found)
    known = reader.point(baseline) if baseline is not None else reader.baseline
    kept = [replace(one, points=tuple(p for p in one.points if math.isfinite(p.value))) for one in series]
    kept = [one for one in kept if one.points]
    if not kept:
        raise FigureError(
            f"there is nothing to draw in {what!r}: {reader.empty or 'no point has a score that is a number'}"
        )
    metric = reader.metric or Metric("score", False, True)
    return Results(tuple(kept), metric, known, reader.dense_nbytes, reader.model)


class _Reader:
    """Reads results of any form, and notes on the way what all of them share: the metric, the dense model."""

    def __init__(self, what: str) -> None:
        self.what, self.empty = what, ""
        self.metric: Metric | None = None
        self.baseline: Point | None = None
        self.dense_nbytes: float | None = None
        self.model = ""

    def named(self, found: object) -> list[Series]:
        if isinstance(found, Mapping) and not _is_point(found):
            return [
                replace(one, name=f"{name}, {one.name}" if one.name else str(name))
                for name, own in found.items()
                for one in self.series(own)
            ]
        return self.series(found)

    def series(self, found: object) -> list[Series]:
        if isinstance(found, TrainingRun):
            return [Series("", tuple(self._of_run(found)), True)]
        if isinstance(found, Sweep):
            return self._of_sweep(found)
        if hasattr(found, "history") and hasattr(found, "sketch"):  # an explorer: widgets are a layer above
            return self._of_explorer(found)
        if _is_point(found) or _is_pair(found):
            return [Series("", (self.point(found),), False)]
        if not isinstance(found, Sequence) or isinstance(found, str | bytes):
            raise FigureError(
                f"{self.what!r} cannot read {a_type(found)}: give an explorer, its .history, a TrainingRun, a Sweep, a "
                f"list of (model, score), or a dict of these by name"
            )
        if not found:
            self.empty = "the list is empty; sw.frontier(…) has points where it is given eval_data=…"
            return []
        # A list of lists, or of runs: one for each seed. A tuple of (model, score) is a point, and no list.
        if all(isinstance(own, TrainingRun) or (isinstance(own, list | tuple) and not _is_pair(own)) for own in found):
            return self._of_seeds([self.series(own) for own in found])
        points = [self.point(own) for own in found]
        if not any(isinstance(own, Mapping) and "provenance" in own for own in found):
            return [Series("", tuple(_merged(points)), True)]
        groups: dict[str, list[Point]] = {}
        for point in points:
            groups.setdefault(_treatment(point), []).append(point)
        single = len(groups) == 1
        return [Series("" if single else name, tuple(_merged(own)), False) for name, own in groups.items()]

    def _of_run(self, run: TrainingRun[Any]) -> list[Point]:
        if run.baseline is not None:
            self._metric_of(run.baseline.to_dict())
            self.baseline = self.baseline or self.point(run.baseline)
        self.model = self.model or type(run.spec.model).__name__
        rounds = [row for row in run.points if row.get("test") is not None]
        if not rounds:
            why = "no round is complete yet" if not run.over else "it has no evaluation data"
            self.empty = f"the run has no points, {why}: give it eval_data=…, and wait() for a round"
        return [replace(self.point(row), provenance=run.spec.words) for row in rounds]

    def _of_explorer(self, explorer: Any) -> list[Series]:
        self.model = self.model or str(explorer.sketch.title)
        self.dense_nbytes = float(explorer.sketch.original_nbytes)
        dense = explorer.baseline
        if dense is not None:
            self.baseline = self.baseline or self.point(dense)
        history = explorer.history
        if not history:
            self.empty = "the explorer has evaluated no recipe yet: give it eval_data, drag, and wait()"
            return []
        return self.series(history)

    def _of_sweep(self, sweep: Sweep) -> list[Series]:
        self.model = self.model or sweep.title
        self.dense_nbytes = float(sweep.original_nbytes)
        self.baseline = self.baseline or self.point(sweep.dense)
        done = [
            point.to_dict()
            | {
                "recovered": point.provenance.startswith("recovered"),
                "recalibrated": point.provenance.startswith("batch norm"),
            }
            for point in sweep.points
            if not point.error
        ]
        if not done:
            self.empty = "no point of the sweep is done"
            return []
        return self.series(done)

    def _of_seeds(self, seeds: list[list[Series]]) -> list[Series]:
        """Return series whose points are those of all seeds at the same place."""
        lines = [one for own in seeds for one in own if one.points]
        if not lines:
            return []
        # a seed that was stopped early ends the mean of all
        short = min(len(one.points) for one in lines)
        at = [_mean([one.points[i] for one in lines]) for i in range(short)]
        return [Series("", tuple(at), any(one.connected for one in lines))]

    def point(self, found: object) -> Point:
        """Return one point: of a row of a history, of (model, score), of a score, or of a number."""
        if isinstance(found, Score):
            return self._scored({}, found.to_dict())
        if isinstance(found, int | float) and not isinstance(found, bool):
            return Point(float(found))
        if isinstance(found, list | tuple) and len(found) == 2:
            return self._pair(*found)
        if not isinstance(found, Mapping):
            raise FigureError(
                f"{self.what!r} cannot read {quoted(found)} as a point: give a dict of nbytes and value, or "
                f"(model, score)"
            )
        score = next((found[name] for name in ("test", "score") if found.get(name) is not None), None)
        told = score.to_dict() if isinstance(score, Score) else score if isinstance(score, Mapping) else found
        return self._scored(found, told)

    def _pair(self, model: object, score: object) -> Point:
        about: dict[str, Any] = {}
        if isinstance(model, CompressedModel):
            about = {
                "nbytes": model.nbytes,
                "ratio": model.original_nbytes / model.nbytes,
                "recipe": model.recipe,
                "provenance": model.provenance,
            }
            about |= (
                {} if model.estimate is None else {"sqnr": model.estimate.sqnr, "sparsity": model.estimate.sparsity}
            )
        elif isinstance(model, Estimate):
            about = {name: getattr(model, name) for name in ("nbytes", "ratio", "recipe", "sqnr", "sparsity")}
        elif isinstance(model, int | float) and not isinstance(model, bool) and model > 0:
            about = {"nbytes": float(model)}
        else:
            raise FigureError(
                f"{self.what!r} cannot read the size of {a_type(model)}: give a CompressedModel, an Estimate, or bytes"
            )
        if isinstance(score, Score):
            return self._scored(about, score.to_dict())
        return self._scored(about, {"value": score})

    def _scored(self, about: Mapping[str, Any], score: Mapping[str, Any]) -> Point:
        value = _number(score.get("value"))
        if value is None:
            value = math.nan
        self._metric_of(score)
        self._metric_of(about)
        recipe = about.get("recipe")
        recipe = Recipe.from_json(recipe) if isinstance(recipe, str) else recipe
        nbytes, ratio = _number(about.get("nbytes")), _number(about.get("ratio"))
        # The first that tells both says how large the dense file is, so that others can be placed by either.
        if nbytes and ratio and self.dense_nbytes is None:
            self.dense_nbytes = nbytes * ratio
        seed = about.get("seed")
        low, high = _number(score.get("low")), _number(score.get("high"))
        n = score.get("n")
        return Point(
            value,
            math.nan if low is None else low,
            math.nan if high is None else high,
            nbytes,
            ratio,
            n=int(n) if n else None,
            recipe=recipe if isinstance(recipe, Recipe) else None,
            provenance=str(about.get("provenance") or score.get("provenance") or PLAIN),
            sparsity=_number(about.get("sparsity")),
            macs=_number(about.get("macs")),
            sqnr=_number(about.get("sqnr")),
            seeds=() if seed is None else (int(seed),),
            recalibrated=bool(about.get("recalibrated")),
            recovered=bool(about.get("recovered")),
            checksum=str(score.get("checksum") or ""),
        )

    def _metric_of(self, told: Mapping[str, Any]) -> None:
        if isinstance(told.get("metric"), str):
            found = Metric(str(told["metric"]), bool(told.get("percent", False)), told.get("higher", True))
            if self.metric is not None and self.metric.name != found.name:
                raise FigureError(
                    f"{self.what!r} cannot show {self.metric.name} and {found.name} on one axis: draw a figure for each"
                )
            self.metric = found


def _is_point(found: object) -> bool:
    return (
        isinstance(found, Mapping)
        and ("nbytes" in found or "ratio" in found)
        and not isinstance(found.get("nbytes"), Mapping)
    )


def _is_pair(found: object) -> bool:
    if not isinstance(found, tuple) or len(found) != 2:
        return False
    return isinstance(found[0], CompressedModel | Estimate) or (
        isinstance(found[0], int | float) and isinstance(found[1], Score | int | float)
    )


def _number(found: Any) -> float | None:
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return float(found)


def _treatment(point: Point) -> str:
    """Return in which line of a history a point belongs, by what was done to its weights."""
    if point.recovered:
        return "recovered"
    if point.recalibrated:
        return "batch norm recalibrated"
    # of a module, or of a file's, nobody knows whether it was retrained
    return point.provenance if point.provenance in (PLAIN, "as given", "as loaded") else "retrained"


def _merged(points: Sequence[Point]) -> list[Point]:
    """Return points with those of one recipe that have seeds taken together."""
    if not any(point.seeds for point in points):
        return list(points)
    groups: dict[object, list[Point]] = {}
    for i, point in enumerate(points):
        # Seeds of one recipe belong together. Where no recipe is told, as in the rounds of a run, it is the sparsity
        # that says which: bytes differ a little from seed to seed. Without seeds bytes tell points apart as well.
        key = (
            point.recipe.to_json()
            if point.recipe is not None
            else (point.nbytes, point.sparsity)
            if not point.seeds
            else point.sparsity
        )
        groups.setdefault(i if key is None else key, []).append(point)
    return [_mean(own) for own in groups.values()]


def _mean(points: Sequence[Point]) -> Point:
    """Return the means over seeds, of sizes the geometric ones, as they are read on a logarithmic axis."""
    if len(points) == 1:
        return points[0]
    values = [point.value for point in points]
    return replace(
        points[0],
        value=fmean(values),
        # an interval over examples says nothing of how much seeds differ, which is what `spread` says
        low=math.nan,
        high=math.nan,
        nbytes=_geometric([p.nbytes for p in points]),
        ratio=_geometric([p.ratio for p in points]),
        macs=_over(fmean, [p.macs for p in points]),
        sqnr=_over(fmean, [p.sqnr for p in points]),
        checksum="",
        seeds=tuple(seed for point in points for seed in point.seeds),
        runs=len(points),
        spread=stdev(values),
    )


def _geometric(values: Sequence[float | None]) -> float | None:
    mean = _over(fmean, [None if value is None or value <= 0 else math.log(value) for value in values])
    return None if mean is None else math.exp(mean)


def _over(how: Callable[[Sequence[float]], float], values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return how(known) if len(known) == len(values) else None


@dataclass(frozen=True)
class Basis:
    """On what scores rest, for captions and files."""

    metric: Metric
    n: tuple[int, ...] = ()
    seeds: tuple[int, ...] = ()
    runs: int = 1
    provenance: tuple[str, ...] = ()
    checksums: tuple[str | None, ...] = ()
    """Of every point's model, None where it is not known, and of a mean over seeds."""

    @classmethod
    def of(cls, results: Results) -> Basis:
        """Take it from results."""
        points = results.points
        return cls(
            results.metric,
            tuple(sorted({p.n for p in points if p.n})),
            tuple(sorted({seed for p in points for seed in p.seeds})),
            max(p.runs for p in points),
            tuple(dict.fromkeys(p.provenance for p in points)),
            tuple(p.checksum or None for p in points),
        )

    def facts(self) -> dict[str, Any]:
        """Return them as JSON-able values."""
        return {
            "metric": self.metric.name,
            "n": list(self.n),
            "seeds": list(self.seeds),
            "runs": self.runs,
            "provenance": list(self.provenance),
            "checksums": list(self.checksums),
        }
