"""What is measured in processes of its own: the import, and the first explorer of a kernel."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from jupyter_client.manager import start_new_kernel

from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import ROOT, Figure, Row, side_by_side

OURS, THEIRS = "import shrinkwidget", "import torch, anywidget, matplotlib"
IMPORTS = 9
KERNELS, LATER = 3, 5

EXPLORE = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
import shrinkwidget as sw
from benchmarks.benchmark_models import resnet50
model = resnet50()
times = []
for _ in range(1 + {LATER}):
    start = time.perf_counter()
    ex = sw.explore(model)
    times.append(time.perf_counter() - start)
    ex.wait()
    ex.close()
print(times)
"""


def rows(calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    ours, theirs = side_by_side([partial(_python, OURS), partial(_python, THEIRS)], IMPORTS, "s", calm)
    yield Row(OURS, ours, "s", against=THEIRS, theirs=theirs, smaller=1.15, note="fresh processes, in turn")
    kernels = []
    for _ in range(KERNELS):
        calm()
        kernels.append(_kernel(EXPLORE))
    words = "sw.explore(model) returns, 25.5 M weights"
    yield Row(f"{words}, first of a kernel", Figure(tuple(t[0] for t in kernels)), "s", limit=0.5)
    yield Row(f"{words}, later ones", Figure(tuple(s for t in kernels for s in t[1:])), "s", limit=0.5)


def _python(code: str) -> None:
    # as installed: what compiling our source takes is paid once, by the first import or by pip
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=env)


def _kernel(code: str) -> list[float]:
    """Run code in a new kernel and return the numbers it prints."""
    manager, client = start_new_kernel(stderr=subprocess.DEVNULL)
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream":
            said.append(message["content"]["text"])
        elif message["msg_type"] == "error":
            raise RuntimeError("\n".join(message["content"]["traceback"]))

    try:
        client.execute_interactive(code, output_hook=hear, timeout=300)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    times: list[float] = ast.literal_eval("".join(said))
    return times
