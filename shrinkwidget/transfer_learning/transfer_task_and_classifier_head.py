"""Prepare a transfer: check the task, find the head of a copy of the model, and put a new one in its place.

From top to bottom: the task, the setup of the model for it, and how a classification head is found and replaced.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..analysis.open_model_tensors_and_channel_axes import check_refused, copied, open_model
from ..analysis.run_model_seeded_macs_and_memory import ForwardProfile, describe, device_of, fork_rng
from ..compressed_model import CompressedModel
from ..errors import DataError, ModelError, TrainingError, a_type, nearest, reason
from ..evaluation.batches_predictions_and_labels import (
    IGNORED,
    TARGET_KEYS,
    Batch,
    Place,
    as_pair,
    no_batch,
    only_prediction,
    prepared,
    raw_batches,
    refuse_no_data,
    tensors,
)
from ..recipe_and_method_registry import Recipe
from ..training.methods_schedule_options_and_progress import TrainingOptions
from .masks_and_recipe_for_sparse_transfer import masks_of, recipe_for
from .transfer_result_and_training_cost import CostModel, profile_cost

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Heads: TypeAlias = tuple[str, ...]
"""The names of the heads of a network, nearly always one."""

_USUAL: Final = ("head", "fc", "classifier")  # where timm, torchvision and Hugging Face have it
_COUNTS: Final = ("num_labels", "num_classes", "n_classes")  # what models and their configs call the number of classes
_SOME: Final = 6  # candidates that an error lists

# What Hugging Face calls the outputs of a model without a head.
_FEATURES: Final = frozenset({"last_hidden_state", "pooler_output"})


@dataclass(frozen=True, eq=False)
class TransferTask:
    """The data of the new task, the outputs of the new head, and how it is trained."""

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
        if options.checkpoint is not None:
            raise TrainingError("transfer writes no checkpoint, as it is short: leave checkpoint=… out")
        if classes is not None and targets is not None:
            raise TrainingError("give classes=… to tell classes apart, or targets=… to predict numbers, not both")
        for name, found, least in (("classes", classes, 2), ("targets", targets, 1)):
            if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < least):
                raise TrainingError(f"{name}={found!r} must be a whole number from {least}")
        for data in (train_data, eval_data):
            if data is not None and as_pair(data) is None:
                refuse_no_data(data)
            if isinstance(data, Iterator):
                raise DataError(
                    f"{a_type(data)} can be read only once, and is needed every epoch: "
                    f"pass a list of batches or a DataLoader"
                )
        if targets is not None:
            if options.loss == "cross_entropy":  # the default, which nobody means for numbers
                options = replace(options, loss="mse")
            return cls(train_data, eval_data, targets, options)
        outputs = _count_classes(train_data, options) if classes is None else classes
        return cls(train_data, eval_data, outputs, options)

    def first(self, model: nn.Module) -> Batch:
        """Return the first training batch, ready to run.

        Raises:
            DataError: if there is none, or the model takes other arguments.
        """
        with fork_rng(None, self.options.seed):  # a dataset may draw, and the caller's generators are not ours
            raw = next(raw_batches(self.train_data), None)
        if raw is None:
            raise no_batch(self.train_data, "train")
        try:
            batch = prepared(raw, model, device_of(model))
            _refuse_lacking_arguments(model, batch)
        except DataError as error:
            raise DataError(f"batch 1: {error}") from error.__cause__
        return batch


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
        # Classes are counted by the largest label, not by how many there are: a small training set may lack some.
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


def _refuse_lacking_arguments(model: nn.Module, batch: Batch) -> None:
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
    # A model that is given labels computes its loss, and those of the new task may be out of the old head's range.
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
        raise _no_head_error(network, why, seen.order)
    # What looks like a head is believed only if the prediction changes its shape with it: a last Linear layer may as
    # well be the end of a backbone, or one of two heads of which the model returns the mean.
    # A new head must change the shape of the prediction, or the module is not what predicts. If the new task has as
    # many outputs as the old one, shapes tell nothing, and the first candidate is taken.
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
        for name, module in zip(heads, old, strict=True):  # as it was, for the next to be tried
            put_module(network, name, module)
    tried = " and ".join(map(repr, heads))
    raise _no_head_error(network, f"with {task.outputs} outputs instead of {outputs} of {tried}, {why}", seen.order)


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
        raise ModelError(f"cannot fine-tune {a_type(source)}: give an nn.Module or a CompressedModel")
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
        # Attention, of torch's own, has the one with the underscore.
        reset: Callable[[], object] | None = getattr(module, "reset_parameters", None) or getattr(
            module, "_reset_parameters", None
        )
        if callable(reset):
            reset()
            continue
        with torch.no_grad():
            for parameter in module.parameters(recurse=False):
                # Such as a class token or position embeddings, whose scale its author chose; correction=0, or a single
                # number would have a deviation of NaN.
                mean, deviation = parameter.mean(), parameter.std(correction=0)
                parameter.copy_(torch.randn_like(parameter) * deviation + mean)
    return new


# The head: found by running the network, and replaced


def find_heads(model: nn.Module, order: Sequence[str], named: str | Sequence[str] | None = None) -> list[Heads]:
    """Return the names of what may be a network's head, Linear layers or 1×1 convolutions, in the order to try them in.

    Most have one. Some, such as LeViT and distilled DeiT, add the outputs of two: so after the last one alone, all that
    have as many outputs as it are tried.

    Args:
        model: the network.
        order: names of its modules in the order of their first call.
        named: the head, or a module whose last one it is, or several; by default it is the last layer with weights to
            run, if nothing that learns runs after it and the model does not say that it has no head.

    Raises:
        ModelError: if there is none; the candidates are listed.
    """
    modules = dict(model.named_modules())
    fitting = [name for name in order if name and is_classifier(modules[name])]
    if named is not None:
        given = [named] if isinstance(named, str) else list(named)
        return [tuple(dict.fromkeys(_named(name, modules, fitting) for name in given))]
    last = next((name for name in reversed(order) if list(modules[name].parameters(recurse=False)) and name), "")
    if found := _why_no_head(model, last, modules, fitting):
        raise _no_head_error(model, found, order)
    # Two heads whose outputs are added or averaged have the same number of outputs.
    alike = [name for name in fitting if outputs_of(modules[name]) == outputs_of(modules[last])]
    tried: list[Heads] = [(last,)] if len(alike) < 2 else [(last,), tuple(alike)]
    # The last alone first. But outputs of one each broadcast: with one head of two replaced the model would run, and
    # add the old head's only output to every new one.
    return tried[::-1] if outputs_of(modules[last]) == 1 else tried


def _why_no_head(model: nn.Module, last: str, modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    """Return why the last layer to run is no head, "" if it is one as far as its place tells."""
    if not last:
        return "no module in it has weights"
    if last not in fitting:
        return f"its last layer to run, {last!r}, is {a_type(modules[last])}"
    identities = [name for name, module in modules.items() if isinstance(module, nn.Identity)]
    # timm and others put an Identity in the place of a head that is left out.
    empty = [name for name in identities if name.rpartition(".")[2] in _USUAL]
    if empty:
        return f"where it usually is, at {empty[0]!r}, nothing is computed"
    # Features may end in a Linear layer, too, but not in one with as many outputs as there are classes.
    outputs, said = outputs_of(modules[last]), [getattr(model, count, None) for count in _COUNTS]
    for count in said:
        if isinstance(count, int) and count != outputs:
            return f"its last layer to run, {last!r}, has {outputs} outputs, and the model says {count}"
    return ""


def _no_head_error(model: nn.Module, why: str, order: Sequence[str]) -> ModelError:
    """Return the error for a network in which no head is found, with the candidates."""
    modules = dict(model.named_modules())
    fitting = [name for name in order if name and is_classifier(modules[name])]
    return ModelError(f"found no head in this {type(model).__name__}: {why}; {_candidates(modules, fitting)}")


def is_classifier(module: nn.Module) -> bool:
    """Tell whether a module may be a head."""
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1 and set(module.kernel_size) == {1}
    return isinstance(module, nn.Linear)


def _named(name: str, modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    inside = [found for found in fitting if found == name or found.startswith(f"{name}.")]
    if inside:
        return inside[-1]
    wrong = f"that is {a_type(modules[name])}" if name in modules else f"there is none{nearest(name, modules)}"
    raise ModelError(f"head={name!r}: {wrong}; {_candidates(modules, fitting)}")


def _candidates(modules: dict[str, nn.Module], fitting: Sequence[str]) -> str:
    if not fitting:
        return "no Linear layer or 1×1 convolution runs in it that could be one"
    sizes = {name: f"{outputs_of(modules[name], 'in')} → {outputs_of(modules[name])}" for name in fitting}
    known = [f"{name!r} ({sizes[name]})" for name in reversed(fitting)]  # the last to run is the likeliest
    more = f" and {len(known) - _SOME} more" if len(known) > _SOME else ""
    return f"name one with head=…: {', '.join(known[:_SOME])}{more}"


def outputs_of(module: nn.Module, side: str = "out") -> int:
    """Return how many outputs a head has, or, with ``"in"``, inputs."""
    kind = "channels" if isinstance(module, _CONVOLUTIONS) else "features"
    return int(getattr(module, f"{side}_{kind}"))


def put_heads(model: nn.Module, heads: Heads, outputs: int) -> list[nn.Module]:
    """Give a model new heads, initialised as torch does, on the device, of the dtype and in the mode of the old.

    Returns the old ones.
    """
    old = [model.get_submodule(name) for name in heads]
    for name, module in zip(heads, old, strict=True):
        weight = module.get_parameter("weight")
        settings: dict[str, Any] = {"bias": getattr(module, "bias", None) is not None}
        settings |= {"device": weight.device, "dtype": weight.dtype}
        with torch.inference_mode(False):  # what is made in it could never be trained
            kind = next((kind for kind in _CONVOLUTIONS if isinstance(module, kind)), None)
            inputs = outputs_of(module, "in")
            new = nn.Linear(inputs, outputs, **settings) if kind is None else kind(inputs, outputs, 1, **settings)
        put_module(model, name, new.train(module.training))
    return old


def put_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, own = name.rpartition(".")
    model.get_submodule(parent).add_module(own, module)


def count_outputs(model: nn.Module, before: int, outputs: int) -> None:
    """Let what the model or its ``config`` calls its number of classes follow: Hugging Face computes losses by it."""
    for owner in (model, getattr(model, "config", None)):
        for count in _COUNTS:
            if getattr(owner, count, None) == before:
                setattr(owner, count, outputs)
