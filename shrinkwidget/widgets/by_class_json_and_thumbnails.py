"""What the page is told of changes by class: counts, confusions, and the misread images as small pictures."""

from __future__ import annotations

import base64
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from ..evaluation.compare_predictions import PredictionComparison

IMAGES: Final = 24
"""Misread images that are shown, and kept, of a recipe."""
_SIDE: Final = 48
"""The longest side of a small picture in pixels: as large as it is shown."""
_CONFUSIONS: Final = 24


def small_picture(image: Tensor) -> Tensor:
    """Return an image (C×H×W or H×W, any range) as bytes H×W×C, at most 48 pixels a side, darkest 0 and lightest 255.

    Inputs are normalized in as many ways as there are datasets, and a picture that is stretched to its own range shows
    what it is in all of them.
    """
    pixels = image.detach().float().cpu()
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if (longest := max(pixels.shape[1:])) > _SIDE:
        height, width = (max(1, round(side * _SIDE / longest)) for side in pixels.shape[1:])
        pixels = F.interpolate(pixels[None], (height, width), mode="area")[0]
    low, high = float(pixels.min()), float(pixels.max())
    stretched = (pixels - low) / (high - low) * 255 if high > low else torch.zeros_like(pixels)
    return stretched.round().to(torch.uint8).permute(1, 2, 0).contiguous()


def by_class_dict(found: PredictionComparison) -> dict[str, Any]:
    """Return plain JSON-able values of a comparison whose images are small pictures."""
    pairs = zip(found.before.by_class, found.after.by_class, strict=False)
    label = {example: (label, predicted) for example, label, predicted in found.misread}
    return {
        "n": found.after.n,
        "only_classes": found.only_classes,
        "classes": [[old.labels, old.correct, new.correct, old.predicted, new.predicted] for old, new in pairs],
        "misread": len(found.misread),
        "fixed": found.fixed,
        "confusions": [list(pair) for pair in found.confusions[:_CONFUSIONS] if pair.after > 0],
        "images": [
            {
                "example": example,
                "label": label[example][0],
                "predicted": label[example][1],
                "width": image.shape[1],
                "height": image.shape[0],
                "channels": image.shape[2],
                "pixels": base64.b64encode(image.numpy().tobytes()).decode(),
            }
            for example, image in found.images.items()
        ],
    }
