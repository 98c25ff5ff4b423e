"""The axes, ticks, bins and words of snapshots are those of the vectors, to which the page is held, too."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.figures.line_scales import LineScales, rate_domain
from shrinkwidget.figures.scatter_scales_and_pareto_front import Frame
from shrinkwidget.figures.ticks_and_size_marks import linear_ticks, log_ticks, size_marks
from shrinkwidget.recipe_and_method_registry import Recipe
from tests.vectors.chart_cases import charts
from tests.vectors.make import drawn_rows

VECTORS = Path(__file__).parents[1] / "vectors"


def same(found: Any, expected: Any) -> bool:
    """Compare numbers within a tolerance, in whatever they are nested."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, float):
        return bool(found == pytest.approx(expected, rel=1e-9, abs=1e-12))
    return bool(found == expected)


def test_the_charts_vectors_are_what_python_draws_now() -> None:
    vectors = json.loads((VECTORS / "charts" / "cases.json").read_text())
    now = json.loads(json.dumps(charts()))
    assert now.keys() == vectors.keys()
    for about, cases in vectors.items():
        assert len(cases) == len(now[about])
        for found, expected in zip(now[about], cases, strict=True):
            for what in expected:
                assert same(found[what], expected[what]), (about, what, found[what], expected[what])


@pytest.mark.parametrize("file", sorted(VECTORS.glob("*.json")), ids=lambda file: file.stem)
def test_the_rows_of_the_vectors_are_what_python_draws_now(file: Path) -> None:
    vector = json.loads(file.read_text())
    looked = Sketch.decode(base64.b64decode(vector["sketch"]))
    recipes = dict.fromkeys(row["recipe"] for row in vector["rows"])
    rows = [row for text in recipes for row in drawn_rows(looked, Recipe.from_json(text))]
    assert len(rows) == len(vector["rows"]) > 5
    for found, expected in zip(rows, vector["rows"], strict=True):
        assert same(found, expected), (expected["layer"], expected["recipe"])


def test_an_axis_has_two_ticks_at_least_and_never_many_more_than_asked_for() -> None:
    for case in charts()["ticks"]:
        assert len(log_ticks(case["small"], case["large"], case["wanted"])) >= 2
        assert len(log_ticks(case["small"], case["large"], case["wanted"])) <= max(3, case["wanted"] + 1)
        if case["wanted"] > 1:
            assert 2 <= len(linear_ticks(case["low"], case["high"], case["wanted"])) <= case["wanted"] + 1


def test_a_microcontrollers_flash_is_no_mark_of_a_model_many_times_its_size() -> None:
    assert [label for _, label in size_marks(699_328)] == ["256 kB flash"]
    assert [label for _, label in size_marks(100_000)] == ["32 kB flash"]


def test_a_rate_of_zero_is_a_gap_in_a_logarithmic_axis() -> None:
    rates = [0.1, 0.01, 0.0]
    scales = LineScales(Frame(300, 100, 50, 14, 28, 20), (0, 3), rate_domain(rates), log=True)
    first, second, last = map(scales.y, rates)
    assert first < second
    assert math.isnan(last)
