"""`plan`: the recipe that fits a budget and costs the least, with its reasons."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, Literal, cast

import numpy as np
from torch import nn

from ..analysis.channel_layout import Stated
from ..analysis.estimate import Estimate, compared, estimate, narrowed
from ..analysis.file_structure_and_size import Ints, stored_bits
from ..analysis.model_tensors import Source
from ..analysis.sketch import Sketch
from ..argument_checks import plain, public, refuse_unknown
from ..compressed_model import CompressedModel, compress
from ..errors import ArgumentError, ModelError, RecipeError, a_type, nearest, quoted
from ..evaluation.calibration import sketch as sketch_of
from ..evaluation.evaluate import MetricLike, Score, evaluate
from ..method_registry import Quantizer
from ..recipe import Granularity, Recipe, checked_recipe, layer_label, layer_matches, layers_listed
from .bit_allocation import BitAllocation, allocated, choices_of, every_option, relative_error, squared_error
from .budgets import Budget, parse_budget
from .candidates import EXAMPLES, Candidate, Comparison, OutputJudge, compare, judged
from .layer_options import BITS, SPARSITIES, Choices, Floats, LayerOptions
from .uniform_recipes import uniform_recipes

_LIMITS: Final = ("min_bits", "max_bits", "min_sparsity", "max_sparsity")


@dataclass(frozen=True, slots=True)
class LayerReason:
    """What a plan gives one layer of n weights, and why not less or more.

    `error` is its Σ (w − effective w)² / Σ w², estimated. `gained` is by how much its last step lessened what the plan
    minimises (`BudgetPlan.explain` says what that is), for each kB, and `forgone` by how much its next would. None
    where there is nothing less, or nothing more, that the layer may have.
    """

    name: str
    n: int
    sparsity: float
    bits: int
    nbytes: int
    error: float
    gained: float | None
    forgone: float | None


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a plan would do with more bytes: `change` of one layer, which makes the file `nbytes` larger."""

    layer: str
    change: str
    nbytes: int

    def __str__(self) -> str:
        return f"{self.layer} ({self.change}), {self.nbytes:,} bytes"


