"""Lesson 6, shipping it: its exercises."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, Final

import torch

from .. import demo
from ..compressed_model import CompressedModel, compress
from ..errors import a_type
from ..performance.device_fit import DeviceFit, fits
from .exercises import Judgement, NoAnswer, as_number, as_tensor, exercise, within_target

FLASH: Final = 64 * 1024
PROGRAM: Final = 18_000
RUNTIME: Final = 16_384
"""Bytes of a board's flash, of the program on it, and of what runs the network there."""
BUDGET: Final = FLASH - PROGRAM - RUNTIME
LEAST_RIGHT: Final = 284
PARAMETERS: Final = 172_218
STATISTICS: Final = 954
CHANNEL_BYTES: Final = 8 * 8 * 4
FILES: Final = {
    "A": (22_100, 268),
    "B": (26_000, 279),
    "C": (28_400, 277),
    "D": (31_100, 285),
    "E": (33_000, 285),
    "F": (39_600, 286),
    "G": (41_000, 284),
}
"""Bytes and validation images read, of seven files to choose from."""
TRIED: Final = 20
TRUE_ACCURACY: Final = 0.95
IMAGES: Final = 287
DENSE: Final = 699_328
SMALL: Final = 30_000


@exercise("6.1", "a number of bytes")
def bytes_left_for_the_file(answer: Any) -> Judgement:
    """Judge what is left of the flash for the file."""
    found = as_number(answer)
    if found == BUDGET:
        return True, f"{BUDGET:,} bytes: the budget of this lesson"
    if found == 64_000 - PROGRAM - RUNTIME:
        return False, "64 KiB are not 64 kB: a datasheet counts in 1,024 bytes"
    if found in (FLASH - PROGRAM, FLASH - RUNTIME):
        return False, "the program *and* what runs the network are there, too"
    if found == FLASH:
        return False, "that is all of the flash, and some of it is taken"
    return False, "not yet: the flash, less the program, less what runs the network"


@exercise("6.2", "a number of bytes")
def bytes_in_memory(answer: Any) -> Judgement:
    """Judge what the weights of the pruned and rounded network take in memory, as PyTorch runs it."""
    found = as_number(answer)
    right = 4 * (PARAMETERS + STATISTICS)
    if found == right:
        return True, "every weight again, zeros too, in 32 bits: a small file is not a small network in memory"
    if found == 4 * PARAMETERS:
        return False, "batch norm's statistics are in memory, too"
    if found in (PARAMETERS + STATISTICS, PARAMETERS):
        return False, "that is how many numbers there are"
    if abs(found / right - 0.1) < 0.03 or abs(found / right - 0.0125) < 0.01:
        return False, "that would be without the zeros, or in 4 bits: PyTorch multiplies plain float32 matrices"
    if found == 39_621:
        return False, "that is the file: what is made of it when it is loaded?"
    return False, "not yet: all numbers, 32 bits each"


@exercise("6.3", "a number of bytes")
def peak_by_hand(answer: Any) -> Judgement:
    """Judge what is alive at once inside a residual block: its input, and the input and output of a convolution."""
    found = as_number(answer)
    one = 16 * CHANNEL_BYTES
    if found == 3 * one:
        return True, "three at once; a network without shortcuts would need two"
    if found == 2 * one:
        return False, "the convolution reads one and writes one: what does the shortcut wait with?"
    if found == one:
        return False, "that is one of them: how many are needed at the same moment?"
    if found == 3 * one // 4:
        return False, "that is how many numbers there are: each has 4 bytes"
    return False, "not yet: tensors alive at the same moment, times 16 channels of 8 × 8 numbers of 4 bytes"


@exercise("6.4", "two numbers of devices: how many the file fits, and how many the running network fits")
def predicted_devices(answer: Any) -> Judgement:
    """Judge the guess of how many of the known devices the network at 90 % and 4 bits fits."""
    found = [float(x) for x in as_tensor(answer, (2,))]
    rows = _fit().rows
    if any(x != round(x) or not 0 <= x <= len(rows) for x in found):
        raise NoAnswer(f"{found[0]:g} and {found[1]:g}")
    if found[1] > found[0]:
        return False, "what runs there was stored there: the second number cannot be larger"
    in_flash, both = sum(row.flash.fits is True for row in rows), sum(row.fits is True for row in rows)
    told = f"the file fits {in_flash} of {len(rows)}, and {both} of them can run the network as PyTorch does"
    close = abs(found[0] - in_flash) <= 1 and abs(found[1] - both) <= 1
    return (True, told) if close else (False, f"{told}. Which of your two numbers was further off, and why?")


