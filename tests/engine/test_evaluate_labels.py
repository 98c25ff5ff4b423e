"""Labels and outputs in every form they come in: the score is right, or a sentence asks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.errors import DataError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate

from .training_helpers import mlp, points


class Echo(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def outputs_and_labels(n: int = 60, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, classes, generator=generator), torch.arange(n) % classes


# Labels


def as_column(labels: Tensor) -> Tensor:
    return labels[:, None]


def as_one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels)


def as_float_one_hot(labels: Tensor) -> Tensor:
    return F.one_hot(labels).double()


@pytest.mark.parametrize("form", [as_column, as_one_hot, as_float_one_hot])
@pytest.mark.parametrize("metric", ["accuracy", "perplexity"])
def test_labels_score_alike_in_every_form(form: Callable[[Tensor], Tensor], metric: str) -> None:
    outputs, labels = outputs_and_labels()
    wanted, found = (evaluate(Echo(), (outputs, y), metric) for y in (labels, form(labels)))
    assert found == wanted


def test_soft_labels_are_scored_as_torchs_cross_entropy_scores_them() -> None:
    outputs, labels = outputs_and_labels()
    soft = F.one_hot(labels).float() * 0.7 + 0.3 / 4
    loss = F.cross_entropy(outputs, soft)
    assert evaluate(Echo(), (outputs, soft), "perplexity").value == pytest.approx(math.exp(loss), rel=1e-5)
    assert evaluate(Echo(), (outputs, soft)).value == evaluate(Echo(), (outputs, labels)).value


def test_soft_one_hot_and_column_labels_train_alike() -> None:
    x, y = points()
    forms = (y, as_column(y), as_one_hot(y), as_float_one_hot(y))
    options = sw.methods.TrainingOptions(batch_size=32)
    trained = [sw.retrain(mlp(), (x, form), method=sw.methods.FineTune(1, lr=0.1), options=options) for form in forms]
    for other in trained[1:]:
        assert all(torch.equal(t, other.state_dict()[k]) for k, t in trained[0].state_dict().items())


def test_several_labels_an_example_are_refused_with_what_to_do() -> None:
    outputs, _ = outputs_and_labels()
    several = (outputs.roll(1, 0) > 0).long()
    for metric in ("accuracy", "perplexity"):
        with pytest.raises(DataError, match="multi-label") as caught:
            evaluate(Echo(), (outputs, several), metric)
        assert "argmax" not in str(caught.value)
    advice = evaluate(Echo(), (outputs, several), lambda out, y: ((out > 0) == (y > 0)).float().mean(1))
    assert advice.value == pytest.approx(((outputs > 0) == (several > 0)).float().mean().item())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_another_ignored_label_is_named_by_the_caller(dtype: torch.dtype) -> None:
    labels = torch.randint(0, 3, (6, 5, 7))
    logits = F.one_hot(labels, 3).float().movedim(-1, 1)
    labels[:, :2] = 255
    labels[0] = 255
    with pytest.raises(DataError, match=r"label 255 is out of range.*give ignore_index=255"):
        evaluate(Echo(), (logits, labels.to(dtype)))
    score = evaluate(Echo(), (logits, labels.to(dtype)), ignore_index=255)
    assert (score.value, score.n) == (1.0, 5)
    assert sum(count.labels for count in score.by_class) == 5 * 3 * 7


def test_training_ignores_what_evaluation_ignores() -> None:
    x, y = points()
    marked = y.clone()
    marked[::3] = 77
    net = mlp()
    options = sw.methods.TrainingOptions(
        batch_size=96, ignore_index=77, distillation=sw.methods.Distillation(mlp(1), weight=0.5)
    )
    found = sw.retrain(net, (x, marked), method=sw.methods.FineTune(1, lr=0.1), options=options)
    minus = marked.masked_fill(marked == 77, -100)
    plain = sw.methods.TrainingOptions(batch_size=96, distillation=sw.methods.Distillation(mlp(1), weight=0.5))
    wanted = sw.retrain(net, (x, minus), method=sw.methods.FineTune(1, lr=0.1), options=plain)
    assert all(torch.equal(t, wanted.state_dict()[k]) for k, t in found.state_dict().items())


def test_the_teacher_is_not_asked_about_labels_that_are_not_scored() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("nlf,fc->ncl", x, self.weight)

    teacher = Sum()
    teacher.weight.data = torch.randn(2, 3)
    x, labels = torch.randn(8, 5, 2), torch.randint(0, 3, (8, 5))
    labels[:, 3:] = -100
    options = sw.methods.TrainingOptions(batch_size=8, distillation=sw.methods.Distillation(teacher, weight=1.0))
    whole = sw.retrain(Sum(), (x, labels), method=sw.methods.FineTune(1, lr=1.0), options=options)
    short = sw.retrain(Sum(), (x[:, :3], labels[:, :3]), method=sw.methods.FineTune(1, lr=1.0), options=options)
    assert torch.allclose(whole.state_dict()["weight"], short.state_dict()["weight"], atol=1e-6)


# Probabilities instead of logits


class Binary(nn.Module):
    """Tells whether the first feature is above 0.8: by a logit, or its probability in many ways."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.end = nn.Linear(4, 1), end
        self.linear.weight.data = torch.tensor([[20.0, 0, 0, 0]])
        self.linear.bias.data = torch.tensor([-16.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.linear(x))


ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": lambda z: z,
    "sigmoid": nn.Sigmoid(),
    "function, N": lambda z: torch.sigmoid(z).squeeze(1),
    "away from 0 and 1": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
    "one of a softmax": lambda z: torch.cat([torch.zeros_like(z), z], 1).softmax(1)[:, 1],
}


