"""Where a transfer starts: a copy of the user's model with a new head, and what one batch tells of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..analysis.forward_profile import ForwardProfile
from ..analysis.inference import device_of, reason
from ..analysis.model_tensors import check_refused, open_model
from ..compressed_model import CompressedModel
from ..compression.apply_recipe import copied
from ..errors import DataError, ModelError
from ..evaluation.batches import TARGET_KEYS, Batch
from ..evaluation.model_outputs import Place, only_prediction, tensors
from ..recipe import Recipe
from ..training.rng import fork_rng
from .classifier_head import Heads, count_outputs, find_heads, no_head, outputs_of, put_heads, put_module
from .from_scratch import reinitialized
from .sparse_transfer import masks_of, recipe_for
from .training_cost import CostModel, profile_cost
from .transfer_task import TransferTask

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