@dataclass(frozen=True)
class BudgetPlan:
    """The recipe that `plan` found for a budget, what it comes to, and why.

    Args:
        recipe: what `compress`, `recover` and all others take.
        budget: bytes that the packed file may have.
        estimate: what a sketch tells of the recipe; its bytes are exact.
        layers: what each layer gets, and why; layers under `Keep` are not among them.
        price: by how much the last step, whichever layer it was of, lessened what the plan minimises, for each kB; None
            for the smallest file there is, and for a uniform recipe.
        candidates: with data, all recipes that were tried, the best first.
        comparison: with data, how it compares with the best uniform recipe of its size, and on what.
        nbytes_entropy_coded: bytes of the entropy-coded file, where the budget is of those.
        score, dense: where the budget is a loss of accuracy, what was measured of the plan, and of the dense model.
        of: what the budget is of: ``"file"``, ``"download"``, or ``"macs"``.
        points: where the budget is a loss of accuracy, the percentage points that were asked for.
        next_step: the first step that did not fit, and why bytes are left; None where there is none, and for a uniform
            recipe.

    It can be given wherever a recipe is taken.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.plan(sw.demo.model(), "64 kB")
        >>> found.nbytes <= found.budget, found.nbytes == sw.compress(sw.demo.model(), found.recipe).nbytes
        (True, True)
    """

    recipe: Recipe
    budget: int
    estimate: Estimate
    layers: tuple[LayerReason, ...]
    price: float | None
    candidates: tuple[Candidate, ...] = ()
    comparison: Comparison | None = None
    nbytes_entropy_coded: int | None = None
    score: Score | None = None
    dense: Score | None = None
    of: str = "file"
    points: float | None = None
    next_step: NextStep | None = None

    def __recipe__(self) -> Recipe:
        return self.recipe

    @property
    def nbytes(self) -> int:
        """Bytes of the packed file."""
        return self.estimate.nbytes

    def layer(self, name: str) -> LayerReason:
        """Return what one layer gets, by its name with or without ``.weight``.

        Raises:
            KeyError: if it is not planned.

        Example:
            >>> import shrinkwidget as sw
            >>> head = sw.plan(sw.demo.model(), "64 kB").layer("head")
            >>> head.n, head.nbytes < 4 * head.n, head.gained > head.forgone
            (640, True, True)
        """
        for layer in self.layers:
            if name in (layer.name, layer_label(layer.name)):
                return layer
        raise KeyError(name)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every layer that was planned: rows of a table, or of a DataFrame.

        Example:
            >>> import shrinkwidget as sw
            >>> list(sw.plan(sw.demo.model(), "64 kB").to_rows()[0])
            ['layer', 'n', 'sparsity', 'bits', 'nbytes', 'error', 'gained', 'forgone']
        """
        return [
            {"layer": layer_label(layer.name)} | {f.name: getattr(layer, f.name) for f in fields(layer)[1:]}
            for layer in self.layers
        ]

    def explain(self) -> str:
        """Return why each layer got what it did, as a table in plain text.

        Example:
            >>> import shrinkwidget as sw
            >>> print(sw.plan(sw.demo.model(), "64 kB").explain())
            63,... of 64,000 bytes, ... left: the next step, ... (...), ... bytes, does not fit.
            Gains are in relative error ..., for each kB. The last step gained 0.0...
            <BLANKLINE>
              layer           weights  sparsity  bits   bytes  error  last step gained  next would gain
              stem                144 ...
        """
        about = [f"{self._fit()}{self._left()}."]
        if self.of == "macs":
            return "\n".join([*about, "", *_table([("width", "channels", "left"), *self._widths()])])
        if self.price is not None:
            unit = _COSTS[self.candidates[0].name] if self.candidates else _COSTS["relative errors"]
            about.append(f"Gains are in {unit}, for each kB. The last step gained {self.price:.4g}.")
        if self.comparison is not None:
            about += [*_compared(self.candidates[0], self.comparison), ""]
            about += [f"  {each.name}: {each.nbytes:,} bytes, error {each.error:.4f}" for each in self.candidates]
        parts = self.estimate.parts()
        rows = [
            ("layer", "weights", "sparsity", "bits", "bytes", "error", "last step gained", "next would gain"),
            *(
                (
                    layer_label(layer.name),
                    f"{layer.n:,}",
                    f"{100 * layer.sparsity:.0f} %",
                    str(layer.bits),
                    f"{layer.nbytes:,}",
                    f"{layer.error:.3f}",
                    "–" if layer.gained is None else f"{layer.gained:.4f}",
                    "–" if layer.forgone is None else f"{layer.forgone:.4f}",
                )
                for layer in self.layers
            ),
            *(
                (name, "", "", "", f"{nbytes:,}", "", "", "")
                for name, nbytes in (
                    ("not compressed", parts["uncompressed"]),
                    ("header", parts["header"]),
                    ("packed file", self.nbytes),
                )
            ),
        ]
        return "\n".join([*about, "", *_table(rows)])

    def _widths(self) -> list[tuple[str, ...]]:
        return [(name, str(before), str(now)) for name, (before, now) in (self.estimate.widths or {}).items()]

    def _fit(self) -> str:
        if self.of == "macs":
            return f"{self.estimate.macs:,} of {self.budget:,} multiply-accumulates"
        if self.points is not None and self.score is not None and self.dense is not None:
            return (
                f"{self.nbytes:,} bytes for at most {self.points:g} points of {self.score.metric}: {self.score.text}, "
                f"dense {self.dense.text}, n={self.score.n:,}"
            )
        if self.nbytes_entropy_coded is not None:
            return f"{self.nbytes_entropy_coded:,} of {self.budget:,} bytes, entropy-coded"
        return f"{self.nbytes:,} of {self.budget:,} bytes"

    def _left(self) -> str:
        """Return how many bytes of the budget are left, and which step they are too few for."""
        if self.of == "macs" or self.points is not None:
            return ""
        has = self.nbytes if self.nbytes_entropy_coded is None else self.nbytes_entropy_coded
        step = "" if self.next_step is None else f": the next step, {self.next_step}, does not fit"
        return f", {self.budget - has:,} left{step}"

    def __repr__(self) -> str:
        found = self.estimate
        size = "" if self.of == "file" else f"; packed file {found.nbytes:,} bytes"
        ratio = f"{compared(found.ratio)} {found.original_nbytes:,} bytes"
        bits = sorted({layer.bits for layer in self.layers})
        span = f"{bits[0]} bits" if len(bits) == 1 else f"{bits[0]} to {bits[-1]} bits"
        about = f"{self._fit()}{self._left()}{size}; {ratio}, {found.sparsity:.1%} sparse, {span}"
        return f"BudgetPlan({about}; see .explain())"


_COSTS: Final = {
    "relative errors": "relative error Σ (w − effective w)² / Σ w²",
    "squared errors": "squared error Σ (w − effective w)²",
    "errors between relative and squared": "relative error times √(Σ w²)",
    "measured sensitivity": "relative error, weighted by how much that of the layer moves the outputs",
}
"""What the steps of each plan are sorted by."""


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [f"  {line.rstrip()}" for line in aligned]


def _compared(best: Candidate, comparison: Comparison) -> list[str]:
    """Return in sentences what was judged, and how the best uniform recipe compares."""
    how = f"Chosen by the {comparison.how}: {best.name}, error {best.error:.4f}."
    if comparison.uniform is None:
        return [how]
    if not best.planned:
        return [how, "No plan of this size is nearer to the dense network than a uniform recipe."]
    sure = "" if comparison.low > 0 else ", which may be chance"
    uniform = (
        f"The best uniform recipe of this size, {comparison.uniform.recipe!r}, has {comparison.uniform.error:.4f}: "
        f"{comparison.difference:.4f} more (95 % interval {comparison.low:.4f} to {comparison.high:.4f}{sure})."
    )
    return [how, uniform]


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
) -> BudgetPlan:
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
    judge = None if train_data is None else OutputJudge(module_of(model), train_data, checked_examples(examples))
    chosen = choices_from(recipe, sparsities, bits, granularities, quantizers)
    planner = Planner(model, recipe, chosen, limits or {}, judge, layout, channels=wanted.measure == "macs")
    if wanted.measure == "macs":
        return planner.with_fewer_macs(wanted, asked)
    if wanted.measure == "points":
        if train_data is None or eval_data is None:
            missing = "train_data=…, some training examples" if train_data is None else "eval_data=…, validation data"
            raise ArgumentError(f"{asked} is a loss of accuracy, which has to be measured: give {missing}")
        return planner.within_points(cast(float, wanted.amount), eval_data, metric)
    nbytes = wanted.of(planner.look.original_nbytes)
    if nbytes > planner.look.original_nbytes:
        raise ArgumentError(
            f"{asked} is {nbytes:,} bytes, and the dense file has {planner.look.original_nbytes:,}: there is nothing "
            f"to make smaller"
        )
    if wanted.measure == "download":
        return planner.for_download(nbytes, asked)
    return planner.for_file(nbytes, asked)


class Planner:
    """Plans one model for any budget: its options are looked up, and its data run through the dense network, once."""

    def __init__(
        self,
        model: Source | Sketch,
        recipe: Recipe | None,
        choices: Choices,
        limits: Mapping[str, Mapping[str, float]],
        judge: OutputJudge | None = None,
        layout: Stated = None,
        channels: bool = False,
    ) -> None:
        if isinstance(model, Sketch) and layout is not None:
            raise ArgumentError(
                "a sketch has its layout already: give layout=… to sketch(…), or the model in its place"
            )
        self.model = None if isinstance(model, Sketch) else model
        self.recipe = Recipe() if recipe is None else checked_recipe(recipe)
        self.judge = judge
        # which channels go together is found on an example, of which the data has some
        wanted = judge is not None and (channels or self.recipe.removes_channels)
        self.example = judge.example() if judge is not None and wanted else None
        self.look = model if isinstance(model, Sketch) else sketch_of(model, layout=layout, example=self.example)
        self._choices, self._limited = choices, bool(limits)
        self._left, _ = narrowed(self.look, self.recipe)
        self._options = every_option(self._left, self.recipe, choices, _by_layer(self.look, limits))

    @cached_property
    def frontier(self) -> BitAllocation:
        """The best recipes of all budgets, by the weights alone."""
        return self._allocated([relative_error(each) for each in self._options])

    def _allocated(self, costs: Sequence[Floats]) -> BitAllocation:
        return allocated(self._left, self.recipe, self._options, costs)

    def _at(self, steps: BitAllocation, nbytes: int, asked: str) -> int:
        at = steps.within(nbytes)
        if at is None:
            raise ArgumentError(_too_small(asked, nbytes, estimate(self.look, steps.recipe(0))))
        return at

    def for_file(self, nbytes: int, asked: str) -> BudgetPlan:
        """Return the plan for so many bytes of the packed file; `asked` is what messages call the budget.

        Raises:
            ArgumentError: if that is less than the smallest file has.
        """
        steps = self.frontier
        at = self._at(steps, nbytes, asked)
        if self.judge is None:
            found = estimate(self.look, steps.recipe(at))
            return BudgetPlan(
                found.recipe,
                nbytes,
                found,
                _reasons(steps, at, found),
                _price(steps, at),
                next_step=_next_step(steps, at),
            )
        plans = {"relative errors": (steps, at)}
        for name, cost in (("squared errors", squared_error), ("errors between relative and squared", _between)):
            other = self._allocated([cost(each) for each in self._options])
            plans[name] = other, self._at(other, nbytes, asked)
        if not self.recipe.removes_channels:  # with narrower layers there is nothing to write into the dense network
            other = self._allocated(self._measured(steps.recipe(at)))
            plans["measured sensitivity"] = other, self._at(other, nbytes, asked)
        tried = [(name, curve.recipe(step), True) for name, (curve, step) in plans.items()]
        if not self._limited:
            # which weights one ranking of all leaves is an estimate, and may be off by some
            room = nbytes - nbytes // 20_000 - 16
            few = [width for width in self._choices.bits if width <= 8]
            uniform = uniform_recipes(self.look, self.recipe, room, few)
            tried += [(f"uniform, {each.bits} bits", each, False) for each in uniform]
        found_all = judged(self.judge, self.look, tried, nbytes)
        best, comparison = compare(found_all, self.judge)
        exact = next(each.estimate for each in found_all if each.candidate is best)
        curve, step = plans.get(best.name, (None, 0))
        return BudgetPlan(
            best.recipe,
            nbytes,
            exact,
            _reasons(curve, step, exact),
            None if curve is None else _price(curve, step),
            tuple(sorted((each.candidate for each in found_all), key=lambda each: each.error)),
            comparison,
            next_step=None if curve is None else _next_step(curve, step),
        )

    def _measured(self, recipe: Recipe) -> list[Floats]:
        """Return relative errors, each weighted by how much that of its layer moves the network's outputs."""
        assert self.judge is not None
        small = compress(self.judge.model, recipe, sketch=self.look)
        assert small.estimate is not None
        layers = [small.estimate.layer(each.layer.name) for each in self._options]
        relative = np.array([layer.noise / layer.signal if layer.signal > 0 else 0.0 for layer in layers])
        moved = self.judge.sensitivities(small, [layer.name for layer in layers], relative)
        # one that seems to move nothing would be crushed by a curve that is measured at a single point
        weights = np.maximum(moved, 0.02 * moved.max(initial=0.0)) if moved.any() else np.ones(len(moved))
        return [weight * each.error for weight, each in zip(weights.tolist(), self._options, strict=True)]

    def for_download(self, nbytes: int, asked: str) -> BudgetPlan:
        """Return the plan for so many bytes of the entropy-coded file: those of a packed one that codes to them.

        Raises:
            ArgumentError: for a sketch, whose bytes cannot be counted, or if that is less than the smallest file has.
        """
        if self.model is None:
            raise ArgumentError("plan(of='download') counts bytes that a sketch does not tell: give the model")
        # about the bytes that masks and codes are coded to: enough to weigh choices against each other
        options = [replace(each, mask=0 * each.mask, codes=_coded(each)) for each in self._options]
        steps = allocated(self._left, self.recipe, options, [relative_error(each) for each in options])
        low, high = -1, len(steps)  # the most steps that are known to fit, and the fewest that do not
        best: CompressedModel | None = None
        above = 0  # the bytes of the fewest steps that do not fit
        while high - low > 1:
            middle = (low + high) // 2
            small = compress(self.model, steps.recipe(middle), example=self.example)
            coded = small.nbytes_entropy_coded
            if coded <= nbytes:
                low, best = middle, small
            else:
                high, above = middle, coded
        if best is None or best.estimate is None:
            raise ArgumentError(
                f"{asked.removesuffix(')')}, of='download') is {nbytes:,} bytes, and the smallest file there is to "
                f"choose has {coded:,} when it is entropy-coded: allow more, or remove channels first"
            )
        return BudgetPlan(
            best.recipe,
            nbytes,
            best.estimate,
            _reasons(steps, low, best.estimate),
            _price(steps, low),
            nbytes_entropy_coded=best.nbytes_entropy_coded,
            of="download",
            next_step=_next_step(steps, low, above - best.nbytes_entropy_coded),
        )

    def within_points(self, points: float, eval_data: object, metric: MetricLike) -> BudgetPlan:
        """Return the smallest plan whose score is at most so many percentage points below the dense model's."""
        assert self.judge is not None
        dense = evaluate(self.judge.model, eval_data, metric=metric)
        if not dense.percent:
            raise ArgumentError(
                f"plan(budget='{points:g} points') needs a metric in per cent, such as 'accuracy', and "
                f"{dense.metric!r} is none: plan by bytes, and compare what comes of it"
            )
        low, high = math.log(int(self.frontier.nbytes[0])), math.log(self.look.original_nbytes)
        best: BudgetPlan | None = None
        for _ in range(_POINTS_TRIES):
            # halfway between what lost too much and what did not, in ratios of bytes
            size = math.exp((low + high) / 2) if best is not None else math.exp(low + (high - low) / 4)
            found = self.for_file(int(size), f"plan(budget='{points:g} points')")
            score = evaluate(
                compress(self.judge.model, found.recipe, sketch=self.look, example=self.example),
                eval_data, metric=metric,
                recalibrate_batchnorm=self.judge.data if self.judge.recalibrates else None,
            )  # fmt: skip
            if score.value >= dense.value - points / 100:
                best = replace(found, score=score, dense=dense, points=points)
                high = math.log(found.nbytes)
            else:
                low = math.log(size)
        if best is None:
            raise ArgumentError(f"no file that was tried loses at most {points:g} points of {dense.text}: allow more")
        return best

    def with_fewer_macs(self, wanted: Budget, asked: str) -> BudgetPlan:
        """Return the plan that removes the least channels, all ranked together, for so many multiply-accumulates."""
        channels = self.look.channels
        if channels is None:
            raise ArgumentError(
                f"{asked}: which channels can go is not in this sketch: plan for sw.sketch(model, example=…)"
            )
        full = channels.macs_after([family.channels for family in channels.families])
        most = wanted.of(full)
        if most > full:
            raise ArgumentError(
                f"{asked} is {most:,} multiply-accumulates, and the model has {full:,}: there is nothing to remove"
            )
        low, high = 0, _GRID
        while high - low > 1:
            middle = (low + high) // 2
            left = channels.kept(self.recipe.with_(channels=middle / _GRID, channel_scope="global"))
            low, high = (low, middle) if channels.macs_after([len(k) for k in left]) <= most else (middle, high)
        recipe = self.recipe.with_(channels=min(high, _GRID - 1) / _GRID, channel_scope="global")
        found = estimate(self.look, recipe)
        if found.macs is None or found.macs > most:
            raise ArgumentError(
                f"{asked} is {most:,} multiply-accumulates of {full:,}, and with one channel of every width left "
                f"there are still {found.macs or full:,}: allow more"
            )
        return BudgetPlan(found.recipe, most, found, _reasons(None, 0, found), None, of="macs")


