"""Kinds of one's own: registered in one class, used everywhere, and blamed by name when they fail."""

# ruff: noqa: ARG002, ARG005  # the interface has these arguments, and those who break it need none
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import shrinkwidget as sw
from shrinkwidget import recipe_and_method_registry as kinds
from shrinkwidget.errors import FileError, MethodError, NoEstimateError, RecipeError
from shrinkwidget.figures.numbers_and_recipes_as_text import recipe_label
from shrinkwidget.methods import (
    Choice,
    Importance,
    KMeans,
    Number,
    Quantizer,
    Random,
    Structure,
    Uniform,
    register,
    setting,
)
from shrinkwidget.recipe_and_method_registry import schema
from shrinkwidget.widgets.explorer_backend import ExplorerSession

from .packed_file_helpers import same_bits
from .training_helpers import mlp, points


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Forget the kinds a test has registered."""
    before = {role: dict(known) for role, known in kinds._REGISTER.items()}, dict(kinds._CLASSES)
    yield
    for role, known in before[0].items():
        kinds._REGISTER[role].clear()
        kinds._REGISTER[role].update(known)
    kinds._CLASSES.clear()
    kinds._CLASSES.update(before[1])


def powers() -> type[Quantizer]:
    """Return a quantizer of one's own, as its documentation says to write one: signed powers of two."""

    @register
    @dataclass(frozen=True, repr=False)
    class Powers(Quantizer):
        kind, label, title = "powers", "powers of two", "± 2^−k times a scale"
        widths = (3, 4)
        base: float = setting(2.0, Number("base", min=1.1, max=10, step=0.1))

        def zero_code(self, bits: int) -> int | None:
            return 0

        def _values(self, bits: int, like: Tensor) -> Tensor:
            half = 2 ** (bits - 1) - 1
            steps = self.base ** -torch.arange(half, dtype=torch.float32)
            return torch.cat([torch.zeros(1), steps, -steps]).to(like)

        def fit(self, layer: Any) -> Any:
            reach = torch.zeros(layer.groups.count)
            for piece in layer.pieces():
                reach[piece.groups] = torch.maximum(reach[piece.groups], piece.x.abs().amax(1))
            return layer.grid(scales=reach)

        def encode(self, piece: Any, grid: Any) -> Tensor:
            values = self._values(grid.plan.bits, piece.x) * grid.scale(piece)
            nearest: Tensor = (piece.x[:, :, None] - values[:, None]).abs().argmin(2)
            return nearest.to(torch.uint8)

        def decode(self, codes: Any, scales: Any, zeros: Any, codebook: Any, bits: int) -> Tensor:
            values: Tensor = self._values(bits, scales)[codes.int()] * scales
            return values

        def largest_code(self, bits: int) -> int:
            return int(2**bits - 2)

    return Powers


def test_a_quantizer_of_ones_own_is_coded_saved_loaded_and_trained(tmp_path: Path) -> None:
    made = powers()
    recipe = sw.Recipe(0.5, 4, quantizer="powers", granularity=8)
    small = sw.compress(mlp(), recipe)
    for entropy in (False, True):
        small.save(tmp_path / "x", entropy=entropy)
        loaded = sw.load(tmp_path / "x")
        assert all(same_bits(t, small.state_dict()[n]) for n, t in loaded.state_dict().items())
        assert loaded.recipe.quantizer == made()
    assert small.save(tmp_path / "x") == small.nbytes
    trained = sw.retrain(small, points(), epochs=1, lr=0.05)
    assert trained.model is not None
    again = sw.compress(trained.model, recipe)
    assert all(same_bits(t, trained.state_dict()[n]) for n, t in again.state_dict().items())
    with pytest.raises(NoEstimateError, match="quantizer 'powers' has no estimate"):
        sw.estimate(sw.sketch(mlp()), recipe)


def test_the_page_gets_its_controls_from_the_class() -> None:
    powers()
    told = schema()["quantizer"][-1]
    assert (told["kind"], told["bits"]) == ("powers", [3, 4])
    assert told["controls"] == [
        {"label": "base", "title": "", "min": 1.1, "max": 10, "step": 0.1, "unit": "", "name": "base", "type": "number"}
        | {"default": 2.0}
    ]
    assert "python" not in told
    builtin = {entry["kind"]: entry for entry in schema()["quantizer"]}
    assert builtin["uniform"]["python"] == "sw.methods.Uniform"
    assert [control["name"] for control in builtin["uniform"]["controls"]] == ["symmetric", "clipping", "scales"]
    assert json.loads(json.dumps(schema())) == schema()


