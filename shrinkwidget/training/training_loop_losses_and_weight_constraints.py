"""The training loop: a generator that yields progress after every step and finally returns the compressed model.

From top to bottom: `Trainer` goes through rounds and epochs, `TrainStep` takes one step, `TrainingLoss` is what a step
minimizes, `TrainingBatches` is what it is taken on, and `WeightConstraints` holds what is pruned and rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ..analysis.estimate_class_and_packed_file_header import safetensors_bytes
from ..analysis.open_model_tensors_and_channel_axes import (
    ModelTensors,
    TensorEntry,
    check_refused,
    copied,
    fill,
    open_model,
    refuse_not_finite_weights,
)
from ..analysis.run_model_seeded_macs_and_memory import (
    EVALUATION,
    call,
    describe,
    device_of,
    fork_rng,
    profile_forward,
    seed_at,
    spare_normal_kept,
)
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, nearest, never
from ..compressed_model import CompressedModel, compress, finish_trained, narrowed_widths
from ..compression.encode_layers_and_packed_model import (
    Grid,
    LayerWeights,
    encode_layers,
    fit,
    layer_of,
    on_grid,
    packed_bytes,
    uncompressed_value,
)
from ..compression.find_and_prune_channels import ChannelRounds
from ..compression.importance_scores_and_pruning_masks import keep_masks
from ..compression.narrow_modules import narrow_to
from ..errors import Cancelled, DataError, ShrinkError, TrainingError, reason
from ..evaluation.batches_predictions_and_labels import (
    IGNORED,
    Batch,
    OutputReader,
    Predictions,
    all_finite,
    are_shares,
    as_pair,
    batch_named,
    first_example,
    no_batch,
    prepared,
    raw_batches,
    read_in_thread,
    refuse_no_data,
)
from ..evaluation.evaluate_and_metrics import LOSSES, Score, Sums, resolve, scores
from ..recipe_and_method_registry import Plan, Recipe
from .checkpoint_and_fingerprint import Checkpoint
from .methods_schedule_options_and_progress import (
    HISTORY_ROW,
    POINT_ROW,
    BestWeights,
    Phase,
    Progress,
    Stage,
    StepTimer,
    TrainingLog,
    TrainingOptions,
    TrainingSpec,
)

_HINT: Final = "; the best weights so far are kept: try a lower rate, or a warm-up"


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
        # of gradual pruning: how much of the recipe's sparsity is reached
        self._share = 0.0
        self._macs: Mapping[str, int] | None = None
        weights = open_model(spec.model, only_to_look=True)
        check_refused(weights)
        self._original = copied(spec.model)  # what results are made of: the user's own may be trained on meanwhile
        self._network = copied(spec.model)
        self._device = device_of(self._network)
        self._original_nbytes = (
            spec.source.original_nbytes
            if isinstance(spec.source, CompressedModel)
            else safetensors_bytes(weights.saved)
        )
        self._checkpoint = None if spec.checkpoint is None else Checkpoint(spec, self._original)
        self._remembered: dict[int, dict[str, Any]] = {}
        self._narrowing: ChannelRounds | None = None
        self._left: dict[int, list[int]] = {}  # of each family of channels, by round
        self._finished: dict[int, CompressedModel] = {}  # the result, once the last round is over, by its weights' id
        if isinstance(spec.source, nn.Module) and any(recipe.removes_channels for recipe in spec.recipes):
            if self._checkpoint is not None:
                raise TrainingError(
                    "a checkpoint holds a network of one shape, and here channels go round by round: leave checkpoint "
                    "out, or remove them first, with compress, and retrain the result"
                )
            self._narrowing = ChannelRounds(self._original, self._example())
        self._sizes = {entry.name: entry.numel for entry in weights.entries}
        if self._checkpoint is not None and (earlier := spec.resumes_from) is not None:
            saved = self._checkpoint.read(earlier)
            fill(self._network, saved.now.items())
            self.log, self._remembered = saved.log, saved.optimizer
        if self._checkpoint is not None and spec.checkpoint is not None and not spec.options.overwrite:
            self._checkpoint.refuse_to_replace(spec.checkpoint)  # now, not after the first epoch
        if spec.options.channels_last:
            self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._metric = resolve(spec.options.measured)
        self._batches = TrainingBatches(spec.train_data, spec.options)
        self._now = Progress("test", 1, len(spec.recipes), spec.stage.epochs, steps=self._batches.steps)

    def steps(self) -> Generator[Progress, None, CompressedModel]:
        """Train, and return the result.

        Raises:
            ShrinkError: for whatever goes wrong, its `best` the best weights so far.
        """
        rounds = self._rounds()
        try:
            with spare_normal_kept():
                while True:
                    self._clock.go()
                    progress = next(rounds, None)
                    self._clock.rest()  # a pause is no time at work, and would make the time left longer
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
        # whoever asks again, or from another thread, gets a model of their own: `pop` gives it to one
        if (result := self._finished.pop(id(best), None)) is not None:
            return result
        model = copied(self._original)
        if self._narrowing is not None:
            narrow_to(model, {name: tuple(tensor.shape) for name, tensor in best.state.items()})
        fill(model, best.state.items())
        source = self.spec.source
        narrowed = source.narrowed if isinstance(source, CompressedModel) else None
        if self._narrowing is not None:
            narrowed = narrowed_widths(self._narrowing.channels, self._left[best.round], self._original_nbytes)
        recipe = self.spec.recipes[best.round]
        if best.epoch < self.spec.stage.epochs:  # gradual pruning has come as far as its last step
            recipe = self._reached(recipe, self._progress(best.epoch - 1, self._batches.steps or 1))
        return replace(
            finish_trained(model, recipe),
            provenance=self.spec.provenance(best.round, best.epoch),
        ).with_widths(narrowed)

    def _rounds(self) -> Iterator[Progress]:
        if self.log.baseline is None:
            score = yield from self._score(self._original, self.spec.source_provenance)
            self.log.baseline = None if score is None else score.to_dict()
        for number in range(self.log.round, len(self.spec.recipes)):
            yield self._begin(number)
            for epoch in range(self.log.epoch, self.train_step.stage.epochs):
                yield from self._train(number, epoch)
                if self._stopped():
                    return
                score = yield from self._test(number, epoch)
                if self._stopped():
                    return
                yield from self._end_epoch(number, epoch + 1, score)

    def _begin(self, number: int) -> Progress:
        """Prune the network to the recipe of a round, and get it ready for its stage."""
        recipe, stage = self.spec.recipes[number], self.spec.stage
        early = stage.state_dict
        if self._narrowing is not None:
            self._narrowing.narrow(self._network, recipe)
            self._left[number] = self._narrowing.left
            early = None if early is None else self._narrowing.cut(early)
        weights = open_model(self._network)
        masks = self._masks(weights, recipe, self.log.epoch)  # ranked before weights are rewound, as in the paper
        if early is not None and not self.log.epoch:
            _rewind(self._network, early)
        refuse_not_finite_weights(weights)
        held = WeightConstraints(self._network, weights, recipe, masks)
        self.train_step = TrainStep(self._network, held, stage, self.spec.options)
        if self.log.epoch:  # a checkpoint was written within this round
            optimizer = self.train_step.optimizer
            # its groups and rates follow from the stage; what a checkpoint holds is what it remembers of each parameter
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self._remembered})
        nbytes = packed_bytes(weights, recipe)
        self._now = replace(
            self._now,
            round=number + 1,
            sparsity=held.sparsity(),
            nbytes=nbytes,
            ratio=self._original_nbytes / nbytes,
        )
        return self._tell("prune", epoch=self.log.epoch, step=0, loss=None, train=None)

    def _masks(self, weights: ModelTensors, recipe: Recipe, progress: float) -> list[Tensor | None]:
        """Return the mask of every layer after so many epochs of a round."""
        if isinstance(self.spec.source, CompressedModel):  # ranked once, when it was compressed
            return masks_of(self.spec.source, weights)
        return without_untaught(keep_masks(weights, self._reached(recipe, progress)), weights, recipe)

    def _reached(self, recipe: Recipe, progress: float) -> Recipe:
        """Return what a recipe asks for after so many epochs of a round: under gradual pruning, a share of it."""
        if (share_at := self.spec.stage.share) is None:
            return recipe
        share = share_at(progress)
        layers = {
            name: {**own, "sparsity": share * own["sparsity"]}
            if isinstance(own, Mapping) and "sparsity" in own
            else own
            for name, own in recipe.layers.items()
        }
        return recipe.with_(sparsity=share * recipe.sparsity, layers=layers)

    def _progress(self, epoch: int, step: int) -> float:
        """Return how many epochs have passed before a step, from 1, of an epoch, from 0."""
        # where the data does not say how many steps it has, rates and sparsity change once an epoch
        steps = self._batches.steps
        return epoch + ((step - 1) / steps if steps else 0.0)

    def _train(self, number: int, epoch: int) -> Iterator[Progress]:
        """Train for one epoch."""
        train_step, seed = self.train_step, self.spec.options.seed
        batches = self._batches.epoch(self._network, seed_at(seed, number, epoch), self._stopped, self._patience)
        examples, losses, total, terms = 0, 0.0, 0.0, 0.0
        self._began = self._clock.seconds
        for step in count(1):
            if self._stopped():
                return
            progress = self._progress(epoch, step)
            share = train_step.stage.share
            if share is not None and share(progress) > self._share:  # gradual pruning goes on
                self._share = share(progress)
                weights = open_model(self._network)
                train_step.held.prune(self._masks(weights, self.spec.recipes[number], progress))
                self._now = replace(self._now, sparsity=train_step.held.sparsity())
            # The batch is read inside, too: a dataset's augmentation draws from the step's generators.
            with self._placed(number, epoch, step), fork_rng(self._device, seed, number, epoch, step):
                if (batch := next(batches, None)) is None:
                    return
                loss, sums = train_step.step(batch, progress)
            # on the first batch: what inputs look like is not known before
            if self._macs is None:
                self._macs = self._layer_macs(batch)
            # of the metric the mean alone is told here: what its interval takes is left to evaluations
            total, terms = total + float(sums.total.sum()), terms + float(sums.terms.sum())
            examples += sums.examples
            losses += loss
            self._clock.stepped()
            yield self._tell(
                "train",
                epoch=epoch + 1,
                step=step,
                examples=examples,
                loss=losses / step,
                train=total / terms if terms else None,
                lr=train_step.stage.rate(progress),
                rate=examples / (self._clock.seconds - self._began),
            )

    def _test(self, number: int, epoch: int) -> Generator[Progress, None, Score | None]:
        """Check what an epoch has made, and score it."""
        held = self.train_step.held
        with self._placed(number, epoch):
            held.settle()
            for name, tensor in [*self._network.named_parameters(), *self._network.named_buffers()]:
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    raise TrainingError(
                        f"{name!r} is no longer finite"
                        + (_in_half(self._network) or ": the learning rate is too high, or a batch is broken")
                    )
            self._now = replace(self._now, sparsity=held.sparsity())
            if self.spec.eval_data is None:
                return None
            with held.as_saved():  # what is scored is what the file will hold
                return (yield from self._score(self._network, self.spec.provenance(number, epoch + 1), number, epoch))

    def _score(self, model: nn.Module, provenance: str, *place: int) -> Generator[Progress, None, Score | None]:
        """Score a model on `eval_data`, if there is any."""
        if self.spec.eval_data is None:
            return None
        last, options = None, self.spec.options
        found = scores(model, self.spec.eval_data, options.measured, options.rules, self._stopped, self._patience)
        for step in count():
            if self._stopped():
                break
            try:
                # a loader or a model may draw as it is scored: training draws the same with and without evaluation data
                with fork_rng(self._device, options.seed, *place, EVALUATION, step):
                    score = next(found, None)
            except DataError as error:
                raise DataError(f"eval_data: {error}") from error.__cause__
            if score is None:
                break
            last = replace(score, provenance=provenance)
            yield self._tell("test", test=last)
        return last

    def _end_epoch(self, number: int, epoch: int, score: Score | None) -> Iterator[Progress]:
        """Write down what an epoch has brought."""
        done = epoch == self.spec.stage.epochs
        now = copy_state(self._network)
        best = BestWeights(now, number, epoch, None if score is None else score.value)
        # A round ends with its last epoch, whatever is best, as in the papers. Under gradual pruning earlier epochs
        # only look better: they are less sparse than was asked for.
        if done or self.train_step.stage.share is not None or best.beats(self.log.best, self._metric):
            self.log.best = best
        plain = self._now.to_dict() | {"seconds": round(self._clock.seconds - self._began, 3)}
        self.log.history.append({name: plain[name] for name in HISTORY_ROW})
        if done:
            plain |= self._figures(number)
            self.log.points.append({name: plain[name] for name in POINT_ROW})
        self.log.round, self.log.epoch = (number + 1, 0) if done else (number, epoch)
        if self._checkpoint is not None and self.spec.checkpoint is not None:
            yield self._tell("checkpoint")
            self._checkpoint.write(self.spec.checkpoint, now, self.train_step.optimizer, self.log)

    def _figures(self, number: int) -> dict[str, float | None]:
        """Return what rounding costs the weights of now, and what a forward pass takes without the pruned ones."""
        found = None
        if number + 1 == len(self.spec.recipes) and self.log.best is not None:
            result = self.best()  # its figures are those of now, which need not be counted twice
            self._finished[id(self.log.best)], found = result, result.estimate
        if found is None:
            _, found = encode_layers(open_model(self._network), self.spec.recipes[number], pruned=True)
        macs = None
        if self._macs:
            # a layer's multiply-accumulates go with the weights that are left of the dense ones, channels that went
            # included
            macs = round(sum(self._macs.get(e.name, 0) * e.kept / self._sizes[e.name] for e in found.layers))
        return {"sqnr": found.sqnr if math.isfinite(found.sqnr) else None, "macs": macs}

    def _example(self) -> object:
        """Return the inputs of the data's first example, on which the families of channels are found."""
        refuse_no_data(self.spec.train_data)
        for raw in raw_batches(self.spec.train_data):
            return first_example(prepared(raw, self._original, self._device))
        raise no_batch(self.spec.train_data)

    def _layer_macs(self, batch: Batch) -> Mapping[str, int]:
        """Return the multiply-accumulates of every layer for a batch's first example; none where they do not count."""
        entries = open_model(self._original, only_to_look=True).entries
        with fork_rng(self._device, self.spec.options.seed), suppress(ShrinkError):  # some models run only unwatched
            return profile_forward(self._original, entries, first_example(batch)).macs
        return {}

    def _tell(self, phase: Phase, **changes: Any) -> Progress:
        now, epoch, step = self._now, changes.get("epoch", self._now.epoch), changes.get("step", self._now.step)
        # epochs to come, with this one while it lasts
        left = (now.rounds - now.round + 1) * now.epochs - epoch + (1 if step else 0)
        steps_left = None if now.steps is None else left * now.steps - step
        self._now = replace(now, phase=phase, eta=self._clock.eta(steps_left), **changes)
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


