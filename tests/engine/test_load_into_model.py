"""A packed file fills a fresh model of the right class, and leaves any other as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.compression.batchnorm_folding import fold_batchnorm
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.files import read
from shrinkwidget.recipe_and_method_registry import Recipe

from .packed_file_helpers import Net, same, saved

RECIPE = Recipe(sparsity=0.5, bits=4, uncompressed_bits=16)


@pytest.mark.parametrize("entropy", [False, True])
def test_a_fresh_model_gets_the_effective_weights(tmp_path: Path, entropy: bool) -> None:
    path = saved(tmp_path, Net(), RECIPE, entropy)
    fresh = Net(1)
    passing = fresh.get_buffer("passing").clone()
    state = read(path, into=fresh).state_dict()
    found = fresh.state_dict()
    assert same({name: state[name] for name in found}, dict(found))
    assert fresh.head.weight is fresh.embed.weight
    assert torch.equal(fresh.get_buffer("passing"), passing)
    assert all(parameter.requires_grad for parameter in fresh.parameters())


def test_a_file_of_a_state_dict_or_of_a_file_fills_a_model(tmp_path: Path) -> None:
    net = Net()
    fresh = Net(1)
    read(saved(tmp_path, dict(net.state_dict()), Recipe()), into=fresh)
    assert same(dict(fresh.state_dict()), dict(net.state_dict()))


def test_a_file_that_names_tied_weights_once_fills_both(tmp_path: Path) -> None:
    """As safetensors' own save_model writes it."""
    state = dict(Net().state_dict())
    del state["head.weight"]
    fresh = Net(1)
    read(saved(tmp_path, state, Recipe()), into=fresh)
    assert torch.equal(fresh.head.weight, state["embed.weight"])


def test_a_model_that_does_not_tie_what_the_file_ties_is_filled(tmp_path: Path) -> None:
    fresh = Net(1)
    fresh.head.weight = nn.Parameter(torch.zeros(11, 8))
    read(saved(tmp_path, Net(), Recipe()), into=fresh)
    assert torch.equal(fresh.head.weight, Net().embed.weight)
    assert fresh.head.weight is not fresh.embed.weight


def test_half_precision_models_are_filled(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        fresh = Net(1).to(dtype)
        read(saved(tmp_path, Net().to(dtype), Recipe()), into=fresh)
        assert same(dict(fresh.state_dict()), dict(Net().to(dtype).state_dict()))


def without_norm(net: Net) -> None:
    del net.norm


def with_more(net: Net) -> None:
    net.more = nn.Linear(2, 2)


def wider(net: Net) -> None:
    net.conv = nn.Conv1d(8, 7, 3)


def tied_otherwise(net: Net) -> None:
    net.conv.bias = net.norm.bias


def on_meta(net: Net) -> None:
    net.to("meta")


def lazy(net: Net) -> None:
    net.conv = nn.LazyConv1d(6, 3)


def made_for_inference(net: Net) -> None:
    with torch.inference_mode():
        net.register_buffer("table", torch.zeros(4, 4))


def expanded(net: Net) -> None:
    net.register_buffer("table", torch.zeros(1, 4).expand(4, 4))


@pytest.mark.parametrize(
    "change, sentence",
    [
        (without_norm, "it has no 'norm.weight', which the file holds; it has no 'norm.bias'.* 2 more"),
        (with_more, "the file holds no 'more.bias', which it has; the file holds no 'more.weight', which it has$"),
        (wider, r"'conv.weight' has the shape \[7, 8, 3\], in the file \[6, 8, 3\]; 'conv.bias' has"),
        (Net.half, "'table' is float16, in the file float32"),
        (tied_otherwise, "it ties 'norm.bias' to 'conv.bias', for which the file holds another tensor"),
        (on_meta, "is on the meta device: call .to_empty"),
        (lazy, "has no shape yet"),
        (made_for_inference, "'table' was made under torch.inference_mode"),
        (expanded, "'table' is an expanded view that cannot be filled"),
    ],
)
def test_another_model_is_refused_and_left_alone(
    tmp_path: Path, change: Callable[[Net], object], sentence: str
) -> None:
    path = saved(tmp_path, Net(), RECIPE)
    other = Net(1)
    change(other)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items() if not nn.parameter.is_lazy(tensor)}
    with pytest.raises(FileError, match=f"cannot load .*: this Net is another model: .*{sentence}"):
        read(path, into=other)
    if change is not on_meta:
        assert same({name: other.state_dict()[name] for name in before}, before)


def test_a_folded_batch_norm_is_suspected_only_where_nothing_else_differs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
    folded = fold_batchnorm(net)
    plain, other = saved(tmp_path, net, Recipe()), nn.Linear(2, 2)
    with pytest.raises(FileError, match=r"another model: .*was not folded, load into the model as it was$"):
        read(plain, into=folded)
    with pytest.raises(FileError, match="this Linear is another model") as refused:
        read(plain, into=other)
    assert "batch norm was" not in str(refused.value)
    folded.add_module("more", nn.Linear(2, 2))
    with pytest.raises(FileError, match="this Sequential is another model") as refused:
        read(plain, into=folded)
    assert "batch norm was" not in str(refused.value)
    with pytest.raises(FileError, match="this Sequential is another model") as refused:
        read(saved(tmp_path, other, Recipe()), into=net)
    assert "batch norm was" not in str(refused.value)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="into=OrderedDict is no model"):
        read(saved(tmp_path, Net(), RECIPE), into=Net().state_dict())  # type: ignore[arg-type]


def test_a_damaged_file_leaves_the_model_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, Net(), RECIPE)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    fresh = Net(1)
    with pytest.raises(FileError, match="checksum"):
        read(path, into=fresh)
    assert same(dict(fresh.state_dict()), dict(Net(1).state_dict()))


def test_a_packed_file_is_no_dense_model(tmp_path: Path) -> None:
    path = saved(tmp_path, Net(), RECIPE)
    with pytest.raises(FileError, match=r"is a packed model of shrinkwidget: read it with shrinkwidget\.load"):
        open_model(path)
