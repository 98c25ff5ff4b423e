"""Anytime evaluation: a score with its sample count and interval from the first batch on, and what it is a score of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, overload, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis.open_model_tensors_and_channel_axes import where_float64_is
from ..analysis.run_model_seeded_macs_and_memory import (
    RandomState,
    describe,
    device_of,
    preserve_rng_state,
    run,
)
from ..analysis.tensor_ops_threads_and_cpu_kernel import bytes_of, checksum_of_bytes, never
from ..argument_checks import checked_fields, meant, public
from ..errors import ArgumentError, Cancelled, DataError, ModelError, ShrinkError, a_type, nearest, quoted, reason
from .batches_predictions_and_labels import (
    IGNORED,
    Batch,
    LabelRules,
    OutputReader,
    Predictions,
    are_shares,
    as_pair,
    batch_named,
    count,
    no_batch,
    no_nan,
    prepared,
    raw_batches,
    read_in_thread,
)
from .recalibrate_batchnorm import recalibrated_copy

MetricLike: TypeAlias = "str | Metric | Callable[[Any, Tensor], object]"


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
        ModelError: for what is no module, has no values (the meta device), or no batch norm to recalibrate; for a
            `CompressedModel` whose module was trained or changed since, so that its file would not score so.
        ArgumentError: for an unknown keyword.
    """
    module, provenance = scored(model)
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


def scored(model: object) -> tuple[nn.Module, str | None]:
    """Return what `runnable` does of a model whose score is told.

    Raises:
        ModelError: as it does, and for a compressed model whose module has changed: its file would not score so.
    """
    module, provenance = runnable(model)
    if not isinstance(model, nn.Module) and (name := getattr(model, "changed_tensor", "")):
        raise ModelError(
            f"{quoted(name)} of this {a_type(model).split()[-1]}'s .model has changed since it was made, and .save() "
            f"would write it as it was: give its .model to score that, or compress it again, by its .recipe, for both"
        )
    return module, provenance


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


# ---- metrics ----


Z: Final = 1.959963984540054
"""Standard deviations on either side of a 95 % interval."""

MOST_CLASSES: Final = 1000
"""More classes than this are a vocabulary: most of them are never predicted, and rightly."""

# Labels from which it counts that a class is never predicted: of fewer, chance may miss all.
_ENOUGH: Final = 5
_NAMED: Final = 6  # classes a warning lists before it says "and n more"
_MOST_HELD: Final = 1 << 20  # labels: some megabytes

Interval: TypeAlias = tuple[float, float, float]
"""A value, and the ends of its 95 % interval: NaN where too few examples can tell them."""


@dataclass(frozen=True, slots=True)
class Sums:
    """One batch, scored: per cluster, `total` is the sum of what is averaged and `terms` how many were added, both [N].

    A cluster is an example, or the whole batch where only its mean is known; `examples` is how many were scored.
    `guesses` are the classes predicted and the labels, N×…, where the metric compares classes.
    """

    total: Tensor
    terms: Tensor
    examples: int
    guesses: ClassPredictions | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ClassPredictions:
    """The classes a batch was predicted to be of, and is of (-100 where that is not scored), of so many there are."""

    predicted: Tensor
    labels: Tensor
    classes: int


class RunningMean:
    """All batches so far: their mean, and its standard error.

    An example with several labels (tokens, pixels) is one cluster: its labels are not independent, so the error is
    that of a ratio of sums over examples (Cochran 1977, Sampling Techniques, section 6.4), not over labels.
    """

    def __init__(self) -> None:
        self.examples = 0
        self.clusters = 0
        self.terms = 0.0
        self._total = 0.0
        self._squares = [0.0, 0.0, 0.0]  # Σt², Σt·m, Σm²

    def add(self, sums: Sums) -> None:
        """Add one batch."""
        t, m = (part.cpu().double().numpy() for part in (sums.total, sums.terms))  # Metal has no float64
        self.examples += sums.examples
        self.clusters += int(np.count_nonzero(m > 0))
        self.terms += float(m.sum())
        self._total += float(t.sum())
        for i, product in enumerate((t @ t, t @ m, m @ m)):
            self._squares[i] += float(product)

    @property
    def mean(self) -> float:
        """Mean over all terms."""
        return self._total / self.terms

    @property
    def spread(self) -> float:
        """Sum over clusters of (total − mean · terms)²."""
        # Expanded, so that one pass over the data is enough: the mean is known only at the end.
        tt, tm, mm = self._squares
        return max(0.0, tt - 2 * self.mean * tm + self.mean**2 * mm)  # rounding may leave less than nothing

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for a single cluster."""
        if self.clusters < 2:  # one example says nothing about how examples differ
            return math.nan
        return math.sqrt(self.spread * self.clusters / (self.clusters - 1)) / self.terms


class ClassCounts(NamedTuple):
    """Of one class: how many labels, how many predictions, and how many predictions that were right."""

    labels: int
    predicted: int
    correct: int

    @property
    def accuracy(self) -> float:
        """The share of the class's labels that was predicted rightly (its recall); NaN without any."""
        return self.correct / self.labels if self.labels else math.nan


