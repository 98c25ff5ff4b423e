"""What the button "Export…" does in the kernel: write the model for another runtime, and tell what that makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import FileError, MissingPackageError, quoted, sentence
from ..exports import Exported
from ..exports.exporter import EXPORTERS
from .keep_and_save import Exists


def export_targets() -> list[dict[str, str]]:
    """Return the targets that there are: name, suffix, and what is missing and how to install it, "" if nothing is."""
    found = []
    # those first that are run here, so that what is suggested comes with a score, and of them the smallest to install
    for name, exporter in sorted(EXPORTERS.items(), key=lambda item: (not item[1].runs, item[1].megabytes)):
        missing = ""
        try:
            exporter.require()
        except MissingPackageError as error:
            missing = sentence(error)
        found.append({"target": name, "suffix": exporter.suffixes[0], "missing": missing})
    return found


def export_to(path: object, write: Callable[[Path], Exported], replace: bool = False) -> Exported:
    """Export to a path of the page's, once it is one, and return what that made.

    Raises:
        Exists: if there is a file already, unless it is to be replaced.
        FileError: for an empty path, or one that cannot be looked at.
    """
    if not isinstance(path, str) or not path.strip():
        raise FileError("there is no file name: type one, such as model.onnx")
    target = Path(path.strip()).expanduser()
    try:
        there = target.stat().st_size if target.exists() else None
    except (OSError, ValueError) as error:
        raise FileError(f"cannot look at {quoted(target)}: {error}") from error
    if there is not None and not replace:
        raise Exists(f"{target.name} exists already: {there:,} bytes")
    return write(target)


def exported_dict(exported: Exported) -> dict[str, Any]:
    """Return what the page shows of an export."""
    score, torch_score = exported.score, exported.torch_score
    return {
        "path": str(exported.path.resolve()),
        "nbytes": exported.nbytes,
        "more": exported.nbytes / exported.packed_nbytes - 1,
        "exact": exported.exact,
        "runtime": exported.runtime,
        "score": None if score is None else score.to_dict(),
        "torch_score": None if torch_score is None else torch_score.to_dict(),
        "notes": list(exported.notes),
    }
