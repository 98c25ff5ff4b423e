"""What else recovers accuracy: batch norm measured again, pruning along a cubic, a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shrinkwidget import demo
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import DataError, ModelError, TrainingError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    Distillation,
    FineTune,
    GradualPruning,
    RecalibrateBatchNorm,
    Schedule,
    TrainingOptions,
    iterative_recipes,
)
from shrinkwidget.training.retrain_and_training_run import prune_and_retrain, retrain

from .packed_file_helpers import same
from .test_compress import digest
from .training_helpers import TEST, TRAIN, mlp, points, result, told, trainer


def test_measuring_batch_norm_anew_recovers_accuracy_without_a_label() -> None:
    small = compress(demo.model(), Recipe(sparsity=0.9, bits=4))
    assert small.model is not None
    before = digest(small.model)
    again = retrain(small, TRAIN[0], TEST, RecalibrateBatchNorm())
    assert evaluate(again, TEST).value > evaluate(small, TEST).value + 0.3
    assert again.provenance == "batch norm recalibrated"
    assert again.nbytes == small.nbytes
    assert digest(small.model) == before
    for name, tensor in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor) != ("running" in name or "tracked" in name)


def test_the_new_statistics_are_the_mean_over_the_batches() -> None:
    model = mlp()
    x, _ = points()
    hidden = model.get_submodule("0")(x).detach()
    batches = [x[:32], x[32:64], x[64:]]
    again = retrain(model, batches, method=RecalibrateBatchNorm())
    expected = torch.stack([hidden[at : at + 32].mean(0) for at in (0, 32, 64)]).mean(0)
    torch.testing.assert_close(again.state_dict()["1.running_mean"], expected)
    assert again.model is not None
    assert [m.training for m in again.model.modules()] == [m.training for m in model.modules()]
    assert again.model.get_submodule("1").momentum == 0.1
    one = retrain(model, batches, method=RecalibrateBatchNorm(batches=1))
    torch.testing.assert_close(one.state_dict()["1.running_mean"], hidden[:32].mean(0))
    later = retrain(retrain(model, points(), method=FineTune(1)), points(), method=RecalibrateBatchNorm())
    assert later.provenance == "fine-tuned 1 epoch, then batch norm recalibrated"


def test_one_sentence_where_there_is_nothing_to_measure() -> None:
    with pytest.raises(ModelError, match="no batch norm with running statistics in this Linear"):
        retrain(nn.Linear(8, 3), points(), method=RecalibrateBatchNorm())
    with pytest.raises(DataError, match="the data is empty: there is no batch to measure"):
        retrain(mlp(), [], method=RecalibrateBatchNorm())
    with pytest.raises(DataError, match="batch 2: the model cannot run input 4×7 float32"):
        retrain(mlp(), [torch.ones(4, 8), *[torch.ones(4, 7)] * 2], method=RecalibrateBatchNorm())
    with pytest.raises(DataError, match="takes no checkpoint"):
        retrain(mlp(), points(), method=RecalibrateBatchNorm(), options=TrainingOptions(checkpoint="x"))
    with pytest.raises(TrainingError, match=r"RecalibrateBatchNorm\(\) does not train"):
        prune_and_retrain(mlp(), points(), method=RecalibrateBatchNorm())


GRADUAL = GradualPruning(Schedule(epochs=8, lr=0.05, decay="cosine"), begin=0.25, end=0.75, every=0.5)


def test_gradual_pruning_follows_its_cubic_to_the_recipe() -> None:
    steps = trainer(mlp(), GRADUAL, batch_size=24, recipes=iterative_recipes(Recipe(sparsity=0.8, bits=4), 1))
    seen = [(now.epoch - 1 + (now.step - 1) / 4, now.sparsity) for now in told(steps) if now.phase == "train"]
    for progress, sparsity in seen:
        past = min(1, max(0, (progress // 0.5 * 0.5 / 8 - 0.25) / 0.5))
        assert sparsity == pytest.approx(0.8 * (1 - (1 - past) ** 3), abs=0.5 / 176)
    small = steps.best()
    assert small.provenance == "pruned gradually over 8 epochs, quantization-aware"
    assert small.estimate is not None
    assert small.estimate.sparsity == pytest.approx(141 / 176)


@pytest.mark.parametrize("bits", [32, 4])
def test_gradual_pruning_that_is_stopped_gives_what_was_scored(bits: int) -> None:
    recipe = Recipe(sparsity=0.8, bits=bits, layers={"0": {"sparsity": 0.6}})
    run = trainer(mlp(), GRADUAL, eval_data=points(), batch_size=24, recipes=iterative_recipes(recipe, 1))
    for now in told(run):
        if (now.epoch, now.step) == (6, 2):
            break
    small, last = run.best(), run.log.history[-1]
    assert last["epoch"] == 5
    assert small.estimate is not None
    assert small.estimate.sparsity == last["sparsity"]
    assert 0.1 < last["sparsity"] < 0.7
    assert small.recipe.sparsity == pytest.approx(0.8 * GRADUAL.share_at(4.75))
    assert evaluate(small, points()).value == last["test"]["value"]
    assert small.provenance == "pruned gradually over 5 of 8 epochs" + (", quantization-aware" if bits == 4 else "")


def test_gradual_pruning_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    asked: dict[str, Any] = dict(method=GRADUAL, batch_size=24, recipes=iterative_recipes(0.8, 1))
    expected = result(trainer(mlp(), **asked))
    path = tmp_path / "checkpoint.safetensors"
    for now in told(trainer(mlp(), **asked, checkpoint=path)):
        if (now.epoch, now.step) == (5, 2):
            break
    assert same(result(trainer(mlp(), **asked, resume=path)).state_dict(), expected.state_dict())


def test_gradual_pruning_is_asked_for_where_it_belongs() -> None:
    with pytest.raises(TrainingError, match="GradualPruning prunes as it trains: give it to prune_and_retrain"):
        retrain(compress(mlp(), Recipe(sparsity=0.5)), points(), method=GradualPruning())
    with pytest.raises(TrainingError, match="prunes in one round, not in 3: leave rounds out"):
        prune_and_retrain(mlp(), points(), method=GradualPruning(), rounds=3)
    recipe = Recipe(bits=4, quantizer="kmeans", sparsity=0.5)
    with pytest.raises(TrainingError, match="neither n:m patterns nor codebooks"):
        prune_and_retrain(mlp(), points(), recipe=recipe, method=GradualPruning())
    with pytest.raises(TrainingError, match=r"GradualPruning\(begin=0\.5, end=0\.5, every=0\.25\)"):
        GradualPruning(begin=0.5, end=0.5)


def test_the_distilled_loss_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    teacher, model = nn.Linear(8, 3), nn.Linear(8, 3)
    x, y = points()
    steps = trainer(
        model,
        FineTune(1, lr=1e-9),
        train_data=[(x, y)],
        distillation=Distillation(teacher, temperature=3.0, weight=0.7),
    )
    loss = next(now.loss for now in told(steps) if now.phase == "train")
    with torch.no_grad():
        logs, soft = F.log_softmax(model(x) / 3, 1), F.softmax(teacher(x) / 3, 1)
        expected = 0.7 * 9 * F.kl_div(logs, soft, reduction="batchmean") + 0.3 * F.cross_entropy(model(x), y)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_is_asked_in_eval_mode_and_stays_as_it_is() -> None:
    teacher = mlp(seed=4)
    before = digest(teacher)
    small = retrain(
        mlp(), points(), method=FineTune(2, lr=0.05), options=TrainingOptions(distillation=Distillation(teacher))
    )
    assert digest(teacher) == before
    assert small.provenance == "fine-tuned 2 epochs, distilled"


def test_a_teacher_that_does_not_fit_says_so() -> None:
    with pytest.raises(DataError, match=r"epoch 1, step 1: the teacher's outputs are .*×4 float32, the student's .*×3"):
        retrain(mlp(), points(), options=TrainingOptions(distillation=Distillation(nn.Linear(8, 4))))
    with pytest.raises(TrainingError, match=r"Distillation\(teacher=…\) must be an nn\.Module, got a str"):
        Distillation("resnet")  # type: ignore[arg-type]
    with pytest.raises(
        TrainingError, match=r"Distillation\(temperature=0, weight=0\.9\): the temperature must be above 0"
    ):
        Distillation(mlp(), temperature=0)


def test_a_loss_of_ones_own_and_mean_squared_error() -> None:
    def halved(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), targets) / 2

    x = points()[0]
    data = (x, x @ torch.arange(8.0))
    torch.manual_seed(0)
    losses = []
    more: dict[str, Any] = {}
    for loss in ("mse", halved):
        steps = list(told(trainer(nn.Linear(8, 1), FineTune(20, lr=0.02), data, data, loss=loss, **more)))
        assert steps[-1].test is not None
        assert steps[-1].test.value < 1.5
        losses.append(next(now.loss for now in steps if now.phase == "train"))
        more = {"metric": "mse"}  # which goes with "mse" by itself
    assert all(loss is not None and loss > 1 for loss in losses)


def test_channels_last_and_mixed_precision_train_and_leave_the_layout_as_it_was() -> None:
    options = TrainingOptions(channels_last=True, autocast=torch.bfloat16)
    small = compress(demo.model(), Recipe(sparsity=0.8, bits=4))
    again = retrain(small, TRAIN, method=FineTune(1, lr=0.02), options=options)
    assert evaluate(again, TEST).value > 0.9
    assert again.model is not None
    assert all(p.is_contiguous() for p in again.model.parameters())
