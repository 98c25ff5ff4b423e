"""Read a packed file, and fill a model with it if it is the right one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..analysis.model_tensors import dtype_name, unsupported_class
from ..analysis.safetensors_checkpoint import open_plain_file, refuse_other_formats
from ..analysis.tied_and_parametrized_weights import computed_by, expanded, overlapping, plain_weights
from ..errors import FileError, ModelError, quoted
from .header import read_header
from .packed_file_parser import unpack
from .packed_file_writer import PackedModel
from .tensor_records import TensorRecord, read_records


def read(path: str | os.PathLike[str], into: nn.Module | None = None) -> PackedModel:
    """Return the packed model in a file, plain or entropy-coded; with `into`, fill that model with its weights.

    Before a weight is unpacked, `into` is held against the file: every saved parameter and buffer must be there, with
    the same shape and dtype, and nothing else. Weights it computes (weight norm, masks, parametrizations) become plain
    parameters. Which of them are tied may differ as long as nothing is tied that the
    file holds two values for. A model on another device is filled there.

    Raises:
        FileError: if there is no such file, if it is not a packed model, damaged, or newer than this version, or if
            the model does not match it, naming the first differences; the model is then unchanged.
        ModelError: if `into` is no module.
    """
    if not isinstance(into, nn.Module | None):
        raise ModelError(f"into={type(into).__name__} is no model: give an nn.Module, or nothing for a state dict")
    with open_plain_file(path) as file:
        refuse_other_formats(path, file)
        size = os.fstat(file.fileno()).st_size
        try:
            header = read_header(file, size)
            records = read_records(header.structure, header.recipe)
            if into is not None:
                match(records, into)
            packed = unpack(header, records, size)
        except FileError as error:
            raise FileError(f"cannot load {quoted(path)}: {error}") from error
    if into is not None:
        plain_weights(into)
        _fill(packed, match(records, into))
    return packed


def match(records: tuple[TensorRecord, ...], model: nn.Module) -> list[dict[str, Tensor]]:
    """Return the model's tensors that each record is to fill, by name.

    Raises:
        FileError: if the model does not match, naming the first three differences.
    """
    tensors = _tensors(model)
    differences = list(_differences(records, tensors, _saved(model)))
    if differences:
        more = f" (and {len(differences) - 3:,} more)" if len(differences) > 3 else ""
        told = f"{'; '.join(differences[:3])}{more}{_folding(records, tensors)}"
        raise FileError(f"this {type(model).__name__} is another model: {told}")
    return [{name: tensors[name] for name in record.names if name in tensors} for record in records]


def _folding(records: tuple[TensorRecord, ...], tensors: dict[str, Tensor]) -> str:
    """Return what to load into, where one of the two has batch norms and the other has none."""
    file, model = (any(n.endswith("running_var") for n in names) for names in ([s.name for s in records], tensors))
    if model and not file:
        return ": its batch norm was folded, load into=fold_batchnorm(model)"
    return ": its batch norm was not folded, load into the model as it was" if file and not model else ""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by all their names, with weights that are computed in place of their parts."""
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    found.update(model.named_buffers(remove_duplicate=False))
    for prefix, module in model.named_modules(remove_duplicate=False):
        dot = f"{prefix}." if prefix else ""
        for computed in computed_by(module):
            for part in computed.parts:
                found.pop(dot + part, None)
            with torch.no_grad():
                found[dot + computed.name] = computed.value()
    return found


def _saved(model: nn.Module) -> set[str]:
    """Return the names of those a state dict has."""
    passing = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    return set(_tensors(model)) - passing


def _differences(records: tuple[TensorRecord, ...], tensors: dict[str, Tensor], saved: set[str]) -> Iterator[str]:
    names = {name: record for record in records for name in record.names}
    filled: dict[int, TensorRecord] = {}
    for name, record in names.items():
        if name not in tensors:
            yield f"it has no {quoted(name)}, which the file holds"
        elif difference := _difference(record, record.shape_of(name), tensors[name]):
            yield f"{quoted(name)} {difference}"
        elif filled.setdefault(id(tensors[name]), record) is not record:
            other = quoted(filled[id(tensors[name])].name)
            yield f"it ties {quoted(name)} to {other}, for which the file holds another tensor"
    for name in sorted(saved - set(names)):
        if id(tensors[name]) not in filled:
            yield f"the file holds no {quoted(name)}, which it has"
    for one, other, _ in overlapping((name, tensors[name]) for name in names if name in tensors):
        if names[one] is not names[other] and (names[one].encoded or names[other].encoded):
            yield f"{quoted(other)} shares memory with {quoted(one)}, for which the file holds another tensor"


def _difference(record: TensorRecord, shape: tuple[int, ...], tensor: Tensor) -> str:
    if nn.parameter.is_lazy(tensor):
        return "has no shape yet: run one batch through the model first"
    if tensor.is_meta:
        return "is on the meta device: call .to_empty(device='cpu') first"
    if tuple(tensor.shape) != shape:
        return f"has the shape {list(tensor.shape)}, in the file {list(shape)}"
    if tensor.dtype != record.dtype:
        return f"is {dtype_name(tensor.dtype)}, in the file {dtype_name(record.dtype)}"
    if unsupported_class("", tensor)[0]:
        return f"is a quantized tensor already ({type(tensor).__name__}): make the model without quantizing it"
    if expanded(tensor):
        return "is an expanded view that cannot be filled"
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return "was made under torch.inference_mode(), and cannot be filled outside it"
    return ""


def _fill(packed: PackedModel, targets: list[dict[str, Tensor]]) -> None:
    with torch.no_grad():
        for (record, values), tensors in zip(packed.tensors(), targets, strict=True):
            for name, tensor in tensors.items():
                tensor.copy_(record.seen_as(name, values))
