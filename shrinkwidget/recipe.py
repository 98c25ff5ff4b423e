"""The Recipe: an immutable, JSON-able statement of what to do to every tensor."""

from __future__ import annotations

import fnmatch
import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from functools import wraps
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypeVar, cast

import numpy as np

from . import strict_json
from .errors import RecipeError, nearest, quoted

FORMAT: Final = "shrinkwidget-recipe"
VERSION: Final = 1
BITS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 16, 32)
PATTERNS: Final = ("unstructured", "2:4", "1:4", "4:8")
MAX_GROUP: Final = 1 << 20
_SOME: Final = 6
_MOST_MATCHES: Final = 2**22  # wildcards × layers, and the letters of both: at most a few seconds
_MOST_LETTERS: Final = 2**30

Scope: TypeAlias = Literal["global", "layer"]
Pattern: TypeAlias = Literal["unstructured", "2:4", "1:4", "4:8"]
Criterion: TypeAlias = Literal["magnitude", "random"]
Granularity: TypeAlias = Literal["tensor", "channel"] | int
Grid: TypeAlias = Literal["linear", "codebook"]
Range: TypeAlias = Literal["auto", "absmax", "mse"] | float


class _Keep:
    """The override that leaves a layer exactly as it is."""

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
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe asks of one layer, every choice resolved.

    `ranked` tells whether the layer takes part in the global magnitude ranking; a layer with a sparsity of its own,
    or with an n:m pattern, does not.
    """

    keep: bool
    ranked: bool
    sparsity: float
    bits: int
    pattern: Pattern
    granularity: Granularity
    grid: Grid
    symmetric: bool
    range: Range

    @property
    def span(self) -> Range:
        """What a linear grid of 2 bits or more spans; ``"auto"`` means the least squared error at 2 bits.

        There it gains 2 to 5 dB. Above, clipping would gain less, and cost accuracy: it shrinks the large weights of a
        network that is not retrained (ResNet-20, 80 % sparse, 3 bits: 18 % against 32 %).
        """
        return "mse" if self.range == "auto" and self.bits == 2 else self.range


def _refusing_unknown_fields(recipe: type[T]) -> type[T]:
    """Let ``Recipe(sparisty=0.5)`` name the nearest field, as an unknown field is refused everywhere else."""
    init = recipe.__init__

    @wraps(init)
    def checked(self: T, *args: Any, **given: Any) -> None:
        _known(given, [f.name for f in fields(cast(Any, recipe))], recipe.__name__)
        init(self, *args, **given)

    recipe.__init__ = checked  # type: ignore[method-assign, assignment]  # its signature stays that of the fields
    return recipe


@_refusing_unknown_fields
@dataclass(frozen=True, slots=True, repr=False)
class Recipe:
    """What to do to every tensor of a model; frozen, validated, comparable, hashable, and JSON-able.

    Args:
        sparsity: fraction of the weights to prune, 0 ≤ s < 1. With an n:m `pattern` it is fixed at 1 − n/m and may be
            left out.
        bits: bits per stored weight: 1…8 (a grid or codebook of 2^bits values at most), 16 (half precision) or
            32 (as it is; float64 is rounded to float32).
        scope: ``"global"`` ranks all layers together, ``"layer"`` prunes the same fraction of each.
        pattern: ``"unstructured"``, or ``"2:4"``, ``"1:4"``, ``"4:8"``: keep n of every m neighbours along a row.
        criterion: ``"magnitude"`` prunes the smallest, ``"random"`` any (the baseline every comparison needs).
        granularity: how many weights share a scale: ``"tensor"``, ``"channel"`` (of output), or an integer g for
            groups of g along the flattened rest. A codebook is always one per tensor.
        grid: ``"linear"``, or ``"codebook"`` for 2^bits k-means values (Deep Compression, arXiv 1510.00149).
        symmetric: False: a linear grid whose levels lie where the weights of each group do, zero being one of them.
            True: one with as many levels below zero as above, of which it has 2^bits − 1.
        range: what the grid spans: ``"absmax"`` (all weights), ``"mse"`` (least squared error), a number p for the
            p-th percentile of the magnitudes, 50 < p ≤ 100, or ``"auto"``: the least squared error at 2 bits; above,
            all weights or the full range of a signed integer, whichever promises the smaller error.
        kept_bits: 32 or 16 bits for what is not compressed (biases, norms, float buffers).
        seed: seed of the ``"random"`` criterion.
        layers: overrides by layer name or pattern (``*``, ``?``, ``[…]``): `Keep`, or a dict of sparsity, bits,
            pattern, granularity, grid, symmetric, range. The last entry that matches a layer wins, whole.

    Raises:
        RecipeError: for an unknown name or a value out of range, naming the nearest valid ones.
    """

    sparsity: float = None  # type: ignore[assignment]  # None stands for "what the pattern says"
    bits: int = 32
    scope: Scope = "global"
    pattern: Pattern = "unstructured"
    criterion: Criterion = "magnitude"
    granularity: Granularity = "channel"
    grid: Grid = "linear"
    symmetric: bool = False
    range: Range = "auto"
    kept_bits: int = 32
    seed: int = 0
    layers: Mapping[str, Override] = field(default_factory=dict)

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        if values["sparsity"] is None:
            values["sparsity"] = pattern_sparsity(values["pattern"])
        for name, value in _checked(values, "Recipe").items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "layers", MappingProxyType(_checked_layers(self.layers)))

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self.to_json() == other.to_json()

    def __repr__(self) -> str:
        return f"Recipe({', '.join(f'{k}={v!r}' for k, v in self._changed())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Recipe.from_json, (self.to_json(),))

    def _changed(self) -> Iterator[tuple[str, Any]]:
        """Yield the fields that differ from the defaults, in order, layers as a plain dict."""
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "layers":
                if value:
                    yield "layers", {k: v if v is Keep else dict(v) for k, v in value.items()}
            elif f.name == "sparsity":
                if value != pattern_sparsity(self.pattern):
                    yield "sparsity", value
            elif value != f.default:
                yield f.name, value

    def with_(self, **changes: Any) -> Recipe:
        """Return a recipe with some fields changed; a new `pattern` brings its own sparsity unless one is given."""
        _known(changes, [f.name for f in fields(self)], "Recipe")
        if "pattern" in changes and changes["pattern"] != self.pattern:
            changes.setdefault("sparsity", None)
        return replace(self, **changes)

    def with_layer(self, name: str, override: Override | None = None, **changes: Any) -> Recipe:
        """Return a recipe in which the layers called `name` (a name or a pattern) are treated differently.

        ``with_layer("fc", bits=8)`` adds to what was said of "fc" before; ``with_layer("fc", Keep)`` leaves it as it
        is; ``with_layer("fc")`` goes back to the global value.

        Raises:
            RecipeError: if both an override and changes are given.
        """
        if override is not None and changes:
            raise RecipeError(f"with_layer({quoted(name)}, …) takes an override or single fields, not both")
        layers = dict(self.layers)
        before = layers.pop(name, {})
        if override is not None:
            layers[name] = override
        elif changes:
            layers[name] = {**(before if isinstance(before, Mapping) else {}), **changes}
        return replace(self, layers=layers)

    def to_dict(self) -> dict[str, Any]:
        """Return a plain dict of the fields that differ from the defaults, with a format name and version."""
        layers = {k: "keep" if v is Keep else dict(cast(Mapping[str, Any], v)) for k, v in self.layers.items()}
        changed = dict(self._changed()) | ({"layers": layers} if layers else {})
        return {"format": FORMAT, "version": VERSION, **changed}

    def to_json(self) -> str:
        """Return the canonical JSON text: no spaces, defaults left out; equal recipes give equal texts."""
        return canonical_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str | bytes) -> Recipe:
        """Read what `to_json` wrote.

        Raises:
            RecipeError: if the text is not JSON, not a recipe, or of a newer version.
        """
        try:
            found = strict_json.parse(text)
        except ValueError as error:
            raise RecipeError(f"this is not a recipe: {error}") from error
        return cls.from_dict(found)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Recipe:
        """Read what `to_dict` wrote; see `from_json`."""
        if not isinstance(found, Mapping) or found.get("format") != FORMAT:
            raise RecipeError(f'this is not a recipe: expected an object with "format": "{FORMAT}"')
        version = found.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise RecipeError(f"this recipe has version {quoted(version)}; expected a whole number from 1 to {VERSION}")
        if version > VERSION:
            raise RecipeError(
                f"this recipe has version {version}, newer than {VERSION}: upgrade shrinkwidget to read it"
            )
        values = {str(k): v for k, v in found.items() if k not in ("format", "version")}
        _known(values, [f.name for f in fields(cls)], "Recipe")
        layers = values.get("layers", {})
        if not isinstance(layers, Mapping):
            raise RecipeError(f"Recipe(layers=…) must be an object of overrides by layer name, got {quoted(layers)}")
        values["layers"] = {k: Keep if v == "keep" else v for k, v in layers.items()}
        return cls(**values)

    def resolve(self, names: Iterable[str], others: Mapping[str, str] | None = None) -> list[Plan]:
        """Return the plan of each layer, in the order of `names`.

        `others` tells of names that are no layers of their own why they are none, for whoever tries to override them.

        Raises:
            RecipeError: if an override matches none of the names.
        """
        names = list(names)
        own: list[Override] = [{}] * len(names)
        for pattern, matched in zip(self.layers, _layers_named(self.layers, names), strict=True):
            if not matched:
                hint = _why_none(pattern, others or {}) or _nearest_layers(pattern, names)
                raise RecipeError(f"Recipe(layers={{{quoted(pattern)}: …}}) matches no layer{hint}")
            for i in matched:
                own[i] = self.layers[pattern]
        return [self._plan(override) for override in own]

    def _plan(self, own: Override) -> Plan:
        mine = {} if own is Keep else dict(cast(Mapping[str, Any], own))
        pattern = mine.get("pattern", self.pattern)
        if "pattern" in mine and pattern != self.pattern:
            mine.setdefault("sparsity", pattern_sparsity(pattern))
        ranked = own is not Keep and self.scope == "global" and pattern == "unstructured" and "sparsity" not in mine
        return Plan(keep=own is Keep, ranked=ranked, **{n: mine.get(n, getattr(self, n)) for n in _PLAN_FIELDS})


_PLAN_FIELDS: Final = [f.name for f in fields(Plan) if f.name not in ("keep", "ranked")]


def checked_recipe(found: object) -> Recipe:
    """Return what was found if it is a recipe.

    Raises:
        RecipeError: for anything else, such as a dict of a recipe's fields.
    """
    if not isinstance(found, Recipe):
        raise RecipeError(f"expected a Recipe, got a {type(found).__name__}: write Recipe(sparsity=0.8, bits=4)")
    return found


def _why_none(pattern: str, others: Mapping[str, str]) -> str:
    """Return why the first of these names that a pattern matches is no layer of its own."""
    return next((f": {quoted(name)} {why}" for name, why in others.items() if layer_matches(pattern, name)), "")


def _nearest_layers(pattern: str, names: Iterable[str]) -> str:
    labels = [layer_label(name) for name in names]
    return nearest(pattern, labels) or f"; the layers are {_some(labels)}"


def _some(names: Sequence[str]) -> str:
    """Return a few of the names as a list to read."""
    return ", ".join(map(quoted, names[:_SOME])) + (f" and {len(names) - _SOME:,} more" if len(names) > _SOME else "")


def layer_label(name: str) -> str:
    """Return the name of a layer as people say it: ``"conv1.weight"`` is "conv1"."""
    return name.removesuffix(".weight")


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
    places: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        for one in {name, layer_label(name)}:
            places.setdefault(one, []).append(i)
    globs = [pattern for pattern in patterns if _is_glob(pattern)]
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


def pattern_sparsity(pattern: object) -> float:
    """Return the sparsity a pattern fixes, 1 − n/m; 0 for an unstructured one (and for what is no pattern)."""
    if pattern not in PATTERNS or pattern == "unstructured":
        return 0.0
    n, m = n_of_m(str(pattern))
    return 1 - n / m


def n_of_m(pattern: str) -> tuple[int, int]:
    """Return (n, m) of an n:m pattern, which keeps n of every m neighbours."""
    n, m = map(int, pattern.split(":"))
    return n, m


def canonical_json(value: object) -> str:
    """Return JSON text without spaces whose numbers JavaScript's ``JSON.stringify`` would write the same way."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{canonical_json(str(k))}:{canonical_json(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)


