"""What each layer and each tensor of a model weighs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, TypeAlias

from torch import nn

from .channel_layout import PYTORCH_NAME, bias_names, leaf_of
from .forward_profile import ForwardProfile
from .model_tensors import Role, Source, TensorEntry, dtype_name

Status: TypeAlias = Literal["compressible", "uncompressed", "part", "not saved"]


@dataclass(frozen=True, slots=True)
class TensorSize:
    """One parameter or buffer: what it weighs, and what a recipe may do with it.

    `why` says why a tensor is kept; `aliases` are the other names of tied weights; `macs` are the multiply-accumulates
    of the example that used it, None without an example. `parts` are the tensors a weight is computed from, where it
    is: they are what is in memory, and the weight is what counts as parameters.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    numel: int
    nbytes: int
    status: Status
    why: str
    aliases: tuple[str, ...]
    macs: int | None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerSize:
    """A module that holds tensors or multiplies: its class (empty if unknown), and what it weighs and does.

    `channels` is its output width if it has weights; `tied` names the weights it shares with an earlier layer, which
    count there. With an example: `macs`, and the bytes of its output (None if it was not called as a module).
    """

    name: str
    kind: str
    tensors: tuple[TensorSize, ...]
    tied: tuple[str, ...]
    channels: int | None
    macs: int | None
    output_bytes: int | None

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones at their first layer only."""
        return sum(t.numel for t in self.tensors if t.role in ("parameter", "tensor"))

    @property
    def buffers(self) -> int:
        """Number of elements in buffers."""
        return sum(t.numel for t in self.tensors if t.role == "buffer")

    @property
    def nbytes(self) -> int:
        """Bytes of parameters and buffers."""
        return sum(t.nbytes for t in self.tensors if not t.parts)

    @property
    def weighted(self) -> bool:
        """Whether the layer has a parameter of two or more dimensions, its own or tied."""
        return self.channels is not None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, tensors included."""
        totals = {"parameters": self.parameters, "buffers": self.buffers, "nbytes": self.nbytes}
        lists = ("shape", "aliases", "parts")
        tensors = [asdict(t) | {name: list(getattr(t, name)) for name in lists} for t in self.tensors]
        return asdict(self) | totals | {"tied": list(self.tied), "tensors": tensors}


def layer_sizes(
    source: Source, entries: Iterable[TensorEntry], forward: ForwardProfile | None
) -> tuple[LayerSize, ...]:
    """Group the tensors by the module they belong to, in the order of the forward pass if there was one."""
    modules = dict(source.named_modules()) if isinstance(source, nn.Module) else {}
    own: dict[str, list[TensorEntry]] = {}
    tied: dict[str, list[TensorEntry]] = {}
    entries = tuple(entries)
    paired = {} if modules else _layers_in_one_place({entry.name: entry.shape for entry in entries})
    for entry in entries:
        name = entry.part_of or entry.name
        own.setdefault(paired.get(name, _owner(name)), []).append(entry)
        for alias in entry.aliases:
            tied.setdefault(_owner(alias), []).append(entry)
    names = _in_order({**own, **tied}, modules, forward)
    return tuple(_layer(name, modules.get(name), own.get(name, []), tied.get(name, []), forward) for name in names)


def _owner(name: str) -> str:
    """Return the name of the layer a tensor belongs to; JAX and Keras write paths with slashes."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)]


def _layers_in_one_place(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Return the layers of tensors whose names have no path to tell them apart, such as W1, b1, W2, b2.

    Each weight is a layer there, with the bias and the norms that share its name. Names that PyTorch's own layers use
    (weight_ih_l0 and its like) are the parts of one layer, and stay together.
    """
    places = {_owner(name) for name in shapes}
    here = [name for name in shapes if not _owner(name) or len(places) == 1]
    weights = [name for name in here if len(shapes[name]) > 1 and not PYTORCH_NAME.search(leaf_of(name))]
    if len(weights) < 2:
        return {}
    found: dict[str, str] = {}
    for name in weights:
        layer = re.sub(r"_(kernel|weights?|w)$", "", name, flags=re.IGNORECASE)
        found[name] = layer
        beside = [other for other in here if len(shapes[other]) < 2 and other.startswith(f"{layer}_")]
        found |= dict.fromkeys([bias for bias in bias_names(name) if bias in shapes] + beside, layer)
    return found


def _in_order(held: Iterable[str], modules: Mapping[str, object], forward: ForwardProfile | None) -> list[str]:
    """Return the names of the layers in forward order; those that never ran as a module stay beside their parent."""
    order = {name: i for i, name in enumerate(modules)}
    defined = sorted(held, key=lambda name: order.get(name, 0))
    if forward is None:
        return defined
    rank = {name: i for i, name in enumerate(forward.order)}

    def place(name: str) -> int:
        while name not in rank and name:
            name = _owner(name)
        return rank.get(name, 0)

    loose = [name for name in forward.loose if name not in defined]
    return sorted([*defined, *loose], key=place)


def _layer(
    name: str, module: nn.Module | None, own: list[TensorEntry], tied: list[TensorEntry], forward: ForwardProfile | None
) -> LayerSize:
    tensors = tuple(_tensor(entry, forward) for entry in own)
    weights = [e for e in own + tied if e.role in ("parameter", "tensor") and len(e.shape) >= 2]
    macs = None if forward is None else sum(t.macs or 0 for t in tensors) + forward.loose.get(name, 0)
    return LayerSize(
        name=name,
        kind="" if module is None else type(module).__name__,
        tensors=tensors,
        tied=tuple(entry.name for entry in tied),
        channels=_channels(module, weights[0]) if weights else None,
        macs=macs,
        output_bytes=None if forward is None else forward.outputs.get(name),
    )


def _tensor(entry: TensorEntry, forward: ForwardProfile | None) -> TensorSize:
    return TensorSize(
        name=entry.name,
        shape=entry.shape,
        dtype=entry.kind or dtype_name(entry.dtype),
        role=entry.role,
        numel=entry.numel - entry.shared,
        nbytes=entry.nbytes,
        status=_status(entry),
        why=entry.why,
        aliases=entry.aliases,
        macs=None if forward is None else forward.macs.get(entry.name, 0),
        parts=entry.parts,
    )


def _status(entry: TensorEntry) -> Status:
    if entry.compressible:
        return "compressible"
    return "uncompressed" if entry.saved else "part" if entry.part_of else "not saved"


_WIDTHS: Final = ("out_channels", "out_features", "embedding_dim", "embed_dim", "hidden_size", "nf")


def _channels(module: nn.Module | None, weight: TensorEntry) -> int:
    """Return the output width a layer states, or that its first weight has."""
    stated = (getattr(module, name, None) for name in _WIDTHS)
    return next((width for width in stated if isinstance(width, int)), weight.layout.width(weight.shape))
