"""Exact figures are those of the file, and the estimate from the sketch is as near to them as is promised."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, open_model
from shrinkwidget.analysis.sketch import Sketch, sketch
from shrinkwidget.compression.encode_layers_and_packed_model import decode, encode_layers
from shrinkwidget.errors import Cancelled, ModelError
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

from .exact_figures_helpers import effective, exact
from .packed_file_helpers import recipes, same_bits, state_dicts

RECIPES: list[dict[str, Any]] = [
    {"sparsity": 0.9, "bits": 4},
    {"sparsity": 0.5, "bits": 3, "granularity": 32, "symmetric": False},
    {"sparsity": 0.8, "bits": 1},
    {"sparsity": 0.8, "bits": 1, "granularity": "tensor"},
    {"sparsity": 0.6, "bits": 5, "quantizer": "kmeans"},
    {"bits": 4, "clipping": "mse"},
    {"bits": 4, "clipping": 99.5, "symmetric": False},
    {"bits": 16, "uncompressed_bits": 16},
    {"sparsity": 0.7},
    {"structure": "2:4", "bits": 6},
    {"sparsity": 0.7, "bits": 8, "importance": "random", "scope": "layer"},
    {"sparsity": 0.9, "bits": 4, "layers": {"conv1": Keep, "layer3.*": {"bits": 2, "sparsity": 0.95}}},
]


@pytest.fixture(scope="module")
def trained(resnet20: Path) -> tuple[ModelTensors, Sketch]:
    weights = open_model(resnet20)
    return weights, sketch(weights)


@pytest.mark.parametrize("options", RECIPES, ids=str)
def test_exact_figures_are_those_of_the_coded_layers(
    trained: tuple[ModelTensors, Sketch], options: dict[str, Any]
) -> None:
    weights, known = trained
    recipe = Recipe(**options)
    found = exact(weights, recipe, known)
    encoded, counted = encode_layers(weights, recipe, known)
    assert found.exact
    assert found.nbytes == counted.nbytes
    for entry, layer in zip(weights.layers, found.layers, strict=True):
        w = entry.load().double()
        after = decode(encoded[entry.name]).double() if entry.name in encoded else w
        assert layer.kept == (encoded[entry.name].kept if entry.name in encoded else layer.n)
        assert layer.signal == pytest.approx(float((w * w).sum()), rel=1e-9)
        assert layer.noise == pytest.approx(float((w - after).square().sum()), rel=1e-6, abs=1e-12)
    for mine, theirs in zip(found.layers, counted.layers, strict=True):
        assert (mine.kept, mine.threshold, mine.nbytes) == (theirs.kept, theirs.threshold, theirs.nbytes)
        assert mine.noise == pytest.approx(theirs.noise, rel=1e-9)


def test_thresholds_are_the_largest_magnitudes_pruned(trained: tuple[ModelTensors, Sketch]) -> None:
    weights, known = trained
    found = exact(weights, Recipe(sparsity=0.9), known)
    everything = torch.cat([entry.load().flatten().abs() for entry in weights.layers])
    k = round(0.9 * everything.numel())
    assert {layer.threshold for layer in found.layers} == {float(everything.kthvalue(k).values)}


@settings(max_examples=80)
@given(state_dicts(), recipes())
def test_effective_weights_are_bit_for_bit_those_of_the_codes(state: dict[str, Tensor], recipe: Recipe) -> None:
    if "layers" in recipe.to_dict() and "l0" not in state:
        return
    weights = open_model(state)
    encoded, _ = encode_layers(weights, recipe)
    for entry, tensor in effective(weights, recipe):
        assert same_bits(tensor, decode(encoded[entry.name]) if entry.name in encoded else entry.load())


@settings(max_examples=60)
@given(
    st.integers(0, 2**31),
    st.integers(3, 8),
    st.sampled_from(["tensor", "channel", 8]),
    st.booleans(),
    st.floats(0, 0.95),
)
def test_effective_weights_are_a_fixed_point(
    seed: int, bits: int, granularity: Any, symmetric: bool, sparsity: float
) -> None:
    w = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed))
    recipe = Recipe(bits=bits, granularity=granularity, symmetric=symmetric)
    ((_, once),) = effective(open_model({"w": w}), recipe.with_(sparsity=sparsity))
    ((_, twice),) = effective(open_model({"w": once}), recipe)
    assert same_bits(once, twice)


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("granularity", ["tensor", "channel", 32])
def test_the_estimate_is_as_near_as_promised(
    trained: tuple[ModelTensors, Sketch], sparsity: float, granularity: Any
) -> None:
    """Counts within 1 %; errors of layers within 0.7 dB, of the model within 0.25; at 2 bits within 1 and 0.5."""
    weights, known = trained
    for bits in range(2, 9):
        recipe = Recipe(sparsity=sparsity, bits=bits, granularity=granularity)
        quick, true = estimate(known, recipe), exact(weights, recipe, known)
        assert abs(quick.sqnr - true.sqnr) <= (0.25 if bits > 2 else 0.5)
        for a, b in zip(quick.layers, true.layers, strict=True):
            assert abs(a.kept - b.kept) <= 0.01 * b.n
            assert abs(a.sqnr - b.sqnr) <= (0.7 if bits > 2 else 1), (a.name, bits)


@pytest.mark.parametrize("options", [*RECIPES, {"structure": "1:4"}, {"structure": "4:8", "bits": 1}], ids=str)
def test_the_estimate_counts_layers_pruned_alone_exactly(
    trained: tuple[ModelTensors, Sketch], options: dict[str, Any]
) -> None:
    weights, known = trained
    recipe = Recipe(**{**options, "scope": "layer"})
    quick, true = estimate(known, recipe), exact(weights, recipe, known)
    assert [a.kept for a in quick.layers] == [b.kept for b in true.layers]
    assert quick.nbytes == true.nbytes


@pytest.mark.parametrize("options", RECIPES, ids=str)
def test_other_devices_follow_the_same_definitions(
    trained: tuple[ModelTensors, Sketch], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operations for devices numpy cannot reach, run here on the CPU, give the same bits."""
    weights, known = trained
    expected = [tensor for _, tensor in effective(weights, Recipe(**options), known)]
    monkeypatch.setattr("shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel._on_cpu", lambda _: False)
    for (entry, tensor), before in zip(effective(weights, Recipe(**options), known), expected, strict=True):
        assert same_bits(tensor, before), entry.name


def test_nothing_is_lost_where_nothing_is_asked_for(trained: tuple[ModelTensors, Sketch]) -> None:
    found = exact(trained[0], Recipe(), trained[1])
    assert found.sqnr == math.inf
    assert found.sparsity == 0


def test_it_stops_between_layers(trained: tuple[ModelTensors, Sketch]) -> None:
    polls = iter([False] * 30 + [True] * 1000)
    with pytest.raises(Cancelled):
        exact(trained[0], Recipe(sparsity=0.5, bits=4), trained[1], lambda: next(polls))


def test_weights_trained_since_the_sketch_are_noticed() -> None:
    w = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    known = sketch({"w": w})
    with torch.no_grad():
        w[:32] *= 3
    with pytest.raises(ModelError, match="changed since"):
        exact(open_model({"w": w}), Recipe(sparsity=0.5, scope="layer"), known)
