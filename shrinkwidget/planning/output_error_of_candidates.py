"""Candidates for a budget, judged by how far a network's outputs move on some examples, without their labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.estimate_class_and_packed_file_header import Estimate
from ..analysis.open_model_tensors_and_channel_axes import copied, writer
from ..analysis.run_model_seeded_macs_and_memory import call, device_of, eval_mode
from ..analysis.sketch import Sketch
from ..analysis.tensor_ops_threads_and_cpu_kernel import Watch, never
from ..compressed_model import CompressedModel, compress
from ..errors import Cancelled, DataError
from ..evaluation.batches_predictions_and_labels import (
    Batch,
    batch_named,
    first_example,
    only_prediction,
    prepared,
    refuse_not_finite,
)
from ..evaluation.evaluate_and_metrics import MetricLike, Score, runnable, scores
from ..evaluation.recalibrate_batchnorm import batch_norms, recalibrate, recalibrating, unlabelled, unlabelled_examples
from ..recipe_and_method_registry import Recipe
from .layer_options import Floats

EXAMPLES: Final = 256
"""So many examples tell recipes apart whose outputs differ by a tenth."""
_RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe that was tried for a budget: its bytes, and how far the network's outputs are from the dense ones.

    `error` is the mean of ‖dense outputs − a · outputs‖² over the examples, a being the factor that makes it least, as
    a share of the dense outputs' own variance: 1 is as bad as answering the same to everything. `planned` tells a plan
    from a uniform recipe.
    """

    name: str
    recipe: Recipe
    nbytes: int
    error: float
    planned: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """By how much the outputs of the best uniform recipe are further off than those of what was chosen.

    `difference` of their errors, with the ends of its 95 % interval over the examples, `n` of them; 0 where the best
    uniform recipe is what was chosen. `how` says what was judged, in words.
    """

    uniform: Candidate | None
    difference: float
    low: float
    high: float
    n: int
    how: str


class OutputJudge:
    """Tells how far the outputs of compressed networks are from the dense one's, on some examples.

    Batch norms are re-estimated on the same examples first: that takes no labels, and what it mends is no reason to
    prefer one recipe to another.

    Raises:
        DataError: for data that is none, holds NaN, or does not fit the model, naming the batch.
    """

    def __init__(
        self, model: nn.Module, data: object, examples: int, stopped: Watch = never, patience: float | None = None
    ) -> None:
        self.model, self.data, self._stopped = model, data, stopped
        self._subset = unlabelled_examples(data, stopped, patience, samples=examples)
        self._batches = list(self._prepared())
        if not self._batches:
            raise DataError("the data is empty: there is no batch to compare outputs on")
        self.recalibrates = bool(batch_norms(model))
        network = copied(model).eval()
        self._dense = self._outputs(network)
        if not bool(torch.isfinite(self._dense).all()):
            raise DataError("the model's outputs on the data are not all finite: there is nothing to compare with")
        spread = float((self._dense - self._dense.mean(0)).square().sum(1).mean())
        self._spread = spread or float(self._dense.square().sum(1).mean()) or 1.0
        # what the dense network computes with the statistics of these examples, for layers changed one at a time
        self._dense_on_batch = self._outputs(network, on_batch=True) if self.recalibrates else self._dense

    @property
    def n(self) -> int:
        """The number of examples."""
        return len(self._dense)

    def example(self) -> object:
        """Return one example, as the model takes it."""
        return first_example(self._batches[0])

    def errors(self, small: CompressedModel) -> Floats:
        """Return the error of a compressed model's outputs on each example, shape (n,)."""
        assert small.model is not None
        network = small.model.eval()
        if self.recalibrates:
            recalibrate(network, self._subset, cancelled=self._stopped)
        return self._errors(self._outputs(network), self._dense)

    def sensitivities(self, small: CompressedModel, names: Sequence[str], relative: Floats) -> Floats:
        """Return how much each layer's relative error moves the outputs: their error with that layer alone compressed.

        It is measured as `small` compresses the layer, and divided by the layer's relative error, shape (layers,).
        """
        network, state = copied(self.model).eval(), small.state_dict()
        write, own = writer(network), dict(self.model.named_parameters(remove_duplicate=False))
        found = []
        for name, error in zip(names, relative.tolist(), strict=True):
            write(name, state[name])
            moved = self._errors(self._outputs(network, on_batch=self.recalibrates), self._dense_on_batch).mean()
            write(name, own[name])
            found.append(moved / error if error > 0 else 0.0)
        return np.array(found)

    def _errors(self, outputs: Tensor, dense: Tensor) -> Floats:
        # Weights that are pruned or rounded make outputs smaller, all by about the same factor, which decides nothing:
        # the class that is largest is so at any scale. With it, plans are chosen that classify worse.
        energy = float(outputs.square().sum())
        scale = max(float((outputs * dense).sum()), 0.0) / energy if energy > 0 else 0.0
        errors: Floats = ((scale * outputs - dense).square().sum(1) / self._spread).double().numpy()
        # what is not finite any more is further off than anything
        return np.nan_to_num(errors, nan=1e9, posinf=1e9)

    def _prepared(self) -> Iterator[Batch]:
        device = device_of(self.model)
        for number, raw in enumerate(unlabelled(self._subset.data), start=1):
            with batch_named(number):
                batch = prepared(raw, self.model, device, labelled=False)
                refuse_not_finite(batch)
            yield batch

    def _outputs(self, network: nn.Module, on_batch: bool = False) -> Tensor:
        """Return the outputs on all examples, float32 ``[n, …]`` flattened; on the batch's own statistics if asked."""
        found = []
        with torch.no_grad(), recalibrating(network) if on_batch else eval_mode(network):
            for number, batch in enumerate(self._batches, start=1):
                if self._stopped():
                    raise Cancelled("cancelled while candidates were compared")
                with batch_named(number):
                    output = only_prediction(call(network, batch.args, batch.kwargs))
                    if output is None:
                        raise DataError("the model returns several tensors, and none is called logits: wrap it")
                found.append(output.float().flatten(1).cpu())
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Judged:
    """A candidate with its error on each example, and the exact figures of its layers."""

    candidate: Candidate
    errors: Floats
    estimate: Estimate


