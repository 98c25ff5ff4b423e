"""The engine where Jupyter is not installed: on a server, in a script, in CI."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import shrinkwidget as sw

ROOT = Path(__file__).parents[1]
JUPYTER = (
    "IPython",
    "anywidget",
    "comm",
    "ipykernel",
    "ipywidgets",
    "jupyter_core",
    "jupyterlab",
    "psygnal",
    "traitlets",
)
WITHOUT = f"""
import importlib.abc, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {JUPYTER!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, NotInstalled())
import shrinkwidget as sw
"""


def python(code: str, folder: Path) -> str:
    """Run code in a new interpreter and return what it printed."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_compressing_to_the_still_picture_nothing_needs_jupyter(tmp_path: Path) -> None:
    code = """
from shrinkwidget.figures.explorer_snapshot_png import explorer_snapshot
model, (images, labels) = sw.demo.model(), sw.demo.data("test")
recipe = sw.Recipe(sparsity=0.5, bits=4)
small = sw.compress(model, recipe)
written = small.save("small.safetensors")
again = sw.load("small.safetensors", into=sw.demo.model())
score = sw.evaluate(again, (images[:100], labels[:100]))
figures = sw.estimate(sw.sketch(model), recipe)
few = images[:64], labels[:64]
trained = sw.retrain(small, few, None, sw.methods.FineTune(1))
picture = explorer_snapshot(sw.sketch(model), figures, None, None, [])
print([written == small.nbytes, score.n, picture[:4], trained.provenance])
"""
    exact, images, picture, provenance = ast.literal_eval(python(WITHOUT + code, tmp_path))
    assert exact
    assert images == 100
    assert picture == b"\x89PNG"
    assert "fine-tuned 1 epoch" in provenance


def test_the_widgets_say_what_to_install(tmp_path: Path) -> None:
    code = """
for what in (lambda: sw.explore(sw.demo.model()), lambda: sw.monitor(None)):
    try:
        what()
    except Exception as error:
        print([type(error).__name__, isinstance(error, ImportError), str(error)])
from shrinkwidget import *
print(explore is sw.explore, "explore" in dir(sw))
"""
    *told, last = python(WITHOUT + code, tmp_path).splitlines()
    explore, monitor = map(ast.literal_eval, told)
    assert explore[:2] == monitor[:2] == ["MissingPackageError", True]
    assert explore[2].startswith("sw.explore needs Jupyter's widgets (")
    for _, _, text in (explore, monitor):
        assert text.endswith('is not installed): pip install "shrinkwidget[jupyter]"')
    assert last == "True True"


def test_importing_loads_nothing_that_is_not_needed_yet(tmp_path: Path) -> None:
    code = """
import sys
import torch
before = set(sys.modules)
import shrinkwidget as sw
print(sorted({name.split(".")[0] for name in set(sys.modules) - before}))
print("numpy.random" in set(sys.modules) - before, "numpy.testing" in sys.modules)
sw.explore(sw.demo.model()).close()
print(all(name in sys.modules for name in ("anywidget", "IPython")))
"""
    loaded, numpy, widgets = python(code, tmp_path).splitlines()
    unneeded = {*JUPYTER, "PIL", "matplotlib", "sklearn", "timm", "torchao", "torchvision", "tqdm", "transformers"}
    assert unneeded.isdisjoint(ast.literal_eval(loaded))
    assert numpy == "False False"
    assert widgets == "True"


def test_importing_alone_loads_no_torch(tmp_path: Path) -> None:
    """Jupyter's server imports the package whenever it starts."""
    code = """
import sys
import shrinkwidget as sw
print({"torch", "numpy", "matplotlib", "safetensors"} & set(sys.modules), sw.__version__, "explore" in dir(sw))
from shrinkwidget.recipe_and_method_registry import Recipe
print(Recipe(importance="wanda"), Recipe(bits=4, quantizer="nf4"))
"""
    assert python(code, tmp_path).splitlines() == [
        f"set() {sw.__version__} True",
        "Recipe(scope='channel', importance='wanda') Recipe(bits=4, quantizer='nf4')",
    ]


def test_every_public_name_is_loaded_from_where_type_checkers_look() -> None:
    tree = ast.parse((ROOT / "shrinkwidget" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    seen = {alias.name: f"shrinkwidget.{node.module}" for node in imports for alias in node.names if node.module}
    modules = {alias.name for node in imports for alias in node.names if not node.module}
    assert sorted([*seen, *modules]) == sorted(sw.__all__)
    for name, module in seen.items():
        assert getattr(sw, name) is getattr(import_module(module), name)


def test_a_name_that_is_none_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'exlpore'"):
        sw.exlpore  # type: ignore[attr-defined]  # noqa: B018
