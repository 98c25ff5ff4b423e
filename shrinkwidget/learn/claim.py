"""Two trainings of one model at once would be a mistake: the second is told so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from torch import nn

from ..errors import TrainingError

_LOCK: Final = threading.Lock()
_CLAIMED: Final[set[int]] = set()
"""The ids of the models that are being trained: while they are, their trainings hold on to them."""


def claim(model: nn.Module) -> None:
    """Claim a model for a training.

    Raises:
        TrainingError: if it is claimed already.
    """
    with _LOCK:
        if id(model) in _CLAIMED:
            raise TrainingError(
                f"this {type(model).__name__} is being trained already: wait() for that run, stop() it, or give a copy"
            )
        _CLAIMED.add(id(model))


def release(model: nn.Module) -> None:
    """Give a claimed model free."""
    with _LOCK:
        _CLAIMED.discard(id(model))


@contextmanager
def claimed(model: nn.Module) -> Iterator[None]:
    """Claim a model for as long as the context lasts; raises as `claim`."""
    claim(model)
    try:
        yield
    finally:
        release(model)
