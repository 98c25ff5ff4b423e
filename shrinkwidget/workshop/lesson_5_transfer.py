"""Lesson 5, transfer: its exercises."""

from __future__ import annotations

import math
from functools import cache
from statistics import fmean, stdev
from typing import Any, Final

import torch
from torch import Tensor

from .. import demo
from ..argument_checks import public
from ..compressed_model import CompressedModel
from ..errors import a_type
from ..evaluation.evaluate_and_metrics import Score, evaluate
from ..transfer_learning.transfer import transfer
from ..transfer_learning.transfer_result_and_training_cost import TransferResult
from .exercises import Judgement, NoAnswer, as_number, as_tensor, exercise, within_target

PRINTED: Final = 10_000
"""How many printed digits the lesson's network learns from: half the default, and half the time."""
UP: Final = ((1.0,), (2.0,))
DOWN: Final = ((0.5, 0.0, -1.0),)
ALPHA_OVER_RANK: Final = 2.0
"""The update that is computed by hand: B (2×1), A (1×3) and the factor before their product."""
ROWS: Final = 64
COLUMNS: Final = 64 * 9
RANK: Final = 4
EXAMPLES: Final = 50
SCRATCH_EPOCHS: Final = 100
PROBED: Final = (0.815, 0.861, 0.847)
TUNED: Final = (0.833, 0.882, 0.892)
"""Accuracies of two ways to learn with three seeds, in the exercise on paired differences."""
MOST_BYTES: Final = 50_000
LEAST_RIGHT: Final = 236


