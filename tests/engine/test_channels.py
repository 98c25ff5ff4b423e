"""Channel pruning: what goes together, what has to stay and why, and that the narrower model is what its mask was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import shrinkwidget as sw
from benchmarks import channel_benchmark_networks as zoo
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.run_model_seeded_macs_and_memory import tensors_in
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.compression.find_and_prune_channels import channel_scores, cuts_of, narrower
from shrinkwidget.compression.narrow_modules import masked
from shrinkwidget.evaluation.sketch_and_calibration_data import Calibration
from shrinkwidget.figures.numbers_and_recipes_as_text import recipe_sentence
from shrinkwidget.training.methods_schedule_options_and_progress import iterative_recipes

DIGIT = torch.rand(2, 1, 8, 8)


def ran(model: nn.Module, example: Any) -> Tensor:
    """Return what a model makes of an example."""
    with torch.no_grad():
        out = model(**example) if isinstance(example, dict) else model(example)
    return next(iter(tensors_in(out)))


def module(small: sw.CompressedModel) -> Any:
    """Return the module of a compressed model."""
    return small.model


def distance(model: nn.Module, found: sw.results.Channels, fraction: float, example: Any) -> float:
    """Return how far the narrower model is off the masked one, relative to the largest output."""
    small = narrower(model, sw.Recipe(channels=fraction), found)
    with masked(model, cuts_of(found.families, small.kept, model)):
        expected = ran(model, example)
    assert sum(p.numel() for p in small.model.parameters()) < sum(p.numel() for p in model.parameters())
    return float((ran(small.model.eval(), example) - expected).abs().max() / expected.abs().max())


# ---- generated networks ----


class Generated(nn.Module):
    """A network of random blocks: residual, concatenated, split, depthwise, gated, shuffled, normalized by groups."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)

        def one_of(n: int) -> int:
            return int(torch.randint(n, (1,), generator=draw))

        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.kinds: list[str] = []
        self.layers, width = nn.ModuleList(), 16
        layers: list[nn.Module]
        for _ in range(4):
            kind = ("residual", "concat", "split", "depthwise", "gate", "grouped")[one_of(6)]
            after = 8 * (1 + one_of(3))
            if kind == "residual":
                layers = [nn.Conv2d(width, after, 3, padding=1), nn.Conv2d(after, width, 1)]
            elif kind == "concat":
                layers = [nn.Conv2d(width, after, 1), nn.Conv2d(width, 8, 3, padding=1)]
                width = after + 8
            elif kind == "split":
                layers = [nn.Conv2d(width, 2 * after, 1), nn.Conv2d(after, width, 1)]
            elif kind == "depthwise":
                layers = [nn.Conv2d(width, 2 * width, 3, padding=1, groups=width), nn.BatchNorm2d(2 * width)]
                width *= 2
            elif kind == "gate":
                layers = [nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)]
            else:
                layers = [nn.Conv2d(width, width, 3, padding=1, groups=4), nn.GroupNorm(4, width)]
            self.kinds.append(kind)
            self.layers.append(nn.ModuleList(layers))
        self.head = nn.Linear(width * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pair: Any
        for kind, pair in zip(self.kinds, self.layers, strict=True):
            one, two = pair
            if kind == "residual":
                x = x + two(F.gelu(one(x)))
            elif kind == "concat":
                x = torch.cat([one(x), two(x)], 1)
            elif kind == "split":
                left, right = one(x).chunk(2, 1)
                x = two(left * right.sigmoid())
            elif kind == "gate":
                x = x * two(one(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
            else:
                x = two(one(x)).relu()
        found: Tensor = self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))
        return found


@pytest.mark.parametrize("seed", range(12))
def test_a_generated_network_without_channels_computes_what_it_does_with_them_at_zero(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = zoo.randomized(Generated(seed)), torch.randn(2, 3, 8, 8)
    found = sw.channels(model, x)
    assert found.families
    assert not [f for f in found.fixed if "output" not in f.reason and "together" not in f.reason], found.fixed
    for fraction in (0.3, 0.6):
        assert distance(model, found, fraction, x) <= 1e-6


OF_TORCH = (
    "demo",
    "ResNet-20, padded shortcuts",
    "LeNet",
    "U-Net",
    "LSTM",
    "BiLSTM",
    "GRU",
    "nn.TransformerEncoder",
    "channel shuffle",
    "pixel shuffle",
    "group norm, grouped conv",
    "tied embedding",
    "gated linear units",
)


@pytest.mark.parametrize("name", OF_TORCH)
def test_every_width_of_the_zoo_shrinks_exactly_or_says_why_not(name: str) -> None:
    torch.manual_seed(0)
    make, inputs = zoo.ZOO[name]
    model, x = zoo.randomized(make()), inputs()
    found = sw.channels(model, x)
    assert distance(model, found, 0.5, x) <= 1e-6
    assert all(width.reason and width.channels and width.layers for width in found.fixed)
    # every output of every layer is in a family, or fixed
    told = {layer for family in found.families for layer in family.layers}
    told |= {layer for width in found.fixed for layer in width.layers}
    layers = {layer.label for layer in sw.sketch(model).layers}
    assert told >= layers - {"rnn.weight_hh_l0_reverse"}


@pytest.mark.parametrize("name", ["BERT", "Llama, grouped-query", "GPT-2"])
def test_attention_loses_whole_heads(name: str) -> None:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    make, inputs = zoo.ZOO[name]
    model, x = zoo.randomized(make()), inputs()
    found = sw.channels(model, x)
    heads = [family for family in found.families if family.step > 1]
    assert [family.channels for family in heads] == [4, 4]  # of Llama, those that share a key head go together
    assert distance(model, found, 0.5, x) <= 1e-6


def test_a_vision_transformer_is_told_its_new_number_of_heads() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=2, img_size=32, num_classes=10).eval()
    small = sw.compress(model, channels=0.34, example=(x := torch.randn(2, 3, 32, 32)))
    attention = module(small).get_submodule("blocks.0.attn")
    assert (attention.num_heads, attention.head_dim, attention.qkv.out_features) == (2, 64, 384)
    assert small.widths["blocks.0.attn.qkv"] == (3, 2)
    assert ran(module(small), x).shape == (2, 10)


# ---- what goes together ----


def test_channels_take_all_their_slices_with_them() -> None:
    family = sw.channels(sw.demo.model(), DIGIT).family("stage3.1.conv1")
    assert {(s.tensor, s.dim, s.per_channel) for s in family.slices} == {
        ("stage3.1.conv1.weight", 0, 1),
        *((f"stage3.1.bn1.{name}", 0, 1) for name in ("weight", "bias", "running_mean", "running_var")),
        ("stage3.1.conv2.weight", 1, 1),
    }


def test_a_flattened_map_gives_each_channel_all_its_positions() -> None:
    found = sw.channels(zoo.LeNet(), torch.randn(1, 1, 28, 28))
    flat = next(s for s in found.family("conv2").slices if s.tensor == "fc1.weight")
    assert flat.per_channel == 16
    assert flat.index is not None
    assert flat.index[3].tolist() == list(range(48, 64))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_state_takes_its_row_of_every_gate(kind: type[nn.LSTM]) -> None:
    model = zoo.Recurrent(kind)
    gates = {nn.LSTM: 4, nn.GRU: 3}.get(kind, 1)
    small = sw.compress(model, channels=0.25, example=torch.zeros(2, 5, dtype=torch.long))
    rnn = module(small).rnn
    assert (rnn.hidden_size, rnn.input_size) == (24, 18)
    assert rnn.weight_hh_l0.shape == (gates * 24, 24)
    assert all(a is b for a, b in zip(rnn._flat_weights, rnn.parameters(), strict=True))


def test_modules_say_the_sizes_they_have() -> None:
    small = module(sw.compress(zoo.Shuffle(), channels=0.5, example=torch.randn(1, 3, 8, 8)))
    depthwise = small.get_submodule("branches.0.3")
    assert (depthwise.in_channels, depthwise.out_channels, depthwise.groups) == (8, 8, 8)
    for layer in small.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.shape[:2] == (layer.out_channels, layer.in_channels // layer.groups)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.num_features == len(layer.weight) == layer.get_buffer("running_var").numel()
        elif isinstance(layer, nn.Linear):
            assert layer.weight.shape == (layer.out_features, layer.in_features)


def test_tied_weights_are_cut_once_and_stay_tied() -> None:
    model = zoo.Tied()
    small = module(sw.compress(model, channels=0.5, example=torch.zeros(1, 4, dtype=torch.long)))
    assert type(small) is zoo.Tied
    assert small.head.weight is small.embed.weight
    assert small.embed.embedding_dim == small.head.in_features == 8


def test_the_model_given_stays_as_it_is() -> None:
    model = sw.demo.model().train()
    before, printed = copy.deepcopy(model.state_dict()), repr(model)
    sw.compress(model, channels=0.5, example=DIGIT)
    assert repr(model) == printed
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


# ---- what has to stay ----


def reason(model: nn.Module, example: Any, layer: str) -> str:
    """Return why the width that a layer makes has to stay."""
    found = sw.channels(model, example)
    (one,) = [width.reason for width in found.fixed if layer in width.layers]
    return one


class Hard(nn.Module):
    """A size that stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(self.one(x).view(-1, 6))
        return found


class Attending(nn.Module):
    """PyTorch's attention, whose weights over heads are averaged though nobody asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.attention, self.two = nn.Linear(4, 16), nn.MultiheadAttention(16, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        found: Tensor = self.two(self.attention(x, x, x)[0])
        return found


class Spectrum(nn.Module):
    """An operation that nobody has a rule for."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.two(torch.fft.fft(self.one(x)).real)
        return found


class Branching(nn.Module):
    """One of two branches, by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.three(self.one(x) if bool(x.sum() > 0) else self.two(x))
        return found


@pytest.mark.parametrize(
    ("made", "example", "layer", "said"),
    [
        (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)),
            (2, 4),
            "0",
            r"a layer norm .*\(1\)",
        ),
        (
            lambda: nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 2)),
            (2, 4),
            "0",
            r"a softmax runs .*\(1\)",
        ),
        (lambda: nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), (2, 4), "1", "the model's output has it"),
        (Attending, (3, 2, 4), "one", r"nn.MultiheadAttention fixes it in its code \(attention\)"),
        (Attending, (3, 2, 4), "attention.in_proj_weight", r"nn.MultiheadAttention fixes it .*\(attention\)"),
        (Hard, (2, 4), "one", "does not run without some of it .*shape"),
        (lambda: nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 2)), (2, 4), "0", "the only channel"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(1, 6), nn.Conv2d(6, 2, 1)),
            (1, 3, 2, 2),
            "0",
            "group norm",
        ),
    ],
)
def test_a_width_that_stays_says_why(
    made: Callable[[], nn.Module], example: tuple[int, ...], layer: str, said: str
) -> None:
    assert re.search(said, reason(made(), torch.ones(example), layer))


