"""ONNX files compute with the weights that were evaluated, to the bit, in ONNX Runtime; or nothing is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.errors import ArgumentError, Cancelled, FileError, MissingPackageError, ModelError
from shrinkwidget.exports import onnx as onnx_export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx.reference")

TEST = sw.demo.data("test")
FOLDED = sw.fold_batchnorm(sw.demo.model())


class Tied(nn.Module):
    """A small language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.inner, self.head = nn.Embedding(50, 16), nn.LSTM(16, 16), nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> dict[str, Any]:
        """Return logits, and something that is no tensor."""
        found: Tensor = self.head(self.inner(self.embedding(tokens))[0])
        return {"logits": found, "words": 50}


def mixed() -> nn.Module:
    """Return layers whose output channels are not their first axis, or whose groups do not fill their rows."""
    torch.manual_seed(0)
    return nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten()).eval()


def net() -> nn.Module:
    """Return a small convolutional network for images of digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()


def by_onnx(path: Path, *names: str) -> dict[str, Tensor]:
    """Return values of the graph as ONNX's own reference implementation computes them, not its runtime."""
    model = onnx.load(path)
    del model.graph.output[:]
    for name in names:
        model.graph.output.add().name = name
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    del model.graph.node[:], model.graph.input[:]
    model.graph.node.extend(reversed(nodes))
    found = onnx.reference.ReferenceEvaluator(model).run(None, {})
    return {name: torch.from_numpy(value.copy()) for name, value in zip(names, found, strict=True)}


@pytest.mark.parametrize(
    "recipe",
    [
        dict(bits=3, granularity=48),
        dict(bits=4, sparsity=0.8, layers={"3": sw.Keep}),
        dict(bits=5, sparsity=0.6, granularity="tensor", symmetric=True),
        dict(quantizer="kmeans", bits=3, sparsity=0.5),
        dict(quantizer="nf4", sparsity=0.3),
        dict(bits=1, sparsity=0.3),
        dict(bits=16, sparsity=0.7, uncompressed_bits=16),
    ],
    ids=repr,
)
def test_any_grid_mask_and_granularity_comes_back_to_the_bit(recipe: dict[str, Any], tmp_path: Path) -> None:
    small = sw.compress(net(), **recipe)
    exported = small.export(tmp_path / "model.onnx", example=TEST[0][:1])
    assert exported.exact == f"{len(small.encoded)} of {len(small.encoded)} tensors exactly"
    weights = small.state_dict()
    for name, found in by_onnx(exported.path, *small.encoded).items():
        assert torch.equal(found, weights[name]), name


def test_weights_that_are_stored_in_another_order_come_back(tmp_path: Path) -> None:
    for weights in ("packed", "dequantize"):
        small = sw.compress(mixed(), bits=4, granularity=7, sparsity=0.4)
        exported = small.export(tmp_path / "m.onnx", example=torch.randn(1, 4, 5, 5), weights=weights)
        assert exported.exact == "2 of 2 tensors exactly"
        assert exported.difference < 1e-5


def test_tied_weights_are_stored_once_and_other_outputs_are_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = sw.compress(Tied().eval(), bits=8)
    exported = small.export(tmp_path / "m.onnx", example=torch.randint(50, (7, 2)))
    assert exported.exact == "3 of 3 tensors exactly"
    table = [i for i in onnx.load(exported.path).graph.initializer if len(i.raw_data) == 50 * 16]
    assert len(table) == 1


@pytest.fixture(scope="module")
def packed4(tmp_path_factory: pytest.TempPathFactory) -> sw.exports.Exported:
    """The folded demo network at 4 bits, exported and scored."""
    return sw.compress(FOLDED, bits=4).export(tmp_path_factory.mktemp("onnx") / "digits.onnx", eval_data=TEST)


def test_a_packed_file_is_as_small_as_ours_and_scores_as_in_torch(packed4: sw.exports.Exported) -> None:
    assert packed4.exact == "14 of 14 tensors exactly"
    assert packed4.nbytes == packed4.path.stat().st_size <= 1.06 * packed4.packed_nbytes
    assert packed4.score is not None
    assert packed4.torch_score is not None
    assert packed4.score.n == 360
    assert packed4.score.value == packed4.torch_score.value
    assert packed4.score.low == packed4.torch_score.low
    assert packed4.score.provenance.endswith(f"run by onnxruntime {onnxruntime.__version__}")
    assert "14 of 14 tensors exactly" in repr(packed4)


