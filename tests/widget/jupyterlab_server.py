"""A real JupyterLab for the browser tests: a subprocess with folders of its own, ended by its process id."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_SECONDS = 120
QUIET = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/statusbar-extension/plugin": {"visible": False},
}

# CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, by which root opens every file; what runs next cannot have them again
DROP_CAPABILITIES = """
import ctypes, os, sys
PR_CAPBSET_DROP = 24
for capability in (1, 2):
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@dataclass
class Lab:
    """A running JupyterLab: its folder of notebooks, its address and its secret."""

    process: subprocess.Popen[bytes]
    folder: Path
    url: str
    token: str
    log: Path

    def address(self, notebook: str) -> str:
        """Return the URL that opens a notebook of the folder in a fresh workspace."""
        return f"{self.url}lab/workspaces/{secrets.token_hex(4)}/tree/{notebook}?token={self.token}"

    def stop(self) -> None:
        """End the server, and with it its kernels, by its process id."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(home: Path, port: int | None = None, token: str | None = None) -> Lab:
    """Start a JupyterLab whose every file is under `home`, also again, and wait until it answers."""
    folder = home / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(home / "settings")
    # as the wheel installs them, and before any that an earlier install left in the environment
    installed = home / "jupyter" / "labextensions" / "shrinkwidget"
    shutil.copytree(ROOT / "shrinkwidget" / "labextension", installed, dirs_exist_ok=True)
    token, log = token or secrets.token_hex(16), home / "jupyterlab.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*python_as_a_user(), "-m", "jupyterlab", *options(folder, token, port or free_port())],
            env=os.environ | environment(home) | extension_paths(home),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    return Lab(process, folder, wait_for_url(home / "runtime", process, log), token, log)


def python_as_a_user() -> list[str]:
    """Return the command of a Python that obeys the permissions of files, also where root runs the tests."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return [sys.executable]
    return [sys.executable, "-c", DROP_CAPABILITIES]


def options(folder: Path, token: str, port: int) -> list[str]:
    """Return JupyterLab's command line."""
    return [
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
        "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]


def environment(home: Path) -> dict[str, str]:
    """Return the variables that keep Jupyter and IPython out of the user's own folders."""
    return {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }


def extension_paths(home: Path) -> dict[str, str]:
    """Return the variables by which JupyterLab and its server find this project's extensions."""
    return {"JUPYTER_CONFIG_PATH": str(ROOT / "jupyter-config"), "JUPYTER_PATH": str(home / "jupyter")}


def write_settings(folder: Path) -> None:
    """Write the user settings that keep news, updates and autosaving out of the tests."""
    for plugin, values in QUIET.items():
        path = folder / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


def free_port() -> int:
    """Return a port nobody listens on just now; JupyterLab tries the next ones should it be taken meanwhile."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_url(runtime: Path, process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address the server wrote down, once it answers there.

    Raises:
        RuntimeError: with the server's log, if it ended or took too long.
    """
    record = runtime / f"jpserver-{process.pid}.json"
    for _ in range(START_SECONDS * 10):
        if process.poll() is not None:
            break
        if record.is_file() and (text := record.read_text()):
            found = json.loads(text)
            with suppress(OSError):  # it writes its address down a moment before it listens there
                socket.create_connection(("127.0.0.1", found["port"])).close()
                return str(found["url"])
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
