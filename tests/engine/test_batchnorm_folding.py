"""Folding batch norm changes no output, brings no pruned weight back, and leaves alone what it cannot fold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from shrinkwidget import demo
from shrinkwidget.compressed_model import compress, load
from shrinkwidget.compression.batchnorm_folding import fold_batchnorm
from shrinkwidget.errors import DataError, FileError, ModelError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Recipe

from .test_compress import digest


def awake(model: nn.Module, *shape: int) -> nn.Module:
    """Give batch norm statistics and weights that matter, and return the model in eval mode."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.affine:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias)
    for _ in range(3):
        model(torch.randn(8, *shape) * 2 + 1)
    return model.eval()


def test_the_demo_keeps_its_outputs_and_every_norm_is_gone() -> None:
    model, images = demo.model(), demo.data()[0]
    before = digest(model)
    folded = fold_batchnorm(model)
    torch.testing.assert_close(folded(images), model(images), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert type(folded) is type(model)
    assert digest(model) == before


def test_zeros_stay_zeros_and_the_file_is_smaller() -> None:
    small = compress(demo.model(), Recipe(sparsity=0.8))
    assert small.model is not None
    again = compress(fold_batchnorm(small.model), small.recipe)
    assert again.model is not None
    for name, item in small.encoded.items():
        assert torch.equal(again.encoded[name].keep, item.keep)  # type: ignore[arg-type]
    assert again.nbytes < small.nbytes - 1000
    assert evaluate(again, demo.data()).value == pytest.approx(evaluate(small, demo.data()).value, abs=0.005)


@pytest.mark.parametrize(
    "model, shape",
    [
        (nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU()), (3, 9)),
        (nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)), (4, 6, 6)),
        (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4, affine=False)), (2, 4, 4, 4)),
        (nn.Sequential(nn.ConvTranspose2d(3, 6, 2, bias=False), nn.BatchNorm2d(6)), (3, 4, 4)),
        (nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh()), (5,)),
    ],
    ids=["conv1d", "grouped", "conv3d", "transposed", "linear"],
)
def test_layers_of_every_kind_keep_their_outputs(model: nn.Module, shape: tuple[int, ...]) -> None:
    awake(model.train(), *shape)
    folded, x = fold_batchnorm(model), torch.randn(16, *shape)
    torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)
    assert isinstance(folded[1], nn.Identity)  # type: ignore[index]


class Odd(nn.Module):
    """Two pairs that can be folded, one of them computed from other weights, and others that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.good, self.good_bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.branch, self.branch_bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.twice, self.twice_bn = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.tied, self.tied_bn = nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
        self.tied.weight = self.twice.weight
        self.normed, self.normed_bn = weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4)
        self.batch, self.batch_bn = nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.good_bn(self.good(x))
        y = self.branch(x)
        x = self.branch_bn(y) + y
        x = self.twice_bn(self.twice(x)) + self.twice(x)
        x = self.normed_bn(self.normed(self.tied_bn(self.tied(x))))
        out: Tensor = self.batch_bn(self.batch(x))
        return out


def test_what_cannot_be_folded_is_left_as_it_is() -> None:
    model = awake(Odd(), 4)
    folded, x = fold_batchnorm(model), torch.randn(16, 4)
    torch.testing.assert_close(folded(x), model(x), atol=1e-4, rtol=1e-4)
    assert [name for name, module in folded.named_modules() if isinstance(module, nn.Identity)] == [
        "good_bn",
        "normed_bn",
    ]


def test_one_sentence_for_what_cannot_be_traced_or_has_nothing_to_fold() -> None:
    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    told = r"cannot fold this Depends: torch\.fx cannot follow its forward \(TraceError.*give an example input"
    with pytest.raises(ModelError, match=told):
        fold_batchnorm(Depends())
    with pytest.raises(ModelError, match="nothing to fold in this Depends: no batch norm"):
        fold_batchnorm(Depends(), torch.ones(2))
    with pytest.raises(ModelError, match="nothing to fold in this Sequential: no batch norm"):
        fold_batchnorm(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ModelError, match="cannot fold a dict"):
        fold_batchnorm({})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"cannot fold a CompressedModel: give its \.model"):
        fold_batchnorm(compress(demo.model(), Recipe()))  # type: ignore[arg-type]


def test_a_file_of_a_folded_model_says_what_to_load_it_into(tmp_path: Path) -> None:
    plain, folded = tmp_path / "plain.safetensors", tmp_path / "folded.safetensors"
    compress(demo.model(), Recipe(bits=4)).save(plain)
    compress(fold_batchnorm(demo.model()), Recipe(bits=4)).save(folded)
    with pytest.raises(
        FileError, match=r"another model: .*: its batch norm was folded, load into=fold_batchnorm\(model\)"
    ):
        load(folded, into=demo.model())
    with pytest.raises(
        FileError, match=r"another model: .*: its batch norm was not folded, load into the model as it was"
    ):
        load(plain, into=fold_batchnorm(demo.model()))


class NormAct(nn.BatchNorm2d):
    """A norm with its dropout and activation in it, as timm has them."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Dropout(0.5), nn.PReLU(init=0.3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(self.drop(super().forward(x)))
        return out


