"""Retraining holds the masks, trains the weights that are saved, and leaves the user's model and chance alone."""

from __future__ import annotations

import io
import json
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from shrinkwidget import demo
from shrinkwidget.compressed_model import compress
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Keep, Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    FineTune,
    LearningRateRewinding,
    Schedule,
    TrainingOptions,
    WeightRewinding,
)
from shrinkwidget.training.retrain_and_training_run import retrain

from .packed_file_helpers import same, same_bits
from .test_compress import digest
from .training_helpers import TEST, TRAIN, mlp, points, result, slowly, told, trainer

SHORT = Schedule(epochs=4, lr=0.05)


def pruned_places(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() == 0 for name, p in model.named_parameters() if p.ndim >= 2}


def test_a_pruned_network_learns_again_and_stays_pruned() -> None:
    small = compress(demo.model(), Recipe(sparsity=0.9))
    before = evaluate(small, TEST)
    again = retrain(small, TRAIN, TEST, FineTune(2, lr=0.02))
    after = evaluate(again, TEST)
    assert after.value > before.value + 0.3
    assert after.provenance == again.provenance == "fine-tuned 2 epochs"
    assert again.recipe == small.recipe
    assert again.nbytes == small.nbytes
    assert small.model is not None
    assert again.model is not None
    zeros = pruned_places(small.model)
    assert all(torch.equal(zeros[name], places) for name, places in pruned_places(again.model).items())
    assert "fine-tuned 2 epochs" in repr(again)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop"])
def test_masks_hold_after_every_step_in_the_weights_and_in_what_the_optimizer_remembers(optimizer: str) -> None:
    small = compress(mlp(), Recipe(sparsity=0.7))
    assert small.model is not None
    zeros = pruned_places(small.model)
    steps = trainer(small, LearningRateRewinding(Schedule(epochs=2, lr=0.01, optimizer=optimizer)), batch_size=16)
    seen = 0
    for now in told(steps):
        if now.phase == "train":
            seen += 1
            network, optimizer_now = steps.train_step.network, steps.train_step.optimizer
            parameters = dict(network.named_parameters())
            for name, places in zeros.items():
                remembered = [x for x in optimizer_now.state[parameters[name]].values() if x.shape == places.shape]
                assert remembered
                assert not any(bool(x.detach()[places].any()) for x in (parameters[name], *remembered))
    assert seen == 12


def test_sparsity_is_exact_and_measured() -> None:
    small = compress(mlp(), Recipe(sparsity=0.6))
    assert small.estimate is not None
    told_last = list(told(trainer(small)))[-1]
    assert told_last.sparsity == pytest.approx(small.estimate.sparsity)
    assert told_last.nbytes == small.nbytes


def test_a_weight_that_lands_on_zero_is_still_a_survivor() -> None:
    small = compress(mlp(), Recipe(sparsity=0.5))
    assert small.model is not None
    keep = {name: item.keep for name, item in small.encoded.items()}
    steps = trainer(small, FineTune(1, lr=1e-30))
    for now in told(steps):
        if now.phase == "train" and now.step == 2:
            with torch.no_grad():
                steps.train_step.network.get_parameter("0.weight").zero_()
    again = steps.best()
    for name, item in again.encoded.items():
        assert item.keep is not None
        assert torch.equal(item.keep, keep[name])  # type: ignore[arg-type]


def test_the_users_model_and_chance_are_as_they_were() -> None:
    model = mlp()
    model(torch.randn(5, 8)).sum().backward()
    model[1].eval()
    before = digest(model)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    np.random.standard_normal(3)  # noqa: NPY002  # they are made in pairs: the fourth is there already, and has to stay
    chance = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())  # noqa: NPY002
    again = retrain(model, points(), points(30, seed=1), FineTune(2, lr=0.05))
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert (random.getstate(), repr(np.random.get_state())) == chance[1:]  # noqa: NPY002
    assert again.model is not None
    assert [m.training for m in again.model.modules()] == [m.training for m in model.modules()]


