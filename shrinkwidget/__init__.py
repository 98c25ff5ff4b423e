"""Make neural networks smaller, and see what it costs while you drag.

import shrinkwidget as sw

ex = sw.explore(model, data)             # the instrument: drag sparsity and bits
small = sw.compress(model, ex.recipe)    # a new model; yours is untouched
small = sw.retrain(small, train, data)   # what it lost, learnt again
small.save("small.safetensors")          # exactly as small as the screen said
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import demo, methods
from .compressed import Compressed, compress, load
from .errors import DataError, FileError, MissingPackageError, ModelError, RecipeError, ShrinkError, TrainingError
from .learn.api import prune_and_retrain, retrain
from .learn.custom_loop import ConstrainedTraining, constrain
from .learn.methods import FineTune, GradualPruning, ReestimateNorms, RewindLearningRate, RewindWeights
from .learn.options import Distil, Training
from .learn.progress import Progress
from .learn.run import Run
from .learn.schedule import Schedule
from .measure.estimate import Estimate, estimate
from .measure.size import Size, measure
from .measure.sketch import Sketch, sketch
from .notebook import explore, monitor, widget_class
from .recipe import Keep, Recipe
from .shrink.fold import fold_batchnorm
from .teach.api import transfer
from .teach.result import Transferred
from .teach.spent import Spent
from .teach.strategies import FineTuneAll, Gradual, Head, LowRank
from .train.evaluate import Score, evaluate, running
from .train.metrics import Metric

if TYPE_CHECKING:
    from .widgets.explorer import Explorer as Explorer
    from .widgets.monitor import Monitor as Monitor

__version__ = "0.1.0"

__all__ = [
    "Compressed",
    "ConstrainedTraining",
    "DataError",
    "Distil",
    "Estimate",
    "FileError",
    "FineTune",
    "FineTuneAll",
    "Gradual",
    "GradualPruning",
    "Head",
    "Keep",
    "LowRank",
    "Metric",
    "MissingPackageError",
    "ModelError",
    "Progress",
    "Recipe",
    "RecipeError",
    "ReestimateNorms",
    "RewindLearningRate",
    "RewindWeights",
    "Run",
    "Schedule",
    "Score",
    "ShrinkError",
    "Size",
    "Sketch",
    "Spent",
    "Training",
    "TrainingError",
    "Transferred",
    "compress",
    "constrain",
    "demo",
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
    "running",
    "sketch",
    "transfer",
]

if not TYPE_CHECKING:  # a module's __getattr__ makes type checkers take any name for one that is there

    def __getattr__(name: str) -> type:
        """Import the classes of the widgets, and with them Jupyter, when they are asked for."""
        if name not in ("Explorer", "Monitor"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return widget_class(name)
        except MissingPackageError as error:
            raise AttributeError(str(error)) from error  # what hasattr and help expect of a name that is not there


def __dir__() -> list[str]:
    return [*__all__, "Explorer", "Monitor", "__version__"]
