"""Which axes of a tensor index output channels, and the matrix it is then read as: channels × the flattened rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from torch import Tensor, nn

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is read as a matrix of output channels × everything else, the order all recipes work in.

    Args:
        channels: the axes that index output channels, the slowest first; the others follow in their own order.
        groups: if more than 1, the first axis is split in two before `channels` count: (groups, the rest of it).
            Transposed convolutions with groups are stored so.
    """

    channels: tuple[int, ...] = (0,)
    groups: int = 1

    def matrix(self, shape: Shape) -> tuple[int, int]:
        """Return (rows, columns) of a tensor of this shape."""
        split = self._split(shape)
        rows = math.prod(split[axis] for axis in self.channels)
        return rows, math.prod(shape) // max(1, rows)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor as its matrix ``[rows, columns]``, contiguous: a view wherever memory allows one."""
        split = self._split(tensor.shape)
        return tensor.reshape(split).permute(self._order(split)).reshape(self.matrix(tensor.shape)).contiguous()

    def restored(self, rows: Tensor, shape: Shape) -> Tensor:
        """Undo `rows`: return what was given row by row in the tensor's own shape, contiguous."""
        split = self._split(shape)
        order = self._order(split)
        back = [order.index(axis) for axis in range(len(split))]
        return rows.reshape([split[axis] for axis in order]).permute(back).reshape(shape).contiguous()

    def width(self, shape: Shape) -> int:
        """Return the output channels of a tensor of this shape; of a stack of matrices, those of one."""
        stacked = self.groups == 1 and len(self.channels) > 1 and self.channels[0] == 0
        return self.matrix(shape)[0] // (shape[0] if stacked else 1)

    def _split(self, shape: Shape) -> Shape:
        return tuple(shape) if self.groups == 1 else (self.groups, shape[0] // self.groups, *shape[1:])

    def _order(self, split: Shape) -> list[int]:
        return [*self.channels, *(axis for axis in range(len(split)) if axis not in self.channels)]


FIRST: Final = Layout()
"""Output channels first: Linear, convolutions, embeddings, and whatever says nothing else."""
_STACK: Final = Layout((0, 1))
_STACK_IN_OUT: Final = Layout((0, 2))

_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CHANNELS_FIRST: Final = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.EmbeddingBag, nn.RNNBase,
    nn.MultiheadAttention,
)  # fmt: skip
_LONGEST_FILTER: Final = 32
"""A last axis up to this long is that of a filter in one dimension, if only a name like "…weight" is known."""


def layouts(shapes: Mapping[str, Shape], modules: Mapping[str, nn.Module]) -> dict[str, Layout]:
    """Return the layout of every tensor of two or more dimensions, by name.

    The class of the module that owns it decides, if that is known; else its name, the bias beside it, whose length is
    the number of output channels, and the tensors beside it. Square matrices whose bias could belong to either axis
    go with the matrices of the same class, or of the same state dict, that are decided.
    """
    found: dict[str, Layout] = {}
    undecided: dict[str, type | None] = {}
    in_out: dict[type | None, bool] = {}  # whether all matrices that their bias decides are stored as in × out
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        owner = modules.get(_owner(name)) if modules else None
        layout = layout_by_class(owner, shape) or _by_name(name, shape, shapes)
        if layout is None and len(shape) == 2:
            kind, by_bias = type(owner) if owner is not None else None, _matrix(shape, _bias(name, shapes))
            if by_bias is not None:
                layout = by_bias
                in_out[kind] = by_bias != FIRST and in_out.get(kind, True)
            elif _bias(name, shapes):
                undecided[name] = kind
        found[name] = layout or (_deeper(name, shape, shapes, owner) if len(shape) > 2 else FIRST)
    return found | {name: Layout((1,)) for name, kind in undecided.items() if in_out.get(kind, False)}


def bias_names(name: str) -> Iterator[str]:
    """Yield what the bias of a weight of this name may be called."""
    path, last = _parent(name), _leaf(name)
    for weight, bias in (
        ("weights", "biases"), ("weight", "bias"), ("kernel", "bias"), ("coefs", "intercepts"), ("coef", "intercept"),
        ("W", "b"), ("w", "b"),
    ):  # fmt: skip
        if weight in last:
            yield path + bias.join(last.rsplit(weight, 1))
    yield f"{name}_bias"
    if last == "0":  # Keras numbers the variables of a layer
        yield f"{path}1"


def _bias(name: str, shapes: Mapping[str, Shape]) -> Shape:
    """Return the shape of the bias beside a weight, () if there is none."""
    return next((shapes[bias] for bias in bias_names(name) if bias != name and bias in shapes), ())


def _parent(name: str) -> str:
    return name[: len(name) - len(_leaf(name))]


