"""Pruning keeps exactly the weights it says, for every dtype, and those that torch's own pruning keeps."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from shrinkwidget import recipe_and_method_registry as registry
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import sketch
from shrinkwidget.compression.importance_scores_and_pruning_masks import keep_masks, selections
from shrinkwidget.errors import Cancelled, ModelError
from shrinkwidget.methods import Importance, Random, Structure, register
from shrinkwidget.recipe_and_method_registry import Keep, Override, Recipe

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
State = dict[str, Tensor]


def masks_of(state: State, recipe: Recipe) -> dict[str, Tensor]:
    """Return the masks by name, whole ones written out."""
    masks = keep_masks(open_model(state), recipe)
    return {
        name: torch.ones(w.shape, dtype=torch.bool) if m is None else m
        for (name, w), m in zip(state.items(), masks, strict=True)
    }


def plainly_pruned(state: State, k: int) -> dict[str, Tensor]:
    """Prune the k smallest magnitudes of all tensors by sorting Python numbers, earlier weights first among equals.

    What is zero already is pruned in any case; where nothing else is, the sign of a zero is kept unless so many are
    zero that a mask and the others take fewer bits.
    """
    ranked = sorted(
        (abs(x), place, i)
        for place, w in enumerate(state.values())
        for i, x in enumerate(w.double().flatten().tolist())
    )
    masks = [torch.ones(w.numel(), dtype=torch.bool) for w in state.values()]
    for _, place, i in ranked[:k]:
        masks[place][i] = False
    for mask, w in zip(masks, state.values(), strict=True):
        zero = w.flatten() == 0
        if not k and int(zero.sum()) * min(32, 8 * w.itemsize) <= w.numel():
            zero &= ~w.flatten().signbit()
        mask[zero] = False
    return {name: mask.view(w.shape) for mask, (name, w) in zip(masks, state.items(), strict=True)}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@st.composite
def states(draw: st.DrawFn) -> State:
    """A few small tensors of mixed dtypes, some with many equal magnitudes, zeros and numbers too small for float32."""
    state = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 9), min_size=2, max_size=4))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        w = torch.randn(shape, generator=generator, dtype=torch.float64) * draw(st.sampled_from([1.0, 1e-3, 1e-42]))
        coarse = draw(st.sampled_from([None, 0.5, 1.0]))
        w = w if coarse is None else (w / coarse).round() * coarse
        state[f"layer{i}.weight"] = w.to(draw(st.sampled_from(DTYPES)))
    return state


@given(states(), st.floats(0, 1, exclude_max=True))
def test_global_pruning_takes_the_smallest_and_of_equal_ones_the_first(state: State, sparsity: float) -> None:
    k = round(sparsity * sum(w.numel() for w in state.values()))
    assert equal(masks_of(state, Recipe(sparsity=sparsity)), plainly_pruned(state, k))


@given(states(), st.floats(0, 1, exclude_max=True))
def test_layer_pruning_takes_the_same_share_of_every_layer(state: State, sparsity: float) -> None:
    found = masks_of(state, Recipe(sparsity=sparsity, scope="layer"))
    for name, w in state.items():
        alone = {name: w}
        assert torch.equal(found[name], plainly_pruned(alone, round(sparsity * w.numel()))[name])


@given(states(), st.sampled_from(["2:4", "1:4", "4:8"]))
def test_patterns_keep_the_largest_of_every_block_along_a_row(state: State, pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    for name, mask in masks_of(state, Recipe(structure=pattern)).items():
        rows = state[name].double().abs().reshape(len(state[name]), -1)
        for row, kept in zip(rows.tolist(), mask.reshape(rows.shape).tolist(), strict=True):
            for start in range(0, len(row), m):
                block = range(start, min(start + m, len(row)))
                best = sorted(block, key=lambda i: (row[i], i))[-n:]
                assert [i for i in block if kept[i]] == sorted(i for i in best if row[i])


@pytest.mark.parametrize("importance", ["magnitude", "random"])
@given(state=states(), sparsity=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 2**53 - 1))
def test_counts_are_exact(importance: str, state: State, sparsity: float, seed: int) -> None:
    recipe = Recipe(sparsity=sparsity, importance=Random(seed) if importance == "random" else importance)
    state = {name: w.masked_fill(w == 0, 1.0) for name, w in state.items()}
    total = sum(w.numel() for w in state.values())
    assert sum(int(m.sum()) for m in masks_of(state, recipe).values()) == total - round(sparsity * total)
    for name, mask in masks_of(state, recipe.with_(scope="layer")).items():
        n = state[name].numel()
        assert int(mask.sum()) == n - round(sparsity * n)


@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
@given(state=states(), seed=st.integers(0, 2**53 - 1))
def test_chance_keeps_of_the_weights_it_draws_those_that_are_not_zero(state: State, pattern: str, seed: int) -> None:
    recipe = Recipe(structure=pattern, importance="random", seed=seed)
    recipe = recipe.with_(sparsity=0.5) if pattern == "unstructured" else recipe
    filled = {name: torch.ones_like(w) for name, w in state.items()}
    drawn, found = masks_of(filled, recipe), masks_of(state, recipe)
    if any(not mask.all() for mask in drawn.values()):
        assert equal(
            found, {name: drawn[name] & (w != 0) for name, w in state.items() if not drawn[name].all()} | found
        )
    kept = selections(open_model(state), recipe)
    assert [selection.kept for selection in kept] == [int(mask.sum()) for mask in found.values()]


def test_what_is_kept_is_what_torch_keeps_on_real_weights(resnet20: Path) -> None:
    weights = open_model(resnet20)
    for sparsity in (0.1, 0.5, 0.9, 0.99):
        layers = [nn.ParameterDict({"weight": entry.load()}) for entry in weights.layers]
        prune.global_unstructured([(layer, "weight") for layer in layers], prune.L1Unstructured, amount=sparsity)
        for layer, mask in zip(layers, keep_masks(weights, Recipe(sparsity=sparsity)), strict=True):
            assert mask is not None
            assert torch.equal(dict(layer.named_buffers())["weight_mask"].bool(), mask)


@given(st.integers(0, 2**31), st.sampled_from(DTYPES), st.floats(0, 0.99))
def test_what_is_kept_is_what_torch_keeps_but_for_equal_magnitudes(seed: int, dtype: torch.dtype, s: float) -> None:
    w = torch.randn(40, 25, generator=torch.Generator().manual_seed(seed)).to(dtype)
    module = nn.ParameterDict({"weight": w})
    prune.l1_unstructured(module, "weight", amount=round(s * w.numel()))
    (found,) = keep_masks(open_model({"weight": w}), Recipe(sparsity=s, scope="layer"))
    found = torch.ones_like(w, dtype=torch.bool) if found is None else found
    theirs = dict(module.named_buffers())["weight_mask"].bool()
    differs = found != theirs
    assert w[differs].abs().unique().numel() <= 1
    assert int(found.sum()) == int(theirs.sum())


def test_large_tensors_are_looked_at_in_pieces_with_the_same_result() -> None:
    w = (torch.randn(3, 1000, 400, generator=torch.Generator().manual_seed(0)) * 8).round() / 8
    k = round(0.7 * w.numel())
    (found,) = keep_masks(open_model({"w": w}), Recipe(sparsity=0.7))
    order = w.abs().flatten().sort(stable=True).indices
    expected = torch.ones(w.numel(), dtype=torch.bool)
    expected[order[:k]] = False
    assert found is not None
    assert torch.equal(found, expected.view(w.shape))


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(sparsity=0.5), Recipe(sparsity=0.5, scope="layer"), Recipe(bits=4)]
)
def test_of_a_model_that_is_mostly_zero_already_exactly_the_zeros_are_pruned(recipe: Recipe) -> None:
    w = torch.zeros(50, 40)
    w[:, 1::20], w[:, ::10] = -0.0, 1.0
    (found,) = keep_masks(open_model({"w": w}), recipe)
    assert found is not None
    assert torch.equal(found, w != 0)


def test_a_cut_between_dtypes_compares_what_they_really_are() -> None:
    narrow = torch.tensor([[1.0, 1.0 + 2**-23]])
    wide = torch.tensor([[1.0 + 2**-30, 1.0 + 2**-24]], dtype=torch.float64)
    state = {"narrow": narrow, "wide": wide}
    for k in range(4):
        assert equal(masks_of(state, Recipe(sparsity=k / 4)), plainly_pruned(state, k))


def test_strides_do_not_matter() -> None:
    w = torch.randn(8, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    for recipe in (Recipe(sparsity=0.6), Recipe(structure="2:4"), Recipe(sparsity=0.6, importance="random")):
        (plain,) = keep_masks(open_model({"w": w}), recipe)
        (strided,) = keep_masks(open_model({"w": w.to(memory_format=torch.channels_last)}), recipe)
        assert plain is not None
        assert strided is not None
        assert torch.equal(plain, strided)


def test_overrides_leave_the_ranking_and_keep_is_kept() -> None:
    generator = torch.Generator().manual_seed(2)
    state = {name: torch.randn(20, 30, generator=generator) for name in "abcd"}
    layers: dict[str, Override] = {"a": Keep, "b": {"sparsity": 0.25}, "c": {"structure": "2:4"}}
    found = masks_of(state, Recipe(sparsity=0.5, layers=layers))
    assert {name: int(m.sum()) for name, m in found.items()} == {"a": 600, "b": 450, "c": 20 * (7 * 2 + 2), "d": 300}


def test_random_masks_depend_on_the_seed_and_not_on_the_other_layers() -> None:
    state = {name: torch.randn(30, 30) for name in "ab"}
    recipe = Recipe(sparsity=0.5, importance="random", scope="layer", seed=7)
    both, alone = masks_of(state, recipe), masks_of({"b": state["b"]}, recipe)
    assert torch.equal(both["b"], alone["b"])
    assert not torch.equal(both["a"], both["b"])
    assert not torch.equal(both["b"], masks_of(state, recipe.with_(seed=8))["b"])


def test_random_masks_take_every_place_equally_often() -> None:
    state = {"w": torch.ones(10, 10)}
    recipe = Recipe(sparsity=0.3, importance="random")
    times = torch.stack([masks_of(state, recipe.with_(seed=seed))["w"].float() for seed in range(400)])
    assert float((times.mean(0) - 0.7).abs().max()) < 0.12


def test_random_patterns_keep_n_of_every_m() -> None:
    found = masks_of({"w": torch.randn(16, 32)}, Recipe(structure="2:4", importance="random"))["w"]
    assert (found.view(-1, 4).sum(1) == 2).all()
    assert len({tuple(block) for block in found.view(-1, 4).tolist()}) == len(list(itertools.combinations(range(4), 2)))


def test_a_sketch_of_other_weights_is_noticed() -> None:
    w = torch.randn(100, 100, generator=torch.Generator().manual_seed(3))
    old = sketch({"w": w * 1.001})
    with pytest.raises(ModelError, match="'w' changed since their sketch"):
        keep_masks(open_model({"w": w}), Recipe(sparsity=0.5), old)


def test_weights_that_are_not_numbers_are_refused_by_name() -> None:
    w = torch.randn(4, 4)
    w[1, 2] = torch.nan
    with pytest.raises(ModelError, match="'w'"):
        keep_masks(open_model({"w": w}), Recipe(sparsity=0.5))


def test_selection_stops_when_it_is_told_to() -> None:
    with pytest.raises(Cancelled):
        selections(open_model({"w": torch.randn(4, 4)}), Recipe(sparsity=0.5), cancelled=lambda: True)


TRAINED = [
    Recipe(sparsity=0.7),
    Recipe(sparsity=0.7, scope="layer"),
    Recipe(sparsity=0.7, layers={"b": {"sparsity": 0.3}, "c": Keep}),
    Recipe(structure="2:4", bits=4),
    Recipe(structure="2:4", importance="random"),
    Recipe(sparsity=0.6, importance="random"),
    Recipe(sparsity=0.001, bits=4),  # of a small layer that is not one weight
]


def trained_under(recipe: Recipe) -> tuple[State, dict[str, Tensor]]:
    """Return weights that have moved since they were pruned, and which of them were kept."""
    generator = torch.Generator().manual_seed(5)
    state = {name: torch.randn(8, 16, generator=generator) for name in "abc"}
    kept = masks_of(state, recipe)
    moved = {name: torch.randn(w.shape, generator=generator).abs() + 0.01 for name, w in state.items()}
    return {name: w * kept[name] for name, w in moved.items()}, kept


@pytest.mark.parametrize("recipe", TRAINED, ids=str)
def test_what_was_trained_under_its_masks_keeps_them_without_a_sketch(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, kept = trained_under(recipe)
    monkeypatch.setattr("shrinkwidget.compression.importance_scores_and_pruning_masks.counted", None)
    found = selections(open_model(state), recipe, pruned=True)
    assert [s.kept for s in found] == [int(mask.sum()) for mask in kept.values()]
    assert equal({n: s.mask(state[n]).view(8, 16) for n, s in zip(state, found, strict=True)}, kept)


@pytest.mark.parametrize("recipe", [*TRAINED[:4], Recipe(sparsity=0.5, scope="channel")], ids=str)
def test_what_has_fewer_zeros_than_its_recipe_asks_for_is_ranked(recipe: Recipe) -> None:
    state, kept = trained_under(recipe)
    # such as a training leaves them that was stopped
    state["a"][~kept["a"]] = 1e-3 * torch.arange(1, 1 + int((~kept["a"]).sum()))
    found = selections(open_model(state), recipe, pruned=True)
    assert [s.kept for s in found] == [s.kept for s in selections(open_model(state), recipe)]
    assert sum(s.kept for s in found) <= sum(int(mask.sum()) for mask in kept.values())


def test_zeros_in_other_places_than_a_pattern_are_no_pattern() -> None:
    state, kept = trained_under(Recipe(structure="2:4"))
    first = int(kept["a"].flatten().nonzero()[0])
    state["a"].view(-1)[first] = 0  # one block of three zeros, and one with three weights: as many as before
    other = int((~kept["a"]).flatten().nonzero()[-1])
    state["a"].view(-1)[other] = 1e-3
    (found, *_) = selections(open_model(state), Recipe(structure="2:4"), pruned=True)
    assert found.kept == int(kept["a"].sum()) - 1
    assert int(found.mask(state["a"]).view(-1, 4).sum(1).max()) == 2


@dataclass(frozen=True, repr=False)
class LargestGo(Importance):
    """Prunes the largest: whatever ranks trained weights by this again takes the others."""

    kind, label, title = "largest_go", "largest", "the largest go first"

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return 1 / (1 + |w|)."""
        del name, statistic
        return 1 / (1 + rows.abs())


