"""How far `sw.race` can be trusted on a loaded machine: 40 A/A races, a model against itself, beside naive timing.

`python -m benchmarks.race_against_itself` starts busy loops of its own, and writes benchmarks/race.json. The targets:
95 % of the intervals contain 1, and the ratios have a standard deviation of 3 % at most.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

import shrinkwidget as sw
from shrinkwidget.performance.race import processor_name

RESULTS: Final = Path(__file__).with_name("race.json")
RACES: Final = 40
LOOPS: Final = 2
BATCHES: Final = (1, 32)
NAIVE_RUNS: Final = 30
COVERAGE: Final = 0.95
DEVIATION: Final = 0.03


@contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep so many processes busy beside whatever is measured."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_spin, daemon=True) for _ in range(loops)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    values = np.random.default_rng(0).random((300, 300))
    parent = os.getppid()
    while os.getppid() == parent:  # whoever kills the benchmark ends this as well
        values @ values


def naive(model: torch.nn.Module, x: torch.Tensor) -> float:
    """Return what timing 30 runs of a model, and then 30 of itself, by the wall clock, makes of it."""
    seconds = []
    with torch.inference_mode():
        model(x)
        for _ in range(2):
            start = time.perf_counter()
            for _ in range(NAIVE_RUNS):
                model(x)
            seconds.append(time.perf_counter() - start)
    return seconds[0] / seconds[1]


def main() -> None:
    """Race a model against itself again and again, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--races", type=int, default=RACES, help="half of them at each batch size")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, rng = sw.demo.model().eval(), torch.Generator().manual_seed(0)
    x = torch.rand(32, 1, 8, 8, generator=rng)
    rows: list[dict[str, Any]] = []
    start = time.time()
    with busy(LOOPS):
        for i in range(given.races):
            batch = BATCHES[i % len(BATCHES)]
            options: dict[str, Any] = {"batch": batch, "seed": i, "progress": False}
            found = sw.race({"dense": model, "the same": model}, x, **options)
            (at,) = found.batches
            same, plain = at.times[1], naive(model, x[:batch])
            rows.append(
                {
                    "batch": batch,
                    "rounds": at.rounds,
                    "load": at.load,
                    "cpu": [getattr(same.cpu, end) for end in ("value", "low", "high")],
                    "wall": [getattr(same.wall, end) for end in ("value", "low", "high")],
                    "naive wall": plain,
                    "too busy": bool(found.warnings),
                }
            )
            print(
                f"{i + 1}/{given.races} batch {batch}: {same.cpu and same.cpu.text}, naively {plain:.2f}×", flush=True
            )
    result = {
        "machine": {"cpu": processor_name(), "cores": os.cpu_count(), "torch": torch.__version__, "threads": 1},
        "busy loops": LOOPS,
        "wall seconds": round(time.time() - start),
        "model": "sw.demo.model() against itself",
        "seeds": f"0 … {given.races - 1}",
        "targets": {"coverage": COVERAGE, "sd": DEVIATION},
        "summary": {
            **{clock: summary([row[clock] for row in rows]) for clock in ("cpu", "wall")},
            "naive wall": {"sd": round(float(np.std([row["naive wall"] for row in rows], ddof=1)), 4)},
            "told as too busy": sum(row["too busy"] for row in rows),
            "load": [min(row["load"] for row in rows), max(row["load"] for row in rows)],
        },
        "races": rows,
    }
    given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


def summary(ratios: list[list[float]]) -> dict[str, Any]:
    """Return the spread of the ratios, and which share of the intervals contains 1, with Wilson's interval of that."""
    inside = sum(low <= 1 <= high for _, low, high in ratios)
    n, z = len(ratios), 1.96
    middle, half = inside + z * z / 2, z * math.sqrt(inside * (n - inside) / n + z * z / 4)
    ends = [round((middle + sign * half) / (n + z * z), 3) for sign in (-1, 1)]
    return {
        "sd": round(float(np.std([value for value, _, _ in ratios], ddof=1)), 4),
        "contain 1": f"{inside} of {len(ratios)}",
        "coverage": [round(inside / n, 3), *ends],
        "mean width": round(float(np.mean([high - low for _, low, high in ratios])), 4),
    }


if __name__ == "__main__":
    main()
