"""What is tried on every architecture, each step held against a reference of its own and not only against a crash."""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

import shrinkwidget as sw
from shrinkwidget.errors import ShrinkError

from .architectures import Architecture

RECIPES: Final = {
    "nothing": sw.Recipe(),
    "90 %": sw.Recipe(sparsity=0.9),
    "4 bits": sw.Recipe(bits=4),
    "2:4, 8 bits": sw.Recipe(structure="2:4", bits=8),
    "80 %, 3 bits, groups of 32": sw.Recipe(sparsity=0.8, bits=3, granularity=32),
}
STEPS: Final = ("summary", "sketch", "compress", "save", "load", "evaluate", "retrain", "fold", "transfer")
_TRAINED: Final = sw.Recipe(sparsity=0.8, bits=4)
_NORMS: Final = (nn.modules.batchnorm._BatchNorm,)
_FEW_BYTES: Final = 256
"""A codebook or a mask may be some bytes off in the estimate; on models of a few kB that is more than 0.1 %."""


class WrongError(Exception):
    """A step gave a result that the reference contradicts."""


class NotApplicableError(Exception):
    """There is nothing to do: no batch norm to fold, no classes to teach."""


@dataclass
class Row:
    """What became of one architecture.

    `verdicts` maps each step to "yes", "5/5", "–" (does not apply), "no" (refused) or "WRONG"; `reasons` says why, for
    all but "yes".
    """

    architecture: Architecture
    layers: int = 0
    parameters: int = 0
    verdicts: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def check(architecture: Architecture) -> Row:
    """Try every step on one architecture."""
    torch.manual_seed(0)
    model = architecture.build().eval()
    data = architecture.data()
    row = Row(architecture, parameters=sum(p.numel() for p in model.parameters()))
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}

    def tried(step: str, action: Callable[[], object]) -> None:
        try:
            action()
        except NotApplicableError as error:
            row.verdicts[step], row.reasons[step] = "–", str(error)
        except ShrinkError as error:
            row.verdicts[step], row.reasons[step] = "no", str(error)
        except Exception as error:  # noqa: BLE001 - a crash is a verdict here
            row.verdicts[step], row.reasons[step] = "WRONG", f"{type(error).__name__}: {error}"
        else:
            row.verdicts[step] = "yes"

    tried("summary", lambda: _summary(model, data[0], row))
    _each_recipe(architecture, model, data[0], row)
    tried("evaluate", lambda: _evaluate(architecture.task, model, data))
    tried("retrain", lambda: _retrain(architecture, model, data))
    tried("fold", lambda: _fold(model, data[0]))
    tried("transfer", lambda: _transfer(architecture.task, model, data))
    after = model.state_dict()
    if changed := [name for name, value in before.items() if not _same(value, after[name])]:
        row.verdicts["summary"], row.reasons["summary"] = "WRONG", f"the user's {changed[0]!r} was changed"
    return row


