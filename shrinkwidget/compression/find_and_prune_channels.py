"""Channel pruning: which channels of a network can be removed, which are, and the narrower network that is left."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..analysis.channel_dependency_graph import Atoms, Trace, trace_channels
from ..analysis.channel_families_and_counts import ChannelFamily, Channels, ChannelSlice, FixedWidth, ProductMacs
from ..analysis.open_model_tensors_and_channel_axes import (
    ModelTensors,
    TensorEntry,
    copied,
    open_model,
    structure_items,
)
from ..analysis.run_model_seeded_macs_and_memory import (
    as_inputs,
    device_of,
    moved,
    preserve_rng_state,
    profile_forward,
    run,
    tensors_in,
    without_fused_recurrence,
)
from ..argument_checks import public
from ..errors import DataError, MethodError, ModelError, ShrinkError, a_type, layer_label, quoted, reason
from ..recipe_and_method_registry import Importance, Recipe, Statistics, doing
from .narrow_modules import Cuts, masked, narrow, narrowed

_TOLERANCE: Final = 2e-5
"""How far a narrower network may be off the masked one, as a fraction of the largest output: sums of float32 in another
order differ by about 1e-6, and a channel too many by its share of the output."""


@public()
def channels(model: nn.Module, example: object) -> Channels:
    """Return which channels of a model can be removed, what belongs to each, and why the others have to stay.

    The model runs on the example once, and labels that ride along tell which slices of its weights go together
    (`analysis/channel_dependency_graph.py`). Then it is tried: some channels of every family are removed from a copy,
    and what that computes is compared with what the model computes with the same channels at zero. A family whose trial
    fails has to stay, and says why.

    >>> import torch, shrinkwidget as sw
    >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
    >>> found.family("stem").layers[:3]
    ('stem', 'stage1.0.conv2', 'stage1.1.conv2')

    Args:
        model: any module; it stays as it is.
        example: what it runs on: a tensor, a tuple of positional or a dict of keyword arguments. Only the path through
            the model that the example takes is seen.

    Raises:
        ModelError: for what is no module, or cannot be copied.
        DataError: for no example, or one that the model cannot run.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"cannot look for the channels of {a_type(model)}: give the nn.Module")
    check_plain(model)
    check_example(example)
    return _Finder(model, open_model(model), example).find()


