"""A new head is found a place for and trained alone on what the frozen backbone makes of the data, computed once."""

from __future__ import annotations

import json
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.errors import DataError, ModelError, TrainingError
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import (
    FullFineTune,
    GradualUnfreezing,
    LinearProbe,
    LoRA,
)

from .packed_file_helpers import same
from .test_compress import digest
from .training_helpers import TEST, TRAIN, mlp, points

PARITY = (TRAIN[0][:128], TRAIN[1][:128] % 2)
SHORT = LinearProbe(epochs=5)


class TwoInputs(nn.Module):
    """As Hugging Face has it: named inputs, labels among them, outputs by attribute, a loss by its number of labels."""

    def __init__(self, num_labels: int = 7) -> None:
        super().__init__()
        self.num_labels = num_labels
        self.left, self.right = nn.Linear(4, 8), nn.Linear(4, 8)
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, num_labels))

    def forward(self, left: Tensor, right: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.classifier(F.relu(self.left(left) + self.right(right)))
        loss = None if labels is None else F.cross_entropy(logits.view(-1, self.num_labels), labels)
        return SimpleNamespace(logits=logits, loss=loss)


class Pooled(nn.Module):
    """A 1×1 convolution tells classes apart everywhere, and then the mean is taken, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.classifier = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(F.relu(self.norm(self.conv(x)))).mean((2, 3))
        return out


def without_head(model: nn.Module, head: str) -> dict[str, Tensor]:
    return {name: x for name, x in model.state_dict().items() if not name.startswith(f"{head}.")}


def test_the_head_learns_and_the_backbone_stays_bit_for_bit_with_its_statistics() -> None:
    model = demo.model()
    done = sw.transfer(model, PARITY, (TEST[0], TEST[1] % 2))
    assert type(done.model) is type(model)
    assert done.head == "head"
    assert done.model.get_submodule("head").out_features == 2
    assert same(without_head(done.model, "head"), without_head(model, "head"))
    assert done.score is not None
    assert done.score.value > 0.9
    assert done.score.provenance == done.provenance == "transferred, new head trained 100 epochs"
    assert done.score.value == done.history[-1]["test"]["value"]
    assert done.compressed is None
    assert done.baseline is None


def test_the_users_model_and_chance_are_as_they_were() -> None:
    model = demo.model().train()
    before = digest(model)
    torch.manual_seed(5)
    random.seed(5)
    chance = torch.get_rng_state(), random.getstate()
    loader = DataLoader(TensorDataset(*PARITY), batch_size=64, shuffle=True)
    done = sw.transfer(model, loader, strategy=SHORT)
    assert digest(model) == before
    assert torch.equal(torch.get_rng_state(), chance[0])
    assert random.getstate() == chance[1]
    assert all(module.training for module in done.model.modules())


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    first, again = (sw.transfer(demo.model(), PARITY, strategy=SHORT).model.state_dict() for _ in range(2))
    assert same(first, again)
    other = sw.transfer(
        demo.model(), PARITY, strategy=SHORT, options=sw.methods.TrainingOptions(seed=1)
    ).model.state_dict()
    assert not same(first, other)


def test_features_are_computed_once_and_shuffled_in_every_epoch() -> None:
    model = demo.model()
    ran = 0

    def count(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal ran
        ran += len(output)

    model.stem.register_forward_hook(count)  # hooks are copied with the model
    sw.transfer(model, PARITY, strategy=SHORT, classes=2)
    few = ran
    ran = 0
    sw.transfer(model, PARITY, strategy=LinearProbe(epochs=10), classes=2)
    assert ran == few <= 5 * 128


@pytest.mark.parametrize("augmented", [False, True])
def test_computing_them_anew_comes_to_the_same(augmented: bool) -> None:
    options = sw.methods.TrainingOptions(augment=(lambda x: x) if augmented else None)
    done = sw.transfer(demo.model(), PARITY, strategy=SHORT, options=options)
    again = sw.transfer(demo.model(), PARITY, strategy=SHORT)
    assert same(without_head(done.model, "head"), without_head(again.model, "head"))
    torch.testing.assert_close(done.model.state_dict(), again.model.state_dict(), rtol=0, atol=1e-4)
    assert [e["loss"] for e in done.history] == pytest.approx([e["loss"] for e in again.history], abs=1e-4)


def test_a_head_before_a_pooling_is_found_and_trained_and_norms_without_weights_stay() -> None:
    torch.manual_seed(0)
    model = Pooled()
    model(TRAIN[0])
    done = sw.transfer(model, PARITY, strategy=SHORT)
    assert done.head == "classifier"
    assert done.model.get_parameter("classifier.weight").shape == (2, 8, 1, 1)
    assert same(without_head(done.model, "classifier"), without_head(model, "classifier"))
    assert done.history[-1]["loss"] < done.history[0]["loss"]


@pytest.mark.parametrize("strategy", [SHORT, FullFineTune(5), GradualUnfreezing(2, epochs=2), LoRA(2, epochs=5)])
def test_dict_batches_with_several_inputs_and_labels_of_the_model(strategy: Any) -> None:
    torch.manual_seed(0)
    x, y = points()
    data = [{"left": x[i : i + 24, :4], "right": x[i : i + 24, 4:], "labels": y[i : i + 24] + 6} for i in (0, 24, 48)]
    model = TwoInputs()
    done = sw.transfer(model, data, data, strategy=strategy)
    assert done.head == "classifier.1"
    assert isinstance(done.model, TwoInputs)
    assert (model.num_labels, done.model.num_labels) == (7, 9)
    assert done.model(x[:, :4], x[:, 4:], y + 6).loss.isfinite()
    assert done.history[-1]["loss"] < done.history[0]["loss"]
    assert done.score is not None


def test_a_regression_has_a_head_of_numbers_and_their_loss() -> None:
    images, labels = TRAIN
    values = torch.stack([images.mean((1, 2, 3)), labels / 10], 1)
    done = sw.transfer(demo.model(), (images, values), (images, values), targets=2)
    assert done.model.get_parameter("head.weight").shape == (2, 64)
    assert done.score is not None
    assert done.score.metric == "mse"
    assert done.score.value < 0.01 < float(values[:, 1].var())


def test_the_head_may_be_named_and_so_may_what_it_is_in() -> None:
    torch.manual_seed(0)
    assert sw.transfer(TwoInputs(), _two(), head="classifier", strategy=SHORT, classes=5).head == "classifier.1"
    done = sw.transfer(mlp(), points(), head="4", strategy=SHORT)
    assert done.head == "4"


def _two() -> list[dict[str, Tensor]]:
    x, y = points()
    return [{"left": x[:, :4], "right": x[:, 4:], "labels": y}]


def test_classes_are_counted_in_every_form_of_data() -> None:
    x, y = points()
    ignoring = torch.cat([y[:-1], torch.tensor([-100])])
    for data in ((x, y), (x.numpy(), y.numpy()), TensorDataset(x, y), DataLoader(TensorDataset(x, y), 20), [(x, y)]):
        assert sw.transfer(mlp(), data, strategy=SHORT).model.get_parameter("4.weight").shape == (3, 16)
    assert sw.transfer(mlp(), (x, ignoring), strategy=SHORT).model.get_parameter("4.weight").shape == (3, 16)
    assert sw.transfer(mlp(), (x, y), classes=5, strategy=SHORT).model.get_parameter("4.weight").shape == (5, 16)


def test_what_it_spent_is_counted() -> None:
    done = sw.transfer(demo.model(), PARITY, strategy=LinearProbe(epochs=10))
    whole = sw.summary(done.model, PARITY[0][:1]).macs
    assert whole is not None
    assert (done.cost.examples, done.cost.steps) == (1280, 10)
    assert done.cost.macs == 128 * (whole - 2 * 64) + 1280 * 3 * 2 * 64
    all_of_it = sw.transfer(demo.model(), PARITY, strategy=FullFineTune(epochs=2)).cost
    assert all_of_it.macs == 256 * 3 * whole
    assert all_of_it.seconds > 0
    json.dumps(done.cost.to_dict() | {"history": done.history}, allow_nan=False)


def test_training_from_scratch_is_put_beside_it() -> None:
    model, data = mlp(), points()
    done = sw.transfer(model, data, points(30, seed=1), strategy=SHORT, baseline=True)
    beside = done.baseline
    assert beside is not None
    assert type(beside.model) is type(model)
    assert not same(without_head(beside.model, "4"), without_head(model, "4"))
    assert beside.cost.steps == 300
    assert beside.provenance == "trained from scratch 150 epochs"
    assert "trained from scratch 150 epochs" in repr(done)
    table = done._repr_html_()
    for text in ("new head trained 5 epochs", "trained from scratch 150 epochs", "MACs", "last epoch", "n=30"):
        assert text in table


def test_a_network_begins_anew_in_every_part() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.full((1, 8), 3.0) + torch.arange(8))
            self.attention = nn.MultiheadAttention(8, 2)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.token
            out: Tensor = self.head(self.attention(x, x, x)[0])
            return out

    torch.manual_seed(0)
    model = Odd()
    schedule = sw.methods.Schedule(1, lr=1e-9, warmup=0)
    done = sw.transfer(model, points(), strategy=SHORT, baseline=schedule)
    assert done.baseline is not None
    for name, parameter in done.baseline.model.named_parameters():
        if name != "attention.in_proj_bias" and name != "attention.out_proj.bias":
            assert not torch.allclose(parameter, done.model.get_parameter(name)), name


# Bad input


def test_a_head_that_is_not_found_lists_the_candidates() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.Unflatten(1, (3, 4)), nn.Conv1d(3, 4, 3))
    with pytest.raises(
        ModelError, match=r"its last layer to run, '4', is a Conv1d; name one with head=…: '2' \(16 → 12\)"
    ):
        sw.transfer(model, points())
    with pytest.raises(ModelError, match=r"head='fc': there is none; name one with head=…: '2' .*, '0' \(8 → 16\)"):
        sw.transfer(model, points(), head="fc")
    with pytest.raises(ModelError, match="head='1': that is a ReLU"):
        sw.transfer(model, points(), head="1")
    with pytest.raises(ModelError, match=r"no Linear layer or 1×1 convolution runs in it"):
        sw.transfer(nn.Sequential(nn.Conv2d(1, 2, 3)), PARITY)


class Averaged(nn.Module):
    """Two heads, whose mean is the prediction, as in LeViT and distilled DeiT."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.head, self.head_dist = nn.Linear(16, outputs), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.body(x))
        out: Tensor = (self.head(x) + self.head_dist(x)) / 2
        return out


class Beside(nn.Module):
    """A second head that runs last and is not the prediction, as in segmentation with an auxiliary loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.main, self.aux = nn.Linear(8, 16), nn.Linear(16, 10), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.body(x))
        return {"out": self.main(x), "aux": self.aux(x)}


class Backbone(nn.Module):
    """Features and no head: its last layer to run is a 1×1 convolution inside."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 1)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(self.last(F.relu(self.first(x)))).mean((2, 3))
        return out


@pytest.mark.parametrize(
    ("model", "head"), [(Averaged(), "head, head_dist"), (Averaged(1), "head, head_dist"), (Beside(), "main, aux")]
)
@pytest.mark.parametrize("strategy", [SHORT, FullFineTune(epochs=2), GradualUnfreezing(epochs=2), LoRA(epochs=2)])
def test_two_heads_are_replaced_together(model: nn.Module, head: str, strategy: Any) -> None:
    before = digest(model)
    done = sw.transfer(model, points(), strategy=strategy)
    assert done.head == head
    for name in head.split(", "):
        assert done.model.get_submodule(name).out_features == 3
    assert digest(model) == before
    frozen = torch.equal(done.model.get_parameter("body.weight"), model.get_parameter("body.weight"))
    assert frozen is (strategy is SHORT)


def test_two_heads_may_be_named_and_one_of_two_is_refused() -> None:
    named = sw.transfer(Averaged(), points(), head=["head_dist", "head"], strategy=SHORT)
    assert named.head == "head_dist, head"
    with pytest.raises(
        ModelError, match=r"with 3 outputs instead of 10 of 'head', the model no longer runs .*head_dist' \(16 → 10\)"
    ):
        sw.transfer(Averaged(), points(), head="head", strategy=SHORT)


def test_two_pruned_heads_are_replaced_by_dense_ones() -> None:
    small = sw.compress(Averaged(), sw.Recipe(sparsity=0.5, bits=8))
    done = sw.transfer(small, points(), strategy=SHORT)
    assert done.compressed is not None
    assert [done.compressed.encoded[f"{name}.weight"].keep for name in ("head", "head_dist")] == [None, None]
    assert done.compressed.encoded["body.weight"].kept == small.encoded["body.weight"].kept


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Backbone(num_classes=0), "'last', has 8 outputs, and the model says 0"),
        (Backbone(num_classes=10), "'last', has 8 outputs, and the model says 10"),
        (Backbone(fc=nn.Identity()), "where it usually is, at 'fc', nothing is computed"),
        (nn.Sequential(nn.Conv2d(1, 8, 1), nn.BatchNorm2d(8), nn.Flatten()), "last layer to run, '1', is a Batch"),
        (nn.Sequential(nn.Conv2d(1, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Unflatten(1, (2, 4))),
         r"with 2 outputs instead of 8 of '0', the model no longer runs \(RuntimeError"),
    ],
)  # fmt: skip
def test_a_backbone_without_a_head_keeps_its_layers_and_the_head_is_blamed(model: nn.Module, why: str) -> None:
    with pytest.raises(ModelError, match=f"found no head in this .*{why}.*; name one with head=…: "):
        sw.transfer(model, PARITY, strategy=SHORT)


