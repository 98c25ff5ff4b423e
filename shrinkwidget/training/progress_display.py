"""Show a training that blocks: in the notebook it runs in, else as a progress bar or as lines on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from typing import Any, Final

from tqdm import tqdm

from .background_run import AnySpec, AnyTrainer, TrainingRun, find_display, locked_model, make_trainer
from .progress import Progress, duration

_LINE_SECONDS: Final = 10.0
"""Between two lines about complete epochs."""
_LONG_SECONDS: Final = 60.0
"""After so long within an epoch a line tells that it goes on."""
_PLAN_SECONDS: Final = 1.0
_PLAN_STEPS: Final = 20
"""After so many seconds or steps the time that a training takes is known well enough to say it."""


def run_with_progress_bar(trainer: AnyTrainer, progress: bool = True) -> Any:
    """Train to the end and return the result; with `progress`, tell on stderr what it takes and how far it is."""
    # closed at once when it is interrupted: the traceback would keep it as it is, in the middle of something
    with (
        locked_model(trainer.spec.model),
        closing(trainer.steps()) as steps,
        tqdm(total=0, unit="step", disable=None if progress else True, leave=False, dynamic_ncols=True) as bar,
    ):
        teller = _Teller(type(trainer.spec.model).__name__, bar) if progress else None
        while True:
            try:
                now = next(steps)
            except StopIteration as end:
                if teller is not None:
                    teller.end()
                return end.value
            if teller is not None:
                teller.tell(now)


class _Teller:
    """Says once what a training takes, then how far it is: in the bar, or in lines where there is no terminal."""

    def __init__(self, title: str, bar: tqdm[None]) -> None:
        self._title, self._bar = title, bar
        self._began = self._told = time.monotonic()
        self._first_step: float | None = None
        self._steps = 0
        self._planned = False
        self._last: Progress | None = None

    def tell(self, now: Progress) -> None:
        """Take note of progress, and tell what is due."""
        last, self._last = self._last, now
        if now.phase == "train":
            self._steps += 1
            self._first_step = self._first_step or time.monotonic()
            self._plan(now)
        if not self._bar.disable:
            self._show(now)
        elif last is not None and last.epoch and (last.round, last.epoch) != (now.round, now.epoch):
            self._line(last, _LINE_SECONDS)
        else:
            self._line(now, _LONG_SECONDS)

    def end(self) -> None:
        """Tell what came of it."""
        if self._bar.disable and self._last is not None:
            seconds = duration(time.monotonic() - self._began)
            sys.stderr.write(f"{self._last.place}: {', '.join(_figures(self._last))}, done in {seconds}\n")

    def _plan(self, now: Progress) -> None:
        assert self._first_step is not None
        known = self._steps >= _PLAN_STEPS or time.monotonic() - self._first_step >= _PLAN_SECONDS
        if self._planned or not (known or now.step == now.steps):
            return
        self._planned = True
        about = "" if now.eta is None else f", about {duration(now.eta)}"
        tqdm.write(f"training {self._title}: {now.plan}{about}", file=sys.stderr)

    def _line(self, now: Progress, after: float) -> None:
        if time.monotonic() - self._told >= after:
            self._told = time.monotonic()
            left = "" if not now.eta else f", about {duration(now.eta)} left"
            sys.stderr.write(f"{now.place}: {', '.join(_figures(now))}{left}\n")

    def _show(self, now: Progress) -> None:
        self._bar.total = None if now.steps is None else now.rounds * now.epochs * now.steps
        if len(set(now.epochs_by_round)) > 1:
            self._bar.total = None  # nobody knows yet how many steps the other stages have
        if now.phase == "train":
            self._bar.update()
        self._bar.set_description(now.place, refresh=False)
        self._bar.set_postfix_str(", ".join(_figures(now)), refresh=False)


def _figures(now: Progress) -> list[str]:
    figures = [f"{now.sparsity:.1%} sparse"]
    if now.loss is not None:
        figures.append(f"loss {now.loss:.3f}")
    if now.test is not None:
        figures.append(f"validation {now.test.metric} {now.test.text}")
    return figures


def run_displayed(spec: AnySpec, progress: bool = True) -> Any:
    """Do a spec, and return its result; interrupting it ends it before the next step.

    It is shown by the notebook it runs in, where it can be paused and stopped, else by a bar or lines on stderr; by
    nothing at all without `progress`.
    """
    show = find_display() if progress else None
    if show is None or not spec.trains:
        # what does not train is over in one pass: lines about epochs would only clutter a notebook
        return run_with_progress_bar(make_trainer(spec), progress and show is None)
    run: TrainingRun[Any] = TrainingRun(spec)
    show(run)
    run.start()
    try:
        run.wait()
    except KeyboardInterrupt:
        run.stop()
        run.wait()
        raise
    return run.result
