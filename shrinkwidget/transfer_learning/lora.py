"""LoRA: freeze the weights and train a low-rank update beside each (arXiv 2106.09685)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..analysis.tied_and_parametrized_weights import plain_weights
from ..errors import ModelError

_ADAPTED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRankUpdate(nn.Module):
    """W + alpha/rank · B·A, as a parametrization of W (Hu et al., arXiv 2106.09685, section 4.1).

    A convolution's kernel O×I×… counts as the matrix O×(I·…). A starts random as torch's Linear does, B at zero, so
    that the network begins as it was. Where weights are pruned (`keep`, of the weight's shape), the update is, too.
    """

    keep: Tensor | None
    merged_later = True  # what is being trained is the update, not the weight it makes

    def __init__(self, weight: Tensor, rank: int, alpha: float, keep: Tensor | None) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.rank = min(rank, rows, columns)
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(self.rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, self.rank))
        self.register_buffer("keep", keep)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, of the weight's shape."""
        update = (self.up @ self.down).view(weight.shape) * self.scale
        return weight + (update if self.keep is None else update * self.keep)


def add_lora(network: nn.Module, heads: tuple[str, ...], rank: int, alpha: float, masks: Mapping[str, Tensor]) -> None:
    """Give every Linear and convolution but the head, transposed ones and shared weights, an update.

    `masks` say by the weight's name where weights are kept.

    Raises:
        ModelError: if there is none.
    """
    adapted = list(_adaptable(network, heads))
    if not adapted:
        raise ModelError(f"LoRA finds no Linear layer or convolution below {heads[0]!r} to update: take FullFineTune()")
    with torch.inference_mode(False):
        for name, module, weight in adapted:
            keep = masks.get(f"{name}.weight")
            mask = None if keep is None else keep.to(weight)
            parametrize.register_parametrization(module, "weight", LowRankUpdate(weight.detach(), rank, alpha, mask))


def _adaptable(network: nn.Module, heads: tuple[str, ...]) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    owners: dict[int, int] = {}
    for _, parameter in network.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    for name, module in network.named_modules():
        weight: Any = module._parameters.get("weight")
        if name not in heads and isinstance(module, _ADAPTED) and weight is not None and owners[id(weight)] == 1:
            yield name, module, weight


def merge_lora(network: nn.Module) -> None:
    """Write every update into its weight: classes, parameters and their order are again what they were."""
    for module in network.modules():
        if isinstance(module, LowRankUpdate):
            module.merged_later = False
    plain_weights(network)
