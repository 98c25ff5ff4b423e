"""What numpy does for torch on a CPU is what torch would do, by as many threads as there are cores for them."""

from __future__ import annotations

import os
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import each, energy, scatter_, selected, zeroed


@pytest.mark.parametrize("n", [0, 1, 4095, 4096, 4097, 3 * 4096 + 17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_energy_is_the_sum_of_squares_in_float64(n: int, dtype: torch.dtype, scale: float) -> None:
    values = (torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * scale).to(dtype)
    assert energy(values) == pytest.approx(float(values.double().square().sum()), rel=1e-12)


@given(st.lists(st.booleans(), max_size=70), st.sampled_from([torch.uint8, torch.float32, torch.bfloat16]))
def test_values_are_taken_and_put_back_where_the_mask_is_true(mask: list[bool], dtype: torch.dtype) -> None:
    keep, values = torch.tensor(mask, dtype=torch.bool), torch.arange(len(mask)).to(dtype)
    taken = selected(values, keep)
    assert torch.equal(taken, values[keep])
    filled = scatter_(torch.full_like(values, 99), keep, taken)
    assert torch.equal(filled, torch.where(keep, values, torch.full_like(values, 99)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_what_a_mask_takes_is_positive_zero_and_the_rest_is_untouched(dtype: torch.dtype) -> None:
    values = torch.tensor([-1.5, -0.0, float("nan"), 2.0, -0.0, -float("inf"), -3.0], dtype=dtype)
    keep = torch.tensor([False, False, False, True, True, False, True])
    found = zeroed(values, keep)
    assert found.dtype == dtype
    assert found.tolist() == [0, 0, 0, 2, 0, 0, -3]
    assert found.signbit().tolist() == [False, False, False, False, True, False, True]
    assert values[0] == -1.5


def test_work_is_shared_by_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert len(set(each(lambda _: threading.get_ident(), range(20)))) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    together = threading.Barrier(3)
    assert sorted(each(lambda _: together.wait(30), range(3))) == [0, 1, 2], "three at a time"
