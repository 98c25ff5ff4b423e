"""Evaluation and training data in batches, and how a model's outputs and the labels beside them are read."""

from __future__ import annotations

import copy
import inspect
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from queue import Empty, SimpleQueue
from typing import Any, Final, Literal, NoReturn, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from ..analysis.run_model_seeded_macs_and_memory import (
    as_inputs,
    describe,
    eval_mode,
    moved,
    preserve_rng_state,
    tensors_in,
)
from ..errors import Cancelled, DataError, ShrinkError, a_type, reason

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


def all_finite(value: object) -> bool:
    """Tell whether no float tensor in tuples, lists and dicts holds NaN or an infinite number."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(value) if tensor.is_floating_point())


def refuse_not_finite(batch: Batch) -> None:
    """Raise a `DataError` for inputs that are no numbers to learn anything from."""
    if not all_finite([batch.args, batch.kwargs]):
        raise DataError("it holds NaN or infinite values: clean it first")


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


# ---- predictions and labels ----


IGNORED: Final = -100
"""The label that is never scored, as in ``torch.nn.functional.cross_entropy``."""

MULTI_LABEL: Final = (
    "several classes of a row are 1, or none is: that is multi-label, and a single class is no answer. Give "
    "metric=lambda out, y: ((out > 0) == (y > 0)).float().mean(1) for logits, and loss=nn.BCEWithLogitsLoss() "
    "to train on float labels"
)

# How far, relatively, a model's own loss may be from the cross entropy it is told by: computed in half precision, or
# with a small term of its own, such as a router's.
_CLOSE: Final = 0.02

# Probabilities are raised to this before their logarithm is taken, so that it and its gradient stay finite.
_LEAST: Final = torch.finfo(torch.float32).tiny

Place: TypeAlias = str | int
"""Where a tensor is in a model's outputs: a key or attribute, or a place in a tuple."""

Fit: TypeAlias = Callable[[Tensor], int]
"""How well a tensor may predict the targets: 0 it cannot, 1 it can, 2 it is of just their kind."""

_NAMES: Final = ("logits", "out")  # Hugging Face's name, and torchvision's


# ---- labels, and the scores they are paired with ----


@dataclass(frozen=True, slots=True)
class LabelRules:
    """What neither the labels nor the model may tell.

    Args:
        ignore_index: a label that is not scored, such as 255 in segmentation; -100 never is.
        next_token: whether the output at a position of a sequence predicts the label of the next position (a causal
            language model whose labels are its inputs), or that of its own (False). None: the model's own loss tells.
    """

    ignore_index: int | None = None
    next_token: bool | None = None

    def __post_init__(self) -> None:
        if self.ignore_index is not None and (
            not isinstance(self.ignore_index, int) or isinstance(self.ignore_index, bool)
        ):
            raise DataError(f"ignore_index={self.ignore_index!r} must be a class number such as 255, or None")
        if self.next_token not in (True, False, None):
            raise DataError(f"next_token={self.next_token!r} must be True, False or None")


def paired(scores: Tensor, labels: Tensor, classes_last: bool) -> tuple[Tensor, Tensor]:
    """Return scores N×C×… and labels: N×… of classes, or N×C×… of shares; one score a label is N×1×….

    Where classes might be in both places of the scores, `classes_last` decides.

    Raises:
        DataError: for shapes that do not fit.
    """
    if scores.shape == labels.shape and scores.ndim > 1 and scores.shape[1] > 1:
        return _shares(scores, labels, classes_last)
    # A column of labels, N×1, is what a table gives; beside scores N×1 it is as it should be, one label a score.
    if labels.ndim == scores.ndim > 1 and scores.numel() != labels.numel():
        if labels.shape[1] == 1:
            labels = labels.squeeze(1)
        elif labels.shape[-1] == 1:
            labels = labels.squeeze(-1)
    first = scores.ndim > 1 and scores.shape[:1] + scores.shape[2:] == labels.shape
    last = scores.ndim > 1 and scores.shape[:-1] == labels.shape
    if last and (classes_last or not first):
        return scores.movedim(-1, 1), labels
    if first:
        return scores, labels
    if scores.shape == labels.shape:
        return (scores, labels.squeeze(1)) if scores.ndim > 1 else (scores.unsqueeze(1), labels)
    raise DataError(f"outputs are {describe(scores)}, labels {describe(labels)}; expected logits N×C×… and labels N×…")


