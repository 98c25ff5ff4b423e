"""The text in a packed file that describes its tensors (docs/format.md), folded to a part of its length."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from typing import Any, Final

from .. import strict_json
from ..errors import FileError

FORMAT: Final = "shrinkwidget"
ENTROPY: Final = "shrinkwidget-z"


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
