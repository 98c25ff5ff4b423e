"""Transfer-learning strategies: which layers train, stage by stage; LoRA; and training from scratch, to compare."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..analysis.open_model_tensors_and_channel_axes import plain_weights
from ..argument_checks import checked_fields
from ..errors import ModelError, TrainingError
from ..training.methods_schedule_options_and_progress import OptimizerLike, Schedule, Stage, check_rate, check_whole
from ..training.training_loop_losses_and_weight_constraints import TrainingBatches
from .transfer_task_and_classifier_head import TransferTask


@dataclass(frozen=True, slots=True)
class LayerGroups:
    """Every module of a network, by name.

    Args:
        heads: the new ones, nearly always one.
        below: all others with parameters of their own, the first to run first; one that is never called itself counts
            as running with the module it is in.
        position: of every module, when it first runs.
        containers: modules without parameters of their own that have others in them.
        updates: the low-rank updates among them.
    """

    heads: tuple[str, ...]
    below: tuple[str, ...]
    position: Mapping[str, int]
    containers: frozenset[str]
    updates: frozenset[str]

    @classmethod
    def of(cls, network: nn.Module, order: Sequence[str], heads: tuple[str, ...]) -> LayerGroups:
        """List the modules of a network, given the order of their first calls."""
        modules = dict(network.named_modules())
        # the order of definition would do for most networks; what counts is the order in which they run
        called = {name: place for place, name in enumerate(order)}
        position = {}
        for name in modules:
            runs = name  # one that is never called (a container, a parametrization) counts as running with its parent
            while runs and runs not in called:
                runs = runs.rpartition(".")[0]
            position[name] = called.get(runs, 0)
        owners = [
            name for name, module in modules.items() if list(module.parameters(recurse=False)) and name not in heads
        ]
        containers = {name for name in modules if name not in owners and list(modules[name].children())}
        updates = {name for name, module in modules.items() if isinstance(module, LowRankUpdate)}
        below = tuple(sorted(owners, key=position.__getitem__))
        return cls(heads, below, position, frozenset(containers), frozenset(updates))

    def only(self, *trained: str) -> dict[str, float]:
        """Return the relative rates that freeze all but some modules."""
        return {name: float(name in trained) for name in self.position}

    def all_at(self, share: float) -> dict[str, float]:
        """Return the relative rates that give all but the head a share of its rate."""
        return {name: 1.0 if name in self.heads else share for name in self.position}

    def top(self, count: int, share: float) -> dict[str, float]:
        """Return the relative rates that train the head, and the last `count` layers below it at a share of its rate.

        What has no parameters (dropout, norms without any) trains with what runs before it.
        """
        if not count:
            return self.only(*self.heads)
        # Layers with parameters are counted, and all other modules follow them: a container trains if a layer in it
        # does, anything else if it runs after the first of these layers.
        active = set(self.below[-count:])
        cut = self.position[self.below[-count]]

        def trains(name: str) -> bool:
            if name in self.below:
                return name in active
            if name in self.containers:
                return not name or any(layer.startswith(f"{name}.") for layer in active)
            return self.position[name] >= cut

        return {name: share * trains(name) for name in self.position} | dict.fromkeys(self.heads, 1.0)

    def alone(self, relative: Mapping[str, float]) -> bool:
        """Tell whether nothing but the head trains."""
        return relative == self.only(*self.heads)


@dataclass(frozen=True, slots=True)
class TransferStage:
    """One training of a strategy; `least` is how many examples a step takes where the options say fewer."""

    stage: Stage
    least: int = 1


@runtime_checkable
class Strategy(Protocol):
    """What every strategy is to the engine."""

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return the trainings, one after the other."""

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class LinearProbe:
    """Train the new head alone. The backbone is frozen, in eval mode, its batch-norm statistics too.

    What the backbone makes of every example is computed once and remembered (in memory: an example is as large as what
    goes into the head), so that an epoch costs milliseconds. It is computed again in every epoch where it must be: with
    `TrainingOptions(augment=…)` or a teacher, where the output is made of more than the head's, and where a loss or a
    metric of your own wants other outputs than a tensor.

    Args:
        epochs, lr: the rate falls to zero along half a cosine.
        optimizer: a name or a function, as of a `Schedule`.
        weight_decay: of the optimizers with a name.
        least: examples per step where the options' batch is smaller: what goes into a head is small, and calls to torch
            would cost more than what they compute.

    Example:
        >>> import shrinkwidget as sw
        >>> strategy = sw.methods.LinearProbe(epochs=5, lr=0.02)
        >>> sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), strategy=strategy).provenance
        'transferred, new head trained 5 epochs'
    """

    epochs: int = 100
    lr: float = 0.01
    optimizer: OptimizerLike = "adam"
    weight_decay: float = 0.0
    least: int = 256

    def __post_init__(self) -> None:
        _schedule(self)
        check_whole(self.least, "LinearProbe", "least")

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return its only training."""
        return [TransferStage(_stage(self, layers.only(*layers.heads)), self.least)]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"transferred, new head trained {epochs}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class FullFineTune:
    """Train the head and, at a smaller rate, all below it.

    Args:
        epochs, lr: of the head; the rate falls to zero along half a cosine.
        backbone_lr: of all else, by default a tenth of `lr`.
        optimizer: a name or a function, as of a `Schedule`; a function is given groups of parameters.
        weight_decay: of the optimizers with a name.

    Example:
        >>> import shrinkwidget as sw
        >>> strategy = sw.methods.FullFineTune(epochs=1, lr=0.02, backbone_lr=0.001)
        >>> sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), strategy=strategy).provenance
        'transferred, all fine-tuned 1 epoch'
    """

    epochs: int = 30
    lr: float = 0.02
    backbone_lr: float | None = None
    optimizer: OptimizerLike = "sgd"
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        _schedule(self)
        _share(self.lr, self.backbone_lr, "FullFineTune")

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return its only training."""
        return [TransferStage(_stage(self, layers.all_at(_share(self.lr, self.backbone_lr, "FullFineTune"))))]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"transferred, all fine-tuned {epochs}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class GradualUnfreezing:
    """Train the head first, then unfreeze what is below it, from the top (Howard, Ruder, arXiv 1801.06146).

    The layers, in the order they run, are cut into parts of nearly equal number, one for each stage after the first; in
    the last stage all is trained. Two stages are linear probing, then fine-tuning (Kumar et al., arXiv 2202.10054).

    Args:
        stages: how many, from 2.
        epochs, lr: of every stage but the first, of the head; the rate falls to zero along half a cosine.
        backbone_lr: of what is unfrozen, by default a tenth of `lr`.
        optimizer, weight_decay: as of `FullFineTune`.
        first: the first stage.

    Example:
        >>> import shrinkwidget as sw
        >>> strategy = sw.methods.GradualUnfreezing(stages=2, epochs=1, first=sw.methods.LinearProbe(epochs=5))
        >>> sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), strategy=strategy).provenance
        'transferred, unfrozen in 2 stages, 6 epochs'
    """

    stages: int = 3
    epochs: int = 15
    lr: float = 0.02
    backbone_lr: float | None = None
    optimizer: OptimizerLike = "sgd"
    weight_decay: float = 5e-4
    first: LinearProbe = field(default_factory=LinearProbe)

    def __post_init__(self) -> None:
        _schedule(self)
        _share(self.lr, self.backbone_lr, "GradualUnfreezing")
        if not isinstance(self.stages, int) or self.stages < 2:
            raise TrainingError(f"GradualUnfreezing(stages={self.stages!r}) must be a whole number from 2")
        if not isinstance(self.first, LinearProbe):
            raise TrainingError(f"GradualUnfreezing(first={self.first!r}) must be a LinearProbe(…)")

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return the trainings, each of more layers than the one before."""
        share = _share(self.lr, self.backbone_lr, "GradualUnfreezing")
        # How many layers below the head train in each stage after the first: i-th parts of them, counted from the top.
        counts = [round(len(layers.below) * i / (self.stages - 1)) for i in range(1, self.stages)]
        return [
            *self.first.trainings(layers),
            *(TransferStage(_stage(self, layers.top(count, share))) for count in counts),
        ]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"transferred, unfrozen in {self.stages} stages, {epochs}"


@checked_fields(TrainingError)
@dataclass(frozen=True, slots=True)
class LoRA:
    """Train the head, and beside every frozen weight a product of two thin matrices (LoRA, arXiv 2106.09685).

    In the end the product is added to the weight: the result has the parameters the model had. Biases and norms stay as
    they are, batch norm's statistics too. Under the masks of a pruned model the product is masked.

    Args:
        rank: of the updates.
        alpha: they are multiplied by alpha / rank.
        epochs, lr: the rate falls to zero along half a cosine.
        optimizer, weight_decay: as of `FullFineTune`.

    Example:
        >>> import shrinkwidget as sw
        >>> strategy = sw.methods.LoRA(rank=2, epochs=1)
        >>> sw.transfer(sw.demo.model(), sw.demo.few(per_class=5), strategy=strategy).provenance
        'transferred, updates of rank 2 trained 1 epoch'
    """

    rank: int = 4
    alpha: float = 8.0
    epochs: int = 30
    lr: float = 0.003
    optimizer: OptimizerLike = "adam"
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _schedule(self)
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise TrainingError(f"LoRA(rank={self.rank!r}) must be a whole number from 1")
        if not isinstance(self.alpha, int | float) or not self.alpha > 0:
            raise TrainingError(f"LoRA(alpha={self.alpha!r}) must be a number above 0")

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return its only training."""
        return [TransferStage(_stage(self, layers.only(*layers.heads, *layers.updates)))]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"transferred, updates of rank {self.rank} trained {epochs}"


