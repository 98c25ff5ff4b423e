"""The recipe, an immutable statement of what to do to every tensor, and what it is made of.

That is: an importance, a structure, a quantizer. Each is a kind, one small frozen dataclass. Its fields are its
settings, its tag stands for it in recipes and files, and its methods do the work, so that a new one is one module and
``@register``; nothing else in the package tests for it.
"""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from functools import cached_property, partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypedDict, TypeVar, cast

from . import strict_json
from .argument_checks import checked_fields, meant, plain, refuse_unknown
from .errors import MethodError, RecipeError, ShrinkError, a_type, nearest, quoted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .analysis.pruning_estimate import PruningOutcome
    from .analysis.sketch import LayerSketch
    from .compression.encode_layers_and_packed_model import Grid, LayerWeights, Piece
    from .evaluation.sketch_and_calibration_data import CalibrationRun
from .errors import layer_label

FORMAT: Final = "shrinkwidget-recipe"
VERSION: Final = 2
BITS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
MAX_GROUP: Final = 1 << 20
_SOME: Final = 6
_MOST_MATCHES: Final = 2**22  # wildcards × layers, and the letters of both: at most a few seconds
_MOST_LETTERS: Final = 2**30

Role: TypeAlias = Literal["importance", "structure", "quantizer"]
ROLES: Final[tuple[Role, ...]] = ("importance", "structure", "quantizer")
PLAIN: Final[Mapping[Role, str]] = {"importance": "magnitude", "structure": "unstructured", "quantizer": "uniform"}
"""The kind of each role that a recipe has where it says nothing."""

Scope: TypeAlias = Literal["global", "layer", "channel"]
ChannelScope: TypeAlias = Literal["width", "global"]
Granularity: TypeAlias = Literal["tensor", "channel"] | int


class _Keep:
    """The override that leaves a layer exactly as it is.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(bits=4, layers={"stem": sw.Keep})  # the first layer stays as it is
        Recipe(bits=4, layers={'stem': Keep})
    """

    _instance: _Keep | None = None

    def __new__(cls) -> _Keep:
        cls._instance = cls._instance or super().__new__(cls)
        return cls._instance

    def __repr__(self) -> str:
        return "Keep"

    def __reduce__(self) -> tuple[type[_Keep], tuple[()]]:
        return (_Keep, ())


Keep: Final = _Keep()
"""Leave this layer exactly as it is: ``Recipe(layers={"conv1": Keep})``."""

