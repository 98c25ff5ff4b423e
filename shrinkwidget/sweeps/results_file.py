"""The results file of a sweep: a line of JSON for the sweep, then one for every point, from which it goes on again."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .. import strict_json
from ..errors import FileError, a_type, quoted
from ..evaluation.evaluate_and_metrics import METRICS, Score
from ..files.atomic_write import to_disk
from ..training.checkpoint_and_fingerprint import described, digest, fingerprint
from .run_sweep_point import SweepJob, SweepPoint, Task

if sys.platform != "win32":
    import fcntl

FORMAT: Final = "shrinkwidget-sweep"
VERSION: Final = 1

_START: Final = f'{{"format": "{FORMAT}", '.encode()

_PARTS: Final = {
    "model": "another model, or other weights",
    "eval_data": "other evaluation data",
    "metric": "another metric",
    "rules": "another ignore_index or next_token",
    "method": "another method",
    "options": "other training options",
    "train_data": "other training data",
    "calibration": "other calibration data",
}
"""What a file's sweep may differ in, and how that is told. Recipes may: a sweep can be extended."""


@dataclass(frozen=True, slots=True)
class _Found:
    """What a file holds: the dense score, the points, and the bytes that are whole lines."""

    dense: Score
    draws: bool
    points: dict[Task, SweepPoint]
    whole: int


class ResultsFile:
    """A results file, open for one sweep: what it knows already, and where every new point is appended.

    A line is one write, and on the disk (fsync) before the next point is told. So a program that is killed leaves
    whole lines and at most the beginning of one, which is taken off when the file is opened again.

    Args:
        path: of the file; it is made where there is none.
        job: the sweep.

    Raises:
        FileError: for a file of another sweep, saying in what it differs; one that is no results file, is damaged, or
            is being written by another process; or a path that cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], job: SweepJob) -> None:
        if not isinstance(path, str | os.PathLike):
            raise FileError(f"results=… is {a_type(path)}: give a path, such as 'sweep.jsonl'")
        self.path = Path(path)
        self._of = identity(job)
        try:
            # unbuffered and appending: a line goes out in one write; O_BINARY is Windows', which would end it with
            # "\r\n"
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
        except OSError as error:
            missing = f"there is no folder {quoted(self.path.parent)}" if not self.path.parent.is_dir() else ""
            raise FileError(f"cannot write results to {quoted(path)}: {missing or error.strerror or error}") from error
        try:
            self._lock()
            self.dense: Score | None = None
            self.draws = False
            self.points: dict[Task, SweepPoint] = {}
            text = self.path.read_bytes()
            if b"\n" not in text and _START.startswith(text[: len(_START)]):
                os.truncate(self._file, 0)  # new, or of a program that was killed while it wrote the first line
            else:
                found = self._read(text)
                self.dense, self.draws, self.points = found.dense, found.draws, found.points
                os.truncate(self._file, found.whole)
        except BaseException:
            self.close()
            raise

    def begin(self, dense: Score, draws: bool) -> None:
        """Write the first line, once the dense model is scored."""
        self._append({"format": FORMAT, "version": VERSION, "of": self._of, "dense": dense.to_dict(), "draws": draws})

    def add(self, point: SweepPoint) -> None:
        """Append a point.

        Raises:
            FileError: if it cannot be written, such as to a full disk.
        """
        self._append(point.to_dict())

    def close(self) -> None:
        """Close the file, and let others write to it."""
        os.close(self._file)

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, ensure_ascii=False) + "\n").encode()
        try:
            # one write takes it all, unless a signal or a full disk cuts it short
            while data:
                data = data[os.write(self._file, data) :]
            to_disk(self._file)
        except OSError as error:
            raise FileError(f"cannot write results to {quoted(self.path)}: {error.strerror or error}") from error

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        try:
            # a lock of the open file ends with the process, however that ends; a lock file would stay behind
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(
                f"another sweep is writing to {quoted(self.path)}: wait for it, or choose another path"
            ) from error
        except OSError:  # a file system without locks
            pass

    def _read(self, text: bytes) -> _Found:
        whole = text.rfind(b"\n") + 1
        first, *lines = text[:whole].split(b"\n")[:-1] or [b""]
        try:
            head = strict_json.parse(first)
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise ValueError("it does not begin as one")
        except ValueError as error:
            raise FileError(
                f"{quoted(self.path)} is no results file of a sweep ({error}): choose another path"
            ) from error
        if head.get("version") != VERSION:
            raise FileError(
                f"{quoted(self.path)} is a results file of version {quoted(head.get('version'))}, and this is version "
                f"{VERSION}: choose another path"
            )
        differs = [words for part, words in _PARTS.items() if head["of"].get(part) != self._of[part]]
        if differs:
            raise FileError(
                f"{quoted(self.path)} holds results of another sweep, of {' and '.join(differs)}: choose another path"
            )
        points: dict[Task, SweepPoint] = {}
        for number, line in enumerate(lines, start=2):
            try:
                point = SweepPoint.from_dict(strict_json.parse(line))
            except (ValueError, TypeError, KeyError) as error:
                why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
                raise FileError(
                    f"line {number} of {quoted(self.path)} is damaged ({why}): delete it, and its point is done again"
                ) from error
            # later lines win: what failed once may have been done since
            points[point.task] = point
        # what failed is tried again: a worker may have died of another program's hunger
        done = {task: point for task, point in points.items() if not point.error}
        return _Found(Score.from_dict(head["dense"]), bool(head["draws"]), done, whole)


def identity(job: SweepJob) -> dict[str, str]:
    """Return what tells a sweep from another: short texts, equal in another process."""
    metric = "" if METRICS.get(job.metric.name) is job.metric else digest(fingerprint(job.metric))
    method = job.method if isinstance(job.method, str | None) else described(job.method)
    return {
        "model": f"{type(job.model).__name__} {job.checksum or digest(fingerprint(job.model))}",
        "eval_data": digest([fingerprint(job.eval_data), job.batch_size]),
        "metric": f"{job.metric.name} {metric}",
        "rules": repr(job.rules),
        "method": digest([method, job.recovery]),
        "options": digest(described(job.options, "seed", "metric", "ignore_index", "next_token")),
        "train_data": digest(fingerprint(job.train_data)),
        "calibration": digest([fingerprint(job.calibration), fingerprint(job.example)]),
    }
