"""The explorer's budget: the recipe of `sw.plan`, around locks that are told from the plan's own overrides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from traitlets import TraitError

import shrinkwidget as sw
from shrinkwidget.widgets.budget_frontier import BudgetFrontier
from shrinkwidget.widgets.explorer import Explorer
from shrinkwidget.widgets.explorer_backend import ExplorerSession

SECONDS = 120
LOCKS: dict[str, Any] = {"stem": sw.Keep, "head": dict(bits=8)}
LOOK = sw.sketch(sw.demo.model())


@pytest.fixture
def ex() -> Iterator[Explorer]:
    explorer = sw.explore(sw.demo.model(), layers=LOCKS)
    yield explorer
    explorer.close()


def test_a_budget_makes_the_recipe_of_a_plan_and_another_recipe_ends_it(ex: Explorer) -> None:
    for given, nbytes in (("64 kB", 64_000), (123_456, 123_456), ("10x", 69_932)):
        ex.budget = given
        assert ex.budget == nbytes
        assert ex.recipe == sw.plan(LOOK, nbytes, recipe=sw.Recipe(layers=LOCKS)).recipe
        assert ex.wait(SECONDS)
        assert ex.estimate.exact
        assert ex.estimate.nbytes == ex.compress().nbytes <= nbytes
    ex.bits = 5
    assert ex.budget is None
    ex.budget = 64_000
    ex.budget = None
    assert ex.recipe == sw.plan(LOOK, 64_000, recipe=sw.Recipe(layers=LOCKS)).recipe
    other = sw.plan(LOOK, 80_000)
    ex.recipe = other  # type: ignore[assignment]  # what stands for a recipe, as everywhere else
    assert ex.recipe == other.recipe
    for name, words in (("channels", "a number"), ("sparsity", "a number"), ("bits", "a whole number")):
        with pytest.raises(TraitError, match=f"^{name}='a' must be {words}"):
            setattr(ex, name, "a")


def test_the_page_sends_budget_and_recipe_together(ex: Explorer) -> None:
    steps = ex._frontiers.steps(ex.recipe)
    at = steps.within(80_000)
    assert at is not None
    ex.set_state({"_recipe": steps.recipe(at).to_json(), "budget": 80_000})
    assert (ex.budget, ex.recipe) == (80_000, steps.recipe(at))
    ex.set_state({"_recipe": sw.Recipe(bits=3).to_json(), "budget": None})
    assert (ex.budget, ex.recipe) == (None, sw.Recipe(bits=3))
    ex.set_state({"budget": 3})  # the page cannot, and is told
    assert ex.budget is None


def test_the_page_gets_the_frontier_once_it_asks_and_a_reason_where_there_is_none(ex: Explorer) -> None:
    def planned() -> dict[str, Any]:
        ex._on_command(ex, {"do": "plan"}, [])
        assert ex.wait(SECONDS)
        return dict(ex._frontier)

    assert not ex._frontier
    told = planned()
    assert told["of"] == ex.recipe.to_json()
    assert told["settings"] == sw.Recipe(scope="layer", layers=LOCKS).to_json()
    assert told["frontier"] == ex._frontiers.steps(ex.recipe).to_dict()
    ex.recipe = sw.Recipe(layers={"*": sw.Keep})
    told = planned()
    assert (told["frontier"], "nothing to plan" in told["why"]) == (None, True)


def test_locks_are_what_the_plan_did_not_write() -> None:
    session = ExplorerSession(sw.demo.model())
    frontier = BudgetFrontier(lambda: session.sketch)
    locks = dict(frontier.settings(sw.Recipe(sparsity=0.5, bits=4, layers=LOCKS)).layers)
    assert locks == LOCKS
    for budget in (40_000, 90_000, 300_000):
        planned = frontier.recipe(budget, sw.Recipe(layers=LOCKS))
        assert frontier.settings(planned).layers == LOCKS
        edited = planned.with_layer("stage2.0.conv1", dict(bits=3))
        assert frontier.settings(edited).layers == {**LOCKS, "stage2.0.conv1": {"bits": 3}}
        quantizer = planned.with_(quantizer=sw.methods.Uniform(symmetric=True))
        assert frontier.settings(quantizer).layers == LOCKS
        free = planned.with_(layers={k: v for k, v in planned.layers.items() if k != "stem"})
        assert frontier.settings(free).layers == {"head": {"bits": 8}}
    # one that was made in Python: what filled its budget is no lock, either
    given = sw.plan(LOOK, 87_654, recipe=sw.Recipe(layers=LOCKS)).recipe
    assert frontier.settings(given).layers == LOCKS
    # undone, to before the plan, or reset
    assert frontier.settings(sw.Recipe(bits=2, layers={"head": dict(bits=8)})).layers == {"head": {"bits": 8}}
    assert frontier.settings(sw.Recipe()).layers == {}
    # planned anew around one more lock, which holds
    again = frontier.recipe(60_000, edited)
    assert again.resolve([layer.name for layer in LOOK.layers])[5].bits == 3
    assert frontier.settings(again).layers == {**LOCKS, "stage2.0.conv1": {"bits": 3}}


def test_wildcards_and_patterns_are_locks_too() -> None:
    session = ExplorerSession(sw.demo.model())
    frontier = BudgetFrontier(lambda: session.sketch)
    asked = sw.Recipe(layers={"stage3.*": dict(bits=4)})
    planned = frontier.recipe(60_000, asked)
    assert frontier.settings(planned).layers == asked.layers
    assert {plan.bits for plan in planned.resolve([layer.name for layer in LOOK.layers])[9:13]} == {4}
    pattern = frontier.recipe(60_000, sw.Recipe(structure="2:4"))
    assert frontier.settings(pattern).structure.sparsity == 0.5


@pytest.mark.parametrize(
    "given, sentence",
    [
        (1000, "the smallest file there is to choose has"),
        (10**9, "and the dense file has"),
        ("50 % MACs", "must be bytes of the file"),
        ("64 lightyears", "unknown unit"),
        ("64,5 kB", r"^budget='64,5 kB': a comma separates thousands"),
        ("", "budget"),
        (float("nan"), "budget"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_and_changes_nothing(ex: Explorer, given: object, sentence: str) -> None:
    before = ex.recipe
    with pytest.raises(sw.errors.ArgumentError, match=sentence):
        ex.budget = given
    assert (ex.budget, ex.recipe) == (None, before)


def test_a_number_is_a_sparsity(ex: Explorer) -> None:
    ex.recipe = 0.5  # type: ignore[assignment]
    assert (ex.recipe, ex.sparsity) == (sw.Recipe(0.5), 0.5)
    with pytest.raises(sw.errors.RecipeError, match="expected a Recipe or a sparsity, got a bool"):
        ex.recipe = True  # type: ignore[assignment]


def test_looking_again_forgets_the_plan(ex: Explorer) -> None:
    ex.budget = 64_000
    ex._look_again()
    assert ex.budget is None
    assert ex._frontier is None
