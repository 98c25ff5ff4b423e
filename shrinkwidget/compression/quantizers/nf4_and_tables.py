"""A fixed table of values times a scale for each group: NF4 (QLoRA, arXiv 2305.14314), or any table of your own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Final

import torch
from torch import Tensor

from ...analysis.tensor_ops_threads_and_cpu_kernel import nearest
from ...errors import RecipeError, quoted
from ...recipe_and_method_registry import Quantizer, register
from ..encode_layers_and_packed_model import Grid, LayerWeights, Piece

NF4_VALUES: Final = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of QLoRA's appendix E: quantiles of a normal distribution, the negative and the positive half apart, so
that zero is one of them."""


@dataclass(frozen=True, repr=False)
class _FixedTable(Quantizer):
    """A table in [−1, 1], ascending, times the largest magnitude of each group, rounded as the file stores scales."""

    def table(self) -> tuple[float, ...]:
        """Return the values, ascending."""
        raise NotImplementedError

    def zero_code(self, bits: int) -> int | None:
        """Return where the table has zero, if it has."""
        del bits
        return self.table().index(0.0) if 0.0 in self.table() else None

    def largest_code(self, bits: int) -> int:
        """Return the index of the last value."""
        del bits
        return len(self.table()) - 1

    def fit(self, layer: LayerWeights) -> Grid:
        """Return the largest magnitude of each group's survivors."""
        reach = torch.zeros(layer.groups.count, device=layer.flat.device)
        for piece in layer.pieces():
            reach[piece.groups] = torch.maximum(reach[piece.groups], piece.x.abs().amax(1))
        return layer.grid(reach)

    def encode(self, piece: Piece, grid: Grid) -> Tensor:
        """Return the index of the value nearest to each weight in units of its group's scale, the lower one halfway.

        A group whose scale is zero has the code of zero, or of the value nearest to it.
        """
        scale = grid.scale(piece)
        # x / inf is 0, so an all-zero group gets the code nearest to zero without a case of its own.
        return nearest(piece.x / torch.where(scale > 0, scale, torch.inf), self._values(piece.x))

    def decode(
        self, codes: Tensor, scales: Tensor | None, zeros: Tensor | None, codebook: Tensor | None, bits: int
    ) -> Tensor:
        """Return value · scale."""
        del zeros, codebook, bits
        if scales is None:
            raise ValueError("a table of values without scales")
        return self._values(scales)[codes.int()] * scales

    def _values(self, like: Tensor) -> Tensor:
        return torch.tensor(self.table(), dtype=like.dtype, device=like.device)


@register
@dataclass(frozen=True, repr=False)
class NF4(_FixedTable):
    """4-bit NormalFloat: 16 values that are equally likely where weights are normally distributed.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), quantizer="nf4", granularity=64)
        >>> small.recipe.bits
        4
    """

    kind: ClassVar[str] = "nf4"
    label: ClassVar[str] = "NF4"
    title: ClassVar[str] = "quantiles of a normal distribution times a scale: 4 bits"
    widths: ClassVar[tuple[int, ...]] = (4,)

    def table(self) -> tuple[float, ...]:
        """Return the values, ascending."""
        return NF4_VALUES


@register
@dataclass(frozen=True, repr=False)
class Table(_FixedTable):
    """Any table of 2 to 256 values in [−1, 1], such as those of another number format, in as many bits as it needs.

    Example:
        >>> import shrinkwidget as sw
        >>> ternary = sw.methods.Table(values=(-1, 0, 1))
        >>> small = sw.compress(sw.demo.model(), quantizer=ternary)
        >>> len(small.state_dict()["head.weight"][0].unique())  # one output channel, one scale
        3
    """

    kind: ClassVar[str] = "table"
    label: ClassVar[str] = "table"
    title: ClassVar[str] = "values of your own times a scale"

    values: tuple[float, ...] = (-1.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        numbers = isinstance(self.values, tuple | list) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and -1 <= x <= 1 for x in self.values
        )
        if not numbers or not 2 <= len(self.values) <= 256 or any(a >= b for a, b in pairwise(self.values)):
            raise RecipeError(
                f"Table(values={quoted(self.values)}) must be 2 to 256 different numbers from -1 to 1, ascending"
            )
        # −0.0 + 0.0 is 0.0: a table must not have a zero that `index(0.0)` finds and bits that differ.
        object.__setattr__(self, "values", tuple(float(x) + 0.0 for x in self.values))

    @property
    def widths(self) -> tuple[int, ...]:  # type: ignore[override]  # of this table
        """As many bits as its values need."""
        return (math.ceil(math.log2(len(self.values))),)

    def table(self) -> tuple[float, ...]:
        """Return the values, ascending."""
        return self.values
