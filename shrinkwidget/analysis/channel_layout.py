"""Which axes of a tensor index output channels, and the matrix it is then read as: channels × the flattened rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from torch import Tensor, nn

from ..errors import ModelError, nearest, quoted
from ..recipe import layer_matches

Shape: TypeAlias = tuple[int, ...]
Stated: TypeAlias = str | Mapping[str, str] | None
"""What a user says of a state dict or a file: ``"out_in"`` or ``"in_out"``, for all tensors or by name."""
_STATED: Final = ("out_in", "in_out")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is read as a matrix of output channels × everything else, the order all recipes work in.

    Args:
        channels: the axes that index output channels, the slowest first; the others follow in their own order.
        groups: if more than 1, the first axis is split in two before `channels` count: (groups, the rest of it).
            Transposed convolutions with groups are stored so.
        guessed: whether nothing tells, and these axes are only the usual ones.
    """

    channels: tuple[int, ...] = (0,)
    groups: int = 1
    guessed: bool = field(default=False, compare=False)

    def matrix(self, shape: Shape) -> tuple[int, int]:
        """Return (rows, columns) of a tensor of this shape."""
        split = self._split(shape)
        rows = math.prod(split[axis] for axis in self.channels)
        return rows, math.prod(shape) // max(1, rows)

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor as its matrix ``[rows, columns]``, contiguous: a view wherever memory allows one."""
        if self.channels == (0,):  # as nearly always: no axis moves
            return tensor.reshape(self.matrix(tensor.shape)).contiguous()
        split = self._split(tensor.shape)
        return tensor.reshape(split).permute(self._order(split)).reshape(self.matrix(tensor.shape)).contiguous()

    def restored(self, rows: Tensor, shape: Shape) -> Tensor:
        """Undo `rows`: return what was given row by row in the tensor's own shape, contiguous."""
        if self.channels == (0,):
            return rows.reshape(shape).contiguous()
        ordered, back = self.unfolding(shape)
        return rows.reshape(ordered).permute(back).reshape(shape).contiguous()

    def unfolding(self, shape: Shape) -> tuple[Shape, list[int]]:
        """Return how rows become a tensor of this shape: first reshaped to this, then its axes permuted so."""
        split = self._split(shape)
        order = self._order(split)
        return tuple(split[axis] for axis in order), [order.index(axis) for axis in range(len(split))]

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
PYTORCH_NAME: Final = re.compile(r"(^|_)weight(_|$)")
"""Last parts of names that PyTorch's own layers have: weight, in_proj_weight, weight_hh_l0."""
_TABLE_NAME: Final = re.compile(r"(embed(s|dings?)?|emb|wte|wpe|table|tokens?|codebook|bias(es)?)$", re.IGNORECASE)
"""What holds one vector in each row, such as the biases of experts."""
_LONGEST_FILTER: Final = 32
"""A last axis up to this long is that of a filter in one dimension, if only a name like "…weight" is known: filters are
odd and short, and the matrices that experts are stacked of are larger."""


def layouts(shapes: Mapping[str, Shape], modules: Mapping[str, nn.Module], stated: Stated = None) -> dict[str, Layout]:
    """Return the layout of every tensor of two or more dimensions, by name.

    The class of the module that owns it decides, if that is known; else its name, the bias beside it, whose length is
    the number of output channels, and the tensors beside it. Square matrices whose bias could belong to either axis
    go with the matrices of the same class, or of the same state dict, that are decided. Where nothing decides, what is
    `stated` does, and else what PyTorch does; of names that are not PyTorch's the layout is then `guessed`. What is
    stated of a tensor by its name comes before all else.

    Raises:
        ModelError: for what cannot be stated, or is stated of no tensor.
    """
    found: dict[str, Layout] = {}
    undecided: dict[str, type | None] = {}
    in_out: dict[type | None, bool] = {}  # whether all matrices that their bias decides are stored as in × out
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        # a parametrized weight belongs to the module that it is a weight of, not to the chain that computes it
        computed = ".parametrizations." in name
        owner = modules.get(name.partition(".parametrizations.")[0] if computed else name.rpartition(".")[0])
        kind = type(owner) if owner is not None else None
        # From the surest to the vaguest: what the class says, then the name, then the length of the bias, then the
        # neighbours.
        layout = layout_by_class(owner, shape) or _by_name(name, shape, shapes)
        if layout is None and (layout := _by_bias(name, shape, shapes)) and len(shape) == 2:
            # One matrix of a class that is out × in refutes in × out for all of it, whatever order they come in.
            in_out[kind] = layout != FIRST and in_out.get(kind, True)
        layout = layout or _by_neighbours(name, shape, shapes, owner)
        if layout is None:
            undecided[name] = kind
        # nothing tells: as PyTorch has it, three dimensions are a stack of matrices or the filters of a Conv1d
        stacked = len(shape) == 3 and not _is_filter(name, shape, owner)
        found[name] = layout or (_STACK if stacked else FIRST)
    by_name, of_the_rest = _stated(stated, list(found))
    # last, as it takes all that is decided: square matrices go with their like
    for name, kind in undecided.items():
        shape, bias = shapes[name], _bias(name, shapes)
        if len(shape) == 2 and bias and kind in in_out:
            found[name] = Layout((1,)) if in_out[kind] else FIRST
        elif of_the_rest is not None:
            found[name] = _as_stated(of_the_rest, found[name], shape)
        elif not (PYTORCH_NAME.search(leaf_of(name)) or (len(shape) == 2 and 1 in shape)):  # vectors have no layout
            found[name] = replace(found[name], guessed=True)
    return found | {name: _as_stated(axes, found[name], shapes[name]) for name, axes in by_name.items()}


