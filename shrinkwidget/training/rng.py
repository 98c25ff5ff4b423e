"""Random numbers of a training: a function of its seed and its place alone, the caller's generators untouched."""

from __future__ import annotations

import random
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator  # whose names numpy.random does not declare

from ..analysis.parallel_tensor_ops import in_forked_children, uninterrupted

# In place of a step: an evaluation must not draw what a training step draws.
EVALUATION: Final = -1

# The generators are the process's own: two runs must not draw from them in turns. Reentrant, since a metric or an
# augmentation of the user's may train something itself.
_ONE_AT_A_TIME = threading.RLock()

# What numpy draws from while a step lasts. To save and set the state of the caller's would take 120 µs a step, one
# twentieth of a small network's.
_OURS: Final = np.random.MT19937()


def _forget() -> None:
    """A child that is forked while a run takes a step would wait for the end of that step for ever."""
    global _ONE_AT_A_TIME
    _ONE_AT_A_TIME = threading.RLock()


in_forked_children(_forget)


@contextmanager
def fork_rng(device: torch.device | None, *place: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's generators by a place, such as (seed, round, epoch, step), and put them back.

    Since every step is seeded by itself, a training that goes on after a pause, or in another process, draws what it
    would have drawn. The generators are the process's own: what another thread draws while a step lasts is drawn from
    the step's, and again after it. Of numpy's normal numbers, which are made in pairs, a second one that the caller has
    not drawn yet is lost: see `spare_normal_kept`.
    """
    seed = seed_at(*place)
    with _ONE_AT_A_TIME:
        before = random.getstate(), get_bit_generator(), torch.default_generator.get_state()
        gpu = device if device is not None and device.type == "cuda" else None
        on_gpu = None if gpu is None else torch.cuda.get_rng_state(gpu)

        def put_back() -> None:
            random.setstate(before[0])
            set_bit_generator(before[1])
            torch.default_generator.set_state(before[2])
            if gpu is not None and on_gpu is not None:
                torch.cuda.set_rng_state(on_gpu, gpu)

        try:
            random.seed(seed)
            set_bit_generator(np.random.MT19937() if before[1] is _OURS else _OURS)  # one fork may be within another
            np.random.seed(seed)  # noqa: NPY002  # what users' datasets draw from
            torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 20 times as long
            if gpu is not None:
                torch.cuda.manual_seed(seed)
            yield
        finally:
            uninterrupted(put_back)  # Ctrl-C in between would leave the user some generators of ours


@contextmanager
def spare_normal_kept() -> Iterator[None]:
    """Keep the normal number that numpy has in store for its next call, through any number of `fork_rng` inside.

    It belongs to no bit generator, and is forgotten when they are exchanged. What the caller draws meanwhile uses it
    up, and then there is nothing to keep.
    """
    with _ONE_AT_A_TIME:
        before = np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        yield
    finally:
        # Box–Muller makes normal numbers in pairs: numpy hands out one and keeps the other (`has_gauss`, `gauss`),
        # outside of the bit generator.
        if before["has_gauss"]:
            with _ONE_AT_A_TIME:
                now = np.random.get_state(legacy=False)  # noqa: NPY002
                if all(np.array_equal(now["state"].get(name), part) for name, part in before["state"].items()):
                    np.random.set_state(before)  # noqa: NPY002


def seed_at(*place: int) -> int:
    """Return 32 bits that depend on every number of a place."""
    # Python's hash() would do, but is not promised to stay the same, and a checkpoint of today must go on as begun.
    return zlib.crc32(repr(place).encode())
