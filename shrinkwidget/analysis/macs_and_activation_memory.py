"""What one forward pass does: the order of the modules, multiply-accumulates per weight, and live activation bytes."""

from __future__ import annotations

import math
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..errors import DataError, ModelError
from .model_tensors import TensorEntry, plain_tensors
from .run_without_side_effects import alone_in_memory, as_inputs, device_of, moved, reason, run
from .tied_and_parametrized_weights import extent


@dataclass(frozen=True, slots=True)
class ForwardProfile:
    """What one forward pass did.

    Attributes:
        order: names of the modules in the order of their first call.
        macs: multiply-accumulates by the name of the weight that was multiplied.
        loose: multiply-accumulates of two activations (attention), by the innermost module that ran them.
        outputs: bytes of a module's output, at the call where it was largest.
        peak: the most bytes of inputs and results alive at one moment.
    """

    order: tuple[str, ...]
    macs: Mapping[str, int]
    loose: Mapping[str, int]
    outputs: Mapping[str, int]
    peak: int


def profile_forward(model: nn.Module, entries: Iterable[TensorEntry], example: object) -> ForwardProfile:
    """Run the model once on an example, in eval mode and without gradients, and return what it did.

    Args:
        model: any module; the example is moved to its device.
        entries: its tensors (`open_model`).
        example: a tensor, a tuple of positional or a dict of keyword arguments.

    Multiply-accumulates are those of matrix products, convolutions, attention and recurrent layers (`_MACS`), also
    where weights are computed from others first. The peak counts a tensor from the operation that makes it until
    nothing refers to it; weights, buffers and the scratch memory inside a kernel are not counted.

    Raises:
        DataError: if the model cannot run the example.
        ModelError: if it runs, but not while it is watched.
    """
    # a batch cut from a data set holds on to all of it, which is not what the model takes
    args, kwargs = alone_in_memory(moved(as_inputs(example), device_of(model)))
    with torch.no_grad():
        try:
            with _calls(model) as calls, in_separate_steps():
                watcher = _Watcher(calls, entries, tensors_in((args, kwargs)))
                with watcher:
                    run(model, args, kwargs)
        except DataError as error:
            run(model, args, kwargs)  # raises for an example that does not fit; the watcher is to blame if it runs
            raise ModelError(
                f"this {type(model).__name__} runs, but not while its operations are counted "
                f"({reason(error.__cause__ or error)}): measure it without an example"
            ) from error
    return ForwardProfile(tuple(calls.order), dict(watcher.macs), dict(watcher.loose), calls.outputs, watcher.live.peak)


class _Calls:
    """Which module is running, which ran before, and how much each gave."""

    def __init__(self) -> None:
        self.order: dict[str, None] = {}
        self.stack: list[str] = [""]
        self.outputs: dict[str, int] = {}
        self.hookless: set[str] = set()

    def enter(self, name: str, *_: object) -> None:
        """Note that a module starts (a forward pre-hook)."""
        self.order.setdefault(name)
        self.stack.append(name)

    def leave(self, name: str, _module: object, _inputs: object, output: object) -> None:
        """Note that a module returned (a forward hook)."""
        self.stack.pop()
        nbytes = sum(tensor.nbytes for tensor in tensors_in(output))
        self.outputs[name] = max(nbytes, self.outputs.get(name, 0))

    def used(self, name: str) -> None:
        """Note that a weight was multiplied whose module takes no hooks (a scripted one)."""
        owner = name.rpartition(".")[0]
        if owner in self.hookless and owner not in self.order:
            self.order.setdefault(owner)


@contextmanager
def _calls(model: nn.Module) -> Iterator[_Calls]:
    """Hook every module that can be, and unhook it at the end."""
    calls = _Calls()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            try:
                hooks.enter_context(module.register_forward_pre_hook(partial(calls.enter, name)))
                hooks.enter_context(module.register_forward_hook(partial(calls.leave, name)))
            except RuntimeError:  # scripted modules take no hooks
                calls.hookless.add(name)
        yield calls