StrategyName: TypeAlias = Literal["linear_probe", "full_finetune", "gradual_unfreezing", "lora"]

STRATEGIES: Final[Mapping[str, type[Any]]] = {
    "linear_probe": LinearProbe,
    "full_finetune": FullFineTune,
    "gradual_unfreezing": GradualUnfreezing,
    "lora": LoRA,
}
"""The strategies by their names."""


def _schedule(asked: LinearProbe | FullFineTune | GradualUnfreezing | LoRA) -> Schedule:
    """Return the schedule of a strategy's epochs and rate; refuse what it refuses, in the strategy's name."""
    # A cosine to zero: a transfer is short, and ends at its best without anybody choosing an epoch by the test.
    try:
        return Schedule(asked.epochs, asked.lr, asked.optimizer, weight_decay=asked.weight_decay, decay="cosine")
    except TrainingError as error:
        raise TrainingError(str(error).replace("Schedule(", f"{type(asked).__name__}(", 1)) from None


def _stage(asked: LinearProbe | FullFineTune | GradualUnfreezing | LoRA, relative: dict[str, float]) -> Stage:
    schedule = _schedule(asked)
    return Stage(schedule.epochs, schedule.lr_at, schedule, relative=relative)


def _share(lr: float, backbone_lr: float | None, where: str) -> float:
    """Return the backbone's rate as a share of the head's."""
    if backbone_lr is None:
        return 0.1  # as is usual: what was learnt on much data should move less than what begins at random
    check_rate(backbone_lr, where, "backbone_lr")
    return backbone_lr / lr