def test_the_file_tells_nothing_of_this_machine_and_takes_any_batch(packed4: sw.exports.Exported) -> None:
    content = packed4.path.read_bytes()
    assert os.fsencode(Path(sw.__file__).parent) not in content
    assert b"torch" not in content
    session = onnxruntime.InferenceSession(content)
    for rows in (1, 7):
        (found,) = session.run(None, {session.get_inputs()[0].name: TEST[0][:rows].numpy()})
        assert found.shape == (rows, 10)


def test_the_runtime_unpacks_weights_once_and_runs_plain_convolutions(
    packed4: sw.exports.Exported, tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(packed4.path, options)
    left = {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}
    assert "Conv" in left
    assert not left & {"weight", "scales", "Cast", "Mul", "BitShift", "DequantizeLinear"}


def test_batch_norms_are_not_multiplied_into_the_weights(tmp_path: Path) -> None:
    small = sw.compress(sw.demo.model(), bits=8, symmetric=True)
    exported = small.export(tmp_path / "m.onnx", example=TEST[0][:2], weights="dequantize")
    assert exported.exact == "14 of 14 tensors exactly"
    kinds = [node.op_type for node in onnx.load(exported.path).graph.node]
    assert kinds.count("BatchNormalization") == 13
    assert kinds.count("DequantizeLinear") == 14
    assert 'session option "session.disable_quant_qdq"' in repr(exported)


def test_8_bit_activations_keep_our_weights_and_run_in_integers(tmp_path: Path) -> None:
    small = sw.compress(FOLDED, bits=4)
    exported = small.export(tmp_path / "m.onnx", eval_data=TEST, activations=8, calibrate=sw.demo.data("train"))
    assert exported.exact == "14 of 14 tensors exactly"
    assert exported.notes == ("14 of 14 convolutions and matrix products run in 8-bit integers",)
    assert exported.score is not None
    assert exported.score > 0.98
    assert "8-bit activations calibrated on 512 of 1,150 examples" in exported.score.provenance
    assert 1e-5 < exported.difference < 0.05


def test_what_integers_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    give: dict[str, Any] = dict(example=TEST[0][:2], activations=8, calibrate=TEST[0])
    with pytest.raises(ModelError, match=r"'0.weight'.*'nf4' are not evenly spaced; use weights=\"packed\""):
        sw.compress(net(), quantizer="nf4").export(tmp_path / "m.onnx", **give)
    with pytest.raises(ModelError, match=r"one scale.*'3.weight' has 90 scales: compress with gran"):
        sw.compress(net(), bits=8, granularity=32).export(tmp_path / "m.onnx", **give)
    with pytest.raises(ModelError, match=r"weights of up to 8 bits, and '0.weight' has 16"):
        sw.compress(net(), bits=16).export(tmp_path / "m.onnx", **give)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_is_kept_runs_in_floats_and_is_named(tmp_path: Path) -> None:
    small = sw.compress(net(), bits=8, layers={"3": sw.Keep})
    exported = small.export(tmp_path / "m.onnx", example=TEST[0][:2], activations=8, calibrate=TEST[0])
    assert exported.notes[0].startswith("1 of 2 convolutions and matrix products run in 8-bit integers; in floats")


def corrupted(change: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports write graphs that a fault has changed."""
    strip = onnx_export._strip

    def faulty(model: Any, tensors: set[str]) -> dict[str, str]:
        change(model.graph)
        return strip(model, tensors)

    monkeypatch.setattr(onnx_export, "_strip", faulty)


def test_a_weight_that_is_off_by_one_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def change(graph: Any) -> None:
        codes = max(graph.initializer, key=lambda i: len(i.raw_data))
        codes.raw_data = bytes([codes.raw_data[0] ^ 1]) + codes.raw_data[1:]

    (tmp_path / "m.onnx").write_bytes(b"before")
    corrupted(change, monkeypatch)
    with pytest.raises(ModelError, match=r"does not hold '3.weight' exactly \(1 of 2,880 values differ"):
        sw.compress(net(), bits=4).export(tmp_path / "m.onnx", example=TEST[0][:2])
    assert (tmp_path / "m.onnx").read_bytes() == b"before"


def test_a_runtime_that_disagrees_is_refused_and_the_operator_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(graph: Any) -> None:
        first = next(node for node in graph.node if node.op_type == "Relu")
        first.op_type = "Abs"

    corrupted(change, monkeypatch)
    with pytest.raises(ModelError, match=r"differ by .* of the largest output on the example.*, from 'relu' on"):
        sw.compress(net(), bits=4).export(tmp_path / "m.onnx", example=TEST[0][:2])
    assert not list(tmp_path.iterdir())


class Branching(nn.Module):
    """Control flow that depends on data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        """Leave out the layer for some inputs."""
        return self.layer(x) if x.sum() > 0 else x


@torch.library.custom_op("shrinkwidget_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    """Return a tensor twice as large."""
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Custom(Branching):
    """An operator nobody else knows."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer twice as strongly."""
        found: Tensor = twice(self.layer(x))
        return found


def test_models_that_no_graph_can_hold_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for model, match in (
        (Branching(), "torch.export cannot follow this Branching .*without branches or sizes that depend on values"),
        (Custom(), "ONNX has nothing for the operator shrinkwidget_tests.twice"),
        (nn.Sequential(nn.Linear(8, 8)).bfloat16(), "ONNX Runtime cannot run this Sequential .*float32 works"),
    ):
        dtype = next(model.parameters()).dtype
        with pytest.raises(ModelError, match=match) as caught:
            sw.compress(model, bits=4).export(tmp_path / "m.onnx", example=torch.ones(2, 8, dtype=dtype))
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().err == ""


def test_wrong_arguments_are_answered_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = sw.compress(FOLDED, bits=4)
    x = TEST[0][:2]
    for given, match in (
        (dict(path="m.onnx"), "needs an example: example=x"),
        (dict(path="m.xyz", example=x), r"by its suffix: give target=, or one of .*\.onnx \(onnx\)"),
        (dict(path="m.xyz", target="onxx", example=x), "there is no target 'onxx'; did you mean 'onnx'"),
        (dict(path="m.onnx", example=x, weigths="packed"), "no argument 'weigths'; did you mean 'weights'"),
        (dict(path="m.onnx", example=x, weights="dense"), "weights='dense'\\) must be one of 'auto'"),
        (dict(path="m.onnx", example=x, activations=4), "must be None \\(floats\\) or 8"),
        (dict(path="m.onnx", example=x, activations=8), "give calibrate= training data"),
        (dict(path="m.onnx", example=x, calibrate=x), "give activations=8 too"),
    ):
        with pytest.raises(ArgumentError, match=match):
            small.export(tmp_path / str(given.pop("path")), **given)
    with pytest.raises(ModelError, match=r"needs the network, and here are only weights: load the file"):
        sw.compress(FOLDED.state_dict(), bits=4).export(tmp_path / "m.onnx", example=x)

    monkeypatch.setattr("shrinkwidget.exports.exporter.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(
        MissingPackageError, match=r'needs onnxscript: pip install "shrinkwidget\[onnx\]" \(about \d+ MB'
    ):
        small.export(tmp_path / "m.onnx", example=x)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".gguf", ".pte"])
def test_a_folder_that_is_not_there_is_told_before_any_work(suffix: str, tmp_path: Path) -> None:
    told: list[str] = []
    small = sw.compress(nn.Sequential(nn.Linear(8, 8)), bits=4)
    with pytest.raises(FileError, match=r"cannot write '.*nowhere/m.*there is no folder '.*nowhere'"):
        small.export(
            tmp_path / "nowhere" / f"m{suffix}",
            example=torch.ones(2, 8),
            progress=lambda what, _: told.append(what),
        )
    assert told == []


def test_progress_is_told_and_an_export_can_be_cancelled(tmp_path: Path) -> None:
    small, told = sw.compress(nn.Sequential(nn.Linear(8, 8)), bits=4), list[tuple[str, float]]()
    small.export(tmp_path / "a.onnx", example=torch.ones(2, 8), progress=lambda what, share: told.append((what, share)))
    assert [share for _, share in told] == sorted(share for _, share in told)
    assert told[0] == ("tracing the model", 0.0)
    assert told[-1] == ("done", 1.0)
    with pytest.raises(Cancelled, match="no file was written"):
        small.export(tmp_path / "b.onnx", example=torch.ones(2, 8), cancelled=lambda: len(told) > 3)
    assert not (tmp_path / "b.onnx").exists()


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = sw.compress(nn.Sequential(nn.Linear(8, 8)), bits=4)
    (tmp_path / "m.onnx").write_bytes(b"before")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="No space left on device; the file there is unchanged"):
        small.export(tmp_path / "m.onnx", example=torch.ones(2, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"before"


def test_a_batch_that_the_model_fixes_is_told_and_scored_in_pieces(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            found: Tensor = self.layer(images.reshape(4, 64))
            return found

    images, labels = TEST[0][:10], TEST[1][:10]
    torch.manual_seed(0)
    small = sw.compress(Fixed(), bits=4)
    exported = small.export(
        tmp_path / "m.onnx", example=images[:4], eval_data=[(images[:4], labels[:4]), (images[4:8], labels[4:8])]
    )
    assert exported.notes[0] == "its batch is fixed at 4 rows: the model computes with that size"
    assert exported.score is not None
    assert exported.score.n == 8
