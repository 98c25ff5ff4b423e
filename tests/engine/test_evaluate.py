"""A score is right, says how sure it is, leaves the model alone, and fails with one sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.analysis.run_model_seeded_macs_and_memory import moved
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import Cancelled, DataError, ModelError
from shrinkwidget.evaluation.batches_predictions_and_labels import prepared
from shrinkwidget.evaluation.data_subset import draw_subset
from shrinkwidget.evaluation.evaluate_and_metrics import Score, Z, evaluate, resolve, scores, wilson
from shrinkwidget.recipe_and_method_registry import Recipe


class Echo(nn.Module):
    """Returns its input, so that a test says what the outputs are."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def logits_for(labels: Tensor, classes: int) -> Tensor:
    return F.one_hot(labels, classes).float()


DIGITS = demo.data()


# What it accepts


def as_loader() -> object:
    return DataLoader(TensorDataset(*DIGITS), batch_size=50)


def as_list() -> object:
    return list(zip(DIGITS[0].split(77), DIGITS[1].split(77), strict=True))


def as_generator() -> object:
    return ((x, y) for x, y in zip(DIGITS[0].split(77), DIGITS[1].split(77), strict=True))


def as_dicts() -> object:
    return [{"image": x, "label": y} for x, y in zip(DIGITS[0].split(77), DIGITS[1].split(77), strict=True)]


def as_arrays() -> object:
    return DIGITS[0].numpy(), DIGITS[1].numpy()


def as_keyword_dicts() -> object:
    return [{"images": DIGITS[0], "id": list(range(360)), "y": DIGITS[1]}]


@pytest.mark.parametrize(
    "data",
    [lambda: DIGITS, lambda: TensorDataset(*DIGITS), as_loader, as_list, as_generator, as_dicts, as_arrays,
     as_keyword_dicts],
    ids=["pair", "dataset", "loader", "list", "generator", "dicts", "arrays", "keywords"],
)  # fmt: skip
def test_every_form_of_the_same_data_gives_the_same_score(data: Callable[[], object]) -> None:
    model = demo.model()
    expected = (model(DIGITS[0]).argmax(1) == DIGITS[1]).double().mean().item()
    score = evaluate(model, data())
    assert score.value == pytest.approx(expected)
    assert (score.n, score.done, score.provenance) == (360, True, "as given")


