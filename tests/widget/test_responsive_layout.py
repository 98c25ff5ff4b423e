"""The built explorer at every width, and resized between them: nothing is cut, covered or out of reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import BrowserContext, expect
from torch import nn

import shrinkwidget as sw
from shrinkwidget.widgets.explorer import Explorer

from .standalone_page import STATIC, BarePage
from .test_accessibility import AXE

WIDTHS = (320, 400, 500, 640, 700, 820, 968, 1100, 1300, 1600)
# what a person must be able to reach: it is inside the frame, and on top where it is
COVERED = """root => [...root.querySelectorAll("input, button, .sw-legend span, dd, strong, h3, .sw-status")]
    .filter((part) => part.offsetParent !== null && !part.closest(".sw-table-scroll, .sw-ridge, .sw-unseen"))
    .filter((part) => {
        part.scrollIntoView({block: "center"});
        const box = part.getBoundingClientRect(), frame = root.getBoundingClientRect();
        if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5) return true;
        const top = document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2);
        return !(part === top || part.contains(top) || (top?.contains(part) && part.closest("label") === top));
    })
    .map((part) => `${part.tagName} ${part.dataset.testid ?? part.value ?? ""} ${part.textContent}`)"""
CUT = """root => [...root.querySelectorAll(
        ".sw-segments span, button, .sw-legend span, .sw-parts b, dd, strong, .sw-headline span:not(.sw-unseen)")]
    .filter((part) => part.offsetParent !== null && part.scrollWidth > part.clientWidth + 1 && part.clientWidth > 0)
    .map((part) => part.textContent)"""


def chain(layers: int) -> nn.Sequential:
    """Return a network of linear layers with random weights."""
    torch.manual_seed(layers)
    return nn.Sequential(*[nn.Linear(24, 24) for _ in range(layers)])


@pytest.fixture(params=[2, 8, 14])
def explorer(request: pytest.FixtureRequest) -> Iterator[Explorer]:
    """Make an explorer of a chain of layers, with data."""
    model, inputs = chain(request.param), torch.randn(64, 24)
    # labels that the model predicts, and a recipe that hardly changes it: 100.0 % twice is the longest line there is
    data = [(inputs, model(inputs).argmax(1))]
    made = sw.explore(model, data, sw.Recipe(sparsity=0.5, bits=8))
    made.wait(60)
    yield made
    made.close()


def check(page: BarePage) -> None:
    """Assert that everything is inside, on top and whole."""
    page.painted()
    assert page.view.evaluate("root => root.scrollWidth <= root.clientWidth")
    assert page.view.evaluate(COVERED) == []
    assert page.view.evaluate(CUT) == []
    footer = page.box(".sw-footer")
    for part in (".sw-layers", ".sw-detail"):
        if page.view.locator(part).count():
            box = page.box(part)
            assert box["y"] + box["height"] <= footer["y"] + 1
    layers = len(page.widget.sketch.layers)
    assert page.box(".sw-ridge")["height"] >= min(42 + 30 * layers, 282) - 1


def test_nothing_is_cut_or_covered_at_any_width_nor_after_resizing(context: BrowserContext, explorer: Explorer) -> None:
    page = BarePage.open(context.new_page(), explorer, width=1000)
    if page.part("detail").count() == 0:
        page.part("ridge").click(position={"x": 30, "y": 30})
    page.part("options").click()
    page.part("way").locator("label:has(input[value='own'])").click()
    page.settle()  # the click changed the recipe: until it is scored, "…" stands where numbers must have room
    expect(page.part("accuracy")).to_have_attribute("data-state", "done")
    expect(page.part("interval")).to_contain_text("–")
    for width in (*WIDTHS, 1000, 1600, 700, 1400):
        page.page.set_viewport_size({"width": width, "height": 1000})
        check(page)
        if width in (1000, 1400):  # a table instead of the ridge, and back
            height = page.box(".sw-ridge")["height"]
            for _ in range(2):
                page.part("layers-table").click()
            assert page.box(".sw-ridge")["height"] == height
            check(page)
    page.page.set_viewport_size({"width": 1000, "height": 1000})
    page.painted()
    resized = page.box(".sw-detail"), page.box(".sw-ridge")
    for _ in range(2):
        page.part("ridge").press("Enter")
    page.painted()
    assert (page.box(".sw-detail"), page.box(".sw-ridge")) == resized, "it is as large as if opened at this width"


def test_a_number_that_cannot_be_is_refused_whole_and_says_why(context: BrowserContext) -> None:
    explorer = sw.explore(chain(2), recipe=sw.Recipe(sparsity=0.5))
    page = BarePage.open(context.new_page(), explorer)
    box = page.part("sparsity-box")
    for refused in ("100", "150", "-3"):
        box.focus()
        box.select_text()
        page.page.keyboard.type(refused)
        page.painted()
        expect(page.view.get_by_role("alert")).to_contain_text(f"{refused} % is not possible")
        assert box.get_attribute("aria-invalid") == "true"
        page.page.keyboard.press("Tab")
        page.settle()
        assert explorer.sparsity == 0.5
        expect(box).to_have_value("50.0")
    for typed, kept in (("99.995", 0.99995), ("12.3456", 0.123456), ("0", 0.0)):
        box.fill(typed)
        page.page.keyboard.press("Tab")
        page.settle()
        assert explorer.sparsity == kept
        assert float(box.input_value()) == pytest.approx(100 * kept, abs=1e-9)
        expect(page.view.get_by_role("alert")).to_have_count(0)
    explorer.close()


def test_what_is_chosen_is_seen_where_colours_are_forced(context: BrowserContext) -> None:
    explorer = sw.explore(chain(8), recipe=sw.Recipe(sparsity=0.5, bits=4))
    explorer.wait(60)
    page = BarePage.open(context.new_page(), explorer)
    page.page.emulate_media(forced_colors="active")
    page.part("ridge").click(position={"x": 30, "y": 30})
    page.painted()
    fill = "e => getComputedStyle(e).backgroundColor"
    for group in ("bits", "axis"):
        chosen, other = (
            page.part(group).locator(f"input{state} + span").first for state in (":checked", ":not(:checked)")
        )
        assert chosen.evaluate(fill) != other.evaluate(fill), group
    canvas = page.view.evaluate("e => getComputedStyle(e.querySelector('.sw-frame')).backgroundColor")
    for filled in (".sw-now .sw-part-codes", ".sw-key-kept"):
        assert page.view.locator(filled).evaluate(fill) not in (canvas, "rgba(0, 0, 0, 0)"), filled
    bar = page.part("ridge-canvas").evaluate(
        "c => [30, 75].map((y) => [...c.getContext('2d').getImageData(1, y, 1, 1).data].join())"
    )
    assert bar[0] != bar[1], "the open row is marked"
    explorer.close()


def test_names_begin_with_the_words_on_the_screen(context: BrowserContext) -> None:
    explorer = sw.explore(chain(2))
    page = BarePage.open(context.new_page(), explorer)
    page.part("options").click()
    unnamed = page.view.evaluate(
        """root => [...root.querySelectorAll(".sw-segments input, button")]
            .map((part) => [part.getAttribute("aria-label"), (part.closest("label") ?? part).textContent.trim()])
            .filter(([name, words]) => name && /\\w/.test(words) && !name.startsWith(words))"""
    )
    assert unnamed == []
    explorer.close()


@pytest.mark.parametrize("width", [360, 1400])
def test_axe_finds_nothing_wrong_with_the_options_open(context: BrowserContext, width: int) -> None:
    explorer = sw.explore(chain(2))
    page = BarePage.open(context.new_page(), explorer, width=width)
    page.part("options").click()
    page.page.add_script_tag(content=Path(AXE).read_text())
    result: dict[str, Any] = page.view.evaluate("root => axe.run(root)")
    assert [f"{rule['help']}: {node['html']}" for rule in result["violations"] for node in rule["nodes"]] == []
    explorer.close()


def test_the_monitor_of_a_training_beside_it_does_not_undo_the_narrow_layout(context: BrowserContext) -> None:
    made = sw.explore(chain(8), sparsity=0.5)
    page = BarePage.open(context.new_page(), made, width=700)
    # "Retrain…" brings it: the sheets that both share come a second time, after those for narrow screens
    page.page.add_style_tag(path=STATIC / "monitor.css")
    page.painted()
    assert page.view.locator(".sw-side").evaluate("side => getComputedStyle(side).display") == "contents"
    size, layers = page.box(".sw-size"), page.box(".sw-layers")
    assert layers["y"] >= size["y"] + size["height"] - 1
    assert page.view.evaluate(COVERED) == []
    made.close()
