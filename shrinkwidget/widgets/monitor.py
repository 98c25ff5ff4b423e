"""The monitor of a training: its curves while it lasts, pause, resume and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import traitlets as t
from IPython.display import display

from ..compressed_model import CompressedModel
from ..errors import ShrinkError, TrainingError, a_type, quoted, sentence
from ..evaluation.evaluate_and_metrics import Metric, resolve
from ..figures.monitor_snapshot_png import curves, values_of
from ..live_page import glossary_address
from ..training.methods_schedule_options_and_progress import FineTune, LearningRateRewinding, Method, Schedule
from ..training.retrain_and_training_run import TrainingRun
from .base_widget_and_snapshot import BaseWidget, built, kernel_owned
from .close_widgets_on_cell_rerun import replace_in_cell
from .figure_button import save_figure
from .keep_and_save import Exists, keep_in_notebook, keeps, save_to
from .worker_thread import Pace

_TELL_SECONDS: Final = 0.25
_SNAPSHOT_SECONDS: Final = 5.0
OFFER: Final = {"method": "fine-tune", "epochs": 10, "lr": 0.01, "optimizer": "sgd"}
"""What an offered training is set to at first."""


class Monitor(BaseWidget):
    """Shows a `TrainingRun` while it lasts, and pauses, resumes and stops it. Make it with `monitor`.

    It only looks on: closing it does not end the run. One that was made to `offer` a training asks how it shall go
    about it, and shows it once it has begun.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
        >>> monitor = sw.monitor(run)
        >>> run.wait(), monitor.run is run
        (True, True)
        >>> monitor.close()
    """

    _esm = built("monitor.js")
    _css = built("monitor.css")

    _method = kernel_owned(t.Unicode())
    _metric = kernel_owned(t.Dict())
    _state = kernel_owned(t.Unicode("ready"))
    _progress = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _curves = kernel_owned(t.Dict())
    _points = kernel_owned(t.List())
    _baseline = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _error = kernel_owned(t.Unicode())
    _offer = kernel_owned(t.Dict(allow_none=True, default_value=None))
    _kept = kernel_owned(t.Dict({"failed": False, "text": "", "again": None}))
    _glossary = kernel_owned(t.Unicode())
    _keeps = kernel_owned(t.Dict())
    _figure = kernel_owned(t.Dict(allow_none=True, default_value=None))

    def __init__(self, title: str, metric: Metric) -> None:
        self.run: TrainingRun[Any] | None = None
        self._start: Callable[[Method], object] | None = None
        self._pace = Pace(_TELL_SECONDS)
        self._lasting = Pace(_SNAPSHOT_SECONDS, at_once=False)
        self._forget: Callable[[], None] = _nothing
        super().__init__(
            _title=title,
            _metric=metric.to_dict(),
            _curves=curves([]),
            _keeps=keeps(title, "retrained"),
            _glossary=glossary_address(),
        )
        self.on_msg(self._on_command)

    def watch(self, run: TrainingRun[Any]) -> Monitor:
        """Show a run from now on.

        Example:
            >>> import shrinkwidget as sw
            >>> few = sw.demo.few(per_class=8)
            >>> first = sw.retrain(sw.demo.model(), few, epochs=1, background=True)
            >>> monitor = sw.monitor(first)
            >>> second = sw.retrain(sw.demo.model(), few, epochs=1, background=True)
            >>> monitor.watch(second).run is second  # the next training in the same place
            True
            >>> first.wait(), second.wait()
            (True, True)
            >>> monitor.close()
        """
        spec = run.spec
        self._forget()
        self.run = run
        self._tell(_offer=None, _method=spec.words, _keeps=keeps(self._title, spec.kind, spec.kind))
        self._forget = run.observe(self._on_run)
        self._show(run)
        return self

    def offer(self, method: str, start: Callable[[Method], object]) -> Monitor:
        """Ask for the settings of a training, and call back with them; `method` says what it is about."""
        self._start = start
        self._tell(_method=method, _offer=OFFER)
        return self

    def fail(self, text: str) -> None:
        """Say why what was offered could not begin."""
        self._tell(_error=text)

    def close(self) -> None:
        """Leave the page and let go of the run, which goes on.

        Example:
            >>> import shrinkwidget as sw
            >>> run = sw.retrain(sw.demo.model(), sw.demo.few(per_class=8), epochs=1, background=True)
            >>> monitor = sw.monitor(run)
            >>> monitor.close()  # the run goes on
            >>> run.wait(), run.state
            (True, 'done')
        """
        self._forget()
        with self._drawing:
            self._refresh_snapshot()
            self._closed = True  # a drawing that waits on the run's thread would be of nothing
        self.run, self._start, self._forget = None, None, _nothing  # anywidget keeps the widget itself
        super().close()

    def _on_run(self, run: TrainingRun[Any]) -> None:
        """Hear of every step, on the run's thread; speak a few times a second, and of every change of state."""
        if run.state != self._state or self._pace.due():
            self._show(run)
        if run.over or self._lasting.due():
            self._refresh_snapshot()

    def _show(self, run: TrainingRun[Any]) -> None:
        news = values_of(run)
        # Curves change once an epoch, and are the largest of all news.
        if len(news["curves"]["at"]) == len(self._curves["at"]):
            del news["curves"]
        # one message for all that changed: a page between two of them would draw a state that never was
        with self._lock, self.hold_sync():
            self._tell(**{f"_{name}": value for name, value in news.items()})

    def _on_command(self, _widget: object, content: Any, _buffers: object) -> None:
        """Do what a button asks for: each of these only leaves word, and returns."""
        asked = content if isinstance(content, Mapping) else {}
        what = asked.get("do")
        if what == "start" and self._start is not None:
            try:
                self._start(asked_method(asked))
            except ShrinkError as error:
                self.fail(str(error))
        elif self.run is not None and what in ("pause", "resume", "stop"):
            getattr(self.run, what)()
        elif self.run is not None and what in ("keep", "save", "figure"):
            self._keep(self.run, asked)
        else:
            self._refuse(f"the page asked for {quoted(what)}, which this monitor cannot do now")

    def _keep(self, run: TrainingRun[Any], asked: Mapping[str, Any]) -> None:
        replace, again = bool(asked.get("replace")), None
        try:
            if asked["do"] == "figure":
                text, shown = save_figure(run, run.figure, asked, "run", replace)
                self._tell(_figure=shown, _kept={"failed": False, "text": text, "again": None})
                return
            result: CompressedModel = run.result if isinstance(run.result, CompressedModel) else run.result.packed
            if asked["do"] == "keep":
                text, failed = keep_in_notebook(asked.get("name"), result, replace), False
            else:
                text, failed = save_to(asked.get("path"), result, bool(asked.get("entropy")), replace), False
        except Exists as found:
            text, failed, again = str(found), False, {**asked, "replace": True}
        except BaseException as error:  # noqa: BLE001  # whatever fails is told in the widget
            text, failed = sentence(error), True
        self._tell(_kept={"failed": failed, "text": text, "again": again})

    def _refuse(self, text: str) -> None:
        self._tell(_kept={"failed": True, "text": text, "again": None})

    def _snapshot(self) -> dict[str, Any]:
        from ..figures.monitor_snapshot_png import describe_monitor, monitor_snapshot

        names = ("title", "method", "metric", "progress", "curves", "points", "baseline", "state", "error", "offer")
        shown = {name: getattr(self, f"_{name}") for name in names}
        return {"image/png": monitor_snapshot(shown), "text/plain": describe_monitor(shown)}

    def __repr__(self) -> str:
        return f"Monitor({self._title if self.run is None else self.run!r})"


