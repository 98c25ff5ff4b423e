"""Figures of few and of many layers: no label touches another or leaves the page, in print and on a slide."""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.evaluation.sensitivity import LayerScores, Sensitivity
from shrinkwidget.figures.figure_base_and_registry import our_settings

MANY = (2, 8, 20, 54, 300)
PAGES: tuple[dict[str, Any], ...] = (
    dict(width="nature-single"),
    dict(width="nature-double"),
    dict(style="slide"),
    dict(style="slide", width="nature-single"),
)


@cache
def looked(layers: int) -> Sketch:
    """Return the sketch of a model of so many layers, with the long names of a transformer's."""
    torch.manual_seed(layers)
    names = [f"encoder_layers_{i // 6}_{('attention_query', 'mlp_in')[i % 2]}_{i}" for i in range(layers)]
    return sw.sketch(nn.Sequential(OrderedDict((name, nn.Linear(16, 8 + i % 5)) for i, name in enumerate(names))))


def sensitivity(layers: int) -> Sensitivity:
    """Return the sensitivity of so many layers, each of them worse than the one before it."""
    recipe = sw.Recipe(sparsity=0.5)
    about: dict[str, Any] = dict(n=1000, total=1000, metric="accuracy", percent=True)
    rows = []
    for i, layer in enumerate(looked(layers).layers):
        values = [0.98 - 0.9 * s * i / layers for s in (0.1, 0.4, 1.0)]
        rows.append(LayerScores(layer.name, tuple(sw.Score(v, v - 0.02, v + 0.02, **about) for v in values)))
    dense = sw.Score(0.98, 0.97, 0.99, **about)
    return Sensitivity("sparsity", (0.5, 0.8, 0.9), tuple(rows), dense, "1,000 examples", recipe)


def trials(layers: int) -> dict[str, Any]:
    """Return a few lines whose ends all but coincide."""
    lines = min(layers, 12)
    return {
        f"method number {i}": [dict(ratio=2 * r, value=0.9 - r / 40 - i / 1000) for r in (1, 2, 4, 8)]
        for i in range(lines)
    }


def boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Return what is written, and where: the body of the letters, without the line's leading."""
    with our_settings():
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()  # so that axis labels stand where they will
    found = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and _shown(text):
            box = text.get_window_extent(renderer)
            found.append((text.get_text(), box.shrunk(1.0, 0.7) if not text.get_rotation() else box.shrunk(0.7, 1.0)))
    return found


def _shown(text: Text) -> bool:
    return text.axes is None or text.axes.axison or text in text.axes.texts


def assert_apart(figure: Figure) -> None:
    found = boxes(figure)
    assert found
    wide, high = figure.bbox.width, figure.bbox.height
    for words, box in found:
        assert box.x0 >= -1, f"{words!r} leaves the page at the left"
        assert box.x1 <= wide + 1, f"{words!r} leaves the page at the right by {box.x1 - wide:.1f}"
        assert box.y0 >= -1, f"{words!r} leaves the page below"
        assert box.y1 <= high + 1, f"{words!r} leaves the page above"
    places = np.array([[b.x0 + 0.6, b.y0 + 0.6, b.x1 - 0.6, b.y1 - 0.6] for _, b in found])
    across = (places[:, None, 0] < places[None, :, 2]) & (places[None, :, 0] < places[:, None, 2])
    upwards = (places[:, None, 1] < places[None, :, 3]) & (places[None, :, 1] < places[:, None, 3])
    hits = np.argwhere(np.triu(across & upwards, 1))
    assert [(found[i][0], found[j][0]) for i, j in hits] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "-".join(page.values()))
