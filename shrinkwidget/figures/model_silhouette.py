"""The model's outline in a snapshot: depth across, width up, area in proportion to bytes.

`blocks` and `stages` are the twins of ``js/charts/model-silhouette.ts``; ``tests/vectors/charts`` holds them together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.quantization_group_histograms import Floats
from ..analysis.sketch import Sketch, narrowed_to
from .canvas import KEPT, MUTED, OUTLINE, WITHOUT_CHANNELS, Canvas
from .fit_and_place_labels import thin

_WIDEST: Final = 4.0
"""How many times the median width a layer may be wide: a vocabulary would dwarf everything else."""
_CROWDED: Final = 5
"""Pixels per layer below which blocks are not told apart."""
_LETTER: Final = 5.6
_NAMES: Final = 16
"""Pixels below the blocks, for the names of the stages."""


def draw_silhouette(
    canvas: Canvas,
    left: float,
    top: float,
    width: float,
    height: float,
    sketch: Sketch,
    estimate: Estimate,
    order: Sequence[int],
) -> None:
    """Draw each layer as a box, output channels high, in it what is left of its bytes, and the stages' names below.

    Where channels went, a tinted box shows what the layer is without them.
    """
    layers = [sketch.layers[i] for i in order]
    dense = np.array([layer.n * layer.itemsize for layer in layers], dtype=np.float64)
    now = np.array([estimate.layers[i].nbytes for i in order], dtype=np.float64)
    x, tall = blocks(np.array([layer.width for layer in layers], dtype=np.float64), dense)
    body = height - _NAMES
    edges, half, middle = left + x * width, tall * body / 2, top + body / 2
    start, deep, high, rest = edges[:-1], np.diff(edges), half, dense
    if estimate.widths:
        # without the channels that went a box is as high as the layer is wide now, its area what is left of its weights
        narrow = narrowed_to(sketch, [count for _, count in estimate.widths.values()])
        rest = np.array([narrow.layers[i].n * narrow.layers[i].itemsize for i in order], dtype=np.float64)
        wide = np.array([narrow.layers[i].width / sketch.layers[i].width for i in order])
        high, deep = half * wide, deep * (rest / dense) / wide
        start = start + (np.diff(edges) - deep) / 2
        if narrow is not sketch:
            canvas.rectangles(start, middle - high, deep, middle + high, WITHOUT_CHANNELS)
    left_half = high * np.minimum(now / rest, 1.0)
    canvas.rectangles(start, middle - left_half, deep, middle + left_half, KEPT)
    corners = np.stack(
        [edges[:-1], middle - half, edges[1:], middle - half, edges[1:], middle + half, edges[:-1], middle + half],
        axis=1,
    ).reshape(-1, 4, 2)
    if len(layers) > width / _CROWDED:  # single boxes would be a grid of lines
        corners = np.concatenate([corners[:, :2].reshape(-1, 2), corners[::-1, 2:].reshape(-1, 2)])[None]
    canvas.lines([np.concatenate([shape, shape[:1]]) for shape in corners], OUTLINE, 0.7)
    for text, at in stages([layer.label for layer in layers], x * width):
        reach = canvas.measure(text, size=10) / 2
        inside = min(max(left + at, reach), canvas.width - reach)
        canvas.text(inside, top + height - _NAMES + 10, text, size=10, color=MUTED, align="center")


def blocks(widths: Floats, nbytes: Floats) -> tuple[Floats, Floats]:
    """Return the edges between layers, from 0 to 1, and their heights as fractions of the tallest."""
    tall = np.minimum(widths, _WIDEST * float(np.sort(widths)[len(widths) // 2]))
    deep = nbytes / tall
    return np.concatenate([[0.0], np.cumsum(deep) / deep.sum()]), tall / max(1.0, tall.max())


def stages(labels: Sequence[str], edges: Floats) -> list[tuple[str, float]]:
    """Return the stages of a model and their middles, named once each where there is room between `edges` in pixels."""
    runs: list[tuple[str, float, float]] = []
    for label, start, end in zip(labels, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        text = re.split(r"\.\d", block_of(label))[0] or label
        if runs and runs[-1][0] == text:
            runs[-1] = (text, runs[-1][1], end)
        else:
            runs.append((text, start, end))
    # names, their middles and widths, where a name is not much wider than its stage
    placed = [
        (text, (start + end) / 2, _LETTER * len(text))
        for text, start, end in runs
        if end - start > 0.7 * _LETTER * len(text) or re.fullmatch(r"\d+", text)
    ]
    return [placed[i][:2] for i in thin([(middle, width) for _, middle, width in placed])]


def block_of(label: str) -> str:
    """Return the block a layer belongs to: its name up to the first number, or up to its first dot, or ""."""
    parts = label.split(".")
    if len(parts) == 1:
        return ""
    number = next((i for i, part in enumerate(parts) if re.fullmatch(r"[0-9]+", part)), -1)
    return ".".join(parts[: number + 1]) if 0 < number < len(parts) - 1 else parts[0]
