"""ExecuTorch computes with the weights that were evaluated, to the bit; skipped where it is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.errors import ArgumentError, DataError, ModelError

pytest.importorskip("executorch")

from shrinkwidget.exports.edit_xnnpack_graphs_in_pte_file import PteFile


class EveryFilter(nn.Module):
    """Every kind of filter that XNNPACK orders in a way of its own, a batch norm, and slices that take everything."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2, groups=2)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.hidden, self.head = nn.Linear(8, 6, bias=False), nn.Linear(6, 3)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)  # type: ignore[arg-type]
        nn.init.normal_(self.norm.running_mean)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        x = torch.relu(self.depthwise(torch.relu(self.norm(self.conv(x)))))
        x = self.grouped(self.up(x))[:, :, ::2]
        y: Tensor = self.head(torch.relu(self.hidden(x.mean((2, 3)))))
        return y


def mlp(inputs: int = 32, width: int = 64) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, 8)).eval()


def test_every_kind_of_filter_comes_back_to_the_bit_beside_a_batch_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = sw.compress(EveryFilter().eval(), bits=4, symmetric=True)
    exported = small.export(tmp_path / "m.pte", example=torch.randn(2, 3, 8, 8))
    assert exported.exact == "6 of 6 tensors exactly"
    assert exported.difference < 1e-6
    assert {tensor.name: tensor.stored for tensor in exported.tensors} == {
        "conv.weight": "float32",
        "depthwise.weight": "float32",
        "up.weight": "float32",
        "grouped.weight": "float32",
        "hidden.weight": "int4, 6 scales",
        "head.weight": "int4, 3 scales",
    }
    as_floats, apart = exported.notes
    assert as_floats.startswith("4 of 6 tensors as floats: XNNPACK computes with integer weights in linear layers only")
    # of the slices, those that take everything are none
    assert apart == "apart from XNNPACK, and slower: 1 × aten::slice_copy, 1 × aten::mean"


@pytest.mark.parametrize(
    ("recipe", "stored"),
    [
        (dict(bits=4, symmetric=True), "int4, 64 scales"),
        (dict(bits=8, symmetric=True, granularity="tensor"), "int8, 1 scales"),
        # steps of this grid reach beyond −8…7
        (dict(bits=4), "int8, 64 scales"),
        # rows that are pruned as a whole, whose scale is zero
        (dict(bits=2, sparsity=0.995, symmetric=True), "int4, 64 scales"),
        (dict(bits=4, granularity=16), "float32"),
        (dict(bits=3, quantizer="kmeans"), "float32"),
        (dict(bits=16), "float32"),
    ],
    ids=repr,
)
def test_linear_layers_have_integers_where_xnnpack_computes_with_them(
    recipe: dict[str, Any], stored: str, tmp_path: Path
) -> None:
    exported = sw.compress(mlp(), **recipe).export(tmp_path / "m.pte", example=torch.randn(2, 32))
    assert exported.exact == "2 of 2 tensors exactly"
    assert exported.difference < 1e-6
    assert exported.tensors[0].stored == stored


def test_a_file_of_4_bits_is_as_small_as_the_packed_one_and_takes_any_batch_up_to_the_largest(tmp_path: Path) -> None:
    model, data = mlp(512, 512), (torch.randn(21, 512), torch.randint(8, (21,)))
    small = sw.compress(model, bits=4, symmetric=True)
    exported = small.export(tmp_path / "m.pte", eval_data=data, max_batch=8)
    assert exported.score is not None
    assert exported.torch_score is not None
    assert exported.score.value == exported.torch_score.value
    assert exported.nbytes == (tmp_path / "m.pte").stat().st_size < 1.05 * small.nbytes
    files = {"small": str(tmp_path / "m.pte"), "again": str(tmp_path / "m.pte")}
    found = sw.race(files, data[0][:1], rounds=8)
    assert found.runtime.startswith("executorch")
    with pytest.raises(DataError, match=r"up to 8 rows, and this batch has 21: export it with max_batch=21"):
        sw.race(files, data[0], rounds=8)


@pytest.mark.parametrize(
    ("recipe", "stored"),
    [
        (dict(bits=4, symmetric=True, granularity=32, scales="bfloat16"), "int4, 128 scales"),
        # numbers that bfloat16 lacks, and groups that are no multiples of 32
        (dict(bits=4, symmetric=True, granularity=32), "float32"),
        (dict(bits=4, symmetric=True, granularity=16, scales="bfloat16"), "float32"),
    ],
    ids=repr,
)
def test_groups_have_integers_where_activations_are_integers_too(
    recipe: dict[str, Any], stored: str, tmp_path: Path
) -> None:
    small = sw.compress(mlp(64), **recipe)
    give = dict(example=torch.randn(2, 64), activations=8)
    if stored == "float32":
        with pytest.raises(ModelError, match=r"8-bit activations need integer weights, and there are none: XNNPACK "):
            small.export(tmp_path / "m.pte", **give)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())
        return
    exported = small.export(tmp_path / "m.pte", **give)  # type: ignore[arg-type]
    assert exported.exact == "2 of 2 tensors exactly"
    # one rounding of activations is seen, and is all that is
    assert 1e-5 < exported.difference < 0.02
    assert exported.tensors[0].stored == stored


