"""Pages without a kernel: they do what the widget does, with Python's numbers, and ask nothing of the network."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from playwright.sync_api import Browser, expect
from torch import nn

import shrinkwidget as sw
from shrinkwidget.figures.numbers_and_recipes_as_text import decibels_text, share_text
from shrinkwidget.live_page import in_frame
from shrinkwidget.widgets.explorer import Explorer

from .live_page import LivePage
from .standalone_page import plain
from .test_accessibility import AXE
from .test_explorer_numbers import random_recipes

VISITED = (sw.Recipe(), sw.Recipe(sparsity=0.9, bits=4), sw.Recipe(sparsity=0.8, bits=4))
NOT_EVALUATED = "not evaluated: needs the kernel"
FITS = "document.documentElement.scrollWidth <= innerWidth"

Open = Callable[..., LivePage]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Return what opens a file; in the end no page may have complained or asked for anything."""
    opened: list[LivePage] = []

    def open_(path: Path, **how: Any) -> LivePage:
        opened.append(LivePage.open(browser, path, **how))
        return opened[-1]

    yield open_
    for page in opened:
        page.close()


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    """Return an explorer of the demo network that has evaluated a few recipes."""
    made = sw.explore(sw.demo.model(), sw.demo.data())
    for recipe in VISITED:
        made.recipe = recipe
        assert made.wait(120)
    yield made
    made.close()


