"""Rank channels by |γ| of their batch norm (Liu et al.: network slimming, arXiv 1708.06519)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ...recipe_and_method_registry import register
from .magnitude import Magnitude


@register
@dataclass(frozen=True, repr=False)
class BatchNormScale(Magnitude):
    """Channels by the scale γ of the batch norm that follows them; single weights by magnitude.

    Where several batch norms lie on one width (a residual stream), it is the mean of their γ², each divided by its mean
    over the width, so that widths compare in one ranking; the paper compares ``|γ|`` of all layers as they are. Widths
    without a batch norm are ranked by the norm of their weights, which `CompressedModel.warnings` tells. The paper
    trains with an L1 penalty on γ first, which pushes many of them to zero; without, γ tells little more than the norm
    (docs/compression.md).

    Example:
        >>> import torch, shrinkwidget as sw
        >>> small = sw.compress(
        ...     sw.demo.model(), channels=0.5, importance="batchnorm_scale", example=torch.zeros(1, 1, 8, 8)
        ... )
        >>> small.widths["stem"]
        (16, 8)
    """

    kind: ClassVar[str] = "batchnorm_scale"
    label: ClassVar[str] = "batch-norm scale"
    title: ClassVar[str] = "channels by the scale of their batch norm, single weights by magnitude"
    ranks_channels_by: ClassVar[tuple[type[nn.Module], ...]] = (nn.modules.batchnorm._BatchNorm,)
