"""Make neural networks smaller, and see what it costs while you drag.

import shrinkwidget as sw

ex = sw.explore(model, data)             # the instrument: drag sparsity and bits
small = sw.compress(model, ex.recipe)    # a new model; yours is untouched
small.save("small.safetensors")          # exactly as small as the screen said
"""

from __future__ import annotations

from . import demo
from .compressed import Compressed, compress, load
from .errors import DataError, FileError, ModelError, RecipeError, ShrinkError
from .measure.estimate import Estimate, estimate
from .measure.size import Size, measure
from .measure.sketch import Sketch, sketch
from .recipe import Keep, Recipe
from .train.evaluate import Score, evaluate, running
from .widgets.explorer import Explorer, explore

__version__ = "0.1.0"

__all__ = [
    "Compressed",
    "DataError",
    "Estimate",
    "Explorer",
    "FileError",
    "Keep",
    "ModelError",
    "Recipe",
    "RecipeError",
    "Score",
    "ShrinkError",
    "Size",
    "Sketch",
    "compress",
    "demo",
    "estimate",
    "evaluate",
    "explore",
    "load",
    "measure",
    "running",
    "sketch",
]
