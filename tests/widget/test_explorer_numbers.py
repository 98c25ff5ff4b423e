"""Every figure on the page is Python's: row by row and panel by panel, over random recipes.

The page is the built bundle with the traits of a real explorer (`standalone_page.py`). Texts are compared with Python's
own figures, formatted here; drawings are measured back: a place on an axis is turned into a value by the axis's own
ticks.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from playwright.sync_api import BrowserContext, expect
from torch import nn

import shrinkwidget as sw
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate, LayerEstimate
from shrinkwidget.errors import layer_label
from shrinkwidget.figures.numbers_and_recipes_as_text import (
    bytes_text,
    decibels_text,
    share_text,
    times_text,
    weight_text,
)
from shrinkwidget.widgets.explorer import Explorer

from .standalone_page import BarePage, plain

WAIT_SECONDS = 120
PIXEL = 1.01
HEADER_BOTTOM = 22
TALLEST_ROW = 46 / 2 + 1


def random_recipes(number: int, seed: int) -> Iterator[sw.Recipe]:
    """Yield recipes of every kind, some with overrides."""
    draw = random.Random(seed)
    for _ in range(number):
        fields: dict[str, object] = dict(
            bits=draw.choice((1, 2, 3, 4, 5, 6, 8, 16, 32)),
            granularity=draw.choice(("tensor", "channel", 32, 64)),
            scope=draw.choice(("global", "layer")),
            quantizer=draw.choice(("kmeans", *[sw.methods.Uniform(symmetric=draw.choice((True, True, False)))] * 2)),
            uncompressed_bits=draw.choice((16, 32)),
        )
        if draw.random() < 0.25:
            fields["structure"] = draw.choice(("2:4", "1:4", "4:8"))
        else:
            fields["sparsity"] = round(draw.uniform(0, 0.99), draw.choice((1, 2, 4)))
        if draw.random() < 0.2:
            fields["importance"] = "random"
        layers: dict[str, object] = {}
        if draw.random() < 0.6:
            layers["stem"] = sw.Keep
        if draw.random() < 0.6:
            layers["stage2.*"] = dict(bits=draw.choice((2, 8, 32)), sparsity=round(draw.random(), 2))
        yield sw.Recipe(**fields, layers=layers)  # type: ignore[arg-type]


RECIPES = [sw.Recipe(), sw.Recipe(sparsity=0.8, bits=4), sw.Recipe(sparsity=0.9925, bits=4), *random_recipes(9, seed=6)]


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Return one explorer for all recipes; each test sets its own."""
    made = sw.explore(sw.demo.model(), sw.demo.data())
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, explorer: Explorer) -> Iterator[BarePage]:
    """Open the explorer on a page of its own; the test fails if the page complained."""
    explorer.recipe = sw.Recipe()
    assert explorer.wait(WAIT_SECONDS)
    bare = BarePage.open(context.new_page(), explorer)
    yield bare
    assert bare.complaints == []


def settle(page: BarePage, recipe: sw.Recipe) -> Estimate:
    """Let Python settle on a recipe, tell the page, and return the exact figures."""
    page.widget.recipe = recipe
    assert page.widget.wait(WAIT_SECONDS)
    page.tell()
    estimate: Estimate = page.widget.estimate
    assert estimate.exact
    return estimate


def labels(estimate: Estimate) -> list[str]:
    return [layer_label(layer.name) for layer in estimate.layers]


def pruned_text(layer: LayerEstimate, estimate: Estimate) -> str:
    return "keep" if bits_of(layer, estimate) == "–" else plain(share_text(layer.sparsity))


def bits_of(layer: LayerEstimate, estimate: Estimate) -> str:
    names = [other.name for other in estimate.layers]
    plan = estimate.recipe.resolve(names)[names.index(layer.name)]
    return "–" if plan.keep else str(plan.bits)


AXIS_TITLE = "weight value"


