"""What a user calls: teach a model another task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Unpack

from torch import nn

from ..arguments import public
from ..compressed import Compressed
from ..errors import TrainingError
from ..learn.methods import named
from ..learn.options import OF_METHOD, Training, TrainingFields, options_from
from ..learn.schedule import Schedule
from ..measure.call import keeping_random_state
from ..train.evaluate import Score, evaluate
from .lesson import Lesson
from .result import Transferred
from .scratch import Scratch, usual
from .start import Start, module_of, start
from .strategies import STRATEGIES, FineTuneAll, Head, Strategy, StrategyName
from .task import Task

_ELSEWHERE: Final = {kind: f"strategy={kind.__name__}({{}}=…)" for kind in STRATEGIES.values()}


@public(fields_of=[TrainingFields], elsewhere=_ELSEWHERE)
def transfer(
    model: Compressed | nn.Module,
    train_data: object,
    eval_data: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy | StrategyName = "linear_probe",
    options: Training | None = None,
    baseline: bool | Schedule = False,
    **fields: Unpack[TrainingFields],
) -> Transferred:
    """Return a model taught another task, with a new head in place of the old; the one given is untouched.

    >>> import shrinkwidget as sw
    >>> taught = sw.transfer(sw.demo.model(), sw.demo.few(per_class=8), epochs=5)
    >>> taught.regime
    'transferred, new head trained 5 epochs'

    In a notebook every stage is shown while it trains; stopping one ends the transfer with the best weights so far.

    Args:
        model: a module, or a `Compressed`, whose pruned weights stay zero; its new head is dense, in as many bits as
            the recipe says, unless the recipe names the head's sparsity or keeps it.
        train_data: a pair of tensors (inputs, targets), a dataset, a DataLoader, or a list of batches.
        eval_data: as `train_data`; scored after every epoch, and nothing is chosen by it.
        classes: how many the new head tells apart; by default they are counted in the labels.
        targets: for a regression instead, how many numbers it predicts.
        head: the old head's name, or that of a module it is the last Linear layer or 1×1 convolution of; by default the
            last layer to run, with those of as many outputs if the model needs all of them replaced (LeViT, distilled
            DeiT). Several are given as a list.
        strategy: what learns: ``"linear_probe"``, ``"full_finetune"``, ``"gradual_unfreezing"``, ``"lora"``, or an
            object of `shrinkwidget.methods` with settings of its own, such as ``LowRank(rank=8)``.
        options: all else: loss, batches, seed. A regression has the loss ``"mse"`` unless it is given a function.
        baseline: True to train the same network from scratch, too, dense, on the same data, for comparison: for 30
            epochs or 300 steps, whichever is longer; or by a schedule.
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
        example = f"{Head.__name__}() or {FineTuneAll.__name__}(epochs=10)"
        raise TrainingError(
            f"strategy={strategy!r} must be a name such as 'linear_probe', or an object such as {example}"
        )
    if not isinstance(baseline, bool | Schedule):
        raise TrainingError(f"baseline={baseline!r} must be True, False, or a Schedule to train from scratch by")
    task = Task.of(train_data, eval_data, classes, targets, options_from(options, fields))
    with keeping_random_state():
        begun = start(model, task, head)
    lesson = Lesson(begun, task, by)
    done = _done(lesson, begun, task, model.regime if isinstance(model, Compressed) else "no retraining")
    if baseline is False or lesson.stopped:
        return done
    schedule = usual(task) if baseline is True else baseline
    fresh = begun.from_scratch(task.options.seed)
    return replace(done, baseline=_done(Lesson(fresh, task, Scratch(schedule)), fresh, task))


def _done(lesson: Lesson, begun: Start, task: Task, before: str = "no retraining") -> Transferred:
    spent, result = lesson.run(), lesson.result()
    regime = result.regime if before == "no retraining" else f"{before}, then {result.regime}"
    result = replace(result, regime=regime)
    score = None if task.eval_data is None else _scored(result, task.eval_data, task.options)
    compressed = None if begun.recipe is None else result
    return Transferred(module_of(result), ", ".join(begun.heads), regime, score, lesson.history, spent, compressed)


def _scored(result: Compressed, eval_data: object, options: Training) -> Score:
    rules = options.rules
    return evaluate(result, eval_data, options.measured, ignore_index=rules.ignore_index, next_token=rules.next_token)