def test_several_inputs_come_as_a_tuple_or_a_dict() -> None:
    class Both(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a + b

    a, b, y = torch.eye(4), torch.zeros(4, 4), torch.arange(4)
    for inputs in ((a, b), {"b": b, "a": a}):
        assert evaluate(Both(), [(inputs, y)]).value == 1.0
    assert evaluate(Both(), [{"a": a, "b": b, "target": y}]).value == 1.0


@pytest.mark.parametrize(
    "data, total",
    [
        (DataLoader(TensorDataset(*DIGITS), batch_size=100), 360),
        (DataLoader(TensorDataset(*DIGITS), batch_size=100, drop_last=True), 300),
        (DIGITS, 360),
        ([DIGITS, DIGITS], 720),
        (TensorDataset(*DIGITS), 360),
        (iter([DIGITS]), None),
    ],
    ids=["loader", "drop last", "pair", "list", "dataset", "iterator"],
)
def test_scores_on_the_way_know_how_many_examples_are_to_come(data: object, total: int | None) -> None:
    scores = list(evaluate(demo.model(), data, stream=True))
    assert {s.total for s in scores} == {total}
    assert total is None or scores[-1].n == total
    assert [s.done for s in scores] == [False] * (len(scores) - 1) + [True]
    assert scores[-1].value == scores[-2].value


def test_an_iterable_dataset_is_read_to_its_end() -> None:
    class Stream(IterableDataset[tuple[Tensor, Tensor]]):
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            yield from zip(*DIGITS, strict=True)

    assert evaluate(demo.model(), DataLoader(Stream(), batch_size=64)).n == 360


def test_large_examples_are_cut_into_small_batches() -> None:
    seen: list[int] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return x[:, :2]

    evaluate(Watch(), (torch.zeros(20, 1_000_000), torch.zeros(20, dtype=torch.long)))
    assert sum(seen) == 20
    assert max(seen) * 4_000_000 <= 16_000_000


# Accuracy


def reference_wilson(right: int, n: int) -> tuple[float, float]:
    """Solve |p̂ − p| = z·√(p(1−p)/n) for p: where Wilson's interval comes from."""
    share = right / n
    roots = np.roots([1 + Z**2 / n, -(2 * share + Z**2 / n), share**2])
    return float(roots.real.min()), float(roots.real.max())


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
@settings(deadline=None)
def test_accuracy_and_its_wilson_interval(counts: tuple[int, int]) -> None:
    right, n = counts
    labels = torch.arange(n) % 5
    guesses = torch.where(torch.arange(n) < right, labels, (labels + 1) % 5)
    score = evaluate(Echo(), (logits_for(guesses, 5), labels))
    low, high = reference_wilson(right, n)
    assert score.value == pytest.approx(right / n)
    assert (score.low, score.high) == pytest.approx((low, high), abs=1e-6)
    assert 0 <= score.low <= score.value <= score.high <= 1


def test_the_interval_is_that_of_the_textbook() -> None:
    assert wilson(0.9, 10) == pytest.approx((0.5958, 0.9821), abs=1e-4)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_score_does_not_depend_on_how_data_is_batched(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(sum(sizes), 3, 4, generator=generator)
    labels = torch.randint(0, 3, (sum(sizes), 4), generator=generator)
    batches = list(zip(outputs.split(sizes), labels.split(sizes), strict=True))
    for metric in ("accuracy", "perplexity"):
        whole, parts = evaluate(Echo(), [(outputs, labels)], metric), evaluate(Echo(), batches, metric)
        assert (whole.value, whole.low, whole.high) == pytest.approx(
            (parts.value, parts.low, parts.high), nan_ok=True, rel=1e-6
        )


@pytest.mark.parametrize("last", [False, True], ids=["N×C×H×W", "N×H×W×C"])
def test_segmentation_scores_every_pixel_but_ignored_ones(last: bool) -> None:
    labels = torch.randint(0, 4, (6, 5, 7))
    guesses = labels.clone()
    guesses[:, 0, 0] = (labels[:, 0, 0] + 1) % 4
    guesses[:, 1, 1] = (labels[:, 1, 1] + 1) % 4
    labels[:, 1, 1] = -100
    logits = logits_for(guesses, 4)
    score = evaluate(Echo(), (logits if last else logits.movedim(-1, 1), labels))
    assert score.value == pytest.approx(33 / 34)
    assert score.n == 6


def test_pixels_of_one_image_are_not_counted_as_independent() -> None:
    labels = torch.zeros(50, 100, dtype=torch.long)
    guesses = (torch.arange(50) % 2)[:, None].expand(50, 100)  # an image is all right or all wrong
    score = evaluate(Echo(), (logits_for(guesses, 2).movedim(-1, 1), labels))
    assert (score.low, score.high) == pytest.approx(wilson(0.5, 50))


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool, torch.uint8])
def test_one_logit_per_label_is_binary(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.tensor([-2.0, -1, -0.5, 3, 4, 5, 6, -7])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 0, 1]).to(dtype)
    assert evaluate(Echo(), (logits.reshape(shape), labels)).value == pytest.approx(6 / 8)


def test_ignored_labels_do_not_count_as_examples() -> None:
    labels = torch.tensor([0, 1, -100, 2])
    score = evaluate(Echo(), (logits_for(torch.tensor([0, 1, 1, 2]), 3), labels))
    assert (score.value, score.n, score.total) == (1.0, 3, 4)


# The other metrics


def test_mse_and_its_interval() -> None:
    outputs, targets = torch.randn(40, 3), torch.randn(40, 3)
    score = evaluate(Echo(), (outputs, targets), "mse")
    each = ((outputs - targets) ** 2).mean(1).double()
    assert score.value == pytest.approx(each.mean().item())
    assert score.high - score.value == pytest.approx(Z * (each.std() / 40**0.5).item(), rel=1e-5)


def test_mse_of_n_by_1_against_n_is_not_broadcast() -> None:
    targets = torch.arange(5.0)
    assert evaluate(Echo(), (targets[:, None], targets), "mse").value == 0


def test_perplexity_is_the_exponential_of_torchs_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 11, 9), torch.randint(0, 11, (30, 9))
    labels[3:9, 4:] = -100
    score = evaluate(Echo(), (logits, labels), "perplexity")
    assert score.value == pytest.approx(math.exp(F.cross_entropy(logits, labels).item()), rel=1e-5)
    assert score.low < score.value < score.high
    assert score.n == 30


