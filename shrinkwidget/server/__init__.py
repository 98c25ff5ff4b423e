"""The part of the JupyterLab extension that runs in Jupyter's server: it reads checkpoints for the page.

The server imports this module whenever it starts, so nothing here imports torch. What reads files, which may be
hostile, runs in processes of its own: `checkpoint_table.py` for headers, `sketch_worker_program.py` for weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Tell Jupyter's server where the extension is."""
    return [{"module": "shrinkwidget.server"}]


def _load_jupyter_server_extension(app: ServerApp) -> None:
    """Add the extension's addresses to a server that starts."""
    from .checkpoint_table_handler import add_handlers
    from .resource_limits import ShrinkwidgetLimits
    from .sketch_handler_and_process import add_sketch_handler

    add_handlers(app.web_app)
    add_sketch_handler(app.web_app, ShrinkwidgetLimits(parent=app))
