"""Weights looked at in a real Jupyter server: the sketch that arrives, its cache, who gets it, what goes wrong."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest
import torch
import websocket
from safetensors.torch import save_file
from torch import Tensor

import shrinkwidget as sw
from shrinkwidget.analysis.open_model_tensors_and_channel_axes import UncompressedTensor
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.server import sketch_cache
from shrinkwidget.server.sketch_handler_and_process import Turns

from .engine.test_gguf_header import write_gguf
from .engine.test_safetensors_checkpoint import FIRST, SECOND, save_sharded
from .running_jupyter_server import ROOT, Server, inside, start, stop
from .test_checkpoint_server import AUTHORIZER


@dataclass
class Heard:
    """What a socket said: messages of JSON, and the sketches of single layers in the order in which they came."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    layers: list[Sketch] = field(default_factory=list)

    def of(self, state: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["state"] == state]

    @property
    def order(self) -> list[str]:
        return [part.layers[0].name for part in self.layers]

    def sketch(self) -> Sketch:
        """Put the sketch together as a page does."""
        (model,), (done,) = self.of("model"), self.of("done")
        about = model["model"]
        by_name = {part.layers[0].name: part.layers[0] for part in self.layers}
        kept = [*about["uncompressed"], *(message["tensor"] for message in self.of("layer_failed"))]
        return Sketch(
            title=about["title"],
            parameters=about["parameters"],
            original_nbytes=about["original_nbytes"],
            structure=done["structure"],
            layers=tuple(by_name[layer["name"]] for layer in model["layers"] if layer["name"] in by_name),
            uncompressed=tuple(UncompressedTensor(**tensor | {"shape": tuple(tensor["shape"])}) for tensor in kept),
            warnings=tuple(about["warnings"]),
        )


OPENED: list[Socket] = []


@pytest.fixture(autouse=True)
def _close_sockets() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


class Socket:
    """A page's socket."""

    def __init__(
        self,
        server: Server,
        path: str,
        token: str | None = None,
        other: str = "",
        limits: Mapping[str, object] | None = None,
        **options: Any,
    ) -> None:
        query = urllib.parse.urlencode({"path": path} | ({"with": other} if other else {}) | dict(limits or {}))
        address = f"{server.url.replace('http', 'ws', 1)}shrinkwidget/api/sketch?{query}"
        token = server.token if token is None else token
        options = {"suppress_origin": True} | options
        place = urllib.parse.urlsplit(address)
        # one of our own, as the library leaves that of a refused connection open
        plain = socket.create_connection((place.hostname or "", place.port or 80))
        header = [f"Authorization: token {token}"] if token else []
        try:
            self._socket = websocket.create_connection(address, timeout=60, socket=plain, header=header, **options)
        except websocket.WebSocketException:
            plain.close()
            raise
        self.heard = Heard()
        self._plain = plain
        OPENED.append(self)

    def next(self) -> dict[str, Any] | Sketch | None:
        """Return the next message; None once the socket is closed."""
        opcode, data = self._socket.recv_data()
        if opcode == websocket.ABNF.OPCODE_TEXT:
            self.heard.messages.append(json.loads(data))
            return self.heard.messages[-1]
        if opcode == websocket.ABNF.OPCODE_BINARY:
            self.heard.layers.append(Sketch.decode(data))
            return self.heard.layers[-1]
        return None

    def until(self, state: str) -> Heard:
        while not (self.heard.messages and self.heard.messages[-1]["state"] == state):
            assert self.next() is not None, self.heard.messages[-1:]
        return self.heard

    def all(self) -> Heard:
        while self.next() is not None:
            pass
        return self.heard

    def send(self, **message: Any) -> None:
        self._socket.send(json.dumps(message))

    def close(self) -> None:
        self._socket.close()
        self._plain.close()


def look(server: Server, path: Path | str) -> Heard:
    return Socket(server, path if isinstance(path, str) else inside(server, path)).all()


def failure(server: Server, path: Path | str) -> str:
    """Return the one sentence with which looking at a file ends."""
    heard = look(server, path)
    (failed,) = heard.of("failed")
    message = str(failed["message"])
    assert heard.messages[-1] is failed
    assert len(message.splitlines()) == 1
    assert str(server.folder) not in message
    return message


