"""JSON from files that may be damaged or hostile, without the liberties of `json.loads`."""

from __future__ import annotations

import json
from typing import Any

from .errors import quoted


def parse(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Refused, too: a key that stands twice (readers disagree on which one counts), NaN and Infinity, and half of a
    surrogate pair, with which no file and no message could be written.

    Raises:
        ValueError: with a sentence about "it".
    """
    try:
        found = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_number)
        # JSON allows "\ud800" alone, which no UTF-8 can say: found by writing it out again.
        json.dumps(found, ensure_ascii=False).encode()
    except _Refused:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON ({error})") from error
    return found


class _Refused(ValueError):
    """What was refused here, and not by `json`."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"it has the key {quoted(key)} twice")
        found[key] = value
    return found


def _no_number(text: str) -> None:
    raise _Refused(f"it is not valid JSON ({text} is no number there)")
