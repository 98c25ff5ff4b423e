"""The examples of the docstrings: every public callable has one, they run, and they show what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import shrinkwidget as sw
from shrinkwidget import recipe_and_method_registry as kinds
from shrinkwidget.analysis.estimate_class_and_packed_file_header import Estimate
from shrinkwidget.analysis.model_summary import ModelSummary
from shrinkwidget.analysis.sketch import Sketch
from shrinkwidget.integrations.sklearn import SklearnModel
from shrinkwidget.recipe_and_method_registry import Choice, Kind, Number
from shrinkwidget.training.custom_loop import ConstrainedTraining
from shrinkwidget.training.methods_schedule_options_and_progress import Progress
from shrinkwidget.transfer_learning.transfer_result_and_training_cost import TrainingCost
from shrinkwidget.widgets.explorer import Explorer
from shrinkwidget.widgets.monitor import Monitor

REFERENCE: Final = Path(__file__).parents[1] / "docs" / "api"
OPTIONS = doctest.ELLIPSIS
RETURNED: Final = (
    ConstrainedTraining, Estimate, Explorer, Monitor, Progress, ModelSummary, Sketch, SklearnModel, TrainingCost,
)  # fmt: skip
"""Classes that are not exported, but whose objects users get."""
NOT_CALLED_BY_USERS: Final = {
    "stage", "trainings", "words",  # of a method: the training loop asks
    "offer", "fail",  # of a monitor: its explorer does
    "before_step", "after_step", "finish", "ConstrainedTraining.start",  # the context and the callbacks do
    "forward",  # torch does
}  # fmt: skip


def modules() -> Iterator[ModuleType]:
    """Yield every module of the package."""
    yield sw
    for found in pkgutil.walk_packages(sw.__path__, "shrinkwidget."):
        # an integration needs its library, which need not be installed
        with suppress(ImportError) if found.name.startswith("shrinkwidget.integrations.") else nullcontext():
            yield importlib.import_module(found.name)


EXAMPLES = [test for module in modules() for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_the_example_runs_and_shows_what_it_says(
    example: doctest.DocTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # an example that registers a kind leaves it to no other test
    monkeypatch.setattr(kinds, "_REGISTER", {role: dict(known) for role, known in kinds._REGISTER.items()})
    monkeypatch.setattr(kinds, "_CLASSES", dict(kinds._CLASSES))
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    if (needed := re.search(r"MissingPackageError: (an export .*)", "".join(said))) is not None:
        pytest.skip(needed[1])  # a runtime that is not installed here
    assert not said, "".join(said)


def public() -> dict[str, Any]:
    """Return every function and class a user calls, and the methods of these classes, by name."""
    found: dict[str, Any] = {kind.__name__: kind for kind in RETURNED}
    for module in (sw, sw.demo, sw.errors, sw.methods, sw.performance, sw.results):
        prefix = "" if module is sw else module.__name__.rsplit(".", 1)[1] + "."
        found |= {prefix + name: getattr(module, name) for name in module.__all__}
    found = {name: thing for name, thing in found.items() if inspect.isclass(thing) or inspect.isfunction(thing)}
    for name, kind in list(found.items()):
        # what an importance or a quantizer does is asked by the engine: their class shows how one is written
        own = {} if not inspect.isclass(kind) or issubclass(kind, Kind | Choice | Number) else vars(kind)
        for method, thing in own.items():
            function = thing.__func__ if isinstance(thing, classmethod | staticmethod) else thing
            if inspect.isfunction(function) and method[0] != "_":
                found[f"{name}.{method}"] = function
    return {name: thing for name, thing in found.items() if NOT_CALLED_BY_USERS.isdisjoint({name, thing.__name__})}


def test_every_public_callable_has_an_example() -> None:
    assert [name for name, thing in public().items() if ">>>" not in (thing.__doc__ or "")] == []


def test_every_public_name_is_on_one_page_of_the_reference_and_in_its_index() -> None:
    written = Counter(
        name
        for page in sorted(REFERENCE.glob("*.md"))
        for name in re.findall(r"^\.\. auto(?:function|class|data|exception):: (\S+)$", page.read_text(), re.MULTILINE)
    )
    modules = (sw, sw.demo, sw.errors, sw.figures, sw.methods, sw.performance, sw.results, sw.workshop)
    whole = {module.__name__.rpartition(".")[2] for module in modules}
    public = {
        f"{module.__name__}.{name}"
        for module in modules
        for name in module.__all__
        if name not in whole and not (module is sw.results and name in sw.__all__)
    }
    public -= {"shrinkwidget.demo.Split"}  # the type of an argument
    assert public - set(written) == set()
    assert [name for name, times in written.items() if times > 1] == []
    index = (REFERENCE / "index.md").read_text()
    assert [name for name in written if f"   {name}\n" not in index] == []
