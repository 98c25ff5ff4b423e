"""Measured memory: what a process that runs a model has in RAM, and which layers' outputs take how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from ..analysis.model_summary import STYLE, bytes_text, html_rows
from ..analysis.open_model_tensors_and_channel_axes import open_model
from ..analysis.run_model_seeded_macs_and_memory import preserve_rng_state, profile_forward
from ..analysis.tensor_ops_threads_and_cpu_kernel import never
from ..argument_checks import public
from ..evaluation.evaluate_and_metrics import runnable
from .race import Contestant, checked_contestants, made_ready, processor_name
from .race_and_memory_worker import MemoryJob
from .run_in_worker_process import run_job

_RUNS = 3


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What one model takes in a process of its own, in bytes; None where the system does not tell (only Linux does).

    Args:
        name: of the model.
        imported: resident once the runtime is imported, before the model.
        loaded: resident once the model is loaded.
        ran: resident after three runs.
        peak: the most that was resident while it ran.
        activations: the most bytes of inputs and results alive at one moment of the forward pass, counted, not
            measured; None of a file, whose runtime does not tell.
        outputs: bytes of each layer's output, by its name, in forward order; empty for a file.
    """

    name: str
    imported: int | None
    loaded: int | None
    ran: int | None
    peak: int | None
    activations: int | None
    outputs: Mapping[str, int]

    @property
    def added(self) -> int | None:
        """Bytes that the model and three runs added to those of the runtime."""
        return None if self.ran is None or self.imported is None else self.ran - self.imported


@dataclass(frozen=True, slots=True, repr=False)
class Memory:
    """What models take in RAM; what `memory` returns.

    Args:
        runtime, version: what ran them.
        threads: how many threads it had.
        models: in the order they were given.
        machine: the processor's name.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.results.Memory("torch", "2.13.0", 1, (), "a processor").models
        ()
    """

    runtime: str
    version: str
    threads: int
    models: tuple[ModelMemory, ...]
    machine: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values, which `from_dict` reads.

        Example:
            >>> import shrinkwidget as sw
            >>> sw.results.Memory("torch", "2.13.0", 1, (), "a processor").to_dict()["models"]
            []
        """
        return asdict(self) | {"models": [asdict(model) for model in self.models]}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Memory:
        """Return what `to_dict` told.

        Example:
            >>> import shrinkwidget as sw
            >>> told = sw.results.Memory("torch", "2.13.0", 1, (), "a processor").to_dict()
            >>> sw.results.Memory.from_dict(told).runtime
            'torch'
        """
        return cls(**{**found, "models": tuple(ModelMemory(**model) for model in found["models"])})

    def __repr__(self) -> str:
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *rows)
        ]
        return "\n".join([self._headline(), *(f"  {line}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        return (
            f'<div class="shrinkwidget-size">{STYLE}<strong>{escape(self._headline())}</strong>'
            f'<div class="layers">{html_rows(*self._table())}</div></div>'
        )

    def _headline(self) -> str:
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"Memory of a fresh process for each model: {self.runtime} {self.version}, {threads}, this machine"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        head = ["", "imported", "loaded", f"after {_RUNS} runs", "added in all", "peak", "peak activations, counted"]
        rows = []
        for model in self.models:
            figures = (model.imported, model.loaded, model.ran, model.added, model.peak, model.activations)
            rows.append([model.name, *("unknown" if n is None else _signed(n) for n in figures)])
        return head, rows


def _signed(nbytes: int) -> str:
    return bytes_text(nbytes) if nbytes >= 0 else f"-{bytes_text(-nbytes)}"


@public()
def memory(models: Mapping[str, Contestant], x: object, *, runtime: str | None = None, threads: int = 1) -> Memory:
    """Measure what models take in RAM, each in a fresh process: after import, after load, after three runs, the peak.

    The peak of the activations and the output of every layer are counted beside it, of modules (see `summary`).

    >>> import torch, shrinkwidget as sw
    >>> found = sw.performance.memory({"dense": sw.demo.model()}, torch.rand(1, 1, 8, 8))
    >>> found.models[0].activations, found.models[0].outputs["head"]
    (24832, 40)

    Args:
        models: by name, as `race` takes its contestants; one is enough.
        x: one input, as `summary` takes it.
        runtime, threads: see `race`.

    Raises:
        ArgumentError, ModelError, DataError, FileError, MissingPackageError: see `race`.
    """
    # One process for each: freed memory is seldom given back to the system, so a second model would look free.
    checked_contestants("memory", models, 1, threads=threads)
    sent = made_ready("memory", models, runtime, x, [None])
    found = []
    for name, source in sent.models.items():
        job = MemoryJob(sent.runtime, threads, {name: source}, sent.inputs, sent.imports, _RUNS)
        (told,) = run_job(job, never)
        activations, outputs = _counted(models[name], x) if sent.runtime == "torch" else (None, {})
        facts = {step: told[step] for step in ("imported", "loaded", "ran", "peak")}
        found.append(ModelMemory(name, **facts, activations=activations, outputs=outputs))
    return Memory(sent.runtime, sent.version, threads, tuple(found), processor_name())


def _counted(model: object, x: object) -> tuple[int, dict[str, int]]:
    module, _ = runnable(model)
    with preserve_rng_state():
        profile = profile_forward(module, open_model(module, only_to_look=True).entries, x)
    # Leaves only: the output of a block is that of the last layer in it.
    layers = [name for name in profile.order if name and not any(module.get_submodule(name).children())]
    return profile.peak, {name: profile.outputs[name] for name in layers if name in profile.outputs}
