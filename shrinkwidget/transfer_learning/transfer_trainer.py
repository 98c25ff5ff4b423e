"""Train a network with a new head, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..analysis.model_tensors import open_model
from ..analysis.parallel import Watch, never
from ..analysis.run_without_side_effects import device_of
from ..compressed_model import CompressedModel, compress
from ..compression.apply_recipe import copied, fill
from ..errors import Cancelled, ShrinkError, TrainingError
from ..recipe import Recipe
from ..training.progress import BestWeights, Progress
from ..training.rng import fork_rng
from ..training.schedules_and_methods import Stage
from ..training.training_loop import Trainer
from ..training.training_options import TrainingOptions, TrainingSpec
from .frozen_features import frozen_features, head_is_last
from .lora import add_lora, merge_lora
from .prepare_model import LayerGroups, TransferSetup, TransferTask, module_of
from .sparse_transfer import packed, recipe_of_layer
from .strategies import LoRA, Strategy, TransferStage
from .transfer_result import TrainingCost

Taken = tuple[nn.Module, CompressedModel | None]
"""A network, and the same compressed where that is known."""


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
            self._adapt(strategy)
        self._layers = LayerGroups.of(self._network, setup.order, setup.heads)
        self.parts = list(strategy.trainings(self._layers))
        self._sparsity = _pruned_share(setup)
        self._over: list[dict[str, Any]] = []  # epochs of the stages that are over
        self._trainer: Trainer | None = None  # of the stage under way
        self._take: Callable[[CompressedModel], Taken] = self._whole
        self._best: BestWeights | None = None  # of the stages that are over
        self.baseline: dict[str, Any] | None = None

    def _adapt(self, strategy: LoRA) -> None:
        if self._recipe is not None and _rounds(self._recipe, self._network):
            raise TrainingError("LoRA() trains no weights in fewer than 32 bits: take FullFineTune(), or 32 bits")
        with fork_rng(device_of(self._network), self._task.options.seed):
            add_lora(self._network, self._setup.heads, strategy.rank, strategy.alpha, self._setup.masks)
        self._recipe = None  # until the updates are merged

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
        """Train all stages, the progress of each as if it were alone, but for its number.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        self._began = time.perf_counter()
        for number, part in enumerate(self.parts, start=1):
            if self._stopped():
                return
            alone = self._layers.alone(part.stage.relative) and self._head_is_last()
            try:
                for now in self._train_head(part) if alone else self._train_whole(part):
                    yield replace(now, round=number, rounds=len(self.parts), sparsity=self._sparsity)
            except Cancelled:  # stopped while features were computed
                return

    def result(self) -> CompressedModel:
        """Return the network as it is now, compressed as it came; a dense one by the empty recipe."""
        trainer = self._trainer
        network, result = (self._network, self._compressed) if trainer is None else self._take(trainer.best())
        if isinstance(self.strategy, LoRA):
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

    def _head_is_last(self) -> bool:
        heads = self._setup.heads
        return len(heads) == 1 and head_is_last(self._network, heads[0], self._setup.batch, self._task.options)

    def _options(self, part: TransferStage) -> TrainingOptions:
        return replace(self._task.options, batch_size=max(part.least, self._task.options.batch_size))

    def _train_head(self, part: TransferStage) -> Generator[Progress, None, None]:
        """Train the head alone on what goes into it."""
        (head,), options = self._setup.heads, self._options(part)
        yield Progress("features", 1, 1, part.stage.epochs)
        train, count = self._features(self._task.train_data)
        test = None if self._task.eval_data is None else self._features(self._task.eval_data)[0]
        recipes = () if self._recipe is None else (recipe_of_layer(self._recipe, self._names(), f"{head}.weight"),)
        method = _Method(self.strategy, replace(part.stage, relative={}))
        spec = TrainingSpec(self._network.get_submodule(head), train, test, method, options, recipes)
        self._macs += count * self._setup.costs.below(head)
        self._example = self._setup.costs.head(head)
        yield from self._do(spec, self._with_head)

    def _features(self, data: object) -> tuple[object, int]:
        (head,), seed = self._setup.heads, self._task.options.seed
        return frozen_features(self._network, head, data, seed, self._stopped, self._patience)

    def _train_whole(self, part: TransferStage) -> Generator[Progress, None, None]:
        """Train all that the stage does not freeze, in the network itself."""
        recipe = self._recipe
        source = self._network if recipe is None else packed(self._network, recipe, self._setup.masks)
        self._aware |= recipe is not None and _rounds(recipe, self._network)
        method = _Method(self.strategy, part.stage)
        spec = TrainingSpec(source, self._task.train_data, self._task.eval_data, method, self._options(part))
        self._example = self._setup.costs.training({} if isinstance(self.strategy, LoRA) else part.stage.relative)
        yield from self._do(spec, self._whole)

    def _do(self, spec: TrainingSpec, take: Callable[[CompressedModel], Taken]) -> Generator[Progress, None, None]:
        """Do a spec, and take its result into the network and its epochs into the history."""
        trainer = Trainer(spec, self._stopped, self._patience)
        self._take, self._trainer = take, trainer
        try:
            with closing(trainer.steps()) as steps:
                for now in steps:
                    self.baseline = self.baseline or trainer.log.baseline
                    # the bytes of a head alone are nobody's file
                    whole = take == self._whole and self._recipe is not None
                    yield now if whole else replace(now, nbytes=None, ratio=None)
        except ShrinkError as error:
            self._end(trainer)
            error.best = self.result()
            raise
        self._end(trainer)

    def _end(self, trainer: Trainer) -> None:
        """Take what a stage has come to."""
        self._network, self._compressed = self._take(trainer.best())
        over, self._macs, self._best = self.history, self.cost.macs, self.best
        self._trainer, self._over, self._example = None, over, 0.0

    def _with_head(self, result: CompressedModel) -> Taken:
        network = copied(self._network)
        fill(network.get_submodule(self._setup.heads[0]), module_of(result).state_dict().items())
        return network, None

    def _whole(self, result: CompressedModel) -> Taken:
        return module_of(result), None if self._recipe is None else result

    def _names(self) -> list[str]:
        return [entry.name for entry in open_model(self._network).layers]


def _pruned_share(setup: TransferSetup) -> float:
    """Return the fraction of the compressible weights that the masks prune."""
    pruned = sum(int((~keep).sum()) for keep in setup.masks.values())
    return pruned / sum(entry.numel for entry in open_model(setup.network).layers)


def _rounds(recipe: Recipe, network: nn.Module) -> bool:
    """Tell whether a recipe rounds any layer of a network to fewer than 32 bits."""
    plans = recipe.resolve(entry.name for entry in open_model(network).layers)
    return any(plan.bits < 32 and not plan.keep for plan in plans)
