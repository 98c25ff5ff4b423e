"""`frontier`: the best recipe for each of several budgets, with what a network scores under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, overload

import numpy as np
from torch import nn

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.open_model_tensors_and_channel_axes import Source, copied
from ..analysis.sketch import Sketch
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import plain, public
from ..compressed_model import compress
from ..errors import ArgumentError, a_type, quoted
from ..evaluation.evaluate_and_metrics import MetricLike, Score
from ..evaluation.recalibrate_batchnorm import batch_norms
from ..evaluation.run_in_background import PATIENCE_SECONDS, GrowingRun, computed
from ..recipe_and_method_registry import Recipe, checked_recipe
from .budget_plan_and_reasons import BudgetPlan
from .budgets import Budget, parse_budget
from .output_error_of_candidates import EXAMPLES, OutputJudge, scored
from .plan import checked_examples, choices_from, listed, module_of, refuse_swapped, title_of
from .planner_and_candidate_recipes import WIDTHS, Planner

_POINTS: Final = 8


@dataclass(frozen=True, slots=True)
class Frontier:
    """The best recipes of several budgets; what `frontier` returns.

    Args:
        plans: the plan for each budget, the smallest first.
        scores: what the network scores under each of them; empty without `eval_data`.
        dense: the score of the dense model; None without `eval_data`.
        notes: in a sentence each, what was not done before they were scored.
        pending: how many budgets are still to be planned for: 0 unless it was stopped.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.frontier(sw.demo.model(), ["36 kB", "48 kB", "10x"])
        >>> [plan.budget for plan in found.plans]
        [36000, 48000, 69932]
        >>> len(found)
        3
    """

    plans: tuple[BudgetPlan, ...]
    scores: tuple[Score, ...] = ()
    dense: Score | None = None
    notes: tuple[str, ...] = ()
    pending: int = 0

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[BudgetPlan]:
        return iter(self.plans)

    @property
    def points(self) -> list[tuple[Estimate, Score]]:
        """What `figures.tradeoff` draws: sizes and scores; empty without `eval_data`.

        Example:
            >>> import shrinkwidget as sw
            >>> model, train, valid = sw.demo.model(), sw.demo.data("train"), sw.demo.data("valid")
            >>> found = sw.frontier(model, ["36 kB", "48 kB"], train, eval_data=valid)
            >>> figure = sw.figures.tradeoff(found.points, baseline=found.dense, x="nbytes")
        """
        return [(plan.estimate, score) for plan, score in zip(self.plans, self.scores, strict=bool(self.scores))]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every budget: rows of a table, or of a DataFrame.

        `error` is that of the network's outputs, `uniform` that of the best uniform recipe of the same size, and
        `value`, `low` and `high` the score with its interval, where they were measured.

        Example:
            >>> import shrinkwidget as sw
            >>> rows = sw.frontier(sw.demo.model(), ["36 kB", "48 kB"]).to_rows()
            >>> list(rows[0]), rows[0]["nbytes"] <= 36_000
            (['budget', 'nbytes', 'ratio', 'recipe', 'error', 'uniform', 'metric', 'value', 'low', 'high', 'n'], True)
        """
        rows = []
        for i, plan in enumerate(self.plans):
            score, judged = self.scores[i] if self.scores else None, plan.comparison
            uniform = judged.uniform if judged is not None else None
            rows.append(
                {
                    "budget": plan.budget,
                    "nbytes": plan.nbytes,
                    "ratio": plan.estimate.ratio,
                    "recipe": plan.recipe,
                    "error": plan.candidates[0].error if plan.candidates else None,
                    "uniform": None if uniform is None else uniform.error,
                    **{name: getattr(score, name, None) for name in ("metric", "value", "low", "high", "n")},
                }
            )
        return rows

    def __repr__(self) -> str:
        lines = []
        for i, plan in enumerate(self.plans):
            score = f"  {self.scores[i].text}" if self.scores else ""
            lines.append(f"  {plan.nbytes:>12,} bytes  {plan.estimate.ratio:6.1f}×{score}")
        dense = "" if self.dense is None else f", dense {self.dense.text}"
        many = "" if len(self) == 1 else "s"
        left = f", {self.pending} not planned" if self.pending else ""
        return "\n".join([f"Frontier of {len(self)} budget{many}{left}{dense}", *lines, *self.notes])


class FrontierRun(GrowingRun[Frontier]):
    """A frontier that `frontier` computes with ``background=True``; its `progress` is what is known so far.

    Every method may be called from any thread. `pause` takes effect after the budget that is being planned for, `stop`
    before the next batch: the result then has the budgets that were done.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.frontier(sw.demo.model(), ["36 kB", "48 kB"], background=True)
        >>> run.wait(), run
        (True, FrontierRun(DigitNet, done, 2 of 2 budgets))
        >>> [plan.budget for plan in run.result]
        [36000, 48000]
    """

    _what = "the frontier"
    _done = "planned"
    _first = "the model was sketched"

    def __repr__(self) -> str:
        now = self.progress
        where = "" if now is None else f", {len(now)} of {len(now) + now.pending} budgets"
        return f"FrontierRun({self._title}, {self.state}{where})"


