"""What a mean over all classes hides: how often each class was the label, was predicted, and rightly."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from .labels import IGNORED
from .metrics import ClassPredictions

MOST_CLASSES: Final = 1000
"""More classes than this are a vocabulary: most of them are never predicted, and rightly."""

ENOUGH: Final = 5
"""Labels from which it counts that a class is never predicted: of fewer, chance may miss all."""

_NAMED: Final = 6
_MOST_HELD: Final = 1 << 20


class ClassCounts(NamedTuple):
    """Of one class: how many labels, how many predictions, and how many predictions that were right."""

    labels: int
    predicted: int
    correct: int


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
        scored = labels != IGNORED
        labels, predicted = labels[scored], predicted[scored]
        most = max(guesses.classes for guesses in waiting)
        kinds = (labels, predicted, labels[labels == predicted])
        found = torch.stack([torch.bincount(kind, minlength=most) for kind in kinds]).cpu()
        if self._counts is not None:
            found[:, : self._counts.shape[1]] += self._counts  # a model tells as many classes apart every time
        self._counts = found


def collapse_warning(counts: tuple[ClassCounts, ...], low: float, high: float) -> tuple[str, ...]:
    """Return what is to be said beside an accuracy: classes never predicted, and whether it beats chance."""
    total = sum(count.labels for count in counts)
    if not total:
        return ()
    warnings = []
    never = [(i, count.labels) for i, count in enumerate(counts) if count.labels >= ENOUGH and not count.predicted]
    if never:
        named = ", ".join(f"{i} ({n:,} labels)" for i, n in never[:_NAMED])
        more = f" and {len(never) - _NAMED} more" if len(never) > _NAMED else ""
        warnings.append(f"never predicted: class {named}{more}")
    most = max(range(len(counts)), key=lambda i: counts[i].labels)
    chance = counts[most].labels / total
    if low <= chance:
        how = "the interval covers chance" if high >= chance else "below chance"
        warnings.append(f"{how}: always answering class {most} scores {100 * chance:.1f} %")
    return tuple(warnings)
