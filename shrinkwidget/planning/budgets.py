"""Budgets as people write them: 64000, "64 kB", "10x", "12 %", "0.5 points", "20 kB and 50 % MACs"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast

from ..argument_checks import plain
from ..errors import ArgumentError, nearest, quoted

Measure: TypeAlias = Literal["file", "download", "macs", "ram", "speed", "points"]

UNITS: Final[dict[Measure, str]] = {"macs": "multiply-accumulates", "ram": "bytes of RAM"}
"""What is counted, in words, of what depends on the channels alone."""

_UNITS: Final = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
    "MACs": 1, "kMACs": 10**3, "MMACs": 10**6, "GMACs": 10**9,
}  # fmt: skip
_BYTES_IN_SHORT: Final = {"k": 10**3, "M": 10**6, "G": 10**9}
_RATIO: Final = ("x", "×", "x smaller", "× smaller", "times smaller")
_POINTS: Final = ("point", "points")
_LATENCY: Final = ("s", "ms", "µs", "us", "fps", "seconds", "milliseconds")


@dataclass(frozen=True, slots=True)
class Budget:
    """A budget: so many of what is measured, or a share of what the dense model has.

    `measure`: ``"file"`` and ``"download"`` are bytes, of the packed and of the entropy-coded file; ``"macs"`` are
    multiply-accumulates; ``"ram"`` are bytes of weights as they run and of activations; ``"speed"`` is how many
    times faster it has to be; ``"points"`` are what may be lost of an accuracy, in percentage points.
    """

    measure: Measure
    amount: float | None
    share: float | None = None

    def of(self, dense: int) -> int:
        """Return the budget as a whole number; `dense` is what the dense model has."""
        return math.floor(dense * self.share if self.share is not None else self.amount or 0)


def parse_budget(given: Any, measure: str = "file", where: str = "plan(budget={})") -> Budget:
    """Return the budget that a number or a text means; `where` is what messages call it, "{}" what was given.

    >>> parse_budget("64 kB"), parse_budget("10x").of(700_000)
    (Budget(measure='file', amount=64000, share=None), 70000)

    Raises:
        ArgumentError: for what is no budget, naming the units there are.
    """
    if measure not in ("file", "download"):
        raise ArgumentError(
            f"plan(of={quoted(measure)}) must be 'file', the bytes of the packed file, or 'download', those of the "
            f"entropy-coded one{nearest(str(measure), ('file', 'download'))}"
        )
    given = plain(given)
    of_text = isinstance(given, str | int | float)
    where = where.format(quoted(given) if of_text else f"<{type(given).__name__}>")  # a module's repr fills a screen
    number, unit = _parts(given, where)
    bytes_of = cast(Measure, measure)
    if unit in (*_RATIO, "%"):
        return Budget(bytes_of, None, share=number / 100 if unit == "%" else 1 / number)
    if unit in ("x faster", "× faster", "times faster"):
        if number <= 1:
            raise ArgumentError(f"{where} must be more than once as fast: write '2x faster'")
        return Budget("speed", number)
    if unit in _POINTS:
        return Budget("points", number)
    if of := re.fullmatch(r"% ?(?:of )?(?:the )?(MACs|RAM)", unit, re.IGNORECASE):
        return Budget("macs" if of[1].casefold() == "macs" else "ram", None, share=number / 100)
    if of := re.fullmatch(r"(\w+) ?(?:of )?RAM", unit, re.IGNORECASE):
        factors = {name.casefold(): factor for name, factor in _UNITS.items() if name.endswith("B")}
        if factor := factors.get(of[1].casefold()):
            return Budget("ram", number * factor)
    for name, factor in (_UNITS | _BYTES_IN_SHORT).items():
        if unit.replace(" ", "").casefold() == name.casefold():
            return Budget("macs" if name.endswith("MACs") else bytes_of, number * factor)
    if unit in _LATENCY:
        raise ArgumentError(
            f"{where}: a time is that of one machine at one moment, and no plan can promise one: write how many times "
            f"faster than the dense model it has to be, '2x faster', which is measured with sw.race"
        )
    raise ArgumentError(f"{where} has the unknown unit {quoted(unit)}{nearest(unit, _UNITS) or f'; {_EXAMPLES}'}")


_EXAMPLES: Final = "write '64 kB', '10x' or '50 % MACs' (docs/plan.md has all forms)"


def parse_budgets(given: Any, measure: str = "file") -> tuple[Budget | None, tuple[Budget, ...]]:
    """Return the budget of bytes or points, if there is one, and what depends on the channels alone.

    >>> parse_budgets("20 kB and 50 % MACs")[1]
    (Budget(measure='macs', amount=None, share=0.5),)

    Raises:
        ArgumentError: see `parse_budget`, and for several that do not go together.
    """
    written = re.split(r"\s+and\s+", given) if isinstance(given, str) else [given]
    found = [parse_budget(one, measure) for one in written]
    limits = tuple(budget for budget in found if budget.measure in (*UNITS, "speed"))
    others = [budget for budget in found if budget not in limits]
    where = f"plan(budget={quoted(given)})"
    for measure in dict.fromkeys(budget.measure for budget in found):
        if len(twice := [text for text, one in zip(written, found, strict=True) if one.measure == measure]) > 1:
            both = " and ".join(map(quoted, twice))
            speed = " (a speed is written '2x faster')" if any(text.endswith(("x", "×")) for text in twice) else ""
            raise ArgumentError(
                f"{where}: {both} cannot be combined, as both bound {_BOUNDED[measure]}: give the tighter one{speed}"
            )
    if len(others) > 1:
        raise ArgumentError(
            f"{where}: bytes and points cannot be combined, as points ask for the smallest file that loses no more "
            f"accuracy, whatever its bytes: give one of them"
        )
    if limits and others and others[0].measure != "file":
        raise ArgumentError(
            f"{where}: multiply-accumulates, RAM and speed go with bytes of the packed file "
            f"alone: plan for them first, and give what comes of it as recipe=…"
        )
    if len(limits) > 1 and any(budget.measure == "speed" for budget in limits):
        raise ArgumentError(f"{where}: a speed goes with bytes of the packed file, or alone")
    return (others[0] if others else None), limits


_BOUNDED: Final[dict[Measure, str]] = {
    **UNITS, "file": "the size of the file", "download": "the size of the file", "speed": "how fast it is",
    "points": "the accuracy that is lost",
}  # fmt: skip
"""What a budget says something of, in words."""

_THOUSANDS: Final = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


def _parts(given: Any, where: str) -> tuple[float, str]:
    """Return the number and the unit of a budget; a bare number is bytes."""
    text = str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given
    found = re.fullmatch(r"\s*([-+.\de_,]*?)\s*([^-+.\d_,\s].*?)?\s*", text) if isinstance(text, str) else None
    if found and "," in found[1] and not _THOUSANDS.fullmatch(found[1]):
        raise ArgumentError(  # in half of the world "64,5" is 64.5, which must not become 645
            f"{where}: a comma separates thousands, as in '64,000', and decimals have a point, as in '64.5 kB'"
        )
    try:
        number = float(found[1].replace(",", "").replace("_", "")) if found else math.nan
    except ValueError:
        number = math.nan
    if found is None or (math.isnan(number) and text != "nan"):
        raise ArgumentError(f"{where} is no budget: {_EXAMPLES}")
    if not 0 < number < math.inf:
        raise ArgumentError(f"{where} must be more than nothing: {_EXAMPLES}")
    unit = " ".join((found[2] or "B").split())
    if unit in _POINTS and number >= 100:
        raise ArgumentError(f"{where} must be less than 100 points: an accuracy has no more to lose")
    return int(number) if number == int(number) else number, unit
