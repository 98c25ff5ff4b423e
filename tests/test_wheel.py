"""The wheel: what pip builds holds the built JavaScript, and works where there is no Node."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STATIC = "shrinkwidget/widgets/static/"
KERNEL = "shrinkwidget/analysis/cpu_kernel.lib"

pytestmark = pytest.mark.slow


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command and return what it printed; a failure shows all of it."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*words: str | Path, env: dict[str, str] | None = None) -> str:
    """Run pip with the tools that are installed, so that it asks nobody for anything."""
    return run(sys.executable, "-m", "pip", *words, "--no-deps", "--quiet", env=env)


def without_node() -> dict[str, str]:
    """Return the environment with no node and no npm on PATH."""
    folders = (Path(folder) for folder in os.environ["PATH"].split(os.pathsep))
    kept = (str(folder) for folder in folders if not (folder / "node").exists() and not (folder / "npm").exists())
    return os.environ | {"PATH": os.pathsep.join(kept)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel as `pip wheel .` does."""
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ".", "--no-build-isolation", "--wheel-dir", folder)
    return next(folder.glob("shrinkwidget-*.whl"))


def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_its_built_javascript(wheel: Path) -> None:
    found = names(wheel)
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "shrinkwidget").rglob("*.py")}
    assert sources <= set(found)
    static = {STATIC + name for name in ("explorer.js", "explorer.css", "monitor.js", "monitor.css")}
    assert {*static, "shrinkwidget/py.typed"} <= set(found)
    assert any(name.startswith("shrinkwidget/demo/") and name.endswith(".safetensors") for name in found)


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    found = names(wheel)
    assert all(name.startswith(("shrinkwidget/", "shrinkwidget-")) for name in found)
    assert not [name for name in found if name.startswith("shrinkwidget/labextension")]
    data = {name.split(".data/data/")[1] for name in found if ".data/data/" in name}
    extension = "share/jupyter/labextensions/shrinkwidget/"
    configuration = "etc/jupyter/jupyter_server_config.d/shrinkwidget.json"
    assert {configuration, extension + "package.json", extension + "install.json"} <= data
    assert all(name == configuration or name.startswith(extension) for name in data)
    assert not [name for name in found if "__pycache__" in name or name.endswith((".ts", ".tsx", ".map", ".c"))]
    notebooks = [name for name in found if name.endswith(".ipynb")]
    assert all(name.startswith("shrinkwidget/workshop/lessons/") for name in notebooks)


@pytest.mark.skipif(os.name == "nt" or not shutil.which("cc"), reason="needs a C compiler")
def test_the_wheel_brings_the_kernel_for_one_platform_and_every_python(wheel: Path) -> None:
    assert re.fullmatch(r"shrinkwidget-[^-]+-py3-none-(linux|macosx)_\w+\.whl", wheel.name)
    assert KERNEL in names(wheel)


@pytest.mark.parametrize("name", ["explorer", "monitor"])
def test_the_javascript_in_the_wheel_fetches_nothing_and_is_small(wheel: Path, name: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        script = archive.read(STATIC + f"{name}.js")
        styles = archive.read(STATIC + f"{name}.css")
    assert 1000 < len(gzip.compress(script)) <= 80_000  # js/build.mjs refuses more
    assert b"https://cdn" not in script + styles
    assert b"@import" not in styles


def test_the_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        fields = Parser().parsestr(archive.read(metadata).decode())
        licenses = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    needs = {need.split(";")[0].split(">")[0] for need in fields.get_all("Requires-Dist", []) if "extra" not in need}
    expected = "torch anywidget ipywidgets jupyterlab matplotlib pillow safetensors numpy threadpoolctl tqdm zstandard"
    assert needs == set(expected.split())
    assert fields["Requires-Python"] == ">=3.11"
    assert fields["License-Expression"] == "BSD-3-Clause"
    assert licenses


def test_the_wheel_installs_and_works_without_node(wheel: Path, tmp_path: Path) -> None:
    env = without_node()
    pip("install", "--target", tmp_path, wheel, env=env)
    code = (
        "import shrinkwidget as sw, pathlib, sys;"
        "explorer = sw.explore(sw.demo.model());"
        "assert len(explorer._repr_mimebundle_()) ;"
        "print(pathlib.Path(sw.__file__).parent);"
        "from shrinkwidget.analysis.tensor_ops_threads_and_cpu_kernel import cpu_kernel;"
        "print(cpu_kernel() is not None)"
    )
    where, kernel = run(sys.executable, "-c", code, env=env | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path).split()
    assert Path(where) == tmp_path / "shrinkwidget"
    assert (kernel == "True") == (KERNEL in names(wheel))


def test_the_installed_wheel_is_an_enabled_extension_until_it_is_uninstalled(wheel: Path, tmp_path: Path) -> None:
    """In an environment of its own, which borrows all other packages from this one."""
    home = tmp_path / "environment"
    venv.create(home)
    python = home / ("Scripts" if os.name == "nt" else "bin") / "python"
    before = {path.relative_to(home) for path in home.rglob("*")}
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--quiet", wheel, env=without_node())
    borrowed = {"PYTHONPATH": sysconfig.get_path("purelib"), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    server = ("-m", "jupyter_server.extension.serverextension", "list")
    page = ("-c", "from jupyterlab.labextensions import main; main(['list'])")
    for command, wanted in (
        (server, r"shrinkwidget\.server enabled[\s\S]*shrinkwidget\.server .*OK"),
        (page, r"shrinkwidget v\S+ .*enabled .*OK"),
    ):
        env = without_node() | borrowed
        done = subprocess.run((python, *command), cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
        listed = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        assert re.search(wanted, listed), listed
    run(sys.executable, "-m", "pip", "--python", python, "uninstall", "--yes", "--quiet", "shrinkwidget")
    left = {path.relative_to(home) for path in home.rglob("*") if path.is_file()} - before
    assert not [path for path in left if "shrinkwidget" in str(path)]


def test_the_sdist_brings_all_sources_and_builds_without_node_and_compiler(tmp_path: Path) -> None:
    build = f"import hatchling.build; print(hatchling.build.build_sdist(r'{tmp_path}'))"
    archive = tmp_path / run(sys.executable, "-c", build).splitlines()[-1]
    listed = run("tar", "tzf", archive).splitlines()
    inside = {name.split("/", 1)[1] for name in listed}
    sources = ["js/widget/explorer.ts", "package-lock.json", "hatch_build.py", "shrinkwidget/analysis/cpu_kernel.c"]
    assert_all_in([*sources, STATIC + "explorer.js"], inside)
    assert KERNEL not in inside
    env = without_node() | {"CC": os.fspath(tmp_path / "missing")}
    pip("wheel", archive, "--no-build-isolation", "--wheel-dir", tmp_path, env=env)
    wheel = next(tmp_path.glob("*.whl"))
    assert wheel.name.endswith("-py3-none-any.whl")
    assert STATIC + "explorer.js" in names(wheel)
    assert KERNEL not in names(wheel)


def assert_all_in(wanted: Iterable[str], found: set[str]) -> None:
    assert not [name for name in wanted if name not in found]
