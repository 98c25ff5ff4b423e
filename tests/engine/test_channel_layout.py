"""Whichever axis a framework stores output channels on, and however memory is strided, a recipe does the same."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.analysis.estimate_class_and_packed_file_header import fold_structure
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import Layout, layouts, open_model
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.files.read_packed_file_into_model import read_records
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune

RECIPES = {
    "2:4": Recipe(structure="2:4"),
    "4:8 in 3 bits": Recipe(structure="4:8", bits=3),
    "per channel": Recipe(bits=4),
    "groups": Recipe(bits=3, granularity=5, symmetric=False),
    "least error, sparse": Recipe(bits=2, sparsity=0.6, clipping="mse"),
    "percentile": Recipe(bits=4, clipping=90.0, sparsity=0.3, scope="layer"),
    "one bit": Recipe(bits=1, sparsity=0.5),
    "codebook": Recipe(bits=3, quantizer="kmeans", sparsity=0.4),
    "half": Recipe(bits=16, sparsity=0.5),
    "pruned alone": Recipe(sparsity=0.7),
}
recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


def uneven(*shape: int, seed: int = 0, axis: int = 0) -> Tensor:
    """Return weights in steps, so that many are equal in size, whose channels along an axis differ in size by 30."""
    torch.manual_seed(seed)
    sizes = torch.logspace(-1, 0.5, shape[axis]).view([-1 if i == axis else 1 for i in range(len(shape))])
    return (torch.randn(shape) * 4).round() / 4 * sizes


def outputs_last(w: Tensor) -> Tensor:
    return w.movedim(-1, 0).reshape(w.shape[-1], -1)


def outputs_second(w: Tensor) -> Tensor:
    return w.transpose(0, 1).reshape(w.shape[1], -1)


def by_expert(w: Tensor) -> Tensor:
    return w.reshape(-1, w.shape[-1])


def by_group(w: Tensor) -> Tensor:
    """Return a transposed convolution's weight, in two groups, as one row for each of its outputs."""
    return torch.cat([outputs_second(part) for part in w.chunk(2)])


def shrunk(state: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    return sw.compress(state, recipe).state_dict()


STORED = {
    "in × out": ("fc/kernel", (45, 12), outputs_last),
    "HWIO": ("conv/kernel", (3, 3, 5, 12), outputs_last),
    "experts": ("mlp.experts.down_proj", (3, 4, 45), by_expert),
    "Conv1D": ("h.c_fc.weight", (45, 12), outputs_last),
    "transposed convolution": ("up.weight", (5, 12, 3, 3), outputs_second),
    "in groups": ("up.weight", (8, 6, 3), by_group),
}


@recipes
@pytest.mark.parametrize(("name", "shape", "by_hand"), STORED.values(), ids=STORED)
def test_a_recipe_does_the_same_to_a_layer_however_its_axes_are_stored(
    recipe: Recipe, name: str, shape: tuple[int, ...], by_hand: Callable[[Tensor], Tensor]
) -> None:
    w = uneven(*shape)
    state = {name: w} | ({} if "expert" in name else {sibling(name): torch.ones(12)})
    found = sw.compress(state, recipe)
    right = sw.compress({"fc.weight": by_hand(w)}, recipe)
    after = found.state_dict()[name]
    assert after.shape == w.shape
    assert torch.equal(by_hand(after), right.state_dict()["fc.weight"])
    assert found.parts()["codes"] == right.parts()["codes"]
    assert found.parts()["scales"] == right.parts()["scales"]


def sibling(name: str) -> str:
    return name.replace("kernel", "bias").replace("weight", "bias")


@recipes
@pytest.mark.parametrize("entropy", [False, True])
def test_a_file_says_how_its_tensors_are_stored(recipe: Recipe, entropy: bool, tmp_path: Path) -> None:
    state = {"a/kernel": uneven(9, 14), "b.experts.up": uneven(2, 6, 10, axis=1), "c.weight": uneven(8, 6, 3)}
    state |= {"c.bias": torch.ones(12)}
    made = sw.compress(state, recipe)
    assert made.save(tmp_path / "a.safetensors", entropy) == (made.nbytes_entropy_coded if entropy else made.nbytes)
    loaded = sw.load(tmp_path / "a.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in made.state_dict().items())


@recipes
def test_an_estimate_counts_the_bytes_of_every_layout(recipe: Recipe) -> None:
    state = {"a/kernel": uneven(64, 40), "b.experts.up": uneven(4, 40, 48, axis=1), "c/kernel": uneven(3, 3, 8, 24)}
    looked = sw.sketch(state)
    exact = sw.compress(state, recipe).estimate
    assert exact is not None
    for foreseen, done in zip(sw.estimate(looked, recipe).layers, exact.layers, strict=True):
        assert (foreseen.scales, foreseen.mask) == (done.scales, done.mask)
        assert foreseen.kept == pytest.approx(done.kept, rel=0.02)
    if recipe.granularity != 5:  # a size the sketch has no table of
        assert sw.estimate(looked, recipe).sqnr == pytest.approx(exact.sqnr, abs=1.5)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda w: w.t().contiguous().t(),
    "every other column": lambda w: torch.stack([w, -w], 2).flatten(1)[:, ::2],
    "a part of a larger one": lambda w: nn.functional.pad(w, (1, 2, 3, 4))[3:-4, 1:-2],
    "expanded": lambda w: w[:1].expand(len(w), -1),
    "of a flipped array": lambda w: torch.from_numpy(w.numpy()[::-1].copy()).flip(0),
}


@recipes
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("in_module", [False, True])
def test_a_strided_view_is_compressed_like_its_contiguous_copy(
    recipe: Recipe, view: Callable[[Tensor], Tensor], in_module: bool
) -> None:
    strided = view(uneven(12, 21))
    layer = nn.Linear(21, 12, bias=False)
    layer.weight = nn.Parameter(strided)
    if in_module and 0 in strided.stride():
        with pytest.raises(ModelError, match="one place in memory"):
            sw.compress(layer, recipe)
        return
    right = shrunk({"weight": strided.contiguous().clone()}, recipe)["weight"]
    found = sw.compress(layer if in_module else {"weight": strided}, recipe)
    assert torch.equal(found.state_dict()["weight"], right)
    if found.model is not None:
        assert torch.equal(found.model.state_dict()["weight"], right)


@given(st.permutations(range(4)), st.integers(0, 3), st.integers(1, 3), st.booleans())
def test_rows_and_back_is_nothing(axes: list[int], channels: int, groups: int, scrambled: bool) -> None:
    w = torch.arange(6 * 2 * 3 * 4).reshape(6, 2, 3, 4)
    w = w.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0) if scrambled else w
    layout = Layout(tuple(axes[: channels + 1]), groups)
    rows = layout.rows(w)
    assert rows.shape == layout.matrix(tuple(w.shape))
    assert rows.is_contiguous()
    assert torch.equal(layout.restored(rows.flatten(), tuple(w.shape)), w)