def _shares(scores: Tensor, labels: Tensor, classes_last: bool) -> tuple[Tensor, Tensor]:
    """Return labels that give each class its share; as class numbers where the whole share is that of one."""
    if labels.is_complex():
        raise DataError(f"labels are {describe(labels)}; expected class numbers, or a share of each class")
    # Several labels of one row (multi-label) look the same except for their sum: they would be scored by their largest.
    shares = labels.float()
    within = bool(((shares >= 0) & (shares <= 1)).all())
    # 1e-3: soft labels are often float16, or rounded in a file.
    one, last = (bool(((shares.sum(dim) - 1).abs() < 1e-3).all()) for dim in (1, -1))
    if not within or not (one or last):
        found = f"outputs are {describe(scores)}, labels {describe(labels)}"
        if within and bool(((shares == 0) | (shares == 1)).all()):
            raise DataError(f"{found}: {MULTI_LABEL}")
        raise DataError(
            f"{found}: expected class numbers N×…, or the share of each class, which sum to 1 "
            f"(for regression: metric='mse', and loss='mse' to train)"
        )
    if last and (classes_last or not one):
        scores, shares = scores.movedim(-1, 1), shares.movedim(-1, 1)
    if bool((shares.amax(1) == 1).all()):  # one-hot: as class numbers they are compared in less time and memory
        return scores, shares.argmax(1)
    return scores, shares


def are_shares(scores: Tensor, labels: Tensor) -> bool:
    """Tell whether labels give each class its share, beside scores N×C×…."""
    return labels.ndim == scores.ndim


def checked_classes(labels: Tensor, classes: int, rules: LabelRules) -> Tensor:
    """Return labels as class numbers, -100 for all that are not scored.

    Raises:
        DataError: for labels that are no class.
    """
    # Whole numbers as floats are what numpy and pandas make of class numbers: taken, unlike those of a regression.
    if labels.is_complex() or (labels.dtype.is_floating_point and not bool((labels == labels.round()).all())):
        raise DataError(
            f"labels are {describe(labels)}; expected whole class numbers "
            f"(for regression: metric='mse', and loss='mse' to train)"
        )
    labels = labels.long()
    if rules.ignore_index is not None:
        labels = labels.masked_fill(labels == rules.ignore_index, IGNORED)
    if labels.numel():
        least, most = labels.aminmax()
        if int(least) >= 0 and int(most) < classes:  # nearly always, and in a third of the time
            return labels
    strange = labels[(labels != IGNORED) & ((labels < 0) | (labels >= classes))]
    if strange.numel():
        found = int(strange[0])
        raise DataError(
            f"label {found} is out of range: the model tells {classes} classes apart, 0 to {classes - 1}; "
            f"if it marks what is not to be scored, as {IGNORED} does, give ignore_index={found}"
        )
    return labels


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the loss in nats of every label, N×…; 0 for one that is not scored."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="none")


