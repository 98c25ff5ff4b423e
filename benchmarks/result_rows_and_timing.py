"""What a benchmark says: a figure over repetitions, and a row that compares it with a target and an alternative."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Unit = Literal["ms", "s", "MB"]


@dataclass(frozen=True, slots=True)
class Figure:
    """Repetitions of one measurement, in its row's unit."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def p95(self) -> float:
        return float(np.percentile(self.values, 95))

    @property
    def worst(self) -> float:
        return max(self.values)

    def to_dict(self) -> dict[str, Any]:
        n = len(self.values)
        if n == 1:
            return {"value": round(self.values[0], 4), "n": 1}
        return {"median": round(self.median, 4), "p95": round(self.p95, 4), "worst": round(self.worst, 4), "n": n}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Args:
        what: what is measured.
        ours: what it was.
        unit: of all figures here.
        judged: whether median or p95 must be within `limit`.
        limit: the most it may be, if there is a target.
        against: what a user would otherwise use, and `theirs`, what that was.
        faster: the target of theirs / ours, at least; `smaller`: that of ours / theirs, at most.
        note: what one must know to believe the figures.
        more: further figures, for the JSON.
    """

    what: str
    ours: Figure
    unit: Unit
    judged: Literal["median", "p95"] = "median"
    limit: float | None = None
    against: str = ""
    theirs: Figure | None = None
    faster: float | None = None
    smaller: float | None = None
    note: str = ""
    more: dict[str, Any] | None = None

    @property
    def measured(self) -> float:
        return self.ours.median if self.judged == "median" else self.ours.p95

    @property
    def ratio(self) -> float | None:
        """How many times faster than the alternative, or what part of its bytes or time, as the target puts it."""
        if self.theirs is None:
            return None
        return self.ours.median / self.theirs.median if self.smaller else self.theirs.median / self.ours.median

    @property
    def met(self) -> bool | None:
        """Whether every target is met; None where there is none."""
        checks = [self.measured <= self.limit] if self.limit is not None else []
        if self.ratio is not None and self.faster is not None:
            checks.append(self.ratio >= self.faster)
        if self.ratio is not None and self.smaller is not None:
            checks.append(self.ratio <= self.smaller)
        return all(checks) if checks else None

    def to_dict(self) -> dict[str, Any]:
        target = {"at most": self.limit, "times faster": self.faster, "ratio at most": self.smaller}
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours.to_dict(),
            "judged by": self.judged,
            "target": {k: v for k, v in target.items() if v is not None} or None,
            "against": {"what": self.against, **self.theirs.to_dict()} if self.theirs else None,
            "ratio": None if self.ratio is None else round(self.ratio, 4),
            "met": self.met,
            "note": self.note,
            **({"more": self.more} if self.more else {}),
        }


ROOT = Path(__file__).parents[1]
SCALE = {"s": 1.0, "ms": 1e3}


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return how long one call took."""
    start = clock()
    work()
    return clock() - start


def timed(work: Callable[[], object], runs: int, unit: Literal["s", "ms"], calm: Callable[[], object]) -> Figure:
    """Return the times of some runs, after one that does not count; `calm` is called before each."""
    work()
    return side_by_side([work], runs, unit, calm)[0]


def side_by_side(
    works: Sequence[Callable[[], object]],
    runs: int,
    unit: Literal["s", "ms"],
    calm: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> list[Figure]:
    """Return the times of several works, run in turn (A B A B) so that a slow minute hits all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, found in zip(works, times, strict=True):
            calm()
            found.append(SCALE[unit] * seconds(work, clock))
    return [Figure(tuple(found)) for found in times]