def check_plain(model: nn.Module) -> None:
    """Raise a `ModelError` for a module whose layers cannot be cut."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"the layers of this {type(model).__name__} are compiled, and none can be made narrower: give the module "
            f"it was scripted or traced from"
        )


def check_example(example: object) -> None:
    """Raise a `DataError` that asks for an example if there is none."""
    if example is None:
        raise DataError(
            "which channels go together is seen while the model runs: give example=…, inputs as the model takes them"
        )


@dataclass(frozen=True, eq=False)
class _Failed:
    family: ChannelFamily
    reason: str


class _Finder:
    """Finds the families of one model; see `channels`."""

    def __init__(self, model: nn.Module, weights: ModelTensors, example: object) -> None:
        self._weights = weights
        self._args, self._kwargs = moved(as_inputs(example), device_of(model))
        self._profile = profile_forward(model, weights.entries, example)
        self._model = copied(model)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        self._unsaved = {e.name for e in weights.entries if not e.saved and e.role == "buffer"}
        self._making = {e.name: _making_dims(e, modules) for e in weights.entries if e.compressible}

    def find(self) -> Channels:
        """Return the families that passed their trial, and all else with its reason."""
        with preserve_rng_state():
            trace = trace_channels(self._model, self._args, self._kwargs)
            roots = trace.components()
            families, fixed = self._grouped(trace, roots)
            proven, failed = self._proven(families)
            # Only on failure: tied pieces make fewer and larger channels, so a model that does not need it should not
            # get it.
            if failed and (pairs := _couplings(trace, roots, [f.family for f in failed])):
                # pieces that the code cuts a width into have to stay equal: channels at the same place go together
                paired = trace.components(pairs)
                families, fixed_now = self._grouped(trace, paired)
                proven_now, failed_now = self._proven(families)
                if sum(f.channels * len(f.slices) for f in proven_now) > sum(
                    f.channels * len(f.slices) for f in proven
                ):
                    roots, proven, failed, fixed = paired, proven_now, failed_now, fixed_now
        fixed += [FixedWidth(f.family.layers, f.family.channels, f.reason) for f in failed]
        found = Channels(
            title=self._weights.title,
            families=tuple(proven),
            fixed=tuple(fixed),
            macs=dict(self._profile.macs),
            products=_products(trace, roots, proven),
            described=tuple(map(tuple, structure_items(self._weights))),
        )
        scores = channel_scores(found, self._model, self._weights, Recipe())
        return replace(found, families=tuple(replace(f, scores=s) for f, s in zip(proven, scores, strict=True)))

    def _grouped(self, trace: Trace, roots: Atoms) -> tuple[list[ChannelFamily], list[FixedWidth]]:
        """Return the families of classes that touch the same places, and the widths that are pinned.

        A class is known by the least of its atoms. Classes that have as many atoms in every place are of one family.
        """
        for p, place in enumerate(trace.places):
            if place.name in self._unsaved:
                trace.pins.append((np.array(trace.atoms(p)), f"{place.name} follows it, which no file holds", ""))
        # The first reason counts; a class is pinned as often as some operation sees it.
        why = np.full(len(roots), -1)
        reasons: dict[str, int] = {}
        for atoms, text, module in trace.pins:
            number = reasons.setdefault(f"{text} ({module})" if module else text, len(reasons))
            own = roots[atoms]
            why[own[why[own] < 0]] = number
        # Two classes are of one family if they have as many atoms in every place. That is a vector of counts as long as
        # there are places, for each of perhaps a million classes; the sum of a hash of each (place, count) stands for
        # it, wrong with a probability of about 2⁻⁶⁴ a pair. A wrong one would fail its trial.
        count = len(roots)
        place_of = np.repeat(np.arange(len(trace.places)), np.diff(trace.starts))
        both, counts = np.unique(place_of * count + roots, return_counts=True)
        signature = np.zeros(count, np.uint64)
        with np.errstate(over="ignore"):
            mixed = _mixed((both // count + 1).astype(np.uint64) * np.uint64(1 << 32) + counts.astype(np.uint64))
            np.add.at(signature, both % count, mixed)
        making = np.array([place.dim in self._making.get(place.name, ()) for place in trace.places])
        made = np.zeros(count, bool)
        made[roots[making[place_of]]] = True
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        for root in np.flatnonzero(made & (roots == np.arange(count))):
            found[int(signature[root]), int(why[root])].append(int(root))
        names = list(reasons)
        families, fixed = [], []
        for (_, number), family in zip(found, self._families(trace, roots, list(found.values())), strict=True):
            if number >= 0:
                fixed.append(FixedWidth(family.layers, family.channels, names[number]))
            elif family.channels == 1:
                only = "it is the only channel" if family.step == 1 else "all of it goes together"
                fixed.append(FixedWidth(family.layers, family.channels, f"{only}, and nothing would be left"))
            else:
                families.append(family)
        return families, fixed

    def _families(self, trace: Trace, roots: Atoms, members: Sequence[Sequence[int]]) -> list[ChannelFamily]:
        """Return families of the classes given for each, with what they are along each place."""
        family_of, channel_of = np.full(len(roots), -1), np.zeros(len(roots), np.int64)
        for number, own in enumerate(members):
            family_of[own] = number
            channel_of[own] = np.arange(len(own))
        # All atoms at once, by family, place, channel and position: a loop over families and places would look at
        # every atom once for each family.
        atoms = np.flatnonzero(family_of[roots] >= 0)
        place_of = np.searchsorted(trace.starts, atoms, side="right") - 1
        family, channel = family_of[roots[atoms]], channel_of[roots[atoms]]
        order = np.lexsort((channel, place_of, family))
        atoms, place_of, family = atoms[order], place_of[order], family[order]
        ends = np.flatnonzero((np.diff(place_of) != 0) | (np.diff(family) != 0)) + 1
        slices: list[list[ChannelSlice]] = [[] for _ in members]
        layers: list[dict[str, int]] = [{} for _ in members]
        for start, end in zip([0, *ends], [*ends, len(atoms)], strict=True) if len(atoms) else ():
            number, place = int(family[start]), trace.places[place_of[start]]
            # Row i of the index lists the places of channel i; every channel of a family has as many.
            index = (atoms[start:end] - trace.starts[place_of[start]]).reshape(len(members[number]), -1)
            slices[number].append(ChannelSlice(place.name, place.dim, index.shape[1], index))
            if place.dim in self._making.get(place.name, ()):
                layers[number][layer_label(place.name)] = index.shape[1]
        families = []
        for own, parts, making in zip(members, slices, map(tuple, layers), strict=True):
            step = math.gcd(*(part.per_channel for part in parts))
            scores = np.ones(len(own), np.float32)
            families.append(ChannelFamily(making[0] if making else "", making, tuple(parts), scores, step))
        return families

    # ---- the trial ----

    def _proven(self, families: Sequence[ChannelFamily]) -> tuple[list[ChannelFamily], list[_Failed]]:
        """Return the families whose removal computes what their mask does, and those that fail, with the reason.

        All are tried together, and only on failure in halves. Each loses another number of channels at random, so that
        widths which have to stay equal are found out.
        """
        failed: list[_Failed] = []

        def passing(some: Sequence[ChannelFamily]) -> list[ChannelFamily]:
            problem = self._trial(some)
            if not problem:
                return list(some)
            if len(some) == 1:
                failed.append(_Failed(some[0], problem))
                return []
            # Group testing: n families with one culprit take about 2·log₂ n trials rather than n.
            half = len(some) // 2
            return [*passing(some[:half]), *passing(some[half:])]

        proven = passing(families) if families else []
        while failed and len(proven) > 1 and (problem := self._trial(proven)):  # each alone, but not together
            failed.append(_Failed(proven.pop(), problem))
        return proven, failed

    def _trial(self, families: Sequence[ChannelFamily]) -> str:
        """Return why a narrower model is not what the masked one is, "" if it is."""
        draw = random.Random(0)
        kept = []
        for number, family in enumerate(families):
            n = family.channels
            # The number of the family is in it, so that two of one width hardly ever lose equally many.
            gone = 1 + (number + draw.randrange(n)) % max(1, n // 2)
            kept.append(np.sort(np.array(draw.sample(range(n), n - gone))))
        return difference(self._model, cuts_of(families, kept, self._model), self._args, self._kwargs)


def _making_dims(entry: TensorEntry, modules: Mapping[str, nn.Module]) -> tuple[int, ...]:
    """Return the dimensions of a weight along which its layer's outputs lie."""
    if isinstance(modules.get(entry.name.rpartition(".")[0]), nn.Embedding | nn.EmbeddingBag):
        return (1,)  # its rows are looked up
    return (0,) if entry.layout.groups > 1 else entry.layout.channels


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers whose sums tell sets of them apart (the finalizer of SplitMix64)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _couplings(trace: Trace, roots: Atoms, failed: Sequence[ChannelFamily]) -> list[tuple[Atoms, Atoms]]:
    """Return which atoms go together if the equal pieces that code cuts a failed family's width into stay equal."""
    starts = {place: int(start) for place, start in zip(trace.places, trace.starts, strict=False)}
    touched = {
        int(roots[starts[s.tensor, s.dim] + i])  # type: ignore[index]
        for family in failed
        for s in family.slices
        if s.index is not None
        for i in s.index[:, 0]
    }
    pairs = []
    for pieces in trace.couplings:
        atoms = pieces.numpy()
        if (atoms >= 0).all() and touched.intersection(roots[atoms].reshape(-1).tolist()):
            first = np.broadcast_to(atoms[:1], atoms[1:].shape)
            pairs.append((first.reshape(-1), atoms[1:].reshape(-1)))
    return pairs


