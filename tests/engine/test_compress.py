"""Compressing makes a new model of the same class, exactly what its file loads, and leaves the old one alone."""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn
from torch.nn.utils import prune

from shrinkwidget import demo
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import ModelTensors, copied_without, open_model
from shrinkwidget.analysis.sketch import sketch
from shrinkwidget.compressed_model import CompressedModel, compress, load
from shrinkwidget.compression.encode_layers_and_packed_model import decoded_state, encode_layers
from shrinkwidget.errors import FileError, ModelError, RecipeError
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

from .exact_figures_helpers import exact
from .packed_file_helpers import Net, recipes, same, same_bits, state_dicts

RECIPE = Recipe(sparsity=0.5, bits=4, uncompressed_bits=16)


class Mixed(nn.Module):
    """Layers of every kind that holds weights, tied, frozen, hooked, in several dtypes and modes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 16)
        self.conv = nn.Conv2d(3, 8, 3)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.norm = nn.BatchNorm2d(8)
        self.attention = nn.MultiheadAttention(16, 2)
        self.rnn = nn.LSTM(16, 12, num_layers=2)
        self.wide = nn.Linear(16, 16).double()
        self.short = nn.Linear(16, 16).bfloat16()
        self.bare = nn.Parameter(torch.randn(5, 6))
        self.head = nn.Linear(16, 20)
        self.head.weight = self.embed.weight
        self.conv.weight.requires_grad_(False)
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm.eval()
        self.calls = 0
        self.head.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.calls += 1

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.attention(*[self.embed(tokens)] * 3)
        x, _ = self.rnn(x)
        out: Tensor = self.head(torch.cat([x, x[..., :4]], -1))
        return out


def digest(model: nn.Module) -> str:
    """Return a hash of every parameter, buffer, gradient and mode of a model."""
    found = hashlib.sha256()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        for x in (tensor, tensor.grad):
            raw = b"" if x is None else x.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            found.update(f"{name}{tensor.dtype}{tensor.requires_grad}{tensor.stride()}".encode() + raw)
    found.update(repr([(name, module.training) for name, module in model.named_modules()]).encode())
    return found.hexdigest()


def test_the_model_that_is_compressed_is_untouched() -> None:
    model = Mixed()
    model(torch.arange(6)[:, None]).sum().backward()
    before = digest(model)
    for recipe in (Recipe(), RECIPE, Recipe(structure="2:4", bits=1), Recipe(bits=6, quantizer="kmeans")):
        compress(model, recipe)
    assert digest(model) == before
    assert model.calls == 1


def test_the_new_model_is_like_the_old_one_in_everything_but_its_weights() -> None:
    model = Mixed()
    model(torch.arange(6)[:, None]).sum().backward()
    new = compress(model, RECIPE).model
    assert type(new) is Mixed
    old_parameters, new_parameters = dict(model.named_parameters()), dict(new.named_parameters())
    assert list(old_parameters) == list(new_parameters)
    for name, p in new_parameters.items():
        old = old_parameters[name]
        assert (p.shape, p.dtype, p.device, p.requires_grad) == (old.shape, old.dtype, old.device, old.requires_grad)
        assert p.stride() == old.stride()
        assert p.grad is None
        assert p is not old
    assert [m.training for m in model.modules()] == [m.training for m in new.modules()]
    assert new.head.weight is new.embed.weight
    new(torch.arange(6)[:, None]).sum().backward()
    assert (model.calls, new.calls) == (1, 2)
    assert new.embed.weight.grad is not None


def test_the_new_model_computes_with_the_effective_weights() -> None:
    model = Mixed()
    new = compress(model, RECIPE).model
    assert isinstance(new, Mixed)
    weights = open_model(model)
    for name, tensor in decoded_state(weights, RECIPE, encode_layers(weights, RECIPE)[0]):
        assert same_bits(new.state_dict()[name], tensor)
    x, w = torch.randn(2, 3, 5, 5), new.conv.weight
    assert torch.equal(new.conv(x), nn.functional.conv2d(x, w, new.conv.bias))
    assert int((w == 0).sum()) > 0
    assert all(len(row.unique()) <= 15 for row in w.reshape(8, -1))
    assert same_bits(new.state_dict()["norm.running_var"], model.state_dict()["norm.running_var"].half().float())


@settings(max_examples=30)
@given(state=state_dicts(), recipe=recipes())
def test_any_recipe_saves_and_loads_what_the_state_dict_says(
    state: dict[str, Tensor], recipe: Recipe, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if "layers" in recipe.to_dict() and "l0" not in state:
        return
    small = compress(state, recipe)
    path = tmp_path_factory.mktemp("any") / "small.safetensors"
    assert small.model is None
    assert small.save(path) == small.nbytes == path.stat().st_size
    assert small.estimate is not None
    assert small.nbytes == small.estimate.nbytes == sum(small.parts().values())
    assert same(load(path).state_dict(), small.state_dict())


def test_a_fresh_model_is_filled_with_what_was_saved(tmp_path: Path) -> None:
    small = compress(Net(seed=1), RECIPE)
    path = tmp_path / "small.safetensors"
    assert small.save(path, entropy=True) == small.nbytes_entropy_coded
    fresh = Net(seed=2)
    loaded = load(path, into=fresh)
    assert loaded.model is fresh
    assert loaded.recipe == RECIPE
    assert (loaded.nbytes, loaded.original_nbytes) == (small.nbytes, small.original_nbytes)
    assert small.model is not None
    old, new = small.model.state_dict(), fresh.state_dict()
    assert same(old, new)
    assert fresh.head.weight is fresh.embed.weight


def test_the_figures_are_the_exact_ones(resnet20: Path) -> None:
    recipe = Recipe(sparsity=0.9, bits=4, layers={"conv1": Keep})
    small, true = compress(resnet20, recipe), exact(open_model(resnet20), recipe)
    assert small.estimate is not None
    assert small.estimate.sqnr == pytest.approx(true.sqnr, rel=1e-9)
    assert [layer.kept for layer in small.estimate.layers] == [layer.kept for layer in true.layers]
    assert small.nbytes == true.nbytes
    assert small.original_nbytes == true.original_nbytes


def test_a_saved_file_is_that_of_the_moment_of_compression(tmp_path: Path) -> None:
    """Neither training the old model on nor training the new one changes what is saved."""
    model = Net(seed=1)
    recipe = Recipe(layers={"conv": Keep})
    small = compress(model, recipe)
    expected = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    assert small.model is not None
    with torch.no_grad():
        for p in [*model.parameters(), *small.model.parameters()]:
            p.add_(1)
    for tensor in small.state_dict().values():
        tensor.zero_()
    small.save(tmp_path / "small.safetensors")
    assert same(load(tmp_path / "small.safetensors").state_dict(), expected)


def test_a_model_made_under_inference_mode_can_be_trained() -> None:
    model = Net()
    with torch.inference_mode():
        new = compress(model, RECIPE).model
    assert new is not None
    torch.stack([p.sum() for p in new.parameters()]).sum().backward()


def test_a_sketch_made_before_changes_nothing() -> None:
    model = Net()
    with_it, without = compress(model, RECIPE, sketch=sketch(model)), compress(model, RECIPE)
    assert same(with_it.state_dict(), without.state_dict())


def test_it_says_what_it_is() -> None:
    small = compress(Net(), Recipe(sparsity=0.5, bits=4))
    assert repr(small).startswith(f"CompressedModel(Net, {small.nbytes:,} bytes")
    assert "50.0% sparse" in repr(small)
    html = small._repr_html_()
    assert f"{small.nbytes:,}" in html
    assert all(f"<td>{part}</td>" in html for part in ("codes", "scales", "uncompressed", "header"))


def test_a_file_larger_than_the_plain_one_says_so() -> None:
    small = compress(nn.Linear(2, 2), Recipe())
    assert small.nbytes > small.original_nbytes
    assert f"{small.nbytes / small.original_nbytes:.1f}× larger than {small.original_nbytes:,}" in repr(small)
    assert small.estimate is not None
    assert "× larger than" in repr(small.estimate)


def test_what_is_no_recipe_or_no_sketch_is_refused() -> None:
    no_recipe: Any = {"bits": 4}
    with pytest.raises(RecipeError, match="expected a Recipe or a sparsity, got a dict"):
        compress(Net(), no_recipe)
    with pytest.raises(RecipeError, match="expected a Recipe or a sparsity, got a dict"):
        estimate(sketch(Net()), no_recipe)
    no_sketch: Any = 3
    with pytest.raises(ModelError, match=r"cannot look at an int: give an nn\.Module"):
        estimate(no_sketch, RECIPE)
    with pytest.raises(ModelError, match="the sketch given is of another model: leave it out, or make it of this one"):
        compress(Net(), RECIPE, sketch=sketch(nn.Linear(4, 4)))


@pytest.mark.parametrize(
    "name, why",
    [
        ("head", "'head.weight' is tied to 'embed': name that$"),
        ("embed2*", "the layers are 'embed', 'conv'$|did you mean 'embed'"),
        (
            "norm.weight",
            r"'norm.weight' is never compressed anyway \(fewer than two dimensions \(a bias, a norm, a scalar\)\)$",
        ),
    ],
)
def test_a_name_that_is_no_layer_of_its_own_says_why(name: str, why: str) -> None:
    recipe = RECIPE.with_layer(name, Keep)
    for refused in (lambda: compress(Net(), recipe), lambda: estimate(sketch(Net()), recipe)):
        with pytest.raises(RecipeError, match=f"matches no layer.*({why})"):
            refused()


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise TypeError("cannot copy a file handle")


def test_a_model_that_cannot_be_copied_is_refused_in_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"this Uncopied cannot be copied \(TypeError: cannot copy a file handle\)"):
        compress(Uncopied(4, 4), RECIPE)
    assert compress(Uncopied(4, 4).state_dict(), RECIPE).nbytes > 0


class Remembering(nn.Sequential):
    """Keeps what it saw last, as models do that are looked into."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = self[0](x)
        self.all_seen = {"first": [self.seen]}
        last: Tensor = self[1](self.seen)
        return last


