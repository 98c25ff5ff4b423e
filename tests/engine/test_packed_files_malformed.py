"""A file that is not what it claims to be is refused with one clear sentence: never a crash, never half a model."""

from __future__ import annotations

import base64
import json
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from shrinkwidget.compression.encode_layers_and_packed_model import PackedModel
from shrinkwidget.errors import FileError
from shrinkwidget.files import entropy_coded_bytes, file_parts, read, save
from shrinkwidget.files.write_packed_file import file_crc
from shrinkwidget.recipe_and_method_registry import Keep, Recipe

from .packed_file_helpers import Net, described, describing, packed, parts_of, rebuilt, same, state_dicts

RECIPE = Recipe(sparsity=0.6, bits=3, granularity=4, layers={"conv": {"bits": 4, "symmetric": False}})
CODEBOOK = Recipe(sparsity=0.95, bits=2, quantizer="kmeans", layers={"table": Keep})


def data_of(model: PackedModel, entropy: bool) -> bytes:
    return b"".join(bytes(part) for part in file_parts(model, entropy))


@pytest.fixture(scope="module", params=["plain", "entropy", "codebook"])
def model(request: pytest.FixtureRequest) -> tuple[bytes, dict[str, Tensor]]:
    """Return a small file's bytes and the weights it holds."""
    net = Net()
    small = packed(net, CODEBOOK.with_(layers={}) if request.param == "codebook" else RECIPE)
    data = data_of(small, request.param == "entropy")
    assert (parts_of(data)[0]["format"] == "shrinkwidget-z") == (request.param == "entropy")
    return data, small.state_dict()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "small.safetensors"


def load(path: Path, data: bytes) -> PackedModel:
    path.write_bytes(data)
    return read(path)


def refusal(path: Path, data: bytes) -> str:
    """Return the one sentence with which bytes are refused."""
    with pytest.raises(FileError) as caught:
        load(path, data)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


# What is no packed model at all


def test_a_path_that_is_not_there_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"there is no file .*nothing"):
        read(tmp_path / "nothing")
    with pytest.raises(FileError, match="it is a folder"):
        read(tmp_path)


