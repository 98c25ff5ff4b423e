"""A checkpoint opened to be looked at: what `open_model` sees of it, and the weights that are stored quantized.

Recipes start from weights as they were trained, so `open_model` refuses GGUF files and keeps int8 and float8 tensors as
they are. A viewer can still show what values they stand for, wherever the file alone says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import torch
from torch import Tensor

from ..errors import FileError, ModelError, quoted
from .estimate_class_and_packed_file_header import FILE_DTYPES
from .gguf_dequantization import DEQUANTIZE, PLAIN_TYPES, dequantized
from .gguf_header import GGUFHeader, GGUFTensor, is_gguf, read_gguf_header
from .open_model_tensors_and_channel_axes import (
    ModelTensors,
    TensorEntry,
    dtype_name,
    layouts,
    open_model,
    quantization_parts,
    why_kept,
)
from .read_tensors_and_serialize_safetensors import read_bytes

_FLOAT8: Final = (torch.float8_e4m3fn, torch.float8_e5m2)
_NO_WEIGHTS: Final = ("input_", "output_", "k_", "v_", "q_")
"""With these begin the names of scales that belong to activations, and change no weight."""


@dataclass(frozen=True, slots=True, eq=False)
class ViewedCheckpoint:
    """A checkpoint and its quantized weights.

    `weights` are those that recipes apply to, exactly as `open_model` has them. `dequantized` are compressible entries
    of float32 that `load` computes from what is stored; `stored` names the type of each as the file does.
    """

    weights: ModelTensors
    dequantized: tuple[TensorEntry, ...]
    stored: dict[str, str]


def open_to_look(path: str | os.PathLike[str]) -> ViewedCheckpoint:
    """Open a safetensors checkpoint or a GGUF file, reading headers only.

    Raises:
        FileError: for a path with no checkpoint, or several; a file in another format, damaged, or missing.
        ModelError: for tensors that no file could hold.
    """
    if is_gguf(path):
        return _opened_gguf(read_gguf_header(path))
    weights = open_model(path, only_to_look=True)
    found = tuple(_dequantized_entries(weights))
    kept = {entry.name: FILE_DTYPES[dtype_name(entry.dtype)] for entry in weights.entries if not entry.compressible}
    return ViewedCheckpoint(weights, found, {entry.name: kept[entry.name] for entry in found})


# ---- safetensors: float8 and int8, with or without a scale ----


def _dequantized_entries(weights: ModelTensors) -> Iterator[TensorEntry]:
    by_name = {entry.name: entry for entry in weights.entries}
    parts: dict[str, list[str]] = {}
    for part, of in quantization_parts([(e.name, e.shape, e.dtype) for e in weights.entries]).items():
        if not part.rpartition(".")[2].startswith(_NO_WEIGHTS):
            parts.setdefault(of, []).append(part)
    for entry in weights.entries:
        scales = parts.get(entry.name, [])
        if entry.dtype not in (*_FLOAT8, torch.int8) or len(entry.shape) < 2 or not entry.numel:
            continue
        # Without scales float8 is a number as it stands, and int8 is not:
        if entry.dtype is torch.int8 and not scales:
            continue  # whole numbers, of which nothing says what they stand for
        load = _scaled(entry, [by_name[name] for name in scales])
        if load is not None:
            yield replace(entry, dtype=torch.float32, role="tensor", why="", load=load)


def _scaled(entry: TensorEntry, scales: Sequence[TensorEntry]) -> Callable[[], Tensor] | None:
    """Return what computes the weights: the codes times one scale, or one for each row; None for anything else.

    That is how compressed-tensors and torchao's exports store ``weight`` and ``weight_scale``. Blocks, zero points and
    inverse scales have a different meaning in every library.
    """
    if not scales:
        return lambda: entry.load().float()
    scale = scales[0]
    # A scale in float8 (e8m0, of MX formats) belongs to blocks of 32, and is none of these two.
    floating = scale.dtype in (torch.float32, torch.float16, torch.bfloat16)
    fits = scale.numel == 1 or (scale.shape[0] == entry.shape[0] == scale.numel)
    if len(scales) > 1 or scale.name != f"{entry.name}_scale" or not floating or not fits:
        return None

    def load() -> Tensor:
        factor = scale.load().float().reshape(-1, *[1] * (len(entry.shape) - 1))
        return entry.load().float().mul_(factor)

    return load


# ---- GGUF ----


def _opened_gguf(header: GGUFHeader) -> ViewedCheckpoint:
    shapes = {name: tensor.shape for name, tensor in header.tensors.items()}
    laid_out = layouts(shapes, {})
    entries, found, stored = [], [], {}
    for name, tensor in header.tensors.items():
        entry = _gguf_entry(header, name, tensor)
        if name in laid_out:
            entry = replace(entry, layout=laid_out[name])
        entries.append(entry)
        # The dequantizers read float16 scales as little-endian, wherever they run.
        if tensor.dtype in DEQUANTIZE and not header.big_endian and len(tensor.shape) >= 2 and entry.numel:
            load = partial(_dequantized_gguf, header, name)
            found.append(replace(entry, dtype=torch.float32, kind="", stored=0, why="", load=load))
            stored[name] = tensor.dtype
    title = header.path.stem.encode(errors="replace").decode()
    return ViewedCheckpoint(ModelTensors(title, tuple(entries)), tuple(found), stored)


def _gguf_entry(header: GGUFHeader, name: str, tensor: GGUFTensor) -> TensorEntry:
    dtype = PLAIN_TYPES.get(tensor.dtype)
    if dtype is not None and not header.big_endian:
        why = why_kept(tensor.shape, dtype, "tensor")
        return TensorEntry(name, tensor.shape, dtype, role="tensor", why=why, load=partial(_plain_gguf, header, name))
    if header.big_endian:
        why = "a big-endian file: convert it with gguf-convert-endian"
    elif tensor.dtype in DEQUANTIZE:
        why = f"quantized already: {tensor.dtype}"
    else:
        why = f"{tensor.dtype}: this version cannot tell its values"

    def load() -> Tensor:
        raise ModelError(f"{quoted(name)} is {why}")

    nbytes = tensor.end - tensor.begin
    return TensorEntry(
        name, tensor.shape, torch.uint8, kind=tensor.dtype, stored=nbytes, role="tensor", why=why, load=load
    )


def _gguf_bytes(header: GGUFHeader, name: str) -> Tensor:
    tensor = header.tensors[name]
    try:
        return read_bytes(header.path, tensor.begin, tensor.end, header.identity)
    except FileError as error:
        raise FileError(f"{quoted(name)} can no longer be read from {quoted(header.path)}: {error}") from error


def _plain_gguf(header: GGUFHeader, name: str) -> Tensor:
    tensor = header.tensors[name]
    return _gguf_bytes(header, name).view(PLAIN_TYPES[tensor.dtype]).reshape(tensor.shape)


def _dequantized_gguf(header: GGUFHeader, name: str) -> Tensor:
    tensor = header.tensors[name]
    return dequantized(_gguf_bytes(header, name), tensor.dtype, tensor.shape)
