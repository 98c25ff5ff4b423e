"""What the explorer says is true: estimates are marked wherever they stand, and every word is one Python would say."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, expect

from .conftest import Open
from .explorer_page import EXPLORE, SETTLE, ExplorerPage
from .notebook_page import Notebook

SHARED = (
    """
import os, time
import shrinkwidget as sw
model, data = sw.demo.model(), sw.demo.data()
ex = sw.explore(model, data, sw.Recipe(sparsity=0.8, bits=4))
ex
""",
)


def text(part: Locator) -> str:
    return re.sub(r"\s+", " ", part.inner_text().replace("\u00a0", " ")).strip()


def shows(sign: Locator) -> bool:
    """Tell whether an element is painted: none of those around it cuts it off."""
    return bool(
        sign.evaluate("""sign => {
            const box = sign.getBoundingClientRect();
            for (let around = sign.parentElement; around; around = around.parentElement) {
                if (getComputedStyle(around).overflowX === "visible") continue;
                const edge = around.getBoundingClientRect();
                if (box.left < edge.left - 0.5 || box.right > edge.right + 0.5) return false;
            }
            return box.width > 0 && getComputedStyle(sign).visibility === "visible";
        }""")
    )


FIGURES = ("ratio", "sqnr", "pruned", "bits-per-parameter", "macs", "flash", "part-codes", "part-header")


def test_every_estimate_is_marked_and_a_kernel_that_goes_is_told_at_once(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.settled_bytes()
    page.score()
    for name in FIGURES:
        assert "≈" not in page.part(name).inner_text(), name
    page.press("layers-table")
    table = page.part("layer-tables").locator("table").first
    expect(table).not_to_contain_text("≈")
    expect(page.part("status")).to_have_attribute("data-kind", "exact")
    book.restart_kernel()
    for said in ("status", "spoken"):
        expect(page.part(said)).to_contain_text("kernel disconnected", timeout=10_000)
    for button in ("save", "compress"):
        expect(page.part(button)).to_be_disabled()
    page.slide_to(90)
    expect(page.part("size-now")).to_have_attribute("data-exact", "false")
    for name in FIGURES:
        expect(page.part(name)).to_contain_text("≈")
    for name in ("sqnr", "pruned", "bits-per-parameter"):
        assert shows(page.part(name).locator(".sw-approx")), name
    rows = table.locator("tbody tr")
    expect(rows.first.locator("td").nth(2)).to_contain_text("≈")
    for row in rows.all():
        cells = [cell.inner_text() for cell in row.locator("td").all()]
        assert [cells[i].startswith("≈") for i in (2, 4, 6)] == [True] * 3, cells
    page.press("layers-table")
    page.open_layer(1)
    assert text(page.part("outcome")).count("≈") >= 3


def test_figures_are_those_of_python_praise_is_earned_and_what_is_dead_is_said(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.settled_bytes()
    assert page.score() == book.python("ex.score.value")
    low, high, n = book.python("(ex.score.low, ex.score.high, ex.score.n)")
    assert text(page.part("interval")) == f"{100 * low:.1f}–{100 * high:.1f} %"
    assert text(page.part("samples")) == f"{n} examples · 95 % interval"
    assert text(page.part("sqnr")) == f"{book.python('ex.estimate.sqnr'):.1f} dB"
    ratio = book.python("ex.estimate.ratio")
    assert text(page.part("ratio")) == f"{ratio:.1f}× smaller"
    bits = book.python("8 * ex.estimate.nbytes / sum(p.numel() for p in model.parameters())")
    assert float(text(page.part("bits-per-parameter"))) == pytest.approx(bits, abs=0.005)
    peak, weights = (
        book.python("sw.summary(model, data[0][:1]).peak_activation"),
        book.python("sw.summary(model).nbytes"),
    )
    expect(page.part("memory")).to_contain_text("peak")  # measured after the score
    memory = text(page.part("memory"))
    assert memory.startswith(f"{(peak + weights) / 1000:.0f} kB weights as they run {weights / 1000:.0f} kB + peak")
    assert f"{peak / 1000:.3g} kB · fits 1 MB RAM" in memory
    assert re.fullmatch(r"[\d.]+ kB the file · fits 256 kB flash", text(page.part("flash")))
    score = page.part("accuracy")
    page.slide_to(50)
    page.settled_bytes()
    page.score()
    expect(score).to_have_attribute("data-holds", "true")
    green = score.evaluate("e => getComputedStyle(e).color")
    book.python("setattr(ex, 'recipe', sw.Recipe(sparsity=0.93, bits=2))")
    expect(score).to_have_attribute("data-holds", "false")
    assert score.evaluate("e => getComputedStyle(e).color") != green
    assert page.score() < book.python("ex._baseline['low']")
    book.python("setattr(ex, 'recipe', sw.Recipe(layers={'head': dict(sparsity=0.9999)}))")
    page.settled_bytes()
    expect(page.part("warnings")).to_contain_text("head: all weights pruned")
    assert book.python("next(l.kept for l in ex.estimate.layers if l.name.startswith('head'))") == 0


def test_a_lower_is_better_metric_says_so_and_has_its_front(open_notebook: Open) -> None:
    metric = """
