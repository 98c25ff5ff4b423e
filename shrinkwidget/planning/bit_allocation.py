"""Bit allocation: which choice of each layer makes the least error in so many bytes, for all budgets at once.

Choices of a layer are points of bytes and cost. For a price λ of a byte, the best of each is the one of least cost +
λ·bytes, and layers need not know of each other (Everett 1963; Shoham and Gersho 1988). As the price falls, a layer
moves along the lower convex hull of its points; all hulls' edges, the steepest first, are one list of steps, and every
beginning of it is the best recipe for the bytes it takes. What the last step leaves of a budget goes to smaller ones
further down the list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, TypeAlias, cast

import numpy as np

from ..analysis.estimate_class_and_packed_file_header import (
    Ints,
    count_width,
    escaped_bytes,
    headers_bytes,
    uncompressed_bytes,
)
from ..analysis.estimate_from_sketch import narrowed
from ..analysis.sketch import LayerSketch, Sketch
from ..errors import ArgumentError
from ..recipe_and_method_registry import Keep, Kind, Override, Recipe, canonical_json
from .layer_options import Choices, Floats, LayerOptions, layer_options

_FORMAT: Final = "shrinkwidget-frontier"
_VERSION: Final = 1

HEADER_ROOM: Final = 64
"""Bytes that steps taken out of turn leave to the file's header.

