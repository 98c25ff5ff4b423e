"""Finds, in whatever a model returns, the tensor that predicts the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final, NoReturn, TypeAlias

from torch import Tensor

from ..analysis.run_without_side_effects import describe
from ..errors import DataError

Place: TypeAlias = str | int
"""Where a tensor is in a model's outputs: a key or attribute, or a place in a tuple."""

Fit: TypeAlias = Callable[[Tensor], int]
"""How well a tensor may predict the targets: 0 it cannot, 1 it can, 2 it is of just their kind."""

_NAMES: Final = ("logits", "out")  # Hugging Face's name, and torchvision's


def no_nan(values: Tensor, name: str = "") -> Tensor:
    """Return the values, or raise a `DataError` if one is NaN, naming the metric that made them."""
    if bool(values.isnan().any()):
        raise DataError(f"the metric {name!r} returned NaN" if name else "the outputs or the targets hold NaN")
    return values


def parts(output: Any) -> dict[Place, Any]:
    """Return what a model returned by key, by attribute or by place: a tensor has the only place 0."""
    if isinstance(output, Tensor):
        return {0: output}
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    named = {name: getattr(output, name, None) for name in (*_NAMES, "loss")}
    return named | getattr(output, "__dict__", {})


def tensors(output: Any) -> dict[Place, Tensor]:
    """Return the tensors of what a model returned that have a batch dimension; a loss has none."""
    return {place: part for place, part in parts(output).items() if isinstance(part, Tensor) and part.ndim}


def own_loss(output: Any) -> float | None:
    """Return the loss a model computed itself: what it calls so, or a scalar at the head of a tuple."""
    found = parts(output)
    loss = found.get("loss", found.get(0))
    if isinstance(loss, Tensor) and (loss.ndim == 0 or (loss.ndim == 1 and "loss" in found)):
        return float(loss.detach().mean())  # a parallel model gives one for each device
    return None


def only_prediction(output: Any) -> Tensor | None:
    """Return the tensor that predicts, whatever the targets are; None where they would have to tell."""
    found = tensors(output)
    named = next((found[name] for name in _NAMES if name in found), None)
    return named if named is not None or len(found) != 1 else next(iter(found.values()))


def find_prediction(output: Any, fit: Fit, targets: Tensor) -> list[Place]:
    """Return the places of the tensors that may predict the targets: one, unless nothing tells several apart.

    It is the output itself, or what is called ``logits`` or ``out``, or the only tensor with a batch dimension. Of
    several, those that fit the targets best.

    Raises:
        DataError: if there is none.
    """
    found = tensors(output)
    for name in _NAMES:
        if name in found:
            return [name]
    if not found:
        what = describe(output)
        if isinstance(output, tuple | list):
            what += f" of {', '.join(map(describe, output)) or 'nothing'}"
        raise DataError(
            f"the model returned {what}; expected a tensor of N×…, or logits; else pass a function as metric"
        )
    if len(found) == 1:
        return list(found)
    ranks = {place: fit(tensor) for place, tensor in found.items()}
    best = max(ranks.values())
    if not best:
        raise DataError(f"of what the model returned ({_listed(found)}) nothing fits the targets, {describe(targets)}")
    return [place for place, rank in ranks.items() if rank == best]


def refuse_ambiguous(output: Any, places: Sequence[Place]) -> NoReturn:
    """Raise a `DataError` for several tensors that fit equally well."""
    found = tensors(output)
    raise DataError(
        f"the model returned several tensors that fit the targets ({_listed({p: found[p] for p in places})}): "
        f"let it return one of them, or under the name 'logits'; or pass functions of (outputs, targets) "
        f"as metric and as loss"
    )


def _listed(found: Mapping[Place, Tensor]) -> str:
    return ", ".join(f"{place!r} {describe(tensor)}" for place, tensor in found.items())


def fits_values(targets: Tensor) -> Fit:
    """Return the fit of a regression: the targets' shape, and N×1 fits N."""

    def fit(tensor: Tensor) -> int:
        same = tensor.numel() == targets.numel() and len(tensor) == len(targets)
        return 2 if same and _squeezed(tensor) == _squeezed(targets) else 0

    return fit


def paired_values(found: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prediction of a regression and the targets, both of the prediction's shape and on its device.

    Raises:
        DataError: for shapes that do not fit; N×1 fits N.
    """
    if not fits_values(targets)(found):
        raise DataError(f"outputs are {describe(found)}, targets {describe(targets)}; expected the same shape")
    return found, targets.to(found.device).reshape(found.shape)


def _squeezed(tensor: Tensor) -> list[int]:
    """Return the sizes that count, so that N×1 fits N but N×2×3 does not fit N×3×2."""
    return [size for size in tensor.shape[1:] if size != 1]
