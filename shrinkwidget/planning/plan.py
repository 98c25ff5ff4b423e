"""`plan`: the recipe that fits a budget and costs the least, with its reasons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast, overload

from torch import nn

from ..analysis.channel_layout import Stated
from ..analysis.model_tensors import Source
from ..analysis.parallel import Watch, never
from ..analysis.sketch import Sketch
from ..argument_checks import public
from ..compression.apply_recipe import copied
from ..errors import ArgumentError, ModelError, RecipeError, a_type, quoted
from ..evaluation.evaluate import MetricLike
from ..evaluation.run_in_background import PATIENCE_SECONDS, GrowingRun, computed
from ..method_registry import Quantizer
from ..recipe import Granularity, Recipe, checked_recipe
from .bit_allocation import choices_of
from .budget_plan import BudgetPlan
from .budgets import parse_budget
from .candidates import EXAMPLES, OutputJudge
from .layer_options import BITS, SPARSITIES, Choices
from .planner import Planner


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
    recipe: Recipe | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
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
    recipe: Recipe | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
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
    recipe: Recipe | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: float | Sequence[float] = SPARSITIES,
    bits: int | Sequence[int] = BITS,
    granularities: Granularity | Sequence[Granularity] | None = None,
    quantizers: str | Quantizer | Sequence[str | Quantizer] | None = None,
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

    What is left over of a budget is less than the next step takes, which the plan tells: steps give one layer the next
    better of its choices, and where layers are large, one may be some thousand bytes.

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
            ``"10 %"``; multiply-accumulates, ``"50 % MACs"``, of a sketch that knows its channels; or ``"0.5 points"``:
            the smallest file that loses at most so much accuracy on `eval_data`.
        train_data: examples without labels, in any form that `recover` takes, or a dict as the only batch; never those
            of a test.
        of: ``"file"`` for the bytes of the packed file, or ``"download"`` for those of the entropy-coded one, which
            have to be counted on a model.
        recipe: what is not chosen: how weights are ranked and rounded, the bits of what is not compressed, and of
            single layers whatever it overrides. ``Recipe(layers={"stem": sw.Keep, "head": dict(bits=8)})`` leaves
            "stem" as it is, and chooses only the sparsity of "head". Its own sparsity and bits are not looked at.
        limits: of layers by name or wildcard, some of ``min_bits``, ``max_bits``, ``min_sparsity``, ``max_sparsity``.
        sparsities, bits, granularities, quantizers: what there is to choose from, one value or several; by default many
            sparsities from 0 to 98 %, bits from 2 to 32, and the granularity and the quantizer of the recipe.
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
    wanted, asked = parse_budget(budget, of), f"plan(budget={quoted(budget)})"
    if eval_data is not None and wanted.measure != "points":
        raise ArgumentError(
            f"{asked} measures no accuracy, for which eval_data=… is: leave it out, or write the budget as '0.5 points'"
        )
    if wanted.measure == "points" and (train_data is None or eval_data is None):
        missing = "train_data=…, some training examples" if train_data is None else "eval_data=…, validation data"
        raise ArgumentError(f"{asked} is a loss of accuracy, which has to be measured: give {missing}")
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    if train_data is not None:
        module_of(model)
    many = checked_examples(examples)
    chosen = choices_from(recipe, sparsities, bits, granularities, quantizers)
    if background and isinstance(model, nn.Module):
        model = copied(model)  # the caller may train on with the one that was given

    def steps(stopped: Watch = never, patience: float | None = None) -> Iterator[BudgetPlan]:
        judge = None
        if train_data is not None:
            judge = OutputJudge(module_of(model), train_data, many, stopped, patience)
        macs = wanted.measure == "macs"
        planner = Planner(model, recipe, chosen, limits or {}, judge, layout, macs, stopped, patience)
        if macs:
            yield from planner.with_fewer_macs(wanted, asked)
            return
        if wanted.measure == "points":
            yield from planner.within_points(cast(float, wanted.amount), eval_data, metric)
            return
        dense = planner.look.original_nbytes
        nbytes = wanted.of(dense)
        if nbytes > dense:
            raise ArgumentError(
                f"{asked} is {nbytes:,} bytes, and the dense file has {dense:,}: there is nothing to make smaller"
            )
        yield from (planner.for_download if wanted.measure == "download" else planner.for_file)(nbytes, asked)

    if background:
        return PlanRun(title_of(model), lambda stopped: steps(stopped, PATIENCE_SECONDS)).start()
    return computed(steps(), "plan", "candidate", progress and train_data is not None)


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
    given: Recipe | None,
    sparsities: object = SPARSITIES,
    bits: object = BITS,
    granularities: object = None,
    quantizers: object = None,
) -> Choices:
    """Return what there is to choose from, one value or several of each, every one checked as a recipe checks it."""
    recipe = Recipe() if given is None else checked_recipe(given)
    several: dict[str, Any] = {
        "sparsities": sorted(set(_checked("sparsities", "sparsity", sparsities))),
        "bits": sorted(set(_checked("bits", "bits", bits))),
    }
    if granularities is not None:
        several["granularities"] = _checked("granularities", "granularity", granularities)
    if quantizers is not None:
        several["quantizers"] = _checked("quantizers", "quantizer", quantizers)
    for name, values in several.items():
        if not values:
            raise ArgumentError(f"plan({name}=…) is empty: give at least one, or leave it out")
    return choices_of(recipe, **{name: tuple(values) for name, values in several.items()})


def _checked(argument: str, field: str, given: object) -> list[Any]:
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
