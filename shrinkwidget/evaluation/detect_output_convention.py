"""Asks a model itself what its outputs do not tell: what its last operation is, and how its own loss pairs tokens."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..analysis.run_without_side_effects import eval_mode, preserve_rng_state
from .batches import Batch, unwrapped
from .model_outputs import tensors

_SQUASH: Final = ("Sigmoid", "Hardsigmoid", "Softmax", "Clamp", "Hardtanh")
"""Operations whose results within 0…1 are probabilities, by the names autograd gives them."""

_AFFINE: Final = (
    "Addmm",
    "Mm",
    "Bmm",
    "Addbmm",
    "Baddbmm",
    "Mv",
    "Addmv",
    "Convolution",
    "MkldnnConvolution",
    "Linear",
)
"""Operations whose results are not bounded, so that they are logits."""

_LIKENESS: Final = (
    "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Slice", "Select", "Transpose", "T", "Permute",
    "Clone", "ToCopy", "Alias", "AsStrided", "Expand", "Index", "Unbind", "Split", "ClampMin", "ClampMax",
)  # fmt: skip
"""Operations that only pass values on, or keep a probability from being just 0 or 1."""

_STEPS: Final = 32
_EXAMPLES: Final = 4


def ends_in_probability(model: nn.Module, batch: Batch, scores: Tensor) -> bool | None:
    """Tell whether scores are made by a sigmoid or by an affine layer; None if by anything else.

    Autograd's graph tells; where the scores have none, as in an evaluation, the model is run once more on one example.
    """
    if scores.grad_fn is not None:
        return _made_by(scores.grad_fn)
    return next((_made_by(o.grad_fn) for o in _run_again(model, batch) if o.grad_fn is not None), None)


def _made_by(node: Any) -> bool | None:
    for _ in range(_STEPS):
        name = re.sub(r"Backward\d*$", "", node.name())
        if name in _SQUASH:
            return True
        if name in _AFFINE:
            return False
        before = [parent for parent, _ in node.next_functions if parent is not None]
        if name not in _LIKENESS or len(before) != 1:
            return None
        node = before[0]
    return None


def _run_again(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
    """Yield the outputs of one example with the graph that made them, or nothing if it cannot be run so."""
    inner = unwrapped(model)
    args = [_with_gradient(x) for x in _few(batch.args, 1)]
    kwargs = {name: _with_gradient(x) for name, x in _few_named(batch.kwargs, 1).items()}
    try:
        with torch.inference_mode(False), torch.enable_grad(), preserve_rng_state(), eval_mode(inner):
            outputs = tensors(inner(*args, **kwargs))
    except Exception:  # noqa: BLE001  # it ran before; whatever fails here only tells nothing
        return
    yield from (x for x in outputs.values() if x.dtype.is_floating_point)


def outputs_with_labels(model: nn.Module, batch: Batch, labels: Tensor) -> Iterator[Any]:
    """Yield what the model, and modules inside it that take ``labels``, return when they are given these too.

    A few examples are run once more for each. Nothing is yielded for a module that fails with labels.
    """
    whole, some = unwrapped(model), labels[:_EXAMPLES]
    for inner in [module for module in whole.modules() if _takes_labels(module)]:
        seen: list[Any] = []

        def give(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            return args, {**kwargs, "labels": some}

        def note(_module: nn.Module, _args: Any, output: Any, seen: list[Any] = seen) -> None:
            seen.append(output)

        hooks = [inner.register_forward_pre_hook(give, with_kwargs=True), inner.register_forward_hook(note)]
        try:
            with torch.inference_mode(False), torch.no_grad(), preserve_rng_state(), eval_mode(whole):
                whole(*_few(batch.args, _EXAMPLES), **_few_named(batch.kwargs, _EXAMPLES))
        except Exception:  # noqa: BLE001  # as above
            seen.clear()
        finally:
            for hook in hooks:
                hook.remove()
        yield from seen


def _takes_labels(module: nn.Module) -> bool:
    try:
        return "labels" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # scripted
        return False


def _few(args: tuple[Any, ...], rows: int) -> list[Any]:
    return [x[:rows] if isinstance(x, Tensor) and x.ndim else x for x in args]


def _few_named(kwargs: dict[str, Any], rows: int) -> dict[str, Any]:
    return {name: x[:rows] if isinstance(x, Tensor) and x.ndim else x for name, x in kwargs.items()}


def _with_gradient(value: Any) -> Any:
    floating = isinstance(value, Tensor) and value.dtype.is_floating_point
    return value.detach().clone().requires_grad_() if floating else value
