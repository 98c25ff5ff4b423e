"""How well sweeps use a cluster: the same points here and on two local workers, of Dask, beside what two processes get.

`python -m benchmarks.sweep_on_dask_workers` sweeps a ResNet-20 over random images, so many that a point takes 2 s or
more, and writes benchmarks/sweep.json. The target: at least 0.8 × as many times faster as there are workers, and the
same numbers, bit for bit. By wall time that is a property of the machine's load, too, of which two processes without
Dask tell what is possible; by CPU time, of what Dask adds to each point.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from distributed import Client, LocalCluster

import shrinkwidget as sw
from shrinkwidget.results import Sweep

from .machine_info_and_wait_for_calm import hardware
from .methods_compared import ResNet20

FILE: Final = Path(__file__).with_suffix(".json")
WORKERS: Final = 2
POINTS: Final = 12
TARGET: Final = 0.8


def subject(images: int) -> tuple[torch.nn.Module, Any]:
    """Return a network, and so many images."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    return ResNet20().eval(), (torch.rand(images, 3, 32, 32, generator=generator), torch.arange(images) % 10)


def recipes(n: int) -> list[sw.Recipe]:
    """Return so many recipes."""
    return [sw.Recipe(sparsity=0.3 + 0.6 * i / n, bits=4) for i in range(n)]


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what work returns, its wall seconds, and the CPU seconds of this process and its children."""
    before, start = os.times(), time.perf_counter()
    found = work()
    wall = time.perf_counter() - start
    after = os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    return found, wall, cpu


def in_process(images: int, some: list[sw.Recipe]) -> None:
    """Sweep, as one of two processes without Dask does."""
    torch.set_num_threads(1)
    model, data = subject(images)
    sw.sweep(model, some, data, workers=1, progress=False)


def same(one: Sweep, other: Sweep) -> bool:
    """Tell whether two sweeps have the same numbers, bit for bit."""
    return [replace(p, seconds=0.0) for p in one.points] == [replace(p, seconds=0.0) for p in other.points]


def main() -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--points", type=int, default=POINTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model, data = subject(given.images)
    asked = recipes(given.points)
    rows: dict[str, Any] = {}

    def sweep(**where: Any) -> Sweep:
        found: Sweep = sw.sweep(model, asked, data, progress=False, **where)
        return found

    here, alone, cpu = timed(lambda: sweep(workers=1))
    rows["here, one thread"] = {"wall": alone, "cpu": cpu}
    threads, wall, cpu = timed(lambda: sweep(workers=WORKERS))
    rows["here, two threads"] = {"wall": wall, "cpu": cpu, "same": same(here, threads)}
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        sw.sweep(model, asked[:WORKERS], (data[0][:64], data[1][:64]), client=client, progress=False)  # imports torch
        before = _cpu_of_workers(client)
        there, wall, cpu = timed(lambda: sweep(client=client))
        rows["Dask, two workers"] = {
            "wall": wall,
            "cpu": cpu + _cpu_of_workers(client) - before,
            "same": same(here, there),
        }
    context = multiprocessing.get_context("spawn")
    halves = [asked[i::WORKERS] for i in range(WORKERS)]
    processes = [context.Process(target=in_process, args=(given.images, half)) for half in halves]

    def both() -> None:
        for process in processes:
            process.start()
        for process in processes:
            process.join()

    _, wall, _ = timed(both)
    rows["two processes, without Dask"] = {"wall": wall}
    for row in rows.values():
        row["efficiency"] = round(alone / row["wall"] / WORKERS, 3)
        if "cpu" in row:  # of workers with a core each, which wait for nobody
            row["efficiency by CPU"] = round(rows["here, one thread"]["cpu"] / row["cpu"], 3)
        row |= {name: round(row[name], 2) for name in ("wall", "cpu") if name in row}
    result = {
        "machine": hardware("torch", "distributed"),
        "load": [round(x, 2) for x in os.getloadavg()],
        "model": f"ResNet-20, {given.images} images of 32×32",
        "points": given.points,
        "CPU seconds a point": round(rows["here, one thread"]["cpu"] / given.points, 2),
        "workers": WORKERS,
        "target": TARGET,
        "rows": rows,
    }
    FILE.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(result, indent=1, ensure_ascii=False))


def _cpu_of_workers(client: Client) -> float:
    return float(sum(client.run(_cpu).values()))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