def test_square_matrices_go_with_those_their_bias_decides() -> None:
    state = {"q.weight": (8, 8), "q.bias": (8,), "up.weight": (8, 32), "up.bias": (32,), "wte.weight": (99, 8)}
    found = layouts(state, {})
    assert found["q.weight"] == found["up.weight"] == Layout((1,))
    assert found["wte.weight"] == Layout()
    assert layouts(state | {"up.weight": (32, 8)}, {})["q.weight"] == Layout()


@pytest.mark.parametrize(
    ("name", "shapes", "channels"),
    [
        ("dense/kernel", {"dense/kernel": (8, 8), "dense/bias": (8,)}, (1,)),
        ("kernel", {"kernel": (8, 8)}, (1,)),
        ("Dense_0.kernel", {"Dense_0.kernel": (8, 8)}, (1,)),
        ("linear/w", {"linear/w": (8, 8), "linear/b": (8,)}, (1,)),
        ("query/kernel", {"query/kernel": (16, 4, 8), "query/bias": (4, 8)}, (1, 2)),
        ("out/kernel", {"out/kernel": (4, 8, 16), "out/bias": (16,)}, (2,)),
        ("scan/kernel", {"scan/kernel": (6, 8, 16), "scan/bias": (6, 16)}, (0, 2)),
        ("dw/kernel", {"dw/kernel": (3, 3, 8, 1), "dw/bias": (8,)}, (2, 3)),
        ("dw/depthwise_kernel", {"dw/depthwise_kernel": (3, 3, 8, 2)}, (2, 3)),
        ("conv2d_transpose/kernel", {"conv2d_transpose/kernel": (3, 3, 8, 8), "conv2d_transpose/bias": (8,)}, (2,)),
        ("ConvTranspose_0/kernel", {"ConvTranspose_0/kernel": (3, 3, 8, 8)}, (3,)),
        ("layers/dense/vars/0", {"layers/dense/vars/0": (8, 4), "layers/dense/vars/1": (4,)}, (1,)),
        ("W1", {"W1": (784, 128), "b1": (128,)}, (1,)),
        ("coefs_0", {"coefs_0": (784, 128), "intercepts_0": (128,)}, (1,)),
        ("pos_embed", {"pos_embed": (1, 197, 64)}, (1,)),
        ("conv.weight", {"conv.weight": (8, 4, 3)}, (0,)),
        ("conv.weight", {"conv.weight": (768, 48, 128), "conv.bias": (768,)}, (0,)),
        ("mlp.input_linear.weight", {"mlp.input_linear.weight": (8, 128, 64)}, (0, 1)),
        ("x.experts.w1", {"x.experts.w1": (4, 16, 24), "x.experts.w1_bias": (4, 24)}, (0, 2)),
        ("x.experts.gate_up_proj", {"x.experts.gate_up_proj": (4, 16, 24), "x.experts.down_proj": (4, 12, 16)}, (0, 2)),
        ("x.experts.down_proj", {"x.experts.gate_up_proj": (4, 16, 24), "x.experts.down_proj": (4, 12, 16)}, (0, 2)),
        ("x.experts.down_proj", {"x.experts.gate_up_proj": (4, 24, 16), "x.experts.down_proj": (4, 16, 12)}, (0, 1)),
    ],
)  # fmt: skip
def test_names_and_neighbours_tell_which_axes_are_output_channels(
    name: str, shapes: dict[str, tuple[int, ...]], channels: tuple[int, ...]
) -> None:
    assert layouts(shapes, {})[name] == Layout(channels)


