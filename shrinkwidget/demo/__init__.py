"""A trained network, the handwritten digits it was trained on, and printed ones to learn before: without a download."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ..argument_checks import meant, public
from ..errors import DataError, nearest, quoted
from .digit_net import DigitNet
from .draw_printed_digits import printed_digits
from .train_network import fit

__all__ = ["DigitNet", "Split", "data", "few", "model", "pretrained", "printed_digits"]

Split: TypeAlias = Literal["train", "valid", "test"]

WEIGHTS: Final = Path(__file__).with_name("digits.safetensors")
IMAGES: Final = Path(__file__).with_name("handwritten_digits.npz")
"""Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, 1998; UCI, CC BY 4.0), the test part, as scikit-learn
has it: 1,797 images of 8×8 pixels from 0 to 16. Here, so that the demo needs neither a download nor scikit-learn."""
HELD_OUT: Final = 360
"""Images of the ``"test"`` split, out of 1,797; the network never saw them."""
VALIDATION: Final = 287
"""Images of the ``"valid"`` split, which it never saw either: to choose by, so that the test is not what chose."""
_BOUNDS: Final[dict[str, tuple[int, int | None]]] = {
    "test": (0, HELD_OUT),
    "valid": (HELD_OUT, HELD_OUT + VALIDATION),
    "train": (HELD_OUT + VALIDATION, None),
}


@public()
def model() -> DigitNet:
    """Return a fresh copy of the demo network with its trained weights, in eval mode on the CPU.

    Example:
        >>> import shrinkwidget as sw
        >>> model = sw.demo.model()
        >>> model.training
        False
        >>> sum(weights.numel() for weights in model.parameters())
        172218
    """
    network = DigitNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


@public()
def data(split: Split = "test") -> tuple[Tensor, Tensor]:
    """Return images (float32, N×1×8×8, 0…1) and labels (int64, N) of handwritten digits.

    They are those of ``sklearn.datasets.load_digits``. The splits are fixed and share no image: 1,150 to ``"train"`` a
    model on, 287 to choose by (``"valid"``: how sparse, how many bits, when to stop), and 360 to ``"test"`` the choice
    on, once. The demo network saw the first only.

    Raises:
        DataError: for another name of a split.

    Example:
        >>> import shrinkwidget as sw
        >>> images, labels = sw.demo.data("train")
        >>> images.shape, labels.shape
        (torch.Size([1150, 1, 8, 8]), torch.Size([1150]))
    """
    if (name := meant(split, _BOUNDS)) is None:
        raise DataError(
            f"there is no split {quoted(split)}: take 'train', 'valid' or 'test'{nearest(str(split), _BOUNDS)}"
        )
    with np.load(IMAGES) as found:
        images = torch.from_numpy(found["images"]).float().div(16).unsqueeze(1)
        labels = torch.from_numpy(found["labels"]).long()
    first, end = _BOUNDS[name]
    chosen = torch.from_numpy(_shuffled(len(labels)))[first:end]
    return images[chosen], labels[chosen]


@public()
def few(per_class: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images and labels of the ``"train"`` split, so many of each digit, drawn by a seed; see `data`.

    Raises:
        DataError: for more than there are, or fewer than one.

    Example:
        >>> import shrinkwidget as sw
        >>> images, labels = sw.demo.few(per_class=5)
        >>> labels.bincount().tolist()
        [5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    images, labels = data("train")
    most = int(labels.bincount().min())
    if not isinstance(per_class, int) or not 1 <= per_class <= most:
        raise DataError(f"few({per_class!r}): there are 1 to {most} images of every digit to take")
    order = torch.from_numpy(_shuffled(len(labels), seed))
    chosen = torch.cat([order[labels[order] == digit][:per_class] for digit in range(10)])
    return images[chosen], labels[chosen]


@public()
def pretrained(examples: int = 20_000, epochs: int = 2, seed: int = 0) -> DigitNet:
    """Return a network that has learnt printed digits and never saw a handwritten one.

    That takes about ten seconds for the first call. The same arguments get a fresh copy of the same network at once.

    Example:
        >>> import shrinkwidget as sw
        >>> printed_only = sw.demo.pretrained(examples=256, epochs=1)  # the defaults take ten seconds
        >>> type(printed_only).__name__
        'DigitNet'
    """
    return deepcopy(_pretrained(examples, epochs, seed))


@lru_cache(maxsize=4)
def _pretrained(examples: int, epochs: int, seed: int) -> DigitNet:
    return fit(*printed_digits(examples, seed), epochs, batch_size=128, seed=seed)


def _shuffled(n: int, seed: int = 0) -> Any:
    """Return the numbers below n in a fixed order; numpy promises never to change this generator's stream."""
    from numpy.random import RandomState

    return RandomState(seed).permutation(n)
