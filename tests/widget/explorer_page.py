"""The explorer as a person meets it on the page: what can be read off it and what can be done with it."""

from __future__ import annotations

from dataclasses import dataclass

from playwright.sync_api import FloatRect, Locator, expect

from .notebook_page import Notebook

EXPLORE = """
import os, time
import shrinkwidget as sw
model, data = sw.demo.model(), sw.demo.data()
ex = sw.explore(model, data)
ex
"""
SETTLE = 60_000
OPTIONS = ("scope", "structure", "granularity", "quantizer", "symmetric", "clipping", "importance", "uncompressed-bits")
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"


@dataclass
class ExplorerPage:
    """One view of an explorer in an open notebook."""

    book: Notebook
    view: Locator

    @classmethod
    def first(cls, book: Notebook, number: int = 0) -> ExplorerPage:
        """Return a notebook's explorer view, counted from 0, once it is on the page."""
        view = book.page.get_by_test_id("explorer").nth(number)
        expect(view.get_by_test_id("sparsity")).to_be_visible(timeout=SETTLE)
        return cls(book, view)

    def part(self, name: str) -> Locator:
        """Return the element with a test id."""
        return self.view.get_by_test_id(name)

    @property
    def slider(self) -> Locator:
        """The sparsity slider."""
        return self.part("sparsity")

    def slide_to(self, percent: float) -> None:
        """Set the sparsity slider, as one move of it would."""
        self.slider.fill(f"{percent:g}")

    def at_rest(self, part: Locator) -> FloatRect:
        """Point at an element, and return where it is once the page no longer brings it into sight."""
        part.hover()  # whoever points at something new is done looking for it: the page stays where it is
        self.book.page.evaluate(NEXT_FRAME)
        box = part.bounding_box()
        assert box is not None
        return box

    def drag_to(self, share: float, steps: int = 20, slider: str = "sparsity") -> None:
        """Take a slider's thumb with the mouse and drag it to a share of the track, in steps."""
        thumb = self.part(slider)
        before = thumb.input_value()
        at = float(before) / float(thumb.get_attribute("max") or 100)
        box = self.at_rest(thumb)
        middle, mouse = box["y"] + box["height"] / 2, self.book.page.mouse
        mouse.move(box["x"] + box["width"] * min(max(at, 0.01), 0.99), middle)
        mouse.down()
        mouse.move(box["x"] + box["width"] * share, middle, steps=steps)
        mouse.up()
        if abs(at - share) > 0.05:
            expect(thumb).not_to_have_value(before)  # the mouse had hold of it

    def choose(self, setting: str, value: str | int) -> None:
        """Choose one of a few, such as ``choose("bits", 4)``, among the options if need be."""
        options = self.part("options")
        if setting in OPTIONS and options.get_attribute("aria-expanded") == "false":
            options.click()
        self.part(setting).locator(f"label:has(input[value='{value}'])").click()

    def settled_bytes(self) -> int:
        """Return the size on the page in bytes, once it is the kernel's exact one."""
        self.book.page.evaluate(NEXT_FRAME)
        size = self.part("size-now")
        expect(size).to_have_attribute("data-exact", "true", timeout=SETTLE)
        return int(size.get_attribute("data-bytes") or 0)

    def score(self) -> float:
        """Return the score on the page, once the evaluation is done."""
        score = self.part("accuracy")
        expect(score).to_have_attribute("data-state", "done", timeout=SETTLE)
        return float(score.get_attribute("data-value") or "nan")

    def sparsity_percent(self) -> float:
        """Return where the slider stands."""
        return float(self.slider.input_value())

    def press(self, button: str) -> None:
        """Press a button by its test id."""
        self.part(button).click()

    def ask(self, button: str, text: str) -> None:
        """Press "compress" or "save", type the name it asks for, and go."""
        self.press(button)
        self.part(f"{button}-input").fill(text)
        self.press(f"{button}-go")

    def open_layer(self, row: int) -> Locator:
        """Click a row of the ridge, counted from 0, and return the enlarged layer."""
        ridge, page = self.part("ridge"), self.book.page
        ridge.scroll_into_view_if_needed()
        ridge.focus()
        page.keyboard.press("Home")
        for _ in range(row):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        return self.part("detail")
