"""The part of the JupyterLab extension that runs in Jupyter's server: it reads the headers of checkpoints for the page.

The server imports this module whenever it starts, so nothing here imports torch; `checkpoint_table.py`, which reads
files that may be hostile, runs in a process of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell Jupyter's server where the extension is."""
    return [{"module": "shrinkwidget.server"}]


def _load_jupyter_server_extension(app: ServerApp) -> None:
    """Add the extension's address to a server that starts."""
    from .checkpoint_handler import add_handlers

    add_handlers(app.web_app)
