"""Teaches a network with a new head, stage by stage, told step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..compressed import Compressed, compress
from ..errors import Cancelled, ShrinkError, TrainingError
from ..learn.chance import seeded
from ..learn.job import Job
from ..learn.log import Best
from ..learn.loop import Trainer
from ..learn.methods import Stage
from ..learn.options import Training
from ..learn.progress import Progress
from ..measure.call import device_of
from ..measure.layers import open_weights
from ..measure.parallel import Watch, never
from ..recipe import Recipe
from ..shrink.compress import copied, fill
from .features import features_of, head_is_last
from .layers import Layers
from .lowrank import adapt, merge
from .sparse import packed, recipe_of_layer
from .spent import Spent
from .start import Start, module_of
from .strategies import LowRank, Part, Strategy
from .task import Task

Taken = tuple[nn.Module, Compressed | None]
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
        """Return what a regime says of so many epochs of it."""
        return self.of.words(epochs)


class Lesson:
    """One network learning one task by one strategy. `steps` is driven as a `Trainer`'s is, stage after stage."""

    def __init__(
        self, begun: Start, task: Task, strategy: Strategy, stopped: Watch = never, patience: float | None = None
    ) -> None:
        self.strategy = strategy
        self._begun, self._task = begun, task
        self._stopped, self._patience = stopped, patience
        self._network = copied(begun.network)
        self._compressed: Compressed | None = None
        self._recipe = begun.recipe
        self._macs = 0.0  # of the stages that are over, and of the features of the one under way
        self._example = 0.0  # multiply-accumulates that an example costs in the stage under way
        self._aware = False
        self._began = time.perf_counter()
        if isinstance(strategy, LowRank):
            self._adapt(strategy)
        self._layers = Layers.of(self._network, begun.order, begun.heads)
        self.parts = list(strategy.trainings(self._layers))
        self._sparsity = _pruned_share(begun)
        self._over: list[dict[str, Any]] = []  # epochs of the stages that are over
        self._trainer: Trainer | None = None  # of the stage under way
        self._take: Callable[[Compressed], Taken] = self._whole
        self._best: Best | None = None  # of the stages that are over
        self.baseline: dict[str, Any] | None = None

    def _adapt(self, strategy: LowRank) -> None:
        if self._recipe is not None and _rounds(self._recipe, self._network):
            raise TrainingError("LowRank() trains no weights in fewer than 32 bits: take FineTuneAll(), or 32 bits")
        with seeded(device_of(self._network), self._task.options.seed):
            adapt(self._network, self._begun.heads, strategy.rank, strategy.alpha, self._begun.masks)
        self._recipe = None  # until the updates are merged

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for every epoch so far, as of a `Run`; its ``round`` is the stage."""
        now = [] if self._trainer is None else self._trainer.log.history
        return self._over + [entry | {"round": self._stage, "sparsity": self._sparsity} for entry in list(now)]

    @property
    def spent(self) -> Spent:
        """What the epochs so far have cost, and the seconds up to now."""
        history = self.history
        examples, steps = (sum(entry[name] for entry in history) for name in ("examples", "step"))
        macs = self._macs + self._example * sum(entry["examples"] for entry in history[len(self._over) :])
        return Spent(examples, steps, round(macs), time.perf_counter() - self._began)

    @property
    def best(self) -> Best | None:
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

    def result(self) -> Compressed:
        """Return the network as it is now, compressed as it came; a dense one by the empty recipe."""
        trainer = self._trainer
        network, result = (self._network, self._compressed) if trainer is None else self._take(trainer.best())
        if isinstance(self.strategy, LowRank):
            network = copied(network)
            merge(network)
        if result is None:
            recipe = self._begun.recipe
            result = compress(network, Recipe()) if recipe is None else packed(network, recipe, self._begun.masks)
        epochs = len(self.history)
        words = self.strategy.words(f"{epochs} epoch{'' if epochs == 1 else 's'}")
        aware = ", quantization-aware" if self._aware else ""
        distilled = ", distilled" if self._task.options.distil else ""
        return replace(result, regime=words + aware + distilled)

    def _head_is_last(self) -> bool:
        heads = self._begun.heads
        return len(heads) == 1 and head_is_last(self._network, heads[0], self._begun.batch, self._task.options)

    def _options(self, part: Part) -> Training:
        return replace(self._task.options, batch_size=max(part.least, self._task.options.batch_size))

    def _train_head(self, part: Part) -> Generator[Progress, None, None]:
        """Train the head alone on what goes into it."""
        (head,), options = self._begun.heads, self._options(part)
        yield Progress("features", 1, 1, part.stage.epochs)
        train, count = self._features(self._task.train_data)
        test = None if self._task.eval_data is None else self._features(self._task.eval_data)[0]
        recipes = () if self._recipe is None else (recipe_of_layer(self._recipe, self._names(), f"{head}.weight"),)
        method = _Method(self.strategy, replace(part.stage, relative={}))
        job = Job(self._network.get_submodule(head), train, test, method, options, recipes)
        self._macs += count * self._begun.costs.below(head)
        self._example = self._begun.costs.head(head)
        yield from self._do(job, self._with_head)

    def _features(self, data: object) -> tuple[object, int]:
        (head,), seed = self._begun.heads, self._task.options.seed
        return features_of(self._network, head, data, seed, self._stopped, self._patience)

    def _train_whole(self, part: Part) -> Generator[Progress, None, None]:
        """Train all that the stage does not freeze, in the network itself."""
        recipe = self._recipe
        source = self._network if recipe is None else packed(self._network, recipe, self._begun.masks)
        self._aware |= recipe is not None and _rounds(recipe, self._network)
        method = _Method(self.strategy, part.stage)
        job = Job(source, self._task.train_data, self._task.eval_data, method, self._options(part))
        self._example = self._begun.costs.training({} if isinstance(self.strategy, LowRank) else part.stage.relative)
        yield from self._do(job, self._whole)

    def _do(self, job: Job, take: Callable[[Compressed], Taken]) -> Generator[Progress, None, None]:
        """Do a job, and take its result into the network and its epochs into the history."""
        trainer = Trainer(job, self._stopped, self._patience)
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
        over, self._macs, self._best = self.history, self.spent.macs, self.best
        self._trainer, self._over, self._example = None, over, 0.0

    def _with_head(self, result: Compressed) -> Taken:
        network = copied(self._network)
        fill(network.get_submodule(self._begun.heads[0]), module_of(result).state_dict().items())
        return network, None

    def _whole(self, result: Compressed) -> Taken:
        return module_of(result), None if self._recipe is None else result

    def _names(self) -> list[str]:
        return [entry.name for entry in open_weights(self._network).layers]


def _pruned_share(begun: Start) -> float:
    """Return the fraction of the compressible weights that the masks prune."""
    pruned = sum(int((~keep).sum()) for keep in begun.masks.values())
    return pruned / sum(entry.numel for entry in open_weights(begun.network).layers)


def _rounds(recipe: Recipe, network: nn.Module) -> bool:
    """Tell whether a recipe rounds any layer of a network to fewer than 32 bits."""
    plans = recipe.resolve(entry.name for entry in open_weights(network).layers)
    return any(plan.bits < 32 and not plan.keep for plan in plans)
