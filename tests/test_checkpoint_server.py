"""The extension of Jupyter's server, in a real server: tables of checkpoints, who gets them, and what is refused."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file, save_model
from torch import nn

import shrinkwidget as sw
from shrinkwidget.errors import FileError
from shrinkwidget.server.checkpoint_table import checkpoint_table

from .engine.test_gguf_header import QUANTIZED, damaged, gguf_bytes, write_gguf
from .engine.test_safetensors_checkpoint import FIRST, save_sharded, write_index
from .running_jupyter_server import ROOT, Server, inside, start, stop


def rows(table: dict[str, Any]) -> dict[str, tuple[list[int], str, int]]:
    columns = table["tensors"]
    found = zip(columns["name"], columns["shape"], columns["dtype"], columns["bytes"], strict=True)
    return {name: (shape, dtype, nbytes) for name, shape, dtype, nbytes in found}


# ---- what others wrote ----


def test_a_safetensors_file_is_listed_as_the_library_lists_it(server: Server, folder: Path) -> None:
    model = sw.demo.model().half()
    path = folder / "demo model%20.safetensors"
    save_file(model.state_dict(), path, {"epoch": "3"})
    table = server.table(inside(server, path))
    with safe_open(path, "pt") as opened:
        expected = {name: (list(opened.get_slice(name).get_shape()), opened.get_slice(name).get_dtype())
                    for name in opened.keys()}  # fmt: skip  # noqa: SIM118
    assert {name: row[:2] for name, row in rows(table).items()} == expected
    assert sum(row[2] for row in rows(table).values()) == sum(t.nbytes for t in model.state_dict().values())
    assert table["files"] == [{"name": path.name, "bytes": path.stat().st_size}]
    assert table["metadata"] == {"epoch": "3"}
    assert (table["format"], table["title"], table["packed"]) == ("safetensors", "demo model%20", None)
    totals = {total["dtype"]: total for total in table["dtypes"]}
    assert totals["F16"]["parameters"] == sum(t.numel() for t in model.state_dict().values() if t.dtype == torch.half)
    assert sum(total["tensors"] for total in totals.values()) == len(expected)


@pytest.mark.parametrize("name", ["model.safetensors.index.json", ""])
def test_a_sharded_checkpoint_is_one_table(server: Server, folder: Path, name: str) -> None:
    state = save_sharded(folder)
    table = server.table(inside(server, folder / name))
    assert rows(table).keys() == state.keys()
    assert rows(table)["layers.0.weight"] == ([8, 8], "BF16", 128)
    shards = dict(zip(table["tensors"]["name"], table["tensors"]["file"], strict=True))
    assert table["files"][shards["embed.weight"]]["name"] == FIRST
    assert len(table["files"]) == 2


def test_a_checkpoint_that_transformers_saved_in_shards_is_one_table(server: Server, folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = transformers.BertModel(config)
    model.save_pretrained(folder / "bert", max_shard_size="60KB")
    state = {name: (list(t.shape), "F32", t.nbytes) for name, t in model.state_dict().items()}
    for path in (folder / "bert", folder / "bert" / "model.safetensors.index.json"):
        table = server.table(inside(server, path))
        assert len(table["files"]) > 2
        assert rows(table) == state


def test_tied_tensors_are_told_where_the_file_knows_them(server: Server, folder: Path) -> None:
    model = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 30, bias=False))
    model[1].weight = model[0].weight
    save_model(model, str(folder / "tied.safetensors"))
    table = server.table(inside(server, folder / "tied.safetensors"))
    (pair,) = table["tied"]
    assert sorted(pair) == ["0.weight", "1.weight"]
    assert list(rows(table)) == [pair[1]]


def test_our_packed_file_shows_its_recipe_and_what_it_holds(server: Server, folder: Path) -> None:
    small = sw.compress(sw.demo.model(), sparsity=0.5, bits=4)
    nbytes = small.save(folder / "small.safetensors")
    table = server.table(inside(server, folder / "small.safetensors"))
    assert table["format"] == "shrinkwidget"
    assert sw.Recipe.from_json(table["packed"]["recipe"]) == small.recipe
    assert table["files"][0]["bytes"] == nbytes
    assert sum(table["packed"]["sections"].values()) < nbytes
    dense = {name: (list(t.shape), t.nbytes) for name, t in sw.demo.model().state_dict().items()}
    assert {name: (row[0], row[2]) for name, row in rows(table).items()} == dense


def test_a_gguf_file_is_listed_with_its_types(server: Server, folder: Path) -> None:
    write_gguf(folder / "tiny.gguf")
    table = server.table(inside(server, folder / "tiny.gguf"))
    assert table["format"] == "gguf"
    assert rows(table)["token_embd.weight"] == ([6, 256], "F32", 6 * 256 * 4)
    assert rows(table)["blk.0.Q4_K.weight"] == ([4, 512], "Q4_K", 4 * 2 * 144)
    assert {*QUANTIZED, "F32", "F16"} == {total["dtype"] for total in table["dtypes"]}
    assert table["metadata"]["big"] == str(2**63)  # JavaScript's numbers end before
    assert table["metadata"]["tokenizer.ggml.tokens"]["length"] == 2000


def test_100000_tensors_are_listed_within_seconds_while_the_server_answers_others(server: Server, folder: Path) -> None:
    header = {f"layers.{i}.weight": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(100_000)}
    text = json.dumps(header).encode()
    (folder / "many.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(100_000))
    answers = 0
    done = threading.Event()

    def ask_for_the_status() -> None:
        nonlocal answers
        while not done.is_set():
            assert server.fetch("api/status")[0] == 200
            answers += not done.is_set()

    asking = threading.Thread(target=ask_for_the_status)
    asking.start()
    table = server.table(inside(server, folder / "many.safetensors"))
    done.set()
    asking.join()
    assert len(rows(table)) == 100_000
    assert answers > 3  # a server that lists them itself answers nobody meanwhile


# ---- who gets it, and of which files ----


def test_without_a_token_nothing_is_told(server: Server, folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    path = inside(server, folder / "model.safetensors")
    assert server.get(path)[0] == 200
    for token in ("", "wrong"):
        status, found = server.get(path, token=token)
        assert status == 403
        assert "tensors" not in found
    assert server.get(path, token="", Origin="http://elsewhere.example")[0] in (403, 404)


def test_no_path_leads_out_of_the_root(server: Server, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    save_file({"secret": torch.zeros(2)}, outside / "model.safetensors")
    save_file({"hidden": torch.zeros(2)}, folder / ".hidden.safetensors")
    (folder / "link.safetensors").symlink_to(outside / "model.safetensors")
    (folder / "linked").symlink_to(outside)
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "seen.safetensors").symlink_to(folder / ".hidden.safetensors")
    real, here = outside / "model.safetensors", folder.name
    up = os.path.relpath(real, server.folder)
    paths = [
        up, f"{here}/../{up}", f"./{up}", f"{here}/link.safetensors", f"{here}/linked",
        f"{here}/linked/model.safetensors",
        f"{here}/LINKED/model.safetensors", str(real), f"//{real}", f"file://{real}", f"C:{real}",
        up.replace("/", "\\"),
        urllib.parse.quote(up, safe=""), up.replace("..", "%2e%2e"), f"{here}/linked/../../{up}", "..", ".", "", "/",
        f"{here}/loop", f"{here}/.hidden.safetensors", f"{here}/seen.safetensors", f"{here}/nowhere.safetensors",
        f"{here}/model\0.safetensors", "x" * 5000,
    ]  # fmt: skip
    for path in paths:
        status, found = server.get(path)
        assert status in (400, 403, 404, 422), path
        assert set(found) == {"message"}, path
        assert "secret" not in found["message"]
    status, found = server.fetch("shrinkwidget/api/checkpoint?path=%ff%fe")
    assert (status, found) == (400, {"message": "the path is not valid UTF-8"})


AUTHORIZER = """
from jupyter_server.auth import Authorizer

