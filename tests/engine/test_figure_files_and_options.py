"""Figures for reports: the same bytes twice, text that is text, the numbers of the estimate, no setting changed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pypdf
import pytest
from matplotlib.figure import Figure
from PIL import Image

import shrinkwidget as sw
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.errors import FigureError, FileError
from shrinkwidget.figures import line_chart
from shrinkwidget.figures.figure_file import encoded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model() -> Any:
    return sw.demo.model()


@pytest.fixture(scope="module")
def looked(model: Any) -> Sketch:
    return sw.sketch(model)


@pytest.fixture(scope="module")
def points(model: Any) -> list[Any]:
    """Return a few models with their scores."""
    valid = sw.demo.data("valid")
    cuts = [sw.compress(model, sparsity=s, bits=4) for s in (0.5, 0.8, 0.9)]
    return [(cut, sw.evaluate(cut, valid)) for cut in cuts]


def words(figure: Figure) -> str:
    """Return the text of a figure as whoever searches its PDF finds it."""
    _, pdf = encoded(figure, "figure.pdf", 300, "text", False)
    found = " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages)
    return " ".join(found.split())


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_the_same_figure_gives_the_same_bytes(looked: Sketch, points: list[Any], ending: str, tmp_path: Path) -> None:
    for name, draw in (
        ("ridge", lambda: sw.figures.distributions(looked, sparsity=0.8, bits=4)),
        ("trade", lambda: sw.figures.tradeoff(points)),
    ):
        figure = draw()
        first = sw.figures.save(figure, tmp_path / f"{name}-1.{ending}").read_bytes()
        again = sw.figures.save(figure, tmp_path / f"{name}-2.{ending}").read_bytes()
        anew = sw.figures.save(draw(), tmp_path / f"{name}-3.{ending}").read_bytes()
        assert first == again == anew


def test_a_process_of_its_own_writes_the_same_bytes_without_pyplot(model: Any, tmp_path: Path) -> None:
    here = sw.figures.save(sw.figures.distributions(model, 0.8), tmp_path / "here.pdf").read_bytes()
    code = """
import sys
import shrinkwidget as sw
assert "matplotlib" not in sys.modules
sw.figures.save(sw.figures.distributions(sw.demo.model(), 0.8), "there.pdf")
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert (tmp_path / "there.pdf").read_bytes() == here


def test_no_setting_of_the_users_leaks_in_or_is_changed(looked: Sketch, points: list[Any], tmp_path: Path) -> None:
    plain = sw.figures.save(sw.figures.tradeoff(points), tmp_path / "plain.png").read_bytes()
    theirs: dict[Any, Any] = {
        "font.size": 31,
        "axes.grid": True,
        "lines.linewidth": 9,
        "text.color": "red",
        "axes.facecolor": "yellow",
    }
    theirs |= {"svg.fonttype": "path", "pdf.fonttype": 3, "path.sketch": (5, 50, 2), "savefig.dpi": 20}
    with mpl.rc_context(theirs):
        before = dict(mpl.rcParams)
        mine = sw.figures.save(sw.figures.tradeoff(points), tmp_path / "mine.png").read_bytes()
        sw.figures.save(sw.figures.distributions(looked, 0.8), tmp_path / "mine.pdf")
        assert dict(mpl.rcParams) == before
    assert mine == plain


def test_text_in_a_pdf_is_text_and_says_what_the_estimate_says(looked: Sketch) -> None:
    estimate = sw.estimate(looked, sparsity=0.8, bits=4)
    found = words(sw.figures.distributions(looked, estimate=estimate, width="nature-double"))
    for layer in looked.layers:
        assert layer.label in found
    rows = sw.figures.table("distributions", looked, estimate=estimate).rows
    assert [row["bytes"] for row in rows] == [layer.nbytes for layer in estimate.layers]
    assert (estimate.layer("stage3.1.conv2").nbytes, "stage3.1.conv2 ≈ 93 % 4 ≈ 6.10 kB" in found) == (6102, True)


