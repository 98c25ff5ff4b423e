"""Layer-wise sensitivity: what pruning or quantizing one layer at a time costs, all other layers dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias, cast, overload

from torch import nn

from ..analysis.open_model_tensors_and_channel_axes import ModelTensors, copied, open_model, writer
from ..analysis.sketch import Sketch, counted
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import plain, public
from ..compression.encode_layers_and_packed_model import fit, on_grid, select_layers
from ..errors import ArgumentError, layer_label, nearest, quoted
from ..recipe_and_method_registry import Recipe, checked_recipe, layer_matches
from .batches_predictions_and_labels import LabelRules
from .data_subset import DataSubset, checked_samples, draw_subset
from .evaluate_and_metrics import CompressedLike, MetricLike, Score, resolve, scored, scores
from .run_in_background import PATIENCE_SECONDS, GrowingRun, computed
from .sketch_and_calibration_data import calibrated

Kind: TypeAlias = Literal["sparsity", "bits"]

SPARSITIES: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""What every layer is pruned to where nothing else is asked."""
BITS: Final = (8, 6, 4, 3, 2)
"""What the explorer quantizes every layer to."""

_ROWS: Final = 32
"""Layers that a `repr` shows."""


@dataclass(frozen=True, slots=True)
class LayerScores:
    """One layer: the score of the model for every amount, with only this layer pruned or quantized.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), bits=2, layers="head")
        >>> found.layers[0].label, found.layers[0].scores[0].n
        ('head', 287)
    """

    name: str
    scores: tuple[Score, ...]

    @property
    def label(self) -> str:
        """The layer's name without ``.weight``."""
        return layer_label(self.name)


