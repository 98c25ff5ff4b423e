"""What a training has done so far, and the best weights it has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from torch import Tensor, nn

from ..compression.apply_recipe import fill
from ..errors import FileError, TrainingError
from ..evaluation.evaluate import Score
from ..evaluation.metrics import Metric


@dataclass(frozen=True, slots=True, eq=False)
class BestWeights:
    """Weights that a stop returns: those a round ended with, or the best epoch of the round after it.

    `state` holds every parameter and buffer by name, as they are trained: not yet rounded to their grid. They have
    trained `epoch` epochs of round `round` (from 0); `value` is their score, None without `eval_data`.
    """

    state: dict[str, Tensor]
    round: int
    epoch: int
    value: float | None

    def beats(self, other: BestWeights | None, metric: Metric) -> bool:
        """Tell whether this is to be kept instead of another; of two equally good epochs of a round, the later."""
        if other is None or other.round != self.round or self.value is None or other.value is None:
            return True
        return self.value >= other.value if metric.higher else self.value <= other.value


@dataclass(slots=True)
class TrainingLog:
    """Where a training is: `epoch` epochs of round `round` (from 0) are complete.

    `history` has an entry for every epoch, `points` one for every round, plain and JSON-able both; `baseline` is the
    score of the model as it came.
    """

    round: int = 0
    epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] | None = None
    best: BestWeights | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: all but the best weights themselves."""
        best = None if self.best is None else [self.best.round, self.best.epoch, self.best.value]
        return {f.name: getattr(self, f.name) for f in fields(self)} | {"best": best}

    @classmethod
    def from_dict(cls, found: Any, best: dict[str, Tensor], rounds: int, epochs: int) -> TrainingLog:
        """Read what `to_dict` wrote, given the best weights, for a training of so many rounds of so many epochs.

        Raises:
            FileError: for a log that no such training has written.
        """
        if not isinstance(found, dict) or set(found) != {f.name for f in fields(cls)}:
            raise FileError("its log is not that of a training")
        round_, epoch, history, points = (found[name] for name in ("round", "epoch", "history", "points"))
        places = [(r + 1, e + 1) for r in range(rounds) for e in range(epochs)]
        done = type(round_) is int and type(epoch) is int and round_ * epochs + epoch
        if not (
            0 <= done <= len(places)
            and 0 <= epoch < epochs
            and _rows(history, HISTORY_ROW, places[:done])
            and _rows(points, POINT_ROW, [(r + 1,) for r in range(round_)])
            and (found["baseline"] is None or _is_score(found["baseline"]))
            and _is_best(found["best"], places[:done])
        ):
            raise FileError(f"its log is not one of {rounds} round{'s' * (rounds != 1)} of {epochs} epochs")
        return cls(**found | {"best": found["best"] and BestWeights(best, *found["best"])})


HISTORY_ROW: Final = ("round", "epoch", "step", "examples", "loss", "train", "test", "lr", "sparsity", "seconds")
"""What is noted of every epoch."""
POINT_ROW: Final = ("round", "nbytes", "ratio", "sparsity", "test")
"""What is noted of every round."""


def _rows(found: Any, names: tuple[str, ...], places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether rows are of these places, in order, and hold numbers, or a score for a test."""
    if not isinstance(found, list) or len(found) != len(places):
        return False
    for row, place in zip(found, places, strict=True):
        if not isinstance(row, dict) or set(row) != set(names):
            return False
        if tuple(row[name] for name in names[: len(place)]) != place:
            return False
        if not all(_is_number(x) or (name == "test" and _is_score(x)) for name, x in row.items()):
            return False
    return True


def _is_number(found: Any) -> bool:
    return found is None or (isinstance(found, int | float) and not isinstance(found, bool))


def _is_score(found: Any) -> bool:
    if not isinstance(found, dict) or {f.name for f in fields(Score)} - {"by_class"} != set(found):
        return False
    numbers = all(_is_number(found[name]) for name in ("value", "low", "high", "n", "total"))
    flags = all(isinstance(found[name], bool) for name in ("done", "percent", "higher"))
    warnings = found["warnings"]
    return numbers and flags and isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)


def _is_best(found: Any, places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether the best weights are of one of the epochs that were trained, as they must be once there is one."""
    if not places:
        return found is None
    if not isinstance(found, list) or len(found) != 3 or not _is_number(found[2]):
        return False
    return type(found[0]) is int and (found[0] + 1, found[1]) in places


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, by name, contiguous."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone().contiguous() for name, tensor in named}


def restore_state(network: nn.Module, early: Mapping[str, Tensor]) -> None:
    """Write the weights of an earlier epoch over a network's.

    Raises:
        TrainingError: for a name or a shape the network does not have.
    """
    now = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, tensor in early.items():
        if name not in now or now[name].shape != tensor.shape:
            found = f"its shape is {list(now[name].shape)}" if name in now else "there is none"
            raise TrainingError(
                f"WeightRewinding(state_dict=…) holds {name!r} of shape {list(tensor.shape)}, but in this "
                f"{type(network).__name__} {found}"
            )
    fill(network, early.items())


def check_finite(network: nn.Module) -> None:
    """Raise a `TrainingError` for a weight or a buffer that is NaN or infinite."""
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise TrainingError(f"{name!r} is no longer finite: the learning rate is too high, or a batch is broken")
