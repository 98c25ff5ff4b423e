"""The models and trainings of a kernel, for the side panel "Models" of the JupyterLab extension.

The panel calls these functions as ``user_expressions`` of a silent request with no code: IPython evaluates them without
a prompt number, and In, Out, ``_`` and the history stay as they are. Names are looked up in the user's namespace and
never written to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from IPython.display import JSON
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ..errors import ModelError, a_type, quoted
from ..recipe_and_method_registry import Recipe
from ..training.retrain_and_training_run import TrainingRun
from .base_widget_and_snapshot import living_widgets
from .explorer import Explorer
from .explorer_backend import ExplorerSession
from .monitor import Monitor

_FROM_PANEL: Final[dict[str, Explorer]] = {}
"""Explorers that the panel opened, by the id of their widget: closed with their tab, whatever cells are run."""


def list_models(namespace: Mapping[str, object]) -> JSON:
    """Return the modules that have a name in the namespace, and the trainings that are not over.

    Returns:
        ``models``: of each its ``name`` and other ``names``, ``class``, ``parameters``, ``bytes`` with buffers, and
        ``device``; ``trainings``: of each its ``id``, the ``model``'s class, ``state``, and how far it is, ``place``.
    """
    names: dict[int, list[str]] = {}
    modules: dict[int, nn.Module] = {}
    for name, value in list(namespace.items()):  # a thread of the user's may write to it meanwhile
        if issubclass(type(value), nn.Module) and not name.startswith("_"):
            assert isinstance(value, nn.Module)
            modules[id(value)] = value
            names.setdefault(id(value), []).append(name)
    return JSON(
        {
            "models": [_described(modules[key], *found) for key, found in names.items()],
            "trainings": [
                {
                    "id": str(id(run)),
                    "model": type(run.spec.model).__name__,
                    "state": run.state,
                    "place": "" if run.progress is None else run.progress.place,
                }
                for run in _trainings(namespace)
            ],
        }
    )


def _trainings(namespace: Mapping[str, object]) -> list[TrainingRun[Any]]:
    """Return the trainings that are not over: those that have a name, and those that a monitor shows."""
    shown = [widget.run for widget in living_widgets() if isinstance(widget, Monitor)]
    runs = {id(run): run for run in (*list(namespace.values()), *shown) if isinstance(run, TrainingRun)}
    return [run for run in runs.values() if not run.over]


def _described(module: nn.Module, name: str, *others: str) -> dict[str, Any]:
    parameters = list(module.parameters())
    tensors: list[Tensor] = [tensor for tensor in (*parameters, *module.buffers()) if not is_lazy(tensor)]
    return {
        "name": name,
        "names": others,
        "class": type(module).__name__,
        "parameters": sum(parameter.numel() for parameter in parameters if not is_lazy(parameter)),
        "bytes": sum(tensor.nbytes for tensor in tensors),
        "device": ", ".join(dict.fromkeys(str(tensor.device) for tensor in tensors)),
    }


def open_explorer(namespace: Mapping[str, object], name: str) -> JSON:
    """Return the id of the widget of an explorer of a model: of the last one a cell has opened, else of a new one.

    Raises:
        ModelError: if the name is no longer a module's, or the module cannot be explored.
    """
    model = namespace.get(name)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{quoted(name)} is no model any more, but {a_type(model)}")
    explorers = (widget for widget in reversed(living_widgets()) if isinstance(widget, Explorer))
    explorer = next((found for found in explorers if found.explores(model)), None)
    if explorer is None:
        explorer = Explorer(ExplorerSession(model), Recipe())
        _FROM_PANEL[explorer.model_id] = explorer
    return JSON({"model_id": explorer.model_id})


def close_explorer(model_id: str) -> None:
    """Close an explorer whose tab was closed, if it was opened for the tab and not in a cell."""
    explorer = _FROM_PANEL.pop(model_id, None)
    if explorer is not None:
        explorer.close()


def stop_training(namespace: Mapping[str, object], key: str) -> None:
    """Stop a training that `list_models` has told of; one that is over stays as it is."""
    for run in _trainings(namespace):
        if str(id(run)) == key:
            run.stop()
