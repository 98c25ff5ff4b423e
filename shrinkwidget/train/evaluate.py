"""Anytime evaluation: a score with its sample count and interval, from the first batch to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from ..errors import Cancelled, DataError, ModelError
from ..measure.call import device_of, run
from .batches import Batch, count, prepared, raw_batches
from .metrics import Metric, Sums, Tally, resolve
from .reader import unblocked

MetricLike: TypeAlias = str | Callable[[Any, Tensor], object]


@runtime_checkable
class Shrunk(Protocol):
    """What carries a model and says how it was obtained, as a `Compressed` does."""

    @property
    def model(self) -> nn.Module | None:
        """The module to run, None where there are only weights."""

    @property
    def regime(self) -> str:
        """How its weights were obtained."""


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """How well a model does, and how sure that is.

    `low` and `high` are the ends of a 95 % interval, NaN where too few examples can tell; `n` is the number of
    examples scored so far, out of `total` (None if the data does not say); `done` is False while more is to come.
    `regime` says how the model was obtained. Accuracies are fractions, 0…1.
    """

    value: float
    low: float
    high: float
    n: int
    total: int | None
    metric: str
    regime: str = "no retraining"
    done: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values; what is not finite is None."""
        plain = asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}

    def __repr__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self._number(self.low)}, {self._number(self.high)}]"
        unit = " %" if self.metric == "accuracy" else ""
        so_far = "" if self.done else " so far" if self.total is None else f" of {self.total:,} so far"
        return f"{self.metric} {self._number(self.value)}{unit}{interval} n={self.n:,}{so_far}, {self.regime}"

    def _number(self, x: float) -> str:
        return f"{100 * x:.1f}" if self.metric == "accuracy" else f"{x:.4g}"


def evaluate(model: nn.Module | Shrunk, data: object, metric: MetricLike = "accuracy") -> Score:
    """Return the score of a model on data; the model's weights, buffers and training mode stay as they are.

    See `running` for the scores on the way.

    Args:
        model: any module, or a `Compressed`, whose regime the score then carries; batches are moved to its device.
        data: a DataLoader, an iterable of ``(inputs, targets)`` or dict batches, a map-style dataset, or a pair of
            tensors ``(inputs, targets)``.
        metric: ``"accuracy"`` (top-1, Wilson interval), ``"mse"``, ``"perplexity"`` (exp of the mean cross entropy
            per token), or a function of (outputs, targets) that gives one number per example, or one per batch. The
            explorer takes higher for better unless it is called a loss, an error or an entropy; its attribute
            ``higher_is_better`` decides where there is one.

    Raises:
        DataError: for data, targets or a metric that do not fit the model, naming the batch; for empty data.
        ModelError: for what is no module, or has no values (the meta device).
    """
    if isinstance(model, nn.Module) or not isinstance(model, Shrunk):
        *_, score = running(model, data, metric)
        return score
    if model.model is None:
        raise ModelError("there is no model to run, only weights: load the file with load(path, into=model)")
    return replace(evaluate(model.model, data, metric), regime=model.regime)


def running(
    model: nn.Module,
    data: object,
    metric: MetricLike = "accuracy",
    cancelled: Callable[[], bool] | None = None,
    patience: float | None = None,
) -> Iterator[Score]:
    """Yield the score after every batch, and at last the same with ``done=True``; see `evaluate`.

        for score in sw.running(model, data):
            if score.high < 0.9:
                break  # sure enough: the model is as it was, and no more batches are run

    `cancelled` is asked before every batch is run; between two scores the model is as the caller left it. With
    `patience`, data is read on another thread, so that `cancelled` is obeyed while a batch is waited for, and data that
    gives none for so many seconds is given up.

    Raises:
        Cancelled: when `cancelled` says so.
        DataError, ModelError: as `evaluate`; for the metric's name and the model at once, for the rest on the way.
    """
    device = _runnable(model)
    return _running(model, device, data, resolve(metric), cancelled or (lambda: False), patience)


def _runnable(model: object) -> torch.device | None:
    """Return the device of what is a module with values, and refuse all else."""
    if not isinstance(model, nn.Module):
        inside = "its .model" if isinstance(getattr(model, "model", None), nn.Module) else "an nn.Module"
        raise ModelError(f"cannot run a {type(model).__name__}: give {inside}")
    if (device := device_of(model)) is not None and device.type == "meta":
        raise ModelError("the model is on the meta device and has no values: load its weights first")
    return device


def _running(
    model: nn.Module,
    device: torch.device | None,
    data: object,
    metric: Metric,
    cancelled: Callable[[], bool],
    patience: float | None,
) -> Iterator[Score]:
    tally, total, number = Tally(), count(data), 0
    for number, raw in enumerate(unblocked(raw_batches(data), data, cancelled, patience), start=1):
        if cancelled():
            raise Cancelled(f"the evaluation was cancelled before batch {number}")
        try:
            tally.add(_scored(model, prepared(raw, model, device), metric))
        except DataError as error:
            raise DataError(f"batch {number}: {error}") from error.__cause__
        if tally.clusters:
            yield _score(tally, metric, total, done=False)
    if not tally.clusters:
        raise DataError(_empty(data) if number == 0 else f"none of the {number} batches has a label to score")
    yield _score(tally, metric, total, done=True)


def _scored(model: nn.Module, batch: Batch, metric: Metric) -> Sums:
    """Run one batch and score it. Inference mode is entered here: it is thread-local and must not outlive a yield."""
    with torch.inference_mode():
        return metric.sums(run(model, batch.args, batch.kwargs), batch.targets)


def _score(tally: Tally, metric: Metric, total: int | None, done: bool) -> Score:
    return Score(*metric.conclude(tally), n=tally.examples, total=total, metric=metric.name, done=done)


def _empty(data: object) -> str:
    if isinstance(data, Iterator):
        return "the data gave no batch: an iterator can be read only once; pass a list of batches or a DataLoader"
    return "the data is empty: there is no batch to evaluate on"
