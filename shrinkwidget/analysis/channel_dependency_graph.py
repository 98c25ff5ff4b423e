"""Which slices of a network's weights go together: labels that ride along one forward pass.

Every index along every dimension of every parameter is an *atom*. While the network runs on an example, each operation
says which atoms have to go together. A convolution multiplies channel 3 of its input with column 3 of its weight, so
whatever made that channel goes with that column; adding two tensors ties them index by index; and a view, a
concatenation or a split does to the labels what it does to the values. What depends on a whole width at once (a layer
norm, a mean over channels, the model's output) *pins* its atoms: they stay, and the reason is kept.

Connected atoms are a *class*: they are removed together, or not at all.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from .run_model_seeded_macs_and_memory import in_separate_steps, run, tensors_in, without_fused_recurrence

Atoms: TypeAlias = NDArray[np.int64]

UNREACHED: Final = "the example does not reach it"
"""Why a width stays that the forward pass said nothing of."""


class Place(NamedTuple):
    """One dimension of one parameter or buffer, by the first of its names."""

    name: str
    dim: int


@dataclass(frozen=True, slots=True)
class Factor:
    """Labels of a tensor along some of its dimensions: atoms, broadcastable to its shape; −1 where there is none.

    A tensor has one factor for each independent set of dimensions: in a channels × tokens product both may have one.
    `soft` ones belong to buffers, which follow a width only where they cover it: a table of rotary angles spans the
    positions of a head, but says nothing of how many heads there are.
    """

    atoms: Tensor
    soft: bool = False
    dims: frozenset[int] = field(init=False)
    """The dimensions it has different labels along."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", frozenset(d for d, size in enumerate(self.atoms.shape) if size > 1))


@dataclass(frozen=True, slots=True)
class Info:
    """What is known of a tensor: its factors, and whether the rest of it is independent of the model's inputs."""

    factors: tuple[Factor, ...] = ()
    constant: bool = True


_UNKNOWN_CONSTANT: Final = Info()


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A product of two activations: its multiply-accumulates, and the labels of the dimensions it runs over."""

    module: str
    macs: int
    factors: tuple[Tensor, ...]


@dataclass(eq=False)
class Trace:
    """What one forward pass said of a model's atoms.

    `places` are the dimensions that have atoms, each a range beginning at its `starts`; `edges` are pairs of atoms that
    go together, and `pins` atoms that have to stay, with the reason and the module that was running; `couplings` are
    equal pieces that a tensor was cut into; `products` those of two activations.
    """

    places: list[Place]
    starts: Atoms
    edges: list[tuple[Atoms, Atoms]] = field(default_factory=list)
    pins: list[tuple[Atoms, str, str]] = field(default_factory=list)
    couplings: list[Tensor] = field(default_factory=list)
    products: list[Product] = field(default_factory=list)

    def atoms(self, place: int) -> range:
        """Return the atoms of a place."""
        return range(int(self.starts[place]), int(self.starts[place + 1]))

    def components(self, more: Iterable[tuple[Atoms, Atoms]] = ()) -> Atoms:
        """Return for every atom the least atom of its class."""
        pairs = [*self.edges, *more]
        count = int(self.starts[-1])
        if not pairs:
            return np.arange(count)
        left, right = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
        # One number for each pair, sorted, so that each is looked at once: np.unique of pairs takes ten times as long.
        numbers = np.sort(np.minimum(left, right) * count + np.maximum(left, right))
        least, most = np.divmod(numbers[np.flatnonzero(np.diff(numbers, prepend=-1))], count)
        return connected(count, least, most)


def connected(count: int, left: Atoms, right: Atoms) -> Atoms:
    """Return the least member of each one's connected component, given the edges between `count` of them."""
    root = np.arange(count)
    while True:
        # Connected components without a loop over edges in Python (hooking and pointer jumping, Shiloach and Vishkin
        # 1982): a model has millions of atoms. Labels only ever get smaller, so a round that changes nothing is the
        # end.
        least = np.minimum(root[left], root[right])
        before = root.copy()
        # `minimum.at`, since one atom is an end of many edges: plain indexing would keep only the last of them.
        # the roots of both ends are hooked to the lesser one, then every path is halved until it is flat
        for ends in (root[left], root[right], left, right):
            np.minimum.at(root, ends, least)
        while not np.array_equal(root, halved := root[root]):
            root = halved
        if np.array_equal(root, before):
            return root