@dataclass(frozen=True, slots=True, repr=False)
class Sensitivity:
    """How much of a model's score hangs on each layer; what `sensitivity` returns.

    Args:
        kind: ``"sparsity"`` or ``"bits"``: what was varied.
        amounts: the sparsities, rising, or the bits, falling.
        layers: the layers measured, in the model's order.
        dense: the score of the model as it is, on the same examples.
        examples: which examples, in words: ``"1,000 of 50,000 examples, drawn with seed 0"``.
        recipe: by what layers were ranked, and how rounded; its amounts say nothing.
        pending: how many layers are still to be measured: 0 unless it was stopped.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), sparsity=(0.5, 0.9), layers=["stem", "head"])
        >>> [layer.label for layer in found.layers], found.amounts, found.dense.n
        (['stem', 'head'], (0.5, 0.9), 287)
        >>> found.ranked[0].label  # the most sensitive first
        'stem'
        >>> found.layer("stem").scores[1] < found.dense
        True
    """

    kind: Kind
    amounts: tuple[float, ...]
    layers: tuple[LayerScores, ...]
    dense: Score
    examples: str
    recipe: Recipe
    pending: int = 0

    def layer(self, name: str) -> LayerScores:
        """Return the layer of this name, with or without its ``.weight``.

        Raises:
            KeyError: if it was not measured.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), sparsity=0.9, layers="h*")
            >>> found.layer("head").name
            'head.weight'
        """
        for layer in self.layers:
            if name in (layer.name, layer.label):
                return layer
        raise KeyError(name)

    def drop(self, name: str) -> float:
        """Return how much worse than the dense model a layer makes it, as a mean over all amounts.

        It is in the metric's own unit, a share for an accuracy, and negative where the score became better.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), sparsity=0.5, layers="head")
            >>> found.drop("head") == found.dense.value - found.layer("head").scores[0].value
            True
        """
        drops = [self._worse(score) for score in self.layer(name).scores]
        return sum(drops) / len(drops)

    @property
    def ranked(self) -> tuple[LayerScores, ...]:
        """The layers by their `drop`, the most sensitive first."""
        return tuple(sorted(self.layers, key=lambda layer: -self.drop(layer.name)))

    def _worse(self, score: Score) -> float:
        return (self.dense.value - score.value) * (1 if self.dense.higher else -1)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every score, the most sensitive layer first: rows of a table, or of a DataFrame.

        ``pandas.DataFrame(found.to_rows()).pivot(index="layer", columns="sparsity", values="value")`` is the matrix.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), bits=8, layers="head")
            >>> {name: found.to_rows()[0][name] for name in ("layer", "bits", "n")}
            {'layer': 'head', 'bits': 8, 'n': 287}
            >>> list(found.to_rows()[0])
            ['layer', 'bits', 'metric', 'value', 'low', 'high', 'n', 'drop']
        """
        return [
            {
                "layer": layer.label,
                self.kind: amount,
                "metric": score.metric,
                **{name: getattr(score, name) for name in ("value", "low", "high", "n")},
                "drop": self._worse(score),
            }
            for layer in self.ranked
            for amount, score in zip(self.amounts, layer.scores, strict=True)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, which `from_dict` reads.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), bits=4, layers="head")
            >>> found.to_dict()["kind"], found.to_dict()["amounts"]
            ('bits', [4])
        """
        return {
            "kind": self.kind,
            "amounts": list(self.amounts),
            "layers": [{"name": x.name, "scores": [score.to_dict() for score in x.scores]} for x in self.layers],
            "dense": self.dense.to_dict(),
            "examples": self.examples,
            "recipe": self.recipe.to_json(),
            "pending": self.pending,
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Sensitivity:
        """Return what `to_dict` told; the counts of classes are not in it.

        Example:
            >>> import shrinkwidget as sw
            >>> found = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), bits=4, layers="head")
            >>> sw.results.Sensitivity.from_dict(found.to_dict()).to_rows() == found.to_rows()
            True
        """
        layers = tuple(LayerScores(x["name"], tuple(map(Score.from_dict, x["scores"]))) for x in found["layers"])
        return cls(
            found["kind"],
            tuple(found["amounts"]),
            layers,
            Score.from_dict(found["dense"]),
            found["examples"],
            Recipe.from_json(found["recipe"]),
            found["pending"],
        )

    def __repr__(self) -> str:
        unit = " in %" if self.dense.percent else ""
        heads = ["", "drop", *(_amount_text(self.kind, amount) for amount in self.amounts)]
        ranked = self.ranked
        rows = [
            [x.label, self._text(self.drop(x.name)), *(self._text(s.value) for s in x.scores)] for x in ranked[:_ROWS]
        ]
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in (heads, *rows)
        ]
        if len(ranked) > _ROWS:
            lines.append(f"… {len(ranked) - _ROWS} more layers: see .to_rows()")
        texts = [_amount_text(self.kind, amount) for amount in self.amounts]
        span = texts[0] if len(texts) == 1 else f"{texts[0]} … {texts[-1]}"
        measured = f"{len(self.layers)} layer{'s' * (len(self.layers) != 1)}"
        left = f", {self.pending} not measured" if self.pending else ""
        return "\n".join(
            [
                f"Sensitivity to {self.kind}, one layer at a time: {self.dense.metric}{unit} on {self.examples}",
                f"dense {self.dense.text}; {measured}{left}; drop is the mean over {span}",
                *(f"  {line}".rstrip() for line in lines),
            ]
        )

    def _text(self, value: float) -> str:
        return f"{100 * value:.1f}" if self.dense.percent else f"{value:.4g}"


def _amount_text(kind: Kind, amount: float) -> str:
    return f"{100 * amount:g} %" if kind == "sparsity" else f"{amount} bit{'s' * (amount != 1)}"


class SensitivityRun(GrowingRun[Sensitivity]):
    """A measurement that `sensitivity` starts with ``background=True``; its `progress` is what is known so far.

    Every method may be called from any thread. `pause` takes effect after the layer that is being measured, `stop`
    before the next batch of the data: the result then has the layers measured so far, and says how many are missing.

    Example:
        >>> import shrinkwidget as sw
        >>> run = sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), bits=(4, 2), layers="stage1*", background=True)
        >>> run.wait(), run
        (True, SensitivityRun(DigitNet, done, 4 of 4 layers))
        >>> run.result.amounts
        (4, 2)
    """

    _what = "the measurement"
    _done = "measured"

    def __repr__(self) -> str:
        now = self.progress
        where = "" if now is None else f", {len(now.layers)} of {len(now.layers) + now.pending} layers"
        return f"SensitivityRun({self._title}, {self.state}{where})"