_POINTS_TRIES: Final = 7  # the size is then known to a few per cent
_GRID: Final = 1000


def _coded(options: LayerOptions) -> Ints:
    """Return about how many bytes the masks and codes of a layer's choices are entropy-coded to."""
    n, kept = options.layer.n, options.kept
    share = np.clip(kept / n, 1e-12, 1 - 1e-12)
    mask = -n * (share * np.log2(share) + (1 - share) * np.log2(1 - share))
    bits = np.repeat(
        [stored_bits(p.bits, options.layer.itemsize) for p in options.choices.plans], len(options.choices.sparsities)
    )
    found: Ints = np.ceil((mask + kept * bits) / 8).astype(np.int64)
    return found


def _price(steps: BitAllocation, at: int) -> float | None:
    return float(steps.price[at - 1]) if at else None


def _next_step(steps: BitAllocation, at: int, nbytes: int | None = None) -> NextStep | None:
    """Return the step after so many, None after the last; `nbytes` where it does not count those of the packed file."""
    if at == len(steps) - 1:
        return None
    layer, everywhere = int(steps.step_layer[at]), {name: getattr(steps.base, name) for name in _CHOSEN}
    before, after = (everywhere | dict(steps.overrides[int(steps.chosen(n)[layer])]) for n in (at, at + 1))
    change = ", ".join(
        f"{name} {_amount(before[name])} → {_amount(after[name])}" for name in _CHOSEN if before[name] != after[name]
    )
    grows = int(steps.nbytes[at + 1] - steps.nbytes[at]) if nbytes is None else nbytes
    return NextStep(steps.layers[layer], change, grows)


