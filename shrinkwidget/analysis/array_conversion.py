"""Arrays of numpy, JAX and TensorFlow as tensors."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ModelError


def is_array(value: object) -> bool:
    """Tell whether something is an array, but no tensor."""
    return not isinstance(value, Tensor) and hasattr(value, "__array__") and hasattr(value, "dtype")


def as_tensor(name: str, value: Any) -> Tensor:
    """Return an array as a tensor, without a copy where torch can use its memory.

    Raises:
        ModelError: for numbers torch has no type for, naming the array.
    """
    array = np.asarray(value)
    if array.dtype.name == "bfloat16":  # of ml_dtypes: numpy has none of its own
        return as_tensor(name, array.view(np.uint16)).view(torch.bfloat16)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if min(array.strides, default=0) < 0:
        array = array.copy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that cannot be written to: nobody does
            return torch.from_numpy(array)
    except TypeError as error:
        cure = "convert it with .astype('float64')" if array.dtype.kind == "f" else "leave it out"
        raise ModelError(f"{name!r} is an array of {array.dtype}, for which torch has no type: {cure}") from error
