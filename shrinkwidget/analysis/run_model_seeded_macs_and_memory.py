"""Run a user's model: unchanged, in eval mode, from given seeds; and count its multiply-accumulates and memory."""

from __future__ import annotations

import math
import random
import sys
import threading
import weakref
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, ModelError, ShrinkError, reason
from .open_model_tensors_and_channel_axes import TensorEntry, dtype_name, extent, plain_tensors
from .tensor_ops_threads_and_cpu_kernel import in_forked_children, uninterrupted

Inputs: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of a model's ``forward``."""


def as_inputs(inputs: object) -> Inputs:
    """Return inputs as arguments: a dict goes by keyword, a tuple or list by position, all else is the only one.

    Raises:
        DataError: for a DataLoader or a dataset, which no module takes.
    """
    if isinstance(inputs, DataLoader | Dataset):
        raise DataError(f"a {type(inputs).__name__} is no example: give one batch of inputs, as the model takes them")
    if isinstance(inputs, Mapping):
        return (), {str(k): v for k, v in inputs.items()}
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what the model returns, in eval mode.

    Raises:
        DataError: if the model fails, with the inputs' shapes and its reason.
    """
    with eval_mode(model):
        return call(model, args, kwargs)


def call(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what the model returns, in the mode it is in; raises as `run` does."""
    try:
        return model(*args, **kwargs)
    # Anything else is the user's model, which may raise whatever it likes; the shapes it was given say most about it.
    except ShrinkError:  # of a hook of ours that watches: a sentence already
        raise
    except Exception as error:
        given = [("input", a) for a in args] + list(kwargs.items())
        shapes = ", ".join(f"{name} {describe(value)}" for name, value in given)
        hint = _hint(model, [value for _, value in given], error)
        raise DataError(f"the model cannot run {shapes or 'without input'}: {reason(error)}{hint}") from error


def _hint(model: nn.Module, given: list[Any], error: Exception) -> str:
    """Return what helps against the two commonest failures: inputs of another dtype, a batch of one in batch norm."""
    if "more than 1 value per channel" in str(error):
        return "; batch norm cannot train on a batch of one: give the loader drop_last=True, or another batch size"
    wanted = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), None)
    dtypes = [x.dtype for x in given if isinstance(x, Tensor)]
    found = next((d for d in dtypes if d in (torch.float64, torch.uint8) and d is not wanted), None)
    if wanted is None or found is None or "type" not in str(error):
        return ""
    name = dtype_name(wanted)
    return f"; the weights are {name}: convert the inputs with .astype({name!r}) (an array) or .to(torch.{name})"


class RandomState:
    """A stream of randomness of its own, for work that must leave the caller's where it is.

    It begins where the caller's is. The generators are the process's: Python's, numpy's, torch's, and CUDA's if in use.
    With `torch_only`, Python's and numpy's are left alone: to read and write them takes as long as a small batch.
    """

    def __init__(self, torch_only: bool = False) -> None:
        self._own: tuple[Any, ...] | None = None
        self._torch_only = torch_only

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Draw from this stream for as long as the context lasts."""
        theirs = _random_state(self._torch_only)
        # The first time, the stream begins where the caller's is, so nothing is set.
        if self._own is not None:
            _set_random_state(self._own)
        try:
            yield
        finally:
            self._own = _random_state(self._torch_only)
            _set_random_state(theirs)


def preserve_rng_state() -> AbstractContextManager[None]:
    """Put all generators back to where they are when the context ends."""
    return RandomState().entered()


def _random_state(torch_only: bool) -> tuple[Any, ...]:
    # Not is_available: asking for a state would initialize CUDA, which takes seconds and some 300 MB of GPU memory.
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]  # as torch has it
    others = () if torch_only else (random.getstate(), np.random.get_state())  # noqa: NPY002
    return torch.default_generator.get_state(), gpus, *others


def _set_random_state(state: tuple[Any, ...]) -> None:
    on_cpu, on_gpus, *others = state
    torch.default_generator.set_state(on_cpu)
    if on_gpus:
        torch.cuda.set_rng_state_all(on_gpus)
    if others:
        random.setstate(others[0])
        np.random.set_state(others[1])  # noqa: NPY002


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule into eval mode, and back into the mode each one was in."""
    # one by one, as model.train() would unfreeze the batch norms that a user keeps in eval mode
    before = [(module, module.training) for module in model.modules()]

    def put_back() -> None:
        for module, training in before:
            if module.training != training:
                module.training = training

    try:
        model.eval()
        yield
    finally:
        uninterrupted(put_back)


