"""The losses that go by a name: of a batch's answers, one number with a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from .labels import IGNORED
from .predictions import Predictions


def _cross_entropy(answers: Predictions) -> Tensor:
    logits, labels = answers.logits
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED)


def _mse(answers: Predictions) -> Tensor:
    found, wanted = answers.values
    return F.mse_loss(found.float(), wanted.float())


LOSSES: Final[dict[str, Callable[[Predictions], Tensor]]] = {"cross_entropy": _cross_entropy, "mse": _mse}