@exercise("6.5", "the letters of the files, such as {'A', 'C'}")
def front_by_hand(answer: Any) -> Judgement:
    """Judge which of seven files no other beats in both bytes and images read."""
    if not isinstance(answer, Iterable) or isinstance(answer, bytes):
        raise NoAnswer(a_type(answer))
    found = {str(letter).strip().upper() for letter in answer} - {"", ","}
    if not found or not found <= set(FILES):
        raise NoAnswer(repr(answer))
    # no two of them are alike, so that whatever is not larger and reads not fewer beats a file
    front = {
        letter
        for letter, (nbytes, right) in FILES.items()
        if sum(n <= nbytes and r >= right for n, r in FILES.values()) == 1  # itself
    }
    if found == front:
        return True, "each of these is the best one can have at its size; nobody should ship any of the others"
    if extra := sorted(found - front):
        return False, f"{extra[0]} is beaten: another file is not larger, and reads not fewer"
    return False, f"so far right, but {len(front - found)} more {'is' if len(front - found) == 1 else 'are'} not beaten"


@exercise("6.6", "an accuracy between 0 and 1")
def best_of_many(answer: Any) -> Judgement:
    """Judge what the best of 20 networks seems to have on 287 images, where all have 95 %."""
    found = as_number(answer)
    right = _expected_best()
    if 1 < found <= 100:
        return False, f"{found:g} would be percent: give the accuracy, between 0 and 1"
    if abs(found - right) < 0.003:
        return True, f"{100 * (right - TRUE_ACCURACY):.1f} points too good, by choosing alone: so report on test"
    if abs(found - TRUE_ACCURACY) < 0.003:
        return False, "that is what all of them have. The best one was chosen *because* it looked better"
    if found > right:
        return False, "so far off none of twenty usually is: draw how many of 287 each reads, and take the largest"
    return False, "not yet: draw how many of 287 each of the 20 reads, take the largest, and average over many draws"


@exercise("6.7", "a compressed model, as sw.compress and sw.retrain return it")
def shipped_under_a_budget(answer: Any) -> Judgement:
    """Judge a model by the bytes of its file and by its accuracy, both measured."""
    if not isinstance(answer, CompressedModel):
        raise NoAnswer(a_type(answer))
    if answer.model is None:
        return False, "it holds tensors alone, and no module that could be evaluated: compress the model itself"
    hints = "Batch norm first; then a few epochs", "What in the file is neither pruned nor rounded?"
    return within_target(answer, BUDGET, LEAST_RIGHT, hints)


@exercise("6.8", "how many times smaller")
def ratio_to_report(answer: Any) -> Judgement:
    """Judge the compression ratio of a file of 30,000 bytes."""
    found = as_number(answer)
    if abs(found - DENSE / SMALL) < 0.06:
        return True, "both are files that exist, and anybody can weigh them"
    if abs(found - SMALL / DENSE) < 1e-3:
        return False, "the other way round: how many times smaller?"
    if abs(found - 100 * (1 - SMALL / DENSE)) < 0.1 or abs(found - (1 - SMALL / DENSE)) < 1e-3:
        return False, "that is what was saved, as a share: 95 % and 97 % sound alike, and are 20 and 33 times smaller"
    if abs(found - 4 * PARAMETERS / SMALL) < 0.06:
        return False, "that is weights against a file: the dense file has statistics and a header, as the small one has"
    if abs(found - 1 / (1 - 0.95)) < 0.06:
        return False, "that is from the sparsity: what is left needs a mask, scales and a header"
    return False, "not yet: the dense .safetensors file over the packed one"


@cache
def _fit() -> DeviceFit:
    return fits(compress(demo.model(), sparsity=0.9, bits=4), torch.zeros(1, 1, 8, 8))


@cache
def _expected_best() -> float:
    """Return the mean of the largest of 20 binomial shares: the sum over k of P(largest > k), over n."""
    p, n = TRUE_ACCURACY, IMAGES
    below = beyond = 0.0
    for k in range(n):
        below += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        beyond += 1 - min(below, 1.0) ** TRIED
    return beyond / n
