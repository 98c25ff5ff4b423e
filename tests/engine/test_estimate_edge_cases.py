"""Estimates of tiny and degenerate layers: always finite, never more noise than signal, exact where nothing is lost."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import Sketch, sketch
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import NM_PATTERNS
from shrinkwidget.methods import Uniform
from shrinkwidget.recipe_and_method_registry import BITS, Recipe

from .exact_figures_helpers import exact

KINDS = ("normal", "binary", "ternary", "constant", "zero", "one large", "positive", "tiny", "huge")


def weights_of(kind: str, rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, columns, generator=generator)
    sign = torch.where(w < 0, -1.0, 1.0)
    return {
        "normal": w,
        "binary": 0.1 * sign,
        "ternary": 0.1 * sign * (w.abs() > 0.5),
        "constant": torch.full_like(w, 0.3),
        "zero": torch.zeros_like(w),
        "one large": torch.where(w == w.max(), 1000.0, w),
        "positive": w.abs(),
        "tiny": w * 1e-30,
        "huge": (w * 1e38).clamp(-3.4e38, 3.4e38),
    }[kind]


quantizers = st.just("kmeans") | st.builds(
    Uniform, symmetric=st.booleans(), clipping=st.sampled_from(["auto", "absmax", "mse", 99.0, 60.0])
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    fields: dict[str, Any] = {
        "bits": draw(st.sampled_from(BITS)),
        "granularity": draw(st.sampled_from(["tensor", "channel", 32, 3])),
        "quantizer": draw(quantizers),
        "scope": draw(st.sampled_from(["global", "layer"])),
        "importance": draw(st.sampled_from(["magnitude", "magnitude", "random"])),
    }
    if (pattern := draw(st.sampled_from(("unstructured", *NM_PATTERNS)))) != "unstructured":
        return Recipe(structure=pattern, **fields)
    return Recipe(sparsity=draw(st.sampled_from([0.0, 0.5, 0.9, 0.9999])), **fields)


layers = st.builds(weights_of, st.sampled_from(KINDS), st.integers(1, 9), st.integers(1, 17), st.integers(0, 2**31))


@settings(max_examples=250)
@given(
    st.lists(layers, min_size=1, max_size=3), st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), recipes()
)
def test_every_layer_has_an_estimate(tensors: list[Tensor], dtype: torch.dtype, recipe: Recipe) -> None:
    weights = open_model({f"w{i}": w.to(dtype) for i, w in enumerate(tensors)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = Sketch.decode(sketch(weights).encode())
        quick, true = estimate(known, recipe), exact(weights, recipe, known)
    for a, b in zip(quick.layers, true.layers, strict=True):
        assert math.isfinite(a.noise)
        assert math.isfinite(b.noise)
        assert 0 <= a.noise <= a.signal * (1 + 1e-6), a
        assert not math.isnan(a.sqnr)
    if recipe.scope == "layer" and recipe.importance.kind == "magnitude":
        assert [a.kept for a in quick.layers] == [b.kept for b in true.layers]


@pytest.mark.parametrize("kind", ["binary", "ternary", "constant"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", 32])
def test_layers_that_are_on_a_grid_already_lose_what_is_pruned_and_no_more(kind: str, granularity: Any) -> None:
    w = weights_of(kind, 40, 64, 0)
    weights = open_model({"w": w})
    known = sketch(weights)
    for bits in (2, 3, 4, 8):
        for pattern in ("unstructured", "2:4"):
            recipe = Recipe(bits=bits, granularity=granularity, structure=pattern)
            quick, true = estimate(known, recipe), exact(weights, recipe, known)
            if pattern == "unstructured":
                assert min(quick.sqnr, true.sqnr) > 70
            else:
                assert quick.sqnr == pytest.approx(true.sqnr, abs=0.1)


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 3e-8, 1e-9, 1e-20])
def test_half_precision_of_weights_it_can_hardly_hold(scale: float) -> None:
    weights = open_model({"w": torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * scale})
    known = sketch(weights)
    quick, true = estimate(known, Recipe(bits=16)), exact(weights, Recipe(bits=16), known)
    assert quick.sqnr == pytest.approx(true.sqnr, abs=0.2)


@pytest.mark.parametrize("dtype, top", [(torch.float16, 60000.0), (torch.float32, 3e38), (torch.bfloat16, 3e38)])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_weights_next_to_the_top_of_their_dtype_stay_finite(dtype: torch.dtype, top: float, granularity: Any) -> None:
    w = torch.full((4, 4), top)
    w[:, ::2] *= -1
    w[1] /= 2
    weights = open_model({"w": w.to(dtype)})
    for bits in range(1, 9):
        for fields in ({}, {"symmetric": True}, {"clipping": "absmax"}, {"quantizer": "kmeans"}):
            recipe = Recipe(bits=bits, granularity=granularity, **fields)
            found = exact(weights, recipe)
            assert math.isfinite(found.layers[0].noise)
            assert found.sqnr > 3


def test_a_group_ten_million_times_smaller_than_the_largest_keeps_its_precision() -> None:
    from .exact_figures_helpers import effective

    w = torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    w[1] *= 1e-7
    for fields in ({"bits": 4}, {"bits": 8}, {"bits": 8, "symmetric": True}, {"bits": 1}):
        ((_, after),) = effective(open_model({"w": w}), Recipe(**fields))  # type: ignore[arg-type]
        noise = (after - w).double().square().sum(1) / w.double().square().sum(1)
        assert noise[1] < 1.5 * noise[0]


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_percentile_of_next_to_nothing_leaves_a_grid_of_next_to_nothing(bits: int, granularity: Any) -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)) * 1e-4
    weight[:, 0] = 1.0
    found = estimate(sketch({"weight": weight}), Recipe(bits=bits, clipping=51.0, granularity=granularity)).layers[0]
    assert 0.99 * found.signal < found.noise < found.signal
