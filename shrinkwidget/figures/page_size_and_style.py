"""The page a figure is made for: its width and height in mm, its font and text size, and its style."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypedDict

from ..argument_checks import meant, plain
from ..errors import FigureError, layer_label, nearest, quoted
from .fit_and_place_labels import fit_text
from .glyph_outlines import FAMILY, MISSING, Families, has_glyph, width_of

MM: Final = 72 / 25.4
"""Points in a millimetre."""
TEXT: Final = 11.0
"""Size of a label in the pixels that all charts are laid out in, on the page as in print."""

_HIGHEST: Final = 236.0
"""Millimetres below each other on a page of A4, without its margins and a caption."""
_SPACES: Final = "\N{NARROW NO-BREAK SPACE}\N{NO-BREAK SPACE}"
_SANS: Final = ("Helvetica", "Arial", "Liberation Sans", "Nimbus Sans")
_SERIF: Final = ("Times New Roman", "Times", "Liberation Serif", "Nimbus Roman", "STIXGeneral")


@dataclass(frozen=True, slots=True)
class Style:
    """How a figure looks: the size of its text in points, and what it leaves out.

    In print, hatching clutters, a grid says nothing that ticks do not, and colored text is hard to read.
    """

    name: str
    size: float
    width: str
    hatch: bool
    grid: bool
    colored_text: bool


SCREEN: Final = Style("screen", 8, "", hatch=True, grid=True, colored_text=True)
STYLES: Final[Mapping[str, Style]] = {
    "paper": Style("paper", 8, "neurips", hatch=False, grid=False, colored_text=False),
    "slide": Style("slide", 20, "slide-16x9", hatch=False, grid=False, colored_text=True),
    "blog": Style("blog", 10, "blog", hatch=True, grid=True, colored_text=True),
}


@dataclass(frozen=True, slots=True)
class Width:
    """A width that a publisher or a medium asks for, in mm, with the text size and the fonts it asks for.

    `height` is all there is, where no page goes on below.
    """

    mm: float
    size: float | None = None
    fonts: Families = ()
    height: float | None = None
    style: str = "paper"


WIDTHS: Final[Mapping[str, Width]] = {
    "nature-single": Width(89, 7, _SANS),
    "nature-double": Width(183, 7, _SANS),
    "ieee-single": Width(88.9, 8, _SERIF),
    "ieee-double": Width(181.9, 8, _SERIF),
    "neurips": Width(139.7, 8),
    "icml-single": Width(82.6, 7.5),
    "icml-double": Width(171.5, 8),
    "a4-thesis": Width(150, 9),
    "blog": Width(180, 10, style="blog"),
    "slide-16x9": Width(338.7, 20, height=190.5, style="slide"),
    "poster": Width(400, 28, style="slide"),
}
"""nature.com: 89 and 183 mm, 5–7 pt sans-serif. IEEE: 3.5 and 7.16 in, 8–10 pt serif. NeurIPS: 5.5 in of text. ICML:
3.25 and 6.75 in. A thesis: A4 with margins of 30 mm. A slide: 13.33 × 7.5 in. A poster: half the width of A0."""


class PageOptions(TypedDict, total=False):
    """What every figure takes besides its data.

    `width`: a name of `WIDTHS`, or mm. `height`: mm; by default what the content takes. `font`: a family's name.
    `size`: of text, in points. `style`: "paper", "slide" or "blog". `labels`: what layers or lines are called in the
    figure, by name. `title`: above the figure; a paper's caption makes it superfluous.
    """

    width: str | float
    height: float
    font: str
    size: float
    style: str
    labels: Mapping[str, str]
    title: str


@dataclass(frozen=True, slots=True)
class Page:
    """A sheet of `width` mm, and `height`, or by default what the content takes, but `most_high` at most.

    All charts are laid out in pixels of `unit` points, in which a label is `TEXT` high.
    """

    width: float
    height: float | None
    families: Families
    size: float
    style: Style
    labels: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    most_high: float = _HIGHEST

    @property
    def unit(self) -> float:
        """Points in a pixel."""
        return self.size / TEXT

    @property
    def pixels(self) -> float:
        """The width in pixels."""
        return self.width * MM / self.unit

    def pixels_high(self, content: float) -> float:
        """Return the height in pixels, for a content that takes so many."""
        if self.height is not None:
            return self.height * MM / self.unit
        return min(content, self.most_high * MM / self.unit)

    def narrowed(self, pixels: float) -> Page:
        """Return a page of so many pixels' width, for a part of this one."""
        return replace(self, width=pixels * self.unit / MM)

    def measure(self, text: str, size: float = TEXT, bold: bool = False) -> float:
        """Return the width of a text in pixels."""
        return width_of(text, bold, self.families) * size

    def fitted(self, text: str, width: float, size: float = TEXT, bold: bool = False) -> str:
        """Return a text shortened in its middle until it fits."""
        return fit_text(text, width, partial(self.measure, size=size, bold=bold))

    def label(self, name: str) -> str:
        """Return what a layer or a line is called: as asked for, with or without its ``.weight``, or by its name."""
        return self.shown(str(self.labels.get(name, self.labels.get(layer_label(name), layer_label(name)))))

    def shown(self, text: str) -> str:
        """Return a text as one line: a space for what is no letter, an empty box for one that no font has."""
        return "".join(self._letter(letter) for letter in text)

    def _letter(self, letter: str) -> str:
        if not letter.isprintable() and letter not in _SPACES:
            return " "
        return letter if has_glyph(letter, self.families) else MISSING


