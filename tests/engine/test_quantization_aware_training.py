"""Training through a grid or on a codebook: what was trained is, bit for bit, what is compressed and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from shrinkwidget import demo
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import copied
from shrinkwidget.compressed_model import CompressedModel, compress, load
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Keep, Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import FineTune
from shrinkwidget.training.retrain_and_training_run import retrain
from shrinkwidget.training.training_loop_losses_and_weight_constraints import Trainer, WeightConstraints

from .packed_file_helpers import recipes, same_bits
from .training_helpers import TEST, TRAIN, mlp, points, told, trainer

GRIDS: dict[str, dict[str, Any]] = {
    "4 bits": dict(bits=4),
    "tensor": dict(bits=3, granularity="tensor"),
    "groups": dict(bits=4, granularity=8),
    "asymmetric": dict(bits=3, symmetric=False),
    "one bit": dict(bits=1),
    "percentile": dict(bits=4, clipping=95.0),
    "least error": dict(bits=3, clipping="mse", granularity="tensor"),
    "codebook": dict(bits=3, quantizer="kmeans"),
    "codebook of two": dict(bits=1, quantizer="kmeans"),
    "half": dict(bits=16),
    "kept in half": dict(bits=4, uncompressed_bits=16),
    "2:4": dict(bits=4, structure="2:4", sparsity=0.5),
    "random": dict(bits=4, importance="random"),
    "layer": dict(bits=4, scope="layer"),
    "overrides": dict(bits=4, layers={"0": dict(bits=2, sparsity=0.2, quantizer="kmeans"), "4": Keep}),
}


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("grid", list(GRIDS.values()), ids=list(GRIDS))
def test_what_was_trained_is_what_compress_makes_of_it(grid: dict[str, Any], sparsity: float) -> None:
    small = compress(mlp(), Recipe(**{"sparsity": sparsity, **grid}))
    again = assert_trained_as_compressed(
        trainer(small, FineTune(2, lr=0.05), eval_data=points(30, seed=1), batch_size=32), small
    )
    before = small.state_dict()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())


def assert_trained_as_compressed(steps: Trainer, small: CompressedModel) -> CompressedModel:
    """Train, hold the result against what the network computed with in its last test, and return it."""
    for now in told(steps):
        if now.phase == "test" and now.epoch == now.epochs:
            trained = copied(steps.train_step.network).state_dict()
    again = steps.best()
    assert again.recipe == small.recipe
    assert again.nbytes == small.nbytes
    assert {n: c.kept for n, c in again.encoded.items()} == {n: c.kept for n, c in small.encoded.items()}
    assert again.model is not None
    for name, tensor in again.model.state_dict().items():
        assert same_bits(tensor + 0.0, trained[name] + 0.0), name
    return again


@settings(max_examples=60)
@given(recipes())
def test_whatever_the_recipe_what_was_trained_is_what_compress_makes_of_it(recipe: Recipe) -> None:
    small = compress(mlp(), recipe)
    assert_trained_as_compressed(
        trainer(small, FineTune(1, lr=0.05), eval_data=points(30, seed=1), batch_size=32), small
    )


@pytest.mark.parametrize("grid", [dict(bits=2), dict(bits=1, quantizer="kmeans"), dict(bits=1)], ids=str)
def test_training_through_the_grid_beats_rounding_afterwards(grid: dict[str, Any]) -> None:
    recipe = Recipe(sparsity=0.5, **grid)
    rounded = compress(demo.model(), recipe)
    aware = retrain(rounded, TRAIN, method=FineTune(3, lr=0.02))
    assert evaluate(aware, TEST).value > evaluate(rounded, TEST).value + 0.1
    assert aware.provenance == "fine-tuned 3 epochs, quantization-aware"


def test_a_saved_file_loads_what_was_trained(tmp_path: Path) -> None:
    again = retrain(
        compress(mlp(), Recipe(sparsity=0.5, bits=3, quantizer="kmeans")), points(), method=FineTune(1, lr=0.1)
    )
    assert again.save(tmp_path / "x") == again.nbytes
    loaded = load(tmp_path / "x", into=mlp(seed=5))
    assert all(same_bits(a, b) for a, b in zip(again.state_dict().values(), loaded.state_dict().values(), strict=True))
    assert loaded.provenance == "as loaded"


def test_a_codebook_has_as_many_values_after_every_step_and_they_move_by_the_mean_gradient() -> None:
    small = compress(mlp(), Recipe(sparsity=0.5, bits=2, quantizer="kmeans"))
    steps = trainer(small, FineTune(1, lr=0.05), batch_size=16)
    for now in told(steps):
        if now.phase == "train":
            for name, item in small.encoded.items():
                weight = steps.train_step.network.get_parameter(name).detach().flatten()
                gradient = steps.train_step.network.get_parameter(name).grad
                assert item.keep is not None
                assert gradient is not None
                for value in weight[item.keep].unique():
                    assert len(gradient.flatten()[item.keep & (weight == value)].unique()) == 1
                assert len(weight[item.keep].unique()) <= 4


def test_gradients_that_push_a_clipped_weight_further_out_are_zeroed() -> None:
    small = compress(mlp(), Recipe(bits=4, clipping=80.0, granularity="tensor"))
    steps = trainer(small, FineTune(1, lr=1e-3), batch_size=48)
    far = 5.0 * torch.tensor([1.0, -1.0]).repeat(8)
    for now in told(steps):
        if now.phase == "train" and now.step == 1:
            with torch.no_grad():
                steps.train_step.network.get_parameter("0.weight")[:, 0] = far
        if now.phase == "train" and now.step == 2:
            gradient = steps.train_step.network.get_parameter("0.weight").grad
            assert gradient is not None
            inwards = gradient[:, 0] * far
            assert bool((inwards >= 0).all())
            assert 0 < int((inwards == 0).sum()) < len(far)  # those that would go inwards may


def test_the_gradient_is_that_at_the_effective_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 3))
    small = compress(model, Recipe(bits=2))
    assert small.model is not None
    seen: list[Tensor] = []
    x, y = points()
    steps = trainer(small, FineTune(1, lr=1e-6), train_data=[(x, y)])
    for now in told(steps):
        if now.phase == "train":
            gradient = steps.train_step.network.get_parameter("0.weight").grad
            assert gradient is not None
            seen.append(gradient)
    at_effective = torch.nn.functional.cross_entropy(small.model(x), y)
    torch.autograd.backward(at_effective)
    assert torch.equal(seen[0], small.model.get_parameter("0.weight").grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize(
    "grid", [{}, dict(bits=3), dict(bits=3, quantizer="kmeans"), dict(bits=16), dict(bits=1)], ids=str
)
def test_weights_of_every_dtype_are_trained_as_they_are_compressed(grid: dict[str, Any], dtype: torch.dtype) -> None:
    x, y = points()
    small = compress(mlp().to(dtype), Recipe(sparsity=0.5, **grid))
    data = (x.to(dtype), y)
    assert_trained_as_compressed(trainer(small, FineTune(2, lr=0.02), data, data, batch_size=32), small)


def test_without_test_data_weights_are_rounded_once_a_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = 0
    to_effective = WeightConstraints.to_effective

    def counting(held: WeightConstraints) -> list[Tensor]:
        nonlocal rounded
        rounded += 1
        return to_effective(held)

    monkeypatch.setattr(WeightConstraints, "to_effective", counting)
    train = demo.few(per_class=8)
    retrain(compress(demo.model(), bits=4), train, epochs=3, batch_size=40)
    assert rounded == 3 * 2