def _stated(stated: Stated, names: list[str]) -> tuple[dict[str, str], str | None]:
    """Return what a user says of tensors by name, and of all that nothing tells."""
    if stated is None or isinstance(stated, str):
        return {}, None if stated is None else _checked(stated)
    if not isinstance(stated, Mapping):
        raise ModelError(f"layout={quoted(stated)} must be 'out_in', 'in_out', or a dict of these by tensor name")
    found: dict[str, str] = {}
    for pattern, axes in stated.items():
        matched = [name for name in names if layer_matches(pattern, name)] if isinstance(pattern, str) else []
        if not matched:
            near = nearest(pattern, names) if isinstance(pattern, str) else ""
            raise ModelError(f"layout={{{quoted(pattern)}: …}} matches no tensor of two or more dimensions{near}")
        found |= dict.fromkeys(matched, _checked(axes))
    return found, None


def _checked(axes: object) -> str:
    if not isinstance(axes, str) or axes not in _STATED:
        near = nearest(axes, _STATED) if isinstance(axes, str) else ""
        raise ModelError(
            f"layout={quoted(axes)} must be 'out_in' (output channels first, as in PyTorch) or 'in_out' (last, as in "
            f"Keras and JAX){near}"
        )
    return axes


def _as_stated(axes: str, usual: Layout, shape: Shape) -> Layout:
    """Return the layout of a tensor with output channels first or last; of a stack, of each of its matrices."""
    stacked = usual.channels[:1] == (0,) and len(usual.channels) == 2
    if axes == "out_in":
        return _STACK if stacked else FIRST
    return Layout((0, len(shape) - 1)) if stacked else Layout((len(shape) - 1,))


def guesses(found: Iterable[tuple[str, Shape, Layout]], answerable: bool) -> tuple[str, ...]:
    """Return in a sentence each which tensors are read in the usual way because nothing tells, and what to do."""
    guessed = [item for item in found if item[2].guessed]
    warnings = []
    for stacked, order in ((False, "output channels first (out × in)"), (True, "a stack of out × in")):
        alike = [(name, shape) for name, shape, layout in guessed if (len(layout.channels) > 1) == stacked]
        if not alike:
            continue
        name, shape = alike[0]
        which = f"{quoted(name)} ({'×'.join(map(str, shape))})"
        several = f"{which} and {len(alike) - 1:,} more are" if len(alike) > 1 else f"{which} is"
        cure = "give layout='in_out'" if answerable else "give model.state_dict() and layout='in_out'"
        warnings.append(f"{several} read as {order}, and nothing says so: if it is in × out, {cure}")
    return tuple(warnings)


def bias_names(name: str) -> Iterator[str]:
    """Yield what the bias of a weight of this name may be called."""
    path, last = _parent(name), leaf_of(name)
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
    return name[: len(name) - len(leaf_of(name))]


def leaf_of(name: str) -> str:
    """Return the last part of a name; JAX and Keras write paths with slashes."""
    return re.split(r"[./]", name)[-1]


