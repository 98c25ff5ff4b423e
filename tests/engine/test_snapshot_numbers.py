"""Every figure of the snapshots is the engine's: read back from what is drawn, row by row and panel by panel."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.errors import layer_label
from shrinkwidget.figures.canvas import ACCURACY, DENSE, GRID, INK, KEPT, MUTED, OUTLINE
from shrinkwidget.figures.explorer_snapshot_png import MARGIN, describe, explorer_snapshot
from shrinkwidget.figures.monitor_snapshot_png import monitor_snapshot
from shrinkwidget.figures.numbers_and_recipes_as_text import (
    bytes_text,
    decibels_text,
    estimated_decibels_text,
    share_text,
)
from shrinkwidget.figures.snapshot_size_score_history import PARTS
from shrinkwidget.widgets.monitor import Monitor

from .recording_canvas import Drawn, drawn_by, plain, value_at

STILL = "shrinkwidget.figures.explorer_snapshot_png"
TRAINING = "shrinkwidget.figures.monitor_snapshot_png"
HALF = sw.Recipe(sparsity=0.5, bits=4)
RECIPES = [
    sw.Recipe(),
    sw.Recipe(sparsity=0.8, bits=4),
    sw.Recipe(sparsity=0.93, bits=3, scope="layer", layers={"stem": sw.Keep, "stage2.*": dict(bits=8)}),
    sw.Recipe(structure="2:4", bits=2, granularity=32),
    sw.Recipe(sparsity=0.125, bits=5, granularity="tensor", uncompressed_bits=16),
]
SIDE = 1000 - MARGIN - 320


@pytest.fixture(scope="module")
def looked() -> Sketch:
    return sw.sketch(sw.demo.model())


def scored(recipe: sw.Recipe, value: float, **more: Any) -> dict[str, Any]:
    ends = {"low": value - 0.03, "high": value + 0.01}
    about = {"n": 360, "total": 360, "state": "done", "metric": "accuracy", "percent": True, "higher": True}
    return {
        "recipe": recipe.to_json(),
        "value": value,
        **ends,
        **about,
        "provenance": "no retraining",
        "warnings": [],
        **more,
    }


def picture(monkeypatch: pytest.MonkeyPatch, looked: Sketch, figures: Estimate, *known: Any, **more: Any) -> Drawn:
    told = known or (None, None, [])
    return drawn_by(monkeypatch, STILL, lambda: explorer_snapshot(looked, figures, *told, **more))


def rows_of(drawn: Drawn, labels: list[str]) -> list[list[str]]:
    return [[text.words for text in drawn.row(drawn.text(label).y) if text.left < SIDE] for label in labels]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_every_row_says_what_is_estimated(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch, recipe: sw.Recipe, exact: bool
) -> None:
    figures = replace(sw.estimate(looked, recipe), exact=exact)
    drawn = picture(monkeypatch, looked, figures)
    plans = looked.plans(recipe)
    labels = [layer_label(layer.name) for layer in figures.layers]
    sign = "" if exact else "≈ "
    assert rows_of(drawn, labels) == [
        [label, f"{layer.n:,}", "keep", "–", plain(bytes_text(layer.nbytes))]
        if plan.keep
        else [
            label,
            f"{layer.n:,}",
            sign + plain(share_text(layer.sparsity)),
            str(plan.bits),
            sign + plain(bytes_text(layer.nbytes)),
        ]
        for label, layer, plan in zip(labels, figures.layers, plans, strict=True)
    ]
    assert [text.words for text in drawn.row(drawn.text("weights").y)][-4:] == ["weights", "pruned", "bits", "size"]
    assert ("exact" if exact else "≈ preview") in drawn.all_words()


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_no_words_run_into_each_other(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch, recipe: sw.Recipe, exact: bool
) -> None:
    figures = replace(sw.estimate(looked, recipe), exact=exact)
    drawn = picture(monkeypatch, looked, figures, scored(recipe, 0.9), scored(sw.Recipe(), 0.97), [])
    for text in drawn.texts:
        line = drawn.row(text.y)
        after = line[line.index(text) + 1 :]
        assert [(text.words, other.words) for other in after if other.left < text.right - 0.5] == []


def test_rows_stand_in_the_order_of_the_forward_pass(monkeypatch: pytest.MonkeyPatch, looked: Sketch) -> None:
    order = list(reversed(range(len(looked.layers))))
    drawn = picture(monkeypatch, looked, sw.estimate(looked, HALF), order=order)
    heights = [drawn.text(looked.layers[i].label).y for i in order]
    assert heights == sorted(heights)


def ticks_of(drawn: Drawn) -> list[tuple[float, float]]:
    """Return (pixel, weight) of the ticks below the rows."""
    zero = max((text for text in drawn.texts if text.words == "0" and text.left < SIDE), key=lambda text: text.y)
    row = [text for text in drawn.row(zero.y) if text.left < SIDE]
    assert row.pop().words == "weight value"
    return [(text.middle, float(text.words)) for text in row]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_pruned_band_ends_at_the_threshold(monkeypatch: pytest.MonkeyPatch, looked: Sketch, scope: Any) -> None:
    figures = sw.estimate(looked, sw.Recipe(sparsity=0.6, bits=4, scope=scope))
    drawn = picture(monkeypatch, looked, figures)
    ticks = ticks_of(drawn)
    ends = [line for line, color, dashed in drawn.lines if color == GRID and dashed]
    span = max(value for _, value in ticks)
    for layer in figures.layers:
        if layer.threshold > span:
            continue  # may lie beyond the axis
        y = drawn.text(layer_label(layer.name)).y
        found = sorted(value_at(line[0, 0], ticks) for line in ends if line[0, 1] < y < line[1, 1])
        assert found == pytest.approx([-layer.threshold, layer.threshold], rel=0.01), layer.name
    assert ("pruned within" in drawn.all_words()) == (scope == "global")


def test_the_shared_axis_suits_the_typical_layer(monkeypatch: pytest.MonkeyPatch, looked: Sketch) -> None:
    drawn = picture(monkeypatch, looked, sw.estimate(looked, sw.Recipe()))
    ticks = ticks_of(drawn)
    outlines = [line for line, color, _ in drawn.lines if color == OUTLINE and len(line) > 5 and line[0, 0] < SIDE]
    assert len(outlines) == len(looked.layers)
    reach = value_at(outlines[0][:, 0].max(), ticks)
    largest = [float(np.quantile(p.detach().abs().numpy(), 0.997)) for p in sw.demo.model().parameters() if p.ndim >= 2]
    assert reach == pytest.approx(1.15 * 1.08 * sorted(largest)[len(largest) // 2], rel=0.08)
    tall = drawn.text(looked.layers[1].label).y - drawn.text(looked.layers[0].label).y - 2
    tops = [line[:, 1].max() - line[:, 1].min() for line in outlines]
    assert float(np.median(tops)) == pytest.approx(tall / 1.06, rel=0.06)  # a row is filled by its body


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_the_size_panel_shows_the_parts_of_the_file(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch, recipe: sw.Recipe
) -> None:
    figures = replace(sw.estimate(looked, recipe), exact=True, nbytes_entropy_coded=54_321)
    drawn = picture(monkeypatch, looked, figures)
    parts = figures.parts()
    assert sum(parts.values()) == figures.nbytes
    for part, size in parts.items():
        (name,) = [text for text in drawn.texts if text.words == part and text.left >= SIDE]
        shown = [text.words for text in drawn.row(name.y) if text.left > name.left]
        assert shown[0] == (plain(bytes_text(size)) if size else "–"), part
    side = drawn.all_words()
    assert plain(f"{bytes_text(figures.original_nbytes)} → ") in side
    assert plain(decibels_text(figures.sqnr)) in side
    assert plain(f"{share_text(figures.sparsity)} of weights pruned") in side
    assert "54.3 kB to download" in side
    bars = [box for box in drawn.boxes if box[0] >= SIDE - 1 and box[3] - box[1] > 13]
    (dense,) = [box for box in bars if box[4] == DENSE and box[3] - box[1] == 16]
    rest = sorted({round(box[1], 2) for box in bars} - {round(dense[1], 2)})
    now, enlarged = ([box for box in bars if round(box[1], 2) == y and box is not dense] for y in rest[:2])
    scale = 320 / max(figures.original_nbytes, figures.nbytes)
    assert dense[2] - dense[0] == pytest.approx(scale * figures.original_nbytes)
    assert sum(box[2] - box[0] for box in now) == pytest.approx(scale * figures.nbytes)
    colors = {color: part for part, color in PARTS}
    for left, _, right, _, color in enlarged:
        assert (right - left) / 320 == pytest.approx(parts[colors[color]] / figures.nbytes), colors[color]


def test_device_marks_have_their_names_and_stand_at_their_size(monkeypatch: pytest.MonkeyPatch, looked: Sketch) -> None:
    for recipe in RECIPES:
        figures = sw.estimate(looked, recipe)
        drawn = picture(monkeypatch, looked, figures)
        marks = [line for line, color, dashed in drawn.lines if color == MUTED and dashed]
        names = [text for text in drawn.texts if text.words.endswith((" flash", " app", " download", " card"))]
        assert len(marks) == len(names) == 1
        scale = 320 / max(figures.original_nbytes, figures.nbytes)
        assert (marks[0][0, 0] - SIDE) / scale == pytest.approx(256e3)
        assert names[0].words == "256 kB flash"


def test_the_score_panel_says_value_interval_and_what_they_hide(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch
) -> None:
    figures = sw.estimate(looked, HALF)
    warning = "class 3 is never predicted, so that the mean over classes tells more than this accuracy does"
    score = scored(HALF, 0.843, warnings=[warning])
    drawn = picture(monkeypatch, looked, figures, score, scored(sw.Recipe(), 0.99), [])
    side = " ".join(text.words for text in drawn.within(SIDE - 1, 1000))
    assert "99.0 % →  84.3 % 81.3–85.3 %" in side
    assert "no retraining · 360 examples · 95 % interval" in side
    assert f"! {warning}" in side
    assert drawn.text("84.3 %").color == INK
    assert warning in describe(figures, score)
    held = picture(monkeypatch, looked, figures, scored(HALF, 0.97), scored(sw.Recipe(), 0.99), [])
    assert held.text("97.0 %").color == ACCURACY
    untouched = picture(monkeypatch, looked, figures, scored(HALF, 0.97), scored(HALF, 0.97), [])
    assert untouched.text("97.0 %").color == INK


def test_a_metric_of_any_kind_is_written_in_its_unit_and_direction(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch
) -> None:
    figures = sw.estimate(looked, HALF)
    metric = {"name": "perplexity", "percent": False, "higher": False}
    drawn = picture(monkeypatch, looked, figures, None, scored(HALF, 12_345.6, **metric), [], metric=metric)
    side = [text.words for text in drawn.within(SIDE - 1, 1000)]
    assert "PERPLEXITY" in side
    assert "lower is better" in side
    assert "12350 → " in side
    unknown = picture(monkeypatch, looked, figures, None, scored(HALF, 0.5), [], metric={**metric, "higher": None})
    assert "which way is better is not known" in unknown.all_words()


def test_a_layer_of_which_nothing_is_left_is_told_with_a_score_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    small = nn.Linear(30, 5)
    model = nn.Sequential(nn.Linear(30, 30), small)
    with torch.no_grad():
        small.weight.mul_(1e-3)
    looked = sw.sketch(model)
    recipe = sw.Recipe(sparsity=0.5, bits=4)
    figures = sw.estimate(looked, recipe)
    assert figures.layers[1].kept == 0
    no_scores: tuple[Any, ...] = (None, None, [])
    for known in (no_scores, (scored(recipe, 0.2), None, [])):
        assert "! 1: all weights pruned" in picture(monkeypatch, looked, figures, *known).all_words()
    assert "1: all weights pruned" in describe(figures, None)


def visits(looked: Sketch) -> list[dict[str, Any]]:
    points = []
    for sparsity, bits, value in ((0.0, 32, 0.99), (0.5, 8, 0.985), (0.8, 4, 0.9), (0.93, 2, 0.62)):
        recipe = sw.Recipe(sparsity=sparsity, bits=bits)
        points.append({**scored(recipe, value), "nbytes": sw.estimate(looked, recipe).nbytes, "result": None})
    retrained = {**points[-1], "value": 0.97, "provenance": "fine-tuned 3 epochs", "result": "1"}
    return [*points, retrained]


def history_axes(drawn: Drawn) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return (pixel, log bytes) of the axis across and (pixel, share) of the axis upwards."""
    top = drawn.text("HISTORY").y
    below = [text for text in drawn.within(SIDE - 1, 1000, top + 12) if text.words[0].isdigit()]
    units = {"B": 1, "kB": 1e3, "MB": 1e6}
    across = [
        (t.middle, math.log(float(t.words.split()[0]) * units[t.words.split()[1]])) for t in below if t.words[-1] == "B"
    ]
    upwards = [(t.y, float(t.words[:-2]) / 100) for t in below if t.words.endswith(" %")]
    assert min(len(across), len(upwards)) >= 2
    return sorted(across), sorted(upwards)