def test_text_in_an_svg_is_text_or_paths(points: list[Any], tmp_path: Path) -> None:
    figure = sw.figures.tradeoff(points)
    text = sw.figures.save(figure, tmp_path / "a.svg").read_text(encoding="utf-8")
    paths = sw.figures.save(figure, tmp_path / "b.svg", text="paths").read_text(encoding="utf-8")
    assert ">compression ratio</text>" in text
    assert "</text>" not in paths


@pytest.mark.parametrize("ending", ["pdf", "svg", "png"])
def test_a_file_says_where_its_numbers_come_from(
    looked: Sketch, points: list[Any], ending: str, tmp_path: Path
) -> None:
    recipe = sw.Recipe(sparsity=0.8, bits=4, layers={"stem": sw.Keep, "head": dict(bits=8)})
    sw.figures.save(sw.figures.distributions(looked, recipe), tmp_path / f"a.{ending}")
    (chart,) = sw.figures.read(tmp_path / f"a.{ending}")["charts"]
    assert sw.Recipe.from_json(chart["recipe"]) == recipe
    assert (chart["kind"], chart["model"], chart["exact"]) == ("distributions", "DigitNet", False)
    sw.figures.save(sw.figures.tradeoff(points), tmp_path / f"b.{ending}")
    found = sw.figures.read(tmp_path / f"b.{ending}")
    (chart,) = found["charts"]
    assert (chart["metric"], chart["n"], chart["provenance"]) == ("accuracy", [287], ["no retraining"])
    assert [sw.Recipe.from_json(text) for text in chart["recipes"]] == [cut.recipe for cut, _ in points]
    assert found["versions"]["shrinkwidget"] == sw.__version__


def test_two_charts_on_the_users_own_axes_are_both_told(looked: Sketch, points: list[Any], tmp_path: Path) -> None:
    figure = Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2)
    assert sw.figures.tradeoff(points, ax=left) is figure
    sw.figures.distributions(looked, 0.5, ax=right)
    right.set_title("mine")
    sw.figures.save(figure, tmp_path / "both.pdf")
    assert [chart["kind"] for chart in sw.figures.read(tmp_path / "both.pdf")["charts"]] == [
        "tradeoff",
        "distributions",
    ]
    assert "mine" in words(figure)


def test_a_trade_off_draws_the_points_it_was_given(points: list[Any]) -> None:
    figure = sw.figures.tradeoff(points, baseline=0.998)
    drawn = [
        line for line in figure.axes[0].lines if np.size(line.get_xdata()) == len(points) and line.get_marker() == "o"
    ]
    np.testing.assert_allclose(
        np.asarray(drawn[0].get_xdata()), [cut.original_nbytes / cut.nbytes for cut, _ in points]
    )
    np.testing.assert_allclose(np.asarray(drawn[0].get_ydata()), [score.value for _, score in points])
    assert "dense 99.8 %" in words(figure)


def test_seeds_become_their_mean_and_deviation() -> None:
    seeds = [[dict(ratio=r, value=v + 0.01 * seed) for r, v in ((2, 0.9), (4, 0.8))] for seed in range(3)]
    rows = sw.figures.table("tradeoff", {"mine": seeds}).rows
    assert [row["ratio"] for row in rows] == pytest.approx([2, 4])
    assert [row["score"] for row in rows] == pytest.approx([0.91, 0.81])
    assert [row["sd"] for row in rows] == pytest.approx([0.01, 0.01])
    assert [row["seeds"] for row in rows] == [3, 3]


def test_series_differ_in_grey_by_marker_and_dashes() -> None:
    looks = line_chart.LOOKS
    assert len({look.marker for look in looks}) == len({look.dashes for look in looks}) == len(looks)
    drawn = []
    for look in looks:
        figure = Figure(figsize=(1.2, 0.4), dpi=100)
        chart = line_chart.LineChart(_page(), figure.add_axes((0, 0, 1, 1)), 100, 30, own=True)
        chart.ax.set_axis_off()
        chart.line([0.1, 0.5, 0.9], [0.5, 0.5, 0.5], look)
        stream = io.BytesIO()
        figure.savefig(stream, format="png")
        # black or white: what is left when even the shade of grey is gone
        drawn.append(np.asarray(Image.open(stream).convert("L")) < 200)
    for i, one in enumerate(drawn):
        for other in drawn[:i]:
            assert (one != other).sum() > 0.1 * one.sum()


