"""Uniform recipes of a size: the same bits for every layer, and one ranking of all weights, as a slider sets them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ..analysis.estimate_class_and_packed_file_header import assembled, layer_bytes, layer_estimate
from ..analysis.estimate_from_sketch import narrowed
from ..analysis.pruning_estimate import survivals
from ..analysis.sketch import Sketch
from ..recipe_and_method_registry import Recipe

_GRID: Final = 1000  # sparsities are tried to a tenth of a percent


def estimated_bytes(look: Sketch, recipe: Recipe) -> int:
    """Return the bytes of the packed file, as `estimate` has them, in a fraction of its time: without errors."""
    plans = look.plans(recipe)
    left, _ = narrowed(look, recipe)
    outcomes = survivals(left.layers, plans, recipe)
    layers = [
        layer_estimate(layer.name, layer.n, kept, layer_bytes(layer.matrix, kept, plan, layer.itemsize))
        for layer, plan, outcome in zip(left.layers, plans, outcomes, strict=True)
        for kept in [layer.n if outcome is None else outcome.kept]
    ]
    return assembled(left, recipe, plans, layers).nbytes


def uniform_recipes(look: Sketch, recipe: Recipe, budget: int, bits: Sequence[int]) -> Iterator[Recipe]:
    """Yield for each number of bits the recipe that prunes as little as fits the budget; none where nothing does.

    What `recipe` says of single layers, and how it ranks and rounds, holds for all of them.
    """
    for width in bits:
        if width <= 8 and width not in recipe.quantizer.widths:
            continue
        if recipe.structure.sparsity is not None:
            fixed = recipe.with_(bits=width)
            if estimated_bytes(look, fixed) <= budget:
                yield fixed
            continue
        dense = recipe.with_(sparsity=0.0, bits=width)
        if estimated_bytes(look, dense) <= budget:
            yield dense  # looked at by itself: a little pruned is larger, by its masks and by what the header says
            continue
        low, high = 0, _GRID  # the sparsest that does not fit, and the least sparse that does
        while high - low > 1:
            middle = (low + high) // 2
            if estimated_bytes(look, recipe.with_(sparsity=middle / _GRID, bits=width)) <= budget:
                high = middle
            else:
                low = middle
        if high < _GRID:
            yield recipe.with_(sparsity=high / _GRID, bits=width)
