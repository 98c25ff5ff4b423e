"""More than the head learns: all of it, more and more of it from the top, or updates of low rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.errors import ModelError, TrainingError
from shrinkwidget.training.training_loop_losses_and_weight_constraints import TrainStep
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import (
    FullFineTune,
    GradualUnfreezing,
    LinearProbe,
    LoRA,
)

from .packed_file_helpers import same
from .test_transfer import PARITY, without_head
from .training_helpers import mlp, points

STATISTICS = ("running_mean", "running_var")


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: x for name, x in model.state_dict().items() if name.endswith(STATISTICS)}


def changed(before: nn.Module, after: nn.Module) -> set[str]:
    """Return the top-level modules below the head in which a tensor differs."""
    old, new = without_head(before, "head"), without_head(after, "head")
    return {name.split(".")[0] for name in old if not torch.equal(old[name], new[name])}


@pytest.fixture
def learners(monkeypatch: pytest.MonkeyPatch) -> list[TrainStep]:
    """Every learner of a training, in order."""
    made: list[TrainStep] = []
    first = TrainStep.__init__

    def noting(self: TrainStep, *args: Any) -> None:
        first(self, *args)
        made.append(self)

    monkeypatch.setattr(TrainStep, "__init__", noting)
    return made


def test_all_learns_the_backbone_at_its_own_rate(learners: list[TrainStep]) -> None:
    model = demo.model()
    done = sw.transfer(model, PARITY, strategy=FullFineTune(2, lr=0.04, backbone_lr=0.001))
    assert changed(model, done.model) == {"stem", "bn", "stage1", "stage2", "stage3"}
    assert not same(statistics(model), statistics(done.model))
    groups = learners[0].optimizer.param_groups
    assert [g["lr"] / groups[-1]["lr"] for g in groups] == pytest.approx([0.025, 1])
    head = {id(p) for p in learners[0].network.get_submodule("head").parameters()}
    assert {id(p) for p in groups[-1]["params"]} == head
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters()))
    assert done.provenance == "transferred, all fine-tuned 2 epochs"


def test_a_backbone_rate_of_the_heads_makes_one_group(learners: list[TrainStep]) -> None:
    sw.transfer(mlp(), points(), strategy=FullFineTune(1, lr=0.04, backbone_lr=0.04))
    assert len(learners[0].optimizer.param_groups) == 1


def test_it_unfreezes_from_the_top_stage_by_stage(learners: list[TrainStep]) -> None:
    model = demo.model()
    strategy = GradualUnfreezing(stages=4, epochs=1, first=LinearProbe(2))
    done = sw.transfer(model, PARITY, strategy=strategy)
    assert [(e["round"], e["epoch"]) for e in done.history] == [(1, 1), (1, 2), (2, 1), (3, 1), (4, 1)]
    assert done.provenance == "transferred, unfrozen in 4 stages, 5 epochs"
    assert len(learners) == 4
    assert type(learners[0].network) is nn.Linear  # on remembered features
    trained = [{n for n, p in x.network.named_parameters() if p.requires_grad} for x in learners[1:]]
    assert trained[0] < trained[1] < trained[2] == {n for n, _ in model.named_parameters()}
    order = [name for name, _ in model.named_parameters()]  # the demo network defines its layers as they run
    for names in trained:
        assert names == set(order[-len(names) :])
    for train_step, names in zip(learners[1:], trained, strict=True):
        for name, module in train_step.network.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.training == (f"{name}.weight" in names)


def test_frozen_statistics_stay_until_their_stage(learners: list[TrainStep]) -> None:
    model = demo.model()
    sw.transfer(model, PARITY, strategy=GradualUnfreezing(stages=3, epochs=2, first=LinearProbe(1)))
    assert changed(model, learners[1].network) == {"stage2", "stage3"}
    assert changed(model, learners[2].network) == {"stem", "bn", "stage1", "stage2", "stage3"}


def test_an_update_has_at_most_its_rank_and_leaves_all_else() -> None:
    model = demo.model()
    done = sw.transfer(model, PARITY, strategy=LoRA(rank=3, epochs=3, lr=0.02))
    assert type(done.model) is type(model)
    assert [n for n, _ in done.model.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [type(m) for m in done.model.modules()] == [type(m) for m in model.modules()]
    assert all(type(p) is nn.Parameter and p.requires_grad for p in done.model.parameters())
    for name, before in without_head(model, "head").items():
        after = done.model.state_dict()[name]
        if before.ndim < 2:
            assert torch.equal(before, after), name
            continue
        difference = (after.double() - before.double()).flatten(1)
        values = torch.linalg.svdvals(difference)
        assert 0 < int((values > 1e-4 * values[0]).sum()) <= 3, name
        assert values[0] > 1e-3


def test_merged_updates_leave_parameters_in_their_order_and_modules_of_their_class() -> None:
    model = mlp()
    done = sw.transfer(model, points(), strategy=LoRA(rank=2, epochs=1))
    assert list(done.model.state_dict()) == list(model.state_dict())
    assert repr(done.model) == repr(model)


def test_low_rank_updates_begin_as_the_network_is() -> None:
    model = mlp().eval()
    done = sw.transfer(model, points(), strategy=LoRA(rank=2, epochs=1, lr=1e-30))
    torch.testing.assert_close(done.model.get_parameter("0.weight"), model.get_parameter("0.weight"))
    assert same(statistics(model), statistics(done.model))


def test_a_rank_larger_than_a_weight_is_that_of_the_weight_and_shared_weights_stay_shared() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b, self.head = (nn.Linear(8, 8) for _ in range(4))
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.b(self.a(self.first(x).relu()).relu()).relu())
            return out

    torch.manual_seed(0)
    model = Shared()
    done = sw.transfer(model, points(), strategy=LoRA(rank=100, epochs=3))
    assert done.model.b.weight is done.model.a.weight  # type: ignore[union-attr]
    assert torch.equal(done.model.get_parameter("a.weight"), model.a.weight)
    assert not torch.equal(done.model.get_parameter("first.weight"), model.first.weight)


@pytest.mark.parametrize(
    "strategy", [FullFineTune(2), GradualUnfreezing(2, epochs=1, first=LinearProbe(2)), LoRA(epochs=2)]
)
def test_the_same_seed_gives_the_same_weights(strategy: Any) -> None:
    first, again = (sw.transfer(mlp(), points(), strategy=strategy).model.state_dict() for _ in range(2))
    assert same(first, again)


def test_a_teacher_is_learned_from() -> None:
    x, y = points()
    teacher = sw.transfer(mlp(1), (x, y), strategy=FullFineTune(20)).model
    options = sw.methods.TrainingOptions(distillation=sw.methods.Distillation(teacher))
    done = sw.transfer(mlp(), (x, y), (x, y), strategy=LinearProbe(20), options=options)
    assert done.provenance == "transferred, new head trained 20 epochs, distilled"
    assert same(without_head(done.model, "4"), without_head(mlp(), "4"))


@pytest.mark.parametrize(
    "words, asked",
    [
        (r"LinearProbe\(epochs=0\) must be a whole number from 1", lambda: LinearProbe(0)),
        (r"FullFineTune\(lr=0\) must be a number above 0", lambda: FullFineTune(lr=0)),
        (r"FullFineTune\(backbone_lr=-1\) must be a number above 0", lambda: FullFineTune(backbone_lr=-1)),
        (r"GradualUnfreezing\(stages=1\) must be a whole number from 2", lambda: GradualUnfreezing(1)),
        (r"GradualUnfreezing\(first=3\) must be a LinearProbe", lambda: GradualUnfreezing(first=3)),  # type: ignore[arg-type]
        (r"LoRA\(rank=0\) must be a whole number from 1", lambda: LoRA(0)),
        (r"LoRA\(alpha=0\) must be a number above 0", lambda: LoRA(alpha=0)),
        (r"LinearProbe\(optimizer=…\) must be .* got 'adm'; did you mean 'adam'", lambda: LinearProbe(optimizer="adm")),
    ],
)
def test_a_strategy_that_cannot_be_says_so_at_once(words: str, asked: Any) -> None:
    with pytest.raises(TrainingError, match=words):
        asked()


def test_nothing_to_update_is_said() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 3))
    with pytest.raises(ModelError, match="LoRA finds no Linear layer or convolution below '1'"):
        sw.transfer(model, points(), strategy=LoRA())
