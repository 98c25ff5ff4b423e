"""The monitor of a training: its curves while it lasts, pause, resume and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import traitlets as t

from ..errors import TrainingError
from ..retrain.run import Run
from ..train.metrics import resolve
from .hosted import Hosted, built, kernel_owned, metric_dict, sentence
from .worker import Pace

_TELL_SECONDS: Final = 0.25
_STILL_SECONDS: Final = 5.0


class Monitor(Hosted):
    """Shows a `Run` while it lasts, and pauses, resumes and stops it. Make it with `monitor`.

    It only looks on: closing it does not end the run.
    """

    _esm = built("monitor.js")
    _css = built("monitor.css")

    _title = kernel_owned(t.Unicode())
    _method = kernel_owned(t.Unicode())
    _metric = kernel_owned(t.Dict())
    _state = kernel_owned(t.Unicode("ready"))
    _progress = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _curves = kernel_owned(t.Dict())
    _points = kernel_owned(t.List())
    _baseline = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _error = kernel_owned(t.Unicode())

    def __init__(self, run: Run) -> None:
        job = run.job
        self.run = run
        self._pace = Pace(_TELL_SECONDS)
        self._lasting = Pace(_STILL_SECONDS, at_once=False)
        super().__init__(
            _title=type(job.model).__name__,
            _method=job.regime(len(job.recipes) - 1, job.stage.epochs),
            _metric=metric_dict(resolve(job.options.metric)),
            _curves=curves([], job.stage.epochs),
        )
        self.on_msg(self._on_command)
        self._forget: Callable[[], None] = run.observe(self._on_run)
        self._show()

    def close(self) -> None:
        """Leave the page; the run goes on."""
        self._forget()
        self._refresh_still()
        super().close()

    def _on_run(self, run: Run) -> None:
        """Hear of every step, on the run's thread; speak a few times a second, and of every change of state."""
        if run.state != self._state or self._pace.due():
            self._show()
        if run.over or self._lasting.due():
            self._refresh_still()

    def _show(self) -> None:
        run = self.run
        with self.hold_sync():
            self._tell(
                _progress=None if run.progress is None else run.progress.to_dict(),
                _baseline=run.baseline,
                _points=run.points,
                _error="" if run.error is None else sentence(run.error),
                _state=run.state,
            )
            history = run.history
            if len(history) != len(self._curves["at"]):
                self._tell(_curves=curves(history, run.job.stage.epochs))

    def _on_command(self, _widget: object, content: Any, _buffers: object) -> None:
        """Do what a button asks for: each of these only leaves word, and returns."""
        what = content.get("do") if isinstance(content, Mapping) else None
        commands = {"pause": self.run.pause, "resume": self.run.resume, "stop": self.run.stop}
        if what in commands:
            commands[what]()

    def _still(self) -> dict[str, Any]:
        from ..figures.training import describe_training, training_still

        shown = {name: getattr(self, f"_{name}") for name in ("title", "method", "metric", "progress", "curves")}
        shown |= {"points": self._points, "baseline": self._baseline, "state": self._state}
        return {"image/png": training_still(shown), "text/plain": describe_training(shown)}

    def __repr__(self) -> str:
        return f"Monitor({self.run!r})"


_COLUMNS: Final = ("loss", "train", "lr", "sparsity")
_SCORES: Final = {"test": "value", "low": "low", "high": "high"}


def curves(history: list[dict[str, Any]], epochs: int) -> dict[str, list[Any]]:
    """Return a run's history by columns; "at" counts epochs through all rounds, each of so many epochs, from 1."""
    columns: dict[str, list[Any]] = {"at": [(row["round"] - 1) * epochs + row["epoch"] for row in history]}
    for name in _COLUMNS:
        columns[name] = [row[name] for row in history]
    for name, part in _SCORES.items():
        columns[name] = [row["test"] and row["test"][part] for row in history]
    return columns


def monitor(run: Run) -> Monitor:
    """Watch a training in the notebook: put the result last in a cell.

    Raises:
        TrainingError: for what is no `Run`.
    """
    if not isinstance(run, Run):
        raise TrainingError(
            f"cannot watch a {type(run).__name__}: give the Run that retrain(…, background=True) returns"
        )
    return Monitor(run)
