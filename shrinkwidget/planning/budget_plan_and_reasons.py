"""`BudgetPlan`: the recipe that was found for a budget, what it comes to, and why each layer got what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from ..analysis.estimate_class_and_packed_file_header import Estimate, compared
from ..errors import layer_label
from ..evaluation.evaluate_and_metrics import Score
from ..performance.race import Race
from ..recipe_and_method_registry import Recipe
from .budgets import UNITS, Measure
from .output_error_of_candidates import Candidate, Comparison


@dataclass(frozen=True, slots=True)
class LayerReason:
    """What a plan gives one layer of n weights, and why not less or more.

    `error` is its Σ (w − effective w)² / Σ w², estimated. `gained` is by how much its last step lessened what the plan
    minimises (`BudgetPlan.explain` says what that is), for each kB, and `forgone` by how much its next would. None
    where there is nothing less, or nothing more, that the layer may have.
    """

    name: str
    n: int
    sparsity: float
    bits: int
    nbytes: int
    error: float
    gained: float | None
    forgone: float | None


@dataclass(frozen=True, slots=True)
class NextStep:
    """What a plan would do with more bytes: `change` of one layer, which makes the file `nbytes` larger."""

    layer: str
    change: str
    nbytes: int

    def __str__(self) -> str:
        return f"{self.layer} ({self.change}), {self.nbytes:,} bytes"


@dataclass(frozen=True, slots=True)
class Condition:
    """What a recipe may take beside bytes of a file, and takes: of ``"macs"``, or of ``"ram"``."""

    measure: Measure
    most: int
    takes: int

    def __str__(self) -> str:
        return f"{self.takes:,} of {self.most:,} {UNITS[self.measure]}"


@dataclass(frozen=True)
class BudgetPlan:
    """The recipe that `plan` found for a budget, what it comes to, and why.

    Args:
        recipe: what `compress`, `recover` and all others take.
        budget: bytes that the packed file may have.
        estimate: what a sketch tells of the recipe; its bytes are exact.
        layers: what each layer gets, and why; layers under `Keep` are not among them.
        price: by how much the last step taken in turn, whichever layer it was of, lessened what the plan minimises, for
            each kB; None for the smallest file there is, and for a uniform recipe.
        candidates: with data, all recipes that were tried, the best first.
        comparison: with data, how it compares with the best uniform recipe of its size, and on what.
        nbytes_entropy_coded: bytes of the entropy-coded file, where the budget is of those.
        score, dense: where the budget is a loss of accuracy, what was measured of the plan, and of the dense model.
        of: what the budget is of: ``"file"``, ``"download"``, ``"macs"``, ``"ram"``, or ``"speed"``.
        points: where the budget is a loss of accuracy, the percentage points that were asked for.
        next_step: the first step that did not fit, and why bytes are left; None where there is none, and for a uniform
            recipe.
        conditions: multiply-accumulates and bytes of RAM, where the budget says something of them.
        race: where the budget is of speed, the plan, ``"plan"``, against the dense model.
        filled: how many steps were taken out of turn, smaller ones that filled what the last in turn left.
        pending: how many candidates are to be tried yet, of a run's progress; or were not, where it was stopped.
        stopped: whether it was stopped before all were tried.

    It can be given wherever a recipe is taken.

    Example:
        >>> import shrinkwidget as sw
        >>> found = sw.plan(sw.demo.model(), "64 kB")
        >>> found.nbytes <= found.budget, found.nbytes == sw.compress(sw.demo.model(), found.recipe).nbytes
        (True, True)
    """

    recipe: Recipe
    budget: int
    estimate: Estimate
    layers: tuple[LayerReason, ...]
    price: float | None
    candidates: tuple[Candidate, ...] = ()
    comparison: Comparison | None = None
    nbytes_entropy_coded: int | None = None
    score: Score | None = None
    dense: Score | None = None
    of: str = "file"
    points: float | None = None
    next_step: NextStep | None = None
    conditions: tuple[Condition, ...] = ()
    race: Race | None = None
    filled: int = 0
    pending: int = 0
    stopped: bool = False

    def __recipe__(self) -> Recipe:
        return self.recipe

    @property
    def nbytes(self) -> int:
        """Bytes of the packed file."""
        return self.estimate.nbytes

    @property
    def left(self) -> int:
        """How much of the budget is left: bytes, of the file or entropy-coded, multiply-accumulates, or RAM."""
        if self.of in UNITS:
            return self.budget - self.conditions[0].takes
        return self.budget - (self.nbytes if self.nbytes_entropy_coded is None else self.nbytes_entropy_coded)

    def layer(self, name: str) -> LayerReason:
        """Return what one layer gets, by its name with or without ``.weight``.

        Raises:
            KeyError: if it is not planned.

        Example:
            >>> import shrinkwidget as sw
            >>> head = sw.plan(sw.demo.model(), "64 kB").layer("head")
            >>> head.n, head.nbytes < 4 * head.n, head.gained > head.forgone
            (640, True, True)
        """
        for layer in self.layers:
            if name in (layer.name, layer_label(layer.name)):
                return layer
        raise KeyError(name)

    def to_rows(self) -> list[dict[str, Any]]:
        """Return a dict for every layer that was planned: rows of a table, or of a DataFrame.

        Example:
            >>> import shrinkwidget as sw
            >>> list(sw.plan(sw.demo.model(), "64 kB").to_rows()[0])
            ['layer', 'n', 'sparsity', 'bits', 'nbytes', 'error', 'gained', 'forgone']
        """
        return [
            {"layer": layer_label(layer.name)} | {f.name: getattr(layer, f.name) for f in fields(layer)[1:]}
            for layer in self.layers
        ]

    def explain(self) -> str:
        """Return why each layer got what it did, as a table in plain text.

        Example:
            >>> import shrinkwidget as sw
            >>> print(sw.plan(sw.demo.model(), "64 kB").explain())
            63,... of 64,000 bytes, ... left: the next step, ... (...), ... bytes, does not fit.
            Gains are in relative error ..., for each kB. The last step gained 0.0...
            <BLANKLINE>
              layer           weights  sparsity  bits   bytes  error  last step gained  next would gain
              stem                144 ...
        """
        about = [f"{self._fit()}{self._left()}."]
        widths = _table([("width", "channels", "left"), *self._widths()]) if self.recipe.removes_channels else []
        about += [] if self.race is None else map(str, self.race.warnings)
        if self.of in (*UNITS, "speed"):
            return "\n".join([*about, *self._candidates(), "", *widths])
        if self.price is not None:
            by = self.candidates[0].name.partition(",")[0] if self.candidates else "relative errors"
            unit = _COSTS[by]
            about.append(f"Gains are in {unit}, for each kB. The last step gained {self.price:.4g}.")
        if self.filled:
            many = "1 smaller step" if self.filled == 1 else f"{self.filled} smaller steps"
            about.append(f"What it left was filled with {many} that gained less.")
        about += self._candidates()
        parts = self.estimate.parts()
        rows = [
            ("layer", "weights", "sparsity", "bits", "bytes", "error", "last step gained", "next would gain"),
            *(
                (
                    layer_label(layer.name),
                    f"{layer.n:,}",
                    f"{100 * layer.sparsity:.0f} %",
                    str(layer.bits),
                    f"{layer.nbytes:,}",
                    f"{layer.error:.3f}",
                    "–" if layer.gained is None else f"{layer.gained:.4f}",
                    "–" if layer.forgone is None else f"{layer.forgone:.4f}",
                )
                for layer in self.layers
            ),
            *(
                (name, "", "", "", f"{nbytes:,}", "", "", "")
                for name, nbytes in (
                    ("not compressed", parts["uncompressed"]),
                    ("header", parts["header"]),
                    ("packed file", self.nbytes),
                )
            ),
        ]
        return "\n".join([*about, "", *_table(rows), *([""] if widths else []), *widths])

    def _candidates(self) -> list[str]:
        """Return what was tried, in lines."""
        if self.comparison is None:
            return []
        tried = [f"  {each.name}: {each.nbytes:,} bytes, error {each.error:.4f}" for each in self.candidates]
        doubts = [f"T{told[1:]}." for told in self._doubts()]
        stopped = [self._to_go()] * (self.pending > 0)
        return [*_compared(self.candidates[0], self.comparison), *doubts, "", *tried, *stopped]

    def _doubts(self) -> list[str]:
        """Return what to know of a plan whose outputs have little to do with the dense network's."""
        error = self.candidates[0].error if self.comparison is not None else 0.0
        if error <= _FAR:
            return []
        return [f"the outputs are far from the dense network's (error {error:.2f}): retrain it before you judge it"]

    def _widths(self) -> list[tuple[str, ...]]:
        return [(name, str(before), str(now)) for name, (before, now) in (self.estimate.widths or {}).items()]

    def _fit(self) -> str:
        speed = [] if self.race is None else [f"faster than the dense model: {self.race.text('plan')}"]
        also = ", ".join([*map(str, self.conditions), *speed])
        if self.of in (*UNITS, "speed"):
            return also
        if self.points is not None and self.score is not None and self.dense is not None:
            return (
                f"{self.nbytes:,} bytes for at most {self.points:g} points of {self.score.metric}: {self.score.text}, "
                f"dense {self.dense.text}, n={self.score.n:,}"
            )
        if self.nbytes_entropy_coded is not None:
            return f"{self.nbytes_entropy_coded:,} of {self.budget:,} bytes, entropy-coded"
        return f"{self.nbytes:,} of {self.budget:,} bytes{', ' * bool(also)}{also}"

    def _to_go(self) -> str:
        one = self.pending == 1
        if not self.stopped:
            return f"It is not done: {self.pending} candidate{'s' * (not one)} to go."
        return f"It was stopped: {self.pending} {'candidate was' if one else 'candidates were'} not tried."

    def _left(self) -> str:
        """Return how many bytes of the budget are left, and which step they are too few for."""
        if self.of in (*UNITS, "speed") or self.points is not None:
            return ""
        step = "" if self.next_step is None else f": the next step, {self.next_step}, does not fit"
        return f", {self.left:,} left{step}"

    def __repr__(self) -> str:
        found = self.estimate
        size = "" if self.of == "file" else f"; packed file {found.nbytes:,} bytes"
        ratio = f"{compared(found.ratio)} {found.original_nbytes:,} bytes"
        bits = sorted({layer.bits for layer in self.layers})
        span = f"{bits[0]} bits" if len(bits) == 1 else f"{bits[0]} to {bits[-1]} bits"
        channels = f"{self.recipe.channels:.0%} of the channels gone, " if self.recipe.removes_channels else ""
        about = f"{self._fit()}{self._left()}{size}; {ratio}, {channels}{found.sparsity:.1%} sparse, {span}"
        if self.pending:
            many = f"{self.pending} candidate{'s' * (self.pending != 1)}"
            about += f"; stopped, {many} not tried" if self.stopped else f"; {many} to go"
        about += "".join(f"; {told}" for told in self._doubts())
        about += "".join(f"; {told}" for told in (() if self.race is None else self.race.warnings))
        return f"BudgetPlan({about}; see .explain())"


