"""The training loop: a generator that yields progress after every step and finally returns the compressed model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.model_tensors import check_refused, open_model
from ..analysis.parallel import Watch, never
from ..analysis.run_without_side_effects import device_of
from ..compressed_model import CompressedModel, compress, compress_trained
from ..compression.apply_recipe import copied, fill
from ..compression.pruning_masks import keep_masks
from ..errors import Cancelled, DataError, ShrinkError, TrainingError
from ..evaluation.evaluate import Score, scores
from ..evaluation.metrics import RunningMean, resolve
from ..recipe import Recipe
from .checkpoint import Checkpoint, LoadedCheckpoint
from .input_validation import TrainingSpec
from .iterative_pruning import thinned
from .progress import (
    HISTORY_ROW,
    POINT_ROW,
    BestWeights,
    Phase,
    Progress,
    StepTimer,
    TrainingLog,
    check_finite,
    copy_state,
    restore_state,
)
from .rng import EVALUATION, fork_rng, seed_at
from .train_step import TrainStep
from .weight_constraints import WeightConstraints, masks_of, without_untaught


class Trainer:
    """Trains what a spec describes. `steps` is a generator: the caller controls threading, pausing and stopping.

    Between two of its steps the caller may do anything; `stopped` is polled before every step and every test batch,
    and when it says so, the generator ends with the best weights so far; with `patience`, see `read_in_thread`, it is
    polled while data is waited for, too. `train_step` is what trains in this round.
    """

    train_step: TrainStep

    def __init__(self, spec: TrainingSpec, stopped: Watch = never, patience: float | None = None) -> None:
        self.spec = spec
        self.log = TrainingLog()
        self._stopped, self._patience = stopped, patience
        self._clock = StepTimer()
        self._began = 0.0
        self._share = 0.0
        check_refused(open_model(spec.model, only_to_look=True))
        self._original = copied(spec.model)  # what results are made of: the user's own may be trained on meanwhile
        self._network = copied(spec.model)
        self._checkpoint = None if spec.checkpoint is None else Checkpoint(spec, self._original)
        self._remembered: dict[int, dict[str, Any]] = {}
        if self._checkpoint is not None and (earlier := spec.resumes_from) is not None:
            self._go_on(self._checkpoint.read(earlier))
        if self._checkpoint is not None and spec.checkpoint is not None and not spec.options.overwrite:
            self._checkpoint.refuse_to_replace(spec.checkpoint)
        if spec.options.channels_last:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device_of(self._network)
        self._metric = resolve(spec.options.measured)
        self._now = Progress("test", 1, len(spec.recipes), spec.stage.epochs, steps=spec.feed.steps)

    def _go_on(self, saved: LoadedCheckpoint) -> None:
        fill(self._network, saved.now.items())
        self.log, self._remembered = saved.log, saved.optimizer

    def steps(self) -> Generator[Progress, None, CompressedModel]:
        """Train, and return the result.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        rounds = self._rounds()
        try:
            while True:
                self._clock.go()
                progress = next(rounds, None)
                self._clock.rest()
                if progress is None:
                    return self.best()
                yield progress
        except Cancelled:  # stopped while data was waited for
            return self.best()
        except ShrinkError as error:
            error.best = self.best()
            raise

    def best(self) -> CompressedModel:
        """Return the best weights so far: at the end those of the last epoch, before the first the model as it came."""
        best = self.log.best
        if best is None:
            source = self.spec.source
            return source if isinstance(source, CompressedModel) else compress(self._original, Recipe())
        model = copied(self._original)
        fill(model, best.state.items())
        return replace(
            compress_trained(model, self.spec.recipes[best.round]),
            provenance=self.spec.provenance(best.round, best.epoch),
        )

    def _rounds(self) -> Iterator[Progress]:
        if self.log.baseline is None:
            score = yield from self._score(self._original, self.spec.source_provenance)
            self.log.baseline = None if score is None else score.to_dict()
        for number in range(self.log.round, len(self.spec.recipes)):
            self.train_step = train_step = self._train_step(number)
            yield self._setup(number, train_step)
            for epoch in range(self.log.epoch, train_step.stage.epochs):
                yield from self._train(train_step, number, epoch)
                if self._stopped():
                    return
                score = yield from self._test(train_step, number, epoch)
                if self._stopped():
                    return
                yield from self._ended(train_step, number, epoch + 1, score)

    def _train_step(self, number: int) -> TrainStep:
        """Return the network, pruned to the recipe of a round, ready for its stage."""
        recipe, stage = self.spec.recipes[number], self.spec.stage
        masks = self._masks(recipe, self.log.epoch)
        if stage.state_dict is not None and not self.log.epoch:
            restore_state(self._network, stage.state_dict)
        train_step = TrainStep(self._network, WeightConstraints(self._network, recipe, masks), stage, self.spec.options)
        if self.log.epoch:
            train_step.remember(self._remembered)
        return train_step

    def _masks(self, recipe: Recipe, progress: float) -> list[Tensor | None]:
        """Return the mask of every layer after so many epochs of a round."""
        weights = open_model(self._network)
        if isinstance(self.spec.source, CompressedModel):
            return masks_of(self.spec.source, weights)
        share = self.spec.stage.share
        masks = keep_masks(weights, recipe if share is None else thinned(recipe, share(progress)))
        return without_untaught(masks, weights, recipe)

    def _setup(self, number: int, train_step: TrainStep) -> Progress:
        packed = compress_trained(self._network, self.spec.recipes[number])
        self._now = replace(
            self._now,
            round=number + 1,
            sparsity=train_step.held.sparsity(),
            nbytes=packed.nbytes,
            ratio=packed.original_nbytes / packed.nbytes,
        )
        return self._tell("prune", epoch=self.log.epoch, step=0, loss=None, train=None)

    def _train(self, train_step: TrainStep, number: int, epoch: int) -> Iterator[Progress]:
        """Train for one epoch."""
        seed = seed_at(self.spec.options.seed, number, epoch)
        batches = self.spec.feed.epoch(self._network, seed, self._stopped, self._patience)
        steps, tally, losses = self.spec.feed.steps, RunningMean(), 0.0
        self._began = self._clock.seconds
        for step in count(1):
            if self._stopped():
                return
            progress = epoch + ((step - 1) / steps if steps else 0.0)
            self._prune(train_step, number, progress)
            with self._placed(number, epoch, step), fork_rng(self._device, self.spec.options.seed, number, epoch, step):
                if (batch := next(batches, None)) is None:
                    return
                done = train_step.step(batch, progress)
            tally.add(done.sums)
            losses += done.loss
            self._clock.stepped()
            yield self._tell(
                "train",
                epoch=epoch + 1,
                step=step,
                examples=tally.examples,
                loss=losses / step,
                train=tally.mean if tally.terms else None,
                lr=train_step.stage.rate(progress),
                rate=tally.examples / (self._clock.seconds - self._began),
            )

    def _prune(self, train_step: TrainStep, number: int, progress: float) -> None:
        """Prune on, where the method prunes as it trains and the share has grown since the last step."""
        share = train_step.stage.share
        if share is not None and share(progress) > self._share:
            self._share = share(progress)
            train_step.held.prune(self._masks(self.spec.recipes[number], progress))
            self._now = replace(self._now, sparsity=train_step.held.sparsity())

    def _test(self, train_step: TrainStep, number: int, epoch: int) -> Generator[Progress, None, Score | None]:
        """Check what an epoch has made, and score it."""
        with self._placed(number, epoch):
            train_step.held.settle()
            check_finite(self._network)
            self._now = replace(self._now, sparsity=train_step.held.sparsity())
            with train_step.held.as_saved():
                return (yield from self._score(self._network, self.spec.provenance(number, epoch + 1), number, epoch))

    def _score(self, model: nn.Module, provenance: str, *place: int) -> Generator[Progress, None, Score | None]:
        """Score a model on `eval_data`, if there is any."""
        last = None
        for score in self._scores(model, *place):
            last = replace(score, provenance=provenance)
            yield self._tell("test", test=last)
        return last

    def _scores(self, model: nn.Module, *place: int) -> Iterator[Score]:
        if self.spec.eval_data is None:
            return
        options = self.spec.options
        found = scores(model, self.spec.eval_data, options.measured, options.rules, self._stopped, self._patience)
        for step in count():
            if self._stopped():
                return
            try:
                with fork_rng(self._device, self.spec.options.seed, *place, EVALUATION, step):
                    score = next(found, None)
            except DataError as error:
                raise DataError(f"eval_data: {error}") from error.__cause__
            if score is None:
                return
            yield score

    def _ended(self, train_step: TrainStep, number: int, epoch: int, score: Score | None) -> Iterator[Progress]:
        """Write down what an epoch has brought."""
        done = epoch == self.spec.stage.epochs
        now = copy_state(self._network)
        best = BestWeights(now, number, epoch, None if score is None else score.value)
        if done or train_step.stage.share is not None or best.beats(self.log.best, self._metric):
            self.log.best = best
        plain = self._now.to_dict() | {"seconds": round(self._clock.seconds - self._began, 3)}
        self.log.history.append({name: plain[name] for name in HISTORY_ROW})
        if done:
            self.log.points.append({name: plain[name] for name in POINT_ROW})
        self.log.round, self.log.epoch = (number + 1, 0) if done else (number, epoch)
        if self._checkpoint is not None and self.spec.checkpoint is not None:
            yield self._tell("checkpoint")
            self._checkpoint.write(self.spec.checkpoint, now, train_step.optimizer, self.log)

    def _tell(self, phase: Phase, **changes: Any) -> Progress:
        now = replace(self._now, phase=phase, **changes)
        left = (now.rounds - now.round + 1) * now.epochs - now.epoch + (1 if now.step else 0)
        steps_left = None if now.steps is None else left * now.steps - now.step
        self._now = replace(now, eta=self._clock.eta(steps_left))
        return self._now

    @contextmanager
    def _placed(self, number: int, epoch: int, step: int | None = None) -> Iterator[None]:
        """Let an error say where it happened."""
        try:
            yield
        except (DataError, TrainingError) as error:
            rounds = f"round {number + 1}, " if len(self.spec.recipes) > 1 else ""
            place = f"{rounds}epoch {epoch + 1}" + (f", step {step}" if step else "")
            raise type(error)(f"{place}: {error}") from error.__cause__
