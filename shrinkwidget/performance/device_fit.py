"""Which boards and phones a model fits: its file against their flash, its weights and activations against their RAM.

What devices have is in ``devices.json``, from their datasheets; the page reads the same file
(``js/charts/device-fit.ts``), and ``tests/vectors/charts`` holds the two together.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from torch import nn

from ..analysis.estimate_class_and_packed_file_header import Estimate, safetensors_bytes
from ..analysis.model_summary import STYLE, aligned, bytes_text, exactly, html_rows
from ..analysis.open_model_tensors_and_channel_axes import Source, open_model
from ..analysis.run_model_seeded_macs_and_memory import preserve_rng_state, profile_forward
from ..argument_checks import plain, public
from ..compressed_model import CompressedModel
from ..errors import ArgumentError, ModelError, a_type, quoted

_UNITS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


@dataclass(frozen=True, slots=True)
class Runtime:
    """A program that runs models on devices, and the bytes of its own code, which no model's file includes.

    `nbytes` is what its makers state, in the build that `what` describes; `source` says where.
    """

    name: str
    nbytes: int
    what: str
    source: str


@dataclass(frozen=True, slots=True)
class Device:
    """A board or a phone: bytes of flash and RAM, as its datasheet has them.

    Args:
        name: what it is called.
        flash: bytes of its own flash; None for one that stores files on a card, which may be of any size.
        ram: bytes of RAM in all. A system and other programs take theirs of it.
        kind: what it is, in words.
        datasheet: where the two numbers are from.
        runtime: a program that runs models there; None where none is known.

    Raises:
        ArgumentError: for bytes that are no whole number above zero.

    Example:
        >>> import shrinkwidget as sw
        >>> board = sw.results.Device("my board", flash=512 * 1024, ram=96 * 1024)
        >>> sw.fits(sw.compress(sw.demo.model(), bits=4), devices=[board]).rows[0].flash.fits
        True
    """

    name: str
    flash: int | None
    ram: int
    kind: str = ""
    datasheet: str = ""
    runtime: Runtime | None = None

    def __post_init__(self) -> None:
        for what, nbytes in (("flash", self.flash), ("ram", self.ram)):
            if nbytes is None and what == "flash":
                continue
            found = plain(nbytes)
            if isinstance(found, bool) or not isinstance(found, int) or found < 1:
                raise ArgumentError(f"Device({what}={quoted(nbytes)}) must be a whole number of bytes")
            object.__setattr__(self, what, found)


@cache
def known_devices() -> tuple[Device, ...]:
    """Return the devices of ``devices.json``, by their RAM."""
    found = json.loads((Path(__file__).parent / "devices.json").read_text(encoding="utf-8"))
    runtimes = {name: Runtime(name, **facts) for name, facts in found["runtimes"].items()}
    return tuple(Device(**{**facts, "runtime": runtimes.get(facts["runtime"])}) for facts in found["devices"])


@dataclass(frozen=True, slots=True)
class Room:
    """What a model needs of one kind of memory, against what a device has.

    `need` is None where nothing of it is known, and a lower bound unless `complete`. `capacity` is None where there is
    no limit.
    """

    need: int | None
    complete: bool
    capacity: int | None

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where too little is known."""
        if self.capacity is None:
            return True
        if self.need is None:
            return None
        # A lower bound that is too large settles it; one that fits does not.
        if self.need > self.capacity:
            return False
        return True if self.complete else None

    @property
    def over(self) -> int:
        """Bytes by which it is too large: 0 where it fits or is not known."""
        return max(0, self.need - self.capacity) if self.need is not None and self.capacity is not None else 0

    @property
    def text(self) -> str:
        """The same in words: "fits, 12 %", "no, 6.85 kB over", "unknown"."""
        if self.capacity is None:
            return "on a card"
        if self.fits is None:
            return "unknown"
        if self.over:
            return f"no, {bytes_text(self.over)} over"
        # rounded down, so that 100 % is only what fills it to the last byte
        tenths = math.floor(1000 * (self.need or 0) / self.capacity)
        share = "< 0.1" if tenths == 0 else f"{tenths / 10:.1f}" if tenths < 100 else str(tenths // 10)
        return f"fits, {share} %"


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One device, and what a model takes there.

    `activations` is what a runtime needs that reads the weights from flash instead of loading them into RAM.
    """

    device: Device
    flash: Room
    ram: Room
    activations: Room

    @property
    def fits(self) -> bool | None:
        """Whether file and memory both fit; None where too little is known."""
        both = (self.flash.fits, self.ram.fits)
        return False if False in both else None if None in both else True


@dataclass(frozen=True, slots=True, repr=False)
class DeviceFit:
    """Which devices a model fits; what `fits` returns.

    Args:
        title: the model's class, or its file's name.
        file_bytes: bytes of its file: the packed one, or the plain ``.safetensors`` file of a model as it was given.
        exact: whether they are counted, or estimated from a sketch.
        weight_bytes: bytes of all weights and buffers as they run, pruned and rounded ones in full; None where the
            model is not there to be counted.
        activation_bytes: the most bytes of inputs and results alive at one moment of the forward pass; None without
            an example.
        devices: what it was held against.
        dense_bytes: bytes of the plain ``.safetensors`` file of the dense model; None of a model that is dense itself.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), sparsity=0.9, bits=4)
        >>> found = sw.fits(small, torch.zeros(1, 1, 8, 8))
        >>> found.file_bytes, found.weight_bytes, found.activation_bytes
        (39621, 692688, 24832)
        >>> [row.device.name for row in found.rows if row.fits][:2]
        ['STM32H743', 'Raspberry Pi Zero 2 W']
    """

    title: str
    file_bytes: int
    exact: bool
    weight_bytes: int | None
    activation_bytes: int | None
    devices: tuple[Device, ...]
    dense_bytes: int | None = None

    @property
    def ram_bytes(self) -> int | None:
        """Bytes of RAM the model takes: weights as they run and peak activations; None if one is not known."""
        if self.weight_bytes is None or self.activation_bytes is None:
            return None
        return self.weight_bytes + self.activation_bytes

    @property
    def rows(self) -> tuple[DeviceRow, ...]:
        """Every device with what the model takes there."""
        # weights alone are a lower bound of what a model needs: they may be too large, but say not that it fits
        # without activations it is a lower bound, which may be too much already
        least, complete = (self.weight_bytes, False) if self.ram_bytes is None else (self.ram_bytes, True)
        return tuple(
            DeviceRow(
                device,
                Room(self.file_bytes, True, device.flash),
                Room(least, complete, device.ram),
                Room(self.activation_bytes, True, device.ram),
            )
            for device in self.devices
        )

    @property
    def runtimes(self) -> tuple[Runtime, ...]:
        """The runtimes of these devices, whose own code takes flash beside the file."""
        return tuple(dict.fromkeys(device.runtime for device in self.devices if device.runtime is not None))

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every device: rows of a table, or of a DataFrame. Bytes are exact.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.fits(sw.compress(sw.demo.model(), sparsity=0.9, bits=4)).to_rows()[0]["flash_over"]
            6853
        """
        return [
            {
                "device": row.device.name,
                "flash": row.device.flash,
                "file_bytes": self.file_bytes,
                "flash_fits": row.flash.fits,
                "flash_over": row.flash.over,
                "ram": row.device.ram,
                "ram_bytes": self.ram_bytes,
                "ram_fits": row.ram.fits,
                "ram_over": row.ram.over,
                "activations_fit": row.activations.fits,
                "fits": row.fits,
                "datasheet": row.device.datasheet,
            }
            for row in self.rows
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, which `from_dict` reads.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.fits(sw.demo.model())
            >>> sw.results.DeviceFit.from_dict(found.to_dict()) == found
            True
        """
        return asdict(self) | {"devices": [asdict(device) for device in self.devices]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> DeviceFit:
        """Return what `to_dict` told.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.results.DeviceFit.from_dict(sw.fits(sw.demo.model()).to_dict()).title
            'DigitNet'
        """
        devices = tuple(
            Device(**{**facts, "runtime": None if facts["runtime"] is None else Runtime(**facts["runtime"])})
            for facts in found["devices"]
        )
        return cls(**{**found, "devices": devices})

    def _needs(self) -> list[tuple[str, str]]:
        """Return in words what the model needs, and what is not in these numbers."""
        sign = "" if self.exact else "≈ "
        needs = [("file", f"{sign}{exactly(self.file_bytes)}")]
        if self.weight_bytes is None:
            needs.append(("RAM", "unknown: an estimate has no weights; give the model, or what compress returned"))
        elif self.activation_bytes is None:
            needs.append(("RAM", f"{exactly(self.weight_bytes)} weights as they run; activations unknown: no example"))
        else:
            parts = f"{bytes_text(self.weight_bytes)} weights as they run + {bytes_text(self.activation_bytes)}"
            needs.append(("RAM", f"{exactly(self.weight_bytes + self.activation_bytes)}: {parts} peak activations"))
        runtimes = [f"{r.name} itself, {bytes_text(r.nbytes)} of flash ({r.what})" for r in self.runtimes]
        needs.append(("not counted", "; ".join([*runtimes, "the RAM of a system and of other programs"])))
        return needs

    def __repr__(self) -> str:
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [f"  {name:<12} {text}" for name, text in self._needs()]
        return "\n".join([self._headline(), *lines, "", *(aligned(row, widths) for row in (head, *rows))])

    def _repr_html_(self) -> str:
        needs = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in self._needs())
        head, rows = self._table()
        sources = [(d.name, d.kind, d.datasheet) for d in self.devices]
        sources += [(r.name, "runtime", r.source) for r in self.runtimes]
        return (
            f'<div class="shrinkwidget-size">{STYLE}<strong>{escape(self._headline())}</strong>'
            f"<table><tbody>{needs}</tbody></table><div class='layers'>{html_rows(head, rows)}</div>"
            f"<details><summary>datasheets</summary><div class='layers'>"
            f"{html_rows(['device', 'what it is', 'datasheet'], sources)}</div></details></div>"
        )

    def _headline(self) -> str:
        rows = self.rows
        fitting, unknown = sum(row.fits is True for row in rows), sum(row.fits is None for row in rows)
        return f"{self.title} fits {fitting} of {len(rows)} devices" + (f", unknown of {unknown}" if unknown else "")

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = ["device", "the file in flash", "weights and activations in RAM", "flash", "RAM"]
        rows = []
        for row in self.rows:
            ram = row.ram.text
            if row.ram.fits is False and row.activations.fits and row.flash.fits and row.device.flash:
                ram += "; activations alone fit"
            flash = "card" if row.device.flash is None else capacity_text(row.device.flash)
            rows.append([row.device.name, row.flash.text, ram, flash, capacity_text(row.device.ram)])
        return head, rows


def capacity_text(nbytes: int) -> str:
    """Return the size of a memory as datasheets give it: "264 KiB", "2 MiB", and "128 GB" of a decimal one."""
    for unit, name in _UNITS:
        if nbytes % unit == 0 and nbytes // unit < 1024:
            return f"{nbytes // unit} {name}"
    return bytes_text(nbytes).replace(".00 ", " ").replace(".0 ", " ")


Weighable: TypeAlias = Source | CompressedModel | Estimate


@public()
def fits(model: Weighable, example: object = None, *, devices: Iterable[Device] | None = None) -> DeviceFit:
    """Tell which boards and phones a model fits: its file in their flash, what runs in their RAM.

    RAM holds all weights as they run, pruned and rounded ones in full, as PyTorch and most runtimes keep them, and the
    peak of the activations. Runtimes for microcontrollers can read weights from flash; then the activations alone
    need RAM, and the table says where they fit. A runtime's own code is told apart, and counted nowhere.

    Args:
        model: a `CompressedModel`, or an `Estimate`, of which only the file is known; a module, a state dict or the
            path of a checkpoint for the dense model in its plain ``.safetensors`` file.
        example: one input to run the model on once (see `summary`); a batch of one for one example at a time. Without
            it activations are unknown, and so is whether RAM suffices, unless the weights alone are too large.
        devices: what to hold it against; by default twelve, from an Arduino to a Raspberry Pi 5.

    Raises:
        ModelError: for what is no model, or an example without a module to run it on.
        DataError: if the model cannot run the example.
        ArgumentError: for devices that are none.

    Example:
        >>> import torch, shrinkwidget as sw
        >>> found = sw.fits(sw.compress(sw.demo.model(), sparsity=0.9, bits=4), torch.zeros(1, 1, 8, 8))
        >>> print(repr(found).splitlines()[0])
        DigitNet fits 5 of 12 devices
    """
    chosen = _checked_devices(devices)
    if isinstance(model, Estimate):
        if example is not None:
            raise ModelError("an example can only be run on a model: give what sw.compress returned, not an estimate")
        return DeviceFit("model", model.nbytes, model.exact, None, None, chosen, model.original_nbytes)
    compressed = model if isinstance(model, CompressedModel) else None
    source: Source
    if compressed is None:
        source = cast(Source, model)
    else:
        # of a file loaded without its module the weights are known, and no more
        source = compressed.state_dict() if compressed.model is None else compressed.model
    if example is not None and not isinstance(source, nn.Module):
        raise ModelError("an example can only be run on an nn.Module: leave it out for a state dict or a file")
    weights = open_model(source, only_to_look=True)
    peak = None
    if example is not None:
        assert isinstance(source, nn.Module)
        with preserve_rng_state():
            peak = profile_forward(source, weights.entries, example).peak
    return DeviceFit(
        weights.title,
        safetensors_bytes(weights.saved) if compressed is None else compressed.nbytes,
        True,
        sum(entry.nbytes for entry in weights.entries),
        peak,
        chosen,
        None if compressed is None else compressed.original_nbytes,
    )


def _checked_devices(devices: Iterable[Device] | None) -> tuple[Device, ...]:
    if devices is None:
        return known_devices()
    if not isinstance(devices, Iterable):
        raise ArgumentError(f"fits(devices=…) must be a list of sw.results.Device, not {a_type(devices)}")
    chosen = tuple(devices)
    if not chosen:
        raise ArgumentError("fits(devices=…) is empty: give at least one device, or leave it out for twelve")
    if other := next((found for found in cast(tuple[object, ...], chosen) if not isinstance(found, Device)), None):
        raise ArgumentError(f"fits(devices=…) must be a list of sw.results.Device; it has {a_type(other)}")
    return chosen
