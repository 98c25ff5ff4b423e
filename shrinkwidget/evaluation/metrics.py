"""What an evaluation measures: accuracy, mean squared error, perplexity, or the user's own, each with its interval.

A metric is an object: its name is only shown, and says nothing about its unit or its direction. Beside an accuracy
stands what its mean hides: how often each class was the label, was predicted, and rightly. At the end are the losses
that go by a name, made of the same predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis.model_tensors import where_float64_is
from ..analysis.run_model_and_count_macs import describe
from ..argument_checks import checked_fields, meant, public
from ..errors import DataError, ShrinkError, nearest, quoted, reason
from .predictions_and_labels import IGNORED, Predictions, are_shares, no_nan

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
