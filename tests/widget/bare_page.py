"""The built bundle on a page of its own, its traits those of a real explorer or monitor, its drawings written down.

No JupyterLab and no kernel stand between: so a browser test can compare everything the page shows with Python's own
figures, for many recipes in a few seconds. What goes through Jupyter is tested in `test_page.py`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, Route, expect

import shrinkwidget

STATIC = Path(shrinkwidget.__file__).parent / "widgets" / "static"
ADDRESS = "http://explorer.test/"
NEXT_FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(null))))"
NOT_OURS = ("layout", "_esm", "_css", "_anywidget_id", "tabbable", "tooltip")

HTML = """<!doctype html><html><head><meta charset="utf-8"><link rel="stylesheet" href="{name}.css"></head>
<body style="margin: 0; --jp-ui-font-family: sans-serif"><div id="here"></div></body></html>"""

# anywidget's model as far as our bundle uses it
MODEL = """
async ({name, state}) => {
  const decoded = (v) => v && v.base64 !== undefined
    ? new DataView(Uint8Array.from(atob(v.base64), (c) => c.charCodeAt(0)).buffer) : v;
  const values = new Map(Object.entries(state).map(([k, v]) => [k, decoded(v)]));
  const heard = new Map();
  const emit = (event) => { for (const f of [...(heard.get(event) ?? [])]) f(); };
  const model = {
    get: (k) => values.get(k),
    set(k, v) { if (values.get(k) !== v) { values.set(k, v); emit(`change:${k}`); } },
    on(event, f) { heard.set(event, (heard.get(event) ?? new Set()).add(f)); },
    off(event, f) { heard.get(event)?.delete(f); },
    save_changes() {},
    send(message) { window.sent.push(message); },
    widget_manager: {},
  };
  window.sent = [];
  window.told = (news) => {
    for (const [k, v] of Object.entries(news)) values.set(k, decoded(v));
    for (const k of Object.keys(news)) emit(`change:${k}`);
  };
  window.traits = () => Object.fromEntries([...values].filter(([, v]) => !(v instanceof DataView)));
  const widget = (await import(`/${name}.js`)).default();
  const aborted = new AbortController();
  await widget.initialize?.({model, signal: aborted.signal});
  await widget.render({model, el: document.getElementById("here"), signal: aborted.signal});
}
"""

# Every text and every dashed line of a canvas since it was last cleared, in its own CSS pixels.
RECORDER = """
const drawn = new WeakMap();
const of = (context) => {
  if (!drawn.has(context.canvas)) drawn.set(context.canvas, {texts: [], dashed: [], path: []});
  return drawn.get(context.canvas);
};
window.drawnOn = (canvas) => drawn.get(canvas) ?? {texts: [], dashed: []};
const wrap = (name, before) => {
  const original = CanvasRenderingContext2D.prototype[name];
  CanvasRenderingContext2D.prototype[name] = function (...args) {
    before.call(this, ...args);
    return original.apply(this, args);
  };
};
wrap("clearRect", function () { drawn.delete(this.canvas); });
wrap("fillText", function (text, x, y) {
  const {a, d, e, f} = this.getTransform();
  of(this).texts.push({text, x: (a * x + e) / devicePixelRatio, y: (d * y + f) / devicePixelRatio});
});
wrap("beginPath", function () { of(this).path = []; });
wrap("moveTo", function (x, y) { of(this).path.push([x, y]); });
wrap("stroke", function () { if (this.getLineDash().length) of(this).dashed.push(...of(this).path); });
"""


@dataclass
class BarePage:
    """One widget on an empty page; `tell` brings the page's traits up to those of the Python object."""

    page: Page
    widget: Any
    complaints: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, page: Page, widget: Any, name: str = "explorer") -> BarePage:
        """Show the built `name`.js with a widget's traits."""
        bare = cls(page, widget)
        page.on("pageerror", lambda error: bare.complaints.append(str(error)))
        page.on("console", lambda said: bare.complaints.append(said.text) if said.type == "error" else None)
        page.add_init_script(RECORDER)
        page.route(f"{ADDRESS}**", lambda route: _serve(route, name))
        page.goto(ADDRESS)
        page.evaluate(MODEL, {"name": name, "state": bare.traits()})
        expect(page.get_by_test_id(name)).to_be_visible()
        return bare

    def traits(self) -> dict[str, Any]:
        """Return the widget's synced traits as JSON takes them."""
        state = {k: v for k, v in self.widget.get_state().items() if k not in NOT_OURS}
        return {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in state.items()}

    def tell(self, only: Mapping[str, Any] | None = None) -> None:
        """Tell the page what changed in Python (or only some traits), and wait until it has painted."""
        self.page.evaluate("(news) => window.told(news)", json.loads(json.dumps(only or self._news())))
        self.painted()

    def _news(self) -> dict[str, Any]:
        before = self.page.evaluate("() => window.traits()")
        return {k: v for k, v in self.traits().items() if not isinstance(v, dict) or "base64" not in v} | {
            k: v for k, v in self.traits().items() if k not in before and isinstance(v, dict) and "base64" not in v
        }

    def painted(self) -> None:
        """Wait until everything that was changed is on the screen."""
        self.page.evaluate(NEXT_FRAME)

    def part(self, name: str) -> Locator:
        """Return the element with a test id."""
        return self.page.get_by_test_id(name)

    def words(self, name: str) -> str:
        """Return the text of an element as it is read, its narrow and fixed spaces plain."""
        return plain(self.part(name).inner_text())

    def canvas(self, name: str) -> dict[str, Any]:
        """Return what is drawn on a canvas: texts with their places, and where dashed lines begin."""
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


def _serve(route: Route, name: str) -> None:
    wanted = route.request.url.removeprefix(ADDRESS)
    if wanted == "":
        route.fulfill(body=HTML.format(name=name), content_type="text/html")
    elif (STATIC / wanted).is_file():
        route.fulfill(path=STATIC / wanted)
    else:
        route.fulfill(status=204)