Override: TypeAlias = _Keep | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe asks of one layer, every choice resolved.

    `scope` is that of this layer: ``"global"`` if it takes part in the one ranking of all layers, ``"layer"`` if it is
    pruned by itself (a sparsity of its own, or an n:m structure), ``"channel"`` if each of its output channels is.
    """

    keep: bool
    scope: Scope
    sparsity: float
    bits: int
    structure: Structure
    granularity: Granularity
    quantizer: Quantizer

    @property
    def coder(self) -> Quantizer:
        """The quantizer that codes the layer at its bits; for codes of up to 8 bits."""
        return self.quantizer.acting(self.bits)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {f.name: _json(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class WidthPlan:
    """What a recipe says of one layer's channels: that none go, or a fraction and a multiple of its own, if it does."""

    keep: bool
    channels: float | None
    multiple: int | None


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Recipe:
    """What to do to every tensor of a model; frozen, validated, comparable, hashable, and JSON-able.

    An `importance`, a `structure` and a `quantizer` are kinds: a name stands for one with its default settings, and an
    object of ``sw.methods`` for one with others. A setting may also be written beside the name:
    ``Recipe(bits=4, symmetric=True)`` is ``Recipe(bits=4, quantizer=sw.methods.Uniform(symmetric=True))``.

    Args:
        sparsity: fraction of the weights to prune, 0 ≤ s < 1. An n:m `structure` fixes it at 1 − n/m; it may then be
            left out.
        bits: bits per stored weight: 1…8 (2^bits values at most), 16 (half precision) or 32 (as it is; float64 is
            rounded to float32). Left out, it is 32, or what a `quantizer` of one width has: 4 for ``"nf4"``.
        scope: ``"global"`` ranks all layers together, ``"layer"`` prunes the same fraction of each, ``"channel"`` the
            same of each output channel. Left out, it is the one that suits the `importance`.
        structure: ``"unstructured"``, or ``"2:4"``, ``"1:4"``, ``"4:8"``: keep n of every m neighbours along a row.
        importance: ``"magnitude"`` prunes the smallest weights, ``"random"`` any (the baseline every comparison needs);
            see `shrinkwidget.methods` for the others. It ranks channels, too.
        granularity: how many weights share a scale: ``"tensor"``, ``"channel"`` (of output), or an integer g for
            groups of g along the flattened rest. A k-means codebook is always one per tensor.
        quantizer: ``"uniform"`` for evenly spaced values, ``"kmeans"`` for 2^bits k-means values (Deep Compression,
            arXiv 1510.00149). At 16 and 32 bits it has no effect.
        uncompressed_bits: 32 or 16 bits for what is not compressed (biases, norms, float buffers).
        channels: fraction of the channels to remove, 0 ≤ c < 1, before anything else is done: what is left is a smaller
            network, with fewer multiply-accumulates. It takes an example to run (``compress(…, example=…)``).
        multiple: keep widths at multiples of so many outputs, such as 8 or 32, which most hardware runs faster.
        channel_scope: ``"width"`` removes the same fraction of every width, ``"global"`` ranks all channels together.
        layers: overrides by layer name or wildcard (``*``, ``?``, ``[…]``): `Keep`, or a dict of sparsity, bits,
            structure, granularity, quantizer, channels, multiple. The last entry that matches a layer wins, whole. Of
            layers that share a width, the one that keeps the most of it wins; one under `Keep` keeps all.
        **settings: settings of the kinds named above.

    Raises:
        RecipeError: for an unknown name or a value out of range, naming the nearest valid ones.

    >>> Recipe(sparsity=0.9, bits=4)
    Recipe(sparsity=0.9, bits=4)
    >>> Recipe(importance="random", seed=3, layers={"fc": dict(bits=8)})
    Recipe(importance=Random(seed=3), layers={'fc': {'bits': 8}})
    """

    sparsity: float
    bits: int
    scope: Scope
    structure: Structure
    importance: Importance
    granularity: Granularity
    quantizer: Quantizer
    uncompressed_bits: int
    channels: float
    multiple: int
    channel_scope: ChannelScope
    layers: Mapping[str, Override]

    def __init__(
        self,
        sparsity: float | None = None,
        bits: int | None = None,
        scope: Scope | None = None,
        structure: str | Structure | Mapping[str, Any] = "unstructured",
        importance: str | Importance | Mapping[str, Any] = "magnitude",
        granularity: Granularity = "channel",
        quantizer: str | Quantizer | Mapping[str, Any] = "uniform",
        uncompressed_bits: int = 32,
        channels: float = 0.0,
        multiple: int = 1,
        channel_scope: ChannelScope = "width",
        layers: Mapping[str, Override] | None = None,
        **settings: Any,
    ) -> None:
        kinds = {"structure": structure, "importance": importance, "quantizer": quantizer}
        chosen: dict[str, Any] = {role: parsed(role, kinds[role], "Recipe") for role in ROLES}
        chosen |= _settled(chosen, settings, [f.name for f in fields(self)], "Recipe")
        values: dict[str, Any] = {"sparsity": sparsity, "bits": bits, "scope": scope}
        if sparsity is None:
            values["sparsity"] = chosen["structure"].sparsity or 0.0
        if bits is None:
            widths = chosen["quantizer"].widths  # one that has a single width needs not be told it
            values["bits"] = widths[0] if len(widths) == 1 else _PLAIN["bits"]
        if scope is None:
            values["scope"] = chosen["importance"].scope
        values |= {**chosen, "granularity": granularity, "uncompressed_bits": uncompressed_bits}
        values |= {"channels": channels, "multiple": multiple, "channel_scope": channel_scope}
        for name, value in _checked(values, "Recipe").items():
            # The way of a frozen dataclass with an __init__ of its own.
            object.__setattr__(self, name, value)
        layers = _checked_layers({} if layers is None else layers, self.quantizer, self.bits)
        object.__setattr__(self, "layers", MappingProxyType(layers))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        changed = {name: _short(value) for name, value in self._changed() if name != "layers"}
        if self.layers:
            changed["layers"] = {name: _short(own) for name, own in self.layers.items()}
        return f"Recipe({', '.join(f'{k}={v!r}' for k, v in changed.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        # as text: a mapping proxy cannot be pickled, and a kind of the user's is looked up where it arrives
        return (Recipe.from_json, (self.to_json(),))

    def _changed(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields that differ from the plain defaults, in order.

        What a kind brings (the bits of ``"nf4"``) is written all the same: a text means one thing, whoever reads it.
        """
        plain = {**_PLAIN, "sparsity": sparsity_by_tag(self.structure)}
        for f in fields(self):
            value = getattr(self, f.name)
            if value if f.name == "layers" else _json(value) != plain[f.name]:
                yield f.name, value

    def with_(self, **changes: Any) -> Recipe:
        """Return a recipe with some fields, or settings of its kinds, changed.

        A new `structure` brings its own sparsity, a new `importance` its own scope, and a `quantizer` of one width its
        own bits, unless one is given.

        >>> Recipe(sparsity=0.9).with_(structure="2:4").sparsity
        0.5
        """
        names = [f.name for f in fields(self)]
        values = {name: getattr(self, name) for name in names} | {k: v for k, v in changes.items() if k in names}
        for role, brings in (("structure", "sparsity"), ("importance", "scope"), ("quantizer", "bits")):
            if role in changes and brings not in changes:
                new, old = parsed(cast(Role, role), changes[role], "Recipe"), getattr(self, role)
                one_width = isinstance(new, Quantizer) and len(new.widths) == 1 and self.bits <= 8
                if new.kind != old.kind and (role != "quantizer" or one_width):
                    values[brings] = None
        return Recipe(**values, **{k: v for k, v in changes.items() if k not in names})

    def with_layer(self, name: str, override: Override | None = None, **changes: Any) -> Recipe:
        """Return a recipe in which the layers called `name` (a name or a pattern) are treated differently.

        ``with_layer("fc", bits=8)`` adds to what was said of "fc" before; ``with_layer("fc", Keep)`` leaves it as it
        is; ``with_layer("fc")`` goes back to the global value.

        Raises:
            RecipeError: if both an override and changes are given.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe(bits=4).with_layer("head", bits=8).with_layer("stem", sw.Keep)
            Recipe(bits=4, layers={'head': {'bits': 8}, 'stem': Keep})
        """
        if override is not None and changes:
            raise RecipeError(f"with_layer({quoted(name)}, …) takes an override or single fields, not both")
        layers = dict(self.layers)
        before = layers.pop(name, {})
        if override is not None:
            layers[name] = override
        elif changes:
            layers[name] = {**(before if isinstance(before, Mapping) else {}), **changes}
        return self.with_(layers=layers)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict of the fields that differ from the defaults, with a format name and version.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe(sparsity=0.9, bits=4).to_dict()
            {'format': 'shrinkwidget-recipe', 'version': 2, 'sparsity': 0.9, 'bits': 4}
        """
        changed = {name: _json(value) for name, value in self._changed() if name != "layers"}
        if self.layers:
            changed["layers"] = {name: _json(own) for name, own in self.layers.items()}
        return {"format": FORMAT, "version": VERSION, **changed}

    def to_json(self) -> str:
        """Return the canonical JSON text: no spaces, defaults left out; equal recipes give equal texts.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe(sparsity=0.9, bits=4).to_json()
            '{"format":"shrinkwidget-recipe","version":2,"sparsity":0.9,"bits":4}'
        """
        return self._text

    @cached_property
    def _text(self) -> str:
        return canonical_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            RecipeError: if the text is not JSON, not a recipe, or of a newer version.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe.from_json(sw.Recipe(sparsity=0.9, bits=4).to_json())
            Recipe(sparsity=0.9, bits=4)
        """
        try:
            found = strict_json.parse(text)
        except ValueError as error:
            raise RecipeError(f"this is not a recipe: {error}") from error
        return cls.from_dict(found)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` wrote; see `from_json`.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe.from_dict(sw.Recipe(bits=8).to_dict())
            Recipe(bits=8)
        """
        if not isinstance(found, Mapping) or found.get("format") != FORMAT:
            raise RecipeError(f'this is not a recipe: expected an object with "format": "{FORMAT}"')
        version = found.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise RecipeError(f"this recipe has version {quoted(version)}; expected {VERSION}")
        if version > VERSION:
            raise RecipeError(
                f"this recipe has version {version}, newer than {VERSION}: upgrade shrinkwidget to read it"
            )
        if version < VERSION:
            raise RecipeError(
                f"this recipe has version {version}, from before the first release, which {VERSION} replaced: "
                f"write it again with sw.Recipe(…)"
            )
        values = {str(k): v for k, v in found.items() if k not in ("format", "version")}
        refuse_unknown(values, [f.name for f in fields(cls)], "Recipe", RecipeError, "field")
        layers = values.get("layers", {})
        if not isinstance(layers, Mapping):
            raise RecipeError(f"Recipe(layers=…) must be an object of overrides by layer name, got {quoted(layers)}")
        values["layers"] = {k: Keep if v == "keep" else v for k, v in layers.items()}
        # what a text leaves out is the plain default, whatever its kinds would bring
        return cls(**{"bits": _PLAIN["bits"], "scope": _PLAIN["scope"], **values})

    def resolve(self, names: Iterable[str], others: Mapping[str, str] | None = None) -> list[Plan]:
        """Return the plan of each layer, in the order of `names`.

        `others` tells of names that are no layers with per-layer values why they are none, for whoever tries to
        override them.

        Raises:
            RecipeError: if an override matches none of the names.

        Example:
            >>> import shrinkwidget as sw
            >>> recipe = sw.Recipe(bits=4, layers={"conv*": dict(bits=8)})
            >>> [plan.bits for plan in recipe.resolve(["conv1.weight", "conv2.weight", "fc.weight"])]
            [8, 8, 4]
        """
        names = tuple(names)
        # `names` as a tuple is the key; a recipe is asked for the same model dozens of times while a slider moves.
        if names not in self._plans:
            own: list[Override] = [{}] * len(names)
            for pattern, matched in zip(self.layers, _layers_named(self.layers, names), strict=True):
                if not matched:
                    found = ((name, why) for name, why in (others or {}).items() if layer_matches(pattern, name))
                    hint = next((f": {quoted(name)} {why}" for name, why in found), "")
                    hint = hint or nearest(pattern, map(layer_label, names))
                    hint = hint or layers_listed(names)
                    raise RecipeError(f"Recipe(layers={{{quoted(pattern)}: …}}) matches no layer{hint}")
                for i in matched:
                    own[i] = self.layers[pattern]
            # thousands of layers share the plans of a few overrides
            plans = {key: self._plan(override) for key, override in {id(each): each for each in own}.items()}
            self._plans[names] = tuple(plans[id(override)] for override in own)
        return list(self._plans[names])

    def width_plans(self, names: Sequence[str]) -> list[WidthPlan]:
        """Return what it says of the channels of each layer, in the order of `names`.

        Raises:
            RecipeError: if an override matches none of the names.

        Example:
            >>> import shrinkwidget as sw
            >>> recipe = sw.Recipe(channels=0.5, layers={"stem": sw.Keep, "head": dict(channels=0.25)})
            >>> [(plan.keep, plan.channels) for plan in recipe.width_plans(["stem.weight", "head.weight"])]
            [(True, None), (False, 0.25)]
        """
        own = self.overrides(names)
        plain = [override if isinstance(override, Mapping) else {} for override in own]
        return [
            WidthPlan(override is Keep, said.get("channels"), said.get("multiple"))
            for override, said in zip(own, plain, strict=True)
        ]

    def overrides(self, names: Sequence[str]) -> list[Override]:
        """Return what its `layers` say of each layer, in the order of `names`: an empty dict where they say nothing.

        Raises:
            RecipeError: if an override matches none of the names.

        Example:
            >>> import shrinkwidget as sw
            >>> recipe = sw.Recipe(bits=4, layers={"stem": sw.Keep, "stage*": dict(bits=3)})
            >>> recipe.overrides(["stem.weight", "stage1.weight", "head.weight"])
            [Keep, mappingproxy({'bits': 3}), {}]
        """
        self.resolve(names)  # refuses what matches no layer
        own: list[Override] = [{}] * len(names)
        for pattern, matched in zip(self.layers, _layers_named(self.layers, names), strict=True):
            for i in matched:
                own[i] = self.layers[pattern]
        return own

    @property
    def removes_channels(self) -> bool:
        """Whether it asks for any channel to be removed.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe(channels=0.5).removes_channels, sw.Recipe(0.5).removes_channels
            (True, False)
        """
        own = [override for override in self.layers.values() if isinstance(override, Mapping)]
        return self.channels > 0 or any(o.get("channels", 0) > 0 for o in own)

    @property
    def prunes(self) -> bool:
        """Whether it asks for any weight to be pruned, of all layers or of some.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.Recipe(bits=4).prunes, sw.Recipe(layers={"fc": dict(sparsity=0.5)}).prunes
            (False, True)
        """
        own = [override for override in self.layers.values() if isinstance(override, Mapping)]
        return self.sparsity > 0 or any(
            o.get("sparsity", 0) > 0 or getattr(o.get("structure"), "sparsity", None) for o in own
        )

    @cached_property
    def _plans(self) -> dict[tuple[str, ...], tuple[Plan, ...]]:
        """Plans by the layers they are for: ranking, figures, file and pictures all ask for the same ones."""
        return {}

    def _plan(self, own: Override) -> Plan:
        mine = {} if own is Keep else dict(cast(Mapping[str, Any], own))
        structure = mine.get("structure", self.structure)
        # A structure of a layer's own brings its own sparsity, as it does for a whole recipe.
        if structure != self.structure:
            mine.setdefault("sparsity", structure.sparsity or 0.0)
        scope = self.scope
        # what has a sparsity of its own is not in the common ranking, and takes no share of its threshold
        if own is Keep or structure.sparsity is not None or (scope == "global" and "sparsity" in mine):
            scope = "layer"
        return Plan(keep=own is Keep, scope=scope, **{n: mine.get(n, getattr(self, n)) for n in _LAYER_FIELDS})


class RecipeFields(TypedDict, total=False):
    """The fields of a `Recipe`, and the settings of its kinds, as keywords of a function: for type checkers."""

    sparsity: float
    bits: int
    scope: Scope
    structure: str | Structure | Mapping[str, Any]
    importance: str | Importance | Mapping[str, Any]
    granularity: Granularity
    quantizer: str | Quantizer | Mapping[str, Any]
    uncompressed_bits: int
    channels: float
    multiple: int
    channel_scope: ChannelScope
    layers: Mapping[str, Override]
    symmetric: bool
    clipping: str | float
    scales: str
    values: Sequence[float]
    seed: int
    loss: str


def recipe_from(recipe: Recipe | float | None, given: Mapping[str, Any], default: Recipe | None = None) -> Recipe:
    """Return the recipe that an argument and keywords mean together: the one rule of every public function.

    A number is a sparsity. Fields alone make a recipe; beside one they change it, as `Recipe.with_` does. Without
    either it is the default.

    >>> recipe_from(0.9, {"bits": 4})
    Recipe(sparsity=0.9, bits=4)

    Raises:
        RecipeError: for what is no recipe, for a sparsity given twice, for an importance without a sparsity, or if
            nothing is given and there is no default.
    """
    fields_given = {name: value for name, value in given.items() if value is not None}
    if recipe is None and not fields_given:
        if default is None:
            raise RecipeError("there is nothing to do: give a recipe or its fields, such as sparsity=0.9, bits=4")
        return default
    if _number(recipe):
        if "sparsity" in fields_given:
            raise RecipeError(
                f"the sparsity is given twice, as {recipe!r} and as sparsity={fields_given['sparsity']!r}: give it once"
            )
        return Recipe(sparsity=cast(float, recipe), **fields_given)
    if recipe is None:
        made = Recipe(**fields_given)
        # sparsity=0 may be one of many that are tried, and where there is a default a slider may come later
        forgotten = "importance" in fields_given and not fields_given.keys() & {"sparsity", "structure"}
        if forgotten and default is None and not made.prunes and not made.removes_channels:
            raise RecipeError(
                f"importance={made.importance.kind!r} says which weights are pruned, but not how many: give "
                f"sparsity=…, or a structure"
            )
        return made
    checked = checked_recipe(recipe)
    return checked.with_(**fields_given) if fields_given else checked


def checked_recipe(found: object) -> Recipe:
    """Return what was found if it is a recipe, or stands for one: a plan as ``__recipe__()``, a number as a sparsity.

    Raises:
        RecipeError: for anything else, such as a dict of a recipe's fields.
    """
    if hasattr(found, "__recipe__"):  # as a path has __fspath__
        found = found.__recipe__()
    if _number(found):
        return Recipe(sparsity=cast(float, found))
    if not isinstance(found, Recipe):
        what = f"expected a Recipe or a sparsity, got {a_type(found)}"
        if isinstance(getattr(found, "recipe", None), Recipe):
            raise RecipeError(f"{what}: give its .recipe")
        if isinstance(found, Mapping):
            raise RecipeError(f"{what}: write Recipe(**fields), or Recipe.from_dict(…) of what to_dict wrote")
        if isinstance(found, str | bytes):
            raise RecipeError(f"{what}: write Recipe.from_json(…) if it is JSON")
        if isinstance(found, Iterable):
            raise RecipeError(f"{what}: data is given by name, as train_data=… or eval_data=…")
        raise RecipeError(f"{what}: write Recipe(sparsity=0.8, bits=4)")
    return found


def layers_listed(names: Sequence[str]) -> str:
    """Return the end of a sentence about a name that is no layer's: which there are, or the first of many."""
    more = f" and {len(names) - _SOME:,} more" if len(names) > _SOME else ""
    return f"; the layers are {', '.join(quoted(layer_label(n)) for n in names[:_SOME])}{more}"


def layer_matches(pattern: str, name: str) -> bool:
    """Tell whether an override's key names this layer, with or without its ``.weight``.

    A layer's own name always does, also one with brackets, which as a pattern would mean something else.
    """
    return bool(next(_layers_named([pattern], [name])))


def _layers_named(patterns: Collection[str], names: Sequence[str]) -> Iterator[list[int]]:
    """Yield, for each key of overrides, the indices of the layers it names.

    A planner writes one override per layer, so names are looked up, and only wildcards are held against every layer.

    Raises:
        RecipeError: where that would take minutes, as nobody's recipe does, but a hostile file's.
    """
    if not patterns:
        return
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        # a set: most tensors that are no weight have the same name twice
        for one in {name, layer_label(name)}:
            places.setdefault(one, []).append(i)
    globs = [pattern for pattern in patterns if _is_glob(pattern)]
    # fnmatch takes time in proportion to both lengths, and more for many stars; a file decides over both.
    letters = sum(map(len, globs)) * sum(map(len, names))
    if len(globs) * len(names) > _MOST_MATCHES or letters > _MOST_LETTERS:
        raise RecipeError(
            f"Recipe(layers=…) has {len(globs):,} keys with wildcards, too many or too long to be held against "
            f"{len(names):,} layers: name the layers instead"
        )
    for pattern in patterns:
        matched = places.get(pattern, [])
        if _is_glob(pattern):
            matches = re.compile(fnmatch.translate(pattern)).match
            by_glob = {i for one, found in places.items() if matches(one) for i in found}
            matched = sorted(by_glob.union(matched))
        yield matched


def _is_glob(pattern: str) -> bool:
    return any(letter in pattern for letter in "*?[")


def canonical_json(value: object) -> str:
    """Return JSON text without spaces whose numbers JavaScript's ``JSON.stringify`` would write the same way."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{canonical_json(str(k))}:{canonical_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(canonical_json, value))}]"
    if isinstance(value, float):
        # repr gives the shortest digits that are the same float64, as JSON.stringify does, but with an exponent below
        # 1e-4.
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


_PLAIN: Final[dict[str, Any]] = {
    "bits": 32,
    "scope": "global",
    **{role: PLAIN[role] for role in ROLES},
    "granularity": "channel",
    "uncompressed_bits": 32,
    "channels": 0.0,
    "multiple": 1,
    "channel_scope": "width",
}
"""The fields that a recipe's text leaves out, whatever kinds there are: a reader need not know them."""
_LAYER_FIELDS: Final = ("sparsity", "bits", "structure", "granularity", "quantizer")
_OVERRIDE_FIELDS: Final = (*_LAYER_FIELDS, "channels", "multiple")
_CHOICES: Final[dict[str, tuple[object, ...]]] = {
    "scope": ("global", "layer", "channel"),
    "channel_scope": ("width", "global"),
    "bits": BITS,
    "uncompressed_bits": (16, 32),
}


def _json(value: Any) -> Any:
    """Return a field's value as JSON has it."""
    if isinstance(value, Kind):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _json(own) for name, own in value.items()}
    return "keep" if value is Keep else value


