"""What a network is to learn: the data, how many outputs that takes, and one batch to look at."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from ..analysis.inference import describe, device_of
from ..errors import DataError, TrainingError
from ..evaluation.batches import Batch, as_pair, prepared, raw_batches, refuse_no_data
from ..evaluation.labels import IGNORED
from ..training.options import TrainingOptions
from ..training.rng import fork_rng


@dataclass(frozen=True, eq=False)
class TransferTask:
    """The data of the new task, the outputs of the new head, and how is trained."""

    train_data: object
    eval_data: object
    outputs: int
    options: TrainingOptions

    @classmethod
    def of(
        cls, train_data: object, eval_data: object, classes: int | None, targets: int | None, options: TrainingOptions
    ) -> TransferTask:
        """Return the task, its classes counted where neither they nor the values to predict are given.

        Raises:
            DataError: for what is no data, can be read only once, or does not tell the classes.
            TrainingError: for numbers of classes or values that cannot be.
        """
        _check_options(options, classes, targets)
        for data in (train_data, eval_data):
            if data is not None and as_pair(data) is None:
                refuse_no_data(data)
            if isinstance(data, Iterator):
                raise DataError(
                    f"a {type(data).__name__} can be read only once, and is needed every epoch: "
                    f"pass a list of batches or a DataLoader"
                )
        if targets is not None:
            return cls(train_data, eval_data, targets, _for_regression(options))
        outputs = _count_classes(train_data, options) if classes is None else classes
        return cls(train_data, eval_data, outputs, options)

    def first(self, model: nn.Module) -> Batch:
        """Return the first training batch, ready to run.

        Raises:
            DataError: if there is none, or the model takes other arguments.
        """
        with fork_rng(None, self.options.seed):
            raw = next(raw_batches(self.train_data), None)
        if raw is None:
            raise DataError("the data is empty: there is no batch to train on")
        try:
            batch = prepared(raw, model, device_of(model))
            _check_arguments(model, batch)
        except DataError as error:
            raise DataError(f"batch 1: {error}") from error.__cause__
        return batch


def _check_options(options: TrainingOptions, classes: object, targets: object) -> None:
    if options.checkpoint is not None:
        raise TrainingError("transfer writes no checkpoint, as it is short: leave TrainingOptions(checkpoint=…) out")
    if classes is not None and targets is not None:
        raise TrainingError("give classes=… to tell classes apart, or targets=… to predict numbers, not both")
    for name, found, least in (("classes", classes, 2), ("targets", targets, 1)):
        if found is not None and (not isinstance(found, int) or isinstance(found, bool) or found < least):
            raise TrainingError(f"{name}={found!r} must be a whole number from {least}")


def _for_regression(options: TrainingOptions) -> TrainingOptions:
    """Return the options with the loss of a regression, where it is that of classes."""
    return replace(options, loss="mse") if options.loss == "cross_entropy" else options


def _count_classes(data: object, options: TrainingOptions) -> int:
    """Return the largest label and one, reading the data once."""
    largest = -1
    for labels in _labels(data, options.seed):
        if labels.is_floating_point() or labels.is_complex():
            raise DataError(
                f"the targets are {describe(labels)}: give classes=… if they are whole, or targets=… for a regression"
            )
        scored = labels[(labels != IGNORED) & (labels != options.ignore_index)].long()
        if scored.numel() and int(scored.min()) < 0:
            raise DataError(f"label {int(scored.min())} is out of range: classes are numbered from 0")
        largest = max(largest, int(scored.max()) if scored.numel() else -1)
    if largest < 1:
        found = "no label" if largest < 0 else "no other label than 0"
        raise DataError(f"there is {found} in the training data: give classes=…, how many there are to tell apart")
    return largest + 1


def _labels(data: object, seed: int) -> Iterator[Tensor]:
    if (pair := as_pair(data)) is not None:
        yield pair[1]
        return
    if isinstance(data, IterableDataset) or (
        isinstance(data, DataLoader) and isinstance(data.dataset, IterableDataset)
    ):
        raise DataError("a stream does not tell its classes before it is over: give classes=…")
    with fork_rng(None, seed):
        yield from [prepared(raw, _Anything(), None).targets for raw in raw_batches(data)]


class _Anything(nn.Module):
    """A model for which every batch will do."""

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


def _check_arguments(model: nn.Module, batch: Batch) -> None:
    """Raise a `DataError` if a batch lacks an argument of the model's ``forward``."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = [
        p for p in inspect.signature(model.forward).parameters.values() if p.kind in kinds and p.default is p.empty
    ]
    lacking = [p.name for p in needed[len(batch.args) :] if p.name not in batch.kwargs]
    if lacking:
        raise DataError(
            f"{type(model).__name__}.forward needs {', '.join(p.name for p in needed)}, but the batch has no "
            f"{lacking[0]!r}: give batches ((a, b), targets), or dicts with these names and the targets"
        )
