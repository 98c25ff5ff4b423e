"""A budget of speed: which narrower networks are so many times faster than the dense one, raced, and raced again.

Time is not counted, it is measured: of channels alone, as hardly any runtime computes faster with zeros or with fewer
bits. Of many contestants some win by luck, so that what was chosen by one race is told by another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

from torch import nn

from ..analysis.channel_families_and_counts import Channels
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, check
from ..compressed_model import compress
from ..errors import ArgumentError, quoted
from ..performance.race import Race, Ratio, race
from ..performance.runtimes import RUNTIMES
from ..recipe_and_method_registry import ChannelScope, Recipe

# few, as each is compressed, exported where the runtime asks for it, and timed a few hundred times
FRACTIONS: Final = (0.2, 0.4, 0.5, 0.6, 0.7, 0.8)
_LOOK_SECONDS: Final = 0.1  # how long a stop may go unnoticed
_DENSE: Final = "dense"
ADVICE: Final = "ask for less, or time a larger batch as example=…"
"""What to do where no network is fast enough."""

Width = tuple[float, ChannelScope]
"""What is left of a network: the fraction of channels that are gone, and how they were ranked."""


@dataclass(frozen=True, eq=False)
class SpeedTrials:
    """Races narrower networks against a dense one, in one runtime, on one example."""

    model: nn.Module
    channels: Channels
    example: object
    runtime: str
    stopped: Watch

    def __post_init__(self) -> None:
        if self.runtime not in RUNTIMES:
            known = ", ".join(map(quoted, RUNTIMES))
            raise ArgumentError(f"plan(runtime={quoted(self.runtime)}) must be one of {known}")

    def race(self, recipes: Mapping[str, Recipe]) -> Race:
        """Race the networks that recipes leave, by name, against the dense one, which is the first."""
        recipes = {_DENSE: Recipe(), **recipes}
        with TemporaryDirectory() as folder:
            contestants: dict[str, nn.Module | str] = {}
            for number, (name, recipe) in enumerate(recipes.items()):
                check(self.stopped)
                small = compress(self.model, recipe, example=self.channels)
                if self.runtime == "torch":
                    contestants[name] = cast(nn.Module, small.model)
                else:
                    path = Path(folder) / f"{number}{RUNTIMES[self.runtime].ending}"
                    small.export(path, example=self.example)
                    contestants[name] = str(path)
            run = race(contestants, self.example, runtime=self.runtime, background=True)
            while not run.wait(_LOOK_SECONDS):
                if self.stopped():
                    run.stop()
            check(self.stopped)
            return run.result

    def fast_enough(self, recipe: Recipe, scopes: Iterable[ChannelScope], wanted: float, asked: str) -> list[Width]:
        """Return which fractions of channels leave a network that is so many times faster, the smallest first.

        Raises:
            ArgumentError: if none does, saying how fast the fastest is.
        """
        widths: dict[str, Width] = {
            f"{100 * fraction:g} %, {scope}": (fraction, scope) for fraction in FRACTIONS for scope in scopes
        }
        found = self.race(
            {name: recipe.with_(channels=width, channel_scope=scope) for name, (width, scope) in widths.items()}
        )
        ratios = {name: found.ratio(name) for name in widths}
        fast = [width for name, width in widths.items() if ratios[name].low >= wanted]
        if not fast:
            raise ArgumentError(f"{asked}: {_fastest(found, ratios)}; {ADVICE}")
        return fast


def _fastest(found: Race, ratios: Mapping[str, Ratio]) -> str:
    fastest = max(ratios.values(), key=lambda ratio: ratio.low)
    # rounded down: 1.98 is too slow for twice as fast, and must not be told as 2.0
    value, low = (math.floor(100 * times) / 100 for times in (fastest.value, fastest.low))
    busy = f" ({found.warnings[0]})" if found.warnings else ""
    return (
        f"the fastest network that was raced is {value:.2f} times as fast as the dense one, {low:.2f} at the lower end "
        f"of the 95 % interval, which is what counts ({found.conditions}){busy}"
    )
