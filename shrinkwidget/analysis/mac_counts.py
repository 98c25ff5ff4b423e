"""Multiply-accumulates of torch's operations: how many each does, from the shapes it is given.

torch has a counter of its own (`torch.utils.flop_counter`), which this table is held against in the tests. It takes
1.5 s to import, refuses modules that are fed views of parameters (pytorch#131753), and leaves out matrix-vector
products, bilinear forms, and recurrent and attention kernels of some devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor


def _product(at: int, by: int) -> Callable[..., int]:
    """Matrix products: each element of the left operand meets each column of the right one."""

    def count(*args: Any, **_: Any) -> int:
        left, right = args[at], args[by]
        return int(left.numel() * (right.shape[-1] if right.ndim > 1 else 1))

    return count


def _into_rows(x: Tensor, *_: Any, out: Any, **__: Any) -> int:
    """Products with a matrix packed in an object of its own: what comes out tells its size."""
    return int(x.shape[-1] * out.numel())


def _convolution(x: Tensor, weight: Tensor, *rest: Any, out: Any, **options: Any) -> int:
    """Every position of the output (of the input, if transposed) meets every weight once.

    `rest`: bias, stride, padding, dilation, transposed, …
    """
    transposed = options.get("transposed", rest[4] if len(rest) > 4 else False)
    moved = x if transposed else out
    positions = math.prod(moved.shape[2:]) * (moved.shape[0] if moved.ndim == weight.ndim else 1)
    return int(positions * weight.numel())


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Scores of every query with every key, and their sums of values; keys may have fewer heads, which are shared."""
    return int(q.numel() * k.shape[-2] + math.prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1])


def _trilinear(
    left: Tensor, weight: Tensor, right: Tensor, a: list[int], b: list[int], c: list[int], *_: Any, **__: Any
) -> int:
    """x·W·y: one for each combination of indices; each operand lacks the axes in `a`, `b` and `c`."""
    shapes = []
    for tensor, missing in ((left, a), (weight, b), (right, c)):
        shape = list(tensor.shape)
        for axis in missing:
            shape.insert(axis, 1)
        shapes.append(shape)
    return math.prod(max(sizes) for sizes in zip(*shapes, strict=True))


def _recurrent(x: Tensor, weights: list[Tensor]) -> int:
    """Every matrix of a recurrent layer meets every time step once."""
    return int(math.prod(x.shape[:-1]) * sum(w.numel() for w in weights if w.ndim == 2))


_COUNTS: Final[dict[str, Callable[..., int]]] = {
    **dict.fromkeys(("aten.mm", "aten.bmm", "aten.mv", "aten.dot", "aten.vdot", "aten._int_mm"), _product(0, 1)),
    **dict.fromkeys(("aten._scaled_mm", "aten._grouped_mm", "aten._scaled_grouped_mm"), _product(0, 1)),
    **dict.fromkeys(("aten.addmm", "aten.baddbmm", "aten.addmv", "aten.addbmm"), _product(1, 2)),
    "aten._addmm_activation": _product(1, 2),
    **dict.fromkeys(("aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu"), _into_rows),
    "aten._weight_int8pack_mm": _into_rows,
    **dict.fromkeys(("quantized.linear", "quantized.linear_relu", "quantized.linear_dynamic"), _into_rows),
    **dict.fromkeys(("quantized.linear_relu_dynamic", "quantized.linear_dynamic_fp16"), _into_rows),
    **dict.fromkeys(("aten.convolution", "aten._convolution", "aten.convolution_overrideable"), _convolution),
    **dict.fromkeys(("aten.cudnn_convolution", "aten._slow_conv2d_forward"), _convolution),
    "aten._scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten._scaled_dot_product_flash_attention": _attention,
    "aten._scaled_dot_product_efficient_attention": _attention,
    "aten._scaled_dot_product_cudnn_attention": _attention,
    "aten._scaled_dot_product_fused_attention_overrideable": _attention,
    "aten._scaled_dot_product_attention_math_for_mps": _attention,
    "aten._trilinear": _trilinear,
    "aten.mkldnn_rnn_layer": lambda x, ih, hh, *_, **__: _recurrent(x, [ih, hh]),
    "aten._cudnn_rnn": lambda x, weights, *_, **__: _recurrent(x, weights),
    "aten._lstm_mps": lambda x, _hidden, weights, *_, **__: _recurrent(x, weights),
}


def known(func: Any) -> bool:
    """Tell whether an operation multiplies and accumulates, as far as the table knows."""
    return str(func.overloadpacket) in _COUNTS


def macs_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
    """Return the multiply-accumulates of one call of an operation, 0 for those the table does not have."""
    count = _COUNTS.get(str(func.overloadpacket))
    return 0 if count is None else count(*args, **kwargs, out=out)
