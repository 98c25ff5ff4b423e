"""Figures of what should not be there: names that are markup, NaN, empty histories, full disks, formulas in tables."""

from __future__ import annotations

import csv
import io
import math
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pypdf
import pytest
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.errors import FigureError, FileError
from shrinkwidget.figures.figure_file import encoded
from shrinkwidget.training.methods_schedule_options_and_progress import TrainingOptions, TrainingSpec
from shrinkwidget.training.retrain_and_training_run import TrainingRun

NAMES = (
    "$x_{1}^2$",
    "<b>bold</b>",
    "a&amp;b",
    r"\\alpha",
    "100%",
    "(open",
    "=SUM(A1)",
    "-1+1",
    "[2pt]",
    "*",
    "tab\there",
)


@pytest.fixture(scope="module")
def odd() -> nn.Module:
    """Return a model whose layers have such names."""
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict((name, nn.Linear(8, 8, bias=False)) for name in NAMES))


def words(figure: Any) -> str:
    """Return the text of a figure as whoever searches its PDF finds it."""
    _, pdf = encoded(figure, "figure.pdf", 300, "text", False)
    return " ".join(" ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages).split())


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(arrangement="small_multiples"),
        dict(by="layer"),
    ],
    ids=["ridge", "small multiples", "size"],
)
def test_names_of_layers_that_are_markup_are_text(odd: nn.Module, options: dict[str, Any], tmp_path: Path) -> None:
    draw = sw.figures.size if "by" in options else sw.figures.distributions
    figure = draw(odd, 0.5, bits=4, width=260, **options)
    found = words(figure)
    for name in NAMES:
        assert name.replace("\t", " ") in found
    svg = sw.figures.save(figure, tmp_path / "a.svg")
    assert "<b>" not in svg.read_text(encoding="utf-8")
    for path in (svg, sw.figures.save(figure, tmp_path / "a.pdf"), sw.figures.save(figure, tmp_path / "a.png", dpi=40)):
        (chart,) = sw.figures.read(path)["charts"]
        assert chart["caption"]
        if "layers" in chart:
            assert [name.removesuffix(".weight") for name in chart["layers"]] == list(NAMES)


def test_words_of_the_users_are_text_and_no_control_character_spoils_the_file(tmp_path: Path) -> None:
    scores = {n: sw.Score(n / 100, 0, 1, 10, 10, "$m_{a}$", percent=True) for n in (10, 20)}
    figure = sw.figures.transfer(
        {"<i>\x1b[1m": scores, "$b$": scores}, per="$n_{x}$ \x00 of 5 %", title="$\\frac{a}{b}$"
    )
    assert {"$m_{a}$", "$b$", "$n_{x}$", "$\\frac{a}{b}$"} <= set(words(figure).split())
    svg = sw.figures.save(figure, tmp_path / "a.svg")
    assert ET.parse(svg).getroot().tag.endswith("svg")
    assert sw.figures.read(svg)["charts"][0]["counts"]["$b$"] == [10, 20]


def test_a_table_escapes_what_latex_markdown_and_spreadsheets_would_take_for_their_own(odd: nn.Module) -> None:
    table = sw.figures.table("size", odd, 0.5, by="layer")
    assert [row["layer"] for row in table.rows] == list(NAMES)
    rows = list(csv.reader(io.StringIO(table.csv())))
    cells = [row[0] for row in rows[1:]]
    assert cells == [f"'{name}" if name[0] in "=-" else name for name in NAMES]
    assert [int(row[1]) for row in rows[1:]] == [64] * len(NAMES)  # numbers stay numbers
    latex = table.latex().splitlines()
    assert latex[4].startswith(r"\$x\_\{1\}\textasciicircum{}2\$ & 64 & 256")
    starts = [line.split(" & ")[0] for line in latex[4:-2]]
    assert starts[1:3] == [r"\textless{}b\textgreater{}bold\textless{}/b\textgreater{}", r"a\&amp;b"]
    assert starts[3].startswith(r"\textbackslash{}")
    assert starts[4] == r"100\%"
    assert starts[8:10] == ["{[}2pt]", "{*}"]  # after \\\\ both would be arguments of it
    assert "&lt;b&gt;" in table.markdown()
    assert "<b>" not in table._repr_html_()


