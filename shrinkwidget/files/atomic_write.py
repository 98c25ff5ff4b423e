"""Write a file whole or not at all."""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

from ..errors import FileError, a_type, quoted

if sys.platform != "win32":
    import fcntl

_TEMPORARY: Final = re.compile(r"\.shrinkwidget-(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]{16}\.tmp")
_DAY: Final = 24 * 3600  # no save takes so long
_NO_FSYNC: Final = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

Content: TypeAlias = Iterable[Any] | Callable[[BinaryIO], object]
"""Buffers to be written one after the other, or what writes to the open file, in any order."""


def write_whole(path: str | os.PathLike[str], content: Content) -> int:
    """Write a file that appears complete or not at all; return its bytes. See `write_all`."""
    return write_all({path: content})


def write_all(contents: Mapping[str | os.PathLike[str], Content]) -> int:
    """Write files that appear complete or not at all, all of them or none; return the bytes of all.

    Each goes to a temporary file in the same folder that nobody else may read, reaches the disk (fsync), and then takes
    the file's place in one step (``os.replace``), with the permissions of the file that was there before. Of several
    all are on the disk before the first takes its place. A symbolic link stays one. What a program that was killed
    while it saved has left in the folder is removed.

    Raises:
        FileError: if a path cannot be written; what was there before is as it was.
    """
    with ExitStack() as stack:
        written = [
            (path, target := resolved(path), *_temporarily(path, target, content, stack))
            for path, content in contents.items()
        ]
        for path, target, new, _ in written:
            with _telling_why(path, target):
                new.replace(target)
    # A rename is an entry of the folder: until that is on the disk, too, a power cut may bring back the old file.
    for folder in {target.parent for _, target, *_ in written}:
        with suppress(OSError):  # not every system opens folders (Windows)
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    return sum(nbytes for *_, nbytes in written)


@contextmanager
def _telling_why(path: object, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # not those of Path, which raise where a name is too long
        in_folder, existed = os.path.isdir(target.parent), os.path.exists(target)  # noqa: PTH110, PTH112
        reason = error.strerror or error if in_folder else f"there is no folder {quoted(target.parent)}"
        before = "; the file there is unchanged" if existed else ""
        raise FileError(f"cannot write {quoted(path)}: {reason}{before}") from error


def resolved(path: object) -> Path:
    """Return the place that a path to write to leads to, symbolic links followed.

    Raises:
        FileError: for what is no path.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise FileError(f"cannot write to {a_type(path)}: give a path, as text or a pathlib.Path")
    if not text or "\0" in text:
        raise FileError(f"cannot write {quoted(text)}: no file can be called that")
    try:
        return Path(os.path.realpath(text))
    except OSError as error:
        raise FileError(f"cannot write {quoted(path)}: {error.strerror or error}") from error


def refuse_without_folder(path: object) -> None:
    """Say before long work what `write_all` would say after it: that there is no folder to write to.

    Raises:
        FileError: for a path in a folder that is not there, and for what is no path.
    """
    target = resolved(path)
    if not os.path.isdir(target.parent):  # noqa: PTH112 - Path's raises where a name is too long
        raise FileError(f"cannot write {quoted(path)}: there is no folder {quoted(target.parent)}")


def _temporarily(path: object, target: Path, content: Content, stack: ExitStack) -> tuple[Path, int]:
    """Write content to a temporary file beside the target; return it and its bytes. `stack` removes what is left."""
    with _telling_why(path, target):
        if target.exists() and not target.is_file():
            raise FileError(f"cannot write {quoted(path)}: it is not a plain file")
        # os.replace would go over a read-only file: it asks for permission on the folder alone.
        if target.exists() and not os.access(target, os.W_OK):
            raise FileError(f"cannot write {quoted(path)}: the file there is read-only")
        with suppress(OSError):
            for entry in [entry for entry in os.scandir(target.parent) if _TEMPORARY.fullmatch(entry.name)]:
                with suppress(OSError):  # another process may just have removed it
                    _remove_if_left(entry)
        new = _temporary(target.parent)  # in the same folder: only within one file system a file is moved in one step
        stack.callback(_unlink, new)
        with os.fdopen(os.open(new, _NEW, 0o600), "w+b") as file:
            _lock(file.fileno())
            mode = _mode(target)
            if callable(content):
                content(file)
            else:
                file.writelines(content)
            file.flush()
            nbytes = os.fstat(file.fileno()).st_size
            with suppress(OSError):  # a file system without permissions
                new.chmod(mode)
            # content before name: else a power cut could leave the new name with nothing in it
            to_disk(file.fileno())
        return new, nbytes


def to_disk(handle: int) -> None:
    """Wait until what was written to an open file is on the disk (fsync), where its file system can tell."""
    try:
        os.fsync(handle)
    except OSError as error:
        # object stores that are mounted as folders have no such call; what they keep is kept when the file is closed
        if error.errno not in _NO_FSYNC:
            raise


def _unlink(path: Path) -> None:
    with suppress(OSError):  # it took its target's place
        path.unlink()


def _temporary(folder: Path) -> Path:
    """Return a name that tells which process writes under it, so that another may know that it is gone."""
    return folder / f".shrinkwidget-{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.tmp"


def _mode(target: Path) -> int:
    """Return the permissions of the file at the target, or those a new file gets, which only an empty one can tell.

    (`os.umask` tells only by being changed, for all threads.)
    """
    with suppress(FileNotFoundError):
        return stat.S_IMODE(target.stat().st_mode)
    probe = _temporary(target.parent)
    with probe.open("xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    probe.unlink(missing_ok=True)
    return mode


def _machine() -> str:
    """Return what tells this boot of this machine from others that may share the folder."""
    # The host's name is not enough: a process number means nothing after a reboot, nor in another container.
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"{zlib.crc32((platform.node() + boot).encode(errors='replace')):08x}"


def _remove_if_left(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file if its writer is known to have ended, or it is a day old; never one that is locked."""
    # Older names had no machine and process; those are left until they are a day old.
    found = _TEMPORARY.fullmatch(entry.name)
    status = entry.stat(follow_symlinks=False)
    if not found or not stat.S_ISREG(status.st_mode) or status.st_uid != getattr(os, "geteuid", lambda: 0)():
        return
    machine, pid = found.groups()
    gone = False
    # signal 0 only asks whether there is such a process; on Windows it would end it
    if sys.platform != "win32" and machine == _machine() and int(pid) != os.getpid():
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            gone = True
        except (OSError, OverflowError):  # it is somebody else's
            pass
    if not gone and time.time() - status.st_mtime < _DAY:
        return
    handle = os.open(entry.path, os.O_RDWR)
    try:
        if _lock(handle):  # a writer in another container has a process number that is unknown here
            Path(entry.path).unlink()
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open file as long as it is open; False if another has, or where that cannot be done (Windows)."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