def test_what_the_example_does_not_reach_stays() -> None:
    model = Branching()
    assert "does not reach" in reason(model, torch.ones(1, 4), "two")
    small = sw.compress(model, channels=0.5, example=torch.ones(1, 4))
    (warning,) = small.warnings
    assert warning == "the example does not reach 'two': a path through it may no longer fit the widths that are left"


def test_a_model_of_which_nothing_can_go_is_refused_with_the_reason() -> None:
    with pytest.raises(sw.errors.ModelError, match=r"no channel of this Linear can be removed \('weight': .*output"):
        sw.compress(nn.Linear(4, 3), channels=0.5, example=torch.randn(1, 4))


def test_an_example_is_asked_for() -> None:
    with pytest.raises(sw.errors.DataError, match="give example="):
        sw.compress(sw.demo.model(), channels=0.5)
    with pytest.raises(sw.errors.DataError, match="cannot run input 1×3"):
        sw.channels(sw.demo.model(), torch.zeros(1, 3))
    with pytest.raises(sw.errors.ModelError, match=r"give the nn\.Module"):
        sw.compress(sw.demo.model().state_dict(), channels=0.5, example=DIGIT)
    with pytest.raises(sw.errors.NoEstimateError, match=r"sw\.sketch\(model, example=…\)"):
        sw.estimate(sw.demo.model(), channels=0.5)