@pytest.fixture(scope="module")
def demo(explorer: Explorer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of that explorer."""
    path = tmp_path_factory.mktemp("live") / "demo.html"
    assert explorer.to_html(path) == path.stat().st_size < 500_000
    return path


def check_numbers(page: LivePage, explorer: Explorer, recipe: sw.Recipe) -> None:
    """Assert that the page shows Python's estimate of a recipe, and marks as one what is not known to the byte."""
    estimate = sw.estimate(explorer.sketch, recipe)
    assert page.nbytes == estimate.nbytes
    assert not page.exact
    assert page.words("sqnr").lstrip("≈about ") == plain(decibels_text(estimate.sqnr))
    assert page.words("pruned").lstrip("≈about ") == plain(share_text(estimate.sparsity))
    if "≈" not in page.words("ratio"):
        assert page.nbytes == sw.compress(sw.demo.model(), recipe).nbytes


def test_it_opens_with_what_the_kernel_had_found_out(open_page: Open, demo: Path, explorer: Explorer) -> None:
    page = open_page(demo)
    assert page.page.title() == "DigitNet"
    assert page.recipe == VISITED[-1]
    assert page.exact
    assert page.nbytes == explorer.estimate.nbytes
    score = explorer.score
    assert score is not None
    assert page.words("accuracy") == f"{100 * score.value:.1f} %"
    assert page.words("samples").startswith(f"{score.n} examples")
    assert "≈" not in page.words("explorer")
    for button in ("compress", "save", "retrain"):
        expect(page.part(button)).to_have_count(0)


def test_a_drag_shows_the_estimate_and_that_nothing_was_evaluated(
    open_page: Open, demo: Path, explorer: Explorer
) -> None:
    page = open_page(demo)
    page.drag_to(0.6)
    recipe = page.recipe
    assert recipe.bits == 4
    assert recipe.sparsity == pytest.approx(0.6, abs=0.02)
    check_numbers(page, explorer, recipe)
    assert page.words("samples") == NOT_EVALUATED
    assert page.words("accuracy") == "–"
    assert page.words("status") == "≈ estimate: exact figures need the kernel"


def test_layers_undo_and_visited_points_work_as_in_the_notebook(
    open_page: Open, demo: Path, explorer: Explorer
) -> None:
    page = open_page(demo)
    ridge = page.part("ridge")
    ridge.focus()
    for key in ("Home", "ArrowDown", "Enter"):
        page.page.keyboard.press(key)
    page.part("way").locator("label:has(input[value='keep'])").click()
    kept = sw.Recipe(sparsity=0.8, bits=4, layers={"stage1.0.conv1": sw.Keep})
    assert page.recipe == kept
    check_numbers(page, explorer, kept)
    page.part("undo").click()
    assert page.recipe == VISITED[-1]
    assert page.exact
    page.part("redo").click()
    assert page.recipe == kept
    point = page.part("scatter").locator(".sw-points path[aria-label*='90']")
    point.click()
    assert page.recipe == VISITED[1]
    assert page.exact
    there = sw.compress(sw.demo.model(), VISITED[1])
    assert there.model is not None
    assert page.nbytes == there.nbytes
    assert page.words("accuracy") == f"{100 * sw.evaluate(there.model, sw.demo.data()).value:.1f} %"
    page.part("reset").click()
    assert page.recipe == VISITED[-1]


def test_the_numbers_of_any_recipe_in_the_address_are_pythons(open_page: Open, demo: Path, explorer: Explorer) -> None:
    page = open_page(demo)
    for recipe in random_recipes(12, seed=8):
        page.page.evaluate("hash => { location.hash = hash; }", f"recipe={quote(recipe.to_json())}")
        page.painted()
        assert page.recipe == recipe
        check_numbers(page, explorer, recipe)


def test_the_address_leads_to_a_recipe_and_follows_it(open_page: Open, demo: Path, explorer: Explorer) -> None:
    recipe = sw.Recipe(sparsity=0.7, bits=3, layers={"head": {"bits": 8}})
    page = open_page(demo, fragment=f"#recipe={quote(recipe.to_json())}")
    assert page.recipe == recipe
    check_numbers(page, explorer, recipe)
    before = page.evaluate("history.length")
    page.part("bits").locator("label:has(input[value='6'])").click()
    wanted = quote(recipe.with_(bits=6).to_json(), safe="")
    page.page.wait_for_function("wanted => location.hash.includes('bits%22%3A6')", arg=wanted)
    again = page.page.url.partition("#recipe=")[2]
    assert open_page(demo, fragment=f"#recipe={again}").recipe == recipe.with_(bits=6)
    assert page.evaluate("history.length") == before
    page.part("undo").click()
    page.part("undo").click()
    assert page.recipe == VISITED[-1]
    page.page.wait_for_function("() => location.hash === ''")


@pytest.mark.parametrize(
    ("fragment", "why"),
    [
        ("nonsense", "not valid JSON"),
        ('{"format":"shrinkwidget-recipe","version":2,"bits":9}', "must be one of"),
        ('{"format":"shrinkwidget-recipe","version":2,"layers":{"nowhere":"keep"}}', "matches no layer"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_with_its_reason(
    open_page: Open, demo: Path, fragment: str, why: str
) -> None:
    page = open_page(demo, fragment=f"#recipe={quote(fragment)}")
    assert why in page.words("status")
    assert page.recipe == VISITED[-1]


def test_a_kind_without_an_estimate_is_said_to_need_the_kernel(open_page: Open, demo: Path) -> None:
    page = open_page(demo)
    before = page.nbytes
    recipe = sw.Recipe(sparsity=0.5, scope="channel")
    page.page.evaluate("hash => { location.hash = hash; }", f"recipe={quote(recipe.to_json())}")
    page.painted()
    assert page.words("status") == "no figures of this recipe: needs the kernel"
    assert page.words("exact-only").endswith("needs the kernel; the figures are those of another recipe")
    assert not page.exact
    page.part("undo").click()
    assert page.nbytes == before
    assert page.exact


def test_copy_as_code_copies_what_rebuilds_the_recipe(open_page: Open, demo: Path) -> None:
    recipe = sw.Recipe(0.7, bits=3, quantizer=sw.methods.Uniform(symmetric=False), layers={"st*": sw.Keep})
    page = open_page(demo, fragment=f"#recipe={quote(recipe.to_json())}")
    page.part("copy").click()
    expect(page.part("copy")).to_have_text("Copied")
    assert eval(page.evaluate("navigator.clipboard.readText()"), {"sw": sw}) == recipe  # noqa: S307  # ours


def test_its_own_policy_lets_nothing_be_fetched(browser: Browser, demo: Path) -> None:
    page = LivePage.open(browser, demo)
    refused = page.evaluate(
        """async () => {
            const tries = [
                () => fetch("https://example.org/"),
                () => Object.assign(new Image(), {src: "https://example.org/a.png"}).decode(),
                () => import("https://example.org/a.js"),
            ];
            const outcomes = await Promise.allSettled(tries.map(async (attempt) => attempt()));
            return outcomes.map((outcome) => outcome.status);
        }"""
    )
    assert refused == ["rejected"] * 3
    for directive in ("connect-src", "img-src", "script-src"):
        assert any(directive in said and "Content Security Policy" in said for said in page.complaints), directive
    page.page.context.close()


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


def hostile_model() -> nn.Module:
    """Return a model whose class and layers are named by somebody who wants to run a script."""
    model = type(f"</title>{HOSTILE}", (nn.Module,), {})()
    for name in (f"a{HOSTILE}", '" onload="alert(3)', "<!--", "]]>"):
        model.add_module(name.replace(".", ""), nn.Linear(16, 16))
    return model  # type: ignore[no-any-return]


def test_names_are_text_and_never_markup(open_page: Open, tmp_path: Path) -> None:
    sw.to_html(hostile_model(), tmp_path / "hostile.html", sparsity=0.5, bits=4)
    page = open_page(tmp_path / "hostile.html")
    assert page.page.title() == f"</title>{HOSTILE}"
    assert page.page.get_by_role("heading", level=2).inner_text() == f"</title>{HOSTILE}"
    page.part("layers-table").click()
    expect(page.part("layer-tables").locator("tbody th").first).to_contain_text("<img src=x onerror=alert(2)>")
    assert page.evaluate("[document.images.length, document.scripts.length]") == [0, 2]
    framed = tmp_path / "framed.html"
    framed.write_text(in_frame((tmp_path / "hostile.html").read_text(), '"><script>alert(4)</script>'))
    inside = open_page(framed).within(0)
    expect(inside.frame.get_by_role("heading", level=2)).to_have_text(f"</title>{HOSTILE}")
    assert inside.page.evaluate("document.scripts.length") == 0


def test_axe_finds_nothing_wrong_with_the_whole_page(open_page: Open, demo: Path) -> None:
    page = open_page(demo)
    page.part("size-now").wait_for()
    page.evaluate(Path(AXE).read_text())
    result: dict[str, Any] = page.evaluate("axe.run(document)")
    assert [f"{rule['help']}: {node['html']}" for rule in result["violations"] for node in rule["nodes"]] == []


def test_a_page_that_cannot_be_shown_says_why(open_page: Open, demo: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.html"
    text = demo.read_text()
    start = text.index('id="data">') + 60
    damaged.write_text(text[:start] + text[start + 1000 :])
    expect(open_page(damaged).page.locator(".failed")).to_contain_text("damaged: write it again with to_html")


def chain(layers: int) -> nn.Sequential:
    torch.manual_seed(layers)
    return nn.Sequential(*[nn.Linear(24, 24) for _ in range(layers)])


@pytest.mark.parametrize(("layers", "theme"), [(2, "light"), (8, "dark"), (54, "light")])
def test_it_fits_a_phone_and_a_screen_light_and_dark(
    open_page: Open, tmp_path: Path, screenshots: Path, layers: int, theme: Any
) -> None:
    path = tmp_path / "chain.html"
    sw.to_html(chain(layers), path, sparsity=0.8, bits=4)
    for width in (360, 1400):
        page = open_page(path, width=width, theme=theme, touch=width == 360)
        page.part("size-now").wait_for()
        page.page.screenshot(path=screenshots / f"live-{layers}-{theme}-{width}.png", full_page=True)
        assert page.evaluate(FITS)
        assert page.part("explorer").get_attribute("data-theme") == theme
        page.part("options").click()
        assert page.evaluate(FITS)


@pytest.mark.parametrize("width", [650, 700, 1000])
def test_the_interval_beside_an_accuracy_is_never_cut(open_page: Open, demo: Path, width: int) -> None:
    page = open_page(demo, width=width)
    text = page.part("interval").inner_text()
    assert "–" in text
    assert page.part("interval").evaluate("span => span.scrollWidth <= span.clientWidth")


def test_it_works_by_touch(open_page: Open, demo: Path) -> None:
    page = open_page(demo, width=360, touch=True)
    box = page.part("sparsity").bounding_box()
    assert box is not None
    page.page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.recipe.sparsity == pytest.approx(0.5, abs=0.03)
    page.part("bits").locator("label:has(input[value='2'])").tap()
    assert page.recipe.bits == 2
    page.part("ridge").tap(position={"x": 30, "y": 60})
    expect(page.part("detail")).to_be_visible()


def test_the_slider_is_dragged_by_touch(open_page: Open, demo: Path, explorer: Explorer) -> None:
    page = open_page(demo, width=360, touch=True)
    box = page.part("sparsity").bounding_box()
    assert box is not None
    finger = page.page.context.new_cdp_session(page.page)
    at, y = float(page.part("sparsity").input_value()) / 99.9, box["y"] + box["height"] / 2
    places = [at + (0.4 - at) * i / 10 for i in range(11)]
    for event, shares in (("touchStart", places[:1]), ("touchMove", places[1:])):
        for share in shares:
            touch = {"x": box["x"] + 8 + (box["width"] - 16) * share, "y": y}
            finger.send("Input.dispatchTouchEvent", {"type": event, "touchPoints": [touch]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    recipe = page.recipe
    assert recipe.sparsity == pytest.approx(0.4, abs=0.03)
    check_numbers(page, explorer, recipe)
    page.part("undo").tap()  # a drag is one step
    assert page.recipe == VISITED[-1]
    assert page.evaluate("scrollY") == 0


LONG_TITLE = "A <b>digit</b> reader with a title that goes on & on, longer than a phone is wide"


def test_on_a_phone_no_word_is_cut_and_without_data_it_is_said_what_is_unknown(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "phone.html"
    sw.to_html(sw.demo.model(), path, sparsity=0.8, bits=4, title=LONG_TITLE)
    page = open_page(path, width=360, touch=True)
    page.part("size-now").wait_for()
    cut = """[...document.querySelectorAll("h2, .sw-caption, .sw-status, dd, dt, .sw-hint")]
        .filter((x) => x.scrollWidth > x.clientWidth + 1 && getComputedStyle(x).display !== "inline")
        .map((x) => x.textContent)"""
    assert page.evaluate(cut) == []
    assert page.page.get_by_role("heading", level=2).inner_text() == LONG_TITLE
    assert page.words("memory") == "693 kB weights as they run, plus activations, unknown without data"
    sketched = tmp_path / "sketch.html"
    sw.to_html(sw.sketch(sw.demo.model()), sketched)
    assert open_page(sketched).words("memory") == "unknown without the model"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_printed_as_it_is_shown_on_one_sheet_in_light_colors(open_page: Open, demo: Path, theme: Any) -> None:
    page = open_page(demo, theme=theme)
    page.part("size-now").wait_for()
    page.painted()
    shown = page.evaluate("[document.body.scrollWidth, document.body.scrollHeight]")
    pdf = page.page.pdf(prefer_css_page_size=True)
    assert re.findall(rb"/Type /Page\b", pdf) == [b"/Type /Page"]
    (sheet,) = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf)
    assert [float(points) / 0.75 for points in sheet] == pytest.approx([shown[0], shown[1] + 1], abs=2)
    # a page that is being printed draws before its sheet is made, not in a later frame
    printing = page.evaluate(
        """async () => {
            dispatchEvent(new Event("beforeprint"));
            await null;
            const part = (id) => document.querySelector(`[data-testid=${id}]`);
            const [ridge, explorer] = [part("ridge-canvas"), part("explorer")];
            const data = ridge.getContext("2d").getImageData(0, 0, ridge.width, ridge.height).data;
            let darkest = 255; // of what is opaque: names and numbers
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] === 255) darkest = Math.min(darkest, (data[i] + data[i + 1] + data[i + 2]) / 3);
            const found = [explorer.dataset.theme, getComputedStyle(document.body).color, darkest < 60];
            dispatchEvent(new Event("afterprint"));
            return found;
        }"""
    )
    assert printing == ["light", "rgb(28, 33, 38)", True]
    page.painted()
    assert page.part("explorer").get_attribute("data-theme") == theme


NOTEBOOK = """<!doctype html><html><head><meta charset="utf-8"><title>notebook</title>
<style>body {{ --jp-layout-color0: #111; --jp-layout-color1: #212121; --jp-ui-font-color1: #eee; margin: 0 }}</style>
</head><body data-jp-theme-light="false"><div>{first}</div><div>{second}</div></body></html>"""


def test_in_a_frame_it_takes_the_colors_around_it_and_the_height_it_needs(
    open_page: Open, demo: Path, tmp_path: Path
) -> None:
    frame = in_frame(demo.read_text(), "DigitNet")
    folded = f"<details><summary>more</summary>{frame}</details>"
    (tmp_path / "notebook.html").write_text(NOTEBOOK.format(first=frame, second=folded))
    page = open_page(tmp_path / "notebook.html", width=1100)
    first, second = page.within(0), page.within(1)
    page.page.locator("summary").click()
    for inside in (first, second):
        inside.part("size-now").wait_for()
        expect(inside.part("explorer")).to_have_attribute("data-theme", "dark")
        expect(inside.frame.locator(".sw-frame")).to_have_css("background-color", "rgb(33, 33, 33)")
    heights = "[...document.querySelectorAll('iframe')].map((frame) => frame.clientHeight)"
    page.page.wait_for_function(f"(([one, other]) => one === other && one > 600)({heights})")
    assert first.evaluate("document.documentElement.scrollHeight <= innerHeight")
    first.part("bits").locator("label:has(input[value='2'])").click()
    assert first.recipe == VISITED[-1].with_(bits=2)
    assert second.recipe == VISITED[-1]
    first.part("silhouette").hover()
    expect(first.frame.locator(".sw-tip")).to_be_visible()
    assert first.evaluate("document.documentElement.scrollHeight <= innerHeight"), "a tip is no reason to scroll"
    page.page.evaluate("document.body.style.setProperty('--jp-layout-color1', '#fdfdfd')")
    expect(first.part("explorer")).to_have_attribute("data-theme", "light")
    assert page.page.url == (tmp_path / "notebook.html").as_uri()


class FailingData:
    """Gives its batches three times over, then fails."""

    def __init__(self) -> None:
        self.epochs = 0

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        self.epochs += 1
        yield sw.demo.few(per_class=8)
        if self.epochs > 3:
            raise OSError("the disk is gone")


def test_a_training_that_failed_and_one_that_goes_on_say_what_was_planned(open_page: Open, tmp_path: Path) -> None:
    valid = sw.demo.data("valid")
    failed = sw.retrain(sw.demo.model(), FailingData(), valid, epochs=8, background=True)
    assert failed.wait(120)
    failed.to_html(tmp_path / "failed.html")
    page = open_page(tmp_path / "failed.html", width=360)
    assert page.words("run-state") == "failed"
    assert page.words("place") == "epoch 4, step 2: the data failed to give batch 2: OSError: the disk is gone"
    assert "planned: fine-tuned 8 epochs" in page.words("monitor")
    assert page.evaluate(FITS)
    assert page.words("test") == f"{100 * failed.history[-1]['test']['value']:.1f} %"
    going = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), valid, epochs=1000, background=True)
    rest = going.observe(lambda run: run.pause() if len(run.history) >= 2 and run.state == "running" else None)
    while going.state == "running":
        time.sleep(0.01)
    going.to_html(tmp_path / "going.html")
    page = open_page(tmp_path / "going.html", width=1200)
    assert page.words("run-state") == "paused when this was saved"
    assert "planned: fine-tuned 1000 epochs" in page.words("monitor")
    assert page.words("place").startswith(f"epoch {len(going.history) + 1} of 1")
    rest()
    going.stop()
    assert going.wait(60)


def test_the_monitor_stays_alive_too(open_page: Open, tmp_path: Path) -> None:
    few = sw.demo.few(per_class=8)
    small = sw.compress(sw.demo.model(), 0.9, bits=4)
    run = sw.retrain(small, few, sw.demo.data("valid"), epochs=3, background=True)
    assert run.wait(120)
    assert run.to_html(tmp_path / "run.html") == (tmp_path / "run.html").stat().st_size
    for width in (360, 1200):
        page = open_page(tmp_path / "run.html", width=width)
        assert page.words("run-state") == "done"
        assert page.words("place") == "3 of 3 epochs"
        assert "planned" not in page.words("monitor")
        assert page.evaluate(FITS)
        for button in ("pause", "stop", "keep", "save"):
            expect(page.part(button)).to_have_count(0)
        score = run.history[-1]["test"]
        assert page.words("test") == f"{100 * score['value']:.1f} %"
        cut = page.evaluate(
            """[...document.querySelectorAll("svg text")].filter((text) => {
                const box = text.getBoundingClientRect(), frame = text.closest("svg").getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1;
            }).map((text) => text.textContent)"""
        )
        assert cut == []
        page.part("epochs-table").click()
        losses = page.part("epochs").locator("tbody tr td:nth-child(2)").all_inner_texts()
        assert losses[:3] == [f"{row['loss']:.4f}" for row in reversed(run.history)]
