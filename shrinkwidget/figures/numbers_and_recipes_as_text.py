"""Numbers and recipes as people read them: always with a unit, never with more digits than tell.

The page writes the same (``js/charts/number-format.ts``, ``js/charts/score-format.ts``,
``js/explorer/recipe-label.ts``): the vectors in
``tests/vectors`` hold the two together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any, Final, cast

from ..analysis import model_summary
from ..analysis.model_summary import fixed
from ..errors import layer_label
from ..recipe_and_method_registry import PLAIN, Keep, Recipe, Role, canonical_json, sparsity_by_tag

_SPACE: Final = "\N{NARROW NO-BREAK SPACE}"
_PERCENT: Final = f"{_SPACE}%"
_CLIPPED: Final[dict[object, str]] = {"absmax": "full range", "mse": "least error"}
_NAMED_OVERRIDES: Final = 2
"""So many overrides are named one by one in a label; more are counted, and told apart by a checksum."""


def bytes_text(value: float) -> str:
    """Return bytes with a decimal unit, kB = 1000 B: "72.8 kB"."""
    return model_summary.bytes_text(math.floor(value + 0.5)).replace(" ", _SPACE)


def bytes_tick_text(value: float) -> str:
    """Return a round number of bytes on an axis, without digits it does not need: "50 kB"."""
    return re.sub(r"\.0+(?=\D)", "", bytes_text(value))


def times_text(ratio: float) -> str:
    """Return how many times smaller: "14.9×"."""
    return f"{math.floor(ratio + 0.5):,}×" if ratio >= 99.5 else f"{fixed(ratio, 1 if ratio >= 9.95 else 2)}×"


def share_text(fraction: float) -> str:
    """Return a fraction as a percentage that never rounds up to all or down to nothing: 0.9997 is "> 99.9 %"."""
    if fraction <= 0 or fraction >= 1:
        return f"{'100' if fraction >= 1 else '0'}{_PERCENT}"
    # "100 % pruned" of a layer in which a weight is left would be untrue, and so would "0 %".
    if fraction < 0.001:
        return f"<{_SPACE}0.1{_PERCENT}"
    if fraction > 0.999:
        return f">{_SPACE}99.9{_PERCENT}"
    return f"{fixed(100 * fraction, 1 if math.floor(100 * fraction + 0.5) in (0, 100) else 0)}{_PERCENT}"


def percent_digit_text(fraction: float) -> str:
    """Return a fraction as a percentage with one digit after the point: "93.0 %"."""
    return f"{fixed(100 * fraction, 1)}{_PERCENT}"


def weight_text(value: float) -> str:
    """Return a weight's value with as many digits as tell it apart: "0.11", with a real minus sign."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e5:
        text = significant(value, 3)
    else:
        mantissa, _, exponent = f"{_rounded(value, 2):.1e}".partition("e")
        text = f"{mantissa}e{int(exponent):+d}"
    return text.replace("-", "\N{MINUS SIGN}")


