"""Batch norm's statistics measured again for the weights there are now: the cheapest recovery, without a label."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from itertools import islice

from ..analysis.open_model_tensors_and_channel_axes import copied
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..compressed_model import CompressedModel, compress
from ..errors import Cancelled, DataError, ModelError
from ..evaluation.batches_predictions_and_labels import read_in_thread
from ..evaluation.recalibrate_batchnorm import recalibration_steps, unlabelled, why_not_recalibrated
from ..recipe_and_method_registry import Recipe
from .methods_schedule_options_and_progress import Progress, RecalibrateBatchNorm, TrainingLog, TrainingSpec


class BatchNormRecalibration:
    """Measures the statistics of every batch norm: the mean over all batches, each weighing the same.

    It is driven as a `Trainer` is. Codes, masks and scales stay what they are; only buffers change.
    """

    def __init__(
        self, spec: TrainingSpec, method: RecalibrateBatchNorm, stopped: Watch = never, patience: float | None = None
    ) -> None:
        self.spec = spec
        self.log = TrainingLog()
        self._stopped, self._patience = stopped, patience
        self._most = method.batches
        self._source = spec.source if isinstance(spec.source, CompressedModel) else compress(spec.source, Recipe())
        # Until all batches are seen the old statistics stay: half of a mean is worse than none.
        self._result = self._source
        if spec.options.checkpoint is not None or spec.resume:
            raise DataError("RecalibrateBatchNorm takes no checkpoint: it is over in one pass")
        if why := why_not_recalibrated(spec.model):
            raise ModelError(why)

    def best(self) -> CompressedModel:
        """Return the model with its new statistics, or, before all are measured, as it came."""
        return self._result

    def steps(self) -> Generator[Progress, None, CompressedModel]:
        """Measure, and return the result.

        Raises:
            DataError: for batches that do not fit the model, or none.
        """
        network, data = copied(self.spec.model), self.spec.train_data
        batches = read_in_thread(unlabelled(data), data, self._stopped, self._patience)
        try:
            for number in recalibration_steps(network, islice(batches, self._most), self._stopped):
                yield Progress("norms", 1, 1, 1, 1, number)
        except Cancelled:
            return self.best()
        provenance = "batch norm recalibrated"
        if self._source.provenance != "no retraining":
            provenance = f"{self._source.provenance}, then {provenance}"
        self._result = replace(self._source.with_uncompressed_from(network), provenance=provenance)
        return self._result
