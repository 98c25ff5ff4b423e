"""Data as users have it (loaders, iterables, datasets, pairs of tensors), read batch by batch.

First how it is cut and read, then how a batch is made to fit a model, then the thread that reads data which may block.
"""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from ..analysis.run_model_and_count_macs import as_inputs, describe, moved
from ..errors import Cancelled, DataError, a_type, reason

TARGET_KEYS: Final = ("labels", "label", "targets", "target", "y")
_NO_TARGETS: Final = torch.empty(0)

# Batches of a pair of tensors: a small network runs no faster with more rows, and large inputs (a photo of 4 MB) should
# give a first score after seconds.
MOST_ROWS: Final = 128
MOST_BYTES: Final = 16_000_000

# Under which names a wrapper holds its model: torch.compile, parallel and averaged models, PEFT, and most people.
_WRAPPED: Final = ("_orig_mod", "module", "model", "base_model")
_MOST_WRAPPERS: Final = 8  # a module may name itself among its own, and would be unwrapped for ever

_LOOK_SECONDS: Final = 0.05  # how long Stop may go unnoticed while data blocks
_CLOSE_SECONDS: Final = 1.0  # how long a loader's workers are given to end

_Answer: TypeAlias = tuple[Literal["batch", "end", "error"], Any]

# The readers whose threads have not ended, the blocked ones that were given up among them.
_LIVE: Final[set[_Reader]] = set()


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, ready to run: ``model(*args, **kwargs)`` is to be compared with `targets` (N×…)."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Tensor


@contextmanager
def batch_named(number: int, kind: str = "batch") -> Iterator[None]:
    """Let a `DataError` say in which batch of the data it happened, from 1."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{kind} {number}: {error}") from error.__cause__


def first_example(batch: Batch) -> object:
    """Return the inputs of a batch's first example, as `profile_forward` takes them."""
    args = tuple(a[:1] if isinstance(a, Tensor) else a for a in batch.args)
    return args or {k: v[:1] if isinstance(v, Tensor) else v for k, v in batch.kwargs.items()}


