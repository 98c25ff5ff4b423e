"""What flows into the weights of a layer: mean and second moments of its inputs, from calibration batches.

A layer is a matrix of output channels × inputs here, and a convolution one whose inputs are the patches that its kernel
is laid on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_INPUTS: Final = 16_384
_INPUTS_A_COLUMN: Final = 16
"""So many inputs of a layer are counted, or so many for each of its columns if that is more. A convolution has one for
every pixel: many times what its moments need, and neighbours hardly differ."""


@dataclass(slots=True, eq=False)
class InputMoments:
    """The inputs of one layer, summed up. A convolution's groups see inputs of their own.

    Args:
        total: Σ x, float32 ``[groups, columns]``.
        second: Σ x xᵀ, float32 ``[groups, columns, columns]``; None where only the mean is wanted.
        n: how many inputs.
    """

    total: Tensor
    second: Tensor | None = None
    n: int = 0

    @property
    def mean(self) -> Tensor:
        """The mean input, ``[groups, columns]``."""
        return self.total / max(1, self.n)

    def add(self, x: Tensor) -> None:
        """Count inputs, float32 ``[groups, n, columns]``."""
        self.total += x.sum(1)
        self.n += x.shape[1]
        if self.second is not None:
            # in place: of a wide layer nothing here is as large
            self.second.baddbmm_(x.mT, x)


def why_no_moments(module: nn.Module) -> str:
    """Return why the inputs of a module are no rows that its weights multiply, "" if they are."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d) or type(module).__name__ == "Conv1D":
        return ""
    return f"{type(module).__name__} is no linear layer, nor a convolution of one or two dimensions"


@contextmanager
def collecting(
    layers: Mapping[str, Sequence[nn.Module]], batches: int, means_only: bool = False
) -> Iterator[dict[str, InputMoments]]:
    """Collect the moments of layers, by name, while their network runs so many batches in here.

    Modules under one name share their weights, and so their moments.
    """
    found: dict[str, InputMoments] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> None:
        calls = batches * len(layers[name])
        found[name] = with_call(found.get(name), module, args, kwargs, calls, means_only)

    with ExitStack() as hooks:
        for name, sharing in layers.items():
            for module in sharing:
                # the name of this very layer, not of the last one
                hooks.enter_context(
                    module.register_forward_pre_hook(
                        lambda m, args, kwargs, name=name: note(m, args, kwargs, name), with_kwargs=True
                    )
                )
        yield found


def with_call(
    moments: InputMoments | None,
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    calls: int,
    means_only: bool = False,
) -> InputMoments:
    """Return moments, None for those of nothing, with what a module is given in one of so many calls counted."""
    inputs = (args[0] if args else next(iter(kwargs.values()))).detach().float()
    weight, groups = module.get_parameter("weight"), cast(int, getattr(module, "groups", 1))
    # Hugging Face's Conv1D is a linear layer whose weight is stored inputs × outputs
    width = weight.shape[0] if type(module).__name__ == "Conv1D" else weight[0].numel()
    if moments is None:
        second = None if means_only else inputs.new_zeros(groups, width, width)
        moments = InputMoments(inputs.new_zeros(groups, width), second)
    # shared out among the calls, so that all batches count alike
    most = max(_INPUTS, _INPUTS_A_COLUMN * width) // calls + 1
    moments.add(_inputs(module, inputs, groups, most))
    return moments


def _inputs(module: nn.Module, inputs: Tensor, groups: int, most: int) -> Tensor:
    """Return at most so many inputs of a layer, ``[groups, n, columns]``, evenly spread over the batch."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        rows = inputs.reshape(-1, inputs.shape[-1])
        return rows[_spread(len(rows), most, rows.device)][None]
    # a single image is a batch of one
    images = inputs if inputs.ndim == len(module.kernel_size) + 2 else inputs[None]
    # torch's own list of pads: padding="same" says no numbers
    pads = module._reversed_padding_repeated_twice
    images = F.pad(images, pads, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)
    kernel, stride, dilation = (tuple(getattr(module, name)) for name in ("kernel_size", "stride", "dilation"))
    if isinstance(module, nn.Conv1d):
        images, kernel, stride, dilation = images[..., None, :], (1, *kernel), (1, *stride), (1, *dilation)
    # views: a patch for each pixel of the output, its weights in the kernel's order
    patches = images.unfold(2, dilation[0] * (kernel[0] - 1) + 1, stride[0])
    patches = patches.unfold(3, dilation[1] * (kernel[1] - 1) + 1, stride[1])[..., :: dilation[0], :: dilation[1]]
    n, channels, height, width = patches.shape[:4]
    place = _spread(n * height * width, most, images.device)
    # only the patches that are counted are copied: all of them would be many times the images
    taken = patches.permute(0, 2, 3, 1, 4, 5)[place // (height * width), place // width % height, place % width]
    return taken.reshape(len(place), groups, channels // groups * kernel[0] * kernel[1]).transpose(0, 1)


def _spread(n: int, most: int, device: torch.device) -> Tensor:
    """Return at most so many of n places, evenly spread."""
    taken = min(n, most)
    return torch.arange(taken, device=device) * n // max(1, taken)
