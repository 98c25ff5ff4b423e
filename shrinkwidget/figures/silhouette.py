"""The model's outline in a still: depth across, width up, area in proportion to bytes (as js/charts/silhouette.ts)."""

from __future__ import annotations

from typing import Final

import numpy as np

from ..measure.bins import Floats
from ..measure.estimate import Estimate
from ..measure.sketch import Sketch
from .pen import KEPT, OUTLINE, Pen

_WIDEST: Final = 4.0
"""How many times the median width a layer may be wide: a vocabulary would dwarf everything else."""


def draw_silhouette(
    pen: Pen, left: float, top: float, width: float, height: float, sketch: Sketch, estimate: Estimate
) -> None:
    """Draw each layer as a box, output channels high, and in its middle what is left of its bytes."""
    dense = np.array([layer.n * layer.itemsize for layer in sketch.layers], dtype=np.float64)
    now = np.array([layer.nbytes for layer in estimate.layers], dtype=np.float64)
    x, tall = blocks(np.array([layer.width for layer in sketch.layers], dtype=np.float64), dense)
    edges, half, middle = left + x * width, tall * height / 2, top + height / 2
    left_half = half * np.minimum(now / dense, 1.0)
    pen.rectangles(edges[:-1], middle - left_half, np.diff(edges), middle + left_half, KEPT)
    corners = [edges[:-1], middle - half, edges[1:], middle - half, edges[1:], middle + half, edges[:-1], middle + half]
    corners += corners[:2]
    pen.lines(list(np.stack(corners, axis=1).reshape(-1, 5, 2)), OUTLINE, 0.7)


def blocks(widths: Floats, nbytes: Floats) -> tuple[Floats, Floats]:
    """Return the edges between layers, from 0 to 1, and their heights as fractions of the tallest."""
    tall = np.minimum(widths, _WIDEST * float(np.median(widths)))
    deep = nbytes / tall
    return np.concatenate([[0.0], np.cumsum(deep) / deep.sum()]), tall / tall.max()