def _short(value: Any) -> Any:
    """Return a field's value as code has it: a tag for a kind with default settings."""
    if isinstance(value, Kind):
        found = value.to_json()
        return found if isinstance(found, str) else value
    return {name: _short(own) for name, own in value.items()} if isinstance(value, Mapping) else value


def sparsity_by_tag(structure: Structure) -> float:
    """Return the sparsity that whoever reads a structure's tag knows: 1 − n/m of ``"n:m"``."""
    # From the text alone, since the page has to know it for a structure that only a user's process has registered.
    n_of_m = re.fullmatch(r"(\d+):(\d+)", structure.kind)
    return 1 - int(n_of_m[1]) / int(n_of_m[2]) if n_of_m else 0.0


def _settled(
    chosen: Mapping[str, Any], settings: Mapping[str, Any], known: Iterable[str], where: str
) -> dict[str, Any]:
    """Return the kinds with the settings that were written beside them."""
    # An override has no importance, so only the roles that were chosen count.
    own = {name: role for role in reversed(ROLES) if role in chosen for name in settings_of(chosen[role])}
    refuse_unknown(settings, [*known, *own], where, RecipeError, "field")
    changed = {role: {n: v for n, v in settings.items() if own[n] == role} for role in set(own.values())}
    return {role: with_settings(chosen[role], values, where) for role, values in changed.items() if values}


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values with numbers normalised, or raise for the first one that cannot be."""
    checked = {name: _check(name, value, where) for name, value in values.items()}
    structure, sparsity = checked.get("structure"), checked.get("sparsity")
    fixed = structure.sparsity if structure is not None else None
    if structure is not None and fixed is not None and sparsity not in (None, fixed):
        raise RecipeError(
            f"{where}: structure {structure.kind!r} fixes the sparsity at {fixed:g}, got {sparsity:g}; "
            f"leave sparsity out, or use structure='unstructured'"
        )
    if "bits" in checked and "quantizer" in checked:
        _check_width(checked["quantizer"], checked["bits"], where)
    return checked


def _check_width(quantizer: Quantizer, bits: int, where: str) -> None:
    if bits <= 8 and bits not in quantizer.widths:
        has = ", ".join(map(str, quantizer.widths))
        raise RecipeError(
            f"{where}: quantizer {quantizer.kind!r} has {has} bits, got bits={bits}; leave bits out, or take another "
            f"quantizer"
        )


def _check(name: str, value: Any, where: str) -> Any:
    """Return the value of a field, a number as the field has it, or raise for one that cannot be."""
    value = plain(value)  # sweeps are written with np.linspace and np.arange
    if name in ("sparsity", "channels"):
        if not (_number(value) and 0 <= value < 1):
            hint = f"; for {value} % write {value / 100:g}" if _number(value) and 1 <= value < 100 else ""
            raise RecipeError(f"{where}({name}={quoted(value)}) must be a fraction, 0 <= {name} < 1{hint}")
        return float(value)
    if name == "multiple":
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if not (_whole(whole) and 1 <= whole <= MAX_GROUP):
            raise RecipeError(f"{where}(multiple={quoted(value)}) must be a whole number from 1 to {MAX_GROUP}")
        return whole
    if name != "granularity" and name not in _CHOICES:
        return value  # a kind, which checks itself
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON from elsewhere may write 4.0
    choices = _CHOICES.get(name, ("tensor", "channel"))
    words = [choice for choice in choices if isinstance(choice, str)]
    value = meant(value, words) or value
    if isinstance(value, int | str) and not isinstance(value, bool) and value in choices:
        return value
    if name == "granularity":
        if _whole(value) and 2 <= value <= MAX_GROUP:
            return value
        listed = f"'tensor', 'channel' or a group size from 2 to {MAX_GROUP}"
    else:
        listed = f"one of {', '.join(map(repr, choices))}"
    digits = isinstance(value, str) and value in map(str, choices)  # bits="4"
    hint = f"; did you mean {value}?" if digits else nearest(str(value), words)
    raise RecipeError(f"{where}({name}={quoted(value)}) must be {listed}{hint}")


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _checked_layers(layers: Any, quantizer: Quantizer, bits: int) -> dict[str, Override]:
    if not isinstance(layers, Mapping):
        raise RecipeError(f"Recipe(layers=…) must be a dict of overrides by layer name, got {type(layers).__name__}")
    for name in layers:
        if not isinstance(name, str) or not name:
            raise RecipeError(f"Recipe(layers=…) has the key {quoted(name)}; expected a layer's name or a pattern")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise RecipeError(
                f"Recipe(layers=…) has the key {quoted(name)}, half of a surrogate pair, which no file can hold"
            )
    return {name: _checked_override(name, value, quantizer, bits) for name, value in layers.items()}


def _checked_override(name: str, value: Any, quantizer: Quantizer, bits: int) -> Override:
    """Return an override with its kinds made; `quantizer` and `bits` are what it has of the recipe if it says none."""
    if isinstance(value, _Keep):
        return Keep
    where = f"the override of {quoted(name)}"
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} must be Keep or a dict such as dict(bits=8), got {quoted(value)}")
    own = {field: value[field] for field in _OVERRIDE_FIELDS if field in value}
    for role in ("structure", "quantizer"):
        if role in own:
            own[role] = parsed(role, own[role], where)
    settings = {field: found for field, found in value.items() if field not in _OVERRIDE_FIELDS}
    own |= _settled({"quantizer": own.get("quantizer", quantizer)}, settings, _OVERRIDE_FIELDS, where)
    structure = own.get("structure")
    # a sparsity that cannot be read off the structure's tag is written down, for readers without that structure
    if structure is not None and structure.sparsity not in (None, sparsity_by_tag(structure)):
        own.setdefault("sparsity", structure.sparsity)
    mine = own.get("quantizer", quantizer)
    if "bits" not in own and bits <= 8 and bits not in mine.widths and len(mine.widths) == 1:  # as in a recipe
        own["bits"] = mine.widths[0]
    checked = _checked(own, where)
    _check_width(mine, checked.get("bits", bits), where)
    return MappingProxyType({field: checked[field] for field in _OVERRIDE_FIELDS if field in checked})


# ---- the controls of settings ----


@checked_fields(RecipeError)
@dataclass(frozen=True, slots=True)
class Number:
    """A setting that is a number, or one more option of a `Choice`: limits, step and unit, as a number box has them.

    Example:
        >>> import shrinkwidget as sw
        >>> control = sw.methods.Number("power", "of the magnitude", min=0, max=4, step=0.5)
        >>> control.checked(1), control.checked(5)
        (1.0, None)
    """

    label: str
    title: str = ""
    min: float = 0
    max: float = 2.0**53 - 1
    step: float = 1
    default: float = 0
    unit: str = ""
    exclusive: bool = False
    """Whether the least number itself is not allowed."""
    want: str = ""
    """What the number is, in an error: ``"a percentile above 50 and up to 100"``."""

    def checked(self, value: Any) -> Any:
        """Return the number, an int where the step is whole; None for anything else."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.min <= value <= self.max:
            return None
        whole = float(self.step).is_integer() and float(self.min).is_integer()
        if whole and isinstance(value, float) and not value.is_integer():
            return None
        if self.exclusive and value == self.min:
            return None
        return int(value) if whole else float(value)

    def allowed(self) -> str:
        """Return the numbers it can be, as an error says it."""
        whole = "whole " if float(self.step).is_integer() else ""
        most = "2^53 - 1" if self.max == 2.0**53 - 1 else f"{self.max:g}"
        return self.want or f"a {whole}number from {self.min:g} to {most}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the page needs to draw a number box."""
        names = ("label", "title", "min", "max", "step", "default", "unit")
        found = {name: getattr(self, name) for name in names}
        # a number box has no open limits: the first step is the least it takes
        return found | ({"min": self.min + self.step} if self.exclusive else {})


