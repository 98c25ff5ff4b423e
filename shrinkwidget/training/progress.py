"""What a training says of itself while it lasts."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from ..evaluation.evaluate import Score

Phase: TypeAlias = Literal["prune", "features", "train", "test", "checkpoint", "norms"]


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
        return " × ".join(factors) + (f" = {steps:,} steps" if self.steps and len(factors) > 1 else "")

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

    def go(self) -> None:
        """Begin to count."""
        self._since = time.perf_counter()

    def rest(self) -> None:
        """Stop counting."""
        self._busy, self._since = self.seconds, None

    def stepped(self) -> None:
        """Count one step of training."""
        self._steps += 1

    @property
    def seconds(self) -> float:
        """Seconds at work."""
        return self._busy + (0.0 if self._since is None else time.perf_counter() - self._since)

    def eta(self, steps_left: int | None) -> float | None:
        """Return the seconds that so many more steps will take, with the tests among them."""
        return None if steps_left is None or not self._steps else self.seconds / self._steps * steps_left
