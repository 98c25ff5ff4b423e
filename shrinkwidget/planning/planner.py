"""Plans one model for any budget: what there is to choose from, and the candidates that are tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np

from ..analysis.channel_layout import Stated
from ..analysis.estimate import Estimate, estimate, narrowed
from ..analysis.file_structure_and_size import Ints, stored_bits
from ..analysis.model_tensors import Source
from ..analysis.parallel import Watch, check, never
from ..analysis.sketch import Sketch
from ..argument_checks import plain, refuse_unknown
from ..compressed_model import CompressedModel, compress
from ..errors import ArgumentError, nearest, quoted
from ..evaluation.calibration import sketch as sketch_of
from ..evaluation.evaluate import MetricLike
from ..recipe import Recipe, checked_recipe, layer_label, layer_matches, layers_listed
from .bit_allocation import BitAllocation, allocated, every_option, relative_error, squared_error
from .budget_plan import BudgetPlan, LayerReason, NextStep
from .budgets import Budget
from .candidates import Judged, OutputJudge, compare, judged, scored
from .layer_options import Choices, Floats, LayerOptions
from .uniform_recipes import estimated_bytes, uniform_recipes

_LIMITS: Final = ("min_bits", "max_bits", "min_sparsity", "max_sparsity")


@dataclass(frozen=True, eq=False)
class Trial:
    """A recipe to try for a budget: a plan of some steps of a curve, or a uniform recipe, which has none."""

    name: str
    recipe: Recipe
    curve: BitAllocation | None = None
    steps: Ints = field(default_factory=lambda: np.arange(0))


class Planner:
    """Plans one model for any budget: its options are looked up, and its data run through the dense network, once.

    Every plan is an iterator over what is known so far, the last of which is the result.
    """

    def __init__(
        self,
        model: Source | Sketch,
        recipe: Recipe | None,
        choices: Choices,
        limits: Mapping[str, Mapping[str, float]],
        judge: OutputJudge | None = None,
        layout: Stated = None,
        channels: bool = False,
        stopped: Watch = never,
        patience: float | None = None,
    ) -> None:
        self._stopped, self._patience = stopped, patience
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

    def for_file(self, nbytes: int, asked: str) -> Iterator[BudgetPlan]:
        """Yield the plan for so many bytes of the packed file; `asked` is what messages call the budget.

        With data, that by the weights alone is the first, and after every candidate the best so far.

        Raises:
            ArgumentError: if that is less than the smallest file has.
        """
        curve = self.frontier
        steps = curve.within(nbytes)
        if steps is None:
            raise ArgumentError(_too_small(asked, nbytes, estimate(self.look, curve.recipe(0))))
        uniform = [] if self.judge is None or self._limited else self._uniform(nbytes)
        # with narrower layers there is nothing to write into the dense network
        several = (3 if self.recipe.removes_channels else 4) + len(uniform)
        by_weights = Trial("relative errors", curve.recipe(steps), curve, steps)
        first = self._plan(by_weights, nbytes)
        if self.judge is None:
            yield first
            return
        yield replace(first, pending=several)
        trials, found = dict[str, Trial](), list[Judged]()
        for number, trial in enumerate(self._trials(nbytes, by_weights, uniform), start=1):
            trials[trial.name] = trial
            tried = judged(self.judge, self.look, trial.name, trial.recipe, trial.curve is not None, nbytes)
            if tried is not None:
                found.append(tried)
            if found:
                best, comparison = compare(found, self.judge)
                exact = next(each.estimate for each in found if each.candidate is best)
                yield replace(
                    self._plan(trials[best.name], nbytes, exact),
                    candidates=tuple(sorted((each.candidate for each in found), key=lambda each: each.error)),
                    comparison=comparison,
                    pending=several - number,
                )

    def _plan(self, trial: Trial, nbytes: int, exact: Estimate | None = None) -> BudgetPlan:
        found = estimate(self.look, trial.recipe) if exact is None else exact
        reasons = _reasons(trial.curve, trial.steps, found)
        if trial.curve is None:
            return BudgetPlan(found.recipe, nbytes, found, reasons, None)
        price, then = _price(trial.curve, trial.steps), _next_step(self.look, trial.curve, trial.steps, found.nbytes)
        filled = len(trial.steps) - _in_turn(trial.steps)
        return BudgetPlan(found.recipe, nbytes, found, reasons, price, next_step=then, filled=filled)

    def _uniform(self, nbytes: int) -> list[Recipe]:
        # which weights one ranking of all leaves is an estimate, and may be off by some
        room = nbytes - nbytes // 20_000 - 16
        few = [width for width in self._choices.bits if width <= 8]
        return list(uniform_recipes(self.look, self.recipe, room, few))

    def _trials(self, nbytes: int, by_weights: Trial, uniform: Sequence[Recipe]) -> Iterator[Trial]:
        """Yield what is tried for a file of so many bytes."""
        yield by_weights
        for name, cost in (("squared errors", squared_error), ("errors between relative and squared", _between)):
            yield from self._trial(name, self._allocated([cost(each) for each in self._options]), nbytes)
        for recipe in uniform:
            yield Trial(f"uniform, {recipe.bits} bits", recipe)
        if not self.recipe.removes_channels:
            measured = self._allocated(self._measured(by_weights.recipe))
            yield from self._trial("measured sensitivity", measured, nbytes)

    def _trial(self, name: str, curve: BitAllocation, nbytes: int) -> Iterator[Trial]:
        steps = curve.within(nbytes)
        if steps is not None:  # of another cost the smallest recipe may have a longer text
            yield Trial(name, curve.recipe(steps), curve, steps)

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

    def for_download(self, nbytes: int, asked: str) -> Iterator[BudgetPlan]:
        """Yield the plan for so many bytes of the entropy-coded file: those of a packed one that codes to them.

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
            check(self._stopped)
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
        yield BudgetPlan(
            best.recipe,
            nbytes,
            best.estimate,
            _reasons(steps, np.arange(low), best.estimate),
            _price(steps, np.arange(low)),
            nbytes_entropy_coded=best.nbytes_entropy_coded,
            of="download",
            next_step=_step(steps, low, above - best.nbytes_entropy_coded) if low < len(steps) - 1 else None,
        )

    def within_points(self, points: float, eval_data: object, metric: MetricLike) -> Iterator[BudgetPlan]:
        """Yield the smallest plan whose score is at most so many percentage points below the dense model's."""
        assert self.judge is not None
        dense = scored(self.judge.model, eval_data, metric, None, self._stopped, self._patience)
        if not dense.percent:
            raise ArgumentError(
                f"plan(budget='{points:g} points') needs a metric in per cent, such as 'accuracy', and "
                f"{dense.metric!r} is none: plan by bytes, and compare what comes of it"
            )
        low, high = math.log(int(self.frontier.nbytes[0])), math.log(self.look.original_nbytes)
        best: BudgetPlan | None = None
        norms = self.judge.data if self.judge.recalibrates else None
        for left in reversed(range(_POINTS_TRIES)):
            # halfway between what lost too much and what did not, in ratios of bytes
            size = math.exp((low + high) / 2) if best is not None else math.exp(low + (high - low) / 4)
            *_, found = self.for_file(int(size), f"plan(budget='{points:g} points')")
            small = compress(self.judge.model, found.recipe, sketch=self.look, example=self.example)
            score = scored(small, eval_data, metric, norms, self._stopped, self._patience)
            if score.value >= dense.value - points / 100:
                best = replace(found, score=score, dense=dense, points=points)
                high = math.log(found.nbytes)
            else:
                low = math.log(size)
            if best is not None:
                yield replace(best, pending=left)
        if best is None:
            raise ArgumentError(f"no file that was tried loses at most {points:g} points of {dense.text}: allow more")

    def with_fewer_macs(self, wanted: Budget, asked: str) -> Iterator[BudgetPlan]:
        """Yield the plan that removes the least channels, all ranked together, for so many multiply-accumulates."""
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
        yield BudgetPlan(found.recipe, most, found, _reasons(None, np.arange(0), found), None, of="macs")


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