def test_channels_of_another_model_are_refused() -> None:
    with pytest.raises(sw.errors.ModelError, match="channels of another DigitNet"):
        sw.compress(zoo.LeNet(), channels=0.5, example=sw.channels(sw.demo.model(), DIGIT))


# ---- recipes ----


def test_the_least_important_channels_go() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0], [1.0], [4.0], [2.0]]).expand(4, 3))
        model[2].weight.fill_(1)
    small = module(sw.compress(model, channels=0.5, example=torch.randn(1, 3)))
    assert small[0].weight[:, 0].tolist() == [3, 4]


def test_widths_are_kept_at_multiples() -> None:
    found = sw.channels(sw.demo.model(), DIGIT)

    def widths(**fields: Any) -> dict[str, int]:
        return {f.name: len(k) for f, k in zip(found.families, found.kept(sw.Recipe(**fields)), strict=True)}

    assert widths(channels=0.3)["stage3.1.conv1"] == 45
    assert widths(channels=0.3, multiple=8)["stage3.1.conv1"] == 48
    assert set(widths(channels=0.9, multiple=32).values()) == {16, 32}  # no fewer than one multiple, or all there are
    assert min(widths(channels=0.999).values()) == 1


def test_that_no_channel_went_is_said() -> None:
    small = sw.compress(sw.demo.model(), channels=0.5, multiple=64, example=DIGIT)
    assert small.warnings == ("no channel went: every width, rounded to the nearest multiple of 64, is what it was",)
    assert not sw.compress(sw.demo.model(), channels=0.5, multiple=8, example=DIGIT).warnings


