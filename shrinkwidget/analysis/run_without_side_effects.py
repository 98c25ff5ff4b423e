"""Run a model without changing it: on its device, in eval mode, its random state and its modes restored."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ..errors import DataError, ShrinkError
from .model_tensors import dtype_name
from .parallel_tensor_ops import uninterrupted

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


def reason(error: BaseException) -> str:
    """Return the type and the first line of an error's message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
