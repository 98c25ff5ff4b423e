"""The compiled kernel: the same sketches and masks as without it, to the bit, and both where it cannot be used."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shrinkwidget.analysis import tensor_ops_threads_and_cpu_kernel
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import counted, sketch
from shrinkwidget.compression.importance_scores_and_pruning_masks import keep_masks
from shrinkwidget.errors import ModelError
from shrinkwidget.recipe_and_method_registry import Recipe

needs_kernel = pytest.mark.skipif(
    tensor_ops_threads_and_cpu_kernel.cpu_kernel() is None, reason="the kernel is not built"
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
ODD = [0.0, -0.0, 1e-40, -1e-45, 6e-8, 1.0, -1.0, 3e38, 1e-300]
"""Zeros of both signs, numbers too small for the mantissa of float32, float16 or both, equal magnitudes, large ones."""


@contextmanager
def no_kernel() -> Iterator[None]:
    """Do without the kernel."""
    one, two = (
        f"shrinkwidget.analysis.{module}.cpu_kernel"
        for module in ("tensor_ops_threads_and_cpu_kernel", "quantization_group_histograms")
    )
    with patch(one, lambda: None), patch(two, lambda: None):
        yield


def weights(shape: tuple[int, ...], dtype: torch.dtype, kind: str, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.randn(shape, generator=rng, dtype=torch.float64)
    if kind == "pruned":
        drawn[drawn.abs() < 1] *= 0  # keeps signs: zeros are +0.0 and -0.0
    elif kind == "odd":
        odd = torch.tensor([x for x in ODD if x in (0, 1, -1) or torch.tensor(x).to(dtype).isfinite()])
        drawn = odd.double()[torch.randint(len(odd), shape, generator=rng)]
    return drawn.to(dtype)


def same(tensor: Tensor) -> None:
    with no_kernel():
        expected = sketch({"w": tensor}).encode()
    assert sketch({"w": tensor}).encode() == expected


@needs_kernel
@given(
    st.integers(1, 40), st.integers(1, 300), st.sampled_from(DTYPES), st.sampled_from(["normal", "pruned", "odd"]),
    st.integers(0, 9),
)  # fmt: skip
def test_a_sketch_is_the_same_to_the_bit(rows: int, columns: int, dtype: torch.dtype, kind: str, seed: int) -> None:
    same(weights((rows, columns), dtype, kind, seed))


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(300, 1000), (9000, 9), (64, 33, 7, 7), (3, 70001), (1, 150_000)])
def test_a_sketch_that_samples_is_the_same_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    same(weights(shape, dtype, "normal", 0))
    same(weights(shape, dtype, "pruned", 1))


@needs_kernel
def test_every_float16_is_widened_as_torch_does() -> None:
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.float16)
    finite = halves[halves.isfinite()].view(1, -1)
    kernel = tensor_ops_threads_and_cpu_kernel.kernel_for(finite)
    assert kernel is not None
    buckets, counts, groups = kernel.scan(finite)
    expected = np.bincount(finite.float().view(torch.int32).numpy().reshape(-1).view(np.uint32) >> 16, minlength=2**16)
    assert np.array_equal(np.bincount(buckets, counts, 2**16), expected)
    assert groups.high.max() == -groups.low.min() == torch.finfo(torch.float16).max


@needs_kernel
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_not_finite_are_counted(dtype: torch.dtype) -> None:
    tensor = weights((50, 70), dtype, "normal", 0)
    tensor[3, 3], tensor[20, 69], tensor[49, 0] = float("nan"), float("inf"), -float("inf")
    for kernel in (nullcontext, no_kernel):
        with kernel(), pytest.raises(ModelError, match="3 weights that are NaN or infinite"):
            sketch({"w": tensor})


@needs_kernel
def test_counts_alone_are_the_same() -> None:
    model = open_model({"w": weights((70, 90), torch.float32, "pruned", 0)})
    with no_kernel():
        expected = counted(model).layers[0]
    found = counted(model).layers[0]
    assert np.array_equal(found.buckets, expected.buckets)
    assert np.array_equal(found.counts, expected.counts)
    assert (found.absmax, found.zeros, found.blocks) == (expected.absmax, expected.zeros, expected.blocks)
    assert found.negative_zeros == expected.negative_zeros > 0
    assert not found.tables  # which no mask and no file needs, and which take most of the time
    assert not found.survival


def test_a_library_that_cannot_be_loaded_is_done_without_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "cpu_kernel.lib"
    broken.write_bytes(b"no library")
    tensor = weights((20, 40), torch.float32, "normal", 0)
    with no_kernel():
        expected = sketch({"w": tensor}).encode()
    tensor_ops_threads_and_cpu_kernel.cpu_kernel.cache_clear()
    try:
        with patch.object(tensor_ops_threads_and_cpu_kernel, "LIBRARY", broken), caplog.at_level(logging.WARNING):
            assert [sketch({"w": tensor}).encode() for _ in range(2)] == [expected] * 2
    finally:
        tensor_ops_threads_and_cpu_kernel.cpu_kernel.cache_clear()
    assert [record.message.split(" (")[0] for record in caplog.records] == [
        "the compiled kernel of shrinkwidget cannot be used"
    ]


@pytest.mark.skipif(os.name == "nt" or not shutil.which("cc"), reason="needs a C compiler")
def test_a_library_of_other_sources_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = tmp_path / "cpu_kernel.lib"
    source = tmp_path / "other.c"
    source.write_text("long long cpu_kernel_version(void) { return 0; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", other, source], check=True)
    tensor_ops_threads_and_cpu_kernel.cpu_kernel.cache_clear()
    try:
        with patch.object(tensor_ops_threads_and_cpu_kernel, "LIBRARY", other), caplog.at_level(logging.WARNING):
            assert tensor_ops_threads_and_cpu_kernel.cpu_kernel() is None
    finally:
        tensor_ops_threads_and_cpu_kernel.cpu_kernel.cache_clear()
    assert "version 0" in caplog.text


def test_the_environment_switches_the_kernel_off() -> None:
    code = "from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import cpu_kernel; print(cpu_kernel())"
    env = os.environ | {"SHRINKWIDGET_KERNEL": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"


@pytest.mark.skipif(os.name == "nt" or not shutil.which("cc"), reason="needs a C compiler")
def test_the_kernel_compiles_without_a_warning_for_a_processor_of_any_kind(tmp_path: Path) -> None:
    source = Path(tensor_ops_threads_and_cpu_kernel.__file__).with_name("cpu_kernel.c")
    words = ["cc", "-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-DPORTABLE", "-fPIC", "-shared", "-lm"]
    done = subprocess.run([*words, "-o", tmp_path / "kernel.so", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs_kernel
@given(
    st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3), st.sampled_from(["normal", "pruned", "odd"]),
    st.floats(0, 0.99), st.integers(0, 9),
)  # fmt: skip
def test_masks_are_the_same(dtypes: list[torch.dtype], kind: str, sparsity: float, seed: int) -> None:
    model = open_model({f"w{i}": weights((17, 31 + i), dtype, kind, seed + i) for i, dtype in enumerate(dtypes)})
    recipe = Recipe(sparsity=sparsity)
    with no_kernel():
        expected = keep_masks(model, recipe)
    for found, mask in zip(keep_masks(model, recipe), expected, strict=True):
        assert (found is None) == (mask is None)
        assert mask is None or torch.equal(mask, found)  # type: ignore[arg-type]
