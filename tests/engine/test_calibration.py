"""Importances that look at data: Wanda and Taylor against brute force, and data that does not fit."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import shrinkwidget as sw
from shrinkwidget.errors import DataError, MethodError, ModelError, RecipeError
from shrinkwidget.evaluation.sketch_and_calibration_data import Calibration
from shrinkwidget.methods import Taylor, Wanda

from .packed_file_helpers import same_bits
from .training_helpers import mlp, points


def images(n: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(n, 4, 9, 7, generator=torch.Generator().manual_seed(seed))


CONVOLUTIONS = {
    "plain": nn.Conv2d(4, 6, 3),
    "strided, padded": nn.Conv2d(4, 6, (3, 2), stride=2, padding=1),
    "dilated, in groups": nn.Conv2d(4, 6, 2, dilation=2, groups=2),
    "circular": nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"),
    "depthwise": nn.Conv2d(4, 4, 3, groups=4),
    "transposed": nn.ConvTranspose2d(4, 6, 3, stride=2, bias=False),
}


@pytest.mark.parametrize("layer", CONVOLUTIONS.values(), ids=list(CONVOLUTIONS))
def test_the_norm_is_that_of_the_inputs_each_weight_multiplies(layer: nn.Module) -> None:
    """By hand: one weight alone, set to one, makes of the squared inputs the sum of those that it multiplies."""
    x = images(3)
    found = Calibration(nn.Sequential(layer), x).statistics(Wanda())["0.weight"]
    assert found.shape == layer.get_parameter("weight").shape
    alone = copy.deepcopy(layer)
    generator = torch.Generator().manual_seed(1)
    for place in torch.randperm(found.numel(), generator=generator)[:12].tolist():
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter.zero_()
            alone.get_parameter("weight").view(-1)[place] = 1.0
            expected = alone(x.square()).sum()
        assert found.view(-1)[place] ** 2 == pytest.approx(float(expected), rel=1e-4, abs=1e-5)


def test_wanda_prunes_the_least_products_of_each_output_row() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    x = torch.randn(40, 12) * torch.logspace(-2, 1, 12)
    small = sw.compress(model, 0.5, importance="wanda", calibration=x)
    assert small.recipe.scope == "channel"
    inputs = {"0.weight": x, "2.weight": model[:2](x)}
    for name, norms in ((n, v.norm(dim=0)) for n, v in inputs.items()):
        weight = model.get_parameter(name)
        scores = weight.abs() * norms
        mask = small.encoded[name].mask
        assert mask is not None
        k = round(0.5 * weight.shape[1])
        for row, keep in zip(scores, mask, strict=True):
            assert int((~keep).sum()) == k
            assert row[~keep].max() <= row[keep].min()


def test_taylor_is_the_product_of_weight_and_gradient_batch_by_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(20, 8), torch.randint(3, (20,))
    loader = DataLoader(TensorDataset(x, y), batch_size=5)
    found = Calibration(model, loader).statistics(Taylor())
    squares = torch.zeros(6, 8)
    for start in range(0, 20, 5):
        loss = nn.functional.cross_entropy(model(x[start : start + 5]), y[start : start + 5])
        squares += torch.autograd.grad(loss, model.get_parameter("0.weight"))[0] ** 2
    assert torch.allclose(found["0.weight"], (squares / 4).sqrt(), rtol=1e-4)
    assert all(p.grad is None for p in model.parameters())
    small = sw.compress(model, 0.5, importance="taylor", scope="layer", calibration=loader)
    mask = small.encoded["0.weight"].mask
    scores = (model.get_parameter("0.weight").abs() * found["0.weight"]).detach()
    assert mask is not None
    assert scores[~mask].max() <= scores[mask].min()


def test_a_regression_is_calibrated_by_its_squared_error() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    data = torch.randn(16, 4), torch.randn(16, 1)
    small = sw.compress(model, 0.5, importance=Taylor(loss="mse"), calibration=data)
    assert small.estimate is not None
    assert small.estimate.sparsity == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("importance", ["wanda", "taylor"])
@pytest.mark.parametrize(
    "fields", [{}, {"structure": "2:4"}, {"scope": "global"}, {"scope": "layer", "bits": 4}], ids=str
)
def test_the_file_is_as_large_as_said_and_loads_without_the_data(
    importance: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    model, data = mlp(), points()
    asked = fields if "structure" in fields else {"sparsity": 0.6, **fields}
    small = sw.compress(model, importance=importance, calibration=data, **asked)
    assert small.save(tmp_path / "x") == small.nbytes == (small.estimate.nbytes if small.estimate else 0)
    loaded = sw.load(tmp_path / "x", into=mlp(seed=3))
    assert loaded.recipe.importance.kind == importance
    assert all(same_bits(t, small.state_dict()[n]) for n, t in loaded.state_dict().items())


@pytest.mark.parametrize("importance", ["wanda", "taylor"])
def test_retraining_keeps_the_masks_and_needs_no_data_to_rank(importance: str) -> None:
    small = sw.compress(mlp(), 0.6, importance=importance, calibration=points(), bits=4)
    trained = sw.retrain(small, points(), epochs=2, lr=0.05)
    for name, before in small.encoded.items():
        after = trained.encoded[name].mask
        assert before.mask is not None
        assert after is not None
        assert not bool((after & ~before.mask).any())
    assert trained.recipe == small.recipe


def test_a_sketch_carries_the_data_and_an_explorer_offers_what_it_can() -> None:
    model, data = sw.demo.model(), sw.demo.data("train")
    look = sw.sketch(model, calibration=data[0][:64])
    assert sw.compress(model, 0.5, importance="wanda", sketch=look).recipe.importance == Wanda()
    assert sw.sketch(model).encode() == look.encode()  # the page gets none of it
    plain = sw.explore(model)
    rich = sw.explore(model, calibration=data)
    with pytest.raises(sw.errors.RecipeError, match=r"'wanda' needs calibration data: open the explorer with"):
        plain.recipe = sw.Recipe(0.5, importance="wanda")
    rich.recipe = sw.Recipe(0.5, importance="wanda")
    assert rich.wait(60)
    assert rich.estimate.exact
    (told,) = [entry for entry in plain._kinds["importance"] if entry["kind"] == "wanda"]
    assert "needs calibration data" in told["unavailable"]
    assert not any(entry["unavailable"] for entry in rich._kinds["importance"])
    for explorer in (plain, rich):
        explorer.close()


def test_the_users_model_is_as_it_was() -> None:
    model = mlp().train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(3)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    for importance in ("wanda", "taylor"):
        sw.compress(model, 0.5, importance=importance, calibration=points())
    assert torch.equal(torch.rand(1), drawn)
    assert all(m.training for m in model.modules())
    assert all(same_bits(t, before[n]) for n, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_tied_and_computed_weights_are_reached_under_their_names() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight
            self.inner = weight_norm(nn.Linear(6, 6))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.inner(self.embed(x))).mean(1)  # type: ignore[no-any-return]

    model = Tied()
    small = sw.compress(model, 0.5, importance="wanda", calibration=torch.randint(9, (5, 4)))
    assert set(small.encoded) == {"embed.weight", "inner.weight"}


def bad(data: Any, model: Any = None, importance: str = "wanda") -> str:
    with pytest.raises((DataError, MethodError, ModelError)) as caught:
        sw.compress(mlp() if model is None else model, 0.5, importance=importance, calibration=data)
    return str(caught.value)


def test_inputs_by_name_need_no_labels_and_a_sketch_with_data_can_be_sent() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.fc(x) * scale  # type: ignore[no-any-return]

    batches = [{"x": torch.randn(5, 4), "scale": torch.ones(1)} for _ in range(2)]
    found = Calibration(Named(), batches).statistics(Wanda())["fc.weight"]
    assert torch.allclose(found[0], torch.cat([b["x"] for b in batches]).norm(dim=0))
    look = pickle.loads(pickle.dumps(sw.sketch(mlp(), calibration=points())))
    assert sw.compress(mlp(), 0.5, importance="wanda", sketch=look).recipe.scope == "channel"


def test_calibration_data_that_does_not_fit_is_refused_by_its_batch() -> None:
    x, y = points()
    broken = x.clone()
    broken[-1, 0] = float("nan")
    assert "calibration batch 1: it holds NaN or infinite values" in bad((broken[-4:], y[-4:]))
    assert "calibration batch 2: it holds NaN" in bad([(x, y), (broken, y)])
    assert "calibration batch 1: the model cannot run input" in bad(x[:, :3])
    assert "calibration data is empty" in bad([])
    assert "the calibration data is empty" in bad((x[:0], y[:0]))
    assert "calibration batch 1: a batch is a Tensor; expected (inputs, targets)" in bad([x], importance="taylor")
    assert "no data" in bad("train")
    assert "can be read only once (list_iterator)" in bad(iter([(x, y)]))
    assert "needs a module to run, and this is a dict" in bad(x, model=dict(mlp().state_dict()))


def test_an_importance_without_its_data_is_refused() -> None:
    with pytest.raises(
        MethodError, match=r"'wanda' needs calibration data: .*sw.compress\(model, recipe, calibration="
    ):
        sw.compress(mlp(), 0.5, importance="wanda")
    with pytest.raises(MethodError, match="'taylor' needs calibration data"):
        sw.prune_and_retrain(mlp(), points(), recipe=sw.Recipe(0.5, importance="taylor"), epochs=1)
    small = sw.compress(mlp(), 0.0, bits=4, importance="wanda")  # nothing is pruned: nothing to ask
    assert small.warnings == ("importance 'wanda' has nothing to rank: the recipe prunes no weight",)


def test_an_importance_with_nothing_to_rank_is_told() -> None:
    for call in (sw.compress, sw.estimate):
        with pytest.raises(RecipeError, match=r"importance='random' says which .* but not how many: give sparsity=…"):
            call(mlp(), bits=4, importance="random")
    own: list[Any] = [dict(sparsity=0.5), dict(structure="2:4")]
    for fields in (*own, *(dict(layers={"0": override}) for override in own)):
        small = sw.compress(mlp(), importance="random", **fields)
        assert not small.warnings
        assert small.recipe.prunes
    assert sw.compress(mlp(), sw.Recipe(importance="random")).warnings  # a sweep may begin at 0
    assert not sw.compress(mlp(), bits=4).warnings
    assert not sw.Recipe(importance="random", layers={"0": sw.Keep}).prunes


def test_a_layer_the_data_never_reaches_is_named_and_may_be_kept() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    x = torch.randn(5, 2)
    told = bad(x, Half())
    assert (
        "'wanda' needs the inputs of every layer it prunes, and the calibration data reached none of 'unused'" in told
    )
    assert "layers={'unused': sw.Keep}" in told
    for own in (sw.Keep, dict(sparsity=0)):
        small = sw.compress(Half(), 0.5, importance="wanda", calibration=x, layers={"unused": own})
        assert small.estimate is not None
        assert small.estimate.layer("unused").sparsity == 0