def copy_state(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of all parameters and buffers, by name, contiguous."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: tensor.detach().clone().contiguous() for name, tensor in named}


def _rewind(network: nn.Module, early: Mapping[str, Tensor]) -> None:
    """Write the weights of an earlier epoch over a network's.

    Raises:
        TrainingError: for a name or a shape the network does not have.
    """
    now = dict(network.named_parameters(remove_duplicate=False)) | dict(network.named_buffers(remove_duplicate=False))
    for name, tensor in early.items():
        if name not in now or now[name].shape != tensor.shape:
            found = f"its shape is {list(now[name].shape)}" if name in now else "there is none"
            raise TrainingError(
                f"WeightRewinding(state_dict=…) holds {name!r} of shape {list(tensor.shape)}, but in this "
                f"{type(network).__name__} {found}"
            )
    fill(network, early.items())


class TrainStep:
    """A network with its masks and its optimizer, for one stage of training: a batch goes in, the weights move."""

    def __init__(self, network: nn.Module, held: WeightConstraints, stage: Stage, options: TrainingOptions) -> None:
        self.network = network
        self.held = held
        self.stage = stage
        relative = stage.relative
        modules = [(name, module, list(module.parameters(recurse=False))) for name, module in network.named_modules()]
        for name, _, own in modules:
            if relative.get(name) == 0:
                for parameter in own:
                    parameter.requires_grad_(False)

        # A group for each rate; only now, since tied parameters are frozen with any of the modules that have them.
        groups: dict[float, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for name, _, own in modules:
            for parameter in own:
                if parameter.requires_grad and id(parameter) not in seen:
                    seen.add(id(parameter))
                    groups.setdefault(relative.get(name, 1.0), []).append(parameter)
        if not groups:
            raise TrainingError(f"nothing to train in this {type(network).__name__}: no parameter requires a gradient")
        lr = stage.schedule.lr
        self.optimizer = stage.schedule.optimizer_of(
            # a plain list where one rate is enough: a function that makes a user's optimizer need know nothing of
            # groups
            groups[1.0]
            if list(groups) == [1.0]
            else [{"params": parameters, "lr": lr * share} for share, parameters in groups.items()]
        )
        self._rates = [group["lr"] for group in self.optimizer.param_groups]

        # Frozen modules stay in eval mode, or batch norm's statistics would move: those the stage freezes, and those
        # that came with parameters of which none requires a gradient.
        for name, module, own in modules:
            module.training = relative.get(name) != 0 and (not own or any(p.requires_grad for p in own))

        self._loss = TrainingLoss(options, network)
        self._reader = OutputReader(network, options.rules)
        self._metric = resolve(options.measured)
        device = (device_of(network) or torch.device("cpu")).type
        self._autocast = nullcontext() if options.autocast is None else torch.autocast(device, options.autocast)

    def step(self, batch: Batch, progress: float) -> tuple[float, Sums]:
        """Take one step at the rate the stage has after `progress` epochs.

        Returns the loss before it, and the batch's score as the metric counts it.

        Raises:
            DataError: for a batch that does not fit.
            TrainingError: if the loss is not finite, before a weight has moved; if the optimizer fails.
        """
        # a schedule moves all rates together: what a stage slows down stays as much slower than the rest
        share = self.stage.rate(progress) / self.stage.schedule.lr
        for group, at_its_highest in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = at_its_highest * share
        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), self.held.effective():
            with self._autocast:
                outputs = call(self.network, batch.args, batch.kwargs)
            answers = self._reader.read(outputs, batch)
            try:
                loss = self._loss(answers, batch)
            except DataError:
                if answers.has_nan():  # the cause, and more to the point than that NaN is no label or probability
                    raise self._diverged("the outputs are NaN", batch) from None
                raise
            value = loss.item()  # asked for once: on a GPU every question waits for all that was queued
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value}", batch)
            torch.autograd.backward(loss)
        self.held.straight_through()
        try:
            self.optimizer.step()
        except Exception as error:
            raise TrainingError(f"{type(self.optimizer).__name__} failed to take a step: {reason(error)}") from error
        self.held.hold(self.optimizer)
        with torch.no_grad():
            return value, self._metric.sums(answers)

    def _diverged(self, found: str, batch: Batch) -> ShrinkError:
        """Return the error for a step that has come to no number, and what may be the cause."""
        if not all_finite([batch.args, batch.kwargs, batch.targets]):
            return DataError(
                "its inputs or targets are NaN or infinite: clean them first; the best weights so far are kept"
            )
        return TrainingError(f"{found}{_in_half(self.network) or _HINT}")