class PerClassCounter:
    """Counts over all batches so far, taken of many at once: one by one they would take a small network's time."""

    def __init__(self) -> None:
        self._counts: Tensor | None = None
        self._waiting: list[ClassPredictions] = []
        self._held = 0

    def add(self, guesses: ClassPredictions | None) -> None:
        """Take note of one batch; None, or more than `MOST_CLASSES`, is not counted."""
        if guesses is None or guesses.classes > MOST_CLASSES:
            return
        self._waiting.append(guesses)
        self._held += guesses.labels.numel()
        if self._held > _MOST_HELD:
            self._count()

    def counts(self) -> tuple[ClassCounts, ...]:
        """Return the counts of every class, by its number."""
        self._count()
        return () if self._counts is None else tuple(ClassCounts(*row) for row in self._counts.T.tolist())

    def _count(self) -> None:
        waiting, self._waiting, self._held = self._waiting, [], 0
        if not waiting:
            return
        labels, predicted = (
            torch.cat([part.flatten() for part in parts])
            for parts in zip(*((guesses.labels, guesses.predicted) for guesses in waiting), strict=True)
        )
        # bincount takes no negative numbers: what is ignored goes first.
        scored = labels != IGNORED
        labels, predicted = labels[scored], predicted[scored]
        most = max(guesses.classes for guesses in waiting)
        kinds = (labels, predicted, labels[labels == predicted])
        found = torch.stack([torch.bincount(kind, minlength=most) for kind in kinds]).cpu()  # one wait for the device
        if self._counts is not None:
            found[:, : self._counts.shape[1]] += self._counts  # a model tells as many classes apart every time
        self._counts = found


def collapse_warning(counts: tuple[ClassCounts, ...], low: float, high: float) -> tuple[str, ...]:
    """Return what is to be said beside an accuracy: classes never predicted, and whether it beats chance."""
    total = sum(count.labels for count in counts)
    if not total:
        return ()
    warnings = []
    never = [(i, count.labels) for i, count in enumerate(counts) if count.labels >= _ENOUGH and not count.predicted]
    if never:
        named = ", ".join(f"{i} ({n:,} labels)" for i, n in never[:_NAMED])
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        warnings.append(f"never predicted: class {named}{more}")
    most = max(range(len(counts)), key=lambda i: counts[i].labels)
    chance = counts[most].labels / total
    # Chance: the best that can be had without a look at the inputs.
    if low <= chance:
        how = "the interval covers chance" if high >= chance else "below chance"
        warnings.append(f"{how}: always answering class {most} scores {100 * chance:.1f} %")
    return tuple(warnings)