class _Live:
    """Bytes of the storages that are alive, noticed when one is made and when it goes."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any] | None] = {}

    def ignore(self, tensor: Tensor) -> None:
        """Leave the tensor's storage out of the count."""
        self._known[tensor.untyped_storage().data_ptr()] = None

    def add(self, tensor: Tensor, gone: Callable[[int], None]) -> None:
        """Count the tensor's storage if it is new, and call `gone` with its address when it is freed."""
        storage = tensor.untyped_storage()
        address, nbytes = storage.data_ptr(), storage.nbytes()
        # Views share their storage, which counts once.
        if address in self._known or not nbytes:
            return
        self.now += nbytes
        self.peak = max(self.peak, self.now)

        def forget(_: object) -> None:
            self.now -= nbytes
            del self._known[address]
            gone(address)

        # nobody tells of freed memory, but a storage's Python object goes with it
        self._known[address] = weakref.ref(storage, forget)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Sees every operation, and books its multiply-accumulates to the weights it used."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Leave the method below as it is: torch would wrap it, and for that import its compiler, which takes 1.5 s."""
        return False

    def __init__(self, calls: _Calls, entries: Iterable[TensorEntry], inputs: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: defaultdict[str, int] = defaultdict(int)
        self.loose: defaultdict[str, int] = defaultdict(int)
        self.live = _Live()
        self._calls = calls
        self._parts: dict[int, list[_Part]] = defaultdict(list)  # by address of the storage
        # Tensors reach the operations as views, casts and transposes of parameters, so the storage tells which weight
        # it is.
        # weights are told by their memory, as views of them, casts and transposes are what operations are given
        by_name = {entry.name: entry for entry in entries if entry.role != "other"}
        for entry in by_name.values():
            weight = by_name.get(entry.part_of, entry)  # what is computed from parts is what multiplies
            for tensor in plain_tensors(entry.load()):
                self.live.ignore(tensor)
                if entry.role != "buffer" and tensor.numel():
                    self._parts[_address(tensor)].append(_Part(weight, *extent(tensor)))
        for tensor in inputs:
            self.live.add(tensor, self._forget)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):  # torch.cond and its like: what is inside is not seen
            return func(*args, **kwargs)
        # Only what has no count of its own: decomposed, a convolution would be counted by its parts.
        if str(func.overloadpacket) not in _MACS:
            # under inference mode some operations arrive whole that are made of others
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        given = [tensor for tensor in tensors_in((args, kwargs)) if tensor.numel()]
        count = _MACS.get(str(func.overloadpacket))
        macs = 0 if count is None else count(*args, **kwargs, out=out)
        # A product of two parts of one parametrized weight (LoRA's B·A) is made once, whatever the batch: no MACs of a
        # layer.
        if macs and not self._within_one_weight(given):
            self._book(macs, given)
        elif given and all(_address(tensor) in self._parts for tensor in given):
            # what is computed from parameters alone (a cast, a weight norm) is taken for those parameters
            parts = [part for tensor in given for part in self._within(tensor)]
            for tensor in tensors_in(out):
                if tensor.numel() and _address(tensor) not in self._parts:
                    self._parts[_address(tensor)] = [_Part(p.entry, *extent(tensor)) for p in parts]
        for tensor in tensors_in(out):
            self.live.add(tensor, self._forget)
        return out

    def _book(self, macs: int, given: list[Tensor]) -> None:
        """Book on the weights among the operands, in proportion to their sizes; or on the module that is running.

        Of a layer that is fed another module's parameter (a learnt query), its own weights are the weights.
        """
        # biases are operands of some kernels, too, and multiply nothing
        running = self._calls.stack[-1]
        used = {p.entry.name: p.entry.numel for t in given for p in self._within(t) if len(p.entry.shape) >= 2}
        used = {name: n for name, n in used.items() if name.rpartition(".")[0] == running} or used
        if not used:
            self.loose[running] += macs
            return
        # whole numbers that add up: the differences of rounded running sums
        ends = [macs * end // sum(used.values()) for end in accumulate(used.values(), initial=0)]
        for name, (before, after) in zip(used, pairwise(ends), strict=True):
            self._calls.used(name)
            self.macs[name] += after - before

    def _within_one_weight(self, given: list[Tensor]) -> bool:
        """Tell whether all of it belongs to one weight that is computed: that does not depend on the example."""
        entries = [[part.entry for part in self._within(tensor)] for tensor in given]
        return all(entries) and all(e.parts and e is entries[0][0] for found in entries for e in found)

    def _within(self, tensor: Tensor) -> Iterator[_Part]:
        """Yield the parameters that a view of their storage touches."""
        start, stop = extent(tensor)
        for part in self._parts.get(_address(tensor), ()):
            if part.start < stop and start < part.stop:
                yield part

    def _forget(self, address: int) -> None:
        self._parts.pop(address, None)


@dataclass(frozen=True, slots=True)
class _Part:
    """A parameter's place in its storage, in elements."""

    entry: TensorEntry
    start: int
    stop: int


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tensors_in(value: object) -> Iterator[Tensor]:
    """Yield the tensors anywhere in tuples, lists, dicts, and objects with attributes (the outputs of models)."""
    if isinstance(value, Tensor):
        yield from plain_tensors(value)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        yield from tensors_in([part for part in vars(value).values() if isinstance(part, Tensor)])


@contextmanager
def in_separate_steps() -> Iterator[None]:
    """Turn off what hides operations and changes no result: MultiheadAttention's fused kernel, and compilation."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # a compiled module has imported the compiler already; nobody else should wait for it
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with stance:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# ---- multiply-accumulates of torch's operations: how many each does, from the shapes it is given ----
#
# torch has a counter of its own (torch.utils.flop_counter), which this table is held against in the tests. It takes
# 1.5 s to import, refuses modules that are fed views of parameters (pytorch#131753), and leaves out matrix-vector
# products, bilinear forms, and recurrent and attention kernels of some devices.


def _product(at: int, by: int) -> Callable[..., int]:
    """Matrix products: each element of the left operand meets each column of the right one."""

    def count(*args: Any, **_: Any) -> int:
        left, right = args[at], args[by]
        return int(left.numel() * (right.shape[-1] if right.ndim > 1 else 1))

    return count


def _into_rows(x: Tensor, *_: Any, out: Any, **__: Any) -> int:
    """Products with a matrix packed in an object of its own: what comes out tells its size."""
    return int(x.shape[-1] * out.numel())


def _convolution(x: Tensor, weight: Tensor, *rest: Any, out: Any, **options: Any) -> int:
    """Every position of the output (of the input, if transposed) meets every weight once.

    `rest`: bias, stride, padding, dilation, transposed, …
    """
    transposed = options.get("transposed", rest[4] if len(rest) > 4 else False)
    moved = x if transposed else out
    positions = math.prod(moved.shape[2:]) * (moved.shape[0] if moved.ndim == weight.ndim else 1)
    return int(positions * weight.numel())


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Scores of every query with every key, and their sums of values; keys may have fewer heads, which are shared."""
    return int(q.numel() * k.shape[-2] + math.prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1])


