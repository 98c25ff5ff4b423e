"""What a transfer returns: the model, its score, its history, and what the training cost."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ..analysis.open_model_tensors_and_channel_axes import open_model
from ..analysis.run_model_seeded_macs_and_memory import ForwardProfile, profile_forward
from ..compressed_model import CompressedModel, compress
from ..evaluation.batches_predictions_and_labels import Batch
from ..evaluation.evaluate_and_metrics import Score
from ..recipe_and_method_registry import Recipe

# A layer that trains multiplies once forward, once for its inputs' gradients and once for its weights'.
_WITH_BACKWARD = 3


@dataclass(frozen=True, slots=True)
class TrainingCost:
    """What a training cost.

    Args:
        examples: labelled examples the optimizer learned from, each counted as often as it was seen.
        steps: of the optimizer.
        macs: multiply-accumulates of training, tests left out; a pass backward counts as two forward, and a frozen
            layer has none.
        seconds: from beginning to end, tests among them.

    Example:
        >>> import shrinkwidget as sw
        >>> cost = sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), epochs=2).cost
        >>> cost.steps, cost.examples
        (2, 100)
    """

    examples: int
    steps: int
    macs: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values.

        Example:
            >>> import shrinkwidget as sw
            >>> cost = sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), epochs=2).cost
            >>> sorted(cost.to_dict())
            ['examples', 'macs', 'seconds', 'steps']
        """
        return {"examples": self.examples, "steps": self.steps, "macs": self.macs, "seconds": self.seconds}

    def __repr__(self) -> str:
        return f"{self.examples:,} examples seen in {self.steps:,} steps, {giga(self.macs)} MACs, {self.seconds:.1f} s"


def giga(macs: int) -> str:
    """Return a count as people say it: ``"1.2 G"``."""
    for size, unit in ((10**12, " T"), (10**9, " G"), (10**6, " M")):
        if macs >= size:
            return f"{macs / size:.3g}{unit}"
    return f"{macs:,}"


@dataclass(frozen=True, slots=True)
class CostModel:
    """Multiply-accumulates of one forward pass per example, by the module that does them."""

    by_module: Mapping[str, float]

    @classmethod
    def of(cls, forward: ForwardProfile, rows: int) -> CostModel:
        """Take them from a forward pass of so many examples."""
        found: dict[str, float] = {}
        for name, macs in (*((n.rpartition(".")[0], m) for n, m in forward.macs.items()), *forward.loose.items()):
            found[name] = found.get(name, 0.0) + macs / rows
        return cls(found)

    def training(self, relative: Mapping[str, float]) -> float:
        """Return what one example costs where these relative rates train the network."""
        return sum(m * (_WITH_BACKWARD if relative.get(name, 1.0) else 1) for name, m in self.by_module.items())

    def head(self, name: str) -> float:
        """Return what one example costs where only the head is run, and trains."""
        return self.by_module.get(name, 0.0) * _WITH_BACKWARD

    def below(self, head: str) -> float:
        """Return what one example costs on its way to the head."""
        return sum(macs for name, macs in self.by_module.items() if name != head)


def profile_cost(network: nn.Module, batch: Batch) -> ForwardProfile:
    """Run a network once on a batch, and return what it did."""
    return profile_forward(network, open_model(network, only_to_look=True).entries, batch.kwargs or batch.args)


@dataclass(frozen=True, eq=False, repr=False)
class TransferResult:
    """A model that has learnt another task.

    Args:
        model: of the class of the one given, with a new head.
        head: the head's name; of several their names with commas between.
        provenance: how its weights were obtained.
        score: on `eval_data`; None without.
        history: an entry for every epoch, as of a `TrainingRun`; ``round`` counts the strategy's stages.
        cost: examples, steps, multiply-accumulates and seconds.
        compressed: the same model compressed, where the one given was.
        baseline: the same network trained from scratch on the same data, where that was asked for.

    Example:
        >>> import shrinkwidget as sw
        >>> other = sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), epochs=2)
        >>> other.head, other.provenance
        ('head', 'transferred, new head trained 2 epochs')
        >>> other.cost.steps
        2
    """

    model: nn.Module
    head: str
    provenance: str
    score: Score | None
    history: list[dict[str, Any]]
    cost: TrainingCost
    compressed: CompressedModel | None = None
    baseline: TransferResult | None = None

    @property
    def nbytes(self) -> int:
        """The bytes of the file `save` writes."""
        return self.packed.nbytes

    @property
    def changed_tensor(self) -> str:
        """The first tensor of `model` that is no longer what `save` writes; see `CompressedModel.changed_tensor`."""
        return "" if self.compressed is None else self.compressed.changed_tensor

    @property
    def packed(self) -> CompressedModel:
        """The model as `save` writes it: compressed as the one given was; a dense one uncompressed."""
        if self.compressed is not None:
            return self.compressed
        return replace(compress(self.model, Recipe()), provenance=self.provenance)

    def save(self, path: str | os.PathLike[str], entropy: bool = False) -> int:
        """Write the model into a file that `load` reads, and return its bytes; see `CompressedModel.save`.

        Example:
            >>> import shrinkwidget as sw
            >>> sparse = sw.compress(sw.demo.model(), sparsity=0.9)
            >>> other = sw.transfer(sparse, sw.demo.few(per_class=5), epochs=2)
            >>> other.save("other.safetensors") == other.compressed.nbytes
            True
        """
        return self.packed.save(path, entropy)

    def __repr__(self) -> str:
        how = self.provenance if self.score is None else repr(self.score)
        packed = "" if self.compressed is None else f"; {self.compressed.nbytes:,} bytes"
        beside = "" if self.baseline is None else f"; beside it {self.baseline!r}"
        return f"TransferResult({type(self.model).__name__}, {how}; {self.cost!r}{packed}{beside})"

    def _repr_html_(self) -> str:
        """Return a small table of what was reached and spent, beside training from scratch if that was done."""
        columns = [self] if self.baseline is None else [self, self.baseline]
        titles = "".join(f"<th>{html.escape(column.provenance)}</th>" for column in columns)
        figures = [column._figures() for column in columns]
        rows = "".join(
            f"<tr><td>{name}</td>{''.join(f'<td>{html.escape(column[name])}</td>' for column in figures)}</tr>"
            for name in figures[0]
            if any(column[name] for column in figures)
        )
        return (
            '<div class="shrinkwidget"><table style="margin: 0.5em 0; font-variant-numeric: tabular-nums">'
            f"<tr><th>{html.escape(type(self.model).__name__)}</th>{titles}</tr>{rows}</table></div>"
        )

    def _figures(self) -> dict[str, str]:
        """Return what was reached and spent, in words, by what it is; "" for what there is none of."""
        last = self.history[-1] if self.history else {"loss": None, "train": None}
        loss, train = last["loss"], last["train"]
        percent = self.score is not None and self.score.percent
        trained = "" if train is None else f"{100 * train:.1f} %" if percent else f"{train:.4g}"
        return {
            "test": "" if self.score is None else repr(self.score).removesuffix(f", {self.score.provenance}"),
            "training loss, last epoch": "" if loss is None else f"{loss:.4g}",
            "training score, last epoch": trained,
            "epochs": f"{len(self.history):,}",
            "examples seen": f"{self.cost.examples:,}",
            "steps": f"{self.cost.steps:,}",
            "MACs in training": giga(self.cost.macs),
            "seconds": f"{self.cost.seconds:.1f}",
            "bytes": "" if self.compressed is None else f"{self.compressed.nbytes:,}",
        }
