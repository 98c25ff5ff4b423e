"""Keep masks, quantization grids and codebooks in force while a network trains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..analysis.model_tensors import ModelTensors, TensorEntry, open_model
from ..analysis.parallel_tensor_ops import nearest
from ..compressed_model import CompressedModel
from ..compression.encode_decode_and_pack import Grid, LayerWeights, fit, layer_of, on_grid, uncompressed_value
from ..errors import TrainingError
from ..recipe_and_method_registry import Plan, Recipe


def has_codebook(plan: Plan) -> bool:
    """Tell whether a layer has a codebook that is trained."""
    return plan.bits <= 8 and plan.coder.shares_values


class SharedWeights:
    """Which value of its codebook every weight of a layer has.

    The gradient of each becomes the mean over all that share its value: the projection of the gradient onto what a
    codebook can express. (The paper takes the sum, and a smaller rate.) Any optimizer that treats weights alike then
    moves them alike, and no copy of the codebook has to be kept beside the weights.
    """

    def __init__(self, layer: LayerWeights, device: torch.device) -> None:
        survivors = layer.survivors().float()
        codebook = fit(layer).codebook
        if codebook is None:
            raise ValueError(f"{layer.plan.quantizer!r} shares values, but has no codebook")
        pruned = len(codebook)  # the cell of those that are
        cells = torch.full((len(layer.flat),), pruned, dtype=torch.int64, device=layer.flat.device)
        cells[slice(None) if layer.keep is None else layer.keep] = nearest(survivors, codebook).long()
        cells = layer.layout.restored(cells, layer.shape).reshape(-1)  # in the parameter's own order
        self._cells = cells.to(device)  # a layer on Metal is looked at on the CPU
        self._codebook = torch.cat([codebook, codebook.new_zeros(1)]).to(device)
        self._counts = torch.bincount(self._cells, minlength=pruned + 1).clamp(min=1)  # never divided by zero
        # by cell, the place of the first weight in it, which `tie_` copies from
        # "amin" gives the same first weight whatever order a GPU's threads take.
        self._first = torch.zeros_like(self._counts).scatter_reduce_(
            0, self._cells, torch.arange(len(cells), device=device), "amin", include_self=False
        )

    def start_(self, weights: Tensor) -> None:
        """Give every weight its value of the codebook."""
        weights.copy_(self._codebook[self._cells].view(weights.shape))

    def average_(self, gradient: Tensor) -> None:
        """Replace the gradient of every weight by the mean over those that share its value."""
        # The mean, not the sum as in the paper: the sum grows with the cell, and a rate that suits one layer would not
        # suit another. What is pruned is a cell of its own, whose gradient nobody uses.
        sums = torch.zeros_like(self._codebook).index_add_(0, self._cells, gradient.reshape(-1).float())
        gradient.copy_((sums / self._counts)[self._cells].view(gradient.shape))

    def tie_(self, weights: Tensor) -> None:
        """Give all that share a value that of the first: vector and scalar instructions may differ in the last bit."""
        weights.copy_(weights.reshape(-1)[self._first][self._cells].view(weights.shape))


@dataclass(slots=True, eq=False)
class _ConstrainedLayer:
    """One compressible tensor; `keep` and its like in numbers, `mask`, are of its shape, None while all is kept.

    `kept_rows` is `keep` as codes are made: row by row.
    """

    entry: TensorEntry
    plan: Plan
    parameter: nn.Parameter
    keep: Tensor | None = None
    mask: Tensor | None = None
    kept_rows: Tensor | None = None
    shared: SharedWeights | None = None
    beyond: Tensor | None = None

    @property
    def rounded(self) -> bool:
        """Whether the network computes with other weights than those that are trained."""
        return (self.plan.bits < 32 or self.entry.dtype == torch.float64) and not has_codebook(self.plan)

    def layer(self) -> LayerWeights:
        """Return the weights with their survivors marked, ready for rounding."""
        return layer_of(self.entry, self.kept_rows, self.plan)

    def effective(self) -> Tensor:
        """Return the weights its file will hold, and note in `beyond` which of the trained ones lie off the grid."""
        whole = self.layer()
        grid = fit(whole)
        beyond = _beyond(whole, grid)
        self.beyond = None if beyond is None else beyond.to(self.parameter.device)
        return on_grid(whole, grid).to(self.parameter.device)


class WeightConstraints:
    """Every compressible layer of a network that is not under Keep, as a recipe will have it.

    Masks: after every step `hold` puts pruned weights, and what the optimizer remembers of them, back to zero.

    Linear grids, 16 bits: the network computes with `effective` weights, the very ones `compress` makes of the latent
    weights that are trained; the gradient at the one is taken for that at the other (the straight-through estimator;
    Bengio et al., arXiv 1308.3432).

    Codebooks: survivors that share a value share their gradient, so that they go on sharing one (`SharedWeights`).
    """

    def __init__(self, network: nn.Module, recipe: Recipe, masks: Sequence[Tensor | None]) -> None:
        weights = open_model(network)
        parameters = dict(network.named_parameters(remove_duplicate=False))
        plans = recipe.resolve(e.name for e in weights.layers)
        items = zip(weights.layers, plans, masks, strict=True)
        self._uncompressed, self._kept_bits = weights.uncompressed, recipe.uncompressed_bits
        self._all = sum(entry.numel for entry in weights.layers)
        self._layers = [_ConstrainedLayer(e, plan, parameters[e.name]) for e, plan, _ in items if not plan.keep]
        self.prune([keep for keep, plan in zip(masks, plans, strict=True) if not plan.keep])

    @torch.no_grad()
    def prune(self, masks: Sequence[Tensor | None]) -> None:
        """Take other masks, bool of the shape of each layer, None where all is kept."""
        for layer, keep in zip(self._layers, masks, strict=True):
            layer.keep = None if keep is None else keep.to(layer.parameter.device)
            layer.mask = None if layer.keep is None else layer.keep.to(layer.parameter.dtype)
            layer.kept_rows = None if layer.keep is None else layer.entry.layout.rows(layer.keep)
            if layer.keep is not None:
                layer.parameter.masked_fill_(~layer.keep, 0)
        self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Make an epoch's beginning and end unambiguous: survivors are not zero, and codebooks are what they are.

        A survivor that is exactly zero would rank with the pruned ones; it becomes the smallest normal number.
        """
        masked = any(layer.keep is not None for layer in self._layers)
        for layer in self._layers:
            if has_codebook(layer.plan):
                layer.shared = SharedWeights(layer.layer(), layer.parameter.device)
                layer.shared.start_(layer.parameter)
            if masked:
                zero = layer.parameter == 0
                survivors = zero if layer.keep is None else zero & layer.keep
                # Not the smallest number there is: denormal ones are slow on CPUs, and some devices take them for zero.
                layer.parameter.masked_fill_(survivors, torch.finfo(layer.parameter.dtype).smallest_normal)

    @property
    def masked(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The weights of every pruned layer, and which of them are kept."""
        return [(layer.parameter, layer.keep) for layer in self._layers if layer.keep is not None]

    @property
    def moved(self) -> bool:
        """Whether weights lie in other memory than when this was made, as they do after ``model.to(…)``."""
        return any(layer.entry.load().data_ptr() != layer.parameter.data_ptr() for layer in self._layers)

    @property
    def rounded(self) -> list[nn.Parameter]:
        """The weights of every layer that computes with others than those that are trained."""
        return [layer.parameter for layer in self._layers if layer.rounded]

    def to_effective(self) -> list[Tensor]:
        """Give the network the weights its file will hold, and return those that are trained, for `to_latent`."""
        latent = [parameter.detach().clone() for parameter in self.rounded]
        try:
            values = [layer.effective() for layer in self._layers if layer.rounded]
            # Through `.data`: autograd refuses to write to a leaf that wants a gradient, and the version of the
            # parameter is to count only what others write (`custom_loop` looks at it).
            _copy([parameter.data for parameter in self.rounded], values)
        except BaseException:  # out of memory, Ctrl-C
            self.to_latent(latent)
            raise
        return latent

    def to_latent(self, latent: list[Tensor]) -> None:
        """Give the network back the weights that are trained."""
        _copy([parameter.data for parameter in self.rounded], latent)

    @contextmanager
    def effective(self) -> Iterator[None]:
        """Let the network compute, inside, with the weights its file will hold."""
        latent = self.to_effective()
        try:
            yield
        finally:
            self.to_latent(latent)

    @contextmanager
    def as_saved(self) -> Iterator[None]:
        """Let the network compute, inside, as its file will: `effective`, and what is kept rounded to its bits."""
        # `effective` leaves biases, norms and buffers alone: they are trained in 32 bits, and rounded once, at the end.
        kept = [entry.load() for entry in self._uncompressed]
        before = [tensor.clone() for tensor in kept]
        rounded = [uncompressed_value(entry, self._kept_bits) for entry in self._uncompressed]
        try:
            _copy(kept, rounded)
            with self.effective():
                yield
        finally:
            _copy(kept, before)

    @torch.no_grad()
    def straight_through(self) -> None:
        """Turn the gradients at the effective weights into those of the weights that are trained.

        Where a range clips, nothing is gained by going further out, and the gradient that would is zeroed.
        """
        for layer in self._layers:
            gradient = layer.parameter.grad
            if gradient is None or gradient.is_sparse:  # frozen, or an embedding's, which lists a few rows
                continue
            if layer.shared is not None:
                layer.shared.average_(gradient)
            elif layer.beyond is not None:
                gradient.masked_fill_(layer.beyond & (gradient * layer.parameter < 0), 0)

    @torch.no_grad()
    def hold(self, optimizer: Optimizer) -> None:
        """Put pruned weights, and the optimizer's memory of them, back to zero; keep shared values shared."""
        held: list[Tensor] = []
        masks: list[Tensor] = []
        for layer in self._layers:
            if layer.mask is None:
                continue
            # What the optimizer remembers per weight (momentum, averages) would move pruned weights again. Left out is
            # what cannot be masked beside the parameter: quantized state, a class of its own, and state offloaded to
            # another device.
            parameter = layer.parameter
            states = optimizer.state[parameter].values() if parameter in optimizer.state else ()
            plain = [x for x in states if type(x) is Tensor and x.device == parameter.device]
            plain = [x for x in plain if x.shape == parameter.shape]
            held += [parameter, *plain]
            masks += [layer.mask] * (1 + len(plain))
        if held:  # in one call: a small network's step takes less time than a call for each of its tensors
            torch._foreach_mul_(held, masks)
        for layer in self._layers:
            if layer.shared is not None:
                layer.shared.tie_(layer.parameter)

    def sparsity(self) -> float:
        """Return the fraction of the compressible weights that is pruned, counted on the weights.

        Raises:
            TrainingError: if a pruned weight is not zero.
        """
        pruned = 0
        for layer in self._layers:
            if layer.keep is not None:
                pruned += int((~layer.keep).sum())
                if bool(layer.parameter.detach()[~layer.keep].any()):  # an optimizer or a loss of the user's
                    raise TrainingError(f"a pruned weight of {layer.entry.name!r} is not zero: something else wrote it")
        return pruned / self._all


def masks_of(source: CompressedModel, weights: ModelTensors) -> list[Tensor | None]:
    """Return which weights of every layer a compressed model keeps, bool of its shape, None where it keeps all."""
    encoded = source.encoded
    masks = [encoded[entry.name].mask if entry.name in encoded else None for entry in weights.layers]
    return without_untaught(masks, weights, source.recipe)


def without_untaught(masks: Sequence[Tensor | None], weights: ModelTensors, recipe: Recipe) -> list[Tensor | None]:
    """Return the masks without those of layers that nobody asked to prune and that are zero throughout.

    Such a layer has not learnt yet (LoRA begins so): let it.
    """
    plans = recipe.resolve(entry.name for entry in weights.layers)
    untaught = [not plan.sparsity and plan.structure.sparsity is None for plan in plans]
    return [
        None if new and keep is not None and not keep.any() else keep for keep, new in zip(masks, untaught, strict=True)
    ]


def _copy(to: list[Tensor], values: list[Tensor]) -> None:
    if to:  # foreach operations refuse empty lists
        torch._foreach_copy_(to, values)


def _beyond(layer: LayerWeights, grid: Grid) -> Tensor | None:
    """Return which weights lie outside of their grid, bool of the layer's shape; None where none can."""
    if layer.plan.bits > 8:
        return None
    found = []
    for piece in layer.pieces():
        beyond = layer.plan.coder.beyond(piece, grid)
        if beyond is None:
            return None
        found.append(layer.groups.flat(beyond))
    return layer.layout.restored(torch.cat(found), layer.shape)
