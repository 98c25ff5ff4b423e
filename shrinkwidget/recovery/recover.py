"""`recover`: compress a model, and win back what that costs from a few unlabelled examples, without retraining."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain, groupby
from typing import Final, Literal, TypeAlias, Unpack, overload

import torch
from torch import Tensor, nn

from ..analysis.estimate_class_and_packed_file_header import safetensors_bytes
from ..analysis.open_model_tensors_and_channel_axes import copied, open_model, writer
from ..analysis.run_model_seeded_macs_and_memory import RandomState, profile_forward
from ..analysis.sketch import Sketch, counted
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..argument_checks import public
from ..compressed_model import CompressedModel, compress, compress_with_codes, narrowed_widths
from ..compression.encode_layers_and_packed_model import (
    EncodedTensor,
    SelectedLayer,
    decode,
    encode_layer,
    select_layers,
)
from ..compression.find_and_prune_channels import narrower
from ..errors import Cancelled, ModelError, ShrinkError, TrainingError, a_type, layer_label
from ..evaluation.data_subset import DataSubset
from ..evaluation.recalibrate_batchnorm import (
    EXAMPLES,
    recalibrating,
    recalibration_steps,
    unlabelled,
    unlabelled_examples,
    why_not_recalibrated,
)
from ..evaluation.sketch_and_calibration_data import Calibration, CalibrationRun, calibrated
from ..recipe_and_method_registry import Recipe, RecipeFields, every_setting, recipe_from
from ..training.methods_schedule_options_and_progress import (
    Progress,
    TrainingLog,
    TrainingOptions,
    check_whole,
    checked_choice,
)
from ..training.retrain_and_training_run import TrainingRun, run_displayed
from .error_compensation import SingularMomentsError, compensate
from .input_moments import InputMoments, collecting, why_no_moments, with_call
from .layerwise_forward import layerwise_forward

RecoveryMethod: TypeAlias = Literal["error_compensation", "bias_correction", "recalibrate_batchnorm"]

_WORDS: Final[Mapping[str, str]] = {
    "error_compensation": "error compensation",
    "bias_correction": "bias correction",
    "recalibrate_batchnorm": "batch norm recalibrated",
}
"""What a provenance says of each method."""

_MOST_HELD: Final = 1 << 30
"""Bytes of activations of all examples at one place of the network. Where there are no more, one pass through it is
enough for all layers (`layerwise_forward`); else the examples run through it anew for every layer."""

_PASSES: Final = 24
"""So many times at most; of more layers than this some then share a pass."""

_DAMPING: Final = 0.01  # as GPTQ's


@overload
def recover(
    model: nn.Module,
    train_data: object,
    recipe: Recipe | float | None = None,
    *,
    methods: RecoveryMethod | Sequence[RecoveryMethod] | None = None,
    examples: int = EXAMPLES,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[RecipeFields],
) -> CompressedModel: ...
@overload
def recover(
    model: nn.Module,
    train_data: object,
    recipe: Recipe | float | None = None,
    *,
    methods: RecoveryMethod | Sequence[RecoveryMethod] | None = None,
    examples: int = EXAMPLES,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[RecipeFields],
) -> TrainingRun[CompressedModel]: ...
@public(fields_of=[RecipeFields], also=every_setting)
def recover(
    model: nn.Module,
    train_data: object,
    recipe: Recipe | float | None = None,
    *,
    methods: RecoveryMethod | Sequence[RecoveryMethod] | None = None,
    examples: int = EXAMPLES,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[RecipeFields],
) -> CompressedModel | TrainingRun[CompressedModel]:
    """Return a model compressed by a recipe, its weights chosen so that it computes what the dense one did.

    It takes seconds, a few examples, and no label. The file has the very bytes that `compress` would give: masks are
    those of the recipe, and weights lie on its grids; only which of its values each has is chosen by what the layer
    computes. The model given is untouched.

    >>> import shrinkwidget as sw
    >>> model, test = sw.demo.model(), sw.demo.data("test")
    >>> sw.evaluate(sw.compress(model, sparsity=0.9, bits=4), test) < 0.6
    True
    >>> small = sw.recover(model, sw.demo.data("train"), sparsity=0.9, bits=4)
    >>> sw.evaluate(small, test) > 0.98, small.provenance
    (True, 'recovered on 512 training examples, no retraining: error compensation, batch norm recalibrated')

    Args:
        model: the dense module.
        train_data: as for `evaluate`, or inputs alone: a tensor of them, batches of one tensor or of a dict each, or a
            dict as the only batch. Never test data: what a model was fitted to cannot tell how good it is.
        recipe: a `Recipe`, or a number: the sparsity.
        methods: some of ``"error_compensation"`` (of linear layers and convolutions of one or two dimensions, see
            `shrinkwidget.recovery.error_compensation`), ``"bias_correction"`` (biases are moved by what the mean output
            of their layer lost), and ``"recalibrate_batchnorm"`` (batch norm's statistics are measured again, see
            `methods.RecalibrateBatchNorm`). By default the first, and the last, or, without batch norm, the second.
        examples: so many are drawn from the data.
        background: True for a `TrainingRun` on a thread of its own, already started, instead of the result.
        progress: while it blocks, a terminal shows a bar, and any other stderr a line now and then.
        fields: of a `Recipe`; beside a recipe they change it. Channels go first, and what is left is recovered.

    Returns:
        The compressed model. Layers that were rounded as `compress` does, since their inputs are no rows that a matrix
        multiplies, the data never reached them, or their inputs have no inverse second moments, are among its
        `warnings`.

    Raises:
        RecipeError, MethodError: as `compress` does.
        ModelError: for what is no module, cannot be copied, or has no batch norm to recalibrate.
        DataError: for data that is none, holds NaN, or does not fit the model, naming the batch.
        TrainingError: for unknown methods, or a number of examples that cannot be.
        ArgumentError: for an unknown keyword.
    """
    given: object = model
    if not isinstance(given, nn.Module):
        dense = " it was made of" if isinstance(given, CompressedModel) else ""
        raise ModelError(f"cannot recover {a_type(given)}: give the dense nn.Module{dense}, and the recipe")
    check_whole(examples, "recover", "examples")
    made_by = recipe_from(recipe, fields)
    spec = RecoverySpec(model, train_data, made_by, checked_methods(methods, model), examples)
    if background:
        return TrainingRun[CompressedModel](spec).start()
    done: CompressedModel = run_displayed(spec, progress)
    return done


def checked_methods(found: str | Sequence[str] | None, model: nn.Module) -> tuple[str, ...]:
    """Return what is to be done, in order; None for what suits the model.

    Raises:
        ModelError: if batch norm is to be recalibrated, and there is none.
        TrainingError: for unknown methods, or none.
    """
    if found is None:
        return "error_compensation", "bias_correction" if why_not_recalibrated(model) else "recalibrate_batchnorm"
    names = [found] if isinstance(found, str) else list(found)
    chosen = {checked_choice(name, tuple(_WORDS), "recover(methods=…)") for name in names}
    if "recalibrate_batchnorm" in chosen and (why := why_not_recalibrated(model)):
        raise ModelError(f"recover(methods=…): {why}: leave 'recalibrate_batchnorm' out")
    if not chosen:
        raise TrainingError("recover(methods=[]) has nothing to do: name a method, or use compress")
    return tuple(name for name in _WORDS if name in chosen)


@dataclass(frozen=True, slots=True, eq=False)
class RecoverySpec:
    """What a `TrainingRun` is asked for, like a `TrainingSpec`: a dense model, its recipe, and how it is recovered.

    `data_name` is what the provenance calls the examples. With the model's `sketch` its weights need not be counted
    again, and an importance that looks at data has the statistics it took for the sketch.
    """

    model: nn.Module
    train_data: object
    recipe: Recipe
    methods: tuple[str, ...]
    examples: int = EXAMPLES
    data_name: str = "training"
    sketch: Sketch | None = None
    options: TrainingOptions = field(default_factory=TrainingOptions)

    @property
    def trains(self) -> bool:
        """Whether it trains, epoch by epoch."""
        return False

    @property
    def kind(self) -> str:
        """What it makes of a model, in a word."""
        return "recovered"

    @property
    def words(self) -> str:
        """What is done."""
        return ", ".join(_WORDS[method] for method in self.methods)

    def trainer(self, stopped: Watch = never, patience: float | None = None) -> RecoverySession:
        """Return what does it."""
        return RecoverySession(self, stopped, patience)


class RecoverySession:
    """Does a recovery: layer by layer, in the order in which the network runs them, then its batch norms."""

    def __init__(self, spec: RecoverySpec, stopped: Watch, patience: float | None) -> None:
        self.spec = spec
        self.log = TrainingLog()
        self._stopped, self._patience = stopped, patience
        self._result: CompressedModel | None = None

    def best(self) -> CompressedModel:
        """Return the recovered model, or, before it is complete, the compressed one as it is."""
        if self._result is None:
            spec, data = self.spec, None
            if spec.recipe.importance.calibrated:
                data = unlabelled_examples(spec.train_data, samples=spec.examples).data
            example = self._example(spec.train_data) if spec.recipe.removes_channels else None
            self._result = compress(spec.model, spec.recipe, calibration=data, example=example)
        return self._result

    def steps(self) -> Generator[Progress, None, CompressedModel]:
        """Do it, and return the result; when it is stopped, the compressed model as it is.

        Raises:
            DataError: for data that is none, holds NaN, or does not fit the model, naming the batch.
            MethodError: for an importance or a quantizer that fails.
        """
        with suppress(Cancelled):
            yield from self.steps_until_stopped()
        return self.best()

    def steps_until_stopped(self) -> Iterator[Progress]:
        """Do it, for who has no use for a model that is only compressed; raises as `steps`, and a `Cancelled`."""
        random = RandomState()
        steps = self._steps()
        while True:
            # a forward pass may draw random numbers, and what stands between two steps is the caller's
            with random.entered():
                try:
                    now = next(steps)
                except StopIteration:
                    return
            yield now

    def _steps(self) -> Iterator[Progress]:
        spec = self.spec
        yield Progress("features", 1, 1, 1)  # reading the data may take its time
        examples = unlabelled_examples(spec.train_data, self._stopped, self._patience, spec.examples)
        statistics = None if spec.sketch is None else spec.sketch.calibration
        if not isinstance(statistics, Calibration):
            statistics = None
        if statistics is None and spec.recipe.importance.calibrated:
            statistics = calibrated(spec.model, examples.data)
        model, narrow = spec.model, None
        if spec.recipe.removes_channels:  # first, as `compress` does; the rest is recovered in what is left
            narrow = narrower(model, spec.recipe, self._example(examples.data), statistics)
            model = narrow.model
        weights, network = open_model(model), copied(model).eval()
        known = spec.sketch if spec.sketch is not None and narrow is None else counted(weights)
        if statistics is not None:
            known = replace(known, calibration=statistics if narrow is None else statistics.of(model))
        selected = {layer.entry.name: layer for layer in select_layers(weights, spec.recipe, known, self._stopped)}
        layers = _LayerByLayer(network, selected, examples, spec.methods, self._stopped)
        if set(spec.methods) & {"error_compensation", "bias_correction"}:
            for done, of in layers.steps():
                yield Progress("compensate", 1, 1, 1, 1, done, of)
        small = compress_with_codes(model, spec.recipe, known, layers.codes)
        write = writer(network)
        for name, codes in small.encoded.items():  # those that were not compensated, too
            write(name, decode(codes))
        if "recalibrate_batchnorm" in spec.methods:
            for number in recalibration_steps(network, unlabelled(examples.data), self._stopped):
                yield Progress("norms", 1, 1, 1, 1, number)
        small = small.with_uncompressed_from(network)
        if narrow is not None:
            dense = safetensors_bytes(open_model(spec.model).saved)
            small = small.with_widths(narrowed_widths(narrow.channels, narrow.left, dense))
        self._result = replace(
            small,
            provenance=f"recovered on {examples.n:,} {spec.data_name} example{'s' * (examples.n != 1)}, no retraining: "
            f"{spec.words}",
            notes=layers.notes(),
        )

    def _example(self, data: object) -> object:
        """Return the first example of the data, as the model takes it."""
        return CalibrationRun(self.spec.model, data).example()


class _LayerByLayer:
    """Compresses the layers of a network where it stands, each for the inputs it gets once those before it are done.

    `codes` are the codes chosen so far, by layer; `why` says of others why they are rounded as `compress` does.
    """

    def __init__(
        self,
        network: nn.Module,
        selected: Mapping[str, SelectedLayer],
        examples: DataSubset,
        methods: Sequence[str],
        stopped: Watch,
    ) -> None:
        self.codes: dict[str, EncodedTensor] = {}
        self.why: dict[str, str] = {}
        self._network, self._methods, self._stopped = network, methods, stopped
        self._selected = {name: layer for name, layer in selected.items() if not layer.plan.keep}
        self._examples, self._data = examples, CalibrationRun(network, examples.data)
        self._calls: Counter[nn.Module] = Counter()
        self._batches = sum(1 for _ in unlabelled(examples.data))

    def steps(self) -> Iterator[tuple[int, int]]:
        """Do it, and yield how many layers are done, and of how many, after each.

        Raises:
            Cancelled: when it is stopped.
        """
        layers, write = self._in_order(), writer(self._network)
        corrects = "bias_correction" in self._methods
        dense = self._means(layers) if corrects else {}
        for name, layer in self._selected.items():  # first, so that the others make good for these, too
            if name not in layers:
                write(name, decode(encode_layer(layer.weights(), want_effective=False).encoded))
        for done, (name, moments, means) in enumerate(self._as_they_run(layers), start=1):
            self.codes[name] = self._encoded(name, moments)
            effective, entry = decode(self.codes[name]), self._selected[name].entry
            write(name, effective)
            for module in layers[name] if corrects else ():
                if (bias := module._parameters.get("bias")) is None:
                    continue
                # what the output was on average in the dense network, and is now, inputs having changed as well
                was = _mean_output(entry.rows(), dense[module])
                now = _mean_output(entry.layout.rows(effective), means[module])
                with torch.no_grad():
                    bias.add_((was - now).to(bias.dtype))
            yield done, len(layers)

    def notes(self) -> tuple[str, ...]:
        """Return in a sentence each which layers were rounded as `compress` does, and why."""
        reasons = sorted(set(self.why.values()))
        layers = {reason: [layer_label(name) for name, why in self.why.items() if why == reason] for reason in reasons}
        return tuple(f"{', '.join(names)} rounded without error compensation: {why}" for why, names in layers.items())

    def _encoded(self, name: str, inputs: InputMoments | None) -> EncodedTensor:
        layer = self._selected[name].weights()
        if inputs is not None and inputs.second is not None:
            try:
                return compensate(layer, inputs.second, _DAMPING)
            except SingularMomentsError:
                self.why[name] = "the second moments of its inputs cannot be inverted"
        return encode_layer(layer, want_effective=False).encoded

    def _in_order(self) -> dict[str, list[nn.Module]]:
        """Return the layers whose inputs can be told, and the modules that run each, as the first batch runs them."""
        named = {id(p): name for name, p in self._network.named_parameters(remove_duplicate=False)}
        own = {alias: name for name, layer in self._selected.items() for alias in layer.entry.names}
        found: dict[str, list[nn.Module]] = {}

        def note(module: nn.Module, *_: object) -> None:
            self._calls[module] += 1
            why = why_no_moments(module)
            # attention reads the weights of the layer in it, which is itself never called
            for parameter in module.parameters(recurse=isinstance(module, nn.MultiheadAttention)):
                name = own.get(named.get(id(parameter), ""))
                if name is None or module in found.get(name, ()):
                    continue
                if why or parameter is not module._parameters.get("weight"):
                    self.why[name] = why or f"it is no weight of a {type(module).__name__} that multiplies its input"
                found.setdefault(name, []).append(module)

        with ExitStack() as hooks:
            for module in self._network.modules():
                hooks.enter_context(module.register_forward_pre_hook(note))
            # the first batch is enough to see the order
            next(self._data.forward())
        self.why |= {name: "the data never reached it" for name in self._selected if name not in found}
        return {name: modules for name, modules in found.items() if name not in self.why}

    def _as_they_run(
        self, layers: Mapping[str, list[nn.Module]]
    ) -> Iterator[tuple[str, InputMoments | None, Mapping[nn.Module, InputMoments]]]:
        """Yield the layers with the moments of their inputs, and the means by module, as the compressed ones give them.

        A layer is to be compressed before the next one is asked for.
        """
        # of a layer that runs twice the inputs of the second call are not known yet when the first one is due
        once = {name for name, modules in layers.items() if len(modules) == 1 and self._calls[modules[0]] == 1}
        if len(once) < 2 or self._held() > _MOST_HELD:
            once = set()
        for one_pass, group in groupby(layers, key=once.__contains__):
            names = list(group)
            if one_pass:
                yield from self._in_one_pass({name: layers[name][0] for name in names})
            else:
                yield from self._in_passes({name: layers[name] for name in names})

    def _in_one_pass(
        self, layers: Mapping[str, nn.Module]
    ) -> Iterator[tuple[str, InputMoments | None, Mapping[nn.Module, InputMoments]]]:
        means_only = "error_compensation" not in self._methods
        with self._norms(), closing(layerwise_forward(layers, list(self._data.runs()))) as steps:
            for name, calls in steps:
                moments: InputMoments | None = None
                for call in calls:
                    moments = with_call(moments, call.module, call.args, call.kwargs, self._batches, means_only)
                    self._check_stopped()
                if moments is not None:
                    yield name, moments, {layers[name]: moments}

    def _in_passes(
        self, layers: Mapping[str, list[nn.Module]]
    ) -> Iterator[tuple[str, InputMoments | None, Mapping[nn.Module, InputMoments]]]:
        names, together = list(layers), -(-len(layers) // _PASSES)
        for start in range(0, len(names), together):
            some = {name: layers[name] for name in names[start : start + together]}
            means = self._means(some) if "bias_correction" in self._methods else {}
            moments: dict[str, InputMoments] = {}
            if "error_compensation" in self._methods:
                with collecting(some, self._batches) as moments:
                    self._run()
            for name in some:
                yield name, moments.get(name), means

    def _held(self) -> float:
        """Return how many bytes of activations all examples have at most, at one moment; infinite if nobody knows."""
        entries = open_model(self._network).entries
        try:
            peak = profile_forward(self._network, entries, self._data.example()).peak
        except ShrinkError:
            return math.inf
        return math.inf if self._examples.n is None else peak * self._examples.n

    def _means(self, layers: Mapping[str, Sequence[nn.Module]]) -> dict[nn.Module, InputMoments]:
        """Return the mean inputs of layers, by module: those that share weights have biases of their own."""
        apart = {str(number): [module] for number, module in enumerate(chain.from_iterable(layers.values()))}
        with collecting(apart, self._batches, means_only=True) as found:
            self._run()
        return {apart[number][0]: moments for number, moments in found.items()}

    def _run(self) -> None:
        with self._norms():
            for _ in self._data.forward():
                self._check_stopped()

    def _norms(self) -> AbstractContextManager[None]:
        """Let batch norms work with the statistics of each batch, where they are to be measured again at the end."""
        return recalibrating(self._network) if "recalibrate_batchnorm" in self._methods else nullcontext()

    def _check_stopped(self) -> None:
        if self._stopped():
            raise Cancelled("cancelled before all layers were compensated")


def _mean_output(rows: Tensor, inputs: InputMoments) -> Tensor:
    """Return the mean output, ``[rows]``, of a layer whose weights are ``[rows, columns]``, without its bias."""
    groups = rows.float().view(len(inputs.mean), -1, rows.shape[1])
    return (groups @ inputs.mean[..., None]).view(-1)


def same_examples(data: object, test: object) -> bool:
    """Tell whether two data sets are one, or their first tensors are equal, or overlapping parts of one tensor."""
    if test is None:
        return False
    if getattr(data, "dataset", data) is getattr(test, "dataset", test):
        return True
    one, other = _first_tensor(data), _first_tensor(test)
    if one is None or other is None:
        return False
    overlap = max(one.data_ptr(), other.data_ptr()) < min(x.data_ptr() + x.nbytes for x in (one, other))
    return overlap or (one.dtype == other.dtype and torch.equal(one, other.to(one.device)))


def _first_tensor(data: object) -> Tensor | None:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return data if isinstance(data, Tensor) else None
