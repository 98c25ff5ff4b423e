"""JSON from files that may be damaged or hostile, without the liberties of `json.loads`."""

from __future__ import annotations

import json
from collections import Counter
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
        text = text.decode() if isinstance(text, bytes) else text
        found = json.loads(text, object_pairs_hook=_no_key_twice, parse_constant=_no_number)
        # JSON allows "\ud800" alone, which no UTF-8 can say: found by writing it out again, where there may be one.
        if not text.isascii() or "\\ud" in text.lower():
            json.dumps(found, ensure_ascii=False).encode()
    except _Refused:
        raise
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is not valid JSON ({error})") from error
    return found


class _Refused(ValueError):
    """What was refused here, and not by `json`."""


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise _Refused(f"it has the key {quoted(twice)} twice")
    return found


def _no_number(text: str) -> None:
    raise _Refused(f"it is not valid JSON ({text} is no number there)")
