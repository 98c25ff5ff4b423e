"""Checkpoints on disk: one file, sharded, in a folder; changed or cut short while they are read; damaged or hostile."""

from __future__ import annotations

import io
import json
import os
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from shrinkwidget.compressed import compress, load
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.measure.layers import open_weights
from shrinkwidget.measure.safetensors_file import SafetensorsFile
from shrinkwidget.measure.size import measure
from shrinkwidget.measure.sketch import sketch
from shrinkwidget.recipe import Recipe

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
    assert measure(tmp_path / path).nbytes == measure(whole).nbytes == measure(state).nbytes
    assert {layer.name for layer in sketch(tmp_path / path).layers} == set(state) - {"norm.weight"}


def test_a_checkpoint_is_called_by_its_file_or_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_sharded(tmp_path)
    assert open_weights(tmp_path).title == tmp_path.name
    assert open_weights(tmp_path / "model.safetensors.index.json").title == "model"
    monkeypatch.chdir(tmp_path)
    assert open_weights(".").title == tmp_path.name


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
        open_weights(tmp_path)


def test_a_folder_of_several_models_asks_which(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"holds no .safetensors file; it is empty"):
        open_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileError, match=r"holds no .safetensors file; it holds 'pytorch_model.bin'"):
        open_weights(tmp_path)
    save_file({"a": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert [e.name for e in open_weights(tmp_path).entries] == ["a"]
    save_file({"b": torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(FileError, match=r"several models, 'adapter_model.safetensors', 'other.safetensors': give the"):
        open_weights(tmp_path)
    save_file({"c": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    assert [e.name for e in open_weights(tmp_path).entries] == ["c"]
    write_index(tmp_path, {"b": "other.safetensors"})
    with pytest.raises(FileError, match=r"several models"):
        open_weights(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.int64, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (5,), (2, 3, 4)])
def test_every_tensor_is_read_as_it_was_written(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    state = {"first": torch.ones(3), "x": torch.randint(0, 2, shape).to(dtype), "w": torch.randn(3, 3)}
    save_file(state, tmp_path / "model.safetensors")
    found = {entry.name: entry.load() for entry in open_weights(tmp_path).entries}
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name].double(), tensor.double())


def test_a_file_cut_short_while_it_is_looked_at_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"l{i}.weight": torch.randn(64, 64) for i in range(4)}, path)
    weights = open_weights(path)
    os.truncate(path, path.stat().st_size // 2)
    for act in (sketch, lambda w: [entry.load() for entry in w.entries]):
        with pytest.raises(FileError, match=r"can no longer be read from .* the file has been changed since"):
            act(weights)


def test_a_file_that_ends_in_the_middle_of_a_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(64, 64)}, path)
    (entry,) = open_weights(path).entries
    monkeypatch.setattr(SafetensorsFile, "_refuse_changed", lambda *_: os.truncate(path, 1000))
    with pytest.raises(FileError, match=r"'w' can no longer be read .* the file ends [\d,]+ bytes too early"):
        entry.load()


def test_a_file_written_over_in_place_with_the_same_shapes_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(8, 8)}, path)
    (entry,) = open_weights(path).entries
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    time.sleep(0.02)  # beyond the resolution of the clock of file times
    with path.open("r+b") as file:
        file.write(data)
    with pytest.raises(FileError, match=r"has been changed since it was opened; open it again"):
        entry.load()


def test_opening_and_reading_thousands_of_tensors_takes_time_in_proportion(tmp_path: Path) -> None:
    costs = []
    for count in (500, 4000):
        path = tmp_path / f"{count}.safetensors"
        save_file({f"layers.{i}.weight": torch.ones(2, 2) for i in range(count)}, path)
        start = time.process_time()
        for entry in open_weights(path).entries:
            entry.load()
        costs.append((time.process_time() - start) / count)
    assert costs[1] < 3 * costs[0]


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return buffer.getvalue()


