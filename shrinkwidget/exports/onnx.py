"""ONNX: codes, masks and scales as the packed file has them, turned into weights by operators of ONNX itself.

Two forms. `packed`: a few local functions unpack bits, spread what a mask keeps, and scale. ONNX Runtime computes that
once, when it loads the file, so that the network runs as fast as with plain weights. `dequantize`: one
DequantizeLinear for each tensor, the form that quantizing tools and accelerators know. ONNX Runtime leaves that node in
the graph on purpose (microsoft/onnxruntime#6643), to fuse it with 8-bit activations; without these it dequantizes at
every run, unless the session's option "session.disable_quant_qdq" is "1".
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import numpy as np
import torch
from torch import Tensor

from ..compression.encode_layers_and_packed_model import UNIT, EncodedTensor, TensorRecord
from ..errors import ArgumentError, ModelError, quoted, reason
from ..files.plain_and_entropy_encodings import Bytes, pack_codes, raw_bytes
from .exporter import Exporter, ExportJob, OpenedExport, Written, quiet, register_exporter
from .layer_codes import LayerCodes, is_dense, layer_codes
from .trace_with_dynamic_axes import Traced, traced

DOMAIN: Final = "shrinkwidget"
OPSET: Final = 21
"""The first with 4-bit integers, and scales for blocks of them."""
# The local functions below are ONNX's textual syntax. `bits`: the 8 bits of each byte, lowest first. `codes`: bits in
# rows of a code, times powers of two. `masked`: a running count of the kept says which of them each place gets.
_MOST_BYTES: Final = 2**31 - 2**20  # protobuf's own limit is 2 GiB for a message

FUNCTIONS: Final = """
<ir_version: 10, opset_import: ["": 21, "shrinkwidget": 1]>
unused () => () {}

<domain: "shrinkwidget", opset_import: ["": 21]>
bits (bytes) => (bits) {
  places = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
  one = Constant <value = uint8[1] {1}> ()
  last = Constant <value_ints = [1]> ()
  flat = Constant <value_ints = [-1]> ()
  column = Unsqueeze (bytes, last)
  shifted = BitShift <direction = "RIGHT"> (column, places)
  each = BitwiseAnd (shifted, one)
  bits = Reshape (each, flat)
}

<domain: "shrinkwidget", opset_import: ["": 21, "shrinkwidget": 1]>
codes (bytes, count, powers) => (codes) {
  start = Constant <value_ints = [0]> ()
  flat = Constant <value_ints = [-1]> ()
  width = Shape (powers)
  end = Mul (count, width)
  all = shrinkwidget.bits (bytes)
  used = Slice (all, start, end)
  by_code = Concat <axis = 0> (flat, width)
  rows = Reshape (used, by_code)
  digits = Cast <to = 1> (rows)
  codes = MatMul (digits, powers)
}

<domain: "shrinkwidget", opset_import: ["": 21]>
lookup (codes, table) => (values) {
  index = Cast <to = 6> (codes)
  values = Gather (table, index)
}

<domain: "shrinkwidget", opset_import: ["": 21, "shrinkwidget": 1]>
masked (mask, kept, count, fill) => (values) {
  start = Constant <value_ints = [0]> ()
  axis = Constant <value_int = 0> ()
  one = Constant <value_int = 1> ()
  all = shrinkwidget.bits (mask)
  used = Slice (all, start, count)
  ones = Cast <to = 7> (used)
  so_far = CumSum (ones, axis)
  before = Sub (so_far, one)
  place = Max (before, axis)
  spread = Gather (kept, place)
  keep = Cast <to = 9> (used)
  values = Where (keep, spread, fill)
}

<domain: "shrinkwidget", opset_import: ["": 21]>
scales (words, top) => (scales) {
  unit = Constant <value = float {3.0517578125e-05}> ()
  numbers = Cast <to = 1> (words)
  shares = Mul (numbers, unit)
  scales = Mul (shares, top)
}

