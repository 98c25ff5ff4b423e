"""Teaches a network with a new head, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..compressed import Compressed, compress
from ..errors import ShrinkError, TrainingError
from ..learn.chance import seeded
from ..learn.job import Job
from ..learn.methods import Stage
from ..learn.options import Training
from ..learn.watched import Watched
from ..measure.call import device_of
from ..measure.layers import open_weights
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
    """One network learning one task by one strategy; `history` has an entry an epoch, its ``round`` the stage."""

    def __init__(self, begun: Start, task: Task, strategy: Strategy) -> None:
        self.history: list[dict[str, Any]] = []
        self.stopped = False
        self._begun, self._task, self._strategy = begun, task, strategy
        self._network = copied(begun.network)
        self._compressed: Compressed | None = None
        self._recipe = begun.recipe
        self._macs = 0.0
        self._aware = False
        if isinstance(strategy, LowRank):
            self._adapt(strategy)
        self._layers = Layers.of(self._network, begun.order, begun.heads)

    def _adapt(self, strategy: LowRank) -> None:
        if self._recipe is not None and _rounds(self._recipe, self._network):
            raise TrainingError("LowRank() trains no weights in fewer than 32 bits: take FineTuneAll(), or 32 bits")
        with seeded(device_of(self._network), self._task.options.seed):
            adapt(self._network, self._begun.heads, strategy.rank, strategy.alpha, self._begun.masks)
        self._recipe = None  # until the updates are merged

    def run(self) -> Spent:
        """Train all stages, and return what they cost.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        began = time.perf_counter()
        for part in self._strategy.trainings(self._layers):
            if self.stopped:
                break
            if self._layers.alone(part.stage.relative) and self._head_is_last():
                self._train_head(part)
            else:
                self._train_whole(part)
        examples, steps = (sum(entry[name] for entry in self.history) for name in ("examples", "step"))
        return Spent(examples, steps, round(self._macs), time.perf_counter() - began)

    def result(self) -> Compressed:
        """Return the network as it is now, compressed as it came; a dense one by the empty recipe."""
        if isinstance(self._strategy, LowRank):
            merge(self._network)
        if self._compressed is None:
            recipe = self._begun.recipe
            self._compressed = compress(self._network, Recipe()) if recipe is None else self._packed(recipe)
        epochs = len(self.history)
        words = self._strategy.words(f"{epochs} epoch{'' if epochs == 1 else 's'}")
        aware = ", quantization-aware" if self._aware else ""
        distilled = ", distilled" if self._task.options.distil else ""
        return replace(self._compressed, regime=words + aware + distilled)

    def _head_is_last(self) -> bool:
        heads = self._begun.heads
        return len(heads) == 1 and head_is_last(self._network, heads[0], self._begun.batch, self._task.options)

    def _options(self, part: Part) -> Training:
        return replace(self._task.options, batch_size=max(part.least, self._task.options.batch_size))

    def _train_head(self, part: Part) -> None:
        """Train the head alone on what goes into it."""
        (head,), options = self._begun.heads, self._options(part)
        train, count = features_of(self._network, head, self._task.train_data, options.seed)
        test = (
            None
            if self._task.eval_data is None
            else features_of(self._network, head, self._task.eval_data, options.seed)[0]
        )
        recipes = () if self._recipe is None else (recipe_of_layer(self._recipe, self._names(), f"{head}.weight"),)
        method = _Method(self._strategy, replace(part.stage, relative={}))
        job = Job(self._network.get_submodule(head), train, test, method, options, recipes)
        entries = self._finish(job, self._take_head)
        self._macs += count * self._begun.costs.below(head)
        self._macs += self._begun.costs.head(head) * sum(entry["examples"] for entry in entries)

    def _train_whole(self, part: Part) -> None:
        """Train all that the stage does not freeze, in the network itself."""
        source = self._network if self._recipe is None else self._packed(self._recipe)
        self._aware |= self._recipe is not None and _rounds(self._recipe, self._network)
        method = _Method(self._strategy, part.stage)
        job = Job(source, self._task.train_data, self._task.eval_data, method, self._options(part))
        entries = self._finish(job, self._take_whole)
        relative = {} if isinstance(self._strategy, LowRank) else part.stage.relative
        self._macs += self._begun.costs.training(relative) * sum(entry["examples"] for entry in entries)

    def _finish(self, job: Job, take: Callable[[Compressed], None]) -> list[dict[str, Any]]:
        """Do a job, take its result into the network and its epochs into the history, and return them."""
        watched = Watched(job)
        try:
            take(watched.result())
        except ShrinkError as error:
            if error.best is not None:
                take(error.best)
            self._note(watched.history)
            error.best = self.result()
            raise
        self.stopped = watched.stopped
        return self._note(watched.history)

    def _note(self, history: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add a stage's epochs to those of all, and return them."""
        stage = 1 + max((entry["round"] for entry in self.history), default=0)
        entries = [entry | {"round": stage, "sparsity": self._sparsity()} for entry in history]
        self.history += entries
        return entries

    def _take_head(self, result: Compressed) -> None:
        fill(self._network.get_submodule(self._begun.heads[0]), module_of(result).state_dict().items())
        self._compressed = None

    def _take_whole(self, result: Compressed) -> None:
        self._network = module_of(result)
        self._compressed = None if self._recipe is None else result

    def _packed(self, recipe: Recipe) -> Compressed:
        return packed(self._network, recipe, self._begun.masks)

    def _sparsity(self) -> float:
        """Return the fraction of the compressible weights that the masks prune."""
        pruned = sum(int((~keep).sum()) for keep in self._begun.masks.values())
        return pruned / sum(entry.numel for entry in open_weights(self._begun.network).layers)

    def _names(self) -> list[str]:
        return [entry.name for entry in open_weights(self._network).layers]


def _rounds(recipe: Recipe, network: nn.Module) -> bool:
    """Tell whether a recipe rounds any layer of a network to fewer than 32 bits."""
    plans = recipe.resolve(entry.name for entry in open_weights(network).layers)
    return any(plan.bits < 32 and not plan.keep for plan in plans)