def test_points_stand_where_the_axes_say_and_the_front_joins_the_best(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch
) -> None:
    points = visits(looked)
    recipe = sw.Recipe(sparsity=0.8, bits=4)
    figures = sw.estimate(looked, recipe)
    drawn = picture(monkeypatch, looked, figures, scored(recipe, 0.9), scored(sw.Recipe(), 0.99), points)
    across, upwards = history_axes(drawn)
    top = drawn.text("accuracy against bytes").y + 18
    found = [dot for dot in drawn.dots if dot[1] > top]
    assert len(found) == len(points)
    for (x, y, size, marker), point in zip(found, points, strict=True):
        assert math.exp(value_at(x, across)) == pytest.approx(point["nbytes"], rel=0.01)
        assert value_at(y, upwards) == pytest.approx(point["value"], abs=0.002)
        assert marker == ("D" if point["result"] else "o")
        assert (size > 8) == (point["recipe"] == recipe.to_json())
    (joined,) = [line for line, color, dashed in drawn.lines if color == ACCURACY and not dashed]
    best = sorted([points[4], points[1], points[0]], key=lambda point: point["nbytes"])
    assert [math.exp(value_at(x, across)) for x, _ in joined] == pytest.approx([p["nbytes"] for p in best], rel=0.01)
    assert "80 %, 4 bits" in drawn.all_words()
    shapes = [(dot[3], text.words) for dot, text in zip(drawn.dots[:2], drawn.row(drawn.dots[0][1])[-2:], strict=True)]
    assert shapes == [("o", "not retrained"), ("D", "retrained")]


