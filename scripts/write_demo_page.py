"""Writes docs/gallery/demo-explorer.html: the explorer of the demo network, with the recipes a first look would try."""

from __future__ import annotations

from pathlib import Path

import shrinkwidget as sw

PAGE = Path(__file__).parents[1] / "docs" / "gallery" / "demo-explorer.html"
TRIED = (
    *(sw.Recipe(bits=bits) for bits in (32, 8, 4, 3, 2)),
    *(sw.Recipe(sparsity=sparsity, bits=4) for sparsity in (0.5, 0.7, 0.95, 0.9, 0.85)),
    sw.Recipe(sparsity=0.9, bits=4, layers={"stem": sw.Keep, "stage1.*": dict(sparsity=0.5)}),
    sw.Recipe(sparsity=0.8, bits=4),
)
"""The last one is where the page starts."""


def main() -> None:
    """Try every recipe, and write the page."""
    ex = sw.explore(sw.demo.model(), sw.demo.data())
    for ex.recipe in TRIED:
        ex.wait()
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    written = ex.to_html(PAGE)
    ex.close()
    print(f"{PAGE.relative_to(PAGE.parents[2])}: {written:,} bytes")


if __name__ == "__main__":
    main()
