"""Operations that numpy does several times as fast as torch on a CPU, or without waiting for torch's threads."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..analysis.quantization_group_histograms import sum_of_squares
from ..analysis.sketch import BIT_PATTERNS

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
