"""Which weights survive: those with the largest scores, of all layers, one, or a row, or n of every m neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..analysis.estimate_class_and_packed_file_header import zeros_dropped
from ..analysis.open_model_tensors_and_channel_axes import ModelTensors, TensorEntry, where_float64_is
from ..analysis.run_model_seeded_macs_and_memory import describe
from ..analysis.sketch import LayerSketch, Sketch, block_count, counted
from ..analysis.tensor_ops_threads_and_cpu_kernel import (
    NM_PATTERNS,
    Watch,
    Zeros,
    chunks,
    count_true,
    count_zeros,
    each,
    kernel_for,
    magnitude,
    mark_above,
    places_of,
)
from ..errors import MethodError, ModelError, a_type, layer_label, quoted
from ..recipe_and_method_registry import Importance, Plan, Recipe, Structure, doing


class Selection(Protocol):
    """Which weights of one layer survive: how many, above what magnitude (0 if that says nothing), and which."""

    @property
    def kept(self) -> int:
        """Number of survivors."""

    @property
    def threshold(self) -> float:
        """The largest magnitude pruned by a magnitude cut, 0 for other selections."""

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights of a matrix are kept, bool ``[n]`` row by row, on its device."""


def keep_masks(weights: ModelTensors, recipe: Recipe, known: Sketch | None = None) -> list[Tensor | None]:
    """Return the exact mask of every compressible layer, true where a weight is kept; None where none is pruned.

    Of n weights k = round(s·n) are pruned (half to even), smallest magnitude first; of equal magnitudes the one that
    comes first row by row, and of equal ones in scope "global" that of the earlier layer. Weights that are zero already
    are pruned as well, beyond k where there are more of them; where k is 0 `zeros_dropped` says which. Masks have the
    shapes of their tensors and lie on their devices. `known` is the weights' sketch, if there is one already.

    Raises:
        RecipeError: if an override matches no layer.
        ModelError: for NaN or infinite weights.
    """
    chosen = list(zip(weights.layers, selections(weights, recipe, known), strict=True))
    return list(each(_mask, chosen, on_gpu=weights.on_gpu))


def _mask(layer: tuple[TensorEntry, Selection]) -> Tensor | None:
    entry, selection = layer
    return entry.layout.restored(selection.mask(entry.rows()), entry.shape) if selection.kept < entry.numel else None


def selections(
    weights: ModelTensors,
    recipe: Recipe,
    known: Sketch | None = None,
    cancelled: Watch | None = None,
    pruned: bool = False,
) -> list[Selection]:
    """Return which weights of every compressible layer survive, in order; see `keep_masks`.

    With `pruned`, the network was trained under the masks of the recipe. Its zeros are what was pruned, and nothing is
    ranked again, unless training has ended before all was pruned that the recipe asks for.

    Raises:
        Cancelled: as soon as `cancelled` says so.
        ModelError: if `known` is the sketch of another model.
        MethodError: for an importance that fails, or that needs calibration data and has none.
    """
    if pruned and (done := _pruned_already(weights, recipe)) is not None:
        return done
    known = known or counted(weights)
    if [(k.name, k.shape, k.rows) for k in known.layers] != [(e.name, e.shape, e.matrix[0]) for e in weights.layers]:
        raise ModelError("the sketch given is of another model: leave it out, or make it of this one")
    layers = [_Layer(*item) for item in zip(weights.layers, known.layers, known.plans(recipe), strict=True)]
    rank = Ranking(recipe.importance, _statistics(recipe.importance, layers, known))
    # layers of scope "global" compete in one ranking; the others are independent, and share the cores
    shared_by = [layer for layer in layers if layer.plan.scope == "global"]
    shared = iter(_cuts(shared_by, rank, recipe.sparsity, cancelled, weights.on_gpu))
    others = [layer for layer in layers if layer.plan.scope != "global"]
    alone = each(partial(_own, rank=rank), others, cancelled, weights.on_gpu)
    return [next(shared if layer.plan.scope == "global" else alone) for layer in layers]


