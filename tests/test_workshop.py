"""The workshop: answers are judged, lessons run solved and unsolved, and a learner's work is never written over."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import LambdaType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from matplotlib import get_data_path
from nbclient import NotebookClient
from PIL import Image, ImageDraw, ImageFont

import shrinkwidget as sw
from shrinkwidget.__main__ import main
from shrinkwidget.workshop import lesson_files
from shrinkwidget.workshop.exercises import _EXERCISES

MATRIX = sw.workshop.matrix()
LOST = float((MATRIX[MATRIX.abs() < 0.45] ** 2).sum() / (MATRIX**2).sum())
SPARED = {"stem": sw.Keep, "head": sw.Keep}

ANSWERS: dict[str, dict[str, list[tuple[Any, str]]]] = {
    "1.1": {
        "right": [(2080, "a bias for every output")],
        "wrong": [(2048, "has a bias, too"), (2112, "not for every input"), (96, "multiply"), (1, "not yet")],
    },
    "1.2": {
        "right": [(8320, "4 bytes")],
        "wrong": [(2080, "how many numbers"), (66_560, "bits"), (1, "not yet")],
    },
    "1.3": {
        "right": [(4608, "every pair of channels")],
        "wrong": [
            (4640, "this one has none"),
            (288, "*pair*"),
            (144, "*pair*"),
            (512, "kernel of 3×3"),
            (7, "not yet"),
        ],
    },
    "1.4": {"right": [(4, "square")], "wrong": [(2, "*and*"), (8, "not yet"), (1, "not yet")]},
    "1.5": {
        "right": [(60, "60 wide: 62,")],
        "wrong": [(62, "too many"), (50, "so would a wider one"), (1, "so would a wider one"), (2.5, "found 2.5")],
    },
    "1.6": {
        "right": [(0.9999, "1,280,000 of 1,280,130")],
        "wrong": [(99.99, "percent"), (0.5, "not yet"), (0.9, "not yet")],
    },
    "1.7": {
        "right": [(45_625, "remember"), (45_670, "remember")],
        "wrong": [(625, "those are the vectors"), (40_000, "nine coefficients"), (64, "not yet")],
    },
    "1.8": {
        "right": [(180_000, "181,390 bytes"), (174_832, "181,390 bytes")],
        "wrong": [(1_450_000, "bits"), (699_328, "what factor"), (90_000, "what factor")],
    },
    "2.1": {
        "right": [
            (MATRIX.abs() > 0.45, "15 of 25"),
            ((MATRIX.abs() > 0.45).int().tolist(), "15 of 25"),
            ((MATRIX.abs() > 0.45).numpy(), "15 of 25"),
        ],
        "wrong": [
            (MATRIX.abs() < 0.45, "other way round"),
            (MATRIX > 0.45, "8 of the 25 weights are kept, and not 15"),
            (MATRIX.abs() >= 0.4, "17 of the 25 weights are kept"),
            (torch.arange(25).view(5, 5) >= 10, "smaller than some that are pruned"),
        ],
    },
    "2.2": {
        "right": [((2, 4), "row by row"), (torch.tensor([2, 4]), "row by row")],
        "wrong": [((4, 3), "comes before it"), ((0, 0), "pruned already"), ((2, 3), "not the smallest")],
    },
    "2.3": {
        "right": [(LOST, "3.7 %"), (torch.tensor(LOST), "3.7 %"), (0.0365, "3.7 %")],
        "wrong": [(100 * LOST, "percent"), (1 - LOST, "what remains"), (2.1 / 16.3, "take squares"), (0.2, "not yet")],
    },
    "2.4": {
        "right": [(0.8, "95.8%"), (0.82, "edge is less than 3 points away")],
        "wrong": [(0.5, "the edge is higher"), (0.9, "the edge is lower"), (0.0, "higher"), (1, "lower")],
    },
    "2.5": {
        "right": [({0, 2, 4}, "no image at all"), (torch.tensor([4, 2, 0]), "no image at all")],
        "wrong": [
            ({0, 2, 4, 6}, "6 is its answer"),
            ([0], "2 more are never"),
            ([0, 2], "1 more is never"),
            ([], "3 more"),
        ],
    },
    "2.6": {
        "right": [(["stem", "head"], "half a per cent"), (("head.weight", "stem.weight"), "half a per cent")],
        "wrong": [
            (["stem", "stage1.0.conv1"], "one of them is right"),
            (["stage2.0.conv1", "stage1.0.conv1"], "neither is"),
            (["stem"], "not 1"),
            (["conv1", "head"], "no layer 'conv1'"),
        ],
    },
    "2.7": {
        "right": [(sw.Recipe(sparsity=0.8, layers=SPARED), "169,532 bytes")],
        "wrong": [
            (sw.Recipe(sparsity=0.8), "images short"),
            (sw.Recipe(sparsity=0.79), "3,926 bytes too many"),
            (sw.Recipe(sparsity=0.6, scope="layer"), "neither is there yet"),
            (sw.Recipe(sparsity=0.8, bits=4), "fewer bits"),
            (sw.Recipe(sparsity=0.8, layers={"stem": {"bits": 8}}), "fewer bits"),
            (sw.Recipe(layers={"conv1": sw.Keep}), "matches no layer"),
        ],
    },
    "2.8": {
        "right": [(1 / 32, "a bit for each"), (0.0313, "a bit for each")],
        "wrong": [(3.125, "percent"), (31 / 32, "kept there"), (0.5, "list of indices"), (0.1, "not yet")],
    },
}
ANSWERS |= {
    "3.1": {
        "right": [(0.7, "largest code"), (MATRIX[2].abs().max() / 3, "largest code")],
        "wrong": [(-0.7, "no sign"), (2.1 / 4, "not at 4"), (2.1 / 8, "6 steps"), (1.0, "stand for 3.00")],
    },
    "3.2": {
        "right": [([1, 0, 0, -3, 1], "two of five"), ((MATRIX[2] / 0.7).round(), "two of five")],
        "wrong": [
            ([1, 0, 0, -3, 0], "cut off"),
            ([1, 0, 0, 3, 1], "mind the signs"),
            ([0.9, 0, 0, -3, 1], "whole numbers"),
            ([1, 0, 0, -4, 1], "hold -3 to 3"),
            ([2, -1, 0, -3, 1], "2 of the 5"),
        ],
    },
    "3.3": {
        "right": [(15.146, "33 times"), (15.1, "33 times")],
        "wrong": [
            (32.7, "that is the ratio"),
            (-15.15, "other way round"),
            (30.3, "twenty"),
            (34.9, "base 10"),
        ],
    },
    "3.4": {
        "right": [(6, "10 · log10 4"), (6.02, "a quarter of its square")],
        "wrong": [(3, "it is squares that count"), (10, "not 10"), (1, "twice as many steps")],
    },
    "3.5": {
        "right": [((9, 0.63), "one multiplication"), (torch.tensor([9, 0.63]), "one multiplication")],
        "wrong": [((9, 6.3), "inputs have a scale"), ((9, 0.9), "both scales"), ((12, 0.84), "no scale yet")],
    },
    "3.6": {
        "right": [(4.5, "a 32nd of 16")],
        "wrong": [(20, "shared"), (0.5625, "in bytes"), (4, "its share of the scale")],
    },
    "3.7": {
        "right": [("absmax", "not the least harm"), ("ABSMAX", "5.5 dB and 284")],
        "wrong": [("mse", "does more harm"), ("MSE", "9.0 dB and 253"), ("auto", "expected 'mse' or 'absmax'")],
    },
    "3.8": {
        "right": [
            (sw.Recipe(bits=2, layers={"stem": sw.Keep, "stage1*": {"bits": 3}}), "54,156 bytes, and 287"),
            (sw.Recipe(bits=2, clipping="absmax"), "52,512 bytes, and 284"),
        ],
        "wrong": [
            (sw.Recipe(bits=2), "31 images short"),
            (sw.Recipe(bits=3), "bytes too many"),
            (sw.Recipe(sparsity=0.8, bits=4), "prunes weights"),
        ],
    },
}
ANSWERS |= {
    "4.1": {
        "right": [((2.5, 1.25), "still believes"), (torch.tensor([2.5, 1.25]), "still believes")],
        "wrong": [((5, 5), "is another"), ((2.5, 1.6667), "n - 1"), ((2.5, 1.118), "deviation"), ((2.5, 3), "squared")],
    },
    "4.2": {
        "right": [(1.342, "does not notice")],
        "wrong": [(-0.447, "old statistics"), (1.2, "square root"), (4, "not yet")],
    },
    "4.3": {
        "right": [(0.99, "measured again")],
        "wrong": [(0.5, "Did you expect"), (0.9, "Did you expect"), (99, "percent")],
    },
    "4.4": {
        "right": [((0.1, 0.01, 0.001), "fine-tuning goes on at the last")],
        "wrong": [((0.1, 0.1, 0.01), "epoch 6"), ((0.1, 0.01, 0.01), "epoch 9"), ((0.01, 0.01, 0.001), "epoch 2")],
    },
    "4.5": {
        "right": [(11, "9.3 times")],
        "wrong": [
            (10, "10.7% remain"),
            (5, "of what remains"),
            (3, "51.2%"),
            (1e9, "expected a whole number"),
            (-2, "expected"),
        ],
    },
    "4.6": {
        "right": [(37_950, "without labels")],
        "wrong": [(3450, "one round"), (12_650, "3 epochs"), (33, "rounds times epochs")],
    },
    "4.7": {
        "right": [
            (lambda: sw.retrain(small(bits=4), sw.demo.data("train"), method="recalibrate_batchnorm"), "39,621 bytes")
        ],
        "wrong": [
            (lambda: small(bits=4), "images short"),
            (lambda: small(), "98,554 bytes, and 143 of 287 images right: neither"),
            (lambda: sw.compress(sw.demo.model().state_dict(), 0.9, bits=4), "no module"),
        ],
    },
    "4.8": {
        "right": [(1825, "2.5 points"), (1_800, "2.5 points")],
        "wrong": [(475, "one standard error"), (7299, "either"), (287, "Which n")],
    },
}
DRAWINGS = """
..####.. ...##... ..####.. .#####.. ....#+..
.##..##. ..###... .##..##. .....##. ...##...
.#....#. .####... .....##. .....##. ..##....
##....## ...##... ....##.. ..####.. .##..#..
##....## ...##... ...##... .....##. ##..##..
.#....#. ...##... ..##.... ......## ########
.##..##. ...##... .##..... .##..##. ....##..
..####.. ...##... .######. ..####.. ....##..