import torch
def miss(outputs, targets):
    return torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
miss.higher_is_better = False
"""
    book = open_notebook(metric + EXPLORE.replace("explore(model, data)", "explore(model, data, metric=miss)"))
    book.run_all()
    page = ExplorerPage.first(book)
    for percent in (0, 80, 90):
        page.slide_to(percent)
        page.settled_bytes()
        page.score()
    expect(page.part("direction")).to_have_text("lower is better")
    points = page.part("scatter").locator("[role=button]")
    expect(points).to_have_count(3)
    assert (page.part("scatter").locator(".sw-front").get_attribute("d") or "").count("L") >= 1
    low, high = book.python("(ex.score.low, ex.score.high)")
    assert text(page.part("interval")) == f"{low:.4g}–{high:.4g}"


def test_a_settled_state_is_spoken_once_and_the_focus_stays_in_the_explorer(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.settled_bytes()
    page.score()
    spoken = page.part("spoken")
    expect(spoken).to_contain_text("accuracy", timeout=SETTLE)
    spoken.evaluate("""region => {
        window.heard = [];
        new MutationObserver(() => window.heard.push(region.textContent)).observe(
            region, {childList: true, characterData: true, subtree: true});
    }""")
    page.slider.focus()
    for _ in range(6):
        book.page.keyboard.press("ArrowLeft")
    page.settled_bytes()
    page.score()
    said = f"{100 * book.python('ex.score.value'):.1f}"
    book.page.wait_for_function("(words) => window.heard.at(-1)?.includes(words)", arg=said)
    book.page.wait_for_timeout(1500)
    heard = book.page.evaluate("window.heard")
    assert 1 <= len(heard) <= 2
    assert said in heard[-1]
    inside = "document.activeElement.dataset.testid"
    held = page.part("save").evaluate(f"button => {{ button.click(); return Promise.resolve().then(() => {inside}); }}")
    assert held == "save-input", "a key pressed before the question is painted must reach it"
    book.page.keyboard.press("Escape")
    book.page.wait_for_function(f"{inside} === 'save'")
    page.ask("compress", "little")
    book.page.wait_for_function(f"{inside} === 'compress'")
    page.open_layer(1)
    page.press("close-detail")
    book.page.wait_for_function(f"{inside} === 'ridge'")


def test_a_drag_held_for_long_is_one_step_back(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    before = page.settled_bytes()
    expect(page.part("undo")).to_be_disabled()
    box = page.at_rest(page.slider)
    mouse, middle = book.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] * 0.8, middle)
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
    book.page.wait_for_timeout(1300)
    mouse.move(box["x"] + box["width"] * 0.4, middle, steps=5)
    mouse.up()
    assert page.settled_bytes() > before
    page.press("undo")
    assert page.settled_bytes() == before
    expect(page.part("undo")).to_be_disabled()


WATCH = """size => {
    window.previews = [];
    new MutationObserver(() => window.previews.push([Number(size.dataset.bytes), size.dataset.exact])).observe(
        size, {attributes: true, attributeFilter: ["data-bytes"]});
}"""


OVER_BUTTONS = """
    (view) => {
        const box = (part) => part.getBoundingClientRect();
        const footer = view.querySelector(".sw-footer"), buttons = [...footer.querySelectorAll(".sw-buttons button")];
        const lines = [...footer.children].filter((part) => !part.matches(".sw-buttons") && box(part).width > 1);
        const meet = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
        return lines.filter((line) => buttons.some((button) => meet(box(line), box(button)))).map((p) => p.className);
    }
