"""Sparse transfer: keep the masks of a pruned model while it gets another head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.open_model_tensors_and_channel_axes import fill, open_model
from ..compressed_model import CompressedModel, compress_trained
from ..errors import layer_label
from ..recipe_and_method_registry import Plan, Recipe, layer_matches


def masks_of(source: CompressedModel, heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Return which weights of every pruned layer but the heads are kept, bool of its shape, by name."""
    masks = {name: item.mask for name, item in source.encoded.items() if name not in _weights(heads)}
    return {name: mask for name, mask in masks.items() if mask is not None}


def recipe_for(source: CompressedModel, network: nn.Module, heads: tuple[str, ...]) -> Recipe:
    """Return the recipe that makes of a network with a new head what `source` is.

    Layers ranked together have the sparsity each of them came to, since the old head was ranked with them. The new head
    is dense, in as many bits as the recipe says, unless the recipe names its sparsity or pattern, or keeps it.
    """
    # A global ranking cannot be repeated: with the old head gone from it, other weights would be the smallest. So every
    # layer is told the sparsity it has, and its own smallest weights, the zeros, are pruned again.
    names = [entry.name for entry in open_model(network).layers]
    weights, recipe, encoded = _weights(heads), source.recipe, source.encoded
    named = {
        weight
        for weight in weights
        for pattern, own in recipe.layers.items()
        if layer_matches(pattern, weight)
        and not (isinstance(own, Mapping) and {"sparsity", "structure"}.isdisjoint(own))
    }
    for name, plan in zip(names, source.recipe.resolve(names), strict=True):
        if name in weights and name not in named:
            recipe = recipe.with_layer(layer_label(name), _own(plan, source.recipe) | _DENSE)
        elif name not in weights and plan.scope == "global" and name in encoded:
            # The layer's own share of the global ranking. round(s·n) of it gives back just as many weights as were
            # pruned.
            sparsity = 1 - encoded[name].kept / math.prod(encoded[name].shape)
            recipe = recipe.with_layer(layer_label(name), _own(plan, source.recipe) | {"sparsity": sparsity})
    return recipe.with_(importance="magnitude", scope=recipe.scope)  # what is pruned is zero


def _weights(heads: tuple[str, ...]) -> set[str]:
    return {f"{head}.weight" for head in heads}


# A new head has learnt nothing yet that would say which of its weights matter.
_DENSE: dict[str, Any] = {"sparsity": 0.0, "structure": "unstructured"}


def _own(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    """Return what a plan says otherwise than the recipe's own fields, as an override."""
    names = [f.name for f in fields(Plan) if f.name not in ("keep", "scope")]
    return {name: getattr(plan, name) for name in names if getattr(plan, name) != getattr(recipe, name)}


def packed(network: nn.Module, recipe: Recipe, masks: Mapping[str, Tensor]) -> CompressedModel:
    """Return a network compressed by a recipe that prunes what the masks prune.

    A survivor that is exactly zero, as it may be on a grid, would rank with the pruned ones; it is taken for the
    smallest normal number.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, keep in masks.items():
            weight = parameters[name].detach()
            zero = (weight == 0) & keep.to(weight.device)
            fill(network, [(name, weight.masked_fill(zero, torch.finfo(weight.dtype).smallest_normal))])
    return compress_trained(network, recipe)


def recipe_of_layer(recipe: Recipe, names: list[str], weight: str) -> Recipe:
    """Return the recipe that makes of one layer, standing alone, what a recipe makes of it in its network."""
    plan = dict(zip(names, recipe.resolve(names), strict=True))[weight]
    if plan.keep:
        return Recipe(uncompressed_bits=recipe.uncompressed_bits)
    own = {f.name: getattr(plan, f.name) for f in fields(Plan) if f.name not in ("keep", "scope")}
    return Recipe(uncompressed_bits=recipe.uncompressed_bits, **own)