def test_perplexity_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, 0.25, 0.125, 0.125])
    truth = math.exp(-(probabilities * probabilities.log()).sum().item())
    logits = probabilities.log()[None, :, None].expand(60, 4, 10)
    hits = 0
    for _ in range(300):
        labels = torch.multinomial(probabilities, 600, replacement=True).view(60, 10)
        score = evaluate(Echo(), [(logits, labels)], "perplexity")
        hits += score.low <= truth <= score.high
    assert 0.90 <= hits / 300 <= 0.99


def test_a_function_of_the_user_is_averaged_over_examples() -> None:
    def off(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs()

    outputs, targets = torch.randn(300), torch.randn(300)
    score = evaluate(Echo(), (outputs, targets), off)
    assert score.metric == "off"
    assert score.value == pytest.approx((outputs - targets).abs().mean().item(), rel=1e-5)
    assert score.high - score.low == pytest.approx(
        2 * Z * ((outputs - targets).abs().double().std() / 300**0.5).item(), rel=1e-5
    )


def test_a_batch_mean_of_the_user_is_weighted_by_the_batch() -> None:
    batches = [(torch.full((10,), 1.0), torch.zeros(10)), (torch.full((30,), 2.0), torch.zeros(30))]
    score = evaluate(Echo(), batches, lambda out, _: out.mean().item())
    assert score.value == pytest.approx((10 * 1 + 30 * 2) / 40)
    assert (score.n, score.total) == (40, 40)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return 100 * (outputs.argmax(1) == targets).float()


def neg_loss(_outputs: Tensor, _targets: Tensor) -> float:
    return 0.0


def test_torchs_losses_are_better_when_lower() -> None:
    for loss in (F.cross_entropy, F.l1_loss, nn.MSELoss(), nn.CrossEntropyLoss(), partial(F.mse_loss, reduction="sum")):
        assert not resolve(loss).higher


def test_a_metrics_name_says_nothing_about_its_unit_or_direction() -> None:
    assert resolve(neg_loss).higher
    score = evaluate(Echo(), (torch.eye(4), torch.arange(4)), accuracy)
    assert (score.value, score.percent, score.higher) == (100, False, True)
    assert repr(score).startswith("accuracy 100 [100, 100] n=4")


def test_a_function_declares_its_direction_and_unit() -> None:
    def wer(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).float()

    wer.higher_is_better, wer.percent = False, True  # type: ignore[attr-defined]
    data = (torch.eye(4), torch.tensor([0, 1, 2, 2]))
    named = sw.methods.Metric.of(lambda out, y: (out.argmax(1) != y).float(), name="wer", higher=False, percent=True)
    for metric in (wer, named):
        score = evaluate(Echo(), data, metric)
        assert (score.percent, score.higher, score.to_dict()["higher"]) == (True, False, False)
        assert repr(score).startswith("wer 25.0 % [")


def test_one_batch_mean_has_no_interval_and_the_text_shows_none() -> None:
    score = evaluate(Echo(), [(torch.ones(4), torch.ones(4))], lambda out, _: out.mean())
    assert math.isnan(score.low)
    assert "[" not in repr(score)
    assert score.to_dict()["low"] is None


# Hugging Face models return an object with logits, and their loss tells how they pair tokens with labels


class Language(nn.Module):
    """A causal language model in the manner of Hugging Face: it shifts the labels itself."""

    def __init__(self, shifts: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head, self.shifts = nn.Embedding(20, 8), nn.Linear(8, 20), shifts

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        logits = self.head(self.embed(input_ids))
        if labels is None:
            return SimpleNamespace(logits=logits)
        before, after = (logits[:, :-1], labels[:, 1:]) if self.shifts else (logits, labels)
        return SimpleNamespace(loss=F.cross_entropy(before.flatten(0, 1), after.flatten()), logits=logits)


@pytest.mark.parametrize("shifts", [True, False])
def test_perplexity_of_a_language_model_agrees_with_its_own_loss(shifts: bool) -> None:
    model, ids = Language(shifts), torch.randint(0, 20, (12, 20))  # as long as there are classes: shapes are no hint
    score = evaluate(model, [{"input_ids": ids, "labels": ids, "attention_ids": ids}], "perplexity")
    assert score.value == pytest.approx(math.exp(model(ids, ids).loss.item()), rel=1e-5)
    logits = model(ids).logits.argmax(-1)
    right = logits[:, :-1] == ids[:, 1:] if shifts else logits == ids
    assert evaluate(model, [{"input_ids": ids, "labels": ids}]).value == pytest.approx(right.double().mean().item())


def test_outputs_may_be_wrapped() -> None:
    class Wrapped(nn.Module):
        def __init__(self, wrap: Callable[[Tensor], object]) -> None:
            super().__init__()
            self.wrap = wrap

        def forward(self, x: Tensor) -> object:
            return self.wrap(x)

    for wrap in (lambda x: {"out": x}, lambda x: (x, None), lambda x: SimpleNamespace(logits=x)):
        assert evaluate(Wrapped(wrap), (torch.eye(3), torch.arange(3))).value == 1


# It leaves the model alone


def test_training_modes_buffers_and_gradients_stay_as_they_were() -> None:
    model = demo.model().train()
    model.stage1.eval()
    model.get_submodule("stage2.0.bn1").eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    for _ in evaluate(model, DIGITS, stream=True):
        assert [m.training for m in model.modules()] == modes
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and not p.is_inference() for p in model.parameters())


def test_modes_are_restored_when_the_model_raises() -> None:
    model = demo.model().train()
    with pytest.raises(DataError):
        evaluate(model, (torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)))
    assert all(m.training for m in model.modules())


