"""The estimate against the exact figures, on trained weights: what is promised, and what is only close."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, open_model
from shrinkwidget.analysis.sketch import Sketch, sketch
from shrinkwidget.errors import RecipeError
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

from .exact_figures_helpers import exact

SPARSITIES = (0.0, 0.3, 0.5, 0.8, 0.9, 0.95)


@pytest.fixture(scope="module")
def real(resnet20: Path) -> tuple[ModelTensors, Sketch]:
    weights = open_model(resnet20)
    return weights, sketch(weights)


def both(real: tuple[ModelTensors, Sketch], **fields: Any) -> tuple[Estimate, Estimate]:
    recipe = Recipe(**fields)
    return estimate(real[1], recipe), exact(real[0], recipe, real[1])


def worst_layer(a: Estimate, b: Estimate) -> float:
    pairs = [(x.sqnr, y.sqnr) for x, y in zip(a.layers, b.layers, strict=True)]
    return max(0.0 if x == y else abs(x - y) for x, y in pairs)


@pytest.mark.parametrize("granularity", ["tensor", "channel", 32])
@pytest.mark.parametrize("sparsity", SPARSITIES)
@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
def test_sqnr_of_symmetric_grids_is_within_a_third_of_a_decibel(
    real: tuple[ModelTensors, Sketch], sparsity: float, bits: int, granularity: Any
) -> None:
    fields = dict(symmetric=True, clipping="absmax")
    guess, truth = both(real, sparsity=sparsity, bits=bits, granularity=granularity, **fields)
    assert worst_layer(guess, truth) < 0.3
    assert abs(guess.sqnr - truth.sqnr) < 0.1


@pytest.mark.parametrize(
    "fields, layer, model",
    [
        ({"bits": 1, "granularity": "tensor"}, 0.1, 0.01),
        ({"bits": 1}, 0.9, 0.15),
        ({"bits": 4, "clipping": "absmax"}, 0.4, 0.1),
        ({"bits": 4, "clipping": "absmax", "granularity": "tensor"}, 0.1, 0.05),
        ({"bits": 2, "clipping": "absmax", "granularity": 32}, 0.5, 0.15),
        ({"bits": 8, "granularity": "tensor", "clipping": 99.0}, 0.6, 0.2),
        ({"bits": 3, "clipping": "mse"}, 0.6, 0.15),
        ({"bits": 3, "clipping": "mse", "symmetric": True}, 0.6, 0.35),
        ({"bits": 2, "quantizer": "kmeans"}, 0.3, 0.1),
        ({"bits": 4, "quantizer": "kmeans"}, 0.5, 0.1),
        ({"bits": 6, "quantizer": "kmeans"}, 0.5, 0.1),
        ({"bits": 8, "quantizer": "kmeans"}, 0.6, 0.2),
        ({"bits": 16}, 0.5, 0.1),
    ],
)
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_other_grids_are_close(
    real: tuple[ModelTensors, Sketch], fields: dict[str, Any], layer: float, model: float, sparsity: float
) -> None:
    guess, truth = both(real, sparsity=sparsity, **fields)
    assert worst_layer(guess, truth) < layer
    assert abs(guess.sqnr - truth.sqnr) < model


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8"])
def test_blocks_are_counted_exactly(real: tuple[ModelTensors, Sketch], pattern: str) -> None:
    guess, truth = both(real, structure=pattern, bits=4)
    assert [x.kept for x in guess.layers] == [x.kept for x in truth.layers]
    assert guess.nbytes == truth.nbytes
    assert worst_layer(guess, truth) < 0.3


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_counts_of_each_layer_are_exact_and_so_are_the_bytes(
    real: tuple[ModelTensors, Sketch], sparsity: float
) -> None:
    guess, truth = both(real, sparsity=sparsity, bits=3, scope="layer")
    assert [x.kept for x in guess.layers] == [x.kept for x in truth.layers]
    assert guess.nbytes == truth.nbytes
    assert guess.parts() == truth.parts()


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_counts_under_one_ranking_are_within_one_percent(real: tuple[ModelTensors, Sketch], sparsity: float) -> None:
    guess, truth = both(real, sparsity=sparsity)
    assert all(abs(x.kept - y.kept) <= 0.01 * x.n for x, y in zip(guess.layers, truth.layers, strict=True))
    assert guess.nbytes == pytest.approx(truth.nbytes, rel=1e-3)
    assert sum(x.kept for x in truth.layers) == 268_336 - round(sparsity * 268_336)


def test_keeping_a_layer_costs_its_own_bytes_and_no_error(real: tuple[ModelTensors, Sketch]) -> None:
    guess, truth = both(real, sparsity=0.9, bits=2, layers={"conv1": Keep})
    for figures in (guess, truth):
        assert figures.layer("conv1").as_is == figures.layer("conv1").nbytes == 432 * 4
        assert figures.layer("conv1").sqnr == math.inf
    assert guess.nbytes == pytest.approx(truth.nbytes, rel=1e-3)


def test_nothing_done_is_nothing_lost(real: tuple[ModelTensors, Sketch]) -> None:
    guess, truth = both(real)
    assert guess.sqnr == truth.sqnr == math.inf
    assert guess.nbytes == truth.nbytes
    assert guess.ratio == pytest.approx(1, abs=0.01)


def test_all_zero_layers_and_channels_are_legal() -> None:
    half = torch.randn(8, 8)
    half[:4] = 0
    weights = open_model({"none": torch.zeros(8, 8), "half": half})
    choices: tuple[dict[str, Any], ...] = (
        {},
        {"symmetric": True},
        {"clipping": "absmax"},
        {"quantizer": "kmeans"},
        {"clipping": "mse"},
        {"clipping": 99.0},
    )
    for fields in choices:
        for bits in (1, 4, 8, 16):
            recipe = Recipe(sparsity=0.3, bits=bits, **fields)
            for figures in (estimate(sketch(weights), recipe), exact(weights, recipe)):
                assert all(math.isfinite(x.noise) and x.noise >= 0 for x in figures.layers)


def test_an_override_that_matches_no_layer_is_refused(real: tuple[ModelTensors, Sketch]) -> None:
    with pytest.raises(RecipeError, match="did you mean 'conv1'"):
        estimate(real[1], Recipe(layers={"conv": Keep}))


@pytest.mark.parametrize("range_", ["auto", "absmax", "mse", 99.0])
def test_weights_too_small_to_square_in_float32_have_an_estimate(range_: Any) -> None:
    weights = open_model({"w": torch.randn(8, 40, generator=torch.Generator().manual_seed(1)) * 1e-30})
    looked = Sketch.decode(sketch(weights).encode())
    guess = estimate(looked, Recipe(sparsity=0.5, bits=4, clipping=range_))
    assert guess.nbytes == exact(weights, guess.recipe, looked).nbytes
    assert math.isfinite(guess.sqnr)


def test_the_error_in_decibels_is_ten_times_the_logarithm_of_energies() -> None:
    model = sw.demo.model()
    small = sw.compress(model, sw.Recipe(sparsity=0.8, bits=4))
    assert small.model is not None
    assert small.estimate is not None
    pairs = [(a, b) for a, b in zip(model.parameters(), small.model.parameters(), strict=True) if a.ndim >= 2]
    signal = sum(float(a.detach().double().square().sum()) for a, _ in pairs)
    noise = sum(float((a - b).detach().double().square().sum()) for a, b in pairs)
    assert small.estimate.sqnr == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)
    first = small.estimate.layers[0]
    assert first.sqnr == pytest.approx(10 * math.log10(first.signal / first.noise))


def test_layers_that_are_estimated_together_are_to_the_bit_what_each_is_alone() -> None:
    look = sketch(sw.demo.model())
    recipes = [
        sw.Recipe(scope="layer", sparsity=sparsity, bits=bits, clipping=clipping)
        for sparsity in (0.0, 0.7)
        for bits in (2, 4, 8)
        for clipping in ("auto", "mse", 99.0)
    ]
    recipes += [sw.Recipe(structure="2:4", bits=4), sw.Recipe(scope="layer", sparsity=0.7, bits=16)]
    for recipe in recipes:
        own = recipe.with_(layers={"stem": sw.Keep, "stage2.*": {"bits": 3}, "head": {"granularity": "tensor"}})
        for asked in (recipe, own):
            together = sw.estimate(look, asked)
            for layer, plan, found in zip(look.layers, look.plans(asked), together.layers, strict=True):
                fields = {"bits": plan.bits, "granularity": plan.granularity}
                alone = recipe.with_(layers={layer.label: sw.Keep if plan.keep else fields})
                assert sw.estimate(replace(look, layers=(layer,)), alone).layers == (found,)
