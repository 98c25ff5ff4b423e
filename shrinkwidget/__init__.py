"""Make neural networks smaller, and see what it costs while you drag.

import shrinkwidget as sw

ex = sw.explore(model, eval_data)                      # the instrument: drag sparsity and bits
small = sw.compress(model, ex.recipe)                  # a new model; yours is untouched
small = sw.retrain(small, train_data, eval_data)       # what it lost, learnt again
small.save("small.safetensors")                        # exactly as small as the screen said

How networks are trained is in `shrinkwidget.methods`, figures for reports in `shrinkwidget.figures`, what functions
return in `shrinkwidget.results`, what can go wrong in `shrinkwidget.errors`.

Nothing else is imported before the first of these names is used: torch takes seconds, and Jupyter's server, which
imports `shrinkwidget.server` whenever it starts, needs none of it.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "CompressedModel",
    "Keep",
    "Recipe",
    "Score",
    "channels",
    "compare_predictions",
    "compress",
    "constrain",
    "demo",
    "errors",
    "estimate",
    "evaluate",
    "explore",
    "figures",
    "fits",
    "fold_batchnorm",
    "from_sklearn",
    "frontier",
    "load",
    "methods",
    "monitor",
    "performance",
    "plan",
    "prune_and_retrain",
    "race",
    "recover",
    "results",
    "retrain",
    "sensitivity",
    "sketch",
    "summary",
    "sweep",
    "to_html",
    "transfer",
    "workshop",
]

if TYPE_CHECKING:  # a module's __getattr__ makes type checkers take any name for one that is there
    from . import demo, errors, figures, methods, performance, results, workshop
    from .analysis.estimate_from_sketch import estimate
    from .analysis.model_summary import summary
    from .compressed_model import CompressedModel, compress, load
    from .compression.batchnorm_folding import fold_batchnorm
    from .compression.find_and_prune_channels import channels
    from .evaluation.compare_predictions import compare_predictions
    from .evaluation.evaluate_and_metrics import Score, evaluate
    from .evaluation.sensitivity import sensitivity
    from .evaluation.sketch_and_calibration_data import sketch
    from .explore_and_monitor import explore, monitor
    from .integrations.sklearn import from_sklearn
    from .live_page import to_html
    from .performance.device_fit import fits
    from .performance.race import race
    from .planning.frontier_of_several_budgets import frontier
    from .planning.plan import plan
    from .recipe_and_method_registry import Keep, Recipe
    from .recovery.recover import recover
    from .sweeps.sweep import sweep
    from .training.custom_loop import constrain
    from .training.retrain_and_training_run import prune_and_retrain, retrain
    from .transfer_learning.transfer import transfer
else:
    _PLACES = {
        "analysis.estimate_from_sketch": ("estimate",),
        "analysis.model_summary": ("summary",),
        "compressed_model": ("CompressedModel", "compress", "load"),
        "compression.batchnorm_folding": ("fold_batchnorm",),
        "compression.find_and_prune_channels": ("channels",),
        "evaluation.sketch_and_calibration_data": ("sketch",),
        "evaluation.compare_predictions": ("compare_predictions",),
        "evaluation.evaluate_and_metrics": ("Score", "evaluate"),
        "evaluation.sensitivity": ("sensitivity",),
        "explore_and_monitor": ("explore", "monitor"),
        "integrations.sklearn": ("from_sklearn",),
        "live_page": ("to_html",),
        "performance.device_fit": ("fits",),
        "performance.race": ("race",),
        "planning.frontier_of_several_budgets": ("frontier",),
        "planning.plan": ("plan",),
        "recipe_and_method_registry": ("Keep", "Recipe"),
        "recovery.recover": ("recover",),
        "sweeps.sweep": ("sweep",),
        "training.custom_loop": ("constrain",),
        "training.retrain_and_training_run": ("prune_and_retrain", "retrain"),
        "transfer_learning.transfer": ("transfer",),
    }
    """The modules of the public names that are no modules themselves."""

    _ELSEWHERE = {
        "finetune": "retrain",
        "gptq": "recover",
        "measure": "summary",
        "prune": "compress",
        "quantize": "compress",
        "train": "retrain",
    }
    """What is looked for at the top under another name."""

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used, or say where a name is that is not here."""
        if find_spec(f".{name}", __name__):
            return import_module(f".{name}", __name__)
        for place, found in _PLACES.items():
            if name in found:
                if place.startswith(("training.", "transfer_learning.", "recovery.")):
                    from . import explore_and_monitor  # noqa: F401  # registers how a notebook shows a training
                globals()[name] = value = getattr(import_module(f".{place}", __name__), name)
                return value
        if name.startswith("__"):  # Python itself asks for names like __wrapped__
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import demo, errors, methods, performance, results

        place = next(
            (module.__name__ for module in (methods, errors, demo, performance, results) if name in module.__all__),
            None,
        )
        hint = f"; it is {place}.{name}" if place else errors.nearest(_ELSEWHERE.get(name, name), __all__, cutoff=0.7)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    """Return what is public: the folders beside it are not."""
    return [*__all__, "__version__"]
