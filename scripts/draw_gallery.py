"""Draws docs/gallery: the examples of docs/gallery.md as they stand there, in print and on a slide, as PNG and PDF."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import shrinkwidget as sw

PAGE: Final = Path(__file__).parents[1] / "docs" / "gallery.md"
_BLOCK: Final = re.compile(r"```python\n(.*?)```(?:\n\n\[!\[[^\]]*\]\(gallery/([\w-]+)-paper\.png\))?", re.DOTALL)
_RESNET20: Final = '"resnet20.safetensors"'


class Example(NamedTuple):
    """One example of the page: the name of its pictures, and its code, which makes `figure`."""

    name: str
    code: str


def examples() -> tuple[str, list[Example]]:
    """Return the code the examples start from, and the examples."""
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (start,) = (code for code, name in blocks if not name)
    return start, [Example(name, code) for code, name in blocks if name]


def prepared(start: str, resnet20: Path | None) -> dict[str, Any]:
    """Return the names that the examples start from; without a ResNet-20 the examples that need it fail."""
    names: dict[str, Any] = {}
    lines = [line.replace(_RESNET20, repr(str(resnet20))) for line in start.splitlines()]
    exec("\n".join(line for line in lines if resnet20 is not None or not line.startswith("resnet20")), names)  # noqa: S102
    return names


def drawn(example: Example, names: dict[str, Any], style: str = "paper") -> Any:
    """Return the figure of an example in a style; on a slide it has a slide's width."""
    code = example.code
    if style != "paper":
        code = re.sub(r'width="[\w-]+", ', "", code).replace('style="paper"', f'style="{style}"')
    here = dict(names)
    exec(code, here)  # noqa: S102
    return here["figure"]


def main() -> None:
    """Draw all of them, those of the ResNet-20 only where its weights are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resnet20", type=Path, help="weights of a ResNet-20, a .safetensors file")
    resnet20 = parser.parse_args().resnet20
    start, found = examples()
    names = prepared(start, resnet20)
    for example in found:
        if "resnet20" in example.code and resnet20 is None:
            print(f"{example.name}: left as it is, give --resnet20")
            continue
        for path in _pictures(example, names):
            print(f"{path.relative_to(PAGE.parents[1])}: {path.stat().st_size:,} bytes")


def _pictures(example: Example, names: dict[str, Any]) -> Iterator[Path]:
    for style, dpi in (("paper", 150.0), ("slide", 60.0)):
        figure = drawn(example, names, style)
        stem = PAGE.parent / "gallery" / f"{example.name}-{style}"
        yield sw.figures.save(figure, stem.with_suffix(".png"), dpi=dpi)
        yield sw.figures.save(figure, stem.with_suffix(".pdf"))


if __name__ == "__main__":
    main()
