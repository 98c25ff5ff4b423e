"""What a model weighs: parameters, bytes, depth and width, and the sizes of its plain files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from ..argument_checks import public
from ..errors import ModelError, quoted
from .channel_layout import Stated
from .forward_profile import profile_forward
from .layer_sizes import LayerSize, TensorSize, layer_sizes
from .model_tensors import Source, TensorEntry, dtype_name, open_model
from .run_without_side_effects import preserve_rng_state
from .safetensors_file import FILE_DTYPES
from .summary_table import html_table, text_table


@dataclass(frozen=True, repr=False)
class ModelSummary:
    """What a model weighs, tensor by tensor and in all.

    Attributes:
        title: the model's class, or the file's name.
        layers: its layers, in the order of their first call if an example was given, else as the model defines them.
        torch_save: bytes that ``torch.save`` of the state dict writes into a buffer; into a file it is a little more or
            less, as the file's name is part of the format.
        safetensors: bytes of a plain ``.safetensors`` file, tied tensors written once; None for a model with a dtype
            that no such file can hold (complex128).
        peak_activation: with an example, the most bytes of inputs and results alive at one moment of the forward
            pass in eval mode, without weights, buffers and the scratch memory inside kernels; else None.
        warnings: what was taken for granted, in a sentence each: which axis is the width where nothing tells.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.summary(sw.demo.model())
        >>> found.nbytes, found.parameters, found.width
        (692688, 172218, (10, 64))
    """

    title: str
    layers: tuple[LayerSize, ...]
    torch_save: int
    safetensors: int | None
    peak_activation: int | None
    warnings: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[TensorSize, ...]:
        """Every parameter and buffer."""
        return tuple(t for layer in self.layers for t in layer.tensors)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied weights once."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def buffers(self) -> int:
        """Number of elements in buffers."""
        return sum(layer.buffers for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers in memory."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def dtypes(self) -> dict[str, int]:
        """Bytes of each dtype, the largest first."""
        sizes: Counter[str] = Counter()
        for tensor in (t for t in self.tensors if not t.parts):
            sizes[tensor.dtype] += tensor.nbytes
        return dict(sizes.most_common())

    @property
    def depth(self) -> int:
        """Number of layers with a weight of two or more dimensions; those on side branches count as well."""
        return sum(layer.weighted for layer in self.layers)

    @property
    def width(self) -> tuple[int, int]:
        """Fewest and most output channels of such a layer; (0, 0) if there is none."""
        channels = [layer.channels for layer in self.layers if layer.channels is not None]
        return (min(channels), max(channels)) if channels else (0, 0)

    @property
    def macs(self) -> int | None:
        """Multiply-accumulates of one forward pass of the example as it was given, None without one."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if self.peak_activation is not None else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values: the totals, and the layers with their tensors.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.summary(sw.demo.model()).to_dict()["nbytes"]
            692688
        """
        names = ("title", "parameters", "buffers", "nbytes", "dtypes", "depth", "width", "torch_save", "safetensors")
        totals = {name: getattr(self, name) for name in (*names, "macs", "peak_activation")}
        lists = {"width": list(self.width), "warnings": list(self.warnings)}
        return totals | lists | {"layers": [layer.to_dict() for layer in self.layers]}

    def __repr__(self) -> str:
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)


@public()
def summary(source: Source, example: object = None, *, layout: Stated = None) -> ModelSummary:
    """Weigh a module, a state dict, or a checkpoint on disk (see `sketch`); nothing of it is changed.

    Args:
        source: the model. A state dict or a file does not tell the classes of its layers; which axis is the width is
            then decided by names and shapes.
        example: for a module, one input to run it on once (a tensor, a tuple of positional or a dict of keyword
            arguments), moved to the model's device: adds multiply-accumulates, activation bytes and the order
            of layers. Its batch counts: give a batch of one to have them per example.
        layout: see `sketch`.

    Raises:
        ModelError: for what is no model, for tensors without values, an example without a module, or a layout with one.
        DataError: if the model cannot run the example.
        FileError: for a path that cannot be read.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> found = sw.summary(sw.demo.model(), torch.zeros(1, 1, 8, 8))
        >>> found.parameters, found.depth, found.macs
        (172218, 14, 1631872)
    """
    entries = open_model(source, layout=layout, only_to_look=True)
    forward = None
    if example is not None:
        if not isinstance(source, nn.Module):
            raise ModelError("an example can only be run on an nn.Module: leave it out for a state dict or a file")
        with preserve_rng_state():
            forward = profile_forward(source, entries.entries, example)
    return ModelSummary(
        title=entries.title,
        layers=layer_sizes(source, entries.entries, forward),
        torch_save=_torch_save_bytes(source, entries.entries),
        safetensors=safetensors_bytes(entries.entries) if _fits_safetensors(entries.entries) else None,
        peak_activation=None if forward is None else forward.peak,
        warnings=entries.warnings,
    )


class _Counted:
    """A file that counts what is written to it and keeps nothing."""

    def __init__(self) -> None:
        self.nbytes = 0

    def write(self, data: bytes) -> int:
        self.nbytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits to be written."""


def _torch_save_bytes(source: Source, entries: Iterable[TensorEntry]) -> int:
    """Count what ``torch.save`` writes; of a file on disk by tensors of the same shapes, so that it is not read."""
    if isinstance(source, nn.Module):
        state: Any = source.state_dict()
    elif isinstance(source, Mapping):
        state = source
    else:
        state = {entry.name: torch.empty(entry.shape, dtype=entry.dtype) for entry in entries}
    counted = _Counted()
    torch.save(state, counted)  # type: ignore[arg-type]  # torch asks for a whole file object and uses these two
    return counted.nbytes


_RANKS: Final = {name: rank for rank, name in enumerate(FILE_DTYPES)}


def safetensors_bytes(entries: Iterable[TensorEntry]) -> int:
    """Return the bytes of a plain ``.safetensors`` file of the saved entries, tied tensors written once, no metadata.

    Equal to ``len(safetensors.torch.save({e.name: tensor for e in saved}))``, computed without reading a weight:
    8 bytes, a JSON header padded to a multiple of 8, and the tensors' own bytes.

    Raises:
        ModelError: for a dtype that no safetensors file can hold.
    """
    saved = sorted((e for e in entries if e.saved), key=lambda e: (_rank(e), e.name.encode()))
    header: dict[str, object] = {}
    end = 0
    for entry in saved:
        start, end = end, end + (entry.nbytes if entry.kind else entry.numel * entry.dtype.itemsize)
        code = "U8" if entry.kind else FILE_DTYPES[dtype_name(entry.dtype)]
        header[entry.name] = {"dtype": code, "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def _fits_safetensors(entries: Iterable[TensorEntry]) -> bool:
    return all(dtype_name(e.dtype) in _RANKS or e.kind for e in entries if e.saved)


def _rank(entry: TensorEntry) -> int:
    name = "uint8" if entry.kind else dtype_name(entry.dtype)  # a quantized tensor counts as the bytes it is
    if name not in _RANKS:
        raise ModelError(
            f"{quoted(entry.name)} is {name}, which a .safetensors file cannot hold: convert it to a float type"
        )
    return _RANKS[name]
