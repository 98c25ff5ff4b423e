"""ExecuTorch: a ``.pte`` file for phones, whose networks XNNPACK computes, with codes where it has kernels for them.

Lowering changes weights in three ways that are undone here: batch norms are multiplied into them (so these become a
product and a sum of their own before), quantizers round anew (so floats are lowered, and integers put in their place
afterwards), and files say nothing of names (so tensors are found by what they hold).
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..compression.encode_layers_and_packed_model import EncodedTensor, TensorRecord
from ..errors import ArgumentError, ModelError, quoted, reason
from .edit_xnnpack_graphs_in_pte_file import ALIGNMENT, Constant, PteFile
from .exporter import Exporter, ExportJob, OpenedExport, Written, quiet, register_exporter
from .layer_codes import layer_codes
from .trace_with_dynamic_axes import traced

_GROUP: Final = 32
"""Groups that share a scale are multiples of so many weights (XNNPACK's kernels of blocks)."""

_TURNED: Final = "ᵀ"
"""What the place of a matrix ends in that the file holds transposed."""


@register_exporter
@dataclass(frozen=True)
class ExecuTorch(Exporter):
    """A ``.pte`` file, run by ExecuTorch and XNNPACK: on phones, and on processors of every kind.

    Args:
        weights: ``"auto"``: the weights of linear layers as integers of 4 or 8 bits where XNNPACK has kernels for
            them, all others as floats. ``"float"``: plain floats.
        max_batch: the most rows that the file takes at once: its memory is planned for them.
    """

    target: ClassVar[str] = "executorch"
    suffixes: ClassVar[tuple[str, ...]] = (".pte",)
    packages: ClassVar[tuple[str, ...]] = ("executorch",)
    megabytes: ClassVar[int] = 290
    activation_bits: ClassVar[tuple[int, ...]] = (8,)
    finds_ranges_as_it_runs: ClassVar[bool] = True

    weights: Literal["auto", "float"] = "auto"
    max_batch: int = 32

    def __post_init__(self) -> None:
        if self.weights not in ("auto", "float"):
            raise ArgumentError(f"export(weights={self.weights!r}) to executorch must be 'auto' or 'float'")
        if not isinstance(self.max_batch, int) or isinstance(self.max_batch, bool) or self.max_batch < 1:
            raise ArgumentError(f"export(max_batch={self.max_batch!r}) must be a whole number of rows, 1 or more")

    def write(self, job: ExportJob, activations: int | None) -> Written:
        """Return the program of a model, its linear layers with integers where that is possible."""
        if activations is not None and self.weights == "float":
            raise ArgumentError("export(activations=8) to executorch needs integer weights: leave weights= out")
        found = traced(job, most=max(2, self.max_batch))
        file = PteFile(_lowered(job, found.program))
        for graph in file.graphs:
            graph.turn_matrices()
        held = _by_content(file.constants())
        used = _used(found.program)
        stored, places, unused, why_floats, why_wider = {}, {}, [], Counter[str](), Counter[str]()
        for record, encoded in job.coded():
            name = next((name for name in record.names if name in used), None)
            if name is None:
                unused.append(record.name)
                continue
            expected = job.packed.state_dict()[name]
            constants, turned = held.get(_digest(expected)), ""
            if not constants and expected.ndim == 2:  # of a product with a matrix, its transpose
                constants, turned = held.get(_digest(expected.mT)), _TURNED
            if not constants:
                raise ModelError(
                    f"ExecuTorch's lowering computes with something else than {quoted(name)} as it is, so nothing was "
                    f"written: export another part of the model, or to another target"
                )
            stored[name] = str(expected.dtype).removeprefix("torch.")
            places[name] = " ".join(f"{constant.place}{turned}" for constant in constants)
            if self.weights == "auto":
                how = _integers(record, encoded, constants, dynamic=activations is not None)
                if isinstance(how, str):
                    why_floats[how] += 1
                else:
                    stored[name] = f"int{how}, {encoded.groups.count:,} scales"
                    why_wider.update(_why_wider(record.bits, how, constants))
        if activations is not None and why_floats.total() == len(stored):
            raise ModelError(f"8-bit activations need integer weights, and there are none: {next(iter(why_floats))}")
        notes = [
            *found.notes,
            *_counted(why_floats, f"of {len(stored)} tensors as floats: "),
            *_counted(why_wider, f"of {len(stored)} tensors widened "),
        ]
        if unused:
            notes.append(f"the network does not use {', '.join(map(quoted, unused))}: not in the file")
        # its own ones only look at numbers and shapes
        apart = Counter(name for name in file.calls() if not name.startswith("executorch_prim::"))
        if apart:
            listed = ", ".join(f"{count} × {name}" for name, count in apart.items())
            notes.append(f"apart from XNNPACK, and slower: {listed}")
        return Written({".pte": file.to_bytes()}, stored, tuple(notes), places)

    def open(self, path: Path, job: ExportJob, written: Written) -> OpenedExport:
        """Return the file, loaded by ExecuTorch."""
        return _Loaded(path, job, written)


def _lowered(job: ExportJob, program: ExportedProgram) -> bytes:
    """Return a program in ExecuTorch's format, with all that XNNPACK can compute delegated to it.

    Raises:
        ModelError: for a network that ExecuTorch has no operators for.
    """
    with _quiet_imports():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower
        from executorch.exir.passes.constant_prop_pass import constant_prop_pass
    # Without them tracing asks whether the batch has fewer than 16 rows, and limits it to 15 from then on.
    with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False), _quiet():
        try:
            program = program.run_decompositions(_rewritten())
            program = constant_prop_pass(program)
            edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            return bytes(edge.to_executorch(ExecutorchBackendConfig(segment_alignment=ALIGNMENT)).buffer)
        except Exception as error:
            raise ModelError(
                f"this {type(job.model).__name__} cannot become an ExecuTorch program: {reason(error)}; write what it "
                f"lacks with torch's own operators, or export another part of the model"
            ) from error


