"""Which devices a model fits: every cell against bytes that are counted another way, and what is unknown said so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import shrinkwidget as sw
from shrinkwidget.errors import ArgumentError, DataError, ModelError
from shrinkwidget.performance.device_fit import capacity_text, known_devices
from shrinkwidget.results import Device

X = torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def model() -> Any:
    return sw.demo.model()


@pytest.fixture(scope="module")
def small(model: Any) -> sw.CompressedModel:
    return sw.compress(model, sparsity=0.9, bits=4)


def test_a_device_of_just_the_size_fits_and_one_of_a_byte_less_does_not(small: sw.CompressedModel) -> None:
    need = sw.fits(small, X)
    assert need.ram_bytes is not None
    file, ram = need.file_bytes, need.ram_bytes
    boards = [
        Device("just", flash=file, ram=ram),
        Device("flash", flash=file - 1, ram=ram),
        Device("ram", flash=file, ram=ram - 1),
    ]
    just, flash, memory = sw.fits(small, X, devices=boards).rows
    assert (just.fits, just.flash.text, just.ram.text) == (True, "fits, 100 %", "fits, 100 %")
    assert (flash.fits, flash.flash.over, flash.flash.text, flash.ram.fits) == (False, 1, "no, 1 B over", True)
    assert (memory.fits, memory.ram.over, memory.flash.fits) == (False, 1, True)


def test_bytes_are_those_of_the_file_of_the_tensors_and_of_the_forward_pass(
    model: Any, small: sw.CompressedModel, tmp_path: Path
) -> None:
    found = sw.fits(small, X)
    assert small.model is not None
    tensors = small.model.state_dict().values()
    assert found.file_bytes == small.save(tmp_path / "small.safetensors")
    assert found.weight_bytes == sum(t.numel() * t.element_size() for t in tensors)
    assert found.activation_bytes == sw.summary(small.model, X).peak_activation
    assert found.dense_bytes == sw.fits(model).file_bytes == len(safetensors.torch.save(model.state_dict()))
    assert found.ram_bytes is not None
    assert found.activation_bytes is not None
    for row, told in zip(found.rows, found.to_rows(), strict=True):
        assert told["ram_over"] == max(0, found.ram_bytes - row.device.ram)
        assert told["flash_fits"] == (row.device.flash is None or found.file_bytes <= row.device.flash)
        assert told["activations_fit"] == (found.activation_bytes <= row.device.ram)


def test_without_an_example_ram_is_unknown_unless_the_weights_alone_are_too_large(small: sw.CompressedModel) -> None:
    found = sw.fits(small)
    assert found.activation_bytes is None
    assert found.weight_bytes is not None
    for row in found.rows:
        too_large = found.weight_bytes > row.device.ram
        assert row.ram.fits is (False if too_large else None)
        assert row.fits is (False if too_large else None)
    assert "activations unknown: no example" in repr(found)


def test_of_an_estimate_only_the_file_is_known_and_marked(model: Any) -> None:
    estimate = sw.estimate(model, sparsity=0.9, bits=4)
    found = sw.fits(estimate)
    assert (found.file_bytes, found.exact, found.weight_bytes) == (estimate.nbytes, False, None)
    assert {row.ram.fits for row in found.rows} == {None}
    assert found.rows[0].flash.fits is False  # 39.6 kB in 32 KiB
    assert "≈ 39.6 kB" in repr(found)
    assert sw.fits(sw.compress(model, sparsity=0.9, bits=4).estimate).exact  # type: ignore[arg-type]


def test_a_file_loaded_without_its_class_still_has_its_weights(small: sw.CompressedModel, tmp_path: Path) -> None:
    small.save(tmp_path / "small.safetensors")
    found = sw.fits(sw.load(tmp_path / "small.safetensors"))
    assert (found.file_bytes, found.weight_bytes) == (small.nbytes, sw.fits(small).weight_bytes)
    plain = safetensors.torch.save(small.state_dict())
    (tmp_path / "plain.safetensors").write_bytes(plain)
    assert sw.fits(tmp_path / "plain.safetensors").file_bytes == len(plain)


def test_what_a_runtime_takes_is_named_and_counted_nowhere(small: sw.CompressedModel) -> None:
    board = known_devices()[1]
    assert board.runtime is not None
    full = Device("full", flash=small.nbytes, ram=2**30, runtime=board.runtime)
    found = sw.fits(small, X, devices=[full])
    assert found.rows[0].fits
    assert "TensorFlow Lite Micro itself, 16.4 kB of flash" in repr(found)
    assert "the RAM of a system" in repr(sw.fits(small, X, devices=[Device("bare", flash=1, ram=1)]))


def test_where_weights_are_too_large_it_says_whether_activations_alone_fit(small: sw.CompressedModel) -> None:
    rows = {line.split("  ")[1].strip(): line for line in repr(sw.fits(small, X)).splitlines() if "KiB" in line}
    assert "activations alone fit" in rows["nRF52840"]
    assert "activations alone fit" not in rows["Arduino Uno R3"]


def test_every_device_names_its_datasheet_and_has_what_it_says() -> None:
    devices = {device.name: device for device in known_devices()}
    assert len(devices) == 12
    assert all(device.datasheet and device.kind for device in devices.values())
    assert [d.ram for d in devices.values()] == sorted(d.ram for d in devices.values())
    had = {name: (device.flash, device.ram) for name, device in devices.items()}
    assert had["Arduino Uno R3"] == (32 * 1024, 2 * 1024)
    assert had["STM32F411"] == (512 * 1024, 128 * 1024)
    assert had["nRF52840"] == (1024**2, 256 * 1024)
    assert had["Raspberry Pi Pico"] == (2 * 1024**2, 264 * 1024)
    assert had["ESP32-S3-WROOM-1-N8"] == (8 * 1024**2, 512 * 1024)
    assert had["STM32H743"] == (2 * 1024**2, 1024**2)
    assert had["Raspberry Pi Zero 2 W"] == (None, 512 * 1024**2)
    texts = [capacity_text(device.ram) for device in devices.values()]
    assert texts[:4] == ["2 KiB", "128 KiB", "256 KiB", "264 KiB"]
    assert capacity_text(128 * 10**9) == "128 GB"


def test_it_is_told_as_json_and_read_back_and_its_html_is_no_markup(small: sw.CompressedModel) -> None:
    board = Device("<b>board</b>", flash=10**6, ram=10**6)
    for found in (sw.fits(small, X), sw.fits(small), sw.fits(small, devices=[board])):
        assert sw.results.DeviceFit.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert "<b>board" not in found._repr_html_()
    assert "&lt;b&gt;board" in found._repr_html_()


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda m, _: sw.fits(sw.estimate(m, 0.5), X), ModelError, "not an estimate"),
        (lambda m, _: sw.fits(m.state_dict(), X), ModelError, "leave it out for a state dict"),
        (lambda m, _: sw.fits(m, torch.zeros(1, 3, 8, 8)), DataError, "cannot run"),
        (lambda m, _: sw.fits(m, devices=[]), ArgumentError, "empty"),
        (lambda m, _: sw.fits(m, devices=["Arduino"]), ArgumentError, "it has a str"),  # type: ignore[list-item]
        (lambda m, _: sw.fits(m, devices=3), ArgumentError, "must be a list"),  # type: ignore[arg-type]
        (lambda *_: Device("board", flash=0, ram=1), ArgumentError, "flash=0"),
        (lambda *_: Device("board", flash=None, ram=1.5), ArgumentError, "ram=1.5"),  # type: ignore[arg-type]
        (lambda *_: sw.fits(3), ModelError, "int"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(model: Any, call: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        call(model, nn.Linear(2, 2))
