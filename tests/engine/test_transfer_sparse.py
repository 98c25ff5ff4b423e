"""A pruned model learns another task with its zeros where they are, and is a compressed model in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget import demo
from shrinkwidget.compressed_model import CompressedModel
from shrinkwidget.errors import ModelError, TrainingError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Keep, Recipe
from shrinkwidget.transfer_learning.transfer_strategies_and_lora import (
    FullFineTune,
    GradualUnfreezing,
    LinearProbe,
    LoRA,
)

from .packed_file_helpers import same
from .test_transfer import PARITY
from .training_helpers import TEST, mlp, points


def check_masks(small: CompressedModel, after: CompressedModel, head: str) -> None:
    for name, item in small.encoded.items():
        if name == head or item.keep is None:
            continue
        now = after.encoded[name]
        assert now.keep is not None, name
        assert torch.equal(now.keep, item.keep), name
        assert after.model is not None
        assert not bool(after.model.get_parameter(name).detach().reshape(-1)[~item.keep].any()), name


@pytest.mark.parametrize(
    "asked, strategy",
    [
        (dict(sparsity=0.9), LinearProbe(5)),
        (dict(sparsity=0.9), FullFineTune(2)),
        (dict(sparsity=0.9), LoRA(epochs=2)),
        (dict(sparsity=0.8, scope="layer"), GradualUnfreezing(3, epochs=1, first=LinearProbe(2))),
        (dict(structure="2:4"), FullFineTune(1)),
        (dict(sparsity=0.7, importance="random"), LinearProbe(5)),
    ],
)
def test_masks_hold_and_the_new_head_is_dense(strategy: Any, asked: dict[str, Any]) -> None:
    small = sw.compress(demo.model(), Recipe(**asked))
    before = small.state_dict()
    done = sw.transfer(small, PARITY, (TEST[0], TEST[1] % 2), strategy=strategy)
    assert done.compressed is not None
    check_masks(small, done.compressed, "head.weight")
    assert done.compressed.encoded["head.weight"].keep is None
    assert same(before, small.state_dict())
    assert same(done.model.state_dict(), done.compressed.state_dict())
    assert done.score is not None
    assert done.score.provenance == done.compressed.provenance == done.provenance
    assert 0.4 < done.history[-1]["sparsity"] < 0.95


@pytest.mark.parametrize(
    "grid",
    [
        dict(bits=4),
        dict(bits=2, granularity="tensor"),
        dict(bits=3, quantizer="kmeans"),
        dict(bits=1),
        dict(bits=8, clipping="mse"),
    ],
)
@pytest.mark.parametrize("strategy", [LinearProbe(3), FullFineTune(1)])
def test_grids_are_trained_through_and_the_files_hold_what_was_scored(
    strategy: Any, grid: dict[str, Any], tmp_path: Path
) -> None:
    small = sw.compress(demo.model(), Recipe(sparsity=0.7, **grid))
    done = sw.transfer(small, PARITY, PARITY, strategy=strategy)
    assert done.compressed is not None
    check_masks(small, done.compressed, "head.weight")
    assert done.compressed.encoded["head.weight"].plan.bits == grid["bits"]
    aware = isinstance(strategy, FullFineTune)
    assert ("quantization-aware" in done.provenance) == aware
    done.compressed.save(tmp_path / "small.safetensors")
    again = sw.load(tmp_path / "small.safetensors")
    assert same(again.state_dict(), done.model.state_dict())
    assert done.score is not None
    assert evaluate(done.model, PARITY).value == done.score.value


def test_a_backbone_on_a_grid_stays_bit_for_bit_under_a_new_head() -> None:
    small = sw.compress(demo.model(), Recipe(sparsity=0.8, bits=4))
    done = sw.transfer(small, PARITY, strategy=LinearProbe(3))
    before, after = small.state_dict(), done.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("head."))


def test_the_recipe_may_keep_the_head_or_prune_it() -> None:
    kept = sw.compress(mlp(), Recipe(sparsity=0.5, bits=4, layers={"4": Keep}))
    done = sw.transfer(kept, points(), strategy=FullFineTune(2)).compressed
    assert done is not None
    assert "4.weight" not in done.encoded
    pruned = sw.compress(mlp(), Recipe(sparsity=0.5, layers={"4": dict(sparsity=0.25)}))
    for strategy in (LinearProbe(3), FullFineTune(2)):
        done = sw.transfer(pruned, points(), classes=4, strategy=strategy).compressed
        assert done is not None
        assert done.encoded["4.weight"].kept == 48


def test_the_regime_says_all_that_was_done() -> None:
    small = sw.retrain(sw.compress(mlp(), Recipe(sparsity=0.5)), points(), method=sw.methods.FineTune(2, lr=0.01))
    done = sw.transfer(
        small, points(), points(), strategy=LinearProbe(3), baseline=sw.methods.Schedule(1, lr=0.1, warmup=0)
    )
    assert done.provenance == "fine-tuned 2 epochs, then transferred, new head trained 3 epochs"
    assert done.baseline is not None
    assert done.baseline.compressed is None
    assert done.baseline.provenance == "trained from scratch 1 epoch"
    assert "bytes" in done._repr_html_()


def test_low_rank_updates_do_not_go_with_few_bits() -> None:
    with pytest.raises(TrainingError, match=r"LoRA\(\) trains no weights in fewer than 32 bits"):
        sw.transfer(sw.compress(mlp(), Recipe(bits=4)), points(), strategy=LoRA())


def test_a_file_without_a_model_says_what_to_do(tmp_path: Path) -> None:
    sw.compress(mlp(), Recipe(bits=4)).save(tmp_path / "small.safetensors")
    with pytest.raises(ModelError, match=r"load the file with load\(path, into=model\)"):
        sw.transfer(sw.load(tmp_path / "small.safetensors"), points())
