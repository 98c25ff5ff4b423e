"""What a training has done so far, and the best weights it has found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor, nn

from ..errors import TrainingError
from ..shrink.compress import fill
from ..train.metrics import Metric


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """Weights that a stop returns: those a round ended with, or the best epoch of the round after it.

    `state` holds every parameter and buffer by name, as they are trained: not yet rounded to their grid. They have
    trained `epoch` epochs of round `round` (from 0); `value` is their score, None without test data.
    """

    state: dict[str, Tensor]
    round: int
    epoch: int
    value: float | None

    def beats(self, other: Best | None, metric: Metric) -> bool:
        """Tell whether this is to be kept instead of another; of two equally good epochs of a round, the later."""
        if other is None or other.round != self.round or self.value is None or other.value is None:
            return True
        return self.value >= other.value if metric.higher else self.value <= other.value


@dataclass(slots=True)
class Log:
    """Where a training is: `epoch` epochs of round `round` (from 0) are complete.

    `history` has an entry for every epoch, `points` one for every round, plain and JSON-able both; `baseline` is the
    score of the model as it came.
    """

    round: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] | None = None
    best: Best | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: all but the best weights themselves."""
        best = None if self.best is None else [self.best.round, self.best.epoch, self.best.value]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"best": best}

    @classmethod
    def from_dict(cls, found: dict[str, Any], best: dict[str, Tensor]) -> Log:
        """Read what `to_dict` wrote, given the best weights."""
        return cls(**found | {"best": found["best"] and Best(best, *found["best"])})


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, by name, contiguous."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone().contiguous() for name, tensor in named}


def rewind(network: nn.Module, early: Mapping[str, Tensor]) -> None:
    """Write the weights of an earlier epoch over a network's.

    Raises:
        TrainingError: for a name or a shape the network does not have.
    """
    now = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, tensor in early.items():
        if name not in now or now[name].shape != tensor.shape:
            found = f"its shape is {list(now[name].shape)}" if name in now else "there is none"
            raise TrainingError(
                f"RewindWeights(early=…) holds {name!r} of shape {list(tensor.shape)}, but in this "
                f"{type(network).__name__} {found}"
            )
    fill(network, early.items())


def check_finite(network: nn.Module) -> None:
    """Raise a `TrainingError` for a weight or a buffer that is NaN or infinite."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(f"{name!r} is no longer finite: the learning rate is too high, or a batch is broken")
