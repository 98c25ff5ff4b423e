"""Distributions for pictures: the sketch's guess lies where the weights really end up, and both languages agree."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from shrinkwidget.analysis.chart_distribution import effective, levels, original, survivors
from shrinkwidget.analysis.estimate_class_and_packed_file_header import LayerEstimate
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, open_model
from shrinkwidget.analysis.pruning_estimate import PruningOutcome, survivals
from shrinkwidget.analysis.quantization_group_histograms import Floats
from shrinkwidget.analysis.sketch import LayerSketch, Sketch, sketch
from shrinkwidget.compressed_model import compress
from shrinkwidget.compression.importance_scores_and_pruning_masks import keep_masks
from shrinkwidget.recipe_and_method_registry import Plan, Recipe
from tests.vectors.make import without_channels

from .exact_figures_helpers import effective as really

VECTORS = Path(__file__).parents[1] / "vectors"
BINS = 41


@pytest.fixture(scope="module")
def real(resnet20: Path) -> tuple[ModelTensors, Sketch]:
    """Return the trained ResNet-20 and its sketch."""
    weights = open_model(resnet20)
    return weights, sketch(weights)


def drawn(looked: Sketch, recipe: Recipe) -> list[tuple[LayerSketch, Plan, PruningOutcome, LayerEstimate, Floats]]:
    """Return what is needed to draw each layer, with an axis on which all of it lies."""
    plans = recipe.resolve(layer.name for layer in looked.layers)
    now = without_channels(looked, recipe).layers
    fates = survivals(now, plans, recipe)
    axes = [np.linspace(-1.0137, 1.0137, BINS + 1) * (layer.absmax or 1.0) for layer in looked.layers]
    known = [fate for fate in fates if fate is not None]
    return list(zip(now, plans, known, estimate(looked, recipe).layers, axes, strict=True))


def apart(found: Floats, true: Floats) -> float:
    """Return how far the weights of one histogram are from where they are in another, on average, in bins."""
    return float(np.abs(np.cumsum(found / found.sum() - true / true.sum())).sum())


@pytest.mark.parametrize(
    "recipe, bins",
    [
        (Recipe(), 0.02),
        (Recipe(sparsity=0.8), 0.1),
        (Recipe(sparsity=0.8, bits=4, granularity="tensor"), 0.1),
        (Recipe(bits=4, granularity="tensor", symmetric=True), 0.1),
        (Recipe(sparsity=0.8, bits=4), 1.0),
        (Recipe(sparsity=0.5, bits=3, granularity=32), 1.0),
        (Recipe(sparsity=0.6, bits=8), 1.0),
        (Recipe(bits=4, clipping="mse"), 1.0),
        (Recipe(bits=1), 1.0),
        (Recipe(bits=4, structure="2:4"), 1.0),
        (Recipe(bits=4, structure="2:4", granularity="tensor"), 0.3),
        (Recipe(bits=4, sparsity=0.3, importance="random"), 1.0),
        (Recipe(bits=5, sparsity=0.6, quantizer="kmeans"), 0.6),
    ],
    ids=repr,
)
def test_effective_weights_are_drawn_where_they_are(
    real: tuple[ModelTensors, Sketch], recipe: Recipe, bins: float
) -> None:
    weights, looked = real
    masks = keep_masks(weights, recipe, looked)
    for (layer, plan, fate, figures, edges), mask, (_, tensor) in zip(
        drawn(looked, recipe), masks, really(weights, recipe, looked), strict=True
    ):
        values = (tensor if mask is None else tensor[mask.view(tensor.shape)]).float().flatten().numpy()
        true = np.histogram(values, edges)[0].astype(np.float64)
        found = effective(layer, plan, fate, figures.kept, edges)
        assert apart(found, true) <= bins, layer.name
        assert found.sum() == pytest.approx(figures.kept, rel=0.01)


def test_the_original_is_the_weights_histogram(real: tuple[ModelTensors, Sketch]) -> None:
    weights, looked = real
    for (layer, *_, edges), entry in zip(drawn(looked, Recipe()), weights.layers, strict=True):
        true = np.histogram(entry.load().numpy(), edges)[0]
        assert np.abs(original(layer, edges) - true).sum() <= 0.02 * layer.n
        assert original(layer, edges).sum() == pytest.approx(layer.n)


def test_nothing_survives_below_the_threshold_and_everything_above(real: tuple[ModelTensors, Sketch]) -> None:
    for layer, _, fate, figures, _ in drawn(real[1], Recipe(sparsity=0.7)):
        t, far = figures.threshold, 2 * layer.absmax
        edges = np.array([-far, -t, t, far])
        left = survivors(layer, fate, figures.kept, edges)
        assert left[1] == pytest.approx(0, abs=1e-6)
        assert left[[0, 2]] == pytest.approx(original(layer, edges)[[0, 2]], abs=0.51)


def test_of_a_model_pruned_before_the_zeros_go_first() -> None:
    torch.manual_seed(0)
    model = nn.Linear(64, 64, bias=False)
    with torch.no_grad():
        model.weight[torch.rand(64, 64) < 0.7] = 0
    looked = sketch(model)
    for granularity in ("tensor", "channel"):
        recipe = Recipe(sparsity=0.5, bits=8, granularity=granularity)
        ((layer, plan, fate, figures, edges),) = drawn(looked, recipe)
        before, after = original(layer, edges), effective(layer, plan, fate, figures.kept, edges)
        middle = BINS // 2
        assert before[middle] - after[middle] == pytest.approx(layer.zeros, rel=0.05)
        others = np.delete(np.arange(BINS), middle)
        assert after[others].sum() == pytest.approx(before[others].sum(), rel=0.1)


def test_a_channel_of_zeros_is_drawn_at_zero_before_and_not_after() -> None:
    torch.manual_seed(0)
    model = nn.Linear(50, 4, bias=False)
    with torch.no_grad():
        model.weight[1] = 0
    looked = sketch(model)
    ((layer, plan, fate, figures, edges),) = drawn(looked, Recipe(bits=4))
    assert original(layer, edges)[BINS // 2] >= 50
    assert effective(layer, plan, fate, figures.kept, edges)[BINS // 2] < 20
    ((layer, plan, fate, figures, edges),) = drawn(looked, Recipe(bits=4, sparsity=0.6))
    assert effective(layer, plan, fate, figures.kept, edges)[BINS // 2] < 10


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("below, above", [(1.0, 0.3), (0.25, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_levels_of_an_asymmetric_grid_are_on_the_side_of_zero_where_it_has_them(
    bits: int, below: float, above: float
) -> None:
    torch.manual_seed(2)
    weight = torch.rand(24, 30)
    weight = torch.where(torch.rand_like(weight) < 0.5, -below * weight, above * weight)
    model = nn.Sequential(nn.Linear(30, 24))
    model[0].weight.data = weight
    recipe = Recipe(bits=bits, granularity="tensor", clipping="absmax")
    [(layer, plan, fate, *_)] = drawn(sketch(model), recipe)
    values = levels(layer, plan, fate)
    small = compress(model, recipe).model
    assert small is not None
    found = small.get_parameter("0.weight").detach()
    step = values[1] - values[0]
    assert values[0] == pytest.approx(found.min(), abs=0.75 * step)
    assert values[-1] == pytest.approx(found.max(), abs=0.75 * step)
    assert len(values) == pytest.approx(2**bits, abs=1)


def test_levels_are_those_of_the_grid(real: tuple[ModelTensors, Sketch]) -> None:
    _, looked = real
    layer, plan, fate, *_ = drawn(looked, Recipe(bits=3, granularity="tensor", symmetric=True))[0]
    assert levels(layer, plan, fate) == pytest.approx(np.arange(-3, 4) / 3 * layer.absmax)
    layer, plan, fate, *_ = drawn(looked, Recipe(bits=4, quantizer="kmeans"))[5]
    values = levels(layer, plan, fate)
    assert len(values) == 16
    assert (np.diff(values) > 0).all()
    for bits in (16, 32):
        layer, plan, fate, *_ = drawn(looked, Recipe(bits=bits))[0]
        assert not len(levels(layer, plan, fate))


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.json")), ids=lambda file: file.stem)
def test_the_vectors_are_what_python_draws_now(file: Path) -> None:
    vector: dict[str, Any] = json.loads(file.read_text())
    looked = Sketch.decode(base64.b64decode(vector["sketch"]))
    assert len(vector["pictures"]) > 10
    for picture in vector["pictures"]:
        recipe = Recipe.from_json(picture["recipe"])
        index = [layer.name for layer in looked.layers].index(picture["layer"])
        layer, (left, plan, fate, figures, _) = looked.layers[index], drawn(looked, recipe)[index]
        edges = np.array([picture["span"] * (2 * i / len(picture["original"]) - 1) for i in range(22)])
        found = {
            "original": original(layer, edges),
            "survivors": survivors(left, fate, figures.kept, edges),
            "effective": effective(left, plan, fate, figures.kept, edges),
        }
        for what, counts in found.items():
            assert counts == pytest.approx(np.array(picture[what]), rel=1e-9, abs=1e-9 * layer.n), what
