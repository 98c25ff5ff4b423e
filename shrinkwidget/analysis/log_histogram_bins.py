"""The relative bins of a sketch: 16 to an octave below a group's largest magnitude (see docs/estimate.md)."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..recipe import Granularity

Floats = NDArray[np.float64]

GRANULARITIES: Final[tuple[Granularity, ...]] = ("tensor", "channel", 32, 64, 128)
NM_PATTERNS: Final = ("2:4", "1:4", "4:8")
BINS: Final = 162
RANGES: Final = 64
ATOM: Final = BINS - 1
RATIOS: Final = np.arange(9) / 8
"""Nodes of the ratio between the two ends of a group: its outermost weight on the one side of zero over the other."""

_SHIFT: Final = 19  # leaves sign, exponent and 4 bits of mantissa: 16 bins to an octave
_FIRST: Final = int(np.float32(2.0**-10).view(np.int32)) >> _SHIFT

_STARTS: Final = (np.arange(_FIRST, _FIRST + ATOM, dtype=np.int32) << _SHIFT).view(np.float32).astype(np.float64)
LOW: Final[Floats] = np.concatenate([[0.0], _STARTS[:-1], [1.0]])
"""Lower edge of each bin, in units of the group's range; the last bin is the single point 1."""
HIGH: Final[Floats] = np.concatenate([_STARTS, [1.0]])
"""Upper edge of each bin."""
MIDDLE: Final[Floats] = (LOW + HIGH) / 2


def n_of_m(pattern: str) -> tuple[int, int]:
    """Return (n, m) of an n:m pattern, which keeps n of every m neighbours."""
    n, m = map(int, pattern.split(":"))
    return n, m


def bin_index(u: Tensor) -> Tensor:
    """Return the bin of each relative magnitude, float32 in [0, 1], as int32 of the same shape."""
    index = (u.view(torch.int32) >> _SHIFT) - (_FIRST - 1)
    # 1.0 is the first pattern after the last interval, which is just where the atom's bin stands
    return index.clamp_(0, ATOM)


def bin_of(u: Floats) -> NDArray[np.intp]:
    """Return the bin of each relative magnitude, rounded to float32 first, anything above 1 in the atom."""
    index = (u.astype(np.float32).view(np.int32) >> _SHIFT) - (_FIRST - 1)
    return np.asarray(np.clip(index, 0, ATOM), dtype=np.intp)