@dataclass
class Ridge:
    """What the ridge shows, read off its canvas."""

    rows: list[list[str]]
    header: list[str]
    middle: float
    """Where zero is, in pixels."""
    unit: float
    """Pixels per unit of weight."""
    thresholds: list[float | None]
    """Where each row's dashed line to the right stands, as a weight; None where there is none."""

    @classmethod
    def read(cls, page: BarePage) -> Ridge:
        drawn = page.canvas("ridge-canvas")
        lines: dict[float, list[dict[str, float | str]]] = {}
        for text in sorted(drawn["texts"], key=lambda t: (t["y"], t["x"])):
            lines.setdefault(round(text["y"], 1), []).append(text)
        heights = sorted(lines)
        header = [y for y in heights if y < HEADER_BOTTOM]
        body = [y for y in heights if y >= HEADER_BOTTOM]
        axis = body.pop()
        ticks = [(float(plain(str(t["text"]))), float(t["x"])) for t in lines[axis] if t["text"] != AXIS_TITLE]
        (first, x0), (last, x1) = ticks[0], ticks[-1]
        unit = (x1 - x0) / (last - first)
        middle = x0 - first * unit
        edges = [(top, (x - middle) / unit) for x, top in drawn["dashed"] if x > middle]
        thresholds = [next((t for top, t in edges if top < y < top + TALLEST_ROW), None) for y in body]
        rows = [[plain(str(t["text"])) for t in lines[y]] for y in body]
        return cls(rows, [plain(str(t["text"])) for y in header for t in lines[y]], middle, unit, thresholds)


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_every_row_and_panel_says_what_python_computes(page: BarePage, recipe: sw.Recipe) -> None:
    estimate = settle(page, recipe)
    ridge = Ridge.read(page)
    assert ridge.rows == [
        [label, f"{layer.n:,}", pruned_text(layer, estimate), bits_of(layer, estimate), plain(bytes_text(layer.nbytes))]
        for label, layer in zip(labels(estimate), estimate.layers, strict=True)
    ]
    for layer, threshold in zip(estimate.layers, ridge.thresholds, strict=True):
        if threshold is not None:
            assert threshold == pytest.approx(layer.threshold, abs=PIXEL / ridge.unit), layer.name
    check_size(page, estimate)
    check_stats(page, estimate)
    check_accuracy(page)
    check_tables(page, estimate)


def check_size(page: BarePage, estimate: Estimate) -> None:
    """The size panel: the headline, the parts, and the widths of both bars."""
    assert page.words("size-now") == plain(bytes_text(estimate.nbytes))
    panel = page.page.locator(".sw-size")
    assert plain(panel.locator(".sw-from").inner_text()) == plain(bytes_text(estimate.original_nbytes))
    if estimate.ratio >= 1:
        assert page.words("ratio") == f"{times_text(estimate.ratio)} smaller"
    else:
        assert page.words("ratio") == f"{times_text(1 / estimate.ratio)} larger"
    parts = {
        "codes": sum(layer.codes for layer in estimate.layers),
        "mask": sum(layer.mask for layer in estimate.layers),
        "scales": sum(layer.scales for layer in estimate.layers),
        "uncompressed": estimate.uncompressed_bytes + sum(layer.as_is for layer in estimate.layers),
        "header": estimate.header,
    }
    shown = [plain(text).split(" ", 1) for text in panel.locator(".sw-parts li").all_inner_texts()]
    assert dict(shown) == {k: plain(bytes_text(v)) if v else "–" for k, v in parts.items()}
    widths = "(bars) => bars.map((bar) => bar.getBoundingClientRect().width)"
    enlarged = panel.locator(".sw-enlarged .sw-part").evaluate_all(widths)
    assert [w / sum(enlarged) for w in enlarged] == pytest.approx(
        [v / estimate.nbytes for v in parts.values()], abs=0.01
    )
    (dense,) = panel.locator(".sw-dense").evaluate_all(widths)
    now = sum(panel.locator(".sw-now .sw-part").evaluate_all(widths))
    assert now / dense == pytest.approx(estimate.nbytes / estimate.original_nbytes, abs=0.01)


def check_stats(page: BarePage, estimate: Estimate) -> None:
    """Error, density, bits per parameter, multiply-accumulates."""
    stats = dict(
        zip(*[iter(map(plain, page.page.locator(".sw-stats :is(dt, dd)").all_inner_texts()))] * 2, strict=True)
    )
    parameters = sum(p.numel() for p in sw.demo.model().parameters())
    assert page.words("sqnr").lstrip("≈ ") == plain(decibels_text(estimate.sqnr))
    assert page.words("pruned").lstrip("≈ ") == plain(share_text(estimate.sparsity))
    assert float(stats["bits per parameter"].lstrip("≈ ")) == pytest.approx(8 * estimate.nbytes / parameters, rel=0.006)
    macs = [layer.macs for layer in sw.summary(sw.demo.model(), sw.demo.data()[0][:1]).layers if layer.macs]
    left = sum(m * (1 - layer.sparsity) for m, layer in zip(macs, estimate.layers, strict=True))
    dense, now = (in_short(text) for text in stats["MACs"].split("→"))
    assert dense == pytest.approx(sum(macs), rel=0.006)
    assert now == pytest.approx(left, rel=0.006)


