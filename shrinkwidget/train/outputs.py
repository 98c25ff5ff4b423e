"""Reads predictions out of whatever a model returns, and pairs them with the labels they predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..measure.call import describe

IGNORED: Final = -100
"""The label that is not scored, as in ``torch.nn.functional.cross_entropy``."""


def no_nan(values: Tensor, name: str = "") -> Tensor:
    """Return the values, or raise a `DataError` if one is NaN, naming the metric that made them."""
    if bool(values.isnan().any()):
        raise DataError(f"the metric {name!r} returned NaN" if name else "the outputs or the targets hold NaN")
    return values


def prediction(output: Any) -> Tensor:
    """Return the tensor a model predicts with: its output, or the ``logits`` or ``out`` of it, or the first of a tuple.

    Raises:
        DataError: if there is none, or it has no batch dimension.
    """
    found: object = output
    if not isinstance(output, Tensor):
        named = [_part(output, key) for key in ("logits", "out")]
        found = next((part for part in named if isinstance(part, Tensor)), None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, Tensor) or found.ndim == 0:
        what = describe(found if isinstance(found, Tensor) else output)
        raise DataError(
            f"the model returned {what}; expected a tensor of N×…, or logits; else pass a function as metric"
        )
    return found


def _part(output: Any, key: str) -> object:
    return output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)


def paired_values(output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prediction of a regression and the targets, both of the prediction's shape and on its device.

    Raises:
        DataError: for shapes that do not fit; N×1 fits N.
    """
    found = prediction(output)
    if found.numel() != targets.numel() or len(found) != len(targets) or _squeezed(found) != _squeezed(targets):
        raise DataError(f"outputs are {describe(found)}, targets {describe(targets)}; expected the same shape")
    return found, targets.to(found.device).reshape(found.shape)


def _squeezed(tensor: Tensor) -> list[int]:
    """Return the sizes that count, so that N×1 fits N but N×2×3 does not fit N×3×2."""
    return [size for size in tensor.shape[1:] if size != 1]


def class_scores(output: Any, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits N×C×… and the labels N×… they are scored against.

    Logits are N×C×… as PyTorch's losses want them, or have the classes last as Hugging Face has them; one logit per
    label (N or N×1×…) is that of class 1. A model that returns its own ``loss`` next to logits of a sequence tells by
    it whether position i predicts label i or label i + 1.

    Raises:
        DataError: for shapes that do not fit, labels that are no class, or NaN in the logits.
    """
    logits = prediction(output)
    logits, labels = _paired(logits, targets.to(logits.device), classes_last=not isinstance(output, Tensor))
    if logits.dtype.is_floating_point:
        no_nan(logits)
    labels = _checked_labels(labels, logits.shape[1])
    loss = _part(output, "loss")
    if labels.ndim == 2 and isinstance(loss, Tensor) and loss.numel() == 1:
        logits, labels = _shifted_as(loss.item(), logits, labels)
    return logits, labels


def _paired(logits: Tensor, labels: Tensor, classes_last: bool) -> tuple[Tensor, Tensor]:
    """Bring classes to dimension 1; where both places fit, `classes_last` decides."""
    first = logits.ndim > 1 and logits.shape[:1] + logits.shape[2:] == labels.shape
    last = logits.ndim > 1 and logits.shape[:-1] == labels.shape
    if last and (classes_last or not first):
        logits, first = logits.movedim(-1, 1), True
    if first and logits.shape[1] > 1:
        return logits, labels
    if first:
        logits = logits.squeeze(1)
    elif logits.shape != labels.shape or (logits.ndim > 1 and logits.shape[1] > 1):
        raise DataError(_misfit(logits, labels))
    return torch.stack([torch.zeros_like(logits), logits], 1), labels


def _misfit(logits: Tensor, labels: Tensor) -> str:
    found = f"outputs are {describe(logits)}, labels {describe(labels)}"
    if logits.shape == labels.shape:
        return f"{found}: labels must be class numbers; pass targets.argmax(1), or a function as metric"
    return f"{found}; expected logits N×C×… and labels N×…"


def _checked_labels(labels: Tensor, classes: int) -> Tensor:
    if labels.is_complex() or (labels.dtype.is_floating_point and not bool((labels == labels.round()).all())):
        raise DataError(
            f"labels are {describe(labels)}; expected whole class numbers (for regression use metric='mse')"
        )
    labels = labels.long()
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if strange.numel():
        raise DataError(
            f"label {int(strange[0])} is out of range: the model tells {classes} classes apart, 0 to {classes - 1} "
            f"({IGNORED} marks a label that is not scored)"
        )
    return labels


def _shifted_as(loss: float, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a sequence paired as the model paired them when it computed its loss."""
    ahead = logits[:, :, :-1], labels[:, 1:]

    def distance(pair: tuple[Tensor, Tensor]) -> float:
        scored = pair[1] != IGNORED
        return abs(float(cross_entropy(*pair).sum() / scored.sum()) - loss)

    return ahead if distance(ahead) < distance((logits, labels)) else (logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss in nats of every label, of the labels' shape; 0 for one that is not scored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")
