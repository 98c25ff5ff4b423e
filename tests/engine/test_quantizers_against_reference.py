"""Quantized weights equal a plain reference, written here on its own with loops over groups and numpy numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from shrinkwidget.analysis.open_model_tensors_and_channel_axes import TensorEntry, open_model
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import nearest
from shrinkwidget.compression.encode_layers_and_packed_model import EncodedTensor, decode, dense_codes, quantize
from shrinkwidget.compression.quantizers.kmeans import codebook_of
from shrinkwidget.methods import KMeans, Uniform, Unstructured
from shrinkwidget.recipe_and_method_registry import Plan

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
f = np.float32


def a_plan(**changes: Any) -> Plan:
    if "quantizer" not in changes:
        own = {name: changes.pop(name) for name in ("symmetric", "clipping") if name in changes}
        changes["quantizer"] = Uniform(**{"symmetric": True, "clipping": "absmax", **own})
    usual = {"sparsity": 0.0, "bits": 4, "structure": Unstructured(), "granularity": "channel"}
    return Plan(**{"keep": False, "scope": "global", **usual, **changes})


def spans(plan: Plan) -> str | float:
    assert isinstance(plan.quantizer, Uniform)
    return plan.quantizer.clipping


def symmetric_(plan: Plan) -> bool:
    assert isinstance(plan.quantizer, Uniform)
    return plan.quantizer.symmetric


def an_entry(w: Tensor) -> TensorEntry:
    return open_model({"w.weight": w}).layers[0]


def groups(shape: tuple[int, ...], granularity: str | int) -> list[range]:
    """Return the flat indices of every group."""
    n, width = int(np.prod(shape)), int(np.prod(shape)) // shape[0]
    if granularity == "tensor":
        return [range(n)]
    size = width if granularity == "channel" else int(granularity)
    return [range(r + i, min(r + i + size, r + width)) for r in range(0, n, width) for i in range(0, width, size)]


def clip_of(kept: list[np.float32], low: np.float32, high: np.float32, plan: Plan) -> np.float32:
    reach = max(-low, high)
    if spans(plan) == "absmax" or reach == 0:
        return f(1)
    if spans(plan) == "mse":
        tried: dict[float, float] = {}
        for nearby in ([1, 0.75, 0.5, 0.25], [1 / 8, -1 / 8], [1 / 16, -1 / 16]):
            best = min(tried, key=lambda c: tried[c]) if tried else 0.0
            for clip in (min(best + d, 1.0) for d in nearby):
                tried.setdefault(clip, grid_error(kept, low * f(clip), high * f(clip), plan))
        return f(min(tried, key=lambda c: tried[c]))  # of equal ones the first
    ascending = sorted(float(abs(x)) for x in kept)
    value = ascending[max(1, int(np.ceil(len(ascending) * (float(spans(plan)) / 100)))) - 1]
    return f(value / float(reach)) if value > 0 else f(1)


def step(low: np.float32, high: np.float32, plan: Plan) -> np.float32:
    if symmetric_(plan):
        return max(-low, high) / f(2 ** (plan.bits - 1) - 1)
    return high / f(2**plan.bits - 1) - low / f(2**plan.bits - 1)


def zero_point(low: np.float32, scale: np.float32, plan: Plan) -> int:
    if symmetric_(plan):
        return int(2 ** (plan.bits - 1) - 1)
    return int(min(2**plan.bits - 1, float(np.round(-low / scale)))) if scale > 0 else 0


def code_of(x: np.float32, scale: np.float32, zero: int, plan: Plan) -> int:
    if scale == 0:
        return zero
    top = 2**plan.bits - (2 if symmetric_(plan) else 1)
    return int(min(max(float(np.round(x / scale)) + zero, 0), top))


def grid_error(kept: list[np.float32], low: np.float32, high: np.float32, plan: Plan) -> float:
    scale = step(low, high, plan)
    zero = zero_point(low, scale, plan)
    errors = [f(code_of(x, scale, zero, plan) - zero) * scale - x for x in kept]
    return sum(float(e * e) for e in errors)


def stored(scales: list[np.float32], plan: Plan) -> list[np.float32]:
    """Scales in units of the largest: float16, for asymmetric grids rounded down, to fewer bits in a shared word."""
    top = max(scales)
    if not symmetric_(plan) and plan.bits > 1:
        top = f(top * f(1 + 2**-20))
        top = f((np.array([top]).view(np.uint32) & np.uint32(0xFFFFF800)).view(f)[0])  # 13 bits
    if len(scales) == 1 or top == 0:
        return [top] * len(scales)
    return [f(half_of(float(s / top) * 2**15, plan)) * f(2**-15) * top for s in scales]


def half_of(x: float, plan: Plan) -> float:
    half = np.float16(x)
    if symmetric_(plan) or plan.bits == 1:
        return float(half)
    if float(half) > x * (1 + 2**-18):
        half = np.nextafter(half, np.float16(0))
    spare = plan.bits - 1 if plan.bits <= 5 else 0
    return float((half.view(np.uint16) >> spare << spare).astype(np.uint16).view(np.float16))


def linear_reference(w: NDArray[np.float32], keep: NDArray[np.bool_], shape: tuple[int, ...], plan: Plan) -> Any:
    """Return (codes of the kept weights, effective weights before their last rounding)."""
    members = groups(shape, plan.granularity)
    kept = [[w[i] for i in group if keep[i]] for group in members]
    if plan.bits == 1:
        means = [f(sum(float(abs(x)) for x in xs) / len(xs)) if xs else f(0) for xs in kept]
        scales, zeros = stored(means, plan), [0] * len(kept)
    else:
        lows = [min([f(0), *xs]) for xs in kept]
        highs = [max([f(0), *xs]) for xs in kept]
        clips = [clip_of(xs, lo, hi, plan) for xs, lo, hi in zip(kept, lows, highs, strict=True)]
        if isinstance(spans(plan), float):
            cuts = [max(-lo, hi) * c for lo, hi, c in zip(lows, highs, clips, strict=True)]
            lows = [max(lo, -cut) for lo, cut in zip(lows, cuts, strict=True)]
            highs = [min(hi, cut) for hi, cut in zip(highs, cuts, strict=True)]
        else:
            lows, highs = ([x * c for x, c in zip(xs, clips, strict=True)] for xs in (lows, highs))
        scales = stored([step(lo, hi, plan) for lo, hi in zip(lows, highs, strict=True)], plan)
        zeros = [zero_point(lo, s, plan) for lo, s in zip(lows, scales, strict=True)]
    codes, effective = np.zeros(len(w), np.uint8), np.zeros(len(w), f)
    for group, scale, zero in zip(members, scales, zeros, strict=True):
        for i in group:
            if keep[i] and plan.bits == 1:
                codes[i] = w[i] >= 0
                effective[i] = scale if w[i] >= 0 else -scale
            elif keep[i]:
                codes[i] = code_of(w[i], scale, zero, plan)
                effective[i] = f(int(codes[i]) - zero) * scale
    return codes[keep], effective


@st.composite
def layers(draw: st.DrawFn) -> tuple[Tensor, Tensor | None]:
    """A small tensor of any float dtype, perhaps with all-zero channels and skewed, and perhaps a mask."""
    shape = draw(st.lists(st.integers(1, 7), min_size=2, max_size=4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    w = torch.randn(shape, generator=generator, dtype=torch.float64) + draw(st.sampled_from([0.0, 0.0, 2.0]))
    w = w * torch.rand(shape[0], generator=generator).view(-1, *[1] * (len(shape) - 1)) ** 4
    if draw(st.booleans()):
        w[draw(st.integers(0, shape[0] - 1))] = 0
    density = draw(st.sampled_from([None, 0.0, 0.1, 0.5, 0.9]))
    keep = None if density is None else torch.rand(w.numel(), generator=generator) < density
    return w.to(draw(st.sampled_from(DTYPES))), keep


def check_against_reference(w: Tensor, keep: Tensor | None, plan: Plan) -> EncodedTensor:
    encoded = quantize(an_entry(w), keep, plan)
    flat = torch.ones(w.numel(), dtype=torch.bool) if keep is None else keep
    codes, effective = linear_reference(w.float().flatten().numpy(), flat.numpy(), tuple(w.shape), plan)
    assert encoded.codes.tolist() == codes.tolist()
    found = decode(encoded)
    assert (found.shape, found.dtype) == (w.shape, w.dtype)
    assert torch.equal(found.flatten(), torch.from_numpy(effective).to(w.dtype))
    return encoded


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_percentile_cuts_off_no_more_than_its_share(symmetric: bool) -> None:
    w = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)).clamp(min=-2)
    w[0, 0] = 10
    plan = a_plan(bits=8, granularity="tensor", symmetric=symmetric, clipping=99.0)
    encoded = quantize(an_entry(w), None, plan)
    assert encoded.scales is not None
    cut_off = (decode(encoded) - w).abs() > encoded.scales
    assert 0 < cut_off.sum() <= 40


@settings(max_examples=60)
@pytest.mark.parametrize("symmetric", [True, False])
@given(layer=layers(), bits=st.integers(1, 8), granularity=st.sampled_from(["tensor", "channel", 2, 3, 8]))
def test_linear_grids_equal_the_reference(
    symmetric: bool, layer: tuple[Tensor, Tensor | None], bits: int, granularity: str | int
) -> None:
    check_against_reference(*layer, a_plan(bits=bits, granularity=granularity, symmetric=symmetric))


@settings(max_examples=40)
@pytest.mark.parametrize("symmetric", [True, False])
@given(
    layer=layers(),
    bits=st.integers(2, 6),
    granularity=st.sampled_from(["tensor", "channel", 5]),
    span=st.sampled_from(["mse", 50.5, 90.0, 99.0, 100.0]),
)
def test_chosen_ranges_equal_the_reference(
    symmetric: bool, layer: tuple[Tensor, Tensor | None], bits: int, granularity: str | int, span: str | float
) -> None:
    check_against_reference(*layer, a_plan(bits=bits, granularity=granularity, symmetric=symmetric, clipping=span))


@given(layers(), st.integers(2, 8), st.booleans(), st.sampled_from(["tensor", "channel", 3]))
def test_dense_codes_stand_for_the_same_weights(
    layer: tuple[Tensor, Tensor | None], bits: int, symmetric: bool, granularity: str | int
) -> None:
    encoded = quantize(an_entry(layer[0]), layer[1], a_plan(bits=bits, symmetric=symmetric, granularity=granularity))
    everything = dense_codes(encoded)
    assert everything.numel() == layer[0].numel()
    dense = replace(encoded, keep_bits=None, codes=everything)
    assert torch.equal(decode(dense), decode(encoded))


@given(layers(), st.sampled_from([16, 32]))
def test_plain_floats_are_the_weights_in_that_precision(layer: tuple[Tensor, Tensor | None], bits: int) -> None:
    w, keep = layer
    encoded = quantize(an_entry(w), keep, a_plan(bits=bits))
    narrow = w if w.dtype.itemsize <= bits // 8 else w.to(torch.float16 if bits == 16 else torch.float32)
    expected = narrow.to(w.dtype) if keep is None else narrow.to(w.dtype) * keep.view(w.shape)
    assert encoded.codes.dtype == narrow.dtype
    assert torch.equal(decode(encoded), expected)


def test_halves_beyond_float16_are_bfloat16() -> None:
    w = torch.tensor([[1.0, 70000.0], [3.140625, -2.5e9]])
    encoded = quantize(an_entry(w), None, a_plan(bits=16))
    assert encoded.codes.dtype == torch.bfloat16
    assert torch.equal(decode(encoded), w.bfloat16().float())
    assert quantize(an_entry(w[:, :1]), None, a_plan(bits=16)).codes.dtype == torch.float16


@settings(max_examples=60)
@given(layers(), st.integers(1, 6))
def test_a_codebook_is_a_fixed_point_of_k_means(layer: tuple[Tensor, Tensor | None], bits: int) -> None:
    w, keep = layer
    encoded = quantize(an_entry(w), keep, a_plan(bits=bits, quantizer=KMeans()))
    flat = w.float().flatten()
    kept = flat if keep is None else flat[keep]
    values = encoded.codebook
    assert values is not None
    assert values.tolist() == sorted(values.tolist())
    assert len(values) == 2**bits
    distances = (kept[:, None].double() - values.double()).abs()
    chosen = distances.gather(1, encoded.codes.long()[:, None])[:, 0]
    assert torch.allclose(chosen, distances.amin(1), rtol=1e-6, atol=1e-9)
    for code in encoded.codes.unique().tolist():
        cell = kept[encoded.codes == code].double()
        assert float(values[code]) == pytest.approx(float(cell.mean()), rel=1e-6, abs=1e-9)
    pruned = torch.zeros_like(flat, dtype=torch.bool) if keep is None else ~keep
    assert not decode(encoded).flatten()[pruned].any()


def test_a_codebook_of_few_different_weights_is_exact() -> None:
    w = torch.tensor([[1.0, -1.0, 0.25], [0.25, 1.0, -1.0]])
    for bits in range(2, 9):
        assert torch.equal(decode(quantize(an_entry(w), None, a_plan(bits=bits, quantizer=KMeans()))), w)


def test_a_codebook_is_better_than_a_uniform_grid_and_its_start() -> None:
    w = torch.randn(50, 200, generator=torch.Generator().manual_seed(0))

    def noise(plan: Plan) -> float:
        return float((decode(quantize(an_entry(w), None, plan)) - w).square().sum())

    for bits in (2, 3, 4, 6):
        linear = [a_plan(bits=bits, granularity="tensor", clipping=r) for r in ("absmax", "mse", 99.0)]
        assert noise(a_plan(bits=bits, quantizer=KMeans())) < min(map(noise, linear))


def test_two_values_of_a_gaussian_are_its_half_means() -> None:
    w = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    assert codebook_of(w, 1).tolist() == pytest.approx([-((2 / np.pi) ** 0.5), (2 / np.pi) ** 0.5], abs=5e-3)


@pytest.mark.parametrize("quantizer", [Uniform(symmetric=True), KMeans()])
@pytest.mark.parametrize("bits", [1, 2, 5, 8, 16, 32])
def test_all_zero_and_all_pruned_layers_stay_zero(quantizer: Any, bits: int) -> None:
    for keep in (None, torch.zeros(12, dtype=torch.bool)):
        w = torch.zeros(3, 4) if keep is None else torch.randn(3, 4)
        encoded = quantize(an_entry(w), keep, a_plan(bits=bits, quantizer=quantizer))
        assert torch.equal(decode(encoded), torch.zeros(3, 4))
        assert all(bool(x.isfinite().all()) for x in (encoded.scales, encoded.codebook) if x is not None)


def test_zero_is_exactly_zero_after_an_asymmetric_grid() -> None:
    w = torch.tensor([[0.0, 0.3, 5.0], [-0.7, 0.0, 0.1]])
    for bits in range(2, 9):
        found = decode(quantize(an_entry(w), None, a_plan(bits=bits, symmetric=False)))
        assert (found[w == 0] == 0).all()


@pytest.mark.parametrize("shape", [(12, 70), (1, 840), (840, 1)])
def test_the_size_of_pieces_makes_no_difference(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = an_entry(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    keep = entry.load().abs().flatten() > 0.5
    plans = [
        a_plan(bits=bits, granularity=granularity, symmetric=symmetric, clipping=span)
        for bits in (1, 4, 16)
        for granularity in ("tensor", "channel", 32)
        for symmetric in (True, False)
        for span in ("absmax", "mse", 95.0)
    ]
    whole = [decode(quantize(entry, keep, plan)) for plan in plans]
    monkeypatch.setattr("shrinkwidget.compression.encode_layers_and_packed_model.chunk_size", lambda _device: 100)
    for plan, expected in zip(plans, whole, strict=True):
        assert torch.equal(decode(quantize(entry, keep, plan)), expected), plan


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_weights_of_few_values_are_their_own_codebook(bits: int) -> None:
    values = torch.randn(2**bits, generator=torch.Generator().manual_seed(bits)).sort().values
    weights = values[torch.randint(2**bits, (1000,), generator=torch.Generator().manual_seed(0))]
    codebook = codebook_of(weights, bits)
    assert torch.equal(codebook[nearest(weights, codebook).int()], weights)
    assert torch.equal(codebook.unique(), weights.unique())
    assert torch.equal(codebook_of(weights[:1], bits), weights[:1].expand(2**bits))
