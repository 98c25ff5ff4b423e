"""What one model gets wrong that another got right: changes by class, confusions, and the misread examples."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import tee
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from ..analysis.run_model_seeded_macs_and_memory import describe, preserve_rng_state
from ..argument_checks import public
from ..errors import ArgumentError, DataError
from .batches_predictions_and_labels import IGNORED, Batch, LabelRules, count, raw_batches
from .evaluate_and_metrics import ClassPredictions, CompressedLike, Score, scored, scores

_NAMED: Final = 3
"""So many classes and confusions are named in a `repr`."""

_COLOURS: Final = (1, 3)
"""Channels of what is taken for an image: grey, or red, green and blue."""

_LONGEST: Final = 4
"""An N×H×W input is taken for grey images unless one side is more than so many times the other: then it is a series."""


class Misread(NamedTuple):
    """An example that was right and is wrong now: its index in the data, its class, and the class it is taken for."""

    example: int
    label: int
    predicted: int


class Confusion(NamedTuple):
    """How many examples of one class were taken for another, before and after."""

    label: int
    predicted: int
    before: int
    after: int


class ClassChange(NamedTuple):
    """One class: how many examples it has, and what share of them was right, before and after (NaN without any)."""

    label: int
    n: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PredictionComparison:
    """What changed between two models on the same data; what `compare_predictions` returns.

    Args:
        before, after: the accuracies, with their counts by class.
        misread: every example that was right before and is wrong after, in the order of the data.
        fixed: how many were wrong before and are right after.
        confusions: every pair of classes of which one was taken for the other, those that grew most first.
        images: inputs of some of the misread examples, C×H×W or H×W, by the example's index, drawn at random from all;
            empty for inputs that are no images. An explorer's are small pictures, bytes H×W×C.
        only_classes: why there are no examples beside the counts by class, "" where there are: an explorer shows what
            can be shown, and `compare_predictions` raises.

    Example:
        >>> import shrinkwidget as sw
        >>> model, data = sw.demo.model(), sw.demo.data("valid")
        >>> changes = sw.compare_predictions(model, sw.compress(model, sparsity=0.85, bits=4), data)
        >>> worst = min(changes.by_class, key=lambda change: change.after - change.before)
        >>> worst.before > 0.9, worst.after < 0.2  # one digit is lost, which the accuracy does not tell
        (True, True)
        >>> example, label, predicted = changes.misread[0]
        >>> int(data[1][example]) == label != predicted
        True
        >>> next(iter(changes.images.values())).shape
        torch.Size([1, 8, 8])
    """

    before: Score
    after: Score
    misread: tuple[Misread, ...]
    fixed: int
    confusions: tuple[Confusion, ...]
    images: Mapping[int, Tensor]
    only_classes: str = ""

    @property
    def by_class(self) -> tuple[ClassChange, ...]:
        """The share of right answers of every class, before and after; empty beyond 1,000 classes."""
        pairs = zip(self.before.by_class, self.after.by_class, strict=False)  # one may tell more classes apart
        return tuple(ClassChange(i, old.labels, old.accuracy, new.accuracy) for i, (old, new) in enumerate(pairs))

    def __repr__(self) -> str:
        fallen = sorted((c for c in self.by_class if c.after < c.before), key=lambda c: c.after - c.before)[:_NAMED]
        grown = [c for c in self.confusions if c.after > c.before][:_NAMED]
        parts = [
            f"{self.before.text} → {self.after.text} of {self.after.n:,} examples",
            f"{len(self.misread):,} misread that were right, {self.fixed:,} fixed",
        ]
        if fallen:
            named = ", ".join(f"class {c.label} {100 * c.before:.1f} → {100 * c.after:.1f} %" for c in fallen)
            parts.append(f"most lost: {named}")
        if grown:
            named = ", ".join(f"{c.label} as {c.predicted} ({c.before:,} → {c.after:,} times)" for c in grown)
            parts.append(f"most often misread: {named}")
        return f"PredictionComparison({'; '.join(parts)})"


@public()
def compare_predictions(
    before: nn.Module | CompressedLike,
    after: nn.Module | CompressedLike,
    eval_data: object,
    *,
    images: int = 24,
    seed: int = 0,
    batch_size: int | None = None,
    ignore_index: int | None = None,
) -> PredictionComparison:
    """Compare two classifiers on the same data: which classes suffered, what is misread as what, and which examples.

    Accuracy alone hides a class that is lost. Examples that one model gets right and its successor wrong are known as
    negative flips (Yan et al. 2021, arXiv 2011.09161); those that compression breaks are seldom typical ones (Hooker et
    al. 2019, arXiv 1911.05248). Both models run on each batch, so that the data is read once, and neither is changed.
    Beside four numbers for every misread example no more than `images` inputs are held.

    >>> import shrinkwidget as sw
    >>> model = sw.demo.model()
    >>> sw.compare_predictions(model, sw.compress(model, sparsity=0.85, bits=4), sw.demo.data("test"))
    PredictionComparison(99.7 % → 73.9 % of 360 examples; 93 misread that were right, 0 fixed; most lost: class 0 ...)

    Args:
        before: the model to compare with, such as the dense one.
        after: the model that is compared, such as a `CompressedModel`.
        eval_data: as `evaluate` takes it, with one label for every example.
        images: how many of the misread inputs to keep at most; any misread example is as likely among them.
        seed: of the draw.
        batch_size, ignore_index: see `evaluate`.

    Raises:
        DataError: as `evaluate` does, and for data with several labels for an example (tokens, pixels).
        ModelError: for what is no module, or has no values.
        ArgumentError: for an unknown keyword.
    """
    if type(images) is not int or images < 0:
        raise ArgumentError(f"compare_predictions(images={images!r}) must be a whole number from 0")
    old, old_provenance = scored(before)
    new, new_provenance = scored(after)
    rules, earlier = LabelRules(ignore_index), PredictionRecorder()
    later = PredictionRecorder(earlier, images=images, seed=seed)
    # Each yields a score after every batch, so the two stay in step, and no more than one batch waits for the second.
    # (tee holds what only one of the two has read, which is never more than a batch here.)
    first, second = tee(raw_batches(eval_data, batch_size=batch_size))
    with preserve_rng_state():
        *_, pair = zip(
            scores(old, first, "accuracy", rules, observe=earlier),
            scores(new, second, "accuracy", rules, observe=later),
            strict=True,
        )
    if later.why:
        raise DataError(later.why)
    total = count(eval_data)
    old_score, new_score = (
        replace(score, total=total, provenance=provenance or score.provenance)
        for score, provenance in zip(pair, (old_provenance, new_provenance), strict=True)
    )
    return later.compared(old_score, new_score)


class PredictionRecorder:
    """Observes an evaluation (`scores(…, observe=recorder)`): records the class predicted for every example.

    Given the recorder of another model on the same data, it also counts what differs between the two, and holds the
    inputs of at most `images` misread examples. Which are held is drawn while they come, each as likely as any other
    (Vitter 1985, algorithm R), so sorted data shows more than its first class.

    Args:
        other: has recorded each batch by the time this one gets it.
        other_is_after: whether that was the later, smaller model: what it gets wrong is misread then.
        shrink: what is held of an input, by default a copy of it.
    """

    def __init__(
        self,
        other: PredictionRecorder | None = None,
        other_is_after: bool = False,
        images: int = 0,
        seed: int = 0,
        shrink: Callable[[Tensor], Tensor] = torch.clone,
    ) -> None:
        self.why = ""
        """Why examples cannot be compared, "" while they can."""
        self._other, self._other_is_after = other, other_is_after
        self._most, self._random, self._shrink = images, random.Random(seed), shrink
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._n = self._fixed = 0
        self._misread: list[Misread] = []
        self._before: Counter[tuple[int, int]] = Counter()
        self._after: Counter[tuple[int, int]] = Counter()
        self._held: list[tuple[int, Tensor]] = []

    def __call__(self, batch: Batch, guesses: ClassPredictions | None) -> None:
        """Take note of one batch."""
        if guesses is None or guesses.labels.ndim != 1:
            has = "this metric has none" if guesses is None else f"this data has labels {describe(guesses.labels)}"
            self.why = f"examples are compared where each has one label and one predicted class, and {has}"
        if guesses is None or self.why:
            return
        # 32 bits hold any class, and half of an example's two numbers
        labels, predicted = (x.to("cpu", torch.int32) for x in (guesses.labels, guesses.predicted))
        self._batches.append((labels, predicted))
        if self._other is not None:
            self._compare(batch, labels, predicted, self._other)
        self._n += len(labels)

    def _compare(self, batch: Batch, labels: Tensor, predicted: Tensor, other: PredictionRecorder) -> None:
        number = len(self._batches) - 1
        its_labels, its_predicted = other._batches[number] if number < len(other._batches) else (None, predicted)
        if its_labels is None or not torch.equal(its_labels, labels):
            self.why = "the data is another every time it is read, so its examples cannot be compared"
            return
        before, after = (predicted, its_predicted) if self._other_is_after else (its_predicted, predicted)
        scored = labels != IGNORED
        was_right, is_right = (before == labels) & scored, (after == labels) & scored
        self._fixed += int((is_right & ~was_right).sum())
        for counter, guessed, right in ((self._before, before, was_right), (self._after, after, is_right)):
            wrong = scored & ~right
            counter.update(zip(labels[wrong].tolist(), guessed[wrong].tolist(), strict=True))
        inputs = image_inputs(batch) if self._most else None
        for row in (was_right & ~is_right).nonzero()[:, 0].tolist():
            self._misread.append(Misread(self._n + row, int(labels[row]), int(after[row])))
            if inputs is None:
                continue
            # A reservoir sample: the n-th misread image replaces one of those held with probability most/n, so that in
            # the end each has been equally likely to stay, in whatever order the data comes.
            place = len(self._held)
            if place == self._most:
                place = self._random.randrange(len(self._misread))
            if place < self._most:
                self._held[place : place + 1] = [(self._n + row, self._shrink(inputs[row].detach()).cpu())]

    def compared(self, before: Score, after: Score) -> PredictionComparison:
        """Return what differs between the two models, given their scores; only that by class if there is a `why`."""
        if self.why:
            return PredictionComparison(before, after, (), 0, (), {}, self.why)
        pairs = sorted(
            self._before.keys() | self._after.keys(),
            key=lambda pair: (self._before[pair] - self._after[pair], -self._after[pair], pair),
        )
        confusions = tuple(Confusion(*pair, self._before[pair], self._after[pair]) for pair in pairs)
        images = dict(sorted(self._held, key=lambda held: held[0]))
        return PredictionComparison(before, after, tuple(self._misread), self._fixed, confusions, images)


def image_inputs(batch: Batch) -> Tensor | None:
    """Return the inputs of a batch if they are images, N×C×H×W with 1 or 3 channels or N×H×W, else None."""
    for value in (*batch.args, *batch.kwargs.values()):
        if not isinstance(value, Tensor) or value.is_complex():
            continue
        if value.ndim == 4 and value.shape[1] in _COLOURS:
            return value
        if value.ndim == 3 and max(value.shape[1:]) <= _LONGEST * min(value.shape[1:]):
            return value
    return None