def in_short(text: str) -> float:
    """Turn "1.63 M" into a number."""
    number, _, unit = text.strip(" ≈").partition(" ")
    return float(number) * {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit.strip()]


def check_accuracy(page: BarePage) -> None:
    """The accuracy panel: before, now, its interval, its examples, and how it was obtained."""
    score = page.widget.score
    assert score is not None
    before = sw.evaluate(sw.demo.model(), sw.demo.data())
    panel = page.page.locator(".sw-accuracy")
    text = plain(panel.inner_text())
    assert plain(panel.locator(".sw-from").inner_text()) == f"{100 * before.value:.1f} %"
    assert page.words("accuracy") == f"{100 * score.value:.1f} %"
    assert f"{100 * score.low:.1f}" in text
    assert f"{100 * score.high:.1f}" in text
    assert f"{score.n:,} examples" in text
    assert score.provenance in text


def check_tables(page: BarePage, estimate: Estimate) -> None:
    """The table of layers: each column of each row."""
    toggle = page.page.locator(".sw-layers .sw-heading").get_by_text("as table", exact=True)
    toggle.click()
    page.page.wait_for_timeout(150)  # the table waits until the figures rest
    rows = page.part("layer-tables").locator("table").first.locator("tbody tr")
    script = "(rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText))"
    shown = [[plain(cell) for cell in row][:8] for row in rows.evaluate_all(script)]
    shapes = {name: tuple(p.shape) for name, p in sw.demo.model().named_parameters()}
    assert shown == [
        [
            layer_label(layer.name),
            "×".join(map(str, shapes[layer.name])),
            f"{layer.n:,}",
            plain(share_text(layer.sparsity)),
            bits_of(layer, estimate),
            plain(decibels_text(layer.sqnr)),
            plain(bytes_text(4 * layer.n)),
            plain(bytes_text(layer.nbytes)),
        ]
        for layer in estimate.layers
    ]
    toggle.click()


@pytest.mark.parametrize("recipe", [sw.Recipe(sparsity=0.8, bits=4), sw.Recipe(sparsity=0.6, scope="layer")], ids=repr)
def test_a_preview_shows_the_estimate_and_marks_it(page: BarePage, recipe: sw.Recipe) -> None:
    estimate = sw.estimate(page.widget.sketch, recipe)
    page.tell({"_recipe": recipe.to_json()})
    assert page.part("size-now").get_attribute("data-exact") == "false"
    assert int(page.part("size-now").get_attribute("data-bytes") or 0) == estimate.nbytes
    assert page.words("sqnr").lstrip("≈about ") == plain(decibels_text(estimate.sqnr))
    ridge = Ridge.read(page)
    threshold = f"pruned within ≈ ±{plain(weight_text(estimate.layers[0].threshold))}"
    assert (threshold in ridge.header) == (recipe.scope == "global"), ridge.header
    rows = ridge.rows
    assert [row[2].lstrip("≈ ") for row in rows] == [plain(share_text(layer.sparsity)) for layer in estimate.layers]
    assert [row[4].lstrip("≈ ") for row in rows] == [plain(bytes_text(layer.nbytes)) for layer in estimate.layers]


def test_the_line_of_a_global_threshold_stands_at_it(page: BarePage) -> None:
    estimate = settle(page, sw.Recipe(sparsity=0.8))
    ridge = Ridge.read(page)
    threshold = estimate.layers[0].threshold
    assert f"pruned within ±{plain(weight_text(threshold))}" in ridge.header
    assert len([t for t in ridge.thresholds if t is not None]) == len(estimate.layers)
    for found in ridge.thresholds:
        assert found == pytest.approx(threshold, abs=PIXEL / ridge.unit)


