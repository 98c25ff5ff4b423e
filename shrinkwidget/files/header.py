"""The header of a packed file, read from bytes that may be anything."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, BinaryIO, Final

from ..analysis.file_size import ENTROPY, FORMAT, SECTIONS, VERSION, header_text
from ..analysis.safetensors_checkpoint import header_object, read_exactly, read_header_text
from ..errors import FileError, RecipeError, quoted
from ..recipe import Recipe

_KEYS: Final = ("format", "version", "crc32", "recipe", "structure")


@dataclass(frozen=True, slots=True)
class Header:
    """What a packed file says of itself; `sections` are its bytes, still packed."""

    entropy: bool
    recipe: Recipe
    structure: str
    sections: dict[str, memoryview]


def read_header(file: BinaryIO, size: int) -> Header:
    """Return the checked header of a packed file of `size` bytes, opened at its start, and its sections.

    The header is judged before anything else is read, so that refusing a large file costs its header. Checked are: the
    lengths, the JSON (no key twice, nothing missing or extra), format and version, that the sections follow each other
    and fill the file, the CRC-32, and the recipe. At the end the header must be, byte for byte, the one that would be
    written: there is one valid file for one content.

    Raises:
        FileError: with a sentence that goes on from "cannot load 'path': ".
    """
    text = read_header_text(file, size)
    header = header_object(text)
    about = _about(header)
    lengths = _section_lengths(header, size - 8 - len(text))
    body = _rest(file, size - 8 - len(text))
    crc = file_crc(about["recipe"], about["structure"], body)
    if about["crc32"] != f"{crc:08x}":
        raise FileError("its checksum does not match: the file was damaged or changed after it was written")
    if text != header_text(about["recipe"], about["structure"], lengths, crc, about["format"]):
        raise FileError("its header is not written as shrinkwidget writes it: another program has changed the file")
    ends = list(accumulate(lengths.values(), initial=0))
    sections = {name: body[begin:end] for name, (begin, end) in zip(SECTIONS, pairwise(ends), strict=True)}
    return Header(about["format"] == ENTROPY, _recipe(about["recipe"]), about["structure"], sections)


def _rest(file: BinaryIO, length: int) -> memoryview:
    try:
        body = memoryview(bytearray(length))
    except MemoryError as error:
        raise FileError(f"there is not enough memory for its {length:,} bytes") from error
    read_exactly(file, body)
    return body.toreadonly()


def file_crc(recipe: str, structure: str, *data: Any) -> int:
    """Return the CRC-32 of a file's recipe text, structure text and data, one buffer after the other."""
    crc = 0
    for part in (recipe.encode(), structure.encode(), *data):
        crc = zlib.crc32(part, crc)
    return crc


def _about(header: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a file in our format and of a version we can read."""
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise FileError("the metadata in its header is not an object of texts")
    if about.get("format") not in (FORMAT, ENTROPY):
        raise FileError(
            "it is a safetensors file, but not a packed model of shrinkwidget: read it with safetensors.torch.load_file"
        )
    version = about.get("version", "")
    if not re.fullmatch("[1-9][0-9]{0,8}", version):
        raise FileError(f"its format version is {quoted(version)}; expected {VERSION}")
    if int(version) < VERSION:
        raise FileError(f"its format version is {version}, from before the first release: compress the model anew")
    if int(version) > VERSION:
        raise FileError(f"its format version is {version}, newer than {VERSION}: upgrade shrinkwidget to read it")
    if missing := [key for key in _KEYS if key not in about]:
        raise FileError(f"the metadata in its header lacks {', '.join(missing)}")
    if extra := [key for key in about if key not in _KEYS]:
        raise FileError(f"the metadata in its header has the unknown key {quoted(extra[0])}")
    return about


def _section_lengths(header: dict[str, Any], available: int) -> dict[str, int]:
    found = tuple(key for key in header if key != "__metadata__")
    if found != SECTIONS:
        names = quoted(", ".join(found))[1:-1] or "none"
        raise FileError(f"its sections are {names}; expected {', '.join(SECTIONS)}, in that order")
    lengths, end = {}, 0
    for name in SECTIONS:
        lengths[name] = _section_length(name, header[name], end)
        end += lengths[name]
    if end > available:
        raise FileError(f"it is cut short: {end - available:,} bytes are missing at the end")
    if end < available:
        raise FileError(f"{available - end:,} bytes follow after its last section")
    return lengths


def _section_length(name: str, section: Any, begin: int) -> int:
    """Return the length of a section that must begin at `begin`, from its entry in the header."""
    offsets = section.get("data_offsets") if isinstance(section, dict) else None
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(type(o) is int for o in offsets)):
        raise FileError(f"its section {quoted(name)} has no data_offsets of two whole numbers")
    length = int(offsets[1] - offsets[0])
    if offsets[0] != begin or length < 0:
        raise FileError(
            f"its section {quoted(name)} lies at bytes {offsets[0]} to {offsets[1]}; it should begin at {begin}"
        )
    if section.get("dtype") != "U8" or section.get("shape") != [length]:
        raise FileError(f"its section {quoted(name)} is not of dtype U8 and shape [{length}]")
    return length


def _recipe(text: str) -> Recipe:
    try:
        recipe = Recipe.from_json(text)
    except RecipeError as error:
        raise FileError(f"its recipe cannot be read: {error}") from error
    if recipe.to_json() != text:
        raise FileError("its recipe is not written as shrinkwidget writes it: another program has changed the file")
    return recipe