<domain: "shrinkwidget", opset_import: ["": 21]>
by_row (per_group, size, width) => (per_weight) {
  start = Constant <value_ints = [0]> ()
  last = Constant <value_ints = [-1]> ()
  axis = Constant <value_ints = [1]> ()
  one = Constant <value_ints = [1]> ()
  columns = Unsqueeze (per_group, last)
  repeat = Concat <axis = 0> (one, one, size)
  wide = Expand (columns, repeat)
  rows = Shape <end = 1> (per_group)
  flat = Concat <axis = 0> (rows, last)
  padded = Reshape (wide, flat)
  per_weight = Slice (padded, start, width, axis)
}

<domain: "shrinkwidget", opset_import: ["": 21]>
linear (codes, zero, scale, view, shape) => (values) {
  numbers = Cast <to = 1> (codes)
  blocks = Reshape (numbers, view)
  origin = Cast <to = 1> (zero)
  steps = Sub (blocks, origin)
  scaled = Mul (steps, scale)
  values = Reshape (scaled, shape)
}

<domain: "shrinkwidget", opset_import: ["": 21, "shrinkwidget": 1]>
weight (codes, zero, words, top, shape) => (values) {
  numbers = Cast <to = 1> (codes)
  origin = Cast <to = 1> (zero)
  scale = shrinkwidget.scales (words, top)
  steps = Sub (numbers, origin)
  scaled = Mul (steps, scale)
  values = Reshape (scaled, shape)
}
"""
"""What turns a layer of the packed file into weights (docs/format.md), in ONNX's own text."""


@register_exporter
@dataclass(frozen=True)
class ONNX(Exporter):
    """An ``.onnx`` file, run by ONNX Runtime: on servers, phones, in browsers.

    Args:
        weights: ``"packed"``: as small as the packed file, unpacked by the runtime when it loads. ``"dequantize"``:
            DequantizeLinear over 4- and 8-bit integers, for tools and accelerators that look for it. ``"float"``: plain
            floats. ``"auto"``: ``"packed"``, and ``"dequantize"`` where activations have 8 bits.
    """

    target: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    megabytes: ClassVar[int] = 125
    activation_bits: ClassVar[tuple[int, ...]] = (8,)

    weights: Literal["auto", "packed", "dequantize", "float"] = "auto"

    def __post_init__(self) -> None:
        forms = ("auto", "packed", "dequantize", "float")
        if self.weights not in forms:
            raise ArgumentError(f"export(weights={self.weights!r}) must be one of {', '.join(map(repr, forms))}")

    def write(self, job: ExportJob, activations: int | None) -> Written:
        """Return the graph of a model with its weights in the form asked for."""
        import onnx

        form = self.weights
        if form == "auto":
            form = "packed" if activations is None else "dequantize"
        if activations is not None and form != "dequantize":
            raise ArgumentError(f'export(activations=8, weights={form!r}) needs weights="dequantize"')
        found = traced(job)
        model = _graph(job, found)
        notes = [*found.notes]
        # integers of 4 bits are fused with nothing (ONNX Runtime 1.32): for 8-bit activations codes become bytes
        stored = _Weights(model, job, form, whole_bytes=activations is not None).write()
        unused = [record.name for record, _ in job.coded() if not stored.keys() & set(record.names)]
        if unused:
            notes.append(f"the network does not use {', '.join(map(quoted, unused))}: not in the file")
        if activations is not None:
            model, told = _with_integer_activations(model, job)
            notes.append(told)
        elif form == "dequantize":
            notes.append(
                'ONNX Runtime dequantizes at every run: set its session option "session.disable_quant_qdq" to "1"'
            )
        values = _strip(model, set(stored) | {name for record, _ in job.coded() for name in record.names})
        if model.ByteSize() > _MOST_BYTES:
            raise ModelError(f"an ONNX file of {model.ByteSize():,} bytes is beyond protobuf's 2 GiB: use fewer bits")
        onnx.checker.check_model(model)
        return Written({".onnx": model.SerializeToString(deterministic=True)}, stored, tuple(notes), values)

    def open(self, path: Path, job: ExportJob, written: Written) -> OpenedExport:
        """Return the file in an ONNX Runtime session on the CPU."""
        return _Session(path, job, written.values)


