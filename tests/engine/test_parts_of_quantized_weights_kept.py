"""Quantized checkpoints: what decodes quantized weights is never pruned, whatever the toolkit calls it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shrinkwidget.analysis.model_summary import summary
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model, quantization_parts
from shrinkwidget.compressed_model import compress
from shrinkwidget.recipe_and_method_registry import Recipe


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
    return torch.randint(0, 100, shape).to(dtype)


def floats(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return (torch.rand(shape) + 0.1).to(dtype)


CHECKPOINTS: Final[dict[str, dict[str, Tensor]]] = {
    "compressed-tensors, channel": {
        "q.weight": ints(64, 64, dtype=torch.int8), "q.weight_scale": floats(64, 1),
        "q.weight_zero_point": floats(64, 1),
    },
    "compressed-tensors, packed": {
        "q.weight_packed": ints(64, 8), "q.weight_scale": floats(64, 2), "q.weight_shape": ints(2),
        "q.weight_g_idx": ints(64), "q.input_scale": floats(1),
    },
    "compressed-tensors, not packed": {
        "q.weight_scale": floats(64, 1), "q.weight_zero_point": ints(64, 1, dtype=torch.int8),
    },
    "GPTQ": {
        "q.qweight": ints(8, 64), "q.qzeros": ints(2, 8), "q.scales": floats(2, 64), "q.g_idx": ints(64),
    },
    "GPTQ, 2 bits in groups of 16": {"q.qweight": ints(4, 64), "q.qzeros": ints(4, 4), "q.scales": floats(4, 64)},
    "FP8 blocks": {
        "q.weight": floats(64, 64).to(torch.float8_e4m3fn), "q.weight_scale_inv": floats(2, 2, dtype=torch.float32),
    },
    "FP8 experts": {
        "q.gate_up_proj": floats(4, 64, 64).to(torch.float8_e4m3fn), "q.gate_up_proj_scale_inv": floats(4, 2, 2),
    },
    "bitsandbytes, 4 bits": {
        "q.weight": ints(2048, 1, dtype=torch.uint8), "q.weight.absmax": floats(64, 1),
        "q.weight.quant_map": floats(4, 4), "q.weight.quant_state.bitsandbytes__nf4": ints(90, dtype=torch.uint8),
        "q.weight.nested_absmax": floats(2, 2),
    },
    "bitsandbytes, 8 bits": {"q.weight": ints(64, 64, dtype=torch.int8), "q.SCB": floats(64, 1)},
    "MXFP4": {
        "q.proj_blocks": ints(4, 64, 2, 16, dtype=torch.uint8), "q.proj_scales": ints(4, 64, 2, dtype=torch.uint8),
    },
    "quanto": {"q.weight._data": ints(64, 64, dtype=torch.int8), "q.weight._scale": floats(64, 1)},
    "HQQ": {"q.W_q": ints(32, 64, dtype=torch.uint8), "q.scale": floats(64, 1), "q.zero": floats(64, 1)},
    "AQLM": {
        "q.codes": ints(8, 8, 1, dtype=torch.int16), "q.codebooks": floats(1, 256, 1, 8),
        "q.scales": floats(8, 1, 1, 1),
    },
    "VPTQ": {"q.indices": ints(1, 64, 8), "q.centroids.weight": floats(1, 256)},
    "own names": {"q.kernel": ints(64, 64, dtype=torch.uint8), "q.delta": floats(64, 1), "q.offset": floats(64, 1)},
}  # fmt: skip
OTHERS: Final = (
    "weight",
    "qweight",
    "weight_packed",
    "gate_up_proj",
    "proj_blocks",
    "_data",
    "W_q",
    "codes",
    "kernel",
    "indices",
)


@pytest.mark.parametrize("state", CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_what_decodes_quantized_weights_is_kept_and_says_so(state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {f"layers.0.{name}": tensor for name, tensor in state.items()} | {"head.weight": torch.randn(64, 64)}
    if "layers.0.q.weight_zero_point" in state and "layers.0.q.weight" not in state:
        state["layers.0.q.weight"] = torch.randn(64, 64)  # fake-quantized: the weights themselves may be compressed
    save_file(state, tmp_path / "model.safetensors")
    for source in (state, tmp_path):
        weights = open_model(source)
        layers = {entry.name for entry in weights.layers}
        assert layers == {n for n, t in state.items() if n.endswith(".weight") and t.dtype == torch.float32}
        for entry in weights.uncompressed:
            reason = "part of the quantized weights 'layers.0.q."
            assert entry.name.rpartition(".")[2] in OTHERS or entry.why.startswith(reason), entry.name
    after = compress(tmp_path, Recipe(sparsity=0.9, bits=2)).state_dict()
    for name in set(state) - layers:
        assert torch.equal(after[name].double(), state[name].double())
    assert summary(tmp_path).nbytes == sum(t.numel() * t.itemsize for t in state.values())


def test_modules_of_quantized_weights_keep_their_scales() -> None:
    class Int8Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", ints(8, 8, dtype=torch.int8))
            self.scale = nn.Parameter(torch.rand(8, 1))

    weights = open_model(nn.Sequential(Int8Linear(), nn.Linear(8, 8)))
    assert [entry.name for entry in weights.layers] == ["1.weight"]


def test_ordinary_models_have_no_such_parts() -> None:
    """Relative position tables stand beside their index, attention beside its mask, layer scales alone."""
    ordinary = {
        "attn.relative_position_bias_table": floats(169, 4),
        "attn.relative_position_index": ints(49, 49, dtype=torch.int64),
        "attn.bias": ints(1, 1, 64, 64, dtype=torch.uint8),
        "attn.c_attn": floats(8, 24),
        "attn.rel_pos_h": floats(27, 8),
        "attn.rel_idx": ints(49, 49),
        "ls1.scale": floats(1, 64),
        "logit_scale": floats(1, 1),
        "conv.weight": floats(8, 8),
        "conv.weight_mask": ints(8, 8, dtype=torch.uint8),
        "bn.num_batches_tracked": ints(1, dtype=torch.int64),
        "embeddings.position_embeddings": floats(64, 8),
        "embeddings.position_ids": ints(1, 64, dtype=torch.int32),
        "router.zeros": floats(4, 4),
        "first": ints(64, 64, dtype=torch.uint8),
        "second": floats(8, 8),
    }
    assert quantization_parts([(n, tuple(t.shape), t.dtype) for n, t in ordinary.items()]) == {}