def test_points_with_batch_norm_recalibrated_have_a_shape_and_a_front_of_their_own(
    monkeypatch: pytest.MonkeyPatch, looked: Sketch
) -> None:
    plain = visits(looked)[:4]
    again = [
        {**point, "value": point["value"] + 0.008, "provenance": "batch norm recalibrated", "recalibrated": True}
        for point in plain[1:]
    ]
    recipe = sw.Recipe.from_json(plain[2]["recipe"])
    drawn = picture(monkeypatch, looked, sw.estimate(looked, recipe), again[1], None, [*plain, *again])
    assert [dot[3] for dot in drawn.dots] == ["o", "^", *"oooo", *"^^^"]
    words = drawn.all_words().splitlines()
    assert "recalibrated" in words
    assert "retrained" not in words
    fronts = [line for line, color, dashed in drawn.lines if color == ACCURACY and not dashed]
    assert [len(front) for front in fronts] == [4, 3]
    assert [dot[2] > 8 for dot in drawn.dots[2:]] == [False] * 5 + [True, False]  # the one that is shown now


def test_the_silhouette_has_the_areas_of_the_bytes(monkeypatch: pytest.MonkeyPatch, looked: Sketch) -> None:
    figures = sw.estimate(looked, HALF)
    drawn = picture(monkeypatch, looked, figures)
    top = drawn.text("DEPTH × WIDTH").y
    filled = [box for box in drawn.boxes if box[4] == KEPT and box[0] >= SIDE - 1 and box[1] > top]
    outer = [line for line, color, _ in drawn.lines if color == OUTLINE and line[0, 0] >= SIDE - 1]
    assert len(filled) == len(outer) == len(looked.layers)
    whole = sum(np.prod(np.ptp(line, axis=0)) for line in outer)
    for box, line, layer, now in zip(filled, outer, looked.layers, figures.layers, strict=True):
        width, height = np.ptp(line, axis=0)
        assert width * height / whole == pytest.approx(layer.n / sum(other.n for other in looked.layers), rel=1e-6)
        assert (box[3] - box[1]) / height == pytest.approx(now.nbytes / (4 * layer.n))
    assert [text.words for text in drawn.within(SIDE - 1, 1000, top + 20)] == ["stage1", "stage2", "stage3"]


