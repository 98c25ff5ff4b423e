"""The faults: each a small wrong change in the engine, the page or the pictures that a user would be misled by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Mutant:
    """One fault.

    `before` occurs exactly once in the file at `path`, and `after` takes its place. `suites` are the tests that should
    notice, the quickest first (see `run_mutants.py`).
    """

    name: str
    path: str
    before: str
    after: str
    suites: tuple[str, ...]

    def planted(self) -> str:
        """Return the file's text with the fault in it.

        Raises:
            ValueError: where the code has changed, and the fault has to be written again.
        """
        text = (ROOT / self.path).read_text(encoding="utf-8")
        if text.count(self.before) != 1:
            raise ValueError(
                f"{self.name}: {self.path} holds {text.count(self.before)} × {self.before!r}, expected one"
            )
        return text.replace(self.before, self.after)


CHARTS: Final = ("vitest",)
PAGE: Final = ("page",)
MONITOR: Final = ("monitor",)
SNAPSHOTS: Final = ("snapshots",)

MUTANTS: Final = (
    # what the explorer says
    Mutant("ridge: pruned column inverted", "js/explorer/layer-and-file-figures.ts",
           "pruned: 1 - figures.layers.kept[layer] / n,", "pruned: figures.layers.kept[layer] / n,", PAGE),
    Mutant("ridge: a layer's size without its mask", "js/core/estimate.ts",
           "layers.codes[i] + layers.mask[i] + layers.scales[i]", "layers.codes[i] + layers.scales[i]", PAGE),
    Mutant("ridge: threshold drawn at half its value", "js/charts/ridge-canvas.ts",
           "(picture.threshold / picture.span) * (box.width / 2)",
           "(picture.threshold / picture.span) * (box.width / 4)", PAGE),
    Mutant("ridge: shared axis 1.4 times as wide", "js/charts/distribution-geometry.ts",
           "1.15 * spans[spans.length >> 1]", "1.61 * spans[spans.length >> 1]", CHARTS),
    Mutant("multiply-accumulates halved", "js/explorer/layer-and-file-figures.ts",
           "sum + (n ?? 0) * share(i)", "sum + 0.5 * (n ?? 0) * share(i)", PAGE),
    Mutant("bits per parameter halved", "js/explorer/accuracy-panel-and-stats.tsx",
           "perParameter(figures.nbytes, figures.left.parameters)",
           "perParameter(figures.nbytes / 2, figures.left.parameters)", PAGE),
    Mutant("size: enlarged bar not enlarged", "js/explorer/size-panel.tsx",
           "parts={parts} whole={figures.nbytes}", "parts={parts} whole={scale}", PAGE),
    Mutant("size: header counted among the codes", "js/explorer/layer-and-file-figures.ts",
           'label: "codes", bytes: figures.codes,', 'label: "codes", bytes: figures.codes + figures.header,', PAGE),
    Mutant("history: markers of retrained and plain swapped", "js/explorer/history-plot.tsx",
           "provenance !== PLAIN ? DIAMOND : DISC", "provenance !== PLAIN ? DISC : DIAMOND", PAGE),
    Mutant("history: bytes on a linear axis with logarithmic ticks", "js/charts/scatter-scales-and-pareto-front.ts",
           "((Math.log(nbytes) - fromX) / (toX - fromX)) * plotWidth",
           "((nbytes - xs[0]) / (xs[1] - xs[0])) * plotWidth", CHARTS),
    Mutant("history: front of the worst", "js/charts/scatter-scales-and-pareto-front.ts",
           "const sign = higherIsBetter ? 1 : -1;", "const sign = higherIsBetter ? -1 : 1;", CHARTS),
    Mutant("label: each layer reads global", "js/explorer/recipe-label.ts",
           "return `each ${value}`;", 'return "global";', CHARTS),
    Mutant("score: interval from low to low", "js/charts/score-format.ts",
           "–${percent(high, 1)}`;", "–${percent(low, 1)}`;", CHARTS),
    Mutant("SQNR: twenty for ten", "js/core/estimate.ts",
           "10 * Math.log10(signal / noise)", "20 * Math.log10(signal / noise)", CHARTS),
    Mutant("silhouette: filled with what is pruned", "js/explorer/silhouette-plot.tsx",
           "d={blocksPath(sketched, HEIGHT / 2, filled)}",
           "d={blocksPath(sketched, HEIGHT / 2, (i) => 1 - filled(i))}", PAGE),
    Mutant("bytes: kilobytes of 1024", "js/charts/number-format.ts", "inUnits(value, UNITS, 1000)",
           "inUnits(value, UNITS, 1024)", CHARTS),
    Mutant("preview: estimates not marked", "js/charts/number-format.ts",
           "return exact ? text : `≈", "return exact ? text : `", CHARTS),
    Mutant("size: marks of what is far too small", "js/charts/ticks-and-size-marks.ts",
           "mark.bytes >= 0.09 * dense", "mark.bytes >= 0.0009 * dense", CHARTS),
    # what the monitor says
    Mutant("monitor: lines swapped in the legend", "js/monitor/training-curves.tsx", "╌ training", "● test", MONITOR),
    Mutant("monitor: ticks one epoch too late", "js/charts/ticks-and-size-marks.ts",
           "(_, i) => (first + i) * step", "(_, i) => (first + i + 1) * step", CHARTS),
    Mutant("monitor: time left a tenth", "js/monitor/progress-text.ts",
           "duration(now.eta)", "duration(0.1 * now.eta)", MONITOR),
    Mutant("monitor: trade-off axis inverted", "js/monitor/trade-off-plot.tsx",
           "x: scales.x(point.ratio), y:", "x: frame.width - scales.x(point.ratio), y:", MONITOR),
    # what the engine computes
    Mutant("interval: 90 % for 95 %", "shrinkwidget/evaluation/evaluate_and_metrics.py",
           "Z: Final = 1.959963984540054", "Z: Final = 1.6448536269514722", ("metrics",)),
    Mutant("time left a tenth", "shrinkwidget/training/methods_schedule_options_and_progress.py",
           "(self._steps - 1) * steps_left", "(self._steps - 1) * steps_left / 10", ("run",)),
    Mutant("straight-through: clipped weights pushed further out",
           "shrinkwidget/training/training_loop_losses_and_weight_constraints.py",
           "gradient.masked_fill_(layer.beyond & (gradient * layer.parameter < 0), 0)", "pass", ("grids",)),
    Mutant("gradual pruning along a square", "shrinkwidget/training/methods_schedule_options_and_progress.py",
           "(1 - past) ** 3", "(1 - past) ** 2", ("methods",)),
    Mutant("distillation without the temperature's square",
           "shrinkwidget/training/training_loop_losses_and_weight_constraints.py",
           "apart.mean() * temperature**2", "apart.mean() * temperature", ("methods",)),
    Mutant("transfer: a trained layer costs two passes",
           "shrinkwidget/transfer_learning/transfer_result_and_training_cost.py",
           "_WITH_BACKWARD = 3", "_WITH_BACKWARD = 2", ("transfer",)),
    Mutant("pruning: one weight too few", "shrinkwidget/analysis/pruning_estimate.py",
           "if k := round(recipe.sparsity * sum(layer.n for layer in ranked)):",
           "if k := max(0, round(recipe.sparsity * sum(layer.n for layer in ranked)) - 1):", ("estimate",)),
    Mutant("SQNR: twenty for ten, in Python", "shrinkwidget/analysis/estimate_class_and_packed_file_header.py",
           "10 * math.log10(signal / noise)", "20 * math.log10(signal / noise)", ("estimate",)),
    Mutant("metric: shares that nobody called so", "shrinkwidget/evaluation/evaluate_and_metrics.py",
           'bool(getattr(function, "percent", False))', 'bool(getattr(function, "percent", True))', ("metrics",)),
    Mutant("n:m: what is to go is kept", "shrinkwidget/compression/unstructured_and_nm_sparsity.py",
           "return (beaten < self.n).t()", "return (beaten >= self.n).t()", ("prune",)),
    Mutant("fold: without the norm's epsilon", "shrinkwidget/compression/batchnorm_folding.py",
           'norm.running_var + getattr(norm, "eps", 1e-5)', "norm.running_var", ("fold",)),
    Mutant("files: a checksum of the data alone", "shrinkwidget/files/write_packed_file.py",
           "for part in chain((recipe.encode(), structure.encode()), data):", "for part in data:", ("files",)),
    Mutant("provenance: rounds that are not over count as all",
           "shrinkwidget/training/methods_schedule_options_and_progress.py",
           "{rounds if number + 1 == rounds else", "{rounds if number + 1 <= rounds else", ("rounds",)),
    Mutant("sensitivity: a measured layer stays pruned", "shrinkwidget/evaluation/sensitivity.py",
           "write(entry.name, entry.load())", "pass", ("sensitivity",)),
    Mutant("sensitivity: the least sensitive layer first", "shrinkwidget/evaluation/sensitivity.py",
           "key=lambda layer: -self.drop(layer.name)", "key=lambda layer: self.drop(layer.name)", ("sensitivity",)),
    Mutant("by class: what was wrong before counts as misread", "shrinkwidget/evaluation/compare_predictions.py",
           "(was_right & ~is_right).nonzero()", "(~is_right).nonzero()", ("classes",)),
    Mutant("by class: only the first misread images", "shrinkwidget/evaluation/compare_predictions.py",
           "place = self._random.randrange(len(self._misread))", "place = self._most", ("classes",)),
    Mutant("recalibrated: what is kept has the old statistics", "shrinkwidget/widgets/explorer_backend.py",
           "replace(compressed.with_uncompressed_from(network), provenance=provenance)",
           "replace(compressed, provenance=provenance)", ("recalibrated",)),
    # what the snapshots say
    Mutant("snapshot: pruned column inverted", "shrinkwidget/figures/ridge_plot.py",
           "share_text(row.figures.sparsity)", "share_text(1 - row.figures.sparsity)", SNAPSHOTS),
    Mutant("snapshot: front of the worst", "shrinkwidget/figures/scatter_scales_and_pareto_front.py",
           "sign = 1.0 if higher else -1.0", "sign = -1.0 if higher else 1.0", SNAPSHOTS),
    Mutant("snapshot: rows twice as high", "shrinkwidget/figures/distribution_geometry.py",
           "return 1.06 * float(", "return 2.12 * float(", SNAPSHOTS),
    Mutant("snapshot: shared axis half as wide again", "shrinkwidget/figures/distribution_geometry.py",
           "1.08 * _quantile(layer, 0.997)", "1.62 * _quantile(layer, 0.997)", SNAPSHOTS),
    Mutant("snapshot: threshold drawn at half its value", "shrinkwidget/figures/ridge_plot.py",
           "for x in self.x(np.array([-t, t]))]", "for x in self.x(np.array([-t / 2, t / 2]))]", SNAPSHOTS),
    # what the figures draw
    Mutant("figure: bars of the parts a fifth too long", "shrinkwidget/figures/snapshot_size_score_history.py",
           "_segments(canvas, x, y + 20, scale, 14, estimate)",
           "_segments(canvas, x, y + 20, 1.2 * scale, 14, estimate)", ("figures",)),
    Mutant("figure: sensitivity of the other direction", "shrinkwidget/figures/sensitivity_figure.py",
           "(dense - score.value) / (dense - worst or 1)",
           "(score.value - worst) / (dense - worst or 1)", ("figures",)),
    Mutant("figure: classes the wrong way round", "shrinkwidget/figures/classes_figure.py",
           'canvas.dots(np.array([x(change.after)]), np.array([y]), ACCURACY, size, "D")',
           'canvas.dots(np.array([x(change.before)]), np.array([y]), ACCURACY, size, "D")', ("figures",)),
)  # fmt: skip
