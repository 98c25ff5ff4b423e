"""The explorer's budget: recipes along increasing bytes, planned around what the user has said of single layers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import RLock
from typing import Any, Final

from ..analysis.sketch import Sketch
from ..errors import NoEstimateError, ShrinkError
from ..planning.bit_allocation import HEADER_ROOM, BitAllocation, allocate
from ..planning.plan import plan
from ..planning.uniform_recipes import estimated_bytes
from ..recipe_and_method_registry import Override, Recipe

_BUDGETS: Final = 64  # as many as the page remembers


class BudgetFrontier:
    """The best recipe for every budget, as far as a recipe's own settings and locks leave the choice.

    A lock is what the user said of a layer: `Keep`, bits or a sparsity of its own. A planned recipe has an override for
    nearly every layer, too, so that what a lock is shows only beside the plan: overrides that a planned recipe does not
    have.
    """

    def __init__(self, sketch: Callable[[], Sketch]) -> None:
        self._sketch = sketch  # asked for each time: it learns of channels later, and a closed explorer has none
        self._lock = RLock()  # the worker plans for the page, and whoever sets a budget in Python
        self._asked: Recipe | None = None
        self._steps: BitAllocation | None = None
        self._planned: dict[int, Recipe | None] = {}  # by budget, so that such a recipe is known again

    def steps(self, recipe: Recipe) -> BitAllocation:
        """Return the allocation around a recipe's settings and locks; it is made anew only where these are others.

        Raises:
            ArgumentError: if the recipe leaves nothing to plan.
            NoEstimateError: for a kind of which a sketch cannot tell what it comes to.
        """
        with self._lock:
            asked = self.settings(recipe)
            if self._steps is None or asked != self._asked:
                self._steps, self._asked = allocate(self._sketch(), asked), asked
                self._planned = dict.fromkeys(self._planned)
            return self._steps

    def recipe(self, budget: int, recipe: Recipe) -> Recipe:
        """Return the best recipe of at most so many bytes, beside what another one says; raises as `sw.plan` does."""
        with self._lock:
            self._planned = dict([*self._planned.items(), (budget, None)][-_BUDGETS:])
            self.steps(recipe)
            found = self._of(budget)
        look = self._sketch()
        if found is None or budget > look.original_nbytes:  # it says what is possible, and why
            return plan(look, budget, recipe=self._asked).recipe
        return found

    def settings(self, recipe: Recipe) -> Recipe:
        """Return what a recipe says beside what is planned: how weights are ranked and rounded, and locks."""
        locks = self._locks(recipe)
        free = {} if recipe.structure.sparsity is not None else {"sparsity": 0.0}
        return recipe.with_(bits=32, scope="layer", layers=locks, **free)

    def to_dict(self, recipe: Recipe) -> dict[str, Any]:
        """Return what the page needs to follow a budget that is dragged: the frontier, and for which recipe it holds.

        It also holds for every recipe of these settings (`settings`, as JSON), and for those of the frontier itself.
        """
        try:
            steps = self.steps(recipe)
        except ShrinkError as error:
            return {"of": recipe.to_json(), "settings": "", "why": str(error), "frontier": None}
        assert self._asked is not None  # `steps` has set it
        about = {"of": recipe.to_json(), "settings": self._asked.to_json(), "why": ""}
        return {**about, "frontier": steps.to_dict()}

    def _locks(self, recipe: Recipe) -> dict[str, Override]:
        """Return the overrides that are the user's own, and not those of the last plan."""
        said = dict(recipe.layers)
        if self._steps is None or self._asked is None:
            return said
        planned = self._nearest(recipe)
        from_plan = {name for name, own in said.items() if name in planned and planned[name] == own}
        own = {name: own for name, own in said.items() if name not in from_plan}
        if not from_plan:  # it comes from no plan
            return own
        reset = planned.keys() - said.keys()  # the user took back what was planned, and with it a lock
        kept = {name: lock for name, lock in self._asked.layers.items() if name not in reset and name not in own}
        return kept | own

    def _of(self, budget: int) -> Recipe | None:
        """Return the recipe for a budget, looked up once for each allocation; None if it is below the smallest file."""
        found = self._planned.get(budget)
        if found is None:
            assert self._steps is not None
            steps = self._steps.within(budget)
            found = None if steps is None else self._steps.recipe(steps)
            if budget in self._planned:
                self._planned[budget] = found
        return found

    def _nearest(self, recipe: Recipe) -> dict[str, Override]:
        """Return the overrides of the planned recipe that has most of those of a recipe.

        It is one of any number of steps in turn, or one for a budget that was asked for, where others fill what is
        left. A plan that nobody asked for here came from Python, unchanged: its own bytes are as good as its budget.
        """
        steps, said = self._steps, recipe.layers
        assert steps is not None
        assert self._asked is not None

        def alike_in(planned: Recipe) -> int:
            return sum(said.get(name) == own for name, own in planned.layers.items())

        found = [planned for budget in self._planned if (planned := self._of(budget)) is not None]
        all_told = sum(self._asked.layers.get(name) != own for name, own in said.items())
        if max(map(alike_in, found), default=0) < all_told:
            with suppress(NoEstimateError):
                own_bytes = self._of(estimated_bytes(self._sketch(), recipe) + HEADER_ROOM)
                found += [] if own_bytes is None else [own_bytes]
        now = steps.start.tolist()

        def matches(place: int, choice: int) -> bool:
            return said.get(steps.layers[place]) == steps.overrides[choice]

        alike = [sum(matches(place, choice) for place, choice in enumerate(now))]
        for place, choice in zip(steps.step_layer.tolist(), steps.step_choice.tolist(), strict=True):
            alike.append(alike[-1] + matches(place, choice) - matches(place, now[place]))
            now[place] = choice
        found.append(steps.recipe(alike.index(max(alike))))
        return dict(max(found, key=alike_in).layers)
