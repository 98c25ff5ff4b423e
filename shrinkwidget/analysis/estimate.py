"""The estimate: what a recipe would make of a model, from its sketch alone, without touching a weight."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from ..argument_checks import public
from ..errors import ArgumentError, NoEstimateError, quoted
from ..recipe_and_method_registry import Kind, Plan, Recipe, RecipeFields, every_setting, layer_label, recipe_from
from .file_structure_and_size import code_and_mask_bytes, count_width, header_bytes, layer_bytes, scale_bytes
from .model_tensors import Source, Stated
from .pruning_estimate import PruningOutcome, alike, survivals
from .quantization_estimate import rounding_noise
from .sketch import LayerSketch, Sketch, narrowed_to
from .sketch import sketch as sketch_of

_FIELDS = ("kept", "threshold", "signal", "noise", "codes", "mask", "scales", "as_is")


@dataclass(frozen=True, slots=True)
class LayerEstimate:
    """What a recipe makes of one layer of n weights.

    `kept`: weights that survive pruning. `threshold`: magnitude below which weights are pruned (0 where no threshold
    decides). `signal`: Σ w². `noise`: Σ (w − effective w)². Then bytes in the packed file: `codes`, `mask`, `scales`
    (codebooks and zero points with them), and `as_is` for a layer under Keep.
    """

    name: str
    n: int
    kept: int
    threshold: float
    signal: float
    noise: float
    codes: int
    mask: int
    scales: int
    as_is: int

    @property
    def nbytes(self) -> int:
        """Bytes of this layer in the packed file, without its share of the header."""
        return self.codes + self.mask + self.scales + self.as_is

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that is pruned."""
        return 1 - self.kept / self.n

    @property
    def sqnr(self) -> float:
        """Signal to noise ratio in dB: 10·log₁₀(Σ w² / Σ (w − effective w)²); infinite without noise."""
        return decibels(self.signal, self.noise)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a recipe makes of a model: per layer, and in all.

    `uncompressed_bytes`: bytes of the tensors no recipe compresses. `header`: the rest of the file (names, shapes,
    recipe).
    `dense`: bytes of the plain ``.safetensors`` file. `download`: bytes of the entropy-coded file, where known.
    `exact` tells whether the figures were counted on the weights or estimated from the sketch. `assumed` are the
    warnings of the sketch. `widths` are the channels of each width before and after, by the first layer that makes
    them, and `macs` the multiply-accumulates of a forward pass on the example, pruned weights among them: counts that
    are always exact, known where the sketch was made with an example.

    Example:
        >>> import shrinkwidget as sw
        >>> estimate = sw.estimate(sw.demo.model(), sparsity=0.9, bits=4)
        >>> estimate.nbytes, round(estimate.ratio, 1), estimate.exact
        (39619, 17.7, False)
        >>> estimate.layer("stem").kept
        125
    """

    recipe: Recipe
    layers: tuple[LayerEstimate, ...]
    uncompressed_bytes: int
    header: int
    original_nbytes: int
    exact: bool = False
    nbytes_entropy_coded: int | None = None
    assumed: tuple[str, ...] = ()
    widths: Mapping[str, tuple[int, int]] | None = None
    macs: int | None = None
    original_macs: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed file."""
        return sum(layer.nbytes for layer in self.layers) + self.uncompressed_bytes + self.header

    @property
    def ratio(self) -> float:
        """Compression ratio: dense bytes / bytes now."""
        return self.original_nbytes / self.nbytes

    @property
    def sparsity(self) -> float:
        """Fraction of all compressible weights that is pruned."""
        return 1 - sum(layer.kept for layer in self.layers) / sum(layer.n for layer in self.layers)

    @property
    def sqnr(self) -> float:
        """Signal to noise ratio of all compressible weights together, in dB."""
        return decibels(sum(layer.signal for layer in self.layers), sum(layer.noise for layer in self.layers))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the totals hide: what was assumed, and layers whose outputs no longer depend on their inputs."""
        return (*nothing_left(layer.name for layer in self.layers if not layer.kept), *self.assumed)

    def layer(self, name: str) -> LayerEstimate:
        """Return the layer of this name, with or without its ``.weight``.

        Raises:
            KeyError: if there is none.

        Example:
            >>> import shrinkwidget as sw
            >>> stem = sw.estimate(sw.demo.model(), sparsity=0.9, bits=4).layer("stem")
            >>> stem.name, stem.n, stem.kept
            ('stem.weight', 144, 125)
        """
        for layer in self.layers:
            if name in (layer.name, layer_label(layer.name)):
                return layer
        raise KeyError(name)

    def parts(self) -> dict[str, int]:
        """Return the bytes of the file by part: codes, mask, scales, kept (with layers under Keep) and header.

        Example:
            >>> import shrinkwidget as sw
            >>> estimate = sw.estimate(sw.demo.model(), bits=4)
            >>> sum(estimate.parts().values()) == estimate.nbytes
            True
        """
        return {
            "codes": sum(layer.codes for layer in self.layers),
            "mask": sum(layer.mask for layer in self.layers),
            "scales": sum(layer.scales for layer in self.layers),
            "uncompressed": sum(layer.as_is for layer in self.layers) + self.uncompressed_bytes,
            "header": self.header,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict: totals, and per layer one list for each figure.

        Example:
            >>> import shrinkwidget as sw
            >>> estimate = sw.estimate(sw.demo.model(), bits=4)
            >>> sorted(estimate.to_dict())
            ['exact', 'header', 'layers', 'nbytes_entropy_coded', 'original_nbytes', 'recipe', 'uncompressed_bytes']
        """
        return {
            "recipe": self.recipe.to_json(),
            "exact": self.exact,
            "uncompressed_bytes": self.uncompressed_bytes,
            "header": self.header,
            "original_nbytes": self.original_nbytes,
            "nbytes_entropy_coded": self.nbytes_entropy_coded,
            "layers": {field: [getattr(layer, field) for layer in self.layers] for field in _FIELDS},
        } | (
            {} if self.macs is None else {"macs": self.macs, "widths": [now for _, now in (self.widths or {}).values()]}
        )

    def __repr__(self) -> str:
        sign = "" if self.exact else "≈ "
        about = (
            f"{sign}{self.nbytes:,} bytes, {compared(self.ratio)} {self.original_nbytes:,}; "
            f"{self.sparsity:.1%} sparse; SQNR {self.sqnr:.1f} dB"
        )
        return f"Estimate({'; '.join([about, *self.warnings])})"


