"""A callback that keeps a compressed model compressed in Lightning's `Trainer`."""

from __future__ import annotations

from typing import Any

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError as error:
        raise ImportError("this callback needs Lightning: pip install lightning") from error

from ..compressed_model import CompressedModel
from ..training.custom_loop import ConstrainedTraining


class ConstraintCallback(Callback):  # type: ignore[misc]  # Lightning need not be installed
    """Keeps masks and grids of a compressed model while Lightning trains it; see `constrain`.

    Args:
        small: what `compress`, `load(…, into=model)` or `retrain` returned; its `model` is, or is a part of, the
            LightningModule.

    Example:
        callback = ConstraintCallback(small)
        Trainer(max_epochs=3, callbacks=[callback]).fit(Classifier(small.model), loader)
        small = callback.compressed()
    """

    def __init__(self, small: CompressedModel) -> None:
        self._training = ConstrainedTraining(small)
        self._inside = False

    def compressed(self) -> CompressedModel:
        """Return the model as it has been trained, compressed; see `ConstrainedTraining.compressed`."""
        return self._training.compressed()

    def on_train_start(self, *_: Any) -> None:
        """Begin to hold the model to its recipe; it is on its device by now."""
        # Not earlier: Lightning has moved the model to its device by now, and its optimizers are made.
        self._training.__enter__()
        self._inside = True

    def on_train_end(self, *_: Any) -> None:
        """Let go of the model."""
        if self._inside:  # an exception may come before the training has begun
            self._inside = False
            self._training.__exit__(None, None, None)

    def on_exception(self, *_: Any) -> None:
        """Let go of the model after whatever ended the training, Ctrl-C among it."""
        self.on_train_end()
