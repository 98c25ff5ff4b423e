"""The loop: a generator that trains, tells where it is after every step, and at last returns the compressed model."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..compressed import Compressed, compress
from ..errors import Cancelled, DataError, ShrinkError, TrainingError
from ..measure.call import device_of
from ..measure.layers import check_refused, open_weights
from ..measure.parallel import Watch, never
from ..recipe import Recipe
from ..shrink.compress import copied, fill
from ..shrink.prune import keep_masks
from ..train.evaluate import Score, scores
from ..train.metrics import Tally, resolve
from .chance import seed_of, seeded
from .checkpoint import Checkpoint, Saved
from .held import Held, masks_of, without_untaught
from .job import Job
from .learner import Learner
from .log import HISTORY_ROW, POINT_ROW, Best, Log, check_finite, rewind, snapshot
from .progress import Clock, Phase, Progress
from .rounds import thinned

_TEST: Final = -1  # in place of a step: chance in a test must not be that of a training step


class Trainer:
    """Trains as a job asks. `steps` is a generator: who advances it decides about threads, pauses, and the end.

    Between two of its steps the caller may do anything; `stopped` is polled before every step and every test batch,
    and when it says so, the generator ends with the best weights so far; with `patience`, see `unblocked`, it is
    polled while data is waited for, too. `learner` is what trains in this round.
    """

    learner: Learner

    def __init__(self, job: Job, stopped: Watch = never, patience: float | None = None) -> None:
        self.job = job
        self.log = Log()
        self._stopped, self._patience = stopped, patience
        self._clock = Clock()
        self._began = 0.0
        self._share = 0.0
        check_refused(open_weights(job.model, only_to_look=True))
        self._original = copied(job.model)  # what results are made of: the user's own may be trained on meanwhile
        self._network = copied(job.model)
        self._checkpoint = None if job.checkpoint is None else Checkpoint(job, self._original)
        self._remembered: dict[int, dict[str, Any]] = {}
        if self._checkpoint is not None and (earlier := job.resumes_from) is not None:
            self._go_on(self._checkpoint.read(earlier))
        if self._checkpoint is not None and job.checkpoint is not None and not job.options.overwrite:
            self._checkpoint.refuse_to_replace(job.checkpoint)
        if job.options.channels_last:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device = device_of(self._network)
        self._metric = resolve(job.options.measured)
        self._now = Progress("test", 1, len(job.recipes), job.stage.epochs, steps=job.feed.steps)

    def _go_on(self, saved: Saved) -> None:
        fill(self._network, saved.now.items())
        self.log, self._remembered = saved.log, saved.optimizer

    def steps(self) -> Generator[Progress, None, Compressed]:
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

    def best(self) -> Compressed:
        """Return the best weights so far: at the end those of the last epoch, before the first the model as it came."""
        best = self.log.best
        if best is None:
            source = self.job.source
            return source if isinstance(source, Compressed) else compress(self._original, Recipe())
        model = copied(self._original)
        fill(model, best.state.items())
        return replace(compress(model, self.job.recipes[best.round]), regime=self.job.regime(best.round, best.epoch))

    def _rounds(self) -> Iterator[Progress]:
        if self.log.baseline is None:
            score = yield from self._score(self._original, self.job.source_regime)
            self.log.baseline = None if score is None else score.to_dict()
        for number in range(self.log.round, len(self.job.recipes)):
            self.learner = learner = self._learner(number)
            yield self._begun(number, learner)
            for epoch in range(self.log.epoch, learner.stage.epochs):
                yield from self._train(learner, number, epoch)
                if self._stopped():
                    return
                score = yield from self._test(learner, number, epoch)
                if self._stopped():
                    return
                yield from self._ended(learner, number, epoch + 1, score)

    def _learner(self, number: int) -> Learner:
        """Return the network, pruned to the recipe of a round, ready for its stage."""
        recipe, stage = self.job.recipes[number], self.job.stage
        masks = self._masks(recipe, self.log.epoch)
        if stage.early is not None and not self.log.epoch:
            rewind(self._network, stage.early)
        learner = Learner(self._network, Held(self._network, recipe, masks), stage, self.job.options)
        if self.log.epoch:
            learner.remember(self._remembered)
        return learner

    def _masks(self, recipe: Recipe, progress: float) -> list[Tensor | None]:
        """Return the mask of every layer after so many epochs of a round."""
        weights = open_weights(self._network)
        if isinstance(self.job.source, Compressed):
            return masks_of(self.job.source, weights)
        share = self.job.stage.share
        masks = keep_masks(weights, recipe if share is None else thinned(recipe, share(progress)))
        return without_untaught(masks, weights, recipe)

    def _begun(self, number: int, learner: Learner) -> Progress:
        packed = compress(self._network, self.job.recipes[number])
        self._now = replace(
            self._now,
            round=number + 1,
            sparsity=learner.held.sparsity(),
            nbytes=packed.nbytes,
            ratio=packed.dense / packed.nbytes,
        )
        return self._tell("prune", epoch=self.log.epoch, step=0, loss=None, train=None)

    def _train(self, learner: Learner, number: int, epoch: int) -> Iterator[Progress]:
        """Train for one epoch."""
        seed = seed_of(self.job.options.seed, number, epoch)
        batches = self.job.feed.epoch(self._network, seed, self._stopped, self._patience)
        steps, tally, losses = self.job.feed.steps, Tally(), 0.0
        self._began = self._clock.seconds
        for step in count(1):
            if self._stopped():
                return
            progress = epoch + ((step - 1) / steps if steps else 0.0)
            self._prune(learner, number, progress)
            with self._placed(number, epoch, step), seeded(self._device, self.job.options.seed, number, epoch, step):
                if (batch := next(batches, None)) is None:
                    return
                done = learner.step(batch, progress)
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
                lr=learner.stage.rate(progress),
                rate=tally.examples / (self._clock.seconds - self._began),
            )

    def _prune(self, learner: Learner, number: int, progress: float) -> None:
        """Prune on, where the method prunes as it trains and the share has grown since the last step."""
        share = learner.stage.share
        if share is not None and share(progress) > self._share:
            self._share = share(progress)
            learner.held.prune(self._masks(self.job.recipes[number], progress))
            self._now = replace(self._now, sparsity=learner.held.sparsity())

    def _test(self, learner: Learner, number: int, epoch: int) -> Generator[Progress, None, Score | None]:
        """Check what an epoch has made, and score it."""
        with self._placed(number, epoch):
            learner.held.settle()
            check_finite(self._network)
            self._now = replace(self._now, sparsity=learner.held.sparsity())
            with learner.held.as_saved():
                return (yield from self._score(self._network, self.job.regime(number, epoch + 1), number, epoch))

    def _score(self, model: nn.Module, regime: str, *place: int) -> Generator[Progress, None, Score | None]:
        """Score a model on the test data, if there is any."""
        last = None
        for score in self._scores(model, *place):
            last = replace(score, regime=regime)
            yield self._tell("test", test=last)
        return last

    def _scores(self, model: nn.Module, *place: int) -> Iterator[Score]:
        if self.job.eval_data is None:
            return
        options = self.job.options
        found = scores(model, self.job.eval_data, options.measured, options.rules, self._stopped, self._patience)
        for step in count():
            if self._stopped():
                return
            try:
                with seeded(self._device, self.job.options.seed, *place, _TEST, step):
                    score = next(found, None)
            except DataError as error:
                raise DataError(f"eval_data: {error}") from error.__cause__
            if score is None:
                return
            yield score

    def _ended(self, learner: Learner, number: int, epoch: int, score: Score | None) -> Iterator[Progress]:
        """Write down what an epoch has brought."""
        done = epoch == self.job.stage.epochs
        now = snapshot(self._network)
        best = Best(now, number, epoch, None if score is None else score.value)
        if done or learner.stage.share is not None or best.beats(self.log.best, self._metric):
            self.log.best = best
        plain = self._now.to_dict() | {"seconds": round(self._clock.seconds - self._began, 3)}
        self.log.history.append({name: plain[name] for name in HISTORY_ROW})
        if done:
            self.log.points.append({name: plain[name] for name in POINT_ROW})
        self.log.round, self.log.epoch = (number + 1, 0) if done else (number, epoch)
        if self._checkpoint is not None and self.job.checkpoint is not None:
            yield self._tell("checkpoint")
            self._checkpoint.write(self.job.checkpoint, now, learner.optimizer, self.log)

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
            rounds = f"round {number + 1}, " if len(self.job.recipes) > 1 else ""
            place = f"{rounds}epoch {epoch + 1}" + (f", step {step}" if step else "")
            raise type(error)(f"{place}: {error}") from error.__cause__
