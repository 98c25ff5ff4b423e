"""How a packed file says what is in it (docs/format.md): its header, and in that the folded text about its tensors."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .. import strict_json
from ..errors import FileError

if TYPE_CHECKING:  # Jupyter's server reads headers, too, and loads no torch for it
    from .model_tensors import TensorSpec

FORMAT: Final = "shrinkwidget"
ENTROPY: Final = "shrinkwidget-z"
VERSION: Final = 3
SECTIONS: Final = ("counts", "codes", "mask", "scales", "rest")

# flags of a tensor
COMPRESSIBLE: Final = 1
BFLOAT16: Final = 2


def header_text(recipe_json: str, structure: str, lengths: Mapping[str, int], crc: int = 0, fmt: str = FORMAT) -> bytes:
    """Return the JSON header of a packed file as UTF-8, padded with spaces to a multiple of 8 bytes."""
    about = {"format": fmt, "version": str(VERSION), "crc32": f"{crc:08x}"}
    header: dict[str, object] = {"__metadata__": {**about, "recipe": recipe_json, "structure": structure}}
    # five sections of bytes in place of a tensor each: names, shapes and offsets would weigh more than small layers
    end = 0
    for section in SECTIONS:
        begin, end = end, end + lengths[section]
        header[section] = {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)


def describe(tensor: TensorSpec, compressible: bool, bfloat16: bool) -> list[object]:
    """Return ``[name, shape, dtype, flags, aliases…]`` of one tensor; before its aliases its layout, if it has one.

    An alias that looks at the tensor otherwise is ``[name, axes, shape]``.
    """
    flags = COMPRESSIBLE * compressible | BFLOAT16 * bfloat16
    layout, views = tensor.layout, tensor.views
    # output channels first go without saying, and nobody needs to know the rows of what is stored as it is
    own = [[layout.groups, *layout.channels]]
    own = own if compressible and own != [[1, 0]] else []
    aliases = [[a, list(views[a].axes), list(views[a].shape)] if a in views else a for a in tensor.aliases]
    return [tensor.name, list(tensor.shape), str(tensor.dtype).removeprefix("torch."), flags, *own, *aliases]


def fold_structure(described: object) -> str:
    """Return the descriptions of all tensors as they stand in the header: base64 of zlib of their JSON.

    Names of layers repeat: uncompressed they would be most of a small model's file.
    """
    return base64.b64encode(zlib.compress(_json(described), 9)).decode()


def unfold_structure(structure: str) -> list[Any]:
    """Return the descriptions of all tensors, each a JSON value that is still to be checked.

    Raises:
        FileError: with a sentence about "its structure", unless the text is one that `fold_structure` writes.
    """
    try:
        unfold = zlib.decompressobj()
        packed = base64.b64decode(structure, validate=True)
        # names of layers repeat, but not so much: beyond a megabyte, 200 times its length is a bomb
        text = unfold.decompress(packed, (1 << 20) + 200 * len(structure))
        if not unfold.eof or unfold.unused_data:
            raise FileError("its structure is cut short, or unfolds to far more than its length allows")
        items = strict_json.parse(text)
        if _json(items) != text or base64.b64encode(packed).decode() != structure:
            raise FileError("its structure is not written as shrinkwidget writes it: another program has changed it")
    except (binascii.Error, zlib.error, ValueError, RecursionError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"its structure is not base64 of zlib of JSON ({error})") from error
    if not isinstance(items, list):
        raise FileError("its structure is not a list of tensors")
    return items


def _json(described: object) -> bytes:
    return json.dumps(described, separators=(",", ":"), ensure_ascii=True).encode()