def _in_turn(steps: Ints) -> int:
    """Return how many steps are the first ones of the list; those after them filled what they left."""
    apart = np.flatnonzero(steps != np.arange(len(steps)))
    return int(apart[0]) if len(apart) else len(steps)


def _price(curve: BitAllocation, steps: Ints) -> float | None:
    first = _in_turn(steps)
    return float(curve.price[first - 1]) if first else None


def _next_step(look: Sketch, curve: BitAllocation, steps: Ints, nbytes: int) -> NextStep | None:
    """Return the first step that was not taken, after which the file has more than `nbytes`; None if all were."""
    step = _in_turn(steps)
    if step == len(curve) - 1:
        return None
    larger = estimated_bytes(look, curve.recipe(np.sort(np.append(steps, step))))
    return _step(curve, step, larger - nbytes)


def _step(curve: BitAllocation, step: int, nbytes: int) -> NextStep:
    layer, everywhere = int(curve.step_layer[step]), {name: getattr(curve.base, name) for name in _CHOSEN}
    before, after = (everywhere | dict(curve.overrides[int(curve.chosen(n)[layer])]) for n in (step, step + 1))
    change = ", ".join(
        f"{name} {_amount(before[name])} → {_amount(after[name])}" for name in _CHOSEN if before[name] != after[name]
    )
    return NextStep(curve.layers[layer], change, nbytes)


_CHOSEN: Final = ("sparsity", "bits", "granularity", "quantizer")


def _amount(found: object) -> str:
    return f"{100 * found:g} %" if isinstance(found, float) else str(found)


def _between(options: LayerOptions) -> Floats:
    """Return the geometric mean of the relative and the squared error."""
    return options.error * math.sqrt(options.layer.energy)


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


def _reasons(curve: BitAllocation | None, steps: Ints, found: Estimate) -> tuple[LayerReason, ...]:
    """Return what each layer gets after some steps, its last one and its next; without a curve, what it gets."""
    gained, forgone, taken = dict[int, float](), dict[int, float](), set(steps.tolist())
    for number in range(0 if curve is None else len(curve.price)):
        assert curve is not None
        place, price = int(curve.step_layer[number]), float(curve.price[number])
        if number in taken:
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
