"""Terms explain themselves, by mouse, keyboard and touch: pinned beside the control, and told to screen readers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

import shrinkwidget as sw
from shrinkwidget.widgets.explorer import Explorer

from .live_page import LivePage
from .standalone_page import BarePage, plain

GLOSSARY = "https://docs.example/glossary.html"
ENTRIES = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def ex() -> Iterator[Explorer]:
    made = sw.explore(sw.demo.model(), sw.demo.data("valid"), sparsity=0.8, bits=4)
    made._tell(_glossary=GLOSSARY)
    assert made.wait(120)
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext, ex: Explorer) -> Iterator[BarePage]:
    opened = BarePage.open(context.new_page(), ex)
    if opened.part("options").get_attribute("aria-expanded") == "false":
        opened.part("options").click()
    opened.part("ridge").focus()
    for key in ("Home", "Enter"):
        opened.page.keyboard.press(key)
    yield opened
    assert opened.complaints == []


def terms(page: BarePage | LivePage) -> Locator:
    root = page.page if isinstance(page, BarePage) else page.frame
    return root.locator(".sw-term:visible")


def test_every_term_is_pinned_by_keyboard_and_says_what_the_glossary_says(page: BarePage) -> None:
    found = terms(page)
    names = {found.nth(i).get_attribute("data-explains") for i in range(found.count())}
    assert names >= {
        "sparsity",
        "bits",
        "scope",
        "structure",
        "quantizer",
        "importance",
        "sqnr",
        "macs",
        "mask",
        "flash",
    }
    for i in range(found.count()):
        term = found.nth(i)
        name = term.get_attribute("data-explains") or ""
        heading = re.search(rf"^### {name.replace('-', '[ -]')}$", ENTRIES, re.IGNORECASE | re.MULTILINE)
        assert heading, f"{name} has no heading in the glossary"
        told = page.page.locator(f"#{term.get_attribute('aria-describedby')}").text_content() or ""
        assert len(told) > 20
        term.focus()
        page.page.keyboard.press("Enter")
        pin = page.part("pin")
        expect(pin).to_contain_text(told)
        assert term.get_attribute("aria-expanded") == "true"
        assert pin.locator("a").get_attribute("href") == f"{GLOSSARY}#{name}"
        note, root = page.box("[data-testid=pin]"), page.box(".sw-frame")
        assert note["x"] >= root["x"] - 1
        assert note["x"] + note["width"] <= root["x"] + root["width"] + 1
        page.page.keyboard.press("Tab")
        expect(pin.locator("button")).to_be_focused()
        page.page.keyboard.press("Escape")
        expect(pin).to_have_count(0)
        expect(term).to_be_focused()


def test_tab_goes_from_the_pin_to_what_follows_its_term(page: BarePage) -> None:
    term = page.part("bits").locator(".sw-term")
    term.focus()
    for key in ("Enter", "Tab", "Tab"):
        page.page.keyboard.press(key)
    expect(page.part("pin").locator("a")).to_be_focused()
    page.page.keyboard.press("Tab")
    expect(page.part("bits").locator("input:checked")).to_be_focused()


def test_a_question_mark_pressed_in_a_control_pins_its_term_and_tells_what_can_be_chosen(page: BarePage) -> None:
    page.part("scope").locator("input:checked").focus()
    page.page.keyboard.press("?")
    pin = page.part("pin")
    expect(pin.locator("dt")).to_have_text(["global", "each layer", "each channel"])
    expect(pin.locator("dd").first).to_have_text("one ranking of all layers")
    page.part("pin-close").click()
    page.part("sparsity").focus()
    page.page.keyboard.press("?")
    expect(pin).to_contain_text("share of the prunable weights")
    before = page.words("size-now")
    page.part("sparsity").press("ArrowRight")
    page.settle()
    expect(pin).to_be_visible()
    assert page.words("size-now") != before, "a pin is in nobody's way"


def test_titles_of_controls_are_shown_on_focus_and_taken_away_by_escape(page: BarePage) -> None:
    page.part("axis").locator("input:checked").focus()
    page.page.keyboard.press("ArrowRight")
    tip = page.view.locator(".sw-tip")
    expect(tip).to_have_text("each layer from minus to plus its largest weight")
    page.page.keyboard.press("Escape")
    expect(tip).to_have_count(0)
    assert page.page.evaluate("document.activeElement.type") == "radio", "the first Escape takes only the tip away"
    page.page.keyboard.press("Escape")
    assert page.page.evaluate("document.activeElement === document.body")


def test_touch_pins_terms_and_a_long_press_shows_titles(browser: Browser, ex: Explorer, tmp_path: Path) -> None:
    ex._tell(_glossary="")
    ex.to_html(tmp_path / "page.html")
    ex._tell(_glossary=GLOSSARY)
    page = LivePage.open(browser, tmp_path / "page.html", width=360, touch=True)
    found = terms(page)
    for i in range(found.count()):
        found.nth(i).tap()
        pin = page.part("pin")
        expect(pin).to_be_visible()
        expect(pin.locator("a")).to_have_count(0)  # no site is known: the text stands alone
        note = pin.bounding_box()
        assert note is not None
        assert note["x"] >= 0
        assert note["x"] + note["width"] <= 360
        page.part("pin-close").tap()
    log = page.part("log")
    press = {"pointerType": "touch", "bubbles": True, "clientX": 100, "clientY": 100, "isPrimary": True}
    log.dispatch_event("pointerdown", press)
    tip = page.frame.locator(".sw-tip")
    expect(tip).to_have_text("counts on a logarithmic scale")
    log.dispatch_event("pointerup", press)
    page.part("sparsity").dispatch_event("pointerdown", press)
    expect(tip).to_have_count(0)
    assert "pin" not in plain(page.words("explorer"))
    page.close()