@checked_fields(DataError)
@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: `sums` scores the answers of one batch, `conclude` sums up a tally.

    `higher` says whether more is better, `percent` whether values are shares, 0…1, to be written in per cent.

        wer = sw.methods.Metric.of(word_errors, name="WER", higher=False, percent=True)
        sw.evaluate(model, data, wer)

    Example:
        >>> import shrinkwidget as sw
        >>> def confidence(outputs, targets):
        ...     return outputs.softmax(1).max(1).values  # one number per example
        >>> metric = sw.methods.Metric.of(confidence, higher=True, percent=True)
        >>> sw.evaluate(sw.demo.model(), sw.demo.data("valid"), metric).value > 0.9
        True
    """

    name: str
    higher: bool
    percent: bool
    sums: Callable[[Predictions], Sums]
    conclude: Callable[[RunningMean], Interval]

    def to_dict(self) -> dict[str, Any]:
        """Return what it takes to write its values: name, higher, percent.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.methods.Metric.of(lambda outputs, targets: outputs.sum(), name="sum").to_dict()
            {'name': 'sum', 'higher': True, 'percent': False}
        """
        return {"name": self.name, "higher": self.higher, "percent": self.percent}

    @classmethod
    @public()
    def of(
        cls,
        function: Callable[[Any, Tensor], object],
        name: str | None = None,
        higher: bool | None = None,
        percent: bool | None = None,
    ) -> Metric:
        """Return the metric that averages a function of (outputs, targets).

        Args:
            function: gets what the model returned and the targets, and gives a tensor with one number per example, or
                one number: the mean over the batch.
            name: by default the function's own.
            higher: whether more is better; by default the function's attribute ``higher_is_better``, False for torch's
                own losses, else True.
            percent: whether it gives shares, 0…1; by default the function's attribute ``percent``, else False.

        Example:
            >>> import shrinkwidget as sw
            >>> def error_rate(outputs, targets):
            ...     return (outputs.argmax(1) != targets).float()
            >>> sw.methods.Metric.of(error_rate, higher=False, percent=True).name
            'error_rate'
        """
        inner = function.func if isinstance(function, partial) else function
        called = name or str(getattr(inner, "__name__", type(inner).__name__))
        if higher is None:
            declared = getattr(function, "higher_is_better", None)
            loss = isinstance(inner, nn.modules.loss._Loss) or getattr(inner, "__module__", "") == F.__name__
            higher = not loss if declared is None else bool(declared)
        if percent is None:
            percent = bool(getattr(function, "percent", False))
        return cls(called, higher, percent, partial(_own_sums, function, called), _mean_interval)


def resolve(metric: str | Metric | Callable[[Any, Tensor], object]) -> Metric:
    """Return the metric of this name, the metric itself, or what `Metric.of` makes of a function.

    Raises:
        DataError: for an unknown name, naming the nearest.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, type):
        raise DataError(f"metric={metric.__name__} is a class: give an object of it, metric={metric.__name__}()")
    if isinstance(metric, Tensor | np.ndarray):  # evaluate(model, inputs, targets)
        raise DataError("inputs and targets go together: give (inputs, targets) as the data, and the metric after it")
    if callable(metric):
        return Metric.of(metric)
    if (name := meant(metric, METRICS)) is None:
        raise DataError(
            f"there is no metric {quoted(metric)}{nearest(str(metric), METRICS) or '.'} "
            f"Take one of {', '.join(map(repr, METRICS))}, or a function of (outputs, targets)"
        )
    return METRICS[name]


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return the 95 % interval of a share of n trials (Wilson 1927, JASA 22:209-212)."""
    # Not share ± Z·√(share·(1 − share)/n), which has no length at 100 %, and ends beyond it just below.
    centre = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    reach = Z / (1 + Z**2 / n) * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return max(0.0, min(share, centre - reach)), min(1.0, max(share, centre + reach))


def _share_interval(tally: RunningMean) -> Interval:
    """Wilson's interval for as many independent trials as the clusters are worth: with one label each, all of them."""
    share = min(1.0, tally.mean)
    # Tokens of one sequence are alike, so n of them are worth fewer independent trials (the design effect of cluster
    # sampling): as many as would have the same standard error.
    worth = share * (1 - share) * tally.terms**2 / tally.spread if tally.spread > 0 else float(tally.clusters)
    return share, *wilson(share, min(worth, tally.terms))


def _mean_interval(tally: RunningMean) -> Interval:
    reach = Z * tally.error
    return tally.mean, tally.mean - reach, tally.mean + reach


def _squared_interval(tally: RunningMean) -> Interval:
    value, low, high = _mean_interval(tally)
    return value, low if math.isnan(low) else max(0.0, low), high  # no squared error is below zero


def _exponential_interval(tally: RunningMean) -> Interval:
    # Beyond e^709 math.exp raises instead of saying infinity.
    value, low, high = (math.inf if x > 709 else math.exp(x) for x in _mean_interval(tally))
    return value, low, high