THREE = {"W1": torch.randn(30, 20), "W2": torch.randn(20, 20), "proj": torch.randn(20, 5)}


def test_where_nothing_tells_the_axes_a_warning_asks_wherever_the_model_is_shown(tmp_path: Path) -> None:
    looked = sw.sketch(THREE)
    assert looked.warnings[0] == (
        "'W1' (30×20) and 2 more are read as output channels first (out × in), and nothing says so: if it is in × out, "
        "give layout='in_out'"
    )
    assert len(looked.warnings) == 1
    compressed = sw.compress(THREE, Recipe(bits=4))
    size = sw.summary(THREE)
    assert size.to_dict()["warnings"] == list(looked.warnings)
    assert escape(looked.warnings[0]) in size._repr_html_()
    assert Sketch.decode(looked.encode()).warnings == looked.warnings
    for shown in (size, looked, sw.estimate(looked, Recipe()), compressed.estimate, compressed):
        assert looked.warnings[0] in repr(shown)
    save_file(THREE, tmp_path / "a.safetensors")
    assert sw.sketch(tmp_path / "a.safetensors").warnings == looked.warnings


@pytest.mark.parametrize(
    ("state", "warned"),
    [
        (nn.Sequential(nn.Linear(4, 4, bias=False), nn.Conv2d(4, 4, 4), nn.LSTM(4, 4)).state_dict(), 0),
        (nn.MultiheadAttention(4, 2).state_dict(), 0),
        ({"wte.weight": torch.ones(9, 4), "token_embedding": torch.ones(9, 4), "bias_table": torch.ones(2, 3, 4)}, 0),
        ({"a/kernel": torch.ones(4, 4), "row": torch.ones(1, 4), "ids": torch.ones(4, 4, dtype=torch.int8)}, 0),
        ({"W": torch.ones(4, 3), "b": torch.ones(3), "square": torch.ones(3, 3)}, 1),
        ({"W": torch.ones(3, 3), "b": torch.ones(3)}, 1),
        ({"x.experts.w1": torch.ones(2, 4, 4), "x.experts.w1_bias": torch.ones(2, 4)}, 1),
        ({"conv": torch.ones(3, 3, 4, 8), "x.experts.w1": torch.ones(2, 4, 4)}, 2),
        ({"conv_W": torch.ones(3, 3, 4, 8), "conv_b": torch.ones(8), "conv1d_W": torch.ones(5, 4, 8)}, 1),
    ],
)
def test_only_what_nothing_tells_is_warned_of(state: dict[str, Tensor], warned: int) -> None:
    assert len(sw.sketch(state).warnings) == warned


def test_a_parameter_of_ones_own_module_is_warned_of_with_what_answers() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(torch.randn(6, 4))
            self.fc = nn.Linear(4, 6)

    (warning,) = sw.sketch(Own()).warnings
    assert warning.startswith("'mix' (6×4) is read")
    with pytest.raises(ModelError, match=r"layout='in_out' is for state dicts.*model\.state_dict\(\)"):
        sw.compress(Own(), Recipe(), layout="in_out")
    assert sw.sketch(Own().state_dict(), layout="in_out").layer("mix").rows == 4