def test_what_a_recipe_says_of_a_layers_channels_in_vain_is_told() -> None:
    def warnings(layers: dict[str, Any]) -> tuple[str, ...]:
        return sw.compress(sw.demo.model(), sw.Recipe(layers=layers), example=DIGIT).warnings

    assert warnings({"head": {"channels": 0.5}}) == ("'head' keeps its channels: the model's output has it",)
    said = "'stem', 'stage1.0.conv2' are of one width: the least of their fractions holds, channels=0.25"
    assert warnings({"stem": {"channels": 0.25}, "stage1.0.conv2": {"channels": 0.75}}) == (said,)
    assert warnings({"*": {"channels": 0.25}, "stem": {"bits": 8}}) == ()


def test_a_dataloader_is_no_example() -> None:
    loader = DataLoader(TensorDataset(DIGIT))
    with pytest.raises(sw.errors.DataError, match="a DataLoader is no example: give one batch of inputs"):
        sw.channels(sw.demo.model(), loader)


def test_a_global_ranking_takes_what_matters_least_anywhere() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1)
        model[0].weight[:3] *= 0.001  # three of its channels hardly count
    recipe = sw.Recipe(channels=0.375, channel_scope="global")
    small = sw.compress(model, recipe, example=torch.randn(1, 3))
    assert small.widths == {"0": (4, 1), "1": (4, 4)}


def test_overrides_hold_for_the_widths_that_a_layer_makes() -> None:
    layers: Any = {
        "stage1.0.conv1": dict(channels=0.25),
        "stage2.0.conv1": dict(multiple=16),
        "stage3.1.conv2": sw.Keep,
    }
    small = sw.compress(sw.demo.model(), channels=0.5, layers=layers, example=DIGIT)
    assert small.widths["stage1.0.conv1"] == (16, 12)
    assert small.widths["stage2.0.conv1"] == (32, 16)
    assert small.widths["stage3.1.conv1"] == small.widths["stage3.1.conv1"][:1] * 2  # it makes the inputs of a layer
    assert small.widths["stem"] == (16, 16)  # that is kept, and so does the residual width
    assert torch.equal(
        module(small).get_parameter("stage3.1.conv2.weight"), sw.demo.model().get_parameter("stage3.1.conv2.weight")
    )


