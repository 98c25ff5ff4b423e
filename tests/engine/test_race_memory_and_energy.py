"""Races: what they say of models, not how fast this machine is. No test holds a time, only what must be true of any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.errors import ArgumentError, DataError, FileError, MissingPackageError, ModelError, ShrinkError
from shrinkwidget.performance import race as races
from shrinkwidget.performance.race import Ratio, faster
from shrinkwidget.performance.race_and_memory_worker import largest_difference
from shrinkwidget.performance.rapl_energy_counter import EnergyCounter
from shrinkwidget.performance.run_in_worker_process import NotImportable, pickled
from shrinkwidget.performance.runtimes import by_name

X = torch.rand(3, 64)


class Repeated(nn.Module):
    """A layer that does its work again and again, with the same result."""

    def __init__(self, times: int = 1, width: int = 64) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor
        for _ in range(self.times):
            y = self.layer(x)
        return y


class Fails(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise ValueError("of no use today")


class Dies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        os._exit(7)


class Sleeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        print("a model that prints")  # which must not be taken for what the process tells
        time.sleep(60)
        return x


@pytest.fixture(scope="module")
def told() -> list[Any]:
    """Return where the race tells how far it is."""
    return []


@pytest.fixture(scope="module")
def run(told: list[Any]) -> sw.results.RaceRun:
    """Race one model against a copy, and against twenty times its work, at both batch sizes, and wait for it."""
    contestants = {"once": Repeated(), "again": Repeated(), "twenty times": Repeated(20)}
    run = sw.race(contestants, X, batch=(1, 32), rounds=60, background=True)
    run.observe(lambda run: told.append(run.progress))
    assert run.wait(300)
    return run


@pytest.fixture(scope="module")
def found(run: sw.results.RaceRun) -> sw.results.Race:
    return run.result


def test_a_contestant_that_works_twenty_times_is_told_as_slower_and_a_copy_is_not(found: sw.results.Race) -> None:
    for batch in (1, 32):
        slow, same = found.ratio("twenty times", batch), found.ratio("again", batch)
        assert slow.high < 0.8
        assert slow.high < same.low
        assert 0.5 < same.value < 2
    assert [at.batch for at in found.batches] == [1, 32]
    assert [at.times[0].cpu for at in found.batches] == [None, None]


def test_the_control_is_a_copy_of_the_first_and_lies_around_one(found: sw.results.Race) -> None:
    for at in found.batches:
        control = found.control(at)
        assert control is at.control_cpu
        assert control.low <= control.value <= control.high
        assert 0.5 < control.value < 2  # a copy of "twenty times" would be at a tenth


def test_outputs_are_compared_and_the_difference_told(found: sw.results.Race) -> None:
    assert [entry.difference for entry in found.batches[0].times] == [0.0, 0.0, 0.0]
    ones, twos = [np.array([[1.0, -4.0]])], [np.array([[1.0, -3.0]])]
    assert largest_difference(ones, twos) == 0.25
    assert largest_difference(ones, [np.ones(2)]) is None
    assert largest_difference([], []) is None
    assert largest_difference([np.array([True])], [np.array([False])]) == 1


def test_a_ratio_is_told_with_all_it_depends_on(found: sw.results.Race) -> None:
    text = found.text("twenty times", 32)
    version = torch.__version__
    ratio = found.ratio("twenty times", 32).text
    assert text == f"{ratio}, torch {version}, 1 thread, batch 32, this machine, {found.time[11:16]}"
    shown = repr(found)
    for words in ("Speed against once, by CPU time", "batch 1 ", "batch 32", "once, a copy", "nothing"):
        assert words in shown
    assert found.machine in found._repr_html_()
    assert "MACs" not in shown


def test_it_is_told_as_json_and_read_back(found: sw.results.Race) -> None:
    told = json.loads(json.dumps(found.to_dict()))
    assert sw.results.Race.from_dict(told) == found
    rows = found.to_rows()
    assert [row["contestant"] for row in rows[:4]] == ["once", "again", "twenty times", "once, a copy"]
    assert rows[2]["cpu_value"] == found.ratio("twenty times", 1).value
    assert rows[3]["cpu_seconds"] is None
    with pytest.raises(KeyError):
        found.ratio("once", 1)
    with pytest.raises(KeyError):
        found.ratio("again")  # at which batch size?


def test_an_interval_holds_the_median_it_is_of_and_narrows_with_rounds() -> None:
    rng = np.random.default_rng(0)
    drift = rng.uniform(1, 5, 400)  # what the machine does meets both of a round
    first, other = drift * 2 * rng.normal(1, 0.02, 400), drift * rng.normal(1, 0.02, 400)
    ratios = np.split(first / other, 8)
    many, few = faster(ratios, 0), faster([ratios[0][:20]], 0)
    assert many.low < 2 < many.high
    assert many.high - many.low < 0.03 < few.high - few.low


def test_intervals_hold_the_truth_though_every_load_has_luck_of_its_own() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        loads = [rng.normal(rng.normal(1, 0.03), 0.05, size) for size in (12, 12, 12, 12, 12, 12, 12, 5)]
        ratio = faster(loads, 0)
        covered += ratio.low <= 1 <= ratio.high
    assert covered >= 85  # 95 of 100, less what chance and as few as eight loads allow


@pytest.mark.parametrize(
    ("control", "busy"),
    [
        (Ratio(1.0, 0.97, 1.03), False),
        (Ratio(1.005, 1.001, 1.009), False),  # one in twenty misses 1, and nobody cares by so little
        (Ratio(1.05, 1.02, 1.08), True),
        (Ratio(0.95, 0.93, 0.98), True),
        (Ratio(1.0, 0.85, 1.04), True),
        (Ratio(1.0, 0.96, 1.2), True),
    ],
)
def test_a_machine_too_busy_to_tell_says_so(control: Ratio, busy: bool) -> None:
    told = sw.results.Race.example().to_dict()
    told["batches"][0]["control_cpu"] = {"value": control.value, "low": control.low, "high": control.high}
    race = sw.results.Race.from_dict(told)
    assert [("too busy to tell at batch 1" in text) for text in race.warnings] == [True] * busy
    assert ("! this machine is too busy" in repr(race)) == busy


def test_several_threads_are_raced_by_the_wall_clock() -> None:
    told = sw.results.Race.example().to_dict() | {"threads": 2}
    race = sw.results.Race.from_dict(told)
    assert race.ratio("small", 1) == race.batches[0].times[1].wall
    assert "by wall time" in repr(race)
    assert "2 threads" in race.text("small", 1)


def test_a_race_in_the_background_tells_how_far_it_is_and_ends_at_once() -> None:
    run = sw.race({"a": Sleeps(), "b": Sleeps()}, torch.rand(1, 2), background=True)
    seen: list[float] = []
    run.observe(lambda run: seen.append(-1 if run.progress is None else run.progress.done))
    with pytest.raises(ShrinkError, match="this race is running"):
        _ = run.result
    run.stop()
    assert run.wait(30)  # it would sleep for minutes
    assert run.state == "stopped"
    with pytest.raises(ShrinkError, match="was stopped: it has no result"):
        _ = run.result


def test_progress_rises_to_the_end(run: sw.results.RaceRun, told: list[Any]) -> None:
    assert (run.state, run.result.batches[0].rounds) == ("done", 60)
    parts = [now.done for now in told if now is not None]
    assert parts == sorted(parts)
    assert parts[-1] == 1
    # whoever begins to observe may be late for the first word
    said = {now.text for now in told if now is not None} | {"starting torch"}
    assert said == {"starting torch", "timing at batch 1", "timing at batch 32"}


def test_a_class_of_a_script_is_raced_as_an_exported_graph(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import torch, shrinkwidget as sw
            class Net(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = torch.nn.Linear(4, 4)
                def forward(self, x):
                    return self.layer(x)
            class Odd(Net):
                def forward(self, x):
                    return self.layer(x) if x.sum().item() > 0 else x
            net, x = Net(), torch.rand(1, 4)
            found = sw.race({"a": net, "b": torch.nn.Linear(4, 4)}, x, rounds=8, progress=False)
            print(found.exported, "exported graphs" in repr(found))
            try:
                sw.race({"a": Odd(), "b": net}, x)
            except sw.errors.ModelError as error:
                print(error)
            """
        )
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(sw.__file__).parents[1]), *sys.path])}
    ran = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    first, *rest = ran.stdout.splitlines()
    assert first == "True True"
    assert "'a' cannot be sent to a process of its own: Odd is defined in __main__" in rest[0]
    assert "torch.export cannot trace it" in rest[0]
    assert "put its class into a module that can be imported" in rest[0]


