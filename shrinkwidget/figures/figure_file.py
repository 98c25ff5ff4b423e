"""Figures as files: the same bytes for the same figure, and inside them where its numbers come from."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from ..argument_checks import meant, public
from ..errors import FigureError, FileError, a_type, nearest, quoted
from ..files.atomic_write import write_whole
from ..strict_json import parse
from .figure_base_and_registry import charts_of, our_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: Final = ("pdf", "svg", "png")
_FORMAT: Final = "shrinkwidget-figure"
_LARGEST: Final = 1 << 28
_PDF_TEXT: Final = re.compile(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", re.DOTALL)


@public()
def save(
    figure: Figure, path: str | os.PathLike[str], *, dpi: float = 300, text: str = "text", transparent: bool = False
) -> Path:
    """Save a figure: the same figure gives the same bytes, and the file says where its numbers come from.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.size(sw.estimate(sw.demo.model(), sparsity=0.9, bits=4))
    >>> sw.figures.save(figure, "size.pdf").name
    'size.pdf'
    >>> sw.figures.read("size.pdf")["charts"][0]["kind"]
    'size'

    Args:
        figure: what a function of `sw.figures` returned, or one of your own with such a chart on its Axes.
        path: ends in ``.pdf``, ``.svg`` or ``.png``.
        dpi: dots per inch of a PNG, and of what is no line in a PDF.
        text: of an SVG, ``"text"``, which can be searched and edited, or ``"paths"``, which looks the same where the
            font is not installed. In a PDF text is always text, its font embedded.
        transparent: leave out the white behind it.

    Raises:
        FigureError: for what is no figure, or an ending of no format.
        FileError: if the path cannot be written; what was there before is unchanged.
    """
    target, data = encoded(figure, path, dpi, text, transparent)
    write_whole(target, [data])
    return target


def encoded(
    figure: Figure, path: str | os.PathLike[str], dpi: float, text: str, transparent: bool
) -> tuple[Path, bytes]:
    """Return where a figure goes and the bytes of its file, not yet written; raises as `save`."""
    from matplotlib.figure import Figure as AnyFigure

    if not isinstance(figure, AnyFigure):
        raise FigureError(f"cannot save {a_type(figure)}: give the figure that sw.figures returned")
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"cannot write to {a_type(path)}: give a path, as text or a pathlib.Path")
    target = Path(path).expanduser()
    ending = target.suffix.lower().removeprefix(".")
    if ending not in FORMATS:
        hint = nearest(ending, FORMATS)
        raise FigureError(f"cannot save {quoted(path)}{hint or ':'} a figure's name ends in .pdf, .svg or .png")
    if (kind := meant(text, ("text", "paths"))) is None:
        raise FigureError(f"text={quoted(text)} must be 'text' or 'paths'")
    if isinstance(dpi, bool) or not isinstance(dpi, int | float) or not 10 <= dpi <= 2400:
        raise FigureError(f"dpi={quoted(dpi)} must be a number of dots per inch between 10 and 2,400")
    stream = io.BytesIO()
    with our_settings():
        import matplotlib as mpl

        # read as the file is written; `our_settings` puts the user's back
        mpl.rcParams["svg.fonttype"] = "none" if kind == "text" else "path"
        figure.savefig(
            stream,
            format=ending,
            dpi=dpi,
            metadata=_metadata(figure, ending),
            transparent=transparent,
            bbox_inches=None,
        )
    return target, stream.getvalue()


def about(figure: Figure) -> dict[str, Any]:
    """Return what the file of a figure says of it."""
    charts = [{"kind": chart.kind, **chart.facts(), "caption": chart.caption()} for chart in charts_of(figure)]
    return {"format": _FORMAT, "charts": charts, "versions": versions()}


@cache
def versions() -> dict[str, str]:
    """Return the versions that a figure was made with."""
    import matplotlib as mpl
    import numpy as np
    import torch

    ours = sys.modules[__name__.partition(".")[0]]  # imported, it would bring what is a layer above
    return {
        "shrinkwidget": vars(ours)["__version__"],
        "matplotlib": mpl.__version__,
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _metadata(figure: Figure, ending: str) -> dict[str, Any]:
    found = about(figure)
    facts = json.dumps(_plain(found), separators=(",", ":"), allow_nan=False)
    words = " ".join(chart["caption"] for chart in found["charts"])
    words = "".join(letter if letter.isprintable() else " " for letter in words)  # XML has no control characters
    creator = f"shrinkwidget {found['versions']['shrinkwidget']}"
    if ending == "pdf":  # dates would make every file differ
        return {"Keywords": facts, "Subject": words, "Creator": creator, "CreationDate": None, "ModDate": None}
    if ending == "svg":
        return {"Source": facts, "Description": words, "Creator": creator, "Date": None}
    return {_FORMAT: facts, "Description": words, "Software": creator}


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: a number that is not finite is null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None  # a NaN compares with nothing
    return value if isinstance(value, str | int | bool) or value is None else str(value)


@public()
def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a figure's file says of where its numbers come from.

    It is a dict of "charts", one for each chart of the figure, and "versions". A chart has its "kind", its "caption",
    and of what it is about: "recipe", "model", "metric", "n", "provenance", "seeds" and more.

    >>> import shrinkwidget as sw
    >>> figure = sw.figures.size(sw.estimate(sw.demo.model(), sparsity=0.9, bits=4))
    >>> path = sw.figures.save(figure, "size.svg")
    >>> sw.Recipe.from_json(sw.figures.read(path)["charts"][0]["recipe"])
    Recipe(sparsity=0.9, bits=4)

    Raises:
        FileError: if the file is missing, or no figure that `save` wrote.
    """
    target = Path(path).expanduser()
    try:
        if target.stat().st_size > _LARGEST:
            raise FileError(f"{quoted(path)} is too large to be a figure")
        data = target.read_bytes()
    except FileNotFoundError as error:
        raise FileError(f"there is no file {quoted(path)}") from error
    except OSError as error:
        raise FileError(f"cannot read {quoted(path)}: {error.strerror or error}") from error
    try:
        found = parse(_facts(data) or "null")
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("format") != _FORMAT:
        raise FileError(
            f"{quoted(path)} says nothing of where it comes from: it is no figure that sw.figures.save wrote"
        )
    return {name: value for name, value in found.items() if name != "format"}


def _facts(data: bytes) -> str | None:
    """Return the JSON in the metadata of a PDF, an SVG or a PNG."""
    # Without a PDF library: matplotlib writes its metadata uncompressed, and escapes what a PDF string needs to.
    if data.startswith(b"%PDF"):
        match = _PDF_TEXT.search(data)
        return None if match is None else re.sub(rb"\\(.)", rb"\1", match[1], flags=re.DOTALL).decode("ascii")
    if data.startswith(b"\x89PNG"):
        from PIL import Image

        with Image.open(io.BytesIO(data)) as image:
            told = getattr(image, "text", {})
        return told.get(_FORMAT)
    try:
        tree = ET.fromstring(data)  # it resolves no external entity, and the size is bounded
    except ET.ParseError:
        return None
    return next((element.text for element in tree.iter("{http://purl.org/dc/elements/1.1/}source")), None)
