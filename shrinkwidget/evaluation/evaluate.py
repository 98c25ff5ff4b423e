"""Anytime evaluation: a score with its sample count and interval, from the first batch to the last."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, TypeAlias, overload, runtime_checkable

import torch
from torch import Tensor, nn

from ..analysis.model_checksum import model_checksum
from ..analysis.parallel_tensor_ops import never
from ..analysis.run_model_and_count_macs import RandomState, device_of, preserve_rng_state, run
from ..argument_checks import public
from ..errors import ArgumentError, Cancelled, DataError, ModelError, a_type
from .batches import Batch, as_pair, batch_named, count, no_batch, prepared, raw_batches, read_in_thread
from .batchnorm_statistics import recalibrated_copy
from .metrics import (
    ClassCounts,
    ClassPredictions,
    Metric,
    PerClassCounter,
    RunningMean,
    collapse_warning,
    resolve,
)
from .predictions_and_labels import LabelRules, OutputReader

MetricLike: TypeAlias = str | Metric | Callable[[Any, Tensor], object]


@runtime_checkable
class CompressedLike(Protocol):
    """What carries a model and says how it was obtained, as a `CompressedModel` does."""

    @property
    def model(self) -> nn.Module | None:
        """The module to run, None where there are only weights."""

    @property
    def provenance(self) -> str:
        """How its weights were obtained."""


@dataclass(frozen=True, slots=True, repr=False)
class Score:
    """How well a model does, and how sure that is.

    `low` and `high` are the ends of a 95 % interval, NaN where too few examples can tell; `n` is the number of
    examples scored so far, out of `total` (None if the data does not say); `done` is False while more is to come.
    `provenance` says how the model was obtained, as far as that is known: "as given" of a module, which does not tell
    whether it was retrained.

    `percent` and `higher` are the metric's: whether values are shares, 0…1, shown in per cent, and whether more is
    better. An accuracy also counts its classes, once it is done: ``by_class[3].predicted`` says how often class 3 was
    predicted, beside `labels` and `correct`; it is empty beyond 1,000 classes, and for other metrics. `warnings` are
    sentences about what the mean hides: a class that is never predicted, an interval that covers chance. `checksum`
    tells which weights and buffers were scored, once it is done: 16 hexadecimal digits, "" where nobody can tell.

    A score is a number where one is needed; scores of one metric compare by value.

    >>> score = Score(0.975, 0.95, 0.99, n=200, total=200, metric="accuracy", percent=True)
    >>> float(score), score > 0.9, f"{score:.1%}"
    (0.975, True, '97.5%')
    """

    value: float
    low: float
    high: float
    n: int
    total: int | None
    metric: str
    provenance: str = "as given"
    done: bool = True
    percent: bool = False
    higher: bool = True
    warnings: tuple[str, ...] = ()
    by_class: tuple[ClassCounts, ...] = ()
    checksum: str = ""

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __lt__(self, other: Score | float) -> bool:
        return self.value < self._comparable(other)

    def __le__(self, other: Score | float) -> bool:
        return self.value <= self._comparable(other)

    def __gt__(self, other: Score | float) -> bool:
        return self.value > self._comparable(other)

    def __ge__(self, other: Score | float) -> bool:
        return self.value >= self._comparable(other)

    def _comparable(self, other: Score | float) -> float:
        # By name, since that is all a score keeps of its metric: 0.9 of an accuracy and of a loss are no match.
        if isinstance(other, Score) and other.metric != self.metric:
            raise ArgumentError(f"{self.metric} and {other.metric} cannot be compared: they are scores of two metrics")
        return float(other)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Score:
        """Return what `to_dict` told, without the counts of classes; more keys are left out.

        Example:
            >>> import shrinkwidget as sw
            >>> score = sw.evaluate(sw.demo.model(), sw.demo.data("valid"))
            >>> sw.Score.from_dict(score.to_dict()).text == score.text
            True
        """
        known = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        # JSON has no NaN: `to_dict` told None.
        unknown = {name: math.nan for name in ("value", "low", "high") if known[name] is None}
        return cls(**{**known, **unknown, "warnings": tuple(known["warnings"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values except for the counts of classes; what is not finite is None.

        Example:
            >>> import shrinkwidget as sw
            >>> score = sw.evaluate(sw.demo.model(), sw.demo.data("valid"))
            >>> score.to_dict()["metric"], score.to_dict()["n"]
            ('accuracy', 287)
        """
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "by_class"}
        plain["warnings"] = list(self.warnings)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in plain.items()}

    def __repr__(self) -> str:
        interval = "" if math.isnan(self.low) else f" [{self._number(self.low)}, {self._number(self.high)}]"
        so_far = "" if self.done else " so far" if self.total is None else f" of {self.total:,} so far"
        about = f"{self.metric} {self.text}{interval} n={self.n:,}{so_far}, {self.provenance}"
        return "; ".join([about, *self.warnings])

    @property
    def text(self) -> str:
        """The value in the metric's own unit: "98.3 %"."""
        return self._number(self.value) + (" %" if self.percent else "")

    def _number(self, x: float) -> str:
        return f"{100 * x:.1f}" if self.percent else f"{x:.4g}"