def above(n: int = 500) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0.8).float()


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_a_probability_is_not_taken_for_a_logit(end: Callable[[Tensor], Tensor]) -> None:
    model, (x, y) = Binary(end), above()
    assert evaluate(model, (x, y)).value == 1.0
    loss = F.binary_cross_entropy_with_logits(model.linear(x).squeeze(1), y).item()
    assert evaluate(model, (x, y), "perplexity").value == pytest.approx(math.exp(loss), rel=1e-3)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_training_through_a_sigmoid_is_training_of_its_logit(end: Callable[[Tensor], Tensor]) -> None:
    found, wanted = (Binary(e) for e in (end, ENDS["logit"]))
    for model in (found, wanted):
        model.linear.weight.data /= 20
        model.linear.bias.data /= 20
    trained = [sw.retrain(m, above(), method=sw.methods.FineTune(1, lr=0.1)).state_dict() for m in (found, wanted)]
    for name, tensor in trained[1].items():
        assert torch.allclose(trained[0][name], tensor, rtol=1e-3, atol=1e-4)


def test_a_logit_that_happens_to_lie_between_0_and_1_stays_one() -> None:
    model, (x, y) = Binary(ENDS["logit"]), above(64)
    model.linear.weight.data.zero_()
    model.linear.bias.data.fill_(0.3)  # a network that collapsed: always class 1
    assert evaluate(model, (x, y)).value == pytest.approx(y.mean().item())


def test_what_may_be_either_is_asked_about() -> None:
    data = torch.rand(20), torch.arange(20) % 2
    with pytest.raises(
        DataError, match=r"all lie between 0 and 1 and look like probabilities.*end the model in the log"
    ):
        evaluate(Echo(), (data[0].mul(0.5).numpy(), data[1].numpy()))


def test_probabilities_of_a_softmax_have_the_perplexity_of_its_logits() -> None:
    logits, labels = outputs_and_labels()
    wanted = evaluate(Echo(), (logits, labels), "perplexity").value
    for end in (nn.Softmax(1), nn.LogSoftmax(1)):
        assert evaluate(end, (logits, labels), "perplexity").value == pytest.approx(wanted, rel=1e-5)
    net = nn.Sequential(nn.Linear(8, 3), nn.Softmax(1))
    trained = [sw.retrain(m, points(), method=sw.methods.FineTune(1, lr=0.1)).state_dict() for m in (net, net[:1])]
    assert torch.allclose(trained[0]["0.weight"], trained[1]["0.weight"], atol=1e-5)


# Outputs


