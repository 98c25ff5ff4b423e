"""What a user calls: teach a model another task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ..compressed import Compressed
from ..errors import TrainingError
from ..learn.options import Training
from ..learn.schedule import Schedule
from ..measure.call import keeping_random_state
from ..train.evaluate import Score, evaluate
from .lesson import Lesson
from .result import Transferred
from .scratch import Scratch, usual
from .start import Start, module_of, start
from .strategies import Head, Strategy
from .task import Task


def transfer(
    model: Compressed | nn.Module,
    train: object,
    test: object = None,
    *,
    classes: int | None = None,
    targets: int | None = None,
    head: str | Sequence[str] | None = None,
    strategy: Strategy = Head(),
    options: Training = Training(),
    baseline: bool | Schedule = False,
) -> Transferred:
    """Return a model taught another task, with a new head in place of the old; the one given is untouched.

    In a notebook every stage is shown while it trains; stopping one ends the transfer with the best weights so far.

    Args:
        model: a module, or a `Compressed`, whose pruned weights stay zero; its new head is dense, in as many bits as
            the recipe says, unless the recipe names the head's sparsity or keeps it.
        train: a pair of tensors (inputs, targets), a dataset, a DataLoader, or a list of batches.
        test: as `train`; scored after every epoch, and nothing is chosen by it.
        classes: how many the new head tells apart; by default they are counted in the labels.
        targets: for a regression instead, how many numbers it predicts.
        head: the old head's name, or that of a module it is the last Linear layer or 1×1 convolution of; by default the
            last layer to run, with those of as many outputs if the model needs all of them replaced (LeViT, distilled
            DeiT). Several are given as a list.
        strategy: what learns: `Head`, `FineTuneAll`, `Gradual`, or `LowRank`.
        options: all else: loss, batches, seed. A regression has the loss ``"mse"`` unless it is given a function.
        baseline: True to train the same network from scratch, too, dense, on the same data, for comparison: for 30
            epochs or 300 steps, whatever is more; or by a schedule.

    Raises:
        ModelError: if the head is not found; the candidates are listed.
        DataError: for data that does not fit the model, or labels out of range.
        TrainingError: for other arguments that do not fit, and for a training that cannot go on; the error's `best`
            then holds the best weights.
    """
    if not isinstance(strategy, Strategy) or isinstance(strategy, type):
        raise TrainingError(f"strategy={strategy!r} must be one such as Head() or FineTuneAll(epochs=10)")
    if not isinstance(baseline, bool | Schedule):
        raise TrainingError(f"baseline={baseline!r} must be True, False, or a Schedule to train from scratch by")
    task = Task.of(train, test, classes, targets, options)
    with keeping_random_state():
        begun = start(model, task, head)
    lesson = Lesson(begun, task, strategy)
    done = _done(lesson, begun, task, model.regime if isinstance(model, Compressed) else "no retraining")
    if baseline is False or lesson.stopped:
        return done
    schedule = usual(task) if baseline is True else baseline
    fresh = begun.from_scratch(options.seed)
    return replace(done, baseline=_done(Lesson(fresh, task, Scratch(schedule)), fresh, task))


def _done(lesson: Lesson, begun: Start, task: Task, before: str = "no retraining") -> Transferred:
    spent, result = lesson.run(), lesson.result()
    regime = result.regime if before == "no retraining" else f"{before}, then {result.regime}"
    result = replace(result, regime=regime)
    score = None if task.test is None else _scored(result, task.test, task.options)
    compressed = None if begun.recipe is None else result
    return Transferred(module_of(result), ", ".join(begun.heads), regime, score, lesson.history, spent, compressed)


def _scored(result: Compressed, test: object, options: Training) -> Score:
    rules = options.rules
    return evaluate(result, test, options.measured, ignore_index=rules.ignore_index, next_token=rules.next_token)
