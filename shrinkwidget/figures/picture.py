"""One layer's distribution as a picture: outline, survivors and bars as counts on an axis (as js/charts/picture.ts)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..measure.bins import Floats
from ..measure.distribution import effective, levels, original, survivors
from ..measure.estimate import LayerEstimate
from ..measure.pruned import Survival
from ..measure.sketch import LayerSketch
from ..recipe import Plan

_BIN_PIXELS: Final = 3.0
_LEAST_BINS: Final = 23


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Effective weights: `height` between neighbouring `edges`, in the outline's unit, so that areas compare.

    `levels`: of one grid for the whole tensor the value in each cell that all its weights have; else empty.
    """

    edges: Floats
    height: Floats
    levels: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A layer on an axis from −span to span, in weights per bin.

    `outline` and `left` (what pruning leaves): one count per bin between `edges`. `bars`: the effective weights.
    `threshold`: where the pruned band ends, 0 if no threshold decides. `top`: what fills the row.
    """

    span: float
    edges: Floats
    outline: Floats
    left: Floats
    bars: Bars
    threshold: float
    top: float


def picture_of(
    layer: LayerSketch, plan: Plan, survival: Survival, figures: LayerEstimate, span: float, pixels: float
) -> Picture:
    """Return the picture of a layer on an axis from −span to span that is `pixels` wide."""
    bins = _bin_count(layer, span, pixels)
    edges = np.linspace(-span, span, bins + 1)
    outline, left = original(layer, edges), survivors(layer, survival, figures.kept, edges)
    ticks = levels(layer, plan, survival)
    one_grid = len(ticks) > 1 and (plan.grid == "codebook" or plan.granularity == "tensor")
    cells = _cell_edges(ticks) if one_grid else edges
    unit = (edges[1] - edges[0]) / np.maximum(np.diff(cells), 1e-9 * span)
    bars = Bars(cells, effective(layer, plan, survival, figures.kept, cells) * unit, ticks if one_grid else ticks[:0])
    threshold = 0.0 if plan.keep else figures.threshold
    return Picture(span, edges, outline, left, bars, threshold, _body_height(outline))


def shared_span(layers: Sequence[LayerSketch]) -> float:
    """Return half an axis that suits most layers: two in three fit on it; a much wider one runs over its ends."""
    spans = sorted(min(layer.absmax, 1.08 * _quantile(layer, 0.997)) for layer in layers)
    return spans[math.floor(2 / 3 * (len(spans) - 1))] or 1.0


def _bin_count(layer: LayerSketch, span: float, pixels: float) -> int:
    """Return an odd number of bins of about Scott's width (1979): few weights make a noisy histogram of many bins."""
    sigma = math.sqrt(layer.energy / layer.n)
    scott = 2 * span / (2.6 * sigma) * layer.n ** (1 / 3) if sigma > 0 else 1.0
    wanted = min(math.floor(pixels / _BIN_PIXELS), round(min(scott, 1e6)))
    return max(_LEAST_BINS, wanted - 1 + wanted % 2)


def _body_height(counts: Floats) -> float:
    """Return a height that shows the body of a histogram: a bin counts half more than those two bins away at most."""
    padded = np.pad(counts, 2)
    around = np.maximum(padded[:-4], padded[4:])
    return 1.06 * float(np.minimum(counts, 1.5 * around).max()) or 1.0


def _quantile(layer: LayerSketch, share: float) -> float:
    """Return the magnitude below which a share of the layer's weights lies."""
    m = layer.magnitudes
    i = int(np.searchsorted(m.before + m.count, share * layer.n))
    return float(m.high[min(i, len(m.high) - 1)])


def _cell_edges(values: Floats) -> Floats:
    """Return the boundaries half-way between neighbouring values, the outer cells as wide to either side."""
    middle = (values[1:] + values[:-1]) / 2
    return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
