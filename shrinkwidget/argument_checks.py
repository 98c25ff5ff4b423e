"""How public functions and classes take arguments: unknown names get the nearest known one, numpy numbers are fine."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial, wraps
from typing import Any, Final, TypeVar, cast

from .errors import ArgumentError, ShrinkError, folded, nearest, quoted

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_ALSO_CALLED: Final[Mapping[str, tuple[str, ...]]] = {
    "amount": ("sparsity",),
    "batch": ("batch_size",),
    "criterion": ("importance", "loss"),
    "data": ("eval_data", "train_data"),
    "dataset": ("train_data", "eval_data"),
    "epoch": ("epochs",),
    "example": ("train_data",),  # the first of it is one; and not `examples`, which is how many
    "kept_bits": ("uncompressed_bits",),
    "learning_rate": ("lr",),
    "n_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "optim": ("optimizer",),
    "test": ("eval_data",),
    "test_data": ("eval_data",),
    "train": ("train_data",),
    "train_loader": ("train_data",),
    "val_data": ("eval_data",),
    "val_loader": ("eval_data",),
    "valid_data": ("eval_data",),
}
"""What other libraries call our arguments, where spelling alone would not lead there."""

_LISTED: Final = 12
"""So many names are listed beside the nearest; more would bury it."""


def plain(value: Any) -> Any:
    """Return a number of numpy or torch (a scalar, an array without axes) as one of Python's, all else as it is.

    A short float becomes the shortest number that rounds to it, which is what was typed:

    >>> import numpy as np
    >>> plain(np.float32(0.9)), plain(np.int64(4)), plain("sgd")
    (0.9, 4, 'sgd')
    """
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    number = value.item()
    np = sys.modules.get("numpy")  # nobody has one of its numbers without it; Jupyter's server, for one, does without
    if np is not None and isinstance(value, np.generic | np.ndarray) and isinstance(number, float | np.floating):
        # numpy prints the shortest digits that give the same float32; item() would give 0.8999999761581421 for 0.9.
        return float(str(value))
    return number


def meant(found: object, choices: Iterable[str]) -> str | None:
    """Return the choice a name stands for whatever its case, hyphens and underscores; None if there is none.

    >>> meant("Fine-Tune", ["finetune", "gradual_pruning"])
    'finetune'
    """
    if not isinstance(found, str):
        return None
    choices = tuple(choices)
    return found if found in choices else next((c for c in choices if folded(c) == folded(found)), None)


def refuse_unknown(
    given: Iterable[object],
    known: Iterable[str],
    where: str,
    error: type[ShrinkError] = ArgumentError,
    what: str = "argument",
    hint: Callable[[str], str] | None = None,
) -> None:
    """Raise an error for the first name that is not known; it says the nearest, or a hint of the caller's."""
    known = list(dict.fromkeys(known))  # a setting that several kinds have is one name
    for name in given:
        if name not in known:
            usual = [quoted(other) for other in _ALSO_CALLED.get(str(name), ()) if other in known]
            # A near spelling first, then the caller's hint, then anything similar: `epohcs` is a typo of epochs
            # whatever else is known, but a name that is only remotely like one is better explained.
            near = f"; did you mean {' or '.join(usual)}?" if usual else nearest(str(name), known, cutoff=0.85)
            near = near or (hint(str(name)) if hint else "") or nearest(str(name), known, cutoff=0.6)
            listed = f" Its {what}s: {', '.join(known)}" if known else " It has none"
            if near and len(known) > _LISTED:
                listed = ""
            raise error(f"{where} has no {what} {quoted(name)}{near or '.'}{listed}")


def public(
    *,
    fields_of: Iterable[type] = (),
    also: Callable[[], Iterable[str]] = tuple,
    elsewhere: Mapping[type, str] | None = None,
) -> Callable[[F], F]:
    """Decorate a public function: refuse unknown keywords with the nearest name, and take numpy's numbers.

    Args:
        fields_of: the typed dicts of the function's ``**fields``; ``help`` and completion then show their keys, as if
            they were written out.
        also: returns more keywords that ``**fields`` takes by now, such as settings of kinds registered since.
        elsewhere: dataclasses whose fields may be taken for keywords, and how each field is written, "{}" for its name.
    """
    hint = partial(_written, elsewhere or {})
    more = {name: hinted for typed in fields_of for name, hinted in typed.__annotations__.items()}

    def decorate(function: F) -> F:
        shown = _expanded(inspect.signature(function), more)
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        known = [p.name for p in shown.parameters.values() if p.kind in by_name and p.name not in ("self", "cls")]

        @wraps(function)
        def checked(*args: Any, **given: Any) -> Any:
            if not set(given) <= set(known):
                refuse_unknown(given, [*known, *also()], f"{function.__name__}()", hint=hint)
            return function(*map(plain, args), **{name: plain(value) for name, value in given.items()})

        checked.__signature__ = shown  # type: ignore[attr-defined]
        return cast(F, checked)

    return decorate


def _written(elsewhere: Mapping[type, str], name: str) -> str:
    """Return how a keyword is written that is the field of a dataclass, or an empty text."""
    for owner, how in elsewhere.items():
        if name in (f.name for f in fields(cast(Any, owner))):
            return f": write {how.format(name)}."
    return ""


class _NotGiven:
    def __repr__(self) -> str:
        return "…"


def _expanded(signature: inspect.Signature, more: Mapping[str, Any]) -> inspect.Signature:
    """Return a signature with the fields of ``**fields`` written out."""
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    kind, left_out = inspect.Parameter.KEYWORD_ONLY, _NotGiven()
    written = [
        inspect.Parameter(name, kind, default=left_out, annotation=getattr(hinted, "__forward_arg__", hinted))
        for name, hinted in more.items()
    ]
    return signature.replace(parameters=[*own, *written])


def checked_fields(error: type[ShrinkError]) -> Callable[[type[T]], type[T]]:
    """Decorate a dataclass: refuse unknown fields with the nearest name, and take numpy's numbers."""

    def decorate(options: type[T]) -> type[T]:
        init, known = options.__init__, [f.name for f in fields(cast(Any, options)) if f.init]

        @wraps(init)
        def checked(self: T, *args: Any, **given: Any) -> None:
            refuse_unknown(given, known, options.__name__, error, "field")
            init(self, *map(plain, args), **{name: plain(value) for name, value in given.items()})

        options.__init__ = checked  # type: ignore[method-assign, assignment]  # its signature stays that of the fields
        return options

    return decorate