def long_named() -> Sketch:
    torch.manual_seed(0)
    name = "an_encoder_whose_blocks_have_names_that_go_on_" * 3
    stages = {name + str(i): nn.Sequential(*(nn.Linear(40, 40) for _ in range(4))) for i in range(4)}
    return replace(sw.sketch(nn.ModuleDict(stages)), title="A" * 300)


@pytest.mark.parametrize("exact", [True, False])
def test_nothing_is_written_past_the_margins(monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    looked = long_named()
    layer = looked.layers[0].label
    recipe = sw.Recipe(
        sparsity=0.12345, bits=3, symmetric=False, clipping=99.99, uncompressed_bits=16, importance="random", seed=7,
        scope="layer",
        layers={layer: dict(bits=8, sparsity=0.25)},
    )  # fmt: skip
    figures = replace(sw.estimate(looked, recipe), exact=exact, nbytes_entropy_coded=123_456_789 if exact else None)
    metric = {"metric": "word_error_rate_of_the_whole_validation_set" * 2, "percent": False, "higher": False}
    told = scored(recipe, 1.2345e9, **metric, warnings=["a" * 200, "the interval covers chance " * 6])
    told["provenance"] = "lottery ticket, 11 rounds of 30 epochs, weights rewound to epoch 2, quantization-aware"
    points = [{**told, "nbytes": 10**k, "value": 10.0 ** (k - 3), "result": str(k)} for k in range(3, 9)]
    no_scores: tuple[Any, ...] = (None, None, [])
    for known in (no_scores, (told, {**told, "value": 2.5e9}, points)):
        drawn = picture(monkeypatch, looked, figures, *known)
        for text in drawn.texts:
            assert text.left >= MARGIN - 0.5, text
            assert text.right <= drawn.width - MARGIN + 0.5, text
            assert 0 < text.y < drawn.height - 8, text
            assert text.right <= SIDE - 10 or text.left >= SIDE - 0.5 or text.y < 100, text


@pytest.fixture(scope="module")
def trained() -> Monitor:
    """Return the monitor of a real training in three rounds."""
    images, labels = sw.demo.data("train")
    options = dict(rounds=3, background=True)
    recipe = sw.Recipe(sparsity=0.9, bits=4)
    run = sw.prune_and_retrain(
        sw.demo.model(), (images[:192], labels[:192]), sw.demo.data(), recipe, sw.methods.FineTune(epochs=2), **options
    )  # type: ignore[call-overload]
    monitor = sw.monitor(run)
    assert run.wait(120)
    return monitor


def shown_by(monitor: Monitor) -> dict[str, Any]:
    names = ("title", "method", "metric", "progress", "curves", "points", "baseline", "state", "error")
    return {name: getattr(monitor, f"_{name}") for name in names}


def chart_axes(drawn: Drawn, title: str, left: float, height: float) -> tuple[float, list[tuple[float, float]]]:
    """Return where a chart begins and (pixel, value) of its axis upwards."""
    top = max(text.y for text in drawn.texts if text.words == title)
    found = [
        (text.y, float(text.words.split(" ")[0]) / (100 if text.words.endswith("%") else 1))
        for text in drawn.within(left, left + 50, top + 4, top + height)
        if text.words[0].isdigit() and not text.words.endswith("×")
    ]
    assert len(found) >= 2
    return top, sorted(found)


def test_the_curves_of_a_training_are_its_history(monkeypatch: pytest.MonkeyPatch, trained: Monitor) -> None:
    assert trained.run is not None
    drawn = drawn_by(monkeypatch, TRAINING, lambda: monitor_snapshot(shown_by(trained)))
    history, baseline = trained.run.history, trained.run.baseline
    assert baseline is not None
    top, upwards = chart_axes(drawn, "accuracy", MARGIN, 228)
    epochs = [(text.middle, float(text.words)) for text in drawn.row(drawn.within(MARGIN, 500, top + 380)[0].y)[1:]]
    epochs = [tick for tick in epochs if tick[0] < 600]
    assert [value for _, value in epochs] == [1, 2, 3, 4, 5, 6]
    scores = [baseline.to_dict(), *(row["test"] for row in history)]
    dots = [dot for dot in drawn.dots if dot[2] < 5]
    assert [value_at(x, epochs) for x, *_ in dots] == pytest.approx(range(7), abs=0.01)
    assert [value_at(y, upwards) for _, y, *_ in dots] == pytest.approx([s["value"] for s in scores], abs=0.002)
    ((band, _),) = drawn.shapes
    high, low = band[:7, 1], band[:6:-1, 1]
    assert [value_at(y, upwards) for y in high] == pytest.approx([s["high"] for s in scores], abs=0.002)
    assert [value_at(y, upwards) for y in low] == pytest.approx([s["low"] for s in scores], abs=0.002)
    assert f"┄ before {100 * baseline.value:.1f} %" in drawn.all_words()
    assert "● validation, 95 % interval" in drawn.all_words()
    assert "╌ training" in drawn.all_words()
    loss_top, losses = chart_axes(drawn, "loss, training", MARGIN, 150)
    (line,) = [line for line, color, _ in drawn.lines if color == OUTLINE and line[0, 0] < 600]
    assert line[0, 1] > loss_top
    assert [value_at(y, losses) for y in line[:, 1]] == pytest.approx([row["loss"] for row in history], abs=0.01)


def test_the_side_of_a_training_shows_its_figures_and_rounds(monkeypatch: pytest.MonkeyPatch, trained: Monitor) -> None:
    assert trained.run is not None
    drawn = drawn_by(monkeypatch, TRAINING, lambda: monitor_snapshot(shown_by(trained)))
    now = trained.run.progress
    assert now is not None
    assert now.test is not None
    side = " ".join(text.words for text in drawn.within(600, 920))
    assert f"{100 * now.test.value:.1f} %" in side
    assert f"{100 * now.test.low:.1f}–{100 * now.test.high:.1f} %" in side
    assert f"accuracy on {now.test.n} validation examples" in side
    assert f"{100 * now.sparsity:.1f} %" in side
    assert plain(bytes_text(now.nbytes or 0)) in side
    points = trained.run.points
    top, upwards = chart_axes(drawn, "accuracy against size", 600, 190)
    across = [
        (text.middle, math.log(float(text.words[:-1])))
        for text in drawn.within(640, 920, top + 150)
        if text.words in ("1×", "2×", "3×", "5×", "10×", "20×")
    ]
    dots = [dot for dot in drawn.dots if dot[2] > 5]
    assert [math.exp(value_at(x, across)) for x, *_ in dots] == pytest.approx([p["ratio"] for p in points], rel=0.01)
    assert [value_at(y, upwards) for _, y, *_ in dots] == pytest.approx([p["test"]["value"] for p in points], abs=0.002)
    assert [dot[2] > 8 for dot in dots] == [False, False, True]
    _, rates = chart_axes(drawn, "learning rate", 600, 110)
    (line,) = [line for line, color, _ in drawn.lines if color == OUTLINE and line[0, 0] > 600]
    logs = [(y, math.log10(rate)) for y, rate in rates]
    assert 10 ** value_at(line[-1, 1], logs) == pytest.approx(trained.run.history[-1]["lr"], rel=0.02)
    for text in drawn.texts:
        assert MARGIN - 0.5 <= text.left <= text.right <= drawn.width - MARGIN + 0.5, text


def test_a_training_without_test_data_or_that_failed_is_drawn(
    monkeypatch: pytest.MonkeyPatch, trained: Monitor
) -> None:
    shown = shown_by(trained)
    nothing: dict[str, list[Any]] = {name: [] for name in shown["curves"]}
    bare = {**shown, "progress": None, "curves": nothing, "points": [], "baseline": None, "state": "ready"}
    assert "not begun" in drawn_by(monkeypatch, TRAINING, lambda: monitor_snapshot(bare)).all_words()
    failed = {
        **shown,
        "title": "N" * 200,
        "method": "m " * 300,
        "state": "failed",
        "error": "the loss is not finite " * 9,
    }
    drawn = drawn_by(monkeypatch, TRAINING, lambda: monitor_snapshot(failed))
    assert "the loss is not finite" in drawn.all_words()
    assert all(text.right <= drawn.width - MARGIN + 0.5 for text in drawn.texts)


def test_an_error_is_marked_as_estimated_unless_there_is_none() -> None:
    assert plain(estimated_decibels_text(False, 18.24)) == "≈ 18.2 dB"
    assert plain(estimated_decibels_text(True, 18.24)) == "18.2 dB"
    assert estimated_decibels_text(False, float("inf")) == "exact"
