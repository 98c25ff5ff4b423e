"""Plans one model for any budget: what there is to choose from, and the candidates that are tried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
from torch import nn

from ..analysis.channel_families_and_counts import Channels
from ..analysis.estimate_class_and_packed_file_header import Estimate, Ints, stored_bits
from ..analysis.estimate_from_sketch import estimate, narrowed
from ..analysis.open_model_tensors_and_channel_axes import Source, Stated, open_model
from ..analysis.run_model_seeded_macs_and_memory import eval_mode, profile_forward
from ..analysis.sketch import Sketch
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, check, never
from ..argument_checks import plain, refuse_unknown
from ..compressed_model import CompressedModel, compress, without_channels
from ..errors import ArgumentError, layer_label, nearest, quoted
from ..evaluation.evaluate_and_metrics import MetricLike
from ..evaluation.sketch_and_calibration_data import sketch as sketch_of
from ..recipe_and_method_registry import ChannelScope, Recipe, layer_matches, layers_listed
from .bit_allocation import BitAllocation, allocated, every_option, relative_error, squared_error
from .budget_plan_and_reasons import BudgetPlan, Condition, LayerReason, NextStep
from .budgets import UNITS, Budget, Measure
from .layer_options import Choices, Floats, LayerOptions
from .output_error_of_candidates import Judged, OutputJudge, compare, judged, scored
from .speed_budget_by_races import ADVICE, SpeedTrials
from .uniform_recipes import estimated_bytes, uniform_recipes

_LIMITS: Final = ("min_bits", "max_bits", "min_sparsity", "max_sparsity")


WIDTHS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The fractions of channels that are tried beside none: a handful, as each of them is judged by itself."""
_SCOPES: Final[tuple[ChannelScope, ...]] = ("width", "global")


@dataclass(frozen=True, eq=False)
class Trial:
    """A recipe to try for a budget: some steps of a curve, or one without; `planned` tells it from a uniform one."""

    name: str
    recipe: Recipe
    curve: BitAllocation | None = None
    steps: Ints = field(default_factory=lambda: np.arange(0))
    planned: bool = True