@overload
def evaluate(
    model: nn.Module | CompressedLike,
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    recalibrate_batchnorm: object = None,
    stream: Literal[False] = False,
) -> Score: ...
@overload
def evaluate(
    model: nn.Module | CompressedLike,
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    recalibrate_batchnorm: object = None,
    stream: Literal[True],
) -> Iterator[Score]: ...
@public()
def evaluate(
    model: nn.Module | CompressedLike,
    eval_data: object,
    metric: MetricLike = "accuracy",
    *,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    recalibrate_batchnorm: object = None,
    stream: bool = False,
) -> Score | Iterator[Score]:
    """Return the score of a model on data.

    The model's weights, buffers and training modes stay as they are, and so do the generators of random numbers; of a
    DataLoader a copy is read, never the loader itself.

    >>> import shrinkwidget as sw
    >>> score = sw.evaluate(sw.demo.model(), sw.demo.data("test"))
    >>> score.n, score > 0.9
    (360, True)

    >>> small, train_data = sw.compress(sw.demo.model(), sparsity=0.9, bits=4), sw.demo.data("train")
    >>> sw.evaluate(small, sw.demo.data("test")) < 0.6
    True
    >>> recalibrated = sw.evaluate(small, sw.demo.data("test"), recalibrate_batchnorm=train_data)
    >>> recalibrated > 0.98, recalibrated.provenance
    (True, 'batch norm recalibrated on 512 training examples')

    Args:
        model: any module, scored "as given", or a `CompressedModel`, whose provenance the score then carries; batches
            are moved to its device.
        eval_data: a DataLoader, an iterable of ``(inputs, targets)`` or dict batches, a map-style dataset, or a pair of
            tensors ``(inputs, targets)``. Several inputs go as ``((a, b), targets)``. Of a dict, the targets are under
            "labels", "label", "targets", "target" or "y".
        metric: ``"accuracy"`` (top-1, Wilson interval), ``"mse"``, ``"perplexity"`` (exp of the mean cross entropy
            per label), a function of (outputs, targets) that gives one number per example, or one per batch, or a
            `Metric`. Of a function more is taken to be better, and its values are shown as they are, unless its
            attributes ``higher_is_better`` and ``percent`` (or `Metric.of`) say otherwise; torch's losses are known.
        batch_size: examples per batch, where the data is a pair of tensors or a dataset; loaders bring their own.
        ignore_index: a label that is not scored, such as 255 in segmentation; -100 never is.
        next_token: for sequences, whether the output at position i predicts label i + 1 (a causal language model whose
            labels are its inputs) or label i. By default the model's own loss tells; without one, you are asked.
        recalibrate_batchnorm: training data, of which no label is looked at: on 512 examples of it the statistics of
            every batch norm are re-estimated first, in a copy of the model. That tells what compression has broken from
            what it has only shifted, and the score's provenance says so. `methods.RecalibrateBatchNorm` keeps them.
        stream: True for an iterator of scores instead, one after every batch, and at last the same with ``done=True``.
            Leave the loop when you are sure enough: the model is as it was, and no more batches are run.

    Labels may be class numbers (N×…, or N×1), one-hot, or shares of the classes that sum to 1, as torch's cross entropy
    takes them. Outputs may be a tensor N×C×…, one logit (or the probability a sigmoid gives) per label, a tuple, a
    dict, or an object with ``logits``.

    Raises:
        DataError: for data, targets or a metric that do not fit the model, naming the batch; for empty data. With
            `stream`, for the metric's name and the model at once, for the rest on the way.
        ModelError: for what is no module, has no values (the meta device), or no batch norm to recalibrate.
        ArgumentError: for an unknown keyword.
    """
    module, provenance = runnable(model)
    if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
        raise DataError(f"batch_size={batch_size!r} must be a whole number from 1, or None")
    if recalibrate_batchnorm is not None:
        module, provenance = recalibrated_copy(module, recalibrate_batchnorm, provenance)
    found = scores(module, eval_data, metric, LabelRules(ignore_index, next_token), batch_size=batch_size)
    if provenance is not None:
        found = (replace(score, provenance=provenance) for score in found)
    # A dataset may draw random numbers (augmentation): the caller's must go on as if nothing had. Tensors draw none
    # from Python's and numpy's generators, whose states are slow to copy.
    if stream:
        return _aside(found, RandomState(torch_only=as_pair(eval_data) is not None))
    with preserve_rng_state():
        # The scores so far are thrown away as they come; the last is that of all the data.
        *_, last = found
    return last


