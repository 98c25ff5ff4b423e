"""Draws accuracy_curves.png: accuracy against compression of both networks, each method a curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

COLOURS: Final = {
    "learning-rate rewinding, iterative": "#0072B2",
    "learning-rate rewinding": "#56B4E9",
    "weight rewinding": "#009E73",
    "fine-tuning": "#D55E00",
    "learning-rate rewinding, layer-wise magnitude": "#CC79A7",
    "learning-rate rewinding, random": "#69717b",
}
TITLES: Final = {"lenet": "LeNet-300-100 on MNIST", "fashion": "a small conv net on Fashion-MNIST"}


def write(folder: Path) -> None:
    """Write accuracy_curves.png from the parts that are there."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    parts = [part for part in TITLES if (folder / f"{part}.json").is_file()]
    figure = Figure(figsize=(5.2 * len(parts), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, part in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts, strict=True):
        found = json.loads((folder / f"{part}.json").read_text(encoding="utf-8"))
        _curves(axes, found["summary"])
        axes.set_title(TITLES[part], loc="left", fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(folder / "accuracy_curves.png", dpi=160, metadata={"Software": None})


def _curves(axes: Any, summary: list[dict[str, Any]]) -> None:
    ratios = sorted({row["ratio"] for row in summary} - {1})
    for method, color in COLOURS.items():
        mine = sorted((row for row in summary if row["method"] == method), key=lambda row: row["ratio"])
        means = [100 * row["accuracy"]["mean"] for row in mine]
        spread = [100 * (row["accuracy"]["sd"] or 0) for row in mine]
        at = [row["ratio"] for row in mine]
        axes.errorbar(
            at, means, spread, color=color, marker="o", markersize=3.5, capsize=2, linewidth=1.4, label=method
        )
    for row, style in ((row, style) for row in summary for style in ("-", ":")):
        if row["method"] == ("dense" if style == "-" else "dense, trained again"):
            axes.axhline(
                100 * row["accuracy"]["mean"], color="#1f2328", linestyle=style, linewidth=1, label=row["method"]
            )
    best = max(100 * row["accuracy"]["mean"] for row in summary)
    seen = [100 * row["accuracy"]["mean"] for row in summary if not row["method"].endswith("random")]
    axes.set(
        xscale="log",
        xticks=ratios,
        ylim=(max(min(seen) - 0.3, best - 12), best + 0.3),
        xlabel="compression, all parameters counted",
    )
    axes.set_xticklabels([f"{ratio}×" for ratio in ratios])
    axes.minorticks_off()
    axes.set_ylabel("test accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
