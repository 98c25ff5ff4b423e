"""A canvas for pictures in pixels, y downwards: on any matplotlib Axes with real text, or as a snapshot of its own.

No pyplot, few artists, nothing shared between threads.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..analysis.quantization_group_histograms import Floats
from .fit_and_place_labels import fit_text
from .glyph_outlines import FAMILY, MIDDLE, outline_of, width_of
from .page_size_and_style import SCREEN, Page

PAPER: Final = "#ffffff"
INK: Final = "#1f2328"
MUTED: Final = "#5f6772"
LINE: Final = "#d5dae0"
FAINT: Final = "#eef0f3"
OUTLINE: Final = "#57606a"
HATCH: Final = "#9aa2ac"
KEPT: Final = "#0072B2"
WITHOUT_CHANNELS: Final = "#c2dcec"
GRID: Final = "#D55E00"
ACCURACY: Final = "#009E73"
SCALES: Final = "#CC79A7"
MASK: Final = "#b3bac3"
AS_IS: Final = "#69717b"
DENSE: Final = "#e6e9ed"
LENS: Final = "#f4f5f7"

PRUNED: Final = "#d9dde2"
"""The pruned band where it is not hatched."""

_CSS: Final = Page(width=0, height=None, families=(FAMILY,), size=7.92, style=SCREEN)
"""CSS pixels, at 100 to the inch: 0.72 points each."""
_TOUCHING: Final = 1e-6


class Canvas:
    """Draws on matplotlib Axes, `width` × `height` pixels of a page large, y downwards; text is text."""

    def __init__(self, axes: Any, width: float, height: float, page: Page) -> None:
        self.width, self.height, self.page = width, height, page
        self._axes = axes
        axes.set_axis_off()
        axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        color: str = INK,
        bold: bool = False,
        align: str = "left",
    ) -> float:
        """Write on the middle line y, aligned to x ("left", "right", "center"), and return the width in pixels."""
        written = self._axes.text(
            x,
            y + MIDDLE * size,
            text,
            fontsize=size * self.page.unit,
            family=list(self.page.families),
            color=color,
            weight="bold" if bold else "normal",
            ha=align,
            va="baseline",
            parse_math=False,  # the name of a layer may have a $
        )
        written.set_zorder(len(self._axes.get_children()))
        return self.measure(text, size=size, bold=bold)

    def measure(self, text: str, *, size: float = 11, bold: bool = False) -> float:
        """Return the width of a text in pixels."""
        return self.page.measure(text, size, bold)

    def fitted(self, text: str, width: float, *, size: float = 11, bold: bool = False) -> str:
        """Return a text shortened in its middle until it fits."""
        return fit_text(text, width, lambda part: self.measure(part, size=size, bold=bold))

    def lines(
        self, lines: Sequence[Floats], color: str, width: float = 1.0, dashes: Any = "solid", **more: Any
    ) -> None:
        """Draw open lines, each of shape (points, 2)."""
        from matplotlib.collections import LineCollection

        if len(lines):
            style = {"colors": color, "linewidths": width * self.page.unit, "linestyles": dashes, "capstyle": "butt"}
            self._add(LineCollection(list(lines), **style, **more))

    def line(self, x0: float, y0: float, x1: float, y1: float, color: str, **style: Any) -> None:
        """Draw one straight line."""
        self.lines([np.array([[x0, y0], [x1, y1]])], color, **style)

    def fill(self, shapes: Sequence[Floats], color: str, **more: Any) -> None:
        """Fill closed shapes, each of shape (points, 2)."""
        from matplotlib.patches import PathPatch

        if len(shapes):
            self._add(PathPatch(outline_path(shapes), facecolor=color, linewidth=0, **more))

    def rectangles(self, left: Floats, top: Floats, width: Floats | float, bottom: Floats | float, color: str) -> None:
        """Fill rectangles given by arrays of one length; those that touch are one shape, with no seam between them."""
        right, bottom = left + width, np.broadcast_to(bottom, left.shape)
        x, y = np.stack([left, right], axis=1), np.stack([top, top], axis=1)
        # Rectangles that touch and stand on one base become one outline: anti-aliased one by one, their shared edges
        # would each be half transparent, and show as a pale line.
        apart = (np.abs(left[1:] - right[:-1]) > _TOUCHING) | (bottom[1:] != bottom[:-1])
        runs = np.split(np.arange(len(left)), np.flatnonzero(apart) + 1) if len(left) else []
        shapes = []
        for run in runs:
            ends = [[x[run[-1], 1], bottom[run[0]]], [x[run[0], 0], bottom[run[0]]]]
            shapes.append(np.concatenate([np.stack([x[run].ravel(), y[run].ravel()], axis=1), ends]))
        self.fill(shapes, color)

    def hatch(self, shapes: Sequence[Floats], color: str, spacing: float = 5.0, width: float = 0.8) -> None:
        """Fill closed shapes with thin diagonal lines, all on one lattice."""
        if not len(shapes):
            return
        points = np.concatenate(shapes)
        (x0, y0), (x1, y1) = points.min(0), points.max(0)
        # Lines x + y = s for every multiple s of the spacing: one lattice for all shapes, so that bands of neighbouring
        # rows line up. Clipping cuts them to the shapes.
        starts = np.arange(np.floor((x0 + y0) / spacing), np.ceil((x1 + y1) / spacing) + 1) * spacing
        across = [np.array([[s - y1, y1], [s - y0, y0]]) for s in starts]
        self.lines(across, color, width, clip_path=(outline_path(shapes), self._axes.transData))

    def dots(self, x: Floats, y: Floats, color: str, size: float = 7.0, marker: str = "o") -> None:
        """Draw points of `size` pixels across, with one of matplotlib's markers."""
        from matplotlib.lines import Line2D

        dots = Line2D(x, y, linestyle="none", marker=marker, markersize=size * self.page.unit, markeredgewidth=0)
        dots.set(markerfacecolor=color)
        self._add(dots)

    def _add(self, artist: Any) -> None:
        # what is drawn later lies above, whatever kind of artist it is
        # matplotlib draws lines above patches by default, in whatever order they came.
        artist.set_zorder(len(self._axes.get_children()))
        self._axes.add_artist(artist)