def judged(
    judge: OutputJudge, look: Sketch, name: str, recipe: Recipe, planned: bool, budget: int | None
) -> Judged | None:
    """Return what becomes of a candidate, or None if its file, counted to the byte, does not fit the budget."""
    example = (look.channels or judge.example()) if recipe.removes_channels else None
    small = compress(judge.model, recipe, sketch=look, example=example)
    if small.estimate is None or (budget is not None and small.nbytes > budget):
        return None
    errors = judge.errors(small)
    return Judged(Candidate(name, recipe, small.nbytes, float(errors.mean()), planned), errors, small.estimate)


def scored(
    model: nn.Module | CompressedModel,
    eval_data: object,
    metric: MetricLike,
    train_data: object = None,
    stopped: Watch = never,
    patience: float | None = None,
) -> Score:
    """Return what `evaluate` says of a model; with `train_data`, its own batch norms are recalibrated, not a copy's.

    Raises:
        Cancelled: when `stopped` says so, which is asked before every batch.
        DataError: see `evaluate`.
    """
    network, provenance = runnable(model)
    if train_data is not None:
        examples = unlabelled_examples(train_data, stopped, patience)
        provenance = recalibrate(network, examples, cancelled=stopped)
    *_, last = scores(network, eval_data, metric, cancelled=stopped, patience=patience)
    return last if provenance is None else replace(last, provenance=provenance)


def compare(found: Sequence[Judged], judge: OutputJudge) -> tuple[Candidate, Comparison]:
    """Return the candidate of the least error, and how it compares with the best uniform recipe."""
    best = min(found, key=lambda each: each.candidate.error)
    uniform = min(
        (each for each in found if not each.candidate.planned), key=lambda each: each.candidate.error, default=None
    )
    norms = ", batch norm recalibrated on them" if judge.recalibrates else ""
    how = f"least error of the outputs among {len(found)} recipes on {judge.n:,} examples without labels{norms}"
    if uniform is None:
        return best.candidate, Comparison(None, 0.0, 0.0, 0.0, judge.n, how)
    apart = uniform.errors - best.errors
    draws = np.random.default_rng(0).integers(len(apart), size=(_RESAMPLES, len(apart)))
    low, high = np.quantile(apart[draws].mean(1), [0.025, 0.975])
    difference = float(apart.mean())
    return best.candidate, Comparison(uniform.candidate, difference, float(low), float(high), judge.n, how)
