"""What a user calls: retrain a model, or prune and retrain it round by round."""

from __future__ import annotations

from torch import nn

from ..compressed import Compressed
from .bar import finished
from .job import Job
from .loop import Trainer
from .methods import FineTune, Method
from .options import Training


def retrain(
    model: Compressed | nn.Module,
    train: object,
    test: object = None,
    method: Method = FineTune(),
    *,
    options: Training = Training(),
) -> Compressed:
    """Return a compressed model trained further; the one given is untouched.

    Args:
        model: a `Compressed`, whose pruned weights stay zero and through whose grid or codebook is trained, so that the
            result is exactly what was trained; or a module, which is trained as it is (the dense control).
        train: a pair of tensors (inputs, targets), a dataset, a DataLoader, or an iterable of batches.
        test: as `train`; scored after every epoch.
        method: how: `FineTune`, `RewindLearningRate`, or `RewindWeights`.
        options: all else: loss, batches, seed, checkpoint.

    Raises:
        ModelError, DataError, TrainingError: for arguments that do not fit each other, and for a training that cannot
            go on; the error's `best` then holds the best weights.
    """
    return finished(Trainer(Job(model, train, test, method, options)))
