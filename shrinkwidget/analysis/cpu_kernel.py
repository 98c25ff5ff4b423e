"""The compiled inner loops of sketches and masks, where they were built; without them everything gives the same bits.

`cpu_kernel.c` is compiled when the package is built and there is a compiler (`hatch_build.py`). The environment
variable ``SHRINKWIDGET_KERNEL=0`` switches it off.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_logger = logging.getLogger(__name__)

# not ".so", which Python would take for a module of its own
LIBRARY: Final = Path(__file__).with_name("cpu_kernel.lib")
_VERSION: Final = 1
_DTYPES: Final = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3}
_MOST: Final = 2**32
"""Weights whose counts the kernel's 32 bits hold; larger tensors go the other way."""
_BUCKETS: Final = 1 << 16
# These two are constants of cpu_kernel.c: lengths of the arrays it fills, unchecked.
_BINS: Final = 162
_RATIOS: Final = 9

_pointer, _integer = ctypes.c_void_p, ctypes.c_int64


class Runs(ctypes.Structure):
    """Evenly spaced runs of weights of a matrix, as ``Runs`` in ``cpu_kernel.c`` says."""

    _fields_ = tuple((name, _integer) for name in ("length", "column", "per_row", "size", "step"))


class _Ranges(ctypes.Structure):
    _fields_ = (("ranges", _pointer), ("each", _integer), ("factor", _integer))


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The minimum and the maximum of every 32 neighbours along rows of `length` weights, both with zero, and Σ|w|.

    Float32 arrays ``[rows, groups of a row]``, the last of which is of what is left of the row.
    """

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    total: NDArray[np.float32]
    length: int


@dataclass(frozen=True, slots=True, eq=False)
class GroupSums:
    """What a table says of its groups.

    `counts`: how many ranges a fall into each bucket of magnitude, in ascending order, without empty ones; `squares`:
    their Σa². `ratios`: of Σa², what the nodes of the ratio between a group's ends get. `captured`: Σ n·(mean |w|)².
    """

    counts: NDArray[np.int64]
    squares: NDArray[np.float64]
    ratios: NDArray[np.float64]
    captured: float


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled kernel; None where it is not built, switched off, or built of other sources."""
    if os.environ.get("SHRINKWIDGET_KERNEL") == "0" or not LIBRARY.exists():
        return None
    try:
        found = ctypes.CDLL(os.fspath(LIBRARY))
        found.cpu_kernel_version.restype = _integer
        if (version := found.cpu_kernel_version()) != _VERSION:
            raise OSError(f"it is of version {version}, not {_VERSION}")
        arguments = {
            "sketch_scan": (_integer, [_pointer, *[_integer] * 3, *[_pointer] * 5]),
            "sketch_zeros": (None, [_pointer, *[_integer] * 3, *[_pointer] * 2]),
            "sketch_bins": (None, [_pointer, *[_integer] * 4, _pointer, _integer, *[_pointer] * 2]),
            "sketch_survivors": (
                None,
                [_pointer, *[_integer] * 2, _pointer, ctypes.c_float, *[_integer] * 2, _pointer],
            ),
            "sketch_groups": (_integer, [*[_pointer] * 3, *[_integer] * 5, *[_pointer] * 4]),
            "mask_members": (_integer, [_pointer, *[_integer] * 3, _pointer, _integer]),
            "mask_above": (None, [_pointer, *[_integer] * 2, ctypes.c_double, _pointer]),
        }
        for name, (result, types) in arguments.items():
            function = getattr(found, name)
            function.restype, function.argtypes = result, types
    except (OSError, AttributeError) as error:
        _logger.warning(
            "the compiled kernel of shrinkwidget cannot be used (%s): sketches and masks take several times as long; "
            "install shrinkwidget again to build it, or set SHRINKWIDGET_KERNEL=0 to do without",
            error,
        )
        return None
    return found


def kernel_for(rows: Tensor) -> ctypes.CDLL | None:
    """Return the kernel if it can look at a matrix: contiguous, on the CPU, of a float dtype."""
    fits = rows.device.type == "cpu" and rows.is_contiguous() and rows.dtype in _DTYPES and 0 < rows.numel() < _MOST
    return library() if fits and type(rows) in (Tensor, torch.nn.Parameter) else None