def runnable(model: object) -> tuple[nn.Module, str | None]:
    """Return the module to run, and what a compressed model says of how its weights were obtained, else None.

    Raises:
        ModelError: for what is no module, or has no values.
    """
    provenance: str | None = None
    if not isinstance(model, nn.Module) and isinstance(model, CompressedLike):
        provenance, model = model.provenance, model.model
        if model is None:
            raise ModelError("there is no model to run, only weights: load the file with load(path, into=model)")
    if not isinstance(model, nn.Module):
        inside = "its .model" if isinstance(getattr(model, "model", None), nn.Module) else "an nn.Module"
        raise ModelError(f"cannot run {a_type(model)}: give {inside}")
    if (device := device_of(model)) is not None and device.type == "meta":
        raise ModelError("the model is on the meta device and has no values: load its weights first")
    return model, provenance


def _aside(found: Iterator[Score], state: RandomState) -> Iterator[Score]:
    """Let an evaluation draw random numbers from a stream of its own, as the caller's goes on between two scores."""
    while True:
        with state.entered():
            score = next(found, None)
        if score is None:
            return
        yield score


def scores(
    model: object,
    data: object,
    metric: MetricLike,
    rules: LabelRules = LabelRules(),
    cancelled: Callable[[], bool] | None = None,
    patience: float | None = None,
    batch_size: int | None = None,
    observe: Callable[[Batch, ClassPredictions | None], None] | None = None,
) -> Iterator[Score]:
    """Yield what `evaluate` does with ``stream=True``, but leave the generators of random numbers alone.

    They are the process's own: a thread that put them back would undo what another has drawn meanwhile. `cancelled` is
    asked before every batch is run; between two scores the model is as the caller left it. With `patience`, data is
    read on another thread, so that `cancelled` is obeyed while a batch is waited for, and data that gives none for so
    many seconds is given up. `observe` gets every batch with the classes predicted, None of a metric without classes.

    Raises:
        Cancelled: when `cancelled` says so.
    """
    module, _ = runnable(model)
    device, scored_by, stop = device_of(module), resolve(metric), cancelled or never
    reader = OutputReader(module, rules)
    batches = read_in_thread(raw_batches(data, batch_size=batch_size), data, stop, patience)

    # A generator inside, so that a wrong name or model is refused by the call and not by the first score.
    def each() -> Iterator[Score]:
        # Sums, not a list of answers: an evaluation of a million images takes no more memory than one of a hundred.
        tally, classes, total, number = RunningMean(), PerClassCounter(), count(data), 0
        for number, raw in enumerate(batches, start=1):
            if stop():
                raise Cancelled(f"the evaluation was cancelled before batch {number}")
            with batch_named(number):
                batch = prepared(raw, module, device)
                # Not in inference mode: what a model remembers of its batches (a table of positions) could never be
                # trained with again. Both modes belong to the thread, and must not outlive a yield.
                with torch.inference_mode(False), torch.no_grad():
                    sums = scored_by.sums(reader.read(run(module, batch.args, batch.kwargs), batch))
                if observe is not None:
                    observe(batch, sums.guesses)
                del batch  # or two would be on the device while the next is read
            tally.add(sums)
            classes.add(sums.guesses)
            if tally.clusters:  # a batch may have no label that is scored
                yield _score(tally, scored_by, total, done=False)
        if number == 0:
            raise no_batch(data)
        if not tally.clusters:
            raise DataError(f"none of the {number} batches has a label to score")
        score, counts = _score(tally, scored_by, total, done=True), classes.counts()
        warnings = collapse_warning(counts, score.low, score.high)
        yield replace(score, by_class=counts, warnings=warnings, checksum=model_checksum(module))

    return each()


def _score(tally: RunningMean, metric: Metric, total: int | None, done: bool) -> Score:
    value, low, high = metric.conclude(tally)
    return Score(
        value,
        low,
        high,
        n=tally.examples,
        total=total,
        metric=metric.name,
        done=done,
        percent=metric.percent,
        higher=metric.higher,
    )
