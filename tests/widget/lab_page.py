"""JupyterLab in one page for many tests: loading it takes seconds of both cores, tidying it up a moment."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from playwright.sync_api import ConsoleMessage, Error, Locator, Page, Request, Response, ViewportSize

from .jupyterlab_server import Lab
from .notebook_page import LONG, Notebook
from .standalone_page import NEXT_FRAME

VIEWPORT: ViewportSize = {"width": 1400, "height": 1000}
# JupyterLab's own, when a page leaves or a kernel ends
# The second is said of an output that is drawn once more when its widget is closed already: the cell runs again.
# The third is told of whoever's elements change size while they are measured, JupyterLab's list of cells among them.
HARMLESS = ("Could not restore the debugger state", "widget model not found", "ResizeObserver loop")

# Close every tab without the question whether to save, and end the kernels of those that have one.
CLOSE_ALL = """async () => {
  const { shell } = window.jupyterapp;
  const tabs = [...shell.widgets("main")];
  await Promise.all(tabs.map((tab) => tab.sessionContext?.shutdown()));
  for (const tab of tabs) tab.dispose();
}"""


# Set one of the extension's settings as the settings editor does; null takes it back.
SET = """([name, value]) => {
  const registry = window.jupyterapp.pluginRegistry._plugins.get("@jupyterlab/apputils-extension:settings").service;
  const plugin = "shrinkwidget:checkpoints";
  return value === null ? registry.remove(plugin, name) : registry.set(plugin, name, value);
}"""


@dataclass
class LabPage:
    """JupyterLab in a page, what it has asked the server for, and what it complains of."""

    lab: Lab
    page: Page
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    """Errors of the page and of its console."""
    errors: list[Error] = field(default_factory=list)
    """The first of them, with their stacks."""
    changed: set[str] = field(default_factory=set)
    """Settings that are not what they were."""

    @classmethod
    def load(cls, lab: Lab, page: Page) -> LabPage:
        """Load JupyterLab in a workspace of its own."""
        found = cls(lab, page)
        page.on("request", lambda request: found.requests.append(request))  # playwright takes no builtin
        page.on("console", found._hear)
        page.on("pageerror", found._fail)
        page.goto(f"{lab.url}lab/workspaces/{secrets.token_hex(4)}?token={lab.token}")
        page.wait_for_function("window.jupyterapp?.restored.then(() => true)", timeout=LONG)
        return found

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(words in message.text for words in HARMLESS):
            self.complaints.append(f"{message.text} ({message.location.get('url', '')})")

    def _fail(self, error: Error) -> None:
        self.errors.append(error)
        # JupyterLab has errors of its own: they run through nothing but its bundle, and ours is never among that
        places = re.findall(r"(?:https?|blob):[^\s)]+", error.stack or "")
        harmless = any(words in error.message for words in HARMLESS)
        if not harmless and not (places and all("/static/lab/" in place for place in places)):
            self.complaints.append(f"{error}\n{error.stack}")

    def tidy_up(self) -> None:
        """Close all tabs and kernels, undo what tests change of the page, and forget what was said."""
        self.page.keyboard.press("Escape")  # a menu that a failed test has left open
        self.page.evaluate(CLOSE_ALL)
        for name in [*self.changed]:
            self.set(name, None)
        self.page.set_viewport_size(VIEWPORT)
        self.page.emulate_media(forced_colors="none")
        self.page.mouse.move(0, 0)
        if self.page.locator("body[data-jp-theme-light='false']").count():
            Notebook(self.page).theme("JupyterLab Light")
        self.page.evaluate("['collapseLeft', 'collapseRight'].forEach((side) => window.jupyterapp.shell[side]())")
        self.page.evaluate(NEXT_FRAME)  # what is said of tabs that have just gone is not the next test's
        for said in (self.requests, self.complaints, self.errors):
            said.clear()

    def open_notebook(self, name: str) -> Notebook:
        """Open a notebook of the server's folder in a tab, and wait for its kernel."""
        book = Notebook(self.page, self.complaints, self.lab.address(name))
        book.command("docmanager:open", path=name)
        book.wait_for_kernel()
        return book

    def open_folder(self, name: str) -> None:
        """Show a folder in the file browser."""
        self.page.evaluate("window.jupyterapp.shell.expandLeft()")
        shown = self.page.locator(f".jp-DirListing-item[title*='Path: {name}']")
        for _ in range(20):  # a page that was just loaded still goes back to the folder it was in
            self.command("filebrowser:go-to-path", path=name)
            self.refresh()
            if shown.count():
                return
            self.page.wait_for_timeout(500)
        raise TimeoutError(f"the file browser does not show {name}")

    def refresh(self) -> None:
        """Have the file browser show what is new, and wait until its rows stand where they stay."""
        self.command("filebrowser:refresh")
        self.page.evaluate(NEXT_FRAME)

    def file(self, name: str) -> Locator:
        """Return a file or folder in the file browser."""
        return self.page.locator(".jp-DirListing-item").filter(has_text=re.compile(rf"^\s*{re.escape(name)}"))

    @property
    def viewer(self) -> Locator:
        """Return the content of the checkpoint's tab in front."""
        return self.page.locator(".jp-shrinkwidget-checkpoint:visible")

    def double_click(self, name: str) -> Locator:
        """Open a file as a user does; return its tab's content."""
        self.file(name).dblclick()
        return self.viewer

    def close(self, content: Locator) -> None:
        """Close the tab with this content, once JupyterLab knows that it is in front, and wait until it is gone."""
        shown = content.element_handle()
        in_front = "(content) => window.jupyterapp.shell.currentWidget?.node.contains(content)"
        self.page.wait_for_function(in_front, arg=shown)
        self.command("application:close")
        self.page.wait_for_function("(content) => !content.isConnected", arg=shown)

    def menu(self, name: str, entry: str) -> None:
        """Choose an entry of the context menu of a file or folder."""
        self.file(name).click(button="right")
        self.page.get_by_role("menuitem", name=re.compile(f"^{re.escape(entry)}")).click()  # its shortcut may follow

    def command(self, name: str, **arguments: object) -> None:
        """Run one of JupyterLab's commands, and wait until it is done."""
        Notebook(self.page).command(name, **arguments)

    def set(self, name: str, value: object) -> None:
        """Set one of the extension's settings; None takes it back, as `tidy_up` does."""
        self.page.evaluate(SET, [name, value])
        self.changed = self.changed - {name} if value is None else self.changed | {name}

    def sources(self, count: int) -> list[str]:
        """Return the code of the cells of the notebook in front, once they are so many: those out of sight count."""
        cells = "window.jupyterapp.shell.currentWidget.content?.widgets"
        self.page.wait_for_function(f"{cells}?.length === {count}")
        return list(self.page.evaluate(f"{cells}.map((cell) => cell.model.sharedModel.getSource())"))

    @contextmanager
    def saving(self, words: str) -> Iterator[None]:
        """Wait until JupyterLab has saved these words with its layout, which it does a second after a change."""

        def has_them(found: Response) -> bool:
            request = found.request
            return request.method == "PUT" and "/api/workspaces/" in found.url and words in (request.post_data or "")

        with self.page.expect_response(has_them):
            yield

    def our_errors(self) -> list[str]:
        """Return where errors of the page came from that the extension had part in: JupyterLab has its own."""
        stacks = [error.stack or "" for error in self.errors]
        return [stack for stack in stacks if "/extensions/shrinkwidget/" in stack]
