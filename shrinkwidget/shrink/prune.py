"""Which weights survive: magnitude or random, over one layer or all of them, unstructured or n of every m."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import ModelError
from ..measure.bytes import zeros_dropped
from ..measure.layers import Entry, Weights
from ..measure.parallel import Watch, chunks, each
from ..measure.pruned import block_count
from ..measure.sketch import LayerSketch, Sketch, counted
from ..measure.tables import times_beaten
from ..recipe import Plan, Recipe, n_of_m
from .numeric import count_true
from .ranking import Cut, Ranked, magnitude, prune_smallest


class Selection(Protocol):
    """Which weights of one layer survive: how many, above what magnitude (0 if that says nothing), and which."""

    @property
    def kept(self) -> int:
        """Number of survivors."""

    @property
    def threshold(self) -> float:
        """The largest magnitude pruned by a magnitude cut, 0 for other selections."""

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights of a matrix are kept, bool ``[n]`` row by row, on its device."""


def keep_masks(weights: Weights, recipe: Recipe, known: Sketch | None = None) -> list[Tensor | None]:
    """Return the exact mask of every compressible layer, true where a weight is kept; None where none is pruned.

    Of n weights k = round(s·n) are pruned (half to even), smallest magnitude first; of equal magnitudes the one that
    comes first row by row, and of equal ones in scope "global" that of the earlier layer. Weights that are zero already
    are pruned as well, beyond k where there are more of them; where k is 0 `zeros_dropped` says which. Masks have the
    shapes of their tensors and lie on their devices. `known` is the weights' sketch, if there is one already.

    Raises:
        RecipeError: if an override matches no layer.
        ModelError: for NaN or infinite weights.
    """
    return list(each(_mask, list(zip(weights.layers, selections(weights, recipe, known), strict=True))))


def _mask(layer: tuple[Entry, Selection]) -> Tensor | None:
    entry, selection = layer
    return entry.layout.restored(selection.mask(entry.rows()), entry.shape) if selection.kept < entry.numel else None


def selections(
    weights: Weights, recipe: Recipe, known: Sketch | None = None, cancelled: Watch | None = None
) -> list[Selection]:
    """Return which weights of every compressible layer survive, in order; see `keep_masks`.

    Raises:
        Cancelled: as soon as `cancelled` says so.
        ModelError: if `known` is the sketch of another model.
    """
    known = known or counted(weights)
    if [(k.name, k.shape, k.rows) for k in known.layers] != [(e.name, e.shape, e.matrix[0]) for e in weights.layers]:
        raise ModelError("the sketch given is of another model: leave it out, or make it of this one")
    layers = list(zip(weights.layers, known.layers, known.plans(recipe), strict=True))
    rank = _by_chance(recipe.seed) if recipe.criterion == "random" else _by_magnitude
    shared = iter(_cuts([layer for layer in layers if layer[2].ranked], rank, recipe.sparsity, cancelled))
    alone = each(partial(_own, rank=rank), [layer for layer in layers if not layer[2].ranked], cancelled)
    return [next(shared if plan.ranked else alone) for _, _, plan in layers]


_Layer = tuple[Entry, LayerSketch, Plan]
_Rank = Callable[[Entry, LayerSketch], Ranked]


def _own(layer: _Layer, rank: _Rank) -> Selection:
    """Return the selection of a layer that is pruned by itself."""
    entry, look, plan = layer
    if plan.keep:
        return _nothing_asked(layer)
    if plan.pattern == "unstructured":
        return _cuts([layer], rank, plan.sparsity)[0]
    n, m = n_of_m(plan.pattern)
    if rank is _by_magnitude:
        return Pattern(n, m, look.blocks[plan.pattern], some_zero=look.zeros > 0)
    return _chance(layer, Pattern(n, m, block_count(entry.matrix, plan.pattern)), rank(entry, look).load)


def _nothing_asked(layer: _Layer) -> Selection:
    """Return the selection of a layer that nothing is to be pruned of: all of it, or all but zeros that are there."""
    _, look, plan = layer
    dropped = zeros_dropped(look.n, look.zeros, look.negative_zeros, plan, look.itemsize)
    if dropped < look.zeros:
        return Signed(look.n - dropped) if dropped else Cut(look.n, look.n, 0.0, 0)
    return _not_zero(look)


