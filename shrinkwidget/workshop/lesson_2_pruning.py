"""Lesson 2, pruning: its exercises."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from .. import demo
from ..compressed_model import compress
from ..errors import a_type
from ..evaluation.evaluate_and_metrics import Score, evaluate
from ..recipe_and_method_registry import Recipe
from .exercises import Judgement, NoAnswer, as_number, as_tensor, exercise, within_target

SPARSITY: Final = 0.4
"""Of the matrix, in the exercises by hand."""
MOST_BYTES: Final = 170_000
LEAST_RIGHT: Final = 280
"""Of the 287 validation images. With one sparsity for all, both cannot be reached; with two layers spared they can."""
FLOOR: Final = 0.9
"""The accuracy whose loss is to be predicted."""


def matrix() -> Tensor:
    """Return 5×5 weights that can be read, and pruned by hand: one decimal, of either sign, some alike in magnitude.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.workshop.matrix()[0]
        tensor([ 0.3000, -1.2000,  0.1000,  0.8000, -0.4000])
    """
    return torch.tensor(
        [
            [0.3, -1.2, 0.1, 0.8, -0.4],
            [-0.7, 0.2, 1.5, -0.1, 0.6],
            [0.9, -0.3, 0.0, -2.1, 0.5],
            [-0.2, 1.1, -0.6, 0.4, -0.9],
            [0.1, -0.8, 1.3, -0.5, 0.7],
        ]
    )


def _smallest_first() -> list[int]:
    """Return the flat places of the matrix by magnitude; of equal ones the first comes first."""
    return matrix().abs().flatten().argsort(stable=True).tolist()


@exercise("2.1", "a mask of shape [5, 5], true where a weight is kept")
def mask_by_hand(answer: Any) -> Judgement:
    """Judge the mask that prunes 40 % of the matrix."""
    found = as_tensor(answer, (5, 5))
    if not bool(((found == 0) | (found == 1)).all()):
        raise NoAnswer("numbers other than 0 and 1")
    pruned = round(SPARSITY * found.numel())
    expected = torch.ones(25)
    expected[_smallest_first()[:pruned]] = 0
    kept = int(found.sum())
    if bool((found.flatten() == 1 - expected).all()):
        return False, "it is the other way round: true where a weight is kept, false where it is pruned"
    if kept != 25 - pruned:
        return False, f"{kept} of the 25 weights are kept, and not {25 - pruned}: 40 % of 25 are pruned"
    if bool((matrix() * found.float()).lt(0).sum() == 0):
        return False, "every negative weight is pruned: it is the magnitude that counts, not the sign"
    if wrong := int((found.flatten() != expected).sum()):
        return False, f"as many are kept as should be, but {wrong // 2} of them are smaller than some that are pruned"
    return True, "15 of 25 weights are kept, and none of them is smaller than one that is pruned"


@exercise("2.2", "a row and a column, each from 0 to 4")
def tie_by_hand(answer: Any) -> Judgement:
    """Judge which weight goes last when 45 % of the matrix are pruned."""
    place = as_tensor(answer, (2,))
    if bool((place != place.round()).any()) or bool((place < 0).any()) or bool((place > 4).any()):
        raise NoAnswer(repr(answer))
    row, column = (int(x) for x in place)
    eleventh = _smallest_first()[round(0.45 * 25) - 1]
    weights = matrix()
    magnitude, wanted = abs(float(weights[row, column])), abs(float(weights.flatten()[eleventh]))
    if (row, column) == divmod(eleventh, 5):
        return True, "of two weights with the same magnitude the first goes, row by row: somebody has to decide"
    if magnitude < wanted:
        return False, f"{weights[row, column]:.1f} is among the ten that are pruned already"
    if magnitude > wanted:
        return False, f"{weights[row, column]:.1f} is not the smallest of those that are left"
    return False, "its magnitude is right, but another one that is as small comes before it, row by row"


@exercise("2.3", "a share between 0 and 1")
def energy_by_hand(answer: Any) -> Judgement:
    """Judge the share of the sum of squares that the pruned 40 % hold."""
    found = as_number(answer)
    flat = matrix().double().flatten()
    smallest = flat[_smallest_first()[: round(SPARSITY * 25)]]
    share = float(smallest.square().sum() / flat.square().sum())
    if abs(found - 100 * share) < 0.1:
        return False, f"{found:g} would be percent: give the share, between 0 and 1"
    if abs(found - float(smallest.abs().sum() / flat.abs().sum())) < 0.002:
        return False, "that is the share of the magnitudes: take squares"
    if abs(found - (1 - share)) < 0.002:
        return False, "that is what remains: what is lost?"
    if abs(found - share) < 0.002:
        return True, f"{100 * SPARSITY:.0f} % of the weights hold {100 * share:.1f} % of the sum of squares"
    return False, "not yet: the sum of the squares of the ten smallest, over that of all 25"


@exercise("2.4", "a sparsity between 0 and 1")
def predicted_fall(answer: Any) -> Judgement:
    """Judge the sparsity at which the demo network falls below 90 % of the validation images."""
    found = as_number(answer)
    if not 0 <= found <= 1:
        raise NoAnswer(f"{found:g}")
    there = _pruned(min(found, 0.999))
    told = f"with {found:.0%} of its weights pruned the network reads {there.value:.1%} of the validation images"
    # where the accuracy crosses the line, give or take what nobody could have known
    if _pruned(max(found - 0.03, 0.0)).value >= FLOOR > _pruned(min(found + 0.03, 0.999)).value:
        return True, f"{told}: the edge is less than 3 points away"
    return False, f"{told}: the edge is {'higher' if there.value >= FLOOR else 'lower'}"


@exercise("2.5", "the digits, such as {1, 7}")
def digits_never_read(answer: Any) -> Judgement:
    """Judge which digits the network, pruned by 90 %, never answers."""
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise NoAnswer(a_type(answer))
    try:
        found = {int(digit) for digit in answer}
    except (TypeError, ValueError, RuntimeError):
        raise NoAnswer(a_type(answer)) from None
    if not found <= set(range(10)):
        raise NoAnswer(repr(answer))
    never = {digit for digit, counts in enumerate(_pruned(0.9).by_class) if counts.predicted == 0}
    if found == never:
        return True, "it gives these answers to no image at all; what it says instead is mostly one other digit"
    wrong, missing = found - never, never - found
    if wrong:
        return False, f"{min(wrong)} is its answer to some image, right or wrong: look at `predicted`"
    return False, f"so far right, but {len(missing)} more {'is' if len(missing) == 1 else 'are'} never answered"


@exercise("2.6", "the names of two layers")
def layers_that_mind(answer: Any) -> Judgement:
    """Judge which two layers mind most when they are pruned by 90 %."""
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise NoAnswer(a_type(answer))
    found = [str(name).removesuffix(".weight") for name in answer]
    losses = _alone()
    if unknown := [name for name in found if name not in losses]:
        return False, f"there is no layer {unknown[0]!r}: names are as in the explorer, such as 'stage3.0.conv1'"
    if len(set(found)) != 2:
        return False, f"two layers are asked for, not {len(set(found))}"
    most = sorted(losses, key=lambda name: losses[name], reverse=True)[:2]
    right = len(set(found) & set(most))
    if right == 2:
        return True, "each of them holds less than half a per cent of the weights"
    so_far = "one of them is right" if right else "neither is"
    return False, f"{so_far}: prune one layer at a time, by 90 %, and compare"


@exercise("2.7", "a Recipe")
def recipe_under_a_target(answer: Any) -> Judgement:
    """Judge a recipe by the bytes of its file and by its accuracy, both measured."""
    if not isinstance(answer, Recipe):
        raise NoAnswer(a_type(answer))
    small = compress(demo.model(), answer)
    if any(layer.plan.bits < 32 for layer in small.encoded.values()):
        return False, "it rounds weights to fewer bits: that is the next lesson, this one is to be won by pruning alone"
    hints = "Which layers mind most?", "Which layers may lose more, and which less?"
    return within_target(small, MOST_BYTES, LEAST_RIGHT, hints)


@exercise("2.8", "a share between 0 and 1")
def where_a_mask_pays(answer: Any) -> Judgement:
    """Judge the sparsity from which on a bit mask and the kept float32 weights take less than all of them."""
    found = as_number(answer)
    if abs(found - 1 / 32) < 5e-4:
        return True, "a bit for each of n weights, and 32 for each that is kept: less than 32 n bits from 1/32 on"
    if abs(found - 100 / 32) < 0.05:
        return False, f"{found:g} would be percent: give the share, between 0 and 1"
    if abs(found - 31 / 32) < 5e-4:
        return False, "that is the share that is kept there"
    if abs(found - 0.5) < 0.01:
        return False, "that holds for a list of indices of 32 bits each; a mask is a bit for each weight"
    return False, "not yet: bits of the mask, n, and of what is kept, 32 (1 − s) n, against 32 n"


@cache
def _pruned(sparsity: float) -> Score:
    return evaluate(compress(demo.model(), sparsity), demo.data("valid"))


@cache
def _alone() -> dict[str, float]:
    """Return how much accuracy each layer costs, pruned by 90 % by itself."""
    model, valid = demo.model(), demo.data("valid")
    names = [name.removesuffix(".weight") for name in compress(model, Recipe()).encoded]
    dense = evaluate(model, valid).value
    pruned = {name: compress(model, Recipe(layers={name: {"sparsity": 0.9}})) for name in names}
    return {name: dense - evaluate(small, valid).value for name, small in pruned.items()}
