"""The errors a user can meet: each says what was found, where, and what to do; and how names are written in them."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from itertools import islice
from typing import Any, Final

__all__ = [
    "ArgumentError",
    "DataError",
    "FigureError",
    "FileError",
    "MissingPackageError",
    "ModelError",
    "RecipeError",
    "ShrinkError",
    "TrainingError",
]


class ShrinkError(Exception):
    """Base of every error shrinkwidget raises on purpose.

    `best` is the `CompressedModel` with the best weights of a training that failed, None for all other errors.

    Example:
        >>> import shrinkwidget as sw
        >>> try:
        ...     sw.compress(sw.demo.model(), bits=0)
        ... except sw.errors.ShrinkError as error:
        ...     print(type(error).__name__)
        RecipeError
    """

    best: Any = None


class RecipeError(ShrinkError, ValueError):
    """Invalid recipe: an unknown name, a value out of range, a pattern that matches nothing.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(bits=9)
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.RecipeError: Recipe(bits=9) must be one of 1, 2, 3, 4, 5, 6, 7, 8, 16, 32
    """


class ModelError(ShrinkError, ValueError):
    """A model that cannot be sketched or compressed: NaN weights, meta tensors, nothing to compress.

    Example:
        >>> import shrinkwidget as sw
        >>> model = sw.demo.model()
        >>> model.stem.weight.data[0] = float("nan")
        >>> sw.compress(model, sparsity=0.5)
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.ModelError: layer 'stem.weight' has 9 weights that are NaN or infinite: ...
    """


class NoEstimateError(RecipeError):
    """A recipe that cannot be estimated from a sketch: one of its kinds has no estimate."""


class MethodError(ShrinkError, ValueError):
    """An importance or a quantizer that fails on a layer, lacks calibration data, or returns an invalid result."""


class FileError(ShrinkError, ValueError):
    """A file that cannot be read as what it claims to be, or does not fit the model it is loaded into.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.load("nowhere.safetensors")
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.FileError: there is no file 'nowhere.safetensors'
    """


class DataError(ShrinkError, ValueError):
    """Evaluation data or a metric that does not fit the model.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.demo.data("trian")
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.DataError: there is no split 'trian': take 'train', 'valid' or 'test'; did you mean 'train'?
    """


class FigureError(ShrinkError, ValueError):
    """A figure that cannot be drawn: an unknown kind, width or style, or data that shows nothing.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.figures.draw("tradeof", [])
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.FigureError: there is no figure 'tradeof'; did you mean 'tradeoff'...The kinds: ...
    """


class TrainingError(ShrinkError, ValueError):
    """Invalid training configuration (an option out of range), or a training that failed (a loss that is not finite).

    Example:
        >>> import shrinkwidget as sw
        >>> sw.methods.FineTune(epochs=0)
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.TrainingError: FineTune(epochs=0) must be a whole number from 1
    """


class ArgumentError(ShrinkError, TypeError):
    """A keyword that a function does not have, or arguments that contradict each other.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.retrain(sw.demo.model(), sw.demo.few(per_class=5), epocs=3)
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.ArgumentError: retrain() has no argument 'epocs'; did you mean 'epochs'?
    """


class MissingPackageError(ShrinkError, ImportError):
    """An optional package that is not installed: the message names the extra that brings it.

    Example:
        >>> import shrinkwidget as sw
        >>> raise sw.errors.MissingPackageError('sw.explore needs anywidget: pip install "shrinkwidget[jupyter]"')
        Traceback (most recent call last):
        ...
        shrinkwidget.errors.MissingPackageError: sw.explore needs anywidget: pip install "shrinkwidget[jupyter]"
    """


class Cancelled(ShrinkError):
    """Work that was told to stop, because something newer was asked for."""


_QUOTED: Final = 100
_MOST_COMPARED: Final = 5000
_NO_SEPARATORS: Final = str.maketrans("", "", "-_ ")


def quoted(value: object) -> str:
    """Return a name, a path or another value from outside as messages show it: in quotes, escaped, and not too long.

    What could forge or hide parts of a message is escaped: line breaks, escape codes of terminals, marks that turn the
    direction of reading, halves of surrogate pairs.

    >>> quoted("conv1\\x1b[2J")
    "'conv1\\\\x1b[2J'"
    """
    text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return text if len(text) <= 2 * _QUOTED else f"{text[:_QUOTED]} … {text[-_QUOTED:]}"


def a_type(value: object) -> str:
    """Return the class of a value with its article, as it is spoken.

    >>> a_type([]), a_type(3), a_type(sum)
    ('a list', 'an int', 'a builtin_function_or_method')
    """
    name = type(value).__name__
    # Of an acronym the letters are spoken, so the vowel is that of the first letter's name: "an LSTM", but "a GRU".
    acronym = name[:2].isupper() and name[0] in "AEFHILMNORSX"  # an LSTM, an MLP; but a UNet
    return f"{'an' if acronym or name[0] in 'AEIOaeio' else 'a'} {name}"


def sentence(error: BaseException) -> str:
    """Return one line for the user: our own errors are sentences already, others are named."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, ShrinkError):
        return text
    # SystemExit and its like are raised on purpose, by argparse or sys.exit in the user's own metric or dataset
    whose = "" if isinstance(error, Exception) else ", raised by your data, model or metric"
    return f"{type(error).__name__}: {text or 'no message'}{whose}; see the log"


def folded(name: str) -> str:
    """Return a name as it is compared: whatever its case, without hyphens, underscores and spaces."""
    return name.casefold().translate(_NO_SEPARATORS)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'a' or 'b'?"`` for the known names closest to `name`, or ``""``.

    Case, hyphens and underscores do not count. Comparing takes time in proportion to the names' lengths squared, so it
    is left out for long ones, and for many.

    >>> nearest("Batch-Size", ["batch_size", "epochs"])
    "; did you mean 'batch_size'?"
    """
    if len(name) > _QUOTED:
        return ""
    short: dict[str, str] = {}
    for other in islice(known, _MOST_COMPARED):
        if len(other) <= _QUOTED:
            short.setdefault(folded(other), other)
    wanted = folded(name)
    # difflib's ratio is 2·(letters that match in order) / (both lengths together): 0.5 forgives every other letter.
    close = [wanted] if wanted in short else difflib.get_close_matches(wanted, short, n=2, cutoff=cutoff)
    return f"; did you mean {' or '.join(quoted(short[c]) for c in close)}?" if close else ""


def reason(error: BaseException) -> str:
    """Return the type and the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def layer_label(name: str) -> str:
    """Return the name of a layer as people say it: ``"conv1.weight"`` is "conv1"."""
    return name.removesuffix(".weight")
