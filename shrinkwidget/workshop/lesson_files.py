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
        ['What a model weighs', 'Pruning', 'Fewer bits', 'Getting it back']
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


def copy_lessons(folder: str | os.PathLike[str], solutions: bool = False) -> list[str]:
    """Write the lessons into a folder, and return what was done, a sentence for each.

    A notebook that was changed there is never written over; one that was not is brought up to date. In a lesson,
    exercises are open; with `solutions` the solved ones are written beside them, into ``solutions/``.

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
    try:
        (target / "solutions" if solutions else target).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {quoted(str(target))}: {error.strerror}") from error
    record = _record(target)
    told = []
    for path in _notebooks():
        for name, notebook in _versions(path, solutions):
            told.append(f"{name}: {_put(target, name, notebook, record)}")
    write_whole(target / _RECORD, [json.dumps(record, indent=1).encode()])
    return told


def _versions(path: Path, solutions: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the learner's version of a lesson and, if it is wanted, the solved one, with their names."""
    solved = _read(path)
    yield path.name, _opened(solved)
    if solutions:
        yield f"solutions/{path.name}", solved


def _opened(solved: Mapping[str, Any]) -> dict[str, Any]:
    """Return a solved notebook with its exercises open: what a learner's cell holds stands in the cell's metadata."""
    cells = []
    for cell in solved["cells"]:
        learner = cell["metadata"].get(_OURS, {}).get("learner")
        kept = {key: value for key, value in cell["metadata"].items() if key != _OURS}
        cells.append({**cell, "metadata": kept, "source": cell["source"] if learner is None else learner})
    return {**solved, "cells": cells}


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
