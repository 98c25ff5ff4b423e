"""A page that `to_html` wrote, opened as a reader does: from the file, without a network, watched for complaints."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from playwright.sync_api import Browser, Frame, Locator, Page

import shrinkwidget as sw

from .standalone_page import NEXT_FRAME, plain


@dataclass
class LivePage:
    """An explorer or a monitor without a kernel, in a window of its own or in a frame of it."""

    page: Page
    frame: Frame
    complaints: list[str] = field(default_factory=list)
    """What the console said, and what was asked of the network."""

    @classmethod
    def open(
        cls,
        browser: Browser,
        path: Path,
        *,
        fragment: str = "",
        width: int = 1400,
        theme: Literal["light", "dark"] = "light",
        touch: bool = False,
    ) -> LivePage:
        """Open a file in a new browser profile that has no network."""
        context = browser.new_context(
            offline=True, viewport={"width": width, "height": 1000}, color_scheme=theme, has_touch=touch
        )
        context.set_default_timeout(10_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        page = context.new_page()
        opened = cls(page, page.main_frame)
        page.on("pageerror", lambda error: opened.complaints.append(str(error)))
        page.on("console", lambda said: opened.complaints.append(said.text))
        page.on("dialog", lambda dialog: opened.complaints.append(dialog.message))
        address = path.as_uri()
        page.on("request", lambda r: opened.complaints.append(r.url) if r.url.split("#")[0] != address else None)
        page.goto(address + fragment)
        return opened

    def within(self, number: int) -> LivePage:
        """Return the page in the frame of this number, counted from 0."""
        return LivePage(self.page, self.page.frames[1 + number], self.complaints)

    def part(self, name: str) -> Locator:
        """Return the element with a test id."""
        return self.frame.get_by_test_id(name)

    def words(self, name: str) -> str:
        """Return the text of an element as it is read, its narrow and fixed spaces plain."""
        return plain(self.part(name).inner_text())

    def painted(self) -> None:
        """Wait until everything that was changed is on the screen."""
        self.frame.evaluate(NEXT_FRAME)

    @property
    def nbytes(self) -> int:
        """The size on the page in bytes."""
        self.painted()
        return int(self.part("size-now").get_attribute("data-bytes") or 0)

    @property
    def exact(self) -> bool:
        """Whether the page says that its figures are exact."""
        return self.part("size-now").get_attribute("data-exact") == "true"

    @property
    def recipe(self) -> sw.Recipe:
        """The recipe that "Copy as code" copies, run as the code it is."""
        self.painted()
        found = eval(self.part("copy").get_attribute("title") or "", {"sw": sw})  # noqa: S307  # ours
        assert isinstance(found, sw.Recipe)
        return found

    def drag_to(self, share: float) -> None:
        """Take the slider's thumb with the mouse and drag it to a share of the track."""
        slider = self.part("sparsity")
        box = slider.bounding_box()
        assert box is not None
        at, middle = float(slider.input_value()) / 100, box["y"] + box["height"] / 2
        self.page.mouse.move(box["x"] + box["width"] * min(max(at, 0.01), 0.99), middle)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] * share, middle, steps=8)
        self.page.mouse.up()
        self.painted()

    def evaluate(self, script: str) -> Any:
        """Run a script in the page."""
        return self.frame.evaluate(script)

    def close(self) -> None:
        """Close the browser profile; the page must not have complained of anything."""
        self.page.context.close()
        assert self.complaints == []
