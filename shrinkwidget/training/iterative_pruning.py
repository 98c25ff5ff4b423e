"""The recipes of iterative pruning, one for every round."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from ..errors import TrainingError
from ..recipe import Recipe, checked_recipe

REMAINING: Final = 0.8
"""The density of a round divided by that of the one before (Renda, Frankle, Carbin, arXiv 2003.02389)."""


def iterative_recipes(target: Recipe | float, rounds: int | None = None) -> tuple[Recipe, ...]:
    """Return the recipes of the rounds that lead to a recipe, or to a sparsity; the last is the recipe itself.

    By default each round prunes 20 % of the weights that remain, and the last what is missing. A given number of
    rounds prunes the same fraction in each; 1 is one-shot. Layers with a sparsity of their own follow at the same pace.
    Rounds before the last stay at 32 bits: weights are rounded once it is known which remain.

    Raises:
        RecipeError: for what is neither a recipe nor a sparsity.
        TrainingError: for a number of rounds that cannot be.
    """
    if isinstance(target, int | float) and not isinstance(target, bool):
        target = Recipe(sparsity=target)
    target = checked_recipe(target)
    if rounds is not None and (not isinstance(rounds, int) or rounds < 1):
        raise TrainingError(f"rounds={rounds!r} must be a whole number from 1, or None to prune a fifth in each")
    own = [override.get("sparsity", 0.0) for override in target.layers.values() if isinstance(override, Mapping)]
    density = 1 - max([target.sparsity, *own])
    if density == 1 or patterned(target):
        if rounds is not None and rounds > 1:
            why = "prunes nothing" if density == 1 else "has an n:m pattern, which is all or nothing"
            raise TrainingError(f"rounds={rounds}: {target!r} {why}: take rounds=1")
        return (target,)
    shares = _shares(density, rounds)
    return (*(_on_the_way(target, share) for share in shares), target)


def check_gradual(recipes: tuple[Recipe, ...]) -> None:
    """Raise a `TrainingError` for what cannot be pruned gradually: several rounds, n:m patterns, codebooks."""
    own = [o["quantizer"] for o in recipes[-1].layers.values() if isinstance(o, Mapping) and "quantizer" in o]
    if len(recipes) > 1:
        raise TrainingError(f"GradualPruning prunes in one round, not in {len(recipes)}: leave rounds out")
    if patterned(recipes[-1]) or any(quantizer.shares_values for quantizer in (recipes[-1].quantizer, *own)):
        raise TrainingError(
            "GradualPruning can do neither n:m patterns nor codebooks: compress to them first, then retrain"
        )


def thinned(recipe: Recipe, share: float) -> Recipe:
    """Return a recipe that prunes a share of what another prunes, of its layers with a sparsity of their own, too."""
    layers = {
        name: {**override, "sparsity": share * override["sparsity"]}
        if isinstance(override, Mapping) and "sparsity" in override
        else override
        for name, override in recipe.layers.items()
    }
    return recipe.with_(sparsity=share * recipe.sparsity, layers=layers)


def _shares(density: float, rounds: int | None) -> list[float]:
    """Return how far each round but the last has come, from 0 to 1, counted in logarithms of the density."""
    if rounds is not None:
        return [r / rounds for r in range(1, rounds)]
    step = math.log(REMAINING) / math.log(density)
    return [r * step for r in range(1, math.ceil(1 / step - 1e-9))]


def _on_the_way(target: Recipe, share: float) -> Recipe:
    layers = {
        name: _override(override, share) if isinstance(override, Mapping) else override
        for name, override in target.layers.items()
    }
    return target.with_(sparsity=_part(target.sparsity, share), bits=32, uncompressed_bits=32, layers=layers)


def _override(override: Mapping[str, Any], share: float) -> dict[str, Any]:
    kept = {name: value for name, value in override.items() if name != "bits"}
    return kept | ({"sparsity": _part(kept["sparsity"], share)} if "sparsity" in kept else {})


def _part(sparsity: float, share: float) -> float:
    return float(1 - (1 - sparsity) ** share)


def patterned(recipe: Recipe) -> bool:
    """Tell whether a recipe has an n:m pattern anywhere."""
    own = [o["structure"] for o in recipe.layers.values() if isinstance(o, Mapping) and "structure" in o]
    return any(structure.sparsity is not None for structure in (recipe.structure, *own))
