"""Predict first: no accuracy is told in any way until somebody has said what it will be; then both are shown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, expect

import shrinkwidget as sw
from shrinkwidget.figures.numbers_and_recipes_as_text import prediction_text
from shrinkwidget.widgets.explorer import Explorer

from .live_page import LivePage
from .standalone_page import BarePage, plain
from .test_explorer_insight import deliver

RECIPE = sw.Recipe(sparsity=0.9, bits=4)
OTHER = sw.Recipe(sparsity=0.8, bits=3)
DATA = sw.demo.data("valid")


@pytest.fixture
def ex() -> Iterator[Explorer]:
    made = sw.explore(sw.demo.model(), DATA, RECIPE, predict_first=True)
    assert made.wait(120)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, ex: Explorer) -> Iterator[BarePage]:
    opened = BarePage.open(context.new_page(), ex)
    yield opened
    assert opened.complaints == []


def shown(ex: Explorer) -> sw.results.Score | None:
    return ex.score


def told(score: dict[str, Any]) -> list[str]:
    """Return the ways in which a score may be written."""
    shares = [share for share in (score["value"], score["low"], score["high"]) if share is not None]
    return [*(f"{100 * share:.1f}" for share in shares), f"{score['value']:.4f}"[1:], *score.get("warnings", ())]


def everything(page: BarePage | LivePage) -> str:
    """Return all that a page says: its markup with every attribute, what stands in inputs and on canvases."""
    document = page.page if isinstance(page, BarePage) else page.frame
    script = """() => [
      document.documentElement.outerHTML.replace(/<(style|script)[^]*?<[/](style|script)>/g, ""),
      ...[...document.querySelectorAll("input")].map((input) => input.value),
      ...[...document.querySelectorAll("canvas")].flatMap((c) => window.drawnOn?.(c).texts.map((t) => t.text) ?? []),
    ].join("\\n")"""
    found = document.evaluate(script)
    return re.sub(r"(translate|d=\"|x\d?=\"|y\d?=\"|style=\")[^)\"]*", "", found)  # places, all of which are on show


def leaks(page: BarePage | LivePage, score: dict[str, Any]) -> list[str]:
    text = everything(page)
    return [words for words in told(score) if words in text]


def test_nothing_in_python_tells_a_covered_score(ex: Any) -> None:
    assert ex._score is not None
    assert ex.baseline is not None
    assert ex.score is None
    assert ex.comparison is None
    assert ex.sensitivity is None
    assert ex.history == []
    assert ex.predictions == []
    truth = dict(ex._score)
    for text in (ex._snapshot()["text/plain"], repr(ex)):
        assert not [words for words in told(truth) if words in text]
    with pytest.raises(sw.errors.FigureError):
        ex.figure("classes")
    with pytest.raises(sw.errors.FigureError):
        ex.figure("tradeoff")
    drawn = ex._snapshot()["image/png"]
    ex._tell(_score={**truth, "value": 0.77, "low": 0.7, "high": 0.8})
    assert ex._snapshot()["image/png"] == drawn, "the picture depends on a score that is covered"
    ex.predict_first = False
    assert ex._snapshot()["image/png"] != drawn


def test_a_prediction_uncovers_its_recipe_alone_and_is_kept(ex: Any) -> None:
    ex.predict(0.8)
    assert ex.score is not None
    value = ex.score.value
    assert ex.predictions == [
        {"recipe": RECIPE, "recalibrated": False, "predicted": 0.8, "value": value, "off": value - 0.8}
    ]
    assert [(row["recipe"], row["predicted"]) for row in ex.history] == [(RECIPE, 0.8)]
    words = prediction_text(0.8, value, ex.score.low, ex.score.high, percent=True)
    assert f"{abs(100 * (value - 0.8)):.1f} points off" in words
    assert words in ex._snapshot()["text/plain"]
    with pytest.raises(sw.errors.ShrinkError, match="not covered"):
        ex.predict(0.5)
    ex.recipe = OTHER
    assert ex.wait(120)
    assert shown(ex) is None
    assert [row["recipe"] for row in ex.history] == [RECIPE]
    ex.recipe = sw.Recipe()
    assert ex.wait(120)
    assert shown(ex) is not None, "the dense model's is what predictions start from"
    ex.predict_first = False
    assert [row["recipe"] for row in ex.history] == [RECIPE, OTHER, sw.Recipe()]
    assert [row["predicted"] for row in ex.history] == [0.8, None, None]


@pytest.mark.parametrize("value", [80, -0.1, float("nan"), "0.8", True, None])
def test_what_is_no_share_is_no_prediction(ex: Explorer, value: Any) -> None:
    with pytest.raises(sw.errors.ArgumentError, match="prediction must be"):
        ex.predict(value)
    assert ex.score is None


def test_the_page_cannot_change_a_prediction_that_was_made(ex: Explorer) -> None:
    ex.predict(0.8)
    ex.set_state({"_predictions": [*ex._predictions, {**ex._predictions[0], "predicted": 0.42}]})
    assert [one["predicted"] for one in ex.predictions] == [0.8]
    ex.set_state({"_predictions": [{"recipe": "{", "predicted": 0.3}]})
    assert [one["predicted"] for one in ex.predictions] == [0.8]


def test_the_page_covers_it_until_a_marker_is_set_by_keyboard(page: BarePage, ex: Explorer) -> None:
    assert ex._score is not None
    truth, value = dict(ex._score), ex._score["value"]
    for name in ("classes", "history-table", "layers-table"):
        page.part(name).click()
    page.painted()
    assert leaks(page, truth) == []
    assert "lost" not in page.words("classes-summary")
    assert page.words("accuracy") == "?"
    assert page.words("samples") == "covered until you predict"
    expect(page.part("predict-go")).to_be_disabled()
    page.part("sensitivity").click(force=True)
    # the budget's frontier is asked for: it says nothing of accuracy
    sent = page.page.evaluate("window.heard.then(() => model.sent)")
    assert [one for one in sent if one != {"do": "plan"}] == [], "what is covered is not asked for either"
    for name in ("history-table", "layers-table"):
        page.part(name).click()

    slider = page.part("predict-slider")
    assert slider.get_attribute("aria-valuetext") == "not set"
    slider.focus()
    slider.press("End")
    for _ in range(20):
        slider.press("ArrowLeft")
    assert page.part("predict-box").input_value() == "80"
    assert leaks(page, truth) == []
    slider.press("Enter")
    page.settle()
    expected = prediction_text(0.8, value, truth["low"], truth["high"], percent=True)
    assert page.words("prediction") == plain(expected)
    assert page.words("accuracy") == f"{100 * value:.1f} %"
    assert [one["predicted"] for one in ex.predictions] == [0.8]
    assert page.part("predict").count() == 0
    assert page.part("scatter").locator(".sw-points path").count() == 1
    assert page.part("predicted").locator("path").get_attribute("data-predicted") == "0.8"
    said = page.part("scatter").locator(".sw-points path").get_attribute("aria-label")
    assert plain(expected) in plain(said or "")
    expect(page.part("spoken")).to_contain_text("you said 80")


def test_undo_and_a_new_view_keep_it_and_touch_can_set_it(browser: Browser, ex: Explorer) -> None:
    ex.predict(0.25)
    context = browser.new_context(has_touch=True)
    context.set_default_timeout(10_000)
    page = BarePage.open(context.new_page(), ex)
    before = page.words("prediction")
    assert before.startswith("you said 25 %, it is ")
    page.part("sparsity").fill("70")
    page.settle()
    assert page.words("samples") == "covered until you predict"
    assert page.part("scatter").locator(".sw-points path").count() == 1
    box = page.part("predict-slider").bounding_box()
    assert box is not None
    page.page.touchscreen.tap(box["x"] + 0.75 * box["width"], box["y"] + box["height"] / 2)
    assert 72 <= float(page.part("predict-box").input_value()) <= 78
    page.part("predict-box").fill("60.5")
    page.part("predict-go").tap()
    page.settle()
    assert page.words("prediction").startswith("you said 60.5 %")
    page.part("undo").click()
    page.settle()
    assert page.words("prediction") == before
    assert [one["predicted"] for one in ex.predictions] == [0.25, 0.605]
    page.part("predict-first").uncheck()
    page.settle()
    assert not ex.predict_first
    assert page.complaints == []
    context.close()


def test_a_page_that_stands_alone_covers_and_uncovers_what_was_known(
    browser: Browser, ex: Explorer, tmp_path: Path
) -> None:
    assert ex._score is not None
    truth = dict(ex._score)
    ex.to_html(tmp_path / "page.html")
    page = LivePage.open(browser, tmp_path / "page.html")
    page.painted()
    assert leaks(page, truth) == []
    page.part("predict-box").fill("50")
    page.part("predict-box").press("Enter")
    expected = prediction_text(0.5, truth["value"], truth["low"], truth["high"], percent=True)
    assert page.words("prediction") == plain(expected)
    page.page.reload()
    assert page.words("prediction") == plain(expected)
    page.drag_to(0.5)
    assert page.words("samples") == "not evaluated: needs the kernel"
    assert page.part("predict").count() == 0, "there is nothing behind the cover"
    page.close()


def test_sensitivity_is_shown_beside_a_recipe_that_was_predicted(page: BarePage, ex: Any) -> None:
    ex.predict(0.5)
    page.tell()
    page.part("sensitivity").click()
    deliver(page, ex)
    assert "all 287 examples" in page.words("sensitivity-line")
    assert ex.sensitivity is not None
    page.part("sparsity").fill("60")
    page.settle()
    assert page.part("sensitivity-line").count() == 0
    assert ex.sensitivity is None
    worst = min(score.value for layer in ex._measured.layers for score in layer.scores)
    assert f"{100 * worst:.1f}" not in everything(page)
