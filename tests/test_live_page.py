"""What is written into a page without a kernel, and what is refused: bad paths, too large pages, nothing to show."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import shrinkwidget as sw
from shrinkwidget import live_page
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.errors import FileError, RecipeError, ShrinkError, TrainingError
from shrinkwidget.widgets.explorer import Explorer

SECONDS = 120
MEGABYTE = 1_000_000


def contents(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return what a page holds: its data, and the sketch."""
    found = re.search(r'id="data">([^<]*)<', path.read_text())
    assert found is not None
    blob = zlib.decompress(base64.b64decode(found[1]))
    (length,) = struct.unpack_from("<I", blob)
    return json.loads(blob[4 : 4 + length]), blob[4 + length :]


@pytest.fixture
def explorer() -> Iterator[Explorer]:
    """Return an explorer that has evaluated two recipes and counted a third that it has not evaluated yet."""
    made = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.5)
    assert made.wait(SECONDS)
    made.recipe = sw.Recipe(sparsity=0.9, bits=4)
    assert made.wait(SECONDS)
    yield made
    made.close()


def test_a_page_holds_the_sketch_and_what_was_known(explorer: Explorer, tmp_path: Path) -> None:
    path = tmp_path / "demo.html"
    assert explorer.to_html(path) == path.stat().st_size < MEGABYTE / 2
    assert "DigitNet, compressed by Recipe(sparsity=0.9, bits=4); this page needs JavaScript" in path.read_text()
    data, blob = contents(path)
    assert Sketch.decode(blob).encode() == explorer.sketch.encode()
    assert data["recipe"] == explorer.recipe.to_json()
    assert set(data["known"]) == {point["recipe"].to_json() for point in explorer.history}
    for text, known in data["known"].items():
        small = sw.compress(sw.demo.model(), sw.Recipe.from_json(text))
        assert small.estimate is not None
        assert known["exact"] == {**small.estimate.to_dict(), "nbytes_entropy_coded": small.nbytes_entropy_coded}
        assert known["score"]["value"] == sw.evaluate(small.model, sw.demo.data("valid")).value  # type: ignore[arg-type]
    values = data["values"]
    assert values["title"] == "DigitNet"
    assert values["baseline"]["value"] == sw.evaluate(sw.demo.model(), sw.demo.data("valid")).value
    assert len(values["macs"]) == len(values["order"]) == len(explorer.sketch.layers)
    assert not {"status", "monitor"} & set(values), "they tell of this kernel and its files"


def test_the_history_can_stay_behind(explorer: Explorer, tmp_path: Path) -> None:
    explorer.to_html(tmp_path / "short.html", title="digits, 90 %", history=False)
    data, _ = contents(tmp_path / "short.html")
    assert data["values"]["title"] == "digits, 90 %"
    assert "<title>digits, 90 %</title>" in (tmp_path / "short.html").read_text()
    assert [point["recipe"] for point in data["values"]["history"]] == [explorer.recipe.to_json()]
    assert set(data["known"]) == {explorer.recipe.to_json()}


def test_a_retrained_model_goes_with_the_page(tmp_path: Path) -> None:
    explorer = sw.explore(
        sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, bits=4, train_data=sw.demo.few(per_class=8)
    )
    assert explorer.wait(SECONDS)
    explorer._retrain(explorer.recipe, sw.methods.FineTune(epochs=1))
    assert explorer.run is not None
    assert explorer.run.wait(SECONDS)
    explorer.to_html(tmp_path / "retrained.html")
    data, _ = contents(tmp_path / "retrained.html")
    (key,) = data["results"]
    assert [point["result"] for point in data["values"]["history"]] == [None, key]
    assert data["results"][key]["score"]["provenance"] == explorer.run.result.provenance
    assert data["results"][key]["recipe"] == explorer.recipe.to_json()
    explorer.close()