@dataclass
class Out:
    hidden: Tensor
    scores: Tensor


class Named(NamedTuple):
    hidden: Tensor
    scores: Tensor


class Two(nn.Module):
    """Returns what is hidden, and the scores of three classes, in any wrapping."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.hidden, self.scores, self.wrap = nn.Linear(8, 16), nn.Linear(16, 3), wrap

    def forward(self, x: Tensor) -> object:
        hidden = self.hidden(x)
        return self.wrap(hidden, self.scores(hidden))


WRAPS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "tuple": lambda h, z: (h, z),
    "list": lambda h, z: [z, h],
    "scalar first": lambda _, z: (z.mean(), z),
    "dict": lambda h, z: {"hidden": h, "scores": z},
    "dataclass": Out,
    "named tuple": Named,
    "nothing beside": lambda _, z: (None, z, "text"),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
def test_of_several_outputs_the_one_that_fits_the_labels_is_scored(wrap: Callable[[Tensor, Tensor], object]) -> None:
    model, (x, y) = Two(wrap), points()
    plain = Two(lambda _, z: z)
    assert evaluate(model, (x, y)).value == evaluate(plain, (x, y)).value
    wanted = F.one_hot(y).float()
    assert evaluate(model, (x, wanted), "mse").value == evaluate(plain, (x, wanted), "mse").value
    trained = [sw.retrain(m, (x, y), method=sw.methods.FineTune(1, lr=0.1)).state_dict() for m in (model, plain)]
    assert all(torch.equal(tensor, trained[0][name]) for name, tensor in trained[1].items())


def test_outputs_that_fit_equally_well_are_refused() -> None:
    with pytest.raises(DataError, match=r"several tensors that fit the targets \(0 96×3 float32, 1 96×3 float32\)"):
        evaluate(Two(lambda _, z: (z, z + 1)), points())
    with pytest.raises(DataError, match="nothing fits the targets, 96 int64"):
        evaluate(Two(lambda h, z: (h[:5], z[:5])), points())


def test_a_models_own_loss_tells_which_output_it_is_of() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return F.cross_entropy(x + 1, labels), x.flip(1), x + 1

    x, y = outputs_and_labels()
    assert evaluate(Own(), [{"x": x, "labels": y}]).value == evaluate(Echo(), (x, y)).value


# What the mean hides


def test_a_class_that_is_never_predicted_is_told() -> None:
    labels = torch.arange(100) % 4
    guesses = torch.where(labels == 2, 0, labels)
    score = evaluate(Echo(), (F.one_hot(guesses, 4).float(), labels))
    assert score.warnings == ("never predicted: class 2 (25 labels)",)
    assert [tuple(count) for count in score.by_class] == [(25, 50, 25), (25, 25, 25), (25, 0, 0), (25, 25, 25)]
    assert repr(score).endswith("; never predicted: class 2 (25 labels)")
    assert score.to_dict()["warnings"] == list(score.warnings)


def test_few_labels_of_a_class_prove_nothing() -> None:
    labels = torch.tensor([0, 1] * 40 + [2] * 4)
    guesses = torch.where(labels == 2, 0, labels)
    assert evaluate(Echo(), (F.one_hot(guesses, 3).float(), labels)).warnings == ()


def test_an_accuracy_no_better_than_chance_is_told() -> None:
    outputs, labels = torch.randn(300, 5, generator=torch.Generator().manual_seed(0)), torch.arange(300) % 5
    assert evaluate(Echo(), (outputs, labels)).warnings == (
        "the interval covers chance: always answering class 0 scores 20.0 %",
    )
    right = F.one_hot(labels, 5).float()
    assert evaluate(Echo(), (right, labels)).warnings == ()
    assert evaluate(Echo(), (right.roll(1, 0), labels)).warnings == (
        "below chance: always answering class 0 scores 20.0 %",
    )


def test_counts_add_up_over_batches_and_other_metrics_have_none() -> None:
    whole = evaluate(demo.model(), demo.data())
    assert sum(count.correct for count in whole.by_class) == round(whole.value * whole.n)
    assert [count.labels for count in whole.by_class] == demo.data()[1].bincount().tolist()
    assert evaluate(demo.model(), demo.data(), "perplexity").by_class == ()


def test_pixels_are_counted_though_there_are_many() -> None:
    labels = torch.arange(3).repeat(5 * 400 * 400).view(15, 400, 400)  # more than are held until the end
    logits = F.one_hot(labels, 3).movedim(-1, 1).half()
    score = evaluate(Echo(), [(logits, labels)] * 2)
    assert [tuple(count) for count in score.by_class] == [(1_600_000,) * 3] * 3


# It leaves the model and the program alone


class Caching(nn.Module):
    """Remembers a table it makes on its first batch, as models with rotary positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale, self.table = nn.Linear(8, 3), nn.Parameter(torch.ones(())), torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        if not len(self.table):
            self.table = torch.sin(torch.arange(8.0))
        out: Tensor = self.linear(x + self.scale * self.table)
        return out


