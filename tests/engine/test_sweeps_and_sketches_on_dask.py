"""Sweeps and sketches on the workers of a Dask cluster: real processes, one of which is killed."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget import recipe_and_method_registry as registry
from shrinkwidget.analysis import run_items_on_dask_workers
from shrinkwidget.errors import ArgumentError, FileError, ModelError, ShrinkError
from shrinkwidget.results import Sweep, SweepPoint

from .training_helpers import mlp, points

distributed = pytest.importorskip("distributed")

MODEL = mlp()
VALID = points(300, seed=1)
TRAIN = points(96)
RECIPES = [sw.Recipe(s, bits=b) for s, b in itertools.product((0.3, 0.5, 0.6, 0.8, 0.9), (8, 3))]
QUIET = {"dashboard_address": ":0", "silence_logs": 50}

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


def without_seconds(found: Sweep) -> list[SweepPoint]:
    return [replace(point, seconds=0.0) for point in found.points]


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Two workers, each a process of its own."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def threads() -> Iterator[Any]:
    """A cluster in this process, which starts at once: two workers of one thread each."""
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, **QUIET) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


class Slow:
    """An accuracy that takes its time, and notes that it was asked: a line in a file."""

    def __init__(self, log: Path, seconds: float) -> None:
        self.log, self.seconds = log, seconds

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        with self.log.open("a") as file:
            file.write("asked\n")
        time.sleep(self.seconds)
        return (outputs.argmax(1) == targets).float()


def test_a_killed_worker_costs_its_running_point_only(processes: Any, tmp_path: Path) -> None:
    """Its points are done by the other, and all numbers are those of one process; the file has each point once."""
    log, path = tmp_path / "log.txt", tmp_path / "sweep.jsonl"
    metric = Slow(log, 0.2)
    killed: list[int] = []

    def kill(_: SweepPoint) -> None:
        if not killed:
            killed.append(min(processes.run(os.getpid).values()))
            os.kill(killed[0], signal.SIGKILL)

    found = sw.sweep(
        MODEL, RECIPES, (VALID[0][:100], VALID[1][:100]), metric, client=processes, results=path, on_result=kill
    )
    assert killed
    # one for the dense model here, one for each point, and one more for the point that was running
    assert 1 + len(RECIPES) <= len(log.read_text().splitlines()) <= 2 + len(RECIPES)
    here = sw.sweep(MODEL, RECIPES, (VALID[0][:100], VALID[1][:100]), Slow(log, 0.0))
    assert without_seconds(found) == without_seconds(here)
    assert not found.failed
    assert len(path.read_text().splitlines()) == 1 + len(RECIPES)


def test_recovery_is_the_same_there(processes: Any) -> None:
    asked: dict[str, Any] = {"method": "recover", "train_data": TRAIN}
    there, here = (sw.sweep(MODEL, RECIPES[:3], VALID, client=client, **asked) for client in (processes, None))
    assert without_seconds(there) == without_seconds(here)


def test_trainings_are_the_same_there(threads: Any) -> None:
    """Two at a time in one process: each seeds its steps, and gives the process's generators back."""
    asked: dict[str, Any] = {"method": sw.methods.FineTune(epochs=2, lr=0.05), "train_data": TRAIN, "seeds": (0, 1)}
    there, here = (sw.sweep(MODEL, RECIPES[:3], VALID, client=client, **asked) for client in (threads, None))
    assert without_seconds(there) == without_seconds(here)


def test_workers_keep_freed_memory_and_use_one_thread(processes: Any) -> None:
    """The nanny's malloc trimming made every activation a page fault: more than twice as many as with the cure."""

    class Faults:
        def __call__(self, *_: Tensor) -> float:
            import resource

            x, weight = torch.zeros(64, 32, 16, 16), torch.zeros(32, 32, 3, 3)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _i in range(10):
                nn.functional.conv2d(x, weight, padding=1)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            return faults if torch.get_num_threads() == 1 else -1.0

    found = sw.sweep(MODEL, RECIPES[:4], (VALID[0][:100], VALID[1][:100]), Faults(), client=processes)
    pages = 64 * 32 * 16 * 16 * 4 / 4096  # of one result, which is freed and made ten times
    assert all(0 <= point.value < 6 * pages for point in found.points)


