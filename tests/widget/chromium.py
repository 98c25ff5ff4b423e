"""Finds an installed Chromium or Chrome, or gets one; `python -m tests.widget.chromium` prints its path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

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
    "The browser tests need Chromium or Chrome, found none on PATH and could not get one: "
    "install it (Debian: apt install chromium), or set CHROMIUM to its path."
)


def playwrights_own() -> Path:
    """Return where Playwright keeps the Chromium it downloads, whether it is there or not."""
    with sync_playwright() as playwright:
        return Path(playwright.chromium.executable_path)


def find() -> str | None:
    """Return the path of an installed Chromium or Chrome: $CHROMIUM, one on PATH, macOS's, or Playwright's own."""
    if named := os.environ.get("CHROMIUM"):
        return shutil.which(named)
    if on_path := next(filter(None, map(shutil.which, NAMES)), None):
        return on_path
    return next((str(path) for path in (*map(Path, MAC), playwrights_own()) if path.is_file()), None)


def find_or_get() -> str:
    """Return the path of a Chromium, downloaded by Playwright where none is installed.

    Raises:
        SystemExit: with a sentence that says what to install, where none can be had.
    """
    if not (found := find()) and not os.environ.get("CHROMIUM"):
        subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)
        found = find()
    if not found:
        raise SystemExit(MISSING)
    return found


if __name__ == "__main__":
    print("Chromium:", find_or_get())
