"""Builds the JavaScript before a wheel or an sdist is packed, so that an installed wheel needs no Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = Path("shrinkwidget", "widgets", "static")
LABEXTENSION = Path("shrinkwidget", "labextension")
SOURCES = ("js", "package.json", "package-lock.json", "tsconfig.json")


class JavaScriptHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs ``npm ci`` and ``npm run build`` where the built JavaScript is missing or older than its sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Build what is missing; an editable install goes on without it, a wheel or an sdist is refused."""
        root = Path(self.root)
        try:
            if is_stale(root):
                build(root)
        except RuntimeError as error:
            if version != "editable":
                raise
            self.app.display_warning(f"{error} Until then the explorer has nothing to show.")
            (root / LABEXTENSION).mkdir(exist_ok=True)  # a folder of shared data must be there


def is_stale(root: Path) -> bool:
    """Tell whether a source is newer than the oldest built file, or nothing is built yet."""
    built = [path.stat().st_mtime for path in (root / STATIC).glob("*.js")]
    extension = root / LABEXTENSION / "package.json"
    if not built or not extension.is_file():
        return True
    built.append(extension.stat().st_mtime)
    return max(map(newest, (root / name for name in SOURCES))) > min(built)


def newest(path: Path) -> float:
    """Return the latest modification time of a file, or of the files in a folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)


def build(root: Path) -> None:
    """Install the pinned JavaScript packages where they are not yet, and build the bundle."""
    if newest(root / "node_modules" / ".package-lock.json") < newest(root / "package-lock.json"):
        npm(root, "install", "--no-save")  # `npm ci` refuses a lock file that lacks a package for some other platform
    npm(root, "run", "build")


def npm(root: Path, *words: str) -> None:
    """Run npm in the repository; a RuntimeError says in one sentence what is missing or failed."""
    program = shutil.which("npm")
    if program is None:
        raise RuntimeError(
            "Building shrinkwidget's JavaScript needs Node 20 or newer, and npm was not found: install Node."
        )
    if subprocess.run([program, *words], cwd=root, check=False).returncode:
        raise RuntimeError(f"`npm {' '.join(words)}` failed: see above for why, and run it again when that is mended.")
