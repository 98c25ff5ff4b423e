"""OpenVINO computes with the weights that were evaluated, to the bit; skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shrinkwidget as sw
from shrinkwidget.errors import ModelError

pytest.importorskip("openvino")


@pytest.mark.parametrize(
    "recipe",
    [
        dict(bits=8, symmetric=True),
        dict(bits=4, granularity=32, sparsity=0.5),
        dict(quantizer="kmeans", bits=3),
        dict(bits=16),
    ],
    ids=repr,
)
def test_weights_come_back_to_the_bit_beside_batch_norms(recipe: dict[str, Any], tmp_path: Path) -> None:
    small = sw.compress(sw.demo.model(), **recipe)
    exported = small.export(tmp_path / "digits.xml", eval_data=sw.demo.data("test"))
    assert exported.exact == "14 of 14 tensors exactly"
    assert exported.difference < 1e-5
    assert exported.score is not None
    assert exported.torch_score is not None
    assert exported.score.value == exported.torch_score.value
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["digits.bin", "digits.xml"]
    assert exported.nbytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    # what would compute with other numbers by default is told
    assert '"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"' in exported.notes[-1]


def test_a_codebook_beside_a_mask_is_refused(tmp_path: Path) -> None:
    small = sw.compress(sw.demo.model(), quantizer="kmeans", bits=3, sparsity=0.5)
    with pytest.raises(ModelError, match=r"'stem.weight': a codebook beside a mask"):
        small.export(tmp_path / "m.xml", example=sw.demo.data("test")[0][:2])
