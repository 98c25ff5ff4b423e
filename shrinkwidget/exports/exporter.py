"""What a target of an export has to do, the register of targets, and what an export returns."""

from __future__ import annotations

import io
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from torch import Tensor, nn

from ..argument_checks import checked_fields, meant
from ..errors import ArgumentError, MissingPackageError, nearest, quoted

if TYPE_CHECKING:
    from ..compression.encode_layers_and_packed_model import EncodedTensor, PackedModel, TensorRecord
    from ..evaluation.evaluate_and_metrics import Score

Progress = Callable[[str, float], None]
"""Told what is being done, and what share of the whole export is done, 0…1."""


@dataclass(frozen=True, slots=True)
class ExportedTensor:
    """How one compressed tensor is held in an exported file.

    Args:
        name: of the tensor, as the model has it.
        stored: how the file holds it, such as ``"uint4, 64 scales"``.
        exact: whether what the runtime computes with equals the effective weights bit for bit.
    """

    name: str
    stored: str
    exact: bool


@dataclass(frozen=True, slots=True, repr=False)
class Exported:
    """What `CompressedModel.export` returns: the file, how it holds the weights, and what its runtime made of it.

    Args:
        path: the file; a target of several files gives the one that is opened.
        target: the format, such as ``"onnx"``.
        runtime: what ran it, with its version; "" for a format that nothing here runs.
        nbytes: bytes of all its files.
        packed_nbytes: bytes of the packed file of the same model.
        tensors: the compressed tensors that the network uses.
        difference: largest difference between outputs of the runtime and of torch on the example, as a share of the
            largest output; NaN where nothing ran.
        score: the score on the test data, computed in the runtime; None without test data.
        torch_score: the same in torch.
        notes: what a user should know: operators that run apart from the rest, a batch size that is fixed.

    Example:
        >>> import shrinkwidget as sw
        >>> small, (images, labels) = sw.compress(sw.demo.model(), bits=4), sw.demo.data("test")
        >>> exported = small.export("digits.onnx", example=images[:2])
        >>> exported.exact
        '14 of 14 tensors exactly'
        >>> exported.nbytes < 1.07 * small.nbytes
        True
    """

    path: Path
    target: str
    runtime: str
    nbytes: int
    packed_nbytes: int
    tensors: tuple[ExportedTensor, ...]
    difference: float = math.nan
    score: Score | None = None
    torch_score: Score | None = None
    notes: tuple[str, ...] = ()

    @property
    def exact(self) -> str:
        """How many tensors the runtime computes with bit for bit: ``"14 of 14 tensors exactly"``."""
        return f"{sum(tensor.exact for tensor in self.tensors)} of {len(self.tensors)} tensors exactly"

    def __repr__(self) -> str:
        more = self.nbytes / self.packed_nbytes - 1
        parts = [f"{self.path.name}, {self.nbytes:,} bytes ({more:+.1%} of the packed file)", self.exact]
        if self.score is not None:
            parts += [f"{self.runtime}: {self.score}", f"torch: {self.torch_score}"]
        elif not math.isnan(self.difference):
            parts.append(f"{self.runtime} differs from torch by {self.difference:.1g} of the largest output")
        return f"Exported({'; '.join([*parts, *self.notes])})"


@dataclass(frozen=True, eq=False)
class ExportJob:
    """One model on its way into a file of another format.

    Args:
        packed: the model as its own file holds it.
        model: a module with exactly those weights, on the CPU and in eval mode; None where the target needs no graph.
        args, kwargs: the example, two rows at least if it has a batch dimension.
        calibrate: an iterable of inputs ``(args, kwargs)`` to find the ranges of activations on; None for none.
        tell: takes what is being done and the share that is done; raises `Cancelled` when the export is cancelled.
    """

    packed: PackedModel
    model: nn.Module | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    calibrate: Callable[[], Iterator[tuple[tuple[Any, ...], dict[str, Any]]]] | None = None
    tell: Progress = field(kw_only=True)

    def coded(self) -> Iterator[tuple[TensorRecord, EncodedTensor]]:
        """Yield the record and the codes of every compressed tensor, in model order."""
        from ..compression.encode_layers_and_packed_model import EncodedTensor

        for record, item in self.packed.items():
            if isinstance(item, EncodedTensor):
                yield record, item


@dataclass(frozen=True, slots=True)
class Written:
    """What an exporter has made of a model.

    Args:
        files: the content of each file by its suffix, the one that is opened first.
        stored: how each compressed tensor is stored, by name.
        notes: what a user has to know of it.
        values: what the file calls values and weights, by the names torch.export gives them.
    """

    files: Mapping[str, bytes]
    stored: Mapping[str, str]
    notes: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)


