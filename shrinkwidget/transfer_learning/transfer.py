"""What a user calls: teach a model another task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, Unpack, overload

from torch import nn

from ..analysis.inference import preserve_rng_state
from ..arguments import public
from ..compressed_model import CompressedModel
from ..errors import TrainingError
from ..training.options import OF_METHOD, TrainingFields, TrainingOptions, options_from
from ..training.progress_display import run_displayed
from ..training.retraining_methods import named
from ..training.schedule import Schedule
from ..training.training_run import TrainingRun
from .from_scratch import default_schedule
from .strategies import STRATEGIES, FullFineTune, LinearProbe, Strategy, StrategyName
from .transfer_result import TransferResult
from .transfer_setup import set_up_transfer
from .transfer_spec import TransferSpec
from .transfer_task import TransferTask

_ELSEWHERE: Final = {kind: f"strategy={kind.__name__}({{}}=…)" for kind in STRATEGIES.values()}


@overload
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: Literal[False] = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TransferResult: ...
@overload
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: Literal[True],
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TrainingRun[TransferResult]: ...
@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE)
def transfer(
    model: CompressedModel | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: TrainingOptions | None = None,
    baseline: bool | Schedule = False,
    background: bool = False,
    progress: bool = True,
    **fields: Unpack[TrainingFields],
) -> TransferResult | TrainingRun[TransferResult]:
    """Return a model taught another task, with a new head in place of the old; the one given is untouched.

    >>> import shrinkwidget as sw
    >>> taught = sw.transfer(sw.demo.model(), sw.demo.few(per_class=8), epochs=5)
    >>> taught.provenance
    'transferred, new head trained 5 epochs'

    In a notebook it is shown while it lasts; stopping it ends it with the best weights so far.

    Args:
        model: a module, or a `CompressedModel`, whose pruned weights stay zero; its new head is dense, in as many bits
            as the recipe says, unless the recipe names the head's sparsity or keeps it.
        train_data: a pair of tensors (inputs, targets), a dataset, a DataLoader, or a list of batches.
        eval_data: as `train_data`; scored after every epoch, and nothing is chosen by it.
        classes: how many the new head tells apart; by default they are counted in the labels.
        targets: for a regression instead, how many numbers it predicts.
        head: the old head's name, or that of a module it is the last Linear layer or 1×1 convolution of; by default the
            last layer to run, with those of as many outputs if the model needs all of them replaced (LeViT, distilled
            DeiT). Several are given as a list.
        strategy: what learns: ``"linear_probe"``, ``"full_finetune"``, ``"gradual_unfreezing"``, ``"lora"``, or an
            object of `shrinkwidget.methods` with settings of its own, such as ``LoRA(rank=8)``.
        options: all else: loss, batches, seed. A regression has the loss ``"mse"`` unless it is given a function.
        baseline: True to train the same network from scratch, too, dense, on the same data, for comparison: for 30
            epochs or 300 steps, whichever is longer; or by a schedule.
        background: True for a `TrainingRun` on a thread of its own, already started, instead of the result; `monitor`
            shows it.
        progress: see `retrain`.
        fields: `epochs`, `lr` and `optimizer` change the strategy, all others the options.

    Raises:
        ModelError: if the head is not found; the candidates are listed.
        DataError: for data that does not fit the model, or labels out of range.
        TrainingError: for other arguments that do not fit, and for a training that cannot go on; the error's `best`
            then holds the best weights.
        ArgumentError: for an unknown keyword.
    """
    by = named(strategy, STRATEGIES, "strategy", {name: fields.get(name) for name in OF_METHOD})
    if not isinstance(by, Strategy) or isinstance(by, type):
        example = f"{LinearProbe.__name__}() or {FullFineTune.__name__}(epochs=10)"
        raise TrainingError(
            f"strategy={strategy!r} must be a name such as 'linear_probe', or an object such as {example}"
        )
    if not isinstance(baseline, bool | Schedule):
        raise TrainingError(f"baseline={baseline!r} must be True, False, or a Schedule to train from scratch by")
    task = TransferTask.of(train_data, eval_data, classes, targets, options_from(options, fields))
    with preserve_rng_state():
        setup = set_up_transfer(model, task, head)
    schedule = (default_schedule(task) if baseline else None) if isinstance(baseline, bool) else baseline
    provenance = model.provenance if isinstance(model, CompressedModel) else "no retraining"
    spec = TransferSpec(setup, task, by, provenance, schedule)
    if background:
        return TrainingRun[TransferResult](spec).start()
    found: TransferResult = run_displayed(spec, progress)
    return found
