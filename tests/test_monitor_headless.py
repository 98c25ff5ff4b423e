"""The monitor without a browser: in step with its run, a good citizen, with a picture where no widget can live."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest

import shrinkwidget as sw
from shrinkwidget.errors import TrainingError
from shrinkwidget.evaluation.evaluate_and_metrics import resolve
from shrinkwidget.figures.monitor_snapshot_png import curves
from shrinkwidget.widgets.monitor import Monitor, asked_method

SECONDS = 120


def run_of(epochs: int = 2) -> sw.results.TrainingRun:
    small = sw.compress(sw.demo.model(), sw.Recipe(sparsity=0.9))
    images, labels = sw.demo.data("train")
    few = images[:256], labels[:256]
    return sw.retrain(small, few, sw.demo.data(), sw.methods.FineTune(epochs=epochs), background=True)


def test_it_ends_up_with_what_the_run_has_done() -> None:
    run = run_of()
    monitor = sw.monitor(run)
    assert run.wait(SECONDS)
    assert monitor._state == "done"
    assert monitor._curves["at"] == [1, 2]
    assert monitor._curves["test"] == [row["test"]["value"] for row in run.history]
    assert monitor._progress["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert monitor._baseline == run.baseline.to_dict()  # type: ignore[union-attr]
    monitor.close()


@pytest.mark.parametrize("name", ["retrain", "prune_and_retrain", "transfer"])
def test_who_can_train_can_be_shown_in_a_notebook(name: str) -> None:
    script = f"import shrinkwidget as sw; sw.{name}; from shrinkwidget.training import retrain_and_training_run as run"
    subprocess.run([sys.executable, "-c", f"{script}; assert run._displays"], check=True)


def test_its_buttons_reach_the_run() -> None:
    run = run_of(500)
    monitor = sw.monitor(run)
    monitor._on_command(monitor, {"do": "pause"}, [])
    assert run.state == "paused"
    monitor._on_command(monitor, {"do": "resume"}, [])
    monitor._on_command(monitor, {"do": "stop"}, [])
    assert run.wait(SECONDS)
    assert (run.state, monitor._state) == ("stopped", "stopped")
    monitor._on_command(monitor, {"do": "keep", "name": "small"}, [])
    assert monitor._kept["failed"]
    assert monitor._kept["text"].startswith("there is no notebook to keep a variable in")
    monitor.close()


def test_closing_it_does_not_end_the_run_and_lets_go_of_it() -> None:
    run = run_of(500)
    monitor = sw.monitor(run)
    monitor.close()
    assert run.state == "running"
    run.stop()
    assert run.wait(SECONDS)
    gone = weakref.ref(run)
    del run
    end = time.monotonic() + SECONDS
    while gone() is not None and time.monotonic() < end:  # its thread may be about to end
        time.sleep(0.01)
        gc.collect()
    assert gone() is None


def test_a_closed_explorer_lets_go_of_the_training_it_started() -> None:
    images, labels = sw.demo.data("train")
    ex = sw.explore(sw.demo.model(), train_data=(images[:64], labels[:64]))
    ex._retrain(sw.Recipe(sparsity=0.5), sw.methods.FineTune(epochs=1))
    assert ex.run is not None
    assert ex.run.wait(SECONDS)
    gone = weakref.ref(ex.run)
    ex.close()
    end = time.monotonic() + SECONDS
    while gone() is not None and time.monotonic() < end:  # its thread may be about to end
        time.sleep(0.01)
        gc.collect()
    assert gone() is None


def test_there_is_a_picture_before_and_after() -> None:
    run = run_of()
    monitor = sw.monitor(run)
    before = monitor._snapshot()
    assert run.wait(SECONDS)
    after = monitor._snapshot()
    for still in (before, after):
        assert still["image/png"].startswith(b"\x89PNG")
    assert "done after 2 of 2 epochs, 90" in after["text/plain"]
    assert "validation examples" in after["text/plain"]
    monitor.close()


def test_curves_count_epochs_through_all_rounds() -> None:
    row = {"loss": 1.0, "train": 0.5, "test": None, "lr": 0.1, "sparsity": 0.2}
    history = [row | {"round": 1, "epoch": 1}, row | {"round": 1, "epoch": 2}, row | {"round": 2, "epoch": 1}]
    assert curves(history)["at"] == [1, 2, 3]
    assert curves(history)["test"] == [None, None, None]


def test_an_offer_gives_the_method_that_was_asked_for() -> None:
    fine = asked_method({"method": "fine-tune", "epochs": 3, "lr": 0.02, "optimizer": "adam"})
    assert fine.stage().epochs == 3
    assert {fine.stage().rate(x) for x in (0.0, 1.5, 2.9)} == {0.02}
    rewind = asked_method({"method": "rewind", "epochs": 8, "lr": 0.1, "optimizer": "sgd"})
    assert [rewind.stage().rate(x) for x in (0, 4, 6)] == pytest.approx([0.1, 0.01, 0.001])
    with pytest.raises(TrainingError, match="epochs=0"):
        asked_method({"method": "fine-tune", "epochs": 0, "lr": 0.02, "optimizer": "sgd"})


def test_what_cannot_be_asked_for_is_told_in_the_monitor() -> None:
    asked: list[object] = []
    monitor = Monitor("net", resolve("accuracy")).offer("90 % sparse", asked.append)
    monitor._on_command(monitor, {"do": "start", "method": "fine-tune", "epochs": 3, "lr": -1, "optimizer": "sgd"}, [])
    assert "lr=-1" in monitor._error
    monitor._on_command(monitor, {"do": "start", "method": "fine-tune", "epochs": 3, "lr": 0.1, "optimizer": "sgd"}, [])
    assert len(asked) == 1
    monitor.close()


def test_measuring_batch_norm_anew_is_over_before_it_could_be_watched(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[sw.results.TrainingRun] = []
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run._displays", [lambda: shown.append])
    small, train = sw.compress(sw.demo.model(), sw.Recipe(sparsity=0.9)), sw.demo.data("train")
    assert sw.retrain(small, train, None, sw.methods.RecalibrateBatchNorm()).provenance == "batch norm recalibrated"
    assert not shown
    assert capsys.readouterr().err == "", "a notebook is not told of epochs where there are none"
    run = sw.retrain(small, train, None, sw.methods.RecalibrateBatchNorm(), background=True)
    with pytest.raises(TrainingError, match=r"RecalibrateBatchNorm .* there are no curves to watch"):
        sw.monitor(run)
    assert run.wait(SECONDS)


def test_only_runs_can_be_watched() -> None:
    with pytest.raises(TrainingError, match="cannot watch a DigitNet"):
        sw.monitor(sw.demo.model())  # type: ignore[arg-type]


def test_a_transfer_is_watched_and_a_stop_ends_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = sw.demo.data("train")
    few = images[:64], labels[:64]
    runs: list[sw.results.TrainingRun] = []

    def show(run: sw.results.TrainingRun) -> None:
        runs.append(run)
        run.observe(lambda run: run.stop() if run.progress and run.progress.round == 2 and run.progress.epoch else None)

    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run.in_notebook", lambda: True)
    monkeypatch.setattr("shrinkwidget.training.retrain_and_training_run._displays", [lambda: show])
    gradual = sw.methods.GradualUnfreezing()
    taught = sw.transfer(sw.demo.model(), few, few, classes=10, strategy=gradual, baseline=True)
    assert [run.state for run in runs] == ["stopped"]
    assert runs[0].result is taught
    assert taught.baseline is None
    assert runs[0].progress is not None
    assert runs[0].progress.stage == "stage 2 of 3"
    assert taught.score is not None


def test_the_monitor_of_a_transfer_follows_its_stages_and_saves_its_result(tmp_path: Path) -> None:
    strategy = sw.methods.GradualUnfreezing(epochs=1, first=sw.methods.LinearProbe(epochs=3))
    run = sw.transfer(sw.demo.model(), sw.demo.few(2), sw.demo.few(3), strategy=strategy, background=True)
    monitor = sw.monitor(run)
    assert run.wait(SECONDS)
    assert monitor._state == "done"
    assert monitor._method == "transferred, unfrozen in 3 stages"
    assert monitor._curves["at"] == [1, 2, 3, 4, 5]
    assert (monitor._progress["stage"], monitor._progress["epochs_by_round"]) == ("stage 3 of 3", (3, 1, 1))
    assert monitor._keeps["variable"] == "transferred"
    assert "done after 5 of 5 epochs" in monitor._snapshot()["text/plain"]
    path = tmp_path / "transferred.safetensors"
    monitor._on_command(monitor, {"do": "save", "path": str(path), "entropy": False}, [])
    assert monitor._kept == {"failed": False, "text": f"saved {path}, {run.result.nbytes:,} bytes", "again": None}
    monitor.close()


def test_outside_a_terminal_a_line_tells_how_far_a_training_is(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shrinkwidget.training.methods_schedule_options_and_progress._LINE_SECONDS", 0.0)
    images, labels = sw.demo.data("train")
    sw.retrain(sw.demo.model(), (images[:64], labels[:64]), None, sw.methods.FineTune(1))
    assert "epoch 1/1: 0.0% sparse, loss" in capfd.readouterr().err
