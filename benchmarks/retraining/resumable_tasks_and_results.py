"""Results by cell, each written as soon as it is known, so that an interruption loses little."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ..machine_info_and_wait_for_calm import hardware

Cell = dict[str, Any]
SEPARATOR: Final = ",\n    "


@dataclass(frozen=True, slots=True)
class Task:
    """Work for one process, and what tells the cells apart that it returns."""

    work: Callable[..., list[Cell]]
    args: tuple[Any, ...]
    keys: tuple[Mapping[str, Any], ...]


class Store:
    """A JSON file of cells: what machine, what settings, and one entry a cell.

    A file made with other settings is refused: its cells are not those that are asked for.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        asked = json.loads(json.dumps(settings))
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if found is not None and found["settings"] != asked:
            raise SystemExit(f"{path} was made with other settings: move it away, or give another folder by --to")
        machine = hardware("torch", "numpy", "scikit-learn", "zstandard")
        self._about = found or {"machine": machine, "settings": asked, "wall seconds": 0, "summary": [], "cells": []}

    @property
    def cells(self) -> list[Cell]:
        found: list[Cell] = self._about["cells"]
        return found

    @property
    def summary(self) -> list[Cell]:
        found: list[Cell] = self._about["summary"]
        return found

    def close(self, summary: list[Cell], seconds: float) -> None:
        """Write what the cells say together; `seconds` are added to those of earlier runs of the same file."""
        self._about["summary"] = summary
        self._about["wall seconds"] = round(self._about["wall seconds"] + seconds)
        self._write()

    def lacks(self, key: Mapping[str, Any]) -> bool:
        return not any(all(cell.get(name) == value for name, value in key.items()) for cell in self.cells)

    def add(self, cells: Iterable[Cell]) -> None:
        self.cells.extend(cells)
        self.cells.sort(key=_place)
        self._write()

    def _write(self) -> None:
        rows = {
            name: [json.dumps(row, ensure_ascii=False) for row in self._about[name]] for name in ("summary", "cells")
        }
        head = {name: value for name, value in self._about.items() if name not in rows}
        text = json.dumps(head, indent=2, ensure_ascii=False).removesuffix("\n}")
        lists = (f'"{name}": [\n    {SEPARATOR.join(lines)}\n  ]' for name, lines in rows.items())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        part.write_text(",\n  ".join([text, *lists]) + "\n}\n", encoding="utf-8")
        part.replace(self._path)


def run(tasks: Iterable[Task], store: Store, jobs: int) -> None:
    """Do what the store lacks, in so many processes of one thread each; in this one where it is one."""
    due = [task for task in tasks if any(map(store.lacks, task.keys))]
    start = time.monotonic()
    if jobs == 1:
        for number, task in enumerate(due, 1):
            _take(store, task.work(*task.args), f"{number}/{len(due)}", start)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread) as pool:
        done = as_completed([pool.submit(task.work, *task.args) for task in due])
        for number, future in enumerate(done, 1):
            _take(store, future.result(), f"{number}/{len(due)}", start)


def mean_and_sd(values: Sequence[float], digits: int = 5) -> dict[str, Any]:
    """Return the mean and the standard deviation of a sample; of one value there is none."""
    sd = round(float(np.std(values, ddof=1)), digits) if len(values) > 1 else None
    return {"mean": round(float(np.mean(values)), digits), "sd": sd}


def _place(cell: Cell) -> tuple[str, ...]:
    return tuple(str(cell.get(name, "")).rjust(3) for name in ("network", "way", "method", "ratio", "seed", "fold"))


def _one_thread() -> None:
    torch.set_num_threads(1)


def _take(store: Store, cells: list[Cell], place: str, start: float) -> None:
    load = round(os.getloadavg()[0], 1)
    store.add({**cell, "load average": load} for cell in cells)
    for cell in cells:
        print(f"{time.monotonic() - start:6.0f} s {place}", _short(cell), flush=True)


def _short(cell: Cell) -> str:
    return ", ".join(f"{name} {value}" for name, value in cell.items() if not isinstance(value, list | dict))
