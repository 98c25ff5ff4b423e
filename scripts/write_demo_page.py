"""Writes docs/gallery/demo-explorer.html: the explorer of the demo network, with the recipes a first look would try."""

from __future__ import annotations

from pathlib import Path

import shrinkwidget as sw

PAGE = Path(__file__).parents[1] / "docs" / "gallery" / "demo-explorer.html"
START = sw.Recipe(sparsity=0.8, bits=4)
TRIED = (
    *(sw.Recipe(bits=bits) for bits in (32, 8, 4, 3, 2)),
    *(sw.Recipe(sparsity=sparsity, bits=4) for sparsity in (0.5, 0.7, 0.8, 0.85, 0.9, 0.95)),
    sw.Recipe(sparsity=0.9, bits=4, layers={"stem": sw.Keep, "stage1.*": dict(sparsity=0.5)}),
)
RECALIBRATED = tuple(sw.Recipe(sparsity=sparsity, bits=4) for sparsity in (0.8, 0.85, 0.9, 0.95))


def main() -> None:
    """Try every recipe, some with batch norm recalibrated as well, measure sensitivity, and write the page."""
    ex = sw.explore(sw.demo.model(), sw.demo.data(), train_data=sw.demo.data("train"))
    for recalibrate, recipes in ((False, TRIED), (True, RECALIBRATED), (False, (START,))):
        ex.recalibrate_batchnorm = recalibrate
        for ex.recipe in recipes:
            ex.wait()
    ex.start_sensitivity()
    ex.wait(sensitivity=True)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    written = ex.to_html(PAGE)
    ex.close()
    print(f"{PAGE.relative_to(PAGE.parents[2])}: {written:,} bytes")


if __name__ == "__main__":
    main()
