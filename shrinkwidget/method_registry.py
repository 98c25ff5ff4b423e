"""Kinds: what an importance, a structure and a quantizer have to do, and the register of those there are.

A kind is one small frozen dataclass. Its fields are its settings, its tag stands for it in recipes and files, and its
methods do the work, so that a new one is one module and ``@register``; nothing else in the package tests for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, TypeAlias, TypeVar

from .argument_checks import checked_fields, meant, plain
from .errors import MethodError, RecipeError, ShrinkError, nearest, quoted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .analysis.pruning_estimate import PruningOutcome
    from .analysis.sketch import LayerSketch
    from .compression.encode_and_decode_layer import Grid, LayerWeights, Piece
    from .evaluation.calibration import CalibrationRun
    from .recipe import Plan

Role: TypeAlias = Literal["importance", "structure", "quantizer"]
ROLES: Final[tuple[Role, ...]] = ("importance", "structure", "quantizer")
PLAIN: Final[Mapping[Role, str]] = {"importance": "magnitude", "structure": "unstructured", "quantizer": "uniform"}
"""The kind of each role that a recipe has where it says nothing."""


# ----------------------------------------------------------------------------------------------- controls of settings


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


# ------------------------------------------------------------------------------------------------------ what kinds are


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


# --------------------------------------------------------------------------------------------------------- the register

K = TypeVar("K", bound=Kind)
_REGISTER: Final[dict[Role, dict[str, Callable[[], Kind]]]] = {role: {} for role in ROLES}
_CLASSES: Final[dict[type[Kind], None]] = {}
_OWN_KINDS: Final = (".compression.importances", ".compression.sparsity_structures", ".compression.quantizers")
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
