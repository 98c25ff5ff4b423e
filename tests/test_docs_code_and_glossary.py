"""The documentation: its code runs, its glossary is complete, and its links are really checked."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shrinkwidget.errors import MissingPackageError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
# the gallery has a test of its own, which knows where its ResNet-20 is
PAGES = [path for path in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))] if path.name != "gallery.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> list[tuple[int, str]]:
    """Return the Python code of a page, with the lines where it stands."""
    text = page.read_text(encoding="utf-8")
    return [(text.count("\n", 0, found.start(1)), found[1]) for found in BLOCK.finditer(text)]


def not_installed(code: str) -> set[str]:
    """Return the libraries that code imports and that are not here."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    if "shrinkwidget.integrations.lightning" in imported:
        imported.add("lightning")
    missing = set()
    for name in {name.partition(".")[0] for name in imported}:
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError):  # timm: a torchvision that does not fit torch is a RuntimeError
            missing.add(name)
    return missing


WITH_CODE = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", WITH_CODE, ids=[page.relative_to(ROOT).as_posix() for page in WITH_CODE])
def test_the_code_of_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__page__"}
    missing: set[str] = set()
    for line, code in blocks(page):
        # as many empty lines before it, so that a traceback names the line of the page
        compiled = compile("\n" * line + code, str(page), "exec")
        missing |= not_installed(code)
        if not missing:
            try:
                exec(compiled, names)  # noqa: S102
            except MissingPackageError as error:  # an export to a runtime that is not installed
                missing.add(str(error))
    if missing:
        pytest.skip(f"compiled only, from the first block on that needs it: {', '.join(sorted(missing))} is not here")


def glossary() -> dict[str, str]:
    """Return the entries of the glossary by their headings."""
    parts = re.split(r"^### (.+)$", (DOCS / "glossary.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_glossary_has_every_word_of_the_vocabulary() -> None:
    table = (DOCS / "architecture.md").read_text().partition("## Vocabulary")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ", table, re.MULTILINE)[2:]
    assert len(rows) > 20
    # "bits b" and "sparsity s" name their symbols, too
    words = {re.sub(r" [a-z]$", "", word.strip()) for row in rows for word in row.split(",")}
    assert words - set(glossary()) == set()


def test_an_entry_of_the_glossary_is_short_and_leads_on() -> None:
    for heading, text in glossary().items():
        assert re.search(r"\]\([^)]+\)", text), heading
        assert len(re.findall(r"\.(?:\s|$)", text)) <= 3, heading


def test_anchors_of_the_glossary_are_unique() -> None:
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in glossary()]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<p id="here">', ""),
        ('<a href="other.html#there">', ""),
        ('<a href="https://example.org/gone">', ""),
        ('<a href="missing.html">', "there is no missing.html"),
        ('<a href="other.html#nowhere">', "no such anchor"),
        ('<a href="#nowhere">', "no such anchor"),
        ('<img src="missing.png">', "there is no missing.png"),
        ('<script src="https://example.org/script.js"></script>', "from a network"),
        ('<link href="//example.org/font.css">', "from a network"),
    ],
)
def test_the_link_check_finds_what_leads_nowhere(page: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(page)
    (tmp_path / "other.html").write_text('<p id="there">')
    done = subprocess.run(
        [sys.executable, "scripts/check_site_links.py", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == bool(said)
    assert said in done.stdout
