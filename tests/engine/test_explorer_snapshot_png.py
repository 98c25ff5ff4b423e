"""The snapshot: a picture that says what the explorer says, for every model and recipe, in any thread."""

from __future__ import annotations

import io
import itertools
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from shrinkwidget.analysis.chart_distribution import effective
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.estimate_from_sketch import estimate
from shrinkwidget.analysis.pruning_estimate import survivals
from shrinkwidget.analysis.sketch import Sketch, sketch
from shrinkwidget.figures.canvas import Canvas, Snapshot
from shrinkwidget.figures.distribution_geometry import comb_factor, distribution_plot
from shrinkwidget.figures.explorer_snapshot_png import describe, explorer_snapshot, present_score
from shrinkwidget.figures.model_silhouette import blocks
from shrinkwidget.figures.numbers_and_recipes_as_text import bytes_text, recipe_sentence, share_text, weight_text
from shrinkwidget.figures.ridge_plot import MOST_ROWS, chosen_layers
from shrinkwidget.figures.scatter_scales_and_pareto_front import pareto_front
from shrinkwidget.figures.snapshot_size_score_history import Metric, metric_of
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

BLUE, ORANGE, GREEN = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)
HALF = Recipe(sparsity=0.5, bits=4)


@pytest.fixture(scope="module")
def real(resnet20: Path) -> Sketch:
    """Return the sketch of the trained ResNet-20."""
    return sketch(resnet20)