def test_an_inner_layer_is_taken_when_it_is_named() -> None:
    assert sw.transfer(Backbone(num_classes=0), PARITY, head="last", strategy=SHORT).head == "last"


def test_both_heads_of_a_distilled_transformer_are_replaced() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=10, img_size=32, depth=1)
    data = torch.randn(3, 3, 32, 32), torch.tensor([0, 1, 2])
    done = sw.transfer(model, data, strategy=LinearProbe(epochs=1))
    assert done.head == "head, head_dist"
    with torch.no_grad():
        assert done.model.eval()(data[0]).shape == (3, 3)
    bare = timm.create_model("deit_tiny_patch16_224", num_classes=0, img_size=32, depth=1)
    with pytest.raises(ModelError, match="found no head"):
        sw.transfer(bare, data, strategy=LinearProbe(epochs=1))


def test_labels_out_of_range_are_named() -> None:
    x, y = points()
    with pytest.raises(DataError, match="label 2 is out of range: the model tells 2 classes apart"):
        sw.transfer(mlp(), (x, y), classes=2)
    with pytest.raises(DataError, match="label -1 is out of range: classes are numbered from 0"):
        sw.transfer(mlp(), (x, y - 1))
    with pytest.raises(DataError, match=r"96 float32: give classes=… if they are whole, or targets=… for a regression"):
        sw.transfer(mlp(), (x, y.float()))
    with pytest.raises(DataError, match="no other label than 0"):
        sw.transfer(mlp(), (x, y * 0))


