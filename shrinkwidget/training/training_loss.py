"""What a training minimizes: the loss of the labels, and, with a teacher, the distance to its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..analysis.run_without_side_effects import call, describe, device_of, reason
from ..compression.apply_recipe import copied
from ..errors import DataError, ShrinkError, TrainingError
from ..evaluation.batches import Batch
from ..evaluation.labels import IGNORED, are_shares
from ..evaluation.metrics import LOSSES
from ..evaluation.predictions import OutputReader, Predictions
from .options import TrainingOptions


class TrainingLoss:
    """The loss of a batch: one number with a gradient."""

    def __init__(self, options: TrainingOptions, model: nn.Module) -> None:
        self._loss = LOSSES[options.loss] if isinstance(options.loss, str) else _own(options.loss)
        self._distillation = options.distillation
        self._teacher = (
            None if options.distillation is None else copied(options.distillation.teacher).eval().to(device_of(model))
        )

    def __call__(self, answers: Predictions, batch: Batch) -> Tensor:
        """Return the loss of a model's answers to a batch.

        Raises:
            DataError: for outputs and targets that do not fit the loss.
        """
        if self._distillation is None or self._teacher is None:
            return self._loss(answers)
        student, labels = answers.logits
        with torch.no_grad():
            taught = call(self._teacher, batch.args, batch.kwargs)
            teacher, _ = OutputReader(self._teacher, answers.rules).read(taught, batch).logits
        soft = _distance(student, teacher, labels, self._distillation.temperature)
        return self._distillation.weight * soft + (1 - self._distillation.weight) * self._loss(answers)


def _distance(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(student/T)) of logits N×C×…, the mean over the labels scored."""
    if student.shape != teacher.shape:
        raise DataError(f"the teacher's outputs are {describe(teacher)}, the student's {describe(student)}")
    found, wanted = (F.log_softmax(x.float() / temperature, 1) for x in (student, teacher))
    apart = F.kl_div(found, wanted, reduction="none", log_target=True).sum(1)
    if not are_shares(student, labels) and bool((labels == IGNORED).any()):
        apart = apart[labels != IGNORED]
    return apart.mean() * temperature**2


def _own(loss: Callable[[Any, Tensor], Tensor]) -> Callable[[Predictions], Tensor]:
    """Return the user's loss, with one sentence for what goes wrong in it."""
    name = getattr(loss, "__name__", type(loss).__name__)

    def checked(answers: Predictions) -> Tensor:
        try:
            found: object = loss(answers.output, answers.targets)
        except ShrinkError:
            raise
        except Exception as error:
            raise DataError(f"the loss {name!r} failed: {reason(error)}") from error
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise TrainingError(f"the loss {name!r} returned {describe(found)}; expected one number: take its mean()")
        if not found.requires_grad:
            raise TrainingError(f"the loss {name!r} returned a number without a gradient: compute it from the outputs")
        return found.reshape(())

    return checked