def _graph(job: ExportJob, found: Traced) -> Any:
    """Return the ONNX graph of a traced model, its coded tensors among the inputs.

    There they are neither folded into others nor changed: the exporter's own optimization multiplies batch norms into
    the weights before them, which then are no longer those that were evaluated.
    """
    with quiet("torch.onnx", "onnxscript", "onnx_ir"):
        try:
            program = torch.onnx.export(found.program, dynamo=True, optimize=False, verbose=False, opset_version=OPSET)
        except Exception as error:
            raise _not_exported(job, error) from error
        if program is None:
            raise ModelError("torch.onnx returned no program")
        graph = program.model.graph
        for name in [name for record, _ in job.coded() for name in record.names if name in graph.initializers]:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
        program.optimize()
        return program.model_proto


def _not_exported(job: ExportJob, error: Exception) -> ModelError:
    """Return what an error of the exporter means, in a sentence."""
    deepest: BaseException = error
    while deepest.__cause__ is not None:
        deepest = deepest.__cause__
    text = str(deepest)
    found = re.search(r"<OpOverload\(op='([^']+)'", text)
    operator = found[1] if found else None
    model = type(job.model).__name__
    if operator:
        return ModelError(
            f"this {model} cannot become ONNX: ONNX has nothing for the operator {operator}; write it with torch's "
            f"own operators, or export another part of the model"
        )
    return ModelError(f"this {model} cannot become ONNX: {reason(deepest)}")


# ---- weights ----


