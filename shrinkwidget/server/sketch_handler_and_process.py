"""The address ``ws://…/shrinkwidget/api/sketch?path=…``: the weights of a checkpoint, sketched layer by layer.

With ``&with=…``, another checkpoint, it tells how that one differs from the first, tensor by tensor. ``&memory=…`` and
``&seconds=…`` ask for narrower limits than the server's own (`ShrinkwidgetLimits`). Messages of JSON tell the
``state``; every binary message is the sketch of one layer. docs/architecture.md has the list.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_core.paths import jupyter_runtime_dir
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import ws_authenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from ..errors import quoted
from .checkpoint_table_handler import PathError, path_in_root
from .resource_limits import ShrinkwidgetLimits

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerWebApplication

_HEADERS_AT_ONCE: Final = 2
_TEXT: Final = 0  # the kinds of a worker's frames
_LARGEST_FRAME: Final = 2**28
_LARGEST_MESSAGE: Final = 2**20  # what a page may send
_MOST_ASKED: Final = 8  # of messages that wait for the worker's turn


class Turns:
    """Lets a few in at a time, in the order in which they came, and tells the others their place."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: list[tuple[asyncio.Future[None], Any]] = []

    @contextlib.asynccontextmanager
    async def turn(self, tell: Any) -> Any:
        """Wait for a turn; ``tell(place)`` is called whenever the place has changed, 1 being the next."""
        if self._free:
            self._free -= 1
        else:
            come: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((come, tell))
            tell(len(self._waiting))
            try:
                await come
            except asyncio.CancelledError:
                if come.done() and not come.cancelled():  # its turn came in the moment in which it was cancelled
                    self._leave()
                elif (come, tell) in self._waiting:
                    self._waiting.remove((come, tell))
                    self._tell()
                raise
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        while self._waiting:
            come, _ = self._waiting.pop(0)
            if not come.done():  # else its task was cancelled, and has not run since to take itself out
                come.set_result(None)
                self._tell()
                return
        self._free += 1

    def _tell(self) -> None:
        for place, (_, tell) in enumerate(self._waiting, 1):
            tell(place)


class SketchHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """Runs a worker for one page, and hands on what it says; closing the socket ends it.

    Nothing is read faster than the page takes it: while a message waits to be sent, the worker waits as well.
    """

    # who may not read files through the contents API may not look at their weights either
    auth_resource = "contents"

    def initialize(self, headers: Turns, sketches: Turns, limits: ShrinkwidgetLimits) -> None:
        """Take the turns that all sockets of the server share, and its limits."""
        self._reading, self._sketching, self._limits = headers, sketches, limits
        self._task: asyncio.Task[None] | None = None
        self._worker: asyncio.subprocess.Process | None = None
        self._asked = [b"{}\n"]  # any line lets the worker begin

    def set_default_headers(self) -> None:
        """Set none: those of a page say nothing to a socket."""

    @property
    def max_message_size(self) -> int:
        """The longest message that a page may send."""
        return _LARGEST_MESSAGE

    @ws_authenticated
    async def get(self, *args: str, **kwargs: str) -> None:
        """Open the socket, if its user may read files and its page is one of this server."""
        allowed = self.authorizer.is_authorized(self, self.current_user, "read", self.auth_resource)
        if not await ensure_async(allowed):
            raise web.HTTPError(403)
        await super().get(*args, **kwargs)

    def open(self, *args: str, **kwargs: str) -> None:
        """Begin to look at the checkpoint."""
        super().open(*args, **kwargs)
        self._task = asyncio.create_task(self._run())

    def on_message(self, message: str | bytes) -> None:
        """Hand on what the page asks; the worker leaves out what it does not know."""
        with contextlib.suppress(ValueError):
            line = json.dumps(json.loads(message)).encode() + b"\n"
            if self._worker is None:  # which is for later, when it is its turn
                self._asked = [*self._asked, line][-_MOST_ASKED:]
            elif self._worker.stdin is not None and not self._worker.stdin.is_closing():
                self._worker.stdin.write(line)

    def on_close(self) -> None:
        """End the worker."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            other = self.get_query_arguments("with")[:1]
            memory = self._limits.memory_for(self.get_query_argument("memory", None))
            seconds = self._limits.seconds_for(self.get_query_argument("seconds", None))
            await self._sketch([self.get_query_argument("path", ""), *other], memory, seconds)
        except PathError as error:
            self._say(state="failed", message=str(error))
        except web.HTTPError:  # tornado's, for an argument that is not UTF-8
            self._say(state="failed", message="the path is not valid UTF-8")
        except ValueError as error:  # a limit that is none
            self._say(state="failed", message=str(error))
        except OSError as error:  # of a process that cannot be started
            self._say(state="failed", message=f"no process can be started to look at it: {error.strerror or error}")
        except WebSocketClosedError:
            return
        self.close()

    def _say(self, **message: Any) -> None:
        with contextlib.suppress(WebSocketClosedError):
            self.write_message(json.dumps(message))

    async def _sketch(self, paths: list[str], memory: int, seconds: int) -> None:
        places = [await asyncio.to_thread(path_in_root, path, self.contents_manager) for path in paths]
        root = places[0][0]
        cache = Path(jupyter_runtime_dir(), "shrinkwidget-sketches")
        async with contextlib.AsyncExitStack() as turns:

            def queued(place: int) -> None:
                self._say(state="queued", place=place)

            reading = await turns.enter_async_context(contextlib.AsyncExitStack())
            await reading.enter_async_context(self._reading.turn(queued))
            # -P: a module in the user's folder must not be taken for one of Python's
            command = [sys.executable, "-P", "-m", "shrinkwidget.server.sketch_worker_program", os.fspath(root)]
            command += [os.fspath(cache), str(memory), *(os.fspath(found.relative_to(root)) for _, found in places)]
            worker = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            turns.push_async_callback(_end, worker)
            assert worker.stdin is not None
            assert worker.stdout is not None
            said = ""
            try:
                async with asyncio.timeout(None) as limit:
                    while (frame := await _frame(worker.stdout)) is not None:
                        kind, content = frame
                        await reading.aclose()  # the header is read
                        said = json.loads(content)["state"] if kind == _TEXT else said
                        # Only now does it load torch and take cores, so only now it needs a turn, and its time begins.
                        if said == "ready":
                            await turns.enter_async_context(self._sketching.turn(queued))
                            limit.reschedule(asyncio.get_running_loop().time() + seconds)
                            self._worker = worker
                            worker.stdin.write(b"".join(self._asked))
                            said = ""
                        else:
                            await self.write_message(content, binary=kind != _TEXT)
            except TimeoutError:
                time = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
                why = f"took longer than {time}, the limit of your settings or of the server"
                raise PathError(422, f"looking at {quoted(paths[0])} {why}") from None
            if said not in ("done", "failed"):  # its last word is one of these, unless something killed it
                code = await worker.wait()
                how = f"was ended by signal {-code}" if code < 0 else f"ended with {code}"
                why = f"failed: the process that read it {how}, perhaps for want of memory; try again"
                raise PathError(422, f"looking at {quoted(paths[0])} {why}")


async def _frame(output: asyncio.StreamReader) -> tuple[int, bytes] | None:
    """Return the next frame of a worker, its kind and its content; None at its end."""
    try:
        start = await output.readexactly(5)
        length = int.from_bytes(start[:4], "little")
        return (start[4], await output.readexactly(length)) if length <= _LARGEST_FRAME else None
    except asyncio.IncompleteReadError:
        return None


async def _end(worker: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.kill()
    await worker.wait()


def add_sketch_handler(web_app: ServerWebApplication, limits: ShrinkwidgetLimits) -> None:
    """Add the address to a server."""
    shared = {"headers": Turns(_HEADERS_AT_ONCE), "sketches": Turns(limits.at_once), "limits": limits}
    address = url_path_join(web_app.settings["base_url"], "shrinkwidget", "api", "sketch")
    web_app.add_handlers(".*$", [(address, SketchHandler, shared)])  # type: ignore[no-untyped-call]
