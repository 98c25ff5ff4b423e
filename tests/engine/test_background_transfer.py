"""A transfer in the background is a run as any: watched through all its stages, stopped, and its result the same."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget.errors import ModelError, ShrinkError
from shrinkwidget.training.methods_schedule_options_and_progress import Progress
from shrinkwidget.training.retrain_and_training_run import TrainingRun
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import (
    FullFineTune,
    GradualUnfreezing,
    LinearProbe,
    LoRA,
)

from .packed_file_helpers import same

SECONDS = 120
FEW = sw.demo.few(3)
TEST = tuple(part[:128] for part in sw.demo.data("valid"))
STAGES = GradualUnfreezing(epochs=2, first=LinearProbe(epochs=3))


def taught(strategy: Any, source: Any = None, **options: Any) -> Any:
    """Give the demo network a new head, and teach it from a few digits."""
    return sw.transfer(source or sw.demo.model(), FEW, TEST, strategy=strategy, **options)


@pytest.mark.parametrize(("strategy", "sparsity"), [(LinearProbe(epochs=4), 0.0), (STAGES, 0.8), (LoRA(epochs=2), 0.0)])
def test_it_comes_to_what_one_that_blocks_comes_to(strategy: Any, sparsity: float) -> None:
    source: Any = sw.demo.model()
    if sparsity:
        source = sw.compress(source, sparsity=sparsity)
    blocking = taught(strategy, source)
    run = taught(strategy, source, background=True)
    assert run.wait(SECONDS)
    assert run.state == "done"
    assert same(run.result.model.state_dict(), blocking.model.state_dict())
    assert run.result.provenance == blocking.provenance
    assert run.result.score.value == run.score.value == blocking.score.value
    assert [row["loss"] for row in run.history] == [row["loss"] for row in blocking.history]
    assert run.result.cost.macs == blocking.cost.macs
    assert (run.result.compressed is None) == (not sparsity)


def test_stages_are_told_as_rounds_of_their_own_length() -> None:
    seen: list[Progress] = []
    go = threading.Event()

    def hold(x: torch.Tensor) -> torch.Tensor:
        assert go.wait(SECONDS)
        return x

    run = taught(STAGES, baseline=sw.methods.Schedule(epochs=4), background=True, augment=hold)
    run.observe(lambda run: seen.append(run.progress))
    go.set()
    assert run.wait(SECONDS)
    told = {(now.round, now.stage) for now in seen if now and now.phase == "train"}
    names = ["stage 1 of 3", "stage 2 of 3", "stage 3 of 3", "from scratch"]
    assert told == set(enumerate(names, start=1))
    last = seen[-1]
    assert (last.rounds, last.epochs_by_round) == (4, (3, 2, 2, 4))
    assert [(row["round"], row["epoch"]) for row in run.history] == [
        (1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2), (4, 1), (4, 2), (4, 3), (4, 4),
    ]  # fmt: skip
    assert last.plan == "4 stages of 3 + 2 + 2 + 4 epochs"
    assert len(run.result.history) == 7
    assert len(run.result.baseline.history) == 4
    assert run.baseline.value != run.result.score.value


@pytest.mark.parametrize("strategy", [LinearProbe(epochs=20_000), FullFineTune(epochs=500), LoRA(epochs=500)])
def test_a_stop_is_obeyed_and_the_best_so_far_is_kept(strategy: Any) -> None:
    run: TrainingRun[Any] = taught(strategy, baseline=True, background=True)
    end = time.monotonic() + SECONDS
    while len(run.history) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    meanwhile = run.best
    assert sw.evaluate(meanwhile.model, TEST).n == 128
    assert meanwhile.cost.examples >= 2 * 30
    run.stop()
    assert run.wait(20)
    assert run.state == "stopped"
    assert run.result.baseline is None
    assert run.result.score is not None
    assert run.score is not None
    assert run.result.score.value == run.score.value
    assert 2 <= len(run.result.history) < 500 or isinstance(strategy, LinearProbe)


def test_a_stop_while_features_are_computed_is_obeyed() -> None:
    reached, go = threading.Event(), threading.Event()

    class Slow(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 300

        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            if i == 200:
                reached.set()
                assert go.wait(SECONDS)
            return FEW[0][i % 30], int(FEW[1][i % 30])

    run = sw.transfer(sw.demo.model(), Slow(), classes=10, strategy=LinearProbe(epochs=50), background=True)
    assert reached.wait(SECONDS)
    assert run.progress is not None
    assert run.progress.phase == "features"
    run.stop()
    go.set()
    assert run.wait(SECONDS)
    assert run.state == "stopped"
    assert run.result.history == []


def test_what_goes_wrong_at_once_is_raised_at_once_and_later_ends_the_run_with_the_best() -> None:
    with pytest.raises(ModelError, match="there is none"):
        taught(LinearProbe(epochs=1), head="nothing", background=True)
    run = taught(GradualUnfreezing(epochs=2, first=LinearProbe(epochs=2), lr=1e30), background=True)
    assert run.wait(SECONDS)
    assert run.state == "failed"
    assert isinstance(run.error, ShrinkError)
    assert len(run.history) == 2
    assert sw.evaluate(run.best.model, TEST).n == 128
    with pytest.raises(ShrinkError, match="NaN"):
        _ = run.result


def test_one_model_may_be_taught_several_tasks_at_once() -> None:
    source = sw.demo.model()
    runs = [taught(LinearProbe(epochs=3), source, background=True) for _ in range(2)]
    assert all(run.wait(SECONDS) for run in runs)
    assert [run.state for run in runs] == ["done", "done"]


def test_a_transfer_is_saved_and_loaded_as_a_compressed_model_is(tmp_path: Path) -> None:
    for source in (sw.demo.model(), sw.compress(sw.demo.model(), sparsity=0.8, bits=4)):
        found = taught(LinearProbe(epochs=2), source)
        assert (
            found.save(tmp_path / "found.safetensors")
            == found.nbytes
            == (tmp_path / "found.safetensors").stat().st_size
        )
        again = sw.load(tmp_path / "found.safetensors", into=sw.demo.model())
        assert same(again.state_dict(), found.model.state_dict())


def test_a_model_that_returns_features_has_no_head() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=16, patch_size=8
    )
    data = torch.randn(12, 3, 16, 16), torch.arange(12) % 3
    words = r"no head in this ViTModel: it returns features \('last_hidden_state', 'pooler_output'\).*'pooler\.dense'"
    with pytest.raises(ModelError, match=words):
        sw.transfer(transformers.ViTModel(config), data, strategy=LinearProbe(epochs=1))
    named = sw.transfer(transformers.ViTModel(config), data, head="pooler.dense", strategy=LinearProbe(epochs=1))
    assert named.model(data[0]).pooler_output.shape == (12, 3)
    classifier = sw.transfer(transformers.ViTForImageClassification(config), data, strategy=LinearProbe(epochs=1))
    assert classifier.head == "classifier"
