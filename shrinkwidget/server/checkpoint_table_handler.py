"""The address ``GET /shrinkwidget/api/checkpoint?path=…``: what is in a checkpoint, read from its header alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.paths import is_hidden
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.services.contents.filemanager import FileContentsManager
from jupyter_server.utils import url_path_join
from tornado import web

from ..errors import quoted

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerWebApplication

_AT_ONCE: Final = 2
_SECONDS: Final = 60
"""After so long a file is given up; 100,000 tensors take about one."""


class PathError(Exception):
    """A path that is not to be read: why, and the status of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CheckpointHandler(APIHandler):
    """Answers with the table of one checkpoint (`checkpoint_table`), or ``{"message": …}`` and a status of 4xx.

    Nothing waits in the server's event loop: each file is read by a process of its own, few of them at a time.
    """

    # who may not read files through the contents API may not read them here either
    auth_resource = "contents"

    def initialize(self, executor: ThreadPoolExecutor) -> None:
        """Take the threads that wait for the reading processes."""
        self._executor = executor

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Read the checkpoint that the argument ``path`` names, as the contents API names files."""
        loop = asyncio.get_running_loop()
        try:
            path = self.get_query_argument("path", "")
            text = await loop.run_in_executor(self._executor, read_table, path, self.contents_manager)
        except PathError as error:
            self.set_status(error.status)
            text = json.dumps({"message": str(error)}).encode()
        except web.HTTPError as error:  # tornado's, for an argument that is not UTF-8
            self.set_status(error.status_code)
            text = json.dumps({"message": "the path is not valid UTF-8"}).encode()
        self.set_header("Cache-Control", "no-store")
        self.finish(text)


def read_table(path: str, contents_manager: Any) -> bytes:
    """Return the table of a checkpoint as JSON.

    Raises:
        PathError: with what is wrong with the path, or with the file.
    """
    root, found = path_in_root(path, contents_manager)
    # -P: a module in the user's folder must not be taken for one of Python's
    command = [sys.executable, "-P", "-m", "shrinkwidget.server.checkpoint_table", os.fspath(root)]
    command.append(os.fspath(found.relative_to(root)))
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise PathError(422, f"reading the header of {quoted(path)} took more than {_SECONDS} seconds") from None
    if done.returncode == 0:
        return done.stdout
    try:
        message = json.loads(done.stdout)["message"]
    except (ValueError, KeyError, TypeError):
        message = f"reading the header of {quoted(path)} failed: the process that read it ended with {done.returncode}"
    raise PathError(422, message)


def path_in_root(path: str, contents_manager: Any) -> tuple[Path, Path]:
    """Return the server's root folder, and the file that a path of the contents API means there, with no link in it.

    Raises:
        PathError: for a path that leads out of the root, also by a symbolic link; for a hidden one, unless the server
            shows hidden files; for a missing one; and if the server's files are in no file system.
    """
    if not isinstance(contents_manager, FileContentsManager):
        name = type(contents_manager).__name__
        raise PathError(400, f"checkpoints are read from a file system, but this server keeps its files in a {name}")
    root = Path(contents_manager.root_dir).resolve()
    relative = path.strip("/")
    outside = PathError(403, f"{quoted(path)} is not in the folder of this server")
    # Windows takes both slashes, knows drives, and ends a name at a colon
    parts = PureWindowsPath(relative).parts if os.name == "nt" else Path(relative).parts
    if not relative or "\0" in path or ".." in parts or Path(relative).is_absolute() or PureWindowsPath(path).drive:
        raise outside
    try:
        # Resolved before it is compared, so that neither ".." nor a symbolic link leads out; what is opened is the
        # resolved path.
        found = (root / relative).resolve(strict=True)
        if not found.is_relative_to(root):
            raise outside
        hidden = not contents_manager.allow_hidden and (is_hidden(root / relative, root) or is_hidden(found, root))
    except (FileNotFoundError, NotADirectoryError):
        raise PathError(404, f"there is no file {quoted(path)}") from None
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long, a folder that may not be entered
        reason = getattr(error, "strerror", None) or str(error)
        raise PathError(404, f"cannot read {quoted(path)}: {reason}") from None
    if hidden:
        raise PathError(404, f"there is no file {quoted(path)}")
    return root, found


def add_handlers(web_app: ServerWebApplication) -> None:
    """Add the address to a server."""
    executor = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="shrinkwidget-header")
    address = url_path_join(web_app.settings["base_url"], "shrinkwidget", "api", "checkpoint")
    web_app.add_handlers(  # type: ignore[no-untyped-call]
        ".*$", [(address, CheckpointHandler, {"executor": executor})]
    )
