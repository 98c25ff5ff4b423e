"""The exact figures of a recipe, counted on the weights without writing a file, and the effective weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ..measure.estimate import Estimate, assembled, layer_estimate
from ..measure.layers import Entry, Weights
from ..measure.sketch import Sketch, sketch
from ..recipe import Plan, Recipe
from .grid import Layer, layer_of
from .prune import Selection, selections
from .quantize import fit
from .ranking import Watch, changed, check, chunks, working

_Item = TypeVar("_Item")


def exact(weights: Weights, recipe: Recipe, known: Sketch | None = None, cancelled: Watch | None = None) -> Estimate:
    """Return the figures of the file that `compress` would lead to: counts, thresholds, bytes, signal and noise.

    Every weight is pruned and rounded, a cache-sized piece at a time, and nothing is kept. `known` is the weights'
    sketch, if there is one already; `cancelled` is polled between layers.

    Raises:
        Cancelled: as soon as `cancelled` says so.
        RecipeError: if an override matches no layer.
        ModelError: for NaN or infinite weights, and for weights that changed since they were sketched.
    """
    known = known or sketch(weights)
    plans = recipe.resolve(e.name for e in weights.layers)
    with torch.inference_mode():
        chosen = selections(weights, recipe, known, cancelled)
        sums = [_signal_and_noise(*item) for item in polled(_work(weights, plans, chosen), cancelled)]
    return assemble(known, recipe, plans, chosen, sums)


def assemble(
    known: Sketch,
    recipe: Recipe,
    plans: Sequence[Plan],
    chosen: Sequence[Selection],
    sums: Iterable[tuple[float, float]],
) -> Estimate:
    """Return the exact figures of a model from each layer's plan, survivors, and (signal, noise)."""
    layers = [
        layer_estimate(look, plan, selection.kept, selection.threshold, signal, noise)
        for look, plan, selection, (signal, noise) in zip(known.layers, plans, chosen, sums, strict=True)
    ]
    return assembled(known, recipe, plans, layers, exact=True)


def effective(
    weights: Weights, recipe: Recipe, known: Sketch | None = None, cancelled: Watch | None = None
) -> Iterator[tuple[Entry, Tensor]]:
    """Yield every compressible layer with its effective weights: new tensors, of its shape, dtype and device.

    They are bit for bit what a saved file loads. A layer under Keep is yielded as it is, not copied. Raises as
    `exact` does.
    """
    plans = recipe.resolve(e.name for e in weights.layers)
    chosen = selections(weights, recipe, known, cancelled)
    for entry, plan, selection in polled(_work(weights, plans, chosen), cancelled):
        before = entry.load()
        yield entry, before if plan.keep else _effective(chosen_layer(entry, plan, selection)).to(before.device)


def _work(weights: Weights, plans: Sequence[Plan], chosen: Sequence[Selection]) -> list[tuple[Entry, Plan, Selection]]:
    return list(zip(weights.layers, plans, chosen, strict=True))


def polled(items: Iterable[_Item], cancelled: Watch | None) -> Iterator[_Item]:
    """Yield the items, looking before each whether to go on."""
    for item in items:
        check(cancelled)
        yield item


def chosen_layer(entry: Entry, plan: Plan, selection: Selection) -> Layer:
    """Return a tensor with its survivors marked, ready for rounding.

    Raises:
        ModelError: if not as many weights survive as the sketch says.
    """
    keep = selection.mask(entry.load()) if selection.kept < entry.numel else None
    if keep is not None and int(keep.count_nonzero()) != selection.kept:
        raise changed(entry.name)
    return layer_of(entry, keep, plan)


def _effective(layer: Layer) -> Tensor:
    grid = fit(layer)
    out = torch.empty_like(layer.flat)
    for piece in layer.pieces():
        out[piece.weights] = grid.effective(piece, layer)
    return out.view(layer.shape)


def _signal_and_noise(entry: Entry, plan: Plan, selection: Selection) -> tuple[float, float]:
    """Return (Σ w², Σ (w − effective w)²) of one layer."""
    if plan.keep:
        return energy_of(entry.load()), 0.0
    layer = chosen_layer(entry, plan, selection)
    grid = fit(layer)
    signal = noise = 0.0
    for piece in layer.pieces():
        original = working(layer.flat[piece.weights])
        signal += _energy(original)
        noise += _energy(working(grid.effective(piece, layer)) - original)
    return signal, noise


def energy_of(tensor: Tensor) -> float:
    """Return Σ w², in float64."""
    return sum(_energy(working(piece)) for piece in chunks(_local(tensor)))


def energy_and_error(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Return (Σ w², Σ (w − w')²) of a tensor before and after, in float64."""
    pieces = zip(chunks(_local(before)), chunks(_local(after)), strict=True)
    sums = [(_energy(working(a)), _energy(working(b) - working(a))) for a, b in pieces]
    return sum(signal for signal, _ in sums), sum(noise for _, noise in sums)


def _local(tensor: Tensor) -> Tensor:
    """Return a tensor flat where float64 exists: everywhere but on Metal."""
    return tensor.reshape(-1).cpu() if tensor.device.type == "mps" else tensor.reshape(-1)


def _energy(values: Tensor) -> float:
    """Return Σ x² of flat values, summed in float64."""
    wide = values.double()
    return float(torch.dot(wide, wide))
