"""What a model weighs: parameters, bytes, depth and width, and the sizes of its plain files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final

from ..errors import ModelError
from .layers import Entry

# The dtypes a .safetensors file can hold, in the order its header lists their tensors.
_FILE_DTYPES: Final = (
    "uint64 U64", "int64 I64", "float64 F64", "complex64 C64", "float32 F32", "uint32 U32", "int32 I32", 
    "bfloat16 BF16", "float16 F16", "uint16 U16", "int16 I16", "float8_e5m2fnuz F8_E5M2FNUZ", "float8_e4m3fnuz F8_E4M3FNUZ",
    "float8_e8m0fnu F8_E8M0", "float8_e4m3fn F8_E4M3", "float8_e5m2 F8_E5M2", "int8 I8", "uint8 U8", "bool BOOL",
)  # fmt: skip
_CODES: Final = {name: (rank, code) for rank, (name, code) in enumerate(pair.split() for pair in _FILE_DTYPES)}


def safetensors_bytes(entries: Iterable[Entry]) -> int:
    """Return the bytes of a plain ``.safetensors`` file of the saved entries, tied tensors written once, no metadata.

    Equal to ``len(safetensors.torch.save({e.name: tensor for e in saved}))``, computed without reading a weight:
    8 bytes, a JSON header padded to a multiple of 8, and the tensors' own bytes.

    Raises:
        ModelError: for a dtype that no safetensors file can hold.
    """
    saved = sorted((e for e in entries if e.saved), key=lambda e: (_file_code(e)[0], e.name.encode()))
    header: dict[str, object] = {}
    end = 0
    for entry in saved:
        start, end = end, end + entry.nbytes
        header[entry.name] = {"dtype": _file_code(entry)[1], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def _file_code(entry: Entry) -> tuple[int, str]:
    name = str(entry.dtype).removeprefix("torch.")
    if name not in _CODES:
        raise ModelError(f"{entry.name!r} is {name}, which a .safetensors file cannot hold: convert it to a float type")
    return _CODES[name]
