"""A real Jupyter server with the extension, as tests of its addresses use it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .widget.jupyterlab_server import environment, free_port, python_as_a_user, wait_for_url

ROOT = Path(__file__).parents[1]


@dataclass
class Server:
    """A running Jupyter server with the extension, and the folder it shows."""

    folder: Path
    url: str
    token: str
    process: subprocess.Popen[bytes]
    log: Path

    def get(self, path: str, token: str | None = None, **headers: str) -> tuple[int, Any]:
        """Ask for a table; return the status and the JSON of the answer."""
        return self.fetch("shrinkwidget/api/checkpoint?path=" + urllib.parse.quote(path, safe=""), token, **headers)

    def fetch(self, address: str, token: str | None = None, **headers: str) -> tuple[int, Any]:
        token = self.token if token is None else token
        sent = headers | ({"Authorization": f"token {token}"} if token else {})
        request = urllib.request.Request(self.url + address, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")

    def table(self, path: str) -> dict[str, Any]:
        status, found = self.get(path)
        assert status == 200, found
        return dict(found)

    def refusal(self, path: str) -> str:
        """Return the one sentence with which a file is refused."""
        status, found = self.get(path)
        assert 400 <= status < 500, found
        assert set(found) == {"message"}
        message = str(found["message"])
        assert len(message.splitlines()) == 1
        assert str(self.folder) not in message
        return message


def start(home: Path, *options: str) -> Server:
    """Start a server that finds the extension by the configuration that the wheel installs."""
    folder, token, log = home / "files", secrets.token_hex(16), home / "server.log"
    folder.mkdir(parents=True)
    command = [*python_as_a_user(), "-m", "jupyter_server", "--no-browser", "--allow-root"]
    command += [
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={free_port()}",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
    ]
    env = os.environ | environment(home)
    env |= {
        "JUPYTER_CONFIG_PATH": str(ROOT / "jupyter-config"),
        "PYTHONPATH": f"{os.path.relpath(ROOT, home)}{os.pathsep}{home}",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options], env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=home
        )
    return Server(folder, wait_for_url(home / "runtime", process, log), token, process, log)


def stop(server: Server) -> None:
    server.process.terminate()
    try:
        server.process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        server.process.kill()
        server.process.wait()


def inside(server: Server, path: Path) -> str:
    return path.relative_to(server.folder).as_posix()
