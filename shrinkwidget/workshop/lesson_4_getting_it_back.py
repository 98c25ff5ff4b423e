"""Lesson 4, getting it back: its exercises."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Final

from .. import demo
from ..compressed_model import CompressedModel, compress
from ..errors import a_type
from ..evaluation.evaluate_and_metrics import evaluate
from .exercises import Judgement, NoAnswer, as_number, as_tensor, exercise, within_target

BEFORE: Final = (2.0, 4.0, 6.0, 8.0)
AFTER: Final = (1.0, 2.0, 3.0, 4.0)
"""What a channel says for four images, before it was pruned and after: half as loud."""
SPARSITY: Final = 0.9
IMAGES: Final = 1_150
"""Of the training part."""
MOST_BYTES: Final = 40_000
LEAST_RIGHT: Final = 284


@exercise("4.1", "the mean and the variance")
def statistics_by_hand(answer: Any) -> Judgement:
    """Judge the statistics of the channel after pruning."""
    found = [float(x) for x in as_tensor(answer, (2,))]
    mean = sum(AFTER) / len(AFTER)
    variance = sum((x - mean) ** 2 for x in AFTER) / len(AFTER)
    if abs(found[0] - mean) > 1e-3:
        return False, "the mean of the four values after pruning is another"
    if abs(found[1] - variance) < 1e-3:
        return True, f"batch norm still believes in a mean of 5 and a variance of 5; these are {mean} and {variance}"
    if abs(found[1] - variance * len(AFTER) / (len(AFTER) - 1)) < 0.01:
        return False, "the mean is right; batch norm divides by n, not by n - 1, when it normalizes"
    if abs(found[1] - math.sqrt(variance)) < 0.01:
        return False, "the mean is right, and that is the deviation: its square is asked for"
    return False, "the mean is right; the variance is the mean of the squared distances from it"


@exercise("4.2", "one number")
def normalized_by_hand(answer: Any) -> Judgement:
    """Judge what batch norm makes of the loudest value, with the statistics measured again."""
    found = as_number(answer)
    right = (8 - 5) / math.sqrt(5)
    if abs(found - right) < 0.01:
        return True, "just what it made of 8 before anything was pruned: the next layer does not notice"
    if abs(found - (4 - 5) / math.sqrt(5)) < 0.01:
        return False, "that is what the old statistics make of it: the loudest image would look like a quiet one"
    if abs(found - (4 - 2.5) / 1.25) < 0.01:
        return False, "divide by the deviation, the square root of the variance"
    return False, "not yet: (4 − mean) / √variance, both measured after pruning"


@exercise("4.3", "an accuracy between 0 and 1")
def predicted_recovery(answer: Any) -> Judgement:
    """Judge the guess of what batch norm alone brings back at 90 %."""
    found = as_number(answer)
    if not 0 <= found <= 1:
        return False, f"{found:g} would be percent: give the accuracy, between 0 and 1"
    before, after = _recovered()
    told = f"measured: {before:.1%} as it was pruned, {after:.1%} with batch norm measured again"
    return (True, told) if abs(found - after) < 0.03 else (False, f"{told}. Did you expect that?")


@exercise("4.4", "three learning rates")
def schedule_by_hand(answer: Any) -> Judgement:
    """Judge the learning rates of a schedule that is divided by ten twice."""
    found = [float(x) for x in as_tensor(answer, (3,))]
    expected = [0.1, 0.01, 0.001]
    given = zip((2, 6, 9), found, expected, strict=True)
    wrong = [epoch for epoch, a, b in given if not math.isclose(a, b, rel_tol=0.01)]
    if not wrong:
        return True, "fine-tuning goes on at the last of them; rewinding goes back to the first, and through them all"
    return False, f"after epoch {wrong[0]} it is another: 0.1, then a tenth of it after half the epochs, and so on"


@exercise("4.5", "a whole number")
def rounds_by_hand(answer: Any) -> Judgement:
    """Judge how many rounds of a fifth it takes until 90 % are gone."""
    found = as_number(answer)
    if found == 11:
        return True, 'after ten rounds 0.8¹⁰ = 0.107 remain, just above a tenth: where "9.3 times smaller" comes from'
    if found == 10:
        return False, f"nearly: after 10 rounds {0.8**10:.1%} remain"
    if found in (4, 4.5, 5):
        return False, "it is a fifth of what remains, not of what there was"
    if not 0 <= found < 100:
        raise NoAnswer(f"{found:g}")
    return False, f"after {found:g} rounds {0.8**found:.1%} of the weights remain"


@exercise("4.6", "a number of images")
def cost_by_hand(answer: Any) -> Judgement:
    """Judge how many images 11 rounds of 3 epochs look at."""
    found = as_number(answer)
    total = 11 * 3 * IMAGES
    if abs(found - total) < 1:
        return True, f"{total:,}, as in a training of 33 epochs. Batch norm alone took {IMAGES:,}, without labels"
    if abs(found - 3 * IMAGES) < 1:
        return False, "that is one round"
    if abs(found - 11 * IMAGES) < 1:
        return False, "every round has 3 epochs, and every epoch looks at all images"
    return False, f"not yet: rounds times epochs times {IMAGES:,} images"


@exercise("4.7", "a compressed model, as sw.compress and sw.retrain return it")
def recovered_under_a_target(answer: Any) -> Judgement:
    """Judge a model by the bytes of its file and by its accuracy, both measured."""
    if not isinstance(answer, CompressedModel):
        raise NoAnswer(a_type(answer))
    if answer.model is None:
        return False, "it holds tensors alone, and no module that could be evaluated: compress the model itself"
    return within_target(answer, MOST_BYTES, LEAST_RIGHT, ("What is the cheapest way back?", ""))


@exercise("4.8", "a number of images")
def images_to_tell(answer: Any) -> Judgement:
    """Judge how many test images an interval of one point to either side takes, at 95 %."""
    found = as_number(answer)
    needed = 1.96**2 * 0.95 * 0.05 / 0.01**2
    if abs(found / needed - 1) < 0.05:
        return True, f"about {needed:,.0f}: with our 287 the interval is 2.5 points to either side"
    if abs(found / (needed / 1.96**2) - 1) < 0.05:
        return False, "that is one standard error: a 95 % interval reaches 1.96 of them to either side"
    if abs(found / (needed * 4) - 1) < 0.05 or abs(found / (needed / 4) - 1) < 0.05:
        return False, "one point to *either* side: the interval is two points wide"
    return False, "not yet: 1.96 · √(p (1 − p) / n) = 0.01, with p = 0.95. Which n?"


@cache
def _recovered() -> tuple[float, float]:
    """Return the accuracy of the demo network at 90 %, as it was pruned and with batch norm measured again."""
    small, valid = compress(demo.model(), SPARSITY), demo.data("valid")
    images, _ = demo.data("train")
    return evaluate(small, valid).value, evaluate(small, valid, recalibrate_batchnorm=images).value
