"""A callback that keeps a compressed model compressed in Hugging Face's `Trainer`."""

from __future__ import annotations

from typing import Any

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("this callback needs Hugging Face's trainer: pip install 'transformers[torch]'") from error

from ..compressed_model import CompressedModel
from ..training.custom_loop import ConstrainedTraining


class ConstraintCallback(TrainerCallback):
    """Keeps masks and grids of a compressed model while a `transformers.Trainer` trains it; see `constrain`.

    It acts on the trainer's events alone and leaves no hook anywhere, whatever ends the training. The trainer clips
    gradients before it tells of a step, so their norm counts those of pruned weights, too; around ``trainer.train()``,
    ``with constrain(small):`` does not count them.

    Args:
        small: what `compress`, `load(…, into=model)` or `retrain` returned; give the trainer its `model`.

    Example:
        callback = ConstraintCallback(small)
        Trainer(small.model, arguments, train_dataset=data, callbacks=[callback]).train()
        small = callback.compressed()
    """

    def __init__(self, small: CompressedModel) -> None:
        self._training = ConstrainedTraining(small)

    def compressed(self) -> CompressedModel:
        """Return the model as it has been trained, compressed; see `ConstrainedTraining.compressed`."""
        return self._training.compressed()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin to hold the model to its recipe."""
        # Not as a context, which hooks optimizers: no event tells of a training that fails, and would end it.
        self._training.start()

    def on_pre_optimizer_step(self, *_: Any, **found: Any) -> None:
        """Give the optimizer the weights that are trained."""
        self._training.before_step(found["optimizer"])

    def on_optimizer_step(self, *_: Any, **found: Any) -> None:
        """Put pruned weights back to zero, and round what is rounded."""
        self._training.after_step(found["optimizer"])

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Let go of the model, after the best checkpoint was loaded, if that was asked for."""
        self._training.finish()
