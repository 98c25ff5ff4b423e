"""What figures of a model show: its sketch, and what a recipe makes of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.estimate_from_sketch import estimate as estimate_of
from ..analysis.open_model_tensors_and_channel_axes import Source
from ..analysis.sketch import Sketch
from ..analysis.sketch import sketch as sketch_of
from ..errors import FigureError, nearest, quoted
from ..evaluation.evaluate_and_metrics import model_checksum
from ..recipe_and_method_registry import Recipe, RecipeFields, layer_matches, recipe_from
from .numbers_and_recipes_as_text import (
    bytes_text,
    compared_size_text,
    decibels_text,
    estimated_text,
    recipe_sentence,
    share_text,
)
from .page_size_and_style import PageOptions
from .ridge_plot import MOST_ROWS

ModelLike: TypeAlias = Source | Sketch


class ModelFigureOptions(PageOptions, RecipeFields, total=False):
    """What a figure of a model takes besides: the fields of a recipe, and the options of a page."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model as its sketch knows it, under a recipe.

    `order`: the layers' indices as they are drawn. `checksum`: of the dense model's weights, "" where only its sketch
    is known.
    """

    sketch: Sketch
    estimate: Estimate
    order: tuple[int, ...]
    checksum: str = ""

    def chosen(self, show: Sequence[str] | int | None) -> list[int]:
        """Return the indices of the layers to draw, in order: those named, or the largest, 24 of them by default.

        Raises:
            FigureError: for a name or a wildcard that is that of no layer.
        """
        layers = self.sketch.layers
        if show is None or isinstance(show, int):
            most = MOST_ROWS if show is None else show
            if most < 1:
                raise FigureError(f"show={show!r} must be how many of the largest layers to draw, from 1")
            largest = set(sorted(self.order, key=lambda i: -layers[i].n)[:most])
            return [i for i in self.order if i in largest]
        if isinstance(show, str):
            show = [show]
        for pattern in show:
            if not any(_named(pattern, layer.name) for layer in layers):
                hint = nearest(str(pattern), [layer.label for layer in layers])
                raise FigureError(
                    f"show={quoted(pattern)} is the name of no layer{hint or '; sw.summary(model) lists them'}"
                )
        return [i for i in self.order if any(_named(pattern, layers[i].name) for pattern in show)]

    def model_facts(self) -> dict[str, Any]:
        """Return what a file says of the dense model."""
        return {
            "model": self.sketch.title,
            "parameters": self.sketch.parameters,
            "checksum": self.checksum or None,
            "sketch_sha256": hashlib.sha256(self.sketch.encode()).hexdigest(),
        }

    def facts(self) -> dict[str, Any]:
        """Return what a file says of the model and of what the recipe makes of it."""
        return {
            **self.model_facts(),
            "recipe": self.estimate.recipe.to_json(),
            "nbytes": self.estimate.nbytes,
            "dense_nbytes": self.estimate.original_nbytes,
            "ratio": self.estimate.ratio,
            "sparsity": self.estimate.sparsity,
            "sqnr": self.estimate.sqnr,
            "exact": self.estimate.exact,
        }

    def sentence(self) -> str:
        """Return what the recipe makes of the model: "80 % sparse: 61.2 kB of 699 kB (11.4× smaller), …"."""
        e = self.estimate
        sizes = f"{estimated_text(e.exact, bytes_text(e.nbytes))} of {bytes_text(e.original_nbytes)}"
        error = f"SQNR {estimated_text(e.exact, decibels_text(e.sqnr))}"
        pruned = f"{estimated_text(e.exact, share_text(e.sparsity))} of the weights pruned"
        return f"{recipe_sentence(e.recipe)}: {sizes} ({compared_size_text(e.ratio)}), {pruned}, {error}"


def _named(pattern: object, name: str) -> bool:
    if not isinstance(pattern, str):
        return False
    return layer_matches(pattern, name) or fnmatchcase(name, pattern)


def subject_of(
    model: object,
    recipe: Recipe | float | None,
    given: Mapping[str, Any],
    estimate: Estimate | None = None,
    order: Sequence[int] = (),
) -> Subject:
    """Return a model under a recipe: the estimate given, or one made of the recipe and its fields.

    Raises:
        FigureError: if the estimate is of another model, or contradicts the recipe.
    """
    # an explorer is a layer above
    explorer: Any = (
        model if hasattr(model, "sketch") and isinstance(getattr(model, "estimate", None), Estimate) else None
    )
    fields = {name: value for name, value in given.items() if name in RecipeFields.__annotations__}
    if explorer is not None:
        asked = recipe is not None or fields
        look, estimate = explorer.sketch, estimate if asked or estimate is not None else explorer.estimate
        checksum = explorer.baseline.checksum if explorer.baseline is not None else ""
    else:
        look = model if isinstance(model, Sketch) else sketch_of(model)  # type: ignore[arg-type]  # refused there
        checksum = model_checksum(model) if isinstance(model, nn.Module) else ""
    if estimate is None:
        estimate = estimate_of(look, recipe_from(recipe, fields, Recipe()))
    elif not isinstance(estimate, Estimate):
        raise FigureError(
            f"estimate={quoted(estimate)} must be an Estimate, such as sw.compress(model, recipe).estimate"
        )
    elif (recipe is not None or fields) and recipe_from(recipe, fields) != estimate.recipe:
        raise FigureError("the estimate is of another recipe than the one given: give one of the two")
    if [layer.name for layer in estimate.layers] != [layer.name for layer in look.layers]:
        raise FigureError("the estimate is of another model: its layers have other names")
    places = range(len(look.layers))
    drawn = tuple(order) if sorted(order) == list(places) else tuple(places)
    return Subject(look, estimate, drawn, checksum)


def page_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the page among those given."""
    return {name: value for name, value in given.items() if name in PageOptions.__annotations__}
