"""Which tensors of a quantized checkpoint are scales, zero points and indices: numbers that decode others.

Nothing in a state dict says so, and every toolkit has names of its own: ``weight_scale`` beside an int8 ``weight``
(compressed-tensors), ``scales`` and ``qzeros`` beside an int32 ``qweight`` (GPTQ, AWQ), ``weight_scale_inv`` beside a
float8 ``weight`` (DeepSeek), ``weight.absmax`` of a uint8 ``weight`` (bitsandbytes), ``_scale`` by ``_data`` (quanto).
Common to all is a tensor of small integers or float8 of the same stem. A pruned scale would make its whole row zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Final, TypeAlias

import torch

_STORED_AS: Final = tuple(
    getattr(torch, name)
    for name in (
        *("int8", "uint8", "int16", "uint16", "int32", "uint32", "float4_e2m1fn_x2"),
        *("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
    if hasattr(torch, name)
)
"""The dtypes of quantized weights. Not int64 and bool: those are indices and masks, of ordinary models too."""

_PART: Final = re.compile(
    r"(^|_)(q?scales?|scale_?(inv|\d|max)|q?zeros?|zero_?points?|g_idx|absmax|quant_?(map|state)|scb|codebooks?"
    r"|lookup_table|centroids|shape)$",
    re.IGNORECASE,
)
_NO_WEIGHTS: Final = re.compile(r"ind(ex|ices)|idx|ids|position|mask|bias|bucket|coord|len|step|batches", re.IGNORECASE)
_FEWER: Final = 4  # times fewer numbers than quantized weights has what decodes them, if only its place says so
_BOUNDARIES: Final = 6  # of a name that are tried as the end of another's: "weight.quant_state.bitsandbytes__nf4"

Described: TypeAlias = tuple[str, tuple[int, ...], torch.dtype]


def quantization_parts(tensors: Collection[Described]) -> dict[str, str]:
    """Return the names of all scales, zero points and indices, each with the name of the tensor it belongs to.

    Args:
        tensors: (name, shape, dtype) of every tensor of a model.
    """
    sizes = {name: math.prod(shape) for name, shape, _ in tensors}
    stored = {name: shape for name, shape, dtype in tensors if dtype in _STORED_AS and sizes[name] > 1}
    siblings: dict[str, list[str]] = {}
    for name in stored:
        siblings.setdefault(_split(name)[0], []).append(name)
    weights = {owner: _weights(names, stored, sizes) for owner, names in siblings.items()}
    parts = {}
    for name, shape, _ in tensors:
        owner, leaf = _split(name)
        above, last = _split(owner)
        beside = weights.get(owner, "")
        of = _stem(name, stored) or _stem_of_floats(name, leaf, sizes)
        if not of and beside and _PART.search(leaf) and (owner or (len(shape) >= 2 and sizes[name] > 1)):
            of = beside
        if not of and _PART.search(last):  # "centroids.weight", "weight_quantizer.scale"
            of = weights.get(above, "")
        if not of and owner and _is_weights(beside) and name not in stored and leaf != "bias":
            of = beside if _FEWER * sizes[name] <= sizes[beside] else ""  # whatever it is called
        if of and of != name:
            parts[name] = of
    return parts


def _split(name: str) -> tuple[str, str]:
    """Return what a tensor's name says of its module, and its own name there."""
    at = max(name.rfind("."), name.rfind("/"))
    return (name[:at], name[at + 1 :]) if at >= 0 else ("", name)


def _weights(names: list[str], stored: dict[str, tuple[int, ...]], sizes: dict[str, int]) -> str:
    """Return the quantized weights among the integer tensors of one module: the largest, if possible no part itself."""
    wide = [n for n in names if len(stored[n]) >= 2]
    return max([n for n in wide if _is_weights(n)] or wide, key=sizes.__getitem__, default="")


def _is_weights(name: str) -> bool:
    """Tell whether a name may be that of quantized weights, and not of indices, masks, or parts of others."""
    leaf = _split(name)[1]
    return bool(leaf) and not _NO_WEIGHTS.search(leaf) and not _PART.search(leaf)


def _stem(name: str, stored: dict[str, tuple[int, ...]]) -> str:
    """Return the quantized weights that the name goes on from: "weight" of "weight_scale" and "weight.absmax"."""
    end = len(name)
    for _ in range(_BOUNDARIES):
        end = max(name.rfind(".", 0, end), name.rfind("_", 0, end))
        if end <= 0:
            break
        stem = name[:end]
        if stem in stored and len(stored[stem]) >= 2 and _is_weights(stem):
            return stem
    return ""


def _stem_of_floats(name: str, leaf: str, sizes: dict[str, int]) -> str:
    """Return the float weights that a name says it is the scale of, as fake-quantized checkpoints have them."""
    found = re.fullmatch(r"(.*[^_])_(scales?|scale_inv|zero_?points?)", leaf)
    stem = name[: len(name) - len(leaf)] + found[1] if found else ""
    return stem if found and sizes.get(stem, 0) > sizes[name] else ""
