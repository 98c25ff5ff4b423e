"""Printed digits, as many as wanted, drawn from the fonts matplotlib brings: a task to learn before handwriting."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..argument_checks import public
from ..errors import DataError

_FONTS: Final = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmr10", "cmb10", "cmss10", "cmtt10",
)  # fmt: skip
_SIDE: Final = 32
"""Pixels a digit is drawn on before it is brought to 8×8: scikit-learn's were 32×32 once, too."""
_AT_ONCE: Final = 2048


@public()
def printed_digits(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return n printed digits: images (float32, N×1×8×8, 0…1) and labels (int64, N), all ten about equally often.

    Each is drawn in one of twenty fonts, then turned by up to 17°, slanted, stretched, moved and made bolder or lighter
    at random, and brought from 32×32 pixels to 8×8 by the means of 4×4 blocks, as scikit-learn's handwritten ones were.
    The same seed draws the same digits.

    Raises:
        DataError: for a number below 1.

    Example:
        >>> import shrinkwidget as sw
        >>> images, labels = sw.demo.printed_digits(100)
        >>> images.shape, images.min() >= 0, images.max() <= 1
        (torch.Size([100, 1, 8, 8]), tensor(True), tensor(True))
    """
    if not isinstance(n, int) or n < 1:
        raise DataError(f"printed_digits({n!r}): expected how many digits to draw, a whole number from 1")
    templates = _templates()
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (n,), generator=rng)
    fonts = torch.randint(len(_FONTS), (n,), generator=rng)
    parts = [slice(start, start + _AT_ONCE) for start in range(0, n, _AT_ONCE)]
    return torch.cat([_distorted(templates[fonts[part], labels[part]], rng) for part in parts]), labels


@cache
def _templates() -> Tensor:
    """Return every digit in every font, float32 ``[font, 10, 1, 32, 32]``, as high as the image and in its middle."""
    from matplotlib import get_data_path

    folder = Path(get_data_path()) / "fonts" / "ttf"
    drawn = [[_drawn(folder / f"{font}.ttf", digit) for digit in "0123456789"] for font in _FONTS]
    return torch.stack([torch.stack(digits) for digits in drawn])


def _drawn(font: Path, digit: str) -> Tensor:
    """Draw one digit, float32 ``[1, 32, 32]``."""
    from matplotlib.ft2font import FT2Font

    face = FT2Font(str(font))
    face.set_size(2 * _SIDE, 72)
    face.set_text(digit, 0.0)
    face.draw_glyphs_to_bitmap(antialiased=True)
    ink = torch.from_numpy(np.array(face.get_image(), dtype=np.float32) / 255)
    rows, columns = ink.amax(1).nonzero(), ink.amax(0).nonzero()
    ink = ink[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
    wide = min(_SIDE, round(_SIDE * ink.shape[1] / ink.shape[0]))
    fitted = F.interpolate(ink[None, None], size=(_SIDE, wide), mode="area")[0]
    left = (_SIDE - wide) // 2
    return F.pad(fitted, (left, _SIDE - wide - left))


def _distorted(drawn: Tensor, rng: torch.Generator) -> Tensor:
    """Return drawn digits (N×1×32×32) each distorted in its own way and brought to N×1×8×8."""
    n = len(drawn)

    def around(middle: float, reach: float) -> Tensor:
        return middle + (2 * torch.rand(n, generator=rng) - 1) * reach

    turn, slant = around(0, 0.3), around(0, 0.35)
    wide, high = around(1.0, 0.25), around(1.05, 0.12)
    # An inverse map: rows of a 2×3 matrix that says for each pixel of the result where it comes from.
    rows = torch.stack([turn.cos() * wide, (slant - turn.sin()) * wide, around(0, 0.12)], 1)
    columns = torch.stack([turn.sin() * high, turn.cos() * high, around(0, 0.08)], 1)
    grid = F.affine_grid(torch.stack([rows, columns], 1), [n, 1, _SIDE, _SIDE], align_corners=False)
    moved = F.grid_sample(drawn, grid, align_corners=False)
    # A maximum over 3×3 pixels thickens strokes; blended with the digit itself by 0…1 it makes every weight in between.
    bolder = F.max_pool2d(moved, 3, 1, 1).lerp(moved, around(0.5, 0.5).view(n, 1, 1, 1))
    images = F.avg_pool2d(bolder, _SIDE // 8) * around(1.1, 0.3).view(n, 1, 1, 1)
    noise = torch.randn(images.shape, generator=rng) * 0.03
    return (images + noise).clamp(0, 1)
