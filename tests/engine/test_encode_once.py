"""One settled recipe is resolved, ranked and coded once: figures, score and file all follow from its codes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import never
from shrinkwidget.compression import encode_layers_and_packed_model, importance_scores_and_pruning_masks
from shrinkwidget.recipe_and_method_registry import Recipe
from shrinkwidget.widgets.explorer_backend import ExplorerSession


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often a plan is made, all layers are ranked, and a layer is coded."""
    counted: Counter[str] = Counter()

    def counting(where: Any, name: str) -> None:
        before = getattr(where, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            counted[name] += 1
            return before(*args, **kwargs)

        monkeypatch.setattr(where, name, call)

    counting(Recipe, "_plan")
    counting(importance_scores_and_pruning_masks, "prune_smallest")
    counting(encode_layers_and_packed_model, "encode_layer")
    return counted


def settled(session: ExplorerSession, recipe: Recipe) -> tuple[Any, Any]:
    """Do what the explorer does for a recipe that rests: figures, score, download."""
    session.check(recipe)
    session.exact(recipe, never)
    score = list(session.scores(recipe, never))[-1]
    return session.nbytes_entropy_coded(recipe, never), score


def test_a_settled_recipe_is_resolved_ranked_and_coded_once(calls: Counter[str]) -> None:
    session = ExplorerSession(sw.demo.model(), sw.demo.data())
    layers = len(session.sketch.layers)
    recipe = sw.Recipe(sparsity=0.9, bits=4, layers={"stem": dict(bits=8)})
    figures, score = settled(session, recipe)
    # a plan for the stem's override, and one for all other layers
    assert calls == {"_plan": 2, "prune_smallest": 1, "encode_layer": layers}
    small = sw.compress(sw.demo.model(), recipe)
    assert (figures.nbytes, figures.nbytes_entropy_coded) == (small.nbytes, small.nbytes_entropy_coded)
    assert score.value == sw.evaluate(small, sw.demo.data()).value


def test_a_recipe_that_was_left_and_comes_back_is_coded_anew_only_for_its_score(calls: Counter[str]) -> None:
    session = ExplorerSession(sw.demo.model(), sw.demo.data())
    first, second = sw.Recipe(sparsity=0.5), sw.Recipe(bits=4)
    before = settled(session, first)
    settled(session, second)
    calls.clear()
    assert settled(session, first) == before
    assert calls["encode_layer"] == 0  # all of it was remembered


def test_a_state_dict_is_coded_once_for_its_figures_and_its_download(calls: Counter[str]) -> None:
    session = ExplorerSession({"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0))})
    recipe = sw.Recipe(sparsity=0.5, bits=3)
    assert session.nbytes_entropy_coded(recipe, never).nbytes == session.exact(recipe, never).nbytes
    assert calls["encode_layer"] == calls["prune_smallest"] == 1
