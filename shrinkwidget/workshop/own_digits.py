"""Ten digits of one's own, for the lesson on transfer: drawn in text, or photographed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..argument_checks import public
from ..errors import DataError, quoted

_INK: Final = {"#": 1.0, "+": 0.5, ".": 0.0}
_PIXELS: Final = 8
_SIDE: Final = 32
"""Pixels a photographed digit is fitted into before it is brought to 8×8, as the demo's handwritten ones were."""
_MOST: Final = 240
"""Pixels along the longer side of a photograph that are looked at: more show grain of the paper, not of the digit."""


@public()
def drawn(text: str) -> Tensor:
    """Return digits drawn in text as images (float32, N×1×8×8): ``#`` is ink, ``+`` half as much, ``.`` none.

    Eight lines make a row of drawings, side by side with spaces between; an empty line ends a row.

    Raises:
        DataError: for a drawing that is not 8 by 8, or another character.

    Example:
        >>> import shrinkwidget as sw
        >>> one_and_seven = '''
        ... ...##... ..#####.
        ... ..###... .....##.
        ... ...##... ....##..
        ... ...##... ..#####.
        ... ...##... ...##...
        ... ...##... ..##....
        ... ...##... ..##....
        ... ..####.. ..#.....
        ... '''
        >>> sw.workshop.drawn(one_and_seven).shape
        torch.Size([2, 1, 8, 8])
    """
    if not isinstance(text, str) or not text.strip():
        raise DataError("there is nothing drawn: give text of '#', '+' and '.', eight lines of eight for each digit")
    images: list[list[list[float]]] = []
    for block in re.split(r"\n[ \t]*\n", text.strip()):
        lines = [line.split() for line in block.splitlines()]
        if len(lines) != _PIXELS:
            raise DataError(f"the drawings from number {len(images)} on have {len(lines)} lines: each has 8")
        if len({len(line) for line in lines}) > 1:
            raise DataError(f"the drawings from number {len(images)} on are not as many in every line")
        for rows in zip(*lines, strict=True):
            for number, row in enumerate(rows, 1):
                if len(row) != _PIXELS or not set(row) <= set(_INK):
                    raise DataError(
                        f"line {number} of drawing {len(images)} is {quoted(row)}: it takes eight of '#', '+' and '.'"
                    )
            images.append([[_INK[mark] for mark in row] for row in rows])
    return torch.tensor(images).unsqueeze(1)


@public()
def photographed(folder: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """Return digits from photographs as images (float32, N×1×8×8) and labels (int64, N), in the order of their labels.

    A photograph shows one digit, dark on light paper, and has it as the first character of its name: ``3.jpg``,
    ``3-again.png``. Ink is what is darker than a threshold between paper and pen (Otsu 1979), after uneven light is
    taken out; its bounding box is fitted into 32×32 pixels, and each pixel of the result is the mean of 4×4 of them, as
    in the demo's data.

    Raises:
        DataError: if there is no photograph, or one that cannot be read or is empty.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image, ImageDraw
        >>> import shrinkwidget as sw
        >>> paper = Image.new("L", (90, 120), 220)
        >>> ImageDraw.Draw(paper).line([(45, 20), (45, 100)], fill=40, width=9)
        >>> Path("photographs").mkdir()
        >>> paper.save("photographs/1.png")
        >>> images, labels = sw.workshop.photographed("photographs")
        >>> images.shape, labels
        (torch.Size([1, 1, 8, 8]), tensor([1]))
    """
    place = Path(folder)
    found = sorted(path for path in place.glob("[0-9]*") if path.is_file())
    if not found:
        raise DataError(
            f"there is no photograph in {quoted(str(folder))}: a file has its digit as the first character of its "
            "name, such as '3.jpg'"
        )
    images = torch.stack([_fitted(_ink(path), path) for path in found])
    return images, torch.tensor([int(path.name[0]) for path in found])


def _ink(path: Path) -> Tensor:
    """Return where there is ink in a photograph: float32 of 0 and 1, height×width."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("L")
    except OSError as error:
        raise DataError(f"{quoted(str(path))} is no picture that can be read: {error}") from error
    image.thumbnail((_MOST, _MOST))
    gray = torch.from_numpy(np.array(image, dtype=np.float32) / 255)[None, None]
    # A pen's line is narrower than a fifth of the picture: the lightest value around a pixel is its paper, in the light
    # that falls there. Along rows and then along columns: a square at once would take a hundred times as long.
    reach = max(3, min(gray.shape[-2:]) // 5) | 1
    paper = gray
    for size in ((reach, 1), (1, reach)):
        paper = F.max_pool2d(paper, size, 1, (size[0] // 2, size[1] // 2))
    dark = (1 - gray / paper.clamp(min=0.05)).clamp(0, 1)[0, 0]
    return (dark > max(_threshold(dark), 0.1)).float()


def _threshold(values: Tensor) -> float:
    """Return the value that parts two groups so that the variance between them is largest (Otsu 1979)."""
    counts = torch.histc(values, 256, 0, 1).double()
    levels = (torch.arange(256).double() + 0.5) / 256
    below, sums = counts.cumsum(0), (counts * levels).cumsum(0)
    above = below[-1] - below
    # Variance between two groups: n₀·n₁·(μ₀ − μ₁)², up to a constant. All 256 thresholds at once.
    between = (sums / below.clamp(min=1) - (sums[-1] - sums) / above.clamp(min=1)).square() * below * above
    return float(levels[between.argmax()])


def _fitted(ink: Tensor, path: Path) -> Tensor:
    """Return the ink's bounding box, as high or as wide as the image, in its middle: float32, 1×8×8."""
    rows, columns = ink.amax(1).nonzero(), ink.amax(0).nonzero()
    if not len(rows) or ink.mean() > 0.5:
        raise DataError(f"{quoted(str(path))} shows no dark digit on light paper")
    box = ink[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
    scale = _SIDE / max(box.shape)
    high, wide = (max(1, round(side * scale)) for side in box.shape)
    small = F.interpolate(box[None, None], size=(high, wide), mode="area")[0]
    top, left = (_SIDE - high) // 2, (_SIDE - wide) // 2
    whole = F.pad(small, (left, _SIDE - wide - left, top, _SIDE - high - top))
    return F.avg_pool2d(whole, _SIDE // _PIXELS)
