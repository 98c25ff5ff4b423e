"""Calibration data: examples that tell an importance what flows through a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What an importance may see of a network: a copy of it in eval mode, and the calibration data batch by batch."""

    model: nn.Module
    batches: Callable[[], Iterator[Any]]
