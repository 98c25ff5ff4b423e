"""Opening models: every tensor is listed, with a status and a reason, whatever module it is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.recipe_and_method_registry import Recipe


class Everything(nn.Module):
    """One of each: what a recipe may change, and what not."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv1d(2, 4, 3), nn.Conv2d(2, 4, 3), nn.Conv3d(2, 4, 3), nn.ConvTranspose2d(2, 4, 3)]
        )
        self.norm = nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(8, 2)
        self.lstm = nn.LSTM(4, 3)
        self.gru = nn.GRU(4, 3)
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.bare = nn.Parameter(torch.ones(3, 3))
        self.scale = nn.Parameter(torch.ones(3))
        self.codes = nn.Parameter(torch.ones(3, 3, dtype=torch.int8), requires_grad=False)
        self.register_buffer("mask", torch.ones(4, 4), persistent=False)


def test_every_float_parameter_with_two_dimensions_is_compressible() -> None:
    layers = [e.name for e in open_model(Everything()).layers]
    expected = {
        *(f"convs.{i}.weight" for i in range(4)),
        *(f"{rnn}.weight_{part}_l0" for rnn in ("lstm", "gru") for part in ("ih", "hh")),
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "embed.weight",
        "bare",
    }
    assert set(layers) == expected


def test_everything_else_is_listed_with_the_reason() -> None:
    why = {e.name: e.why for e in open_model(Everything()).entries if not e.compressible}
    assert why["scale"] == why["norm.weight"] == "fewer than two dimensions (a bias, a norm, a scalar)"
    assert why["norm.running_mean"] == why["mask"] == "a buffer, not a parameter"
    assert why["codes"].startswith("int8: only float16")


def test_tied_weights_count_once_under_both_names() -> None:
    weights = open_model(Everything())
    embed = next(e for e in weights.entries if e.name == "embed.weight")
    assert embed.aliases == ("head.weight",)
    assert sum(e.numel for e in weights.entries if e.role == "parameter") == sum(
        p.numel() for p in Everything().parameters()
    )


def test_buffers_that_are_not_saved_are_listed_but_not_kept() -> None:
    weights = open_model(Everything())
    assert "mask" in {e.name for e in weights.entries}
    assert "mask" not in {e.name for e in weights.uncompressed}


def test_a_state_dict_and_a_file_have_the_layers_of_their_module(tmp_path: Path) -> None:
    conv = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Linear(4, 2))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    names = {e.name for e in open_model(model).layers}
    for source in (model.state_dict(), tmp_path / "model.safetensors", str(tmp_path / "model.safetensors")):
        opened = open_model(source)
        assert {e.name for e in opened.layers} == names
        statistics = next(e for e in opened.entries if e.name == "1.running_mean")
        assert statistics.role == "buffer"
    loaded = next(e for e in open_model(tmp_path / "model.safetensors").layers if e.name == "0.weight")
    assert torch.equal(loaded.load(), conv.weight)


@pytest.mark.parametrize(
    "source, sentence",
    [
        (nn.Linear(2, 2, device="meta"), "on the meta device and has no values"),
        (nn.LazyLinear(3), "run one batch through the model first"),
        (nn.BatchNorm2d(3), "nothing to compress in BatchNorm2d"),
        ({"a": torch.ones(2, 2, dtype=torch.complex64)}, "complex64: only float16"),
        ({"a": torch.ones(2, 2, dtype=torch.int32)}, "int32: only float16"),
        ({"model": {"a": torch.ones(2, 2)}}, "is the state dict one level down?"),
        ({1: torch.ones(2, 2)}, "the state dict has the key 1; expected names of tensors"),
        ({"a": 3}, "holds 'a', of type int"),
        ({}, "nothing to compress in state dict: no float parameter with two or more dimensions (it has no tensors)"),
        ({"a": torch.ones(2, 2).to_sparse()}, "'a' is stored as sparse_coo: make it dense with .to_dense() first"),
        # what no file can hold is refused before any work is done
        ({"a": torch.ones(2, 2), "b": torch.empty(0, 2**61)}, "'b' has the shape [0, 2305843009213693952], more than"),
        ({"a": torch.ones([2] + [1] * 64)}, "'a' has the shape of 65 dimensions, more than the 64 that can be read"),
        ({"a\ud800": torch.ones(2, 2)}, "has half of a surrogate pair, which no file can hold: rename it"),
        (3, "cannot look at an int: give an nn.Module, a state dict, or the path"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_sentence(source: object, sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        open_model(source)  # type: ignore[arg-type]
    assert sentence in str(refused.value)


def test_a_compressed_model_says_where_its_module_is() -> None:
    small = compress(nn.Linear(4, 4), Recipe(bits=4))
    with pytest.raises(
        ModelError, match=r"cannot look at a CompressedModel: give its \.model, or its \.state_dict\(\)$"
    ):
        open_model(small)  # type: ignore[arg-type]


def test_files_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "model.pt")
    (tmp_path / "text.safetensors").write_text("hello, this is no tensor file")
    save_file({"a": torch.ones(64, 64)}, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name, sentence in {
        "model.pt": "is a pickle",
        "text.safetensors": "not a readable safetensors file",
        "cut.safetensors": "not a readable safetensors file",
        "missing.safetensors": "there is no file",
        "": "holds several models, 'cut.safetensors', 'text.safetensors': give the path of one",
    }.items():
        with pytest.raises(FileError, match=sentence):
            open_model(tmp_path / name)


def test_a_file_named_from_another_folder_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"w": torch.ones(2, 3)}, "model.safetensors")
    (entry,) = open_model("model.safetensors").entries
    monkeypatch.chdir(tmp_path.parent)
    assert torch.equal(entry.load(), torch.ones(2, 3))


@pytest.mark.parametrize("now", [None, b"something else", {"v": torch.ones(2, 3)}])
def test_a_file_that_changed_meanwhile_is_refused_with_a_sentence(tmp_path: Path, now: Any) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(2, 3)}, path)
    (entry,) = open_model(path).entries
    path.unlink()
    if isinstance(now, bytes):
        path.write_bytes(now)
    elif now is not None:
        save_file(now, path)
    with pytest.raises(FileError, match="'w' can no longer be read from"):
        entry.load()
