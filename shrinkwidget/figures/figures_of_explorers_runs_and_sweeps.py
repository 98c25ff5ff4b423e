"""Which data an explorer or a training brings to each kind of figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..argument_checks import meant
from ..errors import FigureError, quoted
from ..performance.device_fit import DeviceFit, known_devices
from .figure_base_and_registry import kind_named, kinds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..sweeps.sweep import Sweep
    from ..training.retrain_and_training_run import TrainingRun

_OF_THE_RECIPE: Final = ("distributions", "layer", "size", "silhouette", "summary")
_OF_A_RUN: Final = ("training", "tradeoff")


def figure_of_explorer(explorer: Any, kind: object, options: Mapping[str, Any]) -> Figure:
    """Return a figure of what an explorer shows; see `Explorer.figure`."""
    draw, name = kind_named(kind), meant(kind, kinds())
    given = dict(options)
    if name in _OF_THE_RECIPE:
        known: dict[str, Any] = {"estimate": explorer.estimate}
        if name not in ("layer", "size"):
            known["order"] = tuple(explorer._order)
        if name == "layer":
            if "name" not in given:
                raise FigureError("which layer? write ex.figure('layer', name='conv1')")
            return draw(explorer, given.pop("name"), **known, **given)
        if name == "summary":
            more = {"sensitivity": explorer.sensitivity, "classes": explorer.comparison}
            more["tradeoff"] = explorer if len(explorer.history) > 1 else None
            more["training"] = explorer.run if explorer.run is not None and explorer.run.history else None
            known |= {part: data for part, data in more.items() if data is not None}
        return draw(explorer, **{**known, **given})
    parts: dict[str, tuple[str, Callable[[], Any]]] = {
        "tradeoff": ("", lambda: explorer),
        "sensitivity": (
            "press Sensitivity first, or ex.start_sensitivity() and ex.wait(sensitivity=True)",
            lambda: explorer.sensitivity,
        ),
        "training": ("press Retrain… first", lambda: explorer.run),
        "devices": ("", lambda: _devices_of(explorer)),
        "race": ("press Race first, or ex.start_race()", lambda: explorer.race),
        "classes": ("wait() until a recipe and the dense model are evaluated", lambda: explorer.comparison),
    }
    if name not in parts:
        raise FigureError(f"an explorer has no data for {quoted(name)}: give your own to sw.figures.{name}(…)")
    why, data_of = parts[name]
    data = data_of()
    if data is None:
        raise FigureError(f"there is nothing to draw in {name!r}: {why}")
    return draw(data, **given)


def _devices_of(explorer: Any) -> DeviceFit:
    estimate, told = explorer.estimate, explorer._exact or {}
    counted = told.get("recipe") == estimate.recipe.to_json() and told.get("result", "") == explorer._result
    memory = told.get("memory") if counted else None  # of what is left without some channels
    memory = memory or explorer._memory
    return DeviceFit(
        explorer.sketch.title,
        estimate.nbytes,
        estimate.exact,
        memory["weights"],
        memory["activations"],
        known_devices(),
        estimate.original_nbytes,
    )


def figure_of_run(run: TrainingRun[Any], kind: object, options: Mapping[str, Any]) -> Figure:
    """Return a figure of a training; see `TrainingRun.figure`."""
    draw: Callable[..., Figure] = kind_named(kind)
    name = meant(kind, kinds())
    if name not in _OF_A_RUN:
        raise FigureError(f"a training has no data for {quoted(name)}: it has {' and '.join(map(repr, _OF_A_RUN))}")
    return draw(run, **options)


def figure_of_sweep(sweep: Sweep, kind: object, options: Mapping[str, Any]) -> Figure:
    """Return a figure of a sweep; see `Sweep.figure`."""
    draw: Callable[..., Figure] = kind_named(kind)
    if (name := meant(kind, kinds())) != "tradeoff":
        raise FigureError(f"a sweep has no data for {quoted(name)}: it has 'tradeoff'")
    return draw(sweep, **options)