@pytest.mark.parametrize("importance", ["magnitude", "random", "taylor", "wanda", "batchnorm_scale"])
def test_every_importance_ranks_channels(importance: str) -> None:
    small = sw.compress(
        sw.demo.model(),
        channels=0.5,
        channel_scope="global",
        importance=importance,
        calibration=sw.demo.few(per_class=1),
        example=DIGIT,
    )
    assert 0.4 < sum(after for _, after in small.widths.values()) / 288 < 0.6
    assert not small.warnings


@pytest.mark.parametrize("importance", ["wanda", "taylor"])
def test_scores_of_weights_add_up_to_those_of_channels(importance: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))
    batches = [(torch.randn(4, 3), torch.tensor([0, 1, 1, 0])) for _ in range(3)]
    first, last = model[0].weight.detach(), model[2].weight.detach()
    if importance == "wanda":  # no bias multiplies an input
        inputs = torch.cat([x for x, _ in batches])
        hidden = model[:2](inputs).detach()
        scores = [(first * inputs.norm(dim=0)).square().sum(1), (last * hidden.norm(dim=0)).square().sum(0)]
    else:
        squares = [torch.zeros_like(p) for p in model.parameters()]
        for x, y in batches:
            for sum_, gradient in zip(
                squares, torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())), strict=True
            ):
                sum_ += gradient.square() / len(batches)
        felt = [p.detach().square() * s for p, s in zip(model.parameters(), squares, strict=True)]
        scores = [felt[0].sum(1), felt[1], felt[2].sum(0)]  # the last bias is no channel's
    expected = sum(score / score.mean() for score in scores) / len(scores)
    found = sw.channels(model, batches[0][0])
    recipe = sw.Recipe(channels=0.5, importance=importance)
    (family,) = channel_scores(found, model, open_model(model), recipe, Calibration(model, batches))
    assert torch.from_numpy(family).numpy() == pytest.approx(expected.numpy(), rel=1e-5)


def test_an_importance_that_says_nothing_of_a_width_is_refused_by_name() -> None:
    torch.manual_seed(0)
    model, x = zoo.Recurrent(nn.LSTM, layers=2), torch.zeros(2, 5, dtype=torch.long)
    recipe = sw.Recipe(channels=0.5, importance="wanda")
    with pytest.raises(sw.errors.MethodError, match=r"nothing of the channels of 'embed': .*{'embed': dict"):
        sw.compress(model, recipe, calibration=[x], example=x)
    small = sw.compress(model, recipe.with_(layers={"embed": dict(channels=0)}), calibration=[x], example=x)
    assert small.widths == {"embed": (24, 24), "rnn.weight_ih_l0": (32, 16)}


def test_a_batch_norms_scale_ranks_its_channels() -> None:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        *(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    ).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1))  # the other way round
        model[1].weight.copy_(torch.tensor([-4.0, 3.0, 2.0, 1.0]))
        model[3].weight.copy_(torch.tensor([1.0, 3.0, 2.0]).view(3, 1, 1, 1).expand(3, 4, 1, 1))
    recipe, x = sw.Recipe(channels=0.5, importance="batchnorm_scale"), torch.ones(1, 1, 2, 2)
    small = sw.compress(model, recipe, example=x)
    assert module(small)[1].weight.tolist() == [-4, 3]
    assert module(small)[3].weight[:, 0, 0, 0].tolist() == [3]  # round(1.5) of three go
    (warning,) = small.warnings
    assert warning.startswith("the channels of '3' were ranked by the norm of their weights: importance")
    # single weights go by magnitude, and so a sketch can tell what becomes of them, and of each width
    look = sw.sketch(model, example=x)
    assert sw.estimate(look, recipe.with_(sparsity=0.5)).widths == small.widths
    pruned, expected = sw.compress(model, 0.5, importance="batchnorm_scale"), sw.compress(model, 0.5)
    assert all(torch.equal(pruned.state_dict()[name], tensor) for name, tensor in expected.state_dict().items())
    with pytest.raises(sw.errors.NoEstimateError, match="scores by magnitude, not by 'batchnorm_scale'"):
        sw.estimate(look, recipe, channel_scope="global")
    with pytest.raises(sw.errors.MethodError, match="finds no layer in this LeNet to rank channels by"):
        sw.compress(zoo.LeNet(), recipe, example=torch.zeros(1, 1, 28, 28))