def small(layers: int = 3, seed: int = 0) -> Sketch:
    torch.manual_seed(seed)
    return sketch(nn.Sequential(*(nn.Conv2d(4 + i // 4, 5 + i // 4, 3) for i in range(layers))))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def amount(png: bytes, color: tuple[int, int, int]) -> int:
    return int((pixels(png) == color).all(-1).sum())


def scored(recipe: Recipe, value: float | None, **more: Any) -> dict[str, Any]:
    about = {"n": 1000, "total": 1000, "state": "done", "metric": "accuracy", "provenance": "no retraining"}
    about |= {"percent": True, "higher": True}
    wide = {"low": value - 0.02, "high": value + 0.02} if value is not None else {"low": None, "high": None}
    return {"recipe": recipe.to_json(), "value": value, **wide, **about, **more}


def history(looked: Sketch, sparsities: list[float], **more: Any) -> list[dict[str, Any]]:
    points = []
    for sparsity in sparsities:
        recipe = Recipe(sparsity=sparsity, bits=4)
        points.append({**scored(recipe, 0.95 - sparsity / 2, **more), "nbytes": estimate(looked, recipe).nbytes})
    return points


def test_a_still_is_a_png_at_double_density_on_pure_white() -> None:
    looked = small()
    image = pixels(explorer_snapshot(looked, estimate(looked, HALF), None, None, []))
    assert image.shape[1] == 2000
    assert (image[[0, -1]] == 255).all()
    assert (image[:, [0, -1]] == 255).all()


def test_kept_weights_are_blue_and_a_threshold_is_vermillion() -> None:
    looked = small()
    pruned = explorer_snapshot(looked, estimate(looked, Recipe(sparsity=0.9)), None, None, [])
    dense = explorer_snapshot(looked, estimate(looked, Recipe()), None, None, [])
    assert amount(dense, BLUE) > 2 * amount(pruned, BLUE) > 0
    assert amount(pruned, ORANGE) > 100
    assert amount(dense, ORANGE) == 0


def test_accuracy_is_green_and_points_appear_once_there_are_two() -> None:
    looked = small()
    figures = estimate(looked, HALF)
    assert amount(explorer_snapshot(looked, figures, None, None, []), GREEN) == 0
    number = explorer_snapshot(looked, figures, scored(HALF, 0.95), scored(Recipe(), 0.95), [])
    plot = explorer_snapshot(
        looked, figures, scored(HALF, 0.95), scored(Recipe(), 0.95), history(looked, [0.0, 0.5, 0.9])
    )
    assert amount(plot, GREEN) > amount(number, GREEN) > 100


def test_a_score_of_another_recipe_is_not_shown_as_this_ones() -> None:
    looked = small()
    figures = estimate(looked, HALF)
    other = scored(Recipe(sparsity=0.1), 0.9)
    dense = scored(Recipe(), 0.2)
    assert amount(explorer_snapshot(looked, figures, other, dense, []), GREEN) == 0
    assert "accuracy" not in describe(figures, other)
    known = history(looked, [0.5])
    assert amount(explorer_snapshot(looked, figures, other, dense, known), GREEN) > 0


def test_a_score_of_the_same_recipe_is_shown_of_the_model_that_it_is_of() -> None:
    looked = small()
    figures = estimate(looked, HALF)
    visits = [scored(HALF, 0.5), scored(HALF, 0.9, result="1")]
    shown = [present_score(figures, None, visits, result) for result in ("", "1", "2")]
    assert [score and score["value"] for score in shown] == [0.5, 0.9, None]
    assert present_score(figures, visits[1], visits[:1]) == visits[0], "not even where it is the last that came"
    dense = scored(Recipe(), 0.2)
    drawn = [amount(explorer_snapshot(looked, figures, visits[1], dense, [], result=key), GREEN) for key in ("1", "")]
    assert drawn[0] > drawn[1] == 0


def test_resnet20_fits_a_notebook(real: Sketch) -> None:
    looked = real
    recipes = [Recipe(sparsity=0.8, bits=4), Recipe(structure="2:4", bits=8, granularity=32), Recipe(bits=2)]
    for recipe in recipes:
        png = explorer_snapshot(
            looked, estimate(looked, recipe), scored(recipe, 0.8), None, history(looked, [0.1, 0.5, 0.8, 0.9])
        )
        assert len(png) <= 150_000


def test_of_many_layers_the_largest_are_drawn_in_their_order() -> None:
    looked = small(MOST_ROWS + 30)
    chosen = chosen_layers(looked, range(len(looked.layers)))
    assert len(chosen) == MOST_ROWS
    assert chosen == sorted(chosen)
    left_out = [layer.n for i, layer in enumerate(looked.layers) if i not in chosen]
    assert max(left_out) <= min(looked.layers[i].n for i in chosen)
    png = explorer_snapshot(looked, estimate(looked, HALF), None, None, [])
    assert len(png) <= 150_000
    assert chosen_layers(small(5), [2, 0, 1, 4, 3]) == [2, 0, 1, 4, 3]


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(),
        Recipe(bits=1, sparsity=0.4),
        Recipe(bits=3, quantizer="kmeans", sparsity=0.4),
        Recipe(bits=8, granularity="tensor", clipping="mse"),
        Recipe(bits=2, symmetric=False, granularity="tensor"),
        Recipe(structure="1:4", bits=4),
        Recipe(sparsity=0.5, importance="random", bits=4),
        Recipe(sparsity=0.999, bits=4),
        Recipe(layers={"*": Keep}),
        Recipe(bits=16, uncompressed_bits=16, layers={"0": dict(bits=3, sparsity=0.9)}),
    ],
    ids=recipe_sentence,
)
def test_every_recipe_can_be_drawn(recipe: Recipe) -> None:
    looked = sketch(nn.Sequential(nn.Linear(40, 30), nn.Embedding(9, 4), nn.Linear(1, 1, bias=False)))
    figures = estimate(looked, recipe)
    assert amount(explorer_snapshot(looked, figures, None, None, []), BLUE) > 0
    assert recipe_sentence(recipe) in describe(figures, None)


def test_odd_models_can_be_drawn() -> None:
    dead, one = nn.Linear(8, 8), nn.Linear(8, 1)
    nn.init.zeros_(dead.weight)
    nn.init.constant_(one.weight, -2.0)
    model = nn.Sequential(dead, one).to(torch.bfloat16)
    long = nn.ModuleDict({"a_name_of_a_layer_that_goes_on_" * 5 + "$x$": nn.Linear(3, 3), "日本": nn.Linear(2, 2)})
    for looked in (sketch(model), sketch(long)):
        for recipe in (Recipe(), HALF, Recipe(bits=4, granularity="tensor"), Recipe(bits=2, quantizer="kmeans")):
            assert explorer_snapshot(looked, estimate(looked, recipe), None, None, [])


@pytest.mark.parametrize("value", [None, math.nan, 0.0, 1.0])
def test_odd_scores_can_be_drawn(value: float | None) -> None:
    looked = small()
    figures = estimate(looked, HALF)
    score = {**scored(HALF, value), "low": None}
    same = [{**scored(HALF, value), "nbytes": 5000}] * 3
    for metric in ("accuracy", "mse", "my metric"):
        for kind in itertools.product([True, False], repeat=2):
            told = {**score, "metric": metric, "percent": kind[0], "higher": kind[1]}
            assert explorer_snapshot(looked, figures, told, told, same)
    failed = {"recipe": HALF.to_json(), "state": "failed", "text": "the metric raised"}
    assert explorer_snapshot(looked, figures, failed, None, [])
    assert describe(figures, failed) == describe(figures, None)


def test_a_score_is_written_in_its_metrics_own_unit_whatever_its_name() -> None:
    looked = small()
    figures = estimate(looked, HALF)
    told = scored(HALF, 0.25)
    assert "accuracy 25.0" in describe(figures, told)
    assert "accuracy 0.25 (" in describe(figures, {**told, "percent": False})
    assert "mse 25.0\N{NARROW NO-BREAK SPACE}% (" in describe(figures, {**told, "metric": "mse"})


@pytest.mark.parametrize("metric", ["accuracy", "neg_loss"])
def test_the_frontier_goes_where_the_metric_is_better(metric: str) -> None:
    points = [(1.0, 3.0), (2.0, 1.0), (3.0, 4.0)]
    assert pareto_front(points, higher=True) == [0, 2]
    assert pareto_front(points, higher=False) == [0, 1]
    told = {"metric": metric, "higher": False, "percent": True}
    assert metric_of(None, {"state": "failed"}, told) == Metric(metric, True, False)


def test_threads_draw_at_the_same_time_what_one_draws_alone() -> None:
    looks = [small(2 + i, seed=i) for i in range(4)]
    jobs = [(looked, estimate(looked, Recipe(sparsity=0.2 * (i + 1), bits=4))) for i, looked in enumerate(looks)]
    alone = [explorer_snapshot(looked, figures, None, None, []) for looked, figures in jobs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: explorer_snapshot(job[0], job[1], None, None, []), jobs * 3))
    assert together == alone * 3


def test_a_still_needs_no_pyplot_and_importing_it_no_matplotlib() -> None:
    code = """
import sys
from shrinkwidget.figures.explorer_snapshot_png import explorer_snapshot
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
from torch import nn
from shrinkwidget import Recipe, estimate, sketch
looked = sketch(nn.Linear(9, 9))
explorer_snapshot(looked, estimate(looked, Recipe(bits=4)), None, None, [])
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sentence_says_recipe_size_and_accuracy() -> None:
    looked = small()
    figures = estimate(looked, HALF)
    sentence = describe(figures, scored(HALF, 0.843, state="running", n=600))
    assert recipe_sentence(HALF) == "50\u202f% sparse (global) · 4 bits, scale per channel"
    assert sentence.startswith(f"{recipe_sentence(HALF)}: about {bytes_text(figures.nbytes)} instead of")
    assert "accuracy 84.3\u202f% (no retraining · 600 of 1,000 examples, still counting)." in sentence
    exact = Estimate(
        HALF, figures.layers, figures.uncompressed_bytes, figures.header, figures.original_nbytes, exact=True
    )
    assert "about" not in describe(exact, None)


def test_numbers_are_written_as_people_read_them() -> None:
    assert bytes_text(999) == "999\u202fB"
    assert bytes_text(72_810) == "72.8\u202fkB"
    assert bytes_text(999_600) == "1.00\u202fMB"
    assert [share_text(x) for x in (0, 0.0001, 0.001, 0.999, 0.9997, 0.5, 1)] == [
        f"{x}\u202f%" for x in ("0", "<\u202f0.1", "0.1", "99.9", ">\u202f99.9", "50", "100")
    ]
    assert [weight_text(x) for x in (0.0, -0.11052, 2e-6)] == ["0", "−0.111", "2.0e−6"]


def test_the_areas_of_a_silhouette_are_in_proportion_to_bytes() -> None:
    nbytes = np.array([100.0, 400.0, 250.0])
    edges, tall = blocks(np.array([8.0, 16.0, 10.0]), nbytes)
    assert np.allclose(np.diff(edges) * tall / (np.diff(edges) * tall).sum(), nbytes / nbytes.sum())
    assert edges[-1] == pytest.approx(1)


def test_the_areas_of_bars_are_in_proportion_to_weights(real: Sketch) -> None:
    looked = real
    for recipe in (HALF, HALF.with_(granularity="tensor"), HALF.with_(quantizer="kmeans"), Recipe(sparsity=0.3)):
        plans = recipe.resolve(layer.name for layer in looked.layers)
        fates = survivals(looked.layers, plans, recipe)
        for layer, plan, fate, figures in zip(
            looked.layers, plans, fates, estimate(looked, recipe).layers, strict=True
        ):
            drawn = distribution_plot(layer, plan, fate, figures, 1.1 * layer.absmax, 300)
            bins = drawn.edges[1] - drawn.edges[0]
            wide, lowered = bins, comb_factor(effective(layer, plan, fate, figures.kept, drawn.edges), drawn.left)
            if drawn.bars.one_level_each:
                at = drawn.bars.at
                middle = (at[1:] + at[:-1]) / 2
                wide, lowered = np.diff([2 * at[0] - middle[0], *middle, 2 * at[-1] - middle[-1]]), 1.0
            area = (drawn.bars.height * wide).sum() / bins
            assert area == pytest.approx(lowered * figures.kept, rel=1e-6)
            assert drawn.outline.sum() == pytest.approx(layer.n)


@pytest.mark.parametrize("align", ["left", "center", "right"])
@pytest.mark.parametrize("bold", [False, True])
def test_a_stills_letters_stand_where_a_figures_do(bold: bool, align: str) -> None:
    """A still draws text as outlines, which is quicker, and a figure as text: the ink is in the same place."""
    words, place = "stage3.1.conv2 ≈\N{NARROW NO-BREAK SPACE}93\N{NARROW NO-BREAK SPACE}%", (120.0, 20.0)
    still = Snapshot(240, 40)
    wide = still.text(*place, words, size=13, bold=bold, align=align)
    figure = Figure(figsize=(2.4, 0.4), dpi=200, facecolor="white")
    sheet = Canvas(figure.add_axes((0, 0, 1, 1)), 240, 40, still.page)
    assert sheet.text(*place, words, size=13, bold=bold, align=align) == wide
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    found = [np.asarray(Image.open(io.BytesIO(png)).convert("L")) < 128 for png in (still.png(), stream.getvalue())]
    edges = [(*np.flatnonzero(ink.any(0))[[0, -1]], *np.flatnonzero(ink.any(1))[[0, -1]]) for ink in found]
    assert np.abs(np.subtract(*edges)).max() <= 2  # of 480 × 80 dots
