"""Pairs scores of classes with labels in every form they come in: class numbers, N×1, one-hot, soft."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..analysis.run_without_side_effects import describe
from ..errors import DataError

IGNORED: Final = -100
"""The label that is never scored, as in ``torch.nn.functional.cross_entropy``."""

MULTI_LABEL: Final = (
    "several classes of a row are 1, or none is: that is multi-label, and a single class is no answer. Give "
    "metric=lambda out, y: ((out > 0) == (y > 0)).float().mean(1) for logits, and loss=nn.BCEWithLogitsLoss() "
    "to train on float labels"
)


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What neither the labels nor the model may tell.

    Args:
        ignore_index: a label that is not scored, such as 255 in segmentation; -100 never is.
        next_token: whether the output at a position of a sequence predicts the label of the next position (a causal
            language model whose labels are its inputs), or that of its own (False). None: the model's own loss tells.
    """

    ignore_index: int | None = None
    next_token: bool | None = None

    def __post_init__(self) -> None:
        if self.ignore_index is not None and (
            not isinstance(self.ignore_index, int) or isinstance(self.ignore_index, bool)
        ):
            raise DataError(f"ignore_index={self.ignore_index!r} must be a class number such as 255, or None")
        if self.next_token not in (True, False, None):
            raise DataError(f"next_token={self.next_token!r} must be True, False or None")


def paired(scores: Tensor, labels: Tensor, classes_last: bool) -> tuple[Tensor, Tensor]:
    """Return scores N×C×… and labels: N×… of classes, or N×C×… of shares; one score a label is N×1×….

    Where classes might be in both places of the scores, `classes_last` decides.

    Raises:
        DataError: for shapes that do not fit.
    """
    if scores.shape == labels.shape and scores.ndim > 1 and scores.shape[1] > 1:
        return _shares(scores, labels, classes_last)
    # A column of labels, N×1, is what a table gives; beside scores N×1 it is as it should be, one label a score.
    if labels.ndim == scores.ndim > 1 and scores.numel() != labels.numel():
        if labels.shape[1] == 1:
            labels = labels.squeeze(1)
        elif labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
    first = scores.ndim > 1 and scores.shape[:1] + scores.shape[2:] == labels.shape
    last = scores.ndim > 1 and scores.shape[:-1] == labels.shape
    if last and (classes_last or not first):
        return scores.movedim(-1, 1), labels
    if first:
        return scores, labels
    if scores.shape == labels.shape:
        return (scores, labels.squeeze(1)) if scores.ndim > 1 else (scores.unsqueeze(1), labels)
    raise DataError(f"outputs are {describe(scores)}, labels {describe(labels)}; expected logits N×C×… and labels N×…")


def _shares(scores: Tensor, labels: Tensor, classes_last: bool) -> tuple[Tensor, Tensor]:
    """Return labels that give each class its share; as class numbers where the whole share is that of one."""
    if labels.is_complex():
        raise DataError(f"labels are {describe(labels)}; expected class numbers, or a share of each class")
    # Several labels of one row (multi-label) look the same except for their sum: they would be scored by their largest.
    shares = labels.float()
    within = bool(((shares >= 0) & (shares <= 1)).all())
    one, last = (bool(((shares.sum(dim) - 1).abs() < 1e-3).all()) for dim in (1, -1))
    if not within or not (one or last):
        found = f"outputs are {describe(scores)}, labels {describe(labels)}"
        if within and bool(((shares == 0) | (shares == 1)).all()):
            raise DataError(f"{found}: {MULTI_LABEL}")
        raise DataError(
            f"{found}: expected class numbers N×…, or the share of each class, which sum to 1 "
            f"(for regression use metric='mse')"
        )
    if last and (classes_last or not one):
        scores, shares = scores.movedim(-1, 1), shares.movedim(-1, 1)
    if bool((shares.amax(1) == 1).all()):  # one-hot: as class numbers they are compared in less time and memory
        return scores, shares.argmax(1)
    return scores, shares


def are_shares(scores: Tensor, labels: Tensor) -> bool:
    """Tell whether labels give each class its share, beside scores N×C×…."""
    return labels.ndim == scores.ndim


def checked_classes(labels: Tensor, classes: int, rules: LabelRules) -> Tensor:
    """Return labels as class numbers, -100 for all that are not scored.

    Raises:
        DataError: for labels that are no class.
    """
    # Whole numbers as floats are what numpy and pandas make of class numbers: taken, unlike those of a regression.
    if labels.is_complex() or (labels.dtype.is_floating_point and not bool((labels == labels.round()).all())):
        raise DataError(
            f"labels are {describe(labels)}; expected whole class numbers (for regression use metric='mse')"
        )
    labels = labels.long()
    if rules.ignore_index is not None:
        labels = labels.masked_fill(labels == rules.ignore_index, IGNORED)
    if labels.numel():
        least, most = labels.aminmax()
        if int(least) >= 0 and int(most) < classes:  # nearly always, and in a third of the time
            return labels
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if strange.numel():
        found = int(strange[0])
        raise DataError(
            f"label {found} is out of range: the model tells {classes} classes apart, 0 to {classes - 1}; "
            f"if it marks what is not to be scored, as {IGNORED} does, give ignore_index={found}"
        )
    return labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss in nats of every label, N×…; 0 for one that is not scored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def ahead(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of a sequence paired with the labels of the next position."""
    return logits[:, :, :-1], labels[:, 1:]


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean loss over the labels that are scored; NaN if none is."""
    with torch.no_grad():
        return float(cross_entropy(logits, labels).sum() / (labels != IGNORED).sum())