def test_a_model_that_remembers_activations_can_be_compressed() -> None:
    model = Remembering(nn.Linear(4, 4), nn.Linear(4, 2))
    model(torch.randn(3, 4))
    new = compress(model, RECIPE).model
    assert isinstance(new, Remembering)
    assert torch.equal(new.seen, model.seen)
    assert not new.seen.requires_grad
    assert new.all_seen["first"][0] is new.seen
    assert model.seen.grad_fn is not None


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("remade", [lambda m: prune.l1_unstructured(m, "weight", 0.5), nn.utils.weight_norm])
def test_weights_that_a_hook_makes_anew_are_made_of_the_effective_ones(remade: Callable[[nn.Module], object]) -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    remade(model[0])
    small = compress(model, Recipe(bits=3, granularity="tensor"))
    assert small.model is not None
    x = torch.randn(5, 8)
    fresh = copy.deepcopy(small.model)
    fresh.load_state_dict(small.state_dict())
    assert torch.equal(small.model(x), fresh(x))
    assert not torch.equal(small.model(x), model(x))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        next(model[1].parameters())[0, 0] = value
    with pytest.raises(ModelError, match=r"'1\.weight' has 1 weight that is NaN or infinite: repair"):
        compress(model, RECIPE)


def test_nonsense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="'no_such_layer'"):
        compress(nn.Linear(4, 4), Recipe(layers={"no_such_layer": Keep}))
    with pytest.raises(ModelError, match="nothing to compress"):
        compress(nn.BatchNorm1d(4), RECIPE)
    with pytest.raises(FileError):
        compress(tmp_path / "missing.safetensors", RECIPE)
    with pytest.raises(ModelError, match="int"):
        compress(3, RECIPE)  # type: ignore[arg-type]


