"""GGUF: blocks of 32 weights with a float16 scale each (Q4_0, Q5_0, Q8_0), filled with our codes.

`gguf.quantize` rounds anew and keeps 7 % of 4-bit weights; here codes and scales are those of the packed file.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from ..compression.encode_layers_and_packed_model import EncodedTensor, TensorRecord, decode, spread
from ..errors import ArgumentError, ModelError, quoted
from ..files.plain_and_entropy_encodings import Bytes, raw_bytes
from .exporter import Exporter, ExportJob, OpenedExport, Written, register_exporter
from .layer_codes import layer_codes

BLOCK: Final = 32
_TYPES: Final = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128}
"""The types there are, narrowest first: steps of a block are from minus this to this − 1."""


@register_exporter
@dataclass(frozen=True)
class GGUF(Exporter):
    """A ``.gguf`` file of tensors, under the names they have in the model, for ggml and llama.cpp.

    Args:
        floats: whether what no block can hold exactly is stored as plain floats; if not, it is refused.
    """

    target: ClassVar[str] = "gguf"
    suffixes: ClassVar[tuple[str, ...]] = (".gguf",)
    packages: ClassVar[tuple[str, ...]] = ("gguf",)
    megabytes: ClassVar[int] = 2
    needs_graph: ClassVar[bool] = False
    runs: ClassVar[bool] = False

    floats: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.floats, bool):
            raise ArgumentError(f"export(floats={self.floats!r}) must be True or False")

    def write(self, job: ExportJob, activations: int | None) -> Written:
        """Return the file of all tensors."""
        from gguf import GGMLQuantizationType, GGUFWriter

        del activations
        stored: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="shrinkwidget-") as folder:
            path = Path(folder) / "model.gguf"
            writer = GGUFWriter(path, "shrinkwidget")
            for record, item in job.packed.items():
                if isinstance(item, EncodedTensor):
                    kind, content = self._coded(record, item)
                    stored[record.name] = kind
                else:
                    kind, content = _floats(item)
                shape = _byte_shape(record.shape, content)
                writer.add_tensor(record.name, content.reshape(shape), raw_dtype=GGMLQuantizationType[kind])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            return Written({".gguf": path.read_bytes()}, stored)

    def open(self, path: Path, job: ExportJob, written: Written) -> OpenedExport:
        """Return the tensors as the gguf package reads them."""
        del written
        return _Tensors(path, job)

    def _coded(self, record: TensorRecord, encoded: EncodedTensor) -> tuple[str, Bytes]:
        """Return the type and the bytes of a compressed tensor."""
        if encoded.plan.bits == 16:
            values = spread(encoded, encoded.codes)
            return _floats(record.layout.restored(values, record.shape))
        try:
            return _blocks(record, encoded)
        except ModelError:
            if not self.floats:
                raise
            return _floats(decode(encoded))


def _blocks(record: TensorRecord, encoded: EncodedTensor) -> tuple[str, Bytes]:
    """Return a tensor in blocks.

    Raises:
        ModelError: if its grid, its groups or its scales are none that blocks can have.
    """
    name, codes, groups = quoted(record.name), layer_codes(encoded), encoded.groups
    if codes is None or not codes.integers or encoded.scales is None:
        raise ModelError(
            f'GGUF cannot hold {name}: its values are not evenly spaced; compress with quantizer="uniform" and up to 8 '
            f"bits, or export with floats=True"
        )
    # Blocks run along the last axis in memory; a layout that transposes has its groups along another.
    ordered, back = record.layout.unfolding(record.shape)
    if back != sorted(back) or ordered[-1] % BLOCK or (groups.count > 1 and groups.size % BLOCK):
        raise ModelError(
            f"GGUF cannot hold {name} in blocks of {BLOCK}: its last axis has {record.shape[-1]:,} weights, in groups "
            f"of {min(groups.size, encoded.n):,}; both must be multiples of {BLOCK}: compress with "
            f"granularity={BLOCK}, leave the layer out (sw.Keep), or export with floats=True"
        )
    halves = encoded.scales.to(torch.float16)
    if not torch.equal(halves.float(), encoded.scales):
        raise ModelError(
            f'GGUF keeps scales as float16, and those of {name} are none: compress with scales="float16", or export '
            f"with floats=True"
        )
    # Steps of −8…7 fit Q4_0, −16…15 Q5_0, −128…127 Q8_0. A 4-bit grid whose zero point is not in the middle reaches up
    # to 15 steps to one side, so that it takes Q5_0.
    steps = codes.steps().view(-1, BLOCK)
    reach = max(-int(steps.min()), int(steps.max()) + 1)
    kind = next((kind for kind, most in _TYPES.items() if reach <= most), None)
    if kind is None:
        raise ModelError(
            f"GGUF cannot hold {name}: its weights are up to {reach:,} steps from zero, beyond a signed byte; compress "
            f"with symmetric=True, or export with floats=True"
        )
    # A group of several blocks gives each of them its scale: that is what the format costs beside our groups.
    by_weight = halves.repeat_interleave(encoded.n // groups.count)
    scale = by_weight.view(-1, BLOCK)[:, :1].contiguous().view(torch.uint8).numpy()
    if kind == "Q8_0":
        return kind, np.concatenate([scale, steps.to(torch.int8).view(torch.uint8).numpy()], 1).reshape(-1)
    unsigned: Bytes = (steps + _TYPES[kind]).to(torch.uint8).numpy()
    # the first half of a block in the lower four bits, the second in the upper; a fifth bit apart
    half = BLOCK // 2
    nibbles = (unsigned[:, :half] & 15) | (unsigned[:, half:] << np.uint8(4))
    fifth = [np.packbits(unsigned >> np.uint8(4), axis=1, bitorder="little")] if kind == "Q5_0" else []
    return kind, np.concatenate([scale, *fifth, nibbles], 1).reshape(-1)


def _floats(tensor: Tensor) -> tuple[str, Bytes]:
    """Return the type and the bytes of plain numbers.

    Raises:
        ModelError: for a dtype that GGUF does not have.
    """
    kinds = {
        torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64", torch.int8: "I8",
        torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
    }  # fmt: skip
    if tensor.dtype not in kinds:
        raise ModelError(f"GGUF has no {tensor.dtype}")
    return kinds[tensor.dtype], raw_bytes(tensor)


def _byte_shape(shape: tuple[int, ...], content: Bytes) -> tuple[int, ...]:
    """Return the shape of a tensor whose last axis is counted in bytes; a single number is a list of one."""
    outer = shape[:-1]
    return (*outer, len(content) // max(1, math.prod(outer)))


class _Tensors(OpenedExport):
    """The tensors of a file as the gguf package reads and dequantizes them."""

    def __init__(self, path: Path, job: ExportJob) -> None:
        from gguf import GGUFReader

        self._reader: Any = GGUFReader(path)
        self._job = job

    def weights(self) -> Mapping[str, Tensor]:
        """Return the compressed tensors."""
        from gguf import dequantize

        records = {record.name: record for record, _ in self._job.coded()}
        found = {}
        for tensor in self._reader.tensors:
            if tensor.name in records:
                record = records[tensor.name]
                values = np.array(dequantize(tensor.data, tensor.tensor_type))
                found[record.name] = torch.from_numpy(values).reshape(record.shape)
        return found