def _page() -> Any:
    from shrinkwidget.figures.page_size_and_style import page_of

    return page_of({})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (dict(width="nature"), "'nature-single' or 'nature-double'|did you mean"),
        (dict(width="natur-single"), "did you mean 'nature-single'"),
        (dict(width=5), "width=5 must be between 20 and 2000 mm"),
        (dict(style="papper"), "did you mean 'paper'"),
        (dict(size="big"), "size='big' must be a number of points"),
        (dict(labels=["a"]), "labels=.* must be a dict"),
        (dict(height=10.5, size=40), "height=10.5 is too low for 'tradeoff' with text of 40 points: it needs 122 mm"),
        (dict(width=30, size=40), "no room for 'tradeoff': 30 mm are too narrow .*; give width=165 or more"),
        (dict(x="bits"), "x='bits' must be 'ratio' or 'nbytes'"),
    ],
)
def test_an_option_that_cannot_be_is_answered_with_what_can(points: list[Any], options: Any, error: str) -> None:
    with pytest.raises(FigureError, match=error):
        sw.figures.tradeoff(points, **options)


def test_an_unknown_kind_is_answered_with_the_nearest() -> None:
    with pytest.raises(FigureError, match="there is no figure 'trade-of'; did you mean 'tradeoff'"):
        sw.figures.draw("trade-of", [])
    with pytest.raises(sw.errors.ArgumentError, match="has no argument 'widht'; did you mean 'width'"):
        sw.figures.draw("tradeoff", [], widht=3)


def test_a_font_that_is_missing_is_told(points: list[Any]) -> None:
    with pytest.warns(UserWarning, match=r"the font 'Comic Sains' is not installed.*DejaVu Sans is used"):
        sw.figures.tradeoff(points, font="Comic Sains")


@pytest.mark.parametrize("found", [[], [dict(nbytes=10, value=float("nan"))], {"a": []}])
def test_results_without_a_point_are_refused(found: Any) -> None:
    with pytest.raises(FigureError, match="there is nothing to draw in 'tradeoff'"):
        sw.figures.tradeoff(found)


def test_what_cannot_be_written_leaves_the_old_file(points: list[Any], tmp_path: Path) -> None:
    figure = sw.figures.tradeoff(points)
    there = tmp_path / "old.pdf"
    there.write_bytes(b"old")
    there.chmod(0o400)
    (tmp_path / "folder.pdf").mkdir()
    for path in (tmp_path / "folder.pdf", tmp_path / "missing" / "a.pdf"):
        with pytest.raises(FileError, match="cannot write"):
            sw.figures.save(figure, path)
    with pytest.raises(FigureError, match="did you mean 'pdf'"):
        sw.figures.save(figure, tmp_path / "a.pdff")
    assert there.read_bytes() == b"old"
    with pytest.raises(FileError, match=r"no figure that sw\.figures\.save wrote"):
        sw.figures.read(there)


def test_a_name_that_is_markup_is_text(tmp_path: Path) -> None:
    names = ["$x_1$", "<b>bold</b>", "a&b", "c_{d}^2", "\\alpha", "日本"]
    found = {name: [dict(ratio=2 + i, value=0.5 + i / 20)] for i, name in enumerate(names)}
    figure = sw.figures.tradeoff(found, width=200)
    text = words(figure)
    for name in names[:-1]:
        assert name in text
    svg = sw.figures.save(figure, tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "<b>" not in svg
    table = sw.figures.table("tradeoff", found)
    assert "\\$x\\_1\\$" in table.latex()
    assert "&lt;b&gt;" in table.markdown()


def test_threads_draw_the_same_figure(looked: Sketch, tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    found: list[bytes] = []

    def draw(i: int) -> None:
        found.append(sw.figures.save(sw.figures.distributions(looked, 0.8), tmp_path / f"{i}.png", dpi=60).read_bytes())

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert dict(mpl.rcParams) == before