class OpenedExport(ABC):
    """An exported file as its runtime sees it: read again from the disk."""

    fixed_batch: int | None = None
    """The only number of rows it takes; None for any."""
    largest_batch: int | None = None
    """The largest number of rows it takes at once; None for any."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Return the compressed tensors, by name, as the runtime computes with them."""

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the model's output tensors, in order, for its input tensors."""
        raise NotImplementedError

    def trace(self, inputs: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return what flows between operators, by the names torch.export gives; for errors. Empty if unknown."""
        del inputs
        return {}


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep loggers and stderr of other libraries from telling of packages that nobody needs, and what fails in them."""
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@dataclass(frozen=True)
class Exporter(ABC):
    """A target of exports. A subclass is a frozen dataclass under `register_exporter`; its fields are its settings.

    Example:
        >>> from shrinkwidget.exports.exporter import EXPORTERS
        >>> "onnx" in EXPORTERS, EXPORTERS["onnx"].suffixes
        (True, ('.onnx',))
    """

    target: ClassVar[str]
    """Its name, and that of its extra."""
    suffixes: ClassVar[tuple[str, ...]]
    """Ends of paths that mean it."""
    packages: ClassVar[tuple[str, ...]]
    """What has to be installed, as it is imported; the last one is the runtime."""
    megabytes: ClassVar[int]
    """What the extra adds to an environment with torch."""
    needs_graph: ClassVar[bool] = True
    """Whether it writes what the network computes, not only its tensors; it then needs an example."""
    runs: ClassVar[bool] = True
    """Whether there is a runtime here that runs the file."""
    activation_bits: ClassVar[tuple[int, ...]] = ()
    """Bits that activations can have, beside floats."""
    finds_ranges_as_it_runs: ClassVar[bool] = False
    """Whether the runtime finds the ranges of such activations on each input, so that no data shows them before."""

    @abstractmethod
    def write(self, job: ExportJob, activations: int | None) -> Written:
        """Return the files of a model.

        Raises:
            ModelError: for a tensor that the target cannot hold exactly, naming it and what to do.
        """

    @abstractmethod
    def open(self, path: Path, job: ExportJob, written: Written) -> OpenedExport:
        """Return the file at a path, opened by its runtime."""

    @classmethod
    def require(cls) -> str:
        """Return the runtime with its version.

        Raises:
            MissingPackageError: if a package is not installed, naming the extra that brings it, and its size.
        """
        for package in cls.packages:
            # Asked before it is imported: an import that fails halfway leaves modules behind, and takes seconds.
            if find_spec(package) is None:
                raise MissingPackageError(
                    f"an export to {cls.target} needs {package}: pip install "
                    f'"shrinkwidget[{cls.target}]" (about {cls.megabytes} MB)'
                )
        try:
            return f"{cls.packages[-1]} {version(cls.packages[-1])}"
        except PackageNotFoundError:
            return cls.packages[-1]


E_ = TypeVar("E_", bound=type[Exporter])
EXPORTERS: Final[dict[str, type[Exporter]]] = {}
"""The targets there are, by name."""


def register_exporter(exporter: E_) -> E_:
    """Make a target known under its name and its suffixes; a class decorator."""
    EXPORTERS[exporter.target] = checked_fields(ArgumentError)(exporter)
    return exporter


def exporter_for(path: Path, target: str | None, settings: Mapping[str, Any]) -> Exporter:
    """Return the exporter that a target's name means, or a path's suffix, with its settings.

    Raises:
        ArgumentError: for a target or a suffix that nobody registered, and for an unknown setting.
    """
    if target is None:
        chosen = next((e for e in EXPORTERS.values() if path.suffix.lower() in e.suffixes), None)
        if chosen is None:
            known = ", ".join(f"{suffix} ({e.target})" for e in EXPORTERS.values() for suffix in e.suffixes)
            raise ArgumentError(
                f"nothing is known to export to {quoted(path.name)} by its suffix: give target=, or one of {known}"
            )
        return chosen(**settings)
    name = meant(target, EXPORTERS)
    if name is None:
        raise ArgumentError(
            f"there is no target {quoted(target)}{nearest(str(target), EXPORTERS) or '.'} "
            f"The targets: {', '.join(EXPORTERS)}"
        )
    return EXPORTERS[name](**settings)


def export_settings() -> list[str]:
    """Return the names of all settings that targets have."""
    return [f.name for exporter in EXPORTERS.values() for f in fields(exporter)]