def test_results_are_compressed_objects(resnet20: Path) -> None:
    small = compress(resnet20, Recipe(sparsity=0.8, bits=4))
    assert isinstance(small, CompressedModel)
    assert set(small.encoded) == {e.name for e in open_model(resnet20).layers}
    assert small.original_nbytes / small.nbytes > 10


@pytest.fixture
def pruned_elsewhere() -> nn.Module:
    """The demo network after torch's own pruning of 90 %, made permanent; half of its zeros are -0.0."""
    model = demo.model()
    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.9)
    for module, name in layers:
        prune.remove(module, name)
    return model


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(sparsity=0.5),
        Recipe(bits=4),
        Recipe(bits=1),
        Recipe(bits=3, quantizer="kmeans"),
        Recipe(structure="2:4"),
    ],
    ids=str,
)
def test_zeros_that_are_there_are_stored_as_a_mask_and_cost_no_codes(
    pruned_elsewhere: nn.Module, recipe: Recipe, tmp_path: Path
) -> None:
    compressed = compress(pruned_elsewhere, recipe)
    assert compressed.estimate is not None
    assert estimate(sketch(pruned_elsewhere), recipe).nbytes == compressed.nbytes == compressed.save(tmp_path / "m")
    loaded = load(tmp_path / "m").state_dict()
    for name, weight in pruned_elsewhere.state_dict().items():
        if recipe.bits == 32 and recipe.structure.sparsity is None:
            assert torch.equal(loaded[name], weight)
            assert 98_000 < compressed.nbytes < 99_000
        elif recipe.bits > 1 and name in compressed.encoded and compressed.encoded[name].keep is not None:
            assert not loaded[name][weight == 0].any()
    assert compressed.estimate.sparsity > 0.88


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_few_zeros_keep_their_sign_where_plain_floats_need_no_mask(dtype: torch.dtype) -> None:
    w = torch.randn(50, 50).to(dtype)
    w[0, :4], w[1, 0] = -0.0, 0.0
    state = {"w": w.float().to(dtype)}
    compressed = compress(state, Recipe())
    assert same_bits(compressed.state_dict()["w"], state["w"])
    assert compressed.encoded["w"].kept == 2499
    assert estimate(sketch(state), Recipe()).nbytes == compressed.nbytes


