"""Prune by weights and activations: |w| · ‖x‖₂ (Sun, Liu, Bair, Kolter: Wanda, arXiv 2306.11695)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...analysis.tensor_ops_threads_and_cpu_kernel import magnitude
from ...recipe_and_method_registry import Importance, register

if TYPE_CHECKING:
    from ...evaluation.sketch_and_calibration_data import CalibrationRun


@register
@dataclass(frozen=True, repr=False)
class Wanda(Importance):
    """The magnitude of a weight times the norm of the input it multiplies, over all calibration examples.

    The paper compares weights within an output row, which is the scope it brings: ``"channel"``. No labels are needed.
    Reached are linear layers and convolutions, of which it is the norm of the input under each weight of the kernel.

    Example:
        >>> import shrinkwidget as sw
        >>> small = sw.compress(sw.demo.model(), 0.8, importance="wanda", calibration=sw.demo.few(per_class=8))
        >>> small.recipe.scope
        'channel'
    """

    kind: ClassVar[str] = "wanda"
    label: ClassVar[str] = "Wanda"
    title: ClassVar[str] = "magnitude times the norm of the input: needs calibration data"
    scope: ClassVar[str] = "channel"
    calibrated: ClassVar[bool] = True

    def scores(self, name: str, rows: Tensor, statistic: Tensor | None) -> Tensor:
        """Return |w| · ‖x‖₂."""
        del name
        return magnitude(rows) if statistic is None else magnitude(rows) * statistic

    def observe(self, calibration: CalibrationRun) -> Mapping[str, Tensor]:
        """Return ‖x‖₂ of the input under each weight, of the weight's shape."""
        network = calibration.network
        squares: dict[nn.Parameter, Tensor] = {}

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            weight = module.get_parameter("weight")
            inputs = args[0] if args else next(iter(kwargs.values()))
            seen = _squares_under(module, inputs.detach().float().square())
            squares[weight] = squares[weight] + seen if weight in squares else seen

        with ExitStack() as hooks:
            for module in network.modules():
                # what sums weight · input; Conv1D is Hugging Face's, which need not be installed
                if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) or type(module).__name__ == "Conv1D":
                    hooks.enter_context(module.register_forward_pre_hook(note, with_kwargs=True))
            for _ in calibration.forward():
                pass
        named = network.named_parameters(remove_duplicate=False)
        return {name: squares[p].sqrt() for name, p in named if p in squares}


def _squares_under(module: nn.Module, squares: Tensor) -> Tensor:
    """Return, for each weight, the sum of the squared inputs that it multiplies, of the weight's shape.

    That is the gradient of the sum of the outputs on squared inputs, whatever strides, groups or padding do.
    """
    if isinstance(module, nn.Linear):
        return squares.reshape(-1, squares.shape[-1]).sum(0).expand(module.weight.shape)
    # With zero weights and biases the module computes Σ w·x² with a gradient of exactly Σ x² at every weight.
    # functional_call, as the module's own weights must not change.
    own = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in module.named_parameters()}
    own["weight"].requires_grad_()
    with torch.enable_grad():
        total = functional_call(_Unhooked(module), {f"inner.{n}": p for n, p in own.items()}, (squares,)).sum()
        (found,) = torch.autograd.grad(total, own["weight"])
    return found


class _Unhooked(nn.Module):
    """Runs a module's forward without its hooks, one of which asks for this."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what the module makes of its inputs."""
        found: Tensor = self.inner.forward(inputs)
        return found
