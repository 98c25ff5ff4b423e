"""Two trainings of one model at once would be a mistake: the second is told so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from torch import nn

from ..analysis.parallel import in_forked_children
from ..errors import TrainingError

_LOCK = threading.Lock()
_CLAIMED: Final[set[int]] = set()
"""The ids of the models that are being trained: while they are, their trainings hold on to them."""


def _forget() -> None:
    """The trainings of a process go on in it, not in its forked children."""
    global _LOCK
    _LOCK = threading.Lock()
    _CLAIMED.clear()


in_forked_children(_forget)


def lock_model(model: nn.Module) -> None:
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


def unlock_model(model: nn.Module) -> None:
    """Give a claimed model free."""
    with _LOCK:
        _CLAIMED.discard(id(model))


@contextmanager
def locked_model(model: nn.Module) -> Iterator[None]:
    """Claim a model for as long as the context lasts; raises as `lock_model`."""
    lock_model(model)
    try:
        yield
    finally:
        unlock_model(model)
