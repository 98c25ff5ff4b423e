"""Exact figures of a recipe: which weights of each layer survive, and the error of the values they are rounded to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..analysis.estimate import Estimate, assembled, layer_estimate
from ..analysis.model_tensors import ModelTensors, TensorEntry, where_float64_is
from ..analysis.parallel import Watch, chunks
from ..analysis.sketch import Sketch
from ..recipe import Plan, Recipe
from .fast_cpu_ops import count_true, energy
from .pruning_masks import Selection, selections
from .quantization_levels import Grid, LayerWeights, layer_of
from .smallest_k_selection import changed, working


@dataclass(frozen=True, slots=True, eq=False)
class SelectedLayer:
    """One layer with its plan, and which of its weights survive."""

    entry: TensorEntry
    plan: Plan
    selection: Selection

    def layer(self) -> LayerWeights:
        """Return the weights with their survivors marked, ready for rounding.

        Raises:
            ModelError: if not as many weights survive as the sketch says.
        """
        keep = self.selection.mask(self.entry.rows()) if self.selection.kept < self.entry.numel else None
        if keep is not None and count_true(keep) != self.selection.kept:
            raise changed(self.entry.name)
        return layer_of(self.entry, keep, self.plan)


def select_layers(
    weights: ModelTensors, recipe: Recipe, known: Sketch, cancelled: Watch | None = None, pruned: bool = False
) -> list[SelectedLayer]:
    """Return every compressible layer with its plan and survivors; see `selections`."""
    chosen = selections(weights, recipe, known, cancelled, pruned)
    return [SelectedLayer(*item) for item in zip(weights.layers, known.plans(recipe), chosen, strict=True)]


def assemble(
    known: Sketch, recipe: Recipe, chosen: Sequence[SelectedLayer], sums: Iterable[tuple[float, float]]
) -> Estimate:
    """Return the exact figures of a model from each layer's plan, survivors, and (signal, noise)."""
    layers = []
    for look, item, (signal, noise) in zip(known.layers, chosen, sums, strict=True):
        if not math.isfinite(signal):  # those of a sketch are: they have changed since
            raise changed(item.entry.name)
        layers.append(layer_estimate(look, item.plan, item.selection.kept, item.selection.threshold, signal, noise))
    return assembled(known, recipe, [item.plan for item in chosen], layers, exact=True)


def on_grid(layer: LayerWeights, grid: Grid) -> Tensor:
    """Return a layer's effective weights, rounded to its grid: a new tensor of its shape and dtype."""
    out = torch.empty_like(layer.flat)
    for piece in layer.pieces():
        out[piece.weights] = grid.effective(piece, layer)
    return layer.layout.restored(out, layer.shape)


def energy_of(tensor: Tensor) -> float:
    """Return Σ w², in float64."""
    return sum(energy(working(piece)) for piece in chunks(_local(tensor)))


def energy_and_error(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return (Σ w², Σ (w − w')²) of a tensor before and after, in float64."""
    pieces = zip(chunks(_local(before)), chunks(_local(after)), strict=True)
    sums = [(energy(working(a)), energy(working(b) - working(a))) for a, b in pieces]
    return sum(signal for signal, _ in sums), sum(noise for _, noise in sums)


def _local(tensor: Tensor) -> Tensor:
    return where_float64_is(tensor).reshape(-1)