def test_a_forward_of_several_arguments_says_how_to_give_them() -> None:
    x, y = points()
    with pytest.raises(
        DataError, match=r"forward needs left, right, but the batch has no 'right': give batches \(\(a, b"
    ):
        sw.transfer(TwoInputs(), (x[:, :4], y))
    with pytest.raises(DataError, match="the batch has no 'right'"):
        sw.transfer(TwoInputs(), [{"left": x[:, :4], "labels": y}])
    done = sw.transfer(TwoInputs(), [((x[:, :4], x[:, 4:]), y)], strategy=SHORT)
    assert done.history[-1]["examples"] == 96


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from zip(*points(), strict=True)

    model, data = mlp(), points()
    for error, words, asked in (
        (TrainingError, "not both", {"classes": 3, "targets": 1}),
        (TrainingError, "classes=1 must be a whole number from 2", {"classes": 1}),
        (
            TrainingError,
            r"strategy=<.*> must be a name such as 'linear_probe', or an object such as LinearProbe\(\)",
            {"strategy": mlp},
        ),
        (TrainingError, "strategy=… must be 'linear_probe', 'full_finetune', .* got 'head'", {"strategy": "head"}),
        (
            TrainingError,
            "leave checkpoint=… out",
            {"options": sw.methods.TrainingOptions(checkpoint="x")},
        ),
        (TrainingError, "baseline=3 must be True, False, or a Schedule", {"baseline": 3}),
        (DataError, "a generator can be read only once", {"train_data": (x for x in [data])}),
        (DataError, "the data is empty", {"train_data": [], "classes": 3}),
        (DataError, "give classes=…", {"train_data": DataLoader(Stream(), 8)}),
        (
            DataError,
            "the model cannot run",
            {"train_data": (torch.zeros(9, 5), torch.arange(9))},
        ),
        (ModelError, "cannot fine-tune a str", {"model": "resnet"}),
        (
            TrainingError,
            "epoch 1",
            {"strategy": LinearProbe(3, lr=1e38, optimizer="sgd", least=8)},
        ),
    ):
        with pytest.raises(error, match=words):
            sw.transfer(**({"model": model, "train_data": data, "strategy": SHORT} | asked))  # type: ignore[call-overload]
    assert sw.transfer(model, DataLoader(Stream(), 8), classes=3, strategy=SHORT).cost.examples == 5 * 96


