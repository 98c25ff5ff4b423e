"""One network being trained: a batch goes in, the weights move, the masks hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..analysis.run_without_side_effects import call, device_of, reason
from ..errors import DataError, TrainingError
from ..evaluation.batches import Batch
from ..evaluation.metrics import Sums, resolve
from ..evaluation.predictions import OutputReader, Predictions
from .options import TrainingOptions
from .retraining_methods import Stage
from .training_loss import TrainingLoss
from .training_schedule import Trained
from .weight_constraints import WeightConstraints

_HINT: Final = "; the best weights so far are kept: try a lower rate, or a warm-up"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step tells: the loss before it, and the batch's score, as the metric counts it."""

    loss: float
    sums: Sums


class TrainStep:
    """A network with its masks and its optimizer, for one stage of training."""

    def __init__(self, network: nn.Module, held: WeightConstraints, stage: Stage, options: TrainingOptions) -> None:
        self.network = network
        self.held = held
        self.stage = stage
        _freeze(network, stage.relative)
        self.optimizer = stage.schedule.optimizer_of(_groups(network, stage))
        _train_mode(network, stage.relative)
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._objective = TrainingLoss(options, network)
        self._reader = OutputReader(network, options.rules)
        self._metric = resolve(options.measured)
        self._autocast = options.autocast
        self._device = (device_of(network) or torch.device("cpu")).type

    def remember(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Let the optimizer remember what another of its kind did, by the number of each parameter."""
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

    def step(self, batch: Batch, progress: float) -> StepResult:
        """Take one step at the rate the stage has after `progress` epochs.

        Raises:
            DataError: for a batch that does not fit.
            TrainingError: if the loss is not finite, before a weight has moved; if the optimizer fails.
        """
        self._set_rate(self.stage.rate(progress))
        self.optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad(), self.held.effective():
            answers = self._reader.read(self._outputs(batch), batch)
            loss = self._loss(answers, batch)
            torch.autograd.backward(loss)
        self.held.straight_through()
        self._move()
        self.held.hold(self.optimizer)
        with torch.no_grad():
            return StepResult(float(loss.detach()), self._metric.sums(answers))

    def _outputs(self, batch: Batch) -> Any:
        with torch.autocast(self._device, self._autocast, enabled=self._autocast is not None):
            return call(self.network, batch.args, batch.kwargs)

    def _loss(self, answers: Predictions, batch: Batch) -> Tensor:
        try:
            loss = self._objective(answers, batch)
        except DataError:
            if answers.has_nan():
                raise TrainingError(f"the outputs are NaN{_HINT}") from None
            raise
        if not bool(loss.detach().isfinite()):
            raise TrainingError(f"the loss is {loss.item()}{_HINT}")
        return loss

    def _move(self) -> None:
        try:
            self.optimizer.step()
        except Exception as error:
            raise TrainingError(f"{type(self.optimizer).__name__} failed to take a step: {reason(error)}") from error

    def _set_rate(self, rate: float) -> None:
        share = rate / self.stage.schedule.lr
        for group, at_its_highest in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = at_its_highest * share


def _freeze(network: nn.Module, relative: Mapping[str, float]) -> None:
    for name, module in network.named_modules():
        if relative.get(name) == 0:
            for parameter in _own(module):
                parameter.requires_grad_(False)


def _groups(network: nn.Module, stage: Stage) -> Trained:
    """Return the parameters to train, those with rates of their own in groups of one rate each."""
    groups: dict[float, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name, module in network.named_modules():
        for parameter in _own(module):
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                groups.setdefault(stage.relative.get(name, 1.0), []).append(parameter)
    if not groups:
        raise TrainingError(f"nothing to train in this {type(network).__name__}: no parameter requires a gradient")
    if list(groups) == [1.0]:
        return groups[1.0]
    return [{"params": parameters, "lr": stage.schedule.lr * share} for share, parameters in groups.items()]


def _train_mode(network: nn.Module, relative: Mapping[str, float]) -> None:
    """Put every module into training mode, but for frozen ones: their statistics are, too.

    Frozen is what the stage freezes, and what came with no parameter of its own that requires a gradient.
    """
    for name, module in network.named_modules():
        own = _own(module)
        module.training = relative.get(name) != 0 and (not own or any(p.requires_grad for p in own))


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))