class NobodyReadsFiles(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return resource != "contents"
"""


def test_who_may_not_read_files_may_not_read_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "server_of_the_tests.py").write_text(AUTHORIZER)
    running = start(tmp_path, "--ServerApp.authorizer_class=server_of_the_tests.NobodyReadsFiles")
    try:
        save_file({"a": torch.zeros(2)}, running.folder / "model.safetensors")
        status, found = running.get("model.safetensors")
        assert status == 403
        assert "not authorized to read on resource: contents" in found["message"]
    finally:
        stop(running)


def test_files_in_no_file_system_are_told_so() -> None:
    from jupyter_server.services.contents.manager import ContentsManager

    from shrinkwidget.server.checkpoint_table_handler import PathError, path_in_root

    class InADatabase(ContentsManager):
        pass

    with pytest.raises(PathError, match="this server keeps its files in a InADatabase") as told:
        path_in_root("model.safetensors", InADatabase())
    assert told.value.status == 400


# ---- bad files ----


def header_file(header: object, data: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(data)


def entry(begin: int, end: int, dtype: str = "U8", shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "a few bytes": (b"abc", "too short"),
    "a length beyond the file": ((2**40).to_bytes(8, "little") + b"{}", "only 2 follow"),
    "a length of 2^63": ((2**63).to_bytes(8, "little") + b"{}", "only 2 follow"),
    "a negative length": ((-5).to_bytes(8, "little", signed=True) + b"{}", "only 2 follow"),
    "a length too short": (header_file({"a": entry(0, 4)})[:8].replace(b"\x36", b"\x05") + b'{"a": {}}', "header"),
    "cut short": (header_file({"a": entry(0, 100)}, 50), "50 bytes are missing"),
    "overlapping tensors": (header_file({"a": entry(0, 8), "b": entry(4, 12)}, 12), "begins at byte 4"),
    "a tensor out of range": (header_file({"a": entry(8, 16)}, 16), "begins at byte 8"),
    "a name twice": (header_file(b'{"a": {}, "a": {}}'), "'a' twice"),
    "an unknown dtype": (header_file({"a": entry(0, 4, "F3")}, 4), "'F3'"),
    "no UTF-8": (header_file(b'{"\xff": 1}'), "not JSON"),
    "deeply nested": (header_file(b"[" * 100_000), "not JSON"),
    "deeply nested objects": (header_file(b'{"a":' * 50_000), "not JSON"),
    "no object": (header_file([1, 2]), "not a JSON object"),
    "a shape of half numbers": (header_file({"a": entry(0, 4, shape=[1.5])}, 4), "describes 'a'"),  # type: ignore[list-item]
    "metadata of numbers": (header_file({"__metadata__": {"a": 1}}), "object of texts"),
    "a torn GGUF": (gguf_bytes(tensor_count=5)[:30], "GGUF"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_sentence_and_the_server_stays_up(server: Server, folder: Path, case: str) -> None:
    data, expected = BAD[case]
    (folder / "bad.safetensors").write_bytes(data)
    message = server.refusal(inside(server, folder / "bad.safetensors"))
    assert expected in message
    assert "bad.safetensors" in message
    assert server.process.poll() is None


def test_names_with_markup_come_as_they_are(server: Server, folder: Path) -> None:
    name = '<img src=x onerror="alert(1)">\u202e.weight'
    save_file({name: torch.zeros(2)}, folder / "markup.safetensors", {"</script>": "<b>"})
    table = server.table(inside(server, folder / "markup.safetensors"))
    assert list(rows(table)) == [name]
    assert table["metadata"] == {"</script>": "<b>"}


def missing_shard(folder: Path) -> str:
    (folder / FIRST).unlink()
    return f"there is no file '{folder.name}/{FIRST}'"


def swapped_shards(folder: Path) -> str:
    first, second = sorted(folder.glob("*.safetensors"))
    other = folder / "other"
    first.rename(other)
    second.rename(first)
    other.rename(second)
    return "says that 'embed.weight' is in 'model-00001-of-00002.safetensors'"


def index_that_leads_out(folder: Path) -> str:
    write_index(folder, {"a": "../../secret.safetensors"})
    return "which is not in its own folder"


def no_index(folder: Path) -> str:
    (folder / "model.safetensors.index.json").write_text("[1]")
    return "is not the index of a checkpoint"


@pytest.mark.parametrize("spoil", [missing_shard, swapped_shards, index_that_leads_out, no_index])
def test_a_broken_sharded_checkpoint_is_refused(server: Server, folder: Path, spoil: Callable[[Path], str]) -> None:
    save_sharded(folder)
    expected = spoil(folder)
    for name in ("", "model.safetensors.index.json"):
        assert expected in server.refusal(inside(server, folder / name))


def test_shards_that_a_link_leads_out_of_the_root_are_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    save_sharded(folder)
    (folder / FIRST).rename(tmp_path / FIRST)
    (folder / FIRST).symlink_to(tmp_path / FIRST)
    assert "leads out of" in server.refusal(inside(server, folder))


class WritesAFile:
    """What a pickle may do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.pt", "pytorch_model.bin", "weights.pth", "last.ckpt"])
def test_pickles_are_never_opened_and_it_is_said_how_to_convert_them(server: Server, folder: Path, name: str) -> None:
    trap = folder / "sprung"
    torch.save({"a": WritesAFile(trap)}, folder / name)
    message = server.refusal(inside(server, folder / name))
    assert "can run any code" in message
    assert "safetensors.torch.save_file(torch.load(" in message
    assert not trap.exists()


def test_a_protected_file_is_told_so(server: Server, folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0)
    assert "Permission denied" in server.refusal(inside(server, folder / "model.safetensors"))


def test_a_folder_of_that_name_and_a_pipe_are_told_so(server: Server, folder: Path) -> None:
    (folder / "folder.safetensors").mkdir()
    (folder / "folder.gguf").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    for name in ("folder.safetensors", "folder.gguf"):
        assert "it is empty" in server.refusal(inside(server, folder / name))
    assert "not a plain file" in server.refusal(inside(server, folder / "pipe.safetensors"))


def test_a_module_in_the_users_folder_is_not_taken_for_one_of_pythons(server: Server) -> None:
    save_file({"a": torch.zeros(2)}, server.folder / "model.safetensors")
    (server.folder / "json.py").write_text("raise SystemExit(7)")
    assert list(rows(server.table("model.safetensors"))) == ["a"]


def test_damaged_headers_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    save_file({f"layers.{i}.weight": torch.zeros(4, 2) for i in range(5)}, path, {"format": "pt"})
    whole, rng = path.read_bytes(), random.Random(0)
    length = 8 + int.from_bytes(whole[:8], "little")
    refused = 0
    for _ in range(1000):
        path.write_bytes(damaged(whole, rng, [(0, 16), (0, length)]))
        try:
            checkpoint_table(path)
        except FileError:  # and nothing else
            refused += 1
    assert 900 < refused <= 1000


def test_the_server_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, shrinkwidget.server.checkpoint_table_handler;print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "False"]
