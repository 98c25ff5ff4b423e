"""A notebook open in the browser: runs its cells, and asks its kernel."""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

# nothing, and not an error, while no notebook is in front: what waits for one looks again
KERNEL = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel"
CONTEXT = "window.jupyterapp.shell.currentWidget.sessionContext"
LONG = 120_000


def until(page: Page, condition: Callable[[], object], seconds: float = 30, words: str = "the condition") -> None:
    """Wait until a condition holds, while the page goes on."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{words} did not become true in {seconds} s")
        page.wait_for_timeout(20)


@dataclass
class Notebook:
    """The notebook in front of a page, and what the page complains of."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    address: str = ""
    """What the page is loaded from when it is loaded again."""

    def load(self) -> None:
        """Load JupyterLab with this notebook alone, also again, and wait for its kernel."""
        self.page.goto(self.address)
        self.wait_for_kernel()

    def wait_for_kernel(self) -> None:
        """Wait until the notebook is there and its kernel idle, and have the sidebar out of the way."""
        self.page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=LONG)
        self.page.wait_for_function(f"{KERNEL}?.status === 'idle'", timeout=LONG)
        self.page.evaluate("window.jupyterapp.shell.collapseLeft()")

    def command(self, name: str, **arguments: Any) -> None:
        """Run one of JupyterLab's commands and wait until it is done."""
        self.page.evaluate(
            "([name, arguments]) => window.jupyterapp.commands.execute(name, arguments).then(() => null)",
            [name, arguments],
        )

    def run_all(self) -> None:
        """Run every cell and wait until the last one is done."""
        self.command("notebook:run-all-cells")

    def start(self, cell: int) -> None:
        """Select a cell and start it, without waiting for its end."""
        self.select(cell)
        self.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-cell')")

    def select(self, cell: int) -> None:
        """Make one cell, counted from 0, the active one."""
        self.page.evaluate(f"window.jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}")

    def run(self, cell: int) -> None:
        """Run one cell and wait until it is done."""
        self.select(cell)
        self.command("notebook:run-cell")

    def cell(self, number: int) -> Locator:
        """Return a cell, counted from 0."""
        return self.page.locator(f".jp-Cell[data-windowed-list-index='{number}']")

    def running(self, cell: int) -> bool:
        """Tell whether a cell is running (the kernel's own status turns idle after each comm message)."""
        return "*" in self.cell(cell).locator(".jp-InputPrompt").inner_text()

    def python(self, expression: str) -> Any:
        """Return the value of a Python expression in the notebook's kernel; a literal or something made of literals.

        Raises:
            RuntimeError: with the kernel's error.
        """
        reply = self.page.evaluate(
            """async ([kernel, expression]) => {
                const content = {code: "", silent: true, store_history: false, user_expressions: {value: expression}};
                return (await eval(kernel).requestExecute(content).done).content.user_expressions.value;
            }""",
            [KERNEL, expression],
        )
        if reply["status"] != "ok":
            raise RuntimeError(f"{expression}: {reply['ename']}: {reply['evalue']}")
        return ast.literal_eval(reply["data"]["text/plain"])

    def until(self, expression: str, seconds: float = 30) -> None:
        """Wait until a Python expression is true: what the page has sent may still be on its way."""
        until(self.page, lambda: self.python(expression), seconds, expression)

    def save(self) -> None:
        """Save the notebook with its outputs and widget state."""
        self.command("docmanager:save")

    def restart_kernel(self) -> None:
        """Restart the kernel as the menu does, without its question."""
        self.page.evaluate(f"{CONTEXT}.restartKernel().then(() => null)")
        self.page.wait_for_function(f"{KERNEL}?.status === 'idle'", timeout=LONG)

    def shut_down(self) -> None:
        """End the kernel."""
        self.page.evaluate(f"{CONTEXT}.shutdown().then(() => null)")

    def theme(self, name: str) -> None:
        """Switch JupyterLab to a theme by its name, such as "JupyterLab Dark"."""
        self.command("apputils:change-theme", theme=name)
        light = "true" if "Light" in name else "false"
        self.page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")


def write(path: Path, cells: Sequence[str]) -> Path:
    """Write a notebook of code cells."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path
