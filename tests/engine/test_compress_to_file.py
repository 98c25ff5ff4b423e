"""`compress(…, to=path)` writes the file that `save` writes, layer by layer, and reads from it what is asked for."""

from __future__ import annotations

import json
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from safetensors.torch import save_file
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.analysis.read_tensors_and_serialize_safetensors import SafetensorsFile
from shrinkwidget.compression import encode_layers_and_packed_model
from shrinkwidget.compression.encode_layers_and_packed_model import encode_layer
from shrinkwidget.errors import FileError, ModelError
from shrinkwidget.recipe_and_method_registry import Recipe

from .packed_file_helpers import Net, recipes, same, state_dicts
from .test_safetensors_checkpoint import save_sharded


@settings(max_examples=25)
@given(state=state_dicts(), recipe=recipes())
def test_the_file_is_the_one_that_save_writes(state: dict[str, Tensor], recipe: Recipe) -> None:
    if any("*0*" in pattern for pattern in recipe.layers) and "l0" not in state:
        return
    with TemporaryDirectory() as folder:
        saved, streamed = Path(folder) / "saved.safetensors", Path(folder) / "streamed.safetensors"
        small = sw.compress(state, recipe)
        small.save(saved)
        there = sw.compress(state, recipe, to=streamed)
        assert streamed.read_bytes() == saved.read_bytes()
        assert there.nbytes == small.nbytes == streamed.stat().st_size
        assert there.estimate == small.estimate
        assert (there.parts(), there.warnings) == (small.parts(), small.warnings)
        assert same(there.state_dict(), small.state_dict())


@pytest.mark.parametrize("model", [Net(), sw.demo.model(), Net().bfloat16()], ids=["ties", "demo", "bfloat16"])
def test_of_a_module_too(model: nn.Module, tmp_path: Path) -> None:
    fields: dict[str, Any] = {"sparsity": 0.8, "bits": 4, "granularity": 32}
    small, path = sw.compress(model, **fields), tmp_path / "small.safetensors"
    there = sw.compress(model, **fields, to=path)
    assert there.model is None
    again = [tmp_path / name for name in ("saved", "coded", "streamed and coded")]
    small.save(again[0])
    small.save(again[1], entropy=True)
    there.save(again[2], entropy=True)
    assert path.read_bytes() == again[0].read_bytes()
    assert again[1].read_bytes() == again[2].read_bytes()
    assert repr(there) == repr(small).replace(f"{type(model).__name__}, ", "")


def test_of_what_is_left_without_channels(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"channels": 0.5, "bits": 4, "example": torch.zeros(1, 1, 8, 8)}
    there = sw.compress(sw.demo.model(), **fields, to=tmp_path / "small.safetensors")
    small = sw.compress(sw.demo.model(), **fields)
    small.save(tmp_path / "saved")
    assert (tmp_path / "small.safetensors").read_bytes() == (tmp_path / "saved").read_bytes()
    assert there.widths == small.widths
    assert there.original_nbytes == small.original_nbytes


