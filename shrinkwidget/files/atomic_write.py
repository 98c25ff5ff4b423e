"""Write a file whole or not at all."""

from __future__ import annotations

import os
import platform
import re
import secrets
import stat
import sys
import time
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ..errors import FileError, quoted

if sys.platform != "win32":
    import fcntl

_TEMPORARY: Final = re.compile(r"\.shrinkwidget-(?:([0-9a-f]{8})-(\d+)-)?[0-9a-f]{16}\.tmp")
_DAY: Final = 24 * 3600
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def write_whole(path: str | os.PathLike[str], parts: Iterable[Any]) -> int:
    """Write buffers, one after the other, to a file that appears complete or not at all; return its bytes.

    They go to a temporary file in the same folder that nobody else may read, reach the disk (fsync), and then take the
    file's place in one step (``os.replace``), with the permissions of the file that was there before. A symbolic link
    stays one. What a program that was killed while it saved has left in the folder is removed.

    Raises:
        FileError: if the path cannot be written; what was there before is as it was.
    """
    target = _target(path)
    try:
        if target.exists() and not target.is_file():
            raise FileError(f"cannot write {quoted(path)}: it is not a plain file")
        if target.exists() and not os.access(target, os.W_OK):
            raise FileError(f"cannot write {quoted(path)}: the file there is read-only")
        _remove_leftovers(target.parent)
        return _replace(target, parts)
    except OSError as error:
        reason = error.strerror or error if _is_folder(target.parent) else f"there is no folder {quoted(target.parent)}"
        before = "; the file there is unchanged" if _exists(target) else ""
        raise FileError(f"cannot write {quoted(path)}: {reason}{before}") from error


def _target(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise FileError(f"cannot write to a {type(path).__name__}: give a path, as text or a pathlib.Path")
    if not text or "\0" in text:
        raise FileError(f"cannot write {quoted(text)}: no file can be called that")
    try:
        return Path(os.path.realpath(text))
    except OSError as error:
        raise FileError(f"cannot write {quoted(path)}: {error.strerror or error}") from error


def _exists(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


def _is_folder(path: Path) -> bool:
    with suppress(OSError):
        return path.is_dir()
    return False


def _replace(target: Path, parts: Iterable[Any]) -> int:
    new = _temporary(target.parent)
    try:
        with os.fdopen(os.open(new, _NEW, 0o600), "wb") as file:
            _lock(file.fileno())
            mode = _mode(target)
            written = sum(file.write(part) for part in parts)
            file.flush()
            with suppress(OSError):
                new.chmod(mode)
            os.fsync(file.fileno())
        new.replace(target)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    _sync_folder(target.parent)
    return written


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
    boot = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    return f"{zlib.crc32((platform.node() + boot).encode(errors='replace')):08x}"


def _remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of programs that ended while they saved, where it is certain that they did."""
    with suppress(OSError):
        found = [entry for entry in os.scandir(folder) if _TEMPORARY.fullmatch(entry.name)]
        for entry in found:
            with suppress(OSError):
                _remove_if_left(entry)


def _remove_if_left(entry: os.DirEntry[str]) -> None:
    """Remove a temporary file if its writer is known to have ended, or it is a day old; never one that is locked."""
    found = _TEMPORARY.fullmatch(entry.name)
    status = entry.stat(follow_symlinks=False)
    if not found or not stat.S_ISREG(status.st_mode) or status.st_uid != getattr(os, "geteuid", lambda: 0)():
        return
    machine, pid = found.groups()
    gone = sys.platform != "win32" and machine == _machine() and int(pid) != os.getpid() and not _runs(int(pid))
    if not gone and time.time() - status.st_mtime < _DAY:
        return
    handle = os.open(entry.path, os.O_RDWR)
    try:
        if _lock(handle):  # a writer in another container has a process number that is unknown here
            Path(entry.path).unlink()
    finally:
        os.close(handle)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _lock(handle: int) -> bool:
    """Lock an open file as long as it is open; False if another has, or where that cannot be done (Windows)."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    """Make the new name itself reach the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
