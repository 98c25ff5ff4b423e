"""Give a module smaller tensors: its parameters and buffers, and the sizes its layers say they have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from .module_graph import output_layers

Cuts = Mapping[str, Mapping[int, Tensor]]
"""Which indices are kept, ascending, by the name of a tensor and the dimension; all of those not named."""


def narrow(model: nn.Module, cuts: Cuts) -> list[Callable[[], None]]:
    """Keep only some indices of a model's tensors, in place; return what undoes it, to be called in this order.

    A tensor that several modules share is cut once and stays shared. What layers say of their size (`in_channels`,
    `out_features`, `num_features`, `groups`, `hidden_size`, …) is set to what they now have.
    """
    # By the id of the tensor, since a tied one has several names and must stay one.
    smaller = {id(tensor): _cut(tensor, cuts[name]) for name, tensor in _named(model) if name in cuts}
    undo: list[Callable[[], None]] = []
    resized: dict[str, set[tuple[int, int]]] = {}  # by the name of a module: sizes of its tensors before and after
    for name, module in model.named_modules() if smaller else ():
        before = {n: tuple(p.shape) for n, p in module._parameters.items() if p is not None}
        held: Any
        for held in (module._parameters, module._buffers):
            for own, tensor in held.items():
                if tensor is not None and id(tensor) in smaller:
                    held[own] = smaller[id(tensor)]
                    undo.append(partial(held.__setitem__, own, tensor))
                    sizes = zip(tensor.shape, held[own].shape, strict=True)
                    resized.setdefault(name, set()).update((a, b) for a, b in sizes if a != b)
        if name in resized:
            undo += _set(module, _sizes(module, before))
    for name, module in model.named_modules() if smaller else ():
        undo += _set(module, _heads(module, resized, f"{name}." if name else ""))
    return undo[::-1]


def _named(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _cut(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    new = tensor.detach()
    for dim, indices in kept.items():
        new = new.index_select(dim, indices.to(new.device))
    new = nn.Parameter(new, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else new
    # Libraries hang flags on parameters (no weight decay, tensor-parallel ranks): they go along.
    new.__dict__.update(vars(tensor))
    return new


def _set(module: nn.Module, values: Iterable[tuple[str, Any]]) -> list[Callable[[], None]]:
    """Set attributes of a module; return what sets them back."""
    undo: list[Callable[[], None]] = []
    for name, value in values:
        undo.append(partial(setattr, module, name, getattr(module, name)))
        setattr(module, name, value)
    return undo


_HEAD_COUNTS: Final = (
    *("num_heads", "n_heads", "nheads", "n_head", "heads", "num_attention_heads", "num_key_value_heads"),
    *("num_kv_heads", "n_kv_heads"),
)
_ALL_HEADS: Final = ("all_head_size", "attn_dim", "split_size", "inner_dim", "attention_dim", "qkv_dim")


def _heads(module: nn.Module, resized: Mapping[str, set[tuple[int, int]]], prefix: str) -> Iterator[tuple[str, int]]:
    """Yield how many heads an attention module of others now has, as the tensors of its children tell.

    Its code cuts the width into so many heads. Which numbers follow is told by their names and by the sizes alone, so
    that a module which is filled from a file gets the same ones. That they are the right ones is proven by a trial.
    """
    own = vars(module)
    # `type is int`: a bool is an int, too, and a list of head counts is nothing to divide.
    counts = {name: own[name] for name in _HEAD_COUNTS if type(own.get(name)) is int}
    if not counts or type(module).__module__.startswith("torch.nn."):
        return
    changes = {pair for child, _ in module.named_children() for pair in resized.get(prefix + child, ())}
    changes |= resized.get(prefix.removesuffix("."), set())
    # A width that is no multiple of every count, or would leave a fraction of a head, is not the one heads are cut
    # from. If several widths changed by different ratios, nothing tells which is; the module is left alone, and the
    # trial fails.
    ratios = {(a, b) for a, b in changes if all(a % n == 0 and n * b % a == 0 for n in counts.values())}
    if len({b / a for a, b in ratios}) != 1:
        return
    before, after = next(iter(ratios))
    for name, count in counts.items():
        yield name, count * after // before
    whole = {a for a, _ in ratios}
    for name in _ALL_HEADS:
        size = own.get(name)
        # Queries, keys and values are often one layer of three times the width.
        if type(size) is int and (size in whole or 3 * size in whole) and size * after % before == 0:
            yield name, size * after // before


@contextmanager
def narrowed(model: nn.Module, cuts: Cuts) -> Iterator[None]:
    """Have a model be narrower for as long as the context lasts."""
    undo = narrow(model, cuts)
    try:
        yield
    finally:
        for step in undo:
            step()


@contextmanager
def masked(model: nn.Module, cuts: Cuts) -> Iterator[None]:
    """Have all that `cuts` would remove be zero for as long as the context lasts: the preview of the narrower model."""
    before: list[tuple[Tensor, int, Tensor, Tensor]] = []
    with torch.no_grad():
        try:
            for name, tensor in _named(model):
                for dim, kept in cuts.get(name, {}).items():
                    stays = torch.zeros(tensor.shape[dim], dtype=torch.bool)
                    stays[kept] = True
                    gone = (~stays).nonzero()[:, 0].to(tensor.device)
                    before.append((tensor, dim, gone, tensor.index_select(dim, gone)))
                    tensor.index_fill_(dim, gone, 0)
            yield
        finally:
            # Backwards: what was set to zero along a second dimension was zero along the first already, in part.
            for tensor, dim, gone, values in reversed(before):
                tensor.index_copy_(dim, gone, values)


def narrow_to(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[Callable[[], None]]:
    """Cut a fresh, dense model to the shapes of a file, in place; return what undoes it, as `narrow` does.

    Which channels went does not matter: its weights are written over. Tensors of other dimensions, or larger than the
    model's, are left for whoever compares the two; so is what no channel's removal changes: the model's outputs, a
    layer norm's width, and the size of a kernel.
    """
    outputs = output_layers(model)
    layers = dict(model.named_modules())
    cuts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in _named(model):
        wanted = shapes.get(name, tuple(tensor.shape))
        if isinstance(layers[name.rpartition(".")[0]], nn.LayerNorm) or wanted[2:] != tuple(tensor.shape[2:]):
            continue
        if len(wanted) == tensor.ndim and all(a <= b for a, b in zip(wanted, tensor.shape, strict=True)):
            own = {d: torch.arange(a) for d, (a, b) in enumerate(zip(wanted, tensor.shape, strict=True)) if a < b}
            if name.rpartition(".")[0] in outputs and tensor.ndim > 1:
                own.pop(_output_dim(layers[name.rpartition(".")[0]]), None)
            if own:
                cuts[name] = own
    return narrow(model, cuts)


def _output_dim(layer: nn.Module) -> int:
    """Return along which dimension of a layer's weight its output channels lie."""
    in_out = type(layer).__name__ == "Conv1D" or getattr(layer, "transposed", False)  # Conv1D: Hugging Face's
    return 1 if in_out or isinstance(layer, nn.Embedding | nn.EmbeddingBag) else 0