def asked_method(content: Mapping[str, Any]) -> FineTune | LearningRateRewinding:
    """Return the method that was asked for by its name, epochs, rate and optimizer.

    Raises:
        TrainingError: for settings that cannot be.
    """
    epochs, lr, optimizer = content.get("epochs"), content.get("lr"), content.get("optimizer")
    if content.get("method") == "rewind":
        return LearningRateRewinding(Schedule(epochs=epochs, lr=lr, optimizer=optimizer))  # type: ignore[arg-type]  # checked there
    constant = Schedule(lr=lr, optimizer=optimizer, decay="constant")  # type: ignore[arg-type]  # checked there
    return FineTune(epochs=epochs, schedule=constant)  # type: ignore[arg-type]  # checked there


def monitor_of(run: TrainingRun[Any]) -> Monitor:
    """Return a monitor of a run; see `shrinkwidget.monitor`."""
    if not isinstance(run, TrainingRun):
        raise TrainingError(f"cannot watch {a_type(run)}: give the TrainingRun that background=True returns")
    if not run.spec.trains:
        raise TrainingError(
            "RecalibrateBatchNorm is over in one pass, there are no curves to watch: .wait() for its result"
        )
    title, metric = type(run.spec.model).__name__, resolve(run.spec.options.measured)
    return replace_in_cell(Monitor(title, metric).watch(run))


def display_run(run: TrainingRun[Any]) -> None:
    """Show a run in the notebook: its monitor, or what it is if it does not train."""
    if run.spec.trains:
        display(monitor_of(run))
    else:
        display({"text/plain": repr(run)}, raw=True)


def _nothing() -> None:
    pass