def test_what_cannot_be_pickled_is_known_before_anything_is_sent() -> None:
    class Local(Repeated):
        pass

    locked = Repeated()
    locked.lock = threading.Lock()  # type: ignore[assignment]
    hooked = Repeated()
    hooked.register_forward_hook(lambda *_: None)
    for module in (Local(), locked, hooked):
        with pytest.raises(NotImportable):
            pickled(module)
    assert pickled(Repeated())


def no_file() -> Path:
    return Path(__file__).with_name("missing.onnx")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m: sw.race({"one": m}, X), ArgumentError, "needs two contestants at least, by name"),
        (lambda m: sw.race([m, m], X), ArgumentError, "by name"),  # type: ignore[call-overload]
        (lambda m: sw.race({"": m, "b": m}, X), ArgumentError, "a name for every model"),
        (lambda m: sw.race({"a": m, "b": 3}, X), ModelError, "cannot run an int"),  # type: ignore[dict-item]
        (lambda m: sw.race({"a": m, "b": m}, "x"), DataError, "cannot run models on a str"),
        (lambda m: sw.race({"a": m, "b": m}, (X, X[0, 0]), batch=2), DataError, "first axis is the batch"),
        (lambda m: sw.race({"a": m, "b": m}, X, batch=0), ArgumentError, "batch=0"),
        (lambda m: sw.race({"a": m, "b": m}, X, batch=()), ArgumentError, "batch=… is empty|batch=…\\) is empty"),
        (lambda m: sw.race({"a": m, "b": m}, X, threads=0), ArgumentError, "threads=0"),
        (lambda m: sw.race({"a": m, "b": m}, X, rounds=3), ArgumentError, "8 at least"),
        (lambda m: sw.race({"a": m, "b": m}, X, seconds=0), ArgumentError, "seconds=0"),
        (lambda m: sw.race({"a": m, "b": m}, X, runtime="tensorrt"), ArgumentError, "no runtime 'tensorrt'"),
        (lambda m: sw.race({"a": m, "b": m}, X, runtime="openvino"), ArgumentError, "ends in .xml"),
        (lambda m: sw.race({"a": m, "b": no_file()}, X), FileError, "there is no file"),
        (lambda m: sw.race({"a": m, "b": __file__}, X), ArgumentError, "a file of no runtime"),
        (lambda m: sw.race({"a": m, "b": m}, X, round=9), ArgumentError, "did you mean 'rounds'"),  # type: ignore[call-overload]
        (lambda _: sw.performance.memory({}, X), ArgumentError, "needs a model at least"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(call: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        call(Repeated())


def test_a_runtime_that_is_not_installed_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{name}.onnx" for name in "ab"]
    for path in paths:
        path.write_bytes(b"nothing")
    monkeypatch.setattr("shrinkwidget.performance.runtimes.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r'needs onnxruntime: pip install "shrinkwidget\[onnx\]"'):
        sw.race({"a": paths[0], "b": str(paths[1])}, X)
    with pytest.raises(ArgumentError, match="runs in torch, and the others in onnxruntime"):
        sw.race({"a": paths[0], "b": Repeated()}, X)


def test_a_model_that_fails_or_inputs_that_do_not_fit_are_told_by_name() -> None:
    with pytest.raises(DataError, match="'b' cannot be run: ValueError: of no use today"):
        sw.race({"a": nn.Identity(), "b": Fails()}, X)
    with pytest.raises(ShrinkError, match=r"ended early \(exit code 7\)"):
        sw.race({"a": Dies(), "b": Repeated()}, X)


def test_inputs_are_repeated_or_cut_to_the_batch() -> None:
    args, kwargs = races._batched("race", {"x": X, "n": torch.arange(3), "flag": True}, 5, for_torch=True)
    assert args == ()
    assert torch.equal(kwargs["x"], X[[0, 1, 2, 0, 1]])
    assert torch.equal(kwargs["n"], torch.tensor([0, 1, 2, 0, 1]))
    assert kwargs["flag"] is True
    (cut,), _ = races._batched("race", X.numpy(), 2, for_torch=False)
    assert isinstance(cut, np.ndarray)
    assert np.array_equal(cut, X[:2].numpy())
    feed = by_name(["x", "mask"], ((X.numpy(),), {"mask": np.ones(3)}))
    assert list(feed) == ["x", "mask"]
    with pytest.raises(DataError, match="the file takes x, mask"):
        by_name(["x", "mask"], ((X.numpy(),), {"masks": np.ones(3)}))


def test_memory_grows_with_the_model_in_a_process_of_its_own() -> None:
    models = {"small": Repeated(), "wide": nn.Sequential(nn.Linear(64, 65_536), nn.Linear(65_536, 64))}
    found = sw.performance.memory(models, X)
    small, large = found.models
    assert small.activations == sw.summary(models["small"], X).peak_activation
    assert large.outputs == {"0": 3 * 65_536 * 4, "1": 3 * 64 * 4}
    assert sw.results.Memory.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "after 3 runs" in repr(found)
    assert "peak" in found._repr_html_()
    if sys.platform == "linux":
        weights = sum(p.nbytes for p in models["wide"].parameters())  # 33.8 MB
        assert small.added is not None
        assert large.added is not None
        assert 0.8 * weights < large.added - small.added < 2.5 * weights
        assert (large.peak or 0) >= (large.loaded or 0) > (large.imported or 0)


def test_a_counter_of_energy_counts_only_if_it_moves(tmp_path: Path) -> None:
    assert EnergyCounter(tmp_path).per_run(lambda: None) is None  # a machine without one
    package, inside = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for folder in (package, inside):
        folder.mkdir()
        (folder / "energy_uj").write_text("5000000")
        (folder / "max_energy_range_uj").write_text("6000000")
    assert EnergyCounter(tmp_path).per_run(lambda: None, seconds=0.01) is None  # it stands still

    def spend(microjoules: int) -> None:
        now = int((package / "energy_uj").read_text())
        (package / "energy_uj").write_text(str((now + microjoules) % 6_000_000))

    counter = EnergyCounter(tmp_path)
    joules = counter.per_run(lambda: spend(500_000), seconds=0)  # three runs
    assert joules == pytest.approx(0.5)  # across its end, where it begins at zero, and without the domain inside
    (package / "energy_uj").unlink()
    assert counter.per_run(lambda: None) is None


def test_energy_in_theory_is_a_ratio_by_the_table_and_says_so() -> None:
    wide, narrow = nn.Linear(64, 64, bias=False), nn.Linear(64, 16, bias=False)
    (found,) = sw.performance.energy_in_theory({"wide": wide, "narrow": narrow}, X[:1])
    assert (found.macs, found.traffic) == ((4096, 1024), (16384, 4096))
    assert (found.low, found.high) == (4, 4)
    assert repr(found) == "narrow: 4.00× less than wide (arithmetic and traffic, 45 nm table (Horowitz 2014), theory)"
    (found,) = sw.performance.energy_in_theory({"once": Repeated(), "twice": Repeated(2)}, X[:1])
    weights = (64 * 64 + 64) * 4 / 8
    ends = [(4.6 * 4096 + weights * dram) / (4.6 * 8192 + weights * dram) for dram in (1300, 2600)]
    assert (found.low, found.high) == pytest.approx(tuple(sorted(ends)))
    with pytest.raises(ArgumentError, match="needs two contestants"):
        sw.performance.energy_in_theory({"one": wide}, X)
    with pytest.raises(DataError, match="'none' multiplies nothing"):
        sw.performance.energy_in_theory({"none": nn.LayerNorm(64), "wide": wide}, X)


def test_a_module_that_holds_a_compiled_function_is_sent_by_its_class() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, activation=nn.functional.gelu)  # torch._C._nn's, in no file
    sent, homes = pickled(layer)
    assert sent
    assert "torch" in homes
    assert not any(home.startswith("torch._C") for home in homes)