_FAR: Final = 0.5
"""Error of the outputs from which on a plan says so: the demo network is right in 88 % at 0.3, 74 at 0.6, 41 at 0.9."""

_COSTS: Final = {
    "relative errors": "relative error Σ (w − effective w)² / Σ w²",
    "squared errors": "squared error Σ (w − effective w)²",
    "errors between relative and squared": "relative error times √(Σ w²)",
    "measured sensitivity": "relative error, weighted by how much that of the layer moves the outputs",
}
"""What the steps of each plan are sorted by."""


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return [f"  {line.rstrip()}" for line in aligned]


def _compared(best: Candidate, comparison: Comparison) -> list[str]:
    """Return in sentences what was judged, and how the best uniform recipe compares."""
    how = f"Chosen by the {comparison.how}: {best.name}, error {best.error:.4f}."
    if comparison.uniform is None:
        return [how]
    if not best.planned:
        return [how, "No plan of this size is nearer to the dense network than a uniform recipe."]
    sure = "" if comparison.low > 0 else ", which may be chance"
    uniform = (
        f"The best uniform recipe of this size, {comparison.uniform.recipe!r}, has {comparison.uniform.error:.4f}: "
        f"{comparison.difference:.4f} more (95 % interval {comparison.low:.4f} to {comparison.high:.4f}{sure})."
    )
    return [how, uniform]