@pytest.mark.parametrize(
    ("name", "shape", "out_in", "in_out"),
    [
        ("W", (6, 4), (0,), (1,)),
        ("fc.weight", (6, 4), (0,), (1,)),
        ("conv", (3, 3, 4, 8), (0,), (3,)),
        ("conv.weight", (8, 4, 3), (0,), (2,)),
        ("experts.up", (2, 6, 4), (0, 1), (0, 2)),
        ("dense/kernel", (6, 4), (1,), (1,)),
        ("embed.weight", (6, 4), (0,), (0,)),
    ],
)
def test_a_layout_answers_for_all_that_nothing_tells(
    name: str, shape: tuple[int, ...], out_in: tuple[int, ...], in_out: tuple[int, ...]
) -> None:
    for stated, channels in (("out_in", out_in), ("in_out", in_out)):
        found = layouts({name: shape}, {}, stated)[name]
        assert (found, found.guessed) == (Layout(channels), False)


def test_a_layout_by_name_comes_before_all_else() -> None:
    shapes = {"a/kernel": (6, 4), "b/kernel": (6, 4), "W": (6, 4), "W_bias": (4,), "V": (6, 4)}
    found = layouts(shapes, {}, {"*kernel": "out_in", "b/kernel": "in_out", "W": "out_in"})
    assert [layout.channels for layout in found.values()] == [(0,), (1,), (0,), (0,)]
    assert [layout.guessed for layout in found.values()] == [False, False, False, True]


@recipes
def test_what_is_stated_is_how_a_model_is_sketched_compressed_and_saved(recipe: Recipe, tmp_path: Path) -> None:
    w = uneven(45, 12)
    save_file({"V": w}, tmp_path / "plain.safetensors")
    for source in ({"V": w}, tmp_path / "plain.safetensors"):
        found = sw.compress(source, recipe, layout="in_out")
        assert torch.equal(found.state_dict()["V"].t(), shrunk({"V": w.t()}, recipe)["V"])
        assert sw.sketch(source, layout="in_out").layers[0].matrix == (12, 45)
        assert sw.summary(source, layout={"V": "in_out"}).width == (12, 12)
        assert found.estimate is not None
        assert not found.estimate.warnings
    found.save(tmp_path / "a.safetensors")
    assert torch.equal(sw.load(tmp_path / "a.safetensors").state_dict()["V"], found.state_dict()["V"])
    explorer = sw.explore({"V": w}, recipe=recipe, layout="in_out")
    assert explorer.sketch.layers[0].rows == 12
    assert explorer._compressed(recipe, "").nbytes == found.nbytes
    explorer.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("inout", "layout='inout' must be .*did you mean 'in_out'"),
        (3, "layout=3 must be 'out_in', 'in_out', or a dict"),
        ({"proj": "io"}, "layout='io' must be 'out_in'"),
        ({"proj": 1}, "layout=1 must be 'out_in'"),
        ({"pro": "in_out"}, "matches no tensor of two or more dimensions; did you mean 'proj'"),
        ({3: "in_out"}, "layout={3: …} matches no tensor"),
    ],
)
def test_a_layout_that_is_none_is_refused(wrong: Any, told: str) -> None:
    for action in (sw.summary, sw.sketch, sw.explore, lambda s, layout: sw.compress(s, Recipe(), layout=layout)):
        with pytest.raises(ModelError, match=told):
            action(THREE, layout=wrong)


def test_a_sketch_of_another_layout_is_refused() -> None:
    known = sw.sketch(THREE, layout={"W1": "in_out"})
    with pytest.raises(ModelError, match=r"reads 'W1' as 20 output channels, and here it has 30: give .* same layout"):
        sw.compress(THREE, Recipe(), sketch=known)


@pytest.mark.parametrize(
    ("names", "layers"),
    [
        (["W1", "b1", "W2", "b2"], ["W1", "W2"]),
        (["W1", "W2"], ["W1", "W2"]),
        (["params/W1", "params/b1", "params/W2", "params/b2"], ["params/W1", "params/W2"]),
        (["dense_1_kernel", "dense_1_bias", "dense_2_kernel", "dense_2_bias"], ["dense_1", "dense_2"]),
        (["l1_weights", "l1_biases", "l1_gamma", "l2_weights"], ["l1", "l2"]),
        (["coefs_0", "coefs_1", "intercepts_0", "intercepts_1"], ["coefs_0", "coefs_1"]),
        (["W1", "b1"], [""]),
        (["weight_ih", "weight_hh", "bias_ih", "bias_hh"], [""]),
        (["a/kernel", "a/recurrent_kernel", "a/bias", "b/kernel"], ["a", "b"]),
    ],
)
def test_layers_without_paths_are_told_apart_by_the_names_of_weights_and_biases(
    names: list[str], layers: list[str]
) -> None:
    square = ("W", "kernel", "weight", "coefs")
    state = {name: torch.ones((4, 4) if any(word in name for word in square) else 4) for name in names}
    size = sw.summary(state)
    assert [layer.name for layer in size.layers] == layers
    assert size.depth == len(layers)
    assert sum(len(layer.tensors) for layer in size.layers) == len(names)