def _products(trace: Trace, roots: Atoms, families: Sequence[ChannelFamily]) -> tuple[ProductMacs, ...]:
    """Return the products of activations with their widths in terms of families, those of equal widths together."""
    of = np.full(len(roots), -1)
    starts = {place: int(start) for place, start in zip(trace.places, trace.starts, strict=False)}
    for number, family in enumerate(families):
        # One slice is enough: all slices of a channel have one class, and so one root.
        part = family.slices[0]
        assert part.index is not None
        of[roots[starts[part.tensor, part.dim] + part.index[:, 0]]] = number  # type: ignore[index]
    sums: Counter[tuple[str, Any]] = Counter()
    for product in trace.products:
        widths = []
        for factor in product.factors:
            atoms = factor.reshape(-1).numpy()
            found = Counter(of[roots[atoms[atoms >= 0]]].tolist())
            parts = tuple((f, n // families[f].channels) for f, n in sorted(found.items()) if f >= 0)
            if parts:
                widths.append((len(atoms), parts))
        sums[product.module, tuple(widths)] += product.macs
    return tuple(ProductMacs(module, macs, widths) for (module, widths), macs in sums.items())


# ---- scores ----


def channel_scores(
    found: Channels, model: nn.Module, weights: ModelTensors, recipe: Recipe, statistics: Statistics | None = None
) -> list[NDArray[np.float32]]:
    """Return how much each channel of each family matters by a recipe's importance.

    Along every dimension it has, a channel's squared scores are added up and divided by the mean over its family; its
    score is the mean of these. So every slice counts alike, and families compare. By magnitude that is the mean
    normalized squared norm, batch norm's scales among the slices.

    An importance that `ranks_channels_by` some layers looks at their weights alone, and at all slices of a family that
    has none of them.

    Args:
        found: the families.
        model: the module they are of; `weights` are its tensors.
        recipe: whose importance it is, and which families lose channels.
        statistics: those of an importance that needs calibration data.

    Raises:
        MethodError: for an importance that fails, that needs calibration data and has none, or that says nothing of a
            family which the recipe removes channels of.
    """
    importance = recipe.importance
    if importance.calibrated and statistics is None:
        raise MethodError(
            f"importance {importance.kind!r} needs calibration data: give compress(…, calibration=…), or rank the "
            f"channels by magnitude"
        )
    known = statistics.statistics(importance) if importance.calibrated and statistics is not None else {}
    ranking = [_ranking_slices(family, model, importance) for family in found.families]
    if importance.ranks_channels_by and not any(ranking):
        raise MethodError(
            f"importance {importance.kind!r} finds no layer in this {type(model).__name__} to rank channels by: rank "
            f"them by magnitude"
        )
    slices = [own or family.slices for own, family in zip(ranking, found.families, strict=True)]
    entries = {entry.name: entry for entry in weights.entries if entry.role == "parameter"}
    sums = _sums_of_squares({(p.tensor, p.dim) for parts in slices for p in parts}, entries, importance, known)
    scores, missed = [], []
    for family, parts, plan in zip(found.families, slices, found.plans(recipe), strict=True):
        mean, count = np.zeros(family.channels), 0
        measured = [part for part in parts if (part.tensor, part.dim) in sums]
        if plan.fraction and not measured:
            missed.append(family.name)
        for part in measured:
            own = sums[part.tensor, part.dim][part.index].sum(1)
            # A slice that is zero everywhere (a bias at its initial value) says nothing about which channel matters.
            if own.mean() > 0:
                mean, count = mean + own / own.mean(), count + 1
        scores.append((mean / max(1, count)).astype(np.float32))
    if missed:
        raise MethodError(
            f"importance {importance.kind!r} says nothing of the channels of {_listed(missed)}: the calibration data "
            f"reached no layer there that it looks at; keep them with layers={{{quoted(missed[0])}: "
            f"dict(channels=0)}}, or rank the channels by magnitude"
        )
    return scores


def _ranking_slices(family: ChannelFamily, model: nn.Module, importance: Importance) -> list[ChannelSlice]:
    """Return the slices by which alone an importance ranks the channels of a family, if it has such."""
    by = importance.ranks_channels_by
    named = [(part, *part.tensor.rpartition(".")[::2]) for part in family.slices] if by else []
    return [part for part, owner, leaf in named if leaf == "weight" and isinstance(model.get_submodule(owner), by)]


def _sums_of_squares(
    places: Collection[tuple[str, int]],
    entries: Mapping[str, TensorEntry],
    importance: Importance,
    known: Mapping[str, Tensor],
) -> dict[tuple[str, int], NDArray[np.float64]]:
    """Return the sums of squared scores at each index along dimensions of tensors, of those that have scores."""
    dims: dict[str, list[int]] = defaultdict(list)
    for name, dim in sorted(places):
        dims[name].append(dim)
    sums: dict[tuple[str, int], NDArray[np.float64]] = {}
    for name in dims.keys() & entries.keys():
        # A large weight belongs to two families (its rows to one, its columns to another): squared once for both.
        squares = _squares(entries[name], importance, known)
        for dim in dims[name] if squares is not None else ():
            assert squares is not None
            over = [d for d in range(squares.ndim) if d != dim]
            total = squares.sum(over) if over else squares
            sums[name, dim] = total.double().cpu().numpy()
    return sums


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


@torch.no_grad()
def _squares(entry: TensorEntry, importance: Importance, known: Mapping[str, Tensor]) -> Tensor | None:
    """Return the squared scores of a tensor's weights, of its shape; None where the importance has none."""
    tensor = entry.load()
    if importance.of_magnitude:
        return tensor.float().square()
    statistic = known.get(entry.name)
    if importance.calibrated and statistic is None:
        return None
    if not entry.compressible:
        rows, back = tensor.reshape(-1, 1), tensor.shape
        seen = None if statistic is None else statistic.reshape(-1, 1)
        with doing(importance, entry.name):
            return importance.scores(entry.name, rows, seen).float().square().reshape(back)
    seen = None if statistic is None else entry.layout.rows(statistic)
    with doing(importance, entry.name):
        found = importance.scores(entry.name, entry.rows(), seen)
    return entry.layout.restored(found.float(), entry.shape).square()


# ---- removal ----


def cuts_of(families: Sequence[ChannelFamily], kept: Sequence[NDArray[np.int64]], model: nn.Module) -> Cuts:
    """Return what stays of a model's tensors when so many channels of each family are kept."""
    sizes = {name: t.shape for name, t in [*model.named_parameters(), *model.named_buffers()]}
    stays: dict[str, dict[int, NDArray[np.bool_]]] = defaultdict(dict)
    for family, own in zip(families, kept, strict=True):
        if len(own) == family.channels:
            continue
        gone = np.ones(family.channels, bool)
        gone[own] = False
        for part in family.slices:
            assert part.index is not None
            stay = stays[part.tensor].setdefault(part.dim, np.ones(sizes[part.tensor][part.dim], bool))
            stay[part.index[gone].reshape(-1)] = False
    return {
        name: {dim: torch.from_numpy(np.flatnonzero(stay)) for dim, stay in own.items()} for name, own in stays.items()
    }


def difference(model: nn.Module, cuts: Cuts, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return why a narrower model does not compute what the masked one does, "" if it does.

    The model is as it was afterwards.
    """
    with torch.no_grad(), without_fused_recurrence():
        try:
            # The same numbers for both runs: dropout is off in eval mode, but some models draw noise all the same.
            with narrowed(model, cuts), preserve_rng_state():
                found = list(tensors_in(run(model, args, dict(kwargs))))
        except ShrinkError as error:
            return f"the model does not run without some of it ({reason(error.__cause__ or error)})"
        with masked(model, cuts), preserve_rng_state():
            expected = list(tensors_in(run(model, args, dict(kwargs))))
    if [t.shape for t in found] != [t.shape for t in expected]:
        return "the model's output changes its shape without some of it"
    for one, other in zip(found, expected, strict=True):
        if not one.is_floating_point():
            continue
        largest = float(other.abs().amax()) if other.numel() else 0.0
        off = float((one - other).abs().amax()) if other.numel() else 0.0
        # Written so that NaN, which compares false, counts as a difference.
        if not off <= _TOLERANCE * max(largest, 1e-30):
            share = off / largest if largest else math.inf
            return f"what is removed still counts in the output when it is zero ({share:.1e} of it)"
    return ""


@dataclass(frozen=True, eq=False)
class NarrowedModel:
    """A model without the channels that a recipe removes: the module, the families it had, and which of each stay.

    `unheeded` says in a sentence each what the recipe says of channels in vain.
    """

    model: nn.Module
    channels: Channels
    kept: tuple[NDArray[np.int64], ...]
    unheeded: tuple[str, ...] = ()

    @property
    def left(self) -> list[int]:
        """How many channels of each family are left."""
        return [len(own) for own in self.kept]


def narrower(model: nn.Module, recipe: Recipe, example: object, statistics: Statistics | None = None) -> NarrowedModel:
    """Return a copy of a model without the channels that a recipe removes.

    Args:
        model: the dense module; it stays as it is.
        recipe: how many of them, and by which importance.
        example: what the model runs on, or what `channels` found on it.
        statistics: those of an importance that needs calibration data.

    Raises:
        ModelError: if no channel of the model can go, or if what is left does not compute what the masked model does.
        as `channels`.
    """
    check_plain(model)
    weights = open_model(model)
    check_example(example)
    found = example if isinstance(example, Channels) else _Finder(model, weights, example).find()
    if not found.families:
        widest = max(found.fixed, key=lambda width: width.channels, default=None)
        why = f"{quoted(widest.layers[0])}: {widest.reason}" if widest and widest.layers else "it has none"
        raise ModelError(
            f"no channel of this {type(model).__name__} can be removed ({why}); sw.channels(model, example).fixed "
            f"says it of every width"
        )
    if found is example:
        _check_same(found, weights)
    by = recipe.importance
    scores = None if by.ranks_channels_by_norm else channel_scores(found, model, weights, recipe, statistics)
    kept = found.kept(recipe, scores)
    new = copied(model)
    cuts = cuts_of(found.families, kept, new)
    # Channels that were given were tried when they were found, and without the example there is nothing to try on.
    if found is not example:
        args, kwargs = moved(as_inputs(example), device_of(model))
        if problem := difference(new, cuts, args, kwargs):
            raise ModelError(f"the narrower {type(model).__name__} is not what its mask is: {problem}")
    narrow(new, cuts)
    return NarrowedModel(new, found, tuple(kept), (*found.unheeded(recipe), *_ranked_otherwise(found, kept, model, by)))


def _ranked_otherwise(
    found: Channels, kept: Sequence[NDArray[np.int64]], model: nn.Module, importance: Importance
) -> list[str]:
    """Return in a sentence which widths became smaller that have none of the layers an importance ranks by."""
    if not importance.ranks_channels_by:
        return []
    smaller = [family for family, own in zip(found.families, kept, strict=True) if len(own) < family.channels]
    names = [family.name for family in smaller if not _ranking_slices(family, model, importance)]
    if not names:
        return []
    why = f"importance {importance.kind!r} finds no layer there to rank them by"
    return [f"the channels of {_listed(names)} were ranked by the norm of their weights: {why}"]


class ChannelRounds:
    """Channels that go from a network round by round, while it trains in between.

    Args:
        model: the dense module, as it stays.
        example: what it runs on.

    `left` are how many channels of each family there are now.
    """

    def __init__(self, model: nn.Module, example: object) -> None:
        self._dense = model
        self._found = channels(model, example)
        self._kept = [np.arange(family.channels) for family in self._found.families]

    @property
    def left(self) -> list[int]:
        """How many channels of each family are left."""
        return [len(kept) for kept in self._kept]

    @property
    def channels(self) -> Channels:
        """The families of the dense model."""
        return self._found

    def narrow(self, network: nn.Module, recipe: Recipe) -> None:
        """Remove from a network, in place, what a recipe says of the dense model and earlier rounds have not removed.

        Which channels go is decided by the weights that the network has now.
        """
        found = self._now()
        scores = channel_scores(found, network, open_model(network), recipe)
        kept = found.kept(recipe, scores, [family.channels for family in self._found.families])
        narrow(network, cuts_of(found.families, kept, network))
        self._kept = [before[own] for before, own in zip(self._kept, kept, strict=True)]

    def cut(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors of the dense model, such as its early weights, without the channels that are gone."""
        cuts = cuts_of(self._found.families, self._kept, self._dense)
        found = dict(state)
        for name in cuts.keys() & state.keys():
            for dim, kept in cuts[name].items():
                found[name] = found[name].index_select(dim, kept.to(found[name].device))
        return found

    def _now(self) -> Channels:
        """Return the families of what is left: the places of their slices have moved up."""
        stays = cuts_of(self._found.families, self._kept, self._dense)
        families = []
        for family, kept in zip(self._found.families, self._kept, strict=True):
            slices = []
            for part in family.slices:
                assert part.index is not None
                index = part.index[kept]
                if (own := stays.get(part.tensor, {}).get(part.dim)) is not None:
                    index = np.searchsorted(own.numpy(), index)
                slices.append(replace(part, index=index))
            families.append(replace(family, slices=tuple(slices), scores=family.scores[kept]))
        return replace(self._found, families=tuple(families))


def _check_same(found: Channels, weights: ModelTensors) -> None:
    """Raise a `ModelError` if families are those of another model, or of a sketch, which does not know their places."""
    if any(part.index is None for family in found.families for part in family.slices):
        raise ModelError("the channels of a sketch do not say which slices they are: give example=…, or sw.channels(…)")
    if {entry.name: entry.shape for entry in weights.saved} != found.shapes:
        raise ModelError(f"these are the channels of another {found.title}: call sw.channels on this model")
