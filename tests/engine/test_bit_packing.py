"""Bits into bytes and back, against plain Python that packs one bit at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shrinkwidget.analysis import tensor_ops_threads_and_cpu_kernel
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import packed_bits, unpacked_bits
from shrinkwidget.files import plain_and_entropy_encodings as bit
from shrinkwidget.files.plain_and_entropy_encodings import Bytes

WIDTHS = st.integers(1, 8)


def codes_of(data: bytes, bits: int) -> Bytes:
    return np.frombuffer(data, np.uint8) & np.uint8(2**bits - 1)


@given(st.binary(max_size=100), WIDTHS)
def test_codes_are_packed_least_significant_bit_first(data: bytes, bits: int) -> None:
    codes = codes_of(data, bits)
    stream = sum(int(code) << (bits * i) for i, code in enumerate(codes))
    expected = stream.to_bytes(-(-len(codes) * bits // 8), "little")
    assert bit.pack_codes(codes, bits).tobytes() == expected


@given(st.binary(max_size=1000), WIDTHS)
def test_codes_come_back(data: bytes, bits: int) -> None:
    codes = codes_of(data, bits)
    assert np.array_equal(bit.unpack_codes(bit.pack_codes(codes, bits), bits, len(codes)), codes)
    assert np.array_equal(bit.unpack_whole_codes(bit.pack_whole_codes(codes, bits), bits, len(codes)), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_come_back_across_blocks(bits: int) -> None:
    codes = np.random.default_rng(bits).integers(0, 2**bits, (1 << 21) + 12345).astype(np.uint8)
    packed = bit.pack_codes(codes, bits)
    assert len(packed) == -(-len(codes) * bits // 8)
    assert np.array_equal(bit.unpack_codes(packed, bits, len(codes)), codes)


def test_a_byte_of_whole_codes_keeps_bits_that_are_not_ours() -> None:
    assert bit.unpack_whole_codes(np.array([0b11_010_001], np.uint8), 3, 2).tolist() == [1, 0b11_010]


def assert_runs_come_back(keep: NDArray[np.bool_]) -> None:
    back = bit.unpack_runs(bit.pack_runs(keep), len(keep))
    assert back is not None
    assert np.array_equal(back, keep)


@given(st.lists(st.booleans(), max_size=300))
def test_masks_come_back_as_bits_and_as_runs(mask: list[bool]) -> None:
    keep = np.array(mask, np.bool_)
    stream = sum(b << i for i, b in enumerate(mask))
    packed = packed_bits(torch.from_numpy(keep))
    assert packed.numpy().tobytes() == stream.to_bytes(-(-len(mask) // 8), "little")
    assert unpacked_bits(packed, len(mask)).tolist() == mask
    assert bit.unpack_mask(packed.numpy(), len(mask)).tolist() == mask
    assert_runs_come_back(keep)


@pytest.mark.parametrize("length", [0, 1, 8, 1003])
def test_bits_on_a_gpu_are_those_on_a_cpu(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = torch.rand(length, generator=torch.Generator().manual_seed(length)) < 0.3
    packed = packed_bits(keep)
    monkeypatch.setattr(tensor_ops_threads_and_cpu_kernel, "_on_cpu", lambda _: False)
    assert torch.equal(packed_bits(keep), packed)
    assert torch.equal(unpacked_bits(packed, length), keep)


@given(st.lists(st.integers(0, 2000), max_size=20), st.integers(0, 600))
def test_long_runs_come_back(runs: list[int], rest: int) -> None:
    keep = np.array([b for run in runs for b in (*[False] * run, True)] + [False] * rest, np.bool_)
    packed = bit.pack_runs(keep)
    assert len(packed) == len(runs) + sum(run // 255 for run in runs)
    assert_runs_come_back(keep)


def test_runs_beyond_the_weights_are_noticed() -> None:
    assert bit.unpack_runs(np.array([3, 3], np.uint8), 7) is None


@given(st.binary(max_size=40), st.sampled_from((1, 2, 4, 8)))
def test_byte_planes_come_back(data: bytes, width: int) -> None:
    numbers = np.frombuffer(data[: len(data) // width * width], np.uint8)
    split = bit.to_byte_planes(numbers, width)
    assert split.tobytes() == b"".join(numbers[i::width].tobytes() for i in range(width))
    assert np.array_equal(bit.from_byte_planes(split, width), numbers)