@contextmanager
def without_fused_recurrence() -> Iterator[None]:
    """Have recurrent layers run as matrix products: oneDNN ends the process over one whose sizes do not fit."""
    # not torch.backends.mkldnn.flags, which warns of GPUs that nobody has
    onednn, cudnn = torch._C._get_mkldnn_enabled(), torch._C._get_cudnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    torch._C._set_cudnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch._C._set_cudnn_enabled(cudnn)


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of the model's first parameter or buffer, None if it has neither."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return None if first is None else first.device


def moved(value: Any, device: torch.device | None) -> Any:
    """Return the value with every tensor in its tuples, lists and dicts on the device, arrays as tensors."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        return value if device is None else value.to(device)
    return _mapped(partial(moved, device=device), value)


def alone_in_memory(value: Any) -> Any:
    """Return the value with tensors that are a part of a larger storage copied: one image of a data set, say."""
    if isinstance(value, Tensor):
        return value.clone() if value.untyped_storage().nbytes() > value.numel() * value.element_size() else value
    return _mapped(alone_in_memory, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return tuples, lists and dicts with a function of their parts, and all else as it is."""
    if isinstance(value, tuple | list):
        parts = [function(part) for part in value]
        # named tuples take their parts one by one
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, Mapping):
        return {key: function(part) for key, part in value.items()}
    return value


def describe(value: object) -> str:
    """Return the shape and dtype of a tensor, ``"32×10 float32"``, or the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    shape = "×".join(map(str, value.shape)) or "scalar"
    return f"{shape} {dtype_name(value.dtype)}"


# ---- seeded generators ----


# In place of a step: an evaluation must not draw what a training step draws.
EVALUATION: Final = -1

# The generators are the process's own: two runs must not draw from them in turns. Reentrant, since a metric or an
# augmentation of the user's may train something itself.
_ONE_AT_A_TIME = threading.RLock()

# What numpy draws from while a step lasts. To save and set the state of the caller's would take 120 µs a step, one
# twentieth of a small network's.
_OURS: Final = np.random.MT19937()


def _forget() -> None:
    """A child that is forked while a run takes a step would wait for the end of that step for ever."""
    global _ONE_AT_A_TIME
    _ONE_AT_A_TIME = threading.RLock()


in_forked_children(_forget)


@contextmanager
def fork_rng(device: torch.device | None, *place: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators by a place, such as (seed, round, epoch, step), and put them back.

    Since every step is seeded by itself, a training that goes on after a pause, or in another process, draws what it
    would have drawn. The generators are the process's own: what another thread draws while a step lasts is drawn from
    the step's, and again after it. Of numpy's normal numbers, which are made in pairs, a second one that the caller has
    not drawn yet is lost: see `spare_normal_kept`.
    """
    seed = seed_at(*place)
    with _ONE_AT_A_TIME:
        before = random.getstate(), get_bit_generator(), torch.default_generator.get_state()
        gpu = device if device is not None and device.type == "cuda" else None
        on_gpu = None if gpu is None else torch.cuda.get_rng_state(gpu)

        def put_back() -> None:
            random.setstate(before[0])
            set_bit_generator(before[1])
            torch.default_generator.set_state(before[2])
            if gpu is not None and on_gpu is not None:
                torch.cuda.set_rng_state(on_gpu, gpu)

        try:
            random.seed(seed)
            set_bit_generator(np.random.MT19937() if before[1] is _OURS else _OURS)  # one fork may be within another
            np.random.seed(seed)  # noqa: NPY002  # what users' datasets draw from
            torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 20 times as long
            if gpu is not None:
                torch.cuda.manual_seed(seed)
            yield
        finally:
            uninterrupted(put_back)  # Ctrl-C in between would leave the user some generators of ours


@contextmanager
def spare_normal_kept() -> Iterator[None]:
    """Keep the normal number that numpy has in store for its next call, through any number of `fork_rng` inside.

    It belongs to no bit generator, and is forgotten when they are exchanged. What the caller draws meanwhile uses it
    up, and then there is nothing to keep.
    """
    with _ONE_AT_A_TIME:
        before = np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        yield
    finally:
        # Box–Muller makes normal numbers in pairs: numpy hands out one and keeps the other (`has_gauss`, `gauss`),
        # outside of the bit generator.
        if before["has_gauss"]:
            with _ONE_AT_A_TIME:
                now = np.random.get_state(legacy=False)  # noqa: NPY002
                if all(np.array_equal(now["state"].get(name), part) for name, part in before["state"].items()):
                    np.random.set_state(before)  # noqa: NPY002


def seed_at(*place: int) -> int:
    """Return 32 bits that depend on every number of a place."""
    # Python's hash() would do, but is not promised to stay the same, and a checkpoint of today must go on as begun.
    return zlib.crc32(repr(place).encode())


# ---- multiply-accumulates and the memory of activations ----


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