@dataclass(frozen=True, eq=False)
class Planner:
    """Plans one model for any budget: its options are looked up, and its data run through the dense network, once.

    Every plan is an iterator over what is known so far, the last of which is the result.

    Args:
        look: the model's sketch.
        recipe: what is not chosen.
        choices: what there is to choose from for each layer.
        limits: within what, of layers by name or wildcard.
        model: None of a sketch alone.
        judge: tells how far the outputs of a recipe are from the dense ones; None without data.
        example: what the model runs on; None where it need not run.
        widths: the fractions of channels that are tried beside none.
        stopped, patience: when to give up, and how long to wait for a batch (`evaluation.evaluate.scores`).
    """

    look: Sketch
    recipe: Recipe
    choices: Choices
    limits: Mapping[str, Mapping[str, float]]
    model: Source | None = None
    judge: OutputJudge | None = None
    example: object = None
    widths: Sequence[float] = ()
    stopped: Watch = never
    patience: float | None = None

    @classmethod
    def of(cls, model: Source | Sketch, layout: Stated, example: object, **fields: Any) -> Planner:
        """Return a planner with these other fields for a model, which is looked at unless it is a sketch."""
        if isinstance(model, Sketch):
            return cls(model, example=example, **fields)
        return cls(sketch_of(model, layout=layout, example=example), model=model, example=example, **fields)

    @cached_property
    def _narrower_ones(self) -> list[Planner]:
        return [self._narrower(width, scope) for width in self.widths for scope in _SCOPES]

    @cached_property
    def _left(self) -> Sketch:
        return narrowed(self.look, self.recipe)[0]

    @cached_property
    def _options(self) -> list[LayerOptions]:
        return every_option(self._left, self.recipe, self.choices, _by_layer(self.look, self.limits))

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
        yield from self._best_of([self, *self._narrower_ones], nbytes, asked)

    def within_limits(self, limits: Sequence[Budget], nbytes: int | None, asked: str) -> Iterator[BudgetPlan]:
        """Yield the plan for so many multiply-accumulates or bytes of RAM, and so many bytes of the file, if any.

        The fewest channels go that bring it within all limits: the same fraction of every width, or all ranked
        together, whichever the outputs prefer; without data, the latter. Of the file, `widths` beyond that are tried.

        Raises:
            ArgumentError: for limits that cannot be met, or if there is nothing else, that the model meets as it is.
        """
        full = {limit.measure: self._takes(limit.measure, self.recipe, asked) for limit in limits}
        most = {limit.measure: limit.of(full[limit.measure]) for limit in limits}
        if nbytes is None and all(amount > full[measure] for measure, amount in most.items()):
            met = ", and ".join(
                f"{most[measure]:,} {UNITS[measure]}, of which the model has {full[measure]:,}" for measure in most
            )
            raise ArgumentError(f"{asked} is {met}: there is nothing to remove")
        scopes = _SCOPES if self.judge is not None else _SCOPES[-1:]
        least = {scope: self._least_width(most, scope, asked) for scope in scopes}
        beyond = [] if nbytes is None else [(w, scope) for w in self.widths for scope in scopes if w > least[scope]]
        if not any(least.values()):  # where none has to go, there is one such network, however channels are ranked
            least = {scopes[0]: 0.0}
        planners = [self._narrower(width, scope) for scope, width in least.items()]
        planners += [self._narrower(width, scope) for width, scope in beyond]
        for found in self._best_of(planners, nbytes, asked):
            took = {measure: self._takes(measure, found.recipe, asked) for measure in most}
            told = tuple(Condition(measure, amount, took[measure]) for measure, amount in most.items())
            if nbytes is None:  # of several limits the first is the budget
                found = replace(found, of=told[0].measure, budget=told[0].most)
            yield replace(found, conditions=told)

    def faster(self, times: float, runtime: str, nbytes: int | None, asked: str) -> Iterator[BudgetPlan]:
        """Yield the plan that is so many times faster than the dense model in a runtime, and of so many bytes, if any.

        Networks without some of their channels are raced, and of those that are fast enough the best is chosen as ever.
        It is raced once more, alone: of many contestants some are lucky. If it is too slow then, the next are tried.

        Raises:
            ArgumentError: if none is fast enough, saying how fast the fastest was.
        """
        network, example = self._running(asked)
        assert self.look.channels is not None
        trials = SpeedTrials(network, self.look.channels, example, runtime, self.stopped)
        scopes = _SCOPES if self.judge is not None else _SCOPES[-1:]
        fast, found = trials.fast_enough(self.recipe, scopes, times, asked), None
        while fast:
            # where the file sets no bound, the fewest channels that will do
            least = fast if nbytes is not None else [next(w for w in fast if w[1] == s) for s in {s for _, s in fast}]
            *_, found = self._best_of([self._narrower(*width) for width in least], nbytes, asked)
            race = trials.race({"plan": found.recipe})
            if race.ratio("plan").low >= times:
                alone = {"of": "speed", "budget": found.nbytes} if nbytes is None else {}
                yield replace(found, race=race, **cast(Any, alone))
                return
            slow = found.recipe
            fast = [(w, s) for w, s in fast if w > slow.channels or s != slow.channel_scope]
        raise ArgumentError(f"{asked}: what was fast enough in one race was not when raced again; {ADVICE}")

    def _narrower(self, width: float, scope: ChannelScope) -> Planner:
        return replace(self, recipe=self.recipe.with_(channels=width, channel_scope=scope), widths=())

    def _takes(self, measure: Measure, recipe: Recipe, asked: str) -> int:
        """Return the multiply-accumulates, or the bytes of RAM, of what a recipe's channels leave."""
        channels = self._channels(asked)
        if measure == "macs":
            return channels.macs_after([len(kept) for kept in channels.kept(recipe)])
        network, example = self._running(asked)
        check(self.stopped)
        if recipe.removes_channels:
            network = without_channels(network, recipe, channels, None).model
        entries = open_model(network, only_to_look=True).entries
        with eval_mode(network):
            return sum(entry.nbytes for entry in entries) + profile_forward(network, entries, example).peak

    def _channels(self, asked: str) -> Channels:
        if self.look.channels is None:
            raise ArgumentError(
                f"{asked}: which channels can go is not in this sketch: plan for sw.sketch(model, example=…)"
            )
        return self.look.channels

    def _running(self, asked: str) -> tuple[nn.Module, object]:
        """Return the model and an example, for what is measured or counted while it runs."""
        self._channels(asked)
        if not isinstance(self.model, nn.Module) or self.example is None:
            raise ArgumentError(
                f"{asked}: for that the model has to run: give the nn.Module, and train_data=… or example=…"
            )
        return self.model, self.example

    def _least_width(self, most: Mapping[Measure, int], scope: ChannelScope, asked: str) -> float:
        """Return the least fraction of channels to remove, in thousandths, for what is left to be within limits."""

        def over(thousandths: int) -> dict[Measure, int]:
            recipe = self._narrower(thousandths / _GRID, scope).recipe
            takes = {measure: self._takes(measure, recipe, asked) for measure in most}
            return {measure: amount for measure, amount in takes.items() if amount > most[measure]}

        low, high = 0, _GRID - 1
        for measure, amount in over(high).items():
            raise ArgumentError(
                f"{asked} is {most[measure]:,} {UNITS[measure]}, and with one channel of every width left there are "
                f"still {amount:,}: allow more"
            )
        if not over(low):
            return 0.0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if over(middle) else (low, middle)
        return high / _GRID

    def _best_of(self, planners: Sequence[Planner], nbytes: int | None, asked: str) -> Iterator[BudgetPlan]:
        """Yield the best plan so far of several planners, each of which leaves other channels.

        Of each, the plan by the weights alone is tried; and what competes with it, where no channels go, and for the
        best of the others. Without data nothing can be weighed, and the plan of the first is the best.
        """
        if nbytes is None:
            trials = [(each, Trial(_of_width("all weights", each.recipe), each.recipe)) for each in planners]
        else:
            trials = [(each, first) for each in planners if (first := each._by_weights(nbytes)) is not None]
        if not trials:
            least = min((estimate(self.look, each.frontier.recipe(0)) for each in planners), key=lambda e: e.nbytes)
            halved = estimate(self.look, least.recipe.with_(uncompressed_bits=16))
            narrower = planners[-1].recipe.removes_channels
            raise ArgumentError(_too_small(asked, cast(int, nbytes), least, halved, narrower))
        if self.judge is None:
            yield self._plan(trials[0][1], nbytes)
            return
        found, tried, last = list[Judged](), dict[str, Trial](), self._plan(trials[0][1], nbytes)
        pending = 0
        for trial, pending in self._tries(trials, nbytes, found):
            if not tried:
                yield replace(last, pending=pending + 1)
            tried[trial.name] = trial
            one = judged(self.judge, self.look, trial.name, trial.recipe, trial.planned, nbytes)
            found += [] if one is None else [one]
            if found:
                winner, comparison = compare(found, self.judge)
                exact = next(each.estimate for each in found if each.candidate is winner)
                candidates = tuple(sorted((each.candidate for each in found), key=lambda each: each.error))
                last = self._plan(tried[winner.name], nbytes, exact)
                last = replace(last, candidates=candidates, comparison=comparison)
                yield replace(last, pending=pending)
        if not found:
            raise ArgumentError(f"{asked}: no file that was tried fits, as counted on the weights: allow a little more")
        if pending:  # a candidate had no file to be tried
            yield last

    def _tries(
        self, trials: Sequence[tuple[Planner, Trial]], nbytes: int | None, found: Sequence[Judged]
    ) -> Iterator[tuple[Trial, int]]:
        """Yield what to try, and how many are to follow; `found` is what has become of those before."""
        narrower = [each for each in trials if each[1].recipe.channels]
        # what competes with the best of these is known when that is: about as many, as there are bits
        later = len(_BESIDE) + len(self.choices.bits) if narrower and nbytes is not None else 0
        for planner, first in trials[: len(trials) - len(narrower)]:
            uniform = [] if nbytes is None else planner._uniform(nbytes)
            several = len(narrower) + later + (0 if nbytes is None else planner._several(uniform))
            yield first, several
            if nbytes is not None:
                for number, trial in enumerate(planner._beside(nbytes, first, uniform), start=1):
                    yield trial, several - number
        for number, (_, trial) in enumerate(narrower, start=1):
            yield trial, len(narrower) - number + later
        if narrower and nbytes is not None:
            error = {each.candidate.name: each.candidate.error for each in found}
            planner, first = min(narrower, key=lambda each: error.get(each[1].name, math.inf))
            uniform = planner._uniform(nbytes)
            for number, trial in enumerate(planner._beside(nbytes, first, uniform), start=1):
                yield trial, planner._several(uniform) - number

    def _plan(self, trial: Trial, nbytes: int | None, exact: Estimate | None = None) -> BudgetPlan:
        found = estimate(self.look, trial.recipe) if exact is None else exact
        reasons, budget = _reasons(trial.curve, trial.steps, found), found.nbytes if nbytes is None else nbytes
        if trial.curve is None:
            return BudgetPlan(found.recipe, budget, found, reasons, None)
        price, then = _price(trial.curve, trial.steps), _next_step(self.look, trial.curve, trial.steps, found.nbytes)
        filled = len(trial.steps) - _in_turn(trial.steps)
        return BudgetPlan(found.recipe, budget, found, reasons, price, next_step=then, filled=filled)

    def _by_weights(self, nbytes: int) -> Trial | None:
        """Return the plan by the weights alone; None if even the smallest file is too large."""
        return self._on_curve("relative errors", self.frontier, nbytes)

    def _on_curve(self, name: str, curve: BitAllocation, nbytes: int) -> Trial | None:
        steps = curve.within(nbytes)
        return None if steps is None else Trial(_of_width(name, self.recipe), curve.recipe(steps), curve, steps)

    def _uniform(self, nbytes: int) -> list[Recipe]:
        if self.limits:
            return []  # a uniform recipe knows no limits
        # which weights one ranking of all leaves is an estimate, and may be off by some
        room = nbytes - nbytes // 20_000 - 16
        few = [width for width in self.choices.bits if width <= 8]
        return list(uniform_recipes(self.look, self.recipe, room, few))

    def _several(self, uniform: Sequence[Recipe]) -> int:
        return len(_BESIDE) + len(uniform) + (not self.recipe.removes_channels)

    def _beside(self, nbytes: int, by_weights: Trial, uniform: Sequence[Recipe]) -> Iterator[Trial]:
        """Yield what competes with the plan by the weights alone for so many bytes."""
        for name, cost in _BESIDE.items():
            if trial := self._on_curve(name, self._allocated([cost(each) for each in self._options]), nbytes):
                yield trial
        for recipe in uniform:
            yield Trial(_of_width(f"uniform, {recipe.bits} bits", recipe), recipe, planned=False)
        # with narrower layers there is nothing to write into the dense network
        if not self.recipe.removes_channels:
            measured = self._allocated(self._measured(by_weights.recipe))
            if trial := self._on_curve("measured sensitivity", measured, nbytes):
                yield trial

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
            check(self.stopped)
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
        dense = scored(self.judge.model, eval_data, metric, None, self.stopped, self.patience)
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
            score = scored(small, eval_data, metric, norms, self.stopped, self.patience)
            if score.value >= dense.value - points / 100:
                best = replace(found, score=score, dense=dense, points=points)
                high = math.log(found.nbytes)
            else:
                low = math.log(size)
            if best is not None:
                yield replace(best, pending=left)
        if best is None:
            raise ArgumentError(f"no file that was tried loses at most {points:g} points of {dense.text}: allow more")


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


