"""A codebook of k-means values for each tensor, exact and deterministic (Deep Compression, arXiv 1510.00149)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from ...analysis.chart_distribution import codebook_bars
from ...analysis.pruning_estimate import PruningOutcome
from ...analysis.quantization_estimate import Moments, Parts, codebook_noise, reach, signed
from ...analysis.sketch import LayerSketch, bucket_edges
from ...analysis.tensor_ops_threads_and_cpu_kernel import ascending, midpoints, nearest
from ...recipe_and_method_registry import Plan, Quantizer, register
from ..encode_layers_and_packed_model import Grid, LayerWeights, Piece

ITERATIONS: Final = 300
"""Most iterations of Lloyd's algorithm; few bits converge long before."""


@register
@dataclass(frozen=True, repr=False)
class KMeans(Quantizer):
    """2^bits values wherever the weights are: the means that k-means settles on, one codebook for each tensor.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), bits=2, quantizer="kmeans")
        >>> len(small.state_dict()["head.weight"].unique())
        4
    """

    kind: ClassVar[str] = "kmeans"
    label: ClassVar[str] = "k-means"
    title: ClassVar[str] = "k-means values, one codebook for each tensor"
    has_scales: ClassVar[bool] = False
    has_codebook: ClassVar[bool] = True
    shares_values: ClassVar[bool] = True

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the codebook of a layer's survivors."""
        return Grid(layer.plan, codebook=codebook_of(layer.survivors(), layer.plan.bits))

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return the index of the nearest value, of the lower one halfway between two."""
        if grid.codebook is None:
            raise ValueError("k-means without a codebook")
        return nearest(piece.x, grid.codebook)

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return the values of the codebook."""
        del scales, zeros, bits
        if codebook is None:
            raise ValueError("k-means without a codebook")
        return codebook[codes.int()]

    def noise(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, energy: float) -> float:
        """Return the squared error of rounding the survivors, from a sketch alone."""
        del energy
        return codebook_noise(layer, survival, plan.bits)

    def bars(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, kept: int) -> tuple[Any, Any]:
        """Return the values survivors are rounded to, and how many to each."""
        del kept
        return codebook_bars(layer, plan, survival)

    def levels(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> Any:
        """Return the values, ascending."""
        return codebook_bars(layer, plan, survival)[0]


def codebook_of(weights: Tensor, bits: int) -> Tensor:
    """Return the 2^bits values, ascending float32, that Lloyd's algorithm settles on for these weights.

    The weights are sorted, so that a cell is a range of them and its mean a difference of two running sums. It starts
    from Panter and Dite's quantiles (1951), as the estimate does; an empty cell keeps its value. Weights that have no
    more than 2^bits different values are these values (the largest stands for the rest), so that a layer that was
    coded before, or trained on a codebook, stays what it is.
    """
    if not len(weights):
        return torch.zeros(2**bits, device=weights.device)
    # In one dimension cells are intervals, so sorting once makes each Lloyd step 2^bits binary searches in place of n
    # distances. Sums in float64, since a mean is the difference of two large ones.
    ordered = ascending(weights.float())
    steps = ordered[1:] != ordered[:-1]
    if int(steps.sum()) < 2**bits:  # few different values: they are the codebook
        values = torch.cat([ordered[:1], ordered[1:][steps]])
        return torch.cat([values, values[-1:].expand(2**bits - len(values))])
    sums = torch.cumsum(ordered, 0, dtype=torch.float64)
    sums = torch.cat([sums.new_zeros(1), sums])
    # Companding: the best density of levels for a density p of weights is ∝ p^(1/3). It starts so near to the end that
    # few steps are left, and is the same on every machine, unlike a random start.
    values, cells = _start(ordered, bits), None
    for _ in range(ITERATIONS):
        # Assign: a weight goes to its nearest value, so cells end halfway between two, and a search finds where.
        bounds = torch.searchsorted(ordered, midpoints(values), right=True)
        if cells is not None and torch.equal(bounds, cells):
            break
        # Update: the mean of a cell is the difference of the running sums at its ends. An empty one has none.
        ends = torch.cat([bounds.new_zeros(1), bounds, bounds.new_full((1,), len(ordered))])
        count, total = ends.diff(), sums[ends].diff()
        cells, values = bounds, torch.where(count > 0, (total / count.clamp(min=1)).float(), values)
    return values


def _start(ordered: Tensor, bits: int) -> Tensor:
    """Return where the iteration starts: quantiles of the buckets' mass count^(1/3)·reach^(2/3)."""
    patterns = (ordered.view(torch.int32) >> 16) & 0xFFFF
    ids, counts = (x.cpu().numpy() for x in torch.unique_consecutive(patterns, return_counts=True))
    low, high = signed(*bucket_edges(ids & 0x7FFF), ids >= 0x8000)
    moments = Moments(Parts(low, high, counts.astype(np.float64), reach(low, high)))
    return torch.from_numpy(moments.companded(2**bits)).float().to(ordered.device)