def arrays() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, w=np.ones(3))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name, data, sentence",
    [
        ("model.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file, as Keras writes: load the model with Keras"),
        ("weights", b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file"),
        ("model.keras", zipped("metadata.json", "model.weights.h5"), "is a Keras model"),
        ("renamed.safetensors", zipped("config.json"), "is a Keras model"),
        ("model.gguf", b"GGUF\3\0\0\0" + bytes(64), "is a GGUF file, whose weights are quantized already"),
        ("model.onnx", b"\x08\x0a\x12\x07pytorch" + bytes(64), "is an ONNX model: read it with onnx.load"),
        ("model.npz", arrays(), "is an archive of NumPy arrays: read it with numpy.load"),
        ("model.npy", b"\x93NUMPY" + bytes(64), "is a NumPy array"),
        ("model.tflite", bytes(64), "is a TensorFlow Lite model"),
        ("model.pt", zipped("archive/data.pkl"), "is a pickle"),
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "fetch that with git lfs pull"),
    ],
)
def test_files_of_other_formats_are_named(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (open_weights, load):
        with pytest.raises(FileError, match=sentence):
            read(tmp_path / name)


def test_what_is_no_readable_file_is_refused_at_once_and_in_one_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for path, sentence in {
        "": "the path is empty",
        "a\0b": r"there is no file 'a\\x00b'",
        "x" * 5000: "cannot read 'x{50,} … x{50,}': File name too long",
        "/dev/zero": "is not a plain file",
        str(tmp_path / "pipe"): "is not a plain file",
        str(tmp_path / "loop"): "symbolic links",
        "owner/model": "is downloaded first",
        str(tmp_path / "\udcff"): r"there is no file .*\\udcff",
    }.items():
        for read in (open_weights, load):
            with pytest.raises(FileError, match=sentence) as refused:
                read(path)
            assert str(refused.value).isprintable()
    for nothing in (None, b"", 7):
        with pytest.raises(FileError, match="expected the path of a file"):
            load(nothing)  # type: ignore[arg-type]


def header_only(tmp_path: Path, header: object, size: int = 0) -> Path:
    """Write a safetensors file of this header and `size` bytes of data, which take no disk."""
    text = json.dumps(header).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    os.truncate(path, 8 + len(text) + size)
    return path


def described(shape: list[Any], begin: int = 0, end: int = 0, dtype: object = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header, size, sentence",
    [
        ({"w": described([1] * 65, 0, 4)}, 4, "65 dimensions"),
        ({"w": described([0, 2**63])}, 0, "more than any memory holds"),
        ({"w": described([2, -2])}, 0, "expected dtype, shape, data_offsets"),
        ({"w": described([2, True], 0, 8)}, 8, "expected dtype, shape, data_offsets"),
        ({"w": described([2, 2], 0, 15)}, 15, "has 15 bytes in the file, but needs 16"),
        ({"w": described([2, 2], 8, 24)}, 24, "begins at byte 8 of the data, but should at 0"),
        ({"w": described([2], 0, 8), "v": described([2], 4, 12)}, 12, "begins at byte 4 of the data, but should at 8"),
        ({"w": described([2], 0, 8)}, 9, "1 bytes follow after its last tensor"),
        ({"w": described([2], 0, 8)}, 4, "4 bytes are missing at the end"),
        ({"w": described([2], 0, 8, "F7")}, 8, "'F7', a type this version cannot read"),
        ({"w": described([2], 0, 8, None)}, 8, "expected dtype, shape, data_offsets"),
        ({"w": 7}, 0, "expected dtype, shape, data_offsets"),
        ({"__metadata__": {"format": 1}}, 0, "not an object of texts"),
        ({"\ud800": described([2], 0, 8)}, 8, "not JSON"),
        ([], 0, "not a JSON object"),
        ({"a\n\x1b[2J\u202e" + "x" * 10**5: described([2], 4, 12)}, 12, r"'a\\n\\x1b\[2J\\u202ex+ … x+' begins at"),
    ],
)
def test_a_header_that_is_wrong_is_refused(tmp_path: Path, header: object, size: int, sentence: str) -> None:
    path = header_only(tmp_path, header, size)
    for look in (measure, sketch):
        with pytest.raises(FileError, match=sentence) as refused:
            look(path)
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 700


def test_a_large_file_is_refused_by_its_header(tmp_path: Path) -> None:
    path = header_only(tmp_path, {"w": described([2**28, 1024], 0, 2**40)}, 2**40)
    start = time.process_time()
    with pytest.raises(FileError, match=r"not a packed model .*: read it with safetensors.torch.load_file"):
        load(path)
    assert time.process_time() - start < 2


def test_a_tensor_beyond_the_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"w": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    (entry,) = open_weights(tmp_path).entries

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(FileError, match=r"'w' can no longer be read .* there is not enough memory for its 16 bytes"):
        entry.load()


def test_names_and_shapes_that_no_file_can_hold_are_refused_in_models_too() -> None:
    with pytest.raises(ModelError, match=r"'a\\ud800' has half of a surrogate pair"):
        open_weights({"a\ud800": torch.ones(2, 2)})
    with pytest.raises(ModelError, match="'w' has the shape of 65 dimensions"):
        open_weights({"w": torch.ones([1] * 65)})
