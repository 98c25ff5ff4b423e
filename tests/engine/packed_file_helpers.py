"""Small models, random recipes and hand-made files for the tests of the packed format."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from shrinkwidget.analysis.estimate_class_and_packed_file_header import SECTIONS, header_text
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import Source, open_model
from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import NM_PATTERNS
from shrinkwidget.compression.encode_layers_and_packed_model import PackedModel, pack, quantize
from shrinkwidget.compression.importance_scores_and_pruning_masks import keep_masks
from shrinkwidget.files import save
from shrinkwidget.files.write_packed_file import file_crc
from shrinkwidget.methods import Uniform
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def packed(source: Source, recipe: Recipe) -> PackedModel:
    """Prune, quantize and pack a model."""
    weights = open_model(source)
    plans = recipe.resolve(e.name for e in weights.layers)
    encoded = {
        entry.name: quantize(entry, None if keep is None else keep.reshape(-1), plan)
        for entry, keep, plan in zip(weights.layers, keep_masks(weights, recipe), plans, strict=True)
        if not plan.keep
    }
    return pack(weights, recipe, encoded)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Tell whether two state dicts are the same, name by name and bit by bit."""
    return list(a) == list(b) and all(same_bits(a[name], b[name]) for name in a)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors have the same shape, dtype and bits (NaN, -0.0 and all)."""
    raw = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(*raw)


class Net(nn.Module):
    """A little of everything: tied weights, a convolution, batch norm's int counter, a buffer that is not saved."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(11, 8)
        self.conv = nn.Conv1d(8, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(8, 11)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.randn(4, 4))
        self.register_buffer("passing", torch.randn(3), persistent=False)


QUANTIZERS = st.just("kmeans") | st.builds(
    Uniform, symmetric=st.booleans(), clipping=st.sampled_from(("absmax", "mse", 99.0))
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Draw any recipe."""
    values: dict[str, Any] = {
        "structure": draw(st.sampled_from(("unstructured", *NM_PATTERNS))),
        "bits": draw(st.sampled_from((1, 2, 3, 4, 5, 6, 7, 8, 16, 32))),
        "scope": draw(st.sampled_from(("global", "layer"))),
        "importance": draw(st.sampled_from(("magnitude", "random"))),
        "granularity": draw(st.sampled_from(("tensor", "channel", 2, 3, 7, 32))),
        "quantizer": draw(QUANTIZERS),
        "uncompressed_bits": draw(st.sampled_from((16, 32))),
        "layers": draw(st.sampled_from(({}, {"*0*": Keep}, {"*0*": {"bits": 3}, "*": {"bits": 7, "sparsity": 0.97}}))),
    }
    if values["structure"] == "unstructured":
        values["sparsity"] = draw(st.sampled_from((0.0, 0.1, 0.5, 0.8, 0.9, 0.99)))
    return Recipe(**values)


@st.composite
def state_dicts(draw: st.DrawFn) -> dict[str, Tensor]:
    """Draw a small state dict of odd shapes and dtypes, with at least one compressible tensor called "l0"."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    state: dict[str, Tensor] = {}
    for i in range(draw(st.integers(1, 4))):
        shape = draw(st.lists(st.integers(1, 13), min_size=2, max_size=4))
        size = draw(st.sampled_from((1.0, 1e-3, 1e-30, 0.0, 3e5)))
        dtype = draw(st.sampled_from(FLOATS))
        values = torch.randn(shape, generator=generator, dtype=torch.float64) * size
        state[f"l{i}"] = values.clamp(-6e4, 6e4).to(dtype) if dtype == torch.float16 else values.to(dtype)
    extras: dict[str, Tensor] = {
        "bias": torch.randn(5, generator=generator),
        "µ.”odd\n name": torch.tensor([float("nan"), float("inf"), -0.0, 1e300], dtype=torch.float64),
        "mask": torch.full((3,), torch.finfo(torch.float32).min),
        "half": torch.randn(3, generator=generator).half(),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "flags": torch.tensor([[True, False]]),
        "ids": torch.arange(6, dtype=torch.int32).reshape(2, 3),
        "tied": state["l0"],
    }
    for name in draw(st.lists(st.sampled_from(sorted(extras)), unique=True)):
        state[name] = extras[name]
    return state


def parts_of(data: bytes) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the metadata and the sections of a packed file."""
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    return header["__metadata__"], {name: body[slice(*header[name]["data_offsets"])] for name in SECTIONS}


def rebuilt(data: bytes, recipe: str | None = None, structure: str | None = None, /, **sections: bytes) -> bytes:
    """Return a packed file with other content whose header and checksum are right: what only a forger would make."""
    about, found = parts_of(data)
    recipe, structure = recipe or about["recipe"], structure or about["structure"]
    found.update(sections)
    lengths = {name: len(found[name]) for name in SECTIONS}
    crc = file_crc(recipe, structure, found.values())
    text = header_text(recipe, structure, lengths, crc, about["format"])
    return b"".join([len(text).to_bytes(8, "little"), text, *found.values()])


def described(data: bytes) -> list[Any]:
    """Return the structure a packed file describes, as JSON."""
    found: list[Any] = json.loads(zlib.decompress(base64.b64decode(parts_of(data)[0]["structure"])))
    return found


def describing(value: object) -> str:
    """Return the structure text of a JSON value."""
    return base64.b64encode(zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)).decode()


def saved(folder: Path, source: Source, recipe: Recipe, entropy: bool = False) -> Path:
    """Return the path of a packed model."""
    path = folder / ("small-z.safetensors" if entropy else "small.safetensors")
    save(packed(source, recipe), path, entropy)
    return path
