"""`transfer`: fine-tune a model for another task, in the foreground or as a background run.

From top to bottom: what a user calls, what is asked for, the session that does it (the transfer, then training from
scratch beside it), and the trainer of one network, stage after stage.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final, Literal, Unpack, overload

from torch import nn

from ..analysis.open_model_tensors_and_channel_axes import copied, fill, open_model
from ..analysis.run_model_seeded_macs_and_memory import (
    EVALUATION,
    device_of,
    fork_rng,
    preserve_rng_state,
    spare_normal_kept,
)
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import public
from ..compressed_model import CompressedModel, compress
from ..errors import Cancelled, ShrinkError, TrainingError
from ..evaluation.evaluate_and_metrics import scores
from ..recipe_and_method_registry import Recipe
from ..training.methods_schedule_options_and_progress import (
    OF_METHOD,
    BestWeights,
    Progress,
    Schedule,
    Stage,
    TrainingFields,
    TrainingLog,
    TrainingOptions,
    TrainingSpec,
    named,
    options_from,
)
from ..training.retrain_and_training_run import TrainingRun, run_displayed
from ..training.training_loop_losses_and_weight_constraints import Trainer
from .frozen_features import frozen_features, head_is_last
from .masks_and_recipe_for_sparse_transfer import packed, recipe_of_layer
from .transfer_result_and_training_cost import TrainingCost, TransferResult
from .transfer_strategies_and_lora import (
    STRATEGIES,
    FromScratch,
    FullFineTune,
    LayerGroups,
    LinearProbe,
    LoRA,
    Strategy,
    StrategyName,
    add_lora,
    default_schedule,
    merge_lora,
)
from .transfer_task_and_classifier_head import TransferSetup, TransferTask, module_of, set_up_transfer

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
    with preserve_rng_state():  # a new head is drawn at random, and a batch is run
        setup = set_up_transfer(model, task, head)
    schedule = (default_schedule(task) if baseline else None) if isinstance(baseline, bool) else baseline
    provenance = model.provenance if isinstance(model, CompressedModel) else "no retraining"
    spec = TransferSpec(setup, task, by, provenance, schedule)
    if background:
        return TrainingRun[TransferResult](spec).start()
    found: TransferResult = run_displayed(spec, progress)
    return found


@dataclass(frozen=True, eq=False)
class TransferSpec:
    """What a `TrainingRun` is asked for, like a `TrainingSpec`: a network with a new head, its task, how it learns it.

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
        # A monitor wants to know of all stages at the beginning: how many there are, their names, and how long each is.
        counts = [part.stage.epochs for part in self._trainers[0].parts]
        names = [f"stage {i} of {len(counts)}" if len(counts) > 1 else "" for i in range(1, len(counts) + 1)]
        if spec.baseline is not None:
            counts, names = [*counts, spec.baseline.epochs], [*(name or "transfer" for name in names), "from scratch"]
        self._epochs, self._names = tuple(counts), names

    @property
    def log(self) -> TrainingLog:
        """All epochs so far, those of training from scratch after those of the transfer."""
        first, *scratch = self._trainers
        history = first.history
        for trainer in scratch:
            history += [entry | {"round": entry["round"] + len(first.parts)} for entry in trainer.history]
        return TrainingLog(history=history, baseline=first.baseline, best=first.best)

    def best(self) -> TransferResult:
        """Return the network as it has been trained so far, without a score."""
        return self._found(self._trainers[0])

    def steps(self) -> Generator[Progress, None, TransferResult]:
        """Do it, and return the result; when it is stopped, the best so far.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        first = self._trainers[0]
        with spare_normal_kept():
            done = yield from self._train(first, 0)
            if self.spec.baseline is None or self._stopped():
                return done
            # made only now: a second network would take its memory through the whole transfer
            fresh = self.spec.setup.from_scratch(self.spec.options.seed)
            by = FromScratch(self.spec.baseline)
            scratch = TransferTrainer(fresh, self.spec.task, by, self._stopped, self._patience)
            self._trainers.append(scratch)
            beside = yield from self._train(scratch, len(first.parts))
        return done if self._stopped() else replace(done, baseline=beside)

    def _train(self, trainer: TransferTrainer, before: int) -> Generator[Progress, None, TransferResult]:
        """Train one network after so many stages of others, its progress told as that of the whole; score it."""
        last = None
        for now in trainer.steps():
            number, rounds = before + now.round, len(self._names)
            last = replace(
                now,
                round=number,
                rounds=rounds,
                stage=self._names[number - 1],
                epochs_by_round=self._epochs if rounds > 1 else (),
                eta=now.eta if number == rounds else None,  # how long a step of the stages to come takes is not known
            )
            yield last
        # Scored once more, though every epoch was: a head alone was scored on features, and this is the whole network.
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

    def _found(self, trainer: TransferTrainer) -> TransferResult:
        from_scratch = trainer is not self._trainers[0]  # then what was learnt before, or pruned, is no part of it
        result, before = trainer.result(), "no retraining" if from_scratch else self.spec.provenance
        provenance = result.provenance if before == "no retraining" else f"{before}, then {result.provenance}"
        result = replace(result, provenance=provenance)
        compressed = None if from_scratch or self.spec.setup.recipe is None else result
        heads = ", ".join(self.spec.setup.heads)
        return TransferResult(module_of(result), heads, provenance, None, trainer.history, trainer.cost, compressed)


@dataclass(frozen=True, slots=True)
class _Method:
    """One training of a strategy, as the loop takes it."""

    of: Strategy
    training: Stage

    def stage(self) -> Stage:
        """Return its training."""
        return self.training

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return self.of.words(epochs)


class TransferTrainer:
    """One network learning one task by one strategy. `steps` is driven as a `Trainer`'s is, stage after stage."""

    def __init__(
        self,
        setup: TransferSetup,
        task: TransferTask,
        strategy: Strategy,
        stopped: Watch = never,
        patience: float | None = None,
    ) -> None:
        self.strategy = strategy
        self._setup, self._task = setup, task
        self._stopped, self._patience = stopped, patience
        self._network = copied(setup.network)
        self._compressed: CompressedModel | None = None
        self._recipe = setup.recipe
        self._macs = 0.0  # of the stages that are over, and of the features of the one under way
        self._example = 0.0  # multiply-accumulates that an example costs in the stage under way
        self._aware = False
        self._began = time.perf_counter()
        if isinstance(strategy, LoRA):
            if self._recipe is not None and _rounds(self._recipe, self._network):
                raise TrainingError("LoRA() trains no weights in fewer than 32 bits: take FullFineTune(), or 32 bits")
            with fork_rng(device_of(self._network), task.options.seed):
                add_lora(self._network, setup.heads, strategy.rank, strategy.alpha, setup.masks)
            self._recipe = None  # until the updates are merged
        self._layers = LayerGroups.of(self._network, setup.order, setup.heads)
        self.parts = list(strategy.trainings(self._layers))
        # What the masks prune is told throughout: the head alone, of a stage that trains nothing else, is dense.
        pruned = sum(int((~keep).sum()) for keep in setup.masks.values())
        self._sparsity = pruned / sum(entry.numel for entry in open_model(setup.network).layers)
        self._over: list[dict[str, Any]] = []  # epochs of the stages that are over
        self._trainer: Trainer | None = None  # of the stage under way
        self._head_alone = False  # whether that trains the head by itself, on remembered features
        self._best: BestWeights | None = None  # of the stages that are over
        self.baseline: dict[str, Any] | None = None

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for every epoch so far, as of a `TrainingRun`; its ``round`` is the stage."""
        now = [] if self._trainer is None else self._trainer.log.history
        return self._over + [entry | {"round": self._stage, "sparsity": self._sparsity} for entry in list(now)]

    @property
    def cost(self) -> TrainingCost:
        """What the epochs so far have cost, and the seconds up to now."""
        history = self.history
        examples, steps = (sum(entry[name] for entry in history) for name in ("examples", "step"))
        macs = self._macs + self._example * sum(entry["examples"] for entry in history[len(self._over) :])
        return TrainingCost(examples, steps, round(macs), time.perf_counter() - self._began)

    @property
    def best(self) -> BestWeights | None:
        """Which epoch the result is of, its round the stage (from 0); its weights are those of the stage alone."""
        now = None if self._trainer is None else self._trainer.log.best
        return self._best if now is None else replace(now, round=self._stage - 1)

    @property
    def _stage(self) -> int:
        return 1 + max((entry["round"] for entry in self._over), default=0)

    def steps(self) -> Generator[Progress, None, None]:
        """Train all stages, the progress of each as if it were alone, except for its number.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        self._began = time.perf_counter()
        heads, options = self._setup.heads, self._task.options
        for number, part in enumerate(self.parts, start=1):
            if self._stopped():
                return
            # Where nothing but the head trains, all below it gives the same in every epoch, and is computed once.
            alone = (
                self._layers.alone(part.stage.relative)
                and len(heads) == 1
                and head_is_last(self._network, heads[0], self._setup.batch, options)
            )
            # A head on remembered features is so small that calls to torch cost more than what they compute.
            options_now = replace(options, batch_size=max(part.least, options.batch_size))
            try:
                for now in (self._train_head if alone else self._train_whole)(part.stage, options_now):
                    yield replace(now, round=number, rounds=len(self.parts), sparsity=self._sparsity)
            except Cancelled:  # stopped while features were computed
                return

    def result(self) -> CompressedModel:
        """Return the network as it is now, compressed as it came; a dense one by the empty recipe."""
        trainer = self._trainer
        network, result = (self._network, self._compressed) if trainer is None else self._taken(trainer.best())
        if isinstance(self.strategy, LoRA):  # merged in a copy: this may be asked for while the updates train on
            network = copied(network)
            merge_lora(network)
        if result is None:
            recipe = self._setup.recipe
            result = compress(network, Recipe()) if recipe is None else packed(network, recipe, self._setup.masks)
        epochs = len(self.history)
        words = self.strategy.words(f"{epochs} epoch{'' if epochs == 1 else 's'}")
        aware = ", quantization-aware" if self._aware else ""
        distilled = ", distilled" if self._task.options.distillation else ""
        return replace(result, provenance=words + aware + distilled)

    def _train_head(self, stage: Stage, options: TrainingOptions) -> Generator[Progress, None, None]:
        """Train the head alone on what goes into it."""
        (head,) = self._setup.heads

        def features(data: object) -> tuple[object, int]:
            return frozen_features(self._network, head, data, options.seed, self._stopped, self._patience)

        yield Progress("features", 1, 1, stage.epochs)
        train, count = features(self._task.train_data)
        test = None if self._task.eval_data is None else features(self._task.eval_data)[0]
        names = [entry.name for entry in open_model(self._network).layers]
        recipes = () if self._recipe is None else (recipe_of_layer(self._recipe, names, f"{head}.weight"),)
        method = _Method(self.strategy, replace(stage, relative={}))  # the names of the network are not the head's
        spec = TrainingSpec(self._network.get_submodule(head), train, test, method, options, recipes)
        # Paid once: after that an example costs only what the head takes.
        self._macs += count * self._setup.costs.below(head)
        self._example = self._setup.costs.head(head)
        self._head_alone = True
        yield from self._do(spec)

    def _train_whole(self, stage: Stage, options: TrainingOptions) -> Generator[Progress, None, None]:
        """Train all that the stage does not freeze, in the network itself."""
        recipe = self._recipe
        source = self._network if recipe is None else packed(self._network, recipe, self._setup.masks)
        self._aware |= recipe is not None and _rounds(recipe, self._network)
        method = _Method(self.strategy, stage)
        spec = TrainingSpec(source, self._task.train_data, self._task.eval_data, method, options)
        # Under LoRA the frozen weights carry gradients down to the updates, and the updates are weights, too.
        self._example = self._setup.costs.training({} if isinstance(self.strategy, LoRA) else stage.relative)
        self._head_alone = False
        yield from self._do(spec)

    def _do(self, spec: TrainingSpec) -> Generator[Progress, None, None]:
        """Do a spec, and take its result into the network and its epochs into the history."""
        trainer = self._trainer = Trainer(spec, self._stopped, self._patience)
        try:
            with closing(trainer.steps()) as steps:
                for now in steps:
                    self.baseline = self.baseline or trainer.log.baseline
                    # the bytes of a head alone are nobody's file
                    is_file = not self._head_alone and self._recipe is not None
                    yield now if is_file else replace(now, nbytes=None, ratio=None)
        except ShrinkError as error:
            self._end(trainer)
            error.best = self.result()
            raise
        self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        """Take what a stage has come to."""
        # All figures are taken before the trainer is let go, since they count its epochs as those under way.
        self._network, self._compressed = self._taken(trainer.best())
        over, self._macs, self._best = self.history, self.cost.macs, self.best
        self._trainer, self._over, self._example = None, over, 0.0

    def _taken(self, result: CompressedModel) -> tuple[nn.Module, CompressedModel | None]:
        """Return the network as a stage's result has it, and compressed where that is known."""
        if not self._head_alone:
            return module_of(result), None if self._recipe is None else result
        network = copied(self._network)
        fill(network.get_submodule(self._setup.heads[0]), module_of(result).state_dict().items())
        return network, None


def _rounds(recipe: Recipe, network: nn.Module) -> bool:
    """Tell whether a recipe rounds any layer of a network to fewer than 32 bits."""
    plans = recipe.resolve(entry.name for entry in open_model(network).layers)
    return any(plan.bits < 32 and not plan.keep for plan in plans)
