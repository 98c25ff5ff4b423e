"""The gallery: its examples are short, run as they stand on the page, and their pictures are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shrinkwidget as sw
from scripts.draw_gallery import PAGE, Example, drawn, examples, prepared
from tests.conftest import RESNET20

START, EXAMPLES = examples()


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return prepared(START, RESNET20 if RESNET20.is_file() else None)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_runs_and_its_file_says_what_it_shows(
    example: Example, names: dict[str, Any], tmp_path: Path
) -> None:
    if "resnet20" in example.code and "resnet20" not in names:
        pytest.skip("the trained ResNet-20 is not here")
    path = sw.figures.save(drawn(example, names), tmp_path / "figure.pdf")
    (chart,) = sw.figures.read(path)["charts"]
    assert example.name.startswith(chart["kind"])


def test_every_example_is_three_lines_at_most_and_every_kind_has_one() -> None:
    assert [example.name for example in EXAMPLES if example.code.count("\n") > 3] == []
    kinds = {name.split("-")[0] for name, _ in EXAMPLES}
    assert kinds == set(sw.figures.__all__) - {"caption", "draw", "read", "save", "table"}


def test_the_pictures_are_there_and_small() -> None:
    pictures = [
        PAGE.parent / "gallery" / f"{name}-{style}.{end}"
        for name, _ in EXAMPLES
        for style in ("paper", "slide")
        for end in ("png", "pdf")
    ]
    assert [path.name for path in pictures if not path.is_file()] == []
    assert sum(path.stat().st_size for path in pictures) < 3_000_000
