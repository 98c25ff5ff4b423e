"""`python -m tests.mutation.run_mutants [NAME …]`: plant each fault in a copy, see whether the tests notice.

Exit code 1 if more than two of the faults go unnoticed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .mutants import MUTANTS, ROOT, Mutant

MAY_SURVIVE: Final = 2
COPIED: Final = ("shrinkwidget", "js", "tests", "benchmarks", "scripts", "examples", "docs")
PYTEST: Final = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
SUITES: Final[dict[str, tuple[str, ...]]] = {
    "vitest": ("npx", "vitest", "run", "--bail", "1"),
    "estimate": (*PYTEST, "tests/engine/test_estimate.py"),
    "classes": (*PYTEST, "tests/engine/test_compare_predictions.py"),
    "files": (*PYTEST, "tests/engine/test_packed_files_malformed.py"),
    "figures": (*PYTEST, "tests/engine/test_figure_numbers.py"),
    "fold": (*PYTEST, "tests/engine/test_batchnorm_folding.py"),
    "grids": (*PYTEST, "tests/engine/test_quantization_aware_training.py"),
    "methods": (*PYTEST, "tests/engine/test_retrain_methods.py"),
    "metrics": (*PYTEST, "tests/engine/test_evaluate.py"),
    "monitor": (*PYTEST, "tests/widget/test_monitor_numbers.py"),
    "prune": (*PYTEST, "tests/engine/test_pruning_masks.py"),
    "recalibrated": (*PYTEST, "tests/test_explorer_insight.py", "-k", "switch or kept or statistics"),
    "rounds": (*PYTEST, "tests/engine/test_prune_and_retrain_rounds.py"),
    "sensitivity": (*PYTEST, "tests/engine/test_sensitivity.py"),
    "run": (*PYTEST, "tests/engine/test_background_run.py"),
    "transfer": (*PYTEST, "tests/engine/test_transfer.py"),
    "snapshots": (*PYTEST, "tests/engine/test_snapshot_numbers.py", "tests/engine/test_chart_vectors.py"),
    "page": (*PYTEST, "tests/widget/test_explorer_numbers.py"),
}
PATIENCE_SECONDS: Final = 900


def main() -> int:
    """Try those named, or all, and print what became of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run_mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of a fault's name")
    names = parser.parse_args().names
    chosen = [m for m in MUTANTS if not names or any(name in m.name for name in names)]
    with checkout() as copy:
        for suite in sorted({suite for mutant in chosen for suite in mutant.suites}):
            if failed(suite, copy):
                print(f"the suite {suite!r} fails without any fault: mend that first", file=sys.stderr)
                return 2
        survivors = [mutant for mutant in chosen if not noticed(mutant, copy)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults were noticed")
    return int(len(survivors) > MAY_SURVIVE)


@contextmanager
def checkout() -> Iterator[Path]:
    """Copy what the tests need into a folder of its own, so that a fault never touches the real files."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
        for file in ROOT.iterdir():
            if file.is_file():
                shutil.copy2(file, copy / file.name)
        (copy / "node_modules").symlink_to((ROOT / "node_modules").resolve())
        yield copy


def noticed(mutant: Mutant, copy: Path) -> bool:
    """Plant one fault, tell whether a test turns red, and take it out again."""
    path, start = copy / mutant.path, time.perf_counter()
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.planted(), encoding="utf-8")
    try:
        by = next((suite for suite in mutant.suites if failed(suite, copy)), None)
    finally:
        path.write_text(original, encoding="utf-8")
        built(copy, mutant.path)
    print(
        f"{mutant.name:56} {f'noticed by {by}' if by else 'NOT NOTICED':24} {time.perf_counter() - start:.0f} s",
        flush=True,
    )
    return by is not None


def failed(suite: str, copy: Path) -> bool:
    """Run a suite in the copy, the bundle built again where it is looked at; a build that breaks counts as noticed."""
    if suite in ("page", "monitor") and not built(copy, "js/"):
        return True
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            SUITES[suite],
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def built(copy: Path, path: str) -> bool:
    """Build the bundle where a TypeScript file changed."""
    if not path.startswith("js/"):
        return True
    command = ("npm", "run", "--silent", "build")
    return subprocess.run(command, cwd=copy, capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
