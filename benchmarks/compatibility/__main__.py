"""`python -m benchmarks.compatibility [NAME …]`: try every architecture, write docs/compatibility.md."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from .architectures import architectures
from .checks import RECIPES, STEPS, Row, check

PAGE: Final = Path(__file__).parents[2] / "docs" / "compatibility.md"
LIBRARIES: Final = ("torch", "transformers", "timm")


def main() -> int:
    """Check those named, or all; only a full run writes the page. The exit code tells whether anything is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compatibility", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="part of an architecture's name")
    names = parser.parse_args().names
    warnings.simplefilter("ignore")  # of the models that are tried, which are not ours to mend
    rows = []
    for architecture in architectures():
        if names and not any(name.lower() in architecture.name.lower() for name in names):
            continue
        start = time.perf_counter()
        row = check(architecture)
        rows.append(row)
        print(f"{architecture.name:36}", *(f"{row.verdicts[step]:5}" for step in STEPS), end=" ")
        print(f"{time.perf_counter() - start:.1f} s", flush=True)
        for step, reason in row.reasons.items():
            if row.verdicts[step] not in ("yes", "–"):
                print(f"    {step}: {reason}")
    if not names:
        PAGE.write_text(page(rows), encoding="utf-8")
    return int(any("WRONG" in row.verdicts.values() for row in rows))


def page(rows: Sequence[Row]) -> str:
    """Return the page: what was tried, the table, and the reason of every "no"."""
    notes: dict[str, int] = {}
    body = "\n".join(_line(row, notes) for row in rows)
    explained = "\n".join(f"{number}. {reason}" for reason, number in notes.items())
    recipes = "; ".join(RECIPES)
    return f"""# Compatibility

Made by `make compatibility` with {_versions()}; random weights, on the CPU. {len(rows)} architectures × {len(RECIPES)}
recipes ({recipes}).

A "yes" is a result that was checked, not only one without an error:

* **summary** counts multiply-accumulates, and the bytes of the plain file as safetensors writes them;
* **sketch** estimates the bytes of every recipe's file;
* **compress** leaves the outputs alone where the recipe does nothing, and gives no NaN elsewhere;
* **save** writes `nbytes` bytes;
* **load** into a freshly built model gives the compressed model's outputs, bit for bit;
* **evaluate** agrees with a loop written out, and for language models with the model's own loss;
* **retrain** holds the masks, and its file loads to the same outputs;
* **fold** gives equal outputs;
* **transfer** trains a new head for three classes.

The user's model is compared before and after. "–" does not apply: no batch norm, or no classes of examples.

| architecture | library | layers | parameters | {" | ".join(STEPS)} |
| --- | --- | ---: | ---: | {" | ".join(["---"] * len(STEPS))} |
{body}

{explained or "Every step is a yes."}
"""


def _line(row: Row, notes: dict[str, int]) -> str:
    cells = [row.architecture.name, row.architecture.library, f"{row.layers}", f"{row.parameters:,}"]
    for step in STEPS:
        verdict, reason = row.verdicts[step], row.reasons.get(step)
        note = ""
        if reason and verdict != "–":
            note = f" [{notes.setdefault(f'{step}: {reason}', len(notes) + 1)}]"
        cells.append(verdict + note)
    return "| " + " | ".join(cells) + " |"


def _versions() -> str:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return ", ".join(found)


if __name__ == "__main__":
    sys.exit(main())