# How long training from scratch takes where nothing is said: whichever of the two is longer.
_EPOCHS: Final = 30
_STEPS: Final = 300


@dataclass(frozen=True, slots=True)
class FromScratch:
    """Train everything by one schedule."""

    schedule: Schedule

    def trainings(self, layers: LayerGroups) -> Sequence[TransferStage]:
        """Return its only training."""
        return [
            TransferStage(Stage(self.schedule.epochs, self.schedule.lr_at, self.schedule, relative=layers.all_at(1.0)))
        ]

    def words(self, epochs: str) -> str:
        """Return what a provenance says of so many epochs of it."""
        return f"trained from scratch {epochs}"


def default_schedule(task: TransferTask) -> Schedule:
    """Return a schedule that most networks learn with: 30 epochs, or 300 steps where the data is small."""
    steps = TrainingBatches(task.train_data, task.options).steps  # None of a stream: then epochs are all that is known
    epochs = max(_EPOCHS, math.ceil(_STEPS / steps)) if steps else _EPOCHS
    return Schedule(epochs, lr=0.05, decay="cosine", warmup=epochs / 10)


# LoRA: frozen weights, and a low-rank update that trains beside each (arXiv 2106.09685)

_ADAPTED: Final = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRankUpdate(nn.Module):
    """W + alpha/rank · B·A, as a parametrization of W (Hu et al., arXiv 2106.09685, section 4.1).

    A convolution's kernel O×I×… counts as the matrix O×(I·…). A starts random as torch's Linear does, B at zero, so
    that the network begins as it was. Where weights are pruned (`keep`, of the weight's shape), the update is, too.
    """

    keep: Tensor | None
    merged_later = True  # what is being trained is the update, not the weight it makes

    def __init__(self, weight: Tensor, rank: int, alpha: float, keep: Tensor | None) -> None:
        super().__init__()
        rows, columns = len(weight), weight[0].numel()
        self.rank = min(rank, rows, columns)
        self.scale = alpha / rank  # the same in all layers, also where a thin one allows less rank
        self.down = nn.Parameter(weight.new_empty(self.rank, columns))
        self.up = nn.Parameter(weight.new_zeros(rows, self.rank))
        self.register_buffer("keep", keep)
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # what torch's Linear begins with

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, of the weight's shape."""
        update = (self.up @ self.down).view(weight.shape) * self.scale
        return weight + (update if self.keep is None else update * self.keep)


def add_lora(network: nn.Module, heads: tuple[str, ...], rank: int, alpha: float, masks: Mapping[str, Tensor]) -> None:
    """Give every Linear and convolution but the head, transposed ones and shared weights, an update.

    `masks` say by the weight's name where weights are kept.

    Raises:
        ModelError: if there is none.
    """
    owners: dict[int, int] = {}  # a shared weight would get an update from each of the modules that have it
    for _, parameter in network.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    adapted = []
    for name, module in network.named_modules():
        weight: Any = module._parameters.get("weight")
        if name not in heads and isinstance(module, _ADAPTED) and weight is not None and owners[id(weight)] == 1:
            adapted.append((name, module, weight))
    if not adapted:
        raise ModelError(f"LoRA finds no Linear layer or convolution below {heads[0]!r} to update: take FullFineTune()")
    with torch.inference_mode(False):  # parameters made in it could never be trained
        for name, module, weight in adapted:
            keep = masks.get(f"{name}.weight")
            mask = None if keep is None else keep.to(weight)
            parametrize.register_parametrization(module, "weight", LowRankUpdate(weight.detach(), rank, alpha, mask))


def merge_lora(network: nn.Module) -> None:
    """Write every update into its weight: classes, parameters and their order are again what they were."""
    for module in network.modules():
        if isinstance(module, LowRankUpdate):
            module.merged_later = False
    plain_weights(network)