def ahead(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits of a sequence paired with the labels of the next position."""
    return logits[:, :, :-1], labels[:, 1:]


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean loss over the labels that are scored; NaN if none is."""
    with torch.no_grad():
        return float(cross_entropy(logits, labels).sum() / (labels != IGNORED).sum())


# ---- the predictions of a batch, and what reads them ----


class Predictions:
    """A model's outputs for one batch, read when the loss or the metric asks, and once for both."""

    def __init__(self, reader: OutputReader, output: Any, batch: Batch) -> None:
        self.output = output
        self.targets = batch.targets
        self._reader, self._batch = reader, batch

    @cached_property
    def classes(self) -> tuple[Tensor, Tensor]:
        """Scores N×C×… whose largest is the class predicted, and the labels N×…, -100 where none is scored.

        Soft labels are N×C×… as the scores.

        Raises:
            DataError: for shapes that do not fit, labels that are no class, NaN, or what nothing decides.
        """
        return self._reader.classes(self.output, self._batch)

    @cached_property
    def logits(self) -> tuple[Tensor, Tensor]:
        """As `classes`, but logits, up to a constant of each example, also where the model ends in a softmax."""
        scores, labels = self.classes
        return self._reader.log_scores(scores), labels

    @cached_property
    def values(self) -> tuple[Tensor, Tensor]:
        """The prediction of a regression and the targets, of one shape.

        Raises:
            DataError: for shapes that do not fit.
        """
        return self._reader.values(self.output, self._batch)

    @property
    def rules(self) -> LabelRules:
        """How these were paired, for outputs of another model that are to be paired alike."""
        return replace(self._reader.rules, next_token=self._reader.next_token)

    @property
    def of_next_tokens(self) -> bool:
        """Whether the classes are tokens that a causal language model foretells."""
        return bool(self._reader.next_token)

    def has_nan(self) -> bool:
        """Tell whether any output is NaN."""
        found = tensors(self.output).values()
        return any(bool(x.isnan().any()) for x in found if x.dtype.is_floating_point)

    def losses(self) -> tuple[Tensor, Tensor]:
        """Return the cross entropy of every label, N×…, and which are scored."""
        logits, labels = self.logits
        losses = cross_entropy(logits, labels)
        return losses, torch.ones_like(losses, dtype=torch.bool) if are_shares(logits, labels) else labels != IGNORED


class OutputReader:
    """Reads the outputs of one model, batch after batch.

    What it settles on the first batch that tells holds for all: which of several outputs predicts, whether they are
    probabilities, and whether those of a sequence predict the next position.
    """

    def __init__(self, model: nn.Module, rules: LabelRules) -> None:
        self.rules = rules
        self.next_token = rules.next_token
        self._model = model
        self._place: Place | None = None
        self._sigmoid: bool | None = None
        self._softmax: bool | None = None

    def read(self, output: Any, batch: Batch) -> Predictions:
        """Return a model's outputs for a batch, to be read as the metric or the loss wants them."""
        return Predictions(self, output, batch)

    def values(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the prediction of a regression and the targets, of one shape."""
        targets = batch.targets
        if isinstance(output, Tensor) and output.ndim:
            return paired_values(output, targets)
        places = find_prediction(output, fits_values(targets), targets)
        if len(places) > 1:
            refuse_ambiguous(output, places)
        return paired_values(tensors(output)[places[0]], targets)

    def classes(self, output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return scores N×C×… of the classes and the labels: class numbers N×…, or shares N×C×…."""
        scores = output if isinstance(output, Tensor) and output.ndim else self._scores(output, batch)
        labels = batch.targets.to(scores.device)
        # Language models put classes last, N×L×C, torch's losses second, N×C×L. Where L = C the shape cannot tell:
        # then whatever speaks for a language model (a named output, tokens among the inputs) decides.
        last = not isinstance(output, Tensor) or self.rules.next_token is not None or _tokens(batch, labels) is not None
        found, (scores, labels) = scores, paired(scores, labels, last)
        classes_last = scores is not found
        if scores.dtype.is_floating_point:
            no_nan(scores)
        if scores.shape[1] == 1:
            scores = self._two_classes(scores, batch)
        if are_shares(scores, labels):
            return scores, labels
        labels = checked_classes(labels, scores.shape[1], self.rules)
        if labels.ndim == 2:
            return self._paired_sequence(scores, labels, output, batch, classes_last)
        return scores, labels

    def log_scores(self, scores: Tensor) -> Tensor:
        """Return the scores of classes as logits, up to a constant of each example: those of a softmax by their log."""
        if self._softmax is None:
            self._softmax = False
            if scores.dtype.is_floating_point:
                shares = scores.float()
                sums_to_one = bool(((shares.sum(1) - 1).abs() < 1e-3).all())
                # Decided once: a single batch of logits could sum to one by chance, all of the first batch hardly.
                self._softmax = sums_to_one and bool((shares >= 0).all())
        return scores.float().clamp(min=_LEAST).log() if self._softmax else scores

    def _scores(self, output: Any, batch: Batch) -> Tensor:
        """Return the one of several outputs that predicts: where shapes cannot tell, that of the model's own loss."""
        found = tensors(output)
        if self._place is None or self._place not in found:
            places = find_prediction(output, fits_classes(batch.targets, self.rules), batch.targets)
            self._place = places[0] if len(places) == 1 else self._place_by_loss(output, batch, places)
        return found[self._place]

    def _place_by_loss(self, output: Any, batch: Batch, places: list[Place]) -> Place:
        """Return the one of several outputs of which the model's own loss is the cross entropy."""
        found, loss, told = tensors(output), own_loss(output), list[Place]()
        if loss is None:
            refuse_ambiguous(output, places)
        for place in places:
            scores, labels = paired(found[place], batch.targets.to(found[place].device), classes_last=True)
            if scores.shape[1] == 1 or are_shares(scores, labels):
                continue
            pair = scores, checked_classes(labels, scores.shape[1], self.rules)
            pairs = [pair, ahead(*pair)] if labels.ndim == 2 else [pair]
            if any(abs(mean_loss(*p) - loss) <= 1e-3 * abs(loss) for p in pairs):
                told.append(place)
        if len(told) != 1:
            refuse_ambiguous(output, places)
        return told[0]

    # one score a label: is it a logit, or the probability of class 1?

    def _two_classes(self, scores: Tensor, batch: Batch) -> Tensor:
        """Return logits of two classes, given that of class 1 or its probability, N×1×…."""
        if self._sigmoid is None:
            between = scores.dtype.is_floating_point and bool(((scores >= 0) & (scores <= 1)).all())
            # Logits may all lie within 0…1 by chance, and be taken for probabilities: so the last operation decides.
            self._sigmoid = ends_in_probability(self._model, batch, scores) if between else False
            if self._sigmoid is None:
                raise DataError(
                    f"the outputs, {describe(scores)}, one a label, all lie between 0 and 1 and look like "
                    f"probabilities, but a logit is expected: end the model in the logit (without sigmoid, trained "
                    f"with nn.BCEWithLogitsLoss()), or give metric=lambda out, y: ((out > 0.5) == (y > 0.5)).float()"
                    f".mean() and, to train, loss=nn.BCELoss()"
                )
        if not self._sigmoid:
            return torch.cat([torch.zeros_like(scores), scores], 1)
        one = scores.float()
        return torch.cat([1 - one, one], 1).clamp(min=_LEAST).log()

    # sequences: does position i predict label i, or label i + 1?

    def _paired_sequence(
        self, scores: Tensor, labels: Tensor, output: Any, batch: Batch, classes_last: bool
    ) -> tuple[Tensor, Tensor]:
        """Return scores and labels of sequences paired as the model's own loss pairs them, or as the caller says."""
        if self.next_token is None:
            if (loss := own_loss(output)) is not None and not math.isnan(loss):
                self.next_token, next_token = self._pairing_of(loss, scores, labels)
                return ahead(scores, labels) if next_token else (scores, labels)
            if not classes_last:
                return scores, labels  # N×C×L is the layout of torch's cross entropy, and paired as that pairs it
            self.next_token = self._ask_model(batch, labels)
        return ahead(scores, labels) if self.next_token else (scores, labels)

    def _pairing_of(self, loss: float, scores: Tensor, labels: Tensor) -> tuple[bool | None, bool]:
        """Return whether a loss is that of the next tokens: for good (None if another batch must tell), and here.

        Raises:
            DataError: if it is that of neither pairing.
        """
        here, there = mean_loss(scores, labels), mean_loss(*ahead(scores, labels))
        near = [abs(found - loss) <= _CLOSE * abs(loss) + 1e-3 for found in (here, there)]
        if near == [False, False]:
            raise DataError(
                f"the model's own loss is {loss:.4g}, but the cross entropy is {here:.4g} if position i predicts "
                f"label i, and {there:.4g} if it predicts label i + 1: say which, next_token=False or next_token=True"
            )
        if near != [True, True]:
            return near[1], near[1]
        # An untrained model is about as wrong either way. The nearer one serves this batch, but holds for good only
        # where the two differ by more than the loss's own rounding.
        nearer = abs(there - loss) < abs(here - loss)
        sure = abs(here - there) > 1e-3 * abs(loss) and min(abs(here - loss), abs(there - loss)) < 1e-4 * abs(loss)
        return (nearer if sure else None), nearer

    def _ask_model(self, batch: Batch, labels: Tensor) -> bool:
        """Return how the model, or one inside it, pairs tokens when it is given labels.

        Raises:
            DataError: if nothing tells, or the labels are those of the next position already.
        """
        told = None
        for output in outputs_with_labels(self._model, batch, labels):
            loss = own_loss(output)
            if loss is None or math.isnan(loss):
                continue
            try:  # with a reader of its own: a module inside may name its outputs otherwise
                scores = OutputReader(self._model, self.rules)._scores(output, batch)
                pair = paired(scores, labels[: len(scores)], classes_last=True)
                told = self._pairing_of(loss, *pair)[1]
            except ShrinkError:
                continue
            break
        if told is None:
            raise DataError(
                f"outputs for every position of a sequence, labels {describe(batch.targets)}, and no loss of the "
                f"model's own: nothing tells whether position i predicts label i or label i + 1. Say "
                f"next_token=True (a causal language model whose labels are its inputs) or next_token=False"
            )
        tokens = _tokens(batch, labels)
        if told and tokens is not None:
            # Labels that were moved on by the data already would be moved on twice, and every answer be wrong.
            scored = labels != IGNORED
            following = (labels[:, :-1] == tokens[:, 1:]) | ~scored[:, :-1]
            if bool(following.all()) and bool((labels != tokens)[scored].any()):
                raise DataError(
                    "the labels are the inputs of the next position already, but the model's own loss compares "
                    "position i with label i + 1: give the inputs as labels, or say next_token=False"
                )
        return told


def _tokens(batch: Batch, labels: Tensor) -> Tensor | None:
    """Return the input that has a whole number for every label: tokens."""
    for given in (*batch.args, batch.kwargs.get("input_ids")):
        if isinstance(given, Tensor) and given.shape == labels.shape and not given.dtype.is_floating_point:
            return given
    return None


# ---- what a model returns, and the tensor of it that predicts ----


def parts(output: Any) -> dict[Place, Any]:
    """Return what a model returned by key, by attribute or by place: a tensor has the only place 0."""
    if isinstance(output, Tensor):
        return {0: output}
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    if isinstance(output, tuple | list):
        return dict(enumerate(output))
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    named = {name: getattr(output, name, None) for name in (*_NAMES, "loss")}  # properties and slots
    return named | getattr(output, "__dict__", {})


def tensors(output: Any) -> dict[Place, Tensor]:
    """Return the tensors of what a model returned that have a batch dimension; a loss has none."""
    return {place: part for place, part in parts(output).items() if isinstance(part, Tensor) and part.ndim}


def own_loss(output: Any) -> float | None:
    """Return the loss a model computed itself: what it calls so, or a scalar at the head of a tuple."""
    found = parts(output)
    loss = found.get("loss", found.get(0))
    if isinstance(loss, Tensor) and (loss.ndim == 0 or (loss.ndim == 1 and "loss" in found)):
        return float(loss.detach().mean())  # a parallel model gives one for each device
    return None


def only_prediction(output: Any) -> Tensor | None:
    """Return the tensor that predicts, whatever the targets are; None where they would have to tell."""
    found = tensors(output)
    named = next((found[name] for name in _NAMES if name in found), None)
    return named if named is not None or len(found) != 1 else next(iter(found.values()))


def find_prediction(output: Any, fit: Fit, targets: Tensor) -> list[Place]:
    """Return the places of the tensors that may predict the targets: one, unless nothing tells several apart.

    It is the output itself, or what is called ``logits`` or ``out``, or the only tensor with a batch dimension. Of
    several, those that fit the targets best.

    Raises:
        DataError: if there is none.
    """
    found = tensors(output)
    for name in _NAMES:
        if name in found:
            return [name]
    if not found:
        what = describe(output)
        if isinstance(output, tuple | list):
            what += f" of {', '.join(map(describe, output)) or 'nothing'}"
        raise DataError(
            f"the model returned {what}; expected a tensor of N×…, or logits; else pass a function as metric"
        )
    if len(found) == 1:
        return list(found)
    ranks = {place: fit(tensor) for place, tensor in found.items()}
    best = max(ranks.values())
    if not best:
        raise DataError(f"of what the model returned ({_listed(found)}) nothing fits the targets, {describe(targets)}")
    return [place for place, rank in ranks.items() if rank == best]


def refuse_ambiguous(output: Any, places: Sequence[Place]) -> NoReturn:
    """Raise a `DataError` for several tensors that fit equally well."""
    found = tensors(output)
    raise DataError(
        f"the model returned several tensors that fit the targets ({_listed({p: found[p] for p in places})}): "
        f"let it return one of them, or under the name 'logits'; or pass functions of (outputs, targets) "
        f"as metric and as loss"
    )


def _listed(found: Mapping[Place, Tensor]) -> str:
    return ", ".join(f"{place!r} {describe(tensor)}" for place, tensor in found.items())


def fits_classes(labels: Tensor, rules: LabelRules) -> Fit:
    """Return how well a tensor may score the classes of labels: 2 with just as many classes as there are labels."""
    whole = labels[labels != rules.ignore_index] if rules.ignore_index is not None else labels
    classes = int(whole.max()) + 1 if whole.numel() and not labels.is_complex() else 0

    def fit(tensor: Tensor) -> int:
        if tensor.shape == labels.shape:  # one-hot, or one logit a label
            return 2 if tensor.ndim > 1 or classes <= 2 else 0
        plain = labels.squeeze(1) if labels.ndim > 1 and labels.shape[1] == 1 else labels
        shape = tuple(tensor.shape)
        sizes = [shape[1]] if shape[:1] + shape[2:] == plain.shape and len(shape) > 1 else []
        sizes += [shape[-1]] if shape[:-1] == plain.shape else []
        # Both places of the classes are tried, second (torch's losses) and last (language models).
        known = [max(size, 2) for size in sizes]  # one logit tells two classes apart
        # A batch need not hold the last class: more classes than labels may fit, but not as well.
        return 2 if classes in known else int(any(size > classes for size in known))

    return fit


def fits_values(targets: Tensor) -> Fit:
    """Return the fit of a regression: the targets' shape, and N×1 fits N."""

    def sizes(tensor: Tensor) -> list[int]:
        return [size for size in tensor.shape[1:] if size != 1]  # those that count: N×2×3 does not fit N×3×2

    def fit(tensor: Tensor) -> int:
        same = tensor.numel() == targets.numel() and len(tensor) == len(targets)
        return 2 if same and sizes(tensor) == sizes(targets) else 0

    return fit


def paired_values(found: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the prediction of a regression and the targets, both of the prediction's shape and on its device.

    Raises:
        DataError: for shapes that do not fit; N×1 fits N.
    """
    if not fits_values(targets)(found):
        raise DataError(f"outputs are {describe(found)}, targets {describe(targets)}; expected the same shape")
    return found, targets.to(found.device).reshape(found.shape)


def no_nan(values: Tensor, name: str = "") -> Tensor:
    """Return the values, or raise a `DataError` if one is NaN, naming the metric that made them."""
    if bool(values.isnan().any()):
        raise DataError(f"the metric {name!r} returned NaN" if name else "the outputs or the targets hold NaN")
    return values


# ---- what the model is asked where its outputs do not tell: its last operation, how its own loss pairs tokens ----

# Operations whose results within 0…1 are probabilities, by the names autograd gives them.
_SQUASH: Final = ("Sigmoid", "Hardsigmoid", "Softmax", "Clamp", "Hardtanh")

# Operations whose results are not bounded, so that they are logits.
_AFFINE: Final = (
    "Addmm", "Mm", "Bmm", "Addbmm", "Baddbmm", "Mv", "Addmv", "Convolution", "MkldnnConvolution", "Linear",
)  # fmt: skip

# Operations that only pass values on, or keep a probability from being just 0 or 1: what is before them decides.
_LIKENESS: Final = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Slice", "Select", "Transpose", "T", "Permute",
    "Clone", "ToCopy", "Alias", "AsStrided", "Expand", "Index", "Unbind", "Split", "ClampMin", "ClampMax",
)  # fmt: skip

_STEPS: Final = 32  # how far back: heads end in a handful of such operations
_EXAMPLES: Final = 4  # enough to tell one pairing's loss from the other's, and cheap for a large model


def ends_in_probability(model: nn.Module, batch: Batch, scores: Tensor) -> bool | None:
    """Tell whether scores are made by a sigmoid or by an affine layer; None if by anything else.

    Autograd's graph tells; where the scores have none, as in an evaluation, the model is run once more on one example.
    """
    # By autograd's graph and not by values: logits of an untrained model may all lie within 0…1.
    if scores.grad_fn is not None:
        return _made_by_squashing(scores.grad_fn)

    def with_gradient(value: Any) -> Any:  # a graph is made even if all parameters are frozen
        floating = isinstance(value, Tensor) and value.dtype.is_floating_point
        return value.detach().clone().requires_grad_() if floating else value

    inner = unwrapped(model)  # a compiled model would be compiled again for one example
    args, kwargs = _first_rows(batch, 1)
    try:
        with torch.inference_mode(False), torch.enable_grad(), preserve_rng_state(), eval_mode(inner):
            output = inner(*map(with_gradient, args), **{name: with_gradient(x) for name, x in kwargs.items()})
            nodes = [x.grad_fn for x in tensors(output).values() if x.dtype.is_floating_point]
    except Exception:  # noqa: BLE001  # it ran before; whatever fails here only tells nothing
        return None
    return next((_made_by_squashing(node) for node in nodes if node is not None), None)


def _made_by_squashing(node: Any) -> bool | None:
    """Walk autograd's graph backwards, over what only passes values on, to the operation that made them."""
    for _ in range(_STEPS):
        name = re.sub(r"Backward\d*$", "", node.name())
        if name in _SQUASH:
            return True
        if name in _AFFINE:
            return False
        before = [parent for parent, _ in node.next_functions if parent is not None]
        if name not in _LIKENESS or len(before) != 1:
            return None
        node = before[0]
    return None


def outputs_with_labels(model: nn.Module, batch: Batch, labels: Tensor) -> Iterator[Any]:
    """Yield what the model, and modules inside it that take ``labels``, return when they are given these too.

    A few examples are run once more for each. Nothing is yielded for a module that fails with labels.
    """
    whole, some = unwrapped(model), labels[:_EXAMPLES]
    args, kwargs = _first_rows(batch, _EXAMPLES)
    for inner in [module for module in whole.modules() if _takes_labels(module)]:
        seen: list[Any] = []

        def give(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "labels": some}

        def note(_module: nn.Module, _args: Any, output: Any, seen: list[Any] = seen) -> None:
            seen.append(output)

        # The whole model is run, and the inner one given labels by a hook: nobody else knows what inputs it gets.
        hooks = [inner.register_forward_pre_hook(give, with_kwargs=True), inner.register_forward_hook(note)]
        try:
            with torch.inference_mode(False), torch.no_grad(), preserve_rng_state(), eval_mode(whole):
                whole(*args, **kwargs)
        except Exception:  # noqa: BLE001  # as above
            seen.clear()
        finally:
            for hook in hooks:
                hook.remove()
        yield from seen


def _takes_labels(module: nn.Module) -> bool:
    try:
        return "labels" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # scripted
        return False


def _first_rows(batch: Batch, rows: int) -> tuple[list[Any], dict[str, Any]]:
    """Return a batch's inputs, cut to its first examples."""

    def cut(value: Any) -> Any:
        return value[:rows] if isinstance(value, Tensor) and value.ndim else value

    return [cut(x) for x in batch.args], {name: cut(x) for name, x in batch.kwargs.items()}
