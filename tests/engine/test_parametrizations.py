"""Of weights that a module computes, what it multiplies with is counted, pruned, saved and trained: never the parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from shrinkwidget import demo
from shrinkwidget.analysis.model_summary import summary
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.compressed_model import compress, load
from shrinkwidget.errors import FileError
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune
from shrinkwidget.training.retrain_and_training_run import retrain
from shrinkwidget.transfer_learning.transfer import transfer
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import LinearProbe, LoRA

from .packed_file_helpers import same_bits

pytestmark = pytest.mark.filterwarnings("ignore:.*norm.* is deprecated:FutureWarning")
DATA = (torch.randn(48, 8), torch.arange(48) % 2)


class Adapter(nn.Module):
    """A low-rank update, as others write them."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self.down, self.up = nn.Parameter(torch.randn(2, shape[1])), nn.Parameter(torch.randn(shape[0], 2))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adapted(layer: nn.Linear) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", Adapter(layer.weight.shape))


def masked_twice(layer: nn.Linear) -> nn.Module:
    prune.random_unstructured(layer, "weight", 0.3)
    prune.ln_structured(layer, "weight", 0.2, n=2, dim=0)
    return layer


WAYS: dict[str, Callable[[nn.Linear], nn.Module]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight norm": nn.utils.weight_norm,
    "old spectral norm": nn.utils.spectral_norm,
    "adapter": adapted,
    "two": lambda layer: adapted(parametrizations.weight_norm(layer)),
    "mask": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "masks": masked_twice,
    "mask of a bias": lambda layer: prune.random_unstructured(layer, "bias", 0.5),
}
ways = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def net(way: Callable[[nn.Linear], nn.Module], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(way(nn.Linear(8, 12)), nn.ReLU(), way(nn.Linear(12, 2)))


@ways
def test_the_effective_weight_is_what_is_listed_and_its_parts_are_what_is_in_memory(
    way: Callable[[nn.Linear], nn.Module],
) -> None:
    model = net(way).eval()
    layers = open_model(model).layers
    assert [layer.name for layer in layers] == ["0.weight", "2.weight"]
    model(DATA[0])  # a hook that computes a weight does so before each call
    assert torch.equal(layers[0].load(), dict(vars(model[0])).get("weight", model[0].weight))
    size = summary(model, DATA[0][:1])
    assert size.parameters == 8 * 12 + 12 + 12 * 2 + 2
    stored = [*model.parameters(), *model.buffers()]
    assert size.nbytes == sum(t.nbytes for t in stored)
    assert {t.name: t.macs for t in size.tensors if t.macs} == {"0.weight": 96, "2.weight": 24}
    assert size.safetensors == compress(model, Recipe()).original_nbytes


@ways
@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(bits=3, sparsity=0.8, scope="layer"), Recipe(sparsity=0.95)], ids=str
)
def test_the_compressed_model_computes_with_exactly_the_weights_its_file_holds(
    way: Callable[[nn.Linear], nn.Module], recipe: Recipe, tmp_path: Path
) -> None:
    model = net(way).train()
    before = copy.deepcopy(model.state_dict())
    compressed = compress(model, recipe)
    assert compressed.model is not None
    assert compressed.save(tmp_path / "file") == compressed.nbytes
    fresh, plain = net(way, seed=5), nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 2))
    for into in (fresh, plain):
        load(tmp_path / "file", into=into)
        for name, value in compressed.model.state_dict().items():
            assert same_bits(into.state_dict()[name], value)
        assert torch.equal(into.eval()(DATA[0]), compressed.model.eval()(DATA[0]))
    assert compressed.model(DATA[0]).isfinite().all()
    if recipe == Recipe():
        assert torch.allclose(compressed.model(DATA[0]), model.eval()(DATA[0]), atol=1e-6)
    assert list(model.state_dict()) == list(before)
    assert all(same_bits(value, before[name]) for name, value in model.state_dict().items())
    assert model(DATA[0]).isfinite().all()  # it still computes its weights itself


@ways
def test_it_is_trained_further_with_its_masks_and_taught(way: Callable[[nn.Linear], nn.Module]) -> None:
    model = net(way)
    small = compress(model, Recipe(sparsity=0.6))
    done = retrain(small, DATA, method=FineTune(epochs=2, lr=0.05)).model
    assert done is not None
    assert small.model is not None
    for name in small.encoded:
        assert torch.equal(done.get_parameter(name) == 0, small.model.get_parameter(name) == 0)
    assert not torch.equal(done.get_parameter("0.weight"), small.model.get_parameter("0.weight"))
    assert retrain(model, DATA, method=FineTune(epochs=1)).model is not None
    for strategy in (LinearProbe(epochs=1), LoRA(epochs=1)):
        assert transfer(model, DATA, strategy=strategy).model(DATA[0]).isfinite().all()


def test_frozen_parts_make_a_frozen_weight_and_recurrent_layers_use_what_is_loaded(tmp_path: Path) -> None:
    layer = adapted(nn.Linear(8, 4)).requires_grad_(False)
    model = compress(layer, Recipe()).model
    assert model is not None
    assert not model.get_parameter("weight").requires_grad

    def lstm() -> nn.Module:
        return nn.utils.weight_norm(nn.LSTM(5, 6), "weight_hh_l0")

    torch.manual_seed(0)
    compressed = compress(lstm(), Recipe(bits=4))
    compressed.save(tmp_path / "lstm")
    fresh = lstm()
    load(tmp_path / "lstm", into=fresh)
    x = torch.randn(3, 2, 5)
    assert compressed.model is not None
    assert torch.equal(fresh(x)[0], compressed.model(x)[0])


def test_a_model_that_does_not_fit_is_left_as_it_was(tmp_path: Path) -> None:
    compress(net(parametrizations.weight_norm), Recipe()).save(tmp_path / "file")
    other = nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 11)), nn.ReLU(), nn.Linear(11, 2))
    with pytest.raises(FileError, match=r"'0\.weight' has the shape \[11, 8\]"):
        load(tmp_path / "file", into=other)
    assert parametrize.is_parametrized(other[0], "weight")


def test_masks_of_torchs_pruning_are_zeros_of_the_network() -> None:
    model = demo.model()
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.9)
    masked = compress(model, Recipe())
    for module, name in layers:
        prune.remove(module, name)
    removed = compress(model, Recipe())
    assert masked.nbytes == removed.nbytes < 99_000
    assert masked.estimate is not None
    assert masked.estimate.sparsity == pytest.approx(0.9, abs=1e-4)
    assert "90.0% sparse" in repr(masked)
