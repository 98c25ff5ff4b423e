"""Calibration data: examples that tell an importance what flows through a network, and what it found in them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.channel_families_and_counts import Channels
from ..analysis.open_model_tensors_and_channel_axes import Source, Stated, copied
from ..analysis.run_model_seeded_macs_and_memory import (
    call,
    describe,
    device_of,
    eval_mode,
    preserve_rng_state,
)
from ..analysis.sketch import Sketch
from ..analysis.sketch import sketch as _sketch
from ..analysis.sketch_on_dask_workers import sketch_on_workers
from ..argument_checks import public
from ..compression.find_and_prune_channels import channels
from ..errors import DataError, MethodError, ModelError, a_type, quoted
from ..recipe_and_method_registry import Importance, doing
from .batches_predictions_and_labels import (
    Batch,
    LabelRules,
    OutputReader,
    batch_named,
    first_example,
    prepared,
    raw_batches,
    refuse_not_finite,
)
from .evaluate_and_metrics import LOSSES

if TYPE_CHECKING:
    from distributed import Client

# Examples whose gradients are taken together, of data that is no loader: in larger batches they cancel, in smaller
# ones there are more passes. The embedded network, 80 % pruned by "taylor", has 88 % accuracy on its validation images
# with single examples, 70 % with 8, which take less than half the time, and 25 % with 128.
_LABELLED_ROWS: Final = 8

_KIND: Final = "calibration batch"  # as messages call one


class Calibration:
    """A module with calibration data: every importance takes its statistic when a recipe first asks for it.

    Args:
        model: the module that is sketched or compressed; a copy of it is run, in eval mode.
        data: as for `evaluate`, or inputs alone: a tensor of them, or batches of one tensor each.

    Raises:
        ModelError: for what is no module.
        DataError: for no data.
    """

    def __init__(self, model: object, data: object) -> None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"calibration=… needs a module to run, and this is {a_type(model)}: give the nn.Module")
        if data is None or isinstance(data, str | bytes):
            raise DataError(f"calibration={quoted(data)} is no data: give a DataLoader, batches, or a tensor of inputs")
        if isinstance(data, Iterator):
            raise DataError(
                f"calibration=… can be read only once ({type(data).__name__}), and every importance reads it: give a "
                f"DataLoader or a list of batches"
            )
        self._model, self._data = model, data
        self._known: dict[tuple[type[Importance], str], Mapping[str, Tensor]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        # A lock cannot be pickled, and what was observed can be found again.
        return (Calibration, (self._model, self._data))

    def statistics(self, importance: Importance) -> Mapping[str, Tensor]:
        """Return what an importance finds in the data: a tensor of the weights' shape for each it reached, by name.

        Raises:
            DataError: for data that is empty, holds NaN, or does not fit the model, naming the batch.
            MethodError: for an importance that fails, or returns what is no statistic.
            ModelError: if the model cannot be copied.
        """
        # two of one kind with other settings look at the data differently, as does a kind that a cell defines anew
        # The lock is held while it is observed, so that two threads that ask at once do not both run the network.
        key = type(importance), repr(importance)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._observed(importance)
            return self._known[key]

    def of(self, model: nn.Module) -> Calibration:
        """Return the same data for another module, such as the model without some of its channels."""
        return Calibration(model, self._data)

    def check(self) -> None:
        """Run the first batch through the network, so that data that does not fit is refused at once."""
        with eval_mode(self._model), preserve_rng_state():
            next(CalibrationRun(self._model, self._data).forward())

    def _observed(self, importance: Importance) -> Mapping[str, Tensor]:
        network = copied(self._model).eval()
        parameters = dict(network.named_parameters(remove_duplicate=False))
        with preserve_rng_state(), doing(importance, "the calibration data"):
            found = importance.observe(CalibrationRun(network, self._data))
        if not isinstance(found, Mapping):
            raise MethodError(
                f"importance {importance.kind!r} observed {a_type(found)}; expected tensors by the names of weights"
            )
        for name, value in found.items():
            expected = parameters[name].shape if name in parameters else None
            if not isinstance(value, Tensor) or value.shape != expected or not bool(value.isfinite().all()):
                wanted = "no weight of the model" if expected is None else f"expected {list(expected)}, all finite"
                raise MethodError(
                    f"importance {importance.kind!r} failed on {quoted(name.removesuffix('.weight'))}: it observed "
                    f"{describe(value)}; {wanted}"
                )
        return {name: value.detach() for name, value in found.items()}


@public()
def sketch(
    source: Source,
    *,
    layout: Stated = None,
    calibration: object = None,
    example: object = None,
    client: Client | Literal["local"] | None = None,
) -> Sketch:
    """Look at every weight of a module, a state dict or a checkpoint on disk once.

    A checkpoint is a ``.safetensors`` file, the ``….safetensors.index.json`` of a sharded one, or a model's folder.

    >>> import shrinkwidget as sw
    >>> look = sw.sketch(sw.demo.model(), calibration=sw.demo.data("train"))
    >>> sw.compress(sw.demo.model(), 0.5, importance="wanda", sketch=look).estimate.sparsity > 0.49
    True

    Args:
        source: the model.
        layout: of a state dict or a checkpoint, which axis of a tensor is its output channels, where neither names nor
            biases nor the tensors beside it tell: ``"out_in"``, the first, as PyTorch has them, or ``"in_out"``, the
            last, as Keras and JAX have them. A dict of these by name or wildcard, ``{"W*": "in_out"}``, holds for the
            tensors it names, whatever else tells. Where nothing tells and nothing is said, the first axis is taken, and
            `warnings` say so.
        calibration: examples for an importance that looks at more than weights (``"wanda"``, ``"taylor"``): data as
            `evaluate` takes it, or inputs alone, where no labels are needed. Such an importance looks at them when a
            recipe first asks for it; their first batch is tried now.
        example: what the model runs on: a tensor, a tuple of positional or a dict of keyword arguments, or what
            ``sw.channels`` found on one. The sketch then knows which channels can be removed, so that a recipe that
            removes them has an estimate, with exact widths, bytes and multiply-accumulates.
        client: of a checkpoint on disk: a ``distributed.Client``, whose workers read it tensor by tensor, each at the
            same path; or ``"local"``, for processes on this machine. The sketch is the same, bit for bit.

    Raises:
        ModelError: for NaN or infinite weights (naming the layer), meta tensors, nothing to compress, a `layout` that
            is none or names no tensor, or calibration data without a module to run.
        FileError: for a path that is not a safetensors file, or at which a worker finds none, or another.
        DataError: for calibration data that is none, holds NaN, or does not fit the model.
        MissingPackageError: for a client where Dask is not installed.
        ShrinkError: for a cluster that has another version of shrinkwidget, or whose scheduler goes away.
    """
    found = _sketch(source, layout=layout) if client is None else sketch_on_workers(source, layout, client)
    if example is not None:
        if not isinstance(source, nn.Module):
            raise ModelError(f"example=… needs a module to run, and this is {a_type(source)}: give the nn.Module")
        found = replace(found, channels=example if isinstance(example, Channels) else channels(source, example))
    return found if calibration is None else replace(found, calibration=calibrated(source, calibration))


def calibrated(model: object, data: object) -> Calibration:
    """Return a model's calibration data, once its first batch has been tried."""
    calibration = Calibration(model, data)
    calibration.check()
    return calibration


