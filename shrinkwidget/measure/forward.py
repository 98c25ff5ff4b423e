"""Watches one forward pass: the order of the modules, multiply-accumulates per weight, and live activation bytes."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..errors import ModelError
from .call import as_inputs, device_of, moved, run
from .layers import Entry


@dataclass(frozen=True, slots=True)
class Forward:
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


def watch(model: nn.Module, entries: Iterable[Entry], example: object) -> Forward:
    """Run the model once on an example, in eval mode and without gradients, and return what it did.

    Args:
        model: any module; the example is moved to its device.
        entries: its tensors (`open_weights`).
        example: a tensor, a tuple of positional or a dict of keyword arguments.

    Multiply-accumulates are half of what torch's own flop counter says, which knows matrix products, convolutions and
    attention; recurrent and attention kernels it leaves out on some devices are added. The peak counts a tensor
    from the operation that makes it until nothing refers to it; weights, buffers and the scratch memory inside a kernel
    are not counted.

    Raises:
        DataError: if the model cannot run the example.
        ModelError: for a scripted module, which takes no hooks.
    """
    args, kwargs = moved(as_inputs(example), device_of(model))
    counter = FlopCounterMode(display=False, custom_mapping=_extra_flops())
    with torch.no_grad(), _calls(model) as calls:
        watcher = _Watcher(counter, calls, entries, _tensors((args, kwargs)))
        with _separate_attention(), counter, watcher:
            run(model, args, kwargs)
    return Forward(tuple(calls.order), dict(watcher.macs), dict(watcher.loose), calls.outputs, watcher.live.peak)


class _Calls:
    """Which module is running, which ran before, and how much each gave."""

    def __init__(self) -> None:
        self.order: dict[str, None] = {}
        self.stack: list[str] = [""]
        self.outputs: dict[str, int] = {}

    def enter(self, name: str, *_: object) -> None:
        """Note that a module starts (a forward pre-hook)."""
        self.order.setdefault(name)
        self.stack.append(name)

    def leave(self, name: str, _module: object, _inputs: object, output: object) -> None:
        """Note that a module returned (a forward hook)."""
        self.stack.pop()
        nbytes = sum(tensor.nbytes for tensor in _tensors(output))
        self.outputs[name] = max(nbytes, self.outputs.get(name, 0))


@contextmanager
def _calls(model: nn.Module) -> Iterator[_Calls]:
    """Hook every module, and unhook it at the end."""
    calls = _Calls()
    with ExitStack() as hooks:
        try:
            for name, module in model.named_modules():
                hooks.enter_context(module.register_forward_pre_hook(partial(calls.enter, name)))
                hooks.enter_context(module.register_forward_hook(partial(calls.leave, name)))
        except RuntimeError as error:  # scripted modules take no hooks
            raise ModelError(
                f"cannot watch {name or 'the model'!r} run ({error}): measure it without an example"
            ) from error
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
        if address in self._known or not nbytes:
            return
        self.now += nbytes
        self.peak = max(self.peak, self.now)

        def forget(_: object) -> None:
            self.now -= nbytes
            del self._known[address]
            gone(address)

        self._known[address] = weakref.ref(storage, forget)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its modes unannotated
    """Sees every operation before the flop counter does, and books what the counter adds to the weights it used."""

    def __init__(
        self, counter: FlopCounterMode, calls: _Calls, entries: Iterable[Entry], inputs: Iterable[Tensor]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: defaultdict[str, int] = defaultdict(int)
        self.loose: defaultdict[str, int] = defaultdict(int)
        self.live = _Live()
        self._counter, self._calls = counter, calls
        self._parts: dict[int, list[_Part]] = defaultdict(list)  # by address of the storage
        for entry in entries:
            tensor = entry.load()
            self.live.ignore(tensor)
            if entry.role != "buffer" and tensor.numel():
                start = int(tensor.storage_offset())
                self._parts[_address(tensor)].append(_Part(entry, start, start + tensor.numel()))
        for tensor in inputs:
            self.live.add(tensor, self._forget)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self._counter.get_total_flops()
        out = func(*args, **(kwargs or {}))
        given = [tensor for tensor in _tensors((args, kwargs)) if tensor.numel()]
        if flops := self._counter.get_total_flops() - before:
            self._book(flops // 2, given)
        elif given and all(_address(tensor) in self._parts for tensor in given):
            self._derive(given, out)
        for tensor in _tensors(out):
            self.live.add(tensor, self._forget)
        return out

    def _book(self, macs: int, given: list[Tensor]) -> None:
        """Book on the weights among the operands, in proportion to their sizes; or on the module that is running."""
        used = {p.entry.name: p.entry.numel for t in given for p in self._within(t) if len(p.entry.shape) >= 2}
        if not used:
            self.loose[self._calls.stack[-1]] += macs
            return
        shares = _shares(macs, list(used.values()))
        for name, share in zip(used, shares, strict=True):
            self.macs[name] += share

    def _within(self, tensor: Tensor) -> Iterator[_Part]:
        """Yield the parameters that a view of their storage touches."""
        start = tensor.storage_offset()
        for part in self._parts.get(_address(tensor), ()):
            if part.start < start + tensor.numel() and start < part.stop:
                yield part

    def _derive(self, given: list[Tensor], out: object) -> None:
        """Take what is computed from parameters alone (a cast, a weight norm) for those parameters."""
        parts = [part for tensor in given for part in self._within(tensor)]
        for tensor in _tensors(out):
            if tensor.numel() and _address(tensor) not in self._parts:
                self._parts[_address(tensor)] = [_Part(p.entry, 0, tensor.numel()) for p in parts]

    def _forget(self, address: int) -> None:
        self._parts.pop(address, None)


@dataclass(frozen=True, slots=True)
class _Part:
    """A parameter's place in its storage, in elements."""

    entry: Entry
    start: int
    stop: int


def _shares(total: int, sizes: list[int]) -> list[int]:
    """Split a whole number in proportion to sizes, so that the shares add up to it."""
    ends = [total * end // sum(sizes) for end in accumulate(sizes, initial=0)]
    return [after - before for before, after in pairwise(ends)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors anywhere in tuples, lists, dicts, and objects with attributes (the outputs of models)."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "__dict__") and not isinstance(value, type | nn.Module):
        yield from _tensors([part for part in vars(value).values() if isinstance(part, Tensor)])


@contextmanager
def _separate_attention() -> Iterator[None]:
    """Turn off the fused kernel of MultiheadAttention, whose parts no counter sees; results are the same."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _extra_flops() -> dict[Any, Callable[..., int]]:
    """Return the operations torch's counter leaves out, each with its flops as a function of its operands' shapes."""
    aten: Any = torch.ops.aten
    attention: Any = sdpa_flop_count
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: int(attention(q, k, v)),
        aten.mkldnn_rnn_layer: lambda x, ih, hh, *_, **__: _recurrent_flops(x, [ih, hh]),
        aten._cudnn_rnn: lambda x, weights, *_, **__: _recurrent_flops(x, weights),
        aten._lstm_mps: lambda x, _hidden, weights, *_, **__: _recurrent_flops(x, weights),
    }


def _recurrent_flops(inputs: torch.Size, weights: Iterable[torch.Size]) -> int:
    """Every matrix of a recurrent layer multiplies every time step once; each of its products is two flops."""
    steps = math.prod(inputs[:-1])
    return 2 * steps * sum(math.prod(shape) for shape in weights if len(shape) == 2)
