"""The figure of devices: what each has of flash and RAM, and what the model needs of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Unpack

import numpy as np

from ..errors import FigureError, a_type
from ..performance.device_fit import DeviceFit, Room, capacity_text
from .canvas import FAINT, GRID, INK, KEPT, LINE, MUTED, OUTLINE, Canvas
from .figure_base_and_registry import Area, Chart, drawn, figure_kind
from .figure_tables import Table
from .fit_and_place_labels import thin
from .legend import LEGEND_LINE, draw_legend, legend_height
from .numbers_and_recipes_as_text import bytes_text, bytes_tick_text, estimated_text
from .page_size_and_style import Page, PageOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW: Final = 17.0
_HEAD: Final = 32.0
_AXIS: Final = 20.0
_GAP: Final = 16.0
_PANEL: Final = 70.0
"""Pixels that a panel takes at least."""
# shapes as well as colors, for print without them; matplotlib draws a text between dollars as a marker
_LOOKS: Final = {True: (KEPT, "o"), False: (GRID, "X"), None: (MUTED, "$?$")}
_WORDS: Final = {True: "fits", False: "too small", None: "unknown"}
_DECADES: Final = [10.0**n for n in range(3, 13)]


@figure_kind
def devices(found: DeviceFit, *, ax: Axes | None = None, **page: Unpack[PageOptions]) -> Figure:
    """Draw which boards and phones a model fits: a mark for what each has, a line at what the model needs.

    >>> import torch, shrinkwidget as sw
    >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
    >>> figure = sw.figures.devices(sw.fits(small, torch.zeros(1, 1, 8, 8)), width="nature-single")

    Args:
        found: what `sw.fits` returned.
        ax: Axes to draw into, instead of a figure of its own.
        page: width, height, font, size, style and more; see `PageOptions`.

    Raises:
        FigureError: for what `sw.fits` did not return.
    """
    if not isinstance(found, DeviceFit):
        raise FigureError(f"cannot draw the devices of {a_type(found)}: give what sw.fits returned")
    return drawn(Devices(found), ax, page)


@dataclass(frozen=True, eq=False)
class Devices(Chart):
    """A row for each device, a logarithmic axis for flash and one for RAM."""

    kind: ClassVar[str] = "devices"
    found: DeviceFit

    def height(self, page: Page) -> float:
        """Return the height of all rows, the axis and the key."""
        return _HEAD + _ROW * len(self.found.devices) + _AXIS + self._key_height(page)

    def narrowest(self, page: Page) -> float:
        """Return the width of the shortest names that tell anything, and of two panels."""
        return 60 + 2 * (_PANEL + _GAP) + page.measure("x")

    def _key_height(self, page: Page) -> float:
        return legend_height(page, [word for word, _ in self._key()], page.pixels - 8) + 4

    def _key(self) -> list[tuple[str, bool | None]]:
        rooms = [room for row in self.found.rows for room in (row.flash, row.ram) if room.capacity is not None]
        return [(word, fits) for fits, word in _WORDS.items() if any(room.fits is fits for room in rooms)]

    def draw(self, area: Area) -> None:
        """Draw names, both panels, and the key."""
        found, page, canvas = self.found, area.page, area.canvas()
        names = [page.label(device.name) for device in found.devices]
        room = min(max(map(page.measure, names)) + 10, canvas.width - 2 * (_PANEL + _GAP))
        below = self._key_height(page) + _AXIS
        row = (canvas.height - _HEAD - below) / len(names)
        middles = [_HEAD + (i + 0.5) * row for i in range(len(names))]
        written = set(thin([(y, 10.0) for y in middles], gap=0.5))
        for i, (name, y) in enumerate(zip(names, middles, strict=True)):
            if i:
                canvas.line(0, y - row / 2, canvas.width, y - row / 2, FAINT, width=0.6)
            if i in written:
                canvas.text(0, y, canvas.fitted(name, room - 8))
        panel = (canvas.width - room - _GAP) / 2
        rooms = [[r.flash for r in found.rows], [r.ram for r in found.rows]]
        needs = [(found.file_bytes, found.exact), (rooms[1][0].need, rooms[1][0].complete)]
        for k, (title, dense) in enumerate((("flash", found.dense_bytes), ("RAM", None))):
            x = room + k * (panel + _GAP)
            self._panel(canvas, (x, x + panel), title, middles, rooms[k], needs[k], dense)
        words = self._key()

        def mark(fits: bool | None) -> Any:
            return lambda x, y: _mark(canvas, x + 5, y, fits)

        y = canvas.height - self._key_height(page) + 4 + LEGEND_LINE / 2
        draw_legend(canvas, y, canvas.width, [(word, mark(fits)) for word, fits in words])

    def _panel(
        self,
        canvas: Canvas,
        ends: tuple[float, float],
        title: str,
        middles: list[float],
        rooms: list[Room],
        need: tuple[int | None, bool],
        dense: int | None,
    ) -> None:
        nbytes, complete = need
        sizes = [room.capacity for room in rooms if room.capacity] + [n for n in (nbytes, dense) if n]
        # flash and RAM span from kilobytes to gigabytes: only decades tell them apart
        low, high = math.log10(min(sizes)) - 0.25, math.log10(max(sizes)) + 0.25
        # as far below the last row's middle as the head is above the first one's
        top, bottom = _HEAD, middles[-1] + middles[0] - _HEAD

        def place(value: float) -> float:
            return ends[0] + (math.log10(value) - low) / (high - low) * (ends[1] - ends[0])

        known = "unknown" if nbytes is None else bytes_text(nbytes)
        if title == "RAM" and nbytes is not None and not complete:
            known = f"over {known}"
        if title == "flash":
            known = estimated_text(self.found.exact, known)
        wide = ends[1] - ends[0]
        canvas.text(ends[0], 7, canvas.fitted(title, wide, bold=True), bold=True, color=INK)
        canvas.text(ends[0], 21, canvas.fitted(f"needs {known}", wide, size=10), size=10, color=MUTED)
        canvas.line(ends[0], bottom, ends[1], bottom, LINE, width=0.8)
        ticks = [decade for decade in _DECADES if low <= math.log10(decade) <= high]
        texts = [bytes_tick_text(tick) for tick in ticks]
        shown = [(place(t), canvas.measure(text, size=9)) for t, text in zip(ticks, texts, strict=True)]
        inside = [i for i, (x, w) in enumerate(shown) if ends[0] - 6 <= x - w / 2 and x + w / 2 <= ends[1] + 2]
        for i in thin([shown[i] for i in inside], gap=5):
            x, _ = shown[inside[i]]
            canvas.line(x, bottom, x, bottom + 3, MUTED, width=0.8)
            canvas.text(x, bottom + 11, texts[inside[i]], size=9, color=MUTED, align="center")
        if dense is not None and dense != nbytes:
            canvas.line(place(dense), top, place(dense), bottom, OUTLINE, width=0.9, dashes=(0, (2, 2)))
        if nbytes is not None:
            canvas.line(place(nbytes), top, place(nbytes), bottom, KEPT, width=1.4)
        for y, room in zip(middles, rooms, strict=True):
            if room.capacity is None:
                canvas.text(ends[1], y, "on a card", size=9, color=MUTED, align="right")
            else:
                _mark(canvas, place(room.capacity), y, room.fits)

    def caption(self) -> str:
        """Say what is drawn, how many devices the model fits, and what is not counted."""
        found = self.found
        fitting = [row.device.name for row in found.rows if row.fits]
        dense = ""
        if found.dense_bytes is not None and found.dense_bytes != found.file_bytes:
            dense = f", dashed at the dense file's {bytes_text(found.dense_bytes)}"
        file = estimated_text(found.exact, bytes_text(found.file_bytes))
        ram = "RAM is not known"
        if found.weight_bytes is not None:
            activations = "unknown" if found.activation_bytes is None else bytes_text(found.activation_bytes)
            ram = f"RAM holds {bytes_text(found.weight_bytes)} of weights as they run and activations ({activations})"
        return (
            f"Flash and RAM of {len(found.devices)} devices by their datasheets, each mark a device's, against what "
            f"{found.title} needs (line{dense}): a file of {file}; {ram}. It fits {len(fitting)}"
            f"{': ' + ', '.join(fitting) if fitting else ''}. Runtimes' own code and the system's RAM are not counted."
        )

    def table(self) -> Table:
        """Return a row for every device."""
        rows = []
        for row in self.found.rows:
            device = row.device
            flash = "card" if device.flash is None else capacity_text(device.flash)
            rows.append(
                {
                    "device": (device.name, device.name),
                    "flash": (device.flash, flash),
                    "file": (row.flash.fits, row.flash.text),
                    "RAM": (device.ram, capacity_text(device.ram)),
                    "weights and activations": (row.ram.fits, row.ram.text),
                    "datasheet": (device.datasheet, device.datasheet),
                }
            )
        return Table.of(rows)

    def facts(self) -> dict[str, Any]:
        """Return the bytes, and what each device has."""
        found = self.found
        return {
            "model": found.title,
            "file_bytes": found.file_bytes,
            "exact": found.exact,
            "weight_bytes": found.weight_bytes,
            "activation_bytes": found.activation_bytes,
            "devices": {device.name: [device.flash, device.ram] for device in found.devices},
            "checksum": None,
        }


def _mark(canvas: Canvas, x: float, y: float, fits: bool | None) -> None:
    color, marker = _LOOKS[fits]
    canvas.dots(np.array([x]), np.array([y]), color, size=7.0 if marker != "$?$" else 8.0, marker=marker)
