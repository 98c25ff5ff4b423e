"""Fast work on many weights: layers on threads, pieces that fit a CPU's cache, numpy, and a compiled kernel.

Nothing here knows of models or recipes. First threads, how they end, and chunks; then the kernel of `cpu_kernel.c`;
then operations on tensors, each as fast as it gets on the device; then checksums.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn.functional import pad

from ..errors import Cancelled

CHUNK: Final = 1 << 18
"""Weights looked at together: few enough for a CPU's cache, enough that Python's part of the work does not count."""
_CHUNK_ON_GPU: Final = 1 << 24
"""A GPU has no such cache, and every call costs the same: few calls, whose temporaries are 128 MB at most."""

_THREADS: Final = 4

Watch: TypeAlias = Callable[[], bool]
"""Polled between layers; true means stop."""


def never() -> bool:
    """Watch for nothing."""
    return False


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def check(cancelled: Watch | None) -> None:
    """Raise `Cancelled` if there is something newer to do."""
    if cancelled is not None and cancelled():
        raise Cancelled("cancelled: something newer was asked for")


def each(
    function: Callable[[_Item], _Result], items: Sequence[_Item], cancelled: Watch | None = None, on_gpu: bool = False
) -> Iterator[_Result]:
    """Yield what a function makes of each item, in order, computed by a thread per core (four at most).

    Layers share the cores, not only the operations on each: torch's own threads wait for each other after every
    operation, and where a browser wants the same cores every wait is a time slice (docs/compression.md). For the same
    reason even a single item is not computed on the caller's thread. At most two results a thread wait to be taken.

    Work on a GPU is queued by the caller alone: several threads that queue small operations wait for each other, and
    took 1.7 times as long as one (`python -m benchmarks.gpu engine`, ResNet-50's shapes), with the temporaries of each.
    Nor are there threads under `single_threaded`.

    Raises:
        Cancelled: as soon as `cancelled` says so, which is asked before every item.
    """

    def one(item: _Item) -> _Result:
        check(cancelled)
        return function(item)

    if on_gpu or getattr(_HERE, "single", False):
        yield from map(one, items)
        return
    threads = min(_THREADS, usable_cores())
    with ThreadPoolExecutor(threads, initializer=_work_alone) as pool:
        # results are whole layers: as many more as may wait to be taken are held in memory
        waiting: deque[Future[_Result]] = deque()
        for item in items:
            waiting.append(pool.submit(one, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def usable_cores() -> int:
    """Return how many cores this process may run on: a container or a batch job is often tied to a few of them."""
    # Linux alone tells; `os.process_cpu_count`, which asks it, came with Python 3.13
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _work_alone() -> None:
    """Let torch use no threads beside this one, without a word to any other thread.

    `torch.set_num_threads` would do it for threads of the user's, too, that start in the meantime. OpenMP has a count
    for each thread, but torch sets that of a new thread when it first asks for it: so it is asked before.
    """
    torch.get_num_threads()
    _thread_pools().limit(limits=1, user_api="openmp")


_HERE: Final = threading.local()


@contextmanager
def single_threaded() -> Iterator[None]:
    """Work on this thread alone: neither torch nor `each` uses others beside it.

    For one of many pieces of work that run side by side, such as the points of a sweep: those are the parallelism, and
    a piece is computed in the same way however many run at a time. Other threads are not affected.
    """
    torch.get_num_threads()  # see `_work_alone`
    before, _HERE.single = getattr(_HERE, "single", False), True
    try:
        with _thread_pools().limit(limits=1, user_api="openmp"):
            yield
    finally:
        _HERE.single = before


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()  # looks through the libraries that are loaded, which takes a few ms


def before_exit(stop: Callable[[], None]) -> None:
    """Call this when the program ends, while thread pools still take work; plain atexit comes after they are closed.

    Only in this process: a forked child, such as a DataLoader's worker, inherits the hooks, but not the threads that
    they stop. Where such a thread forked it, the child even takes itself for that thread, and cannot join itself.

    Ctrl-C does not cut `stop` short. Python ends the threads that are left as soon as they ask for its lock again, and
    one that is inside torch then takes the process down with SIGABRT.
    """
    process = os.getpid()

    def stop_here() -> None:
        while os.getpid() == process:
            with suppress(KeyboardInterrupt), _interrupts_ignored():
                stop()
                return

    # private, but what concurrent.futures itself uses; without it plain atexit, after the pools are closed
    getattr(threading, "_register_atexit", atexit.register)(stop_here)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C; to catch it would not do: a `Thread.join` that it ends takes the thread for ended, too."""
    before = signal.getsignal(signal.SIGINT)
    if before is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def in_forked_children(forget: Callable[[], None]) -> None:
    """Call this in every process that is forked from this one: locks that other threads held would stay locked."""
    if hasattr(os, "register_at_fork"):  # Windows never forks
        os.register_at_fork(after_in_child=forget)


def uninterrupted(put_back: Callable[[], None]) -> None:
    """Do what has to be done whole, again if Ctrl-C falls into it, and only then let the interrupt through."""
    interrupt = None
    while True:
        try:
            put_back()
            break
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def chunk_size(device: torch.device, on_cpu: int = CHUNK) -> int:
    """Return how many weights are looked at together on a device."""
    return on_cpu if device.type == "cpu" else _CHUNK_ON_GPU


def chunks(flat: Tensor) -> list[Tensor]:
    """Return a flat tensor in pieces of `chunk_size`."""
    size = chunk_size(flat.device)
    return [flat[start : start + size] for start in range(0, len(flat), size)]


# ---- the compiled kernel ----


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


@dataclass(frozen=True, slots=True, eq=False)
class CpuKernel:
    """The compiled inner loops of sketches and masks; without them everything gives the same bits.

    `cpu_kernel.c` is compiled when the package is built and there is a compiler (`hatch_build.py`). The environment
    variable ``SHRINKWIDGET_KERNEL=0`` switches it off.
    """

    _library: ctypes.CDLL

    def scan(self, rows: Tensor) -> tuple[NDArray[np.uint16], NDArray[np.int64], Groups]:
        """Look at every weight of a matrix once: its buckets in ascending order of value, their counts, its groups."""
        height, length = rows.shape
        buckets, counts = np.empty(_BUCKETS, np.uint16), np.empty(_BUCKETS, np.int64)
        low, high, total = np.empty((3, height, -(-length // 32)), np.float32)
        found = self._library.sketch_scan(
            rows.data_ptr(), _DTYPES[rows.dtype], height, length, buckets.ctypes.data, counts.ctypes.data,
            low.ctypes.data, high.ctypes.data, total.ctypes.data,
        )  # fmt: skip
        if found < 0:
            raise MemoryError("there is no memory to count weights")
        return buckets[:found].copy(), counts[:found].copy(), Groups(low, high, total, length)

    def zeros(self, rows: Tensor) -> tuple[int, int, list[int]]:
        """Return the zeros of a matrix, those that are -0.0, and how many other weights each of `NM_PATTERNS` keeps."""
        found = np.empty(5, np.int64)
        self._library.sketch_zeros(
            rows.data_ptr(), _DTYPES[rows.dtype], *rows.shape, found.ctypes.data, found[2:].ctypes.data
        )
        return int(found[0]), int(found[1]), [int(x) for x in found[2:]]

    def bins(
        self, rows: Tensor, ranges: Sequence[NDArray[np.float32]], factors: Sequence[int], step: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return counts and energies per bin of every `step`-th group of 32, ``[granularities, 162]``.

        They are relative to the `ranges` of several granularities, whose groups are made of `factors` groups of 32.
        """
        count, energy = np.empty((len(ranges), _BINS), np.int64), np.empty((len(ranges), _BINS))
        granularities = (_Ranges * len(ranges))(
            *(_Ranges(part.ctypes.data, part.shape[1], factor) for part, factor in zip(ranges, factors, strict=True))
        )
        self._library.sketch_bins(
            rows.data_ptr(), _DTYPES[rows.dtype], *rows.shape, step, granularities, len(ranges), count.ctypes.data,
            energy.ctypes.data,
        )  # fmt: skip
        return count, energy

    def survivors(self, rows: Tensor, runs: Runs, absmax: float, keep: tuple[int, int]) -> NDArray[np.int64]:
        """Return counts per bin of runs of weights relative to `absmax`, ``[3, 162]``: of all, of each run's largest.

        `keep` says how many of a run are the largest, in two ways.
        """
        counts = np.empty((3, _BINS), np.int64)
        self._library.sketch_survivors(
            rows.data_ptr(), _DTYPES[rows.dtype], len(rows), ctypes.byref(runs), absmax, *keep, counts.ctypes.data
        )
        return counts

    def group_sums(self, groups: Groups, factor: int, step: int) -> tuple[NDArray[np.float32], GroupSums]:
        """Return the ranges of groups made of `factor` ones each, and what a table says of them.

        Every `step`-th group counts among the ratios.
        """
        rows, units = groups.low.shape
        ranges = np.empty((rows, -(-units // factor)), np.float32)
        room = min(ranges.size, _BUCKETS // 2)
        counts, squares, found = np.empty(room, np.int64), np.empty(room), np.empty(2 * _RATIOS + 2)
        failed = self._library.sketch_groups(
            groups.low.ctypes.data, groups.high.ctypes.data, groups.total.ctypes.data, rows, units, groups.length,
            factor, step, ranges.ctypes.data, counts.ctypes.data, squares.ctypes.data, found.ctypes.data,
        )  # fmt: skip
        if failed:
            raise MemoryError("there is no memory to look at groups of weights")
        ratios = found[:_RATIOS] + found[_RATIOS : 2 * _RATIOS]
        buckets = int(found[-1:].view(np.int64)[0])
        return ranges, GroupSums(counts[:buckets], squares[:buckets], ratios, float(found[-2]))

    def members(self, flat: Tensor, bucket: int, most: int) -> NDArray[np.float64] | None:
        """Return the magnitudes in one bucket that are not 0, in order; None if there are more than `most`."""
        found = np.empty(most)
        many = self._library.mask_members(
            flat.data_ptr(), _DTYPES[flat.dtype], flat.numel(), bucket, found.ctypes.data, most
        )
        return found[:many] if many <= most else None

    def mark_above(self, flat: Tensor, limit: float, out: Tensor) -> None:
        """Write to the bool tensor `out` which magnitudes are above a limit, a number of their dtype or of float32."""
        self._library.mask_above(flat.data_ptr(), _DTYPES[flat.dtype], flat.numel(), limit, out.data_ptr())


@cache
def cpu_kernel() -> CpuKernel | None:
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
    return CpuKernel(found)


def kernel_for(rows: Tensor) -> CpuKernel | None:
    """Return the kernel if it can look at a matrix: contiguous, on the CPU, of a float dtype."""
    fits = rows.device.type == "cpu" and rows.is_contiguous() and rows.dtype in _DTYPES and 0 < rows.numel() < _MOST
    return cpu_kernel() if fits and type(rows) in (Tensor, torch.nn.Parameter) else None


def sum_of_squares(values: Tensor) -> float:
    """Return Σ x², summed in float64, which holds the squares of all float32 numbers."""
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2


BIT_PATTERNS: Final = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers as wide as a float


# ---- operations on tensors ----
#
# On a CPU numpy does them several times as fast as torch, or without waiting for torch's threads.


# numbers, 32 KB of float64: BLAS starts threads for longer products, and those wait for each other
_RUN: Final = 4096
_BITS: Final = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8)


def mark_above(values: Tensor, limit: float, out: Tensor) -> None:
    """Write to the bool tensor `out` which float values are above a limit, itself a number of their dtype."""
    if _on_cpu(values):
        np.greater(values.numpy(), limit, out=out.numpy())
    else:
        torch.gt(values, limit, out=out)


def places_of(values: Tensor, wanted: float) -> Tensor:
    """Return the indices of the values that equal a number of their dtype."""
    if _on_cpu(values):
        return torch.from_numpy(np.flatnonzero(np.equal(values.numpy(), wanted)))
    return (values == wanted).nonzero().flatten()


def count_true(values: Tensor) -> int:
    """Return how many of the truth values are true."""
    return int(np.count_nonzero(values.numpy()) if _on_cpu(values) else values.count_nonzero())


def energy(values: Tensor) -> float:
    """Return Σ x² of flat float32 or float64 values, summed in float64.

    On a CPU by BLAS, twice as fast as a norm; in runs too short for it to start threads of its own.
    """
    if not _on_cpu(values):
        return sum_of_squares(values)
    numbers = values.numpy().astype(np.float64)
    whole = len(numbers) // _RUN * _RUN
    runs, rest = numbers[:whole].reshape(-1, _RUN), numbers[whole:]
    return float((runs[:, None, :] @ runs[:, :, None]).sum()) + float(rest @ rest)


def selected(values: Tensor, keep: Tensor) -> Tensor:
    """Return the flat values where `keep` is true, as ``values[keep]``, which is several times slower on a CPU."""
    return values.index_select(0, _places(keep)) if _on_cpu(values) else values[keep]


def scatter_(values: Tensor, keep: Tensor, new: Tensor) -> Tensor:
    """Write `new` in order to where `keep` is true of flat values, as ``masked_scatter_``, and return them."""
    return values.scatter_(0, _places(keep), new) if _on_cpu(values) else values.masked_scatter_(keep, new)


def _places(keep: Tensor) -> Tensor:
    return torch.from_numpy(np.flatnonzero(keep.numpy()))


def zeroed(values: Tensor, keep: Tensor) -> Tensor:
    """Return a copy of float values with +0.0 where `keep` is false."""
    if not _on_cpu(values):
        return values.masked_fill(~keep, 0)
    # as whole numbers: a float times 0 may be -0.0 or NaN, and filling by a mask takes six times as long
    pattern = BIT_PATTERNS[values.dtype.itemsize]
    return torch.from_numpy(np.multiply(values.view(pattern).numpy(), keep.numpy())).view(values.dtype)


def packed_bits(values: Tensor) -> Tensor:
    """Return flat truth values as bits, eight to a byte, the first in its lowest; zeros fill the last."""
    if _on_cpu(values):
        return torch.from_numpy(np.packbits(values.numpy(), bitorder="little"))
    return (pad(values.byte(), (0, -len(values) % 8)).view(-1, 8) * _BITS.to(values.device)).sum(1, dtype=torch.uint8)


def unpacked_bits(packed: Tensor, count: int) -> Tensor:
    """Undo `packed_bits` for `count` values."""
    if _on_cpu(packed):
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=count, bitorder="little").view(np.bool_))
    return (packed[:, None] & _BITS.to(packed.device)).ne(0).view(-1)[:count]


def codes_of(values: Tensor) -> Tensor:
    """Return whole numbers from 0 to 255 as uint8."""
    if not _on_cpu(values):
        return values.to(torch.uint8)
    with np.errstate(invalid="ignore"):  # of weights that became NaN: told by name once the layer has been measured
        return torch.from_numpy(values.numpy().astype(np.uint8))


def working(piece: Tensor) -> Tensor:
    """Return the values in the dtype magnitudes are compared in: float64 as it is, everything else as float32."""
    return piece if piece.dtype == torch.float64 else piece.float()


def magnitude(piece: Tensor) -> Tensor:
    """Return the magnitudes in the dtype they are compared in."""
    return working(piece).abs()


def round_half_even_(values: Tensor) -> Tensor:
    """Round the values in place, halves to the even neighbour, and return them."""
    if not _on_cpu(values):
        return values.round_()
    numbers = values.numpy()
    np.rint(numbers, out=numbers)
    return values


def places_among(values: Tensor, bounds: Tensor) -> Tensor:
    """Return how many of at most 255 ascending bounds are below each value, uint8."""
    if _on_cpu(values):
        # at most 255 bounds, so at most 255 of them below: a byte holds it
        return torch.from_numpy(np.searchsorted(bounds.numpy(), values.numpy()).astype(np.uint8))
    return torch.bucketize(values, bounds, out_int32=True).to(torch.uint8)


def nearest(values: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the entry of an ascending codebook nearest to each value, uint8: the lower one halfway."""
    return places_among(values, midpoints(codebook))


def midpoints(values: Tensor) -> Tensor:
    """Return the float32 numbers halfway between neighbouring values."""
    # halved before they are added: two of the largest numbers would overflow
    return values[:-1] / 2 + values[1:] / 2


def ascending(values: Tensor) -> Tensor:
    """Return flat float32 values sorted."""
    return torch.from_numpy(np.sort(values.numpy())) if _on_cpu(values) else values.sort().values


def _on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu"


NM_PATTERNS: Final = {"2:4": (2, 4), "1:4": (1, 4), "4:8": (4, 8)}
"""n:m patterns, which keep n of every m neighbours."""


@dataclass(frozen=True, slots=True, eq=False)
class Zeros:
    """How many weights of a layer are zero, how many of them are -0.0, and how many others each n:m pattern keeps."""

    zeros: int
    negative: int
    blocks: Mapping[str, int]


def count_zeros(rows: Tensor) -> Zeros:
    """Count the zeros of a matrix."""
    kernel = kernel_for(rows)
    if kernel is not None:
        zero, negative, blocks = kernel.zeros(rows)
        return Zeros(zero, negative, dict(zip(NM_PATTERNS, blocks, strict=True)))
    zero = negative = 0
    kept = dict.fromkeys(NM_PATTERNS, 0)
    for some in torch.split(rows, max(1, chunk_size(rows.device) // rows.shape[1])):
        filled = some != 0
        absent = some.numel() - int(torch.count_nonzero(filled))
        positive = some.numel() - int(torch.count_nonzero(some.view(BIT_PATTERNS[some.dtype.itemsize])))
        zero, negative = zero + absent, negative + absent - positive
        counted: dict[int, tuple[Tensor, Tensor]] = {}
        for pattern, (n, m) in NM_PATTERNS.items():
            if m not in counted:
                counted[m] = _filled_of_blocks(filled, m)
            kept[pattern] += sum(int(blocks.clamp(max=n).sum()) for blocks in counted[m])
    return Zeros(zero, negative, kept)


def _filled_of_blocks(filled: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return how many of each block of m neighbours are true: of the whole blocks, and of those that end the rows."""
    whole = filled.shape[1] - filled.shape[1] % m
    # a block is one integer of m bytes, each 0 or 1; times 0x0101…, its top byte is their sum: faster than sum(1)
    words = filled[:, :whole].reshape(-1).view(torch.int32 if m == 4 else torch.int64)
    ones = int.from_bytes(b"\1" * m, "big")
    return (words * ones) >> (8 * m - 8), filled[:, whole:].sum(1)


# ---- checksums ----


_WORDS: Final = 1 << 15  # of 8 bytes, in a CPU's cache together with what they are multiplied by


@torch.no_grad()
def checksum(tensor: Tensor) -> int:
    """Return 64 bits that depend on every bit of a tensor and its place.

    Eight bytes at a time are one word; each is multiplied by an odd number of its place, and all are added, modulo
    2⁶⁴. So any change of one word changes the sum, and others do except in one case in 2⁶⁴. For a tensor that has no
    bytes of its own (a quantized or wrapped one) its counter of changes stands.
    """
    raw = bytes_of(tensor)
    return hash((id(tensor), tensor._version)) if raw is None else checksum_of_bytes(raw)


@torch.no_grad()
def bytes_of(tensor: Tensor) -> Tensor | None:
    """Return a tensor's bytes, None for one that has none of its own."""
    try:
        raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        return raw if raw.device.type in ("cpu", "cuda") else raw.cpu()
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return None


@torch.no_grad()
def checksum_of_bytes(raw: Tensor) -> int:
    """Return the checksum of bytes."""
    # A sum of words would miss those that change places, so each has a factor. The factors repeat after a block, whose
    # sum therefore has one of its own; being odd, all can be undone modulo 2**64, and no change is multiplied away.
    whole = len(raw) // 8 * 8
    words = raw[:whole]
    # A tensor may begin anywhere in a larger buffer, such as a file that was mapped.
    if words.storage_offset() % 8 or words.data_ptr() % 8:  # int64 has to lie at a multiple of 8
        words = words.clone()
    factors = _factors(str(raw.device))
    product, total = torch.empty_like(factors), 0
    for number, piece in enumerate(torch.split(words.view(torch.int64), _WORDS)):
        part = torch.mul(piece, factors[: len(piece)], out=product[: len(piece)])
        # torch's int64 wraps around, which is arithmetic modulo 2⁶⁴; Python's integers are cut to it at the end.
        total += int(part.sum()) * (2 * number + 1)
    tail = int.from_bytes(bytes(raw[whole:].tolist()), "little")
    return (total * 31 + tail) & 0xFFFF_FFFF_FFFF_FFFF


@cache
def _factors(device: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(-(1 << 62), 1 << 62, (_WORDS,), generator=generator) * 2 + 1).to(device)
