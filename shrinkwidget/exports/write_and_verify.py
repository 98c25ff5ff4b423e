"""Write a compressed model for another runtime, read it back, and hold what that computes with against our weights."""

from __future__ import annotations

import inspect
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..analysis.open_model_tensors_and_channel_axes import copied, fill
from ..analysis.run_model_seeded_macs_and_memory import as_inputs, eval_mode, moved, preserve_rng_state, run
from ..analysis.tensor_ops_threads_and_cpu_kernel import never
from ..compression.encode_layers_and_packed_model import PackedModel
from ..errors import ArgumentError, Cancelled, DataError, ModelError, quoted
from ..evaluation.batches_predictions_and_labels import LabelRules, first_example, prepared, raw_batches
from ..evaluation.data_subset import DataSubset, draw_subset
from ..evaluation.evaluate_and_metrics import MetricLike, scores
from ..evaluation.recalibrate_batchnorm import unlabelled
from ..files.atomic_write import refuse_without_folder, write_all
from .exporter import Exported, ExportedTensor, Exporter, ExportJob, OpenedExport, Progress, exporter_for

CALIBRATION_EXAMPLES: Final = 512
"""So many of the calibration data are looked at."""
_ROUNDINGS: Final = 1000
"""By how many roundings of their dtype outputs may differ: another order of summing adds up through the layers."""


