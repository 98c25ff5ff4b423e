"""Text as outlines: each letter is read from the font once, so that hundreds of labels are drawn as one shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..analysis.quantization_group_histograms import Floats

FAMILY: Final = "DejaVu Sans"  # comes with matplotlib, so that a picture looks the same everywhere
Families = tuple[str, ...]
"""Fonts by name, the first that has a letter draws it; the last is to have them all."""
_SIZE: Final = 1000
MISSING: Final = "□"
MIDDLE: Final = 0.36
"""Height of a line's middle above its baseline, in units of the font size: half of a capital letter's."""


@dataclass(frozen=True, slots=True, eq=False)
class Glyph:
    """A letter: path vertices ``[points, 2]`` and codes as matplotlib's, and its advance; all for font size 1."""

    vertices: Floats
    codes: NDArray[np.uint8]
    advance: float


@lru_cache(maxsize=4096)
def glyph(letter: str, bold: bool, families: Families = (FAMILY,)) -> Glyph:
    """Return the outline of one character, an empty box for one that no font has."""
    for family in families:
        font = _font(family, bold)
        if font.get_char_index(ord(letter)):
            break
    font.set_size(_SIZE, 72)
    code = ord(letter) if font.get_char_index(ord(letter)) else ord(MISSING)
    # 16.16 fixed point, and not rounded to pixels as `advance` is: widths add up over a long text.
    advance = font.load_char(code).linearHoriAdvance / 65536 / _SIZE
    vertices, codes = font.get_path()
    return Glyph(np.asarray(vertices) / _SIZE, np.asarray(codes, dtype=np.uint8), advance)


@lru_cache(maxsize=4096)
def has_glyph(letter: str, families: Families) -> bool:
    """Tell whether one of the fonts has a letter."""
    return any(_font(family, False).get_char_index(ord(letter)) for family in families)


def _font(family: str, bold: bool) -> Any:
    # matplotlib keeps one font object for each thread
    from matplotlib.font_manager import FontProperties, findfont, get_font

    return get_font(findfont(FontProperties(family=family, weight="bold" if bold else "normal")))


@lru_cache(maxsize=4096)
def width_of(text: str, bold: bool = False, families: Families = (FAMILY,)) -> float:
    """Return the width of a text in units of the font size."""
    return sum(glyph(letter, bold, families).advance for letter in text)


@lru_cache(maxsize=1024)
def outline_of(text: str, bold: bool) -> tuple[Floats, NDArray[np.uint8]]:
    """Return path vertices and codes of a text for font size 1, from (0, 0) rightwards, y upwards from the baseline."""
    at, vertices, codes = 0.0, [np.zeros((0, 2))], [np.zeros(0, dtype=np.uint8)]
    for letter in text:
        found = glyph(letter, bold)
        vertices.append(found.vertices + np.array([at, 0.0]))
        codes.append(found.codes)
        at += found.advance
    return np.concatenate(vertices), np.concatenate(codes)
