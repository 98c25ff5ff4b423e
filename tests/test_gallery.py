"""The gallery: its examples are short, run as they stand on the page, and their pictures are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shrinkwidget as sw
from scripts.draw_gallery import DATA, PAGE, Example, drawn, examples, has_data, prepared

START, EXAMPLES = examples()
IMAGES = 12
"""So few images of the ResNet-20's make the same figures, with wider intervals, in a fortieth of the time."""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    return prepared(START, DATA if has_data() else None, IMAGES)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.name for example in EXAMPLES])
def test_an_example_runs_and_its_file_says_what_it_shows(
    example: Example, names: dict[str, Any], tmp_path: Path
) -> None:
    if example.needs_data and "resnet20" not in names:
        pytest.skip("the trained ResNet-20 and its images are not here")
    (figure,) = drawn(example, names)
    path = sw.figures.save(figure, tmp_path / "figure.pdf")
    (chart,) = sw.figures.read(path)["charts"]
    assert example.name.startswith(chart["kind"])
    assert "checksum" in chart  # null where nobody knows the model's


def test_every_example_is_three_lines_at_most_and_every_kind_has_one() -> None:
    assert [example.name for example in EXAMPLES if example.code.count("\n") > 3] == []
    kinds = {name.split("-")[0] for name, _ in EXAMPLES}
    assert kinds == set(sw.figures.__all__) - {"caption", "draw", "read", "save", "table"}


def test_the_pictures_are_there_and_small_and_no_other() -> None:
    pictures = {
        f"{name}-{style}.{end}" for name, _ in EXAMPLES for style in ("paper", "slide") for end in ("png", "pdf")
    }
    there = {path.name: path for path in (PAGE.parent / "gallery").iterdir() if path.suffix in (".png", ".pdf")}
    assert set(there) == pictures
    assert sum(path.stat().st_size for path in there.values()) < 2_000_000


def test_a_picture_says_what_it_shows_though_it_has_few_colors() -> None:
    (chart,) = sw.figures.read(PAGE.parent / "gallery" / "size-paper.png")["charts"]
    assert sw.Recipe.from_json(chart["recipe"]) == sw.Recipe(sparsity=0.85, bits=4)


def test_without_the_resnet20_the_other_examples_still_run() -> None:
    names = prepared(START, None)
    assert "resnet20" not in names
    with pytest.raises(NameError, match="resnet20"):
        list(drawn(next(example for example in EXAMPLES if example.needs_data), names))