@checked_fields(RecipeError)
@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that is one of a few values: its label, its options as (value, label, title), and when it is idle.

    Example:
        >>> import shrinkwidget as sw
        >>> control = sw.methods.Choice("norm", ((1, "L1", "sum of magnitudes"), (2, "L2", "root of the squares")))
        >>> control.checked(2), control.checked(3)
        (2, None)
    """

    label: str
    options: tuple[tuple[Any, str, str], ...]
    number: Number | None = None
    bits: tuple[int, ...] = ()
    """Bits at which it has an effect; empty for all. `idle` says why it has none at others."""
    idle: str = ""

    def checked(self, value: Any) -> Any:
        """Return the value if it is one of the options, or a number that may be; None for anything else."""
        # By type as well: True == 1 == 1.0 in Python, and a setting of one must not be taken for another.
        for option, *_ in self.options:
            if type(value) is type(option) and value == option:
                return value
        return self.number.checked(value) if self.number else None

    def allowed(self) -> str:
        """Return the values it can have, as an error says it."""
        values = [repr(option) for option, *_ in self.options]
        last = self.number.allowed() if self.number else values.pop()
        return f"{', '.join(values)} or {last}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the page needs to draw a group of buttons."""
        found: dict[str, Any] = {"label": self.label}
        found["options"] = [dict(zip(("value", "label", "title"), option, strict=True)) for option in self.options]
        if self.number:
            found["number"] = self.number.to_dict()
        return found | ({"bits": list(self.bits), "idle": self.idle} if self.bits else {})