.######. ....##.. .######. ..####.. ..####..
.##..... ..###... .....##. .##..##. .##..##.
.##..... .##..... .....##. .##..##. .##..##.
.#####.. .#####.. ....##.. ..####.. ..#####.
.....##. .##..##. ..####.. .##..##. .....##.
.....##. .##..##. ...##... .##..##. .....##.
.##..##. .##..##. ..##.... .##..##. ....##..
..####.. ..####.. ..##.... ..####.. ..##....
"""
TEN = sw.workshop.drawn(DRAWINGS)
UPDATE = [[1.0, 0.0, -2.0], [2.0, 0.0, -4.0]]

ANSWERS |= {
    "5.1": {
        "right": [(0.7, "guessing would be 10 %")],
        "wrong": [(0.1, "more than you thought"), (0.99, "further from handwriting"), (70, "percent")],
    },
    "5.2": {
        "right": [(650, "fifty images")],
        "wrong": [(640, "has a bias, too"), (704, "not for every input"), (172_218, "only the head"), (64, "not yet")],
    },
    "5.3": {
        "right": [(UPDATE, "all rows are multiples"), (torch.tensor(UPDATE), "all rows are multiples")],
        "wrong": [
            ([[0.5, 0, -1], [1, 0, -2]], "factor α / r is missing"),
            ([[0.25, 0, -0.5], [0.5, 0, -1]], "not r / α"),
            ([[1, 0, 2], [2, 0, 4]], "mind the signs"),
            ([[1, 0, -2], [0, 0, 0]], "2 of 6 are not right"),
            ([[1, 2], [0, 0], [-2, -4]], "found one of shape [3, 2]"),
        ],
    },
    "5.4": {
        "right": [(2560, "14 times fewer")],
        "wrong": [
            (36_864, "stays as it is"),
            (256, "one of the two"),
            (2304, "one of the two"),
            (640, "rank 1"),
            (512, "64 · 3 · 3 columns"),
            (1, "not yet"),
        ],
    },
    "5.5": {
        "right": [(300, "counts it exactly")],
        "wrong": [(100, "three times"), (15_000, "features of 50"), (1 / 300, "other way round"), (50, "not yet")],
    },
    "5.6": {
        "right": [((2.8, 0.85), "Three seeds are few"), (torch.tensor([2.8, 0.8544]), "from -0.9 to 6.5")],
        "wrong": [
            ((0.028, 0.0085), "give points"),
            ((-2.8, 0.85), "other way round"),
            ((2.1, 0.85), "mean of the three"),
            ((2.8, 1.48), "deviation of one difference"),
            ((2.8, 0.70), "n − 1"),
            ((2.8, 3), "over √3"),
        ],
    },
    "5.7": {
        "right": [(TEN, "reads 10"), (TEN.tolist(), "reads 10")],
        "wrong": [
            (255 * TEN, "yours from 0 to 255"),
            (1 - TEN, "Ink is 1, and paper is 0"),
            (TEN * (torch.arange(10) != 4).view(10, 1, 1, 1), "drawing 4 has no ink"),
            (TEN[[0, 1, 2, 3, 4, 5, 6, 7, 8, 1]], "drawings 1 and 9 are the same"),
            (sw.demo.data("test")[0][:10], "draw your own"),
            (TEN[:9], "found one of shape [9, 1, 8, 8]"),
            (TEN[:, 0], "found one of shape [10, 8, 8]"),
        ],
    },
    "5.8": {
        "right": [(lambda: transferred(sw.demo.few(5), sparsity=0.8, bits=4), "48,918 bytes, and 239 of 287")],
        "wrong": [
            (lambda: transferred(sw.demo.few(5), sparsity=0.8), "bytes too many"),
            (lambda: transferred(sw.demo.few(5), sparsity=0.95, bits=2), "images short. Does more"),
            (lambda: transferred(sw.demo.few(20), sparsity=0.8, bits=4, epochs=1), "from 200 images: 50 have labels"),
            (lambda: transferred(sw.demo.few(5), epochs=1), "a dense network"),
            (lambda: small(bits=4), "give what sw.transfer returns"),
        ],
    },
    "5.9": {
        "right": [(0.53, "a coin gets 50 %")],
        "wrong": [(0.9, "Did you expect"), (0.75, "Did you expect"), (55, "percent")],
    },
}
ANSWERS |= {
    "6.1": {
        "right": [(31_152, "the budget")],
        "wrong": [
            (29_616, "64 KiB are not 64 kB"),
            (47_536, "*and*"),
            (49_152, "*and*"),
            (65_536, "some of it is taken"),
            (1, "not yet"),
        ],
    },
    "6.2": {
        "right": [(692_688, "zeros too")],
        "wrong": [
            (688_872, "statistics"),
            (173_172, "how many numbers"),
            (69_269, "plain float32"),
            (39_621, "that is the file"),
            (1, "not yet"),
        ],
    },
    "6.3": {
        "right": [(12_288, "without shortcuts")],
        "wrong": [(8192, "shortcut"), (4096, "one of them"), (3072, "4 bytes"), (1, "not yet")],
    },
    "6.4": {
        "right": [((11, 5), "the file fits 11 of 12"), ((10, 4), "5 of them")],
        "wrong": [
            ((12, 12), "further off"),
            ((11, 11), "further off"),
            ((5, 11), "cannot be larger"),
            ((13, 1), "found"),
        ],
    },
    "6.5": {
        "right": [({"A", "B", "D", "F"}, "best one can have"), ("abdf", "best one can have"), ("A, B, D, F", "best")],
        "wrong": [
            ({"A", "B", "C", "D", "F"}, "C is beaten"),
            (["D", "E"], "E is beaten"),
            ({"A", "D"}, "2 more are"),
            (["A", "B", "D"], "1 more is"),
            ("H", "expected the letters"),
        ],
    },
    "6.6": {
        "right": [(0.9724, "2.2 points too good"), (0.973, "report on test")],
        "wrong": [(0.95, "*because*"), (97.2, "percent"), (1, "none of twenty"), (0.96, "not yet")],
    },
    "6.7": {
        "right": [(lambda: shipped(), "30,313 bytes")],
        "wrong": [
            (lambda: small(bits=4, uncompressed_bits=16), "neither is there yet. What in the file"),
            (lambda: sw.compress(sw.demo.model(), 0.93, bits=2, uncompressed_bits=16), "Batch norm first"),
            (lambda: sw.compress(sw.demo.model(), 0.5, bits=4), "bytes too many"),
            (lambda: sw.compress(sw.demo.model().state_dict(), 0.93, bits=2), "no module"),
        ],
    },
    "6.8": {
        "right": [(23.3, "weigh them"), (699_328 / 30_000, "weigh them")],
        "wrong": [
            (30_000 / 699_328, "other way round"),
            (95.7, "as a share"),
            (688_872 / 30_000, "weights against a file"),
            (20, "from the sparsity"),
            (10, "not yet"),
        ],
    },
}


@cache
def reader_of_print() -> torch.nn.Module:
    return sw.demo.pretrained(10_000)


def transferred(few: tuple[torch.Tensor, torch.Tensor], epochs: int = 100, **fields: Any) -> sw.results.TransferResult:
    model = sw.compress(reader_of_print(), **fields) if fields else reader_of_print()
    return sw.transfer(model, few, epochs=epochs, progress=False)


def shipped() -> sw.CompressedModel:
    found, train = sw.compress(sw.demo.model(), 0.93, bits=2, uncompressed_bits=16), sw.demo.data("train")
    found = sw.retrain(found, train, method="recalibrate_batchnorm", progress=False)
    return sw.retrain(found, train, epochs=3, lr=0.01, progress=False)


def small(**fields: Any) -> sw.CompressedModel:
    return sw.compress(sw.demo.model(), sparsity=0.9, **fields)


NONSENSE = [object(), "a lot", float("nan"), {"a": 1}, [[1]], torch.zeros(3, 3, 3), 1j, lambda: 0]


@pytest.mark.parametrize("exercise", ANSWERS)
def test_right_answers_pass_and_wrong_ones_are_told_what_is_off(exercise: str) -> None:
    for kind, answers in ANSWERS[exercise].items():
        for answer, told in answers:
            verdict = sw.workshop.check(exercise, answer() if isinstance(answer, LambdaType) else answer)
            assert bool(verdict) is (kind == "right"), verdict
            assert told in verdict.message
    assert len(ANSWERS[exercise]["wrong"]) >= 3


@pytest.mark.parametrize("exercise", ANSWERS)
def test_nonsense_is_told_what_was_expected_and_no_answer_is_none(exercise: str) -> None:
    for answer in NONSENSE:
        verdict = sw.workshop.check(exercise, answer)
        assert not verdict, answer
        assert len(verdict.message) > 20
    for answer in (None, ...):
        assert sw.workshop.check(exercise, answer).message == "no answer yet"


def test_drawings_become_images_and_what_is_none_is_said_by_line() -> None:
    assert TEN.shape == (10, 1, 8, 8)
    assert sorted(TEN.unique().tolist()) == [0.0, 0.5, 1.0]
    assert TEN[1, 0, :, 3].tolist() == [1.0] * 8
    assert torch.equal(sw.workshop.drawn("\n\n".join(DRAWINGS.strip().split("\n\n")[::-1]))[:5], TEN[5:])
    one = "........\n" * 8
    for text, told in {
        "": "nothing drawn",
        one + "........": "have 9 lines",
        one.replace("........\n", ".......\n", 1): r"line 1 of drawing 0 is '\.{7}'",
        one.replace(".\n", "x\n", 1): "it takes eight of",
        one.replace("\n", " ........\n", 1): "not as many in every line",
    }.items():
        with pytest.raises(sw.errors.DataError, match=told):
            sw.workshop.drawn(text)


def test_photographs_in_uneven_light_are_read(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    font = ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans-Oblique.ttf", 300)
    light = np.linspace(1, 0.55, 800)  # a lamp on the left
    for digit in range(10):
        paper = Image.new("L", (800, 600), 225)
        ImageDraw.Draw(paper).text((100 + 40 * digit, 120), str(digit), font=font, fill=60)
        taken = np.asarray(paper) * light + 6 * rng.randn(600, 800)
        Image.fromarray(taken.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{digit}.jpg")
    images, labels = sw.workshop.photographed(tmp_path)
    assert labels.tolist() == list(range(10))
    assert ((images >= 0) & (images <= 1)).all()
    assert images.amax(dim=(1, 3)).gt(0.1).all(), "a digit is as high as its image"
    assert reader_of_print()(images).argmax(1).tolist() == list(range(10))


def test_what_is_no_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(sw.errors.DataError, match="no photograph in"):
        sw.workshop.photographed(tmp_path)
    Image.new("L", (40, 40), 230).save(tmp_path / "4.png")
    with pytest.raises(sw.errors.DataError, match=r"4\.png' shows no dark digit"):
        sw.workshop.photographed(tmp_path)
    (tmp_path / "4.png").write_bytes(b"not a picture")
    with pytest.raises(sw.errors.DataError, match="no picture that can be read"):
        sw.workshop.photographed(tmp_path)


def test_thick_pens_have_more_ink_than_thin_ones_and_a_seed_draws_the_same() -> None:
    images, labels = sw.workshop.thick_or_thin("valid")
    assert torch.equal(images, sw.demo.data("valid")[0])
    ink = images.mean((1, 2, 3))
    assert ink[labels == 1].min() > ink[labels == 0].max()
    few, again, other = (sw.workshop.thick_or_thin("train", 25, seed) for seed in (1, 1, 2))
    assert few[1].bincount().tolist() == [25, 25]
    assert torch.equal(few[0], again[0])
    assert not torch.equal(few[0], other[0])


def test_every_exercise_is_tested_and_stands_in_its_lesson() -> None:
    assert list(ANSWERS) == sorted(_EXERCISES)
    text = "".join(path.read_text(encoding="utf-8") for path in lesson_files._notebooks())
    for exercise in ANSWERS:
        assert f"**Exercise {exercise}.**" in text
        assert f'check(\\"{exercise}\\"' in text
    with pytest.raises(sw.errors.ArgumentError, match=r"no exercise '2.9'.*The exercises: 1.1, 1.2"):
        sw.workshop.check("2.9", 1)


def test_a_class_is_graded_without_a_widget() -> None:
    grades = sw.workshop.grade({"2.1": MATRIX.abs() > 0.45, "2.2": (0, 0)}, lesson=2)
    assert (grades.passed, len(grades.verdicts)) == (1, 8)
    assert repr(grades).startswith("1 of 8 right\n✓ 2.1:")
    with pytest.raises(sw.errors.ArgumentError, match="lesson 9 has no exercises"):
        sw.workshop.grade({}, lesson=9)


def test_a_verdict_is_text_and_not_markup() -> None:
    verdict = sw.workshop.check("2.6", ["<b>stem</b>", "head"])
    assert "<b>stem</b>" in repr(verdict)
    assert "&lt;b&gt;stem" in verdict._repr_html_()


CLAIMS: dict[str, dict[str, str]] = {
    "2-pruning.ipynb": {
        "one image in two is read, and some digits never": (
            "0.4 < sw.evaluate(pruned, valid).value < 0.6 and len(never) == 3"
        ),
        "no layer minds more than the two that are spared": "{r.label for r in alone.ranked[:2]} == {'stem', 'head'}",
    },
    "3-fewer-bits.ipynb": {
        "the grid with less error does more harm": (
            "sw.evaluate(sw.compress(model, recipes['mse']), valid).high"
            " < sw.evaluate(sw.compress(model, recipes['absmax']), valid).low"
        ),
    },
    "4-getting-it-back.ipynb": {
        "batch norm brings most of it back": (
            "sw.evaluate(pruned, valid).high < 0.7 < 0.9 < sw.evaluate(again, valid).low"
        ),
        "far beyond a tenth of the weights fine-tuning cannot keep up with rewinding": (
            "runs['learning rate rewound'].points[-1]['test']['low'] > runs['fine-tuned'].points[-1]['test']['high']"
        ),
        "down to a tenth both ways do": (
            "all(run.points[2]['sparsity'] > 0.87 and run.points[2]['test']['value'] > 0.98 for run in runs.values())"
        ),
    },
    "5-transfer.ipynb": {
        "it reads print": "sw.evaluate(reader, sw.demo.printed_digits(1_000, seed=1)).low > 0.98",
        "five labels: transfer is ahead of scratch, seed by seed": (
            "all(a.value > b.value for a, b in zip(scores['all fine-tuned'][5], scores['from scratch'][5]))"
        ),
        "twenty: scratch has caught up": (
            "abs(sum(s.value for s in scores['all fine-tuned'][20])"
            " - sum(s.value for s in scores['from scratch'][20])) < 0.06"
        ),
        "the probe computes hundreds of times less": "200 < scratch.cost.macs / probe.cost.macs",
        "ten images of one hand do not help to read others": (
            "sw.evaluate(readers['print, then your ten'], valid).value < sw.evaluate(reader, valid).value"
        ),
        "on the sparse network the probe is ahead with every seed, on the dense one it is not": (
            "all(a.value > b.value for a, b in zip(sparse['linear probe'], sparse['all fine-tuned']))"
            " and not all(a.value > b.value for a, b in zip(scores['linear probe'][5], scores['all fine-tuned'][5]))"
        ),
        "print does not help to tell pens, with any seed": (
            "all(s.value > max(p.value, t.value) + 0.05 for p, t, s in zip(*told.values()))"
        ),
        "one number tells them": "min(by_ink) > 0.95",
        "it is not in the features": (
            "sw.evaluate(everything.model, pens).high < sw.evaluate(digits.model, valid).low"
        ),
    },
    "6-shipping-it.ipynb": {
        "memory is that of the dense network": "sw.fits(small, example).ram_bytes == sw.fits(model, example).ram_bytes",
        "the file fits every device's flash": "all(row.flash.fits for row in sw.fits(small, example).rows)",
        "what no recipe touches takes a fifth": (
            "0.15 < sw.compress(model, 0.93, bits=2).parts()['uncompressed'] / small.nbytes < 0.3"
        ),
        "twenty times smaller is true": "size / small.nbytes > 20",
        "chosen on validation, the small one is not told from the dense one on test": (
            "final['small'][1].high > final['dense'][1].low"
        ),
    },
}
"""What the text of a solved lesson says, each as an expression over its variables that holds at its end."""


# One epoch of every training: what a lesson says is held to its solved notebook, which trains as long as it says.
SHORT = """import functools
import shrinkwidget as sw

