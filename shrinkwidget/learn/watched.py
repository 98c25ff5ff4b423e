"""Who watches a training that blocks: the notebook it runs in, if there is one, else a bar in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ..compressed import Compressed
from .bar import finished
from .drive import trainer_of
from .job import Job
from .run import Run

Show: TypeAlias = Callable[[Run], object]
"""Puts a run before the user's eyes, and returns."""

_hosts: list[Callable[[], Show | None]] = []


def host_with(host: Callable[[], Show | None]) -> None:
    """Ask `host`, before every training that blocks, how to show it; it returns None where it cannot.

    So the engine is watched in a notebook, and knows of none.
    """
    _hosts.append(host)


def watched(job: Job) -> Compressed:
    """Do a job, watched, and return its result; interrupting it ends it before the next step."""
    show = next((found for host in _hosts if (found := host()) is not None), None)
    if show is None or not job.trains:
        return finished(trainer_of(job))
    run = Run(job)
    show(run)
    run.start()
    try:
        run.wait()
    except KeyboardInterrupt:
        run.stop()
        run.wait()
        raise
    return run.result