"""
"""The parts of the footer that lie over one of its buttons."""


def test_dragged_channels_are_exact_and_what_is_left_is_kept_exported_and_raced(book: Notebook) -> None:
    page = ExplorerPage.first(book)
    page.settled_bytes()
    page.score()
    book.python("setattr(ex, 'recipe', sw.Recipe(bits=8))")
    expect(page.part("bits").locator("input[value='8']")).to_be_checked()  # not in the middle of the drag
    page.settled_bytes()
    box = page.at_rest(page.part("channels"))
    page.part("size-now").evaluate(WATCH)
    mouse, middle = book.page.mouse, box["y"] + box["height"] / 2
    mouse.move(box["x"] + box["width"] * 0.01, middle)
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.6, middle, steps=12)
    mouse.up()
    settled = page.settled_bytes()
    previews = book.page.evaluate("window.previews")
    assert [settled, "false"] in previews, "what the drag showed last is what the kernel counts, to the byte"
    small = "(lambda small: [small.nbytes, small.macs, *[now for _, now in small.widths.values()]])"
    compressed = book.python(f"{small}(sw.compress(model, ex.recipe, example=data[0][:1]))")
    nbytes, macs, *widths = compressed
    assert settled == nbytes
    assert sum(widths) < 0.5 * 288
    words = text(page.view.locator(".sw-channels .sw-hint"))
    assert words.startswith(f"288 → {sum(widths)} channels of 9 widths, 172,218 → ")
    parameters = book.python("sum(p.numel() for p in ex.compress().model.parameters())")
    assert f"→ {parameters:,} parameters, 1.63 M → {macs / 1000:.3g} k MACs, zeros among them" in words
    assert "≈" not in text(page.part("ratio")) + text(page.part("macs")) + text(page.part("pruned"))
    assert page.score() == book.python("ex.score.value") < 0.6
    expect(page.part("without-channels")).to_contain_text("collapses without its channels until it is retrained")
    expect(page.view.get_by_text("pruned, or gone with channels")).to_be_visible()
    page.press("layers-table")
    shape = book.python("'×'.join(map(str, ex.compress().model.get_submodule('stem').weight.shape))")
    expect(page.part("layer-tables").locator("tbody tr").first).to_contain_text(f"16×1×3×3 → {shape}")
    page.press("layers-table")
    page.open_layer(13)
    expect(page.part("fixed-width")).to_have_text("its 10 channels have to stay: the model's output has it")
    page.ask("compress", "narrow")
    expect(page.part("status")).to_contain_text("narrow is the compressed model")
    assert book.python("narrow.nbytes") == settled
    usual = book.page.viewport_size
    assert usual is not None
    book.page.set_viewport_size({"width": 1150, "height": usual["height"]})  # the buttons just fit into a line
    page.press("export")
    page.press("export-go")
    page.part("exporting").wait_for()
    assert page.view.evaluate(OVER_BUTTONS) == []
    expect(page.part("exported")).to_contain_text("14 of 14 tensors exactly", timeout=90_000)
    assert page.view.evaluate(OVER_BUTTONS) == []
    book.page.set_viewport_size(usual)
    assert page.view.evaluate(OVER_BUTTONS) == []
    accuracy = f"{100 * book.python('ex.score.value'):.1f}"
    assert text(page.part("exported")).count(accuracy) == 2, "in the runtime as in torch"
    assert book.python("os.path.getsize('digitnet-small.onnx')") == book.python("ex._export['exported']['nbytes']")
    page.press("start-race")
    expect(page.part("raced")).to_contain_text("batch 32", timeout=90_000)
    page.press("undo")
    assert page.settled_bytes() == book.python("sw.estimate(model, bits=8).nbytes")
