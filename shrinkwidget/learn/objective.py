"""What a training minimizes: the loss of the labels, and, with a teacher, the distance to its outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError, ShrinkError, TrainingError
from ..measure.call import call, describe, device_of, reason
from ..shrink.compress import copied
from ..train.batches import Batch
from ..train.outputs import IGNORED, class_scores, paired_values
from .options import Training


class Objective:
    """The loss of a batch: one number with a gradient."""

    def __init__(self, options: Training, model: nn.Module) -> None:
        self._loss = _LOSSES[options.loss] if isinstance(options.loss, str) else _own(options.loss)
        self._distil = options.distil
        self._teacher = None if options.distil is None else copied(options.distil.teacher).eval().to(device_of(model))

    def __call__(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss of a model's outputs for a batch.

        Raises:
            DataError: for outputs and targets that do not fit the loss.
        """
        if self._distil is None or self._teacher is None:
            return self._loss(outputs, batch.targets)
        with torch.no_grad():
            taught = call(self._teacher, batch.args, batch.kwargs)
        student, teacher = (class_scores(x, batch.targets)[0] for x in (outputs, taught))
        soft = _distance(student, teacher, self._distil.temperature)
        return self._distil.weight * soft + (1 - self._distil.weight) * self._loss(outputs, batch.targets)


def _distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(student/T)) of logits N×C×…, the mean over all but the classes."""
    if student.shape != teacher.shape:
        raise DataError(f"the teacher's outputs are {describe(teacher)}, the student's {describe(student)}")
    found, wanted = (F.log_softmax(x.float() / temperature, 1) for x in (student, teacher))
    return F.kl_div(found, wanted, reduction="none", log_target=True).sum(1).mean() * temperature**2


def _cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    logits, labels = class_scores(outputs, targets)
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)


def _mse(outputs: Any, targets: Tensor) -> Tensor:
    found, wanted = paired_values(outputs, targets)
    return F.mse_loss(found.float(), wanted.float())


def _own(loss: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """Return the user's loss, with one sentence for what goes wrong in it."""
    name = getattr(loss, "__name__", type(loss).__name__)

    def checked(outputs: Any, targets: Tensor) -> Tensor:
        try:
            found: object = loss(outputs, targets)
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


_LOSSES: Final[dict[str, Callable[[Any, Tensor], Tensor]]] = {"cross_entropy": _cross_entropy, "mse": _mse}