def test_a_pickle_is_refused_with_the_reason(path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(FileError, match="pickles can run code when they are read"):
        read(path)
    path.with_suffix(".pt").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(FileError, match="is a pickle"):
        read(path.with_suffix(".pt"))
    torch.save({"w": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(FileError, match="is a pickle"):
        read(path)


@pytest.mark.parametrize("length", [0x280, 0x4B50])
def test_a_header_whose_length_reads_like_a_pickle_is_none(tmp_path: Path, length: int) -> None:
    """A file begins with the length of its header, which may be spelled like the first bytes of a pickle or a zip."""
    plain = len(data_of(packed({"w": torch.ones(2, 2)}, Recipe(layers={"w": Keep})), entropy=False)) - 8 - 16
    model = packed({"w": torch.ones(2, 2)}, Recipe(layers={"w" + "*" * (length - plain): Keep}))
    path = tmp_path / "small.bin"
    save(model, path)
    assert path.read_bytes()[:2] in (b"\x80\x02", b"PK")
    assert same(read(path).state_dict(), model.state_dict())


def test_a_plain_safetensors_file_names_its_reader(path: Path) -> None:
    save_file({"w": torch.zeros(2, 2)}, path)
    with pytest.raises(FileError, match=r"not a packed model .*: read it with safetensors.torch.load_file"):
        read(path)
    save_file({"w": torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(FileError, match=r"safetensors.torch.load_file"):
        read(path)


@pytest.mark.parametrize(
    "data, sentence",
    [
        (b"", "too short"),
        (b"{}", "too short"),
        (b"\xff" * 8, "cut short, or not a safetensors file"),
        (b"\x00" * 64, "not JSON"),
        (b"\x02" + bytes(7) + b"[]", "not a JSON object"),
        (b"\x04" + bytes(7) + b"null", "not a JSON object"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not JSON"),
        (struct.pack("<Q", 20_000) + b'{"a":' + b"9" * 19_994 + b"}", "not JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
    ],
)
def test_bytes_of_something_else(path: Path, data: bytes, sentence: str) -> None:
    assert sentence in refusal(path, data)


# Damage: what happens to files


def test_a_file_cut_short_anywhere_is_refused(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = model
    for length in range(len(data)):
        assert "short" in refusal(path, data[:length])


def test_a_file_with_something_after_it_is_refused(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    assert "follow after its last section" in refusal(path, model[0] + b"\0")


def test_every_single_bit_matters(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    data, _ = model
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        refusal(path, bytes(damaged))


@settings(max_examples=300)
@given(damage=st.data())
def test_random_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, model: tuple[bytes, dict[str, Tensor]], damage: st.DataObject
) -> None:
    data, state = bytearray(model[0]), model[1]
    for _ in range(damage.draw(st.integers(1, 4))):
        begin = damage.draw(st.integers(0, len(data)))
        end = damage.draw(st.integers(begin, min(len(data), begin + 40)))
        data[begin:end] = damage.draw(st.one_of(st.binary(max_size=40), st.just(bytes(data[end : end + 9]))))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    with suppress(FileError):
        assert same(read(path).state_dict(), state)


# Forgery: everything checked even where header and checksum agree


def with_header(data: bytes, change: Callable[[dict[str, Any]], Any], text: Callable[[str], str] = str) -> bytes:
    """Return the file with its JSON header changed, the checksum of the new texts in it if it still has them."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    new = text(json.dumps(header, separators=(",", ":"), ensure_ascii=False)).encode()
    new += b" " * (-len(new) % 8)
    return len(new).to_bytes(8, "little") + new + data[8 + length :]


def as_it_is(_: dict[str, Any]) -> None:
    """Change nothing."""


def meta(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header["__metadata__"].update(changes)


def section(name: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[name].update(changes)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (meta(format="pt"), "read it with safetensors.torch.load_file"),
        (meta(format="shrinkwidget-sketch"), "not a packed model"),
        (meta(version="4"), "newer than 3: upgrade shrinkwidget"),
        (meta(version="2"), "from before the first release: compress the model again"),
        (meta(version="99999999"), "upgrade shrinkwidget"),
        (meta(version="0"), "format version is '0'"),
        (meta(version="1.0"), "format version is '1.0'"),
        (meta(version="١"), "format version is"),
        (meta(version=1), "not an object of texts"),
        (meta(crc32="00000000"), "checksum does not match"),
        (meta(note="hello"), "unknown key 'note'"),
        (meta(recipe="\ud800"), "not JSON"),
        (lambda header: header["__metadata__"].pop("crc32"), "lacks crc32"),
        (lambda header: header["__metadata__"].pop("recipe"), "lacks recipe"),
        (lambda header: header["__metadata__"].pop("version"), "format version is ''"),
        (lambda header: header.pop("__metadata__"), "not a packed model"),
        (lambda header: header.update(__metadata__=[]), "not an object of texts"),
        (lambda header: header.pop("mask"), "its sections are counts, codes, scales, rest; expected"),
        (lambda header: header.update(extra=header["rest"]), "its sections are"),
        (lambda header: header.update(counts=header.pop("counts")), "in that order"),
        (lambda header: header.update(codes=7), "has no data_offsets"),
        (section("codes", data_offsets=[0]), "has no data_offsets"),
        (section("codes", data_offsets=["0", "1"]), "has no data_offsets"),
        (section("codes", data_offsets=[0.0, 1.0]), "has no data_offsets"),
        (section("codes", data_offsets=[0, 8]), "it should begin at"),
        (section("counts", data_offsets=[0, -4]), "it should begin at 0"),
        (section("counts", dtype="F32"), "not of dtype U8"),
        (section("counts", shape=[1]), "not of dtype U8 and shape"),
        (section("counts", shape=[]), "not of dtype U8 and shape"),
        (section("counts", more=1), "another program has changed the file"),
        (section("rest", data_offsets=[10**30, 10**30]), "it should begin at"),
    ],
)
def test_every_field_of_the_header_is_checked(
    path: Path, model: tuple[bytes, dict[str, Tensor]], change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    if sentence == "not JSON":  # half of a surrogate pair can only be written as an escape
        changed = with_header(model[0], meta(recipe="@"), lambda text: text.replace('"@"', '"\\ud800"'))
    else:
        changed = with_header(model[0], change)
    assert sentence in refusal(path, changed)


def test_a_last_section_longer_than_the_file_is_cut_short(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    def longer(header: dict[str, Any]) -> None:
        begin, end = header["rest"]["data_offsets"]
        header["rest"] |= {"data_offsets": [begin, end + 2**62], "shape": [end - begin + 2**62]}

    assert "cut short: 4,611,686,018,427,387,904 bytes are missing" in refusal(path, with_header(model[0], longer))


def test_a_key_that_stands_twice_is_refused(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    twice = with_header(model[0], as_it_is, lambda text: text.replace("{", '{"mask":{},', 1))
    assert "the key 'mask' twice" in refusal(path, twice)
    inside = with_header(model[0], as_it_is, lambda text: text.replace('"version"', '"format":"x","version"'))
    assert "the key 'format' twice" in refusal(path, inside)


def test_a_header_written_in_another_way_is_refused(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    spaced = with_header(model[0], as_it_is, lambda text: text.replace('"codes":', '"codes": '))
    assert "another program has changed the file" in refusal(path, spaced)


@pytest.mark.parametrize(
    "recipe, sentence",
    [
        ("nonsense", "its recipe cannot be read"),
        ("[" * 100_000, "its recipe cannot be read"),
        ("{}", "its recipe cannot be read"),
        ('{"format":"shrinkwidget-recipe","version":3}', "upgrade shrinkwidget"),
        ('{"format":"shrinkwidget-recipe","version":2,"bits":9}', "its recipe cannot be read"),
        ('{"format":"shrinkwidget-recipe","version":2,"layers":{"other":"keep"}}', "does not fit its tensors"),
        ('{"format":"shrinkwidget-recipe","version":2,"bits":8}', "its section"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(
    path: Path, model: tuple[bytes, dict[str, Tensor]], recipe: str, sentence: str
) -> None:
    assert sentence in refusal(path, rebuilt(model[0], recipe))


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("!", "not base64"),
        ("QUJD", "not base64 of zlib"),
        (describing([])[:-8], "is cut short"),
        (describing({}), "not a list"),
        (describing([7]), "describes a tensor as 7"),
        (describing([["w", [2, 2], "float32"]]), "describes a tensor as"),
        (describing([[1, [2, 2], "float32", 1]]), "describes a tensor as"),
        (describing([["w", [2, 2], "float32", 1, 5]]), "describes a tensor as"),
        (describing([["w", "2x2", "float32", 1]]), "the shape '2x2'"),
        (describing([["w", [2, -2], "float32", 1]]), "the shape [2, -2]"),
        (describing([["w", [2, True], "float32", 1]]), "the shape"),
        (describing([["w", [2, 2.0], "float32", 1]]), "the shape"),
        (describing([["w", [1] * 65, "float32", 1]]), "the shape"),
        (describing([["w", [2**40, 2**40], "float32", 1]]), "more than any memory holds"),
        (describing([["w", [0, 2**63], "float32", 0]]), "more than any memory holds"),
        (describing([["w", [2, 2], "object", 1]]), "the dtype 'object'"),
        (describing([["w", [2, 2], ["float32"], 1]]), "the dtype"),
        (describing([["w", [2, 2], "float32", 4]]), "the flags 4"),
        (describing([["w", [2, 2], "float32", -1]]), "the flags -1"),
        (describing([["w", [2, 2], "float32", True]]), "the flags True"),
        (describing([["w", [4], "float32", 1]]), "the flags 1"),
        (describing([["w", [0, 4], "float32", 1]]), "the flags 1"),
        (describing([["w", [2, 2], "int64", 1]]), "the flags 1"),
        (describing([["w", [2, 2], "int64", 2]]), "the flags 2"),
        (describing([["w", [2, 2], "bfloat16", 1]]), "the flags 1"),
        (describing([["w", [2, 2], "float32", 1], ["w", [2], "float32", 0]]), "names the tensor 'w' twice"),
        (describing([["w", [2, 2], "float32", 1, "w"]]), "names the tensor 'w' twice"),
        (describing([["w", [2, 3], "float32", 1, ["v", [1], [3, 2]]]]), "ties 'v' to 'w' by the view"),
        (describing([["w", [2, 3], "float32", 1, ["v", [1, 0], [3, 3]]]]), "ties 'v' to 'w' by the view"),
        (describing([["w", [2, 3], "float32", 1, ["v", [1, 0], [-3, -2]]]]), "ties 'v' to 'w' by the view"),
        (describing([["w", [2, 3], "float32", 1, ["v", [0, 1], [2, 3]]]]), "ties 'v' to 'w' by the view"),
        (describing([["w", [2, 3], "float32", 1, ["v", "10", [3, 2]]]]), "ties 'v' to 'w' by the view"),
        (describing([["w", [2, 3], "float32", 1, ["w", [1, 0], [3, 2]]]]), "names the tensor 'w' twice"),
        (describing([["w", [2, 3], "float32", 1, ["v", [1, 0]]]]), "describes a tensor as"),
        (describing("[" * 100_000), "not a list"),
        (describing([["w" * 10_000_000, [2, 2], "float32", 1]]), "unfolds to far more"),
    ],
)
def test_a_structure_that_describes_no_model_is_refused(path: Path, text: str, sentence: str) -> None:
    data = data_of(packed({"w": torch.ones(2, 2)}, Recipe()), entropy=False)
    assert sentence in refusal(path, rebuilt(data, None, text))


def test_a_structure_of_other_tensors_is_refused(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    items = described(model[0])
    items.remove(next(item for item in items if item[0] == "conv.weight"))
    assert "does not fit" in refusal(path, rebuilt(model[0], RECIPE.to_json(), describing(items)))
    assert "its section 'counts'" in refusal(path, rebuilt(model[0], Recipe(bits=3).to_json(), describing(items)))
    items = described(model[0])
    items[-1][1] = [12]
    assert "its section 'rest'" in refusal(path, rebuilt(model[0], None, describing(items)))


def with_counts(data: bytes, change: Callable[[np.ndarray[Any, Any]], Any]) -> bytes:
    counts = np.frombuffer(parts_of(data)[1]["counts"], "<u4").copy()
    change(counts)
    return rebuilt(data, counts=counts.tobytes())


def test_counts_are_checked(path: Path, model: tuple[bytes, dict[str, Tensor]]) -> None:
    data, state = model
    assert "keeps 4,294,967,295 of its 88 weights" in refusal(path, with_counts(data, lambda c: c.fill(2**32 - 1)))
    assert "keeps 89 of its 88" in refusal(path, with_counts(data, lambda c: c.put(0, 89)))
    for other in range(88):
        with suppress(FileError):  # among the zeros of a layer without a mask, more may count as kept
            assert same(load(path, with_counts(data, partial(np.put, ind=0, v=other))).state_dict(), state)
    assert "its section 'counts'" in refusal(path, rebuilt(data, counts=b""))


@pytest.mark.parametrize("name", ["codes", "mask", "scales", "rest"])
def test_sections_of_another_length_are_refused(path: Path, model: tuple[bytes, dict[str, Tensor]], name: str) -> None:
    content = parts_of(model[0])[1][name]
    assert f"its section '{name}'" in refusal(path, rebuilt(model[0], **{name: b""}))
    if parts_of(model[0])[0]["format"] == "shrinkwidget":
        for other in (content[:-1], content + b"\0", content * 2):
            assert f"its section '{name}'" in refusal(path, rebuilt(model[0], **{name: other}))


def one_layer(recipe: Recipe) -> bytes:
    """Return the file of one 4 × 8 layer called "w" whose weights no grid takes for zero."""
    return data_of(packed({"w": (torch.arange(32.0) + 16).reshape(4, 8)}, recipe), entropy=False)


def test_a_mask_that_contradicts_its_count_is_refused(path: Path) -> None:
    data = one_layer(Recipe(sparsity=0.9, bits=4))
    mask = bytearray(parts_of(data)[1]["mask"])
    mask[1] ^= 0x80
    assert "the mask of 'w' keeps 4 weights, its count says 3" in refusal(path, rebuilt(data, mask=bytes(mask)))


def test_a_count_below_the_weights_that_are_not_zero_is_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=4))
    assert "32 weights that are not zero, its count says 31" in refusal(path, with_counts(data, lambda c: c.put(0, 31)))


def test_a_code_beyond_its_grid_is_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=4, symmetric=True))
    codes = bytearray(parts_of(data)[1]["codes"])
    codes[3] |= 0xF0
    assert "'w' has the code 15, beyond the largest of its grid, 14" in refusal(path, rebuilt(data, codes=bytes(codes)))
    z = forged(data, codes=bytes([0xFF]) * 16, scales=bytes(12))
    assert "'w' has the code 15" in refusal(path, z)
    data = one_layer(Recipe(bits=5, quantizer="kmeans"))
    assert "'w' has the code 63" in refusal(path, forged(data, codes=bytes([63]) * 32, scales=bytes(128)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_scales_that_no_layer_has_are_refused(path: Path, granularity: str, value: float) -> None:
    data = one_layer(Recipe(bits=4, granularity=granularity))  # type: ignore[arg-type]
    scales = parts_of(data)[1]["scales"]
    assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=struct.pack("<f", value) + scales[4:]))
    if granularity == "channel":
        assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=scales[:-2] + struct.pack("<e", value)))
        assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=scales[:-2] + struct.pack("<e", 1.5)))


def test_fractions_that_are_not_of_the_largest_scale_are_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=4))
    scales = parts_of(data)[1]["scales"]
    halves = np.full(len(scales[4:]) // 2, 0.5, np.float16).tobytes()
    assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=scales[:4] + halves))
    assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=bytes(4) + scales[4:]))
    assert not load(path, rebuilt(data, scales=bytes(len(scales)))).state_dict()["w"].any()


@pytest.mark.parametrize("bits", [16, 32])
def test_weights_that_are_not_finite_are_refused(path: Path, bits: int) -> None:
    data = one_layer(Recipe(bits=bits, sparsity=0.5))
    codes = bytearray(parts_of(data)[1]["codes"])
    codes[bits // 8 - 2 : bits // 8] = b"\xff\x7f"
    assert "'w' has 1 weight that is NaN or infinite" in refusal(path, rebuilt(data, codes=bytes(codes)))


@pytest.mark.parametrize(
    "recipe, dtype, scale",
    [
        (Recipe(bits=4, granularity="tensor"), torch.float32, 3e38),
        (Recipe(bits=4, granularity="tensor", symmetric=False), torch.float32, 3e38),
        (Recipe(bits=4, granularity="tensor"), torch.float16, 60000.0),
        (Recipe(bits=1, granularity="tensor"), torch.float16, 70000.0),
        (Recipe(bits=1, quantizer="kmeans"), torch.float16, 70000.0),
    ],
)
def test_finite_scales_that_make_infinite_weights_are_refused(
    path: Path, recipe: Recipe, dtype: torch.dtype, scale: float
) -> None:
    data = data_of(packed({"w": torch.tensor([[-1.0, 1.0], [2.0, 3.0]]).to(dtype)}, recipe), entropy=False)
    own = parts_of(data)[1]["scales"]
    at = 4 if recipe.quantizer.has_codebook else 0
    new = own[:at] + struct.pack("<f", scale) + own[at + 4 :]
    assert "NaN or infinite, which no compressed layer has" in refusal(path, rebuilt(data, scales=new))
    fine = own[:at] + struct.pack("<f", 5000.0) + own[at + 4 :]
    assert load(path, rebuilt(data, scales=fine)).state_dict()["w"].isfinite().all()


def test_a_negative_zero_among_scales_is_refused(path: Path) -> None:
    data = data_of(packed({"w": torch.tensor([[1.0, 2.0], [0.0, 0.0]])}, Recipe(bits=4, symmetric=True)), entropy=False)
    scales = parts_of(data)[1]["scales"]
    assert scales[-2:] == bytes(2)
    assert "the scales of 'w'" in refusal(path, rebuilt(data, scales=scales[:-2] + struct.pack("<e", -0.0)))


def test_a_codebook_out_of_order_is_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=1, quantizer="kmeans"))
    assert "the codebook of 'w'" in refusal(path, rebuilt(data, scales=struct.pack("<ff", 2.0, 1.0)))


@pytest.mark.parametrize(
    "recipe",
    [
        '{"format":"shrinkwidget-recipe","version":2, "bits":4}',
        '{"version":2,"format":"shrinkwidget-recipe","bits":4}',
        '{"format":"shrinkwidget-recipe","version":2,"bits":4,"sparsity":0}',
        '{"format":"shrinkwidget-recipe","version":2,"bits":4.0}',
        '{"format":"shrinkwidget-recipe","version":2,"bits":8,"bits":4}',
        '{"format":"shrinkwidget-recipe","version":2,"bits":4,"layers":{}}',
    ],
)
def test_a_recipe_spelled_in_another_way_is_refused(path: Path, recipe: str) -> None:
    assert "its recipe " in refusal(path, rebuilt(one_layer(Recipe(bits=4)), recipe))


def test_a_structure_spelled_in_another_way_is_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=4))
    items = described(data)

    def packed_text(text: str) -> str:
        return base64.b64encode(zlib.compress(text.encode())).decode()

    for text in (json.dumps(items), json.dumps(items, separators=(",", ":")).replace('"w"', '"\\u0077"')):
        assert "is not written as shrinkwidget writes it" in refusal(path, rebuilt(data, None, packed_text(text)))
    load(path, rebuilt(data, None, describing(items)))


@pytest.mark.parametrize("name", ["codes", "mask", "scales", "rest"])
@pytest.mark.parametrize("more", [b"hidden", b"x" * 300_000, "a second frame", "an empty frame"])
def test_bytes_after_a_frame_are_refused(path: Path, name: str, more: bytes | str) -> None:
    data = data_of(packed(Net(), RECIPE), entropy=True)
    section = parts_of(data)[1][name]
    added = more if isinstance(more, bytes) else frame(b"hidden" if more == "a second frame" else b"")
    assert "is not one whole zstd frame" in refusal(path, rebuilt(data, **{name: section + added}))
    assert "not one whole zstd frame" in refusal(path, rebuilt(data, **{name: section[:-1]}))


def test_large_sections_unfold_whole(path: Path) -> None:
    """Sections are unfolded a little at a time; blocks of equal bytes, of noise, and what spans many of both."""
    torch.manual_seed(0)
    state = {"w": torch.randn(300, 1000), "zeros": torch.zeros(1 << 20), "noise": torch.randn(1 << 19)}
    model = packed(state, Recipe(sparsity=0.9, bits=4))
    found = load(path, data_of(model, entropy=True))
    assert path.stat().st_size < model.nbytes
    assert same(found.state_dict(), model.state_dict())


def test_a_hostile_name_cannot_write_to_the_terminal(path: Path) -> None:
    name = "a\n\x1b[2J\u202e" + "x" * 100_000
    data = one_layer(Recipe(bits=4))
    for forgery in (
        with_header(data, lambda header: header.update({name: header.pop("codes")})),
        with_header(data, meta(version=name)),
        with_header(data, lambda header: header["__metadata__"].update({name: ""})),
        rebuilt(data, None, describing([[name, [4, 8], "float32", 8]])),
        rebuilt(data, None, describing([[name, [4, 8], "object", 1]])),
    ):
        sentence = refusal(path, forgery)
        assert sentence.isprintable()
        assert len(sentence) < 1000


@pytest.mark.parametrize("name", ["codes", "mask"])
def test_bits_that_stand_for_no_weight_are_refused(path: Path, name: str) -> None:
    recipe = Recipe(bits=3, sparsity=0.5, granularity="tensor")
    data = data_of(packed({"w": torch.randn(3, 7)}, recipe), entropy=False)
    section = bytearray(parts_of(data)[1][name])
    section[-1] |= 0x80
    assert "end in bits that stand for no weight" in refusal(path, rebuilt(data, **{name: bytes(section)}))


def test_codes_that_stand_for_no_weight_are_refused(path: Path) -> None:
    data = data_of(packed({"w": torch.randn(3, 7)}, Recipe(bits=3, granularity="tensor")), entropy=False)
    codes = bytes([0o33] * 10 + [0o13])
    assert "end in bits that stand for no weight" in refusal(path, forged(data, codes=codes))
    assert load(path, forged(data, codes=codes[:-1] + bytes([0o3]))).state_dict()["w"].shape == (3, 7)


def test_zero_points_and_codebooks_that_no_layer_has_are_refused(path: Path) -> None:
    data = one_layer(Recipe(bits=6))
    assert "the zero points of 'w'" in refusal(path, rebuilt(data, scales=parts_of(data)[1]["scales"][:-1] + b"\x40"))
    data = data_of(packed({"w": torch.tensor([[1.0, 2.0], [0.0, 0.0]])}, Recipe(bits=4)), entropy=False)
    scales = parts_of(data)[1]["scales"]
    assert "the zero points of 'w'" in refusal(path, rebuilt(data, scales=scales[:-2] + b"\x01\0"))
    data = one_layer(Recipe(bits=1, quantizer="kmeans"))
    assert "the codebook of 'w'" in refusal(path, rebuilt(data, scales=struct.pack("<ff", 0, float("nan"))))


def test_truth_values_are_zero_or_one(path: Path) -> None:
    data = data_of(packed({"w": torch.ones(2, 2), "flag": torch.tensor([True])}, Recipe()), entropy=False)
    assert "neither 0 nor 1" in refusal(path, rebuilt(data, rest=b"\x02"))


# Bombs: a small file may not ask for much memory


def forged(data: bytes, **sections: bytes) -> bytes:
    """Return an entropy-coded file of these sections, each in a zstd frame, whether or not it would be written so."""
    about, found = parts_of(data)
    frames = {name: frame(content) if content else b"" for name, content in (found | sections).items()}
    frames["counts"] = found["counts"]
    data = with_header(data, meta(format="shrinkwidget-z"))
    return rebuilt(data, about["recipe"], about["structure"], **frames)


def frame(content: bytes, with_size: bool = False) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=with_size
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


@pytest.mark.parametrize("with_size", [False, True])
@pytest.mark.parametrize("name", ["codes", "mask", "scales", "rest"])
def test_a_section_never_unfolds_beyond_what_it_must_hold(path: Path, name: str, with_size: bool) -> None:
    data = data_of(packed(Net(), RECIPE), entropy=True)
    bomb = rebuilt(data, **{name: frame(bytes(1 << 28), with_size)})
    assert len(bomb) < 1 << 16
    tracemalloc.start()
    try:
        refusal(path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_frame_that_is_none_is_refused(path: Path) -> None:
    data = data_of(packed(Net(), RECIPE), entropy=True)
    for name in ("codes", "mask", "scales", "rest"):
        for junk in (b"\0", b"junk" * 10, parts_of(data)[1][name][:-1]):
            assert "section" in refusal(path, rebuilt(data, **{name: junk}))


def test_a_tiny_file_may_not_claim_a_huge_model(path: Path) -> None:
    """All weights of all layers pruned take no bytes at all where runs are coded: only the limit stops this one."""
    small = packed({"w": torch.ones(2, 2), "v": torch.ones(2, 2)}, Recipe(sparsity=0.5, bits=2))
    structure = describing([["w", [2**25, 2**24], "float32", 1], ["v", [2**25, 2**24], "float32", 1]])
    empty = dict.fromkeys(("codes", "mask", "scales", "rest"), b"")
    data = rebuilt(data_of(small, entropy=False), None, structure, counts=bytes(16), **empty)
    assert "its section" in refusal(path, data)
    assert "zip bomb" in refusal(path, with_checksum(with_header(data, meta(format="shrinkwidget-z"))))


def with_checksum(data: bytes) -> bytes:
    about, sections = parts_of(data)
    return rebuilt(data, about["recipe"], about["structure"], **sections)


def test_what_would_look_like_a_bomb_is_written_plain() -> None:
    small = packed({"w": torch.zeros(1 << 13, 1 << 12)}, Recipe(bits=2))
    assert entropy_coded_bytes(small) == small.nbytes
    assert parts_of(data_of(small, entropy=True))[0]["format"] == "shrinkwidget"


# Everything at once


@settings(max_examples=150)
@given(state=state_dicts(), entropy=st.booleans(), forge=st.data())
def test_forged_content_is_refused_or_loads_whole(
    tmp_path_factory: pytest.TempPathFactory, state: dict[str, Tensor], entropy: bool, forge: st.DataObject
) -> None:
    """Content changed at random under a right checksum: an error of ours, or a model of the described shapes."""
    recipe = forge.draw(st.sampled_from((RECIPE, CODEBOOK))).with_(layers={})
    data = data_of(packed(state, recipe), entropy)
    _, sections = parts_of(data)
    name = forge.draw(st.sampled_from(sorted(sections)))
    content = bytearray(sections[name])
    for _ in range(forge.draw(st.integers(1, 3))):
        place = forge.draw(st.integers(0, len(content)))
        content[place : place + forge.draw(st.integers(0, 3))] = forge.draw(st.binary(max_size=3))
    path = tmp_path_factory.getbasetemp() / "forged.safetensors"
    path.write_bytes(rebuilt(data, **{name: bytes(content)}))
    try:
        loaded = read(path).state_dict()
    except FileError:
        return
    assert {key: (value.shape, value.dtype) for key, value in loaded.items()} == {
        key: (value.shape, value.dtype) for key, value in state.items()
    }


def test_the_checksum_is_that_of_the_written_definition(model: tuple[bytes, dict[str, Tensor]]) -> None:
    about, sections = parts_of(model[0])
    assert about["crc32"] == f"{file_crc(about['recipe'], about['structure'], sections.values()):08x}"