def test_batch_norms_on_one_width_count_alike() -> None:
    model: Any = sw.demo.model()
    found = sw.channels(model, DIGIT)
    recipe = sw.Recipe(channels=0.5, importance="batchnorm_scale", channel_scope="global")
    scores = channel_scores(found, model, open_model(model), recipe)
    family = next(family for family in found.families if family.name == "stage3.0.conv2")
    gammas = [
        model.get_parameter(part.tensor).detach()[torch.from_numpy(part.index[:, 0])].square()
        for part in family.slices
        if part.index is not None and re.search(r"bn\d?\.weight", part.tensor)
    ]
    assert len(gammas) == 2
    expected = sum(gamma / gamma.mean() for gamma in gammas) / 2
    assert scores[found.families.index(family)] == pytest.approx(expected.numpy(), rel=1e-5)


def test_a_recipe_without_channels_says_nothing_of_them() -> None:
    assert sw.Recipe(0.5, bits=4).to_json() == '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4}'
    recipe = sw.Recipe(
        channels=0.75, multiple=8, channel_scope="global", layers={"stem": dict(channels=0.5, multiple=4)}
    )
    assert sw.Recipe.from_json(recipe.to_json()) == recipe
    assert repr(recipe) == (
        "Recipe(channels=0.75, multiple=8, channel_scope='global', layers={'stem': {'channels': 0.5, 'multiple': 4}})"
    )
    wrong: list[dict[str, Any]] = [{"channels": 1}, {"multiple": 0}, {"channel_scope": "layer"}]
    for fields in wrong:
        with pytest.raises(sw.errors.RecipeError, match=next(iter(fields))):
            sw.Recipe(**fields)