def export(
    packed: PackedModel,
    model: nn.Module | None,
    provenance: str,
    path: Path,
    target: str | None = None,
    *,
    example: object = None,
    eval_data: object = None,
    metric: MetricLike = "accuracy",
    rules: LabelRules = LabelRules(),
    batch_size: int | None = None,
    calibrate: object = None,
    activations: int | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a model for another runtime and check it; see `CompressedModel.export`."""
    exporter = exporter_for(path, target, settings or {})
    refuse_without_folder(path)
    subset = _calibration(exporter, calibrate, activations)
    runtime = exporter.require()
    tell = _telling(progress, cancelled or never)
    tell("tracing the model", 0.0)
    with preserve_rng_state(), third_party():
        job = _job(exporter, packed, model, example, eval_data, subset, tell)
        tell("writing the tensors", 0.3)
        written = exporter.write(job, activations)
        with tempfile.TemporaryDirectory(prefix="shrinkwidget-") as folder:
            # checked before anything takes the place of the user's file
            for suffix, content in written.files.items():
                (Path(folder) / f"model{suffix}").write_bytes(content)
            first = next(iter(written.files))
            tell("checking it in the runtime", 0.5)
            opened = exporter.open(Path(folder) / f"model{first}", job, written)
            tensors = _held(exporter, job, written.stored, opened)
            graph = None if not exporter.needs_graph or not exporter.runs else _GraphRun(job, opened)
            # activations of 8 bits are another arithmetic: what they cost is for the score to say
            difference = math.nan if graph is None else graph.difference(exporter, exact=activations is None)
            score = torch_score = None
            if eval_data is not None and graph is not None and job.model is not None:
                given = (eval_data, metric, rules, cancelled, None, batch_size)
                tell("scoring in torch", 0.6)
                *_, torch_score = scores(job.model, *given)
                tell(f"scoring in {runtime}", 0.75)
                *_, score = scores(graph.as_module(), *given)
                found_on = "with ranges of each input" if subset is None else f"calibrated on {subset.text}"
                how = "" if activations is None else f", {activations}-bit activations {found_on}"
                score = replace(score, provenance=f"{provenance}{how}, run by {runtime}")
                torch_score = replace(torch_score, provenance=provenance)
    tell("saving", 0.95)
    contents: dict[str | os.PathLike[str], list[bytes]] = {
        path.with_suffix(suffix) if suffix != first else path: [c] for suffix, c in written.files.items()
    }
    nbytes = write_all(contents)
    tell("done", 1.0)
    return Exported(
        path, exporter.target, runtime if exporter.runs else "", nbytes, packed.nbytes, tensors, difference, score,
        torch_score, written.notes,
    )  # fmt: skip


@contextmanager
def third_party() -> Iterator[None]:
    """Keep quiet what exporters and runtimes warn of: their own deprecations, and packages nobody asked for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _telling(progress: Progress | None, cancelled: Callable[[], bool]) -> Progress:
    def tell(what: str, share: float) -> None:
        if share < 1 and cancelled():
            raise Cancelled(f"the export was cancelled before {what}; no file was written")
        if progress is not None:
            progress(what, share)

    return tell


def _calibration(exporter: Exporter, calibrate: object, activations: int | None) -> DataSubset | None:
    """Return the examples whose activations are looked at; None where these stay floats."""
    if activations not in (None, *exporter.activation_bits):
        bits = " or ".join(map(str, exporter.activation_bits))
        can = f"None (floats) or {bits}" if bits else "None: this target has float activations only"
        raise ArgumentError(f"export(activations={activations!r}) to {exporter.target} must be {can}")
    if activations is None:
        if calibrate is not None:
            raise ArgumentError("export(calibrate=…) is for 8-bit activations: give activations=8 too, or leave it out")
        return None
    if exporter.finds_ranges_as_it_runs:
        if calibrate is not None:
            raise ArgumentError(
                f"an export to {exporter.target} finds the ranges of activations on each input, as it runs: leave "
                f"calibrate out"
            )
        return None
    if calibrate is None:
        raise ArgumentError(
            f"export(activations={activations}) has to see what flows through the network: give calibrate= training "
            f"data, never the data that scores it"
        )
    data = (calibrate, torch.zeros(len(calibrate))) if isinstance(calibrate, Tensor) and calibrate.ndim else calibrate
    return draw_subset(data, CALIBRATION_EXAMPLES)


def _job(
    exporter: Exporter,
    packed: PackedModel,
    model: nn.Module | None,
    example: object,
    eval_data: object,
    subset: DataSubset | None,
    tell: Progress,
) -> ExportJob:
    """Return the model with exactly the weights of its file, and an example that it runs on.

    Raises:
        ModelError, ArgumentError: if the target needs a module or an example, and there is none.
        DataError: if the model cannot run the example.
    """
    if not exporter.needs_graph:
        return ExportJob(packed, None, tell=tell)
    if model is None:
        raise ModelError(
            f"an export to {exporter.target} needs the network, and here are only weights: load the file with "
            f"load(path, into=model)"
        )
    # A copy with the file's weights: what is traced is what the file holds, whatever the caller's module has.
    new = copied(model).cpu()
    fill(new, packed.state_dict().items())
    new.eval()
    if example is None and eval_data is not None:
        raw = next(iter(raw_batches(eval_data)), None)
        if raw is None:
            raise DataError("the data is empty: there is no batch to take an example of")
        example = first_example(prepared(raw, new, None))
    if example is None:
        raise ArgumentError(
            f"an export to {exporter.target} needs an example: example=x, inputs that the model runs on (a tensor, a "
            f"tuple of positional or a dict of keyword arguments)"
        )
    args, kwargs = moved(as_inputs(example), torch.device("cpu"))
    leaves = pytree.tree_leaves(run(new, args, kwargs))
    args, kwargs = canonical(new, args, kwargs)
    rows = None
    if subset is not None:
        data = subset.data

        def rows() -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
            for raw in unlabelled(data):
                batch = prepared(raw, new, torch.device("cpu"))
                yield canonical(new, batch.args, batch.kwargs)

    if not all(isinstance(leaf, Tensor) for leaf in leaves):
        _return_tensors_only(new)
    # torch.export takes a batch of one for a constant: two rows show that the size may change
    doubled = pytree.tree_map_only(Tensor, lambda x: torch.cat([x, x]) if x.ndim and len(x) == 1 else x, (args, kwargs))
    with suppress(DataError):  # or, of a model that takes one row only, that it may not
        run(new, *doubled)
        args, kwargs = doubled
    return ExportJob(packed, new, args, kwargs, rows, tell=tell)


def _return_tensors_only(model: nn.Module) -> None:
    """Let a model leave out what it returns beside tensors, numbers say: a graph has no place for it."""
    forward = model.forward

    @wraps(forward)
    def tensors_only(*args: Any, **kwargs: Any) -> list[Tensor]:
        return [leaf for leaf in pytree.tree_leaves(forward(*args, **kwargs)) if isinstance(leaf, Tensor)]

    model.forward = tensors_only


def canonical(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments as the model's signature orders them, so that a name and a place mean the same input."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)
    return bound.args, bound.kwargs


def input_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors among arguments in the order in which an exported graph takes them."""
    return [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]


def _held(
    exporter: Exporter, job: ExportJob, stored: Mapping[str, str], opened: OpenedExport
) -> tuple[ExportedTensor, ...]:
    """Compare every compressed tensor of the opened file with the effective weights.

    Raises:
        ModelError: for one that is not the same to the bit, or that is missing.
    """
    found, held = opened.weights(), []
    expected = job.packed.state_dict()
    for name, how in stored.items():
        if name not in found:
            raise ModelError(f"the {exporter.target} file lost {quoted(name)}: nothing was written")
        tensor, wanted = found[name], expected[name]
        same = tensor.shape == wanted.shape and torch.equal(tensor.double(), wanted.double())
        if not same:
            off = "another shape"
            if tensor.shape == wanted.shape:
                off = f"{int((tensor.double() != wanted.double()).sum()):,} of {wanted.numel():,} values differ"
            raise ModelError(
                f"the {exporter.target} file does not hold {quoted(name)} exactly ({off}), so nothing was written"
            )
        held.append(ExportedTensor(name, how, exact=True))
    return tuple(held)


@dataclass(frozen=True)
class _GraphRun:
    """An exported network beside the one in torch."""

    job: ExportJob
    opened: OpenedExport

    @property
    def model(self) -> nn.Module:
        if self.job.model is None:
            raise ModelError("there is no network to run")
        return self.job.model

    def difference(self, exporter: Exporter, exact: bool) -> float:
        """Return the largest difference of outputs on the example, as a share of the largest output.

        Raises:
            ModelError: if they differ by more than the order of sums explains, naming where that begins.
        """
        inputs = input_tensors(self.job.args, self.job.kwargs)
        with torch.no_grad(), eval_mode(self.model):
            expected = [x for x in pytree.tree_leaves(self.model(*self.job.args, **self.job.kwargs)) if _is_tensor(x)]
        found = self.run(inputs)
        if [x.shape for x in found] != [x.shape for x in expected]:
            shapes = ", ".join("×".join(map(str, x.shape)) for x in found)
            raise ModelError(f"{exporter.target} returns outputs of other shapes ({shapes}): nothing was written")
        off = max((relative(a, b) for a, b in zip(found, expected, strict=True)), default=0.0)
        floats = [x.dtype for x in expected if x.is_floating_point()] or [torch.float32]
        allowed = min(_ROUNDINGS * max(torch.finfo(dtype).eps for dtype in floats), 0.1)
        if not off <= (allowed if exact else 1.0):
            raise ModelError(
                f"{exporter.target} and torch differ by {off:.2g} of the largest output on the example, where "
                f"arithmetic explains {allowed:.1g}{self._where(inputs, allowed)}: nothing was written"
            )
        return off

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        """Return outputs for any number of rows, in pieces of the rows the file takes."""
        fixed = self.opened.fixed_batch
        most = fixed or self.opened.largest_batch
        # The last piece is filled up with copies of its last row, whose outputs are cut off again.
        if most is None or not inputs or len(inputs[0]) == fixed or (fixed is None and len(inputs[0]) <= most):
            return self.opened.run(inputs)
        rows, pieces = len(inputs[0]), []
        for start in range(0, rows, most):
            piece = [x[start : start + most] for x in inputs]
            short = 0 if fixed is None else fixed - len(piece[0])
            piece = [torch.cat([x, x[-1:].expand(short, *x.shape[1:])]) if short else x for x in piece]
            pieces.append(self.opened.run(piece))
        return [torch.cat(parts)[:rows] for parts in zip(*pieces, strict=True)]

    def _where(self, inputs: list[Tensor], allowed: float) -> str:
        """Return which operator first differs, if its values are known on both sides."""
        theirs = self.opened.trace(inputs)
        if not theirs:
            return ""
        # Traced again, as the names of torch.export's nodes are those that the exporters keep for their values.
        program = torch.export.export(self.model, self.job.args, dict(self.job.kwargs), strict=False)
        watch = _Watch(program.module())
        watch.run(*pytree.tree_leaves((self.job.args, dict(self.job.kwargs))))
        for name, ours in watch.seen.items():
            if name in theirs and (theirs[name].shape != ours.shape or not relative(theirs[name], ours) <= allowed):
                return f", from {quoted(name)} on"
        return ""

    def as_module(self) -> nn.Module:
        """Return the exported network as a module that `evaluate` takes."""
        return RuntimeModule(self.model, self.job, self.run)


class _Watch(torch.fx.Interpreter):
    """Runs a traced module and remembers what every operator gave."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.seen: dict[str, Tensor] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        """Run a node, and keep its value under its name."""
        value = super().run_node(n)
        if n.op == "call_function" and isinstance(value, Tensor):
            self.seen[n.name] = value
        return value


class RuntimeModule(nn.Module):
    """A network that another runtime runs, in the place of the one in torch: the same arguments, the same outputs.

    Where gradients are asked for, torch's runs: that is how an evaluation finds out whether outputs are probabilities.
    """

    def __init__(self, model: nn.Module, job: ExportJob, runs: Callable[[list[Tensor]], list[Tensor]]) -> None:
        super().__init__()
        signature = inspect.signature(model.forward)
        known = signature.bind(*job.args, **job.kwargs).arguments
        with torch.no_grad():
            leaves, spec = pytree.tree_flatten(model(*job.args, **job.kwargs))

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = canonical(model, args, kwargs)
            if torch.is_grad_enabled():
                return model(*given[0], **given[1])
            outputs = iter(runs(input_tensors(*given)))
            return pytree.tree_unflatten([next(outputs) if _is_tensor(leaf) else leaf for leaf in leaves], spec)

        # what the example did not give, labels among it, the graph does not take
        own = [p for name, p in signature.parameters.items() if name in known]
        forward.__signature__ = signature.replace(parameters=own)  # type: ignore[attr-defined]
        self.forward = forward


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, as a share of the largest expected magnitude; infinite where one is no number."""
    if not expected.numel():
        return 0.0
    # Relative to the largest output, not each to its own: near zero any two orders of summing differ by more.
    a, b = found.double(), expected.double()
    largest = b.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    off = float((a - b).abs().max() / largest)
    return off if math.isfinite(off) else math.inf


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