_BESIDE: Final = {"squared errors": squared_error, "errors between relative and squared": _between}
"""What the curves of the plans that compete with the one by relative errors minimise."""


def _of_width(name: str, recipe: Recipe) -> str:
    """Return the name of a candidate, with the channels that it removes."""
    if not recipe.channels:
        return name
    how = "ranked together" if recipe.channel_scope == "global" else "of each width"
    return f"{name}, without {100 * recipe.channels:.3g} % of the channels {how}"


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


def _too_small(asked: str, nbytes: int, least: Estimate, halved: Estimate, narrower: bool) -> str:
    """Return the sentence for a budget below the smallest file; `halved` is that file with 16 bits for other floats."""
    parts = least.parts()
    mask = f", {parts['mask']:,} of them for masks" if parts["mask"] else ""
    layers = parts["codes"] + parts["mask"] + parts["scales"]
    less = halved.parts()["uncompressed"]
    hint = f" ({less:,} with recipe=sw.Recipe(uncompressed_bits=16))" if less < parts["uncompressed"] else ""
    return (
        f"{asked} is {nbytes:,} bytes, and the smallest file there is to choose has {least.nbytes:,}: "
        f"{layers:,} for the layers{mask}, {parts['uncompressed']:,} for what is not compressed{hint} "
        f"and {parts['header']:,} for the header; allow more, or let {'more ' * narrower}channels go"
        f"{'' if narrower else ', with train_data=… and example=…'}"
    )
