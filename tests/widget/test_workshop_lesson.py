"""A newcomer's walk through the lesson on pruning, in a real JupyterLab: predict, be told, drag, find out, check."""

from __future__ import annotations

from pathlib import Path

import nbformat
from playwright.sync_api import Locator, expect

import shrinkwidget as sw

from .explorer_page import ExplorerPage
from .lab_page import LabPage
from .notebook_page import LONG, Notebook

LESSON = "2-pruning.ipynb"


class Learner:
    """Somebody at a lesson: writes answers into its cells, and runs them."""

    def __init__(self, book: Notebook, path: Path) -> None:
        self.book = book
        self._cells = [cell.source for cell in nbformat.read(path, as_version=4).cells]

    def place(self, part: str) -> int:
        """Return the number of the first cell that holds these words."""
        return next(number for number, source in enumerate(self._cells) if part in source)

    def run(self, part: str) -> Locator:
        """Run the cell that holds these words; return it."""
        self.book.run(self.place(part))
        return self.book.cell(self.place(part))

    def answer(self, exercise: str, code: str) -> Locator:
        """Write an answer in place of the dots of an exercise, run it, and return what is said of it."""
        number = self.place(f'check("{exercise}"')
        source = self._cells[number]
        before, found, after = source.partition(" = ...")
        assert found, source
        written = f"{before} = {code}{after}"
        self.book.page.evaluate(
            "([number, text]) => window.jupyterapp.shell.currentWidget.content.widgets[number].model.sharedModel"
            ".setSource(text)",
            [number, written],
        )
        self.book.run(number)
        return self.book.cell(number).locator(".jp-OutputArea-output").last


def test_a_learner_predicts_drags_and_is_checked(lab: LabPage, screenshots: Path) -> None:
    folder = lab.lab.folder / "workshop"
    sw.workshop.copy_lessons(folder)
    book = lab.open_notebook(f"workshop/{LESSON}")
    learner = Learner(book, folder / LESSON)
    learner.run("import shrinkwidget as sw")
    learner.run("weights = sw.workshop.matrix()")
    expect(learner.run('check("2.1"').locator(".jp-OutputArea-output").last).to_contain_text("no answer yet")
    expect(learner.answer("2.1", "weights > 0.45")).to_contain_text("8 of the 25 weights are kept, and not 15")
    book.page.screenshot(path=screenshots / "workshop-by-hand.png")
    expect(learner.answer("2.1", "weights.abs() > 0.45")).to_contain_text("✓ 2.1")

    # predict, and be told in which direction to look
    expect(learner.answer("2.4", "0.5")).to_contain_text("the edge is higher")
    learner.run("ex = sw.explore")
    page = ExplorerPage.first(book)

    # the explorer covers what it found out, too, until the learner has said what it will be
    page.slide_to(85)
    expect(page.part("predict")).to_be_visible(timeout=LONG)
    page.settled_bytes()
    book.until("ex.recipe.sparsity == 0.85")
    assert book.python("ex.score") is None
    assert book.python("[point['recipe'].sparsity for point in ex.history]") in ([], [0.0])
    page.part("predict-box").fill("90")
    page.part("predict-box").press("Enter")
    expect(page.part("prediction")).to_contain_text("you said 90", timeout=LONG)
    book.until("[said['predicted'] for said in ex.predictions] == [0.9]")
    book.page.screenshot(path=screenshots / "workshop-predict.png")
    page.part("predict-first").uncheck()

    page.slide_to(80)
    page.settled_bytes()
    assert page.score() == book.python("ex.score.value") >= 0.9
    page.slide_to(82)
    page.settled_bytes()
    book.until("ex.score is not None and ex.recipe.sparsity == 0.82")
    assert page.score() < 0.9
    book.page.screenshot(path=screenshots / "workshop-explore.png")
    expect(learner.answer("2.4", "0.81")).to_contain_text("✓ 2.4")

    # a recipe made by dragging and clicking is an answer, too
    page.slide_to(80)
    page.settled_bytes()
    said = learner.answer("2.7", "ex.recipe")
    expect(said).to_contain_text("5 images short", timeout=LONG)
    spared = 'ex.recipe.with_(layers={"stem": sw.Keep, "head": sw.Keep})'
    expect(learner.answer("2.7", spared)).to_contain_text("✓ 2.7", timeout=LONG)
    book.page.screenshot(path=screenshots / "workshop-target.png")
    assert lab.complaints == []
