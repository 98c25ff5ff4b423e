"""The codes of one layer as other formats want them: steps or table entries, times a scale for each group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..compression.encode_layers_and_packed_model import (
    EncodedTensor,
    Groups,
    TensorRecord,
    dense_codes,
    spread,
    zero_codes,
)


@dataclass(frozen=True, slots=True, eq=False)
class LayerCodes:
    """What a layer's codes of up to 8 bits stand for: ``(units[code] − zero) · scale``.

    Args:
        encoded: the layer's codes, mask, scales and zero points.
        units: float32 ``[2^bits]``, the value of each code where scale is 1 and zero point 0.
    """

    encoded: EncodedTensor
    units: Tensor

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.encoded.plan.bits

    @property
    def groups(self) -> Groups:
        """How the weights share scales."""
        return self.encoded.groups

    @property
    def offset(self) -> int | None:
        """What to take from a code to get its unit; None where units are not evenly spaced by one."""
        first = -self.units[0]
        even = torch.equal(self.units, torch.arange(len(self.units), dtype=torch.float32) - first)
        return int(first) if even and float(first).is_integer() else None

    @property
    def integers(self) -> bool:
        """Whether every weight is a whole number of scales."""
        return self.encoded.scales is not None and bool((self.units == self.units.round()).all())

    def steps(self) -> Tensor:
        """Return the whole number of scales in every weight, int16 ``[n]`` row by row; 0 where it is pruned."""
        steps = self.units.to(torch.int16)[self.encoded.codes.int()]
        if self.encoded.zeros is None:
            return spread(self.encoded, steps)
        zeros = self.zeros_of_weights()
        keep = self.encoded.keep
        kept = zeros if keep is None else zeros[keep]
        return spread(self.encoded, steps - kept)

    def zeros_of_weights(self) -> Tensor:
        """Return the zero point of every weight, int16 ``[n]``."""
        codes = zero_codes(self.encoded.plan, self.encoded.matrix, self.encoded.zeros)
        return torch.as_tensor(codes).to(torch.int16).expand(self.encoded.n)

    def dense(self) -> Tensor:
        """Return a code for every weight, uint8 ``[n]``; a pruned one has the code of zero."""
        return dense_codes(self.encoded)


def layer_codes(encoded: EncodedTensor) -> LayerCodes | None:
    """Return what the codes of a layer stand for; None for plain floats of 16 or 32 bits."""
    plan = encoded.plan
    if plan.bits > 8:
        return None
    # Every quantizer, also one registered by a user, is asked what each code stands for: no exporter knows kinds.
    codes = torch.arange(2**plan.bits, dtype=torch.uint8)[None]
    one = torch.ones(1, 1) if plan.coder.has_scales else None
    zero = torch.zeros(1, 1) if encoded.zeros is not None else None
    # codes beyond the last of a table decode to nothing: they are never used
    last = plan.coder.largest_code(plan.bits)
    units = plan.coder.decode(codes[:, : last + 1], one, zero, encoded.codebook, plan.bits)[0].float()
    return LayerCodes(encoded, units)


def is_dense(record: TensorRecord, encoded: EncodedTensor) -> bool:
    """Tell whether the packed file has a code for every weight, and no mask."""
    return record.nbytes(encoded.kept).dense