def _pruned_already(weights: ModelTensors, recipe: Recipe) -> list[Selection] | None:
    """Return the selections of a network whose zeros are all that a recipe prunes; None where more has to go.

    Zeros are the smallest magnitudes anyway, and `retrain` moves survivors off zero. A ranking of scores would choose
    other weights after training, and one by calibration data has no data any more.
    """
    zeros = list(each(_count_zeros, weights.layers, on_gpu=weights.on_gpu))
    layers = list(zip(weights.layers, weights.plans(recipe), zeros, strict=True))
    shared = [(entry, counted) for entry, plan, counted in layers if plan.scope == "global"]
    of_all = round(recipe.sparsity * sum(entry.numel for entry, _ in shared))
    if not recipe.importance.calibrated:
        missing = sum(counted.zeros for _, counted in shared) < of_all
        alone = [layer for layer in layers if layer[1].scope != "global"]
        if missing or any(_lacks_zeros(*layer, recipe.importance) for layer in alone):
            return None
    return [
        _not_zero(entry.numel, counted.zeros)
        if (of_all if plan.scope == "global" else _asked(entry, plan))
        else _unranked(counted, plan, entry.numel, entry.dtype.itemsize)
        for entry, plan, counted in layers
    ]


def _count_zeros(entry: TensorEntry) -> Zeros:
    return count_zeros(where_float64_is(entry.rows()))


def _asked(entry: TensorEntry, plan: Plan) -> int:
    """Return how many weights a layer that is pruned by itself is to lose."""
    if plan.keep:
        return 0
    if plan.structure.sparsity is not None:
        return round(plan.structure.sparsity * entry.numel)
    rows, columns = entry.matrix
    return rows * round(plan.sparsity * columns) if plan.scope == "channel" else round(plan.sparsity * entry.numel)


def _lacks_zeros(entry: TensorEntry, plan: Plan, counted: Zeros, importance: Importance) -> bool:
    """Tell whether a layer that is pruned by itself may have fewer zeros than it is to have, or in other places."""
    asked = _asked(entry, plan)
    if not asked:
        return False
    if (kind := plan.structure.kind) in counted.blocks:
        # an n:m pattern holds if it would keep every weight that is not zero
        return counted.blocks[kind] != entry.numel - counted.zeros
    if plan.structure.sparsity is not None and importance.of_magnitude:
        return True  # ranked again, a structure of somebody's own drops the zeros first
    if plan.scope == "channel":
        rows = entry.rows()
        return bool(((rows == 0).sum(1) < round(plan.sparsity * rows.shape[1])).any())
    return counted.zeros < asked


def _asks(plan: Plan) -> bool:
    """Tell whether a plan prunes."""
    return not plan.keep and (plan.sparsity > 0 or plan.structure.sparsity is not None)