def setting(default: Any, control: Choice | Number) -> Any:
    """Return the dataclass field of a setting: its default, and the control it has on the page.

    Example:
        >>> from dataclasses import dataclass
        >>> import shrinkwidget as sw
        >>> @sw.methods.register
        ... @dataclass(frozen=True, repr=False)
        ... class Power(sw.methods.Importance):
        ...     kind, label, title = "power", "power", "the smallest powers of the magnitude go first"
        ...     power: float = sw.methods.setting(1.0, sw.methods.Number("power", min=0, max=4, step=0.5))
        ...     def scores(self, name, rows, statistic):
        ...         return rows.abs() ** self.power
        >>> sw.Recipe(sparsity=0.5, importance=Power(power=2))
        Recipe(sparsity=0.5, importance=Power(power=2.0))
    """
    return field(default=default, metadata={"control": control})


# ---- kinds: importances, structures, quantizers ----


@dataclass(frozen=True, repr=False)
class Kind:
    """What every kind has: a tag, words for the page, and settings that are checked when it is made."""

    role: ClassVar[Role]
    kind: ClassVar[str]
    """The tag that stands for it in recipes and files."""
    label: ClassVar[str]
    """What the page calls it."""
    title: ClassVar[str] = ""
    """What it does, in a phrase."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = plain(getattr(self, f.name))
            control = f.metadata.get("control")
            if control is not None:
                checked = control.checked(value)
                if checked is None:
                    close = nearest(str(value), [o for o, *_ in getattr(control, "options", ()) if isinstance(o, str)])
                    raise RecipeError(
                        f"{type(self).__name__}({f.name}={quoted(value)}) must be {control.allowed()}{close}"
                    )
                value = checked
            # the way of a frozen dataclass to have its checked values, an int for a float
            object.__setattr__(self, f.name, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, in order."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def to_json(self) -> str | dict[str, Any]:
        """Return its tag, or with settings of its own an object of tag and settings."""
        changed = self.changed()
        return {"kind": self.kind, **changed} if changed else self.kind


@dataclass(frozen=True, repr=False)
class Importance(Kind):
    """How much a weight matters: the smallest scores are pruned first.

    A subclass gives `scores`. If these need to know what flows through the network, it sets `calibrated` and gives
    `observe` too. `survival`, the estimate from a sketch, may be left out: such a recipe is counted exactly or not at
    all.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, shrinkwidget as sw
        >>> @sw.methods.register
        ... @dataclass(frozen=True, repr=False)
        ... class Relative(sw.methods.Importance):
        ...     kind, label, title = "relative", "relative", "the smallest of each channel go first"
        ...     def scores(self, name, rows, statistic):
        ...         return rows.abs() / (rows.norm(dim=1, keepdim=True) + 1e-12)
        >>> sw.compress(sw.demo.model(), sparsity=0.8, importance="relative").recipe
        Recipe(sparsity=0.8, importance='relative')
    """

    role: ClassVar[Role] = "importance"
    scope: ClassVar[str] = "global"
    """The scope of a recipe that says none: ``"channel"`` for scores that compare within an output channel only."""
    calibrated: ClassVar[bool] = False
    """Whether scores need a statistic that `observe` takes of calibration data."""
    of_magnitude: ClassVar[bool] = False
    """Whether scores are the magnitudes themselves; their ranking then starts from the sketch's value table."""
    ranks_channels_by: ClassVar[tuple[type[nn.Module], ...]] = ()
    """Layers by whose weight alone channels are ranked; empty for all weights that a channel has a part of."""

    @property
    def ranks_channels_by_norm(self) -> bool:
        """Whether channels are ranked by the norm of their weights: the scores that a sketch has of them."""
        return self.of_magnitude and not self.ranks_channels_by

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return a score for every weight of a layer, not negative, of a float dtype: ``[rows, columns]`` as `rows`.

        Args:
            name: of the tensor.
            rows: its weights, a row for each output channel.
            statistic: what `observe` found for it, as a matrix of the same shape; None without calibration.
        """
        raise NotImplementedError

    def observe(self, calibration: CalibrationRun) -> Mapping[str, Tensor]:
        """Return a statistic for every weight tensor that calibration data reaches, by name, of the tensor's shape."""
        raise NotImplementedError

    def survival(self, layer: LayerSketch, plan: Plan, shared: Any) -> PruningOutcome | None:
        """Return what becomes of a layer as far as a sketch can tell (``docs/estimate.md``); None if it cannot."""
        del layer, plan, shared
        return None