@pytest.mark.parametrize("layers", MANY)
def test_no_label_touches_another(layers: int, page: dict[str, Any]) -> None:
    look = looked(layers)
    recipe = sw.Recipe(sparsity=0.8, bits=4)
    assert_apart(sw.figures.distributions(look, recipe, show=layers, **page))
    for sharex in (True, False):
        multiples: dict[str, Any] = dict(arrangement="small_multiples", sharex=sharex, show=layers)
        assert_apart(sw.figures.distributions(look, recipe, **multiples, **page))
    assert_apart(sw.figures.size(look, recipe, **page))
    assert_apart(sw.figures.size(look, recipe, by="layer", **page))
    if page.get("width") == "nature-single" and "style" in page:
        with pytest.raises(sw.errors.FigureError, match="no room for 'size': 89 mm are too narrow"):
            sw.figures.size(look, recipe, steps=True, **page)
    else:
        assert_apart(sw.figures.size(look, recipe, steps=True, **page))
    assert_apart(sw.figures.silhouette(look, recipe, **page))
    assert_apart(sw.figures.sensitivity(sensitivity(layers), **page))
    assert_apart(sw.figures.tradeoff(trials(layers), baseline=0.95, **page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "-".join(page.values()))
def test_no_label_touches_another_in_devices_and_races(page: dict[str, Any]) -> None:
    model = sw.demo.model()
    small = sw.compress(model, sparsity=0.85, bits=4)
    if page.get("width") == "nature-single" and "style" in page:
        with pytest.raises(sw.errors.FigureError, match="no room for 'devices': 89 mm are too narrow"):
            sw.figures.devices(sw.fits(small), **page)
        return
    for found in (sw.fits(small, torch.zeros(1, 1, 8, 8)), sw.fits(small), sw.fits(sw.estimate(model, 0.9))):
        assert_apart(sw.figures.devices(found, **page))
    told = sw.results.Race.example().to_dict()
    assert_apart(sw.figures.race(sw.results.Race.from_dict(told), **page))
    for ratio in (0.013, 0.97, 140.0):  # a tick near 1, and axes of many decades
        told["batches"][0]["times"][1] |= {"name": "a name " * 12, "cpu": dict(value=ratio, low=ratio, high=ratio)}
        assert_apart(sw.figures.race(sw.results.Race.from_dict(told), **page))


@pytest.mark.parametrize("page", PAGES[::3], ids=lambda page: "-".join(page.values()))
def test_no_label_touches_another_in_charts_of_one_model(page: dict[str, Any]) -> None:
    model, valid = sw.demo.model(), sw.demo.data("valid")
    small = sw.compress(model, sparsity=0.85, bits=4)
    found = sw.compare_predictions(model, small, valid)
    assert_apart(sw.figures.classes(found, **page))
    assert_apart(sw.figures.classes(found, names=[f"the digit that is {i}" for i in range(10)], **page))
    assert_apart(sw.figures.layer(model, "stage3.1.conv2", sparsity=0.9, bits=3, granularity="tensor", **page))
    run = sw.retrain(small, sw.demo.few(10), valid, epochs=3, background=True)
    assert run.wait()
    assert_apart(sw.figures.training(run, **page))
    assert_apart(sw.figures.training({"one": run, "two": [run, run]}, **page))
    scores = {n: [sw.evaluate(small, valid)] * 2 for n in (2, 5, 10, 20)}
    assert_apart(sw.figures.transfer({"transferred": scores, "from scratch": scores}, **page))
    if "style" not in page or "width" in page:  # a slide has no room for all of it
        assert_apart(sw.figures.summary(model, estimate=small.estimate, classes=found, training=run, **page))


@pytest.mark.parametrize("move", ["onto another", "off the page"])
@pytest.mark.parametrize("kind", ["distributions", "tradeoff"])
def test_a_label_that_is_moved_is_noticed(kind: str, move: str) -> None:
    """The tests above can fail: on the canvases of the ridge as on the axes of the lines."""
    data = (looked(8), 0.8) if kind == "distributions" else (trials(3),)
    figure = sw.figures.draw(kind, *data, width="nature-single")
    assert_apart(figure)
    start = "enc" if kind == "distributions" else "method"
    one, other = [text for text in figure.findobj(Text) if text.get_text().startswith(start)][:2]
    if isinstance(one, Annotation) and isinstance(other, Annotation):  # it stands at a place of the axes
        one.xy = other.xy if move == "onto another" else (-1.5, 0.5)
    else:
        one.set_position(other.get_position() if move == "onto another" else (-40, 50))
    with pytest.raises(
        AssertionError, match=start if move == "onto another" else f"'{start}.* leaves the page at the left"
    ):
        assert_apart(figure)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: "-".join(page.values()))
def test_a_key_names_all_there_is_however_narrow_the_page(page: dict[str, Any]) -> None:
    recipe = sw.Recipe(sparsity=0.8, bits=4, layers={looked(8).layers[0].name: sw.Keep})
    expected = {
        "distributions": {"original", "effective", "pruned", "threshold", "levels"},
        "size": {"dense", "codes", "mask", "scales", "uncompressed"},
    }
    figures = {
        "distributions": sw.figures.distributions(looked(8), recipe, **page),
        "size": sw.figures.size(looked(8), recipe, by="layer", **page),
    }
    for kind, figure in figures.items():
        assert expected[kind] <= {words for words, _ in boxes(figure)}, kind
    written = " ".join(words for words, _ in boxes(sw.figures.silhouette(looked(8), recipe, **page)))
    assert re.search(r"dense .*now ", written)


@pytest.mark.parametrize(("kind", "which"), [("distributions", {"show": 2}), ("layer", {"name": "stem"})])
def test_a_key_says_of_a_shade_that_channels_are_gone_too(kind: str, which: dict[str, Any]) -> None:
    look = sw.sketch(sw.demo.model(), example=torch.zeros(1, 1, 8, 8))
    for recipe, word in (sw.Recipe(channels=0.5), "pruned, or gone with channels"), (sw.Recipe(0.5), "pruned"):
        figure = sw.figures.draw(kind, look, recipe=recipe, **which)
        assert word in {words for words, _ in boxes(figure)}
        assert re.search(f"shaded what is {word}[.;]", sw.figures.caption(kind, look, recipe=recipe, **which))


def test_a_layer_that_changes_nothing_gets_no_name_and_no_marker() -> None:
    found = sensitivity(8)
    calm = replace(found, layers=(*found.layers[:-1], LayerScores("calm", (found.dense,) * 3)))
    written = [words for words, _ in boxes(sw.figures.sensitivity(calm, width="nature-double"))]
    assert "calm" not in written
    assert sum(words.startswith("enc") for words in written) == 6  # the first of them loses nothing either
    assert "grey: the other 2 of 8 layers, which change less" in sw.figures.caption("sensitivity", calm)


def test_three_hundred_rows_in_one_column_keep_their_order() -> None:
    figure = sw.figures.distributions(looked(300), 0.8, show=300, width="nature-single")
    names = [words for words, _ in boxes(figure) if words.startswith("enc")]
    assert 20 < len(names) < 300


def test_a_long_name_loses_its_middle_and_a_label_replaces_it() -> None:
    name = looked(54).layers[7].label
    plain = [words for words, _ in boxes(sw.figures.distributions(looked(54), 0.8, show=[name], width=60))]
    assert name not in plain
    assert any("…" in words and words.endswith("7") for words in plain)
    named = sw.figures.distributions(looked(54), 0.8, show=[name], width=60, labels={name: "query 7"})
    assert "query 7" in [words for words, _ in boxes(named)]


def test_a_height_that_is_too_low_is_refused_with_what_it_needs() -> None:
    with pytest.raises(sw.errors.FigureError, match=r"height=12 is too low for 'size' .*: it needs \d+ mm"):
        sw.figures.size(looked(8), 0.8, height=12)
