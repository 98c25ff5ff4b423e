"""Builds the JavaScript before a wheel or an sdist is packed, and the compiled kernel where there is a compiler.

An installed wheel needs neither Node nor a compiler. `python hatch_build.py` builds the kernel in a checkout.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

STATIC = Path("shrinkwidget", "widgets", "static")
LABEXTENSION = Path("shrinkwidget", "labextension")
SOURCES = ("js", "shrinkwidget/performance/devices.json", "package.json", "package-lock.json", "tsconfig.json")
KERNEL_SOURCE = Path("shrinkwidget", "analysis", "cpu_kernel.c")
KERNEL = Path("shrinkwidget", "analysis", "cpu_kernel.lib")
# Nobody asks for errno or floating-point exceptions, and without them comparisons and roots are taken eight at a time.
# No multiplication may be fused with an addition: the library gives the same bits as torch and numpy do.
FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
         "-ffp-contract=off")  # fmt: skip


class BuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs ``npm run build`` where the built JavaScript is missing or older than its sources, and the C compiler."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is missing; an editable install goes on without it, a wheel or an sdist is refused.

        Without a compiler a wheel is pure Python, and sketches take several times as long.
        """
        root = Path(self.root)
        if self.target_name == "wheel" and (compiled := build_kernel(root)) is not None:
            build_data["artifacts"].append(compiled.as_posix())
            # a library for one platform, which no version of Python matters to
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        try:
            if is_stale(root):
                build(root)
        except RuntimeError as error:
            if version != "editable":
                raise
            self.app.display_warning(f"{error} Until then the explorer has nothing to show.")
            (root / LABEXTENSION).mkdir(exist_ok=True)  # a folder of shared data must be there


def build_kernel(root: Path) -> Path | None:
    """Compile the kernel unless it is newer than its source, and return its path; None where that cannot be done.

    The environment variable ``SHRINKWIDGET_KERNEL=0`` forgoes it; ``CC`` names the compiler.
    """
    source, library = root / KERNEL_SOURCE, root / KERNEL
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if os.name == "nt" or os.environ.get("SHRINKWIDGET_KERNEL") == "0" or not shutil.which(command[0]):
        return None
    if newest(library) > newest(source):
        return KERNEL
    unfinished = library.with_suffix(".building")
    # where the loader cannot choose among versions for several processors, as on musl, there is one
    for also in ((), ("-DPORTABLE",)):
        words = [*command, *FLAGS, *also, "-o", os.fspath(unfinished), os.fspath(source), "-lm"]
        if subprocess.run(words, capture_output=True, check=False).returncode == 0:
            unfinished.replace(library)  # in one step: a process may have the old one open
            return KERNEL
    library.unlink(missing_ok=True)
    return None


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


if __name__ == "__main__":
    print(build_kernel(Path(__file__).parent) or "no kernel was built: there is no C compiler, or it failed")