@overload
def sensitivity(
    model: nn.Module | CompressedLike,
    eval_data: object,
    *,
    sparsity: float | Iterable[float] | None = None,
    bits: int | Iterable[int] | None = None,
    recipe: Recipe | None = None,
    metric: MetricLike = "accuracy",
    layers: str | Iterable[str] | None = None,
    samples: int | None = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: Literal[False] = False,
    progress: bool = True,
) -> Sensitivity: ...
@overload
def sensitivity(
    model: nn.Module | CompressedLike,
    eval_data: object,
    *,
    sparsity: float | Iterable[float] | None = None,
    bits: int | Iterable[int] | None = None,
    recipe: Recipe | None = None,
    metric: MetricLike = "accuracy",
    layers: str | Iterable[str] | None = None,
    samples: int | None = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: Literal[True],
    progress: bool = True,
) -> SensitivityRun: ...
@public()
def sensitivity(
    model: nn.Module | CompressedLike,
    eval_data: object,
    *,
    sparsity: float | Iterable[float] | None = None,
    bits: int | Iterable[int] | None = None,
    recipe: Recipe | None = None,
    metric: MetricLike = "accuracy",
    layers: str | Iterable[str] | None = None,
    samples: int | None = 1000,
    seed: int = 0,
    batch_size: int | None = None,
    ignore_index: int | None = None,
    next_token: bool | None = None,
    calibration: object = None,
    background: bool = False,
    progress: bool = True,
) -> Sensitivity | SensitivityRun:
    """Measure how sensitive a model is to each of its layers: one at a time is pruned or quantized, all others stay.

    Every score is what `evaluate` says of ``compress(model, layers={name: dict(sparsity=s)})`` on the same examples
    (Han et al. 2015, arXiv 1506.02626, figure 6; Li et al. 2017, arXiv 1608.08710). The model itself is never changed:
    a copy of it is, and Ctrl-C may interrupt it at any time.

    >>> import shrinkwidget as sw
    >>> sw.sensitivity(sw.demo.model(), sw.demo.data("valid"), sparsity=(0.5, 0.9), layers=["stem", "head"])
    Sensitivity to sparsity, one layer at a time: accuracy in % on all 287 examples
    dense 100.0 %; 2 layers; drop is the mean over 50 % … 90 %
            drop   50 %  90 %
      stem  ...
      head  ...

    Args:
        model: any module, or a `CompressedModel`; of tied weights the one that stands for all is measured.
        eval_data: as `evaluate` takes it. It is read once, unless all of it is asked for and is larger than 1 GiB.
        sparsity: the fractions to prune each layer to, or one; by default 50 % … 99 %.
        bits: instead, the bits to quantize each layer to, such as ``(8, 6, 4, 3, 2)``.
        recipe: by what weights are ranked (its `importance`), or how they are rounded (its `granularity` and
            `quantizer`); layers it has under `Keep` are left out. Its amounts are not used.
        metric, batch_size, ignore_index, next_token: see `evaluate`.
        layers: names or wildcards of the layers to measure; by default all.
        samples: how many examples to draw for it; None for all. The result says which were taken.
        seed: of the draw.
        calibration: examples for an importance that needs them; see `sketch`.
        background: True for a `SensitivityRun` on a thread of its own, already started, instead of the result. It
            measures a copy of the model as it is now, so you may go on with yours.
        progress: whether to show a bar, in a terminal or a notebook, while it blocks.

    Raises:
        ArgumentError: for both sparsity and bits, for none of the layers, or an unknown keyword.
        RecipeError: for a sparsity or bits that are out of range.
        DataError, ModelError, MethodError: see `evaluate` and `compress`.
    """
    module, _ = scored(model)
    kind, amounts = checked_amounts(sparsity, bits)
    chosen = checked_recipe(recipe or Recipe())
    checked_samples(samples, "sensitivity")
    if background:
        # the caller may train on with the one that was given
        module = copied(module)
    weights = open_model(module)
    known = counted(weights)
    if calibration is not None:
        known = replace(known, calibration=calibrated(module, calibration))
    names = layers_to_measure(known, chosen, layers)
    resolve(metric)  # a wrong name is refused here, not on the run's thread

    def measure(stopped: Watch = never, patience: float | None = None) -> Iterator[Sensitivity]:
        # here, and not before the run begins: reading may take its time, and Stop ends it
        data = draw_subset(eval_data, samples, seed, batch_size, stopped, patience)
        rules = LabelRules(ignore_index, next_token)
        yield from sensitivity_steps(
            module, weights, known, data, kind, amounts, chosen, names, metric, rules, stopped
        )  # fmt: skip

    if background:
        return SensitivityRun(type(module).__name__, lambda stopped: measure(stopped, PATIENCE_SECONDS)).start()
    return computed(measure(), "sensitivity", "layer", progress)