@public()
def thick_or_thin(split: demo.Split = "train", per_class: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the demo's handwritten digits with another question: was the pen thin (0), or thick (1)?

    Thick is what has more ink than half of the ``"train"`` images.

    Args:
        split: as of `demo.data`.
        per_class: so many of each answer, drawn by the seed; None for all.
        seed: of that drawing.

    Returns:
        Images (float32, N×1×8×8) and labels (int64, N).

    Example:
        >>> import shrinkwidget as sw
        >>> images, labels = sw.workshop.thick_or_thin("train", per_class=25)
        >>> labels.bincount().tolist()
        [25, 25]
    """
    images, _ = demo.data(split)
    ink = images.mean((1, 2, 3))
    labels = (ink > demo.data("train")[0].mean((1, 2, 3)).median()).long()
    if per_class is None:
        return images, labels
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chosen = torch.cat([order[labels[order] == answer][:per_class] for answer in (0, 1)])
    return images[chosen], labels[chosen]


@exercise("5.1", "an accuracy between 0 and 1")
def predicted_on_handwriting(answer: Any) -> Judgement:
    """Judge the guess of how much handwriting the network reads that has seen print only."""
    found = as_number(answer)
    if not 0 <= found <= 1:
        return False, f"{found:g} would be percent: give the accuracy, between 0 and 1"
    score = evaluate(_reader_of_print(), demo.data("valid"))
    told = f"measured: {score.value:.1%} ({score.low:.1%} to {score.high:.1%})"
    if abs(found - score.value) < 0.06:
        return True, f"{told}, where guessing would be 10 %"
    hint = "it knows more than you thought" if found < score.value else "print is further from handwriting than that"
    return False, f"{told}: {hint}"


@exercise("5.2", "a number of parameters")
def parameters_that_learn(answer: Any) -> Judgement:
    """Judge how many parameters a new head has: from 64 features to 10 digits."""
    found = as_number(answer)
    if found == 64 * 10 + 10:
        return True, f"{650 / 172_218:.1%} of the network: what is left to learn fits into fifty images"
    if found == 64 * 10:
        return False, "those are the weights; every digit has a bias, too"
    if found == 64 * 10 + 64:
        return False, "there is a bias for every output, not for every input"
    if found == 172_218:
        return False, "that is the whole network: only the head learns"
    return False, "not yet: a fully connected layer from 64 to 10, as in exercise 1.1"


@exercise("5.3", "the update, a matrix of shape [2, 3]")
def update_by_hand(answer: Any) -> Judgement:
    """Judge the update that two thin matrices make."""
    found = as_tensor(answer, (2, 3))
    product = torch.tensor(UP, dtype=torch.float64) @ torch.tensor(DOWN, dtype=torch.float64)
    if torch.allclose(found, ALPHA_OVER_RANK * product, atol=1e-3):
        return True, "the second row is twice the first: with rank 1 all rows are multiples of one"
    if torch.allclose(found, product, atol=1e-3):
        return False, "that is B · A: the factor α / r is missing"
    if torch.allclose(found, product / ALPHA_OVER_RANK, atol=1e-3):
        return False, "the factor is α / r, not r / α"
    if torch.allclose(found, ALPHA_OVER_RANK * product.abs(), atol=1e-3):
        return False, "the magnitudes are right: mind the signs"
    wrong = int((~torch.isclose(found, ALPHA_OVER_RANK * product, atol=1e-3)).sum())
    return False, f"{wrong} of 6 are not right: row i, column j is α / r times Bᵢ times Aⱼ"


@exercise("5.4", "a number of parameters")
def parameters_of_an_update(answer: Any) -> Judgement:
    """Judge how many parameters an update of rank 4 has beside the largest convolution."""
    found = as_number(answer)
    if found == RANK * (ROWS + COLUMNS):
        return True, f"instead of {ROWS * COLUMNS:,}: {ROWS * COLUMNS / (RANK * (ROWS + COLUMNS)):.0f} times fewer"
    if found == ROWS * COLUMNS:
        return False, "that is the weight itself, which stays as it is"
    if found in (RANK * ROWS, RANK * COLUMNS):
        return False, "that is one of the two thin matrices"
    if found == ROWS + COLUMNS:
        return False, "that would be rank 1"
    if found == RANK * 2 * ROWS:
        return False, "as a matrix the convolution has a row for every output channel, and 64 · 3 · 3 columns"
    return False, "not yet: B is 64 × 4, and A is 4 × 576"


@exercise("5.5", "a factor")
def cost_by_hand(answer: Any) -> Judgement:
    """Judge by what factor a head's training needs less arithmetic than that of everything from scratch."""
    found = as_number(answer)
    right = SCRATCH_EPOCHS * 3
    if abs(found / right - 1) < 0.02:
        return True, "every image once forward, instead of 100 times forward and back: the next cell counts it exactly"
    if abs(found / SCRATCH_EPOCHS - 1) < 0.02:
        return False, "a pass forward and back is three times one forward"
    if abs(found / (right * EXAMPLES) - 1) < 0.02:
        return False, "that is how many passes training from scratch has; the head needs the features of 50 images"
    if found > 0 and abs(found * right - 1) < 0.02:
        return False, "the other way round: how many times *more* does training from scratch compute?"
    return False, "not yet: passes of training from scratch, each counted three times, over those of the head"


@exercise("5.6", "the mean difference in points, and its standard error")
def paired_by_hand(answer: Any) -> Judgement:
    """Judge the mean and the standard error of differences between runs that share a seed."""
    found = [float(x) for x in as_tensor(answer, (2,))]
    points = [100 * (tuned - probed) for tuned, probed in zip(TUNED, PROBED, strict=True)]
    mean, deviation = fmean(points), stdev(points)
    error = deviation / math.sqrt(len(points))
    if abs(found[0] - mean / 100) < 1e-3:
        return False, "that is a share: give points"
    if abs(found[0] + mean) < 0.06:
        return False, "the other way round: fine-tuning minus probe"
    if abs(found[0] - mean) > 0.06:
        return False, "the first number is the mean of the three differences, in points"
    if abs(found[1] - error) < 0.04:
        reach = 4.303 * error  # Student's t for 95 %, two degrees of freedom
        return True, (
            f"{mean:.1f} ± {error:.1f}. With three seeds a 95 % interval reaches 4.3 of these to either side: from "
            f"{mean - reach:.1f} to {mean + reach:.1f} points. Three seeds are few"
        )
    if abs(found[1] - deviation) < 0.04:
        return False, "the mean is right, and that is the deviation of one difference: that of their mean is smaller"
    if abs(found[1] - deviation * math.sqrt(2 / 3) / math.sqrt(3)) < 0.02:
        return False, "the mean is right; for the deviation of a sample divide by n − 1"
    return False, "the mean is right; the error is the deviation of the differences over √3"


@exercise("5.7", "ten images of shape [10, 1, 8, 8], of the digits 0 to 9 in order, from 0 to 1")
def ten_of_ones_own(answer: Any) -> Judgement:
    """Judge ten drawings: whether a network can be shown them."""
    found = as_tensor(answer, (10, 1, 8, 8)).float()
    if not bool(((found >= 0) & (found <= 1)).all()):
        return False, f"pixels go from 0 to 1, and yours from {found.min():g} to {found.max():g}"
    if empty := [digit for digit in range(10) if found[digit].amax() < 0.3]:
        return False, f"drawing {empty[0]} has no ink"
    if float(found.mean()) > 0.6:
        return False, "more ink than paper: is it the other way round? Ink is 1, and paper is 0"
    flat = found.flatten(1)
    for digit in range(10):
        same = [other for other in range(digit) if torch.equal(flat[digit], flat[other])]
        if same:
            return False, f"drawings {same[0]} and {digit} are the same"
    known = torch.cat([demo.data(split)[0].flatten(1) for split in ("train", "valid", "test")])
    if bool((torch.cdist(flat, known).amin(1) < 1e-4).any()):
        return False, "some of these are images of the demo's: draw your own"
    with torch.no_grad():
        right = int((demo.model()(found).argmax(1) == torch.arange(10)).sum())
    return True, f"ten digits; the network of lesson 2, which learned from 1,150 handwritten ones, reads {right}"


@exercise("5.8", "what sw.transfer returns for a compressed network")
def transferred_under_a_target(answer: Any) -> Judgement:
    """Judge a sparse transfer by what it learned from, the bytes of its file, and its accuracy."""
    if isinstance(answer, CompressedModel):
        return False, "give what sw.transfer returns: it knows how many images the network learned from"
    if not isinstance(answer, TransferResult):
        raise NoAnswer(a_type(answer))
    if answer.compressed is None:
        return False, "a dense network was transferred: compress it first, and transfer that"
    seen = answer.cost.examples / max(len(answer.history), 1)
    if seen > EXAMPLES:
        return False, f"it learned from {seen:,.0f} images: {EXAMPLES} have labels"
    hints = "Does more of the network have to learn, or less of it?", ""
    return within_target(answer.compressed, MOST_BYTES, LEAST_RIGHT, hints)


@exercise("5.9", "an accuracy between 0 and 1")
def predicted_for_pens(answer: Any) -> Judgement:
    """Judge the guess of how well a new head on the reader of print tells thick pens from thin ones."""
    found = as_number(answer)
    if not 0 <= found <= 1:
        return False, f"{found:g} would be percent: give the accuracy, between 0 and 1"
    score = _told_pens()
    told = f"measured: {score.value:.1%} ({score.low:.1%} to {score.high:.1%}), and a coin gets 50 %"
    return (True, told) if abs(found - score.value) < 0.06 else (False, f"{told}. Did you expect that?")


@cache
def _reader_of_print() -> demo.DigitNet:
    return demo.pretrained(PRINTED)


@cache
def _told_pens() -> Score:
    found = transfer(_reader_of_print(), thick_or_thin("train", per_class=25), progress=False)
    return evaluate(found.model, thick_or_thin("valid"))
