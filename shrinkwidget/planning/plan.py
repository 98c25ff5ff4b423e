"""`plan`: the recipe that fits a budget and costs the least, with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast, overload

from torch import nn

from ..analysis.open_model_tensors_and_channel_axes import Source, Stated, copied
from ..analysis.sketch import Sketch
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import public
from ..errors import ArgumentError, Cancelled, ModelError, RecipeError, a_type, quoted
from ..evaluation.evaluate_and_metrics import MetricLike
from ..evaluation.run_in_background import PATIENCE_SECONDS, GrowingRun, computed
from ..recipe_and_method_registry import Granularity, Quantizer, Recipe, checked_recipe
from .bit_allocation import choices_of
from .budget_plan_and_reasons import BudgetPlan
from .budgets import Budget, parse_budgets
from .layer_options import BITS, SPARSITIES, Choices
from .output_error_of_candidates import EXAMPLES, OutputJudge
from .planner_and_candidate_recipes import WIDTHS, Planner


class PlanRun(GrowingRun[BudgetPlan]):
    """A plan that `plan` makes with ``background=True``; its `progress` is the best so far.

    Every method may be called from any thread. The first that is known is the plan by the weights alone; then
    candidates are tried on the data. `pause` takes effect after the candidate that is being tried, `stop` before the
    next batch: the result is then the best of what was tried, and says how many candidates were not.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.plan(sw.demo.model(), "36 kB", sw.demo.data("train"), background=True)
        >>> run.wait(), run
        (True, PlanRun(DigitNet, done))
        >>> run.result.nbytes <= 36_000
        True
    """

    _what = "the plan"
    _done = "planned"
    _first = "there was a first plan"

    def __repr__(self) -> str:
        left = 0 if self.progress is None else self.progress.pending
        where = f", {left} candidate{'s' * (left != 1)} to try" if left else ""
        return f"PlanRun({self._title}, {self.state}{where})"


@overload
def plan(
    model: Source | Sketch,
    budget: float | str,
    train_data: object = None,
    *,
    of: Literal["file", "download"] = "file",
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
    channels: float | Sequence[float] | None = None,
    example: object = None,
    runtime: str = "torch",
    examples: int = EXAMPLES,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    layout: Stated = None,
    background: Literal[False] = False,
    progress: bool = True,
) -> BudgetPlan: ...
@overload
def plan(
    model: Source | Sketch,
    budget: float | str,
    train_data: object = None,
    *,
    of: Literal["file", "download"] = "file",
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
    channels: float | Sequence[float] | None = None,
    example: object = None,
    runtime: str = "torch",
    examples: int = EXAMPLES,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    layout: Stated = None,
    background: Literal[True],
    progress: bool = True,
) -> PlanRun: ...
@public()
def plan(
    model: Source | Sketch,
    budget: float | str,
    train_data: object = None,
    *,
    of: Literal["file", "download"] = "file",
    recipe: Recipe | float | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
    channels: float | Sequence[float] | None = None,
    example: object = None,
    runtime: str = "torch",
    examples: int = EXAMPLES,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    layout: Stated = None,
    background: bool = False,
    progress: bool = True,
) -> BudgetPlan | PlanRun:
    """Return the recipe that fits a budget and changes the network least, layer by layer.

    >>> import shrinkwidget as sw
    >>> model = sw.demo.model()
    >>> found = sw.plan(model, "40 kB")
    >>> small = sw.compress(model, found.recipe)
    >>> small.nbytes == found.nbytes <= 40_000
    True

    Steps give one layer the next better of its choices. What the last one leaves of the budget goes to smaller steps of
    other layers, and the plan tells what is left when none fits any more.

    From the weights alone it takes a fraction of a second. With some examples, several plans and the uniform recipes of
    the same size are tried, and what is kept is the one whose outputs are nearest to the dense network's:

    >>> found = sw.plan(model, "36 kB", sw.demo.data("train"))
    >>> found.comparison.difference >= 0  # no uniform recipe of this size is nearer
    True

    The model itself is never changed, and Ctrl-C may interrupt it at any time.

    Args:
        model: a `Sketch`, or what one is made of: a module, a state dict, the path of a checkpoint. A module where
            `train_data` is given.
        budget: bytes, ``64_000`` or ``"64 kB"``, a compression ratio, ``"10x"``, or a share of the dense file,
            ``"10 %"``; multiply-accumulates, ``"50 % MACs"``, or memory as the model runs, ``"96 KiB RAM"`` (weights in
            full, and the peak of activations), or ``"2x faster"``, for which channels go; one of these with bytes,
            ``"20 kB and 50 % MACs"``; or ``"0.5 points"``: the smallest file that loses at most so much accuracy on
            `eval_data`.
        train_data: examples without labels, in any form that `recover` takes, or a dict as the only batch; never those
            of a test.
        of: ``"file"`` for the bytes of the packed file, or ``"download"`` for those of the entropy-coded one, which
            have to be counted on a model.
        recipe: what is not chosen: how weights are ranked and rounded, the bits of what is not compressed, and of
            single layers whatever it overrides. ``Recipe(layers={"stem": sw.Keep, "head": dict(bits=8)})`` leaves
            "stem" as it is, and chooses only the sparsity of "head". Its own sparsity and bits are not looked at, nor
            is a number, which is a sparsity: give `sparsities` for that.
        limits: of layers by name or wildcard, some of ``min_bits``, ``max_bits``, ``min_sparsity``, ``max_sparsity``.
        sparsities, bits, granularities, quantizers: what there is to choose from, one value or several; by default many
            sparsities from 0 to 98 %, bits from 2 to 32, and the granularity and the quantizer of the recipe.
        channels: fractions of channels that may go, one or several, before bits and sparsities are planned for what is
            left. Each is tried, of every width and ranked together, beside the recipes that remove none, and judged by
            the outputs as they are; so `train_data` is needed. By default none go, or with `example` some from 10 to
            60 %.
        example: what the model runs on, for channels, RAM and speed; by default the first of `train_data`.
        runtime: what a speed is measured in, on the example: ``"torch"``, ``"onnxruntime"`` and others, as for `race`.
        examples: so many are drawn from `train_data`.
        eval_data, metric: for a budget of points alone: what accuracy is measured on, and how, as `evaluate` takes
            them.
        layout: of what is no sketch yet; see `sketch`.
        background: True for a `PlanRun` on a thread of its own, already started, instead of the result. It works on a
            copy of the model as it is now, so you may go on with yours.
        progress: whether to show a bar, in a terminal or a notebook, while candidates are tried.

    Raises:
        ArgumentError: for what is no budget, one below the smallest file that can be had (saying which that is, and
            what takes its bytes) or above the dense one, limits that leave a layer nothing, or data that is missing or
            that the budget has no use for.
        RecipeError: for what is no recipe, or overrides that match no layer.
        DataError: for data that is none, holds NaN, or does not fit the model, naming the batch.
        ModelError, FileError: for a model that cannot be looked at; see `sketch`.
    """
    refuse_swapped("plan", model, budget)
    (wanted, conditions), asked = parse_budgets(budget, of), f"plan(budget={quoted(budget)})"
    of_points = wanted is not None and wanted.measure == "points"
    _check_data(asked, of_points, model, train_data, eval_data)
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    widths = _checked_widths(channels, asked, wanted, example, train_data)
    many = checked_examples(examples)
    chosen = choices_from(recipe, sparsities, bits, granularities, quantizers)
    rest = Recipe() if recipe is None else checked_recipe(recipe)
    if background and isinstance(model, nn.Module):
        model = copied(model)  # the caller may train on with the one that was given

    def steps(stopped: Watch = never, patience: float | None = None) -> Iterator[BudgetPlan]:
        judge = None
        if train_data is not None:
            judge = OutputJudge(module_of(model), train_data, many, stopped, patience)
        runs_on = example
        if example is None and judge is not None and (widths or conditions or rest.removes_channels):
            runs_on = judge.example()
        planner = Planner.of(
            model,
            layout,
            runs_on,
            recipe=rest,
            choices=chosen,
            limits=limits or {},
            judge=judge,
            widths=widths,
            stopped=stopped,
            patience=patience,
        )
        if of_points:
            yield from planner.within_points(cast(float, cast(Budget, wanted).amount), eval_data, metric)
            return
        dense = planner.look.original_nbytes
        nbytes = None if wanted is None else wanted.of(dense)
        if nbytes is not None and nbytes > dense and not conditions:
            raise ArgumentError(
                f"{asked} is {nbytes:,} bytes, and the dense file has {dense:,}: there is nothing to make smaller"
            )
        if conditions and conditions[0].measure == "speed":
            yield from planner.faster(cast(float, conditions[0].amount), runtime, nbytes, asked)
        elif conditions:
            yield from planner.within_limits(conditions, nbytes, asked)
        elif wanted is not None and nbytes is not None:
            yield from (planner.for_download if wanted.measure == "download" else planner.for_file)(nbytes, asked)

    if background:
        return PlanRun(title_of(model), lambda stopped: _told_if_stopped(steps(stopped, PATIENCE_SECONDS))).start()
    return computed(steps(), "plan", "candidate", progress and train_data is not None)


def _told_if_stopped(steps: Iterator[BudgetPlan]) -> Iterator[BudgetPlan]:
    """Yield plans, and where their search is stopped the last one again, which then says so."""
    known: BudgetPlan | None = None
    try:
        for known in steps:
            yield known
    except Cancelled:
        if known is None:
            raise
        yield replace(known, stopped=True)


def _check_data(asked: str, of_points: bool, model: object, train_data: object, eval_data: object) -> None:
    """Refuse data that is missing, or that a budget has no use for."""
    if eval_data is not None and not of_points:
        raise ArgumentError(
            f"{asked} measures no accuracy, for which eval_data=… is: leave it out, or write the budget as '0.5 points'"
        )
    if of_points and (train_data is None or eval_data is None):
        missing = "train_data=…, some training examples" if train_data is None else "eval_data=…, validation data"
        raise ArgumentError(f"{asked} is a loss of accuracy, which has to be measured: give {missing}")
    if train_data is not None:
        module_of(model)


def _checked_widths(
    channels: object, asked: str, wanted: Budget | None, example: object, train_data: object
) -> Sequence[float]:
    """Return the fractions of channels to try beside none, rising."""
    of_file = wanted is not None and wanted.measure == "file"
    if channels is None:
        return WIDTHS if of_file and example is not None and train_data is not None else ()
    widths = sorted({width for width in _checked_values("channels", "channels", channels) if width > 0})
    if widths and not of_file:
        raise ArgumentError(
            f"plan(channels=…) is what is tried for bytes of the packed file, and {asked} is none: leave it out"
        )
    if widths and train_data is None:
        raise ArgumentError(
            "plan(channels=…) weighs channels against bits by what the network computes: give train_data=…, some "
            "examples without labels"
        )
    return widths


def refuse_swapped(call: str, model: object, budget: object) -> None:
    """Refuse a budget in place of the model, with the model in its own.

    Raises:
        ArgumentError: saying which of them comes first.
    """
    # the path of a checkpoint is a text as well, but no budget is a module or a sketch
    if isinstance(budget, nn.Module | Sketch):
        raise ArgumentError(
            f"{call}({quoted(model)}, {title_of(budget)}): the arguments are swapped, the model is first"
        )


def title_of(model: Source | Sketch) -> str:
    """Return what a run calls a model: its class, or a sketch's title."""
    return model.title if isinstance(model, Sketch) else type(model).__name__


