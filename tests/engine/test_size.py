"""What measure says about a model is what its files and its forward pass really cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor, nn

from shrinkwidget.errors import ModelError
from shrinkwidget.measure.layers import open_weights
from shrinkwidget.measure.size import safetensors_bytes

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2,
]  # fmt: skip


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """State dicts with odd names, every dtype, scalars and empty tensors, and one tensor that can be compressed."""
    names = draw(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), unique=True, max_size=12))
    shapes = st.lists(st.integers(0, 12), max_size=3)
    state = {n: torch.zeros(draw(shapes), dtype=draw(st.sampled_from(DTYPES))) for n in names if n != "__metadata__"}
    return state | {"weight": torch.zeros(2, 3)}


@given(state_dicts())
def test_safetensors_bytes_equal_the_file_for_any_state_dict(state: dict[str, Tensor]) -> None:
    assert safetensors_bytes(open_weights(state).entries) == len(save(state))


def test_safetensors_bytes_counts_tied_weights_once() -> None:
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    model = nn.Sequential(embedding, head)
    once = {"0.weight": embedding.weight.detach()}
    assert safetensors_bytes(open_weights(model).entries) == len(save(once))


def test_safetensors_bytes_names_a_tensor_no_file_can_hold() -> None:
    state = {"weight": torch.zeros(2, 2), "spectrum": torch.zeros(2, dtype=torch.complex128)}
    with pytest.raises(ModelError, match="'spectrum' is complex128"):
        safetensors_bytes(open_weights(state).entries)
