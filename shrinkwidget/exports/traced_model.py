"""A model as torch.export traces it: one graph, its batch of any size where the model allows that."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from ..analysis.run_without_side_effects import reason
from ..errors import ModelError
from .exporter import ExportJob, quiet


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced program, and what its user has to know of it."""

    program: ExportedProgram
    notes: tuple[str, ...]


def traced(job: ExportJob, any_batch: bool = True) -> Traced:
    """Return the graph of a model on its example; the first axis of every input may have any size, if it can.

    Raises:
        ModelError: for a model that torch.export cannot follow, such as one whose control flow depends on data.
    """
    model = job.model
    if model is None:
        raise ModelError("there is no network to trace")
    free = pytree.tree_map_only(
        Tensor, lambda x: {0: Dim.AUTO} if x.ndim and any_batch else None, (job.args, dict(job.kwargs))
    )
    try:
        with torch.no_grad(), quiet("torch.fx", "torch.fx.experimental.symbolic_shapes", "torch.export"):
            program = torch.export.export(
                model, job.args, dict(job.kwargs), dynamic_shapes=_by_name(model, free), strict=False
            )
    except Exception as error:
        raise ModelError(
            f"torch.export cannot follow this {type(model).__name__} ({reason(error)}): its graph must be the same for "
            f"every input, without branches or sizes that depend on values"
        ) from error
    inputs = set(program.graph_signature.user_inputs)
    fixed = [_fixed_batch(node) for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    sizes = {size for size in fixed if size is not None}
    notes = (
        [f"its batch is fixed at {min(sizes)} rows: the model computes with that size"] if sizes and any_batch else []
    )
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