There the lengths of the file's parts stand, of which ten can become larger, by a digit or two in all but odd cases; the
first override brings a dozen bytes; and it is padded to a multiple of 8. How much that comes to depends on all steps
together, and so that the page need not count it, this much is held back.
"""

Cost: TypeAlias = Callable[[LayerOptions], Floats]


def signal_lost(options: LayerOptions) -> Floats:
    """Return −log(1 − relative error): what is lost of a signal that passes through one layer after the other.

    A layer of relative error e hands on a signal that agrees with the right one to a share of 1 − e. Shares multiply
    through the network, and so their logarithms add up. For small errors that is e itself; a layer that loses
    everything costs more than any number of bytes is worth.
    """
    return -np.log(np.maximum(1 - options.error, 1e-9))


def relative_error(options: LayerOptions) -> Floats:
    """Return Σ (w − effective w)² / Σ w²."""
    return options.error


def squared_error(options: LayerOptions) -> Floats:
    """Return Σ (w − effective w)²."""
    return options.error * options.layer.energy


def lower_hull(nbytes: Ints, cost: Floats) -> list[int]:
    """Return the points of the lower convex hull, from the fewest bytes to the least cost.

    >>> lower_hull(np.array([10, 20, 30, 40]), np.array([1.0, 0.9, 0.1, 0.0]))
    [0, 2, 3]
    """
    # by bytes, of as many the cheapest first: the last key is the first to sort by
    order = np.lexsort((cost, nbytes))
    best = np.minimum.accumulate(cost[order])
    # only what is better than everything smaller can be on the hull
    better = order[np.append(True, best[1:] < best[:-1])]
    hull: list[tuple[int, int, float]] = []
    for point in zip(better.tolist(), nbytes[better].tolist(), cost[better].tolist(), strict=True):
        # the last one is dropped where it does not lie below the line from the one before it to this one
        while len(hull) >= 2 and _is_above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return [number for number, *_ in hull]


def _is_above(a: tuple[int, int, float], b: tuple[int, int, float], c: tuple[int, int, float]) -> bool:
    return (b[2] - a[2]) * (c[1] - a[1]) >= (c[2] - a[2]) * (b[1] - a[1])


@dataclass(frozen=True, eq=False)
class BitAllocation:
    """The best recipe for every budget, as a start and a list of steps that each give one layer more bytes.

    `base` is the recipe without the layers that are planned, whose names are `layers`; `overrides` is what a recipe may
    say of a layer. `start` are the layers' overrides in the smallest file, as places in that list. Step i gives layer
    `step_layer[i]` the override `step_choice[i]`, and makes the file `step_nbytes[i]` larger, but for what the header
    says of lengths. `nbytes` are the bytes of the packed file at the start and after each step, and `cost` what the
    allocation minimises, so that both have one entry more than there are steps; `price` is by how much each step
    lessens the cost for every kB that it gives its layer, the largest first.

    Example:
        >>> import shrinkwidget as sw
        >>> from shrinkwidget.planning.bit_allocation import allocate
        >>> steps = allocate(sw.sketch(sw.demo.model()))
        >>> recipe = steps.recipe(steps.within(64_000))
        >>> sw.compress(sw.demo.model(), recipe).nbytes <= 64_000
        True
    """

    base: Recipe
    layers: tuple[str, ...]
    overrides: tuple[Mapping[str, Any], ...]
    start: Ints
    step_layer: Ints
    step_choice: Ints
    step_nbytes: Ints
    nbytes: Ints
    cost: Floats
    price: Floats

    def __len__(self) -> int:
        return len(self.nbytes)

    def within(self, budget: int) -> Ints | None:
        """Return the steps whose file is as large as it may be, rising; None if even the smallest file is too large.

        They are the first ones, as long as they fit, and then whichever of the others still does. A layer whose step
        does not fit gets nothing more: its later ones are from there.
        """
        fitting = np.flatnonzero(self.nbytes <= budget)
        if not len(fitting):
            return None
        first = int(fitting[-1])
        room, taken, passed = budget - int(self.nbytes[first]) - HEADER_ROOM, list(range(first)), set[int]()
        rest = zip(self.step_layer[first:].tolist(), self.step_nbytes[first:].tolist(), strict=True)
        for step, (layer, nbytes) in enumerate(rest, start=first):
            if layer in passed:
                continue
            if nbytes <= room:
                taken.append(step)
                room -= nbytes
            else:
                passed.add(layer)
        return np.array(taken, dtype=np.int64)

    def chosen(self, steps: Ints | int) -> Ints:
        """Return each layer's override after some steps, or the first so many: places in `overrides`, (layers,)."""
        steps = np.arange(steps) if isinstance(steps, int) else steps
        chosen = self.start.copy()
        # of several steps of one layer the last is written last
        chosen[self.step_layer[steps]] = self.step_choice[steps]
        return chosen

    def recipe(self, steps: Ints | int) -> Recipe:
        """Return the recipe after some steps, or after the first so many."""
        said = {name: self.overrides[i] for name, i in zip(self.layers, self.chosen(steps).tolist(), strict=True)}
        return self.base.with_(layers={**self.base.layers, **{name: own for name, own in said.items() if own}})

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, in the form that ``docs/plan.md`` describes."""
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "base": self.base.to_json(),
            "layers": list(self.layers),
            "choices": [_json(own) for own in self.overrides],
            "start": self.start.tolist(),
            "step_layer": self.step_layer.tolist(),
            "step_choice": self.step_choice.tolist(),
            "step_nbytes": self.step_nbytes.tolist(),
            "nbytes": self.nbytes.tolist(),
            "cost": [float(f"{x:.6g}") for x in self.cost.tolist()],
            "price": [float(f"{x:.6g}") for x in self.price.tolist()],
        }


def allocate(
    look: Sketch,
    recipe: Recipe | None = None,
    choices: Choices | None = None,
    cost: Cost = relative_error,
    limits: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> BitAllocation:
    """Return the best recipes for all budgets, from a sketch alone.

    Args:
        look: the model's sketch.
        recipe: how weights are ranked and rounded, and what stays as it is: a field of an override is not chosen, and
            nothing is of a layer under Keep. Its own sparsity and bits are not looked at.
        choices: what there is to choose from.
        cost: what a layer's choices cost, from their relative errors.
        limits: between what a layer's bits and sparsity have to be, by its name.
    """
    recipe = recipe or Recipe()
    left, _ = narrowed(look, recipe)
    options = every_option(left, recipe, choices or choices_of(recipe), limits or {})
    return allocated(left, recipe, options, [cost(each) for each in options])


def choices_of(recipe: Recipe, **several: Any) -> Choices:
    """Return what there is to choose from beside what a recipe says; `several` are fields of the choices."""
    given = {"granularities": (recipe.granularity,), "quantizers": (recipe.quantizer,), **several}
    if recipe.structure.sparsity is not None:
        given["sparsities"] = (recipe.structure.sparsity,)
    return Choices(recipe.importance, recipe.structure, **given)


def every_option(
    look: Sketch, recipe: Recipe, choices: Choices, limits: Mapping[str, Mapping[str, tuple[float, float]]]
) -> list[LayerOptions]:
    """Return the options of all layers that the recipe does not keep as they are.

    Raises:
        ArgumentError: if there is no such layer, or one of them has nothing to choose from.
        NoEstimateError: see `layer_options`.
    """
    # layers with the same choices are looked at together
    groups: dict[Choices, list[LayerSketch]] = {}
    for layer, own in zip(look.layers, recipe.overrides([layer.name for layer in look.layers]), strict=True):
        if isinstance(own, Mapping):
            mine = choices.restricted(own) if own else choices
            mine = mine.limited(limits[layer.name]) if layer.name in limits else mine
            groups.setdefault(mine, []).append(layer)
    if not groups:
        raise ArgumentError("there is nothing to plan: the recipe keeps every layer as it is")
    found = {each.layer: each for mine, layers in groups.items() for each in layer_options(layers, mine)}
    return [found[layer] for layer in look.layers if layer in found]


def allocated(look: Sketch, recipe: Recipe, options: Sequence[LayerOptions], costs: Sequence[Floats]) -> BitAllocation:
    """Return the allocation among these options at these costs; of a recipe that removes channels, `look` is narrowed.

    Raises:
        NoEstimateError: see `narrowed`.
    """
    hulls = [lower_hull(each.nbytes, cost) for each, cost in zip(options, costs, strict=True)]
    edges = [(n, a, b) for n, hull in enumerate(hulls) for a, b in pairwise(hull)]
    slope = [(costs[n][a] - costs[n][b]) / (options[n].nbytes[b] - options[n].nbytes[a]) for n, a, b in edges]
    # along a hull the slope only falls: sorted by it, the steps of one layer stay in order
    order = np.argsort(-np.array(slope), kind="stable").tolist()
    edges = [edges[i] for i in order]
    start = [hull[0] for hull in hulls]
    kept = {layer.label: Keep for layer, own in zip(look.layers, _own(look, recipe), strict=True) if own is Keep}
    base = recipe.with_(scope="layer", layers=kept, **_commonest(recipe, options, start, edges))
    said, places = _overrides(look, recipe, base, options)
    first = [places(n, choice) for n, choice in enumerate(start)]
    then = [places(n, choice) for n, _, choice in edges]
    cost = sum(float(costs[n][i]) for n, i in enumerate(start))
    lost = [float(costs[n][a] - costs[n][b]) for n, a, b in edges]
    nbytes, grows = _file_bytes(look, base, options, said, (start, first), (edges, then))
    return BitAllocation(
        base=base,
        layers=tuple(each.layer.label for each in options),
        overrides=tuple(said),
        start=np.array(first),
        step_layer=np.array([n for n, *_ in edges], dtype=np.int64),
        step_choice=np.array(then, dtype=np.int64),
        step_nbytes=grows,
        nbytes=nbytes,
        cost=cost - np.cumsum([0.0, *lost]),
        price=1000 * np.array(slope, dtype=np.float64)[order],
    )


def _own(look: Sketch, recipe: Recipe) -> list[Override]:
    return recipe.overrides([layer.name for layer in look.layers])


def _commonest(
    recipe: Recipe, options: Sequence[LayerOptions], start: Sequence[int], edges: Sequence[tuple[int, int, int]]
) -> dict[str, Any]:
    """Return the commonest sparsity and bits in mid-curve, against which layers' overrides are written.

    The recipe stands in the file's header, where each field that can be left out saves some bytes.
    """
    chosen = list(start)
    for n, _, choice in edges[: len(edges) // 2]:
        chosen[n] = choice
    said = [each.choices.fields(choice) for each, choice in zip(options, chosen, strict=True)]
    widths = {*recipe.quantizer.widths, 16, 32}
    bits = Counter(own["bits"] for own in said if own["bits"] in widths).most_common(1)
    return {
        "bits": bits[0][0] if bits else recipe.bits,
        "sparsity": Counter(own["sparsity"] for own in said).most_common(1)[0][0],
    }


def _overrides(
    look: Sketch, recipe: Recipe, base: Recipe, options: Sequence[LayerOptions]
) -> tuple[list[dict[str, Any]], Callable[[int, int], int]]:
    """Return what a recipe may say of layers, and a function that returns the place of a layer's choice among it.

    The list grows as places are asked for.
    """
    names = [layer.name for layer in look.layers]
    own = dict(zip(names, _own(look, recipe), strict=True))
    found: dict[str, dict[str, Any]] = {}
    known: dict[tuple[int, int, str], int] = {}
    said: list[dict[str, Any]] = []

    def place(n: int, choice: int) -> int:
        of = options[n]
        mine = cast(Mapping[str, Any], own[of.layer.name])
        # what is not chosen: channels, their multiple, a structure of the layer's own
        rest = {name: mine[name] for name in ("structure", "channels", "multiple") if name in mine}
        # Most layers share one object of choices, which the options keep alive: its id stands for it. Without the short
        # cut the same override would be written as text for every layer and choice.
        key = id(of.choices), choice, repr(rest)
        if key not in known:
            fields = {k: v for k, v in of.choices.fields(choice).items() if v != getattr(base, k)}
            text = canonical_json(_json(rest | fields))
            if text not in found:
                found[text] = rest | fields
                said.append(rest | fields)
            known[key] = list(found).index(text)
        return known[key]

    return said, place


def _file_bytes(
    look: Sketch,
    base: Recipe,
    options: Sequence[LayerOptions],
    said: Sequence[Mapping[str, Any]],
    begin: tuple[Sequence[int], Sequence[int]],
    steps: tuple[Sequence[tuple[int, int, int]], Sequence[int]],
) -> tuple[Ints, Ints]:
    """Return the bytes of the packed file at the start and after every step, to the byte, and what each step adds.

    The latter is without what the header says of lengths, so that it is the same whichever steps came before.
    """
    start, first = begin
    edges, then = steps
    at = list(first)

    def running(before: Sequence[int], changes: Sequence[int]) -> Ints:
        return np.cumsum([sum(before), *changes], dtype=np.int64)

    def part(of: Callable[[LayerOptions], Ints]) -> Ints:
        each = [of(one).tolist() for one in options]
        return running([each[n][i] for n, i in enumerate(start)], [each[n][b] - each[n][a] for n, a, b in edges])

    # an override in the recipe's text is "name":{…}, with a comma before all but the first; none stands there if empty
    names = [escaped_bytes(canonical_json(each.layer.label)) + 2 for each in options]
    texts = [escaped_bytes(canonical_json(_json(own))) for own in said]
    letters, some = [], []
    for (n, *_), place in zip(edges, then, strict=True):
        here, there = ((names[n] + texts[i]) if said[i] else 0 for i in (at[n], place))
        letters.append(there - here)
        some.append(bool(said[place]) - bool(said[at[n]]))
        at[n] = place
    overrides = running([names[n] + texts[i] if said[i] else 0 for n, i in enumerate(first)], letters)
    written = running([bool(said[i]) for i in first], some)
    # layers under Keep come first, and bring the braces and no comma
    around = 0 if base.layers else escaped_bytes(',"layers":{}') - 1
    text = escaped_bytes(base.to_json()) + overrides + np.where(written > 0, around, 0)
    kept = [layer for layer in look.layers if layer.label in base.layers]
    rest = uncompressed_bytes(look, base) + sum(layer.n * layer.itemsize for layer in kept)
    # layers under Keep have no count of what they keep
    counts = sum(count_width(each.layer.n) for each in options)
    lengths = {
        "counts": np.full(len(text), counts),
        "codes": part(lambda one: one.codes),
        "mask": part(lambda one: one.mask),
        "scales": part(lambda one: one.scales),
        "rest": np.full(len(text), rest),
    }
    body: Ints = lengths["codes"] + lengths["mask"] + lengths["scales"] + lengths["rest"]
    grows = np.diff(body) + np.array(letters, dtype=np.int64)
    return body + headers_bytes(text, look.structure, lengths), grows


def _json(override: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.to_json() if isinstance(value, Kind) else value for name, value in override.items()}
