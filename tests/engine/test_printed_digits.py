"""Printed digits are drawn from fonts, as many as wanted, and what they teach helps with handwritten ones."""

from __future__ import annotations

import sys

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.demo.draw_printed_digits import _templates
from shrinkwidget.errors import DataError


def test_they_look_like_the_demos_digits() -> None:
    images, labels = demo.printed_digits(3000)
    handwritten, _ = demo.data("train")
    assert images.shape == (3000, 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert 0 <= float(images.min()) < float(images.max()) <= 1
    assert labels.bincount().min() > 200
    assert float(images.mean()) == pytest.approx(float(handwritten.mean()), abs=0.1)
    assert len(images.flatten(1).unique(dim=0)) == 3000


def test_a_seed_draws_the_same_digits_and_leaves_chance_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (demo.printed_digits(50, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_digit_looks_like_itself_in_every_font() -> None:
    images, labels = demo.printed_digits(4000)
    handwritten, theirs = demo.data("train")
    means = torch.stack([images[labels == digit].mean(0).flatten() for digit in range(10)])
    written = torch.stack([handwritten[theirs == digit].mean(0).flatten() for digit in range(10)])
    nearest = torch.cdist(means - means.mean(0), written - written.mean(0)).argmin(1)
    assert int((nearest == torch.arange(10)).sum()) >= 7


def test_a_few_of_every_class_are_drawn_from_the_training_split() -> None:
    images, labels = demo.few(5, seed=3)
    assert labels.bincount().tolist() == [5] * 10
    train = {tuple(x.tolist()) for x in demo.data("train")[0].flatten(1)}
    assert all(tuple(x.tolist()) in train for x in images.flatten(1))
    assert torch.equal(images, demo.few(5, seed=3)[0])
    assert not torch.equal(images, demo.few(5, seed=4)[0])


@pytest.mark.parametrize("ask", [lambda: demo.printed_digits(0), lambda: demo.few(0), lambda: demo.few(1000)])
def test_too_many_or_none_are_refused(ask: object) -> None:
    refusals = r"^printed_digits\(0\): expected how many|there are 1 to \d+ images of every digit"
    with pytest.raises(DataError, match=refusals):
        ask()  # type: ignore[operator]


def test_five_handwritten_images_of_each_class_are_enough_after_printed_ones() -> None:
    before = torch.get_rng_state()
    network = demo.pretrained(2000, epochs=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
    done = sw.transfer(
        network,
        demo.few(5),
        strategy=sw.methods.LinearProbe(epochs=50),
        baseline=sw.methods.Schedule(20, lr=0.05, decay="cosine"),
    )
    assert done.baseline is not None
    gain = sw.evaluate(done.model, demo.data()).value - sw.evaluate(done.baseline.model, demo.data()).value
    assert gain > 0.1


def test_drawing_takes_no_pyplot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    _templates.cache_clear()
    assert len(demo.printed_digits(5)[0]) == 5
