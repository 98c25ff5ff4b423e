"""The estimate: what a recipe would make of a model, from its sketch alone, without touching a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np

from ..argument_checks import public
from ..errors import ArgumentError, NoEstimateError, quoted
from ..recipe_and_method_registry import Kind, Plan, Recipe, RecipeFields, every_setting, recipe_from
from .estimate_class_and_packed_file_header import Estimate, LayerEstimate, assembled, code_and_mask_bytes, scale_bytes
from .open_model_tensors_and_channel_axes import Source, Stated
from .pruning_estimate import PruningOutcome, alike, survivals
from .quantization_estimate import rounding_noise
from .sketch import LayerSketch, Sketch, narrowed_to
from .sketch import sketch as sketch_of


@public(fields_of=[RecipeFields], also=every_setting)
def estimate(
    model: Source | Sketch,
    recipe: Recipe | float | None = None,
    *,
    layout: Stated = None,
    **fields: Unpack[RecipeFields],
) -> Estimate:
    """Return what a recipe would make of a model, from its sketch alone.

    >>> import shrinkwidget as sw
    >>> look = sw.sketch(sw.demo.model())
    >>> sw.estimate(look, sparsity=0.9, bits=4).ratio > sw.estimate(look, 0.5).ratio
    True

    Args:
        model: a `Sketch`, or what one is made of: a module, a state dict, the path of a checkpoint. Make the sketch
            once where several recipes are tried: it takes longer than all of them.
        recipe: a `Recipe`, or a number: the sparsity.
        layout: of what is no sketch yet; see `sketch`.
        fields: of a `Recipe`; beside a recipe they change it.

    Raises:
        RecipeError: for what is no recipe, if one of its overrides matches no layer, or for a kind of which a sketch
            cannot tell what it comes to: `compress` counts it.
        ModelError, FileError: for a model that cannot be looked at; see `sketch`.
        ArgumentError: for an unknown keyword, or a `layout` beside a sketch, which has its own.
    """
    asked = recipe_from(recipe, fields)
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    look = model if isinstance(model, Sketch) else sketch_of(model, layout=layout)
    plans = look.plans(asked)
    look, counts = narrowed(look, asked)
    outcomes = survivals(look.layers, plans, asked)
    layers: dict[int, LayerEstimate] = {}
    for plan, places in alike(plans):
        some = [look.layers[i] for i in places]
        known = [outcome for i in places if (outcome := outcomes[i]) is not None]
        if len(known) < len(some):
            # a structure is what a sketch knows nothing of only where it has no curve
            own = plan.structure.sparsity is not None and plan.structure.kind not in some[0].survival
            unknown = next(layer for layer, i in zip(some, places, strict=True) if outcomes[i] is None)
            raise _no_estimate(plan.structure if own else asked.importance, plan, unknown)
        noises = rounding_noise(some, plan, known)
        for layer, noise in zip(some, noises, strict=True):
            if noise is None:
                raise _no_estimate(plan.quantizer, None, layer)
        layers |= zip(places, layer_estimates(some, plan, known, noises), strict=True)
    return assembled(look, asked, plans, [layers[i] for i in range(len(plans))], **counts)


def _no_estimate(kind: Kind, pruned: Plan | None, layer: LayerSketch) -> NoEstimateError:
    of = " in each channel" if pruned is not None and pruned.scope == "channel" else ""
    return NoEstimateError(
        f"{kind.role} {kind.kind!r}{of} has no estimate from a sketch (layer {quoted(layer.label)}): take "
        f"sw.compress(model, recipe).estimate, which is exact"
    )


def narrowed(look: Sketch, recipe: Recipe) -> tuple[Sketch, dict[str, Any]]:
    """Return the sketch of what is left when the recipe's channels are gone, and what can be counted of it.

    Raises:
        NoEstimateError: for a sketch without channels, or with scores of another importance.
    """
    found = look.channels
    if found is None:
        if recipe.removes_channels:
            raise NoEstimateError(
                "which channels go together is not in this sketch: make it with sw.sketch(model, example=…), inputs as "
                "the model takes them"
            )
        return look, {}
    full = [family.channels for family in found.families]
    left = full
    if recipe.removes_channels:
        if recipe.channel_scope == "global" and not recipe.importance.ranks_channels_by_norm:
            raise NoEstimateError(
                f"a sketch has the channels' scores by magnitude, not by {recipe.importance.kind!r}: take "
                f"sw.compress(model, recipe, example=…).estimate, which is exact"
            )
        left = [len(kept) for kept in found.kept(recipe)]
    counts = {"widths": found.widths(left), "macs": found.macs_after(left), "original_macs": found.macs_after(full)}
    return narrowed_to(look, left), counts


def layer_estimates(
    layers: Sequence[LayerSketch], plan: Plan, outcomes: Sequence[PruningOutcome], rounding: Sequence[float | None]
) -> list[LayerEstimate]:
    """Return the figures of layers under one plan, with the energies of their rounding errors."""
    n, kept = (np.array(counts) for counts in ([layer.n for layer in layers], [each.kept for each in outcomes]))
    codes, mask, scales, as_is = np.zeros((4, len(layers)), np.int64)
    itemsizes = np.array([layer.itemsize for layer in layers])
    if plan.keep:
        as_is = n * itemsizes
    else:
        for itemsize in set(itemsizes.tolist()):
            some = itemsizes == itemsize
            codes[some], mask[some] = code_and_mask_bytes(n[some], kept[some], plan, itemsize)
        matrices = [layer.matrix for layer in layers]
        by_matrix = {matrix: scale_bytes(matrix, plan) for matrix in set(matrices)}
        scales = np.array([by_matrix[matrix] for matrix in matrices])
    # what is pruned and what is rounded are different weights, so that their errors add up
    noises = [each.pruned_energy + (more or 0.0) for each, more in zip(outcomes, rounding, strict=True)]
    sizes = (column.tolist() for column in (codes, mask, scales, as_is))
    return [
        LayerEstimate(layer.name, layer.n, outcome.kept, outcome.cut.threshold, layer.energy, noise, *nbytes)
        for layer, outcome, noise, *nbytes in zip(layers, outcomes, noises, *sizes, strict=True)
    ]