class Snapshot(Canvas):
    """A white sheet of `width` × `height` CSS pixels at `density` dots a pixel, its text as outlines, for a PNG."""

    def __init__(self, width: float, height: float, density: float = 2.0) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(width / 100, height / 100), dpi=100 * density, facecolor="white")
        self._canvas: Any = FigureCanvasAgg(figure)
        super().__init__(figure.add_axes((0, 0, 1, 1)), width, height, _CSS)
        self._density = density
        self._written: dict[str, list[tuple[Floats, NDArray[np.uint8]]]] = defaultdict(list)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 11,
        color: str = INK,
        bold: bool = False,
        align: str = "left",
    ) -> float:
        """Write on the middle line y, as `Canvas.text` does; all of one color become one shape."""
        width = measure(text, size=size, bold=bold)
        left = x - width * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
        vertices, codes = outline_of(text, bold)
        self._written[color].append((vertices * (size, -size) + (left, y + MIDDLE * size), codes))
        return width

    def rectangles(self, left: Floats, top: Floats, width: Floats | float, bottom: Floats | float, color: str) -> None:
        """Fill rectangles given by arrays of one length, their edges on whole dots so that they are crisp."""
        d = self._density
        left, right = np.round(left * d) / d, np.round((left + width) * d) / d
        top, bottom = np.round(top * d) / d, np.round(np.broadcast_to(bottom, left.shape) * d) / d
        right = np.maximum(right, left + 1 / d)
        corners = np.stack([left, bottom, left, top, right, top, right, bottom], axis=-1).reshape(-1, 4, 2)
        self.fill(list(corners), color, antialiased=False)

    def png(self) -> bytes:
        """Return what was drawn as a PNG of few colors, which is small and quick to write."""
        from PIL import Image

        self._write()
        self._canvas.draw()
        # Colors are looked up by their top 5 bits a channel: 32,768 entries instead of a search for every pixel. In
        # sixteenths, so that the indices stay in the cache.
        pixels = np.asarray(self._canvas.buffer_rgba()).view("<u4")[:, :, 0]
        image = Image.fromarray(np.concatenate([_nearest_colors(part) for part in np.array_split(pixels, 16)]), "P")
        image.putpalette(_palette().tobytes())
        stream = io.BytesIO()
        image.save(stream, "png", compress_level=6)
        return stream.getvalue()

    def _write(self) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        for color, texts in self._written.items():
            path = Path(np.concatenate([v for v, _ in texts]), np.concatenate([c for _, c in texts]))
            self._add(PathPatch(path, facecolor=color, linewidth=0, snap=False))
        self._written.clear()


def measure(text: str, *, size: float = 11, bold: bool = False) -> float:
    """Return the width of a text in a snapshot's pixels."""
    return width_of(text, bold) * size


def outline_path(shapes: Sequence[Floats]) -> Any:
    """Return one matplotlib Path around all shapes, each of shape (points, 2)."""
    from matplotlib.path import Path

    points, codes = [], []
    for shape in shapes:
        points.append(np.concatenate([shape, shape[:1]]))
        code = np.full(len(shape) + 1, Path.LINETO, dtype=Path.code_type)
        code[0], code[-1] = Path.MOVETO, Path.CLOSEPOLY
        codes.append(code)
    return Path(np.concatenate(points), np.concatenate(codes))


def _nearest_colors(pixels: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Return the index into the palette for pixels of red, green, blue in the three low bytes."""
    # Bits 3–7, 11–15 and 19–23 of a little-endian RGBA word are the top five of red, green and blue.
    key = (pixels >> 3) & 0x1F
    key |= (pixels >> 6) & 0x3E0
    key |= (pixels >> 9) & 0x7C00
    return np.asarray(_lookup()[key])


@lru_cache(maxsize=1)
def _palette() -> NDArray[np.uint8]:
    """Return all colors as red, green, blue, and for soft edges the steps from white to those that draw lines."""
    steps = {INK: 24, KEPT: 8, GRID: 8, ACCURACY: 8, SCALES: 2}
    flat = [_rgb(color) for color in (MUTED, LINE, FAINT, OUTLINE, HATCH, MASK, AS_IS, DENSE, LENS, WITHOUT_CHANNELS)]
    ramps = [255 + (_rgb(c) - 255.0) * i / n for c, n in steps.items() for i in range(1, n + 1)]
    return np.asarray(np.rint(np.array([[255.0] * 3, *flat, *ramps]))).astype(np.uint8)


@lru_cache(maxsize=1)
def _lookup() -> NDArray[np.uint8]:
    """Return the nearest color of the palette for each color of 5 bits a channel; its own for those of surfaces."""
    key = np.arange(1 << 15)
    five = np.stack([key & 31, (key >> 5) & 31, key >> 10], axis=1)
    colors = (five << 3 | five >> 2).astype(np.float32)
    palette = _palette()
    nearest = ((colors[:, None] - palette.astype(np.float32)) ** 2).sum(2).argmin(1)
    own = (palette >> 3).astype(np.intp) @ (1, 1 << 5, 1 << 10)
    nearest[own[::-1]] = np.arange(len(palette))[::-1]  # of colors in one cell the first, a surface's, is taken
    return np.asarray(nearest, dtype=np.uint8)


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)
