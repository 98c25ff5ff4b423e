"""Figures of an explorer and of a training: what they show is what the explorer knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

import shrinkwidget as sw
from shrinkwidget.errors import FigureError
from shrinkwidget.figures.figure_file import about
from shrinkwidget.training.methods_schedule_options_and_progress import TrainingOptions, TrainingSpec


@pytest.fixture(scope="module")
def explorer() -> Any:
    """Return an explorer that has tried three recipes and retrained one."""
    ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), train_data=sw.demo.few(20))
    for sparsity in (0.0, 0.7, 0.9):
        ex.recipe = sw.Recipe(sparsity=sparsity, bits=4)
        assert ex.wait()
    yield ex
    ex.close()


def test_every_kind_that_an_explorer_knows_is_drawn(explorer: Any, tmp_path: Path) -> None:
    for kind in ("distributions", "size", "silhouette", "tradeoff", "classes", "summary"):
        path = sw.figures.save(explorer.figure(kind), tmp_path / f"{kind}.pdf")
        (chart,) = sw.figures.read(path)["charts"]
        assert chart["kind"] == kind
    layer = explorer.figure("layer", name="stem", width="nature-single")
    assert sw.figures.table(layer).columns == ("bits", "SQNR")


def test_the_figure_shows_the_exact_bytes_of_the_explorer(explorer: Any) -> None:
    assert explorer.estimate.exact
    rows = sw.figures.table(explorer.figure("size")).rows
    assert sum(row["bytes"] for row in rows) == explorer.estimate.nbytes == explorer.compress().nbytes


def test_history_carries_what_a_report_needs(explorer: Any) -> None:
    last = explorer.history[-1]
    small = explorer.compress()
    assert last["ratio"] == pytest.approx(small.original_nbytes / small.nbytes)
    assert last["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert last["sqnr"] == pytest.approx(small.estimate.sqnr)
    dense, seed, metric = explorer.history[0]["macs"], last["seed"], last["metric"]
    assert 0 < last["macs"] < 0.5 * dense
    assert (seed, metric, last["n"], last["percent"], last["higher"]) == (None, "accuracy", 287, True, True)


def test_rounding_during_training_is_told_in_decibels() -> None:
    model, valid = sw.demo.model(), sw.demo.data("valid")
    run = sw.retrain(sw.compress(model, 0.8, bits=4), sw.demo.few(10), valid, epochs=1, background=True)
    assert run.wait()
    (point,) = run.points
    estimate = run.result.estimate
    assert estimate is not None
    assert point["sqnr"] == pytest.approx(estimate.sqnr)


def test_a_line_of_the_history_goes_by_what_was_done_and_not_by_words() -> None:
    row = dict(nbytes=1000, ratio=2.0, value=0.9, metric="accuracy", percent=True)
    history = [
        row | dict(provenance="no retraining", recalibrated=False),
        row | dict(provenance="fine-tuned with a layer norm of its own", recalibrated=False),
        row | dict(provenance="statistics measured anew", recalibrated=True),
        row | dict(provenance="as given"),
    ]
    rows = sw.figures.table("tradeoff", history).rows
    assert [row["series"] for row in rows] == ["no retraining", "retrained", "batch norm recalibrated", "as given"]


def test_the_history_says_which_points_were_recalibrated() -> None:
    ex = sw.explore(sw.demo.model(), sw.demo.data("valid"), train_data=sw.demo.few(20), sparsity=0.9, bits=4)
    assert ex.wait()
    ex.recalibrate_batchnorm = True
    assert ex.wait()
    *_, plain, recalibrated = ex.history
    assert (plain["recalibrated"], recalibrated["recalibrated"]) == (False, True)
    assert recalibrated["value"] > plain["value"]
    assert plain["checksum"] != recalibrated["checksum"]
    rows = sw.figures.table(ex.figure("tradeoff")).rows
    assert rows[-1]["series"] == "batch norm recalibrated"
    (chart,) = about(ex.figure("size"))["charts"]
    assert ex.baseline is not None
    assert chart["checksum"] == ex.baseline.checksum == sw.evaluate(sw.demo.model(), sw.demo.data("valid")).checksum
    ex.close()


def test_the_caption_of_a_trade_off_names_what_shrinkbench_asks_for(explorer: Any) -> None:
    words = sw.figures.caption(explorer.figure("tradeoff"))
    for asked in (
        "compression ratio",
        "the dense model",
        "287 examples",
        "one seed",
        "Multiply-accumulates",
        "retrained",
    ):
        assert asked in words


def test_what_is_not_there_yet_is_said(explorer: Any) -> None:
    with pytest.raises(FigureError, match="press Sensitivity first"):
        explorer.figure("sensitivity")
    with pytest.raises(FigureError, match=r"press Retrain… first"):
        explorer.figure("training")
    with pytest.raises(FigureError, match="an explorer has no data for 'transfer'"):
        explorer.figure("transfer")
    with pytest.raises(FigureError, match="did you mean 'silhouette'"):
        explorer.figure("silhuette")
    with pytest.raises(FigureError, match=r"which layer\? write ex.figure\('layer', name='conv1'\)"):
        explorer.figure("layer")


def test_a_run_draws_its_training_and_its_rounds(tmp_path: Path) -> None:
    model, valid = sw.demo.model(), sw.demo.data("valid")
    run = sw.prune_and_retrain(
        model, sw.demo.few(20), valid, 0.75, sw.methods.FineTune(1), rounds=2, seed=3, background=True
    )
    assert run.wait()
    assert [point["seed"] for point in run.points] == [3, 3]
    dense = sw.summary(model, valid[0][:1]).macs or 0
    half, quarter = (point["macs"] for point in run.points)
    assert 0.25 * dense < quarter < half < dense
    assert [point["sqnr"] for point in run.points] == [None, None]  # nothing is rounded
    caption = sw.figures.caption(run.figure("tradeoff"))
    for asked in (
        "1.88× to 3.47×",
        f"pruned weights left out: {quarter:,} to {half:,}",
        "Dashed: the dense model, 100.0",
        "287 examples",
        "one seed",
        "fine-tuned",
    ):
        assert asked in caption
    assert [row["epoch"] for row in sw.figures.table(run.figure()).rows] == [0, 1, 2]
    rows = sw.figures.table(run.figure("tradeoff")).rows
    assert [row["bytes"] for row in rows] == [point["nbytes"] for point in run.points]
    (chart,) = sw.figures.read(sw.figures.save(run.figure("tradeoff"), tmp_path / "a.svg"))["charts"]
    assert (chart["seeds"], chart["n"]) == ([3], [287])
    assert chart["checksum"] == sw.evaluate(model, valid).checksum
    assert chart["checksums"][-1] == sw.evaluate(run.result, valid).checksum
    assert about(run.figure())["charts"][0]["checksums"] == chart["checksums"][-1:]
    with pytest.raises(FigureError, match="a training has no data for 'size'"):
        run.figure("size")
    unscored = sw.retrain(model, sw.demo.few(5), epochs=1, background=True)
    assert unscored.wait()
    with pytest.raises(FigureError, match="the run has no points, it has no evaluation data"):
        unscored.figure("tradeoff")
    before: sw.results.TrainingRun[Any] = sw.results.TrainingRun(
        TrainingSpec(model, sw.demo.few(5), None, sw.methods.FineTune(), TrainingOptions())
    )
    with pytest.raises(FigureError, match=r"no epoch is complete yet, wait\(\) for one"):
        before.figure()
    before.stop()
    with pytest.raises(FigureError, match="it ended before an epoch was complete"):
        before.figure()


def asked(explorer: Any, path: Path, **more: Any) -> dict[str, Any]:
    """Press the button, and return the status it comes to."""
    explorer._on_command(explorer, {"do": "figure", "kind": "size", "width": "neurips", "path": str(path), **more}, [])
    assert explorer.wait()
    return dict(explorer._status)


def test_the_button_saves_a_figure_and_asks_before_it_replaces_another(explorer: Any, tmp_path: Path) -> None:
    path = tmp_path / "size.pdf"
    said = asked(explorer, path)["text"]
    assert said.startswith(f"saved {path}, ")
    assert said.endswith("; for this line to run, give the explorer a name: ex = sw.explore(…)")
    assert explorer._figure["code"] == f"sw.figures.save(ex.figure('size', width='neurips'), {str(path)!r})"
    first = path.read_bytes()
    assert asked(explorer, path)["state"] == "done"  # the same bytes are no question
    question = asked(explorer, path, kind="silhouette")
    assert (question["state"], path.read_bytes()) == ("exists", first)
    assert asked(explorer, path, kind="silhouette", replace=True)["state"] == "done"
    assert sw.figures.read(path)["charts"][0]["kind"] == "silhouette"


def test_the_button_touches_no_file_of_others_and_says_what_cannot_be(explorer: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "thesis.pdf"
    theirs.write_bytes(b"%PDF-1.7 a thesis")
    assert "exists and is no figure of shrinkwidget" in asked(explorer, theirs)["text"]
    assert theirs.read_bytes() == b"%PDF-1.7 a thesis"
    assert "there is no folder" in asked(explorer, tmp_path / "missing" / "a.pdf")["text"]
    assert "there is no figure 'sise'; did you mean 'size'" in asked(explorer, tmp_path / "a.pdf", kind="sise")["text"]
    assert "there is no file name" in asked(explorer, Path(" "))["text"]


@pytest.fixture
def variables() -> Any:
    """Return the variables of a notebook."""
    shell = InteractiveShell.instance()
    yield shell.user_ns
    InteractiveShell.clear_instance()


@pytest.mark.parametrize("name", ["mine", "ex", "watched", ""])
def test_the_line_reaches_the_training_by_whatever_variable_there_is(
    variables: dict[str, Any], tmp_path: Path, name: str
) -> None:
    run = sw.retrain(sw.demo.model(), sw.demo.few(5), sw.demo.data("valid"), epochs=1, background=True)
    monitor = sw.monitor(run)
    explorer = sw.explore(sw.demo.model())
    explorer._run = run
    assert run.wait()
    kinds = {"mine": run, "ex": explorer, "watched": monitor}
    variables |= {"_": run, **({name: kinds[name]} if name else {})}  # "_" is the output shown last: another, soon
    path = tmp_path / "run.svg"
    monitor._on_command(monitor, {"do": "figure", "kind": "training", "width": "blog", "path": str(path)}, [])
    expected = {"mine": "mine", "ex": "ex.run", "watched": "watched.run", "": "run"}[name]
    assert monitor._figure == {
        "path": str(path),
        "code": f"sw.figures.save({expected}.figure('training', width='blog'), {str(path)!r})",
        "png": monitor._figure["png"],
    }
    assert ("give the training a name" in monitor._kept["text"]) == (name == "")
    if name:
        drawn = path.read_bytes()
        path.unlink()
        exec(monitor._figure["code"], {"sw": sw, name: kinds[name]})  # noqa: S102  # the line that is shown
        assert path.read_bytes() == drawn
    explorer.close()
    monitor.close()


def test_the_monitors_button_says_what_cannot_be(tmp_path: Path) -> None:
    run: sw.results.TrainingRun[Any] = sw.results.TrainingRun(
        TrainingSpec(sw.demo.model(), sw.demo.few(5), None, sw.methods.FineTune(1), TrainingOptions())
    )
    monitor = sw.monitor(run)

    def told(path: Path, kind: str = "training") -> str:
        asked = {"do": "figure", "kind": kind, "width": "blog", "path": str(path)}
        monitor._on_command(monitor, asked, [])
        assert monitor._kept["failed"]
        return str(monitor._kept["text"])

    assert (
        told(tmp_path / "a.pdf") == "there is nothing to draw in 'training': no epoch is complete yet, wait() for one"
    )
    run.start()
    assert run.wait()
    assert "the run has no points, it has no evaluation data: give it" in told(tmp_path / "a.pdf", "tradeoff")
    assert "there is no folder" in told(tmp_path / "missing" / "a.pdf")
    (tmp_path / "file").write_text("no folder")
    assert "there is no folder" in told(tmp_path / "file" / "a.pdf")
    if Path("/proc/version").is_file():  # nobody can write there, not even root
        assert told(Path("/proc/a.pdf")).startswith("cannot write '/proc/a.pdf': ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert monitor._figure is None
    monitor.close()