def _in_half(network: nn.Module) -> str:
    """Return what helps where float16 weights are trained, "" where none are."""
    if all(p.dtype != torch.float16 for p in network.parameters() if p.requires_grad):
        return ""
    return "; float16 weights are easily too large or too small in training: train model.float(), and compress that"


class TrainingLoss:
    """The loss of a batch, one number with a gradient: that of the labels and, with a teacher, the distance to it."""

    def __init__(self, options: TrainingOptions, model: nn.Module) -> None:
        self._loss = LOSSES[options.loss] if isinstance(options.loss, str) else _checked_loss(options.loss)
        self._distillation = options.distillation
        self._teacher = (
            None if options.distillation is None else copied(options.distillation.teacher).eval().to(device_of(model))
        )

    def __call__(self, answers: Predictions, batch: Batch) -> Tensor:
        """Return the loss of a model's answers to a batch.

        Raises:
            DataError: for outputs and targets that do not fit the loss.
        """
        if self._distillation is None or self._teacher is None:
            return self._loss(answers)
        student, labels = answers.logits
        with torch.no_grad():
            taught = call(self._teacher, batch.args, batch.kwargs)
            try:
                teacher, _ = OutputReader(self._teacher, answers.rules).read(taught, batch).logits
            except DataError as error:
                raise DataError(f"the teacher's outputs do not fit the labels: {error}") from error.__cause__
        soft = _distance(student, teacher, labels, self._distillation.temperature)
        return self._distillation.weight * soft + (1 - self._distillation.weight) * self._loss(answers)


