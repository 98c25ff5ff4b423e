"""The recipe: what it refuses, what it remembers, and which layers it means."""

from __future__ import annotations

import copy
import json
import pickle
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkwidget.errors import RecipeError
from shrinkwidget.methods import Random, Uniform
from shrinkwidget.recipe_and_method_registry import BITS, Keep, Recipe, canonical_json

from ..count_work_not_time import lines_run

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.0.conv1.weight", "fc.weight"]

_sparsity = st.floats(0, 1, exclude_max=True, allow_nan=False)
_own = {
    "bits": st.sampled_from(BITS),
    "granularity": st.one_of(st.sampled_from(["tensor", "channel"]), st.integers(2, 4096)),
    "quantizer": st.one_of(
        st.sampled_from(["uniform", "kmeans"]),
        st.builds(
            Uniform,
            symmetric=st.booleans(),
            scales=st.sampled_from(["float32", "float16", "bfloat16"]),
            clipping=st.one_of(st.sampled_from(["auto", "absmax", "mse"]), st.floats(50, 100, exclude_min=True)),
        ),
    ),
}
_pruning = st.one_of(
    st.fixed_dictionaries({"sparsity": _sparsity}),
    st.fixed_dictionaries({"structure": st.sampled_from(["unstructured", "2:4", "1:4", "4:8"])}),
)
_override = st.one_of(st.just(Keep), st.fixed_dictionaries({}, optional={**_own, "sparsity": _sparsity}))


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw any valid recipe."""
    fields: dict[str, Any] = draw(st.fixed_dictionaries({}, optional=_own)) | draw(_pruning)
    fields["scope"] = draw(st.sampled_from(["global", "layer", "channel"]))
    fields["importance"] = draw(st.sampled_from(["magnitude", "random"]) | st.builds(Random, st.integers(0, 2**53 - 1)))
    fields["uncompressed_bits"] = draw(st.sampled_from([16, 32]))
    return Recipe(**fields, layers=draw(st.dictionaries(st.text(min_size=1), _override, max_size=3)))


@given(recipes())
def test_json_text_and_repr_rebuild_an_equal_recipe(recipe: Recipe) -> None:
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert eval(repr(recipe), {"Recipe": Recipe, "Keep": Keep, "Uniform": Uniform, "Random": Random}) == recipe  # noqa: S307  # our own text
    assert hash(Recipe.from_json(recipe.to_json())) == hash(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == recipe == copy.deepcopy(recipe)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_written_as_they_are_read(x: float) -> None:
    assert float(canonical_json(x)) == x


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"sparsity": 90}, "must be a fraction, 0 <= sparsity < 1; for 90 % write 0.9"),
        ({"sparsity": 1.0}, "must be a fraction"),
        ({"sparsity": float("nan")}, "must be a fraction"),
        ({"sparsity": True}, "must be a fraction"),
        ({"bits": 9}, "must be one of 1, 2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ({"bits": True}, "must be one of"),
        ({"bits": "4"}, "must be one of 1, 2, 3, 4, 5, 6, 7, 8, 16, 32; did you mean 4?"),
        ({"sparsity": 10**400}, "must be a fraction"),
        ({"clipping": 10**400}, "a percentile above 50"),
        ({"structure": "2:3"}, "did you mean '2:4'"),
        ({"structure": "2:4", "sparsity": 0.9}, "fixes the sparsity at 0.5, got 0.9; leave sparsity out"),
        ({"granularity": "chanel"}, "did you mean 'channel'"),
        ({"granularity": 1}, "a group size from 2"),
        ({"clipping": 12}, "a percentile above 50"),
        ({"symmetric": 1}, "must be False or True"),
        ({"importance": "random", "seed": -1}, "must be a whole number from 0"),
        ({"layers": {"fc": 8}}, "the override of 'fc' must be Keep or a dict"),
        ({"layers": {"fc": {"sparsty": 0.5}}}, "the override of 'fc' has no field 'sparsty'; did you mean 'sparsity'?"),
        ({"layers": {"fc": {"bitz!?": 5}}}, "has no field 'bitz!?'; did you mean 'bits'? Its fields: sparsity, bits"),
        ({"layers": {"fc": {"zzz": 5}}}, "the override of 'fc' has no field 'zzz'. Its fields: sparsity, bits"),
        ({"layers": {"": Keep}}, "expected a layer's name or a pattern"),
        ({"layers": {"fc\ud800": Keep}}, "half of a surrogate pair, which no file can hold"),
        ({"layers": [1]}, "must be a dict of overrides"),
        ({"sparisty": 0.5}, "Recipe has no field 'sparisty'; did you mean 'sparsity'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe(**fields)
    assert sentence in str(refused.value)


def test_a_wrong_number_of_bits_is_not_likened_to_digits() -> None:
    with pytest.raises(RecipeError, match=r"16, 32$"):
        Recipe(bits=12)


def test_numbers_of_numpy_are_numbers() -> None:
    fields: dict[str, Any] = {"sparsity": np.float32(0.5), "bits": np.int64(4), "granularity": np.int32(32)}
    fields |= {"clipping": np.float32(99.5), "symmetric": np.bool_(False), "importance": "random", "seed": np.int64(3)}
    swept = Recipe(**fields)
    plain = Recipe(sparsity=0.5, bits=4, granularity=32, clipping=99.5, symmetric=False, importance=Random(3))
    assert swept == plain
    assert repr(swept) == repr(plain)
    assert Recipe(layers={"fc": {"bits": np.int64(8)}}) == Recipe(layers={"fc": {"bits": 8}})
    assert Recipe(granularity=32.0).granularity == 32  # type: ignore[arg-type]


@pytest.mark.parametrize("found", [None, 3, ["sparsity"]])
def test_what_is_no_text_is_no_recipe(found: Any) -> None:
    with pytest.raises(RecipeError, match="not a recipe"):
        Recipe.from_json(found)


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("{", "not valid JSON"),
        ("[]", 'expected an object with "format"'),
        ('{"format":"shrinkwidget-recipe","version":3}', "newer than 2: upgrade shrinkwidget"),
        ('{"format":"shrinkwidget-recipe","version":1,"bits":4}', "has version 1, from before the first release"),
        ('{"format":"shrinkwidget-recipe","version":"1"}', "has version '1'; expected 2"),
        ('{"format":"shrinkwidget-recipe","version":2,"sparsty":0}', "did you mean 'sparsity'?"),
        ('{"format":"shrinkwidget-recipe","version":2,"layers":3}', "must be an object of overrides"),
        ('{"format":"shrinkwidget-recipe","version":2,"bits":[4]}', "must be one of"),
        ('{"format":"shrinkwidget-recipe","version":2,"granularity":{}}', "must be 'tensor', 'channel'"),
    ],
)
def test_text_that_is_no_recipe_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe.from_json(text)
    assert sentence in str(refused.value)


def test_the_last_matching_override_wins_whole() -> None:
    recipe = Recipe(sparsity=0.5, bits=4, layers={"layer*": {"bits": 8}, "*.conv2": {"sparsity": 0.1}, "fc": Keep})
    conv1, first, second, third, fc = recipe.resolve(NAMES)
    assert (conv1.bits, conv1.sparsity, conv1.scope == "global") == (4, 0.5, True)
    assert (first.bits, first.scope == "global") == (8, True)
    assert (second.bits, second.sparsity, second.scope == "global") == (4, 0.1, False)
    assert third == first
    assert fc.keep
    assert fc.scope != "global"


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(RecipeError, match=r"'conv_1'.*matches no layer; did you mean 'conv1'"):
        Recipe(layers={"conv_1": Keep}).resolve(NAMES)
    with pytest.raises(RecipeError, match=r"'zzz'.*matches no layer; the layers are 'conv1', "):
        Recipe(layers={"zzz": Keep}).resolve(NAMES)
    with pytest.raises(RecipeError, match=r"'zzz'.*matches no layer; the layers are '0', .*'5' and 94 more$"):
        Recipe(layers={"zzz": Keep}).resolve([f"{i}.weight" for i in range(100)])


def test_a_layer_whose_name_looks_like_a_pattern_is_found_by_its_name() -> None:
    recipe = Recipe(layers={"a[0]": Keep, "b[!x].weight": dict(bits=4)})
    plans = recipe.resolve(["a[0].weight", "b[!x].weight", "a0.weight"])
    assert [(plan.keep, plan.bits) for plan in plans] == [(True, 32), (False, 4), (True, 32)]


def test_layers_are_changed_one_at_a_time_and_back() -> None:
    recipe = Recipe(sparsity=0.5).with_layer("fc", bits=8).with_layer("fc", sparsity=0.2)
    assert recipe.layers["fc"] == {"sparsity": 0.2, "bits": 8}
    assert recipe.with_layer("fc", Keep).layers["fc"] is Keep
    assert recipe.with_layer("fc") == Recipe(sparsity=0.5)
    with pytest.raises(RecipeError, match="an override or single fields, not both"):
        recipe.with_layer("fc", Keep, bits=8)


def test_a_pattern_brings_its_sparsity_and_takes_it_along() -> None:
    assert Recipe(structure="1:4").sparsity == 0.75
    assert Recipe(sparsity=0.9).with_(structure="2:4").sparsity == 0.5
    assert Recipe(structure="2:4").with_(structure="unstructured").sparsity == 0.0
    plan = Recipe(sparsity=0.9, layers={"fc": {"structure": "2:4"}}).resolve(NAMES)[-1]
    assert (plan.sparsity, plan.scope == "global") == (0.5, False)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    recipe = Recipe(layers={"fc": {"bits": 8}})
    with pytest.raises(AttributeError):
        recipe.bits = 4  # type: ignore[misc]
    with pytest.raises(TypeError):
        recipe.layers["fc"] = Keep  # type: ignore[index]
    with pytest.raises(TypeError):
        recipe.layers["fc"]["bits"] = 4  # type: ignore[index]


_letters = st.text("ab.0[]", min_size=1, max_size=6)
_names = st.lists(_letters | _letters.map("{}.weight".format), min_size=1, max_size=8, unique=True)


@given(_names, st.lists(st.text("ab.0*?[]!-", min_size=1, max_size=5), min_size=1, max_size=5, unique=True))
def test_overrides_go_where_fnmatch_says(names: list[str], keys: list[str]) -> None:
    """Names are looked up and wildcards compiled; this is the plain rule, spelled out."""
    expected = dict.fromkeys(names, 32)
    unused = set(keys)
    for bits, key in enumerate(keys, start=1):
        for name in names:
            if any(key == one or fnmatchcase(one, key) for one in (name, name.removesuffix(".weight"))):
                expected[name] = bits
                unused.discard(key)
    recipe = Recipe(layers={key: {"bits": bits} for bits, key in enumerate(keys, start=1)})
    if unused:
        with pytest.raises(RecipeError, match="matches no layer"):
            recipe.resolve(names)
    else:
        assert [plan.bits for plan in recipe.resolve(names)] == list(expected.values())


def test_the_vectors_of_overrides_are_what_python_decides_now() -> None:
    path = Path(__file__).parents[1] / "vectors" / "overrides" / "cases.json"
    for case in json.loads(path.read_text()):
        recipe = Recipe.from_json(case["recipe"])
        if case["bits"] is None:
            with pytest.raises(RecipeError, match="matches no layer"):
                recipe.resolve(case["names"])
        else:
            assert [plan.bits for plan in recipe.resolve(case["names"])] == case["bits"]


def test_an_override_for_every_layer_costs_no_more_than_reading_them() -> None:
    costs = []
    for count in (100, 1000):
        names = [f"layers.{i}.weight" for i in range(count)]
        recipe = Recipe(layers={name: {"bits": 2} for name in names})
        costs.append(lines_run(recipe.resolve, names))
        assert {plan.bits for plan in recipe.resolve(names)} == {2}
    assert costs[1] < 10.5 * costs[0]


def test_a_thousand_wildcards_for_thousands_of_layers_are_refused() -> None:
    recipe = Recipe(layers={f"*{i}*": {"bits": 2} for i in range(1000)})
    with pytest.raises(RecipeError, match=r"1,000 keys with wildcards, too many .* 5,000 layers: name the"):
        recipe.resolve([f"layers.{i}.weight" for i in range(5000)])


def test_names_in_messages_are_escaped_and_shortened() -> None:
    with pytest.raises(RecipeError) as refused:
        Recipe(layers={"fc\n\x1b[2J\u202e" + "x" * 10_000: {"bits": 2}}).resolve(["y" * 10_000])
    assert r"fc\n\x1b[2J\u202e" in str(refused.value)
    assert len(str(refused.value)) < 600


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"this is not a recipe: it has the key 'a' twice"):
        Recipe.from_json('{"format":"shrinkwidget-recipe","version":2,"layers":{"a":"keep","a":{"bits":2}}}')