class FrozenBatchNorm2d(nn.Module):
    """A norm of buffers alone, as detectors have them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (t.view(1, -1, 1, 1) for t in self.buffers())
        return (x - mean) * weight * (var + 1e-5).rsqrt() + bias


class Doubled(nn.BatchNorm2d):
    """A norm that is not only a norm."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = 2 * super().forward(x)
        return out


class Standardized(nn.Conv2d):
    """A convolution that does not compute with its weights as they are."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self._conv_forward(x, self.weight / self.weight.std(), self.bias)
        return out


@pytest.mark.parametrize(
    "layer, norm, shape",
    [
        (nn.ConvTranspose2d(8, 6, 3, groups=2), nn.BatchNorm2d(6), (8, 5, 5)),
        (nn.ConvTranspose1d(6, 9, 2, groups=3, stride=2, bias=False), nn.BatchNorm1d(9), (6, 5)),
        (nn.ConvTranspose3d(4, 4, 2, dilation=2, groups=4), nn.BatchNorm3d(4), (4, 3, 3, 3)),
        (nn.Conv2d(3, 8, 3, padding=2, padding_mode="reflect"), nn.SyncBatchNorm(8), (3, 6, 6)),
        (nn.Conv2d(3, 8, 3, bias=False), NormAct(8), (3, 6, 6)),
        (nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), (3, 6, 6)),
        (nn.Linear(5, 7).double(), nn.BatchNorm1d(7).double(), (5,)),
    ],
    ids=["in 2 groups", "in 3 groups", "depthwise", "sync", "with activation", "frozen", "float64"],
)
def test_norms_and_layers_of_other_kinds_fold_too(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    model = nn.Sequential(layer, norm).eval()
    before = digest(model)
    folded = fold_batchnorm(model)
    x = torch.randn(4, *shape, dtype=next(layer.parameters()).dtype)
    torch.testing.assert_close(folded(x), model(x), atol=1e-5, rtol=1e-5)
    assert not any("running_mean" in name for name in folded.state_dict())
    assert digest(model) == before
    torch.testing.assert_close(folded(x), fold_batchnorm(nn.Sequential(model, nn.ReLU()))[0](x))  # type: ignore[index]


def hooked() -> nn.Module:
    layer = nn.Conv2d(3, 4, 1)
    layer.register_forward_hook(lambda _module, _inputs, output: output + 1)
    return layer


def overflowing() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.weight, 6e4)
    nn.init.constant_(norm.running_var, 1e-3)  # type: ignore[arg-type]
    return norm.half()


def tied() -> list[nn.Module]:
    first, second = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
    second.weight = first.weight
    return [first, second]


def constant() -> nn.Module:
    norm = nn.BatchNorm2d(4, eps=0)
    nn.init.zeros_(norm.running_var)  # type: ignore[arg-type]
    return norm


@pytest.mark.parametrize(
    "layers, why",
    [
        ([nn.Conv2d(3, 4, 1), Doubled(4)], "'1' would change the outputs by"),
        ([Standardized(3, 4, 1), nn.BatchNorm2d(4)], "'1' would change the outputs by"),
        ([nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)], "'1' takes its statistics from the batch"),
        ([nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)], "'2' does not follow a convolution .* directly"),
        ([hooked(), nn.BatchNorm2d(4)], "'1' or '0' before it is hooked"),
        ([nn.Linear(3, 4), nn.BatchNorm2d(4)], "'1' cannot be tried with the layer before it"),
        ([nn.Conv2d(3, 4, 1).half(), overflowing()], "'1' would make weights .* larger than their dtype can hold"),
        ([nn.Conv2d(3, 4, 1), constant()], "'1' gives outputs that are not finite"),
        ([*tied(), nn.BatchNorm2d(4), nn.BatchNorm2d(4)], r"'2' follows '1', whose weight is tied.*\(and 1 more"),
        ([nn.Conv2d(4, 4, 1), norm := nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), norm], "'1' is called more than once"),
    ],
)
def test_a_norm_that_stays_is_told_with_the_reason(layers: list[nn.Module], why: str) -> None:
    with pytest.raises(ModelError, match=f"nothing to fold in this Sequential: .*{why}"):
        fold_batchnorm(nn.Sequential(*layers))


def test_weights_used_elsewhere_are_not_folded() -> None:
    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.conv(x))
            return nn.functional.conv2d(out, self.conv.weight)

    with pytest.raises(ModelError, match="'norm' follows 'conv', whose weights are used elsewhere, too"):
        fold_batchnorm(Borrowed())


def test_sequences_are_refused_where_the_norm_would_have_seen_other_channels() -> None:
    folded = fold_batchnorm(awake(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)), 5))
    assert folded(torch.randn(2, 5)).shape == (2, 7)
    with pytest.raises(AssertionError, match="use the unfolded model"):
        folded(torch.randn(2, 7, 5))
    with pytest.raises(ModelError, match="nothing to fold"):
        fold_batchnorm(folded)
    torch.export.export(folded.eval(), (torch.randn(2, 5),))


def test_memory_order_and_what_trains_stay() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    model[0].requires_grad_(False)
    folded = fold_batchnorm(model)
    conv = folded.get_submodule("0")
    assert conv.get_parameter("weight").is_contiguous(memory_format=torch.channels_last)
    assert [p.requires_grad for p in folded.parameters()] == [False, False]
    assert folded.training
    assert model[1].training


def test_the_norms_of_timm_fold_and_leave_their_activations() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("mobilenetv3_small_050", num_classes=4).eval()
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    folded, images = fold_batchnorm(model.double()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 34
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = model(images), folded(images)
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


class Untraceable(nn.Module):
    """Runs another module, by a condition on its inputs that torch.fx cannot follow."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> object:
        return self.inner(x if x.sum() > 0 else -x)