def workers(server: Server) -> list[psutil.Process]:
    found = psutil.Process(server.process.pid).children()
    return [child for child in found if "shrinkwidget.server.sketch_worker_program" in " ".join(child.cmdline())]


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def matrices(count: int, size: int = 64) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {f"layers.{i}.weight": torch.randn(size, size) for i in range(count)}


@pytest.fixture
def many(folder: Path) -> Path:
    """Return a checkpoint of 60 layers."""
    save_file(matrices(60), folder / "many.safetensors")
    return folder / "many.safetensors"


def paused(server: Server, path: Path) -> Socket:
    """Return a socket whose worker has begun, and waits before the first layer."""
    page = Socket(server, inside(server, path))
    page.send(pause=True)
    page.until("model")
    return page


# ---- the sketch ----


def demo(folder: Path) -> Path:
    save_file(sw.demo.model().state_dict(), folder / "demo.safetensors")
    return folder / "demo.safetensors"


def sharded(folder: Path) -> Path:
    save_sharded(folder)
    return folder


def transposed_tied_and_guessed(folder: Path) -> Path:
    torch.manual_seed(0)
    state = {
        "h.0.attn.c_attn.weight": torch.randn(16, 48), "h.0.attn.c_attn.bias": torch.randn(48),
        "h.0.attn.c_proj.weight": torch.randn(16, 16), "h.0.attn.c_proj.bias": torch.randn(16),
        "wte.weight": torch.randn(50, 16).half(), "dense/kernel": torch.randn(16, 10),
        "bn.running_mean": torch.randn(4, 4), "experts.w1": torch.randn(4, 8, 16).bfloat16(),
        "steps": torch.tensor(7), "big.weight": torch.randn(8, 8) * 1e6, "head": torch.randn(9, 5).double(),
        "zeros.weight": torch.zeros(6, 7), "odd.weight": torch.randn(5, 3, 3, 3) * (torch.rand(5, 3, 3, 3) > 0.5),
    }  # fmt: skip
    save_file(state, folder / "mixed.safetensors")
    return folder / "mixed.safetensors"


@pytest.mark.parametrize("make", [demo, sharded, transposed_tied_and_guessed])
def test_what_arrives_is_the_sketch_of_the_file_to_the_bit(
    server: Server, folder: Path, make: Callable[[Path], Path]
) -> None:
    path = make(folder)
    heard = look(server, path)
    expected = sw.sketch(path)
    assert heard.sketch().encode() == expected.encode()
    assert heard.sketch().title == expected.title
    estimate = {"sparsity": 0.5, "bits": 4}
    assert sw.estimate(heard.sketch(), **estimate) == sw.estimate(path, **estimate)  # type: ignore[arg-type]
    (model,) = heard.of("model")
    assert [layer["name"] for layer in model["layers"]] == [layer.name for layer in expected.layers]
    assert {layer["stored"] for layer in model["layers"]} == {""}
    sizes = {layer.name: layer.n * layer.itemsize for layer in expected.layers}
    assert {layer["name"]: layer["nbytes"] for layer in model["layers"]} == sizes


def test_the_layers_that_are_looked_at_come_first(server: Server, many: Path) -> None:
    page = paused(server, many)
    wanted = ["layers.50.weight", "layers.40.weight", "layers.30.weight"]
    page.send(first=wanted)
    page.send(pause=False)
    heard = page.all()
    assert len(heard.order) == len(set(heard.order)) == 60
    assert set(wanted) <= set(heard.order[:7])  # four are looked at together
    assert heard.sketch().encode() == sw.sketch(many).encode()


