"""Who watches a training that blocks: the notebook it runs in, if there is one, else a bar in the terminal."""

from __future__ import annotations

from typing import Any

from .bar import finished
from .drive import AnyJob, trainer_of
from .run import Run, host


def watched(job: AnyJob, progress: bool = True) -> Any:
    """Do a job, and return its result; interrupting it ends it before the next step.

    It is shown by the notebook it runs in, where it can be paused and stopped, else by a bar or lines on stderr; by
    nothing at all without `progress`.
    """
    show = host() if progress and job.trains else None
    if show is None:
        return finished(trainer_of(job), progress)
    run: Run[Any] = Run(job)
    show(run)
    run.start()
    try:
        run.wait()
    except KeyboardInterrupt:
        run.stop()
        run.wait()
        raise
    return run.result
