"""The exact figures of a recipe as the explorer counts them, and effective weights by the way training takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, TensorEntry
from shrinkwidget.analysis.sketch import Sketch, counted
from shrinkwidget.compression.encode_layers_and_packed_model import encode_layers, fit, on_grid, select_layers
from shrinkwidget.recipe_and_method_registry import Recipe


def exact(
    weights: ModelTensors, recipe: Recipe, known: Sketch | None = None, cancelled: Callable[[], bool] | None = None
) -> Estimate:
    """Return the figures of all layers encoded."""
    return encode_layers(weights, recipe, known, cancelled)[1]


def effective(
    weights: ModelTensors, recipe: Recipe, known: Sketch | None = None
) -> Iterator[tuple[TensorEntry, Tensor]]:
    """Yield every layer with its weights rounded to its grid without codes, as training does."""
    for chosen in select_layers(weights, recipe, known or counted(weights)):
        if chosen.plan.keep:
            yield chosen.entry, chosen.entry.load()
        else:
            layer = chosen.weights()
            yield chosen.entry, on_grid(layer, fit(layer)).to(chosen.entry.load().device)
