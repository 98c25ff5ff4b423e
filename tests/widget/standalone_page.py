"""The built bundle on a page of its own, its traits those of a real explorer or monitor, its drawings written down.

No JupyterLab and no kernel stand between: so a browser test can compare everything the page shows with Python's own
figures, for many recipes in a few seconds, and the page is as wide, hidden or sharp as the test wants it. What goes
through Jupyter is tested in `test_explorer_page.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import FloatRect, Locator, Page, Route

import shrinkwidget

HERE = Path(__file__).parent
STATIC = Path(shrinkwidget.__file__).parent / "widgets" / "static"
ADDRESS = "http://widget.test/"
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"
NOT_OURS = ("layout", "_esm", "_css", "_anywidget_id", "tabbable", "tooltip")
HEIGHT = 1000

HTML = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>widget</title>
<link rel="stylesheet" href="{name}.css"><script type="module" src="fake_widget_model.js"></script></head>
<body style="margin: 0; --jp-ui-font-family: sans-serif"><main id="here" style="{hidden}"></main></body></html>"""

# Of a canvas since it was last cleared, in its own CSS pixels: every text, where dashed lines begin, and all points of
# solid lines with their color. Texts are not painted where `withoutText` is set: the same letters come out of Chromium
# hinted or not, by what it has cached of their font, and no picture would equal another for certain.
RECORDER = """
const drawn = new WeakMap();
const of = (context) => {
  if (!drawn.has(context.canvas)) drawn.set(context.canvas, {texts: [], dashed: [], solid: [], starts: [], path: []});
  return drawn.get(context.canvas);
};
window.drawnOn = (canvas) => drawn.get(canvas) ?? {texts: [], dashed: [], solid: []};
const wrap = (name, before) => {
  const original = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...args) {
    before.call(this, ...args);
    return name === "fillText" && window.withoutText ? undefined : original.apply(this, args);
  };
};
wrap("clearRect", function () { drawn.delete(this.canvas); });
wrap("fillText", function (text, x, y) {
  const {a, d, e, f} = this.getTransform();
  of(this).texts.push({text, x: (a * x + e) / devicePixelRatio, y: (d * y + f) / devicePixelRatio});
});
wrap("beginPath", function () { Object.assign(of(this), {starts: [], path: []}); });
wrap("moveTo", function (x, y) {
  of(this).starts.push([x, y]);
  of(this).path.push([x, y]);
});
wrap("lineTo", function (x, y) { of(this).path.push([x, y]); });
wrap("stroke", function () {
  const found = of(this);
  if (this.getLineDash().length) found.dashed.push(...found.starts);
  else found.solid.push({color: this.strokeStyle, path: found.path});
});
"""


@dataclass
class BarePage:
    """One widget on an empty page; `tell` brings the page up to Python, `settle` Python up to the page as well."""

    page: Page
    widget: Any
    name: str = "explorer"
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def open(
        cls,
        page: Page,
        widget: Any,
        name: str = "explorer",
        *,
        width: int = 1400,
        hidden: str = "",
        text: bool = True,
    ) -> BarePage:
        """Show the built `name`.js with a widget's traits, in an element of the style `hidden`.

        Without `text` canvases are painted without theirs, so that pixels can be compared; `canvas` tells it anyway.
        """
        bare = cls(page, widget, name)
        page.on("pageerror", lambda error: bare.complaints.append(str(error)))
        page.on("console", lambda said: bare.complaints.append(said.text) if said.type == "error" else None)
        page.add_init_script(RECORDER)
        page.add_init_script(f"window.withoutText = {str(not text).lower()}")
        page.set_viewport_size({"width": width, "height": HEIGHT})
        html = HTML.format(name=name, hidden=hidden)
        page.route(f"{ADDRESS}**", lambda route: _serve(route, html))
        page.goto(ADDRESS)
        page.wait_for_function("() => Boolean(window.showWidget)")
        page.evaluate(
            "([name, traits]) => showWidget(name, traits, document.getElementById('here'))", [name, bare.traits()]
        )
        return bare

    def traits(self) -> dict[str, Any]:
        """Return the widget's synced traits as JSON takes them."""
        state = {k: v for k, v in self.widget.get_state().items() if k not in NOT_OURS}
        told = {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in state.items()}
        return dict(json.loads(json.dumps(told)))

    def tell(self, only: Mapping[str, Any] | None = None) -> None:
        """Tell the page what Python says now (or only some traits), and wait until it has painted."""
        news = self.traits() if only is None else dict(only)
        news.pop("_sketch", None)  # it is large, and stays what it was
        self.page.evaluate("(news) => model.hear(news)", news)
        self.painted()

    def settle(self) -> None:
        """Let Python follow what was done on the page, and the page show what Python says."""
        self.painted()
        self.widget.set_state(self.page.evaluate("model.takeChanges()"))
        self.widget.wait(60)
        self.tell()

    def painted(self) -> None:
        """Wait until everything that was changed is on the screen."""
        self.page.evaluate(NEXT_FRAME)

    @property
    def view(self) -> Locator:
        """The widget's root."""
        return self.page.get_by_test_id(self.name)

    def part(self, name: str) -> Locator:
        """Return the element with a test id."""
        return self.page.get_by_test_id(name)

    def box(self, selector: str) -> FloatRect:
        """Return where an element of the widget is on the page: x, y, width, height."""
        found = self.view.locator(selector).first.bounding_box()
        assert found is not None, f"{selector} is not on the page"
        return found

    def words(self, name: str) -> str:
        """Return the text of an element as it is read, its narrow and fixed spaces plain."""
        return plain(self.part(name).inner_text())

    def canvas(self, name: str) -> dict[str, Any]:
        """Return what is drawn on a canvas: texts with their places, starts of dashed lines, and solid lines."""
        found: dict[str, Any] = self.part(name).evaluate("(canvas) => window.drawnOn(canvas)")
        return found

    def table(self, name: str) -> list[list[str]]:
        """Return the cells of a table's body, row by row."""
        rows = self.part(name).locator("tbody tr")
        script = "(rows) => rows.map((row) => [...row.children].map((cell) => cell.innerText))"
        return [[plain(cell) for cell in row] for row in rows.evaluate_all(script)]


def plain(text: str) -> str:
    """Return text with every kind of space plain, and the signs of "about" left out."""
    for space in ("\N{NO-BREAK SPACE}", "\N{NARROW NO-BREAK SPACE}", "\n"):
        text = text.replace(space, " ")
    return text.replace("\N{MINUS SIGN}", "-").strip()


def _serve(route: Route, html: str) -> None:
    wanted = route.request.url.removeprefix(ADDRESS)
    files = (folder / wanted for folder in (HERE, STATIC))
    if wanted == "":
        route.fulfill(body=html, content_type="text/html")
    elif found := next((path for path in files if path.is_file()), None):
        route.fulfill(path=found)
    else:
        route.fulfill(status=204)