def test_an_example_shows_what_tracing_cannot_follow() -> None:
    model, x = Untraceable(awake(Odd(), 4)), torch.randn(16, 4)
    state = torch.get_rng_state()
    folded = fold_batchnorm(model, x)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(folded(x), model(x), atol=1e-4, rtol=1e-4)
    gone = [name for name, module in folded.named_modules() if isinstance(module, nn.Identity)]
    assert gone == ["inner.good_bn", "inner.normed_bn"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in folded.modules())


@pytest.mark.parametrize(
    ("family", "sizes", "shape"),
    [
        ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}, (2, 3, 32, 32)),
        ("RegNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8}, (2, 3, 32, 32)),
        ("MobileNetV2", {"depth_multiplier": 0.25}, (2, 3, 32, 32)),
    ],
)
def test_the_norms_of_transformers_fold_with_an_example(
    family: str, sizes: dict[str, object], shape: tuple[int, ...]
) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForImageClassification")(getattr(transformers, f"{family}Config")(**sizes))
    for module in model.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="give an example input"):
        fold_batchnorm(model)
    model, images = model.double(), torch.randn(shape, dtype=torch.float64)
    folded = fold_batchnorm(model, {"pixel_values": images})
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        expected, found = model(images).logits, folded(images).logits
    assert float((found - expected).abs().max()) <= 1e-12 * float(expected.abs().max())


class Uses(nn.Module):
    """A layer and the norm after it, and something else that is done with one of them."""

    def __init__(self, use: Callable[[Any], object]) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.use = use

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return self.use(SimpleNamespace(model=self, y=y, z=self.norm(y)))


@pytest.mark.parametrize(
    ("use", "why"),
    [
        (lambda at: at.z + at.y, "'inner.conv', whose output or weights are used elsewhere"),
        (lambda at: (at.z, {"hidden": [at.y]}), "'inner.conv', whose output or weights are used elsewhere"),
        (lambda at: at.z if at.y.mean() > 0 else -at.z, "'inner.conv', whose output or weights are used elsewhere"),
        (
            lambda at: at.z * at.y.detach().tolist()[0][0][0][0],
            "'inner.conv', whose output or weights are used elsewhere",
        ),
        (lambda at: at.model.other(at.y) + at.z, "'inner.conv', whose output or weights are used elsewhere"),
        (lambda at: at.model.conv(at.z), "'inner.conv', whose output or weights are used elsewhere"),
        (lambda at: at.model.norm(at.z), "'inner.norm' is called more than once"),
        (lambda at: at.z * at.model.conv.weight.sum(), "'inner.conv', whose weights are used elsewhere"),
        (lambda at: at.z + at.model.norm.running_mean.mean(), "'inner.norm' has weights or statistics that are used"),
        (lambda at: at.z.relu(), ""),
        (lambda at: at.z.view(at.y.shape[0], at.y.size(1), -1) * len(at.y) * at.y.dim(), ""),
    ],
)
def test_what_else_the_example_does_with_a_layer_keeps_it(use: Callable[[Any], object], why: str) -> None:
    model, x = awake(Untraceable(Uses(use)), 3, 4, 4), torch.randn(2, 3, 4, 4)
    if why:
        with pytest.raises(ModelError, match=f"nothing to fold in this Untraceable: .*{why}"):
            fold_batchnorm(model, x)
    else:
        torch.testing.assert_close(fold_batchnorm(model, x)(x), model(x))


def test_a_fold_that_changes_the_example_s_outputs_is_refused() -> None:
    def by_class(at: Any) -> object:
        return at.z if isinstance(at.model.norm, nn.BatchNorm2d) else 1.01 * at.z

    for dtype in (torch.float32, torch.float64):
        model, x = awake(Untraceable(Uses(by_class)), 3, 4, 4).to(dtype), torch.randn(2, 3, 4, 4, dtype=dtype)
        with pytest.raises(ModelError, match=r"outputs on the example would change by 1\.00%"):
            fold_batchnorm(model, x)
    with pytest.raises(DataError, match="the model cannot run input 2×7 float32"):
        fold_batchnorm(model, torch.randn(2, 7))
