"""Numbers and recipes as people read them: always with a unit, never with more digits than tell."""

from __future__ import annotations

import json
import math
from typing import Any, Final

from ..measure import size_table
from ..recipe import Keep, Recipe, layer_label

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_PERCENT: Final = "\N{NARROW NO-BREAK SPACE}%"
_RANGES: Final[dict[object, str]] = {"absmax": "full range", "mse": "least error"}
_NAMED_OVERRIDES: Final = 2
"""So many overrides are named one by one in a label; more are counted, and told apart by a checksum."""


def bytes_text(value: float) -> str:
    """Return bytes with a decimal unit, kB = 1000 B: "72.8 kB"."""
    return size_table.bytes_text(round(value)).replace(" ", "\N{NARROW NO-BREAK SPACE}")


def round_bytes_text(value: float) -> str:
    """Return a round number of bytes without digits it does not need: "50 kB"."""
    unit = min(len(_UNITS) - 1, int(math.log10(max(value, 1.0)) / 3))
    return f"{value / 1000**unit:g}\N{NARROW NO-BREAK SPACE}{_UNITS[unit]}"


def times_text(ratio: float) -> str:
    """Return how many times smaller: "14.9×"."""
    return f"{round(ratio):,}×" if ratio >= 99.5 else f"{ratio:.1f}×" if ratio >= 9.95 else f"{ratio:.2f}×"


def share_text(fraction: float) -> str:
    """Return a fraction as a percentage that never rounds up to all or down to nothing: 0.9997 is "99.9 %"."""
    if fraction in (0, 1):
        return f"{100 * fraction:.0f}{_PERCENT}"
    if round(100 * fraction) in (0, 100):
        return f"{100 * min(0.999, max(0.001, fraction)):.1f}{_PERCENT}"
    return f"{100 * fraction:.0f}{_PERCENT}"


def weight_text(value: float) -> str:
    """Return a weight's value with as many digits as tell it apart: "0.11", with a real minus sign."""
    if value == 0:
        return "0"
    text = f"{value:.1e}" if not 1e-4 <= abs(value) < 1e5 else f"{float(f'{value:.3g}'):g}"
    return text.replace("-", "\N{MINUS SIGN}")


def decibels_text(value: float) -> str:
    """Return a signal-to-noise ratio: "18.2 dB", and "exact" where nothing was lost."""
    return f"{value:.1f}\N{NARROW NO-BREAK SPACE}dB" if math.isfinite(value) else "exact"


def value_text(value: float, percent: bool) -> str:
    """Return a score in its metric's own unit: shares as percentages."""
    return f"{100 * value:.1f}{_PERCENT}" if percent else f"{value:.4g}"


def direction_text(percent: bool, higher: bool) -> str:
    """Return which way a metric is better; nothing of a share that is better when higher, as an accuracy is."""
    if percent and higher:
        return ""
    return "higher is better" if higher else "lower is better"


def percent_text(fraction: float) -> str:
    """Return a chosen fraction with the digits it was given: "80 %", "99.25 %"."""
    return f"{_without_noise(100 * fraction)}{_PERCENT}"


def _without_noise(value: float) -> str:
    """Return a number with eight significant digits at most, as a person would type it."""
    return f"{value:.8g}"


def interval_text(low: float | None, high: float | None, percent: bool) -> str:
    """Return a 95 % interval as it was computed, its lower and its upper end: "98.4–100.0 %"; "" if there is none."""
    if low is None or high is None or not math.isfinite(high - low):
        return ""
    if percent:
        return f"{100 * low:.1f}–{value_text(high, percent)}"
    return f"{value_text(low, percent)}{' to ' if min(low, high) < 0 else '–'}{value_text(high, percent)}"


def compared_size_text(ratio: float) -> str:
    """Return how a file compares with the dense one: "14.9× smaller", "3.70× larger", "as large"."""
    if times_text(ratio) == "1.00×":
        return "as large"
    return f"{times_text(ratio)} smaller" if ratio > 1 else f"{times_text(1 / ratio)} larger"


def recipe_words(recipe: Recipe) -> str:
    """Return a recipe in words: "80 % sparse (global) · 4 bits, scale per channel"."""
    words = [_pruning(recipe), _rounding(recipe)]
    if recipe.kept_bits == 16:
        words.append("the rest in 16 bits")
    if recipe.layers:
        words.append(_overrides(recipe))
    return " · ".join(words)


def short_words(recipe: Recipe) -> str:
    """Return a recipe in a few words, for the label of a point: "80 %, 4 bits"; two that differ never read the same.

    The page says the same (``js/explorer/words.ts``): the vectors hold the two together.
    """
    text = recipe.to_json()
    fields = json.loads(text)
    layers = fields.pop("layers", {})
    for name in ("format", "version", "sparsity", "bits", "pattern"):
        fields.pop(name, None)
    pruning = percent_text(recipe.sparsity) if recipe.pattern == "unstructured" else recipe.pattern
    words = [pruning, _bits(recipe.bits), *(_field(name, value) for name, value in fields.items())]
    if len(layers) > _NAMED_OVERRIDES:
        words.append(f"{len(layers)} layers of their own ({_checksum(text)})")
    else:
        words += [_override(name, override) for name, override in layers.items()]
    return ", ".join(words)


def _override(name: str, override: str | dict[str, Any]) -> str:
    if isinstance(override, str):
        return f"{name} kept"
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
        case "symmetric", _:
            return "symmetric" if value else "asymmetric"
        case "range", _:
            return f"range {value}" if isinstance(value, str) else f"{_without_noise(value)}{_PERCENT} range"
        case "kept_bits", _:
            return f"the rest {_bits(value)}"
        case "seed", _:
            return f"seed {value}"
    return f"{name} {_without_noise(value)}" if isinstance(value, float | int) else str(value)


def _checksum(text: str) -> str:
    """Return four hexadecimal digits that tell one text from another (FNV-1a of its UTF-8)."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return f"{value:08x}"[:4]


def _bits(bits: int) -> str:
    return f"{bits} bit{'s' if bits > 1 else ''}"


def _pruning(recipe: Recipe) -> str:
    how = "" if recipe.criterion == "magnitude" else " at random"
    if recipe.pattern != "unstructured":
        return f"{recipe.pattern} sparse{how}"
    if recipe.sparsity == 0:
        return "nothing pruned"
    where = "global" if recipe.scope == "global" else "each layer"
    return f"{percent_text(recipe.sparsity)} sparse{how} ({where})"


def _rounding(recipe: Recipe) -> str:
    if recipe.bits > 8:
        return _bits(recipe.bits)
    if recipe.grid == "codebook":
        return f"codebook of {2**recipe.bits} values"
    group = recipe.granularity if isinstance(recipe.granularity, str) else f"{recipe.granularity} weights"
    words = [_bits(recipe.bits), f"scale per {group}"]
    if recipe.symmetric and recipe.bits > 1:
        words.append("symmetric")
    if recipe.range != "auto" and recipe.bits > 1:
        words.append(_RANGES.get(recipe.range) or f"{recipe.range:g}{_PERCENT} range")
    return ", ".join(words)


def _overrides(recipe: Recipe) -> str:
    if len(recipe.layers) > 1:
        return f"{len(recipe.layers)} overrides"
    ((name, override),) = recipe.layers.items()
    return f"{layer_label(name)} {'kept as it is' if override is Keep else 'in its own way'}"
