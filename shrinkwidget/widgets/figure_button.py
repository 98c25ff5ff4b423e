"""What the button "Figure" does in the kernel: save a figure beside the notebook, with the line that makes it again."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from IPython.core.getipython import get_ipython

from ..errors import FileError, ShrinkError, quoted
from ..figures import read
from ..figures.figure_base_and_registry import our_settings
from ..figures.figure_file import encoded
from ..files.atomic_write import write_whole
from .base_widget_and_snapshot import BaseWidget
from .keep_and_save import Exists

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THUMBNAIL: Final = 480
"""Pixels that a thumbnail is wide."""


_NAMELESS: Final = {
    "ex": "for this line to run, give the explorer a name: ex = sw.explore(…)",
    "run": "for this line to run, give the training a name: run = sw.retrain(…, background=True)",
}
"""What to do where the notebook has no variable for what was drawn, by its usual name."""


def save_figure(
    source: object, draw: Callable[..., Figure], asked: Mapping[str, Any], usual: str, replace: bool
) -> tuple[str, dict[str, str]]:
    """Save the figure that is asked for; return what was done, as a sentence, and its thumbnail and code for the page.

    `source` is the explorer or the training that is drawn, `usual` what it is called where the notebook has no variable
    for it: "ex" or "run".

    Raises:
        Exists: if another figure has that name, unless it is to be replaced.
        FigureError: for an unknown kind or width, or where there is nothing to show.
        FileError: for an empty path, a file that is no figure, or one that cannot be written.
    """
    kind, width, path = (asked.get(name) for name in ("kind", "width", "path"))
    if not isinstance(path, str) or not path.strip():
        raise FileError("there is no file name: type one, such as figure.pdf")
    figure = draw(kind, width=width)
    target, data = encoded(figure, path.strip(), 300, "text", False)
    if not replace and target.exists() and _bytes_of(target) != data:
        _refuse_others(target)
        raise Exists(f"{target.name} exists already: {target.stat().st_size:,} bytes")
    write_whole(target, [data])
    name = _name_in_notebook(source)
    code = f"sw.figures.save({name or usual}.figure({kind!r}, width={width!r}), {path.strip()!r})"
    text = f"saved {target.resolve()}, {len(data):,} bytes"
    if not name:
        text = f"{text}; {_NAMELESS[usual]}"
    return text, {"path": str(target), "code": code, "png": base64.b64encode(_thumbnail(figure)).decode()}


def _bytes_of(target: Path) -> bytes:
    try:
        return target.read_bytes()
    except OSError as error:
        raise FileError(f"cannot look at {quoted(target)}: {error.strerror or error}") from error


def _refuse_others(target: Path) -> None:
    """Refuse to offer a file for replacement that this project did not write."""
    try:
        read(target)
    except ShrinkError:
        raise FileError(f"{quoted(target)} exists and is no figure of shrinkwidget: choose another name") from None


def _thumbnail(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with our_settings():
        figure.savefig(stream, format="png", dpi=_THUMBNAIL / float(figure.get_size_inches()[0]))
    return stream.getvalue()


def _name_in_notebook(source: object) -> str:
    """Return the code by which the notebook reaches an explorer or a training, "" if it has no variable for it.

    The training of "Retrain…" is reached through its explorer, and one that is watched through its monitor.
    """
    shell = get_ipython()
    variables = [] if shell is None else [(k, v) for k, v in list(shell.user_ns.items()) if not k.startswith("_")]
    found = [name for name, value in variables if value is source]
    through = [
        f"{name}.run"
        for name, value in variables
        if isinstance(value, BaseWidget) and getattr(value, "run", None) is source
    ]
    return next(iter([*found, *through]), "")