def test_batch_norm_and_dropout_are_in_eval_mode() -> None:
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(10, affine=False)).train()
    labels = torch.arange(200) % 10
    assert evaluate(model, (logits_for(labels, 10), labels)).value == 1.0


def test_batches_are_moved_to_the_device_of_the_model() -> None:
    raw = {"x": torch.zeros(2, 3), "labels": np.zeros(2)}
    batch = prepared(raw, Echo(), torch.device("meta"))  # the one other device every machine has
    assert batch.kwargs["x"].device.type == batch.targets.device.type == "meta"
    nested = moved(([torch.zeros(1)], {"a": (torch.zeros(1), "text")}), torch.device("meta"))
    assert nested[0][0].device.type == nested[1]["a"][0].device.type == "meta"


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ModelError, match="meta device"):
        evaluate(nn.Linear(3, 3, device="meta"), (torch.eye(3), torch.arange(3)))


# It stops when told


def test_it_is_cancelled_between_batches() -> None:
    stop = False
    found = scores(demo.model(), [DIGITS] * 5, "accuracy", cancelled=lambda: stop)
    assert [next(found).n, next(found).n] == [360, 720]
    stop = True
    with pytest.raises(Cancelled, match="before batch 3"):
        next(found)


def test_an_abandoned_evaluation_runs_no_further_batch() -> None:
    read: list[int] = []

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(5):
            read.append(number)
            yield DIGITS

    found = evaluate(demo.model(), batches(), stream=True)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert read == [0]


# Bad input: one sentence