def raw_batches(data: object, seed: int = 0, batch_size: int | None = None) -> Iterator[Any]:
    """Yield the batches of a loader, an iterable, a map-style dataset, or a pair of tensors cut into batches.

    A loader is not read itself, but a copy of it (`own_loader`), whose order follows from the seed. `batch_size` is
    that of datasets and pairs.

    Raises:
        DataError: for data that is none of these, or that fails while it gives a batch.
    """
    if (pair := as_pair(data)) is not None:
        inputs, targets = pair
        if batch_size is None:  # small enough for a first result soon, and large enough to run well
            row_bytes = max(1, inputs.nbytes // max(1, len(inputs)))
            batch_size = max(1, min(MOST_ROWS, MOST_BYTES // row_bytes))
        for start in range(0, len(inputs), batch_size):
            yield inputs[start : start + batch_size], targets[start : start + batch_size]
        return
    if isinstance(data, DataLoader):
        data = own_loader(data, seed)
    elif isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        # A generator of its own: torch's would draw a seed for workers from the process's generator.
        generator = torch.Generator().manual_seed(seed)
        data = DataLoader(data, batch_size=batch_size or MOST_ROWS, generator=generator)
    refuse_no_data(data)
    try:
        batches, number = iter(cast(Iterable[Any], data)), 0
    except Exception as error:  # a loader's workers start here
        raise DataError(f"the data cannot be read: {reason(error)}") from error
    while True:  # by hand, so that an error of the user's data names the batch it was to give
        number += 1
        try:
            raw = next(batches)
        except StopIteration:
            return
        except Exception as error:
            raise DataError(f"the data failed to give batch {number}: {reason(error)}") from error
        yield raw


def own_loader(loader: DataLoader[Any], seed: int) -> DataLoader[Any]:
    """Return a loader over the same dataset, by the same sampler, workers and collate function, that shares no state.

    torch gives a loader with persistent workers one iterator for all who read it, and each would get a part of the
    batches. The copy's workers end with each pass, and what is random in it (the order, the workers' seeds) comes from
    a generator of its own, so that neither the loader's nor the process's is drawn from. A sampler that keeps no
    ``generator``, an iterable dataset, and whatever a subclass of DataLoader holds is shared with the caller's loader.
    """
    # Shallow: the dataset may be a file handle, or too large to copy.
    own = copy.copy(loader)
    generator = torch.Generator().manual_seed(seed)
    changed: dict[str, Any] = {"_iterator": None, "persistent_workers": False, "generator": generator}
    changed["sampler"] = sampler = _own_sampler(loader.sampler, generator)
    batches = loader.batch_sampler
    if isinstance(batches, BatchSampler):
        batches = _own_sampler(batches, generator)
        batches.sampler = sampler if batches.sampler is loader.sampler else _own_sampler(batches.sampler, generator)
    changed["batch_sampler"] = batches
    vars(own).update(changed)  # DataLoader refuses to have its attributes set
    return own


def _own_sampler(sampler: Any, generator: torch.Generator) -> Any:
    own = copy.copy(sampler)
    if isinstance(getattr(own, "generator", generator), torch.Generator | None) and hasattr(own, "generator"):
        own.generator = generator
    return own


def refuse_no_data(data: object, purpose: str = "evaluate") -> None:
    """Raise a `DataError` for what gives no batches to evaluate (or to train) on, without asking it for one."""
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return
    if isinstance(data, str | bytes | Tensor | np.ndarray | Mapping) or not isinstance(data, Iterable):
        raise DataError(
            f"cannot {purpose} on {'nothing' if data is None else f'data of type {type(data).__name__}'}: "
            f"give a DataLoader, a list of (inputs, targets) batches, or a pair of tensors"
        )


def no_batch(data: object, purpose: str = "evaluate") -> DataError:
    """Return the error for data that was read, to evaluate (or to train) on, and gave no batch."""
    if isinstance(data, Iterator):
        return DataError(
            "the data gave no batch: an iterator can be read only once; pass a list of batches or a DataLoader"
        )
    return DataError(f"the data is empty: there is no batch to {purpose} on")


def as_pair(data: object) -> tuple[Tensor, Tensor] | None:
    """Return (inputs, targets) if the data is a pair of tensors (or arrays) of one length, None if it is no pair.

    Raises:
        DataError: for a pair of different lengths.
    """
    # A list of two tensors is a pair, too: as a list of batches it would hold no targets.
    if not isinstance(data, tuple | list) or [isinstance(d, Tensor | np.ndarray) for d in data] != [True, True]:
        return None
    inputs, targets = torch.as_tensor(data[0]), torch.as_tensor(data[1])
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise DataError(
            f"inputs ({describe(inputs)}) and targets ({describe(targets)}) must have the same number of rows"
        )
    return inputs, targets


def count(data: object) -> int | None:
    """Return how many examples the data holds, or None where only reading it would tell."""
    if (pair := as_pair(data)) is not None:
        return len(pair[1])
    if isinstance(data, DataLoader):
        # Neither an iterable dataset nor a batch sampler of the user's need say how many they give.
        if isinstance(data.dataset, IterableDataset) or data.batch_size is None or not isinstance(data.sampler, Sized):
            return None
        n = len(data.sampler)
        return n - n % data.batch_size if data.drop_last else n
    if isinstance(data, list | tuple):
        lengths = [_rows(raw) for raw in data]
        return None if None in lengths else sum(n for n in lengths if n is not None)
    return len(data) if isinstance(data, Dataset) and hasattr(data, "__len__") else None


def _rows(raw: object) -> int | None:
    """Return the number of examples in a raw batch, if its targets say so."""
    if isinstance(raw, Mapping):
        targets: object = next((raw[k] for k in TARGET_KEYS if k in raw), None)
    else:
        targets = raw[1] if isinstance(raw, Sequence) and len(raw) == 2 else None
    return len(targets) if isinstance(targets, Tensor | np.ndarray) and targets.ndim else None


def prepared(raw: object, model: nn.Module, device: torch.device | None, labelled: bool = True) -> Batch:
    """Return a raw batch, (inputs, targets) or a dict, as the model wants it, on its device.

    A dict's targets are under one of `TARGET_KEYS`; what the model's ``forward`` does not accept is left out, as a
    dict of a single input is given by position where its name is not one of the model's. Targets are also passed on
    under their name if the model, or the one it wraps, accepts it (Hugging Face models then return their loss).
    Where nobody looks at targets (`labelled` False), a batch may be inputs alone, and its targets are empty.

    Raises:
        DataError: for a batch that is neither, without targets, or with nothing that the model accepts.
    """
    if isinstance(raw, Mapping):
        args, kwargs, targets = _from_mapping(raw, model, labelled)
    elif not labelled and (isinstance(raw, Tensor | np.ndarray) or (isinstance(raw, tuple | list) and len(raw) == 1)):
        args, kwargs, targets = *as_inputs(raw), _NO_TARGETS
    elif isinstance(raw, tuple | list) and len(raw) == 2:
        args, kwargs, targets = *as_inputs(raw[0]), raw[1]
    else:
        what, hint = a_type(raw), ""
        if isinstance(raw, tuple | list):
            what = f"{what} of {len(raw)}"
            hint = "; several inputs go as ((a, b), targets); leave out what is neither, in collate_fn or the dataset"
        raise DataError(
            f"a batch is {what}; expected (inputs, targets) or a dict with inputs and targets"
            f"{hint if isinstance(raw, tuple | list) and len(raw) > 2 else ''}"
        )
    try:
        found = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"targets must be a tensor, got {a_type(targets)} ({reason(error)})") from error
    if found.ndim == 0:
        raise DataError("targets are a single number; expected one row per example (is the batch dimension missing?)")
    return Batch(*moved((args, kwargs, found), device))


def _from_mapping(
    raw: Mapping[str, Any], model: nn.Module, labelled: bool
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    key = next((k for k in TARGET_KEYS if k in raw), None)
    targets = _NO_TARGETS if key is None else raw[key]
    if key is None and labelled:
        raise DataError(f"a batch has the keys {', '.join(map(repr, raw))}; targets must be under one of {TARGET_KEYS}")
    inputs = {k: v for k, v in raw.items() if k != key}
    # A dataset's columns are rarely a model's arguments, one for one: token_type_ids, idx and the like are left out.
    accepted, anything = _accepts(model)
    if len(inputs) == 1 and not accepted & set(inputs):
        return tuple(inputs.values()), {}, targets
    wanted = {k: v for k, v in raw.items() if (k in accepted) or (anything and k != key)}
    if not wanted.keys() & inputs.keys():
        raise DataError(
            f"a batch has the inputs {', '.join(map(repr, inputs)) or 'none'}, but {type(model).__name__}.forward "
            f"takes {', '.join(sorted(accepted)) or 'none'}: rename them, or give (inputs, targets)"
        )
    return (), wanted, targets


def _accepts(model: nn.Module) -> tuple[set[str], bool]:
    """Return the names the model's ``forward`` takes by keyword, and whether it takes any name.

    One that takes any passes them on: what the module it wraps takes is accepted as well.
    """
    named: set[str] = set()
    anything, inner = False, model
    for _ in range(_MOST_WRAPPERS):
        # Of `forward`, not `__call__`, whose signature is (*args, **kwargs) for every module.
        parameters = inspect.signature(inner.forward).parameters.values()
        named |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
        anything = True
        wrapped = (getattr(inner, name, None) for name in _WRAPPED)
        found = next((module for module in wrapped if isinstance(module, nn.Module) and module is not inner), None)
        if found is None:
            break
        inner = found
    return named, anything


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` or a parallel wrapper runs, else the model itself."""
    for _ in range(_MOST_WRAPPERS):
        parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = model.module if parallel else getattr(model, "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            break
        model = inner
    return model


# Reading on a thread of its own


def read_in_thread(
    batches: Iterator[Any], data: object, stopped: Callable[[], bool], patience: float | None
) -> Iterator[Any]:
    """Return the batches of `data`, read one at a time on another thread, until `stopped` says so.

    No thread can be ended from outside. So where a loader waits for ever, for a lock, a socket, a worker that died, its
    reader is left to wait, and the thread that works is free again. As long as it waits, the same data is not read
    again: a second reader would only be the second to wait. Tensors do not block; nor is there another thread without
    `patience`: on the main thread Ctrl-C ends the wait.

    Raises:
        Cancelled: as soon as `stopped` says so, also while a batch is waited for.
        DataError: for data that gives no batch for `patience` seconds.
    """
    if patience is None or as_pair(data) is not None:
        return batches
    return _unblocked(batches, data, stopped, patience)


def _unblocked(batches: Iterator[Any], data: object, stopped: Callable[[], bool], patience: float) -> Iterator[Any]:
    end = time.monotonic() + patience
    while any(reader.left and reader.data is data for reader in list(_LIVE)):  # one that was given up reads it still
        if stopped():
            raise Cancelled("cancelled while the data was blocked")
        if time.monotonic() > end:
            raise DataError(_blocked("is still blocked: it has given nothing", patience))
        time.sleep(_LOOK_SECONDS)
    # An error is raised here, on the thread that asked, and not swallowed on the one that read.
    reader = _Reader(batches, data)
    number = 0
    try:
        while True:
            number += 1
            kind, value = reader.next(number, stopped, patience)
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value
            del value  # or two batches would be held while the next is read
    finally:
        reader.leave()


class _Reader:
    """A thread that takes one batch from an iterator each time it is asked to.

    It never reads ahead: a batch that nobody asked for would have drawn random numbers and moved the caller's iterator.
    """

    def __init__(self, batches: Iterator[Any], data: object) -> None:
        self.data = data
        self.left = False
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._given: SimpleQueue[_Answer] = SimpleQueue()
        self._waiting = False
        # A daemon: a thread that waits for ever must not keep the interpreter from ending.
        self.thread = threading.Thread(target=self._read, args=(batches,), name="shrinkwidget-reader", daemon=True)
        _LIVE.add(self)
        self.thread.start()

    def next(self, number: int, stopped: Callable[[], bool], patience: float) -> _Answer:
        """Ask for the batch of this number and return what came."""
        self._waiting = True
        self._asked.put(True)
        end = time.monotonic() + patience
        while True:  # a short look at a time: there is no waiting for a batch and for `stopped` at once
            try:
                answer = self._given.get(timeout=_LOOK_SECONDS)
            except Empty:
                if stopped():
                    raise Cancelled(f"cancelled while batch {number} was waited for") from None
                if time.monotonic() > end:
                    raise DataError(_blocked(f"has given no batch {number}", patience)) from None
            else:
                self._waiting = False
                return answer

    def leave(self) -> None:
        """Let the thread close the iterator and end, as soon as it is not blocked."""
        self.left = True
        self._asked.put(False)
        if not self._waiting:
            self.thread.join(_CLOSE_SECONDS)  # a loader's workers end before somebody reads it again

    def _read(self, batches: Iterator[Any]) -> None:
        try:
            while self._asked.get():
                try:
                    self._given.put(("batch", next(batches)))
                except StopIteration:
                    break
            # Closed and let go on this thread: what its end runs (a loader's workers that are joined) may block, too.
            close = getattr(batches, "close", None)
            if close is not None:
                close()
            del batches
            self._given.put(("end", None))
        except BaseException as error:  # noqa: BLE001  # told on the thread that asked
            self._given.put(("error", error))
        finally:
            _LIVE.discard(self)


def wait_for_readers(seconds: float) -> None:
    """Wait for readers that were given up, once, and so long at most: none should be caught in torch at the end."""
    end = time.monotonic() + seconds
    for reader in list(_LIVE):
        reader.thread.join(max(0.0, end - time.monotonic()))
        _LIVE.discard(reader)


def _blocked(what: str, patience: float) -> str:
    return (
        f"the data {what} for {patience:g} s: it waits for something that does not come, or is very slow; "
        f"look for a lock, a download or a worker that has died"
    )
