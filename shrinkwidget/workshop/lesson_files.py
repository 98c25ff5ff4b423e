"""The lessons: what there are, and how they come into a learner's folder without overwriting anything of theirs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import FileError, quoted
from ..files.atomic_write import write_whole

_LESSONS: Final = Path(__file__).with_name("lessons")
_RECORD: Final = ".shrinkwidget-workshop.json"
"""In a learner's folder: what was written there, so that what they have changed is told from what they have not."""
_OURS: Final = "shrinkwidget"
"""The key of a notebook's and a cell's metadata that is the workshop's."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One lesson: its notebook, and what a list of lessons says of it.

    Args:
        file: the name of its notebook.
        title: such as ``"Pruning"``.
        minutes: what it takes a learner, about.
        goals: a sentence.
    """

    file: str
    title: str
    minutes: int
    goals: str


def lessons() -> list[Lesson]:
    """Return the lessons, in order.

    Example:
        >>> import shrinkwidget as sw
        >>> [lesson.title for lesson in sw.workshop.lessons()]
        ['What a model weighs', 'Pruning', 'Fewer bits', 'Getting it back', 'Transfer', 'Shipping it']
    """
    return [_lesson(path) for path in _notebooks()]


def _notebooks() -> list[Path]:
    return sorted(_LESSONS.glob("*.ipynb"))


def _lesson(path: Path) -> Lesson:
    about = _read(path)["metadata"][_OURS]
    return Lesson(path.name, about["title"], about["minutes"], about["goals"])


def _read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def copy_lessons(folder: str | os.PathLike[str], solutions: bool = False, *, nbgrader: bool = False) -> list[str]:
    """Write the lessons into a folder, and return what was done, a sentence for each.

    A notebook that was changed there is never written over; one that was not is brought up to date. In a lesson,
    exercises are open.

    Args:
        folder: where to write; it is made if it is not there.
        solutions: write the solved lessons, too, into ``solutions/``.
        nbgrader: the folder is that of a course in nbgrader: every lesson becomes an assignment, such as
            ``source/2-pruning/2-pruning.ipynb``, in which a locked cell of one point follows each exercise.

    Raises:
        FileError: if the folder cannot be written to.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.workshop.copy_lessons("workshop")[0]
        '1-what-a-model-weighs.ipynb: new'
        >>> sw.workshop.copy_lessons("workshop")[0]
        '1-what-a-model-weighs.ipynb: there already'
    """
    target = Path(folder)
    written = [version for path in _notebooks() for version in _versions(path, solutions, nbgrader)]
    try:
        for name, _ in written:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {quoted(str(target))}: {error.strerror}") from error
    record = _record(target)
    told = [f"{name}: {_put(target, name, notebook, record)}" for name, notebook in written]
    write_whole(target / _RECORD, [json.dumps(record, indent=1).encode()])
    return told


def _versions(path: Path, solutions: bool, nbgrader: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the learner's version of a lesson and, if it is wanted, the solved one, with their names."""
    solved = _read(path)
    if nbgrader:
        yield f"source/{path.stem}/{path.name}", _opened(solved, graded=True)
    else:
        yield path.name, _opened(solved)
    if solutions:
        yield f"solutions/{path.name}", solved


def _opened(solved: Mapping[str, Any], graded: bool = False) -> dict[str, Any]:
    """Return a solved notebook with its exercises open: what a learner's cell holds stands in the cell's metadata.

    `graded` puts a cell behind each of them that nbgrader grades.
    """
    cells = []
    for cell in solved["cells"]:
        learner = cell["metadata"].get(_OURS, {}).get("learner")
        kept = {key: value for key, value in cell["metadata"].items() if key != _OURS}
        cells.append({**cell, "metadata": kept, "source": cell["source"] if learner is None else learner})
        if graded and learner is not None:
            cells.append(_grading_cell(cell["id"], learner))
    return {**solved, "cells": cells}


def _grading_cell(answered: str, learner: str) -> dict[str, Any]:
    """Return a locked cell, worth a point, that passes if the check at the end of an exercise's cell does.

    nbgrader puts its own copy of a locked cell in place of whatever a learner made of it (nbgrader.readthedocs.io,
    "Autograder tests cells"; the metadata are those of its schema 3). The exercise's cell has none: one marked as a
    solution would be emptied, and lose what stands in it to begin with.
    """
    check = learner.rstrip().rpartition("\n")[2]
    about = {"grade": True, "solution": False, "locked": True, "task": False, "points": 1, "schema_version": 3}
    return {
        "cell_type": "code",
        "id": f"{answered}-graded",
        "execution_count": None,
        "metadata": {"nbgrader": {**about, "grade_id": f"{answered}-graded", "cell_type": "code"}},
        "outputs": [],
        "source": f"verdict = {check}\nassert verdict, verdict",
    }


def _record(target: Path) -> dict[str, list[str]]:
    """Return, by the name of each notebook that was written there, the hashes of its cells."""
    try:
        found = json.loads((target / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _put(target: Path, name: str, notebook: dict[str, Any], record: dict[str, list[str]]) -> str:
    """Write one notebook where that loses nothing; return what was done."""
    path, ours = target / name, _hashes(notebook)
    if not path.exists():
        verdict = "new"
    else:
        try:
            theirs = _hashes(_read(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "kept: it is no notebook that can be read"
        if theirs == ours:
            record[name] = ours
            return "there already"
        # Three versions: ours now, theirs, and ours as it was written there (the record). Theirs equal to the record
        # means that they have changed nothing.
        changed = len(set(ours) - set(record.get(name, ())))
        news = f"the lesson has {changed} new or changed cells" if changed else "the lesson has not changed since"
        if theirs != record.get(name):
            return f"kept as you have it; {news}" + (": rename yours to get them" if changed else "")
        verdict = f"brought up to date; {news}"
    write_whole(path, [(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()])
    record[name] = ours
    return verdict


def _hashes(notebook: Mapping[str, Any]) -> list[str]:
    """Return a hash of the source of every cell: outputs, and what JupyterLab notes beside them, are no work."""
    sources = ("".join(cell["source"]) for cell in notebook["cells"])
    return [hashlib.sha256(source.encode()).hexdigest()[:16] for source in sources]