def words(labels: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(4, 3), torch.full((4,), labels)


BAD: dict[str, tuple[object, Any, str]] = {
    "no data": (None, "accuracy", "cannot evaluate on nothing: give a DataLoader"),
    "a number": (3, "accuracy", "cannot evaluate on data of type int"),
    "a dict": ({"x": 1}, "accuracy", "data of type dict"),
    "empty list": ([], "accuracy", "the data is empty"),
    "empty pair": ((torch.zeros(0, 3), torch.zeros(0)), "accuracy", "the data is empty"),
    "empty loader": (DataLoader(TensorDataset(torch.zeros(0, 3))), "accuracy", "the data is empty"),
    "spent iterator": (iter([]), "accuracy", "an iterator can be read only once; pass a list"),
    "unequal pair": ((torch.zeros(4, 3), torch.zeros(3)), "accuracy", r"inputs \(4×3 float32\) and targets \(3 float"),
    "no targets": ([torch.zeros(4, 3)] * 3, "accuracy", "batch 1: a batch is a Tensor; expected"),
    "three parts": ([(1, 2, 3)], "accuracy", r"batch 1: a batch is a tuple of 3; expected \(inputs, targets\)"),
    "dict without targets": ([{"x": torch.zeros(2, 2)}], "accuracy", "has the keys 'x'; targets must be under"),
    "dict without inputs": ([{"a": 1, "b": 2, "y": torch.zeros(2)}], "accuracy", "Echo.forward takes x: rename"),
    "scalar targets": ([(torch.zeros(1, 3), 1)], "accuracy", "is the batch dimension missing"),
    "odd targets": ([(torch.zeros(1, 3), "cat")], "accuracy", "batch 1: targets must be a tensor, got a str"),
    "label too large": (words(3), "accuracy", r"batch 1: label 3 is out of range: the model tells 3 classes apart"),
    "label negative": (words(-1), "perplexity", "label -1 is out of range"),
    "all ignored": (words(-100), "accuracy", "none of the 1 batches has a label to score"),
    "multi-label": ((torch.eye(3), torch.ones(3, 3)), "accuracy", "multi-label, and a single class is no answer. Give"),
    "no shares": ((torch.eye(3), torch.eye(3) / 2), "accuracy", "or the share of each class, which sum to 1"),
    "regression": (
        (torch.zeros(4, 3), torch.rand(4)),
        "accuracy",
        "for regression: metric='mse', and loss='mse' to train",
    ),
    "wrong shapes": ((torch.zeros(4, 3), torch.zeros(4, 2)), "mse", "outputs are 4×3 float32, targets 4×2 float32"),
    "transposed": ((torch.zeros(6, 2, 3), torch.zeros(6, 3, 2)), "mse", "expected the same shape"),
    "labels of another shape": ((torch.zeros(4, 3), torch.zeros(4, 2).long()), "accuracy", "expected logits N×C×"),
    "NaN outputs": ((torch.full((4, 3), torch.nan), torch.zeros(4)), "accuracy", "batch 1: the outputs .* hold NaN"),
    "NaN squares": ((torch.full((4, 3), torch.nan), torch.zeros(4, 3)), "mse", "hold NaN"),
    "unknown metric": (DIGITS, "acuracy", "no metric 'acuracy'; did you mean 'accuracy'"),
    "no metric": (DIGITS, None, "no metric None"),
    "metric raises": (DIGITS, lambda o, _: o.missing, "batch 1: the metric '<lambda>' failed: AttributeError"),
    "metric gives NaN": (DIGITS, lambda *_: math.nan, "the metric '<lambda>' returned NaN"),
    "metric of wrong shape": (DIGITS, lambda o, _: o[:, :, 0, :2], "returned 128×1×2 float32 for 128 examples"),
    "metric gives text": (
        DIGITS,
        lambda *_: "good",
        "the metric '<lambda>' returned str for 128 examples; expected one",
    ),
    "metric gives nothing": (DIGITS, lambda *_: None, "the metric '<lambda>' returned NoneType for 128 examples"),
    "list of metrics": (DIGITS, ["accuracy"], "no metric .*; did you mean 'accuracy'"),
}


@pytest.mark.parametrize("data, metric, message", BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_said_in_one_sentence(data: object, metric: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        evaluate(Echo(), data, metric)
    assert "\n" not in str(caught.value)


def test_a_batch_the_model_cannot_run_is_named_with_its_shapes() -> None:
    data = [DIGITS, (torch.zeros(5, 3, 8, 8), torch.zeros(5, dtype=torch.long))]
    with pytest.raises(DataError) as caught:
        evaluate(demo.model(), data)
    assert str(caught.value).startswith(
        "batch 2: the model cannot run input 5×3×8×8 float32: RuntimeError: Given groups=1"
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_data_that_fails_half_way_is_named() -> None:
    def batches() -> Iterator[object]:
        yield DIGITS
        raise OSError("disk went away")

    with pytest.raises(DataError, match="the data failed to give batch 2: OSError: disk went away"):
        evaluate(demo.model(), batches())


@pytest.mark.parametrize("model", [None, "net", demo.model().state_dict()], ids=["None", "text", "state dict"])
def test_what_is_no_module_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="cannot run a"):
        evaluate(model, DIGITS, stream=True)


def test_what_holds_a_module_is_told_to_give_it() -> None:
    with pytest.raises(ModelError, match=r"cannot run a SimpleNamespace: give its \.model"):
        evaluate(SimpleNamespace(model=demo.model()), DIGITS, stream=True)


def test_modes_are_restored_when_a_module_refuses_eval_mode() -> None:
    class Stubborn(nn.Module):
        def train(self, mode: bool = True) -> Stubborn:  # noqa: ARG002
            raise RuntimeError("I always train")

    model = nn.Sequential(nn.BatchNorm1d(3), Stubborn())
    with pytest.raises(RuntimeError, match="I always train"):
        evaluate(model, (torch.zeros(2, 3), torch.zeros(2)))
    assert [m.training for m in model.modules()] == [True, True, True]


# How a score reads


def test_scores_read_well() -> None:
    score = Score(0.98333, 0.9641, 0.9923, 360, 360, "accuracy", percent=True)
    assert repr(score) == "accuracy 98.3 % [96.4, 99.2] n=360, as given"
    part = Score(0.98333, 0.9641, 0.9923, 128, 12_000, "accuracy", percent=True, done=False)
    assert repr(part) == "accuracy 98.3 % [96.4, 99.2] n=128 of 12,000 so far, as given"
    assert repr(Score(12.3456, 11.0, 14.0, 5, None, "perplexity", done=False)) == (
        "perplexity 12.35 [11, 14] n=5 so far, as given"
    )


def test_a_checksum_tells_which_weights_were_scored(tmp_path: Path) -> None:
    model, data = sw.demo.model(), sw.demo.data("valid")
    dense = sw.evaluate(model, data).checksum
    assert re.fullmatch("[0-9a-f]{16}", dense)
    assert [score.checksum for score in sw.evaluate(model, data, stream=True)][-2:] == ["", dense][-2:]
    small = sw.compress(model, 0.5, bits=4)
    small.save(tmp_path / "small.safetensors")
    again = sw.load(tmp_path / "small.safetensors", into=sw.demo.model())
    assert dense != sw.evaluate(small, data).checksum == sw.evaluate(again, data).checksum
    with torch.no_grad():
        model.stem.weight[0, 0, 0, :2] = model.stem.weight[0, 0, 0, :2].flip(0)  # two weights change places
    assert sw.evaluate(model, data).checksum != dense


def test_to_dict_is_json() -> None:
    score = Score(math.inf, math.nan, math.inf, 1, None, "perplexity")
    assert json.loads(json.dumps(score.to_dict(), allow_nan=False)) == {
        "value": None, "low": None, "high": None, "n": 1, "total": None, "metric": "perplexity",
        "provenance": "as given", "done": True, "percent": False, "higher": True, "warnings": [],
        "checksum": "",
    }  # fmt: skip


def test_a_score_says_how_the_model_was_obtained_as_far_as_that_is_known(tmp_path: Path) -> None:
    small = compress(demo.model(), Recipe(sparsity=0.5))
    assert evaluate(small, DIGITS).provenance == "no retraining"
    trained = replace(small, provenance="retrained 3 epochs")
    assert small.model is not None
    # a module does not tell whether it was trained, nor does one with the weights of a file
    assert evaluate(small.model, DIGITS).provenance == "as given"
    trained.save(tmp_path / "small.safetensors")
    again = sw.load(tmp_path / "small.safetensors", into=demo.model())
    assert again.model is not None
    assert [evaluate(found, DIGITS).provenance for found in (again, again.model)] == ["as loaded", "as given"]
    assert evaluate(trained, DIGITS).provenance == "retrained 3 epochs"
    with pytest.raises(ModelError, match=r"only weights: load the file with load\(path, into=model\)"):
        evaluate(replace(small, model=None), DIGITS)


def test_scores_on_the_way_end_the_evaluation_when_they_are_sure_enough() -> None:
    model = sw.demo.model().train()
    for score in sw.evaluate(model, sw.demo.data(), stream=True):
        if score.low > 0.9:
            break
    assert not score.done
    assert score.n < 360
    assert model.training


# Batch norm recalibrated


def test_recalibrated_before_the_score_it_is_what_retrain_recalibrates() -> None:
    small, train = sw.compress(demo.model(), sparsity=0.9, bits=4), demo.data("train")
    before = {name: tensor.clone() for name, tensor in small.model.state_dict().items()}  # type: ignore[union-attr]
    score = sw.evaluate(small, DIGITS, recalibrate_batchnorm=train)
    drawn = draw_subset(train, 512, seed=0).data
    again = sw.retrain(small, drawn, method="recalibrate_batchnorm")
    assert score.value == sw.evaluate(again, DIGITS).value > sw.evaluate(small, DIGITS).value + 0.3
    assert score.provenance == "batch norm recalibrated on 512 training examples"
    assert all(torch.equal(before[name], x) for name, x in small.model.state_dict().items())  # type: ignore[union-attr]


def test_recalibration_looks_at_no_label_and_takes_inputs_alone() -> None:
    small, (images, labels) = sw.compress(demo.model(), sparsity=0.9), demo.data("train")
    scored = [
        sw.evaluate(small, DIGITS, recalibrate_batchnorm=data)
        for data in ((images, labels), (images, labels.roll(1)), images, TensorDataset(images, labels))
    ]
    assert len({score.value for score in scored}) == 1
    few = sw.evaluate(small, DIGITS, recalibrate_batchnorm=[images[:32], images[32:64], images[64:96]])
    assert few.provenance == "batch norm recalibrated on 96 training examples"
    assert few.value > sw.evaluate(small, DIGITS).value


def test_recalibration_is_added_to_the_provenance_and_streams() -> None:
    retrained = replace(sw.compress(demo.model(), sparsity=0.9), provenance="fine-tuned 1 epoch")
    stream = sw.evaluate(retrained, DIGITS, recalibrate_batchnorm=demo.data("train"), stream=True)
    assert {score.provenance for score in stream} == {
        "fine-tuned 1 epoch, then batch norm recalibrated on 512 training examples"
    }


def test_without_batch_norm_there_is_nothing_to_recalibrate() -> None:
    with pytest.raises(ModelError, match="there is no batch norm with running statistics in this Linear: leave it out"):
        sw.evaluate(nn.Linear(3, 2), (torch.zeros(4, 3), torch.zeros(4)), recalibrate_batchnorm=torch.zeros(4, 3))


def test_a_compressed_model_whose_module_was_trained_on_is_no_longer_what_its_file_is(tmp_path: Path) -> None:
    small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
    assert small.changed_tensor == ""
    small.save(tmp_path / "a.safetensors")
    again = sw.load(tmp_path / "a.safetensors", into=sw.demo.model())
    for model in (small, again):
        module = model.model
        assert isinstance(module, sw.demo.DigitNet)
        assert sw.evaluate(model, DIGITS).value == sw.evaluate(module, DIGITS).value
        with torch.no_grad():
            module.stem.weight[0, 0, 0, 0] += 1
        assert model.changed_tensor == "stem.weight"
        with pytest.raises(ModelError, match=r"'stem\.weight' of this CompressedModel's \.model has changed since"):
            sw.evaluate(model, DIGITS)
        with pytest.raises(ModelError, match=r"'stem\.weight' of this CompressedModel's \.model has changed since"):
            sw.compare_predictions(module, model, DIGITS)
        with pytest.raises(ModelError, match=r"'stem\.weight' of this CompressedModel's \.model has changed since"):
            sw.sensitivity(model, DIGITS, sparsity=0.5, layers="head", progress=False)
        assert sw.evaluate(module, DIGITS).provenance == "as given"


def test_what_was_transferred_is_scored_as_its_file_is() -> None:
    data = sw.demo.few(per_class=2)
    sparse = sw.transfer(sw.compress(sw.demo.model(), sparsity=0.9), data, epochs=1, progress=False)
    dense = sw.transfer(sw.demo.model(), data, epochs=1, progress=False)
    for result in (sparse, dense):
        result.model.get_parameter("head.bias").data += 1
    with pytest.raises(ModelError, match=r"'head\.bias' of this TransferResult's \.model has changed since"):
        sw.evaluate(sparse, DIGITS)
    assert sw.evaluate(dense, DIGITS).n == sw.evaluate(dense.model, DIGITS).n  # its file is made when it is saved


def test_data_to_recalibrate_on_that_holds_nan_is_told_apart_from_the_data_that_is_scored() -> None:
    images = torch.full((64, 1, 8, 8), torch.nan)
    with pytest.raises(DataError, match="recalibrate_batchnorm: batch 1: it holds NaN or infinite values: clean it"):
        sw.evaluate(sw.demo.model(), DIGITS, recalibrate_batchnorm=images)
