"""Bytes on disk: the packed file against what torchao's weight-only quantization saves."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

import shrinkwidget as sw

from .machine_info_and_wait_for_calm import Calm
from .result_rows_and_timing import Figure, Row

WIDTH, GROUP = 1024, 32


def rows(_calm: Calm) -> Iterator[Row]:
    """Yield the rows of this part."""
    logging.getLogger("torchao").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import IntxWeightOnlyConfig, PerGroup

        int4 = torch.int4  # type: ignore[attr-defined]
        theirs = _saved(IntxWeightOnlyConfig(weight_dtype=int4, granularity=PerGroup(GROUP)))
        opaque = _opaque()
    ours = Figure((sw.compress(_model(), sw.Recipe(bits=4, granularity=GROUP)).nbytes / 1e6,))
    what = f"4 bits in groups of {GROUP}, two {WIDTH}×{WIDTH} Linear layers"
    yield Row(
        what,
        ours,
        "MB",
        against="torch.save of torchao's IntxWeightOnlyConfig(torch.int4, PerGroup(32))",
        theirs=theirs,
        smaller=0.55,
        note="torchao keeps int4 in int8, and scales in float32",
    )
    if opaque is not None:
        yield Row(
            what,
            ours,
            "MB",
            against="torch.save of torchao's PrototypeInt4WeightOnlyConfig(32)",
            theirs=opaque,
            note="a prototype that packs int4 for its CPU kernels; float32 scales and zeros",
        )
    half = sw.compress(_model(), sw.Recipe(sparsity=0.5, bits=4, granularity=GROUP, structure="2:4")).nbytes / 1e6
    yield Row("the same, 2:4 sparse", Figure((half,)), "MB", against="our dense 4-bit file", theirs=ours)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2)))


def _saved(config: Any) -> Figure:
    """Return the megabytes of a state dict saved after `quantize_`."""
    from torchao.quantization import quantize_

    model = _model()
    quantize_(model, config)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return Figure((file.getbuffer().nbytes / 1e6,))


def _opaque() -> Figure | None:
    """Return what torchao's packed prototype saves, where this version has it."""
    try:
        from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig
    except ImportError:
        return None
    return _saved(PrototypeInt4WeightOnlyConfig(group_size=GROUP))
