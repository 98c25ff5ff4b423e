"""Write a file whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import FileError


def write_whole(path: str | os.PathLike[str], parts: Iterable[Any]) -> int:
    """Write buffers, one after the other, to a file that appears complete or not at all; return its bytes.

    They go to a temporary file in the same folder, reach the disk (fsync), and then take the file's place in one step
    (``os.replace``), with the permissions of the file that was there before. A symbolic link stays one.

    Raises:
        FileError: if the path cannot be written; what was there before is as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            raise FileError(f"cannot write {str(path)!r}: it is not a plain file")
        if target.exists() and not os.access(target, os.W_OK):
            raise FileError(f"cannot write {str(path)!r}: the file there is read-only")
        return _replace(target, parts)
    except OSError as error:
        reason = f"there is no folder {str(target.parent)!r}" if not target.parent.is_dir() else error.strerror
        before = "; the file there is unchanged" if _exists(target) else ""
        raise FileError(f"cannot write {str(path)!r}: {reason or error}{before}") from error


def _exists(path: Path) -> bool:
    with suppress(OSError):
        return path.exists()
    return False


def _replace(target: Path, parts: Iterable[Any]) -> int:
    new = target.with_name(f".shrinkwidget-{secrets.token_hex(8)}.tmp")
    try:
        with new.open("xb") as file:
            with suppress(OSError):
                new.chmod(stat.S_IMODE(target.stat().st_mode))
            written = sum(file.write(part) for part in parts)
            file.flush()
            os.fsync(file.fileno())
        new.replace(target)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    _sync_folder(target.parent)
    return written


def _sync_folder(folder: Path) -> None:
    """Make the new name itself reach the disk, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
