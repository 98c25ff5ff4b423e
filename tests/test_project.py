"""What the project says about itself in more than one place."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_extra_that_explore_names_is_part_of_the_default_install() -> None:
    assert set(PROJECT["optional-dependencies"]["jupyter"]) < set(PROJECT["dependencies"])


def test_the_engine_alone_is_installed_with_all_else_it_needs() -> None:
    engine = {re.split("[><=]", need)[0] for need in PROJECT["dependencies"]}
    engine -= {re.split("[><=]", need)[0] for need in PROJECT["optional-dependencies"]["jupyter"]}
    for page in ("README.md", ".github/workflows/ci.yml"):
        line = re.search(r"pip install (?:--constraint \S+ )?(torch .*)\n", (ROOT / page).read_text())
        assert line is not None, page
        assert set(line[1].split()) == engine, page


def test_the_public_ci_runs_every_python_the_project_names() -> None:
    named = {text.split(" :: ")[-1] for text in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", text)}
    matrix = re.search(r"python: \[(.*)\]", (ROOT / ".github/workflows/ci.yml").read_text())
    assert matrix is not None
    assert set(re.findall(r"3\.\d+", matrix[1])) == named


def test_the_benchmark_of_the_browsers_core_still_runs() -> None:
    ran = subprocess.run(
        ["node", "benchmarks/browser_estimator.mjs", "--once"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-600:]
    assert "codebook of 4 bits" in ran.stdout