class CalibrationRun:
    """What `Importance.observe` is given: a copy of the network, in eval mode, and ways to run the data through it.

    The copy may be hooked and changed: it is thrown away.
    """

    def __init__(self, network: nn.Module, data: object) -> None:
        self.network = network
        self._data = data

    def forward(self) -> Iterator[None]:
        """Run the network on each batch, without gradients, and yield after each."""
        for run in self.runs():
            run()
            yield

    def runs(self) -> Iterator[Callable[[], None]]:
        """Yield for each batch a function that runs the network on it, without gradients."""
        for number, batch in self._batches(labelled=False):
            yield partial(self._run, number, batch)

    def _run(self, number: int, batch: Batch) -> None:
        with batch_named(number, _KIND), torch.no_grad():
            call(self.network, batch.args, batch.kwargs)

    def example(self) -> object:
        """Return the first example, as the network takes it."""
        return first_example(next(self._batches(labelled=False))[1])

    def losses(self, loss: str) -> Iterator[Tensor]:
        """Yield the loss of each batch, a number with a gradient; `loss` is ``"cross_entropy"`` or ``"mse"``."""
        reader = OutputReader(self.network, LabelRules())
        for number, batch in self._batches(labelled=True):
            with batch_named(number, _KIND), torch.enable_grad():
                outputs = call(self.network, batch.args, batch.kwargs)
                found = LOSSES[loss](reader.read(outputs, batch))
            yield found

    def _batches(self, labelled: bool) -> Iterator[tuple[int, Batch]]:
        device, number = device_of(self.network), 0
        if isinstance(self._data, Tensor | np.ndarray):  # inputs alone: cut as pairs are, each beside itself
            inputs = torch.as_tensor(self._data)
            batches: Iterator[Any] = (cut for cut, _ in raw_batches((inputs, inputs)))
        else:
            batches = raw_batches(self._data, batch_size=_LABELLED_ROWS if labelled else None)
        for number, raw in enumerate(batches, start=1):
            with batch_named(number, _KIND):
                batch = prepared(raw, self.network, device, labelled)
                refuse_not_finite(batch)
            yield number, batch
        if not number:
            raise DataError("the calibration data is empty: give at least one batch")