def _trilinear(
    left: Tensor, weight: Tensor, right: Tensor, a: list[int], b: list[int], c: list[int], *_: Any, **__: Any
) -> int:
    """x·W·y: one for each combination of indices; each operand lacks the axes in `a`, `b` and `c`."""
    shapes = []
    for tensor, missing in ((left, a), (weight, b), (right, c)):
        shape = list(tensor.shape)
        for axis in missing:
            shape.insert(axis, 1)
        shapes.append(shape)
    return math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _recurrent(x: Tensor, weights: list[Tensor]) -> int:
    """Every matrix of a recurrent layer meets every time step once."""
    return int(math.prod(x.shape[:-1]) * sum(w.numel() for w in weights if w.ndim == 2))


_MACS: Final[dict[str, Callable[..., int]]] = {
    **dict.fromkeys(("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten._int_mm"), _product(0, 1)),
    **dict.fromkeys(("aten._scaled_mm", "aten._grouped_mm", "aten._scaled_grouped_mm"), _product(0, 1)),
    **dict.fromkeys(("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm"), _product(1, 2)),
    "aten._addmm_activation": _product(1, 2),
    **dict.fromkeys(("aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu"), _into_rows),
    "aten._weight_int8pack_mm": _into_rows,
    **dict.fromkeys(("quantized.linear", "quantized.linear_relu", "quantized.linear_dynamic"), _into_rows),
    **dict.fromkeys(("quantized.linear_relu_dynamic", "quantized.linear_dynamic_fp16"), _into_rows),
    **dict.fromkeys(("aten.convolution", "aten._convolution", "aten.convolution_overrideable"), _convolution),
    **dict.fromkeys(("aten.cudnn_convolution", "aten._slow_conv2d_forward"), _convolution),
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._trilinear": _trilinear,
    "aten.mkldnn_rnn_layer": lambda x, ih, hh, *_, **__: _recurrent(x, [ih, hh]),
    "aten._cudnn_rnn": lambda x, weights, *_, **__: _recurrent(x, weights),
    "aten._lstm_mps": lambda x, _hidden, weights, *_, **__: _recurrent(x, weights),
}