def page_of(given: Mapping[str, Any]) -> Page:
    """Return the page that options ask for.

    Raises:
        FigureError: for an unknown width or style, or a size that none can be.
    """
    options = {name: plain(value) for name, value in given.items() if value is not None}
    width, style = options.get("width"), options.get("style")
    if style is not None:
        style = _named(style, STYLES, "style")
    named = WIDTHS[_named(width, WIDTHS, "width", " or a number of mm")] if isinstance(width, str) else None
    look = STYLES[style or (named.style if named else "paper")]
    if width is None:
        named = WIDTHS[look.width]
    mm = named.mm if named else _number("width", width, 20, 2000, "mm")
    height = options.get("height")
    size = options.get("size")
    # a publisher's size of text is for its pages: the same width on a slide is read from afar
    usual = named.size if named and named.size and named.style == look.name else look.size
    labels = options.get("labels", {})
    if not isinstance(labels, Mapping):
        raise FigureError(f"labels={quoted(labels)} must be a dict of what to write by the name of a layer or a line")
    return Page(
        width=mm,
        height=None if height is None else _number("height", height, 10, 2000, "mm"),
        families=_families(options.get("font"), named.fonts if named else ()),
        size=usual if size is None else _number("size", size, 3, 200, "points"),
        style=look,
        labels=labels,
        title=str(options.get("title", "")),
        most_high=named.height if named and named.height else max(_HIGHEST, mm),
    )


def _named(found: object, known: Mapping[str, Any], what: str, more: str = "") -> str:
    name = meant(found, known)
    if name is None:
        hint = nearest(str(found), known)
        raise FigureError(f"there is no {what} {quoted(found)}{hint or '.'} Take {', '.join(map(quoted, known))}{more}")
    return name


def _number(name: str, found: Any, low: float, high: float, unit: str) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise FigureError(f"{name}={quoted(found)} must be a number of {unit}")
    if not low <= found <= high:
        raise FigureError(f"{name}={found:g} must be between {low:g} and {high:g} {unit}")
    return float(found)


def _families(font: object, usual: Families) -> Families:
    """Return the fonts to draw with: the first that is installed, and matplotlib's own for letters it lacks."""
    if font is None:
        found = next((family for family in usual if _installed(family)), FAMILY)
        return (found, FAMILY) if found != FAMILY else (FAMILY,)
    if not isinstance(font, str) or not font.strip():
        raise FigureError(f"font={quoted(font)} must be the name of a font family, such as 'Arial'")
    if name := _installed(font):
        return (name, FAMILY) if name != FAMILY else (FAMILY,)
    hint = nearest(font, sorted(_all_fonts()))
    warnings.warn(f"the font {quoted(font)} is not installed{hint and hint[:-1]}; {FAMILY} is used", stacklevel=2)
    return (FAMILY,)


def _installed(family: str) -> str | None:
    """Return a font family's name as matplotlib knows it, None if it is not installed."""
    return meant(family, _all_fonts())


def _all_fonts() -> set[str]:
    from matplotlib.font_manager import fontManager

    return {entry.name for entry in fontManager.ttflist}