def checked_amounts(sparsity: object, bits: object) -> tuple[Kind, tuple[float, ...]]:
    """Return what to vary and the amounts, each once, the mildest first.

    Raises:
        ArgumentError: for both, or for none.
        RecipeError: for an amount that no recipe takes.
    """
    if sparsity is not None and bits is not None:
        raise ArgumentError("sensitivity() takes sparsity or bits, not both: call it once for each")
    kind: Kind = "sparsity" if bits is None else "bits"
    given = (SPARSITIES if sparsity is None else sparsity) if bits is None else bits
    wanted = [plain(given)] if not isinstance(given, Iterable) else [plain(amount) for amount in given]
    if not wanted:
        raise ArgumentError(f"sensitivity({kind}=…) is empty: give at least one amount, or leave it out")
    # a recipe knows which amounts there are, and refuses others in its own words
    recipes = [Recipe(sparsity=amount) if kind == "sparsity" else Recipe(bits=amount) for amount in wanted]
    amounts = sorted({float(recipe.sparsity) if kind == "sparsity" else recipe.bits for recipe in recipes})
    return kind, tuple(amounts if kind == "sparsity" else reversed(amounts))


def layers_to_measure(known: Sketch, recipe: Recipe, layers: str | Iterable[str] | None = None) -> list[str]:
    """Return the names of the layers that were asked for and are not under Keep, in the model's order.

    Raises:
        ArgumentError: for a name that matches no layer, or if none is left.
    """
    asked = [layers] if isinstance(layers, str) else None if layers is None else list(layers)
    labels = [look.label for look in known.layers]
    for pattern in asked or []:
        if not isinstance(pattern, str) or not any(layer_matches(pattern, look.name) for look in known.layers):
            hint = nearest(str(pattern), labels) or f"; the layers are {', '.join(map(quoted, labels[:6]))}"
            raise ArgumentError(f"sensitivity(layers=…): {quoted(pattern)} matches no layer{hint}")
    found = [
        look.name
        for look, plan in zip(known.layers, known.plans(recipe), strict=True)
        if not plan.keep and (asked is None or any(layer_matches(pattern, look.name) for pattern in asked))
    ]
    if not found:
        raise ArgumentError("sensitivity() has no layer to measure: all that were asked for are under Keep")
    return found


def sensitivity_steps(
    model: nn.Module,
    weights: ModelTensors,
    known: Sketch,
    data: DataSubset,
    kind: Kind,
    amounts: tuple[float, ...],
    recipe: Recipe,
    names: Sequence[str],
    metric: MetricLike = "accuracy",
    rules: LabelRules = LabelRules(),
    cancelled: Callable[[], bool] = never,
) -> Iterator[Sensitivity]:
    """Yield what is known after the dense score, and then after every layer.

    `weights` and `known` are those of `model`, of which one copy is made; only one layer of it differs at a time.

    Raises:
        Cancelled: when `cancelled` says so, which is asked before every batch.
    """
    network = copied(model)
    write, metric = writer(network), resolve(metric)

    def score() -> Score:
        *_, last = scores(network, data.data, metric, rules, cancelled)
        return last

    # On the copy, whose weights are the dense ones until the first layer is written over.
    dense, found = score(), list[LayerScores]()
    so_far = Sensitivity(kind, amounts, (), dense, data.text, recipe, pending=len(names))
    yield so_far
    layers = zip(weights.layers, known.layers, known.plans(recipe), strict=True)
    for entry, look, plan in (layer for layer in layers if layer[0].name in set(names)):
        # alone in a model, a layer is ranked and rounded as it is under an override of its own
        alone, its_sketch = ModelTensors(weights.title, (entry,)), replace(known, layers=(look,))
        layer_scores = []
        for amount in amounts:
            # of the given recipe and its plan for the layer only how it ranks, or how it rounds
            if kind == "sparsity":
                of_one = Recipe(sparsity=amount, scope=recipe.scope, importance=recipe.importance)
            else:
                of_one = Recipe(bits=cast(int, amount), granularity=plan.granularity, quantizer=plan.quantizer)
            (selected,) = select_layers(alone, of_one, its_sketch)
            survivors = selected.weights()
            write(entry.name, on_grid(survivors, fit(survivors)))
            layer_scores.append(score())
        write(entry.name, entry.load())
        found.append(LayerScores(entry.name, tuple(layer_scores)))
        yield replace(so_far, layers=tuple(found), pending=len(names) - len(found))