_CHOSEN: Final = ("sparsity", "bits", "granularity", "quantizer")


def _amount(found: object) -> str:
    return f"{100 * found:g} %" if isinstance(found, float) else str(found)


def _between(options: LayerOptions) -> Floats:
    """Return the geometric mean of the relative and the squared error."""
    return options.error * math.sqrt(options.layer.energy)


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


def _by_layer(look: Sketch, limits: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return between what the sparsity and the bits of layers have to be, by name; the last that matches one holds."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    names = [layer.name for layer in look.layers]
    for pattern, said in limits.items():
        where = f"plan(limits={{{quoted(pattern)}: …}})"
        if not isinstance(said, Mapping):
            raise ArgumentError(f"{where} must be a dict such as dict(min_bits=4), got {quoted(said)}")
        refuse_unknown(said, _LIMITS, where, what="limit")
        matched = [name for name in names if layer_matches(pattern, name)]
        if not matched:
            hint = nearest(pattern, map(layer_label, names))
            raise ArgumentError(f"{where} matches no layer{hint or layers_listed(names)}")
        for name, amount in said.items():
            share = name.endswith("sparsity")
            number = isinstance(plain(amount), int | float) and not isinstance(amount, bool)
            if not number or not (0 <= amount < 1 if share else 1 <= amount <= 32):
                wanted = "a fraction, at least 0 and below 1" if share else "a number of bits from 1 to 32"
                raise ArgumentError(f"{where}: {name}={quoted(amount)} must be {wanted}")
        bits = said.get("min_bits", 1), said.get("max_bits", 32)
        sparsity = said.get("min_sparsity", 0.0), said.get("max_sparsity", 1.0)
        found |= {name: {"bits": bits, "sparsity": sparsity} for name in matched}
    return found


def _reasons(steps: BitAllocation | None, at: int, found: Estimate) -> tuple[LayerReason, ...]:
    """Return what each layer gets after so many steps, its last one and its next; without steps, what it gets."""
    gained, forgone = dict[int, float](), dict[int, float]()
    for number in range(0 if steps is None else len(steps.price)):
        assert steps is not None
        place, price = int(steps.step_layer[number]), float(steps.price[number])
        if number < at:
            gained[place] = price
        else:
            forgone.setdefault(place, price)
    plans = found.recipe.resolve([layer.name for layer in found.layers])
    chosen = [(layer, plan) for layer, plan in zip(found.layers, plans, strict=True) if not plan.keep]
    return tuple(
        LayerReason(
            name=layer.name,
            n=layer.n,
            sparsity=layer.sparsity,
            bits=plan.bits,
            nbytes=layer.nbytes,
            error=layer.noise / layer.signal if layer.signal > 0 else 0.0,
            gained=gained.get(i),
            forgone=forgone.get(i),
        )
        for i, (layer, plan) in enumerate(chosen)
    )


def _too_small(asked: str, nbytes: int, least: Estimate) -> str:
    parts = least.parts()
    mask = f", {parts['mask']:,} of them for masks" if parts["mask"] else ""
    layers = parts["codes"] + parts["mask"] + parts["scales"]
    return (
        f"{asked} is {nbytes:,} bytes, and the smallest file there is to choose has {least.nbytes:,}: "
        f"{layers:,} for the layers{mask}, {parts['uncompressed']:,} for what is not compressed "
        f"(half of that with recipe=sw.Recipe(uncompressed_bits=16)) and {parts['header']:,} for the header; allow "
        f"more, or remove channels first"
    )