def module_of(model: object) -> nn.Module:
    """Return a model that data can be run through.

    Raises:
        ModelError: for a sketch, a state dict, or a file.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"plan(train_data=…) runs the model on the data, and this is {a_type(model)}: give the nn.Module"
        )
    return model


def checked_examples(found: object) -> int:
    """Return a number of examples.

    Raises:
        ArgumentError: for what is none.
    """
    if type(found) is not int or found < 1:
        raise ArgumentError(f"plan(examples={quoted(found)}) must be a whole number from 1")
    return found


def choices_from(
    given: Recipe | float | None,
    sparsities: object = SPARSITIES,
    bits: object = BITS,
    granularities: object = None,
    quantizers: object = None,
) -> Choices:
    """Return what there is to choose from, one value or several of each, every one checked as a recipe checks it."""
    recipe = Recipe() if given is None else checked_recipe(given)
    several: dict[str, Any] = {
        "sparsities": sorted(set(_checked_values("sparsities", "sparsity", sparsities))),
        "bits": sorted(set(_checked_values("bits", "bits", bits))),
    }
    if granularities is not None:
        several["granularities"] = _checked_values("granularities", "granularity", granularities)
    if quantizers is not None:
        several["quantizers"] = _checked_values("quantizers", "quantizer", quantizers)
    for name, values in several.items():
        if not values:
            raise ArgumentError(f"plan({name}=…) is empty: give at least one, or leave it out")
    return choices_of(recipe, **{name: tuple(values) for name, values in several.items()})


def _checked_values(argument: str, field: str, given: object) -> list[Any]:
    found = []
    for value in listed(given):
        try:
            found.append(getattr(Recipe(**{field: value}), field))
        except RecipeError as error:
            # the recipe's own sentence, with the name that was written here
            raise RecipeError(str(error).replace(f"Recipe({field}=", f"plan({argument}=", 1)) from None
    return found


def listed(given: object) -> list[Any]:
    """Return several values as a list, and a single one as a list of one."""
    several = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
    return list(cast(Iterable[Any], given)) if several else [given]
