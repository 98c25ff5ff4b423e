"""Sketches of checkpoints that were looked at before, in a folder of this user, so that a second opening is instant."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

MAX_BYTES: Final = 512 * 2**20
"""What all entries take together; those not used for longest go first."""
_MAX_ENTRY: Final = MAX_BYTES // 2
_DIGEST: Final = 32
_CHUNK: Final = 1 << 20
_ABANDONED: Final = 24 * 3600
"""Seconds after which an unfinished entry belongs to no process any more."""


def key_of(identities: Sequence[object], version: str) -> str:
    """Return the name of the entry of some checkpoints, each told by the paths and the `file_identity` of its files."""
    return hashlib.sha256(repr((version, identities)).encode(errors="surrogateescape")).hexdigest()


def read(folder: Path, key: str) -> Iterator[bytes] | None:
    """Return what was kept under a key, piece by piece; None if that is nothing, or no longer what was written."""
    path = folder / key
    try:
        file = path.open("rb")
        length = os.fstat(file.fileno()).st_size - _DIGEST
        digest = hashlib.sha256()
        # Read twice, once for its checksum: nothing of a damaged entry may reach the page.
        for piece in _pieces(file, length):
            digest.update(piece)
        whole = length > 0 and digest.digest() == file.read(_DIGEST)
    except OSError:
        return None
    if not whole:
        file.close()
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # what is used stays longest
    file.seek(0)
    return _pieces(file, length, close=True)


def _pieces(file: BinaryIO, length: int, close: bool = False) -> Iterator[bytes]:
    while length > 0 and (piece := file.read(min(_CHUNK, length))):
        length -= len(piece)
        yield piece
    if close:
        file.close()


class Entry:
    """An entry while it is written; nobody sees it before `keep`. A folder that cannot be written to is no error."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / key
        self._digest = hashlib.sha256()
        self._length = 0
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, self._part = tempfile.mkstemp(suffix=".part", dir=folder)
            self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> None:
        """Add bytes at the end."""
        if self._file is None:
            return
        self._length += len(data)
        self._digest.update(data)
        try:
            if self._length > _MAX_ENTRY:
                self.drop()
            else:
                self._file.write(data)
        except OSError:  # a full disk
            self.drop()

    def keep(self) -> None:
        """Make it an entry, and forget others if all together have grown too large."""
        if self._file is None:
            return
        try:
            self._file.write(self._digest.digest())
            self._file.close()
            Path(self._part).replace(self._path)
        except OSError:
            self.drop()
            return
        _evict(self._path.parent)

    def drop(self) -> None:
        """Forget what was written."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                Path(self._part).unlink()
            self._file = None


def _evict(folder: Path) -> None:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may evict at the same time
            status = path.stat()
            # Least recently used first: reading an entry touches it.
            if path.suffix != ".part":
                found.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _ABANDONED:
                path.unlink()
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= MAX_BYTES:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