def _rewritten() -> dict[Any, Callable[..., Any]]:
    """Return operators that lowering would do worse with, and what takes their place."""
    aten: Any = torch.ops.aten
    return {
        aten._native_batch_norm_legit_no_training.default: _scale_and_shift,
        # what does nothing would end a graph of XNNPACK's and begin another
        aten.alias.default: lambda x: x,
        aten.slice.Tensor: _slice,
    }


def _scale_and_shift(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, variance: Tensor, momentum: float,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return what a batch norm computes as a product and a sum, which nothing multiplies into the weights before it."""
    del momentum
    scale = torch.rsqrt(variance + epsilon)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1] + [1] * (x.ndim - 2)
    # the operator also returns two statistics, which are empty in eval mode
    return x * scale.reshape(shape) + shift.reshape(shape), x.new_empty(0), x.new_empty(0)


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    """Return a tensor of which a slice takes all, as ``x[:, ::2]`` does along its first axis; else leave the slice."""
    del dim
    whole = start in (None, 0) and (end is None or end == torch.iinfo(torch.int64).max) and step == 1
    return x if whole else NotImplemented


def _used(program: ExportedProgram) -> set[str]:
    """Return the names of the parameters and buffers that a program reads."""
    signature = program.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {names[node.name] for node in program.graph.nodes if node.name in names and node.users}


def _digest(tensor: Tensor) -> str:
    """Return what stands for the values of a tensor, whatever its shape and dtype."""
    return hashlib.sha256(tensor.detach().double().contiguous().numpy().tobytes()).hexdigest()


def _by_content(constants: Iterable[Constant]) -> dict[str, list[Constant]]:
    """Return constants by what they hold: a file has no names for them."""
    found: dict[str, list[Constant]] = {}
    for constant in constants:
        found.setdefault(_digest(constant.tensor), []).append(constant)
    return found


def _integers(record: TensorRecord, encoded: EncodedTensor, constants: Sequence[Constant], dynamic: bool) -> int | str:
    """Put a tensor's codes in the place of its floats; return their bits, or why XNNPACK cannot compute with them."""
    linear = all(constant.is_linear for constant in constants)
    if not linear and not dynamic:
        return "XNNPACK computes with integer weights in linear layers only, unless activations are integers, too"
    if not linear and not all(constant.is_convolution for constant in constants):
        return "XNNPACK has no 8-bit activations for depthwise and transposed convolutions, nor for one channel"
    found = _steps_and_scales(record, encoded, blocks=linear and dynamic)
    if isinstance(found, str):
        return found
    steps, scales = found
    fits = linear and int(steps.min()) >= -8 and int(steps.max()) <= 7 and steps.shape[1] % 2 == 0
    if scales.ndim > 1 and not fits:
        return "XNNPACK has groups with a scale for weights of 4 bits only; with symmetric=True they fit"
    values = steps * scales.view(len(steps), -1).repeat_interleave(steps[0].numel() // scales[0].numel(), 1)
    for constant in constants:
        shape = constant.tensor.shape
        if shape[0] != len(steps) or not torch.equal(values.view(shape), constant.tensor):
            return "their rows are not those of the operator"
    bits = 4 if fits else 8
    for constant in constants:
        if constant.graph is not None:
            constant.graph.quantize(constant, steps.view(constant.tensor.shape), scales, bits, dynamic)
    return bits


def _why_wider(bits: int, held: int, constants: Sequence[Constant]) -> list[str]:
    """Return in one sentence why codes of so many bits are held in more, nothing if they are not."""
    if held <= bits:
        return []
    if not all(constant.is_linear for constant in constants):
        why = "XNNPACK has convolutions of 8 bits only"
    elif held == 8:
        why = "XNNPACK's 4 bits are steps of −8…7 in rows of even length; with symmetric=True the steps are"
    else:
        why = "XNNPACK has no fewer"
    return [f"from {bits} bits to {held}: {why}"]


def _counted(why: Counter[str], what: str) -> list[str]:
    return [f"{count} {what}{each}" for each, count in why.items()]


def _steps_and_scales(record: TensorRecord, encoded: EncodedTensor, blocks: bool) -> tuple[Tensor, Tensor] | str:
    """Return whole numbers ``[rows, width]`` and scales as XNNPACK has them, or why it has no such weights.

    Scales are ``[rows]``; where it may have `blocks`, of a row several, they may be ``[rows, blocks]``.
    """
    codes, groups = layer_codes(encoded), encoded.groups
    if codes is None or not codes.integers or encoded.scales is None:
        return "their values are not evenly spaced"
    if record.dtype != torch.float32:
        return f"XNNPACK's integers stand for float32, and these are {str(record.dtype).removeprefix('torch.')}"
    rows, width = encoded.matrix
    steps, scales = codes.steps().view(rows, width), encoded.scales.float()
    if int(steps.min()) < -128 or int(steps.max()) > 127:
        return "some are more than 127 steps from zero; with symmetric=True none is"
    # Of a group that is pruned as a whole the scale is zero, which XNNPACK refuses; any other gives the same zeros.
    empty = ~groups.blocks(steps.view(-1) != 0).any(1)
    scales = torch.where(empty, 1.0, scales)
    if not bool((scales >= torch.finfo(torch.float32).tiny).all()):
        return "XNNPACK refuses scales as small as some of theirs"
    if groups.count in (1, rows):
        return steps, scales.expand(rows)
    if not blocks or groups.padding or groups.size % _GROUP:
        return f"XNNPACK has groups of multiples of {_GROUP} only, in linear layers, and with 8-bit activations"
    if not torch.equal(scales.bfloat16().float(), scales):
        return 'XNNPACK keeps the scales of groups as bfloat16: compress with scales="bfloat16"'
    return steps, scales.view(rows, groups.per_row)


class _Loaded(OpenedExport):
    """A file that ExecuTorch has loaded."""

    def __init__(self, path: Path, job: ExportJob, written: Written) -> None:
        self._file, self._job, self._written = PteFile(path.read_bytes()), job, written
        with _quiet_imports():
            from executorch.extension.pybindings.portable_lib import _get_operator_names, _load_for_executorch
        missing = sorted(set(self._file.operators()) - set(_get_operator_names()))
        if missing:
            raise ModelError(
                f"ExecuTorch cannot run this {type(job.model).__name__}: it has no {', '.join(missing)}; write it with "
                f"other operators of torch's, or export another part of the model"
            )
        with _quiet():
            self._module = _load_for_executorch(str(path))
        rows, is_bound = self._file.batch()
        self.fixed_batch, self.largest_batch = (None, rows) if is_bound else (rows, rows)

    def weights(self) -> Mapping[str, Tensor]:
        """Return the tensors as the file holds them for XNNPACK: codes times scales."""
        constants = {constant.place: constant.tensor for constant in self._file.constants()}
        expected, found = self._job.packed.state_dict(), {}
        for name, places in self._written.values.items():
            each = []
            for place in places.split():
                constant = constants.get(place.removesuffix(_TURNED))
                if constant is not None:
                    turned = constant.mT if place.endswith(_TURNED) else constant
                    each.append(turned.reshape(expected[name].shape))
            if each:
                same = all(torch.equal(x, each[0]) for x in each)
                found[name] = each[0] if same else torch.full_like(each[0], torch.nan)
        return found

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the whole network."""
        try:
            return list(self._module.forward([tensor.detach().cpu().contiguous() for tensor in inputs]))
        except RuntimeError as error:
            raise ModelError(
                f"ExecuTorch cannot run this {type(self._job.model).__name__} ({reason(error)}): an operator does not "
                f"take what it is given; export another part of the model, or to another target"
            ) from error


@contextmanager
def _quiet_imports() -> Iterator[None]:
    """Import without what importing executorch does: it sets up logging for the program that imports it."""
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        with _quiet():
            yield
    finally:
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)


def _quiet() -> AbstractContextManager[None]:
    return quiet("torch", "torchao", "executorch", "root")
