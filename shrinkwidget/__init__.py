"""Make neural networks smaller, and see what it costs while you drag.

import shrinkwidget as sw

ex = sw.explore(model, eval_data)                      # the instrument: drag sparsity and bits
small = sw.compress(model, ex.recipe)                  # a new model; yours is untouched
small = sw.retrain(small, train_data, eval_data)       # what it lost, learnt again
small.save("small.safetensors")                        # exactly as small as the screen said

How networks are trained is in `shrinkwidget.methods`, what can go wrong in `shrinkwidget.errors`.
"""

from __future__ import annotations

from . import demo, errors, methods
from .compressed import Compressed, compress, load
from .learn.api import prune_and_retrain, retrain
from .learn.custom_loop import constrain
from .learn.run import Run
from .measure.estimate import estimate
from .measure.size import measure
from .measure.sketch import sketch
from .notebook import explore, monitor
from .recipe import Keep, Recipe
from .shrink.fold import fold_batchnorm
from .teach.api import transfer
from .teach.result import Transferred
from .train.evaluate import Score, evaluate

__version__ = "0.1.0"

__all__ = [
    "Compressed",
    "Keep",
    "Recipe",
    "Run",
    "Score",
    "Transferred",
    "compress",
    "constrain",
    "demo",
    "errors",
    "estimate",
    "evaluate",
    "explore",
    "fold_batchnorm",
    "load",
    "measure",
    "methods",
    "monitor",
    "prune_and_retrain",
    "retrain",
    "sketch",
    "transfer",
]


def __dir__() -> list[str]:
    """Return what is public: the folders beside it are not."""
    return [*__all__, "__version__"]