@overload
def frontier(
    model: Source | Sketch,
    budgets: float | str | Sequence[float | str] | None = None,
    train_data: object = None,
    *,
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    example: object = None,
    examples: int = EXAMPLES,
    background: Literal[False] = False,
    progress: bool = True,
) -> Frontier: ...
@overload
def frontier(
    model: Source | Sketch,
    budgets: float | str | Sequence[float | str] | None = None,
    train_data: object = None,
    *,
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    example: object = None,
    examples: int = EXAMPLES,
    background: Literal[True],
    progress: bool = True,
) -> FrontierRun: ...
@public()
def frontier(
    model: Source | Sketch,
    budgets: float | str | Sequence[float | str] | None = None,
    train_data: object = None,
    *,
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    example: object = None,
    examples: int = EXAMPLES,
    background: bool = False,
    progress: bool = True,
) -> Frontier | FrontierRun:
    """Return the best recipe for each of several budgets: the curve of what so many bytes can be worth.

    >>> import shrinkwidget as sw
    >>> found = sw.frontier(sw.demo.model(), ["40 kB", "20x"])
    >>> [plan.nbytes <= plan.budget for plan in found]
    [True, True]

    Args:
        model: as for `plan`.
        budgets: one or several, of the packed file, as `plan` takes them; by default eight sizes from the smallest file
            to a quarter of the dense one, each larger by the same factor.
        train_data: examples without labels, by which plans are judged; see `plan`.
        recipe, limits: what is not chosen, and within what it is; see `plan`.
        eval_data, metric: what is scored, with batch norm recalibrated on `train_data` if there is any; as `evaluate`
            takes them.
        example: what the model runs on, for a recipe that removes channels; beside `train_data`, narrower networks
            compete, too. See `plan`.
        examples: so many are drawn from `train_data`.
        background: True for a `FrontierRun` on a thread of its own, already started, instead of the result. It works on
            a copy of the model as it is now, so you may go on with yours.
        progress: whether to show a bar, in a terminal or a notebook, while budgets are planned for.

    Raises:
        ArgumentError, RecipeError, DataError, ModelError, FileError: see `plan`.
    """
    refuse_swapped("frontier", model, budgets)
    # a loader is not read to see what it holds: it was meant as train_data
    several = listed(budgets) if isinstance(budgets, Sequence | np.ndarray) else [budgets]
    asked = None if budgets is None else [_parsed(budget) for budget in several]
    if asked == []:
        raise ArgumentError("frontier(budgets=[]) is empty: give at least one, or leave it out")
    if train_data is not None or eval_data is not None:
        module_of(model)
    many, choices = checked_examples(examples), choices_from(recipe)
    if background and isinstance(model, nn.Module):
        model = copied(model)  # the caller may train on with the one that was given

    def steps(stopped: Watch = never, patience: float | None = None) -> Iterator[Frontier]:
        judge = None
        if train_data is not None:
            judge = OutputJudge(module_of(model), train_data, many, stopped, patience)
        rest = Recipe() if recipe is None else checked_recipe(recipe)
        runs_on = judge.example() if example is None and judge is not None and rest.removes_channels else example
        widths = WIDTHS if example is not None and judge is not None else ()
        planner = Planner.of(
            model,
            None,
            runs_on,
            recipe=rest,
            choices=choices,
            limits=limits or {},
            judge=judge,
            widths=widths,
            stopped=stopped,
            patience=patience,
        )
        sizes = _sizes(planner, asked)
        norms, notes, dense = None, tuple[str, ...](), None
        if eval_data is not None:
            network = module_of(model)
            dense = scored(network, eval_data, metric, None, stopped, patience)
            if batch_norms(network) and judge is None:
                notes = ("batch norm was not recalibrated before the scores: give train_data=… for that",)
            elif batch_norms(network):
                norms = train_data
        found = Frontier((), (), dense, notes, pending=len(sizes))
        yield found
        for size, wanted in sizes.items():
            *_, plan = planner.for_file(size, wanted)
            scores = found.scores
            if eval_data is not None:
                small = compress(module_of(model), plan.recipe, sketch=planner.look, example=planner.example)
                scores = (*scores, scored(small, eval_data, metric, norms, stopped, patience))
            found = replace(found, plans=(*found.plans, plan), scores=scores, pending=found.pending - 1)
            yield found

    if background:
        return FrontierRun(title_of(model), lambda stopped: steps(stopped, PATIENCE_SECONDS)).start()
    return computed(steps(), "frontier", "budget", progress and (train_data is not None or eval_data is not None))


def _parsed(budget: Any) -> tuple[Budget, str]:
    """Return a budget of a frontier, and what messages call it."""
    if not isinstance(plain(budget), str | int | float):
        raise ArgumentError(
            f"frontier(budgets=…) are sizes such as '34 kB', and {a_type(budget)} is none: data comes after them, "
            f"frontier(model, budgets, train_data)"
        )
    wanted = parse_budget(budget, where="frontier(budgets=[{}])")
    if wanted.measure != "file":
        raise ArgumentError(f"frontier(budgets=…) are bytes of the packed file, and {budget!r} is not")
    return wanted, f"frontier(budgets=[{quoted(budget)}])"


def _sizes(planner: Planner, asked: Sequence[tuple[Budget, str]] | None) -> dict[int, str]:
    """Return the bytes of every budget, rising, and what messages call it."""
    dense = planner.look.original_nbytes
    if asked is not None:
        found = {wanted.of(dense): told for wanted, told in asked}
        return {size: found[size] for size in sorted(found)}
    least = int(planner.frontier.nbytes[0])
    sizes = np.geomspace(least, max(least, dense // 4), _POINTS).astype(int).tolist()
    return {size: f"frontier(budgets=[{size}])" for size in sizes}
