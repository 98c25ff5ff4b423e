"""What a figure draws is what the engine says: positions, lengths, areas and words are read back from the artists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection, QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch

import shrinkwidget as sw
from shrinkwidget.figures.canvas import ACCURACY, DENSE, GRID, KEPT, OUTLINE
from shrinkwidget.figures.numbers_and_recipes_as_text import bytes_text, share_text, times_text, value_text, weight_text
from shrinkwidget.figures.snapshot_size_score_history import PARTS

RECIPE = sw.Recipe(sparsity=0.7, bits=3, granularity="tensor", layers={"stem": sw.Keep, "head": dict(bits=5)})


@pytest.fixture(scope="module")
def model() -> Any:
    return sw.demo.model()


@pytest.fixture(scope="module")
def valid() -> Any:
    return sw.demo.data("valid")


@pytest.fixture(scope="module")
def small(model: Any) -> sw.CompressedModel:
    return sw.compress(model, RECIPE)


@pytest.fixture(scope="module")
def exact(small: sw.CompressedModel) -> Any:
    assert small.estimate is not None
    return small.estimate


@dataclass(frozen=True)
class Sheet:
    """What stands on Axes that are laid out in pixels, y downwards."""

    ax: Axes

    @property
    def words(self) -> list[str]:
        return [text.get_text() for text in self.ax.texts]

    def place(self, words: str) -> tuple[float, float]:
        """Return where the only text that reads like this stands."""
        (text,) = [text for text in self.ax.texts if text.get_text() == words]
        x, y = text.get_position()
        return float(x), float(y)

    def lines(self, color: str, dashed: bool | None = None) -> list[np.ndarray]:
        """Return the lines of a color, each [points, 2]."""
        found = []
        for drawn in self.ax.collections:
            if isinstance(drawn, LineCollection) and to_hex(np.asarray(drawn.get_color())[0]) == color.lower():
                style: Any = drawn.get_linestyle()[0]  # (offset, dashes), None for a solid line
                if dashed is None or (style[1] is not None) is dashed:
                    found += [np.asarray(segment) for segment in drawn.get_segments()]
        return found

    def boxes(self, color: str) -> list[tuple[float, float, float, float]]:
        """Return left, top, right and bottom of the filled shapes of a color, in the order they were drawn."""
        found = []
        for patch in self.ax.patches:
            if isinstance(patch, PathPatch) and to_hex(patch.get_facecolor()) == color.lower():
                for shape in patch.get_path().to_polygons(closed_only=False):
                    (left, top), (right, bottom) = np.asarray(shape).min(0), np.asarray(shape).max(0)
                    found.append((float(left), float(top), float(right), float(bottom)))
        return found

    def filled_at(self, x: float, color: str) -> float:
        """Return how much of an upright line is filled with a color, keys at the top left out."""
        found = 0.0
        for patch in self.ax.patches:
            if isinstance(patch, PathPatch) and to_hex(patch.get_facecolor()) == color.lower():
                for shape in map(np.asarray, patch.get_path().to_polygons(closed_only=False)):
                    ends = zip(shape, np.roll(shape, -1, axis=0), strict=True)
                    crossed = [
                        a[1] + (b[1] - a[1]) * (x - a[0]) / (b[0] - a[0])
                        for a, b in ends
                        if (a[0] - x) * (b[0] - x) < 0
                    ]
                    found += float(np.ptp(crossed)) if crossed and min(crossed) > 15 else 0.0
        return found

    def weights(self, x: Any) -> np.ndarray:
        """Return the weights at pixels, by the values written on the axis."""
        ticks = [
            (text.get_position()[0], float(text.get_text().replace("−", "-")))
            for text in self.ax.texts
            if re.fullmatch(r"−?\d*\.?\d+", text.get_text()) and text.get_horizontalalignment() == "center"
        ]
        (x0, w0), (x1, w1) = ticks[0], ticks[-1]
        return w0 + (np.asarray(x) - x0) * (w1 - w0) / (x1 - x0)


def sheet(figure: Figure) -> Sheet:
    (ax,) = figure.axes
    return Sheet(ax)


def lines(ax: Axes, count: int, marker: str | None = None) -> list[Line2D]:
    """Return the lines of so many points."""
    return [
        line for line in ax.lines if np.size(line.get_xdata()) == count and marker in (None, str(line.get_marker()))
    ]


def intervals(ax: Axes) -> list[tuple[float, float]]:
    """Return the ends of all upright bars."""
    return [
        (float(low), float(high))
        for bars in ax.collections
        if isinstance(bars, LineCollection)
        for (_, low), (_, high) in bars.get_segments()
    ]


@pytest.mark.parametrize("arrangement", ["ridge", "small_multiples"])
def test_distributions_draw_thresholds_levels_and_shares_of_the_weights(
    model: Any, small: sw.CompressedModel, exact: Any, arrangement: str
) -> None:
    names = ["stage2.1.conv2", "stage3.1.conv2"]
    figure = sw.figures.distributions(
        model, estimate=exact, show=names, arrangement=arrangement, numbers=True, width="nature-double"
    )
    drawn, state = sheet(figure), small.state_dict()
    layers = [exact.layer(name) for name in names]
    ends = [line for line in drawn.lines(GRID, dashed=True) if line[1, 1] - line[0, 1] > 15]  # the key's is shorter
    for layer, left, right in zip(layers, ends[::2], ends[1::2], strict=True):
        if arrangement == "ridge":  # its axis is that of all; each of the small multiples has one below it
            assert drawn.weights([left[0, 0], right[0, 0]]) == pytest.approx([-layer.threshold, layer.threshold])
    assert (ends[1][0, 0] - ends[0][0, 0]) / (ends[3][0, 0] - ends[2][0, 0]) == pytest.approx(1)  # ranked together
    for name, layer in zip(names, layers, strict=True):
        weights = state[f"{name}.weight"]
        assert float((weights == 0).float().mean()) == pytest.approx(layer.sparsity, abs=0.2)
        assert share_text(layer.sparsity) in drawn.words
    if arrangement == "ridge":
        for name, layer in zip(names, layers, strict=True):
            y = drawn.place(name)[1]
            row = [text for text in drawn.ax.texts if abs(text.get_position()[1] - y) < 2]
            row.sort(key=lambda text: text.get_position()[0])
            assert [text.get_text() for text in row] == [
                name,
                share_text(layer.sparsity),
                "3",
                bytes_text(layer.nbytes),
            ]


def test_the_levels_of_a_ridge_are_those_of_the_weights(model: Any) -> None:
    name = "stage3.1.conv2"
    recipe = RECIPE.with_(quantizer=sw.methods.Uniform(symmetric=True))
    drawn = sheet(sw.figures.distributions(model, recipe, show=[name], width="nature-double"))
    ticks = [line for line in drawn.lines(GRID, dashed=False) if line[1, 1] - line[0, 1] == pytest.approx(3)]
    levels = drawn.weights([tick[0, 0] for tick in ticks])
    compressed = sw.compress(model, recipe)
    scale = float(np.asarray(compressed.encoded[f"{name}.weight"].scales)[0])
    assert levels == pytest.approx(scale * np.arange(-3, 4), abs=1e-7)
    for value in np.unique(compressed.state_dict()[f"{name}.weight"].numpy()):
        assert np.abs(levels - value).min() < 1e-7


def test_the_outline_of_a_layer_is_the_histogram_of_its_weights(model: Any) -> None:
    name = "stage3.0.conv1"
    drawn = sheet(sw.figures.layer(model, name, errors=False, width="nature-double"))
    (outline,) = [line for line in drawn.lines(OUTLINE) if len(line) > 20]
    base = outline[:, 1].max()
    at = drawn.weights(outline[1:-1, 0])
    width = at[1] - at[0]
    counts, _ = np.histogram(
        model.get_parameter(f"{name}.weight").detach().numpy(), [*(at - width / 2), at[-1] + width / 2]
    )
    heights = base - outline[1:-1, 1]
    assert np.corrcoef(heights, counts)[0, 1] > 0.999


def test_a_layer_has_its_threshold_and_its_error_at_every_number_of_bits(model: Any, exact: Any) -> None:
    name = "stage2.0.conv2"
    figure = sw.figures.layer(model, name, estimate=exact, width="nature-double")
    drawn, errors = Sheet(figure.axes[0]), figure.axes[1]
    threshold = exact.layer(name).threshold
    left, right = (line for line in drawn.lines(GRID, dashed=True) if line[1, 1] - line[0, 1] > 15)
    assert drawn.weights([left[0, 0], right[0, 0]]) == pytest.approx([-threshold, threshold])
    assert f"±{weight_text(threshold)}" in drawn.words
    (curve,) = lines(errors, 8)
    assert list(np.asarray(curve.get_xdata())) == [1, 2, 3, 4, 5, 6, 7, 8]
    for bits, decibels in zip(range(1, 9), np.asarray(curve.get_ydata()), strict=True):
        own = dict(bits=bits, sparsity=exact.layer(name).sparsity)
        at = sw.estimate(model, RECIPE.with_(layers={**RECIPE.layers, f"{name}.weight": own}))
        assert decibels == pytest.approx(at.layer(name).sqnr)


def test_the_bars_of_the_size_are_the_bytes_of_the_file(small: sw.CompressedModel, tmp_path: Path) -> None:
    drawn = sheet(sw.figures.size(small, width="nature-single"))
    written = small.save(tmp_path / "small.safetensors")
    ((left, _, right, _),) = drawn.boxes(DENSE)
    scale = (right - left) / small.original_nbytes
    now, large, parts = [], [], small.parts()
    for part, color in PARTS:
        first, second = drawn.boxes(color)
        now.append(first[2] - first[0])
        large.append(second[2] - second[0])
        assert bytes_text(parts[part]) in drawn.words
        assert now[-1] == pytest.approx(parts[part] * scale)
        assert large[-1] == pytest.approx(parts[part] / written * (right - left))
    assert sum(now) == pytest.approx(written * scale)


def test_the_bars_of_the_layers_are_their_bytes(model: Any, exact: Any) -> None:
    figure = sw.figures.size(model, estimate=exact, by="layer", width="nature-double")
    drawn = sheet(figure)
    *dense, _ = drawn.boxes(DENSE)  # the last is the key's
    largest = max(right - left for left, _, right, _ in dense)
    scale = largest / max(layer.n * 4 for layer in exact.layers)
    for (left, top, right, _), layer in zip(dense, exact.layers, strict=True):
        assert right - left == pytest.approx(4 * layer.n * scale)
        codes = [box for box in drawn.boxes(KEPT) if box[1] == top]
        assert sum(box[2] - box[0] for box in codes) == pytest.approx(layer.codes * scale)
        assert f"{bytes_text(4 * layer.n)} → {bytes_text(layer.nbytes)}" in drawn.words


def test_the_steps_of_a_waterfall_are_files(model: Any, small: sw.CompressedModel, tmp_path: Path) -> None:
    pruned = sw.compress(model, RECIPE.with_(bits=32, layers={"stem": sw.Keep}))
    steps = {"dense": small.original_nbytes, "pruned": pruned, "quantized": small}
    drawn = sheet(sw.figures.size(model, steps=steps, width="nature-double"))
    bars = [right - left for left, _, right, _ in drawn.boxes(KEPT)]
    files = [small.original_nbytes, pruned.save(tmp_path / "p.safetensors"), small.save(tmp_path / "q.safetensors")]
    assert np.array(bars) / bars[0] == pytest.approx(np.array(files) / files[0])
    for nbytes in files:
        assert {bytes_text(nbytes), times_text(files[0] / nbytes)} <= set(drawn.words)


def test_the_areas_of_the_silhouette_are_bytes(model: Any, exact: Any) -> None:
    drawn = sheet(sw.figures.silhouette(model, estimate=exact, width="nature-double"))
    boxes = [line for line in drawn.lines(OUTLINE) if len(line) == 5]
    dense = [np.ptp(box[:, 0]) * np.ptp(box[:, 1]) for box in boxes]
    assert np.array(dense) / sum(dense) == pytest.approx(
        np.array([layer.n for layer in exact.layers]) / sum(layer.n for layer in exact.layers)
    )
    for box, layer in zip(boxes, exact.layers, strict=True):
        filled = drawn.filled_at(float(box[:, 0].mean()), KEPT)
        assert filled / np.ptp(box[:, 1]) == pytest.approx(layer.nbytes / (4 * layer.n), rel=1e-3)
    assert f"now {bytes_text(exact.nbytes)}" in drawn.words


def test_a_trade_off_draws_scores_intervals_and_the_dense_model(model: Any, valid: Any) -> None:
    cuts = [sw.compress(model, s, bits=4) for s in (0.5, 0.8, 0.85)]
    scores, dense = [sw.evaluate(cut, valid) for cut in cuts], sw.evaluate(model, valid)
    (ax,) = sw.figures.tradeoff(list(zip(cuts, scores, strict=True)), baseline=dense).axes
    (line,) = lines(ax, 3, "o")
    assert list(np.asarray(line.get_xdata())) == pytest.approx([cut.original_nbytes / cut.nbytes for cut in cuts])
    assert list(np.asarray(line.get_ydata())) == [score.value for score in scores]
    assert intervals(ax) == [(score.low, score.high) for score in scores]
    assert [list(np.asarray(line.get_ydata())) for line in lines(ax, 2) if line.get_linestyle() == "--"] == [
        [dense.value, dense.value]
    ]


@pytest.fixture(scope="module")
def measured(model: Any, valid: Any) -> sw.results.Sensitivity:
    return sw.sensitivity(model, valid, sparsity=(0.5, 0.8, 0.95), layers=["stem", "stage1.*", "head"], progress=False)


def test_sensitivity_draws_every_score(measured: sw.results.Sensitivity) -> None:
    (ax,) = sw.figures.sensitivity(measured, width="nature-double").axes
    drawn = sorted(tuple(np.asarray(line.get_ydata())) for line in lines(ax, 3))
    assert drawn == sorted(tuple(score.value for score in layer.scores) for layer in measured.layers)
    (ax,) = sw.figures.sensitivity(measured, by="heat_map", width="nature-double").axes
    (mesh,) = [mesh for mesh in ax.collections if isinstance(mesh, QuadMesh)]
    values = np.array([[score.value for score in layer.scores] for layer in measured.layers])
    lost = (measured.dense.value - values) / (measured.dense.value - values.min())
    np.testing.assert_allclose(np.asarray(mesh.get_array()).reshape(lost.shape), lost.clip(0, 1))
    for i, layer in enumerate(measured.layers):
        for j, score in enumerate(layer.scores):
            (text,) = [text.get_text() for text in ax.texts if text.xy == (j + 0.5, i + 0.5)]  # type: ignore[attr-defined]
            assert text == value_text(score.value, percent=True)


def test_a_training_draws_its_history_and_its_interval(small: sw.CompressedModel, valid: Any) -> None:
    run = sw.retrain(small, sw.demo.few(10), valid, epochs=3, lr=0.02, background=True)
    assert run.wait()
    score, loss, rate = sw.figures.training(run).axes
    tests = [run.baseline.to_dict() if run.baseline else {}, *(row["test"] for row in run.history)]
    (line,) = lines(score, 4, "o")
    assert list(np.asarray(line.get_xdata())) == [0, 1, 2, 3]
    assert list(np.asarray(line.get_ydata())) == [test["value"] for test in tests]
    (band,) = [band for band in score.collections if isinstance(band, PolyCollection)]
    corners = {tuple(corner) for corner in np.asarray(band.get_paths()[0].vertices).round(12).tolist()}
    assert {(i, round(test[end], 12)) for i, test in enumerate(tests) for end in ("low", "high")} <= corners
    for ax, name in ((loss, "loss"), (rate, "lr")):
        (line,) = [
            one for one in ax.lines if to_hex(str(one.get_color())) != "#d5dae0" and np.size(one.get_xdata()) == 4
        ]
        assert list(np.asarray(line.get_ydata()))[1:] == [row[name] for row in run.history]


def test_classes_draw_what_is_right_before_and_after(model: Any, valid: Any) -> None:
    found = sw.compare_predictions(model, sw.compress(model, 0.85, bits=4), valid)
    figure = sw.figures.classes(found, width="nature-double")
    drawn = Sheet(figure.axes[0])
    (x0, _), (x1, _) = drawn.place("0\N{NARROW NO-BREAK SPACE}%"), drawn.place("100\N{NARROW NO-BREAK SPACE}%")
    after = [line for line in drawn.ax.lines if line.get_marker() == "D"][: len(found.by_class)]
    before = [
        line
        for line in drawn.ax.lines
        if line.get_marker() == "o" and to_hex(str(line.get_markerfacecolor())) == OUTLINE
    ]

    def shares(dots: Sequence[Line2D]) -> list[float]:
        return [(float(np.asarray(dot.get_xdata())[0]) - x0) / (x1 - x0) for dot in dots]

    assert shares(after) == pytest.approx([change.after for change in found.by_class])
    assert shares(before[: len(found.by_class)]) == pytest.approx([change.before for change in found.by_class])
    beside = Sheet(figure.axes[1]).words
    for confusion in found.confusions[:3]:
        assert f"{confusion.label} as {confusion.predicted}" in beside
        assert f"{confusion.before:,} → {confusion.after:,}" in beside
    pictures = [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images]
    shown = [found.images[m.example] for m in found.misread if m.example in found.images]
    assert len(pictures) == min(8, len(shown))
    for picture, image in zip(pictures, shown, strict=False):
        pixels = np.asarray(image)[0]
        np.testing.assert_allclose(picture, (pixels - pixels.min()) / np.ptp(pixels), atol=1e-6)
    assert to_hex(str(after[0].get_markerfacecolor())) == ACCURACY.lower()


def test_a_transfer_draws_the_scores_of_every_number_of_examples(model: Any, valid: Any) -> None:
    cuts = {n: sw.evaluate(sw.compress(model, s, bits=4), valid) for n, s in ((5, 0.9), (20, 0.85), (80, 0.8))}
    (ax,) = sw.figures.transfer({"one": cuts, "two": dict(list(cuts.items())[:2])}).axes
    (one,) = [line for line in lines(ax, 3) if line.get_marker() == "o"]
    (two,) = [line for line in lines(ax, 2) if line.get_marker() == "s" and line.get_transform() != ax.transAxes]
    for line in (one, two):
        assert (
            list(np.asarray(line.get_ydata())) == [score.value for score in cuts.values()][: np.size(line.get_xdata())]
        )
        assert list(np.asarray(line.get_xdata())) == pytest.approx(list(cuts)[: np.size(line.get_xdata())], rel=0.06)
    every = [(score.low, score.high) for score in cuts.values()]
    assert intervals(ax) == [*every, *every[:2]]


def test_devices_draw_a_mark_at_what_each_has_and_a_line_at_what_is_needed(small: sw.CompressedModel) -> None:
    found = sw.fits(small, torch.zeros(1, 1, 8, 8))
    drawn = sheet(sw.figures.devices(found, width="nature-double"))
    centred = [text for text in drawn.ax.texts if text.get_horizontalalignment() == "center"]
    ticks = {text.get_text(): text.get_position()[0] for text in reversed(centred)}  # flash comes first
    for what, color, marker in ((True, KEPT, "o"), (False, GRID, "X")):
        marks = [line for line in drawn.ax.lines if line.get_marker() == marker]
        assert {to_hex(str(mark.get_markerfacecolor())) for mark in marks} == {color.lower()}
        fitting = sum(room.fits is what for row in found.rows for room in (row.flash, row.ram) if room.capacity)
        assert len(marks) == fitting + 1  # and one in the key
    flash, ram = (line for line in drawn.lines(KEPT, dashed=False))
    (dense,) = drawn.lines(OUTLINE, dashed=True)
    # kB and MB are powers of ten: two ticks give the scale of the panel of flash
    (x0, x1), step = (ticks["100\N{NARROW NO-BREAK SPACE}kB"], ticks["10\N{NARROW NO-BREAK SPACE}MB"]), 2

    def nbytes(x: float) -> float:
        return 10 ** (5 + (x - x0) / (x1 - x0) * step)

    assert nbytes(flash[0][0]) == pytest.approx(found.file_bytes, rel=1e-6)
    assert nbytes(dense[0][0]) == pytest.approx(found.dense_bytes, rel=1e-6)
    rows = {text.get_text(): text.get_position()[1] for text in drawn.ax.texts}
    for row in found.rows:
        if row.device.flash is not None:
            y = rows[row.device.name]
            at = [m for m in drawn.ax.lines if abs(float(np.asarray(m.get_ydata())[0]) - y) < 4]
            first = min(float(np.asarray(m.get_xdata())[0]) for m in at)
            assert nbytes(first) == pytest.approx(row.device.flash, rel=1e-6)
    assert ram[0][0] > flash[0][0]
    table = sw.figures.table("devices", found)
    assert [row["RAM"] for row in table.rows] == [device.ram for device in found.devices]
    assert "It fits 5: STM32H743" in sw.figures.caption("devices", found)


def test_a_race_draws_its_ratios_intervals_and_controls() -> None:
    found = sw.results.Race.example()
    drawn = sheet(sw.figures.race(found, width="nature-double"))
    ticks = {t.get_text(): t.get_position()[0] for t in drawn.ax.texts if t.get_horizontalalignment() == "center"}

    def ratio(x: float) -> float:
        return float(2 ** ((x - ticks["1×"]) / (ticks["2×"] - ticks["1×"])))

    for marker, color, wanted in (
        ("o", KEPT, [at.times[1].cpu for at in found.batches]),
        ("D", OUTLINE, [at.control_cpu for at in found.batches]),
    ):
        dots = [float(np.asarray(d.get_xdata())[0]) for d in drawn.ax.lines if d.get_marker() == marker]
        assert [ratio(x) for x in dots] == pytest.approx([r.value for r in wanted if r])
        spans = [line for line in drawn.lines(color, dashed=False) if line[0][1] == line[1][1]]
        ends = [(ratio(span[0][0]), ratio(span[1][0])) for span in spans]
        assert ends == [pytest.approx((r.low, r.high)) for r in wanted if r]
    assert {r.text for at in found.batches for r in (at.control_cpu, at.times[1].cpu) if r} <= set(drawn.words)
    assert sw.figures.table("race", found).rows[1]["faster"] == found.ratio("small", 1).value
    assert found.conditions in sw.figures.caption("race", found)
    told = found.to_dict()
    told["batches"][0]["control_cpu"] = dict(value=1.3, low=1.2, high=1.4)
    assert "This machine is too busy to tell" in sw.figures.caption("race", sw.results.Race.from_dict(told))


@pytest.mark.parametrize("kind", ["devices", "race"])
def test_devices_and_races_of_anything_else_are_refused(kind: str) -> None:
    with pytest.raises(sw.errors.FigureError, match=f"cannot draw the {kind} of an int: give what sw"):
        sw.figures.draw(kind, 3)


def test_a_summary_draws_what_its_parts_draw(
    model: Any, exact: Any, measured: sw.results.Sensitivity, valid: Any
) -> None:
    found = sw.compare_predictions(model, sw.compress(model, 0.85, bits=4), valid)
    figure = sw.figures.summary(model, estimate=exact, sensitivity=measured, classes=found, width="poster")

    def numbers(figure: Figure) -> set[str]:
        return {text.get_text() for ax in figure.axes for text in ax.texts if re.search(r"\d", text.get_text())}

    whole = numbers(figure)
    assert numbers(sw.figures.size(model, estimate=exact)) <= whole
    assert numbers(sw.figures.silhouette(model, estimate=exact)) <= whole
    assert numbers(sw.figures.classes(found)) <= whole
    curves = {
        tuple(np.asarray(line.get_ydata())) for ax in figure.axes for line in ax.lines if np.size(line.get_xdata()) == 3
    }
    assert {tuple(score.value for score in layer.scores) for layer in measured.layers} <= curves