def short(train):
    @functools.wraps(train)
    def shortened(*args, **fields):
        try:
            return train(*args, **fields | {"epochs": 1})
        except sw.errors.TrainingError:  # of a method that counts no epochs
            return train(*args, **fields)
    return shortened

for name in ("retrain", "prune_and_retrain", "transfer"):
    setattr(sw, name, short(getattr(sw, name)))
sw.demo.pretrained = lambda *_, trained=sw.demo.pretrained: trained(500, 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("solved", [True, False], ids=["solved", "open"])
@pytest.mark.parametrize("lesson", [lesson.file for lesson in sw.workshop.lessons()])
def test_a_lesson_runs_from_top_to_bottom(lesson: str, solved: bool, tmp_path: Path) -> None:
    sw.workshop.copy_lessons(tmp_path, solutions=True)
    folder = tmp_path / "solutions" if solved else tmp_path
    book = nbformat.read(folder / lesson, as_version=4)
    claims = CLAIMS.get(lesson, {}) if solved else {}
    held = ", ".join(f"{claim!r}: bool({expression})" for claim, expression in claims.items())
    if not solved:
        book.cells.insert(0, nbformat.v4.new_code_cell(SHORT))
    book.cells.append(nbformat.v4.new_code_cell(f"import json\n\nprint(json.dumps({{{held}}}))"))
    NotebookClient(book, timeout=180, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    told = "".join(output.text for output in book.cells[-1].outputs)  # a stream may come in pieces
    assert [claim for claim, holds in json.loads(told).items() if not holds] == []
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    said = [output.data["text/plain"] for output in outputs if "data" in output]
    verdicts = [text for text in said if text[:1] in "✓✗"]
    assert len(verdicts) == sum(number.startswith(lesson[0]) for number in ANSWERS)
    assert all(text.startswith("✓") if solved else text.endswith("no answer yet") for text in verdicts), verdicts


def test_a_lesson_is_committed_clean_with_its_exercises_open_for_learners(tmp_path: Path) -> None:
    sw.workshop.copy_lessons(tmp_path, solutions=True)
    for path in lesson_files._notebooks():
        solved, given = (nbformat.read(p, as_version=4) for p in (path, tmp_path / path.name))
        nbformat.validate(given)
        assert [cell.id for cell in solved.cells if cell.get("outputs") or cell.get("execution_count")] == []
        exercises = [cell for cell in solved.cells if "shrinkwidget" in cell.metadata]
        assert len(exercises) == sum(number.startswith(path.name[0]) for number in ANSWERS)
        text = "\n".join(cell.source for cell in given.cells)
        for cell in exercises:
            assert cell.source not in text
            assert "..." in cell.metadata["shrinkwidget"]["learner"]


def test_what_a_learner_has_changed_is_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "2-pruning.ipynb"
    assert f"{name}: new" in sw.workshop.copy_lessons(tmp_path)
    assert f"{name}: there already" in sw.workshop.copy_lessons(tmp_path)
    untouched = (tmp_path / name).read_text(encoding="utf-8")

    lessons = tmp_path / "newer"
    lessons.mkdir()
    book = nbformat.read(lesson_files._LESSONS / name, as_version=4)
    book.cells[0].source += "\n\nNew."
    nbformat.write(book, lessons / name)
    monkeypatch.setattr(lesson_files, "_LESSONS", lessons)
    assert sw.workshop.copy_lessons(tmp_path) == [f"{name}: brought up to date; the lesson has 1 new or changed cells"]

    mine = nbformat.read(tmp_path / name, as_version=4)
    mine.cells[1].source = "my_work = 1"
    nbformat.write(mine, tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert sw.workshop.copy_lessons(tmp_path) == [f"{name}: kept as you have it; the lesson has not changed since"]
    book.cells[0].source += " Newer."
    nbformat.write(book, lessons / name)
    told = sw.workshop.copy_lessons(tmp_path)
    assert told == [f"{name}: kept as you have it; the lesson has 1 new or changed cells: rename yours to get them"]
    assert (tmp_path / name).read_bytes() == before != untouched.encode()

    (tmp_path / name).write_text("not a notebook", encoding="utf-8")
    assert sw.workshop.copy_lessons(tmp_path) == [f"{name}: kept: it is no notebook that can be read"]
    assert (tmp_path / name).read_text(encoding="utf-8") == "not a notebook"


def autograded(release: Any, submitted: Any, folder: Path) -> dict[str, float]:
    """Grade a submission as nbgrader does: put locked cells back, run all, and give points where none failed."""
    locked = {
        cell.metadata.nbgrader.grade_id: cell
        for cell in release.cells
        if cell.metadata.get("nbgrader", {}).get("locked")
    }
    for cell in submitted.cells:
        if about := cell.metadata.get("nbgrader"):
            cell.source = locked[about.grade_id].source
    NotebookClient(
        submitted, timeout=180, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": folder}}
    ).execute()
    graded = [cell for cell in submitted.cells if cell.metadata.get("nbgrader", {}).get("grade")]
    failed = {cell.id for cell in graded if any(output.output_type == "error" for output in cell.outputs)}
    return {
        cell.metadata.nbgrader.grade_id: 0 if cell.id in failed else cell.metadata.nbgrader.points for cell in graded
    }


@pytest.mark.slow
def test_a_submission_is_graded_as_nbgrader_would_without_a_widget(tmp_path: Path) -> None:
    told = sw.workshop.copy_lessons(tmp_path, nbgrader=True)
    assert "source/2-pruning/2-pruning.ipynb: new" in told
    release = nbformat.read(tmp_path / "source/2-pruning/2-pruning.ipynb", as_version=4)
    nbformat.validate(release)
    solved = nbformat.read(lesson_files._LESSONS / "2-pruning.ipynb", as_version=4)
    solutions = {cell.id: cell.source for cell in solved.cells}
    assert not any(cell.source in solutions.values() for cell in release.cells if "nbgrader" in cell.metadata)

    submitted = copy.deepcopy(release)
    for cell in submitted.cells:
        cell.source = solutions.get(cell.id, "pass  # the learner made the test harmless")
        if "weights.abs() > 0.45" in cell.source:
            cell.source = cell.source.replace("weights.abs() > 0.45", "weights > 0.45")  # the usual mistake
        if "my_guess = " in cell.source:
            cell.source = "raise RuntimeError('a learner gave up here')"
    points = autograded(release, submitted, tmp_path)
    assert len(points) == 8
    wrong = {grade_id for grade_id, given in points.items() if given == 0}
    # 2.1 is wrong, 2.3 follows from it, 2.4 was never answered
    assert wrong == {f"pruning-{cell}-graded" for cell in ("05", "09", "11")}
    message = next(c for c in submitted.cells if c.id == "pruning-05-graded").outputs[-1].evalue
    assert "8 of the 25 weights are kept" in message


def test_running_a_lesson_is_no_change(tmp_path: Path) -> None:
    sw.workshop.copy_lessons(tmp_path)
    path = tmp_path / "2-pruning.ipynb"
    book = json.loads(path.read_text(encoding="utf-8"))
    book["cells"][1]["execution_count"] = 1
    book["cells"][1]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": "hello"}]
    book["cells"][1]["source"] = book["cells"][1]["source"].splitlines(keepends=True)  # as JupyterLab writes it
    path.write_text(json.dumps(book), encoding="utf-8")
    assert "2-pruning.ipynb: there already" in sw.workshop.copy_lessons(tmp_path)


def test_the_command_lists_copies_and_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workshop", "--list"]) == 0
    assert "2-pruning.ipynb" in capsys.readouterr().out
    assert main(["workshop", str(tmp_path / "here"), "--no-jupyter", "--solutions"]) == 0
    assert len(list((tmp_path / "here").rglob("*.ipynb"))) == 2 * len(sw.workshop.lessons())
    assert main(["workshop", str(tmp_path / "course"), "--nbgrader"]) == 0
    assert len(list((tmp_path / "course" / "source").glob("*/*.ipynb"))) == len(sw.workshop.lessons()) == 6
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert main(["workshop", str(tmp_path / "file"), "--no-jupyter"]) == 1
    assert "cannot make the folder" in capsys.readouterr().err


def test_the_command_leads_to_the_first_lesson_in_jupyterlab(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shrinkwidget", "workshop", str(tmp_path / "lessons"), "--no-browser"]
    env = os.environ | {"JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path), "COLUMNS": "200"}
    with subprocess.Popen(
        command, env=env, text=True, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout)
            assert next(lines) == "1-what-a-model-weighs.ipynb: new\n"
            address = next(line for line in lines if "http://" in line)
            assert "/lab/tree/1-what-a-model-weighs.ipynb" in address
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_the_command_is_there_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "shrinkwidget", "--version"], capture_output=True, text=True)
    assert done.stdout == f"shrinkwidget {sw.__version__}\n"
