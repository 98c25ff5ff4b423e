"""One layer's distribution as a picture: outline, survivors and bars as counts on an axis.

The twin of ``js/charts/distribution-geometry.ts``; ``tests/vectors`` holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..analysis.chart_distribution import effective, levels, original, survivors
from ..analysis.estimate_class_and_packed_file_header import LayerEstimate
from ..analysis.pruning_estimate import PruningOutcome
from ..analysis.quantization_group_histograms import Floats
from ..analysis.sketch import LayerSketch
from ..recipe_and_method_registry import Plan

_BIN_PIXELS: Final = 3
"""Least width of a bin of an outline."""
_LEVEL_PIXELS: Final = 4
"""Least gap between levels that are drawn one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Effective weights: bars about `at`, `width` wide in units of the axis, `height` in the outline's unit.

    Where a bar stands for one level of a grid, its height is that of its weights spread over the level's cell.
    """

    at: Floats
    height: Floats
    width: float
    one_level_each: bool


@dataclass(frozen=True, slots=True, eq=False)
class DistributionPlot:
    """A layer on an axis from −span to span, in weights per bin.

    `outline` and `left` (what pruning leaves): one count per bin between `edges`. `bars`: the effective weights.
    `levels`: those of the grid that are worth a tick. `threshold`: where the pruned band ends, 0 if no threshold
    decides. `top`: what fills the row.
    """

    span: float
    edges: Floats
    outline: Floats
    left: Floats
    bars: Bars
    levels: Floats
    threshold: float
    top: float


def distribution_plot(
    layer: LayerSketch,
    plan: Plan,
    survival: PruningOutcome | None,
    figures: LayerEstimate,
    span: float,
    pixels: float,
    narrow: LayerSketch | None = None,
) -> DistributionPlot:
    """Return the picture of a layer on an axis from −span to span that is `pixels` wide.

    `narrow` is the layer without the channels that went, if some did: the outline is that of all weights.
    """
    now = layer if narrow is None else narrow
    sigma = math.sqrt(layer.energy / layer.n)
    edges = np.linspace(-span, span, bin_count(layer.n, sigma, span, pixels) + 1)
    outline, left = original(layer, edges), survivors(now, survival, figures.kept, edges)
    # One grid for the whole layer: its levels can be drawn one by one, if they are far enough apart to be seen.
    ticks = levels(now, plan, survival)
    one_grid = len(ticks) > 1 and (not plan.quantizer.has_scales or plan.granularity == "tensor")
    bin_width = float(edges[1] - edges[0])
    if one_grid and (ticks[1] - ticks[0]) * pixels / (2 * span) >= _LEVEL_PIXELS:
        cells = _cell_edges(ticks)
        height = effective(now, plan, survival, figures.kept, cells) * bin_width / np.diff(cells)
        bars = Bars(ticks, height, float(np.diff(ticks).min()) / 2, True)
    else:
        counts = effective(now, plan, survival, figures.kept, edges)
        bars = Bars((edges[:-1] + edges[1:]) / 2, comb_factor(counts, left) * counts, bin_width, False)
    threshold = 0.0 if plan.keep else figures.threshold
    return DistributionPlot(span, edges, outline, left, bars, ticks, threshold, body_height(outline))


def shared_span(layers: Sequence[LayerSketch]) -> float:
    """Return half an axis that suits the typical layer; a much wider one runs over its ends."""
    # 99.7 % of a normal distribution lie within 3 σ; single outliers would make an axis on which all else is a spike.
    # The constants are those of js/charts/distribution-geometry.ts.
    spans = sorted(min(layer.absmax, 1.08 * _quantile(layer, 0.997)) for layer in layers)
    return 1.15 * spans[len(spans) // 2] or 1.0


def bin_count(n: int, sigma: float, span: float, pixels: float) -> int:
    """Return how many bins an axis from −span to span gets, an odd number, so that zero is in the middle of one.

    They are three quarters as wide as Scott's (1979), 3.49·σ·n^(−1/3): few weights in many bins make noise.
    """
    scott = 2 * span / (2.6 * sigma * n ** (-1 / 3)) if sigma > 0 else 1.0
    wanted = min(math.floor(pixels / _BIN_PIXELS), math.floor(min(max(scott, 2.2 * n ** (1 / 3)), 1e6) + 0.5))
    return int(max(9, wanted - 1 + wanted % 2))


def body_height(counts: Floats) -> float:
    """Return a height that shows a histogram's body: a bin counts for at most 1.7 times those two bins away."""
    padded = np.pad(counts, 2)
    # A spike (weights that are exactly zero, or few levels) is cut off rather than flattening the rest: one or two bins
    # that rise far above those two away are no body.
    around = np.maximum(padded[:-4], padded[4:])
    return 1.06 * float(np.minimum(counts, 1.7 * around).max()) or 1.0


def comb_factor(bars: Floats, left: Floats) -> float:
    """Return how much to lower bars that stand for several bins each, so that they meet the outline they came from.

    It is the share of them that lies below it.
    """
    total = float(bars.sum())
    return float(np.minimum(bars, left).sum()) / total if total > 0 else 1.0


def _quantile(layer: LayerSketch, share: float) -> float:
    """Return the magnitude below which a share of the layer's weights lies."""
    m = layer.magnitudes
    i = int(np.searchsorted(m.before[1:], share * layer.n))
    return float(m.high[min(i, len(m.high) - 1)])


def _cell_edges(values: Floats) -> Floats:
    """Return the boundaries half-way between neighbouring values, the outer cells as wide to either side."""
    # A weight rounds to its nearest level, so the cells of levels meet half-way between them.
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
