"""Checkpoints on disk: one file, sharded, in a folder; changed or cut short while they are read; damaged or hostile."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shrinkwidget.analysis.model_summary import summary
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import open_model
from shrinkwidget.analysis.sketch import sketch
from shrinkwidget.compressed_model import compress
from shrinkwidget.errors import FileError
from shrinkwidget.recipe_and_method_registry import Recipe

from ..count_work_not_time import lines_run

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def save_sharded(folder: Path) -> dict[str, Tensor]:
    """Write a checkpoint of two shards and return all of it."""
    torch.manual_seed(0)
    shards = {
        FIRST: {"embed.weight": torch.randn(20, 8), "layers.0.weight": torch.randn(8, 8).bfloat16()},
        SECOND: {"layers.1.weight": torch.randn(8, 8), "norm.weight": torch.ones(8)},
    }
    for name, tensors in shards.items():
        save_file(tensors, folder / name, {"format": "pt"})
    write_index(folder, {tensor: name for name, tensors in shards.items() for tensor in tensors})
    return {name: tensor for tensors in shards.values() for name, tensor in tensors.items()}


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("path", ["", "model.safetensors.index.json"])
def test_a_sharded_checkpoint_opens_like_one_file(tmp_path: Path, path: str) -> None:
    state = save_sharded(tmp_path)
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(state, whole / "model.safetensors")
    recipe = Recipe(sparsity=0.5, bits=4)
    sharded = compress(tmp_path / path, recipe).state_dict()
    assert sharded.keys() == state.keys()
    for name, tensor in compress(state, recipe).state_dict().items():
        assert torch.equal(sharded[name], tensor)
    assert summary(tmp_path / path).nbytes == summary(whole).nbytes == summary(state).nbytes
    assert {layer.name for layer in sketch(tmp_path / path).layers} == set(state) - {"norm.weight"}


def test_a_checkpoint_is_called_by_its_file_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sharded(tmp_path)
    assert open_model(tmp_path).title == tmp_path.name
    assert open_model(tmp_path / "model.safetensors.index.json").title == "model"
    monkeypatch.chdir(tmp_path)
    assert open_model(".").title == tmp_path.name


def cut_map(**changes: str | None) -> Callable[[Path], None]:
    """Return a change of the index: tensors to other files, or (None) out of it."""

    def change(folder: Path) -> None:
        path = folder / "model.safetensors.index.json"
        found = json.loads(path.read_text())["weight_map"] | {n.replace("_", "."): v for n, v in changes.items()}
        write_index(folder, {name: shard for name, shard in found.items() if shard is not None})

    return change


def twice_in_the_shards(folder: Path) -> None:
    save_file(load_file(folder / SECOND) | {"embed.weight": torch.ones(2, 2)}, folder / SECOND)


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda folder: (folder / SECOND).unlink(), rf"cannot be opened whole: there is no file '.*{SECOND}'"),
        (lambda folder: os.truncate(folder / SECOND, 100), "cannot be opened whole: .* is not a readable safetensors"),
        (cut_map(norm_weight=FIRST), rf"'norm.weight' is in '{FIRST}', it is in '{SECOND}'"),
        (cut_map(head_weight=FIRST), rf"'head.weight' is in '{FIRST}', which does not hold it"),
        (cut_map(norm_weight=None), rf"'{SECOND}' holds 'norm.weight', which .* does not name"),
        (cut_map(norm_weight="../other.safetensors"), "names the file '../other.safetensors', which is not in its own"),
        (cut_map(norm_weight="/etc/passwd"), "which is not in its own folder"),
        (cut_map(norm_weight="C:\\model.safetensors"), "which is not in its own folder"),
        (cut_map(norm_weight=""), "which is not in its own folder"),
        (twice_in_the_shards, rf"'embed.weight' is in two files, '{FIRST}' and '{SECOND}'"),
        (lambda folder: write_index(folder, {}), "names no tensor"),
        (lambda folder: write_index(folder, [FIRST]), 'has no "weight_map" of file names'),
        (lambda folder: (folder / "model.safetensors.index.json").write_text("[" * 10**5), "is not a readable index"),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map":{"a":"b","a":"c"}}'),
            "has the key 'a' twice",
        ),
    ],
)
def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path, damage: Any, sentence: str) -> None:
    save_sharded(tmp_path)
    damage(tmp_path)
    with pytest.raises(FileError, match=sentence):
        open_model(tmp_path)


def test_a_folder_of_several_models_asks_which(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no .safetensors file; it is empty"):
        open_model(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileError, match=r"holds no .safetensors file; it holds 'pytorch_model.bin'"):
        open_model(tmp_path)
    save_file({"a": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert [e.name for e in open_model(tmp_path).entries] == ["a"]
    save_file({"b": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match=r"several models, 'adapter_model.safetensors', 'other.safetensors': give the"):
        open_model(tmp_path)
    save_file({"c": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert [e.name for e in open_model(tmp_path).entries] == ["c"]
    write_index(tmp_path, {"b": "other.safetensors"})
    with pytest.raises(FileError, match=r"several models"):
        open_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    state = {"first": torch.ones(3), "x": torch.randint(0, 2, shape).to(dtype), "w": torch.randn(3, 3)}
    save_file(state, tmp_path / "model.safetensors")
    found = {entry.name: entry.load() for entry in open_model(tmp_path).entries}
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].double(), tensor.double())


def test_a_file_cut_short_while_it_is_looked_at_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"l{i}.weight": torch.randn(64, 64) for i in range(4)}, path)
    weights = open_model(path)
    os.truncate(path, path.stat().st_size // 2)
    for act in (sketch, lambda w: [entry.load() for entry in w.entries]):
        with pytest.raises(FileError, match=r"can no longer be read from .* the file has been changed since"):
            act(weights)


def test_a_file_written_over_in_place_with_the_same_shapes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(8, 8)}, path)
    (entry,) = open_model(path).entries
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(0.02)  # beyond the resolution of the clock of file times
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(FileError, match=r"has been changed since it was opened; open it again"):
        entry.load()


def test_opening_and_reading_thousands_of_tensors_takes_work_in_proportion(tmp_path: Path) -> None:
    def read_all(path: Path) -> None:
        for entry in open_model(path).entries:
            entry.load()

    costs = []
    for count in (100, 1000):
        path = tmp_path / f"{count}.safetensors"
        save_file({f"layers.{i}.weight": torch.ones(2, 2) for i in range(count)}, path)
        costs.append(lines_run(read_all, path))
    assert costs[1] < 10.5 * costs[0]
