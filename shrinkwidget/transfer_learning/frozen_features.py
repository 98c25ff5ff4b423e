"""Compute once what a frozen backbone makes of the data, so that the head trains on remembered features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..analysis.run_model_seeded_macs_and_memory import device_of, fork_rng, preserve_rng_state, run
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..errors import Cancelled
from ..evaluation.batches_predictions_and_labels import (
    Batch,
    batch_named,
    no_batch,
    only_prediction,
    prepared,
    raw_batches,
    read_in_thread,
)
from ..training.methods_schedule_options_and_progress import TrainingOptions


@dataclass(slots=True)
class _Tap:
    """What went into a module and what came out, call by call."""

    inputs: list[tuple[Any, ...]] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)

    def note(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        """Note one call (a forward hook)."""
        self.inputs.append(inputs)
        self.outputs.append(output)


@contextmanager
def _tapped(module: nn.Module) -> Iterator[_Tap]:
    tap = _Tap()
    handle = module.register_forward_hook(tap.note)
    try:
        yield tap
    finally:
        handle.remove()


def head_is_last(network: nn.Module, head: str, batch: Batch, options: TrainingOptions) -> bool:
    """Tell whether the head alone, given what goes into it, does for training all the network does.

    That is so if it runs once, takes one tensor, and what it returns is the prediction itself; if the inputs do not
    change from epoch to epoch and no teacher wants to see them; and if the loss and the metric look at the prediction.
    """
    with torch.no_grad(), preserve_rng_state(), _tapped(network.get_submodule(head)) as tap:
        output = run(network, batch.args, batch.kwargs)
    if len(tap.inputs) != 1 or [isinstance(x, Tensor) for x in tap.inputs[0]] != [True]:
        return False
    # A loss or a metric of the user's own is given all that a model returns: a head alone returns only a tensor.
    plain = isinstance(output, Tensor)
    named = isinstance(options.loss, str) and isinstance(options.measured, str) and batch.targets.ndim == 1
    return (
        only_prediction(output) is tap.outputs[0]
        and options.augment is None
        and not options.distillation
        and (plain or named)
    )


def frozen_features(
    network: nn.Module, head: str, data: object, seed: int, stopped: Watch = never, patience: float | None = None
) -> tuple[object, int]:
    """Return the data with what goes into the head in place of the inputs, and how many examples there are.

    It is one pair of tensors, to be shuffled again in every epoch, where all examples are of one shape, and else a list
    of batches.

    Raises:
        Cancelled: when `stopped` says so between two batches; with `patience`, see `read_in_thread`.
        DataError: for data that fails, or a batch the network cannot run, naming it; for no data.
    """
    batches: list[tuple[Tensor, Tensor]] = []
    device = device_of(network)
    with fork_rng(device, seed), torch.no_grad(), _tapped(network.get_submodule(head)) as tap:
        for number, raw in enumerate(read_in_thread(raw_batches(data), data, stopped, patience), start=1):
            if stopped():
                raise Cancelled(f"the features were not wanted any more before batch {number}")
            with batch_named(number):
                batch = prepared(raw, network, device)
                run(network, batch.args, batch.kwargs)
            # Kept on the model's device, where the head will train.
            batches.append((tap.inputs.pop()[0], batch.targets))
            tap.outputs.clear()  # nobody wants them, and a backbone's outputs may be large
    if not batches:
        raise no_batch(data, "train")
    if len({(x.shape[1:], y.shape[1:]) for x, y in batches}) > 1:  # images or sequences of several sizes
        return batches, sum(len(y) for _, y in batches)
    inputs, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return (inputs, targets), len(targets)