def test_a_pause_stops_between_layers_until_it_goes_on(server: Server, many: Path) -> None:
    page = paused(server, many)
    (worker,) = workers(server)
    used = sum(worker.cpu_times()[:2])
    time.sleep(0.7)
    assert sum(worker.cpu_times()[:2]) - used < 0.1
    page.send(nonsense=[1], pause="yes", first=[None, 7])
    page.send(pause=False)
    assert len(page.all().layers) == 60


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_gguf_types_are_dequantized_as_the_gguf_package_does(kind: str) -> None:
    from shrinkwidget.analysis.gguf_dequantization import dequantized

    number = gguf.GGMLQuantizationType[kind]
    nbytes = gguf.GGML_QUANT_SIZES[number][1]
    raw = np.random.default_rng(0).integers(0, 256, (30, 3 * nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):  # some of the scales are NaN
        expected = gguf.dequantize(raw, number)
    found = dequantized(torch.from_numpy(raw.reshape(-1)), kind, expected.shape)
    assert np.array_equal(found.numpy().view(np.uint32), expected.view(np.uint32))


def test_a_gguf_file_is_sketched_as_its_dequantized_weights(server: Server, folder: Path) -> None:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((8, 512), dtype=np.float32)
    writer = gguf.GGUFWriter(folder / "some.gguf", "llama")
    quantized = {}
    for name in ("Q4_0", "Q8_0", "Q5_1"):
        kind = gguf.GGMLQuantizationType[name]
        quantized[f"blk.0.{name}.weight"] = gguf.quantize(weights, kind)
        writer.add_tensor(f"blk.0.{name}.weight", quantized[f"blk.0.{name}.weight"], raw_dtype=kind)
    writer.add_tensor("token_embd.weight", weights.astype(np.float16))
    writer.add_tensor("norm.weight", np.ones(512, dtype=np.float32))
    writer.add_tensor(
        "blk.0.hard.weight", np.zeros((4, 66), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    heard = look(server, folder / "some.gguf")
    found = {part.layers[0].name: part.layers[0] for part in heard.layers}
    state = {"token_embd.weight": torch.from_numpy(weights).half()}
    for name, data in quantized.items():
        values = gguf.dequantize(data, gguf.GGMLQuantizationType[name.split(".")[2]])
        state[name] = torch.from_numpy(values.copy())
    assert found.keys() == state.keys()
    for layer in sw.sketch(state).layers:
        other = found[layer.name]
        assert np.array_equal(layer.buckets, other.buckets)
        assert np.array_equal(layer.counts, other.counts)
        assert layer.absmax == other.absmax
    (model,) = heard.of("model")
    stored = {layer["name"]: (layer["stored"], layer["nbytes"]) for layer in model["layers"]}
    assert stored["blk.0.Q4_0.weight"] == ("Q4_0", 8 * 512 // 32 * 18)
    assert stored["token_embd.weight"] == ("", 8 * 512 * 2)
    why = {tensor["name"]: tensor["why"] for tensor in model["model"]["uncompressed"]}
    assert why["blk.0.hard.weight"] == "IQ2_XXS: this version cannot tell its values"
    assert why["blk.0.Q8_0.weight"] == "quantized already: Q8_0"


def test_float8_and_int8_with_a_scale_a_row_are_sketched_as_what_they_stand_for(server: Server, folder: Path) -> None:
    torch.manual_seed(0)
    codes = torch.randint(-127, 128, (8, 16), dtype=torch.int8)
    scale = torch.rand(8, 1) + 0.1
    state = {
        "a.weight": torch.randn(8, 16).to(torch.float8_e4m3fn), "b.weight": torch.randn(4, 4).to(torch.float8_e5m2),
        "c.weight": codes, "c.weight_scale": scale, "c.input_scale": torch.ones(1),
        "d.weight": codes.clone(), "e.weight": torch.randn(8, 8),
        "f.weight": codes.clone(), "f.weight_scale": torch.rand(8, 2), "f.weight_zero_point": torch.zeros(8, 2).char(),
    }  # fmt: skip
    save_file(state, folder / "quantized.safetensors")
    heard = look(server, folder / "quantized.safetensors")
    found = {part.layers[0].name: part.layers[0] for part in heard.layers}
    meant = {
        "a.weight": state["a.weight"].float(), "b.weight": state["b.weight"].float(),
        "c.weight": codes.float() * scale, "e.weight": state["e.weight"],
    }  # fmt: skip
    assert found.keys() == meant.keys()
    for name, values in meant.items():
        expected = sw.sketch({name: values}).layers[0]
        assert np.array_equal(found[name].buckets, expected.buckets)
        assert np.array_equal(found[name].counts, expected.counts)
    (model,) = heard.of("model")
    assert {layer["name"]: layer["stored"] for layer in model["layers"]} == {
        "a.weight": "F8_E4M3", "b.weight": "F8_E5M2", "c.weight": "I8", "e.weight": "",
    }  # fmt: skip
    assert model["model"]["uncompressed"] == json.loads(
        json.dumps([vars_of(tensor) for tensor in sw.sketch(folder / "quantized.safetensors").uncompressed])
    )


def vars_of(tensor: UncompressedTensor) -> dict[str, Any]:
    return {name: getattr(tensor, name) for name in UncompressedTensor.__dataclass_fields__}


# ---- two checkpoints ----


def compare(server: Server, one: Path, other: Path) -> Heard:
    return Socket(server, inside(server, one), other=inside(server, other)).all()


def test_two_checkpoints_are_compared_tensor_by_tensor_as_numpy_does(server: Server, folder: Path) -> None:
    torch.manual_seed(0)
    base = {
        "a.weight": torch.randn(40, 30), "half.weight": torch.randn(16, 8).half(), "same.weight": torch.randn(5, 5),
        "zero.weight": torch.zeros(3, 3), "bias": torch.randn(40), "steps": torch.arange(6), "old": torch.ones(2),
        "reshaped": torch.ones(2, 3), "nan.weight": torch.tensor([[1.0, float("nan")]]),
    }  # fmt: skip
    tuned = {name: tensor.clone() for name, tensor in base.items() if name != "old"}
    tuned["a.weight"] += 0.1 * torch.randn(40, 30)
    tuned["a.weight"][base["a.weight"].abs() < 0.5] = 0
    tuned["half.weight"] = (base["half.weight"].float() * (1 + 1e-4)).bfloat16()
    tuned["zero.weight"][1, 1] = 1
    tuned["bias"][7] = 3
    tuned |= {"new": torch.ones(4), "reshaped": torch.ones(3, 2)}
    save_file(base, folder / "base.safetensors")
    save_file(tuned, folder / "tuned.safetensors")
    for heard in (compare(server, folder / "base.safetensors", folder / "tuned.safetensors") for _ in range(2)):
        (header,) = heard.of("comparison")
        assert header["titles"] == ["base", "tuned"]
        assert header["only"] == [["old"], ["new"]]
        assert header["reshaped"] == [["reshaped", [2, 3], [3, 2]]]
        dtypes = {tensor["name"]: tensor["dtypes"] for tensor in header["tensors"]}
        assert dtypes["half.weight"] == ["F16", "BF16"]
        found = {message["name"]: message for message in heard.of("tensor")}
        assert found.keys() == dtypes.keys() == base.keys() & tuned.keys() - {"reshaped"}
        for name, message in found.items():
            a, b = (state[name].double().numpy() for state in (base, tuned))
            assert message["n"] == a.size
            assert message["changed"] == int((a != b).sum())
            assert message["zeros"] == [int((a == 0).sum()), int((b == 0).sum())]
            if name not in ("zero.weight", "nan.weight"):
                expected = np.linalg.norm(a - b) / np.linalg.norm(a)
                assert message["change"] == pytest.approx(expected, rel=1e-12)
                edges = np.linspace(-message["span"], message["span"], 82)
                edges[0], edges[-1] = -np.inf, np.inf
                assert message["counts"] == [np.histogram(x, edges)[0].tolist() for x in (a, b)]
        assert found["zero.weight"]["change"] == "inf"
        assert found["nan.weight"]["change"] == "nan"
        assert found["same.weight"]["change"] == 0
    assert heard.of("ready") == []


def test_a_quantized_checkpoint_is_compared_by_what_it_stands_for(server: Server, folder: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 256), dtype=np.float32)
    kind = gguf.GGMLQuantizationType.Q8_0
    stored = gguf.quantize(weights, kind)
    for name, data, raw in (("plain", weights, None), ("quantized", stored, kind)):
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama")
        writer.add_tensor("blk.0.weight", data, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    heard = compare(server, folder / "plain.gguf", folder / "quantized.gguf")
    assert heard.of("comparison")[0]["tensors"][0]["dtypes"] == ["F32", "Q8_0"]
    (found,) = heard.of("tensor")
    difference = weights - gguf.dequantize(stored, kind)
    expected = np.linalg.norm(difference) / np.linalg.norm(weights)
    assert found["change"] == pytest.approx(float(expected), rel=1e-5)


def test_the_other_checkpoint_must_be_in_the_root_and_readable(server: Server, many: Path, tmp_path: Path) -> None:
    save_file(matrices(1), tmp_path / "outside.safetensors")
    (many.parent / "torn.safetensors").write_bytes(b"torn")
    for path, sentence in (
        (os.path.relpath(tmp_path / "outside.safetensors", server.folder), "not in the folder of this server"),
        (f"{many.parent.name}/torn.safetensors", "too short for a safetensors file"),
    ):
        (failed,) = Socket(server, inside(server, many), other=path).all().of("failed")
        assert sentence in failed["message"]


# ---- the cache ----


def test_a_second_opening_answers_from_the_cache_until_the_file_changes(server: Server, many: Path) -> None:
    first = look(server, many).sketch().encode()
    again = look(server, many)
    assert again.of("ready") == []  # no process was started for it
    assert again.sketch().encode() == first
    (many.parent / "other.safetensors").write_bytes(many.read_bytes())
    state = matrices(2)
    save_file(state, many)
    assert look(server, many).sketch().encode() == sw.sketch(many).encode() != first


def in_cache(folder: Path, key: str) -> bytes | None:
    found = sketch_cache.read(folder, key)
    return None if found is None else b"".join(found)


def put(folder: Path, key: str, data: bytes) -> None:
    entry = sketch_cache.Entry(folder, key)
    entry.write(data)
    entry.keep()


def test_damaged_entries_are_not_answered_with(tmp_path: Path) -> None:
    put(tmp_path, "key", b"frames" * 1000)
    assert in_cache(tmp_path, "key") == b"frames" * 1000
    whole = (tmp_path / "key").read_bytes()
    for damaged in (b"", whole[:-1], whole[:40], whole[:10] + b"x" + whole[11:], whole + b"x", bytes(31)):
        (tmp_path / "key").write_bytes(damaged)
        assert in_cache(tmp_path, "key") is None
    assert in_cache(tmp_path, "other") is None


def test_the_cache_is_bounded_and_forgets_what_was_not_used_for_longest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sketch_cache, "MAX_BYTES", 3000)
    for i, key in enumerate(("a", "b", "c")):
        put(tmp_path, key, bytes(900))
        os.utime(tmp_path / key, (i, i))
    assert in_cache(tmp_path, "a") is not None  # which is a use
    (tmp_path / "abandoned.part").write_bytes(b"")
    os.utime(tmp_path / "abandoned.part", (0, 0))
    put(tmp_path, "d", bytes(900))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]
    entry = sketch_cache.Entry(tmp_path, "dropped")
    entry.write(bytes(100))
    entry.drop()
    entry.keep()
    assert not (tmp_path / "dropped").exists()


def test_a_folder_that_cannot_be_written_to_only_means_no_cache(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    put(tmp_path / "file" / "cache", "key", b"frames")
    assert in_cache(tmp_path / "file" / "cache", "key") is None
    (tmp_path / "taken").mkdir()
    put(tmp_path, "taken", b"frames")
    assert in_cache(tmp_path, "taken") is None


# ---- who gets it ----


@contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(websocket.WebSocketBadStatusException) as told:
        yield
    assert told.value.status_code == status


def test_without_a_token_or_from_another_page_no_socket_opens(server: Server, folder: Path) -> None:
    path = inside(server, demo(folder))
    for token in ("", "wrong"):
        with refused(403):
            Socket(server, path, token)
    # a token is a script's; a browser sends a cookie, with whatever page it shows
    with urllib.request.urlopen(f"{server.url}api/status?token={server.token}") as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    with refused(403):
        Socket(server, path, "", cookie=cookie, suppress_origin=False, origin="http://elsewhere.example")
    page = Socket(server, path, "", cookie=cookie, suppress_origin=False, origin=server.url.rstrip("/"))
    assert len(page.all().layers) == 14


def test_who_may_not_read_files_may_not_look_at_weights(tmp_path: Path) -> None:
    (tmp_path / "server_of_the_tests.py").write_text(AUTHORIZER)
    running = start(tmp_path, "--ServerApp.authorizer_class=server_of_the_tests.NobodyReadsFiles")
    try:
        with refused(403):
            Socket(running, inside(running, demo(running.folder)))
    finally:
        stop(running)


def test_no_path_leads_out_of_the_root(server: Server, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    save_file({"secret": torch.zeros(2, 2)}, outside)
    (folder / "link.safetensors").symlink_to(outside)
    save_sharded(folder)
    (folder / FIRST).rename(tmp_path / FIRST)
    (folder / FIRST).symlink_to(tmp_path / FIRST)
    up = os.path.relpath(outside, server.folder)
    for path in (up, f"{folder.name}/link.safetensors", f"{folder.name}/../{up}", "..", ""):
        assert "not in the folder of this server" in failure(server, path)
    assert "there is no file" in failure(server, str(outside))  # in the root, that is
    assert "leads out of the folder of this server" in failure(server, folder)


# ---- what goes wrong ----


def test_nan_in_one_layer_is_told_of_that_layer_and_the_rest_is_shown(server: Server, folder: Path) -> None:
    state = matrices(4)
    state["layers.2.weight"][3, 5] = float("nan")
    save_file(state, folder / "nan.safetensors")
    for heard in (look(server, folder / "nan.safetensors"), look(server, folder / "nan.safetensors")):
        (failed,) = heard.of("layer_failed")
        assert failed["name"] == failed["tensor"]["name"] == "layers.2.weight"
        assert "has 1 weight that is NaN or infinite" in failed["message"]
        assert sorted(heard.order) == ["layers.0.weight", "layers.1.weight", "layers.3.weight"]
        sketch = heard.sketch()
        assert [tensor.name for tensor in sketch.uncompressed] == ["layers.2.weight"]
        assert sw.estimate(sketch, bits=4).nbytes > state["layers.2.weight"].nbytes


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1000)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")


def deleted(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "change, sentence",
    [(cut_short, "has been changed since"), (overwritten, "has been changed since"), (deleted, "there is no file")],
)
def test_a_file_that_changes_meanwhile_ends_in_one_sentence(
    server: Server, many: Path, change: Callable[[Path], None], sentence: str
) -> None:
    page = paused(server, many)
    change(many)
    page.send(pause=False)
    (failed,) = page.all().of("failed")
    assert "can no longer be read" in failed["message"]
    assert sentence in failed["message"]
    assert str(server.folder) not in failed["message"]
    wait_until(lambda: not workers(server))


def test_files_without_weights_to_look_at_are_told_so(server: Server, folder: Path) -> None:
    save_file({"a": torch.zeros(3)}, folder / "biases.safetensors")
    assert "nothing to compress in biases" in failure(server, folder / "biases.safetensors")
    sw.compress(sw.demo.model(), bits=4).save(folder / "packed.safetensors")
    assert "is a packed model of shrinkwidget" in failure(server, folder / "packed.safetensors")
    torch.save({}, folder / "model.pt")
    assert "pickle" in failure(server, folder / "model.pt")
    (folder / "torn.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{}")
    assert "only 2 follow" in failure(server, folder / "torn.safetensors")
    assert "there is no file" in failure(server, folder / "nowhere.safetensors")
    save_sharded(folder)
    (folder / SECOND).unlink()
    assert "cannot be opened whole" in failure(server, folder)


def test_a_gguf_file_of_empty_blocks_is_looked_at(server: Server, folder: Path) -> None:
    write_gguf(folder / "tiny.gguf")
    heard = look(server, folder / "tiny.gguf")
    assert "token_embd.weight" in heard.order
    assert "blk.0.TQ2_0.weight" not in heard.order


def test_closing_the_socket_ends_the_worker(server: Server, many: Path) -> None:
    page = paused(server, many)
    (worker,) = workers(server)
    page.close()
    wait_until(lambda: not worker.is_running())
    assert workers(server) == []


def test_a_killed_worker_is_told_of_and_the_server_goes_on(server: Server, many: Path) -> None:
    page = paused(server, many)
    (worker,) = workers(server)
    worker.send_signal(signal.SIGKILL)
    (failed,) = page.all().of("failed")
    assert "was ended by signal 9" in failed["message"]
    assert server.process.poll() is None
    assert len(look(server, many).layers) == 60


def test_two_sockets_on_one_file_both_hear_all_and_a_third_waits_its_turn(server: Server, many: Path) -> None:
    sockets = [paused(server, many) for _ in range(2)]
    third = Socket(server, inside(server, many))
    third.until("queued")
    fourth = Socket(server, inside(server, many))
    fourth.until("queued")
    assert (third.heard.messages[-1]["place"], fourth.heard.messages[-1]["place"]) == (1, 2)
    third.close()
    assert fourth.next() == {"state": "queued", "place": 1}
    for page in sockets:
        page.send(pause=False)
    first, second = (page.all().sketch().encode() for page in sockets)
    assert first == second
    assert fourth.all().sketch().encode() == first
    wait_until(lambda: not workers(server))


def test_a_worker_ends_with_the_server(tmp_path: Path) -> None:
    running = start(tmp_path)
    save_file(matrices(2), running.folder / "two.safetensors")
    paused(running, running.folder / "two.safetensors")
    (worker,) = workers(running)
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[Server]:
    """Return a server whose administrator allows less than usual."""
    running = start(tmp_path, "--ShrinkwidgetLimits.memory=3000000000", "--ShrinkwidgetLimits.at_once=1")
    yield running
    stop(running)


def test_a_page_asks_for_narrower_limits_and_gets_no_wider_ones_than_the_server_has(limited: Server) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [15_000, 10_000], "data_offsets": [0, 600_000_000]}}).encode()
    path = limited.folder / "large.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, path.stat().st_size + 600_000_000)  # sparse: it takes no place on the disk
    for asked, most in ((64 * 2**30, "1,500,000,000"), (2**31, "1,073,741,824"), (1, "1,073,741,824")):
        (failed,) = Socket(limited, path.name, limits={"memory": asked}).all().of("layer_failed")
        assert f"takes 1,800,000,000 bytes of memory, more than {most}" in failed["message"]
    for name in ("memory", "seconds"):
        for text in ("-1", "many", "1e9", ""):
            (failed,) = Socket(limited, path.name, limits={name: text}).all().of("failed")
            assert f"{name} must be a whole number" in failed["message"]
    save_file(matrices(60), limited.folder / "many.safetensors")
    page = Socket(limited, "many.safetensors", limits={"seconds": 2})
    page.send(pause=True)
    waiting = Socket(limited, "many.safetensors")
    (failed,) = page.all().of("failed")
    assert failed["message"].startswith("looking at 'many.safetensors' took longer than 2 s")
    assert len(waiting.all().layers) == 60


