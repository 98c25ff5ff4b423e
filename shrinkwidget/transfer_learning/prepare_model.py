"""Prepare a transfer: check the task, put a new head on a copy of the model, and order its layers for freezing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..analysis.macs_and_activation_memory import ForwardProfile
from ..analysis.model_tensors import check_refused, open_model
from ..analysis.run_without_side_effects import describe, device_of, reason
from ..compressed_model import CompressedModel
from ..compression.apply_recipe import copied
from ..errors import DataError, ModelError, TrainingError
from ..evaluation.batches import TARGET_KEYS, Batch, as_pair, prepared, raw_batches, refuse_no_data
from ..evaluation.labels import IGNORED
from ..evaluation.predictions import Place, only_prediction, tensors
from ..recipe import Recipe
from ..training.rng import fork_rng
from ..training.training_options import TrainingOptions
from .classifier_head import Heads, count_outputs, find_heads, no_head, outputs_of, put_heads, put_module
from .lora import LowRankUpdate
from .sparse_transfer import masks_of, recipe_for
from .transfer_result import CostModel, profile_cost


@dataclass(frozen=True, eq=False)
class TransferTask:
    """The data of the new task, the outputs of the new head, and how is trained."""

    train_data: object
    eval_data: object
    outputs: int
    options: TrainingOptions

    @classmethod
    def of(
        cls, train_data: object, eval_data: object, classes: int | None, targets: int | None, options: TrainingOptions
    ) -> TransferTask:
        """Return the task, its classes counted where neither they nor the values to predict are given.

        Raises:
            DataError: for what is no data, can be read only once, or does not tell the classes.
            TrainingError: for numbers of classes or values that cannot be.
        """
        _check_options(options, classes, targets)
        for data in (train_data, eval_data):
            if data is not None and as_pair(data) is None:
                refuse_no_data(data)
            if isinstance(data, Iterator):
                raise DataError(
                    f"a {type(data).__name__} can be read only once, and is needed every epoch: "
                    f"pass a list of batches or a DataLoader"
                )
        if targets is not None:
            return cls(train_data, eval_data, targets, _for_regression(options))
        outputs = _count_classes(train_data, options) if classes is None else classes
        return cls(train_data, eval_data, outputs, options)

    def first(self, model: nn.Module) -> Batch:
        """Return the first training batch, ready to run.

        Raises:
            DataError: if there is none, or the model takes other arguments.
        """
        with fork_rng(None, self.options.seed):
            raw = next(raw_batches(self.train_data), None)
        if raw is None:
            raise DataError("the data is empty: there is no batch to train on")
        try:
            batch = prepared(raw, model, device_of(model))
            _check_arguments(model, batch)
        except DataError as error:
            raise DataError(f"batch 1: {error}") from error.__cause__
        return batch


def _check_options(options: TrainingOptions, classes: object, targets: object) -> None:
    if options.checkpoint is not None:
        raise TrainingError("transfer writes no checkpoint, as it is short: leave TrainingOptions(checkpoint=…) out")
    if classes is not None and targets is not None:
        raise TrainingError("give classes=… to tell classes apart, or targets=… to predict numbers, not both")
    for name, found, least in (("classes", classes, 2), ("targets", targets, 1)):
        if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < least):
            raise TrainingError(f"{name}={found!r} must be a whole number from {least}")


def _for_regression(options: TrainingOptions) -> TrainingOptions:
    """Return the options with the loss of a regression, where it is that of classes."""
    return replace(options, loss="mse") if options.loss == "cross_entropy" else options


def _count_classes(data: object, options: TrainingOptions) -> int:
    """Return the largest label and one, reading the data once."""
    largest = -1
    for labels in _labels(data, options.seed):
        if labels.is_floating_point() or labels.is_complex():
            raise DataError(
                f"the targets are {describe(labels)}: give classes=… if they are whole, or targets=… for a regression"
            )
        scored = labels[(labels != IGNORED) & (labels != options.ignore_index)].long()
        if scored.numel() and int(scored.min()) < 0:
            raise DataError(f"label {int(scored.min())} is out of range: classes are numbered from 0")
        largest = max(largest, int(scored.max()) if scored.numel() else -1)
    if largest < 1:
        found = "no label" if largest < 0 else "no other label than 0"
        raise DataError(f"there is {found} in the training data: give classes=…, how many there are to tell apart")
    return largest + 1


def _labels(data: object, seed: int) -> Iterator[Tensor]:
    if (pair := as_pair(data)) is not None:
        yield pair[1]
        return
    if isinstance(data, IterableDataset) or (
        isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset)
    ):
        raise DataError("a stream does not tell its classes before it is over: give classes=…")
    with fork_rng(None, seed):
        yield from [prepared(raw, _Anything(), None).targets for raw in raw_batches(data)]


class _Anything(nn.Module):
    """A model for which every batch will do."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def _check_arguments(model: nn.Module, batch: Batch) -> None:
    """Raise a `DataError` if a batch lacks an argument of the model's ``forward``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [
        p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds and p.default is p.empty
    ]
    lacking = [p.name for p in needed[len(batch.args) :] if p.name not in batch.kwargs]
    if lacking:
        raise DataError(
            f"{type(model).__name__}.forward needs {', '.join(p.name for p in needed)}, but the batch has no "
            f"{lacking[0]!r}: give batches ((a, b), targets), or dicts with these names and the targets"
        )


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """Every module of a network, by name.

    Args:
        heads: the new ones, nearly always one.
        below: all others with parameters of their own, the first to run first; one that is never called itself counts
            as running with the module it is in.
        position: of every module, when it first runs.
        containers: modules without parameters of their own that have others in them.
        updates: the low-rank updates among them.
    """

    heads: tuple[str, ...]
    below: tuple[str, ...]
    position: Mapping[str, int]
    containers: frozenset[str]
    updates: frozenset[str]

    @classmethod
    def of(cls, network: nn.Module, order: Sequence[str], heads: tuple[str, ...]) -> LayerGroups:
        """List the modules of a network, given the order of their first calls."""
        modules = dict(network.named_modules())
        called = {name: place for place, name in enumerate(order)}
        position = {name: _position(name, called) for name in modules}
        owners = [
            name for name, module in modules.items() if list(module.parameters(recurse=False)) and name not in heads
        ]
        containers = {name for name in modules if name not in owners and list(modules[name].children())}
        updates = {name for name, module in modules.items() if isinstance(module, LowRankUpdate)}
        below = tuple(sorted(owners, key=position.__getitem__))
        return cls(heads, below, position, frozenset(containers), frozenset(updates))

    def only(self, *trained: str) -> dict[str, float]:
        """Return the relative rates that freeze all but some modules."""
        return {name: float(name in trained) for name in self.position}

    def all_at(self, share: float) -> dict[str, float]:
        """Return the relative rates that give all but the head a share of its rate."""
        return {name: 1.0 if name in self.heads else share for name in self.position}

    def top(self, count: int, share: float) -> dict[str, float]:
        """Return the relative rates that train the head, and the last `count` layers below it at a share of its rate.

        What has no parameters (dropout, norms without any) trains with what runs before it.
        """
        if not count:
            return self.only(*self.heads)
        active = set(self.below[-count:])
        cut = self.position[self.below[-count]]

        def trains(name: str) -> bool:
            if name in self.below:
                return name in active
            if name in self.containers:
                return any(_inside(layer, name) for layer in active)
            return self.position[name] >= cut

        return {name: share * trains(name) for name in self.position} | dict.fromkeys(self.heads, 1.0)

    def alone(self, relative: Mapping[str, float]) -> bool:
        """Tell whether nothing but the head trains."""
        return relative == self.only(*self.heads)


def _position(name: str, called: Mapping[str, int]) -> int:
    while name and name not in called:
        name = name.rpartition(".")[0]
    return called.get(name, 0)


def _inside(layer: str, container: str) -> bool:
    return not container or layer.startswith(f"{container}.")


_FEATURES: Final = frozenset({"last_hidden_state", "pooler_output"})
"""What Hugging Face calls the outputs of a model without a head."""


@dataclass(frozen=True, slots=True, eq=False)
class TransferSetup:
    """A copy of the user's model with its new heads (nearly always one), and what is known of it.

    `order` are the names of its modules in the order of their first call, `batch` is the first of the data; `recipe`
    and `masks` are those of a compressed model, None and empty for a module.
    """

    network: nn.Module
    heads: Heads
    order: tuple[str, ...]
    costs: CostModel
    batch: Batch
    recipe: Recipe | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def from_scratch(self, seed: int) -> TransferSetup:
        """Return the same network, dense, before it learnt anything."""
        with fork_rng(device_of(self.network), seed):
            return replace(self, network=reinitialized(self.network), recipe=None, masks={})


def set_up_transfer(
    source: CompressedModel | nn.Module, task: TransferTask, named: str | Sequence[str] | None
) -> TransferSetup:
    """Give a copy of a model a new head for a task, or two where it has two.

    Raises:
        ModelError: if the head is not found, or cannot be replaced; for what is no model.
        DataError: if the model cannot run the first batch.
    """
    check_refused(open_model(module_of(source), only_to_look=True))
    network = copied(module_of(source))
    batch = task.first(network)
    unlabelled = replace(batch, kwargs={k: v for k, v in batch.kwargs.items() if k not in TARGET_KEYS})
    heads, seen = _replaced(network, unlabelled, task, named)
    setup = TransferSetup(network, heads, seen.order, CostModel.of(seen, len(batch.targets)), batch)
    if not isinstance(source, CompressedModel):
        return setup
    return replace(setup, recipe=recipe_for(source, network, heads), masks=masks_of(source, heads))


def _replaced(
    network: nn.Module, batch: Batch, task: TransferTask, named: str | Sequence[str] | None
) -> tuple[Heads, ForwardProfile]:
    """Put new heads in the place of a network's own, and return their names and a forward pass with them.

    Raises:
        ModelError: if there are none, or if the network does not run with them.
        DataError: if the network cannot run the batch as it is.
    """
    seen, before, places = _run(network, batch)
    if named is None and places and set(places) <= _FEATURES:
        why = (
            f"it returns features ({', '.join(map(repr, places))}) and no predictions: load it with a head, by "
            f"AutoModelForImageClassification or its like"
        )
        raise no_head(network, why, seen.order)
    found = find_heads(network, seen.order, named)
    for heads in found:
        with fork_rng(device_of(network), task.options.seed):
            old = put_heads(network, heads, task.outputs)
        outputs = outputs_of(old[-1])
        try:
            with_new, after, _ = _run(network, batch)
        except DataError as error:
            why = f"the model no longer runs ({reason(error.__cause__ or error)})"
        else:
            if named is not None or after != before or outputs == task.outputs:
                count_outputs(network, outputs, task.outputs)
                return heads, with_new
            why = "its outputs are as they were"
        for name, module in zip(heads, old, strict=True):
            put_module(network, name, module)
    tried = " and ".join(map(repr, heads))
    raise no_head(network, f"with {task.outputs} outputs instead of {outputs} of {tried}, {why}", seen.order)


def _run(network: nn.Module, batch: Batch) -> tuple[ForwardProfile, list[torch.Size], list[Place]]:
    """Return what a forward pass did, the shape of the prediction (of all outputs if it may be any), and all names."""
    outputs: list[Any] = []
    hook = network.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        seen = profile_cost(network, batch)
    finally:
        hook.remove()
    found, all_of_them = only_prediction(outputs[-1]), tensors(outputs[-1])
    return seen, [x.shape for x in (all_of_them.values() if found is None else (found,))], list(all_of_them)


def module_of(source: object) -> nn.Module:
    """Return a module, or that of a `CompressedModel`; raises a `ModelError` for all else."""
    if isinstance(source, nn.Module):
        return source
    if not isinstance(source, CompressedModel):
        raise ModelError(f"cannot fine-tune a {type(source).__name__}: give an nn.Module or a CompressedModel")
    if source.model is None:
        raise ModelError("there is no model to teach, only weights: load the file with load(path, into=model)")
    return source.model


def reinitialized(network: nn.Module) -> nn.Module:
    """Return a copy of a network that has learnt nothing.

    Every module is initialised by its own ``reset_parameters``. The parameters of one that has none are drawn from a
    normal distribution with the mean and the deviation they have; buffers stay.
    """
    new = copied(network)
    for module in new.modules():
        reset: Callable[[], object] | None = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if callable(reset):
            reset()
        else:
            for parameter in module.parameters(recurse=False):
                _redraw(parameter)
    return new


@torch.no_grad()
def _redraw(parameter: Tensor) -> None:
    mean, deviation = parameter.mean(), parameter.std(correction=0)
    parameter.copy_(torch.randn_like(parameter) * deviation + mean)
