"""What the project says about itself in more than one place."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

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


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def anchors(page: Path) -> set[str]:
    """Return what a link may name in a page: its headings as GitHub writes them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for link in links:
        path, _, anchor = link.partition("#")
        if "://" in link or link.startswith("mailto:"):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_file_that_a_page_names_is_there(page: str) -> None:
    named = re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|tsx?|json|md|ipynb|sh|css))`", (ROOT / page).read_text())
    roots = [ROOT, ROOT / "shrinkwidget", ROOT / "shrinkwidget/compression"]
    missing = [name for name in named if "NAME" not in name and not any((root / name).exists() for root in roots)]
    assert [name for name in missing if "LIBRARY" not in name] == []
