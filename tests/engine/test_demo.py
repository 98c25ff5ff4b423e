"""The demo model is small, really trained, and comes with the data it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from shrinkwidget import demo
from shrinkwidget.demo.write_weights import accuracy, augmented, train
from shrinkwidget.errors import DataError


def test_it_names_at_least_98_percent_of_the_held_out_digits() -> None:
    assert accuracy(demo.model()) >= 0.98


def test_its_weights_are_under_a_megabyte_and_float32() -> None:
    assert demo.WEIGHTS.stat().st_size < 1_000_000
    assert {p.dtype for p in demo.model().parameters()} == {torch.float32}
    assert sum(p.numel() for p in demo.model().parameters()) == 172_218


def test_every_call_gives_a_fresh_model_in_eval_mode() -> None:
    first, second = demo.model(), demo.model()
    with torch.no_grad():
        first.head.weight.zero_()
    assert second.head.weight.abs().sum() > 0
    assert not any(module.training for module in second.modules())


def test_the_splits_share_no_image_and_cover_all_digits() -> None:
    parts = {split: demo.data(split) for split in ("train", "valid", "test")}
    assert {split: tuple(images.shape) for split, (images, _) in parts.items()} == {
        "train": (1150, 1, 8, 8),
        "valid": (287, 1, 8, 8),
        "test": (360, 1, 8, 8),
    }
    for images, labels in parts.values():
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert images.max() == 1
        assert labels.dtype == torch.int64
        assert labels.bincount().min() >= 20
    every = torch.cat([images for images, _ in parts.values()]).flatten(1)
    assert len(every.unique(dim=0)) == 1797


def test_the_held_out_split_never_moves() -> None:
    _, labels = demo.data()
    assert labels[:12].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5, 2, 8]


def test_an_unknown_split_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="no split 'tests': take 'train', 'valid' or 'test'; did you mean 'test'"):
        demo.data("tests")  # type: ignore[arg-type]


def test_the_images_are_those_of_scikit_learn() -> None:
    digits = load_digits()
    splits = demo.data("test"), demo.data("valid"), demo.data("train")
    images, labels = (torch.cat(parts) for parts in zip(*splits, strict=True))
    order = np.random.RandomState(0).permutation(len(digits.target))
    assert np.array_equal(images[:, 0].numpy() * 16, digits.images[order])
    assert np.array_equal(labels.numpy(), digits.target[order])


def test_training_repeats_itself_from_the_seed() -> None:
    torch.manual_seed(5)  # whatever state the caller left
    first = train(epochs=1, batch_size=256).state_dict()
    again = train(epochs=1, batch_size=256).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_augmented_images_keep_their_shape_and_range() -> None:
    images, _ = demo.data("train")
    changed = augmented(images[:100])
    assert changed.shape == (100, 1, 8, 8)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert not torch.equal(changed, images[:100])