def trace_channels(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Trace:
    """Run a model once, in eval mode and without gradients, and return what its operations said of their channels.

    The model's parameters must be plain ones; `copied` of `open_model_tensors_and_channel_axes.py` makes a copy that
    has only those.

    Raises:
        DataError: if the model cannot run the example.
    """
    # Attention and recurrent layers run as matrix products, which say more than one kernel for all would.
    with (
        torch.no_grad(),
        in_separate_steps(),
        sdpa_kernel(SDPBackend.MATH),
        without_fused_recurrence(),
        _modules(model) as running,
    ):
        tracer = _Tracer(model, running, (args, kwargs))
        tracer.pin_attention(model)
        with tracer:
            outputs = run(model, tuple(args), kwargs)
        tracer.pin_the_rest(outputs)
    return tracer.trace


@contextmanager
def _modules(model: nn.Module) -> Iterator[list[str]]:
    """Give the stack of the names of the modules that are running."""
    stack = [""]

    def enter(name: str, *_: object) -> None:
        stack.append(name)

    def leave(*_: object) -> None:  # a hook that returned what `pop` does would replace the module's output
        stack.pop()

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            try:
                hooks.enter_context(module.register_forward_pre_hook(partial(enter, name)))
                hooks.enter_context(module.register_forward_hook(leave))
            except RuntimeError:  # scripted modules take no hooks
                continue
        yield stack


_CHECKED_BY_ATTENTION: Final[Mapping[str, frozenset[int]]] = {
    "in_proj_weight": frozenset((0, 1)),
    "q_proj_weight": frozenset((0, 1)),
    "k_proj_weight": frozenset((0,)),
    "v_proj_weight": frozenset((0,)),
}
"""Dimensions of parameters of nn.MultiheadAttention that have to be its `embed_dim`, or three times that."""


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Sees every operation, and has the rule of its kind carry the labels on."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave the method below as it is: torch would import its compiler for it, which takes 1.5 s."""
        return False

    def __init__(self, model: nn.Module, running: list[str], inputs: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._running = running
        self._reached: set[int] = set()
        self._tensors: dict[int, Tensor] = {}
        self._known: dict[int, tuple[Any, Info]] = {}
        places: list[Place] = []
        starts = [0]
        seen: dict[int, str] = {}
        tensors = [(n, p, False) for n, p in model.named_parameters()] + [
            # Buffers last: one that shares memory with a parameter is known as that parameter.
            (n, b, True)
            for n, b in model.named_buffers()
        ]
        for name, tensor, soft in tensors:
            if id(tensor) in seen or not tensor.is_floating_point():
                continue
            seen[id(tensor)] = name
            self._tensors[id(tensor)] = tensor
            factors = []
            for dim, size in enumerate(tensor.shape):
                places.append(Place(name, dim))
                shape = [1] * tensor.ndim
                shape[dim] = size
                if size > 1:
                    factors.append(Factor(torch.arange(starts[-1], starts[-1] + size).view(shape), soft))
                starts.append(starts[-1] + size)
            # A dimension of size 1 has an atom, so that places and atoms line up, but no label: it cannot become
            # smaller.
            self._know(tensor, Info(tuple(factors), constant=True))
        self.trace = Trace(places, np.array(starts))
        for tensor in tensors_in(inputs):
            self._know(tensor, Info(constant=False))

    # ---- what is known of a tensor ----

    def _know(self, tensor: Tensor, info: Info) -> None:
        # An id comes again once its tensor is gone, so the reference says whether this is still the one.
        self._known[id(tensor)] = (weakref.ref(tensor), info)

    def info(self, tensor: Tensor) -> Info:
        """Return what is known of a tensor; one that nothing was said of is a constant without labels."""
        found = self._known.get(id(tensor))
        return found[1] if found is not None and found[0]() is tensor else _UNKNOWN_CONSTANT

    def pin_the_rest(self, outputs: object) -> None:
        """Pin what is left in the model's outputs, whose shapes the caller expects, and what was never used."""
        for tensor in self._tensors.values():
            for factor in self.info(tensor).factors if id(tensor) not in self._reached else ():
                self.pin(Factor(factor.atoms), UNREACHED, module="")
        for tensor in tensors_in(outputs):
            for factor in self.info(tensor).factors:
                self.pin(factor, "the model's output has it", module="")

    def pin_attention(self, model: nn.Module) -> None:
        """Pin the widths that PyTorch's own attention checks: it takes no others than those it was made with.

        Before anything runs, as the first reason counts: what its operations would say (a mean over heads, of weights
        that nobody asked for) or its error in the trial does not tell what to do.
        """
        for name, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention) and type(module).forward is nn.MultiheadAttention.forward:
                for own, parameter in module.named_parameters(recurse=False):
                    # The inputs of keys and values may have widths of their own, which it does not check.
                    checked = _CHECKED_BY_ATTENTION.get(own, frozenset())
                    for factor in self.info(parameter).factors:
                        if factor.dims & checked:
                            self.pin(factor, "nn.MultiheadAttention fixes it in its code", name)

    # ---- what rules say ----

    def pin(self, factor: Factor, reason: str, module: str | None = None) -> None:
        """Keep the atoms of a factor where they are."""
        if not factor.soft:
            atoms = factor.atoms.reshape(-1).numpy()
            self.trace.pins.append((atoms[atoms >= 0], reason, self._running[-1] if module is None else module))

    def tie(self, left: Tensor, right: Tensor) -> None:
        """Have the atoms of two factors go together, index by index."""
        if left is right:
            return
        a, b = (x.reshape(-1) for x in np.broadcast_arrays(left.numpy(), right.numpy()))
        both = (a >= 0) & (b >= 0) & (a != b)
        if both.any():
            self.trace.edges.append((a[both], b[both]))

    def meet(self, given: Sequence[tuple[Info, Sequence[int]]], multiplied: bool = False) -> Info:
        """Return what is known of an element-wise result; `given` are operands and shapes, of one number of dimensions.

        A factor that meets another along a dimension is tied to it. Beside numbers that come from the model's inputs a
        width has to stay, as those do. In a product that is summed afterwards (`multiplied`), an index that meets a
        constant has to stay, too.
        """
        result: list[Factor] = []
        for number, (info, _) in enumerate(given):
            for factor in info.factors:
                for other, (their, shape) in enumerate(given):
                    meets = any(factor.dims & f.dims and not f.soft for f in their.factors)
                    # numbers of the input that lie along a width: they would have to be cut as well
                    beside = not their.constant and any(shape[d] > 1 for d in factor.dims)
                    # A residual of the input itself, or a mask that the caller gives: its width is fixed from outside.
                    if other != number and beside and not meets:
                        self.pin(factor, "it meets the model's input")
                if factor.dims:
                    result = self._joined(result, factor, multiplied)
        return Info(tuple(result), all(info.constant for info, _ in given))

    def _joined(self, result: list[Factor], new: Factor, multiplied: bool) -> list[Factor]:
        """Return the factors of a result with one more, tied to those it overlaps."""
        kept: list[Factor] = []
        for old in result:
            if not old.dims & new.dims:
                kept.append(old)
                continue
            if old.soft != new.soft:
                hard, soft = (new, old) if old.soft else (old, new)
                if hard.dims <= soft.dims:  # a buffer that covers the width: it is cut with it
                    self.tie(hard.atoms, soft.atoms)
                new = hard
                continue
            if old.soft:
                new = old
                continue
            self.tie(old.atoms, new.atoms)
            lack = bool((old.atoms < 0).any()) or bool((new.atoms < 0).any())
            # Padding, and concatenation with a constant, leave gaps without labels. Where a column of a matrix meets
            # one, the column stays: the constant has no channel that could be removed with it.
            if lack:
                if multiplied:
                    alone = (old.atoms < 0) ^ (new.atoms < 0)
                    self.pin(Factor(torch.maximum(old.atoms, new.atoms).where(alone, -1)), "it meets a constant")
                new = Factor(old.atoms.where(old.atoms >= 0, new.atoms))
            else:
                # Tied as they are now, either would do; the smaller one is cheaper to carry on.
                new = old if len(old.dims) <= len(new.dims) else new
        return [*kept, new]

    def collapse(self, info: Info, dims: Iterable[int], pinned: str = "", shape_stays: bool = False) -> Info:
        """Return what is left of the labels when some dimensions become one: what they held goes together.

        A factor that had nothing else is gone, as in a sum, where what is removed adds nothing; or `pinned`, a reason.
        Where the result still has the dimensions (`shape_stays`), a pinned factor is carried on.
        """
        over = set(dims)
        left = []
        for factor in info.factors:
            if not factor.dims & over:
                left.append(factor)
            elif factor.dims <= over:
                if pinned:
                    self.pin(factor, pinned)
                if shape_stays:
                    left.append(factor)
            else:
                first = factor.atoms
                for d in factor.dims & over:
                    first = first.narrow(d, 0, 1)
                self.tie(first, factor.atoms)
                left.append(Factor(first, factor.soft))
        return Info(tuple(left), info.constant)

    def product(self, a: tuple[Info, list[int]], b: tuple[Info, list[int]], over: Iterable[int]) -> Info:
        """Return what is known of a product of two tensors, in the dimensions of both, summed `over` some."""
        if not a[0].constant and not b[0].constant:  # of two activations
            macs = math.prod(max(x, y) for x, y in zip(a[1], b[1], strict=True))
            widths: list[Tensor] = []
            # Attention: queries × keys has the heads from both, but their number counts once.
            for factor in (*a[0].factors, *b[0].factors):  # of two that meet, one says how many are left
                if factor.dims and not any(factor.dims & Factor(other).dims for other in widths):
                    widths.append(factor.atoms)
            self.trace.products.append(Product(self._running[-1], macs, tuple(widths)))
        return self.collapse(self.meet([a, b], multiplied=True), over)

    # ---- the dispatch ----

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # torch.cond and its like: what is inside is not seen
            out = func(*args, **kwargs)
            self._unknown(str(func), args, kwargs, out)
            return out
        # In-place variants end in "_" and obey the same rule, but "copy_" and "fill_" have entries of their own.
        name = str(func.overloadpacket).removeprefix("aten.")
        rule = _RULES.get(name) or _RULES.get(name.rstrip("_"))
        pointwise = torch.Tag.pointwise in func.tags or name.rstrip("_") in _POINTWISE
        if rule is None and not pointwise:
            with self:  # some operations arrive whole that are made of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        given = list(tensors_in((args, kwargs)))
        self._reached.update(map(id, given))
        if rule is _moved and name.endswith("_"):  # afterwards the tensor no longer has the shape its labels are of
            found: Info | list[Info] | None = rule(self, func, args, kwargs, args[0])
            out = func(*args, **kwargs)
            self._keep(out, found)
            return out
        out = func(*args, **kwargs)
        if rule is not None:
            found = rule(self, func, args, kwargs, out)
        elif pointwise:
            found = _pointwise(self, func, args, kwargs, out)
        # An operation that sees nothing with labels cannot do them any harm, whatever it is.
        elif any(f for t in given for f in self.info(t).factors if not f.soft):
            self._unknown(name, args, kwargs, out)
            return out
        else:
            found = Info(constant=all(self.info(t).constant for t in given))
        self._keep(out, found)
        return out

    def _keep(self, out: Any, found: Info | list[Info] | None) -> None:
        if found is None:
            return
        if not isinstance(out, Tensor | tuple | list):  # a number, such as .item() gives
            return
        # Labels are those of the first output. What else an operation returns (the indices of a maximum, saved
        # statistics) carries none.
        outs = [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]
        if isinstance(found, Info):
            found = [found] + [Info(constant=found.constant)] * (len(outs) - 1)
        for tensor, info in zip(outs, found, strict=True):
            self._know(tensor, info)

    def _unknown(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        constant = True
        known: dict[tuple[int, ...], tuple[Factor, ...]] = {}
        for tensor in tensors_in((args, kwargs)):
            info = self.info(tensor)
            constant = constant and info.constant
            known.setdefault(tuple(tensor.shape), info.factors)
            for factor in info.factors:
                self.pin(factor, f"operator {name} is not known")
        for tensor in tensors_in(out):  # where it may be, the width goes on, so that all of it is told one reason
            self._know(tensor, Info(known.get(tuple(tensor.shape), ()), constant))


# ---- the rules: what each kind of operation does to labels ----

Rule: TypeAlias = Callable[[_Tracer, Any, tuple[Any, ...], dict[str, Any], Any], Info | list[Info] | None]


def _aligned(info: Info, ndim: int, own: int) -> Info:
    """Return labels with dimensions of size 1 before their own, as broadcasting adds them."""
    lead = (1,) * (ndim - own)
    factors = (Factor(f.atoms.reshape(lead + tuple(f.atoms.shape)), f.soft) for f in info.factors)
    return Info(tuple(factors), info.constant) if lead else info


def _pointwise(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Element-wise operations of any number of operands."""
    del func
    result = out if isinstance(out, Tensor) else next(iter(tensors_in(out)))
    operands = list(tensors_in((args, kwargs)))
    ndim = max([result.ndim, *(x.ndim for x in operands)])
    given = [(_aligned(t.info(x), ndim, x.ndim), (1,) * (ndim - x.ndim) + tuple(x.shape)) for x in operands]
    return t.meet(given)


def _same(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """What changes neither the order nor the number of elements."""
    del func, kwargs, out
    return t.info(args[0])


def _nothing(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """New tensors that take only a shape or a dtype of what they are given."""
    del t, func, args, kwargs, out
    return Info()


def _moved(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info | list[Info]:
    """Data movement of one tensor that views allow: done to the labels, expanded to its shape at no cost."""
    x = args[0]
    info = t.info(x)
    outs = [out] if isinstance(out, Tensor) else list(out)
    factors: list[list[Factor]] = [[] for _ in outs]
    for factor in info.factors:
        # The atoms are a tensor, too: the very operation that moved the values moves them. An expanded dimension has
        # stride 0, so nothing of the full size is made.
        found = func(factor.atoms.expand(x.shape), *args[1:], **kwargs)
        for own, atoms in zip(factors, [found] if isinstance(found, Tensor) else found, strict=True):
            own.append(Factor(_narrowed(atoms), factor.soft))
    infos = [Info(tuple(f for f in own if f.dims), info.constant) for own in factors]
    return infos[0] if isinstance(out, Tensor) else infos


def _narrowed(atoms: Tensor) -> Tensor:
    """Return labels with one entry along every dimension they were expanded along."""
    for d, (size, stride) in enumerate(zip(atoms.shape, atoms.stride(), strict=True)):
        if size > 1 and stride == 0:
            atoms = atoms.narrow(d, 0, 1)
    return atoms


def _split(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info | list[Info]:
    """Cut a tensor along a dimension; equal pieces are remembered, as the code may need them to stay equal."""
    found = _moved(t, func, args, kwargs, out)
    if isinstance(found, list) and len({tuple(piece.shape) for piece in out}) == 1:
        for factors in zip(*(info.factors for info in found), strict=False):
            shapes = {tuple(f.atoms.shape) for f in factors}
            if len(shapes) == 1 and len(factors) == len(out) and not factors[0].soft:
                t.trace.couplings.append(torch.stack([f.atoms.reshape(-1) for f in factors]))
    return found


def _copied(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], _out: Any) -> Info | list[Info]:
    """Data movement that copies: done to the labels in full, then looked at for what they depend on."""
    x = args[0]
    info = t.info(x)
    indices = list(tensors_in((args[1:], kwargs)))
    chosen = any(not t.info(i).constant for i in indices)
    factors = []
    for factor in info.factors:
        if chosen and not _untouched(factor, args, x):
            t.pin(factor, "the input chooses among it")
            continue
        # In full, because indexing kernels give no views; what the result does not depend on is taken out again.
        full = func(factor.atoms.expand(x.shape).contiguous(), *args[1:], **kwargs)
        factors.append(Factor(_compressed(full), factor.soft))
    return Info(tuple(f for f in factors if f.dims), info.constant and not chosen)


def _untouched(factor: Factor, args: tuple[Any, ...], x: Tensor) -> bool:
    """Tell whether an indexing operation leaves the dimensions of a factor as they are."""
    if isinstance(args[1], int):  # gather, index_select: along one dimension
        return args[1] % x.ndim not in factor.dims
    if isinstance(args[1], list | tuple):  # index: along those with an index
        return not any(i is not None and d in factor.dims for d, i in enumerate(args[1]))
    return False


def _compressed(atoms: Tensor) -> Tensor:
    """Return labels with one entry along every dimension they are the same along."""
    for d, size in enumerate(atoms.shape):
        if size > 1:
            first = atoms.narrow(d, 0, 1)
            if bool((atoms == first).all()):
                atoms = first
    return atoms


def _reshaped(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Give a tensor another shape: dimensions that merge or split are spelt out, all others stay as they are."""
    del func, kwargs
    x, info = args[0], t.info(args[0])
    pairs = list(_matching_dims(tuple(x.shape), tuple(out.shape)))
    factors = []
    for factor in info.factors:
        shape: list[int] = []
        full = list(factor.atoms.shape)
        for before, after in pairs:
            if any(factor.atoms.shape[d] > 1 for d in before):
                for d in before:
                    full[d] = x.shape[d]
                shape += [out.shape[d] for d in after]
                # One width that is cut into several dimensions, such as heads × positions: the code expects pieces of
                # one size. Whether that matters is not known here; the coupling is tried if the family fails
                # (`find_and_prune_channels`).
                if len(after) > 1 and sum(x.shape[d] > 1 for d in before) == 1 and not factor.soft:
                    own = factor.atoms.reshape(-1)
                    sizes = [out.shape[d] for d in after]
                    if own.numel() == math.prod(sizes) and sizes[0] > 1:
                        t.trace.couplings.append(own.reshape(sizes[0], -1))
            else:
                shape += [1] * len(after)
        atoms = factor.atoms.expand(full).reshape(shape)
        # Looking for repeats reads every entry. Large factors go without: it only saves memory.
        factors.append(Factor(_compressed(atoms) if atoms.numel() <= 1 << 16 else atoms, factor.soft))
    return Info(tuple(f for f in factors if f.dims), info.constant)


def _matching_dims(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the least runs of dimensions of two shapes that hold the same number of elements each."""
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = [], []
        m = n = 1
        if i < len(before):
            left.append(i)
            m, i = before[i], i + 1
        if j < len(after):
            right.append(j)
            n, j = after[j], j + 1
        # Whichever product is behind takes its next dimension: the classic two-pointer walk, since row-major reshapes
        # keep the order of elements.
        while m != n:
            if m < n and i < len(before):
                left.append(i)
                m, i = m * before[i], i + 1
            elif j < len(after):
                right.append(j)
                n, j = n * after[j], j + 1
            else:
                break
        yield left, right


def _concatenated(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Tensors one after the other: along that dimension labels follow each other, along all others they meet."""
    del func
    tensors = [x for x in args[0] if not (x.ndim == 1 and x.numel() == 0 and out.ndim > 1)]
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    return _joined_along(t, [(t.info(x), list(x.shape)) for x in tensors], dim)


def _stacked(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Tensors side by side in a new dimension, along which none has labels."""
    del func
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    given = []
    for x in args[0]:
        info = t.info(x)
        factors = tuple(Factor(f.atoms.unsqueeze(dim), f.soft) for f in info.factors)
        shape = list(x.shape)
        shape.insert(dim, 1)
        given.append((Info(factors, info.constant), shape))
    return _joined_along(t, given, dim)


def _joined_along(t: _Tracer, given: list[tuple[Info, list[int]]], dim: int) -> Info:
    along: list[Factor | None] = []
    rest: list[tuple[Info, list[int]]] = []
    for info, shape in given:
        mine = next((f for f in info.factors if dim in f.dims), None)
        along.append(mine)
        # a concatenated dimension of each operand is no longer one that all have
        others = tuple(f for f in info.factors if f is not mine)
        rest.append((Info(others, info.constant), [1 if d == dim else size for d, size in enumerate(shape)]))
    factors: list[Factor] = []
    if any(along):
        joint = np.broadcast_shapes(
            *(tuple(1 if d == dim else s for d, s in enumerate(f.atoms.shape)) for f in along if f is not None)
        )
        pieces = []
        for at, (mine, (_, shape)) in enumerate(zip(along, given, strict=True)):
            size = tuple(shape[d] if d == dim else s for d, s in enumerate(joint))
            if mine is None:
                # Without labels along the joined dimension it may have some along the other dimensions of the joint
                # factor: its part of the result carries those.
                across = {d for d, s in enumerate(joint) if s > 1}
                info = rest[at][0]
                mine = next((f for f in info.factors if f.dims and f.dims <= across), None)
                if mine is not None:
                    rest[at] = (Info(tuple(f for f in info.factors if f is not mine), info.constant), rest[at][1])
            pieces.append(torch.full(size, -1) if mine is None else mine.atoms.expand(size))
        factors.append(Factor(torch.cat(pieces, dim), all(f.soft for f in along if f is not None)))
    met = t.meet(rest)
    return Info((*factors, *met.factors), met.constant)


def _padded(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Constants around a tensor."""
    del func, kwargs, out
    x, info, pads = args[0], t.info(args[0]), args[1]
    factors = []
    for factor in info.factors:
        own = [0] * len(pads)
        # Pads are listed from the last dimension backwards. Only along its own dimensions has a factor anything to pad.
        for i in range(len(pads) // 2):
            if x.ndim - 1 - i in factor.dims:
                own[2 * i : 2 * i + 2] = pads[2 * i : 2 * i + 2]
        factors.append(Factor(torch.constant_pad_nd(factor.atoms, own, -1), factor.soft))
    return Info(tuple(factors), info.constant)


def _over(reason: str, at: int = 1, sums: bool = False) -> Rule:
    """Return the rule of a reduction along the dimensions of an argument; all of them where it is not given."""

    def rule(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
        del func
        x = args[0]
        # A bool is the `keepdim` or `unbiased` of an overload without dimensions.
        given = args[at] if len(args) > at else kwargs.get("dim")
        if given is None or given == [] or isinstance(given, bool):
            dims = list(range(x.ndim))
        else:
            dims = [d % max(x.ndim, 1) for d in ([given] if isinstance(given, int) else given)]
        left = t.collapse(t.info(x), dims, "" if sums else f"{reason} runs over it")
        # Without keepdim the reduced dimensions are gone from the result: of each, the one entry left is taken.
        result = next(iter(tensors_in(out)))
        if result.ndim != x.ndim:
            index = tuple(0 if d in dims else slice(None) for d in range(x.ndim))
            left = Info(tuple(Factor(f.atoms[index], f.soft) for f in left.factors), left.constant)
        return left

    return rule


def _along(reason: str, at: int = 1) -> Rule:
    """Return the rule of what keeps the shape, but mixes all that lies along a dimension: softmax, cumsum, sort."""

    def rule(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
        del func, out
        x = args[0]
        dim = args[at] if len(args) > at else kwargs.get("dim", -1)
        return t.collapse(t.info(x), [dim % max(x.ndim, 1)], f"{reason} runs over it", shape_stays=True)

    return rule


def _pooled(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Pooling, padding by reflection and interpolation: over positions, channel by channel."""
    del kwargs, out
    x = args[0]
    at = str(func.overloadpacket)
    # How many dimensions are positions is in the operation's name, as a batch dimension may be missing.
    spatial = next((n for n in (1, 2, 3) if f"{n}d" in at), 2)
    return t.collapse(t.info(x), range(x.ndim - spatial, x.ndim), "pooling or resizing runs over it")


def _matrix_product(left: int, right: int, added: int | None = None) -> Rule:
    """Return the rule of a matrix product, batched or not, and of what is added to it."""

    def rule(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
        del func, kwargs
        # Everything is laid out as batch × rows × inner × columns, so that a matrix product is an element-wise product
        # that broadcasts, summed over the inner dimension. Vectors have no rows or no columns.
        a, b = args[left], args[right]
        lead = a.ndim == 3  # of a batch
        first, second = list(a.shape), list(b.shape)
        if a.ndim == 1:
            first = [1, *first]
        rows, inner = first[-2:]
        columns = second[-1] if b.ndim > 1 else 1
        batch = first[:1] if lead else []

        def placed(info: Info, at: list[int]) -> Info:
            factors = []
            for f in info.factors:
                shape = [1] * (len(batch) + 3)
                for d, position in enumerate(at):
                    shape[position] = f.atoms.shape[d]
                factors.append(Factor(f.atoms.reshape(shape), f.soft))
            return Info(tuple(factors), info.constant)

        n = len(batch)
        at_a = [*range(n), n, n + 1] if a.ndim > 1 else [n + 1]
        at_b = [*range(n), n + 1, n + 2] if b.ndim > 1 else [n + 1]
        met = t.product(
            (placed(t.info(a), at_a), [*batch, rows, inner, 1]),
            (placed(t.info(b), at_b), [*batch, 1, inner, columns]),
            [n + 1],
        )
        index = [slice(None)] * n + [slice(None) if a.ndim > 1 else 0, 0, slice(None) if b.ndim > 1 else 0]
        found = Info(tuple(Factor(f.atoms[tuple(index)], f.soft) for f in met.factors), met.constant)
        if added is None:
            return found
        c = args[added]
        return t.meet(
            [(found, list(out.shape)), (_aligned(t.info(c), out.ndim, c.ndim), [1] * (out.ndim - c.ndim) + [*c.shape])]
        )

    return rule


def _convolution(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Convolutions, transposed or not; of a grouped one, whole groups go."""
    del func, kwargs
    x, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    # A weight has out × in × kernel. An input has one dimension more than its kernel, or two with a batch.
    channel = x.ndim - weight.ndim + 1
    info, own = t.info(x), t.info(weight)
    info = t.collapse(info, range(channel + 1, x.ndim), "a convolution runs over it")
    for factor in own.factors:
        if min(factor.dims) > 1:
            t.pin(factor, "it is the size of a kernel")
    ins, outs = x.shape[channel], out.shape[channel]
    # A transposed convolution stores in × out. With groups the second axis is the width within one group.
    first, second = [next((f.atoms.reshape(-1) for f in own.factors if f.dims == {d}), None) for d in (0, 1)]
    w_out, w_in = (second, first) if transposed else (first, second)
    at_channel = [f for f in info.factors if channel in f.dims]
    others = [f for f in info.factors if channel not in f.dims]
    x_shape = [1] * x.ndim
    x_shape[channel] = ins
    out_shape = [1] * out.ndim
    out_shape[channel] = outs
    if groups == 1:
        given_w = Info(() if w_in is None else (Factor(w_in.view(x_shape)),), constant=True)
        met = t.meet([(Info(tuple(at_channel), info.constant), [*x.shape]), (given_w, x_shape)], multiplied=True)
        others += t.collapse(met, [channel]).factors
        label = w_out
    else:
        # all rows of a group see all its inputs: they go together, or the groups would no longer have one size
        rows, within = (w_in, w_out) if transposed else (w_out, w_in)
        if within is not None:
            t.pin(Factor(within), "it is the width of one group of a convolution")
        label = None
        if rows is not None:
            by_group = rows.reshape(groups, -1)
            first_row = by_group[:, :1]
            t.tie(first_row, by_group)
            inputs = Factor(first_row.expand(groups, ins // groups).reshape(x_shape))
            t.meet([(Info(tuple(at_channel), info.constant), [*x.shape]), (Info((inputs,)), x_shape)])
            label = first_row.expand(groups, outs // groups).reshape(-1)
    factors = list(others)
    if label is not None:
        if bias is not None:
            for f in t.info(bias).factors:
                t.tie(f.atoms.reshape(-1), label)
        factors.append(Factor(label.reshape(out_shape)))
    return Info(tuple(f for f in factors if f.dims), info.constant and own.constant)


def _batch_norm(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Batch norm in eval mode: each channel by itself."""
    del func, kwargs, out
    x = args[0]
    info = t.info(x)
    shape = [1] * x.ndim
    shape[1 if x.ndim > 1 else 0] = -1
    beside = []
    # Weight and bias, and the running statistics: buffers, but not soft, as there is exactly one for every channel.
    for vector in args[1:5]:
        if isinstance(vector, Tensor):
            factors = tuple(Factor(f.atoms.view(shape)) for f in t.info(vector).factors)
            beside.append((Info(factors), list(vector.view(shape).shape)))
    return t.meet([(info, list(x.shape)), *beside])


def _layer_norm(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Layer norm: its statistics are of the whole width, which no mask could keep."""
    del func, kwargs, out
    x, shape = args[0], args[1]
    info = t.info(x)
    over = set(range(x.ndim - len(shape), x.ndim))
    for vector in args[2:4]:
        if isinstance(vector, Tensor):
            for f in t.info(vector).factors:
                t.pin(f, "a layer norm runs over it")
    return t.collapse(info, over, "a layer norm runs over it", shape_stays=True)


def _group_norm(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Group norm: the channels of a group go together."""
    del func, kwargs, out
    x, weight, bias, groups = args[0], args[1], args[2], args[6]
    info = t.collapse(t.info(x), range(2, x.ndim), "a group norm runs over it")
    shape = [1] * x.ndim
    shape[1] = -1
    given = [(info, list(x.shape))]
    for vector in (weight, bias):
        if isinstance(vector, Tensor):
            factors = tuple(Factor(f.atoms.view(shape), f.soft) for f in t.info(vector).factors)
            given.append((Info(factors), list(vector.view(shape).shape)))
    met = t.meet(given)
    for f in met.factors:
        if f.dims == {1}:
            by_group = f.atoms.reshape(groups, -1)
            if groups == 1:
                t.pin(f, "a group norm of one group runs over it")
            else:
                t.tie(by_group[:, :1], by_group)
        elif 1 in f.dims:
            t.pin(f, "a group norm runs over it")
    return met


def _embedding(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Rows looked up by the input: which of them are needed, no one knows."""
    del func, kwargs
    weight, indices = args[0], args[1]
    factors = []
    for f in t.info(weight).factors:
        if 0 in f.dims:
            t.pin(f, "the input chooses among the rows of an embedding")
        else:
            factors.append(Factor(f.atoms.reshape([1] * (out.ndim - 1) + [-1]), f.soft))
    return Info(tuple(factors), constant=t.info(indices).constant)


def _written(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Values copied over a tensor; into a part of another, what they belong to is lost."""
    del func, kwargs
    x, source = args[0], args[1]
    mine, theirs = t.info(x), t.info(source)
    # A cache, for example, which is filled through views: later reads see the whole, of which nothing would be known.
    if theirs.factors and not mine.factors and x.untyped_storage().nbytes() > x.numel() * x.element_size():
        for f in theirs.factors:
            t.pin(f, "it is written into a part of another tensor")
        return Info(constant=False)
    del out
    return t.meet(
        [(mine, list(x.shape)), (_aligned(theirs, x.ndim, source.ndim), [1] * (x.ndim - source.ndim) + [*source.shape])]
    )


def _pixel_shuffle(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Channels that become positions: those that make one channel go together."""
    del func, kwargs
    x, r = args[0], args[1]
    at = x.ndim - 3
    info = t.collapse(t.info(x), (at + 1, at + 2), "a pixel shuffle runs over it")
    factors = []
    for f in info.factors:
        if f.dims == {at}:
            by_channel = f.atoms.reshape(-1, r * r)
            t.tie(by_channel[:, :1], by_channel)
            shape = [1] * out.ndim
            shape[at] = -1
            factors.append(Factor(by_channel[:, 0].reshape(shape), f.soft))
        elif at in f.dims:
            t.pin(f, "a pixel shuffle runs over it")
        else:
            factors.append(f)
    return Info(tuple(factors), info.constant)


def _repeated(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """Copies of a tensor along its dimensions."""
    x, info = args[0], t.info(args[0])
    del func, kwargs
    times = list(args[1])
    factors = []
    for f in info.factors:
        atoms = f.atoms.reshape([1] * (len(times) - x.ndim) + list(f.atoms.shape))
        factors.append(
            Factor(atoms.repeat([n if s > 1 else 1 for n, s in zip(times, atoms.shape, strict=True)]), f.soft)
        )
    del out
    return Info(tuple(factors), info.constant)


def _gated(t: _Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Info:
    """A gated linear unit: the halves of a dimension are multiplied with each other."""
    del func
    x, info = args[0], t.info(args[0])
    dim = (args[1] if len(args) > 1 else kwargs.get("dim", -1)) % x.ndim
    halves = []
    for start in (0, out.shape[dim]):
        factors = tuple(
            Factor(f.atoms.narrow(dim, start, out.shape[dim]) if dim in f.dims else f.atoms, f.soft)
            for f in info.factors
        )
        halves.append((Info(factors, info.constant), list(out.shape)))
    return t.meet(halves)


_POINTWISE: Final = frozenset(
    (
        *("hardswish", "hardsigmoid", "hardtanh", "relu6", "silu", "mish", "gelu", "prelu", "_prelu_kernel"),
        *("masked_fill", "where", "addcmul", "addcdiv", "lerp", "clamp", "softplus", "elu", "celu", "leaky_relu"),
        *("log_sigmoid_forward", "rrelu_with_noise", "logit", "threshold", "hardshrink", "softshrink", "rsub"),
    )
)
"""Element-wise operations, of which torch tags not all as such."""

_RULES: Final[dict[str, Rule]] = {
    "glu": _gated,
    **dict.fromkeys(
        (
            "detach",
            "alias",
            "clone",
            "contiguous",
            "_to_copy",
            "lift_fresh",
            "lift_fresh_copy",
            "triu",
            "tril",
            "view_as_real",
        ),
        _same,
    ),
    **dict.fromkeys(("resolve_conj", "resolve_neg", "native_dropout", "dropout", "_conj", "fill_", "zero_"), _same),
    **dict.fromkeys(
        (
            "zeros_like",
            "ones_like",
            "full_like",
            "empty_like",
            "rand_like",
            "randn_like",
            "new_zeros",
            "new_ones",
            "new_full",
            "new_empty",
        ),
        _nothing,
    ),
    **dict.fromkeys(
        ("permute", "transpose", "t", "unsqueeze", "squeeze", "select", "slice", "expand", "narrow"), _moved
    ),
    **dict.fromkeys(("movedim", "swapaxes", "diagonal", "numpy_T", "mT", "unfold"), _moved),
    **dict.fromkeys(
        (
            "split",
            "split_with_sizes",
            "chunk",
            "unbind",
            "unsafe_split",
            "unsafe_chunk",
            "tensor_split",
            "unsafe_split_with_sizes",
        ),
        _split,
    ),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "flatten", "unflatten", "_reshape_alias"), _reshaped),
    **dict.fromkeys(
        ("index_select", "index", "gather", "flip", "roll", "channel_shuffle", "native_channel_shuffle"), _copied
    ),
    "cat": _concatenated,
    "stack": _stacked,
    "constant_pad_nd": _padded,
    "repeat": _repeated,
    "pixel_shuffle": _pixel_shuffle,
    "sum": _over("a sum", sums=True),
    "mean": _over("a mean"),
    "var": _over("a variance"),
    "std": _over("a standard deviation"),
    "var_mean": _over("a variance"),
    "amax": _over("a maximum"),
    "amin": _over("a minimum"),
    "max": _over("a maximum"),
    "min": _over("a minimum"),
    "argmax": _over("a maximum"),
    "argmin": _over("a minimum"),
    "all": _over("a test"),
    "any": _over("a test"),
    "prod": _over("a product"),
    "logsumexp": _over("a sum of exponentials"),
    "linalg_vector_norm": _over("a norm", at=2),
    "norm": _over("a norm", at=2),
    "topk": _over("a choice of the largest", at=2),
    "_softmax": _along("a softmax"),
    "_log_softmax": _along("a softmax"),
    "_safe_softmax": _along("a softmax"),
    "softmax": _along("a softmax"),
    "cumsum": _along("a running sum"),
    "cumprod": _along("a running product"),
    "sort": _along("a sort"),
    **dict.fromkeys(
        (
            *("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"),
            *("avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d"),
            *("_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d", "adaptive_avg_pool2d"),
            *("adaptive_avg_pool3d", "adaptive_max_pool1d", "upsample_nearest1d", "upsample_nearest2d"),
            *("upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d", "upsample_trilinear3d"),
            *("upsample_bicubic2d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d"),
            *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad1d", "reflection_pad2d"),
            *("reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d", "grid_sampler_2d"),
        ),
        _pooled,
    ),
    "mm": _matrix_product(0, 1),
    "bmm": _matrix_product(0, 1),
    "mv": _matrix_product(0, 1),
    "dot": _matrix_product(0, 1),
    "addmm": _matrix_product(1, 2, added=0),
    "baddbmm": _matrix_product(1, 2, added=0),
    "addmv": _matrix_product(1, 2, added=0),
    "_addmm_activation": _matrix_product(1, 2, added=0),
    "convolution": _convolution,
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm"),
        _batch_norm,
    ),
    "_batch_norm_no_update": _batch_norm,
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "embedding": _embedding,
    "copy_": _written,
    "copy": _written,
}
