"""The sketch: counts that are exactly those of the weights, in a form that travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.numpy import load
from torch import Tensor, nn

from shrinkwidget.analysis.quantization_group_histograms import (
    ATOM,
    BINS,
    GRANULARITIES,
    HIGH,
    LOW,
    RATIOS,
    bin_of,
    coprime_step,
    some_runs,
    taken,
)
from shrinkwidget.analysis.sketch import LayerSketch, Sketch, sketch
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import NM_PATTERNS
from shrinkwidget.errors import FileError, ModelError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def look(weights: Tensor) -> LayerSketch:
    """Sketch a single tensor."""
    return sketch({"w": weights}).layers[0]


@given(st.integers(1, 40), st.integers(1, 90), st.sampled_from(DTYPES), st.integers(0, 5))
def test_counts_are_those_of_the_weights(rows: int, columns: int, dtype: torch.dtype, seed: int) -> None:
    weights = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).to(dtype)
    weights[weights.abs() < 0.1] = 0
    looked = look(weights)
    patterns = weights.float().numpy().view(np.uint32) >> 16
    assert dict(zip(looked.buckets.tolist(), looked.counts.tolist(), strict=True)) == {
        int(k): int(v) for k, v in zip(*np.unique(patterns, return_counts=True), strict=True)
    }
    assert looked.n == weights.numel()
    for table in looked.tables.values():
        assert table.count.sum() == pytest.approx(weights.numel(), rel=1e-5)
        assert table.energy.sum() == pytest.approx(1.0 if looked.energy > 0 else 0.0, rel=1e-4)


def test_buckets_ascend_by_value() -> None:
    looked = look(torch.randn(30, 30))
    values = (looked.buckets.astype(np.uint32) << 16).view(np.float32)
    assert (np.diff(values) > 0).all()


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(1, 30))
def test_a_sample_is_of_whole_runs_evenly_spaced(rows: int, length: int, size: int, step: int) -> None:
    assume(size <= length)
    weights = torch.arange(rows * length).reshape(rows, length)
    whole = weights[:, : length // size * size].reshape(-1, size)
    found = [taken(weights, runs) for runs in some_runs(rows, length, size, step)]
    assert torch.equal(found[0], whole[:: coprime_step(step, len(whole))])
    if rest := length % size:
        assert torch.equal(found[1], weights[:: coprime_step(step, rows), -rest:])


@given(st.floats(0, 1, width=32))
def test_every_relative_magnitude_falls_into_its_bin(u: float) -> None:
    i = int(bin_of(np.array(u, dtype=np.float32)))
    assert LOW[i] <= u <= HIGH[i]
    assert (i == ATOM) == (u == 1)


def test_the_ranges_of_groups_are_exact() -> None:
    weights = torch.randn(10, 6, 3, 3, generator=torch.Generator().manual_seed(1))
    looked = look(weights)
    rows = weights.flatten(1).double()
    channels = looked.tables["channel"]
    assert channels.values[:10] == pytest.approx(rows.abs().amax(1).sort().values.numpy())
    assert channels.range_energy.sum() == pytest.approx(1)
    far, near = torch.stack([rows.amax(1), -rows.amin(1)]).sort(0, descending=True).values
    assert channels.ratios.sum() == pytest.approx(1)
    mean = float((far * near).sum() / (far**2).sum())
    assert float(channels.ratios @ RATIOS) == pytest.approx(mean, rel=1e-5)
    assert channels.captured == pytest.approx(float((rows.abs().mean(1) ** 2 * 54).sum() / (rows**2).sum()), rel=1e-3)
    assert looked.tables[32].count[ATOM] == 20  # one largest weight in each of the ten rows' groups of 32 and 22


def test_survival_curves_are_the_kept_fractions() -> None:
    weights = torch.randn(16, 32, generator=torch.Generator().manual_seed(2))
    looked = look(weights)
    blocks = weights.abs().reshape(-1, 4)
    kept = blocks >= blocks.sort(1).values[:, 2:3]
    index = torch.from_numpy(bin_of((weights.abs() / weights.abs().max()).reshape(-1, 4).numpy()))
    for i in range(BINS):
        if (index == i).any():
            assert looked.survival["2:4"][i] == pytest.approx(float(kept[index == i].float().mean()))


def test_it_survives_encoding(resnet20: Path) -> None:
    looked = sketch(resnet20)
    read = Sketch.decode(looked.encode())
    tables, again = load(looked.encode()), load(read.encode())
    assert {name: table.tobytes() for name, table in tables.items()} == {n: t.tobytes() for n, t in again.items()}
    assert (read.original_nbytes, read.structure, read.parameters) == (
        looked.original_nbytes,
        looked.structure,
        269_722,
    )
    assert looked.original_nbytes == resnet20.stat().st_size - 160  # the published file carries a padded header
    for layer in read.layers:
        assert set(layer.tables) == set(GRANULARITIES)
        assert set(layer.survival) == set(NM_PATTERNS)


def test_equal_sketches_are_equal_bytes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 5))
    blobs = {sketch(model).encode() for _ in range(5)} | {Sketch.decode(sketch(model).encode()).encode()}
    assert len(blobs) == 1
    blob = blobs.pop()
    assert load(blob).keys() == load(Sketch.decode(blob).encode()).keys()


def test_a_damaged_blob_is_refused() -> None:
    blob = sketch(nn.Linear(8, 8)).encode()
    for bad in (b"", blob[:40], blob[:-1], blob.replace(b"shrinkwidget-sketch", b"shrinkwidget-sketsh"), b"\0" * 64):
        with pytest.raises(FileError, match=r"sw.sketch\(model\)"):
            Sketch.decode(bad)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite_are_refused_by_name(bad: float, dtype: torch.dtype) -> None:
    broken = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(4, 4), broken).to(dtype)
    with torch.no_grad():
        broken.weight[2, 2] = bad
    with pytest.raises(ModelError, match=r"layer '1.weight' has 1 weight"):
        sketch(model)


def test_float64_beyond_float32_is_refused_as_infinite() -> None:
    with pytest.raises(ModelError, match="infinite as float32"):
        sketch({"w": torch.full((2, 2), 1e300, dtype=torch.float64)})


def test_looking_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sketch(model)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("weights", [torch.zeros(4, 4), torch.ones(1, 1), torch.randn(3, 1), torch.randn(5, 7).t()])
def test_odd_tensors_are_looked_at_all_the_same(weights: Tensor) -> None:
    looked = look(weights)
    assert looked.counts.sum() == weights.numel()
    assert looked.absmax == float(weights.abs().max())


def test_sampling_a_large_tensor_stays_close() -> None:
    weights = torch.randn(512, 1024, generator=torch.Generator().manual_seed(3)) * torch.rand(512, 1)
    looked = look(weights)
    u = weights.abs() / weights.abs().amax(1, keepdim=True)
    exact = np.bincount(bin_of(u.numpy()).reshape(-1), weights.square().flatten().numpy(), BINS)
    drift = np.cumsum(looked.tables["channel"].energy) - np.cumsum(exact) / exact.sum()
    assert np.abs(drift).max() < 0.02


class Gone(Tensor):
    """Weights on a device that is no longer there: whoever computes with them fails."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "reshape":
            raise RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be reported later")
        return super().__torch_function__(func, types, args, kwargs or {})


def test_weights_on_a_device_that_is_gone_are_told_in_one_sentence() -> None:
    with pytest.raises(ModelError) as refused:
        sketch({"fc.weight": torch.ones(4, 4).as_subclass(Gone)})
    assert str(refused.value) == (
        "the weights of 'fc.weight' cannot be read from cpu (RuntimeError: CUDA error: device-side assert triggered): "
        "load the model again, on a device that works"
    )
