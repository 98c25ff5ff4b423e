"""Opens JupyterLab on the first example and prints its address; without a display it only serves."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NOTEBOOK = "examples/01-explore.ipynb"


def headless() -> bool:
    """Tell whether no browser could show anything here: Linux without a display."""
    return sys.platform == "linux" and not any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")))


def arguments() -> list[str]:
    """Return JupyterLab's command line; a port that is taken makes it try the next ones by itself."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    return [
        *(sys.executable, "-m", "jupyterlab"),
        *("--ServerApp.root_dir=.", f"--LabApp.default_url=/lab/tree/{NOTEBOOK}"),
        *(["--allow-root"] if root else []),
        *(["--no-browser"] if headless() else []),
        *sys.argv[1:],
    ]


if __name__ == "__main__":
    os.chdir(Path(__file__).parent.parent)
    os.execv(sys.executable, arguments())
