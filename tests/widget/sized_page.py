"""The built explorer on a page without Jupyter: quick to open, and as wide, hidden or sharp as a test wants it.

Its model holds the traits of a real `Explorer`; `settle` carries them there and back, as a kernel would.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, FloatRect, Locator, Page, Route

import shrinkwidget as sw

HERE = Path(__file__).parent
STATIC = Path(sw.__file__).parent / "widgets" / "static"
ADDRESS = "http://explorer.test/"
HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>sized</title>
<link rel="stylesheet" href="explorer.css"><script type="module" src="sized_model.js"></script></head>
<body style="margin: 0; {style}"><main id="here" style="{hidden}"></main></body></html>"""
DARK = "--jp-layout-color1: #111; --jp-ui-font-color1: rgb(255 255 255 / 87%); background: #111"
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"


@dataclass
class SizedPage:
    """One explorer on a page of its own."""

    page: Page
    explorer: sw.Explorer

    @property
    def view(self) -> Locator:
        """The explorer's root."""
        return self.page.get_by_test_id("explorer")

    def part(self, name: str) -> Locator:
        """Return the element with a test id."""
        return self.view.get_by_test_id(name)

    def frame(self) -> None:
        """Wait until what was done is painted."""
        self.page.evaluate(NEXT_FRAME)

    def settle(self) -> None:
        """Let Python follow the page, and the page show what Python says."""
        self.frame()
        self.explorer.set_state(self.page.evaluate("model.takeChanges()"))
        self.explorer.wait(60)
        told = {name: value for name, value in traits(self.explorer).items() if name != "_sketch"}
        self.page.evaluate("told => model.hear(told)", told)
        self.frame()

    def box(self, selector: str) -> FloatRect:
        """Return where an element inside the explorer is on the page: x, y, width, height."""
        found = self.view.locator(selector).first.bounding_box()
        assert found is not None, f"{selector} is not on the page"
        return found


def traits(explorer: sw.Explorer) -> dict[str, Any]:
    """Return an explorer's synced traits as JSON can carry them."""
    state = {
        k: v for k, v in explorer.get_state().items() if k not in ("_esm", "_css", "layout", "tabbable", "tooltip")
    }
    return {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in state.items()}


def open_sized(
    context: BrowserContext, explorer: sw.Explorer, *, hidden: str = "", dark: bool = False, width: int = 1400
) -> SizedPage:
    """Show an explorer's built bundle on an empty page, in an element of the style `hidden`."""
    page = context.new_page()
    page.set_viewport_size({"width": width, "height": 1000})
    html = HTML.format(style=DARK if dark else "", hidden=hidden)
    types = {".js": "text/javascript", ".css": "text/css"}

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(ADDRESS)
        path = (HERE if name == "sized_model.js" else STATIC) / (name or "index.html")
        if not name:
            route.fulfill(body=html, content_type="text/html")
        elif path.is_file():
            route.fulfill(body=path.read_text(), content_type=types[path.suffix])
        else:
            route.fulfill(status=404)

    page.route(f"{ADDRESS}**", answer)
    page.goto(ADDRESS)
    page.wait_for_function("() => Boolean(window.showWidget)")
    told = json.loads(json.dumps(traits(explorer)))
    page.evaluate("told => showWidget('./explorer.js', told, document.getElementById('here'))", told)
    return SizedPage(page, explorer)
