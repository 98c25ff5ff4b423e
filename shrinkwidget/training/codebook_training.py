"""Weights that share the values of a codebook, and go on sharing them in training (arXiv 1510.00149)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..compression.numpy_kernels import nearest
from ..compression.quantization_grid import LayerWeights
from ..compression.quantize import fit
from ..recipe import Plan


def has_codebook(plan: Plan) -> bool:
    """Tell whether a layer has a codebook that is trained."""
    return plan.bits <= 8 and plan.coder.shares_values


class SharedWeights:
    """Which value of its codebook every weight of a layer has.

    The gradient of each becomes the mean over all that share its value: the projection of the gradient onto what a
    codebook can express. (The paper takes the sum, and a smaller rate.) Any optimizer that treats weights alike then
    moves them alike, and no copy of the codebook has to be kept beside the weights.
    """

    def __init__(self, layer: LayerWeights, device: torch.device) -> None:
        survivors = layer.survivors().float()
        codebook = fit(layer).codebook
        if codebook is None:
            raise ValueError(f"{layer.plan.quantizer!r} shares values, but has no codebook")
        pruned = len(codebook)  # the cell of those that are
        cells = torch.full((len(layer.flat),), pruned, dtype=torch.int64, device=layer.flat.device)
        cells[slice(None) if layer.keep is None else layer.keep] = nearest(survivors, codebook).long()
        cells = layer.layout.restored(cells, layer.shape).reshape(-1)  # in the parameter's own order
        self._cells = cells.to(device)  # a layer on Metal is looked at on the CPU
        self._codebook = torch.cat([codebook, codebook.new_zeros(1)]).to(device)
        self._counts = torch.bincount(self._cells, minlength=pruned + 1).clamp(min=1)
        self._first = torch.zeros_like(self._counts).scatter_reduce_(
            0, self._cells, torch.arange(len(cells), device=device), "amin", include_self=False
        )

    def start_(self, weights: Tensor) -> None:
        """Give every weight its value of the codebook."""
        weights.copy_(self._codebook[self._cells].view(weights.shape))

    def average_(self, gradient: Tensor) -> None:
        """Replace the gradient of every weight by the mean over those that share its value."""
        sums = torch.zeros_like(self._codebook).index_add_(0, self._cells, gradient.reshape(-1).float())
        gradient.copy_((sums / self._counts)[self._cells].view(gradient.shape))

    def tie_(self, weights: Tensor) -> None:
        """Give all that share a value that of the first: vector and scalar instructions may differ in the last bit."""
        weights.copy_(weights.reshape(-1)[self._first][self._cells].view(weights.shape))
