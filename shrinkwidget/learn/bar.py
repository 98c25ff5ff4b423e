"""A training in a script: it blocks, and a bar tells how far it is."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import Final

from tqdm import tqdm

from ..compressed import Compressed
from .claim import claimed
from .drive import AnyTrainer
from .progress import Progress

_LINE_SECONDS: Final = 15.0


def finished(trainer: AnyTrainer) -> Compressed:
    """Train to the end behind a progress bar, and return the result; outside a terminal a line tells now and then."""
    told = time.monotonic()
    # closed at once when it is interrupted: the traceback would keep it as it is, in the middle of something
    with (
        claimed(trainer.job.model),
        closing(trainer.steps()) as steps,
        tqdm(total=0, unit="step", disable=None, leave=False, dynamic_ncols=True) as bar,
    ):
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                result: Compressed = end.value
                return result
            _show(bar, progress)
            if bar.disable and time.monotonic() - told > _LINE_SECONDS:
                told = time.monotonic()
                sys.stderr.write(f"{_where(progress)}: {', '.join(_figures(progress))}\n")


def _show(bar: tqdm[None], now: Progress) -> None:
    if bar.disable:
        return
    bar.total = None if now.steps is None else now.rounds * now.epochs * now.steps
    if now.phase == "train":
        bar.update()
    bar.set_description(_where(now), refresh=False)
    bar.set_postfix_str(", ".join(_figures(now)), refresh=False)


def _where(now: Progress) -> str:
    rounds = f"round {now.round}/{now.rounds}, " if now.rounds > 1 else ""
    return f"{rounds}epoch {now.epoch}/{now.epochs}"


def _figures(now: Progress) -> list[str]:
    figures = [f"{now.sparsity:.1%} sparse"]
    if now.loss is not None:
        figures.append(f"loss {now.loss:.3f}")
    if now.test is not None:
        figures.append(f"test {now.test.metric} {now.test.text}")
    return figures