def inputs_of(batch: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return how a batch is given to the model, without its labels where it takes none."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    assert isinstance(batch, tuple)
    return (batch[0],), {}


def output_of(model: nn.Module, batch: object) -> Tensor:
    """Run a model and return what it predicts."""
    args, kwargs = inputs_of(batch)
    with torch.no_grad():
        found = model(*args, **kwargs)
    logits: Tensor = found if isinstance(found, Tensor) else found.logits
    return logits


def _summary(model: nn.Module, batch: object, row: Row) -> None:
    args, kwargs = inputs_of(batch)
    size = sw.summary(model, kwargs or args)
    row.layers = size.depth
    if not size.macs:
        raise WrongError("no multiply-accumulates were counted")
    if not _views(model) and size.safetensors != (written := len(save(_without_ties(model)))):
        raise WrongError(f"a plain .safetensors file has {written} bytes, summary says {size.safetensors}")


def _without_ties(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict with each memory once, under the name that comes first."""
    first: dict[tuple[int, int], str] = {}
    for name, value in model.state_dict().items():
        first.setdefault((value.data_ptr(), value.numel() or id(value)), name)
    return {name: value.contiguous() for name, value in model.state_dict().items() if name in first.values()}


def _views(model: nn.Module) -> bool:
    """Tell whether parameters share memory without being the same tensor, or are computed from others."""
    spans = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    parametrized = any(hasattr(m, "parametrizations") or hasattr(m, "weight_orig") for m in model.modules())
    return parametrized or sum(spans.values()) != sum(p.nbytes for p in model.parameters())


def _each_recipe(architecture: Architecture, model: nn.Module, batch: object, row: Row) -> None:
    """Sketch, compress, save and load by every recipe; a cell counts those that are right."""
    steps = {"sketch": 0, "compress": 0, "save": 0, "load": 0}
    wrong: set[str] = set()
    for name, recipe in RECIPES.items():
        step = "sketch"
        try:
            for step in _one_recipe(architecture, model, batch, recipe):
                steps[step] += 1
            continue
        except ShrinkError as error:
            step, reason = _after(step, steps), str(error)
        except Exception as error:  # noqa: BLE001
            step, reason = _after(step, steps), f"{type(error).__name__}: {error}"
            wrong.add(step)
        row.reasons.setdefault(step, f"{name}: {reason}")
    for step, right in steps.items():
        row.verdicts[step] = "WRONG" if step in wrong else f"{right}/{len(RECIPES)}"


def _after(step: str, steps: Mapping[str, int]) -> str:
    """Return the step that failed: the first that got no further than its predecessor."""
    order = list(steps)
    return next((later for later in order[1:] if steps[later] < steps[order[order.index(later) - 1]]), step)


def _one_recipe(architecture: Architecture, model: nn.Module, batch: object, recipe: sw.Recipe) -> Iterator[str]:
    """Yield each step when it is done and found right."""
    sketch = sw.sketch(model)
    estimate = sw.estimate(sketch, recipe)
    yield "sketch"
    small = sw.compress(model, recipe)
    exact, size = small.estimate, small.nbytes
    assert exact is not None
    assert small.model is not None
    if abs(estimate.nbytes - size) > max(_FEW_BYTES, 1e-3 * size):
        raise WrongError(f"estimated {estimate.nbytes} bytes, exactly {size}")
    if math.isnan(output_of(small.model, batch).float().sum()):
        raise WrongError("the compressed model gives NaN")
    if recipe == sw.Recipe() and not torch.equal(output_of(small.model, batch), output_of(model, batch)):
        raise WrongError("a recipe that does nothing changed the outputs")
    yield "compress"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.safetensors")
        small.save(path)
        if path.stat().st_size != size:
            raise WrongError(f"the file has {path.stat().st_size} bytes, nbytes says {size}")
        yield "save"
        fresh = sw.load(path, into=architecture.build().eval()).model
    assert fresh is not None
    if not torch.equal(output_of(fresh, batch), output_of(small.model, batch)):
        raise WrongError("the loaded model's outputs are not the compressed model's")
    yield "load"


def _evaluate(task: str, model: nn.Module, data: list[Any]) -> None:
    language = task in ("next token", "masked token", "sequence to sequence")
    score = sw.evaluate(model, data, "perplexity" if language else "accuracy")
    expected = _perplexity(model, data) if language else _accuracy(task, model, data)
    if not math.isclose(score.value, expected, rel_tol=1e-4):
        raise WrongError(f"{score.metric} {score.value:.6g}, the reference says {expected:.6g}")


def _perplexity(model: nn.Module, data: list[Any]) -> float:
    """Return exp of the model's own loss, its mean over all tokens that count."""
    total = count = 0.0
    for batch in data:
        with torch.no_grad():
            loss = model(**batch).loss
        labels = batch["labels"]
        n = int((labels[:, 1:] if _shifts(model, batch, loss) else labels).ne(-100).sum())
        total, count = total + n * loss.item(), count + n
    return math.exp(total / count)


def _shifts(model: nn.Module, batch: dict[str, Any], loss: Tensor) -> bool:
    """Tell whether the model's own loss compares every position with the next label."""
    logits = output_of(model, batch)
    unshifted = F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"].flatten())
    return not math.isclose(unshifted.item(), loss.item(), rel_tol=1e-4)


def _accuracy(task: str, model: nn.Module, data: list[Any]) -> float:
    right = count = 0
    for batch in data:
        targets = batch["labels"] if isinstance(batch, Mapping) else batch[1]
        found = output_of(model, batch)
        correct = (found > 0.5) == targets.bool() if task == "binary" else found.argmax(1) == targets
        right, count = right + int(correct.sum()), count + correct.numel()
    return right / count


def _retrain(architecture: Architecture, model: nn.Module, data: list[Any]) -> None:
    small = sw.compress(model, _TRAINED)
    loss: Any = "cross_entropy"
    if architecture.task == "binary":
        loss = F.binary_cross_entropy
    result = sw.retrain(
        small, data, None, sw.methods.FineTune(epochs=1, lr=0.01), options=sw.methods.TrainingOptions(loss=loss)
    )
    assert result.model is not None
    assert result.estimate is not None
    assert small.estimate is not None
    for old, new in zip(small.encoded.values(), result.encoded.values(), strict=True):
        if old.keep is not None and (new.keep is None or not torch.equal(old.keep, new.keep)):
            raise WrongError(f"the mask of {old.name!r} did not hold")
    weights = result.state_dict()
    if all(torch.equal(value, weights[name]) for name, value in small.state_dict().items()):
        raise WrongError("nothing was learnt")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trained.safetensors")
        if result.save(path) != result.nbytes:
            raise WrongError("the file of the retrained model has another size than nbytes")
        fresh = sw.load(path, into=architecture.build().eval()).model
    assert fresh is not None
    if not torch.equal(output_of(fresh, data[0]), output_of(result.model.eval(), data[0])):
        raise WrongError("the file of the retrained model loads to other outputs")


def _fold(model: nn.Module, batch: object) -> None:
    if not any(isinstance(m, _NORMS) for m in model.modules()):
        raise NotApplicableError("it has no batch norm")
    norms = copy.deepcopy(model)
    for module in norms.modules():  # statistics as after training: those of a fresh network hide a wrong fold
        if isinstance(module, _NORMS) and module.running_mean is not None and module.running_var is not None:
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    args, kwargs = inputs_of(batch)
    folded = sw.fold_batchnorm(norms, kwargs or args)
    if not _close(output_of(folded, batch), output_of(norms, batch)):
        raise WrongError("the folded network gives other outputs")


def _transfer(task: str, model: nn.Module, data: list[Any]) -> None:
    if task != "classify":
        raise NotApplicableError("it does not tell classes of examples apart")
    few = [
        {**b, "labels": b["labels"] % 3}
        if isinstance(b, Mapping)
        else (b[0], b[1] % 3)  # three classes in place of five
        for b in data
    ]
    found = sw.transfer(model, few, strategy=sw.methods.LinearProbe(epochs=1))
    batch = {k: v for k, v in few[0].items() if k != "labels"} if isinstance(few[0], Mapping) else few[0]
    shape = tuple(output_of(found.model.eval(), batch).shape)
    if shape[-1] != 3:
        raise WrongError(f"the new head's outputs have the shape {shape}, not 3 classes")


def _same(a: Tensor, b: object) -> bool:
    return isinstance(b, Tensor) and torch.equal(a.nan_to_num(), b.nan_to_num())


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-4 * b.abs().max())
