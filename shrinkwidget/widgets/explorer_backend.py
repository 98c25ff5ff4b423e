"""The model session behind an Explorer: one model, its sketch, and a scratch copy to try recipes on; no widgets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any, Final, TypeAlias, cast

from torch import nn

from ..analysis.channel_families_and_counts import Channels
from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.estimate_from_sketch import estimate
from ..analysis.model_has_changed import ModelChecksum
from ..analysis.open_model_tensors_and_channel_axes import (
    ModelTensors,
    Source,
    Stated,
    copied,
    fill,
    open_model,
    plans_of,
)
from ..analysis.run_model_seeded_macs_and_memory import ForwardProfile, device_of, profile_forward
from ..analysis.sketch import LayerSketch, Sketch, assembled, sketch_layer, without_layers
from ..analysis.tensor_ops_threads_and_cpu_kernel import each, never
from ..compressed_model import CompressedModel, NarrowedWidths, compress, without_channels
from ..compression.encode_layers_and_packed_model import EncodedTensor, decoded_state, encode_layers, pack
from ..compression.find_and_prune_channels import channels
from ..errors import Cancelled, DataError, ModelError, NoEstimateError, RecipeError, ShrinkError, a_type, sentence
from ..evaluation.batches_predictions_and_labels import (
    LabelRules,
    first_example,
    prepared,
    raw_batches,
    read_in_thread,
    refuse_no_data,
)
from ..evaluation.compare_predictions import PredictionComparison, PredictionRecorder
from ..evaluation.data_subset import DataSubset, draw_subset
from ..evaluation.evaluate_and_metrics import MetricLike, Score, resolve, scores
from ..evaluation.recalibrate_batchnorm import EXAMPLES, recalibrate, unlabelled_examples, why_not_recalibrated
from ..evaluation.sensitivity import BITS, SPARSITIES, Kind, Sensitivity, sensitivity_steps
from ..evaluation.sketch_and_calibration_data import calibrated
from ..exports import Exported
from ..exports.exporter import Progress
from ..files import entropy_coded_bytes
from ..performance.race import RaceRun, race
from ..recipe_and_method_registry import Importance, Recipe, kinds
from ..recipe_and_method_registry import Kind as RecipeKind
from ..recovery.recover import RecoverySession, RecoverySpec, checked_methods, same_examples
from ..training.methods_schedule_options_and_progress import Method, TrainingOptions, TrainingSpec
from ..training.retrain_and_training_run import TrainingRun
from .by_class_json_and_thumbnails import IMAGES, by_class_dict, small_picture
from .keep_and_save import PLAIN

CancelCheck = Callable[[], bool]
_Key: TypeAlias = tuple[str, tuple[type[RecipeKind], ...]]


def _key(recipe: Recipe) -> _Key:
    """Return what is remembered of a recipe under: its text, and the classes of its kinds.

    A cell that defines a kind may run again: then the text is the same, and what it comes to another.
    """
    own = [value for override in recipe.layers.values() if isinstance(override, Mapping) for value in override.values()]
    chosen = (recipe.importance, recipe.structure, recipe.quantizer, *own)
    return recipe.to_json(), tuple(type(kind) for kind in chosen if isinstance(kind, RecipeKind))


DENSE: Final = Recipe()
_DENSE: Final = (_key(DENSE), False)
_REMEMBERED: Final = 512
_COMPARISONS: Final = 64
"""So many are remembered: with their small pictures each may take 200 kB."""
_RACED: Final = (1, 32)
"""The batch sizes of a race."""
_SENSITIVITY_EXAMPLES: Final = 1000
_PATIENCE_SECONDS: Final = 20.0
"""An evaluation whose data gives no batch for so long is given up, until it is asked for again."""


_AT_ONCE_SECONDS: Final = 0.3
"""A sketch that takes longer is made in the background."""
_LAYER_SECONDS: Final = 1e-3
_WEIGHT_SECONDS: Final = 1e-8


class Stale(ModelError):
    """The model is no longer the one that was looked at."""


@dataclass(frozen=True, slots=True, eq=False)
class _Scored:
    """A recipe, with batch norm recalibrated or not, whose predictions were recorded while it was scored."""

    key: tuple[_Key, bool]
    recorder: PredictionRecorder
    score: Score


class _Base:
    """The weights that a recipe's codes are made of, and a copy of the network that is filled with what comes of them.

    `sketch` and `widths` are those of a model without some channels; see `without_channels`.
    """

    def __init__(
        self,
        model: nn.Module | None,
        weights: ModelTensors,
        sketch: Sketch | None = None,
        widths: NarrowedWidths | None = None,
    ) -> None:
        self._model = model
        self.weights = weights
        self.sketch = sketch
        self.widths = widths
        self._scratch: nn.Module | None = None

    def scratch(self) -> nn.Module:
        """Return the copy, made when it is first asked for."""
        if self._scratch is None:
            self._scratch = copied(cast(nn.Module, self._model))  # data was refused for anything else
        return self._scratch


class ExplorerSession:
    """Looks at a model once, then answers what any recipe makes of it: estimate, exact figures, scores, a new model.

    The sketch of a large model is made later, layer by layer, by `finish_sketch`, or by whoever first asks for it.

    Scores are taken on a scratch copy (made when first needed), so that the user's model is never touched, not even
    its training mode, and can be trained on meanwhile.
    """

    def __init__(
        self,
        source: Source,
        eval_data: object = None,
        metric: MetricLike = "accuracy",
        train_data: object = None,
        rules: LabelRules = LabelRules(),
        layout: Stated = None,
        calibration: object = None,
        example: object = None,
    ) -> None:
        self.weights = open_model(source, layout=layout)
        for name, given in (("eval_data", eval_data), ("train_data", train_data)):
            if given is not None:
                _check_data(source, given, name)
        self.metric = resolve(metric)
        self.source = source
        self.eval_data = eval_data
        self.train_data = train_data
        self._looked = ModelChecksum.of(source)
        self._sketching = RLock()
        self._sketched: list[LayerSketch] = []
        self._sketch: Sketch | None = None
        self._statistics = None if calibration is None else calibrated(source, calibration)
        self._rules = rules
        self._layout = layout
        self._calibration = calibration
        self._example = example
        self._looking = RLock()
        self._no_channels: str | None = None
        self._whole = _Base(source if isinstance(source, nn.Module) else None, self.weights, None)
        self._narrow: tuple[object, _Base] | None = None
        self._coded: tuple[_Key, dict[str, EncodedTensor], Estimate] | None = None
        self._exact: OrderedDict[_Key, Estimate] = OrderedDict()
        self._memory: OrderedDict[_Key, dict[str, int]] = OrderedDict()
        self._scores: OrderedDict[tuple[_Key, bool], Score] = OrderedDict()
        self._comparisons: OrderedDict[tuple[_Key, bool], PredictionComparison] = OrderedDict()
        self._dense: _Scored | None = None
        self._before_dense: _Scored | None = None
        self._recalibration: DataSubset | None = None
        self._recovers_from: object = None
        weights = sum(entry.numel for entry in self.weights.layers)
        if _LAYER_SECONDS * len(self.weights.layers) + _WEIGHT_SECONDS * weights <= _AT_ONCE_SECONDS:
            self.finish_sketch(never)

    # the sketch, layer by layer

    @property
    def sketch(self) -> Sketch:
        """The sketch of all layers; those that are not there yet are looked at first.

        Raises:
            ModelError: for a layer that no sketch can be made of.
            Stale: if the model has changed while its layers were looked at.
        """
        if self._sketch is None:
            self.finish_sketch(never)
        assert self._sketch is not None
        return self._sketch

    @property
    def sketched(self) -> int:
        """How many layers were looked at so far."""
        return len(self._sketched)

    @property
    def is_sketched(self) -> bool:
        """Whether all layers were looked at."""
        return self._sketch is not None

    @property
    def channels(self) -> Channels | None:
        """Which channels can be removed, None while that is not known."""
        return None if self._sketch is None else self._sketch.channels

    def finish_sketch(self, cancelled: CancelCheck, tell: Callable[[int], None] = lambda _layers: None) -> None:
        """Look at the layers that are not there yet, and `tell` after each but the last how many are.

        It raises as `sketch`. What was found before it is cancelled stays.
        """
        with self._sketching:
            layers, start = self.weights.layers, len(self._sketched)
            for i, layer in enumerate(each(sketch_layer, layers[start:], cancelled, self.weights.on_gpu), start):
                # by its place: an urgent command that needs the sketch may have gone on with it between two layers
                self._sketched[i : i + 1] = [layer]
                if len(self._sketched) < len(layers):
                    tell(len(self._sketched))
            if self._sketch is None:
                # layers that were looked at before a change, and others after it, are a sketch of no model
                self.refuse_changed()
                self._sketch = replace(assembled(self.weights, tuple(self._sketched)), calibration=self._statistics)

    def encode_sketch(self) -> bytes:
        """Return the sketch as the page takes it; as long as layers are missing, with their headers in their place."""
        if self._sketch is not None:
            return self._sketch.encode()
        layers = tuple(self._sketched)
        return replace(without_layers(self.weights), layers=layers).encode(self.weights.layers[len(layers) :])

    def check(self, recipe: Recipe) -> None:
        """Raise a `RecipeError` for a recipe that does not fit the model's layers, or lacks calibration data."""
        plans_of(recipe, self.weights.layers, without_layers(self.weights).uncompressed)
        if recipe.removes_channels and (why := self.why_no_channels(never)):
            raise RecipeError(f"no channels can be removed here: {why}")
        if lacks := self.unavailable.get(recipe.importance.kind):
            raise RecipeError(f"importance {recipe.importance.kind!r} {lacks}")

    @property
    def unavailable(self) -> dict[str, str]:
        """Why importances cannot be chosen here, by tag: they need calibration data or layers, and there are none."""
        modules = list(self.source.modules()) if isinstance(self.source, nn.Module) else []
        missing = {}
        for kind in kinds("importance"):
            assert isinstance(kind, Importance)
            if kind.calibrated and self._statistics is None:
                missing[kind.kind] = (
                    "needs calibration data: open the explorer with sw.explore(model, data, calibration=…)"
                )
            if (by := kind.ranks_channels_by) and not any(isinstance(module, by) for module in modules):
                missing[kind.kind] = "ranks channels by layers that this model has none of"
        return missing

    # channels: which can be removed is seen while the model runs on an example

    def why_no_channels(self, cancelled: CancelCheck) -> str:
        """Return why no channel of the model can be removed, "" if some can; they are looked for the first time.

        The sketch knows of them from then on.
        """
        with self._looking:
            if self._no_channels is None:
                self._no_channels = self._look_for_channels(cancelled)
            return self._no_channels

    def _look_for_channels(self, cancelled: CancelCheck) -> str:
        if not isinstance(self.source, nn.Module):
            return "it takes a module that can run, and this is only its weights"
        if self._example is None and self.eval_data is None:
            return "it takes an example to run: open the explorer with sw.explore(model, example=…)"
        try:
            example = self._first_example(cancelled) if self._example is None else self._example
            self.refuse_changed()
            found = example if isinstance(example, Channels) else channels(self.source, example)
        except (Cancelled, Stale):
            raise
        except ShrinkError as error:
            return sentence(error)
        self._sketch = replace(self.sketch, channels=found)
        if found.families:
            return ""
        widest = max(found.fixed, key=lambda width: width.channels, default=None)
        return f"every width has to stay ({widest.reason})" if widest else "the example runs through no layer"

    def _first_example(self, cancelled: CancelCheck) -> object:
        """Return the first example of the data, as the model takes it."""
        model = cast(nn.Module, self.source)
        batches = read_in_thread(raw_batches(self.eval_data), self.eval_data, cancelled, _PATIENCE_SECONDS)
        return first_example(prepared(next(batches), model, device_of(model)))

    def _found_channels(self) -> Channels | None:
        """Return the families that were found, once a recipe that removes channels was checked."""
        if why := self.why_no_channels(never):
            raise RecipeError(f"no channels can be removed here: {why}")
        return self.sketch.channels

    def _base(self, recipe: Recipe) -> _Base:
        """Return what a recipe's codes are made of: the model, or what is left of it without the recipe's channels."""
        if not recipe.removes_channels:
            return self._whole
        importance = recipe.importance
        widths = recipe.width_plans([layer.name for layer in self.sketch.layers])
        asked = (recipe.channels, recipe.multiple, recipe.channel_scope, *widths)
        key = (asked, recipe.prunes, str(importance.to_json()), type(importance))
        if self._narrow is None or self._narrow[0] != key:
            self._narrow = None  # not two copies of the network at once
            left = without_channels(self.source, recipe, self._found_channels(), self.sketch.calibration)
            self._narrow = (key, _Base(left.model, left.weights, left.sketch, left.widths))
        return self._narrow[1]

    def changed(self) -> str:
        """Return in a sentence what has changed in the model since its sketch was made, nothing if nothing has.

        Sketch, figures and scores are then those of weights that are gone. 25 million weights are looked at in 25 ms.
        """
        return self._looked.difference(self.source)

    def refuse_changed(self) -> None:
        """Raise a `Stale` if the model has changed since its sketch was made."""
        if differs := self.changed():
            raise Stale(f"{differs}; look again, or run the cell again")

    def estimate(self, recipe: Recipe) -> Estimate:
        """Return the exact figures if they have been counted, else the sketch's estimate.

        They are counted now for a recipe of which a sketch cannot tell what it comes to.
        """
        known = self._exact.get(_key(recipe))
        try:
            return known or estimate(self.sketch, recipe)
        except NoEstimateError:
            return self.exact(recipe, never)

    def exact(self, recipe: Recipe, cancelled: CancelCheck) -> Estimate:
        """Return the figures counted on the weights."""
        key = _key(recipe)
        if key not in self._exact:
            self._encode(recipe, cancelled)
        return self._exact[key]

    def nbytes_entropy_coded(self, recipe: Recipe, cancelled: CancelCheck) -> Estimate:
        """Return the exact figures with the size of the entropy-coded file, which is coded to find out."""
        figures = self.exact(recipe, cancelled)
        if figures.nbytes_entropy_coded is None:
            packed = pack(self._base(recipe).weights, recipe, self._encode(recipe, cancelled))
            figures = replace(figures, nbytes_entropy_coded=entropy_coded_bytes(packed))
            _remember(self._exact, _key(recipe), figures)
        return figures

    def _encode(self, recipe: Recipe, cancelled: CancelCheck) -> dict[str, EncodedTensor]:
        """Return the codes of a recipe; of the last one they are at hand, as figures, score and file all follow."""
        key = _key(recipe)
        if self._coded is None or self._coded[0] != key:
            self._coded = None  # not the codes of two recipes at once
            base = self._base(recipe)
            encoded, figures = encode_layers(base.weights, recipe, self._known(base), cancelled)
            self._coded = (key, encoded, figures if base.widths is None else base.widths.told_by(figures))
        _, encoded, figures = self._coded
        if key not in self._exact:
            _remember(self._exact, key, figures)
        return encoded

    def _known(self, base: _Base) -> Sketch | None:
        """Return what is known of the weights that are encoded: the sketch is of the model with all its channels."""
        return self.sketch if base is self._whole else base.sketch

    def known_score(self, recipe: Recipe, recalibrated: bool = False) -> Score | None:
        """Return the final score of a recipe evaluated before, with batch norm as it came or recalibrated."""
        return self._scores.get((_key(recipe), recalibrated))

    def comparison(self, recipe: Recipe, recalibrated: bool = False) -> PredictionComparison | None:
        """Return what a recipe gets wrong that the dense model got right, None where that is not known."""
        return self._comparisons.get((_key(recipe), recalibrated))

    def known(self, recipe: Recipe, images: bool = True) -> dict[str, Any]:
        """Return what has been found out about a recipe so far, as the page takes it.

        That is ``exact``, its figures, ``score`` and ``by_class``, and the latter two with batch norm recalibrated as
        ``recalibrated``, each as far as there is one. Without `images` the misread ones are left out, which may take
        200 kB.
        """
        figures = self._exact.get(_key(recipe))
        found: dict[str, Any] = {} if figures is None else {"exact": figures.to_dict() | self.known_memory(recipe)}
        found |= self._known_score(recipe, False, images)
        if recalibrated := self._known_score(recipe, True, images):
            found["recalibrated"] = recalibrated
        return found

    def _known_score(self, recipe: Recipe, recalibrated: bool, images: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        about = {"recipe": recipe.to_json(), "recalibrated": recalibrated}
        if (score := self.known_score(recipe, recalibrated)) is not None:
            found["score"] = {**score.to_dict(), **about, "state": "done"}
        if (comparison := self.comparison(recipe, recalibrated)) is not None:
            shown = comparison if images else replace(comparison, images={})
            found["by_class"] = {**by_class_dict(shown), **about}
        return found

    def forget_score(self, recipe: Recipe) -> None:
        """Forget the scores of a recipe, so that it is evaluated again."""
        for recalibrated in (False, True):
            self._scores.pop((_key(recipe), recalibrated), None)

    def scores(self, recipe: Recipe, cancelled: CancelCheck, recalibrated: bool = False) -> Iterator[Score]:
        """Yield running scores of the model under a recipe, the last one with ``done=True``."""
        key = (_key(recipe), recalibrated)
        known = self._scores.get(key)
        if known is not None and (key == _DENSE or self._dense is None or key in self._comparisons):
            yield known
            return
        encoded, base = self._encode(recipe, cancelled), self._base(recipe)
        model = base.scratch()
        fill(model, decoded_state(base.weights, recipe, encoded, cancelled))
        provenance = recalibrate(model, self._recalibrated_on(cancelled), cancelled=cancelled) if recalibrated else None
        recorder = self._recorder(key)
        for score in self._scored(model, recorder, cancelled):
            if provenance is not None:
                score = replace(score, provenance=provenance)
            if score.done:
                self.refuse_changed()  # it may have while it was copied, layer by layer
                _remember(self._scores, key, score)
                self._compare(_Scored(key, recorder, score))
            yield score

    def _scored(self, model: nn.Module, recorder: PredictionRecorder, cancelled: CancelCheck) -> Iterator[Score]:
        found = scores(model, self.eval_data, self.metric, self._rules, cancelled, _PATIENCE_SECONDS, observe=recorder)
        return (replace(score, provenance=PLAIN) for score in found)  # what was trained is told by who asks for it

    # what a recipe gets wrong: its predictions are compared with those of the dense model while it is scored

    def _recorder(self, key: tuple[_Key, bool]) -> PredictionRecorder:
        """Return what observes an evaluation: it compares with the dense model's, or that with the one before it."""
        other = self._before_dense if key == _DENSE else self._dense
        return PredictionRecorder(
            None if other is None else other.recorder, other_is_after=key == _DENSE, images=IMAGES, shrink=small_picture
        )

    def _compare(self, this: _Scored) -> None:
        """Remember what differs from the dense model, now or once that is scored, too."""
        if this.key == _DENSE:
            self._dense, before = this, self._before_dense
            if before is not None:
                _remember(self._comparisons, before.key, this.recorder.compared(this.score, before.score), _COMPARISONS)
            self._before_dense = None
        elif self._dense is None:
            self._before_dense = this
        else:
            _remember(self._comparisons, this.key, this.recorder.compared(self._dense.score, this.score), _COMPARISONS)

    def compare(self, compressed: CompressedModel, cancelled: CancelCheck) -> PredictionComparison | None:
        """Return what a retrained model gets wrong that the dense one got right, None while that was not evaluated."""
        if self._dense is None:
            return None
        if compressed.narrowed is None:
            model = self._whole.scratch()
            fill(model, compressed.packed.state_dict().items())
        else:
            model = copied(cast(nn.Module, compressed.model))
        recorder = PredictionRecorder(self._dense.recorder, images=IMAGES, shrink=small_picture)
        *_, score = self._scored(model, recorder, cancelled)
        return recorder.compared(self._dense.score, replace(score, provenance=compressed.provenance))

    # recovery without retraining, on examples that are not those of the scores

    @property
    def recovery_data(self) -> tuple[object, str]:
        """The examples that are recovered on, and what they are called: those given for that, else the first there are.

        Raises:
            DataError: where there are none, or they are the test data.
            ModelError: without a module to run.
        """
        if not isinstance(self.source, nn.Module):
            raise ModelError("recovery runs the model: give the nn.Module instead of its weights")
        given = {"data": self._recovers_from, "calibration": self._calibration, "train_data": self.train_data}
        for name, data in given.items():
            if data is None:
                continue
            if same_examples(data, self.eval_data):
                raise DataError(
                    f"{name} is eval_data, and what a model was fitted to cannot tell how good it is: give other "
                    f"examples, ex.recover(data)"
                )
            return data, "training" if name == "train_data" else "calibration"
        raise DataError(
            "recovery needs examples, without labels, that are not the test data: ex.recover(data), or "
            "sw.explore(model, eval_data, train_data=…)"
        )

    @property
    def why_not_recovered(self) -> str:
        """Why there is no recovery here, "" if there is."""
        try:
            self.recovery_data  # noqa: B018  # for what it raises
        except ShrinkError as error:
            return str(error)
        return ""

    def recover_from(self, data: object) -> None:
        """Take these examples for every recovery from now on; raises as `recovery_data`."""
        if isinstance(data, Iterator):
            raise DataError(
                f"data is {a_type(data)}, which can be read only once, and every recovery needs it again: pass a "
                f"DataLoader, a list of batches, or a tensor"
            )
        before, self._recovers_from = self._recovers_from, data
        try:
            self.recovery_data  # noqa: B018  # for what it raises
        except ShrinkError:
            self._recovers_from = before
            raise

    def recovery(self, recipe: Recipe, cancelled: CancelCheck, examples: int = EXAMPLES) -> RecoverySession:
        """Return what recovers the model under a recipe, step by step; raises as `recovery_data`, or a `Stale`."""
        self.refuse_changed()
        data, name = self.recovery_data
        model = cast(nn.Module, self.source)
        spec = RecoverySpec(
            model, data, recipe, checked_methods(None, model), examples, data_name=name, sketch=self.sketch
        )
        return RecoverySession(spec, cancelled, _PATIENCE_SECONDS)

    def evaluated(
        self, compressed: CompressedModel, cancelled: CancelCheck
    ) -> Iterator[tuple[Score, PredictionComparison | None]]:
        """Yield the running score of a model of its own, and after the last what it gets wrong, if that is known.

        It is run as it is, not in the scratch copy: other recipes may be scored in that between two batches.
        """
        dense = self._dense
        recorder = PredictionRecorder(None if dense is None else dense.recorder, images=IMAGES, shrink=small_picture)
        for found in self._scored(cast(nn.Module, compressed.model), recorder, cancelled):
            score = replace(found, provenance=compressed.provenance)
            compared = recorder.compared(dense.score, score) if score.done and dense is not None else None
            yield score, compared

    # batch norm, re-estimated before every score

    @property
    def why_not_recalibrated(self) -> str:
        """Why batch norm cannot be recalibrated here, "" if it can."""
        if why := why_not_recalibrated(self.source):
            return why
        return (
            "" if self.train_data is not None else "it needs training data: sw.explore(model, eval_data, train_data=…)"
        )

    def _recalibrated_on(self, cancelled: CancelCheck) -> DataSubset:
        if self._recalibration is None:
            self._recalibration = unlabelled_examples(self.train_data, cancelled, _PATIENCE_SECONDS)
        return self._recalibration

    # sensitivity, layer by layer, on a copy of its own: other work may come between two batches

    def usual_amounts(self, kind: Kind, recipe: Recipe) -> tuple[float, ...]:
        """Return what the button "Sensitivity" prunes or quantizes every layer to."""
        if kind == "sparsity":
            return SPARSITIES
        return tuple(bits for bits in BITS if bits in recipe.quantizer.widths) or recipe.quantizer.widths

    def sensitivity(
        self, kind: Kind, amounts: tuple[float, ...], recipe: Recipe, names: Sequence[str], cancelled: CancelCheck
    ) -> Iterator[Sensitivity]:
        """Yield what is known of the sensitivity of these layers after the dense score, and after each of them."""
        self.refuse_changed()
        data = draw_subset(self.eval_data, _SENSITIVITY_EXAMPLES, cancelled=cancelled, patience=_PATIENCE_SECONDS)
        yield from sensitivity_steps(
            cast(nn.Module, self.source),
            self.weights,
            self.sketch,
            data,
            kind,
            amounts,
            recipe,
            names,
            self.metric,
            self._rules,
            cancelled,
        )
        self.refuse_changed()

    def forward(self, cancelled: CancelCheck) -> tuple[list[int], list[int], int | None]:
        """Run the first example of the data: return the layers in the order of their first use, and what it took.

        That is the multiply-accumulates of each layer, and the peak of activation bytes. It is run on the scratch copy.
        They are empty and None if it cannot be run; the evaluation, which needs the same batch, says why.
        """
        seen = self._profile(self._whole.scratch(), cancelled)
        if seen is None:
            return [], [], None
        names = [layer.name for layer in self.sketch.layers]
        return forward_order(names, seen.order), [seen.macs.get(name, 0) for name in names], seen.peak

    def _profile(self, model: nn.Module, cancelled: CancelCheck) -> ForwardProfile | None:
        """Run a model on the first example of the data; None if it cannot be."""
        try:
            return profile_forward(model, open_model(model).entries, self._first_example(cancelled))
        except Cancelled:
            raise
        except (ShrinkError, StopIteration):
            return None

    def race(self, compressed: CompressedModel, cancelled: CancelCheck) -> RaceRun:
        """Return a race of the dense model against a compressed one, started, on the first example of the data.

        Raises:
            DataError: without data to take the example from.
            Stale: if the dense model has changed since its sketch was made.
        """
        if not isinstance(self.source, nn.Module) or self.eval_data is None:
            raise DataError("a race needs a model and data: open the explorer with sw.explore(model, eval_data)")
        self.refuse_changed()
        example = self._first_example(cancelled)
        return race({"dense": self.source, "now": compressed}, example, batch=_RACED, background=True)

    def export(
        self, compressed: CompressedModel, path: Path, target: str | None, progress: Progress, cancelled: CancelCheck
    ) -> Exported:
        """Write a compressed model for another runtime, on an example and scored on the data there are."""
        example = None if isinstance(self._example, Channels) else self._example
        return compressed.export(
            path,
            target,
            example=example,
            eval_data=self.eval_data,
            metric=self.metric,
            ignore_index=self._rules.ignore_index,
            next_token=self._rules.next_token,
            progress=progress,
            cancelled=cancelled,
        )

    def memory(self) -> int:
        """Return the bytes of weights and buffers as they run: pruning and rounding leave them as large as they are."""
        return sum(entry.nbytes for entry in self.weights.entries)

    def measure_memory(self, recipe: Recipe, cancelled: CancelCheck) -> None:
        """Find out what is left without a recipe's channels takes while it runs, for `known_memory`; needs data."""
        key, base = _key(recipe), self._base(recipe)
        if base is not self._whole and key not in self._memory and self.eval_data is not None:
            seen = self._profile(base.scratch(), cancelled)
            if seen is not None:
                weights = sum(entry.nbytes for entry in base.weights.entries)
                _remember(self._memory, key, {"weights": weights, "activations": seen.peak})

    def known_memory(self, recipe: Recipe) -> dict[str, Any]:
        """Return what was measured of a recipe as ``memory``: nothing where no channels go, the dense model's holds."""
        found = self._memory.get(_key(recipe))
        return {} if found is None else {"memory": found}

    def memory_of(self, compressed: CompressedModel, cancelled: CancelCheck) -> dict[str, Any]:
        """Return the same of a retrained or recovered model, which may have other widths than its recipe makes now."""
        if compressed.narrowed is None or self.eval_data is None:
            return {}
        model = cast(nn.Module, compressed.model)
        seen = self._profile(model, cancelled)
        weights = sum(entry.nbytes for entry in open_model(model).entries)
        return {} if seen is None else {"memory": {"weights": weights, "activations": seen.peak}}

    def compress(self, recipe: Recipe, recalibrated: bool = False) -> CompressedModel:
        """Return the compressed model, with batch norm as it came or recalibrated; the user's is untouched.

        Raises:
            Stale: if that has changed since its sketch was made, before or meanwhile.
        """
        self.refuse_changed()
        example = self._found_channels() if recipe.removes_channels else None
        compressed = compress(self.source, recipe, sketch=self.sketch, layout=self._layout, example=example)
        self.refuse_changed()
        if not recalibrated:
            return compressed
        network = copied(cast(nn.Module, compressed.model))
        provenance = recalibrate(network, self._recalibrated_on(never))
        return replace(compressed.with_uncompressed_from(network), provenance=provenance)

    def retrain(self, compressed: CompressedModel, method: Method) -> TrainingRun[CompressedModel]:
        """Return a run that retrains a compressed model, not yet started, scored by this bench's data and metric."""
        options = TrainingOptions(
            metric=self.metric, ignore_index=self._rules.ignore_index, next_token=self._rules.next_token
        )
        return TrainingRun(TrainingSpec(compressed, self.train_data, self.eval_data, method, options))

    def reopened(self) -> ExplorerSession:
        """Return a new bench for the model as it is now; raises as the first one did."""
        again = ExplorerSession(
            *(self.source, self.eval_data, self.metric, self.train_data),
            *(self._rules, self._layout, self._calibration, self._example),
        )
        again._recovers_from = self._recovers_from
        return again


def forward_order(names: Sequence[str], modules: Sequence[str]) -> list[int]:
    """Return the indices of parameters in the order in which their modules were first called.

    A parameter whose module was never called itself (its parent uses it) goes where the one defined before it went.
    """
    called = {module: place for place, module in enumerate(modules)}
    places, place = [], -1
    for name in names:
        place = called.get(name.rpartition(".")[0], place)
        places.append(place)
    return sorted(range(len(names)), key=places.__getitem__)


def _check_data(source: Source, data: object, name: str) -> None:
    if not isinstance(source, nn.Module):
        raise DataError(
            f"accuracy needs a module that can run: give the nn.Module instead of its weights, or leave {name} out"
        )
    if isinstance(data, Iterator):
        raise DataError(
            f"{name} is {a_type(data)}, which can be read only once, and every recipe needs it again: "
            f"pass a DataLoader, a list of batches, or a pair of tensors"
        )
    refuse_no_data(data)


def _remember(cache: OrderedDict[Any, Any], key: object, value: object, most: int = _REMEMBERED) -> None:
    cache[key] = value
    if len(cache) > most:
        cache.popitem(last=False)