def layout_by_class(owner: Any, shape: Shape) -> Layout | None:
    """Return what the owner's class says of a parameter, None if it says nothing."""
    if isinstance(owner, _TRANSPOSED):  # in × (out / groups) × filter
        split = owner.groups > 1 and shape[0] % owner.groups == 0
        return Layout((0, 2), owner.groups) if split else Layout((1,))
    if isinstance(owner, _CHANNELS_FIRST) or type(owner).__name__ == "KernelMachine":  # ours, of from_sklearn
        return FIRST
    if type(owner).__name__ == "Conv1D" and hasattr(owner, "nf"):  # Hugging Face's, of GPT-2: inputs × outputs
        return Layout((1,))
    if len(shape) == 3 and isinstance(stored := getattr(owner, "is_transposed", None), bool):  # its experts
        return _STACK_IN_OUT if stored else _STACK
    return None


def _by_name(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a kernel of Keras, flax, haiku or TensorFlow, None for any other name."""
    last = leaf_of(name).removesuffix(":0")  # of TensorFlow's names
    foreign = "/" in name and (last in ("w", "weights") or re.search(r"/vars/0$", name))
    if not (last.endswith("kernel") or foreign):
        return None
    if "embedding" in _parent(name).rstrip("/").rpartition("/")[2]:  # a table, with a vector in each row
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


def _by_bias(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a tensor with a bias of one dimension that fits one place only."""
    bias = _bias(name, shapes)
    if len(bias) != 1:
        return None
    (outputs,) = bias
    if len(shape) == 2 or "weight" not in leaf_of(name):
        # Square, or the bias fits neither axis: it tells nothing.
        if (shape[0] == outputs) == (shape[-1] == outputs):
            return None
        return FIRST if shape[0] == outputs else Layout((len(shape) - 1,))
    # "weight" with more axes is a convolution's: out × in × filter, or in × out × filter if it is transposed
    square = shape[0] == shape[1]
    if outputs == shape[0] and not (square and re.search("transpose|deconv", name, re.IGNORECASE)):
        return FIRST
    if outputs == shape[1]:
        return Layout((1,))
    if len(shape) > 3 and outputs == shape[-1] != shape[-2]:  # filter × in × out, as TensorFlow has it
        return Layout((len(shape) - 1,))
    groups, rest = divmod(outputs, shape[1])  # transposed, with groups: in × (out / groups) × filter
    return Layout((0, 2), groups) if groups and not rest and shape[0] % groups == 0 else None


def _by_neighbours(name: str, shape: Shape, shapes: Mapping[str, Shape], owner: nn.Module | None) -> Layout | None:
    """Return the layout of a table of vectors, or of a stack that the stacks beside it explain."""
    last = leaf_of(name)
    holder = leaf_of(_parent(name)[:-1]) if last == "weight" else last
    table = _TABLE_NAME.search(holder) and len(shape) < 4
    if table and len(shape) == 2:
        return FIRST
    if len(shape) == 2:
        return None
    if shape[0] == 1 and (table or "weight" not in last):  # position embeddings 1 × N × D: a row for each position
        return Layout((next((axis for axis, size in enumerate(shape) if size > 1), 0),))
    if table:
        return _STACK
    return None if len(shape) > 3 or _is_filter(name, shape, owner) else _stack(name, shape, shapes)


def _is_filter(name: str, shape: Shape, owner: nn.Module | None) -> bool:
    """Tell whether a tensor of three dimensions is a convolution's, by what it is called and how long it is."""
    short = shape[1] == 1 or shape[2] <= _LONGEST_FILTER
    return "weight" in leaf_of(name) and owner is None and short and not re.search("expert|moe", name, re.IGNORECASE)


def _stack(name: str, shape: Shape, shapes: Mapping[str, Shape]) -> Layout | None:
    """Return the layout of a stack of matrices, such as the experts of a layer, None if nothing tells.

    Their bias tells; or a stack beside it, if one of both holds two matrices in one (gates and values, 2·I × H beside
    H × I): the sizes then fit only one way.
    """
    # Gates and values in one matrix: its outputs are twice the inputs of the one that comes after, 2·I × H and H × I.
    experts, a, b = shape
    bias = _bias(name, shapes)
    if bias in ((experts, a), (experts, b)) and a != b:
        return _STACK if bias == (experts, a) else _STACK_IN_OUT
    for other, beside in shapes.items():
        if other != name and len(beside) == 3 and beside[0] == experts and _parent(other) == _parent(name):
            _, c, d = beside
            if (a, b) == (2 * d, c) or (c, d) == (2 * b, a):
                return _STACK
            if (a, b) == (d, 2 * c) or (c, d) == (b, 2 * a):
                return _STACK_IN_OUT
    return None