def _sizes(module: nn.Module, before: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    """Yield what a layer says of its size, as its tensors now have it; `before` are the shapes they had."""
    for kind, sizes in _SIZES.items():
        if isinstance(module, kind):
            yield from ((name, value) for name, value in sizes(module, before) if hasattr(module, name))
            return
    # layers of others: a number that is named as ours are, and said the size a tensor had
    weight = module._parameters.get("weight")
    if weight is not None and weight.ndim and "weight" in before:
        in_out = type(module).__name__ == "Conv1D"  # Hugging Face's, which is a linear layer
        for names, dim in (_OUTPUTS, int(in_out)), (_INPUTS, 1 - in_out):
            for name in names if weight.ndim > dim else ():
                if vars(module).get(name) == before["weight"][dim] and before["weight"][dim] != weight.shape[dim]:
                    yield name, weight.shape[dim]


_OUTPUTS: Final = ("out_features", "out_channels", "num_features", "num_channels", "nf")
_INPUTS: Final = ("in_features", "in_channels", "nx")


def _convolution(module: Any, before: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    # of a grouped one whole groups go, so that their number says how many channels there are
    first, second = module.weight.shape[:2]
    groups = module.groups * first // before["weight"][0] if module.groups > 1 else 1
    ins, outs = (first, second * groups) if module.transposed else (second * groups, first)
    yield from (("groups", groups), ("in_channels", ins), ("out_channels", outs))


def _group_norm(module: Any, before: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    # Whole groups of channels go (`channel_dependency_graph`), so the channels of a group stay as many.
    channels = module.weight.shape[0]
    yield "num_groups", module.num_groups * channels // before["weight"][0]
    yield "num_channels", channels


def _recurrent(module: Any, _before: Mapping[str, tuple[int, ...]]) -> Iterator[tuple[str, Any]]:
    yield "input_size", module.weight_ih_l0.shape[1]
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    yield "hidden_size", module.weight_hh_l0.shape[0] // gates
    if getattr(module, "proj_size", 0):
        yield "proj_size", module.weight_hh_l0.shape[1]
    # the layer runs on this list, not on its parameters (which a module on a GPU packs into one)
    yield "_flat_weights", [getattr(module, name) for name in module._flat_weights_names]


_SIZES: Final[Mapping[Any, Callable[[Any, Mapping[str, tuple[int, ...]]], Iterable[tuple[str, Any]]]]] = {
    nn.Linear: lambda module, _before: zip(("out_features", "in_features"), module.weight.shape, strict=True),
    nn.Bilinear: lambda module, _before: zip(
        ("out_features", "in1_features", "in2_features"), module.weight.shape, strict=True
    ),
    nn.modules.conv._ConvNd: _convolution,
    nn.modules.batchnorm._NormBase: lambda module, _before: [
        ("num_features", (module.running_mean if module.weight is None else module.weight).shape[0])
    ],
    nn.GroupNorm: _group_norm,
    (nn.Embedding, nn.EmbeddingBag): lambda module, _before: zip(
        ("num_embeddings", "embedding_dim"), module.weight.shape, strict=True
    ),
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: lambda module, _before: [
        ("input_size", module.weight_ih.shape[1]),
        ("hidden_size", module.weight_hh.shape[1]),
    ],
    nn.PReLU: lambda module, _before: [("num_parameters", module.weight.shape[0])],
}