def test_the_vector_of_the_schema_is_what_python_says_now() -> None:
    path = Path(__file__).parents[1] / "vectors" / "kinds" / "schema.json"
    assert json.loads(path.read_text()) == schema()


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
@pytest.mark.parametrize("scope", ["global", "layer", "channel"])
def test_an_importance_of_ones_own_decides_what_goes(structure: str, scope: Any) -> None:
    @register
    @dataclass(frozen=True, repr=False)
    class Largest(Importance):
        kind, label, title = "largest", "largest", "the largest go first"

        def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
            return 1 / (1 + rows.abs())

    w = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    small = sw.compress({"w": w}, 0.5, importance=Largest(), scope=scope, structure=structure)
    mask = small.encoded["w"].mask
    assert mask is not None
    assert int(mask.sum()) == 64
    if structure == "unstructured" and scope != "channel":
        assert w[mask].abs().max() < w[~mask].abs().min()
    sizes = (4, 16) if structure == "2:4" else (16, 16)
    for block, keep in zip(w.view(-1, sizes[0]), mask.view(-1, sizes[0]), strict=True):
        if structure == "2:4" or scope == "channel":
            assert block[keep].abs().max() < block[~keep].abs().min()


@pytest.mark.parametrize(
    "scores, sentence",
    [
        (lambda rows: rows[0].abs(), r"returned scores of shape \[8\], expected \[16, 8\]"),
        (lambda rows: rows.abs() * float("nan"), "returned scores that are NaN, infinite or negative"),
        (lambda rows: rows, "returned scores that are NaN, infinite or negative"),
        (lambda rows: rows.abs() / 0, "NaN, infinite or negative"),
        (lambda rows: (rows > 0).int(), "returned a tensor of torch.int32, expected a float tensor"),
        (lambda rows: 3, "returned an int, expected a float tensor"),
        (lambda rows: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_importance_that_fails_is_named_with_its_layer(scores: Any, sentence: str) -> None:
    @register
    @dataclass(frozen=True, repr=False)
    class Mine(Importance):
        kind, label = "mine", "mine"

        def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
            found: Tensor = scores(rows)
            return found

    for scope in ("global", "channel"):
        with pytest.raises(
            MethodError, match="importance 'mine' failed on '0'.*" * ("failed on" not in sentence) + sentence
        ):
            sw.compress(mlp(), 0.5, importance="mine", scope=scope)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"fit": lambda self, layer: 1 / 0}, "ZeroDivisionError"),
        ({"fit": lambda self, layer: layer.grid(torch.ones(3))}, "fitted 3 float32 as scales, expected 16 float32"),
        ({"fit": lambda self, layer: layer.grid(torch.full((layer.groups.count,), torch.nan))}, "NaN or infinite"),
        ({"fit": lambda self, layer: layer.grid()}, "fitted NoneType as scales, expected 16 float32"),
        ({"fit": lambda self, layer: None}, "fitted NoneType as scales"),
        ({"encode": lambda self, piece, grid: piece.x}, r"encoded 16×8 uint8 weights as 16×8 float32"),
        ({"encode": lambda self, piece, grid: (piece.x[:1] > 0).to(torch.uint8)}, "weights as 1×8 uint8"),
        ({"encode": lambda self, piece, grid: torch.full_like(piece.x, 15).to(torch.uint8)}, "has the code 15, beyond"),
        ({"encode": lambda self, piece, grid: grid.none}, "AttributeError"),
        ({"decode": lambda self, codes, *_: codes[:1].float()}, "decoded"),
        ({"decode": lambda self, *_: 1 / 0}, "ZeroDivisionError"),
    ],
)
def test_a_quantizer_that_fails_is_named_with_its_layer(
    changes: dict[str, Any], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = powers()
    for name, method in changes.items():
        monkeypatch.setattr(made, name, method)
    with pytest.raises(MethodError, match=f"quantizer 'powers' failed on '0'.*{sentence}"):
        sw.compress(mlp(), bits=4, quantizer="powers")


def halves(keeps: Any = None) -> None:
    """Register a structure of one's own: the larger of every two neighbours stays."""

    @register
    @dataclass(frozen=True, repr=False)
    class Halves(Structure):
        kind, label, title = "halves", "halves", "the larger of two"
        sparsity = 0.5

        def keeps(self, scores: Tensor) -> Tensor:
            if keeps is not None:
                return keeps(scores)  # type: ignore[no-any-return]
            pairs = scores.view(len(scores), -1, 2)
            first = pairs[..., 0] > pairs[..., 1]
            return torch.stack([first, ~first], -1).view(scores.shape)


@pytest.mark.parametrize("importance", ["magnitude", "random", "wanda"])
def test_a_structure_of_ones_own_decides_what_goes_together(importance: str, tmp_path: Path) -> None:
    halves()
    recipe = sw.Recipe(structure="halves", bits=4, importance=importance)
    assert recipe.sparsity == 0.5
    assert '"sparsity":0.5,"bits":4' in recipe.to_json()  # the page knows no such structure
    assert recipe_label(recipe).replace("\N{NARROW NO-BREAK SPACE}", " ").startswith("50 % halves, 4 bits")
    assert sw.Recipe(layers={"0": dict(structure="halves")}).layers["0"]["sparsity"] == 0.5  # type: ignore[index]
    data = points() if importance == "wanda" else None
    small = sw.compress(mlp(), recipe, calibration=data)
    for item in small.encoded.values():
        assert item.mask is not None
        assert (item.mask.view(-1, 2).sum(1) == 1).all()
    if importance == "magnitude":
        before = dict(mlp().named_parameters())["0.weight"].abs().view(-1, 2)
        mask = small.encoded["0.weight"].mask
        assert mask is not None
        assert (before[mask.view(-1, 2)] >= before[~mask.view(-1, 2)]).all()
    assert small.save(tmp_path / "x") == small.nbytes
    assert all(same_bits(t, small.state_dict()[n]) for n, t in sw.load(tmp_path / "x").state_dict().items())
    assert sw.retrain(small, points(), epochs=1, lr=0.05).recipe == recipe
    with pytest.raises(NoEstimateError, match="structure 'halves' has no estimate"):
        sw.estimate(sw.sketch(mlp()), recipe)


@pytest.mark.parametrize(
    "keeps, sentence",
    [
        (lambda scores: scores[:1] > 0, r"it returned 1×8 bool, expected 16×8 bool"),
        (lambda scores: scores, "it returned 16×8 float32, expected 16×8 bool"),
        (lambda scores: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_structure_that_fails_is_named_with_its_layer(keeps: Any, sentence: str) -> None:
    halves(keeps)
    with pytest.raises(MethodError, match=f"structure 'halves' failed on '0': .*{sentence}"):
        sw.compress(mlp(), structure="halves")


def test_two_kinds_of_one_name_are_refused_but_a_cell_may_run_again() -> None:
    def define(name: str) -> type[Importance]:
        made = type(name, (Importance,), {"kind": "mine", "label": "mine", "__module__": __name__})
        return register(dataclass(frozen=True, repr=False)(made))

    first = define("First")
    again = define("First")
    assert sw.Recipe(importance="mine").importance == again()
    with pytest.raises(
        RecipeError, match=r"there is an importance 'mine' already \(.*First\): give Second another kind"
    ):
        define("Second")
    with pytest.raises(RecipeError, match=r"register First first, with @sw\.methods\.register above it"):
        sw.Recipe(importance=first())


def test_a_kind_that_a_cell_defines_anew_is_counted_anew() -> None:
    def define(largest_first: bool) -> None:
        def scores(_self: Importance, _name: str, rows: Tensor, _statistic: Tensor | None) -> Tensor:
            return 1 / (1 + rows.abs()) if largest_first else rows.abs()

        fields = {"kind": "mine", "label": "mine", "__module__": __name__, "scores": scores}
        register(dataclass(frozen=True, repr=False)(type("Mine", (Importance,), fields)))

    session = ExplorerSession(mlp(), None)
    kept = []
    for largest_first in (False, True, False):
        define(largest_first)
        for recipe in (sw.Recipe(0.5, importance="mine"), sw.Recipe(0.5)):
            figures = session.exact(recipe, lambda: False)
            assert figures == sw.compress(session.source, recipe).estimate
            kept.append(figures.sqnr)
    assert kept[0] == kept[1] == kept[4] > kept[2]


@pytest.mark.parametrize(
    "made, sentence",
    [
        (int, "takes a subclass of Importance, Structure or Quantizer, got <class 'int'>"),
        (type("Bare", (Importance,), {}), "Bare must be a frozen dataclass"),
        (dataclass(frozen=True)(type("Nameless", (Importance,), {})), "Nameless needs a tag and a label"),
    ],
)
def test_a_class_that_is_no_kind_is_refused(made: Any, sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        register(made)


def test_a_setting_needs_a_default() -> None:
    made = type("Bare", (Importance,), {"kind": "bare", "label": "bare", "__annotations__": {"k": "int"}})
    with pytest.raises(RecipeError, match=r"Bare.k needs a default"):
        register(dataclass(frozen=True)(made))


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"importance": "wandaa"}, "must be one of 'magnitude', .*'random'.*; did you mean 'wanda'"),
        ({"quantizer": "gptq"}, "it may need a newer shrinkwidget, or the package that registers it"),
        ({"quantizer": {"kind": "uniform", "symetric": True}}, "has no setting 'symetric'; did you mean 'symmetric'"),
        ({"quantizer": {"symmetric": True}}, "must be one of"),
        ({"quantizer": KMeans, "symmetric": True}, "Recipe has no field 'symmetric'"),
        ({"quantizer": Random()}, "must be one of 'uniform', 'kmeans'"),
        ({"structure": "2:5"}, "did you mean '2:4'"),
        ({"importance": {"kind": "random", "seed": 1.5}}, r"Random\(seed=1.5\) must be a whole number from 0"),
        ({"clipping": "mes"}, "did you mean 'mse'"),
        ({"layers": {"fc": {"importance": "random"}}}, "the override of 'fc' has no field 'importance'"),
        ({"layers": {"fc": {"quantizer": "kmean"}}}, "the override of 'fc'.*did you mean 'kmeans'"),
    ],
)
def test_a_kind_that_cannot_be_is_refused_with_the_nearest(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        sw.Recipe(**fields)


def test_a_setting_beside_the_kind_is_a_setting_of_the_kind() -> None:
    assert sw.Recipe(bits=4, symmetric=True) == sw.Recipe(bits=4, quantizer=Uniform(symmetric=True))
    assert sw.Recipe(importance="random", seed=3).importance == Random(seed=3)
    changed = sw.Recipe(bits=4, symmetric=True).with_(clipping="mse")
    assert changed.quantizer == Uniform(symmetric=True, clipping="mse")
    own = sw.Recipe(bits=4, clipping="mse", layers={"fc": dict(symmetric=True)}).layers["fc"]
    assert own == {"quantizer": Uniform(symmetric=True, clipping="mse")}
    assert sw.Recipe(importance="wanda").scope == "channel"
    assert sw.Recipe().with_(importance="wanda").scope == "channel"
    assert sw.Recipe(importance="wanda").with_(importance="magnitude").scope == "global"
    assert sw.Recipe(importance="wanda", scope="layer").scope == "layer"


def test_a_file_of_a_kind_that_is_not_here_says_what_it_needs(tmp_path: Path) -> None:
    powers()
    sw.compress(mlp(), bits=4, quantizer="powers").save(tmp_path / "x")
    del kinds._REGISTER["quantizer"]["powers"]
    with pytest.raises(FileError, match=r"cannot load .*quantizer='powers'.*package that registers it"):
        sw.load(tmp_path / "x")


def test_a_text_means_the_same_to_who_has_never_heard_of_a_kind() -> None:
    """What a kind brings is written out, so that the page need not know it."""
    assert sw.Recipe(0.5, importance="wanda", quantizer="nf4").to_json() == (
        '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.5,"bits":4,"scope":"channel","importance":"wanda",'
        '"quantizer":"nf4"}'
    )
    bare = '{"format":"shrinkwidget-recipe","version":2,"quantizer":"nf4"}'
    assert sw.Recipe.from_json(bare).bits == 32


def test_a_choice_takes_one_of_its_options_or_its_number() -> None:
    choice = Choice("c", (("a", "a", ""), (True, "b", "")), Number("n", min=1, max=2, step=0.5))
    assert [choice.checked(x) for x in ("a", True, 1.5, 1, "b", False, 3, None)] == ["a", True, 1.5, 1.0, *[None] * 4]