@dataclass(frozen=True, repr=False)
class Structure(Kind):
    """Which sets of weights may go: any, or a fixed number of every few neighbours.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, shrinkwidget as sw
        >>> @sw.methods.register
        ... @dataclass(frozen=True, repr=False)
        ... class Half(sw.methods.Structure):
        ...     kind, label, title = "half", "half of each", "the better half of every output channel is kept"
        ...     sparsity = 0.5
        ...     def keeps(self, scores):
        ...         best = scores.argsort(dim=1, descending=True)[:, : -(-scores.shape[1] // 2)]
        ...         return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)
        >>> small = sw.compress(sw.demo.model(), structure="half")
        >>> small.encoded["head.weight"].mask.sum(dim=1).tolist()
        [32, 32, 32, 32, 32, 32, 32, 32, 32, 32]
    """

    role: ClassVar[Role] = "structure"

    @property
    def sparsity(self) -> float | None:
        """The sparsity it fixes; None where that is free, and weights are cut off at a rank."""
        return None

    def keeps(self, scores: Tensor) -> Tensor:
        """Return which weights are kept, bool ``[rows, columns]`` as their scores; for a structure that fixes sparsity.

        It is given some rows at a time: each is decided by itself.
        """
        raise NotImplementedError


@dataclass(frozen=True, repr=False)
class Quantizer(Kind):
    """What the values of weights may be: fits them to a layer, and turns weights into codes and back.

    A layer's codes stand for values with the help of at most three arrays that the file stores: a scale for each group
    of weights, the code of zero in each group, and a codebook. Which of them there are is all that the file's size, its
    writer and its reader have to know of a quantizer.

    Example:
        >>> from dataclasses import dataclass
        >>> import torch, shrinkwidget as sw
        >>> @sw.methods.register
        ... @dataclass(frozen=True, repr=False)
        ... class Quarters(sw.methods.Quantizer):
        ...     kind, label, title = "quarters", "quarters", "multiples of 1/4, the same for all layers"
        ...     widths, has_scales, has_codebook = (3,), False, True
        ...     def fit(self, layer):
        ...         return layer.grid(codebook=torch.arange(-4, 4) / 4)
        ...     def encode(self, piece, grid):
        ...         return (piece.x * 4 + 4).round().clamp(0, 7).to(torch.uint8)
        ...     def decode(self, codes, scales, zeros, codebook, bits):
        ...         return codebook[codes.int()]
        >>> small = sw.compress(sw.demo.model(), bits=3, quantizer="quarters")
        >>> small.state_dict()["stem.weight"].unique().numel() <= 8
        True
    """

    role: ClassVar[Role] = "quantizer"
    widths: ClassVar[tuple[int, ...]] = (1, 2, 3, 4, 5, 6, 7, 8)
    """The bits of a code it has; at 16 and 32 bits a recipe needs no quantizer."""
    has_scales: ClassVar[bool] = True
    """Whether each group has a scale; without, granularity has no effect."""
    scale_dtype: ClassVar[str] = "float32"
    """In what scales are kept: "float32" for 16-bit fractions of the largest one, "float16" or "bfloat16" for those."""
    has_codebook: ClassVar[bool] = False
    """Whether the layer has a codebook of 2^bits float32 values, ascending."""
    shares_values: ClassVar[bool] = False
    """Whether training moves the values, all weights of one value together: for a codebook that is fitted to them."""

    def acting(self, bits: int) -> Quantizer:
        """Return the quantizer that codes at so many bits: usually itself."""
        del bits
        return self

    def has_zero_points(self, bits: int) -> bool:
        """Tell whether each group stores the code of zero."""
        del bits
        return False

    def zero_code(self, bits: int) -> int | None:
        """Return the code that stands for zero in every group; None if none does, or if each group stores its own."""
        del bits
        return None

    def has_zero(self, bits: int) -> bool:
        """Tell whether some code is sure to stand for zero, so that no mask is needed beside codes for all weights."""
        return self.zero_code(bits) is not None or self.has_zero_points(bits)

    def largest_code(self, bits: int) -> int:
        """Return the largest code there is."""
        return int(2**bits - 1)

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the values that codes of this layer can stand for: its scales, zero points or codebook."""
        raise NotImplementedError

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return the codes of some groups of a layer, uint8 ``[groups, size]``.

        Pruned weights come as zeros, and have the code of zero where there is one.
        """
        raise NotImplementedError

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return what codes stand for, a new float tensor of their shape.

        Args:
            codes: uint8 ``[groups, size]``.
            scales, zeros: of these groups, float ``[groups, 1]``, None if there are none.
            codebook: of the layer, float32 ``[2^bits]``, None if there is none.
            bits: of a code.
        """
        raise NotImplementedError

    def rounded(self, piece: Piece, grid: Grid) -> Tensor:
        """Return the values that weights are rounded to: what `decode` makes of `encode`, in one step where it can."""
        scales = None if grid.scales is None else grid.scale(piece)
        return self.decode(self.encode(piece, grid), scales, grid.zero(piece), grid.codebook, grid.plan.bits)

    def beyond(self, piece: Piece, grid: Grid) -> Tensor | None:
        """Return which weights lie beyond the outermost value, bool ``[groups, size]``; None where none can.

        Training does not push those further out, where nothing would be gained.
        """
        del piece, grid
        return None

    def noise(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, energy: float) -> float | None:
        """Return the squared error of rounding the survivors, whose squares sum to `energy`, from a sketch alone.

        None if a sketch cannot tell: the recipe is then counted exactly or not at all.
        """
        del layer, plan, survival, energy
        return None

    def noises(
        self,
        layers: Sequence[LayerSketch],
        plan: Plan,
        survivals: Sequence[PruningOutcome],
        energies: Sequence[float],
    ) -> Sequence[float | None]:
        """Return the `noise` of each of the layers under one plan; faster where all are looked at together."""
        return [
            self.noise(layer, plan, *rest)
            for layer, rest in zip(layers, zip(survivals, energies, strict=True), strict=True)
        ]

    def bars(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome, kept: int) -> tuple[Any, Any] | None:
        """Return the values survivors are rounded to, and how many to each, for a picture; None if unknown."""
        del layer, plan, survival, kept
        return None

    def levels(self, layer: LayerSketch, plan: Plan, survival: PruningOutcome) -> Any:
        """Return the values of a typical group, ascending, for the ticks of a picture; None if unknown."""
        del layer, plan, survival
        return None


@contextmanager
def doing(kind: Kind, name: str) -> Iterator[None]:
    """Blame a kind, and name the layer, for whatever goes wrong inside.

    Raises:
        MethodError: for any exception that is not one of ours.
    """
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:
        label = name.removesuffix(".weight")
        raise MethodError(
            f"{kind.role} {kind.kind!r} failed on {quoted(label)}: {type(error).__name__}: {error}"
        ) from error


class Statistics(Protocol):
    """Where an importance's statistics of calibration data come from (`evaluation.calibration.Calibration`)."""

    def statistics(self, importance: Importance) -> Mapping[str, Tensor]:
        """Return what it finds, by the names of the weights."""


