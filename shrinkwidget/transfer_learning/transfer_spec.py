"""A whole transfer, as it was asked for and as it is done: the lesson, its score, training from scratch beside it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from torch import nn

from ..analysis.parallel import Watch, never
from ..evaluation.evaluate import scores
from ..training.options import TrainingOptions
from ..training.progress import Progress, TrainingLog
from ..training.schedule import Schedule
from .from_scratch import FromScratch
from .strategies import Strategy
from .transfer_result import TransferResult
from .transfer_setup import TransferSetup, module_of
from .transfer_task import TransferTask
from .transfer_trainer import TransferTrainer


@dataclass(frozen=True, eq=False)
class TransferSpec:
    """What a `TrainingRun` is asked for, as a `Job` is: a network with a new head, its task, and how it learns it.

    `provenance` is how the weights were obtained that it begins with; `baseline` the schedule of the same network
    trained from scratch, if that is wanted.
    """

    setup: TransferSetup
    task: TransferTask
    strategy: Strategy
    provenance: str
    baseline: Schedule | None

    @property
    def model(self) -> nn.Module:
        """The network with its new head: a copy of the user's, so that several can be taught at once."""
        return self.setup.network

    @property
    def options(self) -> TrainingOptions:
        """How it is trained."""
        return self.task.options

    @property
    def trains(self) -> bool:
        """Whether it trains, epoch by epoch."""
        return True

    @property
    def kind(self) -> str:
        """What it makes of a model, in a word."""
        return "transferred"

    @property
    def words(self) -> str:
        """What the strategy is."""
        return self.strategy.words("").rstrip(" ,")

    def trainer(self, stopped: Watch = never, patience: float | None = None) -> TransferSession:
        """Return what does it."""
        return TransferSession(self, stopped, patience)


class TransferSession:
    """Does a transfer step by step: its stages are the rounds of its progress, training from scratch is the last."""

    def __init__(self, spec: TransferSpec, stopped: Watch, patience: float | None) -> None:
        self.spec = spec
        self._stopped, self._patience = stopped, patience
        self._lessons = [TransferTrainer(spec.setup, spec.task, spec.strategy, stopped, patience)]
        counts = [part.stage.epochs for part in self._lessons[0].parts]
        names = [f"stage {i} of {len(counts)}" if len(counts) > 1 else "" for i in range(1, len(counts) + 1)]
        if spec.baseline is not None:
            counts, names = [*counts, spec.baseline.epochs], [*(name or "transfer" for name in names), "from scratch"]
        self._epochs, self._names = tuple(counts), names

    @property
    def log(self) -> TrainingLog:
        """All epochs so far, those of training from scratch after those of the transfer."""
        history = [
            entry | {"round": entry["round"] + before}
            for lesson, before in zip(self._lessons, self._before(), strict=True)
            for entry in lesson.history
        ]
        return TrainingLog(history=history, baseline=self._lessons[0].baseline, best=self._lessons[0].best)

    def best(self) -> TransferResult:
        """Return the network as it has been taught so far, without a score."""
        return self._found(self._lessons[0])

    def steps(self) -> Generator[Progress, None, TransferResult]:
        """Do it, and return the result; when it is stopped, the best so far.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        done = yield from self._taught(self._lessons[0])
        if self.spec.baseline is None or self._stopped():
            return done
        fresh = self.spec.setup.from_scratch(self.spec.options.seed)
        scratch = TransferTrainer(fresh, self.spec.task, FromScratch(self.spec.baseline), self._stopped, self._patience)
        self._lessons.append(scratch)
        beside = yield from self._taught(scratch)
        return done if self._stopped() else replace(done, baseline=beside)

    def _taught(self, lesson: TransferTrainer) -> Generator[Progress, None, TransferResult]:
        """Teach one network, score it, and return what came of it."""
        before = self._before()[self._lessons.index(lesson)]
        last = None
        for now in lesson.steps():
            last = self._placed(now, before)
            yield last
        found = self._found(lesson)
        data, options = self.spec.task.eval_data, self.spec.options
        if data is None:
            return found
        for score in scores(found.model, data, options.measured, options.rules, patience=self._patience):
            found = replace(found, score=replace(score, provenance=found.provenance))
            if last is not None:
                yield replace(last, phase="test", test=found.score)
        return found

    def _placed(self, now: Progress, before: int) -> Progress:
        """Return the progress of a lesson as that of the whole transfer."""
        number, rounds = before + now.round, len(self._names)
        return replace(
            now,
            round=number,
            rounds=rounds,
            stage=self._names[number - 1],
            epochs_by_round=self._epochs if rounds > 1 else (),
            eta=now.eta if number == rounds else None,  # how long a step of the stages to come takes is not known
        )

    def _found(self, lesson: TransferTrainer) -> TransferResult:
        result, before = lesson.result(), self.spec.provenance if lesson is self._lessons[0] else "no retraining"
        provenance = result.provenance if before == "no retraining" else f"{before}, then {result.provenance}"
        result = replace(result, provenance=provenance)
        heads, compressed = ", ".join(self.spec.setup.heads), None
        if lesson is self._lessons[0] and self.spec.setup.recipe is not None:
            compressed = result
        return TransferResult(module_of(result), heads, provenance, None, lesson.history, lesson.cost, compressed)

    def _before(self) -> list[int]:
        """Return how many stages come before each network."""
        return [0, len(self._lessons[0].parts)][: len(self._lessons)]