@pytest.mark.parametrize("inside", [False, True], ids=["plainly", "under inference mode"])
def test_a_model_that_caches_can_be_trained_after_an_evaluation(inside: bool) -> None:
    model, (x, y) = Caching(), points()
    with torch.inference_mode(inside):
        evaluate(model, (x, y))
    F.cross_entropy(model(x), y).backward()
    assert model.scale.grad is not None


def test_a_model_that_caches_can_be_trained_after_it_was_measured_and_transferred() -> None:
    x, y = points()
    for look in (
        lambda m: sw.summary(m, x[:2]),
        lambda m: sw.transfer(m, (x, y), strategy=sw.methods.LinearProbe(epochs=1)),
    ):
        model = Caching()
        look(model)
        F.cross_entropy(model(x), y).backward()


def draws() -> tuple[float, ...]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


class Noisy(nn.Module):
    """Draws from every generator there is, in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 1e-3 * sum(draws())


def test_random_numbers_go_on_as_if_nothing_had_been_evaluated() -> None:
    outputs, labels = outputs_and_labels()

    def seeded() -> None:
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        torch.manual_seed(1)

    seeded()
    wanted = [draws() for _ in range(4)]
    seeded()
    evaluate(Noisy(), (outputs, labels))
    assert [draws(), *(draws() for _ in evaluate(Noisy(), [(outputs, labels)] * 2, stream=True))] == wanted


def test_measuring_and_transferring_leave_random_numbers_where_they_were() -> None:
    class Noise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x + 1e-3 * torch.randn_like(x))
            return out

    model, (x, y) = Noise(), points()
    state = torch.random.get_rng_state()
    sw.summary(model, x[:1])
    sw.transfer(model, (x, y), (x, y), strategy=sw.methods.LinearProbe(epochs=1))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_interrupted_evaluation_puts_modes_and_random_numbers_back() -> None:
    class Interrupted(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            torch.rand(3)
            raise KeyboardInterrupt

    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(8).eval(), Interrupted()).train()
    modes, state = [m.training for m in model.modules()], torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, points())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


# Batches


def test_batches_of_three_say_what_to_do() -> None:
    x, y = points()
    with pytest.raises(DataError, match=r"a batch is a tuple of 3.*several inputs go as \(\(a, b\), targets\)"):
        evaluate(mlp(), [(x, y, y)])


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_inputs_of_another_dtype_are_told_how_to_be_converted(dtype: Any) -> None:
    x, y = points()
    with pytest.raises(DataError, match=r"the weights are float32: convert the inputs with \.astype\('float32'\)"):
        evaluate(mlp(), (x.numpy().astype(dtype), y.numpy()))


def test_a_last_batch_of_one_is_told_of_drop_last() -> None:
    x, y = points(9)
    with pytest.raises(DataError, match="drop_last=True"):
        sw.retrain(mlp(), [(x[:8], y[:8]), (x[8:], y[8:])], method=sw.methods.FineTune(1, lr=0.1))


def test_answers_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="ignore_index=True must be a class number"):
        evaluate(mlp(), points(), ignore_index=True)
    with pytest.raises(DataError, match="next_token='yes' must be True, False or None"):
        sw.methods.TrainingOptions(next_token="yes")  # type: ignore[arg-type]
