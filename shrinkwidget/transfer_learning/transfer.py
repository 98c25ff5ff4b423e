"""`transfer`: retrain a model for another task, in the foreground or as a background run."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Final, Literal, Unpack, overload

from torch import nn

from ..analysis.parallel import Watch, never
from ..analysis.run_without_side_effects import device_of, preserve_rng_state
from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import TrainingError
from ..evaluation.evaluate import scores
from ..training.background_run import TrainingRun, run_displayed
from ..training.progress import Progress, TrainingLog
from ..training.rng import EVALUATION, fork_rng
from ..training.schedules_and_methods import Schedule, named
from ..training.training_options import OF_METHOD, TrainingFields, TrainingOptions, options_from
from .prepare_model import TransferSetup, TransferTask, module_of, set_up_transfer
from .strategies import STRATEGIES, FromScratch, FullFineTune, LinearProbe, Strategy, StrategyName, default_schedule
from .transfer_result import TransferResult
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
        """The network with its new head: a copy of the user's, so that several can be trained at once."""
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
        self._trainers = [TransferTrainer(spec.setup, spec.task, spec.strategy, stopped, patience)]
        counts = [part.stage.epochs for part in self._trainers[0].parts]
        names = [f"stage {i} of {len(counts)}" if len(counts) > 1 else "" for i in range(1, len(counts) + 1)]
        if spec.baseline is not None:
            counts, names = [*counts, spec.baseline.epochs], [*(name or "transfer" for name in names), "from scratch"]
        self._epochs, self._names = tuple(counts), names

    @property
    def log(self) -> TrainingLog:
        """All epochs so far, those of training from scratch after those of the transfer."""
        history = [
            entry | {"round": entry["round"] + before}
            for trainer, before in zip(self._trainers, self._before(), strict=True)
            for entry in trainer.history
        ]
        return TrainingLog(history=history, baseline=self._trainers[0].baseline, best=self._trainers[0].best)

    def best(self) -> TransferResult:
        """Return the network as it has been trained so far, without a score."""
        return self._found(self._trainers[0])

    def steps(self) -> Generator[Progress, None, TransferResult]:
        """Do it, and return the result; when it is stopped, the best so far.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        done = yield from self._train(self._trainers[0])
        if self.spec.baseline is None or self._stopped():
            return done
        fresh = self.spec.setup.from_scratch(self.spec.options.seed)
        scratch = TransferTrainer(fresh, self.spec.task, FromScratch(self.spec.baseline), self._stopped, self._patience)
        self._trainers.append(scratch)
        beside = yield from self._train(scratch)
        return done if self._stopped() else replace(done, baseline=beside)

    def _train(self, trainer: TransferTrainer) -> Generator[Progress, None, TransferResult]:
        """Train one network, score it, and return the result."""
        before = self._before()[self._trainers.index(trainer)]
        last = None
        for now in trainer.steps():
            last = self._placed(now, before)
            yield last
        found = self._found(trainer)
        data, options = self.spec.task.eval_data, self.spec.options
        if data is None:
            return found
        scored = scores(found.model, data, options.measured, options.rules, patience=self._patience)
        device = device_of(found.model)
        for step in count():
            with fork_rng(device, options.seed, EVALUATION, step):  # leaves the caller's random numbers alone
                score = next(scored, None)
            if score is None:
                break
            found = replace(found, score=replace(score, provenance=found.provenance))
            if last is not None:
                yield replace(last, phase="test", test=found.score)
        return found

    def _placed(self, now: Progress, before: int) -> Progress:
        """Return the progress of a trainer as that of the whole transfer."""
        number, rounds = before + now.round, len(self._names)
        return replace(
            now,
            round=number,
            rounds=rounds,
            stage=self._names[number - 1],
            epochs_by_round=self._epochs if rounds > 1 else (),
            eta=now.eta if number == rounds else None,  # how long a step of the stages to come takes is not known
        )

    def _found(self, trainer: TransferTrainer) -> TransferResult:
        result, before = trainer.result(), self.spec.provenance if trainer is self._trainers[0] else "no retraining"
        provenance = result.provenance if before == "no retraining" else f"{before}, then {result.provenance}"
        result = replace(result, provenance=provenance)
        heads, compressed = ", ".join(self.spec.setup.heads), None
        if trainer is self._trainers[0] and self.spec.setup.recipe is not None:
            compressed = result
        return TransferResult(module_of(result), heads, provenance, None, trainer.history, trainer.cost, compressed)

    def _before(self) -> list[int]:
        """Return how many stages come before each network."""
        return [0, len(self._trainers[0].parts)][: len(self._trainers)]


_ELSEWHERE: Final = {kind: f"strategy={kind.__name__}({{}}=…)" for kind in STRATEGIES.values()}


@overload
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TransferResult: ...
@overload
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[TransferResult]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE)
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TransferResult | TrainingRun[TransferResult]:
    """Return a model fine-tuned for another task, with a new head in place of the old; the one given is untouched.

    >>> import shrinkwidget as sw
    >>> result = sw.transfer(sw.demo.model(), sw.demo.few(per_class=8), epochs=5)
    >>> result.provenance
    'transferred, new head trained 5 epochs'

    In a notebook it is shown while it lasts; stopping it ends it with the best weights so far.

    Args:
        model: a module, or a `CompressedModel`, whose pruned weights stay zero; its new head is dense, in as many bits
            as the recipe says, unless the recipe names the head's sparsity or keeps it.
        train_data: a pair of tensors (inputs, targets), a dataset, a DataLoader, or a list of batches.
        eval_data: as `train_data`; scored after every epoch, and nothing is chosen by it.
        classes: how many the new head tells apart; by default they are counted in the labels.
        targets: for a regression instead, how many numbers it predicts.
        head: the old head's name, or that of a module it is the last Linear layer or 1×1 convolution of; by default the
            last layer to run, with those of as many outputs if the model needs all of them replaced (LeViT, distilled
            DeiT). Several are given as a list.
        strategy: what learns: ``"linear_probe"``, ``"full_finetune"``, ``"gradual_unfreezing"``, ``"lora"``, or an
            object of `shrinkwidget.methods` with settings of its own, such as ``LoRA(rank=8)``.
        options: all else: loss, batches, seed. A regression has the loss ``"mse"`` unless it is given a function.
        baseline: True to train the same network from scratch, too, dense, on the same data, for comparison: for 30
            epochs or 300 steps, whichever is longer; or by a schedule.
        background: True for a `TrainingRun` on a thread of its own, already started, instead of the result; `monitor`
            shows it.
        progress: see `retrain`.
        fields: `epochs`, `lr` and `optimizer` change the strategy, all others the options.

    Raises:
        ModelError: if the head is not found; the candidates are listed.
        DataError: for data that does not fit the model, or labels out of range.
        TrainingError: for other arguments that do not fit, and for a training that cannot go on; the error's `best`
            then holds the best weights.
        ArgumentError: for an unknown keyword.
    """
    by = named(strategy, STRATEGIES, "strategy", {name: fields.get(name) for name in OF_METHOD})
    if not isinstance(by, Strategy) or isinstance(by, type):
        example = f"{LinearProbe.__name__}() or {FullFineTune.__name__}(epochs=10)"
        raise TrainingError(
            f"strategy={strategy!r} must be a name such as 'linear_probe', or an object such as {example}"
        )
    if not isinstance(baseline, bool | Schedule):
        raise TrainingError(f"baseline={baseline!r} must be True, False, or a Schedule to train from scratch by")
    task = TransferTask.of(train_data, eval_data, classes, targets, options_from(options, fields))
    with preserve_rng_state():
        setup = set_up_transfer(model, task, head)
    schedule = (default_schedule(task) if baseline else None) if isinstance(baseline, bool) else baseline
    provenance = model.provenance if isinstance(model, CompressedModel) else "no retraining"
    spec = TransferSpec(setup, task, by, provenance, schedule)
    if background:
        return TrainingRun[TransferResult](spec).start()
    found: TransferResult = run_displayed(spec, progress)
    return found
