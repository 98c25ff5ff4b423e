"""One settled recipe is resolved, ranked and coded once: figures, score and file all follow from its codes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

import shrinkwidget as sw
from shrinkwidget.measure.parallel import never
from shrinkwidget.recipe import Recipe
from shrinkwidget.shrink import compress, prune
from shrinkwidget.widgets.bench import Bench


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
    counting(prune, "prune_smallest")
    counting(compress, "code")
    return counted


def settled(bench: Bench, recipe: Recipe) -> tuple[Any, Any]:
    """Do what the explorer does for a recipe that rests: figures, score, download."""
    bench.check(recipe)
    bench.exact(recipe, never)
    score = list(bench.scores(recipe, never))[-1]
    return bench.download(recipe, never), score


def test_a_settled_recipe_is_resolved_ranked_and_coded_once(calls: Counter[str]) -> None:
    bench = Bench(sw.demo.model(), sw.demo.data())
    layers = len(bench.sketch.layers)
    recipe = sw.Recipe(sparsity=0.9, bits=4, layers={"stem": dict(bits=8)})
    figures, score = settled(bench, recipe)
    assert calls == {"_plan": layers, "prune_smallest": 1, "code": layers}
    small = sw.compress(sw.demo.model(), recipe)
    assert (figures.nbytes, figures.download) == (small.nbytes, small.download)
    assert score.value == sw.evaluate(small, sw.demo.data()).value


def test_a_recipe_that_was_left_and_comes_back_is_coded_anew_only_for_its_score(calls: Counter[str]) -> None:
    bench = Bench(sw.demo.model(), sw.demo.data())
    first, second = sw.Recipe(sparsity=0.5), sw.Recipe(bits=4)
    before = settled(bench, first)
    settled(bench, second)
    calls.clear()
    assert settled(bench, first) == before
    assert calls["code"] == 0  # all of it was remembered


def test_a_state_dict_is_coded_once_for_its_figures_and_its_download(calls: Counter[str]) -> None:
    bench = Bench({"w": torch.randn(20, 30, generator=torch.Generator().manual_seed(0))})
    recipe = sw.Recipe(sparsity=0.5, bits=3)
    assert bench.download(recipe, never).nbytes == bench.exact(recipe, never).nbytes
    assert calls["code"] == calls["prune_smallest"] == 1
