"""What the explorer's buttons do in the kernel: keep the compressed model in a variable, or save it to a file."""

from __future__ import annotations

import builtins
import keyword
from pathlib import Path

from IPython.core.getipython import get_ipython

from ..compressed import Compressed
from ..errors import FileError, ShrinkError, quoted
from ..measure.bytes import ENTROPY, FORMAT


def keep_in_notebook(name: object, compressed: Compressed) -> str:
    """Bind the compressed model to a name in the notebook and return what was done, as a sentence.

    Raises:
        ShrinkError: for a name that is none, is Python's own or already holds something else, or outside IPython.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ShrinkError(f"{name!r} is not a name for a variable: use letters, digits and _, such as small")
    if hasattr(builtins, name):
        raise ShrinkError(f"{name!r} is Python's own: choose another name")
    shell = get_ipython()
    if shell is None:
        raise ShrinkError("there is no notebook to keep a variable in: take the result in Python instead")
    if name in shell.user_ns and not isinstance(shell.user_ns[name], Compressed):
        kind = type(shell.user_ns[name]).__name__
        raise ShrinkError(f"{name!r} already holds a {kind} in this notebook: choose another name")
    shell.user_ns[name] = compressed
    return f"{name} is the compressed model, {compressed.nbytes:,} bytes: {name}.model, {name}.save(path)"


def save_to(path: object, compressed: Compressed, entropy: bool) -> str:
    """Save the compressed model and return what was done, as a sentence.

    Raises:
        FileError: for an empty path, a file that is something else, or one that cannot be written.
    """
    if not isinstance(path, str) or not path.strip():
        raise FileError("there is no file name: type one, such as model.safetensors")
    target = Path(path.strip()).expanduser()
    if target.exists() and not (target.is_file() and is_packed(target)):
        raise FileError(f"{quoted(target)} exists and is not a file of shrinkwidget: choose another name")
    written = compressed.save(target, entropy=entropy)
    return f"saved {target.resolve()}, {written:,} bytes"


def is_packed(path: Path) -> bool:
    """Tell whether an existing file is one this project wrote, by how its header begins.

    Checkpoints of a training begin alike ("shrinkwidget-checkpoint"), and are nothing to write over.
    """
    starts = [f'{{"__metadata__":{{"format":"{name}"'.encode() for name in (FORMAT, ENTROPY)]
    try:
        with path.open("rb") as file:
            head = file.read(8 + max(map(len, starts)))[8:]
    except OSError as error:
        raise FileError(f"cannot read {quoted(path)}: {error.strerror or error}") from error
    return any(head.startswith(start) for start in starts)
