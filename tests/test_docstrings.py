"""The examples of the docstrings: they run, and show what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType

import pytest

import shrinkwidget as sw

OPTIONS = doctest.ELLIPSIS


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
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(example, out=said.append)
    assert not said, "".join(said)
