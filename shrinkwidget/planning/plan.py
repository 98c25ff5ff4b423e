"""`plan`: the recipe that fits a budget and costs the least, with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from ..analysis.channel_layout import Stated
from ..analysis.estimate import Estimate, compared, estimate, narrowed
from ..analysis.model_tensors import Source
from ..analysis.sketch import Sketch
from ..analysis.sketch import sketch as sketch_of
from ..argument_checks import public, refuse_unknown
from ..errors import ArgumentError, nearest, quoted
from ..method_registry import Quantizer, parsed
from ..recipe import Granularity, Recipe, checked_recipe, layer_label, layer_matches
from .bit_allocation import BitAllocation, allocated, choices_of, every_option, relative_error
from .budgets import parse_budget
from .layer_options import BITS, SPARSITIES, Choices

_LIMITS: Final = ("min_bits", "max_bits", "min_sparsity", "max_sparsity")


@dataclass(frozen=True, slots=True)
class LayerReason:
    """What a plan gives one layer of n weights, and why not less or more.

    `error` is its Σ (w − effective w)² / Σ w², estimated. `gained` is how much of that the last kB it was given saved,
    and `forgone` how much another one would: a plan stops where what is gained nowhere else is forgone. None where
    there is nothing less, or nothing more, that the layer may have.
    """

    name: str
    n: int
    sparsity: float
    bits: int
    nbytes: int
    error: float
    gained: float | None
    forgone: float | None


@dataclass(frozen=True)
class BudgetPlan:
    """The recipe that `plan` found for a budget, what it comes to, and why.

    Args:
        recipe: what `compress`, `recover` and all others take.
        budget: bytes that the packed file may have.
        estimate: what a sketch tells of the recipe; its bytes are exact.
        layers: what each layer gets, and why; layers under `Keep` are not among them.
        price: by how much the last kB, wherever it went, lessened the errors of all layers together; None for the
            smallest file there is.

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
            6... of 64,000 bytes. The last kB lessened the errors of all layers together by 0.0...; ...
              layer           weights  sparsity  bits  bytes  error  last kB gained  another would gain
              stem                144 ...
              ...
        """
        heads = ("layer", "weights", "sparsity", "bits", "bytes", "error", "last kB gained", "another would gain")
        rows = [
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
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in (heads, *rows)
        ]
        if self.price is None:
            about = "It is the smallest file there is to choose."
        else:
            about = (
                f"The last kB lessened the errors of all layers together by {self.price:.4f}; no layer would gain more "
                f"by another."
            )
        return "\n".join([f"{self.nbytes:,} of {self.budget:,} bytes. {about}", *(f"  {line}" for line in lines)])

    def __repr__(self) -> str:
        found = self.estimate
        ratio = f"{compared(found.ratio)} {found.original_nbytes:,}"
        about = f"{self.nbytes:,} of {self.budget:,} bytes, {ratio}; {found.sparsity:.1%} sparse"
        bits = sorted({layer.bits for layer in self.layers})
        span = f"{bits[0]} bits" if len(bits) == 1 else f"{bits[0]} to {bits[-1]} bits"
        return f"BudgetPlan({about}, {span}; see .explain())"


@public()
def plan(
    model: Source | Sketch,
    budget: float | str,
    *,
    recipe: Recipe | None = None,
    limits: Mapping[str, Mapping[str, float]] | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    bits: Sequence[int] = BITS,
    granularities: Sequence[Granularity] | None = None,
    quantizers: Sequence[str | Quantizer] | None = None,
    layout: Stated = None,
) -> BudgetPlan:
    """Return the recipe that fits a budget and changes the network least, layer by layer.

    >>> import shrinkwidget as sw
    >>> model = sw.demo.model()
    >>> found = sw.plan(model, "40 kB")
    >>> small = sw.compress(model, found.recipe)
    >>> small.nbytes == found.nbytes <= 40_000
    True

    Args:
        model: a `Sketch`, or what one is made of: a module, a state dict, the path of a checkpoint.
        budget: bytes of the packed file, ``64_000`` or ``"64 kB"``, a compression ratio, ``"10x"``, or a share of the
            dense file, ``"10 %"``.
        recipe: what is not chosen: how weights are ranked and rounded, the bits of what is not compressed, and of
            single layers whatever it overrides. ``Recipe(layers={"stem": sw.Keep, "head": dict(bits=8)})`` leaves
            "stem" as it is, and chooses only the sparsity of "head". Its own sparsity and bits are not looked at.
        limits: of layers by name or wildcard, some of ``min_bits``, ``max_bits``, ``min_sparsity``, ``max_sparsity``.
        sparsities, bits, granularities, quantizers: what there is to choose from; by default many sparsities from 0 to
            98 %, bits from 2 to 32, and the granularity and the quantizer of the recipe.
        layout: of what is no sketch yet; see `sketch`.

    Raises:
        ArgumentError: for what is no budget, one below the smallest file that can be had (saying which that is, and
            what takes its bytes) or above the dense one, or limits that leave a layer nothing.
        RecipeError: for what is no recipe, or overrides that match no layer.
        ModelError, FileError: for a model that cannot be looked at; see `sketch`.
    """
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    look = model if isinstance(model, Sketch) else sketch_of(model, layout=layout)
    wanted = parse_budget(budget)
    asked = Recipe() if recipe is None else checked_recipe(recipe)
    choices = _choices(asked, sparsities, bits, granularities, quantizers)
    left, _ = narrowed(look, asked)
    options = every_option(left, asked, choices, _by_layer(look, limits or {}))
    nbytes = wanted.of(look.original_nbytes)
    if nbytes > look.original_nbytes:
        raise ArgumentError(
            f"plan(budget={quoted(budget)}) is {nbytes:,} bytes, and the dense file has {look.original_nbytes:,}: "
            f"there is nothing to make smaller"
        )
    steps = allocated(left, asked, options, [relative_error(each) for each in options])
    at = steps.within(nbytes)
    if at is None:
        raise ArgumentError(_too_small(budget, nbytes, estimate(look, steps.recipe(0))))
    found = estimate(look, steps.recipe(at))
    return BudgetPlan(
        recipe=found.recipe,
        budget=nbytes,
        estimate=found,
        layers=_reasons(steps, at, found),
        price=float(steps.price[at - 1]) if at else None,
    )


def _choices(
    recipe: Recipe,
    sparsities: Sequence[float],
    bits: Sequence[int],
    granularities: Sequence[Granularity] | None,
    quantizers: Sequence[str | Quantizer] | None,
) -> Choices:
    """Return what there is to choose from, every amount checked as a recipe checks it."""
    for amount in sparsities:
        Recipe(sparsity=amount)
    several: dict[str, Any] = {"sparsities": tuple(sorted(set(sparsities)))}
    several["bits"] = tuple(sorted({Recipe(bits=width).bits for width in bits}))
    if granularities is not None:
        several["granularities"] = tuple(Recipe(granularity=each).granularity for each in granularities)
    if quantizers is not None:
        several["quantizers"] = tuple(parsed("quantizer", each, "plan(quantizers=…)") for each in quantizers)
    for name, values in several.items():
        if not values:
            raise ArgumentError(f"plan({name}=…) is empty: give at least one, or leave it out")
    return choices_of(recipe, **several)


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
            raise ArgumentError(f"{where} matches no layer{nearest(pattern, map(layer_label, names))}")
        bits = said.get("min_bits", 1), said.get("max_bits", 32)
        sparsity = said.get("min_sparsity", 0.0), said.get("max_sparsity", 1.0)
        found |= {name: {"bits": bits, "sparsity": sparsity} for name in matched}
    return found


def _reasons(steps: BitAllocation, at: int, found: Estimate) -> tuple[LayerReason, ...]:
    """Return what each layer gets after so many steps, its last one and its next."""
    gained, forgone = dict[int, float](), dict[int, float]()
    for number, (place, price) in enumerate(zip(steps.step_layer.tolist(), steps.price.tolist(), strict=True)):
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


def _too_small(budget: object, nbytes: int, least: Estimate) -> str:
    parts = least.parts()
    mask = f", {parts['mask']:,} of them for masks" if parts["mask"] else ""
    layers = parts["codes"] + parts["mask"] + parts["scales"]
    return (
        f"plan(budget={quoted(budget)}) is {nbytes:,} bytes, and the smallest file there is to choose has "
        f"{least.nbytes:,}: {layers:,} for the layers{mask}, {parts['uncompressed']:,} for what is not compressed "
        f"(half of that with recipe=sw.Recipe(uncompressed_bits=16)) and {parts['header']:,} for the header; allow "
        f"more, or remove channels first"
    )