def nothing_left(layers: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence that names the layers of which no weight survives, or nothing for none."""
    names = [repr(layer_label(name)) for name in layers]
    if not names:
        return ()
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (f"no weight survives in {', '.join(names[:3])}{more}",)


def decibels(signal: float, noise: float) -> float:
    """Return 10·log₁₀(signal / noise), infinite without noise."""
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else math.inf


def compared(ratio: float) -> str:
    """Return a compression ratio in words: "14.9× smaller than"; a tiny model's file may be "1.4× larger than"."""
    return f"{ratio:.1f}× smaller than" if ratio >= 1 else f"{1 / ratio:.1f}× larger than"


@public(fields_of=[RecipeFields], also=every_setting)
def estimate(
    model: Source | Sketch,
    recipe: Recipe | float | None = None,
    *,
    layout: Stated = None,
    **fields: Unpack[RecipeFields],
) -> Estimate:
    """Return what a recipe would make of a model, from its sketch alone.

    >>> import shrinkwidget as sw
    >>> look = sw.sketch(sw.demo.model())
    >>> sw.estimate(look, sparsity=0.9, bits=4).ratio > sw.estimate(look, 0.5).ratio
    True

    Args:
        model: a `Sketch`, or what one is made of: a module, a state dict, the path of a checkpoint. Make the sketch
            once where several recipes are tried: it takes longer than all of them.
        recipe: a `Recipe`, or a number: the sparsity.
        layout: of what is no sketch yet; see `sketch`.
        fields: of a `Recipe`; beside a recipe they change it.

    Raises:
        RecipeError: for what is no recipe, if one of its overrides matches no layer, or for a kind of which a sketch
            cannot tell what it comes to: `compress` counts it.
        ModelError, FileError: for a model that cannot be looked at; see `sketch`.
        ArgumentError: for an unknown keyword, or a `layout` beside a sketch, which has its own.
    """
    asked = recipe_from(recipe, fields)
    if isinstance(model, Sketch) and layout is not None:
        raise ArgumentError("a sketch has its layout already: give layout=… to sketch(…), or the model in its place")
    look = model if isinstance(model, Sketch) else sketch_of(model, layout=layout)
    plans = look.plans(asked)
    look, counts = narrowed(look, asked)
    outcomes = survivals(look.layers, plans, asked)
    layers: dict[int, LayerEstimate] = {}
    for plan, places in alike(plans):
        some = [look.layers[i] for i in places]
        known = [outcome for i in places if (outcome := outcomes[i]) is not None]
        if len(known) < len(some):
            # a structure is what a sketch knows nothing of only where it has no curve
            own = plan.structure.sparsity is not None and plan.structure.kind not in some[0].survival
            unknown = next(layer for layer, i in zip(some, places, strict=True) if outcomes[i] is None)
            raise _no_estimate(plan.structure if own else asked.importance, plan, unknown)
        noises = rounding_noise(some, plan, known)
        for layer, noise in zip(some, noises, strict=True):
            if noise is None:
                raise _no_estimate(plan.quantizer, None, layer)
        layers |= zip(places, layer_estimates(some, plan, known, noises), strict=True)
    return assembled(look, asked, plans, [layers[i] for i in range(len(plans))], **counts)


def _no_estimate(kind: Kind, pruned: Plan | None, layer: LayerSketch) -> NoEstimateError:
    of = " in each channel" if pruned is not None and pruned.scope == "channel" else ""
    return NoEstimateError(
        f"{kind.role} {kind.kind!r}{of} has no estimate from a sketch (layer {quoted(layer.label)}): take "
        f"sw.compress(model, recipe).estimate, which is exact"
    )


def narrowed(look: Sketch, recipe: Recipe) -> tuple[Sketch, dict[str, Any]]:
    """Return the sketch of what is left when the recipe's channels are gone, and what can be counted of it.

    Raises:
        NoEstimateError: for a sketch without channels, or with scores of another importance.
    """
    found = look.channels
    if found is None:
        if recipe.removes_channels:
            raise NoEstimateError(
                "which channels go together is not in this sketch: make it with sw.sketch(model, example=…), inputs as "
                "the model takes them"
            )
        return look, {}
    full = [family.channels for family in found.families]
    left = full
    if recipe.removes_channels:
        if recipe.channel_scope == "global" and not recipe.importance.ranks_channels_by_norm:
            raise NoEstimateError(
                f"a sketch has the channels' scores by magnitude, not by {recipe.importance.kind!r}: take "
                f"sw.compress(model, recipe, example=…).estimate, which is exact"
            )
        left = [len(kept) for kept in found.kept(recipe)]
    counts = {"widths": found.widths(left), "macs": found.macs_after(left), "original_macs": found.macs_after(full)}
    return narrowed_to(look, left), counts


def assembled(
    sketch: Sketch, recipe: Recipe, plans: Sequence[Plan], layers: Iterable[LayerEstimate], **more: Any
) -> Estimate:
    """Return the estimate of these layers together with what the rest of the file takes."""
    layers = tuple(layers)
    uncompressed = uncompressed_bytes(sketch, recipe)
    # a layer under Keep stands in the file as it is, among what is not compressed, and has no count of what it keeps
    lengths = {
        "counts": sum(count_width(layer.n) for layer, plan in zip(layers, plans, strict=True) if not plan.keep),
        "codes": sum(layer.codes for layer in layers),
        "mask": sum(layer.mask for layer in layers),
        "scales": sum(layer.scales for layer in layers),
        "rest": uncompressed + sum(layer.as_is for layer in layers),
    }
    # the header writes all lengths as decimals: how long it is depends on them
    header = header_bytes(recipe.to_json(), sketch.structure, lengths)
    return Estimate(recipe, layers, uncompressed, header, sketch.original_nbytes, assumed=sketch.warnings, **more)


def uncompressed_bytes(sketch: Sketch, recipe: Recipe) -> int:
    """Return the bytes of the tensors that no recipe compresses."""
    # floats take at most the bits that the recipe gives them, everything else its own width
    widest = recipe.uncompressed_bits // 8
    return sum(
        t.nbytes // t.itemsize * (min(t.itemsize, widest) if t.floating else t.itemsize) for t in sketch.uncompressed
    )


def layer_estimate(
    layer: LayerSketch, plan: Plan, kept: int, threshold: float, signal: float, noise: float
) -> LayerEstimate:
    """Return a layer's figures with the bytes that follow from its kept count."""
    size = layer_bytes(layer.matrix, kept, plan, layer.itemsize)
    return LayerEstimate(
        layer.name, layer.n, kept, threshold, signal, noise, size.codes, size.mask, size.scales, size.as_is
    )


def layer_estimates(
    layers: Sequence[LayerSketch], plan: Plan, outcomes: Sequence[PruningOutcome], rounding: Sequence[float | None]
) -> list[LayerEstimate]:
    """Return the figures of layers under one plan, with the energies of their rounding errors."""
    n, kept = (np.array(counts) for counts in ([layer.n for layer in layers], [each.kept for each in outcomes]))
    codes, mask, scales, as_is = np.zeros((4, len(layers)), np.int64)
    itemsizes = np.array([layer.itemsize for layer in layers])
    if plan.keep:
        as_is = n * itemsizes
    else:
        for itemsize in set(itemsizes.tolist()):
            some = itemsizes == itemsize
            codes[some], mask[some] = code_and_mask_bytes(n[some], kept[some], plan, itemsize)
        matrices = [layer.matrix for layer in layers]
        by_matrix = {matrix: scale_bytes(matrix, plan) for matrix in set(matrices)}
        scales = np.array([by_matrix[matrix] for matrix in matrices])
    # what is pruned and what is rounded are different weights, so that their errors add up
    noises = [each.pruned_energy + (more or 0.0) for each, more in zip(outcomes, rounding, strict=True)]
    sizes = (column.tolist() for column in (codes, mask, scales, as_is))
    return [
        LayerEstimate(layer.name, layer.n, outcome.kept, outcome.cut.threshold, layer.energy, noise, *nbytes)
        for layer, outcome, noise, *nbytes in zip(layers, outcomes, noises, *sizes, strict=True)
    ]
