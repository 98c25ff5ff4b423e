"""Where a transfer starts: a copy of the user's model with a new head, and what one batch tells of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from ..compressed import Compressed
from ..errors import ModelError
from ..learn.chance import seeded
from ..measure.call import device_of
from ..measure.layers import check_refused, open_weights
from ..recipe import Recipe
from ..shrink.compress import copied
from ..train.batches import TARGET_KEYS, Batch
from .head import find_head, replace_head
from .scratch import anew
from .sparse import masks_of, recipe_for
from .spent import Costs, watched
from .task import Task


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """A copy of the user's model with its new head, and what is known of it.

    `order` are the names of its modules in the order of their first call, `batch` is the first of the data; `recipe`
    and `masks` are those of a compressed model, None and empty for a module.
    """

    network: nn.Module
    head: str
    order: tuple[str, ...]
    costs: Costs
    batch: Batch
    recipe: Recipe | None = None
    masks: Mapping[str, Tensor] = field(default_factory=dict)

    def from_scratch(self, seed: int) -> Start:
        """Return the same network, dense, before it learnt anything."""
        with seeded(device_of(self.network), seed):
            return replace(self, network=anew(self.network), recipe=None, masks={})


def start(source: Compressed | nn.Module, task: Task, named: str | None) -> Start:
    """Give a copy of a model a new head for a task.

    Raises:
        ModelError: if the head is not found, or cannot be replaced; for what is no model.
        DataError: if the model cannot run the first batch.
    """
    check_refused(open_weights(module_of(source), only_to_look=True))
    network = copied(module_of(source))
    batch = task.first(network)
    unlabelled = replace(batch, kwargs={k: v for k, v in batch.kwargs.items() if k not in TARGET_KEYS})
    head = find_head(network, watched(network, unlabelled).order, named)
    with seeded(device_of(network), task.options.seed):
        replace_head(network, head, task.outputs)
    seen = watched(network, unlabelled)
    begun = Start(network, head, seen.order, Costs.of(seen, len(batch.targets)), batch)
    if not isinstance(source, Compressed):
        return begun
    return replace(begun, recipe=recipe_for(source, network, head), masks=masks_of(source, head))


def module_of(source: object) -> nn.Module:
    """Return a module, or that of a `Compressed`; raises a `ModelError` for all else."""
    if isinstance(source, nn.Module):
        return source
    if not isinstance(source, Compressed):
        raise ModelError(f"cannot teach a {type(source).__name__}: give an nn.Module or a Compressed")
    if source.model is None:
        raise ModelError("there is no model to teach, only weights: load the file with load(path, into=model)")
    return source.model
