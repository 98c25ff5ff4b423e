"""A model as torch.export traces it: one graph, its batch of any size where the model allows that."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ..errors import ModelError, reason
from .exporter import ExportJob, quiet


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced program, and what its user has to know of it."""

    program: ExportedProgram
    notes: tuple[str, ...]


class WithWeightsAsInputs(nn.Module):
    """A model that is given some of its tensors first, as a list, and then its inputs.

    No converter folds, fuses or rounds what it takes for an input.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, weights: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the model with these tensors in the place of its own."""
        return torch.func.functional_call(self.model, dict(zip(self.names, weights, strict=True)), args, kwargs)


def traced_with_weights_as_inputs(job: ExportJob, names: Sequence[str]) -> Traced:
    """Return the graph of a model whose first inputs are these of its tensors; see `traced`."""
    if job.model is None:
        raise ModelError("there is no network to trace")
    state = dict(job.model.named_parameters(remove_duplicate=False)) | dict(job.model.named_buffers())
    given = ([state[name].detach() for name in names], job.args, dict(job.kwargs))
    whole = replace(job, model=WithWeightsAsInputs(job.model, names), args=given, kwargs={})
    return traced(whole, fixed=len(names))


def traced(job: ExportJob, fixed: int = 0, most: int | None = None) -> Traced:
    """Return the graph of a model on its example; the first axis of every input may have any size, if it can.

    Of the first `fixed` tensors among its inputs the sizes stay as they are. `most` is the largest size of the axis.

    Raises:
        ModelError: for a model that torch.export cannot follow, such as one whose control flow depends on data.
    """
    model = job.model
    if model is None:
        raise ModelError("there is no network to trace")
    leaves, spec = pytree.tree_flatten((job.args, dict(job.kwargs)))
    # AUTO, not DYNAMIC: where the model computes with the number of rows, tracing fixes it instead of failing.
    size = Dim.AUTO if most is None else Dim.AUTO(max=most)
    axes = [{0: size} if isinstance(x, Tensor) and x.ndim and i >= fixed else None for i, x in enumerate(leaves)]
    free = pytree.tree_unflatten(axes, spec)
    try:
        with torch.no_grad(), quiet("torch.fx", "torch.fx.experimental.symbolic_shapes", "torch.export"):
            program = torch.export.export(
                model, job.args, dict(job.kwargs), dynamic_shapes=_by_name(model, free), strict=False
            )
    except Exception as error:
        whose = type(getattr(model, "model", model)).__name__
        raise ModelError(
            f"torch.export cannot follow this {whose} ({reason(error)}): its graph must be the same for every input, "
            f"without branches or sizes that depend on values"
        ) from error
    inputs = set(program.graph_signature.user_inputs[fixed:])
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    sizes = {size for size in map(_fixed_batch, placeholders) if size is not None}
    notes = [f"its batch is fixed at {min(sizes)} rows: the model computes with that size"] if sizes else []
    return Traced(program, tuple(notes))


def _by_name(model: nn.Module, free: Any) -> dict[str, Any]:
    """Return the dynamic shapes of an example as torch.export wants them: by the names of ``forward``."""
    return dict(inspect.signature(model.forward).bind(*free[0], **free[1]).arguments)


def _fixed_batch(node: torch.fx.Node) -> int | None:
    """Return the one size that the first axis of an input has; None where it may have any."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.ndim:
        return None
    size: Any = value.shape[0]
    # a symbol that tracing has found to be one number
    return int(size) if isinstance(size, int) or size.node.expr.is_number else None
