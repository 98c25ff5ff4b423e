"""Finds an installed Chromium or Chrome, or gets one.

`python -m tests.widget.find_or_install_chromium` prints its path.

`make test` asks this first, before it installs anything else, so it needs nothing but the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
)
MISSING = (
    "The browser tests need Chromium or Chrome; none is installed and none could be fetched: "
    "install it (Debian: apt install chromium), or set CHROMIUM to its path."
)
# Fonts come along: without any, a page has boxes for letters and the layout tests measure nothing.
PACKAGE_MANAGERS = {
    "apt-get": (
        ("update", "-qq"),
        ("install", "-y", "-qq", "--no-install-recommends", "chromium", "fonts-dejavu-core", "fonts-liberation"),
    ),
    "dnf": (("install", "-y", "-q", "chromium", "dejavu-sans-fonts", "liberation-fonts"),),
    "apk": (("add", "--quiet", "chromium", "font-dejavu", "font-liberation"),),
    "pacman": (("-Sy", "--noconfirm", "--quiet", "chromium", "ttf-dejavu", "ttf-liberation"),),
}
PLAYWRIGHTS = (  # where Playwright's downloads lie, on Linux, macOS and Windows
    "~/.cache/ms-playwright",
    "~/Library/Caches/ms-playwright",
    "~/AppData/Local/ms-playwright",
)
PATIENCE_SECONDS = 600


def find() -> str | None:
    """Return the path of a Chromium or Chrome that starts: $CHROMIUM, one on PATH, macOS's, or Playwright's own."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    return next(filter(starts, candidates()), None)


def candidates() -> Iterator[str]:
    """Yield the paths at which a Chromium may be, the best first."""
    yield from filter(None, map(shutil.which, NAMES))
    yield from (path for path in MAC if Path(path).is_file())
    for folder in filter(None, (os.environ.get("PLAYWRIGHT_BROWSERS_PATH"), *PLAYWRIGHTS)):
        for program in ("chrome", "Chromium", "Google Chrome for Testing", "chrome.exe"):
            found = sorted(Path(folder).expanduser().glob(f"chromium-*/**/{program}"), reverse=True)
            yield from (str(path) for path in found if path.is_file() and os.access(path, os.X_OK))


def starts(path: str) -> bool:
    """Tell whether a browser runs at all: Ubuntu's `chromium-browser` may be a note that says to install a snap."""
    if sys.platform != "linux":  # elsewhere `--version` would open a window, and there are no such notes
        return True
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_or_get() -> str:
    """Return the path of a Chromium; where none is installed, the system's packages or Playwright may bring one.

    Raises:
        SystemExit: with a sentence that says what to install, where none can be had.
    """
    found = find()
    if not found and not os.environ.get("CHROMIUM"):
        for get in (install_package, download):
            if get() and (found := find()):
                break
    if not found:
        raise SystemExit(MISSING)
    return found


def install_package() -> bool:
    """Install Chromium by the system's package manager, where that is allowed without asking anybody."""
    manager = next((name for name in PACKAGE_MANAGERS if shutil.which(name)), None)
    as_root = root_prefix()
    if manager is None or as_root is None:
        return False
    print(f"Chromium is not installed: installing it with {manager}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    return all(quietly([*as_root, manager, *words], environment) for words in PACKAGE_MANAGERS[manager])


def root_prefix() -> list[str] | None:
    """Return what makes a command run as root: nothing, a sudo that asks for no password, or None."""
    if not hasattr(os, "geteuid"):
        return None
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    return sudo if shutil.which("sudo") and quietly([*sudo, "true"]) else None


def download() -> bool:
    """Let Playwright download its Chromium, which needs no rights; its package comes first where it is missing."""
    python = [sys.executable, "-m"]
    if importlib.util.find_spec("playwright") is None:
        in_venv = sys.prefix != sys.base_prefix
        if not in_venv or not quietly([*python, "pip", "install", "--constraint", "constraints.txt", "playwright"]):
            return False
    print("Chromium is not installed: Playwright tries to download it", flush=True)
    return quietly([*python, "playwright", "install", "chromium"])


def quietly(command: list[str], environment: dict[str, str] | None = None) -> bool:
    """Run a command whose output nobody needs to see, and tell whether it succeeded."""
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


if __name__ == "__main__":
    print("Chromium:", find_or_get())