class _Weights:
    """Puts coded tensors back into a graph, in one of the three forms."""

    def __init__(self, model: Any, job: ExportJob, form: str, whole_bytes: bool) -> None:
        self.model, self.job, self.form, self.whole_bytes = model, job, form, whole_bytes
        self._nodes: list[Any] = []
        self._shared: dict[tuple[Any, ...], str] = {}
        self._used: set[str] = set()
        self._count = 0

    def write(self) -> dict[str, str]:
        """Replace the inputs that stand for tensors; return how each is stored, by name."""
        graph = self.model.graph
        inputs = {value.name: value for value in graph.input}
        stored = {}
        for record, encoded in self.job.coded():
            names = [name for name in record.names if name in inputs]
            if not names:
                continue
            stored[names[0]] = self._tensor(record, encoded, names)
            for name in names:
                graph.input.remove(inputs[name])
        self._uncompressed()
        # Nodes must stand before those that use them: ours, which make the weights, come first.
        nodes = list(graph.node)
        del graph.node[:]
        graph.node.extend([*self._nodes, *nodes])
        self._import_functions()
        return stored

    def _tensor(self, record: TensorRecord, encoded: EncodedTensor, names: Sequence[str]) -> str:
        """Write nodes that give a tensor under its names; return how it is stored."""
        # the rows under the tensor's own name, which then is known to whoever looks at the file
        codes = None if self.form == "float" else layer_codes(encoded)
        if self.form == "float":
            values, how = self._floats(record)
        elif codes is None and self.whole_bytes:
            raise ModelError(
                f"8-bit activations need weights of up to 8 bits, and {quoted(record.name)} has {encoded.plan.bits}: "
                f"the runtime's tool would round it on a grid of its own; compress with bits=8, or leave activations"
            )
        elif codes is None:
            values, how = self._plain_codes(record, encoded)
        elif self.form == "dequantize":
            values, how = self._dequantized(record, codes)
        else:
            values, how = self._packed(record, codes)
        own = self._shaped(record, values)
        for name in names:
            out = own
            if name in record.views:
                view = record.views[name]
                out = self._node("Transpose", [out], perm=list(view.axes))
                out = self._node("Reshape", [out, self._integers(view.shape)])
            # The last node's output takes the tensor's name; further names of a tied one are copies of it.
            if name == names[0] and self._nodes and self._nodes[-1].output[0] == out:
                self._nodes[-1].output[0] = name
            else:
                self._node("Identity", [out], output=name)
        return how

    def _shaped(self, record: TensorRecord, rows: str) -> str:
        """Return rows of the matrix in the tensor's own shape and dtype."""
        ordered, back = record.layout.unfolding(record.shape)
        if back != sorted(back):
            rows = self._node("Reshape", [rows, self._integers(ordered)])
            rows = self._node("Transpose", [rows], perm=back)
            if ordered != record.shape:
                rows = self._node("Reshape", [rows, self._integers(record.shape)])
        if record.dtype != torch.float32:
            rows = self._node("Cast", [rows], to=_onnx_type(record.dtype))
        return rows

    def _floats(self, record: TensorRecord) -> tuple[str, str]:
        rows = record.layout.rows(self.job.packed.state_dict()[record.name])
        value = self._initializer(rows.reshape(record.shape if _natural(record) else rows.shape))
        # so that there is a node whose output takes the tensor's name
        return self._node("Identity", [value]), str(record.dtype).removeprefix("torch.")

    def _plain_codes(self, record: TensorRecord, encoded: EncodedTensor) -> tuple[str, str]:
        """Weights of 16 or 32 bits: as they are, or those a mask keeps."""
        kind = str(encoded.codes.dtype).removeprefix("torch.")
        if is_dense(record, encoded):
            rows = self._initializer(dense_floats(encoded).reshape(record.layout.unfolding(record.shape)[0]))
            return self._node("Cast", [rows], to=1), kind
        value = self._node("Cast", [self._initializer(encoded.codes)], to=1)
        value = self._masked(encoded, value, self._initializer(torch.tensor(0.0)))
        return self._node("Reshape", [value, self._integers(record.shape)]), f"{kind}, masked"

    def _packed(self, record: TensorRecord, codes: LayerCodes) -> tuple[str, str]:
        """Codes bit by bit, as the packed file has them; unpacked when the runtime loads."""
        encoded, groups = codes.encoded, codes.groups
        dense, short = is_dense(record, encoded), groups.padding > 0
        how = f"{codes.bits} bits" + ("" if dense else ", masked")
        scales = encoded.scales
        # nearly all layers: integers that ONNX has, evenly spaced, whole groups. One node, a few bytes
        if dense and not short and scales is not None and codes.bits in (4, 8) and codes.offset is not None:
            dims = (groups.count, groups.size)
            numbers = self._unsigned(codes.dense(), codes.bits, dims)
            zero = self._zero_points(codes, (groups.count, 1))
            words, top = self._scale_words(encoded, (groups.count, 1))
            inputs = [numbers, zero, words, top, self._integers(record.layout.unfolding(record.shape)[0])]
            return self._function("weight", inputs), how
        value = self._codes(codes.dense() if dense else encoded.codes, codes.bits)
        if codes.offset is None:
            value = self._function("lookup", [value, self._initializer(codes.units)])
        # the matrix whose rows are groups, so that scales and zero points are columns; where the last group of a row
        # is short, that of the weights, and a scale for each of these
        view = (groups.rows, groups.width) if short else (groups.count, groups.size)
        column = (groups.rows, groups.per_row) if short else (groups.count, 1)
        zero = self._initializer(torch.tensor(float(codes.offset or 0)))
        if encoded.zeros is not None:
            zero = self._node("Reshape", [self._codes(encoded.zeros, codes.bits), self._integers(column)])
            zero = self._by_row(zero, groups.size, groups.width) if short else zero
        if not dense:
            fill = zero
            if encoded.zeros is not None:
                fill = self._node("Expand", [zero, self._integers(view)])
                fill = self._node("Reshape", [fill, self._integers((encoded.n,))])
            value = self._masked(encoded, value, fill)
        shape = self._integers(record.layout.unfolding(record.shape)[0])
        if scales is None:
            return self._node("Reshape", [value, shape]), how
        scale = self._function("scales", self._scale_words(encoded, column))
        scale = self._by_row(scale, groups.size, groups.width) if short else scale
        return self._function("linear", [value, zero, scale, self._integers(view), shape]), how

    def _dequantized(self, record: TensorRecord, codes: LayerCodes) -> tuple[str, str]:
        """One DequantizeLinear: integers of 4 or 8 bits, a scale for the tensor, each channel, or blocks of a row."""
        encoded, groups = codes.encoded, codes.groups
        if not codes.integers or encoded.scales is None:
            raise ModelError(
                f"DequantizeLinear cannot hold {quoted(record.name)}: values of quantizer "
                f'{encoded.plan.quantizer.kind!r} are not evenly spaced; use weights="packed" or weights="float", or '
                f'compress with quantizer="uniform"'
            )
        # Signed steps from zero need no zero point, and symmetric int8 is what most accelerators fuse.
        numbers, zeros = codes.steps(), None
        width = 4 if codes.bits <= 4 and not self.whole_bytes else 8
        if not -(2 ** (width - 1)) <= int(numbers.min()) <= int(numbers.max()) < 2 ** (width - 1):
            # an asymmetric grid whose steps do not lie about zero: its codes as they are, and their zero points
            numbers, zeros = codes.dense(), encoded.zeros
        kind = f"{'int' if zeros is None else 'uint'}{width}"
        per_tensor, per_row = groups.count == 1, groups.per_row == 1
        natural = _natural(record) and (per_tensor or per_row)
        if self.whole_bytes and not natural:
            raise ModelError(
                f"8-bit activations need one scale for the tensor or for each output channel, the first axis, and "
                f'{quoted(record.name)} has {groups.count:,} scales: compress with granularity="channel"'
            )
        dims = record.shape if natural else ((1, groups.width) if per_tensor else encoded.matrix)
        shape = () if per_tensor else (groups.rows,) if per_row else (groups.rows, groups.per_row)
        inputs = [self._numbers(numbers, width, zeros is None, dims)]
        inputs.append(self._initializer(encoded.scales.reshape(shape)))
        if zeros is not None:
            inputs.append(self._numbers(zeros, width, False, shape))
        elif self.whole_bytes:  # without a zero point a dense layer is not fused
            inputs.append(self._numbers(torch.zeros(groups.count), width, True, shape))
        attributes: dict[str, int] = (
            {} if per_tensor else {"axis": 0} if per_row else {"axis": 1, "block_size": groups.size}
        )
        value = self._node("DequantizeLinear", inputs, None, "", **attributes)
        if not natural:
            value = self._node("Reshape", [value, self._integers(record.layout.unfolding(record.shape)[0])])
        shared = "one scale" if per_tensor else f"{groups.count:,} scales"
        return value, f"{kind}, {shared}"

    # -- pieces

    def _codes(self, codes: Tensor, bits: int) -> str:
        """Return codes, float ``[n]``, unpacked from bytes (or the 4- and 8-bit integers that ONNX has)."""
        if bits in (4, 8):
            return self._node("Cast", [self._unsigned(codes, bits, (codes.numel(),))], to=1)
        packed = self._initializer(torch.from_numpy(pack_codes(codes.cpu().numpy(), bits)))
        powers = self._initializer(2.0 ** torch.arange(bits), shared=True)
        return self._function("codes", [packed, self._integers((codes.numel(),)), powers])

    def _masked(self, encoded: EncodedTensor, kept: str, rest: str) -> str:
        """Return the kept values in their places among all; elsewhere `rest`, a number or one for each weight."""
        if encoded.keep_bits is None:
            raise ValueError(f"{encoded.name} has no mask")
        if not encoded.kept:  # nothing to gather from
            return self._node("Expand", [rest, self._integers((encoded.n,))])
        mask = self._initializer(encoded.keep_bits.cpu())
        return self._function("masked", [mask, kept, self._integers((encoded.n,)), rest])

    def _scale_words(self, encoded: EncodedTensor, dims: Sequence[int]) -> tuple[str, str]:
        """Return scales as the file has them: float16 numbers in units of the largest scale, and that."""
        scales = encoded.scales
        if scales is None:
            raise ValueError(f"{encoded.name} has no scales")
        top = scales.max()
        # Scales are 16-bit fractions of the largest, in units of 2⁻¹⁵: a float16 holds such numbers, and their product
        # with the largest is rounded once, as in the packed file.
        words = torch.full_like(scales, UNIT)
        if len(scales) > 1:
            # without the shifts that make room for zero points: ONNX keeps those apart
            halves = (scales.double() / top.double().clamp(min=1e-300) * UNIT).to(torch.float16)
            words = halves.float()
        if not torch.equal(words / UNIT * top, scales):
            # No 16-bit words reproduce them: as floats, times 2¹⁵, by which `scales` divides again, both exactly.
            return self._initializer((scales * UNIT).reshape(tuple(dims))), self._initializer(torch.tensor(1.0))
        return self._initializer(words.to(torch.float16).reshape(tuple(dims))), self._initializer(top)

    def _zero_points(self, codes: LayerCodes, dims: Sequence[int]) -> str:
        if codes.encoded.zeros is None:
            return self._initializer(torch.tensor([codes.offset], dtype=torch.uint8), shared=True)
        return self._unsigned(codes.encoded.zeros, codes.bits, dims)

    def _by_row(self, per_group: str, size: int, width: int) -> str:
        return self._function("by_row", [per_group, self._integers((size,)), self._integers((width,))])

    def _unsigned(self, codes: Tensor, bits: int, dims: Sequence[int]) -> str:
        return self._numbers(codes, bits, False, dims)

    def _numbers(self, numbers: Tensor, bits: int, signed: bool, dims: Sequence[int]) -> str:
        """Return an initializer of integers of 4 or 8 bits, two of 4 to a byte, the first in the lower half."""
        from onnx import TensorProto

        flat: Bytes = (numbers.reshape(-1).to(torch.int16) & 0xFF).to(torch.uint8).numpy()
        if bits == 8:
            return self._raw(TensorProto.INT8 if signed else TensorProto.UINT8, dims, flat.tobytes())
        raw = pack_codes(np.bitwise_and(flat, np.uint8(15)), 4).tobytes()
        return self._raw(TensorProto.INT4 if signed else TensorProto.UINT4, dims, raw)

    def _initializer(self, tensor: Tensor, shared: bool = False) -> str:
        raw = raw_bytes(tensor).tobytes()
        return self._raw(_onnx_type(tensor.dtype), tuple(tensor.shape), raw, shared or len(raw) <= 64)

    def _integers(self, numbers: Sequence[int]) -> str:
        return self._initializer(torch.tensor(list(numbers), dtype=torch.int64), shared=True)

    def _raw(self, kind: int, dims: Sequence[int], raw: bytes, shared: bool = False) -> str:
        """Add an initializer; small ones that are the same are one."""
        key = (kind, tuple(dims), raw)
        if shared and key in self._shared:
            return self._shared[key]
        tensor = self.model.graph.initializer.add()
        self._count += 1
        tensor.name, tensor.data_type, tensor.raw_data = f"#{self._count}", kind, raw
        tensor.dims.extend(dims)
        if shared:
            self._shared[key] = tensor.name
        return str(tensor.name)

    def _function(self, name: str, inputs: Sequence[str]) -> str:
        self._used.add(name)
        return self._node(name, inputs, domain=DOMAIN)

    def _node(
        self, op: str, inputs: Sequence[str], output: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        from onnx import helper

        output = output or f"#v{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))
        return output

    def _uncompressed(self) -> None:
        """Write biases and norms that the file has in 16 bits as such, and widen them."""
        graph, packed = self.model.graph, self.job.packed
        held = {i.name: i for i in graph.initializer}
        for record, item in packed.items():
            if isinstance(item, EncodedTensor) or item.dtype == record.dtype or record.name not in held:
                continue
            graph.initializer.remove(held[record.name])
            self._node("Cast", [self._initializer(item)], output=record.name, to=_onnx_type(record.dtype))

    def _import_functions(self) -> None:
        """Add the functions that are used, and those they use."""
        if not self._used:
            return
        from onnx import parser

        needs = {"codes": {"bits"}, "masked": {"bits"}, "weight": {"scales"}}
        wanted = self._used | {other for name in self._used for other in needs.get(name, ())}
        library = parser.parse_model(FUNCTIONS)
        self.model.functions.extend(f for f in library.functions if f.name in wanted)
        imported = self.model.opset_import.add()
        imported.domain, imported.version = DOMAIN, 1


def _natural(record: TensorRecord) -> bool:
    back = record.layout.unfolding(record.shape)[1]
    return back == sorted(back)


def dense_floats(encoded: EncodedTensor) -> Tensor:
    """Return 16- or 32-bit weights row by row, pruned ones zero."""
    from ..compression.encode_layers_and_packed_model import spread

    return spread(encoded, encoded.codes)


def _onnx_type(dtype: torch.dtype) -> int:
    """Return ONNX's number for a dtype."""
    from onnx import TensorProto

    names = {
        torch.float32: "FLOAT", torch.float16: "FLOAT16", torch.bfloat16: "BFLOAT16", torch.float64: "DOUBLE",
        torch.uint8: "UINT8", torch.int8: "INT8", torch.int64: "INT64", torch.int32: "INT32", torch.bool: "BOOL",
    }  # fmt: skip
    if dtype not in names:
        raise ModelError(f"ONNX has no {dtype}")
    return int(getattr(TensorProto, names[dtype]))


# ---- 8-bit activations ----


def _with_integer_activations(model: Any, job: ExportJob) -> tuple[Any, str]:
    """Return a graph whose activations have 8 bits, over the weights it has: onnxruntime's quantizer leaves these.

    (microsoft/onnxruntime#22633: weights that come out of a DequantizeLinear are taken as they are.)
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if job.calibrate is None:
        raise ArgumentError("8-bit activations need calibration data")
    names, rows = [value.name for value in model.graph.input], job.calibrate()
    plain = {i.name for i in model.graph.initializer if len(i.dims) > 1 and i.data_type in (1, 10, 11)}
    kept = [node.name for node in model.graph.node if plain & set(node.input) and node.op_type in _IN_FLOATS]

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of a package without types
        """Gives the calibration examples one by one."""

        def get_next(self) -> dict[str, Any] | None:
            """Return the inputs of the next batch."""
            from .write_and_verify import input_tensors

            given = next(rows, None)
            return None if given is None else _feeds(names, input_tensors(*given))

    with tempfile.TemporaryDirectory(prefix="shrinkwidget-") as folder, quiet("root", ""):
        path = Path(folder) / "model.onnx"
        job.tell("calibrating activations", 0.35)
        quantize_static(
            onnx.shape_inference.infer_shapes(model), path, Reader(), quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=kept,
        )  # fmt: skip
        quantized = onnx.load(path)
        again = {node.input[0] for node in quantized.graph.node if node.op_type == "QuantizeLinear"}
        for record, _ in job.coded():
            if again & set(record.names):
                raise ModelError(
                    f"onnxruntime's quantizer would round {quoted(record.name)} again: nothing was written"
                )
        floats, integers = _heavy_operators(quantized, Path(folder))
    told = f"{integers} of {integers + len(floats)} convolutions and matrix products run in 8-bit integers"
    return quantized, f"{told}; in floats: {', '.join(floats)}" if floats else told


_IN_FLOATS: Final = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU")
_IN_INTEGERS: Final = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "ConvInteger", "MatMulIntegerToFloat")


def _heavy_operators(model: Any, folder: Path) -> tuple[list[str], int]:
    """Return which heavy operators the runtime computes in floats, by their weights, and how many in integers.

    A DequantizeLinear that is not fused into the operator after it runs on its own, and silently slows everything.
    """
    import onnx

    options = _options()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    _session(model.SerializeToString(), options)
    optimized = onnx.load(folder / "optimized.onnx")
    floats = []
    for node in optimized.graph.node:
        if node.op_type in _IN_FLOATS:
            named = next((name for name in node.input if "weight" in name), node.name or node.op_type)
            floats.append(f"{node.op_type} with {named}")
    return floats, sum(node.op_type in _IN_INTEGERS for node in optimized.graph.node)


# ---- what is left of the file ----


def _strip(model: Any, tensors: set[str]) -> dict[str, str]:
    """Take out what no runtime reads: where in the source a node came from (paths of this machine!), shapes, names.

    On a network of 700 kB that is 8 % of the file. Inputs, outputs and the compressed `tensors` keep their names;
    the new ones of all others are returned.
    """
    graph = model.graph
    del graph.value_info[:], graph.metadata_props[:], model.metadata_props[:]
    model.producer_name, model.producer_version, graph.doc_string = "shrinkwidget", "", ""
    kept = {value.name for value in [*graph.input, *graph.output]} | tensors
    inner = any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    short: dict[str, str] = {}
    unused = (f"{number}" for number in count() if f"{number}" not in kept)
    for node in graph.node:
        node.name, node.doc_string = "", ""
        del node.metadata_props[:]
        _drop_defaults(node)
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name and name not in kept and not inner:  # branches and loops use names of the graph around them
                    names[i] = short[name] = short.get(name) or next(unused)
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
        tensor.name = short.get(tensor.name, tensor.name)
    for value in [*graph.input, *graph.output]:
        del value.metadata_props[:]
    return short


def _drop_defaults(node: Any) -> None:
    """Leave out attributes of convolutions that say what is the case anyway."""
    if node.op_type not in ("Conv", "ConvTranspose") or node.domain:
        return
    for attribute in list(node.attribute):
        ones = attribute.name in ("dilations", "strides") and set(attribute.ints) == {1}
        none = attribute.name == "pads" and not any(attribute.ints)
        plain = (attribute.name == "group" and attribute.i == 1) or (
            attribute.name == "auto_pad" and attribute.s == b"NOTSET"
        )
        if ones or none or plain or attribute.name == "kernel_shape":  # the weight's shape says it
            node.attribute.remove(attribute)


def _feeds(names: Sequence[str], inputs: Sequence[Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, inputs, strict=True)}


class _Session(OpenedExport):
    """A file in an ONNX Runtime session."""

    def __init__(self, path: Path, job: ExportJob, values: Mapping[str, str]) -> None:
        import onnx

        self._model, self._job, self._values = onnx.load(path), job, values
        kinds = {node.op_type for node in self._model.graph.node}
        # by default the runtime fuses 4-bit DequantizeLinear and MatMul, and rounds the inputs of that to 8 bits
        self._exact = "DequantizeLinear" in kinds and "QuantizeLinear" not in kinds
        options = _options()
        if self._exact:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = _session(path.read_bytes(), options)
        except Exception as error:
            raise ModelError(
                f"ONNX Runtime cannot run this {type(job.model).__name__} ({reason(error)}): it may lack the "
                f"dtype or an operator; float32 works most widely, model.float()"
            ) from error
        self._inputs = [value.name for value in self._session.get_inputs()]
        sizes = {value.shape[0] for value in self._session.get_inputs() if value.shape}
        self.fixed_batch = next((size for size in sizes if isinstance(size, int)), None)

    def weights(self) -> Mapping[str, Tensor]:
        """Return what the runtime makes of the nodes that give the weights, optimized as it does by default."""
        names = {name for record, _ in self._job.coded() for name in record.names}
        made = [name for node in self._model.graph.node for name in node.output if name in names]
        return _evaluated(self._model, made)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the outputs of the whole network."""
        found = self._session.run(None, _feeds(self._inputs, inputs))
        return [torch.from_numpy(np.array(x)) for x in found]

    def trace(self, inputs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return what flows between operators, by the names torch.export gave."""
        import onnx

        part = onnx.ModelProto()
        part.CopyFrom(self._model)
        made = {name for node in part.graph.node for name in node.output}
        asked = [(name, short) for name, short in self._values.items() if short in made]
        del part.graph.output[:]
        for _, short in asked:
            part.graph.output.add().name = short
        found = _session(onnx.shape_inference.infer_shapes(part).SerializeToString()).run(
            None, _feeds(self._inputs, inputs)
        )
        return {name: torch.from_numpy(np.array(x)) for (name, _), x in zip(asked, found, strict=True)}


def _evaluated(model: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the values of some names that need no input, computed by the runtime."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(model)
    graph = part.graph
    del graph.input[:], graph.output[:], graph.node[:]
    wanted, nodes = set(names), []
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            nodes.append(node)
    graph.node.extend(reversed(nodes))
    for name in names:
        graph.output.add().name = name
    values = _session(onnx.shape_inference.infer_shapes(part).SerializeToString()).run(None, {})
    return {name: torch.from_numpy(np.array(value)) for name, value in zip(names, values, strict=True)}


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # warnings are about what was folded
    return options


def _session(model: bytes, options: Any = None) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, options or _options(), providers=["CPUExecutionProvider"])
