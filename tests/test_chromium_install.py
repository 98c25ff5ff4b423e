"""Getting a Chromium for the browser tests: on PATH, by the system's package manager, or a sentence at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the scripts that stand for programs need a shell")


def program(folder: Path, name: str, text: str) -> None:
    """Write a shell script that stands for a program of the system."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def get(tmp_path: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Ask for a Chromium where only the programs in `tmp_path/bin` exist, without rights but by their `sudo`."""
    environment = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path), **more}
    # a Python outside of any venv, so that nothing is installed into the one that runs the tests
    code = (
        "import os, runpy, sys; os.geteuid = lambda: 1000; sys.base_prefix = sys.prefix;"
        "sys.modules['playwright'] = None;"
        "runpy.run_module('tests.widget.find_or_install_chromium', run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_one_on_path_is_taken(tmp_path: Path) -> None:
    program(tmp_path / "bin", "chromium", "exit 0")
    assert get(tmp_path).stdout == f"Chromium: {tmp_path}/bin/chromium\n"


def test_one_that_does_not_start_is_passed_over(tmp_path: Path) -> None:
    program(tmp_path / "bin", "chromium-browser", "echo install the snap; exit 1")
    cache = tmp_path / ".cache" / "ms-playwright" / "chromium-1234" / "chrome-linux"
    cache.mkdir(parents=True)
    program(cache, "chrome", "exit 0")
    assert get(tmp_path).stdout == f"Chromium: {cache}/chrome\n"


def test_the_package_manager_brings_one_where_sudo_asks_for_no_password(tmp_path: Path) -> None:
    program(tmp_path / "bin", "sudo", 'shift; [ "$1" = true ] || exec "$@"')
    arrives = f'printf "#!/bin/sh\\n" > {tmp_path}/bin/chromium; /bin/chmod +x {tmp_path}/bin/chromium'
    program(tmp_path / "bin", "apt-get", f'[ "$1" = update ] || {{ {arrives}; }}')
    done = get(tmp_path)
    assert done.stdout.endswith(f"Chromium: {tmp_path}/bin/chromium\n")
    assert "apt-get" in done.stdout


@pytest.mark.parametrize("sudo", ["exit 1", "exit 0"])
def test_one_sentence_where_nothing_works(tmp_path: Path, sudo: str) -> None:
    program(tmp_path / "bin", "sudo", sudo)  # one that wants a password, and one with which the packages fail
    program(tmp_path / "bin", "apt-get", "exit 100")
    done = get(tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "apt install chromium" in done.stderr
    assert "CHROMIUM" in done.stderr


def test_a_named_one_that_is_not_there_is_not_replaced(tmp_path: Path) -> None:
    program(tmp_path / "bin", "chromium", "exit 0")
    done = get(tmp_path, CHROMIUM=str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert os.linesep not in done.stderr.strip()