_RANGES: Final = ("auto", "absmax", "mse")
_LAYER_FIELDS: Final = ("sparsity", "bits", "pattern", "granularity", "grid", "symmetric", "range")
_CHOICES: Final[dict[str, tuple[object, ...]]] = {
    "scope": ("global", "layer"),
    "pattern": PATTERNS,
    "criterion": ("magnitude", "random"),
    "grid": ("linear", "codebook"),
    "bits": BITS,
    "kept_bits": (16, 32),
}


def _known(given: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for name in given:
        if name not in (known := list(known)):
            raise RecipeError(
                f"{where} has no field {quoted(name)}{nearest(str(name), known) or '.'} Its fields: {', '.join(known)}"
            )


def _checked(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values with numbers normalised, or raise for the first one that cannot be."""
    checked = {name: _check(name, value, where) for name, value in values.items() if name != "layers"}
    pattern, sparsity = checked.get("pattern", "unstructured"), checked.get("sparsity")
    if pattern != "unstructured" and sparsity not in (None, pattern_sparsity(pattern)):
        raise RecipeError(
            f"{where}: pattern {pattern!r} fixes the sparsity at {pattern_sparsity(pattern):g}, got {sparsity:g}; "
            f"leave sparsity out, or use pattern='unstructured'"
        )
    return checked


def _check(name: str, value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()  # sweeps are written with np.linspace and np.arange
    if name in _CHOICES:
        return _check_choice(name, value, where)
    if name == "sparsity":
        return _check_sparsity(value, where)
    if name == "granularity":
        return _check_granularity(value, where)
    if name == "range":
        return _check_range(value, where)
    if name == "symmetric" and not isinstance(value, bool):
        raise RecipeError(f"{where}(symmetric={quoted(value)}) must be True or False")
    if name == "seed" and not (_whole(value) and 0 <= value < 2**53):
        raise RecipeError(f"{where}(seed={quoted(value)}) must be a whole number from 0 to 2^53 - 1")
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _check_choice(name: str, value: Any, where: str) -> Any:
    choices, value = _CHOICES[name], _whole_if_it_is(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or value not in choices:
        hint = nearest(str(value), (choice for choice in choices if isinstance(choice, str)))
        if isinstance(value, str) and value in map(str, choices):
            hint = f"; did you mean {value}?"
        raise RecipeError(f"{where}({name}={quoted(value)}) must be one of {', '.join(map(repr, choices))}{hint}")
    return value


def _check_sparsity(value: Any, where: str) -> float:
    if not (_number(value) and 0 <= value < 1):
        hint = f"; for {value} % write {value / 100:g}" if _number(value) and 1 <= value < 100 else ""
        raise RecipeError(f"{where}(sparsity={quoted(value)}) must be a fraction, 0 <= sparsity < 1{hint}")
    return float(value)


def _whole_if_it_is(value: Any) -> Any:
    """Return 4 for 4.0, as JSON from elsewhere may write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_granularity(value: Any, where: str) -> Granularity:
    value = _whole_if_it_is(value)
    if value in ("tensor", "channel") or (_whole(value) and 2 <= value <= MAX_GROUP):
        return cast(Granularity, value)
    hint = nearest(str(value), ("tensor", "channel"))
    raise RecipeError(
        f"{where}(granularity={quoted(value)}) must be 'tensor', 'channel' or a group size from 2 to {MAX_GROUP}{hint}"
    )


def _check_range(value: Any, where: str) -> Range:
    if value in _RANGES:
        return cast(Range, value)
    if _number(value) and 50 < value <= 100:
        return float(value)
    raise RecipeError(
        f"{where}(range={quoted(value)}) must be 'auto', 'absmax', 'mse' or a percentile above 50 and up to 100"
        f"{nearest(str(value), _RANGES)}"
    )


def _checked_layers(layers: Any) -> dict[str, Override]:
    if not isinstance(layers, Mapping):
        raise RecipeError(f"Recipe(layers=…) must be a dict of overrides by layer name, got {type(layers).__name__}")
    return {_checked_name(name): _checked_override(name, value) for name, value in layers.items()}


def _checked_name(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise RecipeError(f"Recipe(layers=…) has the key {quoted(name)}; expected a layer's name or a pattern")
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        raise RecipeError(
            f"Recipe(layers=…) has the key {quoted(name)}, half of a surrogate pair, which no file can hold"
        )
    return name


def _checked_override(name: str, value: Any) -> Override:
    if isinstance(value, _Keep):
        return Keep
    where = f"the override of {quoted(name)}"
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} must be Keep or a dict such as dict(bits=8), got {quoted(value)}")
    _known(value, _LAYER_FIELDS, where)
    checked = _checked(value, where)
    return MappingProxyType({field_name: checked[field_name] for field_name in _LAYER_FIELDS if field_name in checked})
