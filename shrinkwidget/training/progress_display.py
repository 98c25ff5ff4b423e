"""Who watches a training that blocks: the notebook it runs in, if there is one, else a bar in the terminal."""

from __future__ import annotations

from typing import Any

from .make_trainer import AnyJob, make_trainer
from .progress_bar import run_with_progress_bar
from .training_run import TrainingRun, host


def run_displayed(spec: AnyJob, progress: bool = True) -> Any:
    """Do a spec, and return its result; interrupting it ends it before the next step.

    It is shown by the notebook it runs in, where it can be paused and stopped, else by a bar or lines on stderr; by
    nothing at all without `progress`.
    """
    show = host() if progress and spec.trains else None
    if show is None:
        return run_with_progress_bar(make_trainer(spec), progress)
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