def _accuracy_sums(answers: Predictions) -> Sums:
    scores, labels = answers.classes
    predicted = scores.argmax(1)
    if are_shares(scores, labels):
        labels = labels.argmax(1)
    right, scored = predicted == labels, labels != IGNORED  # no class that is predicted is the ignored one
    # Classes that are tokens are a vocabulary: that some are never predicted says nothing.
    guesses = None if answers.of_next_tokens else ClassPredictions(predicted, labels, scores.shape[1])
    return _by_example(right, scored, guesses)


def _perplexity_sums(answers: Predictions) -> Sums:
    return _by_example(*answers.losses())


def _squared_sums(answers: Predictions) -> Sums:
    found, wanted = answers.values
    errors = (_double(found) - _double(wanted)).square()
    return _by_example(no_nan(errors), torch.ones_like(errors))


def _own_sums(metric: Callable[[Any, Tensor], object], name: str, answers: Predictions) -> Sums:
    """Score by the user's function: one number per example, or one for the batch."""
    output, targets = answers.output, answers.targets
    try:
        given = metric(output, targets)
    except ShrinkError:
        raise
    except Exception as error:
        raise DataError(f"the metric {name!r} failed: {reason(error)}") from error
    n = len(targets)
    found: Tensor | None = None
    with suppress(TypeError, ValueError, RuntimeError):  # it may be no numbers at all
        found = torch.as_tensor(given).detach()
    if found is not None and found.numel() == 1 and (found.ndim == 0 or n == 1):
        return Sums(_double(no_nan(found.reshape(1), name)) * n, torch.tensor([float(n)]), n)
    if found is None or found.shape != (n,):
        raise DataError(
            f"the metric {name!r} returned {describe(given if found is None else found)} for {n} examples; "
            f"expected one number per example, or one for all"
        )
    return Sums(no_nan(found, name), torch.ones(n), n)


def _by_example(values: Tensor, scored: Tensor, guesses: ClassPredictions | None = None) -> Sums:
    # In float64: millions of tokens are summed, and a variance is the small difference of two such sums.
    total, terms = (_double(x) if x.ndim == 1 else _double(x).flatten(1).sum(1) for x in (values, scored))
    return Sums(total, terms, int(terms.count_nonzero()), guesses)


def _double(values: Tensor) -> Tensor:
    return where_float64_is(values).double()


METRICS: Final = {
    "accuracy": Metric("accuracy", True, True, _accuracy_sums, _share_interval),
    "mse": Metric("mse", False, False, _squared_sums, _squared_interval),
    "perplexity": Metric("perplexity", False, False, _perplexity_sums, _exponential_interval),
}
"""The metrics with a name."""


def _cross_entropy(answers: Predictions) -> Tensor:
    logits, labels = answers.logits
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)


def _mse(answers: Predictions) -> Tensor:
    found, wanted = answers.values
    return F.mse_loss(found.float(), wanted.float())


LOSSES: Final[dict[str, Callable[[Predictions], Tensor]]] = {"cross_entropy": _cross_entropy, "mse": _mse}


# ---- which model was scored ----

_SMALL_BYTES: Final = 1 << 18
_WITH_SIGNED_ZERO: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@torch.no_grad()
def model_checksum(model: nn.Module) -> str:
    """Return 16 hexadecimal digits that tell a model by its weights and buffers, the same in every process.

    It takes 25 ms for 25 million weights. "" for a model with a tensor that has no bytes of its own, such as a
    quantized one, or none yet.
    """
    told = hashlib.sha256()
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()], key=lambda named: named[0]):
        # A pruned weight is -0 while a mask is multiplied in, and 0 in the file: the same weight.
        unsigned = tensor + 0.0 if tensor.dtype in _WITH_SIGNED_ZERO else tensor
        if (raw := bytes_of(unsigned)) is None:
            return ""
        told.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        # SHA-256 reads a small tensor in less time than the calls take that multiply its words
        told.update(raw.cpu().numpy().tobytes() if len(raw) <= _SMALL_BYTES else str(checksum_of_bytes(raw)).encode())
    return told.hexdigest()[:16]