# ---- files, figures, training ----


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("name", ["demo", "U-Net", "LSTM", "channel shuffle", "group norm, grouped conv"])
def test_a_dense_model_is_cut_to_the_shapes_of_the_file(name: str, entropy: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs = zoo.ZOO[name]
    model, x = zoo.randomized(make()), inputs()
    small: Any = sw.compress(model, channels=0.5, bits=4, example=x)
    path = tmp_path / "small.safetensors"
    written = small.save(path, entropy=entropy)
    assert written == path.stat().st_size == (small.nbytes_entropy_coded if entropy else small.nbytes)
    again = sw.load(path, into=make())
    assert repr(again.model) == repr(small.model)
    assert torch.equal(ran(module(again).eval(), x), ran(module(small), x))
    assert again.original_nbytes == small.original_nbytes
    # a file does not know which channels go together, but how wide each layer is
    assert again.layer_widths == small.layer_widths
    assert not again.widths
    cut = {n for n, t in small.model.state_dict().items() if t.shape != model.state_dict()[n].shape}
    assert {layer.removesuffix(".weight") for layer in again.layer_widths} <= {n.removesuffix(".weight") for n in cut}
    assert all(after < before for before, after in again.layer_widths.values())


def test_a_file_of_another_model_leaves_the_one_given_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    sw.compress(sw.demo.model(), channels=0.5, example=DIGIT).save(path)
    model: Any = sw.demo.model()
    model.head = nn.Linear(64, 9)
    before = repr(model)
    with pytest.raises(sw.errors.FileError, match=r"'head.weight' has the shape"):
        sw.load(path, into=model)
    assert repr(model) == before
    assert model.stem.weight.shape == (16, 1, 3, 3)


@pytest.mark.parametrize(
    "recipe",
    [
        sw.Recipe(channels=0.75, bits=4),
        sw.Recipe(channels=0.5, channel_scope="global", multiple=4, uncompressed_bits=16),
        sw.Recipe(channels=0.3, bits=8, granularity=32, sparsity=0.5, scope="layer", layers={"stem": sw.Keep}),
        sw.Recipe(channels=0.3, bits=8, structure="2:4"),
    ],
)
def test_an_estimate_is_exact_in_all_but_the_error(recipe: sw.Recipe) -> None:
    model = sw.demo.model()
    look = Sketch.decode(sw.sketch(model, example=DIGIT).encode())
    estimate, small = sw.estimate(look, recipe), sw.compress(model, recipe, example=DIGIT)
    assert estimate.parts() == small.parts()
    assert estimate.widths == small.widths
    assert estimate.macs == small.macs
    assert small.estimate is not None
    assert estimate.sqnr == pytest.approx(small.estimate.sqnr, abs=2)
    # and what the smaller model really does
    real = sw.channels(module(small), DIGIT)
    assert real.macs_after([f.channels for f in real.families]) == small.macs
    assert small.original_macs == 2 * 1_631_872


@pytest.mark.parametrize("name", ["nn.TransformerEncoder", "BERT", "Llama, grouped-query", "LSTM"])
def test_multiply_accumulates_of_attention_and_recurrence_are_exact(name: str) -> None:
    if name in ("BERT", "Llama, grouped-query"):
        pytest.importorskip("transformers")
    make, inputs = zoo.ZOO[name]
    model, x = make().eval(), inputs()
    found = sw.channels(model, x)
    small = narrower(model, sw.Recipe(channels=0.5), found)
    real = sw.channels(small.model, x)
    assert found.macs_after(small.left) == real.macs_after([f.channels for f in real.families])


def test_retraining_goes_on_from_the_smaller_network() -> None:
    torch.manual_seed(0)
    small = sw.compress(sw.demo.model(), channels=0.75, bits=4, example=DIGIT)
    again = sw.retrain(small, sw.demo.few(per_class=8), epochs=1, lr=0.01, batch_size=16, progress=False)
    assert again.widths == small.widths
    assert (again.nbytes, again.macs, again.original_nbytes) == (small.nbytes, small.macs, small.original_nbytes)
    assert sw.summary(module(again)).parameters == sum(p.numel() for p in module(again).parameters())


@pytest.mark.parametrize("rewound", [False, True])
def test_channels_go_in_rounds_while_the_network_trains(rewound: bool) -> None:
    model, recipe = sw.demo.model(), sw.Recipe(channels=0.5, bits=4)
    early = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    schedule = sw.methods.Schedule(epochs=1, lr=0.01)
    method = sw.methods.WeightRewinding(schedule, early) if rewound else sw.methods.FineTune(schedule=schedule)
    small = sw.prune_and_retrain(
        model,
        sw.demo.few(per_class=4),
        None,
        0.0,
        method,
        channels=0.5,
        bits=4,
        rounds=2,
        batch_size=16,
        progress=False,
    )
    assert small.recipe == recipe
    at_once = sw.compress(model, recipe, example=DIGIT)
    assert small.widths == at_once.widths
    assert (small.nbytes, small.original_nbytes) == (at_once.nbytes, at_once.original_nbytes)
    assert model.stem.weight.shape == (16, 1, 3, 3)


def test_a_fifth_of_the_channels_goes_in_each_round() -> None:
    recipes = iterative_recipes(sw.Recipe(channels=0.75, bits=4))
    assert [round(recipe.channels, 2) for recipe in recipes] == [0.2, 0.36, 0.49, 0.59, 0.67, 0.74, 0.75]
    assert [recipe.bits for recipe in recipes] == [32] * 6 + [4]


def test_rounds_of_channels_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    model, data, recipe = sw.demo.model(), sw.demo.few(per_class=1), sw.Recipe(channels=0.5)
    with pytest.raises(sw.errors.TrainingError, match="leave checkpoint out"):
        sw.prune_and_retrain(model, data, recipe=recipe, epochs=1, checkpoint=tmp_path / "c", progress=False)
    with pytest.raises(sw.errors.TrainingError, match="GradualPruning removes no channels"):
        sw.prune_and_retrain(model, data, recipe=recipe, method="gradual_pruning", progress=False)
    with pytest.raises(sw.errors.MethodError, match="'taylor' needs calibration data"):
        sw.prune_and_retrain(model, data, recipe=recipe.with_(importance="taylor"), epochs=1, progress=False)


def test_support_vectors_are_channels() -> None:
    svm = pytest.importorskip("sklearn.svm")
    x, y = torch.randn(60, 4).numpy(), (torch.arange(60) % 2).numpy()
    model = sw.from_sklearn(svm.SVC(kernel="rbf").fit(x, y))
    found = sw.channels(model, torch.from_numpy(x[:4]))
    assert found.families, found.fixed


def test_outputs_of_another_number_are_no_channels_that_went(tmp_path: Path) -> None:
    def digits(classes: int) -> Any:
        model: Any = sw.demo.model()
        model.head = nn.Linear(64, classes)
        return model

    def segmented(classes: int) -> nn.Module:
        model = zoo.UNet()
        model.head = nn.Conv2d(16, classes, 1)
        return nn.Sequential(model, nn.Softmax(1))

    def upsampled(classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, classes, 2), nn.Sigmoid())

    for make, x, name in (
        (digits, DIGIT, "head.weight"),
        (segmented, torch.rand(1, 3, 16, 16), "0.head.weight"),
        (upsampled, torch.rand(1, 1, 6, 6), "2.weight"),
    ):
        path = tmp_path / "small.safetensors"
        sw.compress(make(5), channels=0.5, example=x).save(path)
        other = make(7)
        before = repr(other)
        with pytest.raises(sw.errors.FileError, match=f"'{name}' has the shape"):
            sw.load(path, into=other)
        assert repr(other) == before
        assert sw.load(path, into=make(5)).layer_widths


