"""Prune what the loss feels least: |w · ∂L/∂w| (Molchanov et al., arXiv 1906.10771)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ...analysis.tensor_ops_threads_and_cpu_kernel import magnitude
from ...errors import DataError
from ...recipe_and_method_registry import Choice, Importance, register, setting

if TYPE_CHECKING:
    from ...evaluation.sketch_and_calibration_data import CalibrationRun


@register
@dataclass(frozen=True, repr=False)
class Taylor(Importance):
    """How much the loss would change without a weight, to first order, as the root mean square over the batches.

    The squares are taken batch by batch (equation 8 of the paper): over all examples of a trained network the gradients
    would cancel. Smaller batches tell more. The calibration data needs labels.

    Args:
        loss: ``"cross_entropy"``, or ``"mse"`` for a regression.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), 0.8, importance="taylor", calibration=sw.demo.few(per_class=8))
        >>> round(small.estimate.sparsity, 2)
        0.8
    """

    kind: ClassVar[str] = "taylor"
    label: ClassVar[str] = "Taylor"
    title: ClassVar[str] = "weight times the gradient of the loss: needs calibration data with labels"
    calibrated: ClassVar[bool] = True

    loss: str = setting(
        "cross_entropy",
        Choice(
            "loss", (("cross_entropy", "cross entropy", "of class labels"), ("mse", "squared error", "of a regression"))
        ),
    )

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return |w| times the root mean square of its gradient."""
        del name
        return magnitude(rows) if statistic is None else magnitude(rows) * statistic

    def observe(self, calibration: CalibrationRun) -> Mapping[str, Tensor]:
        """Return the root mean square over the batches of the gradient at each weight."""
        network = calibration.network
        named = {n: p.requires_grad_() for n, p in network.named_parameters() if p.is_floating_point()}
        sums: dict[str, Tensor] = {}
        batches = 0
        for loss in calibration.losses(self.loss):
            if not bool(loss.isfinite()):
                raise DataError("the loss is not finite: look at the labels, and at outputs that overflow")
            gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
            batches += 1
            for name, gradient in zip(named, gradients, strict=True):
                if gradient is not None:
                    # squared before they are added: where a network is trained, gradients cancel out over the batches
                    square = gradient.detach().float().square()
                    sums[name] = sums[name] + square if name in sums else square
        found = {name: (total / batches).sqrt() for name, total in sums.items()}
        # a tied weight has one gradient, which stands under all of its names
        tied = {id(p): found[n] for n, p in named.items() if n in found}
        return {n: tied[id(p)] for n, p in network.named_parameters(remove_duplicate=False) if id(p) in tied}
