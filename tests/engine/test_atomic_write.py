"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shrinkwidget.errors import FileError
from shrinkwidget.files.atomic_write import write_whole
from shrinkwidget.recipe_and_method_registry import Recipe

from .packed_file_helpers import Net, saved


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"what was there before")
    return path


def assert_untouched(path: Path) -> None:
    assert path.read_bytes() == b"what was there before"
    assert list(path.parent.iterdir()) == [path]


def test_what_is_written_is_there(tmp_path: Path) -> None:
    path = tmp_path / "new.bin"
    assert write_whole(path, [b"one", b"", memoryview(b"two")]) == 6
    assert path.read_bytes() == b"onetwo"
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_has_the_usual_permissions_and_an_old_one_keeps_its_own(old: Path) -> None:
    usual = old.with_name("usual")
    usual.touch()
    write_whole(old.with_name("new"), [b"x"])
    assert stat.S_IMODE(old.with_name("new").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    old.chmod(0o640)
    write_whole(old, [b"x"])
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_that_cannot_flush_gets_the_file_nonetheless(
    old: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # what a mounted object store answers; here there is none to mount
    def cannot(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", cannot)
    assert write_whole(old, [b"new"]) == 3
    assert old.read_bytes() == b"new"


def test_a_disk_that_fails_to_flush_is_told_and_the_old_file_stays(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(FileError, match=r"Input/output error; the file there is unchanged"):
        write_whole(old, [b"new"])
    assert_untouched(old)


def test_a_symbolic_link_stays_one(old: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old.name)
    write_whole(link, [b"new"])
    assert link.is_symlink()
    assert old.read_bytes() == b"new"


def test_a_full_disk_leaves_the_old_file(old: Path) -> None:
    """The system's own limit on the size of a file stands for the end of the disk: write() fails with an errno."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(FileError, match=r"cannot write .*: File too large; the file there is unchanged"):
            write_whole(old, [bytes(1 << 19)] * 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_untouched(old)


def test_a_device_that_is_always_full_is_not_written_over() -> None:
    with pytest.raises(FileError, match=r"cannot write '/dev/full': it is not a plain file"):
        write_whole("/dev/full", [b"x"])
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_folder_that_may_not_be_written_to_leaves_the_old_file(old: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write to every folder; the test below tries one that not even root may write to")
    old.chmod(0o444)
    with pytest.raises(FileError, match="the file there is read-only"):
        write_whole(old, [b"x"])
    old.chmod(0o644)
    old.parent.chmod(0o555)
    try:
        with pytest.raises(FileError, match=r"cannot write .*: Permission denied; the file there is unchanged"):
            write_whole(old, [b"x"])
    finally:
        old.parent.chmod(0o755)
    assert_untouched(old)


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="this system has no /proc, which nobody can write to")
def test_a_file_system_that_nobody_may_write_to_says_so() -> None:
    with pytest.raises(FileError, match=r"cannot write '/proc/version': .*; the file there is unchanged"):
        write_whole("/proc/version", [b"x"])


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"cannot write '.*nowhere/small': there is no folder '.*nowhere'"):
        write_whole(tmp_path / "nowhere" / "small", [b"x"])
    with pytest.raises(FileError, match=r"cannot write .*: it is not a plain file"):
        write_whole(tmp_path, [b"x"])


def test_an_interruption_leaves_the_old_file(old: Path) -> None:
    def interrupted() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(old, interrupted())
    assert_untouched(old)


def test_a_model_is_saved_over_another_in_one_step(old: Path) -> None:
    path = saved(old.parent, Net(), Recipe(bits=4))
    os.link(path, old.with_name("held"))  # a reader that still has the old file open
    before = old.with_name("held").read_bytes()
    assert saved(old.parent, Net(1), Recipe(bits=8)) == path
    assert old.with_name("held").read_bytes() == before != path.read_bytes()


def test_nobody_else_may_read_what_is_not_there_yet(old: Path) -> None:
    old.chmod(0o600)
    modes: list[int] = []

    def watched() -> Iterator[bytes]:
        for part in (b"secret", b"weights"):
            yield part
            modes.extend(stat.S_IMODE(path.stat().st_mode) for path in old.parent.glob(".shrinkwidget-*.tmp"))

    umask = os.umask(0o022)
    try:
        write_whole(old, watched())
        write_whole(old.with_name("new"), watched())
    finally:
        os.umask(umask)
    assert modes == [0o600] * 4
    assert stat.S_IMODE(old.stat().st_mode) == 0o600
    assert stat.S_IMODE(old.with_name("new").stat().st_mode) == 0o644


ENDLESS = """
import itertools, sys
from shrinkwidget.files.atomic_write import write_whole
write_whole(sys.argv[1], (print(i, flush=True) or bytes(1000) for i in itertools.count()))
"""


def setup(path: Path) -> subprocess.Popen[str]:
    """Return another process that has begun to save to this path, and does not end."""
    writer = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "0\n"
    return writer


def test_what_a_killed_save_left_is_removed_by_the_next_and_nothing_else(old: Path) -> None:
    running, killed = setup(old), setup(old)
    try:
        killed.kill()
        killed.wait()
        others = [old.with_name(name) for name in (".shrinkwidget-notes.tmp", f".shrinkwidget-{'0' * 16}.tmp.txt")]
        elsewhere = old.with_name(f".shrinkwidget-{'0' * 8}-{killed.pid}-{'1' * 16}.tmp")  # of another machine
        for path in (*others, elsewhere):
            path.write_bytes(b"mine")
        assert len(list(old.parent.glob(".shrinkwidget-*.tmp"))) == 4
        write_whole(old, [b"new"])
        left = set(old.parent.iterdir()) - {old, *others, elsewhere}
        assert [path.name.split("-")[2] for path in left] == [str(running.pid)]
        days_ago = time.time() - 3 * 24 * 3600
        for path in (*left, elsewhere):
            os.utime(path, (days_ago, days_ago))
        write_whole(old, [b"newer"])
        assert not elsewhere.exists()
        assert all(path.exists() for path in (*left, *others))  # one is locked, the others are none of ours
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
        killed.communicate()


@pytest.mark.parametrize(
    "path, sentence",
    [
        ("a\0b", r"cannot write 'a\\x00b': no file can be called that"),
        ("", "no file can be called that"),
        ("x" * 5000, r"cannot write 'x{80,} … x+': File name too long"),
        (b"model", "cannot write to a bytes: give a path"),
        (None, "cannot write to a NoneType"),
    ],
)
def test_what_no_file_can_be_called_is_refused(path: object, sentence: str) -> None:
    with pytest.raises(FileError, match=sentence):
        write_whole(path, [b"x"])  # type: ignore[arg-type]