# ---- the register of kinds ----

K = TypeVar("K", bound=Kind)
_REGISTER: Final[dict[Role, dict[str, Callable[[], Kind]]]] = {role: {} for role in ROLES}
_CLASSES: Final[dict[type[Kind], None]] = {}
_OWN_KINDS: Final = (".compression.importances", ".compression.unstructured_and_nm_sparsity", ".compression.quantizers")
"""Above this module, which knows none of them: so they are named, and imported when a kind is first looked up."""
_BASES: Final[Mapping[Role, type[Kind]]] = {"importance": Importance, "structure": Structure, "quantizer": Quantizer}


def register(kind: type[K], **named: Mapping[str, Any]) -> type[K]:
    """Make a kind known under its tag; a class decorator.

    ``@register`` above a frozen dataclass derived from `Importance`, `Structure` or `Quantizer` is all it takes:
    recipes, files, the explorer and training then know it by its tag. A file that names it is read where it is known.

    Raises:
        RecipeError: for a class that is no kind, lacks a tag or a label, is not a frozen dataclass, has a setting
            without a default, or for a tag that another kind of its role has.

    >>> from dataclasses import dataclass
    >>> import torch, shrinkwidget as sw
    >>> @sw.methods.register
    ... @dataclass(frozen=True, repr=False)
    ... class Largest(sw.methods.Importance):
    ...     kind, label, title = "largest", "largest", "the largest go first"
    ...     def scores(self, name, rows, statistic):
    ...         return 1 / (1 + rows.abs())
    >>> sw.Recipe(0.5, importance="largest")
    Recipe(sparsity=0.5, importance='largest')
    """
    if not (isinstance(kind, type) and issubclass(kind, tuple(_BASES.values()))):
        raise RecipeError(f"register() takes a subclass of Importance, Structure or Quantizer, got {quoted(kind)}")
    name = kind.__name__
    parameters = getattr(kind, "__dataclass_params__", None)
    if not is_dataclass(kind) or "__dataclass_fields__" not in vars(kind) or not parameters or not parameters.frozen:
        raise RecipeError(f"{name} must be a frozen dataclass: write @dataclass(frozen=True, repr=False) above it")
    if bare := [f.name for f in fields(kind) if f.default is f.default_factory]:
        raise RecipeError(f"{name}.{bare[0]} needs a default: its tag alone stands for a kind with default settings")
    kind = checked_fields(RecipeError)(kind)
    if named:
        for tag, settings in named.items():
            _add(kind, tag, partial(kind, **settings))
        return kind
    if not all(isinstance(getattr(kind, word, None), str) for word in ("kind", "label")):
        raise RecipeError(f"{name} needs a tag and a label: kind = {name.lower()!r} and label = {name.lower()!r}")
    _add(kind, kind.kind, kind)
    return kind


