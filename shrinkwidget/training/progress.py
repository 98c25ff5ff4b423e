"""Progress of a training: where it is now, its log of epochs and rounds, the best weights so far, and how it is shown.

A notebook has a monitor for it (`widgets/monitor.py`); here is what a terminal, or a file that stderr goes to, is told.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, TypeAlias

from torch import Tensor
from tqdm import tqdm

from ..errors import FileError
from ..evaluation.evaluate import Score
from ..evaluation.metrics import Metric

Phase: TypeAlias = Literal["prune", "features", "train", "test", "checkpoint", "norms", "compensate"]


_WITHOUT_EPOCHS: Final[dict[Phase, str]] = {"norms": "batch norm", "compensate": "error compensation"}


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training is.

    Args:
        phase: what it is doing.
        round, rounds: from 1; a plain retraining is one round.
        epoch, epochs: of the round, from 1; 0 before the first.
        step, steps: of the epoch, from 1; `steps` is None where the data does not say.
        examples: seen in the epoch so far.
        loss: mean over the epoch so far; None before the first step.
        train: the metric on the training batches of the epoch so far; None before there is a label to score.
        test: the score of `eval_data`, so far while the phase is "test"; None without it.
        lr: the learning rate of the last step.
        sparsity: fraction of the compressible weights that is pruned.
        nbytes, ratio: of the file `save` would write, and by how much that is smaller than the dense one.
        rate: examples per second, in training.
        eta: seconds to the end of all rounds; None while nobody can tell.
        stage: what the round is called, where it is a stage of a transfer; "" else.
        epochs_by_round: of every round, where they differ; () where all have as many as this one.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
        >>> run.wait(), run.progress.epoch, run.progress.steps
        (True, 1, 2)
    """

    phase: Phase
    round: int
    rounds: int
    epochs: int
    epoch: int = 0
    step: int = 0
    steps: int | None = None
    examples: int = 0
    loss: float | None = None
    train: float | None = None
    test: Score | None = None
    lr: float | None = None
    sparsity: float = 0.0
    nbytes: int | None = None
    ratio: float | None = None
    rate: float | None = None
    eta: float | None = None
    stage: str = ""
    epochs_by_round: tuple[int, ...] = ()

    @property
    def place(self) -> str:
        """Where it is: ``"round 2/12, epoch 3/30"``."""
        if self.phase in _WITHOUT_EPOCHS:
            return _WITHOUT_EPOCHS[self.phase]
        rounds = f"{self.stage}, " if self.stage else f"round {self.round}/{self.rounds}, " if self.rounds > 1 else ""
        return f"{rounds}epoch {self.epoch}/{self.epochs}"

    @property
    def plan(self) -> str:
        """What the whole training takes: ``"12 rounds × 30 epochs × 45 steps = 16,200 steps"``."""
        if len(set(self.epochs_by_round)) > 1:
            return f"{self.rounds} stages of {' + '.join(map(str, self.epochs_by_round))} epochs"
        counts = [(self.rounds, "stage" if self.stage else "round"), (self.epochs, "epoch"), (self.steps, "step")]
        factors = [f"{n:,} {what}{'s' * (n != 1)}" for n, what in counts if n and (n > 1 or what != "round")]
        steps = self.rounds * self.epochs * (self.steps or 0)
        total = f" = {steps:,} step{'s' * (steps != 1)}" if self.steps and len(factors) > 1 else ""
        return " × ".join(factors) + total

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> run.wait(), run.progress.to_dict()["epoch"]
            (True, 1)
        """
        return asdict(replace(self, test=None)) | {"test": self.test and self.test.to_dict()}


def duration(seconds: float) -> str:
    """Return a time as people say it: ``"48 s"``, ``"2 min"``, ``"1 h 12 min"``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class StepTimer:
    """Counts the seconds a training works, without those it is paused, and what it does in them."""

    def __init__(self) -> None:
        self._busy = 0.0
        self._since: float | None = None
        self._steps = 0
        self._first = 0.0

    def go(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def rest(self) -> None:
        """Stop counting."""
        self._busy, self._since = self.seconds, None

    def stepped(self) -> None:
        """Count one step of training."""
        self._steps += 1
        if self._steps == 1:
            self._first = self.seconds

    @property
    def seconds(self) -> float:
        """Seconds at work."""
        return self._busy + (0.0 if self._since is None else time.perf_counter() - self._since)

    def eta(self, steps_left: int | None) -> float | None:
        """Return the seconds that so many more steps will take, with the tests among them; None before the second."""
        if steps_left is None or self._steps < 2:
            return None
        # All the time at work, not that of the steps alone: so what tests and checkpoints take is in the mean. The
        # first step is not: it allocates memory or compiles kernels, and may take a hundred times as long as another.
        return (self.seconds - self._first) / (self._steps - 1) * steps_left


@dataclass(frozen=True, slots=True, eq=False)
class BestWeights:
    """The weights `stop` returns: the best epoch of the current round, or the end of the round before.

    `state` holds every parameter and buffer by name, as they are trained: not yet rounded to their grid. They have
    trained `epoch` epochs of round `round` (from 0); `value` is their score, None without `eval_data`.
    """

    state: dict[str, Tensor]
    round: int
    epoch: int
    value: float | None

    def beats(self, other: BestWeights | None, metric: Metric) -> bool:
        """Tell whether this is to be kept instead of another; of two equally good epochs of a round, the later."""
        # Weights of an earlier round are of another recipe, less sparse, and no measure for these.
        if other is None or other.round != self.round or self.value is None or other.value is None:
            return True
        # "≥": of two equally good epochs the later has seen more data.
        return self.value >= other.value if metric.higher else self.value <= other.value


@dataclass(slots=True)
class TrainingLog:
    """What a training has done: `epoch` epochs of round `round` (from 0) are complete.

    `history` has an entry for every epoch, `points` one for every round, plain and JSON-able both; `baseline` is the
    score before training.
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
        # A file may be forged or cut by hand: a log is taken only if it is what so many epochs would have written.
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
"""The columns of the history, one row per epoch."""
POINT_ROW: Final = ("round", "nbytes", "ratio", "sparsity", "sqnr", "macs", "test")
"""The columns of the points, one row per round."""


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
    texts = all(isinstance(found[name], str) for name in ("metric", "provenance", "checksum"))
    flags = all(isinstance(found[name], bool) for name in ("done", "percent", "higher"))
    warnings = found["warnings"]
    return (
        numbers and texts and flags and isinstance(warnings, list) and all(isinstance(text, str) for text in warnings)
    )


def _is_best(found: Any, places: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether the best weights are of one of the epochs that were trained, as they must be once there is one."""
    if not places:
        return found is None
    if not isinstance(found, list) or len(found) != 3 or not _is_number(found[2]):
        return False
    return type(found[0]) is int and (found[0] + 1, found[1]) in places


# What a terminal shows: a bar, or lines where stderr is no terminal

_LINE_SECONDS: Final = 10.0  # between two lines about complete epochs
_LONG_SECONDS: Final = 60.0  # after so long within an epoch a line tells that it goes on

# After so many seconds or steps the time that a training takes is known well enough to say it: the first steps are
# slower than the rest, by a factor of ten where memory is allocated or kernels are compiled.
_PLAN_SECONDS: Final = 1.0
_PLAN_STEPS: Final = 20


class ProgressLines:
    """Says once what a training takes, then how far it is: in a bar, or in lines where there is no terminal."""

    def __init__(self, title: str, bar: tqdm[None]) -> None:
        self._title, self._bar = title, bar
        self._began = self._told = time.monotonic()
        self._first_step: float | None = None
        self._steps = 0
        self._planned = False
        self._last: Progress | None = None

    def tell(self, now: Progress) -> None:
        """Take note of progress, and tell what is due."""
        last, self._last = self._last, now
        if now.phase == "train":
            self._steps += 1
            self._first_step = self._first_step or time.monotonic()
            known = self._steps >= _PLAN_STEPS or time.monotonic() - self._first_step >= _PLAN_SECONDS
            if not self._planned and (known or now.step == now.steps):
                self._planned = True
                about = "" if now.eta is None else f", about {duration(now.eta)}"
                tqdm.write(f"training {self._title}: {now.plan}{about}", file=sys.stderr)
        if not self._bar.disable:
            # Stages of a transfer differ in their steps, and nobody knows yet how many the later ones have.
            known = now.steps is not None and len(set(now.epochs_by_round)) < 2
            self._bar.total = now.rounds * now.epochs * (now.steps or 0) if known else None
            if now.phase == "train":
                self._bar.update()
            elif now.phase == "compensate":
                self._bar.n = now.step
            self._bar.set_description(now.place, refresh=False)
            self._bar.set_postfix_str(", ".join(_figures(now)), refresh=False)
        elif last is not None and last.epoch and (last.round, last.epoch) != (now.round, now.epoch):
            self._line(last, _LINE_SECONDS)
        else:
            self._line(now, _LONG_SECONDS)

    def end(self) -> None:
        """Tell what came of it."""
        if self._bar.disable and self._last is not None:
            seconds = duration(time.monotonic() - self._began)
            sys.stderr.write(f"{self._last.place}: {', '.join(_figures(self._last))}, done in {seconds}\n")

    def _line(self, now: Progress, after: float) -> None:
        if time.monotonic() - self._told >= after:
            self._told = time.monotonic()
            left = "" if not now.eta else f", about {duration(now.eta)} left"
            sys.stderr.write(f"{now.place}: {', '.join(_figures(now))}{left}\n")


def _figures(now: Progress) -> list[str]:
    if now.phase == "compensate":
        return [f"layer {now.step:,} of {now.steps:,}"]
    if now.phase == "norms":  # nothing is pruned or trained meanwhile
        return [f"statistics of {now.step:,} batch{'es' * (now.step != 1)}"]
    figures = [f"{now.sparsity:.1%} sparse"]
    if now.loss is not None:
        figures.append(f"loss {now.loss:.3f}")
    if now.test is not None:
        figures.append(f"validation {now.test.metric} {now.test.text}")
    return figures