def test_the_same_seed_gives_the_same_weights_whatever_happens_between_the_steps() -> None:
    def noisy(x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * random.random() * float(np.random.rand())  # noqa: NPY002

    small = compress(mlp(), Recipe(sparsity=0.5))
    first = result(trainer(small, augment=noisy, batch_size=16))
    steps = trainer(small, augment=noisy, batch_size=16)
    for _ in told(steps):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert same(first.state_dict(), steps.best().state_dict())
    other = result(trainer(small, augment=noisy, batch_size=16, seed=1))
    assert not same(first.state_dict(), other.state_dict())


def test_a_dense_module_is_trained_as_it_is() -> None:
    dense = retrain(mlp(), points(), method=LearningRateRewinding(SHORT))
    assert dense.recipe == Recipe()
    assert evaluate(dense, points(60, seed=2)).value > 0.85


def test_layers_under_keep_are_trained_without_a_mask() -> None:
    model = mlp()
    small = compress(model, Recipe(sparsity=0.8, layers={"4": Keep}))
    again = retrain(small, points(), method=FineTune(1, lr=0.1))
    assert again.model is not None
    assert not torch.equal(again.model.get_parameter("4.weight"), model.get_parameter("4.weight"))
    assert bool((again.model.get_parameter("4.weight") != 0).all())


# The forms of data


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Any:
        yield from zip(*points(), strict=True)


@pytest.mark.parametrize(
    "data, steps",
    [
        (points(), 6),
        (tuple(x.numpy() for x in points()), 6),
        (TensorDataset(*points()), 6),
        (DataLoader(TensorDataset(*points()), batch_size=24, shuffle=True), 4),
        (DataLoader(Stream(), batch_size=24), None),
        ([{"input": points()[0], "label": points()[1]}], 1),
        ([((points()[0],), points()[1])] * 3, 3),
    ],
    ids=["pair", "arrays", "dataset", "loader", "stream", "dicts", "tuples"],
)
def test_every_form_of_data_trains(data: Any, steps: int | None) -> None:
    steps_told = list(told(trainer(mlp(), FineTune(2, lr=0.05), train_data=data, batch_size=16)))
    assert {now.steps for now in steps_told} == {steps}
    trained = [now for now in steps_told if now.phase == "train"]
    assert trained[-1].epoch == 2
    assert steps is None or len(trained) == 2 * steps


@pytest.mark.parametrize("form", [lambda *pair: pair, TensorDataset], ids=["pair", "dataset"])
def test_every_example_is_seen_once_an_epoch_and_no_batch_is_tiny(form: Callable[..., Any]) -> None:
    seen: list[Tensor] = []

    def watching(x: Tensor) -> Tensor:
        seen.append(x[:, 0])
        return x

    data = (torch.arange(65.0)[:, None].expand(65, 8), torch.arange(65) % 3)
    result(trainer(mlp(), FineTune(2, lr=1e-4), train_data=form(*data), batch_size=64, augment=watching))
    assert [len(x) for x in seen] == [33, 32, 33, 32]
    first, second = torch.cat(seen[:2]), torch.cat(seen[2:])
    assert torch.equal(first.sort().values, torch.arange(65.0))
    assert not torch.equal(first, second)


def test_dict_batches_train_models_with_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            out: Tensor = self.a(left) + self.b(right)
            return out

    torch.manual_seed(0)
    x, y = points()
    data = [{"left": x[:, :4], "right": x[:, 4:], "labels": y}] * 4
    small = compress(Two(), Recipe(sparsity=0.25, bits=4))
    assert evaluate(retrain(small, data, method=FineTune(10, lr=0.2)), data).value > 0.8


def test_tied_weights_recurrent_layers_and_attention_are_held() -> None:
    class Everything(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(12, 8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.rnn = nn.LSTM(8, 8, batch_first=True)
            self.head = nn.Linear(8, 12, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            out: Tensor = self.head(self.rnn(x)[0]).movedim(-1, 1)
            return out

    torch.manual_seed(0)
    tokens = torch.randint(12, (16, 6))
    small = compress(Everything(), Recipe(sparsity=0.5, bits=4))
    again = retrain(small, [(tokens, tokens)] * 3, method=FineTune(2, lr=0.1))
    assert again.model is not None
    assert again.model.head.weight is again.model.embed.weight  # type: ignore[union-attr]
    for name, item in again.encoded.items():
        assert item.kept == small.encoded[name].kept
    assert all(same_bits(tensor, again.state_dict()[name]) for name, tensor in again.model.state_dict().items())


# The schedule and its rewinding


def test_the_rate_of_every_step_is_that_of_the_schedule() -> None:
    schedule = Schedule(epochs=4, lr=0.2, warmup=1, milestones=(0.5, 3))
    rates = [
        now.lr for now in told(trainer(mlp(), LearningRateRewinding(schedule), batch_size=32)) if now.phase == "train"
    ]
    assert rates == pytest.approx([schedule.lr_at(step / 3) for step in range(12)])
    assert rates == pytest.approx([0, 0.2 / 3, 0.4 / 3, *[0.2] * 3, *[0.02] * 3, *[0.002] * 3])


def test_rewinding_to_an_epoch_replays_the_schedule_from_there() -> None:
    rates = [
        now.lr
        for now in told(trainer(mlp(), LearningRateRewinding(SHORT, epoch=2), batch_size=96))
        if now.phase == "train"
    ]
    assert rates == pytest.approx([SHORT.lr_at(2), SHORT.lr_at(3)])


def test_fine_tuning_keeps_the_last_rate() -> None:
    steps = trainer(mlp(), FineTune(1, schedule=SHORT))
    assert [now.lr for now in told(steps) if now.phase == "train"] == pytest.approx([0.0005] * 2)
    assert Schedule(epochs=10, decay="cosine").last_lr == pytest.approx(Schedule(epochs=10, decay="cosine").lr_at(9))


def test_weight_rewinding_restores_early_weights_under_the_masks_of_now() -> None:
    early = mlp(seed=3)
    small = compress(mlp(), Recipe(sparsity=0.5))
    steps = trainer(small, WeightRewinding(SHORT, early.state_dict(), epoch=1))
    next(steps.steps())
    for name, item in small.encoded.items():
        assert item.keep is not None
        now = steps.train_step.network.state_dict()[name]
        assert torch.equal(now, early.state_dict()[name] * item.keep.view(now.shape))
    assert result(steps).provenance == "retrained 3 epochs, weights rewound to epoch 1"


def test_an_optimizer_of_ones_own_keeps_the_rates_of_its_groups_relative_to_each_other() -> None:
    def two_groups(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.01}]
        return torch.optim.SGD(groups, lr=0.1)

    steps = trainer(mlp(), LearningRateRewinding(Schedule(epochs=2, lr=0.1, optimizer=two_groups, milestones=(0.5,))))
    rates = [[g["lr"] for g in steps.train_step.optimizer.param_groups] for now in told(steps) if now.phase == "train"]
    assert rates == [pytest.approx([0.1, 0.01])] * 2 + [pytest.approx([0.01, 0.001])] * 2


def test_options_take_numpys_numbers() -> None:
    assert Schedule(epochs=np.int64(4), lr=np.float32(0.5)) == Schedule(epochs=4, lr=0.5)  # type: ignore[arg-type]
    assert FineTune(epochs=np.arange(3)[2]) == FineTune(2)
    assert type(TrainingOptions(batch_size=np.int64(8)).batch_size) is int  # type: ignore[arg-type]


def test_what_is_told_is_plain_and_counts_up() -> None:
    steps = list(told(trainer(compress(mlp(), Recipe(sparsity=0.5)), eval_data=points(30, seed=1), batch_size=32)))
    assert [now.phase for now in steps[:4]] == ["test", "test", "prune", "train"]
    for now in steps:
        json.loads(json.dumps(now.to_dict(), allow_nan=False))
    etas = [now.eta for now in steps if now.phase == "train"]
    assert [eta is None for eta in etas] == [True] + [False] * (len(etas) - 1)  # the first step says little
    assert etas[-1] == pytest.approx(0)
    assert steps[-1].test is not None
    assert steps[-1].test.done


def test_in_a_terminal_a_bar_tells_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    small, options = compress(mlp(), Recipe(sparsity=0.5)), TrainingOptions(batch_size=8, augment=slowly)
    retrain(small, points(), points(30, seed=1), FineTune(2, lr=0.05), options=options)
    told = screen.getvalue()
    assert re.search(r"epoch 2/2: .*/24 .*50\.0% sparse, loss \d\.\d{3}, validation accuracy \d+\.\d %", told)


def test_zeros_that_are_there_stay_and_a_layer_that_begins_at_zero_learns() -> None:
    model = mlp()
    with torch.no_grad():
        first, last = (w for w in model.parameters() if w.ndim > 1)
        first[torch.rand_like(first) < 0.8] = 0
        last.zero_()
    zero = first == 0
    done = retrain(model, points(), method=FineTune(epochs=2, lr=0.1))
    assert done.model is not None
    trained = [w for w in done.model.parameters() if w.ndim > 1]
    assert torch.equal(trained[0] == 0, zero)
    assert trained[1].any()