def test_a_sketch_says_how_much_is_zero_already(pruned_elsewhere: nn.Module) -> None:
    assert "90.0% are zero already" in repr(sketch(pruned_elsewhere))
    assert "already" not in repr(sketch(demo.model()))


def test_a_layer_pruned_whole_is_told_where_the_figures_stand(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40), nn.Linear(40, 3))
    with torch.no_grad():
        model.get_parameter("1.weight").mul_(1e-3)
    recipe = Recipe(sparsity=0.6)
    compressed = compress(model, recipe)
    compressed.save(tmp_path / "file")
    for found in (compressed, compressed.estimate, estimate(sketch(model), recipe), load(tmp_path / "file")):
        assert found is not None
        assert found.warnings == ("no weight survives in '1'",)
        assert found.warnings[0] in repr(found)
    healthy = compress(model, recipe.with_(scope="layer"))
    assert healthy.warnings == ()
    assert "survives" not in repr(healthy)


def test_layers_taken_one_after_the_other_as_on_a_gpu_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(0.8, 4, granularity=32)
    expected, looked = compress(demo.model(), recipe), sketch(demo.model()).encode()
    started = threading.active_count()
    monkeypatch.setattr(ModelTensors, "on_gpu", True)
    monkeypatch.setattr(
        "shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel.ThreadPoolExecutor", None
    )  # nobody may ask for it
    found = compress(demo.model(), recipe)
    assert threading.active_count() <= started
    assert sketch(demo.model()).encode() == looked
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)


def test_weights_that_are_written_over_are_given_without_a_copy() -> None:
    first, second, third = nn.Linear(4, 3), nn.Linear(3, 4), nn.Linear(4, 2)
    second.weight = nn.Parameter(first.weight.detach().t())  # looks at the same memory
    model = nn.Sequential(first, second, third)
    new, give = copied_without(model, ["0.weight", "2.weight"])
    tied, own = torch.randn(3, 4), torch.randn(2, 4)
    give("0.weight", tied)
    give("2.weight", own)
    now = dict(new.named_parameters())
    assert now["2.weight"].data_ptr() == own.data_ptr()
    assert now["2.weight"].requires_grad
    assert torch.equal(now["0.weight"], tied)
    assert torch.equal(now["1.weight"], tied.t())  # still tied
    assert now["0.weight"].data_ptr() != tied.data_ptr()
    assert torch.equal(now["2.bias"], third.bias)


def test_weights_of_another_order_in_memory_keep_it() -> None:
    model = nn.Sequential(nn.Conv2d(4, 3, 3)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    small = compress(model, bits=4).model
    assert small is not None
    assert small.get_parameter("0.weight").stride() == model[0].weight.stride() != (36, 9, 3, 1)
