"""Lesson 1, what a model weighs: its exercises."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any, Final

from torch import nn

from .. import demo
from ..analysis.model_summary import summary
from ..argument_checks import public
from ..compressed_model import compress
from .exercises import Judgement, NoAnswer, as_number, exercise

BUDGET: Final = 64_000
DEPTH: Final = 4
VOCABULARY: Final = 20_000
VECTORS: Final = 625
"""Support vectors of the machine in the lesson, of 64 features, for ten classes."""


@public()
def mlp(width: int, depth: int) -> nn.Sequential:
    """Return a network for 64 pixels and 10 classes: `depth` hidden layers, each `width` wide.

    Example:
        >>> import shrinkwidget as sw
        >>> [tuple(weights.shape) for weights in sw.workshop.mlp(width=32, depth=2).parameters() if weights.ndim > 1]
        [(32, 64), (32, 32), (10, 32)]
    """
    widths = [64, *[width] * depth]
    hidden = (layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU()))
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 10))


@exercise("1.1", "a number of parameters")
def parameters_of_a_layer(answer: Any) -> Judgement:
    """Judge the parameters of a fully connected layer from 64 to 32."""
    found = as_number(answer)
    if found == 64 * 32 + 32:
        return True, "a weight for every pair, and a bias for every output"
    if found == 64 * 32:
        return False, "those are the weights; every output has a bias, too"
    if found == 64 * 32 + 64:
        return False, "there is a bias for every output, not for every input"
    if found == 64 + 32:
        return False, "every input is connected with every output: multiply"
    return False, "not yet: a weight for every pair of an input and an output, and a bias for every output"


@exercise("1.2", "a number of bytes")
def bytes_of_a_layer(answer: Any) -> Judgement:
    """Judge the bytes of that layer in float32."""
    found = as_number(answer)
    count = 64 * 32 + 32
    if found == 4 * count:
        return True, "32 bits are 4 bytes; a file needs a little more, for names and shapes"
    if found == count:
        return False, "that is how many numbers there are: how many bytes has each?"
    if found == 32 * count:
        return False, "those are bits"
    return False, "not yet: the parameters of exercise 1.1, 32 bits each"


@exercise("1.3", "a number of weights")
def weights_of_a_convolution(answer: Any) -> Judgement:
    """Judge the weights of a 3×3 convolution from 16 to 32 channels."""
    found = as_number(answer)
    if found == 16 * 32 * 9:
        return True, "a 3×3 kernel for every pair of channels, whatever the size of the image"
    if found == 16 * 32 * 9 + 32:
        return False, "with a bias for every output; this one has none, since a batch norm follows"
    if found in (32 * 9, 16 * 9):
        return False, "there is a kernel for every *pair* of an input and an output channel"
    if found == 16 * 32:
        return False, "those are the pairs of channels; each has a kernel of 3×3"
    return False, "not yet: pairs of an input and an output channel, times the weights of a kernel"


@exercise("1.4", "a factor")
def twice_as_wide(answer: Any) -> Judgement:
    """Judge by what the weights between two hidden layers grow when both become twice as wide."""
    found = as_number(answer)
    if found == 4:
        return True, "twice as many rows, each twice as long: bytes grow with the square of the width"
    if found == 2:
        return False, "both layers are twice as wide: there are twice as many rows, *and* each is twice as long"
    return False, "not yet: draw the matrix of the weights, and make it twice as wide and twice as high"


@exercise("1.5", "a width, a whole number")
def width_under_a_budget(answer: Any) -> Judgement:
    """Judge the largest width of four hidden layers whose file stays within the budget."""
    found = as_number(answer)
    if found != round(found) or not 1 <= found <= 10_000:
        raise NoAnswer(f"{found:g}")
    size, next_size = _bytes(int(found)), _bytes(int(found) + 1)
    told = f"{DEPTH} layers, {found:g} wide: {size:,} bytes"
    if size > BUDGET:
        return False, f"{told}, {size - BUDGET:,} too many"
    if next_size <= BUDGET:
        return False, f"{told}: it fits, but so would a wider one"
    return True, f"{told}, and one more would be {next_size:,}"


@exercise("1.6", "a share between 0 and 1")
def share_of_the_embedding(answer: Any) -> Judgement:
    """Judge the share of a text classifier's parameters that its table of words holds."""
    found = as_number(answer)
    table, rest = VOCABULARY * 64, 64 * 2 + 2
    share = table / (table + rest)
    if abs(found - share) < 1e-3:
        return True, f"{table:,} of {table + rest:,} numbers: to make this model smaller is to make a table smaller"
    if abs(found - 100 * share) < 0.1:
        return False, "that would be percent: give the share, between 0 and 1"
    return False, "not yet: 20,000 rows of 64 numbers, and beside them one small layer"


@exercise("1.7", "how many numbers")
def numbers_of_an_svm(answer: Any) -> Judgement:
    """Judge how many numbers a support vector machine keeps."""
    found = as_number(answer)
    vectors, coefficients, intercepts = VECTORS * 64, VECTORS * 9, 45
    if found in (vectors + coefficients, vectors + coefficients + intercepts):
        return True, "it grows with the examples it has to remember, and not with anything one chose"
    if found == VECTORS:
        return False, "those are the vectors: each has 64 features, and its coefficients"
    if found == vectors:
        return False, "beside its 64 features each vector has nine coefficients: one for every other class"
    return False, "not yet: for each of the vectors, its features and its nine coefficients"


@exercise("1.8", "a number of bytes")
def bytes_at_8_bits(answer: Any) -> Judgement:
    """Judge the guess of what the demo network's file takes at 8 bits a weight."""
    found = as_number(answer)
    size = compress(demo.model(), bits=8).nbytes
    told = f"the file has {size:,} bytes"
    if abs(found / size - 1) < 0.05:
        return True, f"{told}: a quarter, and a little more, for what is not rounded, scales and names"
    if abs(found / (8 * size) - 1) < 0.05:
        return False, f"{told}: that would be bits"
    return False, f"{told}. From 32 bits a weight to 8 is what factor?"


@cache
def _bytes(width: int) -> int:
    size = summary(mlp(width, DEPTH)).safetensors
    assert size is not None  # only what no file can hold has none
    return size
