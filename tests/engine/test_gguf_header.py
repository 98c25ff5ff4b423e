"""Headers of GGUF files: those the gguf package writes, and those that nobody should."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from shrinkwidget.analysis.gguf_header import GGML_TYPES, GGUFArray, read_gguf_header
from shrinkwidget.errors import FileError

QUANTIZED = ("Q4_0", "Q5_1", "Q8_0", "Q4_K", "TQ2_0")


def write_gguf(path: Path, endianess: gguf.GGUFEndian = gguf.GGUFEndian.LITTLE) -> Path:
    """Write a model of plain and quantized tensors, with metadata of every type, as llama.cpp's own package does."""
    writer = gguf.GGUFWriter(path, "llama", endianess=endianess)
    writer.add_name("tiny")
    writer.add_uint32("llama.block_count", 2)
    writer.add_uint64("big", 2**63)
    writer.add_int8("small", -3)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("yes", True)
    writer.add_array("tokenizer.ggml.tokens", [f"token {i}" for i in range(2000)])
    writer.add_array("tokenizer.ggml.scores", [float(i) for i in range(2000)])
    rng = np.random.default_rng(0)
    writer.add_tensor("token_embd.weight", rng.standard_normal((6, 256), dtype=np.float32))
    writer.add_tensor("blk.0.attn_norm.weight", np.ones(256, dtype=np.float16))
    for name in QUANTIZED:
        kind = gguf.GGMLQuantizationType[name]
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        # the package quantizes to some types only; the bytes themselves do not matter to a header
        writer.add_tensor(f"blk.0.{name}.weight", np.zeros((4, 512 // block * nbytes), dtype=np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_types_are_those_of_the_gguf_package() -> None:
    sizes = {kind.value: (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in gguf.GGMLQuantizationType}
    assert sizes == GGML_TYPES


@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_a_file_of_the_gguf_package_is_read_as_the_package_reads_it(tmp_path: Path, order: str) -> None:
    path = write_gguf(tmp_path / "tiny.gguf", gguf.GGUFEndian[order])
    header = read_gguf_header(path)
    reader = gguf.GGUFReader(path)
    assert list(header.tensors) == [tensor.name for tensor in reader.tensors]
    for tensor in reader.tensors:
        found = header.tensors[tensor.name]
        assert found.dtype == tensor.tensor_type.name
        assert found.shape == tuple(int(n) for n in tensor.shape[::-1])
        assert (found.begin, found.end - found.begin) == (tensor.data_offset, tensor.n_bytes)
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["big"] == 2**63
    assert header.metadata["small"] == -3
    assert header.metadata["yes"] is True
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert tokens == GGUFArray("string", 2000, tuple(f"token {i}" for i in range(8)))
    assert header.metadata["tokenizer.ggml.scores"] == GGUFArray("float32", 2000, tuple(map(float, range(8))))


# ---- handmade files ----


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def tensor(name: str | bytes, shape: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
    return text(name) + axes + struct.pack("<IQ", kind, offset)


def gguf_bytes(
    *, keys: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: int = 64, version: int = 3, **counts: int
) -> bytes:
    counted = struct.pack("<QQ", counts.get("tensor_count", len(tensors)), counts.get("key_count", len(keys)))
    header = b"GGUF" + struct.pack("<I", version) + counted + b"".join(keys) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data)


def nested(depth: int) -> bytes:
    return struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 4, 0)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "only 0 bytes long"),
    "another format": (b"GGJT" + bytes(40), "begins with b'GGJT'"),
    "version 1": (gguf_bytes(version=1), "format version is 1;"),
    "a version to come": (gguf_bytes(version=4), "format version is 4;"),
    "more tensors than bytes": (gguf_bytes(tensor_count=2**63), "should hold 9,223,372,036,854,775,808 tensors"),
    "more keys than bytes": (gguf_bytes(key_count=2**40), "1,099,511,627,776 keys"),
    "one key too many": (gguf_bytes(keys=(key("a", 4, bytes(4)),), key_count=2), "a key of its metadata is empty"),
    "cut in its keys": (gguf_bytes(keys=(key("a", 8, text("b" * 99)),))[:90], "cut short"),
    "an endless key": (gguf_bytes(keys=(struct.pack("<Q", 2**62),)), "more than the 65,535 that can be"),
    "an endless text": (gguf_bytes(keys=(key("a", 8, struct.pack("<Q", 2**40)),)), "1,099,511,627,776 bytes long"),
    "an endless array": (gguf_bytes(keys=(key("a", 9, struct.pack("<IQ", 4, 2**60)),)), "items, more than"),
    "a deep array": (gguf_bytes(keys=(key("a", 9, nested(3000)),)), "nests arrays more than 4 deep"),
    "an unknown type of key": (gguf_bytes(keys=(key("a", 99, bytes(8)),)), "unknown type 99"),
    "an array of an unknown type": (gguf_bytes(keys=(key("a", 9, struct.pack("<IQ", 77, 1)),)), "unknown type 77"),
    "a bool that is neither": (gguf_bytes(keys=(key("a", 7, b"\2"),)), "a bool of the value 2"),
    "a key twice": (gguf_bytes(keys=(key("a", 4, bytes(4)),) * 2), "the key 'a' twice"),
    "a key that is no text": (gguf_bytes(keys=(key(b"\xff", 4, bytes(4)),)), "is not UTF-8"),
    "no alignment": (gguf_bytes(keys=(key("general.alignment", 4, bytes(4)),)), "general.alignment is 0"),
    "an odd alignment": (gguf_bytes(keys=(key("general.alignment", 4, struct.pack("<I", 12)),)), "is 12; expected"),
    "a tensor twice": (gguf_bytes(tensors=(tensor("a"), tensor("a", offset=32))), "the tensor 'a' twice"),
    "a name that is no text": (gguf_bytes(tensors=(tensor(b"\xc3("),)), "is not UTF-8"),
    "many dimensions": (gguf_bytes(tensors=(tensor("a", (1,) * 9),)), "9 dimensions"),
    "an impossible size": (gguf_bytes(tensors=(tensor("a", (2**40, 2**40)),)), "more than any memory holds"),
    "an unknown type": (gguf_bytes(tensors=(tensor("a", kind=4),)), "type 4 of ggml"),
    "half a block": (gguf_bytes(tensors=(tensor("a", (16,), kind=2),)), "no multiple of Q4_0's 32"),
    "an unaligned tensor": (gguf_bytes(tensors=(tensor("a", offset=8),)), "no multiple of 32"),
    "overlapping tensors": (gguf_bytes(tensors=(tensor("a", (16,)), tensor("b", offset=32))), "share 32 bytes"),
    "cut short": (gguf_bytes(tensors=(tensor("a", (64,)),), data=100), "156 bytes are missing"),
    "far beyond the end": (gguf_bytes(tensors=(tensor("a", offset=2**63),)), "missing at the end"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    data, expected = BAD[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(FileError) as told:
        read_gguf_header(path)
    message = str(told.value)
    assert expected in message
    assert message.startswith(f"'{path}' is not a readable GGUF file: ")
    assert len(message.splitlines()) == 1


def test_a_vocabulary_without_tensors_and_a_scalar_are_read(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(gguf_bytes(keys=(key("text", 8, text(b"\xff!")), key("deep", 9, nested(2))), data=0))
    assert read_gguf_header(path).metadata == {
        "text": "\ufffd!",
        "deep": GGUFArray("array", 1, (GGUFArray("array", 1, (GGUFArray("uint32", 0, ()),)),)),
    }
    path.write_bytes(gguf_bytes(tensors=(tensor("scalar", ()),)))
    assert read_gguf_header(path).tensors["scalar"].shape == ()


def test_damaged_headers_are_read_or_refused(tmp_path: Path) -> None:
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    start = whole.index(b"token_embd.weight")  # keys, and the tensors after the long vocabulary
    rng, path = random.Random(0), tmp_path / "damaged.gguf"
    refused = 0
    for _ in range(1000):
        path.write_bytes(damaged(whole, rng, [(0, 300), (start - 8, start + 500)]))
        try:
            read_gguf_header(path)
        except FileError:  # and nothing else
            refused += 1
    assert 300 < refused <= 1000


def damaged(whole: bytes, rng: random.Random, places: list[tuple[int, int]]) -> bytes:
    """Return a file with a few bytes of some places changed, left out, put in, or with its end cut off."""
    data = bytearray(whole)
    changes: list[Callable[[int], Any]] = [
        lambda at: data.__setitem__(at, rng.randrange(256)),
        lambda at: data.__setitem__(at, data[at] ^ (1 << rng.randrange(8))),
        lambda at: data.__setitem__(slice(at, at + 8), rng.choice([b"\xff" * 8, bytes(8), bytes(7) + b"\x80"])),
        lambda at: data.__delitem__(slice(at, at + rng.randrange(1, 9))),
        lambda at: data.__setitem__(slice(at, at), rng.randbytes(rng.randrange(1, 9))),
        lambda at: data.__delitem__(slice(at, None)),
    ]
    for _ in range(rng.randrange(1, 4)):
        begin, end = rng.choice(places)
        at = min(rng.randrange(begin, end), len(data) - 1)
        if at >= 0:
            rng.choice(changes)(at)
    return bytes(data)