def _distance(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(softmax(teacher/T) ‖ softmax(student/T)) of logits N×C×…, the mean over the labels scored."""
    if student.shape != teacher.shape:
        raise DataError(f"the teacher's outputs are {describe(teacher)}, the student's {describe(student)}")
    found, wanted = (F.log_softmax(x.float() / temperature, 1) for x in (student, teacher))
    apart = F.kl_div(found, wanted, reduction="none", log_target=True).sum(1)
    if not are_shares(student, labels) and bool((labels == IGNORED).any()):
        apart = apart[labels != IGNORED]
    # Gradients of soft targets shrink as 1/T²: so multiplied, their weight stays what it is when T changes.
    return apart.mean() * temperature**2


def _checked_loss(loss: Callable[[Any, Tensor], Tensor]) -> Callable[[Predictions], Tensor]:
    """Return the user's loss, with one sentence for what goes wrong in it."""
    name = getattr(loss, "__name__", type(loss).__name__)

    def checked(answers: Predictions) -> Tensor:
        try:
            found: object = loss(answers.output, answers.targets)
        except ShrinkError:
            raise
        except Exception as error:
            raise DataError(f"the loss {name!r} failed: {reason(error)}") from error
        if not isinstance(found, Tensor) or found.numel() != 1:
            raise TrainingError(f"the loss {name!r} returned {describe(found)}; expected one number: take its mean()")
        if not found.requires_grad:
            raise TrainingError(f"the loss {name!r} returned a number without a gradient: compute it from the outputs")
        return found.reshape(())

    return checked


@dataclass(frozen=True, slots=True, eq=False)
class TrainingBatches:
    """The batches a model is trained on, epoch by epoch: shuffled by a seed, augmented, on the model's device.

    Raises:
        DataError: for what gives no batches.
    """

    data: object
    options: TrainingOptions

    def __post_init__(self) -> None:
        if as_pair(self.data) is None:
            refuse_no_data(self.data, "train")

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, None where only reading them would tell."""
        if (pair := as_pair(self.data)) is not None:
            return math.ceil(len(pair[1]) / self.options.batch_size)
        if (dataset := _mapped(self.data)) is not None:
            return math.ceil(len(dataset) / self.options.batch_size)
        try:
            return len(self.data) if isinstance(self.data, Sized) else None
        except TypeError:  # a loader of an iterable dataset has the method, and no answer
            return None

    def epoch(
        self, model: nn.Module, seed: int, stopped: Watch = never, patience: float | None = None
    ) -> Iterator[Batch]:
        """Yield the batches of one epoch, ready to run; the order of a pair or a dataset follows from the seed.

        With `patience`, see `read_in_thread`.

        Raises:
            Cancelled: when `stopped` says so while a batch is waited for.
            DataError: for data that fails, or a batch that does not fit the model, naming the batch.
        """
        device = device_of(model)
        number = 0
        for number, raw in enumerate(read_in_thread(self._raw(seed), self.data, stopped, patience), start=1):
            with batch_named(number):
                batch = self._augmented(prepared(raw, model, device))
            yield batch
        if not number:
            raise no_batch(self.data, "train")

    def _raw(self, seed: int) -> Iterator[Any]:
        # on the CPU and of its own: the order depends neither on the device nor on what else draws
        generator = torch.Generator().manual_seed(seed)
        if (pair := as_pair(self.data)) is not None:
            inputs, targets = pair
            order = _shuffled(len(targets), self.options.batch_size, generator)
            return ((inputs[places.to(inputs.device)], targets[places.to(targets.device)]) for places in order)
        if (dataset := _mapped(self.data)) is not None:
            order = _shuffled(len(dataset), self.options.batch_size, generator)
            # not `shuffle=True`, which draws from torch's global state and may leave a last batch of one
            return raw_batches(DataLoader(dataset, batch_sampler=[places.tolist() for places in order]), seed)
        return raw_batches(self.data, seed)

    def _augmented(self, batch: Batch) -> Batch:
        """Return a batch augmented, and laid out as the options want it."""
        if self.options.augment is not None:
            if len(batch.args) != 1 or batch.kwargs:
                raise DataError(
                    "TrainingOptions(augment=…) takes the model's only input, but the batch has several or named ones"
                )
            try:
                augmented = self.options.augment(batch.args[0])
            except Exception as error:
                raise DataError(f"TrainingOptions(augment=…) failed: {reason(error)}") from error
            if augmented is None:
                raise DataError("TrainingOptions(augment=…) returned None: return the inputs, changed or not")
            batch = replace(batch, args=(augmented,))
        if self.options.channels_last:  # of images, N×C×H×W; anything else stays as it is
            args = (
                x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x
                for x in batch.args
            )
            batch = replace(batch, args=tuple(args))
        return batch


def _mapped(data: object) -> Any:
    """Return a dataset that can be shuffled and counted, None for all other data."""
    mapped = isinstance(data, Dataset) and not isinstance(data, IterableDataset) and hasattr(data, "__len__")
    return data if mapped else None


def _shuffled(n: int, batch: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the indices of n examples in batches of nearly equal size: a single example cannot be normalized over."""
    return torch.randperm(n, generator=generator).tensor_split(math.ceil(n / batch)) if n else ()


# ---- masks, grids and codebooks that hold while a network trains ----


def has_codebook(plan: Plan) -> bool:
    """Tell whether a layer has a codebook that is trained."""
    return plan.bits <= 8 and plan.coder.shares_values


class SharedWeights:
    """Which value of its codebook every weight of a layer has.

    The gradient of each becomes the mean over all that share its value: the projection of the gradient onto what a
    codebook can express. (The paper takes the sum, and a smaller rate.) Any optimizer that treats weights alike then
    moves them alike, and no copy of the codebook has to be kept beside the weights.
    """

    def __init__(self, layer: LayerWeights, device: torch.device) -> None:
        survivors = layer.survivors().float()
        codebook = fit(layer).codebook
        if codebook is None:
            raise ValueError(f"{layer.plan.quantizer!r} shares values, but has no codebook")
        pruned = len(codebook)  # the cell of those that are
        cells = torch.full((len(layer.flat),), pruned, dtype=torch.int64, device=layer.flat.device)
        cells[slice(None) if layer.keep is None else layer.keep] = nearest(survivors, codebook).long()
        cells = layer.layout.restored(cells, layer.shape).reshape(-1)  # in the parameter's own order
        self._cells = cells.to(device)  # a layer on Metal is looked at on the CPU
        self._codebook = torch.cat([codebook, codebook.new_zeros(1)]).to(device)
        self._counts = torch.bincount(self._cells, minlength=pruned + 1).clamp(min=1)  # never divided by zero
        # by cell, the place of the first weight in it, which `tie_` copies from
        # "amin" gives the same first weight whatever order a GPU's threads take.
        self._first = torch.zeros_like(self._counts).scatter_reduce_(
            0, self._cells, torch.arange(len(cells), device=device), "amin", include_self=False
        )

    def start_(self, weights: Tensor) -> None:
        """Give every weight its value of the codebook."""
        weights.copy_(self._codebook[self._cells].view(weights.shape))

    def average_(self, gradient: Tensor) -> None:
        """Replace the gradient of every weight by the mean over those that share its value."""
        # The mean, not the sum as in the paper: the sum grows with the cell, and a rate that suits one layer would not
        # suit another. What is pruned is a cell of its own, whose gradient nobody uses.
        sums = torch.zeros_like(self._codebook).index_add_(0, self._cells, gradient.reshape(-1).float())
        gradient.copy_((sums / self._counts)[self._cells].view(gradient.shape))

    def tie_(self, weights: Tensor) -> None:
        """Give all that share a value that of the first: vector and scalar instructions may differ in the last bit."""
        weights.copy_(weights.reshape(-1)[self._first][self._cells].view(weights.shape))


@dataclass(slots=True, eq=False)
class _ConstrainedLayer:
    """One compressible tensor; `keep` and its like in numbers, `mask`, are of its shape, None while all is kept.

    `kept_rows` is `keep` as codes are made: row by row.
    """

    entry: TensorEntry
    plan: Plan
    parameter: nn.Parameter
    keep: Tensor | None = None
    mask: Tensor | None = None
    kept_rows: Tensor | None = None
    shared: SharedWeights | None = None
    beyond: Tensor | None = None

    @property
    def rounded(self) -> bool:
        """Whether the network computes with other weights than those that are trained."""
        return (self.plan.bits < 32 or self.entry.dtype == torch.float64) and not has_codebook(self.plan)

    def layer(self) -> LayerWeights:
        """Return the weights with their survivors marked, ready for rounding."""
        return layer_of(self.entry, self.kept_rows, self.plan)

    def effective(self) -> Tensor:
        """Return the weights its file will hold, and note in `beyond` which of the trained ones lie off the grid."""
        whole = self.layer()
        grid = fit(whole)
        beyond = _beyond(whole, grid)
        self.beyond = None if beyond is None else beyond.to(self.parameter.device)
        return on_grid(whole, grid).to(self.parameter.device)


class WeightConstraints:
    """Every compressible layer of a network that is not under Keep, as a recipe will have it.

    Masks: after every step `hold` puts pruned weights, and what the optimizer remembers of them, back to zero.

    Linear grids, 16 bits: the network computes with `effective` weights, the very ones `compress` makes of the latent
    weights that are trained; the gradient at the one is taken for that at the other (the straight-through estimator;
    Bengio et al., arXiv 1308.3432).

    Codebooks: survivors that share a value share their gradient, so that they go on sharing one (`SharedWeights`).
    """

    def __init__(
        self, network: nn.Module, weights: ModelTensors, recipe: Recipe, masks: Sequence[Tensor | None]
    ) -> None:
        parameters = dict(network.named_parameters(remove_duplicate=False))
        plans = recipe.resolve(e.name for e in weights.layers)
        items = zip(weights.layers, plans, masks, strict=True)
        self._uncompressed, self._kept_bits = weights.uncompressed, recipe.uncompressed_bits
        self._all = sum(entry.numel for entry in weights.layers)
        self._layers = [_ConstrainedLayer(e, plan, parameters[e.name]) for e, plan, _ in items if not plan.keep]
        self.prune([keep for keep, plan in zip(masks, plans, strict=True) if not plan.keep])

    @torch.no_grad()
    def prune(self, masks: Sequence[Tensor | None]) -> None:
        """Take other masks, bool of the shape of each layer, None where all is kept."""
        for layer, keep in zip(self._layers, masks, strict=True):
            layer.keep = None if keep is None else keep.to(layer.parameter.device)
            layer.mask = None if layer.keep is None else layer.keep.to(layer.parameter.dtype)
            layer.kept_rows = None if layer.keep is None else layer.entry.layout.rows(layer.keep)
            if layer.keep is not None:
                layer.parameter.masked_fill_(~layer.keep, 0)
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Make an epoch's beginning and end unambiguous: survivors are not zero, and codebooks are what they are.

        A survivor that is exactly zero would rank with the pruned ones; it becomes the smallest normal number.
        """
        masked = any(layer.keep is not None for layer in self._layers)
        for layer in self._layers:
            if has_codebook(layer.plan):
                layer.shared = SharedWeights(layer.layer(), layer.parameter.device)
                layer.shared.start_(layer.parameter)
            if masked:
                zero = layer.parameter == 0
                survivors = zero if layer.keep is None else zero & layer.keep
                # Not the smallest number there is: denormal ones are slow on CPUs, and some devices take them for zero.
                layer.parameter.masked_fill_(survivors, torch.finfo(layer.parameter.dtype).smallest_normal)

    @property
    def masked(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The weights of every pruned layer, and which of them are kept."""
        return [(layer.parameter, layer.keep) for layer in self._layers if layer.keep is not None]

    @property
    def moved(self) -> bool:
        """Whether weights lie in other memory than when this was made, as they do after ``model.to(…)``."""
        return any(layer.entry.load().data_ptr() != layer.parameter.data_ptr() for layer in self._layers)

    @property
    def rounded(self) -> list[nn.Parameter]:
        """The weights of every layer that computes with others than those that are trained."""
        return [layer.parameter for layer in self._layers if layer.rounded]

    def to_effective(self) -> list[Tensor]:
        """Give the network the weights its file will hold, and return those that are trained, for `to_latent`."""
        latent = [parameter.detach().clone() for parameter in self.rounded]
        try:
            values = [layer.effective() for layer in self._layers if layer.rounded]
            # Through `.data`: autograd refuses to write to a leaf that wants a gradient, and the version of the
            # parameter is to count only what others write (`custom_loop` looks at it).
            _copy([parameter.data for parameter in self.rounded], values)
        except BaseException:  # out of memory, Ctrl-C
            self.to_latent(latent)
            raise
        return latent

    def to_latent(self, latent: list[Tensor]) -> None:
        """Give the network back the weights that are trained."""
        _copy([parameter.data for parameter in self.rounded], latent)

    @contextmanager
    def effective(self) -> Iterator[None]:
        """Let the network compute, inside, with the weights its file will hold."""
        latent = self.to_effective()
        try:
            yield
        finally:
            self.to_latent(latent)

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Let the network compute, inside, as its file will: `effective`, and what is kept rounded to its bits."""
        # `effective` leaves biases, norms and buffers alone: they are trained in 32 bits, and rounded once, at the end.
        kept = [entry.load() for entry in self._uncompressed]
        before = [tensor.clone() for tensor in kept]
        rounded = [uncompressed_value(entry, self._kept_bits) for entry in self._uncompressed]
        try:
            _copy(kept, rounded)
            with self.effective():
                yield
        finally:
            _copy(kept, before)

    @torch.no_grad()
    def straight_through(self) -> None:
        """Turn the gradients at the effective weights into those of the weights that are trained.

        Where a range clips, nothing is gained by going further out, and the gradient that would is zeroed.
        """
        for layer in self._layers:
            gradient = layer.parameter.grad
            if gradient is None or gradient.is_sparse:  # frozen, or an embedding's, which lists a few rows
                continue
            if layer.shared is not None:
                layer.shared.average_(gradient)
            elif layer.beyond is not None:
                gradient.masked_fill_(layer.beyond & (gradient * layer.parameter < 0), 0)

    @torch.no_grad()
    def hold(self, optimizer: Optimizer) -> None:
        """Put pruned weights, and the optimizer's memory of them, back to zero; keep shared values shared."""
        held: list[Tensor] = []
        masks: list[Tensor] = []
        for layer in self._layers:
            if layer.mask is None:
                continue
            # What the optimizer remembers per weight (momentum, averages) would move pruned weights again. Left out is
            # what cannot be masked beside the parameter: quantized state, a class of its own, and state offloaded to
            # another device.
            parameter = layer.parameter
            states = optimizer.state[parameter].values() if parameter in optimizer.state else ()
            plain = [x for x in states if type(x) is Tensor and x.device == parameter.device]
            plain = [x for x in plain if x.shape == parameter.shape]
            held += [parameter, *plain]
            masks += [layer.mask] * (1 + len(plain))
        if held:  # in one call: a small network's step takes less time than a call for each of its tensors
            torch._foreach_mul_(held, masks)
        for layer in self._layers:
            if layer.shared is not None:
                layer.shared.tie_(layer.parameter)

    def sparsity(self) -> float:
        """Return the fraction of the compressible weights that is pruned, counted on the weights.

        Raises:
            TrainingError: if a pruned weight is not zero.
        """
        pruned = 0
        for layer in self._layers:
            if layer.keep is not None:
                pruned += int((~layer.keep).sum())
                if bool(layer.parameter.detach()[~layer.keep].any()):  # an optimizer or a loss of the user's
                    raise TrainingError(f"a pruned weight of {layer.entry.name!r} is not zero: something else wrote it")
        return pruned / self._all


def masks_of(source: CompressedModel, weights: ModelTensors) -> list[Tensor | None]:
    """Return which weights of every layer a compressed model keeps, bool of its shape, None where it keeps all."""
    encoded = source.encoded
    masks = [encoded[entry.name].mask if entry.name in encoded else None for entry in weights.layers]
    return without_untaught(masks, weights, source.recipe)


def without_untaught(masks: Sequence[Tensor | None], weights: ModelTensors, recipe: Recipe) -> list[Tensor | None]:
    """Return the masks without those of layers that nobody asked to prune and that are zero throughout.

    Such a layer has not learnt yet (LoRA begins so): let it.
    """
    plans = recipe.resolve(entry.name for entry in weights.layers)
    untaught = [not plan.sparsity and plan.structure.sparsity is None for plan in plans]
    return [
        None if new and keep is not None and not keep.any() else keep for keep, new in zip(masks, untaught, strict=True)
    ]


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:  # foreach operations refuse empty lists
        torch._foreach_copy_(to, values)


def _beyond(layer: LayerWeights, grid: Grid) -> Tensor | None:
    """Return which weights lie outside of their grid, bool of the layer's shape; None where none can."""
    if layer.plan.bits > 8:
        return None
    found = []
    for piece in layer.pieces():
        beyond = layer.plan.coder.beyond(piece, grid)
        if beyond is None:
            return None
        found.append(layer.groups.flat(beyond))
    return layer.layout.restored(torch.cat(found), layer.shape)