def test_a_training_that_fails_keeps_the_best_weights_of_the_whole_network() -> None:
    def failing(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) * (float("nan") if np.random.rand() < 0.2 else 1)  # noqa: NPY002

    with pytest.raises(TrainingError, match="the loss is nan") as caught:
        sw.transfer(mlp(), points(), strategy=LinearProbe(50), options=sw.methods.TrainingOptions(loss=failing))
    best = caught.value.best
    assert [tuple(p.shape) for p in best.model.parameters()][-2:] == [(3, 16), (3,)]
    assert "new head trained" in best.provenance


def test_a_step_of_the_head_takes_more_examples_than_other_steps_unless_told_otherwise() -> None:
    data = tuple(x[:300] for x in TRAIN)
    for strategy, batch, steps in (
        (SHORT, 64, 2),
        (LinearProbe(5, least=1), 64, 5),
        (SHORT, 300, 1),
        (FullFineTune(1), 64, 5),
    ):
        done = sw.transfer(demo.model(), data, strategy=strategy, options=sw.methods.TrainingOptions(batch_size=batch))
        assert done.history[-1]["step"] == steps


def test_a_layer_that_is_fed_a_view_of_a_parameter_is_taught_like_any() -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Parameter(torch.randn(6, 8))
            self.proj, self.head = nn.Linear(8, 8), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(x @ self.proj(self.query[:4]).t())
            return out

    done = sw.transfer(Fed(), (torch.randn(24, 8), torch.arange(24) % 2), strategy=LinearProbe(epochs=1))
    assert done.head == "head"
    assert done.cost.macs > 0