def _add(kind: type[Kind], tag: str, make: Callable[[], Kind]) -> None:
    known = _REGISTER[kind.role]
    before = known.get(tag)
    if before is not None:
        other = type(before())
        # by name, not by identity: running a notebook's cell again makes a new class of the same name, which replaces
        # the old one
        if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            article = "an" if kind.role == "importance" else "a"
            raise RecipeError(
                f"there is {article} {kind.role} {tag!r} already ({other.__module__}.{other.__qualname__}): give "
                f"{kind.__name__} another kind"
            )
        _CLASSES.pop(other, None)
    known[tag] = make
    _CLASSES[kind] = None


def _known(role: Role) -> dict[str, Callable[[], Kind]]:
    """Return what is registered for a role; the package's own kinds are, once their modules are imported."""
    for place in _OWN_KINDS:
        import_module(place, __package__)
    return _REGISTER[role]


def names(role: Role) -> list[str]:
    """Return the tags of a role, built-in ones first."""
    return sorted(_known(role), key=lambda tag: tag != PLAIN[role])  # the plain one first, the others as they came


def kinds(role: Role) -> Iterator[Kind]:
    """Yield the kinds of a role with default settings, built-in ones first."""
    for tag in names(role):
        yield _known(role)[tag]()


def parsed(role: Role, value: Any, where: str) -> Kind:
    """Return the kind that a recipe's field means: a kind, its tag, or an object of tag and settings.

    Raises:
        RecipeError: for what is none, naming the nearest; for a setting that cannot be; for a kind nobody registered.
    """
    # A class that is written without its parentheses is that kind with default settings.
    if isinstance(value, type) and value in _CLASSES:
        value = value()
    if isinstance(value, Kind) and value.role == role:
        if type(value) not in _CLASSES:
            raise RecipeError(
                f"{where}({role}={value!r}): register {type(value).__name__} first, with @sw.methods.register above it"
            )
        return value
    settings: Mapping[str, Any] = {}
    tag = value
    if isinstance(value, Mapping) and isinstance(value.get("kind"), str):
        tag, settings = value["kind"], {k: v for k, v in value.items() if k != "kind"}
    tag = meant(tag, _known(role)) or tag
    if not isinstance(tag, str) or tag not in _known(role):
        known = names(role)
        hint = nearest(tag, known) if isinstance(tag, str) else ""
        newer = "; it may need a newer shrinkwidget, or the package that registers it"
        more = newer if isinstance(tag, str) and not hint else ""
        raise RecipeError(f"{where}({role}={quoted(value)}) must be one of {', '.join(map(repr, known))}{hint}{more}")
    return with_settings(_known(role)[tag](), settings, where)


def with_settings(kind: K, settings: Mapping[str, Any], where: str) -> K:
    """Return a kind with some settings changed.

    Raises:
        RecipeError: for a setting it has not, naming the nearest, or a value that cannot be.
    """
    if not settings:
        return kind
    own = settings_of(kind)
    for name in settings:
        if name not in own:
            has = f"Its settings: {', '.join(own)}" if own else "It has none"
            close = nearest(str(name), own) or "."
            raise RecipeError(f"{where}: {kind.role} {kind.kind!r} has no setting {quoted(name)}{close} {has}")
    # JSON has lists, and a frozen dataclass is hashed: tuples.
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    return type(kind)(**{name: getattr(kind, name) for name in own} | values)


def settings_of(kind: Kind) -> list[str]:
    """Return the names of a kind's settings, in the order of its JSON."""
    return [f.name for f in fields(kind)]


def every_setting() -> dict[str, Role]:
    """Return the role to which each setting belongs, of all kinds."""
    # Where two roles have a setting of one name, that of the first role counts: it is set last here.
    return {name: role for role in reversed(ROLES) for kind in kinds(role) for name in settings_of(kind)}


def schema(unavailable: Mapping[str, str] | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return what the page needs to offer every kind: labels, controls, and what choosing one brings (JSON-able).

    `unavailable` says, by tag, why an importance cannot be chosen.
    """
    return {role: [_entry(kind, (unavailable or {}).get(kind.kind, "")) for kind in kinds(role)] for role in ROLES}


def _entry(kind: Kind, unavailable: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": kind.kind, "label": kind.label, "title": kind.title}
    if type(kind).__module__.startswith(f"{__package__}."):
        entry["python"] = f"sw.methods.{type(kind).__name__}"
    entry["unavailable"] = unavailable
    if isinstance(kind, Importance):
        entry["scope"] = kind.scope
    if isinstance(kind, Structure) and kind.sparsity is not None:
        entry["sparsity"] = kind.sparsity
    if isinstance(kind, Quantizer):
        entry |= {"bits": list(kind.widths), "scales": kind.has_scales}
    own = [f for f in fields(kind) if f.name not in ("n", "m")] if isinstance(kind, Structure) else fields(kind)
    entry["controls"] = [_control(f.name, f.default, f.metadata.get("control")) for f in own]
    return entry


def _control(name: str, default: Any, control: Choice | Number | None) -> dict[str, Any]:
    kind = {Choice: "choice", Number: "number", type(None): "value"}[type(control)]
    drawn = control.to_dict() if control else {"label": name}
    return {"name": name, **drawn, "type": kind, "default": list(default) if isinstance(default, tuple) else default}