@pytest.mark.parametrize(("name", "most"), [("resnet20", 1.0), ("resnet50", 3.0)])
def test_the_page_of_a_large_model_is_small(
    name: str, most: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if name == "resnet20":
        model: Any = request.getfixturevalue("resnet20")
    else:
        from benchmarks.benchmark_models import resnet50

        model = resnet50()
    assert sw.to_html(model, tmp_path / "page.html", sparsity=0.8, bits=4) < most * MEGABYTE


def test_the_page_of_the_gallery_is_small_and_of_this_version() -> None:
    page = Path(__file__).parents[1] / "docs" / "gallery" / "demo-explorer.html"
    assert page.stat().st_size < MEGABYTE / 2
    data, blob = contents(page)
    assert Sketch.decode(blob).encode() == sw.sketch(sw.demo.model()).encode()
    assert all({"exact", "score"} <= set(known) for known in data["known"].values())


def test_a_page_of_a_sketch_has_estimates_only(tmp_path: Path) -> None:
    sketch = sw.sketch(sw.demo.model())
    sw.to_html(sketch, tmp_path / "a.html", 0.8)
    sw.to_html(sketch, str(tmp_path / "b.HTM"), sparsity=0.8)
    data, _ = contents(tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.HTM").read_bytes()
    assert data["known"] == {}
    with pytest.raises(RecipeError, match="matches no layer"):
        sw.to_html(sketch, tmp_path / "c.html", layers={"nowhere": sw.Keep})
    assert not (tmp_path / "c.html").exists()


def test_the_same_state_gives_the_same_bytes(explorer: Explorer, tmp_path: Path) -> None:
    explorer.to_html(tmp_path / "a.html")
    explorer.to_html(tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("name", ["page.pdf", "page", ".html", "page.html.png"])
def test_a_name_that_is_not_htmls_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"its name must end in \.html"):
        sw.to_html(sw.demo.model(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_leaves_the_old_file(explorer: Explorer, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        explorer.to_html(tmp_path / "missing" / "page.html")
    with pytest.raises(FileError, match="give a path"):
        explorer.to_html(3)  # type: ignore[arg-type]
    old = tmp_path / "old.html"
    old.write_text("old")
    old.chmod(0o400)
    if not os.access(old, os.W_OK):  # root may write all the same
        with pytest.raises(FileError, match="read-only"):
            explorer.to_html(old)
        assert old.read_text() == "old"
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(FileError, match="not a plain file"):
        explorer.to_html(tmp_path / "folder.html")


def test_a_page_that_is_too_large_says_of_what_and_leaves_the_old_file(
    explorer: Explorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    explorer.to_html(path)
    old = path.read_bytes()
    monkeypatch.setattr(live_page, "LIMIT", 200_000)
    with pytest.raises(FileError) as told:
        explorer.to_html(path)
    assert re.search(
        r"a page of 4\d\d kB is too large, 200 kB are the most: the sketch of 14 layers takes 1\d\d kB, the history "
        r"of 2 recipes [\d.]+ kB; leave the history out with history=False, or make a page of a part of the model",
        str(told.value),
    )
    assert path.read_bytes() == old
    with pytest.raises(FileError, match=r"takes 1\d\d kB; make a page of a part of the model"):
        sw.to_html(sw.demo.model(), path)


def test_a_closed_explorer_and_one_outside_a_notebook_say_so(explorer: Explorer, tmp_path: Path) -> None:
    with pytest.raises(ShrinkError, match=r"no notebook to embed a page in: write one to a file with ex\.to_html"):
        explorer.embed()
    explorer.close()
    for act in (explorer.embed, lambda: explorer.to_html(tmp_path / "page.html")):
        with pytest.raises(ShrinkError, match="this explorer is closed"):
            act()


def test_an_embedded_page_has_a_picture_behind_it(explorer: Explorer) -> None:
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            explorer.embed()
    finally:
        InteractiveShell.clear_instance()
    page, picture = shown.outputs
    assert "<iframe" in page.data["text/html"]
    assert set(page.data) == {"text/html", "text/plain"}, "a PDF takes the words, and the picture that follows"
    assert "image/png" in picture.data
    assert picture.metadata["image/png"]["alt"] == picture.data["text/plain"]


def test_a_training_without_an_epoch_has_no_page(tmp_path: Path) -> None:
    few = sw.demo.few(per_class=8)
    run = sw.retrain(sw.demo.model(), few, epochs=100, background=True)
    run.pause()
    if not run.history:
        with pytest.raises(TrainingError, match="no complete epoch to make a page of"):
            run.to_html(tmp_path / "run.html")
    run.stop()
    assert run.wait(SECONDS)
    failed = sw.retrain(sw.demo.model(), (few[0], few[1] + 50), epochs=2, background=True)
    assert failed.wait(SECONDS)
    with pytest.raises(TrainingError, match=r"this training is failed and has no complete epoch to make a page of$"):
        failed.to_html(tmp_path / "run.html")
    norms = sw.retrain(sw.demo.model(), few, method=sw.methods.RecalibrateBatchNorm(), background=True)
    assert norms.wait(SECONDS)
    with pytest.raises(TrainingError, match="there are no curves"):
        norms.to_html(tmp_path / "norms.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_one_document_whatever_is_in_it(tmp_path: Path) -> None:
    title = "</title></script><!--\udcff"  # a file's name need not be UTF-8
    values = {"title": title, "memory": {"weights": math.inf, "activations": math.nan}}
    path = tmp_path / "page.html"
    live_page.write_page(path, live_page.explorer_page(sw.sketch(sw.demo.model()), sw.Recipe(), values, {}, {}))
    text = path.read_text()
    tags = {tag: text.count(tag) for tag in ("<script", "</script", "<style", "</style", "</title", "<!--")}
    assert tags == {"<script": 2, "</script": 2, "<style": 1, "</style": 1, "</title": 1, "<!--": 0}
    data, _ = contents(path)
    assert data["values"] == {"title": title, "memory": {"weights": None, "activations": None}}


def test_a_checkout_without_javascript_says_how_to_build_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_page, "_STATIC", tmp_path)
    with pytest.raises(ShrinkError, match="npm run build"):
        sw.to_html(sw.demo.model(), tmp_path / "page.html")
