"""Joules, where a counter of the machine really moves; never from a table of watts.

Since CVE-2020-8694 only root may read RAPL's counters on most systems; virtual machines have none, or constant ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

POWERCAP: Final = Path("/sys/class/powercap")
_LEAST_SECONDS: Final = 1.0
"""RAPL counts in steps of about 1 ms and 61 µJ: a second tells single runs to a thousandth."""


class EnergyCounter:
    """The packages' counters of Linux's powercap (RAPL), in joules; a domain inside a package is part of it."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._packages = [path for path in sorted(folder.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._last: dict[Path, int] = {}
        self._turns: dict[Path, int] = {}

    def joules(self) -> float | None:
        """Return the joules of all packages since some moment; None where they cannot be read."""
        if not self._packages:
            return None
        total = 0
        try:
            for package in self._packages:
                now = int((package / "energy_uj").read_text())
                if now < self._last.get(package, 0):  # the counter has come to its end, and began at zero
                    whole = int((package / "max_energy_range_uj").read_text())
                    self._turns[package] = self._turns.get(package, 0) + whole
                self._last[package] = now
                total += now + self._turns.get(package, 0)
        except (OSError, ValueError):  # only root may read it
            return None
        return total / 1e6

    def per_run(self, run: Callable[[], Any], seconds: float = _LEAST_SECONDS) -> float | None:
        """Return the joules of one run, by the whole machine, idle parts and others' work included.

        None where no counter can be read, and where it stands still while a core is busy: some virtual machines show
        one that is constant.
        """
        start, began, runs = self.joules(), time.perf_counter(), 0
        if start is None:
            return None
        while runs < 3 or time.perf_counter() - began < seconds:
            run()
            runs += 1
        end = self.joules()
        return (end - start) / runs if end is not None and end > start else None
