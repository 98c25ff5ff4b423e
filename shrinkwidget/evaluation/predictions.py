"""Reads a model's outputs as answers to the targets, and settles once what the shapes leave open."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..analysis.run_without_side_effects import describe
from ..errors import DataError, ShrinkError
from .batches import Batch
from .detect_output_convention import ends_in_probability, outputs_with_labels
from .labels import (
    IGNORED,
    LabelRules,
    ahead,
    are_shares,
    checked_classes,
    cross_entropy,
    fits_classes,
    mean_loss,
    paired,
)
from .model_outputs import (
    Place,
    find_prediction,
    fits_values,
    no_nan,
    own_loss,
    paired_values,
    refuse_ambiguous,
    tensors,
)

_CLOSE: Final = 0.02
"""How far, relatively, a model's own loss may be from the cross entropy it is told by: half precision, a small term."""

_LEAST: Final = torch.finfo(torch.float32).tiny
"""The least probability: its logarithm is finite, and its gradient too."""


class OutputReader:
    """Reads the outputs of one model, batch after batch.

    What it settles on the first batch that tells holds for all: which of several outputs predicts, whether they are
    probabilities, and whether those of a sequence predict the next position.
    """

    def __init__(self, model: nn.Module, rules: LabelRules) -> None:
        self.rules = rules
        self.next_token = rules.next_token
        self._model = model
        self._place: Place | None = None
        self._sigmoid: bool | None = None
        self._softmax: bool | None = None

    def read(self, output: Any, batch: Batch) -> Predictions:
        """Return a model's outputs for a batch, to be read as the metric or the loss wants them."""
        return Predictions(self, output, batch)

    def values(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the prediction of a regression and the targets, of one shape."""
        targets = batch.targets
        if isinstance(output, Tensor) and output.ndim:
            return paired_values(output, targets)
        places = find_prediction(output, fits_values(targets), targets)
        if len(places) > 1:
            refuse_ambiguous(output, places)
        return paired_values(tensors(output)[places[0]], targets)

    def classes(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return scores N×C×… of the classes and the labels: class numbers N×…, or shares N×C×…."""
        scores = output if isinstance(output, Tensor) and output.ndim else self._scores(output, batch)
        labels = batch.targets.to(scores.device)
        last = not isinstance(output, Tensor) or self.rules.next_token is not None or _tokens(batch, labels) is not None
        found, (scores, labels) = scores, paired(scores, labels, last)
        classes_last = scores is not found
        if scores.dtype.is_floating_point:
            no_nan(scores)
        if scores.shape[1] == 1:
            scores = self._two(scores, batch)
        if are_shares(scores, labels):
            return scores, labels
        labels = checked_classes(labels, scores.shape[1], self.rules)
        if labels.ndim == 2:
            return self._in_step(scores, labels, output, batch, classes_last)
        return scores, labels

    def log_scores(self, scores: Tensor) -> Tensor:
        """Return the scores of classes as logits, up to a constant of each example: those of a softmax by their log."""
        if self._softmax is None:
            self._softmax = scores.dtype.is_floating_point and _sum_to_one(scores)
        return scores.float().clamp(min=_LEAST).log() if self._softmax else scores

    def _scores(self, output: Any, batch: Batch) -> Tensor:
        """Return the one of several outputs that predicts."""
        found = tensors(output)
        if self._place is None or self._place not in found:
            places = find_prediction(output, fits_classes(batch.targets, self.rules), batch.targets)
            if len(places) > 1:
                places = self._told_by_loss(output, batch, places)
            self._place = places[0]
        return found[self._place]

    def _told_by_loss(self, output: Any, batch: Batch, places: list[Place]) -> list[Place]:
        """Return the one of several outputs of which the model's own loss is the cross entropy."""
        found, loss, told = tensors(output), own_loss(output), list[Place]()
        if loss is None:
            refuse_ambiguous(output, places)
        for place in places:
            scores, labels = paired(found[place], batch.targets.to(found[place].device), classes_last=True)
            if scores.shape[1] == 1 or are_shares(scores, labels):
                continue
            pair = scores, checked_classes(labels, scores.shape[1], self.rules)
            pairs = [pair, ahead(*pair)] if labels.ndim == 2 else [pair]
            told += [place] if any(abs(mean_loss(*p) - loss) <= 1e-3 * abs(loss) for p in pairs) else []
        if len(told) != 1:
            refuse_ambiguous(output, places)
        return told

    # one score a label: is it a logit, or the probability of class 1?

    def _two(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return logits of two classes, given that of class 1 or its probability, N×1×…."""
        if self._sigmoid is None:
            self._sigmoid = self._is_probability(scores, batch)
        if not self._sigmoid:
            return torch.cat([torch.zeros_like(scores), scores], 1)
        one = scores.float()
        return torch.cat([1 - one, one], 1).clamp(min=_LEAST).log()

    def _is_probability(self, scores: Tensor, batch: Batch) -> bool:
        if not scores.dtype.is_floating_point or not bool(((scores >= 0) & (scores <= 1)).all()):
            return False
        told = ends_in_probability(self._model, batch, scores)
        if told is None:
            raise DataError(
                f"the outputs, {describe(scores)}, one a label, all lie between 0 and 1 and look like probabilities, "
                f"but a logit is expected: end the model in the logit (without sigmoid, trained with "
                f"nn.BCEWithLogitsLoss()), or give metric=lambda out, y: ((out > 0.5) == (y > 0.5)).float().mean() "
                f"and, to train, loss=nn.BCELoss()"
            )
        return told

    # sequences: does position i predict label i, or label i + 1?

    def _in_step(
        self, scores: Tensor, labels: Tensor, output: Any, batch: Batch, classes_last: bool
    ) -> tuple[Tensor, Tensor]:
        """Return scores and labels of sequences paired as the model's own loss pairs them, or as the caller says."""
        if self.next_token is None:
            if (loss := own_loss(output)) is not None and loss == loss:
                self.next_token, next_token = self._told(loss, scores, labels)
                return ahead(scores, labels) if next_token else (scores, labels)
            if not classes_last:
                return scores, labels  # N×C×L is the layout of torch's cross entropy, and paired as that pairs it
            self.next_token = self._asked(batch, labels)
        return ahead(scores, labels) if self.next_token else (scores, labels)

    def _told(self, loss: float, scores: Tensor, labels: Tensor) -> tuple[bool | None, bool]:
        """Return what a loss tells for good, and for this batch.

        Raises:
            DataError: if it is that of neither pairing.
        """
        here, there = mean_loss(scores, labels), mean_loss(*ahead(scores, labels))
        near = [abs(found - loss) <= _CLOSE * abs(loss) + 1e-3 for found in (here, there)]
        if near == [False, False]:
            raise DataError(
                f"the model's own loss is {loss:.4g}, but the cross entropy is {here:.4g} if position i predicts "
                f"label i, and {there:.4g} if it predicts label i + 1: say which, next_token=False or next_token=True"
            )
        if near != [True, True]:
            return near[1], near[1]
        nearer = abs(there - loss) < abs(here - loss)
        sure = abs(here - there) > 1e-3 * abs(loss) and min(abs(here - loss), abs(there - loss)) < 1e-4 * abs(loss)
        return (nearer if sure else None), nearer

    def _asked(self, batch: Batch, labels: Tensor) -> bool:
        """Return how the model, or one inside it, pairs tokens when it is given labels.

        Raises:
            DataError: if nothing tells, or the labels are those of the next position already.
        """
        told = None
        for output in outputs_with_labels(self._model, batch, labels):
            loss = own_loss(output)
            if loss is None or loss != loss:
                continue
            try:
                scores = OutputReader(self._model, self.rules)._scores(output, batch)
                some = labels[: len(scores)]
                pair = paired(scores, some, classes_last=True)
                told = self._told(loss, *pair)[1]
            except ShrinkError:
                continue
            break
        tokens = _tokens(batch, labels)
        if told is None:
            raise DataError(
                f"outputs for every position of a sequence, labels {describe(batch.targets)}, and no loss of the "
                f"model's own: nothing tells whether position i predicts label i or label i + 1. Say "
                f"next_token=True (a causal language model whose labels are its inputs) or next_token=False"
            )
        if told and tokens is not None and _already_ahead(tokens, labels):
            raise DataError(
                "the labels are the inputs of the next position already, but the model's own loss compares position "
                "i with label i + 1: give the inputs as labels, or say next_token=False"
            )
        return told


class Predictions:
    """A model's outputs for one batch, read when the loss or the metric asks, and once for both."""

    def __init__(self, reader: OutputReader, output: Any, batch: Batch) -> None:
        self.output = output
        self.targets = batch.targets
        self._reader, self._batch = reader, batch

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """Scores N×C×… whose largest is the class predicted, and the labels N×…, -100 where none is scored.

        Soft labels are N×C×… as the scores.

        Raises:
            DataError: for shapes that do not fit, labels that are no class, NaN, or what nothing decides.
        """
        return self._reader.classes(self.output, self._batch)

    @cached_property
    def logits(self) -> tuple[Tensor, Tensor]:
        """As `classes`, but logits, up to a constant of each example, also where the model ends in a softmax."""
        scores, labels = self.classes
        return self._reader.log_scores(scores), labels

    @cached_property
    def values(self) -> tuple[Tensor, Tensor]:
        """The prediction of a regression and the targets, of one shape.

        Raises:
            DataError: for shapes that do not fit.
        """
        return self._reader.values(self.output, self._batch)

    @property
    def rules(self) -> LabelRules:
        """How these were paired, for outputs of another model that are to be paired alike."""
        return replace(self._reader.rules, next_token=self._reader.next_token)

    @property
    def of_next_tokens(self) -> bool:
        """Whether the classes are tokens that a causal language model foretells."""
        return bool(self._reader.next_token)

    def has_nan(self) -> bool:
        """Tell whether any output is NaN."""
        found = tensors(self.output).values()
        return any(bool(x.isnan().any()) for x in found if x.dtype.is_floating_point)

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of every label, N×…, and which are scored."""
        logits, labels = self.logits
        losses = cross_entropy(logits, labels)
        return losses, torch.ones_like(losses, dtype=torch.bool) if are_shares(logits, labels) else labels != IGNORED


def _sum_to_one(scores: Tensor) -> bool:
    scores = scores.float()
    return bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all())


def _tokens(batch: Batch, labels: Tensor) -> Tensor | None:
    """Return the input that has a whole number for every label: tokens."""
    for given in (*batch.args, batch.kwargs.get("input_ids")):
        if isinstance(given, Tensor) and given.shape == labels.shape and not given.dtype.is_floating_point:
            return given
    return None


def _already_ahead(tokens: Tensor, labels: Tensor) -> bool:
    """Tell whether every label is the token of the next position, and not that of its own."""
    scored = labels != IGNORED
    following = (labels[:, :-1] == tokens[:, 1:]) | ~scored[:, :-1]
    return bool(following.all()) and bool((labels != tokens)[scored].any())
