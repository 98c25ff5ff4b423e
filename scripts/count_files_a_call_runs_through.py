"""Counts the files and functions of shrinkwidget that one call runs through: what a reader must open to follow it.

python scripts/count_files_a_call_runs_through.py                  # the table of docs/architecture.md
python scripts/count_files_a_call_runs_through.py compress         # and which files these are, with their functions
"""

from __future__ import annotations

import argparse
import inspect
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, TypeAlias

import shrinkwidget as sw

PACKAGE: Final = Path(sw.__file__).parent
Functions: TypeAlias = dict[str, set[str]]
"""By file, the functions of it that ran."""


class Trace:
    """Notes every function that runs while it is on, in threads started since it was made, too."""

    def __init__(self) -> None:
        self._on = False
        self._codes: set[CodeType] = set()
        threading.setprofile(self._note)

    def _note(self, frame: FrameType, event: str, _argument: object) -> None:
        if self._on and event == "call":
            self._codes.add(frame.f_code)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Note what runs in here."""
        self._codes.clear()
        self._on = True
        sys.setprofile(self._note)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._on = False

    def functions(self) -> Functions:
        """Return what ran. Comprehensions, lambdas, and the bodies of modules and classes are no functions to read."""
        found: Functions = defaultdict(set)
        for code in self._codes:
            path = Path(code.co_filename)
            if not path.is_relative_to(PACKAGE) or path.is_relative_to(PACKAGE / "demo"):  # the demo is the user's part
                continue
            if code.co_flags & inspect.CO_OPTIMIZED and code.co_name[0] != "<":
                found[path.relative_to(PACKAGE.parent).as_posix()].add(code.co_qualname)
        return found


RECIPE: Final = sw.Recipe(sparsity=0.9, bits=4)

# Each case looks its function up before the trace begins: the first use of a public name imports its modules, and what
# runs while a module is imported (decorators, registrations) is no part of the call.
Case: TypeAlias = Callable[[Trace], Any]


def compress(trace: Trace) -> None:
    """Prune and quantize a model."""
    model, compress = sw.demo.model(), sw.compress
    with trace.on():
        compress(model, RECIPE)


def save_and_load(trace: Trace) -> None:
    """Write a compressed model to a file, and read it."""
    small, load, path = sw.compress(sw.demo.model(), RECIPE), sw.load, Path("count-files.safetensors")
    try:
        with trace.on():
            small.save(path)
            load(path, into=sw.demo.model())
    finally:
        path.unlink(missing_ok=True)


def evaluate(trace: Trace) -> None:
    """Measure a model's accuracy."""
    model, data, evaluate = sw.demo.model(), sw.demo.data("valid"), sw.evaluate
    with trace.on():
        evaluate(model, data)


def retrain(trace: Trace) -> None:
    """Fine-tune a compressed model for one epoch."""
    small, (images, labels) = sw.compress(sw.demo.model(), RECIPE), sw.demo.data("train")
    train, valid = (images[:128], labels[:128]), (images[128:192], labels[128:192])
    retrain, one_epoch = sw.retrain, sw.methods.FineTune(1)
    with trace.on():
        retrain(small, train, valid, method=one_epoch)


def transfer(trace: Trace) -> None:
    """Train a new head for one epoch."""
    model, data, transfer = sw.demo.pretrained(), sw.demo.few(5), sw.transfer
    with trace.on():
        transfer(model, data, data, strategy="linear_probe", epochs=1)


def settle(trace: Trace) -> None:
    """Let go of a slider in the explorer: exact bytes, and accuracy."""
    explorer = sw.explore(sw.demo.model(), sw.demo.data("valid"))
    explorer.wait()
    with trace.on():
        explorer.recipe = RECIPE
        explorer.wait()
    explorer.close()


CASES: Final[dict[str, Case]] = {
    case.__name__: case for case in (compress, save_and_load, evaluate, retrain, transfer, settle)
}


def main() -> None:
    """Print the table, or the files of the cases that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="case", help=f"one of {', '.join(CASES)}")
    asked = parser.parse_args().cases
    if unknown := set(asked) - CASES.keys():
        parser.error(f"unknown case {', '.join(sorted(unknown))}: choose from {', '.join(CASES)}")
    print("| call | files | functions |\n| --- | --- | --- |")
    for name in asked or CASES:
        trace = Trace()
        CASES[name](trace)
        found = trace.functions()
        print(f"| {CASES[name].__doc__} | {len(found)} | {sum(map(len, found.values()))} |")
        for path in sorted(found) if asked else ():
            print(f"  {path}: {', '.join(sorted(found[path]))}")


if __name__ == "__main__":
    main()