def _not_zero(look: LayerSketch) -> Cut:
    """Return the cut that prunes all zeros and nothing else."""
    return Cut(look.n, look.n - look.zeros, 0.0, look.n if look.zeros else 0)


def _cuts(layers: Sequence[_Layer], rank: _Rank, sparsity: float, cancelled: Watch | None = None) -> list[Selection]:
    """Return the cuts of layers that are ranked together."""
    k = round(sparsity * sum(entry.numel for entry, _, _ in layers))
    if k == 0:
        return [_nothing_asked(layer) for layer in layers]
    ranked = list(each(lambda layer: rank(layer[0], layer[1]), layers, cancelled))
    cuts = prune_smallest(ranked, k, cancelled)
    if rank is _by_magnitude:
        return [cut if cut.threshold > 0 else _not_zero(look) for cut, (_, look, _) in zip(cuts, layers, strict=True)]
    return [_chance(layer, cut, r.load) for layer, cut, r in zip(layers, cuts, ranked, strict=True)]


def _chance(layer: _Layer, by: Selection, lottery: Callable[[], Tensor]) -> Selection:
    """Return a random selection without the zeros it may have drawn, which are counted."""
    entry, look, _ = layer
    if not look.zeros:
        return Chance(by, lottery, by.kept)
    drawn = Chance(by, lottery, 0, some_zero=True)
    return replace(drawn, kept=count_true(drawn.mask(entry.rows())))


def _by_magnitude(entry: Entry, look: LayerSketch) -> Ranked:
    histogram = np.bincount(look.buckets & 0x7FFF, weights=look.counts)
    buckets = np.flatnonzero(histogram)
    return Ranked(entry.name, entry.numel, entry.rows, buckets, histogram[buckets].astype(np.int64), look.lossless)


def _by_chance(seed: int) -> _Rank:
    """Return a ranking by random numbers instead of magnitudes, the same on every device and in every process."""

    def rank(entry: Entry, look: LayerSketch) -> Ranked:
        own_seed = seed << 10 ^ zlib.crc32(look.name.encode())
        load = partial(_lottery, entry.numel, own_seed % 2**63)
        histogram = np.zeros(1 << 15, np.int64)
        for piece in chunks(load()):
            histogram += np.bincount((piece.view(torch.int32) >> 16).numpy(), minlength=1 << 15)
        buckets = np.flatnonzero(histogram)
        return Ranked(entry.name, entry.numel, load, buckets, histogram[buckets], lossless=False)

    return rank


def _lottery(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, slots=True)
class Chance:
    """A random selection: what another would select if random numbers were the weights."""

    by: Selection
    lottery: Callable[[], Tensor]
    kept: int
    some_zero: bool = False
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row: those drawn, but for zeros."""
        drawn = self.by.mask(self.lottery().view(rows.shape)).to(rows.device)
        return drawn & (rows.reshape(-1) != 0) if self.some_zero else drawn


@dataclass(frozen=True, slots=True)
class Signed:
    """All weights but those that are +0.0: what is left of a layer of plain floats that keeps the sign of a zero."""

    kept: int
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row."""
        flat = rows.reshape(-1)
        return (flat != 0) | flat.signbit()


@dataclass(frozen=True, slots=True)
class Pattern:
    """The n largest of every m neighbours along a row, but for zeros among them."""

    n: int
    m: int
    kept: int
    some_zero: bool = False
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row; of equal magnitudes the later ones."""
        at_once = max(1, (1 << 20) // rows.shape[1])
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        return torch.cat([self._mask_rows(part).reshape(-1) for part in parts])

    def _mask_rows(self, rows: Tensor) -> Tensor:
        width = rows.shape[1]
        padded = pad(magnitude(rows), (0, -width % self.m), value=-1.0)
        beaten = times_beaten(list(padded.view(-1, self.m).t().contiguous()))
        kept = (beaten < self.n).t().reshape(padded.shape)[:, :width]
        return kept & (rows != 0) if self.some_zero else kept
