"""Lesson 3, fewer bits: its exercises."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor

from .. import demo
from ..compressed_model import compress
from ..errors import a_type
from ..evaluation.evaluate_and_metrics import evaluate
from ..recipe_and_method_registry import Recipe
from .exercises import Judgement, NoAnswer, as_number, as_tensor, exercise, within_target
from .lesson_2_pruning import matrix

LARGEST_CODE: Final = 3
"""Of 3 bits around zero: the codes are −3 … 3."""
INPUT_CODES: Final = (10, -4, 7, 2, 5)
INPUT_SCALE: Final = 0.1
MOST_BYTES: Final = 54_500
LEAST_RIGHT: Final = 284
"""Of the 287 validation images. Plain 2 bits miss it by far; two layers with more bits, or another clipping, do not."""


def row() -> Tensor:
    """Return five weights to round by hand: the third row of `matrix`.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.workshop.row()
        tensor([ 0.9000, -0.3000,  0.0000, -2.1000,  0.5000])
    """
    return matrix()[2]


def _scale() -> float:
    return float(row().abs().max()) / LARGEST_CODE


def _codes() -> Tensor:
    return (row() / _scale()).round()


@exercise("3.1", "a scale, one number")
def scale_by_hand(answer: Any) -> Judgement:
    """Judge the scale that puts the largest weight on the largest code."""
    found = as_number(answer)
    if abs(found - _scale()) < 1e-3:
        return True, "the largest magnitude, 2.1, over the largest code, 3: one step of the grid"
    if abs(found + _scale()) < 1e-3:
        return False, "a scale is a distance, and has no sign"
    for wrong, why in {4: "the codes end at 3, not at 4", 7: "7 codes are 6 steps", 8: "7 codes are 6 steps"}.items():
        if abs(found - float(row().abs().max()) / wrong) < 1e-3:
            return False, why
    return False, f"with this scale the code 3 would stand for {3 * found:.2f}: it should reach the largest weight"


@exercise("3.2", "five whole numbers from -3 to 3")
def codes_by_hand(answer: Any) -> Judgement:
    """Judge the codes of the five weights."""
    found = as_tensor(answer, (5,))
    if bool((found != found.round()).any()):
        return False, "codes are whole numbers: a weight over the scale, rounded to the nearest"
    if bool((found.abs() > LARGEST_CODE).any()):
        return False, "3 bits around zero hold -3 to 3"
    if wrong := int((found != _codes()).sum()):
        if bool((found == (row() / _scale()).trunc()).all()):
            return False, "they are cut off, not rounded to the nearest"
        if bool((found.abs() == _codes().abs()).all()):
            return False, "the magnitudes are right: mind the signs"
        return False, f"{wrong} of the 5 are not the code nearest to their weight"
    return True, "two of five are 0 now, although nobody asked to prune them: rounding can do that, too"


@exercise("3.3", "decibels, one number")
def error_by_hand(answer: Any) -> Judgement:
    """Judge the SQNR of the five rounded weights."""
    found = as_number(answer)
    weights = row().double()
    noise = weights - _codes() * _scale()
    ratio = float(weights.square().sum() / noise.square().sum())
    decibels = 10 * math.log10(ratio)
    if abs(found - decibels) < 0.06:
        return True, f"the squares of the weights are {ratio:.0f} times those of the errors"
    if abs(found - ratio) < 0.3:
        return False, "that is the ratio: in decibels it is ten times its logarithm to the base 10"
    if abs(found + decibels) < 0.06:
        return False, "signal over noise, not the other way round: fewer errors, more decibels"
    if abs(found - 2 * decibels) < 0.12:
        return False, "ten times the logarithm, not twenty: squares are taken already"
    if abs(found - 10 * math.log(ratio)) < 0.12:
        return False, "the logarithm to the base 10"
    return False, "not yet: 10 · log10 of Σ w² over Σ (w − rounded w)²"


@exercise("3.4", "decibels, one number")
def worth_of_a_bit(answer: Any) -> Judgement:
    """Judge by how much one more bit raises the SQNR of the demo network, from 4 to 8 bits."""
    found = as_number(answer)
    measured = _sqnr(8) - _sqnr(4)
    told = f"measured from 4 to 8 bits: {measured / 4:.1f} dB for each bit"
    if abs(found - measured / 4) < 0.6:
        return True, f"{told}. Twice as many steps, half the error, a quarter of its square: 10 · log10 4 = 6.02"
    if abs(found - measured / 8) < 0.4:
        return False, "half the error is a quarter of the squared error, and it is squares that count"
    return False, f"not {found:g}: a bit more makes twice as many steps. What does that do to the square of an error?"


@exercise("3.5", "the whole number that the integers sum to, and the output it stands for")
def integer_arithmetic(answer: Any) -> Judgement:
    """Judge the dot product of the codes with those of an input."""
    found = as_tensor(answer, (2,))
    total = int((_codes() * torch.tensor(INPUT_CODES)).sum())
    output = total * _scale() * INPUT_SCALE
    if float(found[0]) != total:
        return False, "the first number: multiply codes with codes, and add up; no scale yet"
    if abs(float(found[1]) - output) < 1e-3:
        return True, "ten whole numbers of a few bits went in, and one multiplication with floats came at the end"
    if abs(float(found[1]) - total * _scale()) < 1e-3:
        return False, "the sum is right; but the inputs have a scale, too"
    return False, "the sum is right; the output is the sum times both scales"


@exercise("3.6", "bits for each weight, one number")
def bits_with_scales(answer: Any) -> Judgement:
    """Judge what a weight takes at 4 bits, where 32 of them share a scale of 16 bits."""
    found = as_number(answer)
    if abs(found - 4.5) < 1e-3:
        return True, "4 bits of its own, and a 32nd of 16: a finer grid has its price"
    if abs(found - 20) < 1e-3:
        return False, "the scale is shared: each of the 32 pays its part of it"
    if abs(found - 4.5 / 8) < 1e-3:
        return False, "that is in bytes"
    return False, "not yet: its own code, and its share of the scale"


@exercise("3.7", "'mse' or 'absmax'")
def error_or_harm(answer: Any) -> Judgement:
    """Judge which of two grids of 2 bits leaves the network with more of its accuracy."""
    if not isinstance(answer, str) or answer.lower() not in ("mse", "absmax"):
        raise NoAnswer(repr(answer) if isinstance(answer, str) else a_type(answer))
    found = {name: _right(Recipe(bits=2, clipping=name)) for name in ("mse", "absmax")}
    decibels = {name: _sqnr(2, name) for name in found}
    told = ", ".join(f"{name} {decibels[name]:.1f} dB and {right} images right" for name, right in found.items())
    if found[answer.lower()] == max(found.values()):
        return True, f"{told}: the least error is not the least harm"
    return False, f"{told}. It has less error, and does more harm; why, is below"


@exercise("3.8", "a Recipe")
def recipe_under_a_target(answer: Any) -> Judgement:
    """Judge a recipe by the bytes of its file and by its accuracy, both measured."""
    if not isinstance(answer, Recipe):
        raise NoAnswer(a_type(answer))
    if answer.prunes:
        return False, "it prunes weights: this one is to be won by bits alone"
    return within_target(compress(demo.model(), answer), MOST_BYTES, LEAST_RIGHT, ("", ""))


@cache
def _sqnr(bits: int, clipping: str = "auto") -> float:
    estimate = compress(demo.model(), Recipe(bits=bits, clipping=clipping)).estimate
    assert estimate is not None
    return estimate.sqnr


def _right(recipe: Recipe) -> int:
    score = evaluate(compress(demo.model(), recipe), demo.data("valid"))
    return round(score.value * score.n)