def sharded(folder: Path, layers: int, dtype: torch.dtype) -> Path:
    """Write a checkpoint in two shards, and return its index."""
    torch.manual_seed(0)
    places: dict[str, str] = {}
    for shard in ("a.safetensors", "b.safetensors"):
        names = [f"{shard[0]}.{i}.weight" for i in range(layers // 2)]
        save_file({name: torch.randn(64, 96).to(dtype) for name in names}, folder / shard)
        places |= dict.fromkeys(names, shard)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_few_layers_are_in_memory_at_a_time(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, live, most = sharded(tmp_path, 40, dtype), {"weights": 0, "codes": 0}, {"weights": 0, "codes": 0}

    def watched(kind: str, tensor: Tensor) -> None:
        live[kind] += 1
        most[kind] = max(most[kind], live[kind])
        weakref.finalize(tensor, lambda: live.update({kind: live[kind] - 1}))

    read, encode = SafetensorsFile.read, encode_layer

    def reading(file: SafetensorsFile, name: str) -> Tensor:
        watched("weights", found := read(file, name))
        return found

    def encoding(*args: Any, **given: Any) -> Any:
        watched("codes", (done := encode(*args, **given)).encoded.codes)
        assert done.effective is None  # nobody asked for them
        return done

    monkeypatch.setattr(SafetensorsFile, "read", reading)
    monkeypatch.setattr(encode_layers_and_packed_model, "encode_layer", encoding)
    sw.compress(index, 0.5, bits=4, granularity=32, to=tmp_path / "small.safetensors")
    assert 1 <= most["weights"] <= 6  # one for each of at most four threads
    assert 1 <= most["codes"] <= 16
    monkeypatch.undo()
    sw.compress(index, 0.5, bits=4, granularity=32).save(tmp_path / "saved")
    assert (tmp_path / "small.safetensors").read_bytes() == (tmp_path / "saved").read_bytes()


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_is_interrupted_leaves_the_file_that_was_there(
    interrupt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, path, layers = sharded(tmp_path, 12, torch.float32), tmp_path / "small.safetensors", 0
    path.write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    load = encode_layers_and_packed_model.SelectedLayer.weights

    def failing(layer: encode_layers_and_packed_model.SelectedLayer) -> Any:
        nonlocal layers
        layers += 1
        if layers == 7:
            raise interrupt
        return load(layer)

    monkeypatch.setattr(encode_layers_and_packed_model.SelectedLayer, "weights", failing)
    with pytest.raises(KeyboardInterrupt if interrupt is KeyboardInterrupt else FileError):
        sw.compress(index, 0.5, bits=4, to=path)
    assert layers >= 7
    assert path.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    model = sw.demo.model()
    model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="head"):
        sw.compress(model, 0.5, to=tmp_path / "small.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_changed_is_no_longer_read(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    there = sw.compress(sw.demo.model(), bits=4, to=path)
    assert len(there.state_dict()) > 14
    sw.compress(sw.demo.model(), bits=3, to=path)
    assert there.nbytes == 95268  # what was counted is still known
    with pytest.raises(FileError, match=r"'stem.weight' can no longer be read from .*changed"):
        there.state_dict()


def test_it_is_read_on_after_it_was_saved_onto_its_own_file(tmp_path: Path) -> None:
    path, link = tmp_path / "small.safetensors", tmp_path / "link.safetensors"
    there = sw.compress(sw.demo.model(), sparsity=0.5, bits=4, to=path)
    before, content = there.state_dict(), path.read_bytes()
    link.symlink_to(path)
    for own in (path, link):
        assert there.save(own) == len(content)
        assert path.read_bytes() == content
        assert same(there.state_dict(), before)
    with pytest.raises(FileError, match=r"entropy-coded: the model reads its weights from that very file"):
        there.save(path, entropy=True)
    there.save(tmp_path / "coded.safetensors", entropy=True)
    assert same(there.state_dict(), before)


def test_it_is_shown_when_its_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    there = sw.compress(
        {"w": torch.eye(4), "gone": torch.eye(4)}, layers={"gone": dict(sparsity=0.99)}, bits=4, to=path
    )
    shown = repr(there), there._repr_html_()
    assert "'gone'" in shown[0]
    path.unlink()
    assert (repr(there), there._repr_html_()) == shown


@pytest.mark.parametrize("fields", [dict(bits=4), dict(channels=0.5)], ids=repr)
def test_a_folder_that_is_not_there_is_told_before_any_work(fields: dict[str, Any], tmp_path: Path) -> None:
    # the model is no file, which work would come upon
    with pytest.raises(FileError, match=r"cannot write '.*small': there is no folder '.*nowhere'"):
        sw.compress(tmp_path / "model.safetensors", **fields, to=tmp_path / "nowhere" / "small")


def test_the_model_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(sw.demo.model().state_dict(), path)
    before = path.read_bytes()
    (tmp_path / "link").symlink_to(path)
    for to in (path, str(path), tmp_path / "link"):
        with pytest.raises(FileError, match="is a file of the model itself"):
            sw.compress(path, bits=4, to=to)
        with pytest.raises(FileError, match="is a file of the model itself"):
            sw.compress(tmp_path, bits=4, to=to)
    assert path.read_bytes() == before
    with pytest.raises(FileError, match="give a path"):
        sw.compress(path, bits=4, to=3)  # type: ignore[arg-type]


def test_neither_is_a_shard_nor_the_index(tmp_path: Path) -> None:
    save_sharded(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for source in (tmp_path, tmp_path / "model.safetensors.index.json"):
        for name in before:
            with pytest.raises(FileError, match="is a file of the model itself"):
                sw.compress(source, bits=4, to=tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (
        sw.compress(tmp_path, bits=4, to=tmp_path / "small.safetensors").nbytes == sw.compress(tmp_path, bits=4).nbytes
    )