def _leaf(name: str) -> str:
    return re.split(r"[./]", name)[-1]


def _owner(name: str) -> str:
    """Return the name of the module a parameter belongs to; a parametrized one to the module it parametrizes."""
    return name.partition(".parametrizations.")[0] if ".parametrizations." in name else name.rpartition(".")[0]


def layout_by_class(owner: Any, shape: Shape) -> Layout | None:
    """Return what the owner's class says of a parameter, None if it says nothing."""
    if isinstance(owner, _TRANSPOSED):  # weight: inputs × outputs of a group × filter
        split = owner.groups > 1 and shape[0] % owner.groups == 0
        return Layout((0, 2), owner.groups) if split else Layout((1,))
    if isinstance(owner, _CHANNELS_FIRST):
        return FIRST
    if type(owner).__name__ == "Conv1D" and hasattr(owner, "nf"):  # Hugging Face's, of GPT-2: inputs × outputs
        return Layout((1,))
    if len(shape) == 3 and isinstance(stored := getattr(owner, "is_transposed", None), bool):  # its experts
        return _STACK_IN_OUT if stored else _STACK
    return None


def _by_name(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a kernel of Keras, flax, haiku or TensorFlow, None for any other name."""
    last = _leaf(name).removesuffix(":0")
    foreign = "/" in name and (last in ("w", "weights") or re.search(r"/vars/0$", name))
    if not (last.endswith("kernel") or foreign):
        return None
    if "embedding" in _parent(name).rstrip("/").rpartition("/")[2]:
        return FIRST
    axes, bias = len(shape), _bias(name, shapes)
    if last == "depthwise_kernel":
        return Layout((axes - 2, axes - 1))
    if axes > 2 and re.search(r"conv\dd_transpose", name):  # Keras: filter × outputs × inputs
        return Layout((axes - 2,))
    if len(bias) == 2 and bias == (shape[0], shape[-1]) and bias != shape[-2:]:  # layers stacked by a scan
        return Layout((0, axes - 1))
    for several in range(1, axes):  # attention has heads × features, depthwise filters channels × 1
        if bias and math.prod(shape[-several:]) == math.prod(bias):
            return Layout(tuple(range(axes - several, axes)))
    return Layout((axes - 1,))


def _matrix(shape: Shape, bias: Shape) -> Layout | None:
    """Return the layout of a matrix whose bias fits one axis only."""
    if len(bias) != 1 or shape[0] == shape[1] or bias[0] not in shape:
        return None
    return FIRST if bias[0] == shape[0] else Layout((1,))


def _deeper(name: str, shape: Shape, shapes: Mapping[str, Shape], owner: nn.Module | None) -> Layout:
    """Return the layout of a tensor of three or more dimensions of which no class and no name tells."""
    weight = "weight" in _leaf(name)
    if shape[0] == 1 and not weight:  # position embeddings 1 × N × D
        return Layout((next((axis for axis, size in enumerate(shape) if size > 1), 0),))
    bias = _bias(name, shapes)
    if weight and len(bias) == 1 and (found := _convolution(name, shape, bias[0])):
        return found
    filters = weight and owner is None and (shape[1] == 1 or shape[2] <= _LONGEST_FILTER)
    if len(shape) > 3 or (filters and not re.search("expert|moe", name, re.IGNORECASE)):
        return FIRST
    return _stack(name, shape, bias, shapes)


def _convolution(name: str, shape: Shape, outputs: int) -> Layout | None:
    """Return the layout of a convolution, maybe a transposed one, with a bias of so many numbers."""
    if outputs == shape[0] and not (shape[0] == shape[1] and re.search("transpose|deconv", name, re.IGNORECASE)):
        return FIRST
    if outputs == shape[1]:
        return Layout((1,))
    groups, rest = divmod(outputs, shape[1])
    return Layout((0, 2), groups) if groups and not rest and shape[0] % groups == 0 else None


def _stack(name: str, shape: Shape, bias: Shape, shapes: Mapping[str, Shape]) -> Layout:
    """Return the layout of a stack of matrices, such as the experts of a layer.

    Their bias tells; or a stack beside it, if one of both holds two matrices in one (gates and values, 2·I × H beside
    H × I): the sizes then fit only one way.
    """
    experts, a, b = shape
    if bias in ((experts, a), (experts, b)) and a != b:
        return _STACK if bias == (experts, a) else _STACK_IN_OUT
    for other, beside in shapes.items():
        if other != name and len(beside) == 3 and beside[0] == experts and _parent(other) == _parent(name):
            _, c, d = beside
            if (a, b) == (2 * d, c) or (c, d) == (2 * b, a):
                return _STACK
            if (a, b) == (d, 2 * c) or (c, d) == (b, 2 * a):
                return _STACK_IN_OUT
    return _STACK