@dataclass(frozen=True, repr=False)
class HalfOfEach(Structure):
    """The better half of each row is kept."""

    kind, label, title = "half_of_each", "half", "half of each row"

    @property
    def sparsity(self) -> float:
        """One half."""
        return 0.5

    def keeps(self, scores: Tensor) -> Tensor:
        """Return which weights are kept."""
        best = scores.argsort(dim=1, descending=True)[:, : -(-scores.shape[1] // 2)]
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


@pytest.mark.parametrize(
    "asked",
    [
        lambda importance: Recipe(sparsity=0.5, importance=importance),
        lambda importance: Recipe(sparsity=0.5, importance=importance, scope="layer"),
        lambda importance: Recipe(sparsity=0.5, importance=importance, scope="channel"),
        lambda importance: Recipe(structure="2:4", importance=importance),
        lambda importance: Recipe(structure=HalfOfEach(), importance=importance),
    ],
    ids=["global", "layer", "channel", "2:4", "half of each"],
)
def test_an_importance_of_ones_own_prunes_no_trained_network_again(
    asked: Callable[[Importance], Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_REGISTER", {role: dict(known) for role, known in registry._REGISTER.items()})
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))
    for kind in (LargestGo, HalfOfEach):
        register(kind)
    recipe = asked(LargestGo())
    state, kept = trained_under(recipe)
    found = selections(open_model(state), recipe, pruned=True)
    assert equal({n: s.mask(state[n]).view(8, 16) for n, s in zip(state, found, strict=True)}, kept)


def test_rows_that_share_their_zeros_unevenly_are_ranked_again() -> None:
    recipe = Recipe(sparsity=0.5, scope="channel")
    state = {"w": torch.arange(1.0, 33).view(4, 8)}
    state["w"][:2] = 0  # as many as asked, all in two rows
    (found,) = selections(open_model(state), recipe, pruned=True)
    assert found.mask(state["w"]).view(4, 8).sum(1).tolist() == [0, 0, 4, 4]


def test_a_zero_in_a_trained_layer_under_keep_stays() -> None:
    state = {"w": torch.arange(64.0).view(8, 8), "v": torch.arange(64.0).view(8, 8)}
    recipe = Recipe(sparsity=1 / 128, layers={"v": Keep})
    found = selections(open_model(state), recipe, pruned=True)
    assert [s.kept for s in found] == [63, 64]