def test_the_points_of_the_history_stand_where_its_axes_say(page: BarePage) -> None:
    for sparsity, bits in ((0.5, 8), (0.9, 4), (0.8, 2), (0.95, 32)):
        settle(page, sw.Recipe(sparsity=sparsity, bits=bits))
    chart = page.part("scatter")
    points = chart.locator(".sw-points path")
    places = [
        tuple(float(n) for n in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", text)[0])
        for text in points.evaluate_all("(points) => points.map((p) => p.getAttribute('transform'))")
    ]
    x_ticks, y_ticks = read_ticks(page)
    cut = """(svg) => {
        const frame = svg.parentElement.getBoundingClientRect();
        const isCut = ({left, right, top, bottom}) =>
            left < frame.left - 1 || right > frame.right + 1 || top < frame.top - 1 || bottom > frame.bottom + 1;
        const texts = [...svg.querySelectorAll("text")];
        return texts.filter((text) => isCut(text.getBoundingClientRect())).map((text) => text.textContent);
    }"""
    assert chart.evaluate(cut) == []
    history = {(point["nbytes"], point["value"]) for point in page.widget.history}
    assert len(places) == len(history)
    for (x, y), (nbytes, value) in zip(sorted(places), sorted(history), strict=True):
        assert math.exp(interpolate(x, [(at, math.log(v)) for at, v in x_ticks])) == pytest.approx(nbytes, rel=0.02)
        assert interpolate(y, y_ticks) == pytest.approx(value, abs=0.006)


def test_retrained_and_recovered_points_have_shapes_of_their_own_and_the_front_joins_the_best(page: BarePage) -> None:
    settle(page, sw.Recipe(sparsity=0.8, bits=4))
    plain_points = [
        {
            "recipe": sw.Recipe(sparsity=s, bits=4).to_json(),
            "nbytes": n,
            "value": v,
            "low": None,
            "high": None,
            "n": 360,
        }
        | {"provenance": "no retraining", "result": None}
        for s, n, v in ((0.5, 60_000, 0.97), (0.8, 40_000, 0.9), (0.9, 30_000, 0.5), (0.95, 45_000, 0.8))
    ]
    retrained = {**plain_points[2], "value": 0.96, "provenance": "fine-tuned 3 epochs", "result": "1"}
    recovered = {**plain_points[2], "value": 0.9, "provenance": "recovered", "result": "2", "recovered": True}
    page.tell({"_history": [*plain_points, retrained, recovered]})
    shapes = page.part("shapes").locator("path").evaluate_all("(all) => all.map((p) => p.getAttribute('d'))")
    assert page.part("shapes").locator("text").all_text_contents() == ["not retrained", "recovered", "retrained"]
    points = page.part("scatter").locator(".sw-points path")
    found = points.evaluate_all("(all) => all.map((p) => [p.getAttribute('aria-label'), p.getAttribute('d')])")
    assert len(found) == 6
    for label, d in found:
        assert d == shapes[2 if "fine-tuned 3 epochs" in label else 1 if ", recovered:" in label else 0], label
        assert ("Go back to this recovered model" in label) == (d == shapes[1])
    x_ticks, y_ticks = read_ticks(page)
    front = page.part("scatter").locator(".sw-front").get_attribute("d") or ""
    joined = [tuple(map(float, numbers)) for numbers in re.findall(r"[ML]([\d.]+) ([\d.]+)", front)]
    sizes = [math.exp(interpolate(x, [(at, math.log(v)) for at, v in x_ticks])) for x, _ in joined]
    assert sizes == pytest.approx([30_000, 60_000], rel=0.02)
    assert [interpolate(y, y_ticks) for _, y in joined] == pytest.approx([0.96, 0.97], abs=0.006)


def read_ticks(page: BarePage) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Return (pixel, bytes) of the x axis and (pixel, share) of the y axis."""
    texts = (
        page.part("scatter")
        .locator(".sw-axis-text text")
        .evaluate_all(
            """(texts) => texts.map((t) => {
             const group = t.parentElement.getAttribute("transform");
             return {text: t.textContent, x: t.getAttribute("x"), y: group?.match(/translate\\(0 ([\\d.]+)\\)/)?.[1]};
           })"""
        )
    )
    x_ticks, y_ticks = [], []
    for tick in texts:
        text = plain(tick["text"])
        if re.fullmatch(r"[\d.]+ (B|kB|MB)", text) and tick["y"] is None:
            number, unit = text.split()
            x_ticks.append((float(tick["x"]), float(number) * {"B": 1, "kB": 1e3, "MB": 1e6}[unit]))
        elif text.endswith("%") and tick["y"] is not None:
            y_ticks.append((float(tick["y"]), float(text.rstrip(" %")) / 100))
    assert len(x_ticks) >= 2
    assert len(y_ticks) >= 2
    return sorted(x_ticks), sorted(y_ticks)


def interpolate(at: float, points: list[tuple[float, float]]) -> float:
    """Return the value at a place on the line through the first and the last of (place, value)."""
    (a, low), (b, high) = points[0], points[-1]
    return low + (high - low) * (at - a) / (b - a)


def test_the_silhouette_has_the_areas_of_the_bytes(page: BarePage) -> None:
    estimate = settle(page, sw.Recipe(sparsity=0.7, bits=4))
    dense = rectangles(page, "sw-silhouette-dense")
    now = rectangles(page, "sw-silhouette-now")
    assert len(dense) == len(now) == len(estimate.layers)
    area = sum(width * height for width, height in dense)
    everything = sum(4 * layer.n for layer in estimate.layers)
    channels = [p.shape[0] for p in sw.demo.model().parameters() if p.ndim >= 2]
    for (width, height), (_, filled), layer, wide in zip(dense, now, estimate.layers, channels, strict=True):
        assert width * height / area == pytest.approx(4 * layer.n / everything, abs=0.002)
        assert filled / height == pytest.approx(layer.nbytes / (4 * layer.n), abs=0.02)
        assert height / dense[0][1] == pytest.approx(wide / channels[0], rel=0.02)


def rectangles(page: BarePage, name: str) -> list[tuple[float, float]]:
    """Return (width, height) of each rectangle of a path."""
    path = page.part("silhouette").locator(f".{name}").get_attribute("d") or ""
    return [(float(w), float(h)) for w, h in re.findall(r"h([\d.]+)v([\d.]+)h-", path)]


def test_the_enlarged_layer_says_what_python_computes(page: BarePage) -> None:
    estimate = settle(page, sw.Recipe(sparsity=0.8, bits=3))
    layer = estimate.layers[5]
    page.part("ridge").focus()
    page.page.keyboard.press("Home")
    for _ in range(5):
        page.page.keyboard.press("ArrowDown")
    page.page.keyboard.press("Enter")
    page.painted()
    text = plain(page.part("detail").inner_text()).replace("≈", "")
    assert layer_label(layer.name) in text
    assert plain(f"{bytes_text(4 * layer.n)} → {bytes_text(layer.nbytes)}") in text
    assert plain(f"SQNR {decibels_text(layer.sqnr)}") in text
    assert f"keeps {layer.kept:,} of {layer.n:,} weights" in text
    assert plain(f"codes {bytes_text(layer.codes)}") in text


def test_weights_that_are_zero_already_are_told(context: BrowserContext) -> None:
    first = nn.Linear(40, 20)
    with torch.no_grad():
        first.weight[:, :12] = 0
    explorer = sw.explore(nn.Sequential(first, nn.Linear(20, 40)))
    assert explorer.wait(WAIT_SECONDS)
    page = BarePage.open(context.new_page(), explorer)
    hint = page.page.locator(".sw-controls .sw-hint").first
    assert plain(hint.inner_text()).endswith("of 1,600 weights; 15 % are zero already")
    page.part("ridge").focus()
    if page.part("detail").count() == 0:  # with few layers the first may be open
        page.page.keyboard.press("Enter")
    heading = page.part("detail").locator("header")
    expect(heading).to_contain_text("30\u00a0% are zero already")
    page.page.keyboard.press("ArrowDown")
    expect(heading).not_to_contain_text("zero already")
    explorer.close()


@pytest.mark.parametrize(
    "recipe",
    [
        sw.Recipe(sparsity=0.9925, bits=4, scope="layer"),
        sw.Recipe(structure="2:4", bits=8, granularity=64),
        sw.Recipe(sparsity=0.5, bits=3, quantizer="kmeans"),
    ],
    ids=repr,
)
def test_the_controls_say_what_the_recipe_says(page: BarePage, recipe: sw.Recipe) -> None:
    settle(page, recipe)
    options = page.part("options")  # folded where no option but the scope is set: budgets set that, too
    if options.get_attribute("aria-expanded") == "false":
        options.click()
    for name in ("bits", "scope", "structure", "granularity", "quantizer"):
        chosen = page.part(name).locator("input:checked")
        assert chosen.get_attribute("value") == str(getattr(getattr(recipe, name), "kind", getattr(recipe, name)))
    if recipe.structure.sparsity is None:
        assert float(page.part("sparsity-box").input_value()) == pytest.approx(100 * recipe.sparsity)
    words = plain(page.part("scatter").locator(".sw-points .sw-current").get_attribute("aria-label") or "")
    assert (f"{100 * recipe.sparsity:g} %" if recipe.structure.sparsity is None else recipe.structure.kind) in words
    assert f"{recipe.bits} bits" in words
