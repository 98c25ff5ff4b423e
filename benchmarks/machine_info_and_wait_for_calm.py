"""What the figures were taken on, and whether anything else was running meanwhile."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.widget import find_or_install_chromium as chromium

CPU_INFO, CPU_TIMES = Path("/proc/cpuinfo"), Path("/proc/stat")
REST = 0.15
LOOK_SECONDS = 0.5


def hardware(*packages: str) -> dict[str, Any]:
    """Return the machine, and the versions of Python and of these packages."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def describe() -> dict[str, Any]:
    """Return the machine and the versions of what was measured."""
    return {
        **hardware("torch", "torchao", "jupyterlab", "ipykernel", "anywidget", "matplotlib"),
        "torch threads": torch.get_num_threads(),
        "node": _said("node", "--version"),
        "chromium": _said(chromium.find_or_get(), "--version"),
        "load average at start": [round(load, 2) for load in os.getloadavg()],
    }


def _cpu() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _said(*command: str) -> str:
    """Return the version in what a program says of itself."""
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((word.lstrip("v") for word in said.split() if word.lstrip("v")[:1].isdigit()), "unknown")


@dataclass(frozen=True, slots=True)
class _Ticks:
    busy: float
    total: float


def _ticks() -> _Ticks | None:
    if not CPU_TIMES.is_file():
        return None
    numbers = [float(word) for word in CPU_TIMES.read_text().splitlines()[0].split()[1:9]]
    idle = numbers[3] + numbers[4]
    return _Ticks(sum(numbers) - idle, sum(numbers))


@dataclass
class Calm:
    """Waits for other programs to rest before something is measured, and remembers what they used nevertheless.

    `patience`: seconds to wait in all. `shares`: of all cores, 0…1, used by others just before each measurement;
    empty where the system does not say.
    """

    patience: float
    shares: list[float] = field(default_factory=list)

    def __call__(self) -> None:
        """Wait until others leave the cores alone, or patience ends."""
        start = time.monotonic()
        while (share := _foreign_share()) is not None and share > REST:
            if time.monotonic() - start > self.patience:
                break
        self.patience = max(0.0, self.patience - (time.monotonic() - start))
        if share is not None:
            self.shares.append(share)

    def to_dict(self) -> dict[str, Any]:
        return {
            "times looked": len(self.shares),
            "median": round(float(np.median(self.shares)), 3) if self.shares else None,
            "most": round(max(self.shares), 3) if self.shares else None,
        }


def _foreign_share() -> float | None:
    """Return the share of all cores in use while this program sleeps."""
    before = _ticks()
    time.sleep(LOOK_SECONDS)
    after = _ticks()
    if before is None or after is None:
        return None
    return (after.busy - before.busy) / max(1.0, after.total - before.total)
