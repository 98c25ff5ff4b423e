"""Pruning and retraining in turns ends exactly where it was to go, and every round keeps what the one before pruned."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shrinkwidget import demo
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import ModelError, RecipeError, TrainingError
from shrinkwidget.evaluation.evaluate_and_metrics import evaluate
from shrinkwidget.recipe_and_method_registry import Keep, Recipe
from shrinkwidget.training.methods_schedule_options_and_progress import (
    FineTune,
    LearningRateRewinding,
    Schedule,
    WeightRewinding,
    iterative_recipes,
)
from shrinkwidget.training.retrain_and_training_run import prune_and_retrain

from .training_helpers import TEST, TRAIN, mlp, points, told, trainer

SHORT = Schedule(epochs=2, lr=0.05)


def test_each_round_prunes_a_fifth_of_what_remains_and_the_last_what_is_missing() -> None:
    recipes = iterative_recipes(0.9)
    assert [r.sparsity for r in recipes] == pytest.approx([1 - 0.8**r for r in range(1, 11)] + [0.9])
    assert [r.sparsity for r in iterative_recipes(1 - 0.8**3)] == pytest.approx([0.2, 0.36, 0.488])


@given(st.floats(0.001, 0.999), st.integers(1, 20))
def test_a_number_of_rounds_prunes_the_same_fraction_in_each(sparsity: float, rounds: int) -> None:
    densities = [1.0, *(1 - r.sparsity for r in iterative_recipes(sparsity, rounds))]
    assert len(densities) == rounds + 1
    assert densities[-1] == 1 - sparsity
    assert [b / a for a, b in pairwise(densities)] == pytest.approx([(1 - sparsity) ** (1 / rounds)] * rounds)


def test_bits_come_with_the_last_round_and_layers_of_their_own_keep_the_pace() -> None:
    target = Recipe(sparsity=0.75, bits=4, uncompressed_bits=16, layers={"0": dict(sparsity=0.4375, bits=8), "4": Keep})
    first, last = iterative_recipes(target, 2)
    assert last == target
    assert (first.bits, first.uncompressed_bits) == (32, 32)
    assert first.sparsity == pytest.approx(0.5)
    assert first.layers == {"0": {"sparsity": pytest.approx(0.25)}, "4": Keep}


def test_what_cannot_be_done_in_rounds_is_done_in_one() -> None:
    for target in (Recipe(bits=4), Recipe(structure="2:4"), Recipe(sparsity=0.5, layers={"0": dict(structure="1:4")})):
        assert iterative_recipes(target) == iterative_recipes(target, 1) == (target,)
        with pytest.raises(TrainingError, match=r"rounds=2: Recipe\(.*\) (prunes nothing|has an n:m pattern).*: take"):
            iterative_recipes(target, 2)


def test_the_last_round_is_the_recipe_to_the_weight_and_no_pruned_weight_comes_back() -> None:
    steps = trainer(
        mlp(),
        LearningRateRewinding(SHORT),
        eval_data=points(30, seed=1),
        recipes=iterative_recipes(Recipe(sparsity=0.8, bits=4), 3),
    )
    zeros = [
        steps.train_step.network.get_parameter("0.weight").detach() == 0 for now in told(steps) if now.phase == "prune"
    ]
    assert len(zeros) == 3
    assert all(bool((later | ~before).all()) for before, later in pairwise(zeros))
    small = steps.best()
    assert small.estimate is not None
    assert small.estimate.sparsity == pytest.approx(round(0.8 * 176) / 176)
    assert small.provenance == "retrained 3 rounds of 2 epochs, learning rate rewound, quantization-aware"
    assert [p["sparsity"] for p in steps.log.points] == sorted(p["sparsity"] for p in steps.log.points)
    assert [p["nbytes"] for p in steps.log.points] == sorted((p["nbytes"] for p in steps.log.points), reverse=True)
    assert [(h["round"], h["epoch"]) for h in steps.log.history] == [(r, e) for r in (1, 2, 3) for e in (1, 2)]
    assert steps.log.baseline is not None


def test_every_round_of_weight_rewinding_starts_from_the_early_weights() -> None:
    early = mlp(seed=3).state_dict()
    steps = trainer(mlp(), WeightRewinding(SHORT, early), recipes=iterative_recipes(0.5, 2))
    for now in told(steps):
        if now.phase == "prune":
            weight = steps.train_step.network.get_parameter("0.weight").detach()
            assert torch.equal(weight, torch.where(weight == 0, 0.0, early["0.weight"]))


def test_digits_at_a_tenth_of_the_weights_keep_their_accuracy() -> None:
    small = prune_and_retrain(demo.model(), TRAIN, TEST, Recipe(sparsity=0.9, bits=4), FineTune(2, lr=0.02), rounds=2)
    assert evaluate(small, TEST).value > evaluate(compress(demo.model(), small.recipe), TEST).value + 0.3


def test_one_sentence_for_what_cannot_be() -> None:
    with pytest.raises(ModelError, match=r"cannot prune a CompressedModel: give the dense nn\.Module"):
        prune_and_retrain(compress(mlp(), Recipe()), points())  # type: ignore[call-overload]
    with pytest.raises(RecipeError, match="expected a Recipe or a sparsity, got a str"):
        prune_and_retrain(mlp(), points(), recipe="90%")  # type: ignore[call-overload]
    with pytest.raises(TrainingError, match="rounds=0 must be a whole number from 1"):
        prune_and_retrain(mlp(), points(), rounds=0)


def test_a_regime_counts_the_rounds_that_are_over() -> None:
    recipes = tuple(Recipe(sparsity=sparsity) for sparsity in (0.4, 0.6, 0.8))
    job = trainer(mlp(), FineTune(2, lr=0.01), recipes=recipes).spec
    assert job.provenance(2, 2) == "fine-tuned 3 rounds of 2 epochs"
    assert job.provenance(1, 2) == "fine-tuned 2 of 3 rounds of 2 epochs"
    assert job.provenance(1, 1).startswith("fine-tuned 1 of 2 epochs in round 2 of 3")
