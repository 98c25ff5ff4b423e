"""Folding batch norm changes no output, brings no pruned weight back, and leaves alone what it cannot fold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from shrinkwidget import demo
from shrinkwidget.compressed import compress, load
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.recipe import Recipe
from shrinkwidget.shrink.fold import fold_batchnorm
from shrinkwidget.train.evaluate import evaluate

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
    for name, item in small.coded.items():
        assert torch.equal(again.coded[name].keep, item.keep)  # type: ignore[arg-type]
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
    """One pair that can be folded, and others that cannot."""

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
    assert [name for name, module in folded.named_modules() if isinstance(module, nn.Identity)] == ["good_bn"]


def test_one_sentence_for_what_cannot_be_traced_or_has_nothing_to_fold() -> None:
    class Depends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"cannot fold this Depends: torch\.fx cannot follow its forward \(TraceError"):
        fold_batchnorm(Depends())
    with pytest.raises(ModelError, match="nothing to fold in this Sequential: no batch norm"):
        fold_batchnorm(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ModelError, match="cannot fold a dict"):
        fold_batchnorm({})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"cannot fold a Compressed: give its \.model"):
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