def test_a_disk_that_is_full_leaves_the_old_figure(tmp_path: Path) -> None:
    """The system's own limit on the size of a file stands for the end of the disk, as in test_atomic_write.py."""
    resource = pytest.importorskip("resource")
    figure, path = sw.figures.size(sw.estimate(sw.demo.model(), 0.9)), tmp_path / "old.pdf"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(FileError, match=r"cannot write .*: File too large; the file there is unchanged"):
            sw.figures.save(figure, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [left.name for left in tmp_path.iterdir()] == ["old.pdf"]


def test_an_empty_history_and_one_of_nothing_but_nan_are_said() -> None:
    model, few = sw.demo.model(), sw.demo.few(2)
    idle: TrainingRun[Any] = TrainingRun(TrainingSpec(model, few, few, sw.methods.FineTune(1), TrainingOptions()))
    with pytest.raises(FigureError, match="no epoch is complete yet, wait"):
        sw.figures.training(idle)
    with pytest.raises(FigureError, match="the run has no points, no round is complete yet"):
        sw.figures.tradeoff(idle)
    with pytest.raises(FigureError, match="no run is given"):
        sw.figures.training({})
    with pytest.raises(FigureError, match="'mine' has no run"):
        sw.figures.training({"mine": []})
    nan = sw.Score(math.nan, math.nan, math.nan, 10, 10, "accuracy", percent=True)
    with pytest.raises(FigureError, match="no point has a score that is a number"):
        sw.figures.tradeoff([(1000, nan)])
    with pytest.raises(FigureError, match="no result has a score"):
        sw.figures.transfer({5: nan})
    with pytest.raises(FigureError, match="needs two steps at least"):
        sw.figures.size(model, steps={"dense": 1000})


def test_a_loss_that_was_nan_is_a_gap_and_a_point_that_was_nan_is_left_out(tmp_path: Path) -> None:
    other = sw.transfer(sw.demo.model(), sw.demo.few(2), sw.demo.few(3), epochs=3, progress=False)
    rows = [{**row, "loss": math.nan if i == 1 else row["loss"]} for i, row in enumerate(other.history)]
    broken = replace(other, history=rows)
    path = sw.figures.save(sw.figures.training(broken), tmp_path / "a.png", dpi=40)
    assert sw.figures.read(path)["charts"][0]["kind"] == "training"
    losses = [row["loss"] for row in sw.figures.table("training", broken).rows]
    assert [loss is None for loss in losses] == [False, True, False]
    table = sw.figures.table("tradeoff", [dict(ratio=r, value=v) for r, v in ((2, 0.9), (4, math.nan), (8, 0.5))])
    assert [row["ratio"] for row in table.rows] == [2, 8]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (dict(arrangement="grid"), "arrangement='grid' must be 'ridge' or 'small_multiples'"),
        (dict(sharex=False), "the rows of a ridge share their axis"),
        (dict(show=0), "show=0 must be how many of the largest layers to draw, from 1"),
        (dict(show=["stm"]), "show='stm' is the name of no layer; did you mean 'stem'"),
        (dict(width=math.nan), "width=nan must be a number of mm"),
        (dict(style="slides"), "did you mean 'slide'"),
        (dict(show=300, arrangement="small_multiples", height=10), "height=10 is too low for 'distributions'"),
    ],
)
def test_an_option_of_distributions_that_cannot_be_is_refused(options: dict[str, Any], error: str) -> None:
    with pytest.raises(FigureError, match=error):
        sw.figures.distributions(sw.demo.model(), **options)
