"""Every module is importable under its name: no function or class of a package hides a module or a folder of it."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import shrinkwidget

MODULES = sorted(info.name for info in pkgutil.walk_packages(shrinkwidget.__path__, "shrinkwidget."))


def test_import_as_gives_the_module() -> None:
    optional = {"shrinkwidget.integrations.lightning", "shrinkwidget.integrations.transformers"}
    assert len(MODULES) > 60
    for name in set(MODULES) - optional:
        import_module(name)
        found = shrinkwidget
        for part in name.split(".")[1:]:  # what `import a.b.c as m` looks up
            found = getattr(found, part)
        assert isinstance(found, ModuleType), name
        assert found.__name__ == name


def test_a_folder_is_imported_in_a_new_interpreter() -> None:
    folders = ["analysis", "compression", "evaluation", "training", "transfer_learning"]
    script = "; ".join(f"import shrinkwidget.{folder} as m; m.__path__" for folder in folders)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_no_public_name_is_that_of_a_folder() -> None:
    folders = {info.name for info in pkgutil.iter_modules(shrinkwidget.__path__) if info.ispkg}
    assert {"analysis", "training", "files"} <= folders
    for name in folders & set(shrinkwidget.__all__):
        assert isinstance(getattr(shrinkwidget, name), ModuleType), name
