"""Draws figures for slides from the lessons' own results: ``python scripts/draw_lesson_slides.py FOLDER``.

Each lesson is run, solved, in a kernel of its own; what is drawn comes from its variables when it is done.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Final

import nbformat
from nbclient import NotebookClient

import shrinkwidget as sw

SLIDES: Final = {
    1: {
        "layers": "sw.figures.silhouette(network, **slide)",
        "bits": (
            "sw.figures.size(network, steps={'32 bits': sw.summary(network).safetensors,"
            " '8 bits': sw.compress(network, bits=8), '4 bits': sw.compress(network, bits=4)}, **slide)"
        ),
    },
    2: {
        "weights": "sw.figures.distributions(model, sparsity=0.8, show=['stem', 'stage2.0.conv1', 'head'], **slide)",
        "which-layer-minds": "sw.figures.sensitivity(alone, **slide)",
        "which-class-pays": "sw.figures.classes(sw.compare_predictions(model, pruned, valid), **slide)",
    },
    3: {
        "levels": "sw.figures.layer(model, 'stage3.1.conv2', bits=3, **slide)",
        "where-the-bytes-are": "sw.figures.size(model, recipe, **slide)",
    },
    4: {"rewinding": "sw.figures.tradeoff(runs, **slide)"},
    5: {"labels": "sw.figures.transfer(lines, per='labelled images of each digit', **slide)"},
    6: {"budget": "sw.figures.tradeoff(curves, baseline=dense, **slide)"},
}
"""By the number of a lesson: the name of each picture, and what draws it from the lesson's variables."""


def draw(folder: Path) -> list[Path]:
    """Run the lessons, draw their slides into a folder as PNG, and return where they are."""
    os.environ["OMP_NUM_THREADS"] = "1"
    folder.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []
    with tempfile.TemporaryDirectory() as work:
        sw.workshop.copy_lessons(work, solutions=True)
        for number, lesson in enumerate(sw.workshop.lessons(), 1):
            slides = {folder.resolve() / f"{number}-{name}.png": code for name, code in SLIDES[number].items()}
            save = [f"sw.figures.save({code}, {str(path)!r})" for path, code in slides.items()]
            path = Path(work, "solutions", lesson.file)
            book = nbformat.read(path, as_version=4)
            book.cells.append(nbformat.v4.new_code_cell("\n".join(["slide = dict(width='slide-16x9')", *save])))
            where = {"metadata": {"path": path.parent}}
            NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
            drawn += slides
    return drawn


def main() -> None:
    """Draw into the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for path in draw(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