def test_one_that_is_stopped_leaves_nothing_running(threads: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    data = [(VALID[0][i : i + 1], VALID[1][i : i + 1]) for i in range(100)]
    run = sw.sweep(MODEL, RECIPES, data, Slow(log, 0.02), client=threads, background=True)
    next(iter(run))
    run.stop()
    assert run.wait(30)
    assert run.state == "stopped"
    assert 1 <= len(run.result.points) < len(RECIPES)
    # Dask cannot end a task that runs, but it sees before its next batch that nobody waits for it
    for _ in range(50):
        asked = log.read_text()
        time.sleep(0.1)
        if log.read_text() == asked:
            break
    assert log.read_text() == asked


def test_a_kind_of_ones_own_is_known_there(processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTER", {k: dict(v) for k, v in registry._REGISTER.items()})
    monkeypatch.setattr(registry, "_CLASSES", dict(registry._CLASSES))

    @sw.methods.register
    @dataclass(frozen=True, repr=False)
    class Largest(sw.methods.Importance):
        kind, label, title = "largest-first", "largest first", "the largest go first"

        def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:  # noqa: ARG002
            return 1 / (1 + rows.abs())

    recipes = [sw.Recipe(0.5, importance="largest-first")]
    there, here = (sw.sweep(MODEL, recipes, VALID, client=client) for client in (processes, None))
    assert without_seconds(there) == without_seconds(here)


def test_a_scheduler_that_goes_away_is_told_and_the_file_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "sweep.jsonl"
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, **QUIET)
    client = distributed.Client(cluster, timeout=2)

    def close(_: SweepPoint) -> None:
        if cluster.status.name == "running":
            threading.Thread(target=cluster.close).start()

    metric = Slow(tmp_path / "log.txt", 0.3)
    with pytest.raises(
        ShrinkError, match=r"scheduler at .* went away; \d of 10 points are done, and in '.*sweep.jsonl'"
    ):
        sw.sweep(MODEL, RECIPES, VALID, metric, client=client, results=path, on_result=close)
    client.close()
    done = len(path.read_text().splitlines()) - 1
    assert 1 <= done < len(RECIPES)
    came: list[SweepPoint] = []
    sw.sweep(MODEL, RECIPES[:done], VALID, Slow(tmp_path / "log.txt", 0.3), results=path, on_result=came.append)
    assert len(came) == done


# What is refused


class Locked:
    def __init__(self) -> None:
        self.inner = {"guard": threading.Lock()}

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()


def test_what_cannot_be_sent_is_named(threads: Any) -> None:
    model = mlp()
    model[0].__dict__["lock"] = threading.Lock()
    with pytest.raises(ModelError, match=r"^model\.0\.lock cannot be sent to another process \(TypeError: .*lock"):
        sw.sweep(model, RECIPES, VALID, client=threads)
    with pytest.raises(ModelError, match=r"^metric\.inner\['guard'\] cannot be sent"):
        sw.sweep(MODEL, RECIPES, VALID, Locked(), client=threads)
    guard = threading.Lock()

    def closing(outputs: Tensor, targets: Tensor) -> Tensor:
        with guard:
            return (outputs.argmax(1) == targets).float()

    with pytest.raises(ModelError, match=r"^'guard', which metric uses, cannot be sent"):
        sw.sweep(MODEL, RECIPES, VALID, closing, client=threads)


class Absent:
    """What unpickles nowhere: as a module that is not installed on a worker."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()

    def __reduce__(self) -> tuple[Any, ...]:
        return __import__, ("no_such_module",)


def test_a_worker_that_lacks_a_module_says_so(threads: Any) -> None:
    with pytest.raises(ShrinkError, match=r"worker .* cannot import what was sent to it .*no_such_module.*upload_file"):
        sw.sweep(MODEL, RECIPES, VALID, Absent(), client=threads)


def test_another_version_is_refused(threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_items_on_dask_workers, "_version", lambda: "9.9")
    with pytest.raises(ShrinkError, match=rf"has shrinkwidget {sw.__version__}, and here it is 9\.9: install the same"):
        sw.sweep(MODEL, RECIPES, VALID, client=threads)


@pytest.mark.parametrize(
    ("client", "said"),
    [("tcp://127.0.0.1:1", r"make a Client of it, Client\('tcp"), (3, "not an int: give a Client")],
)
def test_what_is_no_client_is_refused(client: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        sw.sweep(MODEL, RECIPES, VALID, client=client)


def test_a_local_cluster_lasts_as_long_as_its_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    asked: list[Any] = []

    def in_this_process(**options: Any) -> Any:
        asked.append(options)
        started.append(cluster(processes=False, **options))
        return started[0]

    cluster = distributed.LocalCluster
    monkeypatch.setattr(distributed, "LocalCluster", in_this_process)
    there, here = (sw.sweep(MODEL, RECIPES[:3], VALID, client=client, workers=2) for client in ("local", None))
    assert without_seconds(there) == without_seconds(here)
    assert started[0].status.name == "closed"
    assert asked[0]["n_workers"] == 2


def test_a_script_that_forks_itself_is_told_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(**_: Any) -> Any:
        raise RuntimeError("Nanny failed to start.")  # what Dask says where a worker's process ends as it begins

    monkeypatch.setattr(distributed, "LocalCluster", failing)
    with pytest.raises(ShrinkError, match=r'could not start .*must stand under if __name__ == "__main__":'):
        sw.sweep(MODEL, RECIPES, VALID, client="local")


def test_threads_of_a_cluster_are_its_own(threads: Any) -> None:
    with pytest.raises(ArgumentError, match="a cluster has its own"):
        sw.sweep(MODEL, RECIPES, VALID, client=threads, workers=2)


def test_a_worker_that_always_dies_is_told_in_its_point(processes: Any) -> None:
    class Deadly:
        """It ends the process for one of the recipes."""

        def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
            if not outputs.any():  # all of its 24 weights are pruned
                os.kill(os.getpid(), signal.SIGKILL)
            return (outputs.argmax(1) == targets).float()

    model = nn.Sequential(nn.Linear(8, 3, bias=False))

    def allow(failures: int) -> None:
        processes.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", failures))

    allow(0)
    try:
        found = sw.sweep(model, [0.5, 0.99, 0.3], VALID, Deadly(), client=processes)
    finally:
        allow(3)
    assert [bool(point.error) for point in found.points] == [False, True, False]
    assert "1 workers died while they worked on it" in found.points[1].error


# Sketches


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of three shards."""
    folder = tmp_path_factory.mktemp("sharded")
    torch.manual_seed(0)
    state = {
        f"layers.{i}.weight": torch.randn(40 + i, 64).to(torch.bfloat16 if i % 2 else torch.float32) for i in range(9)
    }
    state |= {f"layers.{i}.bias": torch.zeros(40 + i) for i in range(9)}
    names = list(state)
    shards = {f"model-{i + 1:05}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, own in shards.items():
        save_file({name: state[name] for name in own}, folder / file)
    index = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(
        '{"metadata": {}, "weight_map": ' + str(index).replace("'", '"') + "}"
    )
    return folder


def test_a_sketch_of_workers_is_that_of_one_process(
    threads: Any, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shrinkwidget.analysis.sketch_on_dask_workers._TOGETHER", 30_000)
    there = sw.sketch(checkpoint, client=threads)
    assert there.encode() == sw.sketch(checkpoint).encode()
    assert len(there.layers) == 9


def test_what_is_wrong_with_a_layer_is_told_as_in_one_process(threads: Any, tmp_path: Path) -> None:
    save_file({"good": torch.ones(4, 4), "bad": torch.full((4, 4), float("nan"))}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="layer 'bad' has 16 weights that are NaN"):
        sw.sketch(tmp_path / "model.safetensors", client=threads)
    with pytest.raises(ModelError, match="this is a module: give its path"):
        sw.sketch(MODEL, client=threads)


def test_another_checkpoint_on_a_worker_is_refused(
    threads: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shrinkwidget.analysis import sketch_on_dask_workers

    save_file({"layers.0.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    opened = sketch_on_dask_workers._Opened
    # the workers of this cluster are threads: as if the same path led elsewhere on them
    monkeypatch.setattr(sketch_on_dask_workers, "_Opened", lambda path, layout: opened(path and str(tmp_path), layout))
    with pytest.raises(
        FileError, match=r"finds another checkpoint at .*, in which 'layers\.\d\.weight' is missing or has"
    ):
        sw.sketch(checkpoint, client=threads)