def test_a_file_of_another_model_is_refused_where_no_removal_explains_it(tmp_path: Path) -> None:
    def normed(width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(20, width), nn.LayerNorm(width), nn.Linear(width, 12), nn.ReLU(), nn.Linear(12, 3)
        )

    def convolved(kernel: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 8, kernel, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    for make, right, wrong, x in (
        (normed, 32, 48, torch.rand(1, 20)),
        (convolved, 3, 5, torch.rand(1, 1, 9, 9)),
    ):
        path = tmp_path / "small.safetensors"
        sw.compress(make(right), channels=0.5, example=x).save(path)
        assert sw.load(path, into=make(right)).model is not None
        other = make(wrong)
        before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
        with pytest.raises(sw.errors.FileError):
            sw.load(path, into=other)
        assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
def test_compiled_modules_are_refused_in_a_sentence() -> None:
    traced = torch.jit.trace(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.rand(1, 4))
    for call in (sw.channels, lambda model, x: sw.compress(model, channels=0.5, example=x)):
        with pytest.raises(sw.errors.ModelError, match="are compiled, and none can be made narrower"):
            call(traced, torch.rand(1, 4))


def test_words_say_what_went() -> None:
    small = sw.compress(sw.demo.model(), channels=0.5, example=torch.zeros(1, 1, 8, 8))
    assert "4.0× fewer MACs" in repr(small)
    assert "inf" not in repr(small)
    said = [recipe_sentence(sw.Recipe(sparsity, channels=0.5)).replace("\u202f", " ") for sparsity in (0.0, 0.8)]
    assert said[0].startswith("50 % of the channels removed · 32 bits")
    assert said[1].startswith("50 % of the channels removed, then 80 % sparse")
