"""Numbers, intervals and recipes in words: what the page, the snapshots and the tips say alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.sketch import sketch
from shrinkwidget.figures.numbers_and_recipes_as_text import compared_size_text, interval_text, recipe_label

VECTORS = Path(__file__).parents[1] / "vectors"


@pytest.mark.parametrize(
    "ratio, words",
    [(14.86, "14.9× smaller"), (152 / 558, "3.67× larger"), (0.998, "as large"), (1.004, "as large")],
)
def test_a_file_is_smaller_larger_or_as_large(ratio: float, words: str) -> None:
    assert compared_size_text(ratio) == words


@pytest.mark.parametrize(
    "percent, low, high, words",
    [
        (True, 0.984, 1.0, "98.4–100.0\u202f%"),
        (False, 0.12345, 0.5, "0.1235–0.5"),
        (False, -0.25, 0.5, "-0.25 to 0.5"),
        (True, None, 1.0, ""),
        (True, float("nan"), 1.0, ""),
    ],
)
def test_an_interval_is_written_as_it_was_computed(percent: bool, low: float, high: float, words: str) -> None:
    assert interval_text(low, high, percent) == words


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.json")), ids=lambda file: file.stem)
def test_two_recipes_never_share_a_label(file: Path) -> None:
    cases = json.loads(file.read_text())["cases"]
    recipes = {case["recipe"]: sw.Recipe.from_json(case["recipe"]) for case in cases}
    labels = [recipe_label(recipe) for recipe in recipes.values()]
    assert labels == [next(case["label"] for case in cases if case["recipe"] == text) for text in recipes]
    assert len(set(labels)) == len(recipes)


def test_a_label_keeps_the_digits_a_recipe_was_given() -> None:
    assert recipe_label(sw.Recipe(sparsity=0.9925, bits=4)) == "99.25\u202f%, 4 bits"
    assert recipe_label(sw.Recipe(sparsity=0.99, bits=4)) == "99\u202f%, 4 bits"
    assert recipe_label(sw.Recipe(bits=1, layers={"stem": sw.Keep})) == "0\u202f%, 1 bit, stem uncompressed"


def test_a_still_never_praises_a_file_that_grew() -> None:
    from shrinkwidget.figures.explorer_snapshot_png import describe

    figures = estimate(sketch(nn.Linear(2, 3)), sw.Recipe(bits=8))
    assert figures.ratio < 0.99
    assert "× larger" in describe(figures, None)
    assert "smaller" not in describe(figures, None)
