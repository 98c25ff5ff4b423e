"""The XNNPACK graphs inside a ``.pte`` file, read with the schema that executorch brings, changed, and written again.

A .pte is a list of instructions. Most of them call a delegate, XNNPACK, which has a graph of its own in a flatbuffer.
The constants of all graphs lie beside the instructions, under keys that the graphs name.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from ..files.plain_and_entropy_encodings import Bytes, pack_codes, unpack_codes

ALIGNMENT: Final = 16
"""Bytes that the places of constants are multiples of: what XNNPACK asks for (executorch's own choice is 128)."""
_IN_NAMED_DATA: Final = 2**64 - 1
"""The offset of a constant that is not in the graph's own blob: it has a key instead."""
_TRANSPOSED: Final = 1
"""XNNPACK's flag for weights ``[in, out]``."""
_KEY: Final = 16
"""Digits of a key: executorch takes all 64 of a SHA-256, twice in the file, which is 3 % of a small one."""
_NO_VALUE: Final = 2**32 - 1
_FLOATS: Final = {
    "FLOAT": torch.float32, "DOUBLE": torch.float64, "HALF": torch.float16, "BFLOAT16": torch.bfloat16,
}  # fmt: skip


class PteFile:
    """A ``.pte`` file in memory.

    Args:
        data: its bytes.
    """

    def __init__(self, data: bytes) -> None:
        from executorch.exir._serialize._program import deserialize_pte_binary

        self._file: Any = deserialize_pte_binary(data)
        self._program = self._file.program
        self.plan: Any = self._program.execution_plan[0]
        """The instructions of ``forward``, and the values they work on."""
        named = self._file.named_data
        self._constants: dict[str, bytes] = (
            {}
            if named is None
            else {key[:_KEY]: bytes(named.buffers[entry.buffer_index]) for key, entry in named.pte_data.items()}
        )
        self.graphs = [
            XnnpackGraph(_read_graph(self._blob(delegate).data), self._constants)
            for delegate in self.plan.delegates
            if delegate.id == "XnnpackBackend"
        ]

    def _blob(self, delegate: Any) -> Any:
        return self._program.backend_delegate_data[delegate.processed.index]

    def to_bytes(self) -> bytes:
        """Return the file with its graphs as they now are, and of the constants those that are still used."""
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import serialize_xnnpack_binary
        from executorch.exir._serialize._named_data_store import NamedDataStore
        from executorch.exir._serialize._program import serialize_pte_binary

        store = NamedDataStore()
        graphs = iter(self.graphs)
        for delegate in self.plan.delegates:
            if delegate.id == "XnnpackBackend":
                graph = next(graphs)
                for key in graph.compact():
                    store.add_named_data(key, self._constants[key], ALIGNMENT)
                self._blob(delegate).data = serialize_xnnpack_binary(graph.content, bytearray())
        self._file.named_data = store.get_named_data_store_output()
        whole = serialize_pte_binary(self._file, extract_delegate_segments=True, segment_alignment=ALIGNMENT)
        return bytes(whole)

    def constants(self) -> Iterator[Constant]:
        """Yield all constants, those in XNNPACK's graphs and those that the portable operators work on."""
        from executorch.exir.schema import ScalarType

        for number, graph in enumerate(self.graphs):
            yield from graph.constants(f"{number}.")
        for number, value in enumerate(self.plan.values):
            tensor = value.val
            index = getattr(tensor, "data_buffer_idx", 0)
            dtype = _FLOATS.get(ScalarType(tensor.scalar_type).name) if index else None
            if dtype is not None and tensor.allocation_info is None:
                raw = bytearray(
                    self._program.constant_buffer[index].storage[: math.prod(tensor.sizes) * dtype.itemsize]
                )
                # the sizes are torch's, and the values in the order of axes that is told beside them
                sizes = [tensor.sizes[axis] for axis in tensor.dim_order]
                back = [tensor.dim_order.index(axis) for axis in range(len(sizes))]
                yield Constant(f"value-{number}", torch.frombuffer(raw, dtype=dtype).reshape(sizes).permute(back))

    def operators(self) -> list[str]:
        """Return the operators that run outside XNNPACK, with their overloads: ``["aten::mean.dim_out"]``."""
        return [f"{found.name}.{found.overload}".removesuffix(".") for found in self.plan.operators]

    def calls(self) -> list[str]:
        """Return the names of the operators that run outside XNNPACK, once for each call: ``["aten::mean"]``."""
        calls = [i.instr_args for chain in self.plan.chains for i in chain.instructions]
        return [self.plan.operators[call.op_index].name for call in calls if hasattr(call, "op_index")]

    def batch(self) -> tuple[int | None, bool]:
        """Return the first axis of the inputs, and whether that is the largest size only; None where there is none."""
        from executorch.exir.schema import TensorShapeDynamism

        inputs = [self.plan.values[index].val for index in self.plan.inputs]
        tensors = [x for x in inputs if getattr(x, "sizes", None)]
        if not tensors:
            return None, True
        bounded = all(x.shape_dynamism != TensorShapeDynamism.STATIC for x in tensors)
        return min(int(x.sizes[0]) for x in tensors), bounded


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of the file.

    Args:
        place: where it is: ``"graph.value"`` in a graph of XNNPACK's, ``"value-n"`` among the program's own.
        tensor: its values as they are computed with, codes times scales; the axes of a filter are in torch's order.
        graph: the graph it is in; None for one of the program's own.
        value: the graph's record of it.
        readers: the operators of the graph that have it as their filter.
    """

    place: str
    tensor: Tensor
    graph: XnnpackGraph | None = None
    value: Any = None
    readers: Sequence[Any] = ()

    @property
    def is_linear(self) -> bool:
        """Whether linear layers, and nothing else, multiply with it."""
        return self._is_read_by("XNNFullyConnected")

    @property
    def is_convolution(self) -> bool:
        """Whether convolutions of several channels, neither depthwise nor transposed, multiply with it."""
        return self._is_read_by("XNNConv2d")

    def _is_read_by(self, kind: str) -> bool:
        return bool(self.readers) and all(_kind(node) == kind for node in self.readers)


class XnnpackGraph:
    """One graph of XNNPACK's: its operators, its values, and the constants among these.

    Args:
        content: executorch's ``XNNGraph``.
        constants: the constants of the file by key, shared by its graphs.
    """

    def __init__(self, content: Any, constants: dict[str, bytes]) -> None:
        self.content, self._constants = content, constants
        for entry in content.constant_data:
            entry.named_key = entry.named_key[:_KEY]
        self._quantized: dict[tuple[int, int], int] = {}

    def compact(self) -> list[str]:
        """Drop the constants that no value refers to any longer; return the keys of the others."""
        kept, places = self.content.constant_data[:1], {0: 0}  # the first means that there is none
        for value in self.content.xvalues:
            quantization = getattr(value.xvalue_union, "quant_params", None)
            for owner, name in ((_tensor(value), "constant_buffer_idx"), (quantization, "scale_buffer_idx")):
                index = getattr(owner, name, 0)
                if index not in places:
                    places[index] = len(kept)
                    kept.append(self.content.constant_data[index])
                if index:
                    setattr(owner, name, places[index])
        self.content.constant_data = kept
        return [entry.named_key for entry in kept[1:]]

    def value(self, number: int) -> Any:
        """Return a value by its number."""
        return next(value for value in self.content.xvalues if _tensor(value).id_out == number)

    def constants(self, prefix: str) -> Iterator[Constant]:
        """Yield its constants; the prefix tells the graph in their places."""
        for value in self.content.xvalues:
            tensor = _tensor(value)
            if tensor.constant_buffer_idx:
                readers = [x for x in self.content.xnodes if getattr(x.xnode_union, "filter_id", None) == tensor.id_out]
                stored = self._stored(value)
                values = _axes_of_torch(readers[0], stored) if readers else stored
                yield Constant(f"{prefix}{tensor.id_out}", values, self, value, readers)

    def turn_matrices(self) -> None:
        """Give linear layers their weights as ``[out, in]``: of products with a matrix they have them the other way."""
        for found in list(self.constants("")):
            tensor = _tensor(found.value)
            turned = found.is_linear and all(node.xnode_union.flags & _TRANSPOSED for node in found.readers)
            if turned and tensor.datatype.name == "xnn_datatype_fp32":
                tensor.dims = tensor.dims[::-1]
                tensor.constant_buffer_idx = self._add(found.tensor.mT.contiguous().numpy().tobytes())
                for node in found.readers:
                    node.xnode_union.flags &= ~_TRANSPOSED

    def _stored(self, value: Any) -> Tensor:
        """Return a constant in XNNPACK's order of axes, as float32: codes times scales where it is quantized."""
        tensor = _tensor(value)
        kind, dims = tensor.datatype.name.removeprefix("xnn_datatype_"), tuple(tensor.dims)
        raw = self._bytes(tensor.constant_buffer_idx)
        if kind == "fp32":
            return torch.frombuffer(raw, dtype=torch.float32).reshape(dims)
        if kind == "fp16":
            return torch.frombuffer(raw, dtype=torch.float16).float().reshape(dims)
        scales = self._bytes(value.xvalue_union.quant_params.scale_buffer_idx)
        if kind == "qcint8":
            steps = torch.frombuffer(raw, dtype=torch.int8)
        elif kind in ("qcint4", "qbint4"):
            steps = torch.from_numpy(unpack_codes(np.frombuffer(raw, np.uint8), 4, math.prod(dims)).astype(np.int8)) - 8
        else:
            raise ValueError(f"a constant of XNNPACK's type {kind} is not read here")
        kept = torch.frombuffer(scales, dtype=torch.bfloat16 if kind == "qbint4" else torch.float32).float()
        # rows first, and scales in their order: of the whole row, or of each of its groups
        return (steps.view(len(kept), -1).float() * kept[:, None]).view(dims)

    def _bytes(self, index: int) -> bytearray:
        return bytearray(self._constants[self.content.constant_data[index].named_key])

    def quantize(self, found: Constant, steps: Tensor, scales: Tensor, bits: int, dynamic: bool) -> None:
        """Replace the float weights of linear layers or convolutions by integers with scales.

        Args:
            found: the weights, a constant of this graph.
            steps: whole numbers that so many bits hold, in torch's shape, the output channels first.
            scales: float32 ``[channels]``, or ``[channels, groups]`` with numbers that bfloat16 has.
            bits: 8, or 4 for linear layers.
            dynamic: whether activations become integers of 8 bits before, on a grid that is found as the network runs.
        """
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        tensor, kinds = _tensor(found.value), schema.XNNDatatype
        if steps.ndim == 4:
            steps = steps.permute(0, 2, 3, 1)
        if bits == 8:
            packed: Bytes = steps.to(torch.int8).contiguous().view(torch.uint8).numpy().reshape(-1)
        else:
            packed = pack_codes((steps + 8).to(torch.uint8).numpy().reshape(-1), 4)
        if scales.ndim == 1:
            scale_bytes = scales.contiguous().numpy().tobytes()
            tensor.datatype = kinds.xnn_datatype_qcint8 if bits == 8 else kinds.xnn_datatype_qcint4
            quantization = schema.PerChannelQuant(
                scale=[], channel_dim=0, scale_buffer_idx=self._add(scale_bytes), num_scales=len(scales)
            )
        else:
            scale_bytes = scales.to(torch.bfloat16).contiguous().view(torch.uint8).numpy().tobytes()
            tensor.datatype = kinds.xnn_datatype_qbint4
            quantization = schema.PerChannelGroupQuant(
                scale=[], channel_dim=0, group_size=steps.shape[1] // scales.shape[1],
                scale_buffer_idx=self._add(scale_bytes), num_scales=scales.numel(),
            )  # fmt: skip
        raw = packed.tobytes()
        # The runtime may share packed weights under their key, so that it must stand for the scales as well.
        tensor.constant_buffer_idx = self._add(raw, raw + scale_bytes)
        found.value.xvalue_union = schema.XNNQuantizedTensorValue(tensor_value=tensor, quant_params=quantization)
        for node in found.readers:
            if dynamic:
                self._quantize_input(node)
            else:
                self._add_bias_afterwards(node)

    def _quantize_input(self, node: Any) -> None:
        """Give an operator integers for an input: a conversion before it, which all that read this input share."""
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        reader, given = node.xnode_union, _tensor(self.value(node.xnode_union.input1_id))
        # a row has a grid of its own: of a convolution all its pixels and channels, of a linear layer the last axis
        inner = 1 if _kind(node) == "XNNFullyConnected" else 3
        number = self._quantized.get((given.id_out, inner))
        if number is None:
            number = self._quantized[given.id_out, inner] = self._new_number()
            quantized = schema.XNNTensorValue(
                datatype=schema.XNNDatatype.xnn_datatype_qdint8, num_dims=given.num_dims, dims=list(given.dims),
                external_id=_NO_VALUE, constant_buffer_idx=0, flags=0, id_out=number,
            )  # fmt: skip
            value = schema.XNNQuantizedTensorValue(
                tensor_value=quantized, quant_params=schema.PerTokenDynamicQuant(num_nonbatch_dims=inner)
            )
            self.content.xvalues.append(schema.XValue(xvalue_union=value))
            conversion = schema.XNNConvert(input_id=given.id_out, output_id=number, flags=0)
            first = schema.XNode(xnode_union=conversion, debug_handle=node.debug_handle, output_min_max=None)
            readers = [x for x in self.content.xnodes if getattr(x.xnode_union, "input1_id", None) == given.id_out]
            self.content.xnodes.insert(self.content.xnodes.index(readers[0]), first)
        reader.input1_id = number

    def _new_number(self) -> int:
        return 1 + max(int(_tensor(value).id_out) for value in self.content.xvalues)

    def _add_bias_afterwards(self, node: Any) -> None:
        """Move the bias of a linear layer into an addition after it.

        XNNPACK's kernels of float activations and integer weights start their sums with the bias and then multiply
        them by the scale, so that they compute ``(Σ a·q + b)·s``.
        """
        from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

        linear = node.xnode_union
        if linear.bias_id == _NO_VALUE:
            return
        output = _tensor(self.value(linear.output_id))
        product = schema.XNNTensorValue(
            datatype=output.datatype, num_dims=output.num_dims, dims=list(output.dims), external_id=_NO_VALUE,
            constant_buffer_idx=0, flags=0, id_out=self._new_number(),
        )  # fmt: skip
        addition = schema.XNode(
            xnode_union=schema.XNNAdd(
                input1_id=product.id_out, input2_id=linear.bias_id, output_id=linear.output_id, flags=0
            ),
            debug_handle=node.debug_handle,
            output_min_max=node.output_min_max,
        )
        linear.bias_id, linear.output_id, node.output_min_max = _NO_VALUE, product.id_out, None
        self.content.xvalues.append(schema.XValue(xvalue_union=product))
        self.content.xnodes.insert(self.content.xnodes.index(node) + 1, addition)

    def _add(self, raw: bytes, content: bytes = b"") -> int:
        """Add a constant; return its number."""
        from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset

        key = hashlib.sha256(content or raw).hexdigest()[:_KEY]
        self._constants[key] = raw
        self.content.constant_data.append(ConstantDataOffset(offset=_IN_NAMED_DATA, size=len(raw), named_key=key))
        return len(self.content.constant_data) - 1


def _kind(node: Any) -> str:
    """Return the name of an operator, such as ``"XNNConv2d"``."""
    return type(node.xnode_union).__name__


def _axes_of_torch(reader: Any, stored: Tensor) -> Tensor:
    """Return a filter with torch's order of axes; XNNPACK has channels last."""
    node = reader.xnode_union
    if _kind(reader) == "XNNConv2d":
        return stored.permute(0, 3, 1, 2)
    if _kind(reader) == "XNNDepthwiseConv2d":
        return stored.permute(3, 0, 1, 2)
    if _kind(reader) == "XNNConvTranspose2d":
        out, height, width, inputs = stored.shape  # of each of its groups of channels
        filters = stored.permute(0, 3, 1, 2).reshape(node.groups, out // node.groups, inputs, height, width)
        return filters.transpose(1, 2).reshape(inputs * node.groups, out // node.groups, height, width)
    return stored


def _tensor(value: Any) -> Any:
    """Return the tensor of a value, quantized or not."""
    return getattr(value.xvalue_union, "tensor_value", value.xvalue_union)


def _read_graph(blob: bytes) -> Any:
    """Return the graph in a delegate's blob, by way of flatc and the schema of the installed executorch."""
    import executorch.backends.xnnpack.serialization as schemas
    from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import XNNGraph
    from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
    from executorch.exir._serialize._dataclass import _json_to_dataclass
    from executorch.exir._serialize._flatbuffer import _flatc_decompile

    header = XNNHeader.from_bytes(blob[: XNNHeader.EXPECTED_LENGTH])
    start = header.flatbuffer_offset
    with tempfile.TemporaryDirectory(prefix="shrinkwidget-") as folder:
        schema, flatbuffer = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(resources.files(schemas).joinpath("schema.fbs").read_bytes())
        flatbuffer.write_bytes(blob[start : start + header.flatbuffer_size])
        _flatc_decompile(folder, str(schema), str(flatbuffer), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text()
    # what Python's reader calls Infinity
    content = json.loads(re.sub(r": (-?)inf\b", r": \1Infinity", text))
    return _json_to_dataclass(content, XNNGraph)
