"""`frontier`: the best recipe for each of several budgets, with what a network scores under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..analysis.estimate import Estimate
from ..analysis.model_tensors import Source
from ..analysis.sketch import Sketch
from ..argument_checks import public
from ..compressed_model import compress
from ..errors import ArgumentError, quoted
from ..evaluation.batchnorm_statistics import batch_norms
from ..evaluation.evaluate import MetricLike, Score, evaluate
from ..recipe import Recipe
from .budgets import parse_budget
from .candidates import EXAMPLES, OutputJudge
from .plan import BudgetPlan, Planner, checked_examples, choices_from, listed, module_of

_POINTS: Final = 8


@dataclass(frozen=True, slots=True)
class Frontier:
    """The best recipes of several budgets; what `frontier` returns.

    Args:
        plans: the plan for each budget, the smallest first.
        scores: what the network scores under each of them; empty without `eval_data`.
        dense: the score of the dense model; None without `eval_data`.
        notes: in a sentence each, what was not done before they were scored.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.frontier(sw.demo.model(), budgets=["36 kB", "48 kB", "10x"])
        >>> [plan.budget for plan in found.plans]
        [36000, 48000, 69932]
        >>> len(found)
        3
    """

    plans: tuple[BudgetPlan, ...]
    scores: tuple[Score, ...] = ()
    dense: Score | None = None
    notes: tuple[str, ...] = ()

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
            >>> found = sw.frontier(model, train, ["36 kB", "48 kB"], eval_data=valid)
            >>> figure = sw.figures.tradeoff(found.points, baseline=found.dense, x="nbytes")
        """
        return [(plan.estimate, score) for plan, score in zip(self.plans, self.scores, strict=bool(self.scores))]

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every budget: rows of a table, or of a DataFrame.

        `error` is that of the network's outputs, `uniform` that of the best uniform recipe of the same size, and
        `value`, `low` and `high` the score with its interval, where they were measured.

        Example:
            >>> import shrinkwidget as sw
            >>> rows = sw.frontier(sw.demo.model(), budgets=["36 kB", "48 kB"]).to_rows()
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
        return "\n".join([f"Frontier of {len(self)} budget{many}{dense}", *lines, *self.notes])


@public()
def frontier(
    model: Source | Sketch,
    train_data: object = None,
    budgets: float | str | Sequence[float | str] | None = None,
    *,
    recipe: Recipe | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    examples: int = EXAMPLES,
) -> Frontier:
    """Return the best recipe for each of several budgets: the curve of what so many bytes can be worth.

    >>> import shrinkwidget as sw
    >>> found = sw.frontier(sw.demo.model(), budgets=["40 kB", "20x"])
    >>> [plan.nbytes <= plan.budget for plan in found]
    [True, True]

    Args:
        model: as for `plan`.
        train_data: examples without labels, by which plans are judged; see `plan`.
        budgets: one or several, of the packed file, as `plan` takes them; by default eight sizes from the smallest file
            to a quarter of the dense one, each larger by the same factor.
        recipe, limits: what is not chosen, and within what it is; see `plan`.
        eval_data, metric: what is scored, with batch norm recalibrated on `train_data` if there is any; as `evaluate`
            takes them.
        examples: so many are drawn from `train_data`.

    Raises:
        ArgumentError, RecipeError, DataError, ModelError, FileError: see `plan`.
    """
    # a plan's second argument is its budget
    several = train_data if isinstance(train_data, list | tuple) and train_data else [train_data]
    if all(isinstance(each, str | int | float) for each in several):
        raise ArgumentError(
            f"frontier(model, {quoted(train_data)}) gives budgets where train_data is taken: write "
            f"budgets={quoted(train_data)}"
        )
    judge = None if train_data is None else OutputJudge(module_of(model), train_data, checked_examples(examples))
    planner = Planner(model, recipe, choices_from(recipe), limits or {}, judge)
    dense_bytes = planner.look.original_nbytes
    asked: dict[int, str] = {}  # what was written, by the bytes that it means
    if budgets is None:
        least = int(planner.frontier.nbytes[0])
        sizes = np.geomspace(least, max(least, dense_bytes // 4), _POINTS).astype(int).tolist()
        asked = {size: f"frontier(budgets=[{size}])" for size in sizes}
    else:
        for budget in listed(budgets):
            wanted = parse_budget(budget, where="frontier(budgets=[{}])")
            if wanted.measure != "file":
                raise ArgumentError(f"frontier(budgets=…) are bytes of the packed file, and {budget!r} is not")
            asked[wanted.of(dense_bytes)] = f"frontier(budgets=[{quoted(budget)}])"
        if not asked:
            raise ArgumentError("frontier(budgets=[]) is empty: give at least one, or leave it out")
    plans = tuple(planner.for_file(size, asked[size]) for size in sorted(asked))
    if eval_data is None:
        return Frontier(plans)
    network = module_of(model)
    scores = tuple(
        evaluate(
            compress(network, plan.recipe, sketch=planner.look, example=planner.example),
            eval_data,
            metric=metric,
            recalibrate_batchnorm=train_data if judge is not None and judge.recalibrates else None,
        )
        for plan in plans
    )
    stale = judge is None and bool(batch_norms(network))
    notes = ("batch norm was not recalibrated before the scores: give train_data=… for that",) if stale else ()
    return Frontier(plans, scores, evaluate(network, eval_data, metric=metric), notes)