def significant(value: float, digits: int) -> str:
    """Return a number with so many significant digits at most, written as in JavaScript: "1.05", "12350", "1e-7"."""
    rounded = float(_rounded(value, digits))
    if rounded == 0:
        return "0"
    if 1e-6 <= abs(rounded) < 1e21:
        # JavaScript writes plain digits from 1e-6 up to 1e21, Python from 1e-4 up to 1e16.
        return f"{Decimal(repr(rounded)):f}".removesuffix(".0")
    mantissa, _, exponent = repr(rounded).partition("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent):+d}"


def _rounded(value: float, digits: int) -> Decimal:
    return Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(Decimal(value))


def decibels_text(value: float) -> str:
    """Return a signal-to-noise ratio: "18.2 dB", and "exact" where nothing was lost."""
    if math.isfinite(value):
        return f"{fixed(value, 1)}{_SPACE}dB"
    return "exact" if value > 0 else "–"


def value_text(value: float, percent: bool) -> str:
    """Return a score in its metric's own unit: shares as percentages."""
    return f"{fixed(100 * value, 1)}{_PERCENT}" if percent else significant(value, 4)


def tick_text(value: float, percent: bool) -> str:
    """Return a round score on an axis: "95 %", not "95.0 %"."""
    return re.sub(r"\.0(?=\D)", "", value_text(value, percent))


def direction_text(percent: bool, higher: bool | None) -> str:
    """Return which way a metric is better; nothing of a share that is better when higher, as an accuracy is."""
    if higher is None:
        return "which way is better is not known"
    if percent and higher:
        return ""
    return "higher is better" if higher else "lower is better"


def holds_up(higher: bool | None, value: float, worst: float | None, dense: float | None) -> bool:
    """Return whether a score holds what the dense model reaches: no worse than the worse end of the dense interval."""
    bound = dense if worst is None else worst
    if bound is None or higher is None:
        return False
    return value >= bound if higher else value <= bound


def interval_text(low: float | None, high: float | None, percent: bool) -> str:
    """Return a 95 % interval as it was computed, its lower and its upper end: "98.4–100.0 %"; "" if there is none."""
    if low is None or high is None or not math.isfinite(high - low):
        return ""
    if percent:
        return f"{fixed(100 * low, 1)}–{value_text(high, percent)}"
    return f"{value_text(low, percent)}{' to ' if min(low, high) < 0 else '–'}{value_text(high, percent)}"


def prediction_text(
    predicted: float, value: float | None, low: float | None, high: float | None, percent: bool, running: bool = False
) -> str:
    """Return a prediction held against the score: "you said 80 %, it is 41.9 %: 38.1 points off"."""
    said = f"you said {tick_text(predicted, percent)}"
    if value is None or running:
        return said if value is None else f"{said}, it is {value_text(value, percent)} so far"
    off = abs(predicted - value)
    by = f"{fixed(100 * off, 1)} points" if percent else value_text(off, percent)
    inside = low is not None and high is not None and low <= predicted <= high
    sure = ", inside the 95\N{NO-BREAK SPACE}% interval" if inside else ""
    return f"{said}, it is {value_text(value, percent)}: {by} off{sure}"


def compared_size_text(ratio: float) -> str:
    """Return how a file compares with the dense one: "14.9× smaller", "3.70× larger", "as large"."""
    if times_text(ratio) == "1.00×":
        return "as large"
    return f"{times_text(ratio)} smaller" if ratio > 1 else f"{times_text(1 / ratio)} larger"


def estimated_text(exact: bool, text: str) -> str:
    """Return a figure that is only estimated with its sign: "≈ 72.8 kB"."""
    return text if exact else f"≈{_SPACE}{text}"


def estimated_decibels_text(exact: bool, value: float) -> str:
    """Return a signal-to-noise ratio that may be estimated; where nothing was lost there is nothing to estimate."""
    return estimated_text(exact or value == math.inf, decibels_text(value))


def dead_text(names: Iterable[str]) -> str:
    """Return what is to say of layers of which nothing is left: "fc1: all weights pruned"; "" if there are none."""
    dead = list(names)
    if not dead:
        return ""
    if len(dead) > 3:
        return f"{', '.join(dead[:2])} and {len(dead) - 2} more layers: all weights pruned"
    return f"{', '.join(dead)}: all weights pruned"


def percent_text(fraction: float) -> str:
    """Return a chosen fraction with the digits it was given: "80 %", "99.25 %"."""
    return f"{_without_noise(100 * fraction)}{_PERCENT}"


def _without_noise(value: float) -> str:
    """Return a number with eight significant digits at most, as a person would type it."""
    return significant(value, 8)


def recipe_sentence(recipe: Recipe) -> str:
    """Return a recipe in words: "80 % sparse (global) · 4 bits, scale per channel"."""
    words = [_pruning(recipe), _rounding(recipe)]
    if recipe.uncompressed_bits == 16:
        words.append("the rest in 16 bits")
    if recipe.layers:
        words.append(_overrides(recipe))
    return " · ".join(words)


def recipe_label(recipe: Recipe) -> str:
    """Return a recipe in a few words, for the label of a point: "80 %, 4 bits"; two that differ never read the same.

    The page says the same (``js/explorer/recipe-label.ts``): the vectors hold the two together.
    """
    # From the text and not the object: what it leaves out goes without saying, and whatever else it says must show.
    text = recipe.to_json()
    fields = json.loads(text)
    layers = fields.pop("layers", {})
    for name in ("format", "version", "sparsity", "bits", "structure"):
        fields.pop(name, None)
    kind, pruning = recipe.structure.kind, percent_text(recipe.sparsity)
    if kind != PLAIN["structure"]:  # "2:4" says how much is pruned, and any other structure does not
        pruning = kind if sparsity_by_tag(recipe.structure) else f"{pruning} {kind}"
    bits = _bits(recipe.bits)
    if len(layers) > _NAMED_OVERRIDES:  # as a plan has: what they span
        fields.pop("scope", None)  # each layer has its own sparsity anyway
        own = [override for override in layers.values() if not isinstance(override, str)]
        if kind == PLAIN["structure"]:
            shares = _span([recipe.sparsity, *(each["sparsity"] for each in own if "sparsity" in each)])
            pruning = f"{'–'.join(_without_noise(100 * share) for share in shares)}{_PERCENT}"
        widths = _span([recipe.bits, *(each["bits"] for each in own if "bits" in each)])
        bits = _bits(recipe.bits) if len(widths) == 1 else f"{widths[0]}–{widths[1]} bits"
        named = [f"{len(layers)} layers ({_checksum(text)})"]
    else:
        named = [_override(name, override) for name, override in layers.items()]
    return ", ".join([pruning, bits, *(_field(name, value) for name, value in fields.items()), *named])


def _span(values: Sequence[float]) -> list[float]:
    """Return the least and the largest, or the one value there is."""
    return sorted({min(values), max(values)})


def _override(name: str, override: str | dict[str, Any]) -> str:
    if isinstance(override, str):
        return f"{name} uncompressed"
    return f"{name} ({', '.join(_field(field, value) for field, value in override.items())})"


def _field(name: str, value: Any) -> str:
    """Return one field that is not at its default."""
    match name, value:
        case "sparsity", _:
            return percent_text(value)
        case "bits", _:
            return _bits(value)
        case "scope", "layer":
            return "each layer"
        case "granularity", _:
            return f"scale per {value}" if isinstance(value, str) else f"groups of {value}"
        case "scope", "channel":
            return "each channel"
        case "uncompressed_bits", _:
            return f"the rest {_bits(value)}"
        case "channels", _:
            return f"{percent_text(value)} of the channels"
        case "multiple", _:
            return f"multiples of {value}"
        case "channel_scope", _:
            return "channels ranked together"
        case "importance" | "quantizer" | "structure", _:
            return _kind(name, value)
    return _setting(name, value)


def _kind(role: str, value: str | dict[str, Any]) -> str:
    """Return a kind by its tag, unless that goes without saying, and its settings."""
    kind, settings = (value, {}) if isinstance(value, str) else (value["kind"], value)
    words = [kind] if kind != PLAIN[cast(Role, role)] or not settings else []
    return ", ".join([*words, *(_setting(name, own) for name, own in settings.items() if name != "kind")])


def _setting(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"not {name}"
    if isinstance(value, float | int):
        return f"{name} {_without_noise(value)}"
    return f"{name} {value}" if isinstance(value, str) else f"{name} ({_checksum(canonical_json(value))})"


def _checksum(text: str) -> str:
    """Return four hexadecimal digits that tell one text from another (FNV-1a of its UTF-8)."""
    # Not Python's hash, which differs between processes and from the page's. 16 bits tell a handful of labels apart.
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:08x}"[:4]


def _bits(bits: int) -> str:
    return f"{bits} bit{'s' if bits > 1 else ''}"


def _pruning(recipe: Recipe) -> str:
    weights = _pruned_weights(recipe)
    if not recipe.removes_channels:
        return weights
    # layers may have a fraction of their own beside that of all others
    gone = f"{percent_text(recipe.channels)} of the channels removed" if recipe.channels else "some channels removed"
    return gone if recipe.sparsity == 0 and recipe.structure.sparsity is None else f"{gone}, then {weights}"


def _pruned_weights(recipe: Recipe) -> str:
    importance = recipe.importance
    how = "" if importance.kind == PLAIN["importance"] else f" by {importance.label}"
    how = " at random" if importance.kind == "random" else how
    if recipe.structure.sparsity is not None:
        return f"{recipe.structure.kind} sparse{how}"
    if recipe.sparsity == 0:
        return "nothing pruned"
    where = "global" if recipe.scope == "global" else f"each {recipe.scope}"
    return f"{percent_text(recipe.sparsity)} sparse{how} ({where})"


def _rounding(recipe: Recipe) -> str:
    if recipe.bits > 8:
        return _bits(recipe.bits)
    quantizer = recipe.quantizer
    if quantizer.has_codebook:
        return f"codebook of {2**recipe.bits} values"
    group = recipe.granularity if isinstance(recipe.granularity, str) else f"{recipe.granularity} weights"
    plain = quantizer.kind == PLAIN["quantizer"]
    words = [_bits(recipe.bits), *([] if plain else [quantizer.label]), f"scale per {group}"]
    if recipe.bits > 1:
        for name, value in quantizer.changed().items():
            words.append(_CLIPPED.get(value) or _setting(name, value) if name == "clipping" else _setting(name, value))
    return ", ".join(words)


def _overrides(recipe: Recipe) -> str:
    if len(recipe.layers) > 1:
        return f"{len(recipe.layers)} overrides"
    ((name, override),) = recipe.layers.items()
    return f"{layer_label(name)} {'left uncompressed' if override is Keep else 'in its own way'}"
