"""Who watches a training that blocks: the notebook it runs in, if there is one, else a bar in the terminal."""

from __future__ import annotations

from typing import Any

from ..compressed import Compressed
from .bar import finished
from .drive import trainer_of
from .job import Job
from .run import Run, host


class Watched:
    """One job that blocks: shown by the notebook it runs in, if there is one, where it can be paused and stopped."""

    def __init__(self, job: Job) -> None:
        show = host() if job.trains else None
        self._show = show
        self._run = None if show is None else Run(job)
        self._trainer = trainer_of(job) if show is None else None

    def result(self) -> Compressed:
        """Do the job, and return its result; interrupting it ends it before the next step."""
        if self._trainer is not None:
            return finished(self._trainer)
        assert self._run is not None
        assert self._show is not None
        self._show(self._run)
        self._run.start()
        try:
            self._run.wait()
        except KeyboardInterrupt:
            self._run.stop()
            self._run.wait()
            raise
        return self._run.result

    @property
    def history(self) -> list[dict[str, Any]]:
        """An entry for every epoch that is complete; see `Run.history`."""
        return self._run.history if self._run is not None else list(self._trainer.log.history if self._trainer else ())

    @property
    def stopped(self) -> bool:
        """Whether it was ended early by whoever watched it."""
        return self._run is not None and self._run.state == "stopped"


def watched(job: Job) -> Compressed:
    """Do a job, watched, and return its result."""
    return Watched(job).result()
