"""What differs between two checkpoints, tensor by tensor: base and fine-tuned, dense and pruned, two epochs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from .open_and_dequantize_checkpoint import ViewedCheckpoint
from .tensor_ops_threads_and_cpu_kernel import CHUNK

BINS: Final = 81
"""Bins of a distribution, an odd number, so that zero is in the middle of one."""
_REACH: Final = 4.0
"""Root mean squares that a distribution reaches to either side; what lies beyond counts in its outermost bins."""


@dataclass(frozen=True, slots=True)
class TensorChange:
    """How a tensor differs from the one of the same name and shape in another checkpoint.

    `change` is ‖a − b‖ / ‖a‖: 0 where nothing changed, infinite where a is all zero and b is not, NaN where one of them
    is not finite. `changed` of the `n` elements differ at all; `zeros` are zero, in a and in b. `counts` are both
    distributions in `BINS` equal bins from -`span` to `span`.
    """

    name: str
    n: int
    change: float
    changed: int
    zeros: tuple[int, int]
    span: float
    counts: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Differences:
    """The names of the tensors that both checkpoints hold in the same shape, and all others.

    `only` are those that one of both lacks; `reshaped` those of another shape, with both.
    """

    both: tuple[str, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def differences(a: ViewedCheckpoint, b: ViewedCheckpoint) -> Differences:
    """Return which tensors can be compared; no weight is read."""
    shapes = {e.name: e.shape for e in a.weights.entries}, {e.name: e.shape for e in b.weights.entries}
    shared = [name for name in shapes[0] if name in shapes[1]]
    return Differences(
        both=tuple(name for name in shared if shapes[0][name] == shapes[1][name]),
        only=(
            tuple(name for name in shapes[0] if name not in shapes[1]),
            tuple(name for name in shapes[1] if name not in shapes[0]),
        ),
        reshaped={n: (shapes[0][n], shapes[1][n]) for n in shared if shapes[0][n] != shapes[1][n]},
    )


@torch.no_grad()
def compare_tensors(name: str, a: Tensor, b: Tensor) -> TensorChange:
    """Return how b differs from a, which has the same shape, in two passes over both in memory."""
    size = squares = moved = 0.0
    changed, zeros = 0, [0, 0]
    # In pieces, so that the float64 copies are of a piece and not of a tensor: checkpoints are as large as memory
    # allows.
    pairs = list(zip(torch.split(a.reshape(-1), CHUNK), torch.split(b.reshape(-1), CHUNK), strict=True))
    for x, y in pairs:
        x, y = x.double(), y.double()
        changed += int((x != y).sum())
        zeros[0] += int((x == 0).sum())
        zeros[1] += int((y == 0).sum())
        size += float(x.dot(x))
        squares += float(y.dot(y))
        moved += float((x - y).square_().sum())
    n = a.numel()
    # One axis for both, or a pruned and a dense distribution could not be laid over each other.
    span = _REACH * math.sqrt(max(size, squares) / max(n, 1)) if math.isfinite(size + squares) else 0.0
    counts = [torch.zeros(BINS, dtype=torch.int64), torch.zeros(BINS, dtype=torch.int64)]
    if span:
        for pair in pairs:
            for into, values in zip(counts, pair, strict=True):
                bins = ((values.double() / span + 1) * (BINS / 2)).floor_().clamp_(0, BINS - 1)
                into += torch.bincount(bins.long(), minlength=BINS)
    change = math.sqrt(moved / size) if size else math.inf if moved else 0.0
    return TensorChange(
        name, n, change, changed, (zeros[0], zeros[1]), span,
        (tuple(counts[0].tolist()), tuple(counts[1].tolist())),
    )  # fmt: skip
