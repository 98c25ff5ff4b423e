"""Families of channels: what can be removed from a network, and what is then left of it, from counts alone.

A network's shapes are linear in its widths, and its multiply-accumulates are products of them. So everything but the
weights' values is exact for any recipe: widths, parameters, bytes of a file, multiply-accumulates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import layer_label, quoted
from ..recipe_and_method_registry import Recipe, WidthPlan, layer_matches
from .estimate_class_and_packed_file_header import COMPRESSIBLE, fold_structure
from .open_model_tensors_and_channel_axes import FIRST, Layout

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChannelSlice:
    """What the channels of a family are along one dimension of one tensor.

    `per_channel` of its places belong to each: 1, or 49 behind a flattened 7×7 map, 64 for a head of 64. `index` are
    which, int64 ``[channels, per_channel]``; None in a sketch, which needs only to know how many.
    """

    tensor: str
    dim: int
    per_channel: int
    index: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class ChannelFamily:
    """The channels of one width: each may go without the others, and takes all its slices with it.

    Attributes:
        name: the first layer that makes them.
        layers: all that make them.
        slices: what they are along each dimension of each tensor.
        scores: how much each matters, float32 ``[channels]``; 1 on average.
        step: how many outputs of their layers one of them is: 64 for an attention head of 64.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8)).families[0]
        ChannelFamily(stem: 16 channels, shared by 7 layers)
    """

    name: str
    layers: tuple[str, ...]
    slices: tuple[ChannelSlice, ...]
    scores: NDArray[np.float32]
    step: int = 1

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.scores)

    def __repr__(self) -> str:
        shared = f", shared by {len(self.layers)} layers" if len(self.layers) > 1 else ""
        of = f" of {self.step}" if self.step > 1 else ""
        return f"ChannelFamily({self.name}: {self.channels} channels{of}{shared})"


class FamilyPlan(NamedTuple):
    """What a recipe says of one family: the fraction that goes, None if none of it may, and the multiple it is kept at.

    `own` tells that the fraction was given for one of its layers, and is not the recipe's.
    """

    fraction: float | None
    multiple: int
    own: bool = False


@dataclass(frozen=True, slots=True)
class FixedWidth:
    """Channels that have to stay, and why: "a layer norm runs over it (encoder.norm)".

    Attributes:
        layers: the layers that make them.
        channels: how many.
        reason: why they stay.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8)).fixed[0]
        FixedWidth(layers=('head',), channels=10, reason="the model's output has it")
    """

    layers: tuple[str, ...]
    channels: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProductMacs:
    """Multiply-accumulates of products of two activations that a module runs (attention).

    They are proportional to each of `widths`: its size, and of each family that makes a part of it the number and how
    much of it one channel is.
    """

    module: str
    macs: int
    widths: tuple[tuple[int, tuple[tuple[int, int], ...]], ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class Channels:
    """Which channels of a model can be removed, and which have to stay, and why; what ``sw.channels`` returns.

    Attributes:
        title: the model's class.
        families: the widths that can be smaller.
        fixed: those that cannot.
        macs: multiply-accumulates of one forward pass, by the name of the weight that was multiplied.
        products: those of two activations.
        described: every tensor of a file of the model, as its header describes it (``docs/format.md``).

    Example:
        >>> import torch, shrinkwidget as sw
        >>> sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
        Channels(DigitNet: 288 channels of 9 widths can go; 1 width has to stay)
    """

    title: str
    families: tuple[ChannelFamily, ...]
    fixed: tuple[FixedWidth, ...]
    macs: Mapping[str, int]
    products: tuple[ProductMacs, ...]
    described: tuple[tuple[Any, ...], ...] = field(repr=False)

    def __repr__(self) -> str:
        count = sum(family.channels for family in self.families)
        can = f"{count:,} channels of {_widths(len(self.families))} can go" if self.families else "no channel can go"
        stay = f"; {_widths(len(self.fixed))} {'has' if len(self.fixed) == 1 else 'have'} to stay" if self.fixed else ""
        return f"Channels({self.title}: {can}{stay})"

    def _repr_html_(self) -> str:
        """Return a table of the widths, those that can be smaller first."""
        from html import escape

        rows = [(f.name, f.channels, f.step, len(f.layers), "") for f in self.families]
        rows += [(f.layers[0] if f.layers else "", f.channels, 1, len(f.layers), f.reason) for f in self.fixed]
        body = "".join(
            f"<tr><td>{escape(name)}</td><td>{n:,}{f' of {step}' if step > 1 else ''}</td><td>{shared}</td>"
            f"<td>{escape(why) or 'can be smaller'}</td></tr>"
            for name, n, step, shared, why in rows
        )
        head = "<tr><th>width</th><th>channels</th><th>layers</th><th></th></tr>"
        return f'<div class="shrinkwidget">{escape(repr(self))}<table>{head}{body}</table></div>'

    def family(self, layer: str) -> ChannelFamily:
        """Return the first family that a layer makes.

        Raises:
            KeyError: if it makes none.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.family("stage3.1.conv1").channels
            64
        """
        for family in self.families:
            if layer in family.layers:
                return family
        raise KeyError(layer)

    # ---- what a recipe leaves ----

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """The shapes of the tensors that a file of the model holds, by name."""
        return {item[0]: tuple(item[1]) for item in self.described}

    @cached_property
    def _compressible(self) -> list[str]:
        return [item[0] for item in self.described if item[3] & COMPRESSIBLE]

    def kept(
        self,
        recipe: Recipe,
        scores: Sequence[NDArray[np.floating[Any]]] | None = None,
        dense: Sequence[int] | None = None,
    ) -> list[NDArray[np.int64]]:
        """Return which channels of each family a recipe keeps, ascending.

        Of n channels round(p·n) go (half to even), the least score first, of equal ones the first; at least one stays.
        With `channel_scope` ``"global"`` all families are ranked together. Then widths are rounded to the nearest of
        the recipe's multiples. `scores` take the place of the families' own. `dense` are how many channels each family
        had before earlier rounds removed some of them: n is that, and those count.

        Raises:
            RecipeError: if an override matches no layer.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> [len(kept) for kept in found.kept(sw.Recipe(channels=0.5))]
            [8, 8, 8, 16, 8, 16, 32, 16, 32]
        """
        scores = [family.scores for family in self.families] if scores is None else scores
        plans = self.plans(recipe)
        now = [family.channels for family in self.families]
        dense = now if dense is None else dense
        # Counted from the dense width, so that rounds add up: what earlier ones removed is subtracted.
        removed = [
            0 if plan.fraction is None else round(plan.fraction * n) - (n - m)
            for n, m, plan in zip(dense, now, plans, strict=True)
        ]
        if recipe.channel_scope == "global":
            # Who was given a fraction of its own keeps it, and is not ranked with the rest.
            ranked = [i for i, plan in enumerate(plans) if plan.fraction is not None and not plan.own]
            if ranked:
                of = np.concatenate([np.full(self.families[i].channels, i) for i in ranked])
                # Stable: of equal scores the first goes first, on the page as here.
                order = np.argsort(np.concatenate([scores[i] for i in ranked]), kind="stable")
                total = sum(dense[i] for i in ranked)
                count = max(0, round(recipe.channels * total) - (total - len(of)))
                gone = np.bincount(of[order[:count]], minlength=len(plans))
                for i in ranked:
                    removed[i] = int(gone[i])
        kept = []
        for family, score, count, plan in zip(self.families, scores, removed, plans, strict=True):
            n = family.channels
            left = n if plan.fraction is None else max(1, n - max(0, count))
            if plan.fraction:
                # The multiple is one of a layer's outputs: heads of 64 outputs are multiples of 8 however many there
                # are. Nearest, half up; and all channels where they are fewer than one multiple.
                unit = plan.multiple // math.gcd(plan.multiple, family.step)
                left = min(n, max(unit, unit * ((2 * left + unit) // (2 * unit))))
            kept.append(np.sort(np.argsort(score, kind="stable")[n - left :]))
        return kept

    def plans(self, recipe: Recipe) -> list[FamilyPlan]:
        """Return what a recipe says of each family.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.plans(sw.Recipe(channels=0.5, layers={"stem": sw.Keep}))[0]
            FamilyPlan(fraction=None, multiple=1, own=False)
        """
        own = dict(zip(self._compressible, recipe.width_plans(self._compressible), strict=True))
        return [_plan(family, own, recipe) for family in self.families]

    def unheeded(self, recipe: Recipe) -> tuple[str, ...]:
        """Return, in a sentence each, what a recipe says of single layers' channels that `kept` cannot do.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.unheeded(sw.Recipe(layers={"head": dict(channels=0.5)}))
            ("'head' keeps its channels: the model's output has it",)
        """
        why = {layer: width.reason for width in self.fixed for layer in width.layers}
        making = {layer for family in self.families for layer in family.layers}
        said = []
        for pattern, own in recipe.layers.items():
            if isinstance(own, Mapping) and own.get("channels"):
                meant = [layer_label(name) for name in self._compressible if layer_matches(pattern, name)]
                if meant and not making.intersection(meant):
                    reason = why.get(meant[0], "they are no width of their own")
                    said.append(f"{quoted(pattern)} keeps its channels: {reason}")
        plans = dict(zip(self._compressible, recipe.width_plans(self._compressible), strict=True))
        for family in self.families:
            own_fractions = {
                layer_label(name): plan.channels
                for name, plan in plans.items()
                if plan.channels is not None and layer_label(name) in family.layers
            }
            if len({*own_fractions.values()}) > 1:
                layers = ", ".join(map(quoted, list(own_fractions)[:3])) + (" …" if len(own_fractions) > 3 else "")
                least = min(own_fractions.values())
                said.append(f"{layers} are of one width: the least of their fractions holds, channels={least:g}")
        return tuple(said)

    def shapes_after(self, left: Sequence[int]) -> dict[str, Shape]:
        """Return the shapes of all tensors when so many channels of each family are left.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.shapes_after([8] * 9)["stem.weight"]
            (8, 1, 3, 3)
        """
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        for family, count in zip(self.families, left, strict=True):
            for part in family.slices:
                if part.tensor in shapes:
                    shapes[part.tensor][part.dim] -= part.per_channel * (family.channels - count)
        return {name: tuple(shape) for name, shape in shapes.items()}

    def widths(self, left: Sequence[int]) -> dict[str, tuple[int, int]]:
        """Return the channels of each family before and now, so many being left, by the first layer that makes them.

        Where that layer makes several families, the others are numbered.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.widths([8] * 9)["stem"]
            (16, 8)
        """
        widths: dict[str, tuple[int, int]] = {}
        for family, now in zip(self.families, left, strict=True):
            name, number = family.name, 2
            while name in widths:
                name, number = f"{family.name} ({number})", number + 1
            widths[name] = (family.channels, now)
        return widths

    def layer_widths(self, left: Sequence[int]) -> dict[str, tuple[int, int]]:
        """Return the output channels before and now of each layer that has fewer, so many of each family being left.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.layer_widths([8] * 9)["stage3.1.conv2"]
            (64, 24)
        """
        now, widths = self.shapes_after(left), {}
        for name in self._compressible:
            rows = self.layout(name).matrix
            before, after = rows(self.shapes[name])[0], rows(now[name])[0]
            if after < before:
                widths[layer_label(name)] = (before, after)
        return widths

    def macs_after(self, left: Sequence[int]) -> int:
        """Return the multiply-accumulates of one forward pass when so many channels of each family are left.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.macs_after([family.channels // 2 for family in found.families])
            410432
        """
        shapes, total = self.shapes_after(left), 0
        for name, macs in self.macs.items():
            # every weight meets as many positions as before
            total += macs * math.prod(shapes[name]) // math.prod(self.shapes[name]) if name in shapes else macs
        for product in self.products:
            # One division, after all products of integers, so that nothing is rounded twice.
            macs, size = product.macs, 1
            for whole, parts in product.widths:
                macs *= whole - sum(per * (self.families[f].channels - left[f]) for f, per in parts)
                size *= whole
            total += macs // size
        return total

    def structure_after(self, left: Sequence[int]) -> int:
        """Return how long the structure text of a file is when so many channels of each family are left.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> dense = [family.channels for family in found.families]
            >>> found.structure_after(dense) == sw.sketch(sw.demo.model()).structure
            True
        """
        shapes = self.shapes_after(left)
        return len(fold_structure([[item[0], list(shapes[item[0]]), *item[2:]] for item in self.described]))

    def layout(self, name: str) -> Layout:
        """Return which axes of a compressible tensor are its output channels.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> found.layout("stem.weight").channels
            (0,)
        """
        # The fifth field of a description is the layout, [groups, axis, …], or else an alias, which is a text or begins
        # with one.
        item = next(item for item in self.described if item[0] == name)
        own = [part for part in item[4:5] if isinstance(part, list | tuple) and part and not isinstance(part[0], str)]
        return Layout(tuple(own[0][1:]), own[0][0]) if own else FIRST

    # ---- on the wire ----

    def to_dict(self) -> dict[str, Any]:
        """Return what a sketch carries of it, as JSON has it (``docs/estimate.md``): all but the scores, in binary.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> sorted(found.to_dict())
            ['families', 'fixed', 'macs', 'products', 'tensors']
        """
        numbers = {item[0]: i for i, item in enumerate(self.described)}
        return {
            "families": [
                {
                    "name": f.name,
                    "layers": list(f.layers),
                    "channels": f.channels,
                    "step": f.step,
                    "slices": [[numbers[s.tensor], s.dim, s.per_channel] for s in f.slices if s.tensor in numbers],
                }
                for f in self.families
            ],
            "fixed": [{"layers": list(f.layers), "channels": f.channels, "reason": f.reason} for f in self.fixed],
            "macs": [[numbers.get(name, name), macs] for name, macs in self.macs.items()],
            "products": [
                [p.module, p.macs, [[whole, [list(x) for x in parts]] for whole, parts in p.widths]]
                for p in self.products
            ],
            "tensors": [list(item) for item in self.described],
        }

    @classmethod
    def from_dict(cls, title: str, found: Mapping[str, Any], scores: NDArray[np.float32]) -> Channels:
        """Undo `to_dict`; `scores` are those of all families, one after the other.

        Example:
            >>> import torch, shrinkwidget as sw
            >>> found = sw.channels(sw.demo.model(), torch.zeros(1, 1, 8, 8))
            >>> import numpy as np
            >>> scores = np.concatenate([family.scores for family in found.families])
            >>> sw.results.Channels.from_dict(found.title, found.to_dict(), scores)
            Channels(DigitNet: 288 channels of 9 widths can go; 1 width has to stay)
        """
        names = [item[0] for item in found["tensors"]]
        families, at = [], 0
        for f in found["families"]:
            slices = tuple(ChannelSlice(names[t], dim, per) for t, dim, per in f["slices"])
            own = scores[at : at + f["channels"]]
            at += f["channels"]
            families.append(ChannelFamily(f["name"], tuple(f["layers"]), slices, own, f["step"]))
        return cls(
            title=title,
            families=tuple(families),
            fixed=tuple(FixedWidth(tuple(f["layers"]), f["channels"], f["reason"]) for f in found["fixed"]),
            macs={names[t] if isinstance(t, int) else t: macs for t, macs in found["macs"]},
            products=tuple(
                ProductMacs(
                    module, macs, tuple((whole, tuple((f, per) for f, per in parts)) for whole, parts in widths)
                )
                for module, macs, widths in found["products"]
            ),
            described=tuple(map(tuple, found["tensors"])),
        )


def _widths(count: int) -> str:
    return f"{count} width{'s' * (count != 1)}"


def _plan(family: ChannelFamily, plans: Mapping[str, WidthPlan], recipe: Recipe) -> FamilyPlan:
    """Return what a recipe says of a family: layers that share a width have to agree, and the least is removed."""
    if any(plans[s.tensor].keep for s in family.slices if s.tensor in plans):  # a layer under Keep keeps its shape
        return FamilyPlan(None, 1)
    making = [plan for name, plan in plans.items() if layer_label(name) in family.layers]
    fractions = [plan.channels for plan in making if plan.channels is not None]
    multiples = [plan.multiple for plan in making if plan.multiple is not None]
    multiple = max(multiples, default=recipe.multiple)
    return FamilyPlan(min(fractions, default=recipe.channels), multiple, own=bool(fractions))
