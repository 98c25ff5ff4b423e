"""A packed file is exactly as large as was said, and holds exactly the weights that were shown."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from shrinkwidget.analysis.estimate_class_and_packed_file_header import SECTIONS
from shrinkwidget.compression.encode_layers_and_packed_model import PackedModel, dense_codes
from shrinkwidget.files import entropy_coded_bytes, file_parts, read, save
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

from .packed_file_helpers import Net, packed, parts_of, recipes, same, same_bits, state_dicts

REAL_RECIPES = [
    Recipe(),
    Recipe(bits=16, uncompressed_bits=16),
    Recipe(sparsity=0.8, bits=4),
    Recipe(sparsity=0.9, bits=4, granularity=32, symmetric=False),
    Recipe(sparsity=0.9, bits=5, quantizer="kmeans", uncompressed_bits=16),
    Recipe(sparsity=0.5, bits=1, granularity="tensor"),
    Recipe(bits=8, granularity="tensor", clipping="mse"),
    Recipe(structure="2:4", bits=3, layers={"conv1": Keep, "layer3.*": {"bits": 6}}),
]


def written(model: PackedModel, entropy: bool) -> tuple[int, PackedModel]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        said = save(model, path, entropy)
        size = path.stat().st_size
        assert said == size == (entropy_coded_bytes(model) if entropy else model.nbytes)
        return size, read(path)


@settings(max_examples=150)
@given(state=state_dicts(), recipe=recipes(), entropy=st.booleans())
def test_any_recipe_of_any_model_is_as_large_as_said_and_loads_back_bit_for_bit(
    state: dict[str, Tensor], recipe: Recipe, entropy: bool
) -> None:
    if any("*0*" in pattern for pattern in recipe.layers) and "l0" not in state:
        return
    model = packed(state, recipe)
    _, loaded = written(model, entropy)
    assert same(model.state_dict(), loaded.state_dict())
    assert loaded.recipe == recipe
    assert loaded.kept == model.kept
    assert loaded.nbytes == model.nbytes


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("recipe", REAL_RECIPES, ids=repr)
def test_a_trained_network_loads_back_bit_for_bit(resnet20: Path, recipe: Recipe, entropy: bool) -> None:
    model = packed(resnet20, recipe)
    size, loaded = written(model, entropy)
    assert same(model.state_dict(), loaded.state_dict())
    assert size <= model.nbytes


def test_a_loaded_model_writes_the_file_it_came_from(resnet20: Path, tmp_path: Path) -> None:
    for i, recipe in enumerate(REAL_RECIPES):
        first, second = tmp_path / f"{i}.safetensors", tmp_path / f"{i}-again.safetensors"
        save(packed(resnet20, recipe), first)
        save(read(first), second)
        assert first.read_bytes() == second.read_bytes()


def test_nothing_changes_where_nothing_is_asked_for(resnet20: Path) -> None:
    _, loaded = written(packed(resnet20, Recipe()), entropy=False)
    dense = load_file(resnet20)
    assert dense.keys() == loaded.state_dict().keys()
    assert all(same_bits(dense[name], tensor) for name, tensor in loaded.state_dict().items())


def test_any_safetensors_reader_can_open_it(tmp_path: Path) -> None:
    for entropy in (False, True):
        path = tmp_path / f"{entropy}.safetensors"
        save(packed(Net(), Recipe(sparsity=0.9, bits=4)), path, entropy)
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(SECTIONS)
            assert Recipe.from_json(file.metadata()["recipe"]) == Recipe(sparsity=0.9, bits=4)


def test_tied_weights_are_stored_once_and_come_back_tied() -> None:
    recipe = Recipe(bits=8)
    model = packed(Net(), recipe)
    state = written(model, entropy=False)[1].state_dict()
    assert state["embed.weight"] is state["head.weight"]
    assert len(model.records) == len(state) - 1


def test_a_buffer_that_no_state_dict_has_is_not_saved() -> None:
    assert "passing" not in packed(Net(), Recipe()).state_dict()


def test_kept_tensors_of_16_bits_stay_finite() -> None:
    lowest = torch.finfo(torch.float32).min
    state = {"w": torch.randn(2, 2), "mask": torch.tensor([lowest, 0.0, 1e5]), "bias": torch.tensor([1 / 3, 6e4])}
    _, loaded = written(packed(state, Recipe(uncompressed_bits=16)), entropy=False)
    back = loaded.state_dict()
    assert back["mask"].isfinite().all()
    assert back["mask"][2].item() == pytest.approx(1e5, rel=2**-8)
    assert same_bits(back["bias"], state["bias"].half().float())


def test_four_bits_in_groups_of_32_take_four_and_a_half_bits_a_weight(tmp_path: Path) -> None:
    state = {f"{i}.weight": torch.randn(1024, 1024) for i in range(2)}
    size = save(packed(state, Recipe(bits=4, granularity=32)), tmp_path / "small.safetensors")
    weights = 2 * 1024 * 1024
    assert 4.5 * weights / 8 < size < 4.51 * weights / 8


@pytest.mark.parametrize(
    "recipe, most",
    [
        (Recipe(sparsity=0.8, bits=4), 1.03),
        (Recipe(sparsity=0.95, bits=4), 1.04),
        (Recipe(sparsity=0.5, bits=2), 1.03),
        (Recipe(bits=4), 1.02),
        (Recipe(bits=3, granularity="tensor"), 1.04),
    ],
    ids=repr,
)
def test_entropy_coding_comes_close_to_the_entropy(resnet20: Path, recipe: Recipe, most: float) -> None:
    """Codes and masks against Σ n·H, H being each layer's own entropy as if its distribution were known for nothing."""
    model = packed(resnet20, recipe)
    bound = 0.0
    for record, item in model.items():
        if record.encoded and not isinstance(item, Tensor):
            masked = not record.nbytes(item.kept).dense
            bound += entropy_bits(item.codes if masked else dense_codes(item))
            bound += entropy_bits(item.keep) if masked and item.keep is not None else 0
    _, sections = parts_of(b"".join(bytes(part) for part in file_parts(model, entropy=True)))
    assert len(sections["codes"]) + len(sections["mask"]) < most * bound / 8


def entropy_bits(symbols: Tensor) -> float:
    counts = symbols.to(torch.uint8).bincount().double()
    p = counts[counts > 0] / counts.sum()
    return float(-(p * p.log2()).sum() * counts.sum())


@pytest.mark.parametrize("size", [1e-37, 1e-39, 1e-41, 1e-44])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(bits=4),
        Recipe(bits=8),
        Recipe(bits=4, symmetric=False),
        Recipe(bits=2, granularity=32),
        Recipe(bits=1),
        Recipe(bits=3, quantizer="kmeans"),
    ],
    ids=str,
)
def test_a_layer_of_subnormal_weights_is_read_as_it_was_saved(size: float, recipe: Recipe, tmp_path: Path) -> None:
    """As of a layer that died under weight decay: floats that small have few bits left."""
    state = {"dead": torch.randn(8, 64, generator=torch.Generator().manual_seed(1)) * size, "live": torch.ones(2, 3)}
    small = packed(state, recipe)
    save(small, tmp_path / "small.safetensors")
    again = read(tmp_path / "small.safetensors").state_dict()
    assert same(again, small.state_dict())
    assert float((again["dead"] - state["dead"]).abs().max()) <= 4 * size
