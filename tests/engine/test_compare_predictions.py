"""What changes between two models is counted as by hand: misread examples, classes, confusions, and their images."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.errors import ArgumentError, DataError, ModelError
from shrinkwidget.evaluation.batches_predictions_and_labels import Batch
from shrinkwidget.evaluation.compare_predictions import PredictionRecorder, image_inputs
from shrinkwidget.evaluation.evaluate_and_metrics import ClassPredictions

IMAGES, LABELS = demo.data("test")
DENSE = demo.model()
SMALL = sw.compress(DENSE, sparsity=0.85, bits=4)


@torch.no_grad()
def predicted(model: Any) -> Tensor:
    out: Tensor = model(IMAGES).argmax(1)
    return out


NO_SCORE = sw.Score(0.0, 0.0, 0.0, n=0, total=0, metric="accuracy")
BEFORE, AFTER = predicted(DENSE), predicted(SMALL.model)


def test_misread_examples_are_those_that_were_right() -> None:
    found = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS))
    expected = ((BEFORE == LABELS) & (AFTER != LABELS)).nonzero()[:, 0]
    assert len(expected) > 20
    assert [example for example, _, _ in found.misread] == expected.tolist()
    assert [label for _, label, _ in found.misread] == LABELS[expected].tolist()
    assert [taken for _, _, taken in found.misread] == AFTER[expected].tolist()


def test_what_was_wrong_and_is_right_is_counted_as_fixed() -> None:
    back = sw.compare_predictions(SMALL, DENSE, (IMAGES, LABELS))
    forth = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS))
    assert back.fixed == len(forth.misread)
    assert len(back.misread) == forth.fixed == int(((BEFORE != LABELS) & (AFTER == LABELS)).sum())


def test_scores_are_those_of_evaluate_with_the_counts_of_classes() -> None:
    found = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS))
    assert found.before == sw.evaluate(DENSE, (IMAGES, LABELS))
    assert found.after == sw.evaluate(SMALL, (IMAGES, LABELS))
    for digit, (label, n, before, after) in enumerate(found.by_class):
        own = LABELS.eq(digit)
        assert (label, n) == (digit, int(own.sum()))
        assert before == pytest.approx(float((BEFORE[own] == digit).double().mean()))
        assert after == pytest.approx(float((AFTER[own] == digit).double().mean()))


def test_confusions_are_counted_before_and_after_and_the_grown_come_first() -> None:
    found = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS))
    counts = [
        Counter(zip(LABELS[wrong].tolist(), guess[wrong].tolist(), strict=True))
        for guess in (BEFORE, AFTER)
        for wrong in [guess != LABELS]
    ]
    pairs = {(a, b): (counts[0][a, b], counts[1][a, b]) for a, b in counts[0] | counts[1]}
    assert {(c.label, c.predicted): (c.before, c.after) for c in found.confusions} == pairs
    growth = [c.after - c.before for c in found.confusions]
    assert growth == sorted(growth, reverse=True)
    assert f"{found.confusions[0].label} as {found.confusions[0].predicted}" in repr(found)


def test_a_loader_gives_the_same_as_tensors_and_is_read_once() -> None:
    class Once(TensorDataset):
        reads = 0

        def __getitem__(self, index: Any) -> Any:
            Once.reads += 1
            return super().__getitem__(index)

    loader = DataLoader(Once(IMAGES, LABELS), batch_size=50)
    found, same = sw.compare_predictions(DENSE, SMALL, loader), sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS))
    assert Once.reads == 360
    assert (found.misread, found.confusions, found.after) == (same.misread, same.confusions, same.after)


def test_images_of_the_misread_are_held_at_most_so_many_drawn_by_the_seed() -> None:
    found = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), images=10)
    misread = [example for example, _, _ in found.misread]
    assert len(found.images) == 10
    assert set(found.images) < set(misread)
    assert all(torch.equal(image, IMAGES[example]) for example, image in found.images.items())
    assert set(found.images) != set(misread[:10])  # not the first ones: sorted data would show one class
    other = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), images=10, seed=1)
    assert set(other.images) != set(found.images)
    everything = sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), images=1000)
    assert list(everything.images) == misread
    assert sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), images=0).images == {}


def test_every_misread_image_is_as_likely_to_be_held() -> None:
    images, labels = torch.zeros(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)
    batches = [Batch((images,), {}, labels)] * 3
    drawn: Counter[int] = Counter()
    for seed in range(400):
        before = PredictionRecorder()
        after = PredictionRecorder(before, images=6, seed=seed)
        for batch in batches:
            before(batch, ClassPredictions(labels, labels, 2))
            after(batch, ClassPredictions(labels + 1, labels, 2))
        drawn.update(list(after.compared(NO_SCORE, NO_SCORE).images))
    assert sorted(drawn) == list(range(60))
    assert all(20 < count < 60 for count in drawn.values())  # 40 are expected, give or take three times six


@pytest.mark.parametrize(
    ("shape", "image"),
    [((5, 1, 8, 8), True), ((5, 3, 8, 9), True), ((5, 28, 28), True), ((5, 2, 8, 8), False), ((5, 3, 100), False),
     ((5, 64), False)],
)  # fmt: skip
def test_inputs_are_images_by_their_shape(shape: tuple[int, ...], image: bool) -> None:
    assert (image_inputs(Batch((torch.zeros(shape),), {}, LABELS[:5])) is not None) == image


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :10]


def test_inputs_that_are_no_images_are_compared_without_any() -> None:
    x = torch.randn(30, 12)
    shifted = nn.Sequential(Flat())
    shifted.register_forward_hook(lambda _module, _inputs, out: out.roll(1, 1))
    found = sw.compare_predictions(Flat(), shifted, (x, x[:, :10].argmax(1)))
    assert len(found.misread) == 30
    assert found.images == {}


def test_labels_that_are_ignored_count_nowhere() -> None:
    labels = LABELS.clone()
    labels[::2] = 255
    found = sw.compare_predictions(DENSE, SMALL, (IMAGES, labels), ignore_index=255)
    assert all(example % 2 for example, _, _ in found.misread)
    assert sum(change.n for change in found.by_class) == 180
    assert all(0 <= c.label < 10 for c in found.confusions)


def test_what_cannot_be_compared_is_refused_with_a_reason() -> None:
    pixels = torch.zeros(2, 10, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(DataError, match="each has one label and one predicted class, and this data has labels 2×4×4"):
        sw.compare_predictions(nn.Identity(), nn.Identity(), pixels)
    with pytest.raises(ArgumentError, match="images=-1"):
        sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), images=-1)
    with pytest.raises(ModelError, match="give an nn"):
        sw.compare_predictions(DENSE, "small", (IMAGES, LABELS))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="did you mean 'images'"):
        sw.compare_predictions(DENSE, SMALL, (IMAGES, LABELS), image=3)  # type: ignore[call-arg]
