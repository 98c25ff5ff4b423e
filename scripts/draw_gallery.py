"""Draws docs/gallery: the examples of docs/gallery.md as they stand there, in print and on a slide, as PNG and PDF."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import load_file

import shrinkwidget as sw
from benchmarks.methods_compared import ResNet20, pictures

PAGE: Final = Path(__file__).parents[1] / "docs" / "gallery.md"
DATA: Final = Path(__file__).parents[2] / "shared" / "data"
"""Where the weights and images are that no repository may hold, as for the benchmarks."""
_BLOCK: Final = re.compile(r"```python\n(.*?)```(?:\n\n\[!\[[^\]]*\]\(gallery/([\w-]+)-paper\.png\))?", re.DOTALL)
_COLORS: Final = 256
"""Colors of a PNG: edges stay soft, at a third of the bytes."""


class Example(NamedTuple):
    """One example of the page: the name of its pictures, and its code, which ends with ``figure = …``."""

    name: str
    code: str

    @property
    def needs_data(self) -> bool:
        """Whether it starts from the ResNet-20."""
        return "resnet20" in self.code


def examples() -> tuple[str, list[Example]]:
    """Return the code the examples start from, and the examples."""
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (start,) = (code for code, name in blocks if not name)
    return start, [Example(name, code) for code, name in blocks if name]


def has_data(folder: Path = DATA) -> bool:
    """Tell whether the ResNet-20 and its images are there."""
    found = ("resnet20-cifar10.safetensors", "cifar10-jpeg/train.npz", "cifar10-jpeg/test.npz")
    return all((folder / name).is_file() for name in found)


def prepared(start: str, folder: Path | None, images: int = 500) -> dict[str, Any]:
    """Return the names that the examples start from; without a folder those that need the ResNet-20 fail.

    It is scored on so many `images`.
    """
    names: dict[str, Any] = {}
    exec(start, names)  # noqa: S102
    if folder is not None:
        network = ResNet20()
        network.load_state_dict(load_file(folder / "resnet20-cifar10.safetensors"), strict=False)
        names["resnet20"] = network.eval()
        names["cifar_train"] = pictures(folder / "cifar10-jpeg" / "train.npz", 512)
        names["cifar_test"] = pictures(folder / "cifar10-jpeg" / "test.npz", images)
    return names


def drawn(example: Example, names: dict[str, Any], *styles: str) -> Iterator[Any]:
    """Yield the figure of an example in each style; on a slide it has a slide's width. What it shows is made once."""
    *lines, last = example.code.splitlines()
    here = dict(names)
    exec("\n".join(lines), here)  # noqa: S102
    for style in styles or ("paper",):
        line = last if style == "paper" else re.sub(r'width="[\w-]+", ', "", last)
        exec(line.replace('style="paper"', f'style="{style}"'), here)  # noqa: S102
        yield here["figure"]


def main() -> None:
    """Draw all of them, or those named, those of the ResNet-20 only where its weights and images are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the ResNet-20 and its images")
    parser.add_argument("--only", nargs="*", help="names of examples, such as tradeoff")
    given = parser.parse_args()
    start, found = examples()
    names = prepared(start, given.data if has_data(given.data) else None)
    for example in found:
        if given.only and example.name not in given.only:
            continue
        if example.needs_data and "resnet20" not in names:
            print(f"{example.name}: left as it is, there is no ResNet-20 with its images in {given.data}")
            continue
        for path in _pictures(example, names):
            print(f"{path.relative_to(PAGE.parents[1])}: {path.stat().st_size:,} bytes", flush=True)


def _pictures(example: Example, names: dict[str, Any]) -> Iterator[Path]:
    styles = {"paper": 150.0, "slide": 60.0}
    for (style, dpi), figure in zip(styles.items(), drawn(example, names, *styles), strict=True):
        stem = PAGE.parent / "gallery" / f"{example.name}-{style}"
        yield _with_few_colors(sw.figures.save(figure, stem.with_suffix(".png"), dpi=dpi))
        yield sw.figures.save(figure, stem.with_suffix(".pdf"))


def _with_few_colors(path: Path) -> Path:
    """Write a PNG again with a palette; what it says of itself stays in it."""
    with Image.open(path) as image:
        about = PngInfo()
        for name, text in image.text.items():  # type: ignore[attr-defined]  # of a PNG
            about.add_itxt(name, text)
        found, where, times = np.unique(
            np.asarray(image.convert("RGB")).reshape(-1, 3).astype(int), axis=0, return_inverse=True, return_counts=True
        )
        # The colors of areas stay as they are: in a heat map a shade is a number. What is left are edges of letters,
        # which take the nearest.
        palette = found[np.argsort(-times, kind="stable")[:_COLORS]]
        nearest = [int(np.abs(palette - color).sum(1).argmin()) for color in found]
        small = Image.fromarray(np.array(nearest, np.uint8)[where.reshape(-1)].reshape(image.height, image.width), "P")
        small.putpalette(palette.astype(np.uint8).tobytes())
        small.save(path, optimize=True, pnginfo=about, dpi=image.info["dpi"])
    return path


if __name__ == "__main__":
    main()