def test_the_worker_stays_small(tmp_path: Path) -> None:
    state = {f"layers.{i}.weight": torch.full((1024, 2048), float(i)) for i in range(30)}
    save_file(state, tmp_path / "large.safetensors")
    code = (
        "import resource, subprocess, sys\n"
        "pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}\n"
        "command = [sys.executable, '-P', '-m', 'shrinkwidget.server.sketch_worker_program', *sys.argv[1:]]\n"
        "worker = subprocess.Popen(command, **pipes)\n"
        "worker.stdin.write(b'{}\\n')\n"
        "worker.stdin.flush()\n"  # and left open: the worker ends with it
        "said = worker.stdout.read()\n"
        "worker.wait()\n"
        "print(b'\"done\"' in said, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    cache = tmp_path / secrets.token_hex(4)
    command = [sys.executable, "-c", code, str(tmp_path), str(cache), str(8 * 2**30), "large.safetensors"]
    done, kilobytes = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert done == "True"
    assert int(kilobytes) * 1024 < 420e6  # torch alone takes 230, the file 250


def test_a_turn_goes_past_those_who_were_cancelled_in_the_same_moment() -> None:
    async def cancelled_before_the_first_leaves() -> list[str]:
        turns, had = Turns(1), list[str]()
        async with turns.turn(lambda _place: None):

            async def wait() -> None:
                async with turns.turn(lambda _place: None):
                    had.append("second")

            second = asyncio.create_task(wait())
            await asyncio.sleep(0)
            second.cancel()  # and it has not run again when the first leaves
        with pytest.raises(asyncio.CancelledError):
            await second
        async with turns.turn(lambda _place: None):
            had.append("third")
        return had

    assert asyncio.run(asyncio.wait_for(cancelled_before_the_first_leaves(), 5)) == ["third"]
