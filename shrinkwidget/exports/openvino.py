"""OpenVINO: codes as u4, i8 or u8 constants, converted and scaled in the graph; the runtime keeps them compressed.

Two defaults of its CPU plugin compute with other numbers than those written: activations of compressed matrix products
are rounded to 8 bits (openvinotoolkit/openvino#25054), and on CPUs with AMX everything to bfloat16. The file asks for
neither; a session can, and then computes what nobody has scored.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from ..compression.encode_layers_and_packed_model import EncodedTensor, TensorRecord, spread
from ..errors import ModelError, quoted, reason
from ..files.plain_and_entropy_encodings import pack_codes, raw_bytes
from .exporter import Exporter, ExportJob, OpenedExport, Written, quiet, register_exporter
from .layer_codes import layer_codes
from .trace_with_dynamic_axes import traced_with_weights_as_inputs

EXACT: Final = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0", "INFERENCE_PRECISION_HINT": "f32"}
"""Options of the CPU plugin under which it computes with the weights and the activations that the graph says."""


@register_exporter
@dataclass(frozen=True)
class OpenVINO(Exporter):
    """An ``.xml`` file and its ``.bin``, run by OpenVINO on Intel's and ARM's processors."""

    target: ClassVar[str] = "openvino"
    suffixes: ClassVar[tuple[str, ...]] = (".xml",)
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    megabytes: ClassVar[int] = 180

    def write(self, job: ExportJob, activations: int | None) -> Written:
        """Return the graph of a model with its weights as integers."""
        import openvino

        del activations
        # Of a tied tensor the name under which the traced model knows it, whichever of its names that is.
        state = {name for name, _ in job.model.named_parameters(remove_duplicate=False)} if job.model else set()
        names = [next(name for name in record.names if name in state) for record, _ in job.coded()]
        found = traced_with_weights_as_inputs(job, names)
        try:
            with quiet("torch", "openvino"):
                model = openvino.convert_model(found.program)
        except Exception as error:
            raise ModelError(
                f"this {type(job.model).__name__} cannot become an OpenVINO graph: {reason(error)}; write what it "
                f"lacks with torch's own operators, or export another part of the model"
            ) from error
        stored = _with_codes(model, job, names)
        for option, value in EXACT.items():
            model.set_rt_info(value, ["runtime_options", option])
        with tempfile.TemporaryDirectory(prefix="shrinkwidget-") as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=False)  # biases and norms stay as they are, too
            files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".xml", ".bin")}
        options = ", ".join(f'"{name}": "{value}"' for name, value in EXACT.items())
        return Written(files, stored, (*found.notes, f"compile it with {{{options}}} to compute what was checked"))

    def open(self, path: Path, job: ExportJob, written: Written) -> OpenedExport:
        """Return the file, compiled for the CPU."""
        return _Compiled(path, job, written)


def _with_codes(model: Any, job: ExportJob, names: Sequence[str]) -> dict[str, str]:
    """Put our codes where the graph has its first inputs; return how each is stored."""
    stored = {}
    for parameter, name, (record, encoded) in zip(model.get_parameters(), names, job.coded(), strict=False):
        values, how = _values(record, encoded, name)
        values.set_friendly_name(name)
        for target in list(parameter.output(0).get_target_inputs()):
            target.replace_source_output(values.output(0))
        model.remove_parameter(parameter)
        stored[name] = how
    model.validate_nodes_and_infer_types()
    return stored


def _values(record: TensorRecord, encoded: EncodedTensor, name: str) -> tuple[Any, str]:
    """Return nodes that compute a tensor from its codes, and how these are stored."""
    from openvino import Type, opset13

    codes, groups = layer_codes(encoded), encoded.groups
    if codes is None:
        kept = spread(encoded, encoded.codes)
        how = str(kept.dtype).removeprefix("torch.")
        node = _constant(getattr(Type, {"float16": "f16", "bfloat16": "bf16"}.get(how, "f32")), kept, kept.shape)
        node = opset13.convert(node, "f32")
    else:
        # 1 to 3 bits are widened to 4: integers of 4 and 8 bits are what the runtime keeps compressed.
        width = 4 if codes.bits <= 4 else 8
        dense = (
            spread(encoded, encoded.codes) if encoded.keep_bits is not None and codes.offset is None else codes.dense()
        )
        dims = (groups.rows, groups.width) if groups.padding else (groups.count, groups.size)
        how = f"u{width}"
        numbers = _constant(Type.u4 if width == 4 else Type.u8, dense, dims)
        if codes.offset is None or not codes.integers:
            if encoded.keep_bits is not None:
                raise ModelError(
                    f"OpenVINO cannot hold {quoted(record.name)}: a codebook beside a mask; compress with "
                    f'quantizer="uniform", or without sparsity'
                )
            table = _constant(Type.f32, codes.units, codes.units.shape)
            node = opset13.gather(table, opset13.convert(numbers, "i32"), opset13.constant(np.array(0, np.int32)))
        else:
            # integers of the same kind as the codes: the form that the runtime keeps compressed
            zero = torch.tensor([codes.offset], dtype=torch.uint8)
            if encoded.zeros is not None:
                zero = _column(encoded.zeros, encoded)
            origin = opset13.convert(_constant(Type.u4 if width == 4 else Type.u8, zero, zero.shape), "f32")
            node = opset13.subtract(opset13.convert(numbers, "f32"), origin)
        if encoded.scales is not None:
            scale = _column(encoded.scales, encoded)
            node = opset13.multiply(node, _constant(Type.f32, scale, scale.shape))
    ordered, back = record.layout.unfolding(record.shape)
    node = opset13.reshape(node, opset13.constant(np.array(ordered, np.int64)), False)
    if back != sorted(back):
        node = opset13.transpose(node, opset13.constant(np.array(back, np.int64)))
        node = opset13.reshape(node, opset13.constant(np.array(record.shape, np.int64)), False)
    if record.dtype != torch.float32:
        node = opset13.convert(node, {torch.float16: "f16", torch.bfloat16: "bf16", torch.float64: "f64"}[record.dtype])
    if name in record.views:
        view = record.views[name]
        node = opset13.transpose(node, opset13.constant(np.array(view.axes, np.int64)))
        node = opset13.reshape(node, opset13.constant(np.array(view.shape, np.int64)), False)
    return node, how


def _column(per_group: Tensor, encoded: EncodedTensor) -> Tensor:
    """Return something known per group beside the weights of each, a column; for each weight where groups are short."""
    groups = encoded.groups
    if not groups.padding:
        return per_group[:, None]
    by_row = per_group.view(groups.rows, groups.per_row)
    return by_row.repeat_interleave(groups.size, 1)[:, : groups.width].contiguous()


def _constant(kind: Any, values: Tensor, dims: Sequence[int]) -> Any:
    """Return a constant; of 4-bit integers two share a byte, the first in its lower half."""
    import openvino

    raw = pack_codes(values.reshape(-1).numpy(), 4) if kind == openvino.Type.u4 else raw_bytes(values)
    # in memory of its own: a tensor made of an array looks at the array's, which is gone before the graph is saved
    tensor = openvino.Tensor(kind, openvino.Shape(list(dims)))
    into = tensor.data
    into.view(np.uint8).reshape(-1)[:] = raw
    return openvino.op.Constant(tensor)


class _Compiled(OpenedExport):
    """A file that OpenVINO has compiled for the CPU."""

    def __init__(self, path: Path, job: ExportJob, written: Written) -> None:
        import openvino

        self._core = openvino.Core()
        self._model, self._written = self._core.read_model(path), written
        try:
            self._compiled = self._core.compile_model(self._model, "CPU", EXACT)
        except Exception as error:
            raise ModelError(f"OpenVINO cannot run this {type(job.model).__name__}: {reason(error)}") from error
        # A static first axis is a batch that tracing has fixed.
        shapes = [port.get_partial_shape() for port in self._model.inputs]
        sizes = [shape[0] for shape in shapes if shape.rank.get_length()]
        self.fixed_batch = next((size.get_length() for size in sizes if size.is_static), None)

    def weights(self) -> Mapping[str, Tensor]:
        """Return what the runtime makes of the nodes that give the weights."""
        import openvino

        nodes = {node.get_friendly_name(): node for node in self._model.get_ordered_ops()}
        found = {}
        for name in self._written.stored:
            if name in nodes:
                part = openvino.Model([nodes[name].output(0)], [], name)
                values = self._core.compile_model(part, "CPU", EXACT)([])[0]
                found[name] = torch.from_numpy(np.array(values))
        return found

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the whole network."""
        found = self._compiled([tensor.detach().cpu().numpy() for tensor in inputs])
        return [torch.from_numpy(np.array(found[i])) for i in range(len(self._compiled.outputs))]
