"""GGUF files hold our codes in blocks with float16 scales, to the bit; what blocks cannot hold is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.errors import ModelError

gguf = pytest.importorskip("gguf")


def net() -> nn.Module:
    """Return a dense network whose rows are whole blocks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(20, 64), nn.Linear(64, 96), nn.Linear(96, 10)).eval()


@pytest.mark.parametrize(
    ("recipe", "kind"),
    [
        (dict(bits=4, symmetric=True, granularity=32), "Q4_0"),
        (dict(bits=4, symmetric=True, granularity="channel", sparsity=0.5), "Q4_0"),
        (dict(bits=3, symmetric=True, granularity=32), "Q4_0"),
        (dict(bits=5, symmetric=True, granularity=32), "Q5_0"),
        (dict(bits=8, symmetric=True, granularity=64 // 2), "Q8_0"),
    ],
    ids=repr,
)
def test_codes_and_scales_are_those_of_the_packed_file(recipe: dict[str, Any], kind: str, tmp_path: Path) -> None:
    small = sw.compress(net(), scales="float16", **recipe)
    exported = small.export(tmp_path / "m.gguf")
    assert exported.exact == "3 of 3 tensors exactly"
    weights = small.state_dict()
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(exported.path).tensors}
    assert read.keys() == weights.keys()
    for name, tensor in read.items():
        found = torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        assert torch.equal(found, weights[name]), name
        assert tensor.tensor_type.name == (kind if name in small.encoded else "F32")
    assert {tensor.stored for tensor in exported.tensors} == {kind}


def test_what_blocks_cannot_hold_is_refused_with_a_cure(tmp_path: Path) -> None:
    for recipe, match in (
        (dict(bits=4, symmetric=True, granularity=32), "float16, and those of '0.weight' are none.*scales=\"float16\""),
        (dict(bits=8, granularity=32, scales="float16", clipping="absmax"), "beyond a signed byte.*symmetric=True"),
        (dict(bits=4, symmetric=True, granularity=48, scales="float16"), r"'0.weight' in blocks of 32.*granularity=32"),
        (dict(bits=4, quantizer="kmeans"), "'0.weight': its values are not evenly spaced"),
    ):
        small = sw.compress(net(), **recipe)
        with pytest.raises(ModelError, match=match):
            small.export(tmp_path / "m.gguf")
        exported = small.export(tmp_path / f"{len(match)}.gguf", floats=True)
        assert exported.exact == "3 of 3 tensors exactly"
    assert not (tmp_path / "m.gguf").exists()


def test_a_convolution_is_told_that_its_last_axis_is_too_short(tmp_path: Path) -> None:
    small = sw.compress(sw.demo.model(), bits=8, scales="float16", symmetric=True)
    with pytest.raises(ModelError, match=re.escape("'stem.weight' in blocks of 32: its last axis has 3 weights")):
        small.export(tmp_path / "m.gguf")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_16_bit_scales_survive_the_file_and_are_such_numbers(dtype: str, tmp_path: Path) -> None:
    for recipe in (dict(bits=4, granularity=16), dict(bits=8, symmetric=True), dict(bits=2, granularity="tensor")):
        small = sw.compress(net(), scales=dtype, **recipe)
        assert small.save(tmp_path / "m.safetensors") == small.nbytes == sw.estimate(net(), small.recipe).nbytes
        again = sw.load(tmp_path / "m.safetensors")
        for name, layer in small.encoded.items():
            scales = layer.scales
            assert scales is not None
            assert torch.equal(scales.to(getattr(torch, dtype)).float(), scales)
            assert torch.equal(again.state_dict()[name], small.state_dict()[name])


def test_a_scale_that_is_too_small_for_float16_does_not_become_zero() -> None:
    layer = nn.Linear(8, 2)
    with torch.no_grad():
        layer.weight[1] *= 1e-9
    small = sw.compress(layer, bits=4, symmetric=True, scales="float16")
    scales = small.encoded["weight"].scales
    assert scales is not None
    assert float(scales.min()) == 2.0**-24