def test_convolutions_have_integers_beside_8_bit_activations_whose_score_says_so(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = sw.compress(EveryFilter().eval(), bits=8, symmetric=True)
    data = (torch.randn(20, 3, 8, 8), torch.randint(3, (20,)))
    exported = small.export(tmp_path / "m.pte", eval_data=data, activations=8)
    assert exported.exact == "6 of 6 tensors exactly"
    assert [tensor.stored for tensor in exported.tensors] == [
        "int8, 8 scales", "float32", "float32", "int8, 8 scales", "int8, 6 scales", "int8, 3 scales",
    ]  # fmt: skip
    assert 1e-5 < exported.difference < 0.05
    assert exported.score is not None
    assert exported.score.provenance.startswith("no retraining, 8-bit activations with ranges of each input, run by")
    with pytest.raises(ArgumentError, match=r"finds the ranges of activations on each input, as it runs: leave cal"):
        small.export(tmp_path / "m.pte", eval_data=data, activations=8, calibrate=data)
    with pytest.raises(ArgumentError, match=r"export\(activations=8\) to executorch needs integer weights"):
        small.export(tmp_path / "m.pte", eval_data=data, activations=8, weights="float")


def test_the_notes_tell_which_codes_take_more_bits_than_they_have(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = sw.compress(EveryFilter().eval(), bits=4, symmetric=True)
    exported = small.export(tmp_path / "m.pte", example=torch.randn(2, 3, 8, 8), activations=8)
    assert [tensor.stored.split(",")[0] for tensor in exported.tensors].count("int8") == 2
    widened = [note for note in exported.notes if "widened" in note]
    assert widened == ["2 of 6 tensors widened from 4 bits to 8: XNNPACK has convolutions of 8 bits only"]
    default, tiny = sw.compress(mlp(), bits=4), sw.compress(mlp(), bits=2, symmetric=True)
    (note,) = default.export(tmp_path / "m.pte", example=torch.randn(2, 32)).notes
    assert note.startswith("2 of 2 tensors widened from 4 bits to 8: XNNPACK's 4 bits are steps of −8…7")
    (note,) = tiny.export(tmp_path / "m.pte", example=torch.randn(2, 32)).notes
    assert note == "2 of 2 tensors widened from 2 bits to 4: XNNPACK has no fewer"


def test_a_tied_embedding_is_held_in_both_places(tmp_path: Path) -> None:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
    head.weight = embedding.weight
    small = sw.compress(nn.Sequential(embedding, nn.Tanh(), head).eval(), bits=8, symmetric=True)
    exported = small.export(tmp_path / "m.pte", example=torch.randint(50, (2, 7)))
    assert exported.exact == "1 of 1 tensors exactly"
    assert exported.notes[-1] == "apart from XNNPACK, and slower: 1 × aten::embedding"


def test_products_with_a_matrix_are_linear_layers_and_have_integers_too(tmp_path: Path) -> None:
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    torch.manual_seed(0)
    model = nn.Sequential(conv1d(16, 16), nn.ReLU(), conv1d(8, 16)).eval()
    exported = sw.compress(model, bits=4, symmetric=True).export(tmp_path / "m.pte", example=torch.randn(2, 16))
    assert exported.exact == "2 of 2 tensors exactly"
    assert [tensor.stored for tensor in exported.tensors] == ["int4, 16 scales", "int4, 8 scales"]


def test_a_file_with_another_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = sw.compress(mlp(), bits=8, symmetric=True)
    codes = small.state_dict()["2.weight"] / small.encoded["2.weight"].scales[:, None]  # type: ignore[index]
    raw = codes.round().to(torch.int8).numpy().tobytes()
    written = PteFile.to_bytes

    def with_one_code_changed(self: PteFile) -> bytes:
        whole = bytearray(written(self))
        whole[whole.index(raw) + 5] ^= 1
        return bytes(whole)

    monkeypatch.setattr(PteFile, "to_bytes", with_one_code_changed)
    with pytest.raises(ModelError, match=r"does not hold '2\.weight' exactly \(1 of 512 values differ\)"):
        small.export(tmp_path / "m.pte", example=torch.randn(2, 32))
    assert not list(tmp_path.iterdir())


def test_what_executorch_cannot_run_is_refused_with_a_sentence(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        """ExecuTorch has no complex numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            """Run it."""
            y: Tensor = self.layer(torch.fft.fft(x).real)
            return y

    small = sw.compress(Spectrum().eval(), bits=4)
    with pytest.raises(ModelError, match=r"ExecuTorch cannot run this Spectrum"):
        small.export(tmp_path / "m.pte", example=torch.randn(2, 8))
    with pytest.raises(ArgumentError, match=r"max_batch=0\) must be a whole number of rows"):
        small.export(tmp_path / "m.pte", example=torch.randn(2, 8), max_batch=0)
    assert not list(tmp_path.iterdir())