def scan(kernel: ctypes.CDLL, rows: Tensor) -> tuple[NDArray[np.uint16], NDArray[np.int64], Groups]:
    """Look at every weight of a matrix once: its buckets in ascending order of value, their counts, its groups."""
    height, length = rows.shape
    buckets, counts = np.empty(_BUCKETS, np.uint16), np.empty(_BUCKETS, np.int64)
    low, high, total = np.empty((3, height, -(-length // 32)), np.float32)
    found = kernel.sketch_scan(
        rows.data_ptr(), _DTYPES[rows.dtype], height, length, buckets.ctypes.data, counts.ctypes.data,
        low.ctypes.data, high.ctypes.data, total.ctypes.data,
    )  # fmt: skip
    if found < 0:
        raise MemoryError("there is no memory to count weights")
    return buckets[:found].copy(), counts[:found].copy(), Groups(low, high, total, length)


def zeros(kernel: ctypes.CDLL, rows: Tensor) -> tuple[int, int, list[int]]:
    """Return the zeros of a matrix, those that are -0.0, and how many weights other than zero 2:4, 1:4, 4:8 keep."""
    found = np.empty(5, np.int64)
    kernel.sketch_zeros(rows.data_ptr(), _DTYPES[rows.dtype], *rows.shape, found.ctypes.data, found[2:].ctypes.data)
    return int(found[0]), int(found[1]), [int(x) for x in found[2:]]


def bins(
    kernel: ctypes.CDLL, rows: Tensor, ranges: Sequence[NDArray[np.float32]], factors: Sequence[int], step: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts and energies per bin of every `step`-th group of 32, ``[granularities, 162]``.

    They are relative to the `ranges` of several granularities, whose groups are made of `factors` groups of 32.
    """
    count, energy = np.empty((len(ranges), _BINS), np.int64), np.empty((len(ranges), _BINS))
    granularities = (_Ranges * len(ranges))(
        *(_Ranges(part.ctypes.data, part.shape[1], factor) for part, factor in zip(ranges, factors, strict=True))
    )
    kernel.sketch_bins(
        rows.data_ptr(), _DTYPES[rows.dtype], *rows.shape, step, granularities, len(ranges), count.ctypes.data,
        energy.ctypes.data,
    )  # fmt: skip
    return count, energy


def survivors(kernel: ctypes.CDLL, rows: Tensor, runs: Runs, absmax: float, keep: tuple[int, int]) -> NDArray[np.int64]:
    """Return counts per bin of runs of weights relative to `absmax`, ``[3, 162]``: all, and the largest of each run.

    `keep` says how many of a run are the largest, in two ways.
    """
    counts = np.empty((3, _BINS), np.int64)
    kernel.sketch_survivors(
        rows.data_ptr(), _DTYPES[rows.dtype], len(rows), ctypes.byref(runs), absmax, *keep, counts.ctypes.data
    )
    return counts


def group_sums(kernel: ctypes.CDLL, groups: Groups, factor: int, step: int) -> tuple[NDArray[np.float32], GroupSums]:
    """Return the ranges of groups made of `factor` ones each, and what a table says of them.

    Every `step`-th group counts among the ratios.
    """
    rows, units = groups.low.shape
    ranges = np.empty((rows, -(-units // factor)), np.float32)
    room = min(ranges.size, _BUCKETS // 2)
    counts, squares, found = np.empty(room, np.int64), np.empty(room), np.empty(2 * _RATIOS + 2)
    failed = kernel.sketch_groups(
        groups.low.ctypes.data, groups.high.ctypes.data, groups.total.ctypes.data, rows, units, groups.length, factor,
        step, ranges.ctypes.data, counts.ctypes.data, squares.ctypes.data, found.ctypes.data,
    )  # fmt: skip
    if failed:
        raise MemoryError("there is no memory to look at groups of weights")
    ratios = found[:_RATIOS] + found[_RATIOS : 2 * _RATIOS]
    buckets = int(found[-1:].view(np.int64)[0])
    return ranges, GroupSums(counts[:buckets], squares[:buckets], ratios, float(found[-2]))


def members(kernel: ctypes.CDLL, flat: Tensor, bucket: int, most: int) -> NDArray[np.float64] | None:
    """Return the magnitudes in one bucket that are not 0, in order; None if there are more than `most`."""
    found = np.empty(most)
    many = kernel.mask_members(flat.data_ptr(), _DTYPES[flat.dtype], flat.numel(), bucket, found.ctypes.data, most)
    return found[:many] if many <= most else None


def mark_above(kernel: ctypes.CDLL, flat: Tensor, limit: float, out: Tensor) -> None:
    """Write to the bool tensor `out` which magnitudes are above a limit, a number of their dtype or of float32."""
    kernel.mask_above(flat.data_ptr(), _DTYPES[flat.dtype], flat.numel(), limit, out.data_ptr())
