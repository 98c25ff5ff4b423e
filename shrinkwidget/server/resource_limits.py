"""What looking at checkpoints may take of the server's machine: its administrator's limits, a page's within them."""

from __future__ import annotations

from typing import Final

from traitlets import Int
from traitlets.config import Configurable

LEAST_MEMORY: Final = 2 * 2**30
"""Torch alone takes 1 GB of addresses."""


class ShrinkwidgetLimits(Configurable):
    """Limits in the server's configuration, such as ``c.ShrinkwidgetLimits.memory = 16 * 2**30``.

    A page may ask for less, as its user's settings say, and never gets more.
    """

    memory = Int(
        8 * 2**30, min=LEAST_MEMORY, help="Bytes of memory that the process that looks at one checkpoint may address."
    ).tag(config=True)
    seconds = Int(3600, min=1, help="Seconds after which looking at one checkpoint ends, pauses included.").tag(
        config=True
    )
    at_once = Int(2, min=1, help="Checkpoints looked at together; others wait for their turn.").tag(config=True)

    def memory_for(self, asked: str | None) -> int:
        """Return the bytes that a page gets which asks for so many; None asks for no limit of its own.

        Raises:
            ValueError: if what is asked for is no whole number.
        """
        return max(LEAST_MEMORY, _within(asked, self.memory, "memory"))

    def seconds_for(self, asked: str | None) -> int:
        """Return the seconds that a page gets which asks for so many.

        Raises:
            ValueError: if what is asked for is no whole number.
        """
        return max(1, _within(asked, self.seconds, "seconds"))


def _within(asked: str | None, most: int, name: str) -> int:
    if asked is None:
        return most
    if not (asked.isascii() and asked.isdigit() and len(asked) < 20):
        raise ValueError(f"{name} must be a whole number, not {asked[:40]!r}")
    return min(int(asked), most)
