"""What the explorer's buttons do in the kernel: keep the compressed model in a variable, or save it to a file."""

from __future__ import annotations

import builtins
import keyword
import re
from pathlib import Path
from typing import Any, Final

from IPython.core.getipython import get_ipython

from ..analysis.checkpoint_folders_headers_and_refused_formats import read_safetensors_header
from ..analysis.estimate_class_and_packed_file_header import ENTROPY, FORMAT
from ..compressed_model import CompressedModel
from ..errors import FileError, ShrinkError, a_type, quoted
from ..figures.numbers_and_recipes_as_text import recipe_sentence
from ..files import file_parts
from ..recipe_and_method_registry import Recipe

PLAIN: Final = "no retraining"
"""The provenance of weights that were only compressed."""


class Exists(ShrinkError):
    """Something of ours has that name already: it is replaced only when that is asked for."""


def keeps(title: str, provenance: str, kind: str = "retrained") -> dict[str, str]:
    """Return what the buttons keep: the provenance of the model, and names to suggest for a variable and a file."""
    kind = "small" if provenance == PLAIN else kind
    file = re.sub(r"[^\w.-]+", "-", title).lower() or "model"
    return {"provenance": provenance, "variable": kind, "file": f"{file}-{kind}.safetensors"}


def keep_in_notebook(name: object, compressed: CompressedModel, replace: bool = False) -> str:
    """Bind the compressed model to a name in the notebook and return what was done, as a sentence.

    Raises:
        Exists: if the name holds another compressed model, unless it is to be replaced.
        ShrinkError: for a name that is none, is Python's own or already holds something else, or outside IPython.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ShrinkError(f"{quoted(name)} is not a name for a variable: use letters, digits and _, such as small")
    if hasattr(builtins, name):
        raise ShrinkError(f"{name!r} is Python's own: choose another name")
    shell = get_ipython()
    if shell is None:
        raise ShrinkError("there is no notebook to keep a variable in: take the result in Python instead")
    there = shell.user_ns.get(name, compressed)
    if not isinstance(there, CompressedModel):
        raise ShrinkError(f"{name!r} already holds {a_type(there)} in this notebook: choose another name")
    if not replace and not alike(there, compressed):
        raise Exists(f"{name} holds another model already: {there.nbytes:,} bytes, {_words(there)}")
    shell.user_ns[name] = compressed
    return f"{name} is the compressed model, {compressed.nbytes:,} bytes: {name}.model, {name}.save(path)"


def save_to(path: object, compressed: CompressedModel, entropy: bool, replace: bool = False) -> str:
    """Save the compressed model and return what was done, as a sentence.

    Raises:
        Exists: if the file holds another compressed model, unless it is to be replaced.
        FileError: for an empty path, a file that is something else, or one that cannot be written.
    """
    if not isinstance(path, str) or not path.strip():
        raise FileError("there is no file name: type one, such as model.safetensors")
    target = Path(path.strip()).expanduser()
    try:
        there = target.exists()
        if there and not (target.is_file() and is_packed(target)):
            raise FileError(f"{quoted(target)} exists and is not a file of shrinkwidget: choose another name")
        if there and not replace and not _holds(target, file_parts(compressed.packed, entropy)):
            raise Exists(f"{target.name} exists already: {target.stat().st_size:,} bytes{_recipe_in(target)}")
    except (OSError, ValueError) as error:
        if isinstance(error, ShrinkError):
            raise
        raise FileError(f"cannot look at {quoted(target)}: {error}") from error
    written = compressed.save(target, entropy=entropy)
    return f"saved {target.resolve()}, {written:,} bytes"


def is_packed(path: Path) -> bool:
    """Tell whether an existing file is one this project wrote, by how its header begins.

    Checkpoints of a training begin alike ("shrinkwidget-checkpoint"), and are nothing to write over.
    """
    starts = [f'{{"__metadata__":{{"format":"{name}"'.encode() for name in (FORMAT, ENTROPY)]
    try:
        with path.open("rb") as file:
            # Behind the 8 bytes of length; an entropy-coded file begins alike, so both starts are tried.
            head = file.read(8 + max(map(len, starts)))[8:]
    except OSError as error:
        raise FileError(f"cannot read {quoted(path)}: {error.strerror or error}") from error
    return any(head.startswith(start) for start in starts)


def alike(there: CompressedModel, new: CompressedModel) -> bool:
    """Tell whether two have the same provenance and would write the same file."""
    if there is new:
        return True
    if there.provenance != new.provenance or there.nbytes != new.nbytes:
        return False
    return all(bytes(a) == bytes(b) for a, b in zip(file_parts(there.packed), file_parts(new.packed), strict=True))


def _holds(path: Path, parts: list[Any]) -> bool:
    """Tell whether a file is these parts, one after the other."""
    if path.stat().st_size != sum(len(part) for part in parts):
        return False
    with path.open("rb") as file:
        return all(file.read(len(part)) == bytes(part) for part in parts)


def _words(compressed: CompressedModel) -> str:
    words = recipe_sentence(compressed.recipe)
    return words if compressed.provenance == PLAIN else f"{words}, {compressed.provenance}"


def _recipe_in(path: Path) -> str:
    """Return the recipe of a packed file in words; how its weights were obtained is not in it."""
    try:
        return f", {recipe_sentence(Recipe.from_json(read_safetensors_header(path).metadata['recipe']))}"
    except (ShrinkError, KeyError):
        return ""  # damaged, but still somebody's
