"""The structures there are: which sets of weights may be pruned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import pad

from ..analysis.quantization_group_histograms import times_beaten
from ..analysis.tensor_ops_threads_and_cpu_kernel import NM_PATTERNS
from ..errors import RecipeError
from ..recipe_and_method_registry import Structure, register


@register
@dataclass(frozen=True, repr=False)
class Unstructured(Structure):
    """Any weight may go.

    Example:
        >>> import shrinkwidget as sw
        >>> sw.Recipe(sparsity=0.9, structure=sw.methods.Unstructured())  # the default
        Recipe(sparsity=0.9)
    """

    kind: ClassVar[str] = "unstructured"
    label: ClassVar[str] = "unstructured"
    title: ClassVar[str] = "any weight may be pruned"


@dataclass(frozen=True, repr=False)
class NM(Structure):
    """Of every `m` neighbours along a row, the `n` most important are kept; a recipe calls it ``"2:4"``.

    Example:
        >>> import shrinkwidget as sw
        >>> recipe = sw.Recipe(bits=4, structure=sw.methods.NM(1, 4))
        >>> recipe, recipe.sparsity
        (Recipe(bits=4, structure='1:4'), 0.75)
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if self.kind not in NM_PATTERNS:
            raise RecipeError(f"NM({self.n!r}, {self.m!r}) must be one of {', '.join(NM_PATTERNS)}")

    def __repr__(self) -> str:
        return f"NM({self.n}, {self.m})"

    @property
    def kind(self) -> str:  # type: ignore[override]  # the tag of an instance
        """Its tag, such as ``"2:4"``."""
        return f"{self.n}:{self.m}"

    @property
    def label(self) -> str:  # type: ignore[override]
        """What the page calls it."""
        return self.kind

    @property
    def title(self) -> str:  # type: ignore[override]
        """What it does, in a phrase."""
        largest = "largest" if self.n == 1 else f"{self.n} largest"
        return f"{self.kind} keeps the {largest} of every {self.m} neighbours: always {self.sparsity:.0%} sparse"

    @property
    def sparsity(self) -> float:
        """The sparsity it fixes, 1 − n/m."""
        return 1 - self.n / self.m

    def keeps(self, scores: Tensor) -> Tensor:
        """Return which weights are kept: of equal scores the later ones, of a shorter last block min(n, length)."""
        width = scores.shape[1]
        # Padding loses against every score, which is 0 at least. Blocks are laid out as columns, so that the m places
        # of all blocks are m long rows, which compare in few operations.
        padded = pad(scores, (0, -width % self.m), value=-1.0)
        beaten = times_beaten(list(padded.view(-1, self.m).t().contiguous()))
        return (beaten < self.n).t().reshape(padded.shape)[:, :width]

    def to_json(self) -> str:
        """Return its tag."""
        return self.kind


register(NM, **{pattern: dict(n=n, m=m) for pattern, (n, m) in NM_PATTERNS.items()})
