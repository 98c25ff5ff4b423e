"""Which widget belongs to which notebook cell, so that running a cell again does not pile up models."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, TypeVar

from IPython.core.getipython import get_ipython

if TYPE_CHECKING:
    from .base_widget_and_snapshot import BaseWidget

    AnyHosted = TypeVar("AnyHosted", bound=BaseWidget)

_BY_CELL: dict[str, tuple[str, list[weakref.ref[BaseWidget]]]] = {}


def replace_in_cell(widget: AnyHosted) -> AnyHosted:
    """Close the widgets an earlier run of this cell made, remember the new one, and return it.

    ipywidgets keeps every widget alive until it is closed, and with it the model it looks at.
    """
    cell, run = _current_cell()
    if cell:
        before, widgets = _BY_CELL.get(cell, (run, []))
        if before != run:
            for old in widgets:
                if (found := old()) is not None:
                    found.close()
            widgets = []
        _BY_CELL[cell] = (run, [*widgets, weakref.ref(widget)])
    return widget


def _current_cell() -> tuple[str, str]:
    """Return (cell id, message id of this run), or empty strings where there is no notebook."""
    kernel = getattr(get_ipython(), "kernel", None)
    parent = kernel.get_parent() if kernel is not None else {}
    return parent.get("metadata", {}).get("cellId", ""), parent.get("header", {}).get("msg_id", "")