def test_the_class_of_a_module_tells_before_anything_else() -> None:
    model = nn.ModuleDict(
        {
            "up": nn.ConvTranspose2d(8, 8, 3),
            "split": nn.ConvTranspose1d(8, 6, 3, groups=2),
            "conv": nn.Conv1d(1, 8, 64),
            "mixed": nn.Bilinear(3, 4, 5),
        }
    )
    found = {entry.name: entry.layout for entry in open_model(model).layers}
    expected = [Layout((1,)), Layout((0, 2), 2), Layout(), Layout()]
    assert [found[f"{name}.weight"] for name in model] == expected


def test_experts_and_conv1d_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    moe = small | {"num_key_value_heads": 1, "intermediate_size": 24, "num_local_experts": 4, "head_dim": 8}
    out_in, in_out = Layout((0, 1)), Layout((0, 2))
    for family, expected in (("Mixtral", out_in), ("GptOss", in_out)):
        model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**moe))
        stacks = {e.name: e for e in open_model(model).layers if len(e.shape) == 3}
        assert [e.layout for e in stacks.values()] == [expected, expected]
        assert sorted(e.layout.width(e.shape) for e in stacks.values()) == [16, 48]
        state = layouts({name: tuple(w.shape) for name, w in model.state_dict().items()}, {})
        assert all(state[name] == expected for name in stacks)  # nor does it need the module
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    found = {e.name: e.layout for e in open_model(gpt).layers}
    assert found["transformer.h.0.attn.c_proj.weight"] == found["transformer.h.0.mlp.c_fc.weight"] == Layout((1,))
    assert found["transformer.wte.weight"] == Layout()


@pytest.mark.parametrize(
    "layout", [[1, 0], [1], [], [2, 0, 0], [0, 1], [5, 0, 2], [1, 3], [1, -1], [1, "1"], [1.0, 1], [True, 1]]
)
def test_a_file_with_an_impossible_layout_is_refused(layout: list[object]) -> None:
    good = [["up.weight", [8, 6, 3], "float32", 1, [2, 0, 2]]]
    (record,) = read_records(fold_structure(good), Recipe())
    assert record.layout == Layout((0, 2), 2)
    with pytest.raises(FileError, match=r"layout|describes a tensor"):
        read_records(fold_structure([["up.weight", [8, 6, 3], "float32", 1, layout]]), Recipe())
    with pytest.raises(FileError, match="layout"):
        read_records(fold_structure([["up.weight", [8, 6, 3], "float32", 0, [2, 0, 2]]]), Recipe())


@pytest.mark.parametrize("recipe", [RECIPES["2:4"], RECIPES["codebook"], RECIPES["least error, sparse"]])
def test_retraining_holds_masks_and_grids_along_the_rows_of_every_layout(recipe: Recipe) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.ConvTranspose1d(4, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 6, 3, groups=2), nn.Flatten(), nn.Linear(54, 3)
    )
    data = torch.randn(64, 4, 5), torch.randint(3, (64,))
    trained = sw.retrain(sw.compress(net, recipe), data, method=FineTune(epochs=2, lr=0.05))
    assert trained.model is not None
    for name, before in sw.compress(net, recipe).encoded.items():
        found, mask = trained.model.state_dict()[name], before.mask
        assert mask is not None
        assert not bool(found[~mask].any())
        assert not torch.equal(found, net.state_dict()[name] * mask)
        assert torch.equal(found, trained.state_dict()[name])
        if recipe.structure.kind == "2:4":
            rows = by_group(found) if name == "2.weight" else outputs_second(found) if name == "0.weight" else found
            whole = rows[:, : rows.shape[1] // 4 * 4].unflatten(1, (-1, 4))
            assert bool(((whole != 0).sum(2) == 2).all())
    again = sw.compress(trained.model, recipe).state_dict()
    assert all(torch.equal(again[name] == 0, w == 0) for name, w in trained.state_dict().items())