def _statistics(importance: Importance, layers: Sequence[_Layer], known: Sketch) -> Mapping[str, Tensor] | None:
    """Return what an importance found in calibration data, if it needs any and something is pruned."""
    if not importance.calibrated or not any(_asks(layer.plan) for layer in layers):
        return None
    if known.calibration is None:
        raise MethodError(
            f"importance {importance.kind!r} needs calibration data: give it with sw.compress(model, recipe, "
            f"calibration=data), sw.explore(model, data, calibration=…) or sw.sketch(model, calibration=data)"
        )
    found = known.calibration.statistics(importance)
    if missed := [
        layer_label(layer.entry.name) for layer in layers if _asks(layer.plan) and layer.entry.name not in found
    ]:
        names = ", ".join(map(quoted, missed[:3])) + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
        raise MethodError(
            f"importance {importance.kind!r} needs the inputs of every layer it prunes, and the calibration data "
            f"reached none of {names}: leave such layers as they are with layers={{{quoted(missed[0])}: sw.Keep}}, or "
            f"dict(sparsity=0)"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """One layer to be pruned."""

    entry: TensorEntry
    look: LayerSketch
    plan: Plan


@dataclass(frozen=True, slots=True)
class Ranking:
    """An importance, with what it found in calibration data: what layers are ranked by."""

    importance: Importance
    statistics: Mapping[str, Tensor] | None = None

    def ranked(self, layer: _Layer) -> Ranked:
        """Return the scores of a layer as a ranking needs them; magnitudes come with a table of them already."""
        entry, look = layer.entry, layer.look
        if self.importance.of_magnitude:
            histogram = np.bincount(look.buckets & 0x7FFF, weights=look.counts).astype(np.float64)
            lossless, load = look.lossless, entry.rows
        else:
            # Scores are computed again whenever they are needed: held for all layers they would take as much memory as
            # the model does. A first pass counts them, as the sketch has counted magnitudes.
            load, lossless = partial(self.scores, entry), False
            histogram = np.zeros(1 << 15)
            for piece in chunks(load().reshape(-1)):
                patterns = (piece.float().view(torch.int32) >> 16).bitwise_and_(0x7FFF)
                histogram += torch.bincount(patterns.view(-1), minlength=1 << 15).cpu().numpy()
        buckets = np.flatnonzero(histogram)
        return Ranked(entry.name, entry.numel, load, buckets, histogram[buckets].astype(np.int64), lossless)

    def scores(self, entry: TensorEntry) -> Tensor:
        """Return the score of every weight of a layer, of the shape of its matrix.

        Raises:
            MethodError: for an importance that fails, or returns what is no score for every weight.
        """
        importance, rows = self.importance, entry.rows()
        statistic = None
        if self.statistics is not None:
            statistic = entry.layout.rows(self.statistics[entry.name].to(rows.device))
        with torch.no_grad(), doing(importance, entry.name):
            found = importance.scores(entry.name, rows, statistic)
        refuse_no_scores(importance, entry.name, found, rows)
        return found


def refuse_no_scores(importance: Importance, name: str, found: object, rows: Tensor) -> None:
    """Raise a `MethodError` for what is not a score, finite and not negative, for every weight."""
    wrong = ""
    if not isinstance(found, Tensor) or not found.is_floating_point():
        wrong = a_type(found) if not isinstance(found, Tensor) else f"a tensor of {found.dtype}"
        wrong = f"returned {wrong}, expected a float tensor"
    elif found.shape != rows.shape:
        wrong = f"returned scores of shape {list(found.shape)}, expected {list(rows.shape)}"
    elif not bool((found >= 0).all()) or bool(found.isinf().any()):
        wrong = "returned scores that are NaN, infinite or negative"
    if wrong:
        raise MethodError(f"importance {importance.kind!r} failed on {quoted(layer_label(name))}: it {wrong}")


def _own(layer: _Layer, rank: Ranking) -> Selection:
    """Return the selection of a layer that is pruned by itself."""
    entry, plan = layer.entry, layer.plan
    if plan.keep:
        return _nothing_asked(layer)
    if plan.structure.sparsity is not None:
        return _structured(layer, rank)
    if plan.scope == "channel":
        rows, columns = entry.matrix
        each_row = round(plan.sparsity * columns)
        by = InEachRow(each_row, rows * (columns - each_row))
        return _scored(layer, by, partial(rank.scores, entry)) if each_row else _nothing_asked(layer)
    return _cuts([layer], rank, plan.sparsity)[0]


def _structured(layer: _Layer, rank: Ranking) -> Selection:
    """Return the selection of a layer whose structure says which weights go together."""
    entry, look, structure = layer.entry, layer.look, layer.plan.structure
    magnitudes = rank.importance.of_magnitude
    by = StructuredSelection(structure, entry.name, 0, some_zero=magnitudes and look.zeros > 0)
    if magnitudes and structure.kind in look.blocks:  # n:m of magnitudes: the sketch counted what survives
        return replace(by, kept=look.blocks[structure.kind])
    if magnitudes:
        return replace(by, kept=count_true(by.mask(entry.rows())))
    load = partial(rank.scores, entry)
    nm = NM_PATTERNS.get(structure.kind)
    kept = count_true(by.mask(load())) if nm is None else block_count(entry.matrix, *nm)
    return _scored(layer, replace(by, kept=kept), load)


def _nothing_asked(layer: _Layer) -> Selection:
    """Return the selection of a layer that nothing is to be pruned of."""
    look = layer.look
    return _unranked(Zeros(look.zeros, look.negative_zeros, look.blocks), layer.plan, look.n, look.itemsize)


def _unranked(counted: Zeros, plan: Plan, n: int, itemsize: int) -> Selection:
    """Return all n weights of a layer, or all but zeros that are there already, as its plan stores them."""
    dropped = zeros_dropped(n, counted.zeros, counted.negative, plan, itemsize)
    if dropped < counted.zeros:
        return SignedSelection(n - dropped) if dropped else ExactCut(n, n, 0.0, 0)
    return _not_zero(n, counted.zeros)


def _not_zero(n: int, zeros: int) -> ExactCut:
    """Return the cut that prunes all zeros and nothing else."""
    return ExactCut(n, n - zeros, 0.0, n if zeros else 0)


def _cuts(
    layers: Sequence[_Layer], rank: Ranking, sparsity: float, cancelled: Watch | None = None, on_gpu: bool = False
) -> list[Selection]:
    """Return the cuts of layers that are ranked together."""
    k = round(sparsity * sum(layer.entry.numel for layer in layers))
    if k == 0:
        return [_nothing_asked(layer) for layer in layers]
    ranked = list(each(rank.ranked, layers, cancelled, on_gpu))
    cuts = prune_smallest(ranked, k, cancelled, on_gpu)
    # a threshold of zero means that more weights are zero than were asked for: all of them go
    if rank.importance.of_magnitude:
        return [
            cut if cut.threshold > 0 else _not_zero(layer.look.n, layer.look.zeros)
            for cut, layer in zip(cuts, layers, strict=True)
        ]
    return [_scored(layer, cut, r.load) for layer, cut, r in zip(layers, cuts, ranked, strict=True)]


def _scored(layer: _Layer, by: Selection, load: Callable[[], Tensor]) -> Selection:
    """Return a selection by scores without the zeros it may have kept, which are counted."""
    # a zero may have a high score (at random, or by its gradient), but in a file it is a pruned weight
    if not layer.look.zeros:
        return Scored(by, load, by.kept)
    drawn = Scored(by, load, 0, some_zero=True)
    return replace(drawn, kept=count_true(drawn.mask(layer.entry.rows())))


@dataclass(frozen=True, slots=True)
class Scored:
    """A selection by scores: what another would select if they were the weights."""

    by: Selection
    load: Callable[[], Tensor]
    kept: int
    some_zero: bool = False
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row: those with the largest scores, except for zeros."""
        selected = self.by.mask(self.load().view(rows.shape)).to(rows.device)
        return selected & (rows.reshape(-1) != 0) if self.some_zero else selected


@dataclass(frozen=True, slots=True)
class InEachRow:
    """All but the smallest `pruned` of each row; of equal ones the first go."""

    pruned: int
    kept: int
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row."""
        at_once = max(1, (1 << 20) // rows.shape[1])  # whole rows, about a million weights: some MB at a time
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        return torch.cat([self._mask_rows(magnitude(part)).reshape(-1) for part in parts])

    def _mask_rows(self, scores: Tensor) -> Tensor:
        # below the k-th smallest all go, above it none; of those equal to it the first in the row, as many as are still
        # missing
        limit = scores.kthvalue(self.pruned, dim=1, keepdim=True).values
        keep = scores > limit
        ties = scores == limit
        spare = self.pruned - (scores < limit).sum(1, keepdim=True)  # how many of the equal ones go
        return keep | (ties & (ties.cumsum(1) > spare))


@dataclass(frozen=True, slots=True)
class SignedSelection:
    """All weights but those that are +0.0: what is left of a layer of plain floats that keeps the sign of a zero."""

    kept: int
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row."""
        flat = rows.reshape(-1)
        return (flat != 0) | flat.signbit()


@dataclass(frozen=True, slots=True)
class StructuredSelection:
    """What a structure keeps of each row, except for zeros among it."""

    structure: Structure
    name: str
    kept: int
    some_zero: bool = False
    threshold: float = 0.0

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row.

        Raises:
            MethodError: for a structure that fails, or does not say of every weight whether it is kept.
        """
        at_once = max(1, (1 << 20) // rows.shape[1])
        parts = (rows[start : start + at_once] for start in range(0, len(rows), at_once))
        return torch.cat([self._mask_rows(part).reshape(-1) for part in parts])

    def _mask_rows(self, rows: Tensor) -> Tensor:
        with doing(self.structure, self.name):
            kept = self.structure.keeps(magnitude(rows))
        if not isinstance(kept, Tensor) or kept.shape != rows.shape or kept.dtype != torch.bool:
            raise MethodError(
                f"structure {self.structure.kind!r} failed on {quoted(layer_label(self.name))}: it returned "
                f"{describe(kept)}, expected {describe(rows).split()[0]} bool"
            )
        return kept & (rows != 0) if self.some_zero else kept


_BUCKETS: Final = 1 << 15
_UPPER: Final = 0x7FFF0000  # without the sign, the upper half of a float32 pattern is the magnitude's bucket


@dataclass(frozen=True, slots=True, eq=False)
class Ranked:
    """The magnitudes of one tensor as a ranking needs them.

    Args:
        name: of the tensor, for errors.
        n: how many.
        load: returns them, in any shape, of a float dtype; signs do not matter.
        buckets, counts: the non-empty magnitude buckets (upper 16 bits of the float32 pattern without its sign).
        lossless: every magnitude of a bucket is exactly its lower edge (bfloat16).
    """

    name: str
    n: int
    load: Callable[[], Tensor]
    buckets: NDArray[np.int64]
    counts: NDArray[np.int64]
    lossless: bool


@dataclass(frozen=True, slots=True)
class ExactCut:
    """A magnitude cut: below `threshold` everything is pruned, and at it what comes before the flat index `first`."""

    n: int
    kept: int
    threshold: float
    first: int

    def mask(self, rows: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[n]`` row by row."""
        flat = rows.reshape(-1)
        mask = torch.empty(self.n, dtype=torch.bool, device=flat.device)
        kernel = kernel_for(flat)
        for start, stop, limit in self._spans(flat.dtype):
            if kernel is not None:
                kernel.mark_above(flat[start:stop], limit, mask[start:stop])
                continue
            for piece, out in zip(chunks(flat[start:stop]), chunks(mask[start:stop]), strict=True):
                mark_above(magnitude(piece), limit, out)
        return mask

    def _spans(self, dtype: torch.dtype) -> Iterator[tuple[int, int, float]]:
        """Yield (start, stop, limit): between start and stop exactly the magnitudes above the limit are kept."""
        # "Above a limit" says both halves: up to `first` ties are pruned, so the limit is the threshold; after it they
        # are kept, so the limit is the number just below. Both have to be numbers of the dtype that is compared.
        exact = np.float64 if dtype == torch.float64 else np.float32
        nearest = exact(self.threshold)
        limit, below = float(nearest), float(np.nextafter(nearest, exact(-np.inf)))
        if limit != self.threshold:  # of another layer's wider dtype: nothing here can equal it
            yield 0, self.n, limit if limit < self.threshold else below
            return
        if self.first > 0:
            yield 0, self.first, limit
        if self.first < self.n:
            yield self.first, self.n, below


def changed(name: str) -> ModelError:
    """Return the error for a tensor that no longer is what its sketch says."""
    return ModelError(
        f"the weights of {quoted(name)} changed since their sketch was made: make a new sketch or explorer"
    )


def prune_smallest(
    ranked: Sequence[Ranked], k: int, cancelled: Watch | None = None, on_gpu: bool = False
) -> list[ExactCut]:
    """Return the cuts that prune exactly the k smallest of all magnitudes; of equal ones, those that come first.

    The tables say which bucket holds rank k; one pass collects that bucket's few members, and only those are
    partitioned. Magnitudes of different dtypes are compared as float64.
    """
    if k == 0:
        return [ExactCut(r.n, r.n, 0.0, 0) for r in ranked]
    # The first digit of a radix select costs nothing: the sketch has counted the weights of every bucket. Only weights
    # of the bucket that holds rank k, a few in a thousand, are looked at.
    total = np.zeros(_BUCKETS, np.int64)
    for r in ranked:
        total[r.buckets] += r.counts
    bucket = int(np.searchsorted(np.cumsum(total), k))
    rank = k - int(total[:bucket].sum())
    members = list(each(partial(_members, bucket=bucket), ranked, cancelled, on_gpu))
    edge = float(np.uint32(bucket << 16).view(np.float32))
    threshold = _smallest(np.concatenate([m.others for m in members]), edge, sum(m.at_edge for m in members), rank)
    spare = rank - sum(m.below(threshold, edge) for m in members)
    cuts = []
    # of weights that equal the threshold, those of the first layers go, and within a layer the first
    for r, m in zip(ranked, members, strict=True):
        ties = m.equal(threshold, edge)
        taken = min(ties, spare)
        spare -= taken
        pruned = int(r.counts[r.buckets < bucket].sum()) + m.below(threshold, edge) + taken
        cuts.append(ExactCut(r.n, r.n - pruned, threshold, _first_kept_tie(r, threshold, taken, ties)))
    return cuts


@dataclass(frozen=True, slots=True)
class _Members:
    """The magnitudes of one bucket: how many are exactly its lower edge, if that is known, and the others."""

    at_edge: int
    others: NDArray[np.float64]

    def below(self, threshold: float, edge: float) -> int:
        return int((self.others < threshold).sum()) + (self.at_edge if edge < threshold else 0)

    def equal(self, threshold: float, edge: float) -> int:
        return int((self.others == threshold).sum()) + (self.at_edge if edge == threshold else 0)


def _members(ranked: Ranked, bucket: int) -> _Members:
    """Collect a bucket's members; where nearly all are zeros, or all are the same, only those that differ."""
    count = int(ranked.counts[ranked.buckets == bucket].sum())
    if not count or ranked.lossless:  # bfloat16 has no bits below the bucket: its members are all the lower edge
        return _Members(count, np.empty(0))
    flat = ranked.load().reshape(-1)
    if (kernel := kernel_for(flat)) is not None:
        # more than the sketch counted are not even collected: None says the weights have changed
        others = kernel.members(flat, bucket, count)
    else:
        others = np.concatenate([_in_bucket(piece, bucket) for piece in chunks(flat)])
    if others is None or len(others) > count or (bucket and len(others) < count):
        raise changed(ranked.name)
    return _Members(count - len(others), others)


def _in_bucket(piece: Tensor, bucket: int) -> NDArray[np.float64]:
    patterns = piece.float().view(torch.int32) & _UPPER
    if bucket == 0:
        patterns[piece == 0] = -1  # nearly all there are: counted, not collected
    values: NDArray[np.float64] = piece[places_of(patterns, bucket << 16)].cpu().double().abs().numpy()
    return values


def _smallest(others: NDArray[np.float64], edge: float, at_edge: int, rank: int) -> float:
    """Return the rank-th smallest (from 1) of `others` and of `at_edge` more values that are all `edge`."""
    below = int((others < edge).sum()) if at_edge else 0
    if at_edge and below < rank <= below + int((others == edge).sum()) + at_edge:
        return edge
    place = rank - 1 if rank <= below or not at_edge else rank - 1 - at_edge
    return float(np.partition(others, place)[place])


def _first_kept_tie(ranked: Ranked, threshold: float, taken: int, ties: int) -> int:
    """Return the flat index before which `taken` of the `ties` magnitudes equal to the threshold lie."""
    if taken in (0, ties):
        return ranked.n if taken else 0
    start = 0
    for piece in chunks(ranked.load().reshape(-1)):
        # ties beyond the piece in which the last one falls are never looked at
        places = places_of(magnitude(piece), threshold)
        if len(places) >= taken:
            return start + int(places[taken - 1]) + 1
        taken -= len(places)
        start += len(piece)
    raise changed(ranked.name)
